"""One training of the NumPy network by its settings, the work of most runs."""

import math
from functools import lru_cache
from pathlib import Path
from time import process_time
from types import MappingProxyType
from typing import Any, Final, NamedTuple

import numpy as np

from .. import datasets, models
from ..datasets import Dataset
from ..network import Array, Network, make_optimizer, train, warm_up
from .augmentation import augmented
from .plan import Result, Settings
from .progress import Recorder
from .stopping import CRITERIA

DEFAULTS: Final = MappingProxyType[str, Any](
    {
        "hidden": [128],
        "activation": "relu",
        "initial": ["glorot"],
        "initial_bias": ["zeros"],
        "optimizer": "adam",
        "lr": 1e-3,
        "batch": None,
        "epochs": 10,
        "l1": 0.0,
        "l2": 0.0,
        "seed": 0,
        "validation": 0.0,
        "stop": [],
        "augment": False,
        "decay": False,
        "noise": 0.1,
        "samples": 1000,
        "bootstrap": 0,
        "keep": [],
    }
)
"""Settings of :func:`fit`. ``batch`` None is the full batch; ``keep``: "confusion", "samples", "weights",
"prediction"; ``validation``: share of the learning part; ``stop``: names of criteria, the training ends when all are
met; ``decay``: lr / (epoch * batches + 1)."""

MEASURED: Final = 10_000
"""Maximum number of training samples (the first) that are evaluated after every epoch; these are never augmented."""


class Split(NamedTuple):
    """Data of one run; x float32 of shape (samples, inputs), y labels or float32 of shape (samples, 1)."""

    x: Array
    y: Array
    valid: tuple[Array, Array]
    test: tuple[Array, Array]


@lru_cache(maxsize=1)
def image_set(name: str, folder: str | None) -> Dataset:
    """Load a data set once a process."""
    return datasets.load(name, None if folder is None else Path(folder))


@lru_cache(maxsize=1)
def _unit(name: str, folder: str | None) -> tuple[Array, Array]:
    """Return learning and test images in 0..1."""
    dataset = image_set(name, folder)
    top = np.float32(dataset.pixel_max)
    return dataset.learn_images.astype(np.float32) / top, dataset.test_images.astype(np.float32) / top


def images(settings: Settings) -> Split:
    """Return the image set with pixels in 0..1; ``validation`` is held out of the learning part by the seed."""
    dataset = image_set(settings["data"], settings.get("data_dir"))
    learn, test = _unit(settings["data"], settings.get("data_dir"))
    labels, test_part = dataset.learn_labels, (test, dataset.test_labels)
    if len(labels) > MEASURED and not dataset.is_mnist:  # only the first are evaluated, which may be of one class
        order = np.random.default_rng(0).permutation(len(labels))
        learn, labels = learn[order], labels[order]
    held_out = int(len(labels) * settings["validation"])
    valid = learn[:0], labels[:0]
    if held_out:
        order = np.random.default_rng(settings["seed"]).permutation(len(labels))
        valid = learn[order[:held_out]], labels[order[:held_out]]
        learn, labels = learn[order[held_out:]], labels[order[held_out:]]
    if settings["augment"]:
        learn, labels = augmented(learn, labels, settings["seed"])
    return Split(learn, labels, valid, test_part)


def franke_function(x: Array, y: Array) -> Array:
    """Evaluate the Franke function on the unit square."""
    parts = (
        0.75 * np.exp(-((9 * x - 2) ** 2) / 4 - (9 * y - 2) ** 2 / 4),
        0.75 * np.exp(-((9 * x + 1) ** 2) / 49 - (9 * y + 1) / 10),
        0.5 * np.exp(-((9 * x - 7) ** 2) / 4 - (9 * y - 3) ** 2 / 4),
        -0.2 * np.exp(-((9 * x - 4) ** 2) - (9 * y - 7) ** 2),
    )
    total: Array = sum(parts[1:], parts[0])
    return total


