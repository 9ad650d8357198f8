"""The lab's NumPy network: gradients against torch autograd, training, files, speed."""

import math
import warnings
from time import perf_counter
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("scipy")
threadpoolctl = pytest.importorskip("threadpoolctl")
sklearn_network = pytest.importorskip("sklearn.neural_network")

from rprop_kernels.lab import network as networks  # noqa: E402
from rprop_kernels.lab.network import ACTIVATIONS, OPTIMIZERS, Network, make_optimizer, train  # noqa: E402

TORCH: dict[str, Any] = {
    "linear": lambda z: z,
    "relu": torch.relu,
    "leaky_relu": lambda z: torch.nn.functional.leaky_relu(z, 0.01),
    "elu": torch.nn.functional.elu,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "softsign": torch.nn.functional.softsign,
    "softmax": lambda z: torch.softmax(z, 1),
}
RNG = np.random.default_rng(7)
X = RNG.normal(size=(17, 5))


def autograd(network: Network, x: Any, targets: Any) -> tuple[float, Any]:
    """Loss and gradient by torch, from the same weights, written independently of the network."""
    pairs = [
        (torch.tensor(w, requires_grad=True), torch.tensor(b, requires_grad=True))
        for w, b in zip(network.weights, network.biases, strict=True)
    ]
    outputs = [torch.tensor(x)]
    for layer, (weight, bias) in enumerate(pairs):
        z = (torch.cat(outputs, 1) if network.shortcuts else outputs[-1]) @ weight + bias
        outputs.append(z if layer == len(pairs) - 1 else TORCH[network.activations[layer].name](z))
    target = torch.tensor(targets)
    functional = torch.nn.functional
    loss = {
        "mse": lambda: functional.mse_loss(TORCH[network.activations[-1].name](z), target),
        "cross_entropy": lambda: functional.cross_entropy(z, target),
        "binary_cross_entropy": lambda: functional.binary_cross_entropy_with_logits(z, target),
    }[network.cost.name]()
    for weight, _ in pairs:
        loss = loss + network.l1 * weight.abs().sum() + network.l2 * weight.square().sum()
    loss.backward()
    parts = [tensor.grad.numpy().ravel() for pair in pairs for tensor in pair]
    return loss.item(), np.concatenate(parts)


def check_gradient(network: Network, targets: Any, x: Any = X) -> None:
    loss, gradient = network.loss_and_gradient(x, targets)
    expected_loss, expected = autograd(network, x, targets)
    assert np.abs(expected).max() > 1e-6
    np.testing.assert_allclose(loss, expected_loss, rtol=1e-12)
    np.testing.assert_allclose(gradient, expected, rtol=1e-9, atol=1e-12)


def build(sizes: tuple[int, ...], *arguments: Any, **options: Any) -> Network:
    options = {"initial": ("normal", 0.8), "initial_bias": ("normal", 0.5), "dtype": np.float64} | options
    return Network(sizes, *arguments, **options)


@pytest.mark.parametrize("shortcuts", [False, True])
@pytest.mark.parametrize("name", list(ACTIVATIONS))
def test_gradient_of_every_activation(name: str, shortcuts: bool) -> None:
    network = build((5, 6, 4, 3), (name, "tanh"), "linear", shortcuts=shortcuts)
    check_gradient(network, RNG.normal(size=(17, 3)))


@pytest.mark.parametrize("output", list(ACTIVATIONS))
def test_gradient_of_mse_with_every_output(output: str) -> None:
    check_gradient(build((5, 4, 3), "tanh", output), RNG.normal(size=(17, 3)))


@pytest.mark.parametrize("sizes", [(5, 3), (5, 7, 3), (5, 6, 5, 4, 3)])
@pytest.mark.parametrize("shortcuts", [False, True])
def test_gradient_of_cross_entropies(sizes: tuple[int, ...], shortcuts: bool) -> None:
    network = build(sizes, "elu", "softmax", "cross_entropy", shortcuts=shortcuts, l1=0.01, l2=0.02)
    check_gradient(network, RNG.integers(3, size=17))
    network = build(sizes, "sigmoid", "sigmoid", "binary_cross_entropy", shortcuts=shortcuts)
    check_gradient(network, RNG.integers(2, size=(17, 3)).astype(float))


