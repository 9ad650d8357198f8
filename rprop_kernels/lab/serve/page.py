"""The page of ``rprop-lab serve``: draw a digit, see its prediction, compare techniques in training.

It uses NiceGUI: all browser files are inside the package, so that the page works offline; the server pushes changes;
each tab has its own Python objects; ECharts and a custom element (``pad.js``, the drawing area) integrate. Alternatives
considered: Streamlit (reruns the script on each change, unsuitable for live drawing), Gradio (loads fonts and figures
from other hosts by default, and its sketch pad sends whole images), Dash (polls for live curves, no drawing by
keyboard) and Panel (loads Bokeh from other hosts by default).

The page is served on 127.0.0.1 only, and only to requests with its own host and origin: a page of another site in the
same browser cannot reach it.
"""

import errno
import html
import math
import os
import socket
import time
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from importlib.resources import files
from types import FrameType
from typing import Any, Final
from urllib.parse import urlsplit
from weakref import WeakSet

import uvicorn
from fastapi import FastAPI
from nicegui import events, ui
from starlette.types import ASGIApp, Receive, Scope, Send

from ..datasets import CLASSES
from ..errors import LabError
from .charts import Chart, colour_number
from .drawing import rasterise, to_form
from .landscape_tab import LandscapeTab
from .sessions import (
    CANDIDATES,
    Runner,
    Session,
    Settings,
    TrainingSet,
    advice,
    describe_winner,
    race_settings,
    read_settings,
)

HOST: Final = "127.0.0.1"
DRAWING_SECONDS: Final = 0.05
RACE_SECONDS: Final = 0.3
"""Seconds between updates of the page; trainings do not wait for it."""
SETTLED_SECONDS: Final = 0.7
"""Delay of a new training after the last change of a slider."""
MAX_POINTS: Final = 20_000
"""Points of one drawing; later ones are ignored."""

RATES: Final = (*(f"{digit * 10.0**power:g}" for power in range(-4, 0) for digit in (1, 2, 5)), "1")
EPOCHS: Final = ("5", "10", "20", "50", "100", "200", "500", "1000", "2000", "5000")
HIDDEN: Final = tuple(str(2**power) for power in range(2, 11))

WATCH_SCHEME: Final = """
if (!window.scheme) {
  window.scheme = matchMedia("(prefers-color-scheme: dark)");
  scheme.addEventListener("change", () => emitEvent("scheme", scheme.matches));
}
emitEvent("scheme", scheme.matches);
"""
"""JavaScript that reports the system's setting, light or dark: the curves are drawn with colours of the server."""

LINES: Final = "full line: evaluation images; broken line: training images"
CSS: Final = files(__package__).joinpath("page.css").read_text(encoding="utf-8")


class Pad(ui.element, component="pad.js"):
    """The drawing area, see ``pad.js``."""


class Drawing:
    """The strokes that a page has sent; invalid messages are ignored."""

    def __init__(self) -> None:
        self.strokes: dict[int, list[tuple[float, float]]] = {}
        self._points = 0

    def add(self, message: Any) -> bool:
        """Process a message of ``pad.js``; return False if it is invalid or exceeds the limit."""
        try:
            number, points = int(message["stroke"]), [(float(x), float(y)) for x, y in message["points"]]
        except (KeyError, TypeError, ValueError, OverflowError):
            return False
        if self._points + len(points) > MAX_POINTS or not all(0 <= x <= 1 and 0 <= y <= 1 for x, y in points):
            return False
        self._points += len(points)
        self.strokes.setdefault(number, []).extend(points)
        return True

    def clear(self) -> None:
        """Remove all strokes."""
        self.strokes.clear()
        self._points = 0


