"""Why no deployment keeps its goals, and the smallest change that would do."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from math import inf

from ridgeline.errors import InfeasibleError
from ridgeline.simulator.serving.choice.candidates import (
    Site,
    candidates_of,
    make_site,
    only,
)
from ridgeline.simulator.serving.choice.goals import Demand, limit_text
from ridgeline.simulator.serving.choice.space import ServiceSpace
from ridgeline.simulator.serving.choice.trial import (
    Candidate,
    Trial,
    scaled,
    site_of,
    try_candidate,
)

CheapestOf = Callable[[Sequence[Site], Demand], Trial | None]
_WIDER = (2, 4)
"""Times as many accelerators that are looked at."""
_RATE_STEPS = 8
"""Bisections of the rate: to within 0.4% of it."""
_HOPEFUL = 3
"""Deployments, of most headroom, whose rate is lowered."""


def infeasible(
    sites: Sequence[Site], space: ServiceSpace, demand: Demand, cheapest: CheapestOf
) -> InfeasibleError:
    """Return the error that says what binds and what would be enough.

    Each goal is lifted by itself and the smallest limit found at which a deployment that fills the
    space keeps the others; then more accelerators, and a lower rate, with all goals as they are.

    Parameters
    ----------
    sites, space, demand
        Of the question that has no answer.
    cheapest
        Answers questions of other sites.
    """
    if all(site.too_large for site in sites):
        lines = [f"{site.kind.accelerator.name}: {site.too_large}" for site in sites]
        return InfeasibleError("memory: no replica fits; " + "; ".join(lines))
    goals = ", ".join(goal.text for goal in demand.goals)
    ways = [text for _, text in sorted(_relaxations(sites, space, demand, cheapest))]
    change = f"smallest change that would do: {', or '.join(ways)}" if ways else (
        "no single goal lifted, no number of accelerators tried and no rate would do"
    )  # fmt: skip
    most = f"{space.most:,} accelerator" + ("" if space.most == 1 else "s")
    return InfeasibleError(f"no service with at most {most} keeps {goals}; {change}")


def _relaxations(
    sites: Sequence[Site], space: ServiceSpace, demand: Demand, cheapest: CheapestOf
) -> Iterator[tuple[float, str]]:
    """Yield how far each thing must move by itself, as a factor, and what to say."""
    for goal in demand.goals:
        lifted = replace(
            demand,
            goals=tuple(
                replace(one, limit_s=inf) if one.figure == goal.figure else one
                for one in demand.goals
            ),
        )
        trials = _full(sites, space, lifted)
        least = min((trial.reached_s[goal.figure] for trial in trials if trial.kept), default=inf)
        if least < inf:
            needed = replace(goal, limit_s=_rounded_up(least))
            yield least / goal.limit_s, f"{needed.text} (not {limit_text(goal.limit_s)})"
    for factor in _WIDER:
        wider = replace(space, most=space.most * factor)
        trial = cheapest([make_site(wider, site.kind, demand) for site in sites], demand)
        if trial is not None:
            count = site_of(trial.candidate, wider.most).count
            name = trial.candidate.kind.accelerator.name
            yield count / space.most, f"{count:,} x {name} (not {space.most:,} accelerators)"
            break
    share = _slower(sites, space, demand)
    if share > 0.0:
        yield 1.0 / share, f"{100.0 * share:.3g}% of the rate"


def _rounded_up(seconds: float) -> float:
    """Return a limit with four figures that is not below ``seconds``."""
    text = f"{seconds * (1.0 + 5e-4):.4g}"
    return float(text)


def _full(sites: Sequence[Site], space: ServiceSpace, demand: Demand) -> list[Trial]:
    """Return trials of the deployments that fill the space, whatever they keep."""
    trials = []
    for old in sites:
        site = make_site(space, old.kind, demand)
        if not site.sizes:
            continue
        one_mode = only(site, "aggregated") if site.whole else site
        for candidate in _largest(one_mode):
            trial = try_candidate(candidate, site_of(candidate, space.most), demand, whole=True)
            if trial is not None:
                trials.append(trial)
    return trials


def _largest(site: Site) -> list[Candidate]:
    """Return the deployment with most replicas of each kind of replica."""
    most: dict[tuple[int, ...], Candidate] = {}
    for candidate, _ in candidates_of(site, site.sizes[-1], 0):
        most[candidate.order[:3]] = candidate
    return list(most.values())


def _slower(sites: Sequence[Site], space: ServiceSpace, demand: Demand) -> float:
    """Return the highest share of the rate at which a deployment that fills the space does."""
    if demand.traffic.concurrency:
        return 0.0
    lifted = replace(demand, goals=tuple(replace(goal, limit_s=inf) for goal in demand.goals))
    near = [(_room(trial, demand), trial) for trial in _full(sites, space, lifted)]
    near.sort(key=lambda one: (-one[0], one[1].candidate.order))
    best = 0.0
    for _, trial in near[:_HOPEFUL]:
        cluster = site_of(trial.candidate, space.most)
        low, high = best, 1.0
        for _ in range(_RATE_STEPS):
            middle = (low + high) / 2.0
            slower = replace(demand, traffic=scaled(demand.traffic, middle))
            tried = try_candidate(trial.candidate, cluster, slower)
            if tried is not None and tried.kept:
                low = middle
            else:
                high = middle
        best = max(best, low)
    return best


def _room(trial: Trial, demand: Demand) -> float:
    return min(goal.limit_s / max(trial.reached_s[goal.figure], 1e-12) for goal in demand.goals)
