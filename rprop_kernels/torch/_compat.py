"""Private names of torch, each looked up when it is used, and the self-check on versions never tested.

The native step reads tensors through DLPack and bumps private counters. Where a new torch gives them another meaning,
a wrong result must not be silent: a few small steps in every dtype and several layouts are compared with torch's own
operations, once a process. If a bit differs, a name is missing or anything raises, torch's code performs the steps.
"""

import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

import torch
from torch import Tensor
from torch.autograd import profiler
from torch.compiler import is_dynamo_compiling
from torch.optim import Optimizer
from torch.optim import optimizer as _torch_optimizer
from torch.optim.rprop import rprop as torch_rprop

from ..install import load_extension
from ..kernels import threads, torch_
from ..rules import BACKTRACK, TORCH
from ..state import encode
from ..warn import warn_user

TESTED: Final = frozenset({"2.13.0"})
"""Versions (without a local part such as +cpu) whose CI runs the whole test suite."""

DTYPES: Final = {torch.float32: (2, 32), torch.float64: (2, 64), torch.float16: (2, 16), torch.bfloat16: (4, 16)}
"""The dtypes that native code takes, with DLPack's code and bits, in the order of the native dtype numbers."""


# ----------------------------------------------------------------------------------------------- modes


def _function_mode_active() -> bool:
    """Check for a TorchFunctionMode that could intercept operations (a default device does not)."""
    from torch.overrides import _get_current_function_mode_stack
    from torch.utils._device import DeviceContext

    modes = _get_current_function_mode_stack()  # type: ignore[no-untyped-call]  # torch does not annotate it
    return any(type(mode) is not DeviceContext for mode in modes)


def mode_checks() -> tuple[tuple[Callable[[], Any], Callable[[], bool] | None], ...]:
    """Return pairs (fast_check, exact_check or None): a mode is active where both are true.

    Raises:
        AttributeError: this torch lacks one of the names.
    """
    return (
        (torch._C._len_torch_dispatch_stack, None),
        (torch._C._get_tracing_state, None),
        (torch._C._len_torch_function_stack, _function_mode_active),
    )


def mode_active() -> bool:
    """Check whether operations are intercepted or recorded: then every one must go through torch."""
    try:
        return any(fast_check() and (exact_check is None or exact_check()) for fast_check, exact_check in mode_checks())
    except (AttributeError, ImportError):
        return True


# ----------------------------------------------------------------------------------------------- names


def graph_capture_health_check(optimizer: Optimizer) -> None:
    """Run torch's check before a step during the capture of a CUDA graph."""
    for name in ("_accelerator_graph_capture_health_check", "_cuda_graph_capture_health_check"):
        if hasattr(optimizer, name):  # the name since torch 2.12, and the one before
            getattr(optimizer, name)()
            return


def has_internal_overlap(tensor: Tensor) -> bool | None:
    """Check whether elements of a tensor share memory; None where torch cannot tell."""
    try:
        return {0: False, 1: True}.get(torch._debug_has_internal_overlap(tensor))
    except (
        AttributeError,
        RuntimeError,
        NotImplementedError,
    ):  # tensors without memory of their own are handled elsewhere
        return None


