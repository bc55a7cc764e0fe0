"""One deployment tried: played, and held against the goals."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from ridgeline.errors import InputError
from ridgeline.hardware.cluster import Cluster
from ridgeline.simulator.serving.choice.goals import Demand, headroom, reached, surely_broken
from ridgeline.simulator.serving.choice.space import Kind, Replica, rented, rented_cluster
from ridgeline.simulator.serving.deployment import Deployment, default_router, make_pools
from ridgeline.simulator.serving.play import Played, Pool, play_pools
from ridgeline.simulator.serving.results import ServingResult, check_conservation
from ridgeline.simulator.serving.serve import summarise
from ridgeline.workloads.traffic.traffic import Traffic

_CUT, _LAST_CUT = 6.0, 0.25
"""A play is looked at, whether it can still keep its goals, after so many times as many requests as
a goal lets off, and after a quarter at most."""
_WORTH_CUTTING = 400
"""Requests below which looking costs more than it saves."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Candidate:
    """A deployment: replicas of one kind of accelerator."""

    kind: Kind
    replica: Replica
    """Whole, or of the decode pool."""
    replicas: int
    prefill: Replica | None = None
    prefill_replicas: int = 0

    @property
    def accelerators(self) -> int:
        """That work."""
        apart = self.prefill.accelerators * self.prefill_replicas if self.prefill else 0
        return self.replica.accelerators * self.replicas + apart

    @property
    def mode(self) -> str:
        """Aggregated or disaggregated."""
        return "disaggregated" if self.prefill else "aggregated"

    @property
    def order(self) -> tuple[int, ...]:
        """Decides between equals."""
        first = -1 if self.prefill is None else self.prefill.place
        return (self.kind.place, first, self.replica.place, self.prefill_replicas, self.replicas)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Trial:
    """What became of a candidate."""

    candidate: Candidate
    reached_s: dict[str, float]
    """By figure, what the promised share of requests keeps."""
    headroom: float
    """Least limit over what is reached; from 1 on all goals are kept."""
    played: Played

    @property
    def kept(self) -> bool:
        """Whether all goals are."""
        return self.headroom >= 1.0


def site_of(candidate: Candidate, most: int) -> Cluster:
    """Return the cluster that is rented for a candidate, of at most ``most`` accelerators."""
    accelerator = candidate.kind.accelerator
    count = rented(accelerator, candidate.accelerators, most)
    cluster = rented_cluster(accelerator, count) if count else None
    assert cluster is not None, (candidate.accelerators, most)
    return cluster


def deployments(candidate: Candidate, cluster: Cluster) -> tuple[Deployment, ...]:
    """Return the pools of a candidate on a cluster that holds them all."""
    decode = Deployment(
        service=replace(candidate.replica.service, cluster=cluster, replicas=candidate.replicas),
        role="decode" if candidate.prefill else "whole",
        policy=candidate.replica.policy,
    )
    if candidate.prefill is None:
        return (decode,)
    service = replace(
        candidate.prefill.service, cluster=cluster, replicas=candidate.prefill_replicas
    )
    prefill = Deployment(service=service, role="prefill", policy=candidate.prefill.policy)
    return (prefill, decode)


def pools_of(candidate: Candidate, cluster: Cluster) -> tuple[Pool, ...]:
    """Return the pools of a candidate, with tables that are priced already."""
    replicas = [one for one in (candidate.prefill, candidate.replica) if one is not None]
    return make_pools(deployments(candidate, cluster), [replica.tables for replica in replicas])


def try_candidate(
    candidate: Candidate, cluster: Cluster, demand: Demand, *, whole: bool = False
) -> Trial | None:
    """Play a candidate; None where it breaks a goal for certain before the traffic is over.

    Parameters
    ----------
    candidate, cluster
        What is deployed where.
    demand
        Traffic and goals.
    whole
        Play to the end whatever happens.
    """
    traffic = demand.traffic
    pools = pools_of(candidate, cluster)
    router = default_router(pools)
    for cut in () if whole else _cuts(demand):
        begun = play_pools(pools, traffic, router=router, until_s=cut, log_lines=0)
        if surely_broken(demand.goals, begun, len(traffic), cut):
            return None
    played = play_pools(pools, traffic, router=router, log_lines=0)
    check_conservation(played)
    got = reached(demand.goals, played)
    room = headroom(demand.goals, got) if demand.goals else math.inf
    return Trial(candidate=candidate, reached_s=got, headroom=room, played=played)


def _cuts(demand: Demand) -> list[float]:
    """Return times at which a play is looked at, s."""
    traffic, count = demand.traffic, len(demand.traffic)
    if traffic.concurrency or count < _WORTH_CUTTING:
        return []
    shares = {min(_LAST_CUT, _CUT * (1.0 - goal.share)) for goal in demand.goals}
    times = {float(traffic.arrival_s[int(share * count)]) for share in shares}
    return sorted(time for time in times if time > 0.0)


def result_of(candidate: Candidate, cluster: Cluster, demand: Demand) -> ServingResult:
    """Return all that ``ridgeline infer`` says of a candidate."""
    deployed, pools = deployments(candidate, cluster), pools_of(candidate, cluster)
    router = default_router(pools)
    played = play_pools(pools, demand.traffic, router=router)
    check_conservation(played)
    return summarise(deployed, pools, played, router, demand.slo)


def can_part(cluster: Cluster) -> bool:
    """Whether KV can move between pools: not on a single slice of a torus."""
    return bool(cluster.tiers)


def scaled(traffic: Traffic, factor: float) -> Traffic:
    """Return a traffic whose requests come ``factor`` times as fast.

    Raises
    ------
    InputError
        No positive factor.
    """
    if not (math.isfinite(factor) and factor > 0.0):
        raise InputError(f"rate x {factor}: must be above 0")
    return replace(traffic, arrival_s=traffic.arrival_s / factor)
