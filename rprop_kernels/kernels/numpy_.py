"""The rules in NumPy: always available, and the ones to read first. Every other engine gives the same bits.

An update works on one parameter in place::

    update(w, g, state, hyper, maximize, outcome, constraints)

w, g and the state arrays have one shape and dtype, float32 or float64. ``state`` is ``(move,)`` for the four variants
(:mod:`rprop_kernels.state`) and ``(prev, step_size)`` for ``"torch"``, which has no constraints. ``constraints`` is
None or ``(lower, upper, frozen)``, each None, a number or an array that broadcasts to w.
"""

from collections.abc import Callable, Sequence
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ..hyperparameters import Hyperparameters
from ..loss import NONFINITE, NOT_WORSE, LossOutcome
from ..rules import VARIANTS
from ..state import decode, encoding_of, forget_sign

Array: TypeAlias = NDArray[Any]
State: TypeAlias = tuple[Array, ...]
Constraints: TypeAlias = tuple[Any, Any, Any] | None


def _sign(g: Array, dtype: np.dtype[Any]) -> Array:
    """Return -1, 0 or +1 in dtype; 0 for NaN."""
    sign: Array = (g > 0).astype(dtype) - (g < 0).astype(dtype)
    return sign


def _rule(on_flip: str) -> Callable[..., None]:
    """Make the update of [RB93] and [IH03] whose treatment of a flip is the variant's ``on_flip``."""

    def update(
        w: Array,
        g: Array,
        state: State,
        hyper: Hyperparameters,
        maximize: bool = False,
        outcome: LossOutcome = NOT_WORSE,
        constraints: Constraints = None,
    ) -> None:
        (move,) = state
        lower, upper, frozen = constraints or (None, None, None)
        real = move.dtype
        encoding = encoding_of(real)
        with np.errstate(all="ignore"):  # eta_plus may be infinite in float32; NaN and inf are ordinary input
            eta_minus, eta_plus, step_min, step_max = (np.asarray(x, np.float64).astype(real) for x in hyper)
            step_min = np.maximum(step_min, real.type(encoding.min_step))
            if np.ndim(outcome):  # one for each row
                outcome = np.reshape(outcome, (-1,) + (1,) * (w.ndim - 1))
            backtracks = on_flip == "backtrack" or (
                on_flip == "backtrack if worse" and np.asarray(outcome) != NOT_WORSE
            )

            q, step = decode(move)
            sign = -_sign(g, real) if maximize else _sign(g, real)
            if on_flip == "backtrack if worse":  # a loss that is not finite turns every remembered move into a flip
                sign = np.where(np.asarray(outcome) == NONFINITE, -q, sign)
            if frozen is not None:
                q, sign = (np.where(frozen, real.type(0), x) for x in (q, sign))

            c = sign * q
            step = step * np.where(c > 0, eta_plus, np.where(c < 0, eta_minus, real.type(1)))
            step = np.minimum(np.maximum(step, step_min), step_max)
            if on_flip == "move":
                w[...] = w - np.where(sign != 0, sign * step, real.type(0))
            else:
                taken_back = np.where(backtracks, -move, real.type(0))
                w[...] = w - np.where(c < 0, taken_back, np.where(sign != 0, sign * step, real.type(0)))
                sign = np.where(c < 0, real.type(0), sign)
            move[...] = np.where(sign != 0, sign * step, step * real.type(encoding.shift))
            if lower is not None or upper is not None:
                _stop_at_bounds(w, move, lower, upper, frozen)

    return update


def _stop_at_bounds(w: Array, move: Array, lower: Any, upper: Any, frozen: Any) -> None:
    """Set weights at or beyond a bound on it; they forget their signs, and step by half their interval at most."""
    encoding, real = encoding_of(move.dtype), move.dtype.type
    lower = np.asarray(-np.inf if lower is None else lower, w.dtype)
    upper = np.asarray(np.inf if upper is None else upper, w.dtype)
    high = w >= upper
    stopped = ((w <= lower) | high) & (True if frozen is None else ~np.asarray(frozen))
    largest = np.maximum((upper - lower) / real(2), real(encoding.min_step)) * real(encoding.shift)
    w[...] = np.where(stopped, np.where(high, upper, lower), w)
    move[...] = np.where(stopped, np.minimum(forget_sign(move), largest), move)


def torch_update(
    w: Array,
    g: Array,
    state: State,
    hyper: Hyperparameters,
    maximize: bool = False,
    outcome: LossOutcome = NOT_WORSE,
    constraints: Constraints = None,
) -> None:
    """Update as torch.optim.Rprop: iRprop- with the product g * prev, which can underflow, in place of c."""
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
        g = np.where(factor == eta_minus, real(0), g)  # torch compares the factor, not the sign
        w += -_sign(g, w.dtype) * step_size
        prev[...] = g


def copy_improved(best: Array, w: Array, improved: Array) -> None:
    """Copy w, or its rows, where it has improved: one boolean for all, or one for each row."""
    if improved.size == 1:
        improved = improved.reshape(())
    np.copyto(best, w, where=improved.reshape(improved.shape + (1,) * (w.ndim - 1)) if improved.ndim else improved)


UPDATES: Final = {row.name: _rule(row.on_flip) for row in VARIANTS.values() if row.state == ("move",)} | {
    "torch": torch_update
}


def step(
    variant: str,
    params: Sequence[Array],
    grads: Sequence[Array],
    states: Sequence[State],
    hyper: Hyperparameters,
    *,
    maximize: bool = False,
    outcome: LossOutcome = NOT_WORSE,
    n_threads: int = 1,
    constraints: Sequence[Constraints] | None = None,
    bests: Sequence[Array] | None = None,
    improved: bytes | None = None,
) -> bool:
    """Perform one step of ``variant`` on every array, in place; nothing is validated.

    Args:
        variant: a key of ``UPDATES``.
        params: INOUT, the parameters.
        grads: IN, the gradients, of the parameters' shapes.
        states: INOUT, one tuple of arrays for each parameter.
        hyper: as Python floats; cast to each array's dtype here.
        maximize: negate the gradients.
        outcome: of the loss comparison, for ``"irprop+"``: NOT_WORSE, WORSE or NONFINITE, or an array of them of
            shape (B,) for the rows of parameters whose first dimension is B.
        n_threads: the number of threads that an engine may use; NumPy uses one.
        constraints: None, or for each parameter None or ``(lower, upper, frozen)``. Each of these is None, a number or
            an array that broadcasts to the parameter, the bounds in its dtype, ``frozen`` of booleans.
        bests: None, or for each parameter an array, to which it is copied before the step where it has improved.
        improved: one byte for all, or one for each row of parameters whose first dimension is that number.

    Returns:
        True where all was done. (An engine that cannot take the arrays returns False and has touched nothing.)
    """
    update = UPDATES[variant]
    if bests is not None:
        for best, w in zip(bests, params, strict=True):
            copy_improved(best, w, np.frombuffer(improved or b"", bool))
    for w, g, state, limits in zip(params, grads, states, constraints or [None] * len(params), strict=True):
        update(w, g, state, hyper, maximize, outcome, limits)
    return True
