"""What the fuzzer has found, each by itself; and that no file is ever unpickled."""

import ast
import io
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import fuzz
import fuzz_common as common
import numpy as np
import pytest

from rprop_kernels.backends import unavailable_reason
from rprop_kernels.kernels import numpy_

ROOT = Path(__file__).parents[2]
needs_extension = pytest.mark.skipif(unavailable_reason("cython") is not None, reason=str(unavailable_reason("cython")))


# ------------------------------------------------------------------------------------------------- fuzzer


def room_of(name: str) -> Any:
    if name not in ("numpy", "asktell", "large", "fit", "checkpoint"):
        pytest.importorskip("torch")
    return fuzz.room_named(name)


@pytest.mark.parametrize("name", fuzz.ROOMS)
def test_a_few_hostile_sequences(name: str) -> None:
    room, tally = room_of(name), common.Tally()
    for index in range(4 if room.every > 1 else 16):
        common.run(room, f"1.{index}", tally, common.Trace())
    assert tally.steps + tally.errors > 0


def forgetful(right: Any) -> Any:
    """A step that leaves the last weight of each array where it was."""

    def step(variant: str, weights: Any, *rest: Any, **options: Any) -> Any:
        kept = [w[-1:].copy() for w in weights if w.ndim]
        done = right(variant, weights, *rest, **options)
        for w, old in zip((w for w in weights if w.ndim), kept, strict=True):
            w[-1:] = old
        return done

    return step


def test_the_fuzzer_finds_a_broken_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(numpy_, "step", forgetful(numpy_.step))
    with pytest.raises(common.Finding, match="differ from the oracle's"):
        for index in range(100):
            common.run(room_of("numpy"), f"1.{index}", common.Tally(), common.Trace())


@pytest.mark.slow
def test_the_script_prints_a_reproducer_and_fails(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        f"import sys\nsys.path.insert(0, {str(ROOT / 'tests')!r})\n"
        "import numpy\nright = numpy.copyto\n"
        "numpy.copyto = lambda to, *rest, **options: None if to.ndim == 1 else right(to, *rest, **options)\n"
    )
    command = [
        sys.executable,
        str(ROOT / "tests" / "fuzz" / "fuzz.py"),
        "--only",
        "numpy",
        "--seed",
        "1",
        "--sequences",
        "40",
    ]
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False,
                          env=os.environ | {"PYTHONPATH": path})  # fmt: skip
    assert done.returncode == 1
    replay = done.stdout.splitlines()[-1].partition("--replay ")[2]
    assert replay.startswith("numpy/1.") and len(replay.split("/")[2].split(",")) <= 4


LOADERS = {"load", "loads", "read_pickle", "Unpickler", "allow_pickle", "fetch_openml"}


def test_no_file_is_ever_unpickled() -> None:
    """Every call of a function named load in the code that is shipped: by a reader that runs no code."""
    found = []
    for folder in ("rprop_kernels", "examples", "benchmarks"):
        for path in (ROOT / folder).rglob("*.py"):
            tree = ast.parse(path.read_text(encoding="utf-8"))
            names = {a.name.partition(".")[0] for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names}
            names |= {(n.module or "").partition(".")[0] for n in ast.walk(tree)
                      if isinstance(n, ast.ImportFrom) and not n.level}  # fmt: skip
            where = path.relative_to(ROOT).as_posix()
            assert not names & {"pickle", "marshal", "shelve", "dill", "cloudpickle", "yaml"}, where
            for call in (n for n in ast.walk(tree) if isinstance(n, ast.Call)):
                text = ast.unparse(call.func)
                if text in (
                    "np.load",
                    "numpy.load",
                    "torch.load",
                    "joblib.load",
                    "pandas.read_pickle",
                    "torch.jit.load",
                ):
                    options = {k.arg: ast.unparse(k.value) for k in call.keywords}
                    safe = options.get("allow_pickle") == "False" or options.get("weights_only") == "True"
                    found.append(f"{where}: {text}")
                    assert safe, f"{where}, line {call.lineno}: {ast.unparse(call)}"
                assert text not in ("eval", "exec", "load_module"), f"{where}, line {call.lineno}"
    assert found, "files.py has one"


