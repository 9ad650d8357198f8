"""A step with bounds or frozen weights, next to the free one: weights, gradients and options, for torch and NumPy."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

N = 100_000
KINDS = ("none", "scalar-bounds", "array-bounds", "array-bounds-hits", "frozen")
"""No weight meets its bounds, except in the row "hits": there one of a hundred meets its lower bound at every step."""

Array = NDArray[Any]


def problem(kind: str) -> tuple[Array, list[Array], dict[str, Any]]:
    """Return weights, gradients for eight steps, and the options of the optimizer."""
    rng = np.random.default_rng(0)
    w = rng.standard_normal(N, np.float32)
    gradients = [rng.standard_normal(N, np.float32) for _ in range(8)]
    far = np.full(N, 1e6, np.float32)
    if kind == "array-bounds-hits":
        lower = -far
        lower[::100] = w[::100]
        for g in gradients:
            g[::100] = np.abs(g[::100])  # always towards the bound
        return w, gradients, {"bounds": (lower, far)}
    options: dict[str, dict[str, Any]] = {
        "none": {},
        "scalar-bounds": {"bounds": (-1e6, 1e6)},
        "array-bounds": {"bounds": (-far, far)},
        "frozen": {"frozen": np.arange(N) % 2 == 0},
    }
    return w, gradients, options[kind]
