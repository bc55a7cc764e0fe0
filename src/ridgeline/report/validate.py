"""Pages of ``ridgeline validate``: predicted against measured steps, kernels, services, traces."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean, median
from typing import Any

from ridgeline.report.charts import Bar, Dot, Line, bars, log_axis, scatter
from ridgeline.report.records import (
    Block,
    Chart,
    Page,
    Section,
    Table,
    Text,
    Tile,
    Tiles,
    Tone,
)
from ridgeline.report.rerun import Rerun, rerun_section
from ridgeline.units import counted, duration, figures, percent
from ridgeline.validation.kernels.report import KernelReport
from ridgeline.validation.serving.report import ServingReport
from ridgeline.validation.training import Report

MOST_DOTS = 1200
"""Of a scatter; of more they are taken evenly in the order of their errors."""
MOST_GROUPS = 25
WORST = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """A measured value beside its prediction."""

    name: str
    what: str
    measured: float
    predicted: float
    series: str = ""
    """How it is marked."""
    groups: Mapping[str, str]
    """Grouping -> the group it belongs to, for the errors."""

    @property
    def error(self) -> float:
        """Predicted over measured, less one."""
        return self.predicted / self.measured - 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Measure:
    """One quantity that was measured many times."""

    key: str
    name: str
    unit: str
    points: tuple[Point, ...]
    text: Callable[[float], str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """All that a page on measurements needs."""

    title: str
    subtitle: str
    measures: tuple[Measure, ...]
    skipped: Mapping[str, int]
    """Reason -> rows."""
    sources: str
    """Where the measured values come from."""


def validate_page(measured: Measured, rerun: Rerun) -> Page:
    """Return the page of predictions against measurements."""
    verdict, tone = _verdict(measured)
    return Page(
        command="validate",
        title=measured.title,
        subtitle=measured.subtitle,
        verdict=verdict,
        tone=tone,
        sections=(*validate_sections(measured), rerun_section(rerun)),
    )


def validate_sections(measured: Measured) -> tuple[Section, ...]:
    """Return the sections on measurements, all but how to get them again."""
    found = [one for one in measured.measures if one.points]
    sections = []
    if found:
        sections = [
            _deciding(measured, found),
            Section(
                key="parity",
                title="Predicted against measured",
                lead="On the line a prediction is right; between the dotted ones it is within 20%.",
                blocks=tuple(parity(one) for one in found),
                paired=len(found) > 1,
            ),
            _errors(found),
            _worst(found),
        ]
    sections.append(_left_out(measured))
    return tuple(sections)


def _median(points: Iterable[Point]) -> float:
    return median(abs(point.error) for point in points)


def _verdict(measured: Measured) -> tuple[str, Tone]:
    found = [one for one in measured.measures if one.points]
    if not found:
        return "No row could be predicted; the reasons are below.", "bad"
    parts = [
        f"{one.name}: half of {counted(len(one.points), 'prediction')} within "
        f"{percent(_median(one.points))}, mean error {percent(_mape(one.points))}"
        for one in found
    ]
    skipped = sum(measured.skipped.values())
    text = "; ".join(parts) + "."
    if skipped:
        text += f" {counted(skipped, 'row')} could not be predicted."
    worst = max(_median(one.points) for one in found)
    return text, "good" if worst <= 0.15 else "warn"


def _mape(points: Sequence[Point]) -> float:
    return fmean(abs(point.error) for point in points)


def _deciding(measured: Measured, found: Sequence[Measure]) -> Section:
    tiles = []
    for one in found:
        bias = fmean(point.error for point in one.points)
        near = sum(abs(point.error) <= 0.2 for point in one.points) / len(one.points)
        tiles.append(
            Tile(
                label=f"Median error, {one.name.lower()}",
                value=percent(_median(one.points)),
                note=f"mean {percent(_mape(one.points))}, bias {100 * bias:+.1f}%, "
                f"{percent(near)} within 20%",
            )
        )
    tiles.append(
        Tile(
            label="Rows",
            value=f"{max(len(one.points) for one in found):,}",
            note=f"{sum(measured.skipped.values()):,} skipped",
        )
    )
    return Section(key="figures", title="Figures that decide", blocks=(Tiles(tiles=tuple(tiles)),))


def parity(measure: Measure) -> Chart:
    """Return predicted over measured values of one quantity."""
    ordered = sorted(measure.points, key=lambda one: (one.error, one.name))
    step = -(-len(ordered) // MOST_DOTS)
    drawn = ordered[::step]
    dots = [
        Dot(
            x=point.measured,
            y=point.predicted,
            label=point.name,
            text=f"measured {measure.text(point.measured)}, predicted "
            f"{measure.text(point.predicted)} ({100 * point.error:+.1f}%); {point.what}",
            series=point.series,
        )
        for point in drawn
    ]
    values = [value for point in drawn for value in (point.measured, point.predicted)]
    low, high = 0.5 * min(values), 2.0 * max(values)
    guides = [
        Line(
            name=name,
            xs=(low, high),
            ys=(low * factor, high * factor),
            texts=(),
            faint=factor != 1.0,
        )
        for name, factor in (("right", 1.0), ("20% over", 1.2), ("20% under", 0.8))
    ]
    chart = scatter(
        f"parity-{measure.key}",
        measure.name,
        f"Half of the predictions are within {percent(_median(measure.points))} of what was "
        "measured.",
        dots,
        log_axis(f"measured, {measure.unit}", values, figures),
        log_axis(f"predicted, {measure.unit}", values, figures),
        guides=guides,
        height=420,
    )
    if step > 1:
        note = f"{len(drawn):,} of {len(ordered):,} rows are drawn, evenly over their errors."
        chart = replace(chart, note=note)
    return chart


def _errors(found: Sequence[Measure]) -> Section:
    blocks: list[Block] = []
    for one in found:
        groupings = list(one.points[0].groups)
        for place, grouping in enumerate(groupings):
            members: dict[str, list[Point]] = {}
            for point in one.points:
                members.setdefault(point.groups[grouping] or "not stated", []).append(point)
            ordered = sorted(members.items(), key=lambda item: (-len(item[1]), item[0]))
            if place == 0:
                blocks.append(_error_chart(one, grouping, ordered[:MOST_GROUPS]))
            blocks.append(_error_table(one, grouping, ordered, folded=True))
    return Section(key="errors", title="Errors by source and kind", blocks=tuple(blocks))


def _error_chart(
    measure: Measure, grouping: str, groups: Sequence[tuple[str, Sequence[Point]]]
) -> Chart:
    rows = [
        Bar(
            label=name if len(name) < 40 else f"{name[:37]}...",
            value=_median(points),
            text=f"{percent(_median(points))}, {counted(len(points), 'row')}",
            note=f"mean {percent(_mape(points))}, bias "
            f"{100 * fmean(point.error for point in points):+.1f}%",
        )
        for name, points in groups
    ]
    return bars(
        f"errors-{measure.key}",
        f"{measure.name}: median error by {grouping}",
        "Groups with the most rows first.",
        rows,
        unit="median error",
    )


def _error_table(
    measure: Measure,
    grouping: str,
    groups: Sequence[tuple[str, Sequence[Point]]],
    *,
    folded: bool,
) -> Table:
    return Table(
        caption=f"{measure.name} by {grouping}",
        columns=(grouping, "rows", "mean", "median", "bias"),
        rows=tuple(
            (
                name,
                f"{len(points):,}",
                percent(_mape(points)),
                percent(_median(points)),
                f"{100 * fmean(point.error for point in points):+.1f}%",
            )
            for name, points in groups[:200]
        ),
        numeric=(1, 2, 3, 4),
        left_out=max(0, len(groups) - 200),
        folded=folded,
    )


def _worst(found: Sequence[Measure]) -> Section:
    blocks = []
    for one in found:
        ordered = sorted(one.points, key=lambda point: (-abs(point.error), point.name))
        blocks.append(
            Table(
                caption=f"Worst rows, {one.name.lower()}",
                columns=("row", "error", "measured", "predicted", "what"),
                rows=tuple(
                    (
                        point.name,
                        f"{100 * point.error:+.1f}%",
                        one.text(point.measured),
                        one.text(point.predicted),
                        point.what,
                    )
                    for point in ordered[:WORST]
                ),
                numeric=(1, 2, 3),
            )
        )
    return Section(key="worst", title="Worst rows", blocks=tuple(blocks))


def _left_out(measured: Measured) -> Section:
    blocks: list[Block] = []
    if measured.skipped:
        ordered = sorted(measured.skipped.items(), key=lambda item: (-item[1], item[0]))
        blocks.append(
            Table(
                caption="Why rows were skipped",
                columns=("reason", "rows"),
                rows=tuple((reason, f"{count:,}") for reason, count in ordered[:100]),
                numeric=(1,),
                left_out=max(0, len(ordered) - 100),
            )
        )
    blocks.append(Text(lines=(measured.sources,)))
    return Section(
        key="assumptions",
        title="Assumptions and their sources",
        lead="No row is dropped silently or guessed.",
        blocks=tuple(blocks),
    )


def measured_steps(report: Report) -> Measured:
    """Return measured training steps as a page needs them."""
    points = []
    for row in report.rows:
        if row.measured_step_time_s and row.predicted_step_time_s:
            groups = {
                "source": row.source,
                "accelerator": row.accelerator,
                "stack": row.stack,
                "evidence": row.evidence,
                "kind of plan": row.plan_type,
            }
            points.append(
                Point(
                    name=row.id,
                    what=f"{row.model} on {row.accelerators} {row.accelerator}, {row.plan_type}, "
                    f"{row.stack}",
                    measured=row.measured_step_time_s,
                    predicted=row.predicted_step_time_s,
                    series=row.evidence,
                    groups=groups,
                )
            )
    step = Measure(key="step", name="Step time", unit="s", points=tuple(points), text=duration)
    inside = report.overall.inside_range
    sources = "Each row's source is in its table (docs/validation.md)."
    if inside is not None:
        sources += f" {percent(inside)} of the measured times lie inside the predicted ranges."
    return Measured(
        title="Predicted against measured training steps",
        subtitle=Path(report.path).name,
        measures=(step,),
        skipped=_reasons(report.rows),
        sources=sources,
    )


def _reasons(rows: Iterable[Any]) -> Counter[str]:
    return Counter(row.reason for row in rows if row.status == "skipped")


def measured_kernels(report: KernelReport) -> Measured:
    """Return measured kernels as a page needs them."""
    points = tuple(
        Point(
            name=f"row {row.row}",
            what=f"{row.op}, {row.library} {row.version}, {row.dtype}, {row.kernel}, {row.regime}",
            measured=row.measured_us,
            predicted=row.predicted_us,
            series=row.regime,
            groups={
                "regime": row.regime,
                "library": f"{row.library} {row.version}",
                "dtype": row.dtype,
                "rung": row.rung,
            },
        )
        for row in report.rows
        if row.predicted_us and row.measured_us > 0
    )
    kernel = Measure(
        key="kernel",
        name="Kernel time",
        unit="µs",
        points=points,
        text=lambda value: duration(value * 1e-6),
    )
    return Measured(
        title=f"Predicted against measured kernels of {report.accelerator}",
        subtitle=f"{Path(report.path).name}: {report.kind}",
        measures=(kernel,),
        skipped=_reasons(report.rows),
        sources="The rung says what a kernel was priced from (docs/kernels.md).",
    )


def measured_services(report: ServingReport) -> Measured:
    """Return measured services as a page needs them."""
    measures = []
    for key, name, unit, column, text in (
        ("ttft", "Time to first token", "ms", "ttft_ms", _milliseconds),
        ("tpot", "Time per output token", "ms", "tpot_ms", _milliseconds),
        (
            "throughput",
            "Throughput",
            "tokens/s an accelerator",
            "throughput_tok_s_per_accel",
            figures,
        ),
    ):
        points = tuple(
            Point(
                name=row.id,
                what=f"{row.model} on {row.accelerator}, {row.engine}, {row.kind}, "
                f"{row.configuration}",
                measured=getattr(row, f"measured_{column}"),
                predicted=getattr(row, f"predicted_{column}"),
                series=row.kind,
                groups={
                    "source": row.source,
                    "kind": row.kind,
                    "accelerator": row.accelerator,
                    "engine": row.engine,
                    "model": row.model,
                },
            )
            for row in report.rows
            if getattr(row, f"measured_{column}") and getattr(row, f"predicted_{column}")
        )
        measures.append(Measure(key=key, name=name, unit=unit, points=points, text=text))
    return Measured(
        title="Predicted against measured services",
        subtitle=Path(report.path).name,
        measures=tuple(measures),
        skipped=_reasons(report.rows),
        sources="How each source's client drove its engine: docs/serving-accuracy.md.",
    )


def _milliseconds(value: float) -> str:
    return duration(value * 1e-3)
