"""Problems of bench_fit.py: residuals and gradients by hand, for one problem in NumPy and for rows in NumPy or torch.

Every loss is half a sum of squares. Problem number i is the same for every number of problems.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

MOST = 10_000
"""Random data are made for so many problems; fewer problems are the first of them."""


@dataclass(frozen=True)
class Problem:
    """A kind of problem.

    Attributes:
        name: without spaces.
        start: shape (n,) or (MOST, n).
        args: data of the problems, arrays whose first dimension is MOST.
        rows: ``rows(xp, x, *args)`` returns losses (rows,) and gradients (rows, n); xp is numpy or torch.
        one: ``one(x, *args)`` of one problem returns loss and gradient, shape (n,).
        residuals: ``residuals(x, *args)`` of one problem, shape (m,).
        jacobian: ``jacobian(x, *args)`` of one problem, shape (m, n).
        truth: points near the solutions, (n,) or (MOST, n); the data were made with them.
        bounds: lower and upper bounds, shapes (n,), or None.
        learning_rate: of Adam, the best of LEARNING_RATES for 100 problems.
    """

    name: str
    start: Any
    args: tuple[Any, ...]
    rows: Callable[..., Any]
    one: Callable[..., Any]
    residuals: Callable[..., Any]
    jacobian: Callable[..., Any]
    truth: Any
    bounds: Any = None
    learning_rate: float = 0.1
    n: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        object.__setattr__(self, "n", np.shape(self.start)[-1])

    def points(self, value: Any, count: int) -> Any:
        """Return start or truth for so many problems."""
        return np.array(np.broadcast_to(value, (MOST, self.n))[:count], order="C")

    def data(self, count: int) -> tuple[Any, ...]:
        """Return the data of so many problems."""
        return tuple(arg[:count] for arg in self.args)


# ------------------------------------------------------------------------------------------- logistic curves

TIMES = np.linspace(0.0, 10.0, 30)


def logistic(x: Any, y: Any) -> Any:
    return x[0] / (1 + np.exp(x[1] * (x[2] - TIMES))) - y


def logistic_jacobian(x: Any, y: Any) -> Any:
    s = 1 / (1 + np.exp(x[1] * (x[2] - TIMES)))
    d = x[0] * s * (1 - s)
    return np.stack([s, d * (TIMES - x[2]), -x[1] * d], 1)


def logistic_one(x: Any, y: Any) -> Any:
    since = TIMES - x[2]
    s = 1 / (1 + np.exp(-x[1] * since))
    r = x[0] * s - y
    d = r * s * (1 - s) * x[0]
    return 0.5 * (r @ r), np.array([r @ s, d @ since, -x[1] * d.sum()])


def logistic_rows(xp: Any, x: Any, y: Any) -> Any:
    height, slope, middle = x[:, :1], x[:, 1:2], x[:, 2:]
    since = xp.asarray(TIMES) - middle
    s = 1 / (1 + xp.exp(-slope * since))
    r = height * s - y
    rs = r * s
    d = height * rs * (1 - s)
    grads = [rs.sum(1), (d * since).sum(1), -x[:, 1] * d.sum(1)]
    return 0.5 * (r * r).sum(1), xp.stack(grads, 1)


def make_logistic() -> Problem:
    rng = np.random.default_rng(1)
    truth = rng.uniform([0.5, 0.5, 2.0], [2.0, 2.2, 8.0], (MOST, 3))
    y = truth[:, :1] / (1 + np.exp(truth[:, 1:2] * (truth[:, 2:] - TIMES))) + rng.normal(0, 0.05, (MOST, 30))
    bounds = np.array([0.1, 0.1, 0.0]), np.array([3.0, 2.0, 10.0])
    start = np.array([1.0, 1.0, 5.0])
    truth = truth.clip(*bounds)
    functions = logistic_rows, logistic_one, logistic, logistic_jacobian
    return Problem("logistic", start, (y,), *functions, truth, bounds, learning_rate=0.03)


# ----------------------------------------------------------------------------------- sums of two exponentials

DELAYS = np.linspace(0.0, 5.0, 40)


def exponentials(x: Any, y: Any) -> Any:
    return x[0] * np.exp(-x[1] * DELAYS) + x[2] * np.exp(-x[3] * DELAYS) - y


def exponentials_jacobian(x: Any, y: Any) -> Any:
    first, second = np.exp(-x[1] * DELAYS), np.exp(-x[3] * DELAYS)
    return np.stack([first, -x[0] * DELAYS * first, second, -x[2] * DELAYS * second], 1)


def exponentials_one(x: Any, y: Any) -> Any:
    first, second = np.exp(-x[1] * DELAYS), np.exp(-x[3] * DELAYS)
    r = x[0] * first + x[2] * second - y
    rt = r * DELAYS
    return 0.5 * (r @ r), np.array([r @ first, -x[0] * (rt @ first), r @ second, -x[2] * (rt @ second)])


def exponentials_rows(xp: Any, x: Any, y: Any) -> Any:
    t = xp.asarray(DELAYS)
    first, second = xp.exp(-x[:, 1:2] * t), xp.exp(-x[:, 3:] * t)
    r = x[:, :1] * first + x[:, 2:3] * second - y
    rt = r * t
    grads = [(r * first).sum(1), -x[:, 0] * (rt * first).sum(1), (r * second).sum(1), -x[:, 2] * (rt * second).sum(1)]
    return 0.5 * (r * r).sum(1), xp.stack(grads, 1)


def make_exponentials() -> Problem:
    rng = np.random.default_rng(2)
    truth = rng.uniform([0.5, 0.2, 0.5, 2.0], [2.0, 0.8, 2.0, 5.0], (MOST, 4))
    y = truth[:, :1] * np.exp(-truth[:, 1:2] * DELAYS) + truth[:, 2:3] * np.exp(-truth[:, 3:] * DELAYS)
    y += rng.normal(0, 0.01, y.shape)
    start = np.array([1.0, 0.5, 1.0, 3.0])
    functions = exponentials_rows, exponentials_one, exponentials, exponentials_jacobian
    return Problem("exponentials", start, (y,), *functions, truth, learning_rate=0.03)


# ------------------------------------------------------------------------------------------------------ bowls


def bowl(x: Any, root: Any, centre: Any) -> Any:
    return root * (x - centre)


def bowl_jacobian(x: Any, root: Any, centre: Any) -> Any:
    return np.diag(root)


def bowl_one(x: Any, root: Any, centre: Any) -> Any:
    r = root * (x - centre)
    return 0.5 * (r @ r), root * r


def bowl_rows(xp: Any, x: Any, root: Any, centre: Any) -> Any:
    r = root * (x - centre)
    return 0.5 * (r * r).sum(1), root * r


def make_bowl(n: int) -> Problem:
    """Return quadratics along the axes whose curvatures are drawn from 10^-3 to 10^3."""
    rng = np.random.default_rng(n)
    root = 10.0 ** rng.uniform(-1.5, 1.5, (MOST, n))
    centre = rng.uniform(-2, 2, (MOST, n))
    functions = bowl_rows, bowl_one, bowl, bowl_jacobian
    return Problem(f"bowl-{n}", np.zeros(n), (root, centre), *functions, centre)


# ------------------------------------------------------------------------------------------------- Rosenbrock

ROOT2 = 2**0.5


def rosenbrock(x: Any) -> Any:
    return ROOT2 * np.concatenate([10 * (x[1:] - x[:-1] ** 2), 1 - x[:-1]])


def rosenbrock_jacobian(x: Any) -> Any:
    n = len(x)
    i = np.arange(n - 1)
    j = np.zeros((2 * n - 2, n))
    j[i, i], j[i, i + 1], j[n - 1 + i, i] = -20 * ROOT2 * x[:-1], 10 * ROOT2, -ROOT2
    return j


def rosenbrock_one(x: Any) -> Any:
    low, high = x[:-1], x[1:]
    a, b = high - low * low, 1 - low
    g = np.zeros(len(x))
    g[:-1] = -400 * low * a - 2 * b
    g[1:] += 200 * a
    return 100 * (a @ a) + b @ b, g


def rosenbrock_rows(xp: Any, x: Any) -> Any:
    low, high = x[:, :-1], x[:, 1:]
    a, b = high - low * low, 1 - low
    g = xp.zeros_like(x)
    g[:, :-1] = -400 * low * a - 2 * b
    g[:, 1:] += 200 * a
    return (100 * a * a + b * b).sum(1), g


def make_rosenbrock(n: int) -> Problem:
    start = np.random.default_rng(n + 100).uniform(-1, 2, (MOST, n))
    functions = rosenbrock_rows, rosenbrock_one, rosenbrock, rosenbrock_jacobian
    return Problem(f"rosenbrock-{n}", start, (), *functions, np.ones(n))


PROBLEMS = {
    problem.name: problem
    for problem in (
        make_logistic(),
        make_exponentials(),
        make_bowl(3),
        make_bowl(20),
        make_rosenbrock(2),
        make_rosenbrock(5),
    )
}
