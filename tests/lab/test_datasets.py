"""Data sets: valid files are read exactly; every kind of damaged file raises an error that names it."""

import gzip
import os
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("sklearn")

from rprop_kernels.lab import datasets
from rprop_kernels.lab.errors import LabError

DATA = Path(os.environ.get("RPROP_LAB_DATA", Path(__file__).parents[3] / "shared" / "data"))


def idx(array: np.ndarray) -> bytes:
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


def images_and_labels(count: int, side: int = 5, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    images = random.integers(0, 256, (count, side, side), dtype=np.uint8)
    return images, (np.arange(count) % 10).astype(np.uint8)


def write_mnist(folder: Path, pack: Any = gzip.compress, end: str = ".gz", dot: str = "-") -> None:
    folder.mkdir(exist_ok=True)
    for part, count in (("train", 60), ("t10k", 20)):
        images, labels = images_and_labels(count)
        (folder / f"{part}-images{dot}idx3-ubyte{end}").write_bytes(pack(idx(images)))
        (folder / f"{part}-labels{dot}idx1-ubyte{end}").write_bytes(pack(idx(labels)))


def test_digits_are_embedded_and_the_split_is_fixed() -> None:
    one, other = datasets.load("digits"), datasets.load("digits")
    assert one.pixels == 64 and not one.is_mnist
    assert len(one.learn_labels) + len(one.test_labels) == 1797
    np.testing.assert_array_equal(one.test_images, other.test_images)
    scaled = one.scaled(one.learn_images)
    assert scaled.dtype == np.float32 and scaled.min() == -1 and scaled.max() == 1


@pytest.mark.parametrize("end", ["", ".gz"])
@pytest.mark.parametrize("dot", ["-", "."])
@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_idx_plain_or_gzip_is_detected_from_content(tmp_path: Path, pack: Any, end: str, dot: str) -> None:
    write_mnist(tmp_path, pack, end, dot)
    dataset = datasets.load("mnist", tmp_path)
    images, labels = images_and_labels(60)
    np.testing.assert_array_equal(dataset.learn_images, images.reshape(60, 25))
    np.testing.assert_array_equal(dataset.learn_labels, labels)
    assert len(dataset.test_labels) == 20 and not dataset.is_mnist


def test_scaling_matches_the_report() -> None:
    dataset = datasets.Dataset("x", "x", *[np.array([[0, 255]], np.uint8), np.array([0])] * 2, pixel_max=255)
    np.testing.assert_array_equal(dataset.scaled(dataset.learn_images), np.array([[-1, 1]], np.float32))


IMAGES, LABELS = "train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"


def good(file: str) -> bytes:
    return idx(images_and_labels(60)[file == LABELS])


@pytest.mark.parametrize(
    ("file", "content", "says"),
    [
        (IMAGES, None, "has no train-images"),
        (IMAGES, b"", "being empty"),
        (IMAGES, b"\x89PNG\r\n", "not an IDX file"),
        (IMAGES, good(LABELS), "3 and 1 expected"),
        (LABELS, good(IMAGES), "3 and 1 expected"),
        (IMAGES, good(IMAGES)[:10], "within its header"),
        (IMAGES, good(IMAGES)[:-1], "cut short"),
        (IMAGES, good(IMAGES) + b"!", "announces 60 x 5 x 5"),
        (IMAGES, struct.pack(">BBBB3I", 0, 0, 8, 3, 2**32 - 1, 2**32 - 1, 2**32 - 1), "announces"),
        (IMAGES, struct.pack(">BBBB3I", 0, 0, 8, 3, 0, 5, 5), "announces 0 x 5 x 5 values, which is none"),
        (IMAGES, gzip.compress(good(IMAGES))[:-20], "damaged or cut short"),
        (IMAGES, gzip.compress(good(IMAGES))[:300] + b"\0" * 99, "damaged or cut short"),
        (IMAGES, gzip.compress(good(IMAGES))[:-8] + b"\0" * 8, "cannot be read: CRC"),
        (LABELS, idx(np.zeros(59, np.uint8)), "59 labels"),
        ("t10k-images-idx3-ubyte.gz", idx(images_and_labels(20, side=6)[0]), "do not belong together"),
    ],
)
def test_error_names_the_damaged_idx_file(tmp_path: Path, file: str, content: bytes | None, says: str) -> None:
    write_mnist(tmp_path)
    (tmp_path / file).unlink()
    if content is not None:
        (tmp_path / file).write_bytes(content)
    with pytest.raises(LabError, match=says) as caught:
        datasets.load("mnist", tmp_path)
    assert file in str(caught.value)


def test_mnist_needs_a_folder(tmp_path: Path) -> None:
    with pytest.raises(LabError, match="--data-dir FOLDER"):
        datasets.load("mnist")
    with pytest.raises(LabError, match="is not a folder"):
        datasets.load("mnist", tmp_path / "nowhere")
    with pytest.raises(LabError, match="no data set 'mist'"):
        datasets.load("mist")
    for name in ("glass1.dt", "proben1"):
        with pytest.raises(LabError, match="study f-table or f-compare, with --data-dir"):
            datasets.load(name)


def csv_text(pixels: int = 64, rows: int = 30, heading: bool = False) -> str:
    random = np.random.default_rng(1)
    images = random.integers(0, 17 if pixels == 64 else 256, (rows, pixels))
    lines = [",".join(map(str, [row % 10, *image])) for row, image in enumerate(images)]
    return "\n".join([",".join(["label", *map(str, map("p{}".format, range(pixels)))])] * heading + lines) + "\n"


@pytest.mark.parametrize("pixels", [64, 784])
@pytest.mark.parametrize("heading", [False, True])
@pytest.mark.parametrize("name", ["d.csv", "d.CSV.gz", "bom.csv"])
def test_csv(tmp_path: Path, pixels: int, heading: bool, name: str) -> None:
    text = csv_text(pixels, heading=heading).encode("utf-8-sig" if name == "bom.csv" else "utf-8")
    (tmp_path / name).write_bytes(gzip.compress(text) if name.endswith("gz") else text.replace(b"\n", b"\r\n"))
    dataset = datasets.load(str(tmp_path / name))
    assert dataset.pixels == pixels and dataset.pixel_max == (16 if pixels == 64 else 255)
    assert (len(dataset.learn_labels), len(dataset.test_labels)) == (24, 6)
    images, labels = datasets.read_csv(tmp_path / name)
    np.testing.assert_array_equal(labels, np.arange(30) % 10)
    np.testing.assert_array_equal(images, np.loadtxt(csv_text(pixels).splitlines(), np.float32, delimiter=",")[:, 1:])


@pytest.mark.parametrize("quoted", [False, True])
@pytest.mark.parametrize(
    ("first", "separator", "encoding"),
    [
        ("", ",", "utf-8"),
        ("sep=;\r\n", ";", "utf-8-sig"),
        ("", "\t", "utf-16"),
        ("#TYPE System.Object\r\n", ",", "utf-16"),
    ],
)
def test_csv_as_excel_and_powershell_write_it(
    tmp_path: Path, first: str, separator: str, encoding: str, quoted: bool
) -> None:
    expected = np.loadtxt(csv_text().splitlines(), int, delimiter=",")
    rows = [line.split(",") for line in csv_text(heading=True).splitlines()]
    quote = '"' if quoted else ""
    text = first + "".join(separator.join(f"{quote}{field}{quote}" for field in row) + "\r\n" for row in rows)
    (tmp_path / "d.csv").write_bytes(text.encode(encoding))
    images, labels = datasets.read_csv(tmp_path / "d.csv")
    np.testing.assert_array_equal(np.column_stack([labels, images]), expected)


def test_one_damaged_label_makes_no_further_classes(tmp_path: Path) -> None:
    write_mnist(tmp_path)
    labels = images_and_labels(60)[1]
    labels[7] = 255
    (tmp_path / LABELS).write_bytes(idx(labels))
    with pytest.raises(LabError, match="label 8: the label is 255, while the others go up to 9"):
        datasets.load("mnist", tmp_path)


def test_csv_of_fractions(tmp_path: Path) -> None:
    (tmp_path / "d.csv").write_text("1.0,2.5,3\n2,0,255\n")
    images, labels = datasets.read_csv(tmp_path / "d.csv")
    np.testing.assert_array_equal(images, [[2.5, 3], [0, 255]])
    np.testing.assert_array_equal(labels, [1, 2])


def test_csv_folder_with_its_own_test_file(tmp_path: Path) -> None:
    (tmp_path / "my_train.csv").write_text(csv_text(rows=30))
    with pytest.raises(LabError, match=r"exactly one .csv file with 'test'"):
        datasets.load("csv", tmp_path)
    (tmp_path / "my_test.csv").write_text(csv_text(rows=11))
    dataset = datasets.load("csv", tmp_path)
    assert (len(dataset.learn_labels), len(dataset.test_labels)) == (30, 11)
    (tmp_path / "my_test.csv").write_text(csv_text(pixels=784, rows=11))
    with pytest.raises(LabError, match="do not belong together"):
        datasets.load("csv", tmp_path)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "No such file"),
        (b"", "no rows"),
        (b"\n\n", "no rows"),
        (b"label,a,b\n", "no rows"),
        (b"label,7,3\n1,2,3\n", "line 1: some fields are numbers"),
        (b"1,2,3\n1,2\n", r"line 2: 2 values, where the lines above have 3\. Change that line"),
        (b"A,2,3\nB,2,3\n", "must be whole numbers from 0"),
        (b"label,a,b\n1,2,3\nB,2,3\n", "must be whole numbers from 0"),
        (b"1,2,3\n1,x,3\n", "line 2, column 2: 'x' is not a number"),
        (b"label,a,b\n\n1,2,3\n1,,3\n", "line 4, column 2: '' is not a number"),
        (b"1,2,3\n1,nan,3\n", "line 2: a value is empty or infinite"),
        (b"1;2;3\n1;2,5;3\n", "line 2, column 2: '2,5' is not a number. Use a point in fractions"),
        (b"1\n2\n", "one column"),
        (b"256,2,3\n", "line 1: the label is 256"),
        (b"1,2,3\n0.5,2,3\n", "line 2: the label is 0.5"),
        (b"-1,2,3\n", "the label is -1"),
        (b"1,2,256\n", "outside 0..255"),
        (b"1,2,3\n1,-2,3\n", "line 2: a pixel is outside"),
        (("1," + ",".join(["17"] * 64)).encode(), "outside 0..16"),
        (b"1,0.5,0.25\n", "scaled already"),
        (b"1,2,3\n" * 19, "too few"),
        (b"\x89PNG\xff,2\n", "is not a text file. Use a CSV in UTF-8"),
        (b"PK\x03\x04\x00\x00,1\n", "some fields are numbers"),
        (b"0,2,3\n1,2,3\n" * 10 + b"255,2,3\n", "line 21: the label is 255, while the others go up to 1"),
        (b"9,2,0\n77,2,1\n3,2,2\n" * 10, "the last column looks like the labels"),
    ],
)
def test_error_names_the_damaged_csv_file(tmp_path: Path, content: bytes | None, says: str) -> None:
    path = tmp_path / "broken.csv"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(LabError, match=says) as caught:
        datasets.load(str(path))
    assert "broken.csv" in str(caught.value)


