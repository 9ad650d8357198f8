"""The rates of an ordinary differential equation, some of them known: frozen parameters.

    hares' = a hares - b hares lynxes          lynxes' = c hares lynxes - d lynxes

All six numbers, the four rates and the two populations at time 0, are in one tensor. Those that are known are frozen:
they stay as they are, and the others are fitted. The equations are integrated by Runge-Kutta steps in torch, so that
autograd has the gradient. A file as argument gets a picture.
"""

import sys

import torch

from rprop_kernels.torch import minimize

NAMES = ("a", "b", "c", "d", "hares", "lynxes")
TRUTH = torch.tensor([0.9, 0.5, 0.3, 0.8, 2.0, 1.0], dtype=torch.float64)
STEPS, STEP = 32, 0.25


def flow(x, state):
    hares, lynxes = state
    return torch.stack([x[0] * hares - x[1] * hares * lynxes, x[2] * hares * lynxes - x[3] * lynxes])


def populations(x):
    """Return hares and lynxes at all times, (STEPS + 1, 2)."""
    states = [x[4:]]
    for _ in range(STEPS):
        state = states[-1]
        k1 = flow(x, state)
        k2 = flow(x, state + STEP / 2 * k1)
        k3 = flow(x, state + STEP / 2 * k2)
        k4 = flow(x, state + STEP * k3)
        states.append(state + STEP / 6 * (k1 + 2 * k2 + 2 * k3 + k4))
    return torch.stack(states)


def counts():
    """Return noisy counts of every other time."""
    clean = populations(TRUTH)[::2]
    return clean * torch.exp(0.1 * torch.randn(clean.shape, generator=torch.Generator().manual_seed(1)).double())


def fit(data, known):
    """Fit the numbers whose names are not in known."""
    frozen = torch.tensor([name in known for name in NAMES])
    start = torch.where(frozen, TRUTH, torch.tensor([0.7, 0.7, 0.5, 0.6, 1.5, 1.5]).double())

    def loss(x):
        return (torch.log(populations(x)[::2]) - torch.log(data)).square().mean()

    return minimize(loss, start, bounds=(0.05, 5.0), frozen=frozen, gtol=1e-3)


def draw(file, data, rows):
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(9, 3.8), layout="constrained")
    times = STEP * torch.arange(STEPS + 1)
    result = rows["hares, lynxes, d known"]
    for column, (name, colour) in enumerate((("hares", "#0072B2"), ("lynxes", "#D55E00"))):
        axes[0].plot(times[::2], data[:, column], ".", color=colour)
        axes[0].plot(times, populations(TRUTH)[:, column], ":", color=colour)
        axes[0].plot(times, populations(result.x)[:, column], color=colour, label=name)
    axes[0].set(xlabel="time", title="Fit (lines), truth (dotted), data")
    axes[0].legend(frameon=False)
    for offset, ((title, found), colour) in enumerate(zip(rows.items(), ("#888888", "#009E73"), strict=True)):
        axes[1].bar(torch.arange(6) + 0.36 * (offset - 0.5), found.x / TRUTH - 1, 0.34, color=colour, label=title)
    axes[1].axhline(0, color="black", linewidth=0.8)
    axes[1].set_xticks(range(6), NAMES)
    axes[1].set(title="Relative error of each number")
    axes[1].legend(frameon=False)
    figure.savefig(file, dpi=120)


def main(picture=None):
    data = counts()
    rows = {"nothing known": fit(data, ()), "hares, lynxes, d known": fit(data, ("hares", "lynxes", "d"))}
    print(f"{'':24s}loss       " + "".join(f"{name:>8s}" for name in NAMES))
    print(f"{'truth':35s}" + "".join(f"{value:8.3f}" for value in TRUTH.tolist()))
    for title, result in rows.items():
        print(f"{title:24s}{result.fun:.2e}   " + "".join(f"{value:8.3f}" for value in result.x.tolist()))
    if picture:
        draw(picture, data, rows)
    return rows


if __name__ == "__main__":
    main(*sys.argv[1:])
