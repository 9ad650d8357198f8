"""One loss argument: every class takes it, validates it alike, and only iRprop+ uses it."""

import copy
from typing import Any

import pytest

torch = pytest.importorskip("torch")

import rprop_kernels.torch as rt  # noqa: E402

FOUR = [rt.RpropMinus, rt.RpropPlus, rt.IRpropMinus, rt.IRpropPlus]
CLASSES = [rt.Rprop, *FOUR]
OTHERS = CLASSES[:-1]
BACKENDS = ["cython", "numba", "torch"]


def parameter(*shape: int) -> Any:
    p = torch.nn.Parameter(torch.ones(shape or (3,)))
    p.grad = torch.ones_like(p)
    return p


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("cls", CLASSES)
def test_one_loop_serves_all_classes(cls: Any, backend: str) -> None:
    p = parameter()
    optimizer = cls([p], lr=0.5, foreach=True, capturable=False, backend=backend)
    optimizer.step(loss=1.0)
    optimizer.set_loss(torch.tensor(0.5))
    optimizer.step()
    assert optimizer.step(lambda: 0.25) == 0.25
    assert optimizer.step(lambda: 0.125, loss=torch.tensor([0.1])) == 0.125
    optimizer.step(loss=torch.ones(3, dtype=torch.float64)) if cls is not rt.IRpropPlus else None


BAD = [
    ([1.0, 2.0], ValueError, r"loss has shape \(2,\).*first dimension must be 2"),
    (torch.ones(2, 2), ValueError, r"loss must have shape \(\) or \(B,\), got \(2, 2\)"),
    (torch.ones(()) * 1j, TypeError, "loss must be real"),
    (object(), TypeError, "loss must be a number"),
    (10**400, TypeError, "loss must be a number"),
]


@pytest.mark.parametrize("cls", CLASSES)
@pytest.mark.parametrize(("loss", "error", "text"), BAD, ids=str)
def test_a_bad_loss_is_the_same_error_in_all_classes(cls: Any, loss: Any, error: Any, text: str) -> None:
    loss = torch.tensor(loss) if isinstance(loss, list) else loss
    p = parameter()
    optimizer = cls([p])
    with pytest.raises(error, match=text):
        optimizer.step(loss=loss)
    optimizer.set_loss(loss)
    with pytest.raises(error, match=text):
        optimizer.step()
    assert p.tolist() == [1.0, 1.0, 1.0] and not optimizer.state
    optimizer.step(loss=1.0)  # the loss that was set is gone
    assert p.tolist() != [1.0, 1.0, 1.0]


@pytest.mark.parametrize("cls", OTHERS)
def test_the_others_use_the_loss_for_nothing_else(cls: Any) -> None:
    p, q = parameter(), parameter()
    with_loss, without = cls([p]), cls([q])
    for t, loss in enumerate([1.0, 2.0, float("nan"), float("inf"), 0.0, torch.tensor([3.0, 2.0, torch.nan])]):
        p.grad = q.grad = torch.tensor([1.0, -1.0, (-1.0) ** t])
        with_loss.step(loss=loss)
        without.step(lambda: "a closure's value is its own affair")
    assert torch.equal(p, q) and "prev_loss" not in with_loss.param_groups[0]


@pytest.mark.parametrize("cls", FOUR)
@pytest.mark.parametrize("value", [None, True, False, "yes", 3])
def test_foreach_and_capturable_change_nothing(cls: Any, value: Any) -> None:
    p, q = parameter(), parameter()
    optimizer = cls([p], foreach=value, capturable=value, process_group=None)
    optimizer.add_param_group({"params": [q], "foreach": value, "capturable": value, "differentiable": False})
    optimizer.step(loss=1.0)
    for group in (optimizer.defaults, *optimizer.param_groups):
        assert not {"foreach", "capturable", "differentiable"} & group.keys()
    assert torch.equal(p, q)


@pytest.mark.parametrize("cls", FOUR)
def test_differentiable_is_refused_by_name(cls: Any) -> None:
    with pytest.raises(ValueError, match=rf"{cls.__name__} does not take differentiable=True: leave it out"):
        cls([parameter()], differentiable=True)
    optimizer = cls([parameter()])
    with pytest.raises(ValueError, match="does not take differentiable=True"):
        optimizer.add_param_group({"params": [parameter()], "differentiable": True})
    assert len(optimizer.param_groups) == 1


@pytest.mark.parametrize("cls", FOUR)
def test_only_irprop_plus_averages_over_a_process_group(cls: Any) -> None:
    p = parameter()
    optimizer = cls([p], process_group=True)
    if cls is not rt.IRpropPlus:  # which needs the group
        optimizer.step(loss=1.0)
        assert copy.deepcopy(optimizer).param_groups[0].keys() == optimizer.param_groups[0].keys()
