"""The golden traces: the package, on every backend, and implementations with a mistake, detected and named."""

from pathlib import Path

import make_traces
import numpy as np
import pytest
from oracle import RULES

import rprop_kernels.numpy
from rprop_kernels import VARIANTS
from rprop_kernels.backends import supported_backends, unavailable_reason
from rprop_kernels.testing import Report, check_rprop, load_traces

ON_FILE = {make_traces.filename(entries): entries for entries in make_traces.scenes()}


def torch_stepper(class_name, backend):
    torch, rprop_torch = pytest.importorskip("torch"), pytest.importorskip("rprop_kernels.torch")
    device = "cuda" if backend == "triton" and torch.cuda.is_available() else "cpu"  # interpreted

    def make(w0, **settings):
        w = torch.nn.Parameter(torch.from_numpy(w0).to(device))
        optimizer = getattr(rprop_torch, class_name)([w], backend=backend, **settings)

        def step(gradients, loss):
            w.grad = torch.from_numpy(gradients).to(device)
            optimizer.step(lambda: loss)
            state = optimizer.state[w]
            memory = (
                (state["prev"].sign(), state["step_size"]) if class_name == "Rprop" else optimizer.signs_and_steps(w)
            )
            return tuple(x.detach().cpu().numpy() for x in (w, *memory))

        return step

    return make


def numpy_stepper(class_name, backend):
    def make(w0, **settings):
        optimizer = getattr(rprop_kernels.numpy, class_name)(w0, backend=backend, **settings)

        def step(gradients, loss):
            optimizer.step(gradients, loss)
            return (w0, *optimizer.signs_and_steps())

        return step

    return make


OURS = [
    pytest.param(
        f"{library} {row.class_name} {backend}",
        make,
        backend,
        row.name,
        id=f"{library}-{row.class_name}-{backend}",
    )
    for row in VARIANTS.values()
    for library, make, backends in (
        ("torch", torch_stepper, supported_backends("tensors")),
        ("numpy", numpy_stepper, supported_backends("arrays")),
    )
    for backend in backends
    if library == "torch" or row.name != "torch"
]


@pytest.mark.filterwarnings("ignore::RuntimeWarning:triton")  # its interpreter's NumPy, on huge gradients
@pytest.mark.parametrize(("name", "make", "backend", "variant"), OURS)
def test_ours_are_clean(name, make, backend, variant):
    if reason := unavailable_reason(backend):
        pytest.skip(reason)
    report = check_rprop(make(VARIANTS[variant].class_name, backend), variant)
    assert report.clean and not report.overwrites, str(report)
    assert report.follows == (variant,)
    assert report.closest == (variant, *(24 if variant == "torch" else 20,) * 2)


def test_torchs_own_optimizer_follows_the_rule_named_torch():
    torch = pytest.importorskip("torch")

    def make(w0, **settings):
        w = torch.from_numpy(w0)
        optimizer = torch.optim.Rprop([w], **settings)

        def step(gradients, loss):
            w.grad = torch.from_numpy(gradients)
            optimizer.step()
            return w.numpy()

        return step

    assert check_rprop(make, "torch").clean
    report = check_rprop(make, "irprop-")
    assert report.follows == ("torch",)
    assert (report.departure.trace, report.departure.dtype) == ("tiny-and-huge", "float32")


# ------------------------------------------------------------------------------------------ the files


def test_the_files_are_those_that_the_oracle_makes():
    assert sorted(file.name for file in make_traces.FOLDER.iterdir()) == sorted(ON_FILE)
    for name, entries in ON_FILE.items():
        text = (make_traces.FOLDER / name).read_text(encoding="ascii")
        assert text == make_traces.text(entries) + "\n", f"{name} is not what tests/make_traces.py writes"


@pytest.mark.parametrize("module", ["make_traces.py", "oracle.py"])
def test_the_makers_of_the_files_do_not_import_the_package(module):
    lines = (Path(make_traces.__file__).parent / module).read_text().splitlines()
    imports = [line for line in lines if line.lstrip().startswith(("import ", "from "))]
    assert imports and not any("rprop_kernels" in line for line in imports)


def test_the_traces_cover_every_situation():
    """Flips, flips after flips, zeros, both bounds, and a loss that increases, decreases, stays: for every rule."""
    for rule in VARIANTS:
        for dtype in ("float32", "float64"):
            traces = [trace for trace in load_traces() if trace.dtype == dtype and rule in trace.rules]
            met = set()
            for trace in traces:
                real = np.dtype(trace.dtype).type
                q = [(0,) * len(trace.w0), *trace.rules[rule]["q"]]
                flips = [np.zeros(len(trace.w0), bool)]
                for t, g in enumerate(trace.gradients):
                    flips.append(np.sign(g) * q[t] < 0)
                    rise = np.sign(trace.losses[t] - trace.losses[t - 1]) if t else None
                    met |= {("flip", rise) for flip in flips[-1] if flip}
                    met |= {"flip after flip" for one, two in zip(flips[-2], flips[-1], strict=True) if one and two}
                    met |= {"-0.0" if np.signbit(x) else "zero" for x in g if x == 0}
                    met |= {("bound", i) for i in (0, 1) if real(trace.step_sizes[i]) in trace.rules[rule]["D"][t]}
            wanted = {("flip", -1), ("flip", 0), ("flip", 1), "zero", "-0.0", ("bound", 0), ("bound", 1)}
            assert wanted - met == set(), (rule, dtype)
            assert "flip after flip" in met or rule != "rprop-"


