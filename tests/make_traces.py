"""Write the golden traces of ``rprop_kernels/traces`` from the oracle: python tests/make_traces.py

The package is checked against them, so nothing here imports it. A test compares the files with this program's output.
"""

import json
import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from oracle import RULES, Oracle, TorchOracle, Weight, sign

FOLDER = Path(__file__).resolve().parent.parent / "rprop_kernels" / "traces"
SIZES = (0.3, 2.0, 0.004, 70.0, 1.0, 0.02)  # of gradients: only signs may matter
TINY = {"float32": 1e-25, "float64": 1e-170}  # their squares underflow
HUGE = {"float32": 1e30, "float64": 1e200}  # and overflow


def _scene(name: str, patterns: Sequence[str], losses: Sequence[float], **changes: Any) -> dict[str, Any]:
    settings = {
        "lr": 0.1,
        "etas": (0.5, 1.2),
        "step_sizes": (1e-3, 2.0),
        "sizes": SIZES,
        "rules": (*RULES, "torch"),
    }
    return {"name": name, "patterns": patterns, "losses": losses, **settings, **changes}


FALLING = [5.0, 4.5, 4.0, 3.0, 2.5, 2.0, 1.5, 1.0, 0.5, 0.25]
UP_AND_DOWN = [3.0, 2.0, 4.0, 1.0, 1.0, 5.0, -2.0, -1.0, -1.0, -3.0]
FLIPS = ("+++-+++-++", "--+---++--", "+-++++-+++")
ZEROS = ("0+0+-0-+0-", "+00+-+0-n-", "+0-n+0-0++")  # n: -0.0
RANDOM = ("-+00---0+00+-+0+-++--+++", "0+0+--++-+0-++-0-0+---+0", "-+-0-++-++0+-+-+-+-0+-+-")
RANDOM_LOSSES = [-9, -5, -3, -5, -5, 4, -4, -9, 7, -1, -1, -4, -2, -2, 7, -1, 2, -9, -4, -2, 1, 2, -4, 3]
SCENES = [
    _scene("flips-loss-rises", FLIPS, FALLING[::-1]),
    _scene("flips-loss-falls", FLIPS, FALLING),
    _scene("flips-loss-stays", FLIPS, [1.0] * 10),
    _scene("double-flips", ("+-+-+-+-+-", "++--++--++", "+--+--+-++"), UP_AND_DOWN),
    _scene("zeros", ZEROS, UP_AND_DOWN),
    _scene(
        "upper-bound",
        ("+++++++-+++", "---+------+", "++-++++++++"),
        [*UP_AND_DOWN, -2.0],
        step_sizes=(1e-3, 0.15),
    ),
    _scene(
        "lower-bound",
        ("+-++-++-+-+", "--+-++-+-++", "+++-+--+-+-"),
        [*UP_AND_DOWN, -2.0],
        step_sizes=(0.04, 2.0),
    ),
    _scene("other-etas", FLIPS, UP_AND_DOWN, lr=0.05, etas=(0.7, 1.5)),
    _scene("random", RANDOM, RANDOM_LOSSES),
    _scene("tiny-and-huge", ("ttTtttT", "hhHhhhH", "tth+-hT"), UP_AND_DOWN[:7]),
    # The four classes refuse such an lr; torch moves it into the bounds at the first step.
    _scene("lr-below-bounds", FLIPS, FALLING, lr=0.01, step_sizes=(0.04, 2.0), rules=("torch",)),
    _scene("lr-above-bounds", FLIPS, FALLING, lr=3.0, step_sizes=(1e-3, 0.15), rules=("torch",)),
]


# ------------------------------------------------------------------- mistakes: the oracle with one change


class OneStepLate(Oracle):
    """Shows the weights of the previous step."""

    def step(self, gradients: Sequence[Any], E: float | None = None) -> None:
        self.shown = [weight.w for weight in self.weights]
        super().step(gradients, E)


class LateMoveDropped(Oracle):
    """Each move is due in the next step, and dropped if that is a flip."""

    def step(self, gradients: Sequence[Any], E: float | None = None) -> None:
        if self.E_prev is None:
            self.shown = [weight.w for weight in self.weights]
            self.due = [self.real(0) for _ in self.weights]
        flips = [sign(g) * weight.q < 0 for g, weight in zip(gradients, self.weights, strict=True)]
        super().step(gradients, E)
        for i, flip in enumerate(flips):
            self.shown[i] = self.shown[i] if flip else self.store(self.shown[i] + self.due[i])
        self.due = [-weight.q * weight.D for weight in self.weights]


