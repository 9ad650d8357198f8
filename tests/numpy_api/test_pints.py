"""The optimisers for PINTS: the rules to the bit, its controller with boundaries and transformations, errors."""

import copy
import math
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from oracle import RULES, Oracle
from special_values import assert_same_bits, gradients

pytest.importorskip("pints", reason="pints is not installed: it comes with the extra pints")

import pints
import pints.toy

import rprop_kernels.pints as ours
from rprop_kernels.install import install_command
from rprop_kernels.testing import check_rprop

pytestmark = pytest.mark.clients

OURS = {
    "rprop-": ours.RpropMinus,
    "rprop+": ours.RpropPlus,
    "irprop-": ours.IRpropMinus,
    "irprop+": ours.IRpropPlus,
}
LOSSES = (2.0, 1.0, 1.5, 1.5, 1.25, 3.0, 2.0, 2.5, 0.5)


def bowl(x, centre=0.0):
    return ((x - centre) ** 2).sum(), 2 * (x - centre)


def run(optimiser, function, steps):
    """Run a loop of a user; return all points."""
    points = []
    for _ in range(steps):
        (x,) = optimiser.ask()
        points.append(x)
        optimiser.tell([function(x)])
    return points


def controller(function, x0, method, **options):
    made = pints.OptimisationController(function, x0, method=method, **options)
    made.set_log_to_screen(False)
    return made


def logistic(noise=1.0):
    model, times = pints.toy.LogisticModel(), np.linspace(0, 100, 60)
    values = model.simulate([0.1, 50], times) + noise * np.random.default_rng(1).standard_normal(60)
    return pints.SingleOutputProblem(model, times, values)


# ------------------------------------------------------------------------------------------------- the rules


@pytest.mark.parametrize("rule", RULES)
def test_every_step_equals_the_oracle(rule):
    rng = np.random.default_rng(0)
    w, sigma = rng.standard_normal(40), 10.0 ** rng.uniform(-3, 1, 40)
    optimiser = OURS[rule](w, sigma)
    oracle = Oracle(rule, list(w), "float64", lr=sigma, step_sizes=(0.0, 2.0**31))
    for t, g in enumerate(gradients(rng, w.shape, np.float64, 30)):
        loss, given = LOSSES[t % len(LOSSES)], g.copy()
        (x,) = optimiser.ask()
        assert_same_bits(x, np.array([weight.w for weight in oracle.weights]))
        optimiser.tell([(loss, given)])
        assert_same_bits(given, g)  # only read
        oracle.step(list(g), loss)
        assert_same_bits(optimiser.x_guessed(), x)
        assert optimiser.f_guessed() == loss


@pytest.mark.parametrize("rule", RULES)
def test_conformance(rule):
    def make_stepper(w, *, lr, etas, step_sizes):
        optimiser = OURS[rule](w, lr)
        optimiser.set_etas(*etas)
        optimiser.set_hyper_parameters(step_sizes)
        optimiser.ask()

        def step(g, loss):
            optimiser.tell([(loss, g)])
            return optimiser.ask()[0]

        return step

    report = check_rprop(make_stepper, rule, dtypes=["float64"])
    assert report.departure is None and not report.overwrites, str(report)


def test_theirs_is_another_rule():
    """The reason for these classes: iRprop- of PINTS grows before the first move, and writes to the gradient."""

    def make_stepper(w, *, lr, etas, step_sizes):
        optimiser = pints.IRPropMin(w, lr)
        optimiser.set_hyper_parameters(step_sizes)
        optimiser.ask()

        def step(g, loss):
            optimiser.tell([(loss, g)])
            return np.array(optimiser.ask()[0])

        return step

    report = check_rprop(make_stepper, "irprop-", dtypes=["float64"])
    assert report.departure is not None and report.overwrites


@pytest.mark.parametrize("rule", RULES)
def test_the_best_point_is_remembered(rule):
    optimiser = OURS[rule]([3.0, -4.0], 1.0)
    assert optimiser.f_best() == math.inf and optimiser.x_best().tolist() == [3.0, -4.0] and not optimiser.running()
    points = run(optimiser, bowl, 40)
    losses = [bowl(x)[0] for x in points]
    assert optimiser.running() and optimiser.f_best() == min(losses)
    assert_same_bits(optimiser.x_best(), points[int(np.argmin(losses))])
    assert optimiser.needs_sensitivities() and optimiser.name() == rule.replace("rprop", "Rprop")