class Setting:
    """A slider over usual values and a field for any value, kept in step."""

    def __init__(self, name: str, choices: Sequence[str], value: str, changed: Callable[[], None]) -> None:
        self._choices, self._changed, self._applied = choices, changed, value
        with ui.element("div").classes("setting"):
            ui.label(name).props("aria-hidden=true")
            # The browser's own slider: Quasar's puts the label on another element than the focus.
            self._slider = ui.element("input").props(f'type=range min=0 max={len(choices) - 1} aria-label="{name}"')
            self._slider.on("input", self._slider_moved, js_handler="event => emit(event.target.value)", throttle=0.05)
            self._field = ui.input(value=value).props(f'dense outlined aria-label="{name}, exact value"')
            self._field.on("blur", self._field_changed).on("keydown.enter", self._field_changed)
        self._move_slider()

    @property
    def text(self) -> str:
        """Content of the field."""
        return str(self._field.value)

    @text.setter
    def text(self, text: str) -> None:
        self._applied = self._field.value = text
        self._move_slider()

    def _slider_moved(self, event: events.GenericEventArguments) -> None:
        with suppress(ValueError, IndexError, TypeError):
            self.text = self._choices[int(event.args)]
            self._changed()

    def _field_changed(self) -> None:
        if self.text != self._applied:
            self.text = self.text
            self._changed()

    def _move_slider(self) -> None:
        if (index := self._nearest(self._applied)) is not None:
            self._slider.props["value"] = index
        self._slider.props["aria-valuetext"] = self._applied
        self._slider.update()

    def _nearest(self, text: str) -> int | None:
        """Return the index of the choice that is nearest by ratio; None for a text that is not a positive number."""
        if text in self._choices:
            return self._choices.index(text)
        try:
            value = math.log(float(text))
        except (ValueError, OverflowError):
            return None
        numbers = [math.log(float(choice)) for choice in self._choices if choice != "all"]
        return min(range(len(numbers)), key=lambda index: abs(numbers[index] - value))


class DrawingCard:
    """The half of the page with the drawing area and the prediction."""

    def __init__(self, session: Session) -> None:
        self._session, self._drawing = session, Drawing()
        self._inputs: Any = None
        self._drawn = False
        self._predicted: tuple[Any, Any] | None = None  # image and weights
        with ui.element("section").classes("card").props("aria-labelledby=draw-title"):
            _heading("Draw a digit", "draw-title")
            with ui.element("div").classes("draw"):
                with ui.element("div"):
                    self._pad = Pad().on("ink", self._ink).on("wipe", self._wiped)
                    ui.button("Clear the drawing", on_click=self._clear).props("outline no-caps")
                with ui.element("div"):
                    self._prediction_area()
                    self._bars = _Bars(session.training_set.dataset.classes)
                    self._choice = ui.select({0: "the newest run"}, value=0, label="Predicted by")
                    self._choice.props("dense outlined").style("margin-top: .7rem").on_value_change(self.refresh)
        ui.timer(DRAWING_SECONDS, self.refresh)

    def _prediction_area(self) -> None:
        with ui.element("div").classes("prediction"):
            self._digit = ui.label("?").classes("digit").props("role=status aria-label=Prediction")
            self._image = ui.element("img").classes("network-input")
            self._image.props('alt="The drawing as the network is given it"').props(f'src="{_png(None)}"')
            self._words = ui.label("").classes("words")

    def _ink(self, event: events.GenericEventArguments) -> None:
        self._drawn |= self._drawing.add(event.args)

    def _wiped(self) -> None:
        self._drawing.clear()
        self._drawn = True

    def _clear(self) -> None:
        self._pad.run_method("wipe")

    def choices(self) -> None:
        """Offer the runs that can predict."""
        able = [runner for runner in self._session.runners if runner.weights is not None]
        options = {0: "the newest run"} | {runner.number: f"run {runner.number}, {_name(runner)}" for runner in able}
        if options != self._choice.options:
            self._choice.set_options(options, value=self._choice.value if self._choice.value in options else 0)

    def refresh(self) -> None:
        """Predict again if the drawing or the network has changed."""
        training_set = self._session.training_set
        if self._drawn:
            self._drawn = False
            ink = rasterise(list(self._drawing.strokes.values()))
            image = to_form(ink, training_set.side, training_set.pixel_max)
            self._inputs = training_set.dataset.scaled(image) if self._drawing.strokes else None
            grey = image / training_set.pixel_max if self._drawing.strokes else None
            self._image.props(f'src="{_png(grey, training_set.side)}"')
        runner = self._session.model(self._choice.value or None)
        weights = None if runner is None else runner.weights
        if self._predicted is not None and self._predicted[0] is self._inputs and self._predicted[1] is weights:
            return
        self._predicted = self._inputs, weights
        shares = None if runner is None or self._inputs is None else runner.probabilities(self._inputs)
        self._bars.show(shares)
        if runner is None:
            self._show_prediction("?", "nothing has been learned yet")
        elif shares is None:
            self._show_prediction("?", f"run {runner.number}, {_name(runner)}, waits for a drawing")
        else:
            best = int(shares.argmax())
            self._show_prediction(
                str(best), f"{_percent(shares[best])} sure, says run {runner.number}, {_name(runner)}"
            )

    def _show_prediction(self, digit: str, words: str) -> None:
        self._digit.set_text(digit)
        self._words.set_text(words)


