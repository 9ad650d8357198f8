"""The ask-and-tell interface: the user runs the loop and evaluates the points."""

import math
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..kernels import numpy_
from ..loss import NONFINITE
from .validation import as_array, float_array
from .variants import class_for_method


class AskTell:
    """A search whose loop the user runs: `ask` for a point, evaluate it anywhere, `tell` its loss and gradient.

    With ``batched=True`` every row of x0 is a search of its own, and a loss has shape (B,): B points to evaluate at
    once, or in parallel. With any rule a loss that is NaN or infinite takes the last moves back
    (of its row) and shrinks their steps.

    Args:
        x0: the first point, an array of any shape; copied. float32 stays, everything else becomes float64.
        method: ``"rprop-"``, ``"rprop+"``, ``"irprop-"`` or ``"irprop+"``.
        **options: of the classes: ``lr``, ``etas``, ``step_sizes``, ``maximize``, ``batched``, ``bounds``,
            ``frozen``, ``backend``.

    Attributes:
        optimizer: the optimizer that performs the steps, an instance of the method's class.
        best_x: the point with the best finite loss; a copy (x0 before the first). Row by row where batched.
        best_loss: that loss, NaN before the first; a float, where batched shape (B,).
        improved: whether the last point was the best so far; a bool, where batched shape (B,).

    Examples:
        >>> from rprop_kernels.numpy import AskTell
        >>> search = AskTell([5.0, -3.0], bounds=(-10, 10), lr=0.1)
        >>> for _ in range(200):
        ...     x = search.ask()
        ...     search.tell(x @ x, 2 * x)
        >>> bool(search.best_loss < 1e-6)
        True
    """

    def __init__(self, x0: ArrayLike, method: str = "irprop+", **options: Any) -> None:
        start = as_array("x0", x0)
        if start.dtype != np.float32:
            start = float_array("x0", start)
        self._x = np.array(start, dtype=start.dtype.newbyteorder("="))
        try:
            self.optimizer = class_for_method(method)(self._x, **options)
        except (TypeError, ValueError) as error:
            raise type(error)(str(error).replace("params[0]", "x0")) from None
        self._pending = False  # a point is out for evaluation
        self.best_x = self._x.copy()
        self.best_loss: float | NDArray[Any] = math.nan
        self.improved: bool | NDArray[Any] = False
        if self.optimizer._batched:
            self.best_loss, self.improved = np.full(start.shape[:1], math.nan), np.zeros(start.shape[:1], bool)

    def ask(self) -> NDArray[Any]:
        """Return the point to evaluate, as a copy that belongs to the caller; the same one until `tell`."""
        self._pending = True
        return self._x.copy()

    def tell(self, loss: ArrayLike, grad: ArrayLike) -> None:
        """Take the loss and gradient at the point that `ask` returned, and go on to the next point.

        Args:
            loss: a number; with ``batched=True`` shape (B,).
            grad: of x0's shape; only read.

        Raises:
            RuntimeError: there was no `ask` since the last `tell`.
            TypeError, ValueError: not a number, wrong shape; nothing was changed.
        """
        if not self._pending:
            raise RuntimeError("tell() without ask(): ask for the point, evaluate it, then tell")
        x = self._x
        loss = self.optimizer._loss_value(loss)
        with np.errstate(over="ignore"):
            gradient = float_array("grad", grad).astype(x.dtype, copy=False)
        if gradient.shape != x.shape:
            raise ValueError(f"grad has shape {gradient.shape}, x0 has {x.shape}: pass a gradient of that shape")
        if np.may_share_memory(gradient, x):
            gradient = gradient.copy()
        self.optimizer._validate((gradient,))  # from here on nothing fails
        if isinstance(loss, float):
            self._tell_one(loss, gradient)
        else:
            self._tell_rows(loss, gradient)
        self._pending = False

    def _tell_one(self, loss: float, gradient: NDArray[Any]) -> None:
        optimizer, best, x = self.optimizer, self.best_loss, self._x.copy()
        if math.isfinite(loss) or math.isnan(best) or optimizer._variant.needs_loss:
            optimizer.step(gradient, loss)
        else:
            optimizer._step("irprop+", (gradient,), NONFINITE)
        self.improved = math.isfinite(loss) and not (loss <= best if optimizer.maximize else loss >= best)
        if self.improved:  # also where best is NaN
            self.best_loss = loss
            np.copyto(self.best_x, x)

    def _tell_rows(self, losses: NDArray[Any], gradient: NDArray[Any]) -> None:
        optimizer, (state,) = self.optimizer, self.optimizer._states[0]
        best, x = self.best_loss, self._x.copy()
        finite = np.isfinite(losses)
        nonfinite = np.isfinite(best) & ~finite
        if nonfinite.any() and not optimizer._variant.needs_loss:
            # These rows take their moves back. A zero gradient then leaves them where they are.
            rows, states = self._x[nonfinite], state[nonfinite]
            numpy_.step("irprop+", [rows], [rows], [(states,)], optimizer._hyper, outcome=NONFINITE)
            self._x[nonfinite], state[nonfinite] = rows, states
            gradient = np.where(_expand_rows(nonfinite, gradient), 0, gradient)
        optimizer.step(gradient, losses)
        improved = finite & ~(losses <= best if optimizer.maximize else losses >= best)
        self.improved, self.best_loss = improved, np.where(improved, losses, best)
        np.copyto(self.best_x, x, where=_expand_rows(improved, x))


def _expand_rows(rows: NDArray[Any], x: NDArray[Any]) -> NDArray[Any]:
    """Return a value for each row of x in a shape that broadcasts to x."""
    return rows.reshape(rows.shape + (1,) * (x.ndim - rows.ndim))
