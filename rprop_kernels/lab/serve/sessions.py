"""Trainings in the background of the page, independent of its user interface.

A :class:`Session` belongs to one page. Its trainings run in a thread and write only to their own
:class:`Runner`, which the page polls, so that display does not slow the training. Runners that start together take
turns epoch by epoch.
"""

import itertools
import math
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any, Final, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from ..config import Config
from ..datasets import CLASSES, Dataset
from ..errors import LabError
from ..models import SavedModel
from ..optimizers import DROP_IN, PEER, TECHNIQUES, Technique
from ..training import Epoch, Run, evaluate, hold_out, tensors

Array: TypeAlias = NDArray[Any]
Weights: TypeAlias = tuple[Array, ...]

MOMENTUM: Final = 0.9
MAX_EPOCHS: Final = 5000
MAX_HIDDEN: Final = 1024
DIVERGED_LOSS: Final = 10 * math.log(CLASSES)
"""Final training loss above which a training counts as diverged: ten times that of uniform guessing."""
MAX_RUNS: Final = 6
"""Number of runs in a session; the oldest is dropped first."""


def _adam(params: Iterable[torch.Tensor], lr: float, *_: object) -> torch.optim.Optimizer:
    return torch.optim.Adam(params, lr)


def _sgd(params: Iterable[torch.Tensor], lr: float, *_: object) -> torch.optim.Optimizer:
    return torch.optim.SGD(params, lr, momentum=MOMENTUM)


@dataclass(frozen=True, slots=True)
class Candidate:
    """A technique with one sentence on it, its usual and its largest learning rate."""

    technique: Technique
    sentence: str
    usual_rate: float
    largest_rate: float


SENTENCES: Final = {
    "rprop-": "Each weight has its own step size, longer while its gradient keeps its sign, half after a change.",
    "rprop+": "As Rprop-, but a change of sign also takes back the weight's last move.",
    "irprop-": "As Rprop-, but after a change of sign the weight waits for one step.",
    "irprop+": "As Rprop+, but it takes the last move back only where the loss has increased.",
    DROP_IN: "The same results as torch.optim.Rprop, bit for bit, in less time.",
    PEER: "PyTorch's own Rprop, which follows the rule iRprop-.",
    "adam": "The learning rate is divided by a running mean of each gradient's size; steps follow a mean of gradients.",
    "sgd": "All weights follow the gradient with one learning rate; momentum carries them on.",
}
"""One sentence on each technique, by name."""

CANDIDATES: Final = {
    candidate.technique.name: candidate
    for candidate in (
        *(Candidate(technique, SENTENCES[technique.name], 0.01, Config().step_sizes[1]) for technique in TECHNIQUES),
        Candidate(Technique("adam", "Adam", False, (), _adam), SENTENCES["adam"], 0.01, 1e9),
        Candidate(Technique("sgd", f"SGD, momentum {MOMENTUM}", False, (), _sgd), SENTENCES["sgd"], 0.1, 1e9),
    )
}
"""Techniques on offer, by name."""
SAVED: Final = "saved model"
"""In the place of a technique: a model that was trained elsewhere."""
RACE: Final = ("irprop+", "adam", "sgd")
"""Techniques of the comparison that one button starts."""


@dataclass(frozen=True, slots=True)
class Settings:
    """Settings of one training.

    Attributes:
        technique: a key of ``ENTRANTS``.
        learning_rate: of its optimizer; the first step size in the Rprop family.
        epochs: how many.
        batch: images of a batch; None: all of them.
        hidden: units of the hidden layer.
    """

    technique: str = RACE[0]
    learning_rate: float = 0.01
    epochs: int = 50
    batch: int | None = None
    hidden: int = 128

    @property
    def label(self) -> str:
        """Name of the technique for display."""
        return SAVED if self.technique == SAVED else CANDIDATES[self.technique].technique.label


