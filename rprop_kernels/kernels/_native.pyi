"""The extension, built from src/_native.pyx."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from typing_extensions import disjoint_base

from .openmp import Grant

_Numbers = tuple[float, float, float, float, float]
_Threads = Callable[[], Grant | None] | None

@disjoint_base
class Views: ...

@disjoint_base
class ArrayStep:
    def __init__(self, level: int) -> None: ...
    def __call__(
        self,
        rule: int,
        weights: Sequence[Any],
        gradients: Sequence[Any],
        states: Sequence[Sequence[Any]],
        numbers: _Numbers,
        verdicts: Any,
        threads: _Threads,
        threshold: int,
    ) -> bool: ...

@disjoint_base
class Torch:
    def __init__(
        self,
        tensor: type,
        parameter: type,
        increment_version: Callable[[list[Any]], object],
        modes: Sequence[tuple[Callable[[], object], Callable[[], object] | None]],
        threads: _Threads,
        exchange: object,
        kinds: Mapping[Any, tuple[int, int]],
        cpu: object,
        strided: object,
    ) -> None: ...

@disjoint_base
class TorchStep:
    def __init__(self, torch: Torch, level: int, product: bool) -> None: ...
    def plan(self, state: dict[Any, Any], param_groups: list[dict[str, Any]], numbers: list[Any]) -> None: ...
    def __call__(
        self,
        rule: int,
        state: Any,
        param_groups: list[dict[str, Any]],
        verdicts: bytes | None,
        threshold: int,
    ) -> int: ...

def stop_at_bounds(level: int, weight: Any, state: Any, lower: Any, upper: Any, most: Any) -> bool: ...
def levels() -> tuple[int, int]: ...
