"""``ridgeline train`` of a file with ``[[peer]]`` tables: a job that slow links join."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

    from ridgeline.cli.jobs import JobFlags
    from ridgeline.simulator.peers.results import PeersResult


def train_peers(
    path: Path,
    overrides: Mapping[str, object],
    labels: Mapping[str, str],
    flags: JobFlags,
) -> bool:
    """Predict and print a run among peers; return whether it fits on all of them.

    Raises
    ------
    InputError
        Mistakes of the file, or flags that ask for what is made of one plan alone.
    InfeasibleError
        No share of the batch fits.
    """
    from ridgeline.cli.numba_start import said_while_compiling

    kernels = flags.kernels("a run among peers", "the plan of one peer")
    from ridgeline.simulator.explanation import explain as operators_of
    from ridgeline.simulator.peers.plan import read_peers
    from ridgeline.simulator.peers.results import simulate_peers

    peers = read_peers(path, overrides, labels)
    with said_while_compiling():
        result = simulate_peers(peers, kernels)
    tables = [operators_of(kind.alone(), kernels) for kind in peers.kinds] if flags.explain else []
    titles = [found.cluster for found in result.kinds]
    flags.show(result.to_dict(), "kinds", tables, titles, lambda screen: _print(screen, result))
    return result.fits


def _print(screen: Console, result: PeersResult) -> None:
    """Print the kinds of peers, a line each, and the job."""
    from rich.text import Text

    from ridgeline.cli.page import answer_table, indented, plain_table, print_warnings
    from ridgeline.units import (
        counted,
        dollars,
        duration,
        energy,
        figures,
        large,
        mass,
        percent,
    )

    screen.print()
    screen.print(
        Text(f"{result.model} among {counted(result.peers, 'peer')}, {result.stack}", style="bold")
    )
    screen.print()
    table = plain_table()
    table.add_column("peers", overflow="fold")
    for name in ("sequences", "step alone", "up / down Mbit/s", "memory", "cost"):
        table.add_column(name, justify="right", overflow="fold")
    for kind in result.kinds:
        need = f"{kind.memory_gib:.1f} of {kind.memory_limit_gib:.1f} GiB"
        table.add_row(
            f"{kind.peers} x {kind.cluster}",
            f"{kind.share_seqs}",
            duration(kind.step_time_s),
            f"{figures(kind.up_mbit_per_s)} / {figures(kind.down_mbit_per_s)}",
            need if kind.fits else f"{need}: too much",
            dollars(kind.cost_usd) if kind.usd_per_accelerator_hour else "none",
        )
    indented(screen, table)
    screen.print()
    whole = answer_table()
    whole.add_row(
        "Round",
        duration(result.round_time_s),
        f"{counted(result.local_steps, 'step')} in {duration(result.compute_s)}, averaging "
        f"{result.averaged_bytes / 1e9:.3g} GB in {duration(result.averaging_s)} "
        f"({counted(result.averaging_rounds, 'group round')})",
    )
    whole.add_row("Busy", percent(result.utilization), f"MFU {percent(result.mfu)}")
    whole.add_row("Tokens", f"{large(result.tokens_per_s)}/s", "")
    whole.add_row(
        "Run" if result.steps > 1 else "Step",
        duration(result.wall_clock_s),
        counted(result.steps, "step"),
    )
    whole.add_row(
        "Cost",
        dollars(result.cost_usd),
        f"{large(result.accelerator_hours)} accelerator-hours, volunteers' among them",
    )
    whole.add_row("Energy", energy(result.energy_kwh), f"{mass(result.co2_kg)} CO2")
    indented(screen, whole)
    screen.print()
    print_warnings(screen, result.warnings)
