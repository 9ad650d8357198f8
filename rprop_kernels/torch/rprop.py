"""The drop-in for torch.optim.Rprop."""

import math
from collections.abc import Callable, Iterable
from typing import Any, Final

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.rprop import rprop as _torch_rprop

from ..hyperparameters import Hyperparameters
from ..kernels import load, openmp
from ..kernels.rules import PRODUCT
from .shards import to_shards
from .ways import DONE, KINDS, STALE, Backend, as_arrays, refuse_freed
from .wrapper import light

_ARRAY_DTYPES: Final = ({torch.float32}, {torch.float64})
_HEALTH_CHECK: Final = next(  # its name since torch 2.12, and before
    name
    for name in ("_accelerator_graph_capture_health_check", "_cuda_graph_capture_health_check")
    if hasattr(Optimizer, name)
)


def _in_dtype(group: dict[str, Any], dtype: torch.dtype) -> Hyperparameters | None:
    """The four numbers as torch's operations round them to ``dtype``; None where torch must do it itself."""
    values = (*group["etas"], *group["step_sizes"])
    if not all(type(x) in (float, int) for x in values):
        return None
    limit = torch.finfo(dtype).max
    if not all(abs(x) <= limit for x in values):  # also refuses NaN
        return None
    eta_minus, eta_plus, low, high = (torch.tensor(float(x), dtype=dtype, device="cpu").item() for x in values)
    if not (eta_minus > 0.0 and eta_plus < math.inf and 0.0 <= low <= high < math.inf):
        return None
    return Hyperparameters(eta_minus, eta_plus, low, high)


class Rprop(Backend, torch.optim.Rprop):
    """torch.optim.Rprop, faster: the same constructor, state, errors and results, to the last bit.

    What it computes is iRprop- [Igel and Hüsken 2003, algorithm 4] with a floating product in place of a product
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
        backend: ``"cython"``, ``"numba"``, ``"numpy"``, ``"torch"`` or ``"triton"``; None takes
            RPROP_KERNELS_BACKEND or the first that is available. Tensors on a CUDA device go to Triton where
            that is installed, unless ``"torch"`` is asked for.

    Raises:
        ValueError: as torch; and for a backend that is unknown or missing, listing what there is.
        RuntimeError: as torch, for sparse gradients.
    """

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
        self._set_up(backend, product=True)
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
        return {**super().__getstate__(), "_backend": self._backend}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]  # torch does not annotate it
        if "_native" not in self.__dict__:
            self._set_up(self.__dict__.get("_backend"), product=True)

    def _bare_step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Perform a single optimization step.

        Args:
            closure: reevaluates the model and returns the loss.

        Returns:
            what the closure returned, or None.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        native = self._native
        if native is not None:
            outcome = native(PRODUCT, self.state, self.param_groups, None, openmp.THRESHOLD)
            if outcome == STALE:
                self._plan()
                outcome = native(PRODUCT, self.state, self.param_groups, None, openmp.THRESHOLD)
            if outcome == DONE:
                return loss
        self._foreign_step()
        return loss

    step = light(_bare_step)

    def _plan(self) -> None:
        """Make missing state, and tell the native step what belongs to this optimizer."""
        numbers = []
        init_group: Callable[..., bool] = self._init_group  # torch does not annotate it
        with torch.no_grad():
            for group in self.param_groups:
                init_group(group, [], [], [], [], [])
                way = -1.0 if group["maximize"] else 1.0
                rounded = [_in_dtype(group, dtype) for dtype in KINDS]
                five = tuple(None if h is None else (*h, way) for h in rounded)
                numbers.append((group["etas"], group["step_sizes"], group["maximize"], None, five))
        self._plan_native(numbers)

    def _foreign_step(self) -> None:
        """The step without the extension: another backend where it is certain, else torch's own code."""
        getattr(self, _HEALTH_CHECK)()
        before = torch.is_grad_enabled()
        try:
            torch.set_grad_enabled(self.defaults["differentiable"])
            columns: list[tuple[list[Tensor], ...]] = [([], [], [], [], []) for _ in self.param_groups]
            init_group: Callable[..., bool] = self._init_group
            complexes = [init_group(g, *lists) for g, lists in zip(self.param_groups, columns, strict=True)]
            if not self.defaults["differentiable"]:
                for params, grads, prevs, step_sizes, _ in columns:
                    to_shards(params, grads, prevs, step_sizes)
            self._device_step(columns)
            for group, has_complex, (params, grads, prevs, step_sizes, steps) in zip(
                self.param_groups, complexes, columns, strict=True
            ):
                refuse_freed((*params, *grads, *prevs, *step_sizes))
                if self._array_step(group, params, grads, prevs, step_sizes, steps):
                    continue
                _torch_rprop(
                    params,
                    grads,
                    prevs,
                    step_sizes,
                    steps,
                    step_size_min=group["step_sizes"][0],
                    step_size_max=group["step_sizes"][1],
                    etaminus=group["etas"][0],
                    etaplus=group["etas"][1],
                    foreach=group["foreach"],
                    maximize=group["maximize"],
                    differentiable=group["differentiable"],
                    capturable=group["capturable"],
                    has_complex=has_complex,
                )
        finally:
            torch.set_grad_enabled(before)

    def _device_step(self, columns: list[tuple[list[Tensor], ...]]) -> None:
        """The Triton kernels: takes out of the groups' lists what it has stepped."""
        launcher = self._launcher(p for lists in columns for p in lists[0])
        if launcher is None:
            return
        launcher.begin()
        counters, rests = [], []
        for group, lists in zip(self.param_groups, columns, strict=True):
            way = -1.0 if group["maximize"] else 1.0
            dtypes = {p.dtype for p in lists[0]} & KINDS.keys()
            numbers = {d: (*h, way) for d in dtypes if (h := _in_dtype(group, d)) and not group["differentiable"]}
            capturable = group["capturable"]
            rest = []
            for entry in zip(*lists, strict=True):
                p, g, prev, step_size, counter = entry
                if (
                    p.dtype in numbers
                    and type(counter) is Tensor
                    and (not capturable or (p.is_cuda and counter.is_cuda))
                    and launcher.add(p, g, (prev, step_size), numbers[p.dtype])
                ):
                    counters.append(counter)
                else:
                    rest.append(entry)
            rests.append(rest)
        if not counters or not launcher.launch(PRODUCT):
            return
        torch._foreach_add_(counters, 1)
        for lists, rest in zip(columns, rests, strict=True):
            for i, column in enumerate(lists):
                column[:] = [entry[i] for entry in rest]

    def _array_step(
        self,
        group: dict[str, Any],
        params: list[Tensor],
        grads: list[Tensor],
        prevs: list[Tensor],
        step_sizes: list[Tensor],
        steps: list[Tensor],
    ) -> bool:
        """The numpy and numba backends; False where they cannot take this group."""
        if self._backend not in ("numpy", "numba") or not params:
            return False
        if group["differentiable"] or group["capturable"] or {p.dtype for p in params} not in _ARRAY_DTYPES:
            return False
        hyper = _in_dtype(group, params[0].dtype)
        states = [*zip(prevs, step_sizes, strict=True)]
        if hyper is None or (views := as_arrays(params, grads, states)) is None:
            return False
        torch._C._increment_version([*params, *prevs, *step_sizes])
        for counter in steps:
            counter += 1
        return bool(
            load(self._backend).step(
                "torch", *views, hyper, maximize=group["maximize"], threads=torch.get_num_threads()
            )
        )