class FirstOnlyRemembered(Oracle):
    def _step(self, weight: Weight, g: Any, worse: bool) -> None:
        if self.E_prev is None:
            weight.q = sign(g)
        else:
            super()._step(weight, g, worse)


class FirstIgnored(Oracle):
    def _step(self, weight: Weight, g: Any, worse: bool) -> None:
        if self.E_prev is not None:
            super()._step(weight, g, worse)


class FirstGrows(Oracle):
    def _step(self, weight: Weight, g: Any, worse: bool) -> None:
        if self.E_prev is None:
            weight.q, weight.before = sign(g), self.real(g)  # type: ignore[attr-defined]
        super()._step(weight, g, worse)


class NoSignGrows(Oracle):
    def _resize(self, D: Any, c: int) -> Any:
        return super()._resize(D, 1 if c == 0 else c)


class NoUpperBound(Oracle):
    def _resize(self, D: Any, c: int) -> Any:
        self.step_sizes = (self.step_sizes[0], math.inf)
        return super()._resize(D, c)


class NoLowerBound(Oracle):
    def _resize(self, D: Any, c: int) -> Any:
        self.step_sizes = (0.0, self.step_sizes[1])
        return super()._resize(D, c)


class NoBounds(NoUpperBound, NoLowerBound):
    pass


class ZeroKeepsTheSign(Oracle):
    def _step(self, weight: Weight, g: Any, worse: bool) -> None:
        if sign(g) != 0:
            super()._step(weight, g, worse)


class Underflows(Oracle):
    """c is the sign of a floating product of gradients."""

    def _step(self, weight: Weight, g: Any, worse: bool) -> None:
        if self.real(g) * getattr(weight, "before", self.real(0)) == 0:
            weight.q = 0
        super()._step(weight, g, worse)
        weight.before = self.real(g) if weight.q else self.real(0)  # type: ignore[attr-defined]


class FlipIsRemembered(Oracle):
    def _step(self, weight: Weight, g: Any, worse: bool) -> None:
        super()._step(weight, g, worse)
        weight.q = sign(g)


class _Flip(Oracle):
    """Another treatment of a flip."""

    def flip(self, weight: Weight, g: Any, D_old: Any, worse: bool) -> Any:
        raise NotImplementedError

    def _step(self, weight: Weight, g: Any, worse: bool) -> None:
        if sign(g) * weight.q < 0:
            D_old, weight.D = weight.D, self._resize(weight.D, -1)
            self._move(weight, self.flip(weight, g, D_old, worse))
            weight.q = 0
        else:
            super()._step(weight, g, worse)


class FlipForgets(_Flip):
    def flip(self, weight: Weight, g: Any, D_old: Any, worse: bool) -> Any:
        return -sign(g) * weight.D


class FlipMovesUphill(_Flip):
    def flip(self, weight: Weight, g: Any, D_old: Any, worse: bool) -> Any:
        return sign(g) * weight.D


class UndoesTheSmallerStep(_Flip):
    def flip(self, weight: Weight, g: Any, D_old: Any, worse: bool) -> Any:
        return weight.q * weight.D if worse else 0


class RepeatsTheMove(_Flip):
    def flip(self, weight: Weight, g: Any, D_old: Any, worse: bool) -> Any:
        return weight.q * D_old if worse else -weight.q * D_old


class UndoesIfBetter(_Flip):
    def flip(self, weight: Weight, g: Any, D_old: Any, worse: bool) -> Any:
        return 0 if worse else weight.q * D_old


class StepsBackThenOn(_Flip):
    """Takes the move back, then repeats it by the smaller step, and remembers its sign."""

    def flip(self, weight: Weight, g: Any, D_old: Any, worse: bool) -> Any:
        self._move(weight, weight.q * D_old)
        return -weight.q * weight.D

    def _step(self, weight: Weight, g: Any, worse: bool) -> None:
        q = weight.q
        super()._step(weight, g, worse)
        if sign(g) * q < 0:
            weight.q = q


