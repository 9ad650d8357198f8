"""The loss of a step: conversion, the mean over processes, and the comparison with the previous one."""

from collections.abc import Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor

from ..hyperparameters import is_number
from ..loss import compare_loss, compare_losses

Loss: TypeAlias = float | Tensor
Groups: TypeAlias = Sequence[dict[str, Any]]

_EXPECTED = {False: "a number or a tensor of one element", True: "a tensor of shape (B,)"}


class ProcessGroupRef:
    """A process group in a copied optimizer: the same one, since it stands for connections of this process."""

    def __init__(self, value: Any) -> None:
        self.value = value

    @classmethod
    def wrap(cls, value: Any) -> Any:
        """Wrap a process group; None and True need no wrapper."""
        return value if value is None or value is True else cls(value)

    def __deepcopy__(self, memo: Any) -> "ProcessGroupRef":
        return self

    def __reduce__(self) -> Any:
        raise TypeError(
            "this IRpropPlus averages its loss over a process group of its own, which cannot be pickled: save its "
            "state_dict(), or use process_group=True (the default group)"
        )


def to_loss(loss: Any, groups: Groups, process_group: Any, batched: bool) -> Loss:
    """Convert to a float, or to a detached tensor: of shape (B,), or of shape () on a device.

    Args:
        loss: a number, or a tensor of one element; where ``batched``, a tensor of shape (B,).
        groups: the optimizer's param_groups.
        process_group: None, a group, or True for the default one.
        batched: whether there is one loss for each row of the parameters.

    Raises:
        TypeError: not a real number.
        ValueError: another shape, or rows that do not fit the parameters.
    """
    if process_group is None and not batched:  # most losses
        if type(loss) is float:
            return loss
        if type(loss) is Tensor and loss.dim() == 0 and loss.is_cpu and loss.is_floating_point():
            try:
                number: float = loss.item()
                return number
            except RuntimeError:  # under vmap there is no number yet; see below
                pass
    if not isinstance(loss, Tensor):
        if getattr(loss, "shape", ()) != ():
            loss = torch.as_tensor(loss)
        else:
            try:
                if not is_number(loss):
                    raise TypeError
                loss = float(loss)
            except (TypeError, ValueError, OverflowError):
                raise TypeError(f"loss must be {_EXPECTED[batched]}, got {type(loss).__name__}: {loss!r}") from None
    shape: tuple[int, ...] = ()
    if isinstance(loss, Tensor):
        loss = loss.detach()
        if hasattr(loss, "full_tensor"):
            loss = loss.full_tensor()
        if loss.is_complex():
            raise TypeError("loss must be real, got a complex tensor: pass its real part")
        if loss.dtype == torch.bool:
            raise TypeError(f"loss must be a number, got {loss!r}: pass the value that backward() was called on")
        if not loss.is_floating_point():  # E_prev may be NaN
            loss = loss.to(torch.float64)
        shape = tuple(loss.shape)
        if not batched and loss.numel() == 1:
            loss = loss.reshape(())
    if batched:
        _check_loss_rows(shape, groups)
    elif isinstance(loss, Tensor) and loss.dim():
        raise ValueError(
            f"loss has shape {shape}: reduce it to one number, such as loss.mean(); for one loss for each row of the "
            "parameters make RpropMinus, RpropPlus, IRpropMinus or IRpropPlus with batched=True"
        )
    if process_group is not None:
        loss = _all_reduce_mean(loss, groups, process_group)
    if isinstance(loss, Tensor) and loss.dim() == 0:
        devices = {p.device.type for group in groups for p in group["params"]}
        if loss.device.type == "cpu" or devices == {"cpu"}:
            try:
                return float(loss)
            except RuntimeError:  # meta, fake, vmapped: there is no number yet, but tensor operations will do
                return loss
    result: Loss = loss
    return result


def _check_loss_rows(shape: tuple[int, ...], groups: Groups) -> None:
    if len(shape) != 1 or shape == (0,):
        raise ValueError(
            f"loss has shape {shape}, but batched=True needs one loss for each row of the parameters, shape (B,): "
            "reduce all dimensions but the first, or leave batched=True out"
        )
    (rows,) = shape
    for i, group in enumerate(groups):
        for j, p in enumerate(group["params"]):
            if p.grad is not None and (p.dim() == 0 or p.shape[0] != rows):
                raise ValueError(
                    f"loss has shape ({rows},), but parameter {j} of group {i} has shape {tuple(p.shape)}: with "
                    f"batched=True its first dimension must be {rows}; put it into an optimizer of its own"
                )


def _all_reduce_mean(loss: Loss, groups: Groups, process_group: Any) -> Tensor:
    """Return the mean over the processes, with the same bits in each."""
    import torch.distributed as dist

    group = None if process_group is True else process_group
    device = next(p.device for g in groups for p in g["params"])
    mean = torch.as_tensor(loss, device=device).to(torch.float64, copy=True)
    dist.all_reduce(mean, group=group)
    return mean / dist.get_world_size(group)


def compare(
    loss: Loss, previous: Loss | None, directions: Sequence[bool], triton_launcher: Any
) -> list[tuple[Any, Any]]:
    """Compare the loss with the previous one.

    Args:
        loss: from `to_loss`.
        previous: E_prev, or None.
        directions: whether each param group maximizes.
        triton_launcher: a function of the loss that returns the Triton launcher for its device, or None.

    Returns:
        For each group ``(outcome, E_prev for the next step)``. On a GPU E_prev keeps its memory, for captured graphs.

    Raises:
        ValueError: the losses have different shapes.
    """
    if previous is not None and getattr(loss, "shape", ()) != getattr(previous, "shape", ()):
        raise ValueError(
            f"loss has shape {tuple(getattr(loss, 'shape', ()))}, but that of the step before had shape "
            f"{tuple(getattr(previous, 'shape', ()))}: make a new optimizer for other rows"
        )
    if isinstance(loss, Tensor):
        return _compare_tensor(loss, previous, directions, triton_launcher)
    if isinstance(previous, Tensor):
        previous = float(previous)
    return [compare_loss(loss, previous, maximize) for maximize in directions]


def _compare_tensor(
    loss: Tensor, previous: Loss | None, directions: Sequence[bool], triton_launcher: Any
) -> list[tuple[Any, Any]]:
    if previous is not None:
        previous = torch.as_tensor(previous, device=loss.device)
    if loss.is_cuda and (previous is None or previous.dtype != loss.dtype):
        if torch.cuda.is_current_stream_capturing():
            raise RuntimeError(
                "make one step, with a loss of the same dtype on the same device, before a CUDA graph is captured: "
                "the replays remember their loss in its place"
            )
        previous = None if previous is None else previous.to(loss.dtype)
    launcher = triton_launcher(loss)
    if previous is None:
        previous = torch.full_like(loss, torch.nan)
    if launcher is not None and (both := launcher.compare_losses(loss, previous)) is not None:
        return [(both[maximize], previous) for maximize in directions]
    results = [compare_losses(loss, previous, maximize, torch) for maximize in directions]
    new_previous = results[0][1]  # the same in both directions
    if loss.is_cuda:
        new_previous = previous.copy_(new_previous)
    return [(outcome.to(torch.uint8), new_previous) for outcome, _ in results]
