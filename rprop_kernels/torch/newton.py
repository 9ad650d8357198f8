"""The finish of a fit: a damped Newton method, projected on the bounds, for the rows of a batch at once.

With x the weights of a problem in units of x_scale, g and H gradient and Hessian of the minimised function there, a
step solves

    (H_FF + damping * diag(D)) d_F = -g_F,    D_i = max(abs(H_ii), abs(g_i) / max(abs(x_i), 1)),

by a Cholesky factorisation. F are the free weights: all but the frozen ones and those that g holds at a bound. A
weight that x + d takes beyond a bound is set on it, and the others are solved for anew. The damping of a row is raised
until its matrix is positive definite. Where the loss at x + d is not lower the row keeps its point and raises its
damping; it lowers it after a good step. So no row ever gets worse.

All of the algebra is done element by element over the rows, so that the bits of a row do not depend on the others.
"""

import functools
import math
from typing import Any, Final

import torch
from torch import Tensor

from ..bounds import Constraints
from ..result import Result
from ..rows import Rows
from ..stopping import (
    CALLBACK,
    FTOL,
    INTERRUPTED,
    MAX_EVALS,
    NO_DECREASE,
    NONFINITE,
    REASONS,
    RUNNING,
    START,
    Monitor,
    held_weights,
    steps_within,
)
from .search import Search, where

LARGEST: Final = 32
"""The largest number of variables of a problem."""

SETTLED: Final = 40
"""Steps of Rprop after which the finish begins at the latest."""

_FIRST_DAMPING: Final = 1e-3
_LEAST_DAMPING: Final = 1e-4
_MOST_DAMPING: Final = 1e12
_ALGEBRA: Final = torch.float64


def add_up(x: Tensor) -> Tensor:
    """Return the sum over the first dimension, always in the same order."""
    return functools.reduce(torch.add, x.unbind(0))


def solve(hessian: Tensor, grad: Tensor, damping: Tensor, free: Tensor) -> tuple[Tensor, Tensor]:
    """Solve ``(H_FF + diag(damping)) d_F = -g_F`` by Cholesky factorisations; ``d`` is 0 elsewhere.

    Args:
        hessian: shape (n, n, B).
        grad: shape (n, B).
        damping: of each weight, shape (n, B).
        free: booleans, shape (n, B).

    Returns:
        d of shape (n, B), and where the matrix is positive definite, shape (B,).
    """
    n = len(grad)
    matrix = torch.where(free & free[:, None], hessian, 0)
    diagonal = matrix.diagonal(dim1=0, dim2=1)  # a view of shape (B, n)
    diagonal.copy_(torch.where(free, diagonal.T + damping, 1).T)
    solution = torch.where(free, -grad, 0)
    definite = torch.ones_like(free[0])
    # The columns of L overwrite those of the matrix; the solution becomes y of L y = -g.
    for j in range(n):
        pivot = matrix[j, j]
        definite &= (pivot > 0) & (pivot < math.inf)
        root = pivot.sqrt()
        solution[j] /= root
        column = matrix[j + 1 :, j]
        column /= root
        solution[j + 1 :] -= column * solution[j]
        matrix[j + 1 :, j + 1 :] -= column[:, None] * column
        matrix[j, j] = root
    for j in reversed(range(n)):
        solution[j] /= matrix[j, j]
        solution[:j] -= matrix[j, :j] * solution[j]
    return solution, definite


def covariance(hess: Tensor, held: Tensor, scale: Any, maximize: bool) -> Tensor:
    """Return ``scale * inverse(H)`` of the minimised function over the weights that are not held, NaN for the others.

    Args:
        hess: of fun, shape (..., n, n).
        held: booleans, shape (..., n).
        scale: a number, or one for each problem.
        maximize: whether the minimised function is ``-fun``.
    """
    lost = held[..., None] | held[..., None, :]
    matrix = torch.where(lost, 0, -hess if maximize else hess) + torch.diag_embed(held.to(hess.dtype))
    inverse, info = torch.linalg.inv_ex(matrix)
    factor = torch.as_tensor(scale, dtype=hess.dtype, device=hess.device)[..., None, None]
    return torch.where(lost | (info != 0)[..., None, None], torch.nan, factor * inverse)


