"""torch's own optimizer database (torch.testing._internal.common_optimizers), driven with our classes.

The cases are those of torch's test suite for optimizers: inputs and error inputs of Rprop, directions,
complex numbers, foreach against for-loop, groups, state dictionaries and their hooks, printing, copies.
"""

import copy
import functools
import io
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("expecttest", reason="torch.testing._internal needs expecttest")

from bits import same, state_of  # noqa: E402
from torch.nn import Parameter  # noqa: E402
from torch.optim.lr_scheduler import ReduceLROnPlateau  # noqa: E402
from torch.testing._internal import common_optimizers as database  # noqa: E402

import rprop_kernels.torch as ours  # noqa: E402

THEIRS = next(info for info in database.optim_db if info.optim_cls is torch.optim.Rprop)


def info_for(optim_cls: Any) -> Any:
    """torch's entry for Rprop with another class in it."""
    info = copy.copy(THEIRS)
    info.optim_cls = optim_cls
    if optim_cls is not ours.Rprop:  # the four take none of torch's switches between implementations
        info.supported_impls = ()
        info.has_capturable_arg = False
    return info


class WithClosure(ours.IRpropPlus):
    """IRpropPlus for cases that call step() alone: the loss is what the case computed last."""

    def step(self, closure: Any = None, *, loss: Any = None) -> Any:
        if closure is None and loss is None:
            loss = 1.0
        return super().step(closure, loss=loss)


CLASSES = [ours.Rprop, ours.RpropMinus, ours.RpropPlus, ours.IRpropMinus, WithClosure]
every_class = pytest.mark.parametrize("info", [info_for(c) for c in CLASSES], ids=[c.__name__ for c in CLASSES])


def every_input(info: Any, skip: tuple[str, ...] = ("differentiable",), dtype: Any = torch.float32) -> Any:
    return database._get_optim_inputs_including_global_cliquey_kwargs("cpu", dtype, info, skip=skip)


def closure_for(optimizer: Any, w: Any, b: Any, x: Any) -> Callable[[], Any]:
    def closure() -> Any:
        optimizer.zero_grad()
        loss = (w.mv(x) + b).pow(2).sum()
        loss.backward()
        return loss

    return closure


@pytest.fixture(autouse=True)
def seed() -> Iterator[None]:
    torch.manual_seed(0)
    yield


@every_class
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_errors(info: Any, dtype: Any) -> None:
    for error in info.optim_error_inputs_func(device="cpu", dtype=dtype):
        params, kwargs = error.optimizer_error_input.params, error.optimizer_error_input.kwargs
        if issubclass(error.error_type, Warning):
            with pytest.warns(error.error_type, match=error.error_regex):
                info.optim_cls(params, **kwargs)
        elif error.error_on == database.OptimizerErrorEnum.CONSTRUCTION_ERROR:
            with pytest.raises(error.error_type, match=error.error_regex):
                info.optim_cls(params, **kwargs)
        else:
            with pytest.raises(error.error_type, match=error.error_regex):
                info.optim_cls(params, **kwargs).step()


@every_class
@pytest.mark.parametrize("contiguous", [True, False])
@pytest.mark.parametrize("schedule", [False, True])
@pytest.mark.filterwarnings("ignore:lr was changed:UserWarning")
def test_goes_in_the_right_direction(info: Any, contiguous: bool, schedule: bool) -> None:
    for schedulers in info.scheduler_inputs if schedule else [()]:
        for optim_input in every_input(info):
            weight, bias = torch.randn(10, 5, 2), torch.randn(10, 2)
            w = Parameter(weight[..., 0].contiguous() if contiguous else weight[..., 0])
            b = Parameter(bias[..., 0].contiguous() if contiguous else bias[..., 0])
            optimizer = info.optim_cls([{"params": [w]}, {"params": [b], "lr": 0.01}], **optim_input.kwargs)
            lrs = [make(optimizer) for make in schedulers]
            closure = closure_for(optimizer, w, b, torch.randn(5))
            before = closure().item()
            for _ in range(20):
                loss = optimizer.step(closure)
                for lr in lrs:
                    lr.step(*([loss.item()] if isinstance(lr, ReduceLROnPlateau) else []))
            after = closure().item()
            assert after > before if optim_input.kwargs.get("maximize") else after < before


