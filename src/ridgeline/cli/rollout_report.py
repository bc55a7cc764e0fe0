"""A step of reinforcement learning for the terminal. Reads records and computes nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rich.text import Text

from ridgeline.cli.page import answer_table, indented, plain_table
from ridgeline.units import counted, dollars, duration, large, percent

if TYPE_CHECKING:
    from rich.console import Console

    from ridgeline.simulator.results import RolloutShare


def print_rollout(screen: Console, share: RolloutShare) -> None:
    """Print the parts of a step, what each pool waits, and what each costs."""
    screen.print(Text("The step's samples", style="bold"))
    table = answer_table()
    apart = share.accelerators > 0
    table.add_row(
        "Samples",
        f"{share.samples:,}",
        f"{large(share.tokens)} tokens; {share.output_mean:,.0f} generated each, the longest "
        f"{share.output_longest:,}; {percent(share.padding)} of what is trained is padding",
    )
    low, high = duration(share.generation_low_s), duration(share.generation_high_s)
    table.add_row(
        "Generation",
        duration(share.generation_s),
        f"{low} to {high}; the last {duration(share.tail_s)} for the longest tenth",
    )
    if share.scoring_s:
        table.add_row("Scoring", duration(share.scoring_s), "of the samples before an update")
    table.add_row("Updates", duration(share.update_s), f"overlap {share.overlap}")
    swap = f", state to the host and back {duration(share.swap_s)}" if share.swap_s else ""
    table.add_row("Weight sync", duration(share.sync_s), f"to {share.cluster}{swap}")
    if apart:
        pools = counted(share.accelerators, "accelerator")
        table.add_row(
            "Idle",
            percent(share.rollout_idle),
            f"of the {pools} that generate; {percent(share.training_idle)} of those that train",
        )
    else:
        table.add_row("Idle", percent(share.rollout_idle), "of the accelerators, which take turns")
    if apart and share.training_usd and share.rollout_usd:
        cost = f"training {dollars(share.training_usd)}, generation {dollars(share.rollout_usd)}"
        table.add_row("Cost", dollars(share.training_usd + share.rollout_usd), cost)
    indented(screen, table)
    screen.print()


def print_splits(screen: Console, splits: Sequence[dict[str, Any]]) -> None:
    """Print every split of the two pools, the best one marked."""
    screen.print(Text("Splits of the two pools", style="bold"))
    table = plain_table()
    for name in ("generate", "train", "step", "idle: generate", "train", "a step"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    for split in splits:
        note = "shortest step" if split["best"] else "" if split["fits"] else "out of memory"
        table.add_row(
            f"{split['rollout_accelerators']:,}",
            f"{split['training_accelerators']:,}",
            duration(split["step_time_s"]),
            percent(split["rollout_idle"]),
            percent(split["training_idle"]),
            dollars(split["usd_per_step"]) if split["usd_per_step"] else "unknown",
            note,
        )
    indented(screen, table)
    screen.print()
