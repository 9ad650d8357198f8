"""The four variants for NumPy arrays: base class, classes, saved state."""

import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, ClassVar, Final, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .. import hyperparameters
from ..backends import resolve_backend
from ..diagnostics import describe_steps
from ..files import read_npz, write_atomic
from ..kernels import load_engine, numpy_
from ..loss import NOT_WORSE, LossOutcome, compare_loss, compare_losses
from ..rules import VARIANTS, Variant
from ..state import STEP_LIMIT, decode, encode, forget_sign, initial_value, is_valid
from ..warn import warn_user
from .options import FirstSteps, copy_first_steps, make_constraints, make_first_steps, to_options
from .validation import float_array, validate_arrays

Array: TypeAlias = NDArray[Any]
Pair: TypeAlias = tuple[float, float]

FORMAT: Final = "rprop_kernels.numpy"
VERSION: Final = 2
COLUMNS: Final = ("move", "lower", "upper", "frozen", "lr")
"""Names of the entries in a file that have a number, that of the parameter."""


def _validate_state(name: str, move: Any, state: Array) -> None:
    """Check that a loaded state is one that a step can leave behind."""
    if not isinstance(move, np.ndarray) or move.shape != state.shape or move.dtype != state.dtype:
        kind = f"{move.dtype} of shape {move.shape}" if isinstance(move, np.ndarray) else type(move).__name__
        raise ValueError(
            f"{name} is {kind}, not {state.dtype} of shape {state.shape}: make the optimizer with the same parameters"
        )
    if not is_valid(move):
        raise ValueError(f"{name} holds values that are no steps: the state is damaged; load another copy of it")


def _first_state(param: Array, lr: float | Array) -> Array:
    """Return the state of a parameter that has not moved: no signs, and lr as the step size of each weight."""
    if isinstance(lr, float):
        return np.full_like(param, initial_value(lr, param.dtype), subok=False)
    state = np.empty_like(param, subok=False)
    state[...] = encode(np.zeros_like(lr), lr)
    return state


