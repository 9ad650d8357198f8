"""Report A, "Neuro Backpropagation Lab": all techniques, with the same weights and data for each."""

import statistics
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import numpy as np
import torch
from matplotlib.figure import Figure

from .. import figures
from ..config import Config
from ..figures import learning_curves, style
from ..optimizers import DROP_IN, LABELS, PEER, TECHNIQUES, Technique
from ..training import Epoch, Labelled, Run, hold_out, tensors
from .fitting import image_set
from .plan import Options, Page, Result, Runs, Settings, Table
from .progress import Recorder


@dataclass(frozen=True, slots=True)
class Reported:
    """A row of the report's Table 3.1."""

    eval_accuracy: float
    test_accuracy: float


_PYTORCH = Reported(0.9550, 0.9555)
REPORT: Final = MappingProxyType(
    {
        "rprop-": Reported(0.9580, 0.9560),
        "rprop+": Reported(0.9427, 0.9478),
        "irprop+": Reported(0.9554, 0.9557),
        PEER: _PYTORCH,
        # The report has no row for these, but torch's optimizer is iRprop-, and the drop-in is torch's.
        "irprop-": _PYTORCH,
        DROP_IN: _PYTORCH,
    }
)
REPORT_SETTINGS: Final = Config(
    train_set_size=50_000, train_batch_size=50_000, eval_set_size=10_000, eval_batch_size=10_000
)


@dataclass(frozen=True, slots=True)
class BitComparison:
    """Two optimizers of the same training, compared byte by byte at the end.

    Attributes:
        parameters, states: how many tensors of each were compared.
        differences: names of those that differ; empty where all are the same bits.
    """

    parameters: int
    states: int
    differences: list[str]


def compare_bits(one: Run, other: Run) -> BitComparison:
    """Compare parameters and optimizer state by bytes: -0.0 is not 0.0, NaN may equal NaN."""
    differences = []
    parameters = states = 0
    for (name, a), (_, b) in zip(one.network.named_parameters(), other.network.named_parameters(), strict=True):
        parameters += 1
        if not _same_bits(a, b):
            differences.append(f"parameter {name}")
        state_a, state_b = one.optimizer.state[a], other.optimizer.state[b]
        for key in state_a.keys() | state_b.keys():
            states += 1
            if key not in state_a or key not in state_b or not _same_bits(state_a[key], state_b[key]):
                differences.append(f"state {key!r} of {name}")
    return BitComparison(parameters, states, sorted(differences))


def _same_bits(a: object, b: object) -> bool:
    if not (isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor)):
        return type(a) is type(b) and a == b
    return (
        a.dtype == b.dtype
        and a.shape == b.shape
        and a.detach().cpu().numpy().tobytes() == b.detach().cpu().numpy().tobytes()
    )


def run_seed(
    seed: int,
    learn: Labelled,
    test: Labelled,
    config: Config,
    techniques: Sequence[Technique] = TECHNIQUES,
    recorder: Recorder | None = None,
) -> dict[str, Any]:
    """Train every technique from the same weights on the same data; return results for JSON.

    The techniques take turns epoch by epoch, in rotating order, so that all of them are timed under the same
    conditions.
    """
    train, evaluation = hold_out(learn, config, seed)
    runs = [Run(technique, train, evaluation, config, seed) for technique in techniques]
    for run, state in zip(runs, ((recorder and recorder.resume()) or {}).get("runs", ()), strict=False):
        run.load_state_dict(state)
    for epoch in range(len(runs[0].history), config.epochs):
        turn = epoch % len(runs)
        for run in runs[turn:] + runs[:turn]:
            run.epoch()
        if recorder is not None:
            recorder.write(
                (epoch + 1) / config.epochs,
                lambda: {"runs": [run.state_dict() for run in runs]},
                f"seed {seed}, epoch {epoch + 1}",
            )
    by_name = {run.technique.name: run for run in runs}
    result: dict[str, Any] = {"runs": {name: _record(run, test) for name, run in by_name.items()}}
    if DROP_IN in by_name and PEER in by_name:
        bits = compare_bits(by_name[DROP_IN], by_name[PEER])
        result["drop_in"] = asdict(bits) | {"torch_repeats_itself": None}
        if bits.differences:  # a wrong optimizer, or gradients that are not reproducible? Repeat torch's own training.
            again = Run(by_name[PEER].technique, train, evaluation, config, seed)
            for _ in range(config.epochs):
                again.epoch()
            result["drop_in"]["torch_repeats_itself"] = not compare_bits(again, by_name[PEER]).differences
    return result


