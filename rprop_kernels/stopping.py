"""When a fit ends: the stopping rules, their reasons and messages.

The rules are written once, for NumPy and torch, for one problem and for many: with operators and a function ``where``
on numbers, arrays or tensors. Nothing here waits for a device.

With E the loss at an evaluation (negated to maximize), E_best the best one so far, and t the number of steps made:

=============  =====================================================================================================
reason         holds where
=============  =====================================================================================================
start          the first loss is not finite
gtol           E is not above E_best, and no component of the projected gradient is above gtol
ftol           E_best(t - window) - E_best(t) <= ftol * abs(E_best(t))
xtol           every 8 steps: every step size is at most max(D_min, xtol * max(abs(x), x_scale)), except for weights
    that
               are frozen or held at a bound by their gradients
target         E_best has reached target
patience       there was no new E_best in as many steps
max_steps      as many steps have been made
max_evals      another evaluation would be one too many
nonfinite      the loss or the gradient was not finite in ``window`` evaluations in a row, or ftol or xtol holds and one
               of the last ``window`` evaluations was not finite
no_decrease    ftol holds, and E_best is the first loss
callback       the callback raised StopIteration
interrupted    Ctrl-C, or an exception in a function of the user's
=============  =====================================================================================================

Where several hold at once, the first in this order counts.
"""

import contextlib
import copy
import itertools
import math
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from numbers import Integral, Real
from typing import Any, Final, NamedTuple

from .state import encoding_of
from .warn import warn_user

XTOL_INTERVAL: Final = 8
"""The test of the step sizes costs more than a small step: it is made every so many steps."""


class Reason(NamedTuple):
    """A reason why a fit ended.

    Attributes:
        name: one word.
        status: 0 for a success, else the number of the cause.
        message: one sentence, with a remedy where there is one.
    """

    name: str
    status: int
    message: str

    @property
    def success(self) -> bool:
        """Whether the fit converged."""
        return self.status == 0


REASONS: Final = (
    Reason("running", -1, "The search has not ended."),
    Reason(
        "start",
        3,
        "The first loss is NaN or infinite, so there is no point to return to: start where the loss is finite.",
    ),
    Reason("gtol", 0, "Optimization terminated successfully: no component of the (projected) gradient is above gtol."),
    Reason(
        "ftol",
        0,
        "Optimization terminated successfully: the best loss has decreased by no more than ftol, relative to "
        "it, within "
        "window steps.",
    ),
    Reason("xtol", 0, "Optimization terminated successfully: all step sizes are within xtol."),
    Reason("target", 0, "Optimization terminated successfully: the loss has reached target."),
    Reason("patience", 5, "There was no new best loss in patience steps: raise patience if the loss is noisy."),
    Reason("max_steps", 1, "The limit of steps was reached: raise max_steps, or loosen gtol, xtol or ftol."),
    Reason("max_evals", 2, "The limit of evaluations was reached: raise max_evals, or loosen gtol, xtol or ftol."),
    Reason(
        "nonfinite",
        3,
        "The loss was NaN or infinite, or its gradient NaN, in window evaluations in a row, or the search has "
        "come to rest "
        "next to points where the loss is not finite: give bounds that keep it finite, start elsewhere, or take "
        "a smaller "
        "lr.",
    ),
    Reason(
        "no_decrease",
        4,
        "The loss has not fallen below that of the start within window steps: check the gradient's sign, start "
        "elsewhere, "
        "or raise window.",
    ),
    Reason("callback", 99, "`callback` raised `StopIteration`."),
    Reason("interrupted", 6, "The search was interrupted: this is the best point so far."),
)
"""All reasons; the index of one is its code. The first stands for a search that goes on."""

(
    RUNNING,
    START,
    GTOL,
    FTOL,
    XTOL,
    TARGET,
    PATIENCE,
    MAX_STEPS,
    MAX_EVALS,
    NONFINITE,
    NO_DECREASE,
    CALLBACK,
    INTERRUPTED,
) = range(len(REASONS))


class StoppingRules(NamedTuple):
    """Arguments of the rules, validated; None switches a rule off."""

    gtol: float | None = 1e-5
    ftol: float | None = 1e-9
    xtol: float | None = 1e-10
    window: int = 50
    patience: int | None = None
    target: float | None = None
    max_steps: float | None = None
    max_evals: float | None = None


