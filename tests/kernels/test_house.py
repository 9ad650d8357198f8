"""The layout of the package: imports run one way and in no circle, names are standard terms, public paths public."""

import ast
import importlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "rprop_kernels"

LAYERS = [
    {
        "rules",
        "state",
        "loss",
        "hyperparameters",
        "bounds",
        "files",
        "warn",
        "stopping",
        "result",
        "rows",
        "starts",
        "progress",
        "fit_arguments",
        "diagnostics",
        "install",
    },
    {"kernels"},
    {"backends"},
    {"numpy", "torch"},
    {"testing", "scipy", "sklearn", "optax", "pints", "pybop", "numba"},
    {"lab"},
]
"""Ground first. A module may import members of lower layers; of its own layer only those in NEIGHBOURS."""
FREE = {"__init__"}  # the package's own names
NEIGHBOURS = {
    ("sklearn", "scipy"),
    ("pybop", "pints"),
    ("hyperparameters", "state"),
    ("starts", "stopping"),
    ("starts", "result"),
    ("stopping", "state"),
    ("stopping", "warn"),
    ("diagnostics", "state"),
    ("diagnostics", "bounds"),
    ("rows", "stopping"),
}
"""Imports between two members of one layer."""


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def imports_of(name: str, path: Path) -> set[str]:
    """Modules of the package that a module imports anywhere, in functions and under TYPE_CHECKING too."""
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name.split(".")[0] == "rprop_kernels"}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = package.split(".")
                base = ".".join(parts[: len(parts) - node.level + 1] + ([base] if base else []))
            if base.split(".")[0] != "rprop_kernels":
                continue
            for alias in node.names:
                full = f"{base}.{alias.name}"
                found.add(full if full in MODULES or full == "rprop_kernels.kernels._native" else base)
    return found - {name}


IMPORTS = {name: imports_of(name, path) for name, path in MODULES.items()}


def room(name: str) -> str:
    """The layer's member that a module belongs to."""
    parts = name.split(".")
    return parts[1] if len(parts) > 1 else "__init__"


def layer(name: str) -> int:
    return next(i for i, members in enumerate(LAYERS) if room(name) in members)


def test_every_module_has_a_layer():
    assert {room(name) for name in MODULES} - FREE == set().union(*LAYERS)


@pytest.mark.parametrize("name", [name for name in MODULES if room(name) not in FREE])
def test_imports_run_one_way(name):
    """Lower layers never import higher ones, nor neighbours other than those listed."""
    for imported in IMPORTS[name]:
        if room(imported) in FREE:
            assert layer(name) == len(LAYERS) - 1, f"{name} imports the package itself"
        elif room(imported) != room(name):
            below = layer(imported) < layer(name)
            assert below or (room(name), room(imported)) in NEIGHBOURS, f"{name} imports {imported}"


def test_no_circle():
    """Depth first over all imports; a package is entered only where it is imported itself."""
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, " -> ".join((*path[path.index(name) :], name))
        if name not in done:
            for imported in sorted(IMPORTS.get(name, ())):
                visit(imported, (*path, name))
            done.add(name)

    for name in MODULES:
        if room(name) not in FREE:
            visit(name, ())


# --------------------------------------------------------------------------------------------------- names

COINED = {
    "verdict", "verdicts", "judge", "judged", "judges", "said", "told", "forgot", "recoded", "laid", "beside", "apart",
    "brain", "retreat", "climbing", "rose", "fell", "grant", "granted", "em", "ep",
}  # fmt: skip
"""Private words, forbidden as a component of any identifier in the package and in ``src``."""

