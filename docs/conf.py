"""The documentation site: `make docs`. All that a page needs is in the built folder; none loads from another host."""

import importlib
import pkgutil
import re

import jaxcnn
from jaxcnn.operation import Operation

project = "jaxcnn"
author = "the founders of jaxcnn"
release = version = jaxcnn.__version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
html_theme = "furo"
html_static_path = ["static"]
html_css_files = ["wide.css"]  # the formulas are 120 columns wide
html_title = "jaxcnn"
myst_heading_anchors = 3
autodoc_member_order = "bysource"
autodoc_typehints = "none"
autodoc_default_options = {"exclude-members": "op"}
highlight_language = "none"
default_role = "code"  # as in the docstrings
add_module_names = False

# An operation is an object; its page shows the function that it wraps: the signature and the one docstring.
for found in pkgutil.walk_packages(jaxcnn.__path__, "jaxcnn."):
    if found.name != "jaxcnn.__main__":
        module = importlib.import_module(found.name)
        for name, value in list(vars(module).items()):
            if isinstance(value, Operation):
                setattr(module, name, value.__wrapped__)


def _formulas_as_they_stand(app, what, name, obj, options, lines):
    """The head of a layer file, its numbered formulas, is shown as it is written there."""
    if what == "module" and any(re.match(r"\(1\) ", line) for line in lines):
        lines[:] = [lines[0], "", "::", "", *(f"   {line}" for line in lines[1:])]


def setup(app):
    app.connect("autodoc-process-docstring", _formulas_as_they_stand, priority=1)
