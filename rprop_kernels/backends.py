"""The backends: which exist, which can be used here and why not, and which one an optimizer takes.

A new backend is one engine module in :mod:`rprop_kernels.kernels` and one row here. Nothing is imported before it is
needed.
"""

import ctypes
import importlib.metadata
import os
import platform
import sys
from collections.abc import Callable
from importlib.util import find_spec
from typing import Final, Literal, NamedTuple, TypeAlias

from .install import extension_reason, install_command
from .warn import warn_user

BACKEND_VARIABLE: Final = "RPROP_KERNELS_BACKEND"

Family: TypeAlias = Literal["arrays", "tensors"]


def _numba_reason() -> str | None:
    if find_spec("numba") is None:
        return f"numba is not installed: {install_command('numba')}"
    return None


def _torch_reason() -> str | None:
    if find_spec("torch") is None:
        return f"torch is not installed: {install_command('torch')}"
    return None


def _triton_reason() -> str | None:
    if find_spec("triton") is None or find_spec("torch") is None:
        return "triton is not installed: it comes with the CUDA builds of torch"
    interpreted = os.environ.get("TRITON_INTERPRET", "").lower() in ("1", "true", "yes", "on", "y")
    if not interpreted and not _has_cuda():
        return "torch can use no CUDA device (TRITON_INTERPRET=1 runs the kernels on the CPU, for tests)"
    return None


def _has_cuda() -> bool:
    """Check whether torch can use a CUDA device; as long as torch is not imported, whether there is a driver."""
    torch = sys.modules.get("torch")
    if torch is not None:
        return torch.version.cuda is not None and torch.cuda.is_available()
    try:
        ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return False
    return True


class _Backend(NamedTuple):
    """A row of the list: the libraries whose optimizers it serves, and the test whether it can be used here."""

    families: tuple[Family, ...]
    reason: Callable[[], str | None]


_BACKENDS: Final = {  # in order of preference: the first that is available is the default
    "cython": _Backend(("arrays", "tensors"), extension_reason),
    "numba": _Backend(("arrays", "tensors"), _numba_reason),
    "numpy": _Backend(("arrays",), lambda: None),
    "torch": _Backend(("tensors",), _torch_reason),
    "triton": _Backend(("tensors",), _triton_reason),  # never the default: it serves CUDA tensors on all but "torch"
}

BACKENDS: Final = tuple(_BACKENDS)
"""Names of all backends, in order of preference."""


def supported_backends(family: Family) -> tuple[str, ...]:
    """Return the backends for NumPy arrays (``"arrays"``) or torch tensors (``"tensors"``), in order of preference."""
    return tuple(name for name, row in _BACKENDS.items() if family in row.families)


def unavailable_reason(name: str) -> str | None:
    """Return None where the backend can be used, else the reason and the remedy."""
    row = _BACKENDS.get(name)
    return "there is no such backend" if row is None else row.reason()


def available_backends() -> tuple[str, ...]:
    """Return the names of the backends that can be used here, in order of preference.

    Examples:
        >>> "numpy" in available_backends()
        True
    """
    return tuple(name for name in BACKENDS if unavailable_reason(name) is None)


def resolve_backend(requested: str | None, family: Family) -> str:
    """Return the backend to use: the argument, else the environment variable, else the first available one.

    Args:
        requested: a name, or None.
        family: ``"arrays"`` or ``"tensors"``. A value of RPROP_KERNELS_BACKEND that exists for the other family only
            is ignored.

    Warns:
        RuntimeWarning: nothing was requested and the preferred backend is missing; with the reason and the remedy.

    Raises:
        ValueError: the one requested is unknown or missing; the message lists all, and why some cannot be used.
    """
    supported = supported_backends(family)
    source = "backend="
    if requested is None:
        requested, source = _from_environment(supported), f"{BACKEND_VARIABLE}="
    if requested is None:
        found = next(name for name in supported if unavailable_reason(name) is None)
        if found != supported[0]:
            warn_user(
                f"rprop_kernels falls back to its slower backend {found!r} (ask for a backend by name to silence "
                f"this). {supported[0]!r} is missing: {unavailable_reason(supported[0])}",
                RuntimeWarning,
            )
        return found
    if requested in supported and unavailable_reason(requested) is None:
        return requested
    rows = (f"  {name}: {unavailable_reason(name) or 'available'}" for name in supported)
    raise ValueError(f"{source}{requested!r} cannot be used here. Available here:\n" + "\n".join(rows))


def _from_environment(supported: tuple[str, ...]) -> str | None:
    """Return the environment's choice, unless it names a backend of the other family only."""
    requested = os.environ.get(BACKEND_VARIABLE) or None
    return None if requested in BACKENDS and requested not in supported else requested


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _native_facts() -> dict[str, str]:
    from .kernels import cython_, threads

    try:
        used = cython_.instruction_set()
    except ValueError as error:
        used = f"none: {error}"
    return {
        "instruction set": f"{used} (of {', '.join(cython_.instruction_sets())})",
        "threads": threads.describe(),
    }


def _instruction_set_error(backend: str) -> str:
    """Return the remark that the instruction set of the environment cannot be used, where that is so."""
    if backend == "cython":
        from .kernels import cython_

        try:
            cython_.isa()
        except ValueError as error:
            return f": optimizers raise an error, {error}"
    return ""


def _default_backend(family: Family) -> str:
    """Describe the backend that optimizers of a family take where none is passed."""
    supported = supported_backends(family)
    requested = _from_environment(supported)
    if requested is not None:
        if requested in supported and unavailable_reason(requested) is None:
            return f"{requested} ({BACKEND_VARIABLE}){_instruction_set_error(requested)}"
        return f"none: {BACKEND_VARIABLE}={requested} cannot be used, optimizers raise an error"
    if family == "tensors" and unavailable_reason("torch") is not None:
        return "none: torch is not installed"
    default = next(name for name in supported if unavailable_reason(name) is None)
    default += _instruction_set_error(default)
    if os.environ.get(BACKEND_VARIABLE):
        default += f" ({BACKEND_VARIABLE}={os.environ[BACKEND_VARIABLE]} does not apply here)"
    elif family == "tensors" and unavailable_reason("triton") is None:
        default += "; triton for CUDA tensors"
    return default


def show_config(*, display: bool = True) -> dict[str, dict[str, str]]:
    """Show versions, the default backends, instruction set and threads, and why a backend is missing.

    Args:
        display: print it; otherwise only return it.

    Returns:
        The same facts as a dict of sections.

    Examples:
        >>> sorted(show_config(display=False))[:3]
        ['backends', 'cython', 'defaults']
    """
    facts = {
        "versions": {
            "rprop_kernels": sys.modules["rprop_kernels"].__version__,
            "python": platform.python_version(),
            **{name: _version(name) for name in ("numpy", "torch", "numba", "scipy", "scikit-learn", "triton")},
        },
        "machine": {"platform": platform.platform(), "processor": platform.machine()},
        "defaults": {
            "NumPy arrays": _default_backend("arrays"),
            "torch tensors": _default_backend("tensors"),
        },
        "backends": {
            name: "available" if (reason := unavailable_reason(name)) is None else f"missing: {reason}"
            for name in BACKENDS
        },
    }
    if unavailable_reason("cython") is None:
        facts["cython"] = _native_facts()
    if display:
        for section, rows in facts.items():
            print(section)
            width = max(map(len, rows))
            for key, value in rows.items():
                print(f"  {key:<{width}}  {value}")
    return facts
