"""Bounds and frozen masks of parameters: their forms as arguments, the errors, and the effect of a bound on a step.

A weight that meets a bound stops on it and forgets its sign, so that its step neither grows nor is taken back past the
bound. Its step size becomes at most half the width of the interval: a weight that could cross it in one step might
jump from bound to bound forever.
"""

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from .state import encoding_of

_PAIRS_HINT: Final = "SciPy's list of pairs, one for each weight, becomes that by np.transpose(pairs)."


def _per_parameter(name: str, value: Any, params: Sequence[NDArray[Any]], single: bool) -> Sequence[Any]:
    """Return an item for each parameter: the value itself for a single array, a scalar or None for all."""
    if single:
        return [value]
    if value is None or (not isinstance(value, (list, tuple)) and np.ndim(value) == 0):
        return [value] * len(params)
    if isinstance(value, np.ndarray):  # ambiguous: its rows may belong to the parameters or to the weights of each
        raise TypeError(f"{name} is one array for a list of parameters: pass a list with an item for each")
    items = list(value)
    if len(items) != len(params):
        raise ValueError(f"{name} has {len(items)} items for {len(params)} parameters: pass one for each")
    return items


def _broadcast(name: str, value: Any, param: NDArray[Any], dtype: Any) -> NDArray[Any]:
    """Return ``value`` in ``dtype``, broadcast to the parameter's shape."""
    array = np.asarray(value)
    if array.dtype.kind not in ("b" if dtype is bool else "fiu"):
        raise TypeError(f"{name} is {array.dtype}: pass {'booleans' if dtype is bool else 'numbers'}")
    with np.errstate(over="ignore"):
        array = array.astype(dtype)
    try:
        return np.broadcast_to(array, param.shape)
    except ValueError:
        raise ValueError(
            f"{name} has shape {array.shape}, its parameter {param.shape}: pass one value, or "
            "an array of the parameter's shape"
        ) from None


def _match_layout(array: NDArray[Any], param: NDArray[Any]) -> NDArray[Any]:
    """Copy to the parameter's memory layout; leave a broadcast scalar as it is."""
    if not any(array.strides):
        return array
    copy = np.empty_like(param, subok=False)
    copy[...] = array
    return copy


