"""``ridgeline train --calendar``: when a run ends and what it costs when everything happens."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from datetime import date

    from ridgeline.simulator.plan import Plan
    from ridgeline.simulator.results import TrainingResult

_FLAGS = ("what_if", "assume", "deadline", "budget", "start", "runs", "seed")
MOST_RUNS = 100_000


@dataclass(frozen=True, slots=True, kw_only=True)
class AskedCalendar:
    """What the flags of a calendar say."""

    assume: str | None
    what_if: str | None
    deadline: str | None
    budget: str | None
    start: str | None
    runs: int
    seed: int


def calendar_flags(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the flags of a calendar; any of them asks for one."""
    options = (
        click.option(
            "--calendar",
            is_flag=True,
            help="Finish and dollars with failures, stragglers, checkpoints: P10, P50, P90.",
        ),
        click.option(
            "--what-if",
            metavar="CHANGES",
            help="What they bring: spares=2%,checkpoint=in-memory (docs/reliability.md).",
        ),
        click.option("--assume", metavar="CHANGES", help="The same, of the calendar itself."),
        click.option("--deadline", metavar="TIME", help="How likely by then: 60d or a date."),
        click.option("--budget", metavar="USD", help="How likely for so much: 2e6 or 2M."),
        click.option("--start", metavar="DATE", help="First day, YYYY-MM-DD, for dates."),
        click.option("--runs", type=click.IntRange(10, MOST_RUNS), help="To play; 1000."),
        click.option("--seed", type=click.IntRange(0, 2**63 - 1), help="Of their luck; 0."),
    )
    for option in reversed(options):
        command = option(command)
    return command


def asked_calendar(flags: dict[str, Any]) -> AskedCalendar | None:
    """Return what the flags ask for, None for no calendar."""
    if not flags["calendar"] and all(flags[name] is None for name in _FLAGS):
        return None
    given = {name: flags[name] for name in _FLAGS}
    return AskedCalendar(
        **given | {"runs": given["runs"] or 1000, "seed": given["seed"] or 0},
    )


def make_calendar(plan: Plan, result: TrainingResult, asked: AskedCalendar) -> dict[str, Any]:
    """Return the calendar of a run, as docs/json.md has it.

    Raises
    ------
    InputError
        Flags that mean nothing, or a plan without tokens.
    InfeasibleError
        A run that does not end.
    """
    from ridgeline.cli.numba_start import said_while_compiling
    from ridgeline.errors import InputError
    from ridgeline.simulator.fleet import calendar
    from ridgeline.simulator.fleet.changes import parse_changes

    keys = calendar.KEYS
    assume = parse_changes(asked.assume, "--assume", keys) if asked.assume else {}
    changes = parse_changes(asked.what_if, "--what-if", keys) if asked.what_if else {}
    start = _day(asked.start)
    limits = calendar.Limits(
        deadline_s=_deadline(asked.deadline, start), budget_usd=_budget(asked.budget)
    )
    if limits.budget_usd is not None and not result.usd_per_accelerator_hour:
        raise InputError(f"--budget {asked.budget}: no price is known; give one with --price")
    assumptions = calendar.changed(calendar.Assumptions(), assume)
    assumptions = calendar.base_of(assumptions, changes)
    with said_while_compiling():
        base = calendar.simulate(plan, result, assumptions, runs=asked.runs, seed=asked.seed)
    record = calendar.summarise(base, seed=asked.seed, limits=limits, start=start).to_dict()
    if changes:
        with said_while_compiling():
            rows = calendar.what_if(plan, result, base, changes, seed=asked.seed)
        record["what_if"] = [row.to_dict() for row in rows]
    return record


def _day(text: str | None) -> date | None:
    from ridgeline.hardware.quotes import parse_day

    return None if text is None else parse_day(text, "--start")


def _deadline(text: str | None, start: date | None) -> float | None:
    from ridgeline.errors import InputError
    from ridgeline.hardware.quotes import parse_day
    from ridgeline.simulator.fleet.changes import parse_time

    if text is None:
        return None
    if text.count("-") == 2:
        day = parse_day(text, "--deadline")
        if start is None:
            raise InputError(f"--deadline {text}: a date needs the first day too: --start DATE")
        # the day itself counts
        return ((day - start).days + 1) * 86400.0
    try:
        return parse_time(text)
    except ValueError as error:
        raise InputError(f"--deadline {text}: {error}, or a date") from None


def _budget(text: str | None) -> float | None:
    from ridgeline.errors import InputError
    from ridgeline.simulator.plan_values import parse_count

    if text is None:
        return None
    try:
        return parse_count(text.removeprefix("$"))
    except ValueError:
        raise InputError(f"--budget {text}: must be an amount such as 2e6 or 2M") from None
