"""The one-array state of the four variants: the last move, sign and size in one number.

For a weight with remembered sign q (-1, 0, +1) and step size D the state is::

    s = q * D            where q != 0     (the update was w -= s, so w += s takes it back)
    s = D * SHIFT        where q == 0     (there is no sign to keep)

SHIFT is a power of two, so D survives exactly. Every valid D is below THRESHOLD and every shifted one above it: a
size above THRESHOLD means "no sign". The constants never depend on ``step_sizes``, which users may edit between two
steps.

=========  ======  =========  ======================================
dtype      SHIFT   THRESHOLD  exact for D within
=========  ======  =========  ======================================
float32    2^96    2^32       2^-63 .. 2^31
float64    2^768   2^256      2^-255 .. 2^255 (the classes allow 2^31)
=========  ======  =========  ======================================

The lower end is the smallest step size there is (``min_step``): D can shrink to it and never to 0.
"""

import functools
from types import MappingProxyType
from typing import Any, Final, NamedTuple

import numpy as np


class Encoding(NamedTuple):
    """Constants of the state for one floating-point type."""

    shift: float
    threshold: float
    min_step: float


ENCODINGS: Final = MappingProxyType(
    {
        "float32": Encoding(2.0**96, 2.0**32, 2.0**-63),
        "float64": Encoding(2.0**768, 2.0**256, 2.0**-255),
    }
)
"""By the name of the state's dtype, which NumPy and torch share."""
STEP_LIMIT: Final = 2.0**31
"""The largest ``step_sizes[1]`` (D_max) that the four classes accept."""


@functools.cache
def encoding_of(dtype: Any) -> Encoding:
    """Return the constants for a dtype of NumPy or torch.

    Examples:
        >>> encoding_of(np.dtype(np.float32)).min_step == 2.0**-63
        True
    """
    return ENCODINGS[str(dtype).removeprefix("torch.")]


def initial_value(lr: float, dtype: Any) -> float:
    """Return the state of a weight that has not moved: no sign, D = lr.

    Examples:
        >>> initial_value(0.5, np.dtype(np.float32)) == 2.0**95
        True
    """
    encoding = encoding_of(dtype)
    return max(lr, encoding.min_step) * encoding.shift


def _scalar(value: float, dtype: Any) -> Any:
    """Return a constant that keeps the dtype of arrays: NumPy 1 widens a 0-d array times a Python float."""
    return dtype.type(value) if isinstance(dtype, np.dtype) else value


def encode(q: Any, step: Any, xp: Any = np) -> Any:
    """Return the state of weights with sign ``q`` and step size ``step``.

    Args:
        q: signs, -1, 0 or +1 (NaN counts as 0).
        step: step sizes of the same shape, float32 or float64; raised to ``min_step`` and cut to ``STEP_LIMIT``.
        xp: the library of both, numpy or torch.

    Returns:
        An array of ``step``'s shape and dtype.
    """
    encoding = encoding_of(step.dtype)
    min_step, limit, shift = (_scalar(x, step.dtype) for x in (encoding.min_step, STEP_LIMIT, encoding.shift))
    step = xp.clip(step, min_step, limit)
    return xp.where(q > 0, step, xp.where(q < 0, -step, step * shift))


def decode(state: Any, xp: Any = np) -> tuple[Any, Any]:
    """Return the remembered signs and the step sizes of a state.

    Args:
        state: an array or tensor, float32 or float64.
        xp: its library, numpy or torch.

    Returns:
        ``(q, D)``: q is -1, 0 or +1; both of the state's shape and dtype.

    Examples:
        >>> q, step = decode(encode(np.array([-1.0, 0.0]), np.array([0.25, 0.5])))
        >>> q.tolist(), step.tolist()
        ([-1.0, 0.0], [0.25, 0.5])
    """
    has_sign = xp.abs(state) <= encoding_of(state.dtype).threshold
    return xp.where(has_sign, xp.sign(state), xp.zeros_like(state)), decode_steps(state, xp)


def decode_steps(state: Any, xp: Any = np) -> Any:
    """Return the step sizes of a state."""
    encoding = encoding_of(state.dtype)
    size = xp.abs(state)
    return xp.where(size <= encoding.threshold, size, size * _scalar(1 / encoding.shift, state.dtype))


def forget_sign(state: Any, xp: Any = np) -> Any:
    """Return the state of the same step sizes without signs."""
    return decode_steps(state, xp) * _scalar(encoding_of(state.dtype).shift, state.dtype)


def is_valid(state: Any, xp: Any = np) -> bool:
    """Check whether every value of a state is one that a step can leave behind."""
    step = decode_steps(state, xp)
    return bool(xp.all((step >= encoding_of(state.dtype).min_step) & (step <= STEP_LIMIT)))
