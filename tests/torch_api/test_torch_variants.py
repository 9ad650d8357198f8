"""RpropMinus, RpropPlus, IRpropMinus, IRpropPlus for torch: against the oracle, by hand, and what they refuse."""

import copy
import io
import pickle
import sys
import warnings

import numpy as np
import pytest
from backends import INSTRUCTION_SET_VARIABLE, INSTRUCTION_SETS, compiled
from oracle import Oracle
from special_values import assert_same_bits, gradients, special_values

from rprop_kernels import state
from rprop_kernels.backends import unavailable_reason

torch = pytest.importorskip("torch")

import rprop_kernels.torch as rt  # noqa: E402

CLASSES = {cls._variant.name: cls for cls in (rt.RpropMinus, rt.RpropPlus, rt.IRpropMinus, rt.IRpropPlus)}
BACKENDS = [("numba", None), ("torch", None), *(("cython", level) for level in INSTRUCTION_SETS)]
DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16]


@pytest.fixture(params=BACKENDS, ids=lambda way: "-".join(filter(None, way)))
def backend(request, monkeypatch):
    name, level = request.param
    if level:
        monkeypatch.setenv(INSTRUCTION_SET_VARIABLE, level)
    return name


def parameter(*values, dtype=torch.float32):
    return torch.nn.Parameter(torch.tensor(values, dtype=dtype))


def shown(t):
    """As NumPy; half precision as float32 of the same value."""
    t = t.detach()
    return (t.float() if t.element_size() == 2 else t).numpy().copy()


def options_of(loss):
    return {} if loss is None else {"loss": loss}


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("variant", CLASSES)
@pytest.mark.parametrize("step_sizes", [(1e-6, 50.0), (0.0, 10.0), (1e-10, 0.02)], ids=str)
@pytest.mark.parametrize("maximize", [False, True])
def test_against_the_oracle(backend, variant, dtype, step_sizes, maximize):
    name = str(dtype).removeprefix("torch.")
    made = "float32" if name == "bfloat16" else name
    rng = np.random.default_rng(7)
    begin = torch.from_numpy(np.concatenate([special_values(made), rng.standard_normal(17).astype(made)])).to(dtype)
    p = torch.nn.Parameter(begin.clone())
    optimizer = CLASSES[variant]([p], step_sizes=step_sizes, maximize=maximize, backend=backend)
    oracle = Oracle(variant, shown(begin), name, step_sizes=step_sizes, maximize=maximize)
    losses = [3.0, 2.0, 2.0, 4.0, float("nan"), 3.0, float("inf"), 5.0, 1.0, 2.0, 3.0, -1.0]
    for t, (g, loss) in enumerate(zip(gradients(rng, tuple(p.shape), made, len(losses)), losses, strict=True)):
        p.grad = torch.from_numpy(g).to(dtype)
        said = loss if variant == "irprop+" else None
        optimizer.step(**options_of(said))
        oracle.step(shown(p.grad), said)
        real = np.float64 if name == "float64" else np.float32
        assert_same_bits(shown(p), np.array([x.w for x in oracle.weights], real), f"step {t}, w")
        q, step = optimizer.signs_and_steps(p)
        assert_same_bits(step.numpy(), np.array([x.D for x in oracle.weights], real), f"step {t}, D")
        assert_same_bits(q.numpy(), np.array([x.q for x in oracle.weights], real), f"step {t}, q")
        assert optimizer.state[p]["move"].element_size() == (8 if name == "float64" else 4)