class _Bars:
    """Probabilities: of the ten digits, or the ten greatest where there are more classes."""

    def __init__(self, classes: int) -> None:
        self._all = classes == CLASSES
        self._rows = []
        which = "Probability of each digit" if self._all else "The ten most probable classes"
        with ui.element("ul").classes("bars").props(f'aria-label="{which}"'):
            for digit in range(CLASSES):
                with ui.element("li") as row:
                    name = ui.label(str(digit) if self._all else "")
                    with ui.element("div").classes("bar").props("aria-hidden=true"):
                        fill = ui.element("div").classes("fill")
                    self._rows.append((row, name, fill, ui.label("").classes("share")))

    def show(self, shares: Any) -> None:
        order = range(CLASSES) if shares is None or self._all else (-shares).argsort()[:CLASSES].tolist()
        best = None if shares is None else int(shares.argmax())
        for label, (row, name, fill, text) in zip(order, self._rows, strict=True):
            share = 0.0 if shares is None else float(shares[label])
            name.set_text("" if shares is None and not self._all else str(label))
            fill.style(f"width: {100 * share:.1f}%")
            text.set_text("" if shares is None else _percent(share))
            row.classes(**{"add" if label == best else "remove": "first"})


class TrainingCard:
    """The half of the page for training: settings, curves, table."""

    def __init__(self, session: Session, changed: Callable[[], None]) -> None:
        self._session, self._models_changed = session, changed
        self._due = math.inf
        self._displayed: object = None
        self._was_busy = False
        self._raced: list[int] = []
        with ui.element("section").classes("card").props("aria-labelledby=race-title"):
            _heading("Train and race", "race-title")
            self._settings()
        with ui.element("section").classes("card").props("aria-labelledby=loss-title"):
            _heading("Loss", "loss-title")
            _caption(LINES)
            self._loss = Chart("loss")
        with ui.element("section").classes("card").props("aria-labelledby=accuracy-title"):
            _heading("Accuracy", "accuracy-title")
            _caption(LINES)
            self._accuracy = Chart("accuracy")
        with ui.element("section").classes("card wide").props("aria-labelledby=runs-title"):
            with ui.element("div").classes("heading"):
                _heading("The last runs", "runs-title")
                ui.button("Clear the runs", on_click=self._clear).props("outline no-caps")
            self._table = ui.html("", sanitize=False).classes("scroll")
            self._table.props('tabindex=0 role=region aria-labelledby="runs-title"')
        ui.timer(RACE_SECONDS, self.refresh)
        (self.train if session.training_set.model is None else self.refresh)()  # a saved model is shown alone

    def _settings(self) -> None:
        images, usual = self._session.training_set.images, Settings()
        batches = (*(str(2**power) for power in range(3, 20) if 2**power < images), "all")
        labels = {name: candidate.technique.label for name, candidate in CANDIDATES.items()}
        self._technique = ui.select(labels, value=usual.technique, label="Technique")
        self._technique.props("dense outlined").style("margin-bottom: .6rem").on_value_change(self._technique_changed)
        self._sentence = ui.label(CANDIDATES[usual.technique].sentence).classes("small sentence")
        rate = f"{usual.learning_rate:g}"
        self._rate = Setting("Learning rate", RATES, rate, self._schedule)
        self._epochs = Setting("Epochs", EPOCHS, str(usual.epochs), self._schedule)
        self._batch = Setting("Batch size", batches, "all", self._schedule)
        self._hidden = Setting("Hidden units", HIDDEN, str(usual.hidden), self._schedule)
        self._usual = rate
        with ui.element("div").classes("buttons"):
            self._train = ui.button("Train", on_click=self.train).props("unelevated no-caps")
            ui.button("Race Rprop, Adam and SGD", on_click=self.race).props("outline no-caps")
            self._stop = ui.button("Stop", on_click=lambda: self._session.stop())
            self._stop.props("outline no-caps color=negative")
            self._automatic = ui.switch("Retrain on every change", value=True)
        self._error = ui.label("").classes("trouble").props("role=alert")
        self._advice = ui.label("").classes("advice").props("role=status")
        self._progress = ui.linear_progress(0, show_value=False).props("instant-feedback aria-label=Progress")
        self._state = ui.label("").classes("state")
        self._announcement = ui.label("").classes("state").props("role=status")

    def _technique_changed(self) -> None:
        self._sentence.set_text(CANDIDATES[self._technique.value].sentence)
        usual = f"{CANDIDATES[self._technique.value].usual_rate:g}"
        if self._rate.text == self._usual:  # a rate chosen by the user stays
            self._rate.text = usual
        self._usual = usual
        self._schedule()

    def _schedule(self) -> None:
        if self._read() is not None and self._automatic.value:
            self._due = time.monotonic() + SETTLED_SECONDS

    def _read(self) -> Settings | None:
        fields = {
            "technique": self._technique.value, "learning_rate": self._rate.text, "epochs": self._epochs.text,
            "batch": self._batch.text, "hidden": self._hidden.text,
        }  # fmt: skip
        self._due = math.inf
        try:
            settings = read_settings(fields, self._session.training_set.images)
        except LabError as error:
            self._error.set_text(str(error))
            return None
        self._error.set_text("")
        self._show_advice(settings)
        return settings

    def _show_advice(self, *settings: Settings) -> None:
        hints = (advice(one, self._session.training_set.images) for one in settings)
        self._advice.set_text(next(filter(None, hints), ""))

    def train(self) -> None:
        """Train with the settings in the fields."""
        if (settings := self._read()) is not None:
            self._raced = []
            self._session.start(settings)
            self.refresh()

    def race(self) -> None:
        """Train Rprop, Adam and SGD at the same time."""
        if (settings := self._read()) is not None:
            racing = race_settings(settings)
            self._show_advice(*racing)
            self._raced = []
            self._session.start(*racing)
            self.refresh()

    def _clear(self) -> None:
        self._session.clear()
        self.refresh()

    def refresh(self) -> None:
        """Show changes since the last call."""
        if time.monotonic() > self._due:
            self.train()
        runners, busy = self._session.runners, self._session.busy
        displayed = tuple((runner.number, runner.state, runner.progress) for runner in runners)
        if displayed == self._displayed:
            return
        self._displayed = displayed
        self._stop.set_enabled(busy)
        racing = [runner for runner in runners if not runner.is_over]
        self._progress.set_value(min((runner.progress for runner in racing), default=0.0))
        self._state.set_text("; ".join(map(_progress_text, racing)))
        if self._was_busy and not busy:  # announced once, for screen readers
            raced = [runner for runner in runners if runner.number in self._raced]
            results = "; ".join(map(_result_text, raced))
            self._announcement.set_text(describe_winner(raced) or results)
        elif busy:
            self._announcement.set_text("")
            self._raced += [runner.number for runner in racing if runner.number not in self._raced]
        self._was_busy = busy
        self._table.set_content(_table(runners))
        self._loss.draw(runners)
        self._accuracy.draw(runners)
        self._models_changed()

    def set_dark(self, dark: bool) -> None:
        """Draw the curves for a dark or a light background."""
        for chart in (self._loss, self._accuracy):
            chart.set_dark(dark)
        self._displayed = None
        self.refresh()


