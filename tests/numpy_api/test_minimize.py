"""minimize for arrays: paths, batches, scales, starts, endings, interruptions, refusals."""

import math
import re

import numpy as np
import pytest

from rprop_kernels.backends import supported_backends
from rprop_kernels.numpy import METHODS, minimize
from rprop_kernels.result import Result

RULES = ("rprop-", "rprop+", "irprop-", "irprop+")
BACKENDS = supported_backends("arrays")
SLOW = {"gtol": None, "ftol": None, "xtol": None}  # no reason to stop but max_steps


def valley(x):
    a, b = x[..., 0] ** 2 + x[..., 1] - 11, x[..., 0] + x[..., 1] ** 2 - 7
    return a * a + b * b, np.stack((4 * x[..., 0] * a + 2 * b, 2 * a + 4 * x[..., 1] * b), axis=-1)


def bowl(x):
    return float(np.sum(x**2)), 2 * x


def bits(x):
    return np.asarray(x).tobytes()


def same(one, row, result):
    """A lone run's result equals a row of a batch's."""
    assert bits(one.x) == bits(result.x[row])
    assert bits(one.grad) == bits(result.grad[row])
    assert bits(np.float64(one.fun)) == bits(result.fun[row])
    assert (one.reason, one.status, one.success) == (result.reason[row], result.status[row], result.success[row])
    assert (one.message, one.nit, one.nfev) == (result.message[row], result.nit[row], result.nfev[row])


# --------------------------------------------------------------------------------------------------- paths


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("maximize", [False, True])
@pytest.mark.parametrize("rule", RULES)
def test_the_path_is_that_of_the_class(rule, maximize, dtype, backend):
    sign = -1 if maximize else 1
    start, seen = np.array([[-1.25, 1.0], [0.5, 3.0]], dtype), []
    options = {"lr": 0.05, "step_sizes": (1e-9, 2.0), "maximize": maximize}

    def fun(x):
        seen.append(x.copy())
        losses, grads = valley(x)
        return sign * float(losses.sum()), sign * grads

    result = minimize(
        fun, start, method=rule, jac=True, max_steps=60, check_noise=False, backend=backend, **SLOW, **options
    )
    assert (result.reason, result.nit, result.nfev, result.calls) == ("max_steps", 60, 61, 61)
    w = start.copy()
    optimizer = METHODS[rule](w, backend="numpy", **options)
    for x in seen.copy():
        assert bits(x) == bits(w) and x.dtype == dtype
        loss, grad = fun(x)
        optimizer.step(grad, loss)


def test_the_best_point_is_returned_with_its_gradient():
    losses, seen = iter([5.0, 1.0, 4.0, 1.0, 7.0]), []

    def fun(x):
        seen.append(x.copy())
        return next(losses), np.array([1.0, float(len(seen))])

    result = minimize(fun, [0.0, 0.0], jac=True, max_steps=4, check_noise=False)
    assert (result.fun, result.grad.tolist(), result.history.tolist()) == (1.0, [1.0, 2.0], [5.0, 1.0, 1.0, 1.0, 1.0])
    assert bits(result.x) == bits(seen[1])


def test_maximize_returns_the_largest_loss():
    result = minimize(lambda x: (-float(x @ x), -2 * x), [1.0, 2.0], jac=True, maximize=True)
    assert result.success and np.abs(result.x).max() < 1e-5
    assert result.fun == -float(result.x @ result.x) and (np.diff(result.history) >= 0).all()


def test_a_separate_gradient_gives_the_same_path():
    pair = minimize(bowl, [3.0, -4.0], jac=True)
    separate = minimize(lambda x, a: a * float(np.sum(x**2)), [3.0, -4.0], 1.0, jac=lambda x, a: 2 * a * x)
    assert bits(pair.x) == bits(separate.x) and pair.nit == separate.nit


def test_nothing_of_the_callers_is_written_to():
    x0, gradient = np.array([5.0, -5.0]), np.zeros(2)
    x0.setflags(write=False)

    def fun(x):
        gradient[:] = 2 * x  # the same memory in every call
        x[:] = np.nan  # fun may write to its argument
        return float(np.sum(gradient**2)) / 4, gradient

    result = minimize(fun, x0, jac=True, callback=lambda x: x.fill(np.nan))
    assert np.abs(result.x).max() < 1e-5 and bits(result.grad) == bits(2 * result.x)
    assert x0.tolist() == [5.0, -5.0]


