"""The torch optimizers under hostile calls, beside the same calls on copies that torch's own operations step.

Two sides are made by one seed. The four classes step natively on the one and with ``backend="torch"`` on the other;
the drop-in stands beside torch.optim.Rprop. Both sides must do the same, errors included; after an error of the four
classes nothing has changed (of the drop-in, as of torch, that is not promised).
"""

import contextlib
import copy
import gc
import io
import pickle
import random
import re
import sys
import threading
import traceback
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import fuzz_common as common
import torch
from bits import COMPLEX, GRAD_SHAPE, LAYOUTS, REAL, bits, gradient, parameter, same, values
from fuzz_common import Finding, Hostile, Room, check_text, shown
from torch import Tensor

from rprop_kernels import torch as ours

FOUR = (ours.RpropMinus, ours.RpropPlus, ours.IRpropMinus, ours.IRpropPlus)


class Strange(Tensor):
    """A subclass: native code must leave it alone."""


def unaligned(x: Tensor) -> Tensor:
    """The same values at an odd address."""
    if x.is_complex() or not x.numel():
        return x
    memory = bytearray(1) + bytearray(
        x.detach().contiguous().view(torch.uint8).numpy().tobytes()
        if x.dim()
        else x.detach().reshape(1).view(torch.uint8).numpy().tobytes()
    )
    return torch.frombuffer(memory, dtype=x.dtype, offset=1).reshape(x.shape)


def outcome_of(act: Callable[[], Any]) -> BaseException | None:
    try:
        act()
    except Exception as error:
        return error
    return None


def limits(rng: random.Random, params: list[Tensor], step_sizes: tuple[float, float]) -> dict[str, Any]:
    """Bounds around 0, masks and first steps of a group: numbers, arrays, tensors that broadcast, lists; or nothing."""

    def draw(p: Tensor, low: float, high: float) -> Tensor:
        shape = rng.choice((p.shape, p.shape, p.shape[1:], (1,) * p.dim()))
        numbers = torch.rand(shape, generator=torch.Generator().manual_seed(rng.getrandbits(32)), dtype=torch.float64)
        return (low + numbers * (high - low)).to(rng.choice((torch.float32, torch.float64)))

    def for_each(one: Callable[[Tensor], Any]) -> Any:
        values = [one(p) for p in params]
        return values[0] if len(values) == 1 and rng.random() < 0.5 else values

    group: dict[str, Any] = {}
    if rng.random() < 0.3:
        group["frozen"] = for_each(
            lambda p: rng.choice((None, draw(p, 0, 1) < 0.4, (draw(p, 0, 1) < 0.4).numpy(), True))
        )
    if rng.random() < 0.3:
        first, last = step_sizes[0] * 2, min(step_sizes[1], 0.5) / 2
        group["lr"] = for_each(lambda p: rng.choice((0.01, draw(p, first, last), draw(p, first, last).numpy())))
    if rng.random() < 0.4:
        low = for_each(lambda p: rng.choice((None, -1, draw(p, -2, -0.5), draw(p, -2, -0.5).numpy())))
        high = for_each(lambda p: rng.choice((None, 1.25, draw(p, 0.5, 2), draw(p, 0.5, 2).numpy())))
        group["bounds"] = rng.choice(((low, high), (low, high), (low, 1.0), (-1.5, high), (-1.0, None)))
        with torch.no_grad():
            for p in params:  # start inside
                p.copy_(p.nan_to_num(0.0).clamp(-0.4, 0.4))
    return group


