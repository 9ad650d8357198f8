"""Implementations of ``study``, ``classify`` and ``report``; :mod:`rprop_kernels.lab.cli` has their options.

Heavy libraries are imported inside the functions, so that input errors are reported quickly.
"""

import os
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table as RichTable

from ..config import Config
from ..console import progress_bar
from ..errors import LabError
from ..proben1 import PROBLEMS, find, read
from ..results import check_writable
from .plan import Options, Page, Settings, Study, is_reports


def list_studies() -> None:
    from .registry import STUDIES

    table = RichTable(box=None, padding=(0, 2, 0, 0))
    for heading in ("study", "what it repeats", "data", "one core"):
        table.add_column(heading, no_wrap=heading == "study", justify="right" if heading == "one core" else "left")
    data = {"images": "MNIST", "proben1": "PROBEN1", "": "none"}
    for row in STUDIES.values():
        table.add_row(row.name, row.line, data[row.needs], duration(row.minutes))
    console = Console()
    console.print(table)
    console.print(
        "\nThe letter is the report's. Durations are for one core; --jobs divides them. --quick takes seconds: instead "
        "of MNIST on the embedded digits; PROBEN1's files are needed for it too (--data-dir FOLDER).\n"
        "Next: rprop-lab study b-optimizers --quick",
        highlight=False,
    )


def duration(minutes: float) -> str:
    """Format a duration in minutes."""
    if minutes < 1:
        return f"{max(1, round(minutes * 60))} s"
    return f"{round(minutes)} min" if minutes < 90 else f"{minutes / 60:.0f} h"


