"""The drop-in against torch.optim.Rprop: parameters and every state tensor, after every step, as bits."""

import copy
import io
import random
from typing import Any

import numpy as np
import pytest
from backends import INSTRUCTION_SET_VARIABLE, INSTRUCTION_SETS, compiled
from bits import same, state_of
from bits import trial as random_steps
from oracle import TorchOracle
from special_values import assert_same_bits, gradients, special_values

torch = pytest.importorskip("torch")

from rprop_kernels.torch import Rprop  # noqa: E402

DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16]
BACKENDS = [("numba", None), ("torch", None), *(("cython", level) for level in INSTRUCTION_SETS)]


@pytest.fixture(params=BACKENDS, ids=lambda way: "-".join(filter(None, way)))
def backend(request, monkeypatch):
    name, level = request.param
    if level:
        monkeypatch.setenv(INSTRUCTION_SET_VARIABLE, level)
    return name


def as_bits(t):
    """A tensor's bytes, NaN by position."""
    t = t.detach()
    if t.is_complex():
        t = torch.view_as_real(t)
    raw = (
        t.contiguous().view(-1).view({1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[t.element_size()])
    )
    return raw.masked_fill(t.contiguous().view(-1).isnan(), -1)


def assert_same(ours, theirs, where=""):
    assert ours.dtype == theirs.dtype and ours.shape == theirs.shape and ours.stride() == theirs.stride(), where
    a, b = as_bits(ours), as_bits(theirs)
    if not torch.equal(a, b):
        i = int((a != b).nonzero()[0])
        raise AssertionError(f"{where} differs at {i}: {ours.reshape(-1)[i]!r} is not {theirs.reshape(-1)[i]!r}")


def assert_equal_optimizers(ours, theirs, where=""):
    mine = [p for g in ours.param_groups for p in g["params"]]
    other = [p for g in theirs.param_groups for p in g["params"]]
    for i, (p, q) in enumerate(zip(mine, other, strict=True)):
        assert_same(p, q, f"{where}, parameter {i}")
        state, expected = ours.state.get(p, {}), theirs.state.get(q, {})
        assert list(state) == list(expected), where
        for name in expected:
            assert_same(state[name], expected[name], f"{where}, parameter {i}, {name}")


def strided(values, how):
    """The values in another layout."""
    if how == "transposed" and values.dim() > 1:
        return values.transpose(0, -1).contiguous().transpose(0, -1)
    if how == "channels_last" and values.dim() == 4:
        return values.contiguous(memory_format=torch.channels_last)
    if how == "sliced" and values.dim():
        wide = torch.zeros([2 * n for n in values.shape], dtype=values.dtype)
        view = wide[tuple(slice(None, None, 2) for _ in values.shape)]
        return view.copy_(values)
    return values.clone()


HOW = ["plain", "plain", "transposed", "channels_last", "sliced"]
SHAPES = [(), (1,), (0,), (7,), (5, 3), (2, 3, 4, 5), (129,)]


def trial(seed, backend):
    """One random optimizer in two copies, ours and torch's, stepped side by side."""
    rng, chance = np.random.default_rng(seed), random.Random(seed)
    dtype = chance.choice(DTYPES)
    name = str(dtype).removeprefix("torch.")
    made = "float32" if name == "bfloat16" else name
    options = {
        "lr": chance.choice([1e-2, 0.1, 0.0, 100.0, torch.tensor(0.03)]),
        "etas": chance.choice([(0.5, 1.2), (0.5, 1.2), (0.9, 1.001), (0.999, 1.5), (1e-3, 3.0), (1e-9, 1.2)]),
        "step_sizes": chance.choice([(1e-6, 50), (1e-6, 50), (0, 10), (1e-3, 0.05), (0.5, 0.1), (1e-30, 1e4)]),
        "maximize": chance.random() < 0.3,
        "foreach": chance.choice([None, None, True, False]),
    }
    groups: list[list[dict]] = [[], []]
    for _ in range(chance.choice([1, 1, 2])):
        begin = [
            strided(torch.from_numpy(rng.standard_normal(shape)).to(dtype), chance.choice(HOW))
            for shape in chance.choices(SHAPES, k=chance.randint(1, 4))
        ]
        own = {"etas": (0.4, 1.3)} if chance.random() < 0.3 else {}
        for side in groups:
            side.append({"params": [torch.nn.Parameter(strided_copy(x)) for x in begin], **own})
    ours = Rprop(groups[0], **options, backend=backend)
    theirs = torch.optim.Rprop(groups[1], **options)
    mine = [p for g in groups[0] for p in g["params"]]
    other = [p for g in groups[1] for p in g["params"]]
    grads = [gradients(rng, tuple(p.shape), made, 12) for p in mine]
    for step in range(12):
        for p, q, sequence in zip(mine, other, grads, strict=True):
            g = torch.from_numpy(np.array(next(sequence))).to(dtype)
            if chance.random() < 0.1:
                p.grad = q.grad = None
            else:
                how = chance.choice(HOW)
                p.grad, q.grad = strided(g, how), strided(g, how)
                if chance.random() < 0.1 and g.dim():
                    p.grad, q.grad = (g[:1].expand(g.shape) for _ in "pq")
        if chance.random() < 0.1:  # users edit groups between steps
            for optimizer in (ours, theirs):
                optimizer.param_groups[0].update(step_sizes=(1e-5, 5.0), maximize=step % 2 == 0)
        if chance.random() < 0.1:
            saved = io.BytesIO()
            torch.save(theirs.state_dict(), saved)
            saved.seek(0)
            ours.load_state_dict(torch.load(saved, weights_only=True))
        if chance.random() < 0.1:
            theirs.load_state_dict(copy.deepcopy(ours.state_dict()))
        ours.step()
        theirs.step()
        assert_equal_optimizers(ours, theirs, f"seed {seed}, step {step}, {dtype}, {options}")


def strided_copy(x):
    return torch.empty_strided(x.shape, x.stride(), dtype=x.dtype).copy_(x)


@pytest.mark.filterwarnings("ignore:Skipped `.foreach`:UserWarning")
@pytest.mark.parametrize("block", range(5))
def test_random_trials(backend, block):
    for seed in range(20 * block, 20 * block + 20):
        trial(seed, backend)


@pytest.mark.slow
@pytest.mark.parametrize("block", range(20))
def test_many_random_trials(backend, block):
    for seed in range(1000 + 100 * block, 1100 + 100 * block):
        trial(seed, backend)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("maximize", [False, True])
def test_the_oracle_agrees_with_torch(dtype, maximize):
    """The independent oracle, torch and ours: three ways to the same bits."""
    name = str(dtype).removeprefix("torch.")
    made = "float32" if name == "bfloat16" else name
    rng = np.random.default_rng(0)
    begin = torch.from_numpy(np.concatenate([special_values(made), rng.standard_normal(15).astype(made)])).to(dtype)
    p, q = (torch.nn.Parameter(begin.clone()) for _ in "pq")
    ours, theirs = Rprop([p], maximize=maximize), torch.optim.Rprop([q], maximize=maximize)
    shown = (
        (lambda t: t.detach().float().numpy()) if name in ("bfloat16", "float16") else (lambda t: t.detach().numpy())
    )
    oracle = TorchOracle(shown(begin), name, maximize=maximize)
    for g in gradients(rng, tuple(p.shape), made, 20):
        p.grad = torch.from_numpy(g).to(dtype)
        q.grad = p.grad.clone()
        for optimizer in (ours, theirs):
            optimizer.step()
        oracle.step(shown(q.grad))
        assert_equal_optimizers(ours, theirs)
        real = np.float64 if name == "float64" else np.float32
        assert_same_bits(shown(p), np.array(oracle.w, real), "w")
        assert_same_bits(shown(ours.state[p]["prev"]), np.array(oracle.prev, real), "prev")
        assert_same_bits(shown(ours.state[p]["step_size"]), np.array(oracle.step_size, real), "step_size")


@compiled
def test_the_step_is_native():
    """The trials would prove nothing of the kernels if every step fell back to torch."""
    for dtype in DTYPES:
        p = torch.nn.Parameter(torch.ones(5, 3, dtype=dtype))
        optimizer = Rprop([p])
        p.grad = torch.ones_like(p)
        optimizer._fallback_step = None
        optimizer.step()
        p.grad = torch.ones(3, 5, dtype=dtype).t()
        optimizer.step()


def test_underflow_is_kept():
    """Quirk 1: a product that underflows never adapts the step; one that does not, does."""
    for dtype, small, large in (
        (torch.float32, 1e-25, 1e-21),
        (torch.float16, 1e-4, 3e-4),
        (torch.bfloat16, 1e-21, 1e-19),
    ):
        for g, grows in ((small, False), (large, True)):
            p = torch.nn.Parameter(torch.zeros(1, dtype=dtype))
            optimizer = Rprop([p])
            for _ in range(3):
                p.grad = torch.full_like(p, g)
                optimizer.step()
            assert (optimizer.state[p]["step_size"].item() > 0.0101) is grows, (dtype, g)


def test_threads_and_size(monkeypatch):
    """Above the threshold, with every number of threads."""
    from rprop_kernels.kernels import threads

    n, before = threads.MIN_SHARED_WEIGHTS + 1000, torch.get_num_threads()
    begin = torch.randn(n)
    try:
        for n_threads in (1, 2, 3):
            torch.set_num_threads(n_threads)
            p, q = torch.nn.Parameter(begin.clone()), torch.nn.Parameter(begin.clone())
            ours, theirs = Rprop([p]), torch.optim.Rprop([q])
            for _ in range(4):
                p.grad = torch.randn(n)
                q.grad = p.grad.clone()
                ours.step()
                theirs.step()
                assert_equal_optimizers(ours, theirs)
    finally:
        torch.set_num_threads(before)


def test_checkpoints_of_a_legacy_int_step():
    p = torch.nn.Parameter(torch.ones(3))
    saved = torch.optim.Rprop([p])
    p.grad = torch.ones(3)
    saved.step()
    d = copy.deepcopy(saved.state_dict())
    d["state"][0]["step"] = 1
    ours, theirs = Rprop([p]), torch.optim.Rprop([torch.nn.Parameter(p.detach().clone())])
    for optimizer in (ours, theirs):
        optimizer.load_state_dict(copy.deepcopy(d))
    q = theirs.param_groups[0]["params"][0]
    q.grad = p.grad.clone()
    ours.step()
    theirs.step()
    assert_equal_optimizers(ours, theirs)


@pytest.mark.parametrize(
    "options",
    [
        {"lr": -1.0},
        {"etas": (0.0, 1.2)},
        {"etas": (1.0, 1.2)},
        {"etas": (0.5, 0.9)},
        {"lr": torch.ones(2)},
        {"params": []},
    ],
    ids=str,
)
def test_torchs_errors(options):
    """The same exception with the same text."""
    arguments = {"params": [torch.nn.Parameter(torch.ones(1))], **options}
    with pytest.raises((ValueError, TypeError)) as theirs:
        torch.optim.Rprop(**arguments)
    with pytest.raises(type(theirs.value)) as ours:
        Rprop(**arguments)
    assert str(ours.value) == str(theirs.value)


def test_sparse_gradients_are_refused_in_torchs_words():
    p = torch.nn.Parameter(torch.ones(3))
    p.grad = torch.sparse_coo_tensor([[0]], [1.0], (3,), check_invariants=True)
    for cls in (Rprop, torch.optim.Rprop):
        with pytest.raises(RuntimeError, match=r"^Rprop does not support sparse gradients$"):
            cls([p]).step()


# ------------------------------------------------------------ random dtypes, strides and kinds of gradient


def agree(seeds: range, **kwargs: Any) -> int:
    steps = 0
    for seed in seeds:
        for mine, theirs, note in random_steps(seed, lambda *a, **k: Rprop(*a, **k, **kwargs), torch.optim.Rprop):
            for a, b in zip(mine.param_groups, theirs.param_groups, strict=True):
                assert same(a["params"], b["params"]), note
            assert same(state_of(mine), state_of(theirs)), note
            steps += 1
    return steps


def test_thousands_of_random_steps() -> None:
    assert agree(range(420)) > 2_000


@pytest.mark.slow
def test_a_hundred_thousand_random_steps() -> None:
    assert agree(range(1_000, 20_000)) > 100_000


@pytest.mark.parametrize("backend", ["numba", "torch"])
def test_other_backends(backend: str) -> None:
    assert agree(range(500_000, 500_060), backend=backend) > 250
