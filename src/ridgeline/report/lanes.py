"""Charts of who did what when: lanes with blocks of time. Pipeline timelines and Gantt charts.

All blocks of a kind are one path, so that thousands of them draw at once.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from ridgeline.report.axes import axis, escaped, layout, rounded, time_unit
from ridgeline.report.palette import GREY, PATTERNS
from ridgeline.report.records import Chart, Table

MOST_BLOCKS = 2200
"""Drawn of each height; what is finer is merged."""
MIXED = "several, merged"
IDLE_COLOUR = "rgba(128,128,128,0.16)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """A stretch of time in a lane."""

    lane: float
    """Place of its lower edge: lanes count from 0 downwards."""
    start_s: float
    end_s: float
    kind: str
    text: str
    height: float = 0.8


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """How blocks of a kind look."""

    name: str
    colour: str
    pattern: str = ""


def merged(blocks: Sequence[Block], span_s: float, most: int = MOST_BLOCKS) -> list[Block]:
    """Return at most about ``most`` blocks: neighbours in a lane too short to be seen become one.

    A run of one kind keeps its kind; a run of several is of kind ``MIXED``, so that no kind is
    drawn where another was.
    """
    ordered = sorted(blocks, key=lambda one: (one.lane, one.height, one.start_s))
    shortest = span_s / 2000.0
    while len(ordered) > most and shortest < span_s:
        ordered = _merge(ordered, shortest)
        shortest *= 2.0
    return ordered


def _merge(blocks: Sequence[Block], shortest: float) -> list[Block]:
    found: list[Block] = []
    for block in blocks:
        last = found[-1] if found else None
        if (
            last is not None
            and (last.lane, last.height) == (block.lane, block.height)
            and block.start_s - last.end_s < shortest / 4.0
            and (block.end_s - last.start_s < shortest or _alike(last, block, shortest))
        ):
            kind = last.kind if last.kind == block.kind else MIXED
            text = last.text.partition(" to ")[0] + " to " + block.text.rpartition(" to ")[2]
            found[-1] = replace(last, end_s=max(last.end_s, block.end_s), kind=kind, text=text)
        else:
            found.append(block)
    return found


def _alike(last: Block, block: Block, shortest: float) -> bool:
    """Whether a block goes on what its neighbour began, and is short itself."""
    return last.kind == block.kind and block.end_s - block.start_s < shortest


def lanes(
    key: str,
    title: str,
    summary: str,
    blocks: Sequence[Block],
    kinds: Sequence[Kind],
    *,
    span_s: float,
    names: Sequence[str],
    table: Table,
    edges: Sequence[float] = (),
    height: int = 0,
    note: str = "",
) -> Chart:
    """Return lanes of blocks over time.

    Parameters
    ----------
    blocks
        Of any order; times in seconds from the start.
    kinds
        In the order of the legend; a kind without blocks is left out.
    span_s
        End of the time axis; a lane is hatched grey wherever it has no block.
    names
        Of the lanes.
    edges
        First and last of a scale of accelerators, where blocks lie on one instead of in lanes.
    """
    unit, unit_name = time_unit(span_s)
    places = max(0, 4 - math.floor(math.log10(span_s / unit)))
    drawn = (
        list(blocks)
        if edges
        else [
            one
            for height in sorted({block.height for block in blocks}, reverse=True)
            for one in merged([block for block in blocks if block.height == height], span_s)
        ]
    )
    data = [_idle(len(names), span_s / unit)] if not edges else []
    for kind in (*kinds, Kind(name=MIXED, colour=GREY, pattern=PATTERNS[6])):
        own = [block for block in drawn if block.kind == kind.name]
        if own:
            data.append(_path(kind, own, unit, places, framed=bool(edges)))
    ticks: dict[str, Any] = {
        "tickvals": [place + 0.4 for place in range(len(names))],
        "ticktext": [escaped(name) for name in names],
        "range": [len(names) - 0.1, -0.1],
    }
    if edges:
        ticks = {"range": [edges[-1], edges[0]]}
    figure = {
        "data": data,
        "layout": layout(
            axis(f"time, {unit_name}", range=[0, rounded(span_s / unit)]),
            axis("accelerators" if edges else "", showgrid=False, zeroline=False, **ticks),
            legend=not edges,
        ),
    }
    if len(drawn) < len(blocks):
        note = f"{note} {len(blocks):,} blocks of time are drawn as {len(drawn):,}: neighbours "
        note = note.strip() + " too short to be seen are merged."
    return Chart(
        key=key,
        title=title,
        summary=summary,
        figure=figure,
        table=table,
        height=height or 110 + 26 * max(4, len(names)),
        note=note,
    )


def _idle(lanes_: int, span: float) -> dict[str, Any]:
    xs: list[float | None] = []
    ys: list[float | None] = []
    for lane in range(lanes_):
        xs += [0, span, span, 0, 0, None]
        ys += [lane, lane, lane + 0.8, lane + 0.8, lane, None]
    return _filled("idle", "rgba(128,128,128,0.7)", "/", xs, ys) | {
        "fillcolor": IDLE_COLOUR,
        "hoverinfo": "skip",
    }


def _path(
    kind: Kind, blocks: Sequence[Block], unit: float, places: int, *, framed: bool
) -> dict[str, Any]:
    xs: list[float | None] = []
    ys: list[float | None] = []
    texts: list[str | None] = []
    for block in blocks:
        start, end = round(block.start_s / unit, places), round(block.end_s / unit, places)
        low, high = round(block.lane, 3), round(block.lane + block.height, 3)
        xs += [start, end, end, start, start, None]
        ys += [low, low, high, high, low, None]
        text = escaped(block.text)
        texts += [text, None, text, None, None, None]
    return _filled(kind.name, kind.colour, kind.pattern, xs, ys, framed=framed) | {
        "hoveron": "points",
        "hovertext": texts,
        "hoverinfo": "text",
    }


def _filled(
    name: str,
    colour: str,
    pattern: str,
    xs: list[float | None],
    ys: list[float | None],
    *,
    framed: bool = False,
) -> dict[str, Any]:
    return {
        "type": "scatter",
        "mode": "lines",
        "name": name,
        "x": xs,
        "y": ys,
        "fill": "toself",
        "fillcolor": colour,
        "fillpattern": {"shape": pattern, "fgcolor": "rgba(128,128,128,0.6)", "size": 5}
        if name == "idle"
        else {
            "shape": pattern,
            "fillmode": "overlay",
            "fgcolor": "rgba(255,255,255,0.6)",
            "size": 5,
        },
        "line": {"width": 0.5, "color": "rgba(255,255,255,0.8)"} if framed else {"width": 0},
    }