PLACED = {
    "hyperparameters": {"check", "as_number", "five", "numbers"},
    "backends": {"why_missing", "choose", "among", "asked", "origin", "load"},
    "kernels": {"load", "level", "levels"},
    "kernels.cython_": {"level", "levels", "numbers", "check"},
    "kernels.numba_": {"way", "low", "high", "go", "last", "new", "kept", "known", "numbers_", "me", "units"},
    "kernels.numpy_": {"way", "go", "back", "new", "kept", "known"},
    "kernels.torch_": {"way", "go", "back", "new", "kept", "known"},
    "kernels.triton_": {"place", "inside", "left", "way", "low", "high", "go", "last", "kept", "usable", "spare"},
    "kernels.threads": {"wanted", "grant"},
    "numpy.validation": {"check", "reach", "live", "kind"},
    "numpy.variants": {"check", "keep", "fit", "least", "most"},
    "bounds": {"keep", "most", "legal", "fits"},
    "state": {"least", "most", "code"},
    "torch.dispatch": {"way", "ways", "plain", "sure", "quick", "kinds"},
    "torch._compat": {"light", "bare", "problem", "passes", "agrees", "odd", "quick", "sure"},
    "torch.loss": {"given", "remembered", "known"},
    "torch.state": {"content", "hide", "show", "fits", "in_place", "first_move"},
    "torch.variants": {"still", "foreign", "content", "hide", "show", "checked"},
    "torch.rprop": {"five", "way", "numbers"},
    "scipy": {"lost", "edge", "never", "gain", "calm", "rests", "slopes", "why"},
    "testing": {"but", "and"},
}
"""Words that may not be a function, class, parameter, attribute or module variable of a module; as locals they may."""


def components(identifier: str) -> set[str]:
    """Split at underscores and capitals, in small letters."""
    return {part.lower() for part in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+", identifier)}


def identifiers(tree: ast.AST) -> set[str]:
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            found.add(node.id)
        elif isinstance(node, ast.Attribute):
            found.add(node.attr)
        elif isinstance(node, ast.arg):
            found.add(node.arg)
        elif isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            found.add(node.name)
    return found


def placed_names(tree: ast.Module) -> set[str]:
    """Functions, classes, parameters, attributes of self and module variables."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            found.add(node.name)
        elif isinstance(node, ast.arg):
            found.add(node.arg)
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "self":
            found.add(node.attr)
    for statement in tree.body:
        targets = statement.targets if isinstance(statement, ast.Assign) else [getattr(statement, "target", None)]
        found |= {target.id for target in targets if isinstance(target, ast.Name)}
    return {name.strip("_").lower() for name in found}


@pytest.mark.parametrize("name", MODULES)
def test_no_coined_word_in_the_package(name):
    tree = ast.parse(MODULES[name].read_text(encoding="utf-8"))
    assert not {x for x in identifiers(tree) if components(x) & COINED}


@pytest.mark.parametrize("path", sorted((ROOT / "src").glob("*.[hp]*")), ids=lambda path: path.name)
def test_no_coined_word_in_the_sources(path):
    text = re.sub(
        r"/\*.*?\*/|//[^\n]*|#[^\n]*|\"\"\".*?\"\"\"|\"[^\"\n]*\"", " ", path.read_text(encoding="utf-8"), flags=re.S
    )
    assert not {x for x in re.findall(r"[A-Za-z_]\w*", text) if components(x) & COINED}


@pytest.mark.parametrize("module", PLACED)
def test_no_placed_word_in_its_module(module):
    tree = ast.parse(MODULES[f"rprop_kernels.{module}"].read_text(encoding="utf-8"))
    assert not placed_names(tree) & PLACED[module]


# -------------------------------------------------------------------------------------------- public paths


@pytest.mark.parametrize("name", ["numpy", "torch"])
def test_public_classes_name_the_public_module(name):
    """In pickles and error texts; private files can move then."""
    if name == "torch":
        pytest.importorskip("torch")
    module = importlib.import_module(f"rprop_kernels.{name}")
    classes = [getattr(module, x) for x in module.__all__ if isinstance(getattr(module, x), type)]
    assert len(classes) >= 5 and {cls.__module__ for cls in classes} == {f"rprop_kernels.{name}"}
