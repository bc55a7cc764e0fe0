"""The highest request rate under which a service keeps its goals, by bisection."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from math import inf
from typing import Any

from ridgeline.errors import InfeasibleError, InputError
from ridgeline.simulator.serving.choice.bounds import Work, least_replicas, work_of
from ridgeline.simulator.serving.choice.candidates import Site, candidates_of, make_site
from ridgeline.simulator.serving.choice.goals import Demand, Goal
from ridgeline.simulator.serving.choice.infeasible import infeasible
from ridgeline.simulator.serving.choice.records import (
    SCHEMA_VERSION,
    ServicePlan,
    make_plan,
    plan_row,
)
from ridgeline.simulator.serving.choice.space import ServiceSpace, kinds_of
from ridgeline.simulator.serving.choice.trial import (
    Candidate,
    Trial,
    scaled,
    site_of,
    try_candidate,
)

TOLERANCE = 0.01
"""Of the rate: the answer keeps the goals, this much more does not."""
_DOUBLINGS = 24


@dataclass(frozen=True, slots=True, kw_only=True)
class HighestRate:
    """The highest rate on given accelerators, and the deployment that takes it."""

    requests_per_s: float
    requests_per_s_per_accelerator: float
    plan: ServicePlan
    goals: tuple[Goal, ...]
    asked: str
    seen: int
    """Deployments."""
    bounded: int
    """Dropped because their work does not fit into the time at the rate that another takes."""
    played: int
    """Plays of all bisections."""

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON contract (``docs/json.md``)."""
        return {
            "schema": "ridgeline.plan.serve.rate",
            "schema_version": SCHEMA_VERSION,
            "asked": self.asked,
            "goals": [asdict(goal) for goal in self.goals],
            "requests_per_s": self.requests_per_s,
            "requests_per_s_per_accelerator": self.requests_per_s_per_accelerator,
            "plan": self.plan.to_dict(),
            "counts": {"seen": self.seen, "bounded": self.bounded, "played": self.played},
        }

    def rows(self) -> list[dict[str, Any]]:
        """Return one flat line."""
        rate = {
            "requests_per_s": self.requests_per_s,
            "requests_per_s_per_accelerator": self.requests_per_s_per_accelerator,
        }
        return [rate | plan_row(self.plan)]


class _Counter:
    """Plays so far."""

    def __init__(self) -> None:
        self.played = 0


def highest_rate(space: ServiceSpace, demand: Demand) -> HighestRate:
    """Return the highest rate that some deployment of at most ``space.most`` accelerators keeps.

    The requests of the demand come faster or slower, the same ones in the same order. A
    deployment's rate is found by doubling and bisection to within 1%, as if goals that are kept at
    a rate were kept at all lower ones; a deployment that does not keep them 1% above the best rate
    so far is left at that one play.

    Parameters
    ----------
    space, demand
        Where from, and what; the rate of its arrivals plays no part but for rounding.

    Raises
    ------
    InputError
        A closed loop, which has no rate.
    InfeasibleError
        Even a trickle breaks a goal.
    """
    if demand.traffic.concurrency:
        raise InputError("the highest rate is of an open loop; give no --concurrency")
    unit = replace(demand, traffic=scaled(demand.traffic, 1.0 / _rate(demand)))
    count = _Counter()
    best, best_rate = None, 0.0
    seen = bounded = 0
    sites = [make_site(space, kind, _trickle(unit)) for kind in kinds_of(space)]
    for candidate in _by_size(sites):
        seen += 1
        floor = best_rate * (1.0 + TOLERANCE)
        if best is not None and not _possible(candidate, _at(unit, floor)):
            bounded += 1
            continue
        trial, rate = _bisect(candidate, space, unit, floor, count)
        if trial is not None:
            best, best_rate = trial, rate
    if best is None:
        raise infeasible(sites, space, _trickle(unit), lambda _sites, _demand: None)
    cluster = site_of(best.candidate, space.most)
    return HighestRate(
        requests_per_s=best_rate,
        requests_per_s_per_accelerator=best_rate / cluster.count,
        plan=make_plan(best, cluster, _at(unit, best_rate)),
        goals=demand.goals,
        asked=demand.asked,
        seen=seen,
        bounded=bounded,
        played=count.played,
    )


def _rate(demand: Demand) -> float:
    """Return the mean rate of the arrivals, requests a second."""
    arrivals = demand.traffic.arrival_s
    last = float(arrivals[-1])
    return len(arrivals) / last if last > 0.0 else 1.0


def _at(unit: Demand, rate: float) -> Demand:
    return replace(unit, traffic=scaled(unit.traffic, rate))


def _trickle(unit: Demand) -> Demand:
    """Return the demand at a rate at which hardly two requests meet."""
    return _at(unit, 1e-3)


def _by_size(sites: Sequence[Site]) -> list[Candidate]:
    """Return the deployments that take all that can be rented, those with most replicas first."""
    found = []
    for site in sites:
        if not site.sizes:
            continue
        largest = site.sizes[-1]
        fullest: dict[tuple[int, ...], Candidate] = {}
        for candidate, _ in candidates_of(site, largest, 0):
            key = candidate.order[:3]
            if candidate.prefill is None:
                fullest[key] = candidate
            elif _is_full(candidate, largest):
                fullest[candidate.order] = candidate
        found += list(fullest.values())
    return sorted(found, key=lambda one: (-one.accelerators, one.order))


def _is_full(candidate: Candidate, size: int) -> bool:
    """Whether no replica of either pool can be added."""
    assert candidate.prefill is not None
    smallest = min(candidate.prefill.accelerators, candidate.replica.accelerators)
    return candidate.accelerators + smallest > size


def _possible(candidate: Candidate, demand: Demand) -> bool:
    """Whether no bound says that the work is too much."""
    parts = (
        [("whole", candidate.replica, candidate.replicas)]
        if candidate.prefill is None
        else [
            ("prefill", candidate.prefill, candidate.prefill_replicas),
            ("decode", candidate.replica, candidate.replicas),
        ]
    )
    for role, replica, replicas in parts:
        work: Work = work_of(demand.traffic, replica.tables, caching=replica.policy.prefix_caching)
        least = least_replicas(replica, demand, work, role=role)
        if not 1 <= least <= replicas:
            return False
    return True


def _bisect(
    candidate: Candidate, space: ServiceSpace, unit: Demand, floor: float, count: _Counter
) -> tuple[Trial | None, float]:
    """Return the trial at the highest rate of a candidate, None where it is not above ``floor``."""
    cluster = site_of(candidate, space.most)

    def kept(rate: float) -> Trial | None:
        asked = _at(unit, rate)
        if not _possible(candidate, asked):
            return None
        count.played += 1
        trial = try_candidate(candidate, cluster, asked)
        return trial if trial is not None and trial.kept else None

    low = floor or 1e-3
    best = kept(low)
    if best is None:
        return None, 0.0
    high = inf
    for _ in range(_DOUBLINGS):
        trial = kept(2.0 * low)
        if trial is None:
            high = 2.0 * low
            break
        best, low = trial, 2.0 * low
    if high == inf:
        raise InfeasibleError("the goals are kept at any rate; promise less time")
    while high / low > 1.0 + TOLERANCE:
        middle = (low * high) ** 0.5
        trial = kept(middle)
        if trial is None:
            high = middle
        else:
            best, low = trial, middle
    return best, low
