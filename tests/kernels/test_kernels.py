"""Every backend, instruction set and thread count against the oracle: weights and state, after every step, as bits."""

import itertools

import numpy as np
import pytest
from backends import INSTRUCTION_SET_VARIABLE, INSTRUCTION_SETS, compiled, cython_
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle import Oracle, TorchOracle
from special_values import assert_same_bits, gradients, layouts, special_values

from rprop_kernels import VARIANTS, state
from rprop_kernels.hyperparameters import Hyperparameters
from rprop_kernels.kernels import load_engine, threads

ENGINES = [("numpy", None), ("numba", None), *(("cython", isa) for isa in INSTRUCTION_SETS)]
FOUR = [name for name in VARIANTS if name != "torch"]
DEFAULT = Hyperparameters(0.5, 1.2, 1e-6, 50.0)
SETTINGS = [
    DEFAULT,
    Hyperparameters(0.5, 1.2, 0.0, 10.0),
    Hyperparameters(0.9, 1.05, 1e-3, 0.02),
    Hyperparameters(1e-45, 3e38, 0, 50),
]
LOSSES = [3.0, 2.0, 2.0, 4.0, float("nan"), 3.0, float("inf"), 5.0, 1.0, 2.0, 3.0, -1.0]


@pytest.fixture(params=ENGINES, ids=lambda engine: "-".join(filter(None, engine)))
def backend(request, monkeypatch):
    name, isa = request.param
    if isa:
        monkeypatch.setenv(INSTRUCTION_SET_VARIABLE, isa)
    return load_engine(name)


def outcomes_of(losses):
    """The outcomes of a sequence of losses: 0 not worse, 1 worse, 2 not finite."""
    previous = None
    for loss in losses:
        if not np.isfinite(loss):
            yield 0 if previous is None else 2
            continue
        yield 0 if previous is None or loss <= previous else 1
        previous = loss


def start(variant, w, lr):
    if variant == "torch":
        return np.zeros_like(w), np.full_like(w, lr)
    return (state.encode(np.zeros_like(w), np.full_like(w, lr)),)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("variant", FOUR)
@pytest.mark.parametrize("hyper", SETTINGS, ids=str)
@pytest.mark.parametrize("maximize", [False, True])
def test_the_four_rules(backend, variant, dtype, hyper, maximize):
    rng = np.random.default_rng(1)
    w = np.concatenate([special_values(dtype), rng.standard_normal(14).astype(dtype)])
    lr = min(0.01, hyper.step_max)
    oracle = Oracle(variant, w, dtype, lr, hyper[:2], hyper[2:], maximize)
    states = start(variant, w, lr)
    losses = [-x for x in LOSSES] if maximize else LOSSES
    for t, (g, loss, outcome) in enumerate(
        zip(gradients(rng, w.shape, dtype, len(losses)), losses, outcomes_of(LOSSES), strict=True)
    ):
        options = {"outcome": outcome} if variant == "irprop+" else {}
        assert backend.step(variant, [w], [g], [states], hyper, maximize=maximize, **options)
        oracle.step(g, loss if options else None)
        assert_same_bits(w, np.array([x.w for x in oracle.weights]), f"step {t}, w")
        q, step = state.decode(states[0])
        assert_same_bits(step, np.array([x.D for x in oracle.weights]), f"step {t}, D")
        assert_same_bits(q, np.array([x.q for x in oracle.weights], w.dtype), f"step {t}, q")


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("hyper", [*SETTINGS[:3], Hyperparameters(0.99999999, 1.00000001, 1e-6, 50.0)], ids=str)
@pytest.mark.parametrize("maximize", [False, True])
def test_torchs_rule(backend, dtype, hyper, maximize):
    rng = np.random.default_rng(2)
    w = np.concatenate([special_values(dtype), rng.standard_normal(14).astype(dtype)])
    oracle = TorchOracle(w, dtype, 0.01, hyper[:2], hyper[2:], maximize)
    prev, step_size = start("torch", w, 0.01)
    rounded = Hyperparameters(*(float(np.dtype(dtype).type(x)) for x in hyper))
    for t, g in enumerate(gradients(rng, w.shape, dtype, 12)):
        assert backend.step("torch", [w], [g], [(prev, step_size)], rounded, maximize=maximize)
        oracle.step(g)
        assert_same_bits(w, np.array(oracle.w, dtype), f"step {t}, w")
        assert_same_bits(prev, np.array(oracle.prev, dtype), f"step {t}, prev")
        assert_same_bits(step_size, np.array(oracle.step_size, dtype), f"step {t}, step_size")


