"""PROBEN1: its .dt files, its error measure, and its report's results for RPROP.

L. Prechelt, "PROBEN1: a set of neural network benchmark problems and benchmarking rules", Technical Report
21/94, Universität Karlsruhe, 1994.
"""

import zlib
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from .errors import LabError

Array: TypeAlias = NDArray[Any]

HEADER: Final = (
    "bool_in",
    "real_in",
    "bool_out",
    "real_out",
    "training_examples",
    "validation_examples",
    "test_examples",
)


@dataclass(frozen=True, slots=True)
class Problem:
    """Inputs of shape (examples, inputs) and targets of shape (examples, outputs), float64, in three parts.

    ``classification``: the outputs are 1 of c.
    """

    name: str
    train: tuple[Array, Array]
    valid: tuple[Array, Array]
    test: tuple[Array, Array]
    classification: bool
    crc32: str

    @property
    def outputs(self) -> tuple[float, float]:
        """The smallest and the largest target of all parts."""
        targets = np.concatenate([y for _, y in (self.train, self.valid, self.test)])
        return float(targets.min()), float(targets.max())

    @property
    def span(self) -> float:
        """Width of the range of the outputs: 1, that of PROBEN1's own problems (0..1), unless some are outside."""
        low, high = self.outputs
        return max(1.0, high) - min(0.0, low)

    @property
    def sizes(self) -> tuple[int, int]:
        """Inputs and outputs."""
        return int(self.train[0].shape[1]), int(self.train[1].shape[1])


def read(path: Path) -> Problem:
    """Read a .dt file: seven lines ``name=number`` in any order, then one example a line, inputs first.

    Empty lines, spaces around words and numbers, and the line ends of any system are accepted.

    Raises:
        LabError: the file is missing or contradicts its header; the message names the line.
    """
    try:
        raw = path.read_bytes()
        lines = raw.decode("ascii").splitlines()
    except OSError as error:
        raise LabError(f"{path} cannot be read: {error.strerror or error}.") from error
    except UnicodeDecodeError as error:
        raise LabError(f"{path} is no PROBEN1 file: it is not plain text ({error}).") from error
    header: dict[str, int] = {}
    first = 0
    for first, line in enumerate(lines):
        name, equals, value = (word.strip() for word in line.partition("="))
        if not line.strip():
            continue
        if not equals:
            break
        if name not in HEADER or not value.isdigit():
            raise LabError(
                f"{path}, line {first + 1}: one of {'=, '.join(HEADER)}= and a number expected, got {line!r}. "
                "PROBEN1's files begin with seven such lines."
            )
        if name in header:
            raise LabError(f"{path}, line {first + 1}: {name} stands twice. Each must be there once.")
        header[name] = int(value)
    if missing := [key for key in HEADER if key not in header]:
        raise LabError(
            f"{path} does not announce {', '.join(missing)}. PROBEN1's files begin with seven lines such as "
            "bool_in=0; is it another kind of file, or damaged?"
        )
    inputs = header["bool_in"] + header["real_in"]
    outputs = header["bool_out"] + header["real_out"]
    examples = {f"{part} examples": header[f"{part}_examples"] for part in ("training", "validation", "test")}
    for what, count in ({"inputs": inputs, "outputs": outputs} | examples).items():
        if not count:
            raise LabError(f"{path} announces no {what}; at least one is needed. Mend the lines at its top.")
    parts = list(examples.values())
    rows = []
    for index, line in enumerate(lines[first:], first + 1):
        if not line.strip():
            continue
        try:
            row = [float(field) for field in line.split()]
        except ValueError as error:
            raise LabError(
                f"{path}, line {index}: {error}. The file is damaged; fetch it again, or mend that line."
            ) from error
        if len(row) != inputs + outputs or not np.isfinite(row).all():
            raise LabError(
                f"{path}, line {index}: {len(row)} numbers, {inputs} + {outputs} finite ones expected. "
                "The file is damaged or cut short; fetch it again."
            )
        rows.append(row)
    if len(rows) != sum(parts):
        raise LabError(
            f"{path} announces {' + '.join(map(str, parts))} examples but holds {len(rows)}. "
            "It is damaged or cut short; fetch it again."
        )
    table = np.array(rows)
    x, y = table[:, :inputs], table[:, inputs:]
    ends = np.cumsum(parts)[:2]
    train, valid, test = zip(np.split(x, ends), np.split(y, ends), strict=True)
    one_of_c = bool(outputs > 1 and np.isin(y, (0, 1)).all() and (y.sum(1) == 1).all())
    return Problem(path.stem, train, valid, test, one_of_c, f"{zlib.crc32(raw):08x}")


