"""Libraries that people train with, through their own loops (extra "clients"; else skipped)."""

import contextlib
import copy
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from bits import bits, same  # noqa: E402
from torch import Tensor, nn  # noqa: E402

import rprop_kernels.torch as ours  # noqa: E402

pytestmark = [
    pytest.mark.clients,
    pytest.mark.filterwarnings("ignore"),
]  # each library has warnings of its own


@contextlib.contextmanager
def put_in_place(cls: Any) -> Iterator[list[Any]]:
    """``torch.optim.Rprop`` is another class for a while; yields the optimizers that were made of it."""
    made: list[Any] = []

    class Counted(cls):  # type: ignore[misc]
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            made.append(self)

    theirs = torch.optim.Rprop
    torch.optim.Rprop = Counted  # type: ignore[misc]
    try:
        yield made
    finally:
        torch.optim.Rprop = theirs  # type: ignore[misc]


def twice(fit: Callable[[], Any]) -> None:
    """The same fit, bit for bit, with torch's Rprop and with ours in its place."""
    results = []
    for cls in (torch.optim.Rprop, ours.Rprop):
        torch.manual_seed(0)
        with put_in_place(cls) as made:
            result = fit()
        steps = [int(s["step"]) for o in made for s in o.state.values()]
        assert steps and max(steps) > 3, "the library did not step torch.optim.Rprop"
        results.append((copy.deepcopy(result), steps))
    assert same(*results)


def test_pyplnmodels() -> None:
    pln = pytest.importorskip("pyPLNmodels", reason="pyPLNmodels is not installed")
    import numpy as np

    counts = np.random.default_rng(0).poisson(5.0, (40, 6))

    def fit() -> list[Tensor]:
        model = pln.Pln(counts, add_const=True)
        model.fit(maxiter=40, verbose=False)
        reduced = pln.PlnPCA(counts, rank=2, add_const=True)
        reduced.fit(maxiter=20, verbose=False)
        return [model.latent_mean, model.latent_sqrt_variance, reduced.components, reduced.latent_mean]

    twice(fit)


def test_fastgps() -> None:
    fastgps = pytest.importorskip("fastgps", reason="fastgps is not installed")
    import qmcpy

    def fit() -> list[dict[str, Tensor]]:
        models = []
        for gp in (
            fastgps.FastGPLattice(qmcpy.KernelShiftInvar(d=2, torchify=True), qmcpy.Lattice(2, seed=7)),
            fastgps.FastGPDigitalNetB2(qmcpy.KernelDigShiftInvar(d=2, torchify=True), qmcpy.DigitalNetB2(2, seed=7)),
        ):
            x = gp.get_x_next(16)
            gp.add_y_next(torch.sin(3 * x[:, 0]) + x[:, 1] ** 2)
            gp.fit(iterations=25, verbose=0, stop_crit_wait_iterations=100)
            models.append(dict(gp.state_dict()))
        return models

    twice(fit)


