"""Reading untrusted .npz files and writing files atomically."""

import os
import secrets
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray


def read_npz(path: str | os.PathLike[str]) -> dict[str, NDArray[Any]]:
    """Return the arrays of an .npz file by name. Nothing is unpickled.

    Raises:
        OSError: the file cannot be opened.
        ValueError: the file is damaged, contains pickles, or is not an .npz file.
    """
    with open(path, "rb") as file:
        if not zipfile.is_zipfile(file):
            raise ValueError("not an .npz file, or truncated")
        file.seek(0)
        try:
            with np.load(file, allow_pickle=False) as archive:
                entries = {key: archive[key] for key in archive.files}
        # Damage surfaces in many types: zip, zlib, lzma, the header's tokenizer, MemoryError for an absurd shape.
        except Exception as error:
            raise ValueError(str(error)) from error
    for key, entry in entries.items():
        if not isinstance(entry, np.ndarray):
            raise ValueError(f"its entry {key!r} is not an array")
    return entries


def write_atomic(path: str | os.PathLike[str], write: Callable[[BinaryIO], object]) -> None:
    """Replace a file in one step: at every moment ``path`` is the complete old file or the complete new one.

    Args:
        path: the file; its folder must exist.
        write: called with a binary file in the same folder, which then replaces ``path``. If it raises, ``path``
            is left as it was.

    Raises:
        OSError: the file cannot be written.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")  # same folder: os.replace is one step
    try:
        with open(temporary, "xb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:  # KeyboardInterrupt too
        temporary.unlink(missing_ok=True)
        raise
    if os.name == "posix":
        _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    """Flush the folder's entry, so that the new name survives a power failure."""
    with suppress(OSError):  # not every file system can; the file itself is already complete
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
