"""Full-batch training in one line, with a progress bar; and the same where the data come in pieces.

``minimize`` steps the parameters of a Module in place and leaves it at the best point. Rprop wants the gradient of one
loss at every step: so pieces from a DataLoader are summed before the step, and none is a step of its own. (Where the
graphs of all pieces need too much memory, call backward() for each in a loop of your own, with IRpropPlus and Stopping.)
"""

import torch
from sklearn.datasets import load_digits
from torch.utils.data import DataLoader, TensorDataset

from rprop_kernels.torch import minimize


def digits():
    x, y = load_digits(return_X_y=True)
    return torch.tensor(x / 16, dtype=torch.float32), torch.tensor(y)


def network(seed=0):
    torch.manual_seed(seed)
    return torch.nn.Sequential(torch.nn.Linear(64, 32), torch.nn.Tanh(), torch.nn.Linear(32, 10))


def train_at_once(x, y, steps=100, progress=True):
    model, loss = network(), torch.nn.CrossEntropyLoss()
    result = minimize(lambda: loss(model(x), y), model, progress=progress, max_steps=steps)
    return model, result


def train_in_pieces(loader, steps=100, progress=True):
    model, loss = network(), torch.nn.CrossEntropyLoss(reduction="sum")
    count = len(loader.dataset)
    result = minimize(
        lambda: sum(loss(model(x), y) for x, y in loader) / count, model, progress=progress, max_steps=steps
    )
    return model, result


def main(steps=100, progress=True):
    x, y = digits()
    loader = DataLoader(TensorDataset(x, y), batch_size=256)
    rows = {"at once": train_at_once(x, y, steps, progress), "in pieces": train_in_pieces(loader, steps, progress)}
    for name, (model, result) in rows.items():
        right = (model(x).argmax(1) == y).float().mean().item()
        print(f"{name:9}  loss {float(result.fun):.5f}  accuracy {right:.4f}  {result.nit} steps, {result.reason}")
    return rows


if __name__ == "__main__":
    main()
