"""finish="newton" of minimize: its endings, its rows, bounds, and the covariance."""

import copy
import functools
import math
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

from rprop_kernels.torch import minimize  # noqa: E402
from rprop_kernels.torch.newton import solve  # noqa: E402

D = torch.float64
SLOWLY = {"step_sizes": (0.0, 1e-3), "lr": 1e-3}  # Rprop does not get there in 40 steps
OFF = {"gtol": None, "ftol": None, "xtol": None}


def bits(x):
    return np.asarray(x.detach() if isinstance(x, torch.Tensor) else x).tobytes()


def rosenbrock(x):
    return 100 * (x[..., 1] - x[..., 0] ** 2) ** 2 + (1 - x[..., 0]) ** 2


def double_well(x):
    """Indefinite between its wells, with minima of 0 at (+-1, 1)."""
    return (x[..., 0] ** 2 - 1) ** 2 + (x[..., 1] - x[..., 0] ** 2) ** 2


def make_logistic(problems, seed=0):
    """Bounded logistic curves with noise of standard deviation .05: fun, x0, data, bounds, true parameters."""
    rng = np.random.default_rng(seed)
    truth = torch.tensor(
        np.stack([rng.uniform(1, 3, problems), rng.uniform(0.5, 2.5, problems), rng.normal(0, 0.7, problems)], 1)
    )
    t = torch.linspace(-3, 3, 30, dtype=D)

    def model(x):
        return x[:, 0:1] * torch.sigmoid(x[:, 1:2] * (t - x[:, 2:3]))

    def fun(x, y):
        return ((model(x) - y) ** 2).sum(1)

    data = model(truth) + 0.05 * torch.tensor(rng.normal(size=(problems, 30)))
    bounds = (torch.tensor([0.1, 0.05, -3.0]), torch.tensor([10.0, 10.0, 3.0]))
    return fun, torch.tensor([2.0, 1.0, 0.0], dtype=D).repeat(problems, 1), data, bounds, truth


# ------------------------------------------------------------------------------------------------- results


def test_a_valley_in_which_rprop_crawls():
    x0 = torch.tensor([-1.2, 1.0], dtype=D)
    result = minimize(rosenbrock, x0, finish="newton")
    assert result.success and result.fun < 1e-12 and result.nit == 40
    assert result.calls == result.nfev + 2 and len(result.history) == result.nfev > result.nit + 2
    assert (np.diff(result.history) <= 0).all() and result.history[-1] == result.fun
    assert (result.hess - torch.tensor([[802.0, -400.0], [-400.0, 200.0]], dtype=D)).abs().max() < 1e-3
    assert minimize(rosenbrock, x0).fun > 1e-6


def test_many_rows_reach_the_minimum_that_rprop_alone_misses():
    rng = np.random.default_rng(1)
    x0 = torch.tensor(rng.normal(0, 2, (300, 2)))
    result = minimize(rosenbrock, x0, batched=True, finish="newton")
    assert (result.fun < 1e-6).double().mean() >= 0.98
    slow = torch.tensor(rng.uniform(0.2, 0.7, 200))
    fast, t = slow + torch.tensor(rng.uniform(1, 2, 200)), torch.linspace(0, 5, 40, dtype=D)

    def fun(x, y):
        return ((x[:, :1] * torch.exp(-x[:, 1:2] * t) + x[:, 2:3] * torch.exp(-x[:, 3:] * t) - y) ** 2).sum(1)

    y = torch.exp(-fast[:, None] * t) + 2 * torch.exp(-slow[:, None] * t)
    result = minimize(fun, torch.tensor([1.0, 1.0, 1.0, 0.5], dtype=D).repeat(200, 1), y, in_dims=0, batched=True,
                      finish="newton")  # fmt: skip
    assert (result.fun < 1e-6).double().mean() >= 0.98 and result.success.double().mean() >= 0.98


