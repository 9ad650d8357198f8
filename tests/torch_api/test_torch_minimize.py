"""minimize for tensors: the path of NumPy's, forms of x0, batches, Modules, endings, refusals."""

import math

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from rprop_kernels import numpy as rn  # noqa: E402
from rprop_kernels.torch import minimize  # noqa: E402

RULES = ("rprop-", "rprop+", "irprop-", "irprop+")
BACKENDS = ("cython", "numba", "torch")
SLOW = {"gtol": None, "ftol": None, "xtol": None}


def valley(x):
    a, b = x[..., 0] ** 2 + x[..., 1] - 11, x[..., 0] + x[..., 1] ** 2 - 7
    return a * a + b * b


def weighted(x, weight):
    loss = weight * valley(x)
    return torch.where(x[..., 0] > 4.2, torch.nan, loss)


def with_gradient(fun):
    """The same function for NumPy, by torch, so that the bits agree."""

    def call(x, *args):
        w = torch.tensor(x, requires_grad=True)
        losses = fun(w, *(torch.as_tensor(arg) for arg in args))
        (grad,) = torch.autograd.grad(losses.sum(), w)
        return (losses.detach().numpy() if losses.dim() else losses.item()), grad.numpy()

    return call


def problems(count=23):
    rng = np.random.default_rng(5)
    return rng.uniform(-4, 4, (count, 2)), rng.uniform(0.01, 30, count)


OPTIONS = {
    "plain": {},
    "bounds": {"bounds": ([-4.0, -4.0], [4.1, 4.0])},
    "frozen": {"frozen": [False, True], "gtol": None},
    "maximize": {"maximize": True, "bounds": (-4.1, 4.1)},
    "x_scale": {"x_scale": [0.25, 8.0], "lr": 0.1, "window": 5},
    "auto": {"x_scale": "auto", "bounds": ([-5.0, -np.inf], [5.0, np.inf])},
    "lr": {"lr": [0.5, 0.01], "ftol": 0.0, "gtol": None, "patience": 9},
    "target": {"target": 3.0, "max_evals": 25, "lr": 3.0},
}


def bits(x):
    return np.asarray(x.detach() if isinstance(x, torch.Tensor) else x).tobytes()


def for_tensors(options):
    """Array-likes as tensors: a list is one item for each tensor there."""
    tensors = dict(options)
    for name in ("frozen", "x_scale", "lr"):
        if isinstance(tensors.get(name), list):
            dtype = torch.bool if name == "frozen" else torch.float64
            tensors[name] = torch.tensor(tensors[name], dtype=dtype)
    if isinstance(tensors.get("bounds", (0,))[0], list):
        tensors["bounds"] = tuple(torch.tensor(half, dtype=torch.float64) for half in tensors["bounds"])
    return tensors


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("case", OPTIONS)
@pytest.mark.parametrize("rule", RULES)
def test_the_result_is_numpys_and_rows_are_lone_runs(rule, case, backend):
    """Bit for bit, in a batch as well as alone."""
    start, weights = problems()
    common = {"method": rule, "max_steps": 150}
    theirs = rn.minimize(
        with_gradient(weighted), start, weights, in_dims=0, jac=True, batched=True, **common, **OPTIONS[case]
    )
    options = for_tensors(OPTIONS[case]) | common | {"backend": backend}
    ours = minimize(weighted, torch.tensor(start), torch.tensor(weights), in_dims=0, batched=True, **options)
    for name in ("x", "fun", "grad", "nit", "nfev", "status", "success"):
        assert bits(getattr(ours, name)) == bits(getattr(theirs, name)), name
    assert (ours.reason, ours.message, ours.history) == (theirs.reason, theirs.message, None)
    for row in range(0, len(start), 4):
        one = minimize(weighted, torch.tensor(start[row]), float(weights[row]), **options)
        assert bits(one.x) == bits(ours.x[row]) and bits(one.grad) == bits(ours.grad[row])
        assert (one.reason, one.nit, one.nfev) == (ours.reason[row], ours.nit[row], ours.nfev[row])
        assert one.fun == ours.fun[row] or (math.isnan(one.fun) and one.reason == "start")
        assert len(one.history) == one.nit + 1


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_the_path_is_that_of_the_class(rule, dtype):
    from rprop_kernels import torch as rt

    cls = {"rprop-": rt.RpropMinus, "rprop+": rt.RpropPlus, "irprop-": rt.IRpropMinus, "irprop+": rt.IRpropPlus}[rule]
    seen = []

    def fun(x):
        seen.append(x.detach().clone())
        return valley(x.float())

    start = torch.tensor([-1.25, 1.0], dtype=dtype)
    minimize(fun, start, method=rule, max_steps=40, check_noise=False, lr=0.05, **SLOW)
    w = torch.nn.Parameter(start.clone())
    optimizer = cls([w], lr=0.05, step_sizes=(0.0, 50.0))
    assert len(seen) == 41
    for x in seen:
        assert torch.equal(x, w)
        optimizer.zero_grad()
        loss = valley(w.float())
        loss.backward()
        optimizer.step(loss=loss)


