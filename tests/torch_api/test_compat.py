"""On a version of torch that was never tested a self-check decides between native steps and torch's code."""

import ast
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from backends import compiled

torch = pytest.importorskip("torch")

import rprop_kernels.torch as ours  # noqa: E402
from rprop_kernels.torch import _compat  # noqa: E402

pytestmark = compiled


@pytest.fixture(autouse=True)
def untested(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    _compat.native_is_safe.cache_clear()
    monkeypatch.setattr(_compat, "TESTED", frozenset())
    yield
    _compat.native_is_safe.cache_clear()


def stepped(make: Any = ours.Rprop) -> Any:
    p = torch.nn.Parameter(torch.ones(3))
    p.grad = torch.ones(3)
    optimizer = make([p])
    optimizer.step()
    assert torch.equal(p, torch.ones(3) - 0.01)
    return optimizer


def test_an_unknown_version_that_agrees_is_native() -> None:
    for make in (ours.Rprop, ours.RpropMinus):
        assert stepped(make)._native_step is not None
    assert _compat.native_is_safe.cache_info().misses == 1  # once a process
    _compat.native_is_safe.cache_clear()
    start = time.perf_counter()
    assert _compat.native_is_safe("99.0")
    assert time.perf_counter() - start < 5  # some milliseconds; a busy machine may take longer


def test_the_check_in_any_mode() -> None:
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode(), torch.inference_mode(), torch.device("meta"):
        assert _compat.native_is_safe("99.0")


class Blind:
    """A native step as on a torch whose DLPack means something else."""

    def __init__(self, step: Any, harm: Any) -> None:
        self.step, self.harm = step, harm

    def plan(self, *args: Any) -> None:
        self.step.plan(*args)

    def __call__(self, rule: int, state: Any, groups: Any, *rest: Any) -> Any:
        return self.harm(self.step, rule, state, groups, *rest)


def ignores_negation(step: Any, rule: int, state: Any, groups: Any, *rest: Any) -> Any:
    kept = [(p, p.grad) for g in groups for p in g["params"]]
    for p, g in kept:
        if g.is_neg():
            p.grad = torch._neg_view(g)
    outcome = step(rule, state, groups, *rest)
    for p, g in kept:
        p.grad = g
    return outcome


def raises(*args: Any) -> Any:
    raise TypeError("function takes 3 arguments")


def halves(step: Any, rule: int, state: Any, groups: Any, *rest: Any) -> Any:
    outcome = step(rule, state, groups, *rest)
    with torch.no_grad():
        groups[0]["params"][-1].data[0] += 1.0
    return outcome


@pytest.mark.parametrize("harm", [ignores_negation, raises, halves])
def test_a_version_that_differs_falls_back(monkeypatch: pytest.MonkeyPatch, harm: Any) -> None:
    make = _compat.make_native_step
    monkeypatch.setattr(
        _compat, "make_native_step", lambda torch_rule, engine=None: Blind(make(torch_rule, engine), harm)
    )
    with pytest.warns(RuntimeWarning, match="was not tested"):
        optimizer = stepped()
    assert optimizer._native_step is None
    assert stepped(ours.RpropPlus)._native_step is None  # and says it once


def test_versions_that_do_not_bump_fall_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch._C, "_increment_version", lambda tensors: None)
    with pytest.warns(RuntimeWarning, match="was not tested"):
        assert not _compat.native_is_safe("99.0")


PRIVATE_NAMES = [
    ("torch._C", "_len_torch_dispatch_stack"),
    ("torch._C", "_get_tracing_state"),
    ("torch._C", "_len_torch_function_stack"),
    ("torch._C", "_increment_version"),
    ("torch.overrides", "_get_current_function_mode_stack"),
    ("torch.utils._device", "DeviceContext"),
    ("torch.utils._python_dispatch", "_disable_current_modes"),
    ("torch", "_debug_has_internal_overlap"),
    ("torch.optim.Optimizer", "_accelerator_graph_capture_health_check"),
    ("torch.optim.optimizer", "_global_optimizer_pre_hooks"),
    ("torch.optim.optimizer", "_global_optimizer_post_hooks"),
    ("torch.autograd.profiler", "_is_profiler_enabled"),
    ("torch.Tensor", "__dlpack_c_exchange_api__"),
]
"""Every private name of torch that the package uses, by its owner."""

