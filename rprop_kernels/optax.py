"""Rprop for JAX: the four rules as gradient transformations of optax.

::

    optimizer = irprop_plus(learning_rate=0.01)
    state = optimizer.init(params)

    @jax.jit
    def step(params, state):
        loss, grads = jax.value_and_grad(loss_function)(params)
        updates, state = optimizer.update(grads, state, params, value=loss)
        return optax.apply_updates(params, updates), state

The arguments are those of ``optax.rprop``, whose updates come one step late. The state is one array for each
parameter (:mod:`rprop_kernels.state`), half of ``optax.rprop``'s in float32 and float64. Updates of half precision
parameters are float32, so that the sum is rounded once.

Everything is written in ``jax.numpy``: it runs under ``jit``, ``vmap`` (each row with its own loss), ``lax.scan`` and
``lax.fori_loop``, on any device, and sharded.
"""

import importlib.util
import math
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

import numpy as np

from .install import install_command

if _missing := [name for name in ("jax", "optax") if importlib.util.find_spec(name) is None]:
    raise ModuleNotFoundError(
        f"rprop_kernels.optax needs {' and '.join(_missing)}: {install_command('optax')}", name=_missing[0]
    )

import jax
import jax.numpy as jnp
import optax

from .hyperparameters import is_number
from .loss import NONFINITE, WORSE, compare_losses
from .rules import VARIANTS
from .state import STEP_LIMIT, decode, encoding_of

__all__ = ["RpropState", "irprop_minus", "irprop_plus", "rprop_minus", "rprop_plus", "signs_and_steps"]

STATE_DTYPES: Final = {"float16": "float32", "bfloat16": "float32", "float32": "float32", "float64": "float64"}
"""The dtype of a parameter's state, by that of the parameter."""


class RpropState(NamedTuple):
    """The state of the four transformations.

    Attributes:
        move: for each parameter one array of its shape: the last move, or the step size where no sign is remembered.
            :func:`signs_and_steps` returns both.
        prev_loss: the loss of the step before, NaN where there was none; None for rules that need no loss.

    Examples:
        >>> import jax.numpy as jnp
        >>> irprop_plus(0.5).init(jnp.zeros(2)).prev_loss
        Array(nan, dtype=float32)
    """

    move: Any
    prev_loss: Any = None


class Hyperparameters(NamedTuple):
    """The numbers of a transformation: Python floats, or arrays without dimensions that are being traced."""

    learning_rate: Any
    eta_minus: Any
    eta_plus: Any
    min_step_size: Any
    max_step_size: Any


class Bounds(NamedTuple):
    """Bounds of one parameter, each None or an array of its dtype that broadcasts to it."""

    lower: Any
    upper: Any


def rprop_minus(
    learning_rate: Any = 1e-2,
    eta_minus: Any = 0.5,
    eta_plus: Any = 1.2,
    min_step_size: Any = 1e-6,
    max_step_size: Any = 50.0,
    bounds: Any = None,
) -> optax.GradientTransformationExtraArgs:
    """Rprop-: a weight whose gradient changes its sign moves on, by the smaller step.

    The transformation gives final updates: nothing may come after it in ``optax.chain``.

    Args:
        learning_rate: the first step size, above 0 and within ``min_step_size`` and ``max_step_size``.
        eta_minus: the factor of a step size after a change of sign, between 0 and 1.
        eta_plus: the factor of a step size after equal signs, above 1.
        min_step_size: the smallest step size. Below 2^-63 (2^-255 in float64) it counts as that.
        max_step_size: the largest step size, at most 2^31.
        bounds: None, or ``(lower, upper)``, each None, a number, an array for a single parameter, or a tree like
            the parameters' with one of these for each. With bounds ``update`` needs ``params=``. A weight that
            meets a bound stops there, forgets its sign and steps by half its interval at most. No weight leaves its
            interval; because an update is a sum, a weight may stop a rounding before the bound.

    Returns:
        A transformation. Its ``update`` accepts ``value=``, the loss, as :func:`irprop_plus` does, and ignores it.

    Raises:
        ValueError, TypeError: naming the argument, its value and the remedy. Numbers that are being traced (under
            ``vmap`` or ``optax.inject_hyperparams``) are taken as they are.

    Examples:
        >>> import jax, jax.numpy as jnp, optax
        >>> optimizer = rprop_minus(learning_rate=0.5)
        >>> params = jnp.array([3.0, -4.0])
        >>> state = optimizer.init(params)
        >>> for _ in range(60):
        ...     grads = jax.grad(lambda x: (x**2).sum())(params)
        ...     updates, state = optimizer.update(grads, state)
        ...     params = optax.apply_updates(params, updates)
        >>> bool(abs(params).max() < 1e-4)
        True
    """
    hyper = Hyperparameters(learning_rate, eta_minus, eta_plus, min_step_size, max_step_size)
    return _transformation("rprop-", hyper, bounds)


