"""Files that are either whole or as they were before, and the facts that stand in each of them."""

import csv
import io
import json
import math
import os
import platform
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from ..files import write_atomic
from .errors import LabError


def check_writable(folder: Path, names: Sequence[str] = ()) -> None:
    """Finds out whether files called ``names`` could be written into ``folder``, and leaves nothing behind.

    Raises:
        LabError: saying what stands in the way.
    """
    try:
        ancestor = next(path for path in (folder.absolute(), *folder.absolute().parents) if os.path.lexists(path))
        if not ancestor.is_dir():
            raise NotADirectoryError(0, f"{ancestor} is not a folder")
        with tempfile.TemporaryFile(dir=ancestor) as probe:
            probe.write(b"probe")
        for name in names:
            if (folder / name).is_dir():
                raise IsADirectoryError(0, f"{folder / name} is a folder")
    except OSError as error:
        raise LabError(
            f"Nothing can be written to {folder}: {error.strerror or error}. Choose another folder with --out."
        ) from error


def write_file(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Write a file atomically, see :func:`rprop_kernels.files.write_atomic`; its folder is created if missing.

    Raises:
        LabError: the file cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, write)
    except OSError as error:
        raise LabError(
            f"{path} cannot be written: {error.strerror or error}. Choose another folder with --out."
        ) from error


def write_text(path: Path, text: str) -> None:
    """Writes a text file, whole or not at all."""
    write_file(path, lambda file: file.write(text.encode()))


def write_json(path: Path, value: Any) -> None:
    """Writes JSON, whole or not at all; NaN and infinity, which JSON does not know, become null."""
    write_text(path, json.dumps(_finite(value), indent=1, allow_nan=False) + "\n")


def stored_results(path: Path) -> dict[str, Any] | None:
    """Results that were written earlier; None where there are none that can be read."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def csv_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows with the same keys as CSV with a heading; None is an empty field."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def markdown_table(heading: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; the first column to the left, the others to the right."""
    align = [":---", *["---:"] * (len(heading) - 1)]
    return "".join(f"| {' | '.join(row)} |\n" for row in (heading, align, *rows))


def environment() -> dict[str, Any]:
    """Versions and machine, for every file of results."""
    import torch

    from .. import show_config

    facts: dict[str, Any] = dict(show_config(display=False))
    facts["machine"] = facts["machine"] | {
        "processor name": processor_name(),
        "cores": os.cpu_count(),
        "torch threads": torch.get_num_threads(),
        "system": platform.system(),
    }
    return facts


def processor_name() -> str:
    """What Linux calls the processor; elsewhere what Python does."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor())


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value
