"""A cluster on this machine: two and three gloo processes give what one process gives.

The processes are started once for each size of world and run every scenario; a test reads how its own ended.
"""

import copy
import math
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
if not torch.distributed.is_available() or not torch.distributed.is_gloo_available():
    pytest.skip("this torch has no torch.distributed with gloo", allow_module_level=True)

import torch.distributed as dist  # noqa: E402
import torch.multiprocessing as mp  # noqa: E402
from bits import bits, same  # noqa: E402
from torch import Tensor, nn  # noqa: E402

import rprop_kernels.torch as ours  # noqa: E402

FOUR = (ours.RpropMinus, ours.RpropPlus, ours.IRpropMinus, ours.IRpropPlus)
STEPS = 8


def given(optimizer: Any, loss: Any) -> dict[str, Any]:
    inner = getattr(optimizer, "optim", optimizer)
    return {"loss": loss} if isinstance(inner, ours.IRpropPlus) else {}


def made(make: Any, params: Any) -> Any:
    return make(params, lr=0.3, **({"process_group": True} if make is ours.IRpropPlus else {}))


def net(dtype: Any = torch.float32) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 7), nn.Tanh(), nn.Linear(7, 1)).to(dtype)


def shard(rank: int, step: int, dtype: Any = torch.float32) -> tuple[Tensor, Tensor]:
    """The data that a process sees at a step: others than its neighbours'."""
    x = torch.randn(8, 3, generator=torch.Generator().manual_seed(100 * step + rank))
    return x.to(dtype), x.prod(1, keepdim=True).to(dtype)


def loss_of(model: nn.Module, rank: int, step: int, dtype: Any = torch.float32) -> Tensor:
    x, y = shard(rank, step, dtype)
    return (model(x) - y).square().mean()


def one_process(make: Any, steps: int = STEPS, dtype: Any = torch.float32) -> tuple[nn.Module, Any]:
    """All shards in one process: the mean of their gradients and of their losses."""
    world = dist.get_world_size()
    model = net(dtype)
    optimizer = make(model.parameters(), lr=0.3)
    for i in range(steps):
        optimizer.zero_grad()
        losses = [loss_of(model, rank, i, dtype) for rank in range(world)]
        for loss in losses:
            (loss / world).backward()
        mean = sum(loss.detach().double() for loss in losses) / world
        optimizer.step(**given(optimizer, mean))
    return model, optimizer


def whole(x: Any) -> Any:
    return x.full_tensor() if hasattr(x, "full_tensor") else x


def equal(model: nn.Module, other: nn.Module) -> bool:
    pairs = zip(model.parameters(), other.parameters(), strict=True)
    return all(torch.equal(bits(whole(p.detach())), bits(whole(q.detach()))) for p, q in pairs)


def everywhere(value: Any) -> bool:
    """Whether all processes hold the same object."""
    values: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return all(same(value, other) for other in values)


def state_of(optimizer: Any) -> list[dict[str, Any]]:
    params = [p for group in optimizer.param_groups for p in group["params"]]
    return [{name: whole(value) for name, value in optimizer.state[p].items()} for p in params]


# ------------------------------------------------------------------------------------------------ scenarios


def ddp(rank: int, folder: Path) -> None:
    for make in (ours.Rprop, *FOUR):
        inner = net()
        model = nn.parallel.DistributedDataParallel(inner)
        optimizer = made(make, model.parameters())
        for i in range(STEPS):
            optimizer.zero_grad()
            loss = loss_of(model, rank, i)
            loss.backward()
            optimizer.step(**given(optimizer, loss))
        assert equal(inner, one_process(make)[0]), make
        assert everywhere([p.detach() for p in inner.parameters()])


