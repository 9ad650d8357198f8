"""Bounds, frozen masks and first step sizes of param groups: floats and detached tensors like their parameters.

A group holds its options converted: ``bounds`` is a tuple of two halves (lower, upper), each None, a float, a tensor
(of the only parameter) or a list with one of these for each parameter. ``frozen`` and an ``lr`` with a value for each
weight are None, a tensor or such a list. The tensors have the shape, device and dtype (``frozen``: torch.bool) of their
parameter. DTensors are placed as it is.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.parameter import is_lazy

from .. import hyperparameters
from ..bounds import (
    Constraints,
    is_array,
    shape_error,
    split_halves,
    split_option,
    to_value,
    validate_bounds,
    validate_first_steps,
    validate_start,
)
from ..state import encoding_of
from .state import has_memory, state_dtype

NAMES = ("bounds", "frozen", "lr")


def _parts(option: Any) -> Iterator[Any]:
    """Yield an option, its halves and the items of its lists."""
    yield option
    if type(option) in (tuple, list):
        for part in option:
            yield from _parts(part)


def _likeness(p: Tensor) -> Any:
    """Return all that a tensor of an option shares with its parameter; None where it can share nothing yet."""
    if is_lazy(p) or not (p.is_floating_point() or p.is_complex()):
        return None
    return p.dtype, p.device, p.shape, getattr(p, "placements", None)


class GroupOptions(NamedTuple):
    """The options of a param group, converted; valid while the group holds these objects and like parameters."""

    values: dict[str, Any]
    """The converted options, by their names in the group."""
    parts: tuple[Any, ...]
    likenesses: list[Any]
    constraints: list[Constraints | None] | None
    """Of each parameter: numbers, or tensors of its shape."""

    def is_current(self, group: dict[str, Any]) -> bool:
        """Check whether the group and its parameters are as they were when they were converted."""
        parts = tuple(part for name in NAMES for part in _parts(group.get(name)))
        return (
            len(parts) == len(self.parts)
            and all(map(_is, parts, self.parts))
            and (not self.likenesses or [_likeness(p) for p in group["params"]] == self.likenesses)
        )


def _is(one: Any, other: Any) -> bool:
    return one is other


def convert_options(group: dict[str, Any], place: int, last: GroupOptions | None = None) -> GroupOptions:
    """Convert the options of a param group; the group itself does not change.

    Args:
        group: with ``params``; ``bounds``, ``frozen`` and ``lr`` in any form.
        place: the index of the group, for messages.
        last: the result of the last conversion. Its tensors are used again where they still suit; others are copied.

    Raises:
        TypeError, ValueError: naming the option, its place and the remedy.
    """
    options = {name: group.get(name) for name in NAMES}
    is_plain = options["bounds"] is None and options["frozen"] is None
    if is_plain and not hyperparameters.is_per_weight(options["lr"]):
        return GroupOptions(options, tuple(part for name in NAMES for part in _parts(options[name])), [], None)
    params = group["params"]
    own = frozenset() if last is None else frozenset(id(part) for part in last.parts if isinstance(part, Tensor))
    names = [f"parameter {i} of group {place}" for i in range(len(params))]
    suffix = f" of group {place}"

    columns = {}
    halves = []
    for name, half in zip(("lower", "upper"), split_halves(options["bounds"], suffix), strict=True):
        name = f"{name} bound"
        columns[name] = _convert(name, split_option(name + suffix, half, len(params)), params, names, own)
        halves.append(_whole(half, columns[name], f"{name}{suffix}"))
    frozen = options["frozen"]
    columns["frozen"] = _convert("frozen", split_option("frozen" + suffix, frozen, len(params)), params, names, own)
    values: dict[str, Any] = {
        "bounds": None if options["bounds"] is None else tuple(halves),
        "frozen": _whole(frozen, columns["frozen"], "frozen" + suffix),
        "lr": options["lr"],
    }
    if hyperparameters.is_per_weight(options["lr"]):
        items = split_option("lr" + suffix, options["lr"], len(params))
        if any(item is None for item in items):
            raise ValueError(f"lr{suffix} is None for a parameter: pass a number or a tensor for each")
        values["lr"] = _whole(options["lr"], _convert("lr", items, params, names, own), "lr" + suffix)

    constraints: list[Constraints | None] = []
    for p, name, *limits in zip(params, names, *columns.values(), strict=True):
        is_constrained = any(x is not None for x in limits) and _likeness(p) is not None
        if is_constrained and (limits[0] is not None or limits[1] is not None):
            ends = _ends(p, limits)
            if not any(x.is_meta for x in ends):
                validate_bounds(name, *ends, torch)
        constraints.append(Constraints(*limits) if is_constrained else None)
    parts = tuple(part for name in NAMES for part in _parts(values[name]))
    any_constraints = constraints if any(x is not None for x in constraints) else None
    return GroupOptions(values, parts, [_likeness(p) for p in params], any_constraints)


def _whole(option: Any, items: list[Any], name: str) -> Any:
    """Return a converted option in the form it had: a list, or one value."""
    if isinstance(option, list):
        return items
    if items:
        return items if len(items) > 1 and isinstance(items[0], Tensor) else items[0]
    return None if option is None or is_array(option) else to_value(name, option)


def _convert(name: str, items: list[Any], params: list[Tensor], names: list[str], own: Iterable[int]) -> list[Any]:
    return [
        None if item is None else _convert_item(f"{name} of {place}", name, item, p, own)
        for item, p, place in zip(items, params, names, strict=True)
    ]


def _convert_item(full_name: str, name: str, item: Any, p: Tensor, own: Iterable[int]) -> Any:
    """Return a number as a float, and anything else as a tensor like the parameter."""
    kind = "booleans" if name == "frozen" else "numbers"
    value = item if type(item) is float and kind == "numbers" else to_value(full_name, item, kind)
    likeness = _likeness(p)
    if likeness is not None and p.is_complex() and not (name == "lr" and isinstance(value, float)):
        raise TypeError(f"{full_name} needs a real parameter, this one is {p.dtype}: leave it out")
    if isinstance(value, float):
        return value
    dtype = torch.bool if kind == "booleans" else p.dtype
    if isinstance(value, Tensor) and id(item) in own and likeness == _likeness_of_option(value, p, dtype):
        return item
    if not isinstance(value, Tensor):
        value = torch.from_numpy(np.array(value, np.bool_ if kind == "booleans" else np.float64))
    if likeness is None:
        return value.clone()  # converted again when the parameter has a shape
    if name == "lr":  # a step size above 0 must not be rounded to 0
        rounded = value.to(dtype)
        value = torch.where((rounded == 0) & (value > 0), _least(dtype), rounded)
    return _like(full_name, value, p, dtype)


def _least(dtype: torch.dtype) -> float:
    """Return the smallest first step size that a dtype holds."""
    info = torch.finfo(dtype)
    return max(encoding_of(state_dtype(dtype)).min_step, info.smallest_normal * info.eps)


def _likeness_of_option(value: Tensor, p: Tensor, dtype: torch.dtype) -> Any:
    return (
        (p.dtype if value.dtype == dtype else value.dtype),
        value.device,
        value.shape,
        getattr(value, "placements", None),
    )


def _like(name: str, value: Any, p: Any, dtype: torch.dtype) -> Tensor:
    """Copy a value to a tensor of the parameter's shape, layout, device and placement."""
    if hasattr(value, "full_tensor"):
        value = value.full_tensor()
    value = value.to(device=p.device, dtype=dtype)
    try:
        value = value.broadcast_to(p.shape)
    except RuntimeError:
        raise shape_error(name, value.shape, p.shape) from None
    if not hasattr(p, "placements"):
        return torch.empty_like(p, dtype=dtype, requires_grad=False).copy_(value)
    from torch.distributed.tensor import DTensor, Replicate

    copied = value.clone(memory_format=torch.contiguous_format)
    whole = DTensor.from_local(copied, p.device_mesh, [Replicate()] * len(p.placements), run_check=False)
    placed: Tensor = whole.redistribute(placements=p.placements)
    return placed


