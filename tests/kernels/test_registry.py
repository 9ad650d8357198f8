"""Every backend, optimizer and oracle covers the table of variants: a new row fails here until all have it."""

import os
import re
import subprocess
import sys

import oracle
import pytest
from backends import INSTRUCTION_SET_VARIABLE, compiled, cython_

import rprop_kernels
import rprop_kernels.numpy
from rprop_kernels import VARIANTS
from rprop_kernels.backends import (
    BACKENDS,
    available_backends,
    resolve_backend,
    supported_backends,
    unavailable_reason,
)
from rprop_kernels.install import install_command
from rprop_kernels.kernels import load_engine

FOUR = [name for name, row in VARIANTS.items() if row.state == ("move",)]


@pytest.mark.parametrize("backend", supported_backends("arrays"))
def test_every_backend_has_every_variant(backend):
    assert set(load_engine(backend).UPDATES) == set(VARIANTS)


def test_the_torch_backend_has_the_four():
    pytest.importorskip("torch")
    assert list(load_engine("torch").UPDATES) and set(load_engine("torch").UPDATES) == set(FOUR)


def test_the_oracle_has_every_variant():
    assert set(oracle.RULES) == set(FOUR) and set(VARIANTS) - set(FOUR) == {"torch"}


@pytest.mark.parametrize("row", VARIANTS.values(), ids=VARIANTS)
def test_every_variant_has_its_class_in_both_libraries(row):
    if row.state == ("move",):
        assert hasattr(rprop_kernels.numpy, row.class_name)
    pytest.importorskip("torch")
    module = pytest.importorskip("rprop_kernels.torch")
    cls = getattr(module, row.class_name)
    assert cls.__doc__ and "w" in cls.__doc__ and row.class_name in module.__all__
    if row.state == ("move",):
        assert cls._variant is row


@pytest.mark.skipif(
    os.environ.get("RPROP_KERNELS_REQUIRE_EXTENSION") == "0", reason="RPROP_KERNELS_REQUIRE_EXTENSION=0"
)
def test_the_extension_is_available():
    """A missing extension is a failure, not a skip, unless the environment allows it."""
    assert unavailable_reason("cython") is None and resolve_backend(None, "arrays") == "cython"


def test_importing_the_package_imports_no_large_library():
    code = (
        "import sys, rprop_kernels; rprop_kernels.available_backends(); "
        "print([m for m in ('torch', 'numba', 'scipy', 'sklearn', 'triton') if m in sys.modules])"
    )
    assert (
        subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
    )


@pytest.mark.parametrize(("module", "library"), [("torch", "torch"), ("scipy", "scipy"), ("sklearn", "sklearn")])
def test_a_missing_library_is_named_with_the_remedy(module, library):
    code = f"import sys; sys.modules[{library!r}] = None; import rprop_kernels.{module}"
    errors = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True).stderr
    assert install_command(module) in errors.splitlines()[-1]


@compiled
def test_show_config_names_the_default_of_each_family(capsys, monkeypatch):
    monkeypatch.delenv("RPROP_KERNELS_BACKEND", raising=False)
    facts = rprop_kernels.show_config()
    printed = capsys.readouterr().out
    assert facts["versions"]["rprop_kernels"] == rprop_kernels.__version__ in printed
    assert facts["defaults"]["NumPy arrays"] == "cython"
    expected = "cython" if unavailable_reason("torch") is None else "none: torch is not installed"
    assert facts["defaults"]["torch tensors"].partition(";")[0] == expected
    assert facts["cython"]["instruction set"] in printed and "threads" in facts["cython"]
    assert list(facts["backends"]) == list(BACKENDS)
    assert {name for name, text in facts["backends"].items() if text == "available"} == set(available_backends())
    assert all(text == "available" or text.startswith("missing: ") for text in facts["backends"].values())


def test_a_missing_extension_is_reported_at_run_time(monkeypatch, capsys):
    monkeypatch.delenv("RPROP_KERNELS_BACKEND", raising=False)
    monkeypatch.setitem(sys.modules, "rprop_kernels.kernels._native", None)
    assert re.search("compiler|checkout", unavailable_reason("cython") or "")
    next_best = "numpy" if unavailable_reason("numba") else "numba"
    with pytest.warns(RuntimeWarning, match=f"falls back to its slower backend '{next_best}'"):
        assert resolve_backend(None, "arrays") == next_best
    facts = rprop_kernels.show_config()
    assert facts["defaults"]["NumPy arrays"] == next_best
    assert facts["backends"]["cython"].startswith("missing: ") and "missing: " in capsys.readouterr().out
    with pytest.raises(
        ValueError, match=r"backend='cython' cannot be used(?s:.)*(compiler|checkout)(?s:.)*numpy: available"
    ):
        resolve_backend("cython", "arrays")


