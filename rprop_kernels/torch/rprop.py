"""The drop-in for torch.optim.Rprop."""

import math
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.rprop import rprop as torch_rprop

from ..hyperparameters import Hyperparameters, is_per_weight
from ..rules import VARIANTS
from . import _compat
from .dispatch import GroupTensors, Outcome, StepMixin, is_number_tensor, to_local
from .loss import Loss
from .state import state_to_torch


def _as_number(value: Any, scalar_type: type[np.floating[Any]]) -> float | None:
    """Return the float that torch's operations make of a hyper-parameter; None where that is not certain."""
    if type(value) in (float, int) or isinstance(value, scalar_type):
        try:
            return float(value)
        except OverflowError:  # torch's operations raise their own error
            return None
    if isinstance(value, Tensor) and is_number_tensor(value):
        return float(value)
    return None


def rounded_hyper(group: dict[str, Any], dtype: torch.dtype) -> Hyperparameters | None:
    """Round the hyper-parameters to ``dtype`` as torch's operations do; None where torch itself must step."""
    etas = [_as_number(x, np.float64) for x in group["etas"]]  # torch assigns no other NumPy scalar to elements
    step_sizes = [_as_number(x, np.floating) for x in group["step_sizes"]]
    values = [x for x in (*etas, *step_sizes) if x is not None]
    if len(values) < 4:
        return None
    limit = torch.finfo(dtype).max
    if not all(abs(x) <= limit for x in values):  # also refuses NaN
        return None
    eta_minus, eta_plus, step_min, step_max = (torch.tensor(x, dtype=dtype, device="cpu").item() for x in values)
    if not (eta_minus > 0.0 and eta_plus < math.inf and 0.0 <= step_min <= step_max < math.inf):
        return None
    return Hyperparameters(eta_minus, eta_plus, step_min, step_max)


def _convert_variant(optimizer: Optimizer, loaded: dict[str, Any]) -> dict[str, Any] | None:
    """Convert a state_dict of the four variants; None where it is none.

    Raises:
        ValueError: it has options that the drop-in lacks.
    """
    states = loaded.get("state")
    if not isinstance(states, dict) or not any(isinstance(s, dict) and s.keys() == {"move"} for s in states.values()):
        return None
    converted = {
        key: state_to_torch(state["move"]) if isinstance(state, dict) and state.keys() == {"move"} else state
        for key, state in states.items()
    }
    for group in loaded["param_groups"]:
        if group.get("bounds") is not None or group.get("frozen") is not None or is_per_weight(group.get("lr", 0.0)):
            raise ValueError(
                "this state_dict has bounds, frozen weights or an lr for each weight, which Rprop lacks as torch does: "
                "load it into the class that saved it, or set group['bounds'] and group['frozen'] to None in a copy"
            )
    dropped = ("prev_loss", "bounds", "frozen")
    groups = [{k: v for k, v in group.items() if k not in dropped} for group in loaded["param_groups"]]
    return {**loaded, "state": converted, "param_groups": groups}


def _without_numpy(value: Any) -> Any:
    """Return a number, or a pair of them, without NumPy's scalars."""
    if isinstance(value, np.generic):
        return value.item()
    return type(value)(map(_without_numpy, value)) if type(value) in (tuple, list) else value