# -------------------------------------------------------------------------------------------------- torch

torch = pytest.importorskip("torch")

from rprop_kernels import torch as ours  # noqa: E402

FOUR = (ours.RpropMinus, ours.RpropPlus, ours.IRpropMinus, ours.IRpropPlus)


def stepped(cls: Any, params: list[Any], **options: Any) -> Any:
    optimizer = cls(params, **options)
    for p in params:
        p.grad = torch.ones_like(p)
    step(optimizer)
    return optimizer


def step(optimizer: Any) -> None:
    optimizer.step(**({"loss": 1.0} if isinstance(optimizer, ours.IRpropPlus) else {}))


def leaf(*shape: int) -> Any:
    return torch.zeros(shape, requires_grad=True)


def contents(optimizer: Any) -> Any:
    file = io.BytesIO()
    params = [p for g in optimizer.param_groups for p in g["params"]]
    torch.save((optimizer.state_dict(), [p.detach() for p in params]), file)
    return file.getvalue()


@pytest.mark.parametrize("cls", [ours.Rprop, *FOUR])
def test_params_of_a_group_may_be_a_tuple(cls: Any) -> None:
    p, q = leaf(3), leaf(2)
    optimizer = stepped(cls, [p, q])
    optimizer.param_groups[0]["params"] = (p, q)
    step(optimizer)
    optimizer.param_groups = tuple(optimizer.param_groups)
    step(optimizer)
    assert p.tolist() == pytest.approx([-0.01 - 0.012 - 0.0144] * 3)


@pytest.mark.parametrize("cls", [ours.Rprop, *FOUR])
def test_tensors_at_odd_addresses_are_stepped(cls: Any) -> None:
    """The compiler takes a float to lie at a multiple of 4: reading it elsewhere is undefined in C."""
    p = torch.frombuffer(bytearray(4 * 70 + 1), dtype=torch.float32, offset=1).requires_grad_()
    optimizer = cls([p])
    for _ in range(2):
        p.grad = torch.frombuffer(bytearray(b"\0" + np.ones(70, np.float32).tobytes()), dtype=torch.float32, offset=1)
        step(optimizer)
    assert p.tolist() == pytest.approx([-0.022] * 70)


@pytest.mark.parametrize("key, value, text", [
    ("etas", None, "etas must be two numbers"), ("etas", 5, "etas must be two numbers"),
    ("step_sizes", (10**400, 1), "step_sizes must be two numbers"), ("lr", "abc", "lr must be one number"),
    ("lr", None, "lr must be one number"), ("lr", 10**400, "lr must be one number"),
])  # fmt: skip
@pytest.mark.parametrize("fresh", [False, True])
@pytest.mark.parametrize("cls", FOUR)
def test_options_that_become_nonsense_are_refused_by_name(
    cls: Any, fresh: bool, key: str, value: Any, text: str
) -> None:
    p = leaf(3)
    optimizer = cls([p]) if fresh else stepped(cls, [p])
    p.grad = torch.ones(3)
    before = contents(optimizer)
    old, optimizer.param_groups[0][key] = optimizer.param_groups[0][key], value
    with pytest.raises(ValueError, match=text):
        step(optimizer)
    optimizer.param_groups[0][key] = old
    assert contents(optimizer) == before


def another_shape(p: Any, q: Any, optimizer: Any) -> None:
    q.data = torch.zeros(7)


def expanded(p: Any, q: Any, optimizer: Any) -> None:
    q.data = torch.zeros(1).expand(2)


def no_state(p: Any, q: Any, optimizer: Any) -> None:
    optimizer.state[q]["move"] = None


def other_state(p: Any, q: Any, optimizer: Any) -> None:
    optimizer.state[q]["move"] = torch.ones(1)


def other_dtype(p: Any, q: Any, optimizer: Any) -> None:
    optimizer.state[q]["move"] = optimizer.state[q]["move"].half()


