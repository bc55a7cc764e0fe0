"""The page of ``ridgeline train``: a predicted training run for a reader with two minutes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ridgeline.report.assumptions import training_assumptions
from ridgeline.report.charts import Axis, Bar, Line, bars, curves, log_axis, tornado
from ridgeline.report.evidence import accuracy_section, training_evidence
from ridgeline.report.lanes import Kind, lanes
from ridgeline.report.palette import BLUE, ORANGE, PURPLE, SKY, VERMILION
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
from ridgeline.report.roofline import roofline
from ridgeline.report.step_facts import COMMUNICATION, StepFacts, step_facts
from ridgeline.report.variations import Scaled, scaling, sensitivity
from ridgeline.simulator.plan import Plan
from ridgeline.simulator.results import TrainingResult
from ridgeline.simulator.roofline.rungs import Kernels
from ridgeline.simulator.run import Run, whole_run
from ridgeline.simulator.training import checkpoint_bytes
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
from ridgeline.words import CAUSES, SETTINGS

GIB = 2.0**30
KINDS = (
    Kind(name="forward", colour=BLUE),
    Kind(name="backward", colour=ORANGE),
    Kind(name="weight gradient", colour=SKY, pattern="."),
    Kind(name="optimizer", colour=PURPLE, pattern="x"),
    Kind(name=COMMUNICATION, colour=VERMILION),
)
"""Of the blocks of a pipeline timeline."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingFacts:
    """A predicted run with what a page shows beside it."""

    plan: Plan
    result: TrainingResult
    run: Run
    step: StepFacts
    scaled: tuple[Scaled, ...] = ()
    swings: tuple[Any, ...] = ()
    remedies: tuple[Mapping[str, Any], ...] = field(default=())


def training_facts(
    plan: Plan,
    result: TrainingResult,
    kernels: Kernels | None = None,
    remedies: Sequence[Mapping[str, Any]] = (),
) -> TrainingFacts:
    """Return a run with its timeline, operators, scaling and sensitivity; some 20 simulations."""
    training = plan.training
    tokens = float(training.global_batch_seqs * training.seq_len)
    return TrainingFacts(
        plan=plan,
        result=result,
        run=whole_run(result.step_time_s, tokens, plan, checkpoint_bytes(plan)),
        step=step_facts(plan, kernels),
        scaled=scaling(plan, kernels),
        swings=sensitivity(plan, result, _figure(result)[1], kernels),
        remedies=tuple(remedies),
    )


def _figure(result: TrainingResult) -> tuple[str, Any]:
    """Return what the reader decides by: the cost where there is one, else the time."""
    if result.plan["training"]["tokens"] > 0 and result.cost_usd > 0:
        return "cost of the run", lambda one: one.cost_usd
    if result.plan["training"]["tokens"] > 0:
        return "length of the run", lambda one: one.wall_clock_s
    return "step time", lambda one: one.step_time_s


def train_page(facts: TrainingFacts, rerun: Rerun) -> Page:
    """Return the page of a predicted run."""
    result = facts.result
    verdict, tone = training_verdict(result)
    return Page(
        command="train",
        title=f"{result.model} on {result.cluster}",
        subtitle=f"{counted(result.accelerators, 'accelerator')}, {result.stack}; "
        f"{split_words(result)}",
        verdict=verdict,
        tone=tone,
        evidence=training_evidence(result),
        sections=(*train_sections(facts), rerun_section(rerun)),
    )


def train_sections(facts: TrainingFacts) -> tuple[Section, ...]:
    """Return the sections of a predicted run, all but how to get it again."""
    result = facts.result
    sections = [deciding(facts)]
    if facts.remedies:
        sections.append(_remedies(facts.remedies))
    sections += [where(facts), timeline_section(facts.step, result), operators_section(facts)]
    if len(facts.scaled) > 1:
        sections.append(scaling_section(facts))
    if facts.swings:
        name, _ = _figure(result)
        sections.append(_sensitivity(facts, name))
    sections += [accuracy_section(result), assumptions_of(facts)]
    return tuple(sections)