class Rprop(StepMixin, torch.optim.Rprop):
    """torch.optim.Rprop, faster: the same constructor, state, errors and results, to the last bit.

    It computes iRprop- [Igel and Hüsken 2003, algorithm 4] with a floating-point product in place of a product
    of signs. Per weight w with gradient g (negated if ``maximize``), all in the parameter's dtype::

        c = sign(g * prev)
        eta = eta_plus if c > 0 else eta_minus if c < 0 else 1
        step_size = min(max(step_size * eta, step_sizes[0]), step_sizes[1])
        g = 0 where c < 0
        w = w - sign(g) * step_size;  prev = g

    The product can underflow (float32: gradients below 1e-23; float16: below 2e-4), and step sizes then stop
    adapting; :class:`IRpropMinus` does not have that, and keeps half the state.

    Args:
        params, lr, etas, step_sizes, capturable, foreach, maximize, differentiable: as torch.optim.Rprop.
        backend: ``"cython"``, ``"numba"``, ``"torch"`` or ``"triton"``; None takes RPROP_KERNELS_BACKEND or the first
            that is available. Tensors on a CUDA device go to Triton where that is installed, unless ``"torch"`` is
            requested.

    Raises:
        ValueError: as torch; and for a backend that is unknown or missing, listing those that exist.
        RuntimeError: as torch, for sparse gradients.

    Examples:
        >>> import torch
        >>> w = torch.nn.Parameter(torch.tensor([1.0, -2.0]))
        >>> optimizer = Rprop([w], lr=0.5)
        >>> (w**2).sum().backward()
        >>> optimizer.step()
        >>> w.tolist()
        [0.5, -1.5]
    """

    _variant = VARIANTS["torch"]

    def __init__(
        self,
        params: Iterable[Any],
        lr: float | Tensor = 1e-2,
        etas: tuple[float, float] = (0.5, 1.2),
        step_sizes: tuple[float, float] = (1e-6, 50),
        *,
        capturable: bool = False,
        foreach: bool | None = None,
        maximize: bool = False,
        differentiable: bool = False,
        backend: str | None = None,
    ) -> None:
        self._init_step(backend)
        super().__init__(
            params,
            lr,
            etas,
            step_sizes,
            capturable=capturable,
            foreach=foreach,
            maximize=maximize,
            differentiable=differentiable,
        )

    def __getstate__(self) -> dict[str, Any]:
        return self._picklable(super().__getstate__())

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]  # torch does not annotate it
        self._restore_step()

    @_compat.skip_idle_hooks
    def step(self, closure: Callable[[], Any] | None = None, *, loss: Loss | None = None) -> Any:
        """Perform a single optimization step.

        Args:
            closure: reevaluates the model and returns the loss.
            loss: the loss at the current weights; only :class:`IRpropPlus` uses it. Here it is only validated, so that
                one training loop serves all classes.

        Returns:
            the closure's value, or None.

        Raises:
            ValueError: a loss whose shape fits no rule or not the parameters.
            TypeError: a loss that is not a number.
        """
        result = None
        if closure is not None:
            with torch.enable_grad():
                result = closure()
        self._report(loss, result)
        if loss is not None or self._next_loss is not None:
            self._validate_loss(loss)
        self._step_tensors()
        return result

    def state_dict(self) -> dict[str, Any]:
        """Return the state and the groups, as torch; NumPy scalars become Python numbers, for ``weights_only``."""
        saved = super().state_dict()
        for group in saved["param_groups"]:
            for name in ("lr", "etas", "step_sizes"):
                if name in group:
                    group[name] = _without_numpy(group[name])
        return saved

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a ``state_dict`` of this class, of torch.optim.Rprop, or of one of the four variants.

        A state of the variants holds the sign of the last gradient and no more, which then stands in its place.

        Raises:
            ValueError: as torch; and where the state of a variant is damaged.
        """
        before = self.register_load_state_dict_pre_hook(_convert_variant)
        try:
            super().load_state_dict(state_dict)
        finally:
            before.remove()

    def _plan_groups(self) -> list[tuple[Any, Any, Any]]:
        plans = []
        init_group: Callable[..., bool] = self._init_group  # torch does not annotate it
        with torch.no_grad():
            for group in self.param_groups:
                init_group(group, [], [], [], [], [])
                _, _ = group["etas"]  # where they are no pairs, torch's errors
                _, _ = group["step_sizes"]
                hypers = [rounded_hyper(group, dtype) for dtype in _compat.DTYPES]
                rows = tuple(None if h is None else h.with_direction(group["maximize"]) for h in hypers)
                plans.append((None, rows, None))
        return plans

    def _fallback_step(self, outcome: Outcome) -> None:
        _compat.graph_capture_health_check(self)
        before = torch.is_grad_enabled()
        try:
            torch.set_grad_enabled(self.defaults["differentiable"])
            super()._fallback_step(outcome)
        finally:
            torch.set_grad_enabled(before)

    def _group_tensors(self, outcome: Outcome) -> list[GroupTensors]:
        groups = []
        init_group: Callable[..., bool] = self._init_group
        for group in self.param_groups:
            tensors = GroupTensors(group, [], [], [[], []], [], outcome)
            init_group(group, tensors.params, tensors.grads, *tensors.states, tensors.counters)
            groups.append(tensors)
        if not self.defaults["differentiable"]:
            for tensors in groups:
                to_local(tensors.params, tensors.grads, *tensors.states)
        return groups

    def _group_hyper(self, group: dict[str, Any], dtype: torch.dtype) -> Hyperparameters | None:
        return rounded_hyper(group, dtype)

    def _torch_step(self, tensors: GroupTensors) -> None:
        group = tensors.group
        prevs, step_sizes = tensors.states
        etaminus, etaplus = group["etas"]
        step_size_min, step_size_max = group["step_sizes"]
        torch_rprop(
            tensors.params,
            tensors.grads,
            prevs,
            step_sizes,
            tensors.counters,
            step_size_min=step_size_min,
            step_size_max=step_size_max,
            etaminus=etaminus,
            etaplus=etaplus,
            foreach=group["foreach"],
            maximize=group["maximize"],
            differentiable=group["differentiable"],
            capturable=group["capturable"],
            has_complex=any(torch.is_complex(p) for p in tensors.params),
        )
