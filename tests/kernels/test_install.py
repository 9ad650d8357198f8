"""A checkout uses an extension only where it was built from its sources; commands in messages can be copied."""

import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from backends import compiled

from rprop_kernels import install

ROOT = Path(__file__).parents[2]


def run(folder: Path, code: str, **environment: str) -> str:
    """Run code in a process started in a folder, which is first on its import path."""
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        cwd=folder,
        env={**os.environ, "RPROP_KERNELS_BACKEND": "", **environment},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of the sources, without an extension."""
    root = tmp_path / "checkout"
    ignored = shutil.ignore_patterns("*.so", "*.pyd", "*.c", "__pycache__", "lab", "traces")
    for name in ("rprop_kernels", "src"):
        shutil.copytree(ROOT / name, root / name, ignore=ignored)
    return root


@pytest.fixture
def built(tmp_path: Path) -> str:
    """A folder of an environment that has the built extension and nothing else."""
    folder = tmp_path / "site-packages" / "rprop_kernels" / "kernels"
    folder.mkdir(parents=True)
    shutil.copy(install.load_extension().__file__ or "", folder)
    return str(tmp_path / "site-packages")


REASON = "from rprop_kernels.backends import unavailable_reason; print(unavailable_reason('cython'))"
USE = "import numpy as np, rprop_kernels.numpy as r; r.IRpropMinus(np.ones(3)).step(np.ones(3)); "


def test_a_checkout_without_an_extension_names_a_command_that_can_be_copied(checkout: Path) -> None:
    reason = run(checkout, REASON, PYTHONPATH="")
    if "is a source checkout" not in reason:  # this environment holds an extension of the same sources
        assert reason == "None"
        reason = run(
            checkout,
            "import sys; sys.path = [x for x in sys.path if 'site-packages' not in x]; " + REASON,
            PYTHONPATH="",
        )
    assert reason.startswith(f"{checkout} is a source checkout without a built extension")
    command = reason.partition("To build this checkout: ")[2]
    assert command == 'python -m pip install -e "."'
    elsewhere = run(
        checkout.parent,
        f"import sys; sys.path[:] = [{str(checkout)!r}, *sys.path[1:]]; "
        "from rprop_kernels.install import install_command; print(install_command('numba'))",
    )
    assert shlex.split(elsewhere) == ["python", "-m", "pip", "install", "-e", f"{checkout}[numba]"]


@compiled
def test_a_checkout_takes_the_extension_of_an_environment_where_it_was_built_from_its_sources(
    checkout: Path, built: str
) -> None:
    show = USE + "print(sys.modules['rprop_kernels.kernels._native'].__file__)"
    assert run(checkout, "import sys; " + show, PYTHONPATH=built).startswith(built)
    rules = checkout / "src" / "rules.h"
    rules.write_bytes(rules.read_bytes().replace(b"\n", b"\r\n"))
    assert run(checkout, REASON, PYTHONPATH=built) == "None", "other line ends are the same sources"
    rules.write_text(rules.read_text() + "/* changed */\n")
    reason = run(checkout, REASON, PYTHONPATH=built)
    assert (
        "was built from other sources than those in" in reason
        and "To build this checkout: python -m pip install" in reason
    )


@compiled
def test_an_old_extension_in_the_checkout_itself_is_not_used(checkout: Path) -> None:
    shutil.copy(install.load_extension().__file__ or "", checkout / "rprop_kernels" / "kernels")
    assert run(checkout, REASON) == "None"
    source = checkout / "src" / "loops.h"
    source.write_text(source.read_text() + "\n")
    assert "was built from other sources" in run(checkout, REASON, PYTHONPATH="")


@compiled
def test_the_extension_carries_the_hash_of_its_sources() -> None:
    module: Any = install.load_extension()
    assert module.source_hash() == install.source_hash(ROOT)
    assert install.MARKER + module.source_hash().encode() in Path(module.__file__).read_bytes()


@pytest.mark.parametrize(
    ("record", "command"),
    [
        (None, 'python -m pip install "rprop_kernels[torch]"'),
        ("not JSON", 'python -m pip install "rprop_kernels[torch]"'),
        ({"url": "file:///no/such/folder", "dir_info": {}}, 'python -m pip install "rprop_kernels[torch]"'),
        ({"url": ROOT.as_uri(), "dir_info": {}}, f'python -m pip install "{ROOT}[torch]"'),
        ({"url": ROOT.as_uri(), "dir_info": {"editable": True}}, f'python -m pip install -e "{ROOT}[torch]"'),
        (
            {"url": (ROOT / "LICENSE").as_uri(), "archive_info": {}},
            f'python -m pip install "rprop_kernels[torch] @ {(ROOT / "LICENSE").as_uri()}"',
        ),
    ],
    ids=["an index", "a damaged record", "a folder that is gone", "a folder", "an editable install", "a file"],
)
def test_commands_install_from_where_the_package_came_from(
    record: Any, command: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    class Distribution:
        def read_text(self, name: str) -> str | None:
            assert name == "direct_url.json"
            return record if record is None or isinstance(record, str) else json.dumps(record)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(install, "source_root", lambda: None)
    monkeypatch.setattr(install.importlib.metadata, "distribution", lambda name: Distribution())
    assert install.install_command("torch") == command
