"""The methods for scipy.optimize.minimize: known optima, scipy's calling conventions, stopping, refusals."""

import inspect
import math
import pickle
import warnings

import numpy as np
import pytest

pytest.importorskip("scipy")

from scipy.optimize import Bounds, OptimizeResult, OptimizeWarning, basinhopping, minimize, rosen, rosen_der

from rprop_kernels.numpy import METHODS as CLASSES
from rprop_kernels.scipy import METHODS, Settings, irprop_minus, irprop_plus, minimize_many, rprop_minus, rprop_plus

RULES = ("rprop-", "rprop+", "irprop-", "irprop+")

# ---------------------------------------------------------- standard problems: loss, gradient, start, optimum


def sphere(x):
    return x @ x, 2 * x


def ill_conditioned(x):
    scale = 10.0 ** np.linspace(-2, 4, x.size)
    return 0.5 * scale @ (x - 1) ** 2, scale * (x - 1)


def rosenbrock(x):
    return rosen(x), rosen_der(x)


def beale(x):
    power = np.arange(1, 4)
    r = np.array([1.5, 2.25, 2.625]) - x[0] * (1 - x[1] ** power)
    return r @ r, 2 * np.array([r @ (x[1] ** power - 1), r @ (x[0] * power * x[1] ** (power - 1))])


def booth(x):
    r = np.array([x[0] + 2 * x[1] - 7, 2 * x[0] + x[1] - 5])
    return r @ r, 2 * np.array([r[0] + 2 * r[1], 2 * r[0] + r[1]])


def matyas(x):
    return 0.26 * x @ x - 0.48 * x[0] * x[1], 0.52 * x - 0.48 * x[::-1]


def himmelblau(x):
    a, b = x[0] ** 2 + x[1] - 11, x[0] + x[1] ** 2 - 7
    return a * a + b * b, np.array([4 * x[0] * a + 2 * b, 2 * a + 4 * x[1] * b])


def three_hump_camel(x):
    a, b = x
    g = np.array([4 * a - 4.2 * a**3 + a**5 + b, a + 2 * b])
    return 2 * a**2 - 1.05 * a**4 + a**6 / 6 + a * b + b**2, g


def styblinski_tang(x):
    return 0.5 * np.sum(x**4 - 16 * x**2 + 5 * x), 2 * x**3 - 16 * x + 2.5


def zakharov(x):
    i = 0.5 * np.arange(1, x.size + 1)
    s = i @ x
    return x @ x + s**2 + s**4, 2 * x + (2 * s + 4 * s**3) * i


def dixon_price(x):
    i, r = np.arange(2, x.size + 1), 2 * x[1:] ** 2 - x[:-1]
    g = np.concatenate([[2 * (x[0] - 1)], 8 * i * r * x[1:]])
    g[:-1] -= 2 * i * r
    return (x[0] - 1) ** 2 + i @ r**2, g


def trid(x):
    g = 2 * (x - 1)
    g[1:] -= x[:-1]
    g[:-1] -= x[1:]
    return np.sum((x - 1) ** 2) - x[1:] @ x[:-1], g


FEATURES = np.random.default_rng(0).normal(size=(50, 4))
LABELS = np.sign(FEATURES @ [1.0, -2.0, 3.0, 0.5] + np.sin(np.arange(50)))


def logistic(x):
    margin = LABELS * (FEATURES @ x)
    return np.sum(np.logaddexp(0, -margin)) + 0.5 * x @ x, x - FEATURES.T @ (LABELS / (1 + np.exp(margin)))


VALLEY = -2.903534027771178  # the root of 2 x^3 - 16 x + 2.5 left of 0
PROBLEMS = {  # loss, start, where the optimum is, its loss
    sphere: ([3.0, -4.0, 5.0], [0.0, 0.0, 0.0], 0.0),
    ill_conditioned: ([0.0] * 5, [1.0] * 5, 0.0),
    rosenbrock: ([-1.2, 1.0], [1.0, 1.0], 0.0),
    beale: ([1.0, 1.0], [3.0, 0.5], 0.0),
    booth: ([0.0, 0.0], [1.0, 3.0], 0.0),
    matyas: ([5.0, -3.0], [0.0, 0.0], 0.0),
    himmelblau: ([0.0, 0.0], [3.0, 2.0], 0.0),
    three_hump_camel: ([0.5, 1.0], [0.0, 0.0], 0.0),
    styblinski_tang: ([-1.0] * 4, [VALLEY] * 4, 4 * 0.5 * (VALLEY**4 - 16 * VALLEY**2 + 5 * VALLEY)),
    zakharov: ([1.0] * 4, [0.0] * 4, 0.0),
    dixon_price: ([1.0] * 3, [1.0, 2**-0.5, 2**-0.75], 0.0),
    trid: ([0.0] * 5, [5.0, 8.0, 9.0, 8.0, 5.0], -30.0),
    logistic: ([0.0] * 4, None, None),  # found by scipy's BFGS
}


def named(problem):
    return problem.__name__


