"""What a search found as a page for the terminal. Reads records and computes nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from math import isfinite
from typing import TYPE_CHECKING

from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from ridgeline.cli.page import answer_table, plain_table
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
from ridgeline.words import on_words, plan_words

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

    from ridgeline.simulator.results import TrainingResult
    from ridgeline.simulator.search.objective import Objective
    from ridgeline.simulator.search.results import Found, SearchResult, Sensitivity
    from ridgeline.simulator.search.search import Progress as SearchProgress
    from ridgeline.simulator.search.space import Space

GIB = 2.0**30
MOST_LINES = 12
"""Of the front; JSON carries the whole."""


def print_search(screen: Console, found: SearchResult, space: Space) -> None:
    """Print the best plan, the front, what came next and why, and what was counted."""
    _header(screen, found, space)
    _best(screen, found)
    _front(screen, found)
    _runners_up(screen, found)
    _too_large(screen, found)
    _heuristic(screen, found)
    _sensitivity(screen, found)
    _counts(screen, found)


def value_words(value: float, objective: Objective) -> str:
    """Return a value of an objective in the unit that it has, none when it weighs several."""
    of_one: tuple[Callable[[float], str], ...] = (duration, dollars, energy, mass)
    chosen = [i for i, weight in enumerate(objective.weights) if weight]
    if len(chosen) > 1:
        return figures(value)
    return of_one[chosen[0]](value / objective.weights[chosen[0]])


@contextmanager
def progress_bar(objective: Objective) -> Iterator[Callable[[SearchProgress], None]]:
    """Show a bar with plans a second and the best value so far, while the context is open."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (
        SpinnerColumn(),
        BarColumn(bar_width=16),
        TextColumn("{task.fields[told]}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=None, told="pricing the first plans")

        def show(now: SearchProgress) -> None:
            rate = now.seen / now.elapsed_s if now.elapsed_s > 0 else 0.0
            found = isfinite(now.best_value)
            best = f", best {value_words(now.best_value, objective)}" if found else ""
            told = f"{now.seen:,} of {now.total:,} plans, {large(rate)}/s{best}"
            bar.update(task, total=now.total, completed=now.seen, told=told)

        yield show


def _indented(screen: Console, item: RenderableType) -> None:
    screen.print(Padding(item, (0, 0, 0, 2), expand=False))


def _header(screen: Console, found: SearchResult, space: Space) -> None:
    training = space.training
    screen.print()
    line = Text(f"{space.model.name}, {space.stack}", style="bold")
    screen.print(line)
    job = f"{training.global_batch_seqs:,} x {training.seq_len:,} tokens a step"
    job += f", {large(training.tokens)} tokens" if training.tokens else ""
    clusters = counted(len(space.clusters), "cluster")
    screen.print(Text(f"{job}, {training.precision}; {clusters} to choose from", style="dim"))
    if not found.complete:
        screen.print(Text("Interrupted: the best so far", style="bold yellow"))
    screen.print()


def _best(screen: Console, found: SearchResult) -> None:
    best = found.best
    result = best.result
    screen.print(Text.assemble(("Best", "bold green"), ": ", (on_words(best.plan), "bold")))
    _indented(screen, Text(plan_words(best.plan)))
    worst = result.worst_memory
    table = answer_table()
    low, high = duration(result.step_time_low_s), duration(result.step_time_high_s)
    table.add_row("Step time", duration(result.step_time_s), f"{low} to {high}")
    table.add_row(
        "MFU",
        percent(result.mfu),
        f"bubble {percent(result.bubble_fraction)}, exposed communication "
        f"{percent(result.exposed_communication_fraction)}",
    )
    need, limit = worst.total / GIB, result.memory_limit / GIB
    table.add_row("Memory", f"{need:,.1f} GiB", f"of {limit:,.1f} on the fullest stage")
    whole = result.plan["training"]["tokens"] > 0
    if whole:
        table.add_row("Run", duration(result.wall_clock_s), counted(result.steps, "step"))
    price, hours = result.usd_per_accelerator_hour, large(result.accelerator_hours)
    table.add_row(
        "Cost" if whole else "Cost a step",
        dollars(result.cost_usd) if price else "unknown",
        f"{hours} accelerator-hours" + (f" at {dollars(price)}" if price else "; --price X"),
    )
    table.add_row("Energy", energy(result.energy_kwh), f"{mass(result.co2_kg)} CO2")
    _indented(screen, table)
    screen.print()


def _rows(screen: Console, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    table = plain_table()
    for name in header[:-1]:
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column(header[-1], overflow="fold")
    for row in rows:
        table.add_row(*row)
    _indented(screen, table)
    screen.print()


def _money(result: TrainingResult) -> str:
    if result.usd_per_accelerator_hour:
        return dollars(result.cost_usd)
    return f"{large(result.accelerator_hours)} h"


def _front(screen: Console, found: SearchResult) -> None:
    points = found.front
    if len(points) < 2:
        return
    note = "" if len(points) <= MOST_LINES else f" ({MOST_LINES} of {len(points)}; all: --json)"
    screen.print(Text.assemble(("Time against money", "bold"), (note, "dim")))
    last = len(points) - 1
    shown = sorted({round(i * last / (MOST_LINES - 1)) for i in range(MOST_LINES)})
    if len(points) <= MOST_LINES:
        shown = list(range(len(points)))
    kinds = {p.plan.cluster.accelerator.name for p in points}
    one_kind = len(kinds) == 1
    rows = [
        (
            duration(p.time_s),
            _money(p.result),
            f"{p.plan.cluster.count:,}" if one_kind else on_words(p.plan),
            plan_words(p.plan),
        )
        for p in (points[i] for i in shown)
    ]
    _rows(screen, ("time", "money", "accelerators" if one_kind else "on", "plan"), rows)


def _runners_up(screen: Console, found: SearchResult) -> None:
    if not found.runners_up:
        return
    screen.print(Text("What came next, and why it lost", style="bold"))
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(justify="right", no_wrap=True, style="dim")
    table.add_column(overflow="fold")
    for one in found.runners_up:
        text = Text(plan_words(one.found.plan, beside=found.best.plan))
        reasons = "; ".join(reason.text for reason in one.reasons)
        text.append(f"\n{reasons}", style="dim")
        table.add_row(f"+{_behind(one.behind)}", text)
    _indented(screen, table)
    screen.print()


def _behind(share: float) -> str:
    return percent(share) if share >= 0.0005 else f"{100 * share:.2g}%"


def _too_large(screen: Console, found: SearchResult) -> None:
    if not found.too_large:
        return
    screen.print(Text("Better, had they the memory", style="bold"))
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(justify="right", no_wrap=True, style="dim")
    table.add_column(overflow="fold")
    for one in found.too_large:
        text = Text(plan_words(one.found.plan))
        text.append(f"\n{one.reasons[0].text}", style="dim")
        table.add_row(f"-{_behind(-one.behind)}", text)
    _indented(screen, table)
    screen.print()


def _heuristic(screen: Console, found: SearchResult) -> None:
    thumb = found.heuristic
    if thumb is None:
        return
    screen.print(Text("Rule of thumb on the same accelerators", style="bold"))
    if thumb.found.order == found.best.order:
        line = Text("gives the same plan")
    else:
        whole = thumb.found.result.plan["training"]["tokens"] > 0
        lost = [f"{percent(thumb.waste)} worse"]
        if thumb.wasted_s > 0:
            lost.append(f"{duration(thumb.wasted_s)} longer")
        if thumb.wasted_usd > 0:
            lost.append(f"{dollars(thumb.wasted_usd)} more{'' if whole else ' a step'}")
        line = Text(f"{plan_words(thumb.found.plan)}: {', '.join(lost)}")
    _indented(screen, line)
    screen.print()


def _sensitivity(screen: Console, found: SearchResult) -> None:
    flips = [one for one in found.sensitivity if one.flips]
    kept = [one.change for one in found.sensitivity if one.keeps and not one.flips]
    lost = [one.change for one in found.sensitivity if not one.keeps and not one.flips]
    if not found.sensitivity:
        return
    screen.print(Text("If things were a tenth different", style="bold"))
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for one in flips:
        table.add_row(one.change, _flip(one, found.best))
    if lost:
        table.add_row("no plan is left", _joined(lost))
    if kept:
        table.add_row("no change" if flips or lost else "no change in any case", _joined(kept))
    _indented(screen, table)
    screen.print()


def _flip(one: Sensitivity, best: Found) -> str:
    words = plan_words(one.best, beside=best.plan)
    if not one.keeps:
        return f"{words} (the best plan breaks a constraint)"
    return f"{words} (the best plan is then {_behind(one.loss)} behind)"


def _joined(changes: Sequence[str]) -> str:
    """Return changes with those that go both ways as one."""
    names: dict[str, list[str]] = {}
    for change in changes:
        name, _, amount = change.rpartition(" ")
        names.setdefault(name, []).append(amount)
    return ", ".join(
        f"{name} {'+-' + amounts[0][1:] if len(amounts) == 2 else amounts[0]}"
        for name, amounts in names.items()
    )


def _counts(screen: Console, found: SearchResult) -> None:
    counts = found.counts
    ends = (
        ("broke a constraint", counts.constraint),
        ("memory bound", counts.memory_bound),
        ("memory", counts.memory),
        ("roofline bound", counts.roofline_bound),
        ("time bound", counts.time_bound),
        ("priced", counts.priced),
    )
    parts = [f"{number:,} {what}" for what, number in ends if number]
    rate = counts.seen / found.elapsed_s if found.elapsed_s > 0 else 0.0
    line = f"{counted(counts.seen, 'legal plan')}: {', '.join(parts)}; "
    line += f"{counts.played:,} played by the engine, in {duration(found.elapsed_s)}"
    line += f" ({large(rate)} plans/s)"
    line += f"; {found.resumed:,} from the store" if found.resumed else ""
    screen.print(Text(line, style="dim"))
    screen.print()
