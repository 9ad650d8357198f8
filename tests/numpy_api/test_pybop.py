"""The optimisers for PyBOP, run by PyBOP: bounds, transformations, options, multistart; its own example with ours.

PyBOP asks for NumPy below 2.4. CONTRIBUTING.md has the command for an environment of its own.
"""

import os
import runpy
from pathlib import Path

import numpy as np
import pytest

os.environ.setdefault("PYBAMM_DISABLE_TELEMETRY", "true")
pytest.importorskip(
    "pybop", reason="pybop is not installed: it asks for NumPy below 2.4; CONTRIBUTING.md shows how to test it"
)

import pybamm
import pybop

import rprop_kernels.pints
import rprop_kernels.pybop as ours

OURS = (ours.RpropMinus, ours.RpropPlus, ours.IRpropMinus, ours.IRpropPlus)
EXAMPLES = Path(__file__).parents[2] / "examples"

pytestmark = pytest.mark.filterwarnings("ignore")  # PyBOP and PyBaMM have warnings of their own


def decay(cost=pybop.SumSquaredError, k=None, y0=None, **options):
    """The fit of a decay with rate 0.3 and first value 2."""
    times = np.linspace(0, 10, 50)
    values = 2 * np.exp(-0.3 * times) + 0.01 * np.random.default_rng(0).standard_normal(50)
    data = pybop.Dataset({"Time [s]": times, "y_0": values})
    model = pybop.ExponentialDecayModel()
    parameters = model.default_parameter_values
    parameters["k"] = k or pybop.Parameter(bounds=[0.01, 1.0], initial_value=0.1)
    parameters["y0"] = y0 or pybop.Parameter(bounds=[0.1, 5.0], initial_value=1.0)
    simulator = pybop.pybamm.Simulator(model, parameters, protocol=times)
    return pybop.Problem(simulator, cost(data, target="y_0", **options))


def exact(**more):
    options = {"max_iterations": 300, "max_unchanged_iterations": 30, "relative_tolerance": 1e-8}
    return pybop.PintsOptions(**{"absolute_tolerance": 1e-11, **options, **more})


@pytest.mark.parametrize("optimiser", OURS)
def test_the_optimum_is_found_at_least_as_well(optimiser):
    optimum = optimiser(decay(), exact()).run()
    np.testing.assert_allclose(optimum.x, [0.3, 2.0], atol=0.01)
    for theirs in (pybop.IRPropMin, pybop.IRPropPlus):
        assert optimum.best_cost <= theirs(decay(), exact()).run().best_cost * (1 + 1e-9)


@pytest.mark.parametrize("optimiser", OURS)
def test_pybops_own_options(optimiser):
    """They stop after 15 iterations that changed the cost by less than 1 %."""
    result = optimiser(decay()).run()
    np.testing.assert_allclose(result.x, [0.3, 2.0], atol=0.02)
    made = optimiser(decay(), pybop.PintsOptions(max_iterations=7))
    result = made.run()
    assert result.n_iterations == 7 and result.method_name == made.name == made.optimiser.name()
    assert isinstance(made.optimiser, rprop_kernels.pints.RpropOptimiser)
    result = optimiser(decay(), exact(threshold=0.1)).run()
    assert result.best_cost < 0.1 and result.n_iterations < 60


TRANSFORMATIONS = {
    "none": lambda: None,
    "log": pybop.LogTransformation,
    "scaled": lambda: pybop.ScaledTransformation(coefficient=3.0, intercept=0.1),
    "reversed": lambda: pybop.ScaledTransformation(coefficient=-0.7),
}


@pytest.mark.parametrize("transformation", TRANSFORMATIONS)
@pytest.mark.parametrize("optimiser", OURS)
def test_bounds_hold_in_the_model_space(optimiser, transformation):
    """The optimum is outside: every evaluated point is inside, and the last at the bounds."""
    make = TRANSFORMATIONS[transformation]
    lowest = next(y for y in 15.9 - 0.01 * np.arange(50) if np.exp(np.log(y)) < y)  # a rounding outside
    k = pybop.Parameter(bounds=[0.01, 0.06], initial_value=0.03, transformation=make())
    y0 = pybop.Parameter(bounds=[lowest, 40.0], initial_value=20.0, transformation=make())
    problem = decay(k=k, y0=y0)
    if transformation == "reversed":
        problem.parameters.get_std = lambda transformed=False: [0.01, 2.0]  # PyBOP's are negative then
    made = optimiser(problem, exact())
    result = made.run()
    np.testing.assert_allclose(result.x, [0.06, lowest], rtol=1e-12)
    points = np.array(made.logger.x_model)
    assert (points >= [0.01, lowest]).all() and (points <= [0.06, 40.0]).all()