@pytest.mark.parametrize("rule", RULES)
def test_a_loss_that_is_not_finite_takes_the_move_back(rule):
    def function(x):
        return (x - 2 * np.log(x)).sum() if (x > 0).all() else math.nan, 1 - 2 / x

    optimiser = OURS[rule]([4.0], 3.0)
    run(optimiser, function, 60)
    np.testing.assert_allclose(optimiser.x_best(), [2.0], atol=1e-3)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.filterwarnings("ignore:the first loss is")
def test_a_start_without_a_finite_loss_stops(rule):
    optimiser = OURS[rule]([1.0])
    assert optimiser.stop() is False
    run(optimiser, lambda x: (math.inf, x), 1)
    assert "starting point is not finite" in optimiser.stop()
    run(optimiser, lambda x: (1.0, x), 1)
    assert optimiser.stop() is False
    run(optimiser, lambda x: (math.inf, x), 1)
    assert optimiser.stop() is False


# --------------------------------------------------------------------------------------- the library's controller


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("x0", [[-1.5, 0.5], [4.0, -3.0]])
def test_the_example_of_the_library_with_our_optimiser(rule, x0):
    """A parabolic error, and the logistic model: at least the result of their iRprop-."""
    x, f = controller(pints.toy.ParabolicError(), x0, OURS[rule]).run()
    _, theirs = controller(pints.toy.ParabolicError(), x0, pints.IRPropMin).run()
    assert f <= theirs and np.abs(x).max() < 1e-4
    score = pints.SumOfSquaresError(logistic())
    boundaries = pints.RectangularBoundaries([0, 5], [1, 500])
    x, f = controller(score, [0.5, 200], OURS[rule], boundaries=boundaries).run()
    _, theirs = controller(score, [0.5, 200], pints.IRPropMin, boundaries=boundaries).run()
    assert f <= theirs and abs(x[0] - 0.1) < 0.01 and abs(x[1] - 50) < 1


@pytest.mark.parametrize("rule", RULES)
def test_maximising_a_likelihood(rule):
    likelihood = pints.GaussianKnownSigmaLogLikelihood(logistic(), 1.0)
    x, f = controller(likelihood, [0.2, 20], OURS[rule]).run()
    assert f == likelihood(x) > likelihood([0.1, 50]) and abs(x[1] - 50) < 1


@pytest.mark.parametrize("rule", RULES)
def test_boundaries_hold_the_result(rule):
    asked = []

    class Bowl(pints.ErrorMeasure):
        def n_parameters(self):
            return 3

        def evaluateS1(self, x):
            asked.append(np.array(x))
            return bowl(x, np.array([2.0, -2.0, 0.25]))

    boundaries = pints.RectangularBoundaries([0.0, 0.0, 0.0], [1.0, 1.0, 1.0])
    x, _ = controller(Bowl(), [0.5, 0.5, 0.75], OURS[rule], boundaries=boundaries).run()
    assert x[:2].tolist() == [np.nextafter(1.0, 0.0), 0.0] and abs(x[2] - 0.25) < 1e-5
    assert all(boundaries.check(point) for point in asked)


N = 60
TRANSFORMATIONS = {
    "log": pints.LogTransformation(N),
    "scaling": pints.ScalingTransformation(10.0 ** np.random.default_rng(3).uniform(-5, 5, N)),
    "composed": pints.ComposedTransformation(pints.LogTransformation(20), pints.IdentityTransformation(40)),
}


@pytest.mark.parametrize("transformation", TRANSFORMATIONS)
@pytest.mark.parametrize("rule", RULES)
def test_transformed_boundaries_hold_in_the_model_space(rule, transformation):
    """A bound of the search space, transformed back, may be a rounding outside."""
    rng = np.random.default_rng(4)
    lower = 10.0 ** rng.uniform(-6, 6, N)
    upper = lower * rng.uniform(1.5, 3, N)
    lower[:2], upper[:2] = (0.5, 1.0), (1.0, 2.0)  # the logarithm of a bound is 0
    slope = rng.choice([-1.0, 1.0], N)
    slope[:2] = -1, 1
    asked = []

    class Corner(pints.ErrorMeasure):
        def n_parameters(self):
            return N

        def evaluateS1(self, x):
            asked.append(np.array(x))
            return slope @ x, slope

    boundaries = pints.RectangularBoundaries(lower, upper)
    search = TRANSFORMATIONS[transformation]
    made = controller(Corner(), lower * 1.25, OURS[rule], boundaries=boundaries, transformation=search)
    made.set_max_iterations(200)
    x, _ = made.run()
    assert all(boundaries.check(point) for point in asked) and boundaries.check(x)
    np.testing.assert_allclose(x, np.where(slope > 0, lower, upper), rtol=1e-9)


