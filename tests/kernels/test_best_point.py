"""A step copies the weights that it leaves, where they are the best so far."""

import numpy as np
import pytest
from backends import compiled

from rprop_kernels.backends import unavailable_reason
from rprop_kernels.hyperparameters import Hyperparameters
from rprop_kernels.kernels import load_engine, numpy_
from rprop_kernels.state import encoding_of

HYPER = Hyperparameters(0.5, 1.2, 1e-6, 50.0)


def layout(array, kind):
    if kind == "rows":
        return array.copy()
    if kind == "columns":
        return np.asfortranarray(array)
    wide = np.zeros((array.shape[0], 2 * array.shape[1]), array.dtype)
    wide[:, ::2] = array
    return wide[:, ::2]


def stepper(engine):
    if engine == "numpy":
        return numpy_.step
    module = load_engine(engine.partition(" ")[0])
    return module.ArrayStepper() if engine.endswith(("in Python", "cython")) else module.make_stepper()


numba = pytest.mark.skipif(unavailable_reason("numba") is not None, reason="Numba is missing")
ENGINES = [
    pytest.param("cython", marks=compiled),
    pytest.param("numba", marks=numba),
    pytest.param("numba in Python", marks=numba),
    "numpy",
]


@pytest.mark.parametrize("rule", ["irprop+", "rprop-", "torch"])
@pytest.mark.parametrize("bounded", [False, True])
@pytest.mark.parametrize("per_row", [False, True])
@pytest.mark.parametrize("kinds", [("rows", "rows"), ("columns", "columns"), ("strided", "rows"), ("rows", "strided")])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("engine", ENGINES)
def test_the_copy_and_the_step(engine, dtype, kinds, per_row, bounded, rule):
    """The step is the one without a copy; the copy holds the weights before it, of the rows that improved."""
    if per_row and kinds != ("rows", "rows"):
        pytest.skip("the rows of a loss are no neighbours in memory")
    if rule == "torch" and (per_row or bounded):
        pytest.skip("torch's rule has neither")
    rng = np.random.default_rng(0)
    shapes = [(7, 300), (7, 3)]
    step = stepper(engine)
    params = [layout(rng.standard_normal(s).astype(dtype), kinds[0]) for s in shapes]
    bests = [layout(np.zeros(s, dtype), kinds[1]) for s in shapes]
    states = [(np.full_like(p, 0.01 * encoding_of(p.dtype).shift),) for p in params]
    if rule == "torch":
        states = [(np.zeros_like(p), np.full_like(p, 0.01)) for p in params]
    constraints = [(np.array(-0.5, dtype), np.array(0.5, dtype), rng.random(s) < 0.2) for s in shapes]
    options = {"constraints": constraints if bounded else None}
    expected = [p.copy() for p in params]
    expected_states = [tuple(map(np.copy, state)) for state in states]
    expected_bests = [b.copy() for b in bests]
    for _ in range(6):
        grads = [rng.standard_normal(s).astype(dtype) for s in shapes]
        n = 7 if per_row else 1
        improved = rng.random(n) < 0.5
        outcome = rng.integers(0, 3, n).astype(np.uint8) if per_row and rule == "irprop+" else 0
        for best, p in zip(expected_bests, expected, strict=True):
            best[...] = np.where(improved[:, None], p, best)
        numpy_.step(rule, expected, grads, expected_states, HYPER, outcome=outcome, **options)
        arguments = {"outcome": outcome, "bests": bests, "improved": improved.tobytes(), "n_threads": 2, **options}
        assert step(rule, params, grads, states, HYPER, **arguments)
        columns = (params, expected), (bests, expected_bests)
        for ours, theirs in (*columns, (sum(states, ()), sum(expected_states, ()))):
            np.testing.assert_array_equal(
                [x.tobytes() for x in map(np.array, ours)], [np.array(x).tobytes() for x in theirs]
            )


@pytest.mark.parametrize("engine", ENGINES[:3])
def test_what_does_not_fit_is_refused_untouched(engine):
    p, best, state = np.ones((3, 4)), np.zeros((3, 4)), np.full((3, 4), 1e200)
    step = stepper(engine)
    read_only = np.zeros((3, 4))
    read_only.flags.writeable = False
    for bests, improved, outcome in [
        ([best[:2]], b"\1", 0),
        ([best.astype(np.float32)], b"\1", 0),
        ([np.zeros(())], b"\1", 0),
        ([p], b"\1", 0),
        ([read_only], b"\1", 0),
        ([best, best], b"\1", 0),
        ([best], b"\1\1", 0),
        ([best], b"\1\1", np.zeros(3, np.uint8)),
    ]:
        options = {"bests": bests, "improved": improved, "outcome": outcome}
        assert not step("irprop+", [p], [np.ones_like(p)], [(state,)], HYPER, **options)
        assert (p == 1).all() and not best.any() and (state == 1e200).all()


@compiled
@pytest.mark.parametrize("offset", [0, 1, 3])
def test_many_weights_are_streamed(offset):
    """A large copy is written past the cache; its ends need not be aligned."""
    n = (1 << 17) + 5
    rng = np.random.default_rng(1)
    p, best, state = (rng.standard_normal(n + 8).astype(np.float32)[offset : offset + n] for _ in range(3))
    state[...] = 0.01
    before, around = p.copy(), best.base.copy()
    options = {"bests": [best], "improved": b"\1", "n_threads": 2}
    assert stepper("cython")("rprop-", [p], [np.ones_like(p)], [(state,)], HYPER, **options)
    around[offset : offset + n] = before
    assert best.base.tobytes() == around.tobytes() and (p < before).all()
