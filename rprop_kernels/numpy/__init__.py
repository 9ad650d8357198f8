"""Rprop for NumPy arrays, in place: for a function and its gradient without torch.

One weight w with gradient g (negated if ``maximize``), remembered sign q (-1, 0, +1; at first 0) and step
size D (at first ``lr``)::

    c = sign(g) * q                           sign(0) = sign(NaN) = 0
    D = min(max(D * (eta_plus if c > 0 else eta_minus if c < 0 else 1), D_min), D_max)

=================  ==========================================================  ==========================
class              where the gradient changed its sign (c < 0)                 elsewhere
=================  ==========================================================  ==========================
`RpropMinus`       w -= sign(g) * D; q = sign(g)                               w -= sign(g) * D; q = sign(g)
`IRpropMinus`      w stays; q = 0                                              the same
`RpropPlus`        w += q * D_old (the last move is taken back); q = 0         the same
`IRpropPlus`       the same where the loss increased, else w stays; q = 0      the same
=================  ==========================================================  ==========================

Sources: M. Riedmiller, H. Braun, ICNN 1993 (Rprop+); M. Riedmiller, Computer Standards & Interfaces 16 (1994)
265-278 (Rprop-); C. Igel, M. Hüsken, Neurocomputing 50 (2003) 105-123.

:func:`minimize` runs the whole fit, of one problem or of many at once; :class:`AskTell` leaves the loop to the user.
"""

from .ask_tell import AskTell
from .fit import minimize
from .stopping import Stopping
from .variants import METHODS, IRpropMinus, IRpropPlus, RpropMinus, RpropPlus

__all__ = ["METHODS", "AskTell", "IRpropMinus", "IRpropPlus", "RpropMinus", "RpropPlus", "Stopping", "minimize"]

for _class in (AskTell, Stopping, *METHODS.values()):
    _class.__module__ = __name__  # pickles and messages do not depend on the private modules
del _class
