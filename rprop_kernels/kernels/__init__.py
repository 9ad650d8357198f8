"""Choice of a backend: what there is, why something is missing, and which one to use.

Every backend is a module with the same ``KERNELS`` table (a key a variant) and the same ``step`` function,
described in :mod:`.numpy_`. Nothing is imported before it is asked for.
"""

import ctypes
import importlib
import os
import sys
import warnings
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Final

BACKENDS: Final = ("cython", "numba", "numpy", "torch", "triton")
"""In order of preference; the first that is available is the default."""

ENVIRONMENT: Final = "RPROP_KERNELS_BACKEND"


def why_missing(name: str) -> str | None:
    """None where the backend can be used, else the reason and the remedy."""
    if name == "cython":
        try:
            importlib.import_module("rprop_kernels.kernels._native")
        except ImportError as error:
            root = Path(__file__).parents[2]
            if (root / "src" / "_native.pyx").exists():
                return (
                    f"{root} is a source checkout without a built extension: run Python from another folder to get the "
                    "installed package, or build in place with pip install -e ."
                )
            return (
                f"its compiled extension did not load ({error}): install a wheel, or a C compiler and the Python "
                "headers, then reinstall with RPROP_KERNELS_REQUIRE_EXTENSION=1 to see the build's error, and with "
                "pip's --force-reinstall --no-cache-dir, since pip keeps what it built without a compiler"
            )
    elif name == "numba":
        if find_spec("numba") is None:
            return "numba is not installed: pip install 'rprop_kernels[numba]'"
    elif name == "torch":
        if find_spec("torch") is None:
            return "torch is not installed: pip install 'rprop_kernels[torch]'"
    elif name == "triton":
        if find_spec("triton") is None or find_spec("torch") is None:
            return "triton is not installed: it comes with the CUDA builds of torch"
        interpreted = os.environ.get("TRITON_INTERPRET", "").lower() in ("1", "true", "yes", "on", "y")
        if not interpreted and not _cuda():
            return "torch can use no CUDA device (TRITON_INTERPRET=1 runs the kernels on the CPU, for tests)"
    elif name != "numpy":
        return "there is no such backend"
    return None


def _cuda() -> bool:
    """Whether torch can use a CUDA device; as long as torch is not imported, whether there is a driver."""
    torch = sys.modules.get("torch")
    if torch is not None:
        return torch.version.cuda is not None and torch.cuda.is_available()
    try:
        ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return False
    return True


def available_backends() -> tuple[str, ...]:
    """Names of the backends that can be used here, in order of preference."""
    return tuple(name for name in BACKENDS if why_missing(name) is None)


def choose(backend: str | None, among: tuple[str, ...]) -> str:
    """The backend to use: the argument, else the environment variable, else the first available one.

    Args:
        backend: a name, or None.
        among: the backends that the caller can work with.

    Warns:
        RuntimeWarning: nothing was asked for and the first of ``among`` is missing; with the reason and the remedy.

    Raises:
        ValueError: the one asked for is unknown or missing; the message lists what there is and why not.
    """
    asked, origin = backend, "backend="
    if asked is None:
        asked, origin = os.environ.get(ENVIRONMENT) or None, ENVIRONMENT + "="
    if asked is None:
        found = next(name for name in among if why_missing(name) is None)
        if found != among[0]:
            warnings.warn(
                f"rprop_kernels falls back to its slower backend {found!r}. {among[0]!r} is missing: "
                f"{why_missing(among[0])}. Ask for a backend by name to silence this",
                RuntimeWarning,
                stacklevel=4,
            )
        return found
    if asked in among and why_missing(asked) is None:
        return asked
    rows = (f"  {name}: {why_missing(name) or 'available'}" for name in among)
    raise ValueError(f"{origin}{asked!r} cannot be used here. There is:\n" + "\n".join(rows))


def load(name: str) -> ModuleType:
    """The module of a backend."""
    return importlib.import_module(f"rprop_kernels.kernels.{name}_")
