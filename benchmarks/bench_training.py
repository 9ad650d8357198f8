"""Whole training steps: forward, backward and the optimizer, so that nobody expects more than there is to save."""

import pytest

pytest.importorskip("torch")

import torch
from workloads import contenders

NETS = {
    "13-5-1-batch-100": ((13, 5, 1), 100),
    "MLP-784-128-10-batch-64": ((784, 128, 10), 64),
    "MLP-784-128-10-batch-4096": ((784, 128, 10), 4096),
}
NAMES = ("Rprop-cython", "IRpropPlus-cython", "torch-for-loop", "torch-foreach", "Adam-fused", "none")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("net", NETS)
def test_training_step(benchmark, net, name):
    chosen = {c.name: c for c in contenders()}
    if name != "none":
        chosen[name].skip_if_missing()
    sizes, rows = NETS[net]
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Linear(sizes[0], sizes[1]), torch.nn.Tanh(), torch.nn.Linear(sizes[1], sizes[2])
    )
    x, y = torch.randn(rows, sizes[0]), torch.randn(rows, sizes[2])
    step = chosen[name].make(list(model.parameters())) if name != "none" else lambda: None

    def whole():
        model.zero_grad()
        torch.nn.functional.mse_loss(model(x), y).backward()
        step()

    benchmark.group = f"training: {net}"
    benchmark.extra_info.update(contender=name, threads=torch.get_num_threads())
    benchmark.pedantic(whole, rounds=300, warmup_rounds=5)
