"""The NumPy optimizers against the oracle and hand-worked traces: bits, bounds, frozen weights, losses."""

import copy
import math
import pickle
import sys
import tracemalloc
import warnings

import numpy as np
import pytest
from backends import INSTRUCTION_SET_VARIABLE, INSTRUCTION_SETS, compiled
from oracle import RULES, Oracle
from special_values import assert_same_bits, gradients

from rprop_kernels import VARIANTS
from rprop_kernels.backends import supported_backends, unavailable_reason
from rprop_kernels.numpy import METHODS, AskTell, IRpropMinus, IRpropPlus, RpropMinus, RpropPlus


@pytest.fixture(params=supported_backends("arrays"))
def backend(request):
    if reason := unavailable_reason(request.param):
        pytest.skip(f"{request.param}: {reason}")
    return request.param


def same(array, values):
    assert_same_bits(np.ravel(array), np.array(values, array.dtype).ravel())


def test_every_rule_of_the_table_has_its_class():
    assert {name: cls.__name__ for name, cls in METHODS.items()} == {
        row.name: row.class_name for row in VARIANTS.values() if row.name != "torch"
    }
    for cls in METHODS.values():
        assert "step_sizes" in cls.__doc__ and "Igel" in cls.__doc__


# One weight from 0, D = 1, eta 0.5 and 2; gradients and losses, then w, q, D after each step, by hand.
TRACE = [(+1, 9.0), (+1, 8.0), (-1, 8.5), (-1, 8.0), (+1, 7.0)]
BY_HAND = {
    "rprop-": [(-1, 1, 1), (-3, 1, 2), (-2, -1, 1), (0, -1, 2), (-1, 1, 1)],
    "rprop+": [(-1, 1, 1), (-3, 1, 2), (-1, 0, 1), (0, -1, 1), (-1, 0, 0.5)],
    "irprop-": [(-1, 1, 1), (-3, 1, 2), (-3, 0, 1), (-2, -1, 1), (-2, 0, 0.5)],
    "irprop+": [(-1, 1, 1), (-3, 1, 2), (-1, 0, 1), (0, -1, 1), (0, 0, 0.5)],  # taken back, then not worse: stays
}


@pytest.mark.parametrize("real", [np.float32, np.float64])
@pytest.mark.parametrize("rule", RULES)
def test_trace_by_hand(rule, real, backend):
    w = np.zeros(1, real)
    optimizer = METHODS[rule](w, lr=1.0, etas=(0.5, 2.0), backend=backend)
    for (g, loss), (position, q, step) in zip(TRACE, BY_HAND[rule], strict=True):
        optimizer.step(np.array([g], real), loss)
        seen_q, seen_step = optimizer.signs_and_steps()
        assert (w[0], seen_q[0], seen_step[0]) == (position, q, step)


@pytest.mark.parametrize("boxed", [False, True], ids=["free", "boxed"])
@pytest.mark.parametrize("maximize", [False, True], ids=["down", "up"])
@pytest.mark.parametrize("real", [np.float32, np.float64])
@pytest.mark.parametrize("rule", RULES)
def test_bits_after_every_step_equal_the_oracle(rule, real, maximize, boxed, backend):
    rng = np.random.default_rng(7)
    n, hyper = 60, {"lr": 0.3, "etas": (0.5, 1.2), "step_sizes": (1e-3, 2.0), "maximize": maximize}
    w = rng.normal(size=n).astype(real)
    low, high, frozen = np.full(n, -math.inf, real), np.full(n, math.inf, real), np.zeros(n, bool)
    if boxed:
        low[::2], high[::3], frozen[::7] = w[::2] - real(0.7), w[::3] + real(0.4), True
    options = {"bounds": (low, high), "frozen": frozen} if boxed else {}
    optimizer = METHODS[rule](w, **hyper, backend=backend, **options)
    oracle = Oracle(rule, w, real.__name__, **hyper, lower=low, upper=high, frozen=frozen)
    met = 0
    for step, g in enumerate(gradients(rng, (n,), real, 60)):
        loss = float(rng.choice([1.0, 2.0, 3.0] * 6 + [math.nan, math.inf])) if step else 2.0
        optimizer.step(g, loss)
        oracle.step(g, loss)
        met += sum(weight.w in oracle.limits(weight) for weight in oracle.weights)
        same(w, [weight.w for weight in oracle.weights])
        q, steps = optimizer.signs_and_steps()
        same(steps, [weight.D for weight in oracle.weights])
        assert q.tolist() == [weight.q for weight in oracle.weights]
    assert (met > 50) == boxed


