"""Which rule do the implementations of Rprop on PyPI follow? Write docs/conformance.md from a run.

    pip install optax torchzero pints pybop neurolab climin "opencv-python-headless<5" paddlepaddle mindspore
    python tools/conformance.py          # runs what is installed, writes the result and the page
    python tools/conformance.py --only pybop rprop_kernels.pybop   # only these, the other results stay
    python tools/conformance.py --page   # only writes the page from the result on file

PyBOP needs an environment of its own (CONTRIBUTING.md), where `--only` runs it.

Every library is driven through its own interface with its own settings for step sizes, bounds and factors. It
is judged by `rprop_kernels.testing.check_rprop`, whose golden traces the oracle of the tests made.
"""

import json
import platform
import runpy
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from datetime import date
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from make_traces import make_trace  # noqa: E402

import rprop_kernels  # noqa: E402
from rprop_kernels import VARIANTS  # noqa: E402
from rprop_kernels.backends import supported_backends, unavailable_reason  # noqa: E402
from rprop_kernels.testing import Report, Trace, check_rprop, load_traces, trace_of  # noqa: E402

RESULT = ROOT / "benchmarks" / "results" / "conformance.json"
PAGE = ROOT / "docs" / "conformance.md"
BOTH = ("float32", "float64")
FLOAT32, FLOAT64 = 1e-5, 1e-12  # tolerances: a library may round elsewhere than the papers' formulas do


@dataclass(frozen=True)
class Implementation:
    """One row of the table.

    Attributes:
        name: what a user calls it.
        package: the distribution on PyPI.
        claims: what its documentation says it is.
        variant: the rule this means.
        make: ``make()`` imports it and returns ``(make_stepper, traces)``; traces None: the golden ones.
        tolerance, dtypes: of `check_rprop`.
        note: how it was driven, where that is not obvious.
    """

    name: str
    package: str
    claims: str
    variant: str
    make: Callable[[], tuple[Any, list[Trace] | None]]
    tolerance: float = 0.0
    dtypes: tuple[str, ...] = BOTH
    note: str = ""


# ------------------------------------------------------------------------------------------------- ours


def our_torch(name: str, backend: str) -> Callable[[], Any]:
    def make() -> Any:
        import torch

        import rprop_kernels.torch as ours

        device = "cuda" if backend == "triton" and torch.cuda.is_available() else "cpu"  # interpreted

        def stepper(w0: Any, **settings: Any) -> Any:
            w = torch.nn.Parameter(torch.from_numpy(w0).to(device))
            optimizer = getattr(ours, name)([w], backend=backend, **settings)

            def step(g: Any, loss: float) -> Any:
                w.grad = torch.from_numpy(g).to(device)
                optimizer.step(lambda: loss)
                state = optimizer.state[w]
                memory = (state["prev"].sign(), state["step_size"]) if name == "Rprop" else optimizer.signs_and_steps(w)
                return tuple(x.detach().cpu().numpy() for x in (w, *memory))

            return step

        return stepper, None

    return make


def our_numpy(name: str, backend: str) -> Callable[[], Any]:
    def make() -> Any:
        import rprop_kernels.numpy as ours

        def stepper(w0: Any, **settings: Any) -> Any:
            optimizer = getattr(ours, name)(w0, backend=backend, **settings)

            def step(g: Any, loss: float) -> Any:
                optimizer.step(g, loss)
                return (w0, *optimizer.signs_and_steps())

            return step

        return stepper, None

    return make


def our_optax(name: str) -> Callable[[], Any]:
    def make() -> Any:
        import jax
        import optax

        import rprop_kernels.optax as ours

        def stepper(w0: Any, lr: float, etas: Any, step_sizes: Any) -> Any:
            optimizer = getattr(ours, name)(lr, *etas, *step_sizes)
            update = jax.jit(optimizer.update)
            with jax.enable_x64(True):
                w = jax.numpy.asarray(w0)
                state = optimizer.init(w)

            def step(g: Any, loss: float) -> Any:
                nonlocal w, state
                with jax.enable_x64(True):
                    updates, state = update(jax.numpy.asarray(g), state, w, value=loss)
                    w = optax.apply_updates(w, updates)
                    return tuple(map(np.asarray, (w, *ours.signs_and_steps(state))))

            return step

        return stepper, None

    return make


