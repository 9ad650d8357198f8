"""Rprop as methods for :func:`scipy.optimize.minimize`, and many starts at once.

::

    from scipy.optimize import minimize
    from rprop_kernels.scipy import irprop_plus

    result = minimize(fun, x0, jac=True, method=irprop_plus, bounds=bounds, options={"maxiter": 500})

Rprop uses only the signs of the gradient and keeps a step size for each variable: it tolerates badly scaled
variables, gradients that are noisy or wrongly scaled, and plateaus; it is slow in a narrow valley that is oblique to
the axes. The rules and their papers are described in :mod:`rprop_kernels.numpy`.
"""

import importlib.util
import inspect
import math
from collections.abc import Callable
from types import MappingProxyType
from typing import Any, Final, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .install import install_command

if importlib.util.find_spec("scipy") is None:
    raise ModuleNotFoundError(f"rprop_kernels.scipy needs SciPy: {install_command('scipy')}", name="scipy")

from scipy.optimize import (  # type: ignore[import-untyped,unused-ignore]
    Bounds,
    OptimizeResult,
    OptimizeWarning,
)

from . import stopping
from .numpy import fit
from .numpy.objective import RowsObjective, describe, to_array, to_gradient, to_loss, to_pair
from .numpy.variants import Pair
from .warn import warn_user

__all__ = ["irprop_minus", "irprop_plus", "minimize_many", "rprop_minus", "rprop_plus"]

Array: TypeAlias = NDArray[Any]

ROUNDING: Final = 1e-12
"""A start that is outside its bounds by no more than this, relative to its size, is moved inside silently."""


class Settings(NamedTuple):
    """The options of all methods, with their defaults; see :func:`irprop_plus`."""

    maxiter: float = 3000
    maxfev: float = math.inf
    gtol: float = 1e-5
    xtol: float = 1e-10
    ftol: float = 1e-9
    window: int = 50
    patience: int | None = None
    target: float = -math.inf
    lr: Any = 0.01
    etas: Pair = (0.5, 1.2)
    step_sizes: Pair = (0.0, 50.0)
    x_scale: Any = None
    finite_difference: str = "2-point"
    backend: str | None = None
    disp: bool = False

    def rules(self) -> stopping.StoppingRules:
        """Return the stopping rules, validated."""
        for name in ("maxiter", "maxfev"):
            value = getattr(self, name)
            if not stopping.is_number(value) or not value >= 0:
                raise ValueError(f"{name}={value!r}: pass a number from 0 on")
        return stopping.validate(
            self.gtol,
            self.ftol,
            self.xtol,
            self.window,
            self.patience,
            self.target,
            self.maxiter,
            max(self.maxfev, 1),  # the start is always evaluated
        )

    def arguments(self) -> dict[str, Any]:
        """Return the arguments of :func:`rprop_kernels.numpy.fit.run` that have the same meaning."""
        names = ("lr", "etas", "step_sizes", "x_scale", "backend")
        return {**{name: getattr(self, name) for name in names}, "rules": self.rules()}


def _settings(options: dict[str, Any]) -> Settings:
    """Parse options as scipy's methods do: None is the default, unknown ones warn, ``tol`` is ``gtol``."""
    options = {key: value for key, value in options.items() if value is not None}
    tol = options.pop("tol", None)
    if tol is not None:
        options.setdefault("gtol", tol)
    if unknown := [key for key in options if key not in Settings._fields]:
        warn_user(f"Unknown solver options: {', '.join(unknown)}", OptimizeWarning)
    settings = Settings(**{key: value for key, value in options.items() if key in Settings._fields})
    if settings.finite_difference not in SCHEMES:
        raise ValueError(
            f"finite_difference (or jac) is {settings.finite_difference!r}: choose one of {', '.join(SCHEMES)}"
        )
    return settings


def _limits(bounds: Any, size: int) -> tuple[Array, Array]:
    """Return ``(lower, upper)``, each of shape (size,), of a Bounds object, of pairs (low, high), or of None."""
    if bounds is None:
        bounds = Bounds()
    if isinstance(bounds, Bounds):
        lower, upper = bounds.lb, bounds.ub
    else:
        try:
            pairs = [
                (-np.inf if low is None else float(low), np.inf if high is None else float(high))
                for low, high in bounds
            ]
        except (TypeError, ValueError):
            raise ValueError(
                f"bounds must be a scipy.optimize.Bounds or a sequence of pairs (low, high), got {bounds!r}"
            ) from None
        lower, upper = np.array(pairs, float).reshape(len(pairs), 2).T
        if len(pairs) != size:
            raise ValueError(f"{len(pairs)} bounds for {size} variables: pass one pair (low, high) for each")
    try:
        return np.broadcast_to(lower, (size,)).astype(float), np.broadcast_to(upper, (size,)).astype(float)
    except ValueError:
        raise ValueError(
            f"bounds of shapes {np.shape(lower)} and {np.shape(upper)} for {size} variables: "
            "pass one number, or one for each variable"
        ) from None


