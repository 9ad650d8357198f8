"""Rprop for NumPy arrays, in place: for a function and its gradient without torch.

One weight w with gradient g (negated if ``maximize``), remembered sign q (-1, 0, +1; at first 0) and step
size D (at first ``lr``)::

    c = sign(g) * q                           sign(0) = sign(NaN) = 0
    D = min(max(D * (eta_plus if c > 0 else eta_minus if c < 0 else 1), D_min), D_max)

=================  ==========================================================  ==========================
class              where the gradient changed its sign (c < 0)                 elsewhere
=================  ==========================================================  ==========================
`RpropMinus`       w -= sign(g) * D; q = sign(g)                               w -= sign(g) * D; q = sign(g)
`IRpropMinus`      w stays; q = 0                                              the same
`RpropPlus`        w += q * D_old (the last move is taken back); q = 0         the same
`IRpropPlus`       the same where the loss rose, else w stays; q = 0           the same
=================  ==========================================================  ==========================

Sources: M. Riedmiller, H. Braun, ICNN 1993 (Rprop+); M. Riedmiller, Computer Standards & Interfaces 16 (1994)
265-278 (Rprop-); C. Igel, M. Hüsken, Neurocomputing 50 (2003) 105-123.

The user may hold the loop with :class:`AskTell`; :mod:`rprop_kernels.scipy` holds it instead.
"""

import math
import os
import secrets
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, Final, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from . import hyperparameters
from .files import read_npz
from .kernels import choose, load, numpy_
from .kernels.arrays import check
from .kernels.state import CODES, STEP_LIMIT, decode
from .kernels.verdict import BETTER, LOST, Verdict, judge, judge_rows
from .variants import VARIANTS, Variant

__all__ = ["METHODS", "AskTell", "IRpropMinus", "IRpropPlus", "RpropMinus", "RpropPlus"]

Array: TypeAlias = NDArray[Any]
Pair: TypeAlias = tuple[float, float]

BACKENDS: Final = ("cython", "numba", "numpy")
FORMAT: Final = "rprop_kernels.numpy"
VERSION: Final = 1


def _real(name: str, value: Any) -> Array:
    """A float64 array of what the user calls a number or numbers."""
    try:
        array = np.asarray(value)
    except (TypeError, ValueError) as error:  # lists of unequal lengths, objects that claim to be arrays
        raise type(error)(f"{name} is no array: {error}; pass a float, or an array of floats") from error
    if array.dtype.kind not in "fiu" or isinstance(value, np.ma.MaskedArray):
        raise TypeError(f"{name} is {value!r} ({type(value).__name__}): pass a float, or an array of floats")
    return array.astype(np.float64, copy=False)


def _one_each(name: str, value: Any, weights: Sequence[Array], single: bool) -> Sequence[Any]:
    """``value`` for each parameter: itself for one array, else its items; a scalar or None serves all."""
    if single:
        return [value]
    if value is None or (not isinstance(value, (list, tuple)) and np.ndim(value) == 0):
        return [value] * len(weights)
    if isinstance(value, np.ndarray):  # its rows might be meant for the parameters, or for the weights of each
        raise TypeError(f"{name} is one array for a list of parameters: pass a list with an item for each")
    if len(value) != len(weights):
        raise ValueError(f"{name} has {len(value)} items for {len(weights)} parameters: pass one for each")
    return value  # type: ignore[no-any-return]


def _fit(name: str, value: Any, weight: Array, dtype: Any) -> Array:
    """``value`` as an array of ``dtype``, broadcast to the shape of the weights."""
    array = np.asarray(value)
    if array.dtype.kind not in ("b" if dtype is bool else "fiu"):
        raise TypeError(f"{name} is {array.dtype}: pass {'booleans' if dtype is bool else 'numbers'}")
    with np.errstate(over="ignore"):
        array = array.astype(dtype)
    try:
        return np.broadcast_to(array, weight.shape)
    except ValueError:
        raise ValueError(
            f"{name} has shape {array.shape}, its parameter {weight.shape}: pass one value, or "
            "an array of the parameter's shape"
        ) from None


