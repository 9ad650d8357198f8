"""Figures about the steps of a parameter, for people who look: the same for NumPy and torch."""

from typing import Any

import numpy as np

from .bounds import Constraints
from .state import decode, encoding_of


def describe_steps(
    name: str | None,
    x: Any,
    state: Any,
    constraints: Constraints | None,
    step_sizes: tuple[float, float],
    xp: Any = np,
) -> dict[str, Any]:
    """Return figures about the steps of a parameter as plain numbers.

    Args:
        name: of the parameter, where known.
        x: its weights, an array or tensor of real numbers.
        state: of its shape; see :mod:`.state`. None where there is none yet.
        constraints: bounds and frozen weights; None where there are none.
        step_sizes: ``(D_min, D_max)``.
        xp: the library, numpy or torch.

    Returns:
        ``name``; ``weights``, the number of those that are not frozen; of these the shares ``at_step_min``,
        ``at_step_max``, ``at_bound`` and ``without_sign``; ``step_quartiles``, three numbers. The figures are None
        where there is no state, or no weight.

    Examples:
        >>> from .state import encode
        >>> state = encode(np.array([1.0, 0.0]), np.array([0.5, 2.0]))
        >>> describe_steps("w", np.zeros(2), state, Constraints(lower=0.0), (0.5, 50.0))["at_step_min"]
        0.5
    """
    lower, upper, frozen = constraints or Constraints()
    figures: dict[str, Any] = {"name": name, "weights": int(np.prod(x.shape))}
    figures |= dict.fromkeys(("at_step_min", "at_step_max", "at_bound", "without_sign", "step_quartiles"))
    if frozen is not None:
        figures["weights"] = int((frozen ^ True).sum())
    if state is None or figures["weights"] == 0:
        return figures
    at_bound = xp.zeros_like(x, dtype=(x == x).dtype)
    for bound, is_lower in ((lower, True), (upper, False)):
        if bound is not None:
            at_bound = at_bound | (x <= bound if is_lower else x >= bound)
    q, step = decode(state, xp)
    step_min = max(step_sizes[0], encoding_of(state.dtype).min_step)
    conditions = {
        "at_step_min": step <= xp.full_like(step, step_min),
        "at_step_max": step >= xp.full_like(step, step_sizes[1]),
        "at_bound": at_bound,
        "without_sign": q == 0,
    }
    if frozen is not None:
        free = frozen ^ True
        conditions = {key: condition[free] for key, condition in conditions.items()}
        step = step[free]
    figures |= {key: int(condition.sum()) / figures["weights"] for key, condition in conditions.items()}
    figures["step_quartiles"] = _quartiles(step.reshape(-1), xp)
    return figures


def _quartiles(step: Any, xp: Any) -> tuple[float, ...]:
    """Return the quartiles, interpolated between neighbours."""
    ordered = xp.sort(step)
    if isinstance(ordered, tuple):  # torch returns the indices, too
        ordered = ordered[0]
    found = []
    for part in (0.25, 0.5, 0.75):
        place = part * (len(ordered) - 1)
        low = int(place)
        first, second = float(ordered[low]), float(ordered[min(low + 1, len(ordered) - 1)])
        found.append(first + (place - low) * (second - first))
    return tuple(found)
