"""The functions that minimize evaluates: called with leaves of their own, counted, their results validated."""

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

import torch
from torch import Tensor

from ..fit_arguments import ROWS_REMEDY, takes_rows
from ..hyperparameters import is_number
from .structure import Structure

_NO_GRADIENT: Final = (
    "the loss does not depend on x, so that it has no gradient: compute it from x by torch operations, without "
    "detach(), .item() or NumPy; or return (loss, gradient) with jac=True"
)


def _describe(value: Any) -> str:
    return f"a tensor of {value.dtype} and shape {tuple(value.shape)}" if isinstance(value, Tensor) else repr(value)


def _differentiates_once(value: Tensor) -> bool:
    """Check whether a value was computed by a function that is once_differentiable: autograd may pass it over."""
    nodes, seen = [value.grad_fn], set()
    while nodes:
        node = nodes.pop()
        if node is None or node in seen:
            continue
        if node.name() == "torch::autograd::Error":
            return True
        seen.add(node)
        nodes += [following for following, _ in node.next_functions]
    return False


@torch.enable_grad()
def gradients_of(loss: Tensor, leaves: list[Tensor], create_graph: bool = False) -> Sequence[Tensor | None]:
    """Return the gradients of the summed losses, None for leaves on which they do not depend."""
    if not loss.requires_grad:
        return (None,) * len(leaves)
    try:
        return torch.autograd.grad(loss.sum(), leaves, create_graph=create_graph, allow_unused=True)
    except RuntimeError as error:
        if any(words in str(error) for words in ("through the graph a second time", "by an inplace operation")):
            error.add_note(
                "Does fun return a loss that shares a graph with an earlier call? Compute everything that depends on x "
                "anew in every call of fun, without a cache."
            )
        raise


