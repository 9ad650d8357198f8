"""On a version of torch that was never tested a self-check decides between native steps and torch's code."""

import time
from collections.abc import Iterator
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
    monkeypatch.setattr(_compat, "make_native_step", lambda torch_rule: Blind(make(torch_rule), harm))
    with pytest.warns(RuntimeWarning, match="was not tested"):
        optimizer = stepped()
    assert optimizer._native_step is None
    assert stepped(ours.RpropPlus)._native_step is None  # and says it once


def test_versions_that_do_not_bump_fall_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch._C, "_increment_version", lambda tensors: None)
    with pytest.warns(RuntimeWarning, match="was not tested"):
        assert not _compat.native_is_safe("99.0")
