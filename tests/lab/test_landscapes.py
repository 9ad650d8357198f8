"""Landscapes, and the paths that optimizers take on them."""

import runpy
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("matplotlib")

from rprop_kernels.lab.landscapes import LANDSCAPES, RACERS, SOLVED, find_trail  # noqa: E402
from rprop_kernels.torch import IRpropPlus  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("name", LANDSCAPES)
def test_the_minimum_is_zero_and_the_start_is_on_the_map(name: str) -> None:
    landscape = LANDSCAPES[name]
    x, y, loss = landscape.grid(101)
    assert loss.shape == (len(y), len(x)) and loss.min() >= 0
    assert landscape.function(*torch.tensor(landscape.minimum, dtype=torch.float64)) == 0
    for low, at, high in zip(landscape.lower, landscape.start, landscape.upper, strict=True):
        assert low < at < high
    assert loss.max() > landscape.levels[-1] > landscape.levels[0] > 0


def test_a_path_has_the_bits_of_a_loop_by_hand() -> None:
    landscape = LANDSCAPES["bowl"]
    trail = find_trail(landscape, RACERS["irprop+"], limit=60)
    w = torch.tensor(landscape.start, dtype=torch.float64, requires_grad=True)
    optimizer = IRpropPlus([w], 0.1)
    steps = torch.full((2,), 0.1, dtype=torch.float64)
    for k in range(60):
        optimizer.zero_grad()
        loss = landscape.function(w[0], w[1])
        loss.backward()
        assert trail.points[k].tolist() == w.tolist() and trail.losses[k] == loss.item()
        assert trail.steps[k].tolist() == steps.tolist() and trail.evaluations[k] == k + 1
        optimizer.step(loss=loss.detach())
        steps = optimizer.signs_and_steps(w)[1]
    assert len(trail.losses) == 60


@pytest.mark.parametrize("name", RACERS)
def test_evaluations_are_counted_and_limited(name: str) -> None:
    landscape = LANDSCAPES["rosenbrock"]
    trail = find_trail(landscape, RACERS[name], limit=30)
    assert trail.evaluations[0] == 1 and (np.diff(trail.evaluations) > 0).all() and trail.evaluations[-1] <= 30
    assert trail.points[0].tolist() == list(landscape.start) and trail.solved is None
    moves = np.abs(np.diff(trail.points, axis=0))
    if not RACERS[name].is_rprop:
        assert np.isnan(trail.steps[0]).all() and (trail.steps[1:] == moves).all()


def test_lbfgs_is_not_crippled_by_single_iterations() -> None:
    landscape = LANDSCAPES["rosenbrock"]
    w = torch.tensor(landscape.start, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([w], 1.0, max_iter=100, line_search_fn="strong_wolfe")
    calls = 0

    def closure() -> torch.Tensor:
        nonlocal calls
        calls += 1
        optimizer.zero_grad()
        loss = landscape.function(w[0], w[1])
        loss.backward()
        return loss.detach()

    optimizer.step(closure)
    assert landscape.function(w[0], w[1]) < SOLVED
    assert find_trail(landscape, RACERS["lbfgs"]).solved <= calls


def test_a_path_ends_where_it_diverges() -> None:
    trail = find_trail(LANDSCAPES["rosenbrock"], RACERS["sgd"], rate=1.0)
    assert 1 <= len(trail.losses) < 100 and np.isfinite(trail.losses).all() and trail.solved is None


def test_learning_rates_on_file_are_the_best_of_the_grid() -> None:
    tool = runpy.run_path(str(ROOT / "tools" / "landscapes.py"))
    for racer, rate in LANDSCAPES["bowl"].rates.items():  # of one: the search takes seconds
        assert tool["search_rate"](LANDSCAPES["bowl"], RACERS[racer]) == pytest.approx(rate)
