"""The compiled engine: hands whole steps to the extension (``src/_native.pyx``)."""

import functools
import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final

from ..hyperparameters import Hyperparameters
from ..install import load_extension
from ..loss import NOT_WORSE, LossOutcome
from ..rules import RULE_FOR_OUTCOME
from . import threads

if TYPE_CHECKING:
    from . import _native
else:
    _native = load_extension()

UPDATES: Final = RULE_FOR_OUTCOME

INSTRUCTION_SETS: Final = ("baseline", "x86-64-v3", "x86-64-v4")
INSTRUCTION_SET_VARIABLE: Final = "RPROP_KERNELS_INSTRUCTION_SET"


def instruction_sets() -> tuple[str, ...]:
    """Return the instruction sets of this build that this machine can run, the lowest first."""
    return INSTRUCTION_SETS[: _native.instruction_sets()[1] + 1]


def isa() -> int:
    """Return the index of the instruction set to use.

    It is the best usable one, unless RPROP_KERNELS_INSTRUCTION_SET names another.
    """
    usable = instruction_sets()
    requested = os.environ.get(INSTRUCTION_SET_VARIABLE)
    if not requested:
        return len(usable) - 1
    if requested not in usable:
        raise ValueError(
            f"{INSTRUCTION_SET_VARIABLE}={requested!r} cannot be used here; available: {', '.join(usable)}"
        )
    return usable.index(requested)


def instruction_set() -> str:
    """Return the instruction set in use. "baseline" is SSE2 on x86-64 and NEON on arm64."""
    return INSTRUCTION_SETS[isa()]


class ArrayStepper:
    """Steps of one optimizer on NumPy arrays.

    Caches buffers and the last overlap check, which saves a third of the time on small arrays.
    """

    def __init__(self, engine: Callable[[int], tuple[int, int, int]] | None = None) -> None:
        """``engine`` is the ``prepare`` of another engine that runs the table."""
        self._native = _native.ArrayStep(isa() if engine is None else 0, engine)

    def __call__(
        self,
        variant: str,
        params: Sequence[Any],
        grads: Sequence[Any],
        states: Sequence[tuple[Any, ...]],
        hyper: Hyperparameters,
        *,
        maximize: bool = False,
        outcome: LossOutcome = NOT_WORSE,
        n_threads: int = 1,
        constraints: Sequence[Any] | None = None,
        bests: Sequence[Any] | None = None,
        improved: bytes | None = None,
    ) -> bool:
        """Perform one step in one call, as :func:`rprop_kernels.kernels.numpy_.step`, but validated.

        Where ``improved``, the parameters are copied to ``bests`` before they are stepped: one byte for all, or one for
        each row of the first dimension, with ``outcome`` of that length.

        The bounds of ``constraints`` are arrays of shape () or of the parameter's; ``frozen`` has the parameter's.

        Returns:
            False, with nothing touched, where an array is read-only, overlaps another, or is not of the expected type,
            shape and byte order.
        """
        outcomes = None
        if isinstance(outcome, int):
            rule = RULE_FOR_OUTCOME[variant][outcome]
        else:
            rule, outcomes = RULE_FOR_OUTCOME[variant][NOT_WORSE], outcome
        team = None if n_threads == 1 else functools.partial(threads.thread_team, n_threads)
        stepped: bool = self._native(
            rule,
            params,
            grads,
            states,
            hyper.with_direction(maximize),
            outcomes,
            constraints,
            team,
            threads.MIN_SHARED_WEIGHTS,
            bests,
            improved,
        )
        return stepped

    def largest_gradient(
        self,
        params: Sequence[Any],
        grads: Sequence[Any],
        states: Sequence[tuple[Any, ...]],
        hyper: Hyperparameters,
        rows: int = 0,
        *,
        maximize: bool = False,
        constraints: Sequence[Any] | None = None,
        n_threads: int = 1,
    ) -> list[float] | None:
        """Return the largest component of the gradient projected on the bounds, NaN where one is NaN.

        Args:
            params, grads, states, hyper, maximize, constraints, n_threads: as for a step.
            rows: 0 for one result, or the length of the first dimension for one of each row.

        Returns:
            a list of the results; None where the arrays cannot be taken.
        """
        team = None if n_threads == 1 else functools.partial(threads.thread_team, n_threads)
        return self._native.largest_gradient(
            params,
            grads,
            states,
            hyper.with_direction(maximize),
            bytes(rows) if rows else None,
            constraints,
            team,
            threads.MIN_SHARED_WEIGHTS,
        )


make_stepper = ArrayStepper


def step(*arguments: Any, **options: Any) -> bool:
    """Perform one step without a cache: see :class:`ArrayStepper`."""
    return ArrayStepper()(*arguments, **options)
