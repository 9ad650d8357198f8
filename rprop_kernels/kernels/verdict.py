"""What iRprop+ makes of the loss: better, worse, or lost.

[IH03] takes a move back only where the loss E rose: E > E_prev, strictly. A loss that is NaN or infinite
is worse than anything (our extension): every remembered move is taken back and E_prev stays, so that
the search returns to where the loss was last finite.
"""

import math
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

BETTER: Final = 0
"""Not worse: E <= E_prev, or there is no E_prev yet. A flipped weight stays."""
WORSE: Final = 1
"""E > E_prev (E < E_prev under maximize). A flipped weight takes its last move back."""
LOST: Final = 2
"""E is NaN or infinite after a finite one. Every weight that moved takes its move back."""

Verdict: TypeAlias = int | NDArray[Any]


def judge(loss: float, previous: float | None, maximize: bool = False) -> tuple[int, float | None]:
    """``(verdict, E_prev for the next step)`` of one loss; ``previous`` is None where there was none."""
    if not math.isfinite(loss):
        return (BETTER if previous is None else LOST), previous
    if previous is None:
        return BETTER, loss
    return (WORSE if (loss < previous if maximize else loss > previous) else BETTER), loss


def judge_rows(
    loss: ArrayLike, previous: NDArray[Any] | None, maximize: bool = False
) -> tuple[NDArray[np.uint8], NDArray[Any]]:
    """The same for losses of shape (B,): a verdict a row, and E_prev, NaN in rows that never had a finite loss."""
    loss = np.asarray(loss)
    finite = np.isfinite(loss)
    if previous is None:
        previous = np.full(loss.shape, np.nan, loss.dtype)
    known = np.isfinite(previous)
    with np.errstate(invalid="ignore"):
        rose = loss < previous if maximize else loss > previous
    verdict = np.where(known & ~finite, LOST, np.where(known & rose, WORSE, BETTER)).astype(np.uint8)
    return verdict, np.where(finite, loss, previous)