def assumptions_of(facts: TrainingFacts) -> Section:
    """Return every assumption of a run."""
    return training_assumptions(facts.plan, facts.result)


def split_words(result: TrainingResult) -> str:
    """Return how the work is split and what a step is, in a line."""
    parallel, training = result.plan["parallel"], result.plan["training"]
    split = [
        f"{name.removesuffix('_stage')} {parallel[name]}"
        for name in SETTINGS
        if parallel[name] > (0 if name == "zero_stage" else 1)
    ]
    split += [training["schedule"]] if parallel["pp"] > 1 else []
    split.append(f"{training['global_batch_seqs']:,} x {training['seq_len']:,} tokens a step")
    return ", ".join([*split, training["precision"], f"recompute {training['recompute']}"])


def training_verdict(result: TrainingResult) -> tuple[str, Tone]:
    """Return the answer in words."""
    worst = result.worst_memory
    need, limit = f"{worst.total / GIB:,.1f}", f"{result.memory_limit / GIB:,.1f}"
    if not result.fits:
        if worst.total <= result.memory_limit and result.host_shortage is not None:
            what, held, has = result.host_shortage
            need, limit = f"{held / GIB:,.1f}", f"{has / GIB:,.1f}"
            text = f"Out of host {what}: a node needs {need} GiB and has "
        else:
            text = f"Out of memory: an accelerator of stage {worst.stage} needs {need} GiB and has "
        return f"{text}{limit}. The figures below are of a run that cannot start.", "bad"
    about = "about " if result.evidence == "datasheet" else ""
    training = result.plan["training"]
    if training["tokens"] > 0:
        money = f" and costs {about}{dollars(result.cost_usd)}" if result.cost_usd else ""
        text = (
            f"Training on {large(training['tokens'])} tokens takes {about}"
            f"{duration(result.wall_clock_s)}{money}. "
        )
    else:
        text = f"A step takes {about}{duration(result.step_time_s)}. "
    text += (
        f"It fits: {need} of {limit} GiB on the fullest accelerator. The accelerators spend "
        f"{percent(result.mfu)} of their peak on the model (MFU)"
    )
    lost = max(
        (result.bubble_fraction, "waiting in the pipeline (bubble)"),
        (result.exposed_communication_fraction, "waiting for communication"),
    )
    if lost[0] >= 0.02:
        text += f"; {percent(lost[0])} of a step is {lost[1]}"
    return text + ".", "warn" if result.evidence == "datasheet" else "good"


def deciding(facts: TrainingFacts) -> Section:
    """Return the figures that decide."""
    result = facts.result
    about = "about " if result.evidence == "datasheet" else ""
    low, high = (
        result.step_time_low_s / result.step_time_s,
        (result.step_time_high_s / result.step_time_s),
    )
    tiles = []
    if result.plan["training"]["tokens"] > 0:
        tiles.append(
            Tile(
                label="Length of the run",
                value=f"{about}{duration(result.wall_clock_s)}",
                note=f"{counted(result.steps, 'step')}, {percent(result.goodput)} productive",
            )
        )
    if result.usd_per_accelerator_hour:
        tiles.append(
            Tile(
                label="Cost" if result.plan["training"]["tokens"] > 0 else "Cost of a step",
                value=f"{about}{dollars(result.cost_usd)}",
                note=f"{dollars(low * result.cost_usd)} to {dollars(high * result.cost_usd)}, at "
                f"{dollars(result.usd_per_accelerator_hour)} an accelerator-hour",
            )
        )
    room = 1.0 - result.worst_memory.total / result.memory_limit
    tiles += [
        Tile(
            label="Step time",
            value=f"{about}{duration(result.step_time_s)}",
            note=f"{duration(result.step_time_low_s)} to {duration(result.step_time_high_s)}",
        ),
        Tile(
            label="MFU",
            value=percent(result.mfu),
            note=f"HFU {percent(result.hfu)}, "
            f"{result.model_tflops_per_accelerator:.0f} TFLOP/s each",
        ),
        Tile(
            label="Tokens",
            value=f"{large(result.tokens_per_s)}/s",
            note=f"{large(result.tokens_per_s_per_accelerator)}/s an accelerator",
        ),
        Tile(
            label="Memory",
            value=f"{result.worst_memory.total / GIB:,.1f} GiB",
            note=f"of {result.memory_limit / GIB:,.1f}, {percent(abs(room))} "
            + ("free" if room >= 0 else "too much"),
            tone="good" if room >= 0 else "bad",
        ),
        Tile(label="Energy", value=energy(result.energy_kwh), note=f"{mass(result.co2_kg)} CO2"),
    ]
    return Section(key="figures", title="Figures that decide", blocks=(Tiles(tiles=tuple(tiles)),))