def rprop_plus(
    learning_rate: Any = 1e-2,
    eta_minus: Any = 0.5,
    eta_plus: Any = 1.2,
    min_step_size: Any = 1e-6,
    max_step_size: Any = 50.0,
    bounds: Any = None,
) -> optax.GradientTransformationExtraArgs:
    """Rprop+: a weight whose gradient changes its sign takes its last move back.

    Arguments and errors are those of :func:`rprop_minus`.

    Examples:
        >>> import jax.numpy as jnp
        >>> optimizer = rprop_plus(learning_rate=0.5)
        >>> updates, state = optimizer.update(jnp.array([2.0, 0.0, -1e-9]), optimizer.init(jnp.zeros(3)))
        >>> updates.tolist()
        [-0.5, -0.0, 0.5]
        >>> updates, state = optimizer.update(jnp.array([-1.0, 0.0, -1e-9]), state)
        >>> updates.tolist()[0]
        0.5
    """
    hyper = Hyperparameters(learning_rate, eta_minus, eta_plus, min_step_size, max_step_size)
    return _transformation("rprop+", hyper, bounds)


def irprop_minus(
    learning_rate: Any = 1e-2,
    eta_minus: Any = 0.5,
    eta_plus: Any = 1.2,
    min_step_size: Any = 1e-6,
    max_step_size: Any = 50.0,
    bounds: Any = None,
) -> optax.GradientTransformationExtraArgs:
    """iRprop-: a weight whose gradient changes its sign stays for one step.

    Arguments and errors are those of :func:`rprop_minus`.

    Examples:
        >>> import jax.numpy as jnp
        >>> optimizer = irprop_minus(learning_rate=0.5, bounds=(0.0, None))
        >>> params = {"a": jnp.array([0.25])}
        >>> updates, state = optimizer.update({"a": jnp.array([1.0])}, optimizer.init(params), params)
        >>> updates["a"].tolist()
        [-0.25]
    """
    hyper = Hyperparameters(learning_rate, eta_minus, eta_plus, min_step_size, max_step_size)
    return _transformation("irprop-", hyper, bounds)


def irprop_plus(
    learning_rate: Any = 1e-2,
    eta_minus: Any = 0.5,
    eta_plus: Any = 1.2,
    min_step_size: Any = 1e-6,
    max_step_size: Any = 50.0,
    bounds: Any = None,
) -> optax.GradientTransformationExtraArgs:
    """iRprop+: a weight whose gradient changes its sign takes its last move back if the loss increased, else it stays.

    Arguments and errors are those of :func:`rprop_minus`. ``update`` needs ``value=``, the loss at the parameters
    where the gradients were taken. After a loss that is NaN or infinite every weight takes its last move back,
    unless there was no finite loss before. (flax's ``TrainState.apply_gradients`` passes no loss: call
    ``state.tx.update``.)

    Examples:
        >>> import jax, jax.numpy as jnp, optax
        >>> optimizer = irprop_plus(learning_rate=0.1)
        >>> def step(carry, _):
        ...     params, state = carry
        ...     loss, grads = jax.value_and_grad(lambda x: ((x**2 - 2) ** 2).sum())(params)
        ...     updates, state = optimizer.update(grads, state, value=loss)
        ...     return (optax.apply_updates(params, updates), state), loss
        >>> params = jnp.array([0.5, 1.0, 3.0])
        >>> (params, _), losses = jax.lax.scan(step, (params, optimizer.init(params)), length=60)
        >>> bool(abs(params - 2**0.5).max() < 1e-4)
        True
    """
    hyper = Hyperparameters(learning_rate, eta_minus, eta_plus, min_step_size, max_step_size)
    return _transformation("irprop+", hyper, bounds)


def signs_and_steps(state: RpropState) -> tuple[Any, Any]:
    """Return the remembered signs (-1, 0 or +1) and the step sizes, each a tree like the parameters'.

    Examples:
        >>> import jax.numpy as jnp
        >>> q, steps = signs_and_steps(rprop_minus(0.25).init({"a": jnp.zeros(1)}))
        >>> q["a"].tolist(), steps["a"].tolist()
        ([0.0], [0.25])
    """
    moves, structure = jax.tree.flatten(state.move)
    decoded = [decode(move, jnp) for move in moves]
    return tuple(structure.unflatten([pair[i] for pair in decoded]) for i in (0, 1))


