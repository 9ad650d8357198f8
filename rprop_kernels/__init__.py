"""Rprop as it was published, fast: kernels in Cython, Numba and Triton, optimizers for PyTorch, NumPy and SciPy.

The optimizers are in :mod:`rprop_kernels.torch` and :mod:`rprop_kernels.numpy`; this module imports
neither torch nor numba.
"""

from .backends import available_backends, show_config
from .rules import VARIANTS

__version__ = "0.1.0"
__all__ = ["VARIANTS", "__version__", "available_backends", "show_config"]
