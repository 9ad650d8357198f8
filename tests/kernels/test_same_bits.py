"""The bits of weights and state are the same on every machine: hashes of seven steps stand in this file.

The inputs are integers scaled by powers of two, from a generator of this file, so that no library's random numbers or
functions enter. Every engine and instruction set must give the hashes of the table. After a wanted change of the rules
or inputs ``python tests/kernels/test_same_bits.py`` prints a new table, from the NumPy engine.
"""

import hashlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))
import pytest
from backends import INSTRUCTION_SET_VARIABLE, INSTRUCTION_SETS
from special_values import bits

from rprop_kernels import VARIANTS, state
from rprop_kernels.hyperparameters import Hyperparameters
from rprop_kernels.kernels import load_engine

DTYPES = ("float32", "float64")
CASES = ("plain", "maximized", "wide", "narrow", "bounds", "frozen", "losses")
"""Without options; maximized; with wide and narrow step_sizes; with bounds, frozen weights, and a loss for each row."""
HYPER = {
    "wide": Hyperparameters(2.0**-140, 2.0**120, 0.0, 2.0**100),  # both factors are exact or denormal in float32
    "narrow": Hyperparameters(0.9, 1.05, 2.0**-10, 2.0**-6),
}
DEFAULT = Hyperparameters(0.5, 1.2, 1e-6, 50.0)
ROWS, COLUMNS, STEPS = 7, 67, 7  # no multiple of a vector's length
ENGINES = [("numpy", None), ("numba", None), *(("cython", isa) for isa in INSTRUCTION_SETS)]

HASHES = {
    "rprop- float32 plain": "a1d7b743475c6d9b",
    "rprop- float32 maximized": "2825db6c5fa5d179",
    "rprop- float32 wide": "6f40168fdffa53ad",
    "rprop- float32 narrow": "499525689fde8d93",
    "rprop- float32 bounds": "5a6532bad2b5331a",
    "rprop- float32 frozen": "1ede3ccd178e2e6d",
    "rprop- float64 plain": "a48cb4bd24cbceda",
    "rprop- float64 maximized": "c5330467b6d8c1cc",
    "rprop- float64 wide": "5048b4c1d29488e2",
    "rprop- float64 narrow": "183f877f56fb3576",
    "rprop- float64 bounds": "bcd6678acd900637",
    "rprop- float64 frozen": "693f330448dc0149",
    "rprop+ float32 plain": "9a87c59d73f8c3c0",
    "rprop+ float32 maximized": "f39d511a3d6833a0",
    "rprop+ float32 wide": "22f8d62d09b1f9b1",
    "rprop+ float32 narrow": "91f1a7519ab53b23",
    "rprop+ float32 bounds": "96230305a3cd4396",
    "rprop+ float32 frozen": "4c49fa1989de1bb0",
    "rprop+ float64 plain": "160e0bf74080fd6d",
    "rprop+ float64 maximized": "4f407b04c4a9f048",
    "rprop+ float64 wide": "9de54ddd5b3e2cd5",
    "rprop+ float64 narrow": "cad1874074cc1050",
    "rprop+ float64 bounds": "616b584b0957f434",
    "rprop+ float64 frozen": "65ecd60cc71697f9",
    "irprop- float32 plain": "66ea3b1fa86f3bd3",
    "irprop- float32 maximized": "55ae0c255f5a8928",
    "irprop- float32 wide": "4dae7a47c7141680",
    "irprop- float32 narrow": "2d3585b8a2a7ac0a",
    "irprop- float32 bounds": "016166698ee2e1e6",
    "irprop- float32 frozen": "4e8dbbe309241fa8",
    "irprop- float64 plain": "76e7f16ec2b6b8b1",
    "irprop- float64 maximized": "238d8450dc05577b",
    "irprop- float64 wide": "79f1d3f781ba1019",
    "irprop- float64 narrow": "e53062f4a463a62a",
    "irprop- float64 bounds": "af00c689a9c1e51b",
    "irprop- float64 frozen": "dd83f53cc3891f3a",
    "irprop+ float32 plain": "f4116e2cedfc4923",
    "irprop+ float32 maximized": "033485214a811ee3",
    "irprop+ float32 wide": "1f9d6595b0db095d",
    "irprop+ float32 narrow": "e0658f69f4b28e63",
    "irprop+ float32 bounds": "eb34ace51eead3e8",
    "irprop+ float32 frozen": "1e3aca6b8fd81f58",
    "irprop+ float32 losses": "dab8f5a504eebe6a",
    "irprop+ float64 plain": "73429c7ef86fdc8e",
    "irprop+ float64 maximized": "e929ccb6341acaf5",
    "irprop+ float64 wide": "f9458f9fa08dcee3",
    "irprop+ float64 narrow": "c3f02fabc1cbfa7e",
    "irprop+ float64 bounds": "d364a8f898fbd10e",
    "irprop+ float64 frozen": "2d624029e0586449",
    "irprop+ float64 losses": "0dbf29a919a65b8c",
    "torch float32 plain": "8d7a082ddab69ef8",
    "torch float32 maximized": "ec26ebb8d0ff63ff",
    "torch float32 wide": "103c8b5fdc491c25",
    "torch float32 narrow": "191c0a62a4620d06",
    "torch float64 plain": "7bdfc791914295fb",
    "torch float64 maximized": "d18e90d7814e6b72",
    "torch float64 wide": "a5c1f83923cee137",
    "torch float64 narrow": "6eaa0fb8bb30cca1",
}


