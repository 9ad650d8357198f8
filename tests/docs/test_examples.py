"""The examples run, print their tables, and reach their claimed results."""

import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("scipy")
pytest.importorskip("sklearn")

from scipy.optimize import OptimizeResult

EXAMPLES = Path(__file__).parents[2] / "examples"
RULES = ("rprop-", "rprop+", "irprop-", "irprop+")


def example(name):
    """Return the functions of an example; loading it runs none of them."""
    return runpy.run_path(str(EXAMPLES / f"{name}.py"))


def numeric(loss, x, h=1e-6):
    """Compute central differences of a loss at an array, which changes temporarily."""
    gradient = np.zeros_like(x, dtype=float)
    for i in np.ndindex(x.shape):
        here = x[i]
        x[i] = here + h
        above = loss()
        x[i] = here - h
        gradient[i] = (above - loss()) / (2 * h)
        x[i] = here
    return gradient


def test_a_network_written_by_hand_learns_the_digits(capsys):
    module = example("network_digits")
    rows = module["main"](epochs=60)
    assert set(rows) == set(RULES)
    for loss, accuracy, _ in rows.values():
        assert loss < 0.01 and accuracy > 0.94
    printed = capsys.readouterr().out
    assert all(f"\n{rule} " in printed for rule in RULES)


def test_its_gradients_are_right():
    module = example("network_digits")
    x, y, *_ = module["digits"]()
    network = [array.astype(float) for array in module["new_network"](hidden=3)]
    _, gradients = module["loss_and_gradients"](network, x[:20], y[:20])
    for array, gradient in zip(network, gradients, strict=True):
        expected = numeric(lambda: module["loss_and_gradients"](network, x[:20], y[:20])[0], array)
        np.testing.assert_allclose(gradient, expected, atol=1e-8)


def test_bowl_and_valley_show_a_strength_and_a_weakness(capsys):
    rows = example("rosenbrock")["main"](target=1e-2)
    for rule in RULES:
        bowl, valley = rows[rule]
        assert bowl < 100 < valley
        assert 5 * bowl < min(rows["L-BFGS-B"][0], rows["CG"][0])
        assert 5 * rows["L-BFGS-B"][1] < valley
    assert "L-BFGS-B" in capsys.readouterr().out


def test_the_rates_of_an_ode_are_found(capsys):
    module = example("ode_fit")
    rows = module["main"](("irprop+", "L-BFGS-B"))
    ours, reference = rows["irprop+"], rows["L-BFGS-B"]
    assert ours.success and ours.fun == pytest.approx(reference.fun, rel=2e-4)
    np.testing.assert_allclose(ours.x, reference.x, atol=0.01)  # logarithms: one per cent
    np.testing.assert_allclose(np.exp(ours.x), module["TRUTH"], rtol=0.06)
    assert "0.9, 0.5, 0.3, 0.8" in capsys.readouterr().out


def test_its_sensitivities_are_right_and_a_failed_integration_has_an_infinite_loss():
    module = example("ode_fit")
    data, theta = module["counts"](), np.log([0.6, 0.6, 0.4, 0.6])
    _, gradient = module["loss_and_gradient"](theta, data)
    expected = numeric(lambda: module["loss_and_gradient"](theta, data)[0], theta, h=1e-3)
    np.testing.assert_allclose(gradient, expected, rtol=2e-3, atol=1e-2)
    module["populations"].__globals__["solve_ivp"] = lambda *args, **options: OptimizeResult(success=False)
    loss, gradient = module["loss_and_gradient"](theta, data)
    assert loss == np.inf and np.isnan(gradient).all()


def test_gaussian_processes_on_the_sunspots(capsys):
    module = example("gp_sunspots")
    if not module["FILE"].exists():
        pytest.skip(f"no {module['FILE']}; set RPROP_LAB_DATA to the folder that holds sunspots/")
    rows = module["main"](years=60, restarts=(0, 1))
    for rule in RULES:
        (alone, evaluations, *_), (restarted, more, _, model) = rows[rule, 0], rows[rule, 1]
        assert restarted >= alone and more > evaluations
        assert alone > model.log_marginal_likelihood(module["kernel"]().theta) + 1
        theta, (low, high) = model.kernel_.theta, model.kernel_.bounds.T
        assert (low <= theta).all() and (theta <= high).all()
        slope = model.log_marginal_likelihood(theta, eval_gradient=True)[1]
        held = ((theta == low) & (slope < 0)) | ((theta == high) & (slope > 0))
        assert (np.abs(slope[~held]) < 2e-3).all()  # one of several optima
    assert "log marginal likelihood" in capsys.readouterr().out


