"""One training: the holdout, the epochs, and the model of the lowest evaluation loss."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import astuple, dataclass
from itertools import pairwise
from time import perf_counter
from typing import Any, TypeAlias

import torch

from .config import Config
from .datasets import CLASSES, Dataset
from .network import Network
from .optimizers import Technique

Labelled: TypeAlias = tuple[torch.Tensor, torch.Tensor]
"""Images, float32 of shape (count, pixels) in [-1, 1], and labels, int64 of shape (count,)."""


@dataclass(frozen=True, slots=True)
class Epoch:
    """Means over one epoch; training figures are measured during the epoch, evaluation figures after it."""

    train_loss: float
    train_accuracy: float
    eval_loss: float
    eval_accuracy: float


def build(inputs: int, hidden: Sequence[int], classes: int, seed: int) -> torch.nn.Sequential:
    """Build linear layers with ReLU between them, weights by ``seed``; torch's global generator is unchanged."""
    sizes = (inputs, *hidden, classes)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layers: list[torch.nn.Module] = []
        for units, following in pairwise(sizes):
            layers += [torch.nn.Linear(units, following), torch.nn.ReLU()]
    return torch.nn.Sequential(*layers[:-1])


def to_numpy(network: torch.nn.Sequential) -> Network:
    """Copy a network of :func:`build` into the lab's own, with softmax."""
    linear = [layer for layer in network if isinstance(layer, torch.nn.Linear)]
    sizes = (linear[0].in_features, *(layer.out_features for layer in linear))
    copy = Network(sizes, "relu", "softmax", "cross_entropy", initial=("zeros",))
    for layer, weight, bias in zip(linear, copy.weights, copy.biases, strict=True):
        weight[:], bias[:] = layer.weight.detach().numpy().T, layer.bias.detach().numpy()
    return copy


def tensors(dataset: Dataset) -> tuple[Labelled, Labelled]:
    """Convert a data set to ``(learn, test)`` tensors, once for all seeds."""
    learn = torch.from_numpy(dataset.scaled(dataset.learn_images)), torch.from_numpy(dataset.learn_labels)
    test = torch.from_numpy(dataset.scaled(dataset.test_images)), torch.from_numpy(dataset.test_labels)
    return learn, test


def hold_out(learn: Labelled, config: Config, seed: int) -> tuple[Labelled, Labelled]:
    """Split ``learn`` into disjoint ``(train, eval)`` parts of the configured sizes, shuffled by ``seed``."""
    assert config.train_set_size is not None and config.eval_set_size is not None, "Config.for_data comes first"
    images, labels = learn
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    train = order[: config.train_set_size]
    evaluation = order[config.train_set_size : config.train_set_size + config.eval_set_size]
    return (images[train], labels[train]), (images[evaluation], labels[evaluation])


def batches(data: Labelled, size: int, shuffle: torch.Generator | None = None) -> Iterator[Labelled]:
    """Yield ``data`` in batches of ``size``; a single batch is not copied and keeps its order."""
    images, labels = data
    if size >= len(labels):
        yield data
    elif shuffle is None:
        yield from zip(torch.split(images, size), torch.split(labels, size), strict=True)
    else:
        for part in torch.split(torch.randperm(len(labels), generator=shuffle), size):
            yield images[part], labels[part]


def criterion(name: str) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    """Return the loss function of that name; the mean over a batch."""
    function: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] = getattr(torch.nn.functional, name)
    return function


@torch.no_grad()
def evaluate(network: torch.nn.Module, data: Labelled, criterion_name: str, batch_size: int) -> tuple[float, float]:
    """Compute ``(loss, accuracy)`` of a network, means over all of ``data``."""
    measure = criterion(criterion_name)
    loss = correct = 0.0
    for images, labels in batches(data, batch_size):
        output = network(images)
        loss += measure(output, labels).item() * len(labels)
        correct += (output.argmax(1) == labels).sum().item()
    return loss / len(data[1]), correct / len(data[1])


