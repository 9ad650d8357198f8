"""Weights, gradients and losses for tests of JAX, over the dtypes that NumPy lacks, too."""

import math
from typing import Any

import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray
from special_values import gradients, special_values

DTYPES = ("float32", "float64", "bfloat16", "float16")
LOSSES = (2.0, 1.0, 1.5, 1.5, math.nan, 1.25, 3.0, math.inf, -math.inf, 2.0, 2.5, 0.5)


def in_float(x: Any) -> NDArray[Any]:
    """Return an array in a dtype of NumPy's own, of equal values."""
    x = np.asarray(x)
    return x.astype(np.float32) if x.dtype.name in ("bfloat16", "float16") else x


def normal(values: Any, dtype: str) -> NDArray[Any]:
    """Replace denormal numbers by 1: XLA's CPU backend computes with 0 in their place."""
    values = np.array(values)
    values[(values != 0) & (np.abs(values) < jnp.finfo(dtype).tiny)] = 1
    return values


def sequences(dtype: str, n: int = 120, steps: int = 24, seed: int = 0) -> tuple[Any, list[Any], list[float]]:
    """Return weights, gradients of every step, and losses."""
    rng = np.random.default_rng(seed)
    source = np.dtype("float32" if dtype == "bfloat16" else dtype)
    with np.errstate(all="ignore"):
        pool = normal(special_values(source), dtype).astype(jnp.dtype(dtype))
        w = np.concatenate([pool, rng.standard_normal(n - len(pool)).astype(jnp.dtype(dtype))])
        grads = [g.astype(jnp.dtype(dtype)) for g in gradients(rng, (n,), source, steps)]
        smallest = float(jnp.finfo(dtype).smallest_subnormal)
        for g in grads[::3]:
            g[:8] = np.array([smallest, -smallest] * 4).astype(g.dtype)
    return w, grads, [LOSSES[i % len(LOSSES)] for i in range(steps)]
