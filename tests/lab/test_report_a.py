"""Report A: statements on the techniques follow from measurements, shown with manipulated optimizers."""

import math
from copy import deepcopy
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("matplotlib")
pytest.importorskip("sklearn")

from rprop_kernels.lab import config, datasets, figures, training  # noqa: E402
from rprop_kernels.lab.optimizers import DROP_IN, PEER, TECHNIQUES, Technique, find  # noqa: E402
from rprop_kernels.lab.studies import report_a  # noqa: E402


@pytest.fixture(scope="module")
def digits() -> datasets.Dataset:
    return datasets.load("digits")


@pytest.fixture(scope="module")
def small(digits: datasets.Dataset) -> tuple[config.Config, training.Labelled, training.Labelled]:
    values = {
        "train_set_size": 200,
        "eval_set_size": 50,
        "epochs": 4,
        "hidden_units": 8,
        "learning_rate": 0.01,
    }
    return config.from_mapping(values).for_data(digits), *training.tensors(digits)


def make(optimizer: Any, name: str = DROP_IN) -> Technique:
    return replace(find(name), make=optimizer)


def run(small: Any, *techniques: Technique) -> dict[str, Any]:
    settings, learn, test = small
    return report_a.run_seed(0, learn, test, settings, techniques)


class Honest(torch.optim.Rprop):
    pass


class OneBit(torch.optim.Rprop):
    """Right but for the last bit of one number of the state."""

    def step(self, closure: Any = None) -> Any:
        super().step(closure)
        state = self.state[self.param_groups[0]["params"][2]]
        if state["step"] == 4:
            state["prev"].view(torch.int32)[0, 0] ^= 1


class OneWeight(torch.optim.Rprop):
    def step(self, closure: Any = None) -> Any:
        super().step(closure)
        with torch.no_grad():
            self.param_groups[0]["params"][1][0] = -0.0


class Forgetful(torch.optim.Rprop):
    """Keeps less state than torch."""

    def step(self, closure: Any = None) -> Any:
        super().step(closure)
        state = self.state[self.param_groups[0]["params"][0]]
        if state["step"] == 4:
            del state["prev"]


class Noisy(torch.optim.Rprop):
    def step(self, closure: Any = None) -> Any:
        for parameter in self.param_groups[0]["params"]:
            parameter.grad += torch.randn_like(parameter)
        super().step(closure)


def compare_two(small: Any, *techniques: Technique) -> tuple[dict[str, Any], str]:
    result = run(small, *techniques)
    settings = {"is_mnist": False, "data": "x", "where": "x", "train_batch_size": 1, "train_set_size": 1}
    comparison = report_a.Comparison(settings, [result])
    return result["drop_in"], " ".join(report_a.statements(comparison))


def test_equal_bits_are_reported_as_equal(small: Any) -> None:
    bits, text = compare_two(small, make(Honest), find(PEER))
    assert bits["differences"] == [] and (bits["parameters"], bits["states"]) == (4, 12)
    assert "are the same bits as torch.optim.Rprop's" in text


@pytest.mark.parametrize(
    ("doctored", "where"),
    [
        (OneBit, "state 'prev' of 2.weight"),
        (OneWeight, "parameter 0.bias"),
        (Forgetful, "state 'prev' of 0.weight"),
    ],
)
def test_one_wrong_bit_is_detected(small: Any, doctored: Any, where: str) -> None:
    bits, text = compare_two(small, make(doctored), find(PEER))
    assert where in bits["differences"] and bits["torch_repeats_itself"] is True
    assert "NOT the same bits" in text and where in text and "That is a bug" in text
    assert "are the same bits as" not in text


def test_irreproducible_gradients_are_distinguished_from_a_wrong_optimizer(small: Any) -> None:
    bits, text = compare_two(small, make(Honest), make(Noisy, PEER))
    assert bits["torch_repeats_itself"] is False
    assert "NOT the same bits" in text and "says nothing about the optimizers" in text


def test_all_techniques_share_initial_weights_and_data(small: Any) -> None:
    """So that the first epoch, before any step, has the same loss; and iRprop- is torch's rule."""
    result = run(small, *TECHNIQUES)
    histories = {name: record["history"] for name, record in result["runs"].items()}
    assert len({history["train_loss"][0] for history in histories.values()}) == 1
    assert histories["irprop-"]["eval_loss"] == histories[PEER]["eval_loss"] == histories[DROP_IN]["eval_loss"]
    assert result["drop_in"]["differences"] == []
    for record in result["runs"].values():
        assert record["steps"] == 4 and record["step_seconds"] > 0
        best = int(np.argmin(record["history"]["eval_loss"]))
        assert record["best_epoch"] == best + 1
        assert record["eval_accuracy"] == record["history"]["eval_accuracy"][best]


def test_mini_batches_have_the_same_order_for_all_techniques(small: Any) -> None:
    settings, learn, test = small
    settings = settings.model_copy(update={"train_batch_size": 60, "eval_batch_size": 20})
    result = report_a.run_seed(0, learn, test, settings, [make(Honest), find(PEER)])
    assert result["drop_in"]["differences"] == []
    assert result["runs"][PEER]["steps"] == 4 * 4


def test_holdout_is_disjoint_and_by_the_seed(small: Any) -> None:
    settings, learn, _ = small
    numbered = learn[0], torch.arange(len(learn[1]))
    (_, train), (_, held_out) = training.hold_out(numbered, settings, 1)
    assert len(train) == 200 and len(held_out) == 50 and not set(train.tolist()) & set(held_out.tolist())
    assert torch.equal(train, training.hold_out(numbered, settings, 1)[0][1])
    assert not torch.equal(train, training.hold_out(numbered, settings, 2)[0][1])


