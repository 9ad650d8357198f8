"""What surrounds an optimizer in training: autograd, checkpoints, schedulers, AMP, hooks, compile."""

import copy
import gc
import io
import multiprocessing
import os
import pickle
import runpy
import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from bits import bits, same, state_of  # noqa: E402
from torch import Tensor, nn  # noqa: E402
from torch.optim.optimizer import (  # noqa: E402
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)

import rprop_kernels.torch as ours  # noqa: E402

FOUR = (ours.RpropMinus, ours.RpropPlus, ours.IRpropMinus, ours.IRpropPlus)
ALL = (ours.Rprop, *FOUR)
HALF = (torch.float16, torch.bfloat16)
EXAMPLES = Path(__file__).parents[2] / "examples"
LOSSES = (3.0, 2.0, 2.5, 2.25, 9.0, 1.0)


def values(*shape: int, seed: int = 0, dtype: Any = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def given(optimizer: Any, loss: Any) -> dict[str, Any]:
    return {"loss": loss} if isinstance(optimizer, ours.IRpropPlus) else {}


def used(make: Any, dtype: Any = torch.float32, steps: int = 3) -> tuple[list[Tensor], Any]:
    """Some parameters and an optimizer that has stepped them."""
    params = [nn.Parameter(values(4, 3, seed=1, dtype=dtype)), nn.Parameter(values(5, seed=2, dtype=dtype))]
    optimizer = make(params)
    forward(params, optimizer, range(steps))
    return params, optimizer


def forward(params: list[Tensor], optimizer: Any, steps: range) -> None:
    for i in steps:
        for k, p in enumerate(params):
            p.grad = values(*p.shape, seed=100 * k + i, dtype=p.dtype)
        optimizer.step(**given(optimizer, LOSSES[i % len(LOSSES)]))


def small_net(seed: int = 0, dtype: Any = torch.float32) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1)).to(dtype)


def data(dtype: Any = torch.float32) -> tuple[Tensor, Tensor]:
    x = values(16, 3, seed=7, dtype=dtype)
    return x, x.prod(1, keepdim=True)


def train(net: nn.Module, optimizer: Any, steps: int = 6, dtype: Any = torch.float32) -> None:
    x, y = data(dtype)
    for _ in range(steps):
        optimizer.zero_grad()
        loss = (net(x) - y).square().mean()
        loss.backward()
        optimizer.step(**given(optimizer, loss))


def equal(net: nn.Module, other: nn.Module) -> bool:
    return all(
        torch.equal(bits(a), bits(b))
        for a, b in zip(net.state_dict().values(), other.state_dict().values(), strict=True)
    )


# ------------------------------------------------------------------------------------- autograd's safety


@pytest.mark.parametrize("make", ALL)
def test_stale_backward_raises(make: Any) -> None:
    p = nn.Parameter(torch.ones(3))
    p.grad = torch.ones(3)
    optimizer = make([p])
    loss = (p * p).sum()
    version = p._version
    optimizer.step(**given(optimizer, 1.0))
    assert p._version > version
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


@pytest.mark.parametrize("make", ALL)
def test_every_written_tensor_has_a_new_version(make: Any) -> None:
    (p, q), optimizer = used(make)
    q.grad = None
    written = [p, *optimizer.state[p].values()]
    kept = [q, p.grad, *optimizer.state[q].values()]
    before = [t._version for t in written], [t._version for t in kept]
    optimizer.step(**given(optimizer, 1.0))
    assert all(t._version > v for t, v in zip(written, before[0], strict=True))
    assert all(t._version == v for t, v in zip(kept, before[1], strict=True))


@pytest.mark.parametrize("make", ALL)
def test_gradients_are_never_written(make: Any) -> None:
    params, optimizer = used(make)
    for i in range(4):
        gradients = [values(*p.shape, seed=i) for p in params]
        for p, g in zip(params, gradients, strict=True):
            p.grad = g.clone()
        optimizer.step(**given(optimizer, float(-i)))
        assert all(torch.equal(p.grad, g) for p, g in zip(params, gradients, strict=True))