def _record(run: Run, test: Labelled) -> dict[str, Any]:
    test_loss, test_accuracy = run.test(test)
    best = run.best if run.best_epoch else Epoch(*[float("nan")] * 4)
    warm = run.step_seconds[1:] or run.step_seconds  # the first step creates the state
    return {
        "history": {name: [getattr(epoch, name) for epoch in run.history] for name in Epoch.__slots__},
        "best_epoch": run.best_epoch,
        "eval_loss": best.eval_loss,
        "eval_accuracy": best.eval_accuracy,
        "test_loss": test_loss,
        "test_accuracy": test_accuracy,
        "step_seconds": statistics.median(warm),
        "fastest_step_seconds": min(warm),
        "steps": len(run.step_seconds),
        "optimizer_seconds": sum(run.step_seconds),
        "seconds": run.seconds,
    }


def plan(options: Options) -> list[Settings]:
    dataset = image_set(options.data["data"], options.data.get("data_dir"))
    config = options.config.model_copy(update={"epochs": options.count_epochs(options.config.epochs)})
    settings = config.for_data(dataset).as_dict()
    del settings["optimizer"]
    settings |= options.data | {"test_set_size": len(dataset.test_labels)}
    return [settings | {"seed": seed} for seed in options.each_seed(5)]


def work(settings: Settings, path: Path) -> Result:
    config = Config(**{key: settings[key] for key in Config.model_fields if key in settings})
    learn, test = tensors(image_set(settings["data"], settings["data_dir"]))
    return run_seed(settings["seed"], learn, test, config, recorder=Recorder(path))


def page(runs: Runs) -> Page:
    comparison = Comparison(runs[0][0], [result for _, result in runs])
    return Page(
        [Table("Techniques", *table(comparison))],
        statements(comparison),
        {"curves.png": comparison_curves(comparison), "summary.png": comparison_summary(comparison)},
        csv={"summary.csv": comparison.summary()},
    )


@dataclass(frozen=True, slots=True)
class Comparison:
    """Settings and results of the comparison.

    Attributes:
        settings: those of the first seed; the others have the same but for the seed.
        seeds: results of :func:`run_seed`.
    """

    settings: Settings
    seeds: list[Result]

    @property
    def techniques(self) -> dict[str, str]:
        """Labels by name, in the order of the table."""
        return {name: LABELS[name] for name in self.seeds[0]["runs"]}

    @property
    def deviations(self) -> list[str]:
        """Differences of data and settings from the report's; empty if its figures are comparable."""
        data = [] if self.is_mnist else [f"the data is {Path(self.settings['data']).name}, not MNIST"]
        theirs = REPORT_SETTINGS.as_dict()
        for key in ("optimizer", "seed", "data", "data_dir"):
            del theirs[key]
        return data + [
            f"{key} is {self.settings[key]}, not {value}"
            for key, value in theirs.items()
            if self.settings[key] != value
        ]

    def summary(self) -> list[dict[str, Any]]:
        """Return a row a technique: mean and spread over seeds, time relative to torch's, and the report's figures."""
        rows = []
        for name, label in self.techniques.items():
            runs = [result["runs"][name] for result in self.seeds]
            pairs = zip(runs, self.seeds, strict=True)
            has_peer = PEER in self.techniques
            ratios = [run["step_seconds"] / r["runs"][PEER]["step_seconds"] for run, r in pairs] if has_peer else []
            reported = REPORT.get(name) if self.is_mnist else None
            row: dict[str, Any] = {"technique": name, "label": label, "seeds": len(runs)}
            for key in ("eval_loss", "eval_accuracy", "test_loss", "test_accuracy"):
                row |= {f"{key}_{what}": value for what, value in _spread(run[key] for run in runs).items()}
            row["step_seconds"] = statistics.median(run["step_seconds"] for run in runs)
            row["step_time_ratio_to_torch"] = statistics.median(ratios) if ratios else None
            row["fastest_step_seconds"] = min(run["fastest_step_seconds"] for run in runs)
            row["step_time_ratio_min"] = min(ratios, default=None)
            row["step_time_ratio_max"] = max(ratios, default=None)
            seconds = sum(run["seconds"] for run in runs)
            row["share_of_training"] = sum(run["optimizer_seconds"] for run in runs) / seconds
            row["report_eval_accuracy"] = reported and reported.eval_accuracy
            row["report_test_accuracy"] = reported and reported.test_accuracy
            mean = row["test_accuracy_mean"]
            row["test_minus_report"] = None if reported is None or mean is None else mean - reported.test_accuracy
            rows.append(row)
        return rows

    @property
    def data_name(self) -> str:
        """Name of the data for titles."""
        return "MNIST" if self.is_mnist else Path(self.settings["data"]).name

    @property
    def is_mnist(self) -> bool:
        """Whether the report's figures are comparable."""
        return bool(self.settings["is_mnist"])


