"""Validation of NumPy arrays before a step: every problem is found, with its remedy, before the first weight changes.

The compiled engine inspects its arrays itself and returns False where it cannot take them. Then this check, in Python,
raises the error that names the reason. Arrays that pass it can go to the NumPy engine.
"""

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ..kernels.step_table import byte_range, find_overlap

DTYPES: Final = (np.dtype(np.float32), np.dtype(np.float64))


def as_array(name: str, value: Any) -> NDArray[Any]:
    """Return an argument as an array of any dtype."""
    try:
        return np.asarray(value)
    except (TypeError, ValueError) as error:  # lists of unequal lengths, objects that claim to be arrays
        raise type(error)(f"{name} is no array: {error}; pass a float, or an array of floats") from error


def float_array(name: str, value: Any) -> NDArray[Any]:
    """Return an argument, a number or numbers, as a float64 array."""
    array = as_array(name, value)
    if array.dtype.kind not in "fiu" or isinstance(value, np.ma.MaskedArray):
        raise TypeError(f"{name} is {value!r} ({type(value).__name__}): pass a float, or an array of floats")
    return array.astype(np.float64, copy=False)


def validate_arrays(params: Sequence[Any], grads: Sequence[Any] | None = None) -> None:
    """Check that a step can run on these arrays.

    Args:
        params: the parameters: NumPy arrays, float32 or float64, writable, of any strides, disjoint in memory.
        grads: None (only the parameters are checked), or as many arrays of the same shapes and dtypes. They are only
            read: they may be read-only and may overlap each other, but not a parameter.

    Raises:
        TypeError: not an array, or of a dtype or byte order that the engines do not take.
        ValueError: wrong number or shape, read-only, or overlapping memory.
    """
    for index, param in enumerate(params):
        name = f"params[{index}]"
        _check_dtype(name, param)
        if not param.flags.writeable:
            raise ValueError(
                f"{name} is read-only and is updated in place: pass a copy, or call its setflags(write=True)"
            )
        if _overlaps_itself(param):
            raise ValueError(
                f"{name} (shape {param.shape}, strides {param.strides}) has several elements "
                "in the same memory: pass a copy, such as np.ascontiguousarray(x)"
            )
    if grads is not None:
        if len(grads) != len(params):
            raise ValueError(
                f"{len(grads)} gradients for {len(params)} parameters: pass one for each, in the order of params"
            )
        for index, (param, grad) in enumerate(zip(params, grads, strict=True)):
            name = f"grads[{index}]"
            _check_dtype(name, grad)
            if grad.shape != param.shape:
                raise ValueError(
                    f"{name} has shape {grad.shape}, its parameter {param.shape}: pass a "
                    "gradient of the parameter's shape"
                )
            if grad.dtype != param.dtype:
                raise TypeError(
                    f"{name} is {grad.dtype}, its parameter {param.dtype}: pass it as grad.astype(np.{param.dtype})"
                )
    check_disjoint(params, () if grads is None else grads)


def check_disjoint(params: Sequence[NDArray[Any]], grads: Sequence[NDArray[Any]]) -> None:
    """Check that no parameter shares memory with another one or with a gradient.

    Raises:
        ValueError: naming the two arrays and the remedy.
    """
    if (
        len(params) <= 2
        and not any(  # few arrays: NumPy compares their byte ranges faster
            np.may_share_memory(param, other)
            for index, param in enumerate(params)
            for other in (*params[:index], *grads)
        )
    ):
        return
    arrays = (*params, *grads)
    ranges = np.array([byte_range(x) for x in arrays], np.int64).reshape(-1, 2)
    pair = find_overlap(ranges[: len(params)], ranges[len(params) :], lambda i, j: _shares_memory(arrays[i], arrays[j]))
    if pair is None:
        return
    first, second = sorted(pair)
    if second < len(params):
        raise ValueError(
            f"params[{second}] and params[{first}] overlap in memory: list each array once and pass copies of views "
            "that overlap"
        )
    raise ValueError(
        f"params[{first}] and grads[{second - len(params)}] overlap in memory: pass a copy of the gradient"
    )


def _check_dtype(name: str, array: Any) -> None:
    """Check that this is an array of a dtype that the engines take."""
    if type(array) not in (np.ndarray, np.memmap):
        remedy = "np.asarray(x)" if isinstance(array, np.ndarray) else "np.array(x, dtype=float)"
        raise TypeError(
            f"{name} is a {type(array).__module__}.{type(array).__qualname__}, not a numpy.ndarray: pass {remedy}"
        )
    dtype = array.dtype
    if dtype in DTYPES:
        return
    if dtype.newbyteorder("=") in DTYPES:
        raise TypeError(
            f"{name} has foreign byte order ({dtype.str}): pass x.astype(np.{dtype.newbyteorder('=').name})"
        )
    if dtype.kind in "iub":
        raise TypeError(f"{name} is {dtype}: whole numbers cannot take Rprop's steps; pass x.astype(float)")
    if dtype == np.float16:
        raise TypeError(f"{name} is float16, which the NumPy optimizers do not take: pass x.astype(np.float32)")
    raise TypeError(f"{name} is {dtype}: pass float32 or float64, such as x.astype(float)")


def _overlaps_itself(array: NDArray[Any]) -> bool:
    """Check whether two elements share memory (broadcast or windowed views)."""
    if array.size < 2 or array.flags.c_contiguous or array.flags.f_contiguous:
        return False
    extent = array.itemsize
    axes = sorted(
        (abs(stride), length) for length, stride in zip(array.shape, array.strides, strict=True) if length > 1
    )
    for stride, length in axes:
        if stride < extent:
            break
        extent += stride * (length - 1)
    else:
        return False  # each axis steps over everything that the smaller ones reach
    if array.size * array.itemsize > array.itemsize + sum(stride * (length - 1) for stride, length in axes):
        return True  # more elements than the memory can hold
    offsets = np.zeros((), np.intp)  # interleaved axes are rare: count the addresses
    for stride, length in axes:
        offsets = np.add.outer(offsets, np.arange(length) * stride)
    return bool(np.any(np.diff(np.sort(offsets, axis=None)) < array.itemsize))


def _shares_memory(one: NDArray[Any], other: NDArray[Any]) -> bool:
    """Check whether two arrays have a byte in common; True where that is too expensive to find out."""
    try:
        return np.shares_memory(one, other, max_work=1_000_000)  # type: ignore[arg-type]
    except np.exceptions.TooHardError:
        return True
