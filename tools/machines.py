"""Record where the package ran, and write the table of docs/platforms.md from that record.

    python tools/machines.py                                            write the table
    python tools/machines.py record NAME STATUS [OPTION ...]                 record one machine
    python tools/machines.py disassembly OBJDUMP EXTENSION              check an arm64 extension's loops
    python tools/machines.py compile FOLDER                             compile for other systems with ziglang

The record is benchmarks/results/machines.json. ``.ci/elsewhere`` runs the last three.
"""

import argparse
import datetime
import json
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

ROOT = Path(__file__).resolve().parents[1]
RECORD = ROOT / "benchmarks" / "results" / "machines.json"
PAGE = ROOT / "docs" / "platforms.md"
START, END = "<!-- machines: written by tools/machines.py -->", "<!-- end of machines -->"
STATUSES = ("ran", "emulated", "compiled only", "never")
DTYPES = ("float", "double", "half", "bfloat16")
NEVER = ("Windows x86-64", "Windows arm64", "macOS arm64", "macOS x86-64", "NVIDIA GPU")
"""Machines for which something is configured; without a row on file they are shown as never tried."""

TARGETS = {
    "macOS arm64": "aarch64-macos",
    "macOS x86-64": "x86_64-macos",
    "Windows x86-64": "x86_64-windows-gnu",
    "Windows arm64": "aarch64-windows-gnu",
}
WINDOWS_CONFIG = """
#define MS_WIN32
#define MS_WIN64
#define MS_WINDOWS
#define SIZEOF_VOID_P 8
#define SIZEOF_SIZE_T 8
#define SIZEOF_TIME_T 8
#define SIZEOF_WCHAR_T 2
#define SIZEOF_LONG 4
#define SIZEOF_LONG_LONG 8
#define SIZEOF_INT 4
#define SIZEOF_SHORT 2
#define ALIGNOF_MAX_ALIGN_T 8
#define HAVE_STDINT_H 1
#define HAVE_INTTYPES_H 1
#define HAVE_SYS_TYPES_H 1
#define HAVE_SYS_STAT_H 1
#define HAVE_STDDEF_H 1
#define HAVE_WCHAR_H 1
#define Py_ENABLE_SHARED 1
typedef long long Py_ssize_t;
#define HAVE_PY_SSIZE_T 1
#define PY_SSIZE_T_MAX 0x7fffffffffffffffLL
"""


def record(name: str, status: str, command: str, commit: str, facts: list[str], files: list[Path]) -> None:
    """Write the row of one machine, with the counts of JUnit files."""
    counts = dict.fromkeys(("passed", "failed", "skipped"), 0)
    seconds = 0.0
    for file in files:
        for suite in ElementTree.parse(file).iter("testsuite"):
            number = {key: int(suite.get(key, 0)) for key in ("tests", "failures", "errors", "skipped")}
            counts["failed"] += number["failures"] + number["errors"]
            counts["skipped"] += number["skipped"]
            counts["passed"] += number["tests"] - number["failures"] - number["errors"] - number["skipped"]
            seconds += float(suite.get("time", 0))
    rows = json.loads(RECORD.read_text()) if RECORD.exists() else {}
    rows[name] = {
        "status": status,
        "date": datetime.date.today().isoformat(),
        "commit": commit or current_commit(),
        "command": command,
        "tests": counts if files else None,
        "seconds": round(seconds),
        **dict(fact.partition("=")[::2] for fact in facts),
    }
    RECORD.write_text(json.dumps(dict(sorted(rows.items())), indent=2) + "\n")
    write_page()


def current_commit() -> str:
    command = ["git", "describe", "--always", "--dirty"]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True).stdout.strip()


def render(rows: dict[str, Any]) -> str:
    """Return the table of the page."""
    lines = ["| machine | | Python | compiler | tests | date |", "| --- | --- | --- | --- | --- | --- |"]
    ordered = sorted(rows, key=lambda name: (STATUSES.index(rows[name]["status"]), name))
    for name in ordered:
        row = rows[name]
        tests = row["tests"]
        text = "" if not tests else f"{tests['passed']:,} passed, {tests['failed']} failed, {tests['skipped']} skipped"
        text += ("; " if text and row.get("remark") else "") + row.get("remark", "")
        cells = (name, row["status"], row.get("python", ""), row.get("compiler", ""), text, row["date"])
        lines.append("| " + " | ".join(str(cell) for cell in cells) + " |")
    lines += [f"| {name} | never | | | | |" for name in NEVER if name not in rows]
    return "\n".join(lines)


def write_page() -> None:
    """Write the table into the page."""
    text = PAGE.read_text()
    before, _, rest = text.partition(START)
    _, _, after = rest.partition(END)
    PAGE.write_text(f"{before}{START}\n\n{render(json.loads(RECORD.read_text()))}\n\n{END}{after}")


