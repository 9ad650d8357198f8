"""Stopping in loops with NumPy optimizers: the same decisions as minimize, the best weights, the order of the calls."""

import copy
import gc
import pickle

import numpy as np
import pytest

from rprop_kernels.numpy import METHODS, IRpropMinus, IRpropPlus, Stopping, minimize


def valley(x):
    a, b = x[..., 0] ** 2 + x[..., 1] - 11, x[..., 0] + x[..., 1] ** 2 - 7
    return a * a + b * b, np.stack((4 * x[..., 0] * a + 2 * b, 2 * a + 4 * x[..., 1] * b), axis=-1)


OPTIONS = {
    "plain": ({}, {}),
    "bounds": ({"bounds": ([-5.0, -1.0], [2.5, 5.0])}, {}),
    "frozen": ({"frozen": [False, True]}, {"gtol": None}),
    "maximize": ({"maximize": True}, {"patience": 7}),
    "steps": ({"lr": 0.5}, {"gtol": None, "ftol": 0.0}),
    "limit": ({}, {"max_steps": 5}),
    "ftol": ({}, {"gtol": None, "ftol": 1e-3, "window": 4}),
}


@pytest.mark.parametrize("order", ["test first", "step first"])
@pytest.mark.parametrize("case", OPTIONS)
@pytest.mark.parametrize("rule", METHODS)
def test_a_loop_ends_where_minimize_ends(rule, case, order):
    options, rules = OPTIONS[case]
    sign = -1 if options.get("maximize") else 1

    def fun(x):
        loss, grad = valley(x)
        return sign * float(loss), sign * grad

    expected = minimize(fun, [0.5, 1.0], jac=True, method=rule, **options, **rules)
    w = np.array([0.5, 1.0])
    optimizer = METHODS[rule](w, step_sizes=(0.0, 50.0), **options)
    stop = Stopping(optimizer, **rules)
    steps = 0
    while steps < 4000:
        loss, grad = fun(w)
        if order == "test first":
            if stop(loss, grad):
                break
            optimizer.step(grad)  # stop() has handed over the loss
        else:
            optimizer.step(grad, loss)
            if stop(loss, grad):
                break
        steps += 1
    assert (stop.reason, stop.status, stop.message, steps) == (
        expected.reason, expected.status, expected.message, expected.nit,
    )  # fmt: skip
    assert stop.best_loss == expected.fun
    stop.restore_best()
    assert w.tobytes() == expected.x.tobytes()
    assert (optimizer.signs_and_steps()[0] == 0).all()


def test_rows_end_by_themselves_and_keep_their_best():
    start = np.random.default_rng(0).uniform(-4, 4, (9, 2))
    expected = minimize(valley, start, jac=True, batched=True)
    w = start.copy()
    optimizer = IRpropPlus(w, step_sizes=(0.0, 50.0), batched=True)
    stop = Stopping(optimizer)
    while not stop(*valley(w)):
        optimizer.step(valley(w)[1])
    stop.restore_best()
    assert w.tobytes() == expected.x.tobytes() and stop.reason == expected.reason
    assert stop.best_loss.tobytes() == expected.fun.tobytes() and stop.status == expected.status.tolist()


def test_several_parameters_of_two_types():
    a, b = np.ones(3, np.float32), np.full((2, 2), 2.0)
    optimizer = IRpropPlus([a, b], step_sizes=(0.0, 50.0))
    stop = Stopping(optimizer)
    for _ in range(300):
        if stop(float((a**2).sum() + (b**2).sum()), [2 * a, 2 * b]):
            break
        optimizer.step([2 * a, 2 * b])
    assert stop.reason == "gtol" and max(np.abs(a).max(), np.abs(b).max()) <= 1e-5


def test_a_step_without_a_loss_before_the_test_is_an_error():
    w = np.array([1.0, 2.0])
    optimizer = IRpropMinus(w)
    stop = Stopping(optimizer)
    optimizer.step(2 * w)
    with pytest.raises(
        RuntimeError, match=r"call stop\(loss\) before optimizer.step\(\), or pass optimizer.step\(grads"
    ):
        stop(w @ w, 2 * w)


