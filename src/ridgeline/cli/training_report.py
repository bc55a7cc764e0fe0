"""A predicted training run as a page for the terminal. Reads records and computes nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from ridgeline.cli.units import (
    column_of_times,
    dollars,
    duration,
    energy,
    figures,
    large,
    mass,
    percent,
)

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

    from ridgeline.simulator.results import TrainingResult

BAR_WIDTH = 26
GIB = 2.0**30
LONGEST_NOTE = 200
"""Characters of a source on the page; JSON carries the whole."""
CAUSES = ("weights", "gradients", "optimizer", "activations", "buffers", "framework")
SETTINGS = ("tp", "pp", "vpp", "dp", "cp", "ep", "etp", "zero_stage")


def print_training(
    screen: Console, result: TrainingResult, remedies: Sequence[dict[str, Any]]
) -> None:
    """Print the verdict, the figures, where time and memory go, and what stands behind them."""
    _header(screen, result)
    _verdict(screen, result)
    _remedies(screen, result, remedies)
    _figures(screen, result)
    _time(screen, result)
    _memory(screen, result)
    _notes(screen, result)


def print_operators(screen: Console, operators: Sequence[dict[str, Any]]) -> None:
    """Print the operators of each part of the model and each pass; times of one run of each."""
    screen.print(Text("Operators of a step on one accelerator", style="bold"))
    parts: dict[str, list[dict[str, Any]]] = {}
    for record in operators:
        parts.setdefault(f"{record['part']}, {record['phase']}", []).append(record)
    widest = max((len(record["operator"]) for record in operators), default=0)
    for title, records in parts.items():
        screen.print()
        table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim", pad_edge=False)
        table.add_column(Text(title, style="cyan"), width=max(widest, 28), overflow="fold")
        table.add_column("type", width=4, overflow="fold")
        table.add_column("shape", width=20, overflow="fold")
        table.add_column("us", justify="right", width=8, no_wrap=True)
        table.add_column("exposed", justify="right", width=8, no_wrap=True)
        for record in records:
            table.add_row(
                f"{record['operator']}",
                record["dtype"],
                record["shape"],
                figures(record["seconds"] * 1e6),
                figures(record["exposed_s"] * 1e6),
            )
        _indented(screen, table)
    screen.print()


def _indented(screen: Console, item: RenderableType) -> None:
    screen.print(Padding(item, (0, 0, 0, 2), expand=False))


def _header(screen: Console, result: TrainingResult) -> None:
    screen.print()
    line = Text()
    line.append(result.model, style="bold")
    line.append(f" on {result.cluster}", style="bold")
    line.append(f" ({result.accelerators:,} accelerators), {result.stack}")
    screen.print(line)
    parallel, training = result.plan["parallel"], result.plan["training"]
    split = [
        f"{name.removesuffix('_stage')} {parallel[name]}"
        for name in SETTINGS
        if parallel[name] > (0 if name == "zero_stage" else 1)
    ]
    split += ["sp"] if parallel["sp"] else []
    split.append(training["schedule"])
    job = (
        f"{training['global_batch_seqs']:,} x {training['seq_len']:,} tokens a step, "
        f"micro-batch {training['micro_batch_seqs']}, {training['precision']}, "
        f"recompute {training['recompute']}"
    )
    screen.print(Text(", ".join(split), style="dim"))
    screen.print(Text(job, style="dim"))
    screen.print()


def _verdict(screen: Console, result: TrainingResult) -> None:
    worst = result.worst_memory
    need, limit = f"{worst.total / GIB:.1f}", f"{result.memory_limit / GIB:.1f}"
    line = Text()
    if result.fits:
        line.append("Fits", style="bold green")
        line.append(f": the fullest stage ({worst.stage}) takes {need} of {limit} GiB.")
    else:
        line.append("Out of memory", style="bold red")
        line.append(f": stage {worst.stage} needs {need} GiB and has {limit}.")
    screen.print(line)
    screen.print()


def _remedies(screen: Console, result: TrainingResult, remedies: Sequence[dict[str, Any]]) -> None:
    if result.fits:
        return
    if not remedies:
        screen.print("Nothing that was tried fits, up to 64 times the accelerators.\n")
        return
    screen.print(Text("Cheapest changes that would fit", style="bold"))
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim", pad_edge=False)
    table.add_column("change", overflow="fold")
    table.add_column("GiB", justify="right", no_wrap=True)
    table.add_column("step", justify="right", no_wrap=True)
    for remedy in remedies:
        table.add_row(
            ", ".join(remedy["changes"]),
            f"{remedy['memory_gib']:.1f}",
            duration(remedy["step_time_s"]),
        )
    _indented(screen, table)
    screen.print()


def _figures(screen: Console, result: TrainingResult) -> None:
    table = Table.grid(padding=(0, 3, 0, 0))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    low, high = duration(result.step_time_low_s), duration(result.step_time_high_s)
    table.add_row("Step time", duration(result.step_time_s), f"{low} to {high}")
    table.add_row(
        "MFU",
        percent(result.mfu),
        f"HFU {percent(result.hfu)}, {result.model_tflops_per_accelerator:.0f} TFLOP/s an "
        f"accelerator ({result.flop_convention} FLOPs)",
    )
    table.add_row(
        "Tokens",
        f"{large(result.tokens_per_s)}/s",
        f"{large(result.tokens_per_s_per_accelerator)}/s an accelerator",
    )
    table.add_row(
        "Idle",
        percent(result.bubble_fraction),
        f"pipeline bubble; {percent(result.exposed_communication_fraction)} exposed communication",
    )
    if result.steps:
        table.add_row(
            "Run",
            duration(result.wall_clock_s),
            f"{result.steps:,} steps, {percent(result.goodput)} of the time productive",
        )
        table.add_row(
            "Cost",
            dollars(result.cost_usd),
            f"{large(result.accelerator_hours)} accelerator-hours at "
            f"{dollars(result.usd_per_accelerator_hour)}",
        )
        table.add_row("Energy", energy(result.energy_kwh), f"{mass(result.co2_kg)} CO2")
    _indented(screen, table)
    screen.print()


def _bars(rows: Sequence[tuple[str, float, str, str]]) -> Table:
    """Return rows of (label, fraction, figure, second figure) with a bar for the fraction."""
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(width=BAR_WIDTH, style="cyan", no_wrap=True)
    table.add_column(justify="right", no_wrap=True)
    table.add_column(justify="right", no_wrap=True, style="dim")
    longest = max((fraction for _, fraction, _, _ in rows), default=1.0) or 1.0
    for label, fraction, figure, second in rows:
        table.add_row(label, _bar(fraction / longest), figure, second)
    return table


def _bar(fraction: float) -> str:
    eighths = round(max(0.0, fraction) * BAR_WIDTH * 8)
    return "█" * (eighths // 8) + " ▏▎▍▌▋▊▉"[eighths % 8].strip()


def _time(screen: Console, result: TrainingResult) -> None:
    screen.print(Text("Where a step goes", style="bold"))
    shares = sorted(
        (share for share in result.breakdown if share.seconds > 0),
        key=lambda share: -share.seconds,
    )
    times = column_of_times([share.seconds for share in shares])
    rows = [
        (share.group, share.fraction, time, percent(share.fraction))
        for share, time in zip(shares, times, strict=True)
    ]
    _indented(screen, _bars(rows))
    screen.print()


def _memory(screen: Console, result: TrainingResult) -> None:
    worst = result.worst_memory
    title = Text("Where memory goes", style="bold")
    title.append(f" (stage {worst.stage}, GiB an accelerator)", style="not bold dim")
    screen.print(title)
    rows = []
    for cause in CAUSES:
        amount = getattr(worst, cause)
        if amount > 0:
            fraction = amount / result.memory_limit
            rows.append((cause, fraction, f"{amount / GIB:.1f}", percent(fraction)))
    rows.sort(key=lambda row: -row[1])
    _indented(screen, _bars(rows))
    screen.print()


def _notes(screen: Console, result: TrainingResult) -> None:
    if result.warnings:
        screen.print(Text("Warnings", style="bold yellow"))
        _indented(screen, _list([("!", line) for line in result.warnings], "yellow"))
        screen.print()
    if result.provenance:
        screen.print(Text("What stands behind it", style="bold"))
        rows = [(note.kind, _shortened(note.text)) for note in result.provenance]
        _indented(screen, _list(rows, "dim"))
        screen.print()


def _shortened(text: str) -> str:
    return text if len(text) <= LONGEST_NOTE else text[:LONGEST_NOTE] + " ... (all: --json)"


def _list(rows: Sequence[tuple[str, str]], style: str) -> Table:
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(style=style, no_wrap=True)
    table.add_column(overflow="fold")
    for label, text in rows:
        table.add_row(label, Text(text))
    return table