@every_class
def test_tensor_lr(info: Any) -> None:
    for optim_input in every_input(info):
        results = []
        for lr in (1e-3, torch.tensor(1e-3)):
            torch.manual_seed(1)
            w, b = Parameter(torch.randn(10, 5)), Parameter(torch.randn(10))
            optimizer = info.optim_cls([w, b], **{**optim_input.kwargs, "lr": lr})
            for _ in range(5):
                optimizer.step(closure_for(optimizer, w, b, torch.ones(5)))
            results.append([w, b])
        assert same(*results)


@every_class
def test_complex_is_two_real_numbers(info: Any) -> None:
    for optim_input in every_input(info, dtype=torch.complex64):
        params = [
            torch.randn(10, 5, dtype=torch.complex64, requires_grad=True),
            torch.randn(10, dtype=torch.complex64, requires_grad=True),
            torch.randn(10, 5, requires_grad=True),
        ]
        twins = [(torch.view_as_real(p) if p.is_complex() else p).detach().clone().requires_grad_() for p in params]
        optimizers = [info.optim_cls(ps, **optim_input.kwargs) for ps in (params, twins)]
        for _ in range(4):
            loss = torch.randn(1)
            for p, q in zip(params, twins, strict=True):
                q.grad = torch.randn_like(q)
                p.grad = torch.view_as_complex(q.grad) if p.is_complex() else q.grad
            for optimizer in optimizers:
                optimizer.step(lambda loss=loss: loss)
            for p, q in zip(params, twins, strict=True):
                assert torch.equal(torch.view_as_real(p.detach()) if p.is_complex() else p, q)


def rosenbrock(t: Any) -> Any:
    x, y = t
    return (1 - x) ** 2 + 100 * (y - x**2) ** 2


@every_class
def test_complex_2d(info: Any) -> None:
    for optim_input in every_input(info, dtype=torch.complex64):
        a = torch.randn(2, dtype=torch.complex64, requires_grad=True)
        real, imag = (part.detach().clone().requires_grad_() for part in (a.real, a.imag))
        optimizers = (
            info.optim_cls([a], **optim_input.kwargs),
            info.optim_cls([real, imag], **optim_input.kwargs),
        )
        for _ in range(3):
            losses = [rosenbrock(a).abs(), rosenbrock(torch.complex(real, imag)).abs()]
            for optimizer, loss in zip(optimizers, losses, strict=True):
                optimizer.zero_grad()
                loss.backward()
                optimizer.step(lambda loss=loss: loss)
            assert torch.equal(a.real, real) and torch.equal(a.imag, imag)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_foreach_matches_forloop_and_torch(dtype: Any) -> None:
    for optim_input in THEIRS.optim_inputs_func(device="cpu"):
        results = []
        for make, foreach in ((ours.Rprop, True), (ours.Rprop, False), (torch.optim.Rprop, False)):
            torch.manual_seed(1)
            sigmoid = torch.nn.Sigmoid
            net = torch.nn.Sequential(torch.nn.Linear(2, 3), sigmoid(), torch.nn.Linear(3, 1), sigmoid()).to(dtype)
            empty = torch.empty((), dtype=dtype, requires_grad=True)
            with torch.no_grad():
                empty.fill_(1.0)
            empty.grad = torch.rand_like(empty)
            optimizer = make([*net.parameters(), empty], foreach=foreach, **optim_input.kwargs)
            history = []
            for i in range(7):
                optimizer.zero_grad()
                net[2].requires_grad_(i not in (3, 4))  # a frozen layer
                if i != 2:  # a step without gradients
                    net(torch.arange(1, 7, dtype=dtype).reshape(3, 2) / 10).sum().backward()
                optimizer.step()
                history.append(copy.deepcopy((list(net.parameters()), state_of(optimizer))))
            results.append(history)
        assert same(results[0], results[2]) and same(results[1], results[2])


@pytest.mark.parametrize("default", [torch.float64, torch.float16])
def test_default_dtype(default: Any) -> None:
    before = torch.get_default_dtype()
    try:
        torch.set_default_dtype(default)
        test_foreach_matches_forloop_and_torch(torch.float64)
        p = Parameter(torch.ones(3, dtype=torch.float32))
        p.grad = torch.ones_like(p)
        optimizer = ours.Rprop([p])
        optimizer.step()
        assert optimizer.state[p]["step"].dtype == (torch.float64 if default == torch.float64 else torch.float32)
    finally:
        torch.set_default_dtype(before)


