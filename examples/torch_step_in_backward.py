"""Step inside the backward pass: every gradient is used and freed as soon as it is computed.

Gradients are freed one parameter at a time, which saves as much memory as the model uses. Every parameter has an
optimizer of its own; since Rprop treats each weight independently, the result is that of one optimizer for all.
iRprop+ needs the loss, which is available before backward starts.
"""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from rprop_kernels.torch import IRpropPlus


class StepInBackward:
    """IRpropPlus for parameters that are stepped as soon as their gradients are computed."""

    def __init__(self, parameters: Iterable[Tensor], lr: float = 1e-2) -> None:
        self.optimizers = {p: IRpropPlus([p], lr=lr) for p in parameters}
        for p in self.optimizers:
            p.register_post_accumulate_grad_hook(self._step)

    def backward(self, loss: Tensor) -> None:
        """Run the backward pass and the step."""
        for optimizer in self.optimizers.values():
            optimizer.set_loss(loss)
        loss.backward()

    def _step(self, p: Tensor) -> None:
        self.optimizers[p].step()
        p.grad = None


def main() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 32), nn.Tanh(), nn.Linear(32, 1))
    x = torch.rand(256, 4)
    y = (x.prod(1, keepdim=True) - 0.1).sin()
    stepper = StepInBackward(model.parameters())
    for epoch in range(101):
        loss = (model(x) - y).square().mean()
        stepper.backward(loss)
        if epoch % 25 == 0:
            print(f"epoch {epoch:3}  loss {loss.item():.6f}")
    assert all(p.grad is None for p in model.parameters())


if __name__ == "__main__":
    main()