@pytest.mark.parametrize("rule", RULES)
def test_other_boundaries_shorten_moves(rule):
    """On an oblique boundary a rule for each parameter stops early, as that of PINTS does."""

    class Circle(pints.Boundaries):
        def n_parameters(self):
            return 2

        def check(self, x):
            return (x @ x) < 1

    optimiser = OURS[rule]([0.5, 0.0], 0.3, Circle())
    points = run(optimiser, lambda x: bowl(x, np.array([2.0, 2.0])), 300)
    assert all(x @ x < 1 for x in points)
    theirs = pints.IRPropMin([0.5, 0.0], 0.3, Circle())
    run(theirs, lambda x: bowl(x, np.array([2.0, 2.0])), 300)
    assert optimiser.f_best() < 1.02 * theirs.f_best() and points[-1] @ points[-1] > 0.999
    inner = OURS[rule]([0.5, 0.0], 0.3, Circle())
    run(inner, lambda x: bowl(x, np.array([-0.3, 0.4])), 150)
    np.testing.assert_allclose(inner.x_best(), [-0.3, 0.4], atol=1e-4)


def test_composed_boundaries_and_half_infinite_ones():
    composed = pints.ComposedBoundaries(
        pints.RectangularBoundaries([0.0], [1.0]), pints.RectangularBoundaries([-1.0], [math.inf])
    )
    optimiser = ours.IRpropPlus([0.5, 0.0], 0.25, composed)
    points = run(optimiser, lambda x: bowl(x, np.array([2.0, 7.0])), 150)
    assert all(composed.check(x) for x in points) and abs(points[-1][0] - 1) < 1e-3
    np.testing.assert_allclose(optimiser.x_best()[1], 7.0, atol=1e-4)
    half = ours.IRpropPlus([0.5, 0.0], 0.25, pints.RectangularBoundaries([0.0, -math.inf], [math.inf, 1.0]))
    run(half, lambda x: bowl(x, np.array([-2.0, 7.0])), 50)
    assert half.x_best().tolist() == [0.0, np.nextafter(1.0, 0.0)]


def test_stopping_criteria_of_the_controller():
    made = controller(pints.toy.ParabolicError(), [1.0, 1.0], ours.IRpropPlus)
    made.set_max_iterations(7)
    made.run()
    assert made.iterations() == made.evaluations() == 7
    made = controller(pints.toy.ParabolicError(), [1.0, 1.0], ours.IRpropPlus)
    made.set_threshold(1e-3)
    assert made.run()[1] < 1e-3 and made.iterations() < 40
    made = controller(pints.toy.ParabolicError(), [1.0, 1.0], ours.IRpropPlus)
    made.set_f_guessed_tracking(True)
    made.set_parameter_tolerance(10, 1e-6)
    assert made.run()[1] < 1e-8


def test_the_log_shows_step_sizes(capsys, tmp_path):
    made = pints.OptimisationController(pints.toy.ParabolicError(), [1.0, 1.0], method=ours.IRpropPlus)
    made.set_max_iterations(5)
    made.set_log_to_file(str(tmp_path / "log.csv"), csv=True)
    made.run()
    printed = capsys.readouterr().out
    assert "Using iRprop+" in printed and "Min. step" in printed
    head, *rows = (tmp_path / "log.csv").read_text().splitlines()
    assert '"Min. step","Max. step"' in head and len(rows) >= 3


# ------------------------------------------------------------------------------------------------- settings


def test_first_steps_come_from_sigma0_and_are_cut():
    def first(optimiser):
        (x,) = optimiser.ask()
        optimiser.tell([bowl(x)])
        return np.abs(optimiser.ask()[0] - x).tolist()

    assert first(ours.RpropMinus([3.0, 4.0], 0.5)) == [0.5, 0.5]
    assert first(ours.RpropMinus([3.0, 4.0], [0.25, 1.0])) == [0.25, 1.0]
    boundaries = pints.RectangularBoundaries([0.0, 0.0], [6.0, 12.0])
    np.testing.assert_allclose(first(ours.RpropMinus([3.0, 4.0], None, boundaries)), [1.0, 2.0])
    optimiser = ours.RpropMinus([3.0, 4.0], [0.25, 4.0])
    optimiser.set_min_step_size(0.5)
    optimiser.set_max_step_size(2)
    assert (optimiser.min_step_size(), optimiser.max_step_size()) == (0.5, 2.0)
    assert first(optimiser) == [0.5, 2.0]


