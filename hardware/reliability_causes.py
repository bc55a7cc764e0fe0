"""What breaks: published causes of interruptions, and how far fleets differ in how often."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from math import log, sqrt

from ridgeline.errors import InputError, nearest
from ridgeline.hardware.reliability import DEFAULT_FLEET, published_rates

SMALL_JOBS = "small jobs"
"""Rows of ``reliability.csv`` that count what small jobs saw of a fleet that has a row already."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CauseShare:
    """One cause of interruptions and its share of all."""

    name: str
    component: str
    """accelerator, host, network, software or unknown."""
    share: float
    """Of all interruptions, 0 to 1."""
    repair: bool
    """Whether a node has to be taken out, and not only the job started again."""
    source: str


@cache
def cause_shares(fleet: str = DEFAULT_FLEET) -> tuple[CauseShare, ...]:
    """Return the published causes of a fleet's interruptions, most frequent first.

    Raises
    ------
    InputError
        For a fleet whose causes were not published, with the nearest one.
    """
    text = (files("ridgeline.hardware") / "data/failure_causes.csv").read_text("utf-8")
    table = list(csv.DictReader(text.splitlines()))
    rows = [row for row in table if row["fleet"] == fleet]
    if not rows:
        known = {row["fleet"] for row in table}
        raise InputError(f"causes of failure of {fleet!r}: unknown; {nearest(fleet, known)}")
    total = sum(int(row["count"]) for row in rows)
    return tuple(
        CauseShare(
            name=row["cause"],
            component=row["component"],
            share=int(row["count"]) / total,
            repair=row["repair"] == "true",
            source=row["source"],
        )
        for row in rows
    )


@cache
def rate_log_sd() -> float:
    """Return the standard deviation of the logarithm of failures per node-day between fleets.

    What the rate of a fleet that nobody has watched is uncertain by: the sample deviation over the
    published fleets, each once.
    """
    logs = [log(row.per_node_day) for row in published_rates() if row.counts != SMALL_JOBS]
    mean = sum(logs) / len(logs)
    return sqrt(sum((one - mean) ** 2 for one in logs) / (len(logs) - 1))