def our_numba(name: str) -> Callable[[], Any]:
    def make() -> Any:
        import numba

        import rprop_kernels.numba as ours

        update, needs_loss = getattr(ours, name), name == "irprop_plus"

        @numba.njit  # type: ignore[untyped-decorator,unused-ignore]
        def start(w: Any, state: Any, hyper: Any) -> None:
            for i in range(w.size):
                state[i] = ours.first_state(w[i], hyper)

        @numba.njit  # type: ignore[untyped-decorator,unused-ignore]
        def step_all(w: Any, g: Any, state: Any, loss: float, previous: float, hyper: Any) -> Any:
            outcome, previous = ours.compare_loss(loss, previous)
            for i in range(w.size):
                if needs_loss:
                    w[i], state[i] = update(w[i], g[i], state[i], outcome, hyper)
                else:
                    w[i], state[i] = update(w[i], g[i], state[i], hyper)
            return previous

        def stepper(w0: Any, **settings: Any) -> Any:
            hyper, state, previous = ours.hyperparameters(**settings), np.empty_like(w0), np.nan
            start(w0, state, hyper)

            def step(g: Any, loss: float) -> Any:
                nonlocal previous
                previous = step_all(w0, g, state, loss, previous, hyper)
                q, size = zip(*map(ours.sign_and_step, state), strict=True)
                return w0, np.array(q, w0.dtype), np.array(size, w0.dtype)

            return step

        return stepper, None

    return make


def our_pints(library: str, name: str) -> Callable[[], Any]:
    def make() -> Any:
        cls = getattr(import_module(f"rprop_kernels.{library}"), name)
        cls = run_by_pybop(cls) if library == "pybop" else cls

        def stepper(w0: Any, lr: float, etas: Any, step_sizes: Any) -> Any:
            optimiser = cls(w0, lr)
            optimiser.set_etas(*etas)
            optimiser.set_hyper_parameters(step_sizes)
            optimiser.ask()

            def step(g: Any, loss: float) -> Any:
                optimiser.tell([(loss, g)])
                return (optimiser.ask()[0], *optimiser._search.optimizer.signs_and_steps())

            return step

        return stepper, None

    return make


def ours() -> Iterator[Implementation]:
    """Every variant on every backend that is available for tensors and for arrays, and in other libraries."""
    for row in VARIANTS.values():
        classes = {"torch": ("tensors", our_torch), "numpy": ("arrays", our_numpy)}
        for library, (family, make) in classes.items():
            if row.name == "torch" and library == "numpy":
                continue
            for backend in supported_backends(family):
                if unavailable_reason(backend) is None:
                    yield Implementation(
                        f"rprop_kernels.{library}.{row.class_name} ({backend})",
                        "rprop_kernels",
                        row.name,
                        row.name,
                        make(row.class_name, backend),
                    )
    if all(map(find_spec, ("jax", "optax"))):
        for name in ("rprop_minus", "rprop_plus", "irprop_minus", "irprop_plus"):
            variant = name.replace("_minus", "-").replace("_plus", "+")
            yield Implementation(f"rprop_kernels.optax.{name}", "rprop_kernels", variant, variant, our_optax(name))
    if find_spec("numba"):
        for name in ("rprop_minus", "rprop_plus", "irprop_minus", "irprop_plus"):
            variant = name.replace("_minus", "-").replace("_plus", "+")
            yield Implementation(f"rprop_kernels.numba.{name}", "rprop_kernels", variant, variant, our_numba(name))
    for library in filter(find_spec, ("pints", "pybop")):
        for row in VARIANTS.values():
            if row.name != "torch":
                name = f"rprop_kernels.{library}.{row.class_name}"
                make = our_pints(library, row.class_name)
                yield Implementation(name, "rprop_kernels", row.name, row.name, make, dtypes=("float64",))


