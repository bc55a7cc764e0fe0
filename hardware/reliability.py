"""How often a job breaks, how often to save it, and what share of its time is productive."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from math import exp, inf, sqrt

from ridgeline.errors import InputError, nearest

DEFAULT_FLEET = "meta-llama3"
DAY_S = 86400.0


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedRate:
    """A row of ``reliability.csv``."""

    name: str
    per_node_day: float
    per_node: int
    """Accelerators in a node of that fleet."""
    counts: str
    """What was counted: interruptions of a run or of small jobs, failures of nodes or of
    accelerators."""
    source: str


@cache
def published_rates() -> tuple[PublishedRate, ...]:
    """Return the published failure rates of fleets."""
    text = (files("ridgeline.hardware") / "data/reliability.csv").read_text("utf-8")
    return tuple(
        PublishedRate(
            name=row["name"],
            per_node_day=float(row["failures_per_1000_node_days"]) / 1000.0,
            per_node=int(row["accelerators_per_node"]),
            counts=row["counts"],
            source=row["source"],
        )
        for row in csv.DictReader(text.splitlines())
    )


def failures_per_node_day(fleet: str = DEFAULT_FLEET, per_node: int = 8) -> float:
    """Failures that stop a job, per node and day.

    Parameters
    ----------
    fleet
        A row of ``reliability.csv``. The default, Llama 3's 419 interruptions, counts whatever
        stopped a real training job; the others count node or GPU failures.
    per_node
        Accelerators in a node; the published rates are of nodes of 8 and go with accelerators.

    Raises
    ------
    InputError
        For an unknown fleet, with the nearest one.
    """
    table = {row.name: row for row in published_rates()}
    if fleet not in table:
        raise InputError(f"reliability of {fleet!r}: unknown; {nearest(fleet, table)}")
    row = table[fleet]
    return row.per_node_day * per_node / row.per_node


def mttf_s(nodes: float, rate_per_node_day: float) -> float:
    """Mean time to failure of a job: 1 / (N r) [s] (Kokolis et al. 2024, arXiv 2410.21680)."""
    rate = nodes * rate_per_node_day
    return DAY_S / rate if rate > 0 else inf


def optimal_interval_s(checkpoint_s: float, mttf: float) -> float:
    """Young's and Daly's interval between checkpoints: sqrt(2 delta M) [s].

    Young 1974, A first order approximation to the optimum checkpoint interval; Daly 2006, equation
    (first order). Good while the checkpoint time delta is far below the mean time to failure M.
    """
    return sqrt(2.0 * checkpoint_s * mttf)


def goodput(*, checkpoint_s: float, interval_s: float, restart_s: float, mttf: float) -> float:
    """Productive share of the time of a long job that saves itself at an interval.

    (1 - (u0 + tau / 2) / M) / (1 + w / tau): a failure costs the restart u0 and half an interval of
    lost work, each interval tau one checkpoint of w (expected training time ratio, Kokolis et al.
    2024, arXiv 2410.21680). 0 when failures come faster than the job recovers.

    Parameters
    ----------
    checkpoint_s, interval_s, restart_s, mttf
        w, tau, u0 and M [s]; M is infinite when nothing fails.
    """
    lost = restart_s / mttf + (interval_s / (2.0 * mttf) if mttf < inf else 0.0)
    saving = checkpoint_s / interval_s if interval_s > 0 else 0.0
    return max(0.0, 1.0 - lost) / (1.0 + saving)


def unsaved_time_s(work_s: float, restart_s: float, mttf: float) -> float:
    """Return the expected time of a job that starts over at every failure [s].

    (M + u0)(exp(W / M) - 1): exponential failures, restart u0 after each (Daly 2006 with one
    segment). Infinite when it would not end within exp(700) M.
    """
    if mttf == inf:
        return work_s
    ratio = work_s / mttf
    return (mttf + restart_s) * (exp(ratio) - 1.0) if ratio < 700.0 else inf
