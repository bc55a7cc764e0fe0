"""A report on measured services for a person, in 80 columns."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from ridgeline.cli.page import plain_table
from ridgeline.units import percent
from ridgeline.validation.serving.report import GROUPINGS, grouped, summarise

if TYPE_CHECKING:
    from rich.console import Console

    from ridgeline.validation.serving.report import (
        Errors,
        ServingGroup,
        ServingReport,
        ServingReportRow,
    )

NAME_WIDTH = 24
MOST_REASONS = 8
MOST_WORST = 8


def print_report(screen: Console, report: ServingReport) -> None:
    """Print errors by group, of rows kept and of all, the worst rows and why rows were skipped."""
    screen.print()
    screen.print(Text(f"Predicted against measured services: {report.path}", style="bold"))
    screen.print(Text("Mean error and bias of each, in percent of the measured.", style="dim"))
    kept = report.kept
    if report.without:
        screen.print(Text(f"Without the rows of {report.without}.", style="dim"))
    for heading, grouping in GROUPINGS.items():
        screen.print()
        screen.print(_errors(heading, grouped(kept, grouping)))
    together = [summarise("all rows", report.rows)]
    if report.without:
        together.insert(0, summarise("kept", kept))
    screen.print()
    screen.print(_errors("together", together))
    _worst(screen, kept)
    _reasons(screen, report)
    screen.print()


def _errors(heading: str, groups: list[ServingGroup] | tuple[ServingGroup, ...]) -> Table:
    table = plain_table(1)
    table.add_column(heading, width=NAME_WIDTH, overflow="ellipsis", no_wrap=True)
    for title in ("rows", "skip", "TPOT", "bias", "TTFT", "bias", "tok/s", "bias"):
        table.add_column(title, justify="right", no_wrap=True)
    for group in groups:
        cells = [
            cell for errors in (group.tpot, group.ttft, group.throughput) for cell in _cells(errors)
        ]
        skipped = str(group.skipped) if group.skipped else ""
        table.add_row(group.name, str(group.rows), skipped, *cells)
    return table


def _cells(errors: Errors) -> tuple[str, str]:
    if errors.mape is None or errors.bias is None:
        return "", ""
    return percent(errors.mape), f"{100 * errors.bias:+.0f}%"


def _worst(screen: Console, rows: tuple[ServingReportRow, ...]) -> None:
    def size(row: ServingReportRow) -> float:
        found = row.error("tpot")
        if found is None:
            found = row.error("throughput")
        return abs(found) if found is not None else -1.0

    worst = [row for row in sorted(rows, key=size, reverse=True) if size(row) >= 0][:MOST_WORST]
    if not worst:
        return
    screen.print()
    screen.print(Text("Worst rows by TPOT, else throughput", style="bold"))
    table = plain_table()
    table.add_column("error", justify="right", no_wrap=True)
    table.add_column("what", overflow="fold")
    for row in worst:
        error = row.error("tpot")
        if error is None:
            error = row.error("throughput") or 0.0
        what = f"{row.model}, {row.stack} on {row.accelerator}, {row.configuration}"
        table.add_row(f"{100 * error:+.0f}%", what)
    screen.print(table)


def _reasons(screen: Console, report: ServingReport) -> None:
    reasons: dict[str, int] = {}
    for row in report.rows:
        if row.status == "skipped":
            reasons[row.reason] = reasons.get(row.reason, 0) + 1
    if not reasons:
        return
    screen.print()
    screen.print(Text("Why rows were skipped", style="bold"))
    for reason, count in sorted(reasons.items(), key=lambda item: -item[1])[:MOST_REASONS]:
        screen.print(Text(f"  {count:4d}  {reason}"), overflow="ellipsis", no_wrap=True)
