"""NumPy optimizers under hostile calls: cases that the fuzzer has found, each by itself; and files of any content."""

import math
import pickle
import struct
import zipfile
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from rprop_kernels import files, hyperparameters
from rprop_kernels.backends import unavailable_reason
from rprop_kernels.numpy import METHODS, AskTell, IRpropPlus, RpropMinus


@pytest.mark.parametrize("backend", ["cython", "numpy"])
@pytest.mark.parametrize("gradient", [np.ma.masked_array(np.ones(3), [1, 0, 0]), memoryview(np.ones(3))],
                         ids=["masked", "memoryview"])  # fmt: skip
def test_a_gradient_that_only_offers_a_buffer_is_refused(gradient: Any, backend: str) -> None:
    if reason := unavailable_reason(backend):
        pytest.skip(reason)
    w = np.zeros(3)
    with pytest.raises(TypeError, match=r"grads\[0\] is a .*(MaskedArray|memoryview), not a numpy.ndarray"):
        RpropMinus(w, backend=backend).step([gradient])
    assert not w.any()


@pytest.mark.parametrize("dtype, smallest", [(np.float32, 2.0**-63), (np.float64, 2.0**-255)])
def test_a_first_step_below_the_smallest_is_raised_to_it(dtype: Any, smallest: float) -> None:
    optimizer = RpropMinus(np.zeros(2, dtype), lr=1e-250, step_sizes=(0, 10))
    q, step = optimizer.signs_and_steps()
    assert q.tolist() == [0, 0] and step.tolist() == [smallest, smallest]
    optimizer.load_state_dict(optimizer.state_dict())


@pytest.mark.parametrize("value", ["ab", b"\0\1", {1.0: 2.0, 3.0: 4.0}, {0.5, 1.2}, (10**400, 2), (0.5, 10**400)])
def test_a_pair_is_two_numbers(value: Any) -> None:
    with pytest.raises(ValueError, match="etas must be two numbers"):
        hyperparameters.validate(value, (0, 1))


def test_a_huge_lr_is_refused_by_name() -> None:
    optimizer = RpropMinus(np.zeros(1))
    for lr, text in (
        (10**400, "lr must be one number"),
        (np.ones(2), r"lr\[0\] has shape \(2,\), its parameter \(1,\)"),
    ):
        with pytest.raises(ValueError, match=text):
            RpropMinus(np.zeros(1), lr=lr)
        with pytest.raises(ValueError, match=text):
            optimizer.lr = lr


@pytest.mark.parametrize("loss", [np.ma.masked, np.ma.masked_array([1.0], [True]), [[1.0], [2.0, 3.0]]])
def test_losses_that_are_not_numbers(loss: Any) -> None:
    with pytest.raises((TypeError, ValueError), match=r"(?s)loss is .*: |loss is no array"):
        IRpropPlus(np.zeros((2, 2))).step(np.ones((2, 2)), loss)


@pytest.mark.parametrize("damage, text", [
    (3, "state_dict is a int: pass"), ({"moves": None}, "moves is a NoneType: pass"),
    ({"moves": 5}, "moves is a int: pass"), ({"maximize": "no"}, "maximize is 'no'"),
])  # fmt: skip
def test_damaged_states_are_refused_by_name(damage: Any, text: str) -> None:
    optimizer = RpropMinus(np.zeros(2))
    state = optimizer.state_dict() | damage if isinstance(damage, dict) else damage
    with pytest.raises((TypeError, ValueError), match=text):
        optimizer.load_state_dict(state)


def test_a_list_that_runs_code_is_read_before_the_step() -> None:
    class Freezing(list):  # type: ignore[type-arg]
        def __getitem__(self, index: Any) -> Any:
            w.setflags(write=False)
            return super().__getitem__(index)

    w = np.zeros(3)
    optimizer = RpropMinus(w, lr=1.0, bounds=(-0.5, 0.5))
    optimizer.step(Freezing([np.ones(3)]))
    assert w.tolist() == [-0.5] * 3