@pytest.fixture
def one_thread():
    """Tiny tensors of torch on one thread: others would only wait, for long where the machine is busy."""
    torch = pytest.importorskip("torch")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_a_thousand_curves_get_error_bars(one_thread, capsys, tmp_path):
    pytest.importorskip("matplotlib")
    picture = tmp_path / "curves.png"
    result, covered = example("torch_curve_fits")["main"](picture, count=300)
    assert result.success.all() and 0.63 < covered < 0.74  # 900 standard errors: 0.683 wanted, sd 0.016
    assert picture.stat().st_size > 10_000
    assert "300 fits" in capsys.readouterr().out


def test_starts_find_the_better_reading_of_few_data(one_thread, capsys):
    single, result = example("torch_gp_starts")["main"](starts=8)
    assert result.success and result.fun < single.fun - 1
    assert len(result.all.fun) == 8 and result.all.fun.min() == result.fun
    assert "optima found" in capsys.readouterr().out


def test_known_numbers_of_an_ode_stay_and_the_others_get_better(one_thread, capsys):
    module = example("torch_ode_frozen")
    free, known = module["main"](data_sets=10).values()
    truth = module["TRUTH"]
    assert (known.x[:, 3:] == truth[3:]).all() and not (free.x[:, 3:] == truth[3:]).any()
    assert (module["errors"](known)[:3] < 0.8 * module["errors"](free)[:3]).all()
    assert "hares, lynxes, d known" in capsys.readouterr().out


def test_lbfgs_wins_where_the_loss_is_smooth_and_rprop_in_a_batch(one_thread, capsys):
    rows = example("torch_pinn")["main"](evaluations=150)
    best = {key: course[-1] for key, (course, _) in rows.items()}
    for smooth in ("PINN", "network, squares"):
        assert 3 * best[smooth, "L-BFGS"] < best[smooth, "iRprop+"] < 1
    for other in ("network, absolute values", "1,000 curves"):
        assert 3 * best[other, "iRprop+"] < best[other, "L-BFGS"]
    assert "150 evaluations" in capsys.readouterr().out


def test_full_batch_training_in_one_line_and_in_pieces(one_thread, capsys):
    whole, pieces = example("torch_full_batch")["main"](max_steps=60).values()
    assert whole[1].fun < 0.3 and pieces[1].fun == pytest.approx(whole[1].fun, rel=1e-2)
    printed = capsys.readouterr()
    assert "in pieces" in printed.out and "60" in printed.err


@pytest.mark.clients
def test_pints_fits_the_growth_of_a_population(capsys):
    pytest.importorskip("pints", reason="pints is not installed: it comes with the extra pints")
    rows = example("pints_logistic")["main"]()
    assert len(rows) == 5
    for name, (x, loss, iterations) in rows.items():
        assert loss <= rows["pints iRprop-"][1] and iterations < 300, name
        np.testing.assert_allclose(x, [0.1, 50.0], rtol=0.02)
    assert "rprop_kernels iRprop+" in capsys.readouterr().out


def test_numba_searches_from_many_starts(capsys):
    pytest.importorskip("numba")
    module = example("numba_many_starts")
    x, losses = module["main"](count=3000)
    assert (np.abs(x) <= module["UPPER"]).all() and losses.min() < 1e-6
    best = x[losses.argmin()]
    np.testing.assert_allclose(best, 0, atol=1e-4)
    assert len(np.unique(np.round(losses, 3))) > 20
    assert module["rastrigin"](x[5], np.empty(3)) == losses[5]
    gradient = np.empty(3)
    point = np.array([0.3, -1.2, 4.0])
    module["rastrigin"](point, gradient)
    np.testing.assert_allclose(gradient, numeric(lambda: module["rastrigin"](point, np.empty(3)), point), atol=1e-5)
    assert "3000 starts" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        "network_digits",
        "rosenbrock",
        "ode_fit",
        "gp_sunspots",
        "torch_curve_fits",
        "torch_gp_starts",
        "torch_ode_frozen",
        "torch_pinn",
        "torch_full_batch",
        "pints_logistic",
        "numba_many_starts",
    ],
)
def test_each_runs_from_the_command_line(name):
    if name == "gp_sunspots" and not example(name)["FILE"].exists():
        pytest.skip("no data: set RPROP_LAB_DATA to the folder that holds sunspots/")
    pytest.importorskip(name.partition("_")[0] if name in ("pints_logistic", "numba_many_starts") else "numpy")
    command = [sys.executable, "-W", "error", EXAMPLES / f"{name}.py"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (done.stderr == "" or name == "torch_full_batch") and len(done.stdout.splitlines()) > 1
