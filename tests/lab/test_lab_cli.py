"""The command line from end to end, on few epochs of the embedded digits."""

import errno
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

typer_testing = pytest.importorskip("typer.testing")
torch = pytest.importorskip("torch")
pytest.importorskip("rich")
pytest.importorskip("matplotlib")
pytest.importorskip("sklearn")

from rprop_kernels import files  # noqa: E402
from rprop_kernels.lab import config, models, training  # noqa: E402
from rprop_kernels.lab.cli import app  # noqa: E402

DATA = Path(os.environ.get("RPROP_LAB_DATA", Path(__file__).parents[3] / "shared" / "data"))
ENVIRONMENT = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}  # for a package that is not installed
MAIN = [sys.executable, "-P", "-c", "from rprop_kernels.lab.cli import main; main()"]


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def lab(*arguments: object) -> Any:
    return typer_testing.CliRunner().invoke(app, [str(argument) for argument in arguments])


def plain(text: str) -> str:
    """Without line breaks and colours, which depend on the terminal."""
    return " ".join(re.sub(r"\x1b\[[0-9;]*m", "", text).split())


def configuration(**values: Any) -> Path:
    path = Path("config.json")
    path.write_text(json.dumps({"optimizer": "iRprop+", "epochs": 5, "learning_rate": 0.01} | values))
    return path


def record(folder: str) -> dict[str, Any]:
    """The result of the only run in a folder."""
    (path,) = Path(folder, "runs").glob("*.json")
    found: dict[str, Any] = json.loads(path.read_text())["result"]
    return found


def test_train_then_test() -> None:
    trained = lab("train", configuration())
    assert trained.exit_code == 0, trained.output
    folder = Path("runs/train-digits-irprop+")
    names = {"model.npz", "results.json", "curves.png", "table.md", "training.csv", "history.csv", "runs"}
    assert {path.name for path in folder.iterdir()} == names
    results = json.loads((folder / "results.json").read_text())
    history = record(str(folder))["history"]
    assert len(history["eval_loss"]) == 5 and results["settings"]["learning_rate"] == 0.01
    assert len((folder / "history.csv").read_text().splitlines()) == 6
    model = models.load(folder / "model.npz")
    assert model.figures["evaluation loss"] == min(history["eval_loss"])
    tested = lab("test", folder / "model.npz")
    assert tested.exit_code == 0, tested.output
    assert f"accuracy {record(str(folder))['test_accuracy']:.4f} (" in plain(tested.output)
    assert f"evaluation loss {model.figures['evaluation loss']:.4f}" in plain(tested.output)


@pytest.mark.parametrize("name", ["RpropPlus", "Rprop PyTorch", "sgd", "Adam", "RMSProp", "momentum"])
def test_train_by_any_name_and_several_layers(name: str) -> None:
    trained = lab("train", configuration(optimizer=name, epochs=2, hidden_units=[9, 8]), "--out", "here")
    assert trained.exit_code == 0, trained.output
    assert models.load(Path("here/model.npz")).network.sizes == (64, 9, 8, 10)
    assert lab("classify", "here/model.npz").output == lab("test", "here/model.npz").output


def test_compare() -> None:
    compared = lab("compare", "--epochs", 3, "--seeds", 2)
    assert compared.exit_code == 0, compared.output
    text = plain(compared.output)
    assert "are the same bits as torch.optim.Rprop's at the end (2 seeds)" in text
    assert "torch.optim.Rprop is iRprop-" in text and "report has no figures for this data" in text
    for label in ("Rprop-", "Rprop+", "iRprop-", "iRprop+", "Rprop drop-in", "torch.optim.Rprop"):
        assert label in text
    folder = Path("runs/compare-digits")
    for picture in folder.glob("*.png"):
        assert picture.read_bytes().startswith(b"\x89PNG") and picture.stat().st_size > 10_000
    assert len((folder / "summary.csv").read_text().splitlines()) == 7
    as_study = lab("study", "a-compare", "--data", "digits", "--epochs", 3, "--seeds", 2, "--out", folder)
    assert as_study.exit_code == 0, as_study.output  # all runs are there


