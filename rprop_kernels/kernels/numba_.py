"""The rules in Numba: compiled at first use, for installations without the extension.

The scalar rules are branch-free and give the same bits as ``src/rules.h``. Large steps are shared among libgomp's
threads as the extension's are, through a table of addresses (Numba's own parallel layers kill a forked child or abort
on concurrent Python threads). float32 and float64.
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
from ..loss import NOT_WORSE, LossOutcome
from ..rules import BACKTRACK, BACKTRACK_ALL, MOVE, RULE_FOR_OUTCOME, TORCH
from ..state import encoding_of
from . import threads

Array = NDArray[Any]

UPDATES: Final = RULE_FOR_OUTCOME

# Columns of the table of addresses, int64: elements, elements of all rows before.
PARAM, GRAD, STATE_0, STATE_1, NUMEL, OFFSET = range(6)
N_COLUMNS: Final = 6
THREAD_BLOCK: Final = 64
"""Threads meet at multiples of this number of weights, so that they share few cache lines."""


CPointer: Any = types.CPointer  # not annotated in Numba


@intrinsic
def _pointer_to(typing_context: Any, address: Any, like: Any) -> Any:
    """Convert ``address`` to a pointer to the type of ``like``."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.inttoptr(args[0], context.get_value_type(signature.return_type))

    return CPointer(like)(address, like), generate


pointer: Any = _pointer_to  # as compiled code calls it: without the typing context


