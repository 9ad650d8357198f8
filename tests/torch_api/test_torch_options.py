"""Bounds, frozen weights and an lr for each weight in torch: bits, groups, edits, copies and checkpoints."""

import copy
import io
import math
import pickle
import warnings

import numpy as np
import pytest
from backends import INSTRUCTION_SET_VARIABLE, INSTRUCTION_SETS
from bits import LAYOUTS, bits, same
from oracle import Oracle
from special_values import assert_same_bits, gradients

torch = pytest.importorskip("torch")

import rprop_kernels.torch as rt  # noqa: E402

CLASSES = {cls._variant.name: cls for cls in (rt.RpropMinus, rt.RpropPlus, rt.IRpropMinus, rt.IRpropPlus)}
BACKENDS = [("numba", None), ("torch", None), *(("cython", level) for level in INSTRUCTION_SETS)]
DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16]


@pytest.fixture(params=BACKENDS, ids=lambda way: "-".join(filter(None, way)))
def backend(request, monkeypatch):
    name, level = request.param
    if level:
        monkeypatch.setenv(INSTRUCTION_SET_VARIABLE, level)
    return name


@pytest.fixture(params=["cython", "torch"])
def either(request):
    """One backend that steps natively and one that does not."""
    if request.param == "cython" and INSTRUCTION_SETS[0] == "any":
        pytest.skip("the extension is missing")
    return request.param


def parameter(*values, dtype=torch.float32):
    return torch.nn.Parameter(torch.tensor(values, dtype=dtype))


def shown(t):
    """As NumPy; half precision as float32 of the same value."""
    t = t.detach()
    return (t.float() if t.element_size() == 2 else t).numpy().copy()


def no_fallback(optimizer):
    """Make a step fail that is not native."""

    def fail(outcome):
        raise AssertionError("the step was not native")

    optimizer._fallback_step = fail


def step(optimizer, *grads, loss=None):
    for p, g in zip((p for group in optimizer.param_groups for p in group["params"]), grads, strict=True):
        p.grad = torch.full_like(p, g) if isinstance(g, float) else g
    optimizer.step(loss=loss if loss is not None or not isinstance(optimizer, rt.IRpropPlus) else 1.0)


KINDS = ("numbers", "one side", "arrays", "frozen", "all")


def options_of(rng, kind, w):
    """Options for weights w, as tensors or numbers, and as the oracle takes them."""
    n, dtype = len(w), w.dtype
    noise = torch.from_numpy(rng.random((3, n)))
    inside = w.double().nan_to_num(0.0)
    low, high = (inside - noise[0]).to(dtype), (inside + noise[1]).to(dtype)
    mask = torch.from_numpy(rng.random(n) < 0.3)
    return {
        "numbers": {"bounds": (-1.0625, 1.03125)},
        "one side": {"bounds": (None, high)},
        "arrays": {"bounds": (low, high)},
        "frozen": {"frozen": mask},
        "all": {"bounds": (low, 1.03125), "frozen": mask, "lr": (0.01 + noise[2]).to(dtype)},
    }[kind]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("rule", CLASSES)
