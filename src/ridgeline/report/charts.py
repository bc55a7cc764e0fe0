"""Charts: records in, a plotly.js figure and the same as a table out. Pure functions.

Colour never stands alone: hatching, marks, dashes or words say the same.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from ridgeline.report.axes import axis, escaped, layout, numbers, rounded
from ridgeline.report.palette import BLUE, GREY, ORANGE, look
from ridgeline.report.records import Chart, Table
from ridgeline.units import large

BAR_PIXELS = 30
"""Height of a bar with its gap."""
LONGEST_TABLE = 60
"""Rows of a table behind a plot; a page stays small enough to open at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """A bar: a share of something."""

    label: str
    value: float
    text: str
    """The value as people read it."""
    note: str = ""
    series: str = ""
    """What kind of thing it is; kinds differ in colour and hatching."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """A line through points, perhaps with a range."""

    name: str
    xs: tuple[float, ...]
    ys: tuple[float, ...]
    texts: tuple[str, ...]
    """Of the points, for hovers and the table."""
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()
    marks: bool = True
    joined: bool = True
    """Points are joined by a line."""
    faint: bool = False
    """A guide for the eye."""
    steps: bool = False
    """Values hold until the next point."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Swing:
    """What a change of an assumption, down and up, does to a figure."""

    name: str
    low: float
    """Relative change of the figure when the assumption falls."""
    high: float
    """The same when it rises."""
    source: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Dot:
    """A point of a scatter."""

    x: float
    y: float
    label: str
    text: str
    """More about it."""
    series: str = ""
    anchor: str = ""
    """Id of the element that a click on it opens."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Range:
    """A value with its range."""

    label: str
    low: float
    value: float
    high: float
    text: str
    colour: str = BLUE
    pattern: str = ""
    strong: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Axis:
    """How an axis reads."""

    title: str
    log: bool = False
    percent: bool = False
    from_zero: bool = False
    low: float | None = None
    """First value shown, with ``high``; chosen by the plot when None."""
    high: float | None = None
    ticks: tuple[float, ...] = field(default=())
    """Where ticks are; chosen by the plot when empty."""
    tick_texts: tuple[str, ...] = field(default=())

    def plotly(self) -> dict[str, Any]:
        """Return plotly's axis."""
        more: dict[str, Any] = {}
        if self.log:
            more["type"] = "log"
        if self.percent:
            more["tickformat"] = ".0%"
        if self.from_zero:
            more["rangemode"] = "tozero"
        if self.ticks:
            more |= {
                "tickvals": numbers(self.ticks),
                "ticktext": [escaped(text) for text in self.tick_texts],
            }
        if self.low is not None and self.high is not None:
            ends = (self.low, self.high)
            more["range"] = numbers([math.log10(end) for end in ends] if self.log else ends)
        return axis(self.title, **more)