# --------------------------------------------------------------- mistakes, made by the oracle or by hand


def oracle_stepper(make):
    def stepper(w0, *, lr, etas, step_sizes):
        oracle = make(list(w0), str(w0.dtype), lr, etas, step_sizes)

        def step(gradients, loss):
            return np.array(make_traces.run(oracle, [list(gradients)], [loss])["w"][0])

        return step

    return stepper


@pytest.mark.parametrize("name", make_traces.DEVIATIONS)
def test_every_mistake_is_distinguished_from_every_other(name):
    rule = name.partition(", but ")[0]
    report = check_rprop(oracle_stepper(make_traces.DEVIATIONS[name]), rule, dtypes=["float64"])
    assert not report.clean
    assert report.follows == (name,), str(report)


@pytest.mark.parametrize("claimed", VARIANTS)
@pytest.mark.parametrize("really", VARIANTS)
def test_every_rule_is_distinguished_from_every_other(claimed, really):
    def make(*args):
        return make_traces.oracle_of(really, *args)

    report = check_rprop(oracle_stepper(make), claimed)
    assert report.clean == (claimed == really)
    assert report.follows == (really,)


def ours_but(change, variant="irprop+"):
    """Our NumPy class with something changed: ``change(step, w, gradients, loss)`` returns the weights."""

    def make(w0, **settings):
        optimizer = getattr(rprop_kernels.numpy, VARIANTS[variant].class_name)(w0, **settings)
        return lambda gradients, loss: change(optimizer.step, w0, gradients, loss)

    return make


def test_an_irprop_plus_that_never_backtracks_is_irprop_minus():
    def change(step, w, gradients, loss):
        step(gradients, 0.0)
        return w

    report = check_rprop(ours_but(change), "irprop+")
    assert report.follows == ("irprop-",)
    assert report.departure.trace == "flips-loss-rises"
    assert (report.departure.step, report.departure.weight, report.departure.quantity) == (2, 2, "w")
    assert report.departure.expected == 3.0
    assert str(report).startswith("not irprop+: trace flips-loss-rises (float32), step 2, weight 2: w is 2.9")
    assert str(report).endswith("\nfollows: irprop-")


def test_an_irprop_plus_that_always_backtracks_is_rprop_plus():
    losses = iter(range(10**6))

    def change(step, w, gradients, loss):
        step(gradients, float(next(losses)))
        return w

    assert check_rprop(ours_but(change), "irprop+").follows == ("rprop+",)


def test_one_unit_in_the_last_place_is_a_difference():
    steps = iter(range(10**6))

    def change(step, w, gradients, loss):
        step(gradients, loss)
        return np.nextafter(w, 9) if next(steps) == 100 else w

    report = check_rprop(ours_but(change, "rprop-"), "rprop-")
    assert not report.clean and report.follows == ()
    assert report.closest == ("rprop-", 19, 20)
    assert "no rule known here; closest: rprop-, in 19 of 20 traces" in str(report)
    assert check_rprop(ours_but(change, "rprop-"), "rprop-", tolerance=1e-6).clean


def test_a_wrong_step_size_is_a_difference():
    def make(w0, **settings):
        step = numpy_stepper("RpropPlus", "numpy")(w0, **settings)

        def wrong(gradients, loss):
            w, q, D = step(gradients, loss)
            return w, q, np.nextafter(D, 1)

        return wrong

    report = check_rprop(make, "rprop+")
    assert report.departure.quantity == "D"


def test_an_exception_is_reported():
    def change(step, w, gradients, loss):
        step(gradients, loss)
        if np.any(gradients == 0):
            raise RuntimeError("no zeros please")
        return w

    report = check_rprop(ours_but(change), "irprop+")
    assert (report.departure.trace, report.departure.step, report.departure.quantity) == (
        "zeros",
        1,
        "exception",
    )
    assert "RuntimeError: no zeros please" in str(report)


def test_writing_to_the_gradients_is_reported():
    def change(step, w, gradients, loss):
        step(gradients, loss)
        gradients *= 2
        return w

    report = check_rprop(ours_but(change), "irprop+")
    assert report.clean and report.overwrites
    assert str(report) == "irprop+: as published, in all 20 traces\noverwrites the gradients it is given"


def test_invalid_arguments():
    with pytest.raises(ValueError, match="no variant 'rprop': choose one of rprop-, rprop\\+"):
        check_rprop(ours_but(None), "rprop")
    with pytest.raises(ValueError, match=r"no trace of 'rprop-' in float16"):
        check_rprop(ours_but(None), "rprop-", dtypes=["float16"])
    with pytest.raises(ValueError, match=r"no trace of 'rprop-' in float16$"):
        check_rprop(ours_but(None), "rprop-", dtypes="float16")
    for tolerance in (-1, float("nan")):
        with pytest.raises(ValueError, match=f"tolerance={tolerance}: pass 0"):
            check_rprop(ours_but(None), "rprop-", tolerance=tolerance)


def test_a_report_is_readable():
    assert str(Report("rprop-", ("rprop-",), None, ("rprop-", 20, 20))) == "rprop-: as published, in all 20 traces"
    assert set(RULES) < set(VARIANTS)
