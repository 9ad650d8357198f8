"""Plain SGD on images, an epoch a call, compiled by Numba: an epoch of :mod:`network` with less memory traffic.

With batches of some ten samples NumPy's products are bound by memory and by calls. Here a row of weights is read
once a batch and changed in the same pass, four samples or four rows at a time, and what is multiplied by zero is
left out: background pixels, and hidden units that ReLU has switched off. The sums are taken in another order, so
results differ from NumPy's by roundings. Read :mod:`network` to see what is computed; the tests compare the two.
"""

import math
from collections.abc import Callable
from typing import Any, Final, TypeVar

import numpy as np
from numba import njit
from numpy.typing import NDArray

Array = NDArray[Any]
_Function = TypeVar("_Function", bound=Callable[..., Any])

_ANY_ORDER: Final = {"reassoc", "contract", "nsz"}
"""Sums may be taken in any order and products fused; NaN and infinity stay what they are."""


def _compile(function: _Function) -> _Function:
    return njit(nogil=True, error_model="numpy", fastmath=_ANY_ORDER)(function)  # type: ignore[return-value]


@_compile
def _forward(x: Any, weight: Any, bias: Any, z: Any) -> None:
    """Compute z = x @ weight + bias."""
    samples, inputs = x.shape
    units = len(bias)
    for s in range(samples):
        for unit in range(units):
            z[s, unit] = bias[unit]
    fours = inputs - inputs % 4
    for i in range(0, fours, 4):
        w0, w1, w2, w3 = weight[i], weight[i + 1], weight[i + 2], weight[i + 3]
        for s in range(samples):
            x0, x1, x2, x3 = x[s, i], x[s, i + 1], x[s, i + 2], x[s, i + 3]
            if x0 == 0 and x1 == 0 and x2 == 0 and x3 == 0:
                continue
            out = z[s]
            for unit in range(units):
                out[unit] += x0 * w0[unit] + x1 * w1[unit] + x2 * w2[unit] + x3 * w3[unit]
    for i in range(fours, inputs):
        w0 = weight[i]
        for s in range(samples):
            x0, out = x[s, i], z[s]
            for unit in range(units):
                out[unit] += x0 * w0[unit]


@_compile
def _step(x: Any, weight: Any, bias: Any, d: Any, delta_below: Any, lr: Any) -> None:
    """Compute delta_below = d @ weight.T where ReLU is active, then weight -= lr * x.T @ d and bias -= lr * sum of d.

    An empty ``delta_below`` is skipped: there is no layer below.
    """
    samples, inputs = x.shape
    units = len(bias)
    fours = samples - samples % 4
    for i in range(inputs):
        row = weight[i]
        if len(delta_below):
            for s in range(samples):
                if x[s, i] > 0:
                    position, total = d[s], row[0] * 0
                    for unit in range(units):
                        total += row[unit] * position[unit]
                    delta_below[s, i] = total
                else:
                    delta_below[s, i] = 0
        for s in range(0, fours, 4):
            x0, x1, x2, x3 = x[s, i], x[s + 1, i], x[s + 2, i], x[s + 3, i]
            if x0 == 0 and x1 == 0 and x2 == 0 and x3 == 0:
                continue
            x0, x1, x2, x3 = lr * x0, lr * x1, lr * x2, lr * x3
            d0, d1, d2, d3 = d[s], d[s + 1], d[s + 2], d[s + 3]
            for unit in range(units):
                row[unit] -= x0 * d0[unit] + x1 * d1[unit] + x2 * d2[unit] + x3 * d3[unit]
        for s in range(fours, samples):
            x0, d0 = lr * x[s, i], d[s]
            if x0 != 0:
                for unit in range(units):
                    row[unit] -= x0 * d0[unit]
    for s in range(samples):
        for unit in range(units):
            bias[unit] -= lr * d[s, unit]


@_compile
def _cross_entropy(z: Any, labels: Any) -> float:
    """Sum the losses of softmax with cross-entropy; z becomes d(mean of the losses)/dz."""
    samples, units = z.shape
    loss = 0.0
    for s in range(samples):
        row = z[s]
        top = row[0]
        for unit in range(1, units):
            top = max(top, row[unit])
        at_label = row[labels[s]] - top
        total = row[0] * 0
        for unit in range(units):
            row[unit] = math.exp(row[unit] - top)
            total += row[unit]
        loss += math.log(total) - at_label
        for unit in range(units):
            row[unit] /= total
        row[labels[s]] -= 1
        for unit in range(units):
            row[unit] /= samples
    return loss


@_compile
def _epoch(theta: Any, sizes: Any, lr: Any, x: Any, labels: Any, order: Any, batch: int) -> float:
    layers = len(sizes) - 1
    total = 0.0
    inputs = np.empty((batch, sizes[0]), x.dtype)
    targets = np.empty(batch, labels.dtype)
    width = max(1, sizes[1:].max())
    outputs = np.empty((layers, batch * width), x.dtype)
    deltas = np.empty((2, batch * width), x.dtype)
    for start in range(0, len(order), batch):
        samples = min(batch, len(order) - start)
        for s in range(samples):
            inputs[s] = x[order[start + s]]
            targets[s] = labels[order[start + s]]
        layer_input = inputs[:samples]
        position = 0
        for layer in range(layers):
            rows, units = sizes[layer], sizes[layer + 1]
            weight = theta[position : position + rows * units].reshape(rows, units)
            position += rows * units
            z = outputs[layer, : samples * units].reshape(samples, units)
            _forward(layer_input, weight, theta[position : position + units], z)
            position += units
            if layer < layers - 1:
                for s in range(samples):
                    for unit in range(units):
                        z[s, unit] = 0 if z[s, unit] < 0 else z[s, unit]
            layer_input = z
        loss = _cross_entropy(layer_input, targets)
        total += loss
        if not math.isfinite(loss):
            break
        d = layer_input
        for layer in range(layers - 1, -1, -1):
            rows, units = sizes[layer], sizes[layer + 1]
            position -= units
            bias = theta[position : position + units]
            position -= rows * units
            weight = theta[position : position + rows * units].reshape(rows, units)
            if layer:
                delta_below = deltas[layer % 2, : samples * rows].reshape(samples, rows)
                _step(outputs[layer - 1, : samples * rows].reshape(samples, rows), weight, bias, d, delta_below, lr)
                d = delta_below
            else:
                _step(inputs[:samples], weight, bias, d, deltas[0, :0].reshape(0, 1), lr)
    return total


def sgd_epoch(
    theta: Array, sizes: tuple[int, ...], lr: float, x: Array, labels: Array, order: Array, batch: int
) -> float:
    """Do one epoch of theta -= lr * gradient, for ReLU layers below softmax with cross-entropy.

    Args:
        theta: INOUT, all weights and biases as :class:`network.Network` keeps them.
        sizes: of its layers.
        lr: learning rate.
        x, labels: all samples, in the dtype of theta; int64.
        order: which samples, in which order.
        batch: samples of a step.

    Returns:
        The sum of the samples' losses before their steps; not finite where that ended the epoch.
    """
    real = theta.dtype.type
    return float(_epoch(theta, np.array(sizes), real(lr), x, labels, order, min(batch, len(order))))
