"""Deployments to try: replicas of every kind in every number, what cannot do left out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from ridgeline.simulator.serving.choice.bounds import Work, least_replicas, never_kept, work_of
from ridgeline.simulator.serving.choice.goals import Demand
from ridgeline.simulator.serving.choice.records import Counts
from ridgeline.simulator.serving.choice.space import (
    Kind,
    Replica,
    Replicas,
    ServiceSpace,
    counts_of_replicas,
    rented,
    rented_cluster,
    replicas_of,
)
from ridgeline.simulator.serving.choice.trial import Candidate, can_part


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Least:
    """A replica in a role, and how many of it there must be."""

    replica: Replica
    replicas: int


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Site:
    """What is left of a kind of accelerator after the bounds."""

    kind: Kind
    sizes: tuple[int, ...]
    """Numbers of accelerators that can be rented, ascending."""
    whole: tuple[Least, ...]
    prefill: tuple[Least, ...]
    decode: tuple[Least, ...]
    too_large: str
    """Why weights do not fit, where none do; else empty."""
    slow: tuple[str, ...]
    """Goals that idle replicas break, once for each replica dropped."""
    counts: Counts


def make_site(space: ServiceSpace, kind: Kind, demand: Demand) -> Site:
    """Return the replicas of a kind that may keep the goals."""
    traffic = demand.traffic
    longest = int((traffic.input_tokens + traffic.output_tokens).max())
    found = replicas_of(space, kind, max(1, longest))
    sizes = tuple(
        size
        for size in range(1, space.most + 1)
        if rented(kind.accelerator, size, space.most) == size
    )
    roles: dict[str, list[Least]] = {"whole": [], "prefill": [], "decode": []}
    slow: list[str] = []
    for replica in found.whole:
        work = work_of(traffic, replica.tables, caching=replica.policy.prefix_caching)
        for role, left in roles.items():
            if not _in_role(space, kind, replica, role):
                continue
            broken, least = _bounded(replica, demand, work, role)
            if broken:
                slow += [broken] if role == "whole" else []
            else:
                left.append(Least(replica=replica, replicas=least))
    return Site(
        kind=kind,
        sizes=sizes,
        whole=tuple(roles["whole"]),
        prefill=tuple(roles["prefill"]),
        decode=tuple(roles["decode"]),
        too_large="" if found.whole else found.reason,
        slow=tuple(slow),
        counts=_replica_counts(found, slow),
    )


def _bounded(replica: Replica, demand: Demand, work: Work, role: str) -> tuple[str, int]:
    """Return the goal that a replica breaks for certain, or how many of it there must be."""
    broken = never_kept(replica, demand, work, role=role)
    if broken:
        return broken, 0
    least = least_replicas(replica, demand, work, role=role)
    return ("", least) if least else ("tpot", 0)


def _replica_counts(found: Replicas, slow: list[str]) -> Counts:
    return Counts(
        replicas_seen=len(found.whole) + found.too_large,
        replicas_too_large=found.too_large,
        replicas_too_slow=len(slow),
    )


def _in_role(space: ServiceSpace, kind: Kind, replica: Replica, role: str) -> bool:
    """Whether a replica is tried in a role: budgets vary where prompts and decodes share them."""
    if role == "whole":
        return "aggregated" in space.modes
    if "disaggregated" not in space.modes or kind.accelerator.torus_dims:
        return False
    limits = replica.service.limits
    plain = limits.max_tokens == space.max_tokens[0]
    return plain and (role == "decode" or limits.max_sequences == space.max_sequences[0])


def only(site: Site, mode: str) -> Site:
    """Return a site with one mode."""
    if mode == "aggregated":
        return replace(site, prefill=(), decode=())
    return replace(site, whole=())


def size_before(site: Site, size: int) -> int:
    """Return the next smaller size: what fits there is tried there."""
    place = site.sizes.index(size)
    return site.sizes[place - 1] if place else 0


def candidates_of(
    site: Site, size: int, before: int | None = None
) -> Iterator[tuple[Candidate, bool]]:
    """Yield deployments that need more than ``before`` and at most ``size`` accelerators.

    With each goes whether it has too few replicas for its work. By default ``before`` is the next
    smaller size: what fits there is tried there.
    """
    before = size_before(site, size) if before is None else before
    numbers = counts_of_replicas(size)
    for one in site.whole:
        each = one.replica.accelerators
        for count in numbers:
            if before < count * each <= size:
                candidate = Candidate(kind=site.kind, replica=one.replica, replicas=count)
                yield candidate, count < one.replicas
    cluster = rented_cluster(site.kind.accelerator, size)
    if cluster is None or not can_part(cluster):
        return
    for first in site.prefill:
        for last in site.decode:
            if not _speak(first.replica, last.replica):
                continue
            for ahead in numbers:
                left = size - ahead * first.replica.accelerators
                if left < last.replica.accelerators:
                    break
                for count in numbers:
                    need = size - left + count * last.replica.accelerators
                    if need > size:
                        break
                    if need > before:
                        yield (
                            Candidate(
                                kind=site.kind,
                                replica=last.replica,
                                replicas=count,
                                prefill=first.replica,
                                prefill_replicas=ahead,
                            ),
                            ahead < first.replicas or count < last.replicas,
                        )


def _speak(first: Replica, last: Replica) -> bool:
    """Whether one pool can read the other's cache: the formats are the same."""
    a, b = first.service, last.service
    return (a.precision, a.kv_precision) == (b.precision, b.kv_precision)
