"""What the compiled backends call a rule: its behaviour on a flip, known before the loop starts."""

from typing import Final

MOVE, STAY, UNDO, RETREAT, PRODUCT = range(5)

RULES: Final = {
    "rprop-": (MOVE, MOVE, MOVE),
    "rprop+": (UNDO, UNDO, UNDO),
    "irprop-": (STAY, STAY, STAY),
    "irprop+": (STAY, UNDO, RETREAT),
    "torch": (PRODUCT, PRODUCT, PRODUCT),
}
"""The rule of a variant, by the verdict on the loss (BETTER, WORSE, LOST). RETREAT treats every remembered move
as a flip; PRODUCT is torch's, with a floating product. The numbers are those of ``src/_native.pyx``."""