def _local(x: Any) -> Any:
    return x.to_local() if hasattr(x, "placements") else x


def _ends(p: Tensor, limits: Any) -> tuple[Tensor, Tensor]:
    """Return both bounds as tensors of this process that broadcast to the parameter."""
    lower, upper = (missing if x is None else x for x, missing in zip(limits, (-torch.inf, torch.inf), strict=False))
    first, second = (
        _local(x) if isinstance(x, Tensor) else torch.tensor(x, dtype=p.dtype, device="cpu") for x in (lower, upper)
    )
    return first, second


def validate_starts(params: Iterable[Tensor | None], constraints: list[Constraints | None] | None, place: int) -> None:
    """Check that parameters start within their bounds.

    Args:
        params: all parameters of a group; those that are skipped are None.
        constraints: of `convert_options`.
        place: the index of the group, for messages.

    Raises:
        ValueError: naming the first weight outside.
    """
    for i, (p, limits) in enumerate(zip(params, constraints or (), strict=False)):
        if p is None or limits is None or (limits.lower is None and limits.upper is None) or not has_memory(p):
            continue
        with torch.no_grad():
            validate_start(f"parameter {i} of group {place}", _local(p), *_ends(p, limits), torch)


def first_steps(lr: Any, group: dict[str, Any], place: int, step_sizes: tuple[float, float]) -> list[Any]:
    """Return the first step sizes of each parameter, validated: a float or a tensor like it.

    Args:
        lr: of the group, converted.
        group: the param group.
        place: its index, for messages.
        step_sizes: ``(D_min, D_max)``.

    Raises:
        ValueError: one is not above 0 or not within ``step_sizes``.
    """
    params = group["params"]
    if not hyperparameters.is_per_weight(lr):
        return [hyperparameters.validate_lr(lr, step_sizes)] * len(params)
    steps = split_option(f"lr of group {place}", lr, len(params))
    for i, (p, step) in enumerate(zip(params, steps, strict=True)):
        if not isinstance(step, Tensor):
            hyperparameters.validate_lr(step, step_sizes)
        elif _likeness(p) is not None:
            step_min, step_max = step_sizes
            limits = torch.tensor((step_min, max(step_max, _least(step.dtype))), dtype=torch.float64).to(step.dtype)
            validate_first_steps(f"lr of parameter {i} of group {place}", _local(step), (limits[0], limits[1]), torch)
    return steps