def _laid(array: Array, weight: Array) -> Array:
    """The array in the weights' order of memory, but one number stays one."""
    if not any(array.strides):
        return array
    laid = np.empty_like(weight, subok=False)
    laid[...] = array
    return laid


def _forget(state: Array, where: Array) -> None:
    """Forget the sign of weights, keep their step."""
    code = CODES[state.dtype.name]
    size = np.abs(state)
    where = where & (size <= code.threshold)
    np.multiply(size, code.shift, out=state, where=where)


_PAIRS: Final = "SciPy's list of pairs, one for each weight, becomes that by np.transpose(pairs)."


class _Box:
    """Bounds of one parameter, and the scratch memory that lets every step do without allocation."""

    def __init__(self, name: str, weight: Array, lower: Any, upper: Any, frozen: Array | None) -> None:
        self.lower = _fit(f"lower bound of {name}", -np.inf if lower is None else lower, weight, weight.dtype)
        self.upper = _fit(f"upper bound of {name}", np.inf if upper is None else upper, weight, weight.dtype)
        legal = (self.lower <= self.upper) & (self.lower < np.inf) & (self.upper > -np.inf)
        if not np.all(legal):
            raise ValueError(
                f"bounds of {name} cross, are NaN, or leave no finite value: pass (lower, "
                "upper) with lower <= upper everywhere"
            )
        if np.any(outside := (weight < self.lower) | (weight > self.upper)):
            where = tuple(int(i) for i in np.argwhere(outside)[0])
            raise ValueError(
                f"{name} starts outside its bounds: {weight[where]} at index {where} is not "
                f"within [{self.lower[where]}, {self.upper[where]}]; start inside, such as at "
                f"np.clip(x, lower, upper). {_PAIRS}"
            )
        code, real = CODES[weight.dtype.name], weight.dtype.type
        self.shift, self.threshold = real(code.shift), real(code.threshold)
        one = slice(None if any(self.lower.strides + self.upper.strides) else 1)  # one number each: one width
        with np.errstate(over="ignore"):
            width = (self.upper - self.lower)[(one,) * weight.ndim]
            most = np.maximum(width / real(2), real(code.least)) * self.shift
        self.most = np.broadcast_to(most, weight.shape)
        if frozen is not None:
            self.lower = np.where(frozen, real(-np.inf), self.lower)
            self.upper = np.where(frozen, real(np.inf), self.upper)
        self.lower, self.upper, self.most = (_laid(end, weight) for end in (self.lower, self.upper, self.most))
        self.native = self.lower, self.upper, self.most
        self.scratch: tuple[Array, Array, Array] | None = None

    def keep(self, weight: Array, state: Array) -> None:
        """Stop weights at their bounds; there they forget their sign and step by half the width at most."""
        if self.scratch is None:
            low, high = np.zeros(weight.shape, bool), np.zeros(weight.shape, bool)
            self.scratch = low, high, np.zeros_like(weight, subok=False)
        low, high, size = self.scratch
        np.less_equal(weight, self.lower, out=low)
        np.greater_equal(weight, self.upper, out=high)
        if not (low.any() or high.any()):
            return
        np.copyto(weight, self.lower, where=low)
        np.copyto(weight, self.upper, where=high)
        np.logical_or(low, high, out=low)
        np.abs(state, out=size)
        np.less_equal(size, self.threshold, out=high)
        np.multiply(size, self.shift, out=size, where=high)
        np.minimum(size, self.most, out=size)
        np.copyto(state, size, where=low)


def _boxes(
    bounds: Any, weights: Sequence[Array], single: bool, frozen: Sequence[Array | None]
) -> list[_Box | None] | None:
    if bounds is None:
        return None
    try:
        if isinstance(bounds, (str, bytes, bytearray)):
            raise TypeError
        lower, upper = bounds
    except (TypeError, ValueError):
        raise ValueError(f"bounds must be (lower, upper), got {bounds!r}. {_PAIRS}") from None
    lowers, uppers = (
        _one_each(f"{name} bound", value, weights, single) for name, value in (("lower", lower), ("upper", upper))
    )
    boxes: list[_Box | None] = []
    for weight, low, high, mask in zip(weights, lowers, uppers, frozen, strict=True):
        bare = low is None and high is None
        boxes.append(None if bare else _Box(f"params[{len(boxes)}]", weight, low, high, mask))
    return boxes


