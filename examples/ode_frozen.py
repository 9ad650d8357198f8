"""Fit an ODE some of whose parameters are known: bounds, frozen parameters, and the standard errors of the others.

An enzyme uses up a substrate, and an instrument shows it (Michaelis and Menten, 1913):

    s' = -v s / (k + s),   s(0) = 2,        signal = gain s + offset

``frozen`` holds gain and offset at the values of a calibration; the standard errors of v and k are a third smaller than
with all four free, since gain and offset then compensate for a part of their errors. A file as argument gets a picture.
"""

import sys

import torch

from rprop_kernels.torch import minimize

TIMES = torch.linspace(0, 6, 25, dtype=torch.float64)
NAMES = ("v", "k", "gain", "offset")
TRUTH = torch.tensor([1.0, 0.8, 1.5, 0.2], dtype=torch.float64)
START = torch.tensor([0.5, 0.5, 1.5, 0.2], dtype=torch.float64)
LOWER, UPPER = (torch.tensor(limits, dtype=torch.float64) for limits in ([0.05, 0.05, 0.1, -1.0], [5.0, 5.0, 5.0, 1.0]))
CALIBRATED = torch.tensor([False, False, True, True])
NOISE = 0.02


def signal(x):
    """Integrate by the classical Runge-Kutta method; autograd goes through it, twice for the finish."""
    speed, half, gain, offset = x

    def flow(s):
        return -speed * s / (half + s)

    s, step, values = torch.tensor(2.0, dtype=x.dtype), TIMES[1] - TIMES[0], []
    for _ in TIMES:
        values.append(s)
        a = flow(s)
        b = flow(s + step / 2 * a)
        c = flow(s + step / 2 * b)
        s = s + step / 6 * (a + 2 * b + 2 * c + flow(s + step * c))
    return gain * torch.stack(values) + offset


def series(seed=0):
    torch.manual_seed(seed)
    return signal(TRUTH) + NOISE * torch.randn(len(TIMES), dtype=torch.float64)


def fit(y, frozen=None):
    """Return the result, and the standard errors: NaN for parameters that are frozen."""
    result = minimize(
        lambda x: 0.5 * (signal(x) - y).square().sum(), START, bounds=(LOWER, UPPER), frozen=frozen, finish="newton"
    )
    free = len(START) if frozen is None else int((~frozen).sum())
    variance = 2 * result.fun / (len(y) - free)  # of the noise, from the residuals
    return result, result.cov(scale=variance).diagonal().sqrt()


def draw(file, y, rows):
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    left.plot(TIMES, y, ".", color="#444444", label="data")
    left.plot(TIMES, signal(rows["calibrated"][0].x), color="#0072B2", label="fit")
    left.set(xlabel="time", ylabel="signal", title="The substrate is used up")
    left.legend(frameon=False)
    for shift, colour, (name, (result, error)) in zip((-0.08, 0.08), ("#D55E00", "#0072B2"), rows.items(), strict=True):
        place = torch.arange(2) + shift
        right.errorbar(place, result.x[:2], error[:2], fmt="o", capsize=4, color=colour, label=name)
    right.plot([0, 1], TRUTH[:2], "kx", label="truth")
    right.set(xticks=[0, 1], xticklabels=NAMES[:2], xlim=(-0.5, 1.5), title="Estimate and standard error")
    right.legend(frameon=False)
    figure.savefig(file, dpi=120)


def main(picture=None):
    y = series()
    rows = {"all free": fit(y), "calibrated": fit(y, CALIBRATED)}
    print("fit         evaluations  " + "  ".join(f"{name:>14}" for name in NAMES))
    for name, (result, error) in rows.items():
        cells = (
            f"{value:6.3f}" + (" (known)" if known else f" ± {size:.3f}")
            for value, size, known in zip(result.x, error, error.isnan(), strict=True)
        )
        print(f"{name:10}  {result.nfev:11d}  " + "  ".join(f"{cell:>14}" for cell in cells))
    if picture:
        draw(picture, y, rows)
    return rows


if __name__ == "__main__":
    main(*sys.argv[1:])