@pytest.mark.parametrize("shape", [(), (3,), (2, 0 + 1, 3)])
def test_x0_has_any_shape(shape):
    result = minimize(bowl, np.full(shape, 2.0), jac=True)
    assert result.x.shape == result.grad.shape == shape and result.success


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("rule", RULES)
def test_a_region_without_a_finite_loss_is_left(rule, bad):
    def fun(x):  # the logarithm ends at 0, the optimum is at 0.01
        if x[0] <= 0:
            return bad, np.array([math.nan])
        return x[0] - 0.01 * math.log(x[0]), np.array([1 - 0.01 / x[0]])

    result = minimize(fun, [5.0], jac=True, method=rule, lr=1.0)
    assert result.success and abs(result.x[0] - 0.01) < 1e-5


# ----------------------------------------------------------------------------------------------- constraints


def test_bounds_and_frozen_weights():
    seen = []

    def fun(x):
        seen.append(x.copy())
        loss, grad = bowl(x - [2.0, -1.0, 5.0, 1.0])
        grad[3] = np.nan  # frozen: it may be anything
        return loss, grad

    result = minimize(
        fun,
        [0.5, 0.5, 0.5, 0.5],
        jac=True,
        bounds=([-1.0, 0.0, -np.inf, -1.0], 1.0),
        frozen=[False, False, False, True],
    )
    assert result.x.tolist() == [1.0, 0.0, 1.0, 0.5] and result.reason == "gtol"
    assert all((x <= 1).all() and x[1] >= 0 and x[3] == 0.5 for x in seen)


def test_held_weights_do_not_hinder_the_test_of_the_steps():
    """One weight is held at its bound by a gradient that never ends, one is frozen; the third comes to rest."""
    result = minimize(
        lambda x: (abs(x[0]) + x[1] + x[2], np.array([np.sign(x[0]), 1.0, 1.0])),
        [1.0, 0.0, 0.0],
        jac=True,
        bounds=([-2.0, 0.0, -1.0], None),
        frozen=[False, False, True],
        gtol=None,
        ftol=None,
    )
    assert result.reason == "xtol" and abs(result.x[0]) < 1e-9 and result.nit % 8 == 0


@pytest.mark.parametrize("maximize", [False, True])
def test_a_gradient_that_points_out_of_the_bounds_does_not_count(maximize):
    sign = -1.0 if maximize else 1.0
    result = minimize(
        lambda x: (sign * float(x[0] - x[1]), sign * np.array([1.0, -1.0])),
        [0.5, 0.5],
        jac=True,
        bounds=(0.0, 1.0),
        maximize=maximize,
    )
    assert result.x.tolist() == [0.0, 1.0] and result.reason == "gtol"
    inward = minimize(
        lambda x: (sign * float(x[0]), sign * np.array([1.0])), [1.0], jac=True, bounds=(0.0, 1.0), maximize=maximize
    )
    assert inward.x.tolist() == [0.0]  # it starts at the other bound, and leaves it


@pytest.mark.parametrize("step_min", [0.0, 1e-5])
@pytest.mark.parametrize("optimum", [0.0, 1e3])
def test_xtol_ends_at_the_first_multiple_of_8_steps_with_small_steps(optimum, step_min):
    def fun(x):
        return float(np.abs(x - optimum).sum()), np.sign(x - optimum)

    start, xtol = np.array([optimum - 1.0, optimum + 0.3]), 1e-6
    result = minimize(fun, start, jac=True, xtol=xtol, gtol=None, ftol=None, step_sizes=(step_min, 50.0))
    w, expected = start.copy(), None
    optimizer = METHODS["irprop+"](w, step_sizes=(step_min, 50.0))
    for t in range(3000):
        small = optimizer.signs_and_steps()[1] <= np.maximum(step_min, xtol * np.maximum(1, np.abs(w)))
        if t and t % 8 == 0 and small.all():
            expected = t
            break
        loss, grad = fun(w)
        optimizer.step(grad, loss)
    assert (result.reason, result.nit) == ("xtol", expected)


@pytest.mark.parametrize("rule", RULES)
def test_a_scaled_run_is_that_of_the_divided_variable(rule):
    """To the bit, with bounds, first steps and every stopping rule in the new units."""
    scale = np.array([2.0**-20, 2.0**13])

    def fun(x):
        loss, grad = valley(x / scale)
        return float(loss), grad / scale

    def divided(x):
        loss, grad = valley(x)
        return float(loss), grad

    start, bounds = np.array([-1.0, 0.5]), (np.array([-3.0, -2.0]), np.array([4.0, 5.0]))
    for options in ({}, {"gtol": None}, {"gtol": None, "ftol": None}, {"lr": 0.7, "gtol": 1.0}):
        options |= {"method": rule, "jac": True, "max_steps": 300}
        scaled = minimize(
            fun, start * scale, x_scale=scale * 1.3, bounds=tuple(half * scale for half in bounds), **options
        )
        plain = minimize(divided, start, bounds=bounds, **options)
        assert bits(scaled.x) == bits(plain.x * scale) and bits(scaled.grad) == bits(plain.grad / scale)
        assert (scaled.fun, scaled.nit, scaled.reason) == (plain.fun, plain.nit, plain.reason)


