"""Rprop for PyBOP: the four rules as its optimisers.

::

    result = IRpropPlus(problem, options=pybop.PintsOptions(max_iterations=100)).run()

PyBOP runs the optimisers of :mod:`rprop_kernels.pints`. Bounds, transformations, stopping criteria, multistart and logs
are PyBOP's. The first step sizes are the standard deviations of the parameters.
"""

import importlib.util
from typing import Any, ClassVar

from .install import install_command

if importlib.util.find_spec("pybop") is None:
    raise ModuleNotFoundError(f"rprop_kernels.pybop needs pybop: {install_command('pybop')}", name="pybop")

import pybop

from . import pints as optimisers

__all__ = ["IRpropMinus", "IRpropPlus", "RpropMinus", "RpropPlus"]


class RpropOptimiser(pybop.BasePintsOptimiser):  # type: ignore[misc]  # PyBOP has no types
    """Base class of the four optimisers.

    Args:
        problem: a ``pybop.Problem`` with sensitivities.
        options: a ``pybop.PintsOptions``, or None for PyBOP's own. Those stop after 15 iterations that changed the cost
            by less than 1 %; ``relative_tolerance=1e-6`` goes on to the optimum.

    Attributes:
        optimiser: the optimiser of :mod:`rprop_kernels.pints`, with ``set_min_step_size`` and other settings.

    Examples:
        >>> import numpy as np, pybop
        >>> from rprop_kernels.pybop import RpropOptimiser
        >>> t = np.linspace(0, 5, 20)
        >>> data = pybop.Dataset({"Time [s]": t, "y_0": 2 * np.exp(-0.3 * t)})
        >>> model = pybop.ExponentialDecayModel()
        >>> values = model.default_parameter_values
        >>> values["k"] = pybop.Parameter(bounds=[0.01, 1], initial_value=0.1)
        >>> values["y0"] = pybop.Parameter(bounds=[0.1, 5], initial_value=1.0)
        >>> simulator = pybop.pybamm.Simulator(model, values, protocol=t)
        >>> problem = pybop.Problem(simulator, pybop.SumSquaredError(data, target="y_0"))
        >>> options = pybop.PintsOptions(max_iterations=100, relative_tolerance=1e-6)
        >>> result = RpropOptimiser(problem, options).run()
        >>> np.round(result.x, 2).tolist()
        [0.3, 2.0]
    """

    _optimiser_class: ClassVar[type[optimisers.RpropOptimiser]]

    def __init__(self, problem: Any, options: Any = None) -> None:
        super().__init__(problem, self._optimiser_class, options)

    def _set_up_optimiser(self) -> None:
        super()._set_up_optimiser()
        parameters = self.problem.parameters
        bounds = parameters.get_bounds()
        self.optimiser._tighten(parameters.transformation.to_model, bounds["lower"], bounds["upper"])


class RpropMinus(RpropOptimiser):
    """Rprop-: a parameter whose gradient changes its sign moves on, by the smaller step."""

    _optimiser_class = optimisers.RpropMinus


class RpropPlus(RpropOptimiser):
    """Rprop+: a parameter whose gradient changes its sign takes its last move back."""

    _optimiser_class = optimisers.RpropPlus


class IRpropMinus(RpropOptimiser):
    """iRprop-: a parameter whose gradient changes its sign stays for one step."""

    _optimiser_class = optimisers.IRpropMinus


class IRpropPlus(RpropOptimiser):
    """iRprop+: a parameter whose gradient changes its sign takes its last move back if the cost increased."""

    _optimiser_class = optimisers.IRpropPlus


for _class in (RpropMinus, RpropPlus, IRpropMinus, IRpropPlus):
    _shared_doc = (RpropOptimiser.__doc__ or "").partition("\n")[2].replace("RpropOptimiser", _class.__name__)
    _class.__doc__ = f"{_class.__doc__}\n{_shared_doc}"
