"""What pages for the terminal have in common: indentation, tables, lists with labels, warnings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.padding import Padding
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from rich.console import Console, RenderableType


def indented(screen: Console, item: RenderableType) -> None:
    """Print an item two places from the left."""
    screen.print(Padding(item, (0, 0, 0, 2), expand=False))


def plain_table(gap: int = 2) -> Table:
    """Return an empty table without lines, with dim headings and ``gap`` between columns."""
    return Table(box=None, padding=(0, gap, 0, 0), header_style="dim", pad_edge=False)


def answer_table() -> Table:
    """Return an empty table for answers: what, the figure, and what stands beside it."""
    table = Table.grid(padding=(0, 3, 0, 0))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    return table


def labelled(rows: Sequence[tuple[str, str]], style: str) -> Table:
    """Return texts beside their labels, which have the style."""
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(style=style, no_wrap=True)
    table.add_column(overflow="fold")
    for label, text in rows:
        table.add_row(label, Text(text))
    return table


def print_warnings(screen: Console, warnings: Sequence[str]) -> None:
    """Print warnings under their heading; nothing where there are none."""
    if warnings:
        screen.print(Text("Warnings", style="bold yellow"))
        indented(screen, labelled([("!", line) for line in warnings], "yellow"))
        screen.print()