def _remedies(remedies: Sequence[Mapping[str, Any]]) -> Section:
    rows = tuple(
        (
            ", ".join(one["changes"]),
            f"{one['memory_gib']:.1f}",
            duration(one["step_time_s"]),
            f"{one['accelerators']:,}",
        )
        for one in remedies
    )
    table = Table(
        caption="Each was simulated",
        columns=("change", "GiB", "step", "accelerators"),
        rows=rows,
        numeric=(1, 2, 3),
    )
    return Section(key="remedies", title="Cheapest changes that would fit", blocks=(table,))


def where(facts: TrainingFacts) -> Section:
    """Return where time, memory and money go."""
    result = facts.result
    blocks: list[Block] = [time_chart(result), memory_chart(result)]
    if result.plan["training"]["tokens"] > 0:
        blocks.append(_money_chart(facts))
    shares = sorted(result.breakdown, key=lambda share: -share.seconds)
    most = shares[0]
    return Section(
        key="where",
        title="Where time, memory and money go",
        lead=f"The largest part of a step is {most.group} ({percent(most.fraction)}).",
        paired=True,
        blocks=tuple(blocks),
    )


def time_chart(result: TrainingResult) -> Chart:
    """Return where a step goes."""
    shares = [share for share in result.breakdown if share.fraction >= 0.0005]
    rows = [
        Bar(
            label=share.group,
            value=share.seconds,
            text=f"{duration(share.seconds)} ({percent(share.fraction)})",
            series=_series(share.group),
        )
        for share in sorted(shares, key=lambda share: -share.seconds)
    ]
    return bars(
        "time",
        "Where a step goes",
        f"A step of {duration(result.step_time_s)}, averaged over pipeline stages.",
        rows,
        unit="time and share",
    )


def _series(group: str) -> str:
    if group.startswith("exposed"):
        return "waiting for communication"
    return "idle" if group in ("bubble", "host") else "computing"


def memory_chart(result: TrainingResult) -> Chart:
    """Return where memory goes on the fullest stage."""
    worst, limit = result.worst_memory, result.memory_limit
    rows = [
        Bar(
            label=cause,
            value=getattr(worst, cause) / GIB,
            text=f"{getattr(worst, cause) / GIB:,.1f} GiB "
            f"({percent(getattr(worst, cause) / limit)})",
            series="used",
        )
        for cause in CAUSES
        if getattr(worst, cause) >= 0.0005 * limit
    ]
    rows.sort(key=lambda row: -row.value)
    free = limit - worst.total
    if free > 0:
        text = f"{free / GIB:,.1f} GiB ({percent(free / limit)})"
        rows.append(Bar(label="free", value=free / GIB, text=text, series="free"))
    stages = (
        f" of stage {worst.stage}, the fullest of {len(result.memory)},"
        if len(result.memory) > 1
        else ""
    )
    return bars(
        "memory",
        "Where memory goes",
        f"An accelerator{stages} uses {worst.total / GIB:,.1f} of {limit / GIB:,.1f} GiB.",
        rows,
        unit="GiB and share",
    )


