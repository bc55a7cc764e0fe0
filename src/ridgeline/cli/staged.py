"""``ridgeline train`` of a file with ``[[stage]]`` tables: a run that changes on the way."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

    from ridgeline.cli.jobs import JobFlags
    from ridgeline.simulator.growth import StagedResult


def train_stages(
    path: Path,
    overrides: Mapping[str, object],
    labels: Mapping[str, str],
    flags: JobFlags,
) -> bool:
    """Predict and print a run in stages; return whether all of them fit.

    Raises
    ------
    InputError
        Mistakes of the file, or flags that ask for what is made of one plan alone.
    """
    from ridgeline.cli.numba_start import said_while_compiling

    kernels = flags.kernels("a run in stages", "the plan of one stage")
    from ridgeline.simulator.explanation import explain as operators_of
    from ridgeline.simulator.growth import read_stages, simulate_stages

    name, plans = read_stages(path, overrides, labels)
    with said_while_compiling():
        result = simulate_stages(plans, name, kernels)
    tables = [operators_of(plan, kernels) for plan in plans] if flags.explain else []
    titles = [stage.name for stage in result.stages]
    flags.show(result.to_dict(), "stages", tables, titles, lambda screen: _print(screen, result))
    return result.fits


def _print(screen: Console, result: StagedResult) -> None:
    """Print the stages, a line each, and the whole run."""
    from rich.text import Text

    from ridgeline.cli.page import answer_table, indented, plain_table, print_warnings
    from ridgeline.units import counted, dollars, duration, energy, large, mass, percent

    screen.print()
    screen.print(Text(f"{result.name}: a run in {counted(len(result.stages), 'stage')}", "bold"))
    screen.print()
    table = plain_table()
    table.add_column("stage", overflow="fold")
    for name in ("tokens", "step", "MFU", "memory", "time", "cost"):
        table.add_column(name, justify="right", no_wrap=True)
    for stage in result.stages:
        most = stage.worst_memory.total / 2.0**30
        table.add_row(
            f"{stage.name}: {stage.model} on {stage.cluster}",
            large(stage.plan["training"]["tokens"]),
            duration(stage.step_time_s),
            percent(stage.mfu),
            f"{most:.1f} GiB" if stage.fits else f"{most:.1f} GiB: too much",
            duration(stage.wall_clock_s),
            dollars(stage.cost_usd) if stage.usd_per_accelerator_hour else "unknown",
        )
    indented(screen, table)
    screen.print()
    whole = answer_table()
    changes = f", {counted(result.changes, 'change')} of {duration(result.change_s)} in all"
    whole.add_row(
        "Run",
        duration(result.wall_clock_s),
        f"{large(result.tokens)} tokens, {counted(result.steps, 'step')}"
        + (changes if result.changes else ""),
    )
    known = all(stage.usd_per_accelerator_hour for stage in result.stages)
    whole.add_row(
        "Cost",
        dollars(result.cost_usd) if known else "unknown",
        f"{large(result.accelerator_hours)} accelerator-hours",
    )
    whole.add_row("Compute", f"{result.model_flops:.3g} FLOP", "of the model")
    whole.add_row("Energy", energy(result.energy_kwh), f"{mass(result.co2_kg)} CO2")
    indented(screen, whole)
    screen.print()
    print_warnings(screen, result.warnings)