def _spread(values: Iterable[float | None]) -> dict[str, float | None]:
    known = [value for value in values if value is not None and value == value]
    if not known:  # every training diverged
        return dict.fromkeys(("mean", "std", "min", "max"))
    return {
        "mean": statistics.fmean(known),
        "std": statistics.stdev(known) if len(known) > 1 else None,
        "min": min(known),
        "max": max(known),
    }


REPORT_TOLERANCE: Final = 0.01
_BUSY_FACTOR: Final = 3
"""Ratio of the median to the fastest step above which the machine counts as busy."""


def table(comparison: Comparison) -> tuple[list[str], list[list[str]]]:
    """Return heading and rows; the report's columns only if its figures are comparable."""
    heading = ["technique", "eval", "test", "std"]
    heading += ["report", "diff."] if comparison.is_mnist else []
    heading += ["us/step", "/torch"]
    rows = []
    for row in comparison.summary():
        cells = [
            row["label"],
            *(_fixed(row[f"{key}"]) for key in ("eval_accuracy_mean", "test_accuracy_mean")),
        ]
        cells.append(_fixed(row["test_accuracy_std"]))
        if comparison.is_mnist:
            cells += [_fixed(row["report_test_accuracy"]), _fixed(row["test_minus_report"], sign="+")]
        ratio = row["step_time_ratio_to_torch"]
        cells += [f"{row['step_seconds'] * 1e6:.0f}", "-" if ratio is None else f"{ratio:.3f}"]
        rows.append(cells)
    return heading, rows


def statements(comparison: Comparison) -> list[str]:
    """Explain the table in sentences."""
    lines = [
        "eval, test: accuracy of the model of lowest evaluation loss on images held out and on unseen ones, "
        f"mean of {_seeds(len(comparison.seeds))}; std: of test; /torch: time of a step over torch's.",
        *_drop_in_statements(comparison),
        "torch.optim.Rprop is iRprop-: a weight whose gradient changes its sign stays for one step, and "
        'nothing is taken back. (The report calls it "Rprop+ PyTorch".)',
    ]
    for row in comparison.summary():
        if row["technique"] == PEER:
            fastest = row["fastest_step_seconds"]
            if row["step_seconds"] > _BUSY_FACTOR * fastest:
                lines.append(
                    "The times are NOT to be trusted: the machine was busy (torch.optim.Rprop's fastest step "
                    f"took {fastest * 1e6:.0f} us). Run it again on an idle one."
                )
            lines.append(
                f"A step of torch.optim.Rprop took {row['step_seconds'] * 1e6:.0f} us (median), all steps "
                f"{row['share_of_training']:.1%} of its training; most of the rest is forward and backward."
            )
    if comparison.settings["train_batch_size"] < comparison.settings["train_set_size"]:
        lines.append(
            "Rprop is a full-batch method: with mini-batches signs flip by chance, and iRprop+ compares "
            "losses of different batches."
        )
    return [*lines, *_report_statements(comparison)]


def _drop_in_statements(comparison: Comparison) -> Iterator[str]:
    results = [result["drop_in"] for result in comparison.seeds if "drop_in" in result]
    if not results:
        return
    bad = [result for result in results if result["differences"]]
    if not bad:
        yield (
            f"The drop-in's {results[0]['parameters']} parameters and {results[0]['states']} state tensors "
            f"are the same bits as torch.optim.Rprop's at the end ({_seeds(len(results))})."
        )
        return
    differ = (
        f"The drop-in's parameters and state are NOT the same bits as torch.optim.Rprop's at the end, in "
        f"{len(bad)} of {_seeds(len(results))}: {', '.join(bad[0]['differences'])}."
    )
    if any(result["torch_repeats_itself"] is False for result in bad):
        yield (
            f"{differ} But a second training with torch.optim.Rprop differs from the first too: gradients "
            "are not reproducible here, so this says nothing about the optimizers."
        )
    else:
        yield f"{differ} That is a bug; please report it with results.json."