class Generator:
    """The linear congruential generator of Knuth's MMIX; gives its upper bits."""

    def __init__(self, seed: int) -> None:
        self.state = seed

    def integer(self, n: int) -> int:
        """Return an integer from 0 to n - 1."""
        self.state = (self.state * 6364136223846793005 + 1442695040888963407) % 2**64
        return (self.state >> 33) % n


def numbers(generator: Generator, dtype: str, least: int, largest: int, special: bool = True) -> Any:
    """Return numbers whose exponents are within limits, a fifth of them special ones."""
    info = np.finfo(dtype)
    deepest = int(info.minexp) - int(info.nmant)
    pool = [0.0, -0.0, np.inf, -np.inf, np.nan]
    pool += [
        sign * float(np.ldexp(1.0, e))
        for e in (deepest, deepest // 2, info.minexp, info.maxexp - 1)
        for sign in (1, -1)
    ]
    pool += [float(info.max), -float(info.max), 3 * float(np.ldexp(1.0, deepest))]
    mantissas, exponents, picks = [], [], []
    for _ in range(ROWS * COLUMNS):
        mantissas.append(generator.integer(2**25) - 2**24)
        exponents.append(least + generator.integer(largest - least) - 24)
        picks.append(generator.integer(5 * len(pool)))
    made = np.ldexp(np.array(mantissas, np.float64), exponents).astype(dtype)
    if special:
        table = np.array(pool, dtype)
        made = np.array([table[k] if k < len(pool) else x for k, x in zip(picks, made, strict=True)], dtype)
    return made.reshape(ROWS, COLUMNS)


def steps_of(variant: str, dtype: str, case: str) -> Iterator[tuple[Any, ...]]:
    """Generate the arguments of the steps; the first one has the weights and states, which the steps change."""
    generator = Generator(20 + CASES.index(case))
    hyper = HYPER.get(case, DEFAULT)
    if variant == "torch":
        hyper = Hyperparameters(*(float(np.dtype(dtype).type(x)) for x in hyper))
    w = numbers(generator, dtype, -4, 4)
    first = np.full_like(w, np.ldexp(3.0, -8))
    states = (np.zeros_like(w), first) if variant == "torch" else (state.encode(np.zeros_like(w), first),)
    options: dict[str, Any] = {"maximize": case == "maximized"}
    if case in ("bounds", "frozen"):
        low = numbers(generator, dtype, -6, 2, special=False)
        width = np.abs(numbers(generator, dtype, -8, 4, special=False))
        lower, upper = (x.astype(dtype) for x in (low, low + width))
        if case == "bounds":
            w[...] = np.where(np.isfinite(w), np.clip(w, lower, upper), w)
        mask = np.array([generator.integer(4) == 0 for _ in range(w.size)]).reshape(w.shape)
        options["constraints"] = [(lower, upper, None if case == "bounds" else mask)]
    for t in range(STEPS):
        g = numbers(generator, dtype, -12, 12)
        if case == "losses":
            options["outcome"] = np.array([generator.integer(3) for _ in range(ROWS)], np.uint8)
        elif variant == "irprop+":
            options["outcome"] = (0, 0, 1, 0, 2, 1, 0)[t]
        yield variant, [w], [g], [states], hyper, options


def hash_of(engine: Any, variant: str, dtype: str, case: str) -> str:
    """Return the hash of weights and states after every step; each NaN counts as the same one."""
    digest = hashlib.sha256()
    for *arguments, options in steps_of(variant, dtype, case):
        assert engine.step(*arguments, **options)
        for array in (arguments[1][0], *arguments[3][0]):
            digest.update(bits(array).astype(f"<u{array.itemsize}").tobytes())
    return digest.hexdigest()[:16]


def cases() -> list[tuple[str, str, str]]:
    """Return variant, dtype and case, where the variant has that option."""
    without = {"torch": ("bounds", "frozen", "losses")}
    return [
        (variant, dtype, case)
        for variant in VARIANTS
        for dtype in DTYPES
        for case in CASES
        if case not in without.get(variant, () if variant == "irprop+" else ("losses",))
    ]


@pytest.fixture(params=ENGINES, ids=lambda engine: "-".join(filter(None, engine)))
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    name, isa = request.param
    if isa:
        monkeypatch.setenv(INSTRUCTION_SET_VARIABLE, isa)
    return load_engine(name)


@pytest.mark.parametrize(("variant", "dtype", "case"), cases())
def test_the_same_bits(backend: Any, variant: str, dtype: str, case: str) -> None:
    assert hash_of(backend, variant, dtype, case) == HASHES[f"{variant} {dtype} {case}"]


def test_the_table_is_complete() -> None:
    assert list(HASHES) == [" ".join(row) for row in cases()]


if __name__ == "__main__":
    for row in cases():
        print(f'    "{" ".join(row)}": "{hash_of(load_engine("numpy"), *row)}",')
