"""The functions that are minimised: called with copies, counted, their results validated."""

import math
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ..fit_arguments import ROWS_REMEDY, takes_rows

Array: TypeAlias = NDArray[Any]


def describe(value: Any) -> str:
    """Return a value of the user's as it is shown in an error."""
    if isinstance(value, np.ndarray):
        return f"an array of {value.dtype} and shape {value.shape}"
    return repr(value)


def to_pair(result: Any, remedy: str) -> tuple[Any, Any]:
    """Return the two parts of a pair ``(loss, gradient)``.

    Raises:
        TypeError: it is something else.
    """
    if type(result) is tuple and len(result) == 2:
        return result
    try:
        if isinstance(result, (str, bytes, dict, np.ndarray)) and not (
            isinstance(result, np.ndarray) and result.dtype == object
        ):
            raise TypeError
        loss, gradient = result
    except (TypeError, ValueError):
        raise TypeError(f"fun returned {describe(result)}: {remedy}") from None
    return loss, gradient


def to_array(value: Any) -> Array:
    """Return a value as an array, of dtype object where NumPy can convert it to no other."""
    try:
        return np.asarray(value)
    except ValueError:  # nested sequences of different lengths
        return np.array(None)


def to_loss(value: Any, hint: str = "") -> float:
    """Return the loss of one problem as a float.

    Raises:
        TypeError: it is not one real number; ``hint`` is added to the message.
    """
    if type(value) is float:
        return value
    array = to_array(value)
    if array.dtype.kind not in "fiu" or array.size != 1:
        raise TypeError(f"fun returned {describe(value)} as the loss: return one real number{hint}")
    return float(array.reshape(()))


def to_gradient(value: Any, shape: tuple[int, ...], dtype: Any) -> Array:
    """Return a gradient as an array of x's shape and dtype; not a copy where it is one already.

    Raises:
        TypeError, ValueError: it is of another kind or shape.
    """
    if type(value) is np.ndarray and value.dtype == dtype and value.shape == shape:
        return value
    array = to_array(value)
    if array.dtype.kind not in "fiu":
        raise TypeError(f"the gradient is {describe(value)}: return an array of real numbers")
    if array.shape != shape and not array.size == math.prod(shape) == 1:
        raise ValueError(f"the gradient has shape {array.shape}, x has shape {shape}: return one of x's shape")
    if array.dtype != dtype:
        with np.errstate(over="ignore"):
            array = array.astype(dtype)
    return array.reshape(shape)


class Objective:
    """Loss and gradient of one problem, by the functions of the user: validated, counted, called with copies.

    Args:
        fun: ``fun(x, *args)`` returns the loss, with ``jac=True`` ``(loss, gradient)``.
        jac: True, or a function ``jac(x, *args)`` that returns the gradient.
        args: a tuple.

    Attributes:
        evaluations: of loss and gradient together.
        calls: of fun.
    """

    def __init__(self, fun: Callable[..., Any], jac: Any, args: tuple[Any, ...]) -> None:
        self.fun, self.jac, self.args = fun, jac, args
        self.evaluations = 0
        self.calls = 0

    def __call__(self, x: Array) -> tuple[float, Array]:
        """Evaluate loss and gradient at x."""
        self.evaluations += 1
        self.calls += 1
        if self.jac is True:
            loss, gradient = to_pair(self.fun(x.copy(), *self.args), "with jac=True return (loss, gradient)")
            return to_loss(loss), to_gradient(gradient, x.shape, x.dtype)
        value = to_loss(self.fun(x.copy(), *self.args), ", and (loss, gradient) only with jac=True")
        return value, to_gradient(self.jac(x.copy(), *self.args), x.shape, x.dtype)


class RowsObjective:
    """Losses and gradients of the rows of x.

    Args:
        fun: ``fun(x, *args)`` for x of shape (rows, ...) returns losses (rows,), with ``jac=True`` ``(losses,
            gradients)``. It may take the keyword ``rows``, the numbers of the rows.
        jac: True, or a function that returns the gradients.
        args: a tuple.
        in_dims: for each of args the dimension that counts the problems, None for one that all share.
        problems: the number of problems; row r belongs to problem ``r % problems``.
        chunk_size: the largest number of rows in a call of fun, None for all.
    """

    def __init__(
        self,
        fun: Callable[..., Any],
        jac: Any,
        args: tuple[Any, ...],
        in_dims: tuple[int | None, ...],
        problems: int,
        chunk_size: int | None,
    ) -> None:
        self.fun, self.jac, self.args, self.in_dims = fun, jac, args, in_dims
        self.problems, self.chunk_size = problems, chunk_size
        self.evaluations = 0
        self.calls = 0
        self.total: int | None = None  # the number of rows in the first evaluation
        self._takes_rows = [takes_rows(function) for function in (fun, jac)]
        self._args_rows: Array | None = None
        self._args_of_rows: tuple[Array, tuple[Any, ...]] = np.empty(0), ()

    def __call__(self, x: Array, rows: Array) -> tuple[Array, Array]:
        """Evaluate losses (rows,) and gradients of x's shape, at the rows of the given numbers."""
        self.evaluations += 1
        self.total = len(x) if self.total is None else self.total
        size = self.chunk_size or len(x)
        losses, gradients = np.empty(len(x)), np.empty_like(x)
        for start in range(0, len(x), size):
            part = slice(start, start + size)
            numbers = rows if size >= len(x) else rows[part]
            losses[part], gradients[part] = self._evaluate(x[part], numbers)
        return losses, gradients

    def _evaluate(self, x: Array, rows: Array) -> tuple[Array, Array]:
        self.calls += 1
        if rows is not self._args_rows:  # they stay the same from call to call, until some leave
            numbers = rows % self.problems
            self._args_of_rows = (
                numbers,
                tuple(
                    arg if dim is None else np.take(arg, numbers, axis=dim)
                    for arg, dim in zip(self.args, self.in_dims, strict=True)
                ),
            )
            self._args_rows = rows
        rows, args = self._args_of_rows
        keywords: list[dict[str, Any]] = [{"rows": rows} if takes else {} for takes in self._takes_rows]
        remedy = "" if len(x) == self.total else f"; {ROWS_REMEDY}"
        try:
            result = self.fun(x.copy(), *args, **keywords[0])
            gradients = None if self.jac is True else self.jac(x.copy(), *args, **keywords[1])
        except Exception as error:
            if remedy:
                error.add_note(ROWS_REMEDY)
            raise
        if self.jac is True:
            result, gradients = to_pair(result, "return (losses, gradients), of shapes (B,) and (B, ...)")
        losses = to_array(result)
        if losses.dtype.kind not in "fiu" or losses.shape != x.shape[:1]:
            kind: type[Exception] = TypeError if losses.dtype.kind not in "fiu" else ValueError
            raise kind(
                f"fun returned {describe(result)} as the losses: return {len(x)} real numbers, one for each row of x"
                f"{remedy}"
            )
        try:
            return losses, to_gradient(gradients, x.shape, x.dtype)
        except ValueError as error:
            raise ValueError(f"{error}{remedy}") from None


class LoopObjective(RowsObjective):
    """Losses and gradients of the rows of x by a function of one problem, called for one row after the other."""

    def _evaluate(self, x: Array, rows: Array) -> tuple[Array, Array]:
        one = Objective(self.fun, self.jac, self.args)
        results = [one(point) for point in x]
        self.calls += one.calls
        return np.array([loss for loss, _ in results]), np.array([gradient for _, gradient in results])