@pytest.fixture
def double() -> Iterator[None]:
    """float64 is the default dtype, as fastgps advises."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@pytest.mark.parametrize("digital", [False, True], ids=["lattice", "digital net"])
def test_minimize_in_place_of_the_fit_of_fastgps(digital: bool, double: None, monkeypatch: Any) -> None:
    """Its fit, with its own patience and with a long one, finds no lower loss."""
    fastgps = pytest.importorskip("fastgps", reason="fastgps is not installed")
    import qmcpy

    def process() -> Any:
        if digital:
            gp = fastgps.FastGPDigitalNetB2(
                qmcpy.KernelDigShiftInvar(d=2, torchify=True), qmcpy.DigitalNetB2(2, seed=7)
            )
        else:
            gp = fastgps.FastGPLattice(qmcpy.KernelShiftInvar(d=2, torchify=True), qmcpy.Lattice(2, seed=7))
        x = gp.get_x_next(64)
        gp.add_y_next(torch.sin(3 * x[:, 0]) + x[:, 1] ** 2)
        return gp

    def loss(gp: Any) -> Tensor:
        with monkeypatch.context() as patch:
            patch.setenv("FASTGP_FORCE_RECOMPILE", "True")  # else it keeps the graph of an older Gram matrix
            return gp.get_inv_log_det_cache().mll_loss(gp, True)

    mine = process()
    result = ours.minimize(lambda: loss(mine), mine)
    assert result.success and loss(mine).item() == result.fun
    for patience in ({}, {"stop_crit_improvement_threshold": 1e-8, "stop_crit_wait_iterations": 50}):
        other = process()
        other.fit(verbose=0, **patience)
        theirs = loss(other).item()
        assert result.fun <= theirs + 1e-7 * abs(theirs)
    # The Gram matrix that fastgps caches is that of the best point.
    points = torch.rand(5, 2, generator=torch.Generator().manual_seed(0))
    twin = process()
    twin.load_state_dict(mine.state_dict())
    loss(twin)
    assert torch.equal(mine.post_mean(points), twin.post_mean(points))


def test_minimize_replaces_the_loop_of_fastgps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its `fit` is a loop with patience and a copy of the best parameters; the loss is no worse without it."""
    fastgps = pytest.importorskip("fastgps", reason="fastgps is not installed")
    import qmcpy

    def process() -> Any:
        torch.manual_seed(0)
        gp = fastgps.FastGPLattice(qmcpy.KernelShiftInvar(d=2, torchify=True), qmcpy.Lattice(2, seed=7))
        x = gp.get_x_next(64)
        gp.add_y_next(torch.sin(3 * x[:, 0]) + x[:, 1] ** 2)
        return gp

    def loss(gp: Any) -> Tensor:
        with monkeypatch.context() as context:
            context.setenv("FASTGP_FORCE_RECOMPILE", "True")  # as its loop does
            return gp.get_inv_log_det_cache().mll_loss(gp, True)

    theirs, gp = process(), process()
    theirs.fit(verbose=0)
    result = ours.minimize(lambda: loss(gp), gp)
    assert result.success and result.x is gp
    assert loss(gp).item() == pytest.approx(result.fun, rel=1e-9)
    assert result.fun <= loss(theirs).item()

    gp = process()
    optimizer = ours.IRpropPlus(gp.parameters(), step_sizes=(0.0, 50.0))
    stop = ours.Stopping(optimizer, max_steps=3000)
    while True:
        optimizer.zero_grad()
        value = loss(gp)
        value.backward()
        if stop(value):
            break
        optimizer.step()
    stop.restore_best()
    assert stop.status == 0 and loss(gp).item() <= loss(theirs).item()


