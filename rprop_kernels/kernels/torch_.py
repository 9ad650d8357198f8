"""The four rules in torch operations: any device, any kind of tensor, and graphs that can be captured.

The optimizers fall back to this engine where the compiled ones do not take a tensor. It gives the same bits with about
twenty operations a tensor. (The drop-in falls back to torch's own functional code instead.)
"""

from collections.abc import Callable, Sequence
from typing import Any, Final, TypeAlias

import torch
from torch import Tensor

from ..hyperparameters import Hyperparameters
from ..loss import NONFINITE, NOT_WORSE
from ..rules import VARIANTS
from ..state import decode, encoding_of, forget_sign

TensorOutcome: TypeAlias = int | Tensor
Constraints: TypeAlias = tuple[float | Tensor | None, float | Tensor | None, Tensor | None] | None


def _real(x: Tensor) -> Tensor:
    return torch.view_as_real(x.resolve_conj() if x.is_conj() else x) if x.is_complex() else x


def _rule(on_flip: str) -> Callable[..., None]:
    """Make the update whose treatment of a flip is ``on_flip``; w and move are INOUT."""

    def update(
        w: Tensor,
        g: Tensor,
        move: Tensor,
        hyper: Hyperparameters,
        maximize: bool,
        outcome: TensorOutcome,
        constraints: Constraints = None,
    ) -> None:
        lower, upper, frozen = constraints or (None, None, None)
        if w.is_complex() and w.is_conj():  # its real view would be of a copy
            raise RuntimeError("a parameter with the conjugate bit set cannot be stepped: call resolve_conj() on it")
        if move.shape != w.shape:
            raise RuntimeError(
                f"a parameter of shape {tuple(w.shape)} has state of shape {tuple(move.shape)}: it was replaced after "
                "the first step; put a state of its shape into optimizer.state, or delete the old one"
            )
        w, g, move = _real(w), _real(g), _real(move)
        real = move.dtype
        encoding = encoding_of(real)
        if isinstance(outcome, Tensor) and outcome.dim():
            outcome = outcome.reshape(-1, *(1,) * (w.dim() - 1))

        q, step = decode(move, torch)
        sign = g.sign().to(real)
        if maximize:
            sign = -sign
        if on_flip == "backtrack if worse" and not (isinstance(outcome, int) and outcome != NONFINITE):
            sign = torch.where(torch.as_tensor(outcome == NONFINITE, device=w.device), -q, sign)
        if frozen is not None:
            q, sign = (torch.where(frozen, 0, x) for x in (q, sign))
        c = sign * q
        step = torch.where(c > 0, step * hyper.eta_plus, torch.where(c < 0, step * hyper.eta_minus, step))
        step = step.clamp(max(hyper.step_min, encoding.min_step), hyper.step_max)
        flipped = c < 0
        kept_sign = sign if on_flip == "move" else torch.where(flipped, 0, sign)
        change = torch.where(kept_sign == 0, 0, kept_sign * step)
        if on_flip == "backtrack":
            change = torch.where(flipped, -move, change)
        elif on_flip == "backtrack if worse" and not (isinstance(outcome, int) and outcome == NOT_WORSE):
            worse = torch.as_tensor(outcome != NOT_WORSE, device=w.device)
            change = torch.where(flipped & worse, -move, change)
        w.copy_(w - change)  # in the wider of the two dtypes
        move.copy_(torch.where(kept_sign == 0, step * encoding.shift, kept_sign * step))
        if lower is not None or upper is not None:
            _stop_at_bounds(w, move, lower, upper, frozen)

    return update


def _bound(value: float | Tensor, w: Tensor) -> Tensor:
    if isinstance(value, Tensor):
        return value.to(w.dtype)
    return torch.full((), value, dtype=w.dtype, device=w.device)  # a fill, which a CUDA graph can capture


def _stop_at_bounds(w: Tensor, move: Tensor, lower: Any, upper: Any, frozen: Tensor | None) -> None:
    """Set weights at or beyond a bound on it; they forget their signs, and step by half their interval at most."""
    encoding = encoding_of(move.dtype)
    lower = _bound(-torch.inf if lower is None else lower, w)
    upper = _bound(torch.inf if upper is None else upper, w)
    high = w >= upper
    stopped = (w <= lower) | high
    if frozen is not None:
        stopped = stopped & ~frozen
    half = (upper.to(move.dtype) - lower.to(move.dtype)) / 2
    largest = half.clamp(min=encoding.min_step) * encoding.shift
    w.copy_(torch.where(stopped, torch.where(high, upper, lower), w))
    move.copy_(torch.where(stopped, torch.minimum(forget_sign(move, torch), largest), move))


def copy_improved(best: Tensor, w: Tensor, improved: Tensor) -> None:
    """Copy w, or its rows, where it has improved: one boolean for all, or one for each row; nothing waits for it."""
    if improved.numel() == 1:
        improved = improved.reshape(())
    elif improved.dim():
        improved = improved.reshape(-1, *(1,) * (w.dim() - 1))
    if improved.dim() == 0 and improved.device.type == "cpu":
        if improved:
            best.copy_(w)
        return
    best.copy_(torch.where(improved.to(w.device), w, best))


UPDATES: Final = {row.name: _rule(row.on_flip) for row in VARIANTS.values() if row.state == ("move",)}


def step(
    variant: str,
    params: Sequence[Tensor],
    grads: Sequence[Tensor],
    states: Sequence[tuple[Tensor, ...]],
    hyper: Hyperparameters,
    *,
    maximize: bool = False,
    outcome: TensorOutcome | Sequence[TensorOutcome] = NOT_WORSE,
    n_threads: int = 1,
    constraints: Sequence[Constraints] | None = None,
    bests: Sequence[Tensor] | None = None,
    improved: bytes | None = None,
) -> bool:
    """Perform one step as :func:`rprop_kernels.kernels.numpy_.step`, tensor by tensor, under ``torch.no_grad()``.

    ``bests`` and ``improved`` are as there, the latter for parameters on any device.
    ``outcome`` may be a tensor on the parameters' device: nothing waits for the device. A list holds one for each
    tensor. ``constraints`` is as there: numbers, or tensors of the parameter's shape on its device.
    """
    update = UPDATES[variant]
    if bests is not None:
        chosen = torch.tensor(list(improved or b""), dtype=torch.bool)
        for best, w in zip(bests, params, strict=True):
            copy_improved(best, w, chosen)
    outcomes: Sequence[Any] = outcome if isinstance(outcome, list) else [outcome] * len(params)
    for w, g, (move,), one, limits in zip(
        params, grads, states, outcomes, constraints or [None] * len(params), strict=True
    ):
        update(w, g, move, hyper, maximize, one, limits)
    return True
