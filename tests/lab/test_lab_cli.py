"""The command line from end to end, on few epochs of the embedded digits."""

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

from rprop_kernels.lab import models  # noqa: E402
from rprop_kernels.lab.cli import app  # noqa: E402
from rprop_kernels.lab.studies import report_a  # noqa: E402

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


def test_train_then_test() -> None:
    trained = lab("train", configuration())
    assert trained.exit_code == 0, trained.output
    folder = Path("runs/train-digits-irprop+")
    assert {path.name for path in folder.iterdir()} == {"model.npz", "history.json", "curves.png"}
    history = json.loads((folder / "history.json").read_text())
    assert len(history["history"]["eval_loss"]) == 5 and history["settings"]["learning_rate"] == 0.01
    assert history["kept"]["eval_loss"] == min(history["history"]["eval_loss"])
    tested = lab("test", folder / "model.npz")
    assert tested.exit_code == 0, tested.output
    assert "360 unseen images" in tested.output
    assert f"{history['kept']['eval_loss']:.4f}" in tested.output


@pytest.mark.parametrize("name", ["RpropPlus", "Rprop PyTorch"])
def test_train_by_any_name(name: str) -> None:
    trained = lab("train", configuration(optimizer=name, epochs=1), "--out", "here")
    assert trained.exit_code == 0, trained.output
    assert lab("test", "here/model.npz").exit_code == 0


def test_compare() -> None:
    compared = lab("compare", "--epochs", 3, "--seeds", 2)
    assert compared.exit_code == 0, compared.output
    text = plain(compared.output)
    assert "are the same bits as torch.optim.Rprop's at the end (2 seeds)" in text
    assert "torch.optim.Rprop is iRprop-" in text and "report has no figures for this data" in text
    for label in ("Rprop-", "Rprop+", "iRprop-", "iRprop+", "Rprop drop-in", "torch.optim.Rprop"):
        assert label in text
    assert max(map(len, compared.output.splitlines())) <= 100
    folder = Path("runs/compare-digits")
    assert {path.name for path in folder.iterdir()} == set(report_a.FILES)
    for picture in folder.glob("*.png"):
        assert picture.read_bytes().startswith(b"\x89PNG") and picture.stat().st_size > 10_000


def test_results_of_other_data_are_not_lost() -> None:
    for name, pixel in (("a.csv", 200), ("b.csv", 210)):
        Path(name).write_text("\n".join(f"{row % 3},3,{pixel},{row}" for row in range(60)))
    arguments = ("--epochs", 1, "--seeds", 1, "--out", "here")
    assert lab("compare", "--data", "a.csv", *arguments).exit_code == 0
    before = Path("here/results.json").read_bytes()
    refused = lab("compare", "--data", "b.csv", *arguments)
    assert refused.exit_code == 2 and "here holds results on other data (a.csv" in plain(refused.output)
    assert "another folder with --out" in plain(refused.output) and Path("here/results.json").read_bytes() == before
    assert lab("compare", "--data", "a.csv", *arguments).exit_code == 0
    assert lab("compare", "--data", "a.csv", *arguments, "--resume").exit_code == 0


def test_compare_resumes() -> None:
    assert lab("compare", "--epochs", 2, "--seeds", 1, "--out", "here").exit_code == 0
    first = json.loads(Path("here/results.json").read_text())["seeds"][0]
    more = lab("compare", "--epochs", 2, "--seeds", 2, "--out", "here", "--resume")
    assert more.exit_code == 0 and "x 1 seeds x 2 epochs" in plain(more.output)
    seeds = json.loads(Path("here/results.json").read_text())["seeds"]
    assert seeds[0] == first and [seed["seed"] for seed in seeds] == [0, 1]
    refused = lab("compare", "--epochs", 3, "--seeds", 2, "--out", "here", "--resume")
    assert refused.exit_code == 2 and "other settings (epochs)" in plain(refused.output)


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
        (["compare", "config.json", "--resume"], "nothing to resume"),
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
    def too_late(*_: object) -> None:
        raise AssertionError("training had begun")

    monkeypatch.setattr("rprop_kernels.lab.training.Run.epoch", too_late)
    Path("here").mkdir()
    Path("here/model.npz").mkdir()  # even root cannot write a file there
    result = lab("train", configuration(), "--out", "here")
    assert result.exit_code == 2 and "here/model.npz is a folder" in plain(result.output)
    Path("file").touch()
    assert lab("compare", "--out", "file/below").exit_code == 2


def test_a_model_of_other_images_is_neither_tested_nor_replaced(tmp_path: Path) -> None:
    assert lab("train", configuration(epochs=1), "--out", "here").exit_code == 0
    rows = "\n".join(f"{row % 10},3,200,7" for row in range(30))
    Path("other.csv").write_text(rows)
    result = lab("test", "here/model.npz", "--data", "other.csv")
    assert result.exit_code == 2 and "images of 64 pixels" in plain(result.output)
    before = Path("here/model.npz").read_bytes()
    refused = lab("train", configuration(epochs=1), "--data", "other.csv", "--out", "here")
    assert refused.exit_code == 2 and "here/model.npz holds a model of other data (scikit" in plain(refused.output)
    assert Path("here/model.npz").read_bytes() == before
    assert lab("train", configuration(epochs=1, seed=1), "--out", "here").exit_code == 0  # its own may be
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
    kept = models.load(path)
    assert "interrupted" in errors and f"the model of epoch {kept.about['epoch']}," in plain(errors)
    assert "Traceback" not in errors
    history = json.loads(Path("here/history.json").read_text())
    assert history["interrupted"] and history["kept"]["epoch"] == kept.about["epoch"]
    assert not list(path.parent.glob(".*.tmp"))


def test_ctrl_c_before_the_first_epoch_leaves_an_earlier_model(monkeypatch: pytest.MonkeyPatch) -> None:
    assert lab("train", configuration(epochs=1), "--out", "here").exit_code == 0
    before = Path("here/model.npz").read_bytes()
    monkeypatch.setattr("rprop_kernels.lab.training.Run.epoch", interrupt)
    result = lab("train", "config.json", "--out", "here")
    assert result.exit_code == 130 and "here/model.npz is as it was" in plain(result.output)
    assert Path("here/model.npz").read_bytes() == before
    result = lab("train", "config.json", "--out", "elsewhere")
    assert result.exit_code == 130 and not Path("elsewhere").exists()


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
    assert result.exit_code == 130 and "holds the model of epoch 2," in plain(result.output)
    assert models.load(Path("here/model.npz")).about["epoch"] == 2
    assert not list(Path("here").glob(".*"))


def test_ctrl_c_keeps_the_finished_seeds(monkeypatch: pytest.MonkeyPatch) -> None:
    from rprop_kernels.lab.studies.report_a import run_seed

    def second_is_interrupted(seed: int, *arguments: Any, **options: Any) -> Any:
        return run_seed(seed, *arguments, **options) if seed == 0 else interrupt()

    monkeypatch.setattr("rprop_kernels.lab.studies.report_a.run_seed", second_is_interrupted)
    result = lab("compare", "--epochs", 2, "--out", "here")
    assert result.exit_code == 130 and "1 finished seeds are kept" in plain(result.output)
    assert {path.name for path in Path("here").iterdir()} == set(report_a.FILES)
    monkeypatch.setattr("rprop_kernels.lab.studies.report_a.run_seed", interrupt)
    result = lab("compare", "--epochs", 2, "--out", "elsewhere")
    assert result.exit_code == 130 and not Path("elsewhere").exists()


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
