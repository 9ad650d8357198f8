"""Everything that needs a GPU, in one go: tests on it, then measurements, in a few minutes.

    python benchmarks/gpu.py --out DIR [--quick] [--no-tests]

Needs torch with CUDA, Triton, NumPy and pytest; the package is taken from this tree and need not be
installed or compiled. Writes DIR/gpu.json and DIR/tests.log, and prints a short table last. Where there is no
GPU the tests run in Triton's interpreter, and nothing is measured.

How it measures. Times are medians over rounds of steps. "wall" is the time of a step as a training loop sees
it: many steps, one synchronization at the end of a round. Gradients lie elsewhere at every other step, as
they do where they are freed and made anew. "graph" is the same step captured and replayed. Bandwidth is the
bytes that the rule must move (w, g and state read once, w and state written once) over the wall time, beside
a device copy of the same session, counted as bytes read and written. Launches and copies are the profiler's.
"""

import argparse
import json
import math
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402
from torch import Tensor  # noqa: E402

from rprop_kernels import torch as ours  # noqa: E402

BYTES = {  # a weight and step, for one_state rules and the drop-in
    torch.float32: (20, 28),
    torch.float64: (40, 56),
    torch.float16: (14, 14),
    torch.bfloat16: (14, 14),
}
Shapes = list[tuple[int, ...]]
DEVICE = "cuda"


# -------------------------------------------------------------------------------------- what is measured


def resnet50() -> Shapes:
    """161 tensors, 25.6 M weights."""
    shapes: Shapes = [(64, 3, 7, 7), (64,), (64,)]
    inside = 64
    for width, blocks in ((64, 3), (128, 4), (256, 6), (512, 3)):
        for block in range(blocks):
            for shape in ((width, inside, 1, 1), (width, width, 3, 3), (4 * width, width, 1, 1)):
                shapes += [shape, (shape[0],), (shape[0],)]
            if block == 0:
                shapes += [(4 * width, inside, 1, 1), (4 * width,), (4 * width,)]
            inside = 4 * width
    return [*shapes, (1000, 2048), (1000,)]


def gpt2() -> Shapes:
    """148 tensors, 124 M weights."""
    n = 768
    layer: Shapes = [
        (n,),
        (n,),
        (n, 3 * n),
        (3 * n,),
        (n, n),
        (n,),
        (n,),
        (n,),
        (n, 4 * n),
        (4 * n,),
        (4 * n, n),
        (n,),
    ]
    return [(50257, n), (1024, n), *12 * layer, (n,), (n,)]


MODELS: dict[str, Shapes] = {
    "161 x 64": [(64,)] * 161,
    "MLP 784-128-10": [(128, 784), (128,), (10, 128), (10,)],
    "ResNet-50": resnet50(),
    "GPT-2": gpt2(),
}


def contenders(params: list[Tensor], loss: Tensor) -> dict[str, Callable[[], Callable[[], Any]]]:
    """Functions that make an optimizer and return its step."""

    def compiled() -> Callable[[], Any]:
        optimizer = torch.optim.Rprop(params)
        return torch.compile(lambda: optimizer.step())

    def with_loss() -> Callable[[], Any]:
        optimizer = ours.IRpropPlus(params)
        return lambda: optimizer.step(loss=loss)

    return {
        "Rprop": lambda: ours.Rprop(params).step,
        "RpropMinus": lambda: ours.RpropMinus(params).step,
        "RpropPlus": lambda: ours.RpropPlus(params).step,
        "IRpropMinus": lambda: ours.IRpropMinus(params).step,
        "IRpropPlus": with_loss,
        "torch Rprop foreach": lambda: torch.optim.Rprop(params, foreach=True).step,
        "torch Rprop for-loop": lambda: torch.optim.Rprop(params, foreach=False).step,
        "torch Rprop compiled": compiled,
        "torch SGD fused": lambda: torch.optim.SGD(params, lr=0.01, fused=True).step,
        "torch Adam fused": lambda: torch.optim.Adam(params, fused=True).step,
    }


def capturable(params: list[Tensor]) -> dict[str, Callable[[], Callable[[], Any]]]:
    """Those that must be told that they are captured."""
    return {
        "Rprop": lambda: ours.Rprop(params, capturable=True).step,
        "torch Rprop foreach": lambda: torch.optim.Rprop(params, foreach=True, capturable=True).step,
        "torch SGD fused": lambda: torch.optim.SGD(params, lr=0.01, fused=True).step,
        "torch Adam fused": lambda: torch.optim.Adam(params, fused=True, capturable=True).step,
    }


