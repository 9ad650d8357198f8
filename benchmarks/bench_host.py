"""Host time of a GPU step: everything but the launch itself, which is replaced by nothing. No GPU is needed.

    pytest benchmarks/bench_host.py --benchmark-only

161 tensors of 64 weights lie in main memory, as for Triton's interpreter. The peer is a step of torch.optim.Rprop with
foreach on the same tensors: on a GPU it issues the same operations.
"""

import pytest

pytest.importorskip("torch")
pytest.importorskip("triton", reason="triton is not installed")

import torch

import rprop_kernels.torch as ours
from rprop_kernels.backends import unavailable_reason
from rprop_kernels.kernels import load_engine

with pytest.MonkeyPatch.context() as patch:  # whether to interpret is decided when the kernels are defined
    patch.setenv("TRITON_INTERPRET", "1")
    triton_ = load_engine("triton")

SHAPES = [(64,)] * 161


class NoLaunch:
    """A kernel that does nothing."""

    def __getitem__(self, grid):
        return lambda *arguments, **options: None


def make(name: str, params):
    if name == "torch-foreach":
        return torch.optim.Rprop(params, foreach=True)
    class_name, _, collector = name.partition("-")
    optimizer = getattr(ours, class_name)(params, backend="triton")
    if collector == "python":
        optimizer._device_step = False
    return optimizer


@pytest.mark.parametrize("name", ["torch-foreach", "Rprop", "IRpropMinus", "Rprop-python", "IRpropMinus-python"])
def test_host_time(benchmark, monkeypatch, name: str):
    if not triton_.INTERPRETED:
        pytest.skip("Triton was loaded for a GPU in this process: run this file by itself")
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    monkeypatch.setattr(triton_, "_step_kernel", NoLaunch())
    if reason := unavailable_reason("triton"):
        pytest.skip(reason)
    params = [torch.nn.Parameter(torch.zeros(shape)) for shape in SHAPES]
    gradients = [[torch.randn(shape) for shape in SHAPES] for _ in range(8)]
    optimizer = make(name, params)
    turn = 0

    def fresh() -> None:
        nonlocal turn
        turn += 1
        for p, g in zip(params, gradients[turn % len(gradients)], strict=True):
            p.grad = g

    benchmark.group = "host: 161x64"
    benchmark.extra_info.update(contender=name, tensors=len(SHAPES), threads=torch.get_num_threads())
    benchmark.pedantic(optimizer.step, setup=fresh, rounds=100, warmup_rounds=3)
