"""A step in JAX, compiled, with donated buffers: the four rules, optax.rprop and optax.adam, in turn in one run.

    pytest benchmarks/bench_optax.py --benchmark-only -s

The machine's speed changes while a benchmark runs, so all contenders take turns, step by step, in the first test of a
size; each test then reports the steps of its own contender. Updates are applied: the weights are read and written.
"""

import functools
import time

import numpy as np
import pytest

pytest.importorskip("jax", reason="jax is not installed: pip install 'rprop_kernels[optax]'")
pytest.importorskip("optax", reason="optax is not installed: pip install 'rprop_kernels[optax]'")

import jax
import jax.numpy as jnp
import optax
from clock import CLOCK

import rprop_kernels.optax as ours

SIZES = {"1k": 1_000, "100k": 100_000, "1M": 1_000_000}
ROUNDS, WARMUP = 300, 10
CONTENDERS = {
    "optax.rprop": lambda: optax.rprop(0.01),
    "optax.adam": lambda: optax.adam(0.01),
    "rprop_minus": ours.rprop_minus,
    "rprop_plus": ours.rprop_plus,
    "irprop_minus": ours.irprop_minus,
    "irprop_plus": ours.irprop_plus,
    "irprop_plus-bounds": lambda: ours.irprop_plus(bounds=(-1.0, 1.0)),
}


def compiled(optimizer):
    """Return a step: gradient and loss in, weights and state in place."""
    optimizer = optax.with_extra_args_support(optimizer)

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def step(w, state, g, loss):
        updates, state = optimizer.update(g, state, w, value=loss)
        return optax.apply_updates(w, updates), state

    return step


@functools.cache
def race(size):
    """Return the seconds of every step and the bytes of the state, by contender."""
    n = SIZES[size]
    rng = np.random.default_rng(0)
    grads = [jnp.asarray(rng.standard_normal(n, np.float32)) for _ in range(8)]
    optimizers = {name: make() for name, make in CONTENDERS.items()}
    steps = {name: compiled(optimizer) for name, optimizer in optimizers.items()}
    carried = {}
    for name, optimizer in optimizers.items():
        w = jnp.zeros(n, jnp.float32)
        carried[name] = w, optimizer.init(w)
    state_bytes = {name: sum(x.nbytes for x in jax.tree.leaves(state)) for name, (_, state) in carried.items()}
    times = {name: [] for name in CONTENDERS}
    for call in range(WARMUP + ROUNDS):
        g, loss = grads[call % len(grads)], jnp.float32(-call % 3)
        for name, step in steps.items():
            start = time.perf_counter()
            carried[name] = jax.block_until_ready(step(*carried[name], g, loss))
            times[name].append(time.perf_counter() - start)
    return {name: x[WARMUP:] for name, x in times.items()}, state_bytes


@pytest.mark.benchmark(timer=CLOCK)
@pytest.mark.parametrize("contender", CONTENDERS)
@pytest.mark.parametrize("size", SIZES)
def test_optax_step(benchmark, size, contender):
    times, state_bytes = race(size)
    benchmark.group = f"optax: {size}"
    benchmark.extra_info.update(
        contender=contender,
        weights=SIZES[size],
        state_a_weight=round(state_bytes[contender] / SIZES[size], 2),
    )
    CLOCK.replay(benchmark, times[contender])