class Side:
    """Parameters and their optimizer."""

    def __init__(self, rng: random.Random, make: Any, four: bool) -> None:
        dtypes = rng.choice((REAL, (torch.float32,), (torch.float32, torch.float64), REAL + COMPLEX))
        self.rows = rng.choice((0, 0, 0, 0, 4, 1)) if four else 0
        self.params = [parameter(rng, dtypes) for _ in range(rng.choice((1, 2, 3, 5)))]
        if self.rows:
            self.params = [
                LAYOUTS[rng.choice(tuple(LAYOUTS))](values(rng, (self.rows, *s), dtypes[0], nasty=False))
                .detach()
                .requires_grad_()
                for s in ((), (3,))
            ]
        self.options: dict[str, Any] = {
            "lr": rng.choice((0.01, 1e-3, 0.02)),
            "maximize": rng.random() < 0.3,
            "etas": rng.choice(((0.5, 1.2), (0.1, 3.0))),
            "step_sizes": rng.choice(((1e-6, 50.0), (1e-3, 0.02))),
        }
        if self.rows:
            self.options["batched"] = True
        if not four and rng.random() < 0.3:
            self.options["foreach"] = rng.random() < 0.5
        cut = rng.randrange(len(self.params))
        groups: Any = [{"params": self.params[cut:]}]
        if cut:
            groups.append({"params": self.params[:cut], "etas": (0.4, 1.3)})
        if four and not any(p.is_complex() for p in self.params):
            for group in groups:
                group.update(limits(rng, group["params"], self.options["step_sizes"]))
        self.optimizer = make(groups, **self.options)

    def picture(self) -> Any:
        """Everything an error must leave alone."""
        groups = [{k: shown(v) for k, v in g.items() if k != "params"} for g in self.optimizer.param_groups]
        state = [{k: seen(v) for k, v in s.items()} if isinstance(s, dict) else shown(s) for s in self.states()]
        return groups, state, [seen(p) for p in self.params]

    def states(self) -> list[Any]:
        return [placeless(self.optimizer.state.get(p)) for p in self.params]


def placeless(state: Any) -> Any:
    """Without addresses: of a text in a state, torch's load_state_dict makes the text of a generator."""
    if not isinstance(state, dict):
        return state
    return {key: re.sub(" at 0x[0-9a-f]+", "", x) if isinstance(x, str) else x for key, x in state.items()}


def seen(value: Any) -> Any:
    """A tensor as bytes, with all of the memory that it lies in; anything else as text."""
    if not isinstance(value, Tensor):
        return shown(value)
    with contextlib.suppress(RuntimeError, NotImplementedError):
        storage = value.untyped_storage()
        memory = (
            torch.empty(0, dtype=torch.uint8).set_(storage).numpy().tobytes() if value.device.type == "cpu" else b""
        )
        return value.dtype, tuple(value.shape), value.stride(), memory
    return value.dtype, tuple(value.shape)


