"""Arguments of minimize that NumPy and torch share: refused words, problems in args, callbacks."""

import inspect
from collections.abc import Callable
from typing import Any, Final

import numpy as np

NOISE: Final = 1e-6
"""The relative difference of two losses at x0 above which a loss counts as noisy."""

REFUSED: Final = {
    "tol": "gtol, ftol and xtol",
    "options": "the arguments of minimize by themselves",
    "maxiter": "max_steps",
    "max_iter": "max_steps",
    "maxfev": "max_evals",
    "hess": "finish='newton' to rprop_kernels.torch.minimize, which computes second derivatives; Rprop uses none",
    "constraints": "bounds and frozen",
    "finish": "tensors to rprop_kernels.torch.minimize, whose autograd has second derivatives",
}
"""Words of other libraries, and the ones to use here."""

ROWS_REMEDY: Final = (
    "rows that have finished are no longer evaluated: pass the data of each problem through args and in_dims, "
    "or let fun "
    "take the keyword rows, the numbers of the rows in x"
)


def refuse_unknown(words: dict[str, Any]) -> None:
    """Raise TypeError for keyword arguments that minimize does not have; it names the word to use."""
    for word in words:
        if word in REFUSED:
            raise TypeError(f"minimize has no argument {word!r}: pass {REFUSED[word]}")
        raise TypeError(f"minimize has no argument {word!r}: see its documentation for those it has")


def takes_rows(function: Any) -> bool:
    """Check whether a function has a parameter named ``rows``."""
    try:
        return "rows" in inspect.signature(function).parameters
    except (TypeError, ValueError):  # True, or a built-in function without a signature
        return False


def parse_in_dims(in_dims: Any, args: tuple[Any, ...], problems: int) -> tuple[int | None, ...]:
    """Return the dimension that counts the problems for each of args.

    Raises:
        ValueError: it is missing, or does not fit args; the message lists the shapes.
    """
    shapes = [tuple(np.shape(arg)) if hasattr(arg, "shape") else None for arg in args]
    if in_dims is None:
        if not any(shapes):
            return (None,) * len(args)
        proposal = tuple(0 if shape and shape[0] == problems else None for shape in shapes)
        raise ValueError(
            f"args hold arrays, of shapes {', '.join(map(str, shapes))}: pass in_dims, for each of args the "
            "dimension that "
            f"counts the {problems} problems, or None for one that all share; perhaps in_dims={proposal}"
        )
    dims = (in_dims,) * len(args) if isinstance(in_dims, int) else in_dims
    if not isinstance(dims, (tuple, list)) or len(dims) != len(args):
        raise ValueError(
            f"in_dims={in_dims!r} for {len(args)} args: pass one entry, a dimension or None, for each of args"
        )
    for index, (arg, dim) in enumerate(zip(args, dims, strict=True)):
        if dim is None:
            continue
        shape = tuple(np.shape(arg))
        if isinstance(dim, bool) or not isinstance(dim, int) or not -len(shape) <= dim < len(shape):
            raise ValueError(
                f"in_dims[{index}]={dim!r} for an argument of shape {shape}: pass one of its dimensions, or None"
            )
        if shape[dim] != problems:
            raise ValueError(
                f"args[{index}] has shape {shape}, whose dimension {dim} does not count the {problems} "
                "problems: pass one "
                f"entry for each, or None in in_dims for an argument that all share"
            )
    return tuple(dims)


class Intermediate:
    """The point of an evaluation, for a callback.

    Attributes:
        x: the point, a copy.
        fun: its loss.
        nit: the number of steps so far.
    """

    def __init__(self, x: Any, fun: Any, nit: int) -> None:
        self.x, self.fun, self.nit = x, fun, nit


def make_callback(callback: Any) -> Callable[[Any, Any, int], object] | None:
    """Return the callback, ``callback(x)`` or ``callback(*, intermediate_result)``, as a function of x, loss, steps.

    Raises:
        TypeError: it is no function.
    """
    if callback is None:
        return None
    if not callable(callback):
        raise TypeError(f"callback is {callback!r}: pass a function of x, or of intermediate_result")
    try:
        names = set(inspect.signature(callback).parameters)
    except (TypeError, ValueError):  # some built-in functions have no signature
        names = set()
    if names == {"intermediate_result"}:
        return lambda x, loss, steps: callback(intermediate_result=Intermediate(x, loss, steps))
    return lambda x, loss, steps: callback(x)


def noise_message(loss: float, again: float) -> str:
    """Return the warning that two losses at the same point differ."""
    return (
        f"fun returned {loss} and then {again} at x0: the loss is noisy, so that a comparison with the one before "
        "means little; use the same data and random numbers in every call, or method='irprop-', or pass "
        "check_noise=False"
    )
