"""Choice of the implementation of a step, and the check which tensors it accepts.

All CPU tensors of all groups take one call, which collects their addresses and runs the compiled loops or, where it was
chosen, the Numba engine. Where that cannot be verified to be correct, the step falls back: CUDA tensors to the Triton
engine, everything else to torch's own operations.
"""

import functools
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any, ClassVar, Final, NamedTuple

import torch
from torch import Tensor
from torch.autograd.graph import increment_version
from torch.nn.parameter import is_lazy

from ..backends import resolve_backend, unavailable_reason
from ..bounds import Constraints
from ..hyperparameters import Hyperparameters
from ..kernels import load_engine, threads
from ..loss import NOT_WORSE
from ..rules import RULE_FOR_OUTCOME, Variant
from . import _compat
from .loss import Loss, to_loss
from .state import require_storage
from .table_step import TableStep

ALWAYS_WRAP_VARIABLE: Final = "RPROP_KERNELS_PLAIN_STEP"
STEPPED, REPLAN = 0, 1
"""Status of a native step: STEPPED; REPLAN (rebuild the plan and retry); anything else: nothing changed, fall back."""

Outcome = Any
"""Of the loss comparison: an int, a tensor of shape () or (B,), or a list with one of these for each group."""


def is_plain_tensor(tensor: Tensor, dtype: torch.dtype) -> bool:
    """Check whether a tensor is memory of this process and nothing else, so that NumPy can view it."""
    try:
        return (
            type(tensor) in (Tensor, torch.nn.Parameter)
            and tensor.dtype == dtype
            and tensor.device.type == "cpu"
            and tensor.layout == torch.strided
            and not tensor.is_neg()
            and (tensor.numel() == 0 or tensor.data_ptr() != 0)
        )
    except RuntimeError:  # under vmap and the like: a tensor without storage
        return False


def is_number_tensor(tensor: Tensor) -> bool:
    """Check whether a tensor holds one real number in this process."""
    return tensor.dtype in _compat.DTYPES and is_plain_tensor(tensor, tensor.dtype) and tensor.dim() == 0


def _planned_pair(pair: Any) -> Any:
    """Return a pair of hyper-parameters with the values of its tensors, which can change in place."""
    if not any(isinstance(x, Tensor) and is_number_tensor(x) for x in pair):
        return pair
    return tuple(float(x) if isinstance(x, Tensor) and is_number_tensor(x) else x for x in pair)


def _prepare_numba(needs: int) -> tuple[int, int, int]:
    """Import Numba and compile, when the first step needs it."""
    addresses: tuple[int, int, int] = load_engine("numba").prepare(needs)
    return addresses


class GroupTensors(NamedTuple):
    """The tensors of one param group that have a gradient, for a step that is not native."""

    group: dict[str, Any]
    params: list[Tensor]
    grads: list[Tensor]
    states: list[list[Tensor]]
    """A list of tensors for each name in ``Variant.state``."""
    counters: list[Tensor]
    """torch's step counters, of the drop-in alone."""
    outcome: Outcome
    constraints: list[Constraints | None] | None = None
    """Bounds and frozen weights of each parameter, where there are any."""

    def remove(self, indices: Iterable[int]) -> None:
        """Remove the tensors at these positions."""
        for index in sorted(indices, reverse=True):
            for column in (self.params, self.grads, *self.states, self.counters, self.constraints):
                if column:
                    del column[index]