def read_settings(texts: Mapping[str, str], images: int) -> Settings:
    """Parse the settings in the fields of a page.

    Args:
        texts: technique, learning_rate, epochs, batch, hidden.
        images: number of training images.

    Raises:
        LabError: a field is invalid; the message names it, its content and the valid values.
    """
    if texts["technique"] not in CANDIDATES:
        raise LabError(f"There is no technique {texts['technique']!r}. There is: {', '.join(CANDIDATES)}.")
    rate = texts["learning_rate"].strip()
    try:
        learning_rate = float(rate)
    except ValueError:
        learning_rate = math.nan
    largest = CANDIDATES[texts["technique"]].largest_rate
    if not 0 < learning_rate <= largest:
        raise LabError(f"Learning rate is {rate!r}: give a number above 0 and up to {largest:g}, such as 0.01.")
    batch = texts["batch"].strip()
    return Settings(
        texts["technique"],
        learning_rate,
        _whole("Epochs", texts["epochs"], MAX_EPOCHS),
        None if batch.lower() == "all" else _whole("Batch size", batch, images, ", or 'all'"),
        _whole("Hidden units", texts["hidden"], MAX_HIDDEN),
    )


def advice(settings: Settings, images: int) -> str:
    """Return a warning about unsuitable settings, empty if there is none."""
    batch = settings.batch
    if batch is None or 4 * batch > images or settings.technique not in {one.name for one in TECHNIQUES}:
        return ""
    return (
        f"{settings.label} compares the signs of the gradients of two steps. In batches of {batch} they flip by chance "
        "and the step sizes go astray: give it all images at once."
    )


def _whole(name: str, text: str, limit: int, more: str = "") -> int:
    text = text.strip()
    if not (text.isascii() and text.isdigit() and len(text) < 10 and 1 <= int(text) <= limit):
        raise LabError(f"{name} is {text!r}: give a whole number from 1 to {limit}{more}.")
    return int(text)


class TrainingSet:
    """A data set, converted once for all sessions.

    Attributes:
        side, pixel_max: of an image.
        model: a saved one to show, or None.
        images: number of training images.

    Raises:
        LabError: its images are not square, so that drawings cannot be converted to their form.
    """

    def __init__(self, dataset: Dataset, model: SavedModel | None = None) -> None:
        self.side = math.isqrt(dataset.pixels)
        if self.side**2 != dataset.pixels:
            raise LabError(
                f"{dataset.origin} has images of {dataset.pixels} pixels, which make no square, so that no "
                "drawing fits them. Choose other data with --data and --data-dir."
            )
        if model is not None and (model.network.sizes[0], model.network.sizes[-1]) != (dataset.pixels, dataset.classes):
            raise LabError(
                f"The model takes {model.network.sizes[0]} pixels and knows {model.network.sizes[-1]} classes, but "
                f"{dataset.origin} has {dataset.pixels} and {dataset.classes}. Name its data with --data."
            )
        self.dataset, self.pixel_max, self.model = dataset, dataset.pixel_max, model
        self.config = Config().for_data(dataset)
        learn, self.test = tensors(dataset)
        self.train, self.evaluation = hold_out(learn, self.config, self.config.seed)
        self.images = len(self.train[1])
        self.run(Settings())  # imports the optimizers before the page is opened

    def run(self, settings: Settings) -> Run:
        """Create a training that has not begun; equal settings start from equal weights."""
        config = Config(
            learning_rate=settings.learning_rate,
            epochs=settings.epochs,
            train_batch_size=settings.batch or self.images,
            eval_batch_size=self.config.eval_batch_size,
            hidden_units=settings.hidden,
        )
        return Run(CANDIDATES[settings.technique].technique, self.train, self.evaluation, config, config.seed)


@dataclass(slots=True)
class Runner:
    """One training as visible from outside its thread.

    Attributes:
        number: from 1, in its session.
        state: waiting, training, and at the end finished, stopped, diverged or failed.
        history: an entry an epoch; entries are only appended.
        progress: share of all epochs, 0 .. 1, batches of an unfinished one counted.
        seconds: time in its own training and evaluation.
        test_accuracy: on unseen images, of the model of lowest evaluation loss; at the end.
        error_text: description of a failure.
        weights: of the network, a copy: the last while it trains, those of lowest evaluation loss at the end.
        model: a saved one, in place of a training.
    """

    number: int
    settings: Settings
    state: str = "waiting"
    history: list[Epoch] = field(default_factory=list)
    progress: float = 0.0
    seconds: float = 0.0
    test_accuracy: float = math.nan
    error_text: str = ""
    weights: Weights | None = None
    model: SavedModel | None = None

    @property
    def is_over(self) -> bool:
        """Whether the training has ended."""
        return self.state not in ("waiting", "training")

    @property
    def accuracy(self) -> float:
        """Accuracy on the evaluation images after the last epoch; NaN before the first."""
        return self.history[-1].eval_accuracy if self.history else math.nan

    def probabilities(self, inputs: Array) -> Array | None:
        """Compute the probabilities of the classes for an input image; None before the first weights exist.

        Args:
            inputs: shape (pixels,), in [-1, 1].
        """
        if self.model is not None:
            chosen: Array = self.model.predict(inputs[None] + 1, 2)[0]
            return chosen
        if self.weights is None:
            return None
        first, first_bias, second, second_bias = self.weights
        output = second @ np.maximum(first @ inputs + first_bias, 0) + second_bias
        likely: Array = np.exp(output - output.max())
        likely /= likely.sum()
        return likely


