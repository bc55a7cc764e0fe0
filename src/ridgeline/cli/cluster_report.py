"""A fleet as a page for the terminal. Reads records and computes nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from ridgeline.units import dollars, duration, energy, figures, percent

if TYPE_CHECKING:
    from rich.console import Console

_MEANING = {
    "busy": "work that lasts",
    "slow": "lost to slow nodes and links",
    "lost": "work done again after failures",
    "checkpoint": "writing checkpoints",
    "restart": "from allocation to the first step",
    "repair": "on nodes that are out",
    "spare": "kept for the next failure",
    "waiting": "free while jobs wait",
    "idle": "free",
}


def _count(value: float) -> str:
    return f"{value:,.0f}" if value == int(value) or abs(value) >= 100 else f"{value:.1f}"


_SEEDS: dict[str, tuple[str, Callable[[float], str]]] = {
    "goodput": ("goodput", percent),
    "ettr": ("effective training time", percent),
    "utilisation": ("utilisation", percent),
    "mfu": ("MFU over the calendar", percent),
    "mean_wait_s": ("mean wait", duration),
    "mean_jct_s": ("mean completion", duration),
    "p95_jct_s": ("p95 completion", duration),
    "makespan_s": ("makespan", duration),
    "deadlines_met": ("deadlines met", _count),
    "preemptions": ("planned stops", _count),
    "interruptions": ("interruptions", _count),
    "fragmentation": ("fragmented of free", percent),
    "cost_usd": ("cost", dollars),
    "usd_per_useful_hour": ("cost / useful acc.-hour", dollars),
    "energy_kwh": ("energy", energy),
}


def print_fleet(screen: Console, record: Mapping[str, Any]) -> None:
    """Print what came of a fleet."""
    title = Text(record["name"], style="bold")
    title.append(
        f"  {record['accelerators']:,} accelerators, {duration(record['span_s'])}, "
        f"policy {record['policy']}, seed {record['seed']}",
        style="not bold dim",
    )
    screen.print(title)
    if not record["complete"]:
        screen.print(f"  Interrupted after {duration(record['span_s'])}; figures are until then.")
    states = ", ".join(f"{count:,} {state}" for state, count in sorted(record["states"].items()))
    lines = [("jobs", states or "none")]
    lines += [
        (label, show(record[key]))
        for key, (label, show) in _SEEDS.items()
        if key not in ("deadlines_met", "mfu", "usd_per_useful_hour")
    ]
    if record["mfu"]:
        lines.append(("MFU over the calendar", percent(record["mfu"])))
    if record["deadlines"]:
        met = f"{record['deadlines_met']:,} of {record['deadlines']:,}"
        lines.append(("deadlines met", met))
    if record["cost_usd"] and record["uses"]["busy"]:
        lines.append(("cost / useful acc.-hour", dollars(record["usd_per_useful_hour"])))
    table = _grid()
    for label, value in lines:
        table.add_row(label, value)
    screen.print(Padding(table, (0, 0, 0, 2)))
    screen.print()
    screen.print(Text("Where accelerator time goes", style="bold"))
    table = _grid()
    table.add_column(style="dim", no_wrap=True)
    for use, share in record["uses"].items():
        if share > 0:
            table.add_row(use, f"{share:.2%}", _MEANING[use])
    screen.print(Padding(table, (0, 0, 0, 2)))
    _services(screen, record["services"])
    screen.print()


def _services(screen: Console, services: Sequence[Mapping[str, Any]]) -> None:
    if not services:
        return
    screen.print()
    screen.print(Text("Services", style="bold"))
    table = Table(box=None, padding=(0, 3, 0, 0), header_style="dim", pad_edge=False)
    table.add_column("", overflow="fold")
    for column in ("served", "replicas", "a replica sustains"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("as", style="dim")
    for one in services:
        served = one["served"] / one["asked"] if one["asked"] else 1.0
        rates = one["replica_requests_per_s"]
        for row, (pool, rate) in enumerate(rates.items()):
            where = "" if len(rates) == 1 else f" on {pool}"
            table.add_row(
                "" if row else one["name"],
                "" if row else percent(served),
                "" if row else figures(one["mean_replicas"]),
                f"{figures(rate)} requests/s{where}",
                one["replica_plans"].get(pool, "stated"),
            )
    screen.print(Padding(table, (0, 0, 0, 2)))


def print_seeds(screen: Console, record: Mapping[str, Any]) -> None:
    """Print what several seeds say."""
    played, asked = len(record["runs"]), record["seeds"]
    first = record["runs"][0]
    title = Text(first["name"], style="bold")
    count = f"{played:,} seeds" if played == asked else f"{played:,} of {asked:,} seeds"
    title.append(
        f"  {first['accelerators']:,} accelerators, policy {first['policy']}, {count}",
        style="not bold dim",
    )
    screen.print(title)
    table = Table(box=None, padding=(0, 3, 0, 0), header_style="dim", pad_edge=False)
    table.add_column("", style="dim", overflow="fold")
    for column in ("mean", "95% from", "to"):
        table.add_column(column, justify="right", no_wrap=True)
    for key, value in record["figures"].items():
        label, show = _SEEDS[key]
        if value["mean"]:
            bounds = (value["low"], value["high"])
            table.add_row(
                label, _or_none(value["mean"], show), *(_or_none(b, show) for b in bounds)
            )
    screen.print(Padding(table, (0, 0, 0, 2)))
    screen.print()


def _or_none(value: float, show: Callable[[float], str]) -> str:
    if value in (float("inf"), float("-inf")):
        return "unknown"
    return show(value) if value >= 0 else "-" + show(-value)


def print_what_if(
    screen: Console, base: Mapping[str, Any], changes: Sequence[Mapping[str, Any]]
) -> None:
    """Print what each change brings in goodput and dollars."""
    screen.print(Text("What if", style="bold"))
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim", pad_edge=False)
    table.add_column("change", overflow="fold", min_width=16)
    for name in ("goodput", "", "cost", "", "$/useful h", ""):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_row(
        "as it is",
        percent(base["goodput"]),
        "",
        dollars(base["cost_usd"]),
        "",
        _or_none(base["usd_per_useful_hour"], dollars),
        "",
    )
    ranges = False
    for row in changes:
        found = row["figures"]
        cells, halves = [row["change"]], [""]
        for name, show in (
            ("goodput", percent),
            ("cost_usd", dollars),
            ("usd_per_useful_hour", dollars),
        ):
            figure = found[name]
            points = (lambda part: f"{100 * part:.2f}") if name == "goodput" else show
            cells += [_or_none(figure["value"], show), _signed(figure["difference"], points)]
            known = figure["low"] is not None
            half = "±" + points((figure["high"] - figure["low"]) / 2.0) if known else ""
            halves += ["", half]
        table.add_row(*cells)
        if any(halves):
            ranges = True
            table.add_row(*halves, style="dim")
    screen.print(Padding(table, (0, 0, 0, 2)))
    note = "Differences of goodput are in points"
    note += "; ± is half the 95% interval, seeds paired." if ranges else ", of one seed (--seeds)."
    screen.print(Padding(Text(note, style="dim"), (0, 0, 0, 2)))
    screen.print()


def _signed(value: float, show: Callable[[float], str]) -> str:
    if value in (float("inf"), float("-inf")) or value != value:
        return "unknown"
    return ("-" if value < 0 else "+") + show(abs(value))


def _grid() -> Table:
    table = Table.grid(padding=(0, 3, 0, 0))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(justify="right", overflow="fold")
    return table
