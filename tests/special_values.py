"""Numbers, layouts and gradient sequences that break optimizers, and the comparison of bits."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


def bits(x: Array) -> Array:
    """Return the bytes as integers; all NaN are the same one (their payloads are not specified)."""
    x = np.asarray(x)
    raw = np.ascontiguousarray(x).view(f"u{x.itemsize}").reshape(x.shape).copy()
    raw[np.isnan(x)] = np.iinfo(raw.dtype).max
    return raw


def assert_same_bits(actual: Array, expected: Array, where: str = "") -> None:
    """Assert equal dtype, shape and bits; -0.0 is not 0.0."""
    actual, expected = np.asarray(actual), np.asarray(expected)
    assert actual.dtype == expected.dtype and actual.shape == expected.shape, (where, actual.dtype, expected.dtype)
    wrong = np.flatnonzero(bits(actual) != bits(expected))
    if wrong.size:
        i = wrong[0]
        raise AssertionError(
            f"{where}: {wrong.size} of {actual.size} differ, first at {i}: {actual.reshape(-1)[i]!r} is not "
            f"{expected.reshape(-1)[i]!r}"
        )


def special_values(dtype: Any) -> Array:
    """Return zeros of both signs, denormals, numbers whose products underflow or overflow, inf, NaN."""
    info = np.finfo(dtype)
    tiny, big = float(info.smallest_subnormal), float(info.max)
    edge = float(np.sqrt(float(info.smallest_subnormal)))  # its square just underflows
    values = [0.0, 1.0, 1e-4, 2.5, tiny, 3 * tiny, float(info.tiny), edge, edge * 0.4, edge * 3, big, big / 2, np.inf]
    with np.errstate(all="ignore"):
        return np.array([s * v for v in values for s in (1, -1)] + [np.nan], dtype)


def gradients(rng: np.random.Generator, shape: tuple[int, ...], dtype: Any, steps: int) -> Iterator[Array]:
    """Generate gradients with long runs, flips, double flips and special values."""
    pool = special_values(dtype)
    sign = rng.choice([-1.0, 1.0], shape)
    for _ in range(steps):
        sign = np.where(rng.random(shape) < 0.3, -sign, sign)
        g = (sign * 10.0 ** rng.uniform(-4, 4, shape)).astype(dtype)
        yield np.where(rng.random(shape) < 0.2, rng.choice(pool, shape), g).astype(dtype)


def layouts(shape: tuple[int, ...]) -> dict[str, Any]:
    """Return functions that make an uninitialised array of ``shape`` and a dtype, by the name of its layout."""
    made = {
        "contiguous": lambda dtype: np.empty(shape, dtype),
        "transposed": lambda dtype: np.empty(shape[::-1], dtype).T,
        "sliced": lambda dtype: np.empty([2 * n for n in shape], dtype)[tuple(slice(None, None, 2) for _ in shape)],
        "reversed": lambda dtype: np.empty(shape, dtype)[tuple(slice(None, None, -1) for _ in shape)],
        "padded": lambda dtype: np.empty([n + 3 for n in shape], dtype)[tuple(slice(1, n + 1) for n in shape)],
    }
    if len(shape) > 1:
        made["swapped"] = lambda dtype: np.empty((shape[1], shape[0], *shape[2:]), dtype).swapaxes(0, 1)
    return made