def test_against_the_oracle(backend, rule, dtype, kind):
    name = str(dtype).removeprefix("torch.")
    made = "float32" if name == "bfloat16" else name
    rng = np.random.default_rng(3)
    n, hyper = 77, {"step_sizes": (1e-3, 2.0), "maximize": kind == "arrays"}
    start = torch.from_numpy(rng.uniform(-1, 1, n)).to(dtype)
    start[:2] = 0.0
    given = options_of(rng, kind, start)
    hyper["lr"] = given.pop("lr", 0.3)
    p = torch.nn.Parameter(start.clone())
    optimizer = CLASSES[rule]([p], **hyper, **given, backend=backend)
    lower, upper = given.get("bounds", (None, None))
    oracle = Oracle(
        rule,
        shown(start),
        name,
        **{**hyper, "lr": shown(hyper["lr"]) if isinstance(hyper["lr"], torch.Tensor) else hyper["lr"]},
        **{
            key: shown(x) if isinstance(x, torch.Tensor) else x
            for key, x in (("lower", lower), ("upper", upper), ("frozen", given.get("frozen", False)))
        },
    )
    if backend == "cython":
        no_fallback(optimizer)
    met = 0
    for i, g in enumerate(gradients(rng, (n,), made, 40)):
        loss = float(rng.choice([1.0, 2.0, 3.0] * 6 + [math.nan, math.inf])) if i else 2.0
        p.grad = torch.from_numpy(g).to(dtype)
        optimizer.step(loss=loss)
        oracle.step(list(shown(p.grad)), loss)
        q, size = optimizer.signs_and_steps(p)
        assert_same_bits(shown(p), np.array([x.w for x in oracle.weights], shown(p).dtype), f"w, step {i}")
        assert_same_bits(size.numpy(), np.array([x.D for x in oracle.weights], size.numpy().dtype), f"D, step {i}")
        assert q.tolist() == [x.q for x in oracle.weights], i
        met += sum(x.w in oracle.limits(x) for x in oracle.weights)
    assert (met > 50) == (kind != "frozen")
    fixed = given.get("frozen")
    assert fixed is None or torch.equal(bits(p[fixed]), bits(start[fixed]))


