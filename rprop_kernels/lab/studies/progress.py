"""Progress and checkpoints of the runs of a study.

A run may be in another process, so it writes its progress to a small file next to its result, about once a second,
and everything from which it can be resumed to a second one.
"""

import io
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Final

import numpy as np

from ..results import write_file

SECONDS: Final = 1.0
"""Seconds between two writes and between two reads of the progress."""
CHECKPOINT_SECONDS: Final = 5.0
"""Seconds between two checkpoints of a run."""


def _file(path: Path) -> Path:
    return path.with_suffix(".part")


def _state_file(path: Path) -> Path:
    return path.with_suffix(".checkpoint")


class Recorder:
    """Recorder of the progress and the state of a run.

    Args:
        path: path of the run's result.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._progress_at = self._state_at = time.monotonic()

    def resume(self) -> dict[str, Any] | None:
        """Load the last checkpoint; None if there is none or it is damaged: the run then starts from the beginning."""
        file = _state_file(self._path)
        if not file.exists():
            return None
        import torch

        try:
            state = _unpacked(torch.load(file, weights_only=True))  # executes no code
        except Exception:  # damage surfaces in many types: zip, pickle, torch's own
            return None
        return state if isinstance(state, dict) else None

    def write(self, share: float, state: Callable[[], dict[str, Any]], text: str = "") -> None:
        """Record the completed share, 0..1, with a text for the terminal, and the state, after each epoch.

        Args:
            share, text: the progress.
            state: called when a checkpoint is due; values, lists, tuples and dicts of these, arrays and tensors.

        Raises:
            LabError: the checkpoint cannot be written.
        """
        now = time.monotonic()
        if now - self._progress_at >= SECONDS:
            self._progress_at = now
            with suppress(OSError):  # not critical: a full disk is reported when a checkpoint or the result is written
                _file(self._path).write_text(f"{share:.4f} {text}", encoding="ascii")
        if now - self._state_at >= CHECKPOINT_SECONDS:
            import torch

            memory = io.BytesIO()
            torch.save(_packed(state()), memory)
            write_file(_state_file(self._path), lambda file: file.write(memory.getbuffer()))
            self._state_at = time.monotonic()


def _packed(value: Any) -> Any:
    """Replace arrays by tensors, which torch loads without executing code."""
    if isinstance(value, np.ndarray):
        import torch

        return {"an array": torch.from_numpy(value)}
    if isinstance(value, dict):
        return {key: _packed(item) for key, item in value.items()}
    return type(value)(map(_packed, value)) if type(value) in (list, tuple) else value


def _unpacked(value: Any) -> Any:
    if isinstance(value, dict):
        if list(value) == ["an array"]:
            return value["an array"].numpy()
        return {key: _unpacked(item) for key, item in value.items()}
    return type(value)(map(_unpacked, value)) if type(value) in (list, tuple) else value


def clear(path: Path, finished: bool = False) -> None:
    """Delete the progress file of a run that has ended or not begun, and the checkpoint of one that has finished."""
    for file in (_file(path), _state_file(path))[: 1 + finished]:
        with suppress(OSError):
            file.unlink(missing_ok=True)


def unfinished(path: Path) -> bool:
    """Check whether a run has a checkpoint."""
    return _state_file(path).exists()


class ProgressReader:
    """Reader of the progress of all runs, which calls ``progress(done, text)`` whenever it has grown.

    Args:
        paths: paths of the results that are still missing.
        done: number of finished runs.
        progress: called from a second thread too.
    """

    def __init__(self, paths: Iterable[Path], done: int, progress: Callable[[float, str], None]) -> None:
        self._files = {_file(path) for path in paths}
        self._folders = {file.parent for file in self._files}
        self._done, self._progress = done, progress
        self._reported = float(done)
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._poll, daemon=True)

    def __enter__(self) -> "ProgressReader":
        self._progress(self._done, "")
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
        self._report(self._done, "")

    def _poll(self) -> None:
        while not self._stopped.wait(SECONDS):
            done = self._done  # before the shares, or a run that ends in between would count twice
            share, text = self._read()
            self._report(done + share, text)

    def _report(self, done: float, text: str) -> None:
        if done > self._reported:
            self._reported = done
            self._progress(done, text)

    def _read(self) -> tuple[float, str]:
        """Return the sum of the shares, and the text of one of the runs."""
        total, text = 0.0, ""
        # One listing a folder: testing thousands of files would take a percent of the time of a timed run.
        for file in self._files.intersection(file for folder in self._folders for file in folder.glob("*.part")):
            with suppress(OSError, ValueError):  # it was removed, or is being written
                share, _, text = file.read_text(encoding="ascii").partition(" ")
                total += float(share)
        return total, text
