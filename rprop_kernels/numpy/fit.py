"""minimize: from a function and a starting point to the best point, for one problem or for many at once."""

import contextlib
import inspect
import math
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .. import hyperparameters, stopping
from ..backends import resolve_backend
from ..bounds import Constraints
from ..fit_arguments import make_callback, parse_in_dims, refuse_unknown
from ..install import install_command
from ..result import Result
from ..starts import best_of_starts, unbounded_error, validate_starts
from ..state import encode
from .objective import LoopObjective, Objective, RowsObjective, describe
from .options import make_constraints
from .search import Search
from .validation import as_array, float_array
from .variants import class_for_method

Array: TypeAlias = NDArray[Any]
Pair: TypeAlias = tuple[float, float]


def nearest_power_of_two(value: Array) -> Array:
    """Return the power of two that is nearest on a logarithmic scale.

    Examples:
        >>> nearest_power_of_two(np.array([1.0, 3.0, 1e-3])).tolist()
        [1.0, 4.0, 0.0009765625]
    """
    mantissa, exponent = np.frexp(value)
    power: Array = np.ldexp(np.ones_like(value), exponent - (mantissa < math.sqrt(0.5)))
    return power


def make_scale(x_scale: Any, x: Array, constraints: Constraints | None, name: str) -> Array | None:
    """Return the powers of two by which the variables are divided, of x's shape; None where there are none.

    Raises:
        TypeError, ValueError: not numbers above 0, or of another shape.
    """
    if x_scale is None:
        return None
    if isinstance(x_scale, str):
        if x_scale != "auto":
            raise ValueError(f"x_scale={x_scale!r}: pass 'auto', a number above 0, or an array of these")
        scale = np.where(x == 0, x.dtype.type(1), np.abs(x))
        if constraints is not None and constraints.lower is not None and constraints.upper is not None:
            with np.errstate(over="ignore"):
                width = constraints.upper - constraints.lower
            scale = np.where(np.isfinite(width) & (width > 0), width, scale)
    else:
        scale = float_array("x_scale", x_scale)
        if not (np.isfinite(scale).all() and (scale > 0).all()):
            raise ValueError(f"x_scale={x_scale!r}: pass 'auto', a number above 0, or an array of these")
        try:
            scale = np.broadcast_to(scale, x.shape)
        except ValueError:
            raise ValueError(f"x_scale has shape {scale.shape}, {name} {x.shape}: pass one that fits") from None
    with np.errstate(over="ignore", under="ignore"):
        return nearest_power_of_two(scale).astype(x.dtype)


def make_start(x0: Any) -> Array:
    """Return x0 as a new array: float32 stays, everything else becomes float64.

    Raises:
        TypeError, ValueError: it is not an array of finite real numbers.
    """
    start = as_array("x0", x0)
    if start.dtype.kind not in "fiu":
        raise TypeError(f"x0 is {describe(x0)}: pass an array of real numbers")
    if start.size == 0:
        raise ValueError(f"x0 has shape {start.shape}: pass an array that is not empty")
    start = np.array(start, dtype=np.float32 if start.dtype == np.float32 else np.float64, order="C")
    if not np.isfinite(start).all():
        raise ValueError("x0 has a NaN or an infinity: pass finite numbers")
    return start


def make_first_state(lr: Any, x: Array, step_sizes: Pair, name: str) -> Array:
    """Return the state of weights that have not moved, D = lr.

    Raises:
        ValueError: lr is not above 0 and within step_sizes, or of another shape.
    """
    if isinstance(lr, (list, np.ndarray)) and np.ndim(lr):
        steps = float_array("lr", lr)
        for value in (steps.min(), steps.max()) if steps.size else ():
            hyperparameters.validate_lr(value, step_sizes)
        try:
            steps = np.broadcast_to(steps, x.shape).astype(x.dtype)
        except ValueError:
            raise ValueError(f"lr has shape {steps.shape}, {name} {x.shape}: pass one that fits") from None
    else:
        steps = np.full_like(x, hyperparameters.validate_lr(lr, step_sizes))
    state: Array = encode(np.zeros_like(x), steps)
    return state


