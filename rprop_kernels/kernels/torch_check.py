"""A self-check of the native step on a version of torch that it was never tested with.

The native step reads tensors through DLPack and bumps private counters. Where a new torch means something
else by them, the wrong answer must not be silent: a few small steps in every dtype and several layouts are
compared with torch's own operations, once a process, in some milliseconds. Where a bit differs, or anything
raises, torch's code does the steps.
"""

import functools
import warnings
from collections.abc import Callable
from typing import Any, Final

import torch
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes

TESTED: Final = frozenset({"2.13.0"})
"""Versions (without a local part such as +cpu) whose CI runs the whole test suite."""


def _problem() -> list[tuple[Tensor, list[Tensor]]]:
    """Parameters in every dtype and some layouts; gradients: zero, tiny, NaN, expanded, negated."""
    odd = torch.tensor([1.5, -2.0, 0.0, -0.0, torch.nan, 1e-30, -1e-6, torch.inf])
    steps = [odd, odd.flip(0), -odd]
    made = []
    for dtype in (torch.float32, torch.float64, torch.float16, torch.bfloat16):
        w = torch.linspace(-1.0, 1.0, 8, dtype=torch.float64).to(dtype)
        gradients = [g.to(dtype) for g in steps]
        made.append((w.clone(), gradients))
        if dtype == torch.float32:  # layouts do not depend on it
            made.append((w.reshape(2, 4).t(), [torch._neg_view(g.reshape(4, 2)) for g in gradients]))
            made.append((torch.stack([w, w], 1)[:, 1], [g[:1].expand(8) for g in gradients]))
    return made


def _run(make: Callable[[list[Tensor]], Any]) -> list[Tensor]:
    """Parameters, states and whether versions moved, after three steps. An optimizer a parameter: one that
    must not be read natively sends the whole step to torch."""
    outcome = []
    for start, gradients in _problem():
        p = start.detach().requires_grad_()
        version = p._version
        optimizer = make([p])
        for g in gradients:
            p.grad = g.detach()
            optimizer.step()
        outcome += [p, *optimizer.state[p].values(), torch.tensor(p._version > version)]
    return outcome


def _same(a: Tensor, b: Tensor) -> bool:
    if a.dtype != b.dtype or a.stride() != b.stride():
        return False
    x, y = (t.detach().double() if t.is_floating_point() else t for t in (a, b))
    return bool(((x == y) & (x.signbit() == y.signbit()) | (x.isnan() & y.isnan())).all())


def agrees(native: Callable[[list[Tensor]], Any], reference: Callable[[list[Tensor]], Any]) -> bool:
    """Whether two optimizers do the same to the bit."""
    try:
        # The first optimizer may be made in any mode.
        with torch.inference_mode(False), _disable_current_modes(), torch.device("cpu"):
            return all(_same(a, b) for a, b in zip(_run(native), _run(reference), strict=True))
    except Exception:
        return False


@functools.cache
def passes(version: str) -> bool:
    """Whether native steps may be used with this version of torch; warns once where not."""
    if version.partition("+")[0] in TESTED:
        return True
    from .. import torch as ours
    from ..torch import ways

    def native(cls: Any) -> Callable[[list[Tensor]], Any]:
        def make(params: list[Tensor]) -> Any:
            optimizer = cls(params, backend="torch")
            optimizer._native = ways.native_step(cls is ours.Rprop)
            return optimizer

        return make

    pairs = [(native(cls), functools.partial(cls, backend="torch")) for cls in (ours.Rprop, ours.RpropPlus)]
    good = all(agrees(*pair) for pair in pairs)
    if not good:
        warnings.warn(
            f"native steps differ from torch's on torch {version}, with which rprop_kernels was not tested: "
            "torch's own operations are used instead, slower and right. A newer rprop_kernels may know this version",
            RuntimeWarning,
            stacklevel=3,
        )
    return good