@pytest.mark.parametrize("rule", CLASSES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_and_rows_of_losses_have_the_bits_of_torch_operations(layout, rule, either):
    generator = torch.Generator().manual_seed(1)
    start = torch.rand(6, 7, generator=generator) - 0.5
    low, mask = start - torch.rand(6, 7, generator=generator), torch.rand(6, 7, generator=generator) < 0.3
    sides = []
    for make, backend in ((LAYOUTS[layout], either), (torch.clone, "torch")):
        p = make(start).detach().requires_grad_()
        options = {"bounds": (make(low), 0.75), "frozen": make(mask.float()) > 0, "lr": make(start.abs() + 0.01)}
        sides.append((p, CLASSES[rule]([p], **options, batched=True, backend=backend)))
    for _ in range(12):
        g = torch.randn(6, 7, generator=generator)
        loss = torch.rand(6, generator=generator)
        loss[torch.rand(6, generator=generator) < 0.1] = torch.nan
        for p, optimizer in sides:
            p.grad = g.clone()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                optimizer.step(loss=loss)
        (p, optimizer), (q, other) = sides
        assert torch.equal(bits(p), bits(q))
        assert torch.equal(bits(optimizer.state[p]["move"]), bits(other.state[q]["move"]))
    assert optimizer.state[p]["move"].stride() == torch.empty_like(p).stride()


# ----------------------------------------------------------------------------------------- the group's values


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_group_holds_floats_and_detached_tensors_like_the_parameter(dtype):
    p = parameter([0.0, 1.0], [2.0, 3.0], dtype=dtype)
    low = torch.full((2,), -1.0, dtype=torch.float64, requires_grad=True)
    optimizer = rt.RpropMinus(
        [p], bounds=(low, np.float32(4)), frozen=np.array([True, False]), lr=np.array([[0.5], [0.25]])
    )
    group = optimizer.param_groups[0]
    lower, upper = group["bounds"]
    assert type(group["bounds"]) is tuple and type(upper) is float and upper == 4.0
    for t, expected in ((lower, dtype), (group["frozen"], torch.bool), (group["lr"], dtype)):
        assert type(t) is torch.Tensor and (t.dtype, t.shape, t.requires_grad) == (expected, p.shape, False)
    assert group["frozen"].tolist() == [[True, False]] * 2 and group["lr"].tolist() == [[0.5] * 2, [0.25] * 2]


def test_several_groups(either):
    a, b, c = parameter(0.0, 0.0), parameter(0.0), parameter(0.0)
    optimizer = rt.RpropMinus(
        [
            {"params": [a, b], "bounds": ([torch.tensor([-0.5, -1.0]), None], [None, 0.25]), "frozen": [None, False]},
            {"params": [c], "lr": [np.array([0.5])]},
        ],
        lr=1.0,
        bounds=(-0.75, None),
        backend=either,
    )
    step(optimizer, 1.0, -1.0, 1.0)
    step(optimizer, 1.0, -1.0, 1.0)
    assert [x.tolist() for x in (a, b, c)] == [[-0.5, -1.0], [0.25], [-0.75]]
    assert optimizer.param_groups[1]["bounds"] == (-0.75, None)
    for name, value in (("bounds", ([0.0], None)), ("frozen", [None]), ("lr", torch.ones(2)), ("lr", [1.0, 1.0])):
        with pytest.raises(TypeError, match=f"{name} is .* for 2 groups: pass one number"):
            rt.RpropMinus([{"params": [a, b]}, {"params": [c]}], **{name: value})


def test_lists_of_the_constructor_belong_to_its_own_parameters():
    a, b = parameter(0.0), parameter(0.0)
    optimizer = rt.RpropMinus([a], bounds=([-1.0], None), lr=[0.5])
    for given, name in (({}, "bounds"), ({"bounds": None}, "lr")):
        with pytest.raises(ValueError, match=f"^{name} of the constructor belongs to its own parameters"):
            optimizer.add_param_group({"params": [b], **given})
        assert len(optimizer.param_groups) == 1
    optimizer.add_param_group({"params": [b], "bounds": None, "lr": 0.25})
    step(optimizer, 1.0, 1.0)
    assert (a.item(), b.item()) == (-0.5, -0.25)


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"bounds": (0.5, None)}, ValueError, "parameter 0 of group 1 starts outside"),
        ({"bounds": ([0.0, 0.0], None)}, ValueError, "lower bound of group 1 has 2 items for 1 parameters"),
        ({"bounds": (None, torch.zeros(3))}, ValueError, "upper bound of parameter 0 of group 1 has shape"),
        ({"frozen": torch.ones(1)}, TypeError, "frozen of parameter 0 of group 1 is float32: pass booleans"),
        ({"frozen": 1.0}, TypeError, r"frozen of parameter 0 of group 1 is 1\.0 \(float64\): pass booleans"),
        ({"frozen": [0.0]}, TypeError, r"frozen of parameter 0 of group 1 is 0\.0 \(float64\): pass booleans"),
        ({"lr": torch.tensor([100.0, 1.0])}, ValueError, "lr of parameter 0 of group 1 is 100.0 at index"),
    ],
    ids=str,
)
def test_a_refused_group_is_not_added(options, error, text):
    optimizer = rt.RpropMinus([parameter(0.0)])
    with pytest.raises(error, match=text):
        optimizer.add_param_group({"params": [parameter(0.0, 0.0)], **options})
    assert len(optimizer.param_groups) == len(optimizer._options) == 1


@pytest.mark.parametrize(
    "options", [{"bounds": (-1.0, None)}, {"frozen": True}, {"lr": torch.tensor([0.1, 0.2])}], ids=str
)
def test_complex_parameters_are_refused(options):
    p = torch.nn.Parameter(torch.zeros(2, dtype=torch.complex64))
    with pytest.raises(
        TypeError, match=r"of parameter 0 of group 0 needs a real parameter, this one is torch\.complex64"
    ):
        rt.RpropMinus([p], **options)
    q = parameter(0.0)
    rt.RpropMinus([p, q], bounds=([None, -1.0], None), lr=[0.5, 0.25])