def sobol_starts(start: Array, constraints: Constraints | None, starts: int, seed: Any) -> Array:
    """Return x0 and starts - 1 points of a scrambled Sobol sequence within the bounds, shape (starts, *x0.shape).

    Frozen weights keep their values in x0.

    Raises:
        ValueError: a weight that is not frozen lacks a finite bound.
        ModuleNotFoundError: SciPy is missing.
    """
    lower, upper, frozen = constraints or Constraints()
    free = np.ones(start.shape, bool) if frozen is None else ~frozen
    bounds = [np.broadcast_to(np.inf if x is None else x, start.shape) for x in (lower, upper)]
    infinite = free & ~(np.isfinite(bounds[0]) & np.isfinite(bounds[1]))
    if infinite.any():
        raise unbounded_error(starts, tuple(int(i) for i in np.argwhere(infinite)[0]), "x0")
    if starts == 1 or not free.any():
        return np.repeat(start[None], starts, axis=0)
    try:
        from scipy.stats import qmc  # type: ignore[import-untyped,unused-ignore]
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(f"starts needs SciPy: {install_command('scipy')}", name="scipy") from error
    name = "rng" if "rng" in inspect.signature(qmc.Sobol).parameters else "seed"
    sequence = qmc.Sobol(int(free.sum()), scramble=True, **{name: np.random.default_rng(seed)})
    unit = sequence.random_base2(max(starts - 2, 0).bit_length())[: starts - 1]
    points = np.repeat(start[None], starts, axis=0)
    low, high = (x[free].astype(np.float64) for x in bounds)
    points[1:, free] = np.clip(low + unit * (high - low), low, high)
    return points


# ----------------------------------------------------------------------------------------------- minimize