def stepping(params: list[Tensor], gradients: list[list[Tensor]], bare: Callable[[], Any]) -> Callable[[int], Any]:
    """Step number i of a loop."""

    def step(i: int) -> None:
        for p, g in zip(params, gradients[i % 2], strict=True):
            p.grad = g
        bare()

    return step


def make(shapes: Shapes, dtype: torch.dtype) -> tuple[list[Tensor], list[list[Tensor]]]:
    """Parameters, and two sets of gradients in different places, of differing signs."""
    params = [torch.nn.Parameter(torch.randn(shape, device=DEVICE, dtype=dtype)) for shape in shapes]
    first = [torch.randn_like(p) for p in params]
    second = [torch.where(torch.rand_like(g) < 0.3, -g, g) for g in first]
    return params, [first, second]


# ------------------------------------------------------------------------------------------------------ how


def rounds(step: Callable[[int], Any], seconds: float) -> float:
    """Seconds a step: the median over rounds of many steps, synchronized once a round."""
    for i in range(4):
        step(i)
    torch.cuda.synchronize()
    begin = time.perf_counter()
    step(0)
    torch.cuda.synchronize()
    once = time.perf_counter() - begin
    steps = max(2, min(200, math.ceil(seconds / 7 / max(once, 1e-6))))
    times = []
    until = time.perf_counter() + seconds
    while len(times) < 5 or time.perf_counter() < until:
        begin = time.perf_counter()
        for i in range(steps):
            step(i)
        torch.cuda.synchronize()
        times.append((time.perf_counter() - begin) / steps)
        if len(times) >= 3 and time.perf_counter() > until + seconds:
            break
    return statistics.median(times)


def copy_bandwidth(seconds: float) -> float:
    """Bytes a second, read and written, of a copy from one part of the device's memory to another."""
    source, target = (torch.empty(2**28, device=DEVICE).normal_() for _ in "ab")
    return 2 * source.numel() * 4 / rounds(lambda i: target.copy_(source), seconds)


def launches(step: Callable[[int], Any]) -> dict[str, int]:
    """Kernels and copies of one step whose gradients moved, as the profiler counts them."""
    from torch.profiler import ProfilerActivity, profile

    step(0)
    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CUDA]) as seen:
        step(1)
        torch.cuda.synchronize()
    names = [event.name for event in seen.events() if event.device_type == torch.autograd.DeviceType.CUDA]
    copies = sum(name.startswith(("Memcpy", "Memset")) for name in names)
    return {"kernels": len(names) - copies, "copies": copies}


def peak(step: Callable[[int], Any]) -> int:
    """Bytes that a step takes for a while."""
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    step(1)
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


