"""Whole fits of 1, 100, 1,000 and 10,000 problems: ours in a batch, SciPy's solvers in a loop, torch's in a batch.

    pytest benchmarks/bench_fit.py --benchmark-only                                   # 1 and 100 problems
    pytest benchmarks/bench_fit.py --benchmark-only -m "" --benchmark-json=fit.json   # all

Everything runs on one thread and in float64, with gradients by hand. A problem is solved where its loss is within 1e-6
of the best one known, relative to it where that is above 1: the lowest that any contender found, or least_squares from
the point with which the data were made. The contenders of a group take turns; each test then reports the rounds of its
own contender. The largest loops are run in full, once.

SciPy's solvers and torch's LBFGS have their own defaults but for the limits of steps, and L-BFGS-B ftol=1e-10, since
its default stops too early on two thirds of the larger bowls. Adam has the best of LEARNING_RATES for 100 problems of
a kind, and ends by our gtol. torch's optimizers know no bounds: they search for the logits of the points within them.
"""

import contextlib
import functools
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("scipy")
pytest.importorskip("threadpoolctl")

import scipy.optimize
import threadpoolctl
import torch
from clock import CLOCK
from fits import MOST, PROBLEMS, Problem

import rprop_kernels.numpy
import rprop_kernels.torch

COUNTS = (1, 100, 1_000, MOST)
CLOSE = 1e-6
GTOL = 1e-5
MAX_STEPS = 3_000  # of the steps of torch's optimizers, as ours
LEARNING_RATES = (0.3, 0.1, 0.03, 0.01, 0.003)
ROUNDS, SECONDS = 5, 1.0
"""Rounds of a contender, and the time after which it runs no further one. The first round is watched; it counts only
where it takes longer than that."""


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Limit all pools of threads to one, or refuse to measure."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with threadpoolctl.threadpool_limits(1):
            pools = {pool["filepath"]: pool["num_threads"] for pool in threadpoolctl.threadpool_info()}
            if torch.get_num_threads() != 1 or set(pools.values()) - {1}:
                raise RuntimeError(f"more than one thread: torch {torch.get_num_threads()}, {pools}")
            yield
    finally:
        torch.set_num_threads(before)


# ------------------------------------------------------------------------------------------------- contenders

Watch = Callable[[Any, Any], None]
"""Gets numbers of problems and their losses, as they are evaluated or known."""
Contender = Callable[[Problem, int, Watch | None], Any]
"""Fits so many problems and returns their points, shape (count, n)."""


def ours_in_torch(problem: Problem, count: int, watch: Watch | None) -> Any:
    def fun(x: Any, *args: Any, rows: Any) -> Any:
        losses, grads = problem.rows(torch, x, *args)
        if watch:
            watch(rows.numpy(), losses.numpy())
        return losses, grads

    x0, args = torch.tensor(problem.points(problem.start, count)), tuple(map(torch.tensor, problem.data(count)))
    options = {"jac": True, "bounds": problem.bounds, "batched": True, "in_dims": 0 if args else None}
    return rprop_kernels.torch.minimize(fun, x0, args, **options).x.numpy()


class Analytic(torch.autograd.Function):
    """Losses of rows whose gradients are computed by hand, also where they are differentiated again."""

    @staticmethod
    def forward(ctx: Any, x: Any, rows: Any, *args: Any) -> Any:
        losses, ctx.grads = rows(torch, x, *args)
        ctx.save_for_backward(x, *args)
        ctx.rows = rows
        return losses

    @staticmethod
    def backward(ctx: Any, outer: Any) -> Any:
        x, *args = ctx.saved_tensors
        grads = ctx.rows(torch, x, *args)[1] if torch.is_grad_enabled() else ctx.grads
        return outer[:, None] * grads, None, *(None for _ in args)


def ours_with_newton(problem: Problem, count: int, watch: Watch | None) -> Any:
    def fun(x: Any, *args: Any, rows: Any) -> Any:
        losses = Analytic.apply(x, problem.rows, *args)
        if watch:
            watch(rows.numpy(), losses.detach().numpy())
        return losses

    x0, args = torch.tensor(problem.points(problem.start, count)), tuple(map(torch.tensor, problem.data(count)))
    options = {"bounds": problem.bounds, "batched": True, "in_dims": 0 if args else None}
    return rprop_kernels.torch.minimize(fun, x0, args, finish="newton", **options).x.numpy()


def ours_in_numpy(problem: Problem, count: int, watch: Watch | None) -> Any:
    if count == 1:
        x0, args = problem.points(problem.start, 1)[0], tuple(arg[0] for arg in problem.args)
        return rprop_kernels.numpy.minimize(problem.one, x0, args, jac=True, bounds=problem.bounds).x[None]

    def fun(x: Any, *args: Any, rows: Any) -> Any:
        losses, grads = problem.rows(np, x, *args)
        if watch:
            watch(rows, losses)
        return losses, grads

    x0, args = problem.points(problem.start, count), problem.data(count)
    options = {"jac": True, "bounds": problem.bounds, "batched": True, "in_dims": 0 if args else None}
    return rprop_kernels.numpy.minimize(fun, x0, args, **options).x


