"""Optimization in which the user's program holds the loop: ask for a point, tell its loss and gradient."""

import math
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..loss import NONFINITE, NOT_WORSE
from .variants import class_for_method, float_array

Array: TypeAlias = NDArray[Any]


class AskTell:
    """Optimization by a loop of one's own: ask for a point, evaluate it anywhere, tell its loss and gradient.

    ::

        search = AskTell(x0, bounds=(0, 1))
        while not good_enough(search.best_loss):
            x = search.ask()
            search.tell(*loss_and_gradient(x))
        search.best_x

    A loss of shape (B,) makes every row of an x0 whose first dimension is B a search of its own: B points to
    evaluate at once, or in parallel. With any rule a loss that is NaN or infinite takes the last moves back
    (of its row) and shrinks their steps.

    Args:
        x0: the first point, an array of any shape; copied. float32 stays, everything else becomes float64.
        method: ``"rprop-"``, ``"rprop+"``, ``"irprop-"`` or ``"irprop+"``.
        **options: of the classes: ``lr``, ``etas``, ``step_sizes``, ``maximize``, ``bounds``, ``frozen``,
            ``backend``.

    Attributes:
        optimizer: the instance of the class that does the steps.
        best_x: where the best finite loss was found; a copy (x0 before the first). Row by row for losses of
            rows.
        best_loss: that loss, NaN before the first; a float, or shape (B,).
        improved: whether the last evaluated point was the best so far; a bool, or shape (B,).
    """

    def __init__(self, x0: ArrayLike, method: str = "irprop+", **options: Any) -> None:
        start = np.asarray(x0)
        if start.dtype != np.float32:
            start = float_array("x0", start)
        self._x = np.array(start, dtype=start.dtype.newbyteorder("="))
        try:
            self.optimizer = class_for_method(method)(self._x, **options)
        except ValueError as error:
            raise ValueError(str(error).replace("params[0]", "x0")) from None
        self._asked = False
        self._shape: tuple[int, ...] | None = None  # of the losses
        self.best_x = self._x.copy()
        self.best_loss: float | Array = math.nan
        self.improved: bool | Array = False

    def ask(self) -> Array:
        """Return the point to evaluate, a copy that the caller may keep; the same one until `tell`."""
        self._asked = True
        return self._x.copy()

    def tell(self, loss: ArrayLike, grad: ArrayLike) -> None:
        """Take loss and gradient at the point that `ask` returned; the next `ask` returns the next one.

        Args:
            loss: a number, or shape (B,) as in :meth:`IRpropPlus.step`; only the same kind on every call.
            grad: of x0's shape; only read.

        Raises:
            RuntimeError: `ask` was not called since the last `tell`.
            TypeError, ValueError: not a number, wrong shape; nothing was changed.
        """
        if not self._asked:
            raise RuntimeError("tell() without ask(): ask for the point, evaluate it, then tell")
        x = self._x
        loss = self.optimizer._loss_value(loss)
        shape = getattr(loss, "shape", ())
        if self._shape not in (None, shape):
            raise ValueError(
                f"loss has shape {shape}, that of the step before {self._shape}: pass the same "
                "kind of loss on every step"
            )
        with np.errstate(over="ignore"):
            gradient = float_array("grad", grad).astype(x.dtype, copy=False)
        if gradient.shape != x.shape:
            raise ValueError(f"grad has shape {gradient.shape}, x0 has {x.shape}: pass a gradient of that shape")
        if np.may_share_memory(gradient, x):
            gradient = gradient.copy()
        self.optimizer._validate((gradient,))  # a point that passes is taken to the end
        if isinstance(loss, float):
            self._step_one(loss, gradient)
        else:
            self._step_rows(loss, gradient)
        self._shape = shape
        self._asked = False

    def _step_one(self, loss: float, gradient: Array) -> None:
        optimizer, best, x = self.optimizer, self.best_loss, self._x.copy()
        if math.isfinite(loss) or math.isnan(best) or optimizer._variant.needs_loss:
            optimizer.step(gradient, loss)
        else:
            optimizer._step("irprop+", (gradient,), NONFINITE)
        self.improved = math.isfinite(loss) and not (loss <= best if optimizer.maximize else loss >= best)
        if self.improved:  # also where best is NaN
            self.best_loss = loss
            np.copyto(self.best_x, x)

    def _step_rows(self, losses: Array, gradient: Array) -> None:
        optimizer = self.optimizer
        best, x = np.broadcast_to(self.best_loss, losses.shape), self._x.copy()
        finite = np.isfinite(losses)
        nonfinite = np.isfinite(best) & ~finite
        if nonfinite.any() and not optimizer._variant.needs_loss:
            # Those rows take their moves back by the rule of iRprop+, the others do not move: their gradients are 0 and
            # keep their signs out of the way, since a step along 0 forgets them. So each kind of row has a step of its
            # own, and the state of the other kind is restored.
            (state,) = optimizer._states[0]
            rows = _expand_rows(nonfinite, x)
            before = state.copy()
            outcome = np.where(nonfinite, NONFINITE, NOT_WORSE).astype(np.uint8)
            optimizer._step("irprop+", (np.where(rows, gradient, 0),), outcome)
            np.copyto(state, before, where=~rows)
            gradient = np.where(rows, 0, gradient)
        optimizer.step(gradient, losses)
        self.improved = finite & ~(losses <= best if optimizer.maximize else losses >= best)
        self.best_loss = np.where(self.improved, losses, best)
        np.copyto(self.best_x, x, where=_expand_rows(self.improved, x))


def _expand_rows(rows: Array, x: Array) -> Array:
    """Reshape one value for each row of x so that it broadcasts to x."""
    return rows.reshape(rows.shape + (1,) * (x.ndim - rows.ndim))
