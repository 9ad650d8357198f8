"""Fit a decay with PyBOP: its simulator, bounds, transformation and options, and our optimisers.

The rows are PyBOP's own two optimisers of this kind and the four rules of this package, from the same start.
"""

import numpy as np
import pybop

import rprop_kernels.pybop as ours

TRUTH = np.array([0.3, 2.0])  # rate and first value


def problem(noise=0.01):
    """Return the fit of noisy values of a decay."""
    times = np.linspace(0, 10, 50)
    values = TRUTH[1] * np.exp(-TRUTH[0] * times) + noise * np.random.default_rng(0).standard_normal(times.size)
    data = pybop.Dataset({"Time [s]": times, "y_0": values})
    model = pybop.ExponentialDecayModel()
    parameters = model.default_parameter_values
    log = pybop.LogTransformation
    parameters["k"] = pybop.Parameter(bounds=[0.01, 1.0], initial_value=0.1, transformation=log())
    parameters["y0"] = pybop.Parameter(bounds=[0.1, 5.0], initial_value=1.0, transformation=log())
    simulator = pybop.pybamm.Simulator(model, parameters, protocol=times)
    return pybop.Problem(simulator, pybop.SumSquaredError(data, target="y_0"))


def fit(optimiser):
    """Return PyBOP's result."""
    options = pybop.PintsOptions(
        max_iterations=200, max_unchanged_iterations=30, relative_tolerance=1e-6, absolute_tolerance=1e-9
    )
    return optimiser(problem(), options).run()


def main():
    optimisers = (pybop.IRPropMin, pybop.IRPropPlus, ours.RpropMinus, ours.RpropPlus, ours.IRpropMinus, ours.IRpropPlus)
    rows = {}
    print("optimiser                   rate  first value          cost  iterations")
    for optimiser in optimisers:
        name = f"{optimiser.__module__.split('.')[0]} {optimiser.__name__}"
        rows[name] = result = fit(optimiser)
        x, cost, iterations = result.x, result.best_cost, result.n_iterations
        print(f"{name:25s} {x[0]:.4f} {x[1]:12.4f} {cost:13.9f} {iterations:11d}")
    return rows


if __name__ == "__main__":
    main()
