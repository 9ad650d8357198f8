"""The NumPy optimizers under hostile calls; the scalar oracle defines the result of each accepted step."""

import contextlib
import copy
import math
import pickle
import random
import sys
import threading
import warnings
from collections.abc import Callable
from typing import Any, ClassVar

import fuzz_common as common
import numpy as np
from fuzz_common import Finding, Hostile, Room, check_text, shown
from numpy.lib.stride_tricks import as_strided
from oracle import RULES, Oracle
from special_values import bits, special_values

from rprop_kernels.backends import unavailable_reason
from rprop_kernels.kernels import threads
from rprop_kernels.numpy import METHODS, AskTell

BACKENDS = [name for name in ("cython", "numpy") if unavailable_reason(name) is None]
SHAPES = ((), (0,), (1,), (3,), (70,), (2, 3), (1, 4), (3, 1, 2), (4, 0, 2), (2, 3, 2, 2), (300,), (5, 60))
STEPS = ((1e-6, 50.0), (0.0, 10.0), (1e-3, 2.0), (0.01, 0.01), (1e-30, 2.0**31))
ETAS = ((0.5, 1.2), (0.1, 3.0), (1e-300, 1e300), (0.999999, 1.000001))


class Arena:
    """An array within a block of known bytes: the bytes outside the array must not change."""

    def __init__(self, rng: random.Random, shape: tuple[int, ...], dtype: Any) -> None:
        item = np.dtype(dtype).itemsize
        strides, reach = [0] * len(shape), item
        for axis in rng.sample(range(len(shape)), len(shape)) if rng.random() < 0.5 else range(len(shape))[::-1]:
            strides[axis] = (reach + item * rng.choice((0, 0, 0, 1, 3))) * rng.choice((1, 1, 1, -1))
            reach = abs(strides[axis]) * max(shape[axis], 1)
        first = item * rng.randrange(1, 9) + (rng.randrange(1, item) if rng.random() < 0.06 else 0)
        first += sum(-s * (n - 1) for n, s in zip(shape, strides, strict=True) if s < 0 < n)
        self.block = np.frombuffer(bytearray(rng.randbytes(first + reach + 64)), np.uint8)
        self.array = np.ndarray(shape, dtype, self.block, first, tuple(strides))
        places = np.full((), first)
        for n, s in zip(shape, strides, strict=True):
            places = np.add.outer(places, np.arange(n) * s)
        self.others = np.ones(len(self.block), bool)
        for byte in range(item):
            self.others[places.ravel() + byte] = False
        self.canary = self.block[self.others]

    def check(self) -> None:
        if not np.array_equal(self.block[self.others], self.canary):
            raise Finding("bytes outside the array were written")

    def __repr__(self) -> str:
        a = self.array
        return f"{a.dtype} {a.shape} strides {a.strides}{'' if a.flags.aligned else ' unaligned'}"


def numbers(rng: random.Random, shape: tuple[int, ...], dtype: Any) -> Any:
    """Ordinary numbers of both signs; one in four is a special value."""
    n = math.prod(shape)
    pool = special_values(dtype)
    values = [
        rng.choice(pool) if rng.random() < 0.25 else rng.choice((1, -1)) * 10 ** rng.uniform(-3, 3) for _ in range(n)
    ]
    return np.array(values, dtype).reshape(shape)


def can_be_frozen(w: Any) -> bool:
    """Check whether a read-only array could be made writable again; one from a pickle could not."""
    try:
        w.setflags(write=True)
    except ValueError:
        return False
    return True


def fits(loss: Any, rows: int) -> bool:
    """Check whether nonsense is valid by chance: one number, or as many numbers as there are rows."""
    if isinstance(loss, (tuple, list)):
        return len(loss) == (rows or 1) and all(type(x) is float for x in loss)
    return isinstance(loss, float) and not rows


def is_gradient(value: Any, shape: tuple[int, ...]) -> bool:
    """Check whether nonsense is a gradient by chance."""
    if isinstance(value, tuple):
        return shape == (len(value),) and all(type(x) is float for x in value)
    return isinstance(value, float) and shape == ()


def loss_of(rng: random.Random) -> float:
    return rng.choice((1.0, 2.0, 2.0, 3.0, -1e300, 0.0, math.nan, math.inf, -math.inf))


