"""Stopping: when a loop of the user's ends, and the best weights that it has seen."""

import copy
import weakref
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..bounds import Constraints
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
from .variants import RpropVariant

Array: TypeAlias = NDArray[Any]


def _where(condition: Any, value: Any, other: Any) -> Any:
    return np.where(condition, value, other)


class Stopping(LoopStopping):
    """Stopping rules and the best weights for a loop that calls ``optimizer.step`` itself.

    ``stop(loss, grads)`` comes before the step, with the loss and gradients at the current weights, and is true where
    the loop should end; ``stop.reason`` names the reason. The step then needs no loss of its own. Where
    ``optimizer.step(grads, loss)`` comes first, it makes the test, and ``stop`` after it answers.

    Args:
        optimizer: one of this module; it can have one Stopping.
        gtol: stop where the loss is not above the best and no component of the gradient, projected on the bounds, is
            above it. None switches gtol, ftol or xtol off.
        ftol: stop where the best loss has decreased by at most ``ftol * abs(loss)`` within the last ``window`` steps.
        xtol: stop where every step size is at most ``xtol * max(abs(w), 1)``, or at D_min; tested every 8 steps.
            Weights that are frozen or held at a bound do not count.
        window: see ftol; also the number of losses in a row that are not finite after which it stops.
        patience: stop after as many steps without a new best loss.
        max_steps: stop after as many steps.

    Attributes:
        reason: gtol, ftol, xtol, patience, max_steps, nonfinite, start or no_decrease; None while there is none. With
            ``batched=True`` a list with one for each row; the best of a row is fixed at its stop.
        status: of the reason, as in :class:`rprop_kernels.result.Result`.
        message: likewise.
        best_loss: the best loss so far.

    Raises:
        TypeError, ValueError: naming the argument, its value and the remedy.
        RuntimeError: at a ``stop`` after a step that knew no loss.

    Examples:
        >>> import numpy as np
        >>> from rprop_kernels.numpy import IRpropPlus, Stopping
        >>> w = np.array([3.0, -4.0])
        >>> optimizer = IRpropPlus(w, step_sizes=(0.0, 50.0))
        >>> stop = Stopping(optimizer)
        >>> while not stop(w @ w, 2 * w):
        ...     optimizer.step(2 * w)
        >>> stop.restore_best()
        >>> stop.reason, bool(np.abs(w).max() < 1e-5)
        ('gtol', True)
    """

    def __init__(
        self,
        optimizer: RpropVariant,
        gtol: float | None = 1e-5,
        ftol: float | None = 1e-9,
        xtol: float | None = 1e-10,
        window: int = 50,
        patience: int | None = None,
        max_steps: int | None = None,
    ) -> None:
        if not isinstance(optimizer, RpropVariant):
            raise TypeError(f"optimizer is a {type(optimizer).__name__}: pass an optimizer of rprop_kernels.numpy")
        rules = validate(gtol, ftol, xtol, window, patience, max_steps=max_steps)
        if optimizer._stopping is not None and optimizer._stopping() is not None:
            raise ValueError("this optimizer has a Stopping: use that one, or delete it first")
        rows = optimizer._batched
        where = _where if rows else choose
        super().__init__(rules, optimizer.maximize, rows, where, "pass optimizer.step(grads, loss)")
        self._optimizer = optimizer
        self._best: list[Array] = [np.array(param) for param in optimizer.params]
        self._warned = False
        optimizer._stopping = weakref.ref(self)

    def __call__(self, loss: ArrayLike, grads: Array | Sequence[Array]) -> bool:
        """Return whether the loop should end.

        Args:
            loss: E at the current weights, as for ``step``.
            grads: the gradients there, as for ``step``.
        """
        optimizer = self._optimizer
        value = optimizer._loss_value(loss)
        stopped = self._stop(value, optimizer._validate(optimizer._gradients(grads)))
        if self._tested:
            optimizer._next_loss = value
        return stopped

    def _run_test(self, loss: Any, *rest: Any) -> None:
        if self._rows and isinstance(self._code, int):
            self._code = np.full(len(loss), self._code)
        with np.errstate(invalid="ignore"):  # rows without a finite loss have an infinite best one
            super()._run_test(loss, *rest)

    def _copy_best(self, chosen: Any) -> None:
        for best, param in zip(self._best, self._optimizer._params, strict=True):
            if self._rows:
                best[chosen] = param[chosen]
            else:
                best[...] = param

    def _limits(self) -> list[Constraints]:
        optimizer = self._optimizer
        return [limits or Constraints() for limits in optimizer._constraints or [None] * len(optimizer._params)]

    def _max_grad(self, gradients: Sequence[Array]) -> Any:
        optimizer = self._optimizer
        largest: Any = 0.0
        for param, grad, limits in zip(optimizer._params, gradients, self._limits(), strict=True):
            slope = np.abs(grad)
            held = held_weights(param, grad, *limits, optimizer.maximize)
            if held is not None:
                slope[held] = 0
            if slope.size:
                axes = tuple(range(1, slope.ndim)) if self._rows else None
                largest = np.maximum(largest, slope.max(axis=axes))
        return largest if self._rows else float(largest)

    def _at_rest(self, gradients: Sequence[Array]) -> Any:
        optimizer, xtol = self._optimizer, self._monitor.rules.xtol
        assert xtol is not None
        rest: Any = True
        columns = (optimizer._params, gradients, optimizer._states, self._limits())
        for param, grad, (state,), limits in zip(*columns, strict=True):
            small = steps_within(decode(state)[1], param, xtol, self._step_min(state))
            held = held_weights(param, grad, *limits, optimizer.maximize)
            if held is not None:
                small = small | held
            rest = rest & small.all(axis=tuple(range(1, small.ndim)) if self._rows else None)
        return rest if self._rows else bool(rest)

    def _step_min(self, state: Array) -> float:
        return max(self._optimizer.step_sizes[0], encoding_of(state.dtype).min_step)

    def _after_stop(self) -> None:
        codes, step_min = set(self._codes()), self._optimizer.step_sizes[0]
        if self._warned or step_min == 0 or not codes & {FTOL, XTOL, PATIENCE, MAX_STEPS, NO_DECREASE}:
            return
        at_minimum = total = 0
        for (state,), (_, _, frozen) in zip(self._optimizer._states, self._limits(), strict=True):
            step = decode(state)[1]
            free = np.ones(step.shape, bool) if frozen is None else ~frozen
            at_minimum += int(np.sum(free & (step <= step.dtype.type(step_min))))
            total += int(free.sum())
        if total and at_minimum * 4 >= total:
            self._warned = True
            warn_user(min_step_message(at_minimum / total, step_min), UserWarning)

    def restore_best(self) -> None:
        """Set the weights to those of the best loss, forget all signs, and make that loss E_prev.

        Raises:
            RuntimeError: there was no finite loss yet.
        """
        best = self.best_loss
        if np.isnan(best).all():
            raise RuntimeError("there was no finite loss yet, so there are no best weights: call stop(loss, grads)")
        optimizer = self._optimizer
        for param, (state,), weights in zip(optimizer._params, optimizer._states, self._best, strict=True):
            param[...] = weights
            state[...] = forget_sign(state)
        if optimizer._variant.needs_loss:
            optimizer._previous = best if self._rows else float(best)
        optimizer._next_loss = None
        self._tested = False

    def state_dict(self) -> dict[str, Any]:
        """Return the course of the loss and the best weights; copies, apart from those of the optimizer."""
        return copy.deepcopy({**self._state(), "best": self._best})

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue where a `state_dict` was made; all of it or, if anything is wrong, nothing.

        Raises:
            ValueError: it is of another origin, or of other parameters.
        """
        expected = {*self._state(), "best"}
        if not isinstance(state_dict, dict) or set(state_dict) != expected:
            raise ValueError(f"this is no state of a Stopping: pass what state_dict() returned ({sorted(expected)})")
        state = copy.deepcopy(state_dict)
        shapes = [np.shape(x) for x in state["best"]]
        if shapes != [x.shape for x in self._best]:
            raise ValueError(
                f"a state of parameters of shapes {shapes}, not {[x.shape for x in self._best]}: make the "
                "Stopping for the "
                "same parameters"
            )
        self._load(state)
        self._best = [np.asarray(x, best.dtype) for x, best in zip(state["best"], self._best, strict=True)]
