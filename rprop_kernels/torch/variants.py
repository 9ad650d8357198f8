"""The four rules of the papers as torch optimizers."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, ClassVar, TypeAlias

import torch
from torch import Tensor
from torch.nn.parameter import is_lazy
from torch.optim import Optimizer

from .. import hyperparameters
from ..bounds import holds_arrays
from ..diagnostics import describe_steps
from ..hyperparameters import Hyperparameters
from ..kernels.torch_ import UPDATES
from ..loss import NONFINITE, NOT_WORSE, compare_loss
from ..rules import VARIANTS, Variant
from ..warn import warn_user
from . import _compat
from .dispatch import GroupTensors, Outcome, StepMixin, local_outcomes, to_local
from .loss import Loss, ProcessGroupRef, compare, to_loss
from .options import (
    NAMES,
    GroupOptions,
    convert_options,
    copy_lr,
    first_steps,
    local_constraints,
    pack_bounds,
    planned_constraints,
    same_lr,
    same_objects,
    unpack_bounds,
    validate_starts,
    versions,
)
from .state import (
    Opaque,
    new_state,
    signs_and_steps,
    state_dtype,
    state_for,
    state_from_torch,
    validate_state,
    validate_state_dict,
    validate_tensors,
)

Params: TypeAlias = Iterable[Any]

ARGUMENTS = """
    Args:
        params: parameters, named parameters or groups of them, as for any torch optimizer.
        lr: the first step size D, above 0 and within ``step_sizes``. Read when a weight's state is made,
            and never again. An array or tensor that broadcasts to the parameter, or a list with a number or one of
            these for each parameter, has a first step for each weight; torch's schedulers refuse it.
        etas: ``(eta_minus, eta_plus)``, 0 < eta_minus < 1 < eta_plus.
        step_sizes: ``(D_min, D_max)``, 0 <= D_min <= D_max <= 2**31; steps smaller than 2**-63 (float64: 2**-255)
            do not occur.
        bounds: None, a tuple of two halves (lower, upper), or a scipy.optimize.Bounds. A half is None, a number, an
            array or tensor that broadcasts to the parameter, or a list with one of these for each parameter of the
            group. Bounds are rounded to the parameter's dtype. A weight that is at or beyond a bound after its update
            is set on it and forgets its sign, and its step is at most half the width of its interval::

                if w <= lower or w >= upper:  w = that bound;  q = 0;  D = min(D, (upper - lower) / 2)

        frozen: None, a boolean mask that broadcasts to the parameter, or a list with one of these for each parameter.
            Where it is true a weight never moves: its gradient counts as 0, and it is not set on a bound.
        maximize: maximize the objective instead of minimizing it.
        batched: whether a loss has shape (B,) and belongs to the rows of parameters whose first dimension is B (also
            where B is 1); otherwise it is one number. It holds for all groups and is not in the ``state_dict``.
        backend: ``"cython"``, ``"numba"``, ``"torch"`` or ``"triton"``; None takes RPROP_KERNELS_BACKEND or the first
            that is available. Tensors on a CUDA device go to Triton where that is installed, unless ``"torch"`` is
            requested.
        foreach, capturable: accepted with any value, as other optimizers of torch take them; they change nothing.

    ``lr``, ``bounds`` and ``frozen`` may differ between groups. With several groups the arguments of the constructor
    are numbers, and lists and arrays stand in the groups. A group holds floats and detached tensors of the shape and
    dtype of their parameters, and they may be set between two steps. They are part of copies, pickles and the
    ``state_dict``; an option that a ``state_dict`` lacks stays as it is.

    The state is one tensor a parameter, ``state[p]["move"]``: the last move q * D itself, float32 for parameters of
    half precision and the parameter's dtype otherwise (see :mod:`rprop_kernels.state`); ``signs_and_steps`` decodes it.

    Raises:
        ValueError: naming the argument, its value and the remedy: a hyper-parameter out of its range, bounds that cross
            or are NaN, a weight outside its bounds at construction or when its state is made. (A weight that is
            outside later is set on its bound by the next step.)
        TypeError: bounds in another form, such as SciPy's list of pairs; a mask that is not boolean; options for each
            weight of a complex parameter.
        RuntimeError: for sparse gradients.
