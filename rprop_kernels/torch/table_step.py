"""The step of CPU tensors without the extension: collects them in Python for an engine that runs the table by address.

The counterpart of ``TorchStep`` in ``src/_native.pyx``, with the same interface.
"""

import itertools
from collections.abc import Sequence
from operator import attrgetter, is_
from typing import Any, Final, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.autograd.graph import increment_version

from ..kernels import load_engine, step_table
from . import _compat

STEPPED, REPLAN, UNSUPPORTED = range(3)
"""Status of a step: done; the optimizer has changed, call ``plan`` and retry; nothing changed, fall back."""

_DTYPES: Final = {**{dtype: number for number, dtype in enumerate(_compat.DTYPES)}, torch.bool: step_table.BOOL}
_TYPES: Final = {Tensor, torch.nn.Parameter}
_attributes: Final = attrgetter("shape", "dtype", "layout", "is_cpu")


class _Stop(Exception):
    """The end of a step before anything has changed, with its status."""

    def __init__(self, status: int) -> None:
        self.status = status


def _require(condition: bool, status: int) -> None:
    if not condition:
        raise _Stop(status)


class _Columns(NamedTuple):
    """Descriptions of tensors, a list for each fact: cheap to make, and to compare with those of the last step."""

    addresses: list[int]
    strides: list[tuple[int, ...]]
    attributes: list[Any]


def _describe(tensors: list[Any]) -> _Columns:
    _require(_TYPES.issuperset(map(type, tensors)), UNSUPPORTED)
    return _Columns(
        list(map(Tensor.data_ptr, tensors)), list(map(Tensor.stride, tensors)), list(map(_attributes, tensors))
    )


def _to_memory(columns: _Columns) -> list[step_table.Memory]:
    """Check that tensors are nothing but memory of this process, and describe them for the table."""
    memory = []
    for address, strides, (shape, dtype, layout, is_cpu) in zip(*columns, strict=True):
        _require(is_cpu and layout is torch.strided and dtype in _DTYPES, UNSUPPORTED)
        _require(address != 0 or 0 in shape, UNSUPPORTED)
        number = _DTYPES[dtype]
        itemsize = step_table.ITEMSIZES[number]
        memory.append((address, tuple(shape), tuple(stride * itemsize for stride in strides), number))
    return memory


def _same_objects(current: Sequence[Any], planned: Sequence[Any]) -> bool:
    return len(current) == len(planned) and all(map(is_, current, planned))


def _same_pair(value: Any, planned: tuple[Any, ...]) -> bool:
    """Check whether a pair of numbers is the planned tuple; a list may have changed in place."""
    return value is planned or (type(value) in (tuple, list) and tuple(value) == planned)


class _PlannedGroup:
    """A param group as recorded in a plan."""

    def __init__(self, state: Any, group: dict[str, Any], planned: tuple[Any, ...]) -> None:
        etas, step_sizes, self.maximize, self.lr, self.hypers, constraints = planned
        self.params, self.etas, self.step_sizes = list(group["params"]), tuple(etas), tuple(step_sizes)
        self.states = list(map(state.get, self.params))
        self.constraints = constraints or [None] * len(self.params)
        self.bounds, self.frozen = group.get("bounds"), group.get("frozen")
        self.lists = [(x, list(x)) for x in (*(self.bounds or ()), self.frozen) if type(x) is list]

    def is_current(self, group: dict[str, Any]) -> bool:
        """Check whether the group is as it was planned."""
        return (
            _same_objects(group["params"], self.params)
            and group["maximize"] is self.maximize
            and _same_pair(group["etas"], self.etas)
            and _same_pair(group["step_sizes"], self.step_sizes)
            and (self.lr is None or group["lr"] is self.lr or (self.lr is float and type(group["lr"]) is float))
            and group.get("bounds") is self.bounds
            and group.get("frozen") is self.frozen
            and all(_same_objects(x, before) for x, before in self.lists)
        )