def test_minimize_replaces_the_loop_of_a_gpytorch_tutorial() -> None:
    """Its simple regression makes 50 steps of Adam; the loss is no worse, and so is the error of the prediction."""
    gpytorch = pytest.importorskip("gpytorch", reason="gpytorch is not installed")
    x = torch.linspace(0, 1, 100)
    y = torch.sin(x * (2 * torch.pi)) + torch.randn(100, generator=torch.Generator().manual_seed(0)) * 0.2

    class Process(gpytorch.models.ExactGP):
        def __init__(self, likelihood: Any) -> None:
            super().__init__(x, y, likelihood)
            self.mean_module = gpytorch.means.ConstantMean()
            self.covar_module = gpytorch.kernels.ScaleKernel(gpytorch.kernels.RBFKernel())

        def forward(self, x: Tensor) -> Any:
            return gpytorch.distributions.MultivariateNormal(self.mean_module(x), self.covar_module(x))

    def fit(train: Callable[[Any, Callable[[], Tensor]], None]) -> tuple[float, float]:
        model = Process(gpytorch.likelihoods.GaussianLikelihood())
        model.train()
        mll = gpytorch.mlls.ExactMarginalLogLikelihood(model.likelihood, model)
        train(model, lambda: -mll(model(x), y))
        with torch.no_grad():
            loss = -mll(model(x), y).item()
            model.eval()
            at = torch.linspace(0, 1, 51)
            error = (model.likelihood(model(at)).mean - torch.sin(at * (2 * torch.pi))).square().mean().sqrt()
        return loss, error.item()

    def tutorial(model: Any, loss: Callable[[], Tensor]) -> None:
        optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
        for _ in range(50):
            optimizer.zero_grad()
            value = loss()
            value.backward()
            optimizer.step()

    def by_minimize(model: Any, loss: Callable[[], Tensor]) -> None:
        assert ours.minimize(loss, model).success

    def by_stopping(model: Any, loss: Callable[[], Tensor]) -> None:
        optimizer = ours.IRpropPlus(model.parameters(), step_sizes=(0.0, 50.0))
        stop = ours.Stopping(optimizer, max_steps=3000)
        while True:
            optimizer.zero_grad()
            value = loss()
            value.backward()
            if stop(value):
                break
            optimizer.step()
        stop.restore_best()
        assert stop.status == 0

    loss, error = fit(tutorial)
    for train in (by_minimize, by_stopping):
        our_loss, our_error = fit(train)
        assert our_loss <= loss + 1e-6 and our_error <= 1.1 * error


def data() -> tuple[Tensor, Tensor]:
    x = torch.randn(24, 3, generator=torch.Generator().manual_seed(3))
    return x, x.prod(1, keepdim=True)


def net() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1))


def by_hand(make: Any, steps: int, scale: float = 1.0) -> nn.Module:
    """The plain loop that every library must agree with."""
    x, y = data()
    model = net()
    optimizer = make(model.parameters(), lr=0.05)
    for _ in range(steps):
        optimizer.zero_grad()
        loss = nn.functional.mse_loss(model(x), y) * scale
        loss.backward()
        optimizer.step(**({"loss": loss} if make is ours.IRpropPlus else {}))
    return model


def equal(model: nn.Module, other: nn.Module) -> bool:
    pairs = zip(model.parameters(), other.parameters(), strict=True)
    return all(torch.equal(bits(p), bits(q)) for p, q in pairs)


@pytest.mark.parametrize("make", [ours.IRpropPlus, ours.IRpropMinus, ours.Rprop])
def test_skorch(make: Any, tmp_path: Any) -> None:
    """The closure of skorch returns the loss."""
    skorch = pytest.importorskip("skorch", reason="skorch is not installed")
    x, y = data()

    def fit(epochs: int) -> Any:
        return skorch.NeuralNetRegressor(
            net(), max_epochs=epochs, lr=0.05, optimizer=make, batch_size=-1, train_split=None, verbose=0
        )

    whole = fit(10).fit(x, y)
    assert equal(whole.module_, by_hand(make, 10))
    half = fit(5).fit(x, y)
    half.save_params(tmp_path / "m.pt", tmp_path / "o.pt")
    other = fit(5).initialize()
    other.load_params(tmp_path / "m.pt", tmp_path / "o.pt")
    other.partial_fit(x, y)
    assert equal(other.module_, whole.module_)


class Batches(torch.utils.data.Dataset[Any]):
    """One batch that holds everything."""

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> Any:
        return data()


def lightning_module(make: Any, manual: bool, tell: bool = False) -> Any:
    import lightning

    class Module(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = net()
            self.automatic_optimization = not manual

        def training_step(self, batch: Any, index: int) -> Any:
            x, y = (t.squeeze(0) for t in batch)
            loss = nn.functional.mse_loss(self.net(x).float(), y)
            optimizer = self.optimizers()
            if manual:
                optimizer.zero_grad()
                self.manual_backward(loss)
                optimizer.step(**({"loss": loss} if make is ours.IRpropPlus else {}))
            elif tell:
                optimizer.optimizer.set_loss(loss)
            return loss

        def configure_optimizers(self) -> Any:
            return make(self.net.parameters(), lr=0.05)

    return Module()


def trainer(epochs: int = 10, **kwargs: Any) -> Any:
    import lightning

    return lightning.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **kwargs,
    )