# ---------------------------------------------------------------------------------------------- theirs


def torch_stepper(torch: Any, make: Callable[..., Any]) -> Any:
    def stepper(w0: Any, **settings: Any) -> Any:
        w = torch.nn.Parameter(torch.from_numpy(w0))
        optimizer = make([w], **settings)

        def step(g: Any, loss: float) -> Any:
            w.grad = torch.from_numpy(g)
            optimizer.step(lambda *_: torch.tensor(loss, dtype=torch.float64))  # torchzero calls closure(backward)
            return w.detach().numpy()

        return step

    return stepper


def torch_rprop(**more: Any) -> Callable[[], Any]:
    def make() -> Any:
        import torch

        return torch_stepper(torch, lambda p, **kw: torch.optim.Rprop(p, **kw, **more)), None

    return make


def torchzero(backtrack: bool) -> Callable[[], Any]:
    def make() -> Any:
        import torch
        import torchzero as tz

        def optimizer(params: Any, lr: float, etas: Any, step_sizes: Any) -> Any:
            return tz.Optimizer(
                params,
                tz.m.Rprop(
                    nplus=etas[1],
                    nminus=etas[0],
                    lb=step_sizes[0],
                    ub=step_sizes[1],
                    alpha=lr,
                    backtrack=backtrack,
                ),
            )

        return torch_stepper(torch, optimizer), None

    return make


def optax() -> Any:
    import jax
    import optax

    jax.config.update("jax_enable_x64", True)

    def stepper(w0: Any, lr: float, etas: Any, step_sizes: Any) -> Any:
        optimizer = optax.rprop(lr, *etas, *step_sizes)
        w = jax.numpy.asarray(w0)
        state = optimizer.init(w)

        def step(g: Any, loss: float) -> Any:
            nonlocal w, state
            updates, state = optimizer.update(jax.numpy.asarray(g), state, w)
            w = optax.apply_updates(w, updates)
            return np.asarray(w)

        return step

    return stepper, None


def default_etas() -> list[Trace]:
    """For libraries with fixed factors."""
    return [trace for trace in load_traces() if trace.etas == (0.5, 1.2)]


def ask_and_tell(optimiser: Any) -> Any:
    """The interface of PINTS: the point that is asked for after a tell is the weights after a step."""
    optimiser.ask()

    def step(g: Any, loss: float) -> Any:
        optimiser.tell([(loss, g)])
        return np.array(optimiser.ask()[0])

    return step


def run_by_pybop(cls: Any) -> Any:
    """Return the class with the interface of PINTS that an optimiser of PyBOP runs."""
    problem = runpy.run_path(str(ROOT / "examples" / "pybop_decay.py"))["problem"]()
    return type(cls(problem).optimiser)


def irprop_minus_of(library: str) -> Callable[[], Any]:
    def make() -> Any:
        cls = import_module(library).IRPropMin
        cls = run_by_pybop(cls) if library == "pybop" else cls

        def stepper(w0: Any, lr: float, etas: Any, step_sizes: Any) -> Any:
            optimiser = cls(w0, lr)
            optimiser.set_hyper_parameters(step_sizes)
            return ask_and_tell(optimiser)

        return stepper, default_etas()

    return make


def pybop() -> Any:
    import pybop

    cls = run_by_pybop(pybop.IRPropPlus)

    def stepper(w0: Any, lr: float, etas: Any, step_sizes: Any) -> Any:
        optimiser = cls(w0, lr, None)
        optimiser.eta_min, optimiser.eta_max = etas
        optimiser.step_min, optimiser.step_max = step_sizes
        return ask_and_tell(optimiser)

    return stepper, None


def neurolab(name: str) -> Callable[[], Any]:
    def make() -> Any:
        vars(np).setdefault("Inf", np.inf)  # its last release is older than NumPy 2
        vars(np).setdefault("asfarray", lambda x: np.asarray(x, float))
        import neurolab

        def stepper(w0: Any, lr: float, etas: Any, step_sizes: Any) -> Any:
            net = neurolab.net.newff([[-1, 1], [-1, 1]], [1])  # three weights
            trainer = getattr(neurolab.train.gd, name)(
                net,
                None,
                None,
                lr=lr,
                rate_dec=etas[0],
                rate_inc=etas[1],
                rate_min=step_sizes[0],
                rate_max=step_sizes[1],
            )
            trainer.x[...] = w0

            def step(g: Any, loss: float) -> Any:
                trainer.learn(net, g)
                return trainer.x

            return step

        return stepper, None

    return make


