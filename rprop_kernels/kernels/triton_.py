# mypy: disable-error-code="no-untyped-def, untyped-decorator, import-untyped"
# (Triton compiles its functions itself: their arguments have no Python types.)
"""The rules on a GPU, in Triton: one launch for all tensors of a dtype on a device.

A launch reads the table of ``src/step_table.h`` (rows, hyper-parameters, options; all arrays dense), the column with
the addresses of the gradients, and a list of chunks of BLOCK weights, one program each. The table is copied to the
device only when something in it has changed. Gradients that are made anew each step often have other addresses: then
their column alone is copied, 8 bytes a tensor, from pinned memory, and nothing waits.

The extension collects the table in one call (:meth:`TritonStep.prepare`). :meth:`TritonStep.add` collects tensor by
tensor: without the extension, or where a step has several devices, dtypes or outcomes.

In a CUDA graph addresses never change, so the table stays as it was captured: it is frozen, and kept as
long as the optimizer. New addresses of gradients are then copied by the graph itself, from pinned memory
that was set aside before (pinning is not allowed while a graph is captured).

With TRITON_INTERPRET=1 the same code runs on CPU tensors, for tests.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple, TypeAlias

import numpy as np
import torch
import triton
import triton.language as tl
from numpy.typing import NDArray
from torch import Tensor
from torch.autograd.graph import increment_version
from torch.nn import Parameter

from ..hyperparameters import Hyperparameters
from ..loss import NONFINITE, NOT_WORSE, WORSE
from ..rules import BACKTRACK, BACKTRACK_ALL, MOVE, PER_OUTCOME, RULE_FOR_OUTCOME, TORCH
from ..state import Encoding, encoding_of
from ..warn import warn_user
from .step_table import (
    EXTRA,
    EXTRA_COLUMNS,
    HYPER_COLUMNS,
    NUMEL,
    ROW_COLUMNS,
    SCALAR_LOWER,
    SCALAR_UPPER,
    is_disjoint,
)

# ---------------------------------------------------------------------------------------------- rules
# Scalar rules on blocks of weights, already widened. No product feeds a sum except sign * step, which is
# exact, so a fused multiply-add could not change a bit; it is switched off all the same. Denormals stay.

UPDATES: Final = {name: rules[0] for name, rules in RULE_FOR_OUTCOME.items()} | {"irprop+": PER_OUTCOME}

BLOCK: Final = 2048
"""Weights of one program; each thread has four 16-byte loads of every float32 array in flight."""
WARPS: Final = 4
_TAIL: Final = 1024  # weights at a time where a chunk is not full, or an address no multiple of 16

_MOVE = tl.constexpr(MOVE)
_BACKTRACK = tl.constexpr(BACKTRACK)
_BACKTRACK_ALL = tl.constexpr(BACKTRACK_ALL)
_TORCH = tl.constexpr(TORCH)
_PER_OUTCOME = tl.constexpr(PER_OUTCOME)
_ROW_COLUMNS = tl.constexpr(ROW_COLUMNS)
_HYPER_COLUMNS = tl.constexpr(HYPER_COLUMNS)
_EXTRA_COLUMNS = tl.constexpr(EXTRA_COLUMNS)
_SCALAR_LOWER = tl.constexpr(SCALAR_LOWER)
_SCALAR_UPPER = tl.constexpr(SCALAR_UPPER)
_NOT_WORSE = tl.constexpr(NOT_WORSE)
_WORSE = tl.constexpr(WORSE)
_NONFINITE = tl.constexpr(NONFINITE)


@triton.jit
def _sign(x):
    """Return -1, +0 or +1; +0 for NaN."""
    return tl.where(x > 0, 1.0, tl.where(x < 0, -1.0, 0.0)).to(x.dtype)


@triton.jit
def _clamp(step, step_min, step_max):
    """Clamp to step_min..step_max; NaN stays, as in torch."""
    step = tl.where(step < step_min, step_min, step)
    return tl.where(step > step_max, step_max, step)


@triton.jit
def _update(
    w, g, s, eta_minus, eta_plus, step_min, step_max, direction, outcome,
    RULE: tl.constexpr, SHIFT: tl.constexpr, THRESHOLD: tl.constexpr,
):  # fmt: skip
    """Apply one of the four rules on the state of state.py; returns (new weight, new state)."""
    size = tl.abs(s)
    no_sign = size > THRESHOLD
    step = tl.where(no_sign, size * (1.0 / SHIFT), size)
    last_move = tl.where(no_sign, 0.0, s)
    sign = _sign(g * direction)
    if RULE == _BACKTRACK_ALL:
        sign = _sign(-last_move)
    if RULE == _PER_OUTCOME:
        sign = tl.where(outcome == _NONFINITE, _sign(-last_move), sign)
    c = sign * last_move  # sign(g) * q * D_old: its sign is c's, it cannot underflow
    new_step = _clamp(step * tl.where(c > 0, eta_plus, tl.where(c < 0, eta_minus, 1.0)), step_min, step_max)
    kept_sign = sign
    if RULE != _MOVE:
        kept_sign = tl.where(c < 0, 0.0, sign)
    move = kept_sign * new_step
    new_state = tl.where(kept_sign == 0, new_step * SHIFT, move)
    if RULE == _BACKTRACK or RULE == _BACKTRACK_ALL:  # noqa: SIM109
        move = tl.where(c < 0, -s, move)
    if RULE == _PER_OUTCOME:
        move = tl.where((c < 0) & (outcome != _NOT_WORSE), -s, move)
    return w - move, new_state


@triton.jit
def _torch_update(w, g, prev, step, eta_minus, eta_plus, step_min, step_max, direction, DTYPE: tl.constexpr):
    """Update as torch.optim.Rprop, rounded to DTYPE as torch does; returns (new weight, new prev, new step size)."""
    g = g * direction
    product = (g * prev).to(DTYPE).to(w.dtype)
    factor = tl.where(product > 0, eta_plus, tl.where(product < 0, eta_minus, 1.0))
    step = _clamp((step * factor).to(DTYPE).to(w.dtype), step_min, step_max)
    g = tl.where(factor == eta_minus, 0.0, g)  # torch compares the factor, not the sign
    return w - _sign(g) * step, g, step


@triton.jit
def _forget(s, SHIFT: tl.constexpr, THRESHOLD: tl.constexpr):
    """Return the state of the same step without a sign."""
    size = tl.abs(s)
    return tl.where(size > THRESHOLD, size, size * SHIFT)


@triton.jit
def _load_bound(at, index, mask, is_scalar, missing, DTYPE: tl.constexpr, REAL: tl.constexpr):
    """Load the bounds at address ``at``, or ``missing`` where that is 0."""
    each = tl.where(is_scalar != 0, 0, index)
    return tl.load(at.to(tl.pointer_type(DTYPE)) + each, mask=mask & (at != 0), other=missing).to(REAL)


@triton.jit
def _update_block(
    w, g, a, b, index, in_bounds, eta_minus, eta_plus, step_min, step_max, direction, outcome, per_loss,
    lower_at, upper_at, frozen_at, flags,
    RULE: tl.constexpr, ROWS: tl.constexpr, OPTIONS: tl.constexpr, MASKED: tl.constexpr, DTYPE: tl.constexpr,
    REAL: tl.constexpr, SHIFT: tl.constexpr, THRESHOLD: tl.constexpr, MIN_STEP: tl.constexpr,
):  # fmt: skip
    """Update the weights at the addresses w that are ``in_bounds``; ``index`` counts them in their tensor."""
    mask = in_bounds if MASKED else None
    wide = tl.load(w, mask=mask).to(REAL)
    grad = tl.load(g, mask=mask).to(REAL)
    if RULE == _TORCH:
        prev = tl.load(a, mask=mask).to(REAL)
        step = tl.load(b, mask=mask).to(REAL)
        wide, prev, step = _torch_update(
            wide, grad, prev, step, eta_minus, eta_plus, step_min, step_max, direction, DTYPE
        )
        tl.store(a, prev.to(DTYPE), mask=mask)
        tl.store(b, step.to(DTYPE), mask=mask)
    else:
        row_outcome = 0
        if RULE == _PER_OUTCOME:
            if ROWS:  # noqa: SIM108
                row_outcome = tl.load(outcome + index // per_loss, mask=mask)
            else:
                row_outcome = tl.load(outcome)
        state = tl.load(a, mask=mask)
        if OPTIONS:
            is_frozen = tl.load(
                frozen_at.to(tl.pointer_type(tl.int8)) + index, mask=in_bounds & (frozen_at != 0), other=0
            )
            is_frozen = is_frozen != 0
            grad = tl.where(is_frozen, 0.0, grad)
            state = tl.where(is_frozen, _forget(state, SHIFT, THRESHOLD), state)
        wide, state = _update(
            wide, grad, state, eta_minus, eta_plus, step_min, step_max, direction, row_outcome, RULE, SHIFT, THRESHOLD
        )
        if OPTIONS:
            lower = _load_bound(lower_at, index, in_bounds, flags & _SCALAR_LOWER, float("-inf"), DTYPE, REAL)
            upper = _load_bound(upper_at, index, in_bounds, flags & _SCALAR_UPPER, float("inf"), DTYPE, REAL)
            stored = wide.to(DTYPE).to(REAL)  # rounded before it is compared
            is_high = stored >= upper
            stopped = ((stored <= lower) | is_high) & (is_frozen == 0) & ((lower_at != 0) | (upper_at != 0))
            half = (upper - lower) * 0.5
            largest = tl.where(half < MIN_STEP, MIN_STEP, half) * SHIFT
            unsigned = _forget(state, SHIFT, THRESHOLD)
            wide = tl.where(stopped, tl.where(is_high, upper, lower), wide)
            state = tl.where(stopped, tl.where(unsigned > largest, largest, unsigned), state)
        tl.store(a, state, mask=mask)
    tl.store(w, wide.to(DTYPE), mask=mask)


@triton.jit
def _step_kernel(
    rows, grads, hypers, extras, chunks, outcome,
    RULE: tl.constexpr, ROWS: tl.constexpr, OPTIONS: tl.constexpr, DTYPE: tl.constexpr, REAL: tl.constexpr,
    SHIFT: tl.constexpr, THRESHOLD: tl.constexpr, MIN_STEP: tl.constexpr, BLOCK: tl.constexpr, TAIL: tl.constexpr,
):  # fmt: skip
    """Update one chunk in one program.

    rows, grads, hypers, extras: of step_table.h; chunks: int64, one for each program: row << 32 | number of the chunk
    in its tensor; outcome: uint8, one, or one for each row of a tensor. OPTIONS: whether a row may have options.
    """
    chunk = tl.load(chunks + tl.program_id(0))
    index = chunk >> 32
    start = (chunk & 0xFFFFFFFF) * BLOCK
    row = rows + index * _ROW_COLUMNS
    w_at = tl.load(row)
    a_at = tl.load(row + 1)
    b_at = tl.load(row + 2)
    remaining = tl.load(row + 3) - start
    per_loss = tl.load(row + 4)
    if ROWS:
        outcome += tl.load(row + 5)
    hyper = hypers + tl.load(row + 7) * _HYPER_COLUMNS
    eta_minus = tl.load(hyper).to(REAL)
    eta_plus = tl.load(hyper + 1).to(REAL)
    step_min = tl.load(hyper + 2).to(REAL)
    step_max = tl.load(hyper + 3).to(REAL)
    direction = tl.load(hyper + 4).to(REAL)
    if RULE != _TORCH:  # the smallest step that the state can hold
        step_min = tl.where(step_min < MIN_STEP, MIN_STEP, step_min).to(REAL)
    g_at = tl.load(grads + index)
    lower_at = w_at * 0
    upper_at = lower_at
    frozen_at = lower_at
    flags = lower_at
    if OPTIONS:
        number = tl.load(row + 11)
        has_options = number >= 0
        extra = extras + tl.where(has_options, number, 0) * _EXTRA_COLUMNS
        lower_at = tl.load(extra, mask=has_options, other=0)
        upper_at = tl.load(extra + 1, mask=has_options, other=0)
        frozen_at = tl.load(extra + 2, mask=has_options, other=0)
        flags = tl.load(extra + 4, mask=has_options, other=0)

    STATE: tl.constexpr = DTYPE if RULE == _TORCH else REAL
    w = w_at.to(tl.pointer_type(DTYPE))
    g = g_at.to(tl.pointer_type(DTYPE))
    a = a_at.to(tl.pointer_type(STATE))
    b = b_at.to(tl.pointer_type(STATE))
    if (remaining >= BLOCK) & (((w_at | g_at | a_at | b_at) & 15) == 0):
        each = tl.arange(0, BLOCK)
        _update_block(
            tl.multiple_of(w, 16) + start + each, tl.multiple_of(g, 16) + start + each,
            tl.multiple_of(a, 16) + start + each, tl.multiple_of(b, 16) + start + each,
            start + each, each >= 0, eta_minus, eta_plus, step_min, step_max, direction, outcome, per_loss,
            lower_at, upper_at, frozen_at, flags,
            RULE, ROWS, OPTIONS, False, DTYPE, REAL, SHIFT, THRESHOLD, MIN_STEP,
        )  # fmt: skip
    else:
        for first in tl.static_range(0, BLOCK, TAIL):
            position = first + tl.arange(0, TAIL)
            at = start + position
            _update_block(
                w + at, g + at, a + at, b + at, at, position < remaining,
                eta_minus, eta_plus, step_min, step_max, direction, outcome, per_loss,
                lower_at, upper_at, frozen_at, flags,
                RULE, ROWS, OPTIONS, True, DTYPE, REAL, SHIFT, THRESHOLD, MIN_STEP,
            )  # fmt: skip


@triton.jit
def _compare_kernel(
    loss, previous, outcomes, n, maximize_offset, DTYPE: tl.constexpr, REAL: tl.constexpr, BLOCK: tl.constexpr
):
    """Compare n losses as loss.compare_losses; E_prev is INOUT.

    The outcomes of minimization go to ``outcomes``, those of maximization ``maximize_offset`` bytes behind.
    """
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    in_bounds = at < n
    now = tl.load(loss + at, mask=in_bounds, other=0.0).to(REAL)
    before = tl.load(previous + at, mask=in_bounds, other=0.0).to(REAL)
    finite = tl.abs(now) < float("inf")
    has_previous = tl.abs(before) < float("inf")
    nonfinite = has_previous & (finite == 0)
    increased = tl.where(has_previous & (now > before), _WORSE, _NOT_WORSE)
    decreased = tl.where(has_previous & (now < before), _WORSE, _NOT_WORSE)
    tl.store(outcomes + at, tl.where(nonfinite, _NONFINITE, increased).to(tl.uint8), mask=in_bounds)
    maximized = tl.where(nonfinite, _NONFINITE, decreased).to(tl.uint8)
    tl.store(outcomes + maximize_offset + at, maximized, mask=in_bounds)
    tl.store(previous + at, tl.where(finite, now, before).to(DTYPE), mask=in_bounds)


INTERPRETED: Final = not isinstance(_step_kernel, triton.runtime.JITFunction)
"""Whether kernels run in Triton's interpreter, on CPU tensors alone."""

