"""Hostile input, for as long as you like: ``python tests/fuzz/fuzz.py --seconds 60 [--seed N] [--only ROOM]``.

Each sequence makes a problem and does to it, in an order that its seed decides, what users, their mistakes and
damaged files do. After every accepted call the state must be that of the oracle, or of the same call on copies, bit
for bit; after every refused one nothing may have changed, and the error must name its cause and a remedy. Crashes
are what the sanitized build is for (``tests/fuzz/fuzz_sanitized.py``).

Plain seeded generators, no library: what fuzzing libraries add is shrinking and a memory of failures, but here the
worst failure ends the process, and what is left is a seed. So the sequences run in a child process that writes its
calls to a file, and this one drops operations from a failing sequence for as long as it still fails. Atheris would
have to bring an instrumented clang build of everything; hypothesis (which the property tests use) can neither run
for a given time nor outlive a crash.
"""

import argparse
import faulthandler
import importlib.util
import itertools
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1]))  # for the oracle and the catalogue of values

HANG = 120
"""Seconds after which a sequence hangs."""


ROOMS = {
    "numpy": "fuzz_numpy",
    "large": "fuzz_numpy",
    "asktell": "fuzz_numpy",
    "fit": "fuzz_fit",
    "torch": "fuzz_torch",
    "checkpoint": "fuzz_files",
    "torch-checkpoint": "fuzz_files",
    "lab": "fuzz_files",
    "environment": "fuzz_files",
}
"""Names of rooms and the modules that they are in: torch is imported only where it is needed."""


def room_named(name: str) -> type:
    return next(room for room in importlib.import_module(ROOMS[name]).ROOMS if room.name == name)


def work(options: argparse.Namespace) -> int:
    """In the child: run sequences until the time is over; the first finding ends it."""
    import warnings

    import fuzz_common as common

    warnings.simplefilter("error")
    tally = common.Tally()
    with open(options.trace, "w") as file:
        trace = common.Trace(file)
        if options.replay:
            name, seed, kept = options.replay.split("/")
            faulthandler.dump_traceback_later(HANG, exit=True)
            common.run(room_named(name), seed, tally, trace, [int(i) for i in kept.split(",") if i])
            return 0
        chosen = [room_named(name) for name in (options.only.split(",") if options.only else ROOMS)]
        until = time.monotonic() + options.seconds
        for index in itertools.count():
            if time.monotonic() >= until or index == options.sequences:
                break
            faulthandler.dump_traceback_later(HANG, exit=True)
            for room in chosen if options.only else (room for room in chosen if index % room.every == 0):
                common.run(room, f"{options.seed}.{index}", tally, trace)
    print(json.dumps(vars(tally)))
    return 0


def child(arguments: list[str], trace: Path, quiet: bool) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, __file__, "--trace", str(trace), *arguments]
    error = subprocess.DEVNULL if quiet else None
    return subprocess.run(command, stdout=subprocess.PIPE, stderr=error, text=True, check=False)


def smaller(identity: str, trace: Path, seconds: float) -> str:
    """The failing sequence with as few operations as still fail."""
    until = time.monotonic() + seconds
    kept = list(range(16))

    def fails(operations: list[int]) -> bool:
        replay = f"{identity}/{','.join(map(str, operations))}"
        return child(["--replay", replay], trace, quiet=True).returncode != 0

    size = 8
    while size and fails(kept):
        for start in reversed(range(0, len(kept), size)):
            fewer = kept[:start] + kept[start + size :]
            if time.monotonic() < until and fails(fewer):
                kept = fewer
        size //= 2
    fails(kept)  # writes its trace
    return f"{identity}/{','.join(map(str, kept))}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=None, help="default: another one each time; printed")
    parser.add_argument("--only", help="names of rooms, with commas")
    parser.add_argument("--sequences", type=int, default=-1, help="at most as many of each room")
    parser.add_argument("--replay", help="what a finding printed")
    parser.add_argument("--trace", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.trace:
        return work(options)
    if options.seed is None:
        options.seed = random.SystemRandom().randrange(1 << 32)
    with tempfile.TemporaryDirectory() as folder:
        trace = Path(folder) / "trace"
        if options.replay:
            code = child(["--replay", options.replay], trace, quiet=False).returncode
            print(trace.read_text(), end="")
            print(f"fuzz: {'it fails' if code else 'it passes'}")
            return int(code != 0)
        where = importlib.util.find_spec("rprop_kernels")
        print(f"fuzz: seed {options.seed}, {options.seconds:g} s, {where and where.origin}", flush=True)
        arguments = [
            "--seed",
            str(options.seed),
            "--seconds",
            str(options.seconds),
            "--sequences",
            str(options.sequences),
            *(["--only", options.only] if options.only else []),
        ]
        done = child(arguments, trace, quiet=False)
        if done.returncode == 0:
            tally = json.loads(done.stdout.splitlines()[-1])
            print(
                "fuzz: {sequences} sequences, {steps} steps, {errors} errors raised as they should, 0 findings".format(
                    **tally
                )
            )
            return 0
        lines = trace.read_text().splitlines()
        if not lines:
            print("fuzz: it did not start")
            return 2
        name, seed = lines[0].removeprefix("# ").split(":")
        print("\n".join(("fuzz: the failing sequence:", *lines)), flush=True)
        replay = smaller(f"{name}/{seed}", trace, 60)
        print("\n".join(("fuzz: as few operations as still fail:", *trace.read_text().splitlines())))
        end = f"signal {-done.returncode}" if done.returncode < 0 else f"exit code {done.returncode}"
        print(f"fuzz: 1 finding ({end}); again: python {os.path.relpath(__file__)} --replay {replay}")
        return 1


if __name__ == "__main__":
    sys.exit(main())
