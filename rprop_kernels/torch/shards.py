"""DTensors: each process steps its own shard."""

import sys
from typing import Any

import torch
from torch import Tensor


def to_shards(params: list[Tensor], grads: list[Tensor], *states: list[Tensor]) -> dict[int, Any]:
    """Put this process's shards in the place of DTensors, in the lists; returns those parameters by their index.

    Every rule is elementwise, so shards that lie alike need nothing of the other processes. (torch.optim.Rprop
    itself cannot step them: DTensor has no masked assignment.)
    """
    module = sys.modules.get("torch.distributed.tensor")
    found: dict[int, Any] = {}
    if module is None:  # then there are none
        return found
    for i, p in enumerate(params):
        row: list[Any] = [column[i] for column in (params, grads, *states)]
        if not all(isinstance(t, module.DTensor) for t in row) or any(way.is_partial() for way in row[0].placements):
            continue
        where = row[0].device_mesh, row[0].placements
        if (row[1].device_mesh, row[1].placements) != where:
            row[1] = row[1].redistribute(*where)
        if any((t.device_mesh, t.placements) != where for t in row):
            continue
        torch._C._increment_version([row[0], *row[2:]])
        for column, t in zip((params, grads, *states), row, strict=True):
            column[i] = t.to_local()
        found[i] = p
    return found


def rows_of(verdict: Any, p: Any) -> Any:
    """The part of a verdict a row that belongs to this process's shard of ``p``; None: no DTensor."""
    if p is None or not isinstance(verdict, Tensor) or verdict.dim() == 0:
        return verdict
    from torch.distributed.tensor import DTensor, Replicate

    ways = [way if way.is_shard(0) else Replicate() for way in p.placements]
    whole = DTensor.from_local(verdict, p.device_mesh, [Replicate()] * len(ways), run_check=False)
    return whole.redistribute(placements=ways).to_local()
