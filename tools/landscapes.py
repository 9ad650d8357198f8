"""Draw the paths of optimizers on landscapes: the pictures of docs/paths.md and the animation of the README.

    pip install -c constraints.txt ".[lab]"
    python tools/landscapes.py          # writes docs/images/paths-*.png and docs/images/race.gif
    python tools/landscapes.py --rates  # searches the learning rates of Adam and SGD again; writes nothing

Landscapes, optimizers and learning rates stand in rprop_kernels/lab/landscapes.py.
"""

import argparse
import io
import math
from pathlib import Path

import matplotlib
import matplotlib.colors

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from rprop_kernels.lab.landscapes import LANDSCAPES, RACERS, SOLVED, Landscape, Racer, Trail, find_trail

IMAGES = Path(__file__).resolve().parent.parent / "docs" / "images"
GRID = (*(digit * 10.0**power for power in range(-4, 0) for digit in (1, 2, 5)), 1.0)
"""Learning rates that are tried for Adam and SGD."""
COLOURS = {
    "rprop-": "#56B4E9", "rprop+": "#009E73", "irprop-": "#CC79A7", "irprop+": "#0072B2", "adam": "#D55E00",
    "sgd": "#8C6D00", "lbfgs": "#222222",
}  # fmt: skip
"""Okabe and Ito's colours, the yellow darkened."""
DASHES = {"rprop-": (0, (1, 1)), "rprop+": (0, (4, 1.5)), "irprop-": (0, (4, 1, 1, 1)), "adam": (0, (6, 1.5)),
          "sgd": (0, (2, 1)), "lbfgs": (0, (1, 2))}  # fmt: skip
"""Lines of the plot of losses, where colour alone would tell the optimizers apart."""
SHORT = {"sgd": "SGD"}

RACE = {"irprop+": "o", "adam": "s", "sgd": "^", "lbfgs": "D"}
"""Optimizers of the animation and their marks."""
FRAMES = (*range(1, 41), *range(42, 101, 2), *range(105, 201, 5))
"""Evaluations of the gradient at which a frame is drawn."""
MILLISECONDS, LAST = 90, 4000


def search_rate(landscape: Landscape, racer: Racer) -> float:
    """Return the rate of GRID that solves a landscape in the fewest evaluations, else with the lowest last loss."""

    def cost(rate: float) -> tuple[float, float]:
        path = find_trail(landscape, racer, rate=rate)
        complete = path.evaluations[-1] == landscape.evaluations
        return path.solved or math.inf, float(f"{path.losses[-1]:.3g}") if complete else math.inf

    return min(reversed(GRID), key=cost)  # of equal ones the largest


def draw_map(axes: Axes, landscape: Landscape) -> None:
    """Draw the contour lines, the start and the minimum."""
    x, y, loss = landscape.grid(240)
    count = len(landscape.levels) + 1
    greys = [str(0.99 - 0.24 * (k / (count - 1)) ** 0.9) for k in range(count)]
    axes.contourf(x, y, loss, (-1.0, *landscape.levels, math.inf), colors=greys, antialiased=False)
    axes.contour(x, y, loss, landscape.levels, colors="0.6", linewidths=0.6)
    axes.plot(*landscape.minimum, "+", color="black", markersize=13, markeredgewidth=2.2, zorder=4)
    axes.set(xlim=(landscape.lower[0], landscape.upper[0]), ylim=(landscape.lower[1], landscape.upper[1]))
    axes.set(xticks=[], yticks=[])


def draw_path(axes: Axes, path: Trail, colour: str) -> None:
    """Draw the points of a path, with a line from each to the next."""
    axes.plot(*path.points.T, "-", color="white", linewidth=4, alpha=0.8)
    axes.plot(*path.points.T, "-o", color=colour, linewidth=1.8, markersize=4.5)
    axes.plot(*path.points[0], "o", color="white", markeredgecolor=colour, markersize=9, markeredgewidth=2.2, zorder=5)


def result(landscape: Landscape, path: Trail) -> str:
    """Return the result of a path for its title."""
    if path.solved is not None:
        return f"{path.solved} evaluations"
    return f"loss {path.losses[-1]:.2g}"


def draw_paths(landscape: Landscape) -> Figure:
    """Draw a map for each optimizer and the plot of all losses; two columns, readable on a phone."""
    paths = {name: find_trail(landscape, racer) for name, racer in RACERS.items()}
    width, height = (high - low for low, high in zip(landscape.lower, landscape.upper, strict=True))
    panel = 3.9 * height / width
    figure = plt.figure(figsize=(8, 4 * (panel + 0.42) + 0.62), layout="none")
    rows = figure.get_figheight()
    for index, (name, path) in enumerate(paths.items()):
        row, column = divmod(index, 2)
        bottom = rows - (row + 1) * (panel + 0.42)
        axes = figure.add_axes((0.008 + 0.5 * column, bottom / rows, 0.484, panel / rows))
        draw_map(axes, landscape)
        draw_path(axes, path, COLOURS[name])
        axes.set_title(SHORT.get(name, RACERS[name].label), loc="left", fontsize=17, fontweight="bold", pad=4,
                       color=COLOURS[name])  # fmt: skip
        axes.set_title(result(landscape, path), loc="right", fontsize=15, pad=4)
    bottom = 0.62
    axes = figure.add_axes((0.585, bottom / rows, 0.375, (panel + 0.02) / rows))
    for name, path in paths.items():
        colour = COLOURS[name]
        axes.plot(path.evaluations, np.maximum(path.losses, SOLVED / 30), color=colour, linewidth=2.2,
                  linestyle=DASHES.get(name, "-"))  # fmt: skip
    axes.set_yscale("log")
    axes.set(ylim=(SOLVED / 10, None), xlim=(0, landscape.evaluations))
    if landscape.name == "rastrigin":
        axes.set_ylim(1, 100)
    else:
        axes.axhline(SOLVED, color="0.5", linewidth=1)
    axes.tick_params(labelsize=13)
    axes.locator_params(axis="x", nbins=4)
    axes.set_xlabel("gradient evaluations", fontsize=14)
    axes.set_title("Loss", loc="left", fontsize=17, fontweight="bold", pad=4)
    return figure


