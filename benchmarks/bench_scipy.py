"""Time and evaluations to a given loss: Rprop, scipy's L-BFGS-B and CG, and the iRprop- of PINTS.

    pytest benchmarks/bench_scipy.py --benchmark-only

All results are shown: badly scaled problems suit Rprop, valleys oblique to the axes do not. A contender that
does not reach the loss within MAX_EVALUATIONS evaluations is skipped with that reason. PINTS is
optional: ``pip install pints``.
"""

import functools
import time

import numpy as np
import pytest

pytest.importorskip("scipy")
pytest.importorskip("sklearn")

from clock import CLOCK
from scipy.optimize import minimize, rosen, rosen_der
from sklearn.datasets import load_digits

from rprop_kernels.scipy import METHODS, minimize_many

MAX_EVALUATIONS = 30_000
rng = np.random.default_rng(0)


STEEP, MILD = 10.0 ** np.linspace(0, 8, 100), 10.0 ** np.linspace(0, 3, 20)


def bowl(x):
    """A quadratic along the axes, curvatures from 1 to 10^8."""
    return 0.5 * STEEP @ x**2, STEEP * x


TURN = np.linalg.qr(rng.normal(size=(20, 20)))[0]


def turned_bowl(x):
    """A quadratic oblique to the axes, curvatures from 1 to 10^3."""
    y = TURN @ x
    return 0.5 * MILD @ y**2, TURN.T @ (MILD * y)


def valley(x):
    """Rosenbrock's."""
    return rosen(x), rosen_der(x)


FEATURES = rng.normal(size=(500, 30)) * 10.0 ** rng.uniform(-2, 2, 30)  # of very different scales
LABELS = np.where(FEATURES @ rng.normal(size=30) / 30 + rng.normal(size=500) > 0, 1.0, -1.0)


def logistic(x):
    """Logistic regression on unscaled features."""
    margin = LABELS * (FEATURES @ x)
    p = np.exp(-np.logaddexp(0, margin))
    return np.logaddexp(0, -margin).mean(), -FEATURES.T @ (LABELS * p) / LABELS.size


PIXELS, DIGITS = load_digits(return_X_y=True)
PIXELS, TARGETS = PIXELS / 16, np.eye(10)[DIGITS]


def network(x):
    """Cross entropy of a 64-20-10 network on the digits, full batch."""
    w1, b1, w2, b2 = x[:1280].reshape(64, 20), x[1280:1300], x[1300:1500].reshape(20, 10), x[1500:]
    hidden = np.tanh(PIXELS @ w1 + b1)
    scores = hidden @ w2 + b2
    scores -= scores.max(axis=1, keepdims=True)
    log_p = scores - np.log(np.exp(scores).sum(axis=1, keepdims=True))
    d = (np.exp(log_p) - TARGETS) / len(TARGETS)
    back = d @ w2.T * (1 - hidden**2)
    parts = PIXELS.T @ back, back.sum(axis=0), hidden.T @ d, d.sum(axis=0)
    return -(TARGETS * log_p).sum() / len(TARGETS), np.concatenate([part.ravel() for part in parts])


PROBLEMS = {  # start, loss to be reached
    bowl: (np.full(100, 3.0), 1e-6),
    turned_bowl: (np.full(20, 3.0), 1e-3),
    valley: (np.array([-1.2, 1.0]), 1e-3),
    logistic: (np.zeros(30), 0.45),
    network: (np.random.default_rng(1).normal(size=1510) * 0.1, 0.01),
}


class Reached(Exception):
    pass


class GivenUp(Exception):
    pass


def by_scipy(method):
    def search(function, start):
        minimize(function, start, jac=True, method=method, options={"gtol": 0.0, "maxiter": MAX_EVALUATIONS})

    return search


def by_pints(function, start):
    pints = pytest.importorskip("pints", reason="PINTS is not installed: pip install pints")
    optimizer = pints.IRPropMin(start, 0.1)
    optimizer.set_min_step_size(1e-12)
    while True:
        loss, gradient = function(optimizer.ask()[0])
        optimizer.tell([(loss, gradient.copy())])  # it writes into the gradient


