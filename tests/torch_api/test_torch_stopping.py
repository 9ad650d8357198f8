"""Stopping in training loops: decisions, best weights, wrappers, the order of the calls, processes."""

import copy
import gc
import pickle

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from rprop_kernels.numpy import minimize  # noqa: E402
from rprop_kernels.torch import IRpropMinus, IRpropPlus, Rprop, RpropMinus, RpropPlus, Stopping  # noqa: E402

CLASSES = {"rprop-": RpropMinus, "rprop+": RpropPlus, "irprop-": IRpropMinus, "irprop+": IRpropPlus}


def valley(x):
    a, b = x[..., 0] ** 2 + x[..., 1] - 11, x[..., 0] + x[..., 1] ** 2 - 7
    return a * a + b * b


def with_gradient(x):
    """The same for NumPy, by torch, so that the bits agree."""
    w = torch.tensor(x, requires_grad=True)
    losses = valley(w)
    losses.sum().backward()
    return losses.detach().numpy() if losses.dim() else losses.item(), w.grad.numpy()


OPTIONS = {
    "plain": ({}, {}),
    "bounds": ({"bounds": ([-5.0, -1.0], [2.5, 5.0])}, {}),
    "frozen": ({"frozen": [False, True]}, {"gtol": None}),
    "maximize": ({"maximize": True}, {"patience": 7}),
    "steps": ({"lr": 0.5}, {"gtol": None, "ftol": 0.0}),
    "limit": ({}, {"max_steps": 5}),
}


def to_torch(options):
    def convert(value):
        return torch.tensor(value, dtype=torch.bool if isinstance(value[0], bool) else torch.float64)

    options = dict(options)
    if "bounds" in options:
        options["bounds"] = tuple(map(convert, options["bounds"]))
    if "frozen" in options:
        options["frozen"] = convert(options["frozen"])
    return options


@pytest.mark.parametrize("order", ["test first", "step first"])
@pytest.mark.parametrize("case", OPTIONS)
@pytest.mark.parametrize("rule", CLASSES)
def test_a_loop_ends_where_minimize_ends(rule, case, order):
    options, rules = OPTIONS[case]
    sign = -1 if options.get("maximize") else 1

    def fun(x):
        loss, grad = with_gradient(x)
        return sign * loss, sign * grad

    expected = minimize(fun, [0.5, 1.0], jac=True, method=rule, **options, **rules)
    w = torch.nn.Parameter(torch.tensor([0.5, 1.0], dtype=torch.float64))
    optimizer = CLASSES[rule]([w], step_sizes=(0.0, 50.0), **to_torch(options))
    stop = Stopping(optimizer, **rules)
    steps = 0
    while steps < 4000:
        optimizer.zero_grad()
        loss = sign * valley(w)
        loss.backward()
        if order == "test first":
            if stop(loss):
                break
            optimizer.step()
        else:
            optimizer.step(loss=loss)
            if stop(loss):
                break
        steps += 1
    assert (stop.reason, stop.status, stop.message, steps) == (
        expected.reason, expected.status, expected.message, expected.nit,
    )  # fmt: skip
    assert stop.best_loss == expected.fun
    stop.restore_best()
    assert w.detach().numpy().tobytes() == expected.x.tobytes()
    assert (optimizer.signs_and_steps(w)[0] == 0).all()
    if rule == "irprop+":
        assert optimizer.param_groups[0]["prev_loss"] == expected.fun


def test_rows_end_by_themselves_and_keep_their_best():
    start = np.random.default_rng(0).uniform(-4, 4, (9, 2))
    expected = minimize(with_gradient, start, jac=True, batched=True)
    w = torch.nn.Parameter(torch.tensor(start))
    optimizer = IRpropPlus([w], step_sizes=(0.0, 50.0), batched=True)
    stop = Stopping(optimizer)
    while True:
        optimizer.zero_grad()
        losses = valley(w)
        losses.sum().backward()
        if stop(losses):
            break
        optimizer.step()
    stop.restore_best()
    assert w.detach().numpy().tobytes() == expected.x.tobytes() and stop.reason == expected.reason
    assert stop.best_loss.numpy().tobytes() == expected.fun.tobytes() and stop.status == expected.status.tolist()


def loop(optimizer, stop, w, steps=2000, closure=False):
    for step in range(steps):
        optimizer.zero_grad()
        loss = (w**2).sum() + 1
        loss.backward()
        if stop(loss):
            return step
        optimizer.step()
    return None