def test_one_standard_deviation_covers_two_thirds():
    fun, x0, data, bounds, truth = make_logistic(1000)
    result = minimize(fun, x0, data, in_dims=0, batched=True, bounds=bounds, finish="newton")
    assert result.success.all() and result.hess.shape == (1000, 3, 3)
    deviation = result.cov(2 * 0.05**2).diagonal(dim1=1, dim2=2).sqrt()
    share = ((result.x - truth).abs() <= deviation).double().mean()
    assert 0.65 < share < 0.71  # .683 wanted


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.integers(1, 4),
    st.sampled_from([1e-3, 0.1, 1.0, 30.0]),
    st.booleans(),
    st.booleans(),
)
def test_the_best_point_seen_is_returned_and_bounds_hold(seed, n, size, bounded, maximize):
    """Losses with several minima, saddles, and regions where they are not finite."""
    rng = np.random.default_rng(seed)
    a, b = torch.tensor(rng.normal(0, 2, (5, n))), torch.tensor(rng.normal(0, 2, (5, n)))
    seen = torch.full((5,), math.inf, dtype=D)
    sign = -1 if maximize else 1

    def fun(x, a, b, *, rows):
        if bounded:
            assert (x.abs() <= 1.5 * size).all()
        u = x / size
        terms = (u * u * (u * u - 2 - a) + (b + a) * u + u * u.roll(1, 1)).unbind(1)
        loss = functools.reduce(torch.add, terms)  # a sum with the same bits in any batch
        loss = sign * torch.where(u[:, 0] > 1.25, torch.nan, loss)
        with torch.no_grad():
            value = sign * loss
            seen[rows] = torch.minimum(seen[rows], torch.where(value.isfinite(), value, math.inf))
        return loss

    x0 = torch.tensor(rng.uniform(-size, size, (5, n)))
    options = {"bounds": (-1.5 * size, 1.5 * size)} if bounded else {}
    result = minimize(
        fun, x0, (a, b), in_dims=0, batched=True, finish="newton", maximize=maximize, max_steps=60, **options
    )
    assert bits(sign * result.fun) == bits(seen)
    again = fun(result.x, a, b, rows=torch.arange(5))
    assert bits(again) == bits(result.fun)


@pytest.mark.parametrize("scale", [None, [0.5, 64.0], "auto"])
def test_rows_have_the_bits_of_lone_runs(scale):
    """The losses are computed element by element, and so is the algebra of the finish."""
    rng = np.random.default_rng(2)
    x0, weights = torch.tensor(rng.uniform(-3, 3, (21, 2))), torch.tensor(rng.uniform(0.1, 9, 21))

    def fun(x, weight):
        return weight * double_well(x) + torch.where(x[..., 0] > 2.5, torch.nan, 0)

    options = {"finish": "newton", "bounds": (torch.tensor([-3.0, -3.0]), torch.tensor([3.0, 0.875])),
               "x_scale": torch.tensor(scale) if isinstance(scale, list) else scale}  # fmt: skip
    x0[:, 1].clamp_(max=0.875)
    rows = minimize(fun, x0, weights, in_dims=0, batched=True, **options)
    chunks = minimize(fun, x0, weights, in_dims=0, batched=True, chunk_size=4, **options)
    assert bits(rows.x) == bits(chunks.x) and bits(rows.hess) == bits(chunks.hess)
    assert len(set(rows.nfev.tolist())) > 3 and {"start", "gtol"} <= set(rows.reason)
    for i in range(len(x0)):
        one = minimize(fun, x0[i], float(weights[i]), **options)
        for name in ("x", "grad", "hess"):
            assert bits(getattr(one, name)) == bits(getattr(rows, name)[i]), name
        assert (one.nit, one.nfev, one.reason) == (rows.nit[i], rows.nfev[i], rows.reason[i])
        assert bits(one.cov(2.0)) == bits(rows.cov(2.0)[i]) or torch.allclose(
            one.cov(2.0), rows.cov(2.0)[i], rtol=1e-12, equal_nan=True
        )  # LAPACK inverts


def test_a_scaled_run_is_that_of_the_divided_variable():
    """To the bit, the finish included; the Hessian is in the units of fun."""
    scale = torch.tensor([2.0**-20, 2.0**13], dtype=D)
    x0 = torch.tensor([[-1.25, 1.0], [2.0, -0.5], [0.5, 0.75]], dtype=D)
    upper = torch.tensor([4.0, 1.5], dtype=D)
    options = {"batched": True, "finish": "newton"}
    plain = minimize(rosenbrock, x0, bounds=(None, upper), **options)
    ours = minimize(lambda x: rosenbrock(x / scale), x0 * scale, bounds=(None, upper * scale), x_scale=scale, **options)
    assert bits(ours.x) == bits(plain.x * scale) and bits(ours.fun) == bits(plain.fun)
    assert ours.nfev.tolist() == plain.nfev.tolist() and ours.reason == plain.reason
    assert bits(ours.hess) == bits(plain.hess / scale / scale[:, None])