def copy_lr(lr: Any) -> Any:
    """Return the values of a converted ``lr``."""
    if isinstance(lr, list):
        return [copy_lr(x) for x in lr]
    return _local(lr).detach().clone() if isinstance(lr, Tensor) else lr


def same_lr(lr: Any, copied: Any) -> bool:
    """Check whether a converted ``lr`` has the values of a copy, except for its dtype and device."""
    if isinstance(lr, list) and isinstance(copied, list):
        return len(lr) == len(copied) and all(map(same_lr, lr, copied))
    if isinstance(lr, Tensor) and isinstance(copied, Tensor):
        lr = _local(lr)
        try:
            return lr.shape == copied.shape and bool((lr == copied.to(lr)).all())
        except (RuntimeError, NotImplementedError):  # meta and fake tensors have no values
            return True
    return type(lr) is type(copied) and bool(lr == copied)


def versions(groups: Iterable[dict[str, Any]]) -> list[Any]:
    """Return the parts of each ``lr`` with a value for each weight, and how often each tensor was written to."""
    found: list[Any] = []
    for group in groups:
        if hyperparameters.is_per_weight(group["lr"]):
            for part in _parts(group["lr"]):
                found += [part, part._version if isinstance(part, Tensor) and not part.is_inference() else None]
    return found


def same_objects(some: Sequence[Any], others: Sequence[Any]) -> bool:
    """Check whether two results of `versions` are equal."""
    return len(some) == len(others) and all(
        x is y or (type(x) is int and x == y) for x, y in zip(some, others, strict=True)
    )


def pack_bounds(bounds: Any) -> Any:
    """Return the bounds of a group as a state_dict holds them: a dict in the place of the tuple, if with DTensors."""
    if not any(hasattr(part, "placements") for part in _parts(bounds)):
        return bounds
    return dict(zip(("lower", "upper"), bounds, strict=True))


def unpack_bounds(bounds: Any) -> Any:
    """Return the bounds that `pack_bounds` packed."""
    return (
        (bounds["lower"], bounds["upper"]) if isinstance(bounds, dict) and {"lower", "upper"} == set(bounds) else bounds
    )


def local_constraints(constraints: Constraints | None) -> Constraints | None:
    """Return constraints with this process's shards in the place of DTensors."""
    return None if constraints is None else Constraints(*map(_local, constraints))


def planned_constraints(options: GroupOptions, group: dict[str, Any]) -> tuple[Any, ...] | None:
    """Return the constraints of a group for the native step: tensors alone, of shape () for numbers."""
    if options.constraints is None:
        return None
    return tuple(
        None
        if limits is None
        else tuple(torch.tensor(x, dtype=p.dtype, device=p.device) if type(x) is float else x for x in limits)
        for p, limits in zip(group["params"], options.constraints, strict=True)
    )
