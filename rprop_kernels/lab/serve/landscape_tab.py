"""The page's tab of landscapes: optimizers race from a point that the reader chooses.

The package's optimizers and torch's run on the server; the browser receives their paths and draws them.
"""

import html
import math
from collections.abc import Sequence
from typing import Any, Final

import contourpy
from nicegui import events, run, ui

from ..landscapes import LANDSCAPES, RACERS, SOLVED, Landscape, Racer, Trail, find_trail

DEFAULT: Final = ("irprop+", "adam", "sgd")
MARKS: Final = {"rprop-": "●", "rprop+": "■", "irprop-": "▲", "irprop+": "◆", "adam": "▼", "sgd": "✚", "lbfgs": "★"}
"""Marks of the optimizers, so that colour alone does not tell them apart."""
FACTORS: Final = {0.1: "a tenth", 0.3: "0.3 times", 1.0: "as they are", 3.0: "3 times", 10.0: "10 times"}
GRID: Final = 200
"""Columns of the grid from which contour lines are computed."""


class _Map(ui.element, component="landscape.js"):
    """The map and the plot of step sizes, see ``landscape.js``."""


def scene(landscape: Landscape, start: tuple[float, float]) -> dict[str, Any]:
    """Return the landscape as ``landscape.js`` draws it."""
    generator = contourpy.contour_generator(*landscape.grid(GRID))
    lines = [line for level in landscape.levels for line in generator.lines(level)]
    return {
        "lower": landscape.lower,
        "upper": landscape.upper,
        "minimum": landscape.minimum,
        "start": start,
        "contours": [line.round(3).ravel().tolist() for line in lines],  # type: ignore[union-attr]
    }


def read_start(message: Any, landscape: Landscape) -> tuple[float, float] | None:
    """Return the point of a message of ``landscape.js``; None if it is not one of the map."""
    try:
        x, y = float(message["x"]), float(message["y"])
    except (KeyError, TypeError, ValueError, OverflowError):
        return None
    inside = landscape.lower[0] <= x <= landscape.upper[0] and landscape.lower[1] <= y <= landscape.upper[1]
    return (x, y) if inside else None


def find_trails(
    landscape: Landscape, racers: Sequence[Racer], start: tuple[float, float], factor: float
) -> list[Trail]:
    """Run optimizers from a point, with their usual rates times ``factor``."""
    return [find_trail(landscape, racer, start, factor * racer.usual_rate(landscape)) for racer in racers]


def describe_race(racers: Sequence[Racer], trails: Sequence[Trail]) -> str:
    """Name the winner: the fewest evaluations until the loss is SOLVED, else the lowest last loss."""
    solved = {racer.label: trail.solved for racer, trail in zip(racers, trails, strict=True)}
    counts = [count for count in solved.values() if count is not None]
    if counts:
        first = min(counts)
        names = " and ".join(label for label, count in solved.items() if count == first)
        return f"Winner: {names}, a loss of {SOLVED:g} after {first} evaluations of the gradient."
    lowest = min(trail.losses[-1] for trail in trails)
    names = " and ".join(
        racer.label
        for racer, trail in zip(racers, trails, strict=True)
        if math.isclose(trail.losses[-1], lowest, rel_tol=1e-3)
    )
    return f"No winner: none reaches a loss of {SOLVED:g}. The lowest, {lowest:.3g}: {names}."


