"""Several starting points of a fit: their arguments, and the best of their results, for NumPy and torch."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from .result import Result
from .stopping import whole_number


def make_seed(seed: Any) -> int:
    """Return the seed, or fresh entropy for None.

    Raises:
        ValueError: it is no whole number from 0 on.
    """
    if seed is None:
        return int(np.random.SeedSequence().entropy)  # type: ignore[arg-type]
    return whole_number("seed", seed, 0)


def validate_starts(starts: Any, seed: Any) -> tuple[int | None, int | None]:
    """Return the number of starting points and their seed; both None where there is one point only.

    Raises:
        ValueError: naming the argument, its value and the remedy.
    """
    if starts is not None:
        return whole_number("starts", starts, 1), make_seed(seed)
    if seed is not None:
        raise ValueError(f"seed={seed!r} is for several starting points: pass starts=, or leave it out")
    return None, None


def unbounded_error(starts: int, index: tuple[int, ...], name: str) -> ValueError:
    """Return the error for a variable without two finite bounds.

    Args:
        starts: the number of starting points.
        index: of the variable.
        name: of the array that holds it.
    """
    return ValueError(
        f"starts={starts} draws points within the bounds, but the variable at index {index} of {name} has none that is "
        "finite on both sides: pass finite bounds, freeze it, or start from points of your own with batched=True"
    )


def _each(function: Callable[[Any], Any], value: Any) -> Any:
    """Apply a function to an array, or to those in a list or dict."""
    if isinstance(value, Mapping):
        return {name: function(part) for name, part in value.items()}
    return [function(part) for part in value] if isinstance(value, list) else function(value)


def _to_numpy(value: Any) -> np.ndarray[Any, Any]:
    return np.asarray(value.detach().cpu() if hasattr(value, "detach") else value)


def best_of_starts(result: Result, starts: int, batched: bool, maximize: bool, seed: int | None) -> Result:
    """Return the best of several starts, with the results of all as ``all``.

    Args:
        result: of rows, start by start.
        starts: their number.
        batched: whether there are several problems.
        maximize: whether a greater loss is the better one.
        seed: of the starts.
    """
    names = ("x", "fun", "grad", "success", "status", "nit", "nfev", "hess", "_held")
    rows = {name: value for name in names if (value := getattr(result, name)) is not None}
    arrays = {name: _each(lambda x: x.reshape(starts, -1, *x.shape[1:]), value) for name, value in rows.items()}
    losses = _to_numpy(arrays["fun"]).astype(np.float64)
    losses = -losses if maximize else losses
    best = np.argmin(np.where(np.isnan(losses), np.inf, losses), axis=0)
    problems = np.arange(len(best))
    numbers = best * len(best) + problems
    chosen: dict[str, Any] = {name: _each(lambda x: x[best, problems], value) for name, value in arrays.items()}
    words: dict[str, Any] = {name: [getattr(result, name)[i] for i in numbers] for name in ("reason", "message")}
    every: dict[str, Any] = dict(arrays)
    every |= {
        name: [getattr(result, name)[k * len(best) : (k + 1) * len(best)] for k in range(starts)]
        for name in ("reason", "message")
    }
    if not batched:
        numerical = ("fun", "success", "status", "nit", "nfev")
        chosen = {
            name: value[0].item() if name in numerical else _each(lambda x: x[0], value)
            for name, value in chosen.items()
        }
        words = {name: value[0] for name, value in words.items()}
        every = {
            name: [x[0] for x in value] if name in ("reason", "message") else _each(lambda x: x[:, 0], value)
            for name, value in every.items()
        }
    common: dict[str, Any] = {"calls": result.calls, "_covariance": result._covariance}
    return Result(**chosen, **words, **common, seed=seed, all=Result(**every, **common))