def whole_number(name: str, value: Any, least: int) -> int:
    """Return an argument that is a whole number.

    Raises:
        ValueError: it is another kind of value, or below ``least``.

    Examples:
        >>> whole_number("window", 50, 1)
        50
    """
    if isinstance(value, bool) or not isinstance(value, Integral) or value < least:
        raise ValueError(f"{name}={value!r}: pass a whole number from {least} on")
    return int(value)


def is_number(value: Any) -> bool:
    """Check that a value is a real number, not a truth value."""
    return isinstance(value, Real) and not isinstance(value, bool)


def _tolerance(name: str, value: Any) -> float | None:
    if value is None:
        return None
    if not is_number(value) or not value >= 0:
        raise ValueError(f"{name}={value!r}: pass a number from 0 on, or None to leave this test out")
    return float(value)


def _limit(name: str, value: Any, least: int) -> float | None:
    if value is None or (isinstance(value, float) and value == math.inf):
        return None
    if not is_number(value) or not value >= least:
        raise ValueError(f"{name}={value!r}: pass a number from {least} on, or None for no limit")
    return float(value)


def validate(
    gtol: Any = 1e-5,
    ftol: Any = 1e-9,
    xtol: Any = 1e-10,
    window: Any = 50,
    patience: Any = None,
    target: Any = None,
    max_steps: Any = None,
    max_evals: Any = None,
) -> StoppingRules:
    """Return the arguments of the rules as plain numbers.

    Raises:
        ValueError: naming the argument, its value and the remedy.

    Examples:
        >>> validate(window=20).window
        20
    """
    if target is not None and (not is_number(target) or math.isnan(target)):
        raise ValueError(f"target={target!r}: pass a number, or None for none")
    return StoppingRules(
        _tolerance("gtol", gtol),
        _tolerance("ftol", ftol),
        _tolerance("xtol", xtol),
        whole_number("window", window, 1),
        None if patience is None else whole_number("patience", patience, 1),
        None if target is None else float(target),
        _limit("max_steps", max_steps, 0),
        _limit("max_evals", max_evals, 1),
    )


def choose(condition: bool, value: Any, other: Any) -> Any:
    """Return ``value`` where the condition holds, else ``other``: the ``where`` of numbers."""
    return value if condition else other


