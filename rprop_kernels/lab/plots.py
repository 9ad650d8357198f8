"""Pictures: Okabe-Ito colours with a line style of their own each, so that no one needs the colour.

Figures are made without pyplot, so nothing global is touched.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter
from numpy.typing import ArrayLike

from .output import write_atomic
from .techniques import DROP_IN, PEER

if TYPE_CHECKING:
    from .compare import Comparison
    from .training import Epoch

Stack: TypeAlias = "np.ma.MaskedArray[Any, Any]"
"""Shape (repetitions, epochs); what was not finite is masked."""

OKABE_ITO: Final = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_LONG, _DASH_DOT, _DOTS = (0, (6, 2)), (0, (4, 1.5, 1, 1.5)), (0, (1, 1.6))


@dataclass(frozen=True, slots=True)
class Style:
    """How one curve looks. Wide pale ones lie below, so that curves on top of one another are all seen."""

    colour: str
    dashes: Any = "-"
    width: float = 1.6
    alpha: float = 1.0


@dataclass(frozen=True, slots=True)
class Curve:
    """One line of every panel.

    Attributes:
        label: for the legend.
        style: how it looks.
        values: by panel key, shape (repetitions, epochs); the line is their mean, the band their range.
    """

    label: str
    style: Style
    values: Mapping[str, ArrayLike]


@dataclass(frozen=True, slots=True)
class Panel:
    """One plot over the epochs; logarithmic, or from where the steep start is over."""

    key: str
    title: str
    unit: str
    logarithmic: bool


LEARNING: Final = (
    Panel("train_loss", "Training loss", "loss (logarithmic)", True),
    Panel("eval_loss", "Evaluation loss", "loss (logarithmic)", True),
    Panel("train_accuracy", "Training accuracy", "accuracy", False),
    Panel("eval_accuracy", "Evaluation accuracy", "accuracy", False),
)
"""The report's four plots."""
STYLES: Final = MappingProxyType(
    {
        "rprop-": Style("#D55E00"),
        "rprop+": Style("#0072B2", _LONG),
        "irprop-": Style("#E69F00", width=3.2),
        "irprop+": Style("#009E73", _DASH_DOT),
        DROP_IN: Style("#000000", _DOTS),
        PEER: Style("#56B4E9", width=6.5, alpha=0.6),
    }
)
"""Of the techniques; :func:`style` gives others one in turn."""
_START: Final = 0.2
"""Share of the epochs that may run out of a panel of accuracy at the bottom."""


def style(name: str, index: int) -> Style:
    """The style of a technique, or the ``index``-th of the palette."""
    dashes = ("-", _LONG, _DASH_DOT, _DOTS)
    return STYLES.get(name) or Style(OKABE_ITO[index % len(OKABE_ITO)], dashes[index % len(dashes)])


def write(path: Path, figure: Figure) -> None:
    """Writes a PNG, whole or not at all."""
    write_atomic(path, lambda file: figure.savefig(file, format="png"))