def one_loss_decides(rank: int, folder: Path) -> None:
    """The processes' own losses point in different directions; their mean is the one that counts."""
    rising = torch.tensor([1.0, 2.0 if rank == 0 else 0.5 - rank])
    for process_group in (True, dist.new_group(), None):
        p = nn.Parameter(torch.zeros(4))
        optimizer = ours.IRpropPlus([p], lr=0.1, process_group=process_group)
        p.grad = torch.ones(4)
        optimizer.step(loss=rising[0])
        p.grad = -torch.ones(4)
        before = p.detach().clone()
        optimizer = copy.deepcopy(optimizer)  # the copy still knows its group
        p = optimizer.param_groups[0]["params"][0]
        p.grad = -torch.ones(4)
        optimizer.step(loss=rising[1])
        assert torch.equal(p, torch.zeros(4) if process_group is None and rank == 0 else before), p
        assert everywhere(p.detach()) == (process_group is not None)
        prev = optimizer.param_groups[0]["prev_loss"]
        assert everywhere(prev) == (process_group is not None)
    # one process whose loss is no number: all go back
    p = nn.Parameter(torch.zeros(4))
    optimizer = ours.IRpropPlus([p], lr=0.1, process_group=True)
    p.grad = torch.ones(4)
    optimizer.step(loss=1.0)
    optimizer.step(loss=torch.nan if rank == 1 else 0.5)
    assert torch.equal(p, torch.zeros(4))
    # a loss a row is averaged row by row
    p = nn.Parameter(torch.zeros(2, 3))
    optimizer = ours.IRpropPlus([p], lr=0.1, batched=True, process_group=True)
    p.grad = torch.ones(2, 3)
    optimizer.step(loss=torch.tensor([1.0, 1.0]))
    p.grad = -torch.ones(2, 3)
    optimizer.step(loss=torch.tensor([1.0 + (rank == 0), 1.0 - (rank == 0)]))
    assert torch.equal(p.detach()[0], torch.zeros(3)) and p.detach()[1].any()


def sharded(dtype: Any = torch.float32) -> nn.Module:
    from torch.distributed.fsdp import fully_shard

    model = net(dtype)
    for layer in model:
        if isinstance(layer, nn.Linear):
            fully_shard(layer)
    return fully_shard(model)


def train_sharded(model: nn.Module, optimizer: Any, rank: int, steps: range, dtype: Any = torch.float32) -> None:
    for i in steps:
        optimizer.zero_grad()
        loss = loss_of(model, rank, i, dtype)
        loss.backward()
        optimizer.step(**given(optimizer, loss))


def fsdp2(rank: int, folder: Path) -> None:
    for dtype in (
        torch.float32,
        torch.bfloat16,
    ):  # torch.optim.Rprop cannot step shards: compare with one process
        model = sharded(dtype)
        optimizer = ours.Rprop(model.parameters(), lr=0.3)
        train_sharded(model, optimizer, rank, range(STEPS), dtype)
        expected, twin = one_process(torch.optim.Rprop, dtype=dtype)
        assert equal(model, expected), dtype
        for mine, theirs in zip(state_of(optimizer), state_of(twin), strict=True):
            assert same(mine["step_size"], theirs["step_size"]) and same(mine["step"], theirs["step"])
            assert torch.equal(mine["prev"].sign(), theirs["prev"].sign())
    for make in FOUR:
        model = sharded()
        optimizer = made(make, model.parameters())
        train_sharded(model, optimizer, rank, range(STEPS))
        expected, twin = one_process(make)
        assert equal(model, expected), make
        for mine, other in zip(state_of(optimizer), state_of(twin), strict=True):
            assert torch.equal(mine["move"], other["move"]), make
    # the loss itself may be a DTensor
    from torch.distributed.tensor import DTensor, Replicate

    model = sharded()
    optimizer = ours.IRpropPlus(model.parameters())
    mesh = next(model.parameters()).device_mesh
    for i in range(3):
        loss_of(model, rank, i).backward()
        loss = DTensor.from_local(torch.tensor(float(i)), mesh, [Replicate()])
        optimizer.step(loss=loss)
        assert optimizer.param_groups[0]["prev_loss"] == float(i)


