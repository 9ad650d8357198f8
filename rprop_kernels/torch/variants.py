"""What the four classes share, and three of them; the fourth asks for the loss."""

import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import Any, ClassVar, TypeAlias

import torch
from torch import Tensor
from torch.optim import Optimizer

from .. import hyperparameters
from ..hyperparameters import Hyperparameters
from ..kernels import load, openmp
from ..kernels.rules import RULES
from ..kernels.state import CODES
from ..kernels.torch_ import TorchVerdict, state_dtype
from ..kernels.verdict import BETTER
from ..variants import VARIANTS, Variant
from .saved import Hidden, encode, first_move, in_place
from .shards import rows_of, to_shards
from .sound import check_move, check_saved, check_step
from .ways import DONE, KINDS, STALE, Backend, as_arrays, plain, refuse_freed
from .wrapper import light

Params: TypeAlias = Iterable[Any]
Loss: TypeAlias = float | Tensor

ARGUMENTS = """
    Args:
        params: parameters, named parameters or groups of them, as for any torch optimizer.
        lr: the first step size D, above 0 and within ``step_sizes``. Read when a weight's state is made,
            and never again.
        etas: ``(eta_minus, eta_plus)``, 0 < eta_minus < 1 < eta_plus.
        step_sizes: ``(D_min, D_max)``, 0 <= D_min <= D_max <= 2**31; steps smaller than 2**-63 (float64: 2**-255)
            do not occur.
        maximize: climb instead of descend.
        backend: ``"cython"``, ``"numba"``, ``"numpy"``, ``"torch"`` or ``"triton"``; None takes
            RPROP_KERNELS_BACKEND or the first that is available. Tensors on a CUDA device go to Triton where
            that is installed, unless ``"torch"`` is asked for.
        foreach, capturable, differentiable: only torch's defaults are accepted.

    Its state is one tensor a parameter, ``state[p]["move"]``: the last move q * D itself, float32 for parameters of
    half precision and the parameter's dtype otherwise (see :mod:`rprop_kernels.kernels.state`);
    ``signs_and_steps`` takes it apart.

    Raises:
        ValueError: naming the argument, its value and the remedy.
        RuntimeError: for sparse gradients.
"""


