"""``ridgeline validate --published``: figures of papers beside ours."""

from __future__ import annotations

from ridgeline.cli import output
from ridgeline.units import percent
from ridgeline.validation.published.report import Recomputed, recompute


def print_published(*, as_json: bool, as_csv: bool) -> None:
    """Recompute and print all published figures."""
    found = recompute()
    if as_json:
        output.emit(
            output.to_json(
                {
                    "schema": "ridgeline.validate.published",
                    "schema_version": 1,
                    "rows": [one.to_dict() for one in found],
                }
            )
        )
    elif as_csv:
        output.emit(output.to_csv([one.to_dict() for one in found]))
    else:
        _print(found)


def _print(found: tuple[Recomputed, ...]) -> None:
    from rich.table import Table
    from rich.text import Text

    screen = output.console()
    for topic in dict.fromkeys(one.result.topic for one in found):
        screen.print()
        screen.print(Text(topic, style="bold"))
        table = Table(box=None, padding=(0, 1, 0, 0), header_style="dim", pad_edge=False)
        table.add_column("claim", overflow="fold")
        for heading in ("published", "ours", "apart", "room"):
            table.add_column(heading, justify="right", no_wrap=True)
        for one in found:
            if one.result.topic != topic:
                continue
            published, ours = one.result.published, one.ours
            table.add_row(
                one.result.claim,
                f"{published:,.4g}",
                f"{ours:,.4g}",
                Text(f"{100 * one.difference:+.1f}%", style="" if one.agrees else "yellow"),
                percent(one.result.tolerance),
            )
        screen.print(table)
    stated = [one for one in found if one.result.specified == "yes"]
    screen.print()
    screen.print(
        f"{sum(one.agrees for one in stated)} of {len(stated)} fully specified figures agree "
        f"within their room, {sum(one.agrees for one in found)} of {len(found)} in all."
    )
    screen.print("What each source leaves open, and its citation: docs/published.md or --json.")
    screen.print()
