"""A joint placement of models as a page. Reads records and computes nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.text import Text

from ridgeline.cli.page import indented, plain_table
from ridgeline.units import counted, dollars, duration, figures, percent

if TYPE_CHECKING:
    from rich.console import Console

    from ridgeline.simulator.serving.placement.options import Kept
    from ridgeline.simulator.serving.placement.records import Group, Placement

_WAYS = {"alone": "always on", "released": "released when idle", "turns": "by turns"}


def print_placement(screen: Console, found: Placement) -> None:
    """Print where several models go."""
    models = sum(len(group.models) for group in found.groups)
    screen.print()
    line = Text()
    line.append(f"{dollars(found.usd_per_hour)} an hour", style="bold green")
    line.append(f" serve {counted(models, 'model')}", style="bold")
    line.append(f" on {counted(found.accelerators, 'accelerator')}")
    screen.print(line)
    parts = [f"{one.rented} x {one.accelerator}" for one in found.rented]
    released = [group for group in found.groups if group.way == "released"]
    parts += [f"{one.accelerators} x {one.accelerator} {percent(one.on_share)} of the time"
              for one in released]  # fmt: skip
    screen.print(Text(", ".join(parts), style="dim"))
    alone = found.alone_usd_per_hour
    if alone is not None:
        less = 1.0 - found.usd_per_hour / alone
        screen.print(
            Text(f"each on its own, always on: {dollars(alone)}; {percent(less)} less", style="dim")
        )
    screen.print()
    table = plain_table()
    for name in ("", "on", "how", "waits for a load", "kept"):
        table.add_column(name, overflow="fold")
    for group in found.groups:
        for place, kept in enumerate(group.models):
            table.add_row(
                kept.name,
                _ground(group) if place == 0 else "",
                _way(group) if place == 0 else "",
                f"{percent(kept.cold_share)}, {duration(kept.load_s)}" if kept.loads else "-",
                _kept(kept),
            )
    indented(screen, table)
    screen.print()
    text = f"{found.options:,} options, {found.groups_tried:,} groups tried, "
    text += f"{found.visited:,} placements looked at; {duration(found.elapsed_s)}"
    screen.print(Text(text, style="dim"))


def _ground(group: Group) -> str:
    return f"{group.accelerators} x {group.accelerator}"


def _way(group: Group) -> str:
    words = _WAYS[group.way]
    return words if group.way != "released" else f"{words}, {figures(group.usd_per_hour)} USD/h"


def _kept(kept: Kept) -> str:
    return ", ".join(f"{name} {duration(value)}" for name, value in kept.reached_s.items())
