"""Comparison by bits, and random optimization problems in every dtype and layout. Not a test file."""

import copy
import random
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

REAL = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
COMPLEX = (torch.complex64, torch.complex128)
HAS_GRAD_DTYPE = hasattr(Tensor, "grad_dtype")  # from torch 2.10 on
INTEGER = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def bits(x: Tensor) -> Tensor:
    """The bytes of a tensor as integers; every NaN is the same one."""
    x = x.detach().resolve_conj().resolve_neg()
    if x.is_complex():
        x = torch.view_as_real(x)
    if x.is_floating_point():
        x = torch.where(x.isnan(), torch.tensor(torch.nan, dtype=x.dtype), x).contiguous()
    return x.view(INTEGER[x.element_size()]) if x.dim() else x.reshape(1).view(INTEGER[x.element_size()])


def same(a: Any, b: Any) -> bool:
    """Equal to the bit: type, dtype, shape, strides and values; containers by their parts."""
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        layout = a.dtype == b.dtype and a.shape == b.shape and (a.stride() == b.stride() or a.numel() == 0)
        return layout and torch.equal(bits(a), bits(b))
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return type(a) is type(b) and a == b


def state_of(optimizer: torch.optim.Optimizer) -> list[Any]:
    """The state of every parameter, in order; None where there is none yet."""
    params = [p for g in optimizer.param_groups for p in g["params"]]
    return [dict(optimizer.state[p]) if p in optimizer.state else None for p in params]


# ------------------------------------------------------------------------------------ layouts of one tensor

Layout = Callable[[Tensor], Tensor]
"""Takes a contiguous tensor; returns one of equal shape and values that lies differently in memory."""


def _within(x: Tensor, step: int) -> Tensor:
    if x.dim() == 0:
        return torch.stack([x, x, x])[1]
    room = torch.full((*x.shape[:-1], x.shape[-1] * step + 1), 7.0, dtype=x.dtype)
    room[..., 1::step] = x
    return room[..., 1::step]


def _permuted(x: Tensor) -> Tensor:
    order = tuple(reversed(range(x.dim())))
    return x.permute(order).contiguous().permute(order)


def _channels_last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last) if x.dim() == 4 else x


LAYOUTS: dict[str, Layout] = {
    "contiguous": lambda x: x.clone(),
    "transposed": _permuted,
    "channels_last": _channels_last,
    "offset": lambda x: _within(x, 1),
    "sliced": lambda x: _within(x, 2),
    "in a row": lambda x: torch.stack([x, x + 1], -1)[..., 0],
}
SHAPES = ((), (0,), (1,), (5,), (3, 4), (1, 6), (4, 0, 2), (2, 3, 5), (2, 3, 4, 2), (70,), (9, 33))
GRAD_SHAPE: dict[str, Layout] = {
    **LAYOUTS,
    "expanded": lambda x: x.flatten()[:1].expand(x.numel()).reshape(x.shape),
}


# --------------------------------------------------------------------------------------- random problems


def values(rng: random.Random, shape: tuple[int, ...], dtype: torch.dtype, nasty: bool = True) -> Tensor:
    """Gradients of both signs: ordinary, tiny enough to underflow, huge, both zeros, NaN, infinite."""
    generator = torch.Generator().manual_seed(rng.getrandbits(32))
    x = torch.randn(shape, generator=generator, dtype=torch.float64)
    if nasty:
        scale = rng.choice((1.0, 1.0, 1e-4, 1e-8, 1e-23, 1e-40, 1e4, 1e30))
        x = x * scale
        odd = torch.tensor([0.0, -0.0, torch.nan, torch.inf, -torch.inf, 1e-45, 6e-8, 6e4], dtype=torch.float64)
        picked = odd[torch.randint(len(odd), shape, generator=generator)]
        x = torch.where(torch.rand(shape, generator=generator) < 0.15, picked, x)
    if dtype.is_complex:
        y = torch.randn(shape, generator=generator, dtype=torch.float64)
        return torch.complex(x, y).to(dtype)
    return x.to(dtype)


