"""Configurations: the JSON keys of the report and some additional ones."""

import difflib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, PositiveInt, Strict, ValidationError, field_validator

from ..numpy import IRpropMinus
from . import optimizers
from .datasets import Dataset
from .errors import LabError

Pair = Annotated[tuple[float, float], Strict(False)]
"""Two numbers, a list in JSON."""
Layers = Annotated[tuple[PositiveInt, ...], Strict(False), Field(min_length=1)]


class Config(BaseModel):
    """Settings of a training; the defaults are the report's. ``rprop-lab train --help`` shows the descriptions."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    optimizer: str | None = Field(default=None, description="the technique, such as iRprop+ (train only)")
    criterion: Literal["cross_entropy"] = Field(default="cross_entropy", description="the loss: cross_entropy")
    learning_rate: float = Field(default=1e-3, description="of the optimizer; Rprop: the first step", gt=0)
    epochs: PositiveInt = Field(default=50, description="passes over the training set")
    train_set_size: PositiveInt | None = Field(default=None, description="images to train; default: five sixths")
    train_batch_size: PositiveInt | None = Field(default=None, description="images of a batch; default: all in one")
    eval_set_size: PositiveInt | None = Field(default=None, description="images held out; default: a sixth")
    eval_batch_size: PositiveInt | None = Field(default=None, description="images of a batch; default: all in one")
    etas: Pair = Field(default=(0.5, 1.2), description="of the Rprop rules")
    step_sizes: Pair = Field(default=(1e-6, 50.0), description="smallest and largest step of the Rprop rules")
    hidden_units: PositiveInt | Layers = Field(default=128, description="of the hidden layer, or a list of several")
    seed: NonNegativeInt = Field(default=0, description="of holdout, order, first weights; compare: the first one")
    data: str = Field(default="digits", description="the data set, as --data", min_length=1)
    data_dir: str | None = Field(default=None, description="its folder, as --data-dir", min_length=1)

    @field_validator("optimizer", mode="after")
    @classmethod
    def _name(cls, name: str | None) -> str | None:
        return name and optimizers.find(name).name

    @property
    def hidden(self) -> tuple[int, ...]:
        """Units of each hidden layer."""
        return (self.hidden_units,) if isinstance(self.hidden_units, int) else self.hidden_units

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
        return self.model_copy(
            update={f"{part}_set_size": size for part, size in sizes.items()}
            | {f"{part}_batch_size": size for part, size in batches.items()}
        )

    def as_dict(self) -> dict[str, Any]:
        """Convert to a dict for JSON; ``hidden_units`` is a list of all hidden layers."""
        return self.model_dump(mode="json") | {"hidden_units": list(self.hidden)}


KEYS: Final = "\n\n".join(f"{name}: {field.description}" for name, field in Config.model_fields.items())
"""The keys of a configuration, for the help of the command line."""


def read(path: Path | None, **overrides: Any) -> Config:
    """Read a configuration from a JSON file; None is an empty one.

    Args:
        path: the file, an object with the keys of :class:`Config`.
        overrides: settings that take precedence over those of the file; None is ignored.

    Raises:
        LabError: the file cannot be read, or a key or value is unknown.
    """
    if path is None:
        return from_mapping({}, **overrides)
    try:
        values = json.loads(path.read_text(encoding="utf-8-sig"), object_pairs_hook=_unique)
    except OSError as error:
        raise LabError(f"{path} cannot be read: {error.strerror or error}.") from error
    except UnicodeDecodeError as error:
        raise LabError(f"{path} is not a JSON object: it is not UTF-8 text. Use UTF-8.") from error
    except (ValueError, RecursionError) as error:
        raise LabError(f"{path} is not a JSON object: {error}.") from error
    if not isinstance(values, dict):
        raise LabError(f'{path} must hold one JSON object, such as {{"optimizer": "iRprop+"}}.')
    try:
        return from_mapping(values, **overrides)
    except LabError as error:
        raise LabError(f"{path}: {error}") from error


def from_mapping(values: Mapping[str, Any], **overrides: Any) -> Config:
    """Create a validated configuration; see :func:`read`."""
    known = list(Config.model_fields)
    for key in values:
        if key not in known:
            near = difflib.get_close_matches(key, known, 1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise LabError(f"There is no key {key!r}.{hint} The keys are: {', '.join(known)}.")
    try:
        config = Config(**(dict(values) | {key: value for key, value in overrides.items() if value is not None}))
    except ValidationError as error:
        first = error.errors()[0]
        key = str(first["loc"][0])
        if key in ("etas", "step_sizes"):
            raise LabError(f"{key} must be a list of two numbers, got {values.get(key)!r}.") from error
        text = first["msg"].replace("Input should be", "must be").replace("valid integer", "whole number")
        raise LabError(f"{key} {text}, got {first['input']!r}.") from error
    if config.optimizer is None or optimizers.find(config.optimizer).is_rprop:
        try:
            IRpropMinus(
                np.zeros(1), config.learning_rate, etas=config.etas, step_sizes=config.step_sizes, backend="numpy"
            )
        except ValueError as error:
            raise LabError(f"{error}. (lr is the key learning_rate.)") from error
    return config


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) != len(pairs):
        raise ValueError("a key stands twice")
    return values