# ------------------------------------------------------------------------------------------ the transformation


def _transformation(variant: str, hyper: Hyperparameters, bounds: Any) -> optax.GradientTransformationExtraArgs:
    hyper = _validate(hyper)
    halves = _halves(bounds)
    row = VARIANTS[variant]

    def init(params: Any) -> RpropState:
        leaves, structure = jax.tree.flatten(params)
        for name, param in zip(_names(params, "params"), leaves, strict=True):
            _state_dtype(name, param)
        if halves:
            for name, param, limits in zip(_names(params, "params"), leaves, _bounds(halves, params), strict=True):
                _check_start(name, param, limits)
        move = structure.unflatten([_first_state(param, hyper.learning_rate) for param in leaves])
        return RpropState(move, jnp.full((), jnp.nan, jnp.result_type(float)) if row.needs_loss else None)

    def update(
        updates: Any, state: RpropState, params: Any = None, *, value: Any = None, **extra_args: Any
    ) -> tuple[Any, RpropState]:
        del extra_args  # of other transformations in a chain
        prev_loss, backtracks, is_nonfinite = state.prev_loss, row.on_flip == "backtrack", None
        if value is not None:
            loss = _validate_loss(value)
        if row.needs_loss:
            if value is None:
                raise ValueError(
                    "irprop_plus needs the loss at the current parameters: pass update(grads, state, params, "
                    "value=loss), or use irprop_minus, which needs none"
                )
            outcome, prev_loss = compare_losses(loss.astype(prev_loss.dtype), prev_loss, xp=jnp)
            backtracks, is_nonfinite = outcome >= WORSE, outcome == NONFINITE
        moves, structure = jax.tree.flatten(state.move)
        grads = _gradients(updates, moves, structure)
        limits: Sequence[Bounds | None] = [None] * len(moves)
        leaves: Sequence[Any] = limits
        if halves:
            if params is None:
                raise ValueError("bounds need the parameters: pass update(grads, state, params)")
            limits, leaves = _bounds(halves, params), structure.flatten_up_to(params)
        rule = _move_on if row.on_flip == "move" else _stay_or_backtrack(backtracks)
        steps = [_step(rule, g, s, hyper, is_nonfinite) for g, s in zip(grads, moves, strict=True)]
        steps = [_stop_at_bounds(*s, p, b) if b else s for s, p, b in zip(steps, leaves, limits, strict=True)]
        new_updates, new_moves = (structure.unflatten([pair[i] for pair in steps]) for i in (0, 1))
        return new_updates, RpropState(new_moves, prev_loss)

    return optax.GradientTransformationExtraArgs(init, update)


# -------------------------------------------------------------------------------------------------- the rules


def _sign_bits(g: Any) -> tuple[Any, Any]:
    """Return where a gradient is neither 0 nor NaN, and where it is negative.

    It is read from the bits: XLA's CPU backend compares a denormal number as 0.
    """
    kind = jnp.dtype(f"int{8 * g.dtype.itemsize}")
    bits = jax.lax.bitcast_convert_type(g, kind)
    infinity = jax.lax.bitcast_convert_type(jnp.asarray(jnp.inf, g.dtype), kind)
    size = bits & jnp.iinfo(kind).max
    return (size != 0) & (size <= infinity), bits < 0


def _step(rule: Callable[..., Any], g: Any, move: Any, hyper: Hyperparameters, is_nonfinite: Any) -> tuple[Any, Any]:
    """Return the update and the new state of one parameter."""
    real = move.dtype
    encoding = encoding_of(real)
    _, eta_minus, eta_plus, step_min, step_max = (_cast(x, real) for x in hyper)
    has_grad, is_negative = _sign_bits(g)
    size = jnp.abs(move)
    has_sign = size <= encoding.threshold
    was_negative = move < 0
    if is_nonfinite is not None:  # every remembered move becomes a flip, the other weights stay
        has_grad = jnp.where(is_nonfinite, has_sign, has_grad)
        is_negative = jnp.where(is_nonfinite, ~was_negative, is_negative)
    compared = has_grad & has_sign
    flips = compared & (is_negative != was_negative)
    step = jnp.where(has_sign, size, size * (1 / encoding.shift))
    step = step * jnp.where(flips, eta_minus, jnp.where(compared, eta_plus, real.type(1)))
    step = jnp.minimum(jnp.maximum(step, jnp.maximum(step_min, real.type(encoding.min_step))), step_max)
    signed = jnp.where(is_negative, -step, step)
    return rule(move, signed, step * encoding.shift, has_grad, flips)  # type: ignore[no-any-return]


