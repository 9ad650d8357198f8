"""The largest gradient of the weights that are free to move: the extension's reduction and a plain form of it."""

import numpy as np
import pytest
from backends import INSTRUCTION_SET_VARIABLE, INSTRUCTION_SETS, compiled

from rprop_kernels.kernels import load_engine
from rprop_kernels.kernels.threads import thread_team

HYPER = (0.5, 1.2, 1e-6, 50.0)
FORMS = {
    "plain": (False, False, False),
    "lower": (True, False, False),
    "upper": (False, True, False),
    "both": (True, True, False),
    "frozen": (False, False, True),
    "all": (True, True, True),
}


def free_gradients(w, g, lower, upper, frozen, direction):
    """Return |g|, 0 where a weight is frozen or held at a bound."""
    held = np.zeros(w.shape, bool) if frozen is None else np.array(frozen)
    if lower is not None:
        held |= (w <= lower) & (direction * g > 0)
    if upper is not None:
        held |= (w >= upper) & (direction * g < 0)
    return np.where(held, 0, np.abs(g))


def layouts(array):
    yield array.copy()
    yield np.asfortranarray(array)
    wide = np.zeros((array.shape[0], 2 * array.shape[1]), array.dtype)
    wide[:, ::2] = array
    yield wide[:, ::2]


@compiled
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("instruction_set", INSTRUCTION_SETS)
def test_it_is_the_largest_of_the_free_weights(monkeypatch, instruction_set, dtype, form):
    monkeypatch.setenv(INSTRUCTION_SET_VARIABLE, instruction_set)
    native = load_engine("cython").ArrayStepper()._native
    rng = np.random.default_rng(0)
    shape = (13, 41)
    for special in (None, np.nan, np.inf, -np.inf, 5e-324, 0.0):
        for direction in (1.0, -1.0):
            w = rng.integers(-2, 3, shape).astype(dtype)
            g = rng.standard_normal(shape).astype(dtype)
            if special is not None:
                g[3, 30] = special
            if special == 0.0:
                g[:] = 0
            options = np.full(shape, -2, dtype), np.array(2, dtype), rng.random(shape) < 0.5
            lower, upper, frozen = (x if given else None for x, given in zip(options, FORMS[form], strict=True))
            expected = free_gradients(w, g, lower, upper, frozen, direction)
            for weights in layouts(w):
                state, before = np.zeros_like(weights), weights.copy()
                arguments = [weights], [g], [(state,)], (*HYPER, direction)
                constraints = [(lower, upper, frozen)]
                largest = native.largest_gradient(*arguments, None, constraints, thread_team, 1)
                np.testing.assert_array_equal(largest, [expected.max()])  # NaN where one is NaN
                rows = native.largest_gradient(*arguments, bytes(shape[0]), constraints, None, 1)
                if weights.flags.c_contiguous:
                    np.testing.assert_array_equal(rows, expected.max(axis=1))
                else:
                    assert rows is None  # the rows of a loss are no neighbours
                assert np.array_equal(weights, before) and not state.any()


@compiled
def test_several_arrays_have_one_largest():
    native = load_engine("cython").ArrayStepper()._native
    params = [np.zeros(n, np.float32) for n in (3, 1000, 2)]
    grads = [np.full(p.shape, i - 5.0, np.float32) for i, p in enumerate(params)]
    states = [(np.zeros_like(p),) for p in params]
    assert native.largest_gradient(params, grads, states, (*HYPER, 1.0), None, None, None, 1) == [5.0]
    assert native.largest_gradient(params[:1], grads, states, (*HYPER, 1.0), None, None, None, 1) is None


@compiled
def test_tensors():
    torch = pytest.importorskip("torch")
    from rprop_kernels.torch import IRpropMinus

    params = [torch.nn.Parameter(torch.zeros(n, dtype=dtype)) for n, dtype in ((3, torch.float32), (70, torch.float16))]
    params.append(torch.nn.Parameter(torch.zeros(4, dtype=torch.bfloat16)))
    optimizer = IRpropMinus(params, backend="cython")
    for i, p in enumerate(params):
        p.grad = torch.full_like(p, -0.5 - i)
    optimizer.step()
    values = [p.detach().clone() for p in params]
    native = optimizer._native_step
    assert native.largest_gradient(1, optimizer.state, optimizer.param_groups, None, 1) == (0, [2.5])
    params[1].grad[69] = float("nan")
    status, (largest,) = native.largest_gradient(1, optimizer.state, optimizer.param_groups, None, 1)
    assert status == 0 and largest != largest
    assert all(torch.equal(p, value) for p, value in zip(params, values, strict=True))