BOXES = {
    "numbers": (-1.0, 0.5),
    "one side": (None, 0.25),
    "arrays": (np.linspace(-2, 0, 600), np.linspace(0, 3, 600)),
    "a number and an array": (-np.inf, np.linspace(0.0, 3, 600)),
    "frozen too": (-1.0, 0.5),
}


@compiled
@pytest.mark.parametrize("order", ["C", "F", "strided"])
@pytest.mark.parametrize("box", BOXES)
@pytest.mark.parametrize("real", [np.float32, np.float64])
@pytest.mark.parametrize("isa", INSTRUCTION_SETS)
def test_bounds_have_the_same_bits_compiled_and_in_numpy(isa, real, box, order, monkeypatch):
    monkeypatch.setenv(INSTRUCTION_SET_VARIABLE, isa)
    rng = np.random.default_rng(0)
    bounds = tuple(end.reshape(20, 30) if isinstance(end, np.ndarray) else end for end in BOXES[box])
    frozen = rng.random((20, 30)) < 0.2 if box == "frozen too" else None
    start = rng.uniform(-0.1, 0.1, (20, 30))
    start[:, 0] = 0.0 if box == "arrays" else -0.0  # on a bound or next to it, of either sign
    pair = []
    for backend in ("cython", "numpy"):
        w = np.zeros((40, 30), real)[::2] if order == "strided" else np.zeros((20, 30), real, order)
        w[...] = np.clip(start, *bounds)
        pair.append(METHODS["irprop-"](w, lr=0.5, bounds=bounds, frozen=frozen, backend=backend))
    low, high = (np.inf if end is None else np.asarray(end, real) for end in bounds)
    met = 0
    for g in gradients(rng, (20, 30), real, 40):
        for optimizer in pair:
            optimizer.step(g)
        w = pair[0].params[0]
        same(w, pair[1].params[0])
        same(*(optimizer._states[0][0] for optimizer in pair))
        met += ((w == low) | (w == high)).sum()
    assert met > 500


def test_a_weight_between_equal_bounds_stays(backend):
    w = np.array([1.0, 1.0])
    optimizer = RpropPlus(w, lr=0.5, bounds=([1.0, 0.0], [1.0, 2.0]), backend=backend)
    for g in (1.0, -1.0, -1.0):
        optimizer.step(np.full(2, g))
    assert w.tolist() == [1.0, 1.25]
    assert (optimizer.signs_and_steps()[1] > 0).all()


LAYOUTS = {
    "fortran": lambda real: np.asfortranarray(np.arange(12, dtype=real).reshape(3, 4)),
    "every second": lambda real: np.arange(24, dtype=real).reshape(3, 8)[:, ::2],
    "backwards": lambda real: np.arange(12, dtype=real).reshape(3, 4)[::-1, ::-1],
    "transposed": lambda real: np.arange(24, dtype=real).reshape(4, 3, 2).transpose(2, 0, 1),
    "0-d": lambda real: np.array(3, real),
    "empty": lambda real: np.zeros((0, 4), real),
    "interleaved": lambda real: np.lib.stride_tricks.as_strided(
        np.arange(12, dtype=real), (2, 3), (np.dtype(real).itemsize, 4 * np.dtype(real).itemsize)
    ),
}


@pytest.mark.parametrize("real", [np.float32, np.float64])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_any_strides(layout, real, backend):
    w = LAYOUTS[layout](real)
    plain = np.array(w, order="C")
    views, plains = IRpropPlus(w, lr=0.5, backend=backend), IRpropPlus(plain, lr=0.5, backend="numpy")
    rng = np.random.default_rng(1)
    for loss in (3.0, 2.0, 4.0, math.nan, 3.0):
        g = np.asarray(rng.normal(size=w.shape), real)
        views.step(np.broadcast_to(g, (2, *w.shape))[1], loss)  # read-only
        plains.step(g, loss)
        same(w, plain.ravel())


