"""Threads that step at the same time: with the global lock here, without it on a free-threaded Python."""

import sys
import sysconfig
import threading
import warnings

import numpy as np
import pytest
from backends import compiled
from special_values import assert_same_bits

from rprop_kernels.numpy import IRpropMinus

FREE = bool(sysconfig.get_config_var("Py_GIL_DISABLED"))
N_THREADS, STEPS = 4, 60


def run_together(*bodies):
    """Run functions in threads that start at once; raise the first error of any."""
    errors = []
    barrier = threading.Barrier(len(bodies))

    def guarded(body):
        try:
            barrier.wait()
            body()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=guarded, args=(body,)) for body in bodies]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


@compiled
@pytest.mark.skipif(not FREE, reason="this Python has the global lock")
def test_the_extension_leaves_the_global_lock_off():
    from rprop_kernels.kernels import _native

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert _native.instruction_sets()
    assert not sys._is_gil_enabled()


def test_optimizers_that_share_nothing():
    """Each ends where it does alone."""

    def fit():
        w = np.linspace(-3, 3, 5003)
        optimizer = IRpropMinus(w, lr=0.1)
        for _ in range(STEPS):
            optimizer.step(w - 1)
        return w

    alone, results = fit(), []
    run_together(*[lambda: results.append(fit())] * N_THREADS)
    assert len(results) == N_THREADS
    for w in results:
        assert_same_bits(w, alone)


@compiled
def test_one_step_object_serves_one_thread_at_a_time():
    """The others are refused, and nothing of theirs is changed: the steps that were made are all there is."""
    from rprop_kernels import state
    from rprop_kernels.hyperparameters import Hyperparameters
    from rprop_kernels.kernels.cython_ import ArrayStepper

    hyper, n = Hyperparameters(0.5, 1.0, 1e-6, 50.0), 100_003
    stepper = ArrayStepper()
    made = []

    def repeat():
        w, g = np.zeros(n), np.ones(n)
        (move,) = (state.encode(np.zeros(n), np.full(n, 0.25)),)
        steps = sum(stepper("irprop-", [w], [g], [(move,)], hyper) for _ in range(STEPS))
        made.append((steps, w))

    run_together(*[repeat] * N_THREADS)
    assert sum(steps for steps, _ in made) > 0
    for steps, w in made:
        assert_same_bits(w, np.full(n, 0.0 - 0.25 * steps))


def test_one_optimizer_in_several_threads():
    """Their order is not defined; no step is lost in the middle, and none crashes."""
    w = np.zeros(4001)
    optimizer = IRpropMinus(w, lr=0.25, etas=(0.5, 1.2), step_sizes=(0.25, 0.25))
    run_together(*[lambda: [optimizer.step(np.ones(4001)) for _ in range(STEPS)]] * 2)
    assert np.isfinite(w).all() and (w <= -0.25 * STEPS).all() and (w >= -0.5 * STEPS).all()


@compiled
def test_threads_that_plan_one_step():
    """Threads step one torch optimizer while others exchange its gradients and hyper-parameters."""
    torch = pytest.importorskip("torch")
    from rprop_kernels.torch import IRpropMinus as TorchRprop

    params = [torch.nn.Parameter(torch.zeros(257)) for _ in range(8)]
    for p in params:
        p.grad = torch.ones(257)
    optimizer = TorchRprop(params, lr=0.25, step_sizes=(0.25, 0.25))
    optimizer.step()

    def step():
        for _ in range(STEPS):
            optimizer.step()

    def change():
        for i in range(STEPS):
            optimizer.param_groups[0]["etas"] = (0.5, 1.2 + 0.1 * (i % 2))
            params[i % 8].grad = torch.ones(257)

    run_together(step, step, change)
    for p in params:
        assert bool(torch.isfinite(p).all()) and bool((p < 0).all())
