"""Configurations: the report's keys are accepted unchanged; errors for anything else list the valid values."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rprop_kernels import VARIANTS
from rprop_kernels.lab import config, optimizers
from rprop_kernels.lab.datasets import Dataset
from rprop_kernels.lab.errors import LabError

REPORT = {
    "criterion": "cross_entropy",
    "optimizer": "IRprop+",
    "learning_rate": 0.001,
    "epochs": 50,
    "train_set_size": 50000,
    "train_batch_size": 50000,
    "eval_set_size": 10000,
    "eval_batch_size": 10000,
}


def dataset(images: int) -> Dataset:
    return Dataset("x", "x", *[np.zeros((images, 4)), np.zeros(images, np.int64)] * 2, pixel_max=16)


def test_the_reports_configuration_is_accepted_unchanged(tmp_path: Path) -> None:
    path = tmp_path / "c.json"
    path.write_text(json.dumps(REPORT))
    read = config.read(path)
    assert read.optimizer == "irprop+"
    assert {key: getattr(read, key) for key in REPORT} == REPORT | {"optimizer": "irprop+"}
    assert (read.etas, read.step_sizes, read.hidden_units) == ((0.5, 1.2), (1e-6, 50.0), 128)
    assert read.for_data(dataset(60_000)) == read


def test_overrides_take_precedence_over_the_file(tmp_path: Path) -> None:
    path = tmp_path / "c.json"
    path.write_text(json.dumps(REPORT))
    assert config.read(path, epochs=3, seed=None).epochs == 3
    assert config.read(path, epochs=3, seed=None).seed == 0


@pytest.mark.parametrize(
    ("name", "means"),
    [(row.name, row.name) for row in VARIANTS.values()]
    + [(row.class_name, row.name) for row in VARIANTS.values()]
    + [("Rprop-", "rprop-"), ("RPROP+", "rprop+"), ("IRprop+", "irprop+"), ("iRprop-", "irprop-")]
    + [("Rprop PyTorch", optimizers.PEER), ("Rprop+ PyTorch", optimizers.PEER), ("pytorch", optimizers.PEER)]
    + [
        ("torch.optim.Rprop", optimizers.PEER),
        ("Adam", "adam"),
        ("SGD", "sgd"),
        ("i_rprop_minus", "irprop-"),
        ("Rprop drop-in", "torch"),
    ],
)
def test_names_of_optimizers(name: str, means: str) -> None:
    assert optimizers.find(name).name == means


def test_no_two_techniques_share_a_name() -> None:
    names = [
        optimizers._plain(name)
        for technique in (*optimizers.TECHNIQUES, *optimizers.OTHERS)
        for name in {optimizers._plain(n) for n in (technique.name, technique.label, *technique.aliases)}
    ]
    assert len(names) == len(set(names))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (
            {"learning_rat": 1},
            r"no key 'learning_rat'. Did you mean 'learning_rate'\? The keys are: optimizer",
        ),
        ({"momentum": 0.9}, "no key 'momentum'. The keys are"),
        ({"optimizer": "Adan"}, "no optimizer 'Adan'. There is"),
        ({"optimizer": 3}, "optimizer must be a valid string, got 3"),
        ({"criterion": "mse"}, "criterion must be 'cross_entropy', got 'mse'"),
        ({"epochs": 0}, "epochs must be greater than 0, got 0"),
        ({"epochs": 1.5}, "epochs must be a whole number, got 1.5"),
        ({"epochs": True}, "epochs must be a whole number"),
        ({"epochs": "50"}, "epochs must be a whole number"),
        ({"train_set_size": -1}, "train_set_size must be greater than 0"),
        ({"learning_rate": "0.1"}, "learning_rate must be a valid number"),
        ({"learning_rate": 0}, "learning_rate must be greater than 0"),
        ({"learning_rate": -1}, "learning_rate must be greater than 0"),
        ({"learning_rate": float("nan")}, "learning_rate must be a finite number"),
        ({"learning_rate": 51}, "within step_sizes"),
        ({"etas": [1.2, 0.5]}, "Invalid eta values"),
        ({"etas": [0.5]}, "etas must be a list of two numbers"),
        ({"etas": 0.5}, "etas must be a list of two numbers, got 0.5"),
        ({"step_sizes": [50, 1e-6]}, "Invalid step sizes"),
        ({"step_sizes": [1e-6, 1e30]}, "Invalid step sizes"),
        ({"step_sizes": [0.01, 50]}, "Invalid learning rate"),
        ({"hidden_units": 0}, "hidden_units must be greater than 0"),
        ({"hidden_units": []}, "hidden_units "),
        ({"seed": -1}, "seed must be greater than or equal to 0"),
    ],
)
def test_unknown_keys_and_values_are_rejected(change: dict[str, Any], says: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(REPORT | change))
    with pytest.raises(LabError, match=says) as caught:
        config.read(path)
    assert "mine.json" in str(caught.value)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (None, "No such file"),
        ("", "not a JSON object"),
        ("{", "not a JSON object"),
        ("[]", "must hold one JSON object"),
        ("[" * 100_000, "not a JSON object"),
        ('{"epochs": 1, "epochs": 2}', "a key stands twice"),
        (b"\xff\xff", "not a JSON object"),
    ],
)
def test_files_that_are_not_a_configuration(text: str | bytes | None, says: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    if text is not None:
        path.write_bytes(text.encode() if isinstance(text, str) else text)
    with pytest.raises(LabError, match=says):
        config.read(path)


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ({}, (50, 50, 10, 10)),
        ({"train_set_size": 40}, (40, 40, 20, 20)),
        ({"eval_set_size": 5}, (55, 55, 5, 5)),
        (
            {"train_set_size": 8, "eval_set_size": 4, "train_batch_size": 2, "eval_batch_size": 3},
            (8, 2, 4, 3),
        ),
    ],
)
def test_sizes_follow_the_data(sizes: dict[str, int], expected: tuple[int, ...]) -> None:
    c = config.from_mapping(sizes).for_data(dataset(60))
    assert (c.train_set_size, c.train_batch_size, c.eval_set_size, c.eval_batch_size) == expected


@pytest.mark.parametrize(
    ("sizes", "says"),
    [
        (REPORT, "share the 60 images"),
        ({"train_set_size": 60}, "leave an image to each"),
        ({"eval_set_size": 61}, "leave an image to each"),
        ({"train_batch_size": 51}, r"train_batch_size \(51\) is larger than train_set_size \(50\)"),
        ({"eval_batch_size": 11}, "eval_batch_size"),
    ],
)
def test_sizes_that_do_not_fit_the_data(sizes: dict[str, Any], says: str) -> None:
    with pytest.raises(LabError, match=says):
        config.from_mapping(sizes).for_data(dataset(60))