# ---------------------------------------------------------------------------------- memory that changes hands


@pytest.mark.parametrize("make", ALL)
def test_new_memory_between_steps(make: Any) -> None:
    (p, q), optimizer = used(make)
    (p2, q2), twin = used(make)
    for i in range(3, 9):
        if i == 4:
            p.data = p.data.clone()
            p2.data = p2.data
        if i == 5:
            q.share_memory_()
        if i == 6:
            other = torch.zeros(20)
            other[3:8] = q.data
            q.data = other[3:8]
        if i == 7:
            p.data = p.data.t().contiguous().t()
            optimizer.state[p] = {k: v.clone() for k, v in optimizer.state[p].items()}
        if i == 8:
            optimizer.zero_grad(set_to_none=False)
            assert not p.grad.any()
        forward([p, q], optimizer, range(i, i + 1))
        forward([p2, q2], twin, range(i, i + 1))
        assert torch.equal(p, p2) and torch.equal(q, q2)


@pytest.mark.parametrize("make", FOUR)
def test_a_parameter_becomes_double_or_half(make: Any) -> None:
    for dtype in (torch.float64, torch.float16):
        params, optimizer = used(make)
        fine = [p.detach().to(torch.float64) + 2.0**-40 for p in params]
        for p, x in zip(params, fine, strict=True):
            p.data = x.to(dtype, copy=True)
            p.grad = torch.zeros_like(p)
        optimizer.step(**given(optimizer, 0.5))  # zero gradients: nothing moves, nothing is rounded
        for p, x in zip(params, fine, strict=True):
            assert torch.equal(p, x.to(dtype))
            p.grad = torch.ones_like(p)
        steps = [optimizer.signs_and_steps(p)[1].clone() for p in params]
        optimizer.step(**given(optimizer, 0.25))
        for p, x, D in zip(params, fine, steps, strict=True):
            wide = torch.promote_types(dtype, torch.float32)
            assert torch.equal(p, (x.to(dtype).to(wide) - D.to(wide)).to(dtype))


@pytest.mark.parametrize("make", FOUR)
def test_a_parameter_of_another_shape_is_an_error(make: Any) -> None:
    (p, _), optimizer = used(make)
    p.data = torch.ones(5, 3)
    p.grad = torch.ones(5, 3)
    with pytest.raises(RuntimeError, match="state of shape"):
        optimizer.step(**given(optimizer, 1.0))


def test_tied_weights() -> None:
    for make, theirs in ((ours.Rprop, torch.optim.Rprop), (ours.IRpropMinus, ours.IRpropMinus)):
        nets = []
        for cls in (make, theirs):
            torch.manual_seed(0)
            net = nn.Sequential(nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 3), nn.Linear(3, 1))
            net[2].weight = net[0].weight
            optimizer = cls(net.parameters())
            train(net, optimizer)
            nets.append(net)
            assert len(optimizer.param_groups[0]["params"]) == 5
        assert equal(*nets)


# --------------------------------------------------------------------------------- copies and checkpoints


def by_deepcopy(params: list[Tensor], optimizer: Any) -> tuple[list[Tensor], Any]:
    return copy.deepcopy((params, optimizer))


def by_pickle(params: list[Tensor], optimizer: Any) -> tuple[list[Tensor], Any]:
    return pickle.loads(pickle.dumps((params, optimizer)))


def through_state_dict(
    carry: Callable[[Any], Any],
) -> Callable[[list[Tensor], Any], tuple[list[Tensor], Any]]:
    def copied(params: list[Tensor], optimizer: Any) -> tuple[list[Tensor], Any]:
        new = [nn.Parameter(p.detach().clone()) for p in params]
        other = type(optimizer)(new)
        other.load_state_dict(carry(optimizer.state_dict()))
        return new, other

    return copied


