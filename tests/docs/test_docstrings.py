"""The examples in the docstrings of the public modules run, and print the results that they show."""

import doctest
import importlib
import inspect
import warnings

import pytest

MODULES = {  # and the libraries that they need
    "rprop_kernels": (),
    "rprop_kernels.backends": (),
    "rprop_kernels.hyperparameters": (),
    "rprop_kernels.loss": (),
    "rprop_kernels.numba": ("numba",),
    "rprop_kernels.numpy": (),
    "rprop_kernels.optax": ("jax", "optax"),
    "rprop_kernels.pints": ("pints",),
    "rprop_kernels.pybop": ("pybop",),
    "rprop_kernels.rules": (),
    "rprop_kernels.scipy": ("scipy",),
    "rprop_kernels.sklearn": ("sklearn",),
    "rprop_kernels.state": (),
    "rprop_kernels.testing": (),
    "rprop_kernels.torch": ("torch",),
}
PUBLIC = (
    "rprop_kernels.numba",
    "rprop_kernels.numpy",
    "rprop_kernels.optax",
    "rprop_kernels.pints",
    "rprop_kernels.pybop",
    "rprop_kernels.scipy",
    "rprop_kernels.sklearn",
    "rprop_kernels.testing",
    "rprop_kernels.torch",
)


def imported(name):
    for library in MODULES[name]:
        pytest.importorskip(library)
    return importlib.import_module(name)


def public_objects(module):
    """Generate the module and its public functions and classes, with their names."""
    yield module.__name__, module
    names = getattr(module, "__all__", [name for name in vars(module) if not name.startswith("_")])
    for name in names:
        value = getattr(module, name)
        is_function = inspect.isroutine(value) or hasattr(value, "py_func")  # Numba's are not routines
        if (is_function or inspect.isclass(value)) and value.__module__ == module.__name__:
            yield f"{module.__name__}.{name}", value


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_run(name):
    module = imported(name)
    runner, output = doctest.DocTestRunner(), []
    for title, value in public_objects(module):
        finder = doctest.DocTestFinder(recurse=value is not module)
        # module=False: methods may be defined in a private module
        for test in finder.find(value, title, module=False, globs=dict(vars(module))):
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                runner.run(test, out=output.append)
    assert runner.failures == 0, "".join(output)


@pytest.mark.parametrize("name", PUBLIC)
def test_every_public_class_and_function_has_an_example(name):
    module = imported(name)
    missing = [
        title
        for title, value in public_objects(module)
        if value is not module and ">>>" not in (inspect.getdoc(value) or "")
    ]
    assert not missing
