"""Saved state of the NumPy optimizers: restored to the bit, or refused without any change."""

import math
import os
import pickle
import sys
import zipfile

import numpy as np
import pytest

from rprop_kernels.backends import unavailable_reason
from rprop_kernels.numpy import METHODS, AskTell, IRpropMinus, IRpropPlus, RpropMinus

RULES = ("rprop-", "rprop+", "irprop-", "irprop+")


def make(rule="irprop+", **options):
    return METHODS[rule]([np.zeros(5, np.float32), np.ones((2, 3))], **options)


def walk(optimizer, seed, steps=8):
    rng = np.random.default_rng(seed)
    for _ in range(steps):
        g = [np.asarray(rng.normal(size=w.shape), w.dtype) for w in optimizer.params]
        optimizer.step(g, rng.normal())


def contents(optimizer):
    state = optimizer.state_dict()
    moves = state.pop("moves")
    return repr(state), [move.tobytes() for move in moves], [w.tobytes() for w in optimizer.params]


@pytest.mark.parametrize("by_file", [False, True], ids=["dict", "file"])
@pytest.mark.parametrize("rule", RULES)
def test_a_run_continues_to_the_bit(rule, by_file, tmp_path):
    first = make(rule, lr=0.3, etas=(0.4, 1.3), step_sizes=(1e-4, 2.0), maximize=True)
    walk(first, 0)
    second = METHODS[rule]([w.copy() for w in first.params])
    if by_file:
        first.save(tmp_path / "state.npz")
        second.load(str(tmp_path / "state.npz"))
    else:
        second.load_state_dict(first.state_dict())
    assert contents(second) == contents(first)
    walk(first, 1)
    walk(second, 1)
    assert contents(second) == contents(first)


@pytest.mark.parametrize("loss", [None, 2.5, [1.0, math.nan]], ids=["none", "one", "rows"])
def test_the_previous_loss_is_saved(loss, tmp_path):
    first, second = (IRpropPlus(np.zeros((2, 3)), batched=isinstance(loss, list)) for _ in range(2))
    if loss is None:
        first.step(np.zeros((2, 3)))
    elif loss == 2.5:
        first.step(np.ones((2, 3)), loss)
    else:
        with pytest.warns(RuntimeWarning, match="first loss"):
            first.step(np.ones((2, 3)), loss)
    first.save(tmp_path / "state")
    second.load(tmp_path / "state")
    np.testing.assert_array_equal(second.state_dict()["loss"], np.array(loss, float) if loss else None)
    assert type(second.state_dict()["loss"]) is type(first.state_dict()["loss"])


def test_a_state_dict_is_a_copy():
    optimizer = make()
    walk(optimizer, 0)
    before = contents(optimizer)
    state = optimizer.state_dict()
    state["moves"][0][:] = 9
    state["lr"] = 7
    assert contents(optimizer) == before


def test_frozen_weights_forget_a_loaded_sign():
    free, frozen = RpropMinus(np.zeros(2)), IRpropPlus(np.zeros(2), frozen=[True, False])
    free.step(np.ones(2))
    state = free.state_dict() | {"variant": "irprop+", "loss": 1.0}
    del state["frozen"]  # the optimizer's own stays
    frozen.load_state_dict(state)
    assert frozen.signs_and_steps()[0].tolist() == [0, 1]
    frozen.step(np.ones(2), math.nan)
    assert frozen.params[0].tolist() == [0.0, 0.01]


DAMAGE = {
    "nothing in it": (lambda s: s.clear(), "format, loss, lr, maximize, moves, step_sizes, variant, version"),
    "no moves": (lambda s: s.pop("moves"), "moves missing; pass the result of state_dict"),
    "format": (lambda s: s.update(format="torch"), "a state of 'torch' version 2, not of"),
    "version": (lambda s: s.update(version=3), "version 3.*load it with the release that wrote it"),
    "variant": (lambda s: s.update(variant="irprop-"), "a state of 'irprop-', not of 'irprop.': load it"),
    "etas": (lambda s: s.update(etas=(2.0, 3.0)), "eta"),
    "step sizes": (lambda s: s.update(step_sizes=(0.0, 1e30)), "step_sizes"),
    "lr": (lambda s: s.update(lr=0.0), "lr"),
    "losses": (
        lambda s: s.update(loss=np.ones(3)),
        "loss of the state is one number for each of 3 rows: .*batched=True",
    ),
    "loss": (lambda s: s.update(loss=np.ones((3, 3))), "loss has shape"),
    "count": (lambda s: s["moves"].pop(), "a state of 1 parameters, not of 2"),
    "shape": (lambda s: s["moves"].__setitem__(1, np.ones((3, 2))), r"moves\[1\] is float64 of shape \(3"),
    "dtype": (lambda s: s["moves"].__setitem__(1, np.ones((2, 3), np.float32)), r"moves\[1\] is float32"),
    "no array": (lambda s: s["moves"].__setitem__(1, [1.0]), r"moves\[1\] is list"),
    "nan": (lambda s: s["moves"][1].__setitem__((0, 0), math.nan), r"moves\[1\] holds values that are no"),
    "zero": (lambda s: s["moves"][1].__setitem__((0, 0), 0.0), "no steps"),
    "between": (lambda s: s["moves"][1].__setitem__((0, 0), 2.0**40), "no steps"),
    "infinite": (lambda s: s["moves"][0].__setitem__(0, np.inf), r"moves\[0\] holds"),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_a_damaged_state_is_refused_and_changes_nothing(case):
    other, optimizer = make(lr=0.5, etas=(0.3, 1.7)), make()
    walk(other, 1)
    walk(optimizer, 2)
    state = other.state_dict()
    damage, text = DAMAGE[case]
    damage(state)
    before = contents(optimizer)
    with pytest.raises(ValueError, match=text):
        optimizer.load_state_dict(state)
    assert contents(optimizer) == before


def test_a_file_cut_short_anywhere_is_refused(tmp_path):
    optimizer, path = make(), tmp_path / "state.npz"
    walk(optimizer, 0)
    optimizer.save(path)
    whole = path.read_bytes()
    before = contents(optimizer)
    for length in [0, 1, 3, 10, *range(20, len(whole), 97), len(whole) - 1]:
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match=r"state.npz is truncated or was not written by save\(\)"):
            optimizer.load(path)
    assert contents(optimizer) == before


