"""Properties of the rules for any gradients, on every array backend and on the torch classes."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from special_values import assert_same_bits

import rprop_kernels.numpy
from rprop_kernels import VARIANTS, state
from rprop_kernels.backends import supported_backends
from rprop_kernels.hyperparameters import Hyperparameters
from rprop_kernels.kernels import load_engine, threads
from rprop_kernels.loss import compare_loss

FOUR = [name for name in VARIANTS if name != "torch"]
BACKENDS = supported_backends("arrays")
DTYPES = ["float32", "float64"]
STEPS = 12
quick = settings(max_examples=12, deadline=None, derandomize=True, database=None)

every_rule = pytest.mark.parametrize("variant", FOUR)
every_backend = pytest.mark.parametrize("backend", BACKENDS)


@st.composite
def runs(draw, sizes=(1e-12, 1e12)):
    """``(dtype, hyper, lr, w, gradients, losses)``: a run of STEPS steps of a few weights."""
    dtype = draw(st.sampled_from(DTYPES))
    real = np.dtype(dtype).type
    low = draw(st.sampled_from([0.0, 1e-30, 1e-6, 0.01]))
    high = draw(st.sampled_from([0.01, 0.02, 1.0, 50.0, 2.0**31]))
    lr = min(max(draw(st.sampled_from([1e-6, 0.01, 0.015, 3.0])), low), high)
    hyper = Hyperparameters(draw(st.sampled_from([0.5, 0.1, 0.9])), draw(st.sampled_from([1.2, 3.0, 1.01])), low, high)
    n = draw(st.integers(1, 9))
    seed = draw(st.integers(0, 2**32 - 1))  # hypothesis chooses the kind of a run, NumPy the many numbers in it
    rng = np.random.default_rng(seed)
    flips, zeros = draw(st.sampled_from([0.0, 0.3, 0.9])), draw(st.sampled_from([0.0, 0.3]))
    signs = np.cumprod(np.where(rng.random((STEPS, n)) < flips, -1, 1), axis=0) * rng.choice([-1, 1], n)
    exponents = rng.uniform(*np.log2(sizes), (STEPS, n))
    gradients = np.where(rng.random((STEPS, n)) < zeros, 0.0, signs * 2**exponents).astype(real)
    w = (rng.standard_normal(n) * draw(st.sampled_from([0.0, 1e-3, 1.0, 1e6]))).astype(real)
    losses = rng.choice([3.0, 2.0, 1.0, np.inf] if draw(st.booleans()) else [3.0, 2.0, 1.0], STEPS)
    losses[0] = 2.0
    return dtype, hyper, lr, w, gradients, losses.tolist()


class Run:
    """A rule on one array, in the engine of a backend; a step returns (w, q, D)."""

    def __init__(self, variant, backend, hyper, lr, w, n_threads=1):
        self.variant, self.hyper, self.n_threads = variant, hyper, n_threads
        self.step_ = load_engine(backend).step
        self.w = w.copy()
        self.state = state.encode(np.zeros_like(w), np.full_like(w, lr))
        self.E_prev = None

    def step(self, gradients, loss):
        outcome, self.E_prev = compare_loss(loss, self.E_prev)
        options = {"outcome": outcome} if self.variant == "irprop+" else {}
        assert self.step_(
            self.variant, [self.w], [gradients], [(self.state,)], self.hyper, n_threads=self.n_threads, **options
        )
        return self.w.copy(), *state.decode(self.state)


def path(run, gradients, losses):
    """The results of all steps of a run as one array."""
    return np.array([run.step(g, loss) for g, loss in zip(gradients, losses, strict=True)])


@every_rule
@every_backend
@quick
@given(runs())
def test_step_sizes_stay_within_their_bounds(variant, backend, drawn):
    dtype, hyper, lr, w, gradients, losses = drawn
    real = np.dtype(dtype).type
    low, high = real(max(hyper.step_min, state.ENCODINGS[dtype].min_step)), real(hyper.step_max)
    run = Run(variant, backend, hyper, lr, w)
    for g, loss in zip(gradients, losses, strict=True):
        _, q, D = run.step(g, loss)
        assert low <= D.min() and D.max() <= high
        assert np.all(np.isin(q, (-1, 0, 1)))


@every_rule
@every_backend
@quick
@given(runs())
def test_weights_move_only_against_the_gradients_sign(variant, backend, drawn):
    """So do moves that are taken back: the sign has changed. After a nonfinite loss the gradient does not matter."""
    _, hyper, lr, w, gradients, losses = drawn
    run, q = Run(variant, backend, hyper, lr, w), np.zeros_like(w)
    for g, loss in zip(gradients, losses, strict=True):
        sign = -q if variant == "irprop+" and loss == np.inf else np.sign(g)
        before = run.w.copy()
        w, q, _ = run.step(g, loss)
        with np.errstate(over="ignore"):
            direction = np.sign(w - before)
        assert np.all((direction == 0) | (direction == -sign))
        assert_same_bits(w[sign == 0], before[sign == 0])


@pytest.mark.parametrize("variant", ["rprop+", "irprop+"])
@every_backend
@quick
@given(runs())
def test_a_move_that_is_taken_back_ends_where_it_began(variant, backend, drawn):
    """Within one unit in the last place of max(|w|, D): w - D + D may round."""
    _, hyper, lr, w, gradients, _ = drawn
    run, q, start = Run(variant, backend, hyper, lr, w), np.zeros_like(w), w
    for loss, g in enumerate(gradients):  # the loss increases: iRprop+ takes every flip back
        flip = np.sign(g) * q < 0
        before, D_before = run.w.copy(), state.decode(run.state)[1]
        w, q, _ = run.step(g, float(loss))
        unit = np.spacing(np.maximum(np.abs(start), D_before))
        assert np.all(np.abs(w - start)[flip] <= unit[flip])
        assert np.all(q[flip] == 0)
        start = before


@every_rule
@every_backend
@quick
@given(runs(sizes=(1e-3, 1e3)), st.integers(-100, 100))
def test_scaling_the_gradients_changes_nothing(variant, backend, drawn, power):
    _, hyper, lr, w, gradients, losses = drawn
    scaled = np.ldexp(gradients, power).astype(gradients.dtype)
    assert np.array_equal(np.ldexp(scaled, -power), gradients)  # it was exact
    paths = [path(Run(variant, backend, hyper, lr, w), g, losses) for g in (gradients, scaled)]
    assert_same_bits(*paths)


@every_rule
@every_backend
@quick
@given(runs(), st.randoms(use_true_random=False))
def test_permuting_the_weights_permutes_the_results(variant, backend, drawn, random):
    _, hyper, lr, w, gradients, losses = drawn
    order = random.sample(range(w.size), w.size)
    plain = path(Run(variant, backend, hyper, lr, w), gradients, losses)
    permuted = path(Run(variant, backend, hyper, lr, w[order]), gradients[:, order], losses)
    assert_same_bits(permuted, plain[:, :, order])


def many(drawn, copies):
    """A run of ``copies`` times as many weights, so that vectors and their remainders hold all kinds of weights."""
    dtype, hyper, lr, w, gradients, losses = drawn
    return dtype, hyper, lr, np.tile(w, copies), np.tile(gradients, copies), losses


@every_rule
@every_backend
@quick
@given(runs(), st.lists(st.floats(0, 1), max_size=4))
def test_one_array_or_any_split_of_it(variant, backend, drawn, cuts):
    _, hyper, lr, w, gradients, losses = many(drawn, 13)
    cuts = sorted(int(cut * w.size) for cut in cuts)
    options = {"lr": lr, "etas": hyper[:2], "step_sizes": hyper[2:], "backend": backend}
    make = rprop_kernels.numpy.METHODS[variant]
    whole, parts = w.copy(), [part.copy() for part in np.split(w, cuts)]
    one, several = make(whole, **options), make(parts, **options)
    for g, loss in zip(gradients, losses, strict=True):
        one.step(g, loss)
        several.step(np.split(g, cuts), loss)
        assert_same_bits(np.concatenate(parts), whole)
        for i in (0, 1):
            seen = [several.signs_and_steps(index)[i] for index in range(len(parts))]
            assert_same_bits(np.concatenate(seen), one.signs_and_steps()[i])


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("backend", [name for name in supported_backends("tensors") if name != "triton"])
@settings(quick, max_examples=10)
@given(runs(), st.lists(st.floats(0, 1), max_size=4))
def test_one_tensor_or_any_split_of_it(variant, backend, drawn, cuts):
    """One is a matrix, the other is not: shapes do not matter either."""
    torch, rprop_torch = pytest.importorskip("torch"), pytest.importorskip("rprop_kernels.torch")
    _, hyper, lr, w, gradients, losses = many(drawn, 14)
    cuts = sorted(int(cut * w.size) for cut in cuts)
    make = getattr(rprop_torch, VARIANTS[variant].class_name)
    whole = torch.nn.Parameter(torch.from_numpy(w.reshape(14, -1).copy()))
    parts = [torch.nn.Parameter(torch.from_numpy(part.copy())) for part in np.split(w, cuts)]
    optimizers = [
        make(params, lr=lr, etas=hyper[:2], step_sizes=hyper[2:], backend=backend) for params in ([whole], parts)
    ]
    for g, loss in zip(gradients, losses, strict=True):
        whole.grad = torch.from_numpy(g.reshape(14, -1).copy())
        for part, g_part in zip(parts, np.split(g, cuts), strict=True):
            part.grad = torch.from_numpy(g_part.copy())
        for optimizer in optimizers:
            optimizer.step(lambda loss=loss: loss)
        for one, several in zip(
            seen(whole, optimizers[0]), zip(*(seen(p, optimizers[1]) for p in parts), strict=True), strict=True
        ):
            assert_same_bits(np.concatenate(several), one)


def seen(parameter, optimizer):
    """The parameter and its state, flat."""
    values = [parameter.detach(), *(x for key, x in optimizer.state[parameter].items() if key != "step")]
    return [x.numpy().reshape(-1) for x in values]


@every_rule
@pytest.mark.parametrize("backend", ["cython", "numba"])
@quick
@given(runs(), st.integers(1, 70), st.integers(2, 5))
def test_any_number_of_threads(variant, backend, drawn, copies, n_threads):
    _, hyper, lr, w, gradients, losses = many(drawn, copies)
    single = path(Run(variant, backend, hyper, lr, w), gradients, losses)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(threads, "MIN_SHARED_WEIGHTS", 1)  # otherwise only large steps use threads
        shared = path(Run(variant, backend, hyper, lr, w, n_threads), gradients, losses)
    assert_same_bits(shared, single)
