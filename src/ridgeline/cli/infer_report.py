"""A predicted service as a page for the terminal. Reads records and computes nothing."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from ridgeline.cli.output import PLAIN_WIDTH
from ridgeline.cli.page import answer_table, indented, labelled, plain_table, print_warnings
from ridgeline.units import (
    column_of_times,
    counted,
    dollars,
    duration,
    energy,
    figures,
    large,
    mass,
    percent,
)

if TYPE_CHECKING:
    from rich.console import Console

    from ridgeline.simulator.serving.results import ServingResult, Slo, Spread

SETTINGS = ("tp", "pp", "dp", "ep", "replicas")


def print_serving(screen: Console, result: ServingResult, asked: str) -> None:
    """Print the verdict, the latencies, the rates, the bill, and what stands behind them.

    Parameters
    ----------
    screen
        Where to.
    result
        From ``serve``.
    asked
        The traffic in words.
    """
    _header(screen, result, asked)
    _verdict(screen, result)
    if result.finished:
        _latencies(screen, result)
        _figures(screen, result)
        if len(result.pools) > 1:
            _pools(screen, result)
    _notes(screen, result)


def _header(screen: Console, result: ServingResult, asked: str) -> None:
    screen.print()
    line = Text()
    line.append(f"{result.model} on {result.cluster}", style="bold")
    line.append(f" ({counted(result.accelerators, 'accelerator')}), {result.engine}")
    screen.print(line)
    several = len(result.pools) > 1
    for pool, use in zip(result.plan["pools"], result.pools, strict=True):
        split = [f"{name} {pool[name]}" for name in SETTINGS if pool[name] > 1]
        cache = f"KV {pool['kv_precision']}" if pool["kv_precision"] else ""
        where = f"{use.role} pool, {use.cluster}, {use.engine}" if several else ""
        screen.print(
            Text(", ".join(filter(None, [where, *split, pool["precision"], cache])), style="dim")
        )
    screen.print(Text(asked, style="dim"))
    screen.print()


def _limits(slo: Slo) -> str:
    limits = (("TTFT", slo.ttft_s), ("TPOT", slo.tpot_s), ("latency", slo.latency_s))
    return ", ".join(f"{name} {duration(x)}" for name, x in limits if math.isfinite(x))


def _verdict(screen: Console, result: ServingResult) -> None:
    line = Text()
    if result.finished == 0:
        line.append("Nothing finished", style="bold red")
        line.append(f": of {counted(result.requests, 'request')}.")
        screen.print(line)
        screen.print()
        return
    limits = _limits(result.slo)
    if limits:
        good = percent(result.goodput_fraction)
        style = "bold green" if result.goodput_fraction >= 0.99 else "bold yellow"
        line.append(f"{good} of requests within the SLO", style=style)
        line.append(f" ({limits}).")
    elif math.isnan(result.ttft_s.p50):
        line.append(f"{large(result.input_tokens_per_s)} prompt tokens/s", style="bold green")
        line.append(f"; p50: a prompt is scored after {duration(result.latency_s.p50)}.")
    else:
        line.append(f"{large(result.output_tokens_per_s)} output tokens/s", style="bold green")
        line.append(
            f"; p50: first token after {duration(result.ttft_s.p50)}"
            + (
                f", then one a {duration(result.tpot_s.p50)}."
                if not math.isnan(result.tpot_s.p50)
                else "."
            )
        )
    screen.print(line)
    left = [
        f"{counted(count, 'request')} {what}"
        for count, what in (
            (result.finished, "finished"),
            (result.rejected, "rejected"),
            (result.running, "still running"),
            (result.not_arrived, "not yet due"),
        )
        if count
    ]
    screen.print(f"{'; '.join(left)}, over {duration(result.duration_s)}.")
    screen.print()


def _latencies(screen: Console, result: ServingResult) -> None:
    table = plain_table()
    table.add_column("", overflow="fold")
    # in a narrow window the ranges stand below the table
    beside = screen.width >= PLAIN_WIDTH
    for name in ("mean", "p50", "p90", "p95", "p99", *(["p50 likely"] if beside else [])):
        table.add_column(name, justify="right", no_wrap=True)
    first = _between(result.ttft_low_s, result.ttft_high_s)
    each = _between(result.tpot_low_s, result.tpot_high_s)
    rows: tuple[tuple[str, Spread, str], ...] = (
        ("TTFT", result.ttft_s, first),
        ("TPOT", result.tpot_s, each),
        ("ITL", result.itl_s, ""),
        ("End to end", result.latency_s, ""),
        ("In line", result.queue_s, ""),
    )
    for name, spread, between in rows:
        values = (spread.mean, spread.p50, spread.p90, spread.p95, spread.p99)
        if not math.isnan(spread.mean):
            table.add_row(name, *column_of_times(values), *([between] if beside else []))
    indented(screen, table)
    if first and not beside:
        indented(screen, Text(f"p50 likely: TTFT {first}, TPOT {each}"))
    if not math.isnan(result.ttft_s.mean):
        words = "TTFT to the first token, TPOT for each further one (mean), ITL between any two"
        indented(screen, Text(words, style="dim"))
    screen.print()


def _between(low: float, high: float) -> str:
    """Return a range of times in one unit: 1.00 to 2.84 s."""
    if math.isnan(low):
        return ""
    least, most = column_of_times((low, high))
    return f"{least.rpartition(' ')[0]} to {most}"


def _figures(screen: Console, result: ServingResult) -> None:
    table = answer_table()
    table.add_row(
        "Output",
        f"{large(result.output_tokens_per_s)} tokens/s",
        _likely(result.output_tokens_per_s_low, result.output_tokens_per_s_high, large)
        + f"{large(result.output_tokens_per_s_per_accelerator)}/s an accelerator"
        + (
            f", {figures(result.output_tokens_per_s_per_user)}/s a user"
            if math.isfinite(result.output_tokens_per_s_per_user)
            else ""
        ),
    )
    table.add_row(
        "Input",
        f"{large(result.input_tokens_per_s)} tokens/s",
        f"{percent(result.cached_fraction)} from the prefix cache"
        if result.cached_fraction
        else "",
    )
    table.add_row(
        "Requests",
        f"{figures(result.requests_per_s)}/s",
        f"{figures(result.goodput_requests_per_s)}/s within the SLO"
        if _limits(result.slo)
        else f"{figures(result.mean_in_system)} in the system on average",
    )
    if result.users:
        waits = [use.ttft_p90_s for use in result.users if not math.isnan(use.ttft_p90_s)]
        table.add_row(
            "Users",
            f"{len(result.users):,}",
            f"p90 of TTFT from {duration(min(waits))} to {duration(max(waits))} by user; "
            f"{counted(result.preemptions, 'preemption')}"
            if waits
            else "",
        )
    if result.finetuning is not None:
        table.add_row(
            "Fine-tuning",
            f"{large(result.finetuning.tokens_per_s)} tokens/s",
            f"{percent(result.finetuning.share)} of what it gets without requests; iterations of "
            f"{duration(result.finetuning.iteration_s)}",
        )
    table.add_row(
        "Busy",
        percent(result.utilisation),
        f"of which {percent(result.prefill_share)} on prompts; "
        f"{counted(result.iterations, 'iteration')}",
    )
    table.add_row(
        "KV cache",
        percent(result.kv_mean_fraction),
        f"at most {percent(result.kv_peak_fraction)} of {large(result.kv_tokens)} tokens a replica"
        + (f"; {counted(result.preemptions, 'preemption')}" if result.preemptions else ""),
    )
    _bill(table, result)
    indented(screen, table)
    screen.print()


def _likely(low: float | None, high: float | None, written: Callable[[float], str]) -> str:
    """Return a range before other figures, nothing where there is none."""
    return f"{written(low)} to {written(high)} likely; " if low and high else ""


def _pools(screen: Console, result: ServingResult) -> None:
    table = plain_table()
    table.add_column("Pool", overflow="fold")
    for name in ("replicas", "requests", "busy", "cost", "idle", "an hour"):
        table.add_column(name, justify="right", no_wrap=True)
    for use in result.pools:
        name = use.cluster if use.role == "whole" else f"{use.role}, {use.cluster}"
        rate = dollars(use.usd_per_accelerator_hour) if use.usd_per_accelerator_hour else "unknown"
        paid = (
            (dollars(use.usd), dollars(use.idle_usd)) if use.usd_per_accelerator_hour else ("", "")
        )
        table.add_row(
            name, str(use.replicas), f"{use.finished:,}", percent(use.utilisation), *paid, rate
        )
    indented(screen, table)
    screen.print()


def _bill(table: Table, result: ServingResult) -> None:
    bill = result.bill
    if bill.usd_per_accelerator_hour:
        table.add_row(
            "Cost per 1M",
            _cents(bill.usd_per_million_tokens),
            "tokens; "
            + _likely(result.usd_per_million_tokens_low, result.usd_per_million_tokens_high, _cents)
            + f"{_cents(bill.usd_per_million_input_tokens)} input"
            + (
                ""
                if math.isnan(bill.usd_per_million_output_tokens)
                else f", {_cents(bill.usd_per_million_output_tokens)} output"
            ),
        )
        table.add_row(
            "Cost",
            _cents(bill.usd),
            f"{dollars(bill.idle_usd)} idle; at {dollars(bill.usd_per_accelerator_hour)} an "
            "accelerator-hour",
        )
    else:
        table.add_row("Cost", "unknown", "give a price with --price")
    table.add_row(
        "Energy per 1M",
        energy(bill.kwh_per_million_tokens),
        f"tokens, {mass(bill.co2_kg_per_million_tokens)} CO2",
    )


def _cents(value: float) -> str:
    """Return a price that may be a fraction of a cent: $12.40, $0.31, $0.0042."""
    return dollars(value) if value >= 0.1 or value == 0 else f"${figures(value, 2)}"


def _notes(screen: Console, result: ServingResult) -> None:
    print_warnings(screen, result.warnings)
    if result.provenance:
        screen.print(Text("What stands behind it", style="bold"))
        rows = [(kind, text) for kind, _, text in (x.partition(": ") for x in result.provenance)]
        indented(screen, labelled(rows, "dim"))
        screen.print()