def _forward(f: Callable[[Array], float], x: Array, i: int, f0: float, low: float, high: float) -> Any:
    """Compute a forward difference, a backward one where the upper bound is nearer than the step."""
    h = math.sqrt(np.finfo(float).eps) * max(1.0, abs(x[i]))
    h = h if x[i] + h <= high else -h if x[i] - h >= low else max(high - x[i], low - x[i], key=abs)
    h = (x[i] + h) - x[i]  # the exact step after rounding
    return (f(_moved(x, i, h)) - f0) / h


def _central(f: Callable[[Array], float], x: Array, i: int, f0: float, low: float, high: float) -> Any:
    """Compute a central difference, a one-sided one of the same order at a bound."""
    h = np.finfo(float).eps ** (1 / 3) * max(1.0, abs(x[i]))
    h = min(h, (high - low) / 2)
    if low <= x[i] - h and x[i] + h <= high:
        return (f(_moved(x, i, h)) - f(_moved(x, i, -h))) / (2 * h)
    h = h if x[i] + 2 * h <= high else -h
    return (4 * f(_moved(x, i, h)) - f(_moved(x, i, 2 * h)) - 3 * f0) / (2 * h)


SCHEMES: Final = {"2-point": _forward, "3-point": _central}
"""Finite differences: ``scheme(f, x, i, f(x), low, high)`` returns df/dx_i and evaluates f within [low, high]."""


def _moved(x: Array, i: int, h: float) -> Array:
    """Return a copy of x with h added to component i."""
    x = x.copy()
    x[i] += h
    return x


class _Objective:
    """Loss and gradient of the user's functions: validated, counted, called with copies.

    ``jac`` is a function, True where ``fun`` returns both, or anything else for finite differences.

    Attributes:
        evaluations: of the loss, those for differences included.
        calls: the same number.
        njev: evaluations of the gradient.
    """

    def __init__(self, fun: Any, args: Any, jac: Any, scheme: str, lower: Array, upper: Array) -> None:
        if _is_memoize_jac(fun):
            fun, jac = fun.fun, True  # scipy's wrapper for jac=True, whose errors name no remedy
        if not callable(fun):
            raise TypeError(f"fun is a {type(fun).__name__}: pass a function of x")
        self.fun, self.jac, self.scheme = fun, jac, scheme
        self.args = args if isinstance(args, tuple) else (args,)
        self.lower, self.upper = lower, upper
        self.evaluations = self.njev = 0

    calls = property(lambda self: self.evaluations)

    def value(self, x: Array) -> float:
        """Evaluate the loss alone."""
        self.evaluations += 1
        value = self.fun(x.copy(), *self.args)
        hint = ", and (loss, gradient) only with jac=True"
        if isinstance(value, tuple):
            hint += "; in Gaussian processes of scikit-learn pass optimizer=gp_optimizer() of rprop_kernels.sklearn"
        return to_loss(value, hint)

    def __call__(self, x: Array) -> tuple[float, Array]:
        """Evaluate loss and gradient."""
        self.njev += 1
        if self.jac is True:
            self.evaluations += 1
            loss, gradient = to_pair(self.fun(x.copy(), *self.args), "with jac=True return (loss, gradient)")
            return (
                to_loss(loss, ", and (loss, gradient) only with jac=True"),
                to_gradient(gradient, x.shape, x.dtype),
            )
        loss = self.value(x)
        if callable(self.jac):
            return loss, to_gradient(self.jac(x.copy(), *self.args), x.shape, x.dtype)
        gradient = np.full(x.shape, np.nan)  # a loss that is not finite has no differences
        if math.isfinite(loss):
            for i, (low, high) in enumerate(zip(self.lower, self.upper, strict=True)):
                difference = SCHEMES[self.scheme]
                gradient[i] = difference(self.value, x, i, loss, low, high) if low < high else 0.0
        return loss, gradient


