"""Figures. Each line has an Okabe-Ito colour and a line style, so that it can be identified without colour.

Figures are created without pyplot, so no global state changes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, TypeAlias

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter
from numpy.typing import ArrayLike, NDArray

from .optimizers import DROP_IN, LABELS, PEER
from .results import write_file

Array: TypeAlias = NDArray[Any]

OKABE_ITO: Final = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_LONG, _DASH_DOT, _DOTS = (0, (6, 2)), (0, (4, 1.5, 1, 1.5)), (0, (1, 1.6))


@dataclass(frozen=True, slots=True)
class Style:
    """Style of a curve. Wide pale curves are drawn below others, so that coinciding curves remain visible."""

    colour: str
    dashes: Any = "-"
    width: float = 1.6
    alpha: float = 1.0


LEARNING: Final = MappingProxyType(
    {
        "train_loss": "Training loss",
        "eval_loss": "Evaluation loss",
        "train_accuracy": "Training accuracy",
        "eval_accuracy": "Evaluation accuracy",
    }
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
_MARKS: Final = "osD^vP*X"
_OTHERS: Final = ("#CC79A7", "#000000", "#8C510A", "#7F7F7F")
"""Colours that the Rprop rules do not have."""


def style(name: str, index: int) -> Style:
    """Return the style of a technique, or the ``index``-th of the palette."""
    dashes = ("-", _LONG, _DASH_DOT, _DOTS)
    return STYLES.get(name) or Style(OKABE_ITO[index % len(OKABE_ITO)], dashes[index % len(dashes)])


def write(path: Path, figure: Figure) -> None:
    """Write a figure as PNG, atomically."""
    write_file(path, lambda file: figure.savefig(file, format="png"))


def cells(figure: Figure) -> list[dict[str, Any]]:
    """Return the numbers of heat maps or a confusion matrix, a row for each cell; none of other figures."""
    return getattr(figure, "lab_cells", [])


def _keep(figure: Figure, rows: list[dict[str, Any]]) -> None:
    """Attach numbers to a figure, for :func:`cells`."""
    figure.lab_cells = rows  # type: ignore[attr-defined]


def learning_curves(histories: Mapping[str, Sequence[Mapping[str, Any]]], title: str, caption: str = "") -> Figure:
    """Draw the report's four plots from ``histories[label]``, a list of repetitions."""
    panels = {
        name: {label: [one[key] for one in repetitions] for label, repetitions in histories.items()}
        for key, name in LEARNING.items()
    }
    return curves(panels, title, caption, logarithmic=[name for name in panels if "loss" in name])


def training_curves(history: Mapping[str, Sequence[float | None]], best_epoch: int, title: str) -> Figure:
    """Draw the plots of one training and mark the epoch whose model was kept."""
    caption = f"dotted line: epoch {best_epoch}, the lowest evaluation loss, whose model was kept"
    fig = learning_curves({title: [history]}, title, caption)
    for axis in fig.axes:
        axis.axvline(best_epoch, color="0.35", linestyle=":", linewidth=1.4)
    return fig


def figure(width: float, height: float, title: str, caption: str = "") -> Figure:
    """Create an empty figure without pyplot."""
    fig = Figure(figsize=(width, height), dpi=130, layout="constrained")
    FigureCanvasAgg(fig)
    fig.suptitle(title + (f"\n{caption}" if caption else ""), fontsize=13)
    return fig


def label_axes(axis: Axes, title: str, x: str, y: str) -> None:
    """Set title, labels and a light grid."""
    axis.set_title(title, fontsize=12)
    axis.set_xlabel(x, fontsize=11)
    axis.set_ylabel(y, fontsize=11)
    axis.grid(color="0.9", linewidth=0.8)
    axis.set_axisbelow(True)


def _logarithmic(axis: Axes, which: str) -> None:
    """Make an axis logarithmic, with plain numbers as tick labels."""
    axis.set(**{f"{which}scale": "log"})
    one: Any = axis.xaxis if which == "x" else axis.yaxis
    low, high = one.get_view_interval()
    if high < 2 * low:
        one.set_major_locator(MaxNLocator(5))
    else:
        few = (1, 1.5, 2, 3, 4, 5, 6, 8) if high < 10 * low else (1, 2, 5) if high < 300 * low else (1,)
        one.set_major_locator(LogLocator(subs=few))
    one.set_major_formatter("{x:g}")
    one.set_minor_formatter(NullFormatter())


