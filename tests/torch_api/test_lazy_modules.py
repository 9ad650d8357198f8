"""Modules whose parameters have no memory before their first forward pass (torch.nn.LazyLinear)."""

import copy
import warnings
from typing import Any

import pytest

torch = pytest.importorskip("torch")

import rprop_kernels.torch as rt  # noqa: E402

CLASSES = [rt.Rprop, rt.RpropMinus, rt.RpropPlus, rt.IRpropMinus, rt.IRpropPlus]


class Branches(torch.nn.Module):
    """A linear layer, and a lazy one that is not used before ``both`` is set."""

    def __init__(self) -> None:
        super().__init__()
        self.used = torch.nn.Linear(3, 3)
        self.unused = torch.nn.LazyLinear(1)
        self.both = False

    def forward(self, x: Any) -> Any:
        y = self.used(x)
        return self.unused(y) if self.both else y


def train(make: Any, net: Any, x: Any) -> list[Any]:
    optimizer = make(net.parameters())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # older versions of torch warn about lazy modules
        for step in range(6):
            net.both = step >= 3
            optimizer.zero_grad()
            loss = net(x).square().sum()
            loss.backward()
            optimizer.step(**({"loss": loss} if isinstance(optimizer, rt.IRpropPlus) else {}))
            if step == 1:
                optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    return [p.detach().clone() for p in net.parameters()]


@pytest.mark.parametrize("cls", CLASSES)
@pytest.mark.parametrize("backend", ["cython", "numba", "torch"])
def test_a_lazy_parameter_without_a_gradient_is_no_obstacle(cls: Any, backend: str) -> None:
    x = torch.linspace(-1.0, 1.0, 12).reshape(4, 3)
    results = []
    for make in (
        lambda params: cls(params, lr=0.05, backend=backend),
        lambda params: cls(params, lr=0.05, backend="torch"),
    ):
        torch.manual_seed(1)
        net = Branches()
        before = net.used.weight.detach().clone()
        results.append(train(make, net, x))
        assert not torch.equal(net.used.weight, before)
    for mine, reference in zip(*results, strict=True):
        assert torch.equal(mine, reference)


def test_the_drop_in_equals_torch() -> None:
    x = torch.linspace(-1.0, 1.0, 12).reshape(4, 3)
    results = []
    for cls in (rt.Rprop, torch.optim.Rprop):
        torch.manual_seed(1)
        results.append(train(cls, Branches(), x))
    for mine, theirs in zip(*results, strict=True):
        assert torch.equal(mine, theirs)
