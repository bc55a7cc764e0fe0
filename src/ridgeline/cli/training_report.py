"""A predicted training run as a page for the terminal. Reads records and computes nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rich.table import Table
from rich.text import Text

from ridgeline.cli.output import PLAIN_WIDTH
from ridgeline.cli.page import answer_table, indented, labelled, plain_table, print_warnings
from ridgeline.cli.rollout_report import print_rollout
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
from ridgeline.words import CAUSES, EVIDENCE, SETTINGS

if TYPE_CHECKING:
    from rich.console import Console

    from ridgeline.simulator.results import TrainingResult

BAR_WIDTH = 26
GIB = 2.0**30
LONGEST_NOTE = 200
"""Characters of a source on the page; JSON carries the whole."""
EXCHANGE = (
    "weight_shard_size",
    "gradient_shard_size",
    "secondary_shard_size",
    "quantized_weights",
    "quantized_gradients",
)
"""Settings of ``parallel`` that are shown only where they are in use."""


def print_training(
    screen: Console, result: TrainingResult, remedies: Sequence[dict[str, Any]]
) -> None:
    """Print the verdict, the figures, where time and memory go, and what stands behind them."""
    _header(screen, result)
    _verdict(screen, result)
    _remedies(screen, result, remedies)
    _figures(screen, result)
    _time(screen, result)
    if result.rollout is not None:
        print_rollout(screen, result.rollout)
    _memory(screen, result)
    _notes(screen, result)


def print_operators(screen: Console, operators: Sequence[dict[str, Any]]) -> None:
    """Print the operators of each part of the model and each pass; times of one run of each."""
    screen.print(Text("Operators of a step on one accelerator", style="bold"))
    parts: dict[str, list[dict[str, Any]]] = {}
    for record in operators:
        parts.setdefault(f"{record['part']}, {record['phase']}", []).append(record)
    widest = max((len(record["operator"]) for record in operators), default=0)
    # In a narrow window names and shapes fold, figures never do.
    name, shape = (max(widest, 28), 20) if screen.width >= PLAIN_WIDTH else (20, 9)
    for title, records in parts.items():
        screen.print()
        table = plain_table()
        table.add_column(Text(title, style="cyan"), width=name, overflow="fold")
        table.add_column("type", width=4, overflow="fold")
        table.add_column("shape", width=shape, overflow="fold")
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
        indented(screen, table)
    screen.print()


def _header(screen: Console, result: TrainingResult) -> None:
    screen.print()
    line = Text()
    line.append(result.model, style="bold")
    line.append(f" on {result.cluster}", style="bold")
    line.append(f" ({counted(result.accelerators, 'accelerator')}), {result.stack}")
    screen.print(line)
    parallel, training = result.plan["parallel"], result.plan["training"]
    split = [
        f"{name.removesuffix('_stage')} {parallel[name]}"
        for name in SETTINGS
        if parallel[name] > (0 if name == "zero_stage" else 1)
    ]
    split += ["sp"] if parallel["sp"] else []
    split += [
        name.replace("_", " ") + ("" if parallel[name] is True else f" {parallel[name]}")
        for name in EXCHANGE
        if parallel[name]
    ]
    split += [training["schedule"]] if parallel["pp"] > 1 else []
    job = (
        f"{training['global_batch_seqs']:,} x {training['seq_len']:,} tokens a step, "
        f"micro-batch {training['micro_batch_seqs']}, {training['precision']}, "
        f"recompute {training['recompute']}"
    )
    if split:
        screen.print(Text(", ".join(split), style="dim"))
    screen.print(Text(job, style="dim"))
    if tuned := _tuned(training):
        screen.print(Text(", ".join(tuned), style="dim"))
    screen.print()


def _tuned(training: dict[str, Any]) -> list[str]:
    """Return what of the model is trained, and on what, where it is not all on next tokens."""
    tuning = training["tuning"]
    said = [f"LoRA of rank {training['lora_rank']}"] if training["lora_rank"] else []
    for key, words in (
        ("quantised_bits", "{:.3g}-bit frozen weights"),
        ("adapter_width", "bottlenecks of width {}"),
        ("side_reduction", "a ladder 1/{} as wide"),
        ("frozen_layers", "first {} layers frozen"),
        ("stored_logits", "{} stored logits a token"),
    ):
        said += [words.format(tuning[key])] if tuning[key] else []
    said += ["embeddings alone trained"] if tuning["trained"] == "embeddings" else []
    said += ["paged optimizer"] if tuning["paged_optimizer"] else []
    said += [f"teacher {tuning['teacher']}"] if tuning["teacher"] else []
    objective = tuning["objective"]
    said += [f"objective {objective}"] if objective != "next-token" else []
    return said


def _verdict(screen: Console, result: TrainingResult) -> None:
    worst = result.worst_memory
    need, limit = f"{worst.total / GIB:,.1f}", f"{result.memory_limit / GIB:,.1f}"
    line = Text()
    on_paper = " on paper" if result.evidence == "datasheet" else ""
    if result.fits:
        who = f"the fullest stage ({worst.stage})" if _staged(result) else "an accelerator"
        line.append(f"Fits{on_paper}", style="bold yellow" if on_paper else "bold green")
        line.append(f": {who} takes {need} of {limit} GiB.")
    elif worst.total <= result.memory_limit and result.host_shortage is not None:
        what, held, has = result.host_shortage
        line.append(f"Out of host {what}", style="bold red")
        line.append(f": a node needs {held / GIB:,.1f} GiB and has {has / GIB:,.1f}.")
    else:
        who = f"stage {worst.stage}" if _staged(result) else "an accelerator"
        line.append("Out of memory", style="bold red")
        line.append(f": {who} needs {need} GiB and has {limit}.")
    screen.print(line)
    if result.evidence:
        mark, style, word, meaning = EVIDENCE[result.evidence]
        screen.print(Text.assemble((f"{mark} {word}", style), f": {meaning}."))
    screen.print()


def _staged(result: TrainingResult) -> bool:
    return len(result.memory) > 1


def _remedies(screen: Console, result: TrainingResult, remedies: Sequence[dict[str, Any]]) -> None:
    if result.fits:
        return
    if not remedies:
        screen.print("Nothing that was tried fits, up to 64 times the accelerators.\n")
        return
    screen.print(Text("Cheapest changes that would fit", style="bold"))
    table = plain_table()
    table.add_column("change", overflow="fold")
    table.add_column("GiB", justify="right", no_wrap=True)
    table.add_column("step", justify="right", no_wrap=True)
    for remedy in remedies:
        table.add_row(
            ", ".join(remedy["changes"]),
            f"{remedy['memory_gib']:.1f}",
            duration(remedy["step_time_s"]),
        )
    indented(screen, table)
    screen.print()


def _figures(screen: Console, result: TrainingResult) -> None:
    table = answer_table()
    low, high = duration(result.step_time_low_s), duration(result.step_time_high_s)
    about = "about " if result.evidence == "datasheet" else ""
    table.add_row("Step time", f"{about}{duration(result.step_time_s)}", f"{low} to {high}")
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
    waits = [
        (fraction, cause)
        for fraction, cause in (
            (result.bubble_fraction, "pipeline bubble"),
            (result.exposed_communication_fraction, "exposed communication"),
        )
        if percent(fraction) != percent(0.0)
    ]
    if waits:
        # One cause alone needs no figure beside the sum.
        causes = ", ".join(
            f"{cause} {percent(fraction)}" if len(waits) > 1 else cause for fraction, cause in waits
        )
        table.add_row("Idle", percent(sum(fraction for fraction, _ in waits)), causes)
    _bill(table, result)
    indented(screen, table)
    screen.print()


def _bill(table: Table, result: TrainingResult) -> None:
    """Add length, cost and energy of the run, or of the one step that was asked for."""
    whole = result.plan["training"]["tokens"] > 0
    hours = f"{large(result.accelerator_hours)} accelerator-hours"
    if whole:
        table.add_row(
            "Run",
            duration(result.wall_clock_s),
            f"{counted(result.steps, 'step')}, {percent(result.goodput)} of the time productive",
        )
    table.add_row(
        "Cost" if whole else "Cost a step",
        dollars(result.cost_usd) if result.usd_per_accelerator_hour else "unknown",
        f"{hours} at {dollars(result.usd_per_accelerator_hour)}"
        if result.usd_per_accelerator_hour
        else f"{hours}; give a price with --price",
    )
    table.add_row("Energy", energy(result.energy_kwh), f"{mass(result.co2_kg)} CO2")


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
        # What would read as nothing is left to --json.
        if percent(share.fraction) != percent(0.0) and any(digit in time for digit in "123456789")
    ]
    indented(screen, _bars(rows))
    screen.print()


def _memory(screen: Console, result: TrainingResult) -> None:
    worst = result.worst_memory
    title = Text("Where memory goes", style="bold")
    place = f"stage {worst.stage}, " if _staged(result) else ""
    note = f" ({place}GiB and share of the {result.memory_limit / GIB:.1f} of an accelerator)"
    title.append(note, style="not bold dim")
    screen.print(title)
    amounts = [(cause, getattr(worst, cause)) for cause in CAUSES]
    amounts.sort(key=lambda item: -item[1])
    # Only then do the shares add up to the whole.
    amounts.append(("free", result.memory_limit - worst.total))
    longest = max(amount for _, amount in amounts[:-1])
    rows = [
        (
            cause,
            0.0 if cause == "free" else amount / longest,
            f"{amount / GIB:,.1f}",
            percent(amount / result.memory_limit),
        )
        for cause, amount in amounts
        if f"{max(amount, 0.0) / GIB:.1f}" != "0.0"
    ]
    indented(screen, _bars(rows))
    if result.host is not None:
        host = result.host
        held = f"{host.memory / GIB:,.1f} of {host.memory_limit / GIB:,.1f} GiB of memory"
        if host.nvme:
            held += f", {host.nvme / GIB:,.1f} of {host.nvme_limit / GIB:,.1f} GiB of drives"
        screen.print(Text(f"  On the host of a node ({host.name}): {held}", style="dim"))
    screen.print()


def _notes(screen: Console, result: TrainingResult) -> None:
    print_warnings(screen, result.warnings)
    if result.provenance:
        screen.print(Text("What stands behind it", style="bold"))
        rows = [(note.kind, _shortened(note.text)) for note in result.provenance]
        indented(screen, labelled(rows, "dim"))
        screen.print()


def _shortened(text: str) -> str:
    return text if len(text) <= LONGEST_NOTE else text[:LONGEST_NOTE] + " ... (all: --json)"