class RpropVariant:
    """Base class of the four optimizers.

    Args:
        params: one array, or a list or tuple of arrays: float32 or float64 (they may differ), of any shapes
            and strides, writable, disjoint in memory. They are updated in place and never replaced.
        lr: D at the start, above 0 and within ``step_sizes``. Read once, at construction. For one array an array
            that broadcasts to it, for a sequence a list with a number or an array for each: a first step for each
            weight.
        etas: ``(eta_minus, eta_plus)``, 0 < eta_minus < 1 < eta_plus.
        step_sizes: ``(D_min, D_max)``, D_max at most 2**31; steps never shrink below 2**-63 (float64:
            2**-255).
        maximize: ascend instead of descend.
        batched: whether a loss has shape (B,) and belongs to the rows of the parameters, whose first dimension is B
            (also where B is 1); otherwise it is one number. Not in ``state_dict``.
        bounds: None, a tuple of two halves (lower, upper), or a scipy.optimize.Bounds. A half is None, a number, for
            one array an array that broadcasts to it, or for a sequence a list with one of these for each array.
            Bounds are rounded to the dtype of the weights. A weight that is at or beyond a bound after its update is
            set on it and forgets its sign, so that its step neither grows nor is taken back past the bound; its step
            is at most half the width of its interval, since a weight that could cross it in one step might jump from
            bound to bound forever.
        frozen: None, for one array a boolean mask that broadcasts to it, or for a sequence a list with one of these
            for each array: where it is true the weight never moves, its gradient counts as 0, and it is not set on a
            bound.
        backend: ``"cython"``, ``"numba"`` or ``"numpy"``; None takes the environment variable
            RPROP_KERNELS_BACKEND, else the first that is available.

    Attributes:
        params: the arrays, as a tuple.
        lr: the first step size, or a list with a number or an array for each parameter; setting it later changes
            nothing and warns.
        etas: ``(eta_minus, eta_plus)``; may be set between two steps, and is checked then.
        step_sizes: ``(D_min, D_max)``; likewise.
        maximize: whether it ascends; may be set between two steps.
        backend: name of the backend in use.

    Raises:
        TypeError: something is not an array of float32 or float64 in native byte order; bounds in another form, such
            as SciPy's list of pairs; a mask that is not boolean.
        ValueError: a hyper-parameter out of its range, arrays that are read-only or overlap, bounds that
            cross or are NaN, weights that start outside their bounds, an unknown or missing backend. (A weight that is
            outside later is set on its bound by the next step.)

    Examples:
        >>> import numpy as np
        >>> from rprop_kernels.numpy import RpropVariant
        >>> x = np.array([5.0, -3.0])
        >>> optimizer = RpropVariant(x, lr=0.1)
        >>> for _ in range(200):
        ...     optimizer.step(2 * x, loss=x @ x)
        >>> bool(np.abs(x).max() < 1e-3)
        True
    """

    _variant: ClassVar[Variant]
    _stopping: Callable[[], Any] | None = None  # a weak reference to a Stopping; not copied
    _next_loss: float | Array | None = None  # of the point that it has tested

    def __init__(
        self,
        params: Array | Sequence[Array],
        lr: Any = 1e-2,
        etas: Pair = (0.5, 1.2),
        step_sizes: Pair = (1e-6, 50.0),
        *,
        maximize: bool = False,
        batched: bool = False,
        bounds: Any = None,
        frozen: Any = None,
        backend: str | None = None,
    ) -> None:
        self._hyper = hyperparameters.validate(etas, step_sizes)
        self.maximize = maximize
        self._batched = hyperparameters.validate_bool("batched", batched)
        single = isinstance(params, np.ndarray) or not isinstance(params, Iterable)
        self._params: list[Array] = [params] if single else list(params)  # type: ignore[list-item]
        if not self._params:
            raise ValueError("params is empty: pass an array or a sequence of arrays")
        if not hyperparameters.is_per_weight(lr):
            hyperparameters.validate_lr(lr, self.step_sizes)
        validate_arrays(self._params)
        self._single = single
        self._lr = make_first_steps(lr, self._params, self.step_sizes, array_like=single)
        self._constraints = make_constraints(bounds, frozen, self._params, array_like=single, is_start=True)
        lrs = self._lr if isinstance(self._lr, list) else [self._lr] * len(self._params)
        self._states = [(_first_state(x, first),) for x, first in zip(self._params, lrs, strict=True)]
        self._previous: float | Array | None = None  # E_prev
        self._warned: set[str] = set()
        self._requested_backend = backend
        self._init_step()

    def _init_step(self) -> None:
        self.backend = resolve_backend(self._requested_backend, "arrays")
        engine = load_engine(self.backend)
        self._engine_step: Any = None if self.backend == "numpy" else engine.make_stepper()

    def __getstate__(self) -> dict[str, Any]:
        """Leave the engine out: the environment that loads a pickle may have another."""
        return {k: v for k, v in self.__dict__.items() if k not in ("backend", "_engine_step", "_stopping")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._init_step()

    params = property(lambda self: tuple(self._params))

    @property
    def maximize(self) -> bool:
        """Whether it ascends."""
        return self._maximize

    @maximize.setter
    def maximize(self, value: bool) -> None:
        self._maximize = hyperparameters.validate_bool("maximize", value)

    @property
    def lr(self) -> FirstSteps:
        """D at the start: a number, or a list with a number or an array for each parameter."""
        return self._lr

    @lr.setter
    def lr(self, value: Any) -> None:
        if not (type(value) is float and value == self._lr):
            self._lr = make_first_steps(value, self._params, self.step_sizes, array_like=self._single)
            text = (
                "lr is the first step size, read when the optimizer was made; setting it now changes no "
                "step: set step_sizes to bound the steps, or make a new optimizer"
            )
            self._warn_once("lr", text, UserWarning)

    @property
    def etas(self) -> Pair:
        """``(eta_minus, eta_plus)``."""
        return self._hyper[:2]

    @etas.setter
    def etas(self, value: Pair) -> None:
        self._hyper = hyperparameters.validate(value, self.step_sizes)

    @property
    def step_sizes(self) -> Pair:
        """``(D_min, D_max)``."""
        return self._hyper[2:]

    @step_sizes.setter
    def step_sizes(self, value: Pair) -> None:
        self._hyper = hyperparameters.validate(self.etas, value)

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}({len(self._params)} arrays, {sum(param.size for param in self._params)} "
            f"weights, etas={self.etas}, step_sizes={self.step_sizes}, maximize={self.maximize}, "
            f"backend={self.backend!r})"
        )

    def step(self, grads: Array | Sequence[Array], loss: ArrayLike | None = None) -> None:
        """Update the parameters by one step, in place: all of them or, if anything is wrong, none.

        Args:
            grads: as ``params``: one array, or as many as there are parameters, of their shapes and dtypes,
                any strides. They are only read.
            loss: E at the current weights, a number; with ``batched=True`` shape (B,), one loss for each row. Only
                `IRpropPlus` uses it and needs it (except where every gradient is zero); the others validate a given
                one. A loss that is NaN or infinite is worse than any other: every move is taken back, steps shrink.
                Losses of different mini-batches are not comparable.

        Raises:
            TypeError, ValueError: the arrays do not match the parameters, or the loss is missing or not a number;
                nothing was changed.
        """
        stopping = None if self._stopping is None else self._stopping()
        if stopping is None:
            self._perform(self._gradients(grads), loss)
            return
        try:
            gradients = self._validate_to_read(self._gradients(grads))
            loss = self._next_loss if loss is None else self._loss_value(loss)
            stopping._before_step(*(() if loss is None else (loss, gradients)))
            self._next_loss = None
            self._perform(gradients, loss, stopping)
        except BaseException:
            stopping._flush_after_error()
            raise

    def _perform(self, gradients: Sequence[Array], loss: ArrayLike | None, stopping: Any = None) -> None:
        """Compare the loss and step; ``stopping``: see `_step`."""
        outcome: LossOutcome = NOT_WORSE
        previous = self._previous
        if self._variant.needs_loss:
            outcome, previous = self._compare_loss(loss, gradients)
        elif loss is not None:
            self._loss_value(loss)  # so that a change of class brings no new error
        self._step(self._variant.name, gradients, outcome, stopping)
        self._previous = previous

    def _gradients(self, grads: Array | Sequence[Array]) -> Sequence[Array]:
        """Return the gradients as a sequence."""
        if isinstance(grads, (list, tuple)):
            # A subclass may run code while it is read: read it here, once.
            return grads if type(grads) in (list, tuple) else list(grads)
        if len(self._params) == 1:
            return (grads,)  # type: ignore[return-value]
        raise TypeError(
            f"grads is a {type(grads).__name__}: pass a list with a gradient for each of the "
            f"{len(self._params)} parameters"
        )

    def _step(self, variant: str, gradients: Sequence[Array], outcome: LossOutcome, stopping: Any = None) -> None:
        """Perform a validated step of any rule: they share the state. The best point of a Stopping is copied first."""
        params, states, hyper = self._params, self._states, self._hyper
        options: dict[str, Any] = {"maximize": self.maximize, "outcome": outcome}
        if self._constraints is not None:
            options["constraints"] = self._constraints
        if self.backend != "numpy":
            bests = {} if stopping is None else stopping._columns()
            if self._engine_step(variant, params, gradients, states, hyper, n_threads=0, **bests, **options):
                if bests:
                    stopping._pending = None
                return
        gradients = self._validate(gradients)  # raises an error, unless the arrays suit NumPy
        if stopping is not None:
            stopping._flush()
        numpy_.step(variant, params, gradients, states, hyper, **options)

    def _validate_to_read(self, gradients: Sequence[Any]) -> Sequence[Array]:
        """Validate gradients that are only read: overlaps, which take longest to find, are left to the step."""
        params = self._params
        if len(gradients) == len(params) and all(
            type(g) is type(p) is np.ndarray and g.dtype == p.dtype and g.shape == p.shape == state.shape
            for g, p, (state,) in zip(gradients, params, self._states, strict=True)
        ):
            return gradients
        return self._validate(gradients)

    def _validate(self, gradients: Sequence[Any]) -> Sequence[Array]:
        """Validate parameters and gradients; convert NumPy scalars, the results of 0-d arithmetic, to arrays."""
        gradients = [np.asarray(g) if isinstance(g, np.generic) else g for g in gradients]
        validate_arrays(self._params, gradients)
        for index, (param, (state,)) in enumerate(zip(self._params, self._states, strict=True)):
            if param.shape != state.shape or param.dtype != state.dtype:
                raise ValueError(
                    f"params[{index}] has changed its shape or dtype since the optimizer was made: make a new one"
                )
        return gradients

    def _compare_loss(
        self, loss: ArrayLike | None, gradients: Sequence[Array]
    ) -> tuple[LossOutcome, float | Array | None]:
        """Return the outcome of the loss comparison, and E_prev for the next step."""
        if loss is None:
            if any(np.any(gradient) for gradient in gradients):
                raise ValueError(
                    f"{type(self).__name__} needs the loss: pass it as step(grads, loss), or "
                    "use IRpropMinus, which needs none"
                )
            return NOT_WORSE, self._previous
        loss = self._loss_value(loss)
        previous: Any = self._previous  # None, or of the loss's shape
        outcome: LossOutcome
        if isinstance(loss, float):
            outcome, previous = compare_loss(loss, previous, self.maximize)
            first_is_nonfinite = previous is None
        else:
            if previous is None:
                previous = np.full_like(loss, np.nan)
            with np.errstate(invalid="ignore"):
                outcomes, previous = compare_losses(loss, previous, self.maximize)
            outcome = outcomes.astype(np.uint8)
            first_is_nonfinite = bool(np.isnan(previous).any())
        if first_is_nonfinite:
            text = (
                f"the first loss is {loss}: there is no earlier point to return to, so the step follows "
                "the gradient; start where the loss is finite"
            )
            self._warn_once("loss", text, RuntimeWarning)
        return outcome, previous

    def _loss_value(self, loss: ArrayLike) -> float | Array:
        """Return the loss as a float, or, where ``batched``, as a float64 array of shape (B,)."""
        if type(loss) is float and not self._batched:
            return loss
        value = float_array("loss", loss)
        if not self._batched:
            if value.size != 1:
                raise ValueError(
                    f"loss has shape {value.shape}: pass one number, such as loss.mean(); for one loss for each row of "
                    "the parameters make the optimizer with batched=True"
                )
            return float(value.reshape(()))
        if value.ndim != 1:
            raise ValueError(
                f"loss has shape {value.shape}, but batched=True needs one loss for each row of the parameters, shape "
                "(B,): pass such an array, or leave batched=True out"
            )
        for index, (state,) in enumerate(self._states):  # of the parameters' shapes
            if state.shape[:1] != value.shape:
                raise ValueError(
                    f"loss has shape {value.shape}, but params[{index}] has shape {state.shape}: with batched=True its "
                    f"first dimension must be {len(value)}; put it into an optimizer of its own"
                )
        return value

    def _warn_once(self, key: str, text: str, category: type[Warning]) -> None:
        if key not in self._warned:
            self._warned.add(key)
            warn_user(text, category)

    def signs_and_steps(self, index: int = 0) -> tuple[Array, Array]:
        """Return the remembered signs and the step sizes of a parameter.

        Args:
            index: of the parameter.

        Returns:
            ``(q, D)``, new arrays of its shape: q is -1, 0 or +1. The last move of a weight was ``w -= q * D``, except
            where q is 0.
        """
        return decode(self._states[index][0])

    def diagnostics(self) -> list[dict[str, Any]]:
        """Return figures about the steps, a dict for each parameter.

        Keys: ``name``, which is None; ``weights``, the number of those that are not frozen; the shares of these
        ``at_step_min`` and ``at_step_max`` (their step size D is D_min or D_max), ``at_bound`` and ``without_sign``
        (no sign is remembered); ``step_quartiles``, three values of D. Figures of no weights are None.

        Examples:
            >>> import numpy as np
            >>> from rprop_kernels.numpy import RpropVariant
            >>> w = np.array([1.0, -2.0])
            >>> optimizer = RpropVariant(w, lr=0.5)
            >>> optimizer.step(2 * w, loss=w @ w)
            >>> optimizer.diagnostics()[0]["step_quartiles"]
            (0.5, 0.5, 0.5)
        """
        columns = self._params, self._states, self._constraints or [None] * len(self._params)
        return [
            describe_steps(None, param, state, limits, self.step_sizes)
            for param, (state,), limits in zip(*columns, strict=True)
        ]

    def reset_steps(self, lr: Any = None) -> None:
        """Begin the steps anew: no signs, the first step sizes, no E_prev. The weights stay.

        Args:
            lr: the first step sizes, as for the constructor; None takes those of ``lr``.

        Raises:
            ValueError: they are not within ``step_sizes``; nothing has changed.

        Examples:
            >>> import numpy as np
            >>> from rprop_kernels.numpy import RpropVariant
            >>> w = np.array([1.0, -2.0])
            >>> optimizer = RpropVariant(w, lr=0.5)
            >>> optimizer.step(2 * w, loss=w @ w)
            >>> optimizer.reset_steps(lr=0.25)
            >>> w.tolist(), optimizer.signs_and_steps()[1].tolist()
            ([0.5, -1.5], [0.25, 0.25])
        """
        given = self._lr if lr is None else lr
        array_like = self._single and lr is not None
        self._lr = make_first_steps(given, self._params, self.step_sizes, array_like=array_like)
        lrs = self._lr if isinstance(self._lr, list) else [self._lr] * len(self._params)
        for param, (state,), first in zip(self._params, self._states, lrs, strict=True):
            state[...] = _first_state(param, first)
        self._previous = None

    def state_dict(self) -> dict[str, Any]:
        """Return everything that a later run needs besides the weights, as a dict of plain values and copied arrays.

        Keys: ``format``, ``version``, ``variant``, ``etas``, ``step_sizes``, ``maximize``; ``lr``, a float, or a list
        with a float or an array for each parameter; ``bounds``, None or a tuple of two such lists, (lower, upper), in
        which None stands for no bound; ``frozen``, None or a list with None or a boolean array for each parameter;
        ``loss``, which is E_prev: None, a float, or shape (B,); ``moves``, one array for each parameter, the state of
        :mod:`rprop_kernels.state`.
        """
        previous = self._previous
        return {
            "format": FORMAT,
            "version": VERSION,
            "variant": self._variant.name,
            "lr": copy_first_steps(self._lr),
            "etas": self.etas,
            "step_sizes": self.step_sizes,
            "maximize": self.maximize,
            **to_options(self._constraints, len(self._params)),
            "loss": previous.copy() if isinstance(previous, np.ndarray) else previous,
            "moves": [state.copy() for (state,) in self._states],
        }

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Load the result of `state_dict`, hyper-parameters included; all of it or, where it is wrong, nothing.

        Version 1 has neither ``bounds`` nor ``frozen``. Where one of them is missing, the optimizer keeps its own.

        Raises:
            TypeError, ValueError: not from an optimizer of this class and version, for other parameters or another
                value of ``batched``, or with values that no step leaves behind.
        """
        if not isinstance(state_dict, Mapping):
            raise TypeError(f"state_dict is a {type(state_dict).__name__}: pass the result of state_dict()")
        required = {"format", "version", "variant", "lr", "etas", "step_sizes", "maximize", "loss", "moves"}
        if missing := required - set(state_dict):
            raise ValueError(
                f"not a state of {FORMAT}: {', '.join(sorted(missing))} missing; pass the result of state_dict()"
            )
        if state_dict["format"] != FORMAT or state_dict["version"] not in range(1, VERSION + 1):
            raise ValueError(
                f"a state of {state_dict['format']!r} version {state_dict['version']!r}, not of "
                f"{FORMAT!r} versions 1 to {VERSION}: load it with the release that wrote it"
            )
        if state_dict["variant"] != self._variant.name:
            raise ValueError(
                f"a state of {state_dict['variant']!r}, not of {self._variant.name!r}: load it "
                "into the class that saved it"
            )
        hyper = hyperparameters.validate(state_dict["etas"], state_dict["step_sizes"])
        # step_sizes may have changed since lr was read
        lr = make_first_steps(state_dict["lr"], self._params, (0.0, STEP_LIMIT), array_like=False)
        options = to_options(self._constraints, len(self._params))
        options |= {name: state_dict[name] for name in options if name in state_dict}
        constraints = make_constraints(**options, params=self._params, array_like=False, is_start=False)
        maximize = state_dict["maximize"]
        if not isinstance(maximize, (bool, np.bool_)):
            raise ValueError(f"maximize is {maximize!r}: load a state where it is True or False")
        previous = state_dict["loss"]
        if previous is not None:
            previous = float_array("loss", previous)
            if previous.ndim < 2 and previous.ndim != self._batched:
                kind = "one number" if self._batched else f"one number for each of {len(previous)} rows"
                raise ValueError(
                    f"loss of the state is {kind}: load it into an optimizer made with batched={not self._batched}"
                )
            previous = self._loss_value(previous)
            if np.isinf(previous).any() or (isinstance(previous, float) and math.isnan(previous)):
                raise ValueError(f"loss is {previous}, which no step leaves behind: load the result of state_dict()")
        moves = state_dict["moves"]
        if not isinstance(moves, (list, tuple)):
            raise TypeError(f"moves is a {type(moves).__name__}: pass the list of state_dict()")
        if len(moves) != len(self._states):
            raise ValueError(
                f"a state of {len(moves)} parameters, not of {len(self._states)}: make the "
                "optimizer with the same parameters"
            )
        for index, (move, (state,)) in enumerate(zip(moves, self._states, strict=True)):
            _validate_state(f"moves[{index}]", move, state)
        for move, (state,), limits in zip(moves, self._states, constraints or [None] * len(moves), strict=True):
            np.copyto(state, move)
            if limits is not None and limits.frozen is not None:
                np.copyto(state, forget_sign(state), where=limits.frozen)
        self._hyper, self._lr, self.maximize, self._previous = hyper, lr, bool(maximize), previous
        self._constraints = constraints

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write `state_dict` to an .npz file, without pickle, atomically: the file is the old one or the new one.

        The weights are not part of it. The file gets exactly the name given.
        """
        state = self.state_dict()
        lower, upper = state.pop("bounds") or ((), ())
        columns = {"move": state.pop("moves"), "frozen": state.pop("frozen") or (), "lower": lower, "upper": upper}
        if isinstance(state["lr"], list):
            columns["lr"] = state.pop("lr")
        arrays: dict[str, Any] = {key: value for key, value in state.items() if value is not None}
        for name, column in columns.items():
            arrays |= {f"{name}{index}": value for index, value in enumerate(column) if value is not None}
        write_atomic(path, lambda file: np.savez(file, **arrays))

    def load(self, path: str | os.PathLike[str]) -> None:
        """Load a file that `save` wrote; all of it or, if anything is wrong, nothing.

        Raises:
            OSError: the file cannot be opened.
            ValueError: it is truncated, of another origin, or does not match (`load_state_dict`).
        """
        try:
            entries = read_npz(path)
        except ValueError as error:
            name = os.fspath(path)
            raise ValueError(f"{name} is truncated or was not written by save(): {error}; load another copy") from error
        columns: dict[str, dict[int, Any]] = {name: {} for name in COLUMNS}
        state: dict[str, Any] = {"loss": entries.pop("loss", None)}
        for key, value in entries.items():
            name = key.rstrip("0123456789")
            if name in columns and name != key:
                columns[name][int(key.removeprefix(name))] = value
            else:
                state[key] = np.asarray(value).tolist()
        count = len(columns["move"])
        lists = {
            name: [column.get(index) for index in range(max((count - 1, *column)) + 1)] if column else None
            for name, column in columns.items()
        }
        state["moves"] = lists["move"] or []
        if lists["lr"] is not None:
            state["lr"] = lists["lr"]
        if state.get("version", 1) != 1:
            none = [None] * count
            has_bounds = lists["lower"] is not None or lists["upper"] is not None
            state["bounds"] = (lists["lower"] or none, lists["upper"] or none) if has_bounds else None
            state["frozen"] = lists["frozen"]
        try:
            self.load_state_dict(state)
        except (ValueError, TypeError) as error:
            raise ValueError(f"{os.fspath(path)}: {error}") from error