class FourRules(Backend, Optimizer):
    """What the four classes share: everything but the row of the table, and the loss."""

    _variant: ClassVar[Variant]

    def __init__(
        self,
        params: Params,
        lr: float | Tensor = 1e-2,
        etas: tuple[float, float] = (0.5, 1.2),
        step_sizes: tuple[float, float] = (1e-6, 50.0),
        *,
        maximize: bool = False,
        backend: str | None = None,
        foreach: bool | None = None,
        capturable: bool = False,
        differentiable: bool = False,
    ) -> None:
        for name, value, default in (
            ("foreach", foreach, None),
            ("capturable", capturable, False),
            ("differentiable", differentiable, False),
        ):
            if value is not default and value != default:
                raise ValueError(
                    f"{type(self).__name__} does not take {name}={value!r}: leave it out; every step is one native "
                    "call already. rprop_kernels.torch.Rprop takes torch's options"
                )
        if isinstance(lr, Tensor) and lr.numel() != 1:
            raise ValueError("Tensor lr must be 1-element")
        self._set_up(backend, product=False)
        self._lrs: list[float] | None = []
        defaults: dict[str, Any] = {"lr": lr, "etas": etas, "step_sizes": step_sizes, "maximize": maximize}
        if self._variant.needs_loss:
            defaults["prev_loss"] = None
        hyperparameters.check_lr(lr, hyperparameters.check(etas, step_sizes)[2:])
        super().__init__(params, defaults)

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_backend": self._backend}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        if "_native" not in self.__dict__:
            self._set_up(self.__dict__.get("_backend"), product=False)
        self._lrs = []
        self._plain_lrs()
        for group in self.param_groups:
            group.setdefault("maximize", False)
            if self._variant.needs_loss:
                group.setdefault("prev_loss", None)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add parameters with options of their own; see ``torch.optim.Optimizer.add_param_group``.

        Raises:
            ValueError: for options out of order, before anything has changed.
        """
        if isinstance(param_group, dict):
            options = {**self.defaults, **param_group}
            hyperparameters.check_lr(options["lr"], hyperparameters.check(options["etas"], options["step_sizes"])[2:])
        super().add_param_group(param_group)
        self._plain_lrs()

    def _plain_lrs(self) -> None:
        """A tensor lr is read once like any other: as a number its changes are seen by everybody."""
        for group in self.param_groups:
            if isinstance(group.get("lr"), Tensor):
                group["lr"] = float(group["lr"])

    # -------------------------------------------------------------------------------------------- step

    def _bare_step(self, closure: Callable[[], Any] | None = None, *, loss: Loss | None = None) -> Any:
        """Perform one step.

        Args:
            closure: evaluates the model, calls ``backward`` and returns the loss.
            loss: the loss at the current weights; only :class:`IRpropPlus` needs it.

        Returns:
            what the closure returned, or None.
        """
        result = None if closure is None else self._evaluate(closure)
        self._update(BETTER)
        return result

    step = light(_bare_step)

    def _evaluate(self, closure: Callable[[], Any]) -> Any:
        if not callable(closure):
            raise TypeError(
                f"closure must be a function, got {type(closure).__name__}: pass a loss by name, step(loss=...)"
            )
        with torch.enable_grad():
            return closure()

    def _update(self, verdict: TorchVerdict | Sequence[TorchVerdict], still: bool = False) -> None:
        """Step every parameter; ``verdict`` on the loss, or one a group. ``still``: all gradients are zero."""
        native = self._native
        if native is not None and (
            type(verdict) is int or (isinstance(verdict, Tensor) and plain(verdict, torch.uint8))
        ):
            rules = RULES[self._variant.name]
            rule, rows = (rules[verdict], None) if isinstance(verdict, int) else (rules[BETTER], bytes(verdict.numpy()))
            outcome = native(rule, self.state, self.param_groups, rows, openmp.THRESHOLD)
            if outcome == STALE:
                self._plan(still)
                outcome = native(rule, self.state, self.param_groups, rows, openmp.THRESHOLD)
            if outcome == DONE:
                return
        self._foreign_step(verdict, still)

    def _checked(self, still: bool) -> list[Hyperparameters]:
        """Check all groups, then make missing state: nothing changes where something is wrong."""
        hypers = [hyperparameters.check(group["etas"], group["step_sizes"]) for group in self.param_groups]
        for group in self.param_groups if self._lrs is not None else ():  # else it has warned, and nobody reads it
            hyperparameters.as_number(group["lr"])
        new: list[tuple[Tensor, float]] = []
        foreign: list[Tensor] = []
        for group, hyper in zip(self.param_groups, hypers, strict=True):
            for p in group["params"]:
                if p.grad is None:
                    continue
                if p.grad.is_sparse:
                    raise RuntimeError(f"{type(self).__name__} does not support sparse gradients")
                state = self.state.get(p)
                if not state:
                    if not (p.is_floating_point() or p.is_complex()):
                        raise TypeError(f"a parameter is {p.dtype}, which cannot take steps: pass it as p.float()")
                    # Frameworks set lr to 0 and step along zero gradients, to make state.
                    lr = self.defaults["lr"] if group["lr"] == 0 and (still or self._still()) else group["lr"]
                    new.append((p, hyperparameters.check_lr(lr, hyper[2:])))
                elif "move" not in state:
                    foreign.append(p)
                check_step(p, p.grad, state)
        if new and any(p.is_cuda for p, _ in new) and torch.cuda.is_current_stream_capturing():
            raise RuntimeError("make one step before a CUDA graph is captured: every replay would make the state anew")
        loaded = [(p, self._fitted(self.state[p], p)) for p in foreign]
        made = [(p, first_move(p, lr)) for p, lr in new]  # here memory can run out
        for p, move in made:
            self.state[p]["move"] = move
        for p, fitted in loaded:
            self.state[p] = fitted
        self._watch_lr()
        return hypers

    def _still(self) -> bool:
        """Whether every gradient is zero. (What is sparse is refused later, by name.)"""
        grads = [p.grad for group in self.param_groups for p in group["params"] if p.grad is not None]
        try:
            return not any(not g.is_sparse and bool(g.count_nonzero()) for g in grads)
        except RuntimeError:  # meta and fake tensors: nobody can tell, and nothing real moves
            return True

    def _watch_lr(self) -> None:
        """Warn once where lr was changed behind a state that will never read it."""
        if self._lrs is None:  # has warned
            return
        lrs = [float(group["lr"]) for group in self.param_groups]
        for now, before in zip(lrs, self._lrs, strict=False):
            if now != before and before != 0.0:  # 0 stood there for a moment only, see _checked
                self._lrs = None
                warnings.warn(
                    f"lr was changed from {before} to {now}, which has no effect: in Rprop lr is only the first step "
                    "size, and every weight adapts its own from there (only one that has no state yet would start from "
                    "it). Leave out the learning-rate scheduler; to limit the steps change step_sizes",
                    UserWarning,
                    stacklevel=6,
                )
                return
        if self.state:
            self._lrs = lrs

    def _plan(self, still: bool) -> None:
        numbers = []
        for group, hyper in zip(self.param_groups, self._checked(still), strict=True):
            five = (*hyper, -1.0 if group["maximize"] else 1.0)
            lr = None if self._lrs is None else group["lr"]
            numbers.append((group["etas"], group["step_sizes"], group["maximize"], lr, (five,) * len(KINDS)))
        self._plan_native(numbers)

    @torch.no_grad()
    def _foreign_step(self, verdict: TorchVerdict | Sequence[TorchVerdict], still: bool) -> None:
        """The step without the extension: arrays where they will do, else torch operations."""
        hypers = self._checked(still)
        stepped = self._device_step(hypers, verdict)
        for i, (group, hyper) in enumerate(zip(self.param_groups, hypers, strict=True)):
            params = [p for p in group["params"] if p.grad is not None and id(p) not in stepped]
            grads = [p.grad for p in params]
            moves = [self.state[p]["move"] for p in params]
            said = verdict[i] if isinstance(verdict, list) else verdict
            if sharded := to_shards(params, grads, moves):
                said = [rows_of(said, sharded.get(k)) for k in range(len(params))]
            states = [(move,) for move in moves]
            backend = "torch"
            views: Any = None
            if self._backend in ("numpy", "numba") and not isinstance(said, list):
                views = as_arrays(params, grads, states)
            if views is None:
                refuse_freed((*params, *grads, *(s for (s,) in states)))
            else:
                torch._C._increment_version([*params, *(s for (s,) in states)])
                backend, (params, grads, states) = self._backend, views
                said = said.cpu().numpy() if isinstance(said, Tensor) else said
            load(backend).step(
                self._variant.name,
                params,
                grads,
                states,
                hyper,
                maximize=group["maximize"],
                verdict=said,
                threads=torch.get_num_threads(),
            )

    def _device_step(
        self, hypers: list[Hyperparameters], verdict: TorchVerdict | Sequence[TorchVerdict]
    ) -> frozenset[int]:
        """The Triton kernels: which parameters they have stepped, as ids."""
        launcher = self._launcher(p for group in self.param_groups for p in group["params"])
        if launcher is None:
            return frozenset()
        from ..kernels.triton_ import KERNELS, four_numbers

        launcher.begin()
        taken = []
        for i, (group, hyper) in enumerate(zip(self.param_groups, hypers, strict=True)):
            numbers = {dtype: four_numbers(hyper, group["maximize"], dtype) for dtype in KINDS}
            said: Any = verdict[i] if isinstance(verdict, list) else verdict
            for p in group["params"]:
                g = p.grad
                if g is None or p.dtype not in numbers:
                    continue
                if launcher.add(p, g, (self.state[p]["move"],), numbers[p.dtype], said):
                    taken.append(id(p))
        if not taken or not launcher.launch(KERNELS[self._variant.name]):
            return frozenset()
        return frozenset(taken)

    # ------------------------------------------------------------------------------------------- state

    def signs_and_steps(self, parameter: Tensor) -> tuple[Tensor, Tensor]:
        """What is remembered of a parameter, for people who look.

        Args:
            parameter: one that this optimizer has stepped.

        Returns:
            ``(q, D)``, the remembered sign of its gradient (-1, 0, +1) and the step size, both new tensors of the
            parameter's shape and the state's dtype (complex: real and imaginary part each).

        Raises:
            KeyError: when it has no state yet.
        """
        if not self.state.get(parameter):
            raise KeyError("this parameter has no state: it is not in this optimizer, or was never stepped")
        move = self.state[parameter]["move"]
        real = torch.view_as_real(move) if move.is_complex() else move
        code = CODES[str(real.dtype).removeprefix("torch.")]
        forgot = real.abs() > code.threshold
        q = torch.where(forgot, 0, real.sign())
        step = torch.where(forgot, real.abs() * (1 / code.shift), real.abs())
        return (torch.view_as_complex(q), torch.view_as_complex(step)) if move.is_complex() else (q, step)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load what ``state_dict`` of this class, or of torch.optim.Rprop, returned; exact in every dtype.

        Raises:
            ValueError: where the state is another optimizer's or damaged, or options are out of order; nothing has
                changed.
        """
        check_saved(state_dict)

        # torch casts state to the parameter's dtype, which would ruin the float32 state of half precision: what
        # is no tensor it passes through. Our hooks stand nearest to it, so that other hooks see ordinary tensors.
        def hide(optimizer: Optimizer, loaded: dict[str, Any]) -> dict[str, Any]:
            ids = (key for group in loaded["param_groups"] for key in group["params"])
            # Where they are not as many as the parameters torch says so, later and better.
            parameters = dict(zip(ids, (p for g in self.param_groups for p in g["params"]), strict=False))
            hidden = {
                key: Hidden(self._fitted(value, parameters.get(key))) if key in parameters else value
                for key, value in loaded["state"].items()
            }
            return {**loaded, "state": hidden}

        def show(optimizer: Optimizer) -> None:
            for p, hidden in list(self.state.items()):
                if isinstance(hidden, Hidden):
                    self.state[p] = hidden.content
            for group in self.param_groups:
                for name in ("foreach", "capturable", "differentiable"):
                    group.pop(name, None)

        before = self.register_load_state_dict_pre_hook(hide)
        after = self.register_load_state_dict_post_hook(show, prepend=True)
        try:
            super().load_state_dict(state_dict)
        finally:
            before.remove()
            after.remove()

    def _fitted(self, state: Any, p: Any) -> dict[str, Any]:
        """One parameter's saved state as ours, checked, of the dtype and on the device that it needs."""
        if not isinstance(state, dict):
            raise ValueError(f"the saved state of a parameter is {state!r}: pass what optimizer.state_dict() returned")
        fitted = self._converted(state)
        if not isinstance(p, Tensor):
            return fitted
        fitted = in_place(fitted, p)
        if fitted:
            check_move(fitted["move"], p)
        return fitted

    def _converted(self, state: dict[str, Any]) -> dict[str, Any]:
        """One parameter's saved state as ours."""
        if not state:
            return state
        if set(state) == {"move"}:
            dtype = getattr(state["move"], "dtype", None)
            if dtype is None or state_dtype(dtype) != dtype:
                raise ValueError(
                    f"this state was cast to {dtype}, which cannot hold it: save and load it in the dtype it has in "
                    "optimizer.state (float32 for half precision parameters)"
                )
            return state
        if {"prev", "step_size"} <= set(state):
            return {"move": encode(state["prev"], state["step_size"])}
        raise ValueError(
            f"this is the state of another optimizer: it holds {sorted(state)}, where {type(self).__name__} keeps "
            "'move' and torch.optim.Rprop 'prev' and 'step_size'; load it into that one"
        )


