"""Stopping: when a training loop ends, and the best weights that it has seen."""

import functools
import weakref
from collections.abc import Iterator
from typing import Any, Final, TypeAlias

import torch
from torch import Tensor
from torch.nn.parameter import is_lazy
from torch.optim import LBFGS, Optimizer

from ..bounds import split_halves, split_option
from ..kernels import threads
from ..kernels.torch_ import copy_improved
from ..loss import NOT_WORSE
from ..state import decode, encoding_of, forget_sign
from ..stopping import LoopStopping, choose, validate, whole_number
from . import _compat
from .dispatch import REPLAN, STEPPED, StepMixin, is_plain_tensor
from .loss import to_loss

Limits: TypeAlias = tuple[Any, Any, Any]

DEVICE_INTERVAL: Final = 8
"""The result of the tests is read from a device after so many of them."""


def _where(condition: Any, value: Any, other: Any) -> Any:
    return torch.where(condition, value, other) if isinstance(condition, Tensor) else choose(condition, value, other)


def _unwrap(optimizer: Any) -> Optimizer:
    """Return the torch optimizer in the wrappers of Lightning and accelerate."""
    while hasattr(optimizer, "optimizer"):
        optimizer = optimizer.optimizer
    if not isinstance(optimizer, Optimizer):
        raise TypeError(f"optimizer is a {type(optimizer).__name__}: pass a torch optimizer")
    if isinstance(optimizer, LBFGS):
        raise TypeError(
            "LBFGS evaluates its closure many times in a step, so that no loss, gradient and weights belong "
            "together: use "
            "its own tolerances, or rprop_kernels.torch.minimize"
        )
    return optimizer


def _real(x: Tensor) -> Tensor:
    return torch.view_as_real(x.resolve_conj()) if x.is_complex() else x


