"""The rules in NumPy: always there, written to be read. Every other backend gives the same bits.

A kernel works on one parameter in place::

    kernel(w, g, state, hyper, maximize, verdict)

w, g and the state arrays have one shape. float32 or float64 alike for all; float16 w and g go with a
float32 state (the four classes) and are computed in float32. ``state`` is ``(move,)`` for the four
classes (:mod:`.state`) and ``(prev, step_size)`` for ``"torch"``.
"""

from collections.abc import Callable, Sequence
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ..hyperparameters import Hyperparameters
from ..variants import VARIANTS
from .state import CODES
from .verdict import BETTER, LOST, Verdict

Array: TypeAlias = NDArray[Any]
State: TypeAlias = tuple[Array, ...]


def _sign(g: Array, dtype: np.dtype[Any]) -> Array:
    """-1, 0 or +1 in dtype; 0 for NaN."""
    sign: Array = (g > 0).astype(dtype) - (g < 0).astype(dtype)
    return sign


def _one_state_rule(flip: str) -> Callable[..., None]:
    """The rule of [RB93] and [IH03] on the one-array state; ``flip`` is the variant's ``on_flip``."""

    def kernel(
        w: Array, g: Array, state: State, hyper: Hyperparameters, maximize: bool = False, verdict: Verdict = BETTER
    ) -> None:
        (move,) = state
        real = move.dtype
        code = CODES[real.name]
        with np.errstate(all="ignore"):  # eta_plus may be infinite in float32; NaN and inf are ordinary input
            eta_minus, eta_plus, step_min, step_max = (np.asarray(x, np.float64).astype(real) for x in hyper)
            step_min = np.maximum(step_min, real.type(code.least))
            shift, unshift = real.type(code.shift), real.type(1 / code.shift)
            if np.ndim(verdict):  # one verdict a row
                verdict = np.reshape(verdict, (-1,) + (1,) * (w.ndim - 1))
            undo = flip == "undo" or (flip == "undo if worse" and np.asarray(verdict) != BETTER)

            size = np.abs(move)
            forgot = size > real.type(code.threshold)
            step = np.where(forgot, size * unshift, size)
            q = np.where(forgot, real.type(0), _sign(move, real))
            sign = -_sign(g, real) if maximize else _sign(g, real)
            if flip == "undo if worse":  # a loss that is NaN or infinite turns every remembered move into a flip
                sign = np.where(np.asarray(verdict) == LOST, -q, sign)

            c = sign * q
            new = step * np.where(c > 0, eta_plus, np.where(c < 0, eta_minus, real.type(1)))
            new = np.minimum(np.maximum(new, step_min), step_max)
            if flip == "move":
                w[...] = w - np.where(sign != 0, sign * new, real.type(0))
            else:
                back = np.where(undo, -move, real.type(0))
                w[...] = w - np.where(c < 0, back, np.where(sign != 0, sign * new, real.type(0)))
                sign = np.where(c < 0, real.type(0), sign)
            move[...] = np.where(sign != 0, sign * new, new * shift)

    return kernel


def torch_rprop(
    w: Array, g: Array, state: State, hyper: Hyperparameters, maximize: bool = False, verdict: Verdict = BETTER
) -> None:
    """What torch.optim.Rprop computes: iRprop- with the product g * prev, which can underflow, in place of c."""
    prev, step_size = state
    real = w.dtype.type
    with np.errstate(all="ignore"):
        eta_minus, eta_plus, step_min, step_max = (real(x) for x in hyper)
        g = -g if maximize else g
        c = _sign(g * prev, w.dtype)
        factor = np.where(c > 0, eta_plus, np.where(c < 0, eta_minus, real(1)))
        step_size *= factor
        # NaN steps stay NaN, and D_min > D_max gives D_max: NumPy's two functions agree with torch's clamp.
        np.minimum(np.maximum(step_size, step_min), step_max, out=step_size)
        g = np.where(factor == eta_minus, real(0), g)  # torch asks the factor, not the sign
        w += -_sign(g, w.dtype) * step_size
        prev[...] = g


KERNELS: Final = {row.name: _one_state_rule(row.on_flip) for row in VARIANTS.values() if row.state == ("move",)} | {
    "torch": torch_rprop
}


def step(
    variant: str,
    weights: Sequence[Array],
    gradients: Sequence[Array],
    states: Sequence[State],
    hyper: Hyperparameters,
    *,
    maximize: bool = False,
    verdict: Verdict = BETTER,
    threads: int = 1,
) -> bool:
    """One step of ``variant`` on every array, in place; nothing is checked.

    Args:
        variant: a key of ``KERNELS``.
        weights: INOUT, the parameters.
        gradients: IN, of the parameters' shapes.
        states: INOUT, one tuple of arrays a parameter.
        hyper: as Python floats; cast to each array's dtype here.
        maximize: negate the gradients.
        verdict: on the loss, for ``"irprop+"``: one of BETTER, WORSE, LOST, or an array of them of shape (B,)
            that judges the rows of arrays whose first dimension is B.
        threads: how many threads a backend may use; NumPy uses one.

    Returns:
        Whether all was done. (A backend that cannot take the arrays returns False and has touched nothing.)
    """
    kernel = KERNELS[variant]
    for w, g, state in zip(weights, gradients, states, strict=True):
        kernel(w, g, state, hyper, maximize, verdict)
    return True
