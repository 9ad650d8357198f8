"""The studies: every one in its reduced form, resuming, bad input, saved weights, the report page."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

typer_testing = pytest.importorskip("typer.testing")
pytest.importorskip("torch")
pytest.importorskip("rich")
pytest.importorskip("matplotlib")
pytest.importorskip("sklearn")
pytest.importorskip("jinja2")

from rprop_kernels.lab import augment  # noqa: E402
from rprop_kernels.lab.cli import app  # noqa: E402
from rprop_kernels.lab.studies import base, fitting, run  # noqa: E402
from rprop_kernels.lab.studies.table import STUDIES  # noqa: E402

DATA = Path(os.environ.get("RPROP_LAB_DATA", Path(__file__).parents[2] / "shared" / "data"))
MAIN = [sys.executable, "-P", "-c", "from rprop_kernels.lab.cli import main; main()"]


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def lab(*arguments: object) -> Any:
    return typer_testing.CliRunner().invoke(app, [str(argument) for argument in arguments])


def plain(text: str) -> str:
    return " ".join(re.sub(r"\x1b\[[0-9;]*m", "", text).split())


def quick(name: str, *arguments: object) -> Any:
    return lab("study", name, "--quick", "--jobs", 1, *arguments)


def test_list_shows_every_study_and_its_duration() -> None:
    listed = lab("study", "--list")
    assert listed.exit_code == 0
    for study in STUDIES.values():
        assert study.name in listed.output and study.minutes > 0 and len(study.line) > 10
    assert plain(lab("study").output) == plain(listed.output)
    assert {name[0] for name in STUDIES} == set("bcdef")


@pytest.mark.parametrize("name", list(STUDIES))
def test_every_study(name: str) -> None:
    data: list[object] = []
    if STUDIES[name].needs == "proben1":
        if not (DATA / "proben1").is_dir():
            pytest.skip(f"no PROBEN1 files in {DATA}")
        data = ["--data-dir", DATA]
    done = quick(name, "--epochs", 3, "--seeds", 1, *data)
    assert done.exit_code == 0, done.output
    folder = Path(f"runs/study-{name}-quick")
    results = json.loads((folder / "results.json").read_text())
    assert results["study"] == name and results["environment"]["versions"] and results["settings"]
    assert "Reduced (--quick)" in plain(done.output)
    assert results["pictures"] and len(results["statements"]) >= 2
    for picture in results["pictures"]:
        assert (folder / picture).read_bytes().startswith(b"\x89PNG")
    for table in results["tables"]:
        assert table["rows"] and all(len(row) == len(table["heading"]) for row in table["rows"])
        rows = (folder / f"{run.slug(table['title'])}.csv").read_text().splitlines()
        assert len(rows) == len(table["rows"]) + 1
        assert table["title"] in (folder / "table.md").read_text()
    labels = [row[0] for table in results["tables"] for row in [*table["rows"], table["heading"]]]
    text = " ".join(labels) + " ".join(results["tables"][0]["heading"])
    assert name == "d-activations" or "iRprop+" in text  # the family stands beside the report's methods


def test_finished_runs_are_not_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    work = fitting.fit

    def counted(settings: base.Settings, path: Path) -> base.Result:
        done.append(path.name)
        return work(settings, path)

    monkeypatch.setattr(fitting, "fit", counted)
    assert quick("e-grid", "--epochs", 2, "--seeds", 1).exit_code == 0
    first, folder = len(done), Path("runs/study-e-grid-quick")
    assert first == 6 and len(list((folder / "runs").iterdir())) == 6
    page = (folder / "table.md").read_text()
    files = sorted((folder / "runs").iterdir())
    files[0].unlink()
    files[1].write_text(files[1].read_text()[:100])  # cut short
    (folder / "table.md").unlink()
    assert quick("e-grid", "--epochs", 2, "--seeds", 1).exit_code == 0
    assert sorted(done[first:]) == sorted(path.name for path in files[:2])
    assert (folder / "table.md").read_text() == page
    assert quick("e-grid", "--epochs", 3, "--seeds", 1).exit_code == 0  # other settings are other runs
    assert len(done) == first + 2 + 6


def test_identity() -> None:
    study = STUDIES["b-optimizers"]
    settings = {"data": "digits", "data_dir": "here", "crc32": "0", "lr": 0.1}
    same = run.identity(study, settings | {"data_dir": "there"})
    assert run.identity(study, settings) == same
    assert run.identity(study, settings | {"crc32": "1"}) != same
    assert run.identity(STUDIES["b-architectures"], settings) != same


def test_interrupted_then_continued() -> None:
    """Ctrl-C in the terminal reaches all processes; what is finished is kept."""
    command = [*MAIN, "study", "d-grid", "--quick", "--jobs", "2", "--epochs", "250"]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
        env=environment,
    )  # fmt: skip
    runs = Path("runs/study-d-grid-quick/runs")
    try:
        deadline = time.monotonic() + 60
        while len(list(runs.glob("*.json"))) < 2 and time.monotonic() < deadline:
            assert process.poll() is None, process.communicate()
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 130, errors
    kept = len(list(runs.glob("*.json")))
    assert 2 <= kept < 14
    assert f"interrupted: {kept} of 14 runs are kept" in plain(errors)
    for path in runs.glob("*.json"):
        assert run.stored(path) is not None
    assert not Path("runs/study-d-grid-quick/results.json").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("b-optimiser",), "There is no study 'b-optimiser'. Did you mean 'b-optimizers'?"),
        (("b-optimizers", "--data", "nowhere.csv"), "nowhere.csv cannot be read"),
        (("b-optimizers", "--data", "mnst"), "There is no data set 'mnst'"),
        (("b-optimizers", "--data-dir", "."), "has no MNIST files"),
        (("f-table", "--data-dir", "."), "No PROBEN1 problem 'cancer1'"),
        (("f-table", "--problem", "nothing.dt"), "No PROBEN1 problem"),
        (("d-runge", "--out", "a_file"), "a_file is not a folder"),
    ],
)
def test_bad_input_is_found_before_training(arguments: tuple[str, ...], words: str) -> None:
    Path("a_file").write_text("")
    failed = lab("study", *arguments)
    assert failed.exit_code == 2 and words in plain(failed.output), failed.output
    assert list(Path().iterdir()) == [Path("a_file")]


def test_divergence_is_reported() -> None:
    settings = {"data": "franke", "hidden": [128], "optimizer": "sgd", "lr": 1e3, "batch": 10, "epochs": 20}
    result = fitting.fit(settings, Path("x.json"))
    assert 1 <= result["diverged_at"] == result["epochs"] < 20 and np.isnan(result["test_loss"])
    assert base.diverged([(settings, result)]) == f"diverged at epoch {result['diverged_at']}"
    assert base.diverged([(settings, result), (settings, {})]).startswith("1 of 2 diverged")
    assert base.with_spread([None, float("nan"), 1.0]) == "1.0000" and base.with_spread([]) == "-"


def test_weights_are_tested_on_a_csv() -> None:
    assert quick("d-mnist", "--epochs", 20).exit_code == 0
    folder = Path("runs/study-d-mnist-quick")
    record = next(
        found for path in (folder / "runs").glob("*.json")
        if (found := json.loads(path.read_text()))["settings"]["optimizer"] == "irprop+"
    )
    weights = folder / "runs" / record["result"]["weights"]
    dataset = fitting.image_set("digits", None)
    rows = np.column_stack([dataset.test_labels, dataset.test_images]).astype(int)
    np.savetxt("digits.csv", rows, "%d", delimiter=",")
    tested = lab("classify", weights, "--data", "digits.csv", "--out", "here")
    assert tested.exit_code == 0, tested.output
    right = round(record["result"]["test_score"] * len(rows))
    assert f"({right} of {len(rows)})" in plain(tested.output) and right > 0.5 * len(rows)
    assert Path("here/confusion.png").exists()
    assert sum(map(sum, record["result"]["confusion"])) == len(rows)
    np.savetxt("small.csv", np.ones((30, 5)), "%d", delimiter=",")
    np.savetxt("wide.csv", 2 * np.ones((30, 5)), "%d", delimiter=",")
    for wrong, words in (("wide.csv", "64 pixels, but wide.csv has 4"), ("missing.csv", "cannot be read")):
        failed = lab("classify", weights, "--data", wrong)
        assert failed.exit_code == 2 and words in plain(failed.output), failed.output
    failed = lab("classify", "digits.csv", "--data", "digits.csv")
    assert failed.exit_code == 2 and "holds no network" in plain(failed.output)


def test_report() -> None:
    failed = lab("report")
    assert failed.exit_code == 2 and "runs is not a folder" in plain(failed.output)
    Path("runs/odd").mkdir(parents=True)
    Path("runs/odd/results.json").write_text("[]")
    failed = lab("report")
    assert failed.exit_code == 2 and "no finished study" in plain(failed.output)
    assert quick("d-activations").exit_code == 0
    assert lab("compare", "--epochs", 1, "--seeds", 1).exit_code == 0
    written = lab("report")
    assert written.exit_code == 0 and "2 studies" in written.output
    page = Path("runs/report.html").read_text()
    assert page.count("data:image/png;base64,") == 4 and page.count("<section") == 2
    assert "leaky_relu" in page and "torch.optim.Rprop" in page and "numpy" in page
    assert "http" not in page.replace("https://", "http://").split("<nav")[0]  # works offline


def test_franke_and_runge() -> None:
    one = np.zeros(1)
    assert fitting.franke_function(one, one)[0] == pytest.approx(0.7664205912849231)
    data = fitting.split({"data": "franke", "seed": 1})
    assert data.x.shape == (750, 2) and data.test[0].shape == (250, 2)
    assert abs(data.x.mean(0)).max() < 1e-6 and abs(data.y.mean()) < 1e-6 < abs(data.test[1].mean())
    assert fitting.split({"data": "franke", "degree": 14}).x.shape == (750, 224)
    data = fitting.split({"data": "runge", "noise": 0.0})
    x, y = np.concatenate([data.x, data.test[0]]), np.concatenate([data.y, data.test[1]])
    assert len(x) == 1000 and x.std() == pytest.approx(1, rel=1e-5) and y.std() == pytest.approx(1, rel=1e-5)
    assert abs(x[y.argmax()]) < 0.01


def test_images_are_held_out_once() -> None:
    settings = fitting.DEFAULTS | {"data": "digits", "validation": 0.25, "seed": 3}
    data = fitting.images(settings)
    dataset = fitting.image_set("digits", None)
    assert len(data.valid[1]) == len(dataset.learn_labels) // 4
    assert len(data.x) + len(data.valid[0]) == len(dataset.learn_images)
    together = np.concatenate([data.x, data.valid[0]])
    whole = sorted((dataset.learn_images / 16).sum(1).tolist())
    assert sorted(together.sum(1).tolist()) == pytest.approx(whole)
    assert data.x.min() == 0 and data.x.max() == 1
    assert len(fitting.images(settings | {"augment": True}).x) == 5 * len(data.x)


def test_augmentation() -> None:
    image = np.zeros((28, 28), np.float32)
    image[8:20, 12:16] = 1
    rng = np.random.default_rng(0)
    grid = np.indices(image.shape)
    for name, change in augment.CHANGES.items():
        before = image.copy() if name != "black squares" else np.ones_like(image)
        given = before.copy()
        made = change(given, rng)
        assert np.array_equal(given, before) and made.shape == image.shape
        assert not np.array_equal(made, given)
        assert made.min() >= -1e-6 and made.max() <= 1 + 1e-6, name
        if name != "black squares":  # the middle of the picture stays where it is
            centre = (grid * made).sum((1, 2)) / made.sum()
            assert centre == pytest.approx([13.5, 13.5], abs=0.35), name
    images, labels = augment.augmented(image.reshape(1, -1).repeat(3, 0), np.array([1, 2, 3]), 5)
    assert images.shape == (15, 784) and labels.tolist() == [1, 2, 3] * 5 and images.dtype == np.float32
    again, _ = augment.augmented(image.reshape(1, -1).repeat(3, 0), np.array([1, 2, 3]), 5)
    assert np.array_equal(images, again)
    with pytest.raises(ValueError, match="no square"):
        augment.augmented(np.zeros((2, 10)), np.zeros(2), 0)