_DTYPES: Final = {
    torch.float32: (tl.float32, tl.float32),
    torch.float64: (tl.float64, tl.float64),
    torch.float16: (tl.float16, tl.float32),
    torch.bfloat16: (tl.bfloat16, tl.float32),
}


# --------------------------------------------------------------------------------------------- devices


def device_guard(device: torch.device) -> Any:
    """Make ``device`` the current one; Triton launches on its current stream."""
    return torch.cuda.device(device if device.type == "cuda" else -1)  # -1: stay


def _stream(device: torch.device) -> int:
    return 0 if device.type == "cpu" else int(torch.cuda.current_stream(device).cuda_stream)


def capturing(device: torch.device) -> bool:
    """Check whether a CUDA graph is being captured from the current stream."""
    return device.type == "cuda" and bool(torch.cuda.is_current_stream_capturing())


@functools.cache
def compiles_on(device: torch.device, dtype: torch.dtype) -> bool:
    """Check whether kernels for ``dtype`` compile and run on ``device``; warns once where they do not.

    Triton needs a C compiler and a recent GPU; only a trial shows whether both are there.
    """
    if device.type == "cpu":
        return INTERPRETED
    if INTERPRETED or device.type != "cuda" or torch.version.cuda is None:
        return False
    if torch.cuda.get_device_capability(device) < ((8, 0) if dtype == torch.bfloat16 else (7, 0)):
        return False
    try:
        one = torch.ones(1, dtype=dtype, device=device)
        _compare_losses(one, torch.zeros_like(one))
    except Exception as error:
        warn_user(
            f"the Triton kernels cannot be used on {device}, torch's own operations take their place: "
            f"{type(error).__name__}: {error}",
            RuntimeWarning,
        )
        return False
    return True


