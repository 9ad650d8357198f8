# mypy: disable-error-code="no-untyped-def, untyped-decorator, import-untyped"
# (Triton compiles its functions itself: their arguments have no Python types.)
"""The rules on a GPU, in Triton: one launch for all tensors of a dtype on a device.

A launch reads a table: a row for each tensor (where it lies, how long it is, its hyper-parameters), the
gradients' addresses beside it, and a list of chunks of BLOCK weights, one program each. The table is built
and copied to the device only when something in it changed. Gradients made anew each step often lie
elsewhere: then their column alone is copied, 8 bytes a tensor, from pinned memory, and nothing waits.

In a CUDA graph addresses never change, so the table stays as it was captured: it is frozen, and kept as
long as the optimizer. New addresses of gradients are then copied by the graph itself, from pinned memory
that was set aside before (pinning is not allowed while a graph is captured).

With TRITON_INTERPRET=1 the same code runs on CPU tensors, for tests.
"""

import functools
import warnings
from collections.abc import Sequence
from typing import Any, Final, TypeAlias

import numpy as np
import torch
import triton
import triton.language as tl
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import Parameter

from ..hyperparameters import Hyperparameters
from .rules import MOVE, PRODUCT, RETREAT, RULES, UNDO
from .state import CODES
from .verdict import BETTER

# ---------------------------------------------------------------------------------------------- rules
# Scalar rules on blocks of weights, already widened. No product feeds a sum except sign * step, which is
# exact, so a fused multiply-add could not change a bit; it is switched off all the same. Denormals stay.

ASK: Final = 5  # iRprop+ with a verdict that lies on the device

KERNELS: Final = {name: rules[0] for name, rules in RULES.items()} | {"irprop+": ASK}

BLOCK: Final = 2048
"""Weights a program; each thread has four 16-byte loads of every float32 array under way."""
WARPS: Final = 4
_TAIL: Final = 1024  # weights at a time where a chunk is not full, or an address no multiple of 16
_WIDTH: Final = 10  # numbers in a row of the table

_M = tl.constexpr(MOVE)
_U = tl.constexpr(UNDO)
_R = tl.constexpr(RETREAT)
_P = tl.constexpr(PRODUCT)
_A = tl.constexpr(ASK)
_ROW = tl.constexpr(_WIDTH)


@triton.jit
def _sign(x):
    """-1, +0 or +1; +0 for NaN."""
    return tl.where(x > 0, 1.0, tl.where(x < 0, -1.0, 0.0)).to(x.dtype)


@triton.jit
def _clamp(step, low, high):
    """Within low..high; NaN stays, as in torch."""
    step = tl.where(step < low, low, step)
    return tl.where(step > high, high, step)


@triton.jit
def _one_state(w, g, s, em, ep, low, high, way, verdict, RULE: tl.constexpr, SHIFT: tl.constexpr, LIMIT: tl.constexpr):
    """The four rules on the state of state.py: (new weight, new state)."""
    size = tl.abs(s)
    forgot = size > LIMIT
    step = tl.where(forgot, size * (1.0 / SHIFT), size)
    last = tl.where(forgot, 0.0, s)
    sign = _sign(g * way)
    if RULE == _R:
        sign = _sign(-last)
    if RULE == _A:
        sign = tl.where(verdict == 2, _sign(-last), sign)
    c = sign * last  # sign(g) * q * D_old: its sign is c's, it cannot underflow
    new = _clamp(step * tl.where(c > 0, ep, tl.where(c < 0, em, 1.0)), low, high)
    go = sign
    if RULE != _M:
        go = tl.where(c < 0, 0.0, sign)
    move = go * new
    kept = tl.where(go == 0, new * SHIFT, move)
    if RULE == _U or RULE == _R:  # noqa: SIM109
        move = tl.where(c < 0, -s, move)
    if RULE == _A:
        move = tl.where((c < 0) & (verdict != 0), -s, move)
    return w - move, kept


@triton.jit
def _product(w, g, prev, step, em, ep, low, high, way, CELL: tl.constexpr):
    """torch.optim.Rprop, rounded to CELL where torch rounds: (new weight, gradient kept, new step size)."""
    g = g * way
    product = (g * prev).to(CELL).to(w.dtype)
    factor = tl.where(product > 0, ep, tl.where(product < 0, em, 1.0))
    step = _clamp((step * factor).to(CELL).to(w.dtype), low, high)
    g = tl.where(factor == em, 0.0, g)  # torch asks the factor, not the sign
    return w - _sign(g) * step, g, step