def seeds_in(folder: str) -> list[int]:
    return sorted(json.loads(path.read_text())["settings"]["seed"] for path in Path(folder, "runs").glob("*.json"))


def test_seeds() -> None:
    path = configuration(seed=7)
    assert lab("compare", path, "--epochs", 1, "--seeds", 2, "--out", "a").exit_code == 0
    assert seeds_in("a") == [7, 8]
    assert lab("compare", path, "--epochs", 1, "--seeds", 1, "--seed", 3, "--out", "b").exit_code == 0
    assert seeds_in("b") == [3]
    made = lab("study", "e-grid", "--quick", "--epochs", 1, "--seeds", 2, "--seed", 4, "--out", "c", "--jobs", 1)
    assert made.exit_code == 0 and set(seeds_in("c")) == {4, 5} and "(seeds from 4)" in plain(made.output)


GRID = ("study", "e-grid", "--quick", "--epochs", 1, "--jobs", 1, "--out", "here", "--seeds")


def test_earlier_results_are_not_lost() -> None:
    assert lab(*GRID, 2).exit_code == 0
    before = {path: path.read_bytes() for path in Path("here").rglob("*") if path.is_file()}
    for other, says in (
        ((*GRID, 1), "other settings (seed)"),
        ((*GRID, 2, "--epochs", 2), "other settings (epochs)"),
        (("train", configuration(epochs=1), "--out", "here"), "holds results of e-grid"),
        (("compare", "--out", "here"), "holds results of e-grid"),
    ):
        refused = lab(*other)
        assert refused.exit_code == 2 and says in plain(refused.output), refused.output
        assert "replace them with --force" in plain(refused.output)
        assert {path: path.read_bytes() for path in before} == before
    assert lab(*GRID, 3).exit_code == 0  # more seeds: the others are kept
    assert lab(*GRID, 1, "--force").exit_code == 0
    assert len(json.loads(Path("here/results.json").read_text())["identities"]) == 6 and len(seeds_in("here")) == 18


def test_files_of_the_user_are_not_replaced() -> None:
    Path("mine").mkdir()
    Path("mine/curves.png").write_text("my own")
    for arguments in (("train", configuration(epochs=1)), ("compare", "--epochs", 1), ("study", "d-activations")):
        refused = lab(*arguments, "--out", "mine")
        assert refused.exit_code == 2 and "no study wrote (curves.png)" in plain(refused.output)
    assert [path.name for path in Path("mine").iterdir()] == ["curves.png"]
    assert lab("train", "config.json", "--out", "mine", "--force").exit_code == 0
    Path("mine/confusion.png").write_text("my own")
    refused = lab("test", "mine/model.npz", "--out", "mine")
    assert refused.exit_code == 2 and "mine/confusion.png exists" in plain(refused.output)
    assert lab("test", "mine/model.npz", "--out", "mine", "--force").exit_code == 0
    Path("page.html").write_text("my own")
    refused = lab("report", ".", "--out", "page.html")
    assert refused.exit_code == 2 and "is no page of rprop-lab" in plain(refused.output)
    assert (
        lab("report", ".", "--out", "other.html").exit_code == lab("report", ".", "--out", "other.html").exit_code == 0
    )


def test_damaged_results_are_made_again() -> None:
    assert lab(*GRID, 1).exit_code == 0
    whole = Path("here/results.json").read_text()
    Path("here/results.json").write_text(whole[:100])
    again = lab(*GRID, 1)
    assert again.exit_code == 0 and "is damaged; it is made again from the 6 results" in plain(again.output)
    assert json.loads(Path("here/results.json").read_text())["tables"] == json.loads(whole)["tables"]