def minimize(
    fun: Callable[..., Any],
    x0: ArrayLike,
    args: Any = (),
    *,
    method: str = "irprop+",
    jac: Any = None,
    bounds: Any = None,
    frozen: Any = None,
    x_scale: Any = None,
    maximize: bool = False,
    lr: Any = 1e-2,
    etas: Pair = (0.5, 1.2),
    step_sizes: Pair = (0.0, 50.0),
    gtol: float | None = 1e-5,
    ftol: float | None = 1e-9,
    xtol: float | None = 1e-10,
    window: int = 50,
    patience: int | None = None,
    target: float | None = None,
    max_steps: int | None = 3000,
    max_evals: int | None = None,
    batched: bool = False,
    in_dims: Any = None,
    chunk_size: int | None = None,
    starts: int | None = None,
    seed: int | None = None,
    check_noise: bool = True,
    callback: Callable[..., object] | None = None,
    progress: bool = False,
    backend: str | None = None,
    **unknown: Any,
) -> Result:
    """Minimise a function of an array, or, with ``batched=True``, of each row of an array.

    Each step changes every weight by its own step size, in the direction of the gradient's sign
    (:mod:`rprop_kernels.numpy` has the rules). The point with the lowest loss is returned, not the last one. A loss
    that is NaN or infinite takes the last moves back and shrinks their steps, with every method.

    Args:
        fun: ``fun(x, *args)`` returns the loss, a number; with ``jac=True`` ``(loss, gradient)``. It gets a copy.
        x0: the starting point, of any shape; only read. float32 stays, everything else becomes float64.
        args: more arguments of fun and jac: a tuple, or one argument.
        method: ``"rprop-"``, ``"rprop+"``, ``"irprop-"`` or ``"irprop+"``.
        jac: True, or a function ``jac(x, *args)`` that returns the gradient, of x's shape.
        bounds: ``(lower, upper)``, or a scipy.optimize.Bounds: each half None, a number, or an array that broadcasts to
            x0. A weight that meets a bound stops there.
        frozen: a boolean mask that broadcasts to x0. Where it is true the weight never moves, and its gradient may be
            anything.
        x_scale: the size of the variables: a number, an array that broadcasts to x0, or ``"auto"``: the width where
            both bounds are finite, else abs(x0) where it is not 0, else 1. The search is for x / x_scale, with each
            rounded to a power of two: lr, step_sizes and xtol are in these units, and gtol compares x_scale * gradient.
        maximize: ascend instead of descend.
        lr: the first step size; a number or an array that broadcasts to x0, within step_sizes.
        etas: ``(eta_minus, eta_plus)``, factors of the step size where the gradient changed its sign and where it did
            not.
        step_sizes: ``(D_min, D_max)``; steps never shrink below 2**-63 (float64: 2**-255).
        gtol: stop where the loss is not above the best and no component of the projected gradient is above it: at a
            bound only components that point inwards count.
        ftol: stop where the best loss has decreased by at most ``ftol * abs(loss)`` within the last ``window`` steps.
        xtol: stop where every step size is at most ``xtol * max(abs(x), 1)``, in units of x_scale, or at D_min; tested
            every 8 steps. Weights that are frozen or held at a bound do not count. None switches gtol, ftol or xtol
            off.
        window: see ftol; also the number of evaluations in a row without a finite loss after which the search ends.
        patience: stop after as many steps without a new best loss.
        target: stop where the loss has reached it.
        max_steps: the largest number of steps; they need one evaluation more.
        max_evals: the largest number of evaluations.
        batched: whether the first dimension of x0 counts problems. fun then returns losses of shape (rows,) (and
            gradients of x's shape) for x of shape (rows, ...). Each problem is stepped by its own loss and stops by
            itself. Rows leave x once at least an eighth of it has finished; a row's path is to the bit that of the
            problem alone, where fun gives a row the same bits in any batch.
        in_dims: with ``batched``: for each of args the dimension that counts the problems, None for an argument that
            all share. fun that takes the keyword ``rows`` gets the numbers of the problems in x.
        chunk_size: with ``batched``: the largest number of rows in one call of fun.
        starts: start from x0 and ``starts - 1`` points of a scrambled Sobol sequence within the bounds (needs SciPy),
            and return the best result; the others are in ``Result.all``.
        seed: of the starts; None takes fresh entropy, which ``Result.seed`` holds.
        check_noise: evaluate fun twice at x0 and warn where the losses differ by more than 1e-6 relative. The second
            evaluation counts in ``calls`` alone.
        callback: ``callback(x)`` after each step, or ``callback(*, intermediate_result)``, an object with x, fun and
            nit; StopIteration ends the search. With several rows x and fun hold all of them.
        progress: show a bar (rich or tqdm, else lines on stderr).
        backend: ``"cython"``, ``"numba"`` or ``"numpy"``; None takes the first that is available.

    Returns:
        A :class:`rprop_kernels.result.Result`. Ctrl-C ends the search with the best point so far.

    Raises:
        TypeError, ValueError: naming the argument, its value and the remedy, before the first step.
        Exception: one of fun, jac or callback; its attribute ``result`` holds the result so far.

    Examples:
        >>> import numpy as np
        >>> from rprop_kernels.numpy import minimize
        >>> result = minimize(lambda x: (x @ x, 2 * x), np.array([3.0, 4.0]), jac=True, bounds=(1.0, None))
        >>> result.x.tolist(), result.reason
        ([1.0, 1.0], 'gtol')

        Ten thousand problems, each with data of its own:

        >>> centers = np.linspace(-1.0, 1.0, 20_000).reshape(10_000, 2)
        >>> def fun(x, c):
        ...     return ((x - c) ** 2).sum(axis=1), 2 * (x - c)
        >>> many = minimize(fun, np.zeros((10_000, 2)), centers, in_dims=0, jac=True, batched=True)
        >>> bool(many.success.all()), bool(np.abs(many.x - centers).max() < 1e-5)
        (True, True)
    """
    refuse_unknown(unknown)
    if not callable(fun):
        raise TypeError(f"fun is a {type(fun).__name__}: pass a function of x")
    if jac is not True and not callable(jac):
        raise TypeError(
            f"jac={jac!r}: pass jac=True where fun returns (loss, gradient), or a function of x that returns "
            "the gradient; "
            "rprop_kernels.scipy has methods with finite differences"
        )
    args = args if isinstance(args, tuple) else (args,)
    batched = hyperparameters.validate_bool("batched", batched)
    start = make_start(x0)
    if batched and start.ndim == 0:
        raise ValueError("x0 has shape (), but batched=True needs a first dimension that counts the problems")
    for name, value in (("in_dims", in_dims), ("chunk_size", chunk_size)):
        if value is not None and not batched:
            raise ValueError(f"{name}={value!r} is for many problems: pass batched=True, or leave it out")
    starts, seed = validate_starts(starts, seed)
    objective: Any
    if batched:
        size = None if chunk_size is None else stopping.whole_number("chunk_size", chunk_size, 1)
        objective = RowsObjective(fun, jac, args, parse_in_dims(in_dims, args, len(start)), len(start), size)
    elif starts is not None:
        objective = LoopObjective(fun, jac, args, (None,) * len(args), 1, None)
    else:
        objective = Objective(fun, jac, args)
    return run(
        objective,
        start,
        method=method,
        bounds=bounds,
        frozen=frozen,
        x_scale=x_scale,
        maximize=maximize,
        lr=lr,
        etas=etas,
        step_sizes=step_sizes,
        rules=stopping.validate(gtol, ftol, xtol, window, patience, target, max_steps, max_evals),
        batched=batched,
        starts=starts,
        seed=seed,
        check_noise=check_noise,
        callback=callback,
        progress=progress,
        backend=backend,
    )