@pytest.mark.parametrize("manual", [False, True])
@pytest.mark.parametrize("make", [ours.IRpropPlus, ours.RpropPlus, ours.Rprop])
def test_lightning(make: Any, manual: bool, tmp_path: Any) -> None:
    """Automatic optimization: the closure returns the loss. Manual: step(loss=...) through its wrapper."""
    pytest.importorskip("lightning", reason="lightning is not installed")
    batches = torch.utils.data.DataLoader(Batches())
    module = lightning_module(make, manual)
    trainer(10).fit(module, batches)
    expected = by_hand(make, 10)
    assert equal(module.net, expected)
    first = trainer(5)
    first.fit(lightning_module(make, manual), batches)
    first.save_checkpoint(tmp_path / "half.ckpt")
    resumed = lightning_module(make, manual)
    trainer(10).fit(resumed, batches, ckpt_path=tmp_path / "half.ckpt")
    assert equal(resumed.net, expected)


@pytest.mark.parametrize("manual", [False, True])
def test_lightning_16_mixed(manual: bool) -> None:
    """With a gradient scaler Lightning calls step() without the closure's loss: set_loss tells it."""
    pytest.importorskip("lightning", reason="lightning is not installed")
    from lightning.pytorch.plugins import MixedPrecision

    scaler = torch.amp.GradScaler("cpu", init_scale=256.0)
    plugin = MixedPrecision("16-mixed", device="cpu", scaler=scaler)
    module = lightning_module(ours.IRpropPlus, manual, tell=True)
    trainer(10, plugins=[plugin]).fit(module, torch.utils.data.DataLoader(Batches()))

    x, y = data()
    model = net()
    optimizer = ours.IRpropPlus(model.parameters(), lr=0.05)
    twin = torch.amp.GradScaler("cpu", init_scale=256.0)
    for _ in range(10):
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=torch.half):
            loss = nn.functional.mse_loss(model(x).float(), y)
        twin.scale(loss).backward()
        twin.step(optimizer, loss=loss)
        twin.update()
    assert equal(module.net, model)
    assert scaler.get_scale() == twin.get_scale()


@pytest.mark.parametrize("make", [ours.IRpropPlus, ours.RpropMinus, ours.Rprop])
@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_accelerate(make: Any, precision: str, tmp_path: Any) -> None:
    """Its wrapper of the optimizer takes a closure only: ``optimizer.step(lambda: loss)``."""
    accelerate = pytest.importorskip("accelerate", reason="accelerate is not installed")
    accelerate.state.AcceleratorState._reset_state(True)

    def loop(model: Any, optimizer: Any, accelerator: Any, steps: int) -> None:
        x, y = data()
        for _ in range(steps):
            with accelerator.accumulate(model):
                loss = nn.functional.mse_loss(model(x), y)
                accelerator.backward(loss)
                accelerator.clip_grad_norm_(model.parameters(), 1e6)
                optimizer.step(lambda loss=loss: loss)
                optimizer.zero_grad()

    accelerator = accelerate.Accelerator(mixed_precision=precision, cpu=True)
    model = net()
    model, optimizer = accelerator.prepare(model, make(model.parameters(), lr=0.05))
    loop(model, optimizer, accelerator, 5)
    accelerator.save_state(tmp_path / "half")
    loop(model, optimizer, accelerator, 5)
    done = copy.deepcopy(accelerator.unwrap_model(model))
    if precision == "no":
        assert equal(done, by_hand(make, 10))
    accelerator.load_state(tmp_path / "half")
    loop(model, optimizer, accelerator, 5)
    assert equal(done, accelerator.unwrap_model(model))
    accelerate.state.AcceleratorState._reset_state(True)


