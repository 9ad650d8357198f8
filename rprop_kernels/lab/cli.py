"""The command line ``rprop-lab``. Heavy libraries are imported inside the commands, so that --help is fast."""

import os
from pathlib import Path
from typing import Annotated

from ..install import install_command

try:
    import typer
except ModuleNotFoundError as missing:
    raise SystemExit(f"rprop-lab: {missing.name} is not installed: {install_command('lab')}") from None

from . import commands
from . import config as config_module
from .console import report_errors
from .errors import LabError

app = typer.Typer(
    help="The Neuro Backpropagation Lab: train, test and compare Rprop techniques on digits or MNIST.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

DataOption = Annotated[
    str | None,
    typer.Option(
        "--data",
        help="digits (embedded, the default), mnist (IDX files), csv, openml (a download), or a .csv file.",
    ),
]
FolderOption = Annotated[
    Path | None,
    typer.Option(
        "--data-dir", help="Folder of MNIST's four IDX files (plain or .gz), of CSV files, or OpenML's cache."
    ),
]
OutOption = Annotated[Path | None, typer.Option("--out", help="Folder for the results (default: one in runs/).")]
EpochsOption = Annotated[int | None, typer.Option("--epochs", min=1, help="Overrides the configuration's.")]


def main() -> None:
    """Run the command line (entry point of the console script)."""
    app()


@app.command()
def train(
    config: Annotated[Path, typer.Argument(metavar="CONFIG.json", help="The report's keys.")],
    data: DataOption = None,
    data_dir: FolderOption = None,
    out: OutOption = None,
    epochs: EpochsOption = None,
    seed: Annotated[int | None, typer.Option("--seed", min=0, help="Overrides the configuration's.")] = None,
) -> None:
    """Train one technique; keep the model of the lowest evaluation loss."""
    with report_errors():
        settings = config_module.read(config, data=data, data_dir=_text(data_dir), epochs=epochs, seed=seed)
        if settings.optimizer is None:
            raise LabError(f'{config} must have the key \'optimizer\', such as {{"optimizer": "iRprop+"}}.')
        commands.train(settings, out or Path("runs") / f"train-{commands.data_name(settings)}-{settings.optimizer}")


@app.command()
def test(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="The model.npz that train wrote.")],
    data: DataOption = None,
    data_dir: FolderOption = None,
) -> None:
    """Load a model and measure loss and accuracy on unseen data (by default the test part of its own)."""
    with report_errors():
        commands.test(model, data, _text(data_dir))


@app.command()
def compare(
    config: Annotated[
        Path | None, typer.Argument(metavar="CONFIG.json", help="The report's keys; optimizer is ignored.")
    ] = None,
    data: DataOption = None,
    data_dir: FolderOption = None,
    out: OutOption = None,
    epochs: EpochsOption = None,
    seeds: Annotated[int, typer.Option("--seeds", min=1, help="How many; they are 0, 1, ...")] = 5,
    resume: Annotated[bool, typer.Option("--resume", help="Take over the seeds that --out already holds.")] = False,
) -> None:
    """Compare all techniques over several seeds, from the same initial weights and data for each."""
    with report_errors():
        overrides = {"data": data, "data_dir": _text(data_dir), "epochs": epochs}
        settings = (
            config_module.from_mapping({}, **overrides) if config is None else config_module.read(config, **overrides)
        )
        folder = out or Path("runs") / f"compare-{commands.data_name(settings)}"
        commands.compare(settings, seeds, folder, resume, _text(config))


@app.command()
def serve(
    data: DataOption = None,
    data_dir: FolderOption = None,
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="0: any that is free.")] = 8137,
    show: Annotated[bool, typer.Option("--open", help="Open the page in the browser.")] = False,
) -> None:
    """Serve a page to draw digits and to race Rprop, Adam and SGD, for a browser on this machine; Ctrl-C ends it."""
    with report_errors():
        commands.serve(data, data_dir, port, show)


@app.command()
def study(
    name: Annotated[str | None, typer.Argument(help="A study's name, see --list.")] = None,
    show: Annotated[bool, typer.Option("--list", help="List all studies and how long they take.")] = False,
    quick: Annotated[bool, typer.Option("--quick", help="Reduced form: digits, few epochs and seeds.")] = False,
    data: Annotated[
        str | None,
        typer.Option("--data", help="digits, mnist, csv, openml or a .csv file.  [default: mnist where found]"),
    ] = None,
    data_dir: Annotated[
        Path | None,
        typer.Option("--data-dir", help="Folder with MNIST's files or PROBEN1's.  [default: $RPROP_LAB_DATA]"),
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", help="Folder.  [default: runs/study-NAME]")] = None,
    seeds: Annotated[int | None, typer.Option("--seeds", min=1, help="How many, instead of the study's.")] = None,
    epochs: Annotated[int | None, typer.Option("--epochs", min=1, help="At most so many.")] = None,
    jobs: Annotated[int, typer.Option("--jobs", min=1, help="Processes.")] = os.cpu_count() or 1,
    problem: Annotated[
        list[str] | None,
        typer.Option("--problem", help="PROBEN1 problem or .dt file; may be given several times."),
    ] = None,
    only: Annotated[
        list[str] | None,
        typer.Option("--only", help="SETTING=VALUE, such as hidden=100-100: those runs only; may be repeated."),
    ] = None,
) -> None:
    """Repeat an experiment of the other reports; finished runs are kept, and the same command continues."""
    with report_errors():
        from .studies import commands as study_commands

        if show or name is None:
            study_commands.list_studies()
            return
        chosen = study_commands.find_study(name)
        folder = out or Path("runs") / f"study-{chosen.name}{'-quick' if quick else ''}"
        study_commands.run_study(
            chosen, quick, data, data_dir, folder, seeds, epochs, jobs, tuple(problem or ()), only or []
        )


@app.command()
def classify(
    weights: Annotated[Path, typer.Argument(help="A weights.npz that a study wrote.")],
    data: Annotated[str, typer.Option("--data", help="A .csv file (label, pixels), mnist, digits, csv.")],
    data_dir: Annotated[Path | None, typer.Option("--data-dir", help="Folder of the data.")] = None,
    out: Annotated[Path | None, typer.Option("--out", help="Folder for confusion.png.")] = None,
) -> None:
    """Test the saved weights of a study on images, such as MNIST in CSV form: every row of a .csv file."""
    with report_errors():
        from .studies import commands as study_commands

        study_commands.classify(weights, data, data_dir, out)


@app.command()
def report(
    folder: Annotated[Path, typer.Argument(help="Folder whose sub-folders hold results.")] = Path("runs"),
    out: Annotated[Path | None, typer.Option("--out", help="The file.  [default: FOLDER/report.html]")] = None,
    markdown: Annotated[
        Path | None,
        typer.Option("--markdown", help="Write this .md file instead, and its pictures into a folder next to it."),
    ] = None,
) -> None:
    """Write all finished studies as one HTML page, or as a Markdown page."""
    with report_errors():
        from .studies import commands as study_commands

        study_commands.write_report(folder, out, markdown)


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path)