def _masks(frozen: Any, weights: Sequence[Array], single: bool) -> list[Array | None]:
    """Where each parameter is frozen, of its shape; None: nowhere."""
    masks = _one_each("frozen", frozen, weights, single)
    return [
        None if mask is None else _fit(f"frozen[{index}]", mask, weight, bool)
        for index, (weight, mask) in enumerate(zip(weights, masks, strict=True))
    ]


def _check_move(name: str, move: Any, state: Array) -> None:
    """Whether a loaded state is one that a step leaves behind."""
    if not isinstance(move, np.ndarray) or move.shape != state.shape or move.dtype != state.dtype:
        kind = f"{move.dtype} of shape {move.shape}" if isinstance(move, np.ndarray) else type(move).__name__
        raise ValueError(
            f"{name} is {kind}, not {state.dtype} of shape {state.shape}: make the optimizer with the same parameters"
        )
    step = decode(move)[1]
    if not np.all((step >= CODES[state.dtype.name].least) & (step <= STEP_LIMIT)):
        raise ValueError(f"{name} holds values that are no steps: the state is damaged; load another copy of it")


class _Rprop:
    """The four optimizers but for their rule.

    Args:
        params: one array, or a list or tuple of arrays: float32 or float64 (mixed as you like), any shapes
            and strides, writable, apart in memory. They are updated in place and never replaced.
        lr: D at the start, above 0 and within ``step_sizes``. Read here and never again.
        etas: ``(eta_minus, eta_plus)``, 0 < eta_minus < 1 < eta_plus.
        step_sizes: ``(D_min, D_max)``, D_max at most 2**31; steps never shrink below 2**-63 (float64:
            2**-255).
        maximize: go uphill.
        bounds: ``(lower, upper)``: each None, a number for all weights, or, for one array, an array that
            broadcasts to it, for a sequence a sequence with one of these for each array. Rounded to the dtype
            of the weights. A weight that meets a bound stops there and forgets its sign, so that it is
            neither grown nor taken back past it; its step is cut to half the width of its interval, since a
            weight that could cross it in one step might jump from bound to bound for ever.
        frozen: None, or for one array a boolean mask that broadcasts to it (a sequence of these and None for
            a sequence): where it is true the weight never moves.
        backend: ``"cython"``, ``"numba"`` or ``"numpy"``; None takes the environment variable
            RPROP_KERNELS_BACKEND, else the first that is available.

    Attributes:
        params: the arrays, as a tuple.
        lr: the first step size; setting it later changes nothing and warns.
        etas: ``(eta_minus, eta_plus)``; may be set between two steps, and is checked then.
        step_sizes: ``(D_min, D_max)``; likewise.
        maximize: whether it goes uphill; may be set between two steps.
        backend: name of the backend in use.

    Raises:
        TypeError: something is not an array of float32 or float64 in native byte order.
        ValueError: a hyper-parameter out of its range, arrays that are read-only or overlap, bounds that
            cross, weights that start outside their bounds, an unknown or missing backend.
    """

    _variant: ClassVar[Variant]

    def __init__(
        self,
        params: Array | Sequence[Array],
        lr: float = 1e-2,
        etas: Pair = (0.5, 1.2),
        step_sizes: Pair = (1e-6, 50.0),
        *,
        maximize: bool = False,
        bounds: tuple[Any, Any] | None = None,
        frozen: Any = None,
        backend: str | None = None,
    ) -> None:
        self._hyper = hyperparameters.check(etas, step_sizes)
        self._lr = hyperparameters.check_lr(lr, self.step_sizes)
        self.maximize = maximize
        single = isinstance(params, np.ndarray) or not isinstance(params, Iterable)
        self._weights: list[Array] = [params] if single else list(params)  # type: ignore[list-item]
        if not self._weights:
            raise ValueError("params is empty: pass an array or a sequence of arrays")
        check(self._weights)
        self._frozen = _masks(frozen, self._weights, single)
        self._boxes = _boxes(bounds, self._weights, single, self._frozen)
        self._factors = [
            None if mask is None else (~mask).astype(w.dtype)  # 0 where frozen, else 1
            for w, mask in zip(self._weights, self._frozen, strict=True)
        ]
        self._products = [
            None if mask is None else np.zeros_like(w, subok=False)
            for w, mask in zip(self._weights, self._frozen, strict=True)
        ]
        self._any_frozen = any(mask is not None for mask in self._frozen)
        codes = [CODES[w.dtype.name] for w in self._weights]
        self._states = [
            (np.full_like(w, max(self._lr, code.least) * code.shift, subok=False),)
            for w, code in zip(self._weights, codes, strict=True)
        ]
        self._previous: float | Array | None = None  # E_prev
        self._warned: set[str] = set()
        self.backend = choose(backend, BACKENDS)
        kernels = load(self.backend)
        self._kernel = kernels.ArrayStepper() if self.backend == "cython" else kernels.step
        self._stop = getattr(self._kernel, "stop_at_bounds", None)

    params = property(lambda self: tuple(self._weights))

    @property
    def maximize(self) -> bool:
        """Whether it goes uphill."""
        return self._maximize

    @maximize.setter
    def maximize(self, value: bool) -> None:
        if not isinstance(value, (bool, np.bool_)):
            raise TypeError(f"maximize is {value!r} ({type(value).__name__}): pass True or False")
        self._maximize = bool(value)

    @property
    def lr(self) -> float:
        """D at the start."""
        return self._lr

    @lr.setter
    def lr(self, value: float) -> None:
        if not (type(value) is float and value == self._lr):
            self._lr = hyperparameters.check_lr(value, self.step_sizes)
            text = (
                "lr is the first step size, read when the optimizer was made; setting it now changes no "
                "step: set step_sizes to bound the steps, or make a new optimizer"
            )
            self._warn_once("lr", text, UserWarning, stacklevel=2)

    @property
    def etas(self) -> Pair:
        """``(eta_minus, eta_plus)``."""
        return self._hyper[:2]

    @etas.setter
    def etas(self, value: Pair) -> None:
        self._hyper = hyperparameters.check(value, self.step_sizes)

    @property
    def step_sizes(self) -> Pair:
        """``(D_min, D_max)``."""
        return self._hyper[2:]

    @step_sizes.setter
    def step_sizes(self, value: Pair) -> None:
        self._hyper = hyperparameters.check(self.etas, value)

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}({len(self._weights)} arrays, {sum(w.size for w in self._weights)} "
            f"weights, etas={self.etas}, step_sizes={self.step_sizes}, maximize={self.maximize}, "
            f"backend={self.backend!r})"
        )

    def step(self, grads: Array | Sequence[Array], loss: ArrayLike | None = None) -> None:
        """Update the parameters by one step, in place: all of them or, if anything is wrong, none.

        Args:
            grads: as ``params``: one array, or as many as there are parameters, of their shapes and dtypes,
                any strides. They are only read.
            loss: E at the current weights, a number. Only `IRpropPlus` uses it and needs it (it can do
                without where every gradient is zero). Shape (B,): one loss a row of parameters whose first
                dimension is B.
                A loss that is NaN or infinite is worse than anything: every move is taken back, steps shrink.
                Losses of different mini-batches are not comparable.

        Raises:
            TypeError, ValueError: the arrays do not fit (nothing was changed), or the loss is missing or no
                number.
        """
        gradients: Sequence[Array]
        if isinstance(grads, (list, tuple)):
            gradients = grads if type(grads) in (list, tuple) else list(grads)  # others may act when they are read
        elif len(self._weights) == 1:
            gradients = (grads,)  # type: ignore[assignment]
        else:
            raise TypeError(
                f"grads is a {type(grads).__name__}: pass a list with a gradient for each of the "
                f"{len(self._weights)} parameters"
            )
        verdict: Verdict = BETTER
        previous = self._previous
        if self._variant.needs_loss:
            verdict, previous = self._judge(loss, gradients)
        self._advance(self._variant.name, gradients, verdict)
        self._previous = previous

    def _advance(self, variant: str, gradients: Sequence[Array], verdict: Verdict) -> None:
        """One checked step of any rule: the state is the same for all."""
        weights = self._weights
        if self._any_frozen:
            gradients = self._hide_frozen(gradients)
        elif self.backend != "cython":
            gradients = self._checked(gradients)
        if not self._kernel(
            variant, weights, gradients, self._states, self._hyper, maximize=self.maximize, verdict=verdict, threads=0
        ):
            gradients = self._checked(gradients)  # raises what is wrong; what is left NumPy can do
            numpy_.step(variant, weights, gradients, self._states, self._hyper, maximize=self.maximize, verdict=verdict)
        if self._boxes is not None:
            for box, weight, (state,) in zip(self._boxes, weights, self._states, strict=True):
                if box is not None and not (self._stop and self._stop(weight, state, *box.native)):
                    box.keep(weight, state)

    def _checked(self, gradients: Sequence[Any]) -> Sequence[Array]:
        """The gradients, checked; NumPy scalars, which arithmetic on 0-d arrays gives, made arrays."""
        gradients = [np.asarray(g) if isinstance(g, np.generic) else g for g in gradients]
        check(self._weights, gradients)
        for index, (weight, (state,)) in enumerate(zip(self._weights, self._states, strict=True)):
            if weight.shape != state.shape or weight.dtype != state.dtype:
                raise ValueError(
                    f"params[{index}] has changed its shape or dtype since the optimizer was made: make a new one"
                )
        return gradients

    def _hide_frozen(self, gradients: Sequence[Array]) -> Sequence[Array]:
        """The gradients, checked, with 0 (or NaN, which moves nothing either) where a weight is frozen."""
        gradients = self._checked(gradients)
        with np.errstate(invalid="ignore"):
            return [
                g if factor is None else np.multiply(g, factor, out=product)
                for g, factor, product in zip(gradients, self._factors, self._products, strict=True)
            ]

    def _judge(self, loss: ArrayLike | None, gradients: Sequence[Array]) -> tuple[Verdict, float | Array | None]:
        """``(verdict, E_prev for the next step)``."""
        if loss is None:
            if any(np.any(gradient) for gradient in gradients):
                raise ValueError(
                    f"{type(self).__name__} needs the loss: pass it as step(grads, loss), or "
                    "use IRpropMinus, which needs none"
                )
            return BETTER, self._previous
        loss = self._number_or_rows(loss)
        previous = self._previous
        verdict: Verdict
        if isinstance(loss, float) and not isinstance(previous, np.ndarray):
            verdict, previous = judge(loss, previous, self.maximize)
            unknown = previous is None
        elif (
            isinstance(loss, np.ndarray)
            and not isinstance(previous, float)
            and (previous is None or previous.shape == loss.shape)
        ):
            verdict, previous = judge_rows(loss, previous, self.maximize)
            unknown = bool(np.isnan(previous).any())
        else:
            now, before = (getattr(value, "shape", ()) for value in (loss, previous))
            raise ValueError(
                f"loss has shape {now}, that of the step before {before}: pass the same kind of loss on every step"
            )
        if unknown:
            text = (
                f"the first loss is {loss}: there is no earlier point to return to, so the step follows "
                "the gradient; start where the loss is finite"
            )
            self._warn_once("loss", text, RuntimeWarning, stacklevel=3)
        return verdict, previous

    def _number_or_rows(self, loss: ArrayLike) -> float | Array:
        """The loss as a float, or as a float64 array of shape (B,)."""
        if type(loss) is float:
            return loss
        value = _real("loss", loss)
        shapes = [weight.shape for weight in self._weights]
        if value.ndim == 0 or (value.shape == (1,) and any(shape[:1] != (1,) for shape in shapes)):
            return float(value.reshape(()))
        if value.ndim != 1:
            raise ValueError(
                f"loss has shape {value.shape}: pass one number, or an array of shape (B,) with "
                "one number a row of the parameters"
            )
        for index, shape in enumerate(shapes):
            if shape[:1] != value.shape:
                raise ValueError(
                    f"loss has shape {value.shape}, but params[{index}] has shape {shape}, "
                    f"which has not {len(value)} rows: pass one number, or parameters whose "
                    f"first dimension is {len(value)}"
                )
        return value

    def _warn_once(self, key: str, text: str, category: type[Warning], stacklevel: int) -> None:
        if key not in self._warned:
            self._warned.add(key)
            warnings.warn(text, category, stacklevel=stacklevel + 1)

    def signs_and_steps(self, index: int = 0) -> tuple[Array, Array]:
        """``(q, D)`` of ``params[index]``: remembered sign (-1, 0, +1) and step size, new arrays.

        The last move of a weight was ``w -= q * D``, but where q is 0.
        """
        return decode(self._states[index][0])

    def state_dict(self) -> dict[str, Any]:
        """All that a later run needs besides the weights, as a dict of plain values and copied arrays.

        Keys: ``format``, ``version``, ``variant``, ``lr``, ``etas``, ``step_sizes``, ``maximize``; ``loss``,
        which is E_prev: None, a float, or shape (B,); ``moves``, one array a parameter, as
        :mod:`rprop_kernels.kernels.state` encodes sign and step.
        """
        previous = self._previous
        return {
            "format": FORMAT,
            "version": VERSION,
            "variant": self._variant.name,
            "lr": self.lr,
            "etas": self.etas,
            "step_sizes": self.step_sizes,
            "maximize": self.maximize,
            "loss": previous.copy() if isinstance(previous, np.ndarray) else previous,
            "moves": [state.copy() for (state,) in self._states],
        }

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take over what `state_dict` gave, hyper-parameters too; all of it or, where it is wrong, nothing.

        Raises:
            ValueError: not from an optimizer of this class and version, for other parameters, or with values
                that no step leaves behind.
        """
        if not isinstance(state_dict, Mapping):
            raise TypeError(f"state_dict is a {type(state_dict).__name__}: pass what state_dict() gave")
        wanted = {"format", "version", "variant", "lr", "etas", "step_sizes", "maximize", "loss", "moves"}
        if missing := wanted - set(state_dict):
            raise ValueError(
                f"not a state of {FORMAT}: {', '.join(sorted(missing))} missing; pass what state_dict() gave"
            )
        if (state_dict["format"], state_dict["version"]) != (FORMAT, VERSION):
            raise ValueError(
                f"a state of {state_dict['format']!r} version {state_dict['version']!r}, not of "
                f"{FORMAT!r} version {VERSION}: load it with the release that wrote it"
            )
        if state_dict["variant"] != self._variant.name:
            raise ValueError(
                f"a state of {state_dict['variant']!r}, not of {self._variant.name!r}: load it "
                "into the class that saved it"
            )
        hyper = hyperparameters.check(state_dict["etas"], state_dict["step_sizes"])
        lr = hyperparameters.check_lr(state_dict["lr"], (0.0, STEP_LIMIT))  # step_sizes may be others since it was read
        maximize = state_dict["maximize"]
        if not isinstance(maximize, (bool, np.bool_)):
            raise ValueError(f"maximize is {maximize!r}: load a state where it is True or False")
        previous = state_dict["loss"]
        if previous is not None:
            previous = self._number_or_rows(previous)
            if np.isinf(previous).any() or (isinstance(previous, float) and math.isnan(previous)):
                raise ValueError(f"loss is {previous}: no step remembers that; load what state_dict() gave")
        moves = state_dict["moves"]
        if not isinstance(moves, (list, tuple)):
            raise TypeError(f"moves is a {type(moves).__name__}: pass the list that state_dict() gave")
        if len(moves) != len(self._states):
            raise ValueError(
                f"a state of {len(moves)} parameters, not of {len(self._states)}: make the "
                "optimizer with the same parameters"
            )
        for index, (move, (state,)) in enumerate(zip(moves, self._states, strict=True)):
            _check_move(f"moves[{index}]", move, state)
        for index, (move, (state,)) in enumerate(zip(moves, self._states, strict=True)):
            np.copyto(state, move)
            if (mask := self._frozen[index]) is not None:
                _forget(state, mask)
        self._hyper, self._lr, self.maximize, self._previous = hyper, lr, bool(maximize), previous

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write `state_dict` to an .npz file, without pickle, atomically: the old file or the new one.

        The weights are not in it; save them beside it. The file gets exactly the name given.
        """
        state = self.state_dict()
        moves = state.pop("moves")
        if state["loss"] is None:
            del state["loss"]
        path = Path(path)
        unfinished = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
        try:
            with open(unfinished, "xb") as file:
                np.savez(file, **state, **{f"move{index}": move for index, move in enumerate(moves)})
                file.flush()
                os.fsync(file.fileno())
            os.replace(unfinished, path)
        except BaseException:
            unfinished.unlink(missing_ok=True)
            raise

    def load(self, path: str | os.PathLike[str]) -> None:
        """Take over what `save` wrote; all of it or, if anything is wrong, nothing.

        Raises:
            OSError: the file cannot be opened.
            ValueError: it is truncated, foreign, or does not fit (`load_state_dict`).
        """
        try:
            entries = read_npz(path)
        except ValueError as error:
            name = os.fspath(path)
            raise ValueError(f"{name} is truncated or was not written by save(): {error}; load another copy") from error
        moves = [key for key in entries if key.startswith("move")]
        state: dict[str, Any] = {key: np.asarray(value).tolist() for key, value in entries.items() if key not in moves}
        state["loss"] = entries.get("loss")
        state["moves"] = [entries.get(f"move{index}") for index in range(len(moves))]
        try:
            self.load_state_dict(state)
        except (ValueError, TypeError) as error:
            raise ValueError(f"{os.fspath(path)}: {error}") from error


