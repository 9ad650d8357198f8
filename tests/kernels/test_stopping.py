"""The stopping rules: against an oracle in plain Python, for numbers and rows, and every reason by itself."""

import math
import random
import re
from importlib.util import find_spec

import numpy as np
import pytest

from rprop_kernels.stopping import REASONS, Monitor, choose, validate

CODES = {reason.name: code for code, reason in enumerate(REASONS)}


def oracle(rules, maximize, losses, grads, rests, evaluations_left):
    """Name the reason after each evaluation of a whole course, from the lists of everything that was seen."""
    reasons = []
    for t in range(len(losses)):
        seen = [-loss if maximize else loss for loss in losses[: t + 1]]
        finite = [loss for loss in seen if math.isfinite(loss)]
        best = min(finite) if finite else math.inf
        bests = [min((x for x in seen[: s + 1] if math.isfinite(x)), default=math.inf) for s in range(t + 1)]
        candidate = [math.isfinite(seen[s]) and (s == 0 or seen[s] <= bests[s - 1]) for s in range(t + 1)]
        sound = [math.isfinite(seen[s]) and not (candidate[s] and math.isnan(grads[s])) for s in range(t + 1)]
        window = rules["window"]
        recent = sound[-window:]
        near = not all(recent)
        stalled = t >= window and rules["ftol"] is not None and bests[t - window] - best <= rules["ftol"] * abs(best)
        rest = rules["xtol"] is not None and t > 0 and t % 8 == 0 and rests[t] and sound[t]
        record = max(s for s in range(t + 1) if s == 0 or bests[s] < bests[s - 1])
        decreased = best < bests[0]
        if t == 0 and not math.isfinite(seen[0]):
            reason = "start"
        elif rules["gtol"] is not None and candidate[t] and grads[t] <= rules["gtol"]:
            reason = "gtol"
        elif stalled and not near and decreased:
            reason = "ftol"
        elif rest and not near:
            reason = "xtol"
        elif rules["target"] is not None and best <= (-rules["target"] if maximize else rules["target"]):
            reason = "target"
        elif rules["patience"] is not None and t - record >= rules["patience"]:
            reason = "patience"
        elif rules["max_steps"] is not None and t >= rules["max_steps"]:
            reason = "max_steps"
        elif not evaluations_left[t]:
            reason = "max_evals"
        elif (len(recent) == window and not any(recent)) or (near and (stalled or rest)):
            reason = "nonfinite"
        elif stalled and not decreased:
            reason = "no_decrease"
        else:
            reason = "running"
        reasons.append(reason)
    return reasons


def course(rng, length):
    """Draw losses that fall, stay, rise, and are lost, with gradients and rests to match."""
    style = rng.choice(["falling", "flat", "rising", "mixed"])
    level, losses = rng.uniform(-2, 10), []
    for _ in range(length):
        level += {"falling": -rng.random(), "flat": 0.0, "rising": rng.random(), "mixed": rng.uniform(-1, 1)}[style]
        losses.append(
            rng.choice([math.nan, math.inf, -math.inf]) if rng.random() < rng.choice([0, 0.05, 0.9]) else level
        )
    grads = [rng.choice([0.0, 1e-6, 0.3, 2.0, 2.0, 2.0, math.nan]) for _ in range(length)]
    return losses, grads, [rng.random() < 0.3 for _ in range(length)], [rng.random() < 0.95 for _ in range(length)]


def draw_rules(rng):
    def some(*values):
        return rng.choice(values)

    return {
        "gtol": some(None, 1e-5, 0.0, 0.5),
        "ftol": some(None, 0.0, 1e-3, 0.5),
        "xtol": some(None, 1e-10),
        "window": some(1, 2, 3, 7, 12),
        "patience": some(None, 1, 4),
        "target": some(None, 0.0, -1.0),
        "max_steps": some(None, 0, 10),
        "max_evals": None,
    }


@pytest.mark.parametrize("seed", range(300))
def test_the_decision_is_the_oracles(seed):
    rng = random.Random(seed)
    rules, maximize = draw_rules(rng), rng.random() < 0.5
    losses, grads, rests, left = course(rng, 40)
    monitor = Monitor(validate(**rules), maximize)
    expected = oracle(rules, maximize, losses, grads, rests, left)
    for t, loss in enumerate(losses):
        improved, candidate = monitor.add(loss)
        assert not improved or candidate
        code = monitor.decide(grads[t], rests[t], not left[t])
        assert REASONS[code].name == expected[t], f"evaluation {t}"


def libraries():
    yield np, np.asarray, np.where
    if find_spec("torch"):
        import torch

        def where(condition, value, other):
            if isinstance(condition, torch.Tensor):
                return torch.where(condition, value, other)
            return choose(condition, value, other)

        yield torch, torch.as_tensor, where


