"""Rprop as the optimizer of scikit-learn's Gaussian processes.

::

    from sklearn.gaussian_process import GaussianProcessRegressor
    from rprop_kernels.sklearn import gp_optimizer

    model = GaussianProcessRegressor(kernel, optimizer=gp_optimizer(), n_restarts_optimizer=4)

M. Blum, M. Riedmiller, "Optimization of Gaussian process hyperparameters using Rprop" (ESANN 2013) found it
on a level with conjugate gradients in likelihood and evaluations, and far simpler.
"""

import importlib.util
import math
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

if importlib.util.find_spec("sklearn") is None:
    raise ModuleNotFoundError(
        "rprop_kernels.sklearn needs scikit-learn: pip install 'rprop_kernels[sklearn]'", name="sklearn"
    )

from sklearn.exceptions import ConvergenceWarning  # type: ignore[import-untyped,unused-ignore]

from .numpy.variants import class_for_method
from .scipy import METHODS, Settings

__all__ = ["gp_optimizer"]

Array: TypeAlias = NDArray[Any]
Objective: TypeAlias = Callable[..., tuple[float, Array]]

DEFAULTS: Final = {"gtol": 1e-3, "ftol": 1e-5, "window": 50, "maxiter": 1000}


def gp_optimizer(method: str = "irprop+", **options: Any) -> Callable[..., tuple[Array, float]]:
    """An ``optimizer=`` for GaussianProcessRegressor and GaussianProcessClassifier.

    It minimises the negative log marginal likelihood over theta, the logarithms of the kernel's parameters,
    and stays within their bounds; a start outside them is moved to the nearest point inside, as L-BFGS-B does
    (GaussianProcessClassifier draws such restarts). It can be cloned, copied and pickled.

    Args:
        method: ``"rprop-"``, ``"rprop+"``, ``"irprop-"`` or ``"irprop+"``.
        **options: as of :func:`rprop_kernels.scipy.irprop_plus`: ``maxiter``, ``gtol``, ``lr`` and so on. The
            defaults are the same but for ``gtol=1e-3``, ``ftol=1e-5`` within ``window=50`` iterations (on a
            ridge of the likelihood it could creep for hundreds more, for nothing) and ``maxiter=1000``.

    Returns:
        A function ``(obj_func, initial_theta, bounds) -> (theta, negative log marginal likelihood)``. It
        warns with ConvergenceWarning where the search ended early.

    Raises:
        ValueError: there is no such method.
        TypeError: there is no such option.
    """
    class_for_method(method)
    if unknown := sorted(set(options) - set(Settings._fields)):
        raise TypeError(f"gp_optimizer has no option {', '.join(unknown)}: there is {', '.join(Settings._fields)}")
    return partial(_minimize, method=method, options=DEFAULTS | options)


def _minimize(
    obj_func: Objective, initial_theta: Array, bounds: Array, *, method: str, options: dict[str, Any]
) -> tuple[Array, float]:
    lower, upper = np.asarray(bounds, float).reshape(-1, 2).T
    result = METHODS[method](
        obj_func, np.clip(initial_theta, lower, upper), jac=True, bounds=np.stack((lower, upper), axis=1), **options
    )
    if not result.success:
        warnings.warn(
            f"{method} failed to converge (status={result.status}): {result.message} The options "
            "are "
            "arguments of gp_optimizer.",
            ConvergenceWarning,
            stacklevel=3,
        )
    return result.x, result.fun if math.isfinite(result.fun) else math.inf  # NaN would win among restarts
