"""The page of ``ridgeline infer``: a predicted service."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ridgeline.errors import InfeasibleError, InputError
from ridgeline.report.assumptions import (
    device_table,
    links_table,
    model_table,
    provenance_table,
    settings_table,
)
from ridgeline.report.axes import time_unit
from ridgeline.report.charts import Axis, Bar, Line, bars, curves, log_axis
from ridgeline.report.records import Block, Chart, Page, Section, Text, Tile, Tiles, Tone
from ridgeline.report.rerun import Rerun, rerun_section
from ridgeline.report.serving_accuracy import serving_accuracy_chart, serving_evidence
from ridgeline.simulator.serving.play import Played
from ridgeline.simulator.serving.results import ServingResult, Slo, Spread
from ridgeline.simulator.serving.serve import Serving, serve
from ridgeline.simulator.serving.servicefile import ServiceQuestion, make_question_traffic
from ridgeline.units import counted, dollars, duration, energy, figures, large, mass, percent

LOADS = (0.25, 0.5, 1.0, 2.0, 4.0)
"""Of the load that was asked for."""
MOST_REQUESTS = 4000
"""Beyond which no other load is played: a page is not worth minutes."""
SHARES = (0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 1.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """The service under another load."""

    factor: float
    asked: str
    result: ServingResult


@dataclass(frozen=True, slots=True, kw_only=True)
class ServingFacts:
    """A predicted service with what a page shows beside it."""

    question: ServiceQuestion
    serving: Serving
    loads: tuple[Loaded, ...]


def serving_facts(question: ServiceQuestion, serving: Serving) -> ServingFacts:
    """Return a service with what it does under less and more load; at most four more plays."""
    loads = []
    small = len(serving.played) <= MOST_REQUESTS
    for factor in LOADS if small else ():
        if factor == 1.0:
            loads.append(Loaded(factor=1.0, asked=question.asked, result=serving.result))
            continue
        other = _loaded(question, factor)
        try:
            played = None if other is None else _served(other)
        except (InputError, InfeasibleError):
            continue
        if other is not None and played is not None and played.result.finished:
            loads.append(Loaded(factor=factor, asked=other.asked, result=played.result))
    return ServingFacts(question=question, serving=serving, loads=tuple(loads))


def _loaded(question: ServiceQuestion, factor: float) -> ServiceQuestion | None:
    """Return the question with ``factor`` times the load, None where that is no whole number."""
    section = question.section
    changes: dict[str, Any]
    if section.trace:
        changes = {"speed": section.speed * factor}
    elif section.batch or section.concurrency:
        name = "batch" if section.batch else "concurrency"
        value = getattr(section, name) * factor
        if value != int(value) or value < 1:
            return None
        changes = {name: int(value)}
    elif section.rates:
        changes = {"rates": [rate * factor for rate in section.rates]}
    else:
        changes = {"request_rate": section.request_rate * factor}
    return replace(question, section=section.model_copy(update=changes))


def _served(question: ServiceQuestion) -> Serving:
    section = question.section
    return serve(
        question.deployed,
        make_question_traffic(question),
        router=section.router,
        slo=question.slo,
        warm_up=section.warm_up,
        sampled_seed=section.seed if section.sampled_acceptance else None,
        seed=section.seed,
        until_s=question.until_s,
    )


def infer_page(facts: ServingFacts, rerun: Rerun) -> Page:
    """Return the page of a predicted service."""
    result = facts.serving.result
    verdict, tone = _verdict(result)
    service = facts.question.deployed[0].service
    return Page(
        command="infer",
        title=f"{result.model} on {result.cluster}",
        subtitle=f"{counted(result.accelerators, 'accelerator')}, {result.engine}; "
        f"{facts.question.asked}",
        verdict=verdict,
        tone=tone,
        evidence=serving_evidence(service.cluster.accelerator, result.engine),
        sections=(*infer_sections(facts), rerun_section(rerun)),
    )


def infer_sections(facts: ServingFacts) -> tuple[Section, ...]:
    """Return the sections of a predicted service, all but how to get it again."""
    result, played = facts.serving.result, facts.serving.played
    sections = []
    if result.finished:
        sections = [_deciding(result), _latency(result, played), _where(result, played)]
        sections.append(_over_time(result, played))
        if len(facts.loads) > 1:
            sections.append(_loads(facts.loads, result.slo))
    sections.append(
        Section(
            key="accuracy",
            title="How accurate predictions of services are",
            blocks=(serving_accuracy_chart(),),
        )
    )
    sections.append(_assumptions(facts))
    return tuple(sections)


def _limits(slo: Slo) -> str:
    limits = (("TTFT", slo.ttft_s), ("TPOT", slo.tpot_s), ("latency", slo.latency_s))
    return ", ".join(f"{name} {duration(x)}" for name, x in limits if math.isfinite(x))


def _verdict(result: ServingResult) -> tuple[str, Tone]:
    if not result.finished:
        return f"Nothing finished, of {counted(result.requests, 'request')}.", "bad"
    limits = _limits(result.slo)
    tone: Tone = "good"
    text = ""
    if limits:
        text = f"{percent(result.goodput_fraction)} of requests keep the promise ({limits}). "
        tone = "good" if result.goodput_fraction >= 0.99 else "warn"
        tone = "bad" if result.goodput_fraction < 0.5 else tone
    text += f"The first token comes after {duration(result.ttft_s.p50)}"
    if not math.isnan(result.tpot_s.p50):
        text += f", then one every {duration(result.tpot_s.p50)}"
    text += f" (medians); {large(result.output_tokens_per_s)} output tokens a second"
    if result.bill.usd_per_accelerator_hour:
        text += f" at {_cents(result.bill.usd_per_million_tokens)} a million tokens"
    if result.rejected:
        text += f". {counted(result.rejected, 'request')} rejected"
        tone = "warn" if tone == "good" else tone
    return text + ".", tone


def _cents(value: float) -> str:
    return dollars(value) if value >= 0.1 or value == 0 else f"${figures(value, 2)}"


def _deciding(result: ServingResult) -> Section:
    bill = result.bill
    tiles = []
    if _limits(result.slo):
        tiles.append(
            Tile(
                label="Within the promise",
                value=percent(result.goodput_fraction),
                note=f"{figures(result.goodput_requests_per_s)} requests/s; {_limits(result.slo)}",
                tone="good" if result.goodput_fraction >= 0.99 else "warn",
            )
        )
    tiles.append(
        Tile(
            label="Time to first token",
            value=duration(result.ttft_s.p50),
            note=f"p99 {duration(result.ttft_s.p99)}",
        )
    )
    if not math.isnan(result.tpot_s.p50):
        tiles.append(
            Tile(
                label="Time per output token",
                value=duration(result.tpot_s.p50),
                note=f"p99 {duration(result.tpot_s.p99)}; "
                f"{figures(result.output_tokens_per_s_per_user)} tokens/s a user",
            )
        )
    tiles.append(
        Tile(
            label="Output",
            value=f"{large(result.output_tokens_per_s)} tokens/s",
            note=f"{large(result.output_tokens_per_s_per_accelerator)}/s an accelerator",
        )
    )
    if bill.usd_per_accelerator_hour:
        tiles.append(
            Tile(
                label="Cost of 1M tokens",
                value=_cents(bill.usd_per_million_tokens),
                note=f"input {_cents(bill.usd_per_million_input_tokens)}, output "
                f"{_cents(bill.usd_per_million_output_tokens)}",
            )
        )
    tiles += [
        Tile(
            label="Energy of 1M tokens",
            value=energy(bill.kwh_per_million_tokens),
            note=f"{mass(bill.co2_kg_per_million_tokens)} CO2",
        ),
        Tile(
            label="KV cache",
            value=percent(result.kv_peak_fraction),
            note=f"at most, {percent(result.kv_mean_fraction)} on average; "
            f"{counted(result.preemptions, 'preemption')}",
        ),
    ]
    return Section(key="figures", title="Figures that decide", blocks=(Tiles(tiles=tuple(tiles)),))


def _latency(result: ServingResult, played: Played) -> Section:
    done = played.finished
    blocks: list[Block] = []
    for key, title, values, limit in (
        ("ttft", "Time to first token", played.ttft_s[done], result.slo.ttft_s),
        ("tpot", "Time per output token", played.tpot_s[done], result.slo.tpot_s),
        ("latency", "End to end", played.latency_s[done], result.slo.latency_s),
    ):
        counted_values = values[~np.isnan(values)]
        if counted_values.size:
            blocks.append(_percentiles(key, title, counted_values, limit))
    spreads: tuple[tuple[str, Spread], ...] = (
        ("in line", result.queue_s),
        ("between tokens", result.itl_s),
    )
    words = tuple(
        f"{name}: median {duration(one.p50)}, p99 {duration(one.p99)}"
        for name, one in spreads
        if not math.isnan(one.p50)
    )
    blocks.append(Text(lines=words, listed=True))
    return Section(
        key="percentiles",
        title="What users wait",
        lead="How many requests wait at most so long; the promise is the dotted line.",
        blocks=tuple(blocks),
        paired=True,
    )


def _percentiles(key: str, title: str, values: Any, limit: float) -> Chart:
    points = tuple(float(x) for x in np.quantile(values, SHARES))
    unit, name = time_unit(max(points))
    lines = [
        Line(
            name="requests",
            xs=tuple(x / unit for x in points),
            ys=SHARES,
            texts=tuple(
                f"{100 * share:.0f}% of requests: at most {duration(x)}"
                for share, x in zip(SHARES, points, strict=True)
            ),
        )
    ]
    summary = f"Median {duration(points[4])}, p99 {duration(points[8])}."
    if math.isfinite(limit):
        lines.append(
            Line(
                name=f"promise, {duration(limit)}",
                xs=(limit / unit, limit / unit),
                ys=(0.0, 1.0),
                texts=(),
                marks=False,
                faint=True,
            )
        )
        kept = float(np.mean(values <= limit))
        summary += f" {percent(kept)} keep the promise of {duration(limit)}."
    return curves(
        f"{key}-percentiles",
        title,
        summary,
        lines,
        Axis(title=name, from_zero=True),
        Axis(title="share of requests", percent=True, from_zero=True),
    )


def _where(result: ServingResult, played: Played) -> Section:
    bill = result.bill
    on, busy, prefill = (float(x.sum()) for x in (played.on_s, played.busy_s, played.prefill_s))
    rows = []
    for label, seconds, series in (
        ("prompts (prefill)", prefill, "working"),
        ("output tokens (decode)", busy - prefill, "working"),
        ("without work", on - busy, "idle"),
    ):
        share = seconds / on if on else 0.0
        amount = f", {dollars(share * bill.usd)}" if bill.usd_per_accelerator_hour else ""
        rows.append(Bar(label=label, value=share, text=f"{percent(share)}{amount}", series=series))
    done = played.finished
    queue = float(np.nanmean((played.admitted_s - played.arrival_s)[done]))
    first = float(np.nanmean((played.first_token_s - played.admitted_s)[done]))
    rest = float(np.nanmean((played.end_s - played.first_token_s)[done]))
    waits = [
        Bar(label=label, value=seconds, text=duration(seconds))
        for label, seconds in (
            ("in line", queue),
            ("prompt, to the first token", first),
            ("the other tokens", rest),
        )
        if math.isfinite(seconds)
    ]
    what = "time and money" if bill.usd_per_accelerator_hour else "time"
    return Section(
        key="where",
        title="Where time and money go",
        blocks=(
            bars(
                "replicas",
                "What replicas do",
                f"Shares of the {what} that replicas were on.",
                rows,
                unit="share",
            ),
            bars("request", "What a request does", "Mean over finished requests.", waits),
        ),
        paired=True,
    )


def _over_time(result: ServingResult, played: Played) -> Section:
    replicas = sorted({use.replica for use in result.kv_use})
    unit, name = time_unit(max([use.time_s for use in result.kv_use], default=1.0))
    lines = []
    for replica in replicas[:7]:
        own = [use for use in result.kv_use if use.replica == replica]
        lines.append(
            Line(
                name=f"replica {replica}",
                xs=tuple(use.time_s / unit for use in own),
                ys=tuple(use.fraction for use in own),
                texts=tuple(f"{duration(use.time_s)}: {percent(use.fraction)}" for use in own),
                marks=False,
                steps=True,
            )
        )
    kv = curves(
        "kv",
        "KV cache in use",
        f"On average {percent(result.kv_mean_fraction)} of busy time's capacity, at most "
        f"{percent(result.kv_peak_fraction)} of {large(result.kv_tokens)} tokens a replica.",
        lines,
        Axis(title=f"time, {name}"),
        Axis(title="of the cache", percent=True, from_zero=True),
    )
    if len(replicas) > 7:
        kv = replace(kv, note=f"7 of {len(replicas)} replicas are drawn.")
    log = played.log
    picked = np.arange(0, len(log.start_s), max(1, -(-len(log.start_s) // 400)))
    batch = Line(
        name="sequences in an iteration",
        xs=tuple(float(log.start_s[i]) / unit for i in picked),
        ys=tuple(float(log.decoding[i] + log.prompts[i]) for i in picked),
        texts=tuple(
            f"{duration(float(log.start_s[i]))}: {int(log.decoding[i])} decoding, "
            f"{int(log.prompts[i])} prompts, iteration of {duration(float(log.seconds[i]))}"
            for i in picked
        ),
        marks=False,
        steps=True,
    )
    running = curves(
        "batch",
        "Sequences in an iteration",
        "How full the batch is while the service is played.",
        [batch],
        Axis(title=f"time, {name}"),
        Axis(title="sequences", from_zero=True),
    )
    return Section(key="time", title="Over time", blocks=(kv, running), paired=True)


def _loads(loads: Sequence[Loaded], slo: Slo) -> Section:
    factors = tuple(one.factor for one in loads)
    ticks = Axis(
        title="load, relative to what was asked",
        log=True,
        ticks=factors,
        tick_texts=tuple(f"{factor:g}x" for factor in factors),
    )

    def line(name: str, values: Sequence[float], texts: Sequence[str]) -> Line:
        said = tuple(f"{one.asked}: {text}" for one, text in zip(loads, texts, strict=True))
        return Line(name=name, xs=factors, ys=tuple(values), texts=said)

    rates = [one.result.output_tokens_per_s for one in loads]
    blocks: list[Block] = [
        curves(
            "load-throughput",
            "Output over load",
            "Where the curve flattens the service is full.",
            [line("output tokens/s", rates, [f"{large(rate)} tokens/s" for rate in rates])],
            ticks,
            Axis(title="output tokens/s", from_zero=True),
        ),
        curves(
            "load-latency",
            "Latency over load",
            "99th percentiles: what one request in a hundred waits longer than.",
            [
                line(
                    name,
                    [spread.p99 for spread in spreads],
                    [f"p99 {duration(spread.p99)}" for spread in spreads],
                )
                for name, spreads in (
                    ("time to first token, p99", [one.result.ttft_s for one in loads]),
                    ("time per output token, p99", [one.result.tpot_s for one in loads]),
                )
                if not any(math.isnan(spread.p99) for spread in spreads)
            ],
            ticks,
            log_axis(
                "time",
                [
                    value
                    for one in loads
                    for value in (one.result.ttft_s.p99, one.result.tpot_s.p99)
                    if not math.isnan(value)
                ],
                duration,
            ),
        ),
    ]
    costs = [one.result.bill.usd_per_million_tokens for one in loads]
    if all(costs):
        blocks.append(
            curves(
                "load-cost",
                "Cost of a million tokens over load",
                "Idle accelerators are paid for, too.",
                [line("cost of 1M tokens", costs, [_cents(cost) for cost in costs])],
                ticks,
                Axis(title="USD", from_zero=True),
            )
        )
    lead = "The same service, played again with less and more traffic."
    if _limits(slo):
        kept = [one for one in loads if one.result.goodput_fraction >= 0.99]
        lead += (
            f" At least 99% of requests keep the promise up to {kept[-1].factor:g} times the load."
            if kept
            else " At none of these loads do 99% of requests keep the promise."
        )
    return Section(
        key="load", title="With less and more load", lead=lead, blocks=tuple(blocks), paired=True
    )


def _assumptions(facts: ServingFacts) -> Section:
    result = facts.serving.result
    service = facts.question.deployed[0].service
    blocks: list[Block] = []
    if result.warnings:
        blocks.append(Text(lines=result.warnings, tone="warn", listed=True))
    notes = [(kind, text) for kind, _, text in (x.partition(": ") for x in result.provenance)]
    blocks += [
        provenance_table(notes),
        settings_table(_listed(result.plan), "The service, resolved"),
        settings_table(facts.question.section.model_dump(), "The traffic and the engine, as asked"),
        model_table(service.model),
        device_table(service.cluster.accelerator),
        links_table(service.cluster),
    ]
    return Section(
        key="assumptions",
        title="Every assumption and its source",
        lead="What was not given was resolved to these values.",
        blocks=tuple(blocks),
    )


def _listed(plan: dict[str, Any]) -> dict[str, Any]:
    """Return settings with lists of objects as numbered objects."""
    return {
        key: {str(place): one for place, one in enumerate(value)}
        if isinstance(value, list) and value and isinstance(value[0], dict)
        else value
        for key, value in plan.items()
    }
