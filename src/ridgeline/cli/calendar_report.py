"""A run on the calendar as a page for the terminal. Reads records and computes nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import isfinite
from typing import TYPE_CHECKING, Any

from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from ridgeline.units import column_of_times, dollars, duration, figures, percent

if TYPE_CHECKING:
    from rich.console import Console

_ENDS = ("p10", "p50", "p90")


def print_calendar(screen: Console, record: Mapping[str, Any]) -> None:
    """Print when the run ends, what it costs, where its time goes and what changes bring."""
    title = Text("On the calendar", style="bold")
    title.append(f" ({record['runs']:,} runs played, seed {record['seed']})", style="not bold dim")
    screen.print(title)
    table = Table(box=None, padding=(0, 3, 0, 0), header_style="dim", pad_edge=False)
    table.add_column("", style="dim", no_wrap=True)
    for end in _ENDS:
        table.add_column(end.upper(), justify="right", no_wrap=True)
    table.add_row("Length", *(_time(record["wall_clock_s"][end]) for end in _ENDS))
    if record["finish"] is not None:
        table.add_row("Last day", *(day or "never" for day in record["finish"]))
    if record["cost_usd"] is not None:
        table.add_row("Cost", *(_money(record["cost_usd"][end]) for end in _ENDS))
    table.add_row("Goodput", *(percent(record["goodput"][end]) for end in _ENDS))
    table.add_row("Interruptions", *(f"{record['failures'][end]:,.0f}" for end in _ENDS))
    screen.print(Padding(table, (0, 0, 0, 2)))
    for key, text in (("within_deadline", "in time"), ("within_budget", "within the budget")):
        if record[key] is not None:
            error = percent(record[f"{key}_error"])
            screen.print(f"  {percent(record[key])} likely {text} (standard error {error})")
    screen.print()
    _breakdown(screen, record)
    if "what_if" in record:
        _what_if(screen, record)


def _breakdown(screen: Console, record: Mapping[str, Any]) -> None:
    parts = [(name, s) for name, s in record["breakdown_s"].items() if s > 0]
    whole = sum(seconds for _, seconds in parts)
    screen.print(Text("Where the calendar goes (mean)", style="bold"))
    table = Table.grid(padding=(0, 3, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(justify="right", no_wrap=True)
    table.add_column(justify="right", style="dim", no_wrap=True)
    times = column_of_times([seconds for _, seconds in parts])
    for (name, seconds), time in zip(parts, times, strict=True):
        table.add_row(name, time, percent(seconds / whole))
    screen.print(Padding(table, (0, 0, 0, 2)))
    if record["spare_nodes"] is not None:
        count = record["spare_nodes"]
        screen.print(f"  {count:,} spare nodes." if count else "  No spare nodes: repairs stop it.")
    if isfinite(record["checkpoint_interval_s"]):
        every = duration(record["checkpoint_interval_s"])
        pause = duration(record["checkpoint_pause_s"])
        host = record["checkpoint_host_bytes"] / 2.0**30
        held = f" They take {figures(host)} GiB of a node's memory." if host else ""
        screen.print(f"  A checkpoint every {every}, {pause} each.{held}")
    screen.print()


def _what_if(screen: Console, record: Mapping[str, Any]) -> None:
    screen.print(Text("What if", style="bold"))
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim", pad_edge=False)
    table.add_column("change", overflow="fold", min_width=20)
    for name in ("goodput", "", "length", "", "cost", ""):
        table.add_column(name, justify="right", no_wrap=True)
    base_cost = record["cost_usd"]
    spares = record["assumptions"]["spares"]
    table.add_row(
        "base" if spares != 0 else "base (no spares)",
        percent(record["mean_goodput"]),
        "",
        _time(record["wall_clock_s"]["p50"]),
        "",
        "" if base_cost is None else _money(base_cost["p50"]),
        "",
    )
    for row in record["what_if"]:
        money = row["cost_usd"] is not None
        table.add_row(
            row["change"],
            percent(row["goodput"]),
            f"{100 * row['goodput_difference']:+.1f}",
            _time(row["wall_clock_s"]),
            _signed(row["wall_clock_difference_s"], duration),
            _money(row["cost_usd"]) if money else "",
            _signed(row["cost_difference_usd"], dollars) if money else "",
        )
    screen.print(Padding(table, (0, 0, 0, 2)))
    screen.print()


def _time(seconds: float) -> str:
    return duration(seconds) if isfinite(seconds) else "never"


def _money(usd: float) -> str:
    return dollars(usd) if isfinite(usd) else "without end"


def _signed(value: float, show: Callable[[float], str]) -> str:
    return ("-" if value < 0 else "+") + show(abs(value))
