"""A step as a table in Python: for engines that run it by address, where the extension does not fill it.

The table is that of ``src/step_table.h``, in NumPy arrays: a row for each parameter, a column of gradients,
hyper-parameters, layouts of arrays that are not dense, and the options of rows. It is filled again only where more than
the addresses of gradients has changed since the last step. The overlap check also names the arrays in errors.

A byte range is a pair (address of the first byte, address behind the last); equal where an array is empty.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ..rules import BACKTRACK, BACKTRACK_ALL, SKIP, TORCH

Ranges: TypeAlias = NDArray[np.int64]
Memory: TypeAlias = tuple[int, tuple[int, ...], tuple[int, ...], int]
"""An array: address, shape, strides in bytes, dtype (FLOAT to BOOL)."""
Described: TypeAlias = tuple[int, tuple[Memory | None, ...]]
"""A parameter: the index of its hyper-parameters, and its arrays from PARAM on, None where there is none."""

PARAM, GRAD, STATE, STATE2, LOWER, UPPER, FROZEN, BEST = range(8)
"""The arrays of a row. STATE2 is for torch's rule only; those from LOWER on are options."""
N_ARRAYS: Final = 8

PARAM_ADDRESS, STATE_ADDRESS, STATE2_ADDRESS, NUMEL, NUMEL_PER_LOSS, FIRST_LOSS = range(6)
OFFSET, HYPER, LAYOUT, DTYPE, RULE, EXTRA = range(6, 12)
ROW_COLUMNS: Final = 12
HYPER_COLUMNS: Final = 5
FLAGS: Final = 4
"""The last column of an option; the others are the addresses of its arrays from LOWER on, 0 where there is none."""
EXTRA_COLUMNS: Final = 5
SCALAR_LOWER, SCALAR_UPPER = 1, 2
"""Flags: the bound is one number."""
MAX_DIMS: Final = 16
SHAPE: Final = 1
STRIDES: Final = SHAPE + MAX_DIMS
LAYOUT_COLUMNS: Final = STRIDES + N_ARRAYS * MAX_DIMS
"""A layout: the number of dimensions, the shape, the strides of array i from STRIDES + i * MAX_DIMS on."""

NEEDS_OPTIONS, NEEDS_GATHERED, N_NEEDS = TORCH + 1, TORCH + 2, 8
"""Bits of a dtype in the set of loops that a table needs; below them are those of the rules."""

HEADER_ROWS, HEADER_N_ROWS, HEADER_GRADS, HEADER_HYPERS, HEADER_LAYOUTS, HEADER_EXTRAS = range(6)
HEADER_OUTCOMES, HEADER_IMPROVED, HEADER_LOOPS, HEADER_RUN_GATHERED, HEADER_RUN_RANGE = range(6, 11)
HEADER_NUMEL, HEADER_THREAD_NUMBER, HEADER_THREAD_COUNT, N_HEADER = range(11, 15)
"""A table as compiled functions receive it: addresses, the number of rows, and that of weights."""

FLOAT, DOUBLE, HALF, BFLOAT16, BOOL = range(5)
N_DTYPES: Final = 4
ITEMSIZES: Final = (4, 8, 2, 2, 1)


def state_dtype_of(dtype: int, rule: int) -> int:
    """Return the dtype of a state: float32 where the parameter has 16 bits, except for torch's rule."""
    return dtype if rule == TORCH or dtype == DOUBLE else FLOAT


