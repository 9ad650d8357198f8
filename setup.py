"""The extension, and nothing else: what the package is stands in pyproject.toml.

Without a working C compiler the install goes on and the package runs on its other backends
(``rprop_kernels.show_config()`` says so). ``RPROP_KERNELS_REQUIRE_EXTENSION=1`` makes a failed
build an error: for wheels and CI, where an empty wheel would be worse than none.
"""

import importlib.util
import os
import sys
import sysconfig
from pathlib import Path

from setuptools import Extension, setup

# The limited API: one wheel for every CPython from 3.11. The free-threaded builds do not have it, nor do others.
limited = sys.implementation.name == "cpython" and not sysconfig.get_config_var("Py_GIL_DISABLED")

if sys.platform == "win32":
    compile_args = ["/O2", "/fp:precise"]
else:
    # -ffp-contract=off: a fused multiply-add would change bits between instruction sets.
    # -fno-trapping-math -fno-math-errno: let the branch-free rules vectorise; no value depends on them.
    # -g0: debug information, which many a Python asks for, would be six sevenths of the extension.
    compile_args = ["-O3", "-ffp-contract=off", "-fno-trapping-math", "-fno-math-errno", "-g0"]


def source_hash():
    """Return the hash of the sources, by the function that compares it at run time."""
    root = Path(__file__).resolve().parent
    spec = importlib.util.spec_from_file_location("install", root / "rprop_kernels" / "install.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.source_hash(root)


setup(
    ext_modules=[
        Extension(
            "rprop_kernels.kernels._native",
            sources=["src/_native.pyx"],
            depends=[
                f"src/{name}.h" for name in ("dlpack", "free_threads", "half", "isa", "loops", "rules", "step_table")
            ],
            include_dirs=["src"],
            define_macros=[("SOURCE_HASH", source_hash()), *([("Py_LIMITED_API", "0x030b0000")] if limited else [])],
            py_limited_api=limited,
            extra_compile_args=compile_args,
            optional=os.environ.get("RPROP_KERNELS_REQUIRE_EXTENSION", "") in ("", "0"),
        )
    ],
    options={"bdist_wheel": {"py_limited_api": "cp311"}} if limited else {},
)
