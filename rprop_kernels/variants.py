"""THE TABLE: one frozen row for each rule. Everything that must know "all variants" reads it.

Sources.

- [RB93] M. Riedmiller, H. Braun, "A direct adaptive method for faster backpropagation learning: the RPROP
  algorithm", ICNN 1993.
- [R94] M. Riedmiller, "Advanced supervised learning in multi-layer perceptrons: from backpropagation to adaptive
  learning algorithms", Computer Standards & Interfaces 16 (1994) 265-278.
- [IH03] C. Igel, M. Hüsken, "Empirical evaluation of the improved Rprop learning algorithms", Neurocomputing 50
  (2003) 105-123.
"""

from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Literal


@dataclass(frozen=True, slots=True)
class Variant:
    """One update rule.

    Attributes:
        name: what the papers call it, in lower case; the key in every table of the package.
        class_name: the optimizer class in ``rprop_kernels.torch`` (and ``.numpy``, but for ``Rprop``).
        on_flip: what happens to a weight whose gradient changed its sign:
            ``"move"`` it moves on by the smaller step; ``"stay"`` it stays for one step;
            ``"undo"`` its last move is taken back; ``"undo if worse"`` that, if the loss rose, else it stays.
        needs_loss: whether ``step`` must be told the loss.
        state: names of the state arrays of a parameter. ``("move",)``: the last move itself
            (:mod:`rprop_kernels.kernels.state`); ``("prev", "step_size")``: torch's pair.
        source: where the rule was published.
    """

    name: str
    class_name: str
    on_flip: Literal["move", "stay", "undo", "undo if worse"]
    needs_loss: bool
    state: tuple[str, ...]
    source: str


_ROWS = (
    Variant("rprop-", "RpropMinus", "move", False, ("move",), "[R94]; [IH03] algorithm 2"),
    Variant("rprop+", "RpropPlus", "undo", False, ("move",), "[RB93]; [IH03] algorithm 1"),
    Variant("irprop-", "IRpropMinus", "stay", False, ("move",), "[IH03] algorithm 4"),
    Variant("irprop+", "IRpropPlus", "undo if worse", True, ("move",), "[IH03] algorithm 3"),
    Variant("torch", "Rprop", "stay", False, ("prev", "step_size"), "torch.optim.Rprop"),
)

VARIANTS: Final = MappingProxyType({row.name: row for row in _ROWS})
"""All rules by name. ``"torch"`` is torch.optim.Rprop to the bit: iRprop- with a floating product."""
