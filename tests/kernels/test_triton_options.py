"""Bounds and frozen weights through the optimizers on Triton: both collectors give the bits of torch's operations."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("triton", reason="triton is not installed")

from test_triton import DEVICE, FOUR, assert_same, choose_collector, interpreted, tensors  # noqa: E402, F401

from rprop_kernels.torch import IRpropMinus, IRpropPlus, RpropMinus, RpropPlus  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning:triton")
CLASSES = {"rprop-": RpropMinus, "rprop+": RpropPlus, "irprop-": IRpropMinus, "irprop+": IRpropPlus}


@pytest.mark.parametrize("collector", ["native", "python"])
@pytest.mark.parametrize("variant", FOUR)
def test_groups_with_bounds_and_without(variant, collector):
    sides = []
    for backend in ("triton", "torch"):
        rng = np.random.default_rng(3)
        params = [torch.nn.Parameter(tensors(rng.uniform(-0.8, 0.8, n), torch.float32)) for n in (5, 300, 40)]
        frozen = torch.from_numpy(rng.random(300) < 0.3).to(DEVICE)
        groups = [
            {"params": params[:2], "bounds": (-0.9, [None, tensors(np.full(300, 0.9), torch.float32)])},
            {"params": params[2:], "frozen": None},
        ]
        groups[0]["frozen"] = [None, frozen]
        optimizer = CLASSES[variant](groups, lr=0.1, backend=backend)
        if backend == "triton":
            choose_collector(optimizer, collector)
        sides.append((params, optimizer, np.random.default_rng(4)))
    launches = 0
    launch = type(sides[0][1]._triton_launcher(sides[0][0]))._launch

    def counted(*arguments):
        nonlocal launches
        launches += 1
        return launch(*arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(sides[0][1]._triton), "_launch", counted)
        for t, loss in enumerate([3.0, 2.0, 4.0, float("inf"), 1.0, 2.0]):
            for params, optimizer, rng in sides:
                if t == 3:
                    optimizer.param_groups[0]["bounds"] = (-0.5, 0.5)
                    for p in params[:2]:
                        p.data.clamp_(-0.5, 0.5)
                for p in params:
                    p.grad = tensors(rng.standard_normal(tuple(p.shape)), torch.float32)
                optimizer.step(loss=loss)
            for p, q in zip(sides[0][0], sides[1][0], strict=True):
                assert_same(p, q, f"step {t}")
                assert_same(sides[0][1].state[p]["move"], sides[1][1].state[q]["move"], f"step {t}")
    assert launches == 6
    assert all(float(p.detach().abs().max()) <= 0.5 for p in sides[0][0][:2])
