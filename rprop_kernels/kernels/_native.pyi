"""The extension, built from src/_native.pyx."""

from collections.abc import Callable, Sequence
from typing import Any

from typing_extensions import disjoint_base

from .threads import ThreadTeam

_Hyper = tuple[float, float, float, float, float]
_Threads = Callable[[], ThreadTeam | None] | None
_Engine = Callable[[int], tuple[int, int, int]] | None
_Attributes = tuple[int, int, int, tuple[int, ...], tuple[int, ...]]

@disjoint_base
class Buffers: ...

@disjoint_base
class ArrayStep:
    def __init__(self, isa: int, engine: _Engine = None) -> None: ...
    def __call__(
        self,
        rule: int,
        params: Sequence[Any],
        grads: Sequence[Any],
        states: Sequence[Sequence[Any]],
        hyper: _Hyper,
        outcomes: Any,
        constraints: Sequence[tuple[Any, Any, Any] | None] | None,
        threads: _Threads,
        threshold: int,
        bests: Sequence[Any] | None = None,
        improved: bytes | None = None,
    ) -> bool: ...
    def largest_gradient(
        self,
        params: Sequence[Any],
        grads: Sequence[Any],
        states: Sequence[Sequence[Any]],
        hyper: _Hyper,
        outcomes: bytes | None,
        constraints: Sequence[tuple[Any, Any, Any] | None] | None,
        threads: _Threads,
        threshold: int,
    ) -> list[float] | None: ...

@disjoint_base
class TorchApi:
    def __init__(
        self,
        tensor: type,
        parameter: type,
        increment_version: Callable[[list[Any]], object],
        mode_checks: Sequence[tuple[Callable[[], object], Callable[[], object] | None]],
        threads: _Threads,
        exchange: object,
        read_attributes: Callable[[Any], _Attributes | None],
    ) -> None: ...

@disjoint_base
class TorchStep:
    def __init__(
        self, torch: TorchApi, isa: int, torch_rule: bool, engine: _Engine = None, device_type: int = 1
    ) -> None: ...
    def plan(self, state: dict[Any, Any], param_groups: list[dict[str, Any]], hypers: list[Any]) -> None: ...
    def __call__(
        self,
        rule: int,
        state: Any,
        param_groups: list[dict[str, Any]],
        outcomes: bytes | None,
        threshold: int,
        prepare_launch: Callable[[bytes, bytes, bytes, bytes, int, int], Callable[[], None] | None] | None = None,
        n_losses: int = 0,
        bests: list[Any] | None = None,
        improved: bytes | None = None,
    ) -> int: ...
    def largest_gradient(
        self,
        rule: int,
        state: Any,
        param_groups: list[dict[str, Any]],
        outcomes: bytes | None,
        threshold: int,
    ) -> tuple[int, list[float] | None]: ...

def source_hash() -> str: ...
def instruction_sets() -> tuple[int, int]: ...