def saved(state: Any) -> Any:
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.complex64, *HALF])
@pytest.mark.parametrize("way", [by_deepcopy, by_pickle, through_state_dict(copy.deepcopy), through_state_dict(saved)])
@pytest.mark.parametrize("make", ALL)
def test_copies_go_on_as_the_original(make: Any, way: Any, dtype: Any) -> None:
    params, optimizer = used(make, dtype, steps=5)
    others, other = way(params, optimizer)
    assert same(state_of(optimizer), state_of(other))
    for t in (*params, *(t for s in state_of(optimizer) for t in s.values())):
        assert all(t is not u for u in (*others, *(t for s in state_of(other) for t in s.values())))
    forward(params, optimizer, range(5, 10))
    forward(others, other, range(5, 10))
    assert same(params, others)
    assert same(state_of(optimizer), state_of(other))
    keys = {k for k in optimizer.__dict__ if not k.startswith("_")}
    assert keys == {k for k in copy.deepcopy(optimizer).__dict__ if not k.startswith("_")}


@pytest.mark.parametrize("dtype", [torch.float32, *HALF])
def test_checkpoints_go_both_ways(dtype: Any) -> None:
    for make, other in ((ours.Rprop, torch.optim.Rprop), (torch.optim.Rprop, ours.Rprop)):
        params, optimizer = used(make, dtype)
        new = [nn.Parameter(p.detach().clone()) for p in params]
        loaded = other(new)
        loaded.load_state_dict(saved(optimizer.state_dict()))
        forward(params, optimizer, range(3, 8))
        forward(new, loaded, range(3, 8))
        assert same(params, new) and same(state_of(optimizer), state_of(loaded))


def legacy(state: dict[str, Any]) -> dict[str, Any]:
    """As old versions of torch wrote it: step is an int, the newer options are not there."""
    state = copy.deepcopy(state)
    for entry in state["state"].values():
        entry["step"] = int(entry["step"])
    for group in state["param_groups"]:
        for key in ("foreach", "maximize", "differentiable", "capturable"):
            del group[key]
    return state


def test_legacy_checkpoint() -> None:
    results = []
    for make in (ours.Rprop, torch.optim.Rprop):
        params, optimizer = used(torch.optim.Rprop)
        loaded = make(params)
        loaded.load_state_dict(legacy(optimizer.state_dict()))
        forward(params, loaded, range(3, 8))
        results.append((params, state_of(loaded)))
    assert same(*results)


@pytest.mark.parametrize("make", FOUR)
@pytest.mark.parametrize("old", [lambda s: s, legacy])
@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64, *HALF])
def test_the_four_read_torchs_checkpoints(make: Any, old: Any, dtype: Any) -> None:
    params, optimizer = used(torch.optim.Rprop, dtype)
    optimizer.state[params[0]]["prev"].view(-1)[0] = torch.nan
    loaded = make(params)
    loaded.load_state_dict(old(optimizer.state_dict()))
    for p in params:
        q, D = loaded.signs_and_steps(p)
        prev, step_size = (optimizer.state[p][name] for name in ("prev", "step_size"))
        if dtype.is_complex:
            q, D, prev, step_size = map(torch.view_as_real, (q, D, prev, step_size))
        assert torch.equal(D, step_size.to(D.dtype))
        assert torch.equal(q, prev.sign().nan_to_num(0.0).to(q.dtype))
    forward(params, loaded, range(3, 6))


@pytest.mark.parametrize("make", FOUR)
def test_state_of_another_dtype_is_converted(make: Any) -> None:
    for first, second in (
        (torch.float32, torch.float64),
        (torch.float64, torch.float16),
        (torch.complex64, torch.complex128),
    ):
        params, optimizer = used(make, first, steps=4)
        new = [nn.Parameter(p.detach().to(second)) for p in params]
        loaded = make(new)
        loaded.load_state_dict(optimizer.state_dict())
        for p, n in zip(params, new, strict=True):
            for a, b in zip(optimizer.signs_and_steps(p), loaded.signs_and_steps(n), strict=True):
                assert torch.equal(a.to(b.dtype), b)
        forward(new, loaded, range(4, 6))


