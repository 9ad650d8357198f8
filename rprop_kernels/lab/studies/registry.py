"""Registry of all studies, by name."""

from types import MappingProxyType
from typing import Final

from . import report_b, report_c, report_d, report_e, report_f
from .plan import Study

STUDIES: Final = MappingProxyType[str, Study](
    {study.name: study for module in (report_b, report_c, report_d, report_e, report_f) for study in module.STUDIES}
)

REPORTS: Final = MappingProxyType(
    {
        "b": "Back-propagation tutorial",
        "c": "Backpropagation experiments on MNIST",
        "d": "Building a neural network code",
        "e": "FYS-STK4155, project 2",
        "f": "PROBEN1, beyond the reports",
    }
)
"""Reports by the first letter of their studies' names."""
