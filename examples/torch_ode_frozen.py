"""The rates of an ordinary differential equation, some of them known: frozen parameters.

    hares' = a hares - b hares lynxes          lynxes' = c hares lynxes - d lynxes

Four rates and the two populations at time 0 are fitted to noisy counts, for 40 data sets at once. Numbers that are
known are frozen: they stay as they are, and the errors of the others shrink. The equations are integrated by Runge-
Kutta steps in torch, so that autograd has the gradient. A file as argument gets a picture.
"""

import sys

import torch

from rprop_kernels.torch import minimize

NAMES = ("a", "b", "c", "d", "hares", "lynxes")
TRUTH = torch.tensor([0.9, 0.5, 0.3, 0.8, 2.0, 1.0], dtype=torch.float64)
STEPS, STEP = 32, 0.25


def flow(x, hares, lynxes):
    eaten = hares * lynxes
    return x[:, 0] * hares - x[:, 1] * eaten, x[:, 2] * eaten - x[:, 3] * lynxes


def populations(x):
    """Return hares and lynxes at all times, (rows, 2, STEPS + 1), for rows of six numbers."""
    states = [(x[:, 4], x[:, 5])]
    for _ in range(STEPS):
        start = states[-1]
        slopes = [flow(x, *start)]
        for part in (STEP / 2, STEP / 2, STEP):
            slopes.append(flow(x, *(value + part * slope for value, slope in zip(start, slopes[-1], strict=True))))
        states.append(
            tuple(
                value + STEP / 6 * (k1 + 2 * (k2 + k3) + k4)
                for value, k1, k2, k3, k4 in zip(start, *slopes, strict=True)
            )
        )
    return torch.stack([torch.stack(population, 1) for population in zip(*states, strict=True)], 1)


def counts(rows):
    """Return noisy counts at every other time, (rows, 2, times)."""
    clean = populations(TRUTH.expand(rows, 6))[..., ::2]
    return clean * torch.exp(0.1 * torch.randn(clean.shape, generator=torch.Generator().manual_seed(1)).double())


def loss(x, data):
    """Return the mean squared difference of the logarithms, for each row."""
    return (populations(x)[..., ::2].log() - data.log()).square().mean((1, 2))


def fit(data, known):
    """Fit the numbers whose names are not in known."""
    frozen = torch.tensor([name in known for name in NAMES])
    start = torch.where(frozen, TRUTH, torch.tensor([0.7, 0.7, 0.5, 0.6, 1.5, 1.5]).double()).repeat(len(data), 1)
    options = {"bounds": (0.05, 5.0), "gtol": 1e-3, "max_steps": 120}
    return minimize(loss, start, data, in_dims=0, batched=True, frozen=frozen, **options)


def errors(result):
    """Return the root mean square of the relative errors of each number."""
    return (result.x / TRUTH - 1).square().mean(0).sqrt()


def draw(file, data, rows):
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(9, 3.8), layout="constrained")
    times = STEP * torch.arange(STEPS + 1)
    *_, (title, result) = rows.items()
    fitted, truth = populations(result.x[:1])[0], populations(TRUTH[None])[0]
    for i, (name, colour) in enumerate((("hares", "#0072B2"), ("lynxes", "#D55E00"))):
        axes[0].plot(times[::2], data[0, i], ".", color=colour)
        axes[0].plot(times, truth[i], ":", color=colour)
        axes[0].plot(times, fitted[i], color=colour, label=name)
    axes[0].set(xlabel="time", title=f"One fit (lines), {title}; truth (dotted)")
    axes[0].legend(frameon=False)
    for offset, ((title, found), colour) in enumerate(zip(rows.items(), ("#999999", "#009E73"), strict=True)):
        axes[1].bar(torch.arange(6) + 0.36 * (offset - 0.5), 100 * errors(found), 0.34, color=colour, label=title)
    axes[1].set_xticks(range(6), NAMES)
    axes[1].set(title=f"Error of each number, {len(data)} data sets", ylabel="per cent")
    axes[1].legend(frameon=False)
    figure.savefig(file, dpi=120)


def main(picture=None, data_sets=40):
    data = counts(data_sets)
    rows = {"nothing known": fit(data, ()), "hares, lynxes, d known": fit(data, ("hares", "lynxes", "d"))}
    print(f"{'relative errors':24s}" + "".join(f"{name:>8s}" for name in NAMES))
    for title, result in rows.items():
        print(f"{title:24s}" + "".join(f"{value:8.1%}" for value in errors(result).tolist()))
    if picture:
        draw(picture, data, rows)
    return rows


if __name__ == "__main__":
    main(*sys.argv[1:])
