"""The fuzzer on an extension built with AddressSanitizer and UndefinedBehaviorSanitizer (gcc on Linux).

``python tests/fuzz/fuzz_sanitized.py --seconds 60`` and every other option of ``fuzz.py``. Everything is built in a
temporary folder, or with ``--folder`` in one that is kept; the working tree is only read. Any other command can be run
on that build: ``python tests/fuzz/fuzz_sanitized.py --run pytest tests/kernels/test_kernels.py``.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
FLAGS = "-fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer -g"


def build(folder: Path) -> Path:
    """A copy of the package built with sanitizers and installed below ``folder``; where to import it from."""
    source, installed = folder / "source", folder / "installed"
    ignored = shutil.ignore_patterns("*.so", "*.c", "__pycache__")
    for name in ("rprop_kernels", "src"):
        shutil.copytree(ROOT / name, source / name, ignore=ignored, dirs_exist_ok=True)
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    flags = {"CFLAGS": FLAGS, "LDFLAGS": "-fsanitize=address,undefined", "RPROP_KERNELS_REQUIRE_EXTENSION": "1"}
    command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--upgrade", "--target", str(installed)]
    subprocess.run([*command, str(source)], env=os.environ | flags, check=True)
    return installed


def environment(installed: Path) -> dict[str, str]:
    """Sanitizers first in the process, Python's allocator out of their way, this build before any other."""
    libraries = [
        subprocess.run(["gcc", f"-print-file-name={name}"], capture_output=True, text=True, check=True).stdout.strip()
        for name in ("libasan.so", "libubsan.so")
    ]
    return os.environ | {
        "LD_PRELOAD": " ".join(libraries),
        "PYTHONMALLOC": "malloc",
        "PYTHONPATH": str(installed),
        # Python and its libraries leave memory at exit; a size that nobody has is NULL there, and a MemoryError here.
        "ASAN_OPTIONS": "detect_leaks=0:allocator_may_return_null=1",
        "UBSAN_OPTIONS": "print_stacktrace=1",
    }


def main(arguments: list[str]) -> int:
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        if arguments[:1] == ["--folder"]:
            folder, arguments = Path(arguments[1]), arguments[2:]
        installed = build(folder)
        command = [str(ROOT / "tests" / "fuzz" / "fuzz.py"), *arguments]
        if arguments[:1] == ["--run"]:
            command = ["-P", "-m", *arguments[1:]]  # -P: not the package in the working folder
        return subprocess.run([sys.executable, *command], env=environment(installed), check=False).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