def make_palette() -> Image.Image:
    """Return a palette of greys and of each optimizer's colour towards white and grey, so that greys stay grey."""
    greys = [(level,) * 3 for level in range(0, 252, 6)] + [(255,) * 3]
    colours = [
        tuple(round(255 * (share * one + (1 - share) * back)) for one in matplotlib.colors.to_rgb(colour))
        for colour in COLOURS.values()
        for back in (1.0, 0.75)
        for share in (0.25, 0.5, 0.75, 1.0)
    ]
    palette = Image.new("P", (1, 1))
    palette.putpalette([value for colour in (*greys, *colours) for value in colour])
    return palette


def save_png(figure: Figure, path: Path) -> None:
    """Write a figure with a palette, which takes a third of the space."""
    data = io.BytesIO()
    figure.savefig(data, dpi=160)
    plt.close(figure)
    picture = Image.open(data).convert("RGB").quantize(palette=make_palette(), dither=Image.Dither.NONE)
    picture.save(path, optimize=True)


def draw_race() -> list[Image.Image]:
    """Return the frames of the animation: four landscapes, four optimizers, one clock."""
    figure = plt.figure(figsize=(8, 5.3), dpi=100)
    paths = {name: {one: find_trail(landscape, RACERS[one]) for one in RACE} for name, landscape in LANDSCAPES.items()}
    panels = {}
    for index, landscape in enumerate(LANDSCAPES.values()):
        row, column = divmod(index, 2)
        axes = figure.add_axes((0.008 + 0.5 * column, 0.505 - 0.435 * row, 0.484, 0.375))
        draw_map(axes, landscape)
        axes.set_title(landscape.label, loc="left", fontsize=17, fontweight="bold", pad=4)
        panels[landscape.name] = axes
    for index, (name, mark) in enumerate(RACE.items()):
        x = (0.02, 0.24, 0.42, 0.57)[index]
        key = figure.add_axes((x, 0.943, 0.03, 0.05))
        key.plot(0, 0, mark, color=COLOURS[name], markersize=13)
        key.set_axis_off()
        figure.text(x + 0.035, 0.967, SHORT.get(name, RACERS[name].label), fontsize=17, va="center")
    clock = figure.text(0.99, 0.967, "", fontsize=15, va="center", ha="right")
    figure.text(0.5, 0.028, "○ start, + minimum; a ring: solved (loss 1e-6)", fontsize=14, va="center", ha="center")
    frames = []
    for now in FRAMES:
        drawn = []
        for landscape in LANDSCAPES.values():
            axes = panels[landscape.name]
            for name, mark in RACE.items():
                path, colour = paths[landscape.name][name], COLOURS[name]
                points = path.points[path.evaluations <= now]
                drawn += axes.plot(*points.T, "-", color=colour, linewidth=2)
                drawn += axes.plot(*points[-1], mark, color=colour, markersize=9, markeredgecolor="white", zorder=6)
                if path.solved is not None and path.solved <= now:
                    ring = {"irprop+": 16, "adam": 21, "sgd": 26, "lbfgs": 11}[name]
                    drawn += axes.plot(*landscape.minimum, "o", markersize=ring, markerfacecolor="none",
                                       markeredgecolor=colour, markeredgewidth=2.2, zorder=7)  # fmt: skip
            drawn += axes.plot(*landscape.start, "o", color="white", markeredgecolor="black", markersize=8, zorder=5)
        clock.set_text(f"evaluation {now}")
        figure.canvas.draw()
        frames.append(Image.fromarray(np.asarray(figure.canvas.buffer_rgba())[..., :3].copy()))  # type: ignore[attr-defined]
        for artist in drawn:
            artist.remove()
    plt.close(figure)
    return frames


def save_gif(frames: list[Image.Image], path: Path) -> None:
    """Write frames with one palette for all, so that only changed pixels take space."""
    palette = make_palette()
    first, *others = [frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames]
    times = [MILLISECONDS] * len(others) + [LAST]
    first.save(path, save_all=True, append_images=others, duration=times, loop=0, optimize=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rates", action="store_true", help="search the learning rates of Adam and SGD again")
    if parser.parse_args().rates:
        for landscape in LANDSCAPES.values():
            for name, rate in landscape.rates.items():
                print(f"{landscape.name} {name}: {search_rate(landscape, RACERS[name]):g}, on file {rate:g}")
        return
    for landscape in LANDSCAPES.values():
        save_png(draw_paths(landscape), IMAGES / f"paths-{landscape.name}.png")
    save_gif(draw_race(), IMAGES / "race.gif")


if __name__ == "__main__":
    main()
