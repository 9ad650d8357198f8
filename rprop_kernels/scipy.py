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
from collections import deque
from collections.abc import Callable
from numbers import Integral, Real
from types import MappingProxyType
from typing import Any, Final, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

if importlib.util.find_spec("scipy") is None:
    raise ModuleNotFoundError("rprop_kernels.scipy needs SciPy: pip install 'rprop_kernels[scipy]'", name="scipy")

from scipy.optimize import (  # type: ignore[import-untyped,unused-ignore]
    Bounds,
    OptimizeResult,
    OptimizeWarning,
)

from .numpy import AskTell
from .numpy.variants import Pair
from .warn import warn_user

__all__ = ["irprop_minus", "irprop_plus", "minimize_many", "rprop_minus", "rprop_plus"]

Array: TypeAlias = NDArray[Any]
Evaluate: TypeAlias = Callable[[Array], tuple[Any, Array]]

PATIENCE: Final = 100
"""The search ends after this number of consecutive evaluations with a NaN or infinite loss or a NaN in the gradient."""


class Reason(NamedTuple):
    """The reason why a search ended, in the form of scipy's results."""

    status: int
    message: str

    @property
    def success(self) -> bool:
        """Whether the search converged."""
        return self.status == 0


(
    RUNNING,
    TARGET,
    GRADIENT,
    STEP,
    FTOL,
    ITERATIONS,
    EVALUATIONS,
    NONFINITE,
    CALLBACK,
    NEAR_NONFINITE,
    NO_DECREASE,
) = range(11)

REASONS: Final = (
    Reason(-1, "The search has not ended."),
    Reason(0, "Optimization terminated successfully: the loss has reached target."),
    Reason(0, "Optimization terminated successfully: no component of the (projected) gradient is above gtol."),
    Reason(0, "Optimization terminated successfully: all steps are within xtol."),
    Reason(
        0,
        "Optimization terminated successfully: the best loss has changed by no more than ftol within "
        "window iterations.",
    ),
    Reason(1, "Maximum number of iterations has been exceeded: raise maxiter, or loosen gtol, xtol or ftol."),
    Reason(2, "Maximum number of function evaluations has been exceeded: raise maxfev, or loosen gtol, xtol or ftol."),
    Reason(
        3,
        f"The loss was NaN or infinite, or its gradient NaN, in {PATIENCE} evaluations in a row: start "
        "elsewhere, with a smaller lr, or give bounds that keep them finite.",
    ),
    Reason(99, "`callback` raised `StopIteration`."),
    Reason(
        3,
        "The search has come to rest next to points where the loss is NaN or infinite, or its gradient NaN: give "
        "bounds that keep them finite, or start elsewhere.",
    ),
    Reason(
        4,
        "The loss has not fallen below that of x0 within window iterations: check the gradient's sign, start "
        "elsewhere, or raise window.",
    ),
)