class _Stopped(Exception):
    pass


class _TrainingThread:
    """A thread in which runners take turns."""

    SNAPSHOT: Final = 0.3
    """Seconds between copies of the weights."""

    def __init__(
        self, training_set: TrainingSet, runners: Sequence[Runner], previous: "_TrainingThread | None"
    ) -> None:
        self.stop = threading.Event()
        self._training_set, self._runners, self._previous = training_set, runners, previous
        # A daemon: a training must not keep the server from exiting.
        self.thread = threading.Thread(target=self._main, name="rprop-lab race", daemon=True)
        self.thread.start()

    def _main(self) -> None:
        if self._previous is not None:
            self._previous.thread.join()  # two at once would distort the times of both
            self._previous = None
        workers = [_Worker(self._training_set, runner, self.stop) for runner in self._runners]
        for worker in workers:
            worker.run_guarded(worker.begin)
        turn = 0
        while racing := [worker for worker in workers if not worker.runner.is_over]:
            for worker in racing[turn % len(racing) :] + racing[: turn % len(racing)]:
                worker.run_guarded(worker.epoch)
            turn += 1


class _Worker:
    """The thread's part of a runner: its training and its stop event."""

    def __init__(self, training_set: TrainingSet, runner: Runner, stop: threading.Event) -> None:
        self.runner, self._training_set, self._stop = runner, training_set, stop
        self._copied = -math.inf
        self._batch = 0
        self._run: Run | None = None

    def run_guarded(self, act: Callable[[], None]) -> None:
        """Call a function and record every end of the training in the runner; nothing is raised."""
        try:
            try:
                if self._stop.is_set():
                    raise _Stopped
                act()
            except _Stopped:
                done = f"{len(self.runner.history)} of {self.runner.settings.epochs}"
                self._end("stopped", f"stopped after {done} epochs")
        except Exception as error:  # anything that torch raises, such as out of memory
            self.runner.error_text = f"failed: {str(error) or type(error).__name__}"
            self.runner.state = "failed"

    def begin(self) -> None:
        self._run = self._training_set.run(self.runner.settings)

    def epoch(self) -> None:
        runner, run = self.runner, self._run
        assert run is not None
        runner.state = "training"
        self._batch = 0
        run.epoch(self._before_batch)
        now = run.history[-1]
        runner.history.append(now)
        runner.seconds = run.seconds
        runner.progress = len(runner.history) / runner.settings.epochs
        if not (math.isfinite(now.train_loss) and math.isfinite(now.eval_loss)):
            self._end("diverged", f"diverged at epoch {len(runner.history)}: the loss is no longer finite")
        elif len(runner.history) == runner.settings.epochs:
            diverged = list(
                itertools.takewhile(lambda epoch: epoch.train_loss > DIVERGED_LOSS, reversed(runner.history))
            )
            since = (
                f"diverged at epoch {runner.settings.epochs - len(diverged) + 1}: the loss ends at {now.train_loss:.3g}"
            )
            self._end(*(("diverged", since) if diverged else ("finished", "")))
        elif perf_counter() - self._copied > _TrainingThread.SNAPSHOT:
            runner.weights = _weights(run.network.state_dict())
            self._copied = perf_counter()

    def _before_batch(self) -> None:
        if self._stop.is_set():
            raise _Stopped
        size = self.runner.settings.batch or self._training_set.images
        done = len(self.runner.history) + self._batch * size / self._training_set.images
        self.runner.progress = done / self.runner.settings.epochs
        self._batch += 1

    def _end(self, state: str, error_text: str) -> None:
        runner, run = self.runner, self._run
        if run is not None and run.best_epoch:
            best = run.best_network()
            runner.weights = _weights(best.state_dict())
            runner.test_accuracy = evaluate(
                best, self._training_set.test, run.config.criterion, len(self._training_set.test[1])
            )[1]
        runner.error_text = error_text
        runner.state = state  # last, so that readers of the state find everything else complete


