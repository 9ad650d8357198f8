"""Report B, "Back-propagation tutorial": optimizers, architectures, a prediction."""

import math
from collections.abc import Sequence
from types import MappingProxyType
from typing import Any, Final

from ..optimizers import LABELS, RPROPS
from .fitting import fitted
from .plan import (
    Options,
    Page,
    Result,
    Runs,
    Settings,
    Study,
    Table,
    diverged,
    groups,
    is_reports,
    mean,
    minus,
    number,
    sizes,
    with_spread,
)

# Test accuracy, test loss, training accuracy, training loss.
OPTIMIZERS: Final = MappingProxyType(
    {
        "sgd": (0.9720, 0.1119, 0.9791, 0.0757),
        "adam": (0.9711, 0.1033, 0.9864, 0.0479),
        "rmsprop": (0.9740, 0.1033, 0.9837, 0.0561),
    }
)
FIGURES: Final = MappingProxyType(
    {
        "test accuracy": "test_score",
        "test loss": "test_loss",
        "training accuracy": "train_score",
        "training loss": "train_loss",
    }
)
ARCHITECTURES: Final = MappingProxyType(
    {
        (1, 64): (85.0, 80.0),
        (1, 128): (87.5, 81.5),
        (1, 256): (90.0, 83.5),
        (2, 64): (88.0, 82.25),
        (2, 128): (90.5, 84.5),
        (2, 256): (92.0, 85.5),
        (3, 64): (90.5, 83.0),
        (3, 128): (93.0, 86.5),
        (3, 256): (94.5, 88.25),
    }
)
"""Layers and neurons: training and (middle of the) validation accuracy in percent."""
FULL_BATCH: Final = 20
"""Epochs of the Rprop rules on the full batch for one of the mini-batch optimizers."""


def _plan_optimizers(options: Options) -> list[Settings]:
    epochs = options.count_epochs(5)
    plan = []
    for seed in options.each_seed(3):
        base = options.data | {"hidden": [128], "seed": seed, "keep": ["samples", "confusion", "weights"]}
        for name, lr in (("sgd", 0.01), ("momentum", 0.01), ("adam", 1e-3), ("rmsprop", 1e-3)):
            plan.append(base | {"optimizer": name, "lr": lr, "batch": 32, "epochs": epochs})
        for name in RPROPS:
            plan.append(base | {"optimizer": name, "lr": 1e-3, "batch": 32, "epochs": epochs})
            plan.append(base | {"optimizer": name, "lr": 1e-3, "batch": None, "epochs": FULL_BATCH * epochs})
    return sorted(plan, key=lambda s: s["batch"] is None)


def _label(settings: Settings) -> str:
    name = LABELS[settings["optimizer"]]
    return f"{name}, full batch" if settings["batch"] is None else f"{name}, batch {settings['batch']}"