@pytest.mark.parametrize("real", [np.float32, np.float64])
@pytest.mark.parametrize("rule", RULES)
def test_a_number_steps_as_an_array_of_one(rule, real, backend):
    number, array = np.array(0.3, real), np.array([0.3], real)
    pair = [METHODS[rule](w, lr=0.1, backend=backend) for w in (number, array)]
    for g, loss in zip((1.0, 1.0, -1.0, 1.0, 0.0, 1.0, 1.0), (3.0, 2.0, 4.0, math.nan, 3.0, 2.0, 1.0), strict=True):
        for optimizer in pair:
            optimizer.step(np.full(optimizer.params[0].shape, g, real), loss)
        same(number, array)
        for one, other in zip(*(optimizer.signs_and_steps() for optimizer in pair), strict=True):
            assert one.dtype == other.dtype == real
            same(one, other)
    pair[0].load_state_dict(pair[0].state_dict())


def test_memory_may_be_unaligned(backend):
    w = np.zeros(33, np.uint8)[1:].view(float)
    RpropMinus(w, lr=0.5, backend=backend).step(np.ones(33, np.uint8)[1:].view(float))
    assert w.tolist() == [-0.5] * 4


def test_gradients_may_have_strides_of_their_own(backend):
    w, plain = np.zeros((3, 4)), np.zeros((3, 4))
    strange, straight = RpropPlus(w, backend=backend), RpropPlus(plain, backend="numpy")
    for g in (np.arange(12.0).reshape(4, 3).T - 5, np.broadcast_to(1.0, (3, 4)), np.ones((3, 4))[::-1] * -1):
        strange.step(g)
        straight.step(np.ascontiguousarray(g))
        same(w, plain.ravel())


def test_memory_between_the_elements_does_not_change(backend):
    memory = np.arange(24.0)
    optimizer = RpropMinus(memory.reshape(4, 6)[1:3, 1:5:2], lr=0.5, backend=backend)
    optimizer.step(np.ones((2, 2)))
    moved = np.flatnonzero(memory != np.arange(24.0))
    assert moved.tolist() == [7, 9, 13, 15]


def test_lists_mix_shapes_and_dtypes(backend):
    arrays = [np.zeros(3, np.float32), np.zeros((2, 2)), np.array(0.0)]
    optimizer = IRpropMinus(dict(enumerate(arrays)).values(), lr=0.25, backend=backend)
    assert optimizer.params[1] is arrays[1]
    optimizer.step([np.ones(3, np.float32), -np.ones((2, 2)), np.float64(1)])
    assert [a.ravel().tolist() for a in arrays] == [[-0.25] * 3, [0.25] * 4, [-0.25]]


def test_a_memory_map_is_updated_in_its_file(tmp_path, backend):
    w = np.memmap(tmp_path / "weights", np.float32, "w+", shape=(4,))
    RpropMinus(w, lr=0.5, backend=backend).step(np.ones(4, np.float32))
    w.flush()
    assert np.fromfile(tmp_path / "weights", np.float32).tolist() == [-0.5] * 4


@pytest.mark.parametrize(
    "options", [{}, {"bounds": (-1.0, 1.0)}, {"frozen": np.arange(40_000) % 3 == 0}], ids=["plain", "bounds", "frozen"]
)
@pytest.mark.parametrize("rule", RULES)
def test_nothing_is_allocated_after_the_first_step(rule, options, backend):
    if backend == "numpy":
        pytest.skip("the NumPy engine uses temporary arrays")
    w, g = np.zeros(40_000), np.ones(40_000)
    optimizer = METHODS[rule](w, backend=backend, **options)
    for loss in (1.0, 2.0, math.nan, 1.0):  # Numba compiles a rule at first use
        optimizer.step(g, loss)
    tracemalloc.start()
    try:
        for loss in (2.0, 1.0, math.nan):
            g *= -1
            optimizer.step(g, loss)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 20_000  # one boolean mask would be 40,000 bytes, one array 320,000


# ---------------------------------------------------------------------------------------------- bounds, masks


def test_at_a_bound_a_weight_stops_and_forgets_its_sign(backend):
    w = np.array([0.0, 0.0])
    optimizer = RpropPlus(w, lr=1.0, etas=(0.5, 2.0), bounds=(-2.0, [2.0, 9.0]), backend=backend)
    optimizer.step(np.array([-1.0, -1.0]))
    optimizer.step(np.array([-1.0, -1.0]))
    assert w.tolist() == [2.0, 3.0]  # the first would have reached 3
    q, step = optimizer.signs_and_steps()
    assert (q.tolist(), step.tolist()) == ([0, -1], [2.0, 2.0])
    optimizer.step(np.array([1.0, 1.0]))  # a flip: only the second has a move to take back
    assert w.tolist() == [0.0, 1.0]


