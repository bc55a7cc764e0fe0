"""The page of ``ridgeline validate --trace``: a profiled step beside the simulated one."""

from __future__ import annotations

from ridgeline.report.charts import Bar, bars
from ridgeline.report.records import Block, Chart, Page, Section, Table, Text, Tile, Tiles
from ridgeline.report.rerun import Rerun, rerun_section
from ridgeline.report.validate import Measure, Point, parity
from ridgeline.units import duration, figures
from ridgeline.validation.traces.compare import Comparison

MOST_ROWS = 60


def trace_page(found: Comparison, name: str, rerun: Rerun) -> Page:
    """Return the page of a trace."""
    plan, error = found.plan, found.error
    off = "" if error is None else f" ({100 * error:+.1f}%)"
    verdict = f"A step took {duration(found.measured.window_s)}; "
    verdict += f"predicted {duration(found.simulated.total_s)}{off}."
    if found.disagreements:
        first = found.disagreements[0]
        verdict += f" The largest disagreement is {first.what}."
    return Page(
        command="validate",
        title=f"A profiled step of {plan.model.name} on {plan.cluster.accelerator.name}",
        subtitle=f"{name}, written by {found.program}; simulated as {found.stack}",
        verdict=verdict,
        tone="good" if error is not None and abs(error) <= 0.15 else "warn",
        sections=(*trace_sections(found), rerun_section(rerun)),
    )


def trace_sections(found: Comparison) -> tuple[Section, ...]:
    """Return the sections of a trace, all but how to get it again."""
    measured, simulated = found.measured, found.simulated
    tiles = (
        Tile(label="Measured step", value=duration(measured.window_s)),
        Tile(label="Predicted step", value=duration(simulated.total_s)),
        Tile(
            label="Exposed communication",
            value=duration(measured.exposed_communication_s),
            note=f"predicted {duration(simulated.exposed_communication_s)}",
        ),
    )
    sections = [
        Section(key="figures", title="Figures that decide", blocks=(Tiles(tiles=tiles),)),
        Section(key="where", title="Where time goes", blocks=(_categories(found),)),
    ]
    kernels = _kernels(found)
    if kernels:
        sections.append(
            Section(key="kernels", title="Matrix products and collectives", blocks=kernels)
        )
    if found.disagreements:
        table = Table(
            caption="Largest first",
            columns=("what", "measured", "predicted", "what it may mean"),
            rows=tuple(
                (one.what, duration(one.measured_s), duration(one.predicted_s), one.meaning)
                for one in found.disagreements[:MOST_ROWS]
            ),
            numeric=(1, 2),
        )
        sections.append(Section(key="apart", title="Where they disagree", blocks=(table,)))
    sections.append(_assumptions(found))
    return tuple(sections)


def _categories(found: Comparison) -> Chart:
    rows = []
    for one in found.categories:
        off = "" if one.error is None else f" ({100 * one.error:+.1f}%)"
        for series, seconds, text in (
            ("measured", one.measured_s, duration(one.measured_s)),
            ("predicted", one.predicted_s, duration(one.predicted_s) + off),
        ):
            rows.append(
                Bar(label=f"{one.category}, {series}", value=seconds, text=text, series=series)
            )
    return bars("categories", "Time by category", "Of a step, measured and predicted.", rows)


def _kernels(found: Comparison) -> tuple[Block, ...]:
    products = tuple(
        Point(
            name=one.operator or f"{one.m}x{one.n}x{one.k}",
            what=f"{one.m}x{one.n}x{one.k}, {one.dtype}, {figures(one.calls)} calls, "
            f"{figures(one.tflops_per_s)} TFLOP/s",
            measured=one.measured_s * 1e6,
            predicted=one.predicted_s * 1e6,
            series="matrix products",
            groups={},
        )
        for one in found.gemms
        if one.predicted_s and one.measured_s > 0
    )
    wires = tuple(
        Point(
            name=one.kind,
            what=f"{figures(one.bytes / 1e6)} MB over {one.ranks}, {figures(one.calls)} calls",
            measured=one.measured_s * 1e6,
            predicted=one.predicted_s * 1e6,
            series="collectives",
            groups={},
        )
        for one in found.collectives
        if one.predicted_s and one.measured_s > 0
    )
    points = (*products, *wires)
    if not points:
        return ()
    measure = Measure(
        key="kernels",
        name="Matrix products and collectives of a step",
        unit="µs",
        points=points,
        text=lambda value: duration(value * 1e-6),
    )
    return (parity(measure),)


def _assumptions(found: Comparison) -> Section:
    blocks: list[Block] = []
    if found.losses:
        blocks.append(Text(lines=found.losses, tone="warn", listed=True))
    blocks.append(
        Table(
            caption="What was read out of the trace",
            columns=("setting", "value", "why"),
            rows=tuple((one.key, str(one.value), one.why) for one in found.inferred),
        )
    )
    return Section(key="assumptions", title="Assumptions and their sources", blocks=tuple(blocks))
