"""Execution of a study: missing runs in parallel processes, one result file each, then the page."""

import hashlib
import json
import os
import re
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

from ... import __version__
from ..errors import Interrupted, LabError
from ..proben1 import REPORT
from ..results import (
    csv_table,
    environment,
    markdown_table,
    processor_name,
    stored_results,
    write_json,
    write_text,
)
from .plan import (
    FULL,
    Options,
    Page,
    Result,
    Runs,
    Settings,
    Study,
    data_title,
    form,
    is_reports,
    sizes,
    without_report,
)
from .progress import ProgressReader, clear, unfinished

RESULTS: Final = "results.json"
FINDING_PREFIX: Final = "Of the results in the documentation: "
"""Prefix of findings."""
_NOT_IDENTITY: Final = ("data_dir", "path", "where", "pixels", "classes")


def identity(study: Study, settings: Settings) -> str:
    """Return a run's name: a hash of everything that determines its result, including the package's version."""
    decisive = {key: value for key, value in settings.items() if key not in _NOT_IDENTITY}
    text = json.dumps([study.name, __version__, decisive], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def run_file(study: Study, settings: Settings, folder: Path) -> Path:
    """Return the path of a run's result."""
    return folder / "runs" / f"{identity(study, settings)}.json"


def stored(path: Path) -> Result | None:
    """Load the result of a run, or None if it is missing or incomplete."""
    record = _record(path)
    return None if record is None else record["result"]


def _record(path: Path) -> dict[str, Any] | None:
    """Load the record of a run, or None."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        whole = isinstance(record["result"], dict)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return record if whole else None


def do_run(study: Study, settings: Settings, folder: Path) -> float:
    """Do one run and write its result atomically; return its seconds."""
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    path = run_file(study, settings, folder)
    start = time.perf_counter()
    try:
        with threadpool_limits(None if study.all_cores else 1):  # the same bits for any number of processes
            result = study.work(settings, path)
        seconds = time.perf_counter() - start
        write_json(
            path,
            {
                "study": study.name,
                "settings": settings,
                "seconds": seconds,
                "made with": provenance(),
                "result": result,
            },
        )
        clear(path, finished=True)
    finally:
        clear(path)
    return seconds


@cache
def provenance() -> str:
    """Describe the versions and the processor on which a run's result and seconds depend."""
    versions = []
    for name in ("numpy", "scipy", "scikit-learn", "numba", "torch"):
        with suppress(PackageNotFoundError):
            versions.append(f"{name} {version(name)}")
    return ", ".join([*versions, processor_name()])


def _by_name(name: str, settings: Settings, folder: Path) -> float:
    """Do a run in another process: the study is found by its name, so that only settings are sent."""
    from .registry import STUDIES

    _end_with_parent(os.getppid())
    return do_run(STUDIES[name], settings, folder)


@cache
def _end_with_parent(parent: int) -> None:
    """Exit when the parent process ends, so that a killed study leaves no processes behind."""

    def watch_parent() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch_parent, daemon=True).start()


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep other processes from working in the folder; the system ends the lock of a killed process.

    Raises:
        LabError: another one does already, or the folder cannot be written.
    """
    from filelock import FileLock, Timeout

    try:
        (folder / "runs").mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / "runs" / ".lock")
        lock.acquire(timeout=0)
    except Timeout:
        raise LabError(
            f"Another rprop-lab is at work in {folder}. Wait for its end, or choose another folder with --out."
        ) from None
    except OSError as error:
        raise LabError(
            f"Nothing can be written to {folder}: {error.strerror or error}. Choose another folder with --out."
        ) from error
    try:
        yield
    finally:
        lock.release()


def execute(
    study: Study, plan: list[Settings], folder: Path, jobs: int, progress: Callable[[float, str], None]
) -> None:
    """Do every run of the plan that has no result; call ``progress(done, text)`` after each and in between.

    Raises:
        Interrupted: by Ctrl-C; every finished run is kept, and the last checkpoint of the others.
        LabError: a file cannot be written; likewise.
    """
    from joblib import Parallel, delayed, parallel_config  # type: ignore[import-untyped]

    files = [(settings, run_file(study, settings, folder)) for settings in plan]
    remaining = [(settings, path) for settings, path in files if stored(path) is None]
    todo, paths = [settings for settings, _ in remaining], [path for _, path in remaining]
    for path in paths:
        clear(path)  # left by a killed run
    workers = 1 if study.alone else min(jobs, len(todo))
    try:
        with ProgressReader(paths, len(plan) - len(todo), progress) as reader:
            if workers <= 1:
                for settings in todo:
                    do_run(study, settings, folder)
                    reader.finished()
                return
            with parallel_config("loky", n_jobs=workers, inner_max_num_threads=1):
                tasks = (delayed(_by_name)(study.name, settings, folder) for settings in todo)
                for _ in Parallel(return_as="generator_unordered", pre_dispatch="n_jobs")(tasks):
                    reader.finished()
    except (KeyboardInterrupt, LabError) as error:
        completed = sum(stored(path) is not None for _, path in files)
        begun = sum(map(unfinished, paths))
        kept = f"{completed} of {len(plan)} runs" + f" and the last checkpoint of {begun} unfinished" * (begun > 0)
        text = f"{kept} are kept in {folder}; the same command goes on from there"
        if isinstance(error, LabError):
            raise LabError(f"{error} {text}." if completed or begun else str(error)) from error
        raise Interrupted(text) from None


def finish(study: Study, options: Options, plan: list[Settings], folder: Path) -> Page:
    """Create and write the page of the finished runs."""
    runs: list[tuple[Settings, Result]] = []
    makers: dict[str, int] = {}
    for settings in plan:
        record = _record(run_file(study, settings, folder))
        assert record is not None
        runs.append((settings, record["result"]))
        maker = str(record.get("made with"))
        makers[maker] = 1 + makers.get(maker, 0)
    whole = form(plan, study.plan(Options(data=options.data, problems=options.problems, config=study.full(options))))
    names = {problem["name"] for problem in options.problems if is_reports(problem)}
    if names < set(REPORT) and len(names) == len(options.problems):
        some = f"{len(names)} problem{'s' * (len(names) != 1)} of {len(REPORT)}" if names else ""
        whole = ", ".join(part for part in (some, whole) if part and (part != FULL or not some))
    if options.only:
        whole += " (" + "; ".join(f"{key} {', '.join(values)}" for key, values in options.only.items()) + ")"
    if options.seed:
        whole += f" (seeds from {options.seed})"
    page = study.page(runs)
    findings = [FINDING_PREFIX + line for line in page.findings if options.own_data]
    tables = page.tables
    if not options.reports_data:
        tables = [without_report(table) for table in tables if table.rows]
    notes = options.notes(whole)
    if len(makers) > 1:
        made = "; ".join(f"{count} with {maker}" for maker, count in makers.items())
        notes.append(f"The runs were not all made with the same versions on the same processor: {made}.")
    page = replace(page, tables=tables, statements=[*page.statements, *findings, *notes])
    write(study, options, whole, page, runs, folder)
    return page


def write(study: Study, options: Options, whole: str, page: Page, runs: Runs, folder: Path) -> None:
    """Write tables (CSV, Markdown), pictures, and results.json with settings, machine and versions."""
    from .. import figures

    line = study.line
    if not is_reports(options.data):
        line = line.replace("784-128-10", sizes(runs[0][0])).replace("MNIST", data_title(options.data))
    text = f"# {study.name}: {line}\n\n"
    for table in page.tables:
        rows = [dict(zip(table.heading, row, strict=True)) for row in table.rows]
        write_text(folder / f"{slug(table.title)}.csv", csv_table(rows))
        text += f"## {table.title}\n\n{markdown_table(table.heading, table.rows)}\n"
    text += "".join(f"- {statement}\n" for statement in page.statements)
    for name, picture in page.figures.items():
        figures.write(folder / name, picture)
        text += f"\n![{name}]({name})\n"
        if cells := figures.cells(picture):
            write_text((folder / name).with_suffix(".csv"), csv_table(cells))
    for name, lines in page.csv.items():
        write_text(folder / name, csv_table(lines))
    write_text(folder / "table.md", text)
    write_json(
        folder / RESULTS,
        {
            "study": study.name,
            "line": line,
            "form": whole,
            "findings of": page.findings_of,
            "options": {
                "quick": options.quick,
                "seed": options.seed,
                "seeds": options.seeds,
                "epochs": options.epochs,
                "data": options.data,
                "problems": [problem["name"] for problem in options.problems],
                "crc32s": {problem["name"]: problem["crc32"] for problem in options.problems},
                "given": list(options.given),
                "only": options.only,
                "config": options.file,
            },
            "environment": environment(),
            "tables": [{"title": t.title, "heading": t.heading, "rows": t.rows} for t in page.tables],
            "statements": page.statements,
            "pictures": list(page.figures),
            "runs": len(runs),
            "identities": [identity(study, settings) for settings, _ in runs],
            "settings": _common([settings for settings, _ in runs]),
        },
    )


def slug(title: str) -> str:
    """Convert a title to a file name."""
    return re.sub(r"[^\w.+-]+", "-", title.lower()).strip("-")[:60]


def _common(plan: Sequence[Settings]) -> dict[str, Any]:
    """Return the settings that all runs share, and the list of values of the others."""
    keys = dict.fromkeys(key for settings in plan for key in settings)
    found: dict[str, Any] = {}
    for key in keys:
        values = list({json.dumps(settings.get(key)): settings.get(key) for settings in plan}.values())
        found[key] = values[0] if len(values) == 1 else values
    return found


WRITTEN: Final = (".csv", ".json", ".md", ".npz", ".png")
"""Endings of the files that a study writes."""


def check_folder(study: Study, options: Options, plan: list[Settings], folder: Path) -> str:
    """Check before training that nothing in the folder would be lost.

    A folder must be new, or hold nothing but results that the plan contains. Finished runs are never replaced.

    Returns:
        A sentence on results that are cut short, or nothing.

    Raises:
        LabError: it holds other results, or files that no study wrote.
    """
    if not folder.is_dir():
        return ""
    names = sorted(path.name for path in folder.iterdir() if path.suffix in WRITTEN and path.is_file())
    earlier = stored_results(folder / RESULTS)
    remedy = "Choose another folder with --out, or replace them with --force."
    runs = len(list((folder / "runs").glob("*.json")))
    if earlier is None and RESULTS in names and runs:
        return f"{folder / RESULTS} is damaged; it is made again from the {runs} results in {folder / 'runs'}."
    if earlier is None or not isinstance(known := earlier.get("options"), dict):
        if names and not runs and not any((folder / "runs").glob("*.checkpoint")):
            raise LabError(f"{folder} holds files that no study wrote ({', '.join(names[:4])}). {remedy}")
        return ""
    other = ""
    crc32 = (known.get("data") or {}).get("crc32")
    mine = {problem["name"]: problem["crc32"] for problem in options.problems}
    theirs = known.get("crc32s", {})
    if earlier.get("study") != study.name:
        other = f"of {earlier.get('study')}"
    elif crc32 != options.data.get("crc32"):
        other = f"on other data, {(known.get('data') or {}).get('where')}"
    elif replaced := [name for name in theirs if theirs[name] != mine.get(name)]:
        other = f"on other problems, {', '.join(replaced)}"
    elif not {identity(study, settings) for settings in plan} >= set(earlier.get("identities") or ("",)):
        settings, now = earlier.get("settings", {}), json.loads(json.dumps(_common(plan)))
        keys = [key for key in now if key not in _NOT_IDENTITY and now[key] != settings.get(key)]
        other = f"with other settings ({', '.join(keys)})" if keys else "of another version"
    if other:
        raise LabError(f"{folder} holds results {other}, which would be lost. {remedy}")
    return ""
