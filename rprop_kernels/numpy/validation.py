"""The full check of NumPy arrays before a step: what is wrong, and the remedy, before the first weight is
touched.

Native kernels look at their arrays themselves and answer False when they are not certain; then this runs,
in Python, and raises the error that says why. Arrays that pass it can go to the NumPy kernels.
"""

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

DTYPES: Final = (np.dtype(np.float32), np.dtype(np.float64))


def check(weights: Sequence[Any], gradients: Sequence[Any] | None = None) -> None:
    """Whether a step may run on these arrays.

    Args:
        weights: the parameters: NumPy arrays, float32 or float64, writable, of any strides, apart in memory.
        gradients: None (only the parameters are checked), or as many arrays of the same shapes and dtypes.
            They are only read: they may be read-only and may overlap each other, but not a parameter.

    Raises:
        TypeError: not an array, or of a dtype or byte order that the kernels do not take.
        ValueError: wrong number or shape, read-only, or overlapping memory.
    """
    for index, weight in enumerate(weights):
        name = f"params[{index}]"
        _check_kind(name, weight)
        if not weight.flags.writeable:
            raise ValueError(
                f"{name} is read-only and is updated in place: pass a copy, or call its setflags(write=True)"
            )
        if _overlaps_itself(weight):
            raise ValueError(
                f"{name} (shape {weight.shape}, strides {weight.strides}) has several elements "
                "in the same memory: pass a copy, such as np.ascontiguousarray(x)"
            )
    if gradients is not None:
        if len(gradients) != len(weights):
            raise ValueError(
                f"{len(gradients)} gradients for {len(weights)} parameters: pass one for each, in the order of params"
            )
        for index, (weight, gradient) in enumerate(zip(weights, gradients, strict=True)):
            name = f"grads[{index}]"
            _check_kind(name, gradient)
            if gradient.shape != weight.shape:
                raise ValueError(
                    f"{name} has shape {gradient.shape}, its parameter {weight.shape}: pass a "
                    "gradient of the parameter's shape"
                )
            if gradient.dtype != weight.dtype:
                raise TypeError(
                    f"{name} is {gradient.dtype}, its parameter {weight.dtype}: pass it as "
                    f"grad.astype(np.{weight.dtype})"
                )
    _check_apart(weights, () if gradients is None else gradients)


def _check_kind(name: str, array: Any) -> None:
    """An array of a dtype that the kernels take."""
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


def _extent(array: NDArray[Any]) -> tuple[int, int]:
    """First byte of an array and the byte after its last; equal where it is empty."""
    low = high = array.__array_interface__["data"][0]
    if array.size == 0:
        return low, low
    for length, stride in zip(array.shape, array.strides, strict=True):
        if stride < 0:
            low += (length - 1) * stride
        else:
            high += (length - 1) * stride
    return low, high + array.itemsize


def _overlaps_itself(array: NDArray[Any]) -> bool:
    """Whether two elements share memory (broadcast or windowed views)."""
    if array.size < 2 or array.flags.c_contiguous or array.flags.f_contiguous:
        return False
    reach = array.itemsize
    axes = sorted(
        (abs(stride), length) for length, stride in zip(array.shape, array.strides, strict=True) if length > 1
    )
    for stride, length in axes:
        if stride < reach:
            break
        reach += stride * (length - 1)
    else:
        return False  # each axis steps over everything the smaller ones reach
    if array.size * array.itemsize > array.itemsize + sum(stride * (length - 1) for stride, length in axes):
        return True  # more elements than there is room for
    offsets = np.zeros((), np.intp)  # interleaved axes are rare: count the addresses
    for stride, length in axes:
        offsets = np.add.outer(offsets, np.arange(length) * stride)
    return bool(np.any(np.diff(np.sort(offsets, axis=None)) < array.itemsize))


def _check_apart(weights: Sequence[NDArray[Any]], gradients: Sequence[NDArray[Any]]) -> None:
    """No parameter shares memory with another one or with a gradient."""
    if (
        len(weights) <= 2
        and not any(  # few: compare the spans in C, without looking up a single address
            np.may_share_memory(weight, other)
            for index, weight in enumerate(weights)
            for other in (*weights[:index], *gradients)
        )
    ):
        return
    named = [(f"params[{index}]", array) for index, array in enumerate(weights)]
    named += [(f"grads[{index}]", array) for index, array in enumerate(gradients)]
    spans = [(*_extent(array), name, array) for name, array in named]
    spans.sort(key=lambda span: span[:2])
    live: list[tuple[int, int, str, NDArray[Any]]] = []  # they reach beyond the current one's start
    for span in spans:
        low, high, name, array = span
        if low == high:
            continue
        live = [other for other in live if other[1] > low]
        for *_, earlier, other in live:
            if "params" in name + earlier and _shares_memory(array, other):
                first, second = sorted((name, earlier), reverse=True)
                remedy = (
                    "pass a copy of the gradient"
                    if "grads" in name + earlier
                    else "list each array once and pass copies of views that overlap"
                )
                raise ValueError(f"{first} and {second} overlap in memory: {remedy}")
        live.append(span)


def _shares_memory(one: NDArray[Any], other: NDArray[Any]) -> bool:
    try:
        return np.shares_memory(one, other, max_work=1_000_000)  # type: ignore[arg-type]
    except np.exceptions.TooHardError:
        return True  # no one has shown that they are apart