def test_a_weight_cannot_jump_from_bound_to_bound_forever(backend):
    w = np.array([0.9])
    optimizer = IRpropMinus(w, lr=5.0, bounds=(-1.0, 1.0), backend=backend)
    for _ in range(200):
        optimizer.step(np.sign(w - 0.25))
    assert abs(w[0] - 0.25) < 2e-6  # D_min is 1e-6


def test_bounds_have_the_dtype_of_the_weights_and_may_differ_between_arrays(backend):
    first, second, third = np.zeros(2, np.float32), np.zeros(2), np.zeros(2)
    optimizer = RpropMinus(
        [first, second, third],
        lr=1.0,
        backend=backend,
        bounds=([None, np.array([-0.5, -3.0]), None], [0.1, None, None]),
    )
    optimizer.step([np.full(2, -1, np.float32), np.full(2, 1.0), np.full(2, 1.0)])
    assert (first == np.float32(0.1)).all()
    assert (second.tolist(), third.tolist()) == ([-0.5, -1.0], [-1.0, -1.0])


def test_one_number_bounds_every_array(backend):
    arrays = [np.zeros(2, np.float32), np.array(0.0)]
    optimizer = RpropMinus(arrays, lr=1.0, bounds=(-0.5, None), backend=backend)
    optimizer.step([np.ones(2, np.float32), np.array(1.0)])
    assert [a.ravel().tolist() for a in arrays] == [[-0.5, -0.5], [-0.5]]


def test_frozen_weights_stay_and_do_not_affect_the_others(backend):
    w, free = np.zeros((2, 3)), np.zeros(2)
    mask = np.array([[True, False, True], [True, True, False]])
    some, others = IRpropPlus(w, frozen=mask, backend=backend), IRpropPlus(free, backend=backend)
    rng = np.random.default_rng(0)
    for loss in (1.0, 2.0, math.nan, 1.5, 1.0):
        g = rng.normal(size=(2, 3))
        kept = g.copy()
        some.step(g, loss)
        others.step(g[~mask], loss)
        same(g, kept)  # the caller's gradient is only read
    assert (w[mask] == 0).all()
    same(w[~mask], free)
    assert (some.signs_and_steps()[0][mask] == 0).all()


def test_frozen_weights_in_a_list_and_at_a_bound(backend):
    first, second = np.array([1.0, 1.0, 0.0]), np.zeros(2)
    optimizer = RpropMinus(
        [first, second], lr=0.5, bounds=([0.0, None], [1.0, None]), backend=backend, frozen=[[True, True, False], None]
    )
    first[:2] = -7.0, 7.0  # set by the user: a frozen weight is not clipped either
    optimizer.step([np.ones(3), np.ones(2)])
    assert (first.tolist(), second.tolist()) == ([-7.0, 7.0, 0.0], [-0.5, -0.5])


# ---------------------------------------------------------------------------------------------------- losses


def test_irprop_plus_requires_the_loss(backend):
    w = np.zeros(2)
    optimizer = IRpropPlus(w, backend=backend)
    with pytest.raises(ValueError, match=r"needs the loss: pass it as step\(grads, loss\)"):
        optimizer.step(np.array([0.0, 1.0]))
    assert w.tolist() == [0.0, 0.0]
    optimizer.step(np.zeros(2))  # zero gradients need none
    assert w.tolist() == [0.0, 0.0]


@pytest.mark.parametrize("loss", [3, np.float32(3), np.array(3.0), np.array([3.0]), [3.0]])
def test_kinds_of_one_loss(loss):
    w, plain = np.zeros(2), np.zeros(2)
    one, other = IRpropPlus(w), IRpropPlus(plain)
    for g, scale in ((1.0, 1), (-1.0, 2), (1.0, 1)):
        one.step(np.full(2, g), np.asarray(loss) * scale)
        other.step(np.full(2, g), 3.0 * scale)
        same(w, plain)


@pytest.mark.parametrize(
    "loss, error",
    [
        ("3", TypeError),
        (1j, TypeError),
        (None, ValueError),
        (object(), TypeError),
        (np.ones((2, 2)), ValueError),
        (np.ones(3), ValueError),
    ],
)
def test_invalid_losses_change_nothing(loss, error):
    w = np.zeros(2)
    with pytest.raises(error, match="loss"):
        IRpropPlus(w).step(np.ones(2), loss)
    assert w.tolist() == [0.0, 0.0]


