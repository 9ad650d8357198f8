"""PROBEN1: the reader, the error measure, GL5, the rank test; on the real files where available."""

import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("scipy")
pytest.importorskip("torch")
pytest.importorskip("matplotlib")

from rprop_kernels.lab import proben1
from rprop_kernels.lab.errors import LabError
from rprop_kernels.lab.studies import report_f, stopping

DATA = Path(os.environ.get("RPROP_LAB_DATA", Path(__file__).parents[3] / "shared" / "data")) / "proben1"
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason=f"no PROBEN1 files in {DATA}")

SHAPES = {
    "cancer": (9, 2, 350, 175, 174, True), "card": (51, 2, 345, 173, 172, True),
    "diabetes": (8, 2, 384, 192, 192, True), "flare": (24, 3, 533, 267, 266, False),
    "glass": (9, 6, 107, 54, 53, True), "soybean": (82, 19, 342, 171, 170, True),
    "thyroid": (21, 3, 3600, 1800, 1800, True),
}  # fmt: skip
SMALL = """bool_in=1
real_in=1
bool_out=0
real_out=1
training_examples=2
validation_examples=1
test_examples=1
1 0.5 0.25
0 0.5 0.75
0 -1e-1 1
1 2 3
"""


@needs_data
@pytest.mark.parametrize("number", [1, 2, 3])
@pytest.mark.parametrize("name", SHAPES)
def test_real_files(name: str, number: int) -> None:
    problem = proben1.read(DATA / name / f"{name}{number}.dt")
    inputs, outputs, train, valid, test, classes = SHAPES[name]
    assert problem.name == f"{name}{number}" and problem.sizes == (inputs, outputs)
    for part, count in ((problem.train, train), (problem.valid, valid), (problem.test, test)):
        assert part[0].shape == (count, inputs) and part[1].shape == (count, outputs)
    assert problem.classification == classes


@needs_data
def test_the_files_of_a_problem_are_permutations() -> None:
    rows = []
    for number in (1, 2):
        problem = proben1.read(DATA / "glass" / f"glass{number}.dt")
        parts = (problem.train, problem.valid, problem.test)
        rows.append(sorted(np.concatenate([np.hstack(part) for part in parts]).tolist()))
    assert rows[0] == rows[1]
    thyroid = proben1.read(DATA / "thyroid" / "thyroid1.dt")
    labels = np.concatenate([thyroid.train[1], thyroid.valid[1], thyroid.test[1]])
    assert labels[:, 2].mean() == pytest.approx(0.926, abs=5e-4)


def test_small_file(tmp_path: Path) -> None:
    path = tmp_path / "small1.dt"
    path.write_text(SMALL + "\n")
    problem = proben1.read(path)
    assert problem.train[0].tolist() == [[1, 0.5], [0, 0.5]] and problem.train[1].tolist() == [[0.25], [0.75]]
    assert problem.valid[0].tolist() == [[0, -0.1]] and problem.test[1].tolist() == [[3]]
    assert not problem.classification


def test_header_in_any_order_and_unusual_spacing(tmp_path: Path) -> None:
    path = tmp_path / "small1.dt"
    path.write_text(SMALL)
    expected = proben1.read(path)
    header, rows = SMALL.splitlines()[:7], SMALL.splitlines()[7:]
    header = [line.replace("=", " = ") + "\t" for line in reversed(header)]
    rows = ["  " + row.replace(" ", " \t  ") for row in rows]
    path.write_bytes("\r\n".join(["", *header, "", *rows, "  ", ""]).encode())
    problem = proben1.read(path)
    for part in ("train", "valid", "test"):
        mine, theirs = getattr(problem, part), getattr(expected, part)
        assert np.array_equal(mine[0], theirs[0]) and np.array_equal(mine[1], theirs[1])
    assert problem.sizes == (2, 1)