def test_the_automatic_scale():
    seen = []

    def fun(x):
        seen.append(x.copy())
        return 1.0, np.ones_like(x)

    minimize(
        fun,
        [0.0, 1e-8, -3e6, 0.0, 5.0],
        jac=True,
        lr=0.25,
        x_scale="auto",
        bounds=([-np.inf] * 4 + [3.5], [np.inf, np.inf, np.inf, 0.125, 5.5]),
        max_steps=1,
        check_noise=False,
    )
    steps = seen[0] - seen[1]
    assert np.log2(steps / 0.25).round().tolist() == [0, -27, 22, 0, 1] and steps[0] == 0.25
    assert all(math.frexp(step)[0] == 0.5 for step in steps[[0, 3, 4]])


def test_first_steps_for_each_weight():
    seen = []
    minimize(
        lambda x: (seen.append(x.copy()), (1.0, np.ones(2)))[1],
        [0.0, 0.0],
        jac=True,
        lr=[0.5, 2.0],
        max_steps=1,
        check_noise=False,
    )
    assert seen[1].tolist() == [-0.5, -2.0]


# ------------------------------------------------------------------------------------------------- batches


def problems(count=23):
    rng = np.random.default_rng(5)
    return rng.uniform(-4, 4, (count, 2)), rng.uniform(0.01, 30, count)


def weighted(x, weight):
    loss, grad = valley(x)
    loss = np.where(x[..., 0] > 4.2, np.nan, weight * loss)
    return loss, np.asarray(weight)[..., None] * grad


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"bounds": ([-4.0, -4.0], [4.1, 4.0])},
        {"frozen": [False, True], "gtol": None},
        {"maximize": True, "bounds": (-4.1, 4.1)},
        {"x_scale": [0.25, 8.0], "lr": 0.1, "window": 5},
        {"lr": 1.5, "ftol": 0.0, "gtol": None, "patience": 9},
        {"target": 3.0, "max_evals": 25, "lr": 3.0},
    ],
    ids=["plain", "bounds", "frozen", "maximize", "x_scale", "patience", "target"],
)
@pytest.mark.parametrize("rule", RULES)
def test_rows_are_lone_runs_bit_for_bit(rule, options, backend):
    start, weights = problems()
    options = {"jac": True, "method": rule, "backend": backend, "max_steps": 150} | options
    original = start.copy()
    result = minimize(weighted, start, weights, batched=True, in_dims=0, **options)
    assert start.tobytes() == original.tobytes() and result.history is None
    assert len(set(result.nit.tolist())) > 1  # they stop at different steps
    for row in range(len(start)):

        def alone(x, weight):
            loss, grad = weighted(x[None], np.array([weight]))
            return float(loss[0]), grad[0]

        same(minimize(alone, start[row], float(weights[row]), **options), row, result)


def test_rows_leave_once_an_eighth_has_finished():
    sizes = []

    def fun(x, stop):
        sizes.append(len(x))
        return stop, np.ones_like(x)

    # Row r stops at its r-th evaluation by its gradient; the losses never change.
    count = 32
    clock = {"t": -1}

    def fun_in_time(x, *, rows):
        clock["t"] += 1
        sizes.append(len(x))
        grad = np.where((rows <= clock["t"])[:, None], 0.0, 1.0) * np.ones_like(x)
        return np.ones(len(x)), grad

    result = minimize(fun_in_time, np.zeros((count, 2)), jac=True, batched=True, check_noise=False, ftol=None)
    assert result.nit.tolist() == list(range(count)) and set(result.reason) == {"gtol"}
    present, finished, expected = count, 0, []
    for _ in range(count):
        expected.append(present)
        finished += 1
        if finished * 8 >= present:
            present, finished = present - finished, 0
    assert sizes == expected


def test_a_finished_row_is_fixed_at_its_own_stop():
    """The loss of row 0 would fall on after it has stopped, before it leaves."""
    start = np.linspace(1, 2, 20)[:, None]
    result = minimize(
        lambda x: (x[:, 0], np.ones_like(x)), start, jac=True, batched=True, target=0.9, check_noise=False
    )
    alone = minimize(lambda x: (float(x[0]), np.ones(1)), start[0], jac=True, target=0.9, check_noise=False)
    assert bits(result.x[0]) == bits(alone.x) and result.nit[0] == alone.nit < result.nit[19]