def checkpoint(rank: int, folder: Path) -> None:
    """Saved sharded, loaded into a fresh model and optimizer: the same bits, and the same bits further on."""
    import torch.distributed.checkpoint as dcp
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_state_dict, set_state_dict

    for dtype, make, flat in (
        (torch.float32, ours.Rprop, False),
        (torch.bfloat16, ours.Rprop, True),
        (torch.float32, ours.IRpropPlus, True),
        (torch.bfloat16, ours.IRpropPlus, False),
        (torch.float16, ours.RpropMinus, True),
    ):
        options = StateDictOptions(flatten_optimizer_state_dict=flat)
        model = sharded(dtype)
        optimizer = made(make, model.parameters())
        train_sharded(model, optimizer, rank, range(3), dtype)
        if make is not ours.Rprop:
            moves = {s["move"].dtype for s in state_of(optimizer)}
            assert moves == {torch.float32}
        path = folder / f"{make.__name__}-{dtype}-{flat}"
        weights, state = get_state_dict(model, optimizer, options=options)
        dcp.save({"model": weights, "optimizer": state}, checkpoint_id=path)
        new = sharded(dtype)
        with torch.no_grad():
            for p in new.parameters():
                p.zero_()
        other = made(make, new.parameters())
        weights, state = get_state_dict(new, other, options=options)
        dcp.load({"model": weights, "optimizer": state}, checkpoint_id=path)
        set_state_dict(new, other, model_state_dict=weights, optim_state_dict=state, options=options)
        assert same(state_of(optimizer), state_of(other)), (make, dtype, flat)
        groups = [{k: v for k, v in o.param_groups[0].items() if k != "params"} for o in (optimizer, other)]
        assert groups[0] == groups[1], groups
        train_sharded(model, optimizer, rank, range(3, 6), dtype)
        train_sharded(new, other, rank, range(3, 6), dtype)
        assert equal(model, new) and same(state_of(optimizer), state_of(other)), (make, dtype, flat)


def full_checkpoint(rank: int, folder: Path) -> None:
    """One whole state dictionary, as one process writes it, handed out to shards by the first process."""
    from torch.distributed.checkpoint.state_dict import (
        StateDictOptions,
        get_optimizer_state_dict,
        set_optimizer_state_dict,
    )

    for dtype in (torch.float32, torch.bfloat16):
        for make in (ours.Rprop, ours.IRpropPlus):
            model = sharded(dtype)
            optimizer = made(make, model.parameters())
            train_sharded(model, optimizer, rank, range(3), dtype)
            whole_state = get_optimizer_state_dict(model, optimizer, options=StateDictOptions(full_state_dict=True))
            new = sharded(dtype)
            other = made(make, new.parameters())
            set_optimizer_state_dict(
                new,
                other,
                whole_state,
                options=StateDictOptions(full_state_dict=True, broadcast_from_rank0=False),
            )
            assert same(state_of(optimizer), state_of(other)), (make, dtype)


def zero(rank: int, folder: Path) -> None:
    from torch.distributed.optim import ZeroRedundancyOptimizer

    for make in (ours.Rprop, ours.RpropPlus, ours.IRpropPlus):
        inner = net()
        model = nn.parallel.DistributedDataParallel(inner)
        more = {"process_group": True} if make is ours.IRpropPlus else {}
        # process_group= is ZeroRedundancyOptimizer's own argument, too: ours goes to the optimizer it holds
        optimizer = ZeroRedundancyOptimizer(inner.parameters(), optimizer_class=make, lr=0.3)
        if more:
            optimizer.optim._process_group = True
        for i in range(STEPS):
            optimizer.zero_grad()
            loss = loss_of(model, rank, i)
            loss.backward()
            optimizer.step(**given(optimizer, loss))
        expected, twin = one_process(make)
        assert equal(inner, expected), make
        optimizer.consolidate_state_dict(to=0)
        if rank == 0:
            state = optimizer.state_dict()
            single = twin.state_dict()
            for k in single["state"]:
                assert same(state["state"][k], single["state"][k]) or make is ours.Rprop, (make, k)
        state = [optimizer.state_dict() if rank == 0 else None]
        dist.broadcast_object_list(state, src=0)
        second = copy.deepcopy(inner)
        loaded = ZeroRedundancyOptimizer(second.parameters(), optimizer_class=make, lr=0.3)
        if more:
            loaded.optim._process_group = True
        loaded.load_state_dict(copy.deepcopy(state[0]))
        for i in range(3):
            for m, o in ((model, optimizer), (second, loaded)):
                o.zero_grad()
                loss = loss_of(m, rank, 50 + i)
                loss.backward()
                if m is second:  # no DDP around this one
                    for p in second.parameters():
                        dist.all_reduce(p.grad)
                        p.grad /= dist.get_world_size()
                o.step(**given(o, loss))
        assert equal(inner, second), make