def test_the_choice_of_a_backend(monkeypatch):
    monkeypatch.setenv("RPROP_KERNELS_BACKEND", "numpy")
    assert resolve_backend(None, "arrays") == "numpy"
    monkeypatch.setenv("RPROP_KERNELS_BACKEND", "fortran")
    assert resolve_backend("numpy", "arrays") == "numpy"
    with pytest.raises(ValueError, match=r"RPROP_KERNELS_BACKEND='fortran'(?s:.)*numpy: available"):
        resolve_backend(None, "arrays")
    with pytest.raises(ValueError, match=r"backend='torch' cannot be used here(?s:.)*numpy: available"):
        resolve_backend("torch", "arrays")


def test_each_family_has_backends_of_its_own():
    assert supported_backends("arrays") == ("cython", "numba", "numpy")
    assert supported_backends("tensors") == ("cython", "numba", "torch", "triton")


@compiled
@pytest.mark.parametrize(
    ("backend", "family", "other"), [("numpy", "tensors", "arrays"), ("torch", "arrays", "tensors")]
)
def test_a_backend_of_the_other_family_is_ignored_in_the_environment_and_shown(backend, family, other, monkeypatch):
    if reason := unavailable_reason(backend) or unavailable_reason("torch"):
        pytest.skip(reason)
    monkeypatch.setenv("RPROP_KERNELS_BACKEND", backend)
    assert resolve_backend(None, family) == "cython"
    assert resolve_backend(None, other) == backend
    titles = {"arrays": "NumPy arrays", "tensors": "torch tensors"}
    defaults = rprop_kernels.show_config(display=False)["defaults"]
    assert defaults[titles[family]] == f"cython (RPROP_KERNELS_BACKEND={backend} does not apply here)"
    assert defaults[titles[other]] == f"{backend} (RPROP_KERNELS_BACKEND)"
    with pytest.raises(ValueError, match=f"backend='{backend}' cannot be used here"):
        resolve_backend(backend, family)


@compiled
def test_the_instruction_set_can_be_forced(monkeypatch):
    monkeypatch.setenv(INSTRUCTION_SET_VARIABLE, "baseline")
    assert cython_.isa() == 0 and cython_.instruction_set() == "baseline"
    monkeypatch.setenv(INSTRUCTION_SET_VARIABLE, "x86-64-v9")
    with pytest.raises(ValueError, match="x86-64-v9"):
        cython_.isa()


@compiled
def test_show_config_survives_wrong_settings(monkeypatch, capsys):
    monkeypatch.setenv("RPROP_KERNELS_BACKEND", "fortran")
    monkeypatch.setenv("RPROP_KERNELS_INSTRUCTION_SET", "avx9")
    facts = rprop_kernels.show_config()
    for text in facts["defaults"].values():
        assert "RPROP_KERNELS_BACKEND=fortran cannot be used" in text
    assert "avx9" in facts["cython"]["instruction set"] and "avx9" in capsys.readouterr().out


@compiled
def test_show_config_names_an_instruction_set_that_stops_every_optimizer(monkeypatch):
    monkeypatch.setenv(INSTRUCTION_SET_VARIABLE, "avx9")
    default = rprop_kernels.show_config(display=False)["defaults"]["NumPy arrays"]
    assert "optimizers raise an error" in default and "avx9" in default


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("byteorder", "big", "64-bit little-endian machine, and this is .*big-endian"),
        ("maxsize", 2**31 - 1, "64-bit little-endian machine, and this is .*32 bit"),
    ],
)
def test_an_unsupported_machine_is_named(monkeypatch, name, value, words):
    monkeypatch.setitem(sys.modules, "rprop_kernels.kernels._native", None)
    monkeypatch.setattr(sys, name, value)
    assert re.search(words, unavailable_reason("cython") or "")


@pytest.mark.parametrize("libc", ["glibc", ""])
def test_an_extension_for_another_machine_is_named(monkeypatch, tmp_path, libc):
    """The package with an extension that is none: as on another processor, or with musl."""
    from rprop_kernels import install

    (tmp_path / "kernels").mkdir()
    (tmp_path / "kernels" / "_native.abi3.so").write_bytes(b"of another machine")
    monkeypatch.setattr(install, "__file__", str(tmp_path / "install.py"))
    monkeypatch.setitem(sys.modules, "rprop_kernels.kernels._native", None)
    monkeypatch.setattr(install.platform, "libc_ver", lambda: (libc, ""))
    reason = unavailable_reason("cython") or ""
    assert re.search(r"_native.abi3.so does not load .*built for another system.*C compiler", reason)
    assert ("musl" in reason) == (libc == "" and sys.platform == "linux")
