"""What README and site show runs, prints what they say, and CI runs what they say.

Python blocks of a page run in turn, in one scope; a block of ``text`` right after one is what it prints. Those below
the comment ``<!-- needs the extra clients -->`` run with the tests of that name. Shell blocks are parsed, and
what they name must exist: scripts, extras, commands and options.
"""

import json
import re
import runpy
import shlex
import shutil
import subprocess
import sys
import tomllib
import warnings
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[2]
PATH = re.compile(r"(?:\./)?(?:benchmarks|examples|tests|tools|docs|\.ci)/[\w./-]+|[\w-]+\.(?:txt|toml)")
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
FENCE = re.compile(r"^( *)```(\w*)[^\n]*\n(.*?)^\1```$", re.S | re.M)
CLIENTS = "<!-- needs the extra clients -->"
CI = ROOT / ".ci" / "run"

pytest.importorskip("torch")
pytest.importorskip("sklearn")


def read(path: Path) -> str:
    return path.read_text(encoding="utf-8")


@pytest.mark.parametrize("path", [*PAGES, ROOT / "CHANGELOG.md"], ids=lambda path: path.name)
def test_no_page_has_marks_of_an_unfinished_merge(path: Path) -> None:
    assert not re.search(r"^(<{7}|={7}|>{7})( |$)", read(path), re.M)


class Block(NamedTuple):
    """A fenced block: its language, its text, the line of the page where the text starts, what it prints."""

    language: str
    text: str
    line: int
    clients: bool
    output: str | None


def blocks(page: Path) -> list[Block]:
    text = read(page)
    found = [*FENCE.finditer(text)]
    result = []
    for match, following in zip(found, [*found[1:], None], strict=True):
        before = text[: match.start()].rstrip()
        printed = following and following[2] == "text" and not text[match.end() : following.start()].strip()
        result.append(
            Block(
                match[2],
                re.sub(rf"^{match[1]}", "", match[3], flags=re.M),
                text.count("\n", 0, match.start(3)) + 1,
                before.endswith(CLIENTS),
                following[3] if printed else None,
            )
        )
    return result


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


def run(page: Path, block: Block, scope: dict[str, object], capsys) -> None:
    """Run a Python block, under the page's own line numbers, and compare what it prints."""
    exec(compile("\n" * (block.line - 1) + block.text, str(page), "exec"), scope)
    printed = capsys.readouterr().out
    assert block.output is None or printed == block.output


@pytest.fixture
def scope(tmp_path, monkeypatch):
    import torch

    monkeypatch.setattr(torch.optim, "Rprop", torch.optim.Rprop)  # put back: pages show how to replace it
    monkeypatch.chdir(tmp_path)
    return {"__name__": "docs"}


PYTHON = [page for page in PAGES if any(b.language == "python" and not b.clients for b in blocks(page))]


@pytest.mark.parametrize("page", PYTHON, ids=name)
def test_every_python_block_runs_in_turn(page, scope, capsys):
    for block in blocks(page):
        if block.language == "python" and not block.clients:
            run(page, block, scope, capsys)


WITH_CLIENTS = [(page, block) for page in PAGES for block in blocks(page) if block.clients]


@pytest.mark.clients
@pytest.mark.parametrize(("page", "block"), WITH_CLIENTS, ids=lambda x: name(x) if isinstance(x, Path) else str(x.line))
def test_blocks_of_other_libraries_run(page, block, scope, capsys):
    for library in re.findall(r"^import (\w+)", block.text, re.M):
        pytest.importorskip(library, reason=f"{library} is not installed")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # theirs
        run(page, block, scope, capsys)


def test_there_is_something_to_run():
    assert len(PYTHON) >= 8 and len(WITH_CLIENTS) >= 3 and ROOT / "README.md" in PYTHON
    languages = {block.language for page in PAGES for block in blocks(page)}
    assert languages <= {"python", "sh", "text", "json", ""}, "nobody would check another"


def commands(page: Path) -> list[list[str]]:
    """The words of every simple command in a page's shell blocks."""
    words = []
    for block in blocks(page):
        if block.language == "sh":
            for line in block.text.replace("\\\n", " ").splitlines():
                parts = shlex.shlex(line, posix=True, punctuation_chars=True)
                parts.whitespace_split = True
                command: list[str] = []
                for word in [*parts, ";"]:
                    if set(word) <= set(";&|"):
                        words += [command] if command else []
                        command = []
                    else:
                        command.append(word)
    return words