class TestByHand:
    """iRprop+ on traces worked out on paper: D_0 = 0.5, etas (0.5, 2), so that every number is exact."""

    def run(self, gradients, losses, backend=None):
        p = parameter(0.0, dtype=torch.float64)
        optimizer = rt.IRpropPlus([p], lr=0.5, etas=(0.5, 2.0), backend=backend)
        trace = []
        for g, loss in zip(gradients, losses, strict=True):
            p.grad = torch.tensor([g], dtype=torch.float64)
            optimizer.step(loss=loss)
            q, step = optimizer.signs_and_steps(p)
            trace.append((p.item(), q.item(), step.item()))
        return trace

    def test_undo_when_the_loss_rose(self, backend):
        # down by 0.5, down by 1.0; then a flip with a larger loss: the 1.0 is taken back, D = 0.5, q = 0;
        # then a move of 0.5 without growth, then growth again.
        assert self.run([1, 1, -1, 1, 1], [5, 4, 6, 3, 2], backend) == [
            (-0.5, 1, 0.5),
            (-1.5, 1, 1.0),
            (-0.5, 0, 0.5),
            (-1.0, 1, 0.5),
            (-2.0, 1, 1.0),
        ]

    def test_stay_when_the_loss_did_not_rise(self, backend):
        assert self.run([1, 1, -1, -1], [5, 4, 4, 3], backend) == [
            (-0.5, 1, 0.5),
            (-1.5, 1, 1.0),
            (-1.5, 0, 0.5),
            (-1.0, -1, 0.5),
        ]

    def test_a_loss_that_is_no_number_takes_every_move_back(self, backend):
        # whatever the gradient; E_prev stays 4, so that 4.5 afterwards is worse than it
        assert self.run([1, 1, 1, 1, -1], [5, 4, float("nan"), 4, 4.5], backend) == [
            (-0.5, 1, 0.5),
            (-1.5, 1, 1.0),
            (-0.5, 0, 0.5),
            (-1.0, 1, 0.5),
            (-0.5, 0, 0.25),
        ]

    def test_a_second_lost_loss_moves_nothing(self, backend):
        assert self.run([1, 1, 1], [5, float("inf"), float("-inf")], backend)[-1] == (0.0, 0, 0.25)


def test_first_loss_that_is_no_number_warns_once_and_steps():
    p = parameter(0.0)
    optimizer = rt.IRpropPlus([p], lr=0.5)
    p.grad = torch.ones(1)
    with pytest.warns(UserWarning, match="first loss is nan"):
        optimizer.step(loss=float("nan"))
    assert p.item() == -0.5
    optimizer.step(loss=float("nan"))
    assert p.item() == -0.5 - 0.6000000238418579 and optimizer.param_groups[0]["prev_loss"] is None


