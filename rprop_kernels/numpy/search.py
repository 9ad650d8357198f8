"""The loop of a fit: evaluate, keep the best point, decide, step; for one problem or for many at once."""

import math
from collections.abc import Callable
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from .. import stopping
from ..bounds import Constraints
from ..fit_arguments import NOISE, noise_message
from ..hyperparameters import Hyperparameters
from ..kernels import load_engine, numpy_, threads
from ..loss import NONFINITE, NOT_WORSE, LossOutcome, compare_loss, compare_losses
from ..progress import start_progress
from ..result import Result
from ..rows import Rows
from ..state import decode_steps, encoding_of
from ..stopping import CALLBACK, INTERRUPTED, REASONS, RUNNING, Monitor, held_weights, steps_within
from ..warn import warn_user

Array: TypeAlias = NDArray[Any]

SHORT: Final = 32
"""NumPy reduces rows of up to so many elements faster column by column."""


def largest_of_rows(x: Array) -> Array:
    """Return the largest element of each row, NaN where there is one."""
    x = x.reshape(len(x), -1)
    if x.shape[1] <= SHORT:
        x = np.ascontiguousarray(x.T)
        largest: Array = x.max(axis=0)
        return largest
    return np.asarray(x.max(axis=1))


class Search:
    """The loop of one problem, or of the rows of x.

    Args:
        objective: ``objective(x)`` or, for rows, ``objective(x, rows)`` returns ``(loss, gradient)``.
        start: x0, of shape (B, ...) for rows; it belongs to the search.
        state: of the weights at x0.
        constraints: in the units of x0.
        scale: x_scale as powers of two, of x0's shape, or None.
        method, hyper, maximize, backend: the rule, as in the classes.
        rules: when it ends.
        rows: whether the first dimension counts problems.
        check_noise: whether the loss at x0 is evaluated twice and compared.
        callback: a function of x, loss and steps.
        progress: whether a display is shown.
        raise_interrupt: whether Ctrl-C is raised, and not a reason to stop.
    """

    def __init__(
        self,
        objective: Any,
        start: Array,
        state: Array,
        constraints: Constraints | None,
        scale: Array | None,
        *,
        method: str,
        hyper: Hyperparameters,
        maximize: bool,
        backend: str,
        rules: stopping.StoppingRules,
        rows: bool,
        check_noise: bool,
        callback: Callable[[Any, Any, int], object] | None,
        progress: bool,
        raise_interrupt: bool,
    ) -> None:
        self.objective = objective
        self.x = start if scale is None else start / scale
        self.state = state
        self.scale = scale
        self.lower, self.upper, self.frozen = self._in_units(constraints or Constraints())
        self._set_constraints()
        self.method, self.hyper, self.maximize = method, hyper, maximize
        self.rules = rules
        self.check_noise = check_noise
        self.raise_interrupt = raise_interrupt
        self.callback = callback
        engine = load_engine(backend)
        self.engine_step = engine.step if backend == "numpy" else engine.make_stepper()
        self.progress = start_progress(rules.max_steps, len(start) if rows else 1) if progress else None
        self.monitor = Monitor(rules, maximize, np.where if rows else stopping.choose)
        self.step_min = max(hyper.step_min, encoding_of(start.dtype).min_step)
        self.previous: Any = None  # E_prev
        self.best_x = start.copy()
        self.best_grad = np.full_like(start, np.nan)
        self.history: list[float] = []
        self.rows = Rows(np.arange(len(start))) if rows else None  # the rows of self.x
        self.best_loss = np.full(len(start) if rows else 1, np.nan)  # of rows
        self.kept = [self.best_x, self.best_grad, self.best_loss]  # of the rows of self.x
        self.one_code = RUNNING  # of one problem

    @property
    def code(self) -> Any:
        """The code of the reason to stop; of rows an array of them."""
        return self.one_code if self.rows is None else self.rows.code

    @property
    def steps(self) -> Any:
        """The number of steps; of rows an array of them."""
        return max(self.monitor.steps, 0) if self.rows is None else self.rows.steps

    def _set_constraints(self) -> None:
        limits = Constraints(self.lower, self.upper, self.frozen)
        self.constraints = None if all(limit is None for limit in limits) else [limits]

    def _in_units(self, constraints: Constraints) -> tuple[Array | None, Array | None, Array | None]:
        """Return the constraints for x / scale, as arrays of its shape."""
        lower, upper, frozen = constraints
        with np.errstate(over="ignore", under="ignore"):
            lower, upper = (
                None
                if bound is None
                else np.array(np.broadcast_to(bound if self.scale is None else bound / self.scale, self.x.shape))
                for bound in (lower, upper)
            )
        return lower, upper, frozen

    def run(self) -> None:
        """Search until every problem has a reason to stop.

        Ctrl-C is such a reason. Another exception leaves the best point so far in place.
        """
        try:
            while self._evaluate():
                self._step()
        except BaseException as error:
            self._interrupt()
            if self.raise_interrupt or not isinstance(error, KeyboardInterrupt):
                raise
        finally:
            self._store_best()
            if self.progress is not None:
                self.progress.close()

    def _interrupt(self) -> None:
        if self.rows is None:
            self.one_code = INTERRUPTED
        else:
            self.rows.interrupt(max(self.monitor.steps, 0))

    # --------------------------------------------------------------------------------------- evaluation

    def _evaluate(self) -> bool:
        """Evaluate x, keep the best point and decide; return whether the search goes on."""
        objective, monitor, x = self.objective, self.monitor, self.x
        point = x if self.scale is None else x * self.scale
        before = objective.evaluations
        loss, grad = self._call(point)
        cost = objective.evaluations - before
        if self.check_noise and monitor.steps < 0:
            self._warn_if_noisy(loss, self._call(point)[0])
            objective.evaluations -= cost
        if self.scale is None:
            self.grad = grad
        else:
            with np.errstate(over="ignore", under="ignore", invalid="ignore"):
                self.grad = grad * self.scale
        self.loss = loss
        improved, candidate = monitor.add(loss)
        self._keep_best(improved, point, grad)
        max_grad: Any = math.inf
        if candidate if self.rows is None else candidate.any():
            slope = self._slope()
            max_grad = float(np.maximum.reduce(slope, axis=None)) if self.rows is None else largest_of_rows(slope)
        at_rest = self._at_rest() if monitor.tests_steps else False
        exhausted = self.rules.max_evals is not None and objective.evaluations + cost > self.rules.max_evals
        if self.rows is None:
            code = monitor.decide(max_grad, at_rest, exhausted)
        else:
            with np.errstate(invalid="ignore"):  # rows without a finite loss have an infinite best one
                code = monitor.decide(max_grad, at_rest, exhausted)
        if self.callback is not None and monitor.steps > 0 and self._call_callback(point):
            code = code * 0 + CALLBACK
        if self.rows is None:
            self.one_code = code
            self._show_progress(0)
            return bool(code == RUNNING)
        return self._finish_rows(code)

    def _call(self, point: Array) -> tuple[Any, Array]:
        result: tuple[Any, Array]
        result = self.objective(point) if self.rows is None else self.objective(point, self.rows.numbers)
        return result

    def _warn_if_noisy(self, loss: Any, again: Any) -> None:
        with np.errstate(invalid="ignore", over="ignore"):
            difference = np.abs(np.subtract(loss, again))
            noisy = np.isfinite(difference) & (difference > NOISE * np.maximum(np.abs(loss), np.abs(again)))
        if np.any(noisy):
            index = int(np.argmax(noisy))
            first, second = (np.ravel(value)[index].item() for value in (loss, again))
            warn_user(noise_message(first, second), RuntimeWarning)

    def _keep_best(self, improved: Any, point: Array, grad: Array) -> None:
        best = self.monitor.best
        if self.rows is None:
            if improved:
                self.best_x[...] = point
                self.best_grad[...] = grad
            elif self.monitor.steps == 0:
                self.best_grad[...] = grad
            self.history.append(-best if self.maximize else best)
            return
        if self.monitor.steps == 0:
            self.best_grad[...] = grad
        chosen = improved & self.rows.running
        for kept, value in zip(self.kept, (point, grad, self.loss), strict=True):
            np.copyto(kept, value, where=chosen.reshape(-1, *(1,) * (kept.ndim - 1)))

    def _store_best(self, numbers: Any = None) -> None:
        """Bring the best points of the rows of x, by default of those in the batch, to their places among all."""
        if self.rows is not None and self.kept[0] is not self.best_x:
            for whole, kept in zip((self.best_x, self.best_grad, self.best_loss), self.kept, strict=True):
                whole[self.rows.numbers if numbers is None else numbers] = kept

    def _held(self) -> Any:
        """Return where a weight is frozen or held at a bound by its gradient; None where there is no such thing."""
        return held_weights(self.x, self.grad, self.lower, self.upper, self.frozen, self.maximize)

    def _slope(self) -> Array:
        """Return the size of each component of the projected gradient."""
        slope: Array = np.abs(self.grad)
        held = None if self.constraints is None else self._held()
        if held is not None:
            slope[held] = 0
        return slope

    def _at_rest(self) -> Any:
        """Return whether all step sizes are within xtol."""
        assert self.rules.xtol is not None
        small = steps_within(decode_steps(self.state), self.x, self.rules.xtol, self.step_min)
        held = None if self.constraints is None else self._held()
        if held is not None:
            small |= held
        return bool(small.all()) if self.rows is None else small.reshape(len(small), -1).all(axis=1)

    def _call_callback(self, point: Array) -> bool:
        """Call the callback; return whether it raised StopIteration."""
        assert self.callback is not None
        x, loss = point.copy(), self.loss
        if self.rows is not None:  # rows that have finished are shown at their best points
            self._store_best()
            x, loss = self.best_x.copy(), self.best_loss.copy()
            running = self.rows.running
            numbers = self.rows.numbers[running]
            x[numbers], loss[numbers] = point[running], self.loss[running]
        try:
            self.callback(x, loss, self.monitor.steps)
        except StopIteration:
            return True
        return False

    def _finish_rows(self, code: Array) -> bool:
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
            keep = np.flatnonzero(keep)
            self.kept = [kept[keep] for kept in self.kept]
            for name in ("x", "state", "grad", "loss", "scale", "lower", "upper", "frozen", "previous"):
                value = getattr(self, name)
                setattr(self, name, None if value is None else value[keep])
            self._set_constraints()
            self.monitor.select(keep)
        return True

    def _show_progress(self, finished: int) -> None:
        if self.progress is not None:
            best = self.monitor.best if self.rows is None else np.nanmin(self.monitor.best)
            self.progress.update(self.monitor.steps, float(-best if self.maximize else best), finished)

    # --------------------------------------------------------------------------------------------- step

    def _step(self) -> None:
        """Make one step. A loss that is not finite takes the last moves back, with every method."""
        loss, grad = self.loss, self.grad
        if self.method != "irprop+":
            if self.rows is None:
                if not math.isfinite(loss):
                    self._engine_step("irprop+", self.x, grad, self.state, NONFINITE, None)
                    return
            elif not (finite := np.isfinite(loss)).all():
                lost = ~finite
                x, state = self.x[lost], self.state[lost]
                self._engine_step("irprop+", x, grad[lost], state, NONFINITE, lost)
                self.x[lost], self.state[lost] = x, state
                # After it a zero gradient leaves these rows where they are.
                grad = np.where(lost.reshape(-1, *(1,) * (grad.ndim - 1)), grad.dtype.type(0), grad)
            self._engine_step(self.method, self.x, grad, self.state, NOT_WORSE, None)
            return
        outcome: LossOutcome
        if self.rows is None:
            outcome, self.previous = compare_loss(loss, self.previous, self.maximize)
        else:
            previous = np.full_like(loss, np.nan) if self.previous is None else self.previous
            with np.errstate(invalid="ignore"):
                outcomes, self.previous = compare_losses(loss, previous, self.maximize)
            outcome = outcomes.astype(np.uint8)
        self._engine_step(self.method, self.x, grad, self.state, outcome, None)

    def _engine_step(self, method: str, x: Array, grad: Array, state: Array, outcome: LossOutcome, rows: Any) -> None:
        """Run the engine on x, or on the rows of that index, in place."""
        limits = self.constraints
        if limits is not None and rows is not None:
            limits = [Constraints(*(None if limit is None else limit[rows] for limit in limits[0]))]
        options: dict[str, Any] = {"maximize": self.maximize, "outcome": outcome, "constraints": limits}
        options["n_threads"] = 1 if x.size < threads.MIN_SHARED_WEIGHTS else 0
        arguments = method, [x], [grad], [(state,)], self.hyper
        if not self.engine_step(*arguments, **options):
            numpy_.step(*arguments, **options)

    # ------------------------------------------------------------------------------------------- result

    def result(self) -> Result:
        """Return the result as it stands."""
        if self.rows is None:
            reason = REASONS[self.code]
            best = self.monitor.best
            loss = (-best if self.maximize else best) if self.monitor.steps >= 0 and math.isfinite(best) else math.nan
            return Result(
                x=self.best_x,
                fun=loss,
                grad=self.best_grad,
                success=reason.success,
                status=reason.status,
                reason=reason.name,
                message=reason.message,
                nit=self.steps,
                nfev=self.monitor.steps + 1,
                calls=self.objective.calls,
                history=np.array(self.history),
            )
        reasons = [REASONS[code] for code in self.code]
        return Result(
            x=self.best_x,
            fun=self.best_loss,
            grad=self.best_grad,
            success=np.array([reason.success for reason in REASONS])[self.code],
            status=np.array([reason.status for reason in REASONS])[self.code],
            reason=[reason.name for reason in reasons],
            message=[reason.message for reason in reasons],
            nit=self.steps,
            nfev=self.steps + 1,
            calls=self.objective.calls,
        )
