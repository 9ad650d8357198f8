"""Which bits of rprop_kernels.optax equal the oracle's? Write the table in docs/optax.md from a run.

    pip install -c constraints.txt ".[optax]"
    python tools/optax_bits.py          # runs, writes the result and the table
    python tools/optax_bits.py --page   # only writes the table from the result on file

Every cell compares weights, remembered signs and step sizes of the four rules with the oracle of the tests. Weights
and gradients are ordinary and special values: zeros of both signs, infinities, NaN, numbers whose products
underflow, denormal gradients.
"""

import json
import os
import platform
import sys
from collections.abc import Callable
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RESULT = ROOT / "benchmarks" / "results" / "optax_bits.json"
PAGE = ROOT / "docs" / "optax.md"
START, END = "<!-- bits: written by tools/optax_bits.py -->", "<!-- end of bits -->"
DEVICES = 4
ROWS, WEIGHTS, STEPS = 2, 120, 12


def run() -> dict[str, dict[str, list[int]]]:
    """Return {row of the table: {dtype: [values that differ, values compared]}}."""
    os.environ["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={DEVICES}"
    os.environ["JAX_PLATFORMS"] = "cpu"
    sys.path.insert(0, str(ROOT / "tests"))
    import jax
    import jax.numpy as jnp
    import numpy as np
    import optax
    from jax.sharding import Mesh, NamedSharding, PartitionSpec
    from jax_cases import DTYPES, in_float, sequences
    from oracle import Oracle
    from special_values import bits

    import rprop_kernels.optax as ours

    rules = {
        "rprop-": ours.rprop_minus,
        "rprop+": ours.rprop_plus,
        "irprop-": ours.irprop_minus,
        "irprop+": ours.irprop_plus,
    }
    sharding = NamedSharding(Mesh(np.array(jax.devices()), ("x",)), PartitionSpec("x"))

    def step_of(optimizer: Any) -> Callable[..., Any]:
        def step(w: Any, state: Any, g: Any, loss: Any) -> Any:
            updates, state = optimizer.update(g, state, w, value=loss)
            return optax.apply_updates(w, updates), state

        return step

    def single(wrap: Callable[..., Any]) -> Callable[..., Any]:
        def mode(optimizer: Any, w: Any, grads: Any, losses: Any) -> Any:
            step, state = wrap(step_of(optimizer)), optimizer.init(w)
            for g, loss in zip(grads, losses, strict=True):
                w, state = step(w, state, g, loss)
            return w, state

        return mode

    def unrolled(optimizer: Any, *arguments: Any) -> Any:
        return jax.jit(lambda *x: single(lambda step: step)(optimizer, *x))(*arguments)

    def constant(optimizer: Any, w: Any, grads: Any, losses: Any) -> Any:
        return jax.jit(lambda w: single(lambda step: step)(optimizer, w, grads, losses))(w)

    def scan(optimizer: Any, w: Any, grads: Any, losses: Any) -> Any:
        step = step_of(optimizer)
        start = (w, optimizer.init(w))
        return jax.lax.scan(lambda carry, x: (step(*carry, *x), None), start, (grads, losses))[0]

    def fori_loop(optimizer: Any, w: Any, grads: Any, losses: Any) -> Any:
        step = step_of(optimizer)
        start = (w, optimizer.init(w))
        return jax.lax.fori_loop(0, len(grads), lambda t, carry: step(*carry, grads[t], losses[t]), start)

    def vmap(optimizer: Any, w: Any, grads: Any, losses: Any) -> Any:
        """The first row is the run, the others have other losses."""
        many = jnp.stack([losses] + [jnp.roll(losses, i) for i in range(1, ROWS)], axis=1)
        step, repeat = jax.jit(jax.vmap(step_of(optimizer))), lambda x: jnp.stack([x] * ROWS)
        w = repeat(w)
        state = jax.vmap(optimizer.init)(w)
        for g, loss in zip(grads, many, strict=True):
            w, state = step(w, state, repeat(g), loss)
        return jax.tree.map(lambda x: x[0], (w, state))

    def sharded(optimizer: Any, w: Any, grads: Any, losses: Any) -> Any:
        return single(jax.jit)(optimizer, jax.device_put(w, sharding), grads, losses)

    modes = {
        "eager": single(lambda step: step),
        "`jit` of a step": single(jax.jit),
        "`jit` of several steps in one function": unrolled,
        "the same, gradients are constants in it": constant,
        "`lax.scan`": scan,
        "`lax.fori_loop`": fori_loop,
        "`vmap`, each row with its own loss": vmap,
        f"`jit`, sharded over {DEVICES} devices": sharded,
    }
    table: dict[str, dict[str, list[int]]] = {}
    for dtype in DTYPES:
        with jax.enable_x64(dtype == "float64"):
            w, grads, losses = sequences(dtype, WEIGHTS, STEPS)
            denormal = w.copy()
            denormal[:40] = (np.arange(1, 41) * 3 * float(jnp.finfo(dtype).smallest_subnormal)).astype(w.dtype)
            still = [np.where(np.arange(WEIGHTS) < 40, np.zeros_like(g), g) for g in grads]
            cases = {name: (mode, w, grads) for name, mode in modes.items()}
            for name in ("eager", "`jit` of a step"):
                cases[f"{name}, a third of the weights is denormal, without a gradient"] = modes[name], denormal, still
            for name, (mode, start, some) in cases.items():
                count = [0, 0]
                for rule, make in rules.items():
                    oracle = Oracle(rule, list(in_float(start)), dtype)
                    for g, loss in zip(some, losses, strict=True):
                        oracle.step(list(in_float(g)), loss)
                    result, state = mode(make(), jnp.asarray(start), jnp.asarray(np.stack(some)), jnp.asarray(losses))
                    found = (in_float(result), *map(np.asarray, ours.signs_and_steps(state)))
                    for values, key in zip(found, ("w", "q", "D"), strict=True):
                        expected = np.array([getattr(x, key) for x in oracle.weights], values.dtype)
                        count[0] += int(np.count_nonzero(bits(values) != bits(expected)))
                        count[1] += values.size
                table.setdefault(name, {})[dtype] = count
    return table


def cell(count: list[int]) -> str:
    differ, compared = count
    return f"{differ} of {compared:,} differ" if differ else "equal"


def page(result: dict[str, Any]) -> str:
    """Return the text between the marks, the marks included."""
    dtypes = list(next(iter(result["table"].values())))
    lines = [["", *dtypes], ["---"] * (len(dtypes) + 1)]
    lines += [[name, *(cell(row[dtype]) for dtype in dtypes)] for name, row in result["table"].items()]
    versions = ", ".join(f"{name} {number}" for name, number in result["versions"].items())
    text = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    machine = f"{result['machine']}, Python {result['python']}"
    return f"{START}\n\nOn a CPU ({machine}, {versions}; {result['date']}):\n\n{text}\n\n{END}"


def main() -> None:
    if "--page" not in sys.argv:
        result = {
            "date": date.today().isoformat(),
            "python": platform.python_version(),
            "machine": platform.machine(),
            "versions": {name: version(name) for name in ("jax", "jaxlib", "optax", "numpy")},
            "table": run(),
        }
        RESULT.write_text(json.dumps(result, indent=1) + "\n")
    before, _, rest = PAGE.read_text().partition(START)
    _, _, after = rest.partition(END)
    PAGE.write_text(before + page(json.loads(RESULT.read_text())) + after)


if __name__ == "__main__":
    main()
