"""All studies, by name."""

from types import MappingProxyType
from typing import Final

from . import benchmark, experiments, franke, runge, tutorial
from .base import Study

STUDIES: Final = MappingProxyType[str, Study](
    {
        study.name: study
        for module in (tutorial, experiments, runge, franke, benchmark)
        for study in module.STUDIES
    }
)
