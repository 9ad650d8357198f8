"""Reading .npz files and replacing files atomically."""

import io
import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rprop_kernels.files import read_npz, write_atomic


def npy(array: Any, **options: Any) -> bytes:
    file = io.BytesIO()
    np.save(file, array, **options)
    return file.getvalue()


def test_read_npz_returns_every_array(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    arrays = {"x": np.arange(3.0), "empty": np.zeros((0, 2), np.float32), "text": np.array("é")}
    np.savez(path, **arrays)
    for name in (path, str(path)):
        found = read_npz(name)
        assert list(found) == list(arrays)
        for key, array in arrays.items():
            assert found[key].dtype == array.dtype and found[key].tobytes() == array.tobytes()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not an .npz file, or truncated"),
        (b"hello", "not an .npz file, or truncated"),
        (npy(np.zeros(3)), "not an .npz file, or truncated"),
        ({"x.npy": npy(np.array([object()]), allow_pickle=True)}, "allow_pickle=False"),
        ({"x.npy": npy(np.zeros(3))[:-1]}, "(?i)cannot reshape|eof|data"),
        ({"x.txt": b"text"}, "its entry 'x.txt' is not an array"),
    ],
)
def test_read_npz_rejects_other_files(tmp_path: Path, content: Any, message: str) -> None:
    path = tmp_path / "a.npz"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        with zipfile.ZipFile(path, "w") as archive:
            for name, data in content.items():
                archive.writestr(name, data)
    with pytest.raises(ValueError, match=message):
        read_npz(path)


def test_read_npz_raises_oserror_without_a_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_npz(tmp_path / "missing.npz")


def test_write_atomic_creates_and_replaces(tmp_path: Path) -> None:
    path = tmp_path / "file"
    for content in (b"one", b"two"):
        write_atomic(str(path), lambda file, content=content: file.write(content))
        assert path.read_bytes() == content
    assert os.listdir(tmp_path) == ["file"]


def test_write_atomic_gives_usual_permissions(tmp_path: Path) -> None:
    write_atomic(tmp_path / "file", lambda file: None)
    (tmp_path / "plain").touch()
    assert (tmp_path / "file").stat().st_mode == (tmp_path / "plain").stat().st_mode


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
@pytest.mark.parametrize("existing", [True, False])
def test_exception_in_write_leaves_the_old_file(tmp_path: Path, error: type[BaseException], existing: bool) -> None:
    path = tmp_path / "file"
    if existing:
        path.write_bytes(b"old")

    def write(file: Any) -> None:
        file.write(b"half")
        raise error

    with pytest.raises(error):
        write_atomic(path, write)
    assert [(entry.name, entry.read_bytes()) for entry in tmp_path.iterdir()] == [("file", b"old")] * existing


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_failing_step_leaves_the_old_file(tmp_path: Path, step: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, step, fail)
    with pytest.raises(OSError, match="disk full"):
        write_atomic(path, lambda file: file.write(b"new"))
    assert [(entry.name, entry.read_bytes()) for entry in tmp_path.iterdir()] == [("file", b"old")]


def test_old_file_is_complete_while_the_new_one_is_written(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def write(file: Any) -> None:
        file.write(b"new")
        file.flush()
        assert path.read_bytes() == b"old"

    write_atomic(path, write)
    assert path.read_bytes() == b"new"


def test_write_atomic_needs_the_folder(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        write_atomic(tmp_path / "none" / "file", lambda file: None)
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(os.name != "posix", reason="only POSIX opens folders")
def test_folder_that_cannot_be_synchronised_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synchronise, calls = os.fsync, []

    def fsync(descriptor: int) -> None:
        calls.append(descriptor)
        if len(calls) == 2:
            raise OSError("not supported")
        synchronise(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    write_atomic(tmp_path / "file", lambda file: file.write(b"new"))
    assert len(calls) == 2 and (tmp_path / "file").read_bytes() == b"new"