class Torch(Room):
    """One problem on both sides."""

    name = "torch"
    operations: ClassVar[dict[str, int]] = {
        "good_step": 14,
        "strange_gradient": 6,
        "strange_parameter": 3,
        "bad_loss": 2,
        "group": 4,
        "state": 3,
        "reload": 2,
        "damaged": 4,
        "copied": 1,
        "hooks": 1,
        "closure": 1,
        "bad_construction": 2,
        "new_group": 1,
        "threads": 1,
    }

    def start(self, rng: random.Random) -> None:
        self.four = rng.random() < 0.6
        seed = rng.getrandbits(32)
        cls = rng.choice(FOUR)
        self.cls: Any = cls if self.four else ours.Rprop

        def reference(groups: Any, **options: Any) -> Any:
            return cls(groups, backend="torch", **options) if self.four else torch.optim.Rprop(groups, **options)

        self.sides = [Side(random.Random(seed), make, self.four) for make in (self.cls, reference)]
        self.rows = self.sides[0].rows
        first = self.sides[0]
        self.say(
            f"{self.cls.__name__}({[(p.dtype, tuple(p.shape), p.stride()) for p in first.params]}, {first.options})"
        )
        self.needs_loss = self.cls is ours.IRpropPlus

    # --------------------------------------------------------------------------------------------- judgement

    def both(
        self, act: Callable[[Side, random.Random], Any], rng: random.Random, names: str = "", refused: bool = False
    ) -> bool:
        """Do it on both sides; whether it was accepted."""
        seed = rng.getrandbits(32)
        errors = []
        for side in self.sides:
            before = side.picture()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                error = outcome_of(lambda side=side: act(side, random.Random(seed)))
            errors.append(error)
            if error is not None and self.four:
                for what, old, new in zip(("groups", "state", "parameters"), before, side.picture(), strict=True):
                    if old != new:
                        raise Finding(f"{error!r}, and yet the {what} changed: {shown(old)} -> {shown(new)}") from error
        mine, theirs = errors
        if type(mine) is not type(theirs):
            raise Finding(f"the two sides differ: {mine!r}, {theirs!r}") from (mine or theirs)
        self.error = repr(mine)
        if mine is not None:
            self.tally.errors += 1
            if names and self.four and isinstance(mine, (TypeError, ValueError)) and our_own(mine):
                check_text(mine, names)
            if not self.four:
                self.over = True
            return False
        if refused:
            raise Finding("this was accepted and should have been refused")
        self.equal()
        return True

    def equal(self) -> None:
        one, other = self.sides
        for i, (p, q) in enumerate(zip(one.params, other.params, strict=True)):
            if hollow(p) or hollow(q):
                continue
            if not same(p.detach(), q.detach()):
                raise Finding(f"params[{i}] differ: {shown(p)} and {shown(q)}")
            for x, y in ((p, q),):
                if x.is_complex() or type(x) is Strange:
                    continue
                a, b = (torch.empty(0, dtype=t.dtype).set_(t.untyped_storage()) for t in (x.detach(), y.detach()))
                if not torch.equal(bits(a), bits(b)):
                    raise Finding(f"memory beside params[{i}] was written")
        if not alike(one.states(), other.states()):
            raise Finding(f"states differ: {shown(one.states())} and {shown(other.states())}")

    def step_of(self, side: Side, rng: random.Random, **given: Any) -> None:
        if not given and (self.needs_loss or (self.four and rng.random() < 0.3)):
            given["loss"] = self.loss(rng)
        side.optimizer.step(**given)

    def loss(self, rng: random.Random) -> Any:
        numbers = [rng.choice((1.0, 2.0, 2.5, -1e30, float("nan"), float("inf"))) for _ in range(self.rows)]
        if self.rows:
            return torch.tensor(numbers, dtype=rng.choice((torch.float32, torch.float64)))
        loss = rng.choice((1.0, 2.0, 2.5, -1e30, float("nan"), float("inf")))
        return loss if rng.random() < 0.5 else torch.tensor(loss, requires_grad=rng.random() < 0.5)

    def fill(self, side: Side, rng: random.Random) -> None:
        """Good gradients."""
        for p in side.params:
            if rng.random() < 0.08:
                p.grad = None
            else:
                p.grad = gradient(rng, p).detach()

    # -------------------------------------------------------------------------------------------- operations

    def good_step(self, rng: random.Random) -> None:
        self.say("good gradients; optimizer.step()")
        seed = rng.getrandbits(32)
        for side in self.sides:
            self.fill(side, random.Random(seed))
        side = self.sides[0]
        held = [x for p in side.params for x in (p, p.grad, *side.optimizer.state.get(p, {}).values())]
        complete = all(p in side.optimizer.state for p in side.params)
        held = [x for x in held if isinstance(x, Tensor)]
        gc.disable()  # what earlier errors hold must not be let go just now
        try:
            counts = [sys.getrefcount(x) for x in held]
            if not self.both(self.step_of, rng):
                raise Finding(f"a good step was refused: {self.error}")
            if complete and counts != [sys.getrefcount(x) for x in held]:
                raise Finding("the step changed reference counts")
        finally:
            gc.enable()
        self.tally.steps += 1

    def strange_gradient(self, rng: random.Random) -> None:
        first = self.sides[0]
        which = rng.randrange(len(first.params))
        other = rng.randrange(len(first.params))
        kinds: dict[str, Callable[[Side, Tensor, Tensor], Any]] = {
            "negated lazily": lambda s, p, g: torch._neg_view(g),
            "conjugated lazily": lambda s, p, g: g.conj() if g.is_complex() else torch._neg_view(g)[...],
            "expanded": lambda s, p, g: GRAD_SHAPE["expanded"](g) if g.numel() else g,
            "unaligned": lambda s, p, g: unaligned(g),
            "of a subclass": lambda s, p, g: g.as_subclass(Strange),
            "sparse": lambda s, p, g: g.to_sparse() if g.dim() else g,
            "with a graph": lambda s, p, g: g.clone().requires_grad_() * 2,
            "the parameter": lambda s, p, g: p.detach(),
            "the parameter, flipped": lambda s, p, g: p.detach().as_strided(p.shape, p.stride()),
            "another's memory": lambda s, p, g: (
                s.params[other].detach() if s.params[other].shape == p.shape and s.params[other].dtype == p.dtype else g
            ),
            "the state": lambda s, p, g: next(
                (
                    t
                    for t in s.optimizer.state.get(p, {}).values()
                    if isinstance(t, Tensor) and t.shape == p.shape and t.dtype == p.dtype
                ),
                g,
            ),
            "of another shape by .data": lambda s, p, g: swapped(g, torch.ones(7, dtype=g.dtype)),
            "of another dtype by .data": lambda s, p, g: swapped(
                g, g.to(torch.float64 if g.dtype != torch.float64 else torch.float32)
            ),
            "freed": lambda s, p, g: freed(g.clone()) if self.four else g,  # torch.optim.Rprop follows a NULL pointer
            "of an inference tensor": lambda s, p, g: inference(g),
            "shared between two": lambda s, p, g: g,
        }
        name = rng.choice(list(kinds))
        self.say(f"params[{which}].grad = {name}; optimizer.step()")

        def act(side: Side, rng: random.Random) -> None:
            p = side.params[which]
            g = gradient(rng, p).detach()
            p.grad = kinds[name](side, p, g)
            self.step_of(side, rng)

        seed = rng.getrandbits(32)
        for side in self.sides:
            self.fill(side, random.Random(seed))
        if self.both(act, rng):
            self.tally.steps += 1
        for side in self.sides:
            side.params[which].grad = None

    def strange_parameter(self, rng: random.Random) -> None:
        which = rng.randrange(len(self.sides[0].params))
        kinds: dict[str, Callable[[Tensor], Any]] = {
            "expanded": lambda p: p.data[:1].expand(p.shape) if p.dim() else p.data.clone(),
            "another shape": lambda p: torch.ones(3, 7, dtype=p.dtype),
            "another dtype": lambda p: torch.zeros(
                p.shape, dtype=torch.float64 if p.dtype == torch.float32 else torch.float32
            ),
            "unaligned": lambda p: unaligned(p.data),
            "fresh memory": lambda p: p.data.clone(),
            "shared windows": lambda p: (
                torch.ones(9, dtype=p.dtype).unfold(0, 3, 1)[: p.shape[0]]
                if p.dim() == 2 and p.shape[1] == 3 and p.shape[0] < 8
                else p.data.clone()
            ),
            "freed": lambda p: freed(p.data.clone()) if self.four else p.data.clone(),
            "negated lazily": lambda p: torch._neg_view(p.data.clone()),
        }
        name = rng.choice(list(kinds))
        late = rng.random() < 0.5
        self.say(f"params[{which}].data = {name}{', after the gradients' if late else ''}; optimizer.step()")
        seed = rng.getrandbits(32)

        def change(side: Side) -> None:
            with contextlib.suppress(RuntimeError, TypeError):
                side.params[which].data = kinds[name](side.params[which])

        for side in self.sides:
            side.params[which].grad = None
            if not late:
                change(side)
            with contextlib.suppress(RuntimeError):
                self.fill(side, random.Random(seed))
                if side.params[which].grad is None:
                    side.params[which].grad = torch.ones_like(side.params[which])
            if late:
                change(side)
        if name == "freed" and self.four and self.sides[0].params[which].numel():
            self.both(self.step_of, rng, refused=True)
            self.over = True
        elif self.both(self.step_of, rng):
            self.tally.steps += 1
        elif name not in ("fresh memory", "unaligned"):
            self.over = True

    def bad_loss(self, rng: random.Random) -> None:
        if not self.four:
            return
        other_kind = rng.random() < 0.3
        loss = rng.choice(
            (lambda: 1.0, lambda: torch.tensor(1.0), lambda: torch.ones(2, 2).mean())
            if other_kind and self.rows
            else (lambda: torch.ones(4), lambda: torch.ones(5), lambda: torch.ones(3).numpy())
            if other_kind
            else (
                lambda: common.nonsense(rng),
                lambda: torch.ones(2, 2),
                lambda: torch.ones(17),
                lambda: torch.ones(0),
                lambda: torch.tensor(1j),
                lambda: [1.0, 2.0],
                lambda: "1e",
                lambda: torch.ones(1).to_sparse(),
            )
        )()
        if not other_kind and (loss is None or isinstance(loss, float) or (isinstance(loss, str) and loss == "12")):
            return
        self.say(f"optimizer.step(loss={shown(loss)})" + "  # refused: of the other kind" * other_kind)
        seed = rng.getrandbits(32)
        for side in self.sides:
            self.fill(side, random.Random(seed))
        self.both(lambda side, rng: side.optimizer.step(loss=loss), rng, "loss", refused=other_kind)

    def group(self, rng: random.Random) -> None:
        """Options change between two steps: sensible, nonsense, gone."""
        key = rng.choice(("lr", "etas", "step_sizes", "maximize", "params", "params", "etas"))
        if self.four and rng.random() < 0.4:
            key = rng.choice(("bounds", "frozen"))
        which = rng.randrange(len(self.sides[0].optimizer.param_groups))
        value: Any = rng.choice(
            {
                "lr": (0.5, "abc", None, 0.0, -1.0, float("nan"), 10**400, torch.tensor(0.1), torch.ones(2), ()),
                "etas": ((0.3, 1.5), [0.3, 1.5], 5, "ab", (0.5,), (2.0, 1.0), (float("nan"), 1.2), None, (10**400, 2)),
                "step_sizes": (
                    (1e-3, 1.0),
                    [1e-4, 2.0],
                    (0, 2.0**40),
                    (3.0, 1.0),
                    "xy",
                    None,
                    (0.0, 0.0),
                    (10**400,) * 2,
                ),
                "maximize": (True, False, 1, None, "no"),
                "params": ("tuple", "twice", "nonsense", "fewer", "reversed"),
                "bounds": (
                    (None, None),
                    (-1.0, None),
                    (-0.5, 0.75),
                    (1.0, -1.0),
                    (float("nan"), 1.0),
                    [(-1, 1)],
                    ((-1, 1), (-1, 1)),
                    ([-1.0], None),
                    (torch.full((3,), -1.0), None),
                    "ab",
                    5,
                    (True, None),
                    None,
                ),
                "frozen": (None, True, False, [None], torch.tensor([True]), torch.ones(3), 1, "all", (True,)),
            }[key]
        )
        gone = rng.random() < 0.08 and key != "params"
        self.say(
            f"del group[{key!r}]" if gone else f"param_groups[{which}][{key!r}] = {shown(value)}; optimizer.step()"
        )
        seed = rng.getrandbits(32)
        undo = []
        for side in self.sides:
            self.fill(side, random.Random(seed))
            group = side.optimizer.param_groups[which]
            old = group[key]
            undo.append((group, old))
            if gone:
                del group[key]
            elif key == "params":
                group[key] = {
                    "tuple": tuple(old),
                    "twice": [*old, old[0]],
                    "nonsense": [*old, None],
                    "fewer": old[1:],
                    "reversed": old[::-1],
                }[value]
            else:
                group[key] = value
        good = False
        try:
            names = {"lr": "lr|learning", "etas": "eta", "step_sizes": "step", "bounds": "bound", "frozen": "frozen"}
            names = names.get(key, "")
            good = self.both(self.step_of, rng, "" if gone else names)
            self.tally.steps += good
        finally:
            for group, old in undo:
                group[key] = old if not good or key in ("params", "maximize") else group.get(key)

    def state(self, rng: random.Random) -> None:
        """Somebody edits optimizer.state."""
        which = rng.randrange(len(self.sides[0].params))
        keys = ("move",) if self.four else ("prev", "step_size", "step")
        key = rng.choice(keys)
        kinds: dict[str, Callable[[Tensor, Any], Any]] = {
            "None": lambda p, t: None,
            "text": lambda p, t: "abc",
            "a number": lambda p, t: 3.0,
            "another dtype": lambda p, t: torch.ones(
                t.shape, dtype=torch.float64 if t.dtype != torch.float64 else torch.float32
            ),
            "another shape": lambda p, t: torch.ones(3, 7, dtype=t.dtype),
            "one element": lambda p, t: torch.ones((), dtype=t.dtype),
            "the parameter": lambda p, t: p.detach(),
            "on no device": lambda p, t: t.to("meta"),
            "expanded": lambda p, t: t.flatten()[:1].expand(t.numel()).reshape(t.shape) if t.numel() else t,
            "a copy": lambda p, t: t.clone(),
            "transposed": lambda p, t: t.clone().t().contiguous().t() if t.dim() == 2 else t,
            "freed": lambda p, t: freed(t.clone()) if self.four else t,
            "a subclass": lambda p, t: t.as_subclass(Strange),
            "unaligned": lambda p, t: unaligned(t),
        }
        name = rng.choice([*kinds, "gone", "emptied", "all cleared", "an OrderedDict", "more keys"])
        self.say(f"state of params[{which}], {key}: {name}; optimizer.step()")
        seed = rng.getrandbits(32)
        for side in self.sides:
            self.fill(side, random.Random(seed))
            p, state = side.params[which], side.optimizer.state
            if name == "all cleared":
                state.clear()
            if p not in state or key not in state[p]:
                continue
            if name == "gone":
                del state[p]
            elif name == "emptied":
                state[p].clear()
            elif name == "an OrderedDict":
                state[p] = OrderedDict(state[p])
            elif name == "more keys":
                state[p]["more"] = [1, 2, 3]
            elif name in kinds:
                state[p][key] = kinds[name](p, state[p][key])
        if self.both(self.step_of, rng):
            self.tally.steps += 1
        self.over = self.over or name in (
            "more keys",  # which no load accepts
            "None",
            "text",
            "a number",
            "another shape",
            "one element",
            "on no device",
            "freed",
            "another dtype",
            "expanded",
            "a subclass",
        )

    def reload(self, rng: random.Random) -> None:
        """Through a file, without pickle's dangers."""
        self.say("optimizer.load_state_dict(torch.load(file, weights_only=True))")

        def act(side: Side, rng: random.Random) -> None:
            file = io.BytesIO()
            torch.save(side.optimizer.state_dict(), file)
            file.seek(0)
            with torch.serialization.safe_globals([Strange]):  # torch makes step sizes of the gradient's class
                side.optimizer.load_state_dict(torch.load(file, weights_only=True))

        if not self.both(act, rng):
            raise Finding(f"a good checkpoint was refused: {self.error}")

    def damaged(self, rng: random.Random) -> None:
        """A state_dict with something wrong in it; then a step, if it was accepted."""
        self.say("optimizer.load_state_dict(damaged)")

        def act(side: Side, rng: random.Random) -> None:
            saved = copy.deepcopy(side.optimizer.state_dict())
            damage(saved, rng, self.say if side is self.sides[0] else lambda line: None)
            side.optimizer.load_state_dict(saved)

        accepted = self.both(act, rng, r"state|group|param|eta|step|lr|learning|move|loss|maximize|entry|bound|frozen")
        if accepted:
            seed = rng.getrandbits(32)
            for side in self.sides:
                self.fill(side, random.Random(seed))
            self.both(self.step_of, rng)
            self.over = True

    def copied(self, rng: random.Random) -> None:
        self.say("copy.deepcopy, or pickle, of parameters and optimizer")
        by = rng.choice((copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))))
        for side in self.sides:
            side.params, side.optimizer = by((side.params, side.optimizer))
        gc.collect(0)
        self.equal()

    def hooks(self, rng: random.Random) -> None:
        before = rng.random() < 0.5
        self.say(f"a hook {'before' if before else 'after'} the step raises")

        def fail(*_args: Any) -> None:
            raise Hostile

        seed = rng.getrandbits(32)
        handles = []
        for side in self.sides:
            self.fill(side, random.Random(seed))
            optimizer = side.optimizer
            handles.append((optimizer.register_step_pre_hook if before else optimizer.register_step_post_hook)(fail))
        for side in self.sides:
            old = side.picture()
            error = outcome_of(lambda side=side: self.step_of(side, random.Random(seed)))
            if not isinstance(error, Hostile):
                raise Finding(f"the hook's error became {error!r}") from error
            if before and old != side.picture():
                raise Finding("a hook before the step raised, and yet something changed")
        for handle in handles:
            handle.remove()
        self.equal()

    def closure(self, rng: random.Random) -> None:
        kind = rng.choice(("raises", "no function", "makes new gradients", "clears the state"))
        self.say(f"step(closure) that {kind}")

        def act(side: Side, rng: random.Random) -> None:
            def closure() -> float:
                if kind == "raises":
                    raise Hostile
                if kind == "clears the state":
                    side.optimizer.state.clear()
                self.fill(side, rng)
                return rng.choice((1.0, 2.0))

            self.fill(side, rng)
            with torch.random.fork_rng(devices=[]):
                if kind == "no function":
                    side.optimizer.step(3)
                elif self.rows:
                    raise Hostile
                else:
                    side.optimizer.step(closure)

        self.both(act, rng)

    def bad_construction(self, rng: random.Random) -> None:
        name = rng.choice(("params", "lr", "etas", "step_sizes", "bounds", "frozen", "batched", "backend", "foreach"))
        value = common.nonsense(rng)
        if name == "foreach" or (name in ("backend", "lr", "bounds", "frozen") and value is None):
            return
        if name == "params":
            value = rng.choice(
                (
                    lambda: value,
                    lambda: [value],
                    lambda: torch.ones(3),
                    lambda: [],
                    lambda: [torch.ones(3), torch.ones(3) * 2 @ torch.ones(3, requires_grad=True)],
                    lambda: [{"params": [torch.ones(2)], "etas": value}],
                )
            )()
        self.say(f"{self.cls.__name__}({name}={shown(value)})  # refused")
        params = value if name == "params" else [torch.ones(3, requires_grad=True)]
        options = {} if name == "params" else {name: value}
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                self.cls(params, **options)
        except Hostile:
            pass
        except (TypeError, ValueError, RuntimeError) as error:
            if self.four and name != "params":
                check_text(
                    error, {"lr": "lr|learning", "etas": "eta", "step_sizes": "step", "bounds": "bound"}.get(name, name)
                )
        except Exception as error:
            if self.four and name != "params":
                raise Finding(f"an error of this type says nothing: {error!r}") from error
        else:
            if self.four and name != "params":
                raise Finding("this was accepted and should have been refused")
        self.tally.errors += 1

    def new_group(self, rng: random.Random) -> None:
        value = rng.choice(
            (
                None,
                3,
                {"params": 3},
                {},
                {"params": [torch.ones(2)], "etas": "ab"},
                {"params": [torch.ones(2)], "step_sizes": 1},
                {"params": [torch.ones(2)], "lr": "x"},
                {"params": [torch.ones(2)], "batched": not self.rows},
            )
        )
        self.say(f"optimizer.add_param_group({shown(value)})")
        for side in self.sides if self.four else ():
            before = len(side.optimizer.param_groups), side.picture()
            error = outcome_of(lambda side=side: side.optimizer.add_param_group(value))
            if error is None:
                raise Finding("this was accepted and should have been refused")
            self.tally.errors += 1
            if before != (len(side.optimizer.param_groups), side.picture()):
                raise Finding(f"{error!r}, and yet something changed") from error

    def threads(self, rng: random.Random) -> None:
        """Others step, load and clear the same optimizer meanwhile: whatever comes out, memory stays sound. (Gradients
        stay: in torch itself, to read ``p.grad`` while another thread assigns it follows a pointer that is gone.)"""
        optimizer, seed = self.sides[0].optimizer, rng.getrandbits(32)
        self.fill(self.sides[0], random.Random(seed))
        self.say("steps of one optimizer while other threads step it, load and clear its state")
        saved = optimizer.state_dict()
        acts: list[Callable[[], Any]] = [
            lambda: self.step_of(self.sides[0], random.Random(seed)),
            lambda: self.step_of(self.sides[0], random.Random(seed + 1)),
            lambda: optimizer.load_state_dict(saved),
            lambda: optimizer.state.clear(),
        ]

        def work(act: Callable[[], Any]) -> None:
            for _ in range(12):
                with contextlib.suppress(Exception):
                    act()

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            threads = [threading.Thread(target=work, args=(act,)) for act in acts]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        self.tally.steps += 24
        self.over = True