NO_MOVE: Final = -0.0  # w + -0.0 is w, for w = -0.0 too


def _move_on(move: Any, signed: Any, no_sign: Any, has_grad: Any, flips: Any) -> tuple[Any, Any]:
    return jnp.where(has_grad, -signed, NO_MOVE), jnp.where(has_grad, signed, no_sign)


def _stay_or_backtrack(backtracks: Any) -> Callable[..., tuple[Any, Any]]:
    def rule(move: Any, signed: Any, no_sign: Any, has_grad: Any, flips: Any) -> tuple[Any, Any]:
        moves = has_grad & ~flips
        moved_back = NO_MOVE if backtracks is False else jnp.where(flips & backtracks, move, NO_MOVE)
        return jnp.where(moves, -signed, moved_back), jnp.where(moves, signed, no_sign)

    return rule


def _stop_at_bounds(u: Any, move: Any, param: Any, bounds: Bounds) -> tuple[Any, Any]:
    """Shorten the update of a weight that meets a bound; it forgets its sign and steps by half its interval at most."""
    real = move.dtype
    encoding = encoding_of(real)
    param = jnp.asarray(param)
    w = param.astype(real)
    lower, upper = (jnp.asarray(-s * jnp.inf if x is None else x, real) for s, x in zip((1, -1), bounds, strict=True))
    moved = (w + u).astype(param.dtype).astype(real)
    at_upper = (moved >= upper) & (upper < jnp.inf)
    stops = at_upper | ((moved <= lower) & (lower > -jnp.inf))
    # The largest of three neighbours with w + u inside: w + (upper - w) rounds beyond the bound for many w.
    direction = jnp.where(at_upper, real.type(1), real.type(-1))
    distance = jnp.where(at_upper, upper - w, w - lower)
    start, end, near = map(jax.lax.stop_gradient, (direction * w, jnp.where(at_upper, upper, -lower), distance))
    above, below = (jnp.nextafter(near, real.type(x)) for x in (jnp.inf, -jnp.inf))
    further = (start + above <= end) & (start + above > start + near)
    inside = jnp.where(further, above, jnp.where(start + near <= end, near, below))
    stopped = direction * (distance + (inside - near))  # without rounding; its derivative is that of the distance
    size = jnp.abs(move)
    no_sign = jnp.where(size <= encoding.threshold, size * encoding.shift, size)
    largest = jnp.maximum((upper - lower) * real.type(0.5), real.type(encoding.min_step)) * encoding.shift
    return jnp.where(stops, stopped, u), jnp.where(stops, jnp.minimum(no_sign, largest), move)


def _first_state(param: Any, learning_rate: Any) -> Any:
    real = _state_dtype("params", param)
    encoding = encoding_of(real)
    first = jnp.maximum(_cast(learning_rate, real), real.type(encoding.min_step)) * encoding.shift
    return jnp.full_like(jnp.asarray(param), first, dtype=real)


# ------------------------------------------------------------------------------------------------- arguments


def _is_traced(x: Any) -> bool:
    return isinstance(x, jax.core.Tracer)


def _is_real(dtype: Any) -> bool:
    return bool(jnp.issubdtype(dtype, jnp.floating) or jnp.issubdtype(dtype, jnp.integer))


def _cast(x: Any, dtype: Any) -> Any:
    """Return a number in a dtype; one that is too large for it becomes infinite."""
    if _is_traced(x):
        return x.astype(dtype)
    with np.errstate(over="ignore"):
        return np.float64(x).astype(dtype)


