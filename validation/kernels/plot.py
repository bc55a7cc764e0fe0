"""Predicted against measured as a picture: characters for a terminal, SVG for a page."""

from __future__ import annotations

import math
from collections.abc import Iterable
from xml.sax.saxutils import escape

import numpy as np

from ridgeline.validation.kernels.report import KernelReport, KernelRow

SHADES = " ·:+*#@"
"""From no row to the most rows in a cell."""
COLOURS = {
    "memory-bound": "#0072b2",
    "compute-bound": "#d55e00",
    "launch-bound": "#009e73",
    "host-bound": "#999999",
}
"""Of the palette by Okabe and Ito, told apart by colour-blind eyes."""
MOST_POINTS = 4000
SIZE, MARGIN = 560, 64


def text_plot(report: KernelReport, width: int = 56, height: int = 20) -> list[str]:
    """Return lines of a log-log plot, measured to the right and predicted up; ``/`` is equality.

    Empty when no row was predicted.
    """
    points = _points(report.rows)
    if not points:
        return []
    low, high = _decades(points)
    cells = np.zeros((height, width), np.int64)
    for row in points:
        x = (math.log10(row.measured_us) - low) / (high - low)
        y = (math.log10(row.predicted_us or 1.0) - low) / (high - low)
        cells[min(height - 1, int(y * height)), min(width - 1, int(x * width))] += 1
    most = math.log1p(int(cells.max()))
    lines = []
    for level in reversed(range(height)):
        drawn = []
        for column in range(width):
            count = int(cells[level, column])
            equal = int((column + 0.5) / width * height) == level
            shade = math.ceil(math.log1p(count) / most * (len(SHADES) - 1))
            drawn.append(SHADES[shade] if count else "/" if equal else " ")
        mark = _mark(low + (high - low) * level / height, (high - low) / height)
        lines.append(f"{mark:>8} |{''.join(drawn)}")
    axis = [" "] * (width + 8)
    for decade in range(math.ceil(low), math.floor(high) + 1):
        start = int((decade - low) / (high - low) * width)
        label = _us(decade)
        axis[start : start + len(label)] = label
    lines.append(f"{'':>8} +{'-' * width}")
    lines.append(f"{'us':>8}  {''.join(axis).rstrip()}")
    return lines


def _points(rows: Iterable[KernelRow]) -> list[KernelRow]:
    return [row for row in rows if row.predicted_us is not None]


def _decades(points: list[KernelRow]) -> tuple[float, float]:
    values = [row.measured_us for row in points] + [row.predicted_us or 1.0 for row in points]
    low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
    return float(low), float(max(high, low + 1))


def _mark(value: float, step: float) -> str:
    decade = math.ceil(value - 1e-9)
    return _us(decade) if decade < value + step - 1e-9 else ""


def _us(decade: int) -> str:
    return f"{10.0**decade:g}" if decade < 0 else f"{10**decade:,}"


def svg_plot(report: KernelReport) -> str:
    """Return a log-log scatter of predicted against measured as SVG text.

    At most 4,000 rows are drawn, evenly spread over the table; each names itself when pointed at.
    """
    points = _points(report.rows)
    low, high = _decades(points) if points else (0.0, 1.0)
    side = SIZE - 2 * MARGIN

    def place(value: float) -> float:
        return (math.log10(value) - low) / (high - low) * side

    title = f"{report.accelerator}, {report.kind}: predicted against measured kernels"
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {SIZE} {SIZE + 24}">',
        "<style>text{font:12px sans-serif}</style>",
        f"<title>{escape(title)}</title>",
        f'<rect width="{SIZE}" height="{SIZE + 24}" fill="white"/>',
        f'<text x="{MARGIN}" y="24">{escape(title)}</text>',
    ]
    bottom, right = SIZE - MARGIN, SIZE - MARGIN
    for decade in range(int(low), int(high) + 1):
        at = place(10.0**decade)
        x, y = MARGIN + at, bottom - at
        lines += [
            f'<path d="M{x:.1f} {MARGIN}V{bottom}M{MARGIN} {y:.1f}H{right}" stroke="#ddd"/>',
            f'<text x="{x:.1f}" y="{bottom + 16}" text-anchor="middle">{_us(decade)}</text>',
            f'<text x="{MARGIN - 6}" y="{y + 4:.1f}" text-anchor="end">{_us(decade)}</text>',
        ]
    lines += [
        f'<path d="M{MARGIN} {bottom}L{right} {MARGIN}" stroke="#555" stroke-dasharray="4"/>',
        f'<text x="{SIZE / 2}" y="{bottom + 34}" text-anchor="middle">measured, us</text>',
        f'<text transform="translate(14 {SIZE / 2}) rotate(-90)">predicted, us</text>',
    ]
    step = max(1, math.ceil(len(points) / MOST_POINTS))
    for row in points[::step]:
        x, y = MARGIN + place(row.measured_us), bottom - place(row.predicted_us or 1.0)
        name = f"row {row.row}: {row.library} {row.version} {row.dtype} {row.kernel}"
        lines.append(
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2" fill="{COLOURS[row.regime]}" '
            f'fill-opacity="0.5"><title>{escape(name)}</title></circle>'
        )
    for index, (regime, colour) in enumerate(COLOURS.items()):
        x = MARGIN + index * side / len(COLOURS)
        lines += [
            f'<circle cx="{x:.1f}" cy="{SIZE + 4}" r="4" fill="{colour}"/>',
            f'<text x="{x + 8:.1f}" y="{SIZE + 8}">{regime}</text>',
        ]
    return "\n".join([*lines, "</svg>", ""])
