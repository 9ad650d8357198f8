"""Under load: threads that step, make and destroy; forks in between; reference counts and memory over many steps."""

import gc
import os
import random
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from rprop_kernels.backends import unavailable_reason
from rprop_kernels.kernels import threads
from rprop_kernels.numpy import METHODS, IRpropPlus

torch = pytest.importorskip("torch")

from rprop_kernels import torch as ours  # noqa: E402

needs_extension = pytest.mark.skipif(unavailable_reason("cython") is not None, reason=str(unavailable_reason("cython")))
needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork on this system")
TORCH = (ours.Rprop, ours.RpropMinus, ours.RpropPlus, ours.IRpropMinus, ours.IRpropPlus)


def numpy_problem(rule: str, backend: str | None = None, size: int = 300) -> tuple[Callable[[int], None], list[Any]]:
    """A step by its number, and the arrays it moves."""
    weights = [np.zeros(size, np.float32), np.zeros((4, 5))[:, ::2], np.zeros(())]
    grads = [[np.asarray(np.cos(np.arange(w.size) + i), w.dtype).reshape(w.shape) for w in weights] for i in range(3)]
    optimizer = METHODS[rule](weights, lr=0.1, backend=backend)
    return lambda i: optimizer.step(grads[i % 3], float(i % 4)), weights


def torch_problem(cls: Any, backend: str | None = None, size: int = 300) -> tuple[Callable[[int], None], list[Any]]:
    params = [torch.nn.Parameter(torch.zeros(size)), torch.nn.Parameter(torch.zeros(5, 4, dtype=torch.float64).t())]
    params.append(torch.nn.Parameter(torch.zeros((), dtype=torch.bfloat16)))
    grads = [[torch.cos(torch.arange(p.numel()) + i).to(p.dtype).reshape(p.shape) for p in params] for i in range(3)]
    optimizer = cls(params, lr=0.1, backend=backend)
    given = [{"loss": float(i)} if cls is ours.IRpropPlus else {} for i in range(4)]

    def step(i: int) -> None:
        for p, g in zip(params, grads[i % 3], strict=True):
            p.grad = g
        optimizer.step(**given[i % 4])

    return step, params


PROBLEMS: dict[str, Callable[[], tuple[Callable[[int], None], list[Any]]]] = {
    **{rule: lambda rule=rule: numpy_problem(rule) for rule in METHODS},
    **{cls.__name__: lambda cls=cls: torch_problem(cls) for cls in TORCH},
}


def contents(arrays: list[Any]) -> list[bytes]:
    return [np.asarray(a.detach().double() if isinstance(a, torch.Tensor) else a).tobytes() for a in arrays]


def together(*works: Callable[[], Any]) -> None:
    """Each in a thread of its own; the first error is raised here."""
    errors: list[BaseException] = []

    def guarded(work: Callable[[], Any]) -> None:
        try:
            work()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=guarded, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(300)
    assert not any(thread.is_alive() for thread in threads)
    if errors:
        raise errors[0]


@pytest.fixture(autouse=True)
def switching() -> Iterator[None]:
    """Threads take turns as often as they can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def alone(name: str, count: int) -> list[bytes]:
    step, arrays = PROBLEMS[name]()
    for i in range(count):
        step(i)
    return contents(arrays)


def crowd(seed: int, expected: dict[tuple[str, int], list[bytes]], stop: Callable[[], bool]) -> None:
    """Optimizers of all kinds are made, stepped a few times and destroyed."""
    rng = random.Random(seed)
    while not stop():
        name, count = rng.choice(list(expected))
        assert alone(name, count) == expected[name, count]


def threads_and_forks(steps: int, forks: int) -> None:
    """Many threads step optimizers of their own, others make and destroy them, the process forks meanwhile."""
    expected = {name: alone(name, steps) for name in PROBLEMS}
    few = {(name, count): alone(name, count) for name in PROBLEMS for count in (1, 4)}
    done = threading.Event()
    results: dict[str, list[bytes]] = {}

    def walk(name: str) -> None:
        step, arrays = PROBLEMS[name]()
        for i in range(steps):
            step(i)
        results[name] = contents(arrays)

    def walk_all() -> None:
        try:
            together(*(lambda name=name: walk(name) for name in PROBLEMS))
        finally:
            done.set()

    def collect() -> None:
        while not done.is_set():
            gc.collect()
            time.sleep(0.01)

    def fork() -> None:
        for _ in range(forks):
            child = os.fork()
            if child == 0:  # of this thread alone; torch's own operations may hang here, ours must not
                code = 1
                try:
                    code = int(contents(small[1]) != before or small[0](0) is not None)
                finally:
                    os._exit(code)
            for _ in range(2000):
                pid, status = os.waitpid(child, os.WNOHANG)
                if pid:
                    break
                time.sleep(0.01)
            else:
                os.kill(child, 9)
                os.waitpid(child, 0)
                raise AssertionError("a forked child hangs")
            assert os.waitstatus_to_exitcode(status) == 0
            time.sleep(0.01)

    small = numpy_problem("irprop+")
    small[0](0)
    before = contents(small[1])
    together(
        walk_all, collect, lambda: crowd(1, few, done.is_set), lambda: crowd(2, few, done.is_set),
        *([fork] if forks else []))  # fmt: skip
    assert results == expected


@needs_fork
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded, use of fork:DeprecationWarning")
def test_threads_that_step_make_and_destroy_while_the_process_forks() -> None:
    threads_and_forks(steps=150, forks=4)


@needs_fork
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded, use of fork:DeprecationWarning")
def test_the_same_for_minutes() -> None:
    threads_and_forks(steps=8000, forks=100)


@pytest.mark.parametrize("rounds", [3, pytest.param(60, marks=pytest.mark.slow)])
def test_large_steps_in_several_threads_at_once(rounds: int) -> None:
    """Above the threshold each of them has threads of libgomp's, which are as many teams as there are callers."""
    size = threads.MIN_SHARED_WEIGHTS + 1000

    def walk(make: Callable[..., Any], kind: Any, results: list[Any]) -> None:
        step, arrays = make(kind, None, size)
        for i in range(rounds):
            step(i)
        results.append(contents(arrays))

    expected: list[Any] = []
    walk(numpy_problem, "irprop-", expected)
    walk(torch_problem, ours.IRpropMinus, expected)
    results: list[list[Any]] = [[], []]
    together(*(lambda k=k: walk((numpy_problem, torch_problem)[k % 2], ("irprop-", ours.IRpropMinus)[k % 2],
                                results[k % 2]) for k in range(6)))  # fmt: skip
    assert results == [[bits] * 3 for bits in expected]