def test_settings_may_change_during_a_run():
    optimiser = ours.RpropMinus([100.0], 1.0)
    run(optimiser, bowl, 3)
    optimiser.set_max_step_size(0.125)
    points = run(optimiser, bowl, 3)
    assert np.diff(np.ravel(points)[1:]).tolist() == [-0.125]
    optimiser.set_max_step_size(None)
    optimiser.set_etas(0.25, 2.0)
    assert optimiser.etas() == (0.25, 2.0) and optimiser.max_step_size() is None and optimiser.n_hyper_parameters() == 2


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda o: o.set_min_step_size(-1.0), r"Invalid step sizes: -1\.0"),
        (lambda o: o.set_max_step_size(0.0), r"Invalid step sizes"),
        (lambda o: o.set_max_step_size(2.0**40), r"at most 2\*\*31"),
        (lambda o: o.set_hyper_parameters([2.0, 1.0]), r"D_min <= D_max"),
        (lambda o: o.set_hyper_parameters([2.0]), r"1 hyper-parameters: pass \[min_step_size, max_step_size\]"),
        (lambda o: o.set_etas(1.5, 1.2), r"Invalid eta values"),
        (lambda o: o.set_min_step_size("1"), r"step_sizes must be two numbers"),
    ],
)
@pytest.mark.parametrize("running", [False, True])
def test_invalid_settings_change_nothing(call, message, running):
    optimiser = ours.IRpropPlus([1.0, 2.0], 0.5)
    optimiser.set_hyper_parameters([0.25, 1.0])
    if running:
        run(optimiser, bowl, 2)
    with pytest.raises(ValueError, match=message):
        call(optimiser)
    assert (optimiser.etas(), optimiser.min_step_size(), optimiser.max_step_size()) == ((0.5, 1.2), 0.25, 1.0)


@pytest.mark.parametrize(
    ("reply", "error", "message"),
    [
        ([1.0], ValueError, r"pass \[\(loss, gradient\)\]"),
        ([], ValueError, r"one pair for the one point; IRpropPlus needs the gradient \(evaluateS1\)"),
        ([(1.0, np.ones(2)), (1.0, np.ones(2))], ValueError, r"pass \[\(loss, gradient\)\]"),
        (1.0, ValueError, r"pass \[\(loss, gradient\)\]"),
        ([(1.0, np.ones(3))], ValueError, r"grad has shape \(3,\)"),
        ([(np.ones(2), np.ones(2))], ValueError, r"loss has shape \(2,\)"),
        ([("1", np.ones(2))], TypeError, r"loss"),
    ],
)
def test_invalid_replies_change_nothing(reply, error, message):
    optimiser = ours.IRpropPlus([1.0, 2.0], 0.5)
    (x,) = optimiser.ask()
    with pytest.raises(error, match=message):
        optimiser.tell(reply)
    assert optimiser.f_best() == math.inf and optimiser.f_guessed() == math.inf
    assert_same_bits(optimiser.ask()[0], x)
    optimiser.tell([bowl(x)])
    with pytest.raises(RuntimeError, match="without ask"):
        optimiser.tell([bowl(x)])


def test_points_are_read_only_and_the_same_until_tell():
    optimiser = ours.IRpropPlus([1.0, 2.0])
    (first,), (second,) = optimiser.ask(), optimiser.ask()
    assert not first.flags.writeable and first.tolist() == second.tolist()
    with pytest.raises(ValueError, match="read-only"):
        first[0] = 7


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_copies_go_on_as_the_original(duplicate):
    optimiser = ours.IRpropPlus([3.0, -4.0], 1.0)
    run(optimiser, bowl, 5)
    other = duplicate(optimiser)
    for a, b in zip(run(optimiser, bowl, 10), run(other, bowl, 10), strict=True):
        assert_same_bits(a, b)


def test_errors_of_the_library_stay():
    with pytest.raises(ValueError, match="Initial position must lie within given boundaries"):
        ours.IRpropPlus([3.0], 1.0, pints.RectangularBoundaries([0.0], [1.0]))
    with pytest.raises(ValueError, match="same dimension"):
        ours.IRpropPlus([0.5, 0.5], 1.0, pints.RectangularBoundaries([0.0], [1.0]))


@pytest.mark.parametrize("name", ["pints", "pybop"])
def test_without_the_library_the_error_names_the_extra(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    program = f"""
import importlib.util, sys
find_spec = importlib.util.find_spec
importlib.util.find_spec = lambda name, *package: None if name == {name!r} else find_spec(name, *package)
import rprop_kernels, rprop_kernels.numpy
try:
    import rprop_kernels.{name}
except ImportError as error:
    print(error)
print({name!r} in sys.modules)
"""
    environment = {**os.environ, "PYTHONPATH": str(Path(ours.__file__).parents[1])}
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env=environment, cwd=tmp_path
    )
    message = f"rprop_kernels.{name} needs {name}: {install_command(name)}"
    assert done.stdout == f"{message}\nFalse\n", done.stderr
