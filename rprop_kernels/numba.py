"""Rprop for loops that users compile with Numba: the four rules as functions of one weight.

::

    hyper = hyperparameters(lr=0.1)

    @numba.njit
    def minimize(x, steps):
        state = np.full_like(x, first_state(x[0], hyper))
        previous = np.nan
        for _ in range(steps):
            loss, gradient = loss_and_gradient(x)
            outcome, previous = compare_loss(loss, previous)
            for i in range(len(x)):
                x[i], state[i] = irprop_plus(x[i], gradient[i], state[i], outcome, hyper)
        return x

The functions are those that the Numba backend compiles, and give the same bits, in ``prange`` too. A weight, its
gradient and its state are numbers of one dtype, float32 or float64. (Called from Python they work in float64, since
Numba returns Python floats.) The state is one number: the last move, or the step size where no sign is remembered
(:mod:`rprop_kernels.state`). To maximize, pass negative losses and gradients.
"""

import importlib.util
from typing import Any, NamedTuple

from .install import install_command

if importlib.util.find_spec("numba") is None:
    raise ModuleNotFoundError(f"rprop_kernels.numba needs numba: {install_command('numba')}", name="numba")

import numpy as np
from numba import njit, types
from numba.core.errors import TypingError
from numba.extending import overload

from .hyperparameters import validate, validate_lr
from .kernels.numba_ import stop_weight, update_weight
from .loss import NONFINITE, NOT_WORSE, WORSE
from .rules import BACKTRACK, BACKTRACK_ALL, MOVE, SKIP
from .state import encoding_of

__all__ = [
    "Hyperparameters",
    "compare_loss",
    "first_state",
    "hyperparameters",
    "irprop_minus",
    "irprop_plus",
    "rprop_minus",
    "rprop_plus",
    "sign_and_step",
    "stop_at_bounds",
]


class Hyperparameters(NamedTuple):
    """The numbers of a rule, made by :func:`hyperparameters`.

    Examples:
        >>> Hyperparameters(0.01, 0.5, 1.2, 1e-6, 50.0) == hyperparameters()
        True
    """

    lr: float
    eta_minus: float
    eta_plus: float
    step_min: float
    step_max: float


def hyperparameters(
    lr: float = 1e-2, etas: tuple[float, float] = (0.5, 1.2), step_sizes: tuple[float, float] = (1e-6, 50.0)
) -> Hyperparameters:
    """Validate the numbers of a rule; called before the compiled code, which receives the result.

    Args:
        lr: the first step size, above 0 and within ``step_sizes``.
        etas: ``(eta_minus, eta_plus)``, 0 < eta_minus < 1 < eta_plus.
        step_sizes: ``(D_min, D_max)``, D_max at most 2**31.

    Raises:
        ValueError: naming the argument, its value and the remedy.

    Examples:
        >>> hyperparameters(lr=0.5).eta_plus
        1.2
    """
    hyper = validate(etas, step_sizes)
    return Hyperparameters(validate_lr(lr, hyper[2:]), *hyper)


# ---------------------------------------------------------------------------------------------- compiled parts


def _real(**numbers: Any) -> Any:
    """Return the dtype that all arguments share, while Numba compiles a call.

    Raises:
        TypingError: one is not a number of float32 or float64, or they differ.
    """
    first, kind = next(iter(numbers.items()))
    for name, other in numbers.items():
        if other not in (types.float32, types.float64):
            raise TypingError(f"{name} is {other}: pass one number, float32 or float64; a rule steps one weight")
        if other != kind:
            raise TypingError(f"{name} is {other}, but {first} is {kind}: convert it, np.{kind}({name})")
    return np.float64 if kind == types.float64 else np.float32


def _check_hyper(hyper: Any) -> None:
    if getattr(hyper, "instance_class", None) is not Hyperparameters:
        raise TypingError(f"hyper is {hyper}: pass the result of hyperparameters(...)")


def _update(w: Any, g: Any, state: Any, hyper: Any, rule: Any) -> Any:
    raise NotImplementedError