@every_class
def test_unknown_options_of_groups_are_kept(info: Any) -> None:
    for optim_input in every_input(info):
        w, b = Parameter(torch.randn(10, 5)), Parameter(torch.randn(10))
        kwargs = optim_input.kwargs
        optimizer = info.optim_cls([{"params": [w], **kwargs}, {"params": [b], **kwargs, "weight_decay": 0.0}])
        closure = closure_for(optimizer, w, b, torch.randn(5))
        before = closure().item()
        for _ in range(20):
            optimizer.step(closure)
        after = closure().item()
        assert after > before if kwargs.get("maximize") else after < before
        assert optimizer.param_groups[1]["weight_decay"] == 0.0


@every_class
def test_lr_of_groups(info: Any) -> None:
    for optim_input in every_input(info):
        kwargs = {"lr": 1e-3, **optim_input.kwargs}
        w, b, still = Parameter(torch.randn(10, 5)), Parameter(torch.randn(10)), Parameter(torch.randn(2))
        before_still = still.detach().clone()
        groups = [{"params": [w, b], **kwargs}, {"params": [still]}]
        optimizer = info.optim_cls(groups, lr=1e-28, step_sizes=(0, 50))
        closure = closure_for(optimizer, w, b, torch.randn(5))
        before = closure().item()
        for _ in range(20):
            loss = closure()
            still.grad = torch.rand_like(still)
            optimizer.step(functools.partial(lambda loss: loss, loss))
        after = closure().item()
        assert after > before if kwargs.get("maximize") else after < before
        assert torch.equal(still, before_still)


@every_class
def test_no_gradients_and_zero_gradients(info: Any) -> None:
    for optim_input in every_input(info, skip=()):
        params = [torch.randn(2, 3) for _ in range(2)]
        before = copy.deepcopy(params)
        info.optim_cls(params, **optim_input.kwargs).step(lambda: torch.tensor([1.0]))
        assert same(params, before)
        p = torch.randn(5, 1, requires_grad=True)
        leaf = p.clone() if optim_input.kwargs.get("differentiable") else p
        before = leaf.detach().clone()
        optimizer = info.optim_cls([leaf], **optim_input.kwargs)
        leaf.grad = torch.zeros_like(leaf)
        optimizer.step(lambda: torch.tensor([1.0]))
        assert torch.equal(leaf, before)


@every_class
def test_state_dict_is_deterministic(info: Any) -> None:
    for named in (False, True):
        for named_copy in (False, True):
            for optim_input in every_input(info):
                w, b = Parameter(torch.randn(2, 3)), Parameter(torch.randn(2))
                x = torch.randn(3)
                optimizer = info.optim_cls([("w", w), ("b", b)] if named else [w, b], **optim_input.kwargs)
                for _ in range(10):
                    optimizer.step(closure_for(optimizer, w, b, x))
                w2, b2 = Parameter(w.detach().clone()), Parameter(b.detach().clone())
                pair = [("w", w2), ("b", b2)] if named_copy else [w2, b2]
                other = info.optim_cls(pair, **optim_input.kwargs)
                other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
                for _ in range(10):
                    optimizer.step(closure_for(optimizer, w, b, x))
                    other.step(closure_for(other, w2, b2, x))
                    assert same([w, b], [w2, b2])
                states = [copy.deepcopy(o.state_dict()) for o in (optimizer, other)]
                if named or named_copy:
                    assert states[1]["param_groups"][0]["param_names"] == ["w", "b"]
                for state in states:
                    state["param_groups"][0].pop("param_names", None)
                assert same(*states)
                other.param_groups.extend(other.param_groups)
                repeated = other.state_dict()["param_groups"][-1]
                repeated.pop("param_names", None)
                assert same(repeated, states[0]["param_groups"][-1])


@every_class
def test_older_state_dicts(info: Any) -> None:
    for optim_input in every_input(info):
        net = torch.nn.Sequential(torch.nn.Conv2d(4, 2, 1, stride=2), torch.nn.BatchNorm2d(2))
        x = torch.rand(1, 4, 16, 16)
        optimizer = info.optim_cls(net.parameters(), **optim_input.kwargs)

        def closure(optimizer: Any = optimizer, net: Any = net, x: Any = x) -> Any:
            optimizer.zero_grad()
            loss = net(x).sum()
            loss.backward()
            return loss

        for _ in range(3):
            optimizer.step(closure)
        state = copy.deepcopy(optimizer.state_dict())
        for group in state["param_groups"]:
            for flag in info.not_og_supported_flags:
                group.pop(flag, None)
        for entry in state["state"].values():
            if "step" in entry:
                entry["step"] = entry["step"].item()
        optimizer.load_state_dict(state)
        optimizer.step(closure)