def scipy_lbfgsb(problem: Problem, count: int, watch: Watch | None) -> Any:
    bounds = None if problem.bounds is None else scipy.optimize.Bounds(*problem.bounds)
    options = {"maxiter": MAX_STEPS, "maxfun": 10 * MAX_STEPS, "ftol": 1e-10}
    found = problem.points(problem.start, count)
    for i in range(count):
        result = scipy.optimize.minimize(
            problem.one,
            found[i],
            tuple(arg[i] for arg in problem.args),
            jac=True,
            method="L-BFGS-B",
            bounds=bounds,
            options=options,
        )
        found[i] = result.x
        if watch:
            watch([i], result.fun)
    return found


def scipy_trf(problem: Problem, count: int, watch: Watch | None, start: Any = None) -> Any:
    bounds = (-np.inf, np.inf) if problem.bounds is None else problem.bounds
    found = problem.points(problem.start if start is None else start, count)
    for i in range(count):
        args = tuple(arg[i] for arg in problem.args)
        result = scipy.optimize.least_squares(
            problem.residuals, found[i], problem.jacobian, bounds, "trf", args=args, max_nfev=MAX_STEPS
        )
        found[i] = result.x
        if watch:
            watch([i], result.cost)
    return found


class Joint:
    """All problems as one function of z: of the points, or of their logits where there are bounds."""

    def __init__(self, problem: Problem, count: int, watch: Watch | None) -> None:
        self.problem, self.watch = problem, watch
        self.args = tuple(map(torch.tensor, problem.data(count)))
        self.z = torch.tensor(problem.points(problem.start, count))
        if problem.bounds is not None:
            self.low, self.high = map(torch.tensor, problem.bounds)
            self.z = torch.logit((self.z - self.low) / (self.high - self.low))
        self.z.requires_grad_()

    def points(self, z: Any) -> Any:
        if self.problem.bounds is None:
            return z
        return self.low + (self.high - self.low) * torch.sigmoid(z)

    @torch.no_grad()
    def __call__(self, z: Any) -> Any:
        """Return the sum of the losses and its gradient by z."""
        x = self.points(z)
        losses, grads = self.problem.rows(torch, x, *self.args)
        if self.watch:
            self.watch(slice(None), losses.numpy())
        if self.problem.bounds is not None:
            grads = grads * (x - self.low) * (self.high - x) / (self.high - self.low)
        return losses.sum(), grads

    @torch.no_grad()
    def found(self) -> Any:
        return self.points(self.z).numpy()


def torch_lbfgs(problem: Problem, count: int, watch: Watch | None) -> Any:
    joint = Joint(problem, count, watch)
    optimizer = torch.optim.LBFGS([joint.z], max_iter=MAX_STEPS, line_search_fn="strong_wolfe")

    def closure() -> Any:
        loss, joint.z.grad = joint(joint.z)
        return loss

    optimizer.step(closure)
    return joint.found()


def torch_adam(problem: Problem, count: int, watch: Watch | None, lr: float | None = None) -> Any:
    joint = Joint(problem, count, watch)
    optimizer = torch.optim.Adam([joint.z], lr=lr or problem.learning_rate, fused=True)
    for _ in range(MAX_STEPS):
        joint.z.grad = joint(joint.z)[1]
        if joint.z.grad.abs().max() <= GTOL:
            break
        optimizer.step()
    return joint.found()


class Summed(torch.autograd.Function):
    """The sum of all losses with its gradient, for a library that differentiates by itself."""

    @staticmethod
    def forward(ctx: Any, z: Any, joint: Joint) -> Any:
        loss, ctx.grad = joint(z)
        return loss

    @staticmethod
    def backward(ctx: Any, outer: Any) -> Any:
        return outer * ctx.grad, None


def pytorch_minimize(problem: Problem, count: int, watch: Watch | None) -> Any:
    torchmin = pytest.importorskip("torchmin", reason="pytorch-minimize is not installed")
    joint = Joint(problem, count, watch)
    result = torchmin.minimize(lambda z: Summed.apply(z, joint), joint.z.detach(), "l-bfgs", max_iter=MAX_STEPS)
    return joint.points(result.x).numpy()


CONTENDERS: dict[str, Contender] = {
    "minimize-newton": ours_with_newton,
    "minimize": ours_in_torch,
    "minimize-numpy": ours_in_numpy,
    "scipy-L-BFGS-B": scipy_lbfgsb,
    "scipy-trf": scipy_trf,
    "torch-LBFGS": torch_lbfgs,
    "torch-Adam": torch_adam,
    "pytorch-minimize": pytorch_minimize,
}
LOOPS = ("scipy-L-BFGS-B", "scipy-trf")


# ------------------------------------------------------------------------------------------------------- race


