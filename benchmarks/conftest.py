"""Facts of a run that its file names, and caches that are empty when it starts: a first step compiles."""

import os
import tempfile
from importlib.metadata import PackageNotFoundError, version

import pytest

CACHES = tempfile.TemporaryDirectory(prefix="rprop-benchmarks-")
os.environ["NUMBA_CACHE_DIR"] = os.environ["TORCHINDUCTOR_CACHE_DIR"] = CACHES.name


def pytest_unconfigure() -> None:
    CACHES.cleanup()


def pytest_benchmark_update_machine_info(config: pytest.Config, machine_info: dict) -> None:
    """Name what the report names next to the processor; leave out what differs between two runs on one machine."""
    import rprop_kernels

    for changing in ("hz_actual", "hz_actual_friendly"):
        machine_info["cpu"].pop(changing, None)
    machine_info["versions"] = {}
    for name in ("torch", "numpy", "numba", "jax", "optax"):
        try:
            machine_info["versions"][name] = version(name)
        except PackageNotFoundError:
            continue
    machine_info["versions"]["rprop_kernels"] = rprop_kernels.__version__


def pytest_benchmark_update_json(config: pytest.Config, benchmarks: list, output_json: dict) -> None:
    """Keep the statistics, not every single time: the file stays small enough to be kept."""
    for row in output_json["benchmarks"]:
        row["stats"].pop("data", None)
