"""Warnings that point at the user's line."""

import contextlib
import os
import sys
import warnings
from typing import Final

_PACKAGE: Final = os.path.dirname(__file__)
_LIBRARIES: Final = ("torch", "scipy", "sklearn")
"""Libraries that call this package on the user's behalf."""


def warn_user(message: str, category: type[Warning]) -> None:
    """Issue a warning at the innermost frame outside this package and the libraries that call it.

    Counting frames would not do: hooks, closures, context managers and subclasses change their number.
    """
    files = (getattr(sys.modules.get(name), "__file__", None) for name in _LIBRARIES)
    folders = (_PACKAGE, *(os.path.dirname(file) for file in files if file))
    internal = (contextlib.__file__, *(folder + os.sep for folder in folders))
    frame, level = sys._getframe(1), 2  # the caller, as warnings counts it
    while frame.f_back is not None and frame.f_code.co_filename.startswith(internal):
        frame, level = frame.f_back, level + 1
    warnings.warn(message, category, stacklevel=level)