def find_study(name: str) -> Study:
    import difflib

    from .registry import STUDIES

    if name not in STUDIES:
        near = difflib.get_close_matches(name, STUDIES, 1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise LabError(f"There is no study {name!r}.{hint} There is: {', '.join(STUDIES)}.")
    return STUDIES[name]


def run_study(
    chosen: Study,
    folder: Path,
    *,
    quick: bool = False,
    data: str | None = None,
    data_dir: Path | None = None,
    seed: int = 0,
    seeds: int | None = None,
    epochs: int | None = None,
    jobs: int = 1,
    problems: tuple[str, ...] = (),
    only: Sequence[str] = (),
    force: bool = False,
    config: Config | None = None,
    file: Path | None = None,
) -> None:
    """Do all runs of a study that are missing in the folder, then show and write its page."""
    from . import runner

    part = _parse_only(only, chosen)
    needless = {
        "--data": data is not None and chosen.needs != "images",
        "--data-dir": data_dir is not None and not chosen.needs,
        "--problem": bool(problems) and chosen.needs != "proben1",
    }
    if option := next((name for name, given in needless.items() if given), ""):
        work = {"images": "images", "proben1": "PROBEN1's problems"}.get(chosen.needs, "data that it makes itself")
        raise LabError(f"{chosen.name} works on {work} and takes no {option}. Leave it out.")

    console = Console()
    check_writable(folder / "runs")
    with console.status("looking at the data"):
        images = _images(data, data_dir, quick) if chosen.needs == "images" else {}
        files = _problems(chosen, problems, data_dir, quick) if chosen.needs == "proben1" else ()
        given = _data_arguments(images, files, problems, data_dir)
        options = Options(
            quick,
            seeds,
            epochs,
            images,
            files,
            part,
            given,
            seed,
            config or Config(),
            None if file is None else str(file),
        )
        plan = options.part(chosen.plan(options))
        note = "" if force else runner.check_folder(chosen, options, plan, folder)
    _check_square(plan)
    if images:
        console.print(f"data: {images['where']}", highlight=False, soft_wrap=True)
    if note:
        console.print(note, highlight=False, soft_wrap=True)
    with runner.locked(folder):
        with progress_bar(console) as bar:
            task = bar.add_task(chosen.name, total=len(plan))

            def progress(done: float, text: str) -> None:
                bar.update(task, completed=done, description=f"{chosen.name} {text}".rstrip())

            runner.execute(chosen, plan, folder, jobs, progress)
        page = runner.finish(chosen, options, plan, folder)
    show_page(console, page)
    names = ", ".join([runner.RESULTS, "table.md", *page.figures, *page.csv])
    console.print(f"written to {folder}: {names}", highlight=False, soft_wrap=True)


def _check_square(plan: list[Settings]) -> None:
    """Check before training that images that are to be rotated and zoomed are square."""
    from .fitting import image_set

    for settings in plan:
        if settings.get("augment"):
            pixels = image_set(settings["data"], settings.get("data_dir")).pixels
            if round(pixels**0.5) ** 2 != pixels:
                raise LabError(
                    f"This study turns and zooms images, so they must be square; {settings['origin']} has {pixels} "
                    "pixels an image. Choose other data with --data, or bring the images to 28 x 28."
                )
            return


def _parse_only(only: Sequence[str], chosen: Study) -> dict[str, list[str]]:
    """Parse ``SETTING=VALUE`` arguments into a table."""
    from .registry import STUDIES

    part: dict[str, list[str]] = {}
    for text in only:
        key, equals, value = text.partition("=")
        if not (key and equals and value):
            raise LabError(f"--only {text}: give a setting and its value, such as --only hidden=100-100.")
        part.setdefault(key, []).append(value)
    if part and not chosen.parts:
        some = ", ".join(study.name for study in STUDIES.values() if study.parts)
        raise LabError(f"{chosen.name} needs all its runs for its page; --only goes with {some}.")
    return part


def show_page(console: Console, page: Page) -> None:
    """Print tables and statements to the terminal."""
    wide = Console(width=max(console.width, 180))
    for table in page.tables:
        shown = RichTable(title=table.title, title_justify="left", padding=(0, 1, 0, 0), box=None)
        for index, heading in enumerate(table.heading):
            shown.add_column(heading, justify="right" if index else "left", no_wrap=True)
        for row in table.rows:
            shown.add_row(*row)
        wide.print(shown)  # a terminal that is narrower breaks lines itself, and loses nothing
    for statement in page.statements:
        console.print(f"- {statement}", highlight=False, markup=False)


def folders(data_dir: Path | None) -> list[Path]:
    """List the folders that may hold data: the given one, RPROP_LAB_DATA, or ../shared/data."""
    if data_dir is not None:
        return [data_dir]
    usable = os.environ.get("RPROP_LAB_DATA")
    return [Path(usable)] if usable else [Path.cwd().parent / "shared" / "data"]


def _images(data: str | None, data_dir: Path | None, quick: bool) -> Settings:
    """Return settings that identify the image set, with a checksum, so that other images give other runs."""
    import numpy as np

    from .fitting import image_set

    folder = data_dir
    if data is None and quick and data_dir is None:
        data = "digits"
    if data in (None, "mnist"):
        there = [f for base in folders(data_dir) for f in (base, base / "mnist") if any(f.glob("*idx3*"))]
        if data is None and data_dir is not None and not there:
            raise LabError(
                f"{data_dir} has no MNIST files (train-images-idx3-ubyte and so on), nor a folder mnist "
                "with them. Name the data with --data too, such as --data csv."
            )
        data = data or ("mnist" if there else "digits")
        folder = there[0] if there and data == "mnist" else folder
    text = None if folder is None else str(folder)
    dataset = image_set(data, text)
    crc = 0
    for array in (dataset.learn_images, dataset.learn_labels, dataset.test_images, dataset.test_labels):
        crc = zlib.crc32(np.ascontiguousarray(array).tobytes(), crc)
    found: dict[str, Any] = {
        "data": data,
        "data_dir": text,
        "crc32": f"{crc:08x}",
        "is_mnist": dataset.is_mnist,
        "pixels": dataset.pixels,
        "classes": dataset.classes,
    }
    kind = dataset.origin if data != "mnist" else "MNIST" if dataset.is_mnist else "IDX files"
    return found | {"origin": kind, "where": "MNIST" if kind == "MNIST" else dataset.origin}


def _problems(chosen: Study, names: tuple[str, ...], data_dir: Path | None, quick: bool) -> tuple[Settings, ...]:
    base = folders(data_dir)[0]
    if data_dir is None and not all(name.endswith(".dt") for name in names or ("",)) and not base.is_dir():
        raise LabError(
            f"{chosen.name} needs PROBEN1's files, which are not part of this package. They are at "
            f"https://github.com/jeffheaton/proben1. Then: rprop-lab study {chosen.name}{' --quick' * quick} "
            "--data-dir FOLDER, the folder with its .dt files."
        )
    if not names:
        names = ("cancer1", "glass1") if quick else PROBLEMS
        if data_dir is not None and (there := sorted(path.stem for path in base.rglob("*.dt"))):
            names = names if set(names) <= set(there) else tuple(there)
    usable, bad = [], []
    for name, path in find(base, names).items():
        try:
            usable.append({"name": name, "path": str(path), "crc32": read(path).crc32})
        except LabError as error:
            bad.append(error)
    if bad and usable:
        others = " ".join(f"--problem {problem['name']}" for problem in usable)
        raise LabError(f"{bad[0]} To leave it out, name the others: {others}.") from bad[0]
    if bad:
        raise bad[0]
    return tuple(usable)


def _data_arguments(
    images: Settings, files: tuple[Settings, ...], problems: tuple[str, ...], data_dir: Path | None
) -> tuple[str, ...]:
    """Return arguments that name the data; none if it is MNIST or PROBEN1's own files, wherever they are."""
    if images:
        if images["data"] == "mnist" and images["is_mnist"]:
            return ()
        folder = images["data_dir"] if images["data"] != "digits" else None
        return ("--data", images["data"], *(("--data-dir", folder) if folder else ()))
    if all(map(is_reports, files)):
        return ()
    paths = {Path(name).stem: name for name in problems if name.endswith(".dt")}
    words = () if data_dir is None else ("--data-dir", str(data_dir))
    return (*words, *(word for file in files for word in ("--problem", paths.get(file["name"], file["name"]))))


def write_report(folder: Path, out: Path | None, markdown: Path | None, force: bool) -> None:
    """Write all finished studies below a folder as one HTML page or one Markdown page."""
    from . import html

    if markdown is not None and (out is not None or markdown.suffix != ".md"):
        raise LabError("--markdown FILE.md is instead of --out; give one of them, with the ending .md.")
    path = markdown or out or folder / "report.html"
    count = html.write_report(folder, path, force) if markdown is None else html.write_markdown(folder, path, force)
    console = Console()
    console.print(f"{path}: {count} stud{'y' if count == 1 else 'ies'}", highlight=False, soft_wrap=True)
    for line in html.unfinished(folder):
        console.print(f"not finished: {line}", highlight=False, soft_wrap=True)