@pytest.mark.parametrize("make", FOUR)
def test_state_that_cannot_be_used_is_refused(make: Any) -> None:
    params, optimizer = used(make)
    before = copy.deepcopy(optimizer.state_dict())
    adam = torch.optim.Adam(params)
    adam.step()
    for state, message in ((adam.state_dict(), "another optimizer"), (before, "cast to torch.float16")):
        state = copy.deepcopy(state)
        if message.startswith("cast"):
            state["state"][0]["move"] = state["state"][0]["move"].half()
        state["param_groups"] = copy.deepcopy(before["param_groups"])
        with pytest.raises(ValueError, match=message):
            optimizer.load_state_dict(state)
        assert same(optimizer.state_dict(), before)


def test_states_put_in_by_hand_are_read() -> None:
    """Some frameworks fill optimizer.state themselves."""
    params, optimizer = used(torch.optim.Rprop)
    mine = ours.IRpropMinus(params)
    mine.state.update({p: dict(s) for p, s in optimizer.state.items()})
    sizes = [optimizer.state[p]["step_size"].clone() for p in params]
    for p in params:
        p.grad = torch.zeros_like(p)
    mine.step()
    for p, size in zip(params, sizes, strict=True):
        assert torch.equal(mine.signs_and_steps(p)[1], size)


def test_hooks_of_load_state_dict_see_ordinary_tensors() -> None:
    params, optimizer = used(ours.IRpropPlus, torch.float16)
    seen = []
    optimizer.register_load_state_dict_pre_hook(lambda o, s: seen.append(s["state"][0]["move"].dtype))
    optimizer.register_load_state_dict_post_hook(lambda o: seen.append(o.state[params[0]]["move"].dtype))
    state = optimizer.state_dict()
    state["state"]["extra"] = 1  # what is no parameter's passes through
    optimizer.load_state_dict(state)
    assert seen == [torch.float32, torch.float32]
    assert optimizer.state["extra"] == 1
    forward(params, optimizer, range(3, 5))


@pytest.mark.parametrize("make", FOUR)
def test_a_step_with_lr_0_makes_state(make: Any) -> None:
    """torch.distributed.checkpoint does that: zero gradients, lr 0, no loss, then lr as it was."""
    for lr in (0.0, torch.tensor(0.0)):
        params = [nn.Parameter(values(4)), nn.Parameter(values(2, 2))]
        before = copy.deepcopy(params)
        optimizer = make(params, lr=0.25)
        for p in params:
            p.grad = torch.zeros_like(p)
        optimizer.param_groups[0]["lr"] = lr
        optimizer.step(closure=None)
        optimizer.param_groups[0]["lr"] = 0.25
        assert same(params, before)
        forward(params, optimizer, range(3))  # and no warning of a changed lr
        q = [nn.Parameter(values(4)), nn.Parameter(values(2, 2))]
        forward(q, make(q, lr=0.25), range(3))
        assert same(params, q)
    p = params[0]
    optimizer = make([p])
    optimizer.param_groups[0]["lr"] = 0.0
    p.grad = torch.ones_like(p)
    with pytest.raises(ValueError, match="Invalid learning rate"):
        optimizer.step(**given(optimizer, 1.0))


# ----------------------------------------------------------------------------- AMP, clipping, accumulation


@pytest.mark.parametrize("make", ALL)
def test_grad_scaler(make: Any) -> None:
    """A power of two as the scale changes nothing; a step of infinite gradients is left out."""
    x, y = data()
    nets = small_net(), small_net()
    optimizers = [make(net.parameters()) for net in nets]
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10, growth_interval=1000)
    for i in range(8):
        for net, optimizer in zip(nets, optimizers, strict=True):
            optimizer.zero_grad()
            with torch.autocast("cpu", dtype=torch.bfloat16):
                loss = (net(x) - y).square().mean()
            if i == 3:
                loss = loss * torch.inf
            if optimizer is optimizers[0]:
                scaler.scale(loss).backward()
                scaler.step(optimizer, **given(optimizer, loss))
                scaler.update()
            else:
                loss.backward()
                if i != 3:
                    optimizer.step(**given(optimizer, loss))
        assert equal(*nets)
    assert scaler.get_scale() == 2.0**9


