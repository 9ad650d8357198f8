"""The NumPy optimizers on every backend, compared with vectorised NumPy on the same arrays, in one run.

    pytest benchmarks/bench_numpy.py --benchmark-only

The peer ("plain") is the rule as one writes it in NumPy, in place where NumPy has an operation for it. A test checks
that it takes the same steps. ``-k 100k`` and the like choose sizes, ``-m ""`` adds the slow one.
"""

import itertools
import time
from concurrent.futures import ThreadPoolExecutor

import bounded
import numpy as np
import pytest
from backends import INSTRUCTION_SET_VARIABLE, INSTRUCTION_SETS, compiled

from rprop_kernels.backends import supported_backends, unavailable_reason
from rprop_kernels.kernels.threads import MIN_SHARED_WEIGHTS, thread_team
from rprop_kernels.numpy import METHODS

SIZES = {"100": 100, "1k": 1_000, "10k": 10_000, "100k": 100_000, "1M": 1_000_000, "25M": 25_000_000}
MARKED_SIZES = [pytest.param(size, marks=[pytest.mark.slow] if n > 10_000_000 else []) for size, n in SIZES.items()]
LISTS = {"161x64": [(64,)] * 161, "MLP-784-128-10": [(784, 128), (128,), (128, 10), (10,)]}
BYTES_A_WEIGHT = 20  # float32: read w, g, state; write w, state


class Plain:
    """The four rules in vectorised NumPy, float32: weights, remembered signs and steps as three arrays."""

    def __init__(self, rule, weights, lr=1e-2, etas=(0.5, 1.2), step_sizes=(1e-6, 50.0)):
        self.rule, self.w = rule, weights
        self.down, self.up = (np.float32(eta) for eta in etas)
        self.least, self.most = (np.float32(size) for size in step_sizes)
        self.q, self.D = np.zeros_like(weights), np.full_like(weights, lr)
        self.previous = np.inf

    def step(self, g, loss):
        sign = np.sign(g)
        c = sign * self.q
        flipped = c < 0
        undo = self.rule == "rprop+" or (self.rule == "irprop+" and loss > self.previous)
        if undo:
            self.w += np.where(flipped, self.q * self.D, np.float32(0))
        self.D *= np.where(c > 0, self.up, np.where(flipped, self.down, np.float32(1)))
        np.clip(self.D, self.least, self.most, out=self.D)
        if self.rule != "rprop-":
            sign[flipped] = 0
        self.w -= sign * self.D
        self.q = sign
        self.previous = loss


def gradients(shapes, sets):
    rng = np.random.default_rng(0)
    return [[rng.standard_normal(shape, np.float32) for shape in shapes] for _ in range(sets)]


def test_the_peer_takes_the_same_steps():
    for rule, cls in METHODS.items():
        w, plain = np.ones(500, np.float32), np.ones(500, np.float32)
        ours, peer = cls(w), Plain(rule, plain)
        for loss, (g,) in zip((3.0, 2.0, 4.0, 1.0, 5.0), gradients([(500,)], 5), strict=True):
            ours.step(g, loss)
            peer.step(g, loss)
            np.testing.assert_array_equal(w, plain)


KINDS = (*supported_backends("arrays"), "plain")
RULES = {cls.__name__: rule for rule, cls in METHODS.items()}
CONTENDERS = [f"{name}-{kind}" for name in RULES for kind in KINDS]


def arguments(sets):
    """Return a function that returns the arguments of the next step: fresh gradients and a loss."""
    calls = itertools.count(1)

    def fresh():
        call = next(calls)
        return (sets[call % len(sets)], float(-call % 3)), {}

    return fresh


def race(benchmark, group, contender, shapes):
    name, kind = contender.split("-")
    if kind != "plain" and (reason := unavailable_reason(kind)):
        pytest.skip(f"{kind}: {reason}")
    n = sum(int(np.prod(shape)) for shape in shapes)
    fresh = arguments(gradients(shapes, 2 if n >= 5_000_000 else 8))
    weights = [np.zeros(shape, np.float32) for shape in shapes]
    if kind == "plain":
        peers = [Plain(RULES[name], w) for w in weights]

        def step(grads, loss):
            for peer, g in zip(peers, grads, strict=True):
                peer.step(g, loss)
    else:
        step = METHODS[RULES[name]](weights, backend=kind).step
    (grads, loss), _ = fresh()
    start = time.perf_counter()
    step(grads, loss)  # makes state, compiles
    first = time.perf_counter() - start
    benchmark.group = f"numpy: {group}"
    benchmark.extra_info.update(contender=contender, weights=n, arrays=len(shapes), first_call=first)
    benchmark.extra_info.update(bytes_a_weight=0 if kind == "plain" else BYTES_A_WEIGHT)
    slow = kind in ("plain", "numpy")
    rounds = (5 if slow else 15) if n >= 5_000_000 else 40 if slow else 300
    benchmark.pedantic(step, setup=fresh, rounds=rounds, warmup_rounds=3)


@pytest.mark.parametrize("contender", CONTENDERS)
@pytest.mark.parametrize("size", MARKED_SIZES)
def test_one_array(benchmark, size, contender):
    race(benchmark, size, contender, [(SIZES[size],)])


@pytest.mark.parametrize("contender", CONTENDERS)
@pytest.mark.parametrize("shapes", LISTS)
def test_lists(benchmark, shapes, contender):
    race(benchmark, shapes, contender, LISTS[shapes])


@pytest.mark.parametrize("size", MARKED_SIZES)
def test_ceiling(benchmark, size):
    """An in-place scale that moves as many bytes as a step of these weights, on as many threads."""
    n = SIZES[size]
    team = thread_team() if n >= MIN_SHARED_WEIGHTS else None
    parts = np.array_split(np.ones(n * BYTES_A_WEIGHT // 8, np.float32), team.threads if team else 1)
    benchmark.group = f"numpy: {size}, memory bandwidth"
    benchmark.extra_info.update(contender=f"in-place-scale-{BYTES_A_WEIGHT}", weights=n, bytes_a_weight=BYTES_A_WEIGHT)
    rounds = 15 if n >= 5_000_000 else 300
    if team is None:
        benchmark.pedantic(scale, args=parts, rounds=rounds, warmup_rounds=3)
        return
    with ThreadPoolExecutor(team.threads) as pool:
        benchmark.pedantic(lambda: [*pool.map(scale, parts)], rounds=rounds, warmup_rounds=3)


def scale(x):
    np.multiply(x, np.float32(0.999), out=x)


@compiled
@pytest.mark.parametrize("kind", bounded.KINDS)
@pytest.mark.parametrize("name", ["IRpropMinus", "IRpropPlus"])
@pytest.mark.parametrize("instruction_set", INSTRUCTION_SETS)
def test_bounded_step(benchmark, monkeypatch, instruction_set, name, kind):
    monkeypatch.setenv(INSTRUCTION_SET_VARIABLE, instruction_set)
    w, sets, options = bounded.problem(kind)
    optimizer = METHODS[RULES[name]](w, backend="cython", **options)
    benchmark.group = f"numpy: bounds, {name}, {instruction_set}"
    benchmark.extra_info.update(contender=kind, weights=w.size)
    benchmark.pedantic(optimizer.step, setup=arguments(sets), rounds=300, warmup_rounds=3)