def run(
    objective: Any,
    start: Array,
    *,
    method: str = "irprop+",
    bounds: Any = None,
    frozen: Any = None,
    x_scale: Any = None,
    maximize: bool = False,
    lr: Any = 1e-2,
    etas: Pair = (0.5, 1.2),
    step_sizes: Pair = (0.0, 50.0),
    rules: stopping.StoppingRules,
    batched: bool = False,
    starts: int | None = None,
    seed: int | None = None,
    check_noise: bool = False,
    callback: Callable[..., object] | None = None,
    progress: bool = False,
    backend: str | None = None,
    raise_interrupt: bool = False,
    name: str = "x0",
) -> Result:
    """Minimise an objective; see `minimize` for the arguments.

    Args:
        objective: see :class:`.search.Search`; with ``starts`` or ``batched`` one of rows.
        start: x0 from `make_start`.
        rules: validated.
        name: of x0, for messages.
        raise_interrupt: whether Ctrl-C is raised, with the result so far, and not a reason to stop.
    """
    class_for_method(method)
    hyper = hyperparameters.validate(etas, step_sizes)
    maximize = hyperparameters.validate_bool("maximize", maximize)
    try:
        found = make_constraints(bounds, frozen, [start], array_like=True, is_start=True)
    except (TypeError, ValueError) as error:
        raise type(error)(str(error).replace("params[0]", name).replace("frozen[0]", "frozen")) from None
    constraints = None if found is None else found[0]
    scale = make_scale(x_scale, start, constraints, name)
    state = make_first_state(lr, start, hyper[2:], name)
    arrays: list[Array | None] = [state, scale, *(constraints or Constraints())]
    starts, seed = validate_starts(starts, seed)
    if starts is not None:
        assert seed is not None
        points = (
            _starts_of_all(start, constraints, starts, seed)
            if batched
            else _starts_of_one(start, constraints, starts, seed)
        )
        shape = (points.shape[0] * points.shape[1], *points.shape[2:]) if batched else points.shape
        arrays = [
            None if array is None else np.broadcast_to(array, points.shape).reshape(shape).copy() for array in arrays
        ]
        start = points.reshape(shape)
    state, scale, *limits = arrays  # type: ignore[assignment]
    search = Search(
        objective,
        start,
        state,
        Constraints(*limits),
        scale,
        method=method,
        hyper=hyper,
        maximize=maximize,
        backend=resolve_backend(backend, "arrays"),
        rules=rules,
        rows=batched or starts is not None,
        check_noise=hyperparameters.validate_bool("check_noise", check_noise),
        callback=make_callback(callback),
        progress=hyperparameters.validate_bool("progress", progress),
        raise_interrupt=raise_interrupt,
    )
    try:
        search.run()
    except BaseException as error:
        with contextlib.suppress(AttributeError):  # an exception with slots
            error.result = _finish(search, starts, batched, maximize, seed)  # type: ignore[attr-defined]
        raise
    return _finish(search, starts, batched, maximize, seed)


def _finish(search: Search, starts: int | None, batched: bool, maximize: bool, seed: int | None) -> Result:
    result = search.result()
    return result if starts is None else best_of_starts(result, starts, batched, maximize, seed)


def _starts_of_one(start: Array, constraints: Constraints | None, starts: int, seed: int) -> Array:
    return sobol_starts(start, constraints, starts, seed)


def _starts_of_all(start: Array, constraints: Constraints | None, starts: int, seed: int) -> Array:
    """Return starting points of all problems, shape (starts, B, ...)."""
    limits = [None if x is None else np.broadcast_to(x, start.shape) for x in constraints or Constraints()]
    points = [
        sobol_starts(x, Constraints(*(None if limit is None else limit[row] for limit in limits)), starts, seed)
        for row, x in enumerate(start)
    ]
    return np.stack(points, axis=1)
