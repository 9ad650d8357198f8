"""The threads of a step, shared by the compiled engines.

Nothing here is linked with OpenMP. A second libgomp in a process makes every parallel region hundreds of
times slower, so the one that is loaded already (torch's, usually) is looked up when the first large step
needs it; without one, steps run on one thread.
"""

import ctypes
import functools
import os
import sys
from collections.abc import Callable
from typing import Final, NamedTuple

MIN_SHARED_WEIGHTS: Final = 1 << 19
"""Weights from which a step is shared among threads: some 100 us of one thread's work with AVX-512, 160 with
AVX2. Waking a thread that sleeps costs milliseconds (torch's own, too), so a smaller step would risk more than it
could save."""

_IMPORT_PID: Final = os.getpid()


class ThreadTeam(NamedTuple):
    """Threads for one step: how many, and the addresses of libgomp's functions."""

    threads: int
    parallel: int
    thread_number: int
    thread_count: int


@functools.cache
def _libgomp(torch_loaded: bool) -> tuple[int, int, int, int] | None:
    """Find GOMP_parallel, omp_get_thread_num, omp_get_num_threads, omp_get_max_threads; None without a libgomp.

    ``torch_loaded`` is a key of the cache: torch brings a libgomp with it.
    """
    for name in (None, "libgomp.so.1"):  # the one that the process has loaded globally, else the system's
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
        parallel, number, count, maximum = (ctypes.cast(f, ctypes.c_void_p).value or 0 for f in functions)
        return parallel, number, count, maximum
    return None


def thread_team(requested: int | Callable[[], int] = 0) -> ThreadTeam | None:
    """Return the threads for a step above MIN_SHARED_WEIGHTS, or None for one thread.

    Args:
        requested: a count, a function that returns it, or 0 for the setting of OMP_NUM_THREADS, threadpoolctl and the
            like.
    """
    if os.getpid() != _IMPORT_PID:  # libgomp's threads do not survive a fork; waiting for them would hang
        return None
    if callable(requested):
        requested = requested()
    if requested == 1:
        return None
    found = _libgomp("torch" in sys.modules)
    if found is None:
        return None
    parallel, number, count, maximum = found
    requested = requested or ctypes.CFUNCTYPE(ctypes.c_int)(maximum)()
    return ThreadTeam(requested, parallel, number, count) if requested > 1 else None


def describe() -> str:
    """Describe the threads for show_config."""
    if _libgomp("torch" in sys.modules) is None:
        return "1 (no libgomp in this process or on this system)"
    team = thread_team()
    return f"{team.threads if team else 1}, from {MIN_SHARED_WEIGHTS:,} weights on"