def test_the_drop_in_has_no_such_options():
    for name in ("bounds", "frozen"):
        with pytest.raises(TypeError, match="unexpected keyword argument"):
            rt.Rprop([parameter(0.0)], **{name: None})
    for options in ({"bounds": (-1.0, None)}, {"frozen": True}, {"lr": torch.tensor([0.1, 0.2])}):
        p, q = parameter(0.0, 0.0), parameter(0.0, 0.0)
        optimizer, other = rt.IRpropMinus([p], **options), rt.Rprop([q])
        step(optimizer, 1.0)
        with pytest.raises(ValueError, match="bounds, frozen weights or an lr for each weight, which Rprop lacks"):
            other.load_state_dict(optimizer.state_dict())
        assert not other.state
    plain = rt.IRpropMinus([p])
    step(plain, 1.0)
    other.load_state_dict(plain.state_dict())
    assert not {"bounds", "frozen", "prev_loss"} & other.param_groups[0].keys()


def test_lazy_and_integer_parameters(either):
    lazy = torch.nn.LazyLinear(2)
    whole = torch.nn.Parameter(torch.tensor([1, 2]), requires_grad=False)
    mask = torch.tensor([True, False])
    optimizer = rt.RpropMinus(
        [*lazy.parameters(), whole],
        lr=1.0,
        bounds=([-0.5, None, None], None),
        frozen=[None, mask, None],
        backend=either,
    )
    optimizer.step()
    lazy(torch.ones(3, 4)).sum().backward()
    with torch.no_grad():
        lazy.weight.fill_(0.0)
        lazy.bias.fill_(0.0)
    optimizer.step()
    assert (lazy.weight == -0.5).all() and lazy.bias.tolist() == [0.0, -1.0]
    assert optimizer.param_groups[0]["frozen"][1].dtype == torch.bool


# ------------------------------------------------------------------------------------------ between two steps


def test_options_edited_between_two_steps(either):
    p, q = parameter(0.0, 0.0), parameter(0.0, 0.0)
    optimizer = rt.RpropMinus([p, q], lr=1.0, etas=(0.5, 1.0 + 1e-9), backend=either)
    group = optimizer.param_groups[0]
    seen = []
    for edit in (
        lambda: None,
        lambda: group.update(bounds=(-1.5, None)),
        lambda: group.update(bounds=([None, -4.0], None)),
        lambda: group["bounds"][0].__setitem__(0, np.array([-1.75, -9.0])),
        lambda: group.update(frozen=[None, torch.tensor([True, False])]),
        lambda: group["frozen"].__setitem__(1, None),
        lambda: group.update(bounds=None, frozen=None),
        lambda: group.pop("bounds"),
    ):
        edit()
        step(optimizer, 1.0, 1.0)
        seen.append([*p.tolist(), *q.tolist()])
    assert [[round(x, 4) for x in row] for row in seen] == [
        [-1, -1, -1, -1],
        [-1.5, -1.5, -1.5, -1.5],
        [-2.5, -2.5, -2.5, -2.5],
        [-1.75, -3.5, -3.5, -3.5],
        [-1.75, -4.5, -3.5, -4],
        [-1.75, -5.5, -4, -4],
        [-2.75, -6.5, -5, -5],
        [-3.75, -7.5, -6, -6],
    ]
    assert group.get("bounds") is None


@pytest.mark.parametrize(
    ("edit", "error", "text"),
    [
        ({"bounds": (1.0, -1.0)}, ValueError, "bounds of parameter 0 of group 0 cross"),
        ({"bounds": [(0.0, 1.0)]}, TypeError, r"np.transpose\(pairs\)"),
        ({"bounds": (torch.zeros(5), None)}, ValueError, "lower bound of parameter 0 of group 0 has shape"),
        ({"frozen": "none"}, TypeError, "pass booleans"),
        ({"frozen": 0.0}, TypeError, "pass booleans"),
        ({"maximize": "no"}, TypeError, "maximize is 'no'"),
        ({"lr": [0.1, 0.2]}, ValueError, "lr of group 0 has 2 items for 1 parameters"),
    ],
    ids=str,
)
def test_an_invalid_edit_is_refused_before_anything_changes(edit, error, text, either):
    p = parameter(0.0, 0.0)
    optimizer = rt.IRpropPlus([p], bounds=(-1.0, None), backend=either)
    step(optimizer, 1.0)
    optimizer.param_groups[0].update(edit)
    before = p.tolist(), optimizer.state[p]["move"].tolist(), dict(optimizer.param_groups[0])
    with pytest.raises(error, match=text):
        step(optimizer, 1.0)
    assert before[:2] == (p.tolist(), optimizer.state[p]["move"].tolist())
    assert all(optimizer.param_groups[0][k] is v for k, v in before[2].items())


