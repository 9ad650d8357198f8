"""diagnostics() and reset_steps() of the torch classes."""

import math

import pytest

torch = pytest.importorskip("torch")

from rprop_kernels.torch import IRpropMinus, IRpropPlus, Rprop, RpropMinus, RpropPlus, Stopping  # noqa: E402

FOUR = (RpropMinus, RpropPlus, IRpropMinus, IRpropPlus)
FIGURES = ("at_step_min", "at_step_max", "at_bound", "without_sign", "step_quartiles")


def expected(p, q, step, step_sizes, lower=-math.inf, upper=math.inf, frozen=None):
    free = torch.ones_like(step, dtype=torch.bool) if frozen is None else ~frozen
    x, q, step = p.detach()[free], q[free], step[free].double()
    return {
        "weights": int(free.sum()),
        "at_step_min": (step <= step_sizes[0]).double().mean().item(),
        "at_step_max": (step >= step_sizes[1]).double().mean().item(),
        "at_bound": ((x <= lower) | (x >= upper)).double().mean().item(),
        "without_sign": (q == 0).double().mean().item(),
        "step_quartiles": tuple(torch.quantile(step, torch.tensor([0.25, 0.5, 0.75], dtype=torch.float64)).tolist()),
    }


def assert_equal(row, name, figures):
    assert (row.pop("name"), row.pop("step_quartiles")) == (
        name,
        pytest.approx(figures.pop("step_quartiles"), rel=1e-12),
    )
    assert row == pytest.approx(figures, rel=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("cls", FOUR)
def test_the_figures_are_those_of_a_plain_count(cls, dtype):
    torch.manual_seed(0)
    w, v = (torch.nn.Parameter(torch.rand(shape).to(dtype)) for shape in ((7, 9), (40,)))
    frozen = torch.rand(7, 9) < 0.3
    options = {"params": [("w", w)], "bounds": (0.0, 1.0), "frozen": frozen, "step_sizes": (2.0**-6, 0.0625)}
    optimizer = cls([options, {"params": [("v", v)]}], lr=2.0**-5)
    for _ in range(12):
        w.grad, v.grad = (
            (torch.randn(p.shape) + (torch.arange(p.numel()) % 3 == 0).reshape(p.shape) * 5).to(dtype) for p in (w, v)
        )
        optimizer.step(loss=1.0)
    first, second = optimizer.diagnostics()
    q, step = optimizer.signs_and_steps(w)
    assert_equal(first, "w", expected(w, q, step, (2.0**-6, 0.0625), 0.0, 1.0, frozen))
    assert 0 < first["at_step_min"] < 1 and first["at_bound"] > 0 and first["at_step_max"] > 0
    q, step = optimizer.signs_and_steps(v)
    assert_equal(second, "v", expected(v, q, step, (1e-6, 50.0)))


def test_parameters_without_figures():
    empty, stepped, still = (torch.nn.Parameter(torch.ones(n)) for n in (0, 2, 3))
    lazy = torch.nn.LazyLinear(2).weight
    optimizer = IRpropMinus([empty, stepped, still, lazy], frozen=[None, torch.ones(2, dtype=torch.bool), None, None])
    empty.grad, stepped.grad = torch.ones(0), torch.ones(2)
    optimizer.step()
    rows = optimizer.diagnostics()
    assert [row["weights"] for row in rows] == [0, 0, 3, 0]
    assert all(row[key] is None for row in rows for key in (*FIGURES, "name"))
    assert not hasattr(Rprop, "diagnostics") and not hasattr(Rprop, "reset_steps")


def test_complex_weights_count_as_two():
    w = torch.nn.Parameter(torch.ones(3, dtype=torch.complex64))
    optimizer = IRpropMinus([w], lr=0.5)
    w.grad = torch.tensor([1 + 0j, 1 + 1j, 0])
    optimizer.step()
    (row,) = optimizer.diagnostics()
    assert row["weights"] == 6 and row["without_sign"] == 0.5 and row["step_quartiles"] == (0.5, 0.5, 0.5)


@pytest.mark.parametrize("lr", [None, 0.25, torch.tensor([0.5, 0.25, 0.125])])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.float64])
@pytest.mark.parametrize("cls", FOUR)
def test_after_a_reset_it_steps_as_a_new_optimizer(cls, dtype, lr):
    torch.manual_seed(0)
    w = torch.nn.Parameter(torch.randn(3).to(dtype))
    optimizer = cls([w], lr=0.0625, bounds=(-9.0, 9.0))
    for loss in (3.0, 2.0, 1.0):
        w.grad = torch.randn(3).to(dtype)
        optimizer.step(loss=loss)
    before, state = w.detach().clone(), optimizer.state[w]["move"]
    optimizer.reset_steps(lr)
    assert torch.equal(w.detach(), before) and optimizer.state[w]["move"] is state
    assert optimizer.param_groups[0].get("prev_loss") is None
    other = torch.nn.Parameter(before)
    fresh = cls([other], lr=0.0625 if lr is None else lr, bounds=(-9.0, 9.0))
    for loss in (5.0, 7.0, 6.0):  # the first would be worse than E_prev
        w.grad = torch.randn(3).to(dtype)
        other.grad = w.grad.clone()
        for each in (optimizer, fresh):
            each.step(loss=loss)
        assert torch.equal(w.detach(), other.detach())
        assert torch.equal(optimizer.state[w]["move"], fresh.state[other]["move"])


def test_a_wrong_lr_changes_nothing():
    w, v = (torch.nn.Parameter(torch.ones(2)) for _ in range(2))
    optimizer = IRpropPlus([{"params": [w]}, {"params": [v], "step_sizes": (1e-6, 0.1)}])
    w.grad, v.grad = torch.ones(2), torch.ones(2)
    optimizer.step(loss=1.0)
    moves = [optimizer.state[p]["move"].clone() for p in (w, v)]
    for lr in (0.5, -1.0, [0.1, 0.1, 0.1]):
        with pytest.raises(ValueError, match="lr"):
            optimizer.reset_steps(lr)
    assert all(torch.equal(optimizer.state[p]["move"], move) for p, move in zip((w, v), moves, strict=True))
    assert [group["lr"] for group in optimizer.param_groups] == [0.01, 0.01]
    assert optimizer.param_groups[0]["prev_loss"] == 1.0


def test_a_reset_between_stop_and_step_keeps_the_best_point():
    w = torch.nn.Parameter(torch.tensor([3.0, -2.0]))
    optimizer = IRpropPlus([w])
    stop = Stopping(optimizer)
    for loss in (3.0, 2.0, 4.0):
        w.grad = w.detach().clone()
        stop(loss)
        if loss == 2.0:
            best = w.detach().clone()
            optimizer.reset_steps(0.5)
        optimizer.step()
    stop.restore_best()
    assert torch.equal(w.detach(), best)