class EqualIsWorse(Oracle):
    def step(self, gradients: Sequence[Any], E: float | None = None) -> None:
        if self.E_prev == E and E is not None:
            self.E_prev = math.nextafter(E, -math.inf)
        super().step(gradients, E)


class ComparesWithTheBest(Oracle):
    def step(self, gradients: Sequence[Any], E: float | None = None) -> None:
        best = math.inf if self.E_prev is None else self.E_prev
        super().step(gradients, E)
        self.E_prev = None if E is None else min(best, E)


class NoClampWithoutSign(TorchOracle):
    def step(self, gradients: Sequence[Any]) -> None:
        bounds = self.step_sizes
        for i, g in enumerate(gradients):  # a weight at a time, each with the bounds that apply to it
            low, high = bounds if g * self.prev[i] != 0 else (0.0, math.inf)
            one = TorchOracle([self.w[i]], self.dtype, self.lr, self.etas, (low, high))
            one.prev, one.step_size = [self.prev[i]], [self.step_size[i]]
            one.step([g])
            self.w[i], self.prev[i], self.step_size[i] = one.w[0], one.prev[0], one.step_size[0]


BACK = ("rprop+", "irprop+")
UNDERFLOW = "the product of two gradients can underflow"
MISTAKES: list[tuple[type[Oracle], str, Sequence[str]]] = [
    (OneStepLate, "every move comes one step late", RULES),
    (LateMoveDropped, "every move comes one step late and is dropped by a flip", ("irprop-",)),
    (FirstOnlyRemembered, "the first gradient is only remembered", RULES),
    (FirstIgnored, "the first step does nothing", RULES),
    (FirstGrows, "the step size grows before the first move", RULES),
    (NoSignGrows, "the step size also grows where no sign is remembered or the gradient is zero", RULES),
    (NoUpperBound, "step sizes have no upper bound", RULES),
    (NoLowerBound, "step sizes have no lower bound", RULES),
    (NoBounds, "step sizes have no bounds", RULES),
    (ZeroKeepsTheSign, "a zero gradient does not clear the remembered sign", RULES),
    (FlipIsRemembered, "the sign is remembered after a flip", ("irprop-", *BACK)),
    (FlipForgets, "a flip clears the remembered sign", ("rprop-",)),
    (FlipMovesUphill, "a flip moves uphill by the smaller step", ("irprop-",)),
    (UndoesTheSmallerStep, "it takes back the smaller step", ("irprop+",)),
    (StepsBackThenOn, "a flip then goes the old way again by the smaller step", ("rprop+",)),
    (RepeatsTheMove, "a flip repeats the last move where the loss did not rise", ("irprop+",)),
    (UndoesIfBetter, "it takes the move back where the loss did not rise", ("irprop+",)),
    (EqualIsWorse, "an equal loss counts as worse", ("irprop+",)),
    (ComparesWithTheBest, "the loss is compared with the best so far", ("irprop+",)),
]


def _deviations() -> Iterator[tuple[str, Callable[..., Any]]]:
    """Generate each mistake alone and with a floating product of gradients, the most common one."""
    for rule in RULES:
        if rule != "irprop-":  # there that is "torch"
            yield f"{rule}, but {UNDERFLOW}", partial(Underflows, rule)
    for mistake, text, rules in MISTAKES:
        bases = (mistake, Underflows) if mistake in (FirstGrows, ZeroKeepsTheSign) else (Underflows, mistake)
        both = type(mistake.__name__, bases, {})
        for rule in rules:
            yield f"{rule}, but {text}", partial(mistake, rule)
            yield f"{rule}, but {text}, and {UNDERFLOW}", partial(both, rule)
    yield (
        "torch, but step sizes are not clamped where no sign is remembered or the gradient is zero",
        NoClampWithoutSign,
    )


DEVIATIONS = dict(_deviations())


# --------------------------------------------------------------------------------------------- the traces


def oracle_of(rule: str, *args: Any) -> Any:
    return TorchOracle(*args) if rule == "torch" else Oracle(rule, *args)


def path_row(oracle: Any) -> dict[str, list[Any]]:
    """Return the observable state of an oracle: weights, remembered signs, step sizes."""
    if hasattr(oracle, "shown"):
        return {"w": list(oracle.shown)}
    if isinstance(oracle, TorchOracle):
        return {"w": list(oracle.w), "q": [sign(x) for x in oracle.prev], "D": list(oracle.step_size)}
    return {name: [getattr(weight, name) for weight in oracle.weights] for name in ("w", "q", "D")}


