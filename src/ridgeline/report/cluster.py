"""The page of ``ridgeline cluster``: many jobs, failures and checkpoints over months."""

from __future__ import annotations

from collections.abc import Sequence

from ridgeline.report.assumptions import plain
from ridgeline.report.axes import time_unit
from ridgeline.report.charts import LONGEST_TABLE, Axis, Bar, Line, Range, bars, curves, ranges
from ridgeline.report.lanes import MOST_BLOCKS, Block, Kind, lanes
from ridgeline.report.palette import CYCLE, PATTERNS
from ridgeline.report.records import Page, Section, Table, Text, Tile, Tiles, Tone
from ridgeline.report.rerun import Rerun, rerun_section
from ridgeline.simulator.fleet.many import ManyResult
from ridgeline.simulator.fleet.results import FleetResult, JobResult, Played
from ridgeline.simulator.fleet.spec import Fleet
from ridgeline.simulator.fleet.timeline import MAX_BARS, job_names, rows
from ridgeline.units import counted, dollars, duration, energy, large, percent

USEFUL = ("busy",)
LOST = ("slow", "lost", "checkpoint", "restart")
OUT = ("repair", "spare")
SAMPLES = 500
"""Of a curve over time."""
MEANING = {
    "busy": "work that lasts",
    "slow": "what stragglers cost",
    "lost": "work done again after a failure",
    "checkpoint": "writing checkpoints",
    "restart": "from allocation to the first step",
    "repair": "the node is out",
    "spare": "held ready for failures",
    "waiting": "free while a job waits",
    "idle": "free, and nobody waits",
}


def cluster_page(played: Played, rerun: Rerun) -> Page:
    """Return the page of a played fleet."""
    result = played.result
    verdict, tone = _verdict(result)
    return Page(
        command="cluster",
        title=result.name or "A fleet",
        subtitle=f"{counted(result.accelerators, 'accelerator')}, {duration(result.span_s)}, "
        f"policy {result.policy}, seed {result.seed}"
        + ("" if result.complete else "; interrupted: what was played until then"),
        verdict=verdict,
        tone=tone,
        sections=(*cluster_sections(played), rerun_section(rerun)),
    )


def cluster_sections(played: Played) -> tuple[Section, ...]:
    """Return the sections of a played fleet, all but how to get it again."""
    sections = [_deciding(played.result), _where(played.result)]
    if played.segments:
        sections.append(_gantt(played))
    if len(played.samples) > 1:
        sections.append(_over_time(played))
    sections += [_jobs(played), _assumptions(played.fleet)]
    return tuple(sections)


def _verdict(result: FleetResult) -> tuple[str, Tone]:
    done = result.states.get("done", 0)
    jobs = sum(result.states.values())
    text = (
        f"{done:,} of {counted(jobs, 'job')} are done. {percent(result.goodput)} of all "
        f"accelerator time is work that lasts (goodput); jobs hold {percent(result.utilisation)}."
    )
    worst = max(
        ((use, share) for use, share in result.uses.items() if use not in USEFUL),
        key=lambda item: item[1],
        default=("", 0.0),
    )
    if worst[1] >= 0.005:
        text += f" Most of the rest is {worst[0]} ({MEANING[worst[0]]}): {percent(worst[1])}."
    if result.deadlines:
        text += f" {result.deadlines_met:,} of {counted(result.deadlines, 'deadline')} met."
    late = result.deadlines_met < result.deadlines
    return text, "warn" if late or not result.complete else "good"


def _deciding(result: FleetResult) -> Section:
    tiles = [
        Tile(label="Goodput", value=percent(result.goodput), note="of all accelerator time"),
        Tile(
            label="Effective training time",
            value=percent(result.ettr),
            note="work that lasts over what jobs held",
        ),
        Tile(label="Utilisation", value=percent(result.utilisation), note="held by jobs"),
        Tile(
            label="Mean wait",
            value=duration(result.mean_wait_s),
            note=f"completion {duration(result.mean_jct_s)}, p95 {duration(result.p95_jct_s)}",
        ),
        Tile(
            label="Interruptions",
            value=f"{result.interruptions:,}",
            note=f"and {result.preemptions:,} planned stops",
        ),
        Tile(label="Cost", value=dollars(result.cost_usd), note=energy(result.energy_kwh)),
    ]
    if result.deadlines:
        met = result.deadlines_met == result.deadlines
        tiles.append(
            Tile(
                label="Deadlines met",
                value=f"{result.deadlines_met:,} of {result.deadlines:,}",
                tone="good" if met else "warn",
            )
        )
    tiles += [
        Tile(label=f"Served, {one.name}", value=percent(one.served_share))
        for one in result.services
    ]
    return Section(key="figures", title="Figures that decide", blocks=(Tiles(tiles=tuple(tiles)),))


