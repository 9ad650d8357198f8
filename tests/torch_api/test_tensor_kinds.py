"""Tensors that are more than memory: never touched natively, always torch's result or torch's error."""

import copy
import os
import subprocess
import sys
import warnings
from collections.abc import Callable
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from backends import compiled  # noqa: E402
from bits import bits, same, state_of, trial  # noqa: E402
from torch import Tensor  # noqa: E402
from torch.overrides import TorchFunctionMode  # noqa: E402
from torch.testing._internal.two_tensor import TwoTensor  # noqa: E402
from torch.utils._python_dispatch import TorchDispatchMode  # noqa: E402

import rprop_kernels.torch as ours  # noqa: E402
from rprop_kernels.kernels import threads  # noqa: E402
from rprop_kernels.torch import dispatch  # noqa: E402
from rprop_kernels.torch._compat import DTYPES  # noqa: E402
from rprop_kernels.torch.table_step import STEPPED, TableStep  # noqa: E402

FOUR = (ours.RpropMinus, ours.RpropPlus, ours.IRpropMinus, ours.IRpropPlus)
LOSSES = (3.0, 2.0, 2.5, float("nan"), 1.0, 1.5)


def values(*shape: int, seed: int = 0, dtype: Any = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def step(optimizer: Any, i: int) -> None:
    optimizer.step(**({"loss": LOSSES[i % len(LOSSES)]} if isinstance(optimizer, ours.IRpropPlus) else {}))


def run(make: Any, build: Callable[[], list[Tensor]], grads: Callable[[int], list[Tensor]], steps: int = 5) -> Any:
    """Parameters and states after some steps, or the error."""
    params = build()
    optimizer = make(params)
    try:
        for i in range(steps):
            for p, g in zip(params, grads(i), strict=True):
                p.grad = g
            step(optimizer, i)
    except Exception as error:
        return type(error), str(error)
    return params, state_of(optimizer)


def whole(x: Any) -> Any:
    """Without laziness, subclasses and wrappers."""
    if isinstance(x, TwoTensor):
        return [whole(x.a), whole(x.b)]
    if isinstance(x, Tensor):
        return x.detach().as_subclass(Tensor).resolve_conj().resolve_neg()
    if isinstance(x, dict):
        return {k: whole(v) for k, v in x.items()}
    return type(x)(map(whole, x)) if isinstance(x, (list, tuple)) else x


# ------------------------------------------------------------------------------------- lazy bits, subclasses


class Sub(Tensor):
    pass


class Parameter(torch.nn.Parameter):
    pass


def real_of_conj(x: Tensor) -> Tensor:
    """-x, but lazily: the imaginary part of a conjugated tensor."""
    return torch.complex(torch.zeros_like(x), x).conj().imag


def leaf(x: Tensor) -> Tensor:
    return x.detach().requires_grad_()


KINDS: dict[str, tuple[Callable[[], Tensor], Callable[[int], Tensor]]] = {
    "plain": (lambda: leaf(values(6)), lambda i: values(6, seed=i)),
    "negated gradient": (lambda: leaf(values(6)), lambda i: torch._neg_view(values(6, seed=i))),
    "imaginary gradient": (lambda: leaf(values(6)), lambda i: real_of_conj(values(6, seed=i))),
    "negated parameter": (lambda: leaf(torch._neg_view(values(6))), lambda i: values(6, seed=i)),
    "complex": (
        lambda: leaf(values(6, dtype=torch.complex64)),
        lambda i: values(6, seed=i, dtype=torch.complex64),
    ),
    "conjugated gradient": (
        lambda: leaf(values(6, dtype=torch.complex64)),
        lambda i: values(6, seed=i, dtype=torch.complex64).conj(),
    ),
    "conjugated parameter": (
        lambda: leaf(values(6, dtype=torch.complex128).conj()),
        lambda i: values(6, seed=i, dtype=torch.complex128),
    ),
    "subclass": (lambda: leaf(values(6).as_subclass(Sub)), lambda i: values(6, seed=i).as_subclass(Sub)),
    "subclass gradient": (lambda: leaf(values(6)), lambda i: values(6, seed=i).as_subclass(Sub)),
    "parameter subclass": (lambda: Parameter(values(6)), lambda i: values(6, seed=i)),
    "two tensors": (
        lambda: leaf(TwoTensor(values(6), values(6, seed=9))),
        lambda i: TwoTensor(values(6, seed=i), values(6, seed=50 + i)),
    ),
    "copy on write": (
        lambda: leaf(torch._lazy_clone(values(6))),
        lambda i: torch._lazy_clone(values(6, seed=i)),
    ),
    "mkldnn": (lambda: leaf(values(6)).to_mkldnn().detach(), lambda i: values(6, seed=i).to_mkldnn()),
    "expanded parameter": (lambda: leaf(values(1).expand(6)), lambda i: values(6, seed=i)),
    "overlapping rows": (lambda: leaf(values(8).unfold(0, 4, 2)), lambda i: values(3, 4, seed=i)),
    "complex with zeros": (
        lambda: leaf(values(6, dtype=torch.complex64)),
        lambda i: torch.complex(torch.zeros(6), -values(6, seed=i).relu()),
    ),
}


@pytest.mark.parametrize("foreach", [None, False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_drop_in(kind: str, foreach: bool | None) -> None:
    build, gradient = KINDS[kind]
    outcomes = [
        run(
            lambda p, make=make: make(p, foreach=foreach, maximize=True),
            lambda: [build(), leaf(values(2))],
            lambda i: [gradient(i), values(2, seed=i)],
        )
        for make in (ours.Rprop, torch.optim.Rprop)
    ]
    assert same(*map(whole, outcomes)), outcomes


@pytest.mark.parametrize("make", FOUR)
@pytest.mark.parametrize("kind", KINDS)
def test_four_classes(kind: str, make: Any) -> None:
    build, gradient = KINDS[kind]
    outcome = run(make, lambda: [build()], lambda i: [gradient(i)])
    if kind == "overlapping rows":  # torch's operations write such memory in an order of their own
        return
    if kind in ("conjugated parameter", "mkldnn", "expanded parameter"):
        assert issubclass(outcome[0], RuntimeError), outcome  # as torch.optim.Rprop
        return
    parts = [build()]
    if kind == "two tensors":
        parts = [parts[0].a, parts[0].b]

    def real(x: Tensor) -> Tensor:
        x = x.detach().as_subclass(Tensor).resolve_conj().resolve_neg().clone()
        return torch.view_as_real(x).contiguous() if x.is_complex() else x

    def gradients(i: int) -> list[Tensor]:
        g = gradient(i)
        return [real(g.a), real(g.b)] if kind == "two tensors" else [real(g)]

    params, states = run(make, lambda: [leaf(real(p)) for p in parts], gradients)
    result, state = whole(outcome[0][0]), whole(outcome[1][0]["move"])
    if kind != "two tensors":
        result, state = [result], [state]
    assert [torch.equal(bits(a), bits(b)) for a, b in zip(result, params, strict=True)] == [True] * len(params)
    for a, b in zip(state, states, strict=True):
        assert torch.equal(bits(a), bits(b["move"]))


def test_copy_on_write_leaves_the_other_owner_alone() -> None:
    for make in (ours.Rprop, *FOUR):
        first = values(6)
        clone, before = torch._lazy_clone(first), first.clone()
        p = leaf(clone)
        optimizer = make([p])
        for i in range(3):
            p.grad = values(6, seed=i)
            kept = {name: (torch._lazy_clone(x), x.clone()) for name, x in optimizer.state[p].items()}
            step(optimizer, i)
            for lazy, copied in kept.values():
                assert torch.equal(lazy, copied)
        assert torch.equal(first, before)
        assert not torch.equal(p, before)


# ------------------------------------------------------------------------------- who shares memory with whom


def overlapping() -> list[Tensor]:
    base = values(9)
    return [leaf(base[:6]), leaf(base[3:])]


def twice() -> list[Tensor]:
    p = leaf(values(6))
    return [p, p]


def tied_by_memory() -> list[Tensor]:
    p = leaf(values(6))
    return [p, leaf(p)]


@pytest.mark.parametrize("foreach", [None, False, True])
@pytest.mark.parametrize("build", [overlapping, twice, tied_by_memory])
def test_shared_memory(build: Any, foreach: bool | None) -> None:
    def make(cls: Any) -> Any:
        def made(params: Any) -> Any:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # torch: duplicate parameters
                return cls(params, foreach=foreach)

        return made

    def gradients(i: int) -> list[Tensor]:
        g = values(6, seed=i)
        return [g, g if build is twice else values(6, seed=40 + i)]

    assert same(run(make(ours.Rprop), build, gradients), run(make(torch.optim.Rprop), build, gradients))


@pytest.mark.parametrize("make", [ours.Rprop, *FOUR])
@pytest.mark.parametrize("build", [overlapping, tied_by_memory])
def test_shared_memory_is_stepped_one_after_the_other(make: Any, build: Any) -> None:
    def gradients(i: int) -> list[Tensor]:
        return [values(6, seed=i), values(6, seed=40 + i)]

    together = build()
    run(make, lambda: together, gradients)
    apart = build()
    optimizers = [make([p]) for p in apart]
    for i in range(5):
        for p, g, optimizer in zip(apart, gradients(i), optimizers, strict=True):
            p.grad = g
            step(optimizer, i)
    assert same([*together], [*apart])


@pytest.mark.parametrize("make", [ours.Rprop, torch.optim.Rprop])
def test_gradient_in_the_parameters_memory(make: Any) -> None:
    def once(cls: Any) -> Any:
        p = leaf(values(6))
        p.grad = p.detach()
        optimizer = cls([p])
        step(optimizer, 0)
        step(optimizer, 1)
        return p, state_of(optimizer)

    assert same(once(make), once(torch.optim.Rprop))


@pytest.mark.parametrize("backend", ["cython", "numba"])
def test_freed_memory_is_an_error(backend: str) -> None:
    """torch.optim.Rprop reads through a NULL pointer there and dies, hence a process of its own."""
    code = """
import torch, rprop_kernels.torch as ours
for make in ours.Rprop, ours.RpropMinus, ours.IRpropPlus:
    for what in "p", "g", "s":
        p = torch.ones(5, requires_grad=True); p.grad = torch.ones(5)
        given = {"loss": 1.0} if make is ours.IRpropPlus else {}
        o = make([p]); o.step(**given)
        state = next(t for n, t in o.state[p].items() if n != "step")
        {"p": p, "g": p.grad, "s": state}[what].untyped_storage().resize_(0)
        try: o.step(**given)
        except RuntimeError as error: assert "storage was resized to 0" in str(error)
        else: raise AssertionError(make, what)
print("all refused")
"""
    done = subprocess.run(
        [sys.executable, "-P", "-c", code],
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ | {"RPROP_KERNELS_BACKEND": backend},
    )
    assert "all refused" in done.stdout, done


# -------------------------------------------------------------------------------- meta, fake, vmap, modes


@pytest.mark.parametrize("loss", [1.0, "meta", "rows"])
def test_meta(loss: Any) -> None:
    p = torch.ones(5, 2, device="meta", requires_grad=True)
    p.grad = torch.ones(5, 2, device="meta")
    for make in (ours.Rprop, torch.optim.Rprop):
        optimizer = make([p])
        optimizer.step()
        optimizer.step()
        assert {k: (v.device.type, v.shape) for k, v in optimizer.state[p].items()} == {
            "step": ("cpu", ()),
            "prev": ("meta", (5, 2)),
            "step_size": ("meta", (5, 2)),
        }
    given = {"meta": torch.ones((), device="meta"), "rows": torch.ones(5, device="meta")}.get(loss, loss)
    for make in FOUR:
        optimizer = make([p], batched=loss == "rows")
        for _ in range(2):
            optimizer.step(**({"loss": given} if make is ours.IRpropPlus else {}))
        assert optimizer.state[p]["move"].device.type == "meta"


@pytest.mark.parametrize("loss", [lambda p: 1.0, lambda p: p.sum(), lambda p: p.sum(1), lambda p: float("nan")])
def test_fake(loss: Any) -> None:
    from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

    for make in (ours.Rprop, torch.optim.Rprop, *FOUR):
        with FakeTensorMode(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a first loss that is NaN
            p = torch.randn(5, 2, requires_grad=True)
            p.grad = torch.randn(5, 2)
            batched = {"batched": True} if getattr(loss(p), "shape", ()) == (5,) else {}
            optimizer = make([p], **(batched if make in FOUR else {}))
            for _ in range(2):
                optimizer.step(**({"loss": loss(p)} if make is ours.IRpropPlus else {}))
            assert all(isinstance(t, FakeTensor) for t in optimizer.state[p].values())


def test_fake_mode_leaves_real_tensors_alone() -> None:
    from torch._subclasses.fake_tensor import FakeTensorMode

    for make in (ours.Rprop, ours.RpropMinus):
        p = leaf(values(5))
        p.grad = values(5, seed=1)
        optimizer = make([p])
        optimizer.step()
        before = p.detach().clone()
        with FakeTensorMode(), pytest.raises(Exception, match=r"(?i)fake"):
            optimizer.step()
        assert torch.equal(p, before)


def test_vmap() -> None:
    """A whole fit inside torch.vmap: every lane as if it were alone."""

    def fit(make: Any, w: Tensor, grads: Tensor, losses: Tensor) -> Tensor:
        p = w.clone()
        optimizer = make([p])
        for i in range(4):
            p.grad = grads[i]
            optimizer.step(**({"loss": losses[i]} if make is ours.IRpropPlus else {}))
        return p

    start, grads, losses = values(3, 5), values(3, 4, 5, seed=1), values(3, 4, seed=2)
    for make in FOUR:
        together = torch.vmap(lambda *a, make=make: fit(make, *a))(start, grads, losses)
        for lane in range(3):
            alone = fit(make, start[lane], grads[lane], losses[lane])
            assert torch.equal(together[lane], alone), make
    outcomes = []
    for make in (ours.Rprop, torch.optim.Rprop):  # torch's masked assignment refuses vmap, and so do we
        with pytest.raises(RuntimeError) as caught:
            torch.vmap(lambda *a, make=make: fit(make, *a))(start, grads, losses)
        outcomes.append(str(caught.value))
    assert outcomes[0] == outcomes[1]


def test_functionalize_and_func_grad() -> None:
    def move(make: Any, w: Tensor) -> Tensor:
        p = w * 1
        q = p.detach()
        q.grad = torch.ones_like(q)
        make([q]).step()
        return (p * q).sum()

    w = values(5)
    for make in (ours.Rprop, ours.RpropMinus):
        expected = w.clone() - 0.01
        assert torch.equal(torch.func.functionalize(lambda w, make=make: move(make, w))(w), (expected * expected).sum())
        outcome = torch.func.grad(lambda w, make=make: move(make, w))(w)
        assert torch.equal(outcome, torch.func.grad(lambda w: move(torch.optim.Rprop, w))(w))


class Seen(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(str(func))
        return func(*args, **(kwargs or {}))


class SeenFunctions(TorchFunctionMode):
    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(getattr(func, "__name__", str(func)))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("mode", [Seen, SeenFunctions])
def test_modes_see_the_operations_of_torch(mode: Any) -> None:
    seen = []
    for make in (ours.Rprop, torch.optim.Rprop):
        p = leaf(values(5))
        optimizer = make([p])
        with mode() as m:
            for i in range(2):
                p.grad = values(5, seed=i)
                m.names.clear()
                optimizer.step()
        seen.append([n for n in m.names if "dtype" not in n and "grad" not in n and "device" not in n])
        state = (p.detach(), state_of(optimizer))
        seen.append(state)
    assert [n for n in seen[2] if n in ("aten.addcmul_.default", "addcmul_", "aten.mul.Tensor")] == [
        n for n in seen[0] if n in ("aten.addcmul_.default", "addcmul_", "aten.mul.Tensor")
    ]
    assert seen[0]
    assert same(seen[1], seen[3])


def test_default_device() -> None:
    """A default device is a function mode, too; it says where new tensors go and nothing else."""
    for make in (ours.Rprop, *FOUR):
        p = leaf(values(5))
        p.grad = values(5, seed=1)
        with torch.device("meta"):
            optimizer = make([p])
            step(optimizer, 0)
            step(optimizer, 1)
        assert p.device.type == "cpu"
        q = leaf(values(5))
        q.grad = values(5, seed=1)
        optimizer = make([q])
        step(optimizer, 0)
        step(optimizer, 1)
        assert torch.equal(p, q)


@pytest.mark.parametrize("backend", ["cython", "numba"])
def test_inference_mode(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RPROP_KERNELS_BACKEND", backend)

    def life(make: Any) -> Any:
        p = leaf(values(5))
        p.grad = values(5, seed=1)
        optimizer = make([p])
        with torch.inference_mode():  # the state is made of inference tensors: no version counters
            step(optimizer, 0)
            step(optimizer, 1)
        after = p.detach().clone()
        with pytest.raises(RuntimeError, match="Inplace update to inference tensor outside InferenceMode") as caught:
            step(optimizer, 2)
        return after, str(caught.value)

    expected = life(torch.optim.Rprop)
    assert same(life(ours.Rprop), expected)
    for make in FOUR:
        assert life(make)[1] == expected[1]


# ------------------------------------------------------------------------- reading tensors without DLPack


@pytest.fixture
def without_dlpack(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a torch before 2.10: an optimizer made now reads tensors by their attributes."""

    if hasattr(Tensor, "__dlpack_c_exchange_api__"):
        monkeypatch.delattr(Tensor, "__dlpack_c_exchange_api__")


@compiled
@pytest.mark.usefixtures("without_dlpack")
def test_random_steps_without_dlpack() -> None:
    native = 0
    for seed in range(300_000, 300_150):
        for mine, theirs, note in trial(seed, ours.Rprop, torch.optim.Rprop):
            for a, b in zip(mine.param_groups, theirs.param_groups, strict=True):
                assert same(a["params"], b["params"]), note
            assert same(state_of(mine), state_of(theirs)), note
            native += mine._native_step is not None
    assert native > 500


@pytest.mark.usefixtures("without_dlpack")
@pytest.mark.parametrize("kind", [k for k in KINDS if k != "plain"])
def test_kinds_without_dlpack(kind: str) -> None:
    test_drop_in(kind, False)
    for make in FOUR:
        test_four_classes(kind, make)


@pytest.mark.usefixtures("without_dlpack")
def test_copy_on_write_without_dlpack() -> None:
    test_copy_on_write_leaves_the_other_owner_alone()


@compiled
def test_both_ways_of_reading_are_native(monkeypatch: pytest.MonkeyPatch, without_dlpack: None) -> None:
    for make in (ours.Rprop, *FOUR):
        p = torch.nn.Parameter(values(5))
        p.grad = values(5, seed=1)
        optimizer = make([p])
        monkeypatch.setattr(optimizer, "_fallback_step", None)
        step(optimizer, 0)
        step(optimizer, 1)
    assert copy.deepcopy(p) is not None


# --------------------------------------------------------------------------- Numba without the extension


@pytest.fixture
def numba_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """The Numba backend of an installation without the extension."""
    pytest.importorskip("numba")
    monkeypatch.setenv("RPROP_KERNELS_BACKEND", "numba")
    reason = dispatch.unavailable_reason
    monkeypatch.setattr(dispatch, "unavailable_reason", lambda name: "missing" if name == "cython" else reason(name))


@pytest.mark.usefixtures("numba_alone")
def test_random_steps_of_numba_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    statuses = []
    call = TableStep.__call__

    def counted(self: Any, *args: Any) -> int:
        statuses.append(call(self, *args))
        return statuses[-1]

    monkeypatch.setattr(TableStep, "__call__", counted)
    for seed in range(300_000, 300_150):
        for mine, theirs, note in trial(seed, ours.Rprop, torch.optim.Rprop):
            for a, b in zip(mine.param_groups, theirs.param_groups, strict=True):
                assert same(a["params"], b["params"]), note
            assert same(state_of(mine), state_of(theirs)), note
    assert statuses.count(STEPPED) > 500


@pytest.mark.usefixtures("numba_alone")
@pytest.mark.parametrize("kind", KINDS)
def test_kinds_of_numba_alone(kind: str) -> None:
    test_drop_in(kind, False)
    for make in FOUR:
        test_four_classes(kind, make)


@pytest.mark.usefixtures("numba_alone")
def test_groups_of_numba_alone() -> None:
    """Two groups, every dtype, gradients that come and go, an outcome for each row: as torch's own operations."""
    for make in FOUR:
        optimizers = []
        for backend in ("numba", "torch"):
            torch.manual_seed(0)
            params = [torch.randn(3, n).to(dtype).requires_grad_() for n in (1, 40, 600) for dtype in DTYPES]
            groups = [{"params": params[:5]}, {"params": params[5:], "etas": (0.4, 1.7), "maximize": True}]
            optimizers.append((make(groups, lr=0.1, batched=True, backend=backend), params))
        for t in range(6):
            for optimizer, params in optimizers:
                torch.manual_seed(t)
                for i, p in enumerate(params):
                    p.grad = None if (i + t) % 5 == 0 else torch.randn(3, p.shape[1]).to(p.dtype)
                losses = torch.randn(3)
                optimizer.step(**({"loss": losses} if make is ours.IRpropPlus else {}))
            for p, q in zip(*(params for _, params in optimizers), strict=True):
                assert same(p, q)
            assert same(*(state_of(optimizer) for optimizer, _ in optimizers))
        assert type(optimizers[0][0]._native_step) is TableStep
        assert all(p._version > 0 for p in optimizers[0][1])


@pytest.mark.usefixtures("numba_alone")
def test_numba_alone_steps_on_threads() -> None:
    optimizers = []
    for backend in ("numba", "torch"):
        torch.manual_seed(0)
        params = [torch.randn(n).requires_grad_() for n in (7, threads.MIN_SHARED_WEIGHTS + 77, 3)]
        optimizers.append((ours.RpropPlus(params, backend=backend), params))
    for t in range(3):
        for optimizer, params in optimizers:
            torch.manual_seed(t)
            for p in params:
                p.grad = torch.randn(p.shape)
            optimizer.step()
        for p, q in zip(*(params for _, params in optimizers), strict=True):
            assert same(p, q)
