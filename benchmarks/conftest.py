"""Compile caches and warnings of torch.compile are not what is measured here."""

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        item.add_marker(pytest.mark.filterwarnings("default"))


def pytest_benchmark_update_machine_info(config: pytest.Config, machine_info: dict) -> None:
    """What the report names beside the processor."""
    from importlib.metadata import version

    machine_info["versions"] = {name: version(name) for name in ("torch", "numpy", "numba", "rprop_kernels")}
