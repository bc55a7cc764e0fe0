"""Pages and fragments of HTML from records. Everything is escaped; a page loads nothing."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import lru_cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from ridgeline import __version__
from ridgeline.report.records import Evidence, Page, Section, Tone, charts_of

if TYPE_CHECKING:
    from jinja2 import Environment, Template


def render_page(page: Page) -> str:
    """Return a whole page, with the library of plots in it.

    Raises
    ------
    ModuleNotFoundError
        jinja2 or plotly is not installed (extra ``report``).
    """
    from markupsafe import Markup

    return _environment().get_template("page.html").render(
        page=page,
        version=__version__,
        style=Markup(stylesheet()),
        figures=Markup(figures_json(page.sections)),
        plotly=Markup(plotly_script()),
        script=Markup(script()),
    )  # fmt: skip


def render_sections(sections: Sequence[Section]) -> str:
    """Return sections as a fragment; plots are empty elements until ``script`` draws them."""
    return str(_blocks().module.sections(sections))  # type: ignore[attr-defined]


def render_verdict(text: str, tone: Tone, evidence: Evidence | None = None) -> str:
    """Return the verdict as a fragment."""
    return str(_blocks().module.verdict(text, tone, evidence))  # type: ignore[attr-defined]


def figures_of(sections: Sequence[Section]) -> dict[str, dict[str, Any]]:
    """Return the figures of sections by the id of the element that each is drawn in.

    ``ridgeline.drawAll(figures)`` of ``script`` draws them.
    """
    return {chart.key: chart.figure for chart in charts_of(sections)}


def figures_json(sections: Sequence[Section]) -> str:
    """Return the figures as JSON that may stand inside a script element."""
    text = json.dumps(
        figures_of(sections), separators=(",", ":"), ensure_ascii=True, allow_nan=False
    )
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def stylesheet() -> str:
    """Return the CSS of a page."""
    return _template_text("page.css")


def script() -> str:
    """Return the JavaScript of a page, which draws, copies and follows light, dark and paper."""
    return _template_text("page.js")


def plotly_script() -> str:
    """Return plotly.js, minified, as the installed plotly carries it."""
    from plotly.offline import get_plotlyjs

    return str(get_plotlyjs())


@lru_cache(maxsize=1)
def _environment() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    return Environment(
        loader=PackageLoader("ridgeline.report", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _blocks() -> Template:
    return _environment().get_template("blocks.html")


def _template_text(name: str) -> str:
    return files("ridgeline.report").joinpath("templates", name).read_text(encoding="utf-8")
