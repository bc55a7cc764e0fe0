"""A fleet many times over: other seeds, the same jobs, means with confidence intervals."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from math import sqrt
from statistics import fmean, stdev
from typing import Any

from ridgeline.errors import InputError
from ridgeline.simulator.fleet.results import FleetResult, play_fleet
from ridgeline.simulator.fleet.spec import Fleet

FIGURES = (
    "goodput",
    "ettr",
    "utilisation",
    "mfu",
    "mean_wait_s",
    "mean_jct_s",
    "p95_jct_s",
    "makespan_s",
    "deadlines_met",
    "preemptions",
    "interruptions",
    "fragmentation",
    "cost_usd",
    "energy_kwh",
)
_T95 = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160,
    2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056,
    2.052, 2.048, 2.045, 2.042,
)  # fmt: skip
"""Two-sided 95% points of Student's t law for 1 to 30 degrees of freedom."""
_NORMAL95 = 1.960


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """A mean over seeds and where the true one lies with 95% confidence (Student's t)."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ManyResult:
    """What several seeds say."""

    figures: dict[str, Interval]
    runs: tuple[FleetResult, ...]
    """By seed, ascending."""

    @property
    def complete(self) -> bool:
        """Whether every run was played to its end."""
        return all(run.complete for run in self.runs)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return {
            "figures": {name: asdict(value) for name, value in self.figures.items()},
            "runs": [run.to_dict() for run in self.runs],
        }


def play_many(fleet: Fleet, seeds: int, *, workers: int = 1) -> ManyResult:
    """Play a fleet with ``seeds`` seeds from its own on; the answer is the same on any workers.

    Raises
    ------
    InputError
        Fewer than 2 seeds: they have no interval.
    """
    if seeds < 2:
        raise InputError(f"seeds = {seeds}: must be at least 2, for an interval")
    from joblib import Parallel, delayed  # costs 0.1 s, and a single run does without

    # jobs of arrivals and traces are drawn when the file is read; what differs is what strikes them
    tasks = (delayed(_one)(replace(fleet, seed=fleet.seed + k)) for k in range(seeds))
    runs = tuple(Parallel(n_jobs=workers)(tasks))
    return ManyResult(
        figures={name: interval([float(getattr(run, name)) for run in runs]) for name in FIGURES},
        runs=runs,
    )


def _one(fleet: Fleet) -> FleetResult:
    return play_fleet(fleet).result


def interval(values: list[float]) -> Interval:
    """Return the mean of values and its 95% confidence interval."""
    mean, degrees = fmean(values), len(values) - 1
    t = _T95[degrees - 1] if degrees <= len(_T95) else _NORMAL95
    half = t * stdev(values) / sqrt(len(values))
    return Interval(mean=mean, low=mean - half, high=mean + half)