def test_huge_outputs_do_not_overflow() -> None:
    for output, cost, targets in (
        ("softmax", "cross_entropy", RNG.integers(3, size=17)),
        ("sigmoid", "binary_cross_entropy", RNG.integers(2, size=(17, 3)).astype(np.float32)),
    ):
        network = Network((5, 3), "relu", output, cost, initial=("uniform", 1e4, 2e4))
        loss, gradient = network.loss_and_gradient(X.astype(np.float32), targets)  # warnings are errors
        assert np.isfinite(loss) and loss > 100 and np.isfinite(gradient).all()
        assert np.isfinite(network.predict(X.astype(np.float32))).all()


def test_float32_is_near_float64() -> None:
    labels = RNG.integers(3, size=17)
    wide = build((5, 8, 3), "relu", "softmax", "cross_entropy")
    narrow = build((5, 8, 3), "relu", "softmax", "cross_entropy", dtype=np.float32)
    loss, gradient = narrow.loss_and_gradient(X.astype(np.float32), labels)
    expected_loss, expected = wide.loss_and_gradient(X, labels)
    assert gradient.dtype == np.float32
    np.testing.assert_allclose(loss, expected_loss, rtol=1e-5)
    np.testing.assert_allclose(gradient, expected, atol=1e-6)


def test_inputs_are_only_read_and_outputs_are_the_activation() -> None:
    x, targets = X.copy(), RNG.normal(size=(17, 3))
    network = build((5, 4, 3), "softsign", "softmax")
    network.loss_and_gradient(x, targets)
    network.predict(x)
    assert np.array_equal(x, X)
    np.testing.assert_allclose(network.predict(x).sum(1), 1)
    assert build((5, 3), "relu", "linear").predict(x) is not x


def test_initialisation() -> None:
    def spread(*initial: Any) -> tuple[float, float, float]:
        weight = Network((300, 200), initial=initial, dtype=np.float64).weights[0]
        return float(weight.mean()), float(weight.std()), float(np.abs(weight).max())

    assert spread("zeros") == (0, 0, 0)
    assert spread("normal", 0.05)[1] == pytest.approx(0.05, rel=0.02)
    mean, std, most = spread("uniform")
    assert mean == pytest.approx(0.5, abs=0.01) and most <= 1 and std == pytest.approx(12**-0.5, rel=0.02)
    assert spread("he")[1] == pytest.approx((2 / 300) ** 0.5, rel=0.02)
    assert spread("xavier")[1] == pytest.approx((2 / 500) ** 0.5, rel=0.02)
    (mean, std, most), limit = spread("glorot"), (6 / 500) ** 0.5
    assert abs(mean) < 1e-3 and 0.99 * limit < most < limit
    assert std == pytest.approx((2 / 500) ** 0.5, rel=0.02)
    network = Network((4, 3, 2), initial=[("zeros",), ("uniform", 2, 3)], initial_bias=("uniform", 5, 6))
    assert not network.weights[0].any() and (network.weights[1] >= 2).all() and (network.biases[0] >= 5).all()
    assert np.array_equal(Network((4, 3), seed=3).theta, Network((4, 3), seed=3).theta)
    assert not np.array_equal(Network((4, 3), seed=3).theta, Network((4, 3), seed=4).theta)


def test_invalid_networks_raise_an_error_with_the_reason() -> None:
    for wrong, words in (
        (lambda: Network((5,)), "sizes"),
        (lambda: Network((5, 0, 2)), "sizes"),
        (lambda: Network((5, 4, 2), "relo"), "no activation 'relo': choose one of linear, relu"),
        (lambda: Network((5, 4, 2), ("relu", "relu")), "2 hidden activations for 1"),
        (lambda: Network((5, 2), cost="cross_entropy"), "goes with the output 'softmax'"),
        (lambda: Network((5, 2), initial=("hee",)), "no initialisation 'hee'"),
        (lambda: make_optimizer("adan", np.zeros(3), 0.1), "no optimizer 'adan'"),
    ):
        with pytest.raises(ValueError, match=words):
            wrong()


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_learns(name: str) -> None:
    x = np.linspace(-1, 1, 60, dtype=np.float32)[:, None]
    y = np.sin(3 * x)
    network = Network((1, 12, 1), "tanh", seed=1)
    lr = {"sgd": 0.1, "momentum": 0.05}.get(name, 0.01)
    full = name in networks.METHODS or "Rprop" in name
    losses = list(
        train(network, x, y, make_optimizer(name, network.theta, lr), epochs=150, batch_size=None if full else 10)
    )
    assert len(losses) == 150 and losses[-1] < 0.1 * losses[0]
    assert network.loss(x, y) == pytest.approx(losses[-1], rel=0.5)


