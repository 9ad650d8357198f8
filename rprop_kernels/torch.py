"""Rprop for PyTorch: a drop-in for torch.optim.Rprop to the bit, and the four rules of the papers.

A step is one call into native code for all CPU tensors of all groups. What native code must not touch
(subclasses, DTensor, lazy negation, dispatch modes, complex numbers, other devices) takes torch's own
operations, silently and with the same result.

Set ``RPROP_KERNELS_PLAIN_STEP=1`` before an optimizer is made to get torch's own wrapper around every
step: execution-trace observers set no flag by which their presence could be seen.
"""

import functools
import math
import os
import sys
import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import Any, ClassVar, Final, TypeAlias

import torch
from torch import Tensor
from torch.autograd import profiler
from torch.compiler import is_dynamo_compiling
from torch.optim import Optimizer
from torch.optim import optimizer as _torch_optimizer
from torch.optim.rprop import rprop as _torch_rprop

from . import hyperparameters
from .hyperparameters import Hyperparameters
from .kernels import choose, load, openmp, torch_check, why_missing
from .kernels.rules import RULES
from .kernels.state import CODES
from .kernels.torch_ import TorchVerdict, state_dtype
from .kernels.verdict import BETTER, judge
from .variants import VARIANTS, Variant

__all__ = ["IRpropMinus", "IRpropPlus", "Rprop", "RpropMinus", "RpropPlus"]

Params: TypeAlias = Iterable[Any]
Loss: TypeAlias = float | Tensor

BACKENDS: Final = ("cython", "numba", "numpy", "torch", "triton")
PLAIN_STEP: Final = "RPROP_KERNELS_PLAIN_STEP"
_KINDS: Final = {torch.float32: (2, 32), torch.float64: (2, 64), torch.float16: (2, 16), torch.bfloat16: (4, 16)}
_ARRAY_DTYPES: Final = ({torch.float32}, {torch.float64})
_DONE, _STALE = 0, 1
_HEALTH_CHECK: Final = next(  # its name since torch 2.12, and before
    name
    for name in ("_accelerator_graph_capture_health_check", "_cuda_graph_capture_health_check")
    if hasattr(Optimizer, name)
)


# ------------------------------------------------------------------------------ torch's wrapper of step


