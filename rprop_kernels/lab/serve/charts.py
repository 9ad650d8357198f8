"""Plots of loss and accuracy by epoch on the page."""

import math
from collections.abc import Sequence
from typing import Any, Final, Literal

from nicegui import ui

from .sessions import Runner, curve

COLOURS: Final = {
    False: ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#B8860B", "#3A9BD9", "#1B1B1B"),
    True: ("#56B4E9", "#FF8B3D", "#2FC79B", "#E79CC8", "#E6C229", "#9DB4FF", "#F2F2F2"),
}
"""Colours of the runs on a light and on a dark background; page.css has the same."""
TEXT: Final = {False: "#1b1b1b", True: "#e8eaed"}
RULES: Final = {False: "#e0e3e7", True: "#3a3f45"}
CARD: Final = {False: "#ffffff", True: "#1c1f23"}

MIN_LOSS: Final = 1e-4
"""Lower end of the loss axis."""
PLOT_HEIGHT: Final = 164.0
"""Pixels from the lower to the upper end of an axis on a phone; more elsewhere."""
LABEL_HEIGHT: Final = 15.0
"""Pixels of a number at the end of a curve."""
NEAR: Final = 0.06
"""Share of the axis of epochs within which two such numbers could overlap."""
COVERED_WIDTH: Final = 5.0
"""Additional width of a line for each later run that draws the same."""


def colour_number(runner: Runner) -> int:
    """Return the number of a run's colour, from 1."""
    return (runner.number - 1) % len(COLOURS[False]) + 1


class Chart:
    """Curves of all runs: two lines a run, evaluation and (thin) training, under one name in the legend."""

    def __init__(self, what: Literal["loss", "accuracy"]) -> None:
        self._what, self._dark = what, False
        self._plot = ui.echart(
            {
                "animation": False,
                "aria": {"enabled": True},
                "textStyle": {"fontFamily": "system-ui, sans-serif"},
                "grid": {"left": 56, "right": 30, "top": 14, "bottom": 78},
                "tooltip": {"trigger": "axis", "confine": True, "order": "valueAsc" if what == "loss" else "valueDesc"},
                "legend": {"type": "scroll", "bottom": 0, "icon": "roundRect", "data": []},
                "xAxis": {"type": "value", "name": "epoch", "nameLocation": "middle", "nameGap": 26, "min": 1,
                          "max": "dataMax", "minInterval": 1, "splitLine": {"show": False}},
                "yAxis": {"type": "log" if what == "loss" else "value", "minorSplitLine": {"show": what == "loss"}},
                "series": [],
            }
        )  # fmt: skip
        self._plot.classes("chart").props(f'role=img aria-label="{what} by epoch, of the runs in the table below"')
        self._off_axis = ui.label("").classes("small off-axis").props("role=status")
        self.set_dark(False)

    def set_dark(self, dark: bool) -> None:
        """Choose colours for a dark or a light background; the next drawing has them."""
        self._dark = dark
        options, font = self._plot.options, {"fontSize": 13, "color": TEXT[dark]}
        options["legend"] |= {"textStyle": font, "pageIconColor": TEXT[dark], "pageTextStyle": font}
        options["tooltip"] |= {"backgroundColor": CARD[dark], "textStyle": font, "borderColor": RULES[dark]}
        line = {"lineStyle": {"color": RULES[dark]}}
        options["xAxis"] |= {"axisLabel": font, "nameTextStyle": font}
        options["yAxis"] |= {"axisLabel": font, "splitLine": line}
        options["yAxis"]["minorSplitLine"] |= {"lineStyle": {"color": RULES[dark], "opacity": 0.5}}

    def draw(self, runners: Sequence[Runner]) -> None:
        """Draw the curves of some runs."""
        series: list[dict[str, Any]] = []
        visible: list[float] = []
        values_of: dict[int, list[float]] = {}
        for runner in runners:
            history = runner.history[:]  # a copy: the list grows during training
            covered = COVERED_WIDTH * sum(_is_same(runner, later) for later in runners if later.number > runner.number)
            for part, width, dashes in (("eval", 2.4, "solid"), ("train", 1.2, "dashed")):
                values = [getattr(epoch, f"{part}_{self._what}") for epoch in history]
                if self._what == "loss":  # the logarithm excludes 0; values below the axis are drawn along it
                    values = [max(value, MIN_LOSS) for value in values]
                if part == "eval":
                    values_of[runner.number] = values
                start = 0 if self._what == "loss" else len(values) // 5
                visible += [value for value in values[start:] if math.isfinite(value)]
                colour = COLOURS[self._dark][colour_number(runner) - 1]
                series.append(
                    {
                        "type": "line",
                        "name": f"{runner.number} {runner.settings.label}",
                        "data": curve(values),
                        "showSymbol": len(values) == 1,
                        # A run that a later one would hide is a broad, pale line below it.
                        "lineStyle": {"width": width + covered, "type": dashes, "color": colour,
                                      "opacity": 0.45 if covered else 1},
                        "z": 2 if covered else 3,
                        "itemStyle": {"color": colour},
                        "endLabel": {"show": part == "eval", "formatter": str(runner.number), "color": colour,
                                     "fontWeight": "bold"},
                    }
                )  # fmt: skip
        options = self._plot.options
        options["yAxis"] |= loss_axis(visible) if self._what == "loss" else accuracy_axis(visible)
        limits = options["yAxis"]["min"], options["yAxis"]["max"]
        heights = {number: self._height(values, *limits) for number, values in values_of.items() if values}
        offsets = spread_labels({number: (len(values_of[number]), y) for number, y in heights.items()})
        for runner, one in zip(runners, series[::2], strict=True):
            one["endLabel"]["offset"] = [0, -offsets.get(runner.number, 0.0)]
        options["series"] = series
        options["legend"]["data"] = [one["name"] for one in series[::2]]
        self._off_axis.set_text(describe_off_axis(values_of, *limits))
        self._plot.update()

    def _height(self, values: Sequence[float], low: float, high: float) -> float:
        """Return the height of the last value above the lower end of the axis, in pixels."""
        value = min(max(values[-1], low), high) if math.isfinite(values[-1]) else high
        if self._what == "loss":
            value, low, high = (math.log10(one) for one in (value, low, high))
        return (value - low) / (high - low) * PLOT_HEIGHT


