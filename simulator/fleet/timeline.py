"""A fleet's time as pictures: a Gantt chart (SVG) and a trace for Perfetto."""

from __future__ import annotations

from html import escape
from math import ceil
from typing import Any

from ridgeline.simulator.fleet.results import Played

MAX_EVENTS = 400_000
"""A larger trace is not opened with pleasure by any viewer."""
MAX_BARS = 5_000
"""Of a chart; the longest are kept and the chart says so."""
_LANES = 1024
"""Threads that a node may have; more jobs than accelerators never share it."""
WIDTH, HEIGHT, LEFT, RIGHT, TOP = 1000, 600, 60, 25, 40
LETTER, LINE = 6.5, 13
"""A letter's width and a line's height: bars with room for their job's name show it."""
_COLOURS = ("#4477aa", "#66ccee", "#228833", "#ccbb44", "#ee6677", "#aa3377", "#bbbbbb")
"""Paul Tol's bright scheme, told apart by the colour-blind too."""


def perfetto(played: Played) -> dict[str, Any]:
    """Return the timeline in the Trace Event Format; times in microseconds of simulated time.

    Pools are processes and nodes threads where nodes were kept (``play_fleet``), else jobs are.
    Jobs that share a node at one time lie on threads of their own, since slices of a thread must
    not overlap. Counters show jobs and accelerators. Of more than ``MAX_EVENTS`` slices the longest
    are kept, and ``otherData`` says how many there were.
    """
    names = job_names(played)
    events = [
        _named("process_name", number, 0, p.name) for number, p in enumerate(played.fleet.pools)
    ]
    bars = []
    for segment in played.segments:
        bars += [(segment, node) for node, _ in segment.nodes] or [(segment, segment.job)]
    total = len(bars)
    bars.sort(key=lambda bar: (bar[0].start_s - bar[0].end_s, bar[0].job, bar[1]))
    bars = sorted(bars[:MAX_EVENTS], key=lambda bar: (bar[0].start_s, bar[0].job, bar[1]))
    ends: dict[tuple[int, int], list[float]] = {}
    for segment, place in bars:
        lanes = ends.setdefault((segment.pool, place), [])
        lane = next((k for k, end in enumerate(lanes) if end <= segment.start_s), len(lanes))
        thread = place * _LANES + lane
        if lane == len(lanes):
            lanes.append(0.0)
            label = f"node {place}" if segment.nodes else names[segment.job]
            events.append(_named("thread_name", segment.pool, thread, label))
        lanes[lane] = segment.end_s
        events.append(
            {
                "ph": "X",
                "pid": segment.pool,
                "tid": thread,
                "ts": segment.start_s * 1e6,
                "dur": (segment.end_s - segment.start_s) * 1e6,
                "name": names[segment.job],
                "args": {"accelerators": segment.accelerators, "ended": segment.ended},
            }
        )
    for sample in played.samples:
        counters = {
            "jobs": {"running": sample.running, "waiting": sample.waiting},
            "accelerators": {"in jobs": sample.held, "out": sample.broken},
        }
        events += [
            {"ph": "C", "pid": 0, "ts": sample.at_s * 1e6, "name": name, "args": values}
            for name, values in counters.items()
        ]
    return {
        "traceEvents": events,
        "displayTimeUnit": "ms",
        "otherData": {"fleet": played.fleet.name, "segments": total},
    }


def _named(what: str, process: int, thread: int, name: str) -> dict[str, Any]:
    return {"ph": "M", "name": what, "pid": process, "tid": thread, "args": {"name": name}}


def job_names(played: Played) -> dict[int, str]:
    """Return what to call each job and each replica of a service, by number."""
    names = {number: job.name for number, job in enumerate(played.jobs)}
    for segment in played.segments:
        names.setdefault(segment.job, f"replica {segment.job}")
    return names


