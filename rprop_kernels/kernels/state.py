"""The one-array state of the four classes: the last move, sign and size in one number.

For a weight with remembered sign q (-1, 0, +1) and step size D the state is::

    s = q * D            where q != 0     (the update was w -= s, so w += s takes it back)
    s = D * SHIFT        where q == 0     (no sign to keep)

SHIFT is a power of two, so D survives exactly, and every legal D lies below THRESHOLD while every
shifted one lies above it: a size above THRESHOLD says "no memory". The constants never depend on
``step_sizes``, which users may edit between two steps.

=========  ======  =========  ======================================
dtype      SHIFT   THRESHOLD  exact for D within
=========  ======  =========  ======================================
float32    2^96    2^32       2^-63 .. 2^31
float64    2^768   2^256      2^-255 .. 2^255 (the classes allow 2^31)
=========  ======  =========  ======================================

The lower end is the least step size there is (``LEAST``): D can shrink to it and never to 0.
"""

from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray


class Code(NamedTuple):
    """Constants of the encoding for one floating type."""

    shift: float
    threshold: float
    least: float


CODES: Final = {
    "float32": Code(2.0**96, 2.0**32, 2.0**-63),
    "float64": Code(2.0**768, 2.0**256, 2.0**-255),
}
STEP_LIMIT: Final = 2.0**31
"""The largest ``step_sizes[1]`` (D_max) the four classes accept."""


def encode(q: NDArray[Any], step: NDArray[Any]) -> NDArray[Any]:
    """State of weights with sign ``q`` and step size ``step`` (raised to LEAST); of ``step``'s dtype."""
    code = CODES[step.dtype.name]
    shift = step.dtype.type(code.shift)
    step = np.maximum(step, step.dtype.type(code.least))
    state: NDArray[Any] = np.where(q == 0, step * shift, np.copysign(step, np.asarray(q, step.dtype)))
    return state


def decode(state: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """``(q, D)`` of a state: q is -1, 0 or +1, D the step size; both of the state's shape and dtype."""
    code = CODES[state.dtype.name]
    size = np.abs(state)
    forgot = size > state.dtype.type(code.threshold)
    step = np.where(forgot, size * state.dtype.type(1 / code.shift), size)
    q = np.where(forgot, state.dtype.type(0), np.sign(state))
    return q, step