class StepMixin:
    """The part of an optimizer that performs steps; none of its attributes is in the groups or the state."""

    _variant: ClassVar[Variant]
    _requested_backend: str | None
    _backend: str
    _native_step: Any
    _device_step: Any
    _triton: Any
    _always_wrap: bool
    _next_loss: Loss | None = None
    _batched: bool = False
    _stopping: Callable[[], Any] | None = None  # a weak reference to a Stopping; neither copied nor saved
    _lr_versions: Sequence[Any] = ()
    """Of an lr with a value for each weight, which can change in place; see `_notice_lr`."""

    state: Any
    param_groups: Any

    def _init_step(self, backend: str | None) -> None:
        self._rules = RULE_FOR_OUTCOME[self._variant.name]
        self._requested_backend = backend
        self._backend = resolve_backend(backend, "tensors")
        self._native_step = self._make_native_step()
        self._triton = self._device_step = None
        self._always_wrap = os.environ.get(ALWAYS_WRAP_VARIABLE, "") not in ("", "0")

    def _make_native_step(self) -> Any:
        """Make the object that steps all CPU tensors in one call; None where torch's operations do."""
        if self._backend not in ("cython", "numba"):
            return None
        torch_rule = self._variant.name == "torch"
        if self._backend == "numba" and unavailable_reason("cython") is not None:
            return TableStep(torch_rule)
        if not _compat.native_is_safe(torch.__version__):
            return None
        return _compat.make_native_step(torch_rule, _prepare_numba if self._backend == "numba" else None)

    def _picklable(self, state: dict[str, Any]) -> dict[str, Any]:
        """Add the requested backend to a pickled optimizer; where it is loaded, native objects are made for it."""
        return {**state, "_requested_backend": self._requested_backend}

    def _restore_step(self) -> None:
        """Make the native objects after unpickling; load_state_dict calls __setstate__ too, and there they stay."""
        if "_native_step" not in self.__dict__:
            self._init_step(self.__dict__.get("_requested_backend"))

    def set_loss(self, loss: Loss) -> None:
        """Set the loss at the current weights for the next step, for training loops that call ``step()`` themselves.

        Args:
            loss: as for ``step``.
        """
        self._next_loss = loss

    def _report(self, loss: Any, result: Any) -> None:
        """Let an attached Stopping test the weights that this step is about to leave."""
        stopping = None if self._stopping is None else self._stopping()
        if stopping is not None:
            value = loss if loss is not None else self._next_loss if self._next_loss is not None else result
            stopping._before_step(*(() if value is None else (value,)))

    def _keep_best_point(self) -> None:
        """Let an attached Stopping copy the best point where this step has raised an error before it left it."""
        stopping = None if self._stopping is None else self._stopping()
        if stopping is not None:
            stopping._flush_after_error()

    def _validate_loss(self, loss: Loss | None) -> None:
        """Validate a loss, given or set, that the rule does not use."""
        given = self._next_loss if loss is None else loss
        self._next_loss = None
        to_loss(given, self.param_groups, None, self._batched)

    # ------------------------------------------------------------------------- what a class provides

    def _plan_groups(self) -> list[tuple[Any, Any, Any]]:
        """Validate, make missing state, and return ``(lr or None, hyper for each dtype, constraints)`` for each group.

        A native step compares lr with the plan unless it is None. ``hyper`` is None where torch must do that dtype.
        ``constraints`` is None, or has None or a tuple (lower, upper, frozen) of tensors for each parameter.
        """
        raise NotImplementedError

    def _group_tensors(self, outcome: Outcome) -> list[GroupTensors]:
        """Validate, make missing state, and return the tensors of each group."""
        raise NotImplementedError

    def _group_hyper(self, group: dict[str, Any], dtype: torch.dtype) -> Hyperparameters | None:
        """Return a group's hyper-parameters for an engine; None where torch's operations must serve."""
        raise NotImplementedError

    def _notice_lr(self) -> None:
        """Warn where an lr with a value for each weight has changed, which the native step does not compare."""

    def _torch_step(self, tensors: GroupTensors) -> None:
        """Step one group by torch's operations."""
        raise NotImplementedError

    # ------------------------------------------------------------------------------------------ steps

    def _step_tensors(self, outcome: Outcome = NOT_WORSE) -> None:
        """Step all parameters, natively if possible."""
        if self._lr_versions:
            self._notice_lr()
        native = self._native_step
        stopping = None if self._stopping is None else self._stopping()
        if stopping is not None and stopping._pending is None:
            stopping = None
        if native is not None:
            if type(outcome) is int:
                rule, rows = self._rules[outcome], None
            elif isinstance(outcome, Tensor) and is_plain_tensor(outcome, torch.uint8):
                rule, rows = self._rules[NOT_WORSE], bytes(outcome.numpy())
            else:
                native = None
        if native is not None:
            arguments = rule, self.state, self.param_groups, rows, threads.MIN_SHARED_WEIGHTS
            if stopping is not None and (columns := stopping._columns()) is not None:
                status = native(*arguments, None, 0, *columns)
                if status == REPLAN:
                    self._plan(native)
                    status = native(*arguments, None, 0, *columns)
                if status == STEPPED:
                    stopping._pending = None
                    return
            if stopping is not None:
                stopping._flush()
                stopping = None
            status = native(*arguments)
            if status == REPLAN:
                self._plan(native)
                status = native(*arguments)
            if status == STEPPED:
                return
        if stopping is not None:
            stopping._flush()
        if not self._step_on_device(outcome):
            self._fallback_step(outcome)

    def _step_on_device(self, outcome: Outcome) -> bool:
        """Step all parameters by one launch of the Triton engine; False, with nothing touched, where it cannot be."""
        launcher = self._triton_launcher(p for group in self.param_groups for p in group["params"])
        if launcher is None or isinstance(outcome, list):
            return False
        if self._device_step is None:
            self._device_step = self._make_device_step(launcher.device_type)
        step = self._device_step
        if not step:
            return False
        n_losses = 0
        if isinstance(outcome, Tensor):
            if type(outcome) is not Tensor or outcome.dtype != torch.uint8 or not outcome.is_contiguous():
                return False
            n_losses = outcome.numel() if outcome.dim() else 0
        prepare = functools.partial(launcher.prepare, self._variant.name, outcome)
        arguments = self._rules[NOT_WORSE], self.state, self.param_groups, None, 0, prepare, n_losses
        status = step(*arguments)
        if status == REPLAN:
            self._plan(step)
            status = step(*arguments)
        return bool(status == STEPPED)

    def _make_device_step(self, device_type: str) -> Any:
        """Make the object that collects the tensors of a device; False where it cannot be."""
        if unavailable_reason("cython") is not None or not _compat.native_is_safe(torch.__version__):
            return False
        return _compat.make_native_step(self._variant.name == "torch", device=device_type)

    def _plan(self, native: Any) -> None:
        """Describe the groups to a native step."""
        plan = [
            (_planned_pair(group["etas"]), _planned_pair(group["step_sizes"]), group["maximize"], lr, hyper, limits)
            for group, (lr, hyper, limits) in zip(self.param_groups, self._plan_groups(), strict=True)
        ]
        params = [p for group in self.param_groups for p in group["params"]]
        states = (state[name] for state in map(self.state.get, params) if state for name in state)
        # Tensors made in inference mode have no version counter; torch's operations know where they may be written.
        # A lazy parameter has no memory and no gradient yet; it cannot be asked.
        if not any(isinstance(t, Tensor) and not is_lazy(t) and t.is_inference() for t in (*params, *states)):
            native.plan(self.state, self.param_groups, plan)

    def _fallback_step(self, outcome: Outcome) -> None:
        """Step all parameters by the Triton engine where it takes the tensors, else by torch's operations."""
        groups = self._group_tensors(outcome)
        self._step_by_triton(groups)
        for tensors in groups:
            if tensors.params:
                require_storage((*tensors.params, *tensors.grads, *(t for column in tensors.states for t in column)))
                self._torch_step(tensors)

    def _step_by_triton(self, groups: list[GroupTensors]) -> None:
        """Step the tensors that the Triton engine takes, and remove them from their groups."""
        launcher = self._triton_launcher(p for tensors in groups for p in tensors.params)
        if launcher is None:
            return
        from ..kernels.triton_ import UPDATES

        launcher.begin()
        taken: list[list[int]] = []
        for tensors in groups:
            taken.append([])
            group = tensors.group
            if group.get("differentiable"):
                continue
            hypers: dict[torch.dtype, Any] = {}
            for dtype in {p.dtype for p in tensors.params} & _compat.DTYPES.keys():
                if (hyper := self._group_hyper(group, dtype)) is not None:
                    hypers[dtype] = hyper.with_direction(group["maximize"])
            for i, (p, g, *state) in enumerate(zip(tensors.params, tensors.grads, *tensors.states, strict=True)):
                if p.dtype not in hypers or not self._counter_on_device(tensors, i):
                    continue
                outcome = tensors.outcome[i] if isinstance(tensors.outcome, list) else tensors.outcome
                constraints = tensors.constraints and tensors.constraints[i]
                if launcher.add(p, g, tuple(state), hypers[p.dtype], outcome, constraints):
                    taken[-1].append(i)
        if not any(taken) or not launcher.launch(UPDATES[self._variant.name]):
            return
        counters = [t.counters[i] for t, indices in zip(groups, taken, strict=True) for i in indices if t.counters]
        if counters:
            torch._foreach_add_(counters, 1)
        for tensors, indices in zip(groups, taken, strict=True):
            tensors.remove(indices)

    def _counter_on_device(self, tensors: GroupTensors, index: int) -> bool:
        """Check that torch's step counter lies where a captured graph can reach it."""
        if not tensors.counters:
            return True
        counter = tensors.counters[index]
        if type(counter) is not Tensor:
            return False
        return not tensors.group["capturable"] or (tensors.params[index].is_cuda and counter.is_cuda)

    def _triton_launcher(self, tensors: Iterable[Tensor]) -> Any:
        """Return the Triton engine, or None where it has nothing to do or cannot be used."""
        if self._backend == "torch" or not (self._backend == "triton" or any(t.is_cuda for t in tensors)):
            return None
        if _compat.mode_active():
            return None
        if self._triton is None:
            self._triton = load_engine("triton").TritonStep() if unavailable_reason("triton") is None else False
        return self._triton or None


