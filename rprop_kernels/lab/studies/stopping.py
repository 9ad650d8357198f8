"""Stopping criteria of the reports and of PROBEN1; each is called once an epoch."""

import math
from collections import deque
from types import MappingProxyType
from typing import Final, Protocol

import numpy as np


class Criterion(Protocol):
    """A stopping criterion, called with the losses of every epoch."""

    def stop(self, train_loss: float, valid_loss: float) -> str:
        """Return the reason to stop, empty to continue."""
        ...


class EarlyStopping:
    """Report C: the training loss was below the validation loss ``patience`` epochs in a row."""

    def __init__(self, patience: int = 5) -> None:
        self.patience, self.below = patience, 0

    def stop(self, train_loss: float, valid_loss: float) -> str:
        self.below = self.below + 1 if train_loss < valid_loss else 0
        if self.below < self.patience:
            return ""
        return f"training loss below validation loss {self.patience} epochs in a row"


class Patience:
    """The usual early stopping: no new minimum of the validation loss for ``patience`` epochs."""

    def __init__(self, patience: int = 5) -> None:
        self.patience, self.best, self.without = patience, math.inf, 0

    def stop(self, train_loss: float, valid_loss: float) -> str:
        self.without = 0 if valid_loss < self.best else self.without + 1
        self.best = min(self.best, valid_loss)
        if self.without < self.patience:
            return ""
        return f"no lower validation loss for {self.patience} epochs"


class Plateau:
    """Report C: the last ``window`` training losses spread by less than ``tolerance`` of their mean."""

    def __init__(self, tolerance: float = 1e-3, window: int = 5) -> None:
        self.tolerance = tolerance
        self.last: deque[float] = deque(maxlen=window)

    def stop(self, train_loss: float, valid_loss: float) -> str:
        self.last.append(train_loss)
        if len(self.last) < (self.last.maxlen or 0):
            return ""
        if np.std(self.last) >= self.tolerance * abs(np.mean(self.last)):
            return ""
        return f"the last {len(self.last)} training losses spread by less than {self.tolerance:g} of their mean"


class GeneralizationLoss:
    """PROBEN1's GL: the validation error is ``percent`` % over its minimum so far."""

    def __init__(self, percent: float = 5.0) -> None:
        self.percent, self.best = percent, math.inf

    def stop(self, train_loss: float, valid_loss: float) -> str:
        self.best = min(self.best, valid_loss)
        if valid_loss <= (1 + self.percent / 100) * self.best:
            return ""
        return f"validation error {self.percent:g} % over its minimum"


class TrainingProgress:
    """PROBEN1's P: over a strip of ``strip`` epochs the mean training error is less than ``per_mille`` above the
    smallest of the strip.
    """

    def __init__(self, per_mille: float = 0.1, strip: int = 5) -> None:
        self.per_mille = per_mille
        self.strip: deque[float] = deque(maxlen=strip)

    def stop(self, train_loss: float, valid_loss: float) -> str:
        self.strip.append(train_loss)
        smallest = min(self.strip)
        if len(self.strip) < (self.strip.maxlen or 0):
            return ""
        if 1000 * (float(np.mean(self.strip)) - smallest) >= self.per_mille * smallest:
            return ""
        return f"training progress below {self.per_mille:g} per mille"


CRITERIA: Final = MappingProxyType(
    {
        "early": EarlyStopping,
        "patience": Patience,
        "plateau": Plateau,
        "gl": GeneralizationLoss,
        "progress": TrainingProgress,
    }
)
"""Stopping criteria by name."""