@pytest.mark.parametrize("maximize", [False, True])
def test_rows_are_independent_searches(maximize, backend):
    rng = np.random.default_rng(3)
    together = rng.normal(size=(4, 5, 2))
    bias = rng.normal(size=4)
    split, bias_split = together.copy(), bias.copy()
    rows = IRpropPlus([together, bias], lr=0.1, maximize=maximize, batched=True, backend=backend)
    single = [
        IRpropPlus([split[i], bias_split[i : i + 1]], lr=0.1, maximize=maximize, backend=backend) for i in range(4)
    ]
    for step in range(30):
        g, h = rng.normal(size=together.shape), rng.normal(size=4)
        losses = rng.normal(size=4)
        if step:
            losses[rng.random(4) < 0.2] = math.nan
        rows.step([g, h], losses)
        for i, optimizer in enumerate(single):
            optimizer.step([g[i], h[i : i + 1]], losses[i])
        same(together, split.ravel())
        same(bias, bias_split)


def test_a_nonfinite_loss_takes_every_move_back_and_keeps_the_last_finite_one(backend):
    w = np.array([1.0, 1.0, 1.0])
    optimizer = IRpropPlus(w, lr=0.5, etas=(0.5, 2.0), backend=backend)
    optimizer.step(np.array([1.0, -1.0, 0.0]), 3.0)
    assert w.tolist() == [0.5, 1.5, 1.0]
    optimizer.step(np.array([1.0, math.nan, 5.0]), math.inf)
    assert w.tolist() == [1.0, 1.0, 1.0]
    q, step = optimizer.signs_and_steps()
    assert (q.tolist(), step.tolist()) == ([0, 0, 0], [0.25, 0.25, 0.5])
    assert optimizer.state_dict()["loss"] == 3.0


def test_a_nonfinite_first_loss_warns_once_and_follows_the_table(backend):
    w = np.zeros(2)
    optimizer = IRpropPlus(w, lr=0.5, backend=backend)
    with pytest.warns(RuntimeWarning, match="first loss is nan") as caught:
        optimizer.step(np.array([1.0, -1.0]), math.nan)
    assert w.tolist() == [-0.5, 0.5]
    assert caught[0].filename == __file__
    optimizer.step(np.array([1.0, -1.0]), math.inf)  # a warning would be an error here
    assert optimizer.state_dict()["loss"] is None


# ------------------------------------------------------------------------------------------ hyper-parameters


def test_hyperparameters_are_checked_when_set(backend):
    w = np.zeros(1)
    optimizer = RpropMinus(w, lr=1.0, backend=backend)
    for name, value in (("etas", (1.5, 2.0)), ("etas", 3), ("step_sizes", (2, 1)), ("step_sizes", (0, 1e30))):
        before = getattr(optimizer, name)
        with pytest.raises(ValueError, match=name):
            setattr(optimizer, name, value)
        assert getattr(optimizer, name) == before
    optimizer.etas, optimizer.step_sizes = [0.25, 4], (1e-6, 3)
    for expected in (-1.0, -4.0, -7.0):  # D is 1, then 4, cut to 3
        optimizer.step(np.ones(1))
        assert w[0] == expected
    optimizer.maximize = True
    optimizer.step(np.ones(1))
    assert w[0] == -7 + 0.75


def test_setting_lr_changes_nothing_and_warns_once():
    w = np.zeros(1)
    optimizer = RpropMinus(w, lr=1.0)
    with pytest.warns(UserWarning, match="lr is the first step size") as caught:
        optimizer.lr = 0.5
    assert caught[0].filename == __file__
    optimizer.lr = 0.25  # only once
    optimizer.step(np.ones(1))
    assert w[0] == -1.0


@pytest.mark.parametrize("lr", [0.0, -1.0, 100.0, 1e-9, math.nan, "x"])
def test_lr_must_lie_within_the_step_sizes(lr):
    with pytest.raises(ValueError, match="lr"):
        RpropMinus(np.zeros(1), lr=lr)