def test_a_second_call_answers_again():
    w = np.array([1.0, 2.0])
    optimizer = IRpropMinus(w)
    stop = Stopping(optimizer, max_steps=1)
    assert not stop(w @ w, 2 * w) and not stop(w @ w, 2 * w)
    optimizer.step(2 * w)
    assert stop(w @ w, 2 * w) and stop(w @ w, 2 * w) and stop.reason == "max_steps"


def test_the_reference_is_weak_and_neither_copied_nor_pickled():
    w = np.ones(2)
    optimizer = IRpropPlus(w)
    stop = Stopping(optimizer)
    with pytest.raises(ValueError, match="this optimizer has a Stopping: use that one, or delete it first"):
        Stopping(optimizer)
    for other in (copy.deepcopy(optimizer), copy.copy(optimizer), pickle.loads(pickle.dumps(optimizer))):
        assert other._stopping is None
        Stopping(other)
    assert "stopping" not in str(optimizer.state_dict())
    del stop
    gc.collect()
    optimizer.step(2 * w, w @ w)
    Stopping(optimizer)


def test_the_state_continues_a_run():
    def loop(w, optimizer, stop, steps):
        for _ in range(steps):
            loss, grad = valley(w)
            if stop(loss, grad):
                break
            optimizer.step(grad)

    whole = np.array([0.5, 1.0])
    first = IRpropPlus(whole, step_sizes=(0.0, 50.0))
    stop = Stopping(first)
    loop(whole, first, stop, 30)
    saved = copy.deepcopy((whole, first.state_dict(), stop.state_dict()))
    loop(whole, first, stop, 1000)
    w = saved[0].copy()
    second = IRpropPlus(w, step_sizes=(0.0, 50.0))
    second.load_state_dict(saved[1])
    again = Stopping(second)
    again.load_state_dict(saved[2])
    loop(w, second, again, 1000)
    stop.restore_best(), again.restore_best()
    assert w.tobytes() == whole.tobytes() and (again.reason, again.best_loss) == (stop.reason, stop.best_loss)
    for damaged in (None, {}, {**saved[2], "best": [np.ones(3)]}):
        with pytest.raises(ValueError, match=r"pass what state_dict\(\)|make the Stopping for the same parameters"):
            again.load_state_dict(damaged)


def test_steps_that_cannot_shrink_warn_once():
    w = np.array([1.0, 1.0])
    optimizer = IRpropMinus(w, step_sizes=(1e-2, 50.0))
    stop = Stopping(optimizer)
    with pytest.warns(
        UserWarning, match=r"above gtol, while 100% .* smallest step size, 0.01: .*step_sizes=\(0.0, 50.0\)"
    ):
        for _ in range(1000):
            if stop(1 + w @ w, 2 * w):
                break
            optimizer.step(2 * w)
    assert stop.reason in ("ftol", "xtol")


def test_bad_input_changes_nothing():
    w = np.array([1.0, 2.0])
    for change, error, text in (
        ({"optimizer": 3}, TypeError, "optimizer is a int: pass an optimizer of rprop_kernels.numpy"),
        ({"gtol": -1.0}, ValueError, "gtol=-1.0: pass a number from 0 on"),
        ({"window": 0}, ValueError, "window=0: pass a whole number from 1 on"),
        ({"patience": 1.5}, ValueError, "patience=1.5: pass a whole number"),
    ):
        with pytest.raises(error, match=text):
            Stopping(**{"optimizer": IRpropPlus(w)} | change)
    optimizer = IRpropPlus(w)
    stop = Stopping(optimizer)
    with pytest.raises(RuntimeError, match="no finite loss yet"):
        stop.restore_best()
    for loss, grads, error in (
        ("1", 2 * w, TypeError),
        ([1.0, 2.0], 2 * w, ValueError),
        (1.0, np.ones(3), ValueError),
        (1.0, [2 * w, 2 * w], ValueError),
        (1.0, [1.0, 2.0], ValueError),
    ):
        with pytest.raises(error):
            stop(loss, grads)
    assert stop.reason is None and w.tolist() == [1.0, 2.0] and np.isnan(stop.best_loss)