def test_kind_of_problem(tmp_path: Path) -> None:
    path = tmp_path / "kind1.dt"
    parts = "training_examples=1\nvalidation_examples=1\ntest_examples=1\n"
    header = "bool_in=0\nreal_in=1\nbool_out={}\nreal_out=0\n" + parts
    for outputs, rows, classes in (
        (2, "0.1 1 0\n0.2 0 1\n0.3 1 0\n", True),
        (2, "0.1 1 1\n0.2 0 1\n0.3 1 0\n", False),
        (1, "0.1 1\n0.2 1\n0.3 1\n", False),
    ):
        path.write_text(header.format(outputs) + rows)
        assert proben1.read(path).classification == classes
    assert proben1.pivot("heartac3").hidden == (16, 8) and proben1.pivot("card2").hidden == (32,)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("bool_in=1", "bool_in=one", "line 1: one of bool_in=, .* and a number expected"),
        ("real_in=1\n", "", "does not announce real_in"),
        ("real_in=1", "reel_in=1", "line 2: one of"),
        ("real_in=1", "bool_in=1", "line 2: bool_in stands twice"),
        ("test_examples=1", "test_examples=0", "announces no test examples; at least one"),
        ("training_examples=2", "training_examples=3", r"announces 3 \+ 1 \+ 1 examples but holds 4"),
        ("0 0.5 0.75", "0 0.5", r"line 9: 2 numbers, 2 \+ 1"),
        ("0 0.5 0.75", "0 x 0.75", "line 9: could not convert.* fetch it again, or mend"),
        ("0 0.5 0.75", "0 nan 0.75", "line 9"),
        ("1 2 3\n", "", "but holds 3"),
        (SMALL, "", "does not announce bool_in, real_in"),
        (SMALL, "1 2 3\n", "does not announce bool_in"),
        (SMALL, "\u00e4", "not plain text"),
    ],
)
def test_damaged_files(tmp_path: Path, old: str, new: str, words: str) -> None:
    path = tmp_path / "bad1.dt"
    assert old in SMALL
    path.write_text(SMALL.replace(old, new))
    with pytest.raises(LabError, match=words):
        proben1.read(path)
    with pytest.raises(LabError, match="cannot be read"):
        proben1.read(tmp_path / "missing.dt")


def test_find(tmp_path: Path) -> None:
    (tmp_path / "gene").mkdir()
    path = tmp_path / "gene" / "gene1.dt"
    path.write_text(SMALL)
    assert proben1.find(tmp_path, ("gene1",)) == {"gene1": path}
    assert proben1.find(tmp_path / "nowhere", (str(path),)) == {"gene1": path}
    with pytest.raises(LabError, match=r"'gen1' .* There is: gene1"):
        proben1.find(tmp_path, ("gen1",))


def test_error_measure_and_networks() -> None:
    assert proben1.squared_error_percentage(0.0287, 1.0) == pytest.approx(2.87)
    part = (np.zeros((2, 1)), np.array([[-1.0], [2.0]]))
    assert proben1.Problem("", part, part, part, False, "").span == 3.0
    inside = (np.zeros((2, 1)), np.array([[0.25], [0.5]]))
    assert proben1.Problem("", inside, inside, inside, False, "").span == 1.0
    assert proben1.pivot("glass1").hidden == (16, 8) and proben1.pivot("glass1").test == 9.75
    assert proben1.pivot("card3").hidden == (32,) and math.isnan(proben1.pivot("card3").test)
    assert proben1.pivot("gene1").hidden == (16, 8)


def stops(criterion: Any, losses: list[tuple[float, float]]) -> int | None:
    """The epoch at which it stops, from 1."""
    for epoch, (train, valid) in enumerate(losses, 1):
        if criterion.stop(train, valid):
            return epoch
    return None


def test_generalization_loss() -> None:
    falling = [(1 / epoch, valid) for epoch, valid in enumerate([2, 1, 1.04, 1.05, 1.0501, 3], 1)]
    assert stops(stopping.GeneralizationLoss(), falling) == 5
    assert stops(stopping.GeneralizationLoss(), [(1.0, 1.0)] * 9) is None