class RpropMinus(RpropVariant):
    """Rprop- [Riedmiller 1994; Igel & Hüsken 2003, algorithm 2]: a weight whose gradient flipped moves on, by less."""

    _variant = VARIANTS["rprop-"]


class RpropPlus(RpropVariant):
    """Rprop+ [Riedmiller & Braun 1993; Igel & Hüsken 2003, algorithm 1]: a flip takes the last move back."""

    _variant = VARIANTS["rprop+"]


class IRpropMinus(RpropVariant):
    """iRprop- [Igel & Hüsken 2003, algorithm 4]: a weight whose gradient flipped stays for one step."""

    _variant = VARIANTS["irprop-"]


class IRpropPlus(RpropVariant):
    """iRprop+ [Igel & Hüsken 2003, algorithm 3]: a flip takes the last move back if the loss increased."""

    _variant = VARIANTS["irprop+"]


for _class in (RpropMinus, RpropPlus, IRpropMinus, IRpropPlus):
    _shared_doc = (RpropVariant.__doc__ or "").partition("\n")[2].replace("RpropVariant", _class.__name__)
    _class.__doc__ = f"{_class.__doc__}\n{_shared_doc}"

METHODS: Final = MappingProxyType({c._variant.name: c for c in (RpropMinus, RpropPlus, IRpropMinus, IRpropPlus)})
"""The four classes by the names of their rules, ``"rprop-"``, ``"rprop+"``, ``"irprop-"`` and ``"irprop+"``."""


def class_for_method(method: str) -> type[RpropVariant]:
    """Return the class of a rule.

    Raises:
        ValueError: there is no such rule; the message lists all.
    """
    try:
        return METHODS[method]
    except (KeyError, TypeError):
        raise ValueError(f"there is no method {method!r}: choose one of {', '.join(METHODS)}") from None