@pytest.mark.parametrize("problem", PROBLEMS, ids=named)
def test_the_problems_gradients_are_right(problem):
    x = np.array(PROBLEMS[problem][0]) + 0.3
    numeric = [(problem(x + e)[0] - problem(x - e)[0]) / 2e-6 for e in 1e-6 * np.eye(x.size)]
    np.testing.assert_allclose(problem(x)[1], numeric, rtol=1e-6, atol=1e-6)


def check_optimum(rule, problem, gtol, tolerance):
    """Loss within the square of ``tolerance`` and point within ``tolerance`` of the optimum."""
    start, optimum, least = PROBLEMS[problem]
    if optimum is None:
        reference = minimize(problem, start, jac=True, method="BFGS", options={"gtol": 1e-10})
        optimum, least = reference.x, reference.fun
    result = minimize(problem, start, jac=True, method=METHODS[rule], options={"gtol": gtol, "maxiter": 60_000})
    assert result.success and result.status == 0
    assert abs(result.fun - least) < tolerance**2 * max(1, abs(least))
    np.testing.assert_allclose(result.x, optimum, atol=tolerance)
    assert (problem(result.x)[0], problem(result.x)[1].tolist()) == (result.fun, result.jac.tolist())


@pytest.mark.parametrize("problem", [problem for problem in PROBLEMS if problem is not rosenbrock], ids=named)
@pytest.mark.parametrize("rule", RULES)
def test_the_optimum_is_reached(rule, problem):
    check_optimum(rule, problem, 1e-7, 2e-5)


@pytest.mark.parametrize("rule", ["irprop-", "irprop+"])
def test_the_optimum_of_the_valley_is_reached(rule):
    check_optimum(rule, rosenbrock, 1e-3, 5e-3)  # it is oblique to the axes: thousands of steps for each further digit


@pytest.mark.slow
@pytest.mark.parametrize("rule", RULES)
def test_the_optimum_of_the_valley_is_reached_to_all_digits(rule):
    check_optimum(rule, rosenbrock, 1e-7, 2e-5)


BOUNDS = {  # they cut the path to the optimum, hold it in a corner, leave it inside, or fix a variable
    sphere: ([(1.0, 5.0), (None, -2.0), (None, None)], [1.0, -2.0, 0.0]),
    ill_conditioned: ([(-1.0, 0.5)] * 2 + [(0.0, 4.0)] * 3, [0.5, 0.5, 1.0, 1.0, 1.0]),
    rosenbrock: ([(-2.0, 0.5), (-1.0, 2.0)], [0.5, 0.25]),
    beale: ([(0.0, 2.0), (0.0, 2.0)], None),
    booth: ([(0.0, 5.0), (0.0, 2.5)], None),
    matyas: ([(1.0, 9.0), (-9.0, 9.0)], [1.0, 0.48 / 0.52]),
    himmelblau: ([(0.0, 2.5), (0.0, 5.0)], None),
    three_hump_camel: ([(0.25, 0.75), (-1.0, 1.0)], [0.25, -0.125]),
    styblinski_tang: ([(-2.5, 0.0)] * 2 + [(-5.0, 5.0)] * 2, [-2.5, -2.5, VALLEY, VALLEY]),
    zakharov: ([(1.0, 1.0), (-5.0, 10.0), (-5.0, 10.0), (0.0, 10.0)], None),
    dixon_price: ([(0.0, 10.0), (0.8, 10.0), (0.0, 0.5)], None),
    trid: ([(0.0, 6.0)] * 5, None),
    logistic: ([(-1.0, 1.0), (-1.0, 0.0), (0.0, 9.0), (0.1, 9.0)], None),
}


@pytest.mark.parametrize("problem", BOUNDS, ids=named)
@pytest.mark.parametrize("rule", RULES)
def test_the_optimum_within_bounds_is_reached_without_leaving_them(rule, problem):
    bounds, optimum = BOUNDS[problem]
    low = np.array([-np.inf if pair[0] is None else pair[0] for pair in bounds])
    high = np.array([np.inf if pair[1] is None else pair[1] for pair in bounds])
    start = np.clip(PROBLEMS[problem][0], low, high)
    reference = minimize(
        problem,
        start,
        jac=True,
        method="L-BFGS-B",
        bounds=bounds,
        options={"gtol": 1e-11, "ftol": 1e-16, "maxiter": 1000},
    )
    optimum = reference.x if optimum is None else optimum
    seen = []

    def watched(x):
        seen.append(x.copy())
        return problem(x)

    result = minimize(watched, start, jac=True, method=METHODS[rule], bounds=bounds, options={"gtol": 1e-7})
    assert result.success
    assert all((low <= x).all() and (x <= high).all() for x in seen)
    assert result.fun <= reference.fun + 1e-10 * max(1, abs(reference.fun))
    np.testing.assert_allclose(result.x, optimum, atol=2e-5)


# ------------------------------------------------------------------------------------- calling conventions


@pytest.mark.parametrize("rule", RULES)
def test_the_path_is_that_of_the_optimizer(rule):
    """Every point that fun sees is the one the NumPy class of the same name goes to, bit for bit."""
    seen, w = [], np.array([-1.2, 1.0])
    optimizer = CLASSES[rule](w, lr=0.05, step_sizes=(1e-9, 2.0))

    def watched(x):
        seen.append(x.copy())
        return rosenbrock(x)

    minimize(watched, w, jac=True, method=METHODS[rule], options={"maxiter": 50, "lr": 0.05, "step_sizes": (1e-9, 2.0)})
    assert len(seen) == 51
    for x in seen:
        assert x.tobytes() == w.tobytes()
        loss, g = rosenbrock(w)
        optimizer.step(g, loss)