# ------------------------------------------------------------------------------------------- forms of x0


def test_lists_and_dicts_are_one_problem():
    a, b = torch.tensor([3.0, -2.0]), torch.tensor(5.0, dtype=torch.float64)

    def fun(parts):
        first, second = parts if isinstance(parts, list) else (parts["a"], parts["b"])
        return ((first - 1) ** 2).sum() + (second + 2) ** 2

    for x0 in ([a, b], {"a": a, "b": b}):
        result = minimize(fun, x0)
        first, second = result.x if isinstance(x0, list) else (result.x["a"], result.x["b"])
        assert type(result.x) is type(result.grad) is type(x0)
        assert result.reason == "gtol" and (first - 1).abs().max() < 1e-5 and abs(second + 2) < 1e-5
        assert (first.dtype, second.dtype) == (torch.float32, torch.float64)
    bounded = minimize(fun, [a + 5, b], bounds=([2.0, None], [torch.tensor([9.0, 9.0]), 5.0]))
    assert bounded.x[0].tolist() == [2.0, 2.0] and bounded.x[1] < -1.9
    named = minimize(fun, {"a": a + 5, "b": b}, bounds={"a": (2.0, None), "b": (None, 6.0)}, frozen={"b": True})
    assert named.x["a"].tolist() == [2.0, 2.0] and named.x["b"] == 5.0
    assert a.tolist() == [3.0, -2.0] and b == 5.0


def test_jac_takes_gradients_in_the_form_of_x0():
    def fun(x):
        return (x["a"] ** 2).sum(), {"a": 2 * x["a"]}

    result = minimize(fun, {"a": torch.tensor([3.0, -4.0])}, jac=True)
    assert result.success and bits(result.grad["a"]) == bits(2 * result.x["a"])


def test_a_module_is_stepped_in_place_to_its_best_point():
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(1, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1))
    model[0].bias.requires_grad_(False)
    model.register_buffer("shift", torch.tensor(2.0))
    bias, pointers = model[0].bias.clone(), [p.data_ptr() for p in model.parameters()]
    x = torch.linspace(-1, 1, 30)[:, None]
    y = torch.sin(3 * x)

    def loss(x, y):
        return ((model(x) - y) ** 2).mean()

    before = loss(x, y).item()
    result = minimize(loss, model, (x, y), max_steps=200)
    assert result.x is model and result.fun == loss(x, y).item() < before / 10
    assert set(result.grad) == {"0.weight", "2.weight", "2.bias"}
    assert pointers == [p.data_ptr() for p in model.parameters()] and torch.equal(bias, model[0].bias)
    assert model.shift == 2 and all(p.grad is None for p in model.parameters())
    held = model[0].weight.detach().clone()
    bounded = minimize(
        loss, model, (x, y), max_steps=30, bounds={"2.*": (-3.0, 3.0), "2.bias": (-1.0, 1.0)},
        frozen={"0.weight": True}, x_scale="auto",
    )  # fmt: skip
    assert torch.equal(model[0].weight, held) and bounded.fun <= result.fun
    assert model[2].bias.abs().max() <= 1 and model[2].weight.abs().max() <= 3


def test_an_exception_leaves_a_module_at_the_best_point():
    model = torch.nn.Linear(1, 1)
    calls = 0

    def loss():
        nonlocal calls
        calls += 1
        if calls == 9:
            raise ZeroDivisionError("mine")
        return sum((p**2).sum() for p in model.parameters())

    with pytest.raises(ZeroDivisionError, match="mine") as caught:
        minimize(loss, model)
    calls = 10
    assert caught.value.result.fun == loss().item() == caught.value.result.history[-1]


def test_an_exception_in_the_callback_leaves_the_best_point():
    model = torch.nn.Linear(1, 1)

    def callback(x):
        if len(losses) == 9:
            raise ZeroDivisionError("mine")

    losses = []

    def loss():
        value = sum((p**2).sum() for p in model.parameters())
        losses.append(value.item())
        return value

    with pytest.raises(ZeroDivisionError, match="mine") as caught:
        minimize(loss, model, callback=callback, check_noise=False)
    assert caught.value.result.fun == min(losses) == loss().item()


