"""What this installation consists of, for people and for bug reports."""

import importlib.metadata
import os
import platform
import sys

from .kernels import BACKENDS, ENVIRONMENT, why_missing


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _native_facts() -> dict[str, str]:
    from .kernels import cython_, openmp

    try:
        used = cython_.instruction_set()
    except ValueError as error:
        used = f"none: {error}"
    return {
        "instruction set": f"{used} (of {', '.join(cython_.instruction_sets())})",
        "threads": openmp.describe(),
    }


def show_config(*, display: bool = True) -> dict[str, dict[str, str]]:
    """Versions, the backend in use, its instruction set and threads, and why another backend is missing.

    Args:
        display: print it; otherwise only return it.

    Returns:
        The same facts as a dict of sections.
    """
    asked = os.environ.get(ENVIRONMENT)
    chosen = asked or next(name for name in BACKENDS if why_missing(name) is None)
    facts = {
        "versions": {
            "rprop_kernels": sys.modules["rprop_kernels"].__version__,
            "python": platform.python_version(),
            **{name: _version(name) for name in ("numpy", "torch", "numba", "scipy", "scikit-learn", "triton")},
        },
        "machine": {"platform": platform.platform(), "processor": platform.machine()},
        "backends": {
            name: ("in use" if name == chosen else "available")
            if (reason := why_missing(name)) is None
            else f"missing: {reason}"
            for name in BACKENDS
        },
    }
    if asked and (asked not in BACKENDS or why_missing(asked) is not None):
        facts["backends"][f"{ENVIRONMENT}={asked}"] = "cannot be used: optimizers will raise an error"
    if why_missing("cython") is None:
        facts["cython"] = _native_facts()
    if display:
        for section, rows in facts.items():
            print(section)
            width = max(map(len, rows))
            for key, value in rows.items():
                print(f"  {key:<{width}}  {value}")
    return facts
