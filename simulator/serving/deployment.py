"""A service as one pool of a larger one, and the links between pools."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from ridgeline.errors import InputError
from ridgeline.hardware import make_cluster
from ridgeline.hardware.cluster import Cluster, Tier
from ridgeline.simulator.serving.iteration import iteration_tables
from ridgeline.simulator.serving.play import Autoscaler, Pool
from ridgeline.simulator.serving.policy import Policy, policy_of
from ridgeline.simulator.serving.service import Service
from ridgeline.simulator.serving.tables import IterationTables


@dataclass(frozen=True, slots=True, kw_only=True)
class Deployment:
    """A service as one pool of a larger one."""

    service: Service
    role: str = "whole"
    """whole, prefill or decode."""
    policy: Policy | None = None
    """None takes the engine's."""
    autoscaler: Autoscaler = field(default_factory=Autoscaler)


def make_pools(
    deployed: Sequence[Deployment], priced: Sequence[IterationTables] = ()
) -> tuple[Pool, ...]:
    """Return the pools of deployments: their tables, policies and the way of KV between them.

    ``priced`` are their tables where these are known already.
    """
    priced = priced or [iteration_tables(one.service) for one in deployed]
    seconds, latency = _transfer(deployed)
    # the end with fewer accelerators has more KV on each link
    moved = max(tables.kv_bytes_per_token for tables in priced)
    return tuple(
        Pool(
            tables=tables,
            policy=one.policy or policy_of(one.service),
            replicas=one.service.replicas,
            role=one.role,
            transfer_s_per_token=moved * seconds,
            transfer_latency_s=latency,
            autoscaler=one.autoscaler,
        )
        for one, tables in zip(deployed, priced, strict=True)
    )


def default_router(pools: Sequence[Pool]) -> str:
    """Return prefix-aware where a pool caches prefixes, else least-loaded."""
    return "prefix-aware" if any(pool.policy.prefix_caching for pool in pools) else "least-loaded"


def _transfer(deployed: Sequence[Deployment]) -> tuple[float, float]:
    """Return seconds a byte and latency of the slowest link between prefill and decode.

    Every accelerator sends its own part of the KV. Where all deployments are on one cluster and fit
    into one scale-up domain of it, over its links, else over the outermost tiers.
    """
    seconds, latency = 0.0, 0.0
    if all(one.role == "whole" for one in deployed):
        return seconds, latency
    clusters = [one.service.cluster for one in deployed]
    together = all(cluster == clusters[0] for cluster in clusters)
    count = sum(one.service.replicas * one.service.replica_accelerators for one in deployed)
    for cluster in clusters:
        if together and not cluster.tiers:
            raise InputError(
                f"cluster {cluster.name!r}: KV moves between slices, and it has one slice only; "
                f"give several, for example {cluster.name}*2"
            )
        inside = together and cluster.tiers[0].size >= count
        tier = cluster.tiers[0] if inside else way_out(cluster)
        seconds = max(seconds, 1.0 / tier.effective_bytes_per_s)
        latency = max(latency, tier.latency_s)
    return seconds, latency


def way_out(cluster: Cluster) -> Tier:
    """Return the network that leaves a cluster; of a single node or slice, that between two."""
    if len(cluster.tiers) > (0 if cluster.torus else 1):
        return cluster.tiers[-1]
    domain = max(cluster.per_node, *(tier.size for tier in cluster.tiers), 1)
    twice = f"{2 * domain}x{cluster.accelerator.name}"
    return make_cluster(f"{cluster.name}*2" if cluster.torus else twice).tiers[-1]