def _is_memoize_jac(fun: Any) -> bool:
    """Check for the object that scipy.optimize.minimize makes of fun where jac is True."""
    return type(fun).__name__ == "MemoizeJac" and type(fun).__module__.startswith("scipy.optimize")


def _clip(name: str, start: Array, lower: Array, upper: Array) -> Array:
    """Return the start within the bounds; warn where it was outside by more than rounding."""
    with np.errstate(invalid="ignore"):
        inside: Array = np.clip(start, lower, upper)
        distance = np.abs(inside - start)
    if (lower <= upper).all() and (distance > ROUNDING * np.maximum(1, np.abs(start))).any():
        index = tuple(int(i) for i in np.argwhere(distance)[0])
        low, high = (np.broadcast_to(bound, start.shape)[index] for bound in (lower, upper))
        warn_user(
            f"{name} starts outside its bounds: {start[index]} at index {index} is not within [{low}, {high}]; "
            "the search "
            "starts at the nearest point inside",
            OptimizeWarning,
        )
    return inside


def _constraints(lower: Array, upper: Array) -> dict[str, Any]:
    """Return the arguments ``bounds`` and ``frozen``: a variable whose bounds are equal is frozen."""
    fixed = lower == upper
    bounded = bool(np.isfinite(lower).any() or np.isfinite(upper).any())
    return {"bounds": (lower, upper) if bounded else None, "frozen": fixed if fixed.any() else None}


def _words(message: str) -> str:
    """Return a message with the names that the options have here."""
    return message.replace("max_steps", "maxiter").replace("max_evals", "maxfev")


def _wrapped(callback: Any) -> Any:
    """Return a callback of ``intermediate_result`` so that it gets scipy's type; any other as it is."""
    try:
        names = set(inspect.signature(callback).parameters)
    except (TypeError, ValueError):  # no function, or a built-in one without a signature
        return callback
    if names != {"intermediate_result"}:
        return callback

    def wrapped(intermediate_result: Any) -> None:
        found = intermediate_result
        callback(intermediate_result=OptimizeResult(x=found.x, fun=found.fun, nit=found.nit))

    return wrapped


def _minimize(
    method: str,
    fun: Any,
    x0: ArrayLike,
    args: Any,
    jac: Any,
    hess: Any,
    hessp: Any,
    bounds: Any,
    constraints: Any,
    callback: Callable[..., object] | None,
    options: dict[str, Any],
) -> OptimizeResult:
    for name, given, limitation in (
        ("hess", hess is not None, "does not use Hessian information (hess)"),
        ("hessp", hessp is not None, "does not use Hessian-vector product information (hessp)"),
        ("constraints", np.any(constraints), "cannot handle constraints"),
    ):
        if given:
            warn_user(f"Method {method} {limitation}; {name} is ignored.", RuntimeWarning)
    if isinstance(jac, str):  # scipy.optimize.minimize itself passes no such string to a custom method
        options = {"finite_difference": jac, **options}
    settings = _settings(options)
    start = _start("x0", x0, 1)
    lower, upper = _limits(bounds, start.size)
    objective = _Objective(fun, args, jac, settings.finite_difference, lower, upper)
    found = fit.run(
        objective,
        _clip("x0", start, lower, upper),
        method=method,
        callback=_wrapped(callback),
        raise_interrupt=True,
        **_constraints(lower, upper),
        **settings.arguments(),
    )
    result = OptimizeResult(
        x=found.x,
        fun=found.fun,
        jac=found.grad,
        nit=found.nit,
        nfev=objective.evaluations,
        njev=objective.njev,
        status=found.status,
        success=found.success,
        message=_words(found.message),
    )
    if settings.disp:
        print(
            f"{result.message}\n  loss {result.fun:.6g}, {result.nit} iterations, {result.nfev} "
            f"evaluations of the function, {result.njev} of its gradient"
        )
    return result


def _start(name: str, value: ArrayLike, ndim: int) -> Array:
    array = to_array(value)
    if array.dtype.kind not in "fiu":
        raise TypeError(f"{name} is {describe(value)}: pass an array of real numbers")
    array = np.atleast_1d(array)
    if array.ndim != ndim or array.size == 0:
        raise ValueError(
            f"{name} has shape {array.shape}: pass an array of shape {('(n,)', '(B, n)')[ndim - 1]} that is not empty"
        )
    array = array.astype(float)
    if not np.isfinite(array).all():
        raise ValueError(f"{name} has a NaN or an infinity: pass finite numbers")
    return array