def test_steps_never_die(backend):
    w = np.zeros(1, np.float32)
    optimizer = RpropMinus(w, lr=1e-10, step_sizes=(0, 10), backend=backend)
    for _ in range(200):
        optimizer.step(np.array([1.0 if w[0] >= 0 else -1.0], np.float32))
    assert optimizer.signs_and_steps()[1][0] >= 2.0**-63


def test_the_backend_is_chosen_and_shown(monkeypatch):
    assert RpropMinus(np.zeros(1), backend="numpy").backend == "numpy"
    assert "backend='numpy'" in repr(RpropMinus(np.zeros(1), backend="numpy"))
    monkeypatch.setenv("RPROP_KERNELS_BACKEND", "numpy")
    assert RpropMinus(np.zeros(1)).backend == "numpy"
    with pytest.raises(ValueError, match=r"backend='torch' cannot be used here"):
        RpropMinus(np.zeros(1), backend="torch")


def test_copies_and_pickles_are_independent(backend):
    w = np.zeros((2, 3))
    optimizer = IRpropPlus(w, bounds=(-1, 1), frozen=np.eye(2, 3, dtype=bool), backend=backend)
    optimizer.step(np.ones((2, 3)), 1.0)
    clones = [copy.deepcopy(optimizer), pickle.loads(pickle.dumps(optimizer))]
    optimizer.step(np.full((2, 3), -1.0), 2.0)
    for clone in clones:
        assert not np.shares_memory(clone.params[0], w)
        clone.step(np.full((2, 3), -1.0), 2.0)
        same(clone.params[0], w.ravel())


# ----------------------------------------------------------------------------------------------- ask and tell


def bowl(x):
    return np.sum((x - [1.0, -2.0]) ** 2, axis=-1), 2 * (x - [1.0, -2.0])


@pytest.mark.parametrize("rule", RULES)
def test_ask_and_tell_equal_step(rule, backend):
    start, w = [5, 5], np.array([5.0, 5.0])
    search = AskTell(start, rule, lr=0.1, backend=backend)
    optimizer = METHODS[rule](w, lr=0.1, backend=backend)
    best = (math.inf, None)
    for _ in range(80):
        loss, g = bowl(w)
        if loss < best[0]:
            best = (loss, w.copy())
        optimizer.step(g, loss)
        x = search.ask()
        search.tell(*bowl(x))
        x[:] = 99.0  # the copy belongs to the caller
        same(search.ask(), w)
    assert search.best_loss == best[0]
    same(search.best_x, best[1])
    assert start == [5, 5]


def test_tell_requires_ask():
    search = AskTell([0.0])
    with pytest.raises(RuntimeError, match="ask for the point"):
        search.tell(1.0, [1.0])
    search.ask()
    search.tell(1.0, [1.0])
    with pytest.raises(RuntimeError, match="ask for the point"):
        search.tell(1.0, [1.0])


def test_invalid_results_change_nothing():
    search = AskTell(np.zeros(2))
    search.tell(*bowl(search.ask()))
    x, best = search.ask(), search.best_loss
    for loss, grad, error in (
        ("low", [0, 0], TypeError),
        (-1.0, [0.0], ValueError),
        (-1.0, ["a", "b"], TypeError),
        ([1.0, 1.0], [1.0, 1.0], ValueError),
    ):
        with pytest.raises(error):
            search.tell(loss, grad)
        same(search.ask(), x)
        assert search.best_loss == best
    with pytest.raises(ValueError, match="x0 starts outside its bounds"):
        AskTell([3.0], bounds=(0, 1))
    with pytest.raises(ValueError, match=r"no method 'sgd': choose one of rprop-, rprop\+"):
        AskTell([3.0], "sgd")
    with pytest.raises(TypeError, match="x0"):
        AskTell(["a"])


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("shape", [(), (3,)], ids=["one", "rows"])
def test_with_every_rule_a_nonfinite_loss_takes_the_last_moves_back(rule, shape, backend):
    """A wall of NaN at x > 1, next to a minimum at 0.9: the search continues to the left of it."""

    def walled(x):
        loss = np.where((x > 1).any(axis=-1), math.nan, ((x - 0.9) ** 2).sum(axis=-1))
        return loss, np.where(x > 1, math.nan, 2 * (x - 0.9))

    start = np.broadcast_to([-3.0, 0.5], (*shape, 2)).copy()
    if shape:
        start += [[0.0], [0.05], [-1.0]]
    search = AskTell(start, rule, lr=0.1, batched=bool(shape), backend=backend)
    assert np.shape(search.best_loss) == np.shape(search.improved) == shape
    seen_wall = False
    for _ in range(300):
        x = search.ask()
        loss, grad = walled(x)
        seen_wall |= bool(np.isnan(loss).any())
        search.tell(loss, grad)
    assert seen_wall
    assert np.shape(search.best_loss) == shape
    assert np.max(np.abs(search.best_x - 0.9)) < 1e-5