def _heading(text: str, name: str) -> None:
    ui.html(text, sanitize=False, tag="h2").props(f"id={name}")


def _caption(text: str) -> None:
    ui.label(text).classes("small")


def _name(runner: Runner) -> str:
    return runner.settings.label


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def _progress_text(runner: Runner) -> str:
    return f"run {runner.number}, {_name(runner)}: epoch {len(runner.history)} of {runner.settings.epochs}"


def _result_text(runner: Runner) -> str:
    what = runner.error_text or f"accuracy {runner.accuracy:.3f} in {runner.seconds:.1f} s"
    return f"run {runner.number}, {_name(runner)}: {what}"


def _table(runners: Sequence[Runner]) -> str:
    words = ("run", "technique")
    # Results first: on a phone the other columns need scrolling.
    heading = (*words, "accuracy", "unseen", "seconds", "epochs", "learning rate", "batch", "hidden", "")
    cells = "".join(f'<th scope="col"{_text_class(name in (*words, ""))}>{name}</th>' for name in heading)
    rows = "".join(map(_row, reversed(runners))) or f'<tr><td class="words" colspan="{len(heading)}">none</td></tr>'
    return (
        f'<table class="runs"><thead><tr>{cells}</tr></thead><tbody>{rows}</tbody></table>'
        '<p class="pad-help">accuracy: on the evaluation images after the last epoch; unseen: on the test images, '
        "of the model of lowest evaluation loss</p>"
    )