@pytest.mark.parametrize("make", [ours.IRpropPlus, ours.IRpropMinus])
def test_gpytorch(make: Any) -> None:
    """A Gaussian process by marginal likelihood, and a batch of them that each follow their own loss."""
    gpytorch = pytest.importorskip("gpytorch", reason="gpytorch is not installed")
    x = torch.linspace(0, 1, 20)[:, None]
    line = x[:, 0]
    targets = torch.stack([torch.sin(6 * line), torch.cos(9 * line), line**2])

    class Process(gpytorch.models.ExactGP):
        def __init__(self, x: Tensor, y: Tensor, likelihood: Any, batch: Any) -> None:
            super().__init__(x, y, likelihood)
            self.mean_module = gpytorch.means.ConstantMean(batch_shape=batch)
            kernel = gpytorch.kernels.RBFKernel(batch_shape=batch)
            self.covar_module = gpytorch.kernels.ScaleKernel(kernel, batch_shape=batch)

        def forward(self, x: Tensor) -> Any:
            return gpytorch.distributions.MultivariateNormal(self.mean_module(x), self.covar_module(x))

    def fit(y: Tensor, batch: Any, steps: int = 40) -> list[Tensor]:
        likelihood = gpytorch.likelihoods.GaussianLikelihood(batch_shape=batch)
        model = Process(x.expand(*batch, 20, 1), y, likelihood, batch)
        model.train()
        optimizer = make(model.parameters(), lr=0.1, batched=bool(batch))
        mll = gpytorch.mlls.ExactMarginalLogLikelihood(likelihood, model)
        losses = []
        for _ in range(steps):
            optimizer.zero_grad()
            loss = -mll(model(x.expand(*batch, 20, 1)), y)
            loss.sum().backward()
            optimizer.step(**({"loss": loss} if make is ours.IRpropPlus else {}))
            losses.append(loss.detach())
        return losses

    single = fit(targets[0], torch.Size([]))
    assert min(single) < single[0] - 0.5
    together = fit(targets, torch.Size([3]))
    assert (torch.stack(together).min(0).values < together[0]).all()


def test_minimize_in_place_of_the_loop_of_a_gpytorch_tutorial() -> None:
    """The simple regression of its documentation: 50 iterations of Adam, or one call."""
    gpytorch = pytest.importorskip("gpytorch", reason="gpytorch is not installed")
    x = torch.linspace(0, 1, 100)
    noise = torch.randn(100, generator=torch.Generator().manual_seed(0))
    y = torch.sin(x * (2 * torch.pi)) + noise * 0.2

    class ExactGPModel(gpytorch.models.ExactGP):
        def __init__(self, x: Tensor, y: Tensor, likelihood: Any) -> None:
            super().__init__(x, y, likelihood)
            self.mean_module = gpytorch.means.ConstantMean()
            self.covar_module = gpytorch.kernels.ScaleKernel(gpytorch.kernels.RBFKernel())

        def forward(self, x: Tensor) -> Any:
            return gpytorch.distributions.MultivariateNormal(self.mean_module(x), self.covar_module(x))

    def process() -> tuple[Any, Callable[[], Tensor]]:
        likelihood = gpytorch.likelihoods.GaussianLikelihood()
        model = ExactGPModel(x, y, likelihood)
        mll = gpytorch.mlls.ExactMarginalLogLikelihood(likelihood, model)
        return model, lambda: -mll(model(x), y)

    model, objective = process()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    for _ in range(50):
        optimizer.zero_grad()
        loss = objective()
        loss.backward()
        optimizer.step()
    theirs = objective().item()

    model, objective = process()
    result = ours.minimize(objective, model)
    assert result.success and result.nfev < 200
    assert objective().item() <= theirs + 1e-6 * abs(theirs)


def test_grad_scaler_with_irprop_plus() -> None:
    model = net()
    x, y = data()
    optimizer = ours.IRpropPlus(model.parameters(), lr=0.05)
    scaler = torch.amp.GradScaler("cpu")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(10):
            optimizer.zero_grad()
            loss = nn.functional.mse_loss(model(x), y)
            scaler.scale(loss).backward()
            scaler.step(optimizer, loss=loss)
            scaler.update()
    assert equal(model, by_hand(ours.IRpropPlus, 10))


