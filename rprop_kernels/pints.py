"""Rprop for PINTS: the four rules as optimisers for its controller, or for a loop of the user.

::

    controller = pints.OptimisationController(error, x0, boundaries=boundaries, method=IRpropPlus)
    x, f = controller.run()

They take the place of ``pints.IRPropMin`` and have its methods. Boundaries, transformations, logs and stopping criteria
are those of the controller.
"""

import importlib.util
import math
from collections.abc import Callable
from typing import Any, ClassVar, Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .install import install_command

if importlib.util.find_spec("pints") is None:
    raise ModuleNotFoundError(f"rprop_kernels.pints needs pints: {install_command('pints')}", name="pints")

import pints

from . import hyperparameters
from .numpy import AskTell
from .rules import VARIANTS, Variant
from .state import STEP_LIMIT, decode, encode

__all__ = ["IRpropMinus", "IRpropPlus", "RpropMinus", "RpropPlus"]

Array = NDArray[Any]

FIRST_IS_NONFINITE: Final = "The loss at the starting point is not finite: start elsewhere."
MAX_HALVINGS: Final = 60
"""After so many halvings a move that leaves the boundaries is dropped."""
MAX_DOUBLINGS: Final = 1100
"""So many lead from the spacing of floats at 0 to 1: for the bound 1 of a logarithm."""
SMALLEST_SHORTENED_STEP: Final = 1e-3
"""The smallest step after a shortened move, as a share of sigma0; steps along the boundary grow from there."""


