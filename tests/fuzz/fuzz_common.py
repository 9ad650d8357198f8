"""Common parts of the fuzzer's rooms: sequences of operations that a seed determines, and the checks of errors."""

import random
import re
import sys
from collections.abc import Callable, Collection
from typing import Any, ClassVar, TextIO


class Finding(AssertionError):
    """A violation of the contract by the package."""


class Hostile(Exception):
    """An error raised by a hostile object; it may pass through unchanged."""


class Tally:
    """Counts of sequences, steps and errors."""

    def __init__(self) -> None:
        self.sequences = self.steps = self.errors = 0


REMEDY = re.compile(
    r"\b(pass|passed|must|use|make|made|load|call|give|start|list|choose|change|set|leave|put|cannot be used|available"
    r"|does not support|at most|train again|fetch it again|reduce|needs|ask|name (a|the)|look at|did you mean"
    r"|the keys are|there is|is not a json object)\b",
    re.IGNORECASE,
)


def check_text(error: BaseException, names: str) -> None:
    """Check that an error names its cause (``names`` is a pattern) and a remedy."""
    text = str(error)
    if not re.search(names, text):
        raise Finding(f"this error does not name its cause ({names}): {error!r}") from error
    if not REMEDY.search(text):
        raise Finding(f"this error names no remedy: {error!r}") from error


class Room:
    """A problem made from a seed, and operations on it.

    Each operation has a seed of its own: without one of them the others stay the same.
    """

    name: ClassVar[str]
    every: ClassVar[int] = 1  # slow rooms run less often
    operations: ClassVar[dict[str, int]]  # methods and their weights

    def __init__(self, rng: random.Random, tally: Tally, say: Callable[[str], None]) -> None:
        self.tally, self.say = tally, say
        self.over = False  # nothing is promised from here on
        self.start(rng)

    def start(self, rng: random.Random) -> None:
        raise NotImplementedError

    def operate(self, rng: random.Random) -> None:
        (name,) = rng.choices(list(self.operations), list(self.operations.values()))
        getattr(self, name)(rng)

    def close(self) -> None:
        """Undo changes outside of the room."""


class Trace:
    """The calls of the current sequence, also in a file, which survives a crash."""

    def __init__(self, file: TextIO | None = None) -> None:
        self.file, self.lines = file, list[str]()

    def begin(self, title: str) -> None:
        self.lines = []
        if self.file is not None:
            self.file.seek(0)
            self.file.truncate()
        self(title)

    def __call__(self, line: str) -> None:
        self.lines.append(line)
        if self.file is not None:
            self.file.write(line + "\n")
            self.file.flush()


def run(room: type[Room], seed: str, tally: Tally, trace: Trace, keep: Collection[int] | None = None) -> int:
    """Run a sequence and return its number of operations. ``keep``: run only these."""
    rng = random.Random(f"{room.name}:{seed}")
    seeds = [rng.getrandbits(32) for _ in range(rng.randint(1, 16))]
    trace.begin(f"# {room.name}:{seed}")
    tally.sequences += 1
    try:
        current = room(rng, tally, trace)
        try:
            for i, one in enumerate(seeds):
                if not current.over and (keep is None or i in keep):
                    current.operate(random.Random(one))
        finally:
            current.close()
    except Hostile as error:
        raise Finding("a hostile object's error came out where none was expected") from error
    return len(seeds)


def shown(value: Any) -> str:
    """Return a value for a trace, shortened, even if its ``__repr__`` raises."""
    try:
        text = repr(value)
    except Exception as error:
        text = f"<{type(value).__name__}, repr raised {error!r}>"
    return text if len(text) < 160 else text[:150] + "..."


def nonsense(rng: random.Random) -> Any:
    """Return a value that is no number, no array and no pair."""
    return rng.choice(NONSENSE)()


class Raises:
    """An object whose every method raises."""

    def _raise(self, *_args: Any) -> Any:
        raise Hostile("no")

    __len__ = __iter__ = __getitem__ = __array__ = __float__ = __index__ = __bool__ = __eq__ = _raise  # type: ignore
    __hash__ = object.__hash__


class Lies:
    """An object that claims a length, a shape, numbers and memory that it does not have."""

    shape = (3,)
    dtype = "float64"
    ndim = 1
    size = 3
    __array_interface__: ClassVar[dict[str, Any]] = {"shape": (3,), "typestr": "<f8", "data": None, "version": 3}

    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: Any) -> Any:
        raise IndexError(index)

    def __dlpack__(self, **_options: Any) -> Any:
        return object()

    def __dlpack_device__(self) -> Any:
        return 1, 0


class Minus:
    """An object with a negative length."""

    def __len__(self) -> int:
        return -1


NONSENSE: tuple[Callable[[], Any], ...] = (
    lambda: None,
    lambda: "abc",
    lambda: "1,2",
    lambda: b"\0\1",
    lambda: 10**400,
    lambda: 1j,
    lambda: float("nan"),
    lambda: -1.0,
    lambda: float("inf"),
    lambda: (),
    lambda: (1.0,),
    lambda: (1.0, 2.0, 3.0),
    lambda: ("a", "b"),
    lambda: (10**400, 10**401),
    lambda: (float("nan"), float("nan")),
    lambda: {},
    lambda: {1.0: 2.0, 3.0: 4.0},
    lambda: object(),
    lambda: sys,
    lambda: int,
    lambda: [[]],
    lambda: [[1.0], [2.0, 3.0]],
    Raises,
    Lies,
    Minus,
)
