"""The report's network, and its file of plain arrays, whose loading never executes code."""

import json
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from ..files import read_npz
from .errors import LabError
from .results import write_file

FORMAT: Final = "rprop_kernels.lab model 1"
_SHAPES: Final = {"0.weight": 2, "0.bias": 1, "2.weight": 2, "2.bias": 1}


def build(inputs: int, hidden: int, classes: int, seed: int) -> torch.nn.Sequential:
    """Build inputs - hidden, ReLU - classes with initial weights by ``seed``; torch's global generator is unchanged."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return torch.nn.Sequential(torch.nn.Linear(inputs, hidden), torch.nn.ReLU(), torch.nn.Linear(hidden, classes))


@dataclass(frozen=True, slots=True)
class SavedModel:
    """Contents of a model file.

    Attributes:
        weights: by torch's names, float32.
        about: settings and record of the training, as JSON values.
    """

    weights: dict[str, NDArray[Any]]
    about: dict[str, Any]

    def network(self) -> torch.nn.Sequential:
        """Create the network with these weights."""
        hidden, inputs = self.weights["0.weight"].shape
        network = build(inputs, hidden, len(self.weights["2.bias"]), 0)
        network.load_state_dict({name: torch.from_numpy(array) for name, array in self.weights.items()})
        return network


def save(path: Path, network: torch.nn.Module, about: dict[str, Any]) -> None:
    """Write ``network`` to ``path`` atomically: the file is always the complete old or the complete new model.

    Args:
        path: the file.
        network: of :func:`build`.
        about: ``settings`` (a dict), ``epoch``, ``eval_loss``, ``eval_accuracy``, and any other JSON values.
    """
    arrays = {name: tensor.detach().numpy() for name, tensor in network.state_dict().items()}
    header = np.array(json.dumps({"format": FORMAT} | about))
    write_file(path, lambda file: np.savez(file, header=header, **arrays))


def load(path: Path) -> SavedModel:
    """Read a model file without unpickling anything.

    Raises:
        LabError: the file is missing, truncated, damaged, or of another kind.
    """
    try:
        if not zipfile.is_zipfile(path):
            path.open("rb").close()  # raises if it is missing
            raise LabError(
                f"{path} is not a model of rprop-lab, or it is cut short. Train again, or name "
                "the model.npz that rprop-lab train wrote."
            )
        entries = read_npz(path)
        if "header" not in entries:
            raise LabError(
                f"{path} is a file of another kind, not a model of rprop-lab. Name the model.npz "
                "that rprop-lab train wrote."
            )
        about = json.loads(str(entries["header"]))
        if not isinstance(about, dict) or about.pop("format", None) != FORMAT:
            raise LabError(
                f"{path} is not in the format {FORMAT!r}: it was written by something else or by "
                "another version of rprop-lab. Train again; what a study wrote is for rprop-lab classify."
            )
        numbers = (about["epoch"], about["eval_loss"], about["eval_accuracy"])
        if not all(isinstance(number, int | float) for number in numbers) or not isinstance(about["settings"], dict):
            raise ValueError("its record is not whole")
        weights = {name: array for name, array in entries.items() if name != "header"}
    except OSError as error:
        raise LabError(f"{path} cannot be read: {error.strerror or error}. Look at the path.") from error
    # A damaged zip or array fails in many ways, which are reported as one.
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise LabError(f"{path} is damaged or no model of rprop-lab ({error}). Train again.") from error
    _check_weights(path, weights)
    return SavedModel(weights, about)


def _check_weights(path: Path, weights: dict[str, NDArray[Any]]) -> None:
    sound = (
        {name: array.ndim for name, array in weights.items()} == _SHAPES
        and all(array.dtype == np.float32 and array.size for array in weights.values())
        and weights["0.weight"].shape[:1] == weights["0.bias"].shape == weights["2.weight"].shape[1:]
        and weights["2.weight"].shape[:1] == weights["2.bias"].shape
    )
    if not sound:
        raise LabError(f"{path} does not hold the weights of an inputs-hidden-classes network. Train again.")
    if not all(np.isfinite(array).all() for array in weights.values()):
        raise LabError(f"{path} holds weights that are not finite. Train again.")
