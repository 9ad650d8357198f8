"""Comparison of the loss with that of the previous step: not worse, worse, or not finite.

[IH03] takes a move back only where the loss E increased: E > E_prev, strictly. A loss that is NaN or infinite
is worse than any other (an extension of this package): every remembered move is taken back and E_prev stays, so that
the search returns to the point where the loss was last finite.
"""

import math
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

NOT_WORSE: Final = 0
"""E <= E_prev, or there is no E_prev yet. A flipped weight stays."""
WORSE: Final = 1
"""E > E_prev (E < E_prev under maximize). A flipped weight takes its last move back."""
NONFINITE: Final = 2
"""E is NaN or infinite after a finite one. Every weight that moved takes its move back."""

LossOutcome: TypeAlias = int | NDArray[Any]
"""One of the three, or an array of them of shape (B,): one for each row of the parameters."""


def compare_loss(loss: float, previous: float | None, maximize: bool = False) -> tuple[int, float | None]:
    """Compare one loss with that of the previous step.

    Args:
        loss: E at the current weights.
        previous: E_prev, or None where there was none.
        maximize: whether a greater loss is the better one.

    Returns:
        ``(outcome, E_prev for the next step)``.

    Examples:
        >>> compare_loss(2.0, 1.0) == (WORSE, 2.0)
        True
        >>> compare_loss(float("nan"), 1.0) == (NONFINITE, 1.0)
        True
    """
    if not math.isfinite(loss):
        return (NOT_WORSE if previous is None else NONFINITE), previous
    if previous is None:
        return NOT_WORSE, loss
    return (WORSE if (loss < previous if maximize else loss > previous) else NOT_WORSE), loss


def compare_losses(loss: Any, previous: Any, maximize: bool = False, xp: Any = np) -> tuple[Any, Any]:
    """Compare losses element by element; nothing waits for a device.

    Args:
        loss: E, an array or tensor of any shape.
        previous: E_prev of the same shape, NaN where there was none.
        maximize: whether a greater loss is the better one.
        xp: the library of ``loss``, numpy or torch.

    Returns:
        ``(outcomes, E_prev for the next step)``: integers and the type of ``loss``, both of its shape.
    """
    finite = xp.isfinite(loss)
    has_previous = xp.isfinite(previous)
    increased = loss < previous if maximize else loss > previous
    outcome = xp.where(has_previous & ~finite, NONFINITE, xp.where(has_previous & increased, WORSE, NOT_WORSE))
    return outcome, xp.where(finite, loss, previous)