def test_openml_downloads_only_on_request(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked: list[dict[str, Any]] = []

    class Bunch:
        data = np.zeros((70_000, 784))
        target = np.array([str(i % 10) for i in range(70_000)], dtype=object)

    def fetch(name: str, **options: Any) -> Bunch:
        asked.append(options | {"name": name})
        return Bunch()

    monkeypatch.setattr("sklearn.datasets.fetch_openml", fetch)
    dataset = datasets.load("openml", tmp_path)
    assert (len(dataset.learn_labels), len(dataset.test_labels)) == (60_000, 10_000)
    assert asked[0]["name"] == "mnist_784" and asked[0]["data_home"] == str(tmp_path)

    def no_network(*_: Any, **__: Any) -> None:
        raise OSError("Name or service not known")

    monkeypatch.setattr("sklearn.datasets.fetch_openml", no_network)
    with pytest.raises(LabError, match="could not be fetched: Name or service not known"):
        datasets.load("openml")


@pytest.mark.skipif(
    not (DATA / "mnist").is_dir(), reason=f"no MNIST in {DATA / 'mnist'}; set RPROP_LAB_DATA to its parent"
)
def test_real_mnist_is_recognised() -> None:
    dataset = datasets.load("mnist", DATA / "mnist")
    assert dataset.learn_images.shape == (60_000, 784) and dataset.test_images.shape == (10_000, 784)
    assert dataset.is_mnist


@pytest.mark.parametrize(("side", "classes"), [(16, 26), (32, 47), (7, 2)])
def test_other_sets_of_any_size_and_number_of_classes(tmp_path: Path, side: int, classes: int) -> None:
    random = np.random.default_rng(0)
    for part, count in (("train", 200), ("test", 100)):
        images = random.integers(0, 256, (count, side, side), dtype=np.uint8)
        (tmp_path / f"emnist-{part}-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(images)))
        labels = (np.arange(count) % classes).astype(np.uint8)
        (tmp_path / f"emnist-{part}-labels-idx1-ubyte").write_bytes(idx(labels))
    dataset = datasets.load("mnist", tmp_path)
    assert dataset.pixels == side * side and dataset.classes == max(10, classes) and not dataset.is_mnist
    assert len(dataset.learn_labels) == 200 and len(dataset.test_labels) == 100
    rows = np.column_stack([dataset.learn_labels, dataset.learn_images])
    np.savetxt(tmp_path / "some.csv", rows, "%d", delimiter=",")
    from_csv = datasets.load(str(tmp_path / "some.csv"))
    assert from_csv.pixels == side * side and from_csv.classes == max(10, classes)
    (tmp_path / "other-train-images-idx3-ubyte").write_bytes(b"")
    with pytest.raises(LabError, match=r"several: .*one set into a folder of their own"):
        datasets.load("mnist", tmp_path)


def test_a_single_label_is_rejected(tmp_path: Path) -> None:
    np.savetxt(tmp_path / "last.csv", np.column_stack([np.zeros((30, 5)), np.arange(30) % 10 + 2]), "%d", delimiter=",")
    with pytest.raises(LabError, match="every label to learn is 0"):
        datasets.load(str(tmp_path / "last.csv"))


@pytest.mark.parametrize("name", ["label", "Class", '"target"'])
def test_a_heading_with_the_label_in_another_column_is_rejected(tmp_path: Path, name: str) -> None:
    path = tmp_path / "last.csv"
    path.write_text(f"a,b,{name}\n" + "3,200,1\n" * 30)
    with pytest.raises(LabError, match=r"in column 3, but the label must be the first column\. Move it there"):
        datasets.read_csv(path)
    path.write_text(f"{name},a,y\n" + "3,200,1\n" * 30)  # a pixel may have any name
    assert datasets.read_csv(path)[1].tolist() == [3] * 30