class _Layout:
    """Shape and strides of the arrays of a row."""

    def __init__(self, shape: Sequence[int], strides: dict[int, Sequence[int]], itemsizes: dict[int, int]) -> None:
        self.shape, self.strides, self.itemsizes = list(shape), {i: list(x) for i, x in strides.items()}, itemsizes

    def is_scalar(self, array: int) -> bool:
        """Check whether all elements of an array are one number in memory."""
        return all(stride == 0 or n == 1 for n, stride in zip(self.shape, self.strides[array], strict=True))

    def is_dense(self, array: int) -> bool:
        """Check whether an array is one run of memory in the order of the dimensions."""
        expected = self.itemsizes[array]
        for n, stride in zip(reversed(self.shape), reversed(self.strides[array]), strict=True):
            if n != 1 and stride != expected:
                return False
            expected *= n
        return True

    def overlaps_itself(self, array: int) -> bool:
        """Check whether two elements of an array may share memory; never False when they do."""
        extent = self.itemsizes[array]
        for stride, n in sorted((abs(s), n) for n, s in zip(self.shape, self.strides[array], strict=True) if n > 1):
            if stride < extent:
                return True
            extent += stride * (n - 1)
        return False

    def sort_dims(self) -> bool:
        """Sort the dimensions by falling stride of the parameter, and drop those of one element.

        Returns:
            Whether the outermost dimension of more than one element stayed the first.
        """
        dims = [d for d, n in enumerate(self.shape) if n != 1]
        order = sorted(dims, key=lambda d: -abs(self.strides[PARAM][d]))
        self.shape = [self.shape[d] for d in order]
        self.strides = {i: [x[d] for d in order] for i, x in self.strides.items()}
        return order[:1] == dims[:1]

    def merge_dims(self) -> None:
        """Merge neighbouring dimensions that are one run in every array."""
        for d in range(len(self.shape) - 1, 0, -1):
            if all(x[d - 1] == x[d] * self.shape[d] for x in self.strides.values()):
                self.shape[d - 1 : d + 1] = [self.shape[d - 1] * self.shape[d]]
                for x in self.strides.values():
                    del x[d - 1]

    def byte_range(self, array: int) -> tuple[int, int]:
        """Return the byte range of an array, relative to its address."""
        distances = [stride * (n - 1) for n, stride in zip(self.shape, self.strides[array], strict=True)]
        return sum(x for x in distances if x < 0), sum(x for x in distances if x > 0) + self.itemsizes[array]

    def columns(self) -> list[int]:
        """Return the layout as a row of the table."""
        columns = [0] * LAYOUT_COLUMNS
        columns[0] = len(self.shape)
        columns[SHAPE : SHAPE + len(self.shape)] = self.shape
        for i, strides in self.strides.items():
            columns[STRIDES + i * MAX_DIMS : STRIDES + i * MAX_DIMS + len(strides)] = strides
        return columns