class Shadow:
    """The oracles of an optimizer: one for each parameter, or for each row where losses come in rows."""

    def __init__(self, room: "Numpy") -> None:
        self.room = room
        self.sync()

    def sync(self) -> None:
        """Copy the optimizer's state."""
        optimizer = self.room.optimizer
        state = optimizer.state_dict()
        self.parts = []
        nothing = [None] * len(optimizer.params)
        lower, upper = state["bounds"] or (nothing, nothing)
        frozen = state["frozen"] or nothing
        for index, weight in enumerate(optimizer.params):
            limits = [
                np.broadcast_to(np.array(x[index], None if x[index] is not None else object), weight.shape)
                for x in (lower, upper, frozen)
            ]
            q, step = optimizer.signs_and_steps(index)
            previous = state["loss"]
            cuts = range(len(weight)) if self.room.rows else [...]
            for cut in cuts:
                oracle = Oracle(optimizer._variant.name, np.ravel(weight[cut]), weight.dtype.name, 1.0)
                for one, *values in zip(oracle.weights, *(np.ravel(x[cut]) for x in limits), strict=True):
                    one.lower, one.upper, one.frozen = values
                for one, sign, size in zip(oracle.weights, np.ravel(q[cut]), np.ravel(step[cut]), strict=True):
                    one.q, one.D = int(sign), size
                if isinstance(previous, np.ndarray):
                    oracle.E_prev = None if math.isnan(previous[cut]) else float(previous[cut])
                else:
                    oracle.E_prev = previous
                self.parts.append((index, cut, oracle))
        self.tune()

    def tune(self) -> None:
        optimizer = self.room.optimizer
        for _, _, oracle in self.parts:
            oracle.etas, oracle.step_sizes, oracle.maximize = (
                optimizer.etas,
                optimizer.step_sizes,
                bool(optimizer.maximize),
            )

    def step(self, grads: list[Any], loss: Any) -> None:
        needs = self.room.optimizer._variant.needs_loss
        for index, cut, oracle in self.parts:
            g = np.asarray(grads[index])[cut]
            E = None if loss is None or not needs else float(loss[cut] if self.room.rows else loss)
            oracle.step(list(np.ravel(g)), E)

    def check(self) -> None:
        optimizer = self.room.optimizer
        state = optimizer.state_dict()["loss"]
        for index, cut, oracle in self.parts:
            q, step = optimizer.signs_and_steps(index)
            for what, seen, expected in (
                ("weights", optimizer.params[index][cut], [one.w for one in oracle.weights]),
                ("step sizes", step[cut], [one.D for one in oracle.weights]),
                ("signs", q[cut], [one.q for one in oracle.weights]),
            ):
                seen = np.ravel(seen)
                wrong = np.flatnonzero(
                    bits(seen) != bits(np.array(expected, seen.dtype).reshape(seen.shape))
                    if what != "signs"
                    else seen != np.array(expected, seen.dtype)
                )
                if wrong.size:
                    i = wrong[0]
                    raise Finding(
                        f"params[{index}], {what}: {wrong.size} of {seen.size} differ from the oracle's, "
                        f"first at {i}: {seen[i]!r}, not {expected[i]!r}"
                    )
            if optimizer._variant.needs_loss:
                before = state[cut] if isinstance(state, np.ndarray) else state
                before = None if before is None or math.isnan(before) else float(before)
                if before != oracle.E_prev:
                    raise Finding(f"the previous loss is {before}, not {oracle.E_prev}")


class Changing(list):  # type: ignore[type-arg]
    """A list that runs code whenever it is read."""

    def __init__(self, items: Any, act: Callable[["Changing"], None]) -> None:
        super().__init__(items)
        self.act = act

    def __getitem__(self, index: Any) -> Any:
        item = super().__getitem__(index)
        self.act(self)
        return item

    def __iter__(self) -> Any:
        for item in list(super().__iter__()):
            self.act(self)
            yield item

    def __len__(self) -> int:
        self.act(self)
        return super().__len__()