class RpropMinus(FourRules):
    __doc__ = f"""Rprop- [Riedmiller 1994; Igel and Hüsken 2003, algorithm 2]: a flipped weight moves on.

    Per weight w, with gradient g (negated if ``maximize``), remembered sign q and step size D::

        c = sign(g) * q
        D = min(max(D * (eta_plus if c > 0 else eta_minus if c < 0 else 1), D_min), D_max)
        w = w - sign(g) * D;  q = sign(g)
    {ARGUMENTS}"""

    _variant = VARIANTS["rprop-"]


class RpropPlus(FourRules):
    __doc__ = f"""Rprop+ [Riedmiller and Braun 1993; Igel and Hüsken 2003, algorithm 1]: a flipped weight goes back.

    Per weight w, with gradient g (negated if ``maximize``), remembered sign q and step size D::

        c = sign(g) * q;  D_old = D
        D = min(max(D * (eta_plus if c > 0 else eta_minus if c < 0 else 1), D_min), D_max)
        if c < 0:  w = w + q * D_old;  q = 0
        else:      w = w - sign(g) * D;  q = sign(g)
    {ARGUMENTS}"""

    _variant = VARIANTS["rprop+"]


class IRpropMinus(FourRules):
    __doc__ = f"""iRprop- [Igel and Hüsken 2003, algorithm 4]: a flipped weight stays for one step.

    Per weight w, with gradient g (negated if ``maximize``), remembered sign q and step size D::

        c = sign(g) * q
        D = min(max(D * (eta_plus if c > 0 else eta_minus if c < 0 else 1), D_min), D_max)
        if c < 0:  q = 0
        else:      w = w - sign(g) * D;  q = sign(g)
    {ARGUMENTS}"""

    _variant = VARIANTS["irprop-"]