class Settings(NamedTuple):
    """The options of all methods, with their defaults; see :func:`irprop_plus`."""

    maxiter: int = 10_000
    maxfev: float = math.inf
    gtol: float = 1e-5
    xtol: float = 1e-10
    ftol: float = 0.0
    window: int = 100
    target: float = -math.inf
    lr: float = 0.1
    etas: Pair = (0.5, 1.2)
    step_sizes: Pair = (0.0, 50.0)
    finite_difference: str = "2-point"
    backend: str | None = None
    disp: bool = False


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
    for name in ("maxiter", "maxfev", "gtol", "xtol", "ftol", "target"):
        value = getattr(settings, name)
        if not isinstance(value, Real) or math.isnan(value) or (name.startswith("max") and value < 0):
            raise ValueError(f"{name}={value!r}: pass a number" + (" from 0 on" if name.startswith("max") else ""))
    if not isinstance(settings.window, Integral) or settings.window < 1:
        raise ValueError(f"window={settings.window!r}: pass a whole number from 1 on")
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
    """

    def __init__(self, fun: Any, args: Any, jac: Any, scheme: str, lower: Array, upper: Array) -> None:
        wrapped = getattr(fun, "fun", None)
        if callable(wrapped) and getattr(jac, "__self__", None) is fun:
            fun, jac = wrapped, True  # scipy's wrapper for jac=True, whose errors name no remedy
        if not callable(fun):
            raise TypeError(f"fun is a {type(fun).__name__}: pass a function of x")
        self.fun, self.jac, self.scheme = fun, jac, scheme
        self.args = args if isinstance(args, tuple) else (args,)
        self.lower, self.upper = lower, upper
        self.nfev = self.njev = 0

    def value(self, x: Array) -> float:
        """Evaluate the loss alone."""
        self.nfev += 1
        return _number(self.fun(x.copy(), *self.args))

    def __call__(self, x: Array) -> tuple[float, Array]:
        """Evaluate loss and gradient."""
        self.njev += 1
        if self.jac is True:
            self.nfev += 1
            loss, gradient = _pair(self.fun(x.copy(), *self.args), "with jac=True return (loss, gradient)")
            return _number(loss), _vector(gradient, x.shape)
        loss = self.value(x)
        if callable(self.jac):
            return loss, _vector(self.jac(x.copy(), *self.args), x.shape)
        gradient = np.full(x.shape, np.nan)  # a loss that is not finite has no differences
        if math.isfinite(loss):
            for i, (low, high) in enumerate(zip(self.lower, self.upper, strict=True)):
                difference = SCHEMES[self.scheme]
                gradient[i] = difference(self.value, x, i, loss, low, high) if low < high else 0.0
        return loss, gradient


def _pair(result: Any, remedy: str) -> tuple[Any, Any]:
    try:
        loss, gradient = result
    except (TypeError, ValueError):
        raise TypeError(f"fun returned {_described(result)}: {remedy}") from None
    return loss, gradient


def _number(value: Any) -> float:
    array = _array(value)
    if array.dtype.kind not in "fiu" or array.size != 1:
        raise TypeError(
            f"fun returned {_described(value)} as the loss: return one real number (and (loss, "
            "gradient) only with jac=True)"
        )
    return float(array.reshape(()))


def _vector(value: Any, shape: tuple[int, ...]) -> Array:
    array = _array(value)
    if array.dtype.kind not in "fiu":
        raise TypeError(f"the gradient is {_described(value)}: return an array of real numbers")
    if array.shape != shape and not array.size == math.prod(shape) == 1:
        raise ValueError(f"the gradient has shape {array.shape}, x has shape {shape}: return one of x's shape")
    return array.astype(float, copy=False).reshape(shape)


def _array(value: Any) -> Array:
    """Return the value as an array, of dtype object where NumPy can convert it to no other."""
    try:
        return np.asarray(value)
    except ValueError:  # nested sequences of different lengths
        return np.array(None)


def _described(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return f"an array of {value.dtype} and shape {value.shape}"
    return repr(value)


def _search(
    evaluate: Evaluate,
    start: Array,
    method: str,
    lower: Array,
    upper: Array,
    settings: Settings,
    count: Callable[[], int],
    callback: Callable[[Array, Any], object] | None,
) -> tuple[AskTell, Array, Any, int]:
    """Minimise from x of shape (n,), or from the rows of x of shape (B, n).

    Returns:
        ``(search, gradient at best_x, reason, iterations)``; reason is an index into REASONS, or an array of them
        (B,).
    """
    bounded = bool(np.isfinite(lower).any() or np.isfinite(upper).any())
    try:
        search = AskTell(
            start,
            method,
            lr=settings.lr,
            etas=settings.etas,
            step_sizes=settings.step_sizes,
            batched=start.ndim == 2,
            bounds=(lower, upper) if bounded else None,
            backend=settings.backend,
        )
    except ValueError as error:
        raise ValueError(str(error).replace("x0", "x0" if start.ndim == 1 else "starts")) from None
    single = start.ndim == 1  # losses and all that derives from them are numbers; otherwise arrays (B,)
    reason: Any = RUNNING if single else np.full(len(start), RUNNING)
    first_loss: Any = None
    nonfinite_streak: Any = 0
    finite_streak: Any = settings.window
    best_grad = np.full(start.shape, np.nan)
    best: deque[Any] = deque(maxlen=settings.window + 1)
    iterations = 0
    while True:
        x = search.ask()
        before = count()
        loss, gradient = evaluate(x)
        cost = count() - before
        search.tell(loss, gradient)
        if iterations == 0:
            best_grad[...] = gradient
            first_loss = np.copy(loss)
        else:
            improved: Any = search.improved
            np.copyto(best_grad, gradient, where=improved if single else improved[:, None])
        stopped = False
        if iterations and callback is not None:
            try:
                callback(x, loss)
            except StopIteration:
                stopped = True

        finite: Any = np.isfinite(loss) & ~np.isnan(gradient).any(axis=-1)
        nonfinite_streak = (nonfinite_streak + 1) * (1 - finite)
        finite_streak = (finite_streak + 1) * finite
        near_nonfinite = finite_streak < settings.window
        slope = np.abs(gradient)
        if bounded:
            slope[(x <= lower) & (gradient > 0) | (x >= upper) & (gradient < 0)] = 0
        best.append(search.best_loss)
        conditions = [
            (CALLBACK, stopped),
            (TARGET, search.best_loss <= settings.target),
            (GRADIENT, finite & (slope.max(axis=-1) <= settings.gtol)),
            (NONFINITE, nonfinite_streak >= PATIENCE),
            (ITERATIONS, iterations >= settings.maxiter),
            (EVALUATIONS, count() + cost > settings.maxfev),
        ]
        if len(best) == best.maxlen:
            stalled = best[0] - best[-1] <= settings.ftol * abs(best[-1])
            conditions[3:3] = [
                (NEAR_NONFINITE, stalled & near_nonfinite),
                (NO_DECREASE, stalled & (best[-1] >= first_loss)),
                (FTOL, stalled),
            ]
        if iterations % 8 == 0:  # this test costs more than the step itself
            step = search.optimizer.signs_and_steps()[1]
            small = (slope == 0) | (step <= settings.xtol * np.maximum(1, np.abs(x)))
            at_rest = finite & small.all(axis=-1)
            conditions[3:3] = [(NEAR_NONFINITE, at_rest & near_nonfinite), (STEP, at_rest)]
        if single:
            reason = next((code for code, holds in conditions if holds), RUNNING)
        else:
            for code, holds in conditions:
                reason[(reason == RUNNING) & holds] = code
        if reason != RUNNING if single else (reason != RUNNING).all():
            return search, best_grad, reason, iterations
        iterations += 1


def _wrapped(callback: Callable[..., object] | None) -> Callable[[Array, Any], object] | None:
    """Return the user's callback, ``callback(x)`` or ``callback(*, intermediate_result)``, as a function of x, loss."""
    if callback is None:
        return None
    if not callable(callback):
        raise TypeError(f"callback is {callback!r}: pass a function of x, or of intermediate_result")
    try:
        names = set(inspect.signature(callback).parameters)
    except (TypeError, ValueError):  # some built-in functions have no signature
        names = set()
    if names == {"intermediate_result"}:
        return lambda x, loss: callback(intermediate_result=OptimizeResult(x=x, fun=loss))
    return lambda x, loss: callback(x)


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
    search, best_grad, code, iterations = _search(
        objective, start, method, lower, upper, settings, lambda: objective.nfev, _wrapped(callback)
    )
    reason = REASONS[code]
    result = OptimizeResult(
        x=search.best_x,
        fun=search.best_loss,
        jac=best_grad,
        nit=iterations,
        nfev=objective.nfev,
        njev=objective.njev,
        status=reason.status,
        success=reason.success,
        message=reason.message,
    )
    if settings.disp:
        print(
            f"{reason.message}\n  loss {result.fun:.6g}, {result.nit} iterations, {result.nfev} "
            f"evaluations of the function, {result.njev} of its gradient"
        )
    return result


