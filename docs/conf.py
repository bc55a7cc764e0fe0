"""How the site is made of these pages: ``sphinx-build -W -b html docs build/docs``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sphinx.ext.napoleon import Config, NumpyDocstring

import ridgeline

if TYPE_CHECKING:
    from sphinx.application import Sphinx

project = "Ridgeline"
author = "The authors of Ridgeline"
copyright = "The authors of Ridgeline, Apache-2.0"  # noqa: A001  (Sphinx's name)
release = version = ridgeline.__version__
extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
]
html_theme = "furo"
html_title = f"Ridgeline {release}"
html_show_sourcelink = False
myst_heading_anchors = 4
exclude_patterns = ["screenshots"]
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
suppress_warnings = [
    # Links to files of the project that are no pages: they are right in the repository.
    "myst.xref_missing",
]
nitpick_ignore_regex = [
    # Types that signatures name and these pages do not describe.
    (r"py:(class|func)", r"(ridgeline|pathlib|collections|numpy|datetime|MeasuredKernels).*"),
    (r"py:class", r"NDArray|Array|Say"),
]


def setup(app: Sphinx) -> None:
    """Read docstrings as numpydoc, but for those of fields.

    The extension would take the first words of "Query width: ..." for the type of the field.
    """
    app.connect("autodoc-process-docstring", _numpydoc)


def _numpydoc(
    app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]
) -> None:
    if what in ("attribute", "property"):
        return
    style = Config(napoleon_google_docstring=False, napoleon_use_rtype=False)
    lines[:] = str(NumpyDocstring(lines, style, app, what, name, obj, options)).splitlines()