def test_grad_scaler_and_set_loss() -> None:
    x, y = data()
    nets = small_net(), small_net()
    optimizers = [ours.IRpropPlus(net.parameters()) for net in nets]
    scaler = torch.amp.GradScaler("cpu")
    for _ in range(5):
        for net, optimizer in zip(nets, optimizers, strict=True):
            optimizer.zero_grad()
            loss = (net(x) - y).square().mean()
            if optimizer is optimizers[0]:
                optimizer.set_loss(loss)
                scaler.scale(loss).backward()
                scaler.unscale_(optimizer)
                nn.utils.clip_grad_norm_(net.parameters(), 1e9)
                scaler.step(optimizer)
                scaler.update()
            else:
                loss.backward()
                optimizer.step(loss=loss)
        assert equal(*nets)


def test_clipping_and_accumulation_as_torch() -> None:
    x, y = data()
    nets = []
    for make in (ours.Rprop, torch.optim.Rprop):
        net = small_net()
        optimizer = make(net.parameters())
        for i in range(12):
            (net(x[i % 2 :: 2]) - y[i % 2 :: 2]).square().mean().backward()
            if i % 2:
                nn.utils.clip_grad_norm_(net.parameters(), 0.1)
                nn.utils.clip_grad_value_(net.parameters(), 0.01)
                optimizer.step()
                optimizer.zero_grad(set_to_none=i % 3 == 0)
        nets.append(net)
    assert equal(*nets)


# ------------------------------------------------------------------------------- schedulers, averages, hooks

SCHEDULERS = {
    "StepLR": lambda o: torch.optim.lr_scheduler.StepLR(o, 2),
    "OneCycleLR": lambda o: torch.optim.lr_scheduler.OneCycleLR(o, 0.1, total_steps=8, cycle_momentum=False),
    "CosineAnnealingLR": lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, 5),
    "LambdaLR": lambda o: torch.optim.lr_scheduler.LambdaLR(o, lambda epoch: 0.9**epoch),
    "SWALR": lambda o: torch.optim.swa_utils.SWALR(o, swa_lr=0.05, anneal_epochs=3),
}


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_schedulers(scheduler: str) -> None:
    results = []
    for make in (ours.Rprop, torch.optim.Rprop):  # silently, as torch
        params, optimizer = used(make, steps=0)
        lrs = SCHEDULERS[scheduler](optimizer)
        for i in range(6):
            forward(params, optimizer, range(i, i + 1))
            lrs.step()
        results.append((params, state_of(optimizer), lrs.get_last_lr()))
    assert same(*results)
    for make in FOUR:
        for lr in (0.02, torch.tensor(0.02)):
            params = [nn.Parameter(values(4))]
            optimizer = make(params, lr=lr)
            lrs = SCHEDULERS[scheduler](optimizer)
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                for i in range(6):
                    forward(params, optimizer, range(i, i + 1))
                    lrs.step()
            assert len(caught) == 1 and "lr was changed" in str(caught[0].message), [str(c.message) for c in caught]
            assert "step_sizes" in str(caught[0].message)


def test_reduce_on_plateau_and_weight_averaging() -> None:
    nets = []
    for make in (ours.Rprop, torch.optim.Rprop):
        net = small_net()
        optimizer = make(net.parameters())
        averaged = torch.optim.swa_utils.AveragedModel(
            net, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.9)
        )
        plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=0)
        for _ in range(6):
            train(net, optimizer, 1)
            averaged.update_parameters(net)
            plateau.step(1.0)
        nets.append(averaged.module)
    assert equal(*nets)