@pytest.mark.parametrize("optimiser", OURS)
def test_maximising_a_likelihood(optimiser):
    likelihood = decay(pybop.GaussianLogLikelihoodKnownSigma, sigma=0.01)
    assert not likelihood.minimising
    result = optimiser(likelihood, exact()).run()
    np.testing.assert_allclose(result.x, [0.3, 2.0], atol=0.01)
    assert result.best_cost > likelihood.evaluate([0.3, 2.0]).values[0]


def test_without_bounds():
    result = ours.IRpropPlus(
        decay(k=pybop.Parameter(initial_value=0.1), y0=pybop.Parameter(initial_value=1.0)), exact()
    ).run()
    np.testing.assert_allclose(result.x, [0.3, 2.0], atol=0.01)


def test_multistart():
    result = ours.IRpropPlus(decay(), exact(multistart=3)).run()
    assert result.n_runs == 3
    np.testing.assert_allclose(result.x, [0.3, 2.0], atol=0.01)


def test_a_problem_without_sensitivities_is_refused():
    class Blind(pybop.Problem):
        has_sensitivities = False

    problem = decay()
    problem.__class__ = Blind
    with pytest.raises(ValueError, match="needs sensitivities"):
        ours.IRpropPlus(problem)


@pytest.mark.parametrize("optimiser", OURS)
def test_the_example_of_the_library_with_our_optimiser(optimiser):
    """Volume fractions of both electrodes of a cell, by the single particle model.

    Those that take the place of PyBOP's are at least as good; the two rules that it lacks are somewhat slower.
    """
    parameters = pybamm.ParameterValues("Chen2020")
    times = np.linspace(0, 900, 60)
    names = [f"{side} electrode active material volume fraction" for side in ("Negative", "Positive")]
    truth = [parameters[name] for name in names]
    solution = pybamm.Simulation(pybamm.lithium_ion.SPM(), parameter_values=parameters).solve(times)
    current = np.asarray(solution["Current [A]"](times))
    data = pybop.Dataset(
        {"Time [s]": times, "Current [A]": current, "Voltage [V]": np.asarray(solution["Voltage [V]"](times))}
    )
    costs = {}
    theirs = {ours.IRpropMinus: pybop.IRPropMin, ours.IRpropPlus: pybop.IRPropPlus}.get(optimiser)
    for cls in filter(None, (optimiser, theirs)):
        fitted = parameters.copy()
        for name in names:
            fitted[name] = pybop.Parameter(bounds=[0.4, 0.9], initial_value=0.6)
        simulator = pybop.pybamm.Simulator(pybamm.lithium_ion.SPM(), fitted, protocol=data)
        problem = pybop.Problem(simulator, pybop.RootMeanSquaredError(data, target="Voltage [V]"))
        options = pybop.PintsOptions(max_iterations=60, max_unchanged_iterations=15)
        result = cls(problem, options).run()
        costs[cls] = result.best_cost
        if cls is optimiser:
            np.testing.assert_allclose(result.x, truth, atol=0.02)
    assert costs[optimiser] < 1e-3  # V
    if theirs is not None:
        assert costs[optimiser] <= costs[theirs]


def test_the_example(capsys):
    rows = runpy.run_path(str(EXAMPLES / "pybop_decay.py"))["main"]()
    theirs = min(rows[f"pybop {name}"].best_cost for name in ("IRPropMin", "IRPropPlus"))
    for cls in OURS:
        result = rows[f"rprop_kernels {cls.__name__}"]
        assert result.best_cost <= theirs * (1 + 1e-9)
        np.testing.assert_allclose(result.x, [0.3, 2.0], atol=0.01)
    assert "first value" in capsys.readouterr().out