def test_evaluation_in_batches_is_the_mean_over_all_images(small: Any) -> None:
    _, _, test = small
    network = training.build(64, [8], 10, 0)
    whole = training.evaluate(network, test, "cross_entropy", len(test[1]))
    assert training.evaluate(network, test, "cross_entropy", 7) == pytest.approx(whole)


def test_test_figures_belong_to_the_model_of_lowest_evaluation_loss(small: Any) -> None:
    settings, learn, test = small
    train, held_out = training.hold_out(learn, settings, 0)

    class WorseLater(torch.optim.Rprop):
        def step(self, closure: Any = None) -> Any:
            super().step(closure)
            if self.state[self.param_groups[0]["params"][0]]["step"] == 3:
                with torch.no_grad():
                    self.param_groups[0]["params"][0].normal_()

    run = training.Run(make(WorseLater), train, held_out, settings, 0)
    assert [run.epoch() for _ in range(4)][:3] == [True, True, False] and run.best_epoch == 2
    expected = training.Run(make(Honest), train, held_out, settings, 0)
    for _ in range(2):
        expected.epoch()
    assert run.test(test) == expected.test(test)
    assert run.test(test) != training.evaluate(run.network, test, "cross_entropy", 360)


class Diverging(torch.optim.Rprop):
    def step(self, closure: Any = None) -> Any:
        with torch.no_grad():
            self.param_groups[0]["params"][0].fill_(math.nan)


@pytest.fixture(scope="module")
def results(small: Any) -> list[dict[str, Any]]:
    return [report_a.run_seed(seed, small[1], small[2], small[0]) for seed in (0, 1)]


@pytest.fixture
def comparison(small: Any, results: list[dict[str, Any]]) -> report_a.Comparison:
    settings = small[0].as_dict() | {"is_mnist": False, "where": "scikit-learn's digits"}
    return report_a.Comparison(settings, deepcopy(results))


def test_summary(comparison: report_a.Comparison) -> None:
    assert [len(seed["runs"][PEER]["history"]["eval_loss"]) for seed in comparison.seeds] == [4, 4]
    rows = {row["technique"]: row for row in comparison.summary()}
    accuracies = [seed["runs"]["rprop-"]["test_accuracy"] for seed in comparison.seeds]
    assert rows["rprop-"]["test_accuracy_mean"] == pytest.approx(np.mean(accuracies))
    assert rows["rprop-"]["test_accuracy_std"] == pytest.approx(np.std(accuracies, ddof=1))
    assert rows[PEER]["step_time_ratio_to_torch"] == 1 and rows["rprop-"]["report_test_accuracy"] is None
    assert any("no figures for this data" in text for text in report_a.statements(comparison))


def test_reported_figures_are_shown_for_mnist(comparison: report_a.Comparison) -> None:
    comparison.settings["is_mnist"] = True
    heading, rows = report_a.table(comparison)
    assert heading[4:6] == ["report", "diff."]
    assert {row[0]: row[4] for row in rows}["Rprop+"] == "0.9478"
    assert "all but Rprop-, Rprop+" not in " ".join(report_a.statements(comparison))  # other settings: not compared
    theirs = report_a.REPORT_SETTINGS.as_dict()
    comparison.settings.update({key: theirs[key] for key in comparison.settings.keys() & theirs.keys()})
    assert "Table 3.1: all but Rprop-, Rprop+" in " ".join(report_a.statements(comparison))
    for seed in comparison.seeds:
        for name, record in seed["runs"].items():
            record["test_accuracy"] = report_a.REPORT[name].test_accuracy + 0.009
    assert "Table 3.1: all." in " ".join(report_a.statements(comparison))


def test_times_on_a_busy_machine_are_flagged(comparison: report_a.Comparison) -> None:
    for seed in comparison.seeds:
        seed["runs"][PEER] |= {"step_seconds": 2e-3, "fastest_step_seconds": 1e-3}
    assert "NOT to be trusted" not in " ".join(report_a.statements(comparison))
    for seed in comparison.seeds:
        seed["runs"][PEER]["step_seconds"] = 4e-3
    assert "NOT to be trusted" in " ".join(report_a.statements(comparison))
    rows = {row[0]: row for row in report_a.table(comparison)[1]}
    assert rows["torch.optim.Rprop"][-2:] == ["4000", "1.000"]


def test_a_diverging_training_is_reported_and_not_fatal(comparison: report_a.Comparison, small: Any) -> None:
    techniques = [make(Diverging, "rprop-"), find(PEER)]
    result = report_a.run_seed(0, small[1], small[2], small[0], techniques)
    page = report_a.page([(comparison.settings, result)])
    assert page.tables[0].rows[0][1:3] == ["-", "-"] and set(page.figures) == {"curves.png", "summary.png"}
    assert result["runs"]["rprop-"]["best_epoch"] == 0


def test_curves_differ_in_more_than_colour() -> None:
    styles = [(str(style.dashes), style.width) for style in figures.STYLES.values()]
    assert len(set(styles)) == len(styles)
    assert len({style.colour for style in figures.STYLES.values()}) == len(styles)
    assert set(figures.STYLES) == {technique.name for technique in TECHNIQUES}


def test_plotting_does_not_change_global_matplotlib_state(comparison: report_a.Comparison) -> None:
    import matplotlib

    before = dict(matplotlib.rcParams)
    figure = report_a.comparison_curves(comparison)
    assert dict(matplotlib.rcParams) == before
    assert [axis.get_title() for axis in figure.axes] == list(figures.LEARNING.values())
    assert all(axis.get_ylabel() for axis in figure.axes) and figure.legends