def test_an_indefinite_start():
    x0 = torch.tensor([[0.01, 0.0], [-0.01, 0.0], [0.3, 1.0]], dtype=D)
    result = minimize(double_well, x0, batched=True, finish="newton", max_steps=0)
    assert torch.linalg.eigvalsh(result.hess)[0].min() < 0 and result.nit.tolist() == [0] * 3
    result = minimize(double_well, x0, batched=True, finish="newton", max_steps=40, lr=1e-6, step_sizes=(0.0, 1e-6))
    assert result.success.all() and (result.fun < 1e-8).all()
    assert (result.x[:, 0].abs() - 1).abs().max() < 1e-4


# ------------------------------------------------------------------------------------ bounds and covariance

A = torch.tensor([[4.0, 1.0, 0.5], [1.0, 3.0, -1.0], [0.5, -1.0, 2.0]], dtype=D)


def quadratic(x):
    return (x - 1) @ A @ (x - 1) / 2


def test_the_covariance_is_the_inverse_of_the_hessian():
    x0 = torch.zeros(3, dtype=D)
    inverse = torch.linalg.inv(A)
    result = minimize(quadratic, x0, finish="newton")
    assert torch.allclose(result.hess, A, rtol=1e-14) and torch.allclose(result.cov(), inverse, rtol=1e-12)
    assert torch.equal(result.cov(scale=3), 3 * result.cov()) and result.cov().dtype == D
    largest = minimize(lambda x: -quadratic(x), x0, finish="newton", maximize=True)
    assert torch.allclose(largest.hess, -A) and torch.allclose(largest.cov(), inverse, rtol=1e-12)
    scaled = minimize(quadratic, x0, finish="newton", x_scale=torch.tensor([1e-3, 1.0, 1e3]), lr=0.1)
    assert torch.allclose(scaled.hess, A) and torch.allclose(scaled.cov(), inverse, rtol=1e-10) and scaled.success
    for copied in (copy.deepcopy(result), pickle.loads(pickle.dumps(result))):
        assert bits(copied.cov()) == bits(result.cov())
    assert "_covariance" not in repr(result) and "hess" in repr(result)
    single = minimize(lambda x: quadratic(x.double()), x0.float(), finish="newton")
    assert single.hess.dtype == torch.float32 and torch.allclose(single.cov().double(), inverse, rtol=1e-5)


@pytest.mark.parametrize("batched", [False, True])
@pytest.mark.parametrize("maximize", [False, True])
def test_weights_at_a_bound_and_frozen_ones_have_no_variance(batched, maximize):
    sign = -1 if maximize else 1

    def fun(x):
        return sign * (((x - 1) @ A) * (x - 1)).sum(-1) / 2

    x0, nan = torch.zeros(3, dtype=D), [math.nan] * 3
    x0 = x0.repeat(9, 1) if batched else x0
    free = torch.tensor([True, False, True])
    block = torch.linalg.inv(A[free][:, free])
    expected = torch.tensor([[block[0, 0], math.nan, block[0, 1]], nan, [block[1, 0], math.nan, block[1, 1]]])
    for options in (
        {"bounds": (None, torch.tensor([9.0, 0.5, 9.0]))},
        {"frozen": torch.tensor([False, True, False])},
    ):
        result = minimize(fun, x0, finish="newton", maximize=maximize, **options)  if not batched else minimize(
            fun, x0, finish="newton", maximize=maximize, batched=True, **options)  # fmt: skip
        cov, x = (result.cov()[4], result.x[4]) if batched else (result.cov(), result.x)
        assert torch.allclose(cov, expected.to(D), rtol=1e-12, equal_nan=True)
        fixed = x[1]
        assert fixed == (0.5 if "bounds" in options else 0.0)
        others = 1 - torch.linalg.solve(A[free][:, free], A[free][:, 1] * (fixed - 1))
        assert torch.allclose(x[free], others, rtol=1e-9)


def test_a_scale_for_each_problem():
    x0 = torch.zeros(4, 3, dtype=D)
    result = minimize(lambda x: (((x - 1) @ A) * (x - 1)).sum(1) / 2, x0, batched=True, finish="newton")
    scale = torch.tensor([1.0, 2.0, 3.0, 4.0])
    assert torch.allclose(result.cov(scale), scale[:, None, None] * torch.linalg.inv(A), rtol=1e-12)