# -------------------------------------------------------------------------------------------- DTensors


def to_local(params: list[Tensor], grads: list[Tensor], *states: list[Tensor]) -> dict[int, Any]:
    """Replace DTensors by this process's shards, in the lists; returns those parameters by their index.

    Every rule is elementwise, so equally placed shards need nothing of the other processes. (torch.optim.Rprop
    itself cannot step them: DTensor has no masked assignment.)
    """
    module = sys.modules.get("torch.distributed.tensor")
    found: dict[int, Any] = {}
    if module is None:  # then there are none
        return found
    for i, p in enumerate(params):
        row: list[Any] = [column[i] for column in (params, grads, *states)]
        if not all(isinstance(t, module.DTensor) for t in row) or any(x.is_partial() for x in row[0].placements):
            continue
        placement = row[0].device_mesh, row[0].placements
        if (row[1].device_mesh, row[1].placements) != placement:
            row[1] = row[1].redistribute(*placement)
        if any((t.device_mesh, t.placements) != placement for t in row):
            continue
        increment_version([row[0], *row[2:]])
        for column, t in zip((params, grads, *states), row, strict=True):
            column[i] = t.to_local()
        found[i] = p
    return found


def local_outcomes(outcome: Any, p: Any) -> Any:
    """Return the part of the rows' outcomes that belongs to this process's shard of ``p`` (None: no DTensor)."""
    if p is None or not isinstance(outcome, Tensor) or outcome.dim() == 0:
        return outcome
    from torch.distributed.tensor import DTensor, Replicate

    placements = [x if x.is_shard(0) else Replicate() for x in p.placements]
    whole = DTensor.from_local(outcome, p.device_mesh, [Replicate()] * len(placements), run_check=False)
    return whole.redistribute(placements=placements).to_local()