def test_a_start_outside_is_found_when_state_is_made_and_later_stopped(either):
    p, q = parameter(0.0, 0.0), parameter(0.0)
    optimizer = rt.RpropMinus([q, p], bounds=([None, -1.0], [None, torch.tensor([1.0, 2.0])]), lr=0.25, backend=either)
    p.data[1] = 3.0
    with pytest.raises(
        ValueError, match=r"parameter 1 of group 0 starts outside.*: 3.0 at index \(1,\).*\[-1.0, 2.0\]"
    ):
        step(optimizer, 1.0, 1.0)
    assert not optimizer.state and q.item() == 0.0
    p.data[1] = 2.0
    step(optimizer, 1.0, 1.0)
    p.data[:] = torch.tensor([-7.0, 9.0])
    step(optimizer, 1.0, 1.0)
    assert p.tolist() == [-1.0, 2.0]
    optimizer.param_groups[0]["frozen"] = [None, True]
    p.data[:] = torch.tensor([-7.0, 9.0])  # a frozen weight is not clamped
    step(optimizer, 1.0, 1.0)
    assert p.tolist() == [-7.0, 9.0]


def test_gradients_of_frozen_weights_may_be_anything(either):
    p = parameter(1.0, 2.0, 3.0)
    optimizer = rt.IRpropPlus([p], frozen=torch.tensor([True, True, False]), lr=0.5, backend=either)
    for g, loss in (((math.nan, math.inf, 1.0), 1.0), ((1.0, -math.inf, 1.0), math.nan), ((-1.0, 5.0, 0.0), 0.5)):
        step(optimizer, torch.tensor(g), loss=loss)
    assert p.tolist() == [1.0, 2.0, 3.0]
    q, size = optimizer.signs_and_steps(p)
    assert (q.tolist(), size.tolist()) == ([0.0, 0.0, 0.0], [0.5, 0.5, 0.25])


# -------------------------------------------------------------------------------------- copies and checkpoints


def example(cls=rt.IRpropPlus, backend="cython", dtype=torch.float32, seed=0):
    """Two groups with every kind of option."""
    generator = torch.Generator().manual_seed(seed)
    params = [torch.nn.Parameter((torch.rand(n, generator=generator) - 0.5).to(dtype)) for n in (5, 3, 4)]
    groups = [
        {"params": params[:2], "bounds": ([-0.75, None], [np.full(5, 0.8), 0.6]), "frozen": [None, np.eye(3)[0] > 0]},
        {"params": params[2:], "lr": torch.tensor([0.1, 0.2, 0.3, 0.4]), "bounds": (None, torch.full((4,), 0.75))},
    ]
    return params, cls(groups, bounds=(-0.875, None), lr=0.125, backend=backend)


def train(optimizer, seed, steps=10):
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        for group in optimizer.param_groups:
            for p in group["params"]:
                p.grad = torch.randn(p.shape, generator=generator).to(p.dtype)
        optimizer.step(loss=torch.rand((), generator=generator).item())


def contents(optimizer):
    saved = optimizer.state_dict()
    weights = [p.detach().clone() for group in optimizer.param_groups for p in group["params"]]
    return {"state": saved["state"], "groups": [{**g} for g in saved["param_groups"]], "weights": weights}


