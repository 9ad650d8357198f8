"""State of the four classes as tensors: made, taken from torch's pair, and carried from one dtype to another."""

from typing import Any

import torch
from torch import Tensor

from ..kernels.state import CODES, STEP_LIMIT
from ..kernels.torch_ import state_dtype


class Hidden:
    """A value that Optimizer.load_state_dict passes through untouched."""

    def __init__(self, content: dict[str, Any]) -> None:
        self.content = content


def first_move(p: Tensor, lr: float) -> Tensor:
    """State of a parameter that has not moved: no sign, D = lr."""
    dtype = state_dtype(p.dtype)
    code = CODES["float64" if dtype in (torch.float64, torch.complex128) else "float32"]
    value = max(lr, code.least) * code.shift
    return torch.full_like(p, complex(value, value) if dtype.is_complex else value, dtype=dtype, requires_grad=False)


def in_place(state: dict[str, Any], p: Tensor) -> dict[str, Any]:
    """A copy of a parameter's state, of the dtype and on the device that ``p`` needs."""
    return {
        name: recoded(value, state_dtype(p.dtype)).to(p.device, copy=True) if isinstance(value, Tensor) else value
        for name, value in state.items()
    }


def recoded(move: Tensor, dtype: torch.dtype) -> Tensor:
    """State in another dtype: float32 and float64 mark "no memory" by different powers of two."""
    if move.dtype == dtype or move.is_complex() != dtype.is_complex:
        return move.to(dtype)
    if dtype.is_complex:
        part = torch.float64 if dtype == torch.complex128 else torch.float32
        return torch.view_as_complex(recoded(torch.view_as_real(move), part))
    was, now = CODES[str(move.dtype).removeprefix("torch.")], CODES[str(dtype).removeprefix("torch.")]
    wide = move.to(torch.float64)
    size = wide.abs()
    forgot = size > was.threshold
    step = torch.where(forgot, size * (1 / was.shift), size).clamp(min=now.least)
    return torch.where(forgot, step * now.shift, wide.sign() * step).to(dtype)


def encode(prev: Tensor, step_size: Tensor) -> Tensor:
    """The state that stands for torch's pair: the sign of prev (NaN: none) and the step size."""
    dtype = state_dtype(step_size.dtype)
    if dtype.is_complex:
        real = encode(torch.view_as_real(prev), torch.view_as_real(step_size))
        return torch.view_as_complex(real)
    code = CODES[str(dtype).removeprefix("torch.")]
    step = step_size.to(dtype).clamp(min=code.least, max=STEP_LIMIT)
    q = prev.sign().to(dtype).nan_to_num(0.0)
    return torch.where(q == 0, step * code.shift, q * step)
