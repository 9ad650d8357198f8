"""iRprop+ after a step that was too large: the objective raises, and the loss is infinite, without gradients."""

import copy
import math
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from rprop_kernels.torch import IRpropPlus  # noqa: E402

BACKENDS = ["cython", "numba", "torch"]
DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.complex64]


def assert_same(a: Any, b: Any, parameters: Any) -> None:
    for p, q in parameters:
        assert torch.equal(p, q)
        assert torch.equal(a.state[p]["move"], b.state[q]["move"])


def step(optimizer: Any, params: Any, loss: Any, *grads: Any) -> None:
    for p, grad in zip(params, grads, strict=True):
        p.grad = None if grad is None else torch.as_tensor(grad).to(p.dtype).expand(p.shape).clone()
    optimizer.step(loss=loss)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_weight_returns_from_where_the_objective_raises(backend: str) -> None:
    w = torch.nn.Parameter(torch.tensor(1.0))
    optimizer = IRpropPlus([w], lr=0.4, backend=backend)

    def objective() -> Any:
        if w.item() < 0:
            raise ArithmeticError
        return (w - 0.05).abs()

    visited = []
    for _ in range(60):
        optimizer.zero_grad()
        try:
            loss = objective()
            loss.backward()
        except ArithmeticError:
            loss = math.inf
        optimizer.step(loss=loss)
        visited.append(w.item())
    assert min(visited) < 0 and abs(visited[-1] - 0.05) < 1e-3


@pytest.mark.parametrize("maximize", [False, True])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("backend", BACKENDS)
def test_it_equals_a_step_with_any_gradient(backend: str, dtype: Any, maximize: bool) -> None:
    """A loss that is not finite makes the gradient irrelevant, so that its absence changes nothing."""
    start = torch.tensor([[1.0, -2.0], [0.25, 3.0]]).to(dtype)
    pairs = [(torch.nn.Parameter(start.clone()), torch.nn.Parameter(start.clone())) for _ in range(3)]
    params, others = zip(*pairs, strict=True)
    mine = IRpropPlus([{"params": params[:2]}, {"params": params[2:]}], maximize=maximize, backend=backend)
    reference = IRpropPlus([{"params": others[:2]}, {"params": others[2:]}], maximize=maximize, backend=backend)
    for loss in (5.0, 4.0):
        for optimizer, group in ((mine, params), (reference, others)):
            step(optimizer, group, loss, 1.0, -1.0, [1.0, 0.0])
    versions = [p._version for p in params]
    step(mine, params, math.nan, 1.0, None, None)
    step(reference, others, math.nan, 1.0, 1.0, -1.0)
    assert_same(mine, reference, pairs)
    assert all(p._version > version for p, version in zip(params, versions, strict=True)) and params[1].grad is None
    assert mine.param_groups[0]["prev_loss"] == mine.param_groups[1]["prev_loss"] == 4.0
    step(mine, params, math.inf, None, None, None)  # no sign is left: nothing moves
    assert_same(mine, reference, pairs)
    for optimizer, group in ((mine, params), (reference, others)):
        step(optimizer, group, 3.0, 1.0, 1.0, 1.0)
    assert_same(mine, reference, pairs)


@pytest.mark.parametrize("backend", BACKENDS)
def test_all_parameters_return_to_one_point(backend: str) -> None:
    params = [torch.nn.Parameter(torch.ones(2)) for _ in range(2)]
    optimizer = IRpropPlus(params, lr=0.5, backend=backend)
    step(optimizer, params, 1.0, 1.0, 1.0)
    step(optimizer, params, torch.tensor(torch.inf), None, None)
    assert all(p.tolist() == [1.0, 1.0] for p in params)


@pytest.mark.parametrize("backend", BACKENDS)
def test_rows_with_a_finite_loss_are_left_alone(backend: str) -> None:
    params = [torch.nn.Parameter(torch.ones(3, 2)) for _ in range(2)]
    optimizer = IRpropPlus(params, lr=0.5, batched=True, backend=backend)
    step(optimizer, params, torch.tensor([1.0, 1.0, 1.0]), 1.0, 1.0)
    move = optimizer.state[params[1]]["move"].clone()
    step(optimizer, params, torch.tensor([0.5, math.nan, 2.0]), 1.0, None)
    assert params[1].tolist() == [[0.5, 0.5], [1.0, 1.0], [0.5, 0.5]]
    q, size = optimizer.signs_and_steps(params[1])
    assert q.tolist() == [[1, 1], [0, 0], [1, 1]] and size[1].tolist() == [0.25, 0.25]
    assert torch.equal(optimizer.state[params[1]]["move"][::2], move[::2])


@pytest.mark.parametrize("backend", BACKENDS)
def test_groups_of_both_directions(backend: str) -> None:
    params = [torch.nn.Parameter(torch.ones(2)) for _ in range(2)]
    groups = [{"params": params[:1], "maximize": True}, {"params": params[1:]}]
    optimizer = IRpropPlus(groups, lr=0.5, backend=backend)
    step(optimizer, params, 1.0, 1.0, 1.0)
    assert [p.tolist() for p in params] == [[1.5, 1.5], [0.5, 0.5]]
    step(optimizer, params, 2.0, None, None)  # finite: no parameter is looked at
    assert [p.tolist() for p in params] == [[1.5, 1.5], [0.5, 0.5]]
    step(optimizer, params, math.inf, None, None)
    assert [p.tolist() for p in params] == [[1.0, 1.0], [1.0, 1.0]]


@pytest.mark.parametrize("backend", BACKENDS)
def test_parameters_without_a_state_are_left_alone(backend: str) -> None:
    used, unused = torch.nn.Parameter(torch.ones(2)), torch.nn.Parameter(torch.ones(2))
    lazy = torch.nn.UninitializedParameter()
    optimizer = IRpropPlus([used, unused, lazy], lr=0.5, backend=backend)
    step(optimizer, [used], 1.0, 1.0)
    step(optimizer, [used], math.inf, None)
    assert used.tolist() == unused.tolist() == [1.0, 1.0] and list(optimizer.state) == [used]


@pytest.mark.parametrize("backend", BACKENDS)
def test_nothing_changes_after_an_error(backend: str) -> None:
    params = [torch.nn.Parameter(torch.ones(2)) for _ in range(3)]
    optimizer = IRpropPlus(params, lr=0.5, backend=backend)
    step(optimizer, params, 1.0, 1.0, 1.0, 1.0)
    optimizer.state[params[2]]["move"] = torch.ones(3)
    before = copy.deepcopy(params)
    with pytest.raises(RuntimeError, match="there is a state of shape"):
        step(optimizer, params, math.inf, 1.0, None, None)
    assert all(torch.equal(p, q) for p, q in zip(params, before, strict=True))