@pytest.mark.parametrize("name", [name for name in OPTIMIZERS if name not in networks.METHODS])
def test_gradient_descent_matches_torch(name: str) -> None:
    optim = torch.optim
    make = {
        "sgd": lambda p: optim.SGD(p, 0.03),
        "momentum": lambda p: optim.SGD(p, 0.03, momentum=0.9),
        "rmsprop": lambda p: optim.RMSprop(p, 0.03, alpha=0.9),
        "adam": lambda p: optim.Adam(p, 0.03),
        "torch.optim.Rprop": lambda p: optim.Rprop(p, 0.03),
    }[name]
    theta = RNG.normal(size=20)
    tensor = torch.tensor(theta)
    ours, theirs = make_optimizer(name, theta, 0.03), make([tensor])
    for _ in range(10):
        gradient = RNG.normal(size=20) + theta
        tensor.grad = torch.tensor(gradient)
        theirs.step()
        ours.step(gradient, 0.0)
        np.testing.assert_allclose(theta, tensor.numpy(), rtol=1e-12, atol=1e-15)


def test_batches_cover_every_sample_once_and_follow_the_seed() -> None:
    def orders(seed: int) -> list[Any]:
        return [part.tolist() for part in networks.batches(10, 4, np.random.default_rng(seed))]

    assert sorted(i for part in orders(0) for i in part) == list(range(10))
    assert list(map(len, orders(0))) == [4, 4, 2]
    assert orders(0) == orders(0) != orders(1)
    assert list(networks.batches(10, 10, np.random.default_rng(0))) == [slice(None)]
    assert list(networks.batches(10, None, np.random.default_rng(0))) == [slice(None)]


def test_the_same_seed_gives_the_same_weights() -> None:
    def final(seed: int) -> Any:
        network = build((5, 4, 3))
        targets = np.ones((17, 3))
        list(train(network, X, targets, make_optimizer("adam", network.theta, 0.1), epochs=3, batch_size=4, seed=seed))
        return network.theta

    assert np.array_equal(final(0), final(0)) and not np.array_equal(final(0), final(1))


def test_divergence_ends_the_training_without_an_exception() -> None:
    network = build((5, 30, 30, 3), "relu")
    targets = RNG.normal(size=(17, 3))
    sgd = make_optimizer("sgd", network.theta, 1e6)
    losses = list(train(network, X, targets, sgd, epochs=50, batch_size=4))
    assert len(losses) < 50 and not np.isfinite(losses[-1]) and np.isfinite(losses[:-1]).all()


def test_at_least_as_fast_as_scikit_learn() -> None:
    """The report's comparison on the Runge function, two tanh layers of 100, to the same R2."""
    from sklearn.metrics import r2_score

    x = np.random.default_rng(0).uniform(-1, 1, (1000, 1))
    y = 1 / (1 + 25 * x[:, 0] ** 2)
    y = (y - y.mean()) / y.std()
    inputs, targets = x.astype(np.float32), y.astype(np.float32)[:, None]

    def by_scikit_learn() -> float:
        model = sklearn_network.MLPRegressor(
            hidden_layer_sizes=(100, 100), activation="tanh", max_iter=80, tol=0, random_state=0
        )
        with warnings.catch_warnings():  # that it did not converge
            warnings.simplefilter("ignore")
            model.fit(x, y)
        return float(r2_score(y, model.predict(x)))

    def by_us(wanted: float) -> float:
        network = Network((1, 100, 100, 1), "tanh")
        optimizer = make_optimizer("irprop+", network.theta, 0.01)
        for loss in train(network, inputs, targets, optimizer, epochs=400):
            if 1 - loss > wanted:
                break
        return float(r2_score(y, network.predict(inputs)[:, 0]))

    with threadpoolctl.threadpool_limits(1):
        begin = perf_counter()
        wanted = by_scikit_learn()
        between = perf_counter()
        reached = by_us(wanted)
        end = perf_counter()
    assert reached >= wanted - 1e-3 and wanted > 0.8
    assert end - between < between - begin


