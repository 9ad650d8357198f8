"""Every loop of src/loops.h is vectorised, for each storage type, rule and instruction set.

A branch, such as a conditional store, leaves a loop scalar: its results stay right, and it takes up to nine times as
long. The compiler's report on its optimizations shows it.
"""

import os
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
REGISTER_BYTES = {"baseline": 16, "v3": 32, "v4": 64}
DTYPES = ("float", "double", "half", "bfloat16")
LOOPS = {
    "Loop": ("MOVE", "SKIP", "BACKTRACK", "BACKTRACK_ALL", "TORCH"),
    "BoundedLoop": ("BOUNDED_MOVE", "BOUNDED_SKIP", "BOUNDED_BACKTRACK", "BOUNDED_BACKTRACK_ALL"),
    "OptionLoop": ("LIMIT", "FORGET"),
    "MaskLoop": ("MASK",),
    "GradientLoop": ("GRADIENT", "FREE_GRADIENT"),
}


def compile_command(name: str) -> list[str]:
    """Return the command that compiles as setup.py does and reports the vectorised loops."""
    gcc = shutil.which(name)
    if gcc is None:
        pytest.skip(f"needs {name}")

    def answer(option: str) -> str:
        return subprocess.run([gcc, option], capture_output=True, text=True, check=True).stdout.strip()

    version = answer("-dumpfullversion")
    if int(version.partition(".")[0] or 0) < 12:
        pytest.skip(f"needs gcc 12 or newer, found {version}")
    found = re.search(r'compile_args = (\["-O3".*\])', (ROOT / "setup.py").read_text())
    assert found
    options = re.findall(r'"(.*?)"', found[1])
    return [gcc, *options, "-fPIC", "-fopt-info-vec-optimized", "-I", str(ROOT / "src"), "-x", "c", "-c", "-"]


@pytest.fixture(scope="module")
def compiler() -> list[str]:
    if sys.platform != "linux" or platform.machine() != "x86_64":  # elsewhere "gcc" may be clang
        pytest.skip("needs gcc on Linux for x86-64")
    return compile_command("gcc")


@pytest.fixture(scope="module")
def arm64_compiler() -> list[str]:
    native = sys.platform == "linux" and platform.machine() == "aarch64"
    return compile_command(
        "gcc" if native and shutil.which("gcc") else os.environ.get("ARM64_CC", "aarch64-linux-gnu-gcc")
    )


def vectorised(compiler: list[str], folder: Path, kind: str, name: str) -> list[int]:
    """Return the vector lengths in bytes of the vectorised loops of one function."""
    source = f'#include "loops.h"\n{kind} *const probe = {name};\n'  # the other functions are unused, so not compiled
    command = [*compiler, "-o", str(folder / "probe.o")]
    report = subprocess.run(command, input=source, capture_output=True, text=True, check=True).stderr
    return [int(x) for x in re.findall(r"loop vectorized using (\d+) byte vectors", report)]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("isa", REGISTER_BYTES)
def test_every_loop_is_vectorised(compiler: list[str], tmp_path: Path, isa: str, dtype: str) -> None:
    for kind, rules in LOOPS.items():
        for rule in rules:
            if kind == "GradientLoop" and (isa, dtype) == ("baseline", "double"):
                continue  # SSE2 cannot compare 64-bit integers
            name = f"{rule}_{isa}_{dtype}"
            # One loop with full registers; the rest of its weights may have loops with shorter vectors.
            assert vectorised(compiler, tmp_path, kind, name).count(REGISTER_BYTES[isa]) == 1, name


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_loop_is_vectorised_for_arm64(arm64_compiler: list[str], tmp_path: Path, dtype: str) -> None:
    """By the cross compiler, which Debian calls gcc-aarch64-linux-gnu; ARM64_CC names another one."""
    for kind, rules in LOOPS.items():
        for rule in rules:
            name = f"{rule}_baseline_{dtype}"
            assert vectorised(arm64_compiler, tmp_path, kind, name).count(REGISTER_BYTES["baseline"]) == 1, name
