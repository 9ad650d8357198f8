"""Files that are damaged byte by byte or made by others, and environment variables with nonsense in them.

A file is either refused, with an error that names it and with nothing changed, or what came out of it is what went
in: damage may have met bytes that mean nothing.
"""

import gzip
import io
import json
import os
import pickle
import random
import struct
import tempfile
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from fuzz_common import Finding, Room, check_text, shown

import rprop_kernels
from rprop_kernels.numpy import METHODS


class Bomb:
    """What must never be unpickled."""

    def __reduce__(self) -> Any:
        return os.abort, ()


def damaged(whole: bytes, rng: random.Random) -> bytes:
    """Some bytes changed, missing, doubled or made up."""
    data = bytearray(whole)
    for _ in range(rng.choice((1, 1, 1, 2, 8))):
        at = rng.randrange(len(data) + 1)
        end = min(len(data), at + rng.choice((1, 1, 2, 4, 8, 100)))
        kind = rng.randrange(7)
        if kind == 0:
            data = data[:at]
        elif kind == 1 and at < len(data):
            data[at] ^= 1 << rng.randrange(8)
        elif kind == 2:
            data[at:end] = rng.randbytes(end - at)
        elif kind == 3:
            data[at:end] = bytes(end - at)
        elif kind == 4:
            data[at:end] = b"\xff" * (end - at)
        elif kind == 5:
            data[at:at] = data[at:end]
        else:
            del data[at:end]
    return bytes(data)


def repacked(whole: bytes, rng: random.Random) -> bytes:
    """An .npz whose checksums are right and whose contents are not."""
    with zipfile.ZipFile(io.BytesIO(whole)) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    name = rng.choice(list(entries))
    kind = rng.randrange(9)
    if kind == 0:
        del entries[name]
    elif kind == 1:
        entries[name] = damaged(entries[name], rng)
    elif kind == 2:
        entries[rng.choice(("extra.npy", "move99.npy", "../up.npy", "a/b.npy", "loss.npy"))] = entries[name]
    elif kind == 3:
        entries[name] = npy(np.array([Bomb()], object), allow_pickle=True)
    elif kind == 4:
        entries[name] = pickle.dumps(Bomb())
    elif kind == 5:
        entries[name] = npy(
            rng.choice(
                (
                    np.zeros(3),
                    np.zeros((), "U9"),
                    np.array(b"x"),
                    np.zeros(2, "M8[s]"),
                    np.zeros(0),
                    np.full((5,), np.nan),
                    np.zeros((2, 3), ">f4"),
                    np.ones((), bool),
                )
            )
        )
    elif kind == 6:  # a header that promises more than there is
        shape = rng.choice(
            ("(999999999999,)", "(9223372036854775807,)", "(-1,)", "(3,,)", "None", "(1e3,)", "(2**80,)")
        )
        text = f"{{'descr': '<f8', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
        entries[name] = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text.encode()
    elif kind == 7:
        entries = dict(reversed(entries.items()))
    file = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(file, "w", rng.choice((0, 8, 12, 14))) as archive:
        warnings.simplefilter("ignore")
        for key, value in entries.items():
            archive.writestr(key, value)
            if kind == 8 and key == name:
                archive.writestr(key, damaged(value, rng))  # the same name twice
    return file.getvalue()


def npy(array: Any, allow_pickle: bool = False) -> bytes:
    file = io.BytesIO()
    np.save(file, array, allow_pickle=allow_pickle)
    return file.getvalue()


class Folder(Room):
    """A room with a folder of its own."""

    def start(self, rng: random.Random) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.path = Path(self.folder.name) / "file"
        self.prepare(rng)

    def prepare(self, rng: random.Random) -> None:
        raise NotImplementedError

    def close(self) -> None:
        self.folder.cleanup()

    def put(self, data: bytes, how: str) -> None:
        self.say(f"{how}: {len(data)} bytes, {data[:40]!r}...")
        self.path.write_bytes(data)

    def refused(self, error: BaseException) -> None:
        self.tally.errors += 1
        if str(self.path) not in str(error):
            raise Finding(f"this error does not name the file: {error!r}") from error
        check_text(error, "file")