@torch.compiler.disable  # type: ignore[untyped-decorator]  # torch does not annotate it
def _outside_dynamo(step: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    return step(*args, **kwargs)


def has_step_pre_hooks(optimizer: Optimizer) -> bool:
    """Check whether a hook may run before a step; True where this torch does not say."""
    try:
        return bool(optimizer._optimizer_step_pre_hooks or _torch_optimizer._global_optimizer_pre_hooks)
    except AttributeError:
        return True


def skip_idle_hooks(step: Callable[..., Any]) -> Callable[..., Any]:
    """Run torch's ``profile_hook_step`` only while hooks are registered or a profiler is active.

    That wrapper costs more than a small step.
    """
    try:
        global_pre_hooks = _torch_optimizer._global_optimizer_pre_hooks
        global_post_hooks = _torch_optimizer._global_optimizer_post_hooks
        _ = profiler._is_profiler_enabled
    except AttributeError:  # without them torch wraps this step as any other
        return step
    wrapped_step = Optimizer.profile_hook_step(step)

    @functools.wraps(step)
    def step_or_wrapped(self: Any, *args: Any, **kwargs: Any) -> Any:
        if is_dynamo_compiling():
            return _outside_dynamo(step_or_wrapped, self, *args, **kwargs)
        try:
            if (
                self._optimizer_step_pre_hooks
                or self._optimizer_step_post_hooks
                or global_pre_hooks
                or global_post_hooks
                or profiler._is_profiler_enabled
                or self._always_wrap
            ) and type(self).step is step_or_wrapped:  # torch wraps a subclass's own step: there the hooks run
                return wrapped_step(self, *args, **kwargs)
            return step(self, *args, **kwargs)
        except BaseException:
            self._keep_best_point()
            raise

    step_or_wrapped.hooked = True  # type: ignore[attr-defined]  # torch wraps steps that are not marked so
    return step_or_wrapped


# ---------------------------------------------------------------------------------------- native steps


def _torch_threads() -> threads.ThreadTeam | None:
    return threads.thread_team(torch.get_num_threads)


def _read_attributes(tensor: Tensor) -> tuple[int, int, int, tuple[int, ...], tuple[int, ...]] | None:
    """Return (DLPack code, bits, address, shape, strides) of a strided CPU tensor, None for any other.

    The native step calls it before torch 2.10, which has no DLPack exchange table.
    """
    dtype = (6, 8) if tensor.dtype == torch.bool else DTYPES.get(tensor.dtype)
    if dtype is None or not tensor.is_cpu or tensor.layout is not torch.strided:
        return None
    try:
        return (*dtype, tensor.data_ptr(), tensor.shape, tensor.stride())
    except (RuntimeError, NotImplementedError):  # a tensor without memory of its own
        return None


def make_native_step(
    torch_rule: bool, engine: Callable[[int], tuple[int, int, int]] | None = None, device: str = "cpu"
) -> Any:
    """Create the extension's whole-step object for one optimizer.

    Args:
        torch_rule: for the drop-in.
        engine: the ``prepare`` of an engine that runs the table in the place of the compiled loops.
        device: the type of the devices that the tensors lie on, "cpu" or "cuda".

    Raises:
        AttributeError: this torch lacks a private name.
    """
    from ..kernels import cython_

    native: Any = load_extension()
    api = native.TorchApi(
        Tensor,
        torch.nn.Parameter,
        torch._C._increment_version,
        mode_checks(),
        _torch_threads,
        getattr(Tensor, "__dlpack_c_exchange_api__", None),
        _read_attributes,
    )
    isa = cython_.isa() if engine is None and device == "cpu" else 0
    return native.TorchStep(api, isa, torch_rule, engine, {"cpu": 1, "cuda": 2}[device])  # DLPack's numbers


_HYPER: Final = (0.5, 1.2, 1e-6, 50.0)


def _check_cases() -> list[tuple[Tensor, list[Tensor]]]:
    """Make parameters in every dtype and some layouts, with gradients: zero, tiny, NaN, expanded, negated."""
    special = torch.tensor([1.5, -2.0, 0.0, -0.0, torch.nan, 1e-30, -1e-6, torch.inf])
    steps = [special, special.flip(0), -special]
    cases = []
    for dtype in DTYPES:
        w = torch.linspace(-1.0, 1.0, 8, dtype=torch.float64).to(dtype)
        grads = [g.to(dtype) for g in steps]
        cases.append((w.clone(), grads))
        if dtype == torch.float32:  # layouts do not depend on it
            cases.append((w.reshape(2, 4).t(), [torch._neg_view(g.reshape(4, 2)) for g in grads]))
            cases.append((torch.stack([w, w], 1)[:, 1], [g[:1].expand(8) for g in grads]))
    return cases


def _new_states(p: Tensor, torch_rule: bool) -> dict[str, Tensor]:
    if torch_rule:
        return {
            "step": torch.tensor(0.0),
            "prev": torch.zeros_like(p),
            "step_size": torch.full_like(p, 0.01),
        }
    size = torch.full_like(p, 0.01, dtype=torch.float64 if p.dtype == torch.float64 else torch.float32)
    return {"move": encode(torch.zeros_like(size), size, torch)}


def _native_update(p: Tensor, grads: Iterable[Tensor], state: dict[str, Tensor], torch_rule: bool) -> None:
    """Step natively; tensors that the extension leaves to torch (lazily negated ones) take the reference step."""
    rounded = torch.tensor(_HYPER, dtype=torch.float64).to(p.dtype).tolist() if torch_rule else _HYPER
    native = make_native_step(torch_rule)
    group = {
        "params": [p],
        "lr": 0.01,
        "etas": _HYPER[:2],
        "step_sizes": _HYPER[2:],
        "maximize": False,
        "capturable": False,
        "differentiable": False,
    }
    states = {p: state}
    native.plan(
        states, [group], [(group["etas"], group["step_sizes"], False, None, ((*rounded, 1.0),) * len(DTYPES), None)]
    )
    for g in grads:
        p.grad = g.detach()
        if native(TORCH if torch_rule else BACKTRACK, states, [group], None, threads.MIN_SHARED_WEIGHTS) != 0:
            _reference_update(p, [g], state, torch_rule)


def _reference_update(p: Tensor, grads: Iterable[Tensor], state: dict[str, Tensor], torch_rule: bool) -> None:
    eta_minus, eta_plus, step_min, step_max = _HYPER
    for g in grads:
        if torch_rule:
            torch_rprop(
                [p],
                [g],
                [state["prev"]],
                [state["step_size"]],
                [state["step"]],
                foreach=False,
                step_size_min=step_min,
                step_size_max=step_max,
                etaminus=eta_minus,
                etaplus=eta_plus,
                maximize=False,
            )
        else:
            from ..hyperparameters import Hyperparameters

            torch_.UPDATES["rprop+"](p, g, state["move"], Hyperparameters(*_HYPER), False, 0)


def _run_cases(update: Callable[..., None], torch_rule: bool) -> list[Tensor]:
    """Return parameters, states and whether versions were bumped, after three steps."""
    results = []
    for start, grads in _check_cases():
        p = start.detach().clone(memory_format=torch.preserve_format).requires_grad_()
        state = _new_states(p.detach(), torch_rule)
        version = p._version
        with torch.no_grad():
            update(p, grads, state, torch_rule)
        results += [p, *state.values(), torch.tensor(p._version > version)]
    return results


def _same_bits(a: Tensor, b: Tensor) -> bool:
    if a.dtype != b.dtype or a.stride() != b.stride():
        return False
    x, y = (t.detach().double() if t.is_floating_point() else t for t in (a, b))
    return bool(((x == y) & (x.signbit() == y.signbit()) | (x.isnan() & y.isnan())).all())


def same_results(torch_rule: bool) -> bool:
    """Check whether the native step and torch's operations give the same bits."""
    try:
        from torch.utils._python_dispatch import _disable_current_modes

        # The first optimizer may be made in any mode.
        with torch.inference_mode(False), _disable_current_modes(), torch.device("cpu"):
            results: Sequence[list[Tensor]] = [
                _run_cases(update, torch_rule) for update in (_native_update, _reference_update)
            ]
            return all(_same_bits(a, b) for a, b in zip(*results, strict=True))
    except Exception:
        return False


@functools.cache
def native_is_safe(version: str) -> bool:
    """Check whether native steps may be used with this version of torch; warns once where not."""
    try:
        make_native_step(True)
    except AttributeError as error:
        warn_user(
            f"native steps need a private name that torch {version} lacks ({error}): torch's own operations are used "
            "instead, slower but correct. A newer rprop_kernels may know this version",
            RuntimeWarning,
        )
        return False
    if version.partition("+")[0] in TESTED or all(same_results(torch_rule) for torch_rule in (True, False)):
        return True
    warn_user(
        f"native steps differ from torch's on torch {version}, with which rprop_kernels was not tested: "
        "torch's own operations are used instead, slower but correct. A newer rprop_kernels may know this version",
        RuntimeWarning,
    )
    return False