class RpropOptimiser(pints.Optimiser):  # type: ignore[misc]  # pints has no types
    """Base class of the four optimisers.

    Args:
        x0: the point to start from.
        sigma0: the first step size of each parameter, or one for all; cut to the allowed step sizes. None: a sixth of
            the range of the boundaries, or without a range a third of ``abs(x0)`` (1 where x0 is 0).
        boundaries: None or a ``pints.Boundaries``. A parameter that meets a ``pints.RectangularBoundaries`` stops on
            it (at the upper end on the largest number below it, since PINTS excludes that end), forgets its sign and
            steps by half the width of its interval at most. With other boundaries a move that leaves them is shortened
            as ``pints.IRPropMin`` does: for all parameters, then it is restored for each where that stays inside.

    Raises:
        ValueError: x0 lies outside the boundaries, or the dimensions differ.

    Examples:
        >>> import numpy as np
        >>> from rprop_kernels.pints import RpropOptimiser
        >>> optimiser = RpropOptimiser([3.0, -4.0], sigma0=0.5)
        >>> for _ in range(100):
        ...     (x,) = optimiser.ask()
        ...     optimiser.tell([(x @ x, 2 * x)])
        >>> bool(np.abs(optimiser.x_best()).max() < 1e-4)
        True
    """

    _variant: ClassVar[Variant]

    def __init__(self, x0: ArrayLike, sigma0: ArrayLike | None = None, boundaries: Any = None) -> None:
        super().__init__(x0, sigma0, boundaries)
        self._etas = (0.5, 1.2)
        self._step_sizes: tuple[float | None, float | None] = (None, None)
        self._limits: tuple[Array, Array] | None = None
        self._running = False
        self._current, self._current_loss = self._x0, math.inf
        self._is_first_nonfinite = False
        if isinstance(boundaries, pints.RectangularBoundaries):
            self._limits = np.array(boundaries.lower()), _below(boundaries.upper())
        self._search = self._new_search()
        if isinstance(boundaries, pints.TransformedRectangularBoundaries):
            inner = boundaries._boundaries
            self._tighten(boundaries._transformation.to_model, inner.lower(), _below(inner.upper()))

    # ------------------------------------------------------------------------------------------ ask and tell

    def ask(self) -> list[Array]:
        """Return the point to evaluate, in a list; the same one until `tell`."""
        self._running = True
        x: Array = self._search.ask()
        x.setflags(write=False)
        return [x]

    def tell(self, reply: Any) -> None:
        """Take the loss and the gradient of the point that `ask` returned, as ``[(loss, gradient)]``.

        The gradient is only read. After a loss that is NaN or infinite all moves are taken back.

        Raises:
            RuntimeError: there was no `ask` since the last `tell`.
            TypeError, ValueError: another number of points, no gradient, a wrong shape; nothing was changed.
        """
        try:
            ((loss, gradient),) = reply
        except (TypeError, ValueError):
            raise ValueError(
                f"reply is {reply!r}: pass [(loss, gradient)], one pair for the one point; "
                f"{type(self).__name__} needs the gradient (evaluateS1)"
            ) from None
        search, is_first = self._search, math.isnan(self._search.best_loss)
        current = search._x.copy()
        search.tell(loss, gradient)
        self._current, self._current_loss = current, float(np.reshape(loss, ()))
        self._is_first_nonfinite = is_first and not math.isfinite(self._current_loss)
        if self._boundaries and self._limits is None:
            self._shorten_move()

    def f_best(self) -> float:
        """Return the lowest loss so far."""
        loss = float(self._search.best_loss)
        return math.inf if math.isnan(loss) else loss

    def x_best(self) -> Array:
        """Return the point with the lowest loss so far."""
        return self._search.best_x.copy()

    def f_guessed(self) -> float:
        """Return the loss of the last point."""
        return self._current_loss

    def x_guessed(self) -> Array:
        """Return the last point."""
        current: Array = self._current
        return current

    def running(self) -> bool:
        """Return whether there was an `ask`."""
        return self._running

    def stop(self) -> bool | str:
        """Return a message where no loss was finite yet: there is no point to return to. Else False."""
        return FIRST_IS_NONFINITE if self._is_first_nonfinite else False

    @classmethod
    def name(cls) -> str:
        """Return the name of the rule."""
        return cls._variant.name.replace("rprop", "Rprop")

    def needs_sensitivities(self) -> bool:
        """Return True: gradients are needed."""
        return True

    # -------------------------------------------------------------------------------------- hyper-parameters

    def etas(self) -> tuple[float, float]:
        """Return the factors of step sizes, ``(eta_minus, eta_plus)``."""
        return self._etas

    def set_etas(self, eta_minus: float, eta_plus: float) -> None:
        """Set the factors of step sizes, 0.5 and 1.2 at first.

        Args:
            eta_minus: of a step size after a change of sign, between 0 and 1.
            eta_plus: of a step size after equal signs, above 1.

        Raises:
            ValueError: they are out of range.
        """
        self._configure((eta_minus, eta_plus), self._step_sizes)

    def min_step_size(self) -> float | None:
        """Return the smallest step size, None where there is none."""
        return self._step_sizes[0]

    def max_step_size(self) -> float | None:
        """Return the largest step size, None where there is none."""
        return self._step_sizes[1]

    def set_min_step_size(self, step_size: float | None) -> None:
        """Set the smallest step size; None, as at first, lets steps shrink without an end.

        Raises:
            ValueError: it is negative, or above the largest step size.
        """
        self._configure(self._etas, (step_size, self._step_sizes[1]))

    def set_max_step_size(self, step_size: float | None) -> None:
        """Set the largest step size; None, as at first, is 2**31.

        Raises:
            ValueError: it is not above 0, is above 2**31, or is below the smallest step size.
        """
        self._configure(self._etas, (self._step_sizes[0], step_size))

    def n_hyper_parameters(self) -> int:
        """Return 2."""
        return 2

    def set_hyper_parameters(self, x: Any) -> None:
        """Set ``[min_step_size, max_step_size]``, as of ``pints.IRPropMin``.

        Raises:
            ValueError: they are not two, or out of range.
        """
        if len(x) != 2:
            raise ValueError(f"x holds {len(x)} hyper-parameters: pass [min_step_size, max_step_size]")
        self._configure(self._etas, (x[0], x[1]))

    def _configure(self, etas: tuple[float, float], step_sizes: tuple[float | None, float | None]) -> None:
        hyper = hyperparameters.validate(etas, _allowed(step_sizes))
        self._etas = hyper[:2]
        self._step_sizes = tuple(  # type: ignore[assignment]
            None if given is None else value for given, value in zip(step_sizes, hyper[2:], strict=True)
        )
        if self._running:
            self._search.optimizer.etas, self._search.optimizer.step_sizes = hyper[:2], hyper[2:]
        else:
            self._search = self._new_search()

    def _new_search(self) -> AskTell:
        """Make a search that has not begun."""
        step_min, step_max = _allowed(self._step_sizes)
        first = np.clip(self._sigma0, max(step_min, np.finfo(float).tiny), step_max)
        x0 = self._x0 if self._limits is None else np.clip(self._x0, *self._limits)
        return AskTell(
            x0, self._variant.name, lr=first, etas=self._etas, step_sizes=(step_min, step_max), bounds=self._limits
        )

    # ------------------------------------------------------------------------------------------------ logging

    def _log_init(self, logger: Any) -> None:
        logger.add_float("Min. step")
        logger.add_float("Max. step")

    def _log_write(self, logger: Any) -> None:
        steps = self._search.optimizer.signs_and_steps()[1]
        logger.log(steps.min())
        logger.log(steps.max())

    # --------------------------------------------------------------------------------------------- boundaries

    def _tighten(self, to_model: Callable[[Array], ArrayLike], lower: ArrayLike, upper: ArrayLike) -> None:
        """Move finite bounds of the search space inwards, by a few roundings, until they lie inside in the model space.

        Args:
            to_model: the transformation from the search space, one parameter at a time.
            lower: bounds in the model space.
            upper: likewise; a parameter may be equal to it.
        """
        assert self._limits is not None
        for limits, inwards in zip(self._limits, (1, -1), strict=True):
            distance = np.spacing(np.where(np.isfinite(limits), np.abs(limits), 0))
            for _ in range(MAX_DOUBLINGS):
                with np.errstate(all="ignore"):
                    x = np.asarray(to_model(limits))
                outside = np.isfinite(limits) & ((x < lower) | (x > upper))
                if not outside.any():
                    break
                limits[outside] += inwards * distance[outside]
                distance = distance * 2
        self._search = self._new_search()

    def _shorten_move(self) -> None:
        """Shorten a move that leaves the boundaries; shortened parameters forget their signs."""
        x, proposed, state = self._current, self._search._x, self._search.optimizer._states[0][0]
        if self._boundaries.check(proposed):
            return
        move, share = proposed - x, np.ones_like(x)
        for _ in range(MAX_HALVINGS):
            share = share / 2
            if self._boundaries.check(x + share * move):
                break
        else:
            share = np.zeros_like(x)
        for i in range(x.size):
            restored = share.copy()
            restored[i] = 1
            if self._boundaries.check(x + restored * move):
                share = restored
        step = np.maximum(np.abs(share * move), SMALLEST_SHORTENED_STEP * self._sigma0)
        step = np.minimum(decode(state)[1], step)
        proposed[...] = x + share * move
        state[...] = np.where(share < 1, encode(np.zeros_like(x), step), state)


