"""One training of one technique, the work of ``rprop-lab train``: a study of one run."""

from dataclasses import asdict
from pathlib import Path

from .. import figures, models
from ..config import Config
from ..errors import LabError
from ..optimizers import LABELS, find
from ..training import Epoch, Run, hold_out, tensors, to_numpy
from .fitting import image_set
from .plan import Options, Page, Result, Runs, Settings, Table, number
from .progress import Recorder


def plan(options: Options) -> list[Settings]:
    dataset = image_set(options.data["data"], options.data.get("data_dir"))
    return [options.config.for_data(dataset).as_dict() | options.data]


def work(settings: Settings, path: Path) -> Result:
    """Train; the model of the lowest evaluation loss is in the study's folder at any time.

    Raises:
        LabError: no evaluation loss was finite, or a file cannot be written.
    """
    config = Config(**{key: settings[key] for key in Config.model_fields})
    learn, test = tensors(image_set(settings["data"], settings["data_dir"]))
    run = Run(find(settings["optimizer"]), *hold_out(learn, config, config.seed), config, config.seed)
    recorder = Recorder(path)
    if state := recorder.resume():
        run.load_state_dict(state)
    while len(run.history) < config.epochs:
        run.epoch()
        now, epoch = run.history[-1], len(run.history)
        if run.best_epoch == epoch:
            save(path.parent.parent / models.MODEL, run, settings)
        text = f"loss {now.train_loss:.4f}, evaluation {now.eval_loss:.4f}, accuracy {now.eval_accuracy:.4f}"
        recorder.write(epoch / config.epochs, run.state_dict, text)
    if not run.best_epoch:
        raise LabError(
            "The evaluation loss was never finite, so no model was kept. Lower learning_rate, or look at step_sizes."
        )
    save(path.parent.parent / models.MODEL, run, settings)  # it may have been deleted, or be of an earlier checkpoint
    test_loss, test_accuracy = run.test(test)
    return {
        "history": {name: [getattr(epoch, name) for epoch in run.history] for name in Epoch.__slots__},
        "best_epoch": run.best_epoch,
        "test_loss": test_loss,
        "test_accuracy": test_accuracy,
        "seconds": run.seconds,
        "step_seconds": run.step_seconds,
    }


def save(path: Path, run: Run, settings: Settings) -> None:
    """Write the model of the lowest evaluation loss so far."""
    best = run.best
    measured = {"epoch": run.best_epoch, "evaluation loss": best.eval_loss, "evaluation accuracy": best.eval_accuracy}
    models.save(path, to_numpy(run.best_network()), settings, measured, (-1.0, 1.0))


def page(runs: Runs) -> Page:
    ((settings, result),) = runs
    history = [Epoch(*row) for row in zip(*(result["history"][name] for name in Epoch.__slots__), strict=True)]
    best, label = result["best_epoch"], LABELS[settings["optimizer"]]
    units = "-".join(map(str, settings["hidden_units"]))

    def row(name: str, epoch: int) -> list[str]:
        return [name, str(epoch), *(number(value) for value in asdict(history[epoch - 1]).values())]

    rows = [row("lowest evaluation loss, kept", best), row("last", len(history))]
    heading = ["epoch", "", "train loss", "train accuracy", "evaluation loss", "evaluation accuracy"]
    return Page(
        [Table("Training", heading, rows)],
        [
            f"{label}, {units} hidden units, {settings['train_set_size']} images to train and "
            f"{settings['eval_set_size']} to evaluate, {result['seconds']:.1f} s.",
            f"The model of epoch {best} is kept; on unseen images its loss is {result['test_loss']:.4f} and its "
            f"accuracy {result['test_accuracy']:.4f}.",
        ],
        {"curves.png": figures.training_curves(result["history"], best, f"{label} on {Path(settings['data']).name}")},
        csv={"history.csv": [{"epoch": epoch} | asdict(one) for epoch, one in enumerate(history, 1)]},
    )