def test_the_same_search_for_every_form_of_the_gradient():
    separate = minimize(rosen, [-1.2, 1.0], jac=rosen_der, method=irprop_plus, options={"maxiter": 200})
    together = minimize(rosenbrock, [-1.2, 1.0], jac=True, method=irprop_plus, options={"maxiter": 200})
    direct = irprop_plus(rosenbrock, [-1.2, 1.0], jac=True, maxiter=200)
    for result in (together, direct):
        assert dict(result, x=0, jac=0) == dict(separate, x=0, jac=0)
        assert result.x.tobytes() == separate.x.tobytes()
    assert (separate.nit, separate.nfev, separate.njev) == (200, 201, 201)
    assert isinstance(separate, OptimizeResult)
    assert separate.status == 1 and not separate.success and "maxiter" in separate.message


def test_args_reach_both_functions():
    result = minimize(
        lambda x, a, b: a * np.sum((x - b) ** 2),
        [0.0, 0.0],
        args=(2.0, 3.0),
        method=irprop_minus,
        jac=lambda x, a, b: 2 * a * (x - b),
    )
    np.testing.assert_allclose(result.x, 3.0, atol=1e-5)
    assert irprop_minus(lambda x, b: (np.sum((x - b) ** 2), 2 * (x - b)), [0.0], args=3.0, jac=True).success


@pytest.mark.parametrize("scheme, accuracy, points", [("2-point", 1e-6, 1), ("3-point", 1e-9, 2)])
def test_finite_differences_are_right_and_counted(scheme, accuracy, points):
    result = minimize(rosen, [-1.2, 1.0, 0.5], method=irprop_plus, options={"maxiter": 3, "finite_difference": scheme})
    np.testing.assert_allclose(result.jac, rosen_der(result.x), rtol=accuracy)
    assert (result.njev, result.nfev) == (4, 4 * (1 + 3 * points))
    direct = irprop_plus(rosen, [-1.2, 1.0, 0.5], jac=scheme, maxiter=3)
    assert direct.x.tobytes() == result.x.tobytes()


@pytest.mark.parametrize("scheme", ["2-point", "3-point"])
def test_finite_differences_stay_within_the_bounds(scheme):
    low, high = np.array([0.0, 1.0, -1e-9, 2.0]), np.array([0.0, 2.0, 1e-9, 2.0 + 1e-12])

    def watched(x):
        assert (low <= x).all() and (x <= high).all()
        return np.sum((x - 3) ** 2)

    for start in (low, high, (low + high) / 2):
        result = minimize(
            watched, start, method=irprop_plus, bounds=Bounds(low, high), options={"finite_difference": scheme}
        )
        np.testing.assert_array_equal(result.x, high)
        assert result.jac[0] == 0  # fixed: nothing to be evaluated


@pytest.mark.parametrize(
    "bounds",
    [
        Bounds(-1, 0.5),
        Bounds([-1, -1], [0.5, np.inf]),
        [(-1, 0.5), (None, None)],
        np.array([[-1, 0.5], [-np.inf, np.inf]]),
    ],
    ids=["scalars", "arrays", "pairs", "matrix"],
)
def test_kinds_of_bounds(bounds):
    result = minimize(booth, [0.0, 0.0], jac=True, method=irprop_plus, bounds=bounds)
    assert result.x[0] == 0.5 and result.success


def test_callbacks_old_and_new():
    old, new = [], []

    def recent(*, intermediate_result):
        new.append((intermediate_result.x.tolist(), float(intermediate_result.fun)))
        intermediate_result.x[:] = 99  # a copy

    a = minimize(booth, [0.0, 0.0], jac=True, method=irprop_plus, callback=old.append, options={"maxiter": 7})
    b = minimize(booth, [0.0, 0.0], jac=True, method=irprop_plus, callback=recent, options={"maxiter": 7})
    assert len(old) == a.nit == 7
    assert [(x.tolist(), booth(x)[0]) for x in old] == new
    assert a.x.tobytes() == b.x.tobytes()


@pytest.mark.parametrize("style", ["x", "intermediate_result"])
def test_stop_iteration_stops(style):
    count = 0

    def stop(value):
        nonlocal count
        count += 1
        if count == 3:
            raise StopIteration
        return True  # has no effect

    callback = stop if style == "x" else lambda intermediate_result: stop(intermediate_result)
    result = minimize(booth, [0.0, 0.0], jac=True, method=irprop_plus, callback=callback)
    assert (result.nit, result.status, result.success) == (3, 99, False)
    assert result.message == "`callback` raised `StopIteration`."