def captured(step: Callable[[int], Any], seconds: float) -> float:
    """Seconds a step, replayed from a CUDA graph."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            step(0)
    torch.cuda.current_stream().wait_stream(side)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step(0)
    return rounds(lambda i: graph.replay(), seconds)


def measure(
    name: str, shapes: Shapes, dtype: torch.dtype, who: list[str], seconds: float, copy: float
) -> Iterator[dict[str, Any]]:
    weights = sum(math.prod(shape) for shape in shapes)
    loss = torch.ones((), device=DEVICE)
    params, gradients = make(shapes, dtype)
    for contender in who:
        row: dict[str, Any] = {"work": name, "weights": weights, "tensors": len(shapes)}
        row |= {"dtype": str(dtype)[6:], "who": contender}
        try:
            step = stepping(params, gradients, contenders(params, loss)[contender]())
            row["seconds"] = rounds(step, seconds)
            if not contender.startswith("torch"):
                size = BYTES[dtype][contender == "Rprop"]
                row["bytes_per_second"] = size * weights / row["seconds"]
                row["of_a_copy"] = row["bytes_per_second"] / copy
            row["peak_bytes"] = peak(step)
            row |= launches(step)
            if "for-loop" not in contender and "compiled" not in contender:
                again = capturable(params).get(contender) or contenders(params, loss)[contender]
                row["graph_seconds"] = captured(stepping(params, gradients, again()), seconds)
        except Exception as error:
            row["error"] = f"{type(error).__name__}: {str(error)[:300]}"
        print(line(row), flush=True)
        yield row
        torch.compiler.reset()
    del params, gradients
    torch.cuda.empty_cache()


def sweep(seconds: float, copy: float, n: int) -> Iterator[dict[str, Any]]:
    """Other sizes of a program than the one that is built in."""
    from rprop_kernels.kernels import triton_

    built_in = triton_.BLOCK, triton_.WARPS
    for block, warps in ((1024, 4), (2048, 4), (2048, 8), (4096, 4), (4096, 8), (8192, 8)):
        triton_.BLOCK, triton_.WARPS = block, warps
        who = ["Rprop", "RpropMinus"]
        yield from measure(f"program of {block}, {warps} warps", [(n,)], torch.float32, who, seconds, copy)
    triton_.BLOCK, triton_.WARPS = built_in


def numba_cuda(seconds: float, copy: float, sizes: list[int]) -> Iterator[dict[str, Any]]:
    """The rule of RpropMinus in numba-cuda, one tensor a launch: what another backend could reach."""
    try:
        from numba import cuda
    except ImportError as error:
        yield {"who": "numba-cuda", "error": str(error)}
        return

    import numpy as np

    zero, one, forgotten = np.float32(0), np.float32(1), np.float32(2.0**32)
    shift, unshift = np.float32(2.0**96), np.float32(2.0**-96)

    @cuda.jit
    def kernel(w, g, state, em, ep, low, high):  # type: ignore[no-untyped-def]
        for i in range(cuda.grid(1), w.size, cuda.gridsize(1)):
            s = state[i]
            size = abs(s)
            step = size * unshift if size > forgotten else size
            last = zero if size > forgotten else s
            sign = one if g[i] > zero else -one if g[i] < zero else zero
            c = sign * last
            step = min(max(step * (ep if c > zero else em if c < zero else one), low), high)
            state[i] = sign * step if sign != zero else step * shift
            w[i] -= sign * step

    numbers = [np.float32(x) for x in (0.5, 1.2, 1e-6, 50.0)]
    for n in sizes:
        row: dict[str, Any] = {"work": f"one tensor, {n:,}", "weights": n, "tensors": 1, "dtype": "float32"}
        row["who"] = "numba-cuda RpropMinus"
        try:
            (p,), gradients = make([(n,)], torch.float32)
            state = torch.full_like(p, 0.01 * 2.0**96, requires_grad=False)

            def bare(p: Tensor = p, state: Tensor = state, blocks: int = min((n + 255) // 256, 132 * 16)) -> None:
                arrays = (cuda.as_cuda_array(x, sync=False) for x in (p.detach(), p.grad, state))
                kernel[blocks, 256](*arrays, *numbers)

            row["seconds"] = rounds(stepping([p], gradients, bare), seconds)
            row["bytes_per_second"] = 20 * n / row["seconds"]
            row["of_a_copy"] = row["bytes_per_second"] / copy
        except Exception as error:
            row["error"] = f"{type(error).__name__}: {str(error)[:300]}"
        print(line(row), flush=True)
        yield row


# ------------------------------------------------------------------------------------------------- report


def line(row: dict[str, Any]) -> str:
    if "seconds" not in row:
        return f"{row.get('work', ''):<28} {row.get('dtype', ''):<9} {row['who']:<22} {row['error'][:90]}"
    graph = f"{row['graph_seconds'] * 1e6:11,.1f}" if "graph_seconds" in row else " " * 11
    share = f"{row['of_a_copy']:5.0%}" if "of_a_copy" in row else " " * 5
    counted = f"{row['kernels']:5} {row['copies']:4} {row['peak_bytes'] / 1e6:10,.1f}" if "kernels" in row else ""
    wall = f"{row['seconds'] * 1e6:11,.1f}"
    error = f"  {row['error'][:60]}" if "error" in row else ""
    return f"{row['work']:<28} {row['dtype']:<9} {row['who']:<22} {wall} {graph} {share} {counted}{error}"


def targets(rows: list[dict[str, Any]]) -> list[str]:
    """What was aimed at, and what came of it."""
    found = {(r.get("work"), r.get("dtype"), r.get("who")): r for r in rows if "seconds" in r}
    out = []
    large, small = "one tensor, 100,000,000", "161 x 64"
    for who in ("Rprop", "RpropMinus", "IRpropMinus", "RpropPlus", "IRpropPlus"):
        row = found.get((large, "float32", who))
        peer = found.get((large, "float32", "torch Rprop foreach"))
        if row and peer:
            ratio = peer["seconds"] / row["seconds"]
            share = f"{row['of_a_copy']:.0%} of a copy (aim 90 %)"
            out.append(f"{who:<12} 100 M weights: {share}, {ratio:.1f} x foreach (aim 6)")
        row, peer = found.get((small, "float32", who)), found.get((small, "float32", "torch Rprop foreach"))
        if row and peer:
            ratio = peer["seconds"] / row["seconds"]
            counted = f"{row.get('kernels')} launches (aim 1)"
            out.append(f"{who:<12} 161 tensors: {counted}, {ratio:.1f} x foreach (aim 20)")
    return out


def facts() -> dict[str, Any]:
    import triton

    smi = subprocess.run(
        ["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    return {
        "gpu": torch.cuda.get_device_name(),
        "nvidia_smi": smi.stdout.strip(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "triton": triton.__version__,
        "python": platform.python_version(),
    }


def run_tests(out: Path, seconds: float) -> bool:
    """tests/kernels/test_triton.py, on the GPU where there is one."""
    command = [
        sys.executable,
        "-m",
        "pytest",
        "tests/kernels/test_triton.py",
        "-q",
        "-rs",
        "--tb=short",
        "--durations=5",
    ]
    # Warnings of other versions of torch and Triton than the pinned ones are no failures here.
    command += ["-o", "addopts=", "-p", "no:cacheprovider", "-W", "default"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with open(out / "tests.log", "w") as log:
        try:
            done = subprocess.run(
                command, cwd=ROOT, env=environment, stdout=log, stderr=log, timeout=seconds, check=False
            )
            passed = done.returncode == 0
        except subprocess.TimeoutExpired:
            passed = False
    print("".join((out / "tests.log").read_text().splitlines(keepends=True)[-12:]))
    return passed


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder for gpu.json and tests.log")
    parser.add_argument("--quick", action="store_true", help="fewer sizes, shorter rounds")
    parser.add_argument("--no-tests", action="store_true", help="measure only")
    parser.add_argument("--minutes", type=float, default=8.0, help="leave out what does not fit (default 8)")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    end = time.monotonic() + 60 * options.minutes
    passed = options.no_tests or run_tests(
        options.out, 60 * options.minutes * (0.5 if torch.cuda.is_available() else 3)
    )
    if not torch.cuda.is_available():
        print("there is no CUDA device here: nothing was measured; the tests ran in Triton's interpreter: "
              f"{'passed' if passed else 'FAILED'}")  # fmt: skip
        return 0 if passed else 1

    seconds = 0.1 if options.quick else 0.3
    copy = copy_bandwidth(2 * seconds)
    print(f"device copy: {copy / 1e12:.3f} TB/s\n")
    print(f"{'work':<28} {'dtype':<9} {'who':<22} {'wall us':>11} {'graph us':>11} copy% kern. cop.    peak MB")
    everybody = list(contenders([torch.nn.Parameter(torch.ones(1))], torch.ones(())))
    quick = [who for who in everybody if who != "torch Rprop compiled"]
    mine = ["Rprop", "RpropMinus", "IRpropPlus", "torch Rprop foreach"]
    plan: list[tuple[str, Shapes, torch.dtype, list[str]]] = []
    # What the targets speak of comes first, in case time runs out.
    plan.append((f"one tensor, {10**8:,}", [(10**8,)], torch.float32, quick if options.quick else everybody))
    plan.append(("161 x 64", MODELS["161 x 64"], torch.float32, quick))
    plan += [(f"one tensor, {10**8:,}", [(10**8,)], dtype, mine) for dtype in list(BYTES)[1:]]
    plan += [(name, shapes, torch.float32, quick) for name, shapes in MODELS.items() if name != "161 x 64"]
    sizes = [10**3, 10**6] if options.quick else [10**3, 10**4, 10**5, 10**6, 10**7, 5 * 10**8]
    plan += [(f"one tensor, {n:,}", [(n,)], torch.float32, everybody if n == 10**6 else quick) for n in sizes]

    rows: list[dict[str, Any]] = []
    left_out = []

    def save() -> None:
        report = {"facts": facts(), "tests_passed": None if options.no_tests else passed}
        report |= {"copy_bytes_per_second": copy, "rows": rows, "left_out": left_out}
        (options.out / "gpu.json").write_text(json.dumps(report, indent=1))

    for name, shapes, dtype, who in plan[:2]:
        rows += measure(name, shapes, dtype, who, seconds, copy)
        save()
    rows += sweep(seconds, copy, 10**8)
    rows += numba_cuda(seconds, copy, [10**3, 10**8])
    save()
    for name, shapes, dtype, who in plan[2:]:
        if time.monotonic() > end:
            left_out.append(f"{name}, {dtype}")
            continue
        rows += measure(name, shapes, dtype, who, seconds, copy)
        save()
    save()
    print("\n" + "\n".join(f"{key}: {value}" for key, value in facts().items()))
    print(f"tests: {'not run' if options.no_tests else 'passed' if passed else 'FAILED, see tests.log'}")
    print(f"device copy: {copy / 1e12:.3f} TB/s" + (f"; no time left for: {'; '.join(left_out)}" if left_out else ""))
    print("\n".join(targets(rows)))
    return 0 if passed else 1


if __name__ == "__main__":
    raise SystemExit(main())
