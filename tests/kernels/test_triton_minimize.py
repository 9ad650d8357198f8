"""minimize on Triton: rows have the bits of torch's operations and of lone runs."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("triton", reason="triton is not installed")

from test_triton import DEVICE, FOUR, assert_same, interpreted  # noqa: E402, F401

from rprop_kernels.kernels import triton_  # noqa: E402
from rprop_kernels.torch import minimize  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning:triton")


def weighted(x, weight):
    a, b = x["a"] ** 2 + x["b"][..., 0] - 11, x["a"] + x["b"][..., 0] ** 2 - 7
    loss = weight * (a * a + b * b + x["b"][..., 1] ** 2)
    return torch.where(x["a"] > 4.2, torch.nan, loss)


@pytest.mark.parametrize("case", ["options", "maximize"])
@pytest.mark.parametrize("method", FOUR)
def test_rows_have_the_bits_of_lone_runs_and_of_torch(method, case, monkeypatch):
    rng = np.random.default_rng(6)
    x0 = {
        "a": torch.tensor(rng.uniform(-4, 4, 9), device=DEVICE),
        "b": torch.tensor(rng.uniform(-4, 4, (9, 2)), dtype=torch.float32, device=DEVICE),
    }
    weights = torch.tensor(rng.uniform(0.01, 30, 9), device=DEVICE)
    options = {"method": method, "max_steps": 8, "lr": 0.3, "check_noise": False}
    options |= {"bounds": {"a": (-4.0, 4.5), "b": (-4.0, 4.0)}, "maximize": case == "maximize"}
    options["x_scale"] = {"a": 4.0, "b": 0.5}
    if case == "options":
        options["frozen"] = {"b": torch.tensor([False, True])}
    launches = []
    launch = triton_.TritonStep.launch

    def counted(self, rule):
        launches.append(launch(self, rule))
        return launches[-1]

    monkeypatch.setattr(triton_.TritonStep, "launch", counted)
    sides = [
        minimize(weighted, x0, weights, in_dims=0, batched=True, backend=backend, **options)
        for backend in ("triton", "torch")
    ]
    assert len(launches) >= 8 and all(launches)
    ours, theirs = sides
    for name in ("a", "b"):
        assert_same(ours.x[name], theirs.x[name], name)
        assert_same(ours.grad[name], theirs.grad[name], name)
    assert_same(ours.fun, theirs.fun)
    assert ours.reason == theirs.reason and ours.nit.tolist() == theirs.nit.tolist()
    for row in (0, 8):
        start = {name: part[row] for name, part in x0.items()}
        one = minimize(weighted, start, float(weights[row]), backend="triton", **options)
        for name in ("a", "b"):
            assert_same(one.x[name], ours.x[name][row], f"row {row}")
        assert (one.reason, one.nit) == (ours.reason[row], ours.nit[row])