def test_one_nan_row_touches_no_other():
    start, weights = problems()
    clean = minimize(weighted, start, weights, batched=True, in_dims=0, jac=True)
    weights[3] = np.nan
    spoiled = minimize(weighted, start, weights, batched=True, in_dims=0, jac=True)
    assert (spoiled.reason[3], spoiled.status[3], spoiled.nit[3]) == ("start", 3, 0) and np.isnan(spoiled.fun[3])
    others = [row for row in range(len(start)) if row != 3]
    assert bits(clean.x[others]) == bits(spoiled.x[others]) and bits(clean.nit[others]) == bits(spoiled.nit[others])


@pytest.mark.parametrize("chunk_size", [1, 4, 23, 100])
def test_chunks_change_calls_alone(chunk_size):
    start, weights = problems()
    sizes = []

    def fun(x, weight):
        sizes.append(len(x))
        return weighted(x, weight)

    whole = minimize(weighted, start, weights, batched=True, in_dims=0, jac=True)
    parts = minimize(fun, start, weights, batched=True, in_dims=0, jac=True, chunk_size=chunk_size)
    assert max(sizes) <= chunk_size and parts.calls == len(sizes)
    assert bits(whole.x) == bits(parts.x) and bits(whole.nit) == bits(parts.nit)


def test_arguments_along_other_dimensions_and_shared_ones():
    rng = np.random.default_rng(0)
    centers, shared = rng.normal(size=(3, 2, 12)), rng.normal(size=12)  # as long as there are problems

    def fun(x, centers, shared, factor):
        assert shared.shape == (12,) and centers.shape == (3, 2, len(x))
        residual = x - factor * centers[0].T
        return (residual**2).sum(axis=1), 2 * residual

    result = minimize(fun, np.zeros((12, 2)), (centers, shared, 2.0), in_dims=(2, None, None), jac=True, batched=True)
    np.testing.assert_allclose(result.x, 2 * centers[0].T, atol=1e-5)


def test_the_keyword_rows_names_the_problems_in_x():
    centers = np.arange(20.0)[:, None] / 10

    def fun(x, *, rows):
        return ((x - centers[rows]) ** 2).sum(axis=1), 2 * (x - centers[rows])

    for chunk_size in (None, 3):
        result = minimize(fun, np.zeros((20, 1)), jac=True, batched=True, chunk_size=chunk_size)
        np.testing.assert_allclose(result.x, centers, atol=1e-5)
    separate = minimize(
        lambda x, rows: fun(x, rows=rows)[0], np.zeros((20, 1)), jac=lambda x, rows: fun(x, rows=rows)[1], batched=True
    )
    assert bits(separate.x) == bits(result.x)


def test_data_of_all_rows_after_rows_have_left_names_the_remedy():
    centers = np.linspace(0, 9, 20)[:, None]  # closed over: right only while all rows are there

    def broadcasting_error(x):
        return ((x - centers) ** 2).sum(axis=1), 2 * (x - centers)

    with pytest.raises(ValueError, match="broadcast") as caught:
        minimize(broadcasting_error, np.zeros((20, 1)), jac=True, batched=True)
    assert any("in_dims" in note and "rows" in note for note in caught.value.__notes__)
    assert isinstance(caught.value.result, Result) and (caught.value.result.status != -1).all()

    def constant_length(x):
        return np.resize(((x - centers[: len(x)]) ** 2).sum(axis=1), 20), 2 * (x - centers[: len(x)])

    with pytest.raises(ValueError, match=r"shape \(20,\) as the losses: return .* one for each row of x; .*in_dims"):
        minimize(constant_length, np.zeros((20, 1)), jac=True, batched=True)


# -------------------------------------------------------------------------------------------------- starts