def test_many_active_bounds():
    """The minimum within a box, against projected gradients."""
    rng = np.random.default_rng(4)
    roots = torch.tensor(rng.normal(size=(40, 6, 6)))
    matrices = roots @ roots.mT + 0.1 * torch.eye(6, dtype=D)
    centers = torch.tensor(rng.normal(0, 2, (40, 6)))

    def fun(x, m, c):
        d = (x - c)[:, :, None]
        return (d * (m @ d)).sum((1, 2)) / 2

    result = minimize(
        fun, torch.zeros(40, 6, dtype=D), (matrices, centers), in_dims=0, batched=True, bounds=(-1.0, 1.0),
        finish="newton", gtol=1e-9, **SLOWLY,
    )  # fmt: skip
    x, grad = result.x, (matrices @ (result.x - centers)[:, :, None])[..., 0]
    assert set(result.reason) == {"gtol"} and (x.abs() == 1).double().mean() > 0.2
    assert (x - (x - grad).clamp(-1, 1)).abs().max() < 1e-6
    assert (result.nfev - result.nit).max() <= 8


def test_frozen_weights_may_have_any_derivative():
    def fun(x):
        return (x[..., 1] - 2) ** 2 + torch.sqrt(x[..., 0])

    result = minimize(fun, torch.zeros(2, dtype=D), frozen=torch.tensor([True, False]), finish="newton")
    assert not result.grad[0].isfinite() and result.reason == "gtol" and abs(result.x[1] - 2) < 1e-5
    assert result.cov()[1, 1] == 0.5 and result.x[0] == 0


def test_a_singular_hessian_has_no_covariance():
    x0 = torch.ones(4, 2, dtype=D)
    result = minimize(lambda x: (x.sum(1) - 1) ** 2, x0, batched=True, finish="newton")
    assert result.success.all() and result.cov().isnan().all()
    assert not minimize(rosenbrock, x0, batched=True, finish="newton").cov().isnan().any()


# -------------------------------------------------------------------------------------------- forms of x0


def test_dicts_of_rows_and_modules():
    centers = torch.linspace(-2, 2, 12, dtype=D)

    def fun(x, c):
        return (x["a"] - c) ** 2 + ((x["b"] - c[:, None]) ** 4).sum(1) + 3 * ((x["b"] - c[:, None]) ** 2).sum(1)

    x0 = {"a": torch.zeros(12, dtype=D), "b": torch.zeros(12, 2, dtype=torch.float32)}
    result = minimize(fun, x0, centers, in_dims=0, batched=True, finish="newton", bounds={"a": (None, 1.0)})
    assert result.x["b"].dtype == torch.float32 and (result.x["b"] - centers[:, None]).abs().max() < 1e-4
    assert torch.equal(result.x["a"][-2:], torch.ones(2, dtype=D)) and result.hess.shape == (12, 3, 3)
    assert torch.allclose(result.hess[5], torch.diag(torch.tensor([2.0, 6.0, 6.0], dtype=D)), atol=1e-3)
    assert result.cov()[-1, 0].isnan().all() and not result.cov()[0].isnan().any()
    torch.manual_seed(0)
    model, t = torch.nn.Linear(2, 1, dtype=D), torch.randn(40, 2, dtype=D)
    y = t @ torch.tensor([[1.0], [-2.0]], dtype=D) + 0.5 + 0.1 * torch.randn(40, 1, dtype=D)
    result = minimize(lambda: ((model(t) - y) ** 2).sum() / 2, model, finish="newton")
    design = torch.cat([t, torch.ones(40, 1, dtype=D)], 1)
    assert result.x is model and torch.allclose(result.cov(), torch.linalg.inv(design.T @ design), rtol=1e-9)
    solution = torch.linalg.lstsq(design, y).solution[:, 0]
    assert torch.allclose(torch.cat([model.weight[0], model.bias]), solution, rtol=1e-9)
    assert model.weight.grad is None and not result.hess.requires_grad


def test_rows_leave_and_keep_their_data():
    rng = np.random.default_rng(3)
    x0, centers = torch.tensor(rng.normal(0, 2, (30, 2))), torch.tensor(rng.normal(size=(2, 30)))
    sizes = []

    def fun(x, c, *, rows):
        sizes.append(len(x))
        assert torch.equal(c, centers[:, rows])
        return rosenbrock(x - c.T)

    result = minimize(fun, x0, centers, in_dims=1, batched=True, finish="newton", chunk_size=20)
    assert (result.x - centers.T - 1).abs().max() < 1e-3 and max(sizes) == 20 and min(sizes) < 5


