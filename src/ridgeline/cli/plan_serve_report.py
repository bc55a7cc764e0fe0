"""A chosen service, a front or a highest rate as a page. Reads records and computes nothing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from rich.table import Table
from rich.text import Text

from ridgeline.cli.page import indented, plain_table
from ridgeline.simulator.serving.choice.front import Front
from ridgeline.simulator.serving.choice.rate import HighestRate
from ridgeline.simulator.serving.choice.records import Choice, ServicePlan
from ridgeline.simulator.serving.choice.solving import Solving
from ridgeline.units import counted, dollars, duration, energy, figures, large, percent
from ridgeline.words import pool_words

if TYPE_CHECKING:
    from rich.console import Console

    from ridgeline.simulator.compare.services import ServiceComparison
    from ridgeline.simulator.serving.choice.goals import Goal

_NAMES = {"ttft": "First token", "tpot": "Per output token", "latency": "End to end"}


def print_found(screen: Console, found: Choice | Front | HighestRate | Solving) -> None:
    """Print an answer of ``plan --serve``."""
    screen.print()
    if isinstance(found, Choice):
        _choice(screen, found)
    elif isinstance(found, Front):
        _front(screen, found)
    elif isinstance(found, Solving):
        _solving(screen, found)
    else:
        _rate(screen, found)


def _indented(screen: Console, item: Table | Text) -> None:
    indented(screen, item)
    screen.print()


def _choice(screen: Console, found: Choice) -> None:
    best = found.best
    result = best.result
    line = Text()
    line.append(f"{best.accelerators} x {best.accelerator}", style="bold green")
    line.append(f" serve {result.model}", style="bold")
    if best.usd_per_hour:
        line.append(f" for {dollars(best.usd_per_hour)} an hour")
    screen.print(line)
    screen.print(Text(f"{best.engine}, {pool_words(best.pools)}", style="dim"))
    screen.print(Text(found.asked, style="dim"))
    screen.print()
    _goals(screen, best, found.goals)
    table = Table.grid(padding=(0, 3, 0, 0))
    table.add_column(style="dim")
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    table.add_row(
        "Output",
        f"{large(result.output_tokens_per_s)} tokens/s",
        f"{large(result.output_tokens_per_s / best.accelerators)}/s an accelerator",
    )
    table.add_row(
        "Busy", percent(result.utilisation), f"KV cache {percent(result.kv_mean_fraction)}"
    )
    if best.usd_per_hour:
        table.add_row(
            "Cost per 1M",
            _price(best.usd_per_million_tokens),
            f"tokens; {_price(best.usd_per_million_output_tokens)} if output alone pays",
        )
    table.add_row("Energy per 1M", energy(result.bill.kwh_per_million_tokens), "tokens")
    _indented(screen, table)
    if found.others:
        _others(screen, found)
    counts = found.counts
    ends = (
        (counts.throughput_bound, "too few for the work"),
        (counts.cost_bound, "dearer than the best"),
        (counts.cut, "given up early"),
        (counts.played, "played"),
    )
    parts = ", ".join(f"{number:,} {what}" for number, what in ends if number)
    text = f"{counted(counts.seen, 'deployment')}: {parts}; of {counts.replicas_seen:,} replicas "
    text += f"{counts.replicas_too_large:,} too large, {counts.replicas_too_slow:,} too slow; "
    screen.print(Text(f"{text}{duration(found.elapsed_s)}", style="dim"))


def _goals(screen: Console, plan: ServicePlan, goals: Sequence[Goal]) -> None:
    table = plain_table()
    for name in ("", "promised", "kept", "p50", "p90", "p95", "p99"):
        wraps = name in ("", "promised")
        justify: Literal["left", "right"] = "right" if name else "left"
        table.add_column(name, justify=justify, no_wrap=not wraps, overflow="fold")
    for goal in goals:
        spread = getattr(plan.result, f"{goal.figure}_s")
        table.add_row(
            _NAMES[goal.figure],
            f"{duration(goal.limit_s)} @p{100.0 * goal.share:g}",
            duration(plan.reached_s[goal.figure]),
            *(duration(getattr(spread, share)) for share in ("p50", "p90", "p95", "p99")),
        )
    _indented(screen, table)


def _others(screen: Console, found: Choice) -> None:
    screen.print(Text("Otherwise", style="bold"))
    table = plain_table()
    for name in ("", "USD/h", "per 1M", "headroom", "how"):
        table.add_column(name, justify="left" if name in ("", "how") else "right", overflow="fold")
    for plan in found.others:
        table.add_row(
            f"{plan.accelerators} x {plan.accelerator}",
            figures(plan.usd_per_hour) if plan.usd_per_hour else "?",
            _price(plan.usd_per_million_tokens),
            percent(plan.headroom - 1.0),
            pool_words(plan.pools),
        )
    _indented(screen, table)


def _rate(screen: Console, found: HighestRate) -> None:
    plan = found.plan
    line = Text()
    line.append(f"{figures(found.requests_per_s)} requests/s", style="bold green")
    line.append(f" on {plan.accelerators} x {plan.accelerator}", style="bold")
    line.append(f", {figures(found.requests_per_s_per_accelerator)}/s an accelerator")
    screen.print(line)
    screen.print(Text(f"{plan.engine}, {pool_words(plan.pools)}", style="dim"))
    screen.print()
    _goals(screen, plan, found.goals)
    text = f"{counted(found.seen, 'deployment')}, {found.bounded:,} dropped by a bound; "
    screen.print(Text(f"{text}{counted(found.played, 'play')}", style="dim"))


def _front(screen: Console, found: Front) -> None:
    screen.print(Text(f"The front, {found.asked}", style="bold"))
    screen.print()
    table = plain_table()
    for name in ("a user", "an accelerator", "in flight", "TTFT", "$/1M out", "", "how"):
        table.add_column(name, justify="left" if name in ("", "how") else "right", overflow="fold")
    for point in found.points:
        table.add_row(
            f"{figures(point.output_tokens_per_s_per_user)}/s",
            f"{figures(point.output_tokens_per_s_per_accelerator)}/s",
            f"{point.concurrency:,}",
            duration(point.ttft_p50_s),
            _price(point.usd_per_million_output_tokens),
            f"{point.accelerators} x {point.accelerator}",
            pool_words(point.pools),
        )
    _indented(screen, table)
    text = f"{counted(found.seen, 'point')}, {found.bounded:,} dropped by a bound, "
    screen.print(Text(f"{text}{found.played:,} played", style="dim"))


def _solving(screen: Console, found: Solving) -> None:
    line = Text(f"{counted(found.problems, 'problem')}", style="bold")
    line.append(f", each answer one of {found.asked}", style="dim")
    screen.print(line)
    screen.print()
    table = plain_table()
    for name in ("", "effort", "solved", "a problem", "a solved one", "all"):
        table.add_column(name, justify="right" if name else "left", no_wrap=True)
    for row in found.solved:
        noun = {"samples": "sample", "tokens": "token"}[row.effort]
        table.add_row(
            row.name,
            counted(round(row.amount), noun),
            percent(row.share),
            _price(row.usd_per_problem),
            _price(row.usd_per_solved),
            _price(row.usd),
        )
    _indented(screen, table)
    for plan in found.plans:
        words = f"{plan.model}: {plan.plan.accelerators} x {plan.plan.accelerator}, "
        screen.print(Text(words + pool_words(plan.plan.pools), style="dim"))
    for text in found.left_out:
        screen.print(Text(f"! {text}", style="yellow"))


def print_services(screen: Console, found: ServiceComparison) -> None:
    """Print the cheapest service of each accelerator, and what cannot serve."""
    screen.print()
    screen.print(Text(f"{found.model}, the cheapest service of each", style="bold"))
    promised = ", ".join(goal.text for goal in found.goals)
    screen.print(Text(f"{found.asked}; {promised}", style="dim"))
    screen.print()
    figures_of = [(row, row.plan) for row in found.rows if row.plan is not None]
    if figures_of:
        table = plain_table()
        reached = [_NAMES[goal.figure] for goal in found.goals]
        for name in ("", "number", "USD/h", "$/1M", *reached, "kWh/1M", "busy"):
            table.add_column(name, justify="right" if name else "left")
        for row, plan in figures_of:
            table.add_row(
                row.name,
                f"{plan.accelerators:,}",
                figures(plan.usd_per_hour) if plan.usd_per_hour else "?",
                _price(plan.usd_per_million_tokens),
                *(duration(plan.reached_s[goal.figure]) for goal in found.goals),
                figures(plan.result.bill.kwh_per_million_tokens),
                percent(plan.result.utilisation),
            )
        _indented(screen, table)
        for row, plan in figures_of:
            screen.print(Text(f"{row.name}: {plan.engine}, {pool_words(plan.pools)}", style="dim"))
        screen.print()
    for row in found.rows:
        if row.plan is None:
            screen.print(Text(f"{row.name} cannot: {row.reason}", style="yellow"))


def _price(value: float) -> str:
    if math.isnan(value):
        return "?"
    return dollars(value) if value >= 0.1 else f"${figures(value, 2)}"