class RpropMinus(RpropOptimiser):
    """Rprop-: a parameter whose gradient changes its sign moves on, by the smaller step."""

    _variant = VARIANTS["rprop-"]


class RpropPlus(RpropOptimiser):
    """Rprop+: a parameter whose gradient changes its sign takes its last move back."""

    _variant = VARIANTS["rprop+"]


class IRpropMinus(RpropOptimiser):
    """iRprop-: a parameter whose gradient changes its sign stays for one step."""

    _variant = VARIANTS["irprop-"]


class IRpropPlus(RpropOptimiser):
    """iRprop+: a parameter whose gradient changes its sign takes its last move back if the loss increased."""

    _variant = VARIANTS["irprop+"]


for _class in (RpropMinus, RpropPlus, IRpropMinus, IRpropPlus):
    _shared_doc = (RpropOptimiser.__doc__ or "").partition("\n")[2].replace("RpropOptimiser", _class.__name__)
    _class.__doc__ = f"{_class.__doc__}\n{_shared_doc}"


def _below(upper: ArrayLike) -> Array:
    """Return the largest numbers below bounds that are excluded; infinite bounds stay."""
    upper = np.asarray(upper, float)
    return np.where(np.isfinite(upper), np.nextafter(upper, -np.inf), upper)


def _allowed(step_sizes: tuple[float | None, float | None]) -> tuple[float, float]:
    """Return the step sizes of the classes for arrays."""
    step_min, step_max = step_sizes
    return 0.0 if step_min is None else step_min, STEP_LIMIT if step_max is None else step_max