def test_starts_find_the_best_of_several_minima():
    pytest.importorskip("scipy")

    def tilted(x):
        loss, grad = valley(x)
        return float(loss + x[0]), grad + np.array([1.0, 0.0])

    one = minimize(tilted, [4.0, 4.0], jac=True, bounds=(-5, 5))
    many = minimize(tilted, [4.0, 4.0], jac=True, bounds=(-5, 5), starts=16, seed=1)
    assert many.fun < one.fun - 1 and many.success and many.seed == 1
    assert many.all.x.shape == (16, 2) and many.fun == many.all.fun.min()
    row = int(np.argmin(many.all.fun))
    assert bits(many.x) == bits(many.all.x[row]) and many.reason == many.all.reason[row]
    same(one, 0, many.all)  # the first start is x0
    again = minimize(tilted, [4.0, 4.0], jac=True, bounds=(-5, 5), starts=16, seed=1)
    assert bits(again.all.x) == bits(many.all.x)
    fresh = minimize(tilted, [4.0, 4.0], jac=True, bounds=(-5, 5), starts=4)
    repeated = minimize(tilted, [4.0, 4.0], jac=True, bounds=(-5, 5), starts=4, seed=fresh.seed)
    assert bits(fresh.all.x) == bits(repeated.all.x)


def test_starts_of_many_problems_are_those_of_each_alone():
    pytest.importorskip("scipy")
    start, weights = problems(5)
    options = {"jac": True, "bounds": (-5.0, 5.0), "starts": 6, "seed": 7, "max_steps": 80}
    together = minimize(weighted, start, weights, batched=True, in_dims=0, **options)
    assert together.x.shape == (5, 2) and together.all.x.shape == (6, 5, 2) and len(together.reason) == 5
    for row in range(5):

        def alone(x, weight):
            loss, grad = weighted(x[None], np.array([weight]))
            return float(loss[0]), grad[0]

        one = minimize(alone, start[row], float(weights[row]), **options)
        same(one, row, together)
        assert bits(one.all.x) == bits(together.all.x[:, row])


def test_starts_leave_frozen_weights_and_stay_within_bounds():
    pytest.importorskip("scipy")
    seen = []

    def fun(x):
        seen.append(x.copy())
        return bowl(x)

    minimize(fun, [0.5, 0.25, 1.0], jac=True, bounds=([0, -np.inf, 1], [1, np.inf, 3]), frozen=[0 > 1, 1 > 0, 0 > 1],
             starts=9, max_steps=0, check_noise=False)  # fmt: skip
    points = np.array(seen)
    assert (points[:, 1] == 0.25).all() and (points[:, 0] >= 0).all() and (points[:, 0] <= 1).all()
    assert (points[:, 2] >= 1).all() and len(np.unique(points[:, 0])) == 9


# ------------------------------------------------------------------------------------------------- endings


def noisy(x):
    return 1.0, np.array([math.sin(1e3 * float(x[0])) + 2])


ENDINGS = {
    "gtol": (bowl, [1.0], {}),
    "ftol": (bowl, [1.0], {"gtol": None, "ftol": 0.99, "window": 3}),
    "xtol": (lambda x: (abs(float(x[0])), np.sign(x)), [1.0], {}),
    "target": (bowl, [1.0], {"target": 0.5}),
    "patience": (noisy, [1.0], {"patience": 3}),
    "max_steps": (bowl, [1.0], {"max_steps": 4}),
    "max_evals": (bowl, [1.0], {"max_evals": 5}),
    "nonfinite": (lambda x: (1.0, x * np.nan), [1.0], {"window": 6}),
    "start": (lambda x: (math.inf, x), [1.0], {}),
    "no_decrease": (lambda x: (float(x @ x), -x), [1.0], {}),
}


@pytest.mark.parametrize("reason", ENDINGS)
def test_every_reason_ends_a_fit(reason):
    fun, x0, options = ENDINGS[reason]
    result = minimize(fun, x0, jac=True, check_noise=False, **options)
    assert result.reason == reason and len(result.history) == result.nit + 1 == result.nfev == result.calls
    if reason in ("max_steps", "max_evals"):
        assert result.nit == 4
    if reason == "nonfinite":
        assert result.nfev == 6
    if reason == "start":
        assert math.isnan(result.fun) and result.x.tolist() == [1.0] and result.nfev == 1
    rows = minimize(
        lambda x: tuple(np.array(part, float) for part in zip(*map(fun, x), strict=True)), [x0] * 3, jac=True,
        batched=True, check_noise=False, **options,
    )  # fmt: skip
    assert rows.reason == [reason] * 3 and rows.nit.tolist() == [result.nit] * 3


def test_a_start_at_the_optimum_takes_no_step():
    result = minimize(bowl, [0.0, 0.0], jac=True)
    assert (result.nit, result.nfev, result.calls, result.reason) == (0, 1, 2, "gtol")