def climin() -> Any:
    import climin

    def stepper(w0: Any, lr: float, etas: Any, step_sizes: Any) -> Any:
        now = [np.zeros_like(w0)]
        optimizer = iter(climin.Rprop(w0, lambda w: now[0], *etas, *step_sizes))

        def step(g: Any, loss: float) -> Any:
            now[0] = g
            next(optimizer)
            return w0

        return step

    # No knob for the first step size, it starts at D_min: once that of the golden trace, once its lr.
    traces = [
        trace_of(make_trace(t.name, t.dtype, first, t.etas, (first, t.step_sizes[1]), t.w0, t.gradients, t.losses))
        for t in load_traces()
        if "rprop-" in t.rules
        for first in (t.step_sizes[0], t.lr)
    ]
    return stepper, traces


def paddle() -> Any:
    import paddle

    paddle.set_device("cpu")

    def stepper(w0: Any, lr: float, etas: Any, step_sizes: Any) -> Any:
        w = paddle.create_parameter([len(w0)], str(w0.dtype))
        w.set_value(w0)
        optimizer = paddle.optimizer.Rprop(lr, step_sizes, [w], etas)

        def step(g: Any, loss: float) -> Any:
            w.grad = paddle.to_tensor(g)
            optimizer.step()
            return w.numpy()

        return step

    return stepper, None


def mindspore() -> Any:
    import mindspore

    def stepper(w0: Any, lr: float, etas: Any, step_sizes: Any) -> Any:
        w = mindspore.Parameter(mindspore.Tensor(w0), name="w")
        optimizer = mindspore.nn.Rprop([w], lr, etas, step_sizes)

        def step(g: Any, loss: float) -> Any:
            optimizer((mindspore.Tensor(g),))
            return w.asnumpy()

        return step

    return stepper, None


def opencv() -> Any:
    """It takes no gradients: it trains a linear unit on six points, the gradients of which are computed here.

    A run of n steps is n calls of train(), from the same start, of 1, 2, ... n iterations.
    """
    import cv2

    rng = np.random.default_rng(0)
    inputs, wanted = (
        rng.standard_normal((6, 3)).astype(np.float32),
        rng.standard_normal((6, 1)).astype(np.float32),
    )
    x = np.column_stack([inputs.astype(float), np.ones(6)])
    flags = cv2.ml.ANN_MLP_NO_INPUT_SCALE | cv2.ml.ANN_MLP_NO_OUTPUT_SCALE
    data = cv2.ml.TrainData_create(inputs, cv2.ml.ROW_SAMPLE, wanted)

    def configured(model: Any, steps: int, lr: float, etas: Any, step_sizes: Any) -> Any:
        model.setTrainMethod(cv2.ml.ANN_MLP_RPROP)
        model.setRpropDW0(lr)
        model.setRpropDWMinus(etas[0])
        model.setRpropDWPlus(etas[1])
        model.setRpropDWMin(step_sizes[0])
        model.setRpropDWMax(step_sizes[1])
        model.setTermCriteria((cv2.TERM_CRITERIA_MAX_ITER, steps, 0.0))
        return model

    def observed(steps: int, *settings: Any) -> list[Any]:
        model = cv2.ml.ANN_MLP_create()
        model.setLayerSizes(np.array([3, 1]))
        model.setActivationFunction(cv2.ml.ANN_MLP_IDENTITY)
        configured(model, 1, *settings).train(data, flags)
        with tempfile.TemporaryDirectory() as folder:
            model.save(f"{folder}/model.yml")
            path = [model.getWeights(1).ravel()]
            for n in range(1, steps + 1):
                model = configured(cv2.ml.ANN_MLP_load(f"{folder}/model.yml"), n, *settings)
                model.train(data, flags | cv2.ml.ANN_MLP_UPDATE_WEIGHTS)
                path.append(model.getWeights(1).ravel())
        return path

    paths, traces = {}, []
    for name, *settings in (
        ("linear-unit", 0.1, (0.5, 1.2), (1e-3, 2.0)),
        ("small-steps", 0.1, (0.5, 1.2), (0.05, 0.15)),
        ("other-etas", 0.05, (0.7, 1.5), (1e-3, 2.0)),
    ):
        path = observed(25, *settings)
        errors = [x @ w - wanted.ravel() for w in path]
        traces.append(
            trace_of(
                make_trace(
                    name,
                    "float64",
                    *settings,
                    path[0],
                    [e @ x for e in errors[:-1]],
                    [float(e @ e) for e in errors[:-1]],
                )
            )
        )
        paths[tuple(settings)] = path

    def stepper(w0: Any, lr: float, etas: Any, step_sizes: Any) -> Any:
        rest = iter(paths[lr, etas, step_sizes][1:])
        return lambda g, loss: next(rest)

    return stepper, traces


