"""Studies: a row of the registry, the plan of its runs, the work of one run, and the page of results."""

import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from ..config import Config
from ..errors import LabError
from ..proben1 import REPORT

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Settings: TypeAlias = dict[str, Any]
"""Everything that determines the result of a run, as JSON values; ``data_dir`` is only a location."""
Result: TypeAlias = dict[str, Any]
Runs: TypeAlias = Sequence[tuple[Settings, Result]]


@dataclass(frozen=True, slots=True)
class Options:
    """Options of the command line.

    Attributes:
        quick: the reduced form: little data, few epochs and seeds.
        seed: the first of the seeds.
        seeds, epochs: maximum numbers; None is the study's own number.
        data: settings of the image set: ``data``, ``data_dir``, ``crc32``, ``is_mnist``, ``origin`` (its kind),
            ``where`` (it came from).
        problems: PROBEN1's: name, path and crc32 of each.
        only: the values of settings to which the runs are restricted.
        given: words of the command line that name the data, unless it is the report's.
        config, file: the configuration of ``train`` and ``compare``, and where it was read.
    """

    quick: bool = False
    seeds: int | None = None
    epochs: int | None = None
    data: Settings = field(default_factory=dict)
    problems: tuple[Settings, ...] = ()
    only: dict[str, list[str]] = field(default_factory=dict)
    given: tuple[str, ...] = ()
    seed: int = 0
    config: Config = field(default_factory=Config)
    file: str | None = None

    def count_epochs(self, full: int, quick: int = 3) -> int:
        """Return the epochs of a run for which the report has ``full``."""
        return min(quick if self.quick else full, self.epochs or full)

    def each_seed(self, full: int, quick: int = 2) -> range:
        """Return the seeds of a study that has ``full``."""
        return range(self.seed, self.seed + (self.seeds or (quick if self.quick else full)))

    def of(self, full: Sequence[Any], quick: Sequence[Any]) -> Sequence[Any]:
        """Choose between the full and the quick list."""
        return quick if self.quick else full

    @property
    def own_data(self) -> bool:
        """Whether this is the study on the report's data, though perhaps with fewer epochs or seeds."""
        return not self.quick and all(map(is_reports, (self.data, *self.problems)))

    @property
    def reports_data(self) -> bool:
        """Whether the report has figures for some of the data."""
        return any(map(is_reports, self.problems or (self.data,)))

    def notes(self, form: str) -> list[str]:
        """Describe how a run differs from the full study; ``form`` is the result of :func:`form`."""
        lines = []
        if self.quick:
            lines.append(
                "Reduced (--quick): few epochs and seeds, and of some studies fewer settings"
                + ("; the report's figures stand here for orientation only." if self.reports_data else ".")
            )
        if self.data and not self.data["is_mnist"]:
            lines.append(f"The data is {self.data['where']}; the report used MNIST.")
        if form != FULL:
            lines.append(f"{'Another' if 'instead of' in form else 'A reduced'} form of the study: {form}.")
        return lines

    def part(self, plan: list[Settings]) -> list[Settings]:
        """Select the runs of a plan that ``only`` asks for.

        Raises:
            LabError: there are none, or no such setting; the message lists the valid ones.
        """
        for key, wanted in self.only.items():
            there = list(dict.fromkeys(value_text(s[key]) for s in plan if key in s))
            if not there:
                keys = ", ".join(dict.fromkeys(k for s in plan for k in s))
                raise LabError(f"--only {key}=...: no run of this study has such a setting. There is: {keys}.")
            if missing := [value for value in wanted if value not in there]:
                raise LabError(f"--only {key}={missing[0]}: there is no such run. There is: {', '.join(there)}.")
            plan = [s for s in plan if key in s and value_text(s[key]) in wanted]
        if not plan:
            raise LabError("No run of this study has all the settings that --only asks for.")
        return plan


def is_reports(settings: Settings) -> bool:
    """Check whether images are MNIST, or a problem is PROBEN1's own file with unchanged content."""
    if "crc32" not in settings:
        return True
    if "is_mnist" in settings:
        return bool(settings["is_mnist"])
    row = REPORT.get(settings.get("problem") or settings["name"])
    return row is not None and row.crc32 == settings["crc32"]


def sizes(settings: Settings) -> str:
    """Format the layer sizes of a network for images: 784-128-10."""
    hidden = settings["hidden"] if "hidden" in settings else settings["hidden_units"]
    return "-".join(map(str, (settings.get("pixels", 784), *hidden, settings.get("classes", 10))))


def data_title(settings: Settings) -> str:
    """Return the title of the image set, MNIST if it is that."""
    return "MNIST" if is_reports(settings) else str(settings["data"]) if settings["data"] != "mnist" else "IDX files"


FULL: Final = "in full"