class Checkpoint(Folder):
    """States of the NumPy optimizers."""

    name = "checkpoint"
    operations: ClassVar[dict[str, int]] = {"load_damaged": 4, "load_repacked": 4, "load_other": 1}

    def prepare(self, rng: random.Random) -> None:
        rule = rng.choice(list(METHODS))
        self.say(f"{rule}, three arrays")
        self.make: Callable[[], Any] = lambda: METHODS[rule](
            [np.zeros(3, np.float32), np.zeros((2, 3)), np.zeros((0, 2))], backend="numpy"
        )
        self.saved, self.optimizer = self.make(), self.make()
        for optimizer, count in ((self.saved, 4), (self.optimizer, 2)):
            for i in range(count):
                optimizer.step([np.full_like(w, rng.choice((1, -1))) for w in optimizer.params], float(i))
        self.saved.save(self.path)
        self.whole = self.path.read_bytes()

    @staticmethod
    def contents(optimizer: Any) -> Any:
        state = optimizer.state_dict()
        return [m.tobytes() for m in state.pop("moves")], repr(state), [w.tobytes() for w in optimizer.params]

    def load(self, same: bool) -> None:
        before, weights = self.contents(self.optimizer), self.contents(self.optimizer)[2]
        try:
            self.optimizer.load(self.path)
        except ValueError as error:
            self.refused(error)
            if self.contents(self.optimizer) != before:
                raise Finding("refused, and yet the state changed") from error
            return
        after = self.contents(self.optimizer)
        if after[2] != weights:
            raise Finding("loading a state changed the weights")
        if same and after[:2] != self.contents(self.saved)[:2]:
            raise Finding("a damaged file was loaded as if it were whole")
        self.optimizer.step([np.ones_like(w) for w in self.optimizer.params], 1.0)
        self.tally.steps += 1
        self.optimizer = self.make()

    def load_damaged(self, rng: random.Random) -> None:
        self.put(damaged(self.whole, rng), "damaged")
        self.load(same=True)

    def load_repacked(self, rng: random.Random) -> None:
        self.put(repacked(self.whole, rng), "repacked")
        self.load(same=False)

    def load_other(self, rng: random.Random) -> None:
        self.put(
            rng.choice(
                (
                    b"",
                    b"PK",
                    pickle.dumps(Bomb()),
                    npy(np.ones(3)),
                    npy(np.array([Bomb()], object), True),
                    b"PK\5\6" + bytes(18),
                    rng.randbytes(200),
                )
            ),
            "another file",
        )
        self.load(same=True)


class TorchCheckpoint(Folder):
    """States of the torch optimizers in files of torch.save, read with weights_only."""

    name = "torch-checkpoint"
    operations: ClassVar[dict[str, int]] = {"load_damaged": 1}

    def prepare(self, rng: random.Random) -> None:
        import torch

        from rprop_kernels import torch as ours

        classes = [x for x in vars(ours).values() if isinstance(x, type) and issubclass(x, torch.optim.Optimizer)]
        cls = rng.choice(sorted(classes, key=lambda x: x.__name__))
        self.say(f"{cls.__name__}, two parameters")
        self.torch = torch
        self.loss = {"loss": 1.0} if cls is ours.IRpropPlus else {}
        self.strict = cls is not ours.Rprop
        self.optimizers = []
        for _ in range(2):
            params = [torch.nn.Parameter(torch.ones(3)), torch.nn.Parameter(torch.ones(2, 2, dtype=torch.float16))]
            limits: dict[str, Any] = {
                "bounds": ([torch.full((3,), -1.0), None], 2.0),
                "frozen": [None, torch.eye(2) > 0],
            }
            self.optimizers.append(cls(params, **(limits if self.strict else {})))
            for sign in (1, -1)[len(self.optimizers) - 1 :]:
                for p in params:
                    p.grad = torch.full_like(p, sign)
                self.optimizers[-1].step(**self.loss)
        torch.save(self.optimizers[0].state_dict(), self.path, _use_new_zipfile_serialization=rng.random() < 0.7)
        self.whole = self.path.read_bytes()

    def load_damaged(self, rng: random.Random) -> None:
        torch, optimizer = self.torch, self.optimizers[1]
        self.put(damaged(self.whole, rng), "damaged")
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                state = torch.load(self.path, weights_only=True)
        except Exception:  # torch's own affair
            return
        before = shown(optimizer.state_dict())
        try:
            optimizer.load_state_dict(state)
        except (ValueError, RuntimeError, KeyError, TypeError, AttributeError, IndexError) as error:
            self.tally.errors += 1
            if self.strict:
                check_text(error, "state|param|eta|step|lr|group|loss|maximize|match|bound|frozen")
                if shown(optimizer.state_dict()) != before:
                    raise Finding("refused, and yet the state changed") from error
            else:
                self.over = True
            return
        try:
            optimizer.step(**self.loss)
            self.tally.steps += 1
        except (ValueError, RuntimeError, KeyError, TypeError) as error:
            self.tally.errors += 1
            if self.strict:
                raise Finding(f"a state was loaded that cannot be stepped: {error!r}") from error
            self.over = True
        for p in optimizer.param_groups[0]["params"] if self.strict else ():
            if not bool(p.isfinite().all()):
                raise Finding("a damaged state was loaded, and made weights that are not finite")


