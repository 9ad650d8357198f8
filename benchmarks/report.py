"""Write the speed sections of README and site, and their plots, from results on file.

    python benchmarks/report.py [folder, else benchmarks/results]

The folder holds cpu.json, numpy.json, scipy.json, optax.json and fit.json. The README gets the tables that matter most
and one picture, docs/fit.md those of whole fits, docs/benchmarks.md gets everything.

Every figure is a median, every ratio is between medians of one run; the machine is named from the file.
"""

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt

ROOT = Path(__file__).resolve().parent.parent
START, END = "<!-- speed: written by benchmarks/report.py -->", "<!-- end of speed -->"
PEERS = ("torch-for-loop", "torch-foreach")
SHOWN = ("13-5-1", "161x64", "100k", "MLP-784-128-10", "1M", "transformer", "ResNet-50", "25M", "100M")
COLOURS = {"Rprop-cython": "#0072B2", "IRpropPlus-cython": "#D55E00", "IRpropPlus-numba": "#009E73"}
TORCH = "#555555"

COLUMNS = "median,min,iqr,rounds"  # as in pyproject.toml

Median = dict[tuple[str, str], float]


def load(path: Path) -> tuple[dict[str, Any], Median, dict[str, dict[str, Any]], list[dict[str, Any]]]:
    """The file, medians in seconds by (group, contender), facts of each group, and all rows."""
    data = json.loads(path.read_text())
    medians: Median = {}
    facts: dict[str, dict[str, Any]] = {}
    for row in data["benchmarks"]:
        info = row["extra_info"]
        medians[row["group"], info["contender"]] = row["stats"]["median"]
        facts.setdefault(row["group"], info)
    return data, medians, facts, data["benchmarks"]


def seconds(x: float) -> str:
    return f"{x * 1e6:,.1f} us" if x < 1e-4 else f"{x * 1e6:,.0f} us" if x < 1e-3 else f"{x * 1e3:,.2f} ms"


def table(rows: list[list[str]]) -> str:
    head, *body = rows
    if not body:
        return f"({head[0]}: not in the results on file)"
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *body]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def machine(data: dict[str, Any]) -> str:
    cpu = data["machine_info"]["cpu"]
    brand = cpu.get("brand_raw") or data["machine_info"]["processor"]
    versions = data["machine_info"].get("versions", {})
    known = ", ".join(f"{name} {version}" for name, version in versions.items())
    python = data["machine_info"]["python_version"]
    return f"{brand}, {cpu['count']} cores, Python {python}, {known}; {data['datetime'][:10]}"


def speed(medians: Median) -> str:
    rows = [
        ["work (float32, CPU)", "torch.optim.Rprop", "compiled", "Rprop", "IRpropPlus", "Rprop is", "IRpropPlus is"]
    ]
    for work in SHOWN:
        group = f"torch: {work}"
        if (group, PEERS[0]) not in medians:
            continue
        best = min(medians[group, peer] for peer in PEERS)
        compiled = medians.get((group, "torch-compiled"))
        ours = [medians[group, name] for name in ("Rprop-cython", "IRpropPlus-cython")]
        rows.append(
            [work, seconds(best), seconds(compiled) if compiled else "-", *map(seconds, ours)]
            + [f"{best / x:.1f} x" for x in ours]
        )
    return table(rows)


def backends(medians: Median) -> str:
    rows = [["IRpropMinus", "cython", "numba", "torch"]]
    for work in ("13-5-1", "10k", "100k", "1M", "25M"):
        values = [medians.get((f"torch: {work}", f"IRpropMinus-{backend}")) for backend in ("cython", "numba", "torch")]
        if values[0]:
            rows.append([work, *(seconds(x) if x else "-" for x in values)])
    return table(rows)


def first_steps(medians: Median, rows: list[dict[str, Any]]) -> str:
    """The slowest first step of a backend's optimizers: once in a process, or for each rule, something is compiled."""
    group = "torch: 13-5-1"
    first: dict[str, list[tuple[float, float]]] = {}
    for row in rows:
        info = row["extra_info"]
        if row["group"] == group and "first_call" in info:
            name = info["contender"]
            kind = name if name.startswith("torch-") else name.rpartition("-")[2]
            first.setdefault(kind, []).append((info["first_call"], medians[group, name]))
    lines = [["the 13-5-1 net", "first step", "a later one"]]
    return table(lines + [[kind, *map(seconds, max(times))] for kind, times in first.items()])


