"""A network written by hand in NumPy, trained on scikit-learn's handwritten digits by all four rules.

64-32-10, tanh and softmax, cross entropy, full batch: Rprop wants gradients of one loss, not of mini-batches.
"""

import time

import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from rprop_kernels.numpy import METHODS


def digits():
    """``(x, y, x_test, y_test)``: pixels in 0 .. 1 as float32, labels 0 .. 9."""
    x, y = load_digits(return_X_y=True)
    x, x_test, y, y_test = train_test_split((x / 16).astype(np.float32), y, test_size=0.25, random_state=0)
    return x, y, x_test, y_test


def new_network(hidden=32, seed=0):
    """Weights and biases, as the list of arrays that the optimizer takes."""
    rng = np.random.default_rng(seed)
    layers = [(64, hidden), (hidden, 10)]
    return [
        array
        for n, m in layers
        for array in ((rng.normal(size=(n, m)) / np.sqrt(n)).astype(np.float32), np.zeros(m, np.float32))
    ]


def forward(network, x):
    """Activations of the hidden layer, and scores."""
    w1, b1, w2, b2 = network
    hidden = np.tanh(x @ w1 + b1)
    return hidden, hidden @ w2 + b2


def loss_and_gradients(network, x, y):
    """Mean cross entropy, and its gradients in the order of the network's arrays."""
    hidden, scores = forward(network, x)
    scores -= scores.max(axis=1, keepdims=True)
    log_p = scores - np.log(np.exp(scores).sum(axis=1, keepdims=True))
    rows = np.arange(len(y))
    loss = -log_p[rows, y].mean()
    d_scores = np.exp(log_p)
    d_scores[rows, y] -= 1
    d_scores /= len(y)
    d_hidden = d_scores @ network[2].T * (1 - hidden**2)
    return loss, [x.T @ d_hidden, d_hidden.sum(axis=0), hidden.T @ d_scores, d_scores.sum(axis=0)]


def accuracy(network, x, y):
    return np.mean(forward(network, x)[1].argmax(axis=1) == y)


def train(method, epochs, data):
    """``(loss, test accuracy, seconds)`` after so many full-batch steps."""
    x, y, x_test, y_test = data
    network = new_network()
    optimizer = METHODS[method](network, lr=1e-2)
    start = time.perf_counter()
    for _ in range(epochs):
        loss, gradients = loss_and_gradients(network, x, y)
        optimizer.step(gradients, loss)
    seconds = time.perf_counter() - start
    return loss_and_gradients(network, x, y)[0], accuracy(network, x_test, y_test), seconds


def main(epochs=60):
    data = digits()
    print(f"digits, 64-32-10, {epochs} full-batch steps\n\nrule     loss     test accuracy  seconds")
    rows = {}
    for method in METHODS:
        rows[method] = loss, correct, seconds = train(method, epochs, data)
        print(f"{method:8s} {loss:.5f}  {correct:13.2%}  {seconds:7.2f}")
    return rows


if __name__ == "__main__":
    main()
