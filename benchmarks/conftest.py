"""Compile caches and warnings of torch.compile are not what is measured here."""

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        item.add_marker(pytest.mark.filterwarnings("default"))


def pytest_benchmark_update_machine_info(config: pytest.Config, machine_info: dict) -> None:
    """What the report names beside the processor."""
    from importlib.metadata import version

    import rprop_kernels

    machine_info["versions"] = {name: version(name) for name in ("torch", "numpy", "numba")}
    machine_info["versions"]["rprop_kernels"] = rprop_kernels.__version__


def pytest_benchmark_update_json(config: pytest.Config, benchmarks: list, output_json: dict) -> None:
    """Keep the statistics, not every single time: the file stays small enough to be kept."""
    for row in output_json["benchmarks"]:
        row["stats"].pop("data", None)
