"""The ways to do one step, and which one a tensor may take."""

import os
from collections.abc import Iterable, Sequence
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..kernels import choose, load, openmp, torch_check, why_missing

Array = NDArray[Any]

BACKENDS: Final = ("cython", "numba", "torch", "numpy", "triton")
PLAIN_STEP: Final = "RPROP_KERNELS_PLAIN_STEP"
KINDS: Final = {torch.float32: (2, 32), torch.float64: (2, 64), torch.float16: (2, 16), torch.bfloat16: (4, 16)}
"""The dtypes that native code takes, with DLPack's code and bits, in the order of its cells."""
DONE, STALE = 0, 1
"""What a native step answers: all was done; make a new plan. Anything else: it must be done in another way."""


def _function_mode() -> bool:
    """Whether a TorchFunctionMode is active that could want to see operations (a default device does not)."""
    from torch.overrides import _get_current_function_mode_stack
    from torch.utils._device import DeviceContext

    modes = _get_current_function_mode_stack()  # type: ignore[no-untyped-call]  # torch does not annotate it
    return any(type(mode) is not DeviceContext for mode in modes)


_MODES: Final = (
    (torch._C._len_torch_dispatch_stack, None),
    (torch._C._get_tracing_state, None),
    (torch._C._len_torch_function_stack, _function_mode),
)


def in_a_mode() -> bool:
    """Whether operations are being watched or replaced: then every one must go through torch."""
    return any(quick() and (sure is None or sure()) for quick, sure in _MODES)


def _grant_threads() -> openmp.Grant | None:
    return openmp.grant(torch.get_num_threads)


def _read_attributes(tensor: Tensor) -> tuple[int, int, int, tuple[int, ...], tuple[int, ...]] | None:
    """Return (DLPack code, bits, address, shape, strides) of a strided CPU tensor, None for any other.

    The native step calls it before torch 2.10, which has no DLPack exchange table.
    """
    dtype = KINDS.get(tensor.dtype)
    if dtype is None or not tensor.is_cpu or tensor.layout is not torch.strided:
        return None
    try:
        return (*dtype, tensor.data_ptr(), tensor.shape, tensor.stride())
    except (RuntimeError, NotImplementedError):  # a tensor without memory of its own
        return None


def native_step(product: bool) -> Any:
    """The extension's whole-step object for one optimizer."""
    from ..kernels import _native, cython_

    api = _native.TorchApi(
        Tensor,
        torch.nn.Parameter,
        torch._C._increment_version,
        _MODES,
        _grant_threads,
        getattr(Tensor, "__dlpack_c_exchange_api__", None),
        _read_attributes,
    )
    return _native.TorchStep(api, cython_.isa(), product)


def plain(tensor: Tensor, dtype: torch.dtype) -> bool:
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


def refuse_freed(tensors: Iterable[Tensor]) -> None:
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


class _Memory:
    """What NumPy asks of an object to see its memory as an array."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor  # which must not go while the array is used
        itemsize = tensor.element_size()
        self.__array_interface__ = {
            "version": 3,
            "typestr": np.dtype(f"f{itemsize}").str,
            "data": (tensor.data_ptr(), False),
            "shape": tuple(tensor.shape),
            "strides": tuple(stride * itemsize for stride in tensor.stride()),
        }


def _array(tensor: Tensor) -> Array:
    """The memory of a tensor of float32 or float64. Not by ``tensor.numpy()``, after which torch never resizes the
    storage again, as FSDP does."""
    if tensor.numel() == 0:
        return np.empty(tensor.shape, f"f{tensor.element_size()}")
    return np.asarray(_Memory(tensor))


def as_arrays(params: Sequence[Tensor], grads: Sequence[Tensor], states: Sequence[Sequence[Tensor]]) -> Any:
    """The same memory as NumPy arrays, or None where a tensor is more than memory or touches another."""
    if in_a_mode():
        return None
    for p, g, state in zip(params, grads, states, strict=True):
        if p.dtype not in (torch.float32, torch.float64) or not all(plain(t, p.dtype) for t in (p, g, *state)):
            return None
        if any(t.is_inference() for t in (p, *state)):  # torch's operations know where they may be written
            return None
    from ..kernels import arrays

    views = (
        [_array(t) for t in params],
        [_array(t) for t in grads],
        [tuple(_array(t) for t in state) for state in states],
    )
    try:
        arrays.check([*views[0], *(array for state in views[2] for array in state)])
        arrays.check(views[0], views[1])
    except (TypeError, ValueError):
        return None
    return views


class Backend:
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
        self._native = native_step(product) if native else None
        self._device = None
        self._plain_step = os.environ.get(PLAIN_STEP, "") not in ("", "0")

    def _launcher(self, tensors: Iterable[Tensor]) -> Any:
        """The Triton kernels, or None where there is nothing for them to do or they cannot be had."""
        if self._backend == "torch" or not (self._backend == "triton" or any(t.is_cuda for t in tensors)):
            return None
        if in_a_mode():
            return None
        if self._device is None:
            self._device = load("triton").Launcher() if why_missing("triton") is None else False
        return self._device or None
