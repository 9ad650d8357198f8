"""Fit the four rates of the Lotka-Volterra equations to noisy counts of hares and lynxes.

    hares' = a hares - b hares lynxes          lynxes' = c hares lynxes - d lynxes

The gradient comes from the forward sensitivities, integrated together with the populations. The rates are fitted as
logarithms, within bounds. Where the integration fails the loss is infinite, and Rprop steps back.
"""

import math
import time

import numpy as np
from scipy.integrate import solve_ivp
from scipy.optimize import minimize

from rprop_kernels.scipy import METHODS

TRUTH = np.array([0.9, 0.5, 0.3, 0.8])  # a, b, c, d
FIRST = np.array([2.0, 1.0])  # hares, lynxes at time 0
TIMES = np.linspace(0.0, 12.0, 25)
BOUNDS = [(math.log(0.05), math.log(5.0))] * 4


def populations(rates, sensitivities=True):
    """Return populations (2, times) and their derivatives by the logarithms of the rates (2, 4, times), or None."""
    a, b, c, d = rates

    def flow(_, state):
        x, y = state
        return a * x - b * x * y, c * x * y - d * y

    def flow_and_sensitivities(_, state):
        x, y, xa, xb, xc, xd, ya, yb, yc, yd = state.tolist()
        eaten = x * y
        xx, xy, yx, yy = a - b * y, -b * x, c * y, c * x - d  # the Jacobian
        return (
            a * x - b * eaten,
            c * eaten - d * y,
            xx * xa + xy * ya + a * x,
            xx * xb + xy * yb - b * eaten,
            xx * xc + xy * yc,
            xx * xd + xy * yd,
            yx * xa + yy * ya,
            yx * xb + yy * yb,
            yx * xc + yy * yc + c * eaten,
            yx * xd + yy * yd - d * y,
        )

    slope = flow_and_sensitivities if sensitivities else flow
    start = np.concatenate([FIRST, np.zeros(8)]) if sensitivities else FIRST
    with np.errstate(all="ignore"):
        solution = solve_ivp(slope, TIMES[[0, -1]], start, t_eval=TIMES, method="LSODA", rtol=1e-6, atol=1e-8)
    if not solution.success or not np.isfinite(solution.y).all():
        return None
    return solution.y[:2], solution.y[2:].reshape(2, -1, len(TIMES))


def counts(noise=0.05, seed=0):
    """Return the data: populations for TRUTH, with multiplicative noise."""
    clean, _ = populations(TRUTH, sensitivities=False)
    return clean * np.exp(noise * np.random.default_rng(seed).normal(size=clean.shape))


def loss_and_gradient(theta, data):
    """Return half the sum of squared residuals, and its gradient, at theta, the logarithms of the rates."""
    solved = populations(np.exp(theta))
    if solved is None:
        return math.inf, np.full(4, math.nan)
    model, sensitivity = solved
    residual = model - data
    return 0.5 * np.sum(residual**2), np.einsum("it,ijt->j", residual, sensitivity)


def main(methods=("irprop-", "irprop+", "L-BFGS-B")):
    data, start = counts(), np.log([0.6, 0.6, 0.4, 0.6])
    truth = ", ".join(map(str, TRUTH))
    print(f"method     loss     evaluations  seconds  a, b, c, d (in truth {truth})")
    rows = {}
    for name in methods:
        began = time.perf_counter()
        result = minimize(
            loss_and_gradient,
            start,
            args=(data,),
            jac=True,
            method=METHODS.get(name, name),
            bounds=BOUNDS,
            options={"gtol": 1e-2},
        )
        rows[name] = result
        print(
            f"{name:9s} {result.fun:.6f}  {result.nfev:11d}  {time.perf_counter() - began:7.2f}  "
            + ", ".join(f"{rate:.3f}" for rate in np.exp(result.x))
        )
    return rows


if __name__ == "__main__":
    main()