@pytest.mark.parametrize("style", ["x", "intermediate_result"])
def test_the_callback_ends_the_fit(style):
    seen = []

    def by_x(x):
        seen.append(x)
        if len(seen) == 3:
            raise StopIteration

    def by_result(intermediate_result):
        assert intermediate_result.fun == bowl(intermediate_result.x)[0]
        assert intermediate_result.nit == len(seen) + 1
        by_x(intermediate_result.x)

    result = minimize(bowl, [3.0, 3.0], jac=True, callback=by_x if style == "x" else by_result)
    assert (result.reason, result.status, result.nit, len(seen)) == ("callback", 99, 3, 3)


def test_the_callback_of_a_batch_gets_all_rows():
    start, seen = np.linspace(0.1, 5, 16)[:, None], []
    result = minimize(
        lambda x: ((x**2).sum(axis=1), 2 * x), start, jac=True, batched=True,
        callback=lambda intermediate_result: seen.append((intermediate_result.x, intermediate_result.fun)),
    )  # fmt: skip
    assert {(x.shape, fun.shape) for x, fun in seen} == {((16, 1), (16,))}
    assert all(np.array_equal((x**2).sum(axis=1), fun) for x, fun in seen)
    assert len(seen) == result.nit.max()


def test_ctrl_c_returns_the_best_point():
    calls = 0

    def fun(x):
        nonlocal calls
        calls += 1
        if calls == 6:
            raise KeyboardInterrupt
        return bowl(x)

    result = minimize(fun, [3.0], jac=True, check_noise=False)
    assert (result.reason, result.status, result.success, result.nit, result.nfev) == ("interrupted", 6, False, 4, 5)
    assert result.fun == bowl(result.x)[0] == result.history[-1] < 9
    calls = 0
    rows = minimize(
        lambda x: (np.array([fun(point)[0] for point in x]), 2 * x), [[3.0], [0.0]], jac=True, batched=True,
        check_noise=False,
    )  # fmt: skip
    assert rows.reason == ["interrupted", "gtol"] and rows.x[0] < 3


@pytest.mark.parametrize("where", ["fun", "jac", "callback"])
def test_an_exception_carries_the_result(where):
    calls = {"fun": 0, "jac": 0, "callback": 0}

    def count(name):
        calls[name] += 1
        if name == where and calls[name] == 5:
            raise ZeroDivisionError("mine")

    def fun(x):
        count("fun")
        return float(np.sum(x**2))

    def jac(x):
        count("jac")
        return 2 * x

    with pytest.raises(ZeroDivisionError, match="mine") as caught:
        minimize(fun, [3.0, 1.0], jac=jac, check_noise=False, callback=lambda x: count("callback"))
    result = caught.value.result
    assert result.reason == "interrupted" and result.fun == np.sum(result.x**2) < 10


def test_a_noisy_loss_warns_once():
    rng = np.random.default_rng(0)

    def fun(x):
        return float(x @ x) + rng.normal(), 2 * x

    with pytest.warns(RuntimeWarning, match=r"fun returned .* and then .* at x0: the loss is noisy") as caught:
        result = minimize(fun, [1.0], jac=True, max_steps=5)
    assert len(caught) == 1 and caught[0].filename == __file__
    assert (result.calls, result.nfev) == (7, 6)
    assert minimize(bowl, [1.0], jac=True, max_evals=5).nit == 4  # the second loss at x0 does not count
    quiet = minimize(fun, [1.0], jac=True, max_steps=5, check_noise=False)
    assert (quiet.calls, quiet.nfev) == (6, 6)
    assert minimize(lambda x: (float(x @ x) * (1 + 1e-7 * rng.random()), 2 * x), [1.0], jac=True).success
    with pytest.warns(RuntimeWarning, match="noisy"):
        minimize(lambda x: (rng.random(len(x)), 2 * x), np.ones((3, 1)), jac=True, batched=True, max_steps=2)


@pytest.mark.parametrize("package", ["rich", "tqdm", None])
def test_progress_is_shown_on_stderr(package, monkeypatch, capsys):
    import importlib.util

    if package is not None:
        pytest.importorskip(package)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name if name == package else None)
    minimize(lambda x: ((x**2).sum(axis=1), 2 * x), np.ones((4, 1)), jac=True, batched=True, progress=True)
    shown = capsys.readouterr()
    assert not shown.out and "best loss" in shown.err and "100% finished" in shown.err


def test_a_result_prints_as_scipys():
    optimize = pytest.importorskip("scipy.optimize")
    result = minimize(bowl, [3.0], jac=True)
    theirs = optimize.minimize(bowl, [3.0], jac=True)

    def names(value):
        return [line.partition(":")[0].strip() for line in repr(value).split("\n")]

    assert names(result)[:3] == names(theirs)[:3] == ["message", "success", "status"]
    columns = {line.index(":") for line in repr(result).split("\n") if re.match(r" *[a-z]+: ", line)}
    assert len(columns) == 1
    assert {"fun", "x", "nit", "nfev", "grad", "reason", "calls"} <= set(names(result))
    assert "hist" not in repr(minimize(lambda x: ((x**2).sum(axis=1), 2 * x), [[1.0]] * 9, jac=True, batched=True))


