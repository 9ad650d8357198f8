"""The loop of a fit of tensors: evaluate, keep the best point, decide, step; one problem or many at once."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .. import stopping
from ..backends import unavailable_reason
from ..bounds import Constraints
from ..fit_arguments import NOISE, noise_message
from ..hyperparameters import Hyperparameters
from ..kernels import load_engine, torch_
from ..loss import NONFINITE, NOT_WORSE, compare_loss, compare_losses
from ..progress import Progress
from ..result import Result
from ..rows import Rows
from ..state import decode_steps, encoding_of
from ..stopping import CALLBACK, INTERRUPTED, REASONS, RUNNING, Monitor, held_weights, steps_within
from ..warn import warn_user
from .objective import Objective

HOST_DTYPES = (torch.float32, torch.float64)
"""NumPy has these, too: its operations on arrays of a few thousand numbers take a third of the time of torch's."""


def where(condition: Any, value: Any, other: Any) -> Any:
    """Choose by a truth value, or element by element by a tensor of them."""
    if isinstance(condition, Tensor):
        return torch.where(condition, value, other)
    return stopping.choose(condition, value, other)


def expand_rows(rows: Tensor, x: Tensor) -> Tensor:
    """Return a value for each row in a shape that broadcasts to x."""
    return rows.to(x.device).reshape(-1, *(1,) * (x.dim() - 1))


def largest_of_rows(x: Tensor) -> Tensor:
    """Return the largest element of each row, NaN where there is one."""
    return x.reshape(len(x), -1).amax(1)