def alike(x: Any, y: Any) -> bool:
    """As `same`, also for what is no state at all; a dict is one whatever its class."""
    if isinstance(x, dict) and isinstance(y, dict):
        return x.keys() == y.keys() and all(alike(x[k], y[k]) for k in x)
    if isinstance(x, Tensor) and isinstance(y, Tensor) and x.numel() > 1 << 20:
        return x.shape == y.shape
    if isinstance(x, list) and isinstance(y, list):
        return len(x) == len(y) and all(map(alike, x, y))
    if (
        isinstance(x, Tensor)
        and isinstance(y, Tensor)
        and (hollow(x) or hollow(y) or x.is_meta or x.is_sparse or y.is_meta or y.is_sparse)
    ):
        return x.layout == y.layout and x.device == y.device and hollow(x) == hollow(y)
    return same(x, y) or repr(x) == repr(y)


def our_own(error: BaseException) -> bool:
    """Whether it was raised here, not in torch."""
    return "rprop_kernels" in traceback.extract_tb(error.__traceback__)[-1].filename


def swapped(g: Tensor, other: Tensor) -> Tensor:
    g = g.clone()
    g.data = other
    return g


def freed(t: Tensor) -> Tensor:
    t.untyped_storage().resize_(0)
    return t


def hollow(t: Tensor) -> bool:
    """Freed: nobody may look into it."""
    return t.device.type == "cpu" and t.layout == torch.strided and t.numel() > 0 and t.untyped_storage().size() == 0


