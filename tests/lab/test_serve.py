"""The page of ``rprop-lab serve``, also in a browser where one is installed.

``RPROP_LAB_SCREENSHOTS=docs/images pytest tests/lab/test_serve.py -k pictures`` renews the pictures of the README;
``RPROP_LAB_CHROMIUM`` names a Chromium that is not on the path.
"""

import math
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("sklearn")
pytest.importorskip("scipy")
pytest.importorskip("nicegui", reason="the page needs NiceGUI: it comes with the extra serve")
typer_testing = pytest.importorskip("typer.testing")

from rprop_kernels.install import install_command  # noqa: E402
from rprop_kernels.lab.cli import app  # noqa: E402
from rprop_kernels.lab.landscapes import LANDSCAPES, RACERS, find_trail  # noqa: E402
from rprop_kernels.lab.serve import charts, landscape_tab  # noqa: E402
from rprop_kernels.lab.serve import page as serve_page  # noqa: E402

CHROMIUM = os.environ.get("RPROP_LAB_CHROMIUM") or next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable"))), None
)
ENVIRONMENT = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}  # for a package that is not installed
MAIN = [sys.executable, "-u", "-P", "-c", "from rprop_kernels.lab.cli import main; main()"]


def until(done: Callable[[], Any], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < end, "it took too long"
        time.sleep(0.01)


def lab(*arguments: object) -> Any:
    return typer_testing.CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.mark.parametrize(
    "message",
    [
        None, {}, "ink", {"stroke": 0}, {"stroke": "a", "points": []}, {"stroke": 0, "points": [[1]]},
        {"stroke": 0, "points": [[0.1, math.nan]]}, {"stroke": 0, "points": [[0.1, 1.5]]},
        {"stroke": 0, "points": [[0.1, None]]}, {"stroke": math.inf, "points": []},
        {"stroke": 0, "points": [[0.5, 0.5]] * (serve_page.MAX_POINTS + 1)},
    ],
)  # fmt: skip
def test_invalid_drawing_messages_are_ignored(message: Any) -> None:
    ink = serve_page.Drawing()
    assert not ink.add(message) and ink.strokes == {}
    assert ink.add({"stroke": 0, "points": [[0, 1], [0.5, 0.5]]}) and ink.add({"stroke": 0, "points": [[0.25, 1]]})
    assert ink.strokes == {0: [(0, 1), (0.5, 0.5), (0.25, 1)]}
    ink.clear()
    assert ink.strokes == {}


def test_limits_of_the_plots() -> None:
    assert charts.loss_axis([]) == {"min": 0.1, "max": 1}
    assert charts.loss_axis([2.3, 0.02]) == {"min": 0.01, "max": 10}
    assert charts.loss_axis([1e30, 1e-20]) == {"min": 1e-4, "max": 100}
    for lowest in np.linspace(0, 1, 101):
        limits = charts.accuracy_axis([float(lowest), 0.999])
        ticks = (1 - limits["min"]) / limits["interval"]
        assert 0 <= limits["min"] <= lowest + 1e-9 and ticks == pytest.approx(round(ticks)) and 2 <= ticks <= 8


def test_numbers_at_the_ends_of_curves_do_not_overlap() -> None:
    rng = np.random.default_rng(0)
    assert charts.spread_labels({}) == {}
    assert charts.spread_labels({1: (50, 20.0), 2: (50, 60.0), 3: (10, 21.0)}) == {1: 0, 2: 0, 3: 0}
    for _ in range(200):
        ends = {number: (int(rng.choice([50, 50, 49, 12])), float(rng.uniform(0, 164))) for number in range(1, 7)}
        moves = charts.spread_labels(ends)
        at = {number: y + moves[number] for number, (_, y) in ends.items()}
        assert min(at.values()) >= 0 and max(at.values()) <= charts.PLOT_HEIGHT + 1e-9
        for one in ends:
            for two in range(one + 1, 7):
                if abs(ends[one][0] - ends[two][0]) <= 0.06 * 50:
                    assert abs(at[one] - at[two]) >= charts.LABEL_HEIGHT - 1e-9


def test_curves_outside_the_axis_are_named() -> None:
    assert charts.describe_off_axis({1: [2.0, 0.5], 2: []}, 0.1, 10.0) == ""
    text = charts.describe_off_axis({1: [2.0, 300.0], 2: [2.0, math.inf], 3: [0.01, 1.0], 4: [0.05]}, 0.1, 10.0)
    assert text == "Outside the axis: run 1, up to 300; run 2, no longer finite; below 0.1: runs 3, 4."
    assert charts.describe_off_axis({1: [1.0, 1e-4]}, 1e-4, 10.0) == "Outside the axis: below 0.0001: run 1."


@pytest.mark.parametrize("message", [None, {}, {"x": 0}, {"x": "a", "y": 0}, {"x": math.nan, "y": 0}, {"x": 9, "y": 0}])
def test_invalid_starts_are_ignored(message: Any) -> None:
    assert landscape_tab.read_start(message, LANDSCAPES["ravine"]) is None
    assert landscape_tab.read_start({"x": 0, "y": "0.5"}, LANDSCAPES["ravine"]) == (0, 0.5)


def test_winner_on_a_landscape() -> None:
    ravine, chosen = LANDSCAPES["ravine"], [RACERS[name] for name in ("irprop+", "sgd")]
    text = landscape_tab.describe_race(chosen, [find_trail(ravine, racer) for racer in chosen])
    assert text == "Winner: iRprop+, a loss of 1e-06 after 35 evaluations of the gradient."
    rastrigin, chosen = LANDSCAPES["rastrigin"], [RACERS[name] for name in ("irprop+", "rprop-", "sgd")]
    text = landscape_tab.describe_race(chosen, [find_trail(rastrigin, racer) for racer in chosen])
    assert re.fullmatch(r"No winner: none reaches a loss of 1e-06\. The lowest, 3\.98: SGD, momentum 0\.9\.", text)


def test_port_that_is_taken() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        result = lab("serve", "--port", port)
    assert result.exit_code == 2
    words = " ".join(result.output.split())
    assert f"Port {port} is taken. Choose another with --port, or --port 0 for any that is free." in words


def test_missing_data_and_missing_nicegui(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result = lab("serve", "--port", 0, "--data", "mnist", "--data-dir", tmp_path)
    assert result.exit_code == 2 and f"{tmp_path} has no train-images" in result.output.replace("\n", "")
    monkeypatch.delitem(sys.modules, "rprop_kernels.lab.serve.page")
    monkeypatch.delattr("rprop_kernels.lab.serve.page")
    monkeypatch.setitem(sys.modules, "nicegui", None)
    result = lab("serve", "--port", 0)
    assert result.exit_code == 2 and install_command("serve") in result.output.replace("\n", "")


class Served:
    """``rprop-lab serve`` in a process of its own."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        # One thread: several that wait for one another are slow on a machine that does other things too.
        environment = ENVIRONMENT | {"OMP_NUM_THREADS": "1"}
        self.folder, self.errors = folder, folder / "stderr"
        with self.errors.open("w") as errors:
            command = [*MAIN, "serve", "--port", "0", *arguments]
            self.process = subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=errors, text=True, env=environment, cwd=folder
            )
        assert self.process.stdout is not None
        found = re.search(r"http://127\.0\.0\.1:(\d+)", self.process.stdout.readline())
        assert found is not None, self.errors.read_text()
        self.address, self.port = found[0], int(found[1])

    def end(self) -> tuple[int, str]:
        """Ctrl-C; gives the exit status and what was printed after the address."""
        self.process.send_signal(signal.SIGINT)
        out, _ = self.process.communicate(timeout=30)
        return self.process.returncode, out


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    server = Served(tmp_path_factory.mktemp("served"))
    try:
        yield server
        # Ctrl-C, after all that the tests below have done to it.
        status, out = server.end()
        assert (status, out.strip()) == (0, "ended")
        assert server.errors.read_text() == ""
        assert [path.name for path in server.folder.iterdir()] == ["stderr"]  # nothing was left behind
    finally:
        server.process.kill()
        server.process.communicate()


def answer(address: str, **headers: str) -> int:
    try:
        with urllib.request.urlopen(urllib.request.Request(address, headers=headers), timeout=30) as response:
            return int(response.status)
    except urllib.error.HTTPError as error:
        with error:
            return error.code


def test_only_local_requests_are_accepted(served: Served) -> None:
    poll = f"{served.address}/_nicegui_ws/socket.io/?EIO=4&transport=polling"
    assert answer(served.address) == answer(served.address, Host="localhost:1") == 200
    assert answer(poll, Origin=served.address) == 200
    assert answer(served.address, Host="rebound.example") == 403
    assert answer(poll, Origin="http://elsewhere.example") == 403
    assert answer(poll, Origin=served.address, Host="rebound.example") == 403
    request = (
        "GET /_nicegui_ws/socket.io/?EIO=4&transport=websocket HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n"
        "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
        "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nOrigin: {origin}\r\n\r\n"
    )
    for origin, status in ((served.address, b"101"), ("http://elsewhere.example", b"403")):
        with socket.create_connection(("127.0.0.1", served.port), timeout=30) as plug:
            plug.sendall(request.format(port=served.port, origin=origin).encode())
            assert plug.recv(100).split()[1] == status
    with pytest.raises(OSError), socket.create_connection(("127.0.0.2", served.port), timeout=5):
        pass  # bound to 127.0.0.1, not to all addresses


# The browser -------------------------------------------------------------------------------------------

FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip


class Tab:
    """A page, and everything that it asked for and complained of."""

    def __init__(self, browser: Any, address: str, **context: Any) -> None:
        self.context = browser.new_context(**context)
        self.page = self.context.new_page()
        self.asked: list[str] = []
        self.complaints: list[str] = []
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.on("websocket", lambda opened: self.asked.append(opened.url))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.goto(address)
        self.finds(r"finished", within=".runs")  # the first training begins by itself

    def finds(self, pattern: str, within: str = "body") -> str:
        """Waits for a text; within the first such element, as the other tab may have one, too."""
        self.page.wait_for_function(
            "([within, pattern]) => new RegExp(pattern).test(document.querySelector(within)?.innerText ?? '')",
            arg=[within, pattern], timeout=30_000,
        )  # fmt: skip
        return str(self.page.locator(within).first.inner_text())

    def button(self, name: str) -> Any:
        return self.page.get_by_role("button", name=name, exact=True)

    def draw(self, *points: tuple[float, float]) -> None:
        """A stroke by mouse."""
        self.page.locator(".pad-board").scroll_into_view_if_needed()
        box = self.page.locator(".pad-board").bounding_box()
        places = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in points]
        self.page.mouse.move(*places[0])
        self.page.mouse.down()
        for place in places[1:]:
            self.page.mouse.move(*place, steps=5)
        self.page.mouse.up()

    def shares(self) -> list[float]:
        """The bars, in percent."""
        bars = self.page.locator(".bars .fill").evaluate_all("all => all.map(bar => parseFloat(bar.style.width))")
        return [float(bar) for bar in bars]

    def read(self) -> str:
        """Waits for a prediction and gives its digit."""
        return self.finds(r"^\d", within=".prediction .digit").strip()

    def curves(self) -> dict[str, int]:
        """Of the plot of loss: the last epoch of each run."""
        lines = self.page.locator(".chart").first.evaluate(
            "plot => getElement(Number(plot.id.slice(1))).chart.getOption().series"
            ".map(one => [one.name, one.data.at(-1)?.[0] ?? 0])"
        )
        return {str(name): int(epoch) for name, epoch in lines}

    def fill(self, field: str, text: str) -> None:
        box = self.page.get_by_label(f"{field}, exact value")
        box.fill(text)
        box.press("Enter")

    def by_hand(self) -> None:
        """Nothing trains by itself any more."""
        self.page.get_by_role("switch", name="Retrain on every change").click()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api", reason="the page is tested with Playwright")
    if CHROMIUM is None:
        pytest.skip("no Chromium is installed: apt-get install chromium, or set RPROP_LAB_CHROMIUM")
    with playwright.sync_playwright() as running:
        opened = running.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield opened
        opened.close()


@pytest.fixture
def tabs(served: Served, browser: Any) -> Iterator[Callable[..., Tab]]:
    opened: list[Tab] = []

    def tab(**context: Any) -> Tab:
        opened.append(Tab(browser, served.address, **context))
        return opened[-1]

    yield tab
    for one in opened:
        one.context.close()
        assert one.complaints == []
        strangers = [url for url in one.asked if not re.match(rf"(http|ws)://127\.0\.0\.1:{served.port}/|data:", url)]
        assert len(one.asked) > 10 and strangers == []


THREE = (
    (0.3, 0.2), (0.5, 0.15), (0.68, 0.22), (0.66, 0.4), (0.5, 0.48),
    (0.68, 0.56), (0.7, 0.74), (0.5, 0.85), (0.28, 0.78),
)  # fmt: skip


def test_drawing_by_mouse(tabs: Callable[..., Tab]) -> None:
    tab = tabs()
    assert tab.finds(r"\?", within=".prediction .digit") == "?" and sum(tab.shares()) == 0
    tab.draw((0.5, 0.1), (0.5, 0.9))
    assert tab.read() == "1"
    first = tab.shares()
    assert sum(first) == pytest.approx(100, abs=1) and max(first) == first[1]
    # Not only at its end does a stroke change the prediction.
    box = tab.page.locator(".pad-board").bounding_box()
    tab.page.mouse.move(box["x"] + 0.5 * box["width"], box["y"] + 0.1 * box["height"])
    tab.page.mouse.down()
    tab.page.mouse.move(box["x"] + 0.1 * box["width"], box["y"] + 0.2 * box["height"], steps=5)
    until(lambda: tab.shares() != first, 10)
    tab.page.mouse.up()
    tab.button("Clear the drawing").click()
    tab.finds(r"\?", within=".prediction .digit")
    tab.draw(*THREE)
    assert tab.read() == "3"


def test_training_and_racing(tabs: Callable[..., Tab]) -> None:
    tab = tabs()
    tab.by_hand()
    tab.fill("Epochs", "5000")
    tab.fill("Batch size", "64")
    tab.button("Train").click()
    until(lambda: tab.curves().get("2 iRprop+", 0) > 3)
    seen = tab.curves()["2 iRprop+"]
    until(lambda: tab.curves()["2 iRprop+"] > seen)
    assert "training" in tab.finds("training", within=".runs")
    tab.button("Stop").click()
    done = re.search(r"stopped after (\d+) of 5000 epochs", tab.finds("stopped", within=".runs"))
    assert done is not None and seen < int(done[1]) < 5000
    tab.fill("Epochs", "6")
    tab.fill("Batch size", "all")
    tab.button("Race Rprop, Adam and SGD").click()
    table = tab.finds(r"SGD, momentum 0.9.*6 / 6\s+0.1\s+all([\s\S]*6 / 6){2}", within=".runs")
    assert [line.split()[0] for line in table.splitlines() if re.match(r"\s*\d", line)] == ["5", "4", "3", "2", "1"]
    curves = tab.curves()
    assert {name: epoch for name, epoch in curves.items() if name != "2 iRprop+"} == {
        "1 iRprop+": 50, "3 iRprop+": 6, "4 Adam": 6, "5 SGD, momentum 0.9": 6,
    }  # fmt: skip
    assert curves["2 iRprop+"] == int(done[1])
    tab.button("Clear the runs").click()
    tab.finds("none", within=".runs")
    until(lambda: tab.curves() == {})


def test_a_race_has_a_winner_and_its_runs_are_all_seen(tabs: Callable[..., Tab]) -> None:
    tab = tabs()
    tab.button("Race Rprop, Adam and SGD").click()
    text = tab.finds(r"Winner on unseen images: .*\. Fastest: .* s\.")
    best = re.search(r"Winner on unseen images: .*?, (0\.\d{4})", text)
    rows = tab.page.locator(".runs tbody tr").evaluate_all(
        "rows => rows.slice(0, 3).map(row => row.cells[3].innerText)"
    )
    assert best is not None and best[1] == max(rows)
    # The first iRprop+ run draws the same curve as the second, and stands out on both sides of it.
    until(lambda: len(tab.curves()) == 4)
    lines = tab.page.locator(".chart").first.evaluate(
        "plot => getElement(Number(plot.id.slice(1))).chart.getOption().series.map(one => [one.lineStyle.width, one.z])"
    )
    assert lines[0][0] > 2 * lines[2][0] and lines[0][1] < lines[2][1]


def test_dark_mode_follows_the_system(tabs: Callable[..., Tab]) -> None:
    tab = tabs(color_scheme="dark")
    colours = """() => [
      getComputedStyle(document.querySelector('.card')).backgroundColor,
      getElement(Number(document.querySelector('.chart').id.slice(1))).chart.getOption().xAxis[0].axisLabel.color]"""
    dark, light = ["rgb(28, 31, 35)", charts.TEXT[True]], ["rgb(255, 255, 255)", charts.TEXT[False]]
    until(lambda: tab.page.evaluate(colours) == dark)
    tab.page.emulate_media(color_scheme="light")
    until(lambda: tab.page.evaluate(colours) == light)


def test_race_on_a_landscape(tabs: Callable[..., Tab]) -> None:
    tab = tabs()
    tab.page.get_by_role("tab", name="Landscapes").click()
    tab.finds(r"Winner: iRprop\+, a loss of 1e-06 after 35 evaluations", within=".winner")
    evaluation = tab.page.locator(".player output")
    seen = evaluation.inner_text()
    until(lambda: evaluation.inner_text() != seen, 10)  # it is drawn step by step
    tab.page.get_by_role("checkbox", name="Adam").click()
    tab.page.get_by_role("checkbox", name="SGD").click()
    tab.finds("Choose two or more optimizers")
    tab.page.get_by_role("checkbox", name="L-BFGS").click()
    tab.finds("Winner: L-BFGS, a loss of 1e-06 after 9 evaluations", within=".winner")
    board = tab.page.locator(".map-board")
    box = board.bounding_box()
    board.click(position={"x": 0.75 * box["width"], "y": 0.5 * box["height"]})
    tab.finds("Winner: L-BFGS, a loss of 1e-06 after [^9] evaluations", within=".winner")
    board.focus()
    for key in (*["ArrowRight"] * 30, "Enter"):  # to the right edge, x = 1
        tab.page.keyboard.press(key)
    until(lambda: start_of_trail(tab)[0] == 1)
    tab.page.get_by_role("combobox", name="Landscape").click()
    tab.page.get_by_role("option", name="Rastrigin").click()
    tab.finds("No winner: none reaches a loss of 1e-06", within=".winner")


def test_sliders_retrain(tabs: Callable[..., Tab]) -> None:
    tab = tabs()
    tab.page.get_by_role("slider", name="Hidden units").press("ArrowLeft")
    tab.finds(r"2\s+iRprop\+.*50 / 50\s+0.01\s+all\s+64\s", within=".runs")
    tab.page.get_by_role("combobox", name="Technique").click()
    tab.page.get_by_role("option", name="SGD").click()
    tab.finds(r"3\s+SGD, momentum 0.9.*50 / 50\s+0.1\s+all\s+64\s", within=".runs")  # with its usual rate
    tab.fill("Learning rate", "1000")
    tab.finds(r"4\s+SGD, momentum 0.9.*\s1000\s.*diverged at epoch \d", within=".runs")


def test_invalid_settings_are_reported(tabs: Callable[..., Tab]) -> None:
    tab = tabs()
    tab.by_hand()
    tab.fill("Learning rate", "fast")  # reported at once, before a training is started
    tab.finds("Learning rate is 'fast': give a number above 0 and up to 50", within=".trouble")
    tab.button("Train").click()
    assert tab.finds("1", within=".runs").count("iRprop+") == 1
    tab.fill("Learning rate", "0.02")
    tab.button("Train").click()
    tab.finds(r"2\s+iRprop\+.*\s0.02\s", within=".runs")
    assert tab.page.get_by_role("alert").inner_text() == ""
    tab.fill("Batch size", "32")
    tab.finds(r"iRprop\+ compares the signs .* batches of 32", within=".advice")
    tab.fill("Batch size", "all")
    tab.finds(r"^$", within=".advice")


def start_of_trail(tab: Tab) -> list[float]:
    map_id = "Number(document.querySelector('.map-board').parentElement.id.slice(1))"
    return list(tab.page.evaluate(f"() => getElement({map_id}).trails[0]?.points[0] ?? [NaN, NaN]"))


FOCUS = """() => {
  const at = document.activeElement;
  let name = at.getAttribute("aria-label") ?? at.innerText ?? "";
  let ring = false;
  for (let up = at; up && up !== document.body; up = up.parentElement)
    ring ||= getComputedStyle(up).outline === "rgb(200, 90, 0) solid 3px";
  return [at === document.body ? "" : name.trim(), ring];
}"""


def test_by_keyboard_alone(tabs: Callable[..., Tab]) -> None:
    tab = tabs()
    keys = tab.page.keyboard
    reached: dict[str, bool] = {}
    for _ in range(30):
        keys.press("Tab")
        name, ring = tab.page.evaluate(FOCUS)
        reached[name] = ring
        if name == "Drawing area":
            keys.press("Space")
            for key, times in (("ArrowDown", 12), ("Escape", 1), ("ArrowUp", 6), ("Space", 1), ("ArrowUp", 16)):
                for _ in range(times):
                    keys.press(key)
            assert tab.read() == "1"
            assert tab.page.locator(".pad-pen").inner_text() == "pen down"
            keys.press("Delete")
            tab.finds(r"\?", within=".prediction .digit")
        if name == "Epochs":
            keys.press("Home")
            tab.finds(r"2\s+iRprop\+\s.*5 / 5\s", within=".runs")
        if name == "Train":
            keys.press("Enter")
            tab.finds(r"3\s+iRprop\+\s.*5 / 5\s", within=".runs")
    wanted = {
        "Drawing area", "Clear the drawing", "Predicted by", "Technique", "Train", "Race Rprop, Adam and SGD",
        "Retrain on every change", "Clear the runs",
        *(f"{one}{also}" for one in ("Learning rate", "Epochs", "Batch size", "Hidden units")
          for also in ("", ", exact value")),
    }  # fmt: skip
    assert wanted <= reached.keys(), wanted - reached.keys()
    assert [name for name in wanted if not reached[name]] == []  # the focus is seen on each


PHONE = {"viewport": {"width": 390, "height": 844}, "device_scale_factor": 2, "is_mobile": True, "has_touch": True}


def test_on_a_phone(tabs: Callable[..., Tab]) -> None:
    tab = tabs(**PHONE)
    wide = "document.scrollingElement.scrollWidth <= innerWidth && innerWidth"
    assert tab.page.evaluate(wide) == 390
    box = tab.page.locator(".pad-board").bounding_box()
    fingers = tab.context.new_cdp_session(tab.page)
    for step in range(11):  # upwards: the way that would scroll the page
        point = {"x": box["x"] + box["width"] / 2, "y": box["y"] + box["height"] * (0.9 - 0.08 * step)}
        fingers.send(
            "Input.dispatchTouchEvent", {"type": "touchMove" if step else "touchStart", "touchPoints": [point]}
        )
    fingers.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
    assert tab.read() == "1"
    assert tab.page.evaluate("scrollY") == 0  # the finger drew, and did not move the page
    tab.button("Race Rprop, Adam and SGD").click()
    tab.finds(r"(50 / 50[\s\S]*){4}", within=".runs")
    assert tab.page.evaluate(wide) == 390
    at = tab.page.locator(".runs th", has_text="unseen").bounding_box()
    assert at["x"] + at["width"] <= 390  # the results are seen without scrolling
    table = tab.page.locator(".scroll").filter(has=tab.page.locator(".runs th", has_text="unseen"))
    assert table.evaluate("one => (one.scrollLeft = 500, one.scrollLeft)") > 50  # and the settings with it
    board, bars = (tab.page.locator(name).bounding_box() for name in (".pad-board", ".bars"))
    assert board["x"] + board["width"] < bars["x"] and abs(board["y"] - bars["y"]) < board["height"]
    tab.page.get_by_role("tab", name="Landscapes").click()
    tab.finds("Winner: iRprop", within=".winner")
    assert tab.page.evaluate(wide) == 390


def test_more_classes_than_digits(browser: Any, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    labels = np.arange(600) % 26 + 1  # such as EMNIST's letters
    images = np.zeros((600, 8, 8), int)
    images.reshape(600, 64)[np.arange(600), 2 * labels] = 16  # a label is where its dot is
    rows = np.column_stack([labels, np.clip(images.reshape(600, 64) + rng.integers(0, 2, (600, 64)), 0, 16)])
    np.savetxt(tmp_path / "letters.csv", rows, "%d", delimiter=",")
    server = Served(tmp_path, "--data", "letters.csv")
    try:
        tab = Tab(browser, server.address)
        tab.draw((0.45, 0.5), (0.55, 0.5))
        tab.read()
        prediction, bars = tab.page.locator(".prediction .digit"), tab.page.locator(".bars li > :first-child")
        until(lambda: bars.first.inner_text() == prediction.inner_text(), 10)
        names = bars.all_inner_texts()
        assert len(names) == len(set(names)) == 10 and all(0 <= int(name) <= 26 for name in names)
        shares = tab.shares()
        assert shares == sorted(shares, reverse=True) and tab.page.locator(".bars .first").count() == 1
        tab.context.close()
        assert tab.complaints == [] and server.end()[0] == 0
    finally:
        server.process.kill()
        server.process.communicate()


def test_tabs_do_not_disturb_one_another(tabs: Callable[..., Tab]) -> None:
    one, other = tabs(), tabs()
    one.by_hand()
    one.fill("Epochs", "5000")
    one.fill("Batch size", "64")
    one.button("Train").click()
    one.finds("training", within=".runs")
    other.button("Train").click()
    other.finds(r"2\s+iRprop\+\s.*finished", within=".runs")
    other.button("Clear the runs").click()
    other.draw((0.5, 0.1), (0.5, 0.9))
    seen = one.curves()["2 iRprop+"]
    until(lambda: one.curves()["2 iRprop+"] > seen)
    assert one.finds(r"\?", within=".prediction .digit") == "?"
    one.button("Stop").click()
    one.finds("stopped after", within=".runs")


@pytest.mark.parametrize(
    ("name", "context"), [("serve", {"viewport": {"width": 1200, "height": 800}}), ("serve-phone", PHONE)]
)
def test_pictures_for_the_readme(tabs: Callable[..., Tab], tmp_path: Path, name: str, context: dict[str, Any]) -> None:
    tab = tabs(**context)
    tab.draw(*THREE)
    tab.button("Race Rprop, Adam and SGD").click()
    tab.finds(r"(50 / 50[\s\S]*){4}", within=".runs")
    until(lambda: len(tab.curves()) == 4)
    assert tab.read() == "3"
    tab.page.mouse.move(0, 0)
    path = Path(os.environ.get("RPROP_LAB_SCREENSHOTS", tmp_path)) / f"{name}.png"
    tab.page.evaluate("document.activeElement.blur(); scrollTo(0, 0)")
    time.sleep(0.5)  # what moves comes to rest
    tab.page.screenshot(path=path, full_page=name == "serve")
    assert 10_000 < path.stat().st_size < 300_000


def test_a_training_continues_unattended(tabs: Callable[..., Tab]) -> None:
    """It is still at work when Ctrl-C ends the server, after this last test."""
    tab = tabs()
    tab.by_hand()
    tab.fill("Epochs", "5000")
    tab.fill("Batch size", "8")
    tab.button("Train").click()
    tab.finds(r"2\s+iRprop\+\s.*training", within=".runs")
