"""What to do about a plan that does not fit: changes that help, each simulated, fastest first."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from math import gcd
from typing import Any

from ridgeline.errors import InputError
from ridgeline.hardware import make_cluster
from ridgeline.hardware.cluster import Cluster
from ridgeline.simulator import legality
from ridgeline.simulator.memory import cheapest_changes, memory_facts
from ridgeline.simulator.plan import Parallelism, Plan
from ridgeline.simulator.recompute import OPTIMAL
from ridgeline.simulator.results import TrainingResult
from ridgeline.simulator.stacks import load_stack

MOST = 5
"""Remedies worth reading."""
GROWTH = (2, 4, 8, 16, 32, 64)

Predict = Callable[[Plan], TrainingResult]
Step = tuple[tuple[str, ...], Plan]
"""What was changed, and the plan after it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Remedy:
    """Changes after which a plan fits, and what they cost."""

    changes: tuple[str, ...]
    """Each as ``key: before -> after``."""
    step_time_s: float
    memory_gib: float
    """Of the stage that needs most."""
    accelerators: int
    cost_usd: float
    """Of the whole run, 0 when only a step was asked for."""

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON object of ``docs/json.md``."""
        return asdict(self)


def find_remedies(plan: Plan, predict: Predict, *, limit: float | None = None) -> list[Remedy]:
    """Return changes that make ``plan`` fit: one, else several, else a larger cluster.

    Parameters
    ----------
    plan
        A legal plan that runs out of memory.
    predict
        Simulates a plan; what each remedy costs in time is its word.
    limit
        Bytes that the job has, by default those of the accelerator.

    Returns
    -------
    list of Remedy
        Cheapest first: by accelerator-seconds of a step; at most ``MOST``.
    """
    if plan.training.recompute == OPTIMAL:
        # nothing that memory allowed was left to choose from
        plan = replace(plan, training=replace(plan.training, recompute="full"))
    squeezed = _squeeze(plan)
    for kinds in (
        [[step] for step in _single((), plan, limit)],
        [[squeezed], *([step] for step in _single(*squeezed, limit))],
        _larger(*squeezed),
    ):
        tried = [remedy for kind in kinds if (remedy := _first(kind, predict)) is not None]
        # Two ways of growing may come to the same plan.
        found = {remedy.changes: remedy for remedy in tried}.values()
        if found:
            return sorted(found, key=lambda r: (r.step_time_s * r.accelerators, r.changes))[:MOST]
    return []


def _first(steps: Iterable[Step], predict: Predict) -> Remedy | None:
    """Return the first of ever larger changes of one kind that is legal and fits."""
    for changes, plan in steps:
        if changes and not legality.problems(plan):
            result = predict(plan)
            if result.fits:
                return _remedy(changes, result)
    return None


def _remedy(changes: tuple[str, ...], result: TrainingResult) -> Remedy:
    return Remedy(
        changes=_net(changes),
        step_time_s=result.step_time_s,
        memory_gib=result.worst_memory.total / 2.0**30,
        accelerators=result.accelerators,
        cost_usd=result.cost_usd,
    )


def _net(changes: tuple[str, ...]) -> tuple[str, ...]:
    """Return changes with those of one key joined: from its first value to its last."""
    ends: dict[str, tuple[str, str]] = {}
    for change in changes:
        key, _, values = change.partition(": ")
        before, _, after = values.partition(" -> ")
        ends[key] = (ends.get(key, (before, ""))[0], after)
    return tuple(
        f"{key}: {before} -> {after}" for key, (before, after) in ends.items() if before != after
    )


def _single(before: tuple[str, ...], plan: Plan, limit: float | None) -> list[Step]:
    facts = memory_facts(load_stack(plan.stack))
    return [
        ((*before, change.description), change.plan)
        for change in cheapest_changes(plan, facts, limit=limit)
    ]


def _squeeze(plan: Plan) -> Step:
    """Apply everything that saves memory without another split of the model."""
    parallel, training = plan.parallel, plan.training
    changes: list[str] = []
    if training.recompute != "full":
        changes.append(f"recompute: {training.recompute} -> full")
        training = replace(training, recompute="full")
    if training.micro_batch_seqs > 1:
        changes.append(f"micro_batch_seqs: {training.micro_batch_seqs} -> 1")
        training = replace(training, micro_batch_seqs=1)
    stage = 1 if parallel.pp > 1 else 3
    if parallel.zero_stage < stage and parallel.dp * parallel.cp > 1:
        changes.append(f"zero_stage: {parallel.zero_stage} -> {stage}")
        parallel = replace(parallel, zero_stage=stage)
    if parallel.tp > 1 and not parallel.sp:
        changes.append("sp: false -> true")
        parallel = replace(parallel, sp=True)
    return tuple(changes), replace(plan, parallel=parallel, training=training)


def _larger(before: tuple[str, ...], plan: Plan) -> list[Iterator[Step]]:
    """Return ways to use several times the accelerators, each growing until it fits."""
    if plan.cluster.torus is not None:
        return []
    return [_grown(before, plan, spread) for spread in (_sharded, _piped, _split_in_nodes)]


def _grown(
    before: tuple[str, ...], plan: Plan, spread: Callable[[Parallelism, int, int], Parallelism]
) -> Iterator[Step]:
    cluster, now = plan.cluster, plan.parallel
    for factor in GROWTH:
        count = cluster.count * factor
        grown = resized(cluster, count)
        if grown is None:
            continue
        parallel = spread(now, factor, cluster.per_node)
        changes = [f"accelerators: {cluster.count} -> {count}"]
        for name in ("tp", "pp", "dp", "zero_stage", "sp"):
            old, new = getattr(now, name), getattr(parallel, name)
            if old != new:
                changes.append(f"{name}: {old} -> {new}".lower())
        training = plan.training
        parts = parallel.pp * parallel.vpp
        if plan.model.num_layers % parts and not (training.uneven_stages or training.stage_layers):
            changes.append("uneven_stages: false -> true")
            training = replace(training, uneven_stages=True)
        yield (
            (*before, *changes),
            replace(plan, cluster=grown, parallel=parallel, training=training),
        )


def resized(cluster: Cluster, count: int) -> Cluster | None:
    """Return ``cluster`` with ``count`` accelerators, None when nothing says how it would grow.

    One with a network keeps its links and has more of its outermost tier. A node alone gets the
    network that is usual for it, unless its links are its own: then the network would be, too.
    """
    name = f"{count}x{cluster.accelerator.name}"
    if len(cluster.tiers) > 1 and cluster.nodes > 1:
        tiers = (*cluster.tiers[:-1], replace(cluster.tiers[-1], size=count))
        return replace(cluster, name=name, count=count, tiers=tiers)
    try:
        usual = _usual(cluster, cluster.count)
        same = usual.tiers == cluster.tiers
        return replace(_usual(cluster, count), host=cluster.host) if same else None
    except InputError:
        return None


def _usual(cluster: Cluster, count: int) -> Cluster:
    return make_cluster(f"{count}x{cluster.accelerator.name}", per_node=cluster.per_node)


def _sharded(parallel: Parallelism, factor: int, _per_node: int) -> Parallelism:
    stage = max(1, parallel.zero_stage) if parallel.pp > 1 else 3
    return replace(parallel, dp=parallel.dp * factor, zero_stage=stage)


def _piped(parallel: Parallelism, factor: int, _per_node: int) -> Parallelism:
    return replace(parallel, pp=parallel.pp * factor, zero_stage=min(parallel.zero_stage, 1))


def _split_in_nodes(parallel: Parallelism, factor: int, per_node: int) -> Parallelism:
    """Tensor parallelism over the node as far as data parallelism leaves room, pipeline beyond."""
    wider = gcd(parallel.dp, max(1, per_node // parallel.tp))
    return replace(
        parallel,
        tp=parallel.tp * wider,
        dp=parallel.dp // wider,
        pp=parallel.pp * factor,
        zero_stage=min(parallel.zero_stage, 1),
        sp=True,
    )