def freed(p: Any, q: Any, optimizer: Any) -> None:
    optimizer.state[q]["move"].untyped_storage().resize_(0)


@pytest.mark.parametrize("backend", ["cython", "numba", "torch"])
@pytest.mark.parametrize("damage", [another_shape, expanded, no_state, other_state, other_dtype, freed])
@pytest.mark.parametrize("cls", FOUR)
def test_all_of_a_step_or_nothing_of_it(cls: Any, damage: Any, backend: str) -> None:
    """The second parameter cannot be stepped: the first is not stepped, either."""
    if reason := unavailable_reason(backend):
        pytest.skip(reason)
    p, q = leaf(3), leaf(2)
    optimizer = stepped(cls, [p, q], backend=backend)
    damage(p, q, optimizer)
    before = p.tolist(), optimizer.state[p]["move"].tolist()
    with pytest.raises(RuntimeError, match=r"zero_grad|p\.data\.clone|state\.clear|resized to 0"):
        step(optimizer)
    assert (p.tolist(), optimizer.state[p]["move"].tolist()) == before


DAMAGE: dict[str, tuple[Any, str]] = {
    "no state_dict": (lambda s: s.clear(), "state_dict holds no dict 'state'"),
    "no groups": (lambda s: s.pop("param_groups"), "param_groups of the state_dict must be a list"),
    "groups": (lambda s: s.update(param_groups=10**400), "param_groups of the state_dict must be a list"),
    "no params": (lambda s: s["param_groups"][0].pop("params"), "each with a list 'params'"),
    "no etas": (lambda s: s["param_groups"][0].pop("etas"), "no etas: pass what"),
    "lr": (lambda s: s["param_groups"][0].update(lr="x"), "lr must be one number"),
    "maximize": (lambda s: s["param_groups"][0].update(maximize="x"), "maximize is 'x'"),
    "loss": (lambda s: s["param_groups"][0].update(prev_loss="x"), "prev_loss is 'x'"),
    "names": (lambda s: s["param_groups"][0].update(params=[[]]), "params of the state_dict must be numbers"),
    "no dict": (lambda s: s["state"].update({0: 1j}), "the saved state of a parameter is 1j"),
    "shape": (lambda s: s["state"][0].update(move=torch.ones(1)), r"has shape \(1,\), its parameter \(3,\)"),
    "huge": (lambda s: s["state"][0].update(move=torch.ones(1).expand(1 << 44)), "shape|allocate"),
    "nan": (lambda s: s["state"][0].update(move=torch.full((3,), math.nan)), "values that are no steps"),
    "zero": (lambda s: s["state"][0].update(move=torch.zeros(3)), "values that are no steps"),
    "between": (lambda s: s["state"][0].update(move=torch.full((3,), 3e9)), "values that are no steps"),
}


@pytest.mark.parametrize("case", DAMAGE)
@pytest.mark.parametrize("cls", FOUR)
def test_damaged_checkpoints_are_refused_and_change_nothing(cls: Any, case: str) -> None:
    damage, text = DAMAGE[case]
    optimizer, other = stepped(cls, [leaf(3)]), stepped(cls, [leaf(3)], lr=0.5, etas=(0.25, 2.0))
    state = other.state_dict()
    damage(state)
    before = contents(optimizer)
    with pytest.raises((ValueError, RuntimeError), match=text):
        optimizer.load_state_dict(state)
    assert contents(optimizer) == before
    step(optimizer)


@needs_extension
def test_a_signal_at_the_threads_leaves_the_counters_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C can strike wherever Python runs within a step: only before anything has changed."""
    from rprop_kernels.kernels import threads

    p = torch.zeros(threads.MIN_SHARED_WEIGHTS + 1, requires_grad=True)
    optimizer = stepped(ours.Rprop, [p])

    def interrupted(wanted: Any = 0) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(threads, "thread_team", interrupted)
    before, version = float(optimizer.state[p]["step"]), p._version
    with pytest.raises(KeyboardInterrupt):
        optimizer.step()
    assert float(optimizer.state[p]["step"]) == before and p._version == version
