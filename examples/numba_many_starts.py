"""Search from many starts at once: one `prange` of Numba, in which every thread runs the rule on problems of its own.

Rastrigin's function has a minimum near every point of a grid. From 10,000 starts in a box the lowest is among the ones
found.
"""

import time

import numba
import numpy as np

from rprop_kernels.numba import compare_loss, first_state, hyperparameters, irprop_plus, stop_at_bounds

LOWER, UPPER = -5.12, 5.12


@numba.njit
def rastrigin(x, gradient):
    """Return the loss, and write the gradient."""
    loss = 10.0 * x.size
    for i in range(x.size):
        angle = 2 * np.pi * x[i]
        loss += x[i] ** 2 - 10.0 * np.cos(angle)
        gradient[i] = 2 * x[i] + 20.0 * np.pi * np.sin(angle)
    return loss


@numba.njit
def minimize(x, steps, hyper):
    """Step one point in place; return the lowest loss, at the point that is left in x."""
    gradient, state, best = np.empty_like(x), np.empty_like(x), x.copy()
    for i in range(x.size):
        state[i] = first_state(x[i], hyper)
    previous, lowest = np.nan, np.inf
    for _ in range(steps):
        loss = rastrigin(x, gradient)
        if loss < lowest:
            lowest = loss
            best[:] = x
        outcome, previous = compare_loss(loss, previous)
        for i in range(x.size):
            x[i], state[i] = irprop_plus(x[i], gradient[i], state[i], outcome, hyper)
            x[i], state[i] = stop_at_bounds(x[i], state[i], LOWER, UPPER)
    x[:] = best
    return lowest


@numba.njit(parallel=True)
def minimize_all(starts, steps, hyper):
    """Step all points; return the lowest loss of each."""
    losses = np.empty(len(starts))
    for k in numba.prange(len(starts)):
        losses[k] = minimize(starts[k], steps, hyper)
    return losses


def main(count=10_000, dimensions=3, steps=100):
    hyper = hyperparameters(lr=0.1)
    x = np.random.default_rng(0).uniform(LOWER, UPPER, (count, dimensions))
    minimize_all(x[:1].copy(), 1, hyper)  # compiles
    begin = time.perf_counter()
    losses = minimize_all(x, steps, hyper)
    seconds = time.perf_counter() - begin
    best = losses.argmin()
    print(f"Rastrigin's function of {dimensions} variables")
    print(f"{count} starts, {steps} steps each: {seconds:.2f} s")
    print(f"minima found: {len(np.unique(np.round(losses, 4)))} values of the loss")
    print(f"lowest: {losses[best]:.2g} at {np.round(x[best], 4) + 0.0}")
    return x, losses


if __name__ == "__main__":
    main()