def test_x0_and_the_callers_gradient_are_not_written_to():
    x0 = np.array([5.0, -5.0])
    buffer = np.zeros(2)

    def fun(x):
        buffer[:] = 2 * x  # the same memory each time
        x[:] = np.nan  # writes into its argument
        return float(np.sum(buffer**2)) / 4, buffer

    seen = []
    result = minimize(fun, x0, jac=True, method=irprop_plus, callback=seen.append)
    np.testing.assert_allclose(result.x, 0, atol=1e-5)
    np.testing.assert_array_equal(result.jac, 2 * result.x)
    assert np.isfinite(seen).all()
    assert x0.tolist() == [5.0, -5.0]
    frozen = np.ones(2)
    frozen.setflags(write=False)
    minimize(lambda x: (float(np.sum(x)), frozen), x0, jac=True, method=rprop_minus, options={"maxiter": 3})


def test_kinds_of_x0():
    for x0 in (3, [3], np.array([3.0], np.float32), np.array([3], ">i4")):
        result = minimize(sphere, x0, jac=True, method=irprop_plus)
        assert result.x.dtype == np.float64 and abs(result.x[0]) < 1e-5


def test_unused_arguments_warn():
    for name, value in (
        ("hess", lambda x: np.eye(2)),
        ("hessp", lambda x, p: p),
        ("constraints", {"type": "eq", "fun": lambda x: x[0]}),
    ):
        for call in (minimize, lambda *args, method, **options: method(*args, **options)):
            with pytest.warns(RuntimeWarning, match=rf"Method irprop\+ .*; {name} is ignored") as caught:
                call(booth, [0.0, 0.0], jac=True, method=irprop_plus, **{name: value})
            assert caught[0].filename == __file__
    with pytest.warns(OptimizeWarning, match="Unknown solver options: maxitre, foo") as caught:
        minimize(booth, [0.0, 0.0], jac=True, method=irprop_plus, options={"maxitre": 3, "foo": 1})
    assert caught[0].filename == __file__
    with pytest.warns(OptimizeWarning, match="Unknown solver options: foo") as caught:
        minimize_many(lambda x: (np.sum(x**2, axis=1), 2 * x), np.ones((2, 2)), foo=1)
    assert caught[0].filename == __file__


@pytest.mark.parametrize("method", [rprop_minus, rprop_plus, irprop_minus, irprop_plus])
def test_methods_are_picklable_and_documented(method):
    assert pickle.loads(pickle.dumps(method)) is method
    assert method.__doc__.startswith({"r": "Rprop", "i": "iRprop"}[method.__name__[0]])
    for option in ("maxiter", "maxfev", "gtol", "xtol", "ftol", "window", "target", "lr", "finite_difference"):
        assert option in method.__doc__
    assert "args" in inspect.signature(method).parameters


def test_disp_prints_a_summary(capsys):
    minimize(booth, [0.0, 0.0], jac=True, method=irprop_plus, options={"disp": True})
    assert "terminated successfully" in capsys.readouterr().out


# --------------------------------------------------------------------------------------------------- stopping


def run(**options):
    return minimize(ill_conditioned, [0.0] * 3, jac=True, method=irprop_plus, options=options)


def test_stopping_at_a_gradient():
    result = run(gtol=1e-2)
    assert result.success and "gtol" in result.message and np.max(np.abs(result.jac)) <= 1e-2
    assert np.max(np.abs(run(gtol=1e-12, xtol=0).jac)) <= 1e-12
    tol = minimize(ill_conditioned, [0.0] * 3, jac=True, method=irprop_plus, tol=1e-2)
    assert tol.nit == result.nit


def test_at_a_bound_only_slopes_that_point_inwards_count():
    for start, low, high in ((1.0, 1.0, 2.0), (-1.0, -2.0, -1.0)):
        result = minimize(sphere, [start], jac=True, method=irprop_plus, bounds=[(low, high)])
        assert (result.x[0], result.nit, result.success) == (start, 0, True)


def test_stopping_at_small_steps():
    result = run(gtol=0, xtol=1e-3)
    assert result.success and "xtol" in result.message
    assert 1e-12 < np.max(np.abs(result.x - 1)) < 1e-2
    flat = minimize(lambda x: (abs(x[0]), np.sign(x)), [1.0], jac=True, method=irprop_plus)
    assert flat.success and "xtol" in flat.message and abs(flat.x[0]) < 1e-9


def test_stopping_when_the_loss_no_longer_changes():
    result = minimize(
        lambda x: (1 + sphere(x)[0], sphere(x)[1]),
        [1.0, 2.0],
        jac=True,
        method=irprop_plus,
        options={"gtol": 0, "xtol": 0, "ftol": 1e-3, "window": 10},
    )
    assert result.success and "ftol" in result.message
    noise = np.random.default_rng(0)
    stuck = minimize(
        lambda x: (1.0, noise.normal(size=2)), [1.0, 1.0], jac=True, method=irprop_plus, options={"window": 20}
    )
    assert (stuck.nit, stuck.status) == (20, 4) and "window" in stuck.message
    noise = np.random.default_rng(0)
    never = minimize(
        lambda x: (1.0, noise.normal(size=2)),
        [1.0, 1.0],
        jac=True,
        method=irprop_plus,
        options={"window": 51, "maxiter": 50},
    )
    assert never.status == 1


def test_stopping_at_a_target():
    result = run(target=0.5)
    assert result.success and "target" in result.message and result.fun <= 0.5
    assert run(maxiter=result.nit - 1).fun > 0.5


