"""The result of a fit."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any


@dataclass(repr=False)
class Result:
    """The best point of a fit, and why it ended. It prints as SciPy's results do.

    With ``batched=True`` there is one entry for each problem: arrays of shape (B,), for reason and message lists.

    Attributes:
        x: the best point that was evaluated, in the form of x0.
        fun: its loss, NaN where there was no finite one.
        grad: the gradient there, of the form of x.
        success: whether the fit converged.
        status: 0 success, 1 max_steps, 2 max_evals, 3 a loss that is not finite, 4 no decrease, 5 patience, 6
            interrupted, 99 callback.
        reason: gtol, ftol, xtol, target, patience, max_steps, max_evals, nonfinite, start, no_decrease, callback or
            interrupted.
        message: one sentence, with a remedy where there is one.
        nit: the number of steps, those of a finish not included.
        nfev: the number of evaluations: nit + 1, and those of a finish.
        calls: the number of calls of fun.
        seed: of the starts; None without.
        history: the best loss after each evaluation, shape (nfev,); None for many problems.
        all: where there were several starts, the result of each: arrays of shape (K,), or (K, B).
        hess: the Hessian of fun at x over all n weights, flattened in order, shape (n, n) or (B, n, n); NaN where none
            was computed, None without a finish.

    Examples:
        >>> import numpy as np
        >>> from rprop_kernels.numpy import minimize
        >>> result = minimize(lambda x: (x @ x, 2 * x), np.array([3.0, -4.0]), jac=True)
        >>> result.success, result.reason
        (True, 'gtol')
    """

    x: Any
    fun: Any
    grad: Any
    success: Any
    status: Any
    reason: Any
    message: Any
    nit: Any
    nfev: Any
    calls: int
    seed: int | None = None
    history: Any = None
    all: "Result | None" = None
    hess: Any = None
    _held: Any = None  # the weights that have no variance
    _covariance: Callable[[Any, Any, Any], Any] | None = None  # of hess, _held and scale

    def cov(self, scale: Any = 1.0) -> Any:
        """Return the covariance matrix of the weights, ``scale * inverse(H)``.

        H is the Hessian of the minimised function (of ``-fun`` with ``maximize``) over the weights that are free. Rows
        and columns of weights that are frozen or held at a bound are NaN, and so is all of a matrix without an inverse.

        Args:
            scale: 1 for a negative log-likelihood; with s2 the variance of the data's noise: s2 for half a sum of
                squares, 2 * s2 for a sum of squares, 2 * s2 / N for a mean of N squares. A number, or for many
                problems one for each.

        Returns:
            A tensor of hess's shape.

        Raises:
            ValueError: there is no Hessian.
        """
        if self._covariance is None:
            raise ValueError(
                "there is no Hessian, so no covariance: pass finish='newton' to rprop_kernels.torch.minimize"
            )
        return self._covariance(self.hess, self._held, scale)

    def __repr__(self) -> str:
        shown = {field.name: getattr(self, field.name) for field in fields(self) if field.name[0] != "_"}
        shown = {name: value for name, value in shown.items() if value is not None}
        order = ["message", "success", "status", "reason", "fun", "x", "nit", "grad", "nfev", "calls"]
        names = [*order, *(name for name in shown if name not in order)]
        width = max(map(len, names))
        return "\n".join(f"{name:>{width}}: {_shown(shown[name], width + 2)}" for name in names if name in shown)


def _shown(value: Any, indent: int) -> str:
    """Return a value as text of one or several lines, all but the first of them indented."""
    if isinstance(value, Result):
        return f"a Result of shape {tuple(value.fun.shape)}"
    text = str(value)
    if isinstance(value, Sequence) and not isinstance(value, str) and len(value) > 3:
        text = f"[{value[0]!r}, {value[1]!r}, ... ({len(value)} entries)]"
    return text.replace("\n", "\n" + " " * indent)
