"""Rprop for PyBOP: the four rules as its optimisers.

::

    result = IRpropPlus(problem, options=pybop.PintsOptions(max_iterations=100)).run()

They are those of :mod:`rprop_kernels.pints`, run by PyBOP: bounds, transformations, options, multistart and logs are
PyBOP's. The first step sizes are the standard deviations of the parameters.
"""

import importlib.util
from typing import Any, ClassVar

import numpy as np

if importlib.util.find_spec("pybop") is None:
    raise ModuleNotFoundError("rprop_kernels.pybop needs pybop: pip install 'rprop_kernels[pybop]'", name="pybop")

import pybop

from . import pints as optimisers

__all__ = ["IRpropMinus", "IRpropPlus", "RpropMinus", "RpropPlus"]


class RpropOptimiser(pybop.BasePintsOptimiser):  # type: ignore[misc]  # pybop has no types
    """Base class of the four optimisers.

    Args:
        problem: a ``pybop.Problem`` with sensitivities.
        options: None or a ``pybop.PintsOptions``. PyBOP's own stop after 15 iterations that changed the cost by less
            than 1 %; ``relative_tolerance=1e-6`` goes on to the optimum.

    The attribute ``optimiser`` is one of :mod:`rprop_kernels.pints`, which holds ``set_min_step_size`` and the other
    settings.

    Raises:
        ValueError, TypeError: of PyBOP, for a problem without sensitivities and other input.

    Examples:
        >>> import numpy as np, pybop
        >>> from rprop_kernels.pybop import RpropOptimiser
        >>> class Bowl(pybop.Problem):
        ...     def evaluate_batch(self, inputs, calculate_sensitivities=False):
        ...         x = np.array([[one["a"], one["b"]] for one in inputs])
        ...         slopes = {"a": 2 * (x[:, 0] - 3), "b": 2 * (x[:, 1] + 1)}
        ...         return pybop.costs.evaluation.Evaluation(((x - [3, -1]) ** 2).sum(axis=1), slopes)
    """

    _optimiser_class: ClassVar[type[optimisers.RpropOptimiser]]

    def __init__(self, problem: Any, options: Any = None) -> None:
        super().__init__(problem, self._optimiser_class, options)

    def _set_up_optimiser(self) -> None:
        super()._set_up_optimiser()
        parameters = self.problem.parameters
        bounds = parameters.get_bounds()
        self.optimiser._tighten(
            parameters.transformation.to_model, np.asarray(bounds["lower"]), np.asarray(bounds["upper"])
        )
