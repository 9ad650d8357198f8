"""Rprop for PyTorch: a drop-in for torch.optim.Rprop to the bit, and the four rules of the papers.

A step is one call into native code for all CPU tensors of all groups. Tensors that native code must not touch
(subclasses, lazy negation, dispatch modes, complex numbers, other devices) take torch's own operations,
silently and with the same result.

Set ``RPROP_KERNELS_PLAIN_STEP=1`` before an optimizer is made to get torch's own wrapper around every
step: execution-trace observers set no flag by which their presence could be seen.
"""

import importlib.util

from ..install import install_command

if importlib.util.find_spec("torch") is None:
    raise ModuleNotFoundError(f"rprop_kernels.torch needs torch: {install_command('torch')}", name="torch")

from .fit import minimize
from .rprop import Rprop
from .stopping import Stopping
from .variants import IRpropMinus, IRpropPlus, RpropMinus, RpropPlus

__all__ = ["IRpropMinus", "IRpropPlus", "Rprop", "RpropMinus", "RpropPlus", "Stopping", "minimize"]

for _class in (IRpropMinus, IRpropPlus, Rprop, RpropMinus, RpropPlus, Stopping):
    _class.__module__ = __name__  # in pickles and error texts, wherever the class is defined
del _class
