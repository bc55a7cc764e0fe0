"""Pipeline schedules: the order of passes on every device."""

from __future__ import annotations

from ridgeline.simulator.schedule.order import (
    BACKWARD,
    FIRST,
    FORWARD,
    KINDS,
    LAST,
    MIDDLE,
    ONLY,
    PAIRED,
    VARIANTS,
    WEIGHT,
    WHOLE,
    Schedule,
    make_schedule,
    peak_in_flight,
)

__all__ = [
    "BACKWARD",
    "FIRST",
    "FORWARD",
    "KINDS",
    "LAST",
    "MIDDLE",
    "ONLY",
    "PAIRED",
    "VARIANTS",
    "WEIGHT",
    "WHOLE",
    "Schedule",
    "make_schedule",
    "peak_in_flight",
]
