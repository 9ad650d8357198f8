"""Rprop as the optimizer of scikit-learn's Gaussian processes.

::

    from sklearn.gaussian_process import GaussianProcessRegressor
    from rprop_kernels.sklearn import gp_optimizer

    model = GaussianProcessRegressor(kernel, optimizer=gp_optimizer(), n_restarts_optimizer=4)

M. Blum, M. Riedmiller, "Optimization of Gaussian process hyperparameters using Rprop" (ESANN 2013) found it
equal to conjugate gradients in likelihood and evaluations, and far simpler.
"""

import importlib.util
import math
from collections.abc import Callable
from functools import partial
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from .install import install_command

if importlib.util.find_spec("sklearn") is None:
    raise ModuleNotFoundError(f"rprop_kernels.sklearn needs scikit-learn: {install_command('sklearn')}", name="sklearn")

from sklearn.exceptions import ConvergenceWarning  # type: ignore[import-untyped,unused-ignore]

from .numpy.variants import class_for_method
from .scipy import METHODS, Settings
from .warn import warn_user

__all__ = ["gp_optimizer"]

Array: TypeAlias = NDArray[Any]
Objective: TypeAlias = Callable[..., tuple[float, Array]]

DEFAULTS: Final = {"gtol": 1e-3, "ftol": 1e-5, "window": 50, "maxiter": 1000}


def gp_optimizer(method: str = "irprop+", *arguments: Any, **options: Any) -> Callable[..., tuple[Array, float]]:
    """Make an ``optimizer=`` for GaussianProcessRegressor and GaussianProcessClassifier.

    It minimises the negative log marginal likelihood over theta, the logarithms of the kernel's parameters,
    and stays within their bounds; a start outside them is moved to the nearest point inside, as L-BFGS-B does
    (GaussianProcessClassifier draws such restarts). It can be cloned, copied and pickled.

    Args:
        method: ``"rprop-"``, ``"rprop+"``, ``"irprop-"`` or ``"irprop+"``.
        **options: those of :func:`rprop_kernels.scipy.irprop_plus`: ``maxiter``, ``gtol``, ``lr`` and so on. The
            defaults are the same except for ``gtol=1e-3``, ``ftol=1e-5`` within ``window=50`` iterations (on a
            ridge of the likelihood it could go on for hundreds more without a gain) and ``maxiter=1000``.

    Returns:
        A function ``(obj_func, initial_theta, bounds) -> (theta, negative log marginal likelihood)``. It
        warns with ConvergenceWarning where the search ended early.

    Raises:
        ValueError: there is no such method.
        TypeError: there is no such option; or scikit-learn was given gp_optimizer itself, without parentheses.

    Examples:
        >>> import numpy as np
        >>> from sklearn.gaussian_process import GaussianProcessRegressor
        >>> from rprop_kernels.sklearn import gp_optimizer
        >>> x = np.linspace(0.0, 3.0, 10)[:, None]
        >>> model = GaussianProcessRegressor(alpha=1e-4, optimizer=gp_optimizer()).fit(x, np.sin(x[:, 0]))
        >>> bool(abs(model.predict([[1.6]])[0] - np.sin(1.6)) < 0.01)
        True
    """
    if callable(method) or arguments:
        raise TypeError(
            "gp_optimizer makes the optimizer: pass optimizer=gp_optimizer(), with parentheses, and all its "
            "options by name"
        )
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
        warn_user(
            f"{method} failed to converge (status={result.status}): {result.message} The options are arguments of "
            "gp_optimizer.",
            ConvergenceWarning,
        )
    return result.x, result.fun if math.isfinite(result.fun) else math.inf  # among restarts, NaN would win