def _page_optimizers(runs: Runs) -> Page:
    from .. import figures

    rows, compared = [], []
    curves: dict[str, Any] = {"Training loss": {}, "Test accuracy": {}}
    full: dict[str, Any] = {"Training loss": {}, "Test accuracy": {}}
    for (name, batch), members in groups(runs, "optimizer", "batch").items():
        settings = members[0][0]
        results = [result for _, result in members]
        known = OPTIMIZERS.get(name, ()) if batch and is_reports(settings) else ()
        rows.append(
            [
                _label(settings),
                str(settings["epochs"]),
                with_spread(r["test_score"] for r in results),
                *(number(mean(r[key] for r in results)) for key in ("test_loss", "train_score", "train_loss")),
                number(mean(r["seconds"] for r in results), 1),
                *_lowest(results),
                diverged(members),
            ]
        )
        for (what, key), figure in zip(FIGURES.items(), known, strict=False):
            ours = mean(r[key] for r in results)
            compared.append([f"{LABELS[name]}, {what}", number(ours), number(figure), minus(ours, figure)])
        panel = full if batch is None else curves
        label = _label(settings)
        panel["Training loss"][label] = [r["history"]["train_loss"] for r in results]
        panel["Test accuracy"][label] = [r["history"]["test_score"] for r in results]
    heading = [
        "optimizer",
        "epochs",
        "test acc.",
        "test loss",
        "train acc.",
        "train loss",
        "seconds",
        "lowest test loss",
        "at epoch",
        "acc. there",
        "note",
    ]
    return Page(
        [
            Table("Optimizers", heading, rows),
            Table("Beside the report", ["optimizer, figure", "ours", "report", "diff."], compared),
        ],
        [
            f"{sizes(runs[0][0])}, ReLU, softmax with cross-entropy, pixels in 0..1. acc. and loss of the network "
            "after the last epoch, mean ± standard deviation over seeds; train: of at most 10,000 images. lowest test "
            "loss: of any epoch.",
            "The report names neither learning rates nor batch size. Keras' defaults stand here (SGD 0.01, "
            "the others 0.001, batch 32). Its training figures are probably Keras's, means over the last epoch while "
            "it learned; ours are of the network after it, and so a little better.",
            "The Rprop rules are full-batch methods: with batches of 32 signs flip by chance and steps go "
            f"their own way, so they are shown there as a warning. On the full batch they get {FULL_BATCH} "
            "times the epochs, which is one step each; the seconds stand beside.",
        ],
        {
            "loss.png": figures.curves(curves, "Optimizers with mini-batches", logarithmic=["Training loss"]),
            "full_batch.png": figures.curves(
                full, "Rprop on the full batch: one step an epoch", logarithmic=["Training loss"]
            ),
        }
        | sample_figures([run for run in runs if run[0]["optimizer"] == "adam"], "predictions.png"),
        findings=[
            "With these defaults plain SGD is far from the report's 0.972 after 5 epochs, and momentum 0.9 "
            "is at it: the report's SGD was faster than Keras' default. Adam and RMSProp are a few thousandths above "
            "the report's.",
            "On the full batch the Rprop rules' test loss is lowest at epoch 42 to 46 and five to six times that "
            "after 100, while their accuracy still gains 0.005 to 0.016: they grow too sure of their mistakes.",
        ],
    )


def _lowest(results: Sequence[Result]) -> list[str]:
    """Return the lowest test loss of any epoch, the epoch, and the accuracy there."""
    found = []
    for r in results:
        losses = [math.inf if loss is None or loss != loss else loss for loss in r["history"]["test_loss"]]
        at = losses.index(min(losses))
        if math.isfinite(losses[at]):
            found.append((losses[at], at + 1, r["history"]["test_score"][at]))
    return [number(mean(one[i] for one in found), digits) for i, digits in enumerate((4, 0, 4))]


def sample_figures(runs: Runs, name: str) -> dict[str, Any]:
    """Draw the confusion matrix and predicted test images of the first run that did not diverge.

    The images are the first eight and the first eight mistakes; left out where nobody knows their rows and columns.
    """
    from .. import figures
    from .fitting import image_set

    settings, result = next((run for run in runs if "confusion" in run[1]), (None, None))
    if settings is None or result is None:
        return {}
    label = LABELS[settings["optimizer"]]
    made = {"confusion.png": figures.confusion(result["confusion"], f"{label}: confusion matrix of the test part")}
    dataset = image_set(settings["data"], settings.get("data_dir"))
    if dataset.shape is None:
        return made
    shown = []
    for index, guess, probability in result["samples"]:
        true = int(dataset.test_labels[index])
        text = f"predicted {guess}\n({probability:.0%})" + ("" if guess == true else f", is {true}")
        shown.append((dataset.test_images[index].reshape(dataset.shape), text, guess == true))
    below = "" if all(right for _, _, right in shown) else ", and the first mistakes (framed)"
    return {name: figures.images(shown, f"{label} after the last epoch", f"the first test images{below}")} | made


