"""Skip tests of missing backends, with the reason; a missing extension fails in tests/kernels/test_registry.py."""

import pytest

from rprop_kernels.backends import unavailable_reason


def pytest_collection_modifyitems(items):
    reasons = {name: unavailable_reason(name) for name in ("cython", "numba", "torch")}
    for item in items:
        backend = item.callspec.params.get("backend") if hasattr(item, "callspec") else None
        name = backend[0] if isinstance(backend, tuple) else backend
        if isinstance(name, str) and reasons.get(name):
            item.add_marker(pytest.mark.skip(reason=reasons[name]))