def test_a_flipped_byte_in_an_array_is_detected(tmp_path):
    optimizer, path = make(), tmp_path / "state.npz"
    optimizer.save(path)
    data = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        entry = archive.getinfo("move1.npy")
    data[entry.header_offset + 30 + len("move1.npy") + 140] ^= 1
    path.write_bytes(data)
    with pytest.raises(ValueError, match="truncated or was not written"):
        optimizer.load(path)


class Bomb:
    def __reduce__(self):
        return os.abort, ()


@pytest.mark.parametrize("foreign", ["text", "pickle", "npy", "pickled npy", "npz", "pickled npz", "zip"])
def test_foreign_files_are_refused_and_never_unpickled(foreign, tmp_path):
    path = tmp_path / "state"
    bombs = np.array([Bomb()], object)
    if foreign == "text":
        path.write_text("lr = 3")
    elif foreign == "pickle":
        path.write_bytes(pickle.dumps(Bomb()))
    elif foreign == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("a.txt", "b")
    else:
        with open(path, "wb") as file:
            if foreign.endswith("npy"):
                np.save(file, bombs if "pickled" in foreign else np.ones(3))
            else:
                np.savez(file, moves=bombs if "pickled" in foreign else np.ones(3))
    optimizer = make()
    with pytest.raises(ValueError, match="state"):
        optimizer.load(path)


def test_a_file_of_another_class_names_the_file(tmp_path):
    IRpropMinus(np.zeros(2)).save(tmp_path / "other.npz")
    with pytest.raises(ValueError, match=r"other.npz: a state of 'irprop-'"):
        IRpropPlus(np.zeros(2)).load(tmp_path / "other.npz")


def test_a_missing_file_is_an_os_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        make().load(tmp_path / "none")
    with pytest.raises(FileNotFoundError):
        make().save(tmp_path / "none" / "state")


@pytest.mark.parametrize("step", ["savez", "fsync", "replace"])
def test_a_save_that_fails_leaves_the_old_file_and_no_other(step, tmp_path, monkeypatch):
    optimizer, path = make(), tmp_path / "state.npz"
    optimizer.save(path)
    old = path.read_bytes()

    def fail(*_args, **_options):
        raise OSError("disk full")

    monkeypatch.setattr(np if step == "savez" else os, step, fail)
    walk(optimizer, 0)
    with pytest.raises(OSError, match="disk full"):
        optimizer.save(path)
    assert path.read_bytes() == old
    assert os.listdir(tmp_path) == ["state.npz"]


def test_a_file_has_the_permissions_of_any_new_file(tmp_path):
    make().save(tmp_path / "state")
    (tmp_path / "plain").touch()
    assert (tmp_path / "state").stat().st_mode == (tmp_path / "plain").stat().st_mode


@pytest.mark.parametrize("cls", [*METHODS.values(), AskTell])
def test_pickles_name_the_public_module(cls):
    assert cls.__module__ == "rprop_kernels.numpy"
    data = pickle.dumps(cls(np.zeros(2)), protocol=0)
    assert b"rprop_kernels.numpy\n" in data and b"rprop_kernels.numpy." not in data


@pytest.mark.parametrize("method", METHODS)
def test_a_pickle_loads_where_there_is_no_extension(method, monkeypatch):
    """It holds the backend that was requested, not the one that was found."""
    data = pickle.dumps([METHODS[method](np.ones(3)), METHODS[method](np.ones(3), backend="numpy")])
    monkeypatch.setitem(sys.modules, "rprop_kernels.kernels._native", None)
    with pytest.warns(RuntimeWarning, match="slower backend"):
        default, requested = pickle.loads(data)
    next_best = "numba" if unavailable_reason("numba") is None else "numpy"
    assert default.backend == next_best and requested.backend == "numpy"