CONTENDERS = {name: by_scipy(method) for name, method in METHODS.items()} | {
    "L-BFGS-B": by_scipy("L-BFGS-B"),
    "CG": by_scipy("CG"),
    "PINTS-irprop-": by_pints,
}


def run(problem, search):
    """Count evaluations to the loss of the problem."""
    start, target = PROBLEMS[problem]
    evaluations = 0

    def counted(x):
        nonlocal evaluations
        evaluations += 1
        loss, gradient = problem(x)
        if loss <= target:
            raise Reached
        if evaluations >= MAX_EVALUATIONS:
            raise GivenUp
        return loss, gradient

    try:
        search(counted, start)
    except Reached:
        return evaluations
    except GivenUp:
        pass
    return None


@pytest.mark.parametrize("contender", CONTENDERS)
@pytest.mark.parametrize("problem", PROBLEMS, ids=lambda problem: problem.__name__)
def test_time_to_loss(benchmark, problem, contender):
    evaluations = run(problem, CONTENDERS[contender])  # also warms up
    if evaluations is None:
        pytest.skip(f"{contender} does not reach {PROBLEMS[problem][1]:g} within {MAX_EVALUATIONS} evaluations")
    benchmark.group = f"scipy: {problem.__name__} to {PROBLEMS[problem][1]:g}"
    benchmark.extra_info.update(contender=contender, evaluations=evaluations)
    benchmark.pedantic(run, args=(problem, CONTENDERS[contender]), rounds=5)


EVALUATIONS = 1_000
BARE = np.full(3, 3.0), 10.0 ** np.linspace(0, 3, 3)


def cheap(x):
    """A bowl of three variables, whose evaluation costs little next to a step."""
    return 0.5 * float(BARE[1] @ (x * x)), BARE[1] * x


def evaluations_by_scipy():
    options = {"gtol": 0.0, "ftol": 0.0, "xtol": 0.0, "window": EVALUATIONS, "maxiter": EVALUATIONS - 1}
    minimize(cheap, BARE[0], jac=True, method=METHODS["irprop-"], options=options)


def evaluations_by_pints():
    pints = pytest.importorskip("pints", reason="PINTS is not installed: pip install pints")
    optimizer = pints.IRPropMin(BARE[0], 0.01)
    optimizer.set_min_step_size(1e-12)
    for _ in range(EVALUATIONS):
        optimizer.tell([cheap(optimizer.ask()[0])])


BY_NAME = {"irprop-": evaluations_by_scipy, "PINTS-irprop-": evaluations_by_pints}


@functools.cache
def race():
    """Return the seconds of an evaluation and its step, by contender, in interleaved runs."""
    times = {name: [] for name in BY_NAME}
    for _ in range(21):
        for name, search in BY_NAME.items():
            start = time.perf_counter()
            search()
            times[name].append((time.perf_counter() - start) / EVALUATIONS)
    return {name: x[1:] for name, x in times.items()}


@pytest.mark.benchmark(timer=CLOCK)
@pytest.mark.parametrize("contender", BY_NAME)
def test_time_of_an_evaluation(benchmark, contender):
    pytest.importorskip("pints", reason="PINTS is not installed: pip install pints")
    benchmark.group = "scipy: an evaluation of 3 variables"
    benchmark.extra_info.update(contender=contender)
    CLOCK.replay(benchmark, race()[contender])


@pytest.mark.parametrize("rows", [1, 16, 256])
def test_many_starts_at_once(benchmark, rows):
    starts = np.random.default_rng(0).uniform(-2, 2, (rows, 2))
    scale = np.array([1.0, 1e4])

    def batch(x):
        return 0.5 * x**2 @ scale, scale * x

    benchmark.group = "scipy: 200 iterations of rows at once"
    benchmark.extra_info.update(contender=f"{rows}-rows")
    options = {"maxiter": 200, "gtol": 0, "xtol": 0, "window": 201}
    benchmark.pedantic(minimize_many, args=(batch, starts), kwargs=options, rounds=5)
