"""The studies: every one in its reduced form, resuming, bad input, saved weights, the report page."""

import json
import os
import re
import signal
import struct
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

from rprop_kernels.lab import datasets, figures  # noqa: E402
from rprop_kernels.lab.cli import app  # noqa: E402
from rprop_kernels.lab.studies import augmentation, fitting, html, plan, report_c, runner  # noqa: E402
from rprop_kernels.lab.studies.registry import STUDIES  # noqa: E402

DATA = Path(os.environ.get("RPROP_LAB_DATA", Path(__file__).parents[3] / "shared" / "data"))
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
    assert {name[0] for name in STUDIES} == set("abcdef")


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
        rows = (folder / f"{runner.slug(table['title'])}.csv").read_text().splitlines()
        assert len(rows) == len(table["rows"]) + 1
    for grid in ("grid.png", "mse.png", "r2.png", "ranks.png", "confusion.png"):
        assert (grid not in results["pictures"]) or len((folder / grid).with_suffix(".csv").read_text()) > 50
        assert table["title"] in (folder / "table.md").read_text()
    labels = [row[0] for table in results["tables"] for row in [*table["rows"], table["heading"]]]
    text = " ".join(labels) + " ".join(results["tables"][0]["heading"])
    assert name == "d-activations" or "iRprop+" in text  # the family stands beside the report's methods


def test_finished_runs_are_not_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    work = fitting.fit

    def counted(settings: plan.Settings, path: Path) -> plan.Result:
        done.append(path.name)
        return work(settings, path)

    monkeypatch.setattr(fitting, "fit", counted)
    assert quick("e-grid", "--epochs", 2, "--seeds", 1).exit_code == 0
    first, folder = len(done), Path("runs/study-e-grid-quick")
    files = sorted((folder / "runs").glob("*.json"))
    assert first == len(files) == 6
    page = (folder / "table.md").read_text()
    files[0].unlink()
    files[1].write_text(files[1].read_text()[:100])  # cut short
    (folder / "table.md").unlink()
    assert quick("e-grid", "--epochs", 2, "--seeds", 1).exit_code == 0
    assert sorted(done[first:]) == sorted(path.name for path in files[:2])
    assert (folder / "table.md").read_text() == page
    assert quick("e-grid", "--epochs", 3, "--seeds", 1, "--force").exit_code == 0  # other settings are other runs
    assert len(done) == first + 2 + 6


def test_identity() -> None:
    study = STUDIES["b-optimizers"]
    settings = {"data": "digits", "data_dir": "here", "crc32": "0", "lr": 0.1}
    same = runner.identity(study, settings | {"data_dir": "there"})
    assert runner.identity(study, settings) == same
    assert runner.identity(study, settings | {"crc32": "1"}) != same
    assert runner.identity(STUDIES["b-architectures"], settings) != same


def test_interrupted_then_continued() -> None:
    """Ctrl-C in the terminal reaches all processes; what is finished is kept."""
    command = [*MAIN, "study", "d-grid", "--quick", "--jobs", "2", "--epochs", "250"]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
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
        assert runner.stored(path) is not None
    assert not Path("runs/study-d-grid-quick/results.json").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("b-optimiser",), "There is no study 'b-optimiser'. Did you mean 'b-optimizers'?"),
        (("b-optimizers", "--data", "nowhere.csv"), "nowhere.csv cannot be read"),
        (("b-optimizers", "--data", "mnst"), "There is no data set 'mnst'"),
        (("b-optimizers", "--data-dir", "."), "has no MNIST files"),
        (("f-table", "--data-dir", "."), "No PROBEN1 problem 'cancer1'"),
        (("f-table", "--quick"), "f-table --quick --data-dir FOLDER, the folder with its .dt files"),
        (("f-table", "--problem", "nothing.dt"), "There is no file nothing.dt"),
        (("f-table", "--data", "mnist"), "f-table works on PROBEN1's problems and takes no --data. Leave it out."),
        (("b-optimizers", "--problem", "glass1"), "b-optimizers works on images and takes no --problem"),
        (("d-grid", "--data-dir", "."), "d-grid works on data that it makes itself and takes no --data-dir"),
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
    assert plan.diverged([(settings, result)]) == f"diverged at epoch {result['diverged_at']}"
    assert plan.diverged([(settings, result), (settings, {})]).startswith("1 of 2 diverged")
    assert plan.with_spread([None, float("nan"), 1.0]) == "1.0000" and plan.with_spread([]) == "-"