@pytest.mark.parametrize("make", ALL)
def test_step_hooks(make: Any) -> None:
    params, optimizer = used(make)
    expected, twin = used(make)
    seen: list[str] = []

    def before(o: Any, args: Any, kwargs: Any) -> Any:
        seen.append("before")
        assert o is optimizer
        return args, {**kwargs, **given(o, 1.0)}  # a hook may change the arguments

    handles = [
        optimizer.register_step_pre_hook(before),
        optimizer.register_step_post_hook(lambda o, a, k: seen.append("after")),
        register_optimizer_step_pre_hook(lambda o, a, k: seen.append("all before")),
        register_optimizer_step_post_hook(lambda o, a, k: seen.append("all after")),
    ]
    for p, q in zip(params, expected, strict=True):
        p.grad = q.grad = values(*p.shape, seed=9)
    optimizer.step()
    for handle in handles:
        handle.remove()
    assert seen == ["all before", "before", "after", "all after"]
    twin.step(**given(twin, 1.0))
    assert same(params, expected)
    optimizer.step(**given(optimizer, 1.0))
    assert len(seen) == 4


@pytest.mark.parametrize("make", ALL)
def test_profiler(make: Any) -> None:
    params, optimizer = used(make)
    expected, twin = used(make)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        forward(params, optimizer, range(3, 5))
    forward(expected, twin, range(3, 5))
    label = f"Optimizer.step#{make.__name__}.step"
    assert [e.count for e in profile.key_averages() if e.key == label] == [2]
    assert same(params, expected)


@pytest.mark.parametrize("make", ALL)
def test_a_subclass_that_overrides_step(make: Any) -> None:
    class Mine(make):  # type: ignore[misc, valid-type]
        calls = 0

        def step(self, closure: Any = None, **kwargs: Any) -> Any:
            self.calls += 1
            return super().step(closure, **kwargs)

    params, optimizer = used(Mine)
    expected, twin = used(make)
    seen: list[int] = []
    optimizer.register_step_post_hook(lambda o, a, k: seen.append(1))
    forward(params, optimizer, range(3, 5))
    forward(expected, twin, range(3, 5))
    assert same(params, expected) and seen == [1, 1] and optimizer.calls == 5


# ------------------------------------------------------------------------------------------- torch.compile


@pytest.fixture
def compiler() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.mark.usefixtures("compiler")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("make", ALL)
def test_compiled_step(make: Any, dtype: Any) -> None:
    """The step of a compiled function is the uncompiled one, to the bit."""
    params, optimizer = used(make, dtype, steps=0)
    expected, twin = used(torch.optim.Rprop if make is ours.Rprop else make, dtype, steps=0)

    @torch.compile(backend="eager")
    def compiled(loss: Any) -> Tensor:
        optimizer.step(**given(optimizer, loss))
        return params[0] * 2

    for i in range(4):
        for p, q in zip(params, expected, strict=True):
            p.grad = q.grad = values(*p.shape, seed=i, dtype=dtype)
        assert torch.equal(compiled(LOSSES[i]), params[0] * 2)
        twin.step(**given(twin, LOSSES[i]))
        assert same(params, expected) and same(state_of(optimizer), state_of(twin))


@pytest.mark.usefixtures("compiler")
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")  # torch's
@pytest.mark.parametrize("make", [ours.Rprop, ours.IRpropPlus])
def test_compiled_training_function(make: Any) -> None:
    x, y = data()
    nets = small_net(), small_net()
    optimizers = [make(net.parameters()) for net in nets]

    def body(net: Any, optimizer: Any) -> Tensor:
        optimizer.zero_grad()
        loss = (net(x) - y).square().mean()
        loss.backward()
        optimizer.step(**given(optimizer, loss))
        return loss

    compiled = torch.compile(body, backend="aot_eager")
    for _ in range(4):
        compiled(nets[0], optimizers[0])
        body(nets[1], optimizers[1])
    assert equal(*nets)
    for optimizer in optimizers:  # and the step itself
        torch.compile(optimizer.step, backend="eager")(**given(optimizer, 0.5))
    assert equal(*nets)


# ---------------------------------------------------------------------------------------- threads and fork