def _line_styles(labels: Sequence[str]) -> dict[str, Style]:
    """Choose a style for each line: fixed ones for the Rprop rules where each appears once, the others in turn."""
    firsts = [label.split(",")[0] for label in labels]
    own = {LABELS[name]: line_style for name, line_style in STYLES.items()}
    own = {first: line_style for first, line_style in own.items() if firsts.count(first) == 1}
    others = [label for label, first in zip(labels, firsts, strict=True) if first not in own]
    styles = {label: own[first] for label, first in zip(labels, firsts, strict=True) if first in own}
    for index, label in enumerate(others):
        line_style = style("", index + index // len(_OTHERS) if own else index)  # colours come again with other dashes
        styles[label] = replace(line_style, colour=_OTHERS[index % len(_OTHERS)]) if own else line_style
    return styles


def _skip_start(axis: Axes, tables: Sequence[Array]) -> None:
    """Exclude the steep first fifth of long curves from the limits, which would compress the rest."""
    tail = np.concatenate([table[:, table.shape[1] // 5 :].ravel() for table in tables])
    tail = tail[np.isfinite(tail)]
    if max(table.shape[1] for table in tables) > 10 and tail.size:
        margin = 0.05 * max(float(np.ptp(tail)), 0.01)
        axis.set_ylim(tail.min() - margin, tail.max() + margin)


def padded(rows: Sequence[Sequence[float | None]]) -> Array:
    """Combine rows of different lengths into an array, padded with NaN."""
    longest = max((len(row) for row in rows), default=0)
    table = np.full((len(rows), longest), np.nan)
    for target, row in zip(table, rows, strict=True):
        target[: len(row)] = [np.nan if value is None else value for value in row]
    return table


MAX_POINTS: Final = 200
"""Points of a curve, at most."""


def _thinned(stack: Array, width: int) -> tuple[Array, Array]:
    """Return positions and medians of groups of ``width`` epochs."""
    starts = np.arange(0, stack.shape[1], width)
    if width == 1:
        return starts + 1, stack
    median: Any = np.ma.median
    parts = [median(stack[:, start : start + width], axis=1) for start in starts]
    return starts + (1 + width) / 2, np.ma.stack(parts, axis=1)


def curves(
    panels: Mapping[str, Mapping[str, Sequence[Sequence[float | None]]]],
    title: str,
    caption: str = "",
    unit: str = "epoch",
    y: str = "",
    logarithmic: Sequence[str] = (),
) -> Figure:
    """Draw panels of curves from ``panels[title][label]``, a list of repetitions: line their mean, band their range.

    Of long ones medians of some neighbouring epochs are drawn, or the spikes of a few would fill the panel.
    """
    columns = min(2, len(panels))
    rows = -(-len(panels) // columns)
    fig = figure(5.7 * columns, 4.1 * rows + 0.5, title, caption)
    axes = fig.subplots(rows, columns, squeeze=False).ravel()
    labels = list(dict.fromkeys(label for lines in panels.values() for label in lines))
    styles = _line_styles(labels)
    for axis, (name, lines) in zip(axes, panels.items(), strict=False):
        longest = max((len(one) for repetitions in lines.values() for one in repetitions), default=0)
        width = max(1, -(-longest // MAX_POINTS))
        drawn: list[Array] = []
        for label, repetitions in lines.items():
            line_style = styles[label]
            at, stack = _thinned(np.ma.masked_invalid(padded(repetitions)), width)
            axis.plot(
                at,
                stack.mean(0),
                label=label,
                color=line_style.colour,
                linestyle=line_style.dashes,
                linewidth=line_style.width,
                alpha=line_style.alpha,
                zorder=3 - line_style.width / 10,  # wide ones below
                marker="o" if stack.shape[1] == 1 else None,
            )
            if len(stack) > 1 and not any(np.array_equal(stack, other) for other in drawn):  # one band for equal curves
                axis.fill_between(at, stack.min(0), stack.max(0), color=line_style.colour, alpha=0.15, linewidth=0)
            drawn.append(stack)
        label_axes(axis, name, f"{unit} (medians of {width})" if width > 1 else unit, y or name[:1].lower() + name[1:])
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        if name in logarithmic:
            _logarithmic(axis, "y")
        elif "accuracy" in name.lower():
            _skip_start(axis, [padded(repetitions) for repetitions in lines.values()])
    for axis in axes[len(panels) :]:
        axis.set_visible(False)
    handles: dict[str, Any] = {}
    for axis in axes[: len(panels)]:
        handles |= dict(zip(*reversed(axis.get_legend_handles_labels()), strict=True))
    longest_label = max(map(len, labels), default=0)
    fig.legend(
        [handles[label] for label in labels],
        labels,
        loc="outside lower center",
        ncols=max(1, min(4, len(labels), int(10 * fig.get_size_inches()[0] / (longest_label + 8)))),
        frameon=False,
        fontsize=10,
        handlelength=3.5,
    )
    return fig


def heat_maps(
    maps: Mapping[str, Sequence[Sequence[float | None]]],
    rows: Sequence[str],
    columns: Sequence[str],
    title: str,
    axes_names: tuple[str, str],
    caption: str = "",
    digits: int = 3,
    low_is_good: bool = False,
    limits: tuple[float, float] | None = None,
    notes: Mapping[str, Sequence[Sequence[str]]] | None = None,
) -> Figure:
    """Draw grids as coloured tables with their numbers; diverged cells (None) are hatched and labelled."""
    across = min(len(maps), 3 if len(columns) < 6 and len(maps) != 4 else 2)
    down = -(-len(maps) // across)
    width = max(3.2, 0.85 * len(columns) + 1.2)
    fig = figure(width * across + 1.6, (0.55 * len(rows) + 1.5) * down + 0.9, title, caption)
    axes = fig.subplots(down, across, squeeze=False).ravel()
    tables = {name: np.ma.masked_invalid(np.asarray(values, float)) for name, values in maps.items()}
    everything = np.array([value for table in tables.values() for value in table.compressed()])
    low, high = limits or ((everything.min(), everything.max()) if everything.size else (0.0, 1.0))
    if low == high:
        low, high = low - 0.5, high + 0.5
    image: Any = None
    for axis, (name, table) in zip(axes, tables.items(), strict=False):
        image = axis.imshow(table, cmap="viridis_r" if low_is_good else "viridis", aspect="auto", vmin=low, vmax=high)
        axis.set_title(name if len(tables) > 1 else "", fontsize=12)
        axis.set_xticks(range(len(columns)), columns, fontsize=10, rotation=30 if max(map(len, columns)) > 6 else 0)
        first = not list(tables).index(name) % across
        axis.set_yticks(range(len(rows)), rows if first else [""] * len(rows), fontsize=10)
        axis.set_xlabel(axes_names[1], fontsize=11)
        axis.set_ylabel(axes_names[0] if first else "", fontsize=11)
        for row, column in np.ndindex(*table.shape):
            value = table[row, column]
            if np.ma.is_masked(value):
                axis.add_patch(_hatched(row, column))
                text, colour = "div.", "black"
            else:
                text, colour = _short(float(value), digits), _ink(image, float(value))
            if notes and name in notes:
                text += notes[name][row][column]
            axis.text(column, row, text, ha="center", va="center", fontsize=10, color=colour)
    for axis in axes[len(maps) :]:
        axis.set_visible(False)
    fig.colorbar(image, ax=list(axes[: len(maps)]), shrink=0.9)
    _keep(
        fig,
        [
            {"grid": name, axes_names[0]: row, axes_names[1]: column, "value": value}
            for name, values in maps.items()
            for row, line in zip(rows, values, strict=True)
            for column, value in zip(columns, line, strict=True)
        ],
    )
    return fig


def _hatched(row: int, column: int) -> Any:
    from matplotlib.patches import Rectangle

    return Rectangle((column - 0.5, row - 0.5), 1, 1, facecolor="0.93", edgecolor="0.7", hatch="///", linewidth=0)


def _short(value: float, digits: int) -> str:
    return f"{value:.{digits}f}" if abs(value) < 1000 else f"{value:.0e}"


def _ink(image: Any, value: float) -> str:
    """Choose black or white, whichever is more legible on the colour of ``value``."""
    red, green, blue, _ = image.cmap(image.norm(value))
    return "black" if 0.299 * red + 0.587 * green + 0.114 * blue > 0.5 else "white"


def bars(
    panels: Mapping[str, Mapping[str, Sequence[float | None]]],
    title: str,
    caption: str = "",
    reported: Mapping[str, Mapping[str, float | None]] | None = None,
    logarithmic: Sequence[str] = (),
    from_zero: Sequence[str] = (),
) -> Figure:
    """Draw each repetition as a dot and their mean as a line (a bar where 0 is meaningful).

    Where a few runs lie so far above the others that these would be one blot, the axis ends before them, and their
    values stand at its end.
    """
    labels = list(dict.fromkeys(label for rows in panels.values() for label in rows))
    across = len(panels) if len(panels) < 4 else 2
    down = -(-len(panels) // across)
    fig = figure(5.2 * across + 1.5, (0.42 * len(labels) + 0.9) * down + 1, title, caption)
    axes = fig.subplots(down, across, sharey=True, squeeze=False).ravel()
    for axis in axes[len(panels) :]:
        axis.set_visible(False)
    marks: dict[str, Any] = {}
    for axis, (name, rows) in zip(axes, panels.items(), strict=False):
        for label, values in rows.items():
            place, colour = -labels.index(label), OKABE_ITO[labels.index(label) % len(OKABE_ITO)]
            known = np.array([v for v in values if v is not None and np.isfinite(v)])
            if not known.size:
                axis.annotate("diverged", (0.02, place), xycoords=("axes fraction", "data"), va="center", fontsize=10)
                continue
            if name in from_zero:
                axis.barh(place, known.mean(), height=0.55, color=colour, alpha=0.55)
            offsets = np.linspace(0.2, -0.2, known.size) if known.size > 1 else np.zeros(1)
            marks["one run"] = axis.scatter(known, place + offsets, s=26, color=colour, zorder=3)
            marks["mean"] = axis.vlines([known.mean()], place - 0.33, place + 0.33, color="0.15", zorder=4)
        for label, value in (reported or {}).get(name, {}).items():
            if value is not None and label in labels:
                marks["the report"] = axis.scatter(
                    [value],
                    [-labels.index(label)],
                    s=100,
                    marker="D",
                    facecolors="none",
                    edgecolors="black",
                    linewidths=1.4,
                    zorder=5,
                )
        axis.set_yticks([-index for index in range(len(labels))], labels, fontsize=10)
        label_axes(axis, "", name, "")
        if name in logarithmic:
            _logarithmic(axis, "x")
        else:
            reported_values = [value for value in (reported or {}).get(name, {}).values() if value is not None]
            _skip_outliers(axis, [(-labels.index(label), values) for label, values in rows.items()], reported_values)
    if marks:
        fig.legend(list(marks.values()), list(marks), loc="outside lower center", ncols=3, frameon=False)
    return fig


def _skip_outliers(
    axis: Axes, rows: Sequence[tuple[int, Sequence[float | None]]], reported_values: Sequence[float]
) -> None:
    """End an axis before values far above the others, and list these at its end."""
    found = [(place, np.array([v for v in row if v is not None and np.isfinite(v)])) for place, row in rows]
    known = np.concatenate([values for _, values in found]) if found else np.empty(0)
    if known.size < 20:
        return
    low, middle, high = np.percentile(known, (25, 50, 75))
    bound = middle + 8 * (high - low)
    near = known[known <= bound]
    if known.max() - near.min() < 2 * (near.max() - near.min()):
        return
    start = min([near.min(), *reported_values])
    end = max(near.max(), *reported_values, *(values.mean() for _, values in found if values.size))
    axis.set_xlim(start - 0.05 * (end - start), end + 0.45 * (end - start))
    for place, values in found:
        if len(far := np.sort(values[values > bound])):
            text = ", ".join(f"{value:.3g}" for value in far[:4]) + (", ..." if len(far) > 4 else "")
            axis.text(0.99, place + 0.27, f"{text} →", transform=axis.get_yaxis_transform(), ha="right", va="center")


MAX_NUMBERED: Final = 60
"""Classes up to which a confusion matrix has its numbers, and names of classes on an axis."""


def confusion(matrix: ArrayLike, title: str, caption: str = "") -> Figure:
    """Draw the counts of a confusion matrix, coloured by their share of the row on a logarithmic scale."""
    table = np.asarray(matrix, float)
    named = np.flatnonzero(table.sum(0) + table.sum(1))  # labels that are nowhere are left out
    table = table[np.ix_(named, named)]
    side = min(max(6.0, 0.24 * len(table)), 14.0)
    fig = figure(side + 0.6, side, title, caption)
    axis = fig.subplots()
    share = table / np.maximum(table.sum(1, keepdims=True), 1)
    image = axis.imshow(np.maximum(share, 1e-4), cmap="viridis", norm=LogNorm(1e-4, 1))
    for row, column in np.ndindex(*table.shape):
        if table[row, column] and len(table) <= MAX_NUMBERED:
            axis.text(
                column,
                row,
                f"{table[row, column]:.0f}",
                ha="center",
                va="center",
                fontsize=9 if len(table) < 20 else 5,
                color=_ink(image, float(share[row, column])),
            )
    places = range(0, len(table), -(-len(table) // MAX_NUMBERED))
    axis.set_xticks(places, [str(named[place]) for place in places])
    axis.set_yticks(places, [str(named[place]) for place in places])
    axis.tick_params(labelsize=10 if len(table) < 20 else 7)
    axis.set_xlabel("predicted", fontsize=11)
    axis.set_ylabel("true", fontsize=11)
    fig.colorbar(image, label="share of the true class (logarithmic)", shrink=0.85)
    indices = np.ndindex(*table.shape)
    _keep(fig, [{"true": int(named[i]), "predicted": int(named[j]), "images": int(table[i, j])} for i, j in indices])
    return fig


def images(pictures: Sequence[tuple[Array, str, bool]], title: str, caption: str = "", columns: int = 8) -> Figure:
    """Draw small images (rows, columns) with a text below each; those marked as wrong have a frame and bold text."""
    rows = -(-len(pictures) // columns)
    below = 1 + max((text.count("\n") for _, text, _ in pictures), default=0)
    fig = figure(1.35 * columns, (1.25 + 0.2 * below) * rows + 0.7, title, caption)
    axes = fig.subplots(rows, columns, squeeze=False).ravel()
    for axis in axes:
        axis.set_xticks([])
        axis.set_yticks([])
        axis.spines[:].set_visible(False)
    for axis, (image, text, right) in zip(axes, pictures, strict=False):
        axis.imshow(np.asarray(image, float), cmap="gray_r")
        axis.set_xlabel(text, fontsize=9, fontweight="normal" if right else "bold")
        if not right:
            axis.spines[:].set(visible=True, color="#D55E00", linewidth=2.5)
    return fig


def lines(
    series: Mapping[str, tuple[ArrayLike, ArrayLike]],
    title: str,
    names: tuple[str, str],
    dots: Mapping[str, tuple[ArrayLike, ArrayLike]] | None = None,
    caption: str = "",
) -> Figure:
    """Draw functions of x, and measured points."""
    fig = figure(7.6, 4.8, title, caption)
    axis = fig.subplots()
    styles = _line_styles(list(series))
    for label, (x, y) in (dots or {}).items():
        axis.plot(x, y, ".", color="0.6", markersize=4, label=label, zorder=1)
    for label, (x, y) in series.items():
        line_style = styles[label]
        axis.plot(x, y, label=label, color=line_style.colour, linestyle=line_style.dashes, linewidth=2)
    label_axes(axis, "", *names)
    axis.legend(frameon=False, fontsize=10)
    return fig


def medians(panels: Mapping[str, Mapping[str, Sequence[Sequence[float]]]], title: str, x: str, y: str) -> Figure:
    """Draw medians over repetitions on logarithmic axes; values below 0 are missing."""
    across = min(4, len(panels))
    down = -(-len(panels) // across)
    fig = figure(max(3.9 * across, 11), 3.5 * down + 0.9, title)
    axes = fig.subplots(down, across, squeeze=False).ravel()
    for axis, (name, methods) in zip(axes, panels.items(), strict=False):
        styles = _line_styles(list(methods))
        for index, (label, repetitions) in enumerate(methods.items()):
            table = padded(repetitions)
            filled = np.where(np.isnan(table), table[:, :1], np.where(table < 0, np.inf, table))
            middle = np.median(np.minimum.accumulate(filled, 1), 0)
            line_style = styles[label]
            marker = None if line_style in STYLES.values() else _MARKS[index % len(_MARKS)]
            axis.plot(
                np.arange(1, len(middle) + 1),
                np.where(np.isfinite(middle), middle, np.nan),
                label=label,
                color=line_style.colour,
                linestyle=line_style.dashes,
                linewidth=min(line_style.width, 3.2),
                zorder=3 - line_style.width / 10,  # wide ones below
                alpha=line_style.alpha,
                marker=marker,
                markevery=0.15,
                markersize=5,
            )
        label_axes(axis, name, x, y)
        _logarithmic(axis, "x")
        _logarithmic(axis, "y")
    for axis in axes[len(panels) :]:
        axis.set_visible(False)
    handles, labels = axes[0].get_legend_handles_labels()
    fig.legend(
        handles,
        labels,
        loc="outside lower center",
        ncols=min(5, len(labels)),
        frameon=False,
        handlelength=3.5,
    )
    return fig
