"""``ridgeline plan --sweep``: what a tuning sweep costs, as a page."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from rich.text import Text

from ridgeline.cli.page import indented, plain_table
from ridgeline.cli.serve_flags import refuse_unheeded
from ridgeline.units import counted, dollars, duration, figures, large, percent

if TYPE_CHECKING:
    from rich.console import Console

    from ridgeline.simulator.budget.sweep import SweepCost


def answer_sweep(path: Path, *, as_json: bool, as_csv: bool) -> None:
    """Price the sweep of a file.

    Raises
    ------
    InputError
        What is wrong with it.
    InfeasibleError
        A trial that does not fit, or money for none.
    """
    from ridgeline.cli import output
    from ridgeline.cli.numba_start import said_while_compiling
    from ridgeline.simulator.budget.sweep import sweep_cost
    from ridgeline.simulator.budget.sweepfile import read_sweep

    heeded = ("sweep", "as_json", "as_csv")
    refuse_unheeded(heeded, "counts for nothing with --sweep, whose file says it; leave it out")
    sweep = read_sweep(path)
    with said_while_compiling():
        found = sweep_cost(sweep)
    if as_json:
        output.emit(output.to_json(found.to_dict()))
    elif as_csv:
        output.emit(output.to_csv(found.rows()))
    else:
        print_sweep(output.console(), found)


def print_sweep(screen: Console, found: SweepCost) -> None:
    """Print what a sweep costs."""
    screen.print()
    line = Text()
    price = dollars(found.usd) if found.usd else "no price known"
    line.append(f"{price}, {duration(found.makespan_s)}", style="bold green")
    line.append(f" for {counted(found.trials, 'configuration')}", style="bold")
    line.append(f" of {found.model}")
    screen.print(line)
    low, high = found.accelerator_hours_low, found.accelerator_hours_high
    hours = f"{figures(found.accelerator_hours)} accelerator-hours"
    hours += f" ({figures(low)} to {figures(high)}), {large(found.tokens)} tokens, "
    screen.print(Text(f"{hours}{found.steps:,} steps of {duration(found.step_time_s)}"))
    screen.print(Text(f"as much as {figures(found.full_trials)} trials of full length"))
    held = f"{found.method} on {found.accelerators:,} accelerators: {found.at_once:,} trials at "
    held += f"once on {found.cluster}, {percent(found.utilisation)} busy"
    held += f"; held throughout {dollars(found.held_usd)}" if found.held_usd else ""
    screen.print(Text(held, style="dim"))
    screen.print()
    table = plain_table()
    for name in ("bracket", "trials", "tokens each", "one takes", "hours", "USD"):
        table.add_column(name, justify="right")
    for rung in found.rungs:
        table.add_row(
            str(rung.bracket + 1),
            f"{rung.trials:,}",
            large(rung.tokens),
            duration(rung.seconds),
            figures(rung.accelerator_hours),
            figures(rung.usd) if rung.usd else "?",
        )
    indented(screen, table)
    for warning in found.warnings:
        screen.print(Text(f"! {warning}", style="yellow"))
