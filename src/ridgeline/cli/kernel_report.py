"""A report on measured kernels for a person, in 80 columns."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from ridgeline.units import figures, percent
from ridgeline.validation.kernels.plot import text_plot

if TYPE_CHECKING:
    from rich.console import Console

    from ridgeline.validation.kernels.report import KernelGroup, KernelReport

NAME_WIDTH = 34
MOST_REASONS = 8


def print_report(screen: Console, report: KernelReport) -> None:
    """Print errors by regime, library, number format, set and rung, the worst rows and a plot."""
    screen.print()
    title = f"Predicted against measured {report.kind} on {report.accelerator}: {report.path}"
    screen.print(Text(title, style="bold"))
    screen.print(Text("Burst clock; host-bound rows count only in their own line.", style="dim"))
    for heading, groups in (
        ("regime", report.by_regime),
        ("library", report.by_library),
        ("number format", report.by_dtype),
        ("set", report.by_set),
        ("rung", report.by_rung),
        ("together", (report.overall,)),
    ):
        screen.print()
        screen.print(_errors(heading, groups, strip=report.kind if heading == "set" else ""))
    lines = text_plot(report)
    if lines:
        screen.print()
        screen.print(Text("Predicted (up) against measured (right), us; / is equal", style="bold"))
        for line in lines:
            screen.print(Text(line), no_wrap=True, overflow="crop")
    _worst(screen, report)
    _reasons(screen, "Why rows were skipped", _skipped(report))
    filtered: dict[str, int] = {}
    for _, reason in report.filtered:
        filtered[reason] = filtered.get(reason, 0) + 1
    _reasons(screen, "Rows left out", filtered)
    screen.print()


def _errors(heading: str, groups: Iterable[KernelGroup], strip: str = "") -> Table:
    table = Table(box=None, padding=(0, 1, 0, 0), header_style="dim", pad_edge=False)
    table.add_column(heading, width=NAME_WIDTH, overflow="fold")
    for title in ("rows", "skipped", "mean", "median", "bias"):
        table.add_column(title, justify="right", min_width=7, no_wrap=True)
    for group in groups:
        table.add_row(
            group.name.removeprefix(f"{strip} "),
            str(group.count),
            str(group.skipped) if group.skipped else "",
            *("" if value is None else percent(value) for value in (group.mape, group.median_ape)),
            "" if group.bias is None else f"{100 * group.bias:+.1f}%",
        )
    return table


def _worst(screen: Console, report: KernelReport) -> None:
    if not report.worst:
        return
    screen.print()
    table = Table(box=None, padding=(0, 1, 0, 0), header_style="dim", pad_edge=False)
    table.add_column("worst row", justify="right", no_wrap=True)
    table.add_column("set", width=NAME_WIDTH, overflow="fold")
    for title in ("measured us", "predicted", "error"):
        table.add_column(title, justify="right", no_wrap=True)
    for row in report.worst:
        table.add_row(
            str(row.row),
            f"{row.library} {row.version} {row.dtype} {row.kernel}",
            figures(row.measured_us),
            figures(row.predicted_us or 0.0),
            f"{100 * (row.error or 0.0):+.0f}%",
        )
    screen.print(table)


def _skipped(report: KernelReport) -> dict[str, int]:
    reasons: dict[str, int] = {}
    for row in report.rows:
        if row.status == "skipped":
            reasons[row.reason] = reasons.get(row.reason, 0) + 1
    return reasons


def _reasons(screen: Console, title: str, reasons: dict[str, int]) -> None:
    if not reasons:
        return
    screen.print()
    screen.print(Text(title, style="bold"))
    for reason, count in sorted(reasons.items(), key=lambda item: -item[1])[:MOST_REASONS]:
        screen.print(Text(f"  {count:5d}  {reason}"))
    if len(reasons) > MOST_REASONS:
        screen.print(Text(f"  ... and {len(reasons) - MOST_REASONS} more reasons (all: --json)"))
