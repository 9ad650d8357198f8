"""A conformance check: find out which rule an implementation of Rprop follows, from any library.

::

    def make_stepper(w0, *, lr, etas, step_sizes):
        w = torch.from_numpy(w0.copy())
        optimizer = torch.optim.Rprop([w], lr=lr, etas=etas, step_sizes=step_sizes)

        def step(gradients, loss):
            w.grad = torch.from_numpy(gradients.copy())
            optimizer.step()
            return w.numpy()

        return step

    print(check_rprop(make_stepper, "irprop-"))

The stepper receives the gradients and losses of golden traces, sign patterns that distinguish the rules, and its
weights are compared with those on file. The files in ``rprop_kernels/traces`` were written by a scalar transcription
of the papers that shares no code with this package; they also hold the results of common mistakes.

Needs NumPy and nothing else.
"""

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any, Final, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from .rules import VARIANTS

__all__ = ["Departure", "Report", "Trace", "check_rprop", "load_traces"]

Array: TypeAlias = NDArray[Any]
Path: TypeAlias = Sequence[Sequence[float]]
Step: TypeAlias = Callable[[Array, float], Any]

QUANTITIES: Final = ("w", "q", "D")
MISTAKE_SEPARATOR: Final = ", but "
"""Stands between a rule and a mistake in it, in the name of a deviation."""
SECOND_SEPARATOR: Final = ", and "
"""Stands before the second mistake."""
DEVIATION_TOLERANCE: Final = 1e-6
"""Deviations are on file with seven digits."""


class MakeStepper(Protocol):
    """Adapter of an implementation; a call starts a run.

    Args:
        w0: the weights to start from, shape (n,), float32 or float64; the stepper's own copy.
        lr: the first step size.
        etas: ``(eta_minus, eta_plus)``.
        step_sizes: ``(D_min, D_max)``.

    Returns:
        ``step(gradients, loss)``, which performs one step and returns the weights after it, shape (n,). The
        gradients are of w0's shape and dtype, the loss is that of the weights before the step. A step may
        return ``(w, q, D)`` instead: then remembered signs and step sizes are compared as well.
    """

    def __call__(
        self, w0: Array, /, *, lr: float, etas: tuple[float, float], step_sizes: tuple[float, float]
    ) -> Step: ...


@dataclass(frozen=True)
class Trace:
    """The inputs of a run, and the results of every rule.

    Attributes:
        name: of the situation, such as ``"double-flips"``.
        dtype: ``"float32"`` or ``"float64"``.
        lr: the first step size.
        etas: ``(eta_minus, eta_plus)``.
        step_sizes: ``(D_min, D_max)``.
        w0: weights at the start, shape (n,).
        gradients: one row of n for each step.
        losses: one for each step, at the weights before it.
        rules: for each rule that is defined here, rows of ``"w"``, ``"q"`` and ``"D"`` after each step.
        deviations: rows of w for rules with a mistake in them, named ``"<rule>, but <mistake>"`` or
            ``"<rule>, but <mistake>, and <mistake>"``; absent where the last mistake makes no difference.

    Examples:
        >>> trace = load_traces()[0]
        >>> trace.name, trace.losses[:3], list(trace.expected("irprop-"))
        ('flips-loss-rises', [0.25, 0.5, 1.0], ['w', 'q', 'D'])
    """

    name: str
    dtype: str
    lr: float
    etas: tuple[float, float]
    step_sizes: tuple[float, float]
    w0: Sequence[float]
    gradients: Path
    losses: Sequence[float]
    rules: Mapping[str, Mapping[str, Path]]
    deviations: Mapping[str, Path]

    def expected(self, hypothesis: str) -> Mapping[str, Path] | None:
        """Return rows by quantity for a rule or a deviation; None where the trace has none for it."""
        rule, _, mistake = hypothesis.partition(MISTAKE_SEPARATOR)
        rows = self.rules.get(rule)
        if rows is None or not mistake:
            return rows
        first_mistake = hypothesis.rpartition(SECOND_SEPARATOR)[0]
        return {"w": self.deviations.get(hypothesis) or self.deviations.get(first_mistake) or rows["w"]}