"""


def _real_part(x: Any) -> Tensor:
    """Return the numbers of this process in a tensor, as real ones."""
    x = x.to_local() if hasattr(x, "placements") else x
    real: Tensor = torch.view_as_real(x.resolve_conj()) if x.is_complex() else x
    return real


class RpropVariant(StepMixin, Optimizer):
    """The base of the four classes: everything but the row of the table, and the loss."""

    _variant: ClassVar[Variant]

    def __init__(
        self,
        params: Params,
        lr: Any = 1e-2,
        etas: tuple[float, float] = (0.5, 1.2),
        step_sizes: tuple[float, float] = (1e-6, 50.0),
        *,
        bounds: Any = None,
        frozen: Any = None,
        maximize: bool = False,
        batched: bool = False,
        backend: str | None = None,
        process_group: Any = None,  # of IRpropPlus; the others average no loss
        foreach: Any = None,
        capturable: Any = False,
        differentiable: bool = False,
    ) -> None:
        self._refuse_differentiable(differentiable)
        self._init_step(backend)
        self._options: list[GroupOptions] = []
        self._last_lrs: list[Any] | None = []
        self._batched = hyperparameters.validate_bool("batched", batched)
        maximize = hyperparameters.validate_bool("maximize", maximize)
        defaults: dict[str, Any] = {"lr": lr, "etas": etas, "step_sizes": step_sizes, "maximize": maximize}
        defaults |= {"bounds": bounds, "frozen": frozen}
        if self._variant.needs_loss:
            defaults["prev_loss"] = None
        limits = hyperparameters.validate(etas, step_sizes)[2:]
        if not hyperparameters.is_per_weight(lr):
            hyperparameters.validate_lr(lr, limits)
        elif params is None:
            raise ValueError("Tensor lr must be 1-element where params is None: pass the parameters of its weights")
        params = list(params) if isinstance(params, Iterator) else params
        if isinstance(params, (list, tuple)) and len(params) > 1 and isinstance(params[0], dict):
            for name in NAMES:
                if holds_arrays(defaults[name]):
                    raise TypeError(
                        f"{name} is {defaults[name]!r} for {len(params)} groups: pass one number for all parameters; "
                        "lists and arrays stand in the groups of their parameters"
                    )
        super().__init__(params, {**defaults, **hyperparameters.as_floats(defaults)})
        self.defaults |= {name: self.param_groups[0][name] for name in NAMES if holds_arrays(self.defaults[name])}

    def __getstate__(self) -> dict[str, Any]:
        loss = self._next_loss
        loss = loss.detach() if isinstance(loss, Tensor) else loss
        return self._picklable({**super().__getstate__(), "_next_loss": loss, "_batched": self._batched})

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._restore_step()
        self._options, self._last_lrs, self._lr_versions = [], [], []
        for group in self.param_groups:
            group.update(hyperparameters.as_floats(group))
            group.setdefault("maximize", False)
            group.setdefault("bounds", None)
            group.setdefault("frozen", None)
            if self._variant.needs_loss:
                group.setdefault("prev_loss", None)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add parameters with options of their own; see ``torch.optim.Optimizer.add_param_group``.

        Raises:
            ValueError: for options that are not valid, before anything has changed.
        """
        if isinstance(param_group, dict):
            options = {**self.defaults, **param_group}
            step_sizes = hyperparameters.validate(options["etas"], options["step_sizes"])[2:]
            if not hyperparameters.is_per_weight(options["lr"]):
                hyperparameters.validate_lr(options["lr"], step_sizes)
            maximize = hyperparameters.validate_bool("maximize", options["maximize"])
            self._refuse_differentiable(param_group.get("differentiable", False))
            # Wrappers such as ZeroRedundancyOptimizer copy all arguments of the constructor into the groups.
            if (batched := param_group.get("batched", self._batched)) is not self._batched:
                raise ValueError(
                    f"a group has batched={batched!r}, its optimizer batched={self._batched}: batched holds for all "
                    f"groups; pass it as {type(self).__name__}(params, batched=...)"
                )
            if isinstance(param_group.get("params"), Iterator):  # an iterator serves once, but the dict may be shared
                param_group["params"] = list(param_group["params"])
            param_group = {**param_group, **hyperparameters.as_floats(options), "maximize": maximize}
            # prev_loss may be another optimizer's
            for name in ("batched", "foreach", "capturable", "differentiable", "prev_loss"):
                param_group.pop(name, None)
        given = set(param_group) if isinstance(param_group, dict) else set()
        super().add_param_group(param_group)
        place = len(self.param_groups) - 1
        try:
            self._init_group_options(self.param_groups[place], place, given)
        except BaseException:
            del self.param_groups[place]
            raise

    def _init_group_options(self, group: dict[str, Any], place: int, given: set[str]) -> None:
        """Validate the parameters of a new group, and convert its options."""
        for p in group["params"]:
            if type(p) is Tensor:  # a Parameter of a quantized module may stay integer: it never has a gradient
                self._require_float(p)
        for name in NAMES:
            if place and name not in given and holds_arrays(group[name]):
                raise ValueError(
                    f"{name} of the constructor belongs to its own parameters: pass {name} in the new group, too"
                )
        options = convert_options(group, place)
        validate_starts(group["params"], options.constraints, place)
        first_steps(
            options.values["lr"], group, place, hyperparameters.validate(group["etas"], group["step_sizes"])[2:]
        )
        group.update(options.values)
        self._options[place:] = [options]

    def _require_float(self, p: Tensor) -> None:
        if not (p.is_floating_point() or p.is_complex()):
            raise TypeError(f"a parameter is {p.dtype}, which cannot take steps: pass it as p.float()")

    def _refuse_differentiable(self, value: Any) -> None:
        if value:
            raise ValueError(
                f"{type(self).__name__} does not take differentiable={value!r}: leave it out; "
                "rprop_kernels.torch.Rprop takes torch's options"
            )

    # -------------------------------------------------------------------------------------------- step

    @_compat.skip_idle_hooks
    def step(self, closure: Callable[[], Any] | None = None, *, loss: Loss | None = None) -> Any:
        """Perform one step.

        Args:
            closure: evaluates the model, calls ``backward`` and returns the loss.
            loss: the loss at the current weights; only :class:`IRpropPlus` uses it. Here it is only validated, so that
                one training loop serves all classes.

        Returns:
            the closure's value, or None.

        Raises:
            ValueError: a loss whose shape fits no rule or not the parameters.
            TypeError: a loss that is not a number.
        """
        result = None if closure is None else self._evaluate(closure)
        self._report(loss, result)
        if loss is not None or self._next_loss is not None:
            self._validate_loss(loss)
        self._step_tensors()
        return result

    def _evaluate(self, closure: Callable[[], Any]) -> Any:
        if not callable(closure):
            raise TypeError(
                f"closure must be a function, got {type(closure).__name__}: pass a loss by name, step(loss=...)"
            )
        with torch.enable_grad():
            return closure()

    def _validate(self) -> tuple[list[Hyperparameters], list[GroupOptions]]:
        """Validate all groups, then make missing state: nothing changes where something is wrong.

        Returns:
            the hyper-parameters and the options of each group. (Another thread may replace those of the optimizer.)
        """
        hypers = [hyperparameters.validate(group["etas"], group["step_sizes"]) for group in self.param_groups]
        floats = [hyperparameters.as_floats(group) for group in self.param_groups]
        for group in self.param_groups:
            if not isinstance(group["maximize"], int):  # a bool, or the 0 or 1 of a checkpoint of torch's
                hyperparameters.validate_bool("maximize", group["maximize"])
        options = self._convert_options()
        stateless: list[tuple[Tensor, Any]] = []
        unconverted: list[Tensor] = []
        for place, (group, hyper) in enumerate(zip(self.param_groups, hypers, strict=True)):
            new: dict[int, Tensor] = {}
            for i, p in enumerate(group["params"]):
                if p.grad is None:
                    continue
                if p.grad.is_sparse:
                    raise RuntimeError(f"{type(self).__name__} does not support sparse gradients")
                self._require_float(p)
                state = self.state.get(p)
                if not state:
                    new[i] = p
                elif "move" not in state:
                    unconverted.append(p)
                validate_tensors(p, p.grad, state)
            if new:
                steps = self._first_steps(group, place, options[place].values["lr"], hyper)
                starts = [new.get(i) for i in range(len(group["params"]))]
                validate_starts(starts, options[place].constraints, place)
                stateless += [(p, steps[i]) for i, p in new.items()]
        if any(p.is_cuda for p, _ in stateless) and torch.cuda.is_current_stream_capturing():
            raise RuntimeError("make one step before a CUDA graph is captured: every replay would make the state anew")
        converted = [(p, self._load_state_of(self.state[p], p)) for p in unconverted]
        created = [(p, new_state(p, lr)) for p, lr in stateless]  # here memory can run out
        for p, move in created:
            self.state[p]["move"] = move
        for p, state in converted:
            self.state[p] = state
        self._update_groups(options, floats)
        self._warn_if_lr_changed()
        return hypers, options

    def _update_groups(self, options: list[GroupOptions], floats: list[dict[str, Any]]) -> None:
        """Put converted options and hyper-parameters into the groups."""
        for group, converted, values in zip(self.param_groups, options, floats, strict=True):
            group.update(converted.values)
            group.update(values)
        self._options = options

    def _convert_options(self) -> list[GroupOptions]:
        """Return the options of each group, those anew that have changed since the last step."""
        options = []
        for place, group in enumerate(self.param_groups):
            last = self._options[place] if place < len(self._options) else None
            is_current = last is not None and last.is_current(group)
            options.append(last if last is not None and is_current else convert_options(group, place, last))
        return options

    def _first_steps(self, group: dict[str, Any], place: int, lr: Any, hyper: Hyperparameters) -> list[Any]:
        """Return the first step sizes of each parameter of a group."""
        # Frameworks set lr to 0 and step along zero gradients, to make state.
        if not hyperparameters.is_per_weight(lr) and lr == 0 and self._grads_are_zero():
            lr = convert_options({**group, "lr": self.defaults["lr"]}, place).values["lr"]
        return first_steps(lr, group, place, hyper[2:])

    def _grads_are_zero(self) -> bool:
        """Check whether every gradient is zero. (Sparse ones are refused later, by name.)"""
        grads = [p.grad for group in self.param_groups for p in group["params"] if p.grad is not None]
        try:
            return not any(not g.is_sparse and bool(g.count_nonzero()) for g in grads)
        except RuntimeError:  # meta and fake tensors have no values, and nothing real moves
            return True

    def _warn_if_lr_changed(self) -> None:
        """Warn once where lr was changed after the state was made, which never reads it again."""
        if self._last_lrs is None:  # has warned
            return
        lrs = [group["lr"] for group in self.param_groups]
        self._lr_versions = versions(self.param_groups)
        for lr, before in zip(lrs, self._last_lrs, strict=False):
            if not same_lr(lr, before) and not same_lr(before, 0.0):  # 0 was there for a moment only, see _first_steps
                self._last_lrs, self._lr_versions = None, []
                warn_user(
                    f"lr was changed from {before} to {lr}, which has no effect: in Rprop lr is only the first step "
                    "size, and every weight adapts its own from there (only one that has no state yet would start from "
                    "it). Leave out the learning-rate scheduler; to limit the steps change step_sizes",
                    UserWarning,
                )
                return
        if self.state:
            self._last_lrs = [copy_lr(lr) for lr in lrs]

    def _notice_lr(self) -> None:
        if not same_objects(self._lr_versions, versions(self.param_groups)):
            self._warn_if_lr_changed()

    def _plan_groups(self) -> list[tuple[Any, Any, Any]]:
        plans = []
        hypers, converted = self._validate()
        for group, options, hyper in zip(self.param_groups, converted, hypers, strict=True):
            row = hyper.with_direction(group["maximize"])
            # After the warning any number will do, which no step reads.
            lr = float if self._last_lrs is None and type(group["lr"]) is float else group["lr"]
            plans.append((lr, (row,) * len(_compat.DTYPES), planned_constraints(options, group)))
        return plans

    @torch.no_grad()
    def _fallback_step(self, outcome: Outcome) -> None:
        super()._fallback_step(outcome)

    def _group_tensors(self, outcome: Outcome) -> list[GroupTensors]:
        _, converted = self._validate()
        groups = []
        for i, (group, options) in enumerate(zip(self.param_groups, converted, strict=True)):
            params = [p for p in group["params"] if p.grad is not None]
            constraints = options.constraints and [
                limits for p, limits in zip(group["params"], options.constraints, strict=True) if p.grad is not None
            ]
            grads = [p.grad for p in params]
            moves = [self.state[p]["move"] for p in params]
            group_outcome = outcome[i] if isinstance(outcome, list) else outcome
            if shards := to_local(params, grads, moves):
                group_outcome = [local_outcomes(group_outcome, shards.get(k)) for k in range(len(params))]
                constraints = constraints and [
                    local_constraints(x) if k in shards else x for k, x in enumerate(constraints)
                ]
            groups.append(GroupTensors(group, params, grads, [moves], [], group_outcome, constraints))
        return groups

    def _group_hyper(self, group: dict[str, Any], dtype: torch.dtype) -> Hyperparameters:
        return hyperparameters.validate(group["etas"], group["step_sizes"])

    def _torch_step(self, tensors: GroupTensors) -> None:
        update = UPDATES[self._variant.name]
        hyper = self._group_hyper(tensors.group, torch.float32)
        for i, (p, g, move) in enumerate(zip(tensors.params, tensors.grads, *tensors.states, strict=True)):
            outcome = tensors.outcome[i] if isinstance(tensors.outcome, list) else tensors.outcome
            constraints = tensors.constraints and tensors.constraints[i]
            update(p, g, move, hyper, tensors.group["maximize"], outcome, constraints)

    # ------------------------------------------------------------------------------------------- state

    def signs_and_steps(self, parameter: Tensor) -> tuple[Tensor, Tensor]:
        """Return the remembered gradient signs and the step sizes of a parameter.

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
        return signs_and_steps(self.state[parameter]["move"])

    @torch.no_grad()
    def diagnostics(self) -> list[dict[str, Any]]:
        """Return figures about the steps, a dict for each parameter of all groups; it waits for devices.

        Keys: ``name``, None where the parameters are not named; ``weights``, the number of those that are not frozen;
        the shares of these ``at_step_min`` and ``at_step_max`` (their step size D is D_min or D_max), ``at_bound`` and
        ``without_sign`` (no sign is remembered); ``step_quartiles``, three values of D. Figures of no weights, or of
        weights without a state, are None. Complex weights count as two numbers, and of a DTensor those of this process
        count.

        Examples:
            >>> import torch
            >>> from rprop_kernels.torch import IRpropMinus
            >>> model = torch.nn.Linear(2, 1)
            >>> optimizer = IRpropMinus(model.named_parameters(), lr=0.5)
            >>> model(torch.ones(2)).backward()
            >>> optimizer.step()
            >>> [(row["name"], row["step_quartiles"]) for row in optimizer.diagnostics()]
            [('weight', (0.5, 0.5, 0.5)), ('bias', (0.5, 0.5, 0.5))]
        """
        rows = []
        for group, options in zip(self.param_groups, self._convert_options(), strict=True):
            step_sizes = hyperparameters.validate(group["etas"], group["step_sizes"])[2:]
            names = group.get("param_names") or [None] * len(group["params"])
            constraints = options.constraints or [None] * len(group["params"])
            for name, p, limits in zip(names, group["params"], constraints, strict=True):
                state = self.state.get(p)
                if is_lazy(p):
                    rows.append(describe_steps(name, torch.empty(0), None, None, step_sizes, torch))
                    continue
                move = self._load_state_of(state, p)["move"] if state else None
                x, move = (None if t is None else _real_part(t.detach()) for t in (p, move))
                rows.append(describe_steps(name, x, move, local_constraints(limits), step_sizes, torch))
        return rows

    @torch.no_grad()
    def reset_steps(self, lr: Any = None) -> None:
        """Begin the steps anew: no signs, the first step sizes, no E_prev. The weights stay.

        Args:
            lr: the first step sizes, as for the constructor, which every group then has; None takes those of the
                groups.

        Raises:
            ValueError: they are not within ``step_sizes``; nothing has changed.

        Examples:
            >>> import torch
            >>> from rprop_kernels.torch import IRpropMinus
            >>> w = torch.nn.Parameter(torch.tensor([1.0, -2.0]))
            >>> optimizer = IRpropMinus([w], lr=0.5)
            >>> (w**2).sum().backward()
            >>> optimizer.step()
            >>> optimizer.reset_steps(lr=0.25)
            >>> w.tolist(), optimizer.signs_and_steps(w)[1].tolist()
            ([0.5, -1.5], [0.25, 0.25])
        """
        changes: list[tuple[dict[str, Any], Tensor, Tensor]] = []
        options: list[GroupOptions] = []
        for place, group in enumerate(self.param_groups):
            changed = group if lr is None else {**group, "lr": lr, **hyperparameters.as_floats({**group, "lr": lr})}
            options.append(convert_options(changed, place, next(iter(self._options[place : place + 1]), None)))
            limits = hyperparameters.validate(group["etas"], group["step_sizes"])[2:]
            steps = first_steps(options[place].values["lr"], changed, place, limits)
            for p, step in zip(group["params"], steps, strict=True):
                if self.state.get(p):
                    changes.append((self.state[p], p, new_state(p.detach(), step)))
        for state, p, move in changes:
            if "move" in state and state["move"].dtype == move.dtype and state["move"].shape == move.shape:
                state["move"].copy_(move)  # a captured graph reads this memory
            else:
                self.state[p] = {"move": move}
        for group, converted in zip(self.param_groups, options, strict=True):
            group.update(converted.values)
            if self._variant.needs_loss:
                group["prev_loss"] = None
        self._options = options
        if self._last_lrs is not None:
            self._last_lrs = [copy_lr(group["lr"]) for group in self.param_groups] if self.state else []
            self._lr_versions = versions(self.param_groups)

    def state_dict(self) -> dict[str, Any]:
        """Return the state and the groups; see ``torch.optim.Optimizer.state_dict``.

        Bounds that hold DTensors become ``{"lower": ..., "upper": ...}``, since torch.distributed.checkpoint finds
        no tensors in a tuple. Options edited since the last step are converted first, so that
        ``torch.load(weights_only=True)`` reads them; invalid ones are left to the next step, which refuses them.
        """
        try:
            options = self._convert_options()
            floats = [hyperparameters.as_floats(group) for group in self.param_groups]
        except (TypeError, ValueError):
            pass
        else:
            self._update_groups(options, floats)
        saved = super().state_dict()
        for group in saved["param_groups"]:
            group["bounds"] = pack_bounds(group.get("bounds"))
        return saved

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a ``state_dict`` of this class, or of torch.optim.Rprop; exact in every dtype.

        Raises:
            ValueError: the state is another optimizer's or damaged, options are not valid, or E_prev does not suit
                ``batched``; nothing has changed.
        """
        validate_state_dict(state_dict, self._batched)

        # torch casts state to the parameter's dtype, which would ruin the float32 state of half precision; it passes
        # through values that are not tensors. Our hooks are nearest to it, so that other hooks see ordinary tensors.
        def wrap(optimizer: Optimizer, loaded: dict[str, Any]) -> dict[str, Any]:
            ids = (key for group in loaded["param_groups"] for key in group["params"])
            # Where their number differs from that of the parameters, torch says so later.
            parameters = dict(zip(ids, (p for g in self.param_groups for p in g["params"]), strict=False))
            wrapped = {
                key: Opaque(self._load_state_of(value, parameters.get(key))) if key in parameters else value
                for key, value in loaded["state"].items()
            }
            groups = [{**group, **self._load_options_of(group, i)} for i, group in enumerate(loaded["param_groups"])]
            return {**loaded, "state": wrapped, "param_groups": groups}

        def unwrap(optimizer: Optimizer) -> None:
            for p, wrapped in list(self.state.items()):
                if isinstance(wrapped, Opaque):
                    self.state[p] = wrapped.value
            for group in self.param_groups:
                for name in ("foreach", "capturable", "differentiable"):
                    group.pop(name, None)

        before = self.register_load_state_dict_pre_hook(wrap)
        after = self.register_load_state_dict_post_hook(unwrap, prepend=True)
        try:
            super().load_state_dict(state_dict)
        finally:
            before.remove()
            after.remove()

    def _load_options_of(self, group: dict[str, Any], place: int) -> dict[str, Any]:
        """Convert the options of a saved group; those that it lacks are the optimizer's own."""
        if place >= len(self.param_groups):  # torch refuses another number of groups
            return {}
        own = self.param_groups[place]
        if len(group["params"]) != len(own["params"]):  # or of parameters
            return {}
        options = {name: group.get(name, own.get(name)) for name in NAMES}
        options["bounds"] = unpack_bounds(options["bounds"])
        return convert_options({**options, "params": own["params"]}, place).values

    def _load_state_of(self, state: Any, p: Any) -> dict[str, Any]:
        """Convert one parameter's saved state to ours, validated, of the dtype and on the device that it needs."""
        if not isinstance(state, dict):
            raise ValueError(f"the saved state of a parameter is {state!r}: pass what optimizer.state_dict() returned")
        converted = self._convert_state(state)
        if not isinstance(p, Tensor):
            return converted
        converted = state_for(converted, p)
        if converted:
            validate_state(converted["move"], p)
        return converted

    def _convert_state(self, state: dict[str, Any]) -> dict[str, Any]:
        """Convert one parameter's saved state to ours."""
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
            return {"move": state_from_torch(state["prev"], state["step_size"])}
        raise ValueError(
            f"this is the state of another optimizer: it holds {sorted(state)}, where {type(self).__name__} keeps "
            "'move' and torch.optim.Rprop 'prev' and 'step_size'; load it into that one"
        )


