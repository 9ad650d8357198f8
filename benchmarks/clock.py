"""Times that were measured before, as rounds of pytest-benchmark: contenders of one race take turns."""

from typing import Any


class Clock:
    """A timer for pytest-benchmark that stands still but for `replay`."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def _advance(self, seconds: float) -> None:
        self.now += seconds

    def replay(self, benchmark: Any, times: list[float]) -> None:
        """Make rounds of these times, in seconds."""
        measured = iter(times)
        benchmark.pedantic(lambda: self._advance(next(measured)), rounds=len(times))


CLOCK = Clock()
