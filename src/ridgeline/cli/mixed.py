"""``ridgeline train`` on a cluster of several kinds of accelerators."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

    from ridgeline.cli.jobs import JobFlags
    from ridgeline.simulator.mixed.results import MixedResult


def train_mixed(
    path: Path | None,
    overrides: Mapping[str, object],
    labels: Mapping[str, str],
    flags: JobFlags,
) -> bool:
    """Predict and print a run on several kinds; return whether it fits on all of them.

    Raises
    ------
    InputError
        Mistakes of the plan, or flags that ask for what is made of one kind alone.
    InfeasibleError
        No split fits.
    """
    from ridgeline.cli.numba_start import said_while_compiling

    kernels = flags.kernels("a cluster of several kinds", "one kind")
    from ridgeline.simulator.explanation import explain as operators_of
    from ridgeline.simulator.mixed.plan import read_mixed
    from ridgeline.simulator.mixed.results import simulate_mixed

    mixed = read_mixed(path, overrides, labels)
    with said_while_compiling():
        result = simulate_mixed(mixed, kernels)
    tables = []
    if flags.explain:
        tables = [operators_of(plan, kernels) for plan in mixed.checked()]
    titles = [found.accelerator for found in result.kinds]
    flags.show(result.to_dict(), "kinds", tables, titles, lambda screen: _print(screen, result))
    return result.fits


def _print(screen: Console, result: MixedResult) -> None:
    """Print the kinds, a line each, and the job."""
    from math import isfinite

    from rich.text import Text

    from ridgeline.cli.page import answer_table, indented, plain_table, print_warnings
    from ridgeline.units import counted, dollars, duration, energy, large, mass, percent

    screen.print()
    screen.print(Text(f"{result.model} on {result.cluster}, {result.stack}", style="bold"))
    what = "stages" if result.across == "pp" else "data-parallel ranks"
    found = "found" if result.chosen else "as given"
    screen.print(Text(f"{what} on each kind, split {found}", style="dim"))
    screen.print()
    table = plain_table()
    table.add_column("accelerators", overflow="fold")
    names = ("layers",) if result.across == "pp" else ("sequences", "alone")
    for name in (*names, "memory", "cost"):
        table.add_column(name, justify="right", overflow="fold")
    for kind in result.kinds:
        cells = [",".join(map(str, kind.layers))]
        if result.across == "dp":
            cells = [
                f"{kind.ranks} x {kind.micro_batches} x {kind.micro_batch_seqs}",
                duration(kind.step_time_s),
            ]
        need = f"{kind.memory_gib:.1f} of {kind.memory_limit_gib:.1f} GiB"
        table.add_row(
            f"{kind.accelerators} {kind.accelerator}",
            *cells,
            need if kind.fits else f"{need}: too much",
            dollars(kind.cost_usd) if kind.usd_per_accelerator_hour else "unknown",
        )
    indented(screen, table)
    screen.print()
    whole = answer_table()
    low, high = duration(result.step_time_low_s), duration(result.step_time_high_s)
    even = result.even_step_time_s
    evenly = (
        f"; {duration(even)} split evenly" if isfinite(even) else "; an even split does not fit"
    )
    whole.add_row("Step time", duration(result.step_time_s), f"{low} to {high}{evenly}")
    whole.add_row("MFU", percent(result.mfu), "of all peaks together")
    whole.add_row("Tokens", f"{large(result.tokens_per_s)}/s", "")
    whole.add_row(
        "Run" if result.steps > 1 else "Step",
        duration(result.wall_clock_s),
        f"{counted(result.steps, 'step')}, {percent(result.goodput)} of the time productive",
    )
    known = all(kind.usd_per_accelerator_hour for kind in result.kinds)
    whole.add_row(
        "Cost",
        dollars(result.cost_usd) if known else "unknown",
        f"{large(result.accelerator_hours)} accelerator-hours",
    )
    whole.add_row("Energy", energy(result.energy_kwh), f"{mass(result.co2_kg)} CO2")
    indented(screen, whole)
    screen.print()
    print_warnings(screen, result.warnings)