def _kind(use: str) -> str:
    if use in USEFUL:
        return "useful"
    if use in LOST:
        return "held and lost"
    return "out of order or spare" if use in OUT else "free"


def _where(result: FleetResult) -> Section:
    drawn = [
        Bar(
            label=use,
            value=share,
            text=f"{100 * share:.2f}%"
            + (f", {dollars(share * result.cost_usd)}" if result.cost_usd else ""),
            note=MEANING[use],
            series=_kind(use),
        )
        for use, share in result.uses.items()
        if share > 0.0
    ]
    chart = bars(
        "uses",
        "Goodput by cause",
        "What every second of every accelerator counts as; the shares add up to the whole.",
        drawn,
        unit="share of accelerator time",
    )
    return Section(key="where", title="Where accelerator time and money go", blocks=(chart,))


def _gantt(played: Played) -> Section:
    names = job_names(played)
    count = max(1, played.fleet.accelerators)
    kinds = [
        Kind(name=f"job {place}", colour=colour, pattern=PATTERNS[place])
        for place, colour in enumerate(CYCLE)
    ]
    every = rows(played)
    bars_drawn = sorted(every, key=lambda bar: (-(bar[1] - bar[0]) * bar[3], bar))[:MOST_BLOCKS]
    blocks = [
        Block(
            lane=float(first),
            start_s=start,
            end_s=end,
            kind=kinds[job % len(kinds)].name,
            text=f"{names[job]}: {number:,} of {count:,}, {duration(end - start)}",
            height=float(number),
        )
        for start, end, first, number, job in bars_drawn
    ]
    longest = sorted(played.segments, key=lambda one: (one.start_s - one.end_s, one.job))
    table = Table(
        caption="Longest allocations",
        columns=("job", "pool", "accelerators", "from", "to", "ended"),
        rows=tuple(
            (
                names[one.job],
                played.fleet.pools[one.pool].name,
                f"{one.accelerators:,}",
                duration(one.start_s),
                duration(one.end_s),
                one.ended,
            )
            for one in longest[:LONGEST_TABLE]
        ),
        numeric=(2, 3, 4),
        left_out=max(0, len(longest) - LONGEST_TABLE),
    )
    note = "A job lies on the lowest accelerators that are free, not on certain nodes; colours and "
    note += "hatching only tell neighbours apart."
    if len(every) > MOST_BLOCKS or len(played.segments) > MAX_BARS:
        note += f" The {MOST_BLOCKS:,} largest are drawn."
    chart = lanes(
        "gantt",
        "Who had which accelerators when",
        f"{counted(len(played.segments), 'allocation')} of {counted(len(played.jobs), 'job')} on "
        f"{count:,} accelerators over {duration(played.result.span_s)}.",
        blocks,
        kinds,
        span_s=max(played.result.span_s, 1e-9),
        names=(),
        table=table,
        edges=(0.0, float(count)),
        height=440,
        note=note,
    )
    return Section(key="schedule", title="Schedule", blocks=(chart,))


