"""What pages for the terminal have in common: indentation, plain tables, lists with labels."""

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


def labelled(rows: Sequence[tuple[str, str]], style: str) -> Table:
    """Return texts beside their labels, which have the style."""
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(style=style, no_wrap=True)
    table.add_column(overflow="fold")
    for label, text in rows:
        table.add_row(label, Text(text))
    return table
