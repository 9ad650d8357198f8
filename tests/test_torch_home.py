"""At home in PyTorch: every dtype, stride and kind of gradient, bit for bit as torch.optim.Rprop."""

from typing import Any

import pytest

torch = pytest.importorskip("torch")

from bits import same, state_of, trial  # noqa: E402

import rprop_kernels.torch as ours  # noqa: E402


def agree(seeds: range, **kwargs: Any) -> int:
    steps = 0
    for seed in seeds:
        for mine, theirs, note in trial(seed, lambda *a, **k: ours.Rprop(*a, **k, **kwargs), torch.optim.Rprop):
            for a, b in zip(mine.param_groups, theirs.param_groups, strict=True):
                assert same(a["params"], b["params"]), note
            assert same(state_of(mine), state_of(theirs)), note
            steps += 1
    return steps


def test_thousands_of_random_steps() -> None:
    assert agree(range(420)) > 2_000


@pytest.mark.slow
def test_a_hundred_thousand_random_steps() -> None:
    assert agree(range(1_000, 20_000)) > 100_000


@pytest.mark.parametrize("backend", ["numba", "torch"])
def test_other_backends(backend: str) -> None:
    assert agree(range(500_000, 500_060), backend=backend) > 250
