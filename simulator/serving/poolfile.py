"""The pools of a plan file: one or two on [cluster], or those that [[serving.pool]] lists."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ridgeline.errors import InputError
from ridgeline.hardware import make_cluster
from ridgeline.hardware.cluster import Cluster
from ridgeline.simulator.plan import Money
from ridgeline.simulator.plan_lookup import check_provider
from ridgeline.simulator.plan_mistakes import Mistakes, without_subject
from ridgeline.simulator.plan_schema import PoolSection, ServiceFile, ServingSection
from ridgeline.simulator.serving.deployment import Deployment
from ridgeline.simulator.serving.play import Autoscaler
from ridgeline.simulator.serving.policy import policy_of
from ridgeline.simulator.serving.service import Limits, Service, Speculation
from ridgeline.simulator.serving.variants import Adapters, Exits, FineTune, KvBudget, Users
from ridgeline.workloads.model import Model

_ALONE = ("replicas", "prefill_replicas", "least_replicas", "load_per_replica")
"""Keys of [serving] that say of its pool what a list of pools says of each."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Place:
    """A pool and where it stands."""

    pool: PoolSection
    key: str
    """What complaints call its keys: serving, or serving.pool[0]."""
    service: Service
    shared: bool
    """On [cluster], beside other pools."""


def read_pools(
    parsed: ServiceFile,
    model: Model,
    cluster: Cluster,
    money: Money,
    where: Path | None,
    mistakes: Mistakes,
) -> tuple[Deployment, ...]:
    """Return what is deployed; what cannot be is told to ``mistakes``.

    Parameters
    ----------
    parsed
        The file; keys that a pool leaves out are those of its [serving] and [parallel].
    model, cluster, money
        That its sections name.
    where
        The file, whose name is the service's where it gives none.
    """
    name = parsed.name or (where.stem if where is not None else "")
    places = []
    for key, pool in _listed(parsed, mistakes):
        ground = cluster if pool.cluster is None else _cluster(pool.cluster, key, mistakes)
        if ground is None:
            continue
        paid = money
        if pool.usd_per_accelerator_hour:
            paid = replace(money, usd_per_accelerator_hour=pool.usd_per_accelerator_hour)
        check_provider(paid, ground.accelerator, mistakes)
        service = replace(_service(parsed, pool, model, ground), money=paid, name=name)
        places.append(_Place(pool=pool, key=key, service=service, shared=pool.cluster is None))
    replicas = _replicas(places, mistakes)
    roles = {place.pool.role for place in places}
    if places and roles not in ({"whole"}, {"prefill", "decode"}):
        mistakes.add("serving.pool", None, "pools are all whole, or some prefill and some decode")
    if roles != {"whole"} and any(place.pool.load_per_replica for place in places):
        rule = "separate prefill and decode pools are not scaled; leave one of them out"
        mistakes.add("serving.load_per_replica", None, rule)
    if mistakes.lines:
        return ()
    return tuple(
        _deployment(parsed, place, count) for place, count in zip(places, replicas, strict=True)
    )


def _listed(parsed: ServiceFile, mistakes: Mistakes) -> list[tuple[str, PoolSection]]:
    """Return the pools with what complaints call them."""
    s = parsed.serving
    if s.pool:
        for name in _ALONE:
            if getattr(s, name):
                rule = "say it in each [[serving.pool]]"
                mistakes.add(f"serving.{name}", getattr(s, name), rule)
        return [(f"serving.pool[{i}]", pool) for i, pool in enumerate(s.pool)]
    main = PoolSection(
        role="decode" if s.prefill_replicas else "whole",
        replicas=s.replicas,
        least_replicas=s.least_replicas,
        load_per_replica=s.load_per_replica,
    )
    if not s.prefill_replicas:
        return [("serving", main)]
    return [
        ("serving", PoolSection(role="prefill", replicas=s.prefill_replicas)),
        ("serving", main),
    ]


def _cluster(spec: str, key: str, mistakes: Mistakes) -> Cluster | None:
    try:
        return make_cluster(spec)
    except InputError as error:
        for line in error.problems:
            mistakes.add(f"{key}.cluster", spec, without_subject(line))
    return None