class Stopping(LoopStopping):
    """Stopping rules and the best weights for a training loop on the full batch.

    ``stop(loss)`` comes after ``backward()`` and before ``optimizer.step()``, and is true where the loop should end;
    ``stop.reason`` names the reason. It also serves as ``set_loss``: the step needs no loss of its own. Where a step
    of an optimizer of this module comes first and knows its loss, it makes the test, and ``stop(loss)`` after it
    answers. The step copies the best weights where it leaves them: change weights after it, not between ``stop`` and
    ``step`` (a step pre-hook may). With GradScaler call ``scaler.unscale_(optimizer)`` first.

    Args:
        optimizer: one of this module, or another of torch (gtol, ftol, patience and max_steps then, no xtol). Wrappers
            with an attribute ``optimizer`` are unwrapped. It can have one Stopping.
        gtol: stop where the loss is not above the best and no component of the gradient, projected on the bounds, is
            above it. None switches gtol, ftol or xtol off.
        ftol: stop where the best loss has decreased by at most ``ftol * abs(loss)`` within the last ``window`` steps.
        xtol: stop where every step size is at most ``xtol * max(abs(w), 1)``, or at D_min; tested every 8 steps.
            Weights that are frozen or held at a bound do not count.
        window: see ftol; also the number of losses in a row that are not finite after which it stops.
        patience: stop after as many steps without a new best loss.
        max_steps: stop after as many steps.
        every: the decision is read after so many calls of ``stop``; None is 1 on the CPU and 8 on a device, which
            nothing then waits for at every step. ``stop`` may be true up to ``every - 1`` calls late; reason, best loss
            and best weights are those of an immediate stop.
        process_group: a ``torch.distributed`` group, or True for the default one: the mean of the loss and the largest
            gradient over its processes decide, so that all of them stop at the same step.

    Attributes:
        reason: gtol, ftol, xtol, patience, max_steps, nonfinite, start or no_decrease; None while there is none. With
            ``batched=True`` a list with one for each row; the best of a row is fixed at its stop, and ``stop(loss)``
            is true when all rows have stopped.
        status: of the reason, as in :class:`rprop_kernels.result.Result`.
        message: likewise.
        best_loss: the best loss so far; with ``every`` above 1 a tensor.

    Raises:
        TypeError, ValueError: naming the argument, its value and the remedy.
        RuntimeError: at a ``stop`` after a step that knew no loss, or, with another optimizer, after its step.

    Examples:
        >>> import torch
        >>> from rprop_kernels.torch import IRpropPlus, Stopping
        >>> w = torch.nn.Parameter(torch.tensor([3.0, -4.0]))
        >>> optimizer = IRpropPlus([w], step_sizes=(0.0, 50.0))
        >>> stop = Stopping(optimizer)
        >>> while True:
        ...     optimizer.zero_grad()
        ...     loss = (w**2).sum()
        ...     loss.backward()
        ...     if stop(loss):
        ...         break
        ...     optimizer.step()
        >>> stop.restore_best()
        >>> stop.reason, bool(w.abs().max() < 1e-5)
        ('gtol', True)
    """

    def __init__(
        self,
        optimizer: Any,
        gtol: float | None = 1e-5,
        ftol: float | None = 1e-9,
        xtol: float | None = 1e-10,
        window: int = 50,
        patience: int | None = None,
        max_steps: int | None = None,
        every: int | None = None,
        process_group: Any = None,
    ) -> None:
        optimizer = _unwrap(optimizer)
        rules = validate(gtol, ftol, xtol, window, patience, max_steps=max_steps)
        directions = {bool(group.get("maximize", False)) for group in optimizer.param_groups}
        if len(directions) > 1:
            raise ValueError(
                "the groups of this optimizer differ in maximize, so no loss is the best: pass one direction"
            )
        reference = getattr(optimizer, "_stopping", None)
        if reference is not None and reference() is not None:
            raise ValueError("this optimizer has a Stopping: use that one, or delete it first")
        self._own = isinstance(optimizer, StepMixin)
        rows = bool(getattr(optimizer, "_batched", False))
        if not self._own:
            rules = rules._replace(xtol=None)
        self._optimizer = optimizer
        devices = {p.device.type for p in self._params()}
        every = (1 if devices <= {"cpu"} else DEVICE_INTERVAL) if every is None else whole_number("every", every, 1)
        remedy = "pass the loss to it, optimizer.step(loss=loss)"
        super().__init__(rules, directions.pop(), rows, _where if rows or every > 1 else choose, torch, remedy, every)
        self._process_group = process_group
        self._versions: list[int] = []  # of the parameters at a best point that is pending
        self._stepped_grads: list[tuple[Any, int]] | None = None
        this = weakref.ref(self)
        optimizer._stopping = this
        if not self._own:

            def note(*_: Any) -> None:
                if (stopping := this()) is not None:
                    stopping._stepped_grads = stopping._grads()
                    stopping._tested = False

            self._hook = optimizer.register_step_post_hook(note)

    def _params(self) -> list[Tensor]:
        groups = self._optimizer.param_groups
        params: list[Tensor] = groups[0]["params"] if len(groups) == 1 else [p for g in groups for p in g["params"]]
        return params

    def _grads(self) -> list[tuple[Any, int]]:
        return [(p.grad, 0 if p.grad is None else p.grad._version) for p in self._params()]

    @torch.no_grad()
    def __call__(self, loss: Any) -> bool:
        """Return whether the loop should end.

        Args:
            loss: the loss at the current weights: a number or a tensor of one element; with an optimizer made with
                ``batched=True`` a tensor of shape (B,).
        """
        if self._stepped_grads is not None:
            grads = self._grads()
            if len(grads) == len(self._stepped_grads) and all(
                g is h and v == w for (g, v), (h, w) in zip(grads, self._stepped_grads, strict=True)
            ):
                raise RuntimeError(
                    "stop(loss) came after optimizer.step(), whose weights no longer belong to this loss and "
                    "gradient: call "
                    "stop(loss) after backward() and before optimizer.step()"
                )
            self._stepped_grads = None
        stopped = self._stop(self._value(loss))
        if self._pending is not None and not self._step_copies():
            self._flush()
        if self._tested and isinstance(self._optimizer, StepMixin):
            self._optimizer.set_loss(loss)
        return stopped

    def _value(self, loss: Any) -> Any:
        """Return the loss as a float, or where batched as a tensor of shape (B,); where ``every`` > 1 a tensor."""
        value = to_loss(loss, self._optimizer.param_groups, self._process_group, self._rows)
        if self._every == 1:
            return value if self._rows else float(value)
        if self._rows:
            return value
        return torch.as_tensor(value, dtype=torch.float64, device=self._params()[0].device)

    @torch.no_grad()
    def _before_step(self, *point: Any) -> None:
        super()._before_step(*map(self._value, point) if not self._tested else point)

    def _run_test(self, loss: Any, *rest: Any) -> None:
        if isinstance(loss, Tensor) and isinstance(self._code, int):
            self._code = torch.full(loss.shape, self._code, device=loss.device)
        super()._run_test(loss, *rest)
        if self._pending is not None:
            try:
                self._versions = [p._version for p in self._params()]
            except RuntimeError:  # tensors made in inference mode have none
                self._versions = []
                self._flush()

    # ------------------------------------------------------------------------------------- best point

    def _step_copies(self) -> bool:
        """Check whether the next step copies the best point, before anything can have changed the weights."""
        optimizer = self._optimizer
        is_own_step = getattr(type(optimizer).step, "__module__", "").startswith(__package__ or "")
        return self._own and is_own_step and not _compat.has_step_pre_hooks(optimizer)

    def _require_pending_point(self) -> None:
        if self._versions and [p._version for p in self._params()[: len(self._versions)]] != self._versions:
            self._pending = None
            raise RuntimeError(
                "weights were changed between stop(loss) and optimizer.step(), which was to copy them as the best "
                "ones: change weights after optimizer.step(), or in a hook of register_step_pre_hook"
            )

    def _copy(self, best: Tensor, param: Tensor, chosen: Any) -> None:
        if chosen is True:
            best.copy_(param)
        else:
            copy_improved(best, param, chosen)

    def _clone(self, param: Tensor) -> Tensor | None:
        return None if is_lazy(param) else param.detach().clone()

    def _to_param(self, value: Tensor, param: Tensor) -> Tensor:
        return value.to(param.detach())

    @torch.no_grad()
    def _flush(self) -> None:
        super()._flush()

    def _columns(self) -> tuple[list[Tensor], bytes] | None:
        """Return the best weights, and where a native step is to copy the pending best point in its pass.

        Parameters without a gradient, which it does not reach, are copied here. None where it cannot copy.
        """
        params, pending = self._params(), self._pending
        if isinstance(pending, Tensor) and not is_plain_tensor(pending, torch.bool):
            return None
        assert self._best is not None
        if len(params) != len(self._best) or any(best is None for best in self._best):
            return None
        self._require_pending_point()
        with torch.no_grad():
            for best, p in zip(self._best, params, strict=True):
                if p.grad is None:
                    self._copy(best, p, pending)
        return self._best, b"\1" if pending is True else pending.numpy().tobytes()

    # ------------------------------------------------------------------------------------- the rules

    def _limits(self) -> list[Limits]:
        """Return the constraints of every parameter."""
        limits: list[Limits] = []
        for group in self._optimizer.param_groups:
            count = len(group["params"])
            halves = split_halves(group.get("bounds") if self._own else None)
            columns = [split_option("bounds", half, count) for half in halves]
            columns.append(split_option("frozen", group.get("frozen") if self._own else None, count))
            limits += zip(*columns, strict=True)
        return limits

    def _gather(self, values: list[Any], largest: bool) -> Any:
        if not values:
            values = [0.0 if self._process_group is None else float(not largest)]
        if isinstance(values[0], Tensor):
            function = torch.maximum if largest else torch.logical_and
            result: Any = functools.reduce(lambda x, y: function(x, y.to(x)), values)
        else:
            (result,) = values
        if self._process_group is not None:
            import torch.distributed as dist

            operation = dist.ReduceOp.MAX if largest else dist.ReduceOp.MIN
            result = torch.as_tensor(result, dtype=torch.float64, device=self._params()[0].device)
            # NaN has no order: it counts as infinite
            result = torch.nan_to_num(result, nan=torch.inf, posinf=torch.inf)
            dist.all_reduce(result, operation, group=None if self._process_group is True else self._process_group)
        if self._rows or self._every > 1:
            return torch.as_tensor(result, device=self._code.device)
        return float(result)

    def _native_max_grad(self) -> Any:
        optimizer = self._optimizer
        if not isinstance(optimizer, StepMixin) or not hasattr(optimizer._native_step, "largest_gradient"):
            return None
        rows = bytes(len(self._code)) if self._rows else None
        arguments = (
            optimizer._rules[NOT_WORSE],
            optimizer.state,
            optimizer.param_groups,
            rows,
            threads.MIN_SHARED_WEIGHTS,
        )
        status, largest = optimizer._native_step.largest_gradient(*arguments)
        if status == REPLAN:
            if any(p.grad is not None and not optimizer.state.get(p) for p in self._params()):
                return None  # a plan would make the state
            optimizer._plan(optimizer._native_step)
            status, largest = optimizer._native_step.largest_gradient(*arguments)
        if status != STEPPED or largest is None:
            return None
        return torch.tensor(largest, device=self._code.device) if self._rows else largest[0]

    def _weights(self) -> Iterator[tuple[Tensor, Tensor | None, Tensor | None, float, Limits]]:
        limits = iter(self._limits())
        for group in self._optimizer.param_groups:
            step_min = float(group["step_sizes"][0]) if self._own else 0.0
            for p in group["params"]:
                limit = next(limits)
                if is_lazy(p):
                    continue
                state = self._optimizer.state.get(p, {}) if self._own else {}
                smallest = step_min
                if "move" in state:
                    step = decode(_real(state["move"]), torch)[1]
                    smallest = max(step_min, encoding_of(step.dtype).min_step)
                else:
                    step = None if "step_size" not in state else _real(state["step_size"])
                x = _real(p.detach())
                grad = None if p.grad is None else _real(p.grad)
                yield x if step is None else x.to(step.dtype), grad, step, smallest, limit

    @torch.no_grad()
    def restore_best(self) -> None:
        """Set the weights to those of the best loss, forget all signs, and make that loss E_prev.

        Raises:
            RuntimeError: there was no finite loss yet.
        """
        for p, best in self._best_for_restore():
            if best is not None:
                p.copy_(best)
        for p in self._params():
            state = self._optimizer.state.get(p, {}) if self._own else {}
            if "move" in state:
                state["move"].copy_(forget_sign(state["move"], torch))
            elif "prev" in state:
                state["prev"].zero_()
        for group in self._optimizer.param_groups:
            if self._own and "prev_loss" in group:
                group["prev_loss"] = self.best_loss.clone() if self._rows else float(self.best_loss)
        if isinstance(self._optimizer, StepMixin):
            self._optimizer._next_loss = None
        self._tested = False