@overload(_update, prefer_literal=True)
def _compile_update(w: Any, g: Any, state: Any, hyper: Any, rule: Any) -> Any:
    real = _real(w=w, g=g, state=state)
    _check_hyper(hyper)
    if not isinstance(rule, types.Literal):
        return None  # Numba tries without constants after an error
    constant, smallest = rule.literal_value, real(encoding_of(np.dtype(real)).min_step)

    def update(w: Any, g: Any, state: Any, hyper: Any, rule: Any) -> Any:
        step_min = real(hyper.step_min)
        step_min = smallest if step_min < smallest else step_min
        return update_weight(
            w, g, state, real(hyper.eta_minus), real(hyper.eta_plus), step_min, real(hyper.step_max), constant
        )

    return update


def _first_state(w: Any, hyper: Any) -> Any:
    raise NotImplementedError


@overload(_first_state)
def _compile_first_state(w: Any, hyper: Any) -> Any:
    real = _real(w=w)
    _check_hyper(hyper)
    encoding = encoding_of(np.dtype(real))
    smallest, shift = encoding.min_step, encoding.shift

    def first(w: Any, hyper: Any) -> Any:
        return real(max(hyper.lr, smallest) * shift)

    return first


def _decode(state: Any) -> Any:
    raise NotImplementedError


@overload(_decode)
def _compile_decode(state: Any) -> Any:
    real = _real(state=state)
    encoding = encoding_of(np.dtype(real))
    threshold, unshift, zero, one = real(encoding.threshold), real(1 / encoding.shift), real(0), real(1)

    def decode(state: Any) -> Any:
        size = abs(state)
        if size > threshold:
            return zero, size * unshift
        return (one if state > zero else -one), size

    return decode


def _stop(w: Any, state: Any, lower: Any, upper: Any) -> Any:
    raise NotImplementedError


@overload(_stop)
def _compile_stop(w: Any, state: Any, lower: Any, upper: Any) -> Any:
    real = _real(w=w, state=state)
    for name, bound in (("lower", lower), ("upper", upper)):
        if not isinstance(bound, (types.Float, types.Integer)):
            raise TypingError(f"{name} is {bound}: pass one number; an infinite one is no bound")

    def stop(w: Any, state: Any, lower: Any, upper: Any) -> Any:
        low, high = real(lower), real(upper)
        stopped, is_high, limited = stop_weight(w, low, high, state)
        if not stopped:
            return w, state
        return (high if is_high else low), limited

    return stop


# ------------------------------------------------------------------------------------------------ the functions

compiled = njit(nogil=True, error_model="numpy")


@compiled
def first_state(w: Any, hyper: Hyperparameters) -> Any:
    """Return the state of a weight that has not moved, of the dtype of ``w``.

    Args:
        w: the weight.
        hyper: from :func:`hyperparameters`.

    Examples:
        >>> sign_and_step(first_state(1.0, hyperparameters(lr=0.25)))
        (0.0, 0.25)
    """
    return _first_state(w, hyper)


@compiled
def rprop_minus(w: Any, g: Any, state: Any, hyper: Hyperparameters) -> Any:
    """Rprop-: a weight whose gradient changes its sign moves on, by the smaller step.

    Args:
        w: the weight.
        g: its gradient.
        state: its state, at first that of :func:`first_state`.
        hyper: from :func:`hyperparameters`.

    Returns:
        The new weight and the new state. (For weights of half precision pass the float32 of equal value, and round the
        new weight.)

    Examples:
        >>> hyper = hyperparameters(lr=0.5)
        >>> w, state = rprop_minus(1.0, 3.0, first_state(1.0, hyper), hyper)
        >>> rprop_minus(w, -3.0, state, hyper)[0]
        0.75
    """
    return _update(w, g, state, hyper, MOVE)


