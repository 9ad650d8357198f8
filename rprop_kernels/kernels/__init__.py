"""The engines: one module for each backend, all with the same interface.

Every engine has a table ``UPDATES`` with an entry for each variant it can run, and a function ``step`` with the
signature of :func:`rprop_kernels.kernels.numpy_.step`, the engine to read first. It updates all parameters of one
optimizer in place and returns True, or returns False and has touched nothing. Tests compare the engines through it;
optimizers keep the objects that cache between steps (``ArrayStepper``, ``TritonStep``, the native ``TorchStep``).
"""

import importlib
from types import ModuleType


def load_engine(name: str) -> ModuleType:
    """Import the engine of a backend."""
    return importlib.import_module(f"rprop_kernels.kernels.{name}_")
