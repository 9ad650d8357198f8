"""The oracle: every rule as the papers print it, one weight at a time. Slow, readable, independent of the package.

[RB93] M. Riedmiller, H. Braun, "A direct adaptive method for faster backpropagation learning", ICNN 1993.
[IH03] C. Igel, M. Hüsken, "Empirical evaluation of the improved Rprop learning algorithms", 2003.

All arithmetic is in a NumPy scalar type, so that it rounds as the arrays do.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

RULES = ("rprop-", "rprop+", "irprop-", "irprop+")


def sign(x: Any) -> int:
    """sign(0) = sign(NaN) = 0."""
    return 1 if x > 0 else -1 if x < 0 else 0


def bfloat16(x: Any) -> np.float32:
    """``x`` rounded to bfloat16 (to nearest, ties to even), as a float32."""
    x = np.float32(x)
    if not np.isfinite(x):
        return x
    _, exponent = math.frexp(float(x))
    ulp = 2.0 ** (max(exponent, -125) - 8)
    return np.float32(round(float(x) / ulp) * ulp) if x != 0 else x


STORE: dict[str, Callable[[Any], Any]] = {
    "float32": np.float32,
    "float64": np.float64,
    "float16": lambda x: np.float32(np.float16(x)),
    "bfloat16": bfloat16,
}
"""Rounding to a parameter's dtype; float16 and bfloat16 values are held as the float32 of equal value."""


@dataclass
class Weight:
    """One weight, its remembered gradient sign q, and its step size D; its bounds, and whether it is frozen."""

    w: Any
    q: int
    D: Any
    lower: Any = None
    upper: Any = None
    frozen: bool = False


def of_each(value: Any, n: int) -> list[Any]:
    """A value for each weight: the items of a sequence, or one number for all."""
    return [value] * n if np.ndim(value) == 0 else list(value)