@pytest.mark.parametrize("rule", RULES)
def test_a_row_with_a_nonfinite_loss_returns_to_the_previous_point_for_any_gradient(rule, backend):
    search = AskTell([[1.0, 2.0], [3.0, 4.0]], rule, lr=0.25, batched=True, backend=backend)
    first = search.ask()
    search.tell([1.0, 1.0], np.ones((2, 2)))
    second = search.ask()
    search.tell([math.inf, 0.5], np.ones((2, 2)))
    assert search.ask().tolist() == [first[0].tolist(), (second[1] - 0.3).tolist()]
    q, step = search.optimizer.signs_and_steps()
    assert (q.tolist(), step.tolist()) == ([[0, 0], [1, 1]], [[0.125, 0.125], [0.3, 0.3]])


def test_each_row_has_a_best_point_and_maximize_reverses_the_order():
    search = AskTell(np.zeros((2, 1)), maximize=True, batched=True)
    search.ask()
    search.tell([1.0, 5.0], np.ones((2, 1)))
    first = search.best_x.copy()
    x = search.ask()
    search.tell([2.0, 4.0], np.ones((2, 1)))
    assert search.best_loss.tolist() == [2.0, 5.0]
    assert search.improved.tolist() == [True, False]
    assert search.best_x.tolist() == [x[0].tolist(), first[1].tolist()]


def test_float32_is_kept_and_the_start_is_copied():
    start = np.zeros(2, np.float32)
    search = AskTell(start)
    search.ask()
    search.tell(1.0, np.array([1e-60, 1e60]))
    assert search.ask().dtype == np.float32 and (start == 0).all()
    assert AskTell(np.zeros(2, ">f8")).ask().dtype.isnative


def test_warnings_of_numpy_do_not_leak(backend):
    w = np.array([1.0, np.inf, np.nan, 3e38], np.float32)
    optimizer = IRpropPlus(w, lr=1.0, bounds=(-np.inf, np.inf), backend=backend)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for loss in (1.0, 2.0, math.nan):
            optimizer.step(np.array([np.nan, np.inf, -np.inf, 1e-45], np.float32), loss)


# ---------------------------------------------------------------------------------------------------- warnings


def subclass_of(cls):
    class Sub(cls):
        def step(self, *args, **options):
            return super().step(*args, **options)

    return Sub


@pytest.mark.parametrize("derived", [False, True], ids=["class", "subclass"])
def test_every_warning_points_at_the_users_line(derived, backend):
    """A subclass outside of the package is user code: its line is the innermost one."""
    cls = subclass_of(IRpropPlus) if derived else IRpropPlus
    optimizer, w = cls(np.zeros(2), backend=backend), np.zeros((2, 2))
    search, rows = AskTell(np.zeros(2), backend=backend), AskTell(w, batched=True, backend=backend)
    calls = [
        lambda: optimizer.step(np.ones(2), math.nan),
        lambda: setattr(optimizer, "lr", 0.5),
        lambda: search.tell(math.nan, search.ask()),
        lambda: rows.tell([1.0, math.nan], rows.ask()),
        lambda: cls(w, batched=True, backend=backend).step([np.ones((2, 2))], [math.inf, 1.0]),
    ]
    for call in calls:
        with pytest.warns(match="first loss is|lr is the first step size") as caught:
            call()
        (warning,) = caught
        assert warning.filename == __file__
        lines = {call.__code__.co_firstlineno, subclass_of.__code__.co_firstlineno + 3}
        assert warning.lineno in lines


def test_the_warning_of_a_slower_backend_points_at_the_users_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "rprop_kernels.kernels._native", None)
    monkeypatch.delenv("RPROP_KERNELS_BACKEND", raising=False)
    with pytest.warns(RuntimeWarning, match="falls back to its slower backend") as caught:
        RpropMinus(np.zeros(2))
        AskTell(np.zeros(2))
    assert [warning.filename for warning in caught] == [__file__] * 2
