"""minimize: from a function of tensors, or a loss of a Module, to the best point."""

import contextlib
import math
from collections.abc import Callable
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from .. import hyperparameters, stopping
from ..backends import resolve_backend
from ..bounds import Constraints, validate_bounds, validate_first_steps, validate_start
from ..fit_arguments import make_callback, parse_in_dims, refuse_unknown
from ..progress import start_progress
from ..result import Result
from ..rules import VARIANTS
from ..starts import best_of_starts, validate_starts
from ..warn import warn_user
from .newton import LARGEST, SETTLED, Newton
from .objective import Objective, StartsObjective
from .search import Search
from .starts import draw_starts
from .state import new_state
from .structure import Structure

Pair: TypeAlias = tuple[float, float]
METHODS = tuple(row.name for row in VARIANTS.values() if row.state == ("move",))


def _make_constraints(structure: Structure, bounds: Any, frozen: Any) -> list[Constraints]:
    """Return the constraints of each part as tensors of its shape.

    Raises:
        TypeError, ValueError: naming the argument, its value and the remedy.
    """
    constraints = []
    masks = structure.option("frozen", frozen)
    for i, ((low, high), mask) in enumerate(zip(structure.bounds(bounds), masks, strict=True)):
        part = structure.tensors[i].detach()
        lower, upper = structure.tensor("lower bound", low, i), structure.tensor("upper bound", high, i)
        if lower is not None or upper is not None:
            low = torch.full_like(part, -math.inf) if lower is None else lower
            high = torch.full_like(part, math.inf) if upper is None else upper
            validate_bounds(structure.place(i), low, high, torch)
            validate_start(structure.place(i), part, low, high, torch)
        constraints.append(Constraints(lower, upper, structure.tensor("frozen", mask, i, "booleans")))
    return constraints


def _nearest_power_of_two(value: Tensor) -> Tensor:
    """Return the power of two that is nearest on a logarithmic scale."""
    mantissa, exponent = torch.frexp(value.double())
    return torch.ldexp(torch.ones_like(mantissa), exponent - (mantissa < math.sqrt(0.5)).to(exponent.dtype))


def _make_scales(structure: Structure, x_scale: Any, constraints: list[Constraints]) -> list[Tensor] | None:
    """Return the powers of two by which the variables are divided; None where there are none.

    Raises:
        TypeError, ValueError: not numbers above 0, or of another shape.
    """
    if x_scale is None:
        return None
    automatic = isinstance(x_scale, str)
    if automatic and x_scale != "auto":
        raise ValueError(f"x_scale={x_scale!r}: pass 'auto', a number above 0, or tensors of these")
    scales = []
    for i, item in enumerate([None] * len(structure.tensors) if automatic else structure.option("x_scale", x_scale)):
        part, (lower, upper, _) = structure.tensors[i].detach(), constraints[i]
        scale = None if item is None else structure.tensor("x_scale", item, i)
        if scale is None and not automatic:
            scale = torch.ones_like(part)
        elif scale is None:
            if structure.module is not None:
                size = part.double().square().mean().sqrt().expand(part.shape)
            else:
                size = part.double().abs()
            scale = torch.where(size == 0, 1.0, size)
            if lower is not None and upper is not None:
                width = upper.double() - lower.double()
                scale = torch.where(width.isfinite() & (width > 0), width, scale)
        if not bool((scale.isfinite() & (scale > 0)).all()):
            raise ValueError(f"x_scale of {structure.place(i)}: pass 'auto', a number above 0, or tensors of these")
        scales.append(_nearest_power_of_two(scale).to(part.dtype))
    return scales


def _make_states(structure: Structure, x: list[Tensor], lr: Any, step_sizes: Pair) -> list[Tensor]:
    """Return the states of weights that have not moved, D = lr.

    Raises:
        TypeError, ValueError: lr is not above 0 and within step_sizes, or of another shape.
    """
    states = []
    for i, item in enumerate(structure.option("lr", lr)):
        if not hyperparameters.is_per_weight(item):
            states.append(new_state(x[i], hyperparameters.validate_lr(item, step_sizes)))
            continue
        steps = structure.tensor("lr", item, i)
        assert steps is not None
        limits = torch.tensor(step_sizes, dtype=torch.float64).to(steps.dtype)
        validate_first_steps(f"lr of {structure.place(i)}", steps, (limits[0], limits[1]), torch)
        states.append(new_state(x[i], steps))
    return states


def _check_module(module: nn.Module | None, batched: bool, jac: bool, starts: int | None) -> None:
    if module is None:
        return
    if starts is not None:
        raise ValueError(f"starts={starts} does not take a Module, which is stepped in place: pass tensors")
    if batched:
        raise ValueError("batched=True does not take a Module, which is one problem: pass tensors with a row for each")
    if jac:
        raise ValueError("jac=True does not take a Module: leave it out, autograd computes its gradients")
    random = (nn.modules.dropout._DropoutNd, nn.modules.batchnorm._BatchNorm)
    if any(part.training and isinstance(part, random) for part in module.modules()):
        warn_user(
            "the Module is in training mode and holds dropout or batch norm, so that its loss is not the same "
            "function at "
            "every step: call module.eval() first",
            UserWarning,
        )


