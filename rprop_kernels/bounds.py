"""Options with a value for each weight: the forms of ``bounds``, ``frozen`` and ``lr`` as arguments, and their errors.

The forms are those of NumPy and torch alike. Tensors are recognised by their method ``detach``; torch is not imported.
"""

from typing import Any, Final, NamedTuple

import numpy as np

PAIRS_HINT: Final = (
    "SciPy's list of pairs (low, high), one for each weight, becomes that by bounds=tuple(np.transpose(pairs))"
)
_KINDS: Final = {"numbers": "fiu", "booleans": "b"}


class Constraints(NamedTuple):
    """Bounds and frozen weights of one parameter.

    Attributes:
        lower: None, a number, or an array or tensor of the parameter's shape and dtype.
        upper: likewise.
        frozen: None, or booleans of the parameter's shape: True where a weight never moves.
    """

    lower: Any = None
    upper: Any = None
    frozen: Any = None


def is_tensor(value: Any) -> bool:
    """Check whether a value is a torch tensor, without an import of torch."""
    return hasattr(value, "detach")


def is_array(value: Any) -> bool:
    """Check whether a value is an array or a tensor, of any number of dimensions."""
    return hasattr(value, "shape") and hasattr(value, "dtype")


def split_halves(bounds: Any, place: str = "") -> tuple[Any, Any]:
    """Return the two halves of bounds, (lower, upper); see `split_option` for a half.

    Args:
        bounds: None, a tuple of two halves, or an object with the attributes ``lb`` and ``ub``, such as
            scipy.optimize.Bounds.
        place: added to the name in messages, such as ``" of group 1"``.

    Raises:
        TypeError, ValueError: another form, with the remedy.
    """
    if bounds is None:
        return None, None
    if hasattr(bounds, "lb") and hasattr(bounds, "ub"):
        lower, upper = (x.item() if x.size == 1 else x for x in map(np.asarray, (bounds.lb, bounds.ub)))
        return lower, upper
    if not isinstance(bounds, tuple):
        raise TypeError(
            f"bounds{place} must be a tuple (lower, upper), got {bounds!r}: pass such as bounds=(-1.0, None). "
            f"{PAIRS_HINT}"
        )
    if any(isinstance(half, tuple) for half in bounds):
        raise TypeError(
            f"bounds{place} must be (lower, upper), got the tuple of tuples {bounds!r}: pass None, a number, an array, "
            f"or a list with one of these for each parameter as each half. {PAIRS_HINT}"
        )
    if len(bounds) != 2:
        raise ValueError(
            f"bounds{place} must be (lower, upper), got {len(bounds)} items: pass such as bounds=(-1.0, None)"
        )
    return bounds


def split_option(name: str, value: Any, count: int, *, array_like: bool = False) -> list[Any]:
    """Return the item of each parameter of an option.

    Args:
        name: of the option, for messages.
        value: None, a number, an array or tensor (for one parameter), or a list with one of these for each parameter.
            Where ``array_like``, a list is an array of the only parameter.
        count: the number of parameters.
        array_like: whether the parameters were passed as one array.

    Raises:
        TypeError, ValueError: another form, with the remedy.
    """
    if isinstance(value, list) and not array_like:
        items = list(value)
        if len(items) != count:
            raise ValueError(
                f"{name} has {len(items)} items for {count} parameters: pass a list with one item for each, one "
                "value for all, or, for the weights of a single parameter, an array or a tensor"
            )
        for item in items:
            if isinstance(item, tuple):
                raise TypeError(f"{name} has the item {item!r}: pass None, a number or an array for each parameter")
        return items
    if count > 1 and is_array(value) and np.ndim(value) > 0:
        raise TypeError(
            f"{name} is one array for a list of parameters: pass a list with an item for each of the {count} parameters"
        )
    if isinstance(value, tuple):
        raise TypeError(f"{name} is a tuple: pass one value, an array, or a list with one of these for each parameter")
    return [value] * count


def holds_arrays(option: Any) -> bool:
    """Check whether an option holds a list or an array, which belongs to the parameters of one group."""
    if hasattr(option, "lb") and hasattr(option, "ub"):
        return any(np.asarray(half).size != 1 for half in (option.lb, option.ub))
    if isinstance(option, tuple):
        return any(holds_arrays(half) for half in option)
    return isinstance(option, list) or (is_array(option) and np.ndim(option) > 0)