@triton.jit
def _chunk(
    w, g, a, b, place, inside, em, ep, low, high, way, verdict, per_row,
    RULE: tl.constexpr, ROWS: tl.constexpr, MASKED: tl.constexpr, CELL: tl.constexpr, REAL: tl.constexpr,
    SHIFT: tl.constexpr, LIMIT: tl.constexpr,
):  # fmt: skip
    """Weights at the addresses w, those that are ``inside``; ``place`` counts them in their tensor."""
    mask = inside if MASKED else None
    wide = tl.load(w, mask=mask).to(REAL)
    gradient = tl.load(g, mask=mask).to(REAL)
    if RULE == _P:
        prev = tl.load(a, mask=mask).to(REAL)
        step = tl.load(b, mask=mask).to(REAL)
        wide, prev, step = _product(wide, gradient, prev, step, em, ep, low, high, way, CELL)
        tl.store(a, prev.to(CELL), mask=mask)
        tl.store(b, step.to(CELL), mask=mask)
    else:
        said = 0
        if RULE == _A:
            if ROWS:  # noqa: SIM108
                said = tl.load(verdict + place // per_row, mask=mask)
            else:
                said = tl.load(verdict)
        state = tl.load(a, mask=mask)
        wide, state = _one_state(wide, gradient, state, em, ep, low, high, way, said, RULE, SHIFT, LIMIT)
        tl.store(a, state, mask=mask)
    tl.store(w, wide.to(CELL), mask=mask)


@triton.jit
def _whole_step(
    rows, gradients, chunks, verdict,
    RULE: tl.constexpr, ROWS: tl.constexpr, CELL: tl.constexpr, REAL: tl.constexpr, SHIFT: tl.constexpr,
    LIMIT: tl.constexpr, BLOCK: tl.constexpr, TAIL: tl.constexpr,
):  # fmt: skip
    """One program, one chunk. rows: int64 (n, 10), see _Table; gradients: int64 (n,); chunks: int64, one a
    program: row << 32 | number of the chunk in its tensor; verdict: uint8, one, or one a row of a tensor."""
    chunk = tl.load(chunks + tl.program_id(0))
    index = chunk >> 32
    start = (chunk & 0xFFFFFFFF) * BLOCK
    row = rows + index * _ROW
    w_at = tl.load(row)
    a_at = tl.load(row + 1)
    b_at = tl.load(row + 2)
    left = tl.load(row + 3) - start
    per_row = tl.load(row + 4)
    em = tl.load(row + 5).to(tl.float64, bitcast=True).to(REAL)
    ep = tl.load(row + 6).to(tl.float64, bitcast=True).to(REAL)
    low = tl.load(row + 7).to(tl.float64, bitcast=True).to(REAL)
    high = tl.load(row + 8).to(tl.float64, bitcast=True).to(REAL)
    way = tl.load(row + 9).to(tl.float64, bitcast=True).to(REAL)
    g_at = tl.load(gradients + index)

    STATE: tl.constexpr = CELL if RULE == _P else REAL
    w = w_at.to(tl.pointer_type(CELL))
    g = g_at.to(tl.pointer_type(CELL))
    a = a_at.to(tl.pointer_type(STATE))
    b = b_at.to(tl.pointer_type(STATE))
    if (left >= BLOCK) & (((w_at | g_at | a_at | b_at) & 15) == 0):
        each = tl.arange(0, BLOCK)
        _chunk(
            tl.multiple_of(w, 16) + start + each, tl.multiple_of(g, 16) + start + each,
            tl.multiple_of(a, 16) + start + each, tl.multiple_of(b, 16) + start + each,
            start + each, each, em, ep, low, high, way, verdict, per_row,
            RULE, ROWS, False, CELL, REAL, SHIFT, LIMIT,
        )  # fmt: skip
    else:
        for first in tl.static_range(0, BLOCK, TAIL):
            place = first + tl.arange(0, TAIL)
            at = start + place
            _chunk(
                w + at, g + at, a + at, b + at, at, place < left,
                em, ep, low, high, way, verdict, per_row, RULE, ROWS, True, CELL, REAL, SHIFT, LIMIT,
            )  # fmt: skip


@triton.jit
def _judge(loss, previous, verdicts, n, climbing, CELL: tl.constexpr, REAL: tl.constexpr, BLOCK: tl.constexpr):
    """verdict.judge of n losses; E_prev is INOUT. What a descending optimizer makes of them goes to
    ``verdicts``, what a climbing one makes ``climbing`` bytes behind."""
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = at < n
    now = tl.load(loss + at, mask=inside, other=0.0).to(REAL)
    before = tl.load(previous + at, mask=inside, other=0.0).to(REAL)
    finite = tl.abs(now) < float("inf")
    known = tl.abs(before) < float("inf")
    lost = known & (finite == 0)
    rose = known & (now > before)
    fell = known & (now < before)
    tl.store(verdicts + at, tl.where(lost, 2, tl.where(rose, 1, 0)).to(tl.uint8), mask=inside)
    tl.store(verdicts + climbing + at, tl.where(lost, 2, tl.where(fell, 1, 0)).to(tl.uint8), mask=inside)
    tl.store(previous + at, tl.where(finite, now, before).to(CELL), mask=inside)


INTERPRETED: Final = not isinstance(_whole_step, triton.runtime.JITFunction)
"""Whether kernels run in Triton's interpreter, on CPU tensors alone."""

_CELLS: Final = {
    torch.float32: (tl.float32, tl.float32),
    torch.float64: (tl.float64, tl.float64),
    torch.float16: (tl.float16, tl.float32),
    torch.bfloat16: (tl.bfloat16, tl.float32),
}


# --------------------------------------------------------------------------------------------- devices


def _on(device: torch.device) -> Any:
    """Make ``device`` the current one; Triton launches on its current stream."""
    return torch.cuda.device(device if device.type == "cuda" else -1)  # -1: stay


def _stream(device: torch.device) -> int:
    return 0 if device.type == "cpu" else int(torch.cuda.current_stream(device).cuda_stream)


def capturing(device: torch.device) -> bool:
    """Whether a CUDA graph is being captured from the current stream."""
    return device.type == "cuda" and bool(torch.cuda.is_current_stream_capturing())


@functools.cache
def usable(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether kernels for ``dtype`` compile and run on ``device``; warns once where they do not.

    Triton needs a compiler for C, and a GPU not too old; neither can be seen before it is tried.
    """
    if device.type == "cpu":
        return INTERPRETED
    if INTERPRETED or device.type != "cuda" or torch.version.cuda is None:
        return False
    if torch.cuda.get_device_capability(device) < ((8, 0) if dtype == torch.bfloat16 else (7, 0)):
        return False
    try:
        one = torch.ones(1, dtype=dtype, device=device)
        _judge_losses(one, torch.zeros_like(one))
    except Exception as error:
        warnings.warn(
            f"the Triton kernels cannot be used on {device}, torch's own operations take their place: "
            f"{type(error).__name__}: {error}",
            RuntimeWarning,
            stacklevel=2,
        )
        return False
    return True


def _here(t: Tensor) -> bool:
    return t.is_cpu if INTERPRETED else t.is_cuda


def _judge_losses(loss: Tensor, previous: Tensor) -> tuple[Tensor, Tensor]:
    n = loss.numel()
    cell, real = _CELLS[loss.dtype]
    pitch = -(-n // 16) * 16  # both verdicts begin at a multiple of 16: one kernel is compiled for them
    verdicts = torch.empty((2, pitch), dtype=torch.uint8, device=loss.device)
    with _on(loss.device):
        _judge[(triton.cdiv(n, 256),)](
            loss,
            previous,
            verdicts,
            n,
            pitch,
            CELL=cell,
            REAL=real,
            BLOCK=256,
            num_warps=4,
            enable_fp_fusion=False,
        )
    return verdicts[0, :n].view(loss.shape), verdicts[1, :n].view(loss.shape)


# ----------------------------------------------------------------------------------------------- tables

Numbers: TypeAlias = tuple[float, float, float, float, float]
"""Hyper-parameters and the direction, -1 to climb; for the drop-in rounded to the tensors' dtype."""
Row: TypeAlias = tuple[int, int, int, int, int, Numbers]
"""Addresses of w, of move or prev, of step_size (or 0); weights; weights that share a verdict; numbers."""


def four_numbers(hyper: Hyperparameters, maximize: bool, dtype: torch.dtype) -> Numbers:
    """The four classes' numbers, with the least step size that their state can hold."""
    least = CODES["float64" if dtype == torch.float64 else "float32"].least
    return hyper[0], hyper[1], max(hyper[2], least), hyper[3], -1.0 if maximize else 1.0


def _dense(t: Tensor) -> bool:
    """Whether the elements fill their memory without gaps or overlaps, in whatever order."""
    reach = 1
    for stride, size in sorted(both for both in zip(t.stride(), t.shape, strict=True) if both[1] != 1):
        if stride != reach:
            return False
        reach *= size
    return True


def _addresses(tensors: tuple[Tensor, ...], kept: torch.dtype) -> list[int] | None:
    """Where a weight, its gradient and its state (of dtype ``kept``) lie; None where one is more than memory,
    or they lie in no common dense order. What has no memory (sparse, fake, vmapped) raises RuntimeError."""
    weight = tensors[0]
    dtype, shape, place = weight.dtype, weight.shape, weight.get_device()
    found: list[int] = []
    contiguous = True
    for t in tensors:
        kind = type(t)
        if (
            (kind is not Tensor and kind is not Parameter)
            or t.dtype is not (dtype if len(found) < 2 else kept)
            or t.get_device() != place
            or t.shape != shape
            or t.is_neg()
        ):
            return None
        contiguous = contiguous and t.is_contiguous()
        found.append(t.data_ptr())
    if not contiguous:
        strides = weight.stride()
        if not all(t.stride() == strides for t in tensors) or not _dense(weight):
            return None
    return found


def _weights_a_verdict(weight: Tensor, verdict: int | Tensor, n: int) -> int:
    """How many neighbours in memory share a verdict; 0 where they are no neighbours."""
    if isinstance(verdict, int) or verdict.dim() == 0:
        return n
    rows = verdict.numel()
    if weight.dim() == 0 or weight.shape[0] != rows or (rows > 1 and weight.stride(0) * rows != n):
        return 0
    return n // rows


def _apart(written: NDArray[np.int64], read: NDArray[np.int64]) -> bool:
    """Whether no written span (start, end) touches another, or one that is read."""
    if not len(written):
        return True
    written = written[np.argsort(written[:, 0])]
    if (written[1:, 0] < written[:-1, 1]).any():
        return False
    after = np.searchsorted(written[:, 1], read[:, 0], side="right")  # the first that ends behind the start
    inside = after < len(written)
    return not (written[after[inside], 0] < read[inside, 1]).any()


class _Table:
    """What one launch reads, on the device: rows of 10 numbers (those of a Row, 5-9 as float64), the chunks,
    and beside them the column of the gradients' addresses."""

    def __init__(self, known: list[Row], gradients: list[int], device: torch.device, stream: int) -> None:
        self.known, self.gradients, self.stream = known, gradients, stream
        self.frozen = False
        n = len(known)
        table = np.empty((n, _WIDTH), np.int64)
        table[:, :5] = [row[:5] for row in known]
        table[:, 5:] = np.array([row[5] for row in known], np.float64).view(np.int64)
        counts = -(-table[:, 3] // BLOCK)
        index = np.repeat(np.arange(n), counts)
        number = np.arange(len(index)) - np.repeat(np.cumsum(counts) - counts, counts)
        self.rows = _upload(table, device)
        self.chunks = _upload(index << 32 | number, device)
        self.column = _upload(np.array(gradients, np.int64), device)
        self.spare = torch.empty(n, dtype=torch.int64, pin_memory=True) if device.type == "cuda" else None

    def move_gradients(self, gradients: list[int]) -> None:
        """The copy comes after the launch that reads the old addresses: both are on one stream."""
        self.column.copy_(_pinned(np.array(gradients, np.int64), self.column.device), non_blocking=True)
        self.gradients = gradients

    def for_graph(self, gradients: list[int]) -> "_Table | None":
        """This table with other gradients, for a graph being captured; None where nothing was set aside."""
        if self.spare is None:
            return None
        table = object.__new__(_Table)
        table.__dict__.update(self.__dict__)
        self.spare = None  # the graph reads it at every replay
        assert table.spare is not None
        table.spare.numpy()[:] = gradients
        table.column = torch.empty_like(self.column)
        table.column.copy_(table.spare, non_blocking=True)
        table.gradients, table.frozen = gradients, True
        return table


def _pinned(values: NDArray[np.int64], device: torch.device) -> Tensor:
    """In pinned memory, which torch does not use again before the copy from it is done."""
    host = torch.from_numpy(values)
    return host.pin_memory() if device.type == "cuda" else host


def _upload(values: NDArray[np.int64], device: torch.device) -> Tensor:
    return _pinned(values, device).to(device, non_blocking=True)


class _Part:
    """The parameters of one step that share a launch."""

    def __init__(self, device: torch.device, verdict: int | Tensor) -> None:
        self.device, self.verdict = device, verdict
        self.rows: list[Row] = []
        self.gradients: list[int] = []


_Key: TypeAlias = tuple[int, torch.dtype, int]  # index of the device, dtype, number of the verdict


class Launcher:
    """Whole steps of one optimizer: :meth:`begin`, :meth:`add` every parameter, :meth:`launch`."""

    def __init__(self) -> None:
        self._tables: dict[_Key, _Table] = {}
        self._captured: list[_Table] = []
        self.begin()

    def begin(self) -> None:
        """Forget what was added; the tables stay."""
        self._parts: dict[_Key, _Part] = {}
        self._verdicts: dict[int, int] = {}
        self._written: list[Tensor] = []

    def add(
        self,
        weight: Tensor,
        gradient: Tensor,
        state: tuple[Tensor, ...],
        numbers: Numbers,
        verdict: int | Tensor = BETTER,
    ) -> bool:
        """Take a parameter into the step; False where it cannot be taken: a tensor is more than memory, or
        they do not lie on one device in one dense order.

        Args:
            weight: INOUT.
            gradient: IN.
            state: INOUT, ``(move,)``, or torch's ``(prev, step_size)``.
            numbers: hyper-parameters and direction.
            verdict: on the loss, for iRprop+: a number, or a tensor of shape () or (B,).
        """
        dtype = weight.dtype
        if dtype not in _CELLS or not _here(weight):
            return False
        product = len(state) == 2
        try:
            found = _addresses(
                (weight, gradient, *state), dtype if product or dtype == torch.float64 else torch.float32
            )
        except RuntimeError:
            return False
        if found is None:
            return False
        n = weight.numel()
        if n == 0:
            return True
        if 0 in found or not (per_verdict := _weights_a_verdict(weight, verdict, n)):
            return False
        key = (weight.get_device(), dtype, self._verdicts.setdefault(id(verdict), len(self._verdicts)))
        part = self._parts.get(key)
        if part is None:
            part = self._parts[key] = _Part(weight.device, verdict)
        part.rows.append((found[0], found[2], found[3] if product else 0, n, per_verdict, numbers))
        part.gradients.append(found[1])
        self._written.append(weight)
        self._written.extend(state)
        return True

    def launch(self, rule: int) -> bool:
        """Step what was added: one launch a device and dtype (and a verdict, where there are several).

        Args:
            rule: a value of ``KERNELS``; for iRprop+ the verdicts decide.

        Returns:
            False, with nothing touched, where parameters overlap, were made in inference mode, or a graph is
            captured before a step was made outside it.
        """
        try:
            return self._launch_all(rule)
        finally:
            self.begin()  # keep nobody's tensors alive

    def _launch_all(self, rule: int) -> bool:
        tables = []
        if not self._known() and not self._apart():
            return False
        for key, part in self._parts.items():
            if key not in self._tables and (capturing(part.device) or not usable(part.device, key[1])):
                return False
            if (table := self._table(key, part)) is None:
                return False
            tables.append(table)
        try:
            torch._C._increment_version(self._written)
        except RuntimeError:  # tensors made in inference mode have no version counter
            return False
        for (key, part), table in zip(self._parts.items(), tables, strict=True):
            self._launch(rule, part.device, key[1], table, part.verdict)
        return True

    def judge(self, loss: Tensor, previous: Tensor) -> tuple[Tensor, Tensor] | None:
        """:func:`rprop_kernels.kernels.torch_.judge` in one launch.

        Args:
            loss: shape () or (B,).
            previous: INOUT, E_prev, NaN where there never was a finite loss. It stays where it is, so that a
                captured graph carries it on.

        Returns:
            the verdicts of one that descends, and of one that climbs; None where this cannot be taken.
        """
        if not (
            loss.dtype in _CELLS
            and _here(loss)
            and _addresses((loss, previous), loss.dtype)
            and loss.is_contiguous()
            and (capturing(loss.device) or usable(loss.device, loss.dtype))
        ):
            return None
        return _judge_losses(loss, previous)

    def _known(self) -> bool:
        """Whether every address is that of the step before."""
        tables = self._tables
        return all(
            (table := tables.get(key)) is not None and table.known == part.rows and table.gradients == part.gradients
            for key, part in self._parts.items()
        )

    def _apart(self) -> bool:
        """Whether nothing that is written touches anything else."""
        written, read = [], []
        for (_, dtype, _), part in self._parts.items():
            size = dtype.itemsize
            rows = np.array([row[:4] for row in part.rows], np.int64)
            gradients = np.array(part.gradients, np.int64)
            read.append(np.stack([gradients, gradients + size * rows[:, 3]], 1))
            pair = rows[:, 2].any()
            sizes = [size, size if pair or size == 8 else 4, size][: 2 + pair]
            for i, itemsize in enumerate(sizes):
                written.append(np.stack([rows[:, i], rows[:, i] + itemsize * rows[:, 3]], 1))
        return not written or _apart(np.concatenate(written), np.concatenate(read))

    def _table(self, key: _Key, part: _Part) -> _Table | None:
        device, rows, gradients = part.device, part.rows, part.gradients
        table = self._tables.get(key)
        same = table is not None and table.known == rows
        moved = table is not None and table.gradients != gradients
        if capturing(device):
            if table is None or not same or (moved and (table := table.for_graph(gradients)) is None):
                return None
            table.frozen = True
            self._captured.append(table)
            return table
        stream = _stream(device)
        if table is None or not same or table.stream != stream or (table.frozen and moved):
            # A table is only ever used on the stream that it was made on, so that its memory, once
            # dropped, is not given away while a launch may read it.
            with _on(device):
                table = self._tables[key] = _Table(rows, gradients, device, stream)
        elif moved:
            table.move_gradients(gradients)
        return table

    def _launch(
        self, rule: int, device: torch.device, dtype: torch.dtype, table: _Table, verdict: int | Tensor
    ) -> None:
        cell, real = _CELLS[dtype]
        code = CODES["float64" if dtype == torch.float64 else "float32"]
        by_row = False
        if rule == ASK:
            if isinstance(verdict, int):
                rule = RULES["irprop+"][verdict]
            else:
                by_row = verdict.dim() > 0
                verdict = verdict.to(device)
        with _on(device):
            _whole_step[(table.chunks.numel(),)](
                table.rows,
                table.column,
                table.chunks,
                verdict if isinstance(verdict, Tensor) else table.chunks,  # in its place, and not read
                RULE=rule,
                ROWS=by_row,
                CELL=cell,
                REAL=real,
                SHIFT=code.shift,
                LIMIT=code.threshold,
                BLOCK=BLOCK,
                TAIL=_TAIL,
                num_warps=WARPS,
                enable_fp_fusion=False,
            )


def step(
    variant: str,
    weights: Sequence[Tensor],
    gradients: Sequence[Tensor],
    states: Sequence[tuple[Tensor, ...]],
    hyper: Hyperparameters,
    *,
    maximize: bool = False,
    verdict: int | Tensor = BETTER,
    threads: int = 1,
) -> bool:
    """As :func:`rprop_kernels.kernels.torch_.step`, and the drop-in's rule too; its table serves once.

    Returns:
        False, with nothing touched, where a tensor cannot be taken, or they overlap.
    """
    launcher = Launcher()
    for w, g, state in zip(weights, gradients, states, strict=True):
        numbers = (*hyper, -1.0 if maximize else 1.0) if variant == "torch" else four_numbers(hyper, maximize, w.dtype)
        if not launcher.add(w, g, state, numbers, verdict):
            return False
    return launcher.launch(KERNELS[variant])
