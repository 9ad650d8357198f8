"""The compiled backend: hands whole steps to the extension (``src/_native.pyx``)."""

import functools
import os
from collections.abc import Sequence
from typing import Any, Final

from ..hyperparameters import Hyperparameters
from . import _native, openmp
from .rules import RULES
from .verdict import BETTER, Verdict

KERNELS: Final = RULES

LEVELS: Final = ("baseline", "x86-64-v3", "x86-64-v4")
LEVEL_VARIABLE: Final = "RPROP_KERNELS_INSTRUCTION_SET"


def instruction_sets() -> tuple[str, ...]:
    """Those that this build holds and this machine can run, least first."""
    return LEVELS[: _native.levels()[1] + 1]


def level() -> int:
    """Index of the instruction set to use: the best, unless RPROP_KERNELS_INSTRUCTION_SET names another."""
    usable = instruction_sets()
    asked = os.environ.get(LEVEL_VARIABLE)
    if not asked:
        return len(usable) - 1
    if asked not in usable:
        raise ValueError(f"{LEVEL_VARIABLE}={asked!r} cannot be used here; there is: {', '.join(usable)}")
    return usable.index(asked)


def instruction_set() -> str:
    """The instruction set in use. "baseline" is SSE2 on x86-64 and NEON on arm64."""
    return LEVELS[level()]


def numbers(hyper: Hyperparameters, maximize: bool) -> tuple[float, float, float, float, float]:
    """Hyper-parameters as the extension takes them."""
    return (*hyper, -1.0 if maximize else 1.0)


class Stepper:
    """Steps of one optimizer. What the extension keeps from step to step (room, what was apart) saves a third of
    the time on small arrays; nothing of it is state, so a copy or a pickle starts anew."""

    def __init__(self) -> None:
        self._level = level()
        self._native = _native.ArrayStep(self._level)

    def __reduce__(self) -> tuple[type["Stepper"], tuple[()]]:
        return Stepper, ()

    def __call__(
        self,
        variant: str,
        weights: Sequence[Any],
        gradients: Sequence[Any],
        states: Sequence[tuple[Any, ...]],
        hyper: Hyperparameters,
        *,
        maximize: bool = False,
        verdict: Verdict = BETTER,
        threads: int = 1,
    ) -> bool:
        """One step on every array, in one call; as :func:`rprop_kernels.kernels.numpy_.step`, but checked.

        Returns:
            False, with nothing touched, where an array is read-only, of another type, shape or byte order than
            it should be, or overlaps another.
        """
        verdicts = None
        if isinstance(verdict, int):
            rule = RULES[variant][verdict]
        else:
            rule, verdicts = RULES[variant][BETTER], verdict
        grant = None if threads == 1 else functools.partial(openmp.grant, threads)
        done: bool = self._native(
            rule, weights, gradients, states, numbers(hyper, maximize), verdicts, grant, openmp.THRESHOLD
        )
        return done

    def stop_at_bounds(self, weight: Any, state: Any, lower: Any, upper: Any, most: Any) -> bool:
        """Set weights beyond a bound on it; there they forget their sign, and step by ``most`` / SHIFT at most.

        Returns:
            False, with nothing touched, where the arrays are not dense in one order.
        """
        done: bool = _native.stop_at_bounds(self._level, weight, state, lower, upper, most)
        return done


def step(*arguments: Any, **options: Any) -> bool:
    """One step by itself: see :class:`Stepper`."""
    return Stepper()(*arguments, **options)