class LabFiles(Folder):
    """What the lab reads: models, data, configurations."""

    name = "lab"
    operations: ClassVar[dict[str, int]] = {"model": 6, "idx": 2, "table": 2, "configuration": 2}

    def prepare(self, rng: random.Random) -> None:
        self.say("a folder")

    def read(self, load: Callable[[Path], Any]) -> Any:
        """What was read, or None where it was refused."""
        from rprop_kernels.lab.errors import LabError

        try:
            return load(self.path)
        except LabError as error:
            self.refused(error)
        return None

    def model(self, rng: random.Random) -> None:
        from rprop_kernels.lab import models
        from rprop_kernels.lab.network import Network

        network = Network([6, 5, 10], output="softmax", cost="cross_entropy", seed=3)
        models.save(self.path, network, {"data": "digits"}, {"evaluation loss": 0.5}, (-1.0, 1.0))
        whole = self.path.read_bytes()
        again = rng.random() < 0.5
        self.put((repacked if again else damaged)(whole, rng), "a model")
        loaded = self.read(models.load)
        if (
            loaded is not None
            and not again
            and (
                (loaded.settings, loaded.figures) != ({"data": "digits"}, {"evaluation loss": 0.5})
                or loaded.network.theta.tobytes() != network.theta.tobytes()
            )
        ):
            raise Finding("a damaged model was loaded as if it were whole")

    def idx(self, rng: random.Random) -> None:
        from rprop_kernels.lab.datasets import read_idx

        whole = b"\0\0\x08\x03" + struct.pack(">3I", 3, 4, 5) + rng.randbytes(60)
        if rng.random() < 0.5:
            whole = gzip.compress(whole)
        self.put(damaged(whole, rng), "images")
        self.read(read_idx)

    def table(self, rng: random.Random) -> None:
        from rprop_kernels.lab.datasets import read_csv

        rows = "\n".join(",".join(str(rng.randrange(10)) for _ in range(5)) for _ in range(4)).encode()
        self.put(damaged(b"label,a,b,c,d\n" + rows, rng), "a CSV")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.read(read_csv)

    def configuration(self, rng: random.Random) -> None:
        from rprop_kernels.lab import config

        values: dict[str, Any] = {
            "optimizer": "IRprop+",
            "learning_rate": 0.001,
            "epochs": 50,
            "etas": [0.5, 1.2],
            "step_sizes": [1e-6, 50.0],
            "hidden_units": 8,
            "seed": 1,
        }
        if rng.random() < 0.5:
            key = rng.choice(list(values))
            values[key] = rng.choice((None, "x", -1, 0, 1e400, [], [1], {}, True, 10**30, "inf", [[1, 2]], 1.5))
        data = json.dumps(values).encode()
        self.put(damaged(data, rng) if rng.random() < 0.5 else data, "a configuration")
        self.read(config.read)


VARIABLES = (
    "RPROP_KERNELS_BACKEND",
    "RPROP_KERNELS_INSTRUCTION_SET",
    "RPROP_KERNELS_PLAIN_STEP",
    "TRITON_INTERPRET",
    "OMP_NUM_THREADS",
)


class Environment(Room):
    """Environment variables with anything in them: a right step, or an error that names the variable."""

    name = "environment"
    operations: ClassVar[dict[str, int]] = {"step": 3, "show": 1}

    def start(self, rng: random.Random) -> None:
        self.before = {name: os.environ.get(name) for name in VARIABLES}
        self.expected = np.zeros(3)
        METHODS["irprop-"](self.expected, backend="numpy").step(np.ones(3))
        for name in rng.sample(VARIABLES, rng.randint(1, 3)):
            value = rng.choice(
                (
                    "",
                    " ",
                    "numpy",
                    "cython",
                    "CYTHON",
                    "0",
                    "1",
                    "-1",
                    "x86-64-v4",
                    "baseline",
                    "nonsense",
                    "a\nb",
                    "\udcff\udcfe",
                    "é" * 300,
                    "1" * 5000,
                    "numba,numpy",
                    "../../x",
                )
            )
            self.say(f"{name}={shown(value)}")
            os.environ[name] = value

    def close(self) -> None:
        for name, value in self.before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value

    def step(self, rng: random.Random) -> None:
        self.say("RpropMinus(w).step(g), of NumPy or of torch")
        w = np.zeros(3)
        of_torch = rng.random() < 0.3
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "rprop_kernels falls back", RuntimeWarning)
            try:
                if of_torch:
                    import torch

                    from rprop_kernels.torch import IRpropMinus

                    p = torch.nn.Parameter(torch.from_numpy(w))
                    optimizer = IRpropMinus([p])
                    p.grad = torch.ones(3, dtype=torch.float64)
                    optimizer.step()
                else:
                    METHODS["irprop-"](w).step(np.ones(3))
            except ValueError as error:
                self.tally.errors += 1
                check_text(error, "RPROP_KERNELS_")
                return
        self.tally.steps += 1
        if not np.array_equal(w, self.expected):
            raise Finding(f"a wrong step: {w}")

    def show(self, rng: random.Random) -> None:
        self.say("show_config()")
        rprop_kernels.show_config(display=False)


ROOMS: tuple[type[Room], ...] = (Checkpoint, TorchCheckpoint, LabFiles, Environment)