def over_epochs(curves: Sequence[Curve], panels: Sequence[Panel], title: str, caption: str) -> Figure:
    """Panels in two columns, with a legend below where there is more than one curve."""
    figure = _figure(11, 4.3 * ((len(panels) + 1) // 2), title, caption)
    axes = figure.subplots((len(panels) + 1) // 2, 2, sharex=True, squeeze=False).ravel()
    for axis, panel in zip(axes, panels, strict=False):
        stacks = [np.ma.masked_invalid(np.asarray(curve.values[panel.key], dtype=float)) for curve in curves]
        for index in np.argsort([-curve.style.width for curve in curves], kind="stable"):
            twin = any(np.array_equal(stacks[index], stack) for stack in stacks[:index])
            _line(axis, stacks[index], curves[index], band=not twin)
        axis.set_title(panel.title, fontsize=13)
        axis.set_ylabel(panel.unit, fontsize=11)
        axis.grid(color="0.9", linewidth=0.8)
        axis.set_axisbelow(True)
        if panel.logarithmic:
            axis.set_yscale("log")
            low, high = axis.get_ylim()
            axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 300 * low else (1,)))
            axis.yaxis.set_major_formatter("{x:g}")
            axis.yaxis.set_minor_formatter(NullFormatter())
        else:
            axis.set_ylim(*_without_the_start(stacks))
    for axis in axes[-2:]:
        axis.set_xlabel("epoch", fontsize=11)
    if len(curves) > 1:
        handles, labels = axes[0].get_legend_handles_labels()
        by_label = dict(zip(labels, handles, strict=True))
        names = [curve.label for curve in curves]
        figure.legend(
            [by_label[name] for name in names], names,
            loc="outside lower center", ncols=3, frameon=False, fontsize=11, handlelength=4.5,
        )  # fmt: skip
    return figure


def comparison_curves(comparison: "Comparison") -> Figure:
    """Loss and accuracy of every technique, mean and range over the seeds."""
    curves = []
    for index, (name, label) in enumerate(_labels(comparison).items()):
        histories = [result["runs"][name]["history"] for result in comparison.seeds]
        values = {panel.key: [_floats(history[panel.key]) for history in histories] for panel in LEARNING}
        curves.append(Curve(label, style(name, index), values))
    settings, count = comparison.settings, len(comparison.seeds)
    repetitions = f"mean of {count} seeds, band from lowest to highest" if count > 1 else "one seed"
    batch = f"{settings['train_set_size']} images in batches of {settings['train_batch_size']}"
    return over_epochs(
        curves,
        LEARNING,
        f"Rprop techniques on {comparison.data_name}",
        f"{repetitions}; {batch}\nwhere curves coincide, the wide ones lie below",
    )


def training_curves(history: "Sequence[Epoch]", best_epoch: int, title: str) -> Figure:
    """The same panels for one training, with the epoch whose model was kept."""
    values = {panel.key: [[getattr(epoch, panel.key) for epoch in history]] for panel in LEARNING}
    caption = f"dotted line: epoch {best_epoch}, the lowest evaluation loss, whose model was kept"
    figure = over_epochs([Curve(title, Style(OKABE_ITO[0], width=2.2), values)], LEARNING, title, caption)
    for axis in figure.axes:
        axis.axvline(best_epoch, color="0.35", linestyle=":", linewidth=1.4)
    return figure


def comparison_summary(comparison: "Comparison") -> Figure:
    """Test accuracy seed by seed (and the report's), and the time of a step as a ratio to torch's."""
    rows, labels = comparison.summary(), _labels(comparison)
    figure = _figure(11, 1.9 + 0.55 * len(rows), f"Rprop techniques on {comparison.data_name}: accuracy and time", "")
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


def _labels(comparison: "Comparison") -> dict[str, str]:
    """What torch calls Rprop is iRprop-; a picture stands alone, so it says so."""
    same = (PEER, DROP_IN)
    return {name: f"{label} = iRprop-" if name in same else label for name, label in comparison.techniques.items()}


def _figure(width: float, height: float, title: str, caption: str) -> Figure:
    figure = Figure(figsize=(width, height), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title + (f"\n{caption}" if caption else ""), fontsize=13)
    return figure


def _line(axis: Axes, stack: Stack, curve: Curve, band: bool) -> None:
    look = curve.style
    epochs = np.arange(1, stack.shape[1] + 1)
    axis.plot(
        epochs, stack.mean(0), label=curve.label,
        color=look.colour, linestyle=look.dashes, linewidth=look.width, alpha=look.alpha,
    )  # fmt: skip
    if band and len(stack) > 1:  # one band for curves that are the same
        axis.fill_between(epochs, stack.min(0), stack.max(0), color=look.colour, alpha=0.15, linewidth=0)


def _without_the_start(stacks: Sequence[Stack]) -> tuple[float, float]:
    """Limits that leave out the steep start, which would hide everything after it."""
    start = int(stacks[0].shape[1] * _START)
    low = min((float(s[:, start:].mean(0).min()) for s in stacks if s[:, start:].count()), default=0.0)
    high = max((float(s.max()) for s in stacks if s.count()), default=1.0)
    margin = 0.05 * max(high - low, 0.01)
    return low - margin, high + margin


def _floats(values: Sequence[float | None]) -> "np.ndarray[Any, np.dtype[np.float64]]":
    return np.array([np.nan if value is None else value for value in values], dtype=float)
