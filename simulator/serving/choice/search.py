"""The cheapest service that keeps its goals, exact over the space.

Deployments are tried in the order of what they cost. What a bound drops cannot keep the goals, and
what costs more than one that does cannot be cheaper, so that the first price at which a deployment
keeps all goals is the least; all deployments of that price are tried, and the one with the most
headroom is the answer (of equals the first in the order of the space).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from time import perf_counter

from ridgeline.simulator.serving.choice.candidates import (
    Site,
    candidates_of,
    make_site,
    only,
)
from ridgeline.simulator.serving.choice.goals import Demand
from ridgeline.simulator.serving.choice.infeasible import infeasible
from ridgeline.simulator.serving.choice.records import Choice, Counts, make_plan
from ridgeline.simulator.serving.choice.space import ServiceSpace, kinds_of, rented_cluster
from ridgeline.simulator.serving.choice.trial import Trial, site_of, try_candidate

Say = Callable[[str], None]


def choose(
    space: ServiceSpace, demand: Demand, *, runners_up: bool = True, say: Say | None = None
) -> Choice:
    """Return the cheapest deployment that keeps the goals of a demand.

    Parameters
    ----------
    space
        What to choose from.
    demand
        Traffic at its peak, and goals.
    runners_up
        Also find the cheapest of every other accelerator and mode.
    say
        Told what is searched.

    Raises
    ------
    InputError
        A space without anything legal, an accelerator without a price.
    InfeasibleError
        Nothing keeps the goals: with what binds and the smallest change that would do.
    """
    started = perf_counter()
    sites = [make_site(space, kind, demand) for kind in kinds_of(space)]
    best, counts = cheapest(sites, demand, say)
    if best is None:
        raise infeasible(sites, space, demand, _cheapest_trial)
    others = []
    if runners_up:
        for site in sites:
            for mode in space.modes:
                if (site.kind, mode) == (best.candidate.kind, best.candidate.mode):
                    continue
                other, _ = cheapest([only(site, mode)], demand, say)
                if other is not None:
                    others.append(other)
    others.sort(key=lambda trial: (_usd(trial), -trial.headroom, trial.candidate.order))
    return Choice(
        best=make_plan(best, site_of(best.candidate, space.most), demand),
        others=tuple(
            make_plan(trial, site_of(trial.candidate, space.most), demand) for trial in others
        ),
        goals=demand.goals,
        asked=demand.asked,
        counts=counts,
        elapsed_s=perf_counter() - started,
    )


def cheapest(
    sites: Sequence[Site], demand: Demand, say: Say | None = None
) -> tuple[Trial | None, Counts]:
    """Return the trial of the cheapest deployment, None where none keeps the goals."""
    levels = sorted(
        ((site.kind.usd_per_hour * size, size, site.kind.place, site) for site in sites
         for size in site.sizes),
        key=lambda level: level[:3],
    )  # fmt: skip
    counts = Counts()
    for site in sites:
        counts = counts.plus(site.counts)
    best: Trial | None = None
    best_usd = (0.0, 0)
    cut = played = bound = 0
    tried = 0
    for usd, size, _, site in levels:
        price = (usd, size)
        if best is not None and price > best_usd:
            break
        if say is not None:
            say(f"{size} x {site.kind.accelerator.name}")
        cluster = rented_cluster(site.kind.accelerator, size)
        assert cluster is not None
        for candidate, hopeless in candidates_of(site, size):
            tried += 1
            if hopeless:
                bound += 1
                continue
            trial = try_candidate(candidate, cluster, demand)
            if trial is None:
                cut += 1
                continue
            played += 1
            if trial.kept and (best is None or _key(trial) < _key(best)):
                best, best_usd = trial, price
    seen = sum(1 for _, size, _, site in levels for _ in candidates_of(site, size))
    return best, counts.plus(
        Counts(seen=seen, throughput_bound=bound, cost_bound=seen - tried, cut=cut, played=played)
    )


def _cheapest_trial(sites: Sequence[Site], demand: Demand) -> Trial | None:
    return cheapest(sites, demand)[0]


def _key(trial: Trial) -> tuple[object, ...]:
    return (-trial.headroom, trial.candidate.order)


def _usd(trial: Trial) -> float:
    return trial.candidate.kind.usd_per_hour * trial.candidate.accelerators