@compiled
def rprop_plus(w: Any, g: Any, state: Any, hyper: Hyperparameters) -> Any:
    """Rprop+: a weight whose gradient changes its sign takes its last move back.

    Arguments and results are those of :func:`rprop_minus`.

    Examples:
        >>> hyper = hyperparameters(lr=0.5)
        >>> w, state = rprop_plus(1.0, 3.0, first_state(1.0, hyper), hyper)
        >>> rprop_plus(w, -3.0, state, hyper)[0]
        1.0
    """
    return _update(w, g, state, hyper, BACKTRACK)


@compiled
def irprop_minus(w: Any, g: Any, state: Any, hyper: Hyperparameters) -> Any:
    """iRprop-: a weight whose gradient changes its sign stays for one step.

    Arguments and results are those of :func:`rprop_minus`.

    Examples:
        >>> hyper = hyperparameters(lr=0.5)
        >>> w, state = irprop_minus(1.0, 3.0, first_state(1.0, hyper), hyper)
        >>> irprop_minus(w, -3.0, state, hyper)[0]
        0.5
    """
    return _update(w, g, state, hyper, SKIP)


@compiled
def irprop_plus(w: Any, g: Any, state: Any, outcome: int, hyper: Hyperparameters) -> Any:
    """iRprop+: a weight whose gradient changes its sign takes its last move back if the loss increased, else it stays.

    After a loss that is NaN or infinite every weight takes its last move back, whatever its gradient.

    Args:
        w: the weight.
        g: its gradient.
        state: its state, at first that of :func:`first_state`.
        outcome: from :func:`compare_loss`, one for all weights of a problem.
        hyper: from :func:`hyperparameters`.

    Returns:
        The new weight and the new state.

    Examples:
        >>> hyper = hyperparameters(lr=0.5)
        >>> outcome, previous = compare_loss(9.0, float("nan"))
        >>> w, state = irprop_plus(1.0, 3.0, first_state(1.0, hyper), outcome, hyper)
        >>> outcome, previous = compare_loss(10.0, previous)
        >>> irprop_plus(w, -3.0, state, outcome, hyper)[0]
        1.0
    """
    if outcome == NOT_WORSE:
        return _update(w, g, state, hyper, SKIP)
    if outcome == WORSE:
        return _update(w, g, state, hyper, BACKTRACK)
    return _update(w, g, state, hyper, BACKTRACK_ALL)


@compiled
def compare_loss(loss: float, previous: float) -> tuple[int, float]:
    """Compare the loss at the current weights with that of the step before.

    Args:
        loss: E.
        previous: the second result of the call before, NaN at first.

    Returns:
        The outcome for :func:`irprop_plus`, and the loss to compare with next.

    Examples:
        >>> compare_loss(2.0, 1.0)
        (1, 2.0)
    """
    is_finite, has_previous = np.isfinite(loss), np.isfinite(previous)
    worse = WORSE if loss > previous else NOT_WORSE
    return (worse if is_finite or not has_previous else NONFINITE), (loss if is_finite else previous)


@compiled
def stop_at_bounds(w: Any, state: Any, lower: float, upper: float) -> Any:
    """Stop a weight on a bound that it has met: it forgets its sign, and its step is half its interval at most.

    Args:
        w: the weight after a step.
        state: its state.
        lower: the lower bound, ``-np.inf`` for none. Rounded to the dtype of the weight.
        upper: the upper bound, ``np.inf`` for none.

    Returns:
        The weight and its state, unchanged where it lies between its bounds.

    Examples:
        >>> hyper = hyperparameters(lr=0.5)
        >>> w, state = rprop_minus(0.25, 1.0, first_state(0.25, hyper), hyper)
        >>> stop_at_bounds(w, state, 0.0, 1.0)[0]
        0.0
    """
    return _stop(w, state, lower, upper)


@compiled
def sign_and_step(state: Any) -> Any:
    """Return the remembered sign (-1, 0 or +1) and the step size of a weight.

    Examples:
        >>> hyper = hyperparameters(lr=0.5)
        >>> w, state = rprop_minus(1.0, -3.0, first_state(1.0, hyper), hyper)
        >>> sign_and_step(state)
        (-1.0, 0.5)
    """
    return _decode(state)
