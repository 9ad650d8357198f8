"""The NumPy optimizers on every backend, compared with vectorised NumPy on the same arrays, in one run.

    pytest benchmarks/bench_numpy.py -o addopts= --benchmark-json=benchmarks/results/numpy.json

The peer is the rule as one writes it in NumPy, in place where NumPy has an operation for it. A test checks that it
takes the same steps. ``-k "100_k"`` and the like choose sizes.
"""

import numpy as np
import pytest

from rprop_kernels.backends import supported_backends, unavailable_reason
from rprop_kernels.numpy import METHODS

SIZES = {"100": 100, "1_k": 1_000, "10_k": 10_000, "100_k": 100_000, "1_M": 1_000_000, "25_M": 25_000_000}
LISTS = {"161_arrays_of_64": [(64,)] * 161, "MLP_784-128-10": [(784, 128), (128,), (128, 10), (10,)]}


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


CONTENDERS = [f"{rule} {kind}" for rule in METHODS for kind in (*supported_backends("arrays"), "plain")]


def race(benchmark, group, contender, shapes):
    rule, kind = contender.split()
    if kind != "plain" and (reason := unavailable_reason(kind)):
        pytest.skip(f"{kind}: {reason}")
    n = sum(int(np.prod(shape)) for shape in shapes)
    sets = gradients(shapes, 2 if n >= 5_000_000 else 8)
    weights = [np.zeros(shape, np.float32) for shape in shapes]
    if kind == "plain":
        peers = [Plain(rule, w) for w in weights]

        def step(grads, loss):
            for peer, g in zip(peers, grads, strict=True):
                peer.step(g, loss)
    else:
        step = METHODS[rule](weights, backend=kind).step
    calls = 0

    def fresh():
        nonlocal calls
        calls += 1
        return (sets[calls % len(sets)], float(-calls % 3)), {}

    benchmark.group = f"numpy: {group}"
    benchmark.extra_info.update(contender=contender, weights=n, arrays=len(shapes))
    slow = kind in ("plain", "numpy")
    rounds = (5 if slow else 15) if n >= 5_000_000 else 40 if slow else 300
    benchmark.pedantic(step, setup=fresh, rounds=rounds, warmup_rounds=3)


@pytest.mark.parametrize("contender", CONTENDERS)
@pytest.mark.parametrize("size", SIZES)
def test_one_array(benchmark, size, contender):
    race(benchmark, size, contender, [(SIZES[size],)])


@pytest.mark.parametrize("contender", CONTENDERS)
@pytest.mark.parametrize("shapes", LISTS)
def test_lists(benchmark, shapes, contender):
    race(benchmark, shapes, contender, LISTS[shapes])


@pytest.mark.parametrize("options", ["plain", "bounds", "frozen"])
def test_what_bounds_and_masks_cost(benchmark, options):
    w = np.zeros(100_000, np.float32)
    chosen = {"bounds": {"bounds": (-1.0, 1.0)}, "frozen": {"frozen": np.arange(w.size) % 2 == 0}}
    optimizer = METHODS["irprop-"](w, **chosen.get(options, {}))
    sets = gradients([w.shape], 8)
    calls = 0

    def fresh():
        nonlocal calls
        calls += 1
        return tuple(sets[calls % 8]), {}

    benchmark.group = "numpy: bounds and masks, 100_k"
    benchmark.extra_info.update(contender=f"irprop- {options}", weights=w.size, arrays=1)
    benchmark.pedantic(optimizer.step, setup=fresh, rounds=200, warmup_rounds=3)
