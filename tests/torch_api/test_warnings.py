"""Warnings point at the line of the user's code, whatever lies between it and the place that warns."""

import contextlib
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from torch.optim.optimizer import (  # noqa: E402
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)

import rprop_kernels.torch as rt  # noqa: E402
from rprop_kernels.torch import _compat  # noqa: E402

FOUR = [rt.RpropMinus, rt.RpropPlus, rt.IRpropMinus, rt.IRpropPlus]
BACKENDS = ["cython", "numba", "torch"]


def nothing(*_: Any) -> None:
    """A hook."""


@contextlib.contextmanager
def instance_hooks(optimizer: Any) -> Iterator[None]:
    handles = [optimizer.register_step_pre_hook(nothing), optimizer.register_step_post_hook(nothing)]
    yield
    for handle in handles:
        handle.remove()


@contextlib.contextmanager
def global_hooks(optimizer: Any) -> Iterator[None]:
    handles = [register_optimizer_step_pre_hook(nothing), register_optimizer_step_post_hook(nothing)]
    yield
    for handle in handles:
        handle.remove()


@contextlib.contextmanager
def always_wrapped(optimizer: Any) -> Iterator[None]:
    optimizer._always_wrap = True  # RPROP_KERNELS_PLAIN_STEP=1
    yield


@contextlib.contextmanager
def profiled(optimizer: Any) -> Iterator[None]:
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]):
        yield


@contextlib.contextmanager
def scheduled(optimizer: Any) -> Iterator[None]:
    torch.optim.lr_scheduler.StepLR(optimizer, 100)  # replaces optimizer.step by a function of torch's
    yield


SURROUNDINGS = [contextlib.nullcontext, instance_hooks, global_hooks, always_wrapped, profiled, scheduled]


def used(cls: Any, backend: str, *, steps: int) -> Any:
    p = torch.nn.Parameter(torch.ones(2))
    optimizer = cls([p], backend=backend)
    p.grad = torch.ones(2)
    for _ in range(steps):
        optimizer.step(loss=1.0)
    return optimizer


def check_line(call: Callable[[], Any], text: str) -> None:
    """Call a function of one line; the one warning must point at it."""
    with pytest.warns(match=text) as caught:
        call()
    (warning,) = caught
    assert (warning.filename, warning.lineno) == (__file__, call.__code__.co_firstlineno), warning


@pytest.mark.parametrize("surroundings", SURROUNDINGS)
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("cls", FOUR)
def test_a_changed_lr(cls: Any, backend: str, surroundings: Any) -> None:
    optimizer = used(cls, backend, steps=2)
    optimizer.param_groups[0]["lr"] = 0.001
    with surroundings(optimizer):
        check_line(lambda: optimizer.step(loss=1.0), "lr was changed from 0.01 to 0.001")
        optimizer.step(loss=1.0)  # only once: another warning would be an error


@pytest.mark.parametrize("surroundings", SURROUNDINGS)
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("cls", FOUR)
def test_a_changed_lr_with_a_closure(cls: Any, backend: str, surroundings: Any) -> None:
    optimizer = used(cls, backend, steps=2)
    optimizer.param_groups[0]["lr"] = 0.001
    with surroundings(optimizer):
        check_line(lambda: optimizer.step(lambda: 1.0), "lr was changed from 0.01 to 0.001")


@pytest.mark.parametrize("surroundings", SURROUNDINGS)
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("call", ["loss", "set_loss", "closure", "tensor"])
def test_a_first_loss_that_is_not_finite(call: str, backend: str, surroundings: Any) -> None:
    optimizer = used(rt.IRpropPlus, backend, steps=0)
    nan = torch.tensor(torch.nan)
    with surroundings(optimizer):
        if call == "loss":
            check_line(lambda: optimizer.step(loss=float("nan")), "the first loss is nan")
        elif call == "set_loss":
            optimizer.set_loss(float("nan"))
            check_line(lambda: optimizer.step(), "the first loss is nan")
        elif call == "closure":
            check_line(lambda: optimizer.step(lambda: nan), "the first loss is nan")
        else:
            check_line(lambda: optimizer.step(loss=nan), "the first loss is nan")


def test_a_subclass_is_user_code() -> None:
    class Mine(rt.IRpropPlus):
        def step(self, closure: Any = None, *, loss: Any = None) -> Any:
            return super().step(closure, loss=loss)

    optimizer = used(Mine, "torch", steps=0)
    with pytest.warns(match="the first loss is nan") as caught:
        optimizer.step(loss=float("nan"))
    assert (caught[0].filename, caught[0].lineno) == (__file__, Mine.step.__wrapped__.__code__.co_firstlineno + 1)


def test_a_thread_has_no_other_frames() -> None:
    optimizer = used(rt.IRpropPlus, "torch", steps=0)
    with pytest.warns(match="the first loss is nan") as caught:
        thread = threading.Thread(target=optimizer.step, kwargs={"loss": float("nan")})
        thread.start()
        thread.join()
    assert caught[0].filename == threading.__file__


@pytest.mark.parametrize("cls", [rt.Rprop, *FOUR])
def test_a_slower_backend(cls: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    p = torch.nn.Parameter(torch.ones(2))
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "rprop_kernels.kernels._native", None)
        patch.delenv("RPROP_KERNELS_BACKEND", raising=False)
        check_line(lambda: cls([p]), "falls back to its slower backend")


@pytest.mark.parametrize("cls", [rt.Rprop, *FOUR])
def test_an_unknown_version_of_torch(cls: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("rprop_kernels.kernels._native")
    p = torch.nn.Parameter(torch.ones(2))
    monkeypatch.setattr(_compat, "TESTED", frozenset())
    monkeypatch.setattr(_compat, "same_results", lambda torch_rule: False)
    _compat.native_is_safe.cache_clear()
    try:
        check_line(lambda: cls([p], backend="cython"), "was not tested")
    finally:
        _compat.native_is_safe.cache_clear()