@pytest.mark.parametrize("make", ALL)
def test_optimizers_in_threads(make: Any) -> None:
    expected, twin = used(make, steps=0)
    forward(expected, twin, range(40))
    results: list[Any] = [None] * 6

    def work(k: int) -> None:
        params, optimizer = used(make, steps=0)
        forward(params, optimizer, range(40))
        results[k] = (params, state_of(optimizer))

    threads = [threading.Thread(target=work, args=(k,)) for k in range(len(results))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for result in results:
        assert same(result, (expected, state_of(twin)))


def _in_child(queue: Any, params: list[Tensor], optimizer: Any) -> None:
    forward(params, optimizer, range(3, 5))
    queue.put([p.detach().double().sum().item() for p in params])


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork on this system")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded, use of fork:DeprecationWarning")
@pytest.mark.parametrize("make", [ours.Rprop, ours.IRpropPlus])
def test_forked_after_a_parallel_step(make: Any) -> None:
    params = [nn.Parameter(torch.zeros(600, 1000)), nn.Parameter(torch.zeros(3))]
    optimizer = make(params)

    def gradients(i: int) -> None:
        for p in params:
            p.grad = torch.full_like(p, -1.0 if i else 1.0)

    gradients(0)
    optimizer.step(**given(optimizer, 1.0))
    read, write = os.pipe()
    child = os.fork()
    if child == 0:  # no torch operation here: torch's own would hang
        try:
            optimizer.step(**given(optimizer, 2.0))
            os.write(write, params[0].detach().numpy().tobytes()[:4000] + b"end")
        finally:
            os._exit(0)
    os.close(write)
    told = b""
    with os.fdopen(read, "rb") as pipe:
        told = pipe.read()
    os.waitpid(child, 0)
    optimizer.step(**given(optimizer, 2.0))
    assert told == params[0].detach().numpy().tobytes()[:4000] + b"end"


def test_sent_to_another_process() -> None:
    """Pickled to a spawned process (as multiprocessing does with arguments), it goes on there."""
    params, optimizer = used(ours.IRpropPlus)
    others, other = by_pickle(params, optimizer)  # now: what is sent lies in shared memory from then on
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    process = context.Process(target=_in_child, args=(queue, params, optimizer))
    process.start()
    sums = queue.get(timeout=120)
    process.join(60)
    forward(others, other, range(3, 5))
    assert sums == [p.detach().double().sum().item() for p in others]


# -------------------------------------------------------------------------- rows, recipes, the loss itself


def test_rows_are_fits_of_their_own() -> None:
    """A loss a row in one tensor, to the bit what as many optimizers do."""
    B = 7
    start, target = values(B, 3, seed=1), values(B, 3, seed=2)

    def loss_of_one(w: Tensor, t: Tensor) -> Tensor:
        return ((w - t) * torch.tensor([1.0, 5.0, 0.2])).square().sum()

    for dtype in (torch.float32, torch.float64, torch.float16):
        together = start.to(dtype, copy=True).requires_grad_()
        optimizer = ours.IRpropPlus([together], lr=0.3, batched=True)
        rows = [start[k].to(dtype, copy=True).requires_grad_() for k in range(B)]
        singles = [ours.IRpropPlus([row], lr=0.3) for row in rows]
        for i in range(20):
            grads, losses = torch.vmap(torch.func.grad_and_value(loss_of_one))(together.detach(), target.to(dtype))
            if i == 9:
                losses = losses.clone()
                losses[2] = torch.nan
            together.grad = grads
            optimizer.step(loss=losses)
            for k in range(B):
                rows[k].grad = grads[k].clone()
                singles[k].step(loss=losses[k])
            assert torch.equal(bits(together), bits(torch.stack([r.detach() for r in rows])))


def test_example_many_fits(capsys: pytest.CaptureFixture[str]) -> None:
    example = runpy.run_path(str(EXAMPLES / "torch_many_fits.py"))
    truth = torch.rand(30, 3, generator=torch.Generator().manual_seed(0)) + 0.5
    y = torch.vmap(example["model"])(truth)
    parameters, loss = example["fit"](y, steps=300)
    assert loss.max() < 1e-4 and (parameters - truth).abs().max() < 0.2
    alone = torch.cat([example["fit"](y[k : k + 1], steps=300)[1] for k in range(3)])
    assert alone.max() < 1e-4