def test_ctrl_c_returns_the_best_point():
    calls = 0

    def fun(x):
        nonlocal calls
        calls += 1
        if calls == 6:
            raise KeyboardInterrupt
        return (x**2).sum()

    result = minimize(fun, torch.tensor([3.0]), check_noise=False)
    assert (result.reason, result.status, result.nit) == ("interrupted", 6, 4) and result.nfev == 5
    assert result.fun == (result.x**2).item()


def test_a_module_in_training_mode_with_dropout_warns_once():
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Dropout(0.0))
    x = torch.ones(3, 2)
    with pytest.warns(UserWarning, match=r"dropout or batch norm.*call module.eval\(\)") as caught:
        minimize(lambda: (model(x) ** 2).mean(), model, max_steps=2)
    assert len(caught) == 1 and caught[0].filename == __file__
    model.eval()
    minimize(lambda: (model(x) ** 2).mean(), model, max_steps=2)


def test_full_batch_training_over_a_loader():
    torch.manual_seed(0)
    model = torch.nn.Linear(2, 1)
    data = torch.utils.data.TensorDataset(torch.randn(20, 2), torch.randn(20, 1))
    loader = torch.utils.data.DataLoader(data, batch_size=7)
    whole = minimize(lambda: sum(((model(x) - y) ** 2).sum() for x, y in loader), model)
    assert whole.success


# -------------------------------------------------------------------------------------------------- batches


def test_rows_leave_and_data_of_all_rows_names_the_remedy():
    centers = torch.linspace(0, 9, 20)[:, None]
    sizes = []

    def fun(x, *, rows):
        sizes.append(len(x))
        return ((x - centers[rows]) ** 2).sum(1)

    result = minimize(fun, torch.zeros(20, 1), batched=True, chunk_size=7)
    assert (result.x - centers).abs().max() < 1e-4 and max(sizes) == 7 and min(sizes) < 6
    with pytest.raises(RuntimeError) as caught:
        minimize(lambda x: ((x - centers) ** 2).sum(1), torch.zeros(20, 1), batched=True)
    assert any("in_dims" in note for note in caught.value.__notes__)


def test_a_batch_of_dicts_with_arguments_along_another_dimension():
    centers = torch.randn(2, 12, dtype=torch.float64)

    def fun(x, centers, factor):
        return (x["a"] - factor * centers[0]) ** 2 + ((x["b"] - centers[1][:, None]) ** 2).sum(1)

    x0 = {"a": torch.zeros(12, dtype=torch.float64), "b": torch.zeros(12, 3, dtype=torch.float64)}
    result = minimize(fun, x0, (centers, 2.0), in_dims=(1, None), batched=True)
    assert (result.x["a"] - 2 * centers[0]).abs().max() < 1e-5 and result.x["b"].shape == (12, 3)
    assert (result.x["b"] - centers[1][:, None]).abs().max() < 1e-5


# ------------------------------------------------------------------------------------------------- endings


ENDINGS = {
    "gtol": (lambda x: (x**2).sum(-1), {}),
    "ftol": (lambda x: (x**2).sum(-1), {"gtol": None, "ftol": 0.99, "window": 3}),
    "xtol": (lambda x: x.abs().sum(-1), {"gtol": None}),
    "target": (lambda x: (x**2).sum(-1), {"target": 0.5}),
    "patience": (lambda x: x.sum(-1) * 0 + 1, {"gtol": None, "patience": 3}),
    "max_steps": (lambda x: (x**2).sum(-1), {"max_steps": 4}),
    "max_evals": (lambda x: (x**2).sum(-1), {"max_evals": 5}),
    "nonfinite": (lambda x: torch.where(x[..., 0] < 1, torch.nan, x.sum(-1)), {"window": 6}),
    "start": (lambda x: x.sum(-1) * torch.nan, {}),
    "no_decrease": (lambda x: x.sum(-1) * 0 + 1, {"gtol": None}),
}


@pytest.mark.parametrize("reason", ENDINGS)
def test_every_reason_ends_a_fit(reason):
    fun, options = ENDINGS[reason]
    x0 = torch.tensor([1.0], dtype=torch.float64)
    result = minimize(fun, x0, check_noise=False, **options)
    assert result.reason == reason and len(result.history) == result.nit + 1 == result.nfev == result.calls
    rows = minimize(fun, x0.repeat(3, 1), batched=True, check_noise=False, **options)
    assert rows.reason == [reason] * 3 and rows.nit.tolist() == [result.nit] * 3