@every_class
@pytest.mark.parametrize("named", [False, True])
def test_saved_and_loaded_with_weights_only(info: Any, named: bool) -> None:
    for optim_input in every_input(info):
        w, b = Parameter(torch.randn(2, 3)), Parameter(torch.randn(2))
        optimizer = info.optim_cls([("w", w), ("b", b)] if named else [w, b], **optim_input.kwargs)
        for _ in range(3):
            optimizer.step(closure_for(optimizer, w, b, torch.randn(3)))
        file = io.BytesIO()
        torch.save(optimizer.state_dict(), file)
        for weights_only in (False, True):
            file.seek(0)
            assert same(torch.load(file, weights_only=weights_only), optimizer.state_dict())


@every_class
def test_state_dict_hooks(info: Any) -> None:
    def before(optimizer: Any) -> None:
        optimizer.state["test"] = 1

    def after(optimizer: Any, state: Any) -> Any:
        state["ran"] = state["state"].pop("test", None) is not None
        return state

    for optim_input in every_input(info, skip=()):
        optimizer = info.optim_cls([torch.rand(2, 3, requires_grad=True)], **optim_input.kwargs)
        handle = optimizer.register_state_dict_post_hook(after)
        assert optimizer.state_dict()["ran"] is False
        handle.remove()
        optimizer.register_state_dict_pre_hook(before)
        assert optimizer.state_dict()["state"]["test"] == 1
        optimizer.register_state_dict_post_hook(after)
        state = optimizer.state_dict()
        assert state["ran"] is True and "test" not in state["state"]


@every_class
def test_load_state_dict_hooks(info: Any) -> None:
    def before(optimizer: Any, state: Any) -> None:
        state["param_groups"][0]["lr"] = 0.002

    def replace(optimizer: Any, state: Any) -> Any:
        state = copy.deepcopy(state)
        state["param_groups"][0]["lr"] = 0.003
        return state

    def after(optimizer: Any) -> None:
        optimizer.state["replaced"] = optimizer.param_groups[0]["lr"] == 0.003
        optimizer.state["ran"] = True

    for optim_input in every_input(info, skip=()):
        p = torch.rand(2, 3, requires_grad=True)
        optimizer = info.optim_cls([p], **optim_input.kwargs)
        optimizer.register_load_state_dict_post_hook(after)
        optimizer.load_state_dict(optimizer.state_dict())
        assert optimizer.state["replaced"] is False and optimizer.state["ran"] is True
        optimizer.load_state_dict(optimizer.state_dict())  # with entries that belong to no parameter
        optimizer.register_load_state_dict_pre_hook(before)
        optimizer.load_state_dict(optimizer.state_dict())
        assert optimizer.param_groups[0]["lr"] == 0.002
        optimizer.register_load_state_dict_pre_hook(replace, prepend=True)
        optimizer.load_state_dict(optimizer.state_dict())
        assert optimizer.param_groups[0]["lr"] == 0.002
        optimizer.register_load_state_dict_pre_hook(replace)
        optimizer.load_state_dict(optimizer.state_dict())
        assert optimizer.state["replaced"] is True


@every_class
def test_printing_and_public_attributes(info: Any) -> None:
    for optim_input in every_input(info):
        p = Parameter(torch.randn(2, 3))
        p.grad = torch.rand_like(p)
        optimizer = info.optim_cls([p], **optim_input.kwargs)
        assert re.match(rf"{info.optim_cls.__name__} \(\nParameter Group 0\n", repr(optimizer))
        optimizer.step()
        public = [{k for k in o.__dict__ if not k.startswith("_")} for o in (optimizer, copy.deepcopy(optimizer))]
        assert public[0] == public[1]
        assert all(len(state) for state in optimizer.state.values())


def test_differentiable() -> None:
    """Gradients through the step, as torch's own test has it."""

    def through(p: Any, grad: Any, state: Any) -> Any:
        p = p.clone()
        p.grad = grad
        optimizer = ours.Rprop([p], lr=0.9, differentiable=True)
        optimizer.state[p].update({k: v.clone() for k, v in state.items()})
        optimizer.step()
        return (p, *(v for v in optimizer.state[p].values() if v.requires_grad))

    state = {
        "step": torch.tensor(1.0, dtype=torch.float64),
        "prev": torch.rand(5, dtype=torch.float64, requires_grad=True),
        "step_size": torch.rand(5, dtype=torch.float64, requires_grad=True),
    }
    p, grad = (torch.rand(5, dtype=torch.float64, requires_grad=True) for _ in range(2))
    assert torch.autograd.gradcheck(
        lambda p, g, *s: through(p, g, dict(zip(state, s, strict=True))), (p, grad, *state.values())
    )
