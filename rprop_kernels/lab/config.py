"""Configurations: the JSON keys of the report and some additional ones."""

import difflib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import numpy as np

from ..numpy import IRpropMinus
from . import optimizers
from .datasets import Dataset
from .errors import LabError

CRITERIA: Final = ("cross_entropy",)
"""Names of functions in ``torch.nn.functional`` that ``criterion`` may name."""


@dataclass(frozen=True, slots=True)
class Config:
    """Settings of a training; the defaults are the report's.

    Attributes:
        criterion: the loss, one of ``CRITERIA``.
        optimizer: name of a technique; None only where all are compared.
        learning_rate, etas, step_sizes: of the optimizer.
        epochs: passes over the training set.
        train_set_size, eval_set_size: None: a sixth of the learning part is held out for evaluation.
        train_batch_size, eval_batch_size: None: the whole set in one batch.
        hidden_units: of the one hidden layer.
        seed: of the holdout, the order of the images and the first weights.
        data, data_dir: the data set (see :mod:`.datasets`).
    """

    criterion: str = "cross_entropy"
    optimizer: str | None = None
    learning_rate: float = 1e-3
    epochs: int = 50
    train_set_size: int | None = None
    train_batch_size: int | None = None
    eval_set_size: int | None = None
    eval_batch_size: int | None = None
    etas: tuple[float, float] = (0.5, 1.2)
    step_sizes: tuple[float, float] = (1e-6, 50.0)
    hidden_units: int = 128
    seed: int = 0
    data: str = "digits"
    data_dir: str | None = None

    def for_data(self, dataset: Dataset) -> "Config":
        """Return a copy in which every size is a number.

        Raises:
            LabError: the sizes do not fit the data or one another.
        """
        images = len(dataset.learn_labels)
        evaluation = self.eval_set_size or (
            images // 6 if self.train_set_size is None else images - self.train_set_size
        )
        training = self.train_set_size or images - evaluation
        if training < 1 or evaluation < 1 or training + evaluation > images:
            raise LabError(
                f"train_set_size ({self.train_set_size or 'not given'}) and eval_set_size "
                f"({self.eval_set_size or 'not given'}) must leave an image to each and share the {images} "
                f"images for learning of {dataset.origin}. Change them, or choose other data (--data mnist "
                f"--data-dir FOLDER has 60000)."
            )
        sizes = {"train": training, "eval": evaluation}
        batches = {"train": self.train_batch_size or training, "eval": self.eval_batch_size or evaluation}
        for part, batch in batches.items():
            if batch > sizes[part]:
                raise LabError(
                    f"{part}_batch_size ({batch}) is larger than {part}_set_size ({sizes[part]}). "
                    "Make it smaller, or leave it out for one batch of everything."
                )
        return replace(
            self,
            train_set_size=training,
            eval_set_size=evaluation,
            train_batch_size=batches["train"],
            eval_batch_size=batches["eval"],
        )

    def as_dict(self) -> dict[str, Any]:
        """Convert to a dict for JSON."""
        return asdict(self)


def read(path: Path, **overrides: Any) -> Config:
    """Read a configuration from a JSON file.

    Args:
        path: the file, an object with the keys of :class:`Config`.
        overrides: settings that take precedence over those of the file; None is ignored.

    Raises:
        LabError: the file cannot be read, or a key or value is unknown.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8-sig"), object_pairs_hook=_unique)
    except OSError as error:
        raise LabError(f"{path} cannot be read: {error.strerror or error}.") from error
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError and JSONDecodeError too
        raise LabError(f"{path} is not a JSON object: {error}.") from error
    if not isinstance(values, dict):
        raise LabError(f'{path} must hold one JSON object, such as {{"optimizer": "iRprop+"}}.')
    try:
        return from_mapping(values, **overrides)
    except LabError as error:
        raise LabError(f"{path}: {error}") from error


def from_mapping(values: Mapping[str, Any], **overrides: Any) -> Config:
    """Create a validated configuration; see :func:`read`."""
    known = [field.name for field in fields(Config)]
    for key in values:
        if key not in known:
            near = difflib.get_close_matches(key, known, 1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise LabError(f"There is no key {key!r}.{hint} The keys are: {', '.join(known)}.")
    merged = dict(values) | {key: value for key, value in overrides.items() if value is not None}
    config = Config(**{key: _PARSERS[key](key, value) for key, value in merged.items()})
    try:
        IRpropMinus(
            np.zeros(1),
            lr=config.learning_rate,
            etas=config.etas,
            step_sizes=config.step_sizes,
            backend="numpy",
        )
    except ValueError as error:
        raise LabError(f"{error}. (lr is the key learning_rate.)") from error
    return config


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) != len(pairs):
        raise ValueError("a key stands twice")
    return values


def _whole(least: int) -> Callable[[str, Any], int]:
    def whole(key: str, value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value < 2**63:
            raise LabError(f"{key} must be a whole number of at least {least}, got {value!r}.")
        return value

    return whole


def _number(key: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise LabError(f"{key} must be a number, got {value!r}.")
    return float(value)


def _pair(key: str, value: Any) -> tuple[float, float]:
    if not isinstance(value, list | tuple) or len(value) != 2:
        raise LabError(f"{key} must be a list of two numbers, got {value!r}.")
    return _number(key, value[0]), _number(key, value[1])


def _text(key: str, value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise LabError(f"{key} must be a text, got {value!r}.")
    return value


def _criterion(key: str, value: Any) -> str:
    if value not in CRITERIA:
        raise LabError(f"{key} must be one of {', '.join(CRITERIA)}, got {value!r}.")
    return str(value)


def _optimizer(key: str, value: Any) -> str:
    return optimizers.find(_text(key, value)).name


_PARSERS: Final = MappingProxyType[str, Callable[[str, Any], Any]](
    {
        "criterion": _criterion,
        "optimizer": _optimizer,
        "learning_rate": _number,
        "epochs": _whole(1),
        "train_set_size": _whole(1),
        "train_batch_size": _whole(1),
        "eval_set_size": _whole(1),
        "eval_batch_size": _whole(1),
        "etas": _pair,
        "step_sizes": _pair,
        "hidden_units": _whole(1),
        "seed": _whole(0),
        "data": _text,
        "data_dir": _text,
    }
)
