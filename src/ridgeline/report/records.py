"""What a page consists of: sections of charts, tables, figures and text, as flat frozen records.

A page file and the web application render the same records. A chart always carries its twin, a
table with the same content, for screen readers and for paper.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, TypeAlias

Tone: TypeAlias = Literal["good", "warn", "bad", "plain"]
"""What a figure or verdict means for the reader; shown as a sign and a word beside the colour."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Rows of text under headings."""

    kind: ClassVar[str] = "table"

    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    numeric: tuple[int, ...] = ()
    """Columns of numbers, which are set flush right."""
    left_out: int = 0
    """Rows that were too many to list; the page says how many."""
    folded: bool = False
    """Whether the reader opens it first."""
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Chart:
    """A plot and the same as a table."""

    kind: ClassVar[str] = "chart"

    key: str
    """Unique on a page: the id of its element. Lower-case letters, digits and hyphens."""
    title: str
    summary: str
    """What the plot shows, in a sentence or two: it stands for the plot where none is seen."""
    figure: dict[str, Any]
    """``data`` and ``layout`` of plotly.js, plain values throughout."""
    table: Table
    height: int = 320
    """Of the plot, CSS pixels."""
    note: str = ""
    """What the reader must know about it: what was left out, merged or cut off."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tile:
    """One figure that decides."""

    label: str
    value: str
    note: str = ""
    tone: Tone = "plain"


@dataclass(frozen=True, slots=True, kw_only=True)
class Tiles:
    """The figures that decide, side by side."""

    kind: ClassVar[str] = "tiles"

    tiles: tuple[Tile, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Text:
    """Paragraphs, or a list of them."""

    kind: ClassVar[str] = "text"

    lines: tuple[str, ...]
    tone: Tone = "plain"
    listed: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Code:
    """Text to copy: a plan file, a command."""

    kind: ClassVar[str] = "code"

    key: str
    """Unique on a page: the id of its element."""
    title: str
    text: str
    language: str = "toml"
    folded: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What stands behind the headline figure, and how wide its range is."""

    kind: ClassVar[str] = "evidence"

    grade: str
    """measured, related, kernels or datasheet (``simulator.uncertainty.GRADES``)."""
    title: str
    text: str


Block: TypeAlias = Chart | Table | Tiles | Text | Code | Evidence


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """A heading, a sentence that says what to take from it, and what is below."""

    key: str
    """Unique on a page: the id of its element."""
    title: str
    lead: str = ""
    blocks: tuple[Block, ...] = ()
    paired: bool = False
    """Two blocks side by side where there is room."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """One answer."""

    command: str
    """train, infer, plan ..."""
    title: str
    subtitle: str
    verdict: str
    """The answer in words."""
    tone: Tone
    sections: tuple[Section, ...]
    evidence: Evidence | None = None


def charts_of(sections: Sequence[Section]) -> tuple[Chart, ...]:
    """Return the charts of sections in their order."""
    return tuple(
        block for section in sections for block in section.blocks if isinstance(block, Chart)
    )
