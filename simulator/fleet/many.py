"""A fleet many times over: other arrivals, other failures; means with confidence intervals."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from math import inf, isfinite, sqrt
from statistics import fmean, stdev
from typing import Any

from ridgeline.errors import InputError
from ridgeline.simulator.fleet.interrupts import terminable
from ridgeline.simulator.fleet.results import FleetResult, play_fleet
from ridgeline.simulator.fleet.spec import Fleet
from ridgeline.simulator.fleet.store import RunStore

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
    "usd_per_useful_hour",
    "energy_kwh",
)
SHARES = ("goodput", "ettr", "utilisation", "mfu", "fragmentation")
_T95 = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160,
    2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056,
    2.052, 2.048, 2.045, 2.042,
)  # fmt: skip
"""Two-sided 95% points of Student's t law for 1 to 30 degrees of freedom."""
_NORMAL95 = 1.960


SCHEMA_VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """A mean over seeds and where the true one lies with 95% confidence (Student's t)."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ManyResult:
    """What several seeds say."""

    seeds: int
    """That were asked for."""
    figures: dict[str, Interval]
    runs: tuple[FleetResult, ...]
    """By seed, ascending; fewer than ``seeds`` after an interrupt."""

    @property
    def complete(self) -> bool:
        """Whether every seed was played to its end."""
        return len(self.runs) == self.seeds

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON contract (``docs/json.md``)."""
        return {
            "schema": "ridgeline.cluster.seeds",
            "schema_version": SCHEMA_VERSION,
            "complete": self.complete,
            "seeds": self.seeds,
            "figures": {name: asdict(value) for name, value in self.figures.items()},
            "runs": [run.to_dict() for run in self.runs],
        }


def play_many(
    fleet: Fleet, seeds: int, *, workers: int = 1, store: RunStore | None = None
) -> ManyResult:
    """Play a fleet with ``seeds`` seeds from its own on; the answer is the same on any workers.

    Every seed has arrivals and failures of its own; jobs that are listed or traced stay.

    Parameters
    ----------
    fleet, seeds
        What, and how often.
    workers
        Processes; -1 takes all cores.
    store
        Keeps runs as they end and gives those that it has. The answer is the same with and without.

    Raises
    ------
    InputError
        Fewer than 2 seeds: they have no interval.
    KeyboardInterrupt
        Interrupted before the first was over. Afterwards those that were are returned.
    """
    if seeds < 2:
        raise InputError(f"seeds = {seeds}: must be at least 2, for an interval")
    asked = range(fleet.seed, fleet.seed + seeds)
    runs: dict[int, FleetResult] = {}
    if store is not None:
        runs = {seed: run for seed, run in store.read().items() if seed in asked}
    missing = [seed for seed in asked if seed not in runs]
    try:
        # between two runs, too, a request to end leaves those that are over
        with terminable():
            for run in _played(fleet, missing, workers):
                if not run.complete:
                    break
                runs[run.seed] = run
                if store is not None:
                    store.write(run)
    except KeyboardInterrupt:
        pass
    if not runs:
        raise KeyboardInterrupt
    ordered = tuple(runs[seed] for seed in sorted(runs))
    return ManyResult(
        seeds=seeds,
        figures={
            name: _possible(name, [float(getattr(run, name)) for run in ordered])
            for name in FIGURES
        },
        runs=ordered,
    )


def _played(fleet: Fleet, seeds: list[int], workers: int) -> Iterator[FleetResult]:
    """Yield runs as they end, in any order."""
    if workers == 1 or len(seeds) < 2:
        for seed in seeds:
            yield _one(fleet, seed)
        return
    from joblib import Parallel, delayed  # costs 0.1 s, and a single run does without

    parallel = Parallel(n_jobs=workers, return_as="generator_unordered")
    yield from parallel(delayed(_one)(fleet, seed) for seed in seeds)


def _one(fleet: Fleet, seed: int) -> FleetResult:
    return play_fleet(fleet, seed=seed).result


def _possible(name: str, values: list[float]) -> Interval:
    """Return the interval of a figure without what it cannot be: below 0, or a share above 1."""
    found = interval(values)
    most = 1.0 if name in SHARES else inf
    return replace(found, low=max(0.0, found.low), high=min(most, found.high))


def interval(values: Sequence[float]) -> Interval:
    """Return the mean of values and its 95% confidence interval; without bounds of a single one."""
    mean, degrees = fmean(values), len(values) - 1
    if not degrees or not isfinite(mean):
        return Interval(mean=mean, low=-inf, high=inf)
    t = _T95[degrees - 1] if degrees <= len(_T95) else _NORMAL95
    half = t * stdev(values) / sqrt(len(values))
    return Interval(mean=mean, low=mean - half, high=mean + half)
