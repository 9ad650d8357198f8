"""Several starting points of a fit of tensors: a scrambled Sobol sequence within the bounds."""

import numpy as np
import torch
from torch import Tensor

from ..bounds import Constraints
from ..starts import unbounded_error
from .structure import Structure


def draw_starts(
    structure: Structure, x: list[Tensor], constraints: list[Constraints], starts: int, seed: int, batched: bool
) -> list[Tensor]:
    """Return x and starts - 1 points of a scrambled Sobol sequence within the bounds, of shapes (starts, *x.shape).

    Frozen weights keep their values. All problems of a batch have the same points, each within its own bounds.

    Raises:
        ValueError: a weight that is not frozen lacks a finite bound; it is named.
    """
    for i, (part, (lower, upper, frozen)) in enumerate(zip(x, constraints, strict=True)):
        bounded = torch.zeros_like(part, dtype=torch.bool)
        if lower is not None and upper is not None:
            bounded = torch.as_tensor(lower).isfinite() & torch.as_tensor(upper).isfinite()
        if frozen is not None:
            bounded = bounded | frozen
        if not bool(bounded.all()):
            index = tuple((~bounded).nonzero()[0].tolist())
            raise unbounded_error(starts, index, structure.place(i))
    sizes = [part[0].numel() if batched else part.numel() for part in x]
    unit = torch.empty(0, sum(sizes), dtype=torch.float64)
    if starts > 1:
        state = int(np.random.SeedSequence(seed).generate_state(1, np.uint64)[0]) >> 1
        engine = torch.quasirandom.SobolEngine(sum(sizes), scramble=True, seed=state)  # type: ignore[no-untyped-call]
        unit = engine.draw(starts - 1, dtype=torch.float64)
    found = []
    for part, (lower, upper, frozen), columns in zip(x, constraints, torch.split(unit, sizes, 1), strict=True):
        shape = (starts - 1, 1, *part.shape[1:]) if batched else (starts - 1, *part.shape)
        points = columns.reshape(shape).to(part.device).expand(starts - 1, *part.shape)
        if lower is not None and upper is not None:
            low, high = lower.double(), upper.double()
            points = torch.clamp(low + points * (high - low), low, high)
        free = torch.ones_like(part, dtype=torch.bool) if frozen is None else ~frozen
        found.append(torch.cat([part[None], torch.where(free, points, part.double()).to(part)]))
    return found
