"""The best weights of a Stopping against a plain copy at every new best loss, whatever happens around the steps."""

import math
import random

import pytest

torch = pytest.importorskip("torch")

from rprop_kernels.backends import unavailable_reason  # noqa: E402
from rprop_kernels.torch import IRpropMinus, IRpropPlus, Rprop, RpropMinus, RpropPlus, Stopping  # noqa: E402
from rprop_kernels.torch.table_step import TableStep  # noqa: E402

BACKENDS = [name for name in ("cython", "numba", "torch") if name == "torch" or unavailable_reason(name) is None]
ENDLESS = {"gtol": None, "ftol": None, "xtol": None, "window": 10_000}


class Reference:
    """Copies the weights at every new best loss, of each row where there are several."""

    def __init__(self, params, rows):
        self.params, self.rows = params, rows
        self.loss, self.best = None, []

    def test(self, loss):
        loss = torch.as_tensor(loss, dtype=torch.float64)
        if self.loss is None:
            self.loss = torch.full_like(loss, math.inf)
        chosen = loss.isfinite() & (loss < self.loss)
        self.loss = torch.where(chosen, loss, self.loss)
        if not self.best and bool(chosen.any()):
            self.best = [p.detach().clone() for p in self.params]
        for i, p in enumerate(self.params if bool(chosen.any()) else ()):
            if i == len(self.best):
                self.best.append(p.detach().clone())
            mask = chosen.reshape(-1, *(1,) * (p.dim() - 1)) if self.rows else chosen
            self.best[i] = torch.where(mask, p.detach(), self.best[i])


def tensors(rng, rows, dtype):
    shapes = [(rows, 3), (rows, 2, 2)] if rows else [(5,), (2, 3), (), (0,)]
    params = [torch.rand(shape, dtype=torch.float64).mul(2).sub(1).to(dtype) for shape in shapes]
    if rng.random() < 0.3:
        params[1] = torch.stack([params[1]] * 2, -1)[..., 0]  # with gaps in memory
    return [torch.nn.Parameter(p) for p in params]


@torch.no_grad()
def scale(params):
    torch._foreach_mul_(params, 0.75)


def invalid_step(optimizer, rng):
    """Make a step that raises an error before it starts."""
    group = optimizer.param_groups[0]
    step_sizes, group["step_sizes"] = group["step_sizes"], (2.0, 1.0)
    loss = "a word" if rng.random() < 0.5 else None
    try:
        with pytest.raises((ValueError, TypeError)):
            optimizer.step(loss=loss)
    finally:
        group["step_sizes"] = step_sizes