# ------------------------------------------------------------------------------- the loss in other training loops


def noisy_sine() -> tuple[Tensor, Tensor]:
    x = torch.linspace(0, 1, 20, dtype=torch.float64)[:, None]
    return x, torch.sin(6 * x) + 0.1 * torch.cos(40 * x)


def mll_of(botorch: Any, **options: Any) -> Any:
    """The marginal likelihood of a Gaussian process for 20 points."""
    import gpytorch

    model = botorch.models.SingleTaskGP(*noisy_sine(), **options)
    return gpytorch.mlls.ExactMarginalLogLikelihood(model.likelihood, model)


def fit_by_hand(mll: Any, steps: int) -> None:
    """The plain loop that BoTorch and Ax must agree with."""
    mll.train()
    optimizer = ours.IRpropPlus([p for p in mll.parameters() if p.requires_grad], lr=0.05)
    for _ in range(steps):
        optimizer.zero_grad()
        loss = -mll(mll.model(*mll.model.train_inputs), mll.model.train_targets)
        loss.backward()
        optimizer.step(loss=loss)


def fit_with_rprop(mll: Any, steps: int) -> Any:
    """The recipe of the documentation for BoTorch."""
    from botorch.optim.closures import get_loss_closure_with_grads
    from botorch.optim.fit import fit_gpytorch_mll_torch

    mll.train()
    parameters = {name: p for name, p in mll.named_parameters() if p.requires_grad}
    optimizer = ours.IRpropPlus(parameters.values(), lr=0.05)
    evaluate = get_loss_closure_with_grads(mll, parameters)

    def closure() -> Any:
        loss, grads = evaluate()
        optimizer.set_loss(loss)
        return loss, grads

    return fit_gpytorch_mll_torch(
        mll, parameters, closure=closure, optimizer=optimizer, step_limit=steps, stopping_criterion=None
    )


def test_botorch() -> None:
    """Its torch loop calls a bare step(): the closure calls set_loss."""
    botorch = pytest.importorskip("botorch", reason="botorch is not installed")
    mll, expected = mll_of(botorch), mll_of(botorch)
    result = fit_with_rprop(mll, 60)
    fit_by_hand(expected, 60)
    assert equal(mll, expected) and result.step == 60
    theirs = mll_of(botorch)
    botorch.fit_gpytorch_mll(theirs)  # L-BFGS-B
    theirs.train()
    assert result.fval <= -theirs(theirs.model(*theirs.model.train_inputs), theirs.model.train_targets).item() + 0.05


def test_ax() -> None:
    """A model with custom_fit, in a surrogate of Ax."""
    pytest.importorskip("ax", reason="ax is not installed: pip install ax-platform")
    botorch = pytest.importorskip("botorch", reason="botorch is not installed")
    from ax.core.search_space import SearchSpaceDigest
    from ax.generators.torch.botorch_modular.surrogate import Surrogate, SurrogateSpec
    from ax.generators.torch.botorch_modular.utils import ModelConfig
    from botorch.utils.datasets import SupervisedDataset

    fits: list[Any] = []

    class Process(botorch.models.SingleTaskGP):  # type: ignore[misc]
        def custom_fit(self, mll: Any, **options: Any) -> Any:
            fits.append(fit_with_rprop(mll, 60))
            return mll.eval()

    config = ModelConfig(botorch_model_class=Process, input_transform_classes=None, outcome_transform_classes=None)
    surrogate = Surrogate(surrogate_spec=SurrogateSpec(model_configs=[config]))
    x, y = noisy_sine()
    surrogate.fit(
        [SupervisedDataset(X=x, Y=y, feature_names=["x"], outcome_names=["y"])],
        SearchSpaceDigest(feature_names=["x"], bounds=[(0.0, 1.0)]),
    )
    assert [result.step for result in fits] == [60] and isinstance(surrogate.model, Process)
    expected = mll_of(botorch, outcome_transform=None)
    fit_by_hand(expected, 60)
    assert equal(surrogate.model, expected.model)


