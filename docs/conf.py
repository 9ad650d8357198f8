"""Configuration of the site; CONTRIBUTING.md gives the reasons for Sphinx.

    sphinx-build -W --keep-going docs site

Neither the build nor the reader's browser fetches anything: docutils makes MathML from TeX, its font is in a package,
and theme, search and highlighting are files of the site.
"""

from importlib.resources import files
from pathlib import Path
from typing import Any

from docutils import nodes
from docutils.utils.math import latex2mathml
from sphinx.application import Sphinx

import rprop_kernels

project = "rprop_kernels"
author = "the rprop_kernels authors"
copyright = author
release = version = rprop_kernels.__version__

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_copybutton"]
exclude_patterns = ["images"]

# Notebooks are stored without outputs and run in every build; an exception in a cell ends it.
nb_execution_mode = "force"
nb_execution_raise_on_error = True
nb_execution_timeout = 120

# Broken references are errors. Objects of other projects are not linked, since that would need a network.
nitpicky = True
nitpick_ignore_regex = [(r"py:.*", r"(torch|numpy|scipy|sklearn|collections)\..*|[\w.]*Error")]

default_role = "py:obj"
smartquotes_action = "q"  # two hyphens stay: they begin options
myst_enable_extensions = ["dollarmath", "deflist", "colon_fence"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_typehints = "none"  # the docstrings describe the arguments; type checkers read the annotations
autodoc_preserve_defaults = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
python_maximum_signature_line_length = 88

html_theme = "furo"
html_title = f"rprop_kernels {release}"
html_static_path = ["_static", str(files("ziamath").joinpath("fonts", "STIXTwoMath-Regular.ttf"))]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sphinx = False
html_show_copyright = False
html_math_renderer = "mathml"
html_theme_options = {
    "light_css_variables": {"color-brand-primary": "#0b5cad", "color-brand-content": "#0b5cad"},
    "dark_css_variables": {"color-brand-primary": "#7cb8ff", "color-brand-content": "#7cb8ff"},
}
copybutton_exclude = ".linenos, .gp, .go"
LAB = ("lab*", "studies*", "serve*")
"""Pages of the lab, in the order of the navigation. Programs write some of them; missing ones are left out."""


pygments_style = "friendly"
pygments_dark_style = "github-dark"


def visit_math(translator: Any, node: nodes.math) -> None:
    translator.body.append(latex2mathml.tex2mathml(node.astext()))
    raise nodes.SkipNode


def visit_math_block(translator: Any, node: nodes.math_block) -> None:
    mathml = latex2mathml.tex2mathml(node.astext(), as_block=True)
    translator.body.append(f'<div class="math">{mathml}</div>')
    raise nodes.SkipNode


def list_lab(app: Sphinx, page: str, source: list[str]) -> None:
    if page == "index":
        found = [path.stem for pattern in LAB for path in sorted(Path(app.srcdir).glob(pattern + ".md"))]
        source[0] = source[0].replace("LAB\n", "\n".join(found) + "\n")


def dash(app: Sphinx, tree: nodes.document) -> None:
    """Replace the two hyphens after an argument's name by a dash, as smart quotes would."""
    for text in list(tree.findall(nodes.Text)):
        if text == " -- ":
            text.parent.replace(text, nodes.Text(" – "))


def setup(app: Sphinx) -> None:
    app.connect("doctree-read", dash)
    app.connect("source-read", list_lab)
    app.add_html_math_renderer("mathml", (visit_math, None), (visit_math_block, None))
