"""How far the runs in progress are, so that the time left of a long study is known before its first run ends.

A run tells it in a small file beside its result, about once a second, because it may run in another process.
"""

import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Final

SECONDS: Final = 1.0
"""Between two words of a run, and between two looks at them."""


def _file(path: Path) -> Path:
    return path.with_suffix(".part")


class ProgressWriter:
    """What a run tells.

    Args:
        path: of its result.
    """

    def __init__(self, path: Path) -> None:
        self._file, self._written = _file(path), time.monotonic()

    def write(self, share: float) -> None:
        """So much is done, 0..1."""
        if time.monotonic() - self._written >= SECONDS:
            self._written = time.monotonic()
            with suppress(OSError):  # nobody watches, or the disk is full: the result will say so
                self._file.write_text(f"{share:.4f}", encoding="ascii")


def clear(path: Path) -> None:
    """Takes away what the run with that result told, which is over or has not begun."""
    with suppress(OSError):
        _file(path).unlink(missing_ok=True)


class ProgressReader:
    """Counts finished runs and the shares of the others; ``progress(done, total)`` whenever that has grown.

    Args:
        paths: of the results that are to come.
        done, total: runs.
        progress: called in a thread of its own too.
    """

    def __init__(self, paths: Iterable[Path], done: int, total: int, progress: Callable[[float, int], None]) -> None:
        self._files = {_file(path) for path in paths}
        self._folders = {file.parent for file in self._files}
        self._done, self._total, self._progress = done, total, progress
        self._reported = float(done)
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._poll, daemon=True)

    def __enter__(self) -> "ProgressReader":
        self._progress(self._done, self._total)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopped.set()
        self._thread.join()

    def finished(self) -> None:
        """One more run is."""
        self._done += 1
        self._report(self._done)

    def _poll(self) -> None:
        while not self._stopped.wait(SECONDS):
            self._report(self._done + self._shares())

    def _report(self, done: float) -> None:
        if done > self._reported:
            self._reported = done
            self._progress(done, self._total)

    def _shares(self) -> float:
        total = 0.0
        # Once a second in the process that may be timing a run: looks for thousands of files cost it a percent.
        for file in self._files.intersection(file for folder in self._folders for file in folder.glob("*.part")):
            with suppress(OSError, ValueError):  # it is gone, or being written
                total += float(file.read_text(encoding="ascii"))
        return total