def _plan_architectures(options: Options) -> list[Settings]:
    return [
        options.data
        | {
            "hidden": [neurons] * layers,
            "optimizer": name,
            "lr": 1e-3,
            "batch": batch,
            "seed": seed,
            "epochs": options.count_epochs(5) * (1 if batch else FULL_BATCH),
            "validation": 0.2,
        }
        for name, batch in (("adam", 32), ("irprop+", None))
        for layers in options.of((1, 2, 3), (1, 2))
        for neurons in options.of((64, 128, 256), (64, 128))
        for seed in options.each_seed(2, 1)
    ]


def _page_architectures(runs: Runs) -> Page:
    from .. import figures

    rows, curves = [], {}
    maps: dict[str, list[list[float | None]]] = {}
    layer_counts = sorted({len(s["hidden"]) for s, _ in runs})
    neuron_counts = sorted({s["hidden"][0] for s, _ in runs})
    found, reports = groups(runs, "optimizer", "hidden"), is_reports(runs[0][0])
    for (name, hidden), members in found.items():
        results = [result for _, result in members]
        reported = ARCHITECTURES.get((len(hidden), hidden[0])) if name == "adam" else None
        valid = mean(100 * r["valid_score"] for r in results if r["valid_score"] is not None)
        rows.append(
            [
                f"{LABELS[name]}, {len(hidden)} x {hidden[0]}",
                str(members[0][0]["epochs"]),
                number(mean(100 * r["train_score"] for r in results if r["train_score"] is not None), 2),
                number(valid, 2),
                number(reported and reported[0], 1),
                number(reported and reported[1], 2),
                minus(valid, reported and reported[1], 2),
                diverged(members),
            ]
        )
        if hidden[0] == 128 and name == "adam":
            curves[f"{len(hidden)} hidden"] = [r["history"]["train_loss"] for r in results]
    for name in dict.fromkeys(key[0] for key in found):
        for what, key in (("training", "train_score"), ("validation", "valid_score")):
            maps[f"{LABELS[name]}: {what} accuracy"] = [
                [mean(r[key] for _, r in found[name, (neurons,) * layers]) for neurons in neuron_counts]
                for layers in layer_counts
            ]
    heading = ["network", "epochs", "train %", "valid. %", "report train %", "report valid. %", "diff.", "note"]
    return Page(
        [Table("Architectures", heading, rows)],
        [
            "A fifth of the learning part is the validation part; Adam with batches of 32"
            + (" (report's columns)" if reports else "")
            + f", and iRprop+ on the full batch with {FULL_BATCH} times the epochs."
            + (
                " For validation the report has ranges, such as 81.0 to 82.0 %; its column here holds their middles."
                if reports
                else ""
            ),
            *(
                [
                    "The report's 79 to 88.5 % cannot be MNIST with 5 epochs of the network it describes, which its "
                    "own table of optimizers puts at 97 %: its text on this grid names no data and no settings."
                ]
                if reports
                else []
            ),
        ],
        {
            "grid.png": figures.heat_maps(
                maps,
                [str(count) for count in layer_counts],
                [str(count) for count in neuron_counts],
                "Hidden layers and neurons",
                ("hidden layers", "neurons a layer"),
                digits=4,
            ),
            "loss.png": figures.curves(
                {"Training loss": curves}, "Adam, 128 neurons a layer", logarithmic=["Training loss"]
            ),
        },
        findings=[
            "Every network of Adam is at 96.6 to 97.5 % on the validation part, 9 to 17 points above the report's. "
            "More neurons help, as there; more layers hardly do. 100 steps of iRprop+ on the full batch fit the "
            "training part better than Adam's 7,500 and the validation part by 0.9 to 1.5 points less.",
        ],
        findings_of="1 seed of 2",
    )


STUDIES: Final = (
    Study(
        "b-optimizers",
        "SGD, Adam, RMSProp and the Rprop rules, 784-128-10, 5 epochs",
        11,
        _plan_optimizers,
        fitted,
        _page_optimizers,
        "images",
    ),
    Study(
        "b-architectures",
        "1-3 hidden layers by 64, 128, 256 neurons",
        25,
        _plan_architectures,
        fitted,
        _page_architectures,
        "images",
    ),
)
