"""Whole fits beside the oracle of the rules and plain stopping rules: minimize, Stopping, diagnostics, resets.

The reference knows the rules as the contract words them, one weight at a time. Points, losses, reasons, counts and
best points must be equal to the last bit.
"""

import importlib.util
import math
import random
import warnings
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
from fuzz_common import Finding, Room
from oracle import RULES, Oracle, sign

from rprop_kernels import numpy as arrays
from rprop_kernels.backends import unavailable_reason

HAS_TORCH = importlib.util.find_spec("torch") is not None
if HAS_TORCH:
    import torch

    from rprop_kernels import torch as tensors

Loss = Callable[[Any], tuple[float, Any]]


class PlainStopping:
    """The stopping rules in their order, from all losses so far."""

    def __init__(self, oracle: Oracle, rules: dict[str, Any]) -> None:
        self.oracle, self.rules = oracle, rules
        self.values: list[float] = []  # negated to maximize
        self.finite: list[bool] = []
        self.bests: list[float] = []
        self.best: tuple[float, list[Any]] | None = None
        self.reason: str | None = None

    def held(self, weight: Any, g: float) -> bool:
        """Whether a weight is frozen, or its gradient points out of its interval."""
        lower, upper = self.oracle.limits(weight)
        downhill = sign(g) if self.oracle.maximize else -sign(g)
        return weight.frozen or (weight.w <= lower and downhill < 0) or (weight.w >= upper and downhill > 0)

    def test(self, loss: float, grads: Any) -> None:
        weights = self.oracle.weights
        value = -loss if self.oracle.maximize else loss
        before = self.bests[-1] if self.bests else math.inf
        self.values.append(value)
        is_best = math.isfinite(value) and value < before
        if is_best and self.reason is None:
            self.best = loss, [weight.w for weight in weights]
        self.bests.append(min(before, value) if math.isfinite(value) else before)
        free = [float(g) for weight, g in zip(weights, grads, strict=True) if not self.held(weight, g)]
        not_above = math.isfinite(value) and value <= before
        self.finite.append(math.isfinite(value) and not (not_above and any(map(math.isnan, free))))
        if self.reason is None:
            self.reason = self.find(not_above, free, grads)

    def find(self, not_above: bool, free: list[float], grads: Any) -> str | None:
        rules, window, t = self.rules, self.rules["window"], len(self.values) - 1
        best, first = self.bests[-1], self.bests[0]
        stalled = rules["ftol"] is not None and t >= window
        stalled = stalled and self.bests[t - window] - best <= rules["ftol"] * abs(best)
        near_nonfinite = not all(self.finite[-window:])
        at_rest = rules["xtol"] is not None and t > 0 and t % 8 == 0 and self.finite[-1]
        D_min = max(self.oracle.step_sizes[0], self.oracle.smallest)
        at_rest = at_rest and all(
            self.held(w, g) or max(D_min, rules["xtol"] * max(abs(w.w), 1)) >= w.D
            for w, g in zip(self.oracle.weights, grads, strict=True)
        )
        since_best = t - max((i for i in range(t + 1) if i == 0 or self.bests[i] < self.bests[i - 1]), default=0)
        target = rules["target"]
        conditions = {
            "start": t == 0 and not math.isfinite(self.values[0]),
            "gtol": rules["gtol"] is not None and not_above and all(abs(g) <= rules["gtol"] for g in free),
            "ftol": stalled and not near_nonfinite and best < first,
            "xtol": at_rest and not near_nonfinite,
            "target": target is not None and best <= (-target if self.oracle.maximize else target),
            "patience": rules["patience"] is not None and since_best >= rules["patience"],
            "max_steps": rules["max_steps"] is not None and t >= rules["max_steps"],
            "max_evals": rules["max_evals"] is not None and t + 2 > rules["max_evals"],
            "nonfinite": (t + 1 >= window and not any(self.finite[-window:]))
            or (near_nonfinite and (stalled or at_rest)),
            "no_decrease": stalled and not best < first,
        }
        return next((name for name, holds in conditions.items() if holds), None)


