"""One loss argument: every class takes it, validates it alike, and only iRprop+ uses it."""

import copy
import pickle
from typing import Any

import numpy as np
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
    optimizer.step(loss=torch.ones(1, 1, dtype=torch.float64))


BAD = [
    (torch.ones(2), ValueError, r"loss has shape \(2,\).*loss\.mean\(\).*IRpropPlus with batched=True"),
    (torch.ones(3), ValueError, r"loss has shape \(3,\).*loss\.mean\(\).*IRpropPlus with batched=True"),
    (torch.ones(2, 2), ValueError, r"loss has shape \(2, 2\).*loss\.mean\(\).*batched=True"),
    (torch.ones(0), ValueError, r"loss has shape \(0,\)"),
    (np.ones(3), ValueError, r"loss has shape \(3,\)"),
    ([1.0, 2.0], TypeError, "loss must be a number or a tensor of one element, got list"),
    (torch.ones(()) * 1j, TypeError, "loss must be real"),
    (object(), TypeError, "loss must be a number"),
    ("0.3", TypeError, "loss must be a number .* got str: '0.3'"),
    (True, TypeError, "loss must be a number .* got bool: True"),
    (np.True_, TypeError, "loss must be a number"),
    (np.array("0.3"), TypeError, "loss must be a number"),
    (torch.tensor(True), TypeError, "loss must be a number"),
    (10**400, TypeError, "loss must be a number"),
]


@pytest.mark.parametrize("cls", CLASSES)
@pytest.mark.parametrize(("loss", "error", "text"), BAD, ids=str)
def test_a_bad_loss_is_the_same_error_in_all_classes(cls: Any, loss: Any, error: Any, text: str) -> None:
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
    for t, loss in enumerate([1.0, 2.0, float("nan"), float("inf"), 0.0, torch.tensor([3.0])]):
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


def test_a_closure_that_returns_none_has_its_own_message() -> None:
    p = parameter()
    optimizer = rt.IRpropPlus([p])
    with pytest.raises(ValueError, match=r"the closure returned None.*'return loss'.*step\(closure, loss=\.\.\.\)"):
        optimizer.step(lambda: None)
    assert p.tolist() == [1.0, 1.0, 1.0] and not optimizer.state
    optimizer.step(lambda: None, loss=1.0)


@pytest.mark.parametrize("cls", FOUR)
def test_integer_parameters_are_refused_by_name(cls: Any) -> None:
    text = r"a parameter is torch\.int64, which cannot take steps: pass it as p\.float\(\)"
    whole = torch.tensor([1, 2])
    with pytest.raises(TypeError, match=text):
        cls([whole])
    optimizer = cls([parameter()])
    with pytest.raises(TypeError, match=text):
        optimizer.add_param_group({"params": [parameter(), whole]})
    assert len(optimizer.param_groups) == 1

    frozen = torch.nn.Parameter(torch.tensor([1, 2]), requires_grad=False)  # as in quantized modules
    p = parameter()
    optimizer = cls([p, frozen])
    optimizer.step(loss=1.0)
    before = p.tolist()
    optimizer.state[frozen]["move"] = torch.ones(2)
    frozen.grad = torch.ones_like(frozen)
    with pytest.raises(TypeError, match=text):
        optimizer.step(loss=1.0)
    assert p.tolist() == before and frozen.tolist() == [1, 2]


def test_optimizers_that_share_a_group_share_no_loss() -> None:
    group = {"params": iter([parameter()])}
    first = rt.IRpropPlus([group])
    first.step(loss=1.0)
    assert first.param_groups[0]["prev_loss"] == 1.0
    second, third = rt.IRpropPlus([group]), rt.IRpropPlus(first.param_groups)
    for optimizer in (second, third):
        assert len(optimizer.param_groups[0]["params"]) == 1
        assert optimizer.param_groups[0]["prev_loss"] is None
        optimizer.step(loss=2.0)
    assert first.param_groups[0]["prev_loss"] == 1.0


DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.complex64]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("cls", FOUR)
def test_a_checkpoint_of_a_variant_loads_into_the_drop_in(cls: Any, dtype: Any) -> None:
    p = torch.nn.Parameter(torch.tensor([1.0, -2.0, 0.5]).to(dtype))
    optimizer = cls([p], lr=0.25)
    for grad in ([1.0, 1.0, 1.0], [1.0, -1.0, 0.0]):
        p.grad = torch.tensor(grad).to(dtype)
        optimizer.step(loss=1.0)
    q, step_size = optimizer.signs_and_steps(p)
    saved = copy.deepcopy(optimizer.state_dict())

    r = torch.nn.Parameter(p.detach().clone())
    drop_in = rt.Rprop([r])
    drop_in.load_state_dict(saved)
    state, group = drop_in.state[r], drop_in.param_groups[0]
    assert torch.equal(state["prev"], q.to(dtype)) and torch.equal(state["step_size"], step_size.to(dtype))
    assert group["lr"] == 0.25 and "prev_loss" not in group and saved["state"][0].keys() == {"move"}

    theirs = torch.optim.Rprop([p])
    theirs.load_state_dict(copy.deepcopy(drop_in.state_dict()))
    for grad in ([1.0, 1.0, 1.0], [-1.0, 1.0, 1.0], [-1.0, 1.0, -1.0]):
        p.grad = torch.tensor(grad).to(dtype)
        r.grad = p.grad.clone()
        theirs.step()
        drop_in.step()
        assert torch.equal(p, r)

    saved["state"][0]["move"] = saved["state"][0]["move"].real.to(torch.float16)
    with pytest.raises(ValueError, match=r"'move' is torch\.float16, which cannot be converted"):
        rt.Rprop([r]).load_state_dict(saved)
    saved["state"][0]["move"] = torch.full((3,), torch.nan)
    with pytest.raises(ValueError, match="it is damaged"):
        rt.Rprop([r]).load_state_dict(saved)


# --------------------------------------------------------------------------------------- one loss for each row


def batch(cls: Any, *rows: int, **options: Any) -> tuple[Any, Any]:
    p = parameter(*(rows or (2, 3)))
    return p, cls([p], lr=0.5, batched=True, **options)


BAD_ROWS = [
    (1.0, ValueError, r"loss has shape \(\), but batched=True needs .* shape \(B,\)"),
    (np.float64(1.0), ValueError, r"loss has shape \(\), but batched=True"),
    (torch.tensor(1.0), ValueError, r"loss has shape \(\), but batched=True"),
    (torch.ones(2, 1), ValueError, r"loss has shape \(2, 1\), but batched=True"),
    (torch.ones(0), ValueError, r"loss has shape \(0,\), but batched=True"),
    (torch.ones(1), ValueError, r"shape \(1,\), but parameter 0 of group 0 has shape \(2, 3\): with batched=True"),
    (torch.ones(3), ValueError, r"shape \(3,\), but parameter 0 of group 0 has shape \(2, 3\): .*must be 3"),
    (torch.ones(2) * 1j, TypeError, "loss must be real"),
    (torch.tensor([True, False]), TypeError, "loss must be a number"),
    ([1.0, 2.0], TypeError, r"loss must be a tensor of shape \(B,\), got list"),
    ("0.3", TypeError, r"loss must be a tensor of shape \(B,\), got str"),
]


@pytest.mark.parametrize("cls", FOUR)
@pytest.mark.parametrize(("loss", "error", "text"), BAD_ROWS, ids=str)
def test_a_bad_loss_of_rows_is_the_same_error_in_all_classes(cls: Any, loss: Any, error: Any, text: str) -> None:
    p, optimizer = batch(cls)
    for give in (lambda: optimizer.step(loss=loss), lambda: (optimizer.set_loss(loss), optimizer.step())):
        with pytest.raises(error, match=text):
            give()
    assert (p == 1.0).all() and not optimizer.state and optimizer.param_groups[0].get("prev_loss") is None
    optimizer.step(loss=torch.ones(2))
    assert (p == 0.5).all()


@pytest.mark.parametrize("loss", [torch.ones(3, dtype=torch.int64), np.ones(3), torch.ones(3, dtype=torch.float16)])
@pytest.mark.parametrize("rows", [(3,), (3, 2), (3, 2, 2), (3, 0)], ids=str)
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("cls", FOUR)
def test_parameters_of_any_dimension_have_rows(cls: Any, backend: str, rows: Any, loss: Any) -> None:
    p, optimizer = batch(cls, *rows, backend=backend)
    for _ in range(2):
        optimizer.step(loss=loss)
    assert (p == 1.0 - 0.5 - 0.6000000238418579).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.complex64], ids=str)
