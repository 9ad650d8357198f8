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
from . import datasets
from .config import Config
from .errors import Interrupted, LabError


def train(config: Config, folder: Path | None, force: bool, file: Path) -> None:
    from .models import MODEL
    from .studies.commands import run_study
    from .studies.registry import TRAIN

    if config.optimizer is None:
        raise LabError(f'{file} must have the key \'optimizer\', such as {{"optimizer": "iRprop+"}}.')
    folder = folder or Path("runs") / f"train-{data_name(config)}-{config.optimizer}"
    model = folder / MODEL
    try:
        run_study(
            TRAIN, folder, data=config.data, data_dir=_path(config.data_dir), force=force, config=config, file=file
        )
    except Interrupted as error:
        best = f"; {model} holds the model of lowest evaluation loss so far" if model.exists() else ""
        raise Interrupted(f"{error}{best}") from None
    Console().print(f"next: rprop-lab test {model}", highlight=False, soft_wrap=True)


def compare(config: Config, seeds: int, folder: Path | None, force: bool, file: Path | None) -> None:
    from .studies.commands import run_study
    from .studies.registry import COMPARE

    run_study(
        COMPARE,
        folder or Path("runs") / f"compare-{data_name(config)}",
        data=config.data,
        data_dir=_path(config.data_dir),
        seed=config.seed,
        seeds=seeds,
        force=force,
        config=config,
        file=file,
    )


def test(path: Path, data: str | None, data_dir: Path | None, out: Path | None, force: bool) -> None:
    import numpy as np
    from sklearn.metrics import confusion_matrix  # type: ignore[import-untyped]

    from . import models
    from .results import check_new

    picture = None if out is None else out / "confusion.png"
    if picture is not None:
        check_new(picture, force)
    model = models.load(path)
    name = data or model.settings.get("data")
    if name is None:
        raise LabError(f"{path} does not name its data. Name images to test it on with --data.")
    own = name == model.settings.get("data")
    folder = data_dir or (_path(model.settings.get("data_dir")) if own else None)
    if name.lower().endswith((".csv", ".csv.gz")) and not own:
        images, labels = datasets.read_csv(Path(name))
        pixel_max, origin = datasets.pixel_max(images), name
    else:
        dataset = datasets.load(name, folder)
        images, labels, pixel_max = dataset.test_images, dataset.test_labels, dataset.pixel_max
        origin = f"test part of {dataset.origin}"
    inputs, classes = model.network.sizes[0], model.network.sizes[-1]
    if images.shape[1] != inputs:
        raise LabError(
            f"{path} was trained on images of {inputs} pixels, but {origin} has {images.shape[1]}. "
            + ("Is the column of labels, the first, missing? " if images.shape[1] == inputs - 1 else "")
            + "Give it images of that size, with --data and --data-dir."
        )
    if labels.max() >= classes:
        raise LabError(f"{path} was trained for labels 0 to {classes - 1}, but {origin} has {labels.max()}.")
    prepared = model.inputs(images, pixel_max)
    outputs = model.network.predict(prepared)
    guess = outputs.argmax(1)
    loss, accuracy = model.network.loss(prepared, labels), float(np.mean(guess == labels))
    matrix = confusion_matrix(labels, guess, labels=range(classes))
    console = Console()
    at = ", ".join(
        f"{what} {value:g}" if value == int(value) else f"{what} {value:.4f}" for what, value in model.figures.items()
    )
    sizes = "-".join(map(str, model.network.sizes))
    console.print(
        f"{path}: {sizes}, {model.settings.get('optimizer')}; when it was saved: {at}", highlight=False, soft_wrap=True
    )
    if classes <= MAX_PRINTED:
        table = Table(title=f"rows: true, columns: predicted, {origin}", title_justify="left", box=box.SIMPLE_HEAD)
        table.add_column("")
        for label in range(classes):
            table.add_column(str(label), justify="right")
        for label, row in enumerate(matrix):
            table.add_row(str(label), *(str(count) if count else "." for count in row))
        console.print(table)
    console.print(
        f"{origin}: loss {loss:.4f}, accuracy {accuracy:.4f} ({(guess == labels).sum()} of {len(labels)})",
        highlight=False,
        soft_wrap=True,
    )
    if picture is not None:
        from . import figures

        figures.write(picture, figures.confusion(matrix, f"accuracy {accuracy:.4f}"))


MAX_PRINTED = 30
"""Classes up to which the confusion matrix is printed."""


def serve(data: str | None, data_dir: Path | None, port: int, show: bool, model: Path | None) -> None:
    from . import models

    console = Console()
    saved = None if model is None else models.load(model)
    if saved is not None and data is None:
        data, data_dir = saved.settings.get("data"), data_dir or _path(saved.settings.get("data_dir"))
    with console.status("loading torch and the page"):
        try:
            from .serve import page
        except ModuleNotFoundError as missing:
            raise LabError(f"{missing.name} is not installed: {install_command('serve')}") from missing
        from .serve.sessions import TrainingSet

    with page.listen(port) as listener:
        with console.status("loading the data"):
            training_set = TrainingSet(datasets.load(data or "digits", data_dir), saved)
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