def _is_same(runner: Runner, other: Runner) -> bool:
    """Whether two runs draw the same curves: equal settings start from equal weights."""
    one, two = runner.settings, other.settings
    return (one.technique, one.learning_rate, one.batch, one.hidden) == (
        two.technique, two.learning_rate, two.batch, two.hidden
    )  # fmt: skip


def spread_labels(ends: dict[int, tuple[int, float]]) -> dict[int, float]:
    """Return upward moves, in pixels, after which the numbers at the curves' ends do not overlap.

    Args:
        ends: of each run the last epoch and the height of the curve there.
    """
    last = max((epoch for epoch, _ in ends.values()), default=1)
    placed: list[tuple[int, int, float]] = []
    for number, (epoch, y) in sorted(ends.items(), key=lambda item: (item[1][1], item[0])):
        below = [at + LABEL_HEIGHT for _, other, at in placed if abs(epoch - other) <= NEAR * last]
        placed.append((number, epoch, max([y, *below])))
    moves: dict[int, float] = {}
    above: list[tuple[int, float]] = []
    for number, epoch, y in reversed(placed):  # those pushed above the upper end come down again
        room = min([PLOT_HEIGHT, *(at - LABEL_HEIGHT for other, at in above if abs(epoch - other) <= NEAR * last)])
        above.append((epoch, min(y, room)))
        moves[number] = min(y, room) - ends[number][1]
    return moves


def describe_off_axis(values_of: dict[int, list[float]], low: float, high: float) -> str:
    """Name the runs whose curves leave the axis, and how far; empty if none does."""
    texts, below = [], []
    for number, values in values_of.items():
        finite = [value for value in values if math.isfinite(value)]
        if finite and max(finite) > high:
            texts.append(f"run {number}, up to {max(finite):.3g}")
        elif len(finite) < len(values):
            texts.append(f"run {number}, no longer finite")
        elif finite and (min(finite) < low or min(finite) <= MIN_LOSS == low):
            below.append(str(number))
    if below:
        texts.append(f"below {low:g}: run{'s' if len(below) > 1 else ''} {', '.join(below)}")
    return f"Outside the axis: {'; '.join(texts)}." if texts else ""


def loss_axis(losses: Sequence[float]) -> dict[str, float]:
    """Compute limits that contain the losses, except those of networks that overfit completely or diverge."""
    low, high = (math.log10(edge(losses, default=1.0)) for edge in (min, max))
    bottom = max(round(math.log10(MIN_LOSS)), min(-1, math.floor(low)))
    return {"min": 10.0**bottom, "max": 10.0 ** min(2, max(1 + bottom, math.ceil(high)))}


def accuracy_axis(accuracies: Sequence[float]) -> dict[str, float]:
    """Compute limits and ticks; the steep start is cut off, because it would compress the rest."""
    twentieths = max(1, math.ceil((1 - min(accuracies, default=0.0)) * 20))
    tick = next((tick for most, tick in ((1, 1), (2, 2), (8, 5), (12, 10)) if twentieths <= most), 20)
    bottom = 100 - math.ceil(5 * twentieths / tick) * tick
    return {"min": bottom / 100, "max": 1, "interval": tick / 100}
