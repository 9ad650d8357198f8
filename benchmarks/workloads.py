"""What is measured: shapes of real parameter lists, the contenders, and how one timed round is set up."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import torch

import rprop_kernels.torch as ours
from rprop_kernels import VARIANTS
from rprop_kernels.backends import unavailable_reason

Shape = tuple[int, ...]


def resnet50() -> list[Shape]:
    """Parameter shapes of ResNet-50: 161 tensors, 25,557,032 weights."""
    shapes: list[Shape] = [(64, 3, 7, 7), (64,), (64,)]
    into = 64
    for width, blocks in ((64, 3), (128, 4), (256, 6), (512, 3)):
        for block in range(blocks):
            for out, inner, kernel in ((width, into, 1), (width, width, 3), (4 * width, width, 1)):
                shapes += [(out, inner, kernel, kernel), (out,), (out,)]
            if block == 0:
                shapes += [(4 * width, into, 1, 1), (4 * width,), (4 * width,)]
            into = 4 * width
    return [*shapes, (1000, 2048), (1000,)]


def transformer(layers: int = 6, width: int = 384, words: int = 8192, context: int = 256) -> list[Shape]:
    """Parameter shapes of a small GPT: embeddings, pre-norm blocks, final norm, head."""
    shapes: list[Shape] = [(words, width), (context, width)]
    for _ in range(layers):
        shapes += [(width,), (width,), (3 * width, width), (3 * width,), (width, width), (width,)]
        shapes += [(width,), (width,), (4 * width, width), (4 * width,), (width, 4 * width), (width,)]
    return [*shapes, (width,), (width,), (words, width)]


WORKLOADS: dict[str, list[Shape]] = {  # names and ids are without spaces: pytest -k chooses by them
    "13-5-1": [(5, 13), (5,), (1, 5), (1,)],
    "161x64": [(64,)] * 161,
    "1k": [(1_000,)],
    "10k": [(10_000,)],
    "100k": [(100_000,)],
    "MLP-784-128-10": [(128, 784), (128,), (10, 128), (10,)],
    "300k": [(300_000,)],
    "1M": [(1_000_000,)],
    "10M": [(10_000_000,)],
    "transformer": transformer(),
    "ResNet-50": resnet50(),
    "25M": [(25_000_000,)],
    "100M": [(100_000_000,)],
}


COMPILED = ("13-5-1", "MLP-784-128-10", "1M", "25M")
"""Where torch.compile is worth its half minute."""


def weights(shapes: list[Shape]) -> int:
    """How many weights these shapes hold."""
    return sum(torch.Size(shape).numel() for shape in shapes)


@dataclass(frozen=True)
class Contender:
    """One optimizer in the race: ``make(params)`` returns the function that is timed."""

    name: str
    make: Callable[[list[torch.nn.Parameter]], Callable[[], Any]]
    backend: str = ""
    largest: int = 1 << 62
    bytes_a_weight: int = 0
    only: tuple[str, ...] = ()

    @property
    def is_rprop(self) -> bool:
        """Whether it belongs in the table of torch.optim.Rprop and ours; others would be the measure of all ratios."""
        return self.backend != "" or self.name.startswith("torch-")

    def runs(self, work: str) -> bool:
        """Whether it takes part in this work."""
        return weights(WORKLOADS[work]) <= self.largest and (not self.only or work in self.only)

    def skip_if_missing(self) -> None:
        if self.backend and (reason := unavailable_reason(self.backend)):
            pytest.skip(f"{self.backend}: {reason}")


def _ours(class_name: str, backend: str) -> Callable[[list[torch.nn.Parameter]], Callable[[], Any]]:
    def make(params: list[torch.nn.Parameter]) -> Callable[[], Any]:
        optimizer = getattr(ours, class_name)(params, backend=backend)
        if class_name == "IRpropPlus":
            loss = torch.tensor(1.0)
            return lambda: optimizer.step(loss=loss)
        return optimizer.step  # type: ignore[no-any-return]

    return make


def _torch(cls: Any, **options: Any) -> Callable[[list[torch.nn.Parameter]], Callable[[], Any]]:
    return lambda params: cls(params, **options).step  # type: ignore[no-any-return]


def _compiled(params: list[torch.nn.Parameter]) -> Callable[[], Any]:
    optimizer = torch.optim.Rprop(params, foreach=True)
    return torch.compile(optimizer.step)


def contenders() -> Iterator[Contender]:
    """Every variant of the table on every backend, and its peers."""
    for backend in ("cython", "numba", "torch"):
        for row in VARIANTS.values():
            traffic = 28 if row.name == "torch" else 20  # float32: read w, g, state; write w, state
            largest = 1 << 62
            if backend == "torch":  # slow, and all alike: one of them shows it
                largest = 30_000_000 if row.name == "irprop-" else 1_500_000
            elif backend == "numba" and row.name not in ("irprop-", "irprop+", "torch"):
                largest = 30_000_000
            name = f"{row.class_name}-{backend}"
            yield Contender(name, _ours(row.class_name, backend), backend, largest, traffic)
    yield Contender("torch-for-loop", _torch(torch.optim.Rprop, foreach=False))
    yield Contender("torch-foreach", _torch(torch.optim.Rprop, foreach=True))
    yield Contender("torch-compiled", _compiled, only=COMPILED)
    yield Contender("SGD-fused", _torch(torch.optim.SGD, lr=1e-3, fused=True))
    yield Contender("Adam-fused", _torch(torch.optim.Adam, fused=True))


class Race:
    """Parameters with a fresh gradient for every round, as backward leaves them."""

    def __init__(self, shapes: list[Shape], sets: int) -> None:
        torch.manual_seed(0)
        self.params = [torch.nn.Parameter(torch.randn(shape)) for shape in shapes]
        self.gradients = [[torch.randn(shape) for shape in shapes] for _ in range(sets)]
        self.round = 0

    def fresh(self) -> None:
        """Not timed: new gradient tensors, never the same objects twice, and their memory warm as after backward."""
        self.round += 1
        for p, g in zip(self.params, self.gradients[self.round % len(self.gradients)], strict=True):
            p.grad = g.detach()