class Fit(Room):
    """One problem, the oracle of its rule, and what is done with it."""

    name = "fit"
    every = 4
    operations: ClassVar[dict[str, int]] = {"minimize": 2, "loop": 3}

    def start(self, rng: random.Random) -> None:
        n = rng.randrange(1, 6)
        scale, center = ([rng.uniform(-3, 3) for _ in range(n)] for _ in range(2))
        a, c = 10 ** np.array(scale), np.array(center)
        cliff = rng.choice((math.inf, math.inf, 3.0))
        power = rng.choice((2, 2, 4))
        self.x0 = np.array([rng.uniform(-2, 2) for _ in range(n)])
        self.maximize = rng.random() < 0.3
        factor = -1.0 if self.maximize else 1.0

        def fun(x: Any) -> tuple[float, Any]:
            if np.abs(x).sum() > cliff:
                return math.nan, np.full_like(x, math.nan)
            return factor * float((a * (x - c) ** power).sum()), factor * power * a * (x - c) ** (power - 1)

        self.fun: Loss = fun
        step_sizes = rng.choice(((0.0, 50.0), (1e-6, 50.0), (1e-3, 0.5)))
        self.options: dict[str, Any] = {"lr": rng.choice((0.01, 0.1, 0.5)), "step_sizes": step_sizes}
        self.options |= {"etas": rng.choice(((0.5, 1.2), (0.3, 2.0))), "maximize": self.maximize}
        if rng.random() < 0.4:
            self.options["bounds"] = rng.choice(((-2.0, 2.0), (-2.0, None), (None, 2.5)))
        if rng.random() < 0.3:
            self.options["frozen"] = np.array([rng.random() < 0.4 for _ in range(n)])
        self.rule = rng.choice(RULES)
        self.rules: dict[str, Any] = {
            "gtol": rng.choice((None, 1e-5, 1e-2, 0.0)),
            "ftol": rng.choice((None, 1e-9, 1e-3, 0.0)),
            "xtol": rng.choice((None, 1e-10, 1e-3)),
            "window": rng.choice((1, 3, 10, 50)),
            "patience": rng.choice((None, None, 1, 12)),
            "max_steps": rng.choice((0, 5, 40, 200)),
        }
        self.is_torch = HAS_TORCH and rng.random() < 0.5
        names = ("cython", "numba", "torch" if self.is_torch else "numpy")
        self.options["backend"] = rng.choice([x for x in names if x in ("torch", "numpy") or not unavailable_reason(x)])
        library = "torch" if self.is_torch else "numpy"
        self.say(f"{library}, {self.rule}, x0={self.x0.tolist()}, options={self.options}, rules={self.rules}")
        self.say(f"a={a.tolist()}, c={c.tolist()}, power={power}, NaN beyond {cliff}")

    def oracle(self) -> Oracle:
        lower, upper = self.options.get("bounds", (None, None))
        frozen = self.options.get("frozen", False)
        return Oracle(
            self.rule, self.x0, "float64", self.options["lr"], self.options["etas"], self.options["step_sizes"],
            self.maximize, lower, upper, frozen,
        )  # fmt: skip

    def for_library(self) -> dict[str, Any]:
        options = dict(self.options)
        if self.is_torch and "frozen" in options:
            options["frozen"] = torch.tensor(options["frozen"])
        return options

    def compare(self, what: str, ours: Any, theirs: Any) -> None:
        same = np.asarray(ours).tobytes() == np.asarray(theirs).tobytes() if what in ("x", "fun") else ours == theirs
        if not same:
            raise Finding(f"{what} is {ours!r}, not {theirs!r}")

    # ------------------------------------------------------------------------------------------ operations

    def minimize(self, rng: random.Random) -> None:
        rules = dict(self.rules, target=rng.choice((None, None, 0.5, -0.5)), max_evals=rng.choice((None, None, 1, 9)))
        self.say(f"minimize with target={rules['target']}, max_evals={rules['max_evals']}")
        oracle = self.oracle()
        plain = PlainStopping(oracle, rules)
        while True:
            x = np.array([weight.w for weight in oracle.weights])
            loss, grads = self.fun(x)
            plain.test(loss, grads)
            if plain.reason is not None:
                break
            if not math.isfinite(loss):  # with every method the last moves are taken back
                oracle.rule, before = "irprop+", oracle.E_prev
                oracle.E_prev = 0.0
                oracle.step(grads, loss)
                oracle.rule, oracle.E_prev = self.rule, before
            else:
                oracle.step(grads, loss if self.rule == "irprop+" else None)
        library = tensors if self.is_torch else arrays
        fun: Any = self.fun
        x0: Any = self.x0.copy()
        if self.is_torch:
            x0 = torch.tensor(x0)

            def fun(x: Any) -> Any:
                loss, grads = self.fun(x.numpy())
                return loss, torch.tensor(grads)

        result = library.minimize(fun, x0, jac=True, method=self.rule, check_noise=False, **self.for_library(), **rules)
        self.tally.steps += 1
        self.compare("reason", result.reason, plain.reason)
        self.compare("nit", int(result.nit), len(plain.values) - 1)
        loss, best = plain.best if plain.best is not None else (math.nan, list(self.x0))
        self.compare("x", result.x, np.array(best))
        if plain.best is not None:
            self.compare("fun", float(result.fun), loss)

    def loop(self, rng: random.Random) -> None:
        """A loop with Stopping in either order, with figures, resets and edits between the steps."""
        rules = {**self.rules, "target": None, "max_evals": None}
        oracle = self.oracle()
        plain = PlainStopping(oracle, rules)
        weights: Any = self.x0.copy()
        if self.is_torch:
            weights = torch.nn.Parameter(torch.tensor(self.x0))
            shared = weights.detach().numpy()
            cls = {"rprop-": "RpropMinus", "rprop+": "RpropPlus", "irprop-": "IRpropMinus", "irprop+": "IRpropPlus"}
            optimizer: Any = getattr(tensors, cls[self.rule])([weights], **self.for_library())
            stop: Any = tensors.Stopping(optimizer, **self.rules)
        else:
            shared = weights
            optimizer = arrays.METHODS[self.rule](weights, **self.options)
            stop = arrays.Stopping(optimizer, **self.rules)

        def call(action: str, loss: float, grads: Any) -> Any:
            if not self.is_torch:
                arguments = (loss, grads) if action == "stop" else (grads, *(() if action == "step" else (loss,)))
                return stop(*arguments) if action == "stop" else optimizer.step(*arguments)
            weights.grad = torch.tensor(grads)
            return stop(loss) if action == "stop" else optimizer.step(loss=None if action == "step" else loss)

        for _ in range(rng.randrange(1, 120)):
            loss, grads = self.fun(shared)
            plain.test(loss, grads)
            order = rng.choice(("stop first", "stop first", "step first"))
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "the first loss is|the search has stopped with a gradient above gtol")
                if order == "step first":
                    call("step with loss", loss, grads)
                stopped = call("stop", loss, grads)
                self.compare("reason", stop.reason, plain.reason)
                self.compare("the answer", bool(stopped), plain.reason is not None)
                if order == "stop first":
                    if stopped:
                        break
                    call("step", loss, grads)
            oracle.step(grads, loss if self.rule == "irprop+" else None)
            self.tally.steps += 1
            self.compare("x", shared, np.array([weight.w for weight in oracle.weights]))
            if stopped:
                break
            act = rng.random()
            if act < 0.05:
                lr = rng.choice((None, 0.25))
                self.say(f"reset_steps({lr})")
                optimizer.reset_steps(lr)
                for weight in oracle.weights:
                    weight.q, weight.D = 0, oracle.real(oracle.lr if lr is None else lr)
                oracle.lr, oracle.E_prev = oracle.lr if lr is None else lr, None
            elif act < 0.1:
                index = rng.randrange(len(shared))
                shared[index] = oracle.weights[index].w = shared[index] * 0.5
            elif act < 0.2:
                self.check_figures(optimizer.diagnostics()[0], oracle)
        if plain.best is not None:
            self.say("stop.restore_best()")
            stop.restore_best()
            self.compare("fun", float(stop.best_loss), plain.best[0])
            self.compare("x", shared, np.array(plain.best[1]))

    def check_figures(self, row: dict[str, Any], oracle: Oracle) -> None:
        """Compare diagnostics with a count of the oracle's weights."""
        free = [weight for weight in oracle.weights if not weight.frozen]
        self.compare("weights", row["weights"], len(free))
        if not free:
            return
        D_min, D_max = max(oracle.step_sizes[0], oracle.smallest), oracle.step_sizes[1]
        counts = {
            "at_step_min": sum(bool(D_min >= weight.D) for weight in free),
            "at_step_max": sum(bool(D_max <= weight.D) for weight in free),
            "at_bound": sum(
                (weight.lower is not None and bool(weight.w <= weight.lower))
                or (weight.upper is not None and bool(weight.w >= weight.upper))
                for weight in free
            ),
            "without_sign": sum(weight.q == 0 for weight in free),
        }
        for name, count in counts.items():
            self.compare(name, row[name], count / len(free))
        quartiles = np.quantile([float(weight.D) for weight in free], (0.25, 0.5, 0.75))
        if not np.allclose(row["step_quartiles"], quartiles, rtol=1e-12, atol=0):
            raise Finding(f"step_quartiles are {row['step_quartiles']}, not {quartiles}")


ROOMS: tuple[type[Room], ...] = (Fit,)
