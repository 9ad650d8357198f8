"""Techniques that the lab compares: every row of the package's table, and torch.optim.Rprop."""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from .. import VARIANTS
from .errors import LabError

if TYPE_CHECKING:
    import torch

PEER: Final = "torch.optim.Rprop"
"""Name of the reference technique."""
DROP_IN: Final = "torch"
"""Name of the drop-in's row in the package's table."""


@dataclass(frozen=True, slots=True)
class Technique:
    """A training method.

    Attributes:
        name: a key of ``VARIANTS``, or ``PEER``.
        label: its name in tables and pictures.
        needs_loss: whether its ``step`` takes the loss.
        aliases: further names a configuration may use, the report's among them.
        make: ``make(params, lr, etas, step_sizes)`` gives the optimizer.
        is_rprop: whether it has etas and step sizes.
    """

    name: str
    label: str
    needs_loss: bool
    aliases: tuple[str, ...]
    make: Callable[..., Any]
    is_rprop: bool = True

    def step(self, optimizer: Any, loss: "torch.Tensor") -> None:
        """Do one step of ``optimizer`` after the gradients of ``loss`` were computed."""
        if self.needs_loss:
            optimizer.step(loss=loss)
        else:
            optimizer.step()


_LABELS: Final = {
    "rprop-": "Rprop-",
    "rprop+": "Rprop+",
    "irprop-": "iRprop-",
    "irprop+": "iRprop+",
    DROP_IN: "Rprop drop-in",
}


def _ours(class_name: str) -> Callable[..., Any]:
    def make(
        params: Iterable["torch.Tensor"],
        lr: float,
        etas: tuple[float, float],
        step_sizes: tuple[float, float],
    ) -> Any:
        from .. import torch as optimizers

        return getattr(optimizers, class_name)(params, lr, etas, step_sizes)

    return make


def _torchs(class_name: str, with_steps: bool = False, **options: float) -> Callable[..., Any]:
    def make(params: Iterable["torch.Tensor"], lr: float, *steps: tuple[float, float]) -> Any:
        import torch

        return getattr(torch.optim, class_name)(params, lr, *(steps if with_steps else ()), **options)

    return make


TECHNIQUES: Final = (
    *(
        Technique(
            row.name,
            _LABELS.get(row.name, row.class_name),
            row.needs_loss,
            (row.class_name,),
            _ours(row.class_name),
        )
        for row in VARIANTS.values()
    ),
    # The report calls torch's optimizer "Rprop+ PyTorch"; it is iRprop-.
    Technique(
        PEER,
        PEER,
        False,
        ("Rprop PyTorch", "Rprop+ PyTorch", "Rprop of PyTorch", "PyTorch"),
        _torchs("Rprop", with_steps=True),
    ),
)
"""The Rprop family, which ``compare`` compares."""
OTHERS: Final = (
    Technique("sgd", "SGD", False, (), _torchs("SGD"), False),
    Technique("momentum", "SGD, momentum 0.9", False, (), _torchs("SGD", momentum=0.9), False),
    Technique("rmsprop", "RMSProp", False, (), _torchs("RMSprop", alpha=0.9), False),
    Technique("adam", "Adam", False, (), _torchs("Adam"), False),
)
"""Further techniques of ``train``; RMSProp with Keras's decay, as in :mod:`.network`."""

RPROPS: Final = ("rprop-", "rprop+", "irprop-", "irprop+")
LABELS: Final = {technique.name: technique.label for technique in (*TECHNIQUES, *OTHERS)} | {
    "lbfgs": "L-BFGS (scipy)",
    "mlp": "scikit-learn MLP, Adam",
}
"""Labels of all methods in tables and figures, by name."""


def _plain(name: str) -> str:
    return re.sub(r"[\s_.,]", "", name).lower()


def find(name: str) -> Technique:
    """Find a technique by name, class name, label or alias, in any case.

    Raises:
        LabError: there is none; the message lists the names.
    """
    for technique in (*TECHNIQUES, *OTHERS):
        if _plain(name) in map(_plain, (technique.name, technique.label, *technique.aliases)):
            return technique
    known = "; ".join(" = ".join(dict.fromkeys((t.name, *t.aliases))) for t in (*TECHNIQUES, *OTHERS))
    raise LabError(f"There is no optimizer {name!r}. There is (in any case): {known}.")
