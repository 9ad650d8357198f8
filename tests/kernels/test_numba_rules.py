"""The rules as functions for jitted loops of users: bits of the oracle, bounds, losses, errors, threads."""

import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from oracle import RULES, STORE, Oracle
from special_values import assert_same_bits, gradients, special_values

pytest.importorskip("numba", reason="numba is not installed: it comes with the extra numba")

import numba

import rprop_kernels.numba as ours
from rprop_kernels.install import install_command
from rprop_kernels.loss import compare_loss
from rprop_kernels.numpy import METHODS
from rprop_kernels.testing import check_rprop

FUNCTIONS = {
    "rprop-": ours.rprop_minus,
    "rprop+": ours.rprop_plus,
    "irprop-": ours.irprop_minus,
    "irprop+": ours.irprop_plus,
}
SETTINGS = {
    "default": {},
    "narrow": {"lr": 0.25, "etas": (0.5, 1.5), "step_sizes": (0.125, 0.5)},
    "huge": {"lr": 1e-30, "etas": (1e-30, 1e39), "step_sizes": (0.0, 2.0**31)},
}
LOSSES = (2.0, 1.0, 1.5, 1.5, math.nan, 1.25, 3.0, math.inf, -math.inf, 2.0, 2.5, 0.5)


@numba.njit
def start(w, hyper):
    state = np.empty_like(w)
    for i in range(w.size):
        state[i] = ours.first_state(w[i], hyper)
    return state


def make_loop(rule):
    """Compile a loop of a user over the weights of a problem."""
    update = FUNCTIONS[rule]
    if rule == "irprop+":

        @numba.njit
        def loop(w, g, state, loss, previous, hyper):
            outcome, previous = ours.compare_loss(loss, previous)
            for i in range(w.size):
                w[i], state[i] = update(w[i], g[i], state[i], outcome, hyper)
            return previous
    else:

        @numba.njit
        def loop(w, g, state, loss, previous, hyper):
            for i in range(w.size):
                w[i], state[i] = update(w[i], g[i], state[i], hyper)
            return previous

    return loop


@numba.njit
def stop(w, state, lower, upper):
    for i in range(w.size):
        w[i], state[i] = ours.stop_at_bounds(w[i], state[i], lower[i], upper[i])


LOOPS = {rule: make_loop(rule) for rule in RULES}


def decode(state):
    return (np.array(x, state.dtype) for x in zip(*map(ours.sign_and_step, state), strict=True))


@pytest.mark.parametrize(
    ("settings", "bounded"), [("default", False), ("narrow", False), ("huge", False), ("default", True)]
)
@pytest.mark.parametrize("dtype", STORE)
@pytest.mark.parametrize("rule", RULES)
def test_every_step_equals_the_oracle(rule, dtype, settings, bounded):
    """Half precision: the numbers as float32, and the new weights rounded."""
    rng = np.random.default_rng(0)
    real = np.float64 if dtype == "float64" else np.float32
    source = np.dtype("float16" if dtype == "float16" else real)
    with np.errstate(all="ignore"):
        pool = special_values(source)
        w = np.concatenate([pool, rng.standard_normal(60)]).astype(source)
        w = np.array([STORE[dtype](x) for x in w], real)
        grads = [g.astype(real) for g in gradients(rng, w.shape, source, 24)]
    bounds = {}
    if bounded:
        w = np.where(np.isfinite(w) & (abs(w) < 100), w, real(0))
        lower = np.array([STORE[dtype](x) for x in w - rng.choice([0.0, 1e-3, 1.0, 30.0], w.shape)], real)
        upper = np.array([STORE[dtype](x) for x in w + rng.choice([0.0, 1e-3, 1.0, math.inf], w.shape)], real)
        lower, upper = np.minimum(lower, w), np.maximum(upper, w)
        bounds = {"lower": lower, "upper": upper}
    oracle = Oracle(rule, list(w), dtype, **SETTINGS[settings], **bounds)
    hyper = ours.hyperparameters(**SETTINGS[settings])
    state, previous = start(w, hyper), math.nan
    for t, g in enumerate(grads):
        loss = LOSSES[t % len(LOSSES)]
        previous = LOOPS[rule](w, g, state, loss, previous, hyper)
        with np.errstate(all="ignore"):
            w = np.array([STORE[dtype](x) for x in w], real)
        if bounded:
            stop(w, state, lower, upper)
        oracle.step(list(g), loss)
        q, step = decode(state)
        assert_same_bits(w, np.array([x.w for x in oracle.weights], real), f"step {t + 1}, weights")
        assert_same_bits(q, np.array([x.q for x in oracle.weights], real), f"step {t + 1}, signs")
        assert_same_bits(step, np.array([x.D for x in oracle.weights], real), f"step {t + 1}, step sizes")


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_state_is_that_of_the_optimizers(rule, dtype):
    rng = np.random.default_rng(1)
    w = rng.standard_normal(50).astype(dtype)
    optimizer = METHODS[rule](w.copy(), lr=0.1)
    hyper = ours.hyperparameters(lr=0.1)
    state, previous = start(w, hyper), math.nan
    for loss in (1.0, 2.0, 1.0, math.nan, 3.0):
        g = rng.standard_normal(50).astype(dtype)
        optimizer.step(g, loss)
        previous = LOOPS[rule](w, g, state, loss, previous, hyper)
        assert_same_bits(w, optimizer.params[0])
        (move,) = optimizer.state_dict()["moves"]
        assert_same_bits(state, move)