class ParameterBounds:
    """Bounds of one parameter.

    Attributes:
        lower: the lower bounds, of the parameter's shape and dtype; -inf where a weight is frozen.
        upper: the upper bounds, likewise.
        state_limit: the largest state of a weight at a bound: half the width of its interval, without a sign.
        scratch: buffers of :meth:`apply`, made at its first call.

    Raises:
        ValueError: the bounds cross, are NaN or exclude every finite value, or the parameter starts outside.
    """

    def __init__(self, name: str, param: NDArray[Any], lower: Any, upper: Any, frozen: NDArray[Any] | None) -> None:
        self.lower = _broadcast(f"lower bound of {name}", -np.inf if lower is None else lower, param, param.dtype)
        self.upper = _broadcast(f"upper bound of {name}", np.inf if upper is None else upper, param, param.dtype)
        valid = (self.lower <= self.upper) & (self.lower < np.inf) & (self.upper > -np.inf)
        if not np.all(valid):
            raise ValueError(
                f"bounds of {name} cross, are NaN, or leave no finite value: pass (lower, "
                "upper) with lower <= upper everywhere"
            )
        if np.any(outside := (param < self.lower) | (param > self.upper)):
            index = tuple(int(i) for i in np.argwhere(outside)[0])
            raise ValueError(
                f"{name} starts outside its bounds: {param[index]} at index {index} is not "
                f"within [{self.lower[index]}, {self.upper[index]}]; start inside, such as at "
                f"np.clip(x, lower, upper). {_PAIRS_HINT}"
            )
        encoding, real = encoding_of(param.dtype), param.dtype.type
        self._shift, self._threshold = real(encoding.shift), real(encoding.threshold)
        first = slice(None if any(self.lower.strides + self.upper.strides) else 1)  # of two scalars: one width
        with np.errstate(over="ignore"):
            width = (self.upper - self.lower)[(first,) * param.ndim]
            state_limit = np.maximum(width / real(2), real(encoding.min_step)) * self._shift
        if frozen is not None:
            self.lower = np.where(frozen, real(-np.inf), self.lower)
            self.upper = np.where(frozen, real(np.inf), self.upper)
        self.lower, self.upper, self.state_limit = (
            _match_layout(x, param) for x in (self.lower, self.upper, np.broadcast_to(state_limit, param.shape))
        )
        self.scratch: tuple[NDArray[Any], NDArray[Any], NDArray[Any]] | None = None

    def apply(self, param: NDArray[Any], state: NDArray[Any]) -> None:
        """Set weights beyond a bound on it, forget their signs and limit their steps.

        Args:
            param: INOUT, the parameter after a step.
            state: INOUT, its state.
        """
        if self.scratch is None:
            self.scratch = (
                np.zeros(param.shape, bool),
                np.zeros(param.shape, bool),
                np.zeros_like(param, subok=False),
            )
        at_lower, at_upper, size = self.scratch
        np.less_equal(param, self.lower, out=at_lower)
        np.greater_equal(param, self.upper, out=at_upper)
        if not (at_lower.any() or at_upper.any()):
            return
        np.copyto(param, self.lower, where=at_lower)
        np.copyto(param, self.upper, where=at_upper)
        at_bound = np.logical_or(at_lower, at_upper, out=at_lower)
        # state.forget_sign without temporary arrays
        np.abs(state, out=size)
        has_sign = np.less_equal(size, self._threshold, out=at_upper)
        np.multiply(size, self._shift, out=size, where=has_sign)
        np.minimum(size, self.state_limit, out=size)
        np.copyto(state, size, where=at_bound)


def parse_frozen(frozen: Any, params: Sequence[NDArray[Any]], single: bool) -> list[NDArray[Any] | None]:
    """Return the frozen mask of each parameter, of its shape; None where no weight is frozen.

    Args:
        frozen: None, a boolean mask, or a sequence with one of these for each parameter.
        params: the parameters.
        single: whether the user passed one array and not a sequence.
    """
    return [
        None if mask is None else _broadcast(f"frozen[{index}]", mask, param, bool)
        for index, (param, mask) in enumerate(
            zip(params, _per_parameter("frozen", frozen, params, single), strict=True)
        )
    ]


def parse_bounds(
    bounds: Any, params: Sequence[NDArray[Any]], single: bool, frozen: Sequence[NDArray[Any] | None]
) -> list[ParameterBounds | None] | None:
    """Return the bounds of each parameter, None for a parameter without; None where there are no bounds at all.

    Args:
        bounds: None or ``(lower, upper)``; each is None, a number, an array, or a sequence with one of these for each
            parameter.
        params: the parameters.
        single: whether the user passed one array and not a sequence.
        frozen: the result of :func:`parse_frozen`; a frozen weight is not moved to a bound.

    Raises:
        TypeError, ValueError: naming the argument, its value and the remedy.
    """
    if bounds is None:
        return None
    try:
        if isinstance(bounds, (str, bytes, bytearray)):
            raise TypeError
        lower, upper = bounds
    except (TypeError, ValueError):
        raise ValueError(f"bounds must be (lower, upper), got {bounds!r}. {_PAIRS_HINT}") from None
    lowers, uppers = (
        _per_parameter(f"{name} bound", value, params, single) for name, value in (("lower", lower), ("upper", upper))
    )
    return [
        None if low is None and high is None else ParameterBounds(f"params[{index}]", param, low, high, mask)
        for index, (param, low, high, mask) in enumerate(zip(params, lowers, uppers, frozen, strict=True))
    ]
