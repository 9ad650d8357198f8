"""The extension and its instruction sets, as far as they are here."""

import pytest

from rprop_kernels.kernels import load, why_missing

cython_ = load("cython") if why_missing("cython") is None else None
LEVELS = cython_.instruction_sets() if cython_ else ("any",)  # conftest.py skips it
LEVEL_VARIABLE = "RPROP_KERNELS_INSTRUCTION_SET"

compiled = pytest.mark.skipif(cython_ is None, reason="the extension is missing")
