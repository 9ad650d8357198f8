"""The overlap check of the arrays of a step, outside C: for the engines in Python, and for naming the arrays.

A byte range is a pair (address of the first byte, address behind the last); equal where an array is empty.
"""

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Ranges: TypeAlias = NDArray[np.int64]


def byte_range(array: NDArray[Any]) -> tuple[int, int]:
    """Return the byte range of an array of any strides."""
    low = high = array.__array_interface__["data"][0]
    if array.size == 0:
        return low, low
    for length, stride in zip(array.shape, array.strides, strict=True):
        if stride < 0:
            low += (length - 1) * stride
        else:
            high += (length - 1) * stride
    return low, high + array.itemsize


def is_disjoint(writes: Ranges, reads: Ranges) -> bool:
    """Check that no written range meets another one, written or read.

    Args:
        writes, reads: shape (n, 2), none of them empty.
    """
    if not len(writes):
        return True
    writes = writes[np.argsort(writes[:, 0])]
    if (writes[1:, 0] < writes[:-1, 1]).any():
        return False
    after = np.searchsorted(writes[:, 1], reads[:, 0], side="right")  # the first that ends behind the start
    inside = after < len(writes)
    return not (writes[after[inside], 0] < reads[inside, 1]).any()


def find_overlap(writes: Ranges, reads: Ranges, overlaps: Callable[[int, int], bool]) -> tuple[int, int] | None:
    """Find two arrays that share memory, at least one of them written.

    Args:
        writes, reads: their byte ranges, shapes (n, 2) and (m, 2); empty ones meet nothing.
        overlaps: the exact test of two arrays whose ranges meet (strided arrays can interleave).

    Returns:
        Their numbers, reads counted from n on; None where there are none.
    """
    ranges = np.concatenate([writes, reads])
    filled = ranges[:, 0] < ranges[:, 1]
    if is_disjoint(writes[filled[: len(writes)]], reads[filled[len(writes) :]]):
        return None
    open_ranges: list[int] = []  # they reach beyond the start of the current one
    for index in np.lexsort((ranges[:, 1], ranges[:, 0])):
        if not filled[index]:
            continue
        open_ranges = [other for other in open_ranges if ranges[other, 1] > ranges[index, 0]]
        for other in open_ranges:
            if min(index, other) < len(writes) and overlaps(int(index), other):
                return int(index), other
        open_ranges.append(int(index))
    return None
