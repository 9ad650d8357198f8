"""A step of every variant on every backend beside its peers, on the same shapes, in one run.

    pytest benchmarks/bench_step.py -o addopts= --benchmark-json=benchmarks/results/cpu.json

Set-up (fresh gradients) and compile time stand outside the timer; the threads are the same for all.
``-k "25 M"`` and the like choose workloads.
"""

import time

import pytest
import torch
from workloads import WORKLOADS, Contender, Race, contenders, weights

RACES = [
    pytest.param(work, contender, id=f"{work}-{contender.name}", marks=pytest.mark.benchmark(group=work))
    for work in WORKLOADS
    for contender in contenders()
    if weights(WORKLOADS[work]) <= contender.largest and (not contender.only or work in contender.only)
]


def rounds_for(n: int, name: str) -> int:
    slow = name.startswith(("torch for-loop", "torch foreach")) or name.endswith(" torch")
    if n >= 5_000_000:
        return 5 if slow else 15
    return 40 if slow else 300


@pytest.mark.parametrize(("work", "contender"), RACES)
def test_step(benchmark, work: str, contender: Contender):
    n = weights(WORKLOADS[work])
    race = Race(WORKLOADS[work], 2 if n >= 5_000_000 else 8)
    race.fresh()
    step = contender.make(race.params)
    start = time.perf_counter()
    step()  # makes state, compiles
    first = time.perf_counter() - start
    benchmark.extra_info.update(weights=n, tensors=len(race.params), contender=contender.name, first_call=first)
    benchmark.extra_info.update(bytes_a_weight=contender.bytes_a_weight, threads=torch.get_num_threads())
    benchmark.pedantic(step, setup=race.fresh, rounds=rounds_for(n, contender.name), warmup_rounds=3)


@pytest.mark.parametrize("work", [work for work, shapes in WORKLOADS.items() if len(shapes) == 1])
def test_ceiling(benchmark, work: str):
    """An in-place scale of the same weights: 8 bytes a weight of memory traffic, as fast as this machine moves them."""
    n = weights(WORKLOADS[work])
    x = torch.randn(n)
    benchmark.group = work
    benchmark.extra_info.update(weights=n, tensors=1, contender="in-place scale", bytes_a_weight=8)
    benchmark.pedantic(lambda: x.mul_(0.999), rounds=15 if n >= 5_000_000 else 300, warmup_rounds=3)