@dataclass
class Oracle:
    """One of the four rules for a list of weights that share a loss.

    ``dtype`` is the parameter's; D is float32 for half precision, else of the same type. ``lr``, ``lower``, ``upper``
    and ``frozen`` are one value for all weights or a sequence with one for each.
    """

    rule: str
    start: Sequence[Any]
    dtype: str = "float32"
    lr: Any = 1e-2
    etas: tuple[float, float] = (0.5, 1.2)
    step_sizes: tuple[float, float] = (1e-6, 50.0)
    maximize: bool = False
    lower: Any = None
    upper: Any = None
    frozen: Any = False
    weights: list[Weight] = field(init=False)
    E_prev: float | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        self.real = np.float64 if self.dtype == "float64" else np.float32
        self.store = STORE[self.dtype]
        self.smallest = self.real(2.0**-255 if self.dtype == "float64" else 2.0**-63)  # the smallest step size
        n = len(self.start)
        self.weights = [
            Weight(self.store(w), 0, max(self.real(lr), self.smallest), low, high, bool(fixed))
            for w, lr, low, high, fixed in zip(
                self.start,
                *(of_each(value, n) for value in (self.lr, self.lower, self.upper, self.frozen)),
                strict=True,
            )
        ]

    def step(self, gradients: Sequence[Any], E: float | None = None) -> None:
        """Perform one step; E is the loss at the current weights."""
        with np.errstate(all="ignore"):
            nonfinite = E is not None and not math.isfinite(E)
            worse = (
                E is not None and self.E_prev is not None and (self.E_prev > E if self.maximize else self.E_prev < E)
            )
            for weight, g in zip(self.weights, gradients, strict=True):
                if weight.frozen:
                    self._freeze(weight)
                elif self.rule == "irprop+" and nonfinite and self.E_prev is not None:
                    self._return(weight)
                else:
                    self._step(weight, -g if self.maximize else g, worse)
                if not weight.frozen:
                    self._stop(weight)
            if E is not None and not nonfinite:
                self.E_prev = E

    def _resize(self, D: Any, c: int) -> Any:
        """[IH03] eq. 3: the step size grows where the sign stayed, shrinks where it changed, within its bounds."""
        eta_minus, eta_plus = (self.real(x) for x in self.etas)
        D_min, D_max = (self.real(x) for x in self.step_sizes)
        D_min = max(D_min, self.smallest)
        if c > 0:
            D = D * eta_plus
        elif c < 0:
            D = D * eta_minus
        return min(max(D, D_min), D_max)

    def _move(self, weight: Weight, delta: Any) -> None:
        weight.w = self.store(self.real(weight.w) + self.real(delta))

    def _freeze(self, weight: Weight) -> None:
        """A frozen weight never moves: it forgets its sign and keeps its step size."""
        weight.D = self._resize(weight.D, 0)
        weight.q = 0

    def limits(self, weight: Weight) -> tuple[Any, Any]:
        """The bounds of a weight in its dtype; an end that is None is infinite."""
        lower = self.store(-math.inf if weight.lower is None else weight.lower)
        return lower, self.store(math.inf if weight.upper is None else weight.upper)

    def _stop(self, weight: Weight) -> None:
        """A weight at or beyond a bound stops on it, forgets its sign, and steps by half its interval at most."""
        if weight.lower is None and weight.upper is None:
            return
        lower, upper = self.limits(weight)
        if weight.w >= upper:
            weight.w = upper
        elif weight.w <= lower:
            weight.w = lower
        else:
            return
        half = (self.real(upper) - self.real(lower)) / self.real(2)
        weight.q = 0
        weight.D = min(weight.D, max(half, self.smallest))

    def _step(self, weight: Weight, g: Any, worse: bool) -> None:
        c = sign(g) * weight.q
        D_old = weight.D
        weight.D = self._resize(D_old, c)
        if c < 0 and self.rule == "rprop+":  # [IH03] algorithm 1: weight-backtracking
            self._move(weight, weight.q * D_old)
            weight.q = 0
        elif c < 0 and self.rule == "irprop-":  # algorithm 4
            weight.q = 0
        elif c < 0 and self.rule == "irprop+":  # algorithm 3
            if worse:
                self._move(weight, weight.q * D_old)
            weight.q = 0
        else:  # and algorithm 2 always
            if sign(g) != 0:
                self._move(weight, -sign(g) * weight.D)
            weight.q = sign(g)

    def _return(self, weight: Weight) -> None:
        """Take the last move back after a loss that is NaN or infinite (an extension of this package)."""
        c = -1 if weight.q != 0 else 0
        D_old = weight.D
        weight.D = self._resize(D_old, c)
        if c < 0:
            self._move(weight, weight.q * D_old)
            weight.q = 0


@dataclass
class TorchOracle:
    """torch.optim.Rprop, one operation after the other, each rounded to the dtype as torch's tensors are."""

    start: Sequence[Any]
    dtype: str = "float32"
    lr: float = 1e-2
    etas: tuple[float, float] = (0.5, 1.2)
    step_sizes: tuple[float, float] = (1e-6, 50.0)
    maximize: bool = False

    def __post_init__(self) -> None:
        self.store = STORE[self.dtype]
        self.real = np.float64 if self.dtype == "float64" else np.float32
        self.w = [self.store(w) for w in self.start]
        self.prev = [self.store(0.0) for _ in self.start]
        self.step_size = [self.store(self.lr) for _ in self.start]

    def step(self, gradients: Sequence[Any]) -> None:
        with np.errstate(all="ignore"):
            eta_minus, eta_plus, low, high = (self.store(x) for x in (*self.etas, *self.step_sizes))
            for i, g in enumerate(gradients):
                g = -self.real(g) if self.maximize else self.real(g)
                product = self.store(g * self.prev[i])
                factor = eta_plus if product > 0 else eta_minus if product < 0 else self.store(1.0)
                step = self.store(self.step_size[i] * factor)
                step = low if step < low else step
                step = high if step > high else step
                if factor == eta_minus:
                    g = self.real(0.0)
                self.step_size[i] = step
                self.prev[i] = g
                self.w[i] = self.store(self.w[i] + self.real(-1.0) * self.real(sign(g)) * step)  # -1 * 0 is -0
