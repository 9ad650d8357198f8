"""Progress of the runs of a study, so that the remaining time is known before the first run ends.

A run may be in another process, so it writes its progress to a small file next to its result, about once a second.
"""

import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Final

SECONDS: Final = 1.0
"""Seconds between two writes and between two reads of the progress."""


def _file(path: Path) -> Path:
    return path.with_suffix(".part")


class ProgressWriter:
    """Writer of a run's progress file.

    Args:
        path: path of the run's result.
    """

    def __init__(self, path: Path) -> None:
        self._file, self._written = _file(path), time.monotonic()

    def write(self, share: float) -> None:
        """Record the completed share, 0..1."""
        if time.monotonic() - self._written >= SECONDS:
            self._written = time.monotonic()
            with suppress(OSError):  # not critical: a full disk is reported when the result is written
                self._file.write_text(f"{share:.4f}", encoding="ascii")


def clear(path: Path) -> None:
    """Delete the progress file of a run that has ended or not begun."""
    with suppress(OSError):
        _file(path).unlink(missing_ok=True)


class ProgressReader:
    """Reader of the progress of all runs, which calls ``progress(done, total)`` whenever it has grown.

    Args:
        paths: paths of the results that are still missing.
        done, total: numbers of runs.
        progress: called from a second thread too.
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
        """Count one more finished run."""
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
        # One listing a folder: testing thousands of files would take a percent of the time of a timed run.
        for file in self._files.intersection(file for folder in self._folders for file in folder.glob("*.part")):
            with suppress(OSError, ValueError):  # it was removed, or is being written
                total += float(file.read_text(encoding="ascii"))
        return total
