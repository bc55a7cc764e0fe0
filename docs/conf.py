"""How the site is made of these pages: ``sphinx-build -W -b html docs build/docs``."""

from __future__ import annotations

from typing import TYPE_CHECKING

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
    "sphinx.ext.napoleon",
]
html_theme = "furo"
html_title = f"Ridgeline {release}"
html_show_sourcelink = False
myst_heading_anchors = 4
exclude_patterns = ["screenshots"]
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
napoleon_google_docstring = False
napoleon_use_rtype = False
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
    """Keep napoleon from reading the first words of a field's docstring as its type."""
    app.connect("autodoc-process-docstring", _plain_attribute, priority=400)


def _plain_attribute(_app: Sphinx, what: str, *rest: object) -> None:
    lines = rest[-1]
    if what == "attribute" and isinstance(lines, list) and lines:
        lines.insert(0, "")
