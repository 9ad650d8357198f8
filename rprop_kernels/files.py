"""Files that may come from anywhere, and files that are written whole or not at all."""

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
    """Read all arrays of an .npz file by name, without unpickling anything.

    Raises:
        OSError: the file cannot be opened.
        ValueError: the file is damaged, contains pickles, or is not an .npz file.
    """
    with open(path, "rb") as file:
        if not zipfile.is_zipfile(file):
            raise ValueError("it is not an .npz file, or it is truncated")
        file.seek(0)
        try:
            with np.load(file, allow_pickle=False) as archive:
                entries = {key: archive[key] for key in archive.files}
        # Damage fails in many ways: zip, zlib, lzma, the header's tokenizer, memory for an absurd shape.
        except Exception as error:
            raise ValueError(str(error)) from error
    for key, entry in entries.items():
        if not isinstance(entry, np.ndarray):
            raise ValueError(f"its entry {key!r} is not an array")
    return entries


def write_atomic(path: str | os.PathLike[str], write: Callable[[BinaryIO], object]) -> None:
    """Write a file so that ``path`` is at every moment the old file or the complete new one.

    Args:
        path: the file; its folder must exist.
        write: writes the contents to the open temporary file that then replaces ``path``. If it raises, the
            temporary file is removed and ``path`` is unchanged.

    Raises:
        OSError: the file cannot be written.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")  # same folder: the replacement is one step
    try:
        with open(temporary, "xb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    if os.name == "posix":  # make the new directory entry survive a power failure, where the file system can
        with suppress(OSError):
            descriptor = os.open(path.parent, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