def dtensor_rows(rank: int, folder: Path) -> None:
    """One loss a row for parameters that are sharded over the rows."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Shard, distribute_tensor

    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    start = torch.arange(12.0).reshape(6, 2)
    plain = start.clone().requires_grad_()
    spread = nn.Parameter(distribute_tensor(start, mesh, [Shard(0)]))
    optimizers = ours.IRpropPlus([plain], batched=True), ours.IRpropPlus([spread], batched=True)
    for i in range(6):
        generator = torch.Generator().manual_seed(i)
        g, losses = torch.randn(6, 2, generator=generator), torch.rand(6, generator=generator)
        plain.grad, spread.grad = g, distribute_tensor(g, mesh, [Shard(0)])
        for optimizer in optimizers:
            optimizer.step(loss=losses)
        assert torch.equal(spread.full_tensor().detach(), plain.detach())


def options_for(params: list[Tensor]) -> dict[str, Any]:
    """Bounds, masks and an lr for each parameter of net(), of the global shapes."""
    shapes = [p.shape for p in params]
    return {
        "bounds": ([torch.full(s, -0.6) for s in shapes], [0.6, None, torch.tensor(0.7), None]),
        "frozen": [torch.arange(3) == 1, None, None, torch.tensor([False])],
        "lr": [torch.linspace(0.1, 0.3, math.prod(s)).reshape(s) for s in shapes],
    }


def train_whole(model: nn.Module, optimizer: Any, steps: range) -> None:
    """All shards of the data in one process: the mean of their gradients and of their losses."""
    for i in steps:
        optimizer.zero_grad()
        losses = [loss_of(model, rank, i) for rank in range(dist.get_world_size())]
        for loss in losses:
            (loss / len(losses)).backward()
        optimizer.step(loss=sum(loss.detach().double() for loss in losses) / len(losses))


def ddp_with_options(rank: int, folder: Path) -> None:
    for make in FOUR:
        inner, plain = net(), net()
        model = nn.parallel.DistributedDataParallel(inner)
        params, others = list(inner.parameters()), list(plain.parameters())
        start = params[0].detach().clone()
        group = {"process_group": True} if make is ours.IRpropPlus else {}
        train_sharded(model, make(params, **options_for(params), **group), rank, range(STEPS))
        train_whole(plain, make(others, **options_for(others)), range(STEPS))
        assert equal(inner, plain), make
        assert everywhere([p.detach() for p in params])
        assert torch.equal(params[0][:, 1], start[:, 1]) and (params[0] != start)[:, 0].any()
        assert all((p >= -0.6).all() for p in params) and (params[0] <= 0.6).all()


def fsdp2_with_options(rank: int, folder: Path) -> None:
    """Options of the global shape are distributed as the parameters are; they survive a sharded checkpoint."""
    import torch.distributed.checkpoint as dcp
    from torch.distributed.checkpoint.state_dict import (
        StateDictOptions,
        get_optimizer_state_dict,
        get_state_dict,
        set_optimizer_state_dict,
        set_state_dict,
    )

    def seen(option: Any) -> Any:
        return [seen(x) for x in option] if isinstance(option, (tuple, list)) else whole(option)

    for make in FOUR:
        model, plain = sharded(), net()
        params, others = list(model.parameters()), list(plain.parameters())
        group = {"process_group": True} if make is ours.IRpropPlus else {}
        optimizer, twin = make(params, **options_for(params), **group), make(others, **options_for(others))

        train_sharded(model, optimizer, rank, range(4))
        train_whole(plain, twin, range(4))
        assert equal(model, plain), make
        held = optimizer.param_groups[0]
        for half in (held["bounds"][0], held["lr"], held["frozen"][:1]):
            assert all(x.placements == p.placements and x.shape == p.shape for x, p in zip(half, params, strict=False))
        assert torch.equal(whole(held["bounds"][0][0]), twin.param_groups[0]["bounds"][0][0])
        full = get_optimizer_state_dict(model, optimizer, options=StateDictOptions(full_state_dict=True))
        weights, state = get_state_dict(model, optimizer)
        path = folder / f"options-{make.__name__}"
        dcp.save({"model": weights, "optimizer": state}, checkpoint_id=path)
        new = sharded()
        copied = list(new.parameters())
        other = make(copied, **options_for(copied), **group)
        weights, state = get_state_dict(new, other)
        dcp.load({"model": weights, "optimizer": state}, checkpoint_id=path)
        set_state_dict(new, other, model_state_dict=weights, optim_state_dict=state)
        train_sharded(model, optimizer, rank, range(4, 8))
        train_sharded(new, other, rank, range(4, 8))
        train_whole(plain, twin, range(4, 8))
        assert equal(model, plain), make
        assert equal(new, plain), make
        set_optimizer_state_dict(new, other, full, options=StateDictOptions(full_state_dict=True))
        for name in ("bounds", "frozen", "lr"):
            assert same(*(seen(o.param_groups[0][name]) for o in (other, optimizer))), (make, name)
        try:
            make(list(sharded().parameters()), bounds=(5.0, None), **group)
        except ValueError as error:
            assert "starts outside its bounds" in str(error)
        else:
            raise AssertionError("a start outside was accepted")


def stopping(rank: int, folder: Path) -> None:
    """The mean loss and the largest gradient decide; all processes stop at the same call."""
    world = dist.get_world_size()

    def stopped_at(loss_and_grad: Any, params: list[Any], **options: Any) -> Any:
        optimizer = ours.IRpropPlus(params, lr=0.1, step_sizes=(0.0, 50.0), process_group=True)
        stop = ours.Stopping(optimizer, process_group=True, **options)
        steps = 0
        while steps < 2000 and not stop(loss_and_grad()):
            optimizer.step()
            steps += 1
        stop.restore_best()
        return steps, stop.reason, float(stop.best_loss)

    for every in (None, 8):
        for gtol, xtol in ((1e-4, None), (None, 1e-4)):
            w = nn.Parameter(torch.full((3,), 1.0 + rank, dtype=torch.float64))  # of this process alone

            def own(w: Any = w) -> Any:
                w.grad = 10.0**rank * 2 * w.detach()
                return 10.0**rank * (w.detach() ** 2).sum()

            empty = nn.Parameter(torch.zeros(0, dtype=torch.float64))
            result = stopped_at(own, [w] if rank else [empty, w], gtol=gtol, ftol=None, xtol=xtol, every=every)
            assert result[1] == ("gtol" if gtol else "xtol") and everywhere(result), result
            assert gtol is None or float(w.grad.abs().max()) <= 1e-2
    # nothing to step here, something elsewhere
    w = nn.Parameter(torch.ones(0 if rank else 2, dtype=torch.float64))

    def some() -> Any:
        w.grad = 2 * w.detach()
        return (w.detach() ** 2).sum() * world

    result = stopped_at(some, [w], gtol=None, ftol=None, xtol=1e-3)
    assert result[1] == "xtol" and everywhere(result), result


SCENARIOS: dict[str, Callable[[int, Path], None]] = {
    f.__name__: f
    for f in (
        ddp,
        one_loss_decides,
        fsdp2,
        checkpoint,
        full_checkpoint,
        zero,
        dtensor_rows,
        ddp_with_options,
        fsdp2_with_options,
        stopping,
    )
}


def process(rank: int, world: int, folder: str) -> None:
    import warnings

    warnings.simplefilter("ignore")  # torch.distributed's own; pytest's filters do not reach this process
    torch.set_num_threads(1)
    path = Path(folder)
    dist.init_process_group("gloo", init_method=f"file://{path}/meeting", rank=rank, world_size=world)
    for name, scenario in SCENARIOS.items():
        try:
            scenario(rank, path)
            outcome = "ok"
        except Exception:
            outcome = traceback.format_exc()
        (path / f"{name}.{rank}").write_text(outcome)
        outcomes: list[Any] = [None] * world
        dist.all_gather_object(outcomes, outcome)
    dist.destroy_process_group()


@pytest.fixture(scope="module", params=[2, 3])
def outcomes(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], list[str]]:
    folder = tmp_path_factory.mktemp("cluster")
    error = None
    try:
        mp.spawn(process, (request.param, str(folder)), nprocs=request.param)
    except Exception as caught:  # a scenario that ended out of step takes the processes with it
        error = caught

    def of(name: str) -> list[str]:
        files = [folder / f"{name}.{rank}" for rank in range(request.param)]
        return [file.read_text() if file.exists() else f"did not end: {error}" for file in files]

    return of


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_cluster(outcomes: Callable[[str], list[str]], scenario: str) -> None:
    for rank, outcome in enumerate(outcomes(scenario)):
        assert outcome == "ok", f"process {rank}: {outcome}"
