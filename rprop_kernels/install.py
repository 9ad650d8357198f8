"""How this package was installed: its source checkout, its compiled extension, and commands that install more."""

import hashlib
import importlib.machinery
import importlib.metadata
import importlib.util
import json
import platform
import sys
from pathlib import Path
from types import ModuleType
from typing import Final
from urllib.parse import urlsplit
from urllib.request import url2pathname

EXTENSION: Final = "rprop_kernels.kernels._native"
MARKER: Final = b"rprop_kernels source "
"""Precedes, in a built extension, the hash of the sources that it was built from (``setup.py``)."""


class UnbuiltError(ImportError):
    """A source checkout has no extension of its sources."""


def source_root() -> Path | None:
    """Return the folder of the source checkout that this package is imported from, or None."""
    root = Path(__file__).resolve().parents[1]
    return root if (root / "src" / "_native.pyx").exists() else None


def source_hash(root: Path) -> str:
    """Return the hash of the sources of the extension, the same for both kinds of line ends."""
    digest = hashlib.sha256()
    for path in sorted((root / "src").iterdir()):
        if path.suffix in (".h", ".pyx"):
            digest.update(path.name.encode() + b"\0" + path.read_bytes().replace(b"\r\n", b"\n") + b"\0")
    return digest.hexdigest()[:16]


def _built_from(path: Path, digest: str) -> bool:
    try:
        return MARKER + digest.encode() in path.read_bytes()
    except OSError:
        return False


def _candidates(root: Path) -> list[Path]:
    """Return the extensions in the checkout, then those elsewhere on the import path."""
    roots = dict.fromkeys((root, *(Path(entry).resolve() for entry in sys.path)))
    found = [
        folder / "rprop_kernels" / "kernels" / f"_native{suffix}"
        for folder in roots
        for suffix in importlib.machinery.EXTENSION_SUFFIXES
    ]
    return [path for path in found if path.is_file()]


def load_extension() -> ModuleType:
    """Import the compiled extension.

    An installed package has it beside its modules. A source checkout takes the one in its own folder, else one of an
    installed copy of the package, and either only where it was built from the sources as they are now.

    Raises:
        ImportError: there is none, or it does not load; the message names the remedy.
    """
    if EXTENSION in sys.modules:
        return importlib.import_module(EXTENSION)  # raises where an entry of None forbids it
    root = source_root()
    if root is None:
        return importlib.import_module(EXTENSION)
    digest = source_hash(root)
    found = _candidates(root)
    for path in found:
        if _built_from(path, digest):
            loader = importlib.machinery.ExtensionFileLoader(EXTENSION, str(path))
            spec = importlib.util.spec_from_file_location(EXTENSION, path, loader=loader)
            assert spec is not None
            module = importlib.util.module_from_spec(spec)
            loader.exec_module(module)
            sys.modules[EXTENSION] = module
            return module
    if found:
        raise UnbuiltError(f"{found[0]} was built from other sources than those in {root / 'src'}")
    raise UnbuiltError(f"{root} is a source checkout without a built extension")


def extension_reason() -> str | None:
    """Return None where the extension can be used, else the reason and the remedy."""
    try:
        load_extension()
    except ImportError as error:
        if not isinstance(error, UnbuiltError) and (other := _other_machine(error)):
            return other
        if source_root() is not None:
            return f"{error}. To build this checkout: {install_command()}"
        return (
            f"its compiled extension did not load ({error}): install a wheel, or a C compiler and the Python "
            "headers, then reinstall with RPROP_KERNELS_REQUIRE_EXTENSION=1 to see the build's error, and with "
            "pip's --force-reinstall --no-cache-dir, since pip keeps what it built without a compiler"
        )
    return None


def _other_machine(error: ImportError) -> str | None:
    """Describe this machine where there is no extension for it, or one that was built for another; else None."""
    found = sorted(path.name for path in (Path(__file__).parent / "kernels").glob("_native*"))
    found = [name for name in found if name.endswith((".so", ".pyd"))]
    machine = f"{platform.machine() or 'this processor'}, {sys.byteorder}-endian, {sys.maxsize.bit_length() + 1} bit"
    if sys.byteorder != "little" or sys.maxsize < 2**32:
        return (
            f"the compiled extension needs a 64-bit little-endian machine, and this is {machine}: use backend='numpy'"
        )
    if found:
        libc = "" if platform.libc_ver()[0] or sys.platform != "linux" else ", without glibc (musl?)"
        return (
            f"{', '.join(found)} does not load ({error}) on {sys.platform}, {machine}{libc}, Python "
            f"{platform.python_version()}: it was built for another system, processor or Python. With a C compiler, "
            f"build it for this machine: {install_command()} --force-reinstall --no-cache-dir --no-binary rprop_kernels"
        )
    return None


def install_command(extra: str = "") -> str:
    """Return a command that installs this package with an extra from where it came from.

    Args:
        extra: the name of the extra, or nothing.

    Examples:
        >>> install_command("numba").startswith("python -m pip install ")
        True
    """
    extras = f"[{extra}]" if extra else ""
    root, editable = source_root(), True
    if root is None:
        root, editable = _local_source()
    if root is None:
        return f'python -m pip install "rprop_kernels{extras}"'
    if root.is_file():  # a wheel or an sdist
        return f'python -m pip install "rprop_kernels{extras} @ {root.as_uri()}"'
    folder = "." if root == Path.cwd() else str(root)
    return f'python -m pip install {"-e " if editable else ""}"{folder}{extras}"'


def _local_source() -> tuple[Path | None, bool]:
    """Return the folder or file that the package was installed from, as pip records it, and whether editable."""
    try:
        text = importlib.metadata.distribution("rprop_kernels").read_text("direct_url.json")
        record = json.loads(text or "{}")
        address = urlsplit(record.get("url", ""))
    except (importlib.metadata.PackageNotFoundError, ValueError):
        return None, False
    path = Path(url2pathname(address.path)) if address.scheme == "file" else None
    if path is None or not path.exists():
        return None, False
    return path, bool(record.get("dir_info", {}).get("editable"))