@torch.compiler.disable
def _uncompiled(step: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    return step(*args, **kwargs)


def _light(bare: Callable[..., Any]) -> Callable[..., Any]:
    """``bare`` in place of torch's ``profile_hook_step(bare)``, which costs more than a small step: that wrapper
    is used when someone looks, and none otherwise."""
    try:
        before_all = _torch_optimizer._global_optimizer_pre_hooks
        after_all = _torch_optimizer._global_optimizer_post_hooks
        profiler._is_profiler_enabled  # type: ignore[attr-defined]
    except AttributeError:  # private names; without them torch wraps the step, as any other
        return bare
    wrapped = Optimizer.profile_hook_step(bare)

    @functools.wraps(bare)
    def step(self: Any, *args: Any, **kwargs: Any) -> Any:
        if is_dynamo_compiling():
            return _uncompiled(step, self, *args, **kwargs)
        if (
            self._optimizer_step_pre_hooks
            or self._optimizer_step_post_hooks
            or before_all
            or after_all
            or profiler._is_profiler_enabled  # type: ignore[attr-defined]
            or self._plain_step
        ) and type(self).step is step:  # a subclass that overrides step was wrapped by torch: there the hooks run
            return wrapped(self, *args, **kwargs)
        return bare(self, *args, **kwargs)

    step.__name__ = "step"
    step.hooked = True  # type: ignore[attr-defined]  # torch wraps what is not marked so
    return step


# ---------------------------------------------------------------------------------- ways to do one step


def _function_mode() -> bool:
    """Whether a TorchFunctionMode is active that could want to see operations (a default device does not)."""
    from torch.overrides import _get_current_function_mode_stack
    from torch.utils._device import DeviceContext

    return any(type(mode) is not DeviceContext for mode in _get_current_function_mode_stack())


_MODES: Final = (
    (torch._C._len_torch_dispatch_stack, None),
    (torch._C._get_tracing_state, None),
    (torch._C._len_torch_function_stack, _function_mode),
)


def _in_a_mode() -> bool:
    """Whether operations are being watched or replaced: then every one must go through torch."""
    return any(quick() and (sure is None or sure()) for quick, sure in _MODES)


def _grant_threads() -> openmp.Grant | None:
    return openmp.grant(torch.get_num_threads)


def _native_step(product: bool) -> Any:
    """The extension's whole-step object for one optimizer."""
    from .kernels import cython_

    facts = cython_._native.Torch(
        Tensor,
        torch.nn.Parameter,
        torch._C._increment_version,
        _MODES,
        _grant_threads,
        getattr(Tensor, "__dlpack_c_exchange_api__", None),
        _KINDS,
        torch.device("cpu"),
        torch.strided,
    )
    return cython_._native.TorchStep(facts, cython_.level(), product)


def _plain(tensor: Tensor, dtype: torch.dtype) -> bool:
    """Whether a tensor is memory of this process and nothing else, so that it can be seen as a NumPy array."""
    try:
        return (
            type(tensor) in (Tensor, torch.nn.Parameter)
            and tensor.dtype == dtype
            and tensor.device.type == "cpu"
            and tensor.layout == torch.strided
            and not tensor.is_neg()
            and (tensor.numel() == 0 or tensor.data_ptr() != 0)
        )
    except RuntimeError:  # under vmap and the like: a tensor without storage
        return False


def _refuse_freed(tensors: Iterable[Tensor]) -> None:
    """An error where torch's operations would follow a NULL pointer: FSDP and others resize storages to 0."""
    for tensor in tensors:
        if type(tensor) not in (Tensor, torch.nn.Parameter) or tensor.device.type != "cpu" or tensor.numel() == 0:
            continue
        try:
            freed = tensor.layout == torch.strided and tensor.untyped_storage().size() == 0
        except RuntimeError:  # no storage at all, which is another matter
            continue
        if freed:
            raise RuntimeError(
                f"a parameter, gradient or state of shape {tuple(tensor.shape)} has no memory: its storage was resized "
                "to 0; give it memory again before step()"
            )


def _as_arrays(params: Sequence[Tensor], grads: Sequence[Tensor], states: Sequence[Sequence[Tensor]]) -> Any:
    """The same memory as NumPy arrays, or None where a tensor is more than memory or touches another."""
    if _in_a_mode():
        return None
    for p, g, state in zip(params, grads, states, strict=True):
        if p.dtype not in (torch.float32, torch.float64) or not all(_plain(t, p.dtype) for t in (p, g, *state)):
            return None
    from .kernels import arrays

    views = [t.detach().numpy() for t in params], [t.detach().numpy() for t in grads], [
        tuple(t.detach().numpy() for t in state) for state in states
    ]
    try:
        arrays.check([*views[0], *(array for state in views[2] for array in state)])
        arrays.check(views[0], views[1])
    except (TypeError, ValueError):
        return None
    return views


def _to_shards(params: list[Tensor], grads: list[Tensor], *states: list[Tensor]) -> dict[int, Any]:
    """Put this process's shards in the place of DTensors, in the lists; returns those parameters by their index.

    Every rule is elementwise, so shards that lie alike need nothing of the other processes. (torch.optim.Rprop
    itself cannot step them: DTensor has no masked assignment.)
    """
    module = sys.modules.get("torch.distributed.tensor")
    found: dict[int, Any] = {}
    if module is None:  # then there are none
        return found
    for i, p in enumerate(params):
        row: list[Any] = [column[i] for column in (params, grads, *states)]
        if not all(isinstance(t, module.DTensor) for t in row) or any(way.is_partial() for way in row[0].placements):
            continue
        where = row[0].device_mesh, row[0].placements
        if (row[1].device_mesh, row[1].placements) != where:
            row[1] = row[1].redistribute(*where)
        if any((t.device_mesh, t.placements) != where for t in row):
            continue
        torch._C._increment_version([row[0], *row[2:]])
        for column, t in zip((params, grads, *states), row, strict=True):
            column[i] = t.to_local()
        found[i] = p
    return found


def _rows_of(verdict: Any, p: Any) -> Any:
    """The part of a verdict a row that belongs to this process's shard of ``p``; None: no DTensor."""
    if p is None or not isinstance(verdict, Tensor) or verdict.dim() == 0:
        return verdict
    from torch.distributed.tensor import DTensor, Replicate

    ways = [way if way.is_shard(0) else Replicate() for way in p.placements]
    whole = DTensor.from_local(verdict, p.device_mesh, [Replicate()] * len(ways), run_check=False)
    return whole.redistribute(placements=ways).to_local()


class _Backend:
    """The attributes of an optimizer that say how it steps; not part of its groups or its state."""

    _backend: str
    _native: Any
    _device: Any
    _plain_step: bool

    state: Any
    param_groups: Any

    def _plan_native(self, numbers: list[Any]) -> None:
        """Let the native step keep what belongs to this optimizer, unless a tensor was made in inference mode: those
        have no version counter, and torch's operations know where they may be written."""
        params = [p for group in self.param_groups for p in group["params"]]
        states = (state[name] for state in map(self.state.get, params) if state for name in state)
        if not any(isinstance(t, Tensor) and t.is_inference() for t in (*params, *states)):
            self._native.plan(self.state, self.param_groups, numbers)

    def _set_up(self, backend: str | None, product: bool) -> None:
        self._backend = choose(backend, BACKENDS)
        native = self._backend == "cython" and torch_check.passes(torch.__version__)
        self._native = _native_step(product) if native else None
        self._device = None
        self._plain_step = os.environ.get(PLAIN_STEP, "") not in ("", "0")

    def _launcher(self, tensors: Iterable[Tensor]) -> Any:
        """The Triton kernels, or None where there is nothing for them to do or they cannot be had."""
        if self._backend == "torch" or not (self._backend == "triton" or any(t.is_cuda for t in tensors)):
            return None
        if _in_a_mode():
            return None
        if self._device is None:
            self._device = load("triton").Launcher() if why_missing("triton") is None else False
        return self._device or None


# ------------------------------------------------------------------------------------------ the drop-in


def _in_dtype(group: dict[str, Any], dtype: torch.dtype) -> Hyperparameters | None:
    """The four numbers as torch's operations round them to ``dtype``; None where torch must do it itself."""
    values = (*group["etas"], *group["step_sizes"])
    if not all(type(x) in (float, int) for x in values):
        return None
    limit = torch.finfo(dtype).max
    if not all(abs(x) <= limit for x in values):  # also refuses NaN
        return None
    eta_minus, eta_plus, low, high = (torch.tensor(float(x), dtype=dtype, device="cpu").item() for x in values)
    if not (0.0 < eta_minus and eta_plus < math.inf and 0.0 <= low <= high < math.inf):
        return None
    return Hyperparameters(eta_minus, eta_plus, low, high)


class Rprop(_Backend, torch.optim.Rprop):
    """torch.optim.Rprop, faster: the same constructor, state, errors and results, to the last bit.

    What it computes is iRprop- [Igel and Hüsken 2003, algorithm 4] with a floating product in place of a product
    of signs. Per weight w with gradient g (negated if ``maximize``), all in the parameter's dtype::

        c = sign(g * prev)
        step_size = clamp(step_size * (eta_plus if c > 0 else eta_minus if c < 0 else 1), *step_sizes)
        g = 0 where c < 0
        w = w - sign(g) * step_size;  prev = g

    The product can underflow (float32: |g| below 1e-23; float16: below 2e-4), and step sizes then stop
    adapting; :class:`IRpropMinus` does not have that, and keeps half the state.

    Args:
        params, lr, etas, step_sizes, capturable, foreach, maximize, differentiable: as torch.optim.Rprop.
        backend: ``"cython"``, ``"numba"``, ``"numpy"``, ``"torch"`` or ``"triton"``; None takes
            RPROP_KERNELS_BACKEND or the first that is available. Tensors on a CUDA device go to Triton where
            that is installed, unless ``"torch"`` is asked for.

    Raises:
        ValueError: as torch; and for a backend that is unknown or missing, listing what there is.
        RuntimeError: as torch, for sparse gradients.
    """

    def __init__(
        self,
        params: Params,
        lr: float | Tensor = 1e-2,
        etas: tuple[float, float] = (0.5, 1.2),
        step_sizes: tuple[float, float] = (1e-6, 50),
        *,
        capturable: bool = False,
        foreach: bool | None = None,
        maximize: bool = False,
        differentiable: bool = False,
        backend: str | None = None,
    ) -> None:
        self._set_up(backend, product=True)
        super().__init__(
            params,
            lr,
            etas,
            step_sizes,
            capturable=capturable,
            foreach=foreach,
            maximize=maximize,
            differentiable=differentiable,
        )

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_backend": self._backend}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        if "_native" not in self.__dict__:
            self._set_up(self.__dict__.get("_backend"), product=True)

    def _bare_step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Perform a single optimization step.

        Args:
            closure: reevaluates the model and returns the loss.

        Returns:
            what the closure returned, or None.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        native = self._native
        if native is not None:
            outcome = native(4, self.state, self.param_groups, None, openmp.THRESHOLD)
            if outcome == _STALE:
                self._plan()
                outcome = native(4, self.state, self.param_groups, None, openmp.THRESHOLD)
            if outcome == _DONE:
                return loss
        self._foreign_step()
        return loss

    step = _light(_bare_step)

    def _plan(self) -> None:
        """Make missing state, and tell the native step what belongs to this optimizer."""
        numbers = []
        with torch.no_grad():
            for group in self.param_groups:
                self._init_group(group, [], [], [], [], [])
                way = -1.0 if group["maximize"] else 1.0
                rounded = [_in_dtype(group, dtype) for dtype in _KINDS]
                five = tuple(None if h is None else (*h, way) for h in rounded)
                numbers.append((group["etas"], group["step_sizes"], group["maximize"], None, five))
        self._plan_native(numbers)

    def _foreign_step(self) -> None:
        """The step without the extension: another backend where it is certain, else torch's own code."""
        getattr(self, _HEALTH_CHECK)()
        before = torch.is_grad_enabled()
        try:
            torch.set_grad_enabled(self.defaults["differentiable"])
            columns: list[tuple[list[Tensor], ...]] = [([], [], [], [], []) for _ in self.param_groups]
            complexes = [self._init_group(g, *lists) for g, lists in zip(self.param_groups, columns, strict=True)]
            if not self.defaults["differentiable"]:
                for params, grads, prevs, step_sizes, _ in columns:
                    _to_shards(params, grads, prevs, step_sizes)
            self._device_step(columns)
            for group, has_complex, (params, grads, prevs, step_sizes, steps) in zip(
                self.param_groups, complexes, columns, strict=True
            ):
                _refuse_freed((*params, *grads, *prevs, *step_sizes))
                if self._array_step(group, params, grads, prevs, step_sizes, steps):
                    continue
                _torch_rprop(
                    params,
                    grads,
                    prevs,
                    step_sizes,
                    steps,
                    step_size_min=group["step_sizes"][0],
                    step_size_max=group["step_sizes"][1],
                    etaminus=group["etas"][0],
                    etaplus=group["etas"][1],
                    foreach=group["foreach"],
                    maximize=group["maximize"],
                    differentiable=group["differentiable"],
                    capturable=group["capturable"],
                    has_complex=has_complex,
                )
        finally:
            torch.set_grad_enabled(before)

    def _device_step(self, columns: list[tuple[list[Tensor], ...]]) -> None:
        """The Triton kernels: takes out of the groups' lists what it has stepped."""
        launcher = self._launcher(p for lists in columns for p in lists[0])
        if launcher is None:
            return
        from .kernels.triton_ import PRODUCT

        launcher.begin()
        counters, rests = [], []
        for group, lists in zip(self.param_groups, columns, strict=True):
            way = -1.0 if group["maximize"] else 1.0
            dtypes = {p.dtype for p in lists[0]} & _KINDS.keys()
            numbers = {d: (*h, way) for d in dtypes if (h := _in_dtype(group, d)) and not group["differentiable"]}
            capturable = group["capturable"]
            rest = []
            for entry in zip(*lists, strict=True):
                p, g, prev, step_size, counter = entry
                if (
                    p.dtype in numbers
                    and type(counter) is Tensor
                    and (not capturable or (p.is_cuda and counter.is_cuda))
                    and launcher.add(p, g, (prev, step_size), numbers[p.dtype])
                ):
                    counters.append(counter)
                else:
                    rest.append(entry)
            rests.append(rest)
        if not counters or not launcher.launch(PRODUCT):
            return
        torch._foreach_add_(counters, 1)
        for lists, rest in zip(columns, rests, strict=True):
            for i, column in enumerate(lists):
                column[:] = [entry[i] for entry in rest]

    def _array_step(
        self,
        group: dict[str, Any],
        params: list[Tensor],
        grads: list[Tensor],
        prevs: list[Tensor],
        step_sizes: list[Tensor],
        steps: list[Tensor],
    ) -> bool:
        """The numpy and numba backends; False where they cannot take this group."""
        if self._backend not in ("numpy", "numba") or not params:
            return False
        if group["differentiable"] or group["capturable"] or {p.dtype for p in params} not in _ARRAY_DTYPES:
            return False
        hyper = _in_dtype(group, params[0].dtype)
        states = [*zip(prevs, step_sizes, strict=True)]
        if hyper is None or (views := _as_arrays(params, grads, states)) is None:
            return False
        torch._C._increment_version([*params, *prevs, *step_sizes])
        for counter in steps:
            counter += 1
        return bool(
            load(self._backend).step("torch", *views, hyper, maximize=group["maximize"], threads=torch.get_num_threads())
        )


# ------------------------------------------------------------------------------------- the four classes

_ARGUMENTS = """
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
    :meth:`signs_and_steps` takes it apart.

    Raises:
        ValueError: naming the argument, its value and the remedy.
        RuntimeError: for sparse gradients.
"""


class _FourRules(_Backend, Optimizer):
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
        result = None
        if closure is not None:
            with torch.enable_grad():
                result = closure()
        self._update(BETTER)
        return result

    step = _light(_bare_step)

    def _update(self, verdict: TorchVerdict | Sequence[TorchVerdict], still: bool = False) -> None:
        """Step every parameter; ``verdict`` on the loss, or one a group. ``still``: all gradients are zero."""
        native = self._native
        if native is not None and (type(verdict) is int or (isinstance(verdict, Tensor) and _plain(verdict, torch.uint8))):
            rules = RULES[self._variant.name]
            rule, rows = (rules[verdict], None) if type(verdict) is int else (rules[BETTER], bytes(verdict.numpy()))
            outcome = native(rule, self.state, self.param_groups, rows, openmp.THRESHOLD)
            if outcome == _STALE:
                self._plan(still)
                outcome = native(rule, self.state, self.param_groups, rows, openmp.THRESHOLD)
            if outcome == _DONE:
                return
        self._foreign_step(verdict, still)

    def _checked(self, still: bool) -> list[Hyperparameters]:
        """Check all groups, then make missing state: nothing changes where something is wrong."""
        hypers = [hyperparameters.check(group["etas"], group["step_sizes"]) for group in self.param_groups]
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
                    # Frameworks set lr to 0 and step along zero gradients, to make state.
                    lr = self.defaults["lr"] if group["lr"] == 0 and (still or self._still()) else group["lr"]
                    new.append((p, hyperparameters.check_lr(lr, hyper[2:])))
                elif "move" not in state:
                    foreign.append(p)
        if new and any(p.is_cuda for p, _ in new) and torch.cuda.is_current_stream_capturing():
            raise RuntimeError("make one step before a CUDA graph is captured: every replay would make the state anew")
        loaded = [(p, self._converted(self.state[p])) for p in foreign]
        for p, lr in new:
            self.state[p]["move"] = _first_move(p, lr)
        for p, converted in loaded:
            self.state[p] = _in_place(converted, p)
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
        lrs = [float(group["lr"]) for group in self.param_groups]
        if self._lrs is None:  # has warned
            return
        for now, before in zip(lrs, self._lrs, strict=False):
            if now != before and before != 0.0:  # 0 stood there for a moment only, see _checked
                self._lrs = None
                warnings.warn(
                    f"lr was changed from {before} to {now}, which has no effect: in Rprop lr is only the first step "
                    "size, and every weight adapts its own from there. Leave out the learning-rate scheduler; to limit "
                    "the steps change step_sizes",
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
            numbers.append((group["etas"], group["step_sizes"], group["maximize"], lr, (five,) * len(_KINDS)))
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
            if sharded := _to_shards(params, grads, moves):
                said = [_rows_of(said, sharded.get(k)) for k in range(len(params))]
            states = [(move,) for move in moves]
            backend, views = "torch", None
            if self._backend in ("numpy", "numba") and not isinstance(said, list):
                views = _as_arrays(params, grads, states)
            if views is None:
                _refuse_freed((*params, *grads, *(s for (s,) in states)))
            else:
                torch._C._increment_version([*params, *(s for (s,) in states)])
                backend, params, grads, states = self._backend, *views
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
        from .kernels.triton_ import KERNELS, four_numbers

        launcher.begin()
        taken = []
        for i, (group, hyper) in enumerate(zip(self.param_groups, hypers, strict=True)):
            numbers = {dtype: four_numbers(hyper, group["maximize"], dtype) for dtype in _KINDS}
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
            ``(q, D)``: the remembered sign of its gradient (-1, 0, +1) and the step size, both new tensors of the
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
        """Load what :meth:`state_dict` of this class, or of torch.optim.Rprop, returned; exact in every dtype.

        Raises:
            ValueError: where the state is another optimizer's, or an option is out of order; nothing has changed.
        """
        for group in state_dict["param_groups"]:
            hyperparameters.check(*(group.get(key, self.defaults[key]) for key in ("etas", "step_sizes")))

        # torch casts state to the parameter's dtype, which would ruin the float32 state of half precision: what
        # is no tensor it passes through. Our hooks stand nearest to it, so that other hooks see ordinary tensors.
        def hide(optimizer: Optimizer, loaded: dict[str, Any]) -> dict[str, Any]:
            hidden = {
                key: _Hidden(self._converted(value)) if isinstance(value, dict) else value
                for key, value in loaded["state"].items()
            }
            return {**loaded, "state": hidden}

        def show(optimizer: Optimizer) -> None:
            for p, hidden in list(self.state.items()):
                if isinstance(hidden, _Hidden):
                    self.state[p] = _in_place(hidden.content, p) if isinstance(p, Tensor) else hidden.content
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
            return {"move": _encode(state["prev"], state["step_size"])}
        raise ValueError(
            f"this is the state of another optimizer: it holds {sorted(state)}, where {type(self).__name__} keeps 'move' "
            "and torch.optim.Rprop 'prev' and 'step_size'"
        )


class _Kept:
    """A process group in a copied optimizer: the same one, since it stands for connections of this process."""

    def __init__(self, value: Any) -> None:
        self.value = value

    @classmethod
    def of(cls, value: Any) -> Any:
        return value if value is None or value is True else cls(value)

    def __deepcopy__(self, memo: Any) -> "_Kept":
        return self

    def __reduce__(self) -> Any:
        raise TypeError(
            "this IRpropPlus averages its loss over a process group of its own, which cannot be pickled: save its "
            "state_dict(), or use process_group=True (the default group)"
        )


class _Hidden:
    """A value that Optimizer.load_state_dict passes through untouched."""

    def __init__(self, content: dict[str, Any]) -> None:
        self.content = content


def _first_move(p: Tensor, lr: float) -> Tensor:
    """State of a parameter that has not moved: no sign, D = lr."""
    dtype = state_dtype(p.dtype)
    code = CODES["float64" if dtype in (torch.float64, torch.complex128) else "float32"]
    value = max(lr, code.least) * code.shift
    return torch.full_like(
        p, complex(value, value) if dtype.is_complex else value, dtype=dtype, requires_grad=False
    )


def _in_place(state: dict[str, Any], p: Tensor) -> dict[str, Any]:
    """A copy of a parameter's state, of the dtype and on the device that ``p`` needs."""
    return {
        name: _recoded(value, state_dtype(p.dtype)).to(p.device, copy=True) if isinstance(value, Tensor) else value
        for name, value in state.items()
    }


def _recoded(move: Tensor, dtype: torch.dtype) -> Tensor:
    """State in another dtype: float32 and float64 mark "no memory" by different powers of two."""
    if move.dtype == dtype or move.is_complex() != dtype.is_complex:
        return move.to(dtype)
    if dtype.is_complex:
        part = torch.float64 if dtype == torch.complex128 else torch.float32
        return torch.view_as_complex(_recoded(torch.view_as_real(move), part))
    was, now = CODES[str(move.dtype).removeprefix("torch.")], CODES[str(dtype).removeprefix("torch.")]
    wide = move.to(torch.float64)
    size = wide.abs()
    forgot = size > was.threshold
    step = torch.where(forgot, size * (1 / was.shift), size).clamp(min=now.least)
    return torch.where(forgot, step * now.shift, wide.sign() * step).to(dtype)


def _encode(prev: Tensor, step_size: Tensor) -> Tensor:
    """The state that stands for torch's pair: the sign of prev (NaN: none) and the step size."""
    dtype = state_dtype(step_size.dtype)
    if dtype.is_complex:
        real = _encode(torch.view_as_real(prev), torch.view_as_real(step_size))
        return torch.view_as_complex(real)
    code = CODES[str(dtype).removeprefix("torch.")]
    step = step_size.to(dtype).clamp(min=code.least, max=hyperparameters.STEP_LIMIT)
    q = prev.sign().to(dtype).nan_to_num(0.0)
    return torch.where(q == 0, step * code.shift, q * step)


class RpropMinus(_FourRules):
    __doc__ = f"""Rprop- [Riedmiller and Braun 1993; Igel and Hüsken 2003, algorithm 2]: a flipped weight moves on.

    Per weight w, with gradient g (negated if ``maximize``), remembered sign q and step size D::

        c = sign(g) * q
        D = min(max(D * (eta_plus if c > 0 else eta_minus if c < 0 else 1), D_min), D_max)
        w = w - sign(g) * D;  q = sign(g)
    {_ARGUMENTS}"""

    _variant = VARIANTS["rprop-"]


class RpropPlus(_FourRules):
    __doc__ = f"""Rprop+ [Riedmiller and Braun 1993; Igel and Hüsken 2003, algorithm 1]: a flipped weight goes back.

    Per weight w, with gradient g (negated if ``maximize``), remembered sign q and step size D::

        c = sign(g) * q;  D_old = D
        D = min(max(D * (eta_plus if c > 0 else eta_minus if c < 0 else 1), D_min), D_max)
        if c < 0:  w = w + q * D_old;  q = 0
        else:      w = w - sign(g) * D;  q = sign(g)
    {_ARGUMENTS}"""

    _variant = VARIANTS["rprop+"]


class IRpropMinus(_FourRules):
    __doc__ = f"""iRprop- [Igel and Hüsken 2003, algorithm 4]: a flipped weight stays for one step.

    Per weight w, with gradient g (negated if ``maximize``), remembered sign q and step size D::

        c = sign(g) * q
        D = min(max(D * (eta_plus if c > 0 else eta_minus if c < 0 else 1), D_min), D_max)
        if c < 0:  q = 0
        else:      w = w - sign(g) * D;  q = sign(g)
    {_ARGUMENTS}"""

    _variant = VARIANTS["irprop-"]


class IRpropPlus(_FourRules):
    __doc__ = f"""iRprop+ [Igel and Hüsken 2003, algorithm 3]: a flipped weight goes back, if the loss rose.

    Per weight w, with gradient g (negated if ``maximize``), remembered sign q, step size D and loss E::

        c = sign(g) * q;  D_old = D
        D = min(max(D * (eta_plus if c > 0 else eta_minus if c < 0 else 1), D_min), D_max)
        if c < 0:  w = w + q * D_old where E > E_prev;  q = 0
        else:      w = w - sign(g) * D;  q = sign(g)

    The loss at the current weights comes from ``step(loss=...)``, else :meth:`set_loss`, else the closure: a number,
    a tensor of shape (), or one of shape (B,) that decides each row of parameters whose first dimension is B by its
    own loss. Losses of different mini-batches are not comparable: use the rule where the loss is the same
    function at every step. A loss that is NaN or infinite takes back every remembered move.
    {_ARGUMENTS}
    ``process_group``: average the loss over this ``torch.distributed`` group (True: the default one), so that
    replicas decide alike.
    """

    _variant = VARIANTS["irprop+"]

    _process_group: Any = None
    _told: Loss | None = None
    _warned_loss = False

    def __init__(
        self,
        params: Params,
        lr: float | Tensor = 1e-2,
        etas: tuple[float, float] = (0.5, 1.2),
        step_sizes: tuple[float, float] = (1e-6, 50.0),
        *,
        maximize: bool = False,
        backend: str | None = None,
        process_group: Any = None,
        foreach: bool | None = None,
        capturable: bool = False,
        differentiable: bool = False,
    ) -> None:
        super().__init__(
            params,
            lr,
            etas,
            step_sizes,
            maximize=maximize,
            backend=backend,
            foreach=foreach,
            capturable=capturable,
            differentiable=differentiable,
        )
        self._process_group = process_group

    def __getstate__(self) -> dict[str, Any]:
        # A copy that forgot the group would let replicas disagree. (A group that is an object refuses to be pickled.)
        return {**super().__getstate__(), "_process_group": _Kept.of(self._process_group)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        if isinstance(self._process_group, _Kept):
            self._process_group = self._process_group.value

    def set_loss(self, loss: Loss) -> None:
        """Tell the loss at the current weights to the next step, for training loops that call ``step()`` themselves.

        Args:
            loss: as for :meth:`step`.
        """
        self._told = loss

    def _bare_step(self, closure: Callable[[], Any] | None = None, *, loss: Loss | None = None) -> Any:
        """Perform one step.

        Args:
            closure: evaluates the model, calls ``backward`` and returns the loss.
            loss: the loss at the current weights, a float, a tensor of shape (), or of shape (B,) for parameters of
                first dimension B. It comes before what :meth:`set_loss` told and what the closure returned.

        Returns:
            what the closure returned, or None.

        Raises:
            ValueError: no loss, or one of a shape that fits no rule or not the parameters.
            TypeError: a loss that is no number.
        """
        result = None
        if closure is not None:
            with torch.enable_grad():
                result = closure()
        given = loss if loss is not None else self._told if self._told is not None else result
        self._told = None
        if given is None:
            if not self._still():
                raise ValueError(
                    "IRpropPlus needs the loss at the current weights: pass step(loss=...), call set_loss(...) before "
                    "step(), or pass a closure that returns it"
                )
            self._update(BETTER, still=True)
            return result
        given = self._as_loss(given)
        previous = None
        for group in self.param_groups:
            previous = group["prev_loss"]
            if previous is not None:
                break
        if type(given) is type(previous) is float and len(self.param_groups) == 1:  # most steps
            verdict, remembered = judge(given, previous, self.param_groups[0]["maximize"])
        else:
            verdict, remembered = self._judge(given, previous)
        self._update(verdict)
        for group in self.param_groups:
            group["prev_loss"] = remembered
        return result

    step = _light(_bare_step)

    def _as_loss(self, loss: Any) -> Loss:
        """A float, or a detached tensor: of shape (B,), or of shape () on a device."""
        if self._process_group is None:  # most losses
            if type(loss) is float:
                return loss
            if type(loss) is Tensor and loss.dim() == 0 and loss.is_cpu and loss.is_floating_point():
                try:
                    return loss.item()
                except RuntimeError:  # under vmap there is no number yet; see below
                    pass
        if not isinstance(loss, Tensor):
            if getattr(loss, "shape", ()) != ():
                loss = torch.as_tensor(loss)
            else:
                try:
                    loss = float(loss)
                except (TypeError, ValueError):
                    raise TypeError(
                        f"loss must be a number or a tensor of shape () or (B,), got {type(loss).__name__}: {loss!r}"
                    ) from None
        if isinstance(loss, Tensor):
            loss = loss.detach()
            if hasattr(loss, "full_tensor"):
                loss = loss.full_tensor()
            if loss.is_complex():
                raise TypeError("loss must be real, got a complex tensor: pass its real part")
            if loss.dim() == 1 and loss.numel() == 1:
                loss = loss.reshape(())
            if loss.dim() > 1 or loss.numel() == 0:
                raise ValueError(
                    f"loss must have shape () or (B,), got {tuple(loss.shape)}: reduce it to one number, or to one a row"
                )
            if loss.dim() == 1:
                self._check_rows(loss.numel())
        if self._process_group is not None:
            loss = self._averaged(loss)
        if isinstance(loss, Tensor) and loss.dim() == 0:
            devices = {p.device.type for group in self.param_groups for p in group["params"]}
            if loss.device.type == "cpu" or devices == {"cpu"}:
                try:
                    return float(loss)
                except RuntimeError:  # meta, fake, vmapped: there is no number yet, but tensor operations will do
                    return loss
        return loss

    def _check_rows(self, rows: int) -> None:
        for i, group in enumerate(self.param_groups):
            for j, p in enumerate(group["params"]):
                if p.grad is not None and (p.dim() == 0 or p.shape[0] != rows):
                    raise ValueError(
                        f"loss has shape ({rows},), one loss a row, but parameter {j} of group {i} has shape "
                        f"{tuple(p.shape)}: its first dimension must be {rows}; put it into an optimizer of its own"
                    )

    def _averaged(self, loss: Loss) -> Tensor:
        """The mean over the processes, the same bits in each."""
        import torch.distributed as dist

        group = None if self._process_group is True else self._process_group
        device = next(p.device for g in self.param_groups for p in g["params"])
        mean = torch.as_tensor(loss, device=device).to(torch.float64, copy=True)
        dist.all_reduce(mean, group=group)
        return mean / dist.get_world_size(group)

    def _judge(self, loss: Loss, previous: Loss | None) -> tuple[Any, Loss | None]:
        """The verdict (a list of one a group where groups climb and descend) and E_prev for the next step."""
        if previous is not None and getattr(loss, "shape", ()) != getattr(previous, "shape", ()):
            raise ValueError(
                f"loss has shape {tuple(getattr(loss, 'shape', ()))}, but that of the step before had shape "
                f"{tuple(getattr(previous, 'shape', ()))}: keep to one loss, or one a row, of the same problem"
            )
        ways = [bool(group["maximize"]) for group in self.param_groups]
        if isinstance(loss, Tensor):
            said = self._judge_tensor(loss, previous, ways)
        else:
            if isinstance(previous, Tensor):
                previous = float(previous)
            if previous is None and not math.isfinite(loss) and not self._warned_loss:
                self._warned_loss = True
                warnings.warn(
                    f"the first loss is {loss}: there is nothing to return to yet, so this step moves as usual; "
                    "check the starting point",
                    UserWarning,
                    stacklevel=5,
                )
            said = [judge(loss, previous, way) for way in ways]
        verdicts = [verdict for verdict, _ in said]
        mixed = any(way != ways[0] for way in ways)
        return (verdicts if mixed else verdicts[0]), said[0][1]

    def _judge_tensor(self, loss: Tensor, previous: Loss | None, ways: list[bool]) -> list[tuple[Any, Any]]:
        """For each direction the verdict and E_prev, which on a GPU stays where it is: a captured graph carries it on."""
        from .kernels.torch_ import judge as judge_tensor

        if previous is not None:
            previous = torch.as_tensor(previous, device=loss.device)
        if loss.is_cuda and (previous is None or previous.dtype != loss.dtype):
            if torch.cuda.is_current_stream_capturing():
                raise RuntimeError(
                    "make one step, with a loss of the same dtype on the same device, before a CUDA graph is captured: "
                    "the replays remember their loss in its place"
                )
            previous = None if previous is None else previous.to(loss.dtype)
        if previous is None and (loss.is_cuda or self._backend == "triton"):
            previous = torch.full_like(loss, torch.nan)
        launcher = self._launcher((loss,))
        if launcher is not None and (both := launcher.judge(loss, previous)) is not None:
            return [(both[way], previous) for way in ways]
        said = [judge_tensor(loss, previous, way) for way in ways]
        if loss.is_cuda and isinstance(previous, Tensor):
            previous.copy_(said[0][1])
            return [(verdict, previous) for verdict, _ in said]
        return said