class TestLoss:
    """Where iRprop+ gets its loss, and what it refuses."""

    def make(self, *values, **options):
        p = parameter(*(values or (0.0,)))
        p.grad = torch.ones_like(p)
        return p, rt.IRpropPlus([p], lr=0.5, **options)

    def test_none_is_an_error_that_names_three_ways(self):
        p, optimizer = self.make()
        with pytest.raises(ValueError, match=r"step\(loss=\.\.\.\).*set_loss\(\.\.\.\).*closure"):
            optimizer.step()
        assert p.item() == 0.0 and not optimizer.state

    def test_order(self):
        for closure, told, given, expected in (
            (lambda: 3.0, None, None, 3.0),
            (lambda: 3.0, 2.0, None, 2.0),
            (lambda: 3.0, 2.0, 1.0, 1.0),
            (lambda: None, None, 1.0, 1.0),
            (lambda: None, 2.0, None, 2.0),
        ):
            _, optimizer = self.make()
            if told is not None:
                optimizer.set_loss(told)
            assert optimizer.step(closure, loss=given) == closure()
            assert optimizer.param_groups[0]["prev_loss"] == expected
            with pytest.raises(ValueError, match="needs the loss"):  # what was told is told once
                optimizer.step()

    def test_the_closure_runs_with_gradients(self):
        p, optimizer = self.make()

        def closure():
            optimizer.zero_grad()
            loss = (p**2).sum()
            loss.backward()
            return loss

        with torch.no_grad():
            optimizer.step(closure)
        assert isinstance(optimizer.param_groups[0]["prev_loss"], float)

    def test_a_tensor_that_requires_grad_is_detached(self):
        p, optimizer = self.make()
        optimizer.step(loss=(p * 2).sum())
        assert optimizer.param_groups[0]["prev_loss"] == 0.0

    @pytest.mark.parametrize("loss", ["high", object(), 1j])
    def test_no_number(self, loss):
        p, optimizer = self.make()
        with pytest.raises(TypeError, match="loss must be a number"):
            optimizer.step(loss=loss)
        assert p.item() == 0.0

    def test_wrong_shapes(self):
        p, optimizer = self.make(1.0, 2.0, 3.0)
        for loss in (torch.ones(2, 2), torch.ones(0), torch.ones(3), torch.ones(4)):
            with pytest.raises(ValueError, match=r"loss has shape \(.*loss\.mean\(\).*batched=True"):
                optimizer.step(loss=loss)
        assert p.tolist() == [1.0, 2.0, 3.0] and not optimizer.state

    def test_the_number_of_rows_changes(self):
        _, optimizer = self.make(1.0, 2.0, batched=True)
        optimizer.step(loss=torch.ones(2))
        p = parameter(1.0, 2.0, 3.0)
        p.grad = torch.ones(3)
        optimizer.param_groups[0]["params"] = [p]
        with pytest.raises(ValueError, match=r"shape \(3,\), but that of the step before had shape \(2,\)"):
            optimizer.step(loss=torch.ones(3))

    def test_zero_gradients_need_no_loss(self):
        """As frameworks make state: lr 0 and zero gradients."""
        p, optimizer = self.make(1.0, 2.0)
        p.grad = torch.zeros(2)
        optimizer.param_groups[0]["lr"] = 0.0
        optimizer.step()
        optimizer.param_groups[0]["lr"] = 0.5
        assert p.tolist() == [1.0, 2.0]
        assert [x.tolist() for x in optimizer.signs_and_steps(p)] == [[0.0, 0.0], [0.5, 0.5]]

    def test_rows_are_judged_apart(self, backend):
        both = torch.nn.Parameter(torch.zeros(3, 2))
        batch = rt.IRpropPlus([both], lr=0.5, batched=True, backend=backend)
        singles = [parameter(0.0, 0.0) for _ in range(3)]
        alone = [rt.IRpropPlus([p], lr=0.5) for p in singles]
        rng = np.random.default_rng(0)
        for t in range(12):
            grad = torch.from_numpy(rng.choice([-1.0, 1.0], (3, 2))).float()
            loss = torch.from_numpy(rng.choice([1.0, 2.0, 3.0] + [np.nan] * (t > 3), 3))
            both.grad = grad.clone()
            batch.step(loss=loss)
            for p, optimizer, g, value in zip(singles, alone, grad, loss, strict=True):
                p.grad = g.clone()
                optimizer.step(loss=value)
            assert torch.equal(both, torch.stack([p.detach() for p in singles]))

    def test_climbing_groups_read_the_loss_the_other_way(self):
        up, down = parameter(0.0, dtype=torch.float64), parameter(0.0, dtype=torch.float64)
        optimizer = rt.IRpropPlus([{"params": [up], "maximize": True}, {"params": [down]}], lr=0.5, etas=(0.5, 2.0))
        for g, loss in ((1, 1.0), (-1, 2.0)):  # the loss rose: bad for the one that descends only
            up.grad, down.grad = (torch.full((1,), g, dtype=torch.float64) for _ in "ud")
            optimizer.step(loss=loss)
        assert (up.item(), down.item()) == (0.5, 0.0)


BAD = [
    ({"lr": 0.0}, "Invalid learning rate: 0.0"),
    ({"lr": -1.0}, "Invalid learning rate: -1.0"),
    ({"lr": float("nan")}, "Invalid learning rate: nan"),
    ({"lr": 100.0}, r"within step_sizes = \(1e-06, 50.0\)"),
    ({"lr": 1e-9}, "Invalid learning rate: 1e-09"),
    ({"lr": "fast"}, "lr must be one number, got 'fast'"),
    ({"lr": torch.ones(2)}, r"lr of parameter 0 of group \d has shape \(2,\), its parameter \(1,\)"),
    ({"etas": (0.5, 0.9)}, "Invalid eta values: 0.5, 0.9"),
    ({"etas": (1.2, 0.5)}, "Invalid eta values"),
    ({"etas": (0.0, 1.2)}, "Invalid eta values"),
    ({"etas": (0.5, float("inf"))}, "Invalid eta values"),
    ({"etas": 0.5}, "etas must be two numbers, got 0.5"),
    ({"step_sizes": (1.0, 0.1)}, "Invalid step sizes: 1.0, 0.1"),
    ({"step_sizes": (-1.0, 1.0)}, "Invalid step sizes: -1.0, 1.0"),
    ({"step_sizes": (0.0, 2.0**32)}, r"at most 2\*\*31"),
    ({"step_sizes": (0.0, float("inf"))}, r"at most 2\*\*31"),
    ({"step_sizes": (1e-6, float("nan"))}, "Invalid step sizes"),
    ({"step_sizes": "small"}, "step_sizes must be two numbers"),
    ({"differentiable": True}, "does not take differentiable=True"),
    ({"backend": "fortran"}, r"backend='fortran' cannot be used here(?s:.)*torch: available"),
]