class Course:
    """The share of problems solved against time, as a run is watched."""

    def __init__(self, limit: Any) -> None:
        self.limit, self.solved = limit, np.zeros(len(limit), bool)
        self.points = [(0.0, 0.0)]
        self.start = time.perf_counter()

    def __call__(self, rows: Any, losses: Any) -> None:
        self.solved[rows] |= losses <= self.limit[rows]
        self.points.append((time.perf_counter() - self.start, self.solved.mean()))

    def thinned(self) -> list[list[float]]:
        """Return at most 41 points, evenly distributed by share."""
        times, shares = np.array(self.points).T
        index = np.unique(np.searchsorted(shares, np.linspace(0, shares[-1], 41)))
        return [
            [float(f"{t:.4g}"), float(f"{share:.4g}")] for t, share in zip(times[index], shares[index], strict=True)
        ]


def losses_at(problem: Problem, x: Any) -> Any:
    with np.errstate(all="ignore"):
        return np.nan_to_num(problem.rows(np, x, *problem.data(len(x)))[0], nan=np.inf)


def within(known: Any) -> Any:
    """Return the losses up to which problems count as solved."""
    return known + CLOSE * np.maximum(1, np.abs(known))


@functools.cache
def race(name: str, count: int) -> dict[str, tuple[list[float], float, list[list[float]]]]:
    """Return seconds of the rounds, the share solved and its course, by contender."""
    problem = PROBLEMS[name]
    times: dict[str, list[float]] = {contender: [] for contender in CONTENDERS}
    found, courses = {}, {}
    with one_thread(), np.errstate(all="ignore"):
        known = losses_at(problem, scipy_trf(problem, count, None, problem.truth))
        for round_ in range(ROUNDS + 1):
            for contender, fit in CONTENDERS.items():
                if sum(times[contender]) > SECONDS:
                    continue
                watch = Course(within(known)) if round_ == 0 and count >= 1_000 else None
                start = time.perf_counter()
                try:
                    x = fit(problem, count, watch)
                except pytest.skip.Exception:
                    continue
                took = time.perf_counter() - start
                if round_ == 0:
                    found[contender] = losses_at(problem, x)
                    courses[contender] = watch.thinned() if watch else []
                if round_ or took > SECONDS:  # the only round of a long one counts
                    times[contender].append(took)
        for losses in found.values():
            known = np.minimum(known, losses)
    solved = {contender: float((losses <= within(known)).mean()) for contender, losses in found.items()}
    return {contender: (times[contender], solved[contender], courses[contender]) for contender in found}


SIZES = [count if count < 1_000 else pytest.param(count, marks=pytest.mark.slow) for count in COUNTS]


@pytest.mark.benchmark(timer=CLOCK)
@pytest.mark.parametrize("contender", CONTENDERS)
@pytest.mark.parametrize("name", PROBLEMS)
@pytest.mark.parametrize("count", SIZES)
def test_fit(benchmark, count, name, contender):
    results = race(name, count)
    if contender not in results:
        pytest.skip(f"{contender} is not installed")
    times, solved, course = results[contender]
    benchmark.group = f"fit: {count} x {name}"
    benchmark.extra_info.update(contender=contender, problems=count, solved=solved, course=course)
    if contender == "torch-Adam":
        benchmark.extra_info["lr"] = PROBLEMS[name].learning_rate
    CLOCK.replay(benchmark, times)


# -------------------------------------------------------------------------------------------- steps of few rows

STEPS = 50


@functools.cache
def steps_of_rows(count: int) -> dict[str, list[float]]:
    """Return seconds of a step of logistic fits, evaluation included, with all rows active and with a quarter."""
    problem = PROBLEMS["logistic"]
    start, (y,) = problem.points(problem.start, count), problem.data(count)
    solved = np.arange(count) >= count // 4  # these start at an exact solution: they stop at once and leave
    exact = np.array([problem.residuals(x, 0.0) for x in problem.points(problem.truth, count)])
    kinds = {
        "all": (start, y),
        "quarter": (np.where(solved[:, None], problem.truth[:count], start), np.where(solved[:, None], exact, y)),
    }
    times: dict[str, list[float]] = {kind: [] for kind in kinds}
    options = {"jac": True, "batched": True, "in_dims": 0, "gtol": 1e-13, "ftol": None, "xtol": None}
    with one_thread():
        for _ in range(2 * ROUNDS + 1):
            for kind, arrays in kinds.items():
                x0, data = map(torch.tensor, arrays)
                began = time.perf_counter()
                result = rprop_kernels.torch.minimize(
                    lambda x, y: problem.rows(torch, x, y),
                    x0,
                    data,
                    bounds=problem.bounds,
                    max_steps=STEPS,
                    check_noise=False,
                    **options,
                )
                times[kind].append((time.perf_counter() - began) / STEPS)
                assert int((result.nit == STEPS).sum()) == (count if kind == "all" else count // 4)
    return {kind: x[1:] for kind, x in times.items()}


@pytest.mark.benchmark(timer=CLOCK)
@pytest.mark.parametrize("active", ["all", "quarter"])
@pytest.mark.parametrize("count", [1_000, MOST])
def test_step_of_active_rows(benchmark, count, active):
    benchmark.group = f"fit: a step of {count} rows"
    benchmark.extra_info.update(contender=active, problems=count)
    CLOCK.replay(benchmark, steps_of_rows(count)[active])
