"""Bounds, frozen masks and first step sizes as arrays of the parameters' shapes."""

import copy
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from .. import hyperparameters
from ..bounds import (
    Constraints,
    is_tensor,
    shape_error,
    split_halves,
    split_option,
    to_value,
    validate_bounds,
    validate_first_steps,
    validate_start,
)
from ..state import encoding_of

Array: TypeAlias = NDArray[Any]
FirstSteps: TypeAlias = float | list[float | Array]
"""lr: one number for all weights, or a number or an array for each parameter."""


def _to_array(name: str, item: Any, param: Array, kind: str = "numbers") -> Array | None:
    """Return an item as an array in the parameter's dtype (or of booleans): 0-d for a number, else of its layout."""
    value = to_value(name, item, kind)
    if value is None:
        return None
    dtype = param.dtype if kind == "numbers" else np.dtype(bool)
    if is_tensor(value) and kind == "numbers":  # of any dtype, such as bfloat16, and on any device
        value = value.double().cpu()
    with np.errstate(over="ignore"):
        array = np.asarray(value).astype(dtype)
    if array.ndim == 0 and kind == "numbers":
        return array
    try:
        broadcast = np.broadcast_to(array, param.shape)
    except ValueError:
        raise shape_error(name, array.shape, param.shape) from None
    result = np.empty_like(param, dtype=dtype, subok=False)
    result[...] = broadcast
    return result


def make_constraints(
    bounds: Any, frozen: Any, params: Sequence[Array], *, array_like: bool, is_start: bool
) -> list[Constraints | None] | None:
    """Return the constraints of each parameter, None for one without; None where there are none at all.

    Args:
        bounds: None or ``(lower, upper)``; see :func:`rprop_kernels.bounds.split_halves`.
        frozen: None, a boolean mask, or a list with one of these for each parameter.
        params: the parameters.
        array_like: whether the user passed one array and not a sequence.
        is_start: whether weights outside the bounds are an error; otherwise the next step sets them on the bound.

    Raises:
        TypeError, ValueError: naming the argument, its value and the remedy.
    """
    if bounds is None and frozen is None:
        return None
    lowers, uppers = (
        split_option(f"{name} bound", half, len(params), array_like=array_like)
        for name, half in zip(("lower", "upper"), split_halves(bounds), strict=True)
    )
    masks = split_option("frozen", frozen, len(params), array_like=array_like)
    constraints: list[Constraints | None] = []
    for index, (param, low, high, mask) in enumerate(zip(params, lowers, uppers, masks, strict=True)):
        name = f"params[{index}]"
        lower = _to_array(f"lower bound of {name}", low, param)
        upper = _to_array(f"upper bound of {name}", high, param)
        if lower is not None or upper is not None:
            ends = (
                np.array(-np.inf, param.dtype) if lower is None else lower,
                np.array(np.inf, param.dtype) if upper is None else upper,
            )
            validate_bounds(name, *ends)
            if is_start:
                validate_start(name, param, *ends)
        entry = Constraints(lower, upper, _to_array(f"frozen[{index}]", mask, param, "booleans"))
        constraints.append(None if all(x is None for x in entry) else entry)
    return None if all(x is None for x in constraints) else constraints


def make_first_steps(
    lr: Any, params: Sequence[Array], step_sizes: tuple[float, float], *, array_like: bool
) -> FirstSteps:
    """Return lr, validated: a float, or a list with a float or an array of its shape for each parameter.

    Raises:
        TypeError, ValueError: naming the value and the remedy.
    """
    if not hyperparameters.is_per_weight(lr):
        return hyperparameters.validate_lr(lr, step_sizes)
    steps: list[float | Array] = []
    for index, (param, item) in enumerate(
        zip(params, split_option("lr", lr, len(params), array_like=array_like), strict=True)
    ):
        name = f"lr[{index}]"
        if not hyperparameters.is_per_weight(item):
            steps.append(hyperparameters.validate_lr(item, step_sizes))
            continue
        array = _to_array(name, item, param)
        assert array is not None
        real, least = param.dtype.type, encoding_of(param.dtype).min_step
        array[(array < least) & np.asarray(to_value(name, item) > 0)] = least
        validate_first_steps(name, array, (real(step_sizes[0]), real(max(step_sizes[1], least))))
        steps.append(array)
    return steps


def _to_item(value: Any) -> Any:
    """Return an array as a state_dict holds it: a float for a number, else a copy."""
    return value.item() if isinstance(value, np.ndarray) and value.ndim == 0 else copy.copy(value)


def to_options(constraints: list[Constraints | None] | None, count: int) -> dict[str, Any]:
    """Return constraints as a state_dict holds them, in the form of the arguments.

    Args:
        constraints: the result of `make_constraints`.
        count: the number of parameters.

    Returns:
        ``bounds``: None, or a tuple of two lists, (lower, upper), each with None, a float or an array for each
        parameter; ``frozen``: None, or a list with None or a boolean array for each parameter.
    """
    rows = [x or Constraints() for x in constraints or [None] * count]
    lower, upper, frozen = ([_to_item(x) for x in column] for column in zip(*rows, strict=True))
    is_bounded, is_frozen = (any(x is not None for x in column) for column in ((*lower, *upper), frozen))
    return {"bounds": (lower, upper) if is_bounded else None, "frozen": frozen if is_frozen else None}


def copy_first_steps(lr: FirstSteps) -> FirstSteps:
    """Return lr as a state_dict holds it: a float, or a list with a float or an array for each parameter."""
    return [copy.copy(x) for x in lr] if isinstance(lr, list) else lr