def test_the_callback_ends_the_fit():
    seen = []

    def callback(x):
        seen.append(x)
        if len(seen) == 3:
            raise StopIteration

    result = minimize(lambda x: (x["a"] ** 2).sum(), {"a": torch.tensor([3.0])}, callback=callback)
    assert (result.reason, result.nit) == ("callback", 3) and all(set(x) == {"a"} for x in seen)


def test_a_noisy_loss_warns_once():
    torch.manual_seed(0)
    with pytest.warns(RuntimeWarning, match="the loss is noisy") as caught:
        result = minimize(lambda x: (x**2).sum() + torch.rand(()), torch.tensor([1.0]), max_steps=3)
    assert len(caught) == 1 and (result.calls, result.nfev) == (5, 4)


# ------------------------------------------------------------------------------------------------ refusals


def bowl(x):
    return (x**2).sum()


MODEL = torch.nn.Linear(2, 1)
BAD = {
    "fun": ({"fun": 3}, TypeError, "fun is a int"),
    "jac": ({"jac": "2-point"}, TypeError, "jac='2-point': leave it out for autograd"),
    "nothing": ({"fun": lambda x: None}, TypeError, "fun returned None as the loss: return a tensor"),
    "pair": ({"fun": lambda x: (bowl(x), x)}, TypeError, "as the loss: return a tensor; for .* pass jac=True"),
    "vector": ({"fun": lambda x: x}, ValueError, r"shape \(2,\) as the loss: return one number, such as loss.mean\(\)"),
    "no dependence": ({"fun": lambda x: bowl(x.detach())}, ValueError, "the loss does not depend on x"),
    "a float": ({"fun": lambda x: 1.0}, ValueError, "the loss does not depend on x"),
    "no pair": ({"jac": True}, TypeError, r"with jac=True return \(loss, gradient\)"),
    "gradient shape": ({"fun": lambda x: (1.0, x[:1]), "jac": True}, ValueError, r"shape \(1,\), not \(2,\)"),
    "x0": ({"x0": 3.0}, TypeError, "x0 is a float: pass a tensor"),
    "integers": ({"x0": torch.ones(2, dtype=torch.int64)}, TypeError, "x0 is torch.int64: .*x.float"),
    "nan": ({"x0": torch.tensor([math.nan])}, ValueError, "x0 has a NaN or an infinity"),
    "empty": ({"x0": []}, ValueError, "x0 holds no parameters"),
    "part": ({"x0": [torch.ones(1), 3]}, TypeError, r"x0\[1\] is a int: pass tensors"),
    "crossed": ({"bounds": (2.0, 0.0)}, ValueError, "bounds of x0 cross"),
    "outside": ({"bounds": (2.0, None)}, ValueError, "x0 starts outside its bounds"),
    "pairs": ({"bounds": [(0, 2), (0, 2)]}, (TypeError, ValueError), r"np.transpose\(pairs\)"),
    "frozen": ({"frozen": torch.ones(2)}, TypeError, "frozen of x0 is float32: pass booleans"),
    "frozen shape": ({"frozen": torch.ones(3, dtype=torch.bool)}, ValueError, r"frozen of x0 has shape \(3,\)"),
    "method": ({"method": "sgd"}, ValueError, "there is no method 'sgd'"),
    "lr": ({"lr": 0.0}, ValueError, "lr is the first step size"),
    "lr tensor": ({"lr": torch.tensor([0.1, 99.0])}, ValueError, "lr is the first step size"),
    "scale": ({"x_scale": -1.0}, ValueError, "x_scale of x0: pass 'auto', a number above 0"),
    "scale word": ({"x_scale": "jac"}, ValueError, "x_scale='jac': pass 'auto'"),
    "scale zero": ({"x_scale": torch.tensor([1.0, 0.0])}, ValueError, "x_scale of x0: pass 'auto', a number above 0"),
    "scale nan": ({"x_scale": math.nan}, ValueError, "x_scale of x0: pass 'auto', a number above 0"),
    "nan bounds": ({"bounds": (torch.tensor([math.nan, 0.0]), None)}, ValueError, "bounds of x0 cross, are NaN"),
    "ftol": ({"ftol": -1e-9}, ValueError, "ftol=-1e-09: pass a number from 0 on"),
    "xtol": ({"xtol": math.nan}, ValueError, "xtol=nan: pass a number from 0 on"),
    "patience": ({"patience": 0}, ValueError, "patience=0: pass a whole number from 1 on"),
    "max_steps": ({"max_steps": -1}, ValueError, "max_steps=-1: pass a number from 0 on"),
    "max_evals": ({"max_evals": 0}, ValueError, "max_evals=0: pass a number from 1 on"),
    "chunk_size": ({"batched": True, "chunk_size": 0}, ValueError, "chunk_size=0: pass a whole number from 1 on"),
    "list bounds": ({"x0": [torch.ones(1)] * 2, "bounds": ([0.0], None)}, ValueError, "lower bound.* 1 .*2"),
    "list lr": ({"x0": [torch.ones(1)] * 2, "lr": [0.1] * 3}, ValueError, "lr .*3.* 2"),
    "list frozen": ({"x0": [torch.ones(1)] * 2, "frozen": [True]}, ValueError, "frozen .*1.* 2"),
    "list x_scale": ({"x0": [torch.ones(1)] * 2, "x_scale": [1.0]}, ValueError, "x_scale .*1.* 2"),
    "in_dims count": (
        {"batched": True, "args": (torch.ones(4),), "in_dims": 0},
        ValueError,
        r"args\[0\] has shape \(4,\), whose dimension 0 does not count the 2 problems",
    ),
    "in_dims length": ({"batched": True, "args": (torch.ones(2),), "in_dims": (0, 0)}, ValueError, "for 1 args"),
    "in_dims range": ({"batched": True, "args": (torch.ones(2),), "in_dims": (1,)}, ValueError, r"in_dims\[0\]=1"),
    "in_dims of one": ({"in_dims": 0}, ValueError, "in_dims=0 is for many problems"),
    "window": ({"window": 0}, ValueError, "window=0"),
    "gtol": ({"gtol": -1}, ValueError, "gtol=-1: pass a number from 0 on"),
    "callback": ({"callback": 3}, TypeError, "callback is 3"),
    "backend": ({"backend": "numpy"}, ValueError, "backend='numpy' cannot be used here"),
    "tol": ({"tol": 1}, TypeError, "pass gtol, ftol and xtol"),
    "maxiter": ({"maxiter": 1}, TypeError, "pass max_steps"),
    "max_iter": ({"max_iter": 1}, TypeError, "pass max_steps"),
    "options": ({"options": {}}, TypeError, "pass the arguments of minimize by themselves"),
    "hess": ({"hess": None}, TypeError, "no argument 'hess': pass finish='newton'"),
    "constraints": ({"constraints": ()}, TypeError, "pass bounds and frozen"),
    "unknown": ({"foo": 1}, TypeError, "no argument 'foo'"),
    "chunk": ({"chunk_size": 1}, ValueError, "chunk_size=1 is for many problems"),
    "rows": ({"x0": [torch.ones(2), torch.ones(3)], "batched": True}, ValueError, "needs one first dimension"),
    "losses": ({"fun": lambda x: x.sum(), "batched": True}, ValueError, r"shape \(\) as the losses: return 2 real"),
    "in_dims": ({"batched": True, "args": torch.ones(4)}, ValueError, r"shapes \(4,\): pass in_dims"),
    "module rows": ({"x0": MODEL, "batched": True}, ValueError, "batched=True does not take a Module"),
    "module jac": ({"x0": MODEL, "jac": True}, ValueError, "jac=True does not take a Module"),
    "no name": ({"x0": MODEL, "bounds": {"wieght": (0, 1)}}, ValueError, "'wieght' matches nothing: .*weight, bias"),
    "two patterns": ({"x0": MODEL, "frozen": {"w*": True, "*t": True}}, ValueError, "both match 'weight'"),
    "halves of a name": ({"x0": MODEL, "bounds": {"weight": [0, 1]}}, TypeError, r"pass a tuple \(lower, upper\)"),
    "list for names": ({"x0": MODEL, "lr": [0.1, 0.1]}, TypeError, "pass a number, or a dict by the names"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_refused_before_the_first_step(case):
    change, error, text = BAD[case]
    x0, steps = torch.ones(2), []
    before = [p.clone() for p in MODEL.parameters()]
    with pytest.raises(error, match=text):
        minimize(**{"fun": bowl, "x0": x0, "callback": steps.append} | change)
    assert x0.tolist() == [1.0, 1.0] and not steps
    assert all(torch.equal(p, value) for p, value in zip(MODEL.parameters(), before, strict=True))


@pytest.mark.parametrize("of_x", [True, False], ids=["modified", "freed"])
def test_a_graph_that_is_kept_between_calls_is_explained(of_x: bool) -> None:
    x = torch.nn.Parameter(torch.tensor([1.0]))
    model, kept = torch.nn.ParameterList([x]), x**2 if of_x else x.sin().exp()
    with pytest.raises(RuntimeError) as caught:
        minimize(lambda: (kept**2).sum(), model, check_noise=not of_x)
    assert any("anew in every call of fun" in note for note in caught.value.__notes__)
