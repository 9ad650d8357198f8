"""Implementations of ``train``, ``test``, ``compare`` and ``serve``; :mod:`.cli` has their options.

Heavy libraries are imported inside the functions, so that input errors are reported quickly.
"""

import os
import re
from contextlib import suppress
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table

from ..install import install_command
from . import config as config_module
from . import datasets
from .config import Config
from .console import progress_bar
from .errors import Interrupted, LabError

MODEL = "model.npz"


def train(config: Config, folder: Path) -> None:
    from .results import check_writable, environment, write_json

    console = Console()
    path = folder / MODEL
    check_writable(folder, (MODEL, "history.json", "curves.png"))
    dataset = datasets.load(config.data, _path(config.data_dir))
    config = config.for_data(dataset)
    assert config.optimizer is not None
    with console.status("loading torch"):
        from . import figures
        from .models import load, save
        from .optimizers import find
        from .training import Epoch, Run, hold_out, tensors

        _check_model(path, dataset.origin)
        training, evaluation = hold_out(tensors(dataset)[0], config, config.seed)
        run = Run(find(config.optimizer), training, evaluation, config, config.seed)
    console.print(
        f"{run.technique.label} on {dataset.origin}: {config.train_set_size} images to train, "
        f"{config.eval_set_size} to evaluate",
        highlight=False,
    )
    settings = config.as_dict() | {"data_origin": dataset.origin}
    saving = interrupted = False
    try:
        with progress_bar(console) as bar:
            task = bar.add_task("training", total=config.epochs)
            for epoch in range(1, config.epochs + 1):
                improved = run.epoch()
                now = run.history[-1]
                if improved:
                    saving = True
                    save(
                        path,
                        run.network,
                        {
                            "settings": settings,
                            "epoch": epoch,
                            "eval_loss": now.eval_loss,
                            "eval_accuracy": now.eval_accuracy,
                        },
                    )
                bar.update(
                    task,
                    advance=1,
                    description=f"loss {now.train_loss:.4f}, evaluation {now.eval_loss:.4f}, "
                    f"accuracy {now.eval_accuracy:.4f}",
                )
    except KeyboardInterrupt:
        interrupted = True
    if interrupted and not (saving and path.exists()):
        raise Interrupted(
            f"before a model was written; {path} is as it was" if path.exists() else "before a model was written"
        )
    if not saving:
        raise LabError(
            "The evaluation loss was never finite, so no model was kept. Look at learning_rate and step_sizes."
        )
    best = load(path).about  # from the file, whose content after an interruption is certain
    saved_model = (
        f"{path} holds the model of epoch {best['epoch']}, evaluation loss {best['eval_loss']:.4f}, "
        f"accuracy {best['eval_accuracy']:.4f}"
    )
    write_json(
        folder / "history.json",
        {
            "settings": settings,
            "environment": environment(),
            "interrupted": interrupted,
            "kept": {key: best[key] for key in ("epoch", "eval_loss", "eval_accuracy")},
            "history": {name: [getattr(epoch, name) for epoch in run.history] for name in Epoch.__slots__},
            "step_seconds": run.step_seconds,
        },
    )
    figure = figures.training_curves(run.history, best["epoch"], f"{run.technique.label} on {config.data}")
    figures.write(folder / "curves.png", figure)
    if interrupted:
        raise Interrupted(f"after {len(run.history)} of {config.epochs} epochs; {saved_model}")
    console.print(
        f"{saved_model}\ncurves: {folder / 'curves.png'}; settings and history: {folder / 'history.json'}\n"
        f"next: rprop-lab test {path}",
        highlight=False,
        soft_wrap=True,
    )


def _check_model(path: Path, origin: str) -> None:
    """Refuse to replace a model of other data; a model of the same data may be replaced.

    Raises:
        LabError: the file holds a model of other data.
    """
    from .models import load

    try:
        earlier = load(path).about["settings"].get("data_origin", origin)
    except LabError:  # missing or unusable
        return
    if earlier != origin:
        raise LabError(
            f"{path} holds a model of other data ({earlier}), which would be lost. Choose another folder with --out."
        )