@pytest.mark.parametrize("library", list(libraries()), ids=lambda library: library[0].__name__)
@pytest.mark.parametrize("seed", range(40))
def test_rows_are_decided_as_if_alone(library, seed):
    _, array, where = library
    rng = random.Random(seed)
    rules, maximize = draw_rules(rng), rng.random() < 0.5
    rows = [course(rng, 30) for _ in range(6)]
    left = rows[0][3]  # one for all rows
    expected = [oracle(rules, maximize, *row[:3], left) for row in rows]
    monitor = Monitor(validate(**rules), maximize, where)
    present = list(range(6))
    for t in range(30):
        with np.errstate(invalid="ignore"):
            monitor.add(array([rows[i][0][t] for i in present]))
            code = monitor.decide(
                array([rows[i][1][t] for i in present]), array([rows[i][2][t] for i in present]), not left[t]
            )
        assert [REASONS[c].name for c in code.tolist()] == [expected[i][t] for i in present]
        if t % 9 == 8 and len(present) > 2:  # some leave
            keep = sorted(rng.sample(range(len(present)), len(present) - 1))
            monitor.select(array(keep))
            present = [present[i] for i in keep]


def test_the_window_of_rows_that_stay_is_whole():
    """Some leave before it is full; those that stay end as if nothing had happened."""
    monitor = Monitor(validate(window=12, xtol=None), False, np.where)
    names = []
    for t in range(13):
        monitor.add(np.array([1.0, 1.0, 1.0])[: 3 - (t > 5)])
        names.append(REASONS[monitor.decide(np.ones(3 - (t > 5)))[0]].name)
        if t == 5:
            monitor.select(np.array([True, False, True]))
    assert names == ["running"] * 12 + ["no_decrease"]


FALLING = [8.0 - t for t in range(6)]
FIRES = {  # rules, losses, gradients, whether at rest, whether evaluations are exhausted at the end
    "start": ({}, [math.nan], [1.0], False, False),
    "gtol": ({"gtol": 0.5}, [3.0, 2.0], [1.0, 0.5], False, False),
    "ftol": ({"window": 3}, [3.0, 2.0, 2.0, 2.0, 2.0], [1.0] * 5, False, False),
    "xtol": ({}, [9.0 - t for t in range(9)], [1.0] * 9, True, False),
    "target": ({"target": 2.0}, [3.0, 2.0], [1.0] * 2, False, False),
    "patience": ({"patience": 2}, [3.0, 2.0, 2.5, 2.0], [1.0] * 4, False, False),
    "max_steps": ({"max_steps": 5}, FALLING, [1.0] * 6, False, False),
    "max_evals": ({"max_evals": 6}, FALLING, [1.0] * 6, False, True),
    "nonfinite": ({"window": 3}, [3.0, math.inf, math.nan, -math.inf], [1.0] * 4, False, False),
    "no_decrease": ({"window": 3}, [3.0, 3.5, 3.0, 4.0], [1.0] * 4, False, False),
}


@pytest.mark.parametrize("name", FIRES)
def test_every_reason_fires_and_not_one_evaluation_early(name):
    rules, losses, grads, rest, exhausted = FIRES[name]
    monitor = Monitor(validate(**rules))
    names = []
    for t, (loss, grad) in enumerate(zip(losses, grads, strict=True)):
        monitor.add(loss)
        names.append(REASONS[monitor.decide(grad, rest, exhausted and t == len(losses) - 1)].name)
    assert names == ["running"] * (len(losses) - 1) + [name]


def test_the_statuses_are_those_of_the_contract():
    statuses = {reason.name: reason.status for reason in REASONS[1:]}
    assert statuses == {
        "gtol": 0, "ftol": 0, "xtol": 0, "target": 0, "max_steps": 1, "max_evals": 2, "nonfinite": 3, "start": 3,
        "no_decrease": 4, "patience": 5, "interrupted": 6, "callback": 99,
    }  # fmt: skip
    assert {reason.name for reason in REASONS if reason.success} == {"gtol", "ftol", "xtol", "target"}
    for name, words in {
        "start": "start where", "patience": "raise patience", "max_steps": "raise max_steps",
        "max_evals": "raise max_evals", "nonfinite": "give bounds", "no_decrease": "check the gradient",
    }.items():  # fmt: skip
        assert words in REASONS[CODES[name]].message


@pytest.mark.parametrize(
    ("name", "value", "remedy"),
    [
        ("gtol", -1e-5, "pass a number from 0 on, or None"),
        ("gtol", math.nan, "pass a number from 0 on"),
        ("ftol", "1e-9", "pass a number from 0 on"),
        ("ftol", True, "pass a number from 0 on"),
        ("xtol", -1, "pass a number from 0 on"),
        ("window", 0, "pass a whole number from 1 on"),
        ("window", 2.5, "pass a whole number from 1 on"),
        ("window", None, "pass a whole number from 1 on"),
        ("patience", 0, "pass a whole number from 1 on"),
        ("target", math.nan, "pass a number, or None"),
        ("target", "0", "pass a number, or None"),
        ("max_steps", -1, "pass a number from 0 on, or None"),
        ("max_steps", "5", "pass a number from 0 on, or None"),
        ("max_evals", 0, "pass a number from 1 on, or None"),
        ("max_evals", math.nan, "pass a number from 1 on, or None"),
    ],
)
def test_bad_arguments_are_named(name, value, remedy):
    with pytest.raises(ValueError, match=re.escape(f"{name}={value!r}: {remedy}")):
        validate(**{name: value})


def test_numbers_of_numpy_are_numbers():
    rules = validate(gtol=np.float32(0.5), window=np.int64(3), max_steps=np.int32(4), max_evals=math.inf)
    assert (rules.gtol, rules.window, rules.max_steps, rules.max_evals) == (0.5, 3, 4.0, None)
