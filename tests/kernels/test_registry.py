"""The table of variants is what every backend, optimizer and oracle follows: a new row fails here until all have it."""

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
from rprop_kernels.backends import BACKENDS, available_backends, resolve_backend, unavailable_reason
from rprop_kernels.kernels import load_engine

FOUR = [name for name, row in VARIANTS.items() if row.state == ("move",)]


@pytest.mark.parametrize("backend", ["cython", "numba", "numpy"])
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
def test_the_compiled_backend_is_here():
    """A missing extension is no skip, unless it was asked for: the tests are about it."""
    assert unavailable_reason("cython") is None and resolve_backend(None, "arrays") == "cython"


def test_nothing_heavy_is_imported():
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
    told = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True).stderr
    assert f"pip install 'rprop_kernels[{module}]'" in told.splitlines()[-1]


@compiled
def test_show_config_names_what_is_in_use(capsys):
    facts = rprop_kernels.show_config()
    printed = capsys.readouterr().out
    assert facts["versions"]["rprop_kernels"] == rprop_kernels.__version__ in printed
    assert facts["defaults"]["NumPy arrays"] == "cython" and facts["backends"]["cython"] == "available"
    assert facts["defaults"]["torch tensors"].startswith("cython" if unavailable_reason("torch") is None else "none")
    assert facts["cython"]["instruction set"] in printed and "threads" in facts["cython"]
    assert {name for name in BACKENDS if facts["backends"][name] == "available"} == set(available_backends())


def test_a_missing_extension_is_said_at_run_time(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "rprop_kernels.kernels._native", None)
    assert re.search("compiler|checkout", unavailable_reason("cython") or "")
    next_best = "numpy" if unavailable_reason("numba") else "numba"
    with pytest.warns(RuntimeWarning, match=f"falls back to its slower backend '{next_best}'"):
        assert resolve_backend(None, "arrays") == next_best
    facts = rprop_kernels.show_config()
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


@compiled
def test_a_backend_of_the_other_library_is_ignored_in_the_environment(monkeypatch):
    """An argument is strict; the variable serves programs that use both libraries."""
    monkeypatch.setenv("RPROP_KERNELS_BACKEND", "numpy")
    assert resolve_backend(None, "tensors") == "cython" and resolve_backend(None, "arrays") == "numpy"
    facts = rprop_kernels.show_config(display=False)["defaults"]
    assert facts["NumPy arrays"] == "numpy (RPROP_KERNELS_BACKEND)"
    monkeypatch.setenv("RPROP_KERNELS_BACKEND", "torch")
    assert resolve_backend(None, "arrays") == "cython"
    assert (
        "RPROP_KERNELS_BACKEND=torch does not apply"
        in rprop_kernels.show_config(display=False)["defaults"]["NumPy arrays"]
    )
    with pytest.raises(ValueError, match="backend='torch' cannot be used here"):
        resolve_backend("torch", "arrays")
    with pytest.raises(ValueError, match="backend='numpy' cannot be used here"):
        resolve_backend("numpy", "tensors")


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
    assert "RPROP_KERNELS_BACKEND=fortran cannot be used" in facts["defaults"]["NumPy arrays"]
    assert "RPROP_KERNELS_BACKEND=fortran cannot be used" in facts["defaults"]["torch tensors"]
    assert "avx9" in facts["cython"]["instruction set"] and "avx9" in capsys.readouterr().out