SHAPES = [(), (0,), (1,), (7,), (3, 0, 2), (33, 5), (4, 3, 300)]


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_layouts_change_nothing(backend, variant, shape):
    """Any strides of weight, gradient and state, against the NumPy engine on contiguous copies."""
    reference = load_engine("numpy")
    rng = np.random.default_rng(3)
    made = list(layouts(shape).values())
    triples = list(itertools.product(made, repeat=3)) if shape else [made[:1] * 3]
    for i in rng.permutation(len(triples))[:25]:
        a, b, c = triples[i]
        w, g = a(np.float32), b(np.float32)
        states = tuple(f(np.float32) for f in ((c, b) if variant == "torch" else (c,)))
        w[...] = rng.standard_normal(shape)
        for x, first in zip(states, start(variant, np.empty(shape, np.float32), 0.01), strict=True):
            x[...] = first
        w2, states2 = np.array(w, order="C"), tuple(np.array(x, order="C") for x in states)
        for t, new in enumerate(gradients(rng, shape, np.float32, 3)):
            g[...] = new
            options = {"outcome": t % 3} if variant == "irprop+" else {}
            assert backend.step(variant, [w], [g], [states], DEFAULT, **options)
            reference.step(variant, [w2], [new], [states2], DEFAULT, **options)
            assert_same_bits(w, w2)
            for x, x2 in zip(states, states2, strict=True):
                assert_same_bits(x, x2)


def test_an_outcome_for_each_row(backend):
    """Rows with outcomes of their own step as if each were alone."""
    rng = np.random.default_rng(4)
    for shape in ((6,), (6, 3), (6, 2, 2), (1, 4)):
        w = rng.standard_normal(shape).astype(np.float32)
        states = start("irprop+", w, 0.01)
        alone = [(row.copy(), tuple(x[i].copy() for x in states)) for i, row in enumerate(w[:, None])]
        alone = [(row, (x[0][None],)) for row, x in alone]
        for g in gradients(rng, shape, np.float32, 9):
            outcomes = rng.integers(0, 3, shape[0]).astype(np.uint8)
            assert backend.step("irprop+", [w], [g], [states], DEFAULT, outcome=outcomes)
            for i, (row, own) in enumerate(alone):
                load_engine("numpy").step("irprop+", [row], [g[i : i + 1]], [own], DEFAULT, outcome=int(outcomes[i]))
                assert_same_bits(w[i : i + 1], row)
                assert_same_bits(states[0][i : i + 1], own[0])


@pytest.mark.parametrize("variant", VARIANTS)
def test_threads_and_splits_change_nothing(backend, variant):
    """One array above the threshold among small ones, on 1, 2, 3 threads and as many as there are."""
    rng = np.random.default_rng(5)
    sizes = [3, threads.MIN_SHARED_WEIGHTS + 77, 1, 500]
    begin = [rng.standard_normal(n).astype(np.float32) for n in sizes]
    steps = [[rng.standard_normal(n).astype(np.float32) for n in sizes] for _ in range(3)]
    results = []
    for count in (1, 2, 3, 0):
        weights = [w.copy() for w in begin]
        states = [start(variant, w, 0.01) for w in weights]
        for t, grads in enumerate(steps):
            options = {"outcome": t % 3} if variant == "irprop+" else {}
            assert backend.step(variant, weights, grads, states, DEFAULT, n_threads=count, **options)
        results.append(weights + [x for s in states for x in s])
    for other in results[1:]:
        for x, y in zip(results[0], other, strict=True):
            assert_same_bits(x, y)


def test_hundreds_of_arrays_of_two_types_in_one_call(backend):
    rng = np.random.default_rng(6)
    weights = [rng.standard_normal(rng.integers(0, 40)).astype(rng.choice(["f4", "f8"])) for _ in range(300)]
    states = [start("rprop+", w, 0.01) for w in weights]
    copies = [w.copy() for w in weights]
    for _ in range(4):
        grads = [rng.standard_normal(w.shape).astype(w.dtype) for w in weights]
        assert backend.step("rprop+", weights, grads, states, DEFAULT)
        for w, g, _state in zip(copies, grads, states, strict=True):
            assert w.shape == g.shape
    one_by_one = [start("rprop+", w, 0.01) for w in copies]
    rng = np.random.default_rng(6)
    copies = [rng.standard_normal(rng.integers(0, 40)).astype(rng.choice(["f4", "f8"])) for _ in range(300)]
    for _ in range(4):
        for w, s in zip(copies, one_by_one, strict=True):
            g = rng.standard_normal(w.shape).astype(w.dtype)
            load_engine("numpy").step("rprop+", [w], [g], [s], DEFAULT)
    for x, y in zip(weights, copies, strict=True):
        assert_same_bits(x, y)