def test_example_step_in_backward() -> None:
    """The same bits as the ordinary step, and no gradient is left."""
    example = runpy.run_path(str(EXAMPLES / "torch_step_in_backward.py"))
    nets = small_net(), small_net()
    x, y = data()
    stepper = example["StepInBackward"](nets[0].parameters())
    optimizer = ours.IRpropPlus(nets[1].parameters())
    for _ in range(10):
        stepper.backward((nets[0](x) - y).square().mean())
        train(nets[1], optimizer, 1)
        assert equal(*nets)
        assert all(p.grad is None for p in nets[0].parameters())


@pytest.mark.parametrize("make", [ours.Rprop, ours.RpropMinus, ours.RpropPlus, ours.IRpropMinus])
def test_step_in_backward_without_a_loss(make: Any) -> None:
    x, y = data()
    nets = small_net(), small_net()
    mine = {p: make([p]) for p in nets[0].parameters()}

    def hook(p: Tensor) -> None:
        mine[p].step()
        mine[p].zero_grad()

    for p in mine:
        p.register_post_accumulate_grad_hook(hook)
    optimizer = make(nets[1].parameters())
    for _ in range(6):
        (nets[0](x) - y).square().mean().backward()
        train(nets[1], optimizer, 1)
        assert equal(*nets)


def test_nothing_is_kept_alive() -> None:
    import weakref

    for make in ALL:
        params, optimizer = used(make)
        gradient = weakref.ref(params[0].grad)
        gone = weakref.ref(params[0])
        params[0].grad = None
        gc.collect()
        assert gradient() is None
        del params, optimizer
        gc.collect()
        assert gone() is None


BAD: list[tuple[Any, type[Exception], str]] = [
    (None, ValueError, "needs the loss"),
    (torch.ones(2, 2), ValueError, "shape"),
    (torch.ones(3), ValueError, r"loss\.mean\(\).*batched=True"),
    (torch.ones(0), ValueError, "shape"),
    (torch.ones((), dtype=torch.complex64), TypeError, "real"),
    ("a", TypeError, "loss must be a number"),
    (torch.ones(4, 1), ValueError, "shape"),
    (object(), TypeError, "loss must be a number"),
]


@pytest.mark.parametrize(("loss", "kind", "message"), BAD)
def test_bad_losses(loss: Any, kind: type[Exception], message: str) -> None:
    params, optimizer = used(ours.IRpropPlus)
    before, groups = copy.deepcopy((params, state_of(optimizer))), optimizer.param_groups[0]["prev_loss"]
    with pytest.raises(kind, match=message):
        optimizer.step(loss=loss)
    assert same((params, state_of(optimizer)), before) and optimizer.param_groups[0]["prev_loss"] == groups


def test_a_loss_that_requires_grad_is_detached() -> None:
    p = nn.Parameter(values(3, 2))
    for loss in (lambda: p.square().sum(), lambda: p.square().sum(1), lambda: p.square().sum().reshape(1)):
        optimizer = ours.IRpropPlus([p], batched=loss().shape == (3,))
        for _ in range(2):
            optimizer.zero_grad()
            value = loss()
            value.sum().backward()
            optimizer.step(loss=value)
        kept = optimizer.param_groups[0]["prev_loss"]
        assert not getattr(kept, "requires_grad", False)
        if isinstance(kept, Tensor):
            value.detach().zero_()
            assert kept.all()
        saved(optimizer.state_dict())


def test_bad_devices() -> None:
    for make in (ours.Rprop, torch.optim.Rprop, *FOUR):
        p = nn.Parameter(torch.ones(3))
        p.grad = torch.ones(3)
        optimizer = make([p])
        optimizer.step(**given(optimizer, 1.0))
        optimizer.state[p] = {k: v.to("meta") for k, v in optimizer.state[p].items()}
        before = p.detach().clone()
        with pytest.raises(RuntimeError):
            optimizer.step(**given(optimizer, 1.0))
        if make in FOUR:
            assert torch.equal(p, before)
