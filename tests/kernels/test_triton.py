"""The Triton kernels, as bits: on a GPU where there is one, else in Triton's interpreter.

The same tests either way, more cases on a GPU, where a program takes no time (interpreted: 20 ms);
``benchmarks/gpu.py`` runs them there.
"""

import itertools
import os
import subprocess
import sys

import numpy as np
import pytest
from oracle import STORE, Oracle
from special_values import gradients, special_values

torch = pytest.importorskip("torch")
pytest.importorskip("triton", reason="triton is not installed")

from rprop_kernels import loss as loss_  # noqa: E402
from rprop_kernels import state  # noqa: E402
from rprop_kernels.backends import unavailable_reason  # noqa: E402
from rprop_kernels.hyperparameters import Hyperparameters  # noqa: E402
from rprop_kernels.kernels import load_engine  # noqa: E402
from rprop_kernels.rules import VARIANTS  # noqa: E402
from rprop_kernels.torch import IRpropMinus, IRpropPlus, Rprop, RpropMinus, RpropPlus  # noqa: E402
from rprop_kernels.torch.state import state_dtype  # noqa: E402

with pytest.MonkeyPatch.context() as patch:  # whether to interpret is decided when the kernels are defined
    if unavailable_reason("triton"):
        patch.setenv("TRITON_INTERPRET", "1")
    import triton

    triton_ = load_engine("triton")

DEVICE = "cpu" if triton_.INTERPRETED else "cuda"
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning:triton")  # the interpreter's NumPy, on NaN and inf
GPU = pytest.mark.skipif(triton_.INTERPRETED, reason="needs a CUDA device")
DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16]
FOUR = [name for name in VARIANTS if name != "torch"]
CLASSES = {"rprop-": RpropMinus, "rprop+": RpropPlus, "irprop-": IRpropMinus, "irprop+": IRpropPlus}
DEFAULT = Hyperparameters(0.5, 1.2, 1e-6, 50.0)
SETTINGS = [DEFAULT, Hyperparameters(0.5, 1.2, 0.0, 10.0), Hyperparameters(0.9, 1.05, 1e-3, 0.02)]
LOSSES = [3.0, 2.0, 2.0, 4.0, float("nan"), 3.0, float("inf"), 5.0, 1.0]


@pytest.fixture(autouse=True)
def interpreted(monkeypatch):
    """Triton's interpreter cuts float32 off to bfloat16; a GPU rounds, and so it must here."""
    if not triton_.INTERPRETED:
        return
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    from triton.runtime import interpreter

    def convert(values, source, target, rounding):
        if source == triton.language.float32:
            return torch.from_numpy(np.array(values)).to(torch.bfloat16).view(torch.int16).numpy()
        return (values.astype(np.uint32) << 16).view(np.float32)

    monkeypatch.setattr(interpreter, "_convert_float", convert)