def rows(played: Played) -> list[tuple[float, float, int, int, int]]:
    """Return the bars of a chart: start, end, first accelerator, accelerators, job.

    A segment lies on the lowest accelerators of the whole fleet that are free for its time, which
    are those of no node in particular; where fragments are apart it is drawn in pieces.
    """
    bars: list[tuple[float, float, int, int, int]] = []
    offset = [0]
    for pool in played.fleet.pools:
        offset.append(offset[-1] + pool.accelerators)
    chosen = sorted(played.segments, key=lambda one: (one.start_s - one.end_s, one.job))[:MAX_BARS]
    for number in range(len(played.fleet.pools)):
        free = [(0, played.fleet.pools[number].accelerators)]
        changes: list[tuple[float, int, int, Any]] = []
        for order, segment in enumerate(chosen):
            if segment.pool == number and segment.end_s > segment.start_s:
                changes += [
                    (segment.start_s, 1, order, segment),
                    (segment.end_s, 0, order, segment),
                ]
        held: dict[int, list[tuple[int, int]]] = {}
        for _, starts, order, segment in sorted(changes, key=lambda change: change[:3]):
            if not starts:
                free = _merged(free + held.pop(order))
                continue
            pieces, missing = [], segment.accelerators
            while missing:
                first, count = free[0]
                used = min(count, missing)
                pieces.append((first, used))
                free = [(first + used, count - used), *free[1:]] if used < count else free[1:]
                missing -= used
            held[order] = pieces
            bars += [
                (segment.start_s, segment.end_s, offset[number] + first, count, segment.job)
                for first, count in pieces
            ]
    return bars


def _merged(pieces: list[tuple[int, int]]) -> list[tuple[int, int]]:
    merged: list[tuple[int, int]] = []
    for first, count in sorted(pieces):
        if merged and sum(merged[-1]) == first:
            merged[-1] = (merged[-1][0], merged[-1][1] + count)
        else:
            merged.append((first, count))
    return merged


def _borders(played: Played, count: int, high: int) -> list[str]:
    """Return lines between the pools and their names, where there are several."""
    pools = played.fleet.pools
    lines: list[str] = []
    first = 0
    for pool in pools if len(pools) > 1 else ():
        y = TOP + first / count * high
        lines.append(f'<path d="M{LEFT} {y:.2f}H{WIDTH - RIGHT}" stroke="#000"/>')
        lines.append(
            f'<text x="{LEFT - 5}" y="{y + 2 * LINE:.2f}" text-anchor="end">'
            f"{escape(pool.name[:8])}</text>"
        )
        first += pool.accelerators
    return lines


def gantt(played: Played) -> str:
    """Return a chart of who had which accelerators when, as SVG."""
    names = job_names(played)
    span = max(played.result.span_s, 1e-9)
    count = max(1, played.fleet.accelerators)
    wide, high = WIDTH - LEFT - RIGHT, HEIGHT - TOP - 40
    title = (
        f"{escape(played.fleet.name)}: {count:,} accelerators, {span / 86400:.1f} days, "
        f"policy {escape(played.fleet.policy)}"
    )
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}">',
        f'<g font-family="sans-serif" font-size="12"><text x="{LEFT}" y="20">{title}</text>',
        f'<rect x="{LEFT}" y="{TOP}" width="{wide}" height="{high}" fill="#f4f4f4"/>',
    ]
    for start, end, first, number, job in rows(played):
        lines.append(
            f'<rect x="{LEFT + start / span * wide:.2f}" y="{TOP + first / count * high:.2f}" '
            f'width="{(end - start) / span * wide:.2f}" height="{number / count * high:.2f}" '
            f'fill="{_COLOURS[job % len(_COLOURS)]}" stroke="#fff" stroke-width="0.3">'
            f"<title>{escape(names[job])}: {number:,} of {count:,}</title></rect>"
        )
        across, down = (end - start) / span * wide, number / count * high
        if down >= LINE and across >= LETTER * (len(names[job]) + 1):
            lines.append(
                f'<text x="{LEFT + start / span * wide + 3:.2f}" font-size="11" '
                f'y="{TOP + first / count * high + LINE - 2:.2f}">{escape(names[job])}</text>'
            )
    lines += _borders(played, count, high)
    for part in range(6):
        x = LEFT + part / 5 * wide
        lines.append(
            f'<text x="{x:.1f}" y="{HEIGHT - 20}" text-anchor="middle">'
            f"{span * part / 5 / 86400:.3g} d</text>"
        )
    lines.append(f'<text x="{LEFT - 5}" y="{TOP + 10}" text-anchor="end">0</text>')
    lines.append(f'<text x="{LEFT - 5}" y="{TOP + high}" text-anchor="end">{count:,}</text>')
    left = len(played.segments) - MAX_BARS
    if left > 0:
        lines.append(
            f'<text x="{LEFT}" y="{HEIGHT - 4}">the {ceil(left):,} shortest are left out</text>'
        )
    return "\n".join([*lines, "</g></svg>", ""])