_EXAMPLE = """
    Examples:
        >>> import torch
        >>> w = torch.nn.Parameter(torch.tensor([1.0, -2.0]))
        >>> optimizer = {name}([w], lr=0.5)
        >>> (w**2).sum().backward()
        >>> optimizer.step()
        >>> w.tolist()
        [0.5, -1.5]
"""


class RpropMinus(RpropVariant):
    __doc__ = f"""Rprop- [Riedmiller 1994; Igel and Hüsken 2003, algorithm 2]: a flipped weight moves on.

    Per weight w, with gradient g (negated if ``maximize``), remembered sign q and step size D::

        c = sign(g) * q
        D = min(max(D * (eta_plus if c > 0 else eta_minus if c < 0 else 1), D_min), D_max)
        w = w - sign(g) * D;  q = sign(g)
    {ARGUMENTS}{_EXAMPLE.format(name="RpropMinus")}"""

    _variant = VARIANTS["rprop-"]


class RpropPlus(RpropVariant):
    __doc__ = f"""Rprop+ [Riedmiller and Braun 1993; Igel and Hüsken 2003, algorithm 1]: a flipped weight goes back.

    Per weight w, with gradient g (negated if ``maximize``), remembered sign q and step size D::

        c = sign(g) * q;  D_old = D
        D = min(max(D * (eta_plus if c > 0 else eta_minus if c < 0 else 1), D_min), D_max)
        if c < 0:  w = w + q * D_old;  q = 0
        else:      w = w - sign(g) * D;  q = sign(g)
    {ARGUMENTS}{_EXAMPLE.format(name="RpropPlus")}"""

    _variant = VARIANTS["rprop+"]