WITHOUT = """
import importlib, json, os, sys, warnings
import torch, torch._dynamo

def without(owner, name):
    path, _, attribute = owner.rpartition(".")
    is_class = attribute[:1].isupper()
    holder = getattr(importlib.import_module(path), attribute) if is_class else importlib.import_module(owner)
    if name not in vars(holder):
        return "no such name"
    if name == "_increment_version":  # such a torch would have another one below its public function
        bump = torch._C._increment_version
        torch.autograd.graph.increment_version = lambda tensors: bump(tensors)
    if name.startswith("_global_optimizer"):  # and its own wrapper would not need these
        torch.optim.Optimizer.profile_hook_step = staticmethod(lambda step: step)
    delattr(holder, name)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        import rprop_kernels.torch as ours
        from rprop_kernels.torch import _compat
        for tested in (_compat.TESTED, frozenset()):
            _compat.TESTED = tested
            _compat.native_is_safe.cache_clear()
            for make in (ours.Rprop, ours.RpropPlus, ours.IRpropPlus):
                for backend in (None, "torch"):
                    p = torch.nn.Parameter(torch.ones(3))
                    p.grad = torch.ones(3)
                    options = {"loss": 1.0} if make is ours.IRpropPlus else {}
                    make([p], backend=backend).step(**options)
                    assert torch.equal(p.detach(), torch.ones(3) - 0.01), (make, backend, p)
    return [str(w.message) for w in caught if issubclass(w.category, RuntimeWarning)]

for owner, name in json.loads(sys.argv[1]):
    read, write = os.pipe()
    if os.fork() == 0:
        try:
            result = without(owner, name)
        except BaseException as error:
            result = f"{type(error).__name__}: {error}"
        os.write(write, json.dumps(result).encode())
        os._exit(0)
    os.wait()
    os.close(write)
    print(os.read(read, 1 << 16).decode())
"""


@pytest.fixture(scope="module")
def without_names() -> dict[str, Any]:
    """For each name the warnings of steps on a torch without it, or the error."""
    if not hasattr(os, "fork"):
        pytest.skip("this system has no fork")
    command = [sys.executable, "-P", "-c", WITHOUT, json.dumps(PRIVATE_NAMES)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True)
    results = map(json.loads, done.stdout.splitlines())
    return {name: result for (_, name), result in zip(PRIVATE_NAMES, results, strict=True)}


@pytest.mark.parametrize("name", [name for _, name in PRIVATE_NAMES])
def test_a_torch_without_a_private_name_steps_all_the_same(without_names: dict[str, Any], name: str) -> None:
    """The import succeeds, steps are right, and one warning at most names the version, on versions tested or not."""
    messages = without_names[name]
    if messages == "no such name":
        pytest.skip("this torch has none")
    assert isinstance(messages, list), messages
    assert len(messages) <= 2 and all("torch's own operations are used instead" in x for x in messages), messages


def test_private_names_stand_in_one_file() -> None:
    package = Path(ours.__file__).parents[1]
    listed = {name for _, name in PRIVATE_NAMES} | {"_cuda_graph_capture_health_check"}
    for path in sorted(package.rglob("*.py")):
        if path.name != "_compat.py":
            tree = ast.parse(path.read_text(encoding="utf-8"))
            assert not {x.attr for x in ast.walk(tree) if isinstance(x, ast.Attribute)} & listed, path


def test_hooks_are_assumed_where_torch_does_not_name_them(monkeypatch: pytest.MonkeyPatch) -> None:
    optimizer = stepped()
    assert not _compat.has_step_pre_hooks(optimizer)
    handle = optimizer.register_step_pre_hook(lambda *_: None)
    assert _compat.has_step_pre_hooks(optimizer)
    handle.remove()
    assert not _compat.has_step_pre_hooks(optimizer)
    monkeypatch.delattr(_compat._torch_optimizer, "_global_optimizer_pre_hooks")
    assert _compat.has_step_pre_hooks(optimizer)
