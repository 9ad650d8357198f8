"""Functions of two variables to watch optimizers on, and the paths that optimizers take on them.

The documentation's pictures and the page of ``rprop-lab serve`` draw the same landscapes and paths.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from .. import torch as rprop

Array: TypeAlias = NDArray[Any]
Point: TypeAlias = tuple[float, float]

MOMENTUM: Final = 0.9
FIRST_STEP: Final = 0.1
"""First step size of the Rprop family, as its papers recommend; the same on every landscape."""
SOLVED: Final = 1e-6
"""Loss at which a landscape counts as solved; the minimum of each is 0."""


@dataclass(frozen=True, slots=True)
class Landscape:
    """A function of two variables with minimum 0.

    Attributes:
        name, label: for programs, for people.
        formula: plain text.
        function: of tensors x and y.
        lower, upper: corners of the part that is drawn.
        start: the usual start.
        minimum: the point of loss 0.
        levels: losses of the contour lines.
        evaluations: evaluations of the gradient in a race.
        rates: learning rates of Adam and SGD: the best of a grid from ``start``, found by ``tools/landscapes.py``.
    """

    name: str
    label: str
    formula: str
    function: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
    lower: Point
    upper: Point
    start: Point
    minimum: Point
    levels: tuple[float, ...]
    evaluations: int
    rates: Mapping[str, float]

    def grid(self, count: int) -> tuple[Array, Array, Array]:
        """Return x, y and the loss on a grid of ``count`` columns, for contour lines."""
        width, height = (high - low for low, high in zip(self.lower, self.upper, strict=True))
        x = torch.linspace(self.lower[0], self.upper[0], count, dtype=torch.float64)
        y = torch.linspace(self.lower[1], self.upper[1], round(count * height / width), dtype=torch.float64)
        return x.numpy(), y.numpy(), self.function(x[None, :], y[:, None]).numpy()


def _ravine(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return (x**2 + 1000 * y**2) / 2


def _bowl(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return ((x + y) ** 2 + 30 * (x - y) ** 2) / 4


def _rosenbrock(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return (1 - x) ** 2 + 100 * (y - x**2) ** 2


def _rastrigin(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return 20 + x**2 - 10 * torch.cos(2 * math.pi * x) + y**2 - 10 * torch.cos(2 * math.pi * y)


LANDSCAPES: Final = {
    landscape.name: landscape
    for landscape in (
        Landscape(
            "ravine", "Ravine", "(x² + 1000 y²) / 2", _ravine,
            (-4.0, -1.0), (1.0, 1.0), (-3.5, 0.8), (0.0, 0.0),
            (0.1, 0.5, 2.0, 6.0, 20.0, 60.0, 150.0, 300.0), 200, {"adam": 0.1, "sgd": 0.002},
        ),
        Landscape(
            "bowl", "Tilted bowl", "((x + y)² + 30 (x - y)²) / 4", _bowl,
            (-2.8, -1.4), (2.8, 1.4), (-2.0, -0.3), (0.0, 0.0),
            (0.1, 0.5, 1.5, 4.0, 10.0, 20.0, 40.0, 80.0), 200, {"adam": 1.0, "sgd": 0.05},
        ),
        Landscape(
            "rosenbrock", "Rosenbrock", "(1 - x)² + 100 (y - x²)²", _rosenbrock,
            (-2.0, -0.5), (2.0, 1.9), (-1.2, 1.0), (1.0, 1.0),
            (0.1, 0.5, 2.0, 6.0, 20.0, 60.0, 200.0, 500.0), 1000, {"adam": 0.5, "sgd": 0.002},
        ),
        Landscape(
            "rastrigin", "Rastrigin", "20 + x² - 10 cos 2πx + y² - 10 cos 2πy", _rastrigin,
            (-4.7, -0.7), (1.7, 2.5), (-3.4, 1.6), (0.0, 0.0),
            (1.0, 4.0, 8.0, 13.0, 18.0, 25.0, 35.0, 45.0), 200, {"adam": 0.5, "sgd": 0.005},
        ),
    )
}  # fmt: skip
"""All landscapes, by name."""


@dataclass(frozen=True, slots=True)
class Racer:
    """An optimizer with a name for programs and one for people.

    Attributes:
        is_rprop: whether it has a step size for each weight; the learning rate is then the first.
        make: ``make(params, rate)`` gives the optimizer.
        rate: the learning rate on every landscape; None: that of the landscape.
    """

    name: str
    label: str
    is_rprop: bool
    make: Callable[[Iterable[torch.Tensor], float], Any]
    rate: float | None

    def usual_rate(self, landscape: Landscape) -> float:
        """Return the learning rate for a landscape."""
        return landscape.rates[self.name] if self.rate is None else self.rate


def _lbfgs(params: Iterable[torch.Tensor], rate: float) -> torch.optim.Optimizer:
    # One iteration a step, so that each point is seen; its usual limit of evaluations would end every line search.
    return torch.optim.LBFGS(
        params, rate, max_iter=1, max_eval=26, tolerance_grad=0, tolerance_change=0, line_search_fn="strong_wolfe"
    )


RACERS: Final = {
    racer.name: racer
    for racer in (
        Racer("rprop-", "Rprop-", True, rprop.RpropMinus, FIRST_STEP),
        Racer("rprop+", "Rprop+", True, rprop.RpropPlus, FIRST_STEP),
        Racer("irprop-", "iRprop-", True, rprop.IRpropMinus, FIRST_STEP),
        Racer("irprop+", "iRprop+", True, rprop.IRpropPlus, FIRST_STEP),
        Racer("adam", "Adam", False, torch.optim.Adam, None),
        Racer("sgd", f"SGD, momentum {MOMENTUM}", False,
              lambda params, rate: torch.optim.SGD(params, rate, momentum=MOMENTUM), None),
        Racer("lbfgs", "L-BFGS", False, _lbfgs, 1.0),
    )
}  # fmt: skip
"""All optimizers, by name."""


class Trail(NamedTuple):
    """The points that an optimizer passed.

    Attributes:
        points: shape (n, 2); the first is the start.
        losses: shape (n,).
        steps: shape (n, 2): of an Rprop rule the step sizes, else the lengths of the last move, NaN at the start.
        evaluations: shape (n,): the evaluations of the gradient so far, that at the point included.
    """

    points: Array
    losses: Array
    steps: Array
    evaluations: Array

    @property
    def solved(self) -> int | None:
        """The number of evaluations until the loss was at most SOLVED; None if it never was."""
        found = np.flatnonzero(self.losses <= SOLVED)
        return int(self.evaluations[found[0]]) if found.size else None


def find_trail(
    landscape: Landscape, racer: Racer, start: Point | None = None, rate: float | None = None, limit: int | None = None
) -> Trail:
    """Run an optimizer on a landscape.

    It ends after ``limit`` evaluations of the gradient, at a loss that is not finite, or where L-BFGS stops moving.

    Args:
        landscape: where.
        racer: the optimizer.
        start: None: the landscape's.
        rate: learning rate; None: the usual one.
        limit: None: the landscape's number.
    """
    limit = landscape.evaluations if limit is None else limit
    rate = racer.usual_rate(landscape) if rate is None else rate
    w = torch.tensor(landscape.start if start is None else start, dtype=torch.float64, requires_grad=True)
    optimizer = racer.make([w], rate)
    calls = 0

    def evaluate() -> torch.Tensor:
        nonlocal calls
        calls += 1
        optimizer.zero_grad()
        loss = landscape.function(w[0], w[1])
        loss.backward()  # type: ignore[no-untyped-call]  # torch has no annotation of it
        return loss.detach()

    first_steps = (rate, rate) if racer.is_rprop else (math.nan, math.nan)
    rows: list[tuple[float, ...]] = []
    steps: tuple[float, ...] = first_steps
    done = 0
    while True:
        at = w.detach().clone()
        if racer.name == "lbfgs":
            with torch.no_grad():
                loss = landscape.function(at[0], at[1])
            used = 1 if done == 0 else calls - (done - 1)  # each call of its step repeats the last evaluation
        else:
            loss = evaluate()
            used = calls
        if used > limit or not (math.isfinite(loss) and bool(at.isfinite().all())):
            break
        rows.append((*at.tolist(), float(loss), *steps, used))
        if used == limit:
            break
        if racer.name == "lbfgs":
            optimizer.step(evaluate)
        elif racer.name == "irprop+":
            optimizer.step(loss=loss)
        else:
            optimizer.step()
        done += 1
        move = (w.detach() - at).abs()
        if racer.name == "lbfgs" and not bool(move.any()):
            break
        steps = tuple((optimizer.signs_and_steps(w)[1] if racer.is_rprop else move).tolist())
    table = np.array(rows)
    return Trail(table[:, :2], table[:, 2], table[:, 3:5], table[:, 5].astype(int))