def bandwidth(medians: Median, rows: list[dict[str, Any]], names: tuple[str, ...], works: tuple[str, ...]) -> str:
    """Bytes moved in a second, and as a fraction of what an in-place scale over the same number of bytes moves."""
    traffic = moved(rows)
    weights = {row["group"]: row["extra_info"].get("weights") for row in rows}
    lines = [["bandwidth", *names]]
    for group in works:
        cells = []
        for name in names:
            scale = medians.get((f"{group}, memory bandwidth", f"in-place-scale-{traffic.get(name)}"))
            if scale and (time := medians.get((group, name))):
                cells.append(f"{traffic[name] * weights[group] / time / 1e9:.1f} GB/s, {scale / time:.0%}")
        if len(cells) == len(names):
            lines.append([group.partition(": ")[2], *cells])
    return table(lines)


def training(medians: Median) -> str:
    names = ("none", *PEERS, "Rprop-cython", "IRpropPlus-cython", "Adam-fused")
    rows = [
        [
            "whole training step",
            "forward and backward",
            "+ torch.optim.Rprop",
            "+ foreach",
            "+ Rprop",
            "+ IRpropPlus",
            "+ Adam fused",
        ]
    ]
    for group in dict.fromkeys(group for group, _ in medians if group.startswith("training: ")):
        rows.append([group.removeprefix("training: "), *(seconds(medians[group, name]) for name in names)])
    return table(rows)


def memory(rows: list[dict[str, Any]]) -> str:
    lines = [["bytes a weight (float32)", "state", "allocated by a step"]]
    for row in rows:
        if row["group"] == "memory":
            info = row["extra_info"]
            lines.append([info["contender"], f"{info['state_a_weight']:.0f}", f"{info['allocated_a_weight']:.1f}"])
    return table(lines)


def arrays(medians: Median) -> str:
    """NumPy's side: ours beside the same rule in vectorised NumPy, of each rule's own time."""
    rules = ("RpropMinus", "RpropPlus", "IRpropMinus", "IRpropPlus")
    head = ["NumPy arrays (float32)", "vectorised NumPy", "IRpropMinus", "on Numba"]
    rows = [head + [f"{rule} is" for rule in rules]]
    for group in dict.fromkeys(group for group, _ in medians):
        if (group, "IRpropMinus-plain") in medians:
            times = [medians[group, f"IRpropMinus-{kind}"] for kind in ("plain", "cython", "numba")]
            ratios = [medians[group, f"{rule}-plain"] / medians[group, f"{rule}-cython"] for rule in rules]
            rows.append([group.removeprefix("numpy: "), *map(seconds, times), *(f"{ratio:.1f} x" for ratio in ratios)])
    return table(rows)


def constraints(medians: Median) -> str:
    """A step with bounds or frozen weights, in the time of the free one."""
    kinds = ("scalar-bounds", "array-bounds", "array-bounds-hits", "frozen")
    rows = [["100k weights (float32)", "free", "bounds: numbers", "arrays", "arrays, 1 % at a bound", "half frozen"]]
    for group in dict.fromkeys(group for group, name in medians if name == "none" and ": bounds, " in group):
        free = medians[group, "none"]
        times = [medians.get((group, kind)) for kind in kinds]
        cells = [f"{time / free:.2f} x" if time else "-" for time in times]
        rows.append([group.replace(": bounds,", ","), seconds(free), *cells])
    return table(rows)


def searches(rows: list[dict[str, Any]]) -> str:
    """Time and evaluations to a loss, of every contender; one that is not on file did not get there."""
    got = {(row["group"], row["extra_info"]["contender"]): row for row in rows if "evaluations" in row["extra_info"]}
    problems = list(dict.fromkeys(group for group, _ in got))
    lines = [["until the loss is", *(problem.removeprefix("scipy: ").replace("_", " ") for problem in problems)]]
    for contender in dict.fromkeys(name for _, name in got):
        cells = []
        for problem in problems:
            row = got.get((problem, contender))
            cells.append(
                f"{seconds(row['stats']['median'])}, {row['extra_info']['evaluations']:,}" if row else "not reached"
            )
        lines.append([contender, *cells])
    return table(lines)