def test_a_full_disk_loses_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    from rprop_kernels.lab import results

    written = []

    def write(path: Path, content: Any) -> None:
        if path.parent.name == "runs":
            written.append(path)
            if len(written) == 2:
                raise OSError(errno.ENOSPC, "No space left on device")
        files.write_atomic(path, content)

    monkeypatch.setattr(results, "write_atomic", write)
    failed = lab(*GRID, 1)
    assert failed.exit_code == 2 and "No space left on device" in plain(failed.output)
    assert "1 of 6 runs are kept in here; the same command goes on from there" in plain(failed.output)
    first = Path(written[0]).read_bytes()
    assert lab(*GRID, 1).exit_code == 0 and Path(written[0]).read_bytes() == first


def test_two_at_once_in_one_folder() -> None:
    from rprop_kernels.lab.studies import runner

    with runner.locked(Path("here")):
        refused = lab("train", configuration(epochs=1), "--out", "here")
    assert refused.exit_code == 2 and "Another rprop-lab is at work in here" in plain(refused.output)
    assert lab("train", "config.json", "--out", "here").exit_code == 0


@pytest.mark.skipif(not hasattr(os, "getuid") or os.getuid() == 0, reason="root may write anywhere")
def test_a_read_only_folder() -> None:
    Path("here").mkdir(mode=0o500)
    refused = lab("train", configuration(epochs=1), "--out", "here")
    assert refused.exit_code == 2 and "Nothing can be written to here" in plain(refused.output)


KILLED = """
import json, os, random, signal, sys, time
from rprop_kernels.lab import cli, network, training
from rprop_kernels.lab.studies import fitting, plan, progress, registry, report_a, runner, single
from rprop_kernels.lab import figures
import torch, joblib, threadpoolctl, scipy.ndimage, sklearn.datasets, sklearn.model_selection, sklearn.metrics

progress.CHECKPOINT_SECONDS = 0.0
torch.set_num_threads(1)
random.seed(int(sys.argv[1]))
runner.provenance()

network._compiled_sgd = lambda *_: None  # compiling and drawing would take longer than everything else
single.page = report_a.page = lambda runs: plan.Page([], [], {})

def newest(folder):
    times = [entry.stat().st_mtime_ns for entry in os.scandir(folder + "/runs") if entry.name.endswith(".checkpoint")]
    return max(times, default=0)

def lab(arguments, folder, kill=False):
    before = newest(folder) if kill else 0
    child = os.fork()
    if not child:
        sys.argv = ["rprop-lab", *arguments, "--out", folder]
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        cli.main()
        os._exit(0)
    done = 0
    while kill and not done:
        time.sleep(0.002)
        done, status = os.waitpid(child, os.WNOHANG)
        if not done and newest(folder) > before:
            time.sleep(random.uniform(0, 0.1))
            os.kill(child, signal.SIGKILL)
            break
    return status if done else os.waitpid(child, 0)[1]

for arguments in json.loads(sys.argv[2]):
    whole, again = arguments[0] + "-whole", arguments[0] + "-killed"
    assert lab(arguments, whole) == 0
    os.makedirs(again + "/runs")
    killed = 0
    while killed < 3 and lab(arguments, again, kill=True):
        killed += 1
    assert killed > 1, "no kill hit a training"
    assert lab(arguments, again) == 0
"""


def without_times(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: without_times(item) for key, item in value.items() if "seconds" not in key}
    return [without_times(item) for item in value] if isinstance(value, list) else value


@pytest.mark.skipif(not hasattr(os, "fork"), reason="kill -9 is POSIX")
def test_killed_at_random_and_resumed_to_the_same_bits() -> None:
    configuration(optimizer="adam", train_batch_size=500, hidden_units=[20, 10])
    study = ["study", "c-stopping", "--data", "digits", "--epochs", "6", "--jobs", "1", "--only", "batch=8"]
    commands = [
        ["train", "config.json", "--epochs", "30"],
        ["compare", "config.json", "--epochs", "8", "--seeds", "1"],
        study,
    ]
    script = [sys.executable, "-P", "-c", KILLED, "5", json.dumps(commands)]
    done = subprocess.run(script, capture_output=True, text=True, timeout=300, env=ENVIRONMENT)
    assert done.returncode == 0, done.stderr
    for name in ("train", "compare", "study"):
        whole, again = (
            {path.name: without_times(json.loads(path.read_text())) for path in Path(folder, "runs").glob("*.json")}
            for folder in (f"{name}-whole", f"{name}-killed")
        )
        assert whole == again and whole and not list(Path(f"{name}-killed/runs").glob("*.checkpoint"))
    one, other = (models.load(Path(folder, "model.npz")) for folder in ("train-whole", "train-killed"))
    assert one.network.theta.tobytes() == other.network.theta.tobytes()


