"""The roofline plot: what the datasheet allows, and where the operators of a job lie under it.

Williams, Waterman, Patterson, "Roofline: an insightful visual performance model" (CACM 2009):
FLOP/s <= min(peak, intensity x bandwidth).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ridgeline.report.charts import Dot, Line, log_axis, scatter
from ridgeline.report.records import Chart
from ridgeline.report.step_facts import OperatorPoint
from ridgeline.units import duration, figures

MOST_POINTS = 240
"""Of a plot; the longest operators are kept."""


def roofline(
    key: str, operators: Sequence[OperatorPoint], memory_bytes_per_s: float, device: str
) -> Chart:
    """Return the operators of a step under the roofs of their device."""
    shown = sorted(operators, key=lambda one: (-one.seconds, one.part, one.phase, one.name))
    shown = shown[:MOST_POINTS]
    dots = [
        Dot(
            x=one.intensity,
            y=one.flops_per_s / 1e12,
            label=f"{one.name}, {one.phase}, {one.part}",
            text=f"{duration(one.seconds)}, {figures(one.intensity)} FLOP/byte, "
            f"{figures(one.flops_per_s / 1e12)} TFLOP/s, "
            f"{100 * one.flops_per_s / _roof(one, memory_bytes_per_s):.0f}% of its roof "
            f"({one.dtype})",
            series=one.group,
        )
        for one in shown
    ]
    peaks = sorted({(one.peak, one.dtype) for one in shown}, reverse=True)
    ridges = [peak / memory_bytes_per_s for peak, _ in peaks]
    low = min([dot.x for dot in dots] + [ridge / 10.0 for ridge in ridges])
    high = max([dot.x for dot in dots] + [ridge * 4.0 for ridge in ridges])
    guides: list[Line] = []
    for peak, dtype in peaks:
        xs = (low / 2.0, peak / memory_bytes_per_s, high * 2.0)
        guides.append(
            Line(
                name=f"roof, {dtype}",
                xs=xs,
                ys=tuple(min(peak, x * memory_bytes_per_s) / 1e12 for x in xs),
                texts=(),
                faint=guides != [],
            )
        )
    note = ""
    if len(operators) > MOST_POINTS:
        note = f"The {MOST_POINTS} longest of {len(operators):,} operators are drawn."
    where = ", ".join(f"{figures(p / memory_bytes_per_s)} FLOP/byte in {d}" for p, d in peaks)
    heights = [dot.y for dot in dots] + [y for guide in guides for y in guide.ys[1:]]
    chart = scatter(
        key,
        f"Operators on the roofline of {device}",
        "Left of the ridge an operator waits for memory, right of it for arithmetic; the farther "
        f"below the roof, the more is lost to launches, partial tiles and clocks. The ridge is at "
        f"{where}.",
        dots,
        log_axis("arithmetic intensity, FLOP/byte", [low, high], figures),
        log_axis("useful TFLOP/s of an accelerator", heights, figures),
        guides=guides,
    )
    return replace(chart, note=note)


def _roof(one: OperatorPoint, memory_bytes_per_s: float) -> float:
    return min(one.peak, one.intensity * memory_bytes_per_s)