def franke(settings: Settings) -> Split:
    """Create report E's data: noise 0.2 N(0, 1), a quarter for the test, centred by the training mean.

    ``degree``: monomials x^i y^j up to it instead of x and y.
    """
    rng = np.random.default_rng(settings["seed"])
    x, y = rng.uniform(size=(2, settings["samples"]))
    target = (franke_function(x, y) + 0.2 * rng.normal(size=x.shape))[:, None]
    degree = settings.get("degree")
    if degree is None:
        features = np.stack([x, y], 1)
    else:
        powers = [(i, j) for i in range(degree + 1) for j in range(degree + 1) if i + j]
        features = np.stack([x**i * y**j for i, j in powers], 1)
    cut = int(0.75 * len(x))
    features = features - features[:cut].mean(0)
    target = target - target[:cut].mean()
    return _regression(features, target, cut)


def runge(settings: Settings) -> Split:
    """Create report D's data: 1/(1 + 25 x^2) on [-1, 1] with noise, standardised, a fifth for the test."""
    rng = np.random.default_rng(settings["seed"])
    x = rng.permutation(np.linspace(-1, 1, settings["samples"]))[:, None]
    target = 1 / (1 + 25 * x**2) + settings["noise"] * rng.normal(size=x.shape)
    return _regression((x - x.mean()) / x.std(), (target - target.mean()) / target.std(), int(0.8 * len(x)))


def _regression(x: Array, y: Array, cut: int) -> Split:
    x, y = x.astype(np.float32), y.astype(np.float32)
    return Split(x[:cut], y[:cut], (x[:0], y[:0]), (x[cut:], y[cut:]))


def split(settings: Settings) -> Split:
    """Return the data of a run."""
    return {"franke": franke, "runge": runge}.get(settings["data"], images)(DEFAULTS | settings)


def score(outputs: Array, y: Array) -> float:
    """Compute the accuracy if y are labels, else R2."""
    if y.ndim == 1:
        return float((outputs.argmax(1) == y).mean())
    if not np.isfinite(outputs).all():
        return math.nan
    squares = np.square(outputs - y, dtype=np.float64).sum()  # a tenth of the time of sklearn.metrics.r2_score
    return float(1 - squares / np.square(y - y.mean(dtype=np.float64)).sum())


def measure(network: Network, x: Array, y: Array) -> tuple[float, float]:
    """Compute ``(loss, score)``, NaN without samples."""
    if not len(x):
        return math.nan, math.nan
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        z = network.logits(x)
        found = score(z, y)  # z scores like the outputs, which are z itself or its softmax
        loss: float = network.cost.evaluate(z, y, network.activations[-1])[0]
        return loss, found


def build(settings: Settings, inputs: int, classes: int) -> Network:
    """Build the network of a run: a classifier, or one linear output for 0 classes."""
    return Network(
        (inputs, *settings["hidden"], classes or 1),
        settings["activation"],
        *(("softmax", "cross_entropy") if classes else ("linear", "mse")),
        initial=settings["initial"],
        initial_bias=settings["initial_bias"],
        l1=settings["l1"],
        l2=settings["l2"],
        seed=settings["seed"],
    )


