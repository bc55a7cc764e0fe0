"""A single training run over months: when it ends and what it costs, as a distribution."""

from ridgeline.simulator.fleet.calendar.assumptions import (
    KEYS,
    Assumptions,
    changed,
)
from ridgeline.simulator.fleet.calendar.calendar import (
    RUNS,
    Limits,
    Outcome,
    base_of,
    difference,
    simulate,
    summarise,
    what_if,
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
    "base_of",
    "changed",
    "difference",
    "draw",
    "simulate",
    "summarise",
    "what_if",
]
