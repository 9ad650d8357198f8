"""The command line ``rprop-lab``. Heavy libraries are imported inside the commands, so that --help is fast."""

import os
import sys
from io import TextIOWrapper
from pathlib import Path
from typing import Annotated

from ..install import install_command

try:
    import typer
except ModuleNotFoundError as missing:
    raise SystemExit(f"rprop-lab: {missing.name} is not installed: {install_command('lab')}") from None

from .. import __version__
from . import commands
from . import config as config_module
from .console import report_errors

app = typer.Typer(
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
OutOption = Annotated[Path | None, typer.Option("--out", help="Folder for the results.  [default: one in runs/]")]
ForceOption = Annotated[bool, typer.Option("--force", help="Replace other results that are there.")]
SeedOption = Annotated[int | None, typer.Option("--seed", min=0, help="The first seed; overrides the configuration's.")]
EpochsOption = Annotated[int | None, typer.Option("--epochs", min=1, help="Overrides the configuration's.")]


def main() -> None:
    """Run the command line (entry point of the console script)."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):  # names and symbols that a terminal or file cannot hold end no training
            stream.reconfigure(errors="backslashreplace")
    app()


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"rprop-lab {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Train, test and compare Rprop techniques on digits or MNIST: the Neuro Backpropagation Lab."""


@app.command(epilog=f"Keys of the configuration:\n\n{config_module.KEYS}")
def train(
    config: Annotated[Path, typer.Argument(metavar="CONFIG.json", help="A JSON object with the keys below.")],
    data: DataOption = None,
    data_dir: FolderOption = None,
    out: OutOption = None,
    epochs: EpochsOption = None,
    seed: SeedOption = None,
    force: ForceOption = False,
) -> None:
    """Train one technique; keep the model of the lowest evaluation loss. The same command resumes."""
    with report_errors():
        settings = config_module.read(config, data=data, data_dir=_text(data_dir), epochs=epochs, seed=seed)
        commands.train(settings, out, force, config)


@app.command()
def test(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="A model.npz of train, or an .npz file of a study.")],
    data: DataOption = None,
    data_dir: FolderOption = None,
    out: Annotated[Path | None, typer.Option("--out", help="Folder for confusion.png.")] = None,
    force: ForceOption = False,
) -> None:
    """Measure a saved model on the test part of its own data, or on other images: every row of a .csv file."""
    with report_errors():
        commands.test(model, data, data_dir, out, force)


app.command("classify", help="The same as test.")(test)


@app.command(epilog=f"Keys of the configuration:\n\n{config_module.KEYS}")
def compare(
    config: Annotated[
        Path | None,
        typer.Argument(metavar="CONFIG.json", help="A JSON object with the keys below; optimizer is ignored."),
    ] = None,
    data: DataOption = None,
    data_dir: FolderOption = None,
    out: OutOption = None,
    epochs: EpochsOption = None,
    seed: SeedOption = None,
    seeds: Annotated[int, typer.Option("--seeds", min=1, help="How many, from the first on.")] = 5,
    force: ForceOption = False,
) -> None:
    """Compare the Rprop family over several seeds, from the same weights and data. The same command resumes."""
    with report_errors():
        settings = config_module.read(config, data=data, data_dir=_text(data_dir), epochs=epochs, seed=seed)
        commands.compare(settings, seeds, out, force, config)


@app.command()
def serve(
    data: DataOption = None,
    data_dir: FolderOption = None,
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="0: any that is free.")] = 8137,
    show: Annotated[bool, typer.Option("--open", help="Open the page in the browser.")] = False,
    model: Annotated[
        Path | None, typer.Option("--model", help="A saved model, to draw digits for; its data is the default.")
    ] = None,
) -> None:
    """Serve a page to draw digits and to race Rprop, Adam and SGD, for a browser on this machine; Ctrl-C ends it."""
    with report_errors():
        commands.serve(data, data_dir, port, show, model)


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
    seed: Annotated[int, typer.Option("--seed", min=0, help="The first seed.")] = 0,
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
    force: ForceOption = False,
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
            chosen,
            folder,
            quick=quick,
            data=data,
            data_dir=data_dir,
            seed=seed,
            seeds=seeds,
            epochs=epochs,
            jobs=jobs,
            problems=tuple(problem or ()),
            only=only or [],
            force=force,
        )


@app.command()
def report(
    folder: Annotated[Path, typer.Argument(help="Folder whose sub-folders hold results.")] = Path("runs"),
    out: Annotated[Path | None, typer.Option("--out", help="The file.  [default: FOLDER/report.html]")] = None,
    markdown: Annotated[
        Path | None,
        typer.Option("--markdown", help="Write this .md file instead, and its pictures into a folder next to it."),
    ] = None,
    force: ForceOption = False,
) -> None:
    """Write all finished studies as one HTML page, or as a Markdown page."""
    with report_errors():
        from .studies import commands as study_commands

        study_commands.write_report(folder, out, markdown, force)


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path)