def _method(name: str, method: str, rule: str) -> Callable[..., OptimizeResult]:
    """Make a ``method=`` for scipy.optimize.minimize."""

    def minimize(
        fun: Any,
        x0: ArrayLike,
        args: Any = (),
        jac: Any = None,
        hess: Any = None,
        hessp: Any = None,
        bounds: Any = None,
        constraints: Any = (),
        callback: Callable[..., object] | None = None,
        **options: Any,
    ) -> OptimizeResult:
        return _minimize(method, fun, x0, args, jac, hess, hessp, bounds, constraints, callback, options)

    minimize.__name__ = minimize.__qualname__ = name  # so that it can be pickled
    minimize.__doc__ = f"""{rule}; a ``method=`` for :func:`scipy.optimize.minimize`.

    scipy calls it; it can also be called directly: ``{name}(fun, x0, jac=True)``. x0 and the gradients are never
    written to.

    Args:
        fun: ``fun(x, *args)`` returns the loss, a float; with ``jac=True`` ``(loss, gradient)``. x has shape
            (n,).
        x0: shape (n,); computed in float64.
        jac: True, or a function ``jac(x, *args)`` that returns the gradient, shape (n,); otherwise finite
            differences, which stay within the bounds and are counted.
        bounds: a :class:`scipy.optimize.Bounds`, or one pair ``(low, high)`` for each variable, None for none. An
            x0 outside is moved to the nearest point inside, with a warning; a variable that meets a bound stops there,
            and one whose bounds are equal never moves, whatever its gradient.
        callback: ``callback(x)`` or ``callback(*, intermediate_result)`` after each iteration, with the point
            and its loss; StopIteration ends the search.
        hess, hessp, constraints: cannot be used; they cause a RuntimeWarning.
        maxiter, maxfev: largest number of steps (3,000) and of evaluations of fun (no limit).
        gtol: stop where no component of the gradient is above it (1e-5); at a bound only components that
            point inwards count. ``tol`` of scipy.optimize.minimize sets it.
        xtol: stop where every step size is at most ``xtol * max(1, abs(x))`` (1e-10); tested every 8
            iterations.
        ftol, window: stop where the best loss has changed by at most ``ftol * abs(loss)`` within the last
            ``window`` iterations (1e-9 and 50).
        patience: stop after as many iterations without a new best loss (no limit).
        target: stop where the loss is at most this (-inf).
        lr, etas, step_sizes: first step size (0.01), factors (0.5, 1.2), smallest and largest step size (0.0,
            50.0); steps never shrink below 2**-255.
        x_scale: size of the variables, a number, an array or "auto": lr, step_sizes and xtol are in its units
            (:func:`rprop_kernels.numpy.minimize`).
        finite_difference: "2-point", the default, or "3-point". scipy.optimize.minimize does not hand ``jac="3-point"``
            to a method that is a function: pass ``options={{"finite_difference": "3-point"}}`` there.
        backend: as in :mod:`rprop_kernels.numpy`.
        disp: print a summary at the end.

    Returns:
        A :class:`scipy.optimize.OptimizeResult` with ``x``, ``fun`` and ``jac``, the best point that was
        evaluated, its loss and gradient; ``nit``, ``nfev``, ``njev``; ``success``, ``message`` and ``status``:
        0 converged, 1 maxiter, 2 maxfev, 3 the first loss was NaN or infinite, or the loss or its gradient was so
        ``window`` times in a row or next to the point where the search came to rest, 4 the loss never decreased, 5
        patience, 99 callback.

    Raises:
        TypeError, ValueError: fun, its gradient, x0, the bounds or an option are not as above. A loss that is
            NaN or infinite is no error: the last moves are taken back and steps shrink.

    Examples:
        >>> from scipy.optimize import minimize
        >>> from rprop_kernels.scipy import {name}
        >>> result = minimize(lambda x: (x @ x, 2 * x), [5.0, -3.0], jac=True, method={name})
        >>> result.success, bool(result.fun < 1e-9)
        (True, True)
    """
    return minimize


rprop_minus = _method("rprop_minus", "rprop-", "Rprop- [Riedmiller 1994]")
rprop_plus = _method("rprop_plus", "rprop+", "Rprop+ [Riedmiller & Braun 1993]")
irprop_minus = _method("irprop_minus", "irprop-", "iRprop- [Igel & Hüsken 2003]")
irprop_plus = _method("irprop_plus", "irprop+", "iRprop+ [Igel & Hüsken 2003]")