THEIRS = [
    Implementation(
        "torch.optim.Rprop (for-loop)",
        "torch",
        "its formulas are those of iRprop-",
        "irprop-",
        torch_rprop(foreach=False),
    ),
    Implementation(
        "torch.optim.Rprop (foreach)",
        "torch",
        "its formulas are those of iRprop-",
        "irprop-",
        torch_rprop(foreach=True),
    ),
    Implementation(
        "torchzero Rprop", "torchzero", "Rprop of 1993, takes moves back", "rprop+", torchzero(True), FLOAT32
    ),
    Implementation(
        "torchzero Rprop(backtrack=False)",
        "torchzero",
        '"exactly matches pytorch Rprop"',
        "torch",
        torchzero(False),
        FLOAT32,
    ),
    Implementation("optax.rprop", "optax", "Rprop; cites both papers, gives no formula", "irprop-", optax, FLOAT32),
    Implementation(
        "pints.IRPropMin",
        "pints",
        "iRprop-, Figure 3 of Igel & Hüsken",
        "irprop-",
        irprop_minus_of("pints"),
        FLOAT64,
        ("float64",),
        "its factors are fixed at 0.5 and 1.2",
    ),
    Implementation(
        "pybop.IRPropMin",
        "pybop",
        "iRprop-, that of PINTS",
        "irprop-",
        irprop_minus_of("pybop"),
        FLOAT64,
        ("float64",),
        "its factors are fixed at 0.5 and 1.2",
    ),
    Implementation(
        "pybop.IRPropPlus",
        "pybop",
        'iRprop+, "includes weight (parameter) backtracking"',
        "irprop+",
        pybop,
        FLOAT64,
        ("float64",),
    ),
    Implementation(
        "neurolab train_rprop",
        "neurolab",
        "Resilient Backpropagation",
        "rprop-",
        neurolab("TrainRprop"),
        FLOAT64,
        ("float64",),
        "with `numpy.Inf` and `numpy.asfarray` put back, which it needs",
    ),
    Implementation(
        "neurolab train_rpropm",
        "neurolab",
        'Rprop "with back-step when grad change sign"',
        "rprop+",
        neurolab("TrainRpropM"),
        FLOAT64,
        ("float64",),
        "with `numpy.Inf` and `numpy.asfarray` put back, which it needs",
    ),
    Implementation(
        "OpenCV ml.ANN_MLP, RPROP",
        "opencv-python-headless",
        "RPROP of 1993",
        "rprop-",
        opencv,
        1e-9,
        ("float64",),
        "takes no gradients: judged on the training of a linear unit, by traces made for it; "
        "version 5 no longer has the module",
    ),
    Implementation(
        "climin.Rprop",
        "climin",
        "its formulas are those of Rprop-",
        "rprop-",
        climin,
        FLOAT64,
        ("float64",),
        "has no first step size, it starts at the least one: judged by traces made for that",
    ),
    Implementation(
        "paddle.optimizer.Rprop",
        "paddlepaddle",
        "Rprop of 1993; its formulas are those of iRprop-",
        "irprop-",
        paddle,
        FLOAT32,
    ),
    Implementation(
        "mindspore.nn.Rprop",
        "mindspore",
        "Rprop of 1993; its formulas are those of Rprop-",
        "rprop-",
        mindspore,
        FLOAT32,
        ("float32",),
        "computes in float32",
    ),
]

