"""What torch's operations would refuse in the middle of a step is refused before it, and what a load brings in, too."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from .. import hyperparameters
from ..kernels.state import CODES, STEP_LIMIT
from ..kernels.torch_ import state_dtype
from .ways import refuse_freed

_PLAIN = (Tensor, torch.nn.Parameter)


def _overlaps_itself(tensor: Tensor) -> bool:
    try:
        return torch._debug_has_internal_overlap(tensor) == 1
    except (RuntimeError, NotImplementedError):  # no memory of its own, which is another matter
        return False


def check_step(p: Tensor, g: Tensor, state: Any) -> None:
    """Whether a parameter can be stepped. Tensors of other types than torch's own, which may mean anything, pass.

    Raises:
        RuntimeError: saying what is wrong, as torch's operations would somewhere on the way.
    """
    if type(p) not in _PLAIN or type(g) not in _PLAIN:
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
                "optimizer.state.clear() to start anew"
            )
        if type(move) not in _PLAIN:
            return
        # Another dtype is right where the parameter's has changed since: the state keeps its own.
        fits = state_dtype(move.dtype) == move.dtype and move.is_complex() == p.is_complex()
        if move.shape != p.shape or move.device != p.device or not fits:
            raise RuntimeError(
                f"there is a state of shape {tuple(move.shape)} and {move.dtype} on {move.device} for a parameter of "
                f"shape {tuple(p.shape)} and {p.dtype} on {p.device}: load the checkpoint of this parameter, or call "
                "optimizer.state.clear() to start anew"
            )
        written.append(move)
    refuse_freed((*written, g))
    for name, t in zip(("a parameter", "the state 'move' of a parameter"), written, strict=False):
        if _overlaps_itself(t):
            raise RuntimeError(
                f"{name} (shape {tuple(t.shape)}, strides {t.stride()}) has several elements in the same memory: "
                "make it whole by p.data = p.data.clone()"
            )
        if t.is_inference() and not torch.is_inference_mode_enabled():
            t.as_strided((0,), (1,)).zero_()  # torch's own error, and nothing is written


def check_saved(saved: Any) -> None:
    """Whether a state_dict has the parts of one, and options that are in order.

    Raises:
        ValueError: naming what is wrong.
    """
    if not isinstance(saved, Mapping) or not isinstance(saved.get("state"), Mapping):
        raise ValueError("state_dict holds no dict 'state': pass what optimizer.state_dict() returned")
    groups = saved.get("param_groups")
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
        hyperparameters.check(group["etas"], group["step_sizes"])
        hyperparameters.as_number(group["lr"])
        if not isinstance(group.get("maximize", False), (bool, int)):
            raise ValueError(f"maximize is {group['maximize']!r} in the state_dict: it must be True or False")
        loss = group.get("prev_loss")
        if isinstance(loss, Tensor) and loss.dim() <= 1 and not loss.is_complex():
            continue
        if loss is not None and (isinstance(loss, bool) or not isinstance(loss, (int, float))):
            raise ValueError(f"prev_loss is {loss!r} in the state_dict: it must be None, a number or a tensor")
        if not all(isinstance(entry, (int, str)) for entry in group["params"]):
            raise ValueError("params of the state_dict must be numbers or names: pass what state_dict() returned")


def check_move(move: Any, p: Tensor) -> None:
    """Whether a loaded state, already of the right dtype, is one that a step leaves behind.

    Raises:
        ValueError: another shape, or values that are no steps.
    """
    if type(move) is not Tensor or type(p) not in _PLAIN:
        return
    if move.shape != p.shape:
        raise ValueError(
            f"a saved state 'move' has shape {tuple(move.shape)}, its parameter {tuple(p.shape)}: load it into an "
            "optimizer of the same parameters"
        )
    if move.is_meta:
        return
    real = torch.view_as_real(move) if move.is_complex() else move
    code = CODES[str(real.dtype).removeprefix("torch.")]
    size = real.abs()
    step = torch.where(size > code.threshold, size * (1 / code.shift), size)
    if not bool(((step >= code.least) & (step <= STEP_LIMIT)).all()):
        raise ValueError("a saved state 'move' holds values that are no steps: it is damaged; load another copy of it")