@pytest.mark.parametrize("shortcuts", [False, True])
def test_gradient_of_many_samples_is_computed_in_blocks(shortcuts: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(networks, "BLOCK", 5)  # 17 samples are 5 + 5 + 5 + 2
    network = build((5, 6, 4, 3), "tanh", "softmax", "cross_entropy", shortcuts=shortcuts, l1=0.1, l2=0.2)
    check_gradient(network, RNG.integers(3, size=17))
    check_gradient(build((5, 4, 3), "tanh", "sigmoid", "binary_cross_entropy"), RNG.uniform(size=(17, 3)))


@pytest.mark.parametrize("hidden", [(), (8,), (9, 7, 6)])
def test_compiled_sgd_matches_numpy(hidden: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("numba")
    x, labels = np.maximum(RNG.normal(size=(59, 13)), 0), RNG.integers(5, size=59)

    def trained(small: int, epochs: int, batch: int, lr: float) -> tuple[list[float], Any]:
        monkeypatch.setattr(networks, "SMALL", small)
        network = build((13, *hidden, 5), "relu", "softmax", "cross_entropy", seed=1)
        optimizer = make_optimizer("sgd", network.theta, lr)
        assert (networks._compiled_sgd(network, x, optimizer, batch) is not None) == bool(small)
        return list(train(network, x, labels, optimizer, epochs=epochs, batch_size=batch)), network.theta

    for batch in (1, 7, 16):  # 59 samples: with and without a last batch that is smaller, fours and rests
        losses, theta = trained(16, 3, batch, 0.05)
        expected_losses, expected = trained(0, 3, batch, 0.05)
        np.testing.assert_allclose(losses, expected_losses, rtol=1e-10)
        np.testing.assert_allclose(theta, expected, rtol=1e-8, atol=1e-10)
    losses, _ = trained(16, 40, 7, math.inf)  # ends with the epoch that diverged, as the other does
    assert len(losses) == len(trained(0, 40, 7, math.inf)[0]) < 40 and not np.isfinite(losses[-1])
    assert np.isfinite(losses[:-1]).all()


def test_compiled_sgd_steps_along_torch_gradient() -> None:
    pytest.importorskip("numba")
    network = build((5, 6, 4, 3), "relu", "softmax", "cross_entropy")
    x, labels = np.concatenate([X, X[:1]]), np.concatenate([RNG.integers(3, size=17), [0]])
    loss, gradient = autograd(network, x[:16], labels[:16])
    before = network.theta.copy()
    compiled = networks._compiled_sgd(network, x, make_optimizer("sgd", network.theta, 1.0), 16)
    assert compiled(network.theta, network.sizes, 1e-3, x, labels, np.arange(16), 16) / 16 == pytest.approx(loss)
    np.testing.assert_allclose((before - network.theta) / 1e-3, gradient, rtol=1e-8, atol=1e-10)


def test_compiled_sgd_is_not_used_where_unsupported() -> None:
    x = np.zeros((50, 5))
    for sizes, arguments, options, name, batch in (
        ((5, 4, 3), ("tanh", "softmax", "cross_entropy"), {}, "sgd", 8),
        ((5, 4, 3), ("relu", "linear", "mse"), {}, "sgd", 8),
        ((5, 4, 3), ("relu", "softmax", "cross_entropy"), {"l2": 0.1}, "sgd", 8),
        ((5, 4, 3), ("relu", "softmax", "cross_entropy"), {"shortcuts": True}, "sgd", 8),
        ((5, 4, 3), ("relu", "softmax", "cross_entropy"), {"dtype": np.float32}, "sgd", 8),
        ((5, 4, 3), ("relu", "softmax", "cross_entropy"), {}, "momentum", 8),
        ((5, 4, 3), ("relu", "softmax", "cross_entropy"), {}, "sgd", 17),
        ((5, 4, 3), ("relu", "softmax", "cross_entropy"), {}, "sgd", None),
    ):
        network = build(sizes, *arguments, **options)
        optimizer = make_optimizer(name, network.theta, 0.1)
        assert networks._compiled_sgd(network, x, optimizer, batch) is None, (arguments, options, name, batch)