def on_engine_device(t: Tensor) -> bool:
    """Check whether a tensor lies on a device on which the kernels run."""
    return t.is_cpu if INTERPRETED else t.is_cuda


def _compare_losses(loss: Tensor, previous: Tensor) -> tuple[Tensor, Tensor]:
    n = loss.numel()
    storage, real = _DTYPES[loss.dtype]
    offset = -(-n // 16) * 16  # both outcomes begin at a multiple of 16: one kernel is compiled for them
    outcomes = torch.empty((2, offset), dtype=torch.uint8, device=loss.device)
    with device_guard(loss.device):
        _compare_kernel[(triton.cdiv(n, 256),)](
            loss,
            previous,
            outcomes,
            n,
            offset,
            DTYPE=storage,
            REAL=real,
            BLOCK=256,
            num_warps=4,
            enable_fp_fusion=False,
        )
    return outcomes[0, :n].view(loss.shape), outcomes[1, :n].view(loss.shape)


# ----------------------------------------------------------------------------------------------- tables

Hyper: TypeAlias = tuple[float, float, float, float, float]
"""Hyper-parameters and the direction, -1 to maximize; for the drop-in rounded to the tensors' dtype."""
Options: TypeAlias = tuple[Tensor | float | None, Tensor | float | None, Tensor | None]
"""Lower and upper bounds, numbers or of shape () or the parameter's, and a mask of frozen weights."""


def _encoding(dtype: torch.dtype) -> Encoding:
    """Return the constants of the state of parameters of ``dtype``."""
    return encoding_of(torch.float64 if dtype == torch.float64 else torch.float32)


def _is_dense(t: Tensor) -> bool:
    """Check whether the elements fill their memory without gaps or overlaps, in whatever order."""
    reach = 1
    for stride, size in sorted(both for both in zip(t.stride(), t.shape, strict=True) if both[1] != 1):
        if stride != reach:
            return False
        reach *= size
    return True


def _addresses(tensors: tuple[Tensor, ...], state_dtype: torch.dtype) -> list[int] | None:
    """Return the addresses of a parameter, its gradient and its state (of dtype ``state_dtype``).

    None where one of them is more than plain memory, or where they have no common dense order. Tensors without memory
    (sparse, fake, vmapped) raise RuntimeError.
    """
    param = tensors[0]
    dtype, shape, index = param.dtype, param.shape, param.get_device()
    found: list[int] = []
    contiguous = True
    for t in tensors:
        kind = type(t)
        if (
            (kind is not Tensor and kind is not Parameter)
            or t.dtype is not (dtype if len(found) < 2 else state_dtype)
            or t.get_device() != index
            or t.shape != shape
            or t.is_neg()
        ):
            return None
        contiguous = contiguous and t.is_contiguous()
        found.append(t.data_ptr())
    if not contiguous:
        strides = param.stride()
        if not all(t.stride() == strides for t in tensors) or not _is_dense(param):
            return None
    return found


def numel_per_loss(param: Tensor, outcome: int | Tensor, n: int) -> int:
    """Return how many neighbours in memory share an outcome; 0 where they are not neighbours."""
    if isinstance(outcome, int) or outcome.dim() == 0:
        return n
    rows = outcome.numel()
    if param.dim() == 0 or param.shape[0] != rows or (rows > 1 and param.stride(0) * rows != n):
        return 0
    return n // rows


class TableBytes(NamedTuple):
    """The columns of a table that rarely change, as bytes of step_table.h."""

    rows: bytes
    hypers: bytes
    extras: bytes


class DeviceTable:
    """The input of one launch, on the device: rows, hyper-parameters, options, chunks and gradients."""

    def __init__(self, source: TableBytes, grads: bytes, device: torch.device, stream: int) -> None:
        self.source, self.grads, self.stream = source, grads, stream
        self.frozen = False
        rows = np.frombuffer(source.rows, np.int64).reshape(-1, ROW_COLUMNS)
        n = len(rows)
        counts = -(-rows[:, NUMEL] // BLOCK)
        index = np.repeat(np.arange(n), counts)
        number = np.arange(len(index)) - np.repeat(np.cumsum(counts) - counts, counts)
        self.rows = _upload(rows, device)
        self.hypers = _upload(np.frombuffer(source.hypers, np.float64), device)
        self.has_options = bool(source.extras)
        self.extras = _upload(np.frombuffer(source.extras, np.int64), device) if self.has_options else self.rows
        self.chunks = _upload(index << 32 | number, device)
        self.column = _upload(np.frombuffer(grads, np.int64), device)
        self.pinned_grads = torch.empty(n, dtype=torch.int64, pin_memory=True) if device.type == "cuda" else None

    def update_grads(self, grads: bytes) -> None:
        """Copy new addresses of gradients, after the launch that reads the old ones: both are on one stream."""
        self.column.copy_(_pinned(np.frombuffer(grads, np.int64), self.column.device), non_blocking=True)
        self.grads = grads

    def captured_copy(self, grads: bytes) -> "DeviceTable | None":
        """Return this table with other gradients, for a graph being captured; None without pinned memory for it."""
        if self.pinned_grads is None:
            return None
        table = object.__new__(DeviceTable)
        table.__dict__.update(self.__dict__)
        self.pinned_grads = None  # the graph reads it at every replay
        assert table.pinned_grads is not None
        table.pinned_grads.numpy()[:] = np.frombuffer(grads, np.int64)
        table.column = torch.empty_like(self.column)
        table.column.copy_(table.pinned_grads, non_blocking=True)
        table.grads, table.frozen = grads, True
        return table


def _pinned(values: NDArray[Any], device: torch.device) -> Tensor:
    """Put a copy of values into pinned memory, which torch does not reuse before the copy from it is done."""
    host = torch.from_numpy(values.copy())  # torch warns about memory that is read-only
    return host.pin_memory() if device.type == "cuda" else host


def _upload(values: NDArray[Any], device: torch.device) -> Tensor:
    return _pinned(values, device).to(device, non_blocking=True)


class Launch:
    """The parameters of one step that share a launch, collected one by one."""

    def __init__(self, device: torch.device, outcome: int | Tensor) -> None:
        self.device, self.outcome = device, outcome
        self.rows: list[list[int]] = []
        self.grads: list[int] = []
        self.extras: list[list[int]] = []
        self._hypers: dict[Hyper, int] = {}
        self._numel = 0

    def add(
        self,
        addresses: list[int],
        numel: int,
        numel_per_loss: int,
        dtype: int,
        hyper: Hyper,
        extra: list[int] | None,
    ) -> None:
        """Add a row; ``addresses``: of the parameter, its gradient and its state."""
        param, grad, state, *rest = addresses
        index = self._hypers.setdefault(hyper, len(self._hypers))
        number = -1
        if extra is not None:
            number = len(self.extras)
            self.extras.append(extra)
        second = rest[0] if rest else 0
        self.rows.append([param, state, second, numel, numel_per_loss, 0, self._numel, index, -1, dtype, 0, number])
        self.grads.append(grad)
        self._numel += numel

    def table(self) -> tuple[TableBytes, bytes]:
        """Return the table and the column of the gradients."""
        rows, grads, extras = (np.array(x, np.int64).tobytes() for x in (self.rows, self.grads, self.extras))
        return TableBytes(rows, np.array(list(self._hypers), np.float64).tobytes(), extras), grads


COLLECTED: Final = -1
"""In the place of the number of the outcome: a table that the extension collected."""
_Key: TypeAlias = tuple[int, torch.dtype, int]  # index of the device, dtype, number of the outcome


def _option_row(param: Tensor, constraints: tuple[Tensor | None, ...]) -> list[int] | None:
    """Return a row of extras; None where an option is more than plain memory in the parameter's order."""
    row: list[int] = []
    flags = 0
    for t, dtype, flag in zip(
        constraints, (param.dtype, param.dtype, torch.bool), (SCALAR_LOWER, SCALAR_UPPER, 0), strict=True
    ):
        if t is None:
            row.append(0)
            continue
        if t.dtype is not dtype or t.get_device() != param.get_device() or t.is_neg():
            return None
        if t.dim() == 0 and param.dim() > 0:
            if not flag:
                return None
            flags |= flag
        elif t.shape != param.shape or t.stride() != param.stride():
            return None
        row.append(t.data_ptr())
    return [*row, 0, flags]


class TritonStep:
    """Whole steps of one optimizer: :meth:`prepare`; or :meth:`begin`, :meth:`add` every parameter, :meth:`launch`."""

    device_type: Final = "cpu" if INTERPRETED else "cuda"

    def __init__(self) -> None:
        self._tables: dict[_Key, DeviceTable] = {}
        self._captured: list[DeviceTable] = []
        self._numbers: dict[tuple[float, torch.dtype, torch.device], Tensor] = {}
        self.begin()

    def begin(self) -> None:
        """Drop the parameters of the last step; the tables stay."""
        self._launches: dict[_Key, Launch] = {}
        self._outcomes: dict[int, int] = {}
        self._writes: list[Tensor] = []

    def prepare(
        self,
        variant: str,
        outcome: int | Tensor,
        rows: bytes,
        grads: bytes,
        hypers: bytes,
        extras: bytes,
        dtype: int,
        device: int,
    ) -> Callable[[], None] | None:
        """Make the launch of a table that the extension has collected and checked.

        Args:
            variant: a key of ``UPDATES``.
            outcome: as for :meth:`add`; with one for each row, the rows have them.
            rows, grads, hypers, extras: of step_table.h.
            dtype: the number of the parameters' dtype there.
            device: the number of their device.

        Returns:
            the launch; None, with nothing touched, where it cannot be made.
        """
        torch_device = torch.device("cpu") if INTERPRETED else torch.device("cuda", device)
        torch_dtype = list(_DTYPES)[dtype]
        key = (device, torch_dtype, COLLECTED)
        if key not in self._tables and (capturing(torch_device) or not compiles_on(torch_device, torch_dtype)):
            return None
        table = self._table(key, torch_device, TableBytes(rows, hypers, extras), grads)
        if table is None:
            return None
        return functools.partial(self._launch, UPDATES[variant], torch_device, torch_dtype, table, outcome)

    def add(
        self,
        param: Tensor,
        grad: Tensor,
        state: tuple[Tensor, ...],
        hyper: Hyper,
        outcome: int | Tensor = NOT_WORSE,
        constraints: Options | None = None,
    ) -> bool:
        """Add a parameter to the step.

        Args:
            param: INOUT.
            grad: IN.
            state: INOUT, ``(move,)``, or torch's ``(prev, step_size)``.
            hyper: hyper-parameters and direction.
            outcome: of the loss comparison, for iRprop+: a number, or a tensor of shape () or (B,).
            constraints: None or (lower, upper, frozen).

        Returns:
            False where it cannot be taken: a tensor is more than plain memory, or they do not lie on one device in one
            dense order.
        """
        dtype = param.dtype
        if dtype not in _DTYPES or not on_engine_device(param):
            return False
        torch_rule = len(state) == 2
        try:
            found = _addresses((param, grad, *state), dtype if torch_rule or dtype == torch.float64 else torch.float32)
        except RuntimeError:
            return False
        if found is None:
            return False
        n = param.numel()
        if n == 0:
            return True
        if 0 in found or not (per_loss := numel_per_loss(param, outcome, n)):
            return False
        extra = None
        if constraints is not None and any(t is not None for t in constraints):
            lower, upper, frozen = constraints
            extra = _option_row(param, (self._number(lower, param), self._number(upper, param), frozen))
            if extra is None:
                return False
        key = (param.get_device(), dtype, self._outcomes.setdefault(id(outcome), len(self._outcomes)))
        launch = self._launches.get(key)
        if launch is None:
            launch = self._launches[key] = Launch(param.device, outcome)
        launch.add(found, n, per_loss, list(_DTYPES).index(dtype), hyper, extra)
        self._writes.append(param)
        self._writes.extend(state)
        return True

    def _number(self, value: Tensor | float | None, param: Tensor) -> Tensor | None:
        """Return a bound as a tensor on the parameter's device, whose address stays the same from step to step."""
        if value is None or isinstance(value, Tensor):
            return value
        key = (value, param.dtype, param.device)
        if key not in self._numbers:
            self._numbers[key] = torch.full((), value, dtype=param.dtype, device=param.device)
        return self._numbers[key]

    def launch(self, rule: int) -> bool:
        """Perform the step: one launch for each device and dtype (and each outcome, where there are several).

        Args:
            rule: a value of ``UPDATES``; for iRprop+ the outcomes decide.

        Returns:
            False, with nothing touched, where parameters overlap, were made in inference mode, or a graph is
            captured before a step was made outside it.
        """
        try:
            return self._launch_all(rule)
        finally:
            self.begin()  # drop references to this step's tensors

    def _launch_all(self, rule: int) -> bool:
        launches = []
        collected = {key: launch.table() for key, launch in self._launches.items()}
        if not self.unchanged(collected) and not self._is_disjoint():
            return False
        for key, launch in self._launches.items():
            if key not in self._tables and (capturing(launch.device) or not compiles_on(launch.device, key[1])):
                return False
            if (table := self._table(key, launch.device, *collected[key])) is None:
                return False
            launches.append(functools.partial(self._launch, rule, launch.device, key[1], table, launch.outcome))
        try:
            increment_version(self._writes)
        except RuntimeError:  # tensors made in inference mode have no version counter
            return False
        for launch_one in launches:
            launch_one()
        return True

    def compare_losses(self, loss: Tensor, previous: Tensor) -> tuple[Tensor, Tensor] | None:
        """Compare losses as :func:`rprop_kernels.loss.compare_losses`, in one launch.

        Args:
            loss: shape () or (B,).
            previous: INOUT, E_prev, NaN where there never was a finite loss. It stays where it is, so that a
                captured graph carries it on.

        Returns:
            the outcomes of minimization, and those of maximization; None where the tensors cannot be taken.
        """
        if not (
            loss.dtype in _DTYPES
            and on_engine_device(loss)
            and _addresses((loss, previous), loss.dtype)
            and loss.is_contiguous()
            and (capturing(loss.device) or compiles_on(loss.device, loss.dtype))
        ):
            return None
        return _compare_losses(loss, previous)

    def unchanged(self, collected: dict[_Key, tuple[TableBytes, bytes]]) -> bool:
        """Check whether every address is that of the previous step."""
        tables = self._tables
        return all(
            (table := tables.get(key)) is not None and (table.source, table.grads) == now
            for key, now in collected.items()
        )

    def _is_disjoint(self) -> bool:
        """Check that no written memory overlaps any other."""
        writes: list[tuple[int, int]] = []
        reads: list[tuple[int, int]] = []
        for (_, dtype, _), launch in self._launches.items():
            size = dtype.itemsize
            for row, grad in zip(launch.rows, launch.grads, strict=True):
                param, state, second, n = row[:4]
                state_size = size if second or size == 8 else 4
                writes += (param, param + size * n), (state, state + state_size * n)
                if second:
                    writes.append((second, second + size * n))
                reads.append((grad, grad + size * n))
                if row[EXTRA] >= 0:
                    lower, upper, frozen, _, flags = launch.extras[row[EXTRA]]
                    sizes = (1 if flags & SCALAR_LOWER else n) * size, (1 if flags & SCALAR_UPPER else n) * size, n
                    reads += ((x, x + k) for x, k in zip((lower, upper, frozen), sizes, strict=True) if x)
        return not writes or is_disjoint(*(np.array(x, np.int64).reshape(-1, 2) for x in (writes, reads)))

    def _table(self, key: _Key, device: torch.device, source: TableBytes, grads: bytes) -> DeviceTable | None:
        table = self._tables.get(key)
        same = table is not None and table.source == source
        moved = table is not None and table.grads != grads
        if capturing(device):
            if table is None or not same or (moved and (table := table.captured_copy(grads)) is None):
                return None
            table.frozen = True
            self._captured.append(table)
            return table
        stream = _stream(device)
        if table is None or not same or table.stream != stream or (table.frozen and moved):
            # A table is only ever used on the stream that it was made on, so that its memory, once
            # dropped, is not given away while a launch may read it.
            with device_guard(device):
                table = self._tables[key] = DeviceTable(source, grads, device, stream)
        elif moved:
            table.update_grads(grads)
        return table

    def _launch(
        self, rule: int, device: torch.device, dtype: torch.dtype, table: DeviceTable, outcome: int | Tensor
    ) -> None:
        storage, real = _DTYPES[dtype]
        encoding = _encoding(dtype)
        by_row = False
        if rule == PER_OUTCOME:
            if isinstance(outcome, int):
                rule = RULE_FOR_OUTCOME["irprop+"][outcome]
            else:
                by_row = outcome.dim() > 0
                outcome = outcome.to(device)
        with device_guard(device):
            _step_kernel[(table.chunks.numel(),)](
                table.rows,
                table.column,
                table.hypers,
                table.extras,
                table.chunks,
                outcome if isinstance(outcome, Tensor) else table.chunks,  # unused in its place
                RULE=rule,
                ROWS=by_row,
                OPTIONS=table.has_options,
                DTYPE=storage,
                REAL=real,
                SHIFT=encoding.shift,
                THRESHOLD=encoding.threshold,
                MIN_STEP=encoding.min_step,
                BLOCK=BLOCK,
                TAIL=_TAIL,
                num_warps=WARPS,
                enable_fp_fusion=False,
            )


def step(
    variant: str,
    params: Sequence[Tensor],
    grads: Sequence[Tensor],
    states: Sequence[tuple[Tensor, ...]],
    hyper: Hyperparameters,
    *,
    maximize: bool = False,
    outcome: int | Tensor = NOT_WORSE,
    n_threads: int = 1,
    constraints: Sequence[Options | None] | None = None,
) -> bool:
    """Perform one step as :func:`rprop_kernels.kernels.torch_.step`, of torch's rule too, with a table for it alone.


    Returns:
        False, with nothing touched, where a tensor cannot be taken, or they overlap.
    """
    launcher = TritonStep()
    limits = constraints or [None] * len(params)
    for w, g, state, limit in zip(params, grads, states, limits, strict=True):
        if not launcher.add(w, g, state, hyper.with_direction(maximize), outcome, limit):
            return False
    return launcher.launch(UPDATES[variant])