def run(oracle: Any, gradients: Sequence[Sequence[Any]], losses: Sequence[float]) -> dict[str, list[list[Any]]]:
    rows = []
    for g, loss in zip(gradients, losses, strict=True):
        with np.errstate(all="ignore"):
            oracle.step(g, *(() if isinstance(oracle, TorchOracle) else (loss,)))
        rows.append(path_row(oracle))
    return {name: [row[name] for row in rows] for name in rows[0]}


def make_trace(
    name: str,
    dtype: str,
    lr: float,
    etas: Any,
    step_sizes: Any,
    w0: Any,
    gradients: Any,
    losses: Any,
    rules: Sequence[str] = (*RULES, "torch"),
) -> dict[str, Any]:
    """Return a trace: the results of the rules, and of mistakes in them, for gradients and losses."""
    real = np.dtype(dtype).type
    w0 = [real(w) for w in w0]
    gradients = [[real(g) for g in row] for row in gradients]
    settings = (w0, dtype, lr, tuple(etas), tuple(step_sizes))
    paths = {rule: run(oracle_of(rule, *settings), gradients, losses) for rule in rules}
    deviations = {}  # those that differ from their base
    for name_, make in DEVIATIONS.items():
        rule = name_.partition(", but ")[0]
        if rule in rules:
            w = run(make(*settings), gradients, losses)["w"]
            w = rounded(w)
            if w != deviations.get(name_.rpartition(", and ")[0], rounded(paths[rule]["w"])):
                deviations[name_] = w
    entries = {
        "name": name,
        "dtype": dtype,
        "lr": lr,
        "etas": list(etas),
        "step_sizes": list(step_sizes),
        "w0": w0,
        "gradients": gradients,
        "losses": [float(loss) for loss in losses],
        "rules": paths,
        "deviations": deviations,
    }
    return plain(entries)


def rounded(path: Sequence[Sequence[Any]]) -> list[list[float]]:
    """Round to seven digits, to keep the files small: deviations only give a name to an observation."""
    return [[float(f"{w:.7g}") for w in row] for row in path]


def plain(x: Any) -> Any:
    """Convert to Python's numbers, a float32 to the shortest decimal that rounds to it."""
    if isinstance(x, dict):
        return {key: plain(value) for key, value in x.items()}
    if isinstance(x, list):
        return [plain(value) for value in x]
    return float(str(x)) if isinstance(x, np.floating) else x


def gradient(letter: str, size: float, dtype: str) -> float:
    sizes = {"t": TINY[dtype], "h": HUGE[dtype]}
    if letter in "0n":
        return -0.0 if letter == "n" else 0.0
    return sizes.get(letter.lower(), size) * (-1 if letter in "-TH" else 1)


def scenes() -> Iterator[dict[str, Any]]:
    """Generate all golden traces, as the entries of their files."""
    for rank, scene in enumerate(SCENES):
        scene = dict(scene)
        patterns, sizes = scene.pop("patterns"), scene.pop("sizes")
        for dtype in ("float32", "float64"):
            gradients = [
                [gradient(x, sizes[(t + 2 * i) % len(sizes)], dtype) for i, x in enumerate(letters)]
                for t, letters in enumerate(zip(*patterns, strict=True))
            ]
            yield {
                "rank": rank,
                **make_trace(dtype=dtype, w0=[0.5, -1.25, 3.0], gradients=gradients, **scene),
            }


def text(x: Any, indent: str = "") -> str:
    """Return JSON with a line for every row."""
    if isinstance(x, dict) and x:
        inner = ",\n".join(f"{indent} {json.dumps(key)}: {text(value, indent + ' ')}" for key, value in x.items())
        return f"{{\n{inner}\n{indent}}}"
    if isinstance(x, list) and x and isinstance(x[0], list):
        return "[\n" + ",\n".join(f"{indent} {json.dumps(row)}" for row in x) + f"\n{indent}]"
    return json.dumps(x)


def filename(entries: dict[str, Any]) -> str:
    return f"{entries['name']}.{entries['dtype']}.json"


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for entries in scenes():
        (FOLDER / filename(entries)).write_text(text(entries) + "\n", encoding="ascii")
