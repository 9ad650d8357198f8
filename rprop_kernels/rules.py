"""The table of rules, one frozen row for each. Engines, optimizers and tests read the list of variants from it.

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
        name: the papers' name in lower case; the key in every table of the package.
        class_name: the optimizer class in ``rprop_kernels.torch`` (and ``.numpy``, except for ``Rprop``).
        on_flip: the treatment of a weight whose gradient changed its sign: ``"move"``, it moves on by the smaller
            step; ``"skip"``, it stays for one step; ``"backtrack"``, its last move is taken back; ``"backtrack if
            worse"``, its last move is taken back if the loss increased, else it stays.
        needs_loss: whether ``step`` requires the loss.
        state: names of the state arrays of a parameter: ``("move",)``, the last move itself
            (:mod:`rprop_kernels.state`), or torch's ``("prev", "step_size")``.
        source: the publication.
    """

    name: str
    class_name: str
    on_flip: Literal["move", "skip", "backtrack", "backtrack if worse"]
    needs_loss: bool
    state: tuple[str, ...]
    source: str


_ROWS = (
    Variant("rprop-", "RpropMinus", "move", False, ("move",), "[R94]; [IH03] algorithm 2"),
    Variant("rprop+", "RpropPlus", "backtrack", False, ("move",), "[RB93]; [IH03] algorithm 1"),
    Variant("irprop-", "IRpropMinus", "skip", False, ("move",), "[IH03] algorithm 4"),
    Variant("irprop+", "IRpropPlus", "backtrack if worse", True, ("move",), "[IH03] algorithm 3"),
    Variant("torch", "Rprop", "skip", False, ("prev", "step_size"), "torch.optim.Rprop"),
)

VARIANTS: Final = MappingProxyType({row.name: row for row in _ROWS})
"""All rules by name. ``"torch"`` is torch.optim.Rprop to the bit: iRprop- with a floating-point product."""

MOVE, SKIP, BACKTRACK, BACKTRACK_ALL, TORCH, PER_OUTCOME = range(6)
"""The rules that engines compile. The first five are numbered as in ``src/rules.h``; PER_OUTCOME is Triton's alone.

The first three are the treatments of a flip. BACKTRACK_ALL treats every remembered move as a flip; TORCH is
torch.optim.Rprop; PER_OUTCOME looks up SKIP, BACKTRACK or BACKTRACK_ALL while it runs, where the outcome of the loss
is known only on the device.
"""

_RULES_ON_FLIP: Final = {
    "move": (MOVE, MOVE, MOVE),
    "skip": (SKIP, SKIP, SKIP),
    "backtrack": (BACKTRACK, BACKTRACK, BACKTRACK),
    "backtrack if worse": (SKIP, BACKTRACK, BACKTRACK_ALL),
}

RULE_FOR_OUTCOME: Final = MappingProxyType(
    {row.name: (TORCH, TORCH, TORCH) if row.name == "torch" else _RULES_ON_FLIP[row.on_flip] for row in _ROWS}
)
"""The compiled rule of a variant, by the outcome of the loss: NOT_WORSE, WORSE, NONFINITE (:mod:`.loss`)."""