@pytest.mark.parametrize("seconds", [1.0, pytest.param(30.0, marks=pytest.mark.slow)])
@pytest.mark.parametrize("cls", TORCH)
def test_a_state_that_others_replace_during_the_step(cls: Any, seconds: float) -> None:
    """Loading, clearing and stepping one optimizer from several threads at once has no right outcome, and must not
    end in memory that is no longer there."""
    fresh = [torch.nn.Parameter(torch.zeros(5000)) for _ in range(20)]
    shared = cls(fresh)
    given = {"loss": 1.0} if cls is ours.IRpropPlus else {}
    for p in fresh:
        p.grad = torch.ones_like(p)
    shared.step(**given)
    saved = shared.state_dict()
    until = time.monotonic() + seconds
    counts = [0, 0]

    def stepping() -> None:
        while time.monotonic() < until:
            try:
                shared.step(**given)
                counts[0] += 1
            except (
                KeyError,
                AttributeError,
                RuntimeError,
                IndexError,
                TypeError,
            ):  # a state that is just being replaced
                counts[1] += 1

    def replacing() -> None:
        while time.monotonic() < until:
            shared.load_state_dict(saved)
            time.sleep(0)
            shared.state.clear()

    together(stepping, stepping, replacing)
    assert counts[0] > 0
    assert all(bool(p.isfinite().all()) for p in fresh)


# ------------------------------------------------------------------------------ reference counts and memory


def resident() -> int:
    """Bytes of this process in memory."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def steady(step: Callable[[int], None], objects: Callable[[], list[Any]], steps: int) -> None:
    """Neither reference counts nor memory grow over ``steps`` steps."""
    for i in range(500):
        step(i)
    held = objects()
    gc.collect()
    counts, blocks, memory = [sys.getrefcount(x) for x in held], sys.getallocatedblocks(), 0
    for part in range(4):
        for i in range(steps // 4):
            step(i)
        if part == 0 and sys.platform == "linux":
            memory = resident()
    gc.collect()
    assert [sys.getrefcount(x) for x in held] == counts
    assert sys.getallocatedblocks() - blocks < 500  # one that is lost at each step would be `steps`
    if sys.platform == "linux":
        assert resident() - memory < max(4 << 20, 8 * steps)


STEPS = [2_000, pytest.param(1_000_000, marks=pytest.mark.slow)]


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("backend", ["cython", pytest.param("numpy", marks=pytest.mark.slow)])
@pytest.mark.parametrize("rule", METHODS)
def test_nothing_leaks_from_numpy_steps(rule: str, backend: str, steps: int) -> None:
    if reason := unavailable_reason(backend):
        pytest.skip(reason)
    w = [np.zeros(5), np.zeros((2, 3), np.float32)]
    g = [np.ones(5), np.ones((2, 3), np.float32)]
    optimizer = METHODS[rule](w, backend=backend)
    losses = [1.0, 2.0, np.float64(3.0)]
    wrong = [np.ones(5), np.ones(4, np.float32)]
    refusals = 0

    def step(i: int) -> None:
        nonlocal refusals
        if i % 7 == 3:
            try:
                optimizer.step(wrong, 1.0)
            except ValueError:
                refusals += 1
        g[0] *= -1
        optimizer.step(g, losses[i % 3])

    def objects() -> list[Any]:
        return [*w, *g, *wrong, optimizer, np.ndarray, np.dtype(float), *(s for (s,) in optimizer._states)]

    steady(step, objects, steps)
    assert refusals > steps // 8


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("cls", TORCH)
def test_nothing_leaks_from_torch_steps(cls: Any, steps: int) -> None:
    step, params = torch_problem(cls)
    step(0)

    def objects() -> list[Any]:
        grads = [p.grad for p in params]
        return [*params, *grads, torch.Tensor, torch.nn.Parameter, cls]

    steady(lambda i: step(3 * i), objects, steps)


@needs_extension
@pytest.mark.parametrize("steps", [300, pytest.param(50_000, marks=pytest.mark.slow)])
def test_nothing_leaks_from_optimizers_that_come_and_go(steps: int) -> None:
    def step(i: int) -> None:
        for make in (lambda: numpy_problem("irprop+", size=50), lambda: torch_problem(TORCH[i % 5], size=50)):
            one, _ = make()
            one(0)
            one(1)

    steady(step, lambda: [np.ndarray, torch.Tensor, IRpropPlus, *TORCH], steps)
