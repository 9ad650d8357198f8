"""Registry of all studies, by name."""

from collections.abc import Callable
from importlib import import_module
from types import MappingProxyType
from typing import Any, Final

from . import report_b, report_c, report_d, report_e, report_f
from .plan import Study


def _later(module: str, function: str) -> Callable[..., Any]:
    """Return a function of a module that is imported when it is called, since it imports torch."""

    def call(*arguments: Any) -> Any:
        return getattr(import_module(f".{module}", __package__), function)(*arguments)

    return call


COMPARE: Final = Study(
    "a-compare",
    "the Rprop techniques and torch.optim.Rprop from the same weights, 784-128-10, 50 epochs",
    8,
    _later("report_a", "plan"),
    _later("report_a", "work"),
    _later("report_a", "page"),
    "images",
    alone=True,
    all_cores=True,
)
STUDIES: Final = MappingProxyType[str, Study](
    {COMPARE.name: COMPARE}
    | {study.name: study for module in (report_b, report_c, report_d, report_e, report_f) for study in module.STUDIES}
)
TRAIN: Final = Study(
    "train",
    "one training",
    1,
    _later("single", "plan"),
    _later("single", "work"),
    _later("single", "page"),
    "images",
    alone=True,
    all_cores=True,
    configured=True,
)
"""The command ``train``, which is no study of a report."""

REPORTS: Final = MappingProxyType(
    {
        "a": "Neuro Backpropagation Lab",
        "b": "Back-propagation tutorial",
        "c": "Backpropagation experiments on MNIST",
        "d": "Building a neural network code",
        "e": "FYS-STK4155, project 2",
        "f": "PROBEN1, beyond the reports",
    }
)
"""Reports by the first letter of their studies' names."""