def test_a_damaged_checkpoint_starts_the_run_again(monkeypatch: pytest.MonkeyPatch) -> None:
    from rprop_kernels.lab.studies import progress

    monkeypatch.setattr(progress, "CHECKPOINT_SECONDS", 0.0)
    epoch = training.Run.epoch

    def third_is_interrupted(run: training.Run, *arguments: Any) -> bool:
        return interrupt() if len(run.history) == 2 else epoch(run, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(training.Run, "epoch", third_is_interrupted)
        failed = lab("train", configuration(), "--out", "here")
    assert failed.exit_code == 130 and "the last checkpoint of 1 unfinished are kept in here" in plain(failed.output)
    (path,) = Path("here/runs").glob("*.checkpoint")
    path.write_bytes(path.read_bytes()[:-100])
    done: list[int] = []
    monkeypatch.setattr(training.Run, "epoch", lambda run, *rest: done.append(1) or epoch(run, *rest))
    assert lab("train", "config.json", "--out", "here").exit_code == 0 and len(done) == 5


@pytest.mark.parametrize("encoding", ["cp1252", "ascii"])
def test_output_that_is_not_utf_8(encoding: str) -> None:
    environment = ENVIRONMENT | {"PYTHONIOENCODING": encoding, "COLUMNS": "30"}
    for arguments in (["--help"], ["train", str(configuration(epochs=1)), "--out", "\u4e2d\u6587"])[
        encoding == "cp1252" :
    ]:
        done = subprocess.run([*MAIN, *arguments], capture_output=True, env=environment)
        assert done.returncode == 0, done.stderr
    assert b"\\u4e2d\\u6587/model.npz" in done.stdout
    models.load(Path("\u4e2d\u6587/model.npz"))


def test_version_and_the_keys_of_a_configuration() -> None:
    from rprop_kernels import __version__

    assert lab("--version").output.strip() == f"rprop-lab {__version__}"
    for command in ("train", "compare"):
        text = plain(lab(command, "--help").output)
        assert all(f"{key}:" in text for key in config.Config.model_fields)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["train", "nowhere.json"], "nowhere.json cannot be read: No such file"),
        (["train", "config.json", "--data", "mnist"], "--data mnist needs --data-dir"),
        (["train", "config.json", "--data", "mnist", "--data-dir", "nowhere"], "nowhere is not a folder"),
        (["train", "config.json", "--data", "nowhere.csv"], "nowhere.csv cannot be read"),
        (["train", "config.json", "--out", "config.json/x"], "Nothing can be written to config.json/x"),
        (["train", "config.json", "--out", "config.json"], "Nothing can be written to config.json"),
        (["compare", "--out", "config.json"], "Nothing can be written to config.json"),
        (["test", "config.json"], "config.json is not a model of rprop-lab"),
        (["test", "nowhere.npz"], "nowhere.npz cannot be read: No such file"),
    ],
)
def test_bad_input_gives_one_message_and_no_files(arguments: list[str], says: str) -> None:
    configuration()
    result = lab(*arguments)
    assert result.exit_code == 2
    assert says in plain(result.output) and "Traceback" not in result.output
    assert [path.name for path in Path().iterdir()] == ["config.json"]


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"etas": [1.2, 0.5]}, "Invalid eta values"),
        ({"step_sizes": [50, 1]}, "Invalid step sizes"),
        ({"learning_rate": 100}, "Invalid learning rate"),
        ({"optimiser": "x"}, "Did you mean 'optimizer'?"),
        ({"train_set_size": 50000, "eval_set_size": 10000}, "--data mnist"),
    ],
)
def test_bad_configurations(values: dict[str, Any], says: str) -> None:
    result = lab("train", configuration(**values))
    assert result.exit_code == 2 and says in plain(result.output) and not Path("runs").exists()
    missing = Path("none.json")
    missing.write_text("{}")
    assert "must have the key 'optimizer'" in plain(lab("train", missing).output)