def fit(settings: Settings, path: Path) -> Result:
    """Train by ``DEFAULTS | settings``; files are written to ``path`` with other suffixes.

    Returns:
        ``history`` (lists by epoch: train_loss, train_score, valid_loss, ...), final figures, ``diverged_at``
        (the epoch, or None), ``stops`` (of each criterion that stopped it: reason, epoch, test_score),
        ``epochs``, ``seconds`` of the processor in training without measuring.
    """
    s = DEFAULTS | settings
    data = split(s)
    classes = image_set(s["data"], s.get("data_dir")).classes if data.y.ndim == 1 else 0
    network = build(s, data.x.shape[1], classes)
    optimizer = make_optimizer(s["optimizer"], network.theta, s["lr"])
    recorder = Recorder(path)
    steps = math.ceil(len(data.x) / (s["batch"] or len(data.x)))
    rng = np.random.default_rng(s["seed"])
    parts = {"train": (data.x[:MEASURED], data.y[:MEASURED]), "valid": data.valid, "test": data.test}
    history: dict[str, list[float]] = {f"{part}_{what}": [] for part in parts for what in ("loss", "score")}
    losses: list[float] = []  # means during each epoch
    diverged_at, seconds = None, 0.0
    if state := recorder.resume():
        network.theta[:] = state["theta"]
        optimizer.load_state_dict(state["optimizer"])
        rng.bit_generator.state = state["rng"]
        history, losses, seconds = state["history"], state["losses"], state["seconds"]

    def checkpoint() -> dict[str, Any]:
        return {
            "theta": network.theta,
            "optimizer": optimizer.state_dict(),
            "rng": rng.bit_generator.state,
            "history": history,
            "losses": losses,
            "seconds": seconds,
        }

    def decay(epoch: int) -> None:
        optimizer.lr = s["lr"] / (epoch * steps + 1)

    criteria = {name: CRITERIA[name]() for name in s["stop"]}
    stops: dict[str, Result] = {}

    def stopped(epoch: int) -> bool:
        """Ask the criteria that have not stopped the training yet."""
        for name, criterion in list(criteria.items()):
            if reason := criterion.stop(losses[epoch - 1], history["valid_loss"][epoch - 1]):
                stops[name] = {"reason": reason, "epoch": epoch, "test_score": history["test_score"][epoch - 1]}
                del criteria[name]
        return bool(stops) and not criteria

    for epoch in range(1, len(losses) + 1):
        stopped(epoch)
    warm_up(network, optimizer, s["batch"])
    training = train(
        network,
        data.x,
        data.y,
        optimizer,
        epochs=s["epochs"],
        batch_size=s["batch"],
        seed=rng,
        before_epoch=decay if s["decay"] else None,
        done=len(losses),
    )
    start = process_time()
    for epoch, loss in enumerate(training, len(losses) + 1):
        seconds += process_time() - start
        losses.append(loss)
        for name, part in parts.items():
            part_loss, part_score = measure(network, *part)
            history[f"{name}_loss"].append(part_loss)
            history[f"{name}_score"].append(part_score)
        if not (math.isfinite(loss) and math.isfinite(history["train_loss"][-1])):
            diverged_at = epoch
            break
        if stopped(epoch):
            break
        recorder.write(epoch / s["epochs"], checkpoint)
        start = process_time()
    result: Result = {
        "history": history,
        "diverged_at": diverged_at,
        "stops": stops,
        "epochs": len(history["train_loss"]),
        "seconds": seconds,
    }
    for name, values in history.items():
        result[name] = math.nan if diverged_at else values[-1]
    if not diverged_at:
        result |= _optional_results(s, network, data, path)
    return result


def _optional_results(s: Settings, network: Network, data: Split, path: Path) -> Result:
    x, y = data.test
    extra: Result = {}
    if {"confusion", "samples"} & set(s["keep"]):
        from sklearn.metrics import confusion_matrix  # type: ignore[import-untyped]

        outputs = network.predict(x)
        guess = outputs.argmax(1)
        classes = network.sizes[-1]
        matrix = confusion_matrix(y, guess, labels=range(classes))
        wrong = np.flatnonzero(guess != y)
        indices = [*range(min(8, len(guess))), *wrong[wrong >= 8][:8].tolist()]
        extra["confusion"] = matrix.tolist()
        extra["samples"] = [[int(i), int(guess[i]), float(outputs[i].max())] for i in indices]
    if "prediction" in s["keep"]:
        order = np.argsort(data.test[0][:, 0])
        extra["prediction"] = [
            x[order, 0].tolist(),
            y[order, 0].tolist(),
            network.predict(x)[order, 0].tolist(),
        ]
    if "weights" in s["keep"]:
        figures = {"test accuracy": score(network.predict(x), y)}
        models.save(path.with_suffix(".npz"), network, s, figures, (0.0, 1.0))
        extra["weights"] = path.with_suffix(".npz").name
    if s["bootstrap"]:
        extra["bootstrap"] = bootstrap(network.predict(x)[:, 0], y[:, 0], s["bootstrap"], s["seed"])
    return extra


def bootstrap(outputs: Array, y: Array, samples: int, seed: int) -> dict[str, float]:
    """Compute mean and standard deviation of MSE and R2 over bootstrap samples of the test part."""
    rng = np.random.default_rng(seed)
    chosen = rng.integers(len(y), size=(samples, len(y)))
    squares = np.square(outputs - y)[chosen].mean(1)
    r2 = 1 - squares / y[chosen].var(1)
    return {
        "mse": float(squares.mean()),
        "mse_std": float(squares.std()),
        "r2": float(r2.mean()),
        "r2_std": float(r2.std()),
    }


def fitted(settings: Settings, path: Path) -> Result:
    """Do the work of most studies: one training, see :func:`fit`."""
    return fit(settings, path)