def test_stopping_after_iterations_and_evaluations():
    assert [(r.nit, r.nfev, r.status) for r in (run(maxiter=0), run(maxiter=4))] == [(0, 1, 1), (4, 5, 1)]
    assert [(r.nit, r.nfev, r.status) for r in (run(maxfev=1), run(maxfev=5))] == [(0, 1, 2), (4, 5, 2)]
    result = minimize(rosen, [-1.2, 1.0], method=irprop_plus, options={"maxfev": 11})
    assert (result.nfev, result.status) == (9, 2)  # three a gradient: a fourth would be one too many
    assert "maxfev" in result.message


def test_the_best_point_is_returned_not_the_last():
    losses = iter([5.0, 1.0, 4.0, 3.0, 7.0])
    seen = []

    def fun(x):
        seen.append(x.copy())
        return next(losses), np.array([1.0, float(len(seen))])

    result = minimize(fun, [0.0, 0.0], jac=True, method=irprop_plus, options={"maxiter": 4})
    assert result.fun == 1.0 and result.jac.tolist() == [1.0, 2.0]
    assert result.x.tolist() == seen[1].tolist()


# ----------------------------------------------------------------------------------------------- nonfinite losses


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("rule", RULES)
def test_a_region_without_a_finite_loss_is_left(rule, bad):
    def fun(x):  # log's domain ends at 0, the optimum is at 0.01
        if x[0] <= 0:
            return bad, np.array([math.nan])
        return x[0] - 0.01 * math.log(x[0]), np.array([1 - 0.01 / x[0]])

    result = minimize(fun, [5.0], jac=True, method=METHODS[rule], options={"lr": 1.0})
    assert result.success and abs(result.x[0] - 0.01) < 1e-5


@pytest.mark.parametrize("rule", RULES)
def test_a_loss_that_stays_nonfinite_is_reported(rule):
    result = minimize(lambda x: (math.nan, np.ones(2)), [1.0, 1.0], jac=True, method=METHODS[rule])
    assert (result.status, result.success, result.nfev) == (3, False, 1)
    assert "NaN or infinite" in result.message and math.isnan(result.fun)
    assert result.x.tolist() == [1.0, 1.0]
    losses = iter([2.0] + [math.nan] * 100)
    result = minimize(lambda x: (next(losses), np.ones(2)), [1.0, 1.0], jac=True, method=METHODS[rule])
    assert (result.status, result.success, result.nfev) == (3, False, 51)
    assert "in a row" in result.message and result.fun == 2.0 and result.x.tolist() == [1.0, 1.0]


def test_only_consecutive_nonfinite_losses_end_the_search():
    calls = 0

    def fun(x):
        nonlocal calls
        calls += 1
        return (math.nan if calls % 2 == 0 else 1.0 + 1 / calls), np.ones(1)

    result = minimize(fun, [1.0], jac=True, method=irprop_plus, options={"maxiter": 300, "xtol": 0})
    assert (result.status, result.nfev) == (1, 301)


def test_a_nonfinite_loss_needs_no_finite_differences():
    calls = 0

    def fun(x):
        nonlocal calls
        calls += 1
        return math.inf if x[0] < 0.5 else (x[0] - 0.6) ** 2

    result = minimize(fun, [3.0], method=irprop_plus, options={"lr": 2.0})
    assert result.success and abs(result.x[0] - 0.6) < 1e-4
    assert calls == result.nfev < 2 * result.njev


# ------------------------------------------------------------------------------------------------- bad input