class Newton:
    """The finish of all problems of a search that have a finite loss.

    It goes on from the best points of the search, and records better ones there. Its tensors have the rows that are in
    the batch as their last dimension, and are of the minimised function in units of x_scale.

    Args:
        search: it has ended.
        constraints: of all problems, in units of x_scale.
        scales: x_scale of each tensor as powers of two, or None.

    Attributes:
        hess: the Hessians of fun at the best points, shape (B, n, n), NaN where none was computed.
        rows: the rows of the batch; ``steps`` counts their evaluations.
    """

    _COLUMNS = (
        *("loss", "x", "grad", "hessian", "damping", "trial", "predicted"),
        *("lower", "upper", "frozen", "scale"),
    )  # with an entry for each row in the batch

    def __init__(self, search: Search, constraints: list[Constraints], scales: list[Tensor] | None) -> None:
        self.search, self.objective, self.rules = search, search.objective, search.rules
        self.sign = -1 if search.maximize else 1
        self.batched = search.rows is not None
        self.constraints, self.scales = constraints, scales
        first = search.best[0]
        self.count = len(first) if self.batched else 1
        self.sizes = [t.numel() // self.count for t in search.best]
        n = sum(self.sizes)
        dtype = functools.reduce(torch.promote_types, (t.dtype for t in search.best))
        self.hess = torch.full((self.count, n, n), torch.nan, dtype=dtype, device=first.device)
        self.rows = Rows(torch.arange(self.count, device=first.device))
        self.first_code = torch.as_tensor(search.code, device=first.device).reshape(-1).clone()
        self.evaluations = 0
        self._set_limits()

    def _set_limits(self) -> None:
        columns = list(zip(*self.constraints, strict=True))
        lower, upper, frozen = (
            None if all(part is None for part in column) else self._join(column, default)
            for column, default in zip(columns, (-math.inf, math.inf, 0), strict=True)
        )
        self.lower, self.upper, self.frozen = lower, upper, None if frozen is None else frozen.bool()
        self.scale = None if self.scales is None else self._join(self.scales, 1)

    # ------------------------------------------------------------------------------------ forms of the data

    def _join(self, parts: Any, default: float = 0) -> Tensor:
        """Return parts with the rows of the batch as one tensor of shape (n, rows)."""
        columns = []
        for part, like, size in zip(parts, self.search.best, self.sizes, strict=True):
            rows = torch.full_like(like, default) if part is None else part
            columns.append(rows.reshape(-1, size).to(self.hess.device, _ALGEBRA))
        return torch.cat(columns, 1).T.contiguous()

    def _split(self, x: Tensor) -> list[Tensor]:
        """Return x of shape (n, rows), in units of x_scale, as tensors like those of the search, in units of fun."""
        x = x if self.scale is None else x * self.scale
        parts = []
        for part, like in zip(torch.split(x.T, self.sizes, 1), self.search.best, strict=True):
            parts.append(part.reshape(-1, *like.shape[1:]) if self.batched else part.reshape(like.shape))
        return [part.to(like) for part, like in zip(parts, self.search.best, strict=True)]

    # ------------------------------------------------------------------------------------------------- loop

    @torch.no_grad()
    def run(self) -> None:
        """Go on until every problem has a reason to stop; a Module then holds the best point.

        Ctrl-C is such a reason. Another exception leaves the best point so far in place.
        """
        try:
            if self._begin():
                while self._finish_rows():
                    self._evaluate()
        except BaseException as error:
            self.rows.interrupt(self.evaluations)
            if not isinstance(error, KeyboardInterrupt):
                raise
        finally:
            self._set_code(self.rows.code)
            self.search.restore_best()

    def _begin(self) -> bool:
        """Evaluate at the best points; return whether there are any."""
        search, code = self.search, self.first_code
        if search.monitor.steps < 0:  # interrupted before the first loss
            return False
        best = search.best_loss if self.batched else self.sign * search.monitor.best
        losses = torch.as_tensor(best, dtype=_ALGEBRA, device=code.device).reshape(-1)
        excluded = torch.tensor([START, CALLBACK, INTERRUPTED, MAX_EVALS], device=code.device)
        enters = losses.isfinite() & ~torch.isin(code, excluded)
        if self._exhausted():
            code, enters = torch.where(enters, MAX_EVALS, code), torch.zeros_like(enters)
        self.rows.stop(torch.where(enters, RUNNING, code), 0)
        if not self.rows.run:
            return False
        self.rows.select(enters)
        self.monitor = Monitor(self.rules, search.maximize, where)
        self.x = self._join(search.best)
        for name in ("x", "lower", "upper", "frozen", "scale"):
            if (value := getattr(self, name)) is not None:
                setattr(self, name, value[:, enters])
        if self.scale is not None:
            self.x = self.x / self.scale
        self.loss = self.sign * losses[enters]
        self.damping = torch.zeros_like(self.loss)
        point = [t[enters] for t in search.best] if self.batched else search.best
        here, _, hessians, self.grad, self.hessian = self._second_order(point)
        self.precision = torch.finfo(here.dtype).eps
        self.hess[self.rows.numbers] = hessians
        self.monitor.add(self.sign * self.loss)  # the loss that is recorded, even where this one differs
        first = torch.as_tensor(search.first_loss, dtype=_ALGEBRA, device=code.device).reshape(-1)
        self.monitor.first = self.sign * first[enters]
        if not self.batched:
            search.history.append(self.sign * search.monitor.best)
        self._decide(~self._usable(self.grad, self.hessian))
        return True

    def _second_order(self, point: list[Tensor]) -> tuple[Tensor, list[Tensor], Tensor, Tensor, Tensor]:
        """Evaluate at a point in units of fun.

        Returns:
            losses, gradients and Hessians of fun; gradient and Hessian of the minimised function in units of x_scale.
        """
        if self.search.targets is not None:
            for target, value in zip(self.search.targets, point, strict=True):
                target.copy_(value)
            point = self.search.targets
        losses, grads, hessians = self.objective.second_order(point, self.rows.numbers if self.batched else None)
        self.evaluations += 1
        grad = self.sign * self._join(grads)
        hessian = self.sign * hessians.to(_ALGEBRA).permute(1, 2, 0).contiguous()
        if self.scale is not None:
            grad, hessian = grad * self.scale, hessian * self.scale * self.scale[:, None]
        if self.frozen is not None:  # they may be anything there
            grad = torch.where(self.frozen, 0, grad)
            hessian = torch.where(self.frozen | self.frozen[:, None], 0, hessian)
        return losses, grads, hessians, grad, hessian

    def _usable(self, grad: Tensor, hessian: Tensor) -> Tensor:
        return grad.isfinite().all(0) & hessian.isfinite().flatten(0, 1).all(0)

    def _held(self, grad: Tensor) -> Tensor:
        held = held_weights(self.x, grad, self.lower, self.upper, self.frozen)
        return torch.zeros_like(grad, dtype=torch.bool) if held is None else held

    def _exhausted(self) -> bool:
        return self.rules.max_evals is not None and self.objective.evaluations + 1 > self.rules.max_evals

    def _evaluate(self) -> None:
        """Evaluate at x + step, take the point where it is better, adapt the damping, and decide."""
        point = self._split(self.trial)
        losses, grads, hessians, grad, hessian = self._second_order(point)
        self.monitor.add(losses)
        value = self.sign * losses.to(_ALGEBRA)
        slope = torch.where(self._held(self.grad), 0, self.grad.abs()).amax(0)
        x = self._join(point)
        if self.scale is not None:
            x = x / self.scale
        old, self.x = self.x, x
        new_slope = torch.where(self._held(grad), 0, grad.abs()).amax(0)
        better = self.rows.running & ((value < self.loss) | ((value == self.loss) & (new_slope < slope)))
        ratio = (self.loss - value) / self.predicted
        self.x = torch.where(better, x, old)
        self.loss = torch.where(better, value, self.loss)
        self.grad = torch.where(better, grad, self.grad)
        self.hessian = torch.where(better, hessian, self.hessian)
        raised = (self.damping * torch.where(better, 4, 10)).clamp(min=_FIRST_DAMPING)
        lowered = self.damping / 10
        lowered = torch.where(lowered < _LEAST_DAMPING, 0, lowered)
        self.damping = torch.where(
            better & (ratio > 0.75), lowered, torch.where(better & (ratio > 0.25), self.damping, raised)
        )
        self._keep(better, point, losses, grads, hessians)
        broken = better & ~self._usable(grad, hessian)
        self._decide(broken)

    def _keep(self, better: Tensor, point: list[Tensor], losses: Tensor, grads: list[Tensor], hessians: Tensor) -> None:
        search = self.search
        numbers = self.rows.numbers[better]
        self.hess[numbers] = hessians[better]
        pairs = zip((*search.best, *search.best_grads), (*point, *grads), strict=True)
        if self.batched:
            for kept, value in pairs:
                kept[numbers] = value[better]
            assert search.best_loss is not None
            search.best_loss[numbers] = losses[better]
            return
        if bool(better):
            for kept, value in pairs:
                kept.copy_(value)
            search.monitor.best = float(self.loss)
        search.history.append(self.sign * search.monitor.best)

    def _decide(self, broken: Tensor) -> None:
        """Find the next step and the reasons to stop; ``broken`` rows have no derivatives to go on with."""
        monitor, rules = self.monitor, self.rules
        held = self._held(self.grad)
        self._find_trial(~held)
        slope = torch.where(held, 0, self.grad.abs()).amax(0)
        at_rest: Any = False
        if monitor.tests_steps and rules.xtol is not None:
            at_rest = (held | steps_within((self.trial - self.x).abs(), self.x, rules.xtol, 0.0)).all(0)
        code = monitor.decide(slope, at_rest, self._exhausted())
        if rules.ftol is not None:  # rounding hides the decrease of any further step
            done = (code == RUNNING) & (self.predicted <= self.precision * self.loss.abs())
            calm = monitor.steps - monitor.last_nonfinite >= rules.window
            end = torch.where(self.loss < monitor.first, FTOL, NO_DECREASE)
            code = torch.where(done, torch.where(calm, end, NONFINITE), code)
        code = torch.where(broken, NONFINITE, code)
        if self.search.callback is not None and monitor.steps > 0 and self._call_callback():
            code = torch.full_like(code, CALLBACK)
        self.next_code = code

    def _find_trial(self, free: Tensor) -> None:
        """Find the next point of each row; raise its damping until the matrix is definite and the model descends."""
        curvature = self.hessian.diagonal(dim1=0, dim2=1).T.abs()
        weights = torch.maximum(curvature, self.grad.abs() / self.x.abs().clamp(min=1))
        weights = torch.where(weights > 0, weights, 1)
        self.trial = self.x.clone()
        self.predicted = torch.zeros_like(self.loss)
        rows = self.rows.running.nonzero()[:, 0]
        while len(rows):
            trial, predicted = self._try_step(rows, free[:, rows], weights[:, rows])
            good = predicted > 0
            self.trial[:, rows] = torch.where(good, trial, self.x[:, rows])
            self.predicted[rows] = torch.where(good, predicted, 0)
            rows = rows[~good & (self.damping[rows] < _MOST_DAMPING)]
            self.damping[rows] = (self.damping[rows] * 10).clamp(min=_FIRST_DAMPING)

    def _try_step(self, rows: Tensor, free: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
        """Return the point that the quadratic model proposes for some rows, and the decrease that it predicts.

        The decrease is NaN where the matrix is not positive definite.
        """
        hessian, grad, x = self.hessian[..., rows], self.grad[:, rows], self.x[:, rows]
        damping = self.damping[rows] * weights
        step, definite = solve(hessian, grad, damping, free)
        trial = x + step
        if self.lower is not None or self.upper is not None:
            lower = torch.full_like(x, -math.inf) if self.lower is None else self.lower[:, rows]
            upper = torch.full_like(x, math.inf) if self.upper is None else self.upper[:, rows]
            while True:  # each time at least one weight more is set on its bound
                beyond = free & ((trial < lower) | (trial > upper)) & definite
                index = beyond.any(0).nonzero()[:, 0]
                if not len(index):
                    break
                free = free & ~beyond
                bound = trial.clamp(lower, upper)
                step = torch.where(beyond, bound - x, step)
                at_bound = torch.where(free[:, index], 0, step[:, index])
                shifted = grad[:, index] + self._product(hessian[..., index], at_bound)
                step[:, index] = at_bound + solve(hessian[..., index], shifted, damping[:, index], free[:, index])[0]
                trial = torch.where(free, x + step, torch.where(beyond, bound, trial))
        predicted = -add_up(step * (grad + self._product(hessian, step) / 2))
        return trial, torch.where(definite, predicted, torch.nan)

    @staticmethod
    def _product(hessian: Tensor, step: Tensor) -> Tensor:
        return add_up(hessian * step[:, None])

    # ------------------------------------------------------------------------------------------------- rows

    def _set_code(self, code: Tensor) -> None:
        """Set the reasons of the search: a success of Rprop's stays one."""
        success = torch.tensor([reason.success for reason in REASONS], device=code.device)
        first = self.first_code
        keeps = success[first] & ~success[code] & (code != INTERRUPTED) & (code != CALLBACK) | (code == RUNNING)
        code = torch.where(keeps, first, code)
        if self.search.rows is None:
            self.search.one_code = int(code)
        else:
            self.search.rows.code = code

    def _finish_rows(self) -> bool:
        """Record the rows that stop; let those that have stopped leave where they are an eighth of all."""
        self.rows.stop(self.next_code, self.evaluations)
        self._show_progress(self.rows.finished)
        if not self.rows.run:
            return False
        if (keep := self.rows.leave()) is not None:
            for name in self._COLUMNS:
                if (value := getattr(self, name)) is not None:
                    setattr(self, name, value[..., keep])
            self.monitor.select(keep)
        return True

    def _call_callback(self) -> bool:
        """Call the callback with the best points; return whether it raised StopIteration."""
        search = self.search
        assert search.callback is not None
        loss: Any = self.sign * search.monitor.best
        if search.best_loss is not None:
            loss = search.best_loss.clone()
        try:
            search.callback(
                self.objective.structure.join([t.clone() for t in search.best]),
                loss,
                search.last_step + self.monitor.steps,
            )
        except StopIteration:
            return True
        return False

    def _show_progress(self, finished: int) -> None:
        if self.search.progress is not None:
            best = float(self.monitor.best.min())
            self.search.progress.update(self.search.last_step + self.monitor.steps, self.sign * best, finished)

    # ----------------------------------------------------------------------------------------------- result

    def complete(self, result: Result) -> Result:
        """Return the result with the evaluations of the finish, Hessian and covariance."""
        self.lower = self.upper = self.frozen = None
        self._set_limits()
        self.x = self._join(self.search.best)
        if self.scale is not None:
            self.x = self.x / self.scale
        held = self._held(self.sign * self._join(self.search.best_grads)).T
        result.nfev = result.nfev + (self.rows.steps if self.batched else int(self.rows.steps))
        result.hess, result._held = (self.hess, held) if self.batched else (self.hess[0], held[0])
        result._covariance = functools.partial(covariance, maximize=self.search.maximize)
        return result