def _row(runner: Runner) -> str:
    settings = runner.settings
    texts = (
        runner.number, _name(runner), _share(runner.accuracy), _share(runner.test_accuracy), f"{runner.seconds:.2f}",
        f"{len(runner.history)} / {settings.epochs}", f"{settings.learning_rate:g}", settings.batch or "all",
        settings.hidden, runner.error_text or runner.state,
    )  # fmt: skip
    swatch = f'<i style="background: var(--run-{colour_number(runner)})"></i>'
    cells = "".join(
        f"<td{_text_class(column in (0, 1, 9))}>{'' if column else swatch}{html.escape(str(text))}</td>"
        for column, text in enumerate(texts)
    )
    return f"<tr>{cells}</tr>"


def _text_class(words: bool) -> str:
    return ' class="words"' if words else ""


def _share(value: float) -> str:
    return f"{value:.4f}" if math.isfinite(value) else "–"


def _png(grey: Any, side: int = 1) -> str:
    """Encode an image 0 .. 1 as a data URL, ink black on white; None gives an empty image."""
    import base64
    import struct
    import zlib

    import numpy as np

    levels = np.full((side, side), 255) if grey is None else np.round(255 * (1 - grey)).reshape(side, side)
    rows = np.pad(levels, ((0, 0), (1, 0))).astype(np.uint8).tobytes()  # each row begins with its filter: none

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    image = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows, 1)) + chunk(b"IEND", b"")
    return "data:image/png;base64," + base64.b64encode(b"\x89PNG\r\n\x1a\n" + image).decode()


