"""Stopping: when a loop of the user's ends, and the best weights that it has seen."""

import functools
import weakref
from collections.abc import Iterator, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..bounds import Constraints
from ..kernels.numpy_ import copy_improved
from ..state import decode, encoding_of, forget_sign
from ..stopping import LoopStopping, choose, validate
from .variants import RpropVariant

Array: TypeAlias = NDArray[Any]


def _where(condition: Any, value: Any, other: Any) -> Any:
    return np.where(condition, value, other)


class Stopping(LoopStopping):
    """Stopping rules and the best weights for a loop that calls ``optimizer.step`` itself.

    ``stop(loss, grads)`` comes before the step, with the loss and gradients at the current weights, and is true where
    the loop should end; ``stop.reason`` names the reason. The step then needs no loss of its own. Where
    ``optimizer.step(grads, loss)`` comes first, it makes the test, and ``stop`` after it answers. The step copies the
    best weights where it leaves them: change weights after it, not between ``stop`` and ``step``.

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
        super().__init__(rules, optimizer.maximize, rows, where, np, "pass optimizer.step(grads, loss)")
        self._optimizer = optimizer
        optimizer._stopping = weakref.ref(self)

    def __call__(self, loss: ArrayLike, grads: Array | Sequence[Array]) -> bool:
        """Return whether the loop should end.

        Args:
            loss: E at the current weights, as for ``step``.
            grads: the gradients there, as for ``step``.
        """
        optimizer = self._optimizer
        value = optimizer._loss_value(loss)
        stopped = self._stop(value, optimizer._validate_to_read(optimizer._gradients(grads)))
        if self._tested:
            optimizer._next_loss = value
        return stopped

    def _run_test(self, loss: Any, *rest: Any) -> None:
        if self._rows and isinstance(self._code, int):
            self._code = np.full(len(loss), self._code)
        with np.errstate(invalid="ignore"):  # rows without a finite loss have an infinite best one
            super()._run_test(loss, *rest)

    def _params(self) -> list[Array]:
        return self._optimizer._params

    def _copy(self, best: Array, param: Array, chosen: Any) -> None:
        copy_improved(best, param, np.asarray(chosen))

    def _clone(self, param: Array) -> Array:
        return np.array(param, order="K")

    def _to_param(self, value: Any, param: Array) -> Array:
        best = np.empty_like(param, subok=False)
        best[...] = value
        return best

    def _columns(self) -> dict[str, Any]:
        """Return the options of a step that copies a pending best point in its pass."""
        if self._pending is None:
            return {}
        return {"bests": self._best, "improved": np.asarray(self._pending, bool).tobytes()}

    def _weights(self, gradients: Any = None) -> Iterator[tuple[Array, Array | None, Array, float, Constraints]]:
        optimizer = self._optimizer
        params, step_min = optimizer._params, optimizer.step_sizes[0]
        columns = (
            params,
            gradients or [None] * len(params),
            optimizer._states,
            optimizer._constraints or [None] * len(params),
        )
        for param, grad, (state,), limits in zip(*columns, strict=True):
            smallest = max(step_min, encoding_of(state.dtype).min_step)
            yield param, grad, decode(state)[1], smallest, limits or Constraints()

    def _native_max_grad(self, gradients: Sequence[Array]) -> Any:
        optimizer = self._optimizer
        measure = getattr(optimizer._engine_step, "largest_gradient", None)
        if measure is None:
            return None
        rows = len(gradients[0]) if self._rows else 0
        options = {"maximize": optimizer.maximize, "constraints": optimizer._constraints, "n_threads": 0}
        largest = measure(optimizer._params, gradients, optimizer._states, optimizer._hyper, rows, **options)
        return None if largest is None else np.array(largest) if self._rows else largest[0]

    def _gather(self, values: list[Any], largest: bool) -> Any:
        result = functools.reduce(np.maximum if largest else np.minimum, values or [0.0])
        return result if self._rows else float(result)

    def restore_best(self) -> None:
        """Set the weights to those of the best loss, forget all signs, and make that loss E_prev.

        Raises:
            RuntimeError: there was no finite loss yet.
        """
        optimizer = self._optimizer
        for param, weights in self._best_for_restore():
            param[...] = weights
        for (state,) in optimizer._states:
            state[...] = forget_sign(state)
        if optimizer._variant.needs_loss:
            optimizer._previous = np.array(self._best_loss) if self._rows else float(self._best_loss)
        optimizer._next_loss = None
        self._tested = False
