"""The form of x0 in minimize: a tensor, a list or dict of tensors, or a Module; and options for its parts."""

import fnmatch
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..bounds import shape_error, split_halves, split_option, to_value

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


class Structure:
    """The parts of x0 and how to put them together.

    Args:
        x0: a tensor, a list, tuple or mapping of tensors, or a Module, whose parameters that require gradients are its
            parts.

    Attributes:
        tensors: the parts.
        names: of the parts of a mapping or Module, else None.
        module: the Module, else None.

    Raises:
        TypeError, ValueError: it is of another form, or holds something that is not finite.
    """

    def __init__(self, x0: Any) -> None:
        self.names: list[str] | None = None
        self.module = x0 if isinstance(x0, nn.Module) else None
        self.kind: Any = type(x0)
        self.tensors: list[Tensor]
        if isinstance(x0, nn.Module):
            named = [(name, p) for name, p in x0.named_parameters() if p.requires_grad]
            self.names, self.tensors = [name for name, _ in named], [p for _, p in named]
        elif isinstance(x0, Tensor):
            self.tensors = [x0]
        elif isinstance(x0, Mapping):
            self.names, self.tensors = [str(name) for name in x0], list(x0.values())
            self.keys = list(x0)
        elif isinstance(x0, (list, tuple)):
            self.tensors = list(x0)
        else:
            raise TypeError(f"x0 is a {type(x0).__name__}: pass a tensor, a list or dict of tensors, or a Module")
        if not self.tensors or all(isinstance(t, Tensor) and t.numel() == 0 for t in self.tensors):
            raise ValueError("x0 holds no parameters that can be stepped: pass at least one tensor that is not empty")
        for i, t in enumerate(self.tensors):
            if not isinstance(t, Tensor):
                raise TypeError(f"{self.place(i)} is a {type(t).__name__}: pass tensors")
            if t.dtype not in DTYPES:
                raise TypeError(f"{self.place(i)} is {t.dtype}: pass real floating-point tensors, such as x.float()")
            if not bool(t.isfinite().all()):
                raise ValueError(f"{self.place(i)} has a NaN or an infinity: pass finite numbers")

    def place(self, index: int) -> str:
        """Return the name of a part for messages."""
        if self.names is not None:
            return f"{self.names[index]!r} of x0"
        return "x0" if self.kind is Tensor or issubclass(self.kind, Tensor) else f"x0[{index}]"

    def join(self, tensors: Sequence[Any]) -> Any:
        """Return parts in the form of x0; for a Module a dict by their names."""
        if self.module is not None:
            assert self.names is not None
            return dict(zip(self.names, tensors, strict=True))
        if issubclass(self.kind, Tensor):
            return tensors[0]
        if issubclass(self.kind, Mapping):
            return dict(zip(self.keys, tensors, strict=True))
        return list(tensors)

    def split(self, value: Any, name: str) -> list[Any]:
        """Return the parts of a value in the form of x0.

        Raises:
            TypeError: it has another form.
        """
        if issubclass(self.kind, Tensor):
            return [value]
        if self.names is not None and isinstance(value, Mapping) and {str(key) for key in value} == set(self.names):
            by_name = {str(key): item for key, item in value.items()}
            return [by_name[key] for key in self.names]
        if self.names is None and isinstance(value, (list, tuple)) and len(value) == len(self.tensors):
            return list(value)
        raise TypeError(f"{name} is a {type(value).__name__}: return it in the form of x0, one tensor for each of x0's")

    # ----------------------------------------------------------------------------------------- options

    def option(self, name: str, value: Any) -> list[Any]:
        """Return the item of each part of an option: of a mapping by names and patterns, else as in the optimizers.

        Raises:
            TypeError, ValueError: naming the option and the remedy.
        """
        if self.names is not None and isinstance(value, Mapping):
            return self._by_name(name, value)
        if self.names is not None and value is not None and (isinstance(value, list) or np.ndim(value) > 0):
            raise TypeError(f"{name} is a {type(value).__name__}: pass a number, or a dict by the names of x0")
        return split_option(name, value, len(self.tensors), array_like=issubclass(self.kind, Tensor))

    def bounds(self, bounds: Any) -> list[tuple[Any, Any]]:
        """Return the lower and the upper bound of each part."""
        if self.names is not None and isinstance(bounds, Mapping):
            pairs = self._by_name("bounds", bounds)
            for pair in pairs:
                if pair is not None and not (isinstance(pair, tuple) and len(pair) == 2):
                    raise TypeError(f"bounds has the item {pair!r}: pass a tuple (lower, upper) for each name")
            return [(None, None) if pair is None else pair for pair in pairs]
        halves = split_halves(bounds)
        columns = (self.option(f"{name} bound", half) for name, half in zip(("lower", "upper"), halves, strict=True))
        return list(zip(*columns, strict=True))

    def _by_name(self, option: str, value: Mapping[Any, Any]) -> list[Any]:
        assert self.names is not None
        found: list[Any] = []
        used: set[Any] = set()
        for name in self.names:
            keys = [name] if name in value else [key for key in value if fnmatch.fnmatchcase(name, str(key))]
            if len(keys) > 1:
                raise ValueError(f"{option}: {keys[0]!r} and {keys[1]!r} both match {name!r}: name it exactly")
            used.update(keys)
            found.append(value[keys[0]] if keys else None)
        if unused := [key for key in value if key not in used]:
            raise ValueError(f"{option}: {unused[0]!r} matches nothing: the names are {', '.join(self.names)}")
        return found

    def tensor(self, name: str, item: Any, index: int, kind: str = "numbers") -> Tensor | None:
        """Return an item of an option as a tensor like the part.

        Raises:
            TypeError, ValueError: it holds something else, or does not broadcast.
        """
        part = self.tensors[index]
        name = f"{name} of {self.place(index)}"
        value = to_value(name, item, kind)
        if value is None:
            return None
        dtype = part.dtype if kind == "numbers" else torch.bool
        tensor = torch.as_tensor(value, dtype=dtype, device=part.device)
        try:
            return tensor.broadcast_to(part.shape).clone()
        except RuntimeError:
            raise shape_error(name, tensor.shape, part.shape) from None