class StepTable:
    """A step as a table, kept from step to step.

    Attributes:
        header: int64 (N_HEADER,), the addresses of the table's columns; those of functions are left to the engine.
        header_address: the address of ``header``.
        numel: the number of weights in all rows.
        needs: the set of loops that the rows need, N_NEEDS bits for each dtype.
    """

    def __init__(self) -> None:
        self.header = np.zeros(N_HEADER, np.int64)
        self.header_address = address_of(self.header)
        self._key: Any = None  # the description of the rows in the table
        self._grads: list[int] | None = None
        self._hypers: Sequence[Sequence[float]] | None = None
        self._rule: tuple[int, bool] | None = None

    def collect(
        self,
        rule: int,
        described: list[Described],
        grads: list[int],
        hypers: Sequence[Sequence[float]],
        outcomes: NDArray[np.uint8] | None = None,
        improved: bytes | None = None,
    ) -> bool:
        """Fill the table.

        Args:
            rule: the compiled rule of all parameters.
            described: the parameters; the address of GRAD is not looked at. The arrays to write to are writable.
            grads: addresses of the gradients.
            hypers: rows of hyper-parameters: eta_minus, eta_plus, step_min, step_max, direction.
            outcomes: None, or one for each element of the first dimension of every parameter; of any integers.
            improved: where to copy the parameters to BEST before the step: a byte for all, or as many as outcomes.

        Returns:
            False where the arrays must be refused.
        """
        n_losses = None if outcomes is None else len(outcomes)
        if improved is not None:
            if n_losses is None and len(improved) > 1:
                n_losses = len(improved)
            if len(improved) != (n_losses or 1):
                return False
        key = (rule == TORCH, n_losses, described)
        if key != self._key:
            self._key = self._grads = self._hypers = self._rule = None
            if not self._fill(rule, described, n_losses):
                return False
            self._key = key
        if grads != self._grads:
            self._grads = None
            self._grad_column[:] = np.array(grads, np.int64)[self._used]
            if (self._grad_column & (self._grad_itemsizes - 1)).any():
                return False
            if not _reads_are_disjoint(self._sorted_writes, self._grad_column[:, None] + self._grad_ranges):
                return False
            self._grads = grads
        if hypers != self._hypers:
            self._hyper_column = np.array(hypers, np.float64).reshape(-1, HYPER_COLUMNS)
            self.header[HEADER_HYPERS] = address_of(self._hyper_column)
            self._hypers = hypers
        if (rule, outcomes is None) != self._rule:
            self._rows[:, RULE] = rule
            rules = 1 << rule if outcomes is None else 1 << SKIP | 1 << BACKTRACK | 1 << BACKTRACK_ALL
            self.needs = self._other_needs | sum(rules << N_NEEDS * dtype for dtype in self._dtypes)
            self._rule = rule, outcomes is None
        if outcomes is not None:
            self._outcomes = np.ascontiguousarray(outcomes, np.uint8)
            self.header[HEADER_OUTCOMES] = address_of(self._outcomes)
        else:
            self.header[HEADER_OUTCOMES] = 0
        self._improved = None if improved is None else np.frombuffer(improved, np.uint8)
        self.header[HEADER_IMPROVED] = 0 if self._improved is None else address_of(self._improved)
        return True

    def _fill(self, rule: int, described: list[Described], n_losses: int | None) -> bool:
        """Make the rows; False where one must be refused."""
        self.numel = 0
        self._used: list[int] = []
        layouts: list[list[int]] = []
        extras: list[list[int]] = []
        rows: list[list[int]] = []
        writes: list[tuple[int, int]] = []
        reads: list[tuple[int, int]] = []
        grad_ranges: list[tuple[int, int]] = []
        for index, (hyper, arrays) in enumerate(described):
            memory = {i: x for i, x in enumerate(arrays) if x is not None}
            dtype, shape = memory[PARAM][3], memory[PARAM][1]
            if not _suits(memory, rule) or (n_losses is not None and (rule == TORCH or shape[:1] != (n_losses,))):
                return False
            numel = math.prod(shape)
            if numel == 0:
                continue
            layout = _Layout(
                shape,
                {i: x[2] if x[1] == shape else (0,) * len(shape) for i, x in memory.items()},
                {i: ITEMSIZES[x[3]] for i, x in memory.items()},
            )
            scalar = {i for i in (LOWER, UPPER) if i in memory and layout.is_scalar(i)}
            dense = all(i in scalar or layout.is_dense(i) for i in memory)
            if not dense:
                is_ordered = layout.sort_dims()
                if n_losses is not None and n_losses > 1 and not is_ordered:  # the rows of a loss are not contiguous
                    return False
                if any(s % layout.itemsizes[i] for i, strides in layout.strides.items() for s in strides):
                    return False
                if any(layout.overlaps_itself(i) for i in memory if _is_written(i)):
                    return False
                layout.merge_dims()
                dense = len(layout.shape) <= 1 and all(i in scalar or layout.is_dense(i) for i in memory)
            if n_losses is not None and not dense:
                return False
            for i, (address, *_) in memory.items():
                low, high = layout.byte_range(i)
                if i == GRAD:
                    grad_ranges.append((low, high))
                else:
                    (writes if _is_written(i) else reads).append((address + low, address + high))
            extra = _extra(memory, scalar)
            self._used.append(index)
            rows.append(
                [
                    *(memory[i][0] if i in memory else 0 for i in (PARAM, STATE, STATE2)),
                    numel,
                    0 if n_losses is None else numel // n_losses,
                    0,
                    self.numel,
                    hyper,
                    -1 if dense else _add(layouts, layout.columns()),
                    dtype,
                    rule,
                    -1 if extra is None else _add(extras, extra),
                ]
            )
            self.numel += numel
        self._rows = np.array(rows, np.int64).reshape(-1, ROW_COLUMNS)
        self._grad_column = np.zeros(len(rows), np.int64)
        self._options = np.array(layouts, np.int64), np.array(extras, np.int64)
        columns = map(address_of, (self._rows, self._grad_column, *self._options))
        self.header[[HEADER_ROWS, HEADER_GRADS, HEADER_LAYOUTS, HEADER_EXTRAS]] = list(columns)
        self.header[HEADER_N_ROWS], self.header[HEADER_NUMEL] = len(rows), self.numel
        self._dtypes = {row[DTYPE] for row in rows}
        self._other_needs = 0
        for row in rows:
            limits = row[EXTRA] >= 0 and any(extras[row[EXTRA]][: FROZEN - LOWER + 1])
            options = 1 << NEEDS_OPTIONS if limits else 0
            gathered = 1 << NEEDS_GATHERED if row[EXTRA] >= 0 or row[LAYOUT] >= 0 else 0
            self._other_needs |= (options | gathered) << N_NEEDS * row[DTYPE]
        self._grad_ranges = np.array(grad_ranges, np.int64).reshape(-1, 2)
        self._grad_itemsizes = np.array(ITEMSIZES)[self._rows[:, DTYPE]]
        self._sorted_writes = np.array(sorted(writes), np.int64).reshape(-1, 2)
        return is_disjoint(self._sorted_writes, np.array(reads, np.int64).reshape(-1, 2))


