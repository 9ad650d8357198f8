"""Reading .npz files, which anybody may have damaged or made."""

import os
import zipfile
from typing import Any

import numpy as np
from numpy.typing import NDArray


def read(path: str | os.PathLike[str]) -> dict[str, NDArray[Any]]:
    """The arrays of an .npz file, by name. Nothing is unpickled.

    Raises:
        OSError: the file cannot be opened.
        ValueError: it is damaged, holds pickles, or is no .npz file at all.
    """
    with open(path, "rb") as file:
        if not zipfile.is_zipfile(file):
            raise ValueError("it is no .npz file, or is cut short")
        file.seek(0)
        try:
            with np.load(file, allow_pickle=False) as archive:
                entries = {key: archive[key] for key in archive.files}
        # zip, zlib, lzma, the tokenizer of headers, memory for a shape that nobody has: damage fails in many ways
        except Exception as error:
            raise ValueError(str(error)) from error
    for key, entry in entries.items():
        if not isinstance(entry, np.ndarray):
            raise ValueError(f"its entry {key!r} is no array")
    return entries