def _validate(hyper: Hyperparameters) -> Hyperparameters:
    """Return the numbers as floats; those that are being traced as they are, without a check of their range."""
    defaults = Hyperparameters(1e-2, 0.5, 1.2, 1e-6, 50.0)
    numbers = [_to_number(*item) for item in zip(hyper._fields, hyper, defaults, strict=True)]
    checked = Hyperparameters(*numbers)
    known = Hyperparameters(*(None if _is_traced(x) else x for x in checked))

    def refuse(name: str, remedy: str) -> ValueError:
        return ValueError(f"{name}={getattr(known, name)!r} is not valid: {remedy}")

    low, high = known.min_step_size, known.max_step_size
    if known.eta_minus is not None and not 0.0 < known.eta_minus < 1.0:
        raise refuse("eta_minus", "pass a factor above 0 and below 1, such as 0.5")
    if known.eta_plus is not None and not 1.0 < known.eta_plus < math.inf:
        raise refuse("eta_plus", "pass a finite factor above 1, such as 1.2")
    if low is not None and not 0.0 <= low < math.inf:
        raise refuse("min_step_size", "pass a finite number of at least 0, such as 1e-6")
    if high is not None and not 0.0 < high <= STEP_LIMIT:
        raise refuse("max_step_size", f"pass a number above 0 and at most 2**31 = {STEP_LIMIT:.0f}, such as 50.0")
    if low is not None and high is not None and low > high:
        raise refuse("min_step_size", f"it must be at most max_step_size={high!r}")
    rate = known.learning_rate
    if rate is not None and not ((low or 0.0) <= rate <= (STEP_LIMIT if high is None else high) and rate > 0.0):
        raise refuse(
            "learning_rate",
            "it is the first step size and must be above 0 and within "
            f"min_step_size={low!r} and max_step_size={high!r}",
        )
    return checked


def _to_number(name: str, value: Any, default: float) -> Any:
    try:
        if isinstance(value, jax.Array):
            if value.shape or not _is_real(value.dtype):
                raise TypeError
            return value if _is_traced(value) else float(value)
        if not is_number(value):
            raise TypeError
        return float(value)
    except (TypeError, ValueError, OverflowError, RuntimeError):
        raise ValueError(f"{name} must be one number, got {value!r}: pass a float such as {default}") from None


def _validate_loss(value: Any) -> Any:
    """Return the loss as an array without dimensions."""
    valid = isinstance(value, jax.Array) or is_number(value)
    loss = jnp.asarray(value) if valid else None
    if loss is None or not _is_real(loss.dtype):
        raise TypeError(f"value is {value!r} ({type(value).__name__}): pass the loss, one real number")
    if loss.shape:
        raise ValueError(
            f"value has shape {loss.shape}, but the loss is one number: reduce it, such as by .mean(), or step each "
            "row by its own loss with jax.vmap over init and update"
        )
    return loss


def _names(tree: Any, root: str) -> list[str]:
    return [root + jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_flatten_with_path(tree)[0]]


def _state_dtype(name: str, param: Any) -> Any:
    dtype = jnp.result_type(param)
    if dtype.name not in STATE_DTYPES:
        raise TypeError(
            f"{name} is {dtype.name}: pass an array of {', '.join(STATE_DTYPES)}; optax.masked or equinox.partition "
            "leaves other arrays out, and a complex one is two real ones (optax.contrib.split_real_and_imaginary)"
        )
    return jnp.dtype(STATE_DTYPES[dtype.name])


def _gradients(updates: Any, moves: Sequence[Any], structure: Any) -> list[Any]:
    """Return the gradients as arrays, one for each parameter."""
    found, found_structure = jax.tree.flatten(updates)
    if found_structure != structure:
        raise ValueError(
            f"the gradients have the structure {found_structure}, the parameters {structure}: pass the gradients of "
            "the parameters that init received"
        )
    grads = [jnp.asarray(g) for g in found]
    for name, g, move in zip(_names(updates, "grads"), grads, moves, strict=True):
        if g.dtype.name not in STATE_DTYPES:
            raise TypeError(f"{name} is {g.dtype.name}: pass a gradient of {', '.join(STATE_DTYPES)}")
        if g.shape != move.shape:
            raise ValueError(f"{name} has shape {g.shape}, its parameter {move.shape}: pass one of the same shape")
    return grads


# ---------------------------------------------------------------------------------------------------- bounds

_PAIRS_HINT: Final = "SciPy's list of pairs becomes that by tuple(np.transpose(pairs))."


def _halves(bounds: Any) -> tuple[Any, Any] | None:
    """Return lower and upper bounds as they were passed; None where there are none."""
    if bounds is None:
        return None
    if hasattr(bounds, "lb") and hasattr(bounds, "ub"):  # scipy.optimize.Bounds
        bounds = (bounds.lb, bounds.ub)
    if not isinstance(bounds, tuple) or len(bounds) != 2:
        raise TypeError(f"bounds must be a tuple (lower, upper), got {bounds!r}. {_PAIRS_HINT}")
    return None if bounds[0] is None and bounds[1] is None else bounds


