# mypy: disable-error-code="no-untyped-def, untyped-decorator, import-untyped"
# (Triton compiles its functions itself: their arguments have no Python types.)
"""The rules on a GPU, in Triton: one launch for all tensors of a dtype on a device.

A launch reads a table with a row for each tensor (its addresses, size and hyper-parameters), a separate column with the
addresses of the gradients, and a list of chunks of BLOCK weights, one program each. The table is built and copied to
the device only when something in it has changed. Gradients that are made anew each step often have other addresses:
then their column alone is copied, 8 bytes a tensor, from pinned memory, and nothing waits.

In a CUDA graph addresses never change, so the table stays as it was captured: it is frozen, and kept as
long as the optimizer. New addresses of gradients are then copied by the graph itself, from pinned memory
that was set aside before (pinning is not allowed while a graph is captured).

With TRITON_INTERPRET=1 the same code runs on CPU tensors, for tests.
"""

import functools
from collections.abc import Sequence
from typing import Any, Final, TypeAlias

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
from .step_table import is_disjoint

# ---------------------------------------------------------------------------------------------- rules
# Scalar rules on blocks of weights, already widened. No product feeds a sum except sign * step, which is
# exact, so a fused multiply-add could not change a bit; it is switched off all the same. Denormals stay.

UPDATES: Final = {name: rules[0] for name, rules in RULE_FOR_OUTCOME.items()} | {"irprop+": PER_OUTCOME}

BLOCK: Final = 2048
"""Weights of one program; each thread has four 16-byte loads of every float32 array in flight."""
WARPS: Final = 4
_TAIL: Final = 1024  # weights at a time where a chunk is not full, or an address no multiple of 16
N_COLUMNS: Final = 10  # of the table

