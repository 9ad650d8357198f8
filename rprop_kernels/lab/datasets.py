"""Labelled images: scikit-learn's digits, IDX files, CSV files, OpenML; all as :class:`Dataset`.

The learning part and the unseen test part are the same in every run; a study holds out its evaluation set
from the learning part by its own seed.
"""

import gzip
import math
import struct
import warnings
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from .errors import LabError

Array = NDArray[Any]

CLASSES: Final = 10
"""Of digits; other sets may have up to ``MOST_CLASSES``."""
MAX_CLASSES: Final = 256
_LABEL_NAMES: Final = ("label", "labels", "class", "target", "y", "digit")
"""Headings of the column of labels, in lower case."""
_LABELS: Final = "Labels, the first column, must be whole numbers from 0: give each letter or name a number."
TEST_SHARE: Final = 0.2
"""Share of a data set without a test part of its own that is set aside as unseen."""

MNIST_LABEL_COUNTS: Final = (5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949)
MNIST_LEARN: Final = 60_000


@dataclass(frozen=True, slots=True)
class Dataset:
    """Images of one size and their labels.

    Attributes:
        name: for file names and titles, such as ``"mnist"``.
        origin: where it came from, in words.
        learn_images, test_images: shape (count, pixels), values 0 .. ``pixel_max``.
        learn_labels, test_labels: shape (count,), int64, 0 .. ``classes`` - 1.
        pixel_max: the value of a full pixel.
        rows: of an image; 0 if the file does not state them.
    """

    name: str
    origin: str
    learn_images: Array
    learn_labels: Array
    test_images: Array
    test_labels: Array
    pixel_max: int
    rows: int = 0

    @property
    def shape(self) -> tuple[int, int] | None:
        """Rows and columns of an image; None if the file does not state them and the image is not square."""
        rows = self.rows or math.isqrt(self.pixels)
        return (rows, self.pixels // rows) if self.rows or rows**2 == self.pixels else None

    @property
    def pixels(self) -> int:
        """Number of inputs of a network for this data."""
        return int(self.learn_images.shape[1])

    @property
    def classes(self) -> int:
        """Number of outputs of a network for this data: ten, or more if a label is above 9."""
        return max(CLASSES, 1 + int(max(self.learn_labels.max(), self.test_labels.max())))

    @property
    def is_mnist(self) -> bool:
        """Whether this is MNIST itself, from whatever file (Fashion-MNIST has the same shapes)."""
        counts = np.bincount(self.learn_labels, minlength=CLASSES)
        return self.pixels == 784 and tuple(counts.tolist()) == MNIST_LABEL_COUNTS

    def scaled(self, images: Array) -> Array:
        """Convert images to float32 in [-1, 1] (mean 0.5, standard deviation 0.5), as in the report."""
        unit = images.astype(np.float32)
        unit /= np.float32(self.pixel_max)
        unit -= np.float32(0.5)
        unit /= np.float32(0.5)
        return unit


def load(name: str = "digits", folder: Path | None = None) -> Dataset:
    """Load a data set by name, or from a CSV file.

    Args:
        name: a key of ``LOADERS``, or the path of a CSV file.
        folder: where the files are (mnist: a folder; csv: a file or folder; openml: its cache, optional).

    Raises:
        LabError: the data cannot be loaded; the message names the file, the fault and the remedy.
    """
    if name in LOADERS or name.lower().endswith((".csv", ".csv.gz")):
        dataset = LOADERS[name](folder) if name in LOADERS else csv(Path(name))
        if (dataset.learn_labels == dataset.learn_labels[0]).all():
            raise LabError(
                f"{dataset.origin}: every label to learn is {dataset.learn_labels[0]}, so there is nothing to tell "
                "apart." + ("" if name == "mnist" else " In a CSV the label is the first column.")
            )
        return dataset
    if name.lower().endswith(".dt") or Path(name).name.lower() == "proben1":
        raise LabError(
            f"{name} is PROBEN1's, which holds no images: give its folder to rprop-lab study f-table or f-compare, "
            "with --data-dir FOLDER."
        )
    raise LabError(f"There is no data set {name!r}. There is: {', '.join(LOADERS)}, or the path of a .csv file.")


def digits(folder: Path | None = None) -> Dataset:
    """Load scikit-learn's 1,797 digits of 8x8 pixels; they are embedded, ``folder`` is ignored."""
    from sklearn.datasets import load_digits  # type: ignore[import-untyped]

    bunch = load_digits()
    return _with_held_out_test("digits", "scikit-learn's digits (embedded)", bunch.data, bunch.target, 16)


def mnist(folder: Path | None) -> Dataset:
    """Load MNIST, or anything in its format: four IDX files in ``folder``, plain or gzip."""
    if folder is None:
        raise LabError(
            "--data mnist needs --data-dir FOLDER, the folder with the four IDX files "
            "(train-images-idx3-ubyte, plain or .gz, and so on). To download instead: --data openml."
        )
    if not folder.is_dir():
        raise LabError(f"{folder} is not a folder. --data-dir must name the folder with MNIST's four IDX files.")
    paths = [_idx_path(folder, part, kind) for part in ("train", "t10k") for kind in ("images", "labels")]
    learn_images, learn_labels, test_images, test_labels = map(read_idx, paths)
    for images, labels, path, other in (
        (learn_images, learn_labels, paths[0], paths[1]),
        (test_images, test_labels, paths[2], paths[3]),
    ):
        if images.ndim != 3 or labels.ndim != 1:
            raise LabError(
                f"{path} must hold images and {other} labels, but they have {images.ndim} and "
                f"{labels.ndim} dimensions (3 and 1 expected). Were the files renamed?"
            )
        if len(images) != len(labels):
            raise LabError(
                f"{path} holds {len(images)} images but {other} {len(labels)} labels. "
                "The two files do not belong together; fetch them again."
            )
        _check_labels(labels, other)
    if learn_images.shape[1:] != test_images.shape[1:]:
        raise LabError(
            f"{paths[0]} has images of {learn_images.shape[1:]} pixels but {paths[2]} of "
            f"{test_images.shape[1:]}. The files do not belong together; fetch them again."
        )
    return Dataset(
        "mnist",
        f"IDX files in {folder}",
        learn_images.reshape(len(learn_images), -1),
        learn_labels.astype(np.int64),
        test_images.reshape(len(test_images), -1),
        test_labels.astype(np.int64),
        255,
        learn_images.shape[1],
    )


def csv(path: Path | None) -> Dataset:
    """Load a CSV with one image a row, the label first, then the pixels; a heading is accepted.

    64 pixels are 0..16 as in scikit-learn's digits, any other number 0..255. A folder must hold one file
    with "train" and one with "test" in its name; a single file gives up a fifth of itself as the test part.
    """
    if path is None:
        raise LabError("--data csv needs --data-dir PATH, a CSV file or a folder with a train and a test file.")
    if not path.is_dir():
        images, labels = read_csv(path)
        if len(images) < 2 * CLASSES:
            raise LabError(f"{path} has {len(images)} rows, too few to hold out a test part: 20 or more are needed.")
        return _with_held_out_test("csv", f"{path} (a fifth held out as test)", images, labels, pixel_max(images))
    learn_path, test_path = _csv_in(path, "train"), _csv_in(path, "test")
    learn_images, learn_labels = read_csv(learn_path)
    test_images, test_labels = read_csv(test_path)
    if learn_images.shape[1] != test_images.shape[1]:
        raise LabError(
            f"{learn_path} has {learn_images.shape[1]} pixels a row but {test_path} "
            f"{test_images.shape[1]}. The files do not belong together."
        )
    return Dataset(
        "csv",
        f"CSV files in {path}",
        learn_images,
        learn_labels,
        test_images,
        test_labels,
        pixel_max(learn_images),
    )


def openml(folder: Path | None = None) -> Dataset:
    """Load MNIST with scikit-learn's ``fetch_openml`` (a download of 15 MB, cached in ``folder`` or its own cache)."""
    from importlib.util import find_spec

    from sklearn.datasets import fetch_openml

    # scikit-learn reads it with pandas where there is one: quicker, the same numbers.
    parser = "pandas" if find_spec("pandas") else "liac-arff"
    try:
        bunch = fetch_openml(
            "mnist_784",
            version=1,
            as_frame=False,
            parser=parser,
            data_home=None if folder is None else str(folder),
        )
    except (OSError, ValueError) as error:
        raise LabError(
            f"OpenML's mnist_784 could not be fetched: {error}. Look at the network, or use MNIST's "
            "IDX files with --data mnist --data-dir FOLDER."
        ) from error
    images = np.asarray(bunch.data).astype(np.uint8)
    labels = np.asarray(bunch.target).astype(np.int64)
    if images.shape != (70_000, 784) or labels.shape != (70_000,):
        raise LabError(
            f"OpenML's mnist_784 came with the shape {images.shape} instead of (70000, 784): "
            "delete scikit-learn's cache (or the --data-dir folder) and fetch it again."
        )
    return Dataset(
        "mnist",
        "OpenML mnist_784",
        images[:MNIST_LEARN],
        labels[:MNIST_LEARN],
        images[MNIST_LEARN:],
        labels[MNIST_LEARN:],
        255,
    )


LOADERS: Final = MappingProxyType[str, Callable[[Path | None], Dataset]](
    {"digits": digits, "mnist": mnist, "csv": csv, "openml": openml}
)
"""Names that ``--data`` accepts."""


def read_idx(path: Path) -> Array:
    """Read the uint8 array of an IDX file, plain or gzip (recognised by its first bytes, not by its name).

    Raises:
        LabError: the file is missing, not an IDX file of uint8, or not as long as its header states.
    """
    try:
        raw = path.read_bytes()
        if raw[:2] == b"\x1f\x8b":
            raw = gzip.decompress(raw)
    except OSError as error:  # gzip.BadGzipFile too
        raise LabError(f"{path} cannot be read: {error.strerror or error}. Look at --data-dir.") from error
    except (EOFError, zlib.error) as error:
        raise LabError(f"{path} is damaged or cut short ({error}). Fetch it again.") from error
    dimensions = raw[3] if len(raw) > 3 else 0
    if raw[:3] != b"\x00\x00\x08" or dimensions not in (1, 3):
        raise LabError(
            f"{path} is not an IDX file of images (magic 2051) or labels (magic 2049): it begins with "
            f"{raw[:4].hex(' ') or 'nothing, being empty'}. Fetch it again."
        )
    start = 4 + 4 * dimensions
    if len(raw) < start:
        raise LabError(f"{path} is cut short within its header. Fetch it again.")
    shape = struct.unpack(f">{dimensions}I", raw[4:start])
    expected = start + math.prod(shape)
    if 0 in shape:
        raise LabError(f"{path} announces {' x '.join(map(str, shape))} values, which is none. Fetch it again.")
    if len(raw) != expected:
        raise LabError(
            f"{path} announces {' x '.join(map(str, shape))} values, which makes {expected} bytes, but has "
            f"{len(raw)}. It is damaged or cut short; fetch it again."
        )
    return np.frombuffer(raw, np.uint8, offset=start).reshape(shape)


def read_csv(path: Path) -> tuple[Array, Array]:
    """Read ``(images, labels)`` from a CSV: int32 or float32 of shape (rows, pixels) and int64 of shape (rows,).

    Fields may be quoted, and separated by commas, semicolons or tabs; the encoding is UTF-8, or UTF-16 with its mark,
    as Excel and PowerShell write them.

    Raises:
        LabError: the file is missing, not made of numbers, ragged, or its labels or pixels are out of range.
    """
    try:
        text = _text_of(path)
    except (OSError, EOFError, zlib.error) as error:
        raise LabError(
            f"{path} cannot be read: {getattr(error, 'strerror', None) or error}. Look at the path and the file."
        ) from error
    except UnicodeDecodeError:
        raise LabError(f"{path} is not a text file. Use a CSV in UTF-8.") from None
    lines = text.splitlines()
    numbers = [number for number, line in enumerate(lines, 1) if line.strip(' ,;\t"')]  # of lines that are not empty
    while numbers and lines[numbers[0] - 1].strip('"').lower().startswith(("sep=", "#type")):  # Excel's, PowerShell's
        del numbers[0]
    first = lines[numbers[0] - 1] if numbers else ""
    separator = max(",;\t", key=first.count)
    fields = [field.strip().strip("\"'").strip() for field in first.split(separator)]
    if numbers and not all(map(_is_number, fields)):
        _check_heading(path, fields, numbers[0])
        del numbers[0]
    if not numbers:
        raise LabError(f"{path} holds no rows. Each row must be a label and the pixels of an image.")
    rows = [lines[number - 1] for number in numbers]
    try:
        table = _numbers(rows, separator)
    except ValueError as error:
        raise LabError(f"{path}{_fault(rows, numbers, separator) or f': {error}'}") from error

    def line(wrong: Any) -> int:
        """Return the line of the first wrong row."""
        return numbers[int(np.flatnonzero(wrong)[0])]

    labels, images = table[:, 0], np.ascontiguousarray(table[:, 1:])
    if not images.shape[1]:
        raise LabError(f"{path} has one column. Each row must be a label and the pixels of an image.")
    if not np.isfinite(table).all():
        raise LabError(
            f"{path}, line {line(~np.isfinite(table).all(1))}: a value is empty or infinite. Change that line."
        )
    top = pixel_max(images)
    _check_label_column(path, table)
    _check_labels(labels, path, line)
    wrong = ((images < 0) | (images > top)).any(1)
    if wrong.any():
        raise LabError(
            f"{path}, line {line(wrong)}: a pixel is outside 0..{top} (64 pixels a row go from 0 to 16, "
            "any other number from 0 to 255). Is the label the first column?"
        )
    if images.max() <= 1:
        raise LabError(
            f"{path} has no pixel above 1, so it seems to be scaled already; pixels must go from 0 to {top}."
        )
    return images, labels.astype(np.int64)


def _text_of(path: Path) -> str:
    raw = path.read_bytes()
    if path.suffix.lower() == ".gz":
        raw = gzip.decompress(raw)
    return raw.decode("utf-16" if raw[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig")


def _check_heading(path: Path, fields: list[str], line: int) -> None:
    words = [field.lower() for field in fields]
    label_columns = [index for index, word in enumerate(words) if word in _LABEL_NAMES and index]
    if label_columns and words[0] not in _LABEL_NAMES:
        raise LabError(
            f"{path}: its heading has {words[label_columns[0]]!r} in column {label_columns[0] + 1}, but the label "
            "must be the first column. Move it there."
        )
    if any(map(_is_number, fields)):
        decimal = all(map(_is_number, [field.replace(",", ".") for field in fields]))
        raise LabError(
            f"{path}, line {line}: some fields are numbers and some are not. "
            + (
                "Use a point in fractions, not a comma."
                if decimal
                else "It must be all numbers (label, pixels) or all words (a heading)."
            )
            + (f" {_LABELS}" if not _is_number(fields[0]) and all(map(_is_number, fields[1:])) else "")
        )


def _check_label_column(path: Path, table: Array) -> None:
    """Check that the labels are not the last column: the first is no plausible one, and the last is."""

    def plausible(column: Array) -> bool:
        values, counts = np.unique(column, return_counts=True)
        whole = values[0] in (0, 1) and np.array_equal(values, np.arange(len(values)) + values[0])
        return bool(whole and 1 < len(values) <= MAX_CLASSES and counts.max() < 0.9 * len(column))

    if not plausible(table[:, 0]) and plausible(table[:, -1]):
        last = table[:, -1]
        raise LabError(
            f"{path}: the last column looks like the labels ({last.min():g} to {last.max():g}) and the first does not. "
            "The label must be the first column. Move it there."
        )


def _numbers(rows: list[str], separator: str) -> Array:
    """Parse rows, as int32 if all are integers, which is six times as fast."""
    for dtype in (np.int32, np.float32):
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # older NumPy cuts fractions with a warning
            try:
                return np.loadtxt(rows, dtype, delimiter=separator, comments=None, ndmin=2, quotechar='"')
            except (ValueError, DeprecationWarning):
                if dtype is np.float32:
                    raise
    raise AssertionError


def _fault(rows: list[str], numbers: list[int], separator: str) -> str:
    """Describe the first row that is not made of as many numbers as the first one."""
    width = None
    for row, number in zip(rows, numbers, strict=True):
        fields = [field.strip().strip('"') for field in row.split(separator)]
        width = width or len(fields)
        if len(fields) != width:
            return f", line {number}: {len(fields)} values, where the lines above have {width}. Change that line."
        for column, field in enumerate(fields, 1):
            if not _is_number(field):
                hint = f" {_LABELS}" if column == 1 else ""
                hint = " Use a point in fractions, not a comma." if _is_number(field.replace(",", ".")) else hint
                return f", line {number}, column {column}: {field!r} is not a number.{hint or ' Change that line.'}"
    return ""


def _with_held_out_test(name: str, origin: str, images: Array, labels: Array, pixel_max: int) -> Dataset:
    from sklearn.model_selection import train_test_split  # type: ignore[import-untyped]

    # random_state is fixed, because the unseen part must be the same for `train` and for `test`.
    parts = train_test_split(images, labels, test_size=TEST_SHARE, random_state=0)
    learn_images, test_images, learn_labels, test_labels = parts
    return Dataset(
        name,
        origin,
        learn_images,
        learn_labels.astype(np.int64),
        test_images,
        test_labels.astype(np.int64),
        pixel_max,
    )


def _idx_path(folder: Path, part: str, kind: str) -> Path:
    dimensions = {"images": 3, "labels": 1}[kind]
    names = [f"{part}-{kind}{dot}idx{dimensions}-ubyte{end}" for end in ("", ".gz") for dot in "-."]
    for name in names:
        if (folder / name).is_file():
            return folder / name
    parts = {"train": ("train",), "t10k": ("t10k", "test")}[part]
    others = sorted(
        path
        for path in folder.glob(f"*{kind}*idx{dimensions}*")
        if path.is_file() and any(word in path.name.lower() for word in parts)
    )
    if len(others) == 1:  # another set, such as emnist-letters-train-images-idx3-ubyte.gz
        return others[0]
    if others:
        raise LabError(
            f"{folder} has several: {', '.join(path.name for path in others)}. Put the four files of one set into a "
            "folder of their own, and name that with --data-dir."
        )
    raise LabError(
        f"{folder} has no {names[0]} (nor {', '.join(names[1:])}). --data-dir must name the folder with "
        "MNIST's four IDX files, or those of another set with 'train' and 'test' in their names."
    )


def _csv_in(folder: Path, part: str) -> Path:
    found = sorted(
        path
        for path in folder.glob("*")
        if part in path.name.lower() and path.name.lower().endswith((".csv", ".csv.gz"))
    )
    if len(found) != 1:
        raise LabError(
            f"{folder} must hold exactly one .csv file with {part!r} in its name, and holds {len(found)}. "
            "Or name a single CSV file."
        )
    return found[0]


def _check_labels(labels: Array, path: Path, line: Callable[[Array], int] | None = None) -> None:
    """Check that labels are whole numbers without a gap that only damage explains."""

    def where(wrong: Array) -> str:
        place = f"line {line(wrong)}" if line else f"label {int(np.flatnonzero(wrong)[0]) + 1}"
        return f"{path}, {place}: the label is {labels[wrong][0]:g}"

    wrong = (labels < 0) | (labels >= MAX_CLASSES) | (labels != np.floor(labels))
    if wrong.any():
        raise LabError(f"{where(wrong)}; labels are whole numbers from 0 to {MAX_CLASSES - 1}.")
    used, counts = np.unique(labels, return_counts=True)
    regular = used[counts >= np.median(counts) / 10].max()
    if used[-1] >= max(CLASSES, 2 * len(used)):
        regular = used[used < max(CLASSES, 2 * len(used))].max(initial=0)
    wrong = labels > max(regular + 1, CLASSES - 1)
    if wrong.any():
        raise LabError(
            f"{where(wrong)}, while the others go up to {regular:g}: the file is damaged, or its classes must be "
            "numbered 0, 1, 2 and so on."
        )


def pixel_max(images: Array) -> int:
    """Return the value of a full pixel in a CSV: 16 for 64 pixels, as in scikit-learn's digits, else 255."""
    return 16 if images.shape[1] == 64 else 255


def _is_number(field: str) -> bool:
    try:
        float(field)
    except ValueError:
        return False
    return True