def _as_rows(x: Tensor, batched: bool) -> Tensor:
    """Return starting points, of shape (K, B, ...) where batched, as rows."""
    return x.flatten(0, 1) if batched else x


def _repeat(x: Tensor, starts: int, batched: bool) -> Tensor:
    """Return the same values for each of several starting points, as rows."""
    return _as_rows(x.expand(starts, *x.shape), batched).clone(memory_format=torch.contiguous_format)


def _check_finish(finish: Any, jac: Any, structure: Structure, batched: bool) -> None:
    """Raise ValueError where there is no such finish, or not for this problem."""
    if finish is None:
        return
    if finish != "newton":
        raise ValueError(f"there is no finish {finish!r}: pass 'newton', or leave it out")
    if jac is True:
        raise ValueError("finish='newton' has no second derivatives with jac=True: leave jac out, or finish")
    count = sum(t.numel() for t in structure.tensors) // (max(len(structure.tensors[0]), 1) if batched else 1)
    if count > LARGEST:
        raise ValueError(
            f"finish='newton' is for at most {LARGEST} variables a problem, and there are {count}: leave it out"
        )


def minimize(
    fun: Callable[..., Any],
    x0: Any,
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
    finish: str | None = None,
    check_noise: bool = True,
    callback: Callable[..., object] | None = None,
    progress: bool = False,
    backend: str | None = None,
    **unknown: Any,
) -> Result:
    """Minimise a function of tensors, the loss of a Module, or, with ``batched=True``, of each row of tensors.

    The point with the lowest loss is returned, not the last one. A loss that is NaN or infinite takes the last moves
    back and shrinks their steps, with every method.

    Args:
        fun: ``fun(x, *args)`` returns the loss, of which autograd computes the gradient; with ``jac=True`` ``(loss,
            gradient)``. x has the form of x0. For a Module ``fun(*args)``.
        x0: a tensor; a list or dict of tensors; or a Module, whose parameters that require gradients are stepped in
            place, and hold the best point in the end. Tensors are only read.
        args: more arguments of fun: a tuple, or one argument.
        method: ``"rprop-"``, ``"rprop+"``, ``"irprop-"`` or ``"irprop+"``.
        jac: None, or True where fun returns the gradient, too.
        bounds: for a tensor ``(lower, upper)``, each None, a number, or a tensor or array that broadcasts to it; for a
            list a pair of lists with one of these for each tensor. For a dict or Module a dict of such pairs by name;
            patterns as ``"*.log_scale"`` stand for several names, an exact name precedes. A number holds for all.
        frozen, lr, x_scale: likewise; see :func:`rprop_kernels.numpy.minimize`. ``x_scale="auto"`` of a Module is the
            root mean square of each tensor.
        maximize, etas, step_sizes: as there.
        gtol, ftol, xtol, window, patience, target, max_steps, max_evals: as there.
        batched: whether the first dimension of the tensors counts problems. fun then returns losses of shape (rows,).
            Each problem is stepped by its own loss and stops by itself; rows leave once at least an eighth has
            finished.
        in_dims: with ``batched``: for each of args the dimension that counts the problems, None for an argument that
            all share. fun that takes the keyword ``rows`` gets the numbers of the problems in x.
        chunk_size: with ``batched``: the largest number of rows in one call of fun.
        starts: start from x0 and ``starts - 1`` points of a scrambled Sobol sequence within the bounds, as one batch,
            and return the best result; the others are in ``Result.all``. fun of one problem is run by
            ``torch.func.vmap``, in a loop where that refuses it. With ``batched`` there are as many rows of each
            problem. Not for a Module.
        seed: of the starts; None takes fresh entropy, which ``Result.seed`` holds.
        finish: ``"newton"`` goes on with a damped Newton method after 40 steps, or earlier where Rprop
            has stopped: for at most 32 variables a problem, where autograd can differentiate fun twice. Its
            steps have the same tolerances and limits, counted anew (max_evals: together); ftol also ends it where
            rounding hides the decrease that it predicts. A success of Rprop's stays one. The result then has ``hess``
            and ``cov()``.
        check_noise, callback, progress: as there. The second evaluation of check_noise counts in ``calls`` alone.
        backend: ``"cython"``, ``"numba"``, ``"torch"`` or ``"triton"``. CUDA tensors are stepped by Triton where it is
            installed, unless it is ``"torch"``.

    Returns:
        A :class:`rprop_kernels.result.Result` of tensors; x has the form of x0, and the gradient of a Module is a dict
        by the names of its parameters. Ctrl-C ends the search with the best point so far.

    Raises:
        TypeError, ValueError: naming the argument, its value and the remedy, before the first step.
        Exception: one of fun or callback; its attribute ``result`` holds the result so far.

    Examples:
        >>> import torch
        >>> from rprop_kernels.torch import minimize
        >>> result = minimize(lambda x: (x**2).sum(), torch.tensor([3.0, 4.0]), bounds=(1.0, None))
        >>> result.x.tolist(), result.reason
        ([1.0, 1.0], 'gtol')
        >>> model, x = torch.nn.Linear(1, 1), torch.linspace(0, 1, 20)[:, None]
        >>> minimize(lambda: ((model(x) - 3 * x) ** 2).mean(), model).success
        True
    """
    refuse_unknown(unknown)
    if not callable(fun):
        raise TypeError(f"fun is a {type(fun).__name__}: pass a function of x")
    if jac is not None and jac is not True:
        raise TypeError(f"jac={jac!r}: leave it out for autograd, or pass jac=True where fun returns (loss, gradient)")
    if method not in METHODS:
        raise ValueError(f"there is no method {method!r}: choose one of {', '.join(METHODS)}")
    args = args if isinstance(args, tuple) else (args,)
    batched = hyperparameters.validate_bool("batched", batched)
    structure = Structure(x0)
    if batched:
        counts = {tuple(t.shape[:1]) for t in structure.tensors}
        if len(counts) > 1 or counts == {()}:
            raise ValueError(
                f"the tensors of x0 have shapes {[tuple(t.shape) for t in structure.tensors]}, but batched=True "
                "needs one "
                "first dimension, which counts the problems"
            )
    for name, value in (("in_dims", in_dims), ("chunk_size", chunk_size)):
        if value is not None and not batched:
            raise ValueError(f"{name}={value!r} is for many problems: pass batched=True, or leave it out")
    rules = stopping.validate(gtol, ftol, xtol, window, patience, target, max_steps, max_evals)
    hyper = hyperparameters.validate(etas, step_sizes)
    maximize = hyperparameters.validate_bool("maximize", maximize)
    found = resolve_backend(backend, "tensors")
    dims = parse_in_dims(in_dims, args, len(structure.tensors[0])) if batched else (None,) * len(args)
    size = None if chunk_size is None else stopping.whole_number("chunk_size", chunk_size, 1)
    constraints = _make_constraints(structure, bounds, frozen)
    scales = _make_scales(structure, x_scale, constraints)
    x = [t.detach().clone(memory_format=torch.contiguous_format) for t in structure.tensors]
    if scales is not None:
        x = [t / s for t, s in zip(x, scales, strict=True)]
        constraints = [
            limits._replace(
                **{
                    name: bound / s
                    for name, bound in limits._asdict().items()
                    if name != "frozen" and bound is not None
                }
            )
            for limits, s in zip(constraints, scales, strict=True)
        ]
    states = _make_states(structure, x, lr, hyper[2:])
    _check_finish(finish, jac, structure, batched)
    call = make_callback(callback)
    noise, shown = (
        hyperparameters.validate_bool(name, value)
        for name, value in (("check_noise", check_noise), ("progress", progress))
    )
    starts, seed = validate_starts(starts, seed)
    _check_module(structure.module, batched, jac is True, starts)
    problems = len(x[0]) if batched else 1
    rows = batched or starts is not None
    if starts is not None:
        assert seed is not None
        x = [_as_rows(t, batched) for t in draw_starts(structure, x, constraints, starts, seed, batched)]
        states = [_repeat(t, starts, batched) for t in states]
        scales = None if scales is None else [_repeat(t, starts, batched) for t in scales]
        constraints = [
            Constraints(*(None if limit is None else _repeat(limit, starts, batched) for limit in limits))
            for limits in constraints
        ]
    kind = Objective if batched or starts is None else StartsObjective
    search = Search(
        kind(structure, fun, jac is True, args, dims, size, None if starts is None else problems),
        x,
        states,
        constraints,
        scales,
        structure.tensors if structure.module is not None else None,
        method=method,
        hyper=hyper,
        maximize=maximize,
        backend=found,
        rules=rules
        if finish is None
        else rules._replace(max_steps=min(SETTLED, math.inf if rules.max_steps is None else rules.max_steps)),
        rows=rows,
        check_noise=noise,
        callback=call,
        progress=start_progress(rules.max_steps, len(x[0]) if rows else 1) if shown else None,
        second_order=finish is not None,
    )
    newton: Newton | None = None

    def result() -> Result:
        found = search.result(x0 if structure.module is not None else structure.join(search.best))
        found = found if newton is None else newton.complete(found)
        return found if starts is None else best_of_starts(found, starts, batched, maximize, seed)

    try:
        search.run()
        if finish is not None:
            search.rules = rules
            newton = Newton(search, constraints, scales)
            newton.run()
    except Exception as error:
        with contextlib.suppress(AttributeError):  # an exception with slots
            error.result = result()  # type: ignore[attr-defined]
        raise
    finally:
        if search.progress is not None:
            search.progress.close()
    return result()