def _start(name: str, value: ArrayLike, ndim: int) -> Array:
    array = _array(value)
    if array.dtype.kind not in "fiu":
        raise TypeError(f"{name} is {_described(value)}: pass an array of real numbers")
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
        bounds: a :class:`scipy.optimize.Bounds`, or one pair ``(low, high)`` for each variable, None for none. x0
            must lie within; a variable that meets a bound stops there.
        callback: ``callback(x)`` or ``callback(*, intermediate_result)`` after each iteration, with the point
            and its loss; StopIteration ends the search.
        hess, hessp, constraints: cannot be used; they cause a RuntimeWarning.
        maxiter, maxfev: largest number of steps (10,000) and of evaluations of fun (no limit).
        gtol: stop where no component of the gradient is above it (1e-5); at a bound only components that
            point inwards count. ``tol`` of scipy.optimize.minimize sets it.
        xtol: stop where every step size is at most ``xtol * max(1, abs(x))`` (1e-10); tested every 8
            iterations.
        ftol, window: stop where the best loss has changed by at most ``ftol * abs(loss)`` within the last
            ``window`` iterations (0.0 and 100: where it has not changed); a negative ftol switches this off.
        target: stop where the loss is at most this (-inf).
        lr, etas, step_sizes: first step size (0.1), factors (0.5, 1.2), smallest and largest step size (0.0,
            50.0); steps never shrink below 2**-255.
        finite_difference: "2-point" or "3-point".
        backend: as in :mod:`rprop_kernels.numpy`.
        disp: print a summary at the end.

    Returns:
        A :class:`scipy.optimize.OptimizeResult` with ``x``, ``fun`` and ``jac``, the best point that was
        evaluated, its loss and gradient; ``nit``, ``nfev``, ``njev``; ``success``, ``message`` and ``status``:
        0 converged, 1 maxiter, 2 maxfev, 3 the loss or its gradient was NaN or infinite {PATIENCE} times in a row, or
        next to the point where the search came to rest, 4 the loss never decreased, 99 callback.

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
        **options: those of :func:`irprop_plus`. All rows go on until the last one stops, and a row may improve
            after it has stopped; its status and message give the reason for its stop.

    Returns:
        A :class:`scipy.optimize.OptimizeResult` with ``x``, ``fun``, ``jac``, ``success``, ``status`` and
        ``message`` of the best row; ``row``, its number; the same of all rows as ``all_x`` (B, n), ``all_fun``
        (B,), ``all_jac`` (B, n), ``all_success``, ``all_status`` and ``all_message``; ``nit``; ``nfev`` =
        ``njev``, the calls of fun, one for all rows.

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
    calls = 0

    def evaluate(x: Array) -> tuple[Array, Array]:
        nonlocal calls
        calls += 1
        losses, gradients = _pair(fun(x.copy(), *args), "return (losses, gradients), of shapes (B,) and (B, n)")
        losses = _array(losses)
        if losses.dtype.kind not in "fiu" or losses.shape != x.shape[:1]:
            raise ValueError(
                f"fun returned {_described(losses)} as the losses: return {len(x)} real numbers, one for each row"
            )
        return losses.astype(float), _vector(gradients, x.shape)

    search, best_grad, codes, iterations = _search(
        evaluate, start, method, lower, upper, settings, lambda: calls, callback
    )
    reasons = [REASONS[code] for code in codes]
    losses: Array = np.asarray(search.best_loss)
    row = int(np.argmin(np.where(np.isnan(losses), np.inf, losses)))
    result = OptimizeResult(
        x=search.best_x[row],
        fun=float(losses[row]),
        jac=best_grad[row],
        row=row,
        nit=iterations,
        nfev=calls,
        njev=calls,
        status=reasons[row].status,
        success=reasons[row].success,
        message=reasons[row].message,
        all_x=search.best_x,
        all_fun=losses,
        all_jac=best_grad,
        all_status=np.array([reason.status for reason in reasons]),
        all_success=np.array([reason.success for reason in reasons]),
        all_message=[reason.message for reason in reasons],
    )
    if settings.disp:
        print(
            f"{np.sum(result.all_success)} of {len(start)} rows converged in {calls} evaluations; best "
            f"loss {result.fun:.6g}: {result.message}"
        )
    return result
