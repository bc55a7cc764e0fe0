"""A single training run over months: when it ends and what it costs, as a distribution."""

from ridgeline.simulator.fleet.calendar.assumptions import (
    KEYS,
    Assumptions,
    changed,
    parse_changes,
)
from ridgeline.simulator.fleet.calendar.calendar import (
    RUNS,
    Limits,
    Outcome,
    difference,
    simulate,
    summarise,
)
from ridgeline.simulator.fleet.calendar.monte_carlo import Drawn, Setting, draw
from ridgeline.simulator.fleet.calendar.records import CalendarResult, Difference, Percentiles

__all__ = [
    "KEYS",
    "RUNS",
    "Assumptions",
    "CalendarResult",
    "Difference",
    "Drawn",
    "Limits",
    "Outcome",
    "Percentiles",
    "Setting",
    "changed",
    "difference",
    "draw",
    "parse_changes",
    "simulate",
    "summarise",
]
