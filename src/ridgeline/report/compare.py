"""The page of ``ridgeline compare``: accelerators and clouds side by side on one job."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ridgeline.report.assumptions import plain
from ridgeline.report.axes import time_unit
from ridgeline.report.charts import Axis, Bar, Dot, Range, bars, ranges, scatter
from ridgeline.report.evidence import grade_title
from ridgeline.report.palette import GRADE_LOOK
from ridgeline.report.records import (
    Block,
    Chart,
    Evidence,
    Page,
    Section,
    Table,
    Text,
    Tile,
    Tiles,
    Tone,
)
from ridgeline.report.rerun import Rerun, rerun_section
from ridgeline.simulator.compare.records import Comparison, Row
from ridgeline.simulator.results import TrainingResult
from ridgeline.simulator.uncertainty import GRADES
from ridgeline.units import (
    counted,
    dollars,
    duration,
    energy,
    figures,
    large,
    mass,
    percent,
)
from ridgeline.words import EVIDENCE

Pair = tuple[Row, TrainingResult]
SPLIT = ("tp", "pp", "vpp", "dp", "cp", "ep", "zero_stage")


def compare_page(found: Comparison, rerun: Rerun) -> Page:
    """Return the page of a comparison."""
    rows = _feasible(found)
    verdict, tone = _verdict(found, rows)
    return Page(
        command="compare",
        title=f"{found.model} on {counted(len(found.rows), 'accelerator')}",
        subtitle=f"each with its own best plan, ranked by {found.by}",
        verdict=verdict,
        tone=tone,
        evidence=_evidence(rows),
        sections=(*compare_sections(found), rerun_section(rerun)),
    )


def _feasible(found: Comparison) -> list[Pair]:
    return [(row, row.result) for row in found.rows if row.result is not None]


def compare_sections(found: Comparison) -> tuple[Section, ...]:
    """Return the sections of a comparison, all but how to get it again."""
    rows = _feasible(found)
    sections = []
    if rows:
        sections = [_deciding(found, rows), _side_by_side(rows), _certainty(found)]
        sections += [_where(rows), _prices(rows)]
        if any(row.owning for row, _ in rows):
            sections.append(_owning(rows))
        sections += [_accuracy(rows), _plans(rows)]
    failed = [row for row in found.rows if row.result is None]
    if failed:
        table = Table(
            caption="What stands against it",
            columns=("accelerator", "reason"),
            rows=tuple((row.name, row.reason) for row in failed),
        )
        sections.append(Section(key="cannot", title="Cannot run this", blocks=(table,)))
    sections.append(_assumptions(found, rows))
    return tuple(sections)


def _verdict(found: Comparison, rows: Sequence[Pair]) -> tuple[str, Tone]:
    if not rows:
        return "None of these accelerators can run this job.", "bad"
    row, result = rows[0]
    figure = dollars(result.cost_usd) if found.by == "cost" else duration(result.wall_clock_s)
    word = "cheapest" if found.by == "cost" else "fastest"
    text = f"{row.name} is the {word}: {figure}, on {result.accelerators:,} of them in "
    text += f"{duration(result.wall_clock_s)}."
    weak = result.evidence == "datasheet"
    if weak:
        text += " That rests on its data sheet alone."
    if len(rows) < 2:
        return text, "warn" if weak else "good"
    second = rows[1][0]
    pairing = found.between(found.by, row.name, second.name)
    if pairing is None:
        return text, "warn" if weak else "good"
    sure = percent(min(pairing.probability, 0.999))
    if pairing.ranked:
        text += f" It beats {second.name}, the next, with a probability of {sure}."
        return text, "warn" if weak else "good"
    return (
        f"{text} It cannot be told from {second.name}, the next: the probability that it is the "
        f"{word} of the two is {sure}."
    ), "warn"


def _evidence(rows: Sequence[Pair]) -> Evidence | None:
    """Return the weakest evidence among the rows, which is what a ranking rests on."""
    if not rows:
        return None
    grade = max((result.evidence for _, result in rows), key=GRADES.index)
    names = [row.name for row, result in rows if result.evidence == grade]
    return Evidence(
        grade=grade,
        title=f"Weakest evidence: {EVIDENCE[grade][2].lower()}",
        text=f"Of {', '.join(names)}: {EVIDENCE[grade][3]}.",
    )


def _deciding(found: Comparison, rows: Sequence[Pair]) -> Section:
    tiles = []
    cheapest = min(
        (pair for pair in rows if pair[1].usd_per_accelerator_hour),
        key=lambda pair: pair[1].cost_usd,
        default=None,
    )
    fastest = min(rows, key=lambda pair: pair[1].wall_clock_s)
    if cheapest is not None:
        row, result = cheapest
        tiles.append(
            Tile(
                label=f"Cheapest: {row.name}",
                value=dollars(result.cost_usd),
                note=duration(result.wall_clock_s),
            )
        )
    row, result = fastest
    tiles.append(
        Tile(
            label=f"Fastest: {row.name}",
            value=duration(result.wall_clock_s),
            note=dollars(result.cost_usd) if result.usd_per_accelerator_hour else "",
        )
    )
    row, result = min(rows, key=lambda pair: pair[1].energy_kwh)
    tiles.append(
        Tile(
            label=f"Least energy: {row.name}",
            value=energy(result.energy_kwh),
            note=f"{mass(result.co2_kg)} CO2",
        )
    )
    first = [one for one in found.pairings if one.by == found.by and one.first == rows[0][0].name]
    if first:
        doubt = [one.second for one in first if not one.ranked]
        tiles.append(
            Tile(
                label="Sure of the first place",
                value="no" if doubt else "yes",
                note=f"cannot be told from {', '.join(doubt)}" if doubt else "against all others",
                tone="warn" if doubt else "good",
            )
        )
    return Section(key="figures", title="Figures that decide", blocks=(Tiles(tiles=tuple(tiles)),))


def _side_by_side(rows: Sequence[Pair]) -> Section:
    unit, name = time_unit(max(result.wall_clock_s for _, result in rows))
    blocks: list[Block] = []
    priced = [pair for pair in rows if pair[1].usd_per_accelerator_hour]
    if priced:
        blocks.append(_range_chart("cost", "Cost", priced, 1.0, "USD", _cost_words))
        dots = [
            Dot(
                x=result.wall_clock_s / unit,
                y=result.cost_usd,
                label=row.name,
                text=f"{duration(result.wall_clock_s)}, {dollars(result.cost_usd)}, "
                f"{result.accelerators:,} accelerators, {EVIDENCE[result.evidence][2].lower()}",
                series=row.name,
            )
            for row, result in priced
        ]
        blocks.append(_range_chart("run", "Time", rows, unit, name, _time_words))
        blocks.append(
            scatter(
                "time-cost",
                "Time against cost",
                "To the lower left is better.",
                dots,
                Axis(title=f"time, {name}", from_zero=True),
                Axis(title="cost, USD", from_zero=True),
            )
        )
    else:
        blocks.append(_range_chart("run", "Time", rows, unit, name, _time_words))
    energy_rows = [
        Bar(label=row.name, value=result.energy_kwh, text=energy(result.energy_kwh))
        for row, result in rows
    ]
    blocks.append(bars("energy", "Energy", "From the grid, of the whole job.", energy_rows))
    return Section(
        key="side",
        title="Side by side",
        lead="Bars span the range that four in five measured steps fell into; hatched red is a "
        "data sheet alone.",
        blocks=tuple(blocks),
        paired=True,
    )


def _cost_words(result: TrainingResult) -> tuple[float, str]:
    return result.cost_usd, dollars(result.cost_usd)


def _time_words(result: TrainingResult) -> tuple[float, str]:
    return result.wall_clock_s, duration(result.wall_clock_s)


def _range_chart(
    key: str,
    title: str,
    rows: Sequence[Pair],
    unit: float,
    unit_name: str,
    of: Callable[[TrainingResult], tuple[float, str]],
) -> Chart:
    drawn = []
    for row, result in rows:
        value, words = of(result)
        low = result.step_time_low_s / result.step_time_s
        high = result.step_time_high_s / result.step_time_s
        colour, pattern = GRADE_LOOK[result.evidence]
        grade = EVIDENCE[result.evidence][2].lower()
        drawn.append(
            Range(
                label=row.name,
                low=low * value / unit,
                value=value / unit,
                high=high * value / unit,
                text=f"{words}, {100 * (low - 1):+.0f}% to {100 * (high - 1):+.0f}% ({grade})",
                colour=colour,
                pattern=pattern,
            )
        )
    first = f"{rows[0][0].name}: {drawn[0].text}."
    return ranges(
        f"{key}-ranges", title, f"With its range. {first}", drawn,
        Axis(title=unit_name, from_zero=True),
    )  # fmt: skip


def _certainty(found: Comparison) -> Section:
    lines = []
    for one in found.pairings:
        regret = dollars(one.regret) if one.by == "cost" else duration(one.regret)
        wrong = dollars(one.regret_if_wrong) if one.by == "cost" else duration(one.regret_if_wrong)
        lines.append(
            (
                f"{one.first} {'cheaper' if one.by == 'cost' else 'faster'} than {one.second}",
                "> 99.9%" if one.probability > 0.999 else percent(one.probability),
                "yes" if one.ranked else "cannot be ranked",
                regret,
                wrong,
            )
        )
    shown = [one for one in found.pairings if one.by == found.by][:24]
    chart = bars(
        "sure",
        f"How sure the ranking by {found.by} is",
        "Probability that the first of each pair is the better one; 50% is a coin.",
        [
            Bar(
                label=f"{one.first} before {one.second}",
                value=one.probability,
                text="> 99.9%" if one.probability > 0.999 else percent(one.probability),
                series="ranked" if one.ranked else "cannot be ranked",
            )
            for one in shown
        ],
        unit="probability",
    )
    table = Table(
        caption="Every pair, and what choosing wrong costs",
        columns=("is", "probability", "ranked", "expected regret", "if wrong"),
        rows=tuple(lines),
        numeric=(1, 3, 4),
        folded=True,
    )
    blocks = (chart, table) if shown else (table,)
    return Section(key="certainty", title="How sure the ranking is", blocks=blocks)


def _where(rows: Sequence[Pair]) -> Section:
    table = Table(
        caption="Where a step goes, and memory",
        columns=("accelerator", "step", "MFU", "bubble", "exposed communication", "memory", "free"),
        rows=tuple(
            (
                row.name,
                duration(result.step_time_s),
                percent(result.mfu),
                percent(result.bubble_fraction),
                percent(result.exposed_communication_fraction),
                f"{result.worst_memory.total / 2**30:,.1f} GiB",
                percent(1.0 - result.worst_memory.total / result.memory_limit),
            )
            for row, result in rows
        ),
        numeric=(1, 2, 3, 4, 5, 6),
    )
    chart = bars(
        "mfu",
        "Share of the peak that the model gets (MFU)",
        "What a dear peak is worth to this job.",
        [Bar(label=row.name, value=result.mfu, text=percent(result.mfu)) for row, result in rows],
    )
    return Section(key="where", title="Where time and memory go", blocks=(chart, table))


def _prices(rows: Sequence[Pair]) -> Section:
    table = Table(
        caption="USD an accelerator-hour; ties at: the price at which it costs as much as the "
        "cheapest (the cheapest: as the next)",
        columns=("accelerator", "price", "kind", "of", "ties at", "tokens a dollar", "source"),
        rows=tuple(
            (
                row.name,
                figures(result.usd_per_accelerator_hour) if row.price_kind else "unknown",
                row.price_kind,
                row.price_date,
                "" if row.tie_usd_per_hour is None else figures(row.tie_usd_per_hour),
                large(row.tokens_per_usd) if row.tokens_per_usd else "",
                row.price_source,
            )
            for row, result in rows
        ),
        numeric=(1, 4, 5),
    )
    return Section(key="prices", title="Prices, and where the ranking flips", blocks=(table,))


def _owning(rows: Sequence[Pair]) -> Section:
    owned = [(row, row.owning) for row, _ in rows if row.owning is not None]
    table = Table(
        caption="Owning instead of renting",
        columns=("accelerator", "USD/h in use", "this job", "beats renting from", "paid back"),
        rows=tuple(
            (
                row.name,
                figures(owning.usd_per_useful_hour),
                dollars(owning.job_usd),
                "never"
                if owning.break_even_utilisation is None or owning.break_even_utilisation > 1.0
                else f"{percent(owning.break_even_utilisation)} use",
                "never" if owning.break_even_month is None else f"month {owning.break_even_month}",
            )
            for row, owning in owned
        ),
        numeric=(1, 2, 3, 4),
    )
    first, owning = owned[0]
    assumed = Table(
        caption=f"What owning {first.name} assumes",
        columns=("assumption", "value", "unit", "source"),
        rows=tuple(
            (
                one.name,
                plain(one.value),
                one.unit,
                f"{one.source}{' (assumed)' if one.assumed else ''}",
            )
            for one in owning.assumptions
        ),
        numeric=(1,),
        folded=True,
    )
    return Section(key="owning", title="Renting or owning", blocks=(table, assumed))


def _accuracy(rows: Sequence[Pair]) -> Section:
    table = Table(
        caption="What stands behind each step time",
        columns=("accelerator", "evidence", "step", "range"),
        rows=tuple(
            (
                row.name,
                grade_title(result.evidence),
                duration(result.step_time_s),
                f"{duration(result.step_time_low_s)} to {duration(result.step_time_high_s)}",
            )
            for row, result in rows
        ),
        numeric=(2, 3),
    )
    return Section(key="accuracy", title="How accurate these predictions are", blocks=(table,))


def _plans(rows: Sequence[Pair]) -> Section:
    lines = []
    for row, result in rows:
        parallel, training = result.plan["parallel"], result.plan["training"]
        split = [
            f"{name.removesuffix('_stage')} {parallel[name]}"
            for name in SPLIT
            if parallel[name] > (0 if name == "zero_stage" else 1)
        ]
        split += [f"micro-batch {training['micro_batch_seqs']}"]
        split += [f"recompute {training['recompute']}"]
        lines.append((row.name, row.stack, result.cluster, ", ".join(split), f"{row.plans:,}"))
    table = Table(
        caption="The best plan of each",
        columns=("accelerator", "stack", "cluster", "split", "legal plans"),
        rows=tuple(lines),
        numeric=(4,),
    )
    return Section(key="plans", title="The plans", blocks=(table,))


def _assumptions(found: Comparison, rows: Sequence[Pair]) -> Section:
    blocks: list[Block] = []
    warnings = [*found.warnings, *(line for _, result in rows for line in result.warnings)]
    if warnings:
        blocks.append(Text(lines=tuple(dict.fromkeys(warnings)), tone="warn", listed=True))
    blocks.append(
        Table(
            caption="What stands behind the numbers",
            columns=("accelerator", "what", "source"),
            rows=tuple(
                (row.name, note.kind, note.text)
                for row, result in rows
                for note in result.provenance
            ),
        )
    )
    return Section(key="assumptions", title="Every assumption and its source", blocks=tuple(blocks))