def _money_chart(facts: TrainingFacts) -> Chart:
    """Return what the run's accelerator-hours are paid for, by what a step and the run lose."""
    result, run = facts.result, facts.run
    total = run.wall_clock_s
    priced = result.cost_usd > 0

    def bar(label: str, seconds: float, series: str) -> Bar:
        share = seconds / total
        amount = (
            dollars(share * result.cost_usd)
            if priced
            else (f"{large(share * result.accelerator_hours)} h")
        )
        return Bar(label=label, value=share, text=f"{amount} ({percent(share)})", series=series)

    stepping = run.steps_s + run.batch_warmup_s
    idle, wire = result.bubble_fraction, result.exposed_communication_fraction
    rows = [
        bar("computing", stepping * (1.0 - idle - wire), "useful"),
        bar("waiting for communication", stepping * wire, "lost in steps"),
        bar("pipeline bubble", stepping * idle, "lost in steps"),
        bar("evaluation", run.evaluation_s, "useful"),
        bar("checkpoints", run.checkpoint_s, "lost between steps"),
        bar("failures", run.failure_s, "lost between steps"),
    ]
    rows = [row for row in rows if row.value >= 0.0005]
    what = "Where the money goes" if priced else "Where accelerator-hours go"
    whole = dollars(result.cost_usd) if priced else f"{large(result.accelerator_hours)} h"
    return bars(
        "money",
        what,
        f"{whole} for {large(result.accelerator_hours)} accelerator-hours, by what they are spent "
        "on.",
        sorted(rows, key=lambda row: -row.value),
        unit="amount and share",
    )


def timeline_section(step: StepFacts, result: TrainingResult) -> Section:
    """Return the pipeline timeline of a step."""
    names = [f"stage {stage}" for stage in step.stages]
    sums: dict[str, list[float]] = {name: [0.0] * len(names) for name in (k.name for k in KINDS)}
    for block in step.blocks:
        sums[block.kind][int(block.lane)] += block.end_s - block.start_s
    used = [kind.name for kind in KINDS if any(sums[kind.name])]
    busy = [
        sum(sums[kind][lane] for kind in used if kind != COMMUNICATION)
        for lane in range(len(names))
    ]
    rows = tuple(
        (name, *(duration(sums[kind][lane]) for kind in used), duration(step.span_s - busy[lane]))
        for lane, name in enumerate(names)
    )
    table = Table(
        caption="Time of each stage",
        columns=("stage", *used, "idle"),
        rows=rows,
        numeric=tuple(range(1, len(used) + 2)),
    )
    note = "Upper part of a lane: computing; thin strip below: links, much of it hidden behind "
    note += "computing. Communication inside a pass is part of the pass."
    if len(step.stages) < step.all_stages:
        note += f" {len(step.stages)} of {step.all_stages} stages are drawn."
    chart = lanes(
        "timeline",
        "One step on every pipeline stage" if step.all_stages > 1 else "One step",
        f"{duration(step.span_s)} from the first forward pass to the end of the optimizer; "
        f"{percent(result.bubble_fraction)} of it is bubble and "
        f"{percent(result.exposed_communication_fraction)} communication that nothing hides.",
        step.blocks,
        KINDS,
        span_s=step.span_s,
        names=names,
        table=table,
        note=note,
    )
    lead = (
        "Hatched grey is idle: the bubble at both ends of the pipeline, and waits in between."
        if step.all_stages > 1
        else "Hatched grey is idle: waits for communication and the host."
    )
    return Section(key="pipeline", title="Timeline of a step", lead=lead, blocks=(chart,))


def operators_section(facts: TrainingFacts) -> Section:
    """Return the operators of a step on the roofline."""
    device = facts.plan.cluster.accelerator.name
    chart = roofline("roofline", facts.step.operators, facts.step.memory_bytes_per_s, device)
    matrix = [one for one in facts.step.operators if one.group != "norm"]
    longest = max(matrix, key=lambda one: one.seconds, default=None)
    lead = ""
    if longest is not None:
        lead = (
            f"The longest is {longest.name} ({longest.phase}, {longest.part}): "
            f"{duration(longest.seconds)} at {percent(longest.flops_per_s / longest.peak)} of the "
            f"{longest.dtype} peak."
        )
    return Section(key="operators", title="Operators on the roofline", lead=lead, blocks=(chart,))


