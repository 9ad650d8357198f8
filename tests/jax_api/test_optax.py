"""The transformations for optax: bits of the oracle, the transformations of JAX, bounds, errors, sizes."""

import functools
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from oracle import RULES, Oracle
from special_values import assert_same_bits

pytest.importorskip("jax", reason="jax is not installed: it comes with the extra optax")
pytest.importorskip("optax", reason="optax is not installed: it comes with the extra optax")

import jax
import jax.numpy as jnp
import optax
from jax_cases import DTYPES, in_float, sequences

import rprop_kernels.optax as ours
from rprop_kernels.install import install_command
from rprop_kernels.state import decode
from rprop_kernels.testing import check_rprop

OURS = {
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


@pytest.fixture(autouse=True)
def x64(request):
    """Enable float64 for the tests whose parameters include it."""
    params = request.node.callspec.params.values() if hasattr(request.node, "callspec") else ()
    with jax.enable_x64(any(isinstance(x, str) and x == "float64" for x in params)):
        yield


def transformation(rule, lr=1e-2, etas=(0.5, 1.2), step_sizes=(1e-6, 50.0), **more):
    return OURS[rule](lr, *etas, *step_sizes, **more)


def tree(x):
    """Split an array of at least 7 elements into a tree of parameters."""
    return {"a": x[:6].reshape(2, 3), "b": [x[6], x[7:]]}


def flat(params):
    return np.concatenate([np.ravel(np.asarray(x)) for x in jax.tree.leaves(params)])


def make_step(optimizer, jit):
    def step(params, state, grads, loss):
        updates, state = optimizer.update(grads, state, params, value=loss)
        return optax.apply_updates(params, updates), state

    return jax.jit(step) if jit else step


# --------------------------------------------------------------------------------------------- the oracle


@pytest.mark.parametrize(
    ("mode", "settings"), [("eager", "default"), ("jit", "default"), ("jit", "narrow"), ("jit", "huge")]
)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rule", RULES)
def test_every_step_equals_the_oracle(rule, dtype, mode, settings):
    settings = SETTINGS[settings]
    w, grads, losses = sequences(dtype)
    oracle = Oracle(rule, list(in_float(w)), dtype, **settings)
    optimizer = transformation(rule, **settings)
    shape = tree if (mode, settings) == ("jit", {}) else lambda x: x
    params = shape(jnp.asarray(w))
    state = optimizer.init(params)
    step = make_step(optimizer, mode == "jit")
    for t, (g, loss) in enumerate(zip(grads, losses, strict=True)):
        params, state = step(params, state, shape(jnp.asarray(g)), loss)
        oracle.step(list(in_float(g)), loss)
        where = f"step {t + 1}"
        assert {x.dtype.name for x in jax.tree.leaves(params)} == {dtype}
        assert_same_bits(in_float(flat(params)), np.array([x.w for x in oracle.weights], oracle.real), where)
        q, step_size = ours.signs_and_steps(state)
        assert_same_bits(flat(q), np.array([x.q for x in oracle.weights], oracle.real), where)
        assert_same_bits(flat(step_size), np.array([x.D for x in oracle.weights], oracle.real), where)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("mode", ["eager", "jit"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_denormal_gradients_count(rule, mode, dtype):
    tiny = jnp.finfo(dtype).smallest_subnormal
    g = jnp.asarray(np.array([tiny, -tiny, 0.0, -0.0, np.nan, np.inf, -np.inf], jnp.dtype(dtype)))
    step = make_step(transformation(rule, lr=0.5), mode == "jit")
    w = jnp.zeros(7, dtype)
    w, _ = step(w, transformation(rule, lr=0.5).init(w), g, 1.0)
    np.testing.assert_array_equal(in_float(w), [-0.5, 0.5, 0.0, 0.0, 0.0, -0.5, 0.5])


@pytest.mark.parametrize("mode", ["eager", "jit"])
def test_only_denormal_weights_differ_from_the_oracle(mode):
    """XLA's CPU backend computes with 0 in their place; the documentation says so."""
    w = jnp.asarray(np.array([1e-40, -1e-40, 1.0], np.float32))
    step = make_step(ours.rprop_minus(0.5), mode == "jit")
    moved, _ = step(w, ours.rprop_minus(0.5).init(w), jnp.zeros(3), None)
    np.testing.assert_array_equal(np.asarray(moved), [0.0, 0.0, 1.0])


@functools.cache
def compiled_step(make, *numbers):
    optimizer = optax.with_extra_args_support(make(*numbers))
    return optimizer, make_step(optimizer, jit=True)


def stepper(make):
    def start(w0, *, lr, etas, step_sizes):
        optimizer, update = compiled_step(make, lr, *etas, *step_sizes)
        w = jnp.asarray(w0)
        state = optimizer.init(w)

        def step(g, loss):
            nonlocal w, state
            w, state = update(w, state, jnp.asarray(g), loss)
            return (w, *ours.signs_and_steps(state)) if isinstance(state, ours.RpropState) else w

        return step

    return start


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("rule", RULES)
def test_the_conformance_check_passes(rule, dtype):
    report = check_rprop(stepper(OURS[rule]), rule, dtypes=[dtype])
    assert report.clean and report.follows == (rule,) and report.closest == (rule, 10, 10), str(report)


def test_the_conformance_check_finds_optax_late():
    report = check_rprop(stepper(optax.rprop), "irprop-", dtypes=["float32"], tolerance=1e-5)
    assert not report.clean and report.departure.step == 1
    assert all("every move comes one step late" in name for name in report.follows) and report.follows


# ------------------------------------------------------------------------------- the transformations of JAX


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rule", RULES)
def test_vmapped_rows_equal_lone_runs(rule, dtype):
    rows, steps = 5, 12
    optimizer = transformation(rule)
    runs = [sequences(dtype, 40, steps, seed) for seed in range(rows)]
    losses = np.array([np.roll(run[2], i) for i, run in enumerate(runs)])
    params = jnp.stack([jnp.asarray(run[0]) for run in runs])
    state = jax.vmap(optimizer.init)(params)
    step = jax.jit(jax.vmap(make_step(optimizer, jit=False)))
    for t in range(steps):
        grads = jnp.stack([jnp.asarray(run[1][t]) for run in runs])
        params, state = step(params, state, grads, jnp.asarray(losses[:, t]))
    lone_step = make_step(optimizer, jit=True)
    for i, (w, grads, _) in enumerate(runs):
        alone, lone_state = jnp.asarray(w), optimizer.init(jnp.asarray(w))
        for t in range(steps):
            alone, lone_state = lone_step(alone, lone_state, jnp.asarray(grads[t]), losses[i, t])
        assert_same_bits(in_float(params[i]), in_float(alone), f"row {i}")
        assert_same_bits(np.asarray(state.move[i]), np.asarray(lone_state.move), f"row {i}")


@pytest.mark.parametrize(
    ("loop", "dtype"), [*(("scan", dtype) for dtype in DTYPES), ("fori_loop", "float32"), ("fori_loop", "bfloat16")]
)
@pytest.mark.parametrize("rule", RULES)
def test_loops_equal_single_steps(rule, dtype, loop):
    w, grads, losses = sequences(dtype, 40, 12)
    optimizer = transformation(rule)
    step = make_step(optimizer, jit=False)
    params, state = jnp.asarray(w), optimizer.init(jnp.asarray(w))
    all_grads, all_losses = jnp.asarray(np.stack(grads)), jnp.asarray(losses)
    if loop == "scan":
        (result, _), _ = jax.lax.scan(lambda c, x: (step(*c, *x), None), (params, state), (all_grads, all_losses))
    else:
        result, _ = jax.lax.fori_loop(
            0, len(grads), lambda t, c: step(*c, all_grads[t], all_losses[t]), (params, state)
        )
    single = jax.jit(step)
    for g, loss in zip(grads, losses, strict=True):
        params, state = single(params, state, jnp.asarray(g), loss)
    assert_same_bits(in_float(result), in_float(params))


SHARDED = """
import sys
sys.path[:0] = sys.argv[1:]
import jax, jax.numpy as jnp, numpy as np, optax
import rprop_kernels.optax as ours
from jax.sharding import Mesh, NamedSharding, PartitionSpec

assert jax.device_count() == 4
sharding = NamedSharding(Mesh(np.array(jax.devices()), ("x",)), PartitionSpec("x"))
rng = np.random.default_rng(0)
w0 = rng.standard_normal(64).astype(np.float32)
for make in (ours.rprop_minus, ours.rprop_plus, ours.irprop_minus, ours.irprop_plus):
    for bounds in (None, (-1.5, np.full(64, 2.5, np.float32))):
        w0 = np.clip(w0, -1.5, 2.5)
        optimizer = make(0.1, bounds=bounds)

        @jax.jit
        def step(w, state):
            loss, g = jax.value_and_grad(lambda w: jnp.sum(jnp.abs(w - 1) ** 3))(w)
            updates, state = optimizer.update(g, state, w, value=loss)
            return optax.apply_updates(w, updates), state

        alone, sharded = jnp.asarray(w0), jax.device_put(w0, sharding)
        state, sharded_state = optimizer.init(alone), optimizer.init(sharded)
        assert sharded_state.move.sharding == sharding, sharded_state.move.sharding
        for _ in range(12):
            alone, state = step(alone, state)
            sharded, sharded_state = step(sharded, sharded_state)
        assert sharded.sharding == sharded_state.move.sharding == sharding
        assert np.asarray(alone).tobytes() == np.asarray(sharded).tobytes()
        assert np.asarray(state.move).tobytes() == np.asarray(sharded_state.move).tobytes()
print("equal")
"""


def test_sharded_parameters_equal_whole_ones():
    environment = {**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=4", "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-c", SHARDED, str(Path(ours.__file__).parents[1])]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120)
    assert done.returncode == 0 and done.stdout == "equal\n", done.stderr


def test_derivatives_pass_through_the_steps():
    """Of the last weights, by the first ones and by the first step size."""

    def last(w, rate):
        optimizer = ours.irprop_minus(rate)
        state = optimizer.init(w)
        for _ in range(3):
            updates, state = optimizer.update(jax.grad(lambda x: ((x - 9) ** 2).sum())(w), state)
            w = optax.apply_updates(w, updates)
        return w.sum()

    by_w, by_rate = jax.grad(last, argnums=(0, 1))(jnp.zeros(2), 0.1)
    np.testing.assert_allclose(by_w, [1, 1])
    np.testing.assert_allclose(by_rate, 2 * (1 + 1.2 + 1.44), rtol=1e-6)


@pytest.mark.parametrize(("start", "derivative"), [(0.5, 1.0), (0.95, 0.0), (0.1, 1.0)])
def test_a_weight_at_its_bound_does_not_depend_on_its_start(start, derivative):
    def last(w):
        optimizer = ours.irprop_minus(0.1, bounds=(None, 1.0))
        updates, _ = optimizer.update(-jnp.ones(()), optimizer.init(w), w)
        return optax.apply_updates(w, updates)

    assert jax.jit(jax.grad(last))(jnp.float32(start)) == derivative


def test_numbers_may_be_traced():
    """One run for each pair of numbers, in one call."""
    w = jnp.array([0.5, -0.5, 3.0])

    def run(rate, eta_plus, w=w):
        optimizer = ours.rprop_minus(rate, eta_plus=eta_plus)
        state = optimizer.init(w)
        for _ in range(3):
            updates, state = optimizer.update(jnp.array([1.0, -1.0, 0.0]), state)
            w = optax.apply_updates(w, updates)
        return w

    rates, factors = jnp.array([0.1, 0.2]), jnp.array([1.2, 1.5])
    together = jax.jit(jax.vmap(run))(rates, factors)
    for i in range(2):
        assert_same_bits(np.asarray(together[i]), np.asarray(run(float(rates[i]), float(factors[i]))))


@pytest.mark.parametrize(
    "wrap",
    [
        lambda t: optax.chain(optax.clip(1.0), t),
        lambda t: optax.masked(t, {"a": True, "b": [True, True]}),
        lambda t: optax.MultiSteps(t, 1),
        lambda t: optax.apply_if_finite(t, 3),
        lambda t: optax.partition({"x": t}, {"a": "x", "b": ["x", "x"]}),
    ],
    ids=["chain", "masked", "MultiSteps", "apply_if_finite", "partition"],
)
def test_the_wrappers_of_optax(wrap):
    optimizer = ours.irprop_plus(0.1)
    wrapped = wrap(optimizer)
    rng = np.random.default_rng(0)
    ours_params = params = tree(jnp.asarray(rng.standard_normal(20, np.float32)))
    state, wrapped_state = optimizer.init(params), wrapped.init(params)
    step, wrapped_step = make_step(optimizer, True), make_step(wrapped, True)
    for t in range(8):
        g = tree(jnp.asarray(rng.standard_normal(20, np.float32)))
        ours_params, state = step(ours_params, state, g, float(t % 3))
        params, wrapped_state = wrapped_step(params, wrapped_state, g, float(t % 3))
    assert_same_bits(flat(params), flat(ours_params))


def test_injected_hyperparameters():
    w = jnp.ones(3)
    optimizer = optax.inject_hyperparams(ours.irprop_minus, static_args=("bounds",))(learning_rate=0.25)
    state = optimizer.init(w)
    updates, state = jax.jit(optimizer.update)(jnp.array([1.0, -1.0, 0.0]), state, w)
    np.testing.assert_array_equal(updates, [-0.25, 0.25, 0.0])


def test_leaves_that_are_none_stay_none():
    params = {"a": jnp.ones(2), "b": None}
    optimizer = ours.irprop_minus(0.5, bounds=(0.75, None))
    updates, _ = optimizer.update({"a": jnp.ones(2), "b": None}, optimizer.init(params), params)
    assert updates["b"] is None and updates["a"].tolist() == [-0.25, -0.25]


def test_other_dtypes_of_gradients():
    """A gradient may be of another precision than its parameter."""
    w = jnp.zeros(2, jnp.bfloat16)
    optimizer = ours.rprop_minus(0.5)
    updates, _ = optimizer.update(jnp.array([1e-30, -1e-30]), optimizer.init(w))
    assert updates.tolist() == [-0.5, 0.5]


# ----------------------------------------------------------------------------------------------- the state


@pytest.mark.parametrize(
    ("dtype", "bytes_a_weight", "share"),
    [("float32", 4, 0.5), ("float64", 8, 0.5), ("bfloat16", 4, 1), ("float16", 4, 1)],
)
@pytest.mark.parametrize("rule", RULES)
def test_the_size_of_the_state(rule, dtype, bytes_a_weight, share):
    def size(state):
        return sum(x.nbytes for x in jax.tree.leaves(state))

    w = jnp.zeros(1000, dtype)
    state = OURS[rule]().init(w)
    assert state.move.nbytes == bytes_a_weight * 1000
    assert (state.prev_loss is not None) == (rule == "irprop+")
    assert size(state) - share * size(optax.rprop(0.1).init(w)) <= 8  # the loss


def test_the_state_is_that_of_the_other_classes():
    from rprop_kernels.numpy import IRpropPlus

    w = np.linspace(-1, 1, 50, dtype=np.float32)
    params, optimizer, theirs = jnp.asarray(w), ours.irprop_plus(0.1), IRpropPlus(w, 0.1)
    state = optimizer.init(params)
    rng = np.random.default_rng(0)
    for loss in (1.0, 2.0, 1.0, 3.0):
        g = rng.standard_normal(50, np.float32)
        updates, state = optimizer.update(jnp.asarray(g), state, value=loss)
        params = optax.apply_updates(params, updates)
        theirs.step(g, loss)
    q, step = decode(np.asarray(state.move))
    expected_q, expected_step = theirs.signs_and_steps()
    assert_same_bits(np.asarray(params), w)
    assert_same_bits(q, np.asarray(expected_q, q.dtype))
    assert_same_bits(step, expected_step)


# ------------------------------------------------------------------------------------------------- bounds


def edges(dtype):
    """Weights and bounds close to each other and far apart, in pairs (lower, upper)."""
    rng = np.random.default_rng(3)
    n = 400
    real = np.float64 if dtype == "float64" else np.float32
    centre = rng.standard_normal(n) * 10.0 ** rng.uniform(-3, 3, n)
    width = 10.0 ** rng.uniform(-4, 3, n)
    width[:20] = 0  # one point
    centre[20:100], width[20:100] = 0, 1  # for powers of two the sum may reach the bound by a larger update only
    lower, upper = ((centre - width).astype(real), (centre + width).astype(real))
    lower, upper = (x.astype(jnp.dtype(dtype)) for x in (lower, upper))
    start = np.clip((rng.uniform(lower.astype(real), upper.astype(real))).astype(jnp.dtype(dtype)), lower, upper)
    return start, lower, upper, [rng.standard_normal(n).astype(jnp.dtype(dtype)) for _ in range(40)]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rule", RULES)
def test_no_weight_leaves_its_bounds(rule, dtype):
    w, lower, upper, grads = edges(dtype)
    drift = np.where(np.arange(w.size) % 3 == 0, 1, np.where(np.arange(w.size) % 3 == 1, -1, 0))
    optimizer = transformation(rule, bounds=(lower, upper), step_sizes=(0.0, 2.0**31), lr=1.0)
    params, step = jnp.asarray(w), make_step(optimizer, jit=True)
    state = optimizer.init(params)
    for t, g in enumerate(grads):
        g = np.where(drift != 0, drift.astype(g.dtype), g)
        params, state = step(params, state, jnp.asarray(g), float(t % 4))
        now = np.asarray(params)
        assert (now >= lower).all() and (now <= upper).all(), t
    q, size = (in_float(x) for x in ours.signs_and_steps(state))
    at = {1: in_float(lower), -1: in_float(upper)}
    spacing = np.spacing(np.maximum(np.abs(in_float(w)), np.maximum(np.abs(at[1]), np.abs(at[-1]))))
    for sign, bound in at.items():  # those that are pushed at a bound stand there, without a sign
        pushed = drift == sign
        assert (np.abs(in_float(params) - bound)[pushed] <= 2 * spacing[pushed]).all()
        assert (q[pushed] == 0).all()
        width = in_float(upper) - in_float(lower)
        assert (size[pushed] <= np.maximum(width / 2, 2.0**-63)[pushed]).all()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_update_to_a_bound_is_the_largest_inside(dtype):
    """Larger ones, up to three units in the last place, lead out of the bounds or no further."""
    w, lower, upper, _ = edges(dtype)
    for sign, bound, inside in ((1, lower, np.greater_equal), (-1, upper, np.less_equal)):
        optimizer = ours.rprop_minus(2.0**31, max_step_size=2.0**31, bounds=(lower, upper))
        g = jnp.full(w.shape, float(sign), dtype)
        updates, _ = jax.jit(optimizer.update)(g, optimizer.init(jnp.asarray(w)), jnp.asarray(w))
        u = np.asarray(updates)
        assert inside(w + u, bound).all()
        further = u
        for _ in range(3):
            further = np.nextafter(further, np.asarray(-sign * np.inf, u.dtype))
            moved = w + further
            assert ((moved == w + u) | ~inside(moved, bound)).all()


def test_the_bound_itself_cannot_always_be_reached():
    """The reason why equality with the oracle is not promised."""
    rng = np.random.default_rng(0)
    w, b = rng.uniform(-1, 0, 10_000).astype(np.float32), rng.uniform(0, 1, 10_000).astype(np.float32)
    assert 0.1 < np.mean(w + (b - w) != b) < 0.6


@pytest.mark.parametrize(
    "bounds",
    [
        (-1.0, 2.0),
        (None, 2.0),
        (-1.0, None),
        ({"a": -1.0, "b": [None, np.full(3, -1.0)]}, {"a": np.full(2, 2), "b": [2, None]}),
        ({"a": -np.inf, "b": [-1, -1]}, np.float32(2)),
    ],
    ids=["numbers", "upper", "lower", "trees", "infinite"],
)
def test_forms_of_bounds(bounds):
    params = {"a": jnp.zeros(2), "b": [jnp.zeros(()), jnp.zeros(3)]}
    optimizer = ours.irprop_minus(1.0, bounds=bounds)
    for sign in (1.0, -1.0):
        now, state, grads = params, optimizer.init(params), jax.tree.map(jnp.ones_like, params)
        grads = optax.tree.scale(sign, grads)
        for _ in range(6):
            updates, state = optimizer.update(grads, state, now)
            now = optax.apply_updates(now, updates)
        half = bounds[0] if sign > 0 else bounds[1]
        for name, x, item in zip(
            ("a", "b0", "b1"),
            jax.tree.leaves(now),
            [half] * 3 if not isinstance(half, dict) else [half["a"], *half["b"]],
            strict=True,
        ):
            stopped = item is not None and np.isfinite(item).all()
            assert (np.abs(x) > 5).all() if not stopped else (x == item).all(), (name, sign)


def test_bounds_of_scipy():
    scipy_optimize = pytest.importorskip("scipy.optimize")
    w = jnp.zeros(2)
    optimizer = ours.rprop_minus(1.0, bounds=scipy_optimize.Bounds([-0.5, -2], [1, 1]))
    updates, _ = optimizer.update(jnp.ones(2), optimizer.init(w), w)
    assert updates.tolist() == [-0.5, -1.0]


def test_a_weight_outside_returns():
    w = jnp.array([5.0, -5.0, 0.5, jnp.nan, jnp.inf, 1e9])
    optimizer = ours.irprop_minus(0.125, bounds=(0.1, 1.0))
    state = optimizer.init(jnp.full(6, 0.5))
    for _ in range(2):
        updates, state = optimizer.update(jnp.zeros(6), state, w)
        w = optax.apply_updates(w, updates)
    np.testing.assert_allclose(w[:3], [1.0, 0.1, 0.5], rtol=1e-5)
    assert np.isnan(w[3]) and (w[5] <= 1.0) and (w[5] >= 0.1)


def test_an_infinite_weight_meets_no_infinite_bound():
    w = jnp.array([jnp.inf, -jnp.inf, 0.5])
    optimizer = ours.irprop_minus(0.125, bounds=(np.array([0, -np.inf, 0]), np.array([np.inf, 0, np.inf])))
    updates, _ = optimizer.update(jnp.ones(3), optimizer.init(w), w)
    assert optax.apply_updates(w, updates).tolist() == [math.inf, -math.inf, 0.375]


def test_traced_bounds():
    def run(upper):
        optimizer = ours.rprop_minus(1.0, bounds=(None, upper))
        w = jnp.zeros(2)
        updates, _ = optimizer.update(-jnp.ones(2), optimizer.init(w), w)
        return optax.apply_updates(w, updates)

    np.testing.assert_array_equal(jax.vmap(run)(jnp.array([0.25, 0.5])), [[0.25, 0.25], [0.5, 0.5]])


def test_denormal_bounds_move_inwards():
    tiny = np.finfo(np.float32).tiny
    w = jnp.ones(3)
    lower = np.array([1e-40, -1e-40, 0.0], np.float32)
    optimizer = ours.rprop_minus(2.0, bounds=(lower, None))
    updates, _ = optimizer.update(jnp.ones(3), optimizer.init(w), w)
    now = np.asarray(optax.apply_updates(w, updates))
    assert (now >= lower).all() and (now <= np.array([tiny, 0, 0]) + 1e-7).all()


# ------------------------------------------------------------------------------------------------- errors

W = np.ones(3, np.float32)
ARGUMENTS = [
    ({"learning_rate": 0.0}, ValueError, r"learning_rate=0\.0 .*above 0 and within min_step_size=1e-06"),
    ({"learning_rate": 51}, ValueError, r"learning_rate=51\.0 .*max_step_size=50\.0"),
    ({"learning_rate": 1e-7}, ValueError, r"learning_rate=1e-07 "),
    ({"learning_rate": math.nan}, ValueError, r"learning_rate=nan "),
    ({"learning_rate": "0.1"}, ValueError, r"learning_rate must be one number, got '0\.1': pass a float such as 0\.01"),
    ({"learning_rate": True}, ValueError, r"learning_rate must be one number, got True"),
    ({"learning_rate": W}, ValueError, r"learning_rate must be one number"),
    ({"learning_rate": None}, ValueError, r"learning_rate must be one number, got None"),
    ({"eta_minus": 0.0}, ValueError, r"eta_minus=0\.0 is not valid: pass a factor above 0 and below 1, such as 0\.5"),
    ({"eta_minus": 1.0}, ValueError, r"eta_minus=1\.0 "),
    ({"eta_plus": 1.0}, ValueError, r"eta_plus=1\.0 .*above 1, such as 1\.2"),
    ({"eta_plus": math.inf}, ValueError, r"eta_plus=inf "),
    ({"eta_plus": 1 + 2j}, ValueError, r"eta_plus must be one number"),
    ({"min_step_size": -1.0}, ValueError, r"min_step_size=-1\.0 .*at least 0"),
    ({"min_step_size": 60.0}, ValueError, r"min_step_size=60\.0 .*at most max_step_size=50\.0"),
    ({"max_step_size": 2.0**32}, ValueError, r"max_step_size=4294967296\.0 .*at most 2\*\*31"),
    ({"max_step_size": math.inf}, ValueError, r"max_step_size=inf "),
    ({"max_step_size": 0.0, "min_step_size": 0.0}, ValueError, r"max_step_size=0\.0 .*above 0"),
    ({"bounds": [(0, 1), (0, 1)]}, TypeError, r"bounds must be a tuple \(lower, upper\), .*np\.transpose\(pairs\)"),
    ({"bounds": W}, TypeError, r"bounds must be a tuple"),
    ({"bounds": (1, 2, 3)}, TypeError, r"bounds must be a tuple"),
    ({"bounds": "ab"}, TypeError, r"bounds must be a tuple"),
]


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize(("arguments", "error", "message"), ARGUMENTS, ids=lambda x: str(x)[:40])
def test_invalid_arguments(rule, arguments, error, message):
    with pytest.raises(error, match=message):
        OURS[rule](**arguments)


def test_valid_numbers_of_other_libraries():
    for number in (
        np.float64(0.25),
        np.float32(0.25),
        np.array(0.25),
        jnp.asarray(0.25),
        jnp.asarray(0.25, "bfloat16"),
    ):
        state = ours.rprop_minus(number).init(jnp.zeros(2))
        assert ours.signs_and_steps(state)[1].tolist() == [0.25, 0.25]


STARTS = [
    (None, jnp.zeros(2, int), TypeError, r"^params is int32: pass an array of float16, .*optax\.masked"),
    (None, {"a": jnp.zeros(2, "complex64")}, TypeError, r"^params\['a'\] is complex64: .*split_real_and_imaginary"),
    (((0, 1), (0, 1)), W, TypeError, r"lower bound is a tuple, \(0, 1\): .*np\.transpose\(pairs\)"),
    ((0.0, W[:2]), W, ValueError, r"upper bound of params has shape \(2,\), its parameter \(3,\)"),
    ((0.0, np.ones((3, 3))), W, ValueError, r"upper bound of params has shape \(3, 3\)"),
    ((2.0, 1.0), W, ValueError, r"bounds of params cross, are NaN"),
    ((math.nan, 3.0), W, ValueError, r"bounds of params cross, are NaN"),
    ((math.inf, None), W, ValueError, r"leave no finite value"),
    ((None, -math.inf), W, ValueError, r"leave no finite value"),
    ((2.0, 3.0), W, ValueError, r"params starts outside its bounds: 1\.0 at index \(0,\) is not within \[2\.0, 3\.0\]"),
    ((None, {"a": np.array([2, 2, 0])}), {"a": W}, ValueError, r"params\['a'\] starts outside .* at index \(2,\)"),
    ((["0", 1, 2], None), W, TypeError, r"lower bound of params is \['0', 1, 2\]: pass a number"),
    ((0j, None), W, TypeError, r"lower bound of params is 0j: pass a number"),
    (("low", None), W, TypeError, r"lower bound of params is 'low': pass a number"),
    ((W, None), {"a": W}, TypeError, r"lower bound is ndarray, .*a number for all, or a tree of that structure"),
    (([0.0], None), [W, W], TypeError, r"lower bound is list, .*tree of that structure"),
]


@pytest.mark.parametrize(("bounds", "params", "error", "message"), STARTS, ids=lambda x: str(x)[:30])
def test_invalid_parameters_and_bounds(bounds, params, error, message):
    with pytest.raises(error, match=message):
        ours.irprop_plus(bounds=bounds).init(params)


STEPS = [
    ({}, W, {}, ValueError, r"irprop_plus needs the loss at the current parameters: .*value=loss.*irprop_minus"),
    ({}, W, {"value": W}, ValueError, r"value has shape \(3,\), but the loss is one number: .*\.mean\(\).*jax\.vmap"),
    ({}, W, {"value": "1"}, TypeError, r"value is '1' \(str\): pass the loss, one real number"),
    ({}, W, {"value": True}, TypeError, r"value is True \(bool\)"),
    ({}, W, {"value": 1j}, TypeError, r"value is 1j \(complex\)"),
    ({}, W, {"value": [1.0]}, (TypeError, ValueError), r"value "),
    ({}, W[:2], {"value": 1.0}, ValueError, r"grads has shape \(2,\), its parameter \(3,\)"),
    ({}, {"a": W}, {"value": 1.0}, ValueError, r"gradients have the structure .*init received"),
    ({}, W.astype(int), {"value": 1.0}, TypeError, r"grads is int32: pass a gradient of float16"),
    (
        {"bounds": (0, 2)},
        W,
        {"value": 1.0},
        ValueError,
        r"bounds need the parameters: pass update\(grads, state, params\)",
    ),
]


@pytest.mark.parametrize(("arguments", "grads", "call", "error", "message"), STEPS, ids=lambda x: str(x)[:30])
def test_invalid_steps(arguments, grads, call, error, message):
    optimizer = ours.irprop_plus(**arguments)
    with pytest.raises(error, match=message):
        optimizer.update(grads, optimizer.init(jnp.asarray(W)), **call)


@pytest.mark.parametrize("rule", ["rprop-", "rprop+", "irprop-"])
def test_the_other_rules_check_a_loss_and_need_none(rule):
    optimizer = OURS[rule]()
    state = optimizer.init(jnp.asarray(W))
    alone, _ = optimizer.update(W, state)
    given, _ = optimizer.update(W, state, value=jnp.inf, anything=3)
    assert_same_bits(np.asarray(alone), np.asarray(given))
    with pytest.raises(ValueError, match=r"value has shape \(3,\)"):
        optimizer.update(W, state, value=W)


@pytest.mark.parametrize("name", ["jax", "optax"])
def test_without_a_library_the_error_names_the_extra(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    program = f"""
import importlib.util, sys
find_spec = importlib.util.find_spec
importlib.util.find_spec = lambda name, *package: None if name == {name!r} else find_spec(name, *package)
import rprop_kernels, rprop_kernels.numpy, rprop_kernels.testing
try:
    import rprop_kernels.optax
except ImportError as error:
    print(error)
print({name!r} in sys.modules)
"""
    environment = {**os.environ, "PYTHONPATH": str(Path(ours.__file__).parents[1])}
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env=environment, cwd=tmp_path
    )
    assert done.stdout == f"rprop_kernels.optax needs {name}: {install_command('optax')}\nFalse\n", done.stderr
