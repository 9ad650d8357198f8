"""Bounds and frozen masks of NumPy parameters: structure, names of arguments, errors."""

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from .state import decode, encoding_of

_PAIRS_HINT: Final = "SciPy's list of pairs, one for each weight, becomes that by np.transpose(pairs)."


def _per_parameter(name: str, value: Any, params: Sequence[NDArray[Any]], single: bool) -> Sequence[Any]:
    """Return one value for each parameter: itself for one array, else its items; a scalar or None serves all."""
    if single:
        return [value]
    if value is None or (not isinstance(value, (list, tuple)) and np.ndim(value) == 0):
        return [value] * len(params)
    if isinstance(value, np.ndarray):  # its rows might be meant for the parameters, or for the weights of each
        raise TypeError(f"{name} is one array for a list of parameters: pass a list with an item for each")
    if len(value) != len(params):
        raise ValueError(f"{name} has {len(value)} items for {len(params)} parameters: pass one for each")
    return value  # type: ignore[no-any-return]


def _broadcast(name: str, value: Any, param: NDArray[Any], dtype: Any) -> NDArray[Any]:
    """Return ``value`` as an array of ``dtype``, broadcast to the parameter's shape."""
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
    """Bounds of one parameter, and the scratch memory that keeps steps free of allocation.

    Args:
        name: of the parameter, for messages.
        param: the array, which must lie within the bounds.
        lower, upper: None, a number, or an array that broadcasts to the parameter.
        frozen: None or a mask of the parameter's shape, where the bounds do not apply.

    Attributes:
        lower, upper: arrays of the parameter's dtype and shape.
        largest_state: the state of half the interval's width without a sign; a weight at a bound keeps at most that.
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
            where = tuple(int(i) for i in np.argwhere(outside)[0])
            raise ValueError(
                f"{name} starts outside its bounds: {param[where]} at index {where} is not "
                f"within [{self.lower[where]}, {self.upper[where]}]; start inside, such as at "
                f"np.clip(x, lower, upper). {_PAIRS_HINT}"
            )
        encoding, real = encoding_of(param.dtype), param.dtype.type
        self._shift, self._threshold = real(encoding.shift), real(encoding.threshold)
        one = slice(None if any(self.lower.strides + self.upper.strides) else 1)  # one number each: one width
        with np.errstate(over="ignore"):
            width = (self.upper - self.lower)[(one,) * param.ndim]
            largest = np.maximum(width / real(2), real(encoding.min_step)) * self._shift
        self.largest_state = np.broadcast_to(largest, param.shape)
        if frozen is not None:
            self.lower = np.where(frozen, real(-np.inf), self.lower)
            self.upper = np.where(frozen, real(np.inf), self.upper)
        self.lower, self.upper, self.largest_state = (
            _match_layout(x, param) for x in (self.lower, self.upper, self.largest_state)
        )
        self._scratch: tuple[NDArray[Any], NDArray[Any], NDArray[Any]] | None = None

    def apply(self, param: NDArray[Any], state: NDArray[Any]) -> None:
        """Stop weights at their bounds; there they forget their sign and step by half the width at most."""
        if self._scratch is None:
            low, high = np.zeros(param.shape, bool), np.zeros(param.shape, bool)
            self._scratch = low, high, np.zeros_like(param, subok=False)
        low, high, size = self._scratch
        np.less_equal(param, self.lower, out=low)
        np.greater_equal(param, self.upper, out=high)
        if not (low.any() or high.any()):
            return
        np.copyto(param, self.lower, where=low)
        np.copyto(param, self.upper, where=high)
        np.logical_or(low, high, out=low)
        np.abs(state, out=size)
        np.less_equal(size, self._threshold, out=high)
        np.multiply(size, self._shift, out=size, where=high)
        np.minimum(size, self.largest_state, out=size)
        np.copyto(state, size, where=low)


def parse_bounds(
    bounds: Any, params: Sequence[NDArray[Any]], single: bool, frozen: Sequence[NDArray[Any] | None]
) -> list[ParameterBounds | None] | None:
    """Return the bounds of each parameter, None for a parameter (or all) without any.

    Args:
        bounds: None or ``(lower, upper)``.
        params: the parameters.
        single: whether the user passed one array instead of a sequence.
        frozen: from `parse_frozen`.

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
    parsed: list[ParameterBounds | None] = []
    for param, low, high, mask in zip(params, lowers, uppers, frozen, strict=True):
        unbounded = low is None and high is None
        parsed.append(None if unbounded else ParameterBounds(f"params[{len(parsed)}]", param, low, high, mask))
    return parsed


def parse_frozen(frozen: Any, params: Sequence[NDArray[Any]], single: bool) -> list[NDArray[Any] | None]:
    """Return the mask of frozen weights of each parameter, of its shape; None where there is none."""
    masks = _per_parameter("frozen", frozen, params, single)
    return [
        None if mask is None else _broadcast(f"frozen[{index}]", mask, param, bool)
        for index, (param, mask) in enumerate(zip(params, masks, strict=True))
    ]


def forget_frozen_signs(state: NDArray[Any], frozen: NDArray[Any]) -> None:
    """Remove the signs of frozen weights from a state, in place; their steps stay."""
    np.copyto(state, decode(state)[1] * state.dtype.type(encoding_of(state.dtype).shift), where=frozen)
