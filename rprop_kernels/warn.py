"""Warnings that point at the user's line."""

import contextlib
import sys
import warnings
from pathlib import Path
from typing import Final

_PACKAGE: Final = str(Path(__file__).parent)


def warn_user(message: str, category: type[Warning]) -> None:
    """Issue a warning at the innermost frame outside this package and torch.

    Counting frames would not do: hooks, closures, context managers and subclasses change their number.
    """
    torch = getattr(sys.modules.get("torch"), "__file__", None)
    libraries = (_PACKAGE, contextlib.__file__, *((str(Path(torch).parent),) if torch else ()))
    frame, level = sys._getframe(1), 2  # the caller, as warnings counts it
    while frame.f_back is not None and frame.f_code.co_filename.startswith(libraries):
        frame, level = frame.f_back, level + 1
    warnings.warn(message, category, stacklevel=level)