# ------------------------------------------------------------------------------------------------ refusals


def rows_bowl(x, *args):
    return (x**2).sum(axis=1), 2 * x


GRID = np.linspace(0, 1, 4)
BAD = {
    "fun": ({"fun": 3}, TypeError, "fun is a int: pass a function of x"),
    "no jac": ({"jac": None}, TypeError, "jac=None: pass jac=True where fun returns"),
    "jac word": ({"jac": "2-point"}, TypeError, "jac='2-point': pass jac=True"),
    "nothing": ({"fun": lambda x: None}, TypeError, r"fun returned None: with jac=True return \(loss, gradient\)"),
    "no pair": ({"fun": lambda x: 1.0}, TypeError, "fun returned 1.0: with jac=True"),
    "vector": ({"fun": lambda x: (x, x)}, TypeError, r"an array of float64 and shape \(2,\) as the loss: return one"),
    "no gradient": ({"fun": lambda x: (1.0, None)}, TypeError, "the gradient is None: return an array"),
    "shape": ({"fun": lambda x: (1.0, np.ones(3))}, ValueError, r"the gradient has shape \(3,\), x has shape \(2,\)"),
    "complex x0": ({"x0": [1j, 0.0]}, TypeError, "x0 is .*: pass an array of real numbers"),
    "text x0": ({"x0": "ab"}, TypeError, "x0 is 'ab': pass an array of real numbers"),
    "ragged x0": ({"x0": [[1.0], [1.0, 2.0]]}, ValueError, "x0 is no array"),
    "empty x0": ({"x0": []}, ValueError, r"x0 has shape \(0,\): pass an array that is not empty"),
    "nan x0": ({"x0": [math.nan, 0.0]}, ValueError, "x0 has a NaN or an infinity: pass finite numbers"),
    "crossed": ({"bounds": (2.0, -2.0)}, ValueError, r"bounds of x0 cross.*lower <= upper"),
    "nan bounds": ({"bounds": ([math.nan, 0], None)}, ValueError, "bounds of x0 cross, are NaN"),
    "outside": ({"bounds": (None, 0.5)}, ValueError, "x0 starts outside its bounds: 1.0 at index .*; start inside"),
    "pairs": ({"bounds": [(0, 2), (0, 2)]}, TypeError, r"bounds .*np.transpose\(pairs\)"),
    "bounds shape": ({"bounds": ([0, 0, 0], None)}, ValueError, r"lower bound of x0 has shape \(3,\)"),
    "frozen numbers": ({"frozen": [0, 1]}, TypeError, "frozen is int64: pass booleans"),
    "frozen shape": ({"frozen": [True] * 3}, ValueError, r"frozen has shape \(3,\)"),
    "method": ({"method": "adam"}, ValueError, "there is no method 'adam': choose one of rprop-"),
    "lr": ({"lr": 0}, ValueError, "lr is the first step size"),
    "lr array": ({"lr": [0.1, 100.0]}, ValueError, "lr is the first step size"),
    "lr shape": ({"lr": [0.1] * 3}, ValueError, r"lr has shape \(3,\), x0 \(2,\)"),
    "etas": ({"etas": (2, 1)}, ValueError, "Invalid eta values"),
    "step_sizes": ({"step_sizes": (1, 0)}, ValueError, "Invalid step sizes"),
    "scale zero": ({"x_scale": 0.0}, ValueError, "x_scale=0.0: pass 'auto', a number above 0"),
    "scale negative": ({"x_scale": [1.0, -1.0]}, ValueError, "x_scale=.*: pass 'auto'"),
    "scale nan": ({"x_scale": math.nan}, ValueError, "x_scale=nan: pass 'auto'"),
    "scale word": ({"x_scale": "jac"}, ValueError, "x_scale='jac': pass 'auto'"),
    "scale shape": ({"x_scale": [1.0] * 3}, ValueError, r"x_scale has shape \(3,\), x0 \(2,\)"),
    "gtol": ({"gtol": -1.0}, ValueError, "gtol=-1.0: pass a number from 0 on"),
    "window": ({"window": 0}, ValueError, "window=0: pass a whole number from 1 on"),
    "max_steps": ({"max_steps": -1}, ValueError, "max_steps=-1: pass a number from 0 on"),
    "maximize": ({"maximize": "yes"}, TypeError, "maximize is 'yes' .*: pass True or False"),
    "batched": ({"batched": 1}, TypeError, "batched is 1 .*: pass True or False"),
    "check_noise": ({"check_noise": None}, TypeError, "check_noise is None .*: pass True or False"),
    "progress": ({"progress": "bar"}, TypeError, "progress is 'bar' .*: pass True or False"),
    "callback": ({"callback": 3}, TypeError, "callback is 3: pass a function"),
    "backend": ({"backend": "gpu"}, ValueError, "backend='gpu' cannot be used here"),
    "chunks of one": ({"chunk_size": 2}, ValueError, "chunk_size=2 is for many problems: pass batched=True"),
    "in_dims of one": ({"in_dims": 0}, ValueError, "in_dims=0 is for many problems: pass batched=True"),
    "seed alone": ({"seed": 0}, ValueError, "seed=0 is for several starting points: pass starts="),
    "no starts": ({"starts": 0, "bounds": (-2, 2)}, ValueError, "starts=0: pass a whole number from 1 on"),
    "seed": ({"starts": 2, "seed": -1, "bounds": (-2, 2)}, ValueError, "seed=-1: pass a whole number from 0 on"),
    "starts without bounds": ({"starts": 2}, ValueError, r"starts=2 .* index \(0,\) of x0 has none that is finite"),
    "an infinite bound": (
        {"starts": 2, "bounds": ([-2, -2], [2, np.inf])},
        ValueError,
        r"the variable at index \(1,\) of x0 has none that is finite on both sides: pass finite bounds",
    ),
    "tol": ({"tol": 1e-3}, TypeError, "no argument 'tol': pass gtol, ftol and xtol"),
    "options": ({"options": {}}, TypeError, "no argument 'options': pass the arguments of minimize by themselves"),
    "maxiter": ({"maxiter": 3}, TypeError, "no argument 'maxiter': pass max_steps"),
    "max_iter": ({"max_iter": 3}, TypeError, "no argument 'max_iter': pass max_steps"),
    "hess": ({"hess": None}, TypeError, "no argument 'hess': pass finish='newton'"),
    "constraints": ({"constraints": ()}, TypeError, "no argument 'constraints': pass bounds and frozen"),
    "finish": ({"finish": "newton"}, TypeError, "no argument 'finish': pass tensors to rprop_kernels.torch.minimize"),
    "unknown": ({"learning_rate": 3}, TypeError, "no argument 'learning_rate'"),
    "0-d batch": ({"fun": rows_bowl, "x0": 1.0, "batched": True}, ValueError, "x0 has shape \\(\\), but batched=True"),
    "one loss": ({"fun": lambda x: (1.0, x), "batched": True}, ValueError, "1.0 as the losses: return 2 real numbers"),
    "no losses": ({"fun": lambda x: (None, x), "batched": True}, TypeError, "None as the losses: return 2 real"),
    "rows' gradient": (
        {"fun": lambda x: (np.ones(2), x[0]), "batched": True},
        ValueError,
        r"the gradient has shape \(\), x has shape \(2,\)",
    ),
    "chunk_size": ({"batched": True, "chunk_size": 0}, ValueError, "chunk_size=0: pass a whole number from 1 on"),
    "in_dims missing": (
        {"batched": True, "args": (GRID, 3.0, np.ones((2, 2)))},
        ValueError,
        r"shapes \(4,\), None, \(2, 2\): pass in_dims.* 2 problems.*perhaps in_dims=\(None, None, 0\)",
    ),
    "in_dims length": ({"batched": True, "args": (GRID,), "in_dims": (0, 0)}, ValueError, r"in_dims=\(0, 0\) for 1"),
    "in_dims range": ({"batched": True, "args": (GRID,), "in_dims": (1,)}, ValueError, r"in_dims\[0\]=1 .*\(4,\)"),
    "in_dims count": (
        {"batched": True, "args": (GRID,), "in_dims": 0},
        ValueError,
        r"args\[0\] has shape \(4,\), whose dimension 0 does not count the 2 problems: pass one entry for each",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_refused_before_the_first_step(case):
    change, error, text = BAD[case]
    x0, steps = np.array([1.0, 1.0]), []
    call = {"fun": bowl, "x0": x0, "jac": True, "callback": steps.append} | change
    with pytest.raises(error, match=text) as caught:
        minimize(**call)
    assert x0.tolist() == [1.0, 1.0] and not steps
    result = getattr(caught.value, "result", None)
    assert result is None or not np.any(result.nit)
