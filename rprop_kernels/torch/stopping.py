"""Stopping: when a training loop ends, and the best weights that it has seen."""

import copy
import weakref
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.optim import LBFGS, Optimizer

from ..bounds import split_halves, split_option
from ..kernels import threads
from ..loss import NOT_WORSE
from ..state import decode, encoding_of, forget_sign
from ..stopping import (
    FTOL,
    MAX_STEPS,
    NO_DECREASE,
    PATIENCE,
    XTOL,
    LoopStopping,
    choose,
    held_weights,
    min_step_message,
    steps_within,
    validate,
)
from ..warn import warn_user
from .dispatch import REPLAN, STEPPED, StepMixin
from .loss import to_loss

Limits: TypeAlias = tuple[Any, Any, Any]


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
    answers. With GradScaler call ``scaler.unscale_(optimizer)`` first.

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
        process_group: a ``torch.distributed`` group, or True for the default one: the mean of the loss and the largest
            gradient over its processes decide, so that all of them stop at the same step.

    Attributes:
        reason: gtol, ftol, xtol, patience, max_steps, nonfinite, start or no_decrease; None while there is none. With
            ``batched=True`` a list with one for each row; the best of a row is fixed at its stop, and ``stop(loss)``
            is true when all rows have stopped.
        status: of the reason, as in :class:`rprop_kernels.result.Result`.
        message: likewise.
        best_loss: the best loss so far.

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
        super().__init__(
            rules, directions.pop(), rows, _where if rows else choose, "pass the loss to it, optimizer.step(loss=loss)"
        )
        self._optimizer = optimizer
        self._process_group = process_group
        self._best: list[Tensor] | None = None
        self._warned = False
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
        return [p for group in self._optimizer.param_groups for p in group["params"]]

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
        if self._tested and isinstance(self._optimizer, StepMixin):
            self._optimizer.set_loss(loss)
        return stopped

    def _value(self, loss: Any) -> Any:
        """Return the loss as a float, or where batched as a tensor of shape (B,)."""
        value = to_loss(loss, self._optimizer.param_groups, self._process_group, self._rows)
        return value if self._rows else float(value)

    @torch.no_grad()
    def _before_step(self, *point: Any) -> None:
        super()._before_step(*map(self._value, point) if not self._tested else point)

    def _run_test(self, loss: Any, *rest: Any) -> None:
        if self._rows and isinstance(self._code, int):
            self._code = torch.full(loss.shape, self._code, device=loss.device)
        super()._run_test(loss, *rest)

    def _copy_best(self, chosen: Any) -> None:
        params = self._params()
        if self._best is None:
            self._best = [p.detach().clone() for p in params]
            return
        for best, p in zip(self._best, params, strict=True):
            if self._rows:
                best.copy_(torch.where(chosen.to(p.device).reshape(-1, *(1,) * (p.dim() - 1)), p, best))
            else:
                best.copy_(p)

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

    def _reduce(self, value: Any, largest: bool) -> Any:
        """Return the largest or the smallest value over the processes."""
        if self._process_group is None:
            return value
        import torch.distributed as dist

        tensor = torch.as_tensor(value, dtype=torch.float64, device=self._params()[0].device)
        operation = dist.ReduceOp.MAX if largest else dist.ReduceOp.MIN
        # NaN has no order: it counts as infinite
        tensor = torch.nan_to_num(tensor, nan=torch.inf, posinf=torch.inf)
        dist.all_reduce(tensor, operation, group=None if self._process_group is True else self._process_group)
        return tensor if self._rows else tensor.item()

    def _native_max_grad(self) -> Any:
        """Return the largest component of the projected gradient by one native reduction; None where there is none."""
        optimizer = self._optimizer
        if not isinstance(optimizer, StepMixin) or not hasattr(optimizer._native_step, "largest_gradient"):
            return None
        params = [p for p in self._params() if p.grad is not None]
        if not params or any(not optimizer.state.get(p) for p in params):  # a plan would make the state
            return None
        rows = bytes(len(params[0])) if self._rows else None
        arguments = (
            optimizer._rules[NOT_WORSE],
            optimizer.state,
            optimizer.param_groups,
            rows,
            threads.MIN_SHARED_WEIGHTS,
        )
        status, largest = optimizer._native_step.largest_gradient(*arguments)
        if status == REPLAN:
            optimizer._plan(optimizer._native_step)
            status, largest = optimizer._native_step.largest_gradient(*arguments)
        if status != STEPPED or largest is None:
            return None
        return torch.tensor(largest, device=self._code.device) if self._rows else largest[0]

    def _max_grad(self) -> Any:
        native = self._native_max_grad()
        if native is not None:
            return self._reduce(native, largest=True)
        largest: Any = None
        for p, limits in zip(self._params(), self._limits(), strict=True):
            if p.grad is None or p.grad.numel() == 0:
                continue
            grad = _real(p.grad)
            held = held_weights(p, grad, *limits, self._monitor.maximize)
            slope = grad.abs()
            if held is not None:
                slope = torch.where(held, 0, slope)
            slope = slope.reshape(len(slope), -1).amax(1) if self._rows else slope.amax()
            largest = slope if largest is None else torch.maximum(largest, slope.to(largest))
        if largest is None:
            largest = self._monitor.best * 0
        return self._reduce(largest if self._rows else float(largest), largest=True)

    def _at_rest(self) -> Any:
        xtol = self._monitor.rules.xtol
        assert xtol is not None
        rest: Any = None
        for p, limits, (step, step_min) in zip(self._params(), self._limits(), self._steps(), strict=True):
            if step is None or step.numel() == 0:
                continue
            small = steps_within(step, _real(p).to(step.dtype), xtol, step_min)
            held = None if p.grad is None else held_weights(p, _real(p.grad), *limits, self._monitor.maximize)
            if held is not None:
                small = small | held
            small = small.reshape(len(small), -1).all(1) if self._rows else small.all()
            rest = small if rest is None else rest & small.to(rest.device)
        if rest is None:
            rest = torch.zeros((), dtype=torch.bool)
        return self._reduce(rest if self._rows else bool(rest), largest=False) == 1

    def _steps(self) -> list[tuple[Tensor | None, float]]:
        """Return the step sizes of every parameter, None without a state, and the smallest one that occurs."""
        found: list[tuple[Tensor | None, float]] = []
        for group in self._optimizer.param_groups:
            for p in group["params"]:
                state = self._optimizer.state.get(p, {})
                step_min = float(group["step_sizes"][0])
                if "move" in state:
                    step = decode(_real(state["move"]), torch)[1]
                    found.append((step, max(step_min, encoding_of(step.dtype).min_step)))
                else:
                    step = state.get("step_size")
                    found.append((None if step is None else _real(step), step_min))
        return found

    def _after_stop(self) -> None:
        if self._warned or not self._own or not set(self._codes()) & {FTOL, XTOL, PATIENCE, MAX_STEPS, NO_DECREASE}:
            return
        at_minimum = total = 0
        smallest = 0.0
        for (step, step_min), (_, _, frozen) in zip(self._steps(), self._limits(), strict=True):
            if step is not None:
                free = torch.ones_like(step, dtype=torch.bool) if frozen is None else ~frozen
                at_minimum += int((free & (step <= torch.tensor(step_min, dtype=step.dtype, device=step.device))).sum())
                total += int(free.sum())
                smallest = max(smallest, step_min)
        if total and at_minimum * 4 >= total and smallest > encoding_of("float32").min_step:
            self._warned = True
            warn_user(min_step_message(at_minimum / total, smallest), UserWarning)

    @torch.no_grad()
    def restore_best(self) -> None:
        """Set the weights to those of the best loss, forget all signs, and make that loss E_prev.

        Raises:
            RuntimeError: there was no finite loss yet.
        """
        if self._best is None:
            raise RuntimeError("there was no finite loss yet, so there are no best weights: call stop(loss)")
        for p, best in zip(self._params(), self._best, strict=True):
            p.copy_(best)
            state = self._optimizer.state.get(p, {}) if self._own else {}
            if "move" in state:
                state["move"].copy_(forget_sign(state["move"], torch))
            elif "prev" in state:
                state["prev"].zero_()
        for group in self._optimizer.param_groups:
            if self._own and "prev_loss" in group:
                group["prev_loss"] = self.best_loss
        if isinstance(self._optimizer, StepMixin):
            self._optimizer._next_loss = None
        self._tested = False

    def state_dict(self) -> dict[str, Any]:
        """Return the course of the loss and the best weights; copies."""
        state: dict[str, Any] = copy.deepcopy({**self._state(), "best": self._best})
        return state

    @torch.no_grad()
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue where a `state_dict` was made; all of it or, if anything is wrong, nothing.

        Raises:
            ValueError: it is of another origin, or of other parameters.
        """
        expected = {*self._state(), "best"}
        if not isinstance(state_dict, dict) or set(state_dict) != expected:
            raise ValueError(f"this is no state of a Stopping: pass what state_dict() returned ({sorted(expected)})")
        state = copy.deepcopy(state_dict)
        params = self._params()
        if state["best"] is not None:
            shapes, own = [tuple(x.shape) for x in state["best"]], [tuple(p.shape) for p in params]
            if shapes != own:
                raise ValueError(
                    f"a state of parameters of shapes {shapes}, not {own}: make the Stopping for the same parameters"
                )
            state["best"] = [x.to(p) for x, p in zip(state["best"], params, strict=True)]
        self._load(state)
        self._best = state["best"]