@torch.enable_grad()
def second_derivatives(loss: Tensor, leaves: list[Tensor], rows: int) -> tuple[list[Tensor], Tensor]:
    """Return gradients and Hessians: a gradient with a graph, then a backward pass for each of its n columns.

    Args:
        loss: shape () or (rows,), each of its elements a function of its row alone.
        leaves: of which it was computed, with ``rows`` rows, or for one problem of any shapes.
        rows: the number of problems.

    Returns:
        gradients of the shapes of ``leaves``, and Hessians of shape (rows, n, n), symmetric.
    """
    sizes = [leaf.numel() // rows for leaf in leaves]
    dtype, device = functools.reduce(torch.promote_types, (leaf.dtype for leaf in leaves)), leaves[0].device
    hessian = torch.zeros(sum(sizes), rows, sum(sizes), dtype=dtype, device=device)
    found = gradients_of(loss, leaves, create_graph=True)
    first = 0
    for grad, size in zip(found, sizes, strict=True):
        if grad is not None and grad.requires_grad:
            columns = grad.reshape(rows, size)
            for j in range(size):
                second = torch.autograd.grad(columns[:, j].sum(), leaves, retain_graph=True, allow_unused=True)
                start = 0
                for part, width in zip(second, sizes, strict=True):
                    if part is not None:
                        hessian[first + j, :, start : start + width] = part.detach().reshape(rows, width)
                    start += width
        first += size
    hessian = hessian.transpose(0, 1)
    gradients = [torch.zeros_like(x) if g is None else g.detach() for g, x in zip(found, leaves, strict=True)]
    return gradients, (hessian + hessian.mT) / 2


class Objective:
    """Loss and gradient of one problem, or of the rows of x.

    Args:
        structure: the form of x0.
        fun: ``fun(x, *args)`` returns the loss, with ``jac`` ``(loss, gradient)``; of a Module ``fun(*args)``.
        jac: whether fun returns the gradient, too; otherwise autograd computes it.
        args: a tuple.
        in_dims: for each of args the dimension that counts the problems, None for one that all share.
        chunk_size: the largest number of rows in a call of fun, None for all.
        problems: the number of problems where there are several rows of each; row r belongs to ``r % problems``.

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
        problems: int | None = None,
    ) -> None:
        self.structure, self.fun, self.jac, self.args = structure, fun, jac, args
        self.in_dims, self.chunk_size, self.problems = in_dims, chunk_size, problems
        self.evaluations = self.calls = 0
        self.total: int | None = None  # the number of rows in the first evaluation
        self._takes_rows = takes_rows(fun)
        self._selected: tuple[Any, Any, tuple[Any, ...]] = (None, None, ())  # rows, their numbers, and their args

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
        parts = [self._evaluate_rows(*part) for part in self._chunks(tensors, rows)]
        if len(parts) == 1:
            return parts[0]
        columns = zip(*(gradients for _, gradients in parts), strict=True)
        return torch.cat([losses for losses, _ in parts]), [torch.cat(column) for column in columns]

    def second_order(self, tensors: list[Tensor], rows: Tensor | None = None) -> tuple[Tensor, list[Tensor], Tensor]:
        """Evaluate losses, gradients and Hessians by n + 1 backward passes, n the number of weights of a problem.

        Returns:
            ``(losses, gradients, hessians)``: of shapes (B,), of ``tensors``, and (B, n, n). One problem, ``rows``
            None, has B = 1.
        """
        self.evaluations += 1
        if rows is None:
            self.calls += 1
            loss, leaves = self._loss_of_leaves(tensors, self.args, {}, None)
            gradients, hessian = second_derivatives(loss, leaves, 1)
            return loss.detach().reshape(1), gradients, hessian
        parts = []
        for part, numbers in self._chunks(tensors, rows):
            loss, leaves = self._call_with_rows(self._loss_of_leaves, part, numbers)
            parts.append((loss.detach(), *second_derivatives(loss, leaves, len(numbers))))
        if len(parts) == 1:
            return parts[0]
        losses, columns, hessians = zip(*parts, strict=True)
        return torch.cat(losses), [torch.cat(column) for column in zip(*columns, strict=True)], torch.cat(hessians)

    @torch.enable_grad()
    def check_second_order(self, tensors: list[Tensor], rows: Tensor | None = None) -> None:
        """Evaluate one Hessian-vector product, of the first chunk; it counts in ``calls`` alone.

        Raises:
            ValueError: fun has no second derivatives.
        """
        if rows is None:
            self.calls += 1
            loss, leaves = self._loss_of_leaves(tensors, self.args, {}, None)
        else:
            part, numbers = next(self._chunks(tensors, rows))
            loss, leaves = self._call_with_rows(self._loss_of_leaves, part, numbers)
        gradients = [g for g in gradients_of(loss, leaves, create_graph=True) if g is not None]
        if not gradients:
            raise ValueError(_NO_GRADIENT)
        slopes = [g.sum() for g in gradients if g.requires_grad]
        cause = "its gradient does not depend on x, or has no derivative"
        try:
            if slopes:
                torch.autograd.grad(slopes, leaves, retain_graph=True, allow_unused=True)
            if slopes and not any(_differentiates_once(slope) for slope in slopes):
                return
        except RuntimeError as error:
            cause = str(error)
        raise ValueError(
            f"finish='newton' needs second derivatives of fun ({cause}): compute the loss by operations that can be "
            "differentiated twice, or leave finish out"
        )

    def _chunks(self, tensors: list[Tensor], rows: Tensor) -> Iterator[tuple[list[Tensor], Tensor]]:
        """Return the tensors and numbers of the rows of each call of fun."""
        self.total = len(rows) if self.total is None else self.total
        size = self.chunk_size or len(rows)
        for start in range(0, len(rows), size):
            self.calls += 1
            part = slice(start, start + size)
            whole = size >= len(rows)  # then the same object in every call
            yield tensors if whole else [t[part] for t in tensors], rows if whole else rows[part]

    def _evaluate_rows(self, tensors: list[Tensor], rows: Tensor) -> tuple[Tensor, list[Tensor]]:
        found: tuple[Tensor, list[Tensor]] = self._call_with_rows(self._evaluate, tensors, rows)
        return found

    def _call_with_rows(self, evaluate: Callable[..., Any], tensors: list[Tensor], rows: Tensor) -> Any:
        if rows is not self._selected[0]:
            numbers = rows if self.problems is None else rows % self.problems
            self._selected = rows, numbers, self._args_of(numbers)
        _, numbers, args = self._selected
        remedy = "" if len(rows) == self.total else f"; {ROWS_REMEDY}"
        try:
            return evaluate(tensors, args, {"rows": numbers} if self._takes_rows else {}, remedy)
        except Exception as error:
            if remedy and remedy not in str(error):
                error.add_note(ROWS_REMEDY)
            raise

    def _args_of(self, numbers: Tensor) -> tuple[Any, ...]:
        return tuple(
            arg if dim is None else torch.as_tensor(arg).index_select(dim, numbers.to(torch.as_tensor(arg).device))
            for arg, dim in zip(self.args, self.in_dims, strict=True)
        )

    def _evaluate(
        self, tensors: list[Tensor], args: tuple[Any, ...], keywords: dict[str, Any], remedy: str | None = None
    ) -> tuple[Any, list[Tensor]]:
        """Evaluate fun; ``remedy`` is None for one problem."""
        if self.jac:
            result = self.fun(self.structure.join([t.clone() for t in tensors]), *args, **keywords)
            if not isinstance(result, (tuple, list)) or len(result) != 2:
                raise TypeError(f"fun returned {_describe(result)}: with jac=True return (loss, gradient)")
            loss, gradient = result
            loss = self._loss(loss, tensors, remedy).detach()
            given = self.structure.split(gradient, "the gradient")
            return loss, [self._gradient(g, t, i) for i, (g, t) in enumerate(zip(given, tensors, strict=True))]
        loss, leaves = self._loss_of_leaves(tensors, args, keywords, remedy)
        found = gradients_of(loss, leaves)
        if all(g is None for g in found):
            raise ValueError(_NO_GRADIENT)
        return loss.detach(), [
            torch.zeros_like(t) if g is None else g.detach() for g, t in zip(found, tensors, strict=True)
        ]

    @torch.enable_grad()
    def _loss_of_leaves(
        self, tensors: list[Tensor], args: tuple[Any, ...], keywords: dict[str, Any], remedy: str | None
    ) -> tuple[Tensor, list[Tensor]]:
        """Evaluate fun with leaves of the values of ``tensors``; return loss and leaves."""
        if self.structure.module is not None:
            return self._loss(self.fun(*args, **keywords), tensors, remedy), tensors
        leaves = [t.detach().clone().requires_grad_() for t in tensors]
        return self._loss(self.fun(self.structure.join(leaves), *args, **keywords), tensors, remedy), leaves

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


class StartsObjective(Objective):
    """Losses and gradients of the rows of x by a function of one problem.

    torch.func.vmap runs fun on all rows at once; where it refuses fun, or fun returns gradients, a loop does.
    """

    def _call_with_rows(self, evaluate: Callable[..., Any], tensors: list[Tensor], rows: Tensor) -> Any:
        return evaluate(tensors, self.args, {}, None)

    def _evaluate(
        self, tensors: list[Tensor], args: tuple[Any, ...], keywords: dict[str, Any], remedy: str | None = None
    ) -> tuple[Any, list[Tensor]]:
        if not self.jac:
            return super()._evaluate(tensors, args, keywords, remedy)
        results = [super(StartsObjective, self)._evaluate(list(one), args, {}) for one in zip(*tensors, strict=True)]
        self.calls += len(results) - 1
        columns = zip(*(gradients for _, gradients in results), strict=True)
        return torch.stack([loss for loss, _ in results]), [torch.stack(column) for column in columns]

    @torch.enable_grad()
    def _loss_of_leaves(
        self, tensors: list[Tensor], args: tuple[Any, ...], keywords: dict[str, Any], remedy: str | None
    ) -> tuple[Tensor, list[Tensor]]:
        leaves = [t.detach().clone().requires_grad_() for t in tensors]
        count = len(tensors[0])
        if self._vmaps:
            # Where it is fun that fails, the loop raises the error again.
            with contextlib.suppress(Exception):
                losses = torch.func.vmap(lambda *one: self.fun(self.structure.join(one), *args))(*leaves)
                if losses.numel() == count and losses.requires_grad and losses.is_floating_point():
                    return losses.reshape(count), leaves
            self._vmaps = False
        self.calls += count - 1
        rows = zip(*(leaf.unbind(0) for leaf in leaves), strict=True)
        losses = [self._loss(self.fun(self.structure.join(one), *args), list(one), None) for one in rows]
        return torch.stack(losses), leaves

    _vmaps = True