class TableStep:
    """Steps of one torch optimizer, all groups in one call.

    Objects are compared by identity with those of the plan; addresses and shapes are read on every step.
    """

    def __init__(self, torch_rule: bool) -> None:
        self._torch_rule = torch_rule
        self._table = step_table.StepTable()
        self._groups: list[_PlannedGroup] | None = None
        self._keys: list[Any] = []
        self._states: list[Any] = []
        self._described: Any = None
        self._rows: list[step_table.Described] = []
        self._hypers: list[Any] = []
        self._counters: dict[int, list[int]] = {}
        self._busy = False

    def plan(self, state: Any, param_groups: Any, hypers: list[Any]) -> None:
        """Record the objects that make up the optimizer, as ``TorchStep.plan``."""
        if self._busy:  # another thread is in the middle of a step and reads the old plan
            return
        self._keys, self._states, self._described = list(state), list(state.values()), None
        self._groups = None
        if type(param_groups) is list:
            self._groups = [_PlannedGroup(state, *row) for row in zip(param_groups, hypers, strict=True)]

    def __call__(
        self,
        rule: int,
        state: Any,
        param_groups: Any,
        outcomes: bytes | None,
        threshold: int,
        prepare_launch: None = None,
        n_losses: int = 0,
        bests: list[Any] | None = None,
        improved: bytes | None = None,
    ) -> int:
        """Make one step; return its status.

        ``outcomes`` is None, or one for each element of the first dimension. ``bests`` is None or has a tensor for each
        parameter, to which those with a gradient are copied before the step where ``improved``.
        """
        if self._busy or type(param_groups) is not list or _compat.mode_active():
            return UNSUPPORTED
        self._busy = True
        try:
            try:
                written = self._collect(rule, state, param_groups, outcomes, bests, improved)
            except _Stop as stop:
                return stop.status
            except (RuntimeError, NotImplementedError):  # tensors without memory of their own
                return UNSUPPORTED
            if written:
                increment_version(written)
            engine = load_engine("numba")
            for dtype, addresses in self._counters.items():
                engine.increment(dtype, addresses)
            engine.run_table(self._table, torch.get_num_threads)
            return STEPPED
        finally:
            self._busy = False

    def _collect(
        self,
        rule: int,
        state: Any,
        param_groups: Any,
        outcomes: bytes | None,
        bests: list[Any] | None,
        improved: bytes | None,
    ) -> list[Any]:
        """Fill the table; return the tensors to write to."""
        _require(isinstance(state, dict), UNSUPPORTED)  # or a mapping of the user's own
        groups = self._groups
        if groups is None or len(param_groups) != len(groups):
            raise _Stop(REPLAN)
        _require(_same_objects(list(state), self._keys) and _same_objects(list(state.values()), self._states), REPLAN)
        used: list[tuple[int, int]] = []  # the group, and the parameter in it
        grads: list[Any] = []
        for index, (group, planned) in enumerate(zip(param_groups, groups, strict=True)):
            _require(type(group["params"]) is list, UNSUPPORTED)
            _require(planned.is_current(group), REPLAN)
            if self._torch_rule:
                _require(group["capturable"] is False and group["differentiable"] is False, UNSUPPORTED)
            found = [(i, grad) for i, p in enumerate(planned.params) if (grad := p.grad) is not None]
            used += [(index, i) for i, _ in found]
            grads += [grad for _, grad in found]
        states = [groups[index].states[i] for index, i in used]
        _require({dict}.issuperset(map(type, states)), REPLAN if None in states else UNSUPPORTED)
        try:
            moves = [[x[name] for x in states] for name in (("prev", "step_size") if self._torch_rule else ("move",))]
            counters = [x["step"] for x in states] if self._torch_rule else []
        except KeyError:
            raise _Stop(REPLAN) from None
        written = [groups[index].params[i] for index, i in used]
        for column in (*moves, counters):
            written += column
        limits = [groups[index].constraints[i] or (None, None, None) for index, i in used]
        options = [x for row in limits for x in row if x is not None]
        if bests is not None:
            firsts = list(itertools.accumulate((len(group.params) for group in groups), initial=0))
            _require(len(bests) == firsts[-1], UNSUPPORTED)
            options += [bests[firsts[index] + i] for index, i in used]
        lasting = [*written, *options]

        addresses, *gradients = _describe(grads)
        _require(not any(map(Tensor.is_neg, grads)), UNSUPPORTED)
        described = used, bests is None, _describe(lasting), gradients
        if described != self._described:
            self._described = None
            _require(not any(map(Tensor.is_neg, lasting)), UNSUPPORTED)
            memory = _to_memory(described[2]), _to_memory(_Columns(addresses, *gradients))
            self._fill(used, limits, *memory, has_bests=bests is not None)
            self._described = described
        elif 0 in addresses:
            _to_memory(_Columns(addresses, *gradients))
        losses = None if outcomes is None else np.frombuffer(outcomes, np.uint8)
        collected = self._table.collect(rule, self._rows, addresses, self._hypers, losses, improved)
        _require(collected, REPLAN if options else UNSUPPORTED)  # the dtype of a bounded parameter may have changed
        return written

    def _fill(
        self,
        used: list[tuple[int, int]],
        limits: list[tuple[Any, Any, Any]],
        lasting: list[step_table.Memory],
        grads: list[step_table.Memory],
        has_bests: bool,
    ) -> None:
        """Describe the parameters for the table, and find their hyper-parameters and counters."""
        n = len(used)
        bests = lasting[-n:] if has_bests else [None] * n
        counters = lasting[3 * n : 4 * n] if self._torch_rule else []
        options = iter([] if self._torch_rule else lasting[2 * n :])
        addresses: dict[int, list[int]] = {}
        for address, shape, _, dtype in counters:
            is_number = shape == () and dtype in (step_table.FLOAT, step_table.DOUBLE)
            _require(is_number and address % step_table.ITEMSIZES[dtype] == 0, UNSUPPORTED)
            addresses.setdefault(dtype, []).append(address)
        indices: dict[tuple[int, int], int] = {}  # of hyper-parameters, by group and dtype
        rows: list[step_table.Described] = []
        hypers: list[Any] = []
        for k, ((group, _), row) in enumerate(zip(used, limits, strict=True)):
            dtype = lasting[k][3]
            _require(dtype != step_table.BOOL, UNSUPPORTED)
            hyper = self._groups[group].hypers[dtype] if self._groups else None
            _require(hyper is not None, UNSUPPORTED)
            if (group, dtype) not in indices:
                indices[group, dtype] = len(hypers)
                hypers.append(hyper)
            state2 = lasting[2 * n + k] if self._torch_rule else None
            constraints = (None if x is None else next(options) for x in row)
            memory = (lasting[k], (0, *grads[k][1:]), lasting[n + k], state2, *constraints, bests[k])
            rows.append((indices[group, dtype], memory))
        self._rows, self._hypers, self._counters = rows, hypers, addresses