@pytest.mark.parametrize(
    ("make", "options"),
    [(Rprop, {"step_sizes": (1e-12, 50)}), (torch.optim.Adam, {"lr": 0.1}), (torch.optim.SGD, {"lr": 0.1})],
    ids=["drop-in", "Adam", "SGD"],
)
def test_other_optimizers(make, options):
    w = torch.nn.Parameter(torch.tensor([3.0, -2.0], dtype=torch.float64))
    optimizer = make([w], **options)
    stop = Stopping(optimizer)
    assert loop(optimizer, stop, w) is not None and stop.reason in ("gtol", "ftol")
    stop.restore_best()
    assert w.abs().max() < 1e-4


def test_wrappers_are_unwrapped_and_a_closure_hands_over_the_loss():
    class Wrapper:
        def __init__(self, optimizer):
            self.optimizer = optimizer

    w = torch.nn.Parameter(torch.tensor([3.0, -2.0]))
    optimizer = IRpropPlus([w], step_sizes=(0.0, 50.0))
    stop = Stopping(Wrapper(Wrapper(optimizer)))

    def closure():
        optimizer.zero_grad()
        loss = (w**2).sum()
        loss.backward()
        return loss

    for _ in range(500):
        loss = optimizer.step(closure)
        if stop(loss):
            break
    assert stop.reason == "gtol"


@pytest.mark.parametrize("make", [IRpropMinus, Rprop, lambda p: torch.optim.Adam(p)], ids=["ours", "drop-in", "Adam"])
def test_the_wrong_order_is_named(make):
    w = torch.nn.Parameter(torch.tensor([3.0, -2.0]))
    optimizer = make([w])
    stop = Stopping(optimizer)
    loss = (w**2).sum()
    loss.backward()
    optimizer.step()
    with pytest.raises(RuntimeError, match=r"stop\(loss\) .*before optimizer.step\(\)"):
        stop(loss)


def test_another_optimizer_in_the_right_order_with_gradients_that_add_up():
    w = torch.nn.Parameter(torch.tensor([3.0, -2.0]))
    optimizer = torch.optim.SGD([w], lr=0.01)
    stop = Stopping(optimizer)
    for _ in range(5):
        loss = (w**2).sum()
        loss.backward()  # into the same .grad
        assert not stop(loss)
        optimizer.step()


def test_what_is_refused():
    w = torch.nn.Parameter(torch.ones(2))
    with pytest.raises(TypeError, match=r"LBFGS .*rprop_kernels.torch.minimize"):
        Stopping(torch.optim.LBFGS([w]))
    with pytest.raises(TypeError, match="optimizer is a int: pass a torch optimizer"):
        Stopping(3)
    with pytest.raises(ValueError, match=r"ftol=-1.0: pass a number from 0 on"):
        Stopping(IRpropPlus([w]), ftol=-1.0)
    other = torch.nn.Parameter(torch.ones(2))
    with pytest.raises(ValueError, match="differ in maximize"):
        Stopping(IRpropPlus([{"params": [w]}, {"params": [other], "maximize": True}]))
    optimizer = IRpropPlus([w])
    stop = Stopping(optimizer)
    with pytest.raises(ValueError, match="this optimizer has a Stopping"):
        Stopping(optimizer)
    with pytest.raises(RuntimeError, match="no finite loss yet"):
        stop.restore_best()
    w.grad = torch.ones(2)
    for loss, error in (("1", TypeError), (torch.ones(3), ValueError), (None, TypeError)):
        with pytest.raises(error):
            stop(loss)
    assert stop.reason is None


def test_the_reference_is_weak_and_neither_copied_nor_pickled():
    w = torch.nn.Parameter(torch.ones(2))
    for make in (IRpropPlus, Rprop, torch.optim.Adam):
        optimizer = make([w])
        stop = Stopping(optimizer)
        for other in (copy.deepcopy(optimizer), pickle.loads(pickle.dumps(optimizer))):
            assert getattr(other, "_stopping", None) is None
            Stopping(other)
        assert "stopping" not in str(optimizer.state_dict())
        del stop
        gc.collect()
        w.grad = torch.ones(2)
        optimizer.step(*() if make is torch.optim.Adam else (lambda: 1.0,))
        Stopping(optimizer)