def log_axis(title: str, values: Sequence[float], text: Callable[[float], str] = large) -> Axis:
    """Return a logarithmic axis over ``values`` with ticks at 1, 2, 5, or decades where many."""
    positive = [value for value in values if value > 0.0] or [1.0]
    low, high = 0.8 * min(positive), 1.25 * max(positive)
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    steps = (1.0, 2.0, 5.0) if last - first <= 2 else (1.0,)
    apart = max(1, (last - first) // 6)
    ticks = [step * 10.0**power for power in range(first, last + 1, apart) for step in steps]
    shown = tuple(tick for tick in ticks if low <= tick <= high)
    return Axis(
        title=title,
        log=True,
        low=low,
        high=high,
        ticks=shown,
        tick_texts=tuple(text(tick) for tick in shown),
    )


def series_of(items: Sequence[Any]) -> list[str]:
    """Return the names of the series in the order of their first item."""
    return list(dict.fromkeys(item.series for item in items))


def bars(key: str, title: str, summary: str, rows: Sequence[Bar], *, unit: str = "") -> Chart:
    """Return horizontal bars, in the order given, the first on top."""
    names = series_of(rows)
    data = []
    for place, name in enumerate(names):
        style = look(place)
        own = [row for row in rows if row.series == name]
        data.append(
            {
                "type": "bar",
                "orientation": "h",
                "name": name,
                "y": [escaped(row.label) for row in own],
                "x": numbers([row.value for row in own]),
                "text": [escaped(row.text) for row in own],
                "textposition": "outside",
                "cliponaxis": False,
                "constraintext": "none",
                "hovertext": [escaped(_joined(row.label, row.text, row.note)) for row in own],
                "hoverinfo": "text",
                "marker": {
                    "color": style["colour"],
                    "pattern": hatching(style["pattern"]),
                },
            }
        )
    longest = max((row.value for row in rows), default=1.0) or 1.0
    shown = axis("", range=[0, rounded(1.28 * longest)], visible=False, fixedrange=True)
    order = [escaped(row.label) for row in rows]
    side = axis(
        "",
        type="category",
        categoryorder="array",
        categoryarray=order[::-1],
        fixedrange=True,
        showgrid=False,
    )
    several = len(names) > 1
    figure = {
        "data": data,
        "layout": layout(
            shown,
            side | {"ticksuffix": " "},
            legend=several,
            bargap=0.3,
            meta=_narrow(0.0, 1.9 * longest),
        ),
    }
    noted = any(row.note for row in rows)
    table = Table(
        caption=title,
        columns=("what", *(("kind",) if several else ()), unit or "value")
        + (("more",) if noted else ()),
        rows=tuple(
            (row.label, *((row.series,) if several else ()), row.text)
            + ((row.note,) if noted else ())
            for row in rows
        ),
        numeric=(2 if several else 1,),
    )
    return Chart(
        key=key,
        title=title,
        summary=summary,
        figure=figure,
        table=table,
        height=30 + BAR_PIXELS * max(2, len(rows)) + (30 if several else 0),
    )


def hatching(shape: str) -> dict[str, Any]:
    """Return the hatching of a bar over its colour."""
    return {
        "shape": shape,
        "fillmode": "overlay",
        "fgcolor": "rgba(255,255,255,0.65)",
        "size": 7,
        "solidity": 0.35,
    }


def _narrow(low: float, high: float) -> dict[str, Any]:
    """Return the range that leaves room for the texts beside bars on a phone."""
    return {"narrow": numbers([low, high])}


def _joined(label: str, text: str, note: str) -> str:
    return f"{label}: {text}" + (f", {note}" if note else "")


def curves(
    key: str,
    title: str,
    summary: str,
    lines: Sequence[Line],
    x: Axis,
    y: Axis,
) -> Chart:
    """Return lines over a common axis."""
    data: list[dict[str, Any]] = []
    for place, line in enumerate(lines):
        style = look(place)
        colour = GREY if line.faint else style["colour"]
        if line.low:
            data.append(_band(line, colour))
        data.append(
            {
                "type": "scatter",
                "mode": "+".join(["lines"] * line.joined + ["markers"] * line.marks),
                "name": line.name,
                "x": numbers(line.xs),
                "y": numbers(line.ys),
                "hovertext": [escaped(text) for text in line.texts],
                "hoverinfo": "text" if line.texts else "skip",
                "line": {
                    "color": colour,
                    "dash": "dot" if line.faint else style["dash"],
                    "width": 1.5 if line.faint else 2.5,
                    "shape": "hv" if line.steps else "linear",
                },
                "marker": {"symbol": style["marker"], "size": 8, "color": colour},
            }
        )
    figure = {"data": data, "layout": layout(x.plotly(), y.plotly(), legend=len(lines) > 1)}
    told = [line for line in lines if line.texts]
    rows = [(line.name, text) for line in told for text in line.texts]
    table = Table(
        caption=title,
        columns=("line", "point"),
        rows=tuple(spread(rows)),
        left_out=max(0, len(rows) - LONGEST_TABLE),
    )
    return Chart(key=key, title=title, summary=summary, figure=figure, table=table)


def spread(rows: Sequence[tuple[str, ...]]) -> list[tuple[str, ...]]:
    """Return at most ``LONGEST_TABLE`` rows, evenly taken, first and last among them."""
    if len(rows) <= LONGEST_TABLE:
        return list(rows)
    last = LONGEST_TABLE - 1
    return [rows[round(place * (len(rows) - 1) / last)] for place in range(LONGEST_TABLE)]


def _band(line: Line, colour: str) -> dict[str, Any]:
    return {
        "type": "scatter",
        "mode": "lines",
        "name": f"range of {line.name}",
        "x": numbers([*line.xs, *line.xs[::-1]]),
        "y": numbers([*line.high, *line.low[::-1]]),
        "fill": "toself",
        "fillcolor": colour,
        "opacity": 0.18,
        "line": {"width": 0},
        "hoverinfo": "skip",
        "showlegend": False,
    }


def tornado(key: str, title: str, summary: str, swings: Sequence[Swing], *, step: str) -> Chart:
    """Return what each change does to a figure, the largest on top.

    Parameters
    ----------
    swings
        Relative changes.
    step
        How much the assumptions were changed by, for example ``10%``.
    """
    ordered = sorted(swings, key=lambda one: (-max(abs(one.low), abs(one.high)), one.name))
    data = []
    for name, colour, pattern, values in (
        (f"assumption {step} lower", BLUE, "", [one.low for one in ordered]),
        (f"assumption {step} higher", ORANGE, "/", [one.high for one in ordered]),
    ):
        texts = [f"{100 * value:+.1f}%" for value in values]
        data.append(
            {
                "type": "bar",
                "orientation": "h",
                "name": name,
                "y": [escaped(one.name) for one in ordered],
                "x": numbers(values),
                "text": texts,
                "textposition": "outside",
                "cliponaxis": False,
                "constraintext": "none",
                "hovertext": [
                    escaped(f"{one.name}, {name}: {text}")
                    for one, text in zip(ordered, texts, strict=True)
                ],
                "hoverinfo": "text",
                "marker": {
                    "color": colour,
                    "pattern": hatching(pattern),
                },
            }
        )
    most = max((max(abs(one.low), abs(one.high)) for one in ordered), default=0.0) or 0.01
    bottom = axis("", tickformat="+.0%", range=numbers([-1.4 * most, 1.4 * most]))
    side = axis(
        "",
        type="category",
        categoryorder="array",
        categoryarray=[escaped(one.name) for one in reversed(ordered)],
        fixedrange=True,
        showgrid=False,
        ticksuffix=" ",
    )
    figure = {
        "data": data,
        "layout": layout(
            bottom,
            side,
            legend=True,
            barmode="overlay",
            bargap=0.35,
            meta=_narrow(-1.9 * most, 1.9 * most),
        ),
    }
    table = Table(
        caption=title,
        columns=("assumption", f"{step} lower", f"{step} higher", "source"),
        rows=tuple(
            (one.name, f"{100 * one.low:+.1f}%", f"{100 * one.high:+.1f}%", one.source)
            for one in ordered
        ),
        numeric=(1, 2),
    )
    return Chart(
        key=key,
        title=title,
        summary=summary,
        figure=figure,
        table=table,
        height=90 + BAR_PIXELS * len(ordered),
    )


def scatter(
    key: str,
    title: str,
    summary: str,
    dots: Sequence[Dot],
    x: Axis,
    y: Axis,
    *,
    guides: Sequence[Line] = (),
    joined: str = "",
    height: int = 380,
) -> Chart:
    """Return points, a mark for each series.

    Parameters
    ----------
    guides
        Lines behind the points.
    joined
        A series whose points are joined by a line in their order.
    """
    data: list[dict[str, Any]] = [
        {
            "type": "scatter",
            "mode": "lines",
            "name": guide.name,
            "x": numbers(guide.xs),
            "y": numbers(guide.ys),
            "hoverinfo": "skip",
            "line": {"color": GREY, "width": 1.5, "dash": "solid" if not guide.faint else "dot"},
        }
        for guide in guides
    ]
    names = series_of(dots)
    for place, name in enumerate(names):
        style = look(place)
        own = [dot for dot in dots if dot.series == name]
        trace: dict[str, Any] = {
            "type": "scatter",
            "mode": "lines+markers" if name and name == joined else "markers",
            "name": name,
            "x": numbers([dot.x for dot in own]),
            "y": numbers([dot.y for dot in own]),
            "hovertext": [
                f"<b>{escaped(dot.label)}</b><br>{escaped(dot.text)}" if dot.text else dot.label
                for dot in own
            ],
            "hoverinfo": "text",
            "line": {"color": style["colour"], "width": 1.5, "dash": "dot"},
            "marker": {"symbol": style["marker"], "size": 9, "color": style["colour"]},
        }
        if any(dot.anchor for dot in own):
            trace["customdata"] = [dot.anchor for dot in own]
        data.append(trace)
    several = len(names) + len(guides) > 1
    figure = {"data": data, "layout": layout(x.plotly(), y.plotly(), legend=several)}
    rows = [(dot.label, dot.series, dot.text) for dot in dots]
    table = Table(
        caption=title,
        columns=("point", "kind", "figures"),
        rows=tuple(spread(rows)),
        left_out=max(0, len(rows) - LONGEST_TABLE),
    )
    return Chart(key=key, title=title, summary=summary, figure=figure, table=table, height=height)


def ranges(
    key: str, title: str, summary: str, rows: Sequence[Range], bottom: Axis, *, height: int = 0
) -> Chart:
    """Return values with their ranges, one above the other."""
    data: list[dict[str, Any]] = [
        {
            "type": "bar",
            "orientation": "h",
            "y": [escaped(row.label)],
            "base": numbers([row.low]),
            "x": numbers([row.high - row.low]),
            "hovertext": escaped(f"{row.label}: {row.text}"),
            "hoverinfo": "text",
            "marker": {
                "color": row.colour,
                "opacity": 0.9 if row.strong else 0.3,
                "pattern": hatching(row.pattern),
            },
        }
        for row in rows
    ]
    data.append(
        {
            "type": "scatter",
            "mode": "markers",
            "y": [escaped(row.label) for row in rows],
            "x": numbers([row.value for row in rows]),
            "hoverinfo": "skip",
            "marker": {
                "symbol": "line-ns",
                "size": 18,
                "line": {"width": 3, "color": GREY},
            },
        }
    )
    side = axis(
        "",
        type="category",
        categoryorder="array",
        categoryarray=[escaped(row.label) for row in reversed(rows)],
        fixedrange=True,
        showgrid=False,
        ticksuffix=" ",
    )
    figure = {"data": data, "layout": layout(bottom.plotly(), side, barmode="overlay", bargap=0.4)}
    table = Table(
        caption=title,
        columns=("what", "value and range"),
        rows=tuple((row.label, row.text) for row in rows),
    )
    return Chart(
        key=key,
        title=title,
        summary=summary,
        figure=figure,
        table=table,
        height=height or 60 + (BAR_PIXELS + 4) * max(2, len(rows)),
    )