# ------------------------------------------------------------------------------------------------- endings


def bowl(x):
    return ((x - 1) ** 2).sum(-1) + ((x - 1) ** 4).sum(-1) + 1


ENDINGS = {
    "gtol": (bowl, {}),
    "ftol": (bowl, {"gtol": None, "xtol": None}),
    "xtol": (bowl, {"gtol": None, "ftol": None, "xtol": 1e-3}),
    "target": (bowl, {"target": 1.5}),
    "patience": (bowl, {**OFF, "patience": 41}),
    "max_steps": (bowl, {"max_steps": 2}),
    "max_evals": (bowl, {"max_evals": 43}),
    "nonfinite": (lambda x: torch.where(x[..., 0] > 3.95, bowl(x), torch.nan), {"window": 6, **OFF}),
    "start": (lambda x: bowl(x) * torch.nan, {}),
    "callback": (bowl, {}),
    "interrupted": (bowl, {}),
}


@pytest.mark.parametrize("batched", [False, True])
@pytest.mark.parametrize("reason", ENDINGS)
def test_every_reason_ends_a_finish(reason, batched):
    fun, options = ENDINGS[reason]
    x0 = torch.tensor([4.0, 4.0], dtype=D)
    steps = 0

    def callback(x):
        nonlocal steps
        steps += 1
        if steps == 42:
            raise StopIteration if reason == "callback" else KeyboardInterrupt

    if reason in ("callback", "interrupted"):
        options = {"callback": callback}
    if batched:
        x0 = x0.repeat(3, 1)
    result = minimize(fun, x0, batched=batched, finish="newton", check_noise=False, **SLOWLY, **options)
    nit, nfev = (result.nit[0], result.nfev[0]) if batched else (result.nit, result.nfev)
    assert result.reason == ([reason] * 3 if batched else reason)
    if reason == "start":
        assert nfev == nit + 1 and result.hess.isnan().all() and result.cov().isnan().all()
        return
    assert nit <= 40 and nfev > nit + 1 and not result.hess.isnan().any()
    assert result.calls == nfev + 1  # the Hessian-vector product
    if not batched:
        assert len(result.history) == nfev
    if reason == "ftol":
        assert nfev - nit < 15  # where rounding hides a decrease, not after a window of 50 steps
    if reason == "max_steps":
        assert (nit, nfev) == (2, 6)
    if reason == "max_evals":
        assert (nit, nfev) == (40, 43)
    assert bits(fun(result.x)) == bits(result.fun)


@pytest.mark.parametrize("options", [{}, {"window": 500, "xtol": None}])
def test_rest_beside_a_wall_is_no_success(options):
    def fun(x):
        return torch.where(x[..., 0] > 1.5, bowl(x), torch.nan)

    result = minimize(fun, torch.tensor([4.0, 4.0], dtype=D), finish="newton", **SLOWLY, **options)
    assert result.reason == "nonfinite" and 1.5 < result.x[0] < 1.51


def test_no_decrease_ends_a_finish():
    x0 = torch.tensor([1.0, 1.0], dtype=D)
    result = minimize(bowl, x0, finish="newton", **OFF | {"ftol": 1e-9})
    assert (result.reason, result.fun) == ("no_decrease", 1.0) and torch.equal(result.x, x0)


def test_no_budget_for_the_finish():
    result = minimize(bowl, torch.tensor([4.0, 4.0], dtype=D), finish="newton", max_evals=41, **SLOWLY)
    assert (result.reason, result.nfev) == ("max_evals", 41) and result.cov().isnan().all()


@pytest.mark.parametrize(("target", "reason"), [(0.5, "target"), (None, "nonfinite")])
def test_a_success_of_rprop_stays_one(target, reason):
    """At a point without second derivatives the finish ends."""

    def fun(x):
        value = (x**2).sum(-1)
        return value + torch.where(value < 0.5, value - value.detach(), 0).abs().sqrt() * 0

    x0 = torch.tensor([3.0, 4.0], dtype=D)
    result = minimize(fun, x0, finish="newton", target=target, gtol=None, ftol=None, xtol=None, max_steps=100)
    assert result.reason == reason and result.nfev == result.nit + 2


