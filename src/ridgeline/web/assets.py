"""Scripts and styles, by name from a list: ours, those of the reports, and plotly.js."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from ridgeline.report.page import plotly_script, script, stylesheet

_JAVASCRIPT, _CSS = "text/javascript", "text/css"


@dataclass(frozen=True, slots=True, kw_only=True)
class Asset:
    """A file as it is sent."""

    body: bytes
    media_type: str
    tag: str
    """Changes when the body does."""


def _own(name: str) -> Callable[[], str]:
    return lambda: files("ridgeline.web").joinpath("static", name).read_text(encoding="utf-8")


ASSETS: dict[str, tuple[str, Callable[[], str]]] = {
    "app.js": (_JAVASCRIPT, _own("app.js")),
    "app.css": (_CSS, _own("app.css")),
    "icon.svg": ("image/svg+xml", _own("icon.svg")),
    "report.js": (_JAVASCRIPT, script),
    "report.css": (_CSS, stylesheet),
    "plotly.min.js": (_JAVASCRIPT, plotly_script),
}


@cache
def asset(name: str) -> Asset:
    """Return the file of a name in ``ASSETS``."""
    media_type, read = ASSETS[name]
    body = read().encode()
    tag = f'"{hashlib.sha256(body).hexdigest()[:16]}"'
    return Asset(body=body, media_type=media_type, tag=tag)
