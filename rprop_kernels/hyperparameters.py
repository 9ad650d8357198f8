"""Validation of lr, etas and step_sizes of the four classes.

The drop-in ``rprop_kernels.torch.Rprop`` keeps torch's own checks instead.
"""

import math
from collections.abc import Mapping, Set
from typing import Any, NamedTuple

from .state import STEP_LIMIT


class Hyperparameters(NamedTuple):
    """Arguments of a kernel: Python floats, cast to the array's dtype once, before the loop."""

    eta_minus: float
    eta_plus: float
    step_min: float
    step_max: float

    def with_direction(self, maximize: bool) -> tuple[float, float, float, float, float]:
        """Return the row of an engine's table: the four numbers and the direction, -1 to maximize.

        Examples:
            >>> Hyperparameters(0.5, 1.2, 1e-6, 50.0).with_direction(maximize=True)
            (0.5, 1.2, 1e-06, 50.0, -1.0)
        """
        return (*self, -1.0 if maximize else 1.0)


def is_number(value: Any) -> bool:
    """Check that float() converts a value that means a number; it would convert text and truth values, too."""
    if isinstance(value, (str, bytes, bytearray, bool)):
        return False
    dtype = getattr(value, "dtype", None)  # of a scalar, an array or a tensor
    return getattr(dtype, "kind", "f") in "fiu" and str(dtype) != "torch.bool"


def is_per_weight(lr: Any) -> bool:
    """Check whether lr is a list with one for each parameter, or an array or tensor with a value for each weight.

    Arrays and tensors of one element are numbers.
    """
    return isinstance(lr, list) or math.prod(getattr(lr, "shape", ())) != 1


def _to_float(value: Any) -> float:
    if not is_number(value):
        raise TypeError
    return float(value)


def _pair(name: str, value: Any) -> tuple[float, float]:
    try:
        if isinstance(value, (str, bytes, bytearray, Mapping, Set)):  # they can be unpacked, but mean something else
            raise TypeError
        first, second = value
        return _to_float(first), _to_float(second)
    except (TypeError, ValueError, OverflowError, RuntimeError):
        raise ValueError(
            f"{name} must be two numbers, got {value!r}: pass a tuple such as "
            f"{'(0.5, 1.2)' if name == 'etas' else '(1e-6, 50.0)'}"
        ) from None


def validate(etas: object, step_sizes: object) -> Hyperparameters:
    """Return the hyper-parameters of a rule as floats.

    Args:
        etas: ``(eta_minus, eta_plus)`` with 0 < eta_minus < 1 < eta_plus, both finite.
        step_sizes: ``(D_min, D_max)`` with 0 <= D_min <= D_max <= 2**31.

    Raises:
        ValueError: naming the argument, its value and the remedy.
    """
    eta_minus, eta_plus = _pair("etas", etas)
    if not (0.0 < eta_minus < 1.0 < eta_plus < math.inf):
        raise ValueError(
            f"Invalid eta values: {eta_minus}, {eta_plus}: etas = (eta_minus, eta_plus) "
            "must satisfy 0 < eta_minus < 1 < eta_plus (default (0.5, 1.2))"
        )
    step_min, step_max = _pair("step_sizes", step_sizes)
    if not (0.0 <= step_min <= step_max):
        raise ValueError(
            f"Invalid step sizes: {step_min}, {step_max}: step_sizes = (D_min, D_max) "
            "must satisfy 0 <= D_min <= D_max (default (1e-6, 50.0))"
        )
    if not (0.0 < step_max <= STEP_LIMIT):
        raise ValueError(
            f"Invalid step sizes: {step_min}, {step_max}: step_sizes[1] (D_max) must be above 0 "
            f"and at most 2**31 = {STEP_LIMIT:.0f}; larger steps cannot be remembered exactly"
        )
    return Hyperparameters(eta_minus, eta_plus, step_min, step_max)


def as_floats(options: dict[str, Any]) -> dict[str, Any]:
    """Return those of ``lr``, ``etas`` and ``step_sizes`` that are not Python floats, converted to them.

    NumPy scalars and tensors would make a checkpoint that ``torch.load(weights_only=True)`` refuses, and can be changed
    in place. Ranges are checked elsewhere, and so is an ``lr`` with a value for each weight.

    Raises:
        ValueError: naming the argument, its value and the remedy.
    """
    converted: dict[str, Any] = {}
    if type(options["lr"]) is not float and not is_per_weight(options["lr"]):
        converted["lr"] = lr_to_float(options["lr"])
    for name in ("etas", "step_sizes"):
        value = options[name]
        if type(value) not in (tuple, list) or any(type(x) is not float for x in value):
            pair = _pair(name, value)
            converted[name] = list(pair) if type(value) is list else pair
    return converted


def lr_to_float(lr: Any) -> float:
    """Return ``lr`` as a float, on whatever device it lies.

    Raises:
        ValueError: it is not a number.
    """
    try:
        return _to_float(lr.reshape(()) if getattr(lr, "shape", ()) else lr)
    except (TypeError, ValueError, OverflowError, RuntimeError):
        raise ValueError(f"lr must be one number, got {lr!r}: pass a float such as 0.01") from None


def validate_lr(lr: object, step_sizes: tuple[float, float]) -> float:
    """Return the first step size as a float.

    Args:
        lr: D at the start, above 0 and within ``step_sizes``.
        step_sizes: ``(D_min, D_max)``, already checked.

    Raises:
        ValueError: naming the value and the remedy.
    """
    value = lr_to_float(lr)
    step_min, step_max = step_sizes
    if not (value > 0.0 and step_min <= value <= step_max):
        raise ValueError(
            f"Invalid learning rate: {value}: lr is the first step size and must be above 0 and "
            f"within step_sizes = ({step_min}, {step_max}); change lr or widen step_sizes"
        )
    return value


def validate_bool(name: str, value: object) -> bool:
    """Return the value of an argument that is True or False as a bool.

    Raises:
        TypeError: it is neither a bool nor a NumPy bool.

    Examples:
        >>> validate_bool("maximize", True)
        True
    """
    if type(value) is bool:
        return value
    if type(value).__module__ == "numpy" and type(value).__name__ in ("bool", "bool_"):
        return bool(value)
    raise TypeError(f"{name} is {value!r} ({type(value).__name__}): pass True or False")
