"""Thousands of small fits in one tensor: each row follows its own loss.

Fits a * exp(-b * x) + c to 2,000 noisy curves at once. The model is written for one curve and torch.func.vmap runs
it for all; with batched=True IRpropPlus gets one loss for each curve and takes a move back only where that curve's
loss increased.
"""

import torch
from torch import Tensor

from rprop_kernels.torch import IRpropPlus

x = torch.linspace(0.0, 4.0, 50)


def model(parameters: Tensor) -> Tensor:
    """Return one curve: parameters of shape (3,) to values of shape (50,)."""
    a, b, c = parameters
    return a * torch.exp(-b * x) + c


def loss_of_one(parameters: Tensor, y: Tensor) -> Tensor:
    return (model(parameters) - y).square().mean()


def fit(y: Tensor, steps: int = 200) -> tuple[Tensor, Tensor]:
    """Fit curves of shape (B, 50): return their parameters (B, 3) and losses (B,)."""
    parameters = torch.ones(len(y), 3, requires_grad=True)
    optimizer = IRpropPlus([parameters], lr=0.05, batched=True)
    losses = torch.vmap(loss_of_one)
    for _ in range(steps):
        optimizer.zero_grad()
        loss = losses(parameters, y)
        loss.sum().backward()  # rows are independent: the gradient of the sum is that of each row
        optimizer.step(loss=loss)
    return parameters.detach(), losses(parameters, y).detach()


def main() -> None:
    torch.manual_seed(0)
    truth = torch.rand(2000, 3) * torch.tensor([2.0, 1.5, 1.0]) + torch.tensor([0.5, 0.5, 0.0])
    y = torch.vmap(model)(truth)
    y = y + 0.01 * torch.randn_like(y)
    parameters, loss = fit(y)
    worst = (parameters - truth).abs().max().item()
    print(f"{len(y)} fits: median loss {loss.median():.2e}, largest error of a parameter {worst:.2f}")


if __name__ == "__main__":
    main()
