"""The four rules in torch operations: any device, any kind of tensor, a graph that can be captured.

What the optimizers fall back to where the compiled kernels do not take a tensor. Same bits, about twenty
operations a tensor. (The drop-in falls back to torch's own functional code instead.)
"""

from collections.abc import Callable, Sequence
from typing import Final, TypeAlias

import torch
from torch import Tensor

from ..hyperparameters import Hyperparameters
from ..variants import VARIANTS
from .state import CODES
from .verdict import BETTER, LOST, WORSE

TorchVerdict: TypeAlias = int | Tensor


def state_dtype(dtype: torch.dtype) -> torch.dtype:
    """float32 for parameters of less than that, else the parameter's own (complex: its complex type)."""
    if dtype in (torch.float64, torch.complex64, torch.complex128):
        return dtype
    return torch.complex64 if dtype == torch.complex32 else torch.float32


def _real(x: Tensor) -> Tensor:
    return torch.view_as_real(x.resolve_conj() if x.is_conj() else x) if x.is_complex() else x


def _one_state_rule(flip: str) -> Callable[[Tensor, Tensor, Tensor, Hyperparameters, bool, TorchVerdict], None]:
    """The rule whose ``on_flip`` is ``flip``, on the state of :mod:`.state`; w and move are INOUT."""

    def kernel(
        w: Tensor, g: Tensor, move: Tensor, hyper: Hyperparameters, maximize: bool, verdict: TorchVerdict
    ) -> None:
        if w.is_complex() and w.is_conj():  # its real view would be of a copy
            raise RuntimeError("a parameter with the conjugate bit set cannot be stepped: call resolve_conj() on it")
        if move.shape != w.shape:
            raise RuntimeError(
                f"a parameter of shape {tuple(w.shape)} has state of shape {tuple(move.shape)}: it was replaced after "
                "the first step; put a state of its shape into optimizer.state, or delete the old one"
            )
        w, g, move = _real(w), _real(g), _real(move)
        real = move.dtype
        code = CODES[str(real).removeprefix("torch.")]
        if isinstance(verdict, Tensor) and verdict.dim():
            verdict = verdict.reshape(-1, *(1,) * (w.dim() - 1))

        size = move.abs()
        forgot = size > code.threshold
        last = torch.where(forgot, 0, move)
        sign = g.sign().to(real)
        if maximize:
            sign = -sign
        if flip == "undo if worse" and not (isinstance(verdict, int) and verdict != LOST):
            sign = torch.where(torch.as_tensor(verdict == LOST, device=w.device), -last.sign(), sign)
        c = sign * last.sign()
        step = torch.where(forgot, size * (1 / code.shift), size)
        new = torch.where(c > 0, step * hyper.eta_plus, torch.where(c < 0, step * hyper.eta_minus, step))
        new = new.clamp(max(hyper.step_min, code.least), hyper.step_max)
        flipped = c < 0
        go = sign if flip == "move" else torch.where(flipped, 0, sign)
        delta = torch.where(go == 0, 0, go * new)
        if flip == "undo":
            delta = torch.where(flipped, -last, delta)
        elif flip == "undo if worse" and not (isinstance(verdict, int) and verdict == BETTER):
            worse = torch.as_tensor(verdict != BETTER, device=w.device)
            delta = torch.where(flipped & worse, -last, delta)
        kept = torch.where(go == 0, new * code.shift, go * new)
        w.copy_(w - delta)  # in the wider of the two dtypes
        move.copy_(kept)

    return kernel


KERNELS: Final = {row.name: _one_state_rule(row.on_flip) for row in VARIANTS.values() if row.state == ("move",)}


def judge(loss: Tensor, previous: Tensor | None, maximize: bool) -> tuple[Tensor, Tensor]:
    """:func:`rprop_kernels.kernels.verdict.judge` of a loss of shape () or (B,), without waiting for a device.

    Returns:
        the verdicts (uint8) and E_prev for the next step, both of ``loss``'s shape; E_prev is NaN where
        there never was a finite loss.
    """
    finite = loss.isfinite()
    if previous is None:
        previous = torch.full_like(loss, torch.nan)
    known = previous.isfinite()
    rose = loss < previous if maximize else loss > previous
    verdict = torch.where(known & ~finite, LOST, torch.where(known & rose, WORSE, BETTER))
    return verdict.to(torch.uint8), torch.where(finite, loss, previous)


def step(
    variant: str,
    weights: Sequence[Tensor],
    gradients: Sequence[Tensor],
    states: Sequence[tuple[Tensor, ...]],
    hyper: Hyperparameters,
    *,
    maximize: bool = False,
    verdict: TorchVerdict | Sequence[TorchVerdict] = BETTER,
    threads: int = 1,
) -> bool:
    """As :func:`rprop_kernels.kernels.numpy_.step`, for tensors, one after the other, under ``torch.no_grad()``.

    ``verdict`` may be a tensor on the parameters' device: nothing waits for the device. A list holds one a tensor.
    """
    kernel = KERNELS[variant]
    verdicts = verdict if isinstance(verdict, list) else [verdict] * len(weights)
    for w, g, (move,), said in zip(weights, gradients, states, verdicts, strict=True):
        kernel(w, g, move, hyper, maximize, said)
    return True
