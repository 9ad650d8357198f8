"""Several starting points of minimize: the points, the best of their results, vmap and loop, refusals."""

import math

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from rprop_kernels.torch import minimize  # noqa: E402

D = torch.float64


def bits(x):
    return np.asarray(x.detach() if isinstance(x, torch.Tensor) else x).tobytes()


def valley(x):
    a, b = x[..., 0] ** 2 + x[..., 1] - 11, x[..., 0] + x[..., 1] ** 2 - 7
    return a * a + b * b


def tilted(x):
    return valley(x) + x[..., 0]


OPTIONS = {"bounds": (-5.0, 5.0), "starts": 16, "seed": 1}


def test_the_best_of_several_minima():
    x0 = torch.tensor([4.0, 4.0], dtype=D)
    one = minimize(tilted, x0, bounds=(-5, 5))
    many = minimize(tilted, x0, **OPTIONS)
    assert many.fun < one.fun - 1 and many.success is True and many.seed == 1 and isinstance(many.fun, float)
    assert many.all.x.shape == (16, 2) and many.fun == many.all.fun.min() and many.history is None
    row = int(many.all.fun.argmin())
    assert bits(many.x) == bits(many.all.x[row]) and many.reason == many.all.reason[row]
    assert (many.nit, many.nfev, many.message) == (many.all.nit[row], many.all.nfev[row], many.all.message[row])
    assert bits(one.x) == bits(many.all.x[0]) and one.nit == many.all.nit[0]  # the first start is x0
    assert one.calls > 2 and many.calls == many.all.nfev.max() + 1  # one call for all points
    again = minimize(tilted, x0, **OPTIONS)
    assert bits(again.all.x) == bits(many.all.x)
    assert bits(minimize(tilted, x0, **OPTIONS | {"seed": 2}).all.x) != bits(many.all.x)
    fresh = minimize(tilted, x0, **OPTIONS | {"seed": None})
    assert bits(minimize(tilted, x0, **OPTIONS | {"seed": fresh.seed}).all.x) == bits(fresh.all.x)
    highest = minimize(lambda x: -tilted(x), x0, maximize=True, **OPTIONS)
    assert highest.fun == -many.fun and bits(highest.x) == bits(many.x)
    assert "a Result of shape (16,)" in repr(many)


def test_the_random_numbers_of_torch_are_left_alone():
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    minimize(tilted, torch.zeros(2), **OPTIONS)
    assert torch.equal(torch.rand(2), expected)


def test_starts_of_many_problems_are_those_of_each_alone():
    rng = np.random.default_rng(5)
    x0, weights = torch.tensor(rng.uniform(-4, 4, (5, 2))), torch.tensor(rng.uniform(0.1, 9, 5))
    options = {"bounds": (torch.tensor([-5.0, -4.0]), torch.tensor([5.0, 4.5])), "starts": 6, "seed": 7}
    calls = []

    def fun(x, weight, *, rows=None):
        if rows is not None:
            assert torch.equal(weight, weights[rows])
            calls.append(len(rows))
        return weight * tilted(x)

    for more in ({}, {"finish": "newton"}):
        together = minimize(fun, x0, weights, batched=True, in_dims=0, chunk_size=20, **options, **more)
        assert together.x.shape == (5, 2) and together.all.x.shape == (6, 5, 2) and together.fun.shape == (5,)
        assert len(together.reason) == 5 and len(together.all.message) == 6 and len(together.all.message[0]) == 5
        assert max(calls) == 20
        for row in range(5):
            one = minimize(fun, x0[row], float(weights[row]), **options, **more)
            assert bits(one.x) == bits(together.x[row]) and one.nfev == together.nfev[row]
            assert bits(one.all.x) == bits(together.all.x[:, row].contiguous())
    assert together.cov().shape == (5, 2, 2) and together.all.cov().shape == (6, 5, 2, 2)
    assert torch.allclose(together.cov()[2], torch.linalg.inv(together.hess[2]), rtol=1e-12)
    assert torch.allclose(one.cov(2.0), together.cov(torch.full((5,), 2.0))[4], rtol=1e-12)