class SameOriginOnly:
    """Middleware that rejects requests with another host or origin.

    Without it any page in the same browser could reach this server, through a name that resolves to 127.0.0.1 (DNS
    rebinding) or a WebSocket, which browsers do not restrict.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket") or self._is_own_address(dict(scope["headers"])):
            await self._app(scope, receive, send)
        elif scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": 1008})
        else:
            await send({"type": "http.response.start", "status": 403, "headers": [(b"content-type", b"text/plain")]})
            await send({"type": "http.response.body", "body": b"This page is served to its own address only.\n"})

    @staticmethod
    def _is_own_address(headers: dict[bytes, bytes]) -> bool:
        host = headers.get(b"host", b"").decode("latin-1")
        origin = headers.get(b"origin", b"").decode("latin-1")
        # Any port: an SSH tunnel may use another at its other end.
        return urlsplit(f"//{host}").hostname in (HOST, "localhost") and origin in ("", f"http://{host}")


def listen(port: int) -> socket.socket:
    """Open a socket on this machine's own address; port 0 takes any that is free.

    Raises:
        LabError: the port is taken, or may not be used.
    """
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        if os.name == "posix":  # on Windows it would let two servers share a port
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((HOST, port))
        listener.listen()
    except OSError as error:
        listener.close()
        why = "is taken" if error.errno == errno.EADDRINUSE else f"cannot be used ({error.strerror or error})"
        raise LabError(f"Port {port} {why}. Choose another with --port, or --port 0 for any that is free.") from error
    return listener


def serve(training_set: TrainingSet, listener: socket.socket) -> None:
    """Serve the page of a data set until Ctrl-C, which raises KeyboardInterrupt."""
    sessions: WeakSet[Session] = WeakSet()

    @ui.page("/", title="rprop-lab")
    def page() -> None:
        session = Session(training_set)
        sessions.add(session)
        ui.context.client.on_delete(lambda: session.stop())  # a lambda, because on_delete passes the client
        ui.add_css(CSS)
        ui.colors(primary="#005a9c", negative="#a3000b", dark="#1c1f23", dark_page="#121417")
        ui.dark_mode(None)  # the system's setting
        with ui.element("header").classes("lab"):
            ui.html("rprop-lab: watch the techniques race", sanitize=False, tag="h1")
            held = len(training_set.evaluation[1]), len(training_set.test[1])
            ui.label(
                f"{training_set.dataset.origin}: {training_set.images} images to train, {held[0]} to evaluate, "
                f"{held[1]} unseen"
            )
            with ui.tabs().props("align=left no-caps dense inline-label") as tabs:
                ui.tab("Digits")
                ui.tab("Landscapes")
            tabs.set_value("Digits")
        with ui.element("main").classes("cards") as digits:
            draw = DrawingCard(session)
            training = TrainingCard(session, draw.choices)
        with ui.element("main").classes("cards") as landscapes:
            landscape_tab = LandscapeTab()
        landscapes.set_visibility(False)

        async def show_tab() -> None:
            digits.set_visibility(tabs.value == "Digits")
            landscapes.set_visibility(tabs.value == "Landscapes")
            if tabs.value == "Landscapes":
                await landscape_tab.open()

        tabs.on_value_change(show_tab)
        ui.on("scheme", lambda event: training.set_dark(event.args is True))
        ui.context.client.on_connect(lambda: ui.run_javascript(WATCH_SCHEME))

    app = FastAPI(openapi_url=None)
    ui.run_with(
        app, title="rprop-lab", favicon="✏️", language="en-US", binding_refresh_interval=None,
        reconnect_timeout=30, tailwind=False, show_welcome_message=False,
    )  # fmt: skip
    app.add_middleware(SameOriginOnly)

    class Server(uvicorn.Server):
        def handle_exit(self, sig: int, frame: FrameType | None) -> None:
            for session in list(sessions):  # first, because a training would delay the shutdown
                session.stop()
            super().handle_exit(sig, frame)

    server = Server(uvicorn.Config(app, log_level="warning", access_log=False, timeout_graceful_shutdown=1))
    try:
        with warnings.catch_warnings():
            # NiceGUI reads the class of every object in memory, which makes one of torch's warn.
            warnings.filterwarnings("ignore", ".*torch.distributed.reduce_op", FutureWarning)
            server.run(sockets=[listener])
    finally:
        for session in list(sessions):
            session.stop(wait=5)