def test_a_state_is_restored_after_step_sizes_have_changed() -> None:
    first, second = RpropMinus(np.zeros(2), lr=10.0), RpropMinus(np.zeros(2))
    first.step_sizes = (1e-3, 2.0)
    first.step(np.ones(2))
    second.load_state_dict(first.state_dict())
    assert second.lr == 10.0 and second.step_sizes == (1e-3, 2.0)


@pytest.mark.parametrize("rows", [False, True])
@pytest.mark.parametrize("rule", METHODS)
def test_a_refused_result_keeps_the_best_point(rule: str, rows: bool) -> None:
    search = AskTell(np.ones((2, 2)), rule, batched=rows)
    loss: Any = [1.0, 2.0] if rows else 3.0
    x = search.ask()
    search.tell(loss, x)
    x, before = search.ask(), (repr(search.best_loss), search.best_x.tolist(), repr(search.improved))
    search.optimizer.params[0].setflags(write=False)
    worse: Any = [-1.0, math.nan] if rows else -1.0
    with pytest.raises(ValueError, match=r"x0|params"):
        search.tell(worse, x)
    assert (repr(search.best_loss), search.best_x.tolist(), repr(search.improved)) == before
    assert (search.ask() == x).all()


def test_the_gradient_may_be_the_point_itself() -> None:
    search, other = AskTell([1.0, -2.0]), AskTell([1.0, -2.0])
    search.ask()
    search.tell(1.0, search.optimizer.params[0])
    search.ask()
    search.tell(0.5, search.optimizer.params[0])
    for loss in (1.0, 0.5):
        other.tell(loss, other.ask())
    assert search.ask().tolist() == other.ask().tolist()
    with pytest.raises(ValueError, match="there is no method"):
        AskTell([1.0], {})  # type: ignore[arg-type]


class Lies:
    """An object that claims a length, a shape and memory that it does not have."""

    ndim, shape, dtype = 1, (3,), "float64"
    __array_interface__: ClassVar[dict[str, Any]] = {"shape": (3,), "typestr": "<f8", "data": None, "version": 3}

    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: Any) -> Any:
        raise IndexError(index)


def test_objects_that_claim_to_be_arrays_are_refused_by_name() -> None:
    with pytest.raises((TypeError, ValueError), match="frozen is one array for a list of parameters"):
        IRpropPlus([np.zeros(2), np.ones(3)], frozen=Lies())
    with pytest.raises((TypeError, ValueError), match="x0 is no array"):
        AskTell(Lies())  # type: ignore[arg-type]


# -------------------------------------------------------------------------------------------------- files


def header(shape: str) -> bytes:
    text = f"{{'descr': '<f8', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text.encode()


@pytest.mark.parametrize("entry", [header("(999999999999999,)"), header("(3,"), pickle.dumps(3), b"", header("(-1,)")],
                         ids=["huge", "unfinished header", "pickle", "empty", "negative"])  # fmt: skip
def test_entries_of_an_npz_that_are_not_arrays(entry: bytes, tmp_path: Path) -> None:
    path, optimizer = tmp_path / "state.npz", IRpropPlus(np.zeros(3))
    optimizer.save(path)
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in (entries | {"move0.npy": entry}).items():
            archive.writestr(name, data)
    with pytest.raises(
        ValueError, match=r"state\.npz is truncated or was not written by save\(\): .*load another copy"
    ):
        optimizer.load(path)


def test_an_encrypted_or_unknown_compression_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    np.savez(path, x=np.zeros(3))
    whole = path.read_bytes()
    for place in (6, 8):  # flags, method; then their copies in the directory
        for value in range(1, 256):
            data = bytearray(whole)
            data[place] = data[whole.index(b"PK\1\2") + place + 2] = value
            path.write_bytes(data)
            try:
                assert files.read_npz(path)["x"].tolist() == [0, 0, 0]
            except ValueError:
                continue
