"""Bounds, frozen weights and an lr for each weight in NumPy: bits, layouts, rows, copies and saved state."""

import copy
import math
import pickle
import warnings

import numpy as np
import pytest
from oracle import RULES, Oracle
from special_values import assert_same_bits, gradients

from rprop_kernels.backends import unavailable_reason
from rprop_kernels.numpy import METHODS, AskTell, IRpropPlus, RpropMinus


@pytest.fixture(params=["cython", "numba", "numpy"])
def backend(request):
    if unavailable_reason(request.param) is not None:
        pytest.skip(f"{request.param} is missing")
    return request.param


LAYOUTS = {
    "contiguous": lambda x: x.copy(),
    "fortran": np.asfortranarray,
    "every second": lambda x: np.repeat(x, 2, axis=1)[:, ::2],
    "backwards": lambda x: np.ascontiguousarray(x[::-1, ::-1])[::-1, ::-1],
    "transposed": lambda x: np.ascontiguousarray(x.T).T,
}
KINDS = {
    "numbers": lambda w, noise: {"bounds": (-0.75, 0.75)},
    "one side": lambda w, noise: {"bounds": (None, w + noise[0])},
    "a number and an array": lambda w, noise: {"bounds": (-0.75, np.maximum(w + noise[0], 0))},
    "frozen": lambda w, noise: {"frozen": noise[1] < 0.3},
    "all": lambda w, noise: {"bounds": (w - noise[0], 0.75), "frozen": noise[1] < 0.3, "lr": noise[2] + 0.01},
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("real", [np.float32, np.float64])
@pytest.mark.parametrize("rule", RULES)
def test_against_the_oracle(rule, real, kind, layout, backend):
    rng = np.random.default_rng(5)
    w = LAYOUTS[layout](rng.uniform(-0.5, 0.5, (6, 9)).astype(real))
    options = {"lr": 0.25} | KINDS[kind](w, rng.random((3, 6, 9)).astype(real))
    lower, upper = options.get("bounds", (None, None))
    plain = {
        "lower": lower,
        "upper": upper,
        "frozen": options.get("frozen", False),
        "lr": options["lr"],
    }
    plain = {name: np.ravel(x) if isinstance(x, np.ndarray) else x for name, x in plain.items()}
    hyper = {"step_sizes": (1e-3, 2.0), "maximize": kind == "one side"}
    oracle = Oracle(rule, np.ravel(w), real.__name__, **hyper, **plain)
    optimizer = METHODS[rule](w, **hyper, **options, backend=backend)
    met = 0
    for i, g in enumerate(gradients(rng, (6, 9), real, 30)):
        loss = float(rng.choice([1.0, 2.0, 3.0] * 6 + [math.nan, math.inf])) if i else 2.0
        optimizer.step(g, loss)
        oracle.step(list(np.ravel(g)), loss)
        q, steps = optimizer.signs_and_steps()
        assert_same_bits(np.ravel(w), np.array([x.w for x in oracle.weights], real), f"w, step {i}")
        assert_same_bits(np.ravel(steps), np.array([x.D for x in oracle.weights], real), f"D, step {i}")
        assert np.ravel(q).tolist() == [x.q for x in oracle.weights]
        met += sum(x.w in oracle.limits(x) for x in oracle.weights)
    assert (met > 30) == (kind != "frozen")


@pytest.mark.parametrize("rule", RULES)
def test_rows_with_losses_of_their_own(rule, backend):
    """A batch of rows equals a problem for each row."""
    rng = np.random.default_rng(2)
    start = rng.uniform(-0.5, 0.5, (4, 3))
    low, mask, lr = start - rng.random((4, 3)), rng.random((4, 3)) < 0.3, rng.random((4, 3)) + 0.1
    w, rows = start.copy(), [row.copy() for row in start]
    options = {"bounds": (low, 0.75), "frozen": mask, "lr": lr}
    batch = METHODS[rule](w, **options, batched=True, backend=backend)
    alone = [
        METHODS[rule](row, bounds=(low[i], 0.75), frozen=mask[i], lr=lr[i], backend=backend)
        for i, row in enumerate(rows)
    ]
    for i in range(20):
        g, losses = rng.normal(size=(4, 3)), rng.choice([1.0, 2.0, math.nan] if i else [1.0], 4)
        batch.step(g, losses)
        for optimizer, row, loss in zip(alone, g, losses, strict=True):
            optimizer.step(row, loss)
        assert_same_bits(w, np.stack(rows))


def test_lists_for_several_arrays(backend):
    arrays = [np.zeros(2, np.float32), np.zeros((2, 2)), np.array(0.0)]
    optimizer = RpropMinus(
        arrays,
        lr=[np.array([0.5, 0.25]), 1.0, np.float32(2)],
        bounds=([None, np.array([-0.5, -3.0]), -1.5], [0.1, None, None]),
        frozen=[None, np.array([[False], [True]]), False],
        backend=backend,
    )
    optimizer.step([np.ones(2, np.float32), np.ones((2, 2)), np.array(1.0)])
    assert [x.tolist() for x in arrays] == [[-0.5, -0.25], [[-0.5, -1.0], [0.0, 0.0]], -1.5]
    assert [type(x) for x in optimizer.lr] == [np.ndarray, float, float]


def test_a_weight_found_outside_later_is_stopped(backend):
    w = np.zeros(3)
    optimizer = RpropMinus(w, bounds=(-1.0, 1.0), frozen=[False, False, True], backend=backend)
    w[:] = -7.0, 7.0, 7.0
    optimizer.step(np.zeros(3))
    assert w.tolist() == [-1.0, 1.0, 7.0]


def make(rule="irprop+", **options):
    """Two arrays with every kind of option."""
    rng = np.random.default_rng(0)
    arrays = [rng.uniform(-0.5, 0.5, 5).astype(np.float32), np.asfortranarray(rng.uniform(-0.5, 0.5, (2, 3)))]
    return METHODS[rule](
        arrays,
        **{
            "lr": [0.5, np.array([[0.1], [0.2]])],
            "bounds": ([None, np.array([-0.75, -0.7, -0.8])], [0.6, None]),
            "frozen": [np.arange(5) == 2, None],
            **options,
        },
    )


PLAIN = {"lr": 0.01, "bounds": None, "frozen": None}


def walk(optimizer, seed, steps=8):
    rng = np.random.default_rng(seed)
    for _ in range(steps):
        g = [np.asarray(rng.normal(size=w.shape), w.dtype) for w in optimizer.params]
        optimizer.step(g, rng.normal())


def contents(optimizer):
    return repr(optimizer.state_dict()), [w.tolist() for w in optimizer.params]


@pytest.mark.parametrize("by", ["dict", "file", "deepcopy", "pickle"])
@pytest.mark.parametrize("rule", RULES)
def test_a_run_with_options_continues_to_the_bit(rule, by, backend, tmp_path):
    first = make(rule, backend=backend)
    walk(first, 0)
    if by in ("deepcopy", "pickle"):
        second = copy.deepcopy(first) if by == "deepcopy" else pickle.loads(pickle.dumps(first))
    else:
        second = METHODS[rule]([w.copy() for w in first.params], backend=backend)
        if by == "file":
            first.save(tmp_path / "state.npz")
            second.load(tmp_path / "state.npz")
        else:
            second.load_state_dict(first.state_dict())
    assert contents(second) == contents(first)
    for optimizer in (first, second):
        walk(optimizer, 1)
    assert contents(second) == contents(first)
    assert first.params[0][2] == make().params[0][2] and second.params[0].max() <= np.float32(0.6)


def test_the_form_of_a_state_dict():
    state = make().state_dict()
    assert state["version"] == 2 and state["lr"][0] == 0.5 and state["lr"][1].shape == (2, 3)
    (none, low), (high, nothing) = state["bounds"]
    assert none is nothing is state["frozen"][1] is None
    assert type(high) is float and high == np.float32(0.6) and low.tolist() == [[-0.75, -0.7, -0.8]] * 2
    assert type(low) is np.ndarray and state["frozen"][0].tolist() == [False, False, True, False, False]
    low[:], state["frozen"][0][:], state["lr"][1][:] = 9.0, True, 9.0
    assert repr(make().state_dict()["bounds"]) != repr(state["bounds"])
    optimizer = make()
    optimizer.state_dict()["bounds"][0][1][:] = 9.0
    optimizer.state_dict()["lr"][1][:] = 9.0
    assert contents(optimizer) == contents(make())
    plain = RpropMinus(np.zeros(2)).state_dict()
    assert (plain["lr"], plain["bounds"], plain["frozen"]) == (0.01, None, None)


@pytest.mark.parametrize("by_file", [False, True], ids=["dict", "file"])
def test_an_option_that_a_state_lacks_keeps_the_optimizers_own(by_file, tmp_path):
    """Version 1 has neither bounds nor frozen; a state of version 2 with None has none."""
    source = make(**PLAIN)
    walk(source, 0)
    for version in (1, 2):
        state = source.state_dict()
        if version == 1:
            state["version"] = 1
            del state["bounds"], state["frozen"]
        optimizer = make()
        if by_file:
            arrays = {f"move{i}": move for i, move in enumerate(state["moves"])}
            arrays |= {key: x for key, x in state.items() if x is not None and key != "moves"}
            np.savez(tmp_path / "state.npz", **arrays)
            optimizer.load(tmp_path / "state.npz")
        else:
            optimizer.load_state_dict(state)
        kept = optimizer.state_dict()
        assert kept["lr"] == 0.01
        if version == 1:
            assert repr([kept["bounds"], kept["frozen"]]) == repr(
                [make().state_dict()[x] for x in ("bounds", "frozen")]
            )
            assert optimizer.signs_and_steps()[0][2] == 0  # frozen
        else:
            assert kept["bounds"] is kept["frozen"] is None
    state = make().state_dict()
    del state["frozen"]
    optimizer = make(frozen=[None, True], bounds=None)
    optimizer.load_state_dict(state)
    assert optimizer.state_dict()["frozen"][1].all() and optimizer.state_dict()["bounds"] is not None


DAMAGE = {
    "crossed": (lambda s: s.update(bounds=(1.0, 0.0)), ValueError, r"bounds of params\[0\] cross"),
    "a list": (lambda s: s.update(bounds=[0.0, 1.0]), TypeError, r"bounds must be a tuple"),
    "shape": (
        lambda s: s.update(bounds=([np.zeros(9), None], None)),
        ValueError,
        r"lower bound of params\[0\] has shape",
    ),
    "count": (lambda s: s.update(frozen=[None]), ValueError, "frozen has 1 items for 2 parameters"),
    "masks": (lambda s: s.update(frozen=[np.zeros(5), None]), TypeError, r"frozen\[0\] is float64: pass booleans"),
    "lr count": (lambda s: s.update(lr=[0.1]), ValueError, "lr has 1 items for 2 parameters"),
    "lr": (lambda s: s["lr"][1].fill(-1.0), ValueError, r"Invalid learning rate: lr\[1\] is -1.0"),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_a_damaged_state_changes_nothing(case):
    damage, error, text = DAMAGE[case]
    other, optimizer = make(lr=[0.25, np.full((2, 3), 0.3)]), make()
    walk(other, 0)
    walk(optimizer, 1)
    state, before = other.state_dict(), contents(optimizer)
    damage(state)
    with pytest.raises(error, match=text):
        optimizer.load_state_dict(state)
    assert contents(optimizer) == before


@pytest.mark.parametrize("name", ["lower0", "upper2", "frozen7", "lr3", "move2"])
def test_a_file_for_other_parameters_is_refused(name, tmp_path):
    optimizer = make()
    optimizer.save(tmp_path / "state.npz")
    with np.load(tmp_path / "state.npz") as file:
        entries = dict(file)
    np.savez(tmp_path / "state.npz", **entries, **({} if name in entries else {name: np.zeros(7)}))
    with pytest.raises(ValueError, match=r"state\.npz: .*(items for 2|has shape \(7,\)|of 3 parameters)"):
        optimizer.load(tmp_path / "state.npz")


def test_lr_may_be_set_and_warns():
    optimizer = make()
    with pytest.warns(UserWarning, match="lr is the first step size"):
        optimizer.lr = [0.25, 0.5]
    assert optimizer.lr == [0.25, 0.5]
    with pytest.raises(ValueError, match=r"Invalid learning rate: lr\[0\]"):
        optimizer.lr = [np.zeros(5), 0.5]
    assert optimizer.lr == [0.25, 0.5]


@pytest.mark.parametrize("rule", RULES)
def test_ask_and_tell_with_options(rule):
    search = AskTell(
        [0.5, -0.5, 0.25], rule, lr=[0.1, 0.2, 0.3], bounds=([0.25, -1, -1], 1.0), frozen=[False, False, True]
    )
    for _ in range(100):
        x = search.ask()
        assert x[0] >= 0.25 and x[2] == 0.25
        search.tell(x @ x, 2 * x)
    assert abs(search.best_x - [0.25, 0.0, 0.25]).max() < 1e-4


def test_a_loss_that_is_not_finite_takes_back_moves_within_the_bounds(backend):
    w = np.array([0.0, 0.9, 0.5])
    optimizer = IRpropPlus(w, lr=0.25, bounds=(-1.0, 1.0), frozen=[False, False, True], backend=backend)
    optimizer.step(np.full(3, -1.0), 1.0)
    assert w.tolist() == [0.25, 1.0, 0.5]
    optimizer.step(np.full(3, -1.0), math.nan)
    assert w.tolist() == [0.0, 1.0, 0.5]  # the second has no sign at its bound
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        optimizer.step(np.full(3, 1.0), 0.5)
    assert w.tolist() == [-0.125, 0.75, 0.5]


@pytest.mark.parametrize(("real", "least"), [(np.float32, 2.0**-63), (np.float64, 2.0**-255)])
def test_a_tiny_lr_is_not_rounded_to_0(real, least):
    """As a number is not: the smallest step size that there is takes its place."""
    w = np.zeros(2, real)
    optimizer = RpropMinus(w, lr=np.array([1e-300, 0.25]), step_sizes=(0.0, 1.0))
    assert optimizer.signs_and_steps()[1].tolist() == [least, 0.25]
    optimizer.load_state_dict(optimizer.state_dict())
    with pytest.raises(ValueError, match="Invalid learning rate"):
        RpropMinus(w, lr=np.array([0.0, 0.25]), step_sizes=(0.0, 1.0))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int64"])
@pytest.mark.parametrize("make", [IRpropPlus, AskTell])
def test_options_may_be_tensors_of_any_dtype(make, dtype):
    torch = pytest.importorskip("torch")
    steps = torch.tensor([1, 2], dtype=getattr(torch, dtype))
    x = np.zeros(2)
    optimizer = make(x, lr=steps, bounds=(-steps, None), frozen=torch.tensor([False, True]))
    if make is IRpropPlus:
        optimizer.step(np.ones(2), loss=1.0)
    else:
        optimizer.ask()
        optimizer.tell(1.0, np.ones(2))
        x = optimizer.ask()
    assert x.tolist() == [-1.0, 0.0]