def scaling_section(facts: TrainingFacts) -> Section:
    """Return the job on more and fewer accelerators."""
    rows, here = facts.scaled, facts.plan.cluster.count
    fits = [row for row in rows if row.result.fits]
    whole = facts.plan.training.tokens > 0
    ideal = facts.result.tokens_per_s_per_accelerator
    short = [row for row in rows if not row.result.fits]
    counts = tuple(float(row.accelerators) for row in rows)
    speed = curves(
        "scaling",
        "Throughput over accelerators",
        "Tokens a second of the same job, with more or fewer data-parallel ways and the same "
        "global batch; dotted, if each added accelerator did as much as today's.",
        [
            _throughput("predicted", fits, whole=whole),
            *([_throughput("out of memory", short, whole=whole)] if short else []),
            Line(
                name="in proportion",
                xs=counts,
                ys=tuple(ideal * count for count in counts),
                texts=(),
                marks=False,
                faint=True,
            ),
        ],
        _counts_axis(rows),
        log_axis("tokens/s", [row.result.tokens_per_s for row in rows]),
    )
    lead = f"Today's plan has {here:,} accelerators."
    if fits and fits[-1].accelerators > here:
        most = fits[-1]
        kept = most.result.tokens_per_s_per_accelerator / ideal
        lead += (
            f" On {most.accelerators:,} each would still do {percent(kept)} of what it does today."
        )
    blocks: list[Block] = [speed]
    if short:
        counts_short = ", ".join(f"{row.accelerators:,}" for row in short)
        blocks.append(Text(lines=(f"Out of memory on {counts_short} accelerators.",), tone="warn"))
    return Section(
        key="scaling-section",
        title="With more or fewer accelerators",
        lead=lead,
        blocks=tuple(blocks),
    )


def _throughput(name: str, rows: Sequence[Scaled], *, whole: bool) -> Line:
    return Line(
        name=name,
        xs=tuple(float(row.accelerators) for row in rows),
        ys=tuple(row.result.tokens_per_s for row in rows),
        texts=tuple(_scaled_text(row, whole=whole) for row in rows),
        joined=name == "predicted",
    )


def _counts_axis(rows: Sequence[Scaled]) -> Axis:
    counts = tuple(float(row.accelerators) for row in rows)
    return Axis(
        title="accelerators",
        log=True,
        ticks=counts,
        tick_texts=tuple(f"{row.accelerators:,}" for row in rows),
    )


def _scaled_text(row: Scaled, *, whole: bool) -> str:
    result = row.result
    text = f"{row.accelerators:,} accelerators: {large(result.tokens_per_s)} tokens/s, step "
    text += f"{duration(result.step_time_s)}, MFU {percent(result.mfu)}"
    if whole:
        text += f", run {duration(result.wall_clock_s)}"
        text += f", {dollars(result.cost_usd)}" if result.cost_usd else ""
    return text + ("" if result.fits else ", OUT OF MEMORY")


def _sensitivity(facts: TrainingFacts, name: str) -> Section:
    swings = sorted(facts.swings, key=lambda one: -max(abs(one.low), abs(one.high)))
    first = swings[0]
    widest = max(abs(first.low), abs(first.high))
    chart = tornado(
        "tornado",
        f"What a tenth of each assumption does to the {name}",
        "Each assumption alone is taken a tenth lower and a tenth higher, and the job simulated "
        "again with the same plan.",
        swings,
        step="10%",
    )
    return Section(
        key="sensitivity",
        title="What the answer hangs on",
        lead=f"Most on {first.name}: a tenth of it moves the {name} by {figures(100 * widest)}%.",
        blocks=(chart,),
    )