@pytest.mark.parametrize("rule", RULES)
def test_conformance(rule):
    def make_stepper(w, *, lr, etas, step_sizes):
        hyper = ours.hyperparameters(lr, etas, step_sizes)
        state, previous = start(w, hyper), math.nan

        def step(g, loss):
            nonlocal previous
            previous = LOOPS[rule](w, g, state, loss, previous, hyper)
            return (w, *decode(state))

        return step

    report = check_rprop(make_stepper, rule)
    assert report.departure is None, str(report)


def test_losses_are_compared_as_by_the_optimizers():
    for previous in (None, -math.inf, 1.0, 2.0):
        if previous is not None and not math.isfinite(previous):
            continue  # never remembered
        for loss in (0.0, 1.0, 2.0, 3.0, math.nan, math.inf, -math.inf):
            outcome, remembered = compare_loss(loss, previous)
            expected = (outcome, math.nan if remembered is None else remembered)
            compared = ours.compare_loss(loss, math.nan if previous is None else previous)
            np.testing.assert_array_equal(compared, expected)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_many_problems_in_parallel_equal_each_alone(dtype):
    hyper = ours.hyperparameters(lr=0.25)

    @numba.njit
    def minimize(x, hyper, steps):
        state = np.full_like(x, ours.first_state(x[0], hyper))
        previous = np.nan
        for _ in range(steps):
            loss = x.dtype.type(0)
            for value in x:
                loss += (value * value - 2) ** 2
            outcome, previous = ours.compare_loss(loss, previous)
            for i in range(x.size):
                g = 4 * x[i] * (x[i] * x[i] - 2)
                x[i], state[i] = ours.irprop_plus(x[i], type(x[i])(g), state[i], outcome, hyper)

    @numba.njit(parallel=True)
    def minimize_all(starts, hyper, steps):
        for k in numba.prange(len(starts)):
            minimize(starts[k], hyper, steps)

    starts = np.random.default_rng(2).uniform(-3, 3, (200, 3)).astype(dtype)
    together, alone = starts.copy(), starts.copy()
    minimize_all(together, hyper, 80)
    for x in alone:
        minimize(x, hyper, 80)
    assert_same_bits(together, alone)
    np.testing.assert_allclose(np.abs(together), 2**0.5, atol=1e-3)


ERRORS = [
    ((1, 1.0, 1.0), r"w is int64: pass one number, float32 or float64; a rule steps one weight"),
    ((np.ones(2), np.ones(2), np.ones(2)), r"w is array\(float64, 1d, C\): pass one number"),
    ((1.0, np.float32(1), 1.0), r"g is float32, but w is float64: convert it, np\.float64\(g\)"),
    ((np.float32(1), np.float32(1), 1.0), r"state is float64, but w is float32"),
    ((1.0, 1j, 1.0), r"g is complex128: pass one number"),
]


@pytest.mark.parametrize(("numbers", "message"), ERRORS, ids=lambda x: str(x)[:25])
@pytest.mark.parametrize("rule", RULES)
def test_wrong_types_are_named(rule, numbers, message):
    outcome = (0,) if rule == "irprop+" else ()
    with pytest.raises(numba.TypingError, match=message):
        FUNCTIONS[rule](*numbers, *outcome, ours.hyperparameters())


def test_wrong_types_of_the_other_functions():
    hyper = ours.hyperparameters()
    for call, message in (
        (lambda: ours.rprop_minus(1.0, 1.0, 1.0, (0.5, 1.2)), r"hyper is UniTuple.*: pass the result of hyperparam"),
        (lambda: ours.first_state(1, hyper), r"w is int64"),
        (lambda: ours.first_state(1.0, None), r"hyper is none"),
        (lambda: ours.sign_and_step(1), r"state is int64"),
        (lambda: ours.stop_at_bounds(1.0, 1.0, None, 1.0), r"lower is none: pass one number; an infinite one"),
        (lambda: ours.stop_at_bounds(1.0, np.float32(1), 0.0, 1.0), r"state is float32, but w is float64"),
    ):
        with pytest.raises(numba.TypingError, match=message):
            call()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"lr": 0.0}, r"Invalid learning rate: 0\.0"),
        ({"lr": "0.1"}, r"lr must be one number"),
        ({"etas": (1.5, 1.2)}, r"Invalid eta values"),
        ({"step_sizes": (1.0, 2.0**40)}, r"at most 2\*\*31"),
    ],
)
def test_invalid_hyperparameters(arguments, message):
    with pytest.raises(ValueError, match=message):
        ours.hyperparameters(**arguments)


def test_without_numba_the_error_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    program = """
import importlib.util, sys
find_spec = importlib.util.find_spec
importlib.util.find_spec = lambda name, *package: None if name == "numba" else find_spec(name, *package)
import rprop_kernels, rprop_kernels.numpy
try:
    import rprop_kernels.numba
except ImportError as error:
    print(error)
print("numba" in sys.modules)
"""
    environment = {**os.environ, "PYTHONPATH": str(Path(ours.__file__).parents[1])}
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env=environment, cwd=tmp_path
    )
    assert done.stdout == f"rprop_kernels.numba needs numba: {install_command('numba')}\nFalse\n", done.stderr


def test_the_module_does_not_hide_numba():
    assert ours.__name__ == "rprop_kernels.numba" and numba.__name__ == "numba" and hasattr(numba, "njit")
