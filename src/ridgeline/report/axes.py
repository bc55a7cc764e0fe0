"""What all figures have in common: layout, axes, units of time, numbers as JSON has them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Liberation Sans', sans-serif"
GRID = "rgba(128,128,128,0.25)"
"""Seen on white and on black."""
CLEAR = "rgba(0,0,0,0)"

_TIMES = (
    (2e-3, 1e-6, "µs"),
    (2.0, 1e-3, "ms"),
    (600.0, 1.0, "s"),
    (3 * 3600.0, 60.0, "min"),
    (3 * 86400.0, 3600.0, "h"),
    (3 * 365.0 * 86400.0, 86400.0, "days"),
    (math.inf, 365.25 * 86400.0, "years"),
)
"""Below this many seconds, the unit in seconds, its name."""


def time_unit(longest_s: float) -> tuple[float, str]:
    """Return the unit [s] and the name in which times up to ``longest_s`` read well."""
    return next(((unit, name) for below, unit, name in _TIMES if longest_s < below), (1.0, "s"))


def rounded(value: float, digits: int = 5) -> float | None:
    """Return a number to so many significant digits, which is more than a plot shows.

    What is not finite becomes None: a gap in a plot, null in JSON.
    """
    if not math.isfinite(value):
        return None
    return float(f"{value:.{digits}g}")


def numbers(values: Sequence[float], digits: int = 5) -> list[float | None]:
    """Return numbers rounded, see :func:`rounded`."""
    return [rounded(float(value), digits) for value in values]


def axis(title: str = "", **more: Any) -> dict[str, Any]:
    """Return an axis with faint lines that makes room for its labels."""
    made: dict[str, Any] = {
        "gridcolor": GRID,
        "zerolinecolor": GRID,
        "linecolor": GRID,
        "automargin": True,
    }
    if title:
        made["title"] = {"text": title, "standoff": 8}
    return made | more


def layout(
    x: dict[str, Any], y: dict[str, Any], *, legend: bool = False, **more: Any
) -> dict[str, Any]:
    """Return the layout of a figure; colours of text are those of the page it is on."""
    made: dict[str, Any] = {
        "font": {"family": FONT, "size": 13},
        "paper_bgcolor": CLEAR,
        "plot_bgcolor": CLEAR,
        "margin": {"l": 8, "r": 12, "t": 8, "b": 8, "pad": 2},
        "xaxis": x,
        "yaxis": y,
        "dragmode": False,
        "hovermode": "closest",
        "hoverlabel": {"align": "left", "font": {"family": FONT, "size": 13}},
        "showlegend": legend,
    }
    if legend:
        made["legend"] = {
            "orientation": "h",
            "yanchor": "bottom",
            "y": 1.02,
            "xanchor": "left",
            "x": 0,
            "bgcolor": CLEAR,
        }
    return made | more


def escaped(text: str) -> str:
    """Return text to be shown as it is by plotly, which reads HTML tags in labels and hovers."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