def test_the_state_continues_a_run():
    def make():
        w = torch.nn.Parameter(torch.tensor([0.5, 1.0]))
        optimizer = IRpropPlus([w], step_sizes=(0.0, 50.0))
        return w, optimizer, Stopping(optimizer)

    whole = make()
    loop(whole[1], whole[2], whole[0], 30)
    saved = [x.clone() if isinstance(x, torch.Tensor) else copy.deepcopy(x.state_dict()) for x in whole]
    loop(whole[1], whole[2], whole[0])
    again = make()
    with torch.no_grad():
        again[0].copy_(saved[0])
    again[1].load_state_dict(saved[1])
    again[2].load_state_dict(saved[2])
    loop(again[1], again[2], again[0])
    for _, _, stop in (whole, again):
        stop.restore_best()
    assert torch.equal(whole[0], again[0]) and whole[2].reason == again[2].reason
    with pytest.raises(ValueError, match="make the Stopping for the same parameters"):
        again[2].load_state_dict({**saved[2], "best": [torch.ones(3)]})


def test_a_start_that_is_not_finite_and_steps_that_cannot_shrink():
    w = torch.nn.Parameter(torch.ones(2))
    stop = Stopping(IRpropPlus([w]))
    w.grad = torch.ones(2)
    assert stop(float("nan")) and (stop.reason, stop.status) == ("start", 3)
    w = torch.nn.Parameter(torch.ones(2, dtype=torch.float64))
    optimizer = IRpropMinus([w], step_sizes=(1e-2, 50.0))
    stop = Stopping(optimizer)
    with pytest.warns(UserWarning, match=r"smallest step size, 0.01: .*step_sizes=\(0.0, 50.0\)"):
        loop(optimizer, stop, w)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.complex64])
def test_other_types(dtype):
    w = torch.nn.Parameter(torch.tensor([3.0, -2.0]).to(dtype))
    optimizer = IRpropPlus([w], step_sizes=(0.0, 50.0))
    stop = Stopping(optimizer, gtol=1e-2)
    for _ in range(500):
        optimizer.zero_grad()
        loss = (w.abs() ** 2).sum()
        loss.backward()
        if stop(loss):
            break
        optimizer.step()
    assert stop.reason == "gtol"


@pytest.mark.parametrize("order", ["test first", "step first"])
@pytest.mark.parametrize("case", [*OPTIONS, "rows"])
@pytest.mark.parametrize("make", ["irprop+", "rprop-", "drop-in", "Adam"])
def test_a_decision_that_is_read_now_and_then_is_late_and_the_best_point_is_not(make, case, order):
    """As on a device: reason, best loss and best weights are those of the immediate decision."""
    options, rules = OPTIONS.get(case, ({"batched": True}, {}))
    if make in ("drop-in", "Adam") and ({*options} - {"maximize", "lr"} or (make, order) == ("Adam", "step first")):
        pytest.skip("it has no such options, or order")
    sign = -1 if options.get("maximize") else 1
    results = []
    for every in (1, 8):
        start = np.random.default_rng(0).uniform(-4, 4, (9, 2)) if case == "rows" else np.array([0.5, 1.0])
        w = torch.nn.Parameter(torch.tensor(start))
        optimizer = {"drop-in": Rprop, "Adam": torch.optim.Adam, **CLASSES}[make](
            [w], **({} if make == "Adam" else {"step_sizes": (0.0, 50.0)}), **to_torch(options)
        )
        stop = Stopping(optimizer, **{"max_steps": 250} | rules, every=every)
        call = 0
        while call < 4000:
            call += 1
            optimizer.zero_grad()
            loss = sign * valley(w)
            loss.sum().backward()
            if order == "step first":
                optimizer.step(loss=loss.detach())
                if stop(loss):
                    break
            elif stop(loss):
                break
            else:
                optimizer.step()
        stop.restore_best()
        best = torch.as_tensor(stop.best_loss, dtype=torch.float64).numpy()
        results.append((call, stop.reason, stop.status, best.tobytes(), w.detach().numpy().tobytes()))
        if make == "irprop+" and case != "rows":
            assert optimizer.param_groups[0]["prev_loss"] == best
    (soon, *expected), (late, *found) = results
    assert found == expected and late == -(-soon // 8) * 8


def test_every_is_validated():
    w = torch.nn.Parameter(torch.ones(2))
    for every in (0, 1.5, True):
        with pytest.raises(ValueError, match=r"every=.*: pass a whole number from 1 on"):
            Stopping(IRpropPlus([w]), every=every)
