"""A feed-forward network in NumPy, written to be read.

Layer l maps the outputs A of the layer before to ``f(A @ W + b)``: samples are rows. All weights and biases
are stored in one vector, ``theta``; W and b of a layer are views into it, and so are their
gradients in the vector that :meth:`Network.loss_and_gradient` returns. An optimizer therefore steps over one
array, and ``scipy.optimize`` can use the same function.

Backpropagation, with D = dE/dZ of a layer, Z = A @ W + b::

    dE/dW = A.T @ D        dE/db = sum of D over the samples        dE/dA = D @ W.T

and dE/dZ of the layer below is dE/dA times f'. Every f' here is a function of the output f(Z), so Z is
not stored. At the output, cost and activation are combined where stability requires it
(softmax with cross-entropy, sigmoid with binary cross-entropy).
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ..numpy import METHODS

Array: TypeAlias = NDArray[Any]
Initial: TypeAlias = Sequence[Any]
"""Name of a row of ``INITIAL`` and its numbers, such as ``("normal", 0.05)``."""

LEAK: Final = 0.01
BLOCK: Final = 2000
"""Maximum number of samples in one pass through the network."""


# Activations -------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Activation:
    """An activation function; both halves work in place.

    Attributes:
        name: key in ``ACTIVATIONS``.
        apply: turns Z into f(Z), and returns it.
        back: ``back(d, a)`` turns d = dE/da into dE/dZ, given the outputs a = f(Z).
    """

    name: str
    apply: Callable[[Array], Array]
    back: Callable[[Array, Array], None]


def _linear(z: Array) -> Array:
    return z


def _linear_back(d: Array, a: Array) -> None:
    pass


def _relu(z: Array) -> Array:
    return np.maximum(z, 0, out=z)


def _relu_back(d: Array, a: Array) -> None:
    d *= a > 0


def _leaky_relu(z: Array) -> Array:
    return np.maximum(z, LEAK * z, out=z)


def _leaky_relu_back(d: Array, a: Array) -> None:
    np.multiply(d, LEAK, out=d, where=a <= 0)


def _elu(z: Array) -> Array:
    np.copyto(z, np.expm1(np.minimum(z, 0)), where=z <= 0)
    return z


def _elu_back(d: Array, a: Array) -> None:
    d *= np.minimum(a, 0) + 1


def _sigmoid(z: Array) -> Array:
    np.negative(z, out=z)
    with np.errstate(over="ignore"):  # 1 / (1 + infinity) is 0, as required
        np.exp(z, out=z)
    z += 1
    return np.reciprocal(z, out=z)  # half the time of scipy.special.expit


def _sigmoid_back(d: Array, a: Array) -> None:
    d *= a * (1 - a)


def _tanh(z: Array) -> Array:
    return np.tanh(z, out=z)


def _tanh_back(d: Array, a: Array) -> None:
    d *= 1 - a * a


def _softsign(z: Array) -> Array:
    z /= 1 + np.abs(z)
    return z


def _softsign_back(d: Array, a: Array) -> None:
    d *= (1 - np.abs(a)) ** 2


def _softmax(z: Array) -> Array:
    z -= z.max(1, keepdims=True)  # the largest exponent is 0: nothing overflows
    np.exp(z, out=z)
    z /= z.sum(1, keepdims=True)
    return z


def _softmax_back(d: Array, a: Array) -> None:
    d -= (d * a).sum(1, keepdims=True)
    d *= a


ACTIVATIONS: Final = MappingProxyType(
    {
        row.name: row
        for row in (
            Activation("linear", _linear, _linear_back),
            Activation("relu", _relu, _relu_back),
            Activation("leaky_relu", _leaky_relu, _leaky_relu_back),
            Activation("elu", _elu, _elu_back),
            Activation("sigmoid", _sigmoid, _sigmoid_back),
            Activation("tanh", _tanh, _tanh_back),
            Activation("softsign", _softsign, _softsign_back),
            Activation("softmax", _softmax, _softmax_back),
        )
    }
)
"""Leaky ReLU has the slope 0.01 below 0, ELU goes to -1; softsign is x / (1 + |x|)."""


# Costs -------------------------------------------------------------------------------------------------


def _mse(z: Array, targets: Array, output: Activation) -> tuple[float, Array]:
    a = output.apply(z)
    d = a - targets
    loss = float(np.square(d).mean(dtype=np.float64))
    d *= 2 / d.size
    output.back(d, a)
    return loss, d


def _binary_cross_entropy(z: Array, targets: Array, output: Activation) -> tuple[float, Array]:
    # -t log s(z) - (1 - t) log(1 - s(z)) = log(1 + e^z) - t z
    loss = float((np.logaddexp(0, z) - targets * z).mean(dtype=np.float64))
    d = output.apply(z)
    d -= targets
    d /= d.size
    return loss, d


def _cross_entropy(z: Array, labels: Array, output: Activation) -> tuple[float, Array]:
    rows = np.arange(len(labels))
    z -= z.max(1, keepdims=True)
    at_label = z[rows, labels]
    d = np.exp(z, out=z)
    total = d.sum(1, keepdims=True)
    loss = float((np.log(total[:, 0]) - at_label).mean(dtype=np.float64))
    d /= total
    d[rows, labels] -= 1
    d /= len(labels)
    return loss, d


@dataclass(frozen=True, slots=True)
class Cost:
    """A cost; means over samples (and outputs), as torch has them.

    Attributes:
        name: key in ``COSTS``.
        output: the only output activation it goes with, None where any does.
        evaluate: ``evaluate(z, targets, output)`` gives ``(loss, dE/dZ)`` of the output layer; z is
            overwritten.
    """

    name: str
    output: str | None
    evaluate: Callable[[Array, Array, Activation], tuple[float, Array]]


COSTS: Final = MappingProxyType(
    {
        row.name: row
        for row in (
            Cost("mse", None, _mse),
            Cost("binary_cross_entropy", "sigmoid", _binary_cross_entropy),
            Cost("cross_entropy", "softmax", _cross_entropy),
        )
    }
)
"""Targets: shape (samples, outputs); for ``cross_entropy`` labels 0, 1, ... of shape (samples,)."""


# Initialisation ----------------------------------------------------------------------------------------

_Draw: TypeAlias = Callable[..., Array]

INITIAL: Final = MappingProxyType[str, _Draw](
    {
        "zeros": lambda rng, shape: np.zeros(shape),
        "normal": lambda rng, shape, sigma=1.0: rng.normal(0, sigma, shape),
        "uniform": lambda rng, shape, low=0.0, high=1.0: rng.uniform(low, high, shape),
        "he": lambda rng, shape: rng.normal(0, math.sqrt(2 / shape[0]), shape),
        "xavier": lambda rng, shape: rng.normal(0, math.sqrt(2 / sum(shape)), shape),
        "glorot": lambda rng, shape: rng.uniform(-1, 1, shape) * math.sqrt(6 / sum(shape)),
    }
)
"""First weights of shape (inputs, units). Xavier is the normal form, Glorot the uniform one."""


# The network -------------------------------------------------------------------------------------------


class Network:
    """Layers one after the other.

    Args:
        sizes: inputs, units of the hidden layers, outputs: ``(784, 128, 10)``.
        hidden: activation of the hidden layers, or one name for each of them.
        output: activation of the output layer.
        cost: a key of ``COSTS``.
        initial: how first weights are drawn, or one for each layer.
        initial_bias: how first biases are drawn.
        l1, l2: E += l1 * sum |w| + l2 * sum w^2 over the weights, not the biases.
        shortcuts: every layer sees the outputs of all layers before it and the inputs, not only the last.
        seed: of the first weights.
        dtype: float32 or float64.

    Attributes:
        theta: all weights and biases; change it in place only.
        weights, biases: views into theta, a layer each: shapes (inputs, units) and (units,).

    Raises:
        ValueError: an unknown name, or a cost with an output activation that it does not go with.
    """

    def __init__(
        self,
        sizes: Sequence[int],
        hidden: str | Sequence[str] = "relu",
        output: str = "linear",
        cost: str = "mse",
        *,
        initial: Initial = ("glorot",),
        initial_bias: Initial = ("zeros",),
        l1: float = 0.0,
        l2: float = 0.0,
        shortcuts: bool = False,
        seed: int = 0,
        dtype: Any = np.float32,
    ) -> None:
        layers = len(sizes) - 1
        if layers < 1 or min(sizes) < 1:
            raise ValueError(f"sizes={tuple(sizes)}: give inputs, hidden units and outputs, each at least 1")
        names = [*([hidden] * (layers - 1) if isinstance(hidden, str) else hidden), output]
        if len(names) != layers:
            raise ValueError(f"{len(names) - 1} hidden activations for {layers - 1} hidden layers")
        self.sizes, self.shortcuts = tuple(sizes), shortcuts
        self.activations = [_row(ACTIVATIONS, name, "activation") for name in names]
        self.cost = _row(COSTS, cost, "cost")
        if self.cost.output not in (None, output):
            raise ValueError(f"{cost} goes with the output {self.cost.output!r}, not {output!r}")
        self.l1, self.l2 = l1, l2
        fan_in = [sum(sizes[: k + 1]) if shortcuts else sizes[k] for k in range(layers)]
        shapes = list(zip(fan_in, sizes[1:], strict=True))
        self.theta = np.zeros(sum(inputs * units + units for inputs, units in shapes), dtype)
        self.weights, self.biases = _views(self.theta, shapes)
        self._gradient, self._total = np.zeros_like(self.theta), np.zeros_like(self.theta)
        self._weight_gradients, self._bias_gradients = _views(self._gradient, shapes)
        each = [initial] * layers if isinstance(initial[0], str) else initial
        rng = np.random.default_rng(seed)
        for weight, bias, draw in zip(self.weights, self.biases, each, strict=True):
            weight[:] = _draw(draw, rng, weight.shape)
            bias[:] = _draw(initial_bias, rng, bias.shape)

    def predict(self, x: Array) -> Array:
        """Compute the outputs, shape (samples, outputs)."""
        outputs: Array = self.activations[-1].apply(self.logits(x))
        return outputs

    def logits(self, x: Array) -> Array:
        """Compute Z of the output layer, before its activation: shape (samples, outputs)."""
        return self._forward(x)[-1]

    def loss_and_gradient(self, x: Array, targets: Array) -> tuple[float, Array]:
        """Compute E with its penalties, and dE/dtheta in a vector that the next call overwrites."""
        if len(x) <= BLOCK:
            loss = self._backpropagate(x, targets)
        else:  # by parts whose outputs stay in the cache: half the time of the whole at once
            loss, total = 0.0, self._total
            total[:] = 0
            for start in range(0, len(x), BLOCK):
                part = x[start : start + BLOCK], targets[start : start + BLOCK]
                share = len(part[0]) / len(x)
                loss += share * self._backpropagate(*part)
                self._gradient *= share
                total += self._gradient
            self._gradient[:] = total
        for weight, gradient in zip(self.weights, self._weight_gradients, strict=True):
            if self.l1:
                loss += self.l1 * float(np.abs(weight).sum(dtype=np.float64))
                gradient += self.l1 * np.sign(weight)
            if self.l2:
                loss += self.l2 * float(np.square(weight).sum(dtype=np.float64))
                gradient += 2 * self.l2 * weight
        return loss, self._gradient

    def _backpropagate(self, x: Array, targets: Array) -> float:
        """Write dE/dtheta without penalties to ``_gradient`` and return E."""
        *outputs, z = self._forward(x)
        loss: float
        loss, d = self.cost.evaluate(z, targets, self.activations[-1])
        into: list[Any] = [0.0] * len(outputs)  # dE/d(outputs of a layer), collected where shortcuts end
        for layer in reversed(range(len(self.weights))):
            np.matmul(self._layer_inputs(outputs, layer).T, d, out=self._weight_gradients[layer])
            np.sum(d, 0, out=self._bias_gradients[layer])
            if layer == 0:
                break
            weight = self.weights[layer]
            if self.shortcuts:
                stop = len(weight)
                for source in range(layer, 0, -1):
                    start = stop - self.sizes[source]
                    into[source] = into[source] + d @ weight[start:stop].T
                    stop = start
                d = into[layer]
            else:
                d = d @ weight.T
            self.activations[layer - 1].back(d, outputs[layer])
        return loss

    def loss(self, x: Array, targets: Array) -> float:
        """Compute E without penalties."""
        loss: float = self.cost.evaluate(self.logits(x), targets, self.activations[-1])[0]
        return loss

    def _forward(self, x: Array) -> list[Array]:
        """Compute the inputs, the outputs of the hidden layers, and Z of the output layer."""
        outputs = [x]
        for layer, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            z = self._layer_inputs(outputs, layer) @ weight
            z += bias
            outputs.append(z if layer == len(self.weights) - 1 else self.activations[layer].apply(z))
        return outputs

    def _layer_inputs(self, outputs: list[Array], layer: int) -> Array:
        """Return the inputs of a layer."""
        return np.concatenate(outputs[: layer + 1], 1) if self.shortcuts and layer else outputs[layer]


def _views(vector: Array, shapes: Sequence[tuple[int, int]]) -> tuple[list[Array], list[Array]]:
    weights, biases, at = [], [], 0
    for inputs, units in shapes:
        weights.append(vector[at : at + inputs * units].reshape(inputs, units))
        at += inputs * units
        biases.append(vector[at : at + units])
        at += units
    return weights, biases


def _draw(initial: Initial, rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    name, *numbers = initial
    draw: _Draw = _row(INITIAL, name, "initialisation")
    return draw(rng, shape, *numbers)


def _row(table: Any, name: str, what: str) -> Any:
    if name not in table:
        raise ValueError(f"there is no {what} {name!r}: choose one of {', '.join(table)}")
    return table[name]


# Training ----------------------------------------------------------------------------------------------


class Optimizer(Protocol):
    """The interface that `train` requires: an update of theta in place from gradient and loss."""

    def step(self, grads: Array, loss: float, /) -> object: ...


class Descent:
    """SGD, momentum, RMSProp and Adam as torch.optim defines them (RMSProp with Keras's decay), on one vector.

    No library has them for arrays (scikit-learn's are private); torch's, on shared memory, cost more than a
    step of a small network.
    """

    def __init__(self, theta: Array, lr: float) -> None:
        self.theta, self.lr, self.steps = theta, lr, 0
        self.mean, self.square = np.zeros_like(theta), np.zeros_like(theta)

    def step(self, grads: Array, loss: float, /) -> None:
        """Do one step; ``grads`` is overwritten, the loss is ignored."""
        raise NotImplementedError

    def state_dict(self) -> dict[str, Any]:
        """Return what a later training needs besides theta; the arrays are those in use."""
        return {"lr": self.lr, "steps": self.steps, "mean": self.mean, "square": self.square}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load the result of `state_dict`."""
        self.__dict__.update(state)


class SGD(Descent):
    """theta -= lr * g"""

    def step(self, grads: Array, loss: float, /) -> None:
        grads *= self.lr
        self.theta -= grads


class Momentum(Descent):
    """m = 0.9 m + g; theta -= lr * m"""

    def step(self, grads: Array, loss: float, /) -> None:
        self.mean *= 0.9
        self.mean += grads
        np.multiply(self.mean, self.lr, out=grads)
        self.theta -= grads


class RMSProp(Descent):
    """v = 0.9 v + 0.1 g^2; theta -= lr * g / (sqrt(v) + 1e-8)"""

    decay: Final = 0.9

    def step(self, grads: Array, loss: float, /) -> None:
        _average(self.square, grads * grads, self.decay)
        root = np.sqrt(self.square)
        root += 1e-8
        grads *= self.lr
        grads /= root
        self.theta -= grads


class Adam(Descent):
    """m, v = averages of g and g^2, corrected for their start at 0; theta -= lr * m / (sqrt(v) + 1e-8)"""

    decays: Final = (0.9, 0.999)

    def step(self, grads: Array, loss: float, /) -> None:
        self.steps += 1
        one, two = self.decays
        _average(self.mean, grads, one)
        np.multiply(grads, grads, out=grads)
        _average(self.square, grads, two)
        root = np.sqrt(self.square, out=grads)
        root *= 1 / math.sqrt(1 - two**self.steps)
        root += 1e-8
        np.divide(self.mean, root, out=root)
        root *= self.lr / (1 - one**self.steps)
        self.theta -= root


def _average(average: Array, value: Array, decay: float) -> None:
    average *= decay
    average += (1 - decay) * value


class TorchRprop:
    """torch.optim.Rprop on a NumPy vector, whose memory torch shares."""

    def __init__(self, theta: Array, lr: float) -> None:
        import torch

        self._as_tensor: Callable[[Array], Any] = torch.from_numpy
        self._theta = self._as_tensor(theta)
        self._optimizer = torch.optim.Rprop([self._theta], lr)

    def step(self, grads: Array, loss: float, /) -> None:
        """Do one step; the loss is ignored."""
        self._theta.grad = self._as_tensor(grads)
        self._optimizer.step()

    def state_dict(self) -> dict[str, Any]:
        """Return torch's."""
        return self._optimizer.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load the result of `state_dict`."""
        self._optimizer.load_state_dict(state)


OPTIMIZERS: Final = MappingProxyType[str, Callable[..., Any]](
    {"sgd": SGD, "momentum": Momentum, "rmsprop": RMSProp, "adam": Adam, "torch.optim.Rprop": TorchRprop}
    | dict(METHODS)
)
"""By name: ``make(theta, lr)``; the four rules of :mod:`rprop_kernels.numpy` take its options too."""


def make_optimizer(name: str, theta: Array, lr: float, **options: Any) -> Any:
    """Create an :class:`Optimizer` of ``theta``.

    Raises:
        ValueError: there is none of that name.
    """
    return _row(OPTIMIZERS, name, "optimizer")(theta, lr, **options)


def batches(count: int, size: int | None, rng: np.random.Generator) -> Iterator[Any]:
    """Yield the sample indices of each batch, shuffled; a full batch is not copied and keeps its order."""
    if size is None or size >= count:
        yield slice(None)
        return
    order = rng.permutation(count)
    for start in range(0, count, size):
        yield order[start : start + size]


def train(
    network: Network,
    x: Array,
    targets: Array,
    optimizer: Optimizer,
    *,
    epochs: int,
    batch_size: int | None = None,
    seed: int | np.random.Generator = 0,
    before_epoch: Callable[[int], None] | None = None,
    done: int = 0,
) -> Iterator[float]:
    """Train epoch by epoch; yield the mean training loss during each epoch. The caller may stop.

    A loss that is no longer finite ends the training after it was yielded: it has diverged. Plain SGD with small
    batches runs in :mod:`sgd_numba` loops where they can and Numba is there: the same up to roundings, in a third of
    the time.

    Args:
        network, x, targets: see :class:`Network`.
        optimizer: of ``network.theta``.
        epochs, batch_size: None is the full batch.
        seed: of the order of the samples, or a generator, from which a training is resumed.
        before_epoch: is given the number of the epoch (from 0), to change a learning rate.
        done: epochs that are done already.
    """
    rng = np.random.default_rng(seed)
    sgd_epoch = _compiled_sgd(network, x, optimizer, batch_size)
    for epoch in range(done, epochs):
        if before_epoch is not None:
            before_epoch(epoch)
        total = 0.0
        if sgd_epoch is not None:
            order = rng.permutation(len(x))
            total = sgd_epoch(network.theta, network.sizes, optimizer.lr, x, targets, order, batch_size)  # type: ignore[attr-defined]
            yield total / len(x)
            if not math.isfinite(total):
                return
            continue
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            for batch in batches(len(x), batch_size, rng):
                part, batch_targets = x[batch], targets[batch]
                loss, gradient = network.loss_and_gradient(part, batch_targets)
                total += loss * len(part)
                if not math.isfinite(loss):
                    break
                optimizer.step(gradient, loss)
        yield total / len(x)
        if not math.isfinite(total):
            return


def warm_up(network: Network, optimizer: Optimizer, batch_size: int | None) -> None:
    """Compile the functions that `train` will use, so that timings exclude compilation."""
    x = np.zeros((SMALL + 1, 1), network.theta.dtype)
    if (epoch := _compiled_sgd(network, x, optimizer, batch_size)) is not None:
        small = Network((1, 1, 2), output="softmax", cost="cross_entropy", dtype=x.dtype)
        epoch(small.theta, small.sizes, 0.0, x, np.zeros(len(x), np.int64), np.arange(len(x)), batch_size)


def _compiled_sgd(network: Network, x: Array, optimizer: Optimizer, batch_size: int | None) -> Any:
    """Return the compiled function for an epoch of plain SGD if it applies and is faster, else None."""
    supported = (
        type(optimizer) is SGD
        and batch_size is not None
        and batch_size <= min(SMALL, len(x) - 1)
        and network.cost.name == "cross_entropy"
        and all(activation.name == "relu" for activation in network.activations[:-1])
        and not (network.shortcuts or network.l1 or network.l2)
        and x.dtype == network.theta.dtype
    )
    if not supported:
        return None
    try:
        from .sgd_numba import sgd_epoch
    except ImportError:
        return None
    return sgd_epoch


SMALL: Final = 16
"""Batch up to which compiled loops beat the matrix products of BLAS."""
