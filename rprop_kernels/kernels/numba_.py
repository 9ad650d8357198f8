"""The rules in Numba: compiled at first use, for where the extension is missing, and as fast.

The scalar rules are branch-free like those of ``src/_native.pyx`` and give the same bits. Large steps are
shared among libgomp's threads as the extension's are, through a table of addresses (Numba's own parallel
layers kill a forked child or abort on concurrent Python threads). float32 and float64.
"""

import ctypes
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np
from numba import carray, cfunc, njit, types  # type: ignore[attr-defined]  # numba does not say that it exports carray
from numba.extending import intrinsic
from numpy.typing import NDArray

from ..hyperparameters import Hyperparameters
from . import openmp
from .rules import MOVE, PRODUCT, RETREAT, RULES, UNDO
from .state import CODES
from .verdict import BETTER, Verdict

Array = NDArray[Any]

KERNELS: Final = RULES

# Columns of the table of addresses: w, g, first and second state array, elements, elements of all rows before.
W, G, A, B, SIZE, BEFORE = range(6)
SPLIT: Final = 64


CPointer: Any = types.CPointer  # not annotated in Numba


@intrinsic
def _pointer(typing_context: Any, address: Any, like: Any) -> Any:
    """``address`` as a pointer to the type of ``like``."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.inttoptr(args[0], context.get_value_type(signature.return_type))

    return CPointer(like)(address, like), generate


_at: Any = _pointer  # what compiled code calls: without the typing context


def _scalar(function: Callable[..., Any]) -> Callable[..., Any]:
    """A rule, compiled into the loop that calls it."""
    return njit(nogil=True, error_model="numpy", inline="always")(function)


@functools.cache
def _rule(real: type, rule: int) -> Callable[..., Any]:
    """The scalar rule: (w, g, a, b, numbers) -> (w, a, b), all of type ``real``."""
    zero, one = real(0), real(1)

    @_scalar
    def sign(x: Any) -> Any:
        signed = math.copysign(one, x)
        return signed if abs(x) > zero else zero

    if rule == PRODUCT:

        @_scalar
        def torch_rule(w: Any, g: Any, prev: Any, step: Any, k: Any) -> Any:
            eta_minus, eta_plus, low, high, way = k
            g = g * way
            product = g * prev
            factor = eta_plus if product > zero else (eta_minus if product < zero else one)
            step = step * factor
            step = low if step < low else step
            step = high if step > high else step
            g = zero if factor == eta_minus else g
            return w - sign(g) * step, g, step

        return torch_rule

    code = CODES[np.dtype(real).name]
    moves, undo, retreat = rule == MOVE, rule in (UNDO, RETREAT), rule == RETREAT
    shift, unshift, threshold, least = real(code.shift), real(1 / code.shift), real(code.threshold), real(code.least)

    @_scalar
    def one_state(w: Any, g: Any, s: Any, unused: Any, k: Any) -> Any:
        eta_minus, eta_plus, low, high, way = k
        low = least if low < least else low
        size = abs(s)
        small = size * unshift  # computed on both sides of a select, so that no branch is left
        step = small if size > threshold else size
        last = zero if size > threshold else s
        toward = -sign(last) + zero if retreat else sign(g) * way + zero
        c = toward * last
        new = step * (eta_plus if c > zero else (eta_minus if c < zero else one))
        new = low if new < low else new
        new = high if new > high else new
        go = toward if moves else (zero if c < zero else toward)
        move = go * new
        shifted = new * shift
        kept = shifted if go == zero else move
        if undo:
            back = -s
            move = back if c < zero else move
        return w - move, kept, unused

    return one_state


@functools.cache
def _compiled(real: type, rule: int) -> Callable[..., None]:
    """(w, g, a, b, numbers): the rule over one-dimensional dense arrays; b is not used by the one-state rules."""
    step, one_state, none = _rule(real, rule), rule != PRODUCT, real(0)

    @njit(nogil=True, error_model="numpy")
    def run(w: Any, g: Any, a: Any, b: Any, numbers: Any) -> None:
        k = (numbers[0], numbers[1], numbers[2], numbers[3], numbers[4])
        if one_state:
            for i in range(w.shape[0]):
                w[i], a[i], _ = step(w[i], g[i], a[i], none, k)
        else:
            for i in range(w.shape[0]):
                w[i], a[i], b[i] = step(w[i], g[i], a[i], b[i], k)

    return run


@functools.cache
def _share(real: type, rule: int, thread_number: int, thread_count: int) -> Any:
    """What one of several threads does, as a C function of a pointer to int64: rows, total, table, numbers."""
    run, like, whole, itemsize = _compiled(real, rule), real(0), np.int64(0), np.dtype(real).itemsize
    number = ctypes.CFUNCTYPE(ctypes.c_int)(thread_number)
    count = ctypes.CFUNCTYPE(ctypes.c_int)(thread_count)

    @cfunc(types.void(CPointer(types.int64)))
    def share(data: Any) -> None:
        header = carray(data, (4,))
        rows, total = header[0], header[1]
        table = carray(_at(header[2], whole), (rows, 6))
        numbers = carray(_at(header[3], like), (5,))
        units, me, all_ = (total + SPLIT - 1) // SPLIT, number(), count()
        low, high = units * me // all_ * SPLIT, min(total, units * (me + 1) // all_ * SPLIT)
        for row in range(rows):
            start, stop = max(low - table[row, BEFORE], 0), min(high - table[row, BEFORE], table[row, SIZE])
            if start < stop:
                skip, n = start * itemsize, stop - start
                run(
                    carray(_at(table[row, W] + skip, like), (n,)),
                    carray(_at(table[row, G] + skip, like), (n,)),
                    carray(_at(table[row, A] + skip, like), (n,)),
                    carray(_at(table[row, B] + skip, like), (n,)),
                    numbers,
                )

    return share


def _address(array: Array) -> int:
    return int(array.__array_interface__["data"][0])


def _dense(arrays: Sequence[Array]) -> bool:
    """Whether all are one run of memory in the same order."""
    first = arrays[0]
    flags = first.flags
    return (flags.c_contiguous or flags.f_contiguous) and all(x.strides == first.strides for x in arrays)


@functools.lru_cache(maxsize=64)
def _numbers(real: type, hyper: Hyperparameters, maximize: bool) -> Array:
    with np.errstate(over="ignore", under="ignore"):
        return np.array((*hyper, -1.0 if maximize else 1.0)).astype(real)


def _run(real: type, rule: int, jobs: Sequence[Sequence[Array]], numbers: Array, threads: int) -> None:
    total = sum(arrays[0].size for arrays in jobs)
    grant = openmp.grant(threads) if total >= openmp.THRESHOLD and threads != 1 else None
    if grant is None:
        run = _compiled(real, rule)
        for arrays in jobs:
            w, g, a, *rest = [x.reshape(-1, order="A") for x in arrays]
            run(w, g, a, rest[0] if rest else a, numbers)
        return
    table = np.zeros((len(jobs), 6), np.int64)
    for row, arrays in zip(table, jobs, strict=True):
        row[: len(arrays)] = [_address(x) for x in arrays]
        row[SIZE] = arrays[0].size
    table[1:, BEFORE] = np.cumsum(table[:-1, SIZE])
    share = _share(real, rule, grant.thread_number, grant.thread_count)
    data = np.array([len(jobs), total, _address(table), _address(numbers)], np.int64)
    parallel = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint)(grant.parallel)
    parallel(share.address, _address(data), grant.threads, 0)


def step(
    variant: str,
    weights: Sequence[Array],
    gradients: Sequence[Array],
    states: Sequence[tuple[Array, ...]],
    hyper: Hyperparameters,
    *,
    maximize: bool = False,
    verdict: Verdict = BETTER,
    threads: int = 1,
) -> bool:
    """As :func:`rprop_kernels.kernels.numpy_.step`. Arrays that are not dense in one order are copied and written back.

    ``threads``: 0 for what OMP_NUM_THREADS and threadpoolctl say.
    """
    # Dense jobs by type and rule; a verdict a row splits an array into its rows.
    batches: dict[tuple[type, int], list[tuple[Array, ...]]] = {}
    back: list[tuple[Array, Array]] = []
    for w, g, state in zip(weights, gradients, states, strict=True):
        if w.size == 0:
            continue
        arrays: tuple[Array, ...] = (w, g, *state)
        if not _dense(arrays) or (np.ndim(verdict) and not w.flags.c_contiguous):
            copies = tuple(np.array(x, order="C") for x in arrays)
            back += [(x, copy) for x, copy in zip(arrays, copies, strict=True) if x is not g]
            arrays = copies
        if not np.ndim(verdict):
            rule = RULES[variant][int(verdict)]
            batches.setdefault((w.dtype.type, rule), []).append(arrays)
        else:
            for row, said in enumerate(np.asarray(verdict)):
                batches.setdefault((w.dtype.type, RULES[variant][said]), []).append(
                    tuple(x[row : row + 1] for x in arrays)
                )
    for (real, rule), jobs in batches.items():
        _run(real, rule, jobs, _numbers(real, hyper, maximize), threads)
    for x, copy in back:
        x[...] = copy
    return True