def evaluation_time(rows: list[dict[str, Any]]) -> list[str]:
    """The time of an evaluation and its step for a function that costs next to nothing."""
    times = {
        row["extra_info"]["contender"]: row["stats"]["median"]
        for row in rows
        if row["group"] == "scipy: an evaluation of 3 variables"
    }
    if not times:
        return []
    lines = [["3 variables, a function that costs little", *times]]
    return [table([*lines, ["an evaluation with its step", *map(seconds, times.values())]])]


def transformations(medians: Median, facts: dict[str, dict[str, Any]], rows: list[dict[str, Any]]) -> str:
    """Steps in JAX beside optax.rprop, and the bytes of state a weight."""
    groups = list(facts)
    state = {row["extra_info"]["contender"]: row["extra_info"]["state_a_weight"] for row in rows}
    weights = [f"{facts[group]['weights']:,} weights" for group in groups]
    lines = [["JAX (float32, jit, CPU)", "bytes of state", *weights, "of optax.rprop's time"]]
    for name, size in state.items():
        times = [medians[group, name] for group in groups]
        ratio = times[-1] / medians[groups[-1], "optax.rprop"]
        lines.append([name.replace("-", ", "), f"{size:.0f}", *map(seconds, times), f"{ratio:.2f}"])
    return table(lines)


FITTERS = {  # colours
    "minimize-newton": "#D55E00",
    "minimize": "#0072B2",
    "minimize-numpy": "#56B4E9",
    "scipy-L-BFGS-B": "#000000",
    "scipy-trf": "#888888",
    "torch-LBFGS": "#009E73",
    "torch-Adam": "#E69F00",
    "pytorch-minimize": "#CC79A7",
}

Fits = dict[tuple[int, str], dict[str, dict[str, Any]]]


def group_fits(rows: list[dict[str, Any]]) -> Fits:
    """Return the rows of whole fits by number and kind of problems, then by contender."""
    found: Fits = {}
    for row in rows:
        if match := re.fullmatch(r"fit: (\d+) x (\S+)", row["group"]):
            found.setdefault((int(match[1]), match[2]), {})[row["extra_info"]["contender"]] = row
    return found


def duration(x: float) -> str:
    return seconds(x) if x < 1 else f"{x:.1f} s"


def fits(rows: list[dict[str, Any]], count: int) -> str:
    """Time and share solved of every contender, for one number of problems; the share is left out where it is 1."""
    found = {name: row for (number, name), row in group_fits(rows).items() if number == count}
    lines = [[f"{count:,} problem{'s' if count > 1 else ''}", *found]]
    for contender in FITTERS:
        cells = []
        for row in (contenders.get(contender) for contenders in found.values()):
            solved = row["extra_info"]["solved"] if row else 0
            share = "" if solved == 1 else ", none" if solved == 0 else f", {min(solved, 0.9999):.2%}"
            cells.append(duration(row["stats"]["median"]) + share if row else "-")
        if {*cells} != {"-"}:
            lines.append([contender, *cells])
    return table(lines)


def fit_ratios(rows: list[dict[str, Any]]) -> str:
    """How many times as fast as SciPy's loop of L-BFGS-B ours is, in the largest number of problems."""
    found = group_fits(rows)
    most = max(count for count, _ in found)
    names = [name for count, name in found if count == most]
    lines = [[f"{most:,} problems, time of scipy-L-BFGS-B / ours", *names]]
    for contender in ("minimize-newton", "minimize", "minimize-numpy"):
        times = [[found[most, name][x]["stats"]["median"] for x in ("scipy-L-BFGS-B", contender)] for name in names]
        lines.append([contender, *(f"{theirs / ours:.1f} x" for theirs, ours in times)])
    return table(lines)


def active_rows(medians: Median) -> str:
    """A step with a quarter of the rows active, in the time of a full one."""
    lines = [["logistic fits in one batch", "a step, evaluation included", "with a quarter active", "of the full step"]]
    for group in dict.fromkeys(group for group, name in medians if name == "quarter"):
        whole, quarter = medians[group, "all"], medians[group, "quarter"]
        lines.append([group.split()[4], seconds(whole), seconds(quarter), f"{quarter / whole:.2f}"])
    return table(lines)


