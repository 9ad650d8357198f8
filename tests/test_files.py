"""Reading .npz files without unpickling, and writing files atomically."""

import os
import pickle
import zipfile
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pytest

from rprop_kernels.files import read_npz, write_atomic


def test_read_npz_returns_every_array(tmp_path: Path) -> None:
    path = tmp_path / "arrays.npz"
    np.savez(path, x=np.arange(3.0), text=np.array("text"))
    entries = read_npz(path)
    assert list(entries) == ["x", "text"] and str(entries["text"]) == "text"
    np.testing.assert_array_equal(entries["x"], np.arange(3.0))


def test_read_npz_of_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_npz(tmp_path / "missing.npz")


@pytest.mark.parametrize("kind", ["empty", "text", "npy", "truncated"])
def test_read_npz_rejects_other_files(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "arrays.npz"
    if kind == "npy":
        with path.open("wb") as file:
            np.save(file, np.zeros(3))
    elif kind == "truncated":
        np.savez(path, x=np.zeros(300))
        path.write_bytes(path.read_bytes()[:-30])
    else:
        path.write_bytes(b"" if kind == "empty" else b"hello")
    with pytest.raises(ValueError, match="not an .npz file, or it is truncated"):
        read_npz(path)


def test_read_npz_does_not_unpickle(tmp_path: Path) -> None:
    path = tmp_path / "arrays.npz"
    np.savez(path, x=np.array([{}], dtype=object))
    with pytest.raises(ValueError, match="allow_pickle=False"):
        read_npz(path)


def test_read_npz_rejects_entries_that_are_not_arrays(tmp_path: Path) -> None:
    path = tmp_path / "arrays.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x", pickle.dumps(3))
    with pytest.raises(ValueError, match="its entry 'x' is not an array"):
        read_npz(path)


def test_read_npz_reports_damaged_contents(tmp_path: Path) -> None:
    path = tmp_path / "arrays.npz"
    np.savez(path, x=np.zeros(300))
    data = bytearray(path.read_bytes())
    data[200] ^= 0xFF
    path.write_bytes(data)
    with pytest.raises(ValueError, match="Bad CRC-32"):
        read_npz(path)


def test_write_atomic_creates_and_replaces(tmp_path: Path) -> None:
    path = tmp_path / "file.bin"
    for contents in (b"one", b"two"):
        write_atomic(path, lambda file, contents=contents: file.write(contents))  # type: ignore[misc]
        assert path.read_bytes() == contents and os.listdir(tmp_path) == ["file.bin"]
    write_atomic(os.fspath(path), lambda file: file.write(b"three"))
    assert path.read_bytes() == b"three"


def test_write_atomic_shows_the_old_file_until_the_new_one_is_complete(tmp_path: Path) -> None:
    path = tmp_path / "file.bin"
    path.write_bytes(b"old")

    def write(file: BinaryIO) -> None:
        file.write(b"new")
        file.flush()
        assert path.read_bytes() == b"old"
        (unfinished,) = (other for other in tmp_path.iterdir() if other != path)
        assert unfinished.read_bytes() == b"new"

    write_atomic(path, write)
    assert path.read_bytes() == b"new"


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
@pytest.mark.parametrize("exists", [True, False])
def test_an_exception_in_write_leaves_the_old_file(error: type[BaseException], exists: bool, tmp_path: Path) -> None:
    path = tmp_path / "file.bin"
    if exists:
        path.write_bytes(b"old")

    def write(file: BinaryIO) -> None:
        file.write(b"new")
        raise error

    with pytest.raises(error):
        write_atomic(path, write)
    assert os.listdir(tmp_path) == ["file.bin"] * exists
    assert not exists or path.read_bytes() == b"old"


def test_a_failed_replacement_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(source: object, target: object) -> None:
        raise PermissionError("no")

    path = tmp_path / "file.bin"
    path.write_bytes(b"old")
    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(PermissionError):
        write_atomic(path, lambda file: file.write(b"new"))
    assert os.listdir(tmp_path) == ["file.bin"] and path.read_bytes() == b"old"


def test_write_atomic_in_a_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        write_atomic(tmp_path / "missing" / "file.bin", lambda file: None)
