"""Tensors of a step and state of the four variants: creation, casts, conversion and validation."""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from .. import hyperparameters
from ..state import decode, encode, encoding_of, initial_value, is_valid
from ._compat import has_internal_overlap

_EXACT_TYPES = (Tensor, torch.nn.Parameter)


class Opaque:
    """A value that Optimizer.load_state_dict passes through untouched."""

    def __init__(self, value: dict[str, Any]) -> None:
        self.value = value


def state_dtype(dtype: torch.dtype) -> torch.dtype:
    """Return the dtype of the state: float32 for half precision, else the parameter's own (also where complex)."""
    if dtype in (torch.float64, torch.complex64, torch.complex128):
        return dtype
    return torch.complex64 if dtype == torch.complex32 else torch.float32


def _real_dtype(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype in (torch.float64, torch.complex128) else torch.float32


def new_state(p: Tensor, lr: float | Tensor) -> Tensor:
    """Create the state of a parameter that has not moved: no sign, D = lr, a number or a tensor of its shape."""
    dtype = state_dtype(p.dtype)
    if isinstance(lr, Tensor):
        encoding = encoding_of(dtype)
        return lr.to(dtype).clamp(min=encoding.min_step) * encoding.shift
    value = initial_value(lr, _real_dtype(dtype))
    return torch.full_like(p, complex(value, value) if dtype.is_complex else value, dtype=dtype, requires_grad=False)


def state_for(state: dict[str, Any], p: Tensor) -> dict[str, Any]:
    """Copy a parameter's state to the dtype and device that ``p`` needs."""
    return {
        name: cast_state(value, state_dtype(p.dtype)).to(p.device, copy=True) if isinstance(value, Tensor) else value
        for name, value in state.items()
    }


def cast_state(move: Tensor, dtype: torch.dtype) -> Tensor:
    """Cast a state to another dtype: float32 and float64 mark a missing sign by different powers of two."""
    if move.dtype == dtype or move.is_complex() != dtype.is_complex:
        return move.to(dtype)
    if dtype.is_complex:
        return torch.view_as_complex(cast_state(torch.view_as_real(move), _real_dtype(dtype)))
    q, step = decode(move, torch)
    cast: Tensor = encode(q, step.to(dtype), torch)
    return cast


def state_from_torch(prev: Tensor, step_size: Tensor) -> Tensor:
    """Return the state that stands for torch's pair: the sign of prev (NaN: none) and the step size."""
    dtype = state_dtype(step_size.dtype)
    if dtype.is_complex:
        return torch.view_as_complex(state_from_torch(torch.view_as_real(prev), torch.view_as_real(step_size)))
    state: Tensor = encode(prev, step_size.to(dtype), torch)
    return state


def state_to_torch(move: Any) -> dict[str, Tensor]:
    """Return torch's state for one of ours: the remembered sign in the place of the gradient, and the step size.

    Raises:
        ValueError: it is damaged, or was cast to a dtype that cannot hold it.
    """
    if not isinstance(move, Tensor) or state_dtype(move.dtype) != move.dtype:
        raise ValueError(
            f"a saved state 'move' is {getattr(move, 'dtype', type(move).__name__)}, which cannot be converted to "
            "torch's: save and load it in the dtype it has in optimizer.state (float32 for half precision parameters)"
        )
    if type(move) in _EXACT_TYPES:
        validate_state(move, move)
    q, step_size = signs_and_steps(move)
    counter = torch.float64 if torch.get_default_dtype() == torch.float64 else torch.float32
    return {"step": torch.zeros((), dtype=counter, device="cpu"), "prev": q, "step_size": step_size}


def signs_and_steps(move: Tensor) -> tuple[Tensor, Tensor]:
    """Return the remembered signs and the step sizes of a state (complex: of real and imaginary part each)."""
    if not move.is_complex():
        return decode(move, torch)
    q, step = decode(torch.view_as_real(move), torch)
    return torch.view_as_complex(q), torch.view_as_complex(step)


def has_memory(tensor: Tensor) -> bool:
    """Check that a tensor has values: it is not a meta tensor, and its storage was not resized to 0."""
    if tensor.is_meta:
        return False
    if type(tensor) not in _EXACT_TYPES or tensor.device.type != "cpu" or tensor.numel() == 0:
        return True
    try:
        return tensor.layout != torch.strided or tensor.untyped_storage().size() > 0
    except RuntimeError:  # it has no storage at all
        return True


def require_storage(tensors: Iterable[Tensor]) -> None:
    """Refuse tensors without memory, where torch's operations would follow a NULL pointer.

    FSDP and others resize storages to 0.

    Raises:
        RuntimeError: naming the shape and the remedy.
    """
    for tensor in tensors:
        if type(tensor) in _EXACT_TYPES and not tensor.is_meta and not has_memory(tensor):
            raise RuntimeError(
                f"a parameter, gradient or state of shape {tuple(tensor.shape)} has no memory: its storage was resized "
                "to 0; give it memory again before step()"
            )


def validate_tensors(p: Tensor, g: Tensor, state: Any) -> None:
    """Validate a parameter, its gradient and its state before a step.

    Tensors of types other than torch's own pass.

    Raises:
        RuntimeError: for an input that torch's operations would refuse in the middle of a step.
    """
    if type(p) not in _EXACT_TYPES or type(g) not in _EXACT_TYPES:
        return
    if g.shape != p.shape or g.device != p.device or g.is_complex() != p.is_complex():
        raise RuntimeError(
            f"a gradient is {g.dtype} of shape {tuple(g.shape)} on {g.device}, its parameter {p.dtype} of shape "
            f"{tuple(p.shape)} on {p.device}: call zero_grad() and backward() again after changing p.data"
        )
    written = [p]
    if state and "move" in state:
        move = state["move"]
        if not isinstance(move, Tensor):
            raise RuntimeError(
                f"the state 'move' of a parameter is {type(move).__name__}, not a tensor: load a checkpoint, or call "
                "optimizer.state.clear() to start again"
            )
        if type(move) not in _EXACT_TYPES:
            return
        # Another dtype is correct where the parameter's has changed since: the state keeps its own.
        compatible = state_dtype(move.dtype) == move.dtype and move.is_complex() == p.is_complex()
        if move.shape != p.shape or move.device != p.device or not compatible:
            raise RuntimeError(
                f"there is a state of shape {tuple(move.shape)} and {move.dtype} on {move.device} for a parameter of "
                f"shape {tuple(p.shape)} and {p.dtype} on {p.device}, which needs a state of its shape and "
                f"{state_dtype(p.dtype)}: load the checkpoint of this parameter, or call optimizer.state.clear() to "
                "start again"
            )
        written.append(move)
    require_storage((*written, g))
    for name, t in zip(("a parameter", "the state 'move' of a parameter"), written, strict=False):
        if has_internal_overlap(t):
            raise RuntimeError(
                f"{name} (shape {tuple(t.shape)}, strides {t.stride()}) has several elements in the same memory: "
                "give it memory of its own by p.data = p.data.clone()"
            )
        if t.is_inference() and not torch.is_inference_mode_enabled():
            t.as_strided((0,), (1,)).zero_()  # torch's own error, and nothing is written


def validate_state_dict(state_dict: Any, batched: bool) -> None:
    """Validate the structure and the options of a state_dict, for an optimizer with this value of ``batched``.

    Raises:
        ValueError: naming the entry and the remedy.
    """
    if not isinstance(state_dict, Mapping) or not isinstance(state_dict.get("state"), Mapping):
        raise ValueError("state_dict holds no dict 'state': pass what optimizer.state_dict() returned")
    groups = state_dict.get("param_groups")
    if not isinstance(groups, (list, tuple)) or not all(
        isinstance(group, dict) and isinstance(group.get("params"), (list, tuple)) for group in groups
    ):
        raise ValueError(
            "param_groups of the state_dict must be a list of dicts, each with a list 'params': pass what "
            "optimizer.state_dict() returned"
        )
    for group in groups:
        if missing := {"lr", "etas", "step_sizes"} - group.keys():
            raise ValueError(
                f"a group of the state_dict has no {', '.join(sorted(missing))}: pass what state_dict() returned"
            )
        hyperparameters.validate(group["etas"], group["step_sizes"])
        if not hyperparameters.is_per_weight(group["lr"]):
            hyperparameters.lr_to_float(group["lr"])
        if not isinstance(group.get("maximize", False), (bool, int)):
            raise ValueError(f"maximize is {group['maximize']!r} in the state_dict: it must be True or False")
        if not all(isinstance(entry, (int, str)) for entry in group["params"]):
            raise ValueError("params of the state_dict must be numbers or names: pass what state_dict() returned")
        loss = group.get("prev_loss")
        if loss is None:
            continue
        is_tensor = isinstance(loss, Tensor) and loss.dim() <= 1 and not loss.is_complex()
        if not is_tensor and (isinstance(loss, bool) or not isinstance(loss, (int, float))):
            raise ValueError(f"prev_loss is {loss!r} in the state_dict: it must be None, a number or a tensor")
        if (is_tensor and loss.dim() == 1) != batched:
            kind = "one number" if batched else f"one loss for each of {loss.numel()} rows"
            raise ValueError(
                f"prev_loss of the state_dict is {kind}: load it into an optimizer made with batched={not batched}"
            )


def validate_state(move: Any, p: Tensor) -> None:
    """Validate a loaded state that already has the dtype of a step's result.

    Raises:
        ValueError: another shape, or values that no step leaves behind.
    """
    if type(move) is not Tensor or type(p) not in _EXACT_TYPES:
        return
    if move.shape != p.shape:
        raise ValueError(
            f"a saved state 'move' has shape {tuple(move.shape)}, its parameter {tuple(p.shape)}: load it into an "
            "optimizer of the same parameters"
        )
    if not move.is_meta and not is_valid(torch.view_as_real(move) if move.is_complex() else move, torch):
        raise ValueError("a saved state 'move' holds values that are no steps: it is damaged; load another copy of it")
