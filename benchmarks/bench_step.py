"""A step of every variant on every backend next to torch.optim.Rprop, on the same shapes, in one run.

    pytest benchmarks/bench_step.py --benchmark-only

Set-up (fresh gradients) and compile time stand outside the timer; the threads are the same for all.
``-k 100k`` and the like choose workloads, ``-m ""`` adds those above 10 M weights, which are marked slow.
"""

import inspect
import time

import pytest

pytest.importorskip("torch")

import bounded
import torch
from backends import INSTRUCTION_SET_VARIABLE, INSTRUCTION_SETS, compiled
from workloads import WORKLOADS, Contender, Race, contenders, weights

import rprop_kernels.torch as ours

LARGE = {work for work, shapes in WORKLOADS.items() if weights(shapes) > 10_000_000}


def marks(work: str, contender: Contender) -> list[pytest.MarkDecorator]:
    group = f"torch: {work}" if contender.is_rprop else f"torch: {work}, other optimizers"
    chosen = [pytest.mark.benchmark(group=group)]
    if work in LARGE:
        chosen.append(pytest.mark.slow)
    if contender.name == "torch-compiled":
        chosen.append(pytest.mark.filterwarnings("default"))  # the compiler's own
    return chosen


CONTENDERS = {contender.name: contender for contender in contenders()}
RACES = [
    pytest.param(work, name, id=f"{work}-{name}", marks=marks(work, contender))
    for work in WORKLOADS
    for name, contender in CONTENDERS.items()
    if contender.runs(work)
]


def rounds_for(n: int, name: str) -> int:
    slow = name in ("torch-for-loop", "torch-foreach") or name.endswith("-torch")
    if n >= 5_000_000:
        return 5 if slow else 15
    return 40 if slow else 300


@pytest.mark.parametrize(("work", "name"), RACES)
def test_step(benchmark, work: str, name: str):
    contender = CONTENDERS[name]
    contender.skip_if_missing()
    n = weights(WORKLOADS[work])
    race = Race(WORKLOADS[work], 2 if n >= 5_000_000 else 8)
    race.fresh()
    step = contender.make(race.params)
    start = time.perf_counter()
    step()  # makes state, compiles
    first = time.perf_counter() - start
    benchmark.extra_info.update(weights=n, tensors=len(race.params), contender=name, first_call=first)
    benchmark.extra_info.update(bytes_a_weight=contender.bytes_a_weight, threads=torch.get_num_threads())
    benchmark.pedantic(step, setup=race.fresh, rounds=rounds_for(n, name), warmup_rounds=3)


@pytest.mark.parametrize("bytes_a_weight", sorted({c.bytes_a_weight for c in CONTENDERS.values()} - {0}))
@pytest.mark.parametrize(
    "work",
    [
        pytest.param(work, marks=[pytest.mark.slow] if work in LARGE else [])
        for work, shapes in WORKLOADS.items()
        if len(shapes) == 1
    ],
)
def test_ceiling(benchmark, work: str, bytes_a_weight: int):
    """An in-place scale that moves as many bytes as a step of these weights: as fast as this machine moves them."""
    n = weights(WORKLOADS[work])
    x = torch.randn(n * bytes_a_weight // 8)  # a float32 is read and written
    benchmark.group = f"torch: {work}, memory bandwidth"
    benchmark.extra_info.update(contender=f"in-place-scale-{bytes_a_weight}", weights=n, bytes_a_weight=bytes_a_weight)
    benchmark.pedantic(lambda: x.mul_(0.999), rounds=15 if n >= 5_000_000 else 300, warmup_rounds=3)


def as_tensors(option):
    if isinstance(option, tuple):
        return tuple(map(as_tensors, option))
    return option if isinstance(option, float) else torch.from_numpy(option)


@compiled
@pytest.mark.parametrize("kind", bounded.KINDS)
@pytest.mark.parametrize("name", ["IRpropMinus", "IRpropPlus"])
@pytest.mark.parametrize("instruction_set", INSTRUCTION_SETS)
def test_bounded_step(benchmark, monkeypatch, instruction_set: str, name: str, kind: str):
    monkeypatch.setenv(INSTRUCTION_SET_VARIABLE, instruction_set)
    w, gradients, options = bounded.problem(kind)
    cls = getattr(ours, name)
    if missing := options.keys() - inspect.signature(cls).parameters.keys():
        pytest.skip(f"{name} has no argument {', '.join(missing)}")
    race = Race([w.shape], 0)
    race.params = [torch.nn.Parameter(torch.from_numpy(w))]
    race.gradients = [[torch.from_numpy(g)] for g in gradients]
    optimizer = cls(race.params, backend="cython", **{key: as_tensors(value) for key, value in options.items()})
    arguments = {"loss": torch.tensor(1.0)} if name == "IRpropPlus" else {}
    benchmark.group = f"torch: bounds, {name}, {instruction_set}"
    benchmark.extra_info.update(contender=kind, weights=w.size)
    benchmark.pedantic(lambda: optimizer.step(**arguments), setup=race.fresh, rounds=300, warmup_rounds=3)