def _scalar(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile a rule into the loop that calls it."""
    return njit(nogil=True, error_model="numpy", inline="always")(function)


@functools.cache
def _update(real: type, rule: int) -> Callable[..., Any]:
    """Make the scalar rule: (w, g, state_0, state_1, hyper) -> (w, state_0, state_1), all of type ``real``."""
    zero, one = real(0), real(1)

    @_scalar
    def sign(x: Any) -> Any:
        signed = math.copysign(one, x)
        return signed if abs(x) > zero else zero

    if rule == TORCH:

        @_scalar
        def torch_update(w: Any, g: Any, prev: Any, step: Any, hyper: Any) -> Any:
            eta_minus, eta_plus, step_min, step_max, direction = hyper
            g = g * direction
            product = g * prev
            factor = eta_plus if product > zero else (eta_minus if product < zero else one)
            step = step * factor
            step = step_min if step < step_min else step
            step = step_max if step > step_max else step
            g = zero if factor == eta_minus else g
            return w - sign(g) * step, g, step

        return torch_update

    encoding = encoding_of(np.dtype(real))
    moves_on_flip, backtracks = rule == MOVE, rule in (BACKTRACK, BACKTRACK_ALL)
    backtracks_all = rule == BACKTRACK_ALL
    shift, unshift = real(encoding.shift), real(1 / encoding.shift)
    threshold, smallest = real(encoding.threshold), real(encoding.min_step)

    @_scalar
    def update(w: Any, g: Any, s: Any, unused: Any, hyper: Any) -> Any:
        eta_minus, eta_plus, step_min, step_max, direction = hyper
        step_min = smallest if step_min < smallest else step_min
        size = abs(s)
        unshifted = size * unshift  # computed on both sides of a select, so that no branch is left
        step = unshifted if size > threshold else size
        last_move = zero if size > threshold else s
        grad_sign = -sign(last_move) + zero if backtracks_all else sign(g) * direction + zero
        c = grad_sign * last_move
        new_step = step * (eta_plus if c > zero else (eta_minus if c < zero else one))
        new_step = step_min if new_step < step_min else new_step
        new_step = step_max if new_step > step_max else new_step
        kept_sign = grad_sign if moves_on_flip else (zero if c < zero else grad_sign)
        change = kept_sign * new_step
        shifted = new_step * shift
        new_state = shifted if kept_sign == zero else change
        if backtracks:
            taken_back = -s
            change = taken_back if c < zero else change
        return w - change, new_state, unused

    return update


@functools.cache
def _loop(real: type, rule: int) -> Callable[..., None]:
    """Compile (param, grad, state_0, state_1, hyper), the rule over one-dimensional dense arrays.

    state_1 is used by torch's rule alone.
    """
    update, one_state, none = _update(real, rule), rule != TORCH, real(0)

    @njit(nogil=True, error_model="numpy")
    def loop(param: Any, grad: Any, state_0: Any, state_1: Any, numbers: Any) -> None:
        hyper = (numbers[0], numbers[1], numbers[2], numbers[3], numbers[4])
        if one_state:
            for i in range(param.shape[0]):
                param[i], state_0[i], _ = update(param[i], grad[i], state_0[i], none, hyper)
        else:
            for i in range(param.shape[0]):
                param[i], state_0[i], state_1[i] = update(param[i], grad[i], state_0[i], state_1[i], hyper)

    return loop


@functools.cache
def _run_thread(real: type, rule: int, thread_number: int, thread_count: int) -> Any:
    """Compile one thread's range of the table, as a C function of a pointer to int64: rows, total, table, hyper."""
    loop, like, whole, itemsize = _loop(real, rule), real(0), np.int64(0), np.dtype(real).itemsize
    get_number = ctypes.CFUNCTYPE(ctypes.c_int)(thread_number)
    get_count = ctypes.CFUNCTYPE(ctypes.c_int)(thread_count)

    @cfunc(types.void(CPointer(types.int64)))
    def run_thread(data: Any) -> None:
        header = carray(data, (4,))
        n_rows, total = header[0], header[1]
        table = carray(pointer(header[2], whole), (n_rows, N_COLUMNS))
        hyper = carray(pointer(header[3], like), (5,))
        blocks, thread, n_threads = (total + THREAD_BLOCK - 1) // THREAD_BLOCK, get_number(), get_count()
        first = blocks * thread // n_threads * THREAD_BLOCK
        end = min(total, blocks * (thread + 1) // n_threads * THREAD_BLOCK)
        for row in range(n_rows):
            start, stop = max(first - table[row, OFFSET], 0), min(end - table[row, OFFSET], table[row, NUMEL])
            if start < stop:
                skipped, n = start * itemsize, stop - start
                loop(
                    carray(pointer(table[row, PARAM] + skipped, like), (n,)),
                    carray(pointer(table[row, GRAD] + skipped, like), (n,)),
                    carray(pointer(table[row, STATE_0] + skipped, like), (n,)),
                    carray(pointer(table[row, STATE_1] + skipped, like), (n,)),
                    hyper,
                )

    return run_thread


def _address(array: Array) -> int:
    return int(array.__array_interface__["data"][0])


def _is_dense(arrays: Sequence[Array]) -> bool:
    """Check whether all are one run of memory in the same order."""
    first = arrays[0]
    flags = first.flags
    return (flags.c_contiguous or flags.f_contiguous) and all(x.strides == first.strides for x in arrays)


@functools.lru_cache(maxsize=64)
def _hyper_array(real: type, hyper: Hyperparameters, maximize: bool) -> Array:
    with np.errstate(over="ignore", under="ignore"):
        return np.array(hyper.with_direction(maximize)).astype(real)


def _run(real: type, rule: int, rows: Sequence[Sequence[Array]], hyper: Array, n_threads: int) -> None:
    total = sum(arrays[0].size for arrays in rows)
    team = threads.thread_team(n_threads) if total >= threads.MIN_SHARED_WEIGHTS and n_threads != 1 else None
    if team is None:
        loop = _loop(real, rule)
        for arrays in rows:
            param, grad, state_0, *rest = [x.reshape(-1, order="A") for x in arrays]
            loop(param, grad, state_0, rest[0] if rest else state_0, hyper)
        return
    _run_team(real, rule, rows, hyper, team, total)


def _run_team(
    real: type, rule: int, rows: Sequence[Sequence[Array]], hyper: Array, team: threads.ThreadTeam, total: int
) -> None:
    table = np.zeros((len(rows), N_COLUMNS), np.int64)
    for row, arrays in zip(table, rows, strict=True):
        row[: len(arrays)] = [_address(x) for x in arrays]
        row[NUMEL] = arrays[0].size
    table[1:, OFFSET] = np.cumsum(table[:-1, NUMEL])
    run_thread = _run_thread(real, rule, team.thread_number, team.thread_count)
    data = np.array([len(rows), total, _address(table), _address(hyper)], np.int64)
    parallel = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint)(team.parallel)
    parallel(run_thread.address, _address(data), team.threads, 0)


def step(
    variant: str,
    params: Sequence[Array],
    grads: Sequence[Array],
    states: Sequence[tuple[Array, ...]],
    hyper: Hyperparameters,
    *,
    maximize: bool = False,
    outcome: LossOutcome = NOT_WORSE,
    n_threads: int = 1,
) -> bool:
    """Perform one step as :func:`rprop_kernels.kernels.numpy_.step`.

    Arrays that are not dense in one order are copied and written back. ``n_threads`` is 0 for the setting of
    OMP_NUM_THREADS and threadpoolctl.
    """
    # Dense arrays by type and rule; an outcome for each row splits an array into its rows.
    batches: dict[tuple[type, int], list[tuple[Array, ...]]] = {}
    written_back: list[tuple[Array, Array]] = []
    for w, g, state in zip(params, grads, states, strict=True):
        if w.size == 0:
            continue
        arrays: tuple[Array, ...] = (w, g, *state)
        if not _is_dense(arrays) or (np.ndim(outcome) and not w.flags.c_contiguous):
            copies = tuple(np.array(x, order="C") for x in arrays)
            written_back += [(x, copy) for x, copy in zip(arrays, copies, strict=True) if x is not g]
            arrays = copies
        if not np.ndim(outcome):
            rule = RULE_FOR_OUTCOME[variant][int(outcome)]
            batches.setdefault((w.dtype.type, rule), []).append(arrays)
        else:
            for row, row_outcome in enumerate(np.asarray(outcome)):
                batches.setdefault((w.dtype.type, RULE_FOR_OUTCOME[variant][row_outcome]), []).append(
                    tuple(x[row : row + 1] for x in arrays)
                )
    for (real, rule), rows in batches.items():
        _run(real, rule, rows, _hyper_array(real, hyper, maximize), n_threads)
    for x, copy in written_back:
        x[...] = copy
    return True