def to_value(name: str, item: Any, kind: str = "numbers") -> Any:
    """Return an item of an option as None, a Python number, or an array or detached tensor of one or more dimensions.

    Args:
        name: for messages.
        item: of `split_option`.
        kind: ``"numbers"`` or ``"booleans"``.

    Raises:
        TypeError: it holds something else.
    """
    if item is None:
        return None
    if is_tensor(item):
        value = item.detach()
        dtype = str(value.dtype).removeprefix("torch.")
        valid = (dtype == "bool") == (kind == "booleans") and not value.is_complex()
    else:
        try:
            value = np.asarray(item)
        except (TypeError, ValueError) as error:  # lists of unequal lengths
            raise TypeError(f"{name} is no array: {error}; pass {kind}") from error
        dtype, valid = str(value.dtype), value.dtype.kind in _KINDS[kind]
    if not valid:
        shown = f"{item!r} ({dtype})" if value.ndim == 0 else dtype
        raise TypeError(f"{name} is {shown}: pass {kind}")
    if value.ndim:
        return value
    return bool(value) if kind == "booleans" else float(value)


def shape_error(name: str, shape: Any, parameter_shape: Any) -> ValueError:
    """Return the error for a value that does not broadcast to its parameter."""
    return ValueError(
        f"{name} has shape {tuple(shape)}, its parameter {tuple(parameter_shape)}: pass one value, or an array of the "
        "parameter's shape"
    )


def _first(mask: Any, xp: Any) -> tuple[int, ...]:
    return tuple(xp.argwhere(mask)[0].tolist())


def validate_bounds(name: str, lower: Any, upper: Any, xp: Any = np) -> None:
    """Check that bounds leave each weight an interval.

    Args:
        name: of the parameter, for messages.
        lower: the lower bounds, -inf for none, in the parameter's dtype, of a shape that broadcasts to it.
        upper: the upper bounds, inf for none, likewise.
        xp: the library of both, numpy or torch.

    Raises:
        ValueError: they cross, are NaN or exclude every finite value.
    """
    invalid = ~((lower <= upper) & (lower < np.inf) & (upper > -np.inf))
    if bool(invalid.any()):
        index = _first(invalid, xp)
        low, high = (xp.broadcast_to(x, invalid.shape)[index].item() for x in (lower, upper))
        raise ValueError(
            f"bounds of {name} cross, are NaN, or leave no finite value: [{low}, {high}] at index {index}; pass "
            "(lower, upper) with lower <= upper everywhere"
        )


def validate_start(name: str, param: Any, lower: Any, upper: Any, xp: Any = np) -> None:
    """Check that a parameter starts within its bounds; see `validate_bounds`.

    Raises:
        ValueError: naming the first weight outside.
    """
    outside = (param < lower) | (param > upper)
    if bool(outside.any()):
        index = _first(outside, xp)
        low, high = (xp.broadcast_to(x, outside.shape)[index].item() for x in (lower, upper))
        raise ValueError(
            f"{name} starts outside its bounds: {param[index].item()} at index {index} is not within [{low}, {high}]; "
            "start inside, such as at the nearest bound"
        )


def validate_first_steps(name: str, steps: Any, step_sizes: tuple[Any, Any], xp: Any = np) -> None:
    """Check the first step sizes of a parameter's weights.

    Args:
        name: for messages.
        steps: an array or tensor.
        step_sizes: ``(D_min, D_max)``, rounded to the dtype of ``steps``.
        xp: the library of ``steps``, numpy or torch.

    Raises:
        ValueError: one is not above 0 or not within ``step_sizes``.
    """
    step_min, step_max = step_sizes
    invalid = ~((steps > 0) & (steps >= step_min) & (steps <= step_max))
    if bool(invalid.any()):
        index = _first(invalid, xp)
        raise ValueError(
            f"Invalid learning rate: {name} is {steps[index].item()} at index {index}: lr is the first step size and "
            f"must be above 0 and within step_sizes = ({float(step_min)}, {float(step_max)}); change lr or widen "
            "step_sizes"
        )