BAD = {
    "no pair": ({"fun": lambda x: 1.0}, TypeError, r"fun returned 1.0: with jac=True return \(loss, gradient\)"),
    "three": ({"fun": lambda x: (1.0, x, x)}, TypeError, r"with jac=True return \(loss, gradient\)"),
    "nothing": ({"fun": lambda x: None}, TypeError, r"fun returned None: with jac=True"),
    "no loss": ({"fun": lambda x: (None, x)}, TypeError, "fun returned None as the loss: return one real number"),
    "loss vector": ({"fun": lambda x: (x, x)}, TypeError, r"an array of float64 and shape \(2,\) as the loss"),
    "complex loss": ({"fun": lambda x: (1j, x)}, TypeError, "fun returned 1j as the loss"),
    "pair without jac": ({"fun": lambda x: (1.0, x), "jac": None}, TypeError, r"\(loss, gradient\) only with jac=True"),
    "gradient shape": (
        {"fun": lambda x: (1.0, np.ones((2, 1)))},
        ValueError,
        r"the gradient has shape \(2, 1\), x has shape \(2,\): return one of x's shape",
    ),
    "short gradient": ({"fun": lambda x: (1.0, 1.0)}, ValueError, r"the gradient has shape \(\)"),
    "gradient kind": ({"fun": lambda x: (1.0, ["a", "b"])}, TypeError, "return an array of real numbers"),
    "jac shape": ({"fun": rosen, "jac": lambda x: np.ones(3)}, ValueError, r"the gradient has shape \(3,\)"),
    "crossed": ({"bounds": [(0, 1), (3, 2)]}, ValueError, "bounds of x0 cross.*lower <= upper"),
    "too few bounds": ({"bounds": [(0, 1)]}, ValueError, r"1 bounds for 2 variables: pass one pair \(low"),
    "bounds shape": ({"bounds": Bounds([0, 0, 0], 1)}, ValueError, "for 2 variables: pass one number, or one"),
    "no bounds": ({"bounds": [1, 2]}, ValueError, "bounds must be a scipy.optimize.Bounds or a sequence of pairs"),
    "complex x0": ({"x0": [1j, 0.0]}, TypeError, "x0 is .*: pass an array of real numbers"),
    "empty x0": ({"x0": []}, ValueError, r"x0 has shape \(0,\): pass an array of shape \(n,\) that is not empty"),
    "scheme": (
        {"fun": rosen, "jac": None, "options": {"finite_difference": "cs"}},
        ValueError,
        "choose one of 2-point",
    ),
    "window": ({"options": {"window": 0}}, ValueError, "window=0: pass a whole number from 1 on"),
    "lr": ({"options": {"lr": 0}}, ValueError, "lr is the first step size"),
    "etas": ({"options": {"etas": (2, 1)}}, ValueError, "Invalid eta values"),
    "backend": ({"options": {"backend": "gpu"}}, ValueError, "backend='gpu' cannot be used here"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_refused_with_the_remedy(case):
    change, error, text = BAD[case]
    call = {"fun": rosenbrock, "x0": [1.0, 1.0], "jac": True, "method": irprop_plus} | change
    with pytest.raises(error, match=text):
        minimize(**call)


def test_bad_input_of_direct_calls():
    with pytest.raises(ValueError, match=r"x0 has shape \(1, 2\)"):
        irprop_plus(rosenbrock, [[1.0, 2.0]], jac=True)
    with pytest.raises(TypeError, match="fun is a int: pass a function of x"):
        irprop_plus(3, [1.0])


def test_errors_of_fun_are_its_own():
    def fun(x):
        raise ZeroDivisionError("mine")

    with pytest.raises(ZeroDivisionError, match="mine"):
        minimize(fun, [1.0], jac=True, method=irprop_plus)


# ---------------------------------------------------------------------------------------------- many starts


def himmelblau_rows(x):
    a, b = x[:, 0] ** 2 + x[:, 1] - 11, x[:, 0] + x[:, 1] ** 2 - 7
    return a * a + b * b, np.stack((4 * x[:, 0] * a + 2 * b, 2 * a + 4 * x[:, 1] * b), axis=1)


@pytest.mark.parametrize("rule", RULES)
def test_rows_follow_the_paths_of_single_searches(rule):
    starts = np.random.default_rng(0).uniform(-4, 4, (6, 2))
    original = starts.copy()
    many = minimize_many(himmelblau_rows, starts, method=rule, maxiter=40, gtol=0, xtol=0)
    assert starts.tobytes() == original.tobytes()
    for row, start in enumerate(starts):
        one = minimize(himmelblau, start, jac=True, method=METHODS[rule], options={"maxiter": 40, "gtol": 0, "xtol": 0})
        assert one.x.tobytes() == many.all_x[row].tobytes()
        assert (one.fun, one.jac.tolist()) == (many.all_fun[row], many.all_jac[row].tolist())
        assert many.all_status[row] == 1


def test_many_starts_find_every_minimum_and_return_the_best():
    optima = np.array([[3.0, 2.0], [-2.805118, 3.131312], [-3.779310, -3.283186], [3.584428, -1.848127]])
    starts = np.random.default_rng(1).uniform(-5, 5, (40, 2))
    calls = []
    result = minimize_many(lambda x: calls.append(x.shape) or himmelblau_rows(x), starts, gtol=1e-6)
    nearest = np.linalg.norm(result.all_x[:, None] - optima, axis=-1)
    assert (nearest.min(axis=1) < 1e-5).all()
    assert set(nearest.argmin(axis=1)) == {0, 1, 2, 3}
    assert result.all_success.all() and result.success and result.status == 0
    assert result.fun == result.all_fun.min() == result.all_fun[result.row]
    assert result.x.tobytes() == result.all_x[result.row].tobytes()
    assert calls[0] == (40, 2) and calls == sorted(calls, reverse=True)  # rows leave
    assert len(calls) == result.nfev == result.njev == result.nit + 1 == result.all_nit.max() + 1
    assert result.all_message == [result.message] * 40


def test_rows_share_bounds_and_a_nonfinite_row_affects_no_other():
    def fun(x, shift):
        losses, gradients = himmelblau_rows(x + shift)
        losses[x[:, 0] > 4.5] = math.nan
        return losses, gradients

    result = minimize_many(fun, [[4.9, 0.0], [1.0, 1.0]], args=(0.0,), bounds=[(0, 4.95), (0, 1.5)], maxiter=300)
    single = minimize(himmelblau, [1.0, 1.0], jac=True, method=irprop_plus, bounds=[(0, 4.95), (0, 1.5)])
    assert result.row == 1 and result.all_status.tolist() == [3, 0]
    np.testing.assert_allclose(result.all_x[1], single.x, atol=1e-5)
    assert result.all_success[1] and (result.all_x <= [4.95, 1.5]).all()


def test_a_row_that_stays_nonfinite_is_reported():
    def fun(x, *, rows):
        return np.where(rows == 0, math.nan, np.sum(x**2, axis=1)), 2 * x

    result = minimize_many(fun, np.ones((3, 2)))
    assert result.all_status.tolist() == [3, 0, 0] and result.row == 1 and result.success
    assert math.isnan(result.all_fun[0])


def test_a_row_reports_its_first_reason_to_stop():
    scale = np.array([[1.0], [1e-7]])  # the second row is flat from the start, and is so at the last step too
    result = minimize_many(
        lambda x, rows: (np.sum(scale[rows] * x**2, axis=1), 2 * scale[rows] * x), np.ones((2, 2)), maxiter=5
    )
    assert result.all_status.tolist() == [1, 0]
    assert "maxiter" in result.all_message[0] and "gtol" in result.all_message[1]


def test_a_callback_sees_all_rows():
    seen = []

    def callback(x, losses):
        seen.append((x.shape, losses.shape))
        if len(seen) == 2:
            raise StopIteration

    result = minimize_many(himmelblau_rows, np.zeros((3, 2)), callback=callback)
    assert seen == [((3, 2), (3,))] * 2 and result.all_status.tolist() == [99] * 3


def test_a_batch_of_one_row():
    result = minimize_many(himmelblau_rows, [[1.0, 1.0]])
    assert result.all_x.shape == (1, 2) and result.success
    assert np.linalg.norm(result.x - [3, 2]) < 1e-5


@pytest.mark.parametrize(
    "fun, error, text",
    [
        (lambda x: (1.0, x), ValueError, "fun returned 1.0 as the losses: return 3 real numbers"),
        (lambda x: (np.ones(2), x), ValueError, r"an array of float64 and shape \(2,\) as the losses: return 3 real"),
        (lambda x: (np.ones(3), x[0]), ValueError, r"the gradient has shape \(2,\), x has shape \(3, 2\)"),
        (lambda x: np.ones(3), TypeError, r"return \(losses, gradients\)"),
    ],
)
def test_invalid_results_of_a_batch(fun, error, text):
    with pytest.raises(error, match=text):
        minimize_many(fun, np.ones((3, 2)))


def test_bad_starts():
    with pytest.raises(ValueError, match=r"starts has shape \(2,\): pass an array of shape \(B, n\)"):
        minimize_many(himmelblau_rows, [1.0, 1.0])
    with pytest.raises(ValueError, match="no method 'sgd'"):
        minimize_many(himmelblau_rows, np.ones((2, 2)), method="sgd")


# ------------------------------------------------------------------------------------------- scipy's manners


def test_a_start_outside_its_bounds_is_moved_inside():
    bounds = [(0, 1), (2, 3)]
    inside = minimize(booth, [1.0, 2.0], jac=True, method=irprop_plus, bounds=bounds)
    rounding = minimize(
        booth, [np.nextafter(1.0, 2), np.nextafter(2.0, 0)], jac=True, method=irprop_plus, bounds=bounds
    )
    text = r"x0 starts outside its bounds: 1.5 at index \(0,\) is not within \[0.0, 1.0\]; the search starts"
    with pytest.warns(OptimizeWarning, match=text) as caught:
        outside = minimize(booth, [1.5, 2.0], jac=True, method=irprop_plus, bounds=bounds)
    assert caught[0].filename == __file__
    assert inside.x.tobytes() == rounding.x.tobytes() == outside.x.tobytes() and inside.nit == outside.nit
    with pytest.warns(OptimizeWarning, match=r"starts starts outside its bounds: 1.0 at index \(0, 1\)"):
        many = minimize_many(himmelblau_rows, np.ones((2, 2)), bounds=bounds)
    assert (many.all_x >= [0, 2]).all()


def test_basinhopping_beyond_the_bounds():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", OptimizeWarning)  # of steps beyond the bounds
        result = basinhopping(
            lambda x: (himmelblau(x)[0] + x[0], himmelblau(x)[1] + np.array([1.0, 0.0])),
            [3.0, 2.0],
            niter=20,
            stepsize=6.0,
            minimizer_kwargs={"jac": True, "method": irprop_plus, "bounds": [(-4, 4), (-4, 4)]},
            rng=0,
        )
    assert result.lowest_optimization_result.success and result.x[0] < -3


def test_a_variable_whose_bounds_are_equal_never_moves_and_may_have_any_gradient():
    def fun(x):
        loss, grad = sphere(x - 1)
        return loss, np.array([math.nan, grad[1]])

    result = minimize(fun, [5.0, 3.0], jac=True, method=irprop_plus, bounds=[(5, 5), (0, 4)])
    assert result.success and result.x[0] == 5 and abs(result.x[1] - 1) < 1e-5
    many = minimize_many(
        lambda x: (np.sum((x - 1) ** 2, axis=1), np.stack([x[:, 0] * np.nan, 2 * x[:, 1] - 2], axis=1)),
        [[5.0, 3.0], [5.0, 2.0]],
        bounds=[(5, 5), (0, 4)],
    )
    assert many.all_success.all() and (many.all_x[:, 0] == 5).all()


def test_an_object_with_fun_and_jac_that_can_be_called_is_a_function():
    class Problem:
        def fun(self, x):
            return 901.0

        def __call__(self, x):
            return sphere(x)[0]

        def jac(self, x):
            return sphere(x)[1]

    problem = Problem()
    for result in (
        minimize(problem, [3.0, -4.0], jac=problem.jac, method=irprop_plus),
        irprop_plus(problem, [3.0, -4.0], jac=problem.jac),
    ):
        assert result.success and result.fun < 1e-9


@pytest.mark.parametrize("rule", RULES)
def test_the_scale_of_the_variables(rule):
    scale = np.array([2.0**-30, 2.0**20])
    plain = minimize(booth, [0.0, 0.0], jac=True, method=METHODS[rule], options={"maxiter": 100})
    scaled = minimize(
        lambda x: (booth(x / scale)[0], booth(x / scale)[1] / scale),
        [0.0, 0.0],
        jac=True,
        method=METHODS[rule],
        options={"maxiter": 100, "x_scale": scale},
    )
    assert scaled.x.tobytes() == (plain.x * scale).tobytes() and scaled.nit == plain.nit


def test_ctrl_c_is_raised_as_by_scipys_methods():
    """A loop around the search, such as basinhopping or the restarts of a Gaussian process, must end, too."""

    def fun(x):
        if x[0] < 2.9:
            raise KeyboardInterrupt
        return sphere(x)

    with pytest.raises(KeyboardInterrupt) as caught:
        minimize(fun, [3.0, 3.0], jac=True, method=irprop_plus)
    assert caught.value.result.fun < 18


def test_the_defaults_are_those_of_the_contract():
    settings = Settings()
    assert (settings.maxiter, settings.lr, settings.ftol, settings.window) == (3000, 0.01, 1e-9, 50)
    with pytest.raises(ValueError, match=r"ftol=-1.0: pass a number from 0 on"):
        run(ftol=-1.0)
    assert run(patience=1, gtol=0, lr=40.0).status == 5


# ------------------------------------------------------------------------------------------- false successes


def walled(x):
    """Infinite where x[0] < 1, so that the minimum is on the edge."""
    return np.inf if x[0] < 1 else float(x @ x), 2 * x


def half_nan(x):
    return float(x @ x), np.array([np.nan, 2 * x[1]])


def wrong_sign(x):
    return float(x @ x), -2 * x


def no_gradient(x):
    return float(x @ x), x * np.nan


@pytest.mark.parametrize(
    ("fun", "status", "message"),
    [
        (no_gradient, 3, "evaluations in a row"),
        (half_nan, 3, "evaluations in a row"),
        (walled, 3, "next to points where the loss"),
        (wrong_sign, 4, "check the gradient's sign"),
    ],
)
def test_standing_still_is_not_a_success(fun, status, message):
    result = minimize(fun, [3.0, -4.0], jac=True, method=irprop_plus)
    assert (result.success, result.status) == (False, status) and message in result.message
    many = minimize_many(lambda x: tuple(map(np.array, zip(*map(fun, x), strict=True))), [[3.0, -4.0]] * 2)
    assert many.all_status.tolist() == [status] * 2 and not many.success


def test_a_nonfinite_loss_on_the_path_is_not_a_failure():
    def fragile(x):
        return np.nan if x[0] < -2 else float(x @ x), 2 * x

    result = minimize(fragile, [3.0, -4.0], jac=True, method=irprop_plus, options={"lr": 10.0})
    assert result.success and np.abs(result.x).max() < 1e-4


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"options": {"maxiter": "5"}}, ValueError, "maxiter='5': pass a number from 0 on"),
        ({"options": {"maxiter": -1}}, ValueError, "maxiter=-1"),
        ({"options": {"maxfev": math.nan}}, ValueError, "maxfev"),
        ({"options": {"gtol": "x"}}, ValueError, "gtol='x': pass a number"),
        ({"options": {"window": 2.5}}, ValueError, "window=2.5: pass a whole number"),
        ({"bounds": [("a", "b")]}, ValueError, "pairs"),
        ({"callback": 3}, TypeError, "callback is 3: pass a function"),
        ({"x0": [math.nan]}, ValueError, "x0 has a NaN"),
    ],
)
def test_options_of_the_wrong_kind_are_named(given, error, message):
    with pytest.raises(error, match=message):
        minimize(**{"fun": lambda x: (float(x @ x), 2 * x), "x0": [1.0], "jac": True, "method": irprop_plus} | given)


def test_many_starts_name_their_own_arguments():
    def fun(x):
        return (x**2).sum(axis=1), 2 * x

    starts = np.ones((3, 2))
    with pytest.raises(ValueError, match=r"^bounds of starts cross"):
        minimize_many(fun, starts, bounds=[(3, 2)] * 2)
    with pytest.raises(ValueError, match=r"^x_scale has shape \(5,\), starts \(3, 2\)"):
        minimize_many(fun, starts, x_scale=np.ones(5))
    with pytest.raises(TypeError, match=r"return \(losses, gradients\)"):
        minimize_many(lambda x: fun(x)[0], starts)
    with pytest.raises(TypeError, match="options is no argument of minimize_many"):
        minimize_many(fun, starts, options={"maxiter": 3})
    with pytest.raises(TypeError, match="callback is 3"):
        minimize_many(fun, starts, callback=3)