def plot_fits(rows: list[dict[str, Any]], folder: Path) -> None:
    """Draw the share of problems solved against time, a panel for each kind of problem."""
    found = group_fits(rows)
    most = max(count for count, _ in found)
    panels = [(name, contenders) for (count, name), contenders in found.items() if count == most]
    lines = -(-len(panels) // 3)
    figure, axes = plt.subplots(
        lines, 3, figsize=(11, 1 + 2.7 * lines), layout="constrained", sharey=True, squeeze=False
    )
    for panel in axes.flat[len(panels) :]:
        panel.remove()
    for panel, (name, contenders) in zip(axes.flat, panels, strict=False):
        for contender, colour in FITTERS.items():
            if contender not in contenders:
                continue
            row = contenders[contender]
            took, solved = row["stats"]["median"], row["extra_info"]["solved"]
            course = [*(row["extra_info"]["course"] or [(0.0, 0.0)]), (took, solved)]
            times, shares = zip(*course, strict=True)
            width = 2.2 if contender.startswith("minimize") else 1.4
            panel.plot(times[1:], shares[1:], color=colour, linewidth=width, label=contender)
            panel.plot(took, solved, "o", color=colour)  # the end
        panel.set(xscale="log", title=name, ylim=(-0.02, 1.04))
        panel.xaxis.set_minor_formatter("")
        panel.grid(alpha=0.3)
    for panel in axes[-1]:
        panel.set_xlabel("seconds, on one thread")
    for panel in axes[:, 0]:
        panel.set_ylabel(f"share of {most:,} problems solved")
    figure.legend(*axes.flat[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False)
    folder.mkdir(parents=True, exist_ok=True)
    figure.savefig(folder / "fit-solved.png", dpi=130)


def printed(path: Path, group: str) -> str:
    """The table that pytest-benchmark prints of a group: ours on the extension, and torch.optim.Rprop."""
    data = json.loads(path.read_text())
    names = [row["extra_info"]["contender"] for row in data["benchmarks"]]
    kept = [name.endswith("-cython") or name in PEERS for name in names]
    data["benchmarks"] = [
        row for row, keep in zip(data["benchmarks"], kept, strict=True) if keep and row["group"] == group
    ]
    command = [sys.executable, "-P", "-m", "pytest_benchmark", "compare", path.name, f"--columns={COLUMNS}"]
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, path.name).write_text(json.dumps(data))
        done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=folder)
    return done.stdout[done.stdout.index("---") : done.stdout.index("Legend")].strip()


def moved(rows: list[dict[str, Any]]) -> dict[str, int]:
    """Bytes of memory traffic a weight and step, by contender."""
    infos = [row["extra_info"] for row in rows]
    return {info["contender"]: info["bytes_a_weight"] for info in infos if "bytes_a_weight" in info}