def _report_statements(comparison: Comparison) -> Iterator[str]:
    if not comparison.is_mnist:
        yield f"The report has no figures for this data ({comparison.settings['where']}); it used MNIST."
        return
    if comparison.deviations:
        yield (
            f"Not the report's settings: {'; '.join(comparison.deviations)}. Its figures stand here for orientation."
        )
    else:
        outside = [
            row["label"]
            for row in comparison.summary()
            if row["report_test_accuracy"] is not None and not abs(row["test_minus_report"] or 1.0) <= REPORT_TOLERANCE
        ]
        within = f"all but {', '.join(outside)}" if outside else "all"
        yield f"Mean test accuracy within {REPORT_TOLERANCE} of the report's Table 3.1: {within}."
    yield (
        "The report has one run a technique and no row for iRprop-; torch's row stands there, being the "
        "same rule. Its IRprop+ was never told the loss, ours is."
    )


def _fixed(value: float | None, sign: str = "") -> str:
    return "-" if value is None else f"{value:{sign}.4f}"


def _seeds(count: int) -> str:
    return f"{count} seed{'s' * (count != 1)}"


def comparison_curves(comparison: Comparison) -> Figure:
    """Draw loss and accuracy of every technique, mean and range over the seeds."""
    histories = {
        label: [result["runs"][name]["history"] for result in comparison.seeds]
        for name, label in _labels(comparison).items()
    }
    settings, count = comparison.settings, len(comparison.seeds)
    repetitions = f"mean of {count} seeds, band from lowest to highest" if count > 1 else "one seed"
    batch = f"{settings['train_set_size']} images in batches of {settings['train_batch_size']}"
    return learning_curves(
        histories,
        f"Rprop techniques on {comparison.data_name}",
        f"{repetitions}; {batch}\nwhere curves coincide, the wide ones lie below",
    )


def comparison_summary(comparison: Comparison) -> Figure:
    """Draw test accuracy by seed (and the report's), and step times as a ratio to torch's."""
    rows, labels = comparison.summary(), _labels(comparison)
    figure = figures.figure(
        11, 1.9 + 0.55 * len(rows), f"Rprop techniques on {comparison.data_name}: accuracy and time", ""
    )
    left, right = figure.subplots(1, 2, sharey=True)
    spread = np.linspace(0.2, -0.2, len(comparison.seeds)) if len(comparison.seeds) > 1 else np.zeros(1)
    ratios = [row["step_time_ratio_to_torch"] or 0.0 for row in rows]
    for index, row in enumerate(rows):
        name, ratio, place = row["technique"], ratios[index], -index
        colour = style(name, index).colour
        accuracies = _floats([result["runs"][name]["test_accuracy"] for result in comparison.seeds])
        seeds = left.scatter(accuracies, place + spread, s=34, color=colour, zorder=3)
        mean = left.vlines(_floats([row["test_accuracy_mean"]]), place - 0.33, place + 0.33, color="0.2", zorder=4)
        reported = left.scatter(
            _floats([row["report_test_accuracy"]]), [place],
            s=110, marker="D", facecolors="none", edgecolors="black", linewidths=1.4, zorder=5,
        )  # fmt: skip
        right.barh(place, ratio, height=0.55, color=colour, zorder=3)
        right.annotate(
            f"{ratio:.3f}  ({row['step_seconds'] * 1e6:.0f} µs)", (ratio, place), xytext=(6, 0),
            textcoords="offset points", va="center", fontsize=10, zorder=5,
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 1},
        )  # fmt: skip
    left.set_yticks([-index for index in range(len(rows))], list(labels.values()), fontsize=11)
    left.set_xlabel("test accuracy of the model of lowest evaluation loss", fontsize=11)
    right.set_xlabel("time of a step / time of torch.optim.Rprop's (medians)", fontsize=11)
    right.set_xlim(0, 1.45 * max([1.0, *ratios]))
    right.axvline(1, color="0.35", linestyle=":", linewidth=1.4, zorder=2)
    for axis in (left, right):
        axis.grid(axis="x", color="0.9", linewidth=0.8)
        axis.set_axisbelow(True)
    marks = {"one seed": seeds, "mean": mean} | ({"the report": reported} if comparison.is_mnist else {})
    figure.legend(list(marks.values()), list(marks), loc="outside lower center", ncols=3, frameon=False, fontsize=11)
    return figure


def _labels(comparison: Comparison) -> dict[str, str]:
    """Label techniques for figures, which state that torch's Rprop is iRprop-."""
    same = (PEER, DROP_IN)
    return {name: f"{label}, = iRprop-" if name in same else label for name, label in comparison.techniques.items()}


def _floats(values: Sequence[float | None]) -> "np.ndarray[Any, np.dtype[np.float64]]":
    return np.array([np.nan if value is None else value for value in values], dtype=float)
