"""Hyper-parameters that are not Python floats: NumPy scalars, 0-d arrays and tensors, text, truth values."""

import io
import itertools
import pickle
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from backends import compiled

torch = pytest.importorskip("torch")

import rprop_kernels.numpy as rn  # noqa: E402
import rprop_kernels.torch as rt  # noqa: E402
from rprop_kernels.torch import dispatch  # noqa: E402

CLASSES = [rt.RpropMinus, rt.RpropPlus, rt.IRpropMinus, rt.IRpropPlus]
DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16]
NUMBERS: dict[str, Any] = {
    "int": int,
    "np.float64": np.float64,
    "np.float32": np.float32,
    "np.int64": np.int64,
    "array": np.array,
    "tensor": torch.tensor,
    "Fraction": Fraction,
}
TEXT = r"must be (one number|two numbers), got .*: pass a"


def parameter(dtype: Any = torch.float32) -> Any:
    return torch.nn.Parameter(torch.tensor([1.0, -2.0, 0.5], dtype=dtype))


def step(optimizer: Any, p: Any, *grad: float) -> None:
    p.grad = torch.tensor(grad or (1.0, -1.0, 0.25), dtype=p.dtype)
    optimizer.step(**({"loss": 1.0} if isinstance(optimizer, rt.IRpropPlus) else {}))


def options_are_floats(group: dict[str, Any]) -> bool:
    values = (group["lr"], *group["etas"], *group["step_sizes"])
    return all(type(x) is float for x in values)


@pytest.mark.parametrize("cls", CLASSES)
@pytest.mark.parametrize("kind", NUMBERS)
def test_the_four_classes_store_python_floats(cls: Any, kind: str) -> None:
    number = NUMBERS[kind]
    p, q, r = (parameter() for _ in range(3))
    options: dict[str, Any] = {"lr": number(1), "step_sizes": (number(0), number(50))}
    if kind not in ("int", "np.int64"):
        options["etas"] = (number(0.5), number(1.25))
    optimizer = cls([{"params": [p], **options}], **options)
    optimizer.add_param_group({"params": [q], **options})
    optimizer.add_param_group({"params": [r]})
    assert all(options_are_floats(group) for group in (optimizer.defaults, *optimizer.param_groups))
    optimizer.param_groups[0].update(options)
    for x in (p, q, r):
        x.grad = torch.tensor([1.0, -1.0, 1.0])
    optimizer.step(**({"loss": 1.0} if cls is rt.IRpropPlus else {}))
    assert all(options_are_floats(group) for group in optimizer.param_groups)
    assert p.tolist() == q.tolist() == r.tolist() == [0.0, -1.0, -0.5]


@pytest.mark.parametrize("cls", CLASSES)
def test_arrays_and_tensors_as_pairs(cls: Any) -> None:
    optimizer = cls([parameter()], etas=np.array([0.5, 1.2]), step_sizes=torch.tensor([1e-6, 50.0]))
    assert options_are_floats(optimizer.param_groups[0]) and optimizer.param_groups[0]["etas"] == (0.5, 1.2)
    listed = cls([parameter()], etas=[np.float64(0.5), 1.2])
    listed.param_groups[0]["etas"][0] = 0.4
    assert listed.param_groups[0]["etas"] == [0.4, 1.2]


@pytest.mark.parametrize("cls", CLASSES)
def test_a_checkpoint_loads_with_weights_only(cls: Any) -> None:
    p = parameter()
    optimizer = cls([p], lr=np.float64(0.01), etas=tuple(np.array([0.5, 1.2])), step_sizes=(np.float64(1e-6), 50))
    step(optimizer, p)
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    saved = torch.load(io.BytesIO(file.getvalue()), weights_only=True)
    cls([parameter()]).load_state_dict(saved)

    saved["param_groups"][0].update(lr=np.float64(0.01), etas=(np.float64(0.5), 1.2))
    other = cls([parameter()])
    other.load_state_dict(saved)
    assert options_are_floats(other.param_groups[0])
    optimizer.param_groups[0]["lr"] = np.float64(0.01)
    assert options_are_floats(pickle.loads(pickle.dumps(optimizer)).param_groups[0])