@pytest.mark.parametrize("seed", range(150))
def test_the_best_weights_are_those_of_a_plain_copy(seed):
    rng = random.Random(seed)
    torch.manual_seed(seed)
    rows = rng.choice([0, 0, 1, 4])
    dtype = rng.choice([torch.float32, torch.float64, torch.float16])
    cls = rng.choice([IRpropPlus, IRpropMinus, RpropMinus, RpropPlus] + [Rprop] * (not rows))
    params = tensors(rng, rows, dtype)
    options = {"backend": rng.choice(BACKENDS)}
    if cls is not Rprop:
        options |= {"batched": bool(rows), "bounds": rng.choice([None, (-1.0, 1.0), (-1.0, None)])}
        options["frozen"] = rng.choice([None, [torch.rand(p.shape) < 0.3 for p in params]])
    optimizer = cls(params, **options)
    if options["backend"] == "numba" and rng.random() < 0.5:  # as without the extension
        optimizer._native_step = TableStep(cls is Rprop)
    stop = Stopping(optimizer, every=rng.choice([None, None, 8]), **ENDLESS)
    reference = Reference(params, bool(rows))
    hook = None

    def loss():
        values = [rng.choice([rng.random(), rng.random() - 0.01 * step, math.nan, math.inf]) for _ in range(rows or 1)]
        if step < 2:
            values = [rng.random() + 2] * (rows or 1)
        return torch.tensor(values) if rows else values[0]

    step = -1
    for _ in range(rng.randrange(1, 30)):
        step += 1
        for p in params:
            p.grad = torch.randn(p.shape).to(dtype) if rng.random() < 0.9 else None
        value = loss()
        if rng.random() < 0.1 and hook is None:
            hook = optimizer.register_step_pre_hook(lambda *_: scale(params))
        elif rng.random() < 0.1 and hook is not None:
            hook.remove()
            hook = None
        if rng.random() < 0.6:
            reference.test(value)
            assert not stop(value)
            if rng.random() < 0.1:
                assert not stop(value)
            if rng.random() < 0.1 and cls is IRpropPlus:
                invalid_step(optimizer, rng)
                stop._tested = True  # the error took the test along; the point is the same
                optimizer.set_loss(value)
            if rng.random() < 0.1:
                optimizer.load_state_dict(optimizer.state_dict())
            if rng.random() < 0.1:
                stop.load_state_dict(stop.state_dict())
            if rng.random() < 0.05:
                assert stop.state_dict()["best"] is None or len(stop.state_dict()["best"])
            if rng.random() < 0.1:
                optimizer.step(lambda value=value: value)
            else:
                optimizer.step()
        else:
            if hook is None:
                reference.test(value)
            else:  # it changes the weights before the step tests them
                with torch.no_grad():
                    params_now = [p.clone() for p in params]
                    scale(params)
                    reference.test(value)
                    torch._foreach_copy_(params, params_now)
            optimizer.step(loss=value) if rng.random() < 0.5 else optimizer.step(lambda value=value: value)
            assert not stop(value)
        if rng.random() < 0.1:
            with torch.no_grad():
                rng.choice(params).mul_(0.5)
        if rng.random() < 0.05 and not rows:
            params.append(torch.nn.Parameter(torch.randn(3).clamp(-1, 1).to(dtype)))
            optimizer.add_param_group({"params": [params[-1]], **({"frozen": None} if cls is not Rprop else {})})
    if not reference.best:
        return
    stop.restore_best()
    for p, best in zip(params, reference.best, strict=False):
        assert torch.equal(p.detach(), best)
    assert torch.equal(torch.as_tensor(stop.best_loss, dtype=torch.float64).isfinite(), reference.loss.isfinite())


def stopped_point(cls=IRpropPlus, **options):
    w = torch.nn.Parameter(torch.tensor([3.0, -2.0]))
    optimizer = cls([w], **options)
    stop = Stopping(optimizer, **ENDLESS)
    for loss in (3.0, 2.0):
        w.grad = w.detach().clone()
        assert not stop(loss)
        if loss == 3.0:
            optimizer.step()
    return w, optimizer, stop, w.detach().clone()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("cls", [IRpropPlus, IRpropMinus, Rprop])
def test_weights_changed_between_stop_and_step_are_an_error_before_the_step(cls, backend):
    w, optimizer, _stop, _ = stopped_point(cls, backend=backend)
    with torch.no_grad():
        w.mul_(2)
    before = w.detach().clone()
    with pytest.raises(RuntimeError, match=r"between stop\(loss\) and optimizer.step\(\), .* after optimizer.step\(\)"):
        optimizer.step()
    assert torch.equal(w.detach(), before)


def test_a_subclass_may_change_the_weights_before_its_step():
    class Decayed(IRpropPlus):
        def step(self, closure=None, *, loss=None):
            with torch.no_grad():
                self.param_groups[0]["params"][0].mul_(0.5)
            return super().step(closure, loss=loss)

    w, optimizer, stop, best = stopped_point(Decayed)
    optimizer.step()
    stop.restore_best()
    assert torch.equal(w.detach(), best)


@pytest.mark.parametrize("cls", [IRpropPlus, IRpropMinus, Rprop])
def test_a_step_that_fails_before_it_starts_has_copied_the_best_point(cls):
    w, optimizer, stop, best = stopped_point(cls)
    with pytest.raises(TypeError):
        optimizer.step(loss="a word")
    with torch.no_grad():
        w.zero_()
    stop.restore_best()
    assert torch.equal(w.detach(), best)


def test_a_loop_left_without_a_step_has_its_best_point():
    w, _, stop, best = stopped_point()
    stop.restore_best()
    assert torch.equal(w.detach(), best) and stop.best_loss == 2.0
