"""The compiled backend: hands whole steps to the extension, and finds its threads.

The extension (``src/_native.pyx``) is built without OpenMP. A second libgomp in a process makes every
parallel region hundreds of times slower, so the one that is there already (torch's, usually) is looked
up when the first large step needs it; where there is none, steps run on one thread.
"""

import ctypes
import functools
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any, Final

from ..hyperparameters import Hyperparameters
from . import _native
from .verdict import BETTER, Verdict

RULES: Final = {"rprop-": 0, "irprop-": 1, "rprop+": 2, "torch": 4}
"""Numbers of the extension's rules; iRprop+ becomes one of STAY, UNDO, RETREAT by the verdict on the loss."""
BY_VERDICT: Final = (1, 2, 3)
KERNELS: Final = (*RULES, "irprop+")

LEVELS: Final = ("baseline", "x86-64-v3", "x86-64-v4")
LEVEL_VARIABLE: Final = "RPROP_KERNELS_INSTRUCTION_SET"

THRESHOLD: Final = 1 << 18
"""Weights from which a step is shared among threads: at least 100 us of one thread's work. Waking a thread
that sleeps costs milliseconds (torch's own, too), so a smaller step would risk more than it could save."""

_HOME: Final = os.getpid()


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


@functools.cache
def _openmp(torch_loaded: bool) -> tuple[int, int, int, int] | None:
    """Addresses of GOMP_parallel, omp_get_thread_num, omp_get_num_threads and omp_get_max_threads, or None."""
    for name in (None, "libgomp.so.1"):  # what the process has loaded for all to see, else the system's
        try:
            library = ctypes.CDLL(name)
            functions = (
                library.GOMP_parallel,
                library.omp_get_thread_num,
                library.omp_get_num_threads,
                library.omp_get_max_threads,
            )
        except (OSError, AttributeError, TypeError):
            continue
        addresses = [ctypes.cast(f, ctypes.c_void_p).value or 0 for f in functions]
        return addresses[0], addresses[1], addresses[2], addresses[3]
    return None


def grant_threads(wanted: int | Callable[[], int] = 0) -> tuple[int, int, int, int] | None:
    """(count, GOMP_parallel, omp_get_thread_num, omp_get_num_threads), or None for one thread.

    Args:
        wanted: a count, a function that returns it, or 0 for what OMP_NUM_THREADS, threadpoolctl
            and the like have set.
    """
    if os.getpid() != _HOME:  # libgomp's threads do not survive a fork; waiting for them would hang
        return None
    found = _openmp("torch" in sys.modules)
    if found is None:
        return None
    parallel, number, count, maximum = found
    if callable(wanted):
        wanted = wanted()
    return (wanted or ctypes.CFUNCTYPE(ctypes.c_int)(maximum)()), parallel, number, count


def describe_threads() -> str:
    """For show_config."""
    granted = grant_threads()
    if granted is None:
        return "1 (no libgomp found in this process or on this system, or this is a forked process)"
    return f"{granted[0]} from {THRESHOLD:,} weights on"


def numbers(hyper: Hyperparameters, maximize: bool) -> tuple[float, float, float, float, float]:
    """Hyper-parameters as the extension takes them."""
    return (*hyper, -1.0 if maximize else 1.0)


def step(
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
    if variant != "irprop+":
        rule = RULES[variant]
    elif isinstance(verdict, int):
        rule = BY_VERDICT[verdict]
    else:
        rule, verdicts = 1, verdict
    grant = None if threads == 1 else functools.partial(grant_threads, threads)
    return bool(
        _native.ArrayStep(level())(
            rule, weights, gradients, states, numbers(hyper, maximize), verdicts, grant, THRESHOLD
        )
    )