def test_training_progress() -> None:
    assert stops(stopping.TrainingProgress(), [(1.0, math.nan)] * 9) == 5
    slow = [(1 - 5e-5 * epoch, 1.0) for epoch in range(9)]  # mean of a strip is 0.1 per mille over its least
    assert stops(stopping.TrainingProgress(0.0999), slow) is None
    assert stops(stopping.TrainingProgress(0.11), slow) == 5
    assert stops(stopping.TrainingProgress(0.11, strip=3), slow) == 3


def test_the_other_criteria() -> None:
    assert stops(stopping.EarlyStopping(3), [(2, 1), (1, 2), (1, 2), (2, 1), (1, 2), (1, 2), (1, 2)]) == 7
    assert stops(stopping.Patience(2), [(1, 3), (1, 2), (1, 2), (1, 1), (1, 2), (1, 1)]) == 6
    assert stops(stopping.Plateau(), [(2, 1)] + [(1 + 1e-4 * (i % 2), 1) for i in range(9)]) == 6
    assert stops(stopping.Plateau(), [(1 + 0.01 * (i % 2), 1) for i in range(30)]) is None


def test_ranks() -> None:
    rng = np.random.default_rng(0)
    table = np.stack([rng.normal(1, 0.1, 30), rng.normal(1, 0.1, 30), rng.normal(3, 0.1, 30)], 1)
    table[3, 2] = np.inf
    means, p, good = report_f.compare_ranks(table)
    assert means[2] == 3 and p < 1e-6 and good == [True, True, False]
    means, p, good = report_f.compare_ranks(np.ones((5, 3)))
    assert means.tolist() == [2, 2, 2] and math.isnan(p) and all(good)
    assert report_f.holm([0.04, 0.01, 0.03]) == pytest.approx([0.06, 0.03, 0.06])


def test_time_to_target() -> None:
    result = {"best": [5.0, -1.0, 2.0, 1.0], "seconds": 8.0}
    assert report_f.time_to_target(result, 2.0) == (3, 6.0)
    assert report_f.time_to_target(result, 0.5) is None


@needs_data
def test_runs() -> None:
    """Cross-checks on a real problem: torch's Rprop is iRprop-, scikit-learn's Adam is ours."""
    path = str(DATA / "glass" / "glass1.dt")
    results = {}
    for method in ("irprop-", "torch.optim.Rprop", "adam", "mlp", "lbfgs"):
        settings = {"problem": "glass1", "path": path, "method": method, "evaluations": 25, "seed": 3}
        results[method] = report_f._work_compare(settings, Path())
        assert len(results[method]["best"]) == 25 and results[method]["diverged_at"] is None
    assert len({result["best"][0] for result in results.values()}) == 1  # the same start
    assert results["irprop-"]["best"] == pytest.approx(results["torch.optim.Rprop"]["best"], rel=1e-9)
    assert results["adam"]["best"] == pytest.approx(results["mlp"]["best"], rel=1e-4)
    settings = {"problem": "glass1", "path": path, "optimizer": "rprop+", "epochs": 60, "seed": 0}
    table = report_f._work_table(settings, Path())
    assert table["train"] < 12 and table["valid"] < 12 and 0 < table["misclassified"] < 100
    assert table["epoch"] % report_f.STRIP == 0 and table["epochs"] <= 60


def test_methods_take_a_problem_with_one_output(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    rows = np.column_stack([rng.integers(0, 2, 40), rng.random((40, 2))])
    header = "bool_in=1\nreal_in=1\nbool_out=0\nreal_out=1\n"
    header += "training_examples=20\nvalidation_examples=10\ntest_examples=10\n"
    path = tmp_path / "one1.dt"
    path.write_text(header + "\n".join(" ".join(f"{value:g}" for value in row) for row in rows))
    best = {
        method: report_f._work_compare(
            {"problem": "one1", "path": str(path), "method": method, "evaluations": 15, "seed": 0}, tmp_path / "x"
        )["best"]
        for method in report_f.METHODS
    }
    assert best["adam"] == pytest.approx(best["mlp"], rel=1e-3)
    assert all(0 < errors[-1] < errors[0] for errors in best.values())