@dataclass(frozen=True)
class Departure:
    """The first difference of an implementation from a rule.

    Attributes:
        trace: name of the trace.
        dtype: of the trace.
        step: counted from 1.
        weight: index of the weight.
        quantity: ``"w"``, ``"q"``, ``"D"``, or ``"exception"``.
        expected: the value that the rule gives; None for an exception.
        got: the value of the implementation, or the text of its exception.

    Examples:
        >>> print(Departure("zeros", "float32", 2, 0, "w", 3.0, 2.5))
        trace zeros (float32), step 2, weight 0: w is 2.5, not 3.0
    """

    trace: str
    dtype: str
    step: int
    weight: int
    quantity: str
    expected: float | None
    got: float | str

    def __str__(self) -> str:
        where = f"trace {self.trace} ({self.dtype}), step {self.step}"
        if self.quantity == "exception":
            return f"{where}: {self.got}"
        return f"{where}, weight {self.weight}: {self.quantity} is {self.got!r}, not {self.expected!r}"


@dataclass(frozen=True)
class Report:
    """The result of `check_rprop`; ``str()`` of it is meant to be read.

    Attributes:
        claimed: the rule it was checked against.
        follows: the hypotheses that explain every trace with the fewest mistakes: rules, else rules with one mistake,
            else with two; empty where none does.
        departure: the first difference from the claimed rule, None where there is none.
        closest: the hypothesis that explains the largest share of its traces, the number of traces that it explains,
            and the number of its traces.
        overwrites: whether a step changed the gradients that it received.

    Examples:
        >>> print(Report("rprop-", ("rprop-",), None, ("rprop-", 20, 20)))
        rprop-: as published, in all 20 traces
    """

    claimed: str
    follows: tuple[str, ...]
    departure: Departure | None
    closest: tuple[str, int, int]
    overwrites: bool = False

    @property
    def clean(self) -> bool:
        """Whether the implementation follows the claimed rule."""
        return self.departure is None

    def __str__(self) -> str:
        end = "\noverwrites the gradients it is given" if self.overwrites else ""
        if self.departure is None:
            return f"{self.claimed}: as published, in all {self.closest[2]} traces{end}"
        name, hits, traces = self.closest
        closest = f"; closest: {name}, in {hits} of {traces} traces" if hits else ""
        found = " or ".join(self.follows) or f"no rule known here{closest}"
        return f"not {self.claimed}: {self.departure}\nfollows: {found}{end}"


def load_traces() -> tuple[Trace, ...]:
    """Return the golden traces, those that distinguish most first.

    Examples:
        >>> load_traces()[0].name
        'flips-loss-rises'
    """
    return _load()


@cache
def _load() -> tuple[Trace, ...]:
    found = [
        json.loads(file.read_text())
        for file in (files(__package__) / "traces").iterdir()
        if file.name.endswith(".json")
    ]
    found.sort(key=lambda entries: (entries.pop("rank"), entries["dtype"]))
    return tuple(trace_of(entries) for entries in found)


def trace_of(entries: Mapping[str, Any]) -> Trace:
    """Return a trace from the entries of its file (which holds a float32 as a short decimal)."""
    real = np.dtype(entries["dtype"])
    rules = {
        rule: {name: np.array(path, np.int8 if name == "q" else real).tolist() for name, path in rows.items()}
        for rule, rows in entries["rules"].items()
    }
    return Trace(
        **{
            **entries,
            "rules": rules,
            "etas": tuple(entries["etas"]),
            "step_sizes": tuple(entries["step_sizes"]),
        }
    )