@pytest.mark.parametrize("shape", [(1,), (1, 3), (1, 2, 2)], ids=str)
@pytest.mark.parametrize("backend", BACKENDS)
def test_one_row_is_a_problem_of_its_own(backend: str, shape: Any, dtype: Any) -> None:
    row, alone = (torch.nn.Parameter(torch.ones(shape, dtype=dtype)) for _ in "ab")
    batched = rt.IRpropPlus([row], lr=0.5, batched=True, backend=backend)
    single = rt.IRpropPlus([alone], lr=0.5, backend=backend)
    for sign, loss in ((1, 2.0), (-1, 3.0), (1, 1.0), (1, torch.nan), (1, 1.0), (-1, 0.5)):
        row.grad, alone.grad = (torch.full(shape, sign, dtype=dtype) for _ in "ab")
        batched.step(loss=torch.tensor([loss]))
        single.step(loss=loss)
        assert torch.equal(row, alone) and torch.equal(batched.state[row]["move"], single.state[alone]["move"])
    assert batched.param_groups[0]["prev_loss"].tolist() == [single.param_groups[0]["prev_loss"]] == [0.5]


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))], ids=["copy", "pickle"])
@pytest.mark.parametrize("stepped", [False, True])
@pytest.mark.parametrize("cls", FOUR)
def test_batched_travels_with_copies(cls: Any, stepped: bool, duplicate: Any) -> None:
    p, optimizer = batch(cls)
    if stepped:
        optimizer.step(loss=torch.tensor([1.0, 2.0]))
    copied = duplicate(optimizer)
    (q,) = copied.param_groups[0]["params"]
    q.grad = torch.ones_like(q)
    with pytest.raises(ValueError, match="batched=True"):
        copied.step(loss=1.0)
    for each in (copied, optimizer):
        each.step(loss=torch.tensor([0.5, 1.0]))
    assert torch.equal(p, q)


@pytest.mark.parametrize("cls", FOUR)
def test_batched_belongs_to_the_optimizer(cls: Any) -> None:
    _, optimizer = batch(cls)
    saved = optimizer.state_dict()
    assert "batched" not in saved and not any(
        "batched" in group for group in (optimizer.defaults, *saved["param_groups"])
    )
    optimizer.add_param_group({"params": [parameter(2)], "batched": True})  # as wrappers do
    assert "batched" not in optimizer.param_groups[1]
    with pytest.raises(
        ValueError, match=rf"a group has batched=False, its optimizer batched=True.*{cls.__name__}\(params"
    ):
        optimizer.add_param_group({"params": [parameter(2)], "batched": False})
    assert len(optimizer.param_groups) == 2
    for value in (1, None, "yes", torch.tensor(True)):
        with pytest.raises(TypeError, match=r"batched is .*pass True or False"):
            cls([parameter()], batched=value)
    with pytest.raises(TypeError, match="batched"):
        rt.Rprop([parameter()], batched=True)


LOSSES = {False: [1.0, torch.tensor(1.0)], True: [torch.ones(2), torch.ones(1)]}


@pytest.mark.parametrize("number", [0, 1])
@pytest.mark.parametrize("batched", [False, True])
@pytest.mark.parametrize("cls", FOUR)
def test_a_checkpoint_with_the_other_kind_of_loss_is_refused(cls: Any, batched: bool, number: int) -> None:
    rows = 2 - number
    p = parameter(rows, 3)
    optimizer = cls([p], lr=0.5, batched=batched)
    optimizer.step(loss=torch.ones(rows) if batched else 1.0)
    saved = copy.deepcopy(optimizer.state_dict())
    before = copy.deepcopy((p, optimizer.state_dict()))
    saved["state"][0]["move"] *= 0.5
    saved["param_groups"][0] |= {"etas": (0.25, 2.0), "prev_loss": LOSSES[not batched][number]}
    kind = f"one loss for each of {rows} rows" if not batched else "one number"
    with pytest.raises(ValueError, match=f"prev_loss of the state_dict is {kind}: .*batched={not batched}"):
        optimizer.load_state_dict(saved)
    assert torch.equal(p, before[0]) and repr(optimizer.state_dict()) == repr(before[1])
    for value in (LOSSES[batched][number], None):
        saved["param_groups"][0]["prev_loss"] = value
        optimizer.load_state_dict(saved)
    assert optimizer.param_groups[0]["etas"] == (0.25, 2.0)
    optimizer.step(loss=LOSSES[batched][number])


def test_only_parameters_with_a_gradient_need_matching_rows() -> None:
    p, optimizer = batch(rt.IRpropPlus)
    q = torch.nn.Parameter(torch.ones(3))
    optimizer.add_param_group({"params": [q]})
    optimizer.step(loss=torch.ones(2))  # q has no gradient: it may have another first dimension
    q.grad = torch.ones(3)
    with pytest.raises(ValueError, match=r"parameter 0 of group 1 has shape \(3,\).*optimizer of its own"):
        optimizer.step(loss=torch.ones(2))
    assert (p == 0.5).all() and (q == 1.0).all()