def find(folder: Path, names: tuple[str, ...]) -> dict[str, Path]:
    """Find the files of problems below ``folder``.

    Args:
        folder: searched with its sub-folders.
        names: such as ``glass1``, or paths of .dt files.

    Raises:
        LabError: one is missing (the message lists the files found), or two have the same name.
    """
    there = {path.stem: path for path in sorted(folder.rglob("*.dt"))} if folder.is_dir() else {}
    found: dict[str, Path] = {}
    for name in names:
        if name.endswith(".dt"):
            path = Path(name)
            if not path.is_file():
                raise LabError(f"There is no file {name}. Look at the path.")
        elif name in there:
            path = there[name]
        else:
            known = f"There is: {', '.join(there)}." if there else "There is no .dt file at all."
            raise LabError(
                f"No PROBEN1 problem {name!r} in {folder}. {known} Choose one of them, another folder with "
                "--data-dir, or name a .dt file."
            )
        if found.setdefault(path.stem, path) != path:
            raise LabError(f"{found[path.stem]} and {path} are two problems of one name. Rename one of the files.")
    return found


def squared_error_percentage(mean_square: float, span: float) -> float:
    """Compute PROBEN1's E = 100 (omax - omin) / (N P) * sum of (o - t)^2 from the mean of the squares.

    Args:
        mean_square: over all examples and outputs.
        span: omax - omin, see :attr:`Problem.span`.
    """
    return 100 * span * mean_square


@dataclass(frozen=True, slots=True)
class Reported:
    """A row of the report's table for RPROP on "pivot" networks: means over 60 runs.

    ``hidden``: units of one or two hidden layers; ``output``: linear, or
    softsign, which is the report's sigmoid x / (1 + |x|); errors are percentages; ``crc32``: of the file.
    """

    hidden: tuple[int, ...]
    output: str
    train: float
    valid: float
    test: float
    misclassified: float | None
    crc32: str = ""


REPORT: Final = MappingProxyType(
    {
        "cancer1": Reported((4, 2), "linear", 2.87, 1.96, 1.60, 1.47, "c3ef5ab7"),
        "card1": Reported((32,), "linear", 8.92, 8.89, 10.53, 13.64, "416b378f"),
        "diabetes1": Reported((32,), "linear", 14.74, 16.36, 17.30, 24.57, "2b7fac5d"),
        "flare1": Reported((32,), "softsign", 0.39, 0.55, 0.74, None, "5585acb5"),
        "glass1": Reported((16, 8), "linear", 7.68, 9.48, 9.75, 39.03, "49152fdb"),
        "soybean1": Reported((16, 8), "linear", 0.32, 0.85, 1.03, 9.06, "a4dff8f1"),
        "thyroid1": Reported((16, 8), "linear", 0.60, 1.04, 1.31, 2.32, "06d1e9f4"),
    }
)
PROBLEMS: Final = tuple(REPORT)
"""Names of the problems in the report's table."""
PIVOT: Final = Reported((16, 8), "linear", float("nan"), float("nan"), float("nan"), None)
"""The network for problems that are not in the table."""


def pivot(name: str) -> Reported:
    """Return the row of a problem; files 2 and 3 of a problem use the network of file 1, without its figures."""
    if name in REPORT:
        return REPORT[name]
    row = REPORT.get(f"{name.rstrip('0123456789')}1", PIVOT)
    nan = float("nan")
    return Reported(row.hidden, row.output, nan, nan, nan, None)
