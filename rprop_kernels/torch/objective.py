"""The functions that minimize evaluates: called with leaves of their own, counted, their results validated."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..fit_arguments import ROWS_REMEDY, takes_rows
from ..hyperparameters import is_number
from .structure import Structure


def _describe(value: Any) -> str:
    return f"a tensor of {value.dtype} and shape {tuple(value.shape)}" if isinstance(value, Tensor) else repr(value)


class Objective:
    """Loss and gradient of one problem, or of the rows of x.

    Args:
        structure: the form of x0.
        fun: ``fun(x, *args)`` returns the loss, with ``jac`` ``(loss, gradient)``; of a Module ``fun(*args)``.
        jac: whether fun returns the gradient, too; otherwise autograd computes it.
        args: a tuple.
        in_dims: for each of args the dimension that counts the problems, None for one that all share.
        chunk_size: the largest number of rows in a call of fun, None for all.

    Attributes:
        evaluations: of loss and gradient together.
        calls: of fun.
    """

    def __init__(
        self,
        structure: Structure,
        fun: Callable[..., Any],
        jac: bool,
        args: tuple[Any, ...],
        in_dims: tuple[int | None, ...],
        chunk_size: int | None,
    ) -> None:
        self.structure, self.fun, self.jac, self.args = structure, fun, jac, args
        self.in_dims, self.chunk_size = in_dims, chunk_size
        self.evaluations = self.calls = 0
        self.total: int | None = None  # the number of rows in the first evaluation
        self._takes_rows = takes_rows(fun)

    def __call__(self, tensors: list[Tensor], rows: Tensor | None = None) -> tuple[Any, list[Tensor]]:
        """Evaluate at tensors; of a Module at its parameters, which hold their values.

        Returns:
            ``(loss, gradients)``: a float, or a tensor of shape (rows,); gradients of the shapes and dtypes of
            ``tensors``.
        """
        self.evaluations += 1
        if rows is None:
            self.calls += 1
            loss, gradients = self._evaluate(tensors, self.args, {})
            return float(loss), gradients
        self.total = len(rows) if self.total is None else self.total
        size = self.chunk_size or len(rows)
        parts = []
        for start in range(0, len(rows), size):
            part = slice(start, start + size)
            self.calls += 1
            parts.append(self._evaluate_rows([t[part] for t in tensors], rows[part]))
        if len(parts) == 1:
            return parts[0]
        columns = zip(*(gradients for _, gradients in parts), strict=True)
        return torch.cat([losses for losses, _ in parts]), [torch.cat(column) for column in columns]

    def _evaluate_rows(self, tensors: list[Tensor], rows: Tensor) -> tuple[Tensor, list[Tensor]]:
        args = tuple(
            arg if dim is None else torch.as_tensor(arg).index_select(dim, rows.to(torch.as_tensor(arg).device))
            for arg, dim in zip(self.args, self.in_dims, strict=True)
        )
        remedy = "" if len(rows) == self.total else f"; {ROWS_REMEDY}"
        try:
            loss, gradients = self._evaluate(tensors, args, {"rows": rows} if self._takes_rows else {}, remedy)
        except Exception as error:
            if remedy and remedy not in str(error):
                error.add_note(ROWS_REMEDY)
            raise
        return loss, gradients

    def _evaluate(
        self, tensors: list[Tensor], args: tuple[Any, ...], keywords: dict[str, Any], remedy: str | None = None
    ) -> tuple[Any, list[Tensor]]:
        """Evaluate fun; ``remedy`` is None for one problem."""
        module = self.structure.module
        if self.jac:
            result = self.fun(self.structure.join([t.clone() for t in tensors]), *args, **keywords)
            if not isinstance(result, (tuple, list)) or len(result) != 2:
                raise TypeError(f"fun returned {_describe(result)}: with jac=True return (loss, gradient)")
            loss, gradient = result
            loss = self._loss(loss, tensors, remedy).detach()
            given = self.structure.split(gradient, "the gradient")
            return loss, [self._gradient(g, t, i) for i, (g, t) in enumerate(zip(given, tensors, strict=True))]
        with torch.enable_grad():
            if module is not None:
                leaves = tensors
                result = self.fun(*args, **keywords)
            else:
                leaves = [t.detach().clone().requires_grad_() for t in tensors]
                result = self.fun(self.structure.join(leaves), *args, **keywords)
            loss = self._loss(result, tensors, remedy)
            found: Any = (None,) * len(leaves)
            if loss.requires_grad:
                found = torch.autograd.grad(loss.sum(), leaves, allow_unused=True)
        if all(g is None for g in found):
            raise ValueError(
                "the loss does not depend on x, so that it has no gradient: compute it from x by torch "
                "operations, without "
                "detach(), .item() or NumPy; or return (loss, gradient) with jac=True"
            )
        return loss.detach(), [
            torch.zeros_like(t) if g is None else g.detach() for g, t in zip(found, tensors, strict=True)
        ]

    def _loss(self, value: Any, tensors: list[Tensor], remedy: str | None) -> Tensor:
        """Return the loss as a tensor of shape () or, for rows, (rows,)."""
        if isinstance(value, Tensor):
            if value.is_complex() or value.dtype == torch.bool:
                raise TypeError(f"fun returned {_describe(value)} as the loss: return real numbers")
            loss = value
        elif not is_number(value) or getattr(value, "shape", ()) != ():
            hint = "" if self.jac else "; for (loss, gradient) pass jac=True"
            raise TypeError(f"fun returned {_describe(value)} as the loss: return a tensor{hint}")
        else:
            try:
                loss = torch.tensor(float(value), dtype=torch.float64)
            except (TypeError, ValueError):
                hint = "" if self.jac else "; for (loss, gradient) pass jac=True"
                raise TypeError(f"fun returned {_describe(value)} as the loss: return a tensor{hint}") from None
        if remedy is None:
            if loss.numel() != 1:
                raise ValueError(
                    f"fun returned {_describe(value)} as the loss: return one number, such as loss.mean(); for "
                    "one loss for "
                    "each row of x pass batched=True"
                )
            return loss.reshape(())
        if tuple(loss.shape) != (len(tensors[0]),):
            raise ValueError(
                f"fun returned {_describe(value)} as the losses: return {len(tensors[0])} real numbers, one for "
                "each row of "
                f"x{remedy}"
            )
        return loss

    def _gradient(self, value: Any, x: Tensor, index: int) -> Tensor:
        name = f"the gradient of {self.structure.place(index)}"
        if not isinstance(value, Tensor) or value.is_complex():
            raise TypeError(f"{name} is {_describe(value)}: return a real tensor")
        if value.shape != x.shape:
            raise ValueError(f"{name} has shape {tuple(value.shape)}, not {tuple(x.shape)}: return one of its shape")
        return value.detach().to(x)