def test_weights_are_tested_on_a_csv() -> None:
    assert quick("d-mnist", "--epochs", 20).exit_code == 0
    folder = Path("runs/study-d-mnist-quick")
    record = next(
        found
        for path in (folder / "runs").glob("*.json")
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
    assert failed.exit_code == 2 and "is not a model of rprop-lab" in plain(failed.output)


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


def test_report_states_the_extent_of_runs_and_unfinished_studies() -> None:
    rows = np.column_stack([np.arange(60) % 3, np.random.default_rng(0).integers(0, 256, (60, 25))])
    Path("sub").mkdir()
    np.savetxt("sub/three.csv", rows, "%d", delimiter=",")
    Path("config.json").write_text('{"hidden_units": 5, "epochs": 2}')
    data = ("--data", "csv", "--data-dir", "sub/three.csv", "--seeds", 1)
    compared = lab("compare", "config.json", *data)
    assert compared.exit_code == 0, compared.output
    assert quick("b-optimizers", *data, "--epochs", 1).exit_code == 0
    Path("runs/study-e-grid/runs").mkdir(parents=True)
    Path("runs/study-e-grid/runs/0.json").write_text("{}")
    written = lab("report")
    assert written.exit_code == 0 and "not finished: study-e-grid: 1 run so far" in plain(written.output)
    assert lab("report", "--markdown", "page.md").exit_code == 0
    page, markdown = Path("runs/report.html").read_text(), Path("page.md").read_text()
    assert "study-e-grid: 1 run so far, no results" in page
    for text in (page, markdown):
        assert "rprop-lab compare config.json --seeds 1 --data csv --data-dir sub/three.csv" in text
        assert "1 seed of 5, 2 epochs of 50" in text and "in compare-csv" not in text
        assert "b-optimizers --quick --seeds 1 --epochs 1 --data csv --data-dir sub/three.csv" in text
    assert "img { max-width: 100%" in page and "max-width: none" not in page
    for path in Path("runs").glob("*/results.json"):
        path.unlink()
    failed = lab("report")
    assert failed.exit_code == 2 and "study-b-optimizers-quick: 12 runs so far" in plain(failed.output)


SMALL = (
    """bool_in=0
real_in=2
bool_out=2
real_out=0
training_examples=4
validation_examples=2
test_examples=2
"""
    + "0.1 0.9 1 0\n0.8 0.3 0 1\n" * 4
)


def test_problems_other_than_the_reports() -> None:
    Path("dt").mkdir()
    for name in ("odd1", "cancer1", "even1"):
        Path(f"dt/{name}.dt").write_text(SMALL.replace("0.9", "0.7") if name == "even1" else SMALL)
    arguments = ("--epochs", 10, "--seeds", 1, "--data-dir", "dt")
    assert quick("f-table", *arguments, "--problem", "odd1").exit_code == 0
    Path("dt/bad1.dt").write_text(SMALL.replace("0.9", "x"))
    refused = quick("f-table", *arguments)
    words = "To leave it out, name the others: --problem cancer1 --problem even1 --problem odd1."
    assert refused.exit_code == 2 and words in plain(refused.output)
    Path("dt/bad1.dt").unlink()
    refused = quick("f-table", *arguments, "--problem", "even1")
    assert refused.exit_code == 2 and "other problems, odd1, which would be lost" in plain(refused.output)
    assert "--out" in refused.output
    assert quick("f-table", *arguments, "--problem", "odd1").exit_code == 0
    other = quick("f-table", *arguments, "--problem", "cancer1", "--out", "other")  # no more than the name
    assert other.exit_code == 0
    for page in (Path("runs/study-f-table-quick/table.md").read_text(), Path("other/table.md").read_text()):
        assert "| report" not in page and "diff." not in page and "beside all four" not in page
    both = quick("f-table", *arguments, "--problem", "odd1", "--problem", "cancer1")  # one more: nothing is lost
    assert both.exit_code == 0, both.output
    assert lab("report").exit_code == 0
    assert "--epochs 10 --data-dir dt --problem odd1 --problem cancer1" in Path("runs/report.html").read_text()


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
    for name, change in augmentation.CHANGES.items():
        before = image.copy() if name != "black squares" else np.ones_like(image)
        given = before.copy()
        made = change(given, rng)
        assert np.array_equal(given, before) and made.shape == image.shape
        assert not np.array_equal(made, given)
        assert made.min() >= -1e-6 and made.max() <= 1 + 1e-6, name
        if name != "black squares":  # the middle of the picture stays where it is
            centre = (grid * made).sum((1, 2)) / made.sum()
            assert centre == pytest.approx([13.5, 13.5], abs=0.35), name
    images, labels = augmentation.augmented(image.reshape(1, -1).repeat(3, 0), np.array([1, 2, 3]), 5)
    assert images.shape == (15, 784) and labels.tolist() == [1, 2, 3] * 5 and images.dtype == np.float32
    again, _ = augmentation.augmented(image.reshape(1, -1).repeat(3, 0), np.array([1, 2, 3]), 5)
    assert np.array_equal(images, again)
    with pytest.raises(ValueError, match="no square"):
        augmentation.augmented(np.zeros((2, 10)), np.zeros(2), 0)


def test_form_describes_the_extent_of_a_study() -> None:
    full = [{"seed": seed, "epochs": epochs, "lr": lr} for seed in range(5) for epochs in (100, 200) for lr in (1, 2)]
    assert plan.form(full, full) == plan.FULL
    one = [s for s in full if s["seed"] == 0]
    assert plan.form(one, full) == "1 seed of 5"
    short = [s | {"epochs": 10} for s in one]
    assert plan.form(short, full) == "1 seed of 5, 10 epochs of 100-200"
    assert plan.form([s | {"epochs": s["epochs"] // 50} for s in full], full) == "2-4 epochs of 100-200"
    assert plan.form([s for s in full if s["lr"] == 1], full) == "10 of 20 runs"
    assert plan.form([s for s in one if s["lr"] == 1], full) == "1 seed of 5, 2 of 4 kinds of runs"
    more = [s | {"seed": s["seed"] + 5 * k} for k in range(2) for s in full]
    assert plan.form(more, full) == "10 seeds instead of 5"
    assert plan.form([s | {"epochs": 10 * s["epochs"]} for s in full], full) == "1000-2000 epochs instead of 100-200"
    done = quick("e-grid", "--epochs", 2)
    assert "A reduced form of the study: 1 seed of 5, 2 epochs of 100" in plain(done.output)


def test_a_part_of_a_study() -> None:
    done = quick("c-architecture", "--epochs", 2, "--seeds", 1, "--only", "hidden=100-100", "--only", "batch=8")
    assert done.exit_code == 0, done.output
    folder = Path("runs/study-c-architecture-quick")
    results = json.loads((folder / "results.json").read_text())
    assert [row[0] for row in results["tables"][0]["rows"]] == ["100-100, SGD, batch 8"]
    assert results["options"]["only"] == {"hidden": ["100-100"], "batch": ["8"]} and "kinds of runs" in results["form"]
    both = quick("c-batch", "--epochs", 1, "--seeds", 1, "--only", "batch=8", "--only", "batch=all")
    assert both.exit_code == 0 and "SGD, batch 8" in both.output and "iRprop+, full batch" in both.output
    assert "SGD, batch 32" not in both.output
    for wrong, words in (
        ("hidden=7", "no such run. There is: 100, 100-100"), ("colour=7", "no run of this study has such a setting"),
        ("hidden", "give a setting and its value"),
    ):  # fmt: skip
        failed = quick("c-architecture", "--only", wrong)
        assert failed.exit_code == 2 and words in plain(failed.output), failed.output
    failed = quick("c-architecture", "--only", "hidden=100", "--only", "batch=64")
    assert failed.exit_code == 2 and "There is: 8, all" in plain(failed.output)
    failed = quick("e-grid", "--only", "lr=0.1")
    assert failed.exit_code == 2 and "needs all its runs" in plain(failed.output)


def test_one_training_serves_all_criteria() -> None:
    settings: plan.Settings = {"data": "digits", "hidden": [8], "validation": 0.2, "lr": 0.1, "epochs": 60, "seed": 2}
    settings |= {"optimizer": "sgd", "batch": 16, "stop": ["early", "patience"]}
    both = fitting.fit(settings, Path("x.json"))
    assert set(both["stops"]) == {"early", "patience"} and both["epochs"] < 60
    assert both["epochs"] == max(stop["epoch"] for stop in both["stops"].values())
    for name, stop in both["stops"].items():
        alone = fitting.fit(settings | {"stop": [name]}, Path("x.json"))
        assert alone["epochs"] == stop["epoch"] and alone["stops"] == {name: stop}
        assert alone["test_score"] == stop["test_score"]
    assert report_c._replayed("patience", both) == both["stops"]["patience"]


def write_idx(path: Path, array: Any) -> None:
    path.write_bytes(struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes())


def test_images_of_other_sizes_and_classes() -> None:
    rng = np.random.default_rng(0)
    middles = rng.integers(0, 256, (27, 12, 12))
    for part, count in (("train", 400), ("test", 120)):
        labels = (1 + np.arange(count) % 26).astype(np.uint8)
        images = np.clip(middles[labels] + rng.normal(0, 40, (count, 12, 12)), 0, 255).astype(np.uint8)
        write_idx(Path(f"letters-{part}-images-idx3-ubyte"), images)
        write_idx(Path(f"letters-{part}-labels-idx1-ubyte"), labels)
    for name in ("b-optimizers", "c-augmentation"):
        done = quick(name, "--epochs", 2, "--seeds", 1, "--data-dir", ".")
        assert done.exit_code == 0, done.output
        assert "data: IDX files" in plain(done.output) and "the report used MNIST" in plain(done.output)
    record = next(
        found
        for path in Path("runs/study-b-optimizers-quick/runs").glob("*.json")
        if (found := json.loads(path.read_text()))["settings"]["optimizer"] == "adam"
    )
    page = (Path("runs/study-b-optimizers-quick") / "table.md").read_text()
    assert "144-128-27" in page and "784" not in page and "diff." not in page and "| report" not in page
    lines = json.loads(Path("runs/study-b-optimizers-quick/results.json").read_text())
    assert "144-128-27" in lines["line"] and "figures stand" not in page
    assert np.sum(record["result"]["confusion"]) == 120 and len(record["result"]["confusion"]) == 27
    assert record["result"]["train_score"] > 3 / 26
    weights = Path("runs/study-b-optimizers-quick/runs") / record["result"]["weights"]
    tested = lab("classify", weights, "--data", "mnist", "--data-dir", ".")
    assert tested.exit_code == 0 and "of 120)" in plain(tested.output)
    rows = np.column_stack([np.arange(40) % 30, rng.integers(0, 256, (40, 144))])
    np.savetxt("more.csv", rows, "%d", delimiter=",")
    failed = lab("classify", weights, "--data", "more.csv")
    assert failed.exit_code == 2 and "for labels 0 to 26, but more.csv has 29" in plain(failed.output)
    np.savetxt("oblong.csv", np.column_stack([np.arange(40) % 3, rng.integers(0, 256, (40, 63))]), "%d", delimiter=",")
    refused = quick("b-optimizers", "--epochs", 1, "--seeds", 1, "--data", "oblong.csv")
    assert refused.exit_code == 2 and "results on other data, IDX files in ., which would be lost" in plain(
        refused.output
    )
    oblong = ("--epochs", 1, "--seeds", 1, "--data", "oblong.csv", "--out", "oblong")
    assert quick("b-optimizers", *oblong).exit_code == 0  # 7 x 9
    assert quick("b-optimizers", *oblong).exit_code == 0  # the same goes on
    refused = quick("c-batch", *oblong)
    assert refused.exit_code == 2 and "holds results of b-optimizers" in plain(refused.output)
    failed = quick("c-augmentation", "--data", "oblong.csv", "--out", "c")
    assert failed.exit_code == 2 and "must be square" in plain(failed.output)


def test_markdown_page() -> None:
    for name in ("e-grid", "d-activations"):
        assert quick(name, "--epochs", 1, "--seeds", 1).exit_code == 0
    wrong = lab("report", "--markdown", "page.html")
    assert wrong.exit_code == 2 and "--markdown FILE.md" in plain(wrong.output)
    done = lab("report", "--markdown", "site/page.md")
    assert done.exit_code == 0 and "2 studies" in done.output
    page = Path("site/page.md").read_text(encoding="utf-8")
    assert page.index("### d-activations") < page.index("### e-grid") and "rprop-lab study e-grid --quick" in page
    assert "[e-grid-quick](#e-grid-quick)" in page and "1 seed of 5, 1 epoch of 100" in page
    for picture in re.findall(r"!\[[^]]*\]\(([^)]*)\)", page):
        assert 1000 < Path("site", picture).stat().st_size < 150_000
    assert str(Path.cwd()) not in Path("site/page/e-grid-quick/results.json").read_text(encoding="utf-8") + page
    Path("site/page.md").unlink()
    assert lab("report", "site/page", "--markdown", "site/page.md").exit_code == 0  # again, from what lies beside it
    assert Path("site/page.md").read_text(encoding="utf-8") == page


def test_the_page_of_studies_is_generated_from_the_stored_results() -> None:
    docs = Path(__file__).parents[2] / "docs"
    if not docs.is_dir():
        pytest.skip("no documentation here")
    studies = html.collect(docs / "studies")
    page = (docs / "studies.md").read_text(encoding="utf-8")
    assert html.markdown_page(studies, "studies") == page
    assert {study["name"] for study in studies} >= set(STUDIES) - {"a-compare", "d-time", "d-sklearn"}
    for study in studies:
        assert study["pictures"] and len(study["found"]["pictures"]) == len(study["pictures"]), study["title"]
        text = (study["folder"] / "results.json").read_text(encoding="utf-8")
        assert not re.search(r'"/(work|tmp|home|root)|data_dir', text), study["title"]
    assert sum(path.stat().st_size for path in (docs / "studies").rglob("*.png")) < 3e6


def test_outliers_do_not_compress_the_axis() -> None:
    near = [10 + 0.01 * k for k in range(30)]
    rows = {"one": [*near, 57.0, 300.0], "other": [*near, None]}
    axis = figures.bars({"E": rows}, "", reported={"E": {"one": 10.5}}).axes[0]
    assert 10.5 < axis.get_xlim()[1] < 57
    assert [text.get_text() for text in axis.texts] == ["57, 300 →"]
    wide = figures.bars({"E": {"one": [*near, 11.0]}}, "").axes[0]
    assert wide.get_xlim()[1] > 11 and not wide.texts


def test_progress_of_unfinished_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rprop_kernels.lab.studies.progress.SECONDS", 0.0)
    folder = Path("here")
    study = STUDIES["c-batch"]
    options = plan.Options(True, 1, 40, {"data": "digits", "data_dir": None, "crc32": "0", "origin": "digits"})
    settings = study.plan(options)[:2]
    (folder / "runs").mkdir(parents=True)
    runner.run_file(study, settings[0], folder).with_suffix(".part").write_text("0.9")  # of a run that was killed
    seen: list[float] = []
    work = fitting.measure

    def slow(*arguments: Any) -> Any:
        time.sleep(0.002)
        return work(*arguments)

    monkeypatch.setattr(fitting, "measure", slow)
    runner.execute(study, settings, folder, 1, lambda done, text: seen.append(done))
    assert seen[0] == 0 and seen[-1] == 2 and seen == sorted(seen) and seen[1] < 0.9
    within = [done for done in seen if done % 1]
    assert min(within) < 1 < max(within)
    assert not list((folder / "runs").glob("*.part"))


def csv(rows: int, classes: int = 10, path: str = "own.csv") -> str:
    """Images of 8 x 8 with a dot where their label says."""
    labels = np.arange(rows) % classes
    images = np.zeros((rows, 64), int)
    images[np.arange(rows), 2 * labels] = 16
    np.savetxt(path, np.column_stack([labels, images]), "%d", delimiter=",")
    return path


@pytest.mark.parametrize("name", ["b-optimizers", "c-augmentation", "d-mnist", "e-mnist"])
def test_few_images(name: str) -> None:
    done = quick(name, "--data", csv(20), "--epochs", 2, "--seeds", 1)
    assert done.exit_code == 0, done.output
    assert "60,000" not in plain(done.output)


def test_more_than_ten_classes_and_the_baseline_accuracy() -> None:
    settings = {"data": csv(520, 26, "letters.csv"), "data_dir": None}
    assert 1 / 26 < report_c.commonest_share(settings) < 0.11
    arguments = ("--data", "letters.csv", "--epochs", 40, "--seeds", 1, "--jobs", 1, "--out", "here")
    done = lab("study", "c-initialisation", *arguments)
    assert done.exit_code == 0, done.output
    rows = {row[0]: row[-1] for row in json.loads(Path("here/results.json").read_text())["tables"][0]["rows"]}
    assert rows["zeros, iRprop+"] == "did not learn" and rows["he, iRprop+"] == ""


@pytest.mark.parametrize(
    "name", ["b-optimizers", "b-architectures", "c-batch", "c-stopping", "d-mnist", "e-sgd", "e-grid", "e-mnist"]
)
def test_pages_of_diverged_runs(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every single run, at its first epoch."""
    work = fitting.fit

    def lost(settings: plan.Settings, path: Path) -> plan.Result:
        kept = {key: value for key, value in settings.items() if key != "keep"}
        result = work(kept | {"epochs": 1}, path)
        for key in ("bootstrap", "confusion", "samples"):
            result.pop(key, None)
        scores = {key: np.nan for key in result if key.endswith(("_loss", "_score"))}
        history = {key: [np.nan] for key in result["history"]}
        return result | scores | {"history": history, "diverged_at": 1, "stops": {}}

    monkeypatch.setattr(fitting, "fit", lost)
    done = quick(name, "--seeds", 1)
    assert done.exit_code == 0, done.output
    assert "diverged at epoch 1" in plain(done.output)


def test_seeds_of_every_study() -> None:
    data = {"data": "digits", "data_dir": None, "crc32": "0", "is_mnist": False, "origin": "digits"}
    problem = {"name": "glass1", "path": "glass1.dt", "crc32": "0"}
    for study in STUDIES.values():
        runs = study.plan(plan.Options(True, 3, 1, data, (problem,)))
        assert study.name == "d-activations" or {s["seed"] for s in runs} == {0, 1, 2}, study.name


def test_runs_of_different_versions_are_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "provenance", lambda: "numpy 1")
    arguments = ("e-grid", "--epochs", 2, "--seeds", 1)
    assert "same versions" not in plain(quick(*arguments).output)
    next(Path("runs/study-e-grid-quick/runs").glob("*.json")).unlink()
    monkeypatch.setattr(runner, "provenance", lambda: "numpy 2")
    said = plain(quick(*arguments).output)
    assert "not all made with the same versions on the same processor: 1 with numpy 2; 5 with numpy 1." in said or (
        "5 with numpy 1; 1 with numpy 2." in said
    )


def test_other_results_of_a_page_are_not_replaced() -> None:
    page = ("report", "runs", "--markdown", "page.md")
    assert quick("e-grid", "--epochs", 1, "--seeds", 1).exit_code == 0 and lab(*page).exit_code == 0
    assert lab(*page).exit_code == 0
    before = Path("page/e-grid-quick/results.json").read_bytes()
    assert quick("e-grid", "--epochs", 1, "--seeds", 2).exit_code == 0
    refused = lab(*page)
    assert refused.exit_code == 2 and "page/e-grid-quick holds other results of e-grid" in plain(refused.output)
    assert Path("page/e-grid-quick/results.json").read_bytes() == before
    assert lab(*page, "--force").exit_code == 0 and Path("page/e-grid-quick/results.json").read_bytes() != before


def test_two_folders_with_the_same_name_are_rejected() -> None:
    for place in "ab":
        assert quick("d-activations", "--out", f"{place}/study-d-activations").exit_code == 0
    failed = lab("report", ".", "--markdown", "page.md")
    assert failed.exit_code == 2 and "have the same name" in plain(failed.output) and not Path("page.md").exists()


def test_findings_are_shown_only_for_the_matching_form() -> None:
    assert quick("d-activations").exit_code == 0
    file = Path("runs/study-d-activations-quick/results.json")
    found = json.loads(file.read_text())
    for form, word in (("in full", "**Seen:** so"), ("1 seed of 5", runner.FINDING_PREFIX + "so")):
        file.write_text(
            json.dumps(found | {"statements": [runner.FINDING_PREFIX + "so"], "form": form, "findings of": "in full"})
        )
        assert lab("report", "runs", "--markdown", "page.md", "--force").exit_code == 0
        assert f"- {word}\n" in Path("page.md").read_text()


def test_long_curves_are_drawn_by_medians() -> None:
    values: list[float | None] = [1.0] * 1000
    values[500] = 1e6  # a spike
    axis = figures.curves({"loss": {"one": [values], "short": [values[:7]]}}, "").axes[0]
    (line, short) = axis.lines
    assert len(line.get_xdata()) == 200 and np.ptp(line.get_ydata()) == 0 and line.get_xdata()[0] == 3
    assert len(short.get_xdata()) == 2 and axis.get_xlabel() == "epoch (medians of 5)"
    axis = figures.curves({"loss": {"one": [values[:200]]}}, "").axes[0]
    assert len(axis.lines[0].get_xdata()) == 200 and axis.get_xlabel() == "epoch"


def test_images_that_are_not_square(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for part, count in (("train", 60), ("t10k", 20)):
        labels = np.arange(count) % 10
        images = rng.integers(0, 99, (count, 12, 20))
        for kind, array in (("images-idx3", images), ("labels-idx1", labels)):
            header = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
            (tmp_path / f"{part}-{kind}-ubyte").write_bytes(header + array.astype(np.uint8).tobytes())
    dataset = datasets.mnist(tmp_path)
    assert dataset.shape == (12, 20) and np.array_equal(dataset.test_images[0].reshape(12, 20), images[0])
    assert quick("d-mnist", "--data", "mnist", "--data-dir", tmp_path, "--epochs", 2).exit_code == 0
    assert Path("runs/study-d-mnist-quick/samples.png").exists()
    np.savetxt("rows.csv", np.column_stack([np.arange(60) % 10, rng.integers(0, 99, (60, 240))]), "%d", delimiter=",")
    done = quick("d-mnist", "--data", "rows.csv", "--epochs", 2, "--out", "here")
    assert done.exit_code == 0, done.output
    assert not Path("here/samples.png").exists() and Path("here/confusion.png").exists()  # who knows its rows?


def test_a_confusion_matrix_of_many_classes() -> None:
    made = figures.confusion(np.eye(200), "")
    assert max(made.get_size_inches()) < 16 and not made.axes[0].texts
    assert len(made.axes[0].get_xticks()) <= 60
    few = np.zeros((10, 10))
    few[2, 2], few[2, 7] = 5, 1
    axis = figures.confusion(few, "").axes[0]
    assert [label.get_text() for label in axis.get_xticklabels()] == ["2", "7"]
    assert sorted(text.get_text() for text in axis.texts) == ["1", "5"]


def test_damaged_results_are_listed_in_the_report() -> None:
    assert quick("d-activations").exit_code == 0
    Path("runs/other").mkdir()
    Path("runs/other/results.json").write_text("{")
    assert "other: results.json is damaged" in plain(lab("report", "runs").output)


def test_a_custom_problem_with_the_name_of_a_reported_one() -> None:
    if not (DATA / "proben1").is_dir():
        pytest.skip(f"no PROBEN1 files in {DATA}")
    text = next((DATA / "proben1").rglob("glass1.dt")).read_text()
    for name in ("cancer1", "mine1"):
        Path(f"{name}.dt").write_text(text)
    both = ("--problem", "cancer1.dt", "--problem", "mine1.dt")
    done = plain(quick("f-table", *both, "--seeds", 1, "--epochs", 3).output)
    assert "cancer1: another file than PROBEN1's, with the network of that one, 4+2 hidden units." in done
    assert "mine1: 16+8 hidden units, our choice; the report's network and figures are not at hand." in done
    assert "problems of 7" not in done
    lines = text.splitlines()
    outputs = 6
    wide = [line if "=" in line else " ".join([*line.split()[:-outputs], *["700"] * outputs]) for line in lines]
    Path("wide1.dt").write_text("\n".join(wide))
    done = plain(quick("f-compare", "--problem", "wide1.dt", "--seeds", 2, "--epochs", 3).output)
    assert "wide1: its outputs run from 700 to 700, PROBEN1's from 0 to 1. Scale them" in done
    assert "no difference between 10 methods can be significant, so none is marked" in done
