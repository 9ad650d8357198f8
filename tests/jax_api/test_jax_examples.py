"""The examples for JAX run, print their tables, and reach their claimed results."""

import runpy
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("jax", reason="jax is not installed: it comes with the extra optax")
pytest.importorskip("optax", reason="optax is not installed: it comes with the extra optax")

EXAMPLES = Path(__file__).parents[2] / "examples"


def example(name):
    """Return the functions of an example; loading it runs none of them."""
    return runpy.run_path(str(EXAMPLES / f"{name}.py"))


def test_a_curve_is_fitted_in_one_loop(capsys):
    module = example("jax_curve_fit")
    params, losses = module["main"]()
    assert losses[-1] < module["loss_function"](module["TRUTH"], module["measurements"]())
    assert losses.shape == (300,) and np.isclose(losses[-1], losses[-50], rtol=1e-3)
    for name, truth in module["TRUTH"].items():
        np.testing.assert_allclose(params[name], truth, atol=0.05)
    assert "at the true parameters" in capsys.readouterr().out


def test_a_thousand_curves_are_fitted_at_once(capsys):
    module = example("jax_many_fits")
    params, losses, at_truth = module["main"]()
    assert params.shape == (1000, 3) and (losses <= 1.001 * at_truth).all()
    assert (params >= module["LOWER"]).all() and (params <= module["UPPER"]).all()
    assert "1000 fits" in capsys.readouterr().out


def test_a_network_of_equinox_learns_two_spirals(capsys):
    pytest.importorskip("equinox", reason="equinox is not installed: it comes with the extra clients")
    module = example("jax_equinox")
    ((loss, accuracy),) = module["main"](("irprop+",)).values()
    assert loss < 1e-6 and accuracy == 1.0
    assert "irprop+" in capsys.readouterr().out