class RpropMinus(_Rprop):
    """Rprop- [Riedmiller 1994; Igel & Hüsken 2003, algorithm 2]: a flip moves on, smaller."""

    _variant = VARIANTS["rprop-"]


class RpropPlus(_Rprop):
    """Rprop+ [Riedmiller & Braun 1993; Igel & Hüsken 2003, algorithm 1]: a flip takes the last move back."""

    _variant = VARIANTS["rprop+"]


class IRpropMinus(_Rprop):
    """iRprop- [Igel & Hüsken 2003, algorithm 4]: a weight whose gradient flipped stays for one step."""

    _variant = VARIANTS["irprop-"]


class IRpropPlus(_Rprop):
    """iRprop+ [Igel & Hüsken 2003, algorithm 3]: a flip takes the last move back if the loss rose."""

    _variant = VARIANTS["irprop+"]


for _class in (RpropMinus, RpropPlus, IRpropMinus, IRpropPlus):
    _class.__doc__ = f"{_class.__doc__}\n{(_Rprop.__doc__ or '').partition(chr(10))[2]}"

METHODS: Final = MappingProxyType({c._variant.name: c for c in (RpropMinus, RpropPlus, IRpropMinus, IRpropPlus)})
"""The four classes by the names of their rules, ``"rprop-"``, ``"rprop+"``, ``"irprop-"`` and ``"irprop+"``."""