class LandscapeTab:
    """Choices, map, step sizes and results."""

    def __init__(self) -> None:
        self._start = LANDSCAPES["ravine"].start
        self._race_number = 0
        with ui.element("section").classes("card").props("aria-labelledby=landscape-title"):
            ui.html("Race on a landscape", sanitize=False, tag="h2").props("id=landscape-title")
            labels = {name: one.label for name, one in LANDSCAPES.items()}
            self._landscape = ui.select(labels, value="ravine", label="Landscape").props("dense outlined")
            self._landscape.on_value_change(self._landscape_changed)
            self._formula = ui.label("").classes("small").style("margin: .3rem 0 0")
            with ui.element("div").classes("choices").props('role=group aria-label="Optimizers"'):
                self._chosen = {
                    name: ui.checkbox(racer.label, value=name in DEFAULT, on_change=self.race)
                    for name, racer in RACERS.items()
                }
            self._factor = ui.select(FACTORS, value=1.0, label="First steps and learning rates")
            self._factor.props("dense outlined").on_value_change(self.race)
            with ui.element("div").classes("buttons"):
                ui.button("Race from the usual start", on_click=self._usual_start).props("outline no-caps")
            self._error = ui.label("").classes("trouble").props("role=alert")
            self._winner = ui.label("").classes("state winner").props("role=status")
            self._table = ui.html("", sanitize=False).classes("scroll")
            self._table.props('tabindex=0 role=region aria-label="Results of the race"')
        with ui.element("section").classes("card").props('aria-label="Map and step sizes"'):
            self._map = _Map().on("start", self._chose)
            self._map.props["trails"] = []
            ui.label(
                "Step sizes: of an Rprop rule that of the coordinate; of the others the length of the last move."
            ).classes("small").style("margin: .4rem 0 0")
        self._show_scene()

    @property
    def _current(self) -> Landscape:
        return LANDSCAPES[self._landscape.value]

    async def open(self) -> None:
        """Begin the first race."""
        if not self._race_number:
            await self.race()

    def _show_scene(self) -> None:
        self._formula.set_text(f"loss: {self._current.formula}")
        self._map.props["scene"] = scene(self._current, self._start)
        self._map.update()

    async def _landscape_changed(self) -> None:
        await self._usual_start()

    async def _usual_start(self) -> None:
        self._start = self._current.start
        await self.race()

    async def _chose(self, event: events.GenericEventArguments) -> None:
        if (start := read_start(event.args, self._current)) is not None:
            self._start = start
            await self.race()

    async def race(self) -> None:
        """Run the chosen optimizers from the start and show their paths."""
        self._race_number += 1
        number, landscape, factor = self._race_number, self._current, float(self._factor.value)
        racers = [racer for name, racer in RACERS.items() if self._chosen[name].value]
        self._error.set_text("" if len(racers) > 1 else "Choose two or more optimizers.")
        self._map.props["trails"] = []
        self._winner.set_text("")
        self._table.set_content("")
        self._show_scene()
        if len(racers) < 2:
            return
        self._winner.set_text("The optimizers are running.")
        trails = await run.io_bound(find_trails, landscape, racers, self._start, factor)
        if trails is None or number != self._race_number:  # the server ends, or another race has begun
            return
        self._map.props["trails"] = [_to_browser(*pair) for pair in zip(racers, trails, strict=True)]
        self._map.update()
        self._winner.set_text(describe_race(racers, trails))
        self._table.set_content(_table(landscape, racers, trails, factor))


def _number(racer: Racer) -> int:
    """Return the number of an optimizer's colour, from 1."""
    return [*RACERS].index(racer.name) + 1


def _to_browser(racer: Racer, trail: Trail) -> dict[str, Any]:
    """Return a path as ``landscape.js`` draws it; ``shown``: evaluations until it has arrived or ended."""
    return {
        "mark": MARKS[racer.name],
        "colour": _number(racer),
        "points": [[float(f"{value:.6g}") for value in point] for point in trail.points],
        "steps": [[float(f"{value:.4g}") if math.isfinite(value) else None for value in pair] for pair in trail.steps],
        "evaluations": trail.evaluations.tolist(),
        "shown": trail.solved or int(trail.evaluations[-1]),
    }


def _table(landscape: Landscape, racers: Sequence[Racer], trails: Sequence[Trail], factor: float) -> str:
    heading = ("optimizer", f"to {SOLVED:g}", "last loss", "first step or rate")
    cells = "".join(
        f'<th scope="col"{" class=words" if name == "optimizer" else ""}>{html.escape(name)}</th>' for name in heading
    )
    rows = []
    for racer, trail in zip(racers, trails, strict=True):
        colour = f"color: var(--run-{_number(racer)})"
        mark = f'<span class="mark" aria-hidden="true" style="{colour}">{MARKS[racer.name]}</span>'
        texts = (
            "–" if trail.solved is None else str(trail.solved),
            f"{trail.losses[-1]:.2g}",
            f"{factor * racer.usual_rate(landscape):g}",
        )
        values = "".join(f"<td>{text}</td>" for text in texts)
        rows.append(f'<tr><td class="words">{mark}{html.escape(racer.label)}</td>{values}</tr>')
    return (
        f'<table class="runs"><thead><tr>{cells}</tr></thead><tbody>{"".join(rows)}</tbody></table>'
        f'<p class="pad-help">to {SOLVED:g}: evaluations of the gradient until the loss is that low, of '
        f"{landscape.evaluations} at most. The rates of Adam and SGD are the best of a grid from the usual start.</p>"
    )
