"""Where L-BFGS is the better tool, and where Rprop is: four losses, three optimizers.

Two losses are smooth, and their variables work together: a network that solves -u'' = pi^2 sin(pi x) (a PINN), and a
small network on data. L-BFGS learns the shape of such a valley, and wins both by orders of magnitude. The other two
are the reverse. Where the loss is a mean of absolute values the gradient jumps: the line search of L-BFGS fails early,
Rprop goes on (a tuned Adam gets lower). And 1,000 curves of very different sizes, each with step sizes of its own in
one batch, are Rprop's: one line search has to suit all of them. A file as argument gets a picture.
"""

import sys
import time

import torch
from torch import nn

from rprop_kernels.torch import IRpropPlus

D = torch.float64


def network(seed, width=20):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(1, width), nn.Tanh(), nn.Linear(width, width), nn.Tanh(), nn.Linear(width, 1)).to(D)


def pinn():
    """Return loss and parameters of the boundary value problem."""
    model = network(0)
    x = torch.linspace(-1, 1, 64, dtype=D)[:, None].requires_grad_()
    force = torch.pi**2 * torch.sin(torch.pi * x.detach())

    def loss():
        u = (1 - x * x) * model(x)  # 0 at both ends
        (first,) = torch.autograd.grad(u.sum(), x, create_graph=True)
        (second,) = torch.autograd.grad(first.sum(), x, create_graph=True)
        return (second + force).square().mean()

    return loss, list(model.parameters())


def regression(absolute=False):
    """Return loss and parameters of a network on 100 data; squares or absolute values."""
    model = network(1)
    x = torch.linspace(-1, 1, 100, dtype=D)[:, None]
    y = torch.sin(6 * x) * torch.exp(-x)
    return (lambda: ((model(x) - y).abs() if absolute else (model(x) - y).square()).mean()), list(model.parameters())


def curves():
    """Return loss and parameters of 1,000 exponential curves without noise."""
    torch.manual_seed(2)
    t = torch.linspace(0, 1, 20, dtype=D)
    size, rate = 10 ** (4 * torch.rand(1000, 1, dtype=D) - 2), 0.5 + 4 * torch.rand(1000, 1, dtype=D)
    y = size * torch.exp(-rate * t)
    w = torch.ones(1000, 2, dtype=D, requires_grad=True)
    return (lambda: (w[:, :1] * torch.exp(-w[:, 1:] * t) - y).square().sum(1)), [w]


def train(problem, name, evaluations, lr):
    """Return the course: evaluations of the gradient, and the best loss until then; and the seconds."""
    loss, params = problem()
    course = []
    began = time.perf_counter()
    batched = loss().dim() == 1

    def closure():
        for p in params:
            p.grad = None
        values = loss()
        values.mean().backward()
        mean = values.mean().item()
        course.append(min(mean, course[-1]) if course else mean)
        return values.detach()

    if name == "L-BFGS":
        options = {"max_iter": evaluations, "max_eval": evaluations, "tolerance_grad": 0, "tolerance_change": 0}
        optimizer = torch.optim.LBFGS(params, line_search_fn="strong_wolfe", **options)
        optimizer.step(lambda: closure().mean())
    else:
        ours = name == "iRprop+"
        optimizer = IRpropPlus(params, lr=lr, batched=batched) if ours else torch.optim.Adam(params, lr=lr)
        for _ in range(evaluations):
            values = closure()
            optimizer.step(**({"loss": values} if ours else {}))
    return course, time.perf_counter() - began


PROBLEMS = {
    "PINN": pinn,
    "network, squares": regression,
    "network, absolute values": lambda: regression(True),
    "1,000 curves": curves,
}
OPTIMIZERS = {"iRprop+": "#0072B2", "L-BFGS": "#D55E00", "Adam": "#999999"}
LEARNING_RATES = {"iRprop+": (0.01,), "L-BFGS": (1.0,), "Adam": (0.1, 0.01, 0.003)}  # the best one is shown


def draw(file, rows):
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 4, figsize=(13, 3.4), layout="constrained")
    for panel, title in zip(axes, PROBLEMS, strict=True):
        for name, colour in OPTIMIZERS.items():
            panel.plot(rows[title, name][0], color=colour, label=name)
        panel.set(yscale="log", title=title, xlabel="evaluations of the gradient")
        panel.grid(alpha=0.3)
    axes[0].set_ylabel("best loss so far")
    axes[0].legend(frameon=False)
    figure.savefig(file, dpi=120)


def main(picture=None, evaluations=500):
    rows = {}
    print(f"{evaluations} evaluations{'':12s}" + "".join(f"{name:>18s}" for name in OPTIMIZERS))
    for title, problem in PROBLEMS.items():
        for name, rates in LEARNING_RATES.items():
            rows[title, name] = min((train(problem, name, evaluations, lr) for lr in rates), key=lambda x: x[0][-1])
        cells = (f"{course[-1]:.1e} ({took:.1f} s)" for course, took in (rows[title, name] for name in OPTIMIZERS))
        print(f"{title:27s}" + "".join(f"{cell:>18s}" for cell in cells), flush=True)
    if picture:
        draw(picture, rows)
    return rows


if __name__ == "__main__":
    main(*sys.argv[1:])
