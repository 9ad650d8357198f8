"""Fit the growth of a population with PINTS: its controller, boundaries and transformation, and our optimisers.

The five rows are the rules of this package and the iRprop- of PINTS, from the same start.
"""

import numpy as np
import pints
import pints.toy

from rprop_kernels.pints import IRpropMinus, IRpropPlus, RpropMinus, RpropPlus

TRUTH = np.array([0.1, 50.0])  # rate and capacity
START = [0.4, 300.0]


def problem(noise=1.0):
    """Return noisy counts of a logistic growth."""
    model, times = pints.toy.LogisticModel(), np.linspace(0, 100, 100)
    counts = model.simulate(TRUTH, times) + noise * np.random.default_rng(0).standard_normal(times.size)
    return pints.SingleOutputProblem(model, times, counts)


def fit(method, score):
    """Return the parameters, the loss, and the number of iterations."""
    controller = pints.OptimisationController(
        score,
        START,
        boundaries=pints.RectangularBoundaries([0.01, 5.0], [1.0, 500.0]),
        transformation=pints.LogTransformation(2),
        method=method,
    )
    controller.set_function_tolerance(iterations=50, threshold=1e-9)
    controller.set_log_to_screen(False)
    x, loss = controller.run()
    return x, loss, controller.iterations()


def main():
    score = pints.SumOfSquaresError(problem())
    rows = {}
    print("optimiser               rate  capacity          loss  iterations")
    for method in (pints.IRPropMin, RpropMinus, RpropPlus, IRpropMinus, IRpropPlus):
        name = f"{method.__module__.split('.')[0]} {method.name()}"
        rows[name] = x, loss, iterations = fit(method, score)
        print(f"{name:22s} {x[0]:.4f} {x[1]:9.4f} {loss:13.8f} {iterations:11d}")
    return rows


if __name__ == "__main__":
    main()