def test_an_unwritable_folder_is_found_before_training(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rprop_kernels.lab.training.Run.epoch", lambda *_: pytest.fail("training had begun"))
    Path("here").mkdir()
    Path("here/runs").touch()  # even root cannot create a folder there
    result = lab("train", configuration(), "--out", "here")
    assert result.exit_code == 2 and "here/runs is not a folder" in plain(result.output)
    Path("file").touch()
    assert lab("compare", "--out", "file/below").exit_code == 2


def test_a_model_of_other_images_is_neither_tested_nor_replaced() -> None:
    assert lab("train", configuration(epochs=1), "--out", "here").exit_code == 0
    rows = "\n".join(f"{row % 10},3,200,7" for row in range(30))
    Path("other.csv").write_text(rows)
    result = lab("test", "here/model.npz", "--data", "other.csv")
    assert result.exit_code == 2 and "images of 64 pixels" in plain(result.output)
    before = Path("here/model.npz").read_bytes()
    refused = lab("train", configuration(epochs=1), "--data", "other.csv", "--out", "here")
    assert refused.exit_code == 2 and "here holds results on other data, scikit" in plain(refused.output)
    refused = lab("train", configuration(epochs=1, seed=1), "--out", "here")
    assert refused.exit_code == 2 and "other settings (seed)" in plain(refused.output)
    assert Path("here/model.npz").read_bytes() == before
    assert lab("train", "config.json", "--out", "here", "--force").exit_code == 0
    assert Path("here/model.npz").read_bytes() != before


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
def test_ctrl_c_leaves_the_last_good_model() -> None:
    path = Path("here/model.npz")
    command = [*MAIN, "train", str(configuration(epochs=10**6)), "--out", "here"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT)
    end = time.monotonic() + 240
    while not path.exists():
        assert process.poll() is None and time.monotonic() < end
        time.sleep(0.005)
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=240)
    assert process.returncode == 130, errors
    assert "interrupted" in errors and "here/model.npz holds the model of lowest evaluation loss" in plain(errors)
    assert "Traceback" not in errors and models.load(path).figures["epoch"] >= 1
    assert not list(path.parent.glob(".*.tmp"))


def test_ctrl_c_while_saving_leaves_the_last_good_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """The worst moment: the new file is written but has not yet taken the place of the old one."""
    saves = []

    def replace(*paths: Any) -> None:
        saves.append(paths)
        if len(saves) == 3:
            raise KeyboardInterrupt
        os.rename(*paths)

    monkeypatch.setattr("os.replace", replace)
    result = lab("train", configuration(), "--out", "here")
    assert result.exit_code == 130
    assert models.load(Path("here/model.npz")).figures["epoch"] == 2
    assert not list(Path("here").glob(".*"))


def interrupt(*_: Any, **__: Any) -> Any:
    raise KeyboardInterrupt


def test_help_needs_no_torch() -> None:
    program = "import sys; from rprop_kernels.lab import cli; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-P", "-c", program], env=ENVIRONMENT).returncode == 0
    assert all(command in lab("--help").output for command in ("train", "test", "compare"))


@pytest.mark.slow
@pytest.mark.skipif(
    not (DATA / "mnist").is_dir(), reason=f"no MNIST in {DATA / 'mnist'}; set RPROP_LAB_DATA to its parent"
)
def test_mnist_reproduces_the_reported_accuracies() -> None:
    result = lab("compare", "--data", "mnist", "--data-dir", DATA / "mnist", "--seeds", 1, "--out", "here")
    assert result.exit_code == 0, result.output
    assert "within 0.01 of the report's Table 3.1: all." in plain(result.output)