def plots(
    medians: Median, facts: dict[str, dict[str, Any]], rows: list[dict[str, Any]], folder: Path, name: str
) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    single = [group for group in facts if facts[group].get("tensors") == 1 and (group, PEERS[0]) in medians]
    single.sort(key=lambda w: facts[w]["weights"])
    n = [facts[w]["weights"] for w in single]

    figure, axes = plt.subplots(figsize=(7, 4.2), layout="constrained")
    for contender, colour in COLOURS.items():
        have = [
            (facts[w]["weights"], min(medians[w, p] for p in PEERS) / medians[w, contender])
            for w in single
            if (w, contender) in medians
        ]
        axes.plot(*zip(*have, strict=True), marker="o", color=colour, label=contender.replace("-cython", ""))
    axes.axhline(1, color=TORCH, linewidth=1)
    axes.text(n[0], 1.08, "torch.optim.Rprop, its faster mode", color=TORCH, fontsize=9)
    axes.set(
        xscale="log", yscale="log", xlabel="weights in one tensor", ylabel="times as fast", title="Speed-up by size"
    )
    axes.grid(alpha=0.3, which="both")
    axes.legend(frameon=False)
    figure.savefig(folder / f"{name}-speedup.png", dpi=150)

    traffic = moved(rows)
    figure, axes = plt.subplots(figsize=(7, 4.2), layout="constrained")
    ceilings = {"in-place-scale-20": TORCH, "in-place-scale-28": "#AAAAAA"}
    for contender, colour in {**ceilings, **COLOURS}.items():
        is_ceiling = contender in ceilings
        have = []
        for group in single:
            time = medians.get((f"{group}, memory bandwidth" if is_ceiling else group, contender))
            if time:
                n = facts[group]["weights"]
                have.append((n, traffic[contender] * n / time / 1e9))
        if have:
            label = f"in-place scale, {traffic[contender]} bytes a weight" if is_ceiling else contender
            style = {"linestyle": "--"} if is_ceiling else {"marker": "o"}
            axes.plot(*zip(*have, strict=True), color=colour, label=label.replace("-cython", ""), **style)
    axes.set(
        xscale="log",
        xlabel="weights in one tensor",
        ylabel="GB/s",
        title="Memory moved by a step, and the machine's ceiling",
    )
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    figure.savefig(folder / f"{name}-bandwidth.png", dpi=150)

    works = ("13-5-1", "MLP-784-128-10", "transformer", "161x64", "ResNet-50")
    many = [work for work in works if (f"torch: {work}", PEERS[0]) in medians]
    figure, axes = plt.subplots(figsize=(7, 4.2), layout="constrained")
    bars = {
        "torch-for-loop": TORCH,
        "torch-foreach": "#AAAAAA",
        "torch-compiled": "#CC79A7",
        **COLOURS,
        "Adam-fused": "#E69F00",
    }
    width = 0.8 / len(bars)
    for i, (contender, colour) in enumerate(bars.items()):
        others = ", other optimizers" if contender == "Adam-fused" else ""
        times = [medians.get((f"torch: {work}{others}", contender)) for work in many]
        have = [(x, time) for x, time in enumerate(times) if time]
        axes.bar(
            [x + (i - len(bars) / 2 + 0.5) * width for x, _ in have],
            [y * 1e6 for _, y in have],
            width,
            color=colour,
            label=contender.replace("-cython", ""),
        )
    known = [(work, facts[f"torch: {work}"]) for work in many]
    axes.set_xticks(
        range(len(many)),
        [f"{work}\n{info['tensors']} tensors\n{info['weights']:,} weights" for work, info in known],
        fontsize=7,
    )
    axes.set(yscale="log", ylabel="microseconds a step", title="One step of many tensors")
    axes.set_ylim(top=axes.get_ylim()[1] * 30)  # room for the legend
    axes.grid(alpha=0.3, axis="y")
    axes.legend(frameon=False, fontsize=8, ncols=3)
    figure.savefig(folder / f"{name}-tensors.png", dpi=150)


