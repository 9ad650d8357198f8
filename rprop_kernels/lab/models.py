"""The file of a trained network, of every command: plain arrays, whose loading never executes code."""

import json
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import numpy as np

from ..files import read_npz
from .errors import LabError
from .network import Array, Network
from .results import write_file

FORMAT: Final = "rprop_kernels.lab model 2"
MODEL: Final = "model.npz"
"""Name of the file that ``train`` writes."""


@dataclass(frozen=True, slots=True)
class SavedModel:
    """Contents of a model file.

    Attributes:
        network: with its weights.
        settings: of the training; ``data``, ``data_dir`` and ``origin`` name the data set.
        figures: what was measured when it was saved, by name.
        limits: numbers that stand for an empty and a full pixel.
    """

    network: Network
    settings: dict[str, Any]
    figures: dict[str, float]
    limits: tuple[float, float]

    def predict(self, images: Array, pixel_max: float) -> Array:
        """Compute the probabilities of the classes: shape (images, classes); pixels run from 0 to ``pixel_max``."""
        return self.network.predict(self.inputs(images, pixel_max))

    def inputs(self, images: Array, pixel_max: float) -> Array:
        """Convert pixels from 0..``pixel_max`` to the numbers that the network was trained on."""
        low, high = map(np.float32, self.limits)
        unit: Array = images.astype(np.float32) / np.float32(pixel_max)
        return unit * (high - low) + low


def save(
    path: Path, network: Network, settings: dict[str, Any], figures: dict[str, float], limits: tuple[float, float]
) -> None:
    """Write a model to ``path`` atomically: the file is always the complete old or the complete new one.

    Arguments are those of :class:`SavedModel`.
    """
    header = {
        "format": FORMAT,
        "network": {
            "sizes": network.sizes,
            "hidden": [activation.name for activation in network.activations[:-1]],
            "output": network.activations[-1].name,
            "cost": network.cost.name,
            "shortcuts": network.shortcuts,
            "l1": network.l1,
            "l2": network.l2,
        },
        "settings": settings,
        "figures": figures,
        "limits": limits,
    }
    text = np.array(json.dumps(header))
    write_file(path, lambda file: np.savez(file, header=text, theta=network.theta))


def load(path: Path) -> SavedModel:
    """Read a model file without unpickling anything.

    Raises:
        LabError: the file is missing, truncated, damaged, or of another kind.
    """
    try:
        entries = read_npz(path)
        header = json.loads(str(entries["header"]))
        if header["format"] != FORMAT:
            raise ValueError(f"its format is {header['format']!r}, not {FORMAT!r}")
        settings, figures = header["settings"], header["figures"]
        numbers = [*figures.values(), *header["limits"]]
        if not isinstance(settings, dict) or not all(isinstance(number, int | float) for number in numbers):
            raise ValueError("its record is not complete")
        theta, sizes = entries["theta"], header["network"]["sizes"]
        if sum((inputs + 1) * units for inputs, units in pairwise(sizes)) > theta.size:  # before memory is taken for it
            raise ValueError("its weights do not fit its layers")
        network = Network(**header["network"], initial=("zeros",), dtype=theta.dtype)
        if theta.shape != network.theta.shape or theta.dtype.kind != "f" or not np.isfinite(theta).all():
            raise ValueError("its weights do not fit its layers or are not finite")
        network.theta[:] = theta
        low, high = header["limits"]
    except OSError as error:
        raise LabError(f"{path} cannot be read: {error.strerror or error}. Look at the path.") from error
    # A damaged zip or array fails in many ways, which are reported as one.
    except (ValueError, KeyError, TypeError, AttributeError, MemoryError, OverflowError, RecursionError) as error:
        raise LabError(
            f"{path} is not a model of rprop-lab, or it is damaged ({error}). Name a model.npz of rprop-lab train, or "
            "an .npz file in the folder runs of a study; or train again."
        ) from error
    return SavedModel(network, settings, figures, (low, high))