class IRpropMinus(RpropVariant):
    __doc__ = f"""iRprop- [Igel and Hüsken 2003, algorithm 4]: a flipped weight stays for one step.

    Per weight w, with gradient g (negated if ``maximize``), remembered sign q and step size D::

        c = sign(g) * q
        D = min(max(D * (eta_plus if c > 0 else eta_minus if c < 0 else 1), D_min), D_max)
        if c < 0:  q = 0
        else:      w = w - sign(g) * D;  q = sign(g)
    {ARGUMENTS}{_EXAMPLE.format(name="IRpropMinus")}"""

    _variant = VARIANTS["irprop-"]


class IRpropPlus(RpropVariant):
    __doc__ = f"""iRprop+ [Igel and Hüsken 2003, algorithm 3]: a flipped weight goes back, if the loss increased.

    Per weight w, with gradient g (negated if ``maximize``), remembered sign q, step size D and loss E::

        c = sign(g) * q;  D_old = D
        D = min(max(D * (eta_plus if c > 0 else eta_minus if c < 0 else 1), D_min), D_max)
        if c < 0:  w = w + q * D_old where E > E_prev;  q = 0
        else:      w = w - sign(g) * D;  q = sign(g)

    The loss at the current weights comes from ``step(loss=...)``, else :meth:`set_loss`, else the closure: a number or
    a tensor of one element. With ``batched=True`` it is a tensor of shape (B,), and each row of the parameters, whose
    first dimension is B, is decided by its own loss. Losses of different mini-batches are not comparable: use the rule
    where the loss is the same function at every step. A loss that is NaN or infinite takes back every remembered move,
    also of parameters without a gradient: where the objective raises an error, call ``zero_grad()`` and pass
    ``loss=math.inf``. ``process_group``, a ``torch.distributed`` group or True for the default one, averages the loss
    over its processes, so that replicas decide alike.
    {ARGUMENTS}
    Examples:
        >>> import torch
        >>> w = torch.nn.Parameter(torch.tensor([1.0, -2.0]))
        >>> optimizer = IRpropPlus([w], lr=0.5)
        >>> loss = (w**2).sum()
        >>> loss.backward()
        >>> optimizer.step(loss=loss)
        >>> w.tolist()
        [0.5, -1.5]
"""

    _variant = VARIANTS["irprop+"]

    _process_group: Any = None
    _warned_loss = False

    def __init__(
        self,
        params: Params,
        lr: Any = 1e-2,
        etas: tuple[float, float] = (0.5, 1.2),
        step_sizes: tuple[float, float] = (1e-6, 50.0),
        *,
        bounds: Any = None,
        frozen: Any = None,
        maximize: bool = False,
        batched: bool = False,
        backend: str | None = None,
        process_group: Any = None,
        foreach: Any = None,
        capturable: Any = False,
        differentiable: bool = False,
    ) -> None:
        super().__init__(
            params,
            lr,
            etas,
            step_sizes,
            bounds=bounds,
            frozen=frozen,
            maximize=maximize,
            batched=batched,
            backend=backend,
            foreach=foreach,
            capturable=capturable,
            differentiable=differentiable,
        )
        self._process_group = process_group

    def __getstate__(self) -> dict[str, Any]:
        # A copy that dropped the group would let replicas disagree. (A group that is an object refuses to be pickled.)
        return {**super().__getstate__(), "_process_group": ProcessGroupRef.wrap(self._process_group)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        if isinstance(self._process_group, ProcessGroupRef):
            self._process_group = self._process_group.value

    @_compat.skip_idle_hooks
    def step(self, closure: Callable[[], Any] | None = None, *, loss: Loss | None = None) -> Any:
        """Perform one step.

        Args:
            closure: evaluates the model, calls ``backward`` and returns the loss.
            loss: the loss at the current weights: a number or a tensor of one element; with ``batched=True`` a tensor
                of shape (B,). It takes precedence over :meth:`set_loss` and the closure's value.

        Returns:
            the closure's value, or None.

        Raises:
            ValueError: no loss, or one whose shape fits no rule or not the parameters.
            TypeError: a loss that is not a number.
        """
        result = None if closure is None else self._evaluate(closure)
        self._report(loss, result)
        current = loss if loss is not None else self._next_loss if self._next_loss is not None else result
        self._next_loss = None
        if current is None:
            if not self._grads_are_zero():
                if closure is not None:
                    raise ValueError(
                        "the closure returned None, but IRpropPlus needs the loss: end the closure with 'return loss', "
                        "or pass step(closure, loss=...)"
                    )
                raise ValueError(
                    "IRpropPlus needs the loss at the current weights: pass step(loss=...), call set_loss(...) before "
                    "step(), or pass a closure that returns it"
                )
            self._step_tensors(NOT_WORSE)
            return result
        current = to_loss(current, self.param_groups, self._process_group, self._batched)
        previous: Loss | None = None
        for group in self.param_groups:
            previous = group["prev_loss"]
            if previous is not None:
                break
        outcome: Any
        new_previous: Loss | None
        if type(current) is type(previous) is float and len(self.param_groups) == 1:  # most steps
            outcome, new_previous = compare_loss(current, previous, self.param_groups[0]["maximize"])
        else:
            outcome, new_previous = self._compare(current, previous)
        if type(outcome) is int and outcome != NONFINITE:  # most steps
            self._step_tensors(outcome)
        else:
            backtracked = self._backtrack_without_grad(outcome)
            self._step_tensors(outcome)
            with torch.no_grad():
                for tensor, value in backtracked:
                    tensor.copy_(value)
        for group in self.param_groups:
            group["prev_loss"] = new_previous
        return result

    @torch.no_grad()
    def _backtrack_without_grad(self, outcome: Outcome) -> list[tuple[Tensor, Tensor]]:
        """Take back the last moves of parameters that have a state but no gradient, where the loss is not finite.

        They have none where the objective raised an error before backward(). Nothing is written here, so that an error
        leaves everything as it was.

        Returns:
            tensors, each with its new value.
        """
        update = UPDATES[self._variant.name]
        changes = []
        options = self._convert_options()
        for i, group in enumerate(self.param_groups):
            group_outcome = outcome[i] if isinstance(outcome, list) else outcome
            rows = group_outcome.shape if isinstance(group_outcome, Tensor) else ()
            # A parameter of another first dimension than the losses never moved along with them.
            chosen = [
                j
                for j, p in enumerate(group["params"])
                if p.grad is None and "move" in self.state.get(p, ()) and (not rows or p.shape[:1] == rows)
            ]
            params = [group["params"][j] for j in chosen]
            constraints = options[i].constraints or [None] * len(group["params"])
            if not params or (isinstance(group_outcome, int) and group_outcome != NONFINITE):
                continue
            hyper = self._group_hyper(group, torch.float32)
            grads = [torch.zeros_like(p) for p in params]
            for p, g in zip(params, grads, strict=True):
                validate_tensors(p, g, self.state[p])
            moves = [self.state[p]["move"] for p in params]
            shards = to_local(params, grads, moves)
            for k, (p, g, move) in enumerate(zip(params, grads, moves, strict=True)):
                new_p, new_move = p.detach().clone(), move.clone()
                limits = constraints[chosen[k]]
                limits = local_constraints(limits) if k in shards else limits
                update(new_p, g, new_move, hyper, group["maximize"], NONFINITE, limits)
                if isinstance(group_outcome, Tensor):  # which may lie on a device, where nothing waits for it
                    nonfinite = local_outcomes(group_outcome, shards.get(k)).to(p.device) == NONFINITE
                    nonfinite = nonfinite.reshape(-1, *(1,) * (p.dim() - 1)) if nonfinite.dim() else nonfinite
                    new_p, new_move = torch.where(nonfinite, new_p, p), torch.where(nonfinite, new_move, move)
                changes += [(p, new_p), (move, new_move)]
        return changes

    def _compare(self, loss: Loss, previous: Loss | None) -> tuple[Any, Loss | None]:
        """Return the outcome (a list, one for each group, where directions differ) and E_prev for the next step."""
        directions = [bool(group["maximize"]) for group in self.param_groups]
        results = compare(loss, previous, directions, lambda loss: self._triton_launcher((loss,)))
        new_previous = results[0][1]
        if previous is None and not self._warned_loss and self._is_unknown(new_previous):
            self._warned_loss = True
            warn_user(
                f"the first loss is {loss}: there is nothing to return to yet, so this step moves as usual; "
                "check the starting point",
                UserWarning,
            )
        outcomes = [outcome for outcome, _ in results]
        is_mixed = any(maximize != directions[0] for maximize in directions)
        return (outcomes if is_mixed else outcomes[0]), new_previous

    def _is_unknown(self, previous: Loss | None) -> bool:
        """Check whether a loss (or that of a row) was never finite; losses on a device are not waited for."""
        if not isinstance(previous, Tensor):
            return previous is None
        try:
            return previous.is_cpu and bool(previous.isnan().any())
        except RuntimeError:  # meta, fake or vmapped: there is no number yet
            return False
