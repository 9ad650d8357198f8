"""The progress of a fit: a bar by rich or tqdm where one of them is installed, else lines on stderr."""

import importlib
import importlib.util
import math
import sys
import time
from typing import Any, Final, Protocol

INTERVAL: Final = 0.1
"""Seconds between two updates."""


class Progress(Protocol):
    """A display that is updated in the loop and closed at its end."""

    def update(self, steps: int, best: float, finished: int) -> None:
        """Show the number of steps, the best loss and the number of finished problems."""

    def close(self) -> None:
        """Leave the last state on the screen."""


class _Display:
    def __init__(self, max_steps: float | None, problems: int) -> None:
        self.total = None if max_steps is None else int(max_steps)
        self.problems = problems
        self.started = time.monotonic()
        self.shown = -math.inf
        self.last: tuple[int, float, int] | None = None

    def update(self, steps: int, best: float, finished: int) -> None:
        self.last = steps, best, finished
        now = time.monotonic()
        if now - self.shown >= self.interval:
            self.shown = now
            self.show(steps, self.text(best, finished))

    def close(self) -> None:
        if self.last is not None:
            steps, best, finished = self.last
            self.show(steps, self.text(best, finished))

    interval = INTERVAL

    def text(self, best: float, finished: int) -> str:
        text = f"best loss {best:.6g}"
        return text if self.problems == 1 else f"{text}, {finished / self.problems:.0%} finished"

    def show(self, steps: int, text: str) -> None:
        raise NotImplementedError


class _Lines(_Display):
    interval = 2.0

    def show(self, steps: int, text: str) -> None:
        seconds = time.monotonic() - self.started
        left = "" if self.total is None else f" of at most {self.total}"
        if self.total is not None and 0 < steps < self.total:
            left += f", at most {seconds * (self.total - steps) / steps:.0f} s left"
        print(f"minimize: {text}, step {steps}{left}", file=sys.stderr)


class _Rich(_Display):
    def __init__(self, max_steps: float | None, problems: int) -> None:
        super().__init__(max_steps, problems)
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        self._bar = Progress(
            TextColumn("minimize"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.description}"),
            TimeRemainingColumn(),
            console=Console(stderr=True),
        )
        self._task = self._bar.add_task("", total=self.total)
        self._bar.start()

    def show(self, steps: int, text: str) -> None:
        self._bar.update(self._task, completed=steps, description=text)

    def close(self) -> None:
        super().close()
        self._bar.stop()


class _Tqdm(_Display):
    def __init__(self, max_steps: float | None, problems: int) -> None:
        super().__init__(max_steps, problems)
        tqdm: Any = importlib.import_module("tqdm")  # which ships no types
        self._bar = tqdm.tqdm(total=self.total, desc="minimize", unit=" steps")

    def show(self, steps: int, text: str) -> None:
        self._bar.set_postfix_str(text, refresh=False)
        self._bar.update(steps - self._bar.n)

    def close(self) -> None:
        super().close()
        self._bar.close()


def start_progress(max_steps: float | None, problems: int) -> Progress:
    """Return a display of the first of rich, tqdm and plain lines that is available.

    Args:
        max_steps: the number of steps at which the fit ends at the latest; None for no limit.
        problems: the number of problems.
    """
    for package, display in (("rich", _Rich), ("tqdm", _Tqdm)):
        if importlib.util.find_spec(package) is not None:
            return display(max_steps, problems)
    return _Lines(max_steps, problems)
