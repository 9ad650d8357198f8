"""The benchmarks run by pytest-benchmark's ordinary commands. Structure is compared here, never a time."""

import json
import os
import re
import runpy
import subprocess
import sys
import tomllib
from collections import defaultdict
from pathlib import Path

import pytest
from backends import compiled

pytest.importorskip("pytest_benchmark")

ROOT = Path(__file__).resolve().parents[2]


def run(*arguments, path=()):
    """Run pytest in a new process, with the packages of this one, and return its output."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    environment |= {"PYTHONPATH": os.pathsep.join([*path, *sys.path]), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-P", "-m", "pytest", "-p", "no:cacheprovider", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def tables(output):
    """Return {group: {name of a test: the ratio of its median}} of the printed tables."""
    found = defaultdict(dict)
    group = None
    for line in output.splitlines():
        if heading := re.match(r"-+ benchmark '(.+)': \d+ tests -+$", line):
            group = heading[1]
        elif row := re.match(r"(test_\S+) +[\d,.]+ \(([>\d.]+)\)", line):
            found[group][row[1]] = row[2]
    return found


NAMES = ["IRpropPlus-cython", "Rprop-cython", "torch-for-loop", "torch-foreach"]
LISTING = """
def pytest_itemcollected(item):
    print("slow:" if item.get_closest_marker("slow") else "quick:", item.nodeid)
"""


@pytest.fixture(scope="module")
def small_run(tmp_path_factory):
    """Run the README's command on the smallest network: what it prints, all tests it collects, what it writes."""
    pytest.importorskip("torch")
    folder = tmp_path_factory.mktemp("small-run")
    (folder / "listing.py").write_text(LISTING)
    file = folder / "results.json"
    chosen = ("-k", f"13-5-1 and ({' or '.join(NAMES)})", f"--benchmark-json={file}")
    output = run("benchmarks", "--benchmark-only", *chosen, "-s", "-p", "listing", path=[str(folder)])
    return output, json.loads(file.read_text())["benchmarks"]


@compiled
def test_groups_show_the_ratio_to_torch(small_run):
    output, written = small_run
    expected = {
        "torch: 13-5-1": {f"test_step[13-5-1-{name}]" for name in NAMES},
        "training: 13-5-1-batch-100": {f"test_training_step[13-5-1-batch-100-{name}]" for name in NAMES},
    }
    found = tables(output)
    assert {group: {*rows} for group, rows in found.items()} == expected
    assert all("1.0" in rows.values() for rows in found.values())
    groups = defaultdict(set)
    for row in written:
        groups[row["group"]].add(row["name"])
        assert row["extra_info"]["contender"] in NAMES and row["stats"]["median"] > 0
        assert "UNSERIALIZABLE" not in str(row["params"])
    assert groups == expected
    steps = [row["extra_info"] for row in written if row["group"] == "torch: 13-5-1"]
    assert all(info["first_call"] > 0 and info["weights"] == 76 for info in steps)


@compiled
def test_ids_have_no_spaces_and_large_works_are_slow(small_run):
    names = {kind: re.findall(rf"\b{kind}: (benchmarks/.+)$", small_run[0], re.M) for kind in ("quick", "slow")}
    assert not [name for kind in names.values() for name in kind if " " in name]
    large = re.compile(r"\[(?:transformer|ResNet-50|25M|100M)[-\]]|test_fit\[10{3,}-")
    assert names["quick"] and not [*filter(large.search, names["quick"])]
    assert names["slow"] and all(map(large.search, names["slow"]))


def test_results_are_saved_and_compared(tmp_path):
    command = ("benchmarks/bench_numpy.py", "--benchmark-only", f"--benchmark-storage={tmp_path}")
    chosen = ("-k", "one_array and 100-IRpropMinus and (numpy or plain)")
    run(*command, *chosen, "--benchmark-autosave")
    assert len([*tmp_path.rglob("0001_*.json")]) == 1
    output = run(*command, *chosen, "--benchmark-compare")
    for kind in ("numpy", "plain"):
        assert len(re.findall(rf"^test_one_array\[100-IRpropMinus-{kind}\] \((?:NOW|0001_\S+)\)", output, re.M)) == 2
    assert "is different" not in output, "two runs on one machine"


def test_contenders_run_at_their_own_sizes():
    """The largest size of a row is its own, not one left by the row before."""
    pytest.importorskip("torch")
    workloads = runpy.run_path(str(ROOT / "benchmarks" / "workloads.py"))
    contenders = {contender.name: contender for contender in workloads["contenders"]()}
    assert len(contenders) == 20

    def largest(name):
        return [work for work in ("1M", "25M", "100M") if contenders[name].runs(work)][-1]

    for name in ("RpropMinus", "RpropPlus", "IRpropMinus", "IRpropPlus", "Rprop"):
        assert largest(f"{name}-cython") == "100M"
        assert largest(f"{name}-torch") == ("25M" if name == "IRpropMinus" else "1M")
        assert largest(f"{name}-numba") == ("25M" if name in ("RpropMinus", "RpropPlus") else "100M")


def test_tests_time_nothing(request):
    options = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["pytest"]["ini_options"]
    assert options["testpaths"] == ["tests"] and "benchmark-disable" not in options["addopts"]
    tests = [item for item in request.session.items if item.path.is_relative_to(ROOT / "tests")]
    assert not [item.nodeid for item in tests if "benchmark" in getattr(item, "fixturenames", ())]


def test_the_report_shows_the_columns_that_a_run_prints():
    pytest.importorskip("matplotlib")
    columns = runpy.run_path(str(ROOT / "benchmarks" / "report.py"))["COLUMNS"]
    assert f"--benchmark-columns={columns}" in (ROOT / "pyproject.toml").read_text()