def check_rprop(
    make_stepper: MakeStepper,
    variant: str,
    *,
    tolerance: float = 0.0,
    dtypes: Iterable[str] = ("float32", "float64"),
    traces: Iterable[Trace] | None = None,
) -> Report:
    """Run an implementation on the golden traces and report the rule that it follows.

    Args:
        make_stepper: the implementation's adapter (`MakeStepper`).
        variant: the rule it claims, a key of ``rprop_kernels.VARIANTS``: ``"rprop-"``, ``"rprop+"``,
            ``"irprop-"``, ``"irprop+"`` or ``"torch"``.
        tolerance: 0 compares bits. Above 0, w and D may differ by ``tolerance * max(|expected|, |w|)``: for
            libraries that round elsewhere (1e-5 suits float32, 1e-12 float64; the rules differ by far more).
        dtypes: dtypes of the traces to run. Their gradients and losses are finite: the treatment of NaN is not
            checked.
        traces: other traces than those on file.

    Raises:
        ValueError: there is no such variant, or no trace for it, or the tolerance is invalid. (An exception of the
            implementation is part of the report.)

    Examples:
        >>> from rprop_kernels.numpy import IRpropMinus
        >>> def make_stepper(w, *, lr, etas, step_sizes):
        ...     optimizer = IRpropMinus(w, lr, etas, step_sizes)
        ...     def step(gradients, loss):
        ...         optimizer.step(gradients)
        ...         return w
        ...     return step
        >>> print(check_rprop(make_stepper, "irprop-"))
        irprop-: as published, in all 20 traces
        >>> check_rprop(make_stepper, "irprop+").follows
        ('irprop-',)
    """
    if variant not in VARIANTS:
        raise ValueError(f"there is no variant {variant!r}: choose one of {', '.join(VARIANTS)}")
    dtypes = (dtypes,) if isinstance(dtypes, str) else tuple(dtypes)
    if not 0.0 <= tolerance < math.inf:
        raise ValueError(f"tolerance={tolerance!r}: pass 0 for bits, or a small positive number such as 1e-5")
    chosen = [
        trace
        for trace in (load_traces() if traces is None else traces)
        if trace.dtype in dtypes and variant in trace.rules
    ]
    if not chosen:
        raise ValueError(f"there is no trace of {variant!r} in {', '.join(dtypes)}")
    runs = [_run(make_stepper, trace) for trace in chosen]
    overwrites = any(changed for _, changed in runs)
    pairs = [(trace, rows) for trace, (rows, _) in zip(chosen, runs, strict=True)]

    departure = next((d for pair in pairs if (d := _compare(*pair, variant, tolerance))), None)
    rules = [name for name in VARIANTS if any(name in trace.rules for trace in chosen)]
    rules.sort(key=lambda name: name != variant)  # the claimed one first
    mistakes = dict.fromkeys(name for trace in chosen for name in trace.deviations)
    hits: dict[str, tuple[int, int]] = {}
    for name in (*rules, *mistakes):
        matches = [_compare(*pair, name, tolerance) is None for pair in pairs if pair[0].expected(name)]
        hits[name] = sum(matches), len(matches)
    explanations = [name for name, (matching, of) in hits.items() if matching == of]
    fewest = min(map(_count_mistakes, explanations), default=0)
    follows = tuple(name for name in explanations if _count_mistakes(name) == fewest)
    best = max(hits, key=lambda name: hits[name][0] / hits[name][1])
    return Report(variant, follows, departure, (best, *hits[best]), overwrites)


def _count_mistakes(hypothesis: str) -> int:
    """Count the mistakes in the name of a hypothesis."""
    return (MISTAKE_SEPARATOR in hypothesis) + (SECOND_SEPARATOR in hypothesis)


def _run(make_stepper: MakeStepper, trace: Trace) -> tuple[list[tuple[Array, ...] | str], bool]:
    """Run an implementation on a trace.

    Returns:
        Its results after every step (a text where it raised, which ends the run), and whether it changed gradients.
    """
    rows: list[tuple[Array, ...] | str] = []
    real = np.dtype(trace.dtype)
    changed = False
    try:
        step = make_stepper(np.array(trace.w0, real), lr=trace.lr, etas=trace.etas, step_sizes=trace.step_sizes)
        for values, loss in zip(trace.gradients, trace.losses, strict=True):
            gradients = np.array(values, real)
            got = step(gradients, loss)
            changed = changed or gradients.tobytes() != np.array(values, real).tobytes()
            got = got if isinstance(got, tuple) else (got,)
            rows.append(tuple(np.array(x, np.float64).reshape(len(trace.w0)) for x in got))
    except Exception as error:  # part of the report
        rows.append(f"{type(error).__name__}: {error}")
    return rows, changed


def _compare(
    trace: Trace, run: Sequence[tuple[Array, ...] | str], hypothesis: str, tolerance: float
) -> Departure | None:
    """Return the first difference of a run from a rule or deviation."""
    expected = trace.expected(hypothesis)
    if expected is None:
        return None
    if MISTAKE_SEPARATOR in hypothesis:
        tolerance = max(tolerance, DEVIATION_TOLERANCE)
    for index, got in enumerate(run):
        if isinstance(got, str):
            return Departure(trace.name, trace.dtype, index + 1, 0, "exception", None, got)
        for quantity, values in zip(QUANTITIES, got, strict=False):
            for weight, want in enumerate(expected[quantity][index] if quantity in expected else ()):
                value = float(values[weight])
                scale = max(abs(want), abs(expected["w"][index][weight])) if quantity != "q" else 0.0
                if not _equal(value, want, tolerance * scale):
                    return Departure(trace.name, trace.dtype, index + 1, weight, quantity, want, value)
    return None


def _equal(got: float, expected: float, allowed: float) -> bool:
    if allowed > 0:
        return abs(got - expected) <= allowed
    return got == expected and (got != 0 or math.copysign(1, got) == math.copysign(1, expected))
