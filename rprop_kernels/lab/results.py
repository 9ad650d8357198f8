"""Result files: atomic writing, tables, and the facts about versions and machine."""

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
    """Check that files called ``names`` could be written into ``folder``; leave nothing behind.

    Raises:
        LabError: they cannot; the message names the obstacle.
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


def check_new(path: Path, force: bool) -> None:
    """Check that a file can be written, and that nothing is replaced without ``--force``.

    Raises:
        LabError: it cannot, or it exists.
    """
    check_writable(path.parent, (path.name,))
    if path.exists() and not force:
        raise LabError(
            f"{path} exists, and would be lost. Choose another folder with --out, or replace it with --force."
        )


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
    """Write a text file atomically."""
    write_file(path, lambda file: file.write(text.encode()))


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically; NaN and infinity, which JSON does not have, become null."""
    write_text(path, json.dumps(_finite(value), indent=1, allow_nan=False) + "\n")


def stored_results(path: Path) -> dict[str, Any] | None:
    """Read results that were written earlier; None if there are none or they are damaged."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def csv_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Format rows that have the same keys as CSV with a heading; None is an empty field."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def markdown_table(heading: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Format a Markdown table; the first column is left-aligned, the others right-aligned."""
    align = [":---", *["---:"] * (len(heading) - 1)]
    return "".join(f"| {' | '.join(row)} |\n" for row in (heading, align, *rows))


def environment() -> dict[str, Any]:
    """Collect versions and machine, for every file of results."""
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
    """Return the processor's name from Linux, elsewhere from Python."""
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