def disassembly(objdump: str, extension: Path) -> str:
    """Check that every loop of an arm64 extension uses vectors and none a fused operation; return the counts."""
    listing = subprocess.run([objdump, "-d", str(extension)], capture_output=True, text=True, check=True).stdout
    if fused := re.findall(r"\s(?:fn?m(?:add|sub)|fml[as])\s.*", listing):
        raise SystemExit(f"{len(fused)} fused operations: {fused[:3]}")
    functions = dict(re.findall(r"^[0-9a-f]+ <(\w+_baseline_\w+?)>:\n(.*?)(?=^\s*$|\Z)", listing, re.M | re.S))
    scalar = []
    for name, body in functions.items():
        lanes = "2d" if name.endswith("_double") else "4s"
        # A mask moves bits, whatever they mean; every other loop compares or computes.
        pattern = r"\sv\d+\.16b" if name.startswith("MASK") else rf"\s[a-z]+\s+v\d+\.{lanes}, v\d+\.{lanes}"
        if not re.search(pattern, body):
            scalar.append(name)
    source = (ROOT / "tests" / "kernels" / "test_vectorised.py").read_text()
    expected = len(DTYPES) * len(re.findall(r'"[A-Z_]+"', source.partition("LOOPS = {")[2].partition("\n}")[0]))
    if scalar or len(functions) != expected:
        raise SystemExit(f"scalar: {scalar}; {len(functions)} loops of {expected}")
    return f"{len(functions)} of {expected} with vectors, no fused operation"


def compile_elsewhere(folder: Path) -> None:
    """Compile the extension for macOS and Windows, and read the compiler's warnings."""
    zig = [sys.executable, "-m", "ziglang"]
    version = subprocess.run([*zig, "version"], capture_output=True, text=True, check=True).stdout.strip()
    source = folder / "_native.c"
    cython = [sys.executable, "-m", "cython", "-3", str(ROOT / "src" / "_native.pyx"), "-o", str(source)]
    subprocess.run(cython, check=True)
    windows = folder / "windows"
    headers = sysconfig.get_paths()["include"]
    shutil.copytree(headers, windows, dirs_exist_ok=True)  # Python.h takes the pyconfig.h next to it
    (windows / "pyconfig.h").write_text(WINDOWS_CONFIG)
    found = re.search(r'compile_args = (\["-O3".*\])', (ROOT / "setup.py").read_text())
    assert found
    options = re.findall(r'"(.*?)"', found[1])
    python = f"Python {platform.python_version()} (headers)"
    for name, target in TARGETS.items():
        mac = "macos" in target
        output = folder / (f"_native-{target}.so" if mac else f"_native-{target}.o")
        command = [*zig, "cc", "-target", target, *options, "-Wall", "-Wextra", "-Wno-unused-parameter"]
        # Cython's own code has functions that a build leaves unused, and casts between kinds of functions.
        command += ["-Wno-unused-function", "-Wno-cast-function-type", "-Wno-missing-field-initializers"]
        command += ["-DPy_LIMITED_API=0x030b0000", "-I", str(ROOT / "src"), "-I", headers if mac else str(windows)]
        command += ["-shared", "-undefined", "dynamic_lookup"] if mac else ["-c"]
        done = subprocess.run([*command, "-o", str(output), str(source)], capture_output=True, text=True)
        warnings = re.findall(r"^.*warning: .*$", done.stderr, re.M)
        print(name, "status", done.returncode, len(warnings), "warnings", *sorted(set(warnings)), sep="\n  ")
        if done.returncode:
            raise SystemExit(done.stderr[-3000:])
        remark = f"{'compiled and linked' if mac else 'compiled'}, {len(warnings)} warnings"
        facts = [f"compiler=clang of ziglang {version}", f"python={python}", f"remark={remark}"]
        record(name, "compiled only", ".ci/elsewhere compile", "", facts, [])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="action")
    new = commands.add_parser("record")
    new.add_argument("name")
    new.add_argument("status", choices=STATUSES)
    new.add_argument("--command", default="")
    new.add_argument("--fact", action="append", default=[])
    new.add_argument("--commit", default="")
    new.add_argument("--junit", action="append", default=[], type=Path)
    check = commands.add_parser("disassembly")
    check.add_argument("objdump")
    check.add_argument("extension", type=Path)
    commands.add_parser("compile").add_argument("folder", type=Path)
    options = parser.parse_args()
    if options.action == "record":
        record(options.name, options.status, options.command, options.commit, options.fact, options.junit)
    elif options.action == "disassembly":
        print(disassembly(options.objdump, options.extension))
    elif options.action == "compile":
        compile_elsewhere(options.folder)
    else:
        write_page()


if __name__ == "__main__":
    main()