class Search:
    """The loop of one problem, or of the rows of tensors.

    Args:
        objective: evaluates loss and gradients.
        x: the point, in the units of ``scales``; the tensors belong to the search.
        states: of the weights at x.
        constraints: of each tensor, in its units.
        scales: x_scale of each tensor as powers of two, or None.
        targets: the parameters of a Module, which hold the point that is evaluated; else None.
        method, hyper, maximize, backend: the rule, as in the classes.
        rules: when it ends.
        rows: whether the first dimension counts problems.
        check_noise: whether the loss at x0 is evaluated twice and compared.
        callback: a function of x, loss and steps.
        progress: a display, or None.
        second_order: whether to test first that fun has second derivatives.
    """

    def __init__(
        self,
        objective: Objective,
        x: list[Tensor],
        states: list[Tensor],
        constraints: list[Constraints],
        scales: list[Tensor] | None,
        targets: list[Tensor] | None,
        *,
        method: str,
        hyper: Hyperparameters,
        maximize: bool,
        backend: str,
        rules: stopping.StoppingRules,
        rows: bool,
        check_noise: bool,
        callback: Callable[[Any, Any, int], object] | None,
        progress: Progress | None,
        second_order: bool = False,
    ) -> None:
        self.objective, self.x, self.states, self.scales, self.targets = objective, x, states, scales, targets
        self.constraints = constraints
        self.method, self.hyper, self.maximize, self.rules = method, hyper, maximize, rules
        self.check_noise, self.callback = check_noise, callback
        on_cpu = all(t.device.type == "cpu" and t.dtype in HOST_DTYPES for t in x)
        self.on_host = rows and on_cpu
        self.stepper = load_engine(backend).make_stepper() if backend in ("cython", "numba") and on_cpu else None
        on_device = backend == "triton" or (backend != "torch" and any(t.is_cuda for t in x))
        usable = on_device and unavailable_reason("triton") is None
        self.launcher: Any = load_engine("triton").TritonStep() if usable else None
        count = len(x[0]) if rows else 1
        self.progress, self.second_order = progress, second_order
        self.monitor = Monitor(rules, maximize, where if rows else stopping.choose)
        self.previous: Any = None  # E_prev
        self.best = [t.clone() for t in self._point()]
        self.best_grads = [torch.full_like(t, torch.nan) for t in x]
        self.history: list[float] = []
        self.best_loss: Tensor | None = None  # of rows
        self.kept: list[Tensor] = []  # best points, gradients and losses of the rows of self.x
        self.first_loss: Any = math.nan
        self.rows = Rows(torch.arange(count, device=x[0].device)) if rows else None  # the rows of self.x
        self.one_code = RUNNING  # of one problem

    @property
    def code(self) -> Any:
        """The code of the reason to stop; of rows a tensor of them."""
        return self.one_code if self.rows is None else self.rows.code

    @property
    def steps(self) -> Any:
        """The number of steps; of rows a tensor of them."""
        return max(self.monitor.steps, 0) if self.rows is None else self.rows.steps

    def _point(self) -> list[Tensor]:
        return self.x if self.scales is None else [x * s for x, s in zip(self.x, self.scales, strict=True)]

    @torch.no_grad()
    def run(self) -> None:
        """Search until every problem has a reason to stop; a Module then holds the best point.

        Ctrl-C is such a reason. Another exception leaves the best point so far in place.
        """
        try:
            if self.second_order:
                point = self._point() if self.targets is None else self.targets
                self.objective.check_second_order(point, None if self.rows is None else self.rows.numbers)
            while self._evaluate():
                self._step()
        except BaseException as error:
            if self.rows is None:
                self.one_code = INTERRUPTED
            else:
                self.rows.interrupt(max(self.monitor.steps, 0))
            if not isinstance(error, KeyboardInterrupt):
                raise
        finally:
            self._store_best()
            self.kept = []
            self.restore_best()

    @torch.no_grad()
    def restore_best(self) -> None:
        """Set the parameters of a Module to the best point."""
        for target, best in zip(self.targets or (), self.best, strict=False):
            target.copy_(best)

    @property
    def last_step(self) -> int:
        """The number of steps of the problem that had most."""
        return max(self.monitor.steps, 0)

    # --------------------------------------------------------------------------------------- evaluation

    def _call(self, point: list[Tensor]) -> tuple[Any, list[Tensor]]:
        return self.objective(point) if self.rows is None else self.objective(point, self.rows.numbers)

    def _evaluate(self) -> bool:
        """Evaluate x, keep the best point and decide; return whether the search goes on."""
        objective, monitor = self.objective, self.monitor
        point = self._point()
        if self.targets is not None:
            for target, value in zip(self.targets, point, strict=True):
                target.copy_(value)
            point = self.targets
        self.loss, grads = self._call(point)
        if self.check_noise and monitor.steps < 0:
            self._warn_if_noisy(self.loss, self._call(point)[0])
            objective.evaluations -= 1
        self.grads = grads if self.scales is None else [g * s for g, s in zip(grads, self.scales, strict=True)]
        if self.rows is not None and monitor.steps < 0:
            self.on_host = self.on_host and self.loss.device.type == "cpu" and self.loss.dtype in HOST_DTYPES
            monitor.where = np.where if self.on_host else where
        improved, candidate = monitor.add(self._to_host(self.loss))
        self._keep_best(self._to_tensor(improved), point, grads)
        tested = bool(candidate.any()) if self.rows is not None else candidate
        max_grad = self._to_host(self._max_grad()) if tested else math.inf
        at_rest = self._to_host(self._at_rest()) if monitor.tests_steps else False
        exhausted = self.rules.max_evals is not None and objective.evaluations + 1 > self.rules.max_evals
        if self.on_host:
            with np.errstate(invalid="ignore"):  # rows without a finite loss have an infinite best one
                code = self._to_tensor(monitor.decide(max_grad, at_rest, exhausted))
        else:
            code = monitor.decide(max_grad, at_rest, exhausted)
        if self.callback is not None and monitor.steps > 0 and self._call_callback(point):
            code = code * 0 + CALLBACK
        if self.rows is None:
            self.one_code = code
            self._show_progress(0)
            return bool(code == RUNNING)
        return self._finish_rows(code)

    def _to_host(self, value: Any) -> Any:
        """Return values of rows for the monitor: as arrays where they are in this memory."""
        return value.numpy() if self.on_host else value

    def _to_tensor(self, value: Any) -> Any:
        return torch.from_numpy(value) if self.on_host else value

    def _warn_if_noisy(self, loss: Any, again: Any) -> None:
        first, second = (torch.as_tensor(value, dtype=torch.float64).reshape(-1) for value in (loss, again))
        difference = (first - second).abs()
        noisy = difference.isfinite() & (difference > NOISE * torch.maximum(first.abs(), second.abs()))
        if bool(noisy.any()):
            index = int(noisy.to(torch.uint8).argmax())
            warn_user(noise_message(first[index].item(), second[index].item()), RuntimeWarning)

    def _keep_best(self, improved: Any, point: list[Tensor], grads: list[Tensor]) -> None:
        is_first = self.monitor.steps == 0
        if is_first:
            self.first_loss = self.loss
        if self.rows is None:
            best = self.monitor.best
            self.history.append(-best if self.maximize else best)
            if improved or is_first:
                for kept, value in zip((*self.best, *self.best_grads), (*point, *grads), strict=True):
                    kept.copy_(value)
            return
        if self.best_loss is None:
            self.best_loss = torch.full_like(self.loss, torch.nan)
            self.kept = [*self.best, *self.best_grads, self.best_loss]
        if is_first:
            for kept, value in zip(self.best_grads, grads, strict=True):
                kept.copy_(value)
        chosen = improved & self.rows.running
        for kept, value in zip(self.kept, (*point, *grads, self.loss), strict=True):
            kept.copy_(torch.where(expand_rows(chosen, kept), value, kept))

    def _store_best(self, numbers: Any = None) -> None:
        """Bring the best points of the rows of x, by default of those in the batch, to their places among all."""
        if self.kept and self.kept[0] is not self.best[0]:
            assert self.rows is not None
            for whole, kept in zip((*self.best, *self.best_grads, self.best_loss), self.kept, strict=True):
                assert whole is not None
                whole[(self.rows.numbers if numbers is None else numbers).to(whole.device)] = kept

    def _held(self, index: int) -> Tensor | None:
        limits = self.constraints[index]
        held: Tensor | None = held_weights(self.x[index], self.grads[index], *limits, self.maximize)
        return held

    def _max_grad(self) -> Any:
        """Return the largest component of the projected gradient."""
        largest: Any = None
        for i, grad in enumerate(self.grads):
            if grad.numel() == 0:
                continue
            slope, held = grad.abs(), self._held(i)
            if held is not None:
                slope = torch.where(held, 0, slope)
            slope = slope.amax() if self.rows is None else largest_of_rows(slope)
            largest = slope if largest is None else torch.maximum(largest, slope.to(largest))
        return float(largest) if self.rows is None else largest

    def _at_rest(self) -> Any:
        """Return whether all step sizes are within xtol."""
        assert self.rules.xtol is not None
        rest: Any = None
        for i, (x, state) in enumerate(zip(self.x, self.states, strict=True)):
            if x.numel() == 0:
                continue
            step_min = max(self.hyper.step_min, encoding_of(state.dtype).min_step)
            small = steps_within(decode_steps(state, torch), x.to(state.dtype), self.rules.xtol, step_min)
            if (held := self._held(i)) is not None:
                small = small | held
            small = small.all() if self.rows is None else small.reshape(len(small), -1).all(1)
            rest = small if rest is None else rest & small.to(rest.device)
        return bool(rest) if self.rows is None else rest

    def _call_callback(self, point: list[Tensor]) -> bool:
        """Call the callback; return whether it raised StopIteration."""
        assert self.callback is not None
        x, loss = [t.detach().clone() for t in point], self.loss
        if self.rows is not None:  # rows that have finished are shown at their best points
            assert self.best_loss is not None
            self._store_best()
            x, loss = [t.clone() for t in self.best], self.best_loss.clone()
            running = self.rows.running
            numbers = self.rows.numbers[running]
            for shown, value in zip(x, point, strict=True):
                shown[numbers] = value[running]
            loss[numbers] = self.loss[running]
        try:
            self.callback(self.objective.structure.join(x), loss, self.monitor.steps)
        except StopIteration:
            return True
        return False

    def _finish_rows(self, code: Tensor) -> bool:
        """Record the rows that stop; let those that have stopped leave where they are an eighth of all."""
        rows = self.rows
        assert rows is not None
        rows.stop(code, self.monitor.steps)
        self._show_progress(rows.finished)
        if not rows.run:
            return False
        numbers = rows.numbers
        if (keep := rows.leave()) is not None:
            self._store_best(numbers)
            keep = keep.nonzero().squeeze(1)
            for name in ("x", "states", "grads", "scales", "kept"):
                if (column := getattr(self, name)) is not None:
                    setattr(self, name, [t[keep] for t in column])
            for name in ("loss", "previous"):
                if (value := getattr(self, name)) is not None:
                    setattr(self, name, value[keep])
            self.constraints = [self._rows_of(limits, keep) for limits in self.constraints]
            self.monitor.select(self._to_host(keep))
        return True

    @staticmethod
    def _rows_of(limits: Constraints, rows: Tensor) -> Constraints:
        return Constraints(*(None if limit is None else limit[rows] for limit in limits))

    def _show_progress(self, finished: int) -> None:
        if self.progress is not None:
            best = self.monitor.best if self.rows is None else self.monitor.best.min()
            self.progress.update(self.monitor.steps, float(-best if self.maximize else best), finished)

    # --------------------------------------------------------------------------------------------- step

    def _step(self) -> None:
        """Make one step. A loss that is not finite takes the last moves back, with every method."""
        loss, grads = self.loss, self.grads
        if self.method != "irprop+":
            if self.rows is None:
                if not math.isfinite(loss):
                    self._engine_step("irprop+", self.x, grads, self.states, NONFINITE, self.constraints)
                    return
            elif bool((lost := ~loss.isfinite()).any()):
                x, states = ([t[lost] for t in column] for column in (self.x, self.states))
                limits = [self._rows_of(limit, lost) for limit in self.constraints]
                self._engine_step("irprop+", x, [g[lost] for g in grads], states, NONFINITE, limits)
                for whole, part in zip((*self.x, *self.states), (*x, *states), strict=True):
                    whole[lost] = part
                # After it a zero gradient leaves these rows where they are.
                grads = [torch.where(expand_rows(lost, g), 0, g) for g in grads]
            self._engine_step(self.method, self.x, grads, self.states, NOT_WORSE, self.constraints)
            return
        outcome: Any
        if self.rows is None:
            outcome, self.previous = compare_loss(loss, self.previous, self.maximize)
        else:
            previous = torch.full_like(loss, torch.nan) if self.previous is None else self.previous
            values = self._to_host(loss), self._to_host(previous)
            outcome, known = compare_losses(*values, self.maximize, np if self.on_host else torch)
            outcome, self.previous = self._to_tensor(outcome).to(torch.uint8), self._to_tensor(known)
        self._engine_step(self.method, self.x, grads, self.states, outcome, self.constraints)

    def _engine_step(
        self,
        method: str,
        x: list[Tensor],
        grads: list[Tensor],
        states: list[Tensor],
        outcome: Any,
        constraints: list[Constraints],
    ) -> None:
        """Run the engine on tensors in place; on the CPU it gets views of their memory."""
        limits: Any = constraints if any(limit is not None for part in constraints for limit in part) else None
        options: dict[str, Any] = {"maximize": self.maximize}
        if self.stepper is not None:
            arrays = [[t.numpy() for t in column] for column in (x, grads, states)]
            if limits is not None:
                options["constraints"] = [
                    Constraints(*(None if limit is None else limit.numpy() for limit in part)) for part in limits
                ]
            options["outcome"] = outcome.numpy() if isinstance(outcome, Tensor) else outcome
            if self.stepper(
                method,
                arrays[0],
                arrays[1],
                [(s,) for s in arrays[2]],
                self.hyper,
                n_threads=torch.get_num_threads(),
                **options,
            ):
                return
        if self.launcher is not None and self._launch(method, x, grads, states, outcome, constraints):
            return
        options |= {"outcome": outcome, "constraints": limits}
        torch_.step(method, x, grads, [(s,) for s in states], self.hyper, **options)

    def _launch(
        self,
        method: str,
        x: list[Tensor],
        grads: list[Tensor],
        states: list[Tensor],
        outcome: Any,
        constraints: list[Constraints],
    ) -> bool:
        """Run Triton on all tensors; return False, with nothing touched, where it does not take one of them."""
        launcher, hyper = self.launcher, self.hyper.with_direction(self.maximize)
        launcher.begin()
        for w, g, state, limits in zip(x, grads, states, constraints, strict=True):
            if not launcher.add(w, g, (state,), hyper, outcome, limits):
                launcher.begin()
                return False
        done: bool = launcher.launch(load_engine("triton").UPDATES[method])
        return done

    # ------------------------------------------------------------------------------------------- result

    def result(self, x: Any) -> Result:
        """Return the result as it stands, with x in the form of x0."""
        grad = self.objective.structure.join(self.best_grads)
        calls = self.objective.calls
        if self.rows is None:
            reason, best = REASONS[self.code], self.monitor.best
            found = self.monitor.steps >= 0 and math.isfinite(best)
            return Result(
                x=x,
                fun=(-best if self.maximize else best) if found else math.nan,
                grad=grad,
                success=reason.success,
                status=reason.status,
                reason=reason.name,
                message=reason.message,
                nit=self.steps,
                nfev=self.monitor.steps + 1,
                calls=calls,
                history=np.array(self.history),
            )
        reasons = [REASONS[code] for code in self.code.tolist()]
        return Result(
            x=x,
            fun=torch.full(self.code.shape, torch.nan) if self.best_loss is None else self.best_loss,
            grad=grad,
            success=torch.tensor([reason.success for reason in REASONS])[self.code.cpu()],
            status=torch.tensor([reason.status for reason in REASONS])[self.code.cpu()],
            reason=[reason.name for reason in reasons],
            message=[reason.message for reason in reasons],
            nit=self.steps,
            nfev=self.steps + 1,
            calls=calls,
        )