def form(plan: list[Settings], full: list[Settings]) -> str:
    """Describe how much of the ``full`` plan a plan is: ``"1 seed of 5, 10 epochs of 100"``, or ``FULL``."""
    lines = []
    mine, whole = (len({s.get("seed") for s in part}) for part in (plan, full))
    if mine != whole:
        lines.append(f"{mine} seed{'s' * (mine != 1)} {'of' if mine < whole else 'instead of'} {whole}")
    for key in ("epochs", "evaluations"):
        ours, theirs = (sorted({s[key] for s in part if key in s}) for part in (plan, full))
        if ours and ours[-1] != theirs[-1]:
            spans = ["-".join(map(str, dict.fromkeys((span[0], span[-1])))) for span in (ours, theirs)]
            what, of = key.removesuffix("s") if ours[-1] == 1 else key, "of" if ours[-1] < theirs[-1] else "instead of"
            lines.append(f"{spans[0]} {what} {of} {spans[1]}")
    seeds = {s.get("seed") for s in plan}
    kinds = sum(s.get("seed") in seeds for s in full) if mine <= whole else len(full) * mine // whole
    if len(plan) != kinds:
        lines.append(f"{len(plan)} of {kinds} kinds of runs" if mine != whole else f"{len(plan)} of {kinds} runs")
    return ", ".join(lines) or FULL


def value_text(value: Any) -> str:
    """Format a setting's value as for --only: 100-100 for a list, all for a batch of None."""
    if isinstance(value, list):
        return "-".join(map(value_text, value))
    return "all" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


@dataclass(frozen=True, slots=True)
class Table:
    """A table of text cells; the first column names the row."""

    title: str
    heading: list[str]
    rows: list[list[str]]


def without_report(table: Table) -> Table:
    """Remove the report's columns from a table of other data, where they do not apply."""
    columns = [i for i, name in enumerate(table.heading) if not name.startswith("report") and "diff." not in name]
    return Table(table.title, [table.heading[i] for i in columns], [[row[i] for i in columns] for row in table.rows])


@dataclass(frozen=True, slots=True)
class Page:
    """The results of a study.

    Attributes:
        tables: our figures and the report's.
        statements: sentences on the method, the differences and their reasons.
        figures: by file name.
        csv: further rows by file name.
        findings: sentences on the results in the documentation, which need not hold for others.
        findings_of: the form (:func:`form`) of those results.
    """

    tables: list[Table]
    statements: list[str]
    figures: "dict[str, Figure]"
    csv: dict[str, Sequence[dict[str, Any]]] = field(default_factory=dict)
    findings: list[str] = field(default_factory=list)
    findings_of: str = "in full"


@dataclass(frozen=True, slots=True)
class Study:
    """A row of the registry of studies.

    Attributes:
        name: its name on the command line; the first letter is the report's.
        line: one-line description.
        minutes: expected for the whole of it on the report's data, on one core.
        plan: the settings of every run.
        work: does one run; a training that diverges is a result. May write files that begin with its path.
        page: from the finished runs, in the order of the plan.
        needs: "images", "proben1" or "".
        alone: one run at a time, because time is what is measured.
        parts: whether its page can be made from a part of the runs.
        all_cores: whether a run uses all of them.
        configured: whether a configuration is a part of it, so that all of it is a matter of that.
    """

    name: str
    line: str
    minutes: float
    plan: Callable[[Options], list[Settings]]
    work: Callable[[Settings, Path], Result]
    page: Callable[[Runs], Page]
    needs: str = ""
    alone: bool = False
    parts: bool = False
    all_cores: bool = False
    configured: bool = False

    def full(self, options: Options) -> Config:
        """Return the configuration of the full study."""
        return options.config if self.configured else Config()


def groups(runs: Runs, *keys: str) -> dict[tuple[Any, ...], list[tuple[Settings, Result]]]:
    """Group runs that agree in ``keys``, such as all seeds of one setting, in the order of the plan."""
    found: dict[tuple[Any, ...], list[tuple[Settings, Result]]] = {}
    for settings, result in runs:
        key = tuple(tuple(v) if isinstance(v := settings.get(k), list) else v for k in keys)
        found.setdefault(key, []).append((settings, result))
    return found


def mean(values: Iterable[float | None]) -> float | None:
    """Compute the mean of the values that are not missing."""
    known = [value for value in values if value is not None and value == value]
    return statistics.fmean(known) if known else None


def at_epoch(results: Sequence[Result], key: str, epoch: int) -> float | None:
    """Compute the mean of a history at an epoch, over the trainings that reached it."""
    return mean(r["history"][key][epoch - 1] for r in results if len(r["history"][key]) >= epoch)


def spread(values: Iterable[float | None]) -> float | None:
    """Compute the standard deviation of the values that are not missing."""
    known = [value for value in values if value is not None and value == value]
    return statistics.stdev(known) if len(known) > 1 else None


def number(value: float | None, digits: int = 4, sign: str = "") -> str:
    """Format a number, or a dash if it is missing."""
    return "-" if value is None or value != value else f"{value:{sign}.{digits}f}"


def with_spread(values: Iterable[float | None], digits: int = 4) -> str:
    """Format mean ± standard deviation."""
    values = list(values)
    deviation = spread(values)
    return number(mean(values), digits) + ("" if deviation is None else f" ± {deviation:.{digits}f}")


def minus(ours: float | None, reported: float | None, digits: int = 4) -> str:
    """Format our figure minus the report's."""
    return "-" if ours is None or reported is None else number(ours - reported, digits, "+")


def diverged(runs: Runs) -> str:
    """Describe how many runs diverged and when: ``"2 of 5 diverged at epoch 3"``, or nothing."""
    at = [result["diverged_at"] for _, result in runs if result.get("diverged_at")]
    if not at:
        return ""
    epochs = f"epoch {min(at)}" if min(at) == max(at) else f"epochs {min(at)}-{max(at)}"
    many = f"{len(at)} of {len(runs)} diverged" if len(at) < len(runs) else "diverged"
    return f"{many} at {epochs}"
