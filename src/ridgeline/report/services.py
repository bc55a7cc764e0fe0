"""Pages of ``plan --serve`` and ``compare --serve``: which service to deploy."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ridgeline.hardware import load_accelerator
from ridgeline.report.assumptions import device_table, provenance_table, settings_table
from ridgeline.report.charts import Axis, Bar, Dot, Range, bars, log_axis, ranges, scatter
from ridgeline.report.records import Block, Chart, Page, Section, Table, Text, Tile, Tiles
from ridgeline.report.rerun import Rerun, rerun_section
from ridgeline.report.serving_accuracy import serving_accuracy_chart, serving_evidence
from ridgeline.simulator.compare.services import ServiceComparison
from ridgeline.simulator.serving.choice.front import Front
from ridgeline.simulator.serving.choice.goals import Goal
from ridgeline.simulator.serving.choice.rate import HighestRate
from ridgeline.simulator.serving.choice.records import Choice, ServicePlan
from ridgeline.units import counted, dollars, duration, energy, figures, large, percent
from ridgeline.words import pool_words

NAMES = {"ttft": "first token", "tpot": "per output token", "latency": "end to end"}


def choice_page(found: Choice, rerun: Rerun) -> Page:
    """Return the page of the cheapest service."""
    best = found.best
    words = f"{best.accelerators:,} x {best.accelerator} with {best.engine}, "
    words += f"{pool_words(best.pools)}"
    price = f" for {dollars(best.usd_per_hour)} an hour" if best.usd_per_hour else ""
    counts = found.counts
    searched = (
        f"{counted(counts.seen, 'deployment')}: {counts.throughput_bound:,} too few for the work, "
        f"{counts.cost_bound:,} dearer than the best by a bound, {counts.cut:,} given up early, "
        f"{counts.played:,} played to the end."
    )
    others = [
        (f"{one.accelerators:,} x {one.accelerator}, {one.mode}", one) for one in found.others
    ]
    named = [(f"{best.accelerators:,} x {best.accelerator}, {best.mode}", best), *others]
    return Page(
        command="plan",
        title=f"The cheapest service of {best.result.model}",
        subtitle=found.asked,
        verdict=f"{words}, keep the promise{price}.",
        tone="good",
        evidence=serving_evidence(load_accelerator(best.accelerator), best.engine),
        sections=(
            _deciding(best, found.goals),
            _kept(best, found.goals),
            _side_by_side(named, found.goals, "This and the other ways"),
            Section(key="searched", title="What was searched", lead=searched),
            *_behind(best),
            rerun_section(rerun),
        ),
    )


def rate_page(found: HighestRate, rerun: Rerun) -> Page:
    """Return the page of the highest rate that is kept."""
    plan = found.plan
    return Page(
        command="plan",
        title=f"The highest rate of {plan.result.model}",
        subtitle=found.asked,
        verdict=f"{figures(found.requests_per_s)} requests a second on {plan.accelerators:,} x "
        f"{plan.accelerator} ({figures(found.requests_per_s_per_accelerator)} an accelerator) "
        f"keep the promise, with {plan.engine}, {pool_words(plan.pools)}.",
        tone="good",
        evidence=serving_evidence(load_accelerator(plan.accelerator), plan.engine),
        sections=(
            _deciding(plan, found.goals),
            _kept(plan, found.goals),
            *_behind(plan),
            rerun_section(rerun),
        ),
    )


def services_page(found: ServiceComparison, rerun: Rerun) -> Page:
    """Return the page of a comparison of services."""
    named = [(row.name, row.plan) for row in found.rows if row.plan is not None]
    failed = [row for row in found.rows if row.plan is None]
    sections = []
    verdict = "None of these accelerators can keep the promise."
    if named:
        name, best = named[0]
        cost = f"{dollars(best.usd_per_hour)} an hour, " if best.usd_per_hour else ""
        verdict = f"{name} is the cheapest: {cost}{best.accelerators:,} of them with "
        verdict += f"{best.engine}, {pool_words(best.pools)}."
        sections = [
            _side_by_side(named, found.goals, "Side by side"),
            _kept(best, found.goals),
        ]
    if failed:
        table = Table(
            caption="What stands against it",
            columns=("accelerator", "reason"),
            rows=tuple((row.name, row.reason) for row in failed),
        )
        sections.append(Section(key="cannot", title="Cannot serve this", blocks=(table,)))
    if named:
        sections += _behind(named[0][1])
    weakest = _weakest([plan for _, plan in named])
    return Page(
        command="compare",
        title=f"{found.model}: the cheapest service of each",
        subtitle=f"{found.asked}; {', '.join(goal.text for goal in found.goals)}",
        verdict=verdict,
        tone="good" if named else "bad",
        evidence=None
        if weakest is None
        else serving_evidence(load_accelerator(weakest.accelerator), weakest.engine),
        sections=(*sections, rerun_section(rerun)),
    )


def _weakest(plans: Sequence[ServicePlan]) -> ServicePlan | None:
    """Return a plan with the weakest evidence, which is what a ranking rests on."""
    measured = [load_accelerator(one.accelerator).efficiency.rung == "fitted" for one in plans]
    return next(
        (one for one, known in zip(plans, measured, strict=True) if not known),
        plans[0] if plans else None,
    )


def front_page(found: Front, rerun: Rerun) -> Page:
    """Return the page of a front of services."""
    points = found.points
    fastest = max(points, key=lambda one: one.output_tokens_per_s_per_user)
    fullest = max(points, key=lambda one: one.output_tokens_per_s_per_accelerator)
    dots = [
        Dot(
            x=point.output_tokens_per_s_per_user,
            y=point.output_tokens_per_s_per_accelerator,
            label=f"{point.accelerators:,} x {point.accelerator}, {point.concurrency:,} in flight",
            text=f"{figures(point.output_tokens_per_s_per_user)} tokens/s a user, "
            f"{figures(point.output_tokens_per_s_per_accelerator)} an accelerator, first token "
            f"{duration(point.ttft_p50_s)}, {_price(point.usd_per_million_output_tokens)} for 1M "
            f"output tokens; {pool_words(point.pools)}",
            series=point.accelerator,
        )
        for point in points
    ]
    chart = scatter(
        "front",
        "Tokens a second: for a user, and of an accelerator",
        "No other deployment that was searched is better in both.",
        dots,
        log_axis("output tokens/s a user", [dot.x for dot in dots], figures),
        log_axis("output tokens/s an accelerator", [dot.y for dot in dots], figures),
        joined=points[0].accelerator if len({one.accelerator for one in points}) == 1 else "",
    )
    return Page(
        command="plan",
        title="The front: fast for a user, or much from an accelerator",
        subtitle=found.asked,
        verdict=f"From {figures(fastest.output_tokens_per_s_per_user)} tokens a second for a user "
        f"to {figures(fullest.output_tokens_per_s_per_accelerator)} from an accelerator: "
        f"{counted(len(points), 'deployment')} of {found.seen:,} that no other beats in both.",
        tone="good",
        evidence=serving_evidence(load_accelerator(points[0].accelerator), points[0].engine),
        sections=(
            Section(key="pareto", title="The front", blocks=(chart,)),
            Section(
                key="accuracy",
                title="How accurate predictions of services are",
                blocks=(serving_accuracy_chart(),),
            ),
            rerun_section(rerun),
        ),
    )


def _price(value: float) -> str:
    if math.isnan(value):
        return "no price"
    return dollars(value) if value >= 0.1 else f"${figures(value, 2)}"


def _deciding(plan: ServicePlan, goals: Sequence[Goal]) -> Section:
    result = plan.result
    tiles = [
        Tile(
            label=f"Promised: {NAMES[goal.figure]}",
            value=duration(plan.reached_s[goal.figure]),
            note=f"at most {duration(goal.limit_s)} for {percent(goal.share)} of requests",
            tone="good",
        )
        for goal in goals
    ]
    if plan.usd_per_hour:
        tiles.append(
            Tile(
                label="Cost",
                value=f"{dollars(plan.usd_per_hour)}/h",
                note=f"{_price(plan.usd_per_million_tokens)} for 1M tokens",
            )
        )
    tiles += [
        Tile(
            label="Output",
            value=f"{large(result.output_tokens_per_s)} tokens/s",
            note=f"{figures(result.output_tokens_per_s / plan.accelerators)}/s an accelerator",
        ),
        Tile(
            label="Busy",
            value=percent(result.utilisation),
            note=f"KV cache {percent(result.kv_mean_fraction)} full",
        ),
        Tile(
            label="Energy of 1M tokens",
            value=energy(result.bill.kwh_per_million_tokens),
        ),
    ]
    return Section(key="figures", title="Figures that decide", blocks=(Tiles(tiles=tuple(tiles)),))


def _kept(plan: ServicePlan, goals: Sequence[Goal]) -> Section:
    rows = []
    for goal in goals:
        spread = getattr(plan.result, f"{goal.figure}_s")
        rows.append(
            Range(
                label=NAMES[goal.figure],
                low=spread.p50 / goal.limit_s,
                value=plan.reached_s[goal.figure] / goal.limit_s,
                high=spread.p99 / goal.limit_s,
                text=f"median {duration(spread.p50)}, p99 {duration(spread.p99)}, what is promised "
                f"of: {duration(plan.reached_s[goal.figure])}, limit {duration(goal.limit_s)}",
            )
        )
    chart = ranges(
        "promise",
        "What is kept, relative to the limit",
        "Bars span the median to the 99th percentile; the mark is the share that is promised, and "
        "100% the limit.",
        rows,
        Axis(title="of the limit", percent=True, from_zero=True),
    )
    return Section(key="kept", title="What users wait", blocks=(chart,))


def _side_by_side(
    named: Sequence[tuple[str, ServicePlan]], goals: Sequence[Goal], title: str
) -> Section:
    table = Table(
        caption="Each at its best",
        columns=(
            *("service", "USD/h", "1M tokens"),
            *(NAMES[goal.figure] for goal in goals),
            *("headroom", "busy", "how"),
        ),
        rows=tuple(
            (
                name,
                figures(plan.usd_per_hour) if plan.usd_per_hour else "unknown",
                _price(plan.usd_per_million_tokens),
                *(duration(plan.reached_s[goal.figure]) for goal in goals),
                percent(plan.headroom - 1.0),
                percent(plan.result.utilisation),
                f"{plan.engine}, {pool_words(plan.pools)}",
            )
            for name, plan in named
        ),
        numeric=tuple(range(1, 5 + len(goals))),
    )
    blocks: list[Block] = []
    priced = [(name, plan) for name, plan in named if plan.usd_per_hour]
    if priced:
        blocks.append(_cost_chart(priced))
    return Section(key="side", title=title, blocks=(*blocks, table))


def _cost_chart(named: Sequence[tuple[str, ServicePlan]]) -> Chart:
    rows = [
        Bar(
            label=name,
            value=plan.usd_per_hour,
            text=f"{dollars(plan.usd_per_hour)}/h, {_price(plan.usd_per_million_tokens)} for 1M",
        )
        for name, plan in named
    ]
    return bars("cost", "Cost", "Of all accelerators that are rented, an hour.", rows)


def _behind(plan: ServicePlan) -> list[Section]:
    """Return the accuracy of such predictions and what they assume."""
    result = plan.result
    notes = [(kind, text) for kind, _, text in (x.partition(": ") for x in result.provenance)]
    blocks: list[Block] = []
    if result.warnings:
        blocks.append(Text(lines=result.warnings, tone="warn", listed=True))
    pools = {str(place): one for place, one in enumerate(result.plan.get("pools", []))}
    blocks += [
        provenance_table(notes),
        settings_table({**result.plan, "pools": pools}, "The service, resolved"),
        device_table(load_accelerator(plan.accelerator)),
    ]
    return [
        Section(
            key="accuracy",
            title="How accurate predictions of services are",
            blocks=(serving_accuracy_chart(),),
        ),
        Section(key="assumptions", title="Every assumption and its source", blocks=tuple(blocks)),
    ]