def _bounds(halves: tuple[Any, Any], params: Any) -> list[Bounds | None]:
    """Return the bounds of each parameter, None for one without."""
    leaves, structure = jax.tree.flatten(params)
    names = _names(params, "params")
    lowers, uppers = (
        [
            _bound(f"{side} bound of {name}", item, param, sign)
            for name, item, param in zip(names, _per_parameter(side, half, structure), leaves, strict=True)
        ]
        for side, half, sign in (("lower", halves[0], -1), ("upper", halves[1], 1))
    )
    result: list[Bounds | None] = []
    for name, lower, upper in zip(names, lowers, uppers, strict=True):
        known = [x for x in (lower, upper) if x is not None and not _is_traced(x)]
        valid = not any(np.isnan(x).any() for x in known)
        if lower is not None and not _is_traced(lower):
            valid = valid and bool(np.all(lower < np.inf))
        if upper is not None and not _is_traced(upper):
            valid = valid and bool(np.all(upper > -np.inf))
        if len(known) == 2:
            valid = valid and bool(np.all(known[0] <= known[1]))
        if not valid:
            raise ValueError(
                f"bounds of {name} cross, are NaN, or leave no finite value: pass (lower, upper) with lower <= upper "
                "everywhere"
            )
        result.append(None if lower is None and upper is None else Bounds(lower, upper))
    return result


def _per_parameter(side: str, half: Any, structure: Any) -> list[Any]:
    """Return one side of the bounds for each parameter: a number for all, or the items of a tree."""
    is_single = structure == jax.tree.structure(0)
    if half is None or (
        not isinstance(half, (tuple, list, dict)) and np.ndim(half) == 0 and hasattr(half, "__float__")
    ):
        return [half] * structure.num_leaves
    if is_single and isinstance(half, tuple):
        raise TypeError(f"the {side} bound is a tuple, {half!r}: pass a number or an array. {_PAIRS_HINT}")
    try:
        items: list[Any] = structure.flatten_up_to(half)
    except (ValueError, TypeError):
        raise TypeError(
            f"the {side} bound is {type(half).__name__}, the parameters have the structure {structure}: pass a number "
            "for all, or a tree of that structure with None, a number or an array for each parameter"
        ) from None
    return items


def _bound(name: str, value: Any, param: Any, sign: int) -> Any:
    """Return a bound in the parameter's dtype, as a NumPy array unless it is being traced."""
    if value is None:
        return None
    dtype, shape = jnp.result_type(param), np.shape(param)
    try:
        array = jnp.asarray(value) if _is_traced(value) else np.asarray(value)
        if not _is_real(array.dtype):
            raise TypeError
    except (TypeError, ValueError):
        raise TypeError(f"{name} is {value!r}: pass a number, or an array of numbers") from None
    try:
        fits = np.broadcast_shapes(array.shape, shape) == shape
    except ValueError:
        fits = False
    if not fits:
        raise ValueError(
            f"{name} has shape {array.shape}, its parameter {shape}: pass one value, or an array of that shape"
        )
    if _is_traced(array):
        return array.astype(dtype)
    with np.errstate(over="ignore"):
        array = array.astype(dtype)
    # XLA's CPU backend computes with 0 in the place of denormal numbers: such a bound moves inwards.
    tiny = jnp.finfo(dtype).tiny
    towards_zero = (array * sign > 0) & (array * sign < tiny)
    from_zero = (array * sign < 0) & (array * sign > -tiny)
    return np.where(towards_zero, dtype.type(0), np.where(from_zero, dtype.type(-sign * tiny), array)).astype(dtype)


def _check_start(name: str, param: Any, bounds: Bounds | None) -> None:
    """Check that a parameter whose values are known starts within its bounds."""
    if bounds is None or _is_traced(param) or any(map(_is_traced, bounds)):
        return
    w = np.asarray(param).astype(jnp.result_type(param))
    lower, upper = (
        np.broadcast_to(s * np.inf if x is None else x, w.shape) for s, x in zip((-1, 1), bounds, strict=True)
    )
    outside = (w < lower) | (w > upper)
    if np.any(outside):
        index = tuple(int(i) for i in np.argwhere(outside)[0])
        raise ValueError(
            f"{name} starts outside its bounds: {w[index]} at index {index} is not within [{lower[index]}, "
            f"{upper[index]}]; start inside, such as at jnp.clip(x, lower, upper). {_PAIRS_HINT}"
        )