def options(rng: random.Random) -> dict[str, Any]:
    """Constructor arguments that torch.optim.Rprop accepts, common ones and traps."""
    kwargs: dict[str, Any] = {
        "lr": rng.choice((0.01, 0.01, 1.0, 0.0, 1e-8, 100.0)),
        "etas": rng.choice(((0.5, 1.2), (0.5, 1.2), (0.1, 3.0), (0.999, 1.001), (1e-9, 1.5), (0.25, 1e4))),
        "step_sizes": rng.choice(((1e-6, 50), (1e-6, 50.0), (0, 10), (1e-3, 0.02), (2.0, 1.0), (1e-6, 1e30))),
        "maximize": rng.random() < 0.3,
    }
    if rng.random() < 0.4:
        kwargs["foreach"] = rng.random() < 0.5
    return kwargs


def parameter(rng: random.Random, dtypes: tuple[torch.dtype, ...]) -> Tensor:
    shape, layout = rng.choice(SHAPES), LAYOUTS[rng.choice(tuple(LAYOUTS))]
    p = layout(values(rng, shape, rng.choice(dtypes), nasty=False))
    if rng.random() < 0.5:
        return torch.nn.Parameter(p)
    return p.detach().requires_grad_()


def twin(p: Tensor) -> Tensor:
    """An equal leaf with memory and strides of its own."""
    q = torch.empty_strided(p.shape, p.stride(), dtype=p.dtype)
    q.copy_(p.detach())
    q = torch.nn.Parameter(q) if isinstance(p, torch.nn.Parameter) else q.requires_grad_()
    if HAS_GRAD_DTYPE:
        q.grad_dtype = p.grad_dtype
    return q


def gradient(rng: random.Random, p: Tensor) -> Tensor:
    x = values(rng, tuple(p.shape), getattr(p, "grad_dtype", None) or p.dtype)
    return GRAD_SHAPE[rng.choice(tuple(GRAD_SHAPE))](x) if x.numel() else x


def trial(seed: int, ours: Any, theirs: Any, steps: int = 6) -> Iterator[tuple[Any, Any, str]]:
    """Two optimizers on equal problems; yields them after every step, with a note for the failure message.

    Between the steps happens what happens to optimizers: memory is exchanged, options change, state is saved,
    loaded (each other's, too) and copied.
    """
    rng = random.Random(seed)
    dtypes = rng.choice((REAL, REAL, REAL + COMPLEX, (rng.choice(REAL),), (rng.choice(REAL),)))
    params = [parameter(rng, dtypes) for _ in range(rng.randint(1, 4))]
    for p in params:
        if rng.random() < 0.1 and not p.is_complex() and HAS_GRAD_DTYPE:
            p.grad_dtype = rng.choice(REAL)
    pairs = [(p, twin(p)) for p in params]
    kwargs = options(rng)
    cut = rng.randint(0, len(pairs) - 1)
    built = []
    for k, make in enumerate((ours, theirs)):
        mine = [pair[k] for pair in pairs]
        groups = [{"params": mine[cut:]}]
        if cut:
            groups.append({"params": mine[:cut], "etas": (0.4, 1.3), "maximize": not kwargs["maximize"]})
        built.append(make(groups, **kwargs))
    note = f"seed {seed}, {kwargs}, " + ", ".join(f"{p.dtype} {tuple(p.shape)} {p.stride()}" for p in params)
    for step in range(steps):
        event = rng.random()
        which = rng.randrange(len(pairs))
        if event < 0.06:
            for p in pairs[which]:
                p.data = p.data.clone()
        elif event < 0.10:
            for optimizer in built:
                optimizer.param_groups[0]["etas"] = [0.3, 1.7]
        elif event < 0.14:
            saved = [copy.deepcopy(o.state_dict()) for o in built]
            for optimizer, state in zip(built, reversed(saved), strict=True):
                optimizer.load_state_dict(state)
        elif event < 0.18:
            for pair in pairs:
                for p in pair:
                    p.grad = None
        for p, q in pairs:
            fate = rng.random()
            if fate < 0.08:
                p.grad = q.grad = None
            elif fate < 0.9 or p.grad is None:
                g = gradient(rng, p)
                p.grad, q.grad = g, copy.deepcopy(g)
        errors = []
        for optimizer in built:
            try:
                optimizer.step()
                errors.append(None)
            except Exception as error:
                errors.append((type(error), str(error)))
        assert errors[0] == errors[1], (note, errors)
        if errors[0]:  # state after an exception is not promised
            return
        yield built[0], built[1], f"{note}, step {step}"
