"""One thousand curve fits with bounds and error bars, in one call.

Logistic growth, h / (1 + exp(-r (t - m))), is fitted to 1,000 noisy series at once. Every series is a problem of its
own: it has a loss of its own and ends by itself. finish="newton" makes the last steps exact, and its Hessian gives the
covariance matrix of each fit. A file as argument gets a picture.
"""

import sys
import time

import torch

from rprop_kernels.torch import minimize

TIMES = torch.linspace(0, 10, 30, dtype=torch.float64)
NOISE = 0.05
LOWER, UPPER = torch.tensor([0.1, 0.1, 0.0]).double(), torch.tensor([3.0, 3.0, 10.0]).double()


def curve(x):
    """Return the curves of rows of (h, r, m), at TIMES."""
    height, rate, middle = x[:, :1], x[:, 1:2], x[:, 2:]
    return height / (1 + torch.exp(-rate * (TIMES - middle)))


def loss(x, y):
    """Return half the sum of squares of each row."""
    return 0.5 * (curve(x) - y).square().sum(1)


def series(count, seed=0):
    """Return the truth, (count, 3), and the data, (count, 30)."""
    torch.manual_seed(seed)
    low, high = torch.tensor([0.5, 0.6, 3.0]), torch.tensor([2.0, 2.0, 7.0])
    truth = (low + (high - low) * torch.rand(count, 3)).double()
    return truth, curve(truth) + NOISE * torch.randn(count, len(TIMES), dtype=torch.float64)


def fit(y):
    """Return the result and the standard errors, (count, 3)."""
    start = torch.tensor([[1.0, 1.0, 5.0]], dtype=torch.float64).repeat(len(y), 1)
    result = minimize(loss, start, y, in_dims=0, batched=True, bounds=(LOWER, UPPER), finish="newton")
    variance = 2 * result.fun / (len(TIMES) - 3)  # of the noise, from the residuals of each series
    return result, result.cov(scale=variance).diagonal(dim1=1, dim2=2).sqrt()


def draw(file, truth, y, result, error):
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.8), layout="constrained")
    for i, colour in zip(range(3), ("#0072B2", "#D55E00", "#009E73"), strict=True):
        height, rate, middle = result.x[i].tolist()
        label = f"h = {height:.2f} ± {error[i, 0]:.2f}, r = {rate:.2f} ± {error[i, 1]:.2f}, m = {middle:.2f} ± {error[i, 2]:.2f}"
        left.plot(TIMES, y[i], ".", color=colour)
        left.plot(TIMES, curve(result.x[i : i + 1])[0], color=colour, label=label)
    left.set(xlabel="t", title=f"3 of {len(y):,} fits", ylim=(-0.2, 3.1))
    left.legend(frameon=False, fontsize=8)
    score = ((result.x - truth) / error).flatten()
    z = torch.linspace(-4, 4, 200)
    right.hist(score.clamp(-4, 4), 60, density=True, color="#BBBBBB")
    right.plot(z, torch.exp(-z * z / 2) / (2 * torch.pi) ** 0.5, color="#D55E00", label="normal distribution")
    right.set(xlabel="(estimate - truth) / standard error", title="The error bars are right")
    right.legend(frameon=False)
    figure.savefig(file, dpi=120)


def main(picture=None, count=1000):
    truth, y = series(count)
    began = time.perf_counter()
    result, error = fit(y)
    took = time.perf_counter() - began
    covered = ((result.x - truth).abs() <= error).double().mean().item()
    print(f"{count:,} fits in {took:.2f} s, {int(result.success.sum()):,} of them converged")
    print(f"the truth is within one standard error in {covered:.1%} of the estimates (68.3% wanted)")
    if picture:
        draw(picture, truth, y, result, error)
    return result, covered


if __name__ == "__main__":
    main(*sys.argv[1:])