def test_pyro() -> None:
    """A loop over the ELBO; with a guide that draws nothing (AutoDelta) its values can be compared."""
    pyro = pytest.importorskip("pyro", reason="pyro is not installed: pip install pyro-ppl")
    import pyro.distributions as dist
    from pyro.infer import Trace_ELBO
    from pyro.infer.autoguide import AutoDelta

    data_ = 3 + 0.5 * torch.randn(200, generator=torch.Generator().manual_seed(0))

    def model(x: Tensor) -> None:
        mean = pyro.sample("mean", dist.Normal(0.0, 10.0))
        scale = pyro.sample("scale", dist.LogNormal(0.0, 1.0))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(mean, scale), obs=x)

    pyro.clear_param_store()
    elbo = Trace_ELBO()(model, AutoDelta(model))
    elbo(data_)  # makes the parameters
    optimizer = ours.IRpropPlus(elbo.parameters(), lr=0.1)
    losses = []
    for _ in range(80):
        optimizer.zero_grad()
        loss = elbo(data_)
        loss.backward()
        optimizer.step(loss=loss)
        losses.append(loss.item())
    assert elbo(data_).item() == elbo(data_).item()  # nothing is drawn
    found = elbo.guide.median()
    assert losses[-1] < losses[0] and abs(found["mean"] - data_.mean()) < 0.01
    assert abs(found["scale"] - data_.std()) < 0.02


def test_higher() -> None:
    """Its differentiable loop: a twin registered with register_optim, which gives the loss of step(loss) on."""
    higher = pytest.importorskip("higher", reason="higher is not installed")

    class DifferentiableIRpropPlus(higher.optim.DifferentiableOptimizer):  # type: ignore[misc]
        def __init__(self, other: Any, *args: Any, **kwargs: Any) -> None:
            super().__init__(other, *args, **kwargs)
            self.rule = copy.deepcopy(other)

        def step(self, loss: Tensor, *args: Any, **kwargs: Any) -> Any:
            self.rule.set_loss(loss.detach())
            return super().step(loss, *args, **kwargs)

        def _update(self, grouped_grads: Any, **kwargs: Any) -> None:
            groups = [*zip(self.rule.param_groups, self.param_groups, grouped_grads, strict=True)]
            for mine, group, grads in groups:
                for p, w, g in zip(mine["params"], group["params"], grads, strict=True):
                    p.data, p.grad = w.detach().clone(), None if g is None else g.detach()
            self.rule.step()
            for mine, group, _ in groups:
                for i, (p, w) in enumerate(zip(mine["params"], group["params"], strict=True)):
                    group["params"][i] = w - w.detach() + p.detach()  # the value of p, the gradient of w

    higher.register_optim(ours.IRpropPlus, DifferentiableIRpropPlus)
    x, y = data()
    model = net()
    optimizer = ours.IRpropPlus(model.parameters(), lr=0.05)
    with higher.innerloop_ctx(model, optimizer) as (functional, inner):
        for _ in range(10):
            inner.step(nn.functional.mse_loss(functional(x), y))
        expected = by_hand(ours.IRpropPlus, 10)
        fast = [p.detach() for p in functional.parameters()]
        assert all(torch.equal(bits(p), bits(q)) for p, q in zip(fast, expected.parameters(), strict=True))
        outer = nn.functional.mse_loss(functional(x), y)
        grads = torch.autograd.grad(outer, functional.parameters(time=0))
    final = nn.functional.mse_loss(expected(x), y)
    assert all(map(torch.equal, grads, torch.autograd.grad(final, expected.parameters())))
    assert equal(model, net())  # the model itself has not moved
