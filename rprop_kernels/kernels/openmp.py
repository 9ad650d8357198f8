"""The threads of a step, shared by the compiled backends.

Nothing here is linked with OpenMP. A second libgomp in a process makes every parallel region hundreds of
times slower, so the one that is there already (torch's, usually) is looked up when the first large step
needs it; where there is none, steps run on one thread.
"""

import ctypes
import functools
import os
import sys
from collections.abc import Callable
from typing import Final, NamedTuple

THRESHOLD: Final = 1 << 19
"""Weights from which a step is shared among threads: some 100 us of one thread's work with AVX-512, 160 with
AVX2. Waking a thread that sleeps costs milliseconds (torch's own, too), so a smaller step would risk more than it
could save."""

_HOME: Final = os.getpid()


class Grant(NamedTuple):
    """Threads for one step: how many, and the addresses of libgomp's functions."""

    threads: int
    parallel: int
    thread_number: int
    thread_count: int


@functools.cache
def _addresses(torch_loaded: bool) -> tuple[int, int, int, int] | None:
    """GOMP_parallel, omp_get_thread_num, omp_get_num_threads, omp_get_max_threads; None without a libgomp.

    ``torch_loaded`` is a key of the cache: torch brings a libgomp with it.
    """
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
        parallel, number, count, maximum = (ctypes.cast(f, ctypes.c_void_p).value or 0 for f in functions)
        return parallel, number, count, maximum
    return None


def grant(wanted: int | Callable[[], int] = 0) -> Grant | None:
    """Threads for a step above THRESHOLD, or None for one thread.

    Args:
        wanted: a count, a function that returns it, or 0 for what OMP_NUM_THREADS, threadpoolctl and the
            like have set.
    """
    if os.getpid() != _HOME:  # libgomp's threads do not survive a fork; waiting for them would hang
        return None
    if callable(wanted):
        wanted = wanted()
    if wanted == 1:
        return None
    found = _addresses("torch" in sys.modules)
    if found is None:
        return None
    parallel, number, count, maximum = found
    wanted = wanted or ctypes.CFUNCTYPE(ctypes.c_int)(maximum)()
    return Grant(wanted, parallel, number, count) if wanted > 1 else None


def describe() -> str:
    """For show_config."""
    if _addresses("torch" in sys.modules) is None:
        return "1 (no libgomp in this process or on this system)"
    granted = grant()
    return f"{granted.threads if granted else 1}, from {THRESHOLD:,} weights on"