def _service(parsed: ServiceFile, pool: PoolSection, model: Model, cluster: Cluster) -> Service:
    s, parallel = parsed.serving, parsed.parallel
    return Service(
        model=model,
        cluster=cluster,
        engine=pool.engine or s.engine,
        precision=pool.precision or s.precision,
        kv_precision=s.kv_precision if pool.kv_precision is None else pool.kv_precision,
        tp=pool.tp or parallel.tp,
        pp=pool.pp or parallel.pp,
        dp=pool.dp or parallel.dp or 1,
        ep=pool.ep or parallel.ep,
        limits=Limits(
            max_sequences=pool.max_sequences or s.max_sequences,
            max_tokens=pool.max_tokens or s.max_tokens,
            chunked_prefill=s.chunked_prefill,
            memory_fraction=pool.memory_fraction or s.memory_fraction,
            block_tokens=s.block_tokens,
            preemption=s.preemption,
            prefix_caching=s.prefix_caching,
            fair_every=s.fair_every,
            swap_blocks=s.swap_blocks,
            swap_call_s=s.swap_call_s,
        ),
        speculation=Speculation(
            tokens=s.draft_tokens, acceptance=s.acceptance, draft_layers=s.draft_layers
        ),
        **_variants(s),
    )


def _variants(s: ServingSection) -> dict[str, Any]:
    """Return how the service departs from plain decoding."""
    return {
        "kv_budget": KvBudget(
            tokens=s.kv_budget_tokens,
            layers=tuple(s.kv_layer_budgets),
            full_every=s.kv_full_every,
            context=0 if s.trace or not s.kv_budget_tokens else s.input_len + s.output_len,
        ),
        "exits": Exits(layers=tuple(s.exit_layers), shares=tuple(s.exit_shares), kv=s.exit_kv),
        "adapters": Adapters(
            count=s.adapters,
            rank=s.adapter_rank,
            targets=s.adapter_targets,
            slots=s.adapter_slots,
            skew=s.adapter_skew,
        ),
        "finetune": FineTune(
            rank=s.finetune_rank,
            targets=s.finetune_targets,
            seq_len=s.finetune_seq_len,
            iteration_s=s.finetune_iteration_s,
        ),
        "users": Users(count=s.users, skew=s.user_skew),
        "kv_predictor": s.kv_predictor,
    }


def _replicas(places: Sequence[_Place], mistakes: Mistakes) -> list[int]:
    """Return the replicas of each pool; one that gives none takes what its cluster has left."""
    counts = []
    for place in places:
        cluster, ranks = place.service.cluster, place.service.replica_accelerators
        others = [one for one in places if one is not place and one.shared and place.shared]
        taken = sum(
            (other.pool.replicas or 0) * other.service.replica_accelerators for other in others
        )
        room = (cluster.count - taken) // ranks
        count = place.pool.replicas or room
        counts.append(count)
        if cluster.count < ranks:
            split = "parallel" if place.key == "serving" else place.key
            mistakes.add_line(
                f"{split}.tp = {place.service.tp}: a replica takes tp x pp x dp = {ranks} "
                f"accelerators, and {cluster.name} has {cluster.count}"
            )
        elif any(not other.pool.replicas for other in others) and not place.pool.replicas:
            rule = f"several pools share {cluster.name}; say how many each has"
            mistakes.add(f"{place.key}.replicas", None, rule)
        elif count < 1 or count > room:
            beside = f" beside the {taken} accelerators of other pools" if taken else ""
            mistakes.add(
                f"{place.key}.replicas",
                place.pool.replicas,
                f"of {ranks} accelerators each: {cluster.name} has room for {max(0, room)}{beside}",
            )
    return counts


def _deployment(parsed: ServiceFile, place: _Place, replicas: int) -> Deployment:
    s, pool = parsed.serving, place.pool
    policy = replace(
        policy_of(place.service), host_cache_tokens=s.host_cache_tokens, max_queue=s.max_queue
    )
    scaler = Autoscaler(
        least=min(replicas, pool.least_replicas or 1),
        load_per_replica=pool.load_per_replica,
        start_up_s=s.start_up_s,
    )
    return Deployment(
        service=replace(place.service, replicas=replicas),
        role=pool.role,
        policy=policy,
        autoscaler=scaler,
    )