def test(path: Path, data: str | None, data_dir: str | None) -> None:
    from .models import load
    from .training import evaluate, tensors

    model = load(path)
    try:
        trained = config_module.from_mapping(
            {key: value for key, value in model.about["settings"].items() if key != "data_origin" and value is not None}
        )
    except (KeyError, TypeError, AttributeError, LabError) as error:
        raise LabError(f"{path} has settings that this version does not support ({error}). Train again.") from error
    if data in (None, trained.data):
        data, data_dir = trained.data, data_dir or trained.data_dir
    dataset = datasets.load(data, _path(data_dir))
    network = model.network()
    inputs = model.weights["0.weight"].shape[1]
    if dataset.pixels != inputs:
        raise LabError(
            f"{path} was trained on images of {inputs} pixels, but {dataset.origin} has {dataset.pixels}. "
            "Give the data it was trained on with --data and --data-dir."
        )
    images = len(dataset.test_labels)
    loss, accuracy = evaluate(network, tensors(dataset)[1], trained.criterion, trained.eval_batch_size or images)
    console = Console()
    console.print(f"{path}: {trained.optimizer}, epoch {model.about['epoch']}", highlight=False, soft_wrap=True)
    table = Table(box=box.SIMPLE_HEAD)
    for heading in ("data", "loss", "accuracy"):
        table.add_column(heading, justify="left" if heading == "data" else "right")
    table.add_row("evaluation, at training", f"{model.about['eval_loss']:.4f}", f"{model.about['eval_accuracy']:.4f}")
    table.add_row(f"test, {images} unseen images", f"{loss:.4f}", f"{accuracy:.4f}")
    console.print(table)


def compare(config: Config, seeds: int, folder: Path, resume: bool, file: str | None) -> None:
    from .results import check_writable

    console = Console()
    with console.status("loading torch and the data"):
        from .optimizers import TECHNIQUES
        from .studies import report_a
        from .training import tensors

        check_writable(folder, report_a.FILES)
        dataset = datasets.load(config.data, _path(config.data_dir))
        config = config.for_data(dataset)
        comparison = report_a.Comparison.of(config, dataset)
        comparison.config = file
        if resume:
            comparison.resume(folder / report_a.RESULTS)
        else:
            comparison.check_data(folder / report_a.RESULTS)
        learn, unseen = tensors(dataset)
    remaining = [seed for seed in range(seeds) if seed not in comparison.done]
    console.print(
        f"{len(TECHNIQUES)} techniques x {len(remaining)} seeds x {config.epochs} epochs on {dataset.origin}: "
        f"{config.train_set_size} images to train, {config.eval_set_size} to evaluate, "
        f"{len(dataset.test_labels)} unseen",
        highlight=False,
    )
    interrupted = False
    try:
        with progress_bar(console) as bar:
            task = bar.add_task("", total=len(remaining) * len(TECHNIQUES) * config.epochs)
            for seed in remaining:
                bar.update(task, description=f"seed {seed}")
                comparison.seeds.append(
                    report_a.run_seed(seed, learn, unseen, config, progress=lambda: bar.advance(task))
                )
                report_a.write_results(comparison, folder)
    except KeyboardInterrupt:
        interrupted = True
    if not comparison.seeds:
        raise Interrupted("before the first seed was finished; nothing was written")
    report_a.write(comparison, folder)
    heading, rows = report_a.table(comparison)
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))  # fits 80 columns
    for column in heading:
        table.add_column(column, justify="left" if column == heading[0] else "right", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    console.print(table)
    for statement in report_a.statements(comparison):
        console.print(f"- {statement}", highlight=False)
    console.print(f"written to {folder}: {', '.join(report_a.FILES)}", highlight=False, soft_wrap=True)
    if interrupted:
        raise Interrupted(
            f"{len(comparison.seeds)} finished seeds are kept in {folder}; the same command with --resume "
            "goes on from there"
        )


def serve(data: str | None, data_dir: Path | None, port: int, show: bool) -> None:
    console = Console()
    with console.status("loading torch and the page"):
        try:
            from .serve import page
        except ModuleNotFoundError as missing:
            raise LabError(f"{missing.name} is not installed: {install_command('serve')}") from missing
        from .serve.sessions import TrainingSet

    with page.listen(port) as listener:
        with console.status("loading the data"):
            training_set = TrainingSet(datasets.load(data or "digits", data_dir))
        address = f"http://{page.HOST}:{listener.getsockname()[1]}"
        console.print(f"{training_set.dataset.origin}: {address}  (Ctrl-C ends it)", highlight=False, soft_wrap=True)
        if show:
            import webbrowser

            webbrowser.open(address)
        with suppress(KeyboardInterrupt):  # the regular way to end the server
            page.serve(training_set, listener)
    console.print("ended")


def data_name(config: Config) -> str:
    """Return the data's name in a form that suits a folder."""
    return re.sub(r"[^\w.-]+", "-", os.path.basename(config.data))


def _path(text: str | None) -> Path | None:
    return None if text is None else Path(text)