def inference(g: Tensor) -> Tensor:
    with torch.inference_mode():
        return g.clone()


def leaves(tree: Any) -> Iterator[tuple[Any, Any]]:
    """Every (container, key) of a nested dict or list."""
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in list(items):
        yield tree, key
        yield from leaves(value)


def damage(saved: Any, rng: random.Random, say: Callable[[str], None]) -> None:
    """Change one thing in a checkpoint."""
    container, key = rng.choice(list(leaves(saved)))
    value = container[key]
    fate = rng.random()
    if isinstance(value, Tensor) and fate < 0.7:
        new = rng.choice(
            (
                lambda: value.to(rng.choice((torch.float16, torch.int64, torch.bool, torch.complex64))),
                lambda: value[None],
                lambda: torch.ones(3, 7),
                lambda: torch.full_like(value, rng.choice((0, 1e38))),
                lambda: torch.full_like(value, float("nan")),
                lambda: value.to("meta"),
                lambda: value.to_sparse(),
                lambda: torch.zeros(()),
                lambda: torch.empty(0),
                lambda: value.tolist(),
                lambda: torch.zeros(1).expand(1 << 40),
            )
        )()
        say(f"# {key} = a tensor {new.dtype} {tuple(new.shape)}" if isinstance(new, Tensor) else f"# {key} = numbers")
        container[key] = new
    elif fate < 0.3:
        say(f"# without {key}")
        del container[key]
    else:
        container[key] = rng.choice((None, "abc", 3, -1.0, [], {}, (), float("nan"), 10**400, (0.5, 1.2), 1j))
        say(f"# {key} = {shown(container[key])}")


ROOMS: tuple[type[Room], ...] = (Torch,)
