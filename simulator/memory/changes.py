"""What would make a plan fit: the smallest single changes, cheapest kind first."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from ridgeline.simulator.legality import problems
from ridgeline.simulator.memory.facts import MemoryFacts
from ridgeline.simulator.memory.stage import stage_memory
from ridgeline.simulator.plan import Plan
from ridgeline.simulator.schedule import make_schedule
from ridgeline.simulator.stages import stage_layers


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One change of a plan after which it fits."""

    description: str
    plan: Plan
    saved: float
    """Bytes that the worst stage needs less."""
    total: float
    """Bytes that the worst stage then needs."""


def worst_stage_bytes(plan: Plan, facts: MemoryFacts) -> float:
    """Return what the stage that needs most takes, bytes per accelerator."""
    parallel = plan.parallel
    schedule = make_schedule(
        plan.training.schedule,
        parallel.pp,
        parallel.vpp,
        plan.micro_batches,
        tuple(count for _, count in stage_layers(plan)),
    )
    return max(share.total for share in stage_memory(plan, schedule, facts))


def cheapest_changes(
    plan: Plan, facts: MemoryFacts, *, limit: float | None = None
) -> tuple[Change, ...]:
    """Return single changes that make ``plan`` fit, the kind that costs least time first.

    Of each kind (more recomputation, smaller micro-batches, more sharding of state, then more
    tensor, pipeline and context parallelism out of the data-parallel ranks) the smallest step
    that fits is returned. What each costs in time is for a simulation of its plan to say.

    Parameters
    ----------
    plan, facts
        The plan and the memory facts of its stack.
    limit
        Bytes available, by default those of the accelerator.
    """
    available = plan.cluster.accelerator.memory_bytes if limit is None else limit
    now = worst_stage_bytes(plan, facts)
    found: list[Change] = []
    for kind in _kinds(plan):
        for description, candidate in kind:
            if problems(candidate):
                continue
            total = worst_stage_bytes(candidate, facts)
            if total <= available:
                found.append(
                    Change(description=description, plan=candidate, saved=now - total, total=total)
                )
                break
    return tuple(found)


def _kinds(plan: Plan) -> tuple[Iterator[tuple[str, Plan]], ...]:
    return (
        _recompute(plan, "selective"),
        _recompute(plan, "full"),
        _micro_batch(plan),
        _zero(plan),
        _tensor(plan),
        _instead_of_data(plan, "pp"),
        _instead_of_data(plan, "cp"),
    )


def _recompute(plan: Plan, policy: str) -> Iterator[tuple[str, Plan]]:
    now = plan.training.recompute
    if now not in ("full", policy) and (policy == "full" or now == "none"):
        yield (
            f"recompute: {now} -> {policy}",
            replace(plan, training=replace(plan.training, recompute=policy)),
        )


def _micro_batch(plan: Plan) -> Iterator[tuple[str, Plan]]:
    now = plan.training.micro_batch_seqs
    for size in range(now - 1, 0, -1):
        if now % size == 0:
            yield (
                f"micro_batch_seqs: {now} -> {size}",
                replace(plan, training=replace(plan.training, micro_batch_seqs=size)),
            )


def _zero(plan: Plan) -> Iterator[tuple[str, Plan]]:
    parallel = plan.parallel
    if parallel.dp * parallel.cp == 1:
        return
    # with a pipeline, gradients and weights are used by every micro-batch: only stage 1 pays
    last = 1 if parallel.pp > 1 else 3
    for stage in range(parallel.zero_stage + 1, last + 1):
        yield (
            f"zero_stage: {parallel.zero_stage} -> {stage}",
            replace(plan, parallel=replace(parallel, zero_stage=stage)),
        )


def _factors(dp: int) -> Iterator[int]:
    factor = 2
    while dp % factor == 0:
        yield factor
        factor *= 2


def _tensor(plan: Plan) -> Iterator[tuple[str, Plan]]:
    parallel = plan.parallel
    for factor in _factors(parallel.dp):
        tp = parallel.tp * factor
        if tp > plan.cluster.per_node:
            return
        wider = replace(parallel, tp=tp, dp=parallel.dp // factor, sp=True)
        yield f"tp: {parallel.tp} -> {tp}", replace(plan, parallel=wider)


def _instead_of_data(plan: Plan, way: str) -> Iterator[tuple[str, Plan]]:
    """Give accelerators of data parallelism to another way, ``pp`` or ``cp``."""
    parallel = plan.parallel
    now = getattr(parallel, way)
    for factor in _factors(parallel.dp):
        ways: dict[str, Any] = {"dp": parallel.dp // factor, way: now * factor}
        yield f"{way}: {now} -> {ways[way]}", replace(plan, parallel=replace(parallel, **ways))
