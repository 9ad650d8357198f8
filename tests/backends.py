"""The extension and its instruction sets, as far as they are available."""

import pytest

from rprop_kernels.backends import unavailable_reason
from rprop_kernels.kernels import load_engine

cython_ = load_engine("cython") if unavailable_reason("cython") is None else None
INSTRUCTION_SETS = cython_.instruction_sets() if cython_ else ("any",)  # conftest.py skips it
INSTRUCTION_SET_VARIABLE = "RPROP_KERNELS_INSTRUCTION_SET"

compiled = pytest.mark.skipif(cython_ is None, reason="the extension is missing")
