"""A comparison as a page for the terminal. Reads records and computes nothing."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from ridgeline.units import (
    column_of_times,
    counted,
    dollars,
    duration,
    energy,
    figures,
    large,
    mass,
    percent,
)
from ridgeline.words import EVIDENCE

if TYPE_CHECKING:
    from rich.console import Console

    from ridgeline.simulator.compare.records import Comparison, Pairing, Row
    from ridgeline.simulator.results import TrainingResult

SPLIT = ("tp", "pp", "vpp", "dp", "cp", "ep", "zero_stage")
DOUBT = "cannot be ranked"


def print_comparison(screen: Console, found: Comparison) -> None:
    """Print figures, plans, how sure the ranking is, prices and owning, and what failed."""
    screen.print()
    screen.print(Text(f"{found.model}, ranked by {found.by}", style="bold"))
    screen.print()
    rows = [(row, row.result) for row in found.rows if row.result is not None]
    if rows:
        _figures(screen, rows)
        _plans(screen, rows)
        _certainty(screen, found)
        _money(screen, rows)
    _failures(screen, found)
    for line in (*found.warnings, *_row_warnings(found)):
        screen.print(Text(f"! {line}", style="yellow"))


def _table(screen: Console, title: str, *columns: str, texts: int = 1) -> Table:
    screen.print(Text(title, style="bold"))
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim", pad_edge=False)
    for place, name in enumerate(columns):
        table.add_column(
            name, justify="left" if place < texts else "right", overflow="fold", no_wrap=False
        )
    return table


def _note(screen: Console, text: str) -> None:
    screen.print(Padding(Text(text, style="dim"), (0, 0, 0, 2)))
    screen.print()


def _put(screen: Console, table: Table) -> None:
    screen.print(Padding(table, (0, 0, 0, 2), expand=False))
    screen.print()


def _figures(screen: Console, rows: list[tuple[Row, TrainingResult]]) -> None:
    table = _table(
        screen,
        "Each with its best plan",
        *("", "number", "time", "cost", "tokens/$", "MFU", "free", ""),
    )
    times = column_of_times([result.wall_clock_s for _, result in rows])
    for (row, result), time in zip(rows, times, strict=True):
        table.add_row(
            row.name,
            f"{result.accelerators:,}",
            time,
            dollars(result.cost_usd) if result.usd_per_accelerator_hour else "?",
            large(row.tokens_per_usd) if row.tokens_per_usd else "?",
            f"{100 * result.mfu:.0f}%",
            f"{100 * (1 - result.worst_memory.total / result.memory_limit):.0f}%",
            EVIDENCE[result.evidence][0],
        )
    _put(screen, table)
    seen = {result.evidence for _, result in rows}
    marks = [f"{mark} {word.lower()}" for grade, (mark, _, word, _) in EVIDENCE.items()
             if grade in seen]  # fmt: skip
    _note(screen, f"free: memory left; evidence: {', '.join(marks)}")


def _plans(screen: Console, rows: list[tuple[Row, TrainingResult]]) -> None:
    table = _table(screen, "Plans", "", "stack", "split", texts=3)
    for row, result in rows:
        parallel, training = result.plan["parallel"], result.plan["training"]
        split = [
            f"{name.removesuffix('_stage')} {parallel[name]}"
            for name in SPLIT
            if parallel[name] > (0 if name == "zero_stage" else 1)
        ]
        split.append(f"micro-batch {training['micro_batch_seqs']}")
        split.append(f"recompute {training['recompute']}")
        table.add_row(row.name, row.stack, ", ".join(split))
    _put(screen, table)


def _certainty(screen: Console, found: Comparison) -> None:
    """Print the first of each ranking against the others, and neighbours that are not ranked."""
    for by, word in (("cost", "cheaper"), ("time", "faster")):
        pairs = [one for one in found.pairings if one.by == by]
        if not pairs:
            continue
        first = pairs[0].first
        table = _table(
            screen,
            f"Is {first} the {word} one?",
            *("than", "probability", "expected regret", "if wrong", ""),
        )
        for one in pairs:
            if one.first == first:
                table.add_row(
                    one.second,
                    _probability(one),
                    _amount(by, one.regret),
                    _amount(by, one.regret_if_wrong) if one.regret_if_wrong else "",
                    "" if one.ranked else DOUBT,
                )
        _put(screen, table)
        order = [first, *(one.second for one in pairs if one.first == first)]
        near = set(pairwise(order[1:]))
        doubts = [one for one in pairs if not one.ranked and (one.first, one.second) in near]
        if doubts:
            names = ", ".join(f"{one.first} and {one.second}" for one in doubts)
            _note(screen, f"neighbours that {DOUBT}: {names}")


def _probability(one: Pairing) -> str:
    return "> 99.9%" if one.probability > 0.999 else percent(one.probability)


def _amount(by: str, value: float) -> str:
    if by == "cost":
        return dollars(value) if value >= 0.005 else "$0"
    return duration(value) if value >= 1.0 else "0 s"


def _money(screen: Console, rows: list[tuple[Row, TrainingResult]]) -> None:
    table = _table(
        screen,
        "Prices, USD an accelerator-hour",
        *("", "price", "kind", "of", "ties at", "energy", "CO2"),
    )
    for row, result in rows:
        table.add_row(
            row.name,
            figures(result.usd_per_accelerator_hour) if row.price_kind else "?",
            row.price_kind,
            row.price_date,
            "" if row.tie_usd_per_hour is None else figures(row.tie_usd_per_hour),
            energy(result.energy_kwh),
            mass(result.co2_kg),
        )
    _put(screen, table)
    _note(screen, "ties at: costs as much as the cheapest (the cheapest: as the next)")
    owned = [(row, row.owning) for row, _ in rows if row.owning is not None]
    if not owned:
        return
    table = _table(
        screen,
        "Owning instead",
        *("", "USD/h in use", "this job", "beats renting from", "paid back by month"),
    )
    for row, owning in owned:
        use = owning.break_even_utilisation
        month = owning.break_even_month
        table.add_row(
            row.name,
            figures(owning.usd_per_useful_hour),
            dollars(owning.job_usd),
            "" if not row.price_kind else "never" if use is None or use > 1.0
            else f"{percent(use)} use",
            "" if not row.price_kind else "never" if month is None else str(month),
        )  # fmt: skip
    _put(screen, table)
    _note(screen, "defaults and what is assumed among them: docs/cost.md, --json")


def _failures(screen: Console, found: Comparison) -> None:
    failed = [row for row in found.rows if row.result is None]
    if failed:
        screen.print(Text(f"{counted(len(failed), 'accelerator')} cannot run this", style="bold"))
        for row in failed:
            screen.print(Padding(Text(f"{row.name}: {row.reason}"), (0, 0, 0, 2)))
        screen.print()


def _row_warnings(found: Comparison) -> tuple[str, ...]:
    lines = (line for row in found.rows if row.result for line in row.result.warnings)
    return tuple(dict.fromkeys(lines))