def _weights(state: Mapping[str, torch.Tensor]) -> Weights:
    first, first_bias, second, second_bias = (tensor.numpy().copy() for tensor in state.values())
    return first, first_bias, second, second_bias


class Session:
    """The runs of one page, independent of other sessions.

    Attributes:
        training_set: the data of all runs.
    """

    def __init__(self, training_set: TrainingSet) -> None:
        self.training_set = training_set
        self._runners: tuple[Runner, ...] = ()  # replaced, never mutated
        self._count = 0
        saved, dataset = training_set.model, training_set.dataset
        if saved is not None:
            settings = Settings(SAVED, epochs=int(saved.figures.get("epoch", 0)), hidden=sum(saved.network.sizes[1:-1]))
            shown = Runner(1, settings, "saved", weights=(saved.network.theta,), model=saved)
            shown.test_accuracy = float(
                np.mean(saved.predict(dataset.test_images, dataset.pixel_max).argmax(1) == dataset.test_labels)
            )
            self._count, self._runners = 1, (shown,)
        self._training: _TrainingThread | None = None

    @property
    def runners(self) -> tuple[Runner, ...]:
        """The last ``MAX_RUNS``, oldest first, without those that were stopped before their first epoch ended."""
        return tuple(one for one in self._runners if one.history or one.state != "stopped")

    @property
    def busy(self) -> bool:
        """Whether a training is running or waiting."""
        return any(not runner.is_over for runner in self.runners)

    def start(self, *settings: Settings) -> None:
        """Train these settings in turns, after stopping the current training."""
        self.stop()
        fresh = [Runner(self._count + index, one) for index, one in enumerate(settings, 1)]
        self._count += len(fresh)
        self._runners = (*self.runners, *fresh)[-MAX_RUNS:]
        self._training = _TrainingThread(self.training_set, fresh, self._training)

    def stop(self, wait: float = 0.0) -> None:
        """Stop the current training before its next batch; ``wait`` at most so many seconds for its end."""
        if self._training is not None:
            self._training.stop.set()
            if wait:
                self._training.thread.join(wait)

    def clear(self) -> None:
        """Remove all runs that have ended."""
        self._runners = tuple(runner for runner in self.runners if not runner.is_over)

    def model(self, number: int | None = None) -> Runner | None:
        """Return the run of that number if it has weights, else the newest run that has, else None."""
        able = [runner for runner in self.runners if runner.weights is not None]
        chosen = [runner for runner in able if runner.number == number]
        found = chosen or able
        return found[-1] if found else None


def race_settings(like: Settings) -> tuple[Settings, ...]:
    """Return the settings of ``RACE``: each its usual learning rate, everything else as given."""
    return tuple(Settings(name, CANDIDATES[name].usual_rate, like.epochs, like.batch, like.hidden) for name in RACE)


def describe_winner(raced: Sequence[Runner]) -> str:
    """Name the winners of a race, by accuracy on unseen images and by time; empty if fewer than two finished."""
    finished = [runner for runner in raced if runner.state == "finished" and math.isfinite(runner.test_accuracy)]
    if len(finished) < 2:
        return ""
    best = max(runner.test_accuracy for runner in finished)
    winners = " and ".join(runner.settings.label for runner in finished if runner.test_accuracy == best)
    others = ", ".join(
        f"{runner.settings.label} {runner.test_accuracy:.4f}"
        for runner in sorted(finished, key=lambda runner: -runner.test_accuracy)
        if runner.test_accuracy < best
    )
    fastest = min(finished, key=lambda runner: runner.seconds)
    return (
        f"Winner on unseen images: {winners}, {best:.4f}{f' ({others})' if others else ''}. "
        f"Fastest: {fastest.settings.label}, {fastest.seconds:.2f} s."
    )


def curve(values: Sequence[float], limit: int = 200) -> list[list[float | None]]:
    """Return ``[epoch, value]`` pairs for a plot, about ``limit`` at most and always the last; None is a gap."""
    count = len(values)
    stride = max(1, math.ceil(count / limit))
    epochs = sorted({1, *range(stride, count, stride), count}) if count else []
    return [[epoch, value if math.isfinite(value := values[epoch - 1]) else None] for epoch in epochs]