METHODS: Final = MappingProxyType(
    {"rprop-": rprop_minus, "rprop+": rprop_plus, "irprop-": irprop_minus, "irprop+": irprop_plus}
)
"""The four methods by the names of their rules."""


def minimize_many(
    fun: Callable[..., tuple[ArrayLike, ArrayLike]],
    starts: ArrayLike,
    args: Any = (),
    *,
    method: str = "irprop+",
    bounds: Any = None,
    callback: Callable[[Array, Array], object] | None = None,
    **options: Any,
) -> OptimizeResult:
    """Minimise from many starting points at once: rows of one array, each with its own loss and step sizes.

    Args:
        fun: ``fun(x, *args)`` returns ``(losses, gradients)`` of shapes (B,) and (B, n) for x of shape (B,
            n).
        starts: shape (B, n).
        method: ``"rprop-"``, ``"rprop+"``, ``"irprop-"`` or ``"irprop+"``.
        bounds: as in :func:`irprop_plus`, of the n variables: the same for every row.
        callback: ``callback(x, losses)`` after each iteration; StopIteration ends the search.
        **options: those of :func:`irprop_plus`. Each row stops by itself, and its result is fixed then. Rows that have
            stopped leave x once they are an eighth of it, so that x has fewer rows in later calls; a function with data
            of each row takes the keyword ``rows``, the numbers of the rows in x.

    Returns:
        A :class:`scipy.optimize.OptimizeResult` with ``x``, ``fun``, ``jac``, ``success``, ``status`` and
        ``message`` of the best row; ``row``, its number; the same of all rows as ``all_x`` (B, n), ``all_fun``
        (B,), ``all_jac`` (B, n), ``all_success``, ``all_status`` and ``all_message``, and their steps as ``all_nit``;
        ``nit``, the largest of these; ``nfev`` = ``njev``, the calls of fun, one for all rows.

    Raises:
        TypeError, ValueError: as :func:`irprop_plus`.

    Examples:
        >>> import numpy as np
        >>> from rprop_kernels.scipy import minimize_many
        >>> starts = np.array([[5.0, -3.0], [1.0, 2.0]])
        >>> result = minimize_many(lambda x: ((x**2).sum(axis=1), 2 * x), starts)
        >>> result.all_success.tolist(), bool(result.fun < 1e-9)
        ([True, True], True)
    """
    if "options" in options:
        raise TypeError("options is no argument of minimize_many: pass maxiter=... and the like by themselves")
    if callback is not None and not callable(callback):
        raise TypeError(f"callback is {callback!r}: pass a function of x and losses")
    settings = _settings(options)
    start = _start("starts", starts, 2)
    lower, upper = _limits(bounds, start.shape[1])
    args = args if isinstance(args, tuple) else (args,)

    def by_rows(intermediate_result: Any) -> None:
        assert callback is not None
        callback(intermediate_result.x, intermediate_result.fun)

    arguments = {**_constraints(lower, upper), **settings.arguments()}
    if arguments["frozen"] is not None:
        arguments["frozen"] = np.broadcast_to(arguments["frozen"], start.shape)
    objective = RowsObjective(fun, True, args, (None,) * len(args), len(start), None)
    found = fit.run(
        objective,
        _clip("starts", start, lower, upper),
        method=method,
        batched=True,
        callback=None if callback is None else by_rows,
        raise_interrupt=True,
        name="starts",
        **arguments,
    )
    losses: Array = found.fun
    row = int(np.argmin(np.where(np.isnan(losses), np.inf, losses)))
    result = OptimizeResult(
        x=found.x[row],
        fun=float(losses[row]),
        jac=found.grad[row],
        row=row,
        nit=int(found.nit.max()),
        nfev=found.calls,
        njev=found.calls,
        status=int(found.status[row]),
        success=bool(found.success[row]),
        message=_words(found.message[row]),
        all_x=found.x,
        all_fun=losses,
        all_jac=found.grad,
        all_nit=found.nit,
        all_status=found.status,
        all_success=found.success,
        all_message=[_words(message) for message in found.message],
    )
    if settings.disp:
        print(
            f"{np.sum(result.all_success)} of {len(start)} rows converged in {found.calls} evaluations; best "
            f"loss {result.fun:.6g}: {result.message}"
        )
    return result
