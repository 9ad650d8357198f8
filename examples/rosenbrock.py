"""A strength and a weakness of Rprop: a badly scaled bowl, and a valley that is oblique to the axes.

Rprop keeps a step size for each variable, so a quadratic whose curvatures differ by 10^8 costs it as much as a
round one. In Rosenbrock's valley no variable can move alone, and methods that learn the curvature are far ahead.
"""

import numpy as np
from scipy.optimize import minimize, rosen, rosen_der

from rprop_kernels.scipy import METHODS


def bowl(x):
    """Return sum(a_i x_i^2) / 2 with a from 1 to 10^8, and its gradient."""
    scale = 10.0 ** np.linspace(0, 8, x.size)
    return 0.5 * scale @ x**2, scale * x


def valley(x):
    """Return Rosenbrock's function and its gradient."""
    return rosen(x), rosen_der(x)


PROBLEMS = {"bowl": (bowl, np.full(10, 3.0)), "valley": (valley, np.array([-1.2, 1.0]))}


class Reached(Exception):
    """Raised when the loss is below the target."""


def evaluations(problem, method, target):
    """Count evaluations until the loss is below ``target``; None after 20,000 iterations."""
    function, start = PROBLEMS[problem]
    count = 0

    def counted(x):
        nonlocal count
        count += 1
        loss, gradient = function(x)
        if loss <= target:
            raise Reached
        return loss, gradient

    try:
        minimize(counted, start, jac=True, method=method, options={"gtol": 0.0, "maxiter": 20_000})
    except Reached:
        return count
    return None


def main(target=1e-6):
    print(f"evaluations of loss and gradient until the loss is below {target:g}\n\nmethod    bowl  valley")
    rows = {}
    for name, method in {**METHODS, "L-BFGS-B": "L-BFGS-B", "CG": "CG"}.items():
        rows[name] = tuple(evaluations(problem, method, target) for problem in PROBLEMS)
        print(f"{name:8s} {rows[name][0]!s:>5s} {rows[name][1]!s:>7s}")
    return rows


if __name__ == "__main__":
    main()