@pytest.mark.parametrize("cls", CLASSES.values(), ids=CLASSES)
@pytest.mark.parametrize(("options", "text"), BAD, ids=str)
def test_bad_arguments(cls, options, text):
    with pytest.raises(ValueError, match=text):
        cls([parameter(1.0)], **options)


@pytest.mark.parametrize(("options", "text"), BAD[:17], ids=str)
def test_bad_groups_are_found_before_they_are_added(options, text):
    optimizer = rt.RpropMinus([parameter(1.0)])
    with pytest.raises(ValueError, match=text):
        optimizer.add_param_group({"params": [parameter(2.0)], **options})
    assert len(optimizer.param_groups) == 1


def test_options_are_checked_again_when_they_are_edited():
    p = parameter(1.0)
    optimizer = rt.RpropMinus([p])
    p.grad = torch.ones(1)
    optimizer.step()
    before = p.item()
    optimizer.param_groups[0]["etas"] = (0.5, 0.5)
    with pytest.raises(ValueError, match="Invalid eta values"):
        optimizer.step()
    optimizer.param_groups[0].update(etas=(0.5, 1.2), step_sizes=(0.0, 1e10))
    with pytest.raises(ValueError, match=r"2\*\*31"):
        optimizer.step()
    assert p.item() == before


def test_sparse_gradients_are_refused():
    p, other = parameter(1.0, 2.0), parameter(1.0)
    optimizer = rt.IRpropMinus([other, p])
    other.grad = torch.ones(1)
    p.grad = torch.sparse_coo_tensor([[0]], [1.0], (2,), check_invariants=True)
    with pytest.raises(RuntimeError, match="IRpropMinus does not support sparse gradients"):
        optimizer.step()
    assert other.item() == 1.0 and not optimizer.state


def test_a_changed_lr_warns_once():
    p = parameter(1.0)
    optimizer = rt.RpropPlus([p])
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1)
    p.grad = torch.ones(1)
    optimizer.step()
    scheduler.step()
    with pytest.warns(UserWarning, match="lr was changed from 0.01 to 0.001.*no effect.*step_sizes"):
        optimizer.step()
    scheduler.step()
    optimizer.step()


@pytest.mark.parametrize("variant", CLASSES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
class TestCheckpoints:
    def used(self, variant, dtype, steps=5):
        torch.manual_seed(3)
        p = torch.nn.Parameter(torch.randn(4, 3).to(dtype))
        optimizer = CLASSES[variant]([p], lr=0.07)
        self.advance(optimizer, p, range(steps))
        return optimizer, p

    def advance(self, optimizer, p, steps):
        for t in steps:
            torch.manual_seed(t)
            p.grad = torch.randn(4, 3).to(p.dtype)
            optimizer.step(**options_of(float(t % 3) if isinstance(optimizer, rt.IRpropPlus) else None))

    def saved(self, optimizer):
        file = io.BytesIO()
        torch.save(optimizer.state_dict(), file)
        file.seek(0)
        return torch.load(file, weights_only=True)

    def check_same(self, a, p, b, r):
        assert a.state[p]["move"].dtype == b.state[r]["move"].dtype
        assert torch.equal(a.state[p]["move"], b.state[r]["move"])
        self.advance(a, p, range(10, 15))
        self.advance(b, r, range(10, 15))
        assert torch.equal(p, r) and torch.equal(a.state[p]["move"], b.state[r]["move"])

    def test_state_dict(self, variant, dtype):
        a, p = self.used(variant, dtype)
        r = torch.nn.Parameter(p.detach().clone())
        b = CLASSES[variant]([r])
        saved = self.saved(a)
        b.load_state_dict(saved)
        assert b.state[r]["move"] is not saved["state"][0]["move"]
        self.check_same(a, p, b, r)

    def test_deepcopy_and_pickle(self, variant, dtype):
        for duplicate in (copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))):
            a, p = self.used(variant, dtype)
            b = duplicate(a)
            self.check_same(a, p, b, b.param_groups[0]["params"][0])

    def test_what_torch_saved(self, variant, dtype):
        p = torch.nn.Parameter(torch.randn(4, 3).to(dtype))
        theirs = torch.optim.Rprop([p], lr=0.07, foreach=True)
        for t in range(5):
            torch.manual_seed(t)
            p.grad = torch.randn(4, 3).to(dtype)
            p.grad[0, 0] = torch.nan
            theirs.step()
        ours = CLASSES[variant]([p])
        ours.load_state_dict(self.saved(theirs))
        q, step = ours.signs_and_steps(p)
        assert torch.equal(q, theirs.state[p]["prev"].sign().to(q.dtype)) and q[0, 0] == 0
        assert torch.equal(step, theirs.state[p]["step_size"].to(step.dtype))
        assert list(ours.state[p]) == ["move"] and "foreach" not in ours.param_groups[0]
        self.advance(ours, p, [5])

    def test_damaged(self, variant, dtype):
        a, p = self.used(variant, dtype)
        saved = self.saved(a)
        for damage, text in (
            (lambda d: d["state"][0].update(momentum=d["state"][0].pop("move")), "another optimizer"),
            (lambda d: d["param_groups"][0].update(etas=(2.0, 1.0)), "Invalid eta values"),
            (lambda d: d["param_groups"][0].update(params=[0, 1]), "doesn't match the size"),
        ):
            bad = copy.deepcopy(saved)
            damage(bad)
            before = a.state[p]["move"].clone()
            with pytest.raises(ValueError, match=text):
                a.load_state_dict(bad)
            assert torch.equal(a.state[p]["move"], before)


