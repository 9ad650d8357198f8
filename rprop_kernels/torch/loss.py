"""iRprop+, and where its loss comes from."""

import math
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..kernels.verdict import BETTER, judge
from ..variants import VARIANTS
from .four import ARGUMENTS, FourRules, Loss, Params
from .wrapper import light


class _Kept:
    """A process group in a copied optimizer: the same one, since it stands for connections of this process."""

    def __init__(self, value: Any) -> None:
        self.value = value

    @classmethod
    def of(cls, value: Any) -> Any:
        return value if value is None or value is True else cls(value)

    def __deepcopy__(self, memo: Any) -> "_Kept":
        return self

    def __reduce__(self) -> Any:
        raise TypeError(
            "this IRpropPlus averages its loss over a process group of its own, which cannot be pickled: save its "
            "state_dict(), or use process_group=True (the default group)"
        )


class IRpropPlus(FourRules):
    __doc__ = f"""iRprop+ [Igel and Hüsken 2003, algorithm 3]: a flipped weight goes back, if the loss rose.

    Per weight w, with gradient g (negated if ``maximize``), remembered sign q, step size D and loss E::

        c = sign(g) * q;  D_old = D
        D = min(max(D * (eta_plus if c > 0 else eta_minus if c < 0 else 1), D_min), D_max)
        if c < 0:  w = w + q * D_old where E > E_prev;  q = 0
        else:      w = w - sign(g) * D;  q = sign(g)

    The loss at the current weights comes from ``step(loss=...)``, else :meth:`set_loss`, else the closure: a number,
    a tensor of shape (), or one of shape (B,) that decides each row of parameters whose first dimension is B by its
    own loss. Losses of different mini-batches are not comparable: use the rule where the loss is the same
    function at every step. A loss that is NaN or infinite takes back every remembered move. ``process_group``, a
    ``torch.distributed`` group or True for the default one, averages the loss over its processes, so that
    replicas decide alike.
    {ARGUMENTS}"""

    _variant = VARIANTS["irprop+"]

    _process_group: Any = None
    _told: Loss | None = None
    _warned_loss = False

    def __init__(
        self,
        params: Params,
        lr: float | Tensor = 1e-2,
        etas: tuple[float, float] = (0.5, 1.2),
        step_sizes: tuple[float, float] = (1e-6, 50.0),
        *,
        maximize: bool = False,
        backend: str | None = None,
        process_group: Any = None,
        foreach: bool | None = None,
        capturable: bool = False,
        differentiable: bool = False,
    ) -> None:
        super().__init__(
            params,
            lr,
            etas,
            step_sizes,
            maximize=maximize,
            backend=backend,
            foreach=foreach,
            capturable=capturable,
            differentiable=differentiable,
        )
        self._process_group = process_group

    def __getstate__(self) -> dict[str, Any]:
        # A copy that forgot the group would let replicas disagree. (A group that is an object refuses to be pickled.)
        return {**super().__getstate__(), "_process_group": _Kept.of(self._process_group)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        if isinstance(self._process_group, _Kept):
            self._process_group = self._process_group.value

    def set_loss(self, loss: Loss) -> None:
        """Tell the loss at the current weights to the next step, for training loops that call ``step()`` themselves.

        Args:
            loss: as for :meth:`step`.
        """
        self._told = loss

    def _bare_step(self, closure: Callable[[], Any] | None = None, *, loss: Loss | None = None) -> Any:
        """Perform one step.

        Args:
            closure: evaluates the model, calls ``backward`` and returns the loss.
            loss: the loss at the current weights, a float, a tensor of shape (), or of shape (B,) for parameters of
                first dimension B. It comes before what :meth:`set_loss` told and what the closure returned.

        Returns:
            what the closure returned, or None.

        Raises:
            ValueError: no loss, or one of a shape that fits no rule or not the parameters.
            TypeError: a loss that is no number.
        """
        result = None if closure is None else self._evaluate(closure)
        given = loss if loss is not None else self._told if self._told is not None else result
        self._told = None
        if given is None:
            if not self._still():
                raise ValueError(
                    "IRpropPlus needs the loss at the current weights: pass step(loss=...), call set_loss(...) before "
                    "step(), or pass a closure that returns it"
                )
            self._update(BETTER, still=True)
            return result
        given = self._as_loss(given)
        previous: Loss | None = None
        for group in self.param_groups:
            previous = group["prev_loss"]
            if previous is not None:
                break
        if type(given) is type(previous) is float and len(self.param_groups) == 1:  # most steps
            verdict: Any
            remembered: Loss | None
            verdict, remembered = judge(given, previous, self.param_groups[0]["maximize"])
        else:
            verdict, remembered = self._judge(given, previous)
        self._update(verdict)
        for group in self.param_groups:
            group["prev_loss"] = remembered
        return result

    step = light(_bare_step)

    def _as_loss(self, loss: Any) -> Loss:
        """A float, or a detached tensor: of shape (B,), or of shape () on a device."""
        if self._process_group is None:  # most losses
            if type(loss) is float:
                return loss
            if type(loss) is Tensor and loss.dim() == 0 and loss.is_cpu and loss.is_floating_point():
                try:
                    number: float = loss.item()
                    return number
                except RuntimeError:  # under vmap there is no number yet; see below
                    pass
        if not isinstance(loss, Tensor):
            if getattr(loss, "shape", ()) != ():
                loss = torch.as_tensor(loss)
            else:
                try:
                    loss = float(loss)
                except (TypeError, ValueError, OverflowError):
                    raise TypeError(
                        f"loss must be a number or a tensor of shape () or (B,), got {type(loss).__name__}: {loss!r}"
                    ) from None
        if isinstance(loss, Tensor):
            loss = loss.detach()
            if hasattr(loss, "full_tensor"):
                loss = loss.full_tensor()
            if loss.is_complex():
                raise TypeError("loss must be real, got a complex tensor: pass its real part")
            if loss.dim() == 1 and loss.numel() == 1:
                loss = loss.reshape(())
            if loss.dim() > 1 or loss.numel() == 0:
                raise ValueError(
                    f"loss must have shape () or (B,), got {tuple(loss.shape)}: reduce it to one number, or one a row"
                )
            if loss.dim() == 1:
                self._check_rows(loss.numel())
        if self._process_group is not None:
            loss = self._averaged(loss)
        if isinstance(loss, Tensor) and loss.dim() == 0:
            devices = {p.device.type for group in self.param_groups for p in group["params"]}
            if loss.device.type == "cpu" or devices == {"cpu"}:
                try:
                    return float(loss)
                except RuntimeError:  # meta, fake, vmapped: there is no number yet, but tensor operations will do
                    return loss
        told: Loss = loss
        return told

    def _check_rows(self, rows: int) -> None:
        for i, group in enumerate(self.param_groups):
            for j, p in enumerate(group["params"]):
                if p.grad is not None and (p.dim() == 0 or p.shape[0] != rows):
                    raise ValueError(
                        f"loss has shape ({rows},), one loss a row, but parameter {j} of group {i} has shape "
                        f"{tuple(p.shape)}: its first dimension must be {rows}; put it into an optimizer of its own"
                    )

    def _averaged(self, loss: Loss) -> Tensor:
        """The mean over the processes, the same bits in each."""
        import torch.distributed as dist

        group = None if self._process_group is True else self._process_group
        device = next(p.device for g in self.param_groups for p in g["params"])
        mean = torch.as_tensor(loss, device=device).to(torch.float64, copy=True)
        dist.all_reduce(mean, group=group)
        return mean / dist.get_world_size(group)

    def _judge(self, loss: Loss, previous: Loss | None) -> tuple[Any, Loss | None]:
        """The verdict (a list of one a group where groups climb and descend) and E_prev for the next step."""
        if previous is not None and getattr(loss, "shape", ()) != getattr(previous, "shape", ()):
            raise ValueError(
                f"loss has shape {tuple(getattr(loss, 'shape', ()))}, but that of the step before had shape "
                f"{tuple(getattr(previous, 'shape', ()))}: keep to one loss, or one a row, of the same problem"
            )
        ways = [bool(group["maximize"]) for group in self.param_groups]
        if isinstance(loss, Tensor):
            said = self._judge_tensor(loss, previous, ways)
        else:
            if isinstance(previous, Tensor):
                previous = float(previous)
            if previous is None and not math.isfinite(loss) and not self._warned_loss:
                self._warned_loss = True
                warnings.warn(
                    f"the first loss is {loss}: there is nothing to return to yet, so this step moves as usual; "
                    "check the starting point",
                    UserWarning,
                    stacklevel=5,
                )
            said = [judge(loss, previous, way) for way in ways]
        verdicts = [verdict for verdict, _ in said]
        mixed = any(way != ways[0] for way in ways)
        return (verdicts if mixed else verdicts[0]), said[0][1]

    def _judge_tensor(self, loss: Tensor, previous: Loss | None, ways: list[bool]) -> list[tuple[Any, Any]]:
        """For each direction the verdict and E_prev; on a GPU it stays in its place, for captured graphs."""
        from ..kernels.torch_ import judge as judge_tensor

        if previous is not None:
            previous = torch.as_tensor(previous, device=loss.device)
        if loss.is_cuda and (previous is None or previous.dtype != loss.dtype):
            if torch.cuda.is_current_stream_capturing():
                raise RuntimeError(
                    "make one step, with a loss of the same dtype on the same device, before a CUDA graph is captured: "
                    "the replays remember their loss in its place"
                )
            previous = None if previous is None else previous.to(loss.dtype)
        if previous is None and (loss.is_cuda or self._backend == "triton"):
            previous = torch.full_like(loss, torch.nan)
        launcher = self._launcher((loss,))
        if launcher is not None and (both := launcher.judge(loss, previous)) is not None:
            return [(both[way], previous) for way in ways]
        said = [judge_tensor(loss, previous, way) for way in ways]
        if loss.is_cuda and isinstance(previous, Tensor):
            previous.copy_(said[0][1])
            return [(verdict, previous) for verdict, _ in said]
        return said