NO_NUMBERS = [
    {"lr": "0.01"},
    {"lr": b"1"},
    {"lr": True},
    {"lr": np.True_},
    {"lr": torch.tensor(True)},
    {"lr": np.array("0.01")},
    {"etas": True},
    {"etas": ("0.5", 1.2)},
    {"etas": [np.str_("0.5"), np.str_("1.2")]},
    {"etas": np.array(["0.5", "1.2"])},
    {"step_sizes": ["1e-6", 50]},
    {"step_sizes": (False, 50)},
    {"step_sizes": (0, True)},
    {"step_sizes": torch.tensor([False, True])},
    {"step_sizes": bytearray(b"\x00\x01")},
]


@pytest.mark.parametrize("options", NO_NUMBERS, ids=str)
def test_text_and_truth_values_are_refused_by_name(options: dict[str, Any]) -> None:
    match = rf"^{next(iter(options))} {TEXT}"
    for cls in CLASSES:
        with pytest.raises(ValueError, match=match):
            cls([parameter()], **options)
        with pytest.raises(ValueError, match=match):
            getattr(rn, cls.__name__)(np.ones(2), **options)
        p = parameter()
        optimizer = cls([p])
        with pytest.raises(ValueError, match=match):
            optimizer.add_param_group({"params": [parameter()], **options})
        assert len(optimizer.param_groups) == 1
        saved = optimizer.state_dict()
        saved["param_groups"][0].update(options)
        with pytest.raises(ValueError, match=match):
            cls([parameter()]).load_state_dict(saved)
        optimizer.param_groups[0].update(options)
        with pytest.raises(ValueError, match=match):
            step(optimizer, p)
        assert p.tolist() == [1.0, -2.0, 0.5] and not optimizer.state


# ----------------------------------------------------------------------------------------- the drop-in

GRADS = [(1.0, -1.0, 0.25), (1.0, 1.0, 0.25), (-1.0, 1.0, 0.5), (1.0, 1.0, 0.5), (1.0, -1.0, 1.0)]
VALUES = (0.3141, 1.2718, 1.37e-3, 0.02113)


def cast(kind: str, value: float) -> Any:
    if kind.startswith("np."):
        return getattr(np, kind[3:])(value)
    if kind == "array":
        return np.array(value)
    return torch.tensor(value, dtype=getattr(torch, kind)) if kind != "float" else value


def run(optimizer: Any, p: Any) -> Any:
    """The final weights and step sizes, or the type and the beginning of the error."""
    try:
        for grad in GRADS:
            step(optimizer, p, *grad)
    except Exception as error:
        return type(error), str(error)[:40]
    return p.tolist(), optimizer.state[p]["step_size"].tolist(), optimizer.state[p]["prev"].tolist()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    "kind",
    ["np.float64", "np.float32", "np.float16", "np.longdouble", "array", "float32", "float64", "float16", "bfloat16"],
)
def test_the_drop_in_equals_torch(kind: str, dtype: Any) -> None:
    for which in itertools.product((False, True), repeat=4):
        values = [cast(kind if there else "float", value) for there, value in zip(which, VALUES, strict=True)]
        options = {"etas": tuple(values[:2]), "step_sizes": tuple(values[2:])}
        for foreach in (False, True):
            results = []
            for cls in (torch.optim.Rprop, rt.Rprop):
                p = parameter(dtype)
                results.append(run(cls([p], **options, foreach=foreach), p))
            assert results[0] == results[1], (which, foreach)


