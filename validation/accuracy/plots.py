"""Small plots as SVG: predicted over measured, row by row, of one source."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from ridgeline.validation.training import ReportRow

WIDTH, HEIGHT = 320, 200
LEFT, RIGHT, TOP, BOTTOM = 44, 10, 22, 30
LIMIT = 0.4
"""Errors beyond are drawn at the edge."""


def error_points(rows: Sequence[ReportRow]) -> list[tuple[float, float]]:
    """Return (share of the way through the rows by accelerators, error cut at ``LIMIT``)."""
    found = [row for row in rows if row.error is not None]
    found.sort(key=lambda row: (row.accelerators or 0, row.id))
    last = max(1, len(found) - 1)
    return [(i / last, max(-LIMIT, min(LIMIT, r.error or 0.0))) for i, r in enumerate(found)]


def error_plot(title: str, rows: Sequence[ReportRow]) -> str:
    """Return an SVG of the errors of a source, rows from few accelerators to many."""
    wide, high = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM

    def y(error: float) -> float:
        return TOP + high * (LIMIT - error) / (2 * LIMIT)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}"',
        f'height="{HEIGHT}" font-family="sans-serif" font-size="10">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>',
        f'<text x="{LEFT}" y="14" font-size="12">{escape(title)}</text>',
        f'<rect x="{LEFT}" y="{y(0.1):.1f}" width="{wide}" fill="#e8f1ea"',
        f'height="{y(-0.1) - y(0.1):.1f}"/>',
    ]
    for error in (-LIMIT, -LIMIT / 2, 0.0, LIMIT / 2, LIMIT):
        line = "#888" if error == 0 else "#ddd"
        parts.append(
            f'<path d="M{LEFT} {y(error):.1f}h{wide}" stroke="{line}"/>'
            f'<text x="{LEFT - 4}" y="{y(error) + 3:.1f}" text-anchor="end">'
            f"{100 * error:+.0f}%</text>"
        )
    for share, error in error_points(rows):
        edge = abs(error) >= LIMIT
        parts.append(
            f'<circle cx="{LEFT + 4 + (wide - 8) * share:.1f}" cy="{y(error):.1f}" r="2.2" '
            f'fill="{"#c0392b" if edge else "#2b6cb0"}"/>'
        )
    parts.append(
        f'<text x="{LEFT}" y="{HEIGHT - 10}">rows, from few accelerators to many; '
        "red: beyond the edge</text></svg>"
    )
    return "\n".join(parts) + "\n"