def through_file(value):
    file = io.BytesIO()
    torch.save(value, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


@pytest.mark.parametrize("by", ["deepcopy", "pickle"])
@pytest.mark.parametrize("steps", [0, 6])
def test_options_travel_with_copies(by, steps, either):
    _, optimizer = example(backend=either)
    train(optimizer, 1, steps)
    copied = copy.deepcopy(optimizer) if by == "deepcopy" else pickle.loads(pickle.dumps(optimizer))
    assert same(contents(copied), contents(optimizer))
    for o in (optimizer, copied):
        train(o, 2)
    assert same(contents(copied), contents(optimizer))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("rule", CLASSES)
def test_options_travel_with_checkpoints(rule, dtype, either):
    params, optimizer = example(CLASSES[rule], either, dtype)
    train(optimizer, 1, 6)
    saved = through_file(optimizer.state_dict())
    others = [torch.nn.Parameter(p.detach().clone()) for p in params]
    other = CLASSES[rule]([{"params": others[:2]}, {"params": others[2:]}], backend=either)
    other.load_state_dict(saved)
    assert same(contents(other), contents(optimizer))
    for o in (optimizer, other):
        train(o, 2)
    assert same(contents(other), contents(optimizer))


def test_an_option_that_a_checkpoint_lacks_keeps_the_optimizers_own():
    p, q = parameter(0.0, 0.0), parameter(0.0, 0.0)
    source = rt.RpropMinus([p], bounds=(None, 5.0), lr=0.5)
    step(source, 1.0)
    for lacking in (("bounds",), ("frozen",), ("bounds", "frozen"), ()):
        optimizer = rt.RpropMinus([q], bounds=([torch.full((2,), -1.0)], None), frozen=np.array([True, False]))
        saved = copy.deepcopy(source.state_dict())
        for name in lacking:
            del saved["param_groups"][0][name]
        optimizer.load_state_dict(saved)
        (group,) = optimizer.param_groups
        assert group["lr"] == 0.5
        assert same(group["bounds"], ([torch.full((2,), -1.0)], None) if "bounds" in lacking else (None, 5.0))
        assert same(group["frozen"], torch.tensor([True, False]) if "frozen" in lacking else None)
    torchs = torch.optim.Rprop([p], lr=0.25)
    torchs.step()
    optimizer.param_groups[0].update(bounds=(-1.0, 1.0), frozen=torch.tensor([False, True]))
    optimizer.load_state_dict(torchs.state_dict())
    assert optimizer.param_groups[0]["bounds"] == (-1.0, 1.0) and optimizer.param_groups[0]["frozen"].tolist() == [0, 1]


@pytest.mark.parametrize(
    ("damage", "text"),
    [
        ({"bounds": (1.0, 0.0)}, "bounds of parameter 0 of group 0 cross"),
        ({"bounds": 3}, r"bounds of group 0 must be a tuple \(lower, upper\), got 3"),
        ({"bounds": (torch.zeros(3), None)}, "lower bound of parameter 0 of group 0 has shape"),
        ({"frozen": torch.zeros(2)}, "frozen of parameter 0 of group 0 is float32: pass booleans"),
        ({"lr": torch.zeros(3)}, "lr of parameter 0 of group 0 has shape"),
        ({"lr": ["a"]}, "lr of parameter 0 of group 0 is 'a'"),
    ],
    ids=str,
)
def test_a_damaged_checkpoint_changes_nothing(damage, text):
    p = parameter(0.0, 0.0)
    optimizer = rt.RpropMinus([p], bounds=(-1.0, None))
    step(optimizer, 1.0)
    saved = copy.deepcopy(optimizer.state_dict())
    step(optimizer, 1.0)
    before = copy.deepcopy(contents(optimizer))
    saved["param_groups"][0].update(damage)
    with pytest.raises((TypeError, ValueError), match=text):
        optimizer.load_state_dict(saved)
    assert same(contents(optimizer), before)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("how", ["to", "data", "module"])
def test_options_follow_the_dtype_of_the_parameter(dtype, how, either):
    module = torch.nn.Linear(3, 2)
    torch.nn.init.zeros_(module.weight)
    low = torch.tensor([[-0.1], [-0.3]])
    optimizer = rt.RpropMinus(
        [module.weight], bounds=(low, 0.7), frozen=torch.tensor([True, False, False]), lr=low.abs(), backend=either
    )
    step(optimizer, 1.0)
    if how == "data":
        module.weight.data = module.weight.data.to(dtype)
    else:
        module.to(dtype) if how == "to" else {torch.float64: module.double, torch.float16: module.half}.get(
            dtype, module.bfloat16
        )()
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # lr is the same, in another dtype
        for _ in range(30):
            step(optimizer, torch.ones(2, 3, dtype=dtype))
    group = optimizer.param_groups[0]
    assert {t.dtype for t in (group["bounds"][0], group["lr"])} == {dtype} and group["bounds"][1] == 0.7
    assert module.weight[:, 0].tolist() == [0.0, 0.0]
    assert torch.equal(module.weight[:, 1:], low.to(dtype).expand(2, 2))
    for _ in range(40):
        step(optimizer, torch.full((2, 3), -1.0, dtype=dtype))
    assert (module.weight[:, 1:] == torch.tensor(0.7, dtype=dtype)).all()


def test_options_follow_the_device_of_the_parameter():
    p = parameter(0.0, 0.0)
    optimizer = rt.RpropMinus([p], bounds=([torch.full((2,), -1.0)], None), frozen=torch.tensor([True, False]))
    step(optimizer, 1.0)
    group = optimizer.param_groups[0]
    group["params"][0] = torch.nn.Parameter(torch.empty(2, device="meta"))
    group["params"][0].grad = torch.empty(2, device="meta")
    optimizer.step()
    assert group["bounds"][0][0].is_meta and group["frozen"].is_meta


def test_a_start_outside_in_a_checkpoint_is_stopped_on_the_bound():
    p = parameter(0.0)
    optimizer = rt.RpropMinus([p], lr=0.5)
    step(optimizer, 1.0)
    saved = copy.deepcopy(optimizer.state_dict())
    saved["param_groups"][0]["bounds"] = (2.0, None)
    optimizer.load_state_dict(saved)
    step(optimizer, 1.0)
    assert p.item() == 2.0


# --------------------------------------------------------------------------------------- lr for each weight


def test_lr_is_the_first_step_of_each_weight(either):
    p, q = parameter(0.0, 0.0), parameter(0.0, 0.0)
    optimizer = rt.RpropMinus([p, q], lr=[torch.tensor([0.5, 0.25]), 1], backend=either)
    step(optimizer, 1.0, 1.0)
    assert (p.tolist(), q.tolist()) == ([-0.5, -0.25], [-1.0, -1.0])
    assert type(optimizer.param_groups[0]["lr"][1]) is float
    lr = torch.tensor([0.5])  # one element is one number, as in torch
    assert type(rt.RpropMinus([p], lr=lr).param_groups[0]["lr"]) is float


EDITS = {
    "another": lambda group: group.update(lr=torch.tensor([0.25, 0.25])),
    "a number": lambda group: group.update(lr=0.5),
    "in place": lambda group: group["lr"].mul_(0.5),
}


@pytest.mark.parametrize("edit", EDITS)
def test_a_changed_lr_warns_once(edit, either):
    p = parameter(0.0, 0.0)
    optimizer = rt.RpropMinus([p], lr=torch.tensor([0.5, 0.25]), backend=either)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        step(optimizer, 1.0)
        optimizer.param_groups[0]["lr"] = torch.tensor([0.5, 0.25])  # the same values
        step(optimizer, 1.0)
        step(optimizer, 1.0)
    EDITS[edit](optimizer.param_groups[0])
    with pytest.warns(UserWarning, match="lr was changed from .*0.25.* to "):
        step(optimizer, 1.0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        EDITS[edit](optimizer.param_groups[0])
        step(optimizer, 1.0)


def test_schedulers_of_torch_refuse_an_lr_for_each_weight():
    optimizer = rt.RpropMinus([parameter(0.0, 0.0)], lr=torch.tensor([0.5, 0.25]))
    with pytest.raises((RuntimeError, ValueError, TypeError)):
        torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)


@pytest.mark.parametrize("zero", [0.0, torch.tensor(0.0)], ids=str)
def test_lr_0_makes_state_with_the_first_steps_of_the_constructor(zero, either):
    p, q = parameter(0.0, 0.0), parameter(0.0)
    optimizer = rt.RpropMinus([p, q], lr=[torch.tensor([0.5, 0.25]), 0.125], backend=either)
    kept = optimizer.param_groups[0]["lr"]
    optimizer.param_groups[0]["lr"] = zero  # as torch.distributed.checkpoint does
    step(optimizer, 0.0, 0.0)
    optimizer.param_groups[0]["lr"] = kept
    assert [optimizer.signs_and_steps(x)[1].tolist() for x in (p, q)] == [[0.5, 0.25], [0.125]]
    with pytest.raises(ValueError, match=r"lr of parameter 0 of group 0 is 0\.0"):  # a number alone may be 0
        rt.RpropMinus([p], lr=torch.tensor([0.0, 0.25]))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_tiny_lr_is_not_rounded_to_0(dtype, either):
    """As a number is not: the smallest step size that there is takes its place."""
    p = parameter(0.0, 0.0, dtype=dtype)
    lr = torch.tensor([1e-300, 0.25], dtype=torch.float64)
    optimizer = rt.RpropMinus([p], lr=lr, step_sizes=(0.0, 1.0), backend=either)
    assert (optimizer.param_groups[0]["lr"] > 0).all()
    step(optimizer, 0.0)
    least = {torch.float64: 2.0**-255, torch.float16: 2.0**-24}.get(dtype, 2.0**-63)
    assert optimizer.signs_and_steps(p)[1].tolist() == [least, 0.25]
    with pytest.raises(ValueError, match="Invalid learning rate"):
        rt.RpropMinus([p], lr=torch.tensor([0.0, 0.25]), step_sizes=(0.0, 1.0))


def test_options_edited_before_a_checkpoint_are_saved_as_tensors_and_floats():
    optimize = pytest.importorskip("scipy.optimize")
    optimizer = rt.IRpropPlus([parameter(0.0, 0.0)])
    optimizer.param_groups[0].update(
        bounds=optimize.Bounds([-1, -2], 3),
        frozen=np.array([True, False]),
        step_sizes=(np.float64(1e-6), 5),
        lr=np.ones(2),
    )
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    (group,) = torch.load(file, weights_only=True)["param_groups"]
    assert same(group["bounds"], (torch.tensor([-1.0, -2.0]), torch.tensor([3.0, 3.0])))
    assert same(group["frozen"], torch.tensor([True, False])) and same(group["lr"], torch.ones(2))
    assert group["step_sizes"] == (1e-6, 5.0)
    optimizer.param_groups[0]["bounds"] = [(0, 1)]
    assert optimizer.state_dict()["param_groups"][0]["bounds"] == [(0, 1)]
    with pytest.raises(TypeError, match=r"np\.transpose"):
        step(optimizer, 1.0)


@pytest.mark.parametrize("bounds", [(0.25, None), (None, -0.25), (0.25, 8.0)], ids=str)
def test_a_weight_that_lands_exactly_on_its_bound_forgets_its_sign(backend, bounds):
    start = 0.5 if bounds[0] else -0.5
    p = torch.nn.Parameter(torch.full((3,), start))
    optimizer = rt.RpropMinus([p], bounds=bounds, lr=0.25, backend=backend)
    p.grad = torch.full((3,), start)
    optimizer.step()
    assert p.tolist() == [start / 2] * 3
    assert optimizer.signs_and_steps(p)[0].tolist() == [0.0] * 3