def test_points_are_within_bounds_and_frozen_weights_stay():
    x0 = {"a": torch.tensor([0.5, 0.25], dtype=torch.float32), "b": torch.tensor(2.0, dtype=D)}
    result = minimize(
        lambda x: (x["a"] ** 2).sum() + x["b"] ** 2, x0,
        bounds={"a": (0.0, torch.tensor([1.0, math.inf])), "b": (1, 3)},
        frozen={"a": torch.tensor([False, True])}, starts=9, max_steps=0, x_scale="auto",
    )  # fmt: skip
    a, b = result.all.x["a"], result.all.x["b"]
    assert a.shape == (9, 2) and b.shape == (9,) and a.dtype == torch.float32 and b.dtype == D
    assert (a[:, 1] == 0.25).all() and (a[:, 0] >= 0).all() and (a[:, 0] <= 1).all() and len(a[:, 0].unique()) == 9
    assert (b >= 1).all() and (b <= 3).all() and (a[0, 0], b[0]) == (0.5, 2.0)
    assert abs(a[1:, 0].mean() - 0.5) < 0.1 and abs(b[1:].mean() - 2) < 0.2  # a Sobol sequence, not chance
    assert set(result.x) == {"a", "b"} and result.x["b"].shape == ()
    assert minimize(lambda x: (x**2).sum(), torch.ones(2), bounds=(0, 2), starts=1).all.x.shape == (1, 2)


def test_functions_that_vmap_refuses_run_in_a_loop():
    x0, shapes = torch.tensor([4.0, 4.0], dtype=D), set()

    def fun(x):
        shapes.add(tuple(x.shape))
        return tilted(x) if float(x[0].detach()) < 100 else x.sum()

    loop, mapped = minimize(fun, x0, finish="newton", **OPTIONS), minimize(tilted, x0, finish="newton", **OPTIONS)
    assert shapes == {(2,)} and loop.calls > 4 * mapped.calls
    assert torch.allclose(loop.all.x, mapped.all.x, rtol=1e-9) and torch.allclose(loop.cov(), mapped.cov(), rtol=1e-6)

    def with_gradient(x):
        x = x.requires_grad_()
        with torch.enable_grad():
            loss = tilted(x)
            return loss, torch.autograd.grad(loss, x)[0]

    assert bits(minimize(with_gradient, x0, jac=True, **OPTIONS).all.x) == bits(minimize(fun, x0, **OPTIONS).all.x)


def raising(x):
    raise ZeroDivisionError("mine")


def test_an_error_of_fun_is_raised():
    with pytest.raises(ZeroDivisionError, match="mine") as caught:
        minimize(raising, torch.ones(2), **OPTIONS)
    result = caught.value.result
    assert result.reason == "interrupted" and result.all.x.shape == (16, 2)


BAD = {
    "none": ({"starts": 0}, ValueError, "starts=0: pass a whole number from 1 on"),
    "half": ({"starts": 2.5}, ValueError, "starts=2.5: pass a whole number"),
    "seed alone": ({"starts": None, "seed": 0}, ValueError, "seed=0 is for several starting points: pass starts="),
    "seed": ({"seed": -1}, ValueError, "seed=-1: pass a whole number from 0 on"),
    "no bounds": ({"bounds": None}, ValueError, r"starts=16 .* index \(0,\) of x0 has none that is finite"),
    "infinite": ({"bounds": (-2.0, torch.tensor([2.0, math.inf]))}, ValueError, r"the variable at index \(1,\) of x0"),
    "rows": (
        {"x0": torch.ones(3, 2), "batched": True, "bounds": (torch.tensor([0.0, -math.inf]), 2.0)},
        ValueError,
        r"the variable at index \(0, 1\) of x0",
    ),
    "names": (
        {"x0": {"a": torch.ones(2), "b": torch.ones(1)}, "bounds": {"a": (0, 2)}, "fun": lambda x: x["a"].sum()},
        ValueError,
        r"index \(0,\) of 'b' of x0",
    ),
    "module": (
        {"x0": torch.nn.Linear(1, 1), "bounds": {"*": (-9, 9)}},
        ValueError,
        "starts=16 does not take a Module, which is stepped in place",
    ),
    "vector": ({"fun": lambda x: x**2}, ValueError, r"shape \(2,\) as the loss: return one number"),
    "nothing": ({"fun": lambda x: None}, TypeError, "fun returned None as the loss"),
    "detached": ({"fun": lambda x: (x.detach() ** 2).sum()}, ValueError, "the loss does not depend on x"),
    "chunk": ({"chunk_size": 2}, ValueError, "chunk_size=2 is for many problems"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_refused_before_the_first_step(case):
    change, error, text = BAD[case]
    steps = []
    with pytest.raises(error, match=text):
        minimize(**{"fun": tilted, "x0": torch.ones(2), "callback": steps.append} | OPTIONS | change)
    assert not steps