def _over_time(played: Played) -> Section:
    samples = played.samples
    step = max(1, -(-len(samples) // SAMPLES))
    picked = samples[::step]
    unit, name = time_unit(max(played.result.span_s, 1e-9))
    xs = tuple(sample.at_s / unit for sample in picked)
    count = max(1, played.fleet.accelerators)

    def line(title: str, values: Sequence[int], *, share: bool) -> Line:
        return Line(
            name=title,
            xs=xs,
            ys=tuple(value / count if share else float(value) for value in values),
            texts=tuple(
                f"{duration(sample.at_s)}: {title} {value:,}"
                for sample, value in zip(picked, values, strict=True)
            ),
            marks=False,
            steps=True,
        )

    bottom = Axis(title=f"time, {name}")
    use = curves(
        "utilisation",
        "Utilisation over time",
        f"On average jobs hold {percent(played.result.utilisation)} of the accelerators.",
        [
            line("held by jobs", [sample.held for sample in picked], share=True),
            line("on broken nodes", [sample.broken for sample in picked], share=True),
            line("free but fragmented", [sample.fragmented for sample in picked], share=True),
        ],
        bottom,
        Axis(title="of the accelerators", percent=True, from_zero=True),
    )
    queue = curves(
        "queue",
        "Jobs over time",
        f"On average {played.result.mean_queue:.1f} jobs wait.",
        [
            line("running", [sample.running for sample in picked], share=False),
            line("waiting", [sample.waiting for sample in picked], share=False),
        ],
        bottom,
        Axis(title="jobs", from_zero=True),
    )
    return Section(key="time", title="Over time", blocks=(use, queue), paired=True)


def _jobs(played: Played) -> Section:
    ordered = sorted(played.jobs, key=lambda job: (-job.accelerator_hours, job.name))
    table = Table(
        caption="Largest jobs",
        columns=(
            "job",
            "state",
            "accelerators",
            "hours",
            "waited",
            "lasting work",
            "cost",
            "stops",
        ),
        rows=tuple(_job(job) for job in ordered[:LONGEST_TABLE]),
        numeric=(2, 3, 4, 5, 6, 7),
        left_out=max(0, len(ordered) - LONGEST_TABLE),
    )
    late = [job for job in played.jobs if job.deadline_met is False]
    blocks: list[Table | Text] = []
    if late:
        names = ", ".join(job.name for job in late[:20]) + (" ..." if len(late) > 20 else "")
        missed = f"{counted(len(late), 'deadline')} missed: {names}"
        blocks.append(Text(lines=(missed,), tone="warn"))
    states = ", ".join(f"{n:,} {state}" for state, n in sorted(played.result.states.items()))
    return Section(key="jobs", title="Jobs", lead=f"{states}.", blocks=(*blocks, table))


def _job(job: JobResult) -> tuple[str, ...]:
    return (
        job.name,
        job.state,
        f"{job.accelerators:,}",
        large(job.accelerator_hours),
        duration(job.waited_s) if job.waited_s else "none",
        percent(job.ettr),
        dollars(job.usd),
        f"{job.moves + job.interruptions:,}",
    )


def _assumptions(fleet: Fleet) -> Section:
    pools = Table(
        caption="Pools",
        columns=("pool", "accelerators", "USD an accelerator-hour", "busy, W", "idle, W", "paid"),
        rows=tuple(
            (
                pool.name,
                f"{pool.accelerators:,}",
                plain(pool.usd_per_accelerator_hour),
                plain(pool.busy_w),
                plain(pool.idle_w),
                pool.pay,
            )
            for pool in fleet.pools
        ),
        numeric=(1, 2, 3, 4),
    )
    words = "The fleet file below holds every setting; its defaults and their sources are told in "
    words += "docs/fleet.md and docs/reliability.md."
    return Section(
        key="assumptions",
        title="Assumptions and their sources",
        blocks=(pools, Text(lines=(words,))),
    )


def many_page(many: ManyResult, fleet: Fleet, rerun: Rerun) -> Page:
    """Return the page of a fleet played with many seeds."""
    goodput = many.figures["goodput"]
    shares = [name for name in SHARES if name in many.figures]
    drawn = [
        Range(
            label=NAMES.get(name, name),
            low=many.figures[name].low,
            value=many.figures[name].mean,
            high=many.figures[name].high,
            text=f"{percent(many.figures[name].mean)}, {percent(many.figures[name].low)} to "
            f"{percent(many.figures[name].high)}",
        )
        for name in shares
    ]
    chart = ranges(
        "intervals",
        "Shares, mean and 95% interval",
        "Student's t over the seeds.",
        drawn,
        Axis(title="share", percent=True),
    )
    table = Table(
        caption="Every figure",
        columns=("figure", "mean", "low", "high"),
        rows=tuple(
            (name, f"{value.mean:,.5g}", f"{value.low:,.5g}", f"{value.high:,.5g}")
            for name, value in many.figures.items()
        ),
        numeric=(1, 2, 3),
    )
    return Page(
        command="cluster",
        title=fleet.name or "A fleet",
        subtitle=f"{counted(fleet.accelerators, 'accelerator')}, policy {fleet.policy}, "
        f"{counted(len(many.runs), 'seed')}" + ("" if many.complete else "; interrupted"),
        verdict=f"Goodput is {percent(goodput.mean)} on average over "
        f"{counted(len(many.runs), 'seed')}; the true mean lies between {percent(goodput.low)} and "
        f"{percent(goodput.high)} with 95% confidence.",
        tone="good" if many.complete else "warn",
        sections=(
            Section(key="seeds", title="Figures over the seeds", blocks=(chart, table)),
            _assumptions(fleet),
            rerun_section(rerun),
        ),
    )


SHARES = ("goodput", "ettr", "utilisation", "mfu", "fragmentation")
NAMES = {"ettr": "effective training time", "mfu": "MFU", "fragmentation": "fragmented of free"}
