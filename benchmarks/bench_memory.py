"""State kept and memory allocated by a step, in bytes a weight, counted and not timed."""

import pytest

pytest.importorskip("torch")

import torch
from workloads import Race, contenders, weights

SHAPES = [(1_000_000,)]
NAMES = ("Rprop-cython", "IRpropPlus-cython", "IRpropPlus-numba", "torch-for-loop", "torch-foreach", "Adam-fused")


@pytest.mark.parametrize("name", NAMES)
def test_memory(benchmark, name):
    contender = next(c for c in contenders() if c.name == name)
    contender.skip_if_missing()
    race = Race(SHAPES, 2)
    race.fresh()
    step = contender.make(race.params)
    step()
    owner = step.__self__ if hasattr(step, "__self__") else step.__closure__[1].cell_contents
    state = sum(t.nbytes for kept in owner.state.values() for t in kept.values() if t.numel() > 1)
    race.fresh()
    with torch.autograd.profiler.profile(profile_memory=True) as profile:
        step()
    allocated = sum(max(event.self_cpu_memory_usage, 0) for event in profile.function_events or [])
    benchmark.group = "memory"
    benchmark.extra_info.update(
        contender=name, state_a_weight=state / weights(SHAPES), allocated_a_weight=allocated / weights(SHAPES)
    )
    benchmark.pedantic(step, rounds=1)