def test_an_exception_in_the_finish_leaves_the_best_point():
    model = torch.nn.Linear(2, 1, dtype=D)
    calls = 0

    def loss():
        nonlocal calls
        calls += 1
        if calls == 46:
            raise ZeroDivisionError("mine")
        return rosenbrock(model.weight[0]) + model.bias[0] ** 2 + model.bias[0] * model.weight[0, 0]

    with pytest.raises(ZeroDivisionError, match="mine") as caught:
        minimize(loss, model, finish="newton")
    result = caught.value.result
    assert result.fun == loss().item() == result.history[-1] and result.reason == "interrupted"
    assert result.nfev > result.nit + 1 and result.hess.shape == (3, 3)


def test_the_callback_sees_the_finish():
    seen = []

    def callback(*, intermediate_result):
        seen.append((intermediate_result.nit, float(intermediate_result.fun)))

    result = minimize(rosenbrock, torch.tensor([-1.2, 1.0], dtype=D), finish="newton", callback=callback)
    assert [nit for nit, _ in seen] == list(range(1, result.nfev - 1))
    assert seen[-1][1] == result.fun


def test_progress_goes_on_in_the_finish(capsys, monkeypatch):
    from rprop_kernels import progress

    monkeypatch.setattr(progress.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(progress._Lines, "interval", 0.0)
    minimize(rosenbrock, torch.tensor([[-1.2, 1.0]] * 2, dtype=D), batched=True, finish="newton", progress=True)
    lines = capsys.readouterr().err.splitlines()
    assert any("step 60" in line for line in lines) and "100% finished" in lines[-1]


# ------------------------------------------------------------------------------------------------ refusals


class NoSecond(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return (x**2).sum()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad):
        return 2 * ctx.saved_tensors[0] * grad


class Detached(NoSecond):
    @staticmethod
    def backward(ctx, grad):
        return torch.from_numpy(2 * ctx.saved_tensors[0].detach().numpy())


BAD = {
    "word": ({"finish": "lbfgs"}, "there is no finish 'lbfgs': pass 'newton'"),
    "true": ({"finish": True}, "there is no finish True"),
    "jac": ({"jac": True}, "finish='newton' has no second derivatives with jac=True"),
    "many": ({"x0": torch.zeros(33)}, "at most 32 variables a problem, and there are 33"),
    "many rows": ({"x0": [torch.zeros(2, 30), torch.zeros(2, 3)], "batched": True}, "and there are 33"),
    "once": (
        {"fun": lambda x: NoSecond.apply(x) * x.sum()},
        r"needs second derivatives of fun \(its gradient .*\): compute the loss by",
    ),
    "detached": ({"fun": Detached.apply}, "its gradient does not depend on x, or has no derivative"),
    "linear": ({"fun": lambda x: x.sum()}, "its gradient does not depend on x"),
    "no gradient": ({"fun": lambda x: (x.detach() ** 2).sum()}, "the loss does not depend on x"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_refused_before_the_first_step(case):
    change, text = BAD[case]
    steps = []
    with pytest.raises(ValueError, match=text):
        minimize(**{"fun": bowl, "x0": torch.ones(2) * 3, "callback": steps.append, "finish": "newton"} | change)
    assert not steps


def test_no_covariance_without_a_finish():
    result = minimize(bowl, torch.ones(2))
    assert result.hess is None
    with pytest.raises(ValueError, match="pass finish='newton'"):
        result.cov()


# ------------------------------------------------------------------------------------------------- algebra


@pytest.mark.parametrize("n", [1, 2, 5, 32])
def test_the_factorisation_solves_for_the_free_weights(n):
    rng = np.random.default_rng(n)
    roots = torch.tensor(rng.normal(size=(7, n, n)))
    matrices = roots @ roots.mT + 0.1 * torch.eye(n, dtype=D)
    matrices[3] -= 100 * n * torch.eye(n, dtype=D)
    grad, damping = torch.tensor(rng.normal(size=(n, 7))), torch.tensor(rng.random((n, 7)))
    free = torch.tensor(rng.random((n, 7)) < 0.7)
    free[0] = True
    d, definite = solve(matrices.permute(1, 2, 0), grad, damping, free)
    assert definite.tolist() == [i != 3 for i in range(7)]
    for i in (0, 1, 2, 4, 5, 6):
        f = free[:, i]
        whole = matrices[i][f][:, f] + torch.diag(damping[f, i])
        assert torch.allclose(d[f, i], torch.linalg.solve(whole, -grad[f, i])) and (d[~f, i] == 0).all()
        one, _ = solve(matrices[i][:, :, None], grad[:, i : i + 1], damping[:, i : i + 1], free[:, i : i + 1])
        assert bits(one[:, 0]) == bits(d[:, i].contiguous())
