"""Full-batch training in one line, with a progress bar; and the same with data that come in pieces.

minimize(lambda: loss(model(x), y), model, progress=True) is all of the training: it ends by itself and leaves the best
weights in the model. Data that do not fit into one call of the model come from a DataLoader. Their losses are summed
before the step, because Rprop needs the sign of the gradient of all data. A file as argument gets a picture.
"""

import sys

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from rprop_kernels.torch import minimize


def spirals(count=600):
    """Return points of two spirals and their labels."""
    random = torch.Generator().manual_seed(0)
    label = torch.arange(count) % 2
    turn = 0.3 + 3.2 * torch.pi * torch.rand(count, generator=random).sqrt()
    angle = turn + torch.pi * label
    x = torch.stack([turn * angle.cos(), turn * angle.sin()], 1) / 5
    return x + 0.03 * torch.randn(count, 2, generator=random), label


def network():
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(2, 24), nn.Tanh(), nn.Linear(24, 24), nn.Tanh(), nn.Linear(24, 2))


def whole(x, y, progress=True, **options):
    """Train on all data in one call of the model."""
    model, loss = network(), nn.CrossEntropyLoss()
    result = minimize(lambda: loss(model(x), y), model, progress=progress, **options)
    return model, result


def in_pieces(x, y, progress=True, **options):
    """Train on all data, piece by piece: every evaluation goes through the loader once."""
    model, loss = network(), nn.CrossEntropyLoss(reduction="sum")
    loader = DataLoader(TensorDataset(x, y), batch_size=200)

    def total():
        return sum(loss(model(part), labels) for part, labels in loader) / len(loader.dataset)

    return model, minimize(total, model, progress=progress, **options)


def draw(file, x, y, model, result):
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 4), layout="constrained")
    left.plot(result.history, color="#0072B2")
    left.set(yscale="log", xlabel="step", ylabel="best loss so far", title=f"Ended by itself: {result.reason}")
    left.grid(alpha=0.3)
    line = torch.linspace(-2.6, 2.6, 200)
    grid = torch.cartesian_prod(line, line)
    with torch.no_grad():
        share = model(grid).softmax(1)[:, 1].reshape(200, 200).T
    right.imshow(share, extent=(-2.6, 2.6, -2.6, 2.6), origin="lower", cmap="coolwarm", alpha=0.6)
    right.scatter(*x.T, c=y, s=6, cmap="coolwarm", edgecolors="black", linewidths=0.2)
    right.set(title=f"{len(x)} points of two spirals", xticks=[], yticks=[])
    figure.savefig(file, dpi=120)


def main(picture=None, **options):
    x, y = spirals()
    rows = {}
    for title, train in (("whole", whole), ("in pieces", in_pieces)):
        model, result = rows[title] = train(x, y, **options)
        accuracy = (model(x).argmax(1) == y).double().mean().item()
        print(
            f"{title:9s}  loss {result.fun:.2e}  accuracy {accuracy:.1%}  {result.nit} steps, ended by {result.reason}"
        )
    if picture:
        draw(picture, x, y, *rows["whole"])
    return rows


if __name__ == "__main__":
    main(*sys.argv[1:])
