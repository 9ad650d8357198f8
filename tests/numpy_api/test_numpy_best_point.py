"""The best weights of a NumPy Stopping against a plain copy at every new best loss."""

import math
import random

import numpy as np
import pytest

from rprop_kernels.backends import unavailable_reason
from rprop_kernels.numpy import METHODS, IRpropPlus, Stopping

BACKENDS = [name for name in ("cython", "numba", "numpy") if name == "numpy" or unavailable_reason(name) is None]
ENDLESS = {"gtol": None, "ftol": None, "xtol": None, "window": 10_000}


class Reference:
    """Copies the weights at every new best loss, of each row where there are several."""

    def __init__(self, params, rows):
        self.params, self.rows = params, rows
        self.loss, self.best = math.inf, []

    def test(self, loss):
        chosen = np.isfinite(loss) & (np.asarray(loss) < self.loss)
        self.loss = np.where(chosen, loss, self.loss)
        if chosen.any() and not self.best:
            self.best = [p.copy() for p in self.params]
        for best, p in zip(self.best, self.params, strict=False):
            mask = chosen.reshape(-1, *(1,) * (p.ndim - 1)) if self.rows else chosen
            best[...] = np.where(mask, p, best)


@pytest.mark.parametrize("seed", range(150))
def test_the_best_weights_are_those_of_a_plain_copy(seed):
    draw, rng = random.Random(seed), np.random.default_rng(seed)
    rows = draw.choice([0, 0, 1, 4])
    shapes = [(rows, 3), (rows, 2, 2)] if rows else [(5,), (2, 3), (), (0,)]
    dtype = draw.choice([np.float32, np.float64])
    params = [np.asarray(rng.uniform(-1, 1, shape), dtype) for shape in shapes]
    if draw.random() < 0.3:
        params[1] = np.stack([params[1]] * 2, -1)[..., 0]  # with gaps in memory
    bounds, frozen = draw.choice([None, (-1.0, 1.0)]), draw.choice([None, [rng.random(s) < 0.3 for s in shapes]])
    optimizer = METHODS[draw.choice(list(METHODS))](
        params, batched=bool(rows), bounds=bounds, frozen=frozen, backend=draw.choice(BACKENDS)
    )
    stop = Stopping(optimizer, **ENDLESS)
    reference = Reference(params, bool(rows))
    for step in range(draw.randrange(1, 30)):
        grads = [np.asarray(rng.standard_normal(p.shape), dtype) for p in params]
        values = [draw.choice([draw.random(), draw.random() - 0.01 * step, math.nan]) for _ in range(rows or 1)]
        loss = np.array(values if step > 1 else [3.0] * len(values)) if rows else values[0] if step > 1 else 3.0
        reference.test(loss)
        if draw.random() < 0.6:
            assert not stop(loss, grads)
            if draw.random() < 0.1:
                with pytest.raises(ValueError, match="pass one for each"):
                    optimizer.step([*grads, grads[0]])
                assert stop._pending is None
                break
            if draw.random() < 0.1:
                stop.load_state_dict(stop.state_dict())
            if draw.random() < 0.1:
                optimizer.load_state_dict(optimizer.state_dict())
            optimizer.step(grads)
        else:
            optimizer.step(grads, loss)
            assert not stop(loss, grads)
        if draw.random() < 0.1:
            draw.choice(params)[...] *= 0.5
    stop.restore_best()
    for p, best in zip(params, reference.best, strict=True):
        assert p.tobytes() == best.tobytes()


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_step_that_fails_before_it_starts_has_copied_the_best_point(backend):
    w = np.array([3.0, -2.0])
    optimizer = IRpropPlus(w, backend=backend)
    stop = Stopping(optimizer, **ENDLESS)
    stop(3.0, w.copy())
    optimizer.step(w.copy())
    stop(2.0, w.copy())
    best = w.copy()
    with pytest.raises(TypeError):
        optimizer.step(w.copy(), loss="a word")
    w[...] = 0
    stop.restore_best()
    assert w.tobytes() == best.tobytes()
