"""A Gaussian process whose likelihood has several optima, from 20 starts in one call.

Few data can be read as a smooth curve with noise, or as a wiggly one without. Each reading is an optimum of the marginal
likelihood, and a single search finds the one near its start. minimize(starts=20) searches from 20 points within the bounds
at once and returns the best; all results are in result.all. A file as argument gets a picture.
"""

import math
import sys

import torch

from rprop_kernels.torch import minimize

NAMES = "length scale", "amplitude", "noise"
LOWER, UPPER = (torch.tensor(x).log().double() for x in ([0.03, 0.1, 0.01], [10.0, 10.0, 3.0]))
RANDOM = torch.Generator().manual_seed(0)
X = (torch.rand(14, generator=RANDOM).double() * 10 - 5).sort().values
Y = torch.sin(0.9 * X) + 0.5 * torch.randn(14, generator=RANDOM).double()


def kernel(theta, a, b):
    length, amplitude = theta[0].exp(), theta[1].exp()
    return amplitude**2 * torch.exp(-0.5 * ((a[:, None] - b) / length) ** 2)


def covariance(theta):
    return kernel(theta, X, X) + (theta[2].exp() ** 2 + 1e-8) * torch.eye(len(X), dtype=torch.float64)


def negative_log_likelihood(theta):
    """Return it for the logarithms of length scale, amplitude and noise."""
    factor = torch.linalg.cholesky(covariance(theta))
    white = torch.linalg.solve_triangular(factor, Y[:, None], upper=False)
    return 0.5 * white.square().sum() + factor.diagonal().log().sum() + 0.5 * len(X) * math.log(2 * math.pi)


def predict(theta, at):
    """Return mean and standard deviation of the curve."""
    cross, inverse = kernel(theta, at, X), torch.linalg.inv(covariance(theta))
    variance = theta[1].exp() ** 2 - (cross @ inverse * cross).sum(1)
    return cross @ inverse @ Y, variance.clamp(min=0).sqrt()


def draw(file, single, result):
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 3, figsize=(12, 3.6), layout="constrained")
    at = torch.linspace(-6, 6, 400, dtype=torch.float64)
    names = f"one start: {single.fun:.2f}", f"best of {len(result.all.fun)} starts: {result.fun:.2f}"
    for panel, theta, name, colour in zip(axes, (single.x, result.x), names, ("#888888", "#0072B2"), strict=False):
        mean, deviation = predict(theta, at)
        panel.fill_between(at, mean - 2 * deviation, mean + 2 * deviation, color=colour, alpha=0.25, linewidth=0)
        panel.plot(at, mean, color=colour)
        panel.plot(X, Y, "k.")
        panel.set(title=f"-log likelihood of {name}", ylim=(-3.5, 3.5))
    length, noise = result.all.x[:, 0].exp(), result.all.x[:, 2].exp()
    points = axes[2].scatter(length, noise, c=result.all.fun, cmap="viridis_r", s=45, zorder=3)
    axes[2].plot(*(result.x[i].exp() for i in (0, 2)), "o", ms=14, mfc="none", mec="#D55E00", label="the best")
    axes[2].set(xscale="log", yscale="log", xlabel=NAMES[0], ylabel=NAMES[2], title="Where the starts end")
    axes[2].legend(frameon=False)
    figure.colorbar(points, ax=axes[2], label="-log likelihood")
    figure.savefig(file, dpi=120)


def main(picture=None, starts=20):
    first = torch.tensor([0.3, 1.0, 0.05]).log().double()
    bounds = (LOWER, UPPER)
    single = minimize(negative_log_likelihood, first, bounds=bounds)
    result = minimize(negative_log_likelihood, first, bounds=bounds, starts=starts, seed=0)
    for title, found in (("one start", single), (f"{starts} starts", result)):
        words = ", ".join(f"{name} {value:.3f}" for name, value in zip(NAMES, found.x.exp().tolist(), strict=True))
        print(f"{title:9s}  -log likelihood {float(found.fun):.3f}  {words}")
    optima = sorted(
        {round(value, 2) for value, ok in zip(result.all.fun.tolist(), result.all.success, strict=True) if ok}
    )
    print(f"optima found: {', '.join(map(str, optima))}")
    if picture:
        draw(picture, single, result)
    return single, result


if __name__ == "__main__":
    main(*sys.argv[1:])
