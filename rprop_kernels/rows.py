"""The rows of a batch: which of them still run, and why and when the others stopped; for NumPy and torch."""

from typing import Any, Final

from .stopping import INTERRUPTED, RUNNING

SHARE: Final = 8
"""Rows that have stopped leave where they are one part in so many of those in the batch."""


class Rows:
    """The rows of a batch, some of which stop and leave.

    Args:
        numbers: of all problems, 0, 1, ...: an array or tensor of integers.

    Attributes:
        numbers: of the rows that are in the batch.
        running: which of these still run.
        code: of every problem, RUNNING or the reason why it stopped.
        steps: of every problem, made until then.

    Examples:
        >>> import numpy as np
        >>> rows = Rows(np.arange(3))
        >>> rows.stop(np.array([0, 2, 0]), 5)
        >>> rows.code.tolist(), rows.steps.tolist(), rows.leave().tolist(), rows.numbers.tolist()
        ([0, 2, 0], [0, 5, 0], [True, False, True], [0, 2])
    """

    def __init__(self, numbers: Any) -> None:
        self.numbers = numbers
        self.running = numbers >= 0
        self.code = numbers * 0 + RUNNING
        self.steps = numbers * 0
        self.finished = 0

    def stop(self, code: Any, steps: int) -> None:
        """Record the rows in the batch that stop now.

        Args:
            code: of each row in the batch, RUNNING for those that go on.
            steps: that have been made.
        """
        stopped = self.running & (code != RUNNING)
        if bool(stopped.any()):
            numbers = self.numbers[stopped]
            self.code[numbers] = code[stopped]
            self.steps[numbers] = steps
            self.running = self.running & (code == RUNNING)
            self.finished = len(self.code) - int(self.running.sum())

    @property
    def run(self) -> bool:
        """Whether any row still runs."""
        return self.finished < len(self.code)

    def leave(self) -> Any:
        """Drop the rows that have stopped where they are an eighth of the batch.

        Returns:
            booleans that choose the rows that stay, None where all do.
        """
        count = len(self.numbers)
        stopped = count - (len(self.code) - self.finished)
        if stopped * SHARE < count:
            return None
        keep = self.running
        self.select(keep)
        return keep

    def select(self, rows: Any) -> None:
        """Keep only some rows in the batch."""
        self.numbers, self.running = self.numbers[rows], self.running[rows]

    def interrupt(self, steps: int) -> None:
        """Stop all rows that run."""
        self.stop(self.running * INTERRUPTED, steps)
