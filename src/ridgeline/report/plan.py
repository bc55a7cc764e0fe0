"""The page of ``ridgeline plan``: the best plan, the front, and why the rest lost."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ridgeline.report.axes import time_unit
from ridgeline.report.charts import Axis, Bar, Dot, bars, scatter
from ridgeline.report.evidence import accuracy_section, training_evidence
from ridgeline.report.records import Block, Chart, Code, Page, Section, Table, Text
from ridgeline.report.rerun import Rerun, rerun_section
from ridgeline.report.train import (
    TrainingFacts,
    assumptions_of,
    deciding,
    operators_section,
    scaling_section,
    timeline_section,
    training_verdict,
    where,
)
from ridgeline.simulator.plan import Plan
from ridgeline.simulator.results import TrainingResult
from ridgeline.simulator.search.results import RunnerUp, SearchResult, Sensitivity
from ridgeline.units import counted, dollars, duration, large, percent
from ridgeline.words import plan_words

MOST_PLANS = 24
"""Of the front whose plan files are on the page."""

PlanText = Callable[[Plan], str]


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchFacts:
    """What a search found with what a page shows beside it."""

    found: SearchResult
    best: TrainingFacts
    text: PlanText
    """Plan -> text of its plan file."""


def plan_page(facts: SearchFacts, rerun: Rerun) -> Page:
    """Return the page of a search."""
    result = facts.best.result
    verdict, tone = training_verdict(result)
    best = facts.found.best.plan
    counts = facts.found.counts
    return Page(
        command="plan",
        title=f"The best plan for {result.model}",
        subtitle=f"{counted(counts.seen, 'legal plan')} of {result.stack} were searched"
        + ("" if facts.found.complete else "; interrupted: the best so far"),
        verdict=f"Best of {counts.seen:,}: {best.cluster.count:,} x "
        f"{best.cluster.accelerator.name}, {plan_words(best)}. {verdict}",
        tone=tone if facts.found.complete else "warn",
        evidence=training_evidence(result),
        sections=(*plan_sections(facts), rerun_section(rerun)),
    )


def plan_sections(facts: SearchFacts) -> tuple[Section, ...]:
    """Return the sections of a search, all but how to get it again."""
    found, best = facts.found, facts.best
    sections = [
        deciding(best),
        Section(
            key="best-plan",
            title="The plan to copy",
            lead=plan_words(found.best.plan) + ".",
            blocks=(Code(key="best", title="Plan file of the best", text=facts.text(best.plan)),),
        ),
    ]
    if len(found.front) > 1:
        sections.append(_front(facts))
    if found.runners_up:
        sections.append(_runners_up(found))
    if found.sensitivity:
        sections.append(_flips(found.sensitivity, found.best.plan))
    sections += [where(best), timeline_section(best.step, best.result), operators_section(best)]
    if len(best.scaled) > 1:
        sections.append(scaling_section(best))
    sections += [_counted(found), accuracy_section(best.result), assumptions_of(best)]
    return tuple(sections)


def _money(result: TrainingResult) -> str:
    if result.usd_per_accelerator_hour:
        return dollars(result.cost_usd)
    return f"{large(result.accelerator_hours)} accelerator-hours"


def _front(facts: SearchFacts) -> Section:
    points = facts.found.front
    priced = all(point.usd > 0 for point in points)
    unit, name = time_unit(max(point.time_s for point in points))
    best = facts.found.best
    dots = []
    for place, point in enumerate(points):
        words = plan_words(point.plan)
        dots.append(
            Dot(
                x=point.time_s / unit,
                y=point.usd if priced else point.result.accelerator_hours,
                label=f"{point.plan.cluster.count:,} x {point.plan.cluster.accelerator.name}",
                text=f"{duration(point.time_s)}, {_money(point.result)}; {words}",
                series="front",
                anchor=f"front-{place}-fold" if place < MOST_PLANS else "",
            )
        )
    money = "cost, USD" if priced else "accelerator-hours"
    dots.append(
        Dot(
            x=best.result.wall_clock_s / unit,
            y=best.result.cost_usd if priced else best.result.accelerator_hours,
            label="the best by the objective",
            text=f"{duration(best.result.wall_clock_s)}, {_money(best.result)}; "
            f"{plan_words(best.plan)}",
            series="best",
            anchor=next(
                (
                    f"front-{place}-fold"
                    for place, point in enumerate(points[:MOST_PLANS])
                    if point.order == best.order
                ),
                "best",
            ),
        )
    )
    chart = scatter(
        "front",
        "Time against money",
        f"{counted(len(points), 'plan')} that no other beats in both. From "
        f"{duration(points[0].time_s)} for {_money(points[0].result)} to "
        f"{duration(points[-1].time_s)} for {_money(points[-1].result)}. Click one for its plan.",
        dots,
        Axis(title=f"time, {name}"),
        Axis(title=money),
        joined="front",
    )
    codes = [
        Code(
            key=f"front-{place}",
            title=f"{duration(point.time_s)}, {_money(point.result)}: "
            f"{point.plan.cluster.count:,} x {point.plan.cluster.accelerator.name}, "
            f"{plan_words(point.plan)}",
            text=facts.text(point.plan),
            folded=True,
        )
        for place, point in enumerate(points[:MOST_PLANS])
    ]
    return Section(
        key="pareto",
        title="The front: faster or cheaper",
        lead="Every other plan that was searched is slower or dearer than one of these.",
        blocks=(chart, *codes),
    )


def _runners_up(found: SearchResult) -> Section:
    best = found.best.plan
    blocks: list[Block] = [
        _behind_chart(found.runners_up, best),
        Table(
            caption="What came next, and why it lost",
            columns=("plan", "behind", "step", "money", "why"),
            rows=tuple(_lost(one, best) for one in found.runners_up),
            numeric=(1, 2, 3),
        ),
    ]
    if found.too_large:
        blocks.append(
            Table(
                caption="Better, had they the memory",
                columns=("plan", "ahead", "step", "money", "why not"),
                rows=tuple(_lost(one, best) for one in found.too_large),
                numeric=(1, 2, 3),
            )
        )
    thumb = found.heuristic
    if thumb is not None:
        same = thumb.found.order == found.best.order
        words = (
            "gives the same plan."
            if same
            else f"gives {plan_words(thumb.found.plan, beside=best)}: {percent(thumb.waste)} worse."
        )
        blocks.append(Text(lines=(f"A rule of thumb ({thumb.rule}) {words}",)))
    return Section(key="runners-up", title="What came next", blocks=tuple(blocks))


def _behind_chart(runners_up: Sequence[RunnerUp], best: Plan) -> Chart:
    rows = [
        Bar(
            label=f"no. {place + 1}",
            value=max(0.0, one.behind),
            text=f"+{100 * one.behind:.3g}%",
            note=plan_words(one.found.plan, beside=best),
        )
        for place, one in enumerate(runners_up, start=1)
    ]
    return bars(
        "behind",
        "How far behind the runners-up are",
        f"Value of the objective over the best's. The next is {rows[0].text}.",
        rows,
        unit="behind",
    )


def _lost(one: RunnerUp, best: Plan) -> tuple[str, ...]:
    result = one.found.result
    return (
        plan_words(one.found.plan, beside=best),
        f"{100 * one.behind:+.3g}%",
        duration(result.step_time_s),
        _money(result),
        "; ".join(reason.text for reason in one.reasons),
    )


def _flips(sensitivity: Sequence[Sensitivity], best: Plan) -> Section:
    flips = [one for one in sensitivity if one.flips]
    rows = tuple(
        (
            one.change,
            "another" if one.flips else ("the same" if one.keeps else "none is left"),
            plan_words(one.best, beside=best) if one.flips else "",
            f"{100 * one.loss:.2g}%" if one.flips else "0%",
        )
        for one in sensitivity
    )
    lead = (
        f"{counted(len(flips), 'change')} of {len(sensitivity)} would make another plan the best; "
        f"keeping this one would then cost at most {100 * max(one.loss for one in flips):.2g}%."
        if flips
        else "None of these changes makes another plan the best."
    )
    table = Table(
        caption="If things were a tenth different",
        columns=("change", "best plan", "which", "loss of keeping"),
        rows=rows,
        numeric=(3,),
        folded=bool(flips),
    )
    return Section(
        key="sensitivity",
        title="What would change the choice",
        lead=lead,
        blocks=(_flips_chart(flips), table) if flips else (table,),
    )


def _flips_chart(flips: Sequence[Sensitivity]) -> Chart:
    rows = [
        Bar(label=one.change, value=max(0.0, one.loss), text=f"{100 * one.loss:.2g}%")
        for one in flips
    ]
    return bars(
        "flips",
        "What keeping this plan would cost, were things a tenth different",
        "Its value over that of the plan that is then the best. Other changes change nothing.",
        rows,
        unit="loss",
    )


def _counted(found: SearchResult) -> Section:
    counts = found.counts
    rows = [
        Bar(label=label, value=float(number), text=f"{number:,}", series=series)
        for label, number, series in (
            ("broke a constraint", counts.constraint, "dropped"),
            ("memory, by its bound", counts.memory_bound, "dropped"),
            ("memory", counts.memory, "dropped"),
            ("time, by the roofline bound", counts.roofline_bound, "dropped"),
            ("time, by its bound", counts.time_bound, "dropped"),
            ("priced exactly", counts.priced, "priced"),
        )
        if number
    ]
    return Section(
        key="searched",
        title="What was searched",
        lead=f"{counted(counts.seen, 'legal plan')}; {counts.played:,} were played by the engine. "
        "What was dropped is proven worse or too large.",
        blocks=(bars("searched-plans", "Ends of the plans", "How many met which.", rows),),
    )