@pytest.mark.parametrize("variant", CLASSES)
def test_the_step_cannot_die(variant, backend):
    """D_min 0 and 2,000 flips: D halves to 2^-63 and stays, and grows again from there."""
    p = parameter(0.0, 1.0)
    optimizer = CLASSES[variant]([p], step_sizes=(0.0, 10.0), backend=backend)
    flip = [torch.ones(2), -torch.ones(2)] if variant == "rprop-" else [torch.ones(2), -torch.ones(2), torch.zeros(2)]
    for t in range(2000):
        p.grad = flip[t % len(flip)]
        optimizer.step(**options_of(0.0 if variant == "irprop+" else None))
    assert optimizer.signs_and_steps(p)[1].tolist() == [2.0**-63] * 2
    for _ in range(300):
        p.grad = torch.ones(2)
        optimizer.step(**options_of(0.0 if variant == "irprop+" else None))
    assert optimizer.signs_and_steps(p)[1].tolist() == [10.0, 10.0]


def test_bounds_edited_between_steps(backend):
    p = parameter(0.0, 1.0, -3.0)
    optimizer = rt.IRpropPlus([p], backend=backend)
    oracle = Oracle("irprop+", p.tolist())
    rng = np.random.default_rng(0)
    for t in range(1500):
        bounds = [(1e-6, 50.0), (1e-3, 0.02), (0.0, 1e-4), (1e-10, 1.0)][t // 7 % 4]
        optimizer.param_groups[0]["step_sizes"] = oracle.step_sizes = bounds
        g = rng.choice([-1.0, 0.0, 1.0], 3).astype(np.float32)
        p.grad = torch.from_numpy(g)
        loss = float(rng.integers(3))
        optimizer.step(loss=loss)
        oracle.step(g, loss)
        assert_same_bits(shown(p), np.array([x.w for x in oracle.weights], np.float32), f"step {t}")
        assert_same_bits(optimizer.signs_and_steps(p)[1].numpy(), np.array([x.D for x in oracle.weights]), f"step {t}")


def test_four_bytes_a_weight():
    for dtype in DTYPES:
        p = torch.nn.Parameter(torch.zeros(10, 10, dtype=dtype))
        optimizer = rt.IRpropMinus([p])
        p.grad = torch.ones_like(p)
        optimizer.step()
        kept = sum(t.nbytes for t in optimizer.state[p].values())
        assert kept == 100 * (8 if dtype == torch.float64 else 4)


def test_complex_parameters_are_two_real_ones():
    z = torch.nn.Parameter(torch.tensor([1 + 2j, -1j], dtype=torch.complex64))
    w = torch.nn.Parameter(torch.view_as_real(z.detach()).clone())
    a, b = rt.IRpropPlus([z]), rt.IRpropPlus([w])
    for t in range(8):
        torch.manual_seed(t)
        z.grad = torch.randn(2, dtype=torch.complex64)
        w.grad = torch.view_as_real(z.grad).clone()
        a.step(loss=float(t % 3))
        b.step(loss=float(t % 3))
    assert torch.equal(torch.view_as_real(z.detach()), w)
    assert torch.equal(torch.view_as_real(a.signs_and_steps(z)[1]), b.signs_and_steps(w)[1])


@compiled
def test_nobody_is_warned_for_nothing():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for cls in CLASSES.values():
            p = parameter(1.0)
            optimizer = cls([p])
            for t in range(3):
                p.grad = torch.ones(1)
                optimizer.step(**options_of(1.0 * t if cls is rt.IRpropPlus else None))


def test_states_decode_as_documented():
    q, step = state.decode(np.array([0.5, -0.25, 0.5 * 2.0**96], np.float32))
    assert q.tolist() == [1, -1, 0] and step.tolist() == [0.5, 0.25, 0.5]


def test_what_users_get_wrong_first():
    p = parameter(1.0)
    p.grad = torch.ones(1)
    with pytest.raises(TypeError, match=r"pass a loss by name, step\(loss=\.\.\.\)"):
        rt.IRpropPlus([p]).step(torch.tensor(1.0))
    with pytest.raises(TypeError, match="loss must be a number"):
        rt.IRpropPlus([p]).step(loss=10**400)
    whole = torch.ones(2, dtype=torch.int64)
    whole.grad = torch.ones_like(whole)
    with pytest.raises(TypeError, match=r"torch.int64, which cannot take steps"):
        rt.IRpropMinus([whole]).step()
    assert whole.tolist() == [1, 1] and p.item() == 1.0


# ------------------------------------------------------------------------------------- copies and pickles


@pytest.mark.parametrize("cls", CLASSES.values(), ids=CLASSES)
def test_a_pickle_loads_where_there_is_no_extension(cls, monkeypatch):
    """It holds the backend that was requested, not the one that was found."""
    p = torch.nn.Parameter(torch.ones(3))
    data = pickle.dumps([cls([p]), cls([p], backend="torch")])
    monkeypatch.setitem(sys.modules, "rprop_kernels.kernels._native", None)
    with pytest.warns(RuntimeWarning, match="slower backend"):
        default, requested = pickle.loads(data)
    next_best = "numba" if unavailable_reason("numba") is None else "torch"
    assert default._backend == next_best and requested._backend == "torch"


def test_a_copy_keeps_the_loss_that_was_set():
    p = torch.nn.Parameter(torch.ones(3))
    p.grad = torch.ones(3)
    optimizer = rt.IRpropPlus([p])
    optimizer.set_loss((p**2).sum())
    copied = copy.deepcopy(optimizer)
    copied.step()
    assert copied.param_groups[0]["prev_loss"] == 3.0


@pytest.mark.parametrize("cls", CLASSES.values(), ids=CLASSES)
@pytest.mark.parametrize("maximize", ["no", None, 1, 0.0])
def test_maximize_is_a_bool(cls, maximize):
    p, q = torch.nn.Parameter(torch.ones(3)), torch.nn.Parameter(torch.ones(3))
    with pytest.raises(TypeError, match=r"maximize is .*pass True or False"):
        cls([p], maximize=maximize)
    optimizer = cls([p])
    with pytest.raises(TypeError, match=r"maximize is .*pass True or False"):
        optimizer.add_param_group({"params": [q], "maximize": maximize})
    assert len(optimizer.param_groups) == 1


def test_rows_whose_first_loss_is_nan_warn():
    p = torch.nn.Parameter(torch.ones(2, 3))
    p.grad = torch.ones(2, 3)
    with pytest.warns(UserWarning, match="first loss is"):
        rt.IRpropPlus([p], batched=True).step(loss=torch.tensor([float("nan"), 1.0]))


def test_params_of_a_checkpoint_are_validated_beside_a_tensor_loss():
    p = torch.nn.Parameter(torch.ones(3))
    p.grad = torch.ones(3)
    optimizer = rt.IRpropPlus([p])
    optimizer.step(loss=1.0)
    saved = optimizer.state_dict()
    saved["param_groups"][0] |= {"prev_loss": torch.tensor(1.0), "params": [[0]]}
    with pytest.raises(ValueError, match="params of the state_dict must be numbers or names"):
        optimizer.load_state_dict(saved)