TORCH = "irprop-, but the product of two gradients can underflow"

NOT_RUN = {
    "ffnet 0.8": "no wheel; its source needs a Fortran compiler",
    "fann2": "no wheel; its source needs the FANN library, which PyPI has not",
    "PyBrain 0.3": "Python 2 source, cannot be imported",
    "downhill 0.4": "needs Theano, which cannot be imported by this Python",
    "neupy 0.6.5": "the release that installs needs Theano, too",
}


# ----------------------------------------------------------------------------------------- run and report


def row(one: Implementation) -> dict[str, Any]:
    """The result for one implementation."""
    entries = {name: getattr(one, name) for name in ("name", "package", "claims", "variant", "tolerance", "note")}
    entries |= {"date": date.today().isoformat(), "numpy": np.__version__}
    try:
        entries["version"] = version(one.package) if one.package != "rprop_kernels" else rprop_kernels.__version__
        make_stepper, traces = one.make()
    except (ImportError, PackageNotFoundError) as error:
        return {**entries, "missing": f"{type(error).__name__}: {error}"}
    options = {"dtypes": one.dtypes, "traces": traces}
    report: Report = check_rprop(make_stepper, one.variant, tolerance=one.tolerance, **options)
    to_the_bit = report.follows == check_rprop(make_stepper, one.variant, **options).follows
    print(f"{one.name} {entries['version']}: {report}\n", flush=True)
    return {**entries, **asdict(report), "to_the_bit": to_the_bit}


def their_row(index: int) -> dict[str, Any]:
    """In a process of its own: some of these libraries cannot be imported beside others."""
    warnings.simplefilter("ignore")  # theirs, of things deprecated
    return row(THEIRS[index])


def rows_of_theirs(names: Sequence[str]) -> list[dict[str, Any]]:
    """Run the implementations whose names begin with one of ``names``."""
    indices = [i for i, one in enumerate(THEIRS) if one.name.startswith(tuple(names))]
    with ProcessPoolExecutor(1, mp_context=get_context("spawn"), max_tasks_per_child=1) as pool:
        return list(pool.map(their_row, indices))


def merged(old: list[dict[str, Any]], new: list[dict[str, Any]], order: list[str]) -> list[dict[str, Any]]:
    """Return rows in an order, the new ones in the place of old ones of the same name."""
    rows = {entry["name"]: entry for entry in (*old, *new)}
    return sorted(rows.values(), key=lambda entry: order.index(entry["name"]) if entry["name"] in order else len(order))


def first_difference(entry: dict[str, Any]) -> str:
    d = entry["departure"]
    if d is None:
        return "none"
    where = f"{d['trace']} ({d['dtype']}), step {d['step']}"
    if d["quantity"] == "exception":
        return f"{where}: {d['got']}"
    return f"{where}: {d['quantity']} = {d['got']:.7g}, not {d['expected']:.7g}"


def does(entry: dict[str, Any]) -> str:
    name, hits, traces = entry["closest"]
    found = [entry["variant"]] if entry["departure"] is None else entry["follows"]
    if not found:
        return f"nothing known; closest: {name} ({hits} of {traces} traces)"
    exact = ", to the bit" if entry["to_the_bit"] and " but " not in found[0] else ""
    more = "; overwrites the gradients it is given" if entry["overwrites"] else ""
    return " or ".join(TORCH if name == "torch" else name for name in found) + exact + more


def table(head: list[str], rows: list[list[str]]) -> str:
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (head, ["---"] * len(head), *rows))


