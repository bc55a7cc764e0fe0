"""Templates of the passes of a step: which gather weights, reduce gradients, move copies."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ridgeline.simulator.blocks import Composition, LabelledBlock, Pass, backward_phases
from ridgeline.simulator.costs import Costs
from ridgeline.simulator.host import HostCosts, host_link
from ridgeline.simulator.memory import activation_bytes, memory_facts
from ridgeline.simulator.operators import table as ops
from ridgeline.simulator.operators.build import Parts
from ridgeline.simulator.plan import Plan
from ridgeline.simulator.schedule import FIRST, FORWARD, LAST, ONLY, PAIRED, WEIGHT, WHOLE, Schedule
from ridgeline.simulator.stacks import Stack
from ridgeline.simulator.tasks import COPY, FETCH
from ridgeline.simulator.weights import WeightExchange, part_parameters


def pass_phases(kind: int, variant: int, *, split: bool) -> tuple[int, ...]:
    """Return the phases of the operator table that a pass runs."""
    if kind == FORWARD:
        return (ops.FORWARD,)
    if kind == WEIGHT:
        return (ops.WEIGHT,)
    return backward_phases(split=split and not variant & WHOLE)


def pass_blocks(
    plan: Plan,
    stack_: Stack,
    granularity: str,
    costs: Costs,
    exchange: WeightExchange,
    parts: Parts,
    slices: tuple[Composition, ...],
    schedule: Schedule,
    host: HostCosts | None,
    blocks: list[LabelledBlock],
) -> NDArray[np.int32]:
    """Append the distinct templates to ``blocks`` and return their places, int32[3, V, 16]."""
    found = schedule.distinct()
    block_of = np.full(found.shape, -1, np.int32)
    species: dict[Composition, list[int]] = {}
    for vstage, part in enumerate(schedule.vstage_part.tolist()):
        species.setdefault(slices[part], []).append(vstage)
    copy_s = _copy_seconds(plan, stack_, parts)
    gather_once = plan.parallel.zero_stage >= 1 and stack_.parameter_overlap
    known: dict[tuple[object, ...], int] = {}
    for which, (composition, vstages) in enumerate(species.items()):
        for kind, variant in np.argwhere(found[:, vstages].any(axis=1)).tolist():
            phases = pass_phases(kind, variant, split=schedule.split_backward)
            place = variant & ONLY
            completes = ops.WEIGHT in phases
            if exchange.per_layer:
                gathers, reduces = kind != WEIGHT, completes
            else:
                gathers = gather_once and kind == FORWARD and place in (FIRST, ONLY)
                # sharded gradients (stage 2) leave after every micro-batch
                due = place in (LAST, ONLY) or plan.parallel.zero_stage == 2
                reduces = stack_.gradient_overlap and completes and due
            paired = bool(variant & PAIRED)
            final = place in (LAST, ONLY)
            leaves = host is not None and any(host.out) and completes and (host.every or final)
            adds = leaves and host is not None and host.every and place != ONLY
            updates = leaves and final and host is not None and host.manner == "backward"
            key = (which, phases, gathers, reduces, paired, leaves, adds, updates)
            if key not in known:
                made = Pass(
                    costs=costs,
                    exchange=exchange,
                    granularity=granularity,
                    overlap_slowdown=stack_.overlap_slowdown,
                    num_layer_parts=len(parts.kinds),
                    composition=composition,
                    phases=phases,
                    gathers=gathers,
                    prefetch=exchange.per_layer,
                    gathers_ahead=stack_.backward_prefetch,
                    reduces=reduces,
                    paired=paired,
                    copy_s=copy_s,
                    fetch_stream=COPY if plan.cluster.host is None else FETCH,
                    host=host,
                    leaves=leaves,
                    adds=adds,
                    updates=updates,
                )
                known[key] = len(blocks)
                blocks.append(made.build())
            block_of[kind, vstages, variant] = known[key]
    return block_of


def _copy_seconds(plan: Plan, stack_: Stack, parts: Parts) -> tuple[float, ...]:
    """Return seconds to move a part's kept activations over the host link; empty if they stay."""
    if "activations" not in plan.training.offload:
        return ()
    training, facts = plan.training, memory_facts(stack_)
    kept: list[float] = []
    for (index, _), policy, only_forward in zip(
        parts.kinds, parts.policies, parts.only_forward, strict=True
    ):
        layer = activation_bytes(
            plan.model,
            index,
            seq_len=training.seq_len,
            micro_batch_seqs=training.micro_batch_seqs,
            parallel=plan.parallel,
            recompute=policy,
            precision=training.precision,
            facts=facts,
        )
        kept.append(0.0 if only_forward else layer.stored)
    ends = len(part_parameters(plan, parts)) - len(kept)
    link = host_link(plan)
    return tuple(stored / link for stored in kept) + (0.0,) * ends
