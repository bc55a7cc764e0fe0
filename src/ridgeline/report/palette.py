"""Colours that the colour-blind tell apart, and what tells things apart without colour.

Okabe and Ito, "Color Universal Design" (2008), https://jfly.uni-koeln.de/color/; its black and
yellow are left out, because one vanishes on a dark page and the other on a light one.
"""

from __future__ import annotations

ORANGE, SKY, GREEN = "#E69F00", "#56B4E9", "#009E73"
BLUE, VERMILION, PURPLE, GREY = "#0072B2", "#D55E00", "#CC79A7", "#8A8F98"

CYCLE = (BLUE, ORANGE, GREEN, PURPLE, SKY, VERMILION, GREY)
"""For things without an order."""
PATTERNS = ("", "/", "x", ".", "\\", "-", "+")
"""Hatching beside ``CYCLE`` (plotly's ``pattern.shape``)."""
MARKERS = ("circle", "square", "diamond", "triangle-up", "x", "cross", "star")
"""Marks beside ``CYCLE`` (plotly's ``marker.symbol``)."""
DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot", "5px 2px")
"""Lines beside ``CYCLE`` (plotly's ``line.dash``)."""


def look(place: int) -> dict[str, str]:
    """Return colour, pattern, marker and dash of the thing at ``place``; all repeat after seven."""
    index = place % len(CYCLE)
    return {
        "colour": CYCLE[index],
        "pattern": PATTERNS[index],
        "marker": MARKERS[index],
        "dash": DASHES[index],
    }


GRADE_LOOK = {
    "measured": (GREEN, ""),
    "related": (BLUE, ""),
    "kernels": (ORANGE, "/"),
    "datasheet": (VERMILION, "x"),
}
"""Evidence -> colour and hatching; the last is also set apart by its words and its frame."""