class Numpy(Room):
    """One optimizer, its arrays in arenas, and its oracles."""

    name = "numpy"
    operations: ClassVar[dict[str, int]] = {
        "good_step": 12,
        "bad_gradients": 6,
        "bad_loss": 2,
        "good_hyper": 2,
        "bad_hyper": 2,
        "tampered": 3,
        "copied": 1,
        "saved": 1,
        "bad_state": 2,
        "bad_construction": 2,
        "changing_list": 2,
        "two_threads": 1,
    }

    # ------------------------------------------------------------------------------------------- the problem

    def start(self, rng: random.Random) -> None:
        self.rows = rng.choice((0, 0, 0, 0, 1, 2, 5))
        count = rng.choice((1, 1, 2, 3, 7))
        shapes = [
            (self.rows, *rng.choice(((), (3,), (2, 2)))) if self.rows else rng.choice(SHAPES) for _ in range(count)
        ]
        self.arenas = [Arena(rng, shape, rng.choice((np.float32, np.float64))) for shape in shapes]
        for arena in self.arenas:
            arena.array[...] = numbers(rng, arena.array.shape, arena.array.dtype)
        self.weights = [arena.array for arena in self.arenas]
        step_sizes = rng.choice(STEPS)
        low, high = max(step_sizes[0], 1e-250), step_sizes[1]
        options: dict[str, Any] = {
            "lr": rng.choice((low, high, math.sqrt(low * high))),
            "etas": rng.choice(ETAS),
            "step_sizes": step_sizes,
            "maximize": rng.random() < 0.3,
            "batched": bool(self.rows),
            "backend": rng.choice(BACKENDS),
        }
        single = count == 1 and rng.random() < 0.5
        each: list[dict[str, Any]] = [self.limits_of(rng, w, low, high) for w in self.weights]
        for name in ("frozen", "lr"):
            if rng.random() < 0.3:
                values = [x[name] for x in each]
                options[name] = values[0] if single else values
        if rng.random() < 0.4:
            ends = [[x[name] for x in each] for name in ("lower", "upper")]
            if rng.random() < 0.3:  # one number for all
                ends = [[end] * count for end in rng.choice(((-1.0, None), (-1.5, 1.0), (-math.inf, 2.0)))]
            for w, low_end, high_end in zip(self.weights, *ends, strict=True):  # start inside
                first, second = (
                    np.asarray(none if x is None else x, w.dtype)
                    for x, none in zip((low_end, high_end), (-math.inf, math.inf), strict=True)
                )
                w[...] = np.clip(np.where(np.isnan(w), 0, w), first, second)
            options["bounds"] = tuple(end[0] if single else end for end in ends)
        rule = rng.choice(RULES)
        self.say(
            f"params = {self.arenas}; {rule}, {shown(options)}"
            + (f", rows of losses: {self.rows}" if self.rows else "")
        )
        self.optimizer = METHODS[rule](self.weights[0] if single else self.weights, **options)
        self.shadow = Shadow(self)

    def limits_of(self, rng: random.Random, w: Any, low: float, high: float) -> dict[str, Any]:
        """Bounds around 0, a mask and first steps for an array: None, a number, or an array that broadcasts."""
        shape = rng.choice((w.shape, w.shape, w.shape[1:], (1,) * w.ndim))
        draw = np.random.default_rng(rng.getrandbits(32))
        real = rng.choice((w.dtype, np.float64, np.float32))

        def one_of(array: Any, number: Any) -> Any:
            return rng.choice((array, array, number, None))

        lr = math.sqrt(low * high)
        return {
            "lower": one_of(-draw.uniform(0.5, 2, shape).astype(real), -1),
            "upper": one_of(draw.uniform(0.5, 2, shape).astype(real), np.float32(1.25)),
            "frozen": one_of(draw.random(shape) < 0.4, rng.random() < 0.3),
            "lr": rng.choice((lr, np.full(shape, lr), draw.choice([lr, high], shape))),
        }

    def gradients(self, rng: random.Random) -> list[Any]:
        """Valid ones: of any layout, read-only, broadcast, and shared where shapes agree."""
        made: list[Any] = []
        for w in self.weights:
            kind = rng.random()
            if kind < 0.15:
                g: Any = np.broadcast_to(numbers(rng, (), w.dtype), w.shape)
            elif kind < 0.25 and w.shape == ():
                g = numbers(rng, (), w.dtype)[()]
            elif kind < 0.35 and made and np.shape(made[0]) == w.shape and made[0].dtype == w.dtype:
                g = made[0]
            elif kind < 0.45:
                g = np.zeros(w.shape, w.dtype)
            elif kind < 0.7:
                g = numbers(rng, w.shape, w.dtype)
                g.setflags(write=rng.random() < 0.5)
            else:
                g = Arena(rng, w.shape, w.dtype).array
                g[...] = numbers(rng, w.shape, w.dtype)
            made.append(g)
        return made

    def loss(self, rng: random.Random) -> Any:
        kind = rng.choice((float, np.float32, np.float64, ">f8"))
        with np.errstate(over="ignore"):
            if not self.rows:
                loss = loss_of(rng)
                return loss if kind is float else np.array(loss, kind) if kind == ">f8" else np.dtype(kind).type(loss)
            losses = [loss_of(rng) for _ in range(self.rows)]
            return losses if kind is float else np.array(losses, kind)

    def all_of_it(self) -> Any:
        """Everything that an error must not change, as bytes."""
        state = self.optimizer.state_dict()
        moves = [move.tobytes() for move in state.pop("moves")]
        return repr(state), moves, [arena.block.tobytes() for arena in self.arenas], self.layouts()

    def layouts(self) -> Any:
        return [(w.shape, w.strides, w.dtype.str, w.flags.writeable) for w in self.weights]

    # --------------------------------------------------------------------------------------------- expectations

    def refused(self, call: Callable[[], Any], names: str) -> None:
        """The call must raise an error with a cause and a remedy, and change nothing."""
        before = self.all_of_it()
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "the first loss is", RuntimeWarning)
                call()
        except Hostile:
            pass
        except (TypeError, ValueError) as error:
            check_text(error, names)
        else:
            raise Finding("this was accepted and should have been refused")
        self.tally.errors += 1
        self.unchanged(before)

    def unchanged(self, before: Any) -> None:
        for what, old, new in zip(("attributes", "state", "memory", "layout"), before, self.all_of_it(), strict=True):
            if old != new:
                raise Finding(f"refused, and yet the {what} changed: {shown(old)} -> {shown(new)}")

    def either(self, call: Callable[[], Any], names: str = "") -> bool:
        """The call may be accepted; otherwise nothing has changed. The oracles then copy the state."""
        before = self.all_of_it()
        try:
            call()
        except Hostile:
            self.tally.errors += 1
            self.unchanged(before)
            return False
        except (TypeError, ValueError, IndexError) as error:
            self.tally.errors += 1
            if names and not isinstance(error, IndexError):
                check_text(error, names)
            self.unchanged(before)
            return False
        for arena in self.arenas:
            arena.check()
        self.shadow.sync()
        return True

    # -------------------------------------------------------------------------------------------- operations

    def good_step(self, rng: random.Random) -> None:
        grads = self.gradients(rng)
        loss = self.loss(rng)
        if all(not np.any(g) for g in grads) and rng.random() < 0.5:
            loss = None
        one = len(grads) == 1 and rng.random() < 0.5 and isinstance(grads[0], np.ndarray)
        given = grads[0] if one else tuple(grads) if rng.random() < 0.3 else grads
        kept = [np.array(g) for g in grads]
        self.say(f"optimizer.step({shown(given)}, {shown(loss)})")
        counts = [sys.getrefcount(x) for x in (*grads, *self.weights)]
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "the first loss is", RuntimeWarning)
            self.optimizer.step(given, loss)
        self.tally.steps += 1
        if counts != [sys.getrefcount(x) for x in (*grads, *self.weights)]:
            raise Finding("the step changed reference counts")
        self.shadow.step(kept, loss)
        self.shadow.check()
        for arena in self.arenas:
            arena.check()
        for g, old in zip(grads, kept, strict=True):
            if np.asarray(g).tobytes() != old.tobytes():
                raise Finding("a gradient was written to")

    def bad_gradients(self, rng: random.Random) -> None:
        grads = self.gradients(rng)
        i = rng.randrange(len(grads))
        w, g = self.weights[i], np.array(grads[i])
        other = np.float32 if w.dtype == np.float64 else np.float64
        block = self.arenas[rng.randrange(len(grads))]
        inside = block.array[...] if block.array.shape == w.shape and block.array.dtype == w.dtype else w
        wrong: dict[str, Callable[[], Any]] = {
            "other dtype": lambda: np.zeros(w.shape, other),
            "foreign byte order": lambda: g.astype(g.dtype.newbyteorder(">")),
            "half": lambda: np.zeros(w.shape, np.float16),
            "long double": lambda: np.zeros(w.shape, np.longdouble),
            "integers": lambda: np.zeros(w.shape, np.int64),
            "booleans": lambda: np.zeros(w.shape, bool),
            "complex": lambda: np.zeros(w.shape, np.complex64),
            "objects": lambda: np.full(w.shape, None, object),
            "structured": lambda: np.zeros(w.shape, [("a", w.dtype)]),
            "dates": lambda: np.zeros(w.shape, "M8[s]"),
            "masked": lambda: np.ma.masked_array(g, np.ones(w.shape, bool)),
            "a subclass": lambda: g.view(np.recarray),
            "memoryview": lambda: memoryview(g),
            "one axis more": lambda: g[None],
            "another shape": lambda: np.zeros((*w.shape, 2), w.dtype),
            "too long": lambda: np.zeros((w.size + 1,), w.dtype),
            "huge": lambda: np.broadcast_to(np.zeros((), w.dtype), (*w.shape, 1 << 40)),
            "many axes": lambda: np.zeros((1,) * 32, w.dtype),
            "itself": lambda: inside if inside.size else np.zeros((3, 3, 3)),
            "itself, reversed": lambda: inside[..., ::-1] if inside.ndim and inside.size else None,
            "in a list": lambda: [g],
            "nonsense": lambda: common.nonsense(rng),
        }
        name = rng.choice(list(wrong))
        bad: Any = list(grads)
        bad[i] = wrong[name]()
        fate = rng.random()
        if fate < 0.1:
            name, bad = "one too few", bad[1:] if len(bad) > 1 else []
        elif fate < 0.2:
            name, bad = "one too many", [*grads, np.zeros(3)]
        elif fate < 0.3:
            name, bad = "no list", common.nonsense(rng)
            if isinstance(bad, (list, tuple)) and not bad and not grads:
                return
        elif fate < 0.35:
            name, bad = "a generator", iter(bad)
        loss = self.loss(rng)
        self.say(f"optimizer.step({shown(bad)}, {shown(loss)})  # refused: {name} for params[{i}]")
        self.refused(lambda: self.optimizer.step(bad, loss), r"grad|params|overlap")

    def bad_loss(self, rng: random.Random) -> None:
        loss = rng.choice(
            (
                lambda: common.nonsense(rng),
                lambda: 1.0 if self.rows else np.ones(2),  # of the other kind
                lambda: np.ones((2, 2)),
                lambda: np.ones(self.rows + 7),
                lambda: [],
                lambda: np.array(["a"]),
                lambda: np.array([None]),
                lambda: np.zeros(0),
                lambda: True,
                lambda: "1.0",
                lambda: np.broadcast_to(1.0, (1 << 40,)),
                lambda: np.ma.masked,
                lambda: np.array(1, "M8[s]"),
            )
        )()
        if isinstance(loss, (int, float)) and not isinstance(loss, bool) and not self.rows and abs(loss) != 10**400:
            return
        grads = self.gradients(rng)
        if fits(loss, self.rows):
            return
        if loss is None and not (self.optimizer._variant.needs_loss and any(np.any(g) for g in grads)):
            return
        self.say(f"optimizer.step(grads, {shown(loss)})  # refused")
        self.refused(lambda: self.optimizer.step(grads, loss), "loss")

    def good_hyper(self, rng: random.Random) -> None:
        name = rng.choice(("etas", "step_sizes", "maximize"))
        value: Any = {"etas": rng.choice(ETAS), "step_sizes": list(rng.choice(STEPS)), "maximize": rng.random() < 0.5}
        self.say(f"optimizer.{name} = {value[name]}")
        setattr(self.optimizer, name, value[name])
        self.shadow.tune()

    def bad_hyper(self, rng: random.Random) -> None:
        name = rng.choice(("etas", "step_sizes", "lr"))
        value = rng.choice((lambda: common.nonsense(rng), lambda: rng.choice(WRONG[name])))()
        self.say(f"optimizer.{name} = {shown(value)}  # refused")
        low, high = self.optimizer.step_sizes
        if name == "lr" and isinstance(value, (int, float)) and low <= value <= high:
            return
        self.refused(lambda: setattr(self.optimizer, name, value), "eta|step|lr|learning rate")

    def tampered(self, rng: random.Random) -> None:
        """The arrays change without the optimizer; an error leaves them as they are."""
        w = rng.choice(self.weights)
        layout = w.shape, w.strides, w.dtype
        how = rng.choice(("read-only", "shape", "dtype", "stride 0"))
        grads = self.gradients(rng)
        with warnings.catch_warnings(), contextlib.ExitStack() as undo:
            warnings.simplefilter("ignore", DeprecationWarning)
            try:
                if how == "read-only" and not can_be_frozen(w):
                    return
                if how == "read-only":
                    w.setflags(write=False)
                    undo.callback(w.setflags, write=True)
                elif how == "shape":
                    w.shape = (*w.shape, 1)
                    undo.callback(setattr, w, "shape", layout[0])
                elif how == "dtype":
                    w.dtype = np.dtype(f"i{w.itemsize}")
                    undo.callback(setattr, w, "dtype", layout[2])
                else:
                    if max(w.shape, default=1) == 1 or min((0, *w.strides)) < 0 or w.base is None or not w.size:
                        return
                    w.strides = (0,) * w.ndim
                    undo.callback(setattr, w, "strides", layout[1])
            except (AttributeError, ValueError):
                return
            self.say(f"params change: {how}; optimizer.step(grads)  # refused")
            self.refused(lambda: self.optimizer.step(grads, self.loss(rng)), r"params|grads\[")
        self.shadow.check()

    def copied(self, rng: random.Random) -> None:
        """Continue with a copy, in ordinary memory; the original does not change."""
        by = rng.choice((copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))))
        self.say("optimizer = copy.deepcopy(optimizer)  # or by pickle")
        self.optimizer = by(self.optimizer)
        self.weights = list(self.optimizer.params)
        self.arenas = []
        for w in self.weights:
            arena = object.__new__(Arena)
            arena.array, arena.block = w, w
            arena.others, arena.canary = np.zeros(w.shape, bool), np.zeros(0, w.dtype)
            self.arenas.append(arena)
        self.shadow.check()
        self.shadow.sync()

    def saved(self, rng: random.Random) -> None:
        self.say("optimizer.load_state_dict(optimizer.state_dict())")
        state = self.optimizer.state_dict()
        self.good_step(rng)
        held = [w.copy() for w in self.weights]
        self.optimizer.load_state_dict(state)
        for w, h in zip(self.weights, held, strict=True):
            if w.tobytes() != h.tobytes():
                raise Finding("loading a state changed the weights")
        again = self.optimizer.state_dict()
        if repr(again) != repr(state) or any(
            a.tobytes() != b.tobytes() for a, b in zip(state["moves"], again["moves"], strict=True)
        ):
            raise Finding("a state came back changed")
        self.shadow.sync()

    def bad_state(self, rng: random.Random) -> None:
        state: Any = self.optimizer.state_dict()
        key = rng.choice(list(state))
        fate = rng.random()
        if fate < 0.15:
            del state[key]
        elif fate < 0.5 or not state["moves"][0].size:
            state[key] = common.nonsense(rng)
        elif fate < 0.55:
            state = common.nonsense(rng)
        else:
            i = rng.randrange(len(state["moves"]))
            move = state["moves"][i]
            state["moves"][i] = rng.choice(
                (
                    lambda: np.ones(move.shape, np.float16),
                    lambda: move[None],
                    lambda: np.ones(move.shape, ">f4"),
                    lambda: move.tolist(),
                    lambda: np.full_like(move, rng.choice((0, math.nan, math.inf, 2.0**40, -1e-300, 2.0**100))),
                    lambda: np.broadcast_to(move, (1 << 40, *move.shape)),
                    lambda: common.nonsense(rng),
                )
            )()
        self.say(f"optimizer.load_state_dict({shown(state)})  # damaged: {key}")
        self.either(
            lambda: self.optimizer.load_state_dict(state),
            r"state|moves|loss|eta|step|lr|learning rate|maximize|version|variant|bound|frozen",
        )
        loss = self.optimizer.state_dict()["loss"]
        if loss is not None and np.ndim(loss) != bool(self.rows):
            raise Finding("a loss of the other kind was loaded")

    def bad_construction(self, rng: random.Random) -> None:
        arguments: dict[str, Any] = {}
        name = rng.choice(("params", "lr", "etas", "step_sizes", "bounds", "frozen", "batched", "backend"))
        value = common.nonsense(rng)
        if name == "params":
            value = rng.choice(
                (
                    lambda: value,
                    lambda: [value],
                    lambda: [np.zeros(3), value],
                    lambda: np.zeros(3, ">f8"),
                    lambda: as_strided(np.zeros(3), (1 << 40,), (0,)),
                    lambda: as_strided(np.zeros(9), (3, 3), (8, 8)),
                    lambda: as_strided(np.zeros(2000), (1000, 1000), (8, 8)),
                    lambda: [self.weights[0]] * 2,
                    lambda: np.broadcast_to(0.0, (1 << 50,)),
                    lambda: [np.zeros(2), np.zeros(3, int)],
                    lambda: np.zeros(3, object),
                    lambda: np.array("x"),
                )
            )()
            if isinstance(value, list) and value and value[0] is self.weights[0] and not self.weights[0].size:
                return
        elif name in ("bounds", "frozen", "lr", "backend") and value is None:
            return
        params = value if name == "params" else [np.zeros(2), np.ones(3, np.float32)]
        if name != "params":
            arguments[name] = value
        self.say(f"{type(self.optimizer).__name__}({shown(params)}, {shown(arguments)})  # refused")
        words = {
            "bounds": "bound",
            "frozen": "frozen",
            "batched": "batched",
            "lr": "lr|learning rate",
            "backend": "backend",
            "etas": "eta",
            "step_sizes": "step",
            "params": "params",
        }
        self.refused(lambda: type(self.optimizer)(params, **arguments), words[name])

    def changing_list(self, rng: random.Random) -> None:
        """Lists that change, and calls from within the call."""
        grads = self.gradients(rng)
        acts = {
            "clears itself": lambda items: items.clear(),
            "grows": lambda items: list.append(items, np.zeros(3)),
            "swaps in a parameter": lambda items: list.__setitem__(items, slice(0, 1), [self.weights[0]]),
            "swaps in nonsense": lambda items: list.__setitem__(items, slice(0, 1), [common.nonsense(rng)]),
            "steps": lambda items: self.nested(),
            "reloads": lambda items: self.optimizer.load_state_dict(self.optimizer.state_dict()),
            "freezes a parameter": lambda items: self.weights[0].setflags(write=False),
            "raises": lambda items: common.Raises()._raise(),
        }
        if not all(map(can_be_frozen, self.weights)):
            del acts["freezes a parameter"]
        name = rng.choice(list(acts))
        at = rng.randrange(1, 6)
        count = 0

        def act(items: Changing) -> None:
            nonlocal count
            count += 1
            if count == at:
                acts[name](items)

        loss = self.loss(rng)
        self.say(f"optimizer.step(a list that {name} when read for the {at}th time, {shown(loss)})")
        if name == "steps":  # an error of the outer step cannot undo the inner one
            self.loose(lambda: self.optimizer.step(Changing(grads, act), loss))
        else:
            before = [w.flags.writeable for w in self.weights]
            held = self.all_of_it()
            try:
                self.loose(lambda: self.optimizer.step(Changing(grads, act), loss), held)
            finally:
                for w, flag in zip(self.weights, before, strict=True):
                    if w.flags.writeable != flag:
                        w.setflags(write=flag)

    def nested(self) -> None:
        self.optimizer.step([np.ones_like(w) for w in self.weights], [1.0] * self.rows if self.rows else 1.0)

    def loose(self, call: Callable[[], Any], before: Any = None) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)
            try:
                call()
                self.tally.steps += 1
            except (Hostile, TypeError, ValueError, IndexError):
                self.tally.errors += 1
                if before is not None and before[:3] != self.all_of_it()[:3]:
                    raise Finding("an error was raised, and yet something changed") from None
        for arena in self.arenas:
            arena.check()
        self.shadow.sync()

    def two_threads(self, rng: random.Random) -> None:
        """Two threads step one optimizer: the result is undefined, but memory is intact."""
        grads, loss = self.gradients(rng), [1.0] * self.rows if self.rows else 1.0
        self.say("optimizer.step(grads, loss) in two threads at once")
        errors: list[BaseException] = []

        def work() -> None:
            try:
                for _ in range(3):
                    self.optimizer.step(grads, loss)
            except Exception as error:
                errors.append(error)

        threads = [threading.Thread(target=work) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.tally.steps += 6
        if errors:
            raise Finding(f"a step in two threads: {errors[0]!r}")
        for arena in self.arenas:
            arena.check()
        self.shadow.sync()


WRONG: dict[str, tuple[Any, ...]] = {
    "etas": ((0.0, 1.2), (0.5, 1.0), (1.2, 0.5), (-0.5, 1.2), (0.5, math.inf), (math.nan, 1.2), np.array([[1.0, 2.0]])),
    "step_sizes": ((-1.0, 0.5), (60.0, 50.0), (0.0, 0.0), (math.inf, math.inf), (0.0, 2.0**32), (0, math.nan)),
    "lr": (0.0, -1.0, 2.0**32, np.zeros(3)),
}


class Large(Room):
    """Steps that are shared among threads, above and about the threshold, against NumPy's on copies."""

    name = "large"
    every = 20
    operations: ClassVar[dict[str, int]] = {"step": 1}

    def start(self, rng: random.Random) -> None:
        self.rng = np.random.default_rng(rng.getrandbits(32))
        n = threads.MIN_SHARED_WEIGHTS
        sizes = [max(1, n + rng.randrange(-70, 200)), rng.choice((1, 63, 5000, n // 3))]
        rng.shuffle(sizes)
        stretch = rng.choice((1, 1, 2))
        self.weights = [
            np.zeros(size * stretch + 16, rng.choice((np.float32, np.float64)))[8:-8:stretch] for size in sizes
        ]
        self.copies = [w.copy() for w in self.weights]
        rule = rng.choice(RULES)
        self.say(f"{rule}, sizes {sizes}, every {stretch}th")
        self.pair = [
            METHODS[rule](w, lr=0.5, backend=b) for w, b in ((self.weights, BACKENDS[0]), (self.copies, "numpy"))
        ]

    def operate(self, rng: random.Random) -> None:
        if rng.random() < 0.6:  # they are slow
            return
        grads = [self.rng.normal(size=w.shape).astype(w.dtype) for w in self.weights]
        loss = rng.choice((1.0, 2.0, 3.0))
        self.say(f"optimizer.step(normal gradients, {loss})")
        for optimizer in self.pair:
            optimizer.step(grads, loss)
        self.tally.steps += 1
        for w, c in zip(self.weights, self.copies, strict=True):
            if not np.array_equal(w, c):
                raise Finding("the steps of a large array differ from NumPy's")
            if w.base[:8].any() or w.base[-8:].any():
                raise Finding("bytes outside the array were written")


class Ask(Room):
    """The ask-and-tell interface."""

    name = "asktell"
    operations: ClassVar[dict[str, int]] = {"good": 6, "bad": 4, "bad_construction": 1}

    def start(self, rng: random.Random) -> None:
        self.rows = rng.choice((0, 0, 3, 1))
        shape = (self.rows, 2) if self.rows else rng.choice(((), (1,), (4,), (2, 3), (0,)))
        self.options = {
            "method": rng.choice(RULES),
            "maximize": rng.random() < 0.3,
            "batched": bool(self.rows),
            "backend": rng.choice(BACKENDS),
        }
        dtype = rng.choice((np.float32, np.float64, ">f8", int))
        self.say(f"search = AskTell(np.zeros({shape}, {dtype}), {self.options})")
        self.search = AskTell(np.zeros(shape, dtype), **self.options)  # type: ignore[arg-type]

    def all_of_it(self) -> Any:
        search = self.search
        state = search.optimizer.state_dict()
        return (
            repr(state),
            [m.tobytes() for m in state["moves"]],
            search._x.tobytes(),
            search._pending,
            search.best_x.tobytes(),
            repr(search.best_loss),
            repr(search.improved),
        )

    def answer(self, rng: random.Random, x: Any) -> tuple[Any, Any]:
        loss = [loss_of(rng) for _ in range(self.rows)] if self.rows else loss_of(rng)
        return loss, numbers(rng, x.shape, np.float64)

    def good(self, rng: random.Random) -> None:
        x = self.search.ask()
        loss, grad = self.answer(rng, x)
        self.say(f"search.ask(); search.tell({shown(loss)}, {shown(grad)})")
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "the first loss is", RuntimeWarning)
            self.search.tell(loss, grad)
        self.tally.steps += 1
        if not self.rows and math.isfinite(loss):
            best = self.search.best_loss
            if not (best >= loss if self.search.optimizer.maximize else best <= loss):
                raise Finding(f"the best loss is {best} after {loss}")

    def bad(self, rng: random.Random) -> None:
        x = self.search.ask()
        loss, grad = self.answer(rng, x)
        fate = rng.randrange(5)
        if fate == 0:
            loss = rng.choice(
                (lambda: common.nonsense(rng), lambda: np.ones(17), lambda: 1.0 if self.rows else np.ones(3))
            )()
            if fits(loss, self.rows):
                return
        elif fate == 1:
            grad = rng.choice((lambda: common.nonsense(rng), lambda: np.ones((*x.shape, 2)), lambda: np.ones(17)))()
            if is_gradient(grad, x.shape):
                return
        elif fate == 2:
            grad = np.zeros(x.shape, "M8[s]")
        elif fate == 3:
            self.search._pending = False
        else:
            self.search.optimizer.params[0].setflags(write=False)
        self.say(f"search.tell({shown(loss)}, {shown(grad)})  # refused")
        before = self.all_of_it()
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "the first loss is", RuntimeWarning)
                self.search.tell(loss, grad)
        except Hostile:
            pass
        except (TypeError, ValueError, RuntimeError) as error:
            check_text(error, "loss|grad|ask|params|x0")
        else:
            raise Finding("this was accepted and should have been refused")
        finally:
            self.search.optimizer.params[0].setflags(write=True)
        self.tally.errors += 1
        if before != self.all_of_it():
            raise Finding(f"refused, and yet something changed: {shown(before)} -> {shown(self.all_of_it())}")

    def bad_construction(self, rng: random.Random) -> None:
        x0, options = np.zeros(2), dict(self.options)
        if rng.random() < 0.5:
            x0 = rng.choice((lambda: common.nonsense(rng), lambda: np.zeros(2, object), lambda: np.zeros(2, "M8[s]")))()
            if isinstance(x0, (float, tuple, list)):
                return
        else:
            options["method"] = common.nonsense(rng)
        self.say(f"AskTell({shown(x0)}, {shown(options)})  # refused")
        try:
            AskTell(x0, **options)  # type: ignore[arg-type]
        except Hostile:
            pass
        except (TypeError, ValueError) as error:
            check_text(error, "x0|method")
        else:
            if isinstance(x0, np.ndarray) or options["method"] not in RULES:
                raise Finding("this was accepted and should have been refused")
        self.tally.errors += 1


ROOMS: tuple[type[Room], ...] = (Numpy, Large, Ask)
