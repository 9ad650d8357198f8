"""The golden traces as data for other languages: what docs/traces.md says of them, and the reader in C."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from rprop_kernels.testing import load_traces

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "examples" / "traces.c"
FILES = sorted((ROOT / "rprop_kernels" / "traces").glob("*.json"))
NUMBERS = {"float32": ("float", "strtof"), "float64": ("double", "strtod")}
COMPILER = next(filter(None, map(shutil.which, ("gcc", "cc", "clang"))), None)

needs_compiler = pytest.mark.skipif(COMPILER is None, reason="there is no C compiler: gcc, cc or clang")


def build(folder, dtype, source=SOURCE):
    real, read = NUMBERS[dtype]
    program = folder / f"traces-{dtype}"
    flags = ["-std=c11", "-Wall", "-Wextra", "-Werror", "-O2", "-ffp-contract=off", f"-DREAL={real}", f"-DREAD={read}"]
    subprocess.run([COMPILER, *flags, source, "-o", program], check=True)
    return program


def run(program, path):
    return subprocess.run([program, path], capture_output=True, text=True)


@needs_compiler
@pytest.mark.parametrize("dtype", NUMBERS)
def test_the_reader_in_c_agrees_with_every_trace(dtype, tmp_path):
    program = build(tmp_path, dtype)
    traces = [(path, json.loads(path.read_text())) for path in FILES if path.name.endswith(f"{dtype}.json")]
    followed = 0
    for path, trace in traces:
        done = run(program, path)
        if "irprop-" in trace["rules"]:
            followed += 1
            steps = len(trace["gradients"])
            assert (done.returncode, done.stdout) == (0, f"{len(trace['w0'])} weights, {steps} steps: iRprop-\n")
        else:
            assert done.returncode == 2
    assert followed >= 10
    assert run(program, tmp_path / "missing.json").returncode == 2


@needs_compiler
@pytest.mark.parametrize(
    ("line", "mistake"),
    [(", sign = 0;", ";"), ("etas[1];", "etas[1] * 1.0000001;"), ("D[i] > step", "0 && D[i] > step")],
)
def test_it_finds_mistakes(line, mistake, tmp_path):
    source = tmp_path / "wrong.c"
    text = SOURCE.read_text()
    assert text.count(line) == 1
    source.write_text(text.replace(line, mistake))
    program = build(tmp_path, "float64", source)
    found = [run(program, path) for path in FILES if path.name.endswith("float64.json")]
    wrong = [done.stdout for done in found if done.returncode == 1]
    assert wrong and all(re.fullmatch(r"step \d+, weight \d: \S+, not \S+\n", text) for text in wrong)


@needs_compiler
def test_it_reads_damaged_files_without_harm(tmp_path):
    sanitized = tmp_path / "sanitized"
    flags = ["-std=c11", "-g", "-fsanitize=address,undefined", "-DREAL=double", "-DREAD=strtod"]
    if subprocess.run([COMPILER, *flags, SOURCE, "-o", sanitized], capture_output=True).returncode:
        pytest.skip("the compiler has no sanitizers")
    text = FILES[1].read_bytes()
    path = tmp_path / "damaged.json"
    for damaged in (text[:0], text[:50], text[:400], text[:2000], text.replace(b"]", b""), text.replace(b"0", b"x")):
        path.write_bytes(damaged)
        done = run(sanitized, path)
        assert done.returncode in (1, 2) and "Sanitizer" not in done.stderr, done.stderr


def test_the_reader_has_twenty_lines():
    text = SOURCE.read_text()
    function = text[text.index("static size_t numbers") : text.index("int main")].strip()
    assert len(function.splitlines()) <= 20


# ---------------------------------------------------------------------------------------- what the page says


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_the_files_are_as_described(path):
    text = path.read_text(encoding="ascii")  # neither NaN nor infinite, which JSON lacks
    trace = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert list(trace) == [
        "rank", "name", "dtype", "lr", "etas", "step_sizes", "w0", "gradients", "losses", "rules", "deviations",
    ]  # fmt: skip
    assert path.name == f"{trace['name']}.{trace['dtype']}.json"
    steps, n = len(trace["gradients"]), len(trace["w0"])
    assert len(trace["losses"]) == steps
    for rule in trace["rules"].values():
        assert list(rule) == ["w", "q", "D"]
        for column in rule.values():
            assert len(column) == steps and {len(row) for row in column} == {n}
    for rows in trace["deviations"].values():
        assert len(rows) == steps
    real = np.dtype(trace["dtype"]).type
    for value in np.ravel([trace["w0"], *trace["gradients"], *trace["rules"]["torch"]["w"]]):
        assert float(str(real(value))) == value  # the shortest decimal


def test_they_are_what_the_package_loads():
    assert {(t.name, t.dtype) for t in load_traces()} == {tuple(path.name.split(".")[:2]) for path in FILES}
    assert [t.name for t in load_traces()][::2] == [
        json.loads(path.read_text())["name"]
        for path in sorted(FILES, key=lambda path: json.loads(path.read_text())["rank"])
        if "float32" in path.name
    ]