def method_named(method: str) -> type[_Rprop]:
    """The class of a rule; ValueError that lists them where there is none."""
    try:
        return METHODS[method]
    except (KeyError, TypeError):
        raise ValueError(f"there is no method {method!r}: choose one of {', '.join(METHODS)}") from None


class AskTell:
    """The user holds the loop: asks for a point, evaluates it wherever he likes, tells loss and gradient.

    ::

        search = AskTell(x0, bounds=(0, 1))
        while not good_enough(search.best_loss):
            x = search.ask()
            search.tell(*loss_and_gradient(x))
        search.best_x

    A loss of shape (B,) makes every row of an x0 whose first dimension is B a search of its own: B points to
    evaluate at once, or in parallel. With any rule a loss that is NaN or infinite takes the last moves back
    (of its row) and shrinks their steps.

    Args:
        x0: the first point, an array of any shape; copied. float32 stays, everything else becomes float64.
        method: ``"rprop-"``, ``"rprop+"``, ``"irprop-"`` or ``"irprop+"``.
        **options: of the classes: ``lr``, ``etas``, ``step_sizes``, ``maximize``, ``bounds``, ``frozen``,
            ``backend``.

    Attributes:
        optimizer: the instance of the class that does the steps.
        best_x: where the best finite loss was found; a copy (x0 before the first). Row by row for losses of
            rows.
        best_loss: that loss, NaN before the first; a float, or shape (B,).
        improved: whether the last point told was the best so far; a bool, or shape (B,).
    """

    def __init__(self, x0: ArrayLike, method: str = "irprop+", **options: Any) -> None:
        start = np.asarray(x0)
        if start.dtype != np.float32:
            start = _real("x0", start)
        self._x = np.array(start, dtype=start.dtype.newbyteorder("="))
        try:
            self.optimizer = method_named(method)(self._x, **options)
        except ValueError as error:
            raise ValueError(str(error).replace("params[0]", "x0")) from None
        self._asked = False
        self._shape: tuple[int, ...] | None = None  # of the losses
        self.best_x = self._x.copy()
        self.best_loss: float | Array = math.nan
        self.improved: bool | Array = False

    def ask(self) -> Array:
        """The point to evaluate, as a copy that the caller may keep; the same one until `tell`."""
        self._asked = True
        return self._x.copy()

    def tell(self, loss: ArrayLike, grad: ArrayLike) -> None:
        """Loss and gradient at the point that `ask` gave; the next `ask` gives the next one.

        Args:
            loss: a number, or shape (B,) as in :meth:`IRpropPlus.step`; only the same kind on every call.
            grad: of x0's shape; only read.

        Raises:
            RuntimeError: nothing was asked since the last `tell`.
            TypeError, ValueError: not a number, wrong shape; nothing was changed.
        """
        if not self._asked:
            raise RuntimeError("tell() without ask(): ask for the point, evaluate it, then tell")
        x = self._x
        loss = self.optimizer._number_or_rows(loss)
        shape = getattr(loss, "shape", ())
        if self._shape not in (None, shape):
            raise ValueError(
                f"loss has shape {shape}, that of the step before {self._shape}: pass the same "
                "kind of loss on every step"
            )
        with np.errstate(over="ignore"):
            gradient = _real("grad", grad).astype(x.dtype, copy=False)
        if gradient.shape != x.shape:
            raise ValueError(f"grad has shape {gradient.shape}, x0 has {x.shape}: pass a gradient of that shape")
        if np.may_share_memory(gradient, x):
            gradient = gradient.copy()
        self.optimizer._checked((gradient,))  # what it does not refuse is told to the end
        if isinstance(loss, float):
            self._tell_one(loss, gradient)
        else:
            self._tell_rows(loss, gradient)
        self._shape = shape
        self._asked = False

    def _tell_one(self, loss: float, gradient: Array) -> None:
        optimizer, best, x = self.optimizer, self.best_loss, self._x.copy()
        if math.isfinite(loss) or math.isnan(best) or optimizer._variant.needs_loss:
            optimizer.step(gradient, loss)
        else:
            optimizer._advance("irprop+", (gradient,), LOST)
        self.improved = math.isfinite(loss) and not (loss <= best if optimizer.maximize else loss >= best)
        if self.improved:  # also where best is NaN
            self.best_loss = loss
            np.copyto(self.best_x, x)

    def _tell_rows(self, losses: Array, gradient: Array) -> None:
        optimizer, (state,) = self.optimizer, self.optimizer._states[0]
        best, x = np.broadcast_to(self.best_loss, losses.shape), self._x.copy()
        finite = np.isfinite(losses)
        lost = np.isfinite(best) & ~finite
        if lost.any() and not optimizer._variant.needs_loss:
            for row in np.flatnonzero(lost):
                rows = slice(row, row + 1)
                numpy_.step(
                    "irprop+", [self._x[rows]], [gradient[rows]], [(state[rows],)], optimizer._hyper, verdict=LOST
                )
            gradient = np.where(_beside(lost, gradient), 0, gradient)
        optimizer.step(gradient, losses)
        self.improved = finite & ~(losses <= best if optimizer.maximize else losses >= best)
        self.best_loss = np.where(self.improved, losses, best)
        np.copyto(self.best_x, x, where=_beside(self.improved, x))


def _beside(rows: Array, x: Array) -> Array:
    """Values for the rows of x, of a shape that broadcasts to x."""
    return rows.reshape(rows.shape + (1,) * (x.ndim - rows.ndim))