def page(result: dict[str, Any]) -> str:
    theirs = [entry for entry in result["theirs"] if "missing" not in entry]
    notes = [f"- {e['name']}: {e['note']}." for e in theirs if e["note"]]
    later = [e for e in (*theirs, *result["ours"]) if e.get("date", result["date"]) != result["date"]]
    for when, numpy in sorted({(e["date"], e["numpy"]) for e in later}):
        names = [e["name"] for e in later if (e["date"], e["numpy"]) == (when, numpy)]
        notes.append(f"- Run on {when} with NumPy {numpy}: {', '.join(names)}.")
    missing = [f"- {e['name']}: {e['missing']}." for e in result["theirs"] if "missing" in e]
    missing += [f"- {name}: {reason}." for name, reason in result["not_run"].items()]
    rows = [[e["name"], e["version"], e["claims"], does(e), first_difference(e)] for e in theirs]
    clean = [[e["name"], e["variant"], first_difference(e)] for e in result["ours"]]
    return f"""# Who follows which rule

Written by `tools/conformance.py` from `benchmarks/results/conformance.json`: {result["date"]},
Python {result["python"]}, NumPy {result["numpy"]}. The judge is `rprop_kernels.testing.check_rprop`, which
you can run on your own implementation; the golden traces it uses were made by the tests' oracle.

Every library is driven through its own interface, with its own settings for step sizes, bounds and factors.
"Does" names the rule, or the rule with the mistake, that explains all its weights in all traces. "First
difference" is from the rule that it claims to be; where its words leave that open, from the nearest rule of
the papers. Ours must agree to the bit; others may differ by a relative 1e-5 where they compute in float32,
else by 1e-9 or less, and those that needed no tolerance are marked "to the bit". That a product of two
gradients underflows is seen only where both are tiny: 1e-25 in float32, 1e-170 in float64.

{table(["implementation", "version", "claims", "does", "first difference from the claim"], rows)}

{chr(10).join(notes)}

Not run:

{chr(10).join(missing)}

## Yours

Write an adapter: a function that starts a run and returns its step. Here is an iRprop- with a common mistake:

```python
import numpy as np
from rprop_kernels.testing import check_rprop


def make_stepper(w, *, lr, etas, step_sizes):
    q, step = np.zeros_like(w), np.full_like(w, lr)

    def one_step(gradients, loss):
        nonlocal w, q, step
        c = np.sign(gradients) * q
        step = np.clip(step * np.where(c > 0, etas[1], np.where(c < 0, etas[0], 1)), *step_sizes)
        q = np.sign(gradients)  # the mistake: where c < 0 it must be 0, and the weight must stay
        w = w - q * step
        return w

    return one_step


print(check_rprop(make_stepper, "irprop-", dtypes=["float64"]))
```

```text
not irprop-: trace flips-loss-rises (float64), step 2, weight 2: w is 2.9499999999999997, not 2.9
follows: rprop-
```

The last line is the answer: what was written is Rprop-.

## Ours

Weights, remembered signs and step sizes after every step, to the bit.

{table(["implementation", "rule", "first difference"], clean)}
"""


def main() -> None:
    if "--only" in sys.argv:
        names = sys.argv[sys.argv.index("--only") + 1 :]
        result = json.loads(RESULT.read_text())
        order = [one.name for one in THEIRS]
        result["theirs"] = merged(result["theirs"], rows_of_theirs(names), order)
        made = [row(one) for one in ours() if one.name.startswith(tuple(names))]
        result["ours"] = merged(result["ours"], made, [entry["name"] for entry in result["ours"]])
        RESULT.write_text(json.dumps(result, indent=1) + "\n")
    elif "--page" not in sys.argv:
        result = {
            "date": date.today().isoformat(),
            "python": platform.python_version(),
            "numpy": np.__version__,
            "theirs": rows_of_theirs([""]),
            "not_run": NOT_RUN,
            "ours": [row(one) for one in ours()],
        }
        RESULT.parent.mkdir(exist_ok=True)
        RESULT.write_text(json.dumps(result, indent=1) + "\n")
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text(page(json.loads(RESULT.read_text())))


if __name__ == "__main__":
    main()
