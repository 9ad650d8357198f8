"""What the README shows runs, and CI runs what the README says."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.S)


def test_every_python_block_runs_in_turn(capsys, tmp_path, monkeypatch):
    pytest.importorskip("sklearn")
    monkeypatch.chdir(tmp_path)
    scope: dict[str, object] = {"__name__": "readme"}
    shown = blocks("python")
    assert len(shown) >= 3
    for block in shown:
        exec(compile(block, "README.md", "exec"), scope)


def test_ci_runs_the_readmes_own_command():
    commands = [line for block in blocks("sh") for line in block.splitlines() if line.endswith("/pytest")]
    assert len(commands) == 1
    script = (ROOT / ".ci" / "run").read_text()
    assert commands[0] in script