SHELL = [page for page in PAGES if any(block.language == "sh" for block in blocks(page))]


@pytest.mark.parametrize("page", SHELL, ids=name)
def test_shell_blocks_parse_and_name_what_there_is(page):
    project = tomllib.loads(read(ROOT / "pyproject.toml"))["project"]
    extras = {*project["optional-dependencies"]}
    for block in blocks(page):
        if block.language == "sh" and shutil.which("bash"):
            subprocess.run(["bash", "-n"], input=block.text, text=True, check=True)
    for words in commands(page):
        while words and re.fullmatch(r"\w+=\S*", words[0]):  # variables for the command
            words = words[1:]
        for word in words:
            for names in re.findall(r"^(?:\.|rprop_kernels)\[([\w,]+)\]$", word):
                assert set(names.split(",")) <= extras, word
            if re.fullmatch(
                r"(?:\./)?(?:benchmarks|examples|tests|tools|docs|\.ci)/[\w./-]+|[\w-]+\.(?:txt|toml)", word
            ):
                made = word.endswith(".json") and any(w.startswith("--benchmark-json") for w in words)
                assert (ROOT / word).exists() or made, word
        if words and Path(words[0]).name == "rprop-lab":
            check_lab(words[1:])


def check_lab(arguments: list[str]) -> None:
    """Whether rprop-lab takes these arguments; nothing is run."""
    typer = pytest.importorskip("typer")
    from rprop_kernels.lab.cli import app

    group = typer.main.get_command(app)
    assert arguments and arguments[0] in group.commands, f"rprop-lab has no command {arguments[:1]}"
    group.commands[arguments[0]].make_context(arguments[0], [*arguments[1:]])


def test_ci_runs_the_readmes_own_command_and_builds_the_site():
    script = read(CI)
    lines = [line for block in blocks(ROOT / "README.md") if block.language == "sh" for line in block.text.splitlines()]
    tests = [line for line in lines if line.endswith("/pytest")]
    assert len(tests) == 1 and tests[0] in script
    build = [" ".join(words[1:]) for words in commands(ROOT / "CONTRIBUTING.md") if words[0].endswith("sphinx-build")]
    assert len(build) == 1 and "-W" in build[0].split() and f"sphinx-build {build[0]}" in script


LINK = re.compile(r"\]\((?!https?:|#|mailto:)([^)#\s]+)")


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_somewhere(page):
    """As files, for people who read them in the repository; the build sees to those within the site."""
    text = FENCE.sub("", read(page))
    for target in LINK.findall(text):
        assert (page.parent / target).exists(), f"{name(page)}: {target}"


def program(path: str):
    """The functions of a script that is no part of the package."""
    return runpy.run_path(str(ROOT / path))


def test_measured_figures_are_what_the_programs_write():
    """Figures and tables come from the files in benchmarks/results; nobody edits them by hand."""
    pytest.importorskip("matplotlib")
    report = program("benchmarks/report.py")
    for page, text in report["pages"](ROOT / "benchmarks" / "results").items():
        assert text in read(page), f"run benchmarks/report.py: {name(page)} is not what it writes"


def test_the_table_of_equal_bits_is_what_its_program_writes():
    bits = program("tools/optax_bits.py")
    assert bits["page"](json.loads(read(bits["RESULT"]))) in read(bits["PAGE"]), "run tools/optax_bits.py --page"


def test_the_conformance_table_is_what_its_program_writes():
    conformance = program("tools/conformance.py")
    result = json.loads(read(conformance["RESULT"]))
    assert read(conformance["PAGE"]) == conformance["page"](result), "run tools/conformance.py --page"


def test_without_network():
    """Pages fetch nothing: no address of a script, a style or a picture in the site's own files."""
    for path in [*(ROOT / "docs").rglob("*.css"), ROOT / "docs" / "conf.py"]:
        assert not re.search(r"https?://", read(path)), path
    for page in PAGES:
        assert not re.search(r"!\[[^]]*\]\(https?:|<(?:script|link|iframe)\b|<img[^>]*https?:", read(page)), page


if sys.platform == "win32":  # the shell of the blocks is a POSIX one
    del test_shell_blocks_parse_and_name_what_there_is