class TestRefusals:
    """Engines that run the table refuse arrays that they must not touch before they write a byte."""

    @pytest.fixture(autouse=True, params=["cython", "numba", "numba alone"])
    def choose(self, request):
        name, *alone = request.param.split()
        if not alone and cython_ is None:
            pytest.skip("the extension is missing")
        if name == "numba":
            pytest.importorskip("numba")
        engine = load_engine(name)
        self.step = engine.ArrayStepper() if alone else engine.step

    def refused(self, w, g, *states, variant="rprop-", **options):
        arrays = [x for x in (w, g, *states) if isinstance(x, np.ndarray)]
        before = [x.copy() for x in arrays]
        good = np.ones(3, np.float32)
        first, memory = good.copy(), start("rprop-", good, 0.01)
        assert self.step(variant, [first, w], [good, g], [memory, states], DEFAULT, **options) is False
        for x, y in zip([*arrays, first], [*before, good], strict=True):
            assert_same_bits(x, y)

    def make(self, n=8, dtype=np.float32):
        w = np.arange(n, dtype=dtype)
        return w, np.ones(n, dtype), *start("rprop-", w, 0.01)

    def test_read_only(self):
        w, g, s = self.make()
        w.flags.writeable = False
        self.refused(w, g, s)

    def test_read_only_state(self):
        w, g, s = self.make()
        s.flags.writeable = False
        self.refused(w, g, s)

    def test_non_native_byte_order(self):
        w, g, s = self.make()
        self.refused(w.astype(">f4"), g, s)

    def test_integers(self):
        w, g, s = self.make()
        self.refused(w.astype(np.int32), g.astype(np.int32), s)

    def test_another_dtype(self):
        w, g, s = self.make()
        self.refused(w, g.astype(np.float64), s)
        self.refused(w.astype(np.float64), g.astype(np.float64), s)

    def test_another_shape(self):
        w, g, s = self.make()
        self.refused(w, g[:-1], s)
        self.refused(w.reshape(2, 4), g, s)

    def test_a_list(self):
        _, g, s = self.make()
        self.refused([1.0] * 8, g, s)

    def test_repeated_and_overlapping(self):
        w, g, s = self.make(9)
        self.refused(w[1:], w[:-1], s[1:])
        self.refused(w, s, s)
        assert not self.step("rprop-", [w, w], [g, g], [(s,), (s.copy(),)], DEFAULT)
        assert not self.step("rprop-", [w[:5], w[4:]], [g[:5], g[4:]], [(s[:5],), (s[4:].copy(),)], DEFAULT)
        assert not self.step("rprop-", [w], [g], [(w,)], DEFAULT)

    def test_overlapping_itself(self):
        _, g, s = self.make(6)
        w = np.lib.stride_tricks.as_strided(np.zeros(8, np.float32), (6,), (2,))
        self.refused(w, g, s)
        broadcast = np.lib.stride_tricks.as_strided(np.zeros(1, np.float32), (6,), (0,))
        self.refused(broadcast, g, s)

    def test_an_expanded_gradient_is_accepted(self):
        w, g, s = self.make(6)
        assert self.step("rprop-", [w], [np.broadcast_to(np.float32(1), 6)], [(s,)], DEFAULT)
        w2, g, s2 = self.make(6)
        self.step("rprop-", [w2], [g], [(s2,)], DEFAULT)
        assert_same_bits(w, w2)
        assert_same_bits(s, s2)

    def test_counts(self):
        w, g, s = self.make()
        assert not self.step("rprop-", [w], [g, g], [(s,)], DEFAULT)
        assert not self.step("rprop-", [w], [g], [], DEFAULT)

    def test_outcomes_for_other_rows(self):
        w, g, s = self.make()
        self.refused(w, g, s, variant="irprop+", outcome=np.zeros(3, np.uint8))


@settings(max_examples=60, deadline=None)
@given(
    rule=st.sampled_from(FOUR),
    q=st.sampled_from([-1, 0, 1]),
    exponent=st.integers(-62, 30),
    mantissa=st.floats(1, 2, exclude_max=True, width=32),
)
def test_a_state_holds_sign_and_step_exactly(rule, q, exponent, mantissa):
    for dtype in (np.float32, np.float64):
        step = np.array([dtype(mantissa) * dtype(2.0) ** exponent], dtype)
        q2, step2 = state.decode(state.encode(np.array([q]), step))
        assert_same_bits(step2, step)
        assert q2[0] == q


@compiled
@pytest.mark.parametrize("level", INSTRUCTION_SETS)
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_every_number_of_half_precision(level, dtype, monkeypatch):
    """Every 16-bit number as a weight, through torch: NumPy's arrays are float32 and float64."""
    torch = pytest.importorskip("torch")
    from rprop_kernels.torch import RpropMinus

    monkeypatch.setenv(INSTRUCTION_SET_VARIABLE, level)
    numbers = torch.from_numpy(np.arange(65536, dtype=np.uint16).view(np.int16)).view(getattr(torch, dtype))
    w = numbers.clone().requires_grad_()
    w.grad = torch.where(torch.arange(65536) % 3 == 0, -1, 1).to(w.dtype)
    optimizer = RpropMinus([w], lr=0.01, backend="cython")
    monkeypatch.setattr(optimizer, "_fallback_step", None)
    optimizer.step()
    moved = (numbers.float() - w.grad.float() * 0.01).to(w.dtype)
    nan = moved.isnan()
    assert torch.equal(w.isnan(), nan)
    assert torch.equal(w.detach()[~nan].view(torch.int16), moved[~nan].view(torch.int16))