def as_bits(t):
    """A tensor's bytes, NaN by position."""
    t = t.detach().cpu()
    raw = (
        t.contiguous().view(-1).view({1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[t.element_size()])
    )
    return raw.masked_fill(t.contiguous().view(-1).isnan(), -1)


def assert_same(ours, theirs, where=""):
    assert ours.dtype == theirs.dtype and ours.shape == theirs.shape, where
    a, b = as_bits(ours), as_bits(theirs)
    if not torch.equal(a, b):
        i = int((a != b).nonzero()[0])
        n = int((a != b).sum())
        raise AssertionError(f"{where}: {n} differ, at {i} {ours.reshape(-1)[i]!r} is not {theirs.reshape(-1)[i]!r}")


def name_of(dtype):
    return str(dtype).removeprefix("torch.")


def numpy_dtype(dtype):
    return np.dtype("float32" if dtype == torch.bfloat16 else name_of(dtype))


def tensors(values, dtype):
    return torch.from_numpy(np.array(values)).to(DEVICE, dtype)


def random_state(variant, w, rng):
    """State of weights in the middle of a search: remembered signs of all kinds, steps within the bounds."""
    real = w.dtype if variant == "torch" else state_dtype(w.dtype)
    step = torch.from_numpy(10.0 ** rng.uniform(-5, 1, w.shape)).to(DEVICE, real)
    q = torch.from_numpy(rng.integers(-1, 2, w.shape)).to(DEVICE, real)
    if variant == "torch":
        return q * torch.from_numpy(rng.standard_normal(w.shape)).to(DEVICE, real), step
    code = state.ENCODINGS["float64" if real == torch.float64 else "float32"]
    return (torch.where(q == 0, step * code.shift, q * step),)


# ------------------------------------------------------------------------------------------- the rules


def outcomes_of(losses):
    previous = None
    for loss in losses:
        said, previous = loss_.compare_loss(loss, previous)
        yield said


@pytest.mark.parametrize("how", ["number", "tensor", "rows"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("variant", FOUR)
def test_the_four_rules_against_the_oracle(variant, dtype, how):
    """How a verdict is told changes nothing."""
    if variant != "irprop+" and how != "number":
        pytest.skip("this rule asks for no verdict")
    rng = np.random.default_rng(1)
    cases = (
        [(SETTINGS[0], False), (SETTINGS[1], True)]
        if triton_.INTERPRETED
        else itertools.product(SETTINGS, (False, True))
    )
    for hyper, maximize in cases:
        begin = np.concatenate([special_values(numpy_dtype(dtype)), rng.standard_normal(14)])
        w = tensors(begin.astype(numpy_dtype(dtype)), dtype)
        oracle = Oracle(variant, w.double().cpu().numpy(), name_of(dtype), 0.01, hyper[:2], hyper[2:], maximize)
        real = state_dtype(dtype)
        code = state.ENCODINGS["float64" if real == torch.float64 else "float32"]
        move = torch.full_like(w, 0.01, dtype=real) * code.shift
        for t, (g, loss, said) in enumerate(
            zip(gradients(rng, w.shape, numpy_dtype(dtype), len(LOSSES)), LOSSES, outcomes_of(LOSSES), strict=True)
        ):
            g = tensors(g, dtype)
            extra = {}
            if variant == "irprop+":
                as_tensor = torch.full((w.numel(),) if how == "rows" else (), said, dtype=torch.uint8, device=DEVICE)
                extra = {"outcome": said if how == "number" else as_tensor}
            assert triton_.step(variant, [w], [g], [(move,)], hyper, maximize=maximize, **extra)
            with np.errstate(over="ignore"):
                oracle.step(g.double().cpu().numpy(), (-loss if maximize else loss) if extra else None)
            where = f"{hyper}, maximize {maximize}, step {t}"
            kept = np.float64 if dtype == torch.float64 else np.float32
            expected = torch.from_numpy(np.array([x.w for x in oracle.weights], kept)).to(dtype)
            assert_same(w, expected, f"{where}, w")
            q, D = state.decode(move.cpu().numpy())
            assert_same(torch.from_numpy(D), torch.from_numpy(np.array([x.D for x in oracle.weights], D.dtype)), where)
            assert [x.q for x in oracle.weights] == q.tolist(), where
    assert name_of(dtype) in STORE


@pytest.mark.parametrize("foreach", [False, True])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_drop_in_equals_torch(dtype, foreach):
    """Parameters and every state tensor, after every step, on the device at hand."""
    rng = np.random.default_rng(2)
    n = 1000 if triton_.INTERPRETED else triton_.BLOCK + 130
    etas = ((0.5, 1.2), (0.3, 1.1), (0.999, 1.5), (1e-3, 3.0))
    bounds = ((1e-6, 50.0), (0.0, 10.0), (1e-3, 0.05))
    cases = list(itertools.product(etas, bounds, (False, True)))
    for etas, step_sizes, maximize in cases[:: 5 if triton_.INTERPRETED else 1]:
        options = {
            "lr": 0.01,
            "etas": etas,
            "step_sizes": step_sizes,
            "maximize": maximize,
            "foreach": foreach,
        }
        begin = rng.standard_normal(n)
        pool = special_values(numpy_dtype(dtype))
        begin[: pool.size] = pool
        ours, theirs = (torch.nn.Parameter(tensors(begin, dtype)) for _ in "ab")
        a, b = Rprop([ours], **options, backend="triton"), torch.optim.Rprop([theirs], **options)
        for t, g in enumerate(gradients(rng, (n,), numpy_dtype(dtype), 4)):
            ours.grad, theirs.grad = (tensors(g, dtype) for _ in "ab")
            a.step()
            b.step()
            where = f"{options}, step {t}"
            assert_same(ours, theirs, where)
            for name, value in b.state[theirs].items():
                assert_same(a.state[ours][name], value, f"{where}, {name}")
                assert a.state[ours][name].device == value.device


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("variant", FOUR)
def test_every_verdict_and_size_equals_the_torch_backend(variant, dtype):
    """Around the borders of chunks and tails, many tensors in one launch."""
    rng = np.random.default_rng(3)
    block = triton_.BLOCK
    sizes = [block + 1, 0, 1025] if triton_.INTERPRETED else [1, 3, block - 1, block, block + 1, 0, 2 * block + 7, 1025]
    for said in (0, 1, 2) if variant == "irprop+" else (0,):
        weights = [tensors(rng.standard_normal(n), dtype) for n in sizes]
        states = [random_state(variant, w, rng) for w in weights]
        grads = [tensors(np.array(next(gradients(rng, (n,), numpy_dtype(dtype), 1))), dtype) for n in sizes]
        other = [w.clone() for w in weights], [tuple(s.clone() for s in x) for x in states]
        extra = {"outcome": said} if variant == "irprop+" else {}
        assert triton_.step(variant, weights, grads, states, DEFAULT, **extra)
        load_engine("torch").step(variant, other[0], grads, other[1], DEFAULT, **extra)
        for w, v, s, u in zip(weights, other[0], states, other[1], strict=True):
            assert_same(w, v, f"{said}, {w.numel()} weights")
            assert_same(s[0], u[0], f"{said}, {w.numel()} weights, state")


@pytest.mark.parametrize("maximize", [False, True])
def test_zeros_of_both_signs_and_the_least_step(maximize):
    """A weight of -0.0 stays -0.0 where nothing moves; no step size falls below what can be kept."""
    for dtype in (torch.float32, torch.float64):
        code = state.ENCODINGS[name_of(dtype)]
        still = [(w, g, 0.01 * code.shift) for w in (0.0, -0.0) for g in (0.0, -0.0, float("nan"))]
        flips = [(w, g, -g * code.min_step) for w in (0.0, 1.0) for g in (1.0, -1.0)]
        flips += [(w, g, g * code.min_step) for w in (0.0, 1.0) for g in (1.0, -1.0)]
        w, g, move = torch.tensor(still + flips, dtype=torch.float64, device=DEVICE).to(dtype).T.contiguous()
        for variant in FOUR:
            hyper = Hyperparameters(0.5, 1.2, 0.0, 10.0)
            ours, theirs = ([w.clone(), move.clone()] for _ in "ab")
            assert triton_.step(variant, ours[:1], [g], [tuple(ours[1:])], hyper, maximize=maximize)
            load_engine("torch").step(variant, theirs[:1], [g], [tuple(theirs[1:])], hyper, maximize=maximize)
            for x, y in zip(ours, theirs, strict=True):
                assert_same(x, y, f"{variant}, {dtype}")
            D = state.decode(ours[1].cpu().numpy())[1]
            assert D.min() >= code.min_step


@pytest.mark.parametrize("shape", [(6,), (6, 3), (6, 700), (1, 4)], ids=str)
def test_rows_with_verdicts_of_their_own(shape):
    rng = np.random.default_rng(4)
    said = torch.from_numpy(rng.integers(0, 3, shape[0]).astype(np.uint8)).to(DEVICE)
    w = tensors(rng.standard_normal(shape), torch.float32)
    (move,) = random_state("irprop+", w, rng)
    g = tensors(rng.standard_normal(shape), torch.float32)
    v, kept = w.clone(), move.clone()
    assert triton_.step("irprop+", [w], [g], [(move,)], DEFAULT, outcome=said)
    load_engine("torch").step("irprop+", [v], [g], [(kept,)], DEFAULT, outcome=said)
    assert_same(w, v)
    assert_same(move, kept)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_losses_are_compared_on_the_device(dtype):
    values = [3.0, 2.0, float("nan"), float("inf"), -float("inf"), -1.0, 0.0]
    now = torch.tensor([a for a in values for _ in values], dtype=dtype, device=DEVICE)
    before = torch.tensor(values * len(values), dtype=dtype, device=DEVICE)
    expected = [loss_.compare_losses(now, before, maximize, torch) for maximize in (False, True)]
    previous = before.clone()
    both = triton_.TritonStep().compare_losses(now, previous)
    for way in (0, 1):
        assert torch.equal(both[way], expected[way][0])
        assert_same(previous, expected[way][1])
    one = triton_.TritonStep().compare_losses(now[0], torch.tensor(2.0, dtype=dtype, device=DEVICE))
    assert [x.shape for x in one] == [(), ()] and [int(x) for x in one] == [1, 0]


# ------------------------------------------------------------------------------------ bounds, frozen weights


@pytest.mark.parametrize("kind", ["arrays", "numbers", "lower", "upper", "frozen", "all"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("variant", FOUR)
def test_bounds_and_frozen_weights(variant, dtype, kind):
    """The constraints of torch's operations, whole blocks and parts of one, with one outcome and with one a row."""
    rng = np.random.default_rng(9)
    shape = (3, 700) if triton_.INTERPRETED else (3, 7 * triton_.BLOCK + 5)
    w = tensors(rng.standard_normal(shape), dtype)
    near = tensors(0.2 * rng.random(shape), dtype)
    frozen = torch.from_numpy(rng.random(shape) < 0.3).to(DEVICE)
    lower, upper = w - near, w + near
    constraints = {
        "arrays": (lower, upper, None),
        "numbers": (w.min() - 0.01, w.max() + 0.01, None),
        "lower": (lower, None, None),
        "upper": (None, upper.amax(), None),
        "frozen": (None, None, frozen),
        "all": (lower, w.max() + 0.01, frozen),
    }[kind]
    (move,) = random_state(variant, w, rng)
    v, kept = w.clone(), move.clone()
    for t in range(4):
        g = tensors(rng.standard_normal(shape), dtype)
        g[0, ::7] = float("nan")
        outcome = 0
        if variant == "irprop+":
            outcome = (0, 2, torch.tensor([1, 0, 2], dtype=torch.uint8, device=DEVICE), 1)[t]
        options = {"outcome": outcome, "constraints": [constraints]}
        assert triton_.step(variant, [w], [g], [(move,)], DEFAULT, **options)
        load_engine("torch").step(variant, [v], [g], [(kept,)], DEFAULT, **options)
        assert_same(w, v, f"step {t}")
        assert_same(move, kept, f"step {t}")


def test_options_that_are_more_than_memory_are_refused():
    w, g, move = (torch.ones(4, 4, device=DEVICE) for _ in range(3))
    wide = torch.full((4, 8), 5.0, device=DEVICE)
    for constraints in [
        (wide[:, ::2], None, None),
        (None, wide[:, :4].double(), None),
        (None, wide[0, :4], None),
        (None, None, torch.ones(4, 4, device=DEVICE)),
        (None, None, torch.tensor(True, device=DEVICE)),
        (w, None, None),
    ]:
        assert not triton_.step("rprop-", [w], [g], [(move,)], DEFAULT, constraints=[constraints])
        assert torch.equal(w, torch.ones_like(w))


# ----------------------------------------------------------------------------------- layouts, addresses


def test_layouts_and_addresses():
    """Any dense order, addresses that are no multiple of 16; the rest is refused untouched."""
    rng = np.random.default_rng(5)
    n = 3 * triton_.BLOCK
    flat = tensors(rng.standard_normal(n + 5), torch.float32)
    unaligned = flat[1 : n + 1]
    permuted = tensors(rng.standard_normal((40, 50, 7)), torch.float32).permute(2, 0, 1)
    last = tensors(rng.standard_normal((2, 3, 4, 5)), torch.float32).contiguous(memory_format=torch.channels_last)
    for w in (unaligned, permuted, last):
        g, move = torch.randn_like(w), torch.full_like(w, 2.0**96)
        v, kept = w.clone(), move.clone()
        assert triton_.step("rprop+", [w], [g], [(move,)], DEFAULT)
        load_engine("torch").step("rprop+", [v], [g], [(kept,)], DEFAULT)
        assert_same(w, v)
        assert_same(move, kept)
    square = torch.ones(4, 4, device=DEVICE)
    refused = {
        "sliced": (flat[::2], flat[::2].clone(), flat[::2].clone()),
        "other order of the gradient": (square.clone(), square.clone().t(), square.clone()),
        "expanded gradient": (square.clone(), square[0].expand(4, 4), square.clone()),
        "another shape": (square.clone(), square.clone().view(2, 8), square.clone()),
        "another dtype": (square.clone(), square.double(), square.clone()),
        "another dtype of the state": (square.clone(), square.clone(), square.double()),
        "gradient in the weight's memory": (square, square, square.clone()),
        "state in the weight's memory": (square, square.clone(), square),
        "a subclass": (type("Mine", (torch.Tensor,), {})(square), square.clone(), square.clone()),
        "negated": (torch._neg_view(square.clone()), square.clone(), square.clone()),
        "complex": (square.to(torch.complex64),) * 3,
        "whole numbers": (square.int(),) * 3,
    }
    for what, (w, g, move) in refused.items():
        before = w.clone()
        assert not triton_.step("rprop-", [w], [g], [(move,)], DEFAULT), what
        assert torch.equal(w, before), what
    overlapping = [flat[:100], flat[99:200]]
    assert not triton_.step(
        "rprop-",
        overlapping,
        [torch.ones_like(x) for x in overlapping],
        [(torch.ones_like(x),) for x in overlapping],
        DEFAULT,
    )


def choose_collector(optimizer, collector):
    """Let the extension collect the tensors of a step, or Python."""
    if collector == "python":
        optimizer._device_step = False
    elif unavailable_reason("cython"):
        pytest.skip("the extension is missing")


@pytest.mark.parametrize("collector", ["native", "python"])
def test_the_table_follows_what_moves(collector):
    """New gradients, new memory behind a parameter, new hyper-parameters, frozen parameters."""
    rng = np.random.default_rng(6)
    made = {}
    for backend in ("triton", "torch"):
        made[backend] = [torch.nn.Parameter(tensors(np.ones(n), torch.float32)) for n in (5, 300, 2)]
    optimizers = {name: IRpropMinus(params, backend=name) for name, params in made.items()}
    choose_collector(optimizers["triton"], collector)
    launcher, keep = None, []
    for t in range(10):
        grads = [rng.standard_normal(n) for n in (5, 300, 2)]
        for name, params in made.items():
            for p, g in zip(params, grads, strict=True):
                if t % 3 or p.grad is None:
                    keep.append(p.grad)  # so that the new gradient lies elsewhere
                    p.grad = tensors(g, torch.float32)
                else:
                    p.grad.copy_(tensors(g, torch.float32))
            if t == 4:
                params[1].data = params[1].data.clone()
            if t == 5:
                optimizers[name].param_groups[0]["step_sizes"] = (1e-3, 0.02)
            if t == 6:
                optimizers[name].param_groups[0]["maximize"] = True
            if t == 7:
                params[0].grad = None
            if t == 8:
                optimizers[name].add_param_group({"params": [torch.nn.Parameter(tensors(np.zeros(3), torch.float32))]})
                optimizers[name].param_groups[1]["params"][0].grad = tensors(np.ones(3), torch.float32)
            optimizers[name].step()
        ours, theirs = ([*x.state] for x in optimizers.values())
        for p, q in zip(ours, theirs, strict=True):
            assert_same(p, q, f"step {t}")
            assert_same(optimizers["triton"].state[p]["move"], optimizers["torch"].state[q]["move"], f"step {t}")
        keys, tables = zip(*optimizers["triton"]._triton._tables.items(), strict=True)
        assert [key[2] == triton_.COLLECTED for key in keys] == [collector == "native"]
        if t in (1, 2, 3):
            assert tables[0] is launcher, "only the gradients moved: the table must stay"
        launcher = tables[0]


# -------------------------------------------------------------------------------------- the optimizers


def count_launches(monkeypatch):
    """A list that grows by one with every launch of the step's kernel."""
    launches = []
    launch = triton_.TritonStep._launch
    monkeypatch.setattr(triton_.TritonStep, "_launch", lambda *args: (launches.append(args), launch(*args)))
    return launches


@pytest.mark.parametrize("collector", ["native", "python"])
def test_one_launch_for_many_tensors_and_groups(monkeypatch, collector):
    launches = count_launches(monkeypatch)
    params = [torch.nn.Parameter(torch.ones(64, device=DEVICE)) for _ in range(10 if triton_.INTERPRETED else 161)]
    for cls, extra in ((Rprop, {}), (IRpropMinus, {}), (IRpropPlus, {"loss": 1.0})):
        optimizer = cls([{"params": params[:7]}, {"params": params[7:], "etas": (0.4, 1.3)}], backend="triton")
        choose_collector(optimizer, collector)
        for p in params:
            p.grad = torch.ones_like(p)
        versions = [p._version for p in params]
        launches.clear()
        optimizer.step(**extra)
        assert len(launches) == 1
        assert all(p._version > v for p, v in zip(params, versions, strict=True)), "a stale backward pass must fail"


def test_other_tensors_beside_ours_go_through_torch(monkeypatch):
    launches = count_launches(monkeypatch)
    rng = np.random.default_rng(7)
    values = [rng.standard_normal(40), rng.standard_normal(40), rng.standard_normal(40) + 1j]
    pairs = []
    for cls in (Rprop, torch.optim.Rprop):
        params = [torch.nn.Parameter(torch.from_numpy(v).to(DEVICE)) for v in values]
        params[0].data = params[0].data.view(20, 2)[:, 0]
        pairs.append((params, cls(params)))
    for _ in range(5):
        grads = [torch.from_numpy(rng.standard_normal(tuple(p.shape))).to(DEVICE, p.dtype) for p in pairs[0][0]]
        for params, optimizer in pairs:
            optimizer.__dict__["_backend"] = "triton"
            for p, g in zip(params, grads, strict=True):
                p.grad = g.clone()
            optimizer.__dict__["_native_step"] = None
            optimizer.step()
        for p, q in zip(pairs[0][0], pairs[1][0], strict=True):
            assert torch.equal(p, q)
            assert all(
                torch.equal(x, y)
                for x, y in zip(pairs[0][1].state[p].values(), pairs[1][1].state[q].values(), strict=True)
            )
    assert len(launches) == 5


@pytest.mark.parametrize("maximize", [False, True, "both"])
@pytest.mark.parametrize("rows", [False, True])
@pytest.mark.parametrize("collector", ["native", "python"])
def test_irprop_plus_by_the_loss(collector, maximize, rows):
    """A loss tensor on the device, one or one a row; groups that climb beside groups that descend."""
    rng = np.random.default_rng(8)
    losses = [torch.tensor([x, -x, 1.0] if rows else x, device=DEVICE) for x in LOSSES]
    result = []
    for backend in ("triton", "torch"):
        rng = np.random.default_rng(8)
        params = [torch.nn.Parameter(tensors(np.ones((3, 5)), torch.float32)) for _ in "ab"]
        ways = [False, True] if maximize == "both" else [maximize] * 2
        optimizer = IRpropPlus(
            [{"params": [p], "maximize": way} for p, way in zip(params, ways, strict=True)],
            lr=0.1,
            batched=rows,
            backend=backend,
        )
        if backend == "triton":
            choose_collector(optimizer, collector)
        history = []
        for loss in losses:
            for p in params:
                p.grad = tensors(rng.standard_normal((3, 5)), torch.float32)
            optimizer.step(loss=loss.clone())
            history.append([x.detach().clone() for p in params for x in (p, optimizer.state[p]["move"])])
        result.append(history)
    for t, (ours, theirs) in enumerate(zip(*result, strict=True)):
        for a, b in zip(ours, theirs, strict=True):
            assert_same(a, b, f"step {t}")


# ------------------------------------------------------------------------------ what the compiler makes

_COMPILE = """
import sys, torch, triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, compile
from rprop_kernels.kernels import triton_ as t
from rprop_kernels.state import ENCODINGS

for dtype, (dtype_, real) in t._DTYPES.items():
    code = ENCODINGS["float64" if dtype == torch.float64 else "float32"]
    for rule, options_ in ((t.PER_OUTCOME, False), (t.PER_OUTCOME, True), (t.TORCH, False)):
        constants = dict(RULE=rule, ROWS=options_, OPTIONS=options_, DTYPE=dtype_, REAL=real, SHIFT=code.shift,
                         THRESHOLD=code.threshold, MIN_STEP=code.min_step, BLOCK=t.BLOCK, TAIL=t._TAIL)
        pointers = {"rows": "*i64", "grads": "*i64", "hypers": "*fp64", "extras": "*i64", "chunks": "*i64",
                    "outcome": "*u8"}
        source = ASTSource(t._step_kernel, pointers | dict.fromkeys(constants, "constexpr"), constants)
        options = {"num_warps": t.WARPS, "enable_fp_fusion": False}
        ptx = compile(source, target=GPUTarget("cuda", 90, 32), options=options).asm["ptx"]
        wide = ptx.count("ld.global.v4.b32") + ptx.count("ld.global.v2.b64")
        print(dtype, rule, ptx.count("fma."), ptx.count(".ftz"), wide)
"""


def test_compiled_code_is_exact_and_wide(tmp_path):
    """No fused multiply-add, no denormal flushed to zero, 16-byte loads. The GPU need not be there."""
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"} | {"TRITON_CACHE_DIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-P", "-c", _COMPILE], capture_output=True, text=True, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr
    lines = [line.split() for line in done.stdout.splitlines()]
    assert len(lines) == 12
    for dtype, rule, fused, flushed, wide in lines:
        assert (fused, flushed) == ("0", "0"), (dtype, rule)
        weights = triton_.BLOCK // (32 * triton_.WARPS)  # a thread
        size = {"torch.float32": 4, "torch.float64": 8}.get(dtype, 2)
        kept = 2 * size if rule == str(triton_.TORCH) else max(size, 4)
        assert int(wide) >= weights * (2 * size + kept) // 16, (dtype, rule)


# ----------------------------------------------------------------------------------- only on a real GPU


@GPU
@pytest.mark.filterwarnings("ignore:This instance was constructed with capturable=True")
@pytest.mark.parametrize("eager_between", [True, False])
@pytest.mark.parametrize("cls", [Rprop, RpropMinus, RpropPlus, IRpropMinus, IRpropPlus])
def test_a_captured_step_equals_an_eager_one(cls, eager_between):
    """Forward, backward and step in one CUDA graph, replayed; then eager steps, then replays again."""
    options = {"capturable": True} if cls is Rprop else {}
    data = torch.randn(64, 8, device=DEVICE)

    def build():
        torch.manual_seed(0)
        model = torch.nn.Sequential(torch.nn.Linear(8, 33), torch.nn.Tanh(), torch.nn.Linear(33, 1)).to(DEVICE)
        return model, cls(model.parameters(), lr=0.05, **options)

    def once(model, optimizer):
        optimizer.zero_grad(set_to_none=True)
        loss = model(data).square().mean()
        loss.backward()
        optimizer.step(**({"loss": loss.detach()} if cls is IRpropPlus else {}))

    (model, optimizer), (other, reference) = build(), build()
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            once(model, optimizer)
    torch.cuda.current_stream().wait_stream(side)
    for _ in range(3):
        once(other, reference)
    graph = torch.cuda.CUDAGraph()
    optimizer.zero_grad(set_to_none=True)
    with torch.cuda.graph(graph):
        once(model, optimizer)
    for _ in range(5):  # capturing does not step
        graph.replay()
        once(other, reference)
    if eager_between:
        for _ in range(3):
            once(model, optimizer)
            once(other, reference)
        for _ in range(5):
            graph.replay()
            once(other, reference)
    for p, q in zip(model.parameters(), other.parameters(), strict=True):
        assert_same(p, q)
        for x, y in zip(optimizer.state[p].values(), reference.state[q].values(), strict=True):
            assert_same(x, y)


@GPU
@pytest.mark.filterwarnings("ignore:The CUDA Graph is empty")
def test_capture_without_a_step_before():
    p = torch.nn.Parameter(torch.ones(5, device=DEVICE))
    p.grad = torch.ones_like(p)
    optimizer = RpropMinus([p])
    with pytest.raises(RuntimeError, match="make one step"), torch.cuda.graph(torch.cuda.CUDAGraph()):
        optimizer.step()


@GPU
@pytest.mark.parametrize("cls", [Rprop, RpropMinus, IRpropPlus])
def test_nothing_waits_for_the_device(cls):
    params = [torch.nn.Parameter(torch.ones(64, device=DEVICE)) for _ in range(5)]
    optimizer = cls(params)
    for _ in range(4):
        loss = torch.ones((), device=DEVICE)
        for p in params:
            p.grad = torch.ones_like(p)
        torch.cuda.set_sync_debug_mode("error")
        try:
            optimizer.step(**({"loss": loss} if cls is IRpropPlus else {}))
        finally:
            torch.cuda.set_sync_debug_mode("default")


@GPU
def test_streams_and_many_steps_are_deterministic():
    results = []
    for streams in (1, 3):
        torch.manual_seed(0)
        params = [torch.nn.Parameter(torch.randn(n, device=DEVICE)) for n in (5, 100_000, 7)]
        optimizer = IRpropMinus(params)
        pool = [torch.cuda.Stream() for _ in range(streams)]
        generator = torch.Generator(DEVICE).manual_seed(1)
        torch.cuda.synchronize()
        for t in range(60):
            with torch.cuda.stream(pool[t % streams]):
                for p in params:
                    p.grad = torch.randn(p.shape, device=DEVICE, generator=generator)
                optimizer.step()
                torch.cuda.current_stream().synchronize()
        results.append([p.detach().clone() for p in params])
    for a, b in zip(*results, strict=True):
        assert_same(a, b)


@GPU
def test_more_than_2_to_the_31_weights():
    n = 2**31 + 5000
    if torch.cuda.mem_get_info()[0] < 4 * 2 * n + 2**30:
        pytest.skip("needs 17 GB of GPU memory")
    w, g = (torch.ones(n, dtype=torch.float16, device=DEVICE) for _ in "ab")
    move = torch.full((n,), 0.25 * 2.0**96, device=DEVICE)
    assert triton_.step("rprop-", [w], [g], [(move,)], DEFAULT)
    assert bool((w[-6000:] == 0.75).all()) and bool((w[:6000] == 0.75).all()) and float(w.max()) == 0.75


@GPU
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
def test_two_devices():
    params = [torch.nn.Parameter(torch.ones(50, device=f"cuda:{i % 2}")) for i in range(4)]
    optimizer = IRpropPlus(params, lr=0.25)
    for p in params:
        p.grad = torch.ones_like(p)
    optimizer.step(loss=torch.ones((), device="cuda:0"))
    assert all(bool((p == 0.75).all()) for p in params)


# -------------------------------------------------------------------------------------------- no Triton


def test_the_package_does_not_import_triton():
    code = (
        "import sys, rprop_kernels.torch as t, torch; "
        "p = torch.nn.Parameter(torch.ones(3)); p.grad = torch.ones(3); t.Rprop([p]).step(); "
        "assert 'rprop_kernels.kernels.triton_' not in sys.modules"
    )
    subprocess.run([sys.executable, "-P", "-c", code], check=True)


def test_without_a_device_the_backend_says_so(monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match="no CUDA device"):
        Rprop([torch.nn.Parameter(torch.ones(3))], backend="triton")