def pages(results: Path) -> dict[Path, str]:
    """What stands between the marks of each page, the marks included."""
    path = results / "cpu.json"
    data, medians, _, rows = load(path)
    numpy_data, numpy_medians, _, numpy_rows = load(results / "numpy.json")
    scipy_data, _, _, scipy_rows = load(results / "scipy.json")
    optax_data, *optax_results = load(results / "optax.json")
    fit_data, fit_medians, _, fit_rows = load(results / "fit.json")
    counts = list(dict.fromkeys(count for count, _ in group_fits(fit_rows)))

    def pictures(folder: str, *names: tuple[str, str]) -> list[str]:
        return [f"![{title}]({folder}/{path.stem}-{name}.png)" for title, name in names]

    first = [
        START,
        f"Measured on {machine(data)}. Medians, side by side in one run, a fresh gradient at every step.",
        speed(medians),
        'torch.optim.Rprop is its faster mode (for-loop or foreach) in each row; "compiled" is torch.compile of its '
        "step, after compilation. 13-5-1 and MLP-784-128-10 are networks, 161x64 is 161 tensors of 64 weights, 100k is "
        "one tensor of 100,000.",
    ]
    whole = [
        "## Whole training steps",
        "An optimizer saves little where forward and backward take the time.",
        training(medians),
        "## By size",
        *pictures("images", ("Speed-up by size", "speedup"), ("Step time by number of tensors", "tensors")),
        "## Memory",
        "Bytes that a step moves in a second, also as a fraction of what an in-place scale over the same number of "
        "bytes moves.",
        bandwidth(
            medians,
            rows,
            ("Rprop-cython", "IRpropPlus-cython", "IRpropPlus-numba"),
            ("torch: 10M", "torch: 25M", "torch: 100M"),  # smaller ones fit the caches
        ),
        *pictures("images", ("Bandwidth by size", "bandwidth")),
        "What an optimizer keeps, and what a step allocates:",
        memory(rows),
        "## Backends",
        backends(medians),
        "The first step makes the state; Numba and torch.compile also compile in it. Each row is the slowest first "
        "step of the backend's optimizers.",
        first_steps(medians, rows),
        "## Bounds and frozen weights",
        constraints(medians | numpy_medians),
        "## NumPy arrays",
        f"Measured on {machine(numpy_data)}. Vectorised NumPy is the rule as one writes it with NumPy's functions, in "
        "place where there is one; it is checked to take the same steps.",
        arrays(numpy_medians),
        bandwidth(
            numpy_medians,
            numpy_rows,
            ("IRpropMinus-cython", "IRpropPlus-cython", "IRpropMinus-numba"),
            ("numpy: 25M",),
        ),
        "## JAX",
        f"Measured on {machine(optax_data)}. A step is the update and its addition to the weights, with donated "
        "buffers; all take turns, step by step. State is in bytes a weight, the last column is of the largest size.",
        transformations(*optax_results),
        "## Searches",
        f"Measured on {machine(scipy_data)}. Time and evaluations of the function with its gradient until the loss is "
        "reached, at most 30,000. Badly scaled problems (`bowl`, `logistic`) suit Rprop; valleys askew to the axes do "
        "not.",
        searches(scipy_rows),
        *evaluation_time(scipy_rows),
        "## Whole fits",
        f"Measured on {machine(fit_data)}. [A whole fit](fit.md#how-fast) describes the contenders. Time until all "
        "problems have ended, and the share solved where that is not all.",
        *(fits(fit_rows, count) for count in counts),
        active_rows(fit_medians),
        END,
    ]
    whole_fits = [
        START,
        f"Measured on {machine(fit_data)}, on one thread. Time until all problems have ended, and the share solved "
        "where that is not all:",
        *(fits(fit_rows, count) for count in counts if count >= 100),
        fit_ratios(fit_rows),
        active_rows(fit_medians),
        "![Share of problems solved against time](images/fit-solved.png)",
        END,
    ]
    short = [
        training(medians),
        *pictures("docs/images", ("Speed-up by size", "speedup")),
        arrays(numpy_medians),
        "One command measures your machine, in the environment of the tests:",
        "```sh\n.venv-test/bin/pytest benchmarks --benchmark-only\n```",
        "It takes minutes and prints a table for each work, with the ratio to the fastest row in parentheses. These "
        "are rows of one of its tables, from the results on file:",
        f"```text\n{printed(path, 'torch: 161x64')}\n```",
        '`-k 161x64` chooses a work, `-k Rprop-cython` an optimizer, `-m ""` adds the works above 10 M weights. '
        "pytest-benchmark's options keep and compare results: `--benchmark-autosave`, `--benchmark-compare`, "
        "`--benchmark-json=FILE`.",
        END,
    ]
    return {
        ROOT / "README.md": "\n\n".join([*first, *short]),
        ROOT / "docs" / "benchmarks.md": "\n\n".join([*first, *whole]),
        ROOT / "docs" / "fit.md": "\n\n".join(whole_fits),
    }


def main() -> None:
    results = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "benchmarks" / "results"
    _, medians, facts, rows = load(results / "cpu.json")
    plots(medians, facts, rows, ROOT / "docs" / "images", "cpu")
    plot_fits(load(results / "fit.json")[3], ROOT / "docs" / "images")
    for page, text in pages(results).items():
        old = page.read_text()
        before, _, rest = old.partition(START)
        _, _, after = rest.partition(END)
        page.write_text(before + text + after if rest else old + "\n" + text + "\n")
        print(text)


if __name__ == "__main__":
    main()