_MOVE = tl.constexpr(MOVE)
_BACKTRACK = tl.constexpr(BACKTRACK)
_BACKTRACK_ALL = tl.constexpr(BACKTRACK_ALL)
_TORCH = tl.constexpr(TORCH)
_PER_OUTCOME = tl.constexpr(PER_OUTCOME)
_N_COLUMNS = tl.constexpr(N_COLUMNS)
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
def _update_block(
    w, g, a, b, index, in_bounds, eta_minus, eta_plus, step_min, step_max, direction, outcome, per_loss,
    RULE: tl.constexpr, ROWS: tl.constexpr, MASKED: tl.constexpr, DTYPE: tl.constexpr, REAL: tl.constexpr,
    SHIFT: tl.constexpr, THRESHOLD: tl.constexpr,
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
        wide, state = _update(
            wide, grad, state, eta_minus, eta_plus, step_min, step_max, direction, row_outcome, RULE, SHIFT, THRESHOLD
        )
        tl.store(a, state, mask=mask)
    tl.store(w, wide.to(DTYPE), mask=mask)


@triton.jit
def _step_kernel(
    rows, grads, chunks, outcome,
    RULE: tl.constexpr, ROWS: tl.constexpr, DTYPE: tl.constexpr, REAL: tl.constexpr, SHIFT: tl.constexpr,
    THRESHOLD: tl.constexpr, BLOCK: tl.constexpr, TAIL: tl.constexpr,
):  # fmt: skip
    """Update one chunk in one program.

    rows: int64 (n, 10), see DeviceTable; grads: int64 (n,); chunks: int64, one for each program: row << 32 | number of
    the chunk in its tensor; outcome: uint8, one, or one for each row of a tensor.
    """
    chunk = tl.load(chunks + tl.program_id(0))
    index = chunk >> 32
    start = (chunk & 0xFFFFFFFF) * BLOCK
    row = rows + index * _N_COLUMNS
    w_at = tl.load(row)
    a_at = tl.load(row + 1)
    b_at = tl.load(row + 2)
    remaining = tl.load(row + 3) - start
    per_loss = tl.load(row + 4)
    eta_minus = tl.load(row + 5).to(tl.float64, bitcast=True).to(REAL)
    eta_plus = tl.load(row + 6).to(tl.float64, bitcast=True).to(REAL)
    step_min = tl.load(row + 7).to(tl.float64, bitcast=True).to(REAL)
    step_max = tl.load(row + 8).to(tl.float64, bitcast=True).to(REAL)
    direction = tl.load(row + 9).to(tl.float64, bitcast=True).to(REAL)
    g_at = tl.load(grads + index)

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
            start + each, each, eta_minus, eta_plus, step_min, step_max, direction, outcome, per_loss,
            RULE, ROWS, False, DTYPE, REAL, SHIFT, THRESHOLD,
        )  # fmt: skip
    else:
        for first in tl.static_range(0, BLOCK, TAIL):
            position = first + tl.arange(0, TAIL)
            at = start + position
            _update_block(
                w + at, g + at, a + at, b + at, at, position < remaining,
                eta_minus, eta_plus, step_min, step_max, direction, outcome, per_loss,
                RULE, ROWS, True, DTYPE, REAL, SHIFT, THRESHOLD,
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
Row: TypeAlias = tuple[int, int, int, int, int, Hyper]
"""Addresses of w, of move or prev, of step_size (or 0); weights; weights that share an outcome; hyper."""


def _encoding(dtype: torch.dtype) -> Encoding:
    """Return the constants of the state of parameters of ``dtype``."""
    return encoding_of(torch.float64 if dtype == torch.float64 else torch.float32)


def state_hyper(hyper: Hyperparameters, maximize: bool, dtype: torch.dtype) -> Hyper:
    """Return the hyper-parameters of the four variants, with the smallest step size that their state can hold."""
    step_min = max(hyper.step_min, _encoding(dtype).min_step)
    return hyper._replace(step_min=step_min).with_direction(maximize)


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


class DeviceTable:
    """The input of one launch, on the device: the rows (10 numbers each, 5-9 as float64), the chunks, the gradients."""

    def __init__(self, source: list[Row], grads: list[int], device: torch.device, stream: int) -> None:
        self.source, self.grads, self.stream = source, grads, stream
        self.frozen = False
        n = len(source)
        table = np.empty((n, N_COLUMNS), np.int64)
        table[:, :5] = [row[:5] for row in source]
        table[:, 5:] = np.array([row[5] for row in source], np.float64).view(np.int64)
        counts = -(-table[:, 3] // BLOCK)
        index = np.repeat(np.arange(n), counts)
        number = np.arange(len(index)) - np.repeat(np.cumsum(counts) - counts, counts)
        self.rows = _upload(table, device)
        self.chunks = _upload(index << 32 | number, device)
        self.column = _upload(np.array(grads, np.int64), device)
        self.pinned_grads = torch.empty(n, dtype=torch.int64, pin_memory=True) if device.type == "cuda" else None

    def update_grads(self, grads: list[int]) -> None:
        """Copy new addresses of gradients, after the launch that reads the old ones: both are on one stream."""
        self.column.copy_(_pinned(np.array(grads, np.int64), self.column.device), non_blocking=True)
        self.grads = grads

    def captured_copy(self, grads: list[int]) -> "DeviceTable | None":
        """Return this table with other gradients, for a graph being captured; None without pinned memory for it."""
        if self.pinned_grads is None:
            return None
        table = object.__new__(DeviceTable)
        table.__dict__.update(self.__dict__)
        self.pinned_grads = None  # the graph reads it at every replay
        assert table.pinned_grads is not None
        table.pinned_grads.numpy()[:] = grads
        table.column = torch.empty_like(self.column)
        table.column.copy_(table.pinned_grads, non_blocking=True)
        table.grads, table.frozen = grads, True
        return table


def _pinned(values: NDArray[np.int64], device: torch.device) -> Tensor:
    """Put values into pinned memory, which torch does not reuse before the copy from it is done."""
    host = torch.from_numpy(values)
    return host.pin_memory() if device.type == "cuda" else host


def _upload(values: NDArray[np.int64], device: torch.device) -> Tensor:
    return _pinned(values, device).to(device, non_blocking=True)


class Launch:
    """The parameters of one step that share a launch."""

    def __init__(self, device: torch.device, outcome: int | Tensor) -> None:
        self.device, self.outcome = device, outcome
        self.rows: list[Row] = []
        self.grads: list[int] = []


_Key: TypeAlias = tuple[int, torch.dtype, int]  # index of the device, dtype, number of the outcome


class TritonStep:
    """Whole steps of one optimizer: :meth:`begin`, :meth:`add` every parameter, :meth:`launch`."""

    def __init__(self) -> None:
        self._tables: dict[_Key, DeviceTable] = {}
        self._captured: list[DeviceTable] = []
        self.begin()

    def begin(self) -> None:
        """Drop the parameters of the last step; the tables stay."""
        self._launches: dict[_Key, Launch] = {}
        self._outcomes: dict[int, int] = {}
        self._writes: list[Tensor] = []

    def add(
        self,
        param: Tensor,
        grad: Tensor,
        state: tuple[Tensor, ...],
        hyper: Hyper,
        outcome: int | Tensor = NOT_WORSE,
    ) -> bool:
        """Add a parameter to the step.

        Args:
            param: INOUT.
            grad: IN.
            state: INOUT, ``(move,)``, or torch's ``(prev, step_size)``.
            hyper: hyper-parameters and direction.
            outcome: of the loss comparison, for iRprop+: a number, or a tensor of shape () or (B,).

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
        key = (param.get_device(), dtype, self._outcomes.setdefault(id(outcome), len(self._outcomes)))
        launch = self._launches.get(key)
        if launch is None:
            launch = self._launches[key] = Launch(param.device, outcome)
        launch.rows.append((found[0], found[2], found[3] if torch_rule else 0, n, per_loss, hyper))
        launch.grads.append(found[1])
        self._writes.append(param)
        self._writes.extend(state)
        return True

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
        tables = []
        if not self.unchanged() and not self._is_disjoint():
            return False
        for key, launch in self._launches.items():
            if key not in self._tables and (capturing(launch.device) or not compiles_on(launch.device, key[1])):
                return False
            if (table := self._table(key, launch)) is None:
                return False
            tables.append(table)
        try:
            increment_version(self._writes)
        except RuntimeError:  # tensors made in inference mode have no version counter
            return False
        for (key, launch), table in zip(self._launches.items(), tables, strict=True):
            self._launch(rule, launch.device, key[1], table, launch.outcome)
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

    def unchanged(self) -> bool:
        """Check whether every address is that of the previous step."""
        tables = self._tables
        return all(
            (table := tables.get(key)) is not None and table.source == launch.rows and table.grads == launch.grads
            for key, launch in self._launches.items()
        )

    def _is_disjoint(self) -> bool:
        """Check that no written memory overlaps any other."""
        writes, reads = [], []
        for (_, dtype, _), launch in self._launches.items():
            size = dtype.itemsize
            rows = np.array([row[:4] for row in launch.rows], np.int64)
            grads = np.array(launch.grads, np.int64)
            reads.append(np.stack([grads, grads + size * rows[:, 3]], 1))
            pair = rows[:, 2].any()
            sizes = [size, size if pair or size == 8 else 4, size][: 2 + pair]
            for i, itemsize in enumerate(sizes):
                writes.append(np.stack([rows[:, i], rows[:, i] + itemsize * rows[:, 3]], 1))
        return not writes or is_disjoint(np.concatenate(writes), np.concatenate(reads))

    def _table(self, key: _Key, launch: Launch) -> DeviceTable | None:
        device, rows, grads = launch.device, launch.rows, launch.grads
        table = self._tables.get(key)
        same = table is not None and table.source == rows
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
                table = self._tables[key] = DeviceTable(rows, grads, device, stream)
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
                table.chunks,
                outcome if isinstance(outcome, Tensor) else table.chunks,  # unused in its place
                RULE=rule,
                ROWS=by_row,
                DTYPE=storage,
                REAL=real,
                SHIFT=encoding.shift,
                THRESHOLD=encoding.threshold,
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
) -> bool:
    """Perform one step as :func:`rprop_kernels.kernels.torch_.step`, of torch's rule too, with a table for it alone.

    Returns:
        False, with nothing touched, where a tensor cannot be taken, or they overlap.
    """
    native = TritonStep()
    for w, g, state in zip(params, grads, states, strict=True):
        row_hyper = hyper.with_direction(maximize) if variant == "torch" else state_hyper(hyper, maximize, w.dtype)
        if not native.add(w, g, state, row_hyper, outcome):
            return False
    return native.launch(UPDATES[variant])