class Monitor:
    """The course of the loss of one problem, or of many at once, and the decision whether it ends.

    An evaluation is handed over in two calls: `add` takes the loss and reports which problems need the gradient looked
    at; `decide` takes the outcome of that.

    Args:
        rules: from `validate`.
        maximize: whether a greater loss is the better one.
        where: ``choose`` for one problem, whose losses are floats, ``numpy.where`` or its like for arrays of shape
            (B,).

    Attributes:
        steps: the number of steps made, -1 before the first loss.
        best: the best finite loss, negated to maximize; inf before the first.

    Examples:
        >>> monitor = Monitor(validate(window=2))
        >>> for loss in (3.0, 1.0, 1.0, 1.0):
        ...     improved, candidate = monitor.add(loss)
        ...     code = monitor.decide(max_grad=0.5)
        >>> REASONS[code].name
        'ftol'
    """

    _ROWS = ("best", "best_step", "first", "nonfinite_streak", "last_nonfinite", "finite", "candidate")

    def __init__(self, rules: StoppingRules, maximize: bool = False, where: Callable[..., Any] = choose) -> None:
        self.rules = rules
        self.maximize = maximize
        self.where = where
        self.steps = -1
        self.best: Any = math.inf
        self.best_step: Any = 0
        self.first: Any = math.inf
        self.nonfinite_streak: Any = 0
        self.last_nonfinite: Any = -rules.window
        self.finite: Any = True
        self.candidate: Any = True
        self._window: deque[tuple[Any, Any]] = deque(maxlen=rules.window + 1)  # best losses of the problems so numbered
        self._numbers: Any = None  # of the problems that are left; None before the first has left
        self._scratch: Any = None

    def add(self, loss: Any) -> tuple[Any, Any]:
        """Take the loss of an evaluation.

        Args:
            loss: a float, or an array of shape (B,).

        Returns:
            ``(improved, candidate)``: whether it is the best so far, and whether it is finite and not above the best,
            so that `decide` needs the gradient. Booleans of the loss's kind.
        """
        value = -loss if self.maximize else loss
        self.steps += 1
        self.finite = finite = abs(value) < math.inf
        improved = finite & (value < self.best)
        self.candidate = finite & (value <= self.best)
        self.best = self.where(improved, value, self.best)
        self.best_step = self.where(improved, self.steps, self.best_step)
        if self.steps == 0:
            self.first = self.best
        self._window.append((self._numbers, self.best))
        return improved, self.candidate

    @property
    def tests_steps(self) -> bool:
        """Whether `decide` needs to know if the step sizes are within xtol."""
        return self.rules.xtol is not None and self.steps > 0 and self.steps % XTOL_INTERVAL == 0

    def decide(self, max_grad: Any, at_rest: Any = False, evals_exhausted: bool = False) -> Any:
        """Return the code of the reason to stop, RUNNING for none.

        Args:
            max_grad: the largest component of the projected gradient at the point of the last loss, NaN where one is
                NaN; only looked at where that is a candidate.
            at_rest: whether all step sizes are within xtol; looked at where ``tests_steps``.
            evals_exhausted: whether another evaluation would be one too many.

        Returns:
            an index into `REASONS`, or an array of them of shape (B,).
        """
        rules, where, steps, best = self.rules, self.where, self.steps, self.best
        tested = self.candidate
        finite = self.finite & ((max_grad == max_grad) | (tested ^ True))
        self.nonfinite_streak = where(finite, 0, self.nonfinite_streak + 1)
        self.last_nonfinite = where(finite, self.last_nonfinite, steps)
        stalled: Any = False
        if rules.ftol is not None and len(self._window) == rules.window + 1:
            stalled = self._recent(*self._window[0]) - best <= rules.ftol * abs(best)
        at_rest = at_rest & finite if self.tests_steps else False
        near_nonfinite = steps - self.last_nonfinite < rules.window
        calm, decreased = near_nonfinite ^ True, best < self.first
        conditions = (
            (START, self.finite ^ True if steps == 0 else False),
            (GTOL, tested & (max_grad <= rules.gtol) if rules.gtol is not None else False),
            (FTOL, stalled & calm & decreased),
            (XTOL, at_rest & calm),
            (TARGET, best <= (-rules.target if self.maximize else rules.target) if rules.target is not None else False),
            (PATIENCE, steps - self.best_step >= rules.patience if rules.patience is not None else False),
            (MAX_STEPS, rules.max_steps is not None and steps >= rules.max_steps),
            (MAX_EVALS, evals_exhausted),
            (NONFINITE, (self.nonfinite_streak >= rules.window) | (near_nonfinite & (stalled | at_rest))),
            (NO_DECREASE, stalled & (decreased ^ True)),
        )
        code: Any = RUNNING
        for reason, holds in reversed(conditions):
            if holds is not False:
                code = where(holds, reason, code)
        return code + finite * 0  # of the shape of the loss

    def _recent(self, numbers: Any, best: Any) -> Any:
        """Return the best losses of the problems so numbered for those that are left."""
        if numbers is self._numbers:
            return best
        if numbers is None:
            return best[self._numbers]
        self._scratch[numbers] = best
        return self._scratch[self._numbers]

    def select(self, rows: Any) -> None:
        """Keep only some of the problems.

        Args:
            rows: an index of arrays of shape (B,).
        """
        if self._numbers is None:
            self._scratch = self.best * 1
            self._numbers = (self.best_step * 0 + 1).cumsum(0) - 1
        self._numbers = self._numbers[rows]
        for name in self._ROWS:
            setattr(self, name, getattr(self, name)[rows])

    def state_dict(self) -> dict[str, Any]:
        """Return the course so far, as numbers or arrays in a dict."""
        window = [self._recent(*entry) for entry in self._window]
        return {"steps": self.steps, "window": window, **{name: getattr(self, name) for name in self._ROWS}}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue the course of a `state_dict`."""
        self.steps = state_dict["steps"]
        self._numbers = None
        self._window = deque(((None, best) for best in state_dict["window"]), maxlen=self.rules.window + 1)
        for name in self._ROWS:
            setattr(self, name, state_dict[name])


# --------------------------------------------------------------------------- weights that are free to move


def held_weights(x: Any, grad: Any, lower: Any, upper: Any, frozen: Any, maximize: bool = False) -> Any:
    """Return where a weight is frozen or held at a bound by its gradient; None where there are neither.

    Args:
        x: weights, an array or tensor.
        grad: their gradients.
        lower: None, a number, or an array that broadcasts to x.
        upper: likewise.
        frozen: None or booleans.
        maximize: whether the gradient is ascended.
    """
    held = frozen
    for bound, is_lower in ((lower, True), (upper, False)):
        if bound is not None:
            beyond = x <= bound if is_lower else x >= bound
            outward = beyond & (grad > 0 if is_lower != maximize else grad < 0)
            held = outward if held is None else held | outward
    return held


def steps_within(step: Any, x: Any, xtol: float, step_min: float) -> Any:
    """Return where a step size is at most ``max(step_min, xtol * max(abs(x), 1))``.

    Args:
        step: step sizes, an array or tensor.
        x: the weights, of the same shape.
        xtol: see `StoppingRules`.
        step_min: the smallest step size that occurs.
    """
    return (step <= max(xtol, step_min)) | (step <= xtol * abs(x))


# -------------------------------------------------------------------------------------- loops of the user's


class LoopStopping:
    """The part of a Stopping that NumPy and torch share: the order of the calls, the reasons, the state.

    A test belongs to one point: loss, gradient and weights before a step. `_run_test` makes it, called by
    ``stop(loss)`` or, where a step comes first, by the optimizer through `_before_step`; ``stop(loss)`` after that only
    answers.

    A new best point is pending until it is copied: by the step that leaves it, in its own pass, or by `_flush`.

    Args:
        rules: validated.
        maximize: whether a greater loss is the better one.
        rows: whether there is a loss for each row.
        where: see `Monitor`.
        xp: the library, numpy or torch.
        every: the result of the tests is read after so many of them; above 1 they are made on the device of the loss
            and nothing waits for it.
        step_needs_loss: the remedy for a step without a loss, for a message.
    """

    def __init__(
        self,
        rules: StoppingRules,
        maximize: bool,
        rows: bool,
        where: Callable[..., Any],
        xp: Any,
        step_needs_loss: str,
        every: int = 1,
    ) -> None:
        self._monitor = Monitor(rules, maximize, where)
        self._rows = rows
        self._xp = xp
        self._every = every
        self._code: Any = RUNNING
        self._best_loss: Any = math.nan
        self._best: list[Any] | None = None  # the weights of that loss, or of the one before where it is pending
        self._pending: Any = None  # True, or a boolean for each row: where the best point is still to be copied
        self._tested = False  # this point has been tested, and the optimizer has not stepped yet
        self._answered = True  # stop() has returned the result of the last test
        self._untested = False  # a step without a test has been made
        self._stopped = False  # the answer of the last test that was read
        self._warned = False
        self._step_needs_loss = step_needs_loss

    # ------------------------------------------------------------------------- what a library provides

    def _weights(self, *rest: Any) -> Iterable[tuple[Any, Any, Any, float, tuple[Any, Any, Any]]]:
        """Yield weights, gradients, step sizes, the smallest step size and the constraints of every parameter.

        All are real; gradients and step sizes are None where there are none. ``rest`` is that of `_run_test`.
        """
        raise NotImplementedError

    def _native_max_grad(self, *rest: Any) -> Any:
        """Return the largest component of the projected gradient by one native reduction; None where there is none."""
        raise NotImplementedError

    def _params(self) -> Sequence[Any]:
        """Return the parameters."""
        raise NotImplementedError

    def _copy(self, best: Any, param: Any, chosen: Any) -> None:
        """Copy a parameter to the best point, ``chosen`` as in `_pending`."""
        raise NotImplementedError

    def _clone(self, param: Any) -> Any:
        """Return a copy of a parameter."""
        raise NotImplementedError

    def _to_param(self, value: Any, param: Any) -> Any:
        """Return loaded best weights in the form of the parameter's."""
        raise NotImplementedError

    def _gather(self, values: list[Any], largest: bool) -> Any:
        """Return the largest or the smallest of numbers, or of arrays with one for each row; over processes, too.

        Without any it is 0, or does not count where there are several processes.
        """
        raise NotImplementedError

    # --------------------------------------------------------------------------------------- reasons

    @property
    def best_loss(self) -> Any:
        """The best finite loss so far; NaN before the first."""
        return self._best_loss

    def _codes(self) -> list[int]:
        return [int(code) for code in self._code] if self._has_rows else [int(self._code)]

    @property
    def _has_rows(self) -> bool:
        return self._rows and not isinstance(self._code, int)

    def _words(self, name: str) -> Any:
        words = [getattr(REASONS[code], name) if code != RUNNING else None for code in self._codes()]
        return words if self._has_rows else words[0]

    @property
    def reason(self) -> Any:
        """The name of the reason to stop, None while there is none; where batched a list with one for each row."""
        return self._words("name")

    @property
    def status(self) -> Any:
        """The status of the reason, 0 for a success; None while there is none; where batched a list."""
        return self._words("status")

    @property
    def message(self) -> Any:
        """The message of the reason; None while there is none; where batched a list."""
        return self._words("message")

    @property
    def stopped(self) -> bool:
        """Whether there is a reason to stop, where batched for every row."""
        return RUNNING not in self._codes()

    # ----------------------------------------------------------------------------------------- tests

    def _stop(self, *point: Any) -> bool:
        """Answer for the point of the last step, or test this one."""
        if self._untested:
            raise RuntimeError(
                f"stop(loss) came after a step that knew no loss, so that loss, gradient and weights no longer belong "
                f"together: call stop(loss) before optimizer.step(), or {self._step_needs_loss}"
            )
        if self._answered and not self._tested:
            self._run_test(*point)
            self._tested = True
        self._answered = True
        if self._stopped:
            self._flush()
        return self._stopped

    def _before_step(self, *point: Any) -> None:
        """Test the point that the optimizer is about to leave; a point without a loss is None."""
        if self._tested:
            self._tested = False
        elif not point:
            self._untested = True
        else:
            self._run_test(*point)
            self._answered = False

    def _any(self, condition: Any) -> bool:
        """Check whether a condition holds anywhere; True where that would be waited for."""
        return self._every > 1 or bool(condition.any() if self._rows else condition)

    def _run_test(self, loss: Any, *rest: Any) -> None:
        self._flush()  # the step that was to copy it has failed
        monitor = self._monitor
        running = self._code == RUNNING
        improved, candidate = monitor.add(loss)
        chosen = improved & running
        if self._any(chosen):
            self._best_loss = monitor.where(chosen, loss, self._best_loss)
            if self._best is None:
                self._best = [self._clone(param) for param in self._params()]
            else:
                self._pending = chosen
        max_grad = self._max_grad(*rest) if self._any(candidate) else monitor.best * 0 + math.nan
        at_rest = self._at_rest(*rest) if monitor.tests_steps else False
        code = monitor.decide(max_grad, at_rest)
        self._code = monitor.where(running, code, self._code)
        if (monitor.steps + 1) % self._every == 0:
            self._stopped = self.stopped
            if self._every > 1 or self._any(running & (self._code != RUNNING)):
                self._after_stop()

    def _max_grad(self, *rest: Any) -> Any:
        native = self._native_max_grad(*rest)
        if native is not None:
            return self._gather([native], largest=True)
        found = []
        for x, grad, _, _, limits in self._weights(*rest):
            if grad is not None and 0 not in grad.shape:
                slope = abs(grad)
                held = held_weights(x, grad, *limits, self._monitor.maximize)
                if held is not None:
                    slope = self._xp.where(held, 0, slope)
                found.append(self._xp.amax(slope.reshape(len(slope), -1), 1) if self._rows else self._xp.amax(slope))
        return self._gather(found or [self._monitor.best * 0], largest=True)

    def _at_rest(self, *rest: Any) -> Any:
        """Return whether all step sizes are within xtol."""
        xtol = self._monitor.rules.xtol
        assert xtol is not None
        found = []
        for x, grad, step, step_min, limits in self._weights(*rest):
            if step is not None and 0 not in step.shape:
                small = steps_within(step, x, xtol, step_min)
                held = None if grad is None else held_weights(x, grad, *limits, self._monitor.maximize)
                if held is not None:
                    small = small | held
                found.append(small.reshape(len(small), -1).all(1) if self._rows else small.all())
        return self._gather(found, largest=False) == 1

    def _after_stop(self) -> None:
        """Warn where the smallest step size has kept the gradient from gtol."""
        if self._warned or not set(self._codes()) & {FTOL, XTOL, PATIENCE, MAX_STEPS, NO_DECREASE}:
            return
        at_minimum = total = 0
        smallest = 0.0
        for _, _, step, step_min, (_, _, frozen) in self._weights():
            if step is not None:
                free = step == step if frozen is None else ~frozen
                at_minimum += int((free & (step <= self._xp.full_like(step, step_min))).sum())
                total += int(free.sum())
                smallest = max(smallest, step_min)
        if total and at_minimum * 4 >= total and smallest > encoding_of("float32").min_step:
            self._warned = True
            warn_user(min_step_message(at_minimum / total, smallest), UserWarning)

    # ------------------------------------------------------------------------------------- best point

    def _require_pending_point(self) -> None:
        """Check that the weights are those of the pending best point, as far as the library can tell.

        Raises:
            RuntimeError: they have changed.
        """

    def _flush(self) -> None:
        """Copy a best point that is pending."""
        if self._pending is None or self._best is None:
            return
        self._require_pending_point()
        params = self._params()
        for index, (best, param) in enumerate(zip(self._best, params, strict=False)):
            if best is None:  # it had no memory yet
                self._best[index] = self._clone(param)
            else:
                self._copy(best, param, self._pending)
        self._best += [self._clone(param) for param in params[len(self._best) :]]  # added since
        self._pending = None

    def _flush_after_error(self) -> None:
        """Copy a best point that is pending where a step has failed before it changed anything."""
        with contextlib.suppress(RuntimeError):
            self._flush()

    def _best_for_restore(self) -> Iterable[tuple[Any, Any]]:
        """Return the parameters with their best weights.

        Raises:
            RuntimeError: there was no finite loss yet.
        """
        self._flush()
        if self._best is None or not bool(self._xp.isfinite(self._xp.asarray(self._best_loss)).any()):
            raise RuntimeError("there was no finite loss yet, so there are no best weights: call stop(loss) first")
        return zip(self._params(), self._best, strict=False)

    def _state(self) -> dict[str, Any]:
        flags = {"tested": self._tested, "answered": self._answered, "untested": self._untested}
        return {"monitor": self._monitor.state_dict(), "code": self._code, "best_loss": self._best_loss, **flags}

    def state_dict(self) -> dict[str, Any]:
        """Return the course of the loss and the best weights; copies, apart from those of the optimizer."""
        self._flush()
        best = self._best
        if best is not None:  # a parameter that was added since has none
            best = best + [None] * (len(self._params()) - len(best))
        state: dict[str, Any] = copy.deepcopy({**self._state(), "best": best})
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue where a `state_dict` was made; all of it or, if anything is wrong, nothing.

        Raises:
            ValueError: it is of another origin, or of other parameters.
        """
        expected = {*self._state(), "best"}
        if not isinstance(state_dict, dict) or set(state_dict) != expected:
            raise ValueError(f"this is no state of a Stopping: pass what state_dict() returned ({sorted(expected)})")
        state, params = copy.deepcopy(state_dict), self._params()
        if state["best"] is not None:
            pairs = itertools.zip_longest(state["best"], params)
            own = [None if x is None or p is None else tuple(p.shape) for x, p in pairs]
            shapes = [None if x is None else tuple(x.shape) for x in state["best"]]
            if shapes != own:
                raise ValueError(
                    f"a state of parameters of shapes {shapes}, not {own}: make the Stopping for the same parameters"
                )
            columns = zip(state["best"], params, strict=True)
            state["best"] = [None if x is None else self._to_param(x, param) for x, param in columns]
        self._monitor.load_state_dict(state["monitor"])
        self._code, self._best_loss, self._best = state["code"], state["best_loss"], state["best"]
        self._tested, self._answered, self._untested = (state[x] for x in ("tested", "answered", "untested"))
        self._pending, self._stopped = None, self.stopped


def min_step_message(share: float, step_min: float) -> str:
    """Return the warning about steps that cannot shrink enough for gtol."""
    return (
        f"the search has stopped with a gradient above gtol, while {share:.0%} of the free steps stand at the "
        "smallest step "
        f"size, {step_min}: make the optimizer with step_sizes=(0.0, 50.0), so that they can shrink"
    )
