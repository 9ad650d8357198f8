"""Numba's run of the step table against the NumPy engine: dtypes, layouts, outcomes and constraints, as bits."""

import numpy as np
import pytest
from special_values import assert_same_bits, gradients, layouts, special_values

from rprop_kernels import VARIANTS, state
from rprop_kernels.hyperparameters import Hyperparameters
from rprop_kernels.kernels import load_engine, numpy_

pytest.importorskip("numba")
FOUR = [name for name in VARIANTS if name != "torch"]
HYPERS = [Hyperparameters(0.5, 1.2, 1e-6, 50.0), Hyperparameters(0.9, 3.0, 0.0, 0.3)]
SHAPES = [(), (1,), (0, 3), (7, 5), (3, 4, 300), (1, 600)]
FORMS = ["none", "lower number", "upper", "both", "frozen", "all", "numbers and frozen"]


def constraints_of(rng, form, shape, dtype, layout):
    """Random (lower, upper, frozen) around the weights -1 .. 1, in a layout; None where there are none."""

    def full(value):
        array = layout(value.dtype)
        array[...] = value
        return array

    bound = rng.uniform(0, 1, shape).astype(dtype)
    lower, upper, frozen = full(-bound), full(bound + np.asarray(0.5, dtype)), full(rng.random(shape) < 0.4)
    number = np.array(0.5, dtype)
    return {
        "none": None,
        "lower number": (np.negative(number, out=number.copy()), None, None),
        "upper": (None, upper, None),
        "both": (lower, upper, None),
        "frozen": (None, None, frozen),
        "all": (lower, upper, frozen),
        "numbers and frozen": (np.negative(number, out=number.copy()), number, frozen),
    }[form]


def first_states(rng, shape, dtype):
    """States of random signs and sizes, as frozen weights have them after a change of the mask."""
    q = rng.integers(-1, 2, shape)
    return state.encode(q, (10.0 ** rng.uniform(-6, 0, shape)).astype(dtype))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("variant", FOUR)
def test_constraints_and_layouts(variant, form, dtype):
    rng = np.random.default_rng([FORMS.index(form), FOUR.index(variant)])
    stepper = load_engine("numba").ArrayStepper()
    for shape in SHAPES:
        made = list(layouts(shape).values())
        for _ in range(6 if len(shape) > 1 else 2):
            a, b, c, d = (made[i] for i in rng.integers(0, len(made) if shape else 1, 4))
            w, g, move = a(dtype), b(dtype), c(dtype)
            w[...] = rng.uniform(-1, 1, shape)
            move[...] = first_states(rng, shape, dtype)
            limits = constraints_of(rng, form, shape, dtype, d)
            hyper = HYPERS[rng.integers(2)]
            w2, move2 = np.array(w, order="C"), np.array(move, order="C")
            for t, new in enumerate(gradients(rng, shape, dtype, 4)):
                g[...] = new
                options = {"outcome": t % 3} if variant == "irprop+" else {}
                options |= {"maximize": t > 1, "constraints": None if limits is None else [limits]}
                assert stepper(variant, [w], [g], [(move,)], hyper, **options)
                numpy_.step(variant, [w2], [new], [(move2,)], hyper, **options)
                assert_same_bits(w, w2, f"{shape}, step {t}, w")
                assert_same_bits(move, move2, f"{shape}, step {t}, move")


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("form", FORMS)
def test_constraints_and_an_outcome_for_each_row(form, dtype):
    """Rows shorter and longer than the buffers, several arrays in one step."""
    rng = np.random.default_rng(FORMS.index(form))
    stepper = load_engine("numba").ArrayStepper()
    shapes = [(5,), (5, 3), (5, 2, 400), (5, 0)]
    made = [layouts(shape)["contiguous"] for shape in shapes]
    weights = [rng.uniform(-1, 1, shape).astype(dtype) for shape in shapes]
    states = [(first_states(rng, shape, dtype),) for shape in shapes]
    limits = [constraints_of(rng, form, *x) for x in zip(shapes, [dtype] * 4, made, strict=True)]
    limits[1] = None
    copies, copied_states = [w.copy() for w in weights], [(x.copy(),) for (x,) in states]
    for _ in range(6):
        grads = [next(gradients(rng, shape, dtype, 1)) for shape in shapes]
        options = {"outcome": rng.integers(0, 3, 5).astype(np.uint8), "constraints": limits}
        assert stepper("irprop+", weights, grads, states, HYPERS[0], **options)
        numpy_.step("irprop+", copies, grads, copied_states, HYPERS[0], **options)
        for x, y in zip([*weights, *(x for (x,) in states)], [*copies, *(x for (x,) in copied_states)], strict=True):
            assert_same_bits(x, y)


def test_the_table_notices_every_change():
    """Arrays that are replaced, moved or reshaped between two steps of one stepper."""
    rng = np.random.default_rng(1)
    stepper = load_engine("numba").ArrayStepper()
    memory = [np.zeros(200, "f4") for _ in range(3)]
    for size, start in ((8, 0), (8, 8), (16, 8), (8, 16)):
        for shape in ((size,), (2, size // 2), (size // 2, 2)):
            for order in ("C", "F"):
                w, g, move = (x[start : start + size].reshape(shape, order=order) for x in memory)
                w[...], move[...], g[...] = rng.standard_normal(shape), 0.01, rng.standard_normal(shape)
                w2, move2 = w.copy(), move.copy()
                for variant, hyper in (("rprop-", HYPERS[0]), ("rprop+", HYPERS[1])):
                    assert stepper(variant, [w], [g], [(move,)], hyper)
                    numpy_.step(variant, [w2], [g.copy()], [(move2,)], hyper)
                    assert_same_bits(w, w2)
                    assert_same_bits(move, move2)


def test_special_values_at_bounds():
    stepper = load_engine("numba").ArrayStepper()
    for dtype in ("float32", "float64"):
        w = special_values(dtype)
        lows = np.where(np.arange(w.size) % 3 == 0, -np.inf, -1.0).astype(dtype)
        highs = np.where(np.arange(w.size) % 2 == 0, np.inf, 1.0).astype(dtype)
        move = state.encode(np.zeros(w.size), np.full(w.size, 0.5, dtype))
        w2, move2 = w.copy(), move.copy()
        for g in gradients(np.random.default_rng(2), w.shape, dtype, 5):
            assert stepper("rprop+", [w], [g], [(move,)], HYPERS[0], constraints=[(lows, highs, None)])
            numpy_.step("rprop+", [w2], [g], [(move2,)], HYPERS[0], constraints=[(lows, highs, None)])
            assert_same_bits(w, w2)
            assert_same_bits(move, move2)
