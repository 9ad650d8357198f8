"""diagnostics() and reset_steps() of the NumPy classes."""

import numpy as np
import pytest

from rprop_kernels.numpy import METHODS, AskTell, IRpropMinus, IRpropPlus


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("rule", METHODS)
def test_the_figures_are_those_of_a_plain_count(rule, dtype):
    rng = np.random.default_rng(0)
    w, v = rng.random((7, 9)).astype(dtype), rng.random(40).astype(dtype)
    frozen = rng.random((7, 9)) < 0.3
    step_sizes = (2.0**-6, 0.0625)
    optimizer = METHODS[rule](
        [w, v], 2.0**-5, step_sizes=step_sizes, bounds=([0.0, None], [1.0, None]), frozen=[frozen, None]
    )
    for _ in range(12):
        optimizer.step(
            [
                (rng.standard_normal(x.shape) + 5 * (np.arange(x.size) % 3 == 0).reshape(x.shape)).astype(dtype)
                for x in (w, v)
            ],
            1.0,
        )
    for index, (row, x) in enumerate(zip(optimizer.diagnostics(), (w, v), strict=True)):
        free = ~frozen if index == 0 else np.ones(x.shape, bool)
        q, step = (part[free] for part in optimizer.signs_and_steps(index))
        at_bound = ((x <= 0) | (x >= 1))[free].mean() if index == 0 else 0.0
        assert (row["name"], row["weights"]) == (None, free.sum())
        assert row["at_step_min"] == pytest.approx((step <= 2.0**-6).mean()) and row["at_step_min"] > 0
        assert row["at_step_max"] == pytest.approx((step >= 0.0625).mean()) and row["at_step_max"] > 0
        assert row["at_bound"] == pytest.approx(at_bound) and row["without_sign"] == pytest.approx((q == 0).mean())
        assert row["step_quartiles"] == pytest.approx(np.quantile(step.astype(float), (0.25, 0.5, 0.75)))


def test_empty_and_frozen_parameters_have_no_figures():
    optimizer = IRpropMinus([np.ones((0, 3)), np.ones(2)], frozen=[None, np.ones(2, bool)])
    for row in optimizer.diagnostics():
        assert row["weights"] == 0 and set(row.values()) == {0, None}
    assert AskTell(np.ones(3)).optimizer.diagnostics()[0]["without_sign"] == 1


@pytest.mark.parametrize("lr", [None, 0.25, np.array([0.5, 0.25, 0.125])])
@pytest.mark.parametrize("rule", METHODS)
def test_after_a_reset_it_steps_as_a_new_optimizer(rule, lr):
    rng = np.random.default_rng(0)
    w = rng.standard_normal(3)
    optimizer = METHODS[rule](w, lr=0.0625)
    for loss in (3.0, 2.0, 1.0):
        optimizer.step(rng.standard_normal(3), loss)
    other = w.copy()
    optimizer.reset_steps(lr)
    assert w.tobytes() == other.tobytes() and optimizer.state_dict()["loss"] is None
    fresh = METHODS[rule](other, lr=0.0625 if lr is None else lr)
    for loss in (5.0, 7.0, 6.0):
        grad = rng.standard_normal(3)
        optimizer.step(grad, loss), fresh.step(grad, loss)
        assert w.tobytes() == other.tobytes()
        assert all(
            a.tobytes() == b.tobytes()
            for a, b in zip(optimizer.signs_and_steps(), fresh.signs_and_steps(), strict=True)
        )


def test_a_wrong_lr_changes_nothing():
    w = np.ones(2)
    optimizer = IRpropPlus(w)
    optimizer.step(w.copy(), 1.0)
    before = optimizer.state_dict()
    for lr in (100.0, -1.0, np.ones(3)):
        with pytest.raises(ValueError, match="lr"):
            optimizer.reset_steps(lr)
    assert repr(optimizer.state_dict()) == repr(before)