def address_of(array: NDArray[Any]) -> int:
    """Return the address of an array."""
    return int(array.__array_interface__["data"][0])


def _add(rows: list[list[int]], row: list[int]) -> int:
    """Append a row; return its index."""
    rows.append(row)
    return len(rows) - 1


def _extra(memory: dict[int, Memory], scalar: set[int]) -> list[int] | None:
    """Return the options of a row, None where it has none."""
    if not any(i in memory for i in (LOWER, UPPER, FROZEN, BEST)):
        return None
    flags = (SCALAR_LOWER if LOWER in scalar else 0) | (SCALAR_UPPER if UPPER in scalar else 0)
    return [*(memory[i][0] if i in memory else 0 for i in (LOWER, UPPER, FROZEN, BEST)), flags]


def _is_written(array: int) -> bool:
    return array not in (GRAD, LOWER, UPPER, FROZEN)


def _suits(memory: dict[int, Memory], rule: int) -> bool:
    """Check presence, dtype, shape and alignment of the arrays of a row."""
    _, shape, _, dtype = memory[PARAM]
    state_dtype = state_dtype_of(dtype, rule)
    expected = {PARAM: dtype, GRAD: dtype, STATE: state_dtype, BEST: dtype}
    expected |= {STATE2: state_dtype} if rule == TORCH else {LOWER: dtype, UPPER: dtype, FROZEN: BOOL}
    if dtype == BOOL or len(shape) > MAX_DIMS or not {PARAM, GRAD, STATE} <= memory.keys() <= expected.keys():
        return False
    if (rule == TORCH) != (STATE2 in memory):
        return False
    return all(
        array_dtype == expected[i]
        and (array_shape == shape or (i in (LOWER, UPPER, FROZEN) and array_shape == ()))
        and (i == GRAD or address % ITEMSIZES[array_dtype] == 0)
        for i, (address, array_shape, _, array_dtype) in memory.items()
    )


def byte_range(array: NDArray[Any]) -> tuple[int, int]:
    """Return the byte range of an array of any strides."""
    low = high = address_of(array)
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
    writes = writes[np.argsort(writes[:, 0])]
    return not (writes[1:, 0] < writes[:-1, 1]).any() and _reads_are_disjoint(writes, reads)


def _reads_are_disjoint(sorted_writes: Ranges, reads: Ranges) -> bool:
    """Check that no read range meets a written one; these are disjoint and sorted."""
    after = np.searchsorted(sorted_writes[:, 1], reads[:, 0], side="right")  # the first that ends behind the start
    inside = after < len(sorted_writes)
    return not (sorted_writes[after[inside], 0] < reads[inside, 1]).any()


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