@compiled
@pytest.mark.parametrize("kind", ["np.float64", "float32", "float64"])
def test_the_drop_in_reads_them_natively(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise AssertionError("this step was not native")

    monkeypatch.setattr(dispatch.StepMixin, "_fallback_step", fail)
    values = [cast(kind, value) for value in VALUES]
    for etas in (tuple(values[:2]), list(values[:2]), np.array(VALUES[:2]).tolist()):
        p = parameter()
        assert isinstance(run(rt.Rprop([p], etas=etas, step_sizes=tuple(values[2:]), backend="cython"), p)[0], list)


def test_tensors_that_change_in_place_are_read_again() -> None:
    results = []
    for cls in (torch.optim.Rprop, rt.Rprop):
        p, eta, limit = parameter(), torch.tensor(1.25), torch.tensor(0.5)
        optimizer = cls([p], etas=(0.5, eta), step_sizes=(1e-6, limit))
        for t, grad in enumerate(GRADS * 3):
            step(optimizer, p, *grad)
            if t == 4:
                eta.fill_(2.0)
            elif t == 9:
                limit.fill_(0.001)
        results.append(p.tolist())
    assert results[0] == results[1]


@pytest.mark.parametrize("name", ["etas", "step_sizes"])
def test_the_drop_in_refuses_numbers_that_are_no_floats_as_torch_does(name: str) -> None:
    errors = []
    for make in (torch.optim.Rprop, rt.Rprop):
        p = torch.nn.Parameter(torch.ones(3))
        optimizer = make([p])
        optimizer.param_groups[0][name] = (10**400, 10**401)
        p.grad = torch.ones(3)
        with pytest.raises(Exception) as caught:  # whatever torch raises
            optimizer.step()
        errors.append((type(caught.value), str(caught.value)))
    assert errors[0] == errors[1]


@pytest.mark.parametrize("value", ["abc", {}, (), (0.5,), {"a": 1.0, "b": 2.0}, None, 3], ids=repr)
@pytest.mark.parametrize("name", ["etas", "step_sizes"])
def test_what_is_no_pair_in_a_checkpoint_of_the_dropin_fails_as_in_torch(name: str, value: Any) -> None:
    def error(cls: Any) -> tuple[type, str]:
        p = torch.nn.Parameter(torch.ones(2))
        p.grad = torch.ones(2)
        optimizer = cls([p])
        optimizer.step()
        damaged = optimizer.state_dict()
        damaged["param_groups"][0][name] = value
        optimizer.load_state_dict(damaged)
        before = p.detach().clone()
        with pytest.raises(Exception) as caught:
            optimizer.step()
        assert torch.equal(p, before)
        return caught.type, str(caught.value)

    assert error(rt.Rprop) == error(torch.optim.Rprop)


def test_the_drop_in_does_not_read_an_lr_that_is_missing() -> None:
    results = []
    for cls in (torch.optim.Rprop, rt.Rprop):
        p = torch.nn.Parameter(torch.ones(3))
        optimizer = cls([p])
        for _ in range(3):
            p.grad = torch.ones(3)
            optimizer.step()
            optimizer.param_groups[0].pop("lr", None)
        results.append(p.tolist())
    assert results[0] == results[1]


@pytest.mark.parametrize("cls", [rt.Rprop, rt.RpropMinus, rt.RpropPlus, rt.IRpropMinus, rt.IRpropPlus])
def test_a_checkpoint_with_numpy_scalars_loads_with_weights_only(cls: Any) -> None:
    p = torch.nn.Parameter(torch.ones(3))
    optimizer = cls([p], lr=np.float64(0.25), etas=(np.float64(0.5), 1.25), step_sizes=(np.float32(0.5**10), 50.0))
    p.grad = torch.ones(3)
    optimizer.step(loss=1.0)
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    group = saved["param_groups"][0]
    assert (group["lr"], group["etas"], group["step_sizes"]) == (0.25, (0.5, 1.25), (0.5**10, 50.0))
    cls([p]).load_state_dict(saved)
