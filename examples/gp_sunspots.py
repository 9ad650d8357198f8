"""Gaussian process regression on the yearly sunspot numbers 1700-2008: Rprop and L-BFGS-B.

After M. Blum and M. Riedmiller, "Optimization of Gaussian process hyperparameters using Rprop" (ESANN 2013):
log marginal likelihood, evaluations and seconds, from one start and over random restarts. The data are read
from $RPROP_LAB_DATA/sunspots, else from shared/data/sunspots in the parent folder of the repository (statsmodels has
the file).
"""

import os
import sys
import time
import warnings
from pathlib import Path

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, ConstantKernel, ExpSineSquared, WhiteKernel

from rprop_kernels.scipy import METHODS
from rprop_kernels.sklearn import gp_optimizer

FOLDER = Path(os.environ.get("RPROP_LAB_DATA") or Path(__file__).resolve().parents[2] / "shared" / "data")
FILE = FOLDER / "sunspots" / "sunspots_yearly.dat"


def sunspots(years):
    """Return the last ``years`` years as ``(x, y)``: years and standardised square roots of the sunspot numbers."""
    year, number = np.loadtxt(FILE).T
    root = np.sqrt(number[-years:])
    return year[-years:, None], (root - root.mean()) / root.std()


def kernel():
    """Return the sum of a slow trend, an eleven-year cycle that drifts, and noise: seven hyper-parameters."""
    trend = ConstantKernel(1.0, (1e-3, 1e3)) * RBF(30.0, (1.0, 1e3))
    cycle = ConstantKernel(1.0, (1e-3, 1e3)) * ExpSineSquared(1.0, 11.0, (0.1, 10.0), (5.0, 20.0))
    return trend + cycle * RBF(30.0, (1.0, 1e4)) + WhiteKernel(0.1, (1e-4, 10.0))


class Counted(GaussianProcessRegressor):
    """A regressor that counts the evaluations of likelihood and gradient."""

    evaluations = 0

    def log_marginal_likelihood(self, theta=None, eval_gradient=False, clone_kernel=True):
        self.evaluations += bool(eval_gradient)
        return super().log_marginal_likelihood(theta, eval_gradient, clone_kernel)


def main(years=309, restarts=(0, 4)):
    x, y = sunspots(years)
    rows = {}
    print(
        f"sunspot numbers, the last {years} years\n\noptimizer  restarts  log marginal likelihood  evaluations  seconds"
    )
    for name in (*METHODS, "L-BFGS-B"):
        for count in restarts:
            optimizer = gp_optimizer(name) if name in METHODS else "fmin_l_bfgs_b"
            model = Counted(kernel(), optimizer=optimizer, n_restarts_optimizer=count, random_state=0)
            began = time.perf_counter()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ConvergenceWarning)  # parameters that end at a bound
                model.fit(x, y)
            seconds = time.perf_counter() - began
            likelihood = model.log_marginal_likelihood_value_
            print(f"{name:9s} {count:9d} {likelihood:24.4f} {model.evaluations:12d} {seconds:8.2f}")
            rows[name, count] = likelihood, model.evaluations, seconds, model
    return rows


if __name__ == "__main__":
    if not FILE.exists():
        sys.exit(
            f"There is no {FILE}: two columns, year and number, which statsmodels has. Then: "
            "RPROP_LAB_DATA=FOLDER python examples/gp_sunspots.py, with the folder that holds sunspots/"
        )
    main()