class Run:
    """A training of one technique from one seed, an epoch at a time.

    Attributes:
        history: one :class:`Epoch` each.
        classes: outputs of the network.
        best_epoch: the epoch (from 1) of the lowest evaluation loss so far, 0 where it was never finite.
        step_seconds: time in the optimizer's ``step``, one entry a step.
        seconds: time in all of training and evaluation.
    """

    def __init__(self, technique: Technique, train: Labelled, evaluation: Labelled, config: Config, seed: int) -> None:
        assert config.train_batch_size is not None and config.eval_batch_size is not None, "Config.for_data first"
        self.technique, self.config, self.seed = technique, config, seed
        self._train, self._eval = train, evaluation
        self._batch, self._eval_batch = config.train_batch_size, config.eval_batch_size
        max_label = int(max(train[1].max(), evaluation[1].max()))
        self.classes = max(CLASSES, 1 + max_label)
        self.network = build(train[0].shape[1], config.hidden, self.classes, seed)
        self.optimizer = technique.make(self.network.parameters(), config.learning_rate, config.etas, config.step_sizes)
        self.history: list[Epoch] = []
        self.best_epoch = 0
        self.step_seconds: list[float] = []
        self.seconds = 0.0
        self._best_loss = math.inf
        self._best: dict[str, torch.Tensor] = {}
        self._order = torch.Generator().manual_seed(seed)
        self._criterion = criterion(config.criterion)

    def epoch(self, before_batch: Callable[[], None] | None = None) -> bool:
        """Train for one epoch and evaluate; return True if the evaluation loss is the lowest so far.

        ``before_batch`` is called before each batch; what it raises ends the epoch, which is then not recorded.
        """
        start = perf_counter()
        count = len(self._train[1])
        loss_sum = correct = 0.0
        for images, labels in batches(self._train, self._batch, self._order):
            if before_batch is not None:
                before_batch()
            self.optimizer.zero_grad()
            output = self.network(images)
            loss = self._criterion(output, labels)
            loss.backward()  # type: ignore[no-untyped-call]
            before = perf_counter()
            self.technique.step(self.optimizer, loss)
            self.step_seconds.append(perf_counter() - before)
            loss_sum += loss.item() * len(labels)
            correct += (output.argmax(1) == labels).sum().item()
        eval_loss, eval_accuracy = evaluate(self.network, self._eval, self.config.criterion, self._eval_batch)
        self.history.append(Epoch(loss_sum / count, correct / count, eval_loss, eval_accuracy))
        improved = eval_loss < self._best_loss
        if improved:
            self._best_loss, self.best_epoch = eval_loss, len(self.history)
            self._best = {name: tensor.clone() for name, tensor in self.network.state_dict().items()}
        self.seconds += perf_counter() - start
        return improved

    def state_dict(self) -> dict[str, Any]:
        """Return everything from which the training can be resumed, to the same bits; the tensors are those in use."""
        return {
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "order": self._order.get_state(),
            "history": [astuple(epoch) for epoch in self.history],
            "best": (self.best_epoch, self._best_loss, self._best),
            "step_seconds": self.step_seconds,
            "seconds": self.seconds,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load the result of `state_dict`."""
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        self._order.set_state(state["order"])
        self.history = [Epoch(*figures) for figures in state["history"]]
        self.best_epoch, self._best_loss, self._best = state["best"]
        self.step_seconds, self.seconds = state["step_seconds"], state["seconds"]

    @property
    def best(self) -> Epoch:
        """Figures of the epoch of the lowest evaluation loss."""
        return self.history[self.best_epoch - 1]

    def test(self, data: Labelled) -> tuple[float, float]:
        """Compute ``(loss, accuracy)`` of the model of lowest evaluation loss on unseen data; NaN without one."""
        if not self.best_epoch:
            return math.nan, math.nan
        return evaluate(self.best_network(), data, self.config.criterion, self._eval_batch)

    def best_network(self) -> torch.nn.Sequential:
        """Create a network with the weights of lowest evaluation loss; requires a ``best_epoch``."""
        network = build(self._train[0].shape[1], self.config.hidden, self.classes, self.seed)
        network.load_state_dict(self._best)
        return network
