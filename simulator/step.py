"""One training step: schedule and templates to a timeline, and where its time goes."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ridgeline.simulator.blocks import (
    BlockBuilder,
    Composition,
    LabelledBlock,
    Pass,
    backward_phases,
    compositions,
    slice_seconds,
)
from ridgeline.simulator.collectives import Network, network, price_collectives
from ridgeline.simulator.collectives.layout import ALL_GATHER, ALL_REDUCE, SEND_RECV
from ridgeline.simulator.costs import LABELS, Costs, price_table
from ridgeline.simulator.engine import Timeline, busy_and_gaps, play
from ridgeline.simulator.groups import Groups
from ridgeline.simulator.memory import activation_bytes, memory_facts
from ridgeline.simulator.operators import table as ops
from ridgeline.simulator.operators.build import Parts, build_table
from ridgeline.simulator.operators.shape import Shape, make_shape
from ridgeline.simulator.plan import Plan
from ridgeline.simulator.recompute import known_recompute
from ridgeline.simulator.roofline.device import price_operators
from ridgeline.simulator.roofline.layout import BF16, DIMS, EXTRAS, FP32, MEMORY
from ridgeline.simulator.schedule import (
    FIRST,
    FORWARD,
    LAST,
    ONLY,
    PAIRED,
    WEIGHT,
    WHOLE,
    Schedule,
    make_schedule,
)
from ridgeline.simulator.stacks import Stack
from ridgeline.simulator.tasks import (
    COMPUTE,
    COPY,
    GRADIENT,
    NETWORK,
    TRANSFER,
    TaskGraph,
    expand,
    stack,
)
from ridgeline.simulator.weights import WeightExchange, part_parameters, price_weights


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """A played step and everything it was made of."""

    plan: Plan
    stack: Stack
    shape: Shape
    parts: Parts
    slices: tuple[Composition, ...]
    costs: Costs
    exchange: WeightExchange
    schedule: Schedule
    graph: TaskGraph
    timeline: Timeline
    granularity: str
    labels: tuple[str, ...]
    """Of the templates' operators, row by row."""
    optimizer_s: NDArray[np.float64]
    """float64[pp], the optimizer's own time by stage."""

    @property
    def seconds(self) -> float:
        """Step time with what surrounds the timeline: host work, stragglers."""
        accelerators = self.plan.cluster.count
        doublings = math.log2(max(1.0, accelerators / self.plan.cluster.per_node))
        jitter = 1.0 + self.stack.scale_jitter * doublings
        return self.timeline.makespan * jitter + self.stack.host_step_s


def schedule_kind(plan: Plan) -> str:
    """Return the schedule's name; interleaving one chunk is 1F1B."""
    kind = plan.training.schedule
    return "interleaved" if plan.parallel.vpp > 1 and kind == "1f1b" else kind


def simulate_step(plan: Plan, stack_: Stack, granularity: str = "stage") -> Step:
    """Price and play one step of ``plan``."""
    shape = make_shape(plan, stack_)
    table, parts = build_table(shape, plan.training.recompute)
    net = network(plan.cluster)
    costs = price_table(table, plan.cluster.accelerator, net, stack_, len(parts.kinds))
    exchange = price_weights(plan, parts, shape.groups, net, stack_)
    slices = compositions(plan, parts)
    p = plan.parallel
    schedule = make_schedule(schedule_kind(plan), p.pp, p.vpp, plan.micro_batches)
    optimizer = _optimizer_seconds(plan, stack_, parts, slices, schedule, shape.groups)
    blocks: list[LabelledBlock] = []
    block_of = _pass_blocks(
        plan, stack_, granularity, costs, exchange, parts, slices, schedule, blocks
    )
    tail = _tails(plan, stack_, exchange, slices, schedule, shape, net, optimizer, blocks)
    templates = stack(
        [b.block for b in blocks], block_of, np.full(p.pp, -1, np.int32), np.array(tail, np.int32)
    )
    blocking = not stack_.transfer_overlap or (p.vpp == 1 and plan.training.schedule in _SERIAL)
    graph = expand(schedule, templates, _transfers(shape, net, schedule), blocking)
    return Step(
        plan=plan,
        stack=stack_,
        shape=shape,
        parts=parts,
        slices=slices,
        costs=costs,
        exchange=exchange,
        schedule=schedule,
        graph=graph,
        timeline=play(graph),
        granularity=granularity,
        labels=tuple(label for b in blocks for label in b.labels),
        optimizer_s=optimizer,
    )


HOST_MEMORY_BYTES_PER_S = 50e9
"""Host DRAM bandwidth for each accelerator: two sockets of eight DDR4-3200 channels (204.8 GB/s
each by their clock) behind eight accelerators."""
_SERIAL = ("gpipe", "1f1b", "interleaved")
"""Schedules whose sends block unless several chunks interleave (Megatron-LM)."""


def pass_phases(kind: int, variant: int, *, split: bool) -> tuple[int, ...]:
    """Return the phases of the operator table that a pass runs."""
    if kind == FORWARD:
        return (ops.FORWARD,)
    if kind == WEIGHT:
        return (ops.WEIGHT,)
    return backward_phases(split=split and not variant & WHOLE)


def _pass_blocks(
    plan: Plan,
    stack_: Stack,
    granularity: str,
    costs: Costs,
    exchange: WeightExchange,
    parts: Parts,
    slices: tuple[Composition, ...],
    schedule: Schedule,
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
    for composition, vstages in species.items():
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
            key = (composition, phases, gathers, reduces, paired)
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
                    reduces=reduces,
                    paired=paired,
                    copy_s=copy_s,
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
    _, scope = known_recompute(training.recompute)
    kept: list[float] = []
    for index, again in parts.kinds:
        policy = training.recompute
        if scope.mode in ("every", "first"):
            policy = "full" if again else "none"
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
        kept.append(layer.stored)
    ends = len(part_parameters(plan, parts)) - len(kept)
    link = plan.cluster.accelerator.host_bytes_per_s
    return tuple(stored / link for stored in kept) + (0.0,) * ends


def _optimizer_seconds(
    plan: Plan,
    stack_: Stack,
    parts: Parts,
    slices: tuple[Composition, ...],
    schedule: Schedule,
    groups: Groups,
) -> NDArray[np.float64]:
    """Return the time of the optimizer step by device: it moves bytes for every parameter."""
    local = part_parameters(plan, parts)
    sharded = plan.parallel.zero_stage >= 1
    dense_share = groups.shard.size if sharded else 1
    expert_share = groups.edp.size if sharded else 1
    by_slice = [
        sum(
            local[part].dense / dense_share + local[part].experts / expert_share
            for unit in composition.units
            for part in unit
        )
        for composition in slices
    ]
    held = np.zeros(schedule.devices)
    np.add.at(held, schedule.vstage_device, np.array(by_slice)[schedule.vstage_part])
    n = schedule.devices
    extra = np.ones((n, EXTRAS))
    extra[:, 0] = held * stack_.optimizer_bytes
    if "optimizer" in plan.training.offload:
        # the state stays in host memory; gradients go down the host link, weights come back up
        weight = 4.0 if plan.training.precision in ("fp32", "tf32") else 2.0
        link = (stack_.gradient_bytes + weight) / plan.cluster.accelerator.host_bytes_per_s
        return held * (link + stack_.optimizer_bytes / HOST_MEMORY_BYTES_PER_S)
    dtype = FP32 if plan.training.precision in ("fp32", "tf32") else BF16
    accelerator = plan.cluster.accelerator
    return price_operators(
        np.full(n, MEMORY, np.int8),
        np.full(n, FP32 if "bf16" not in accelerator.peak_flops else dtype, np.int8),
        np.zeros((n, DIMS), np.int64),
        extra,
        accelerator,
    )


def _tails(
    plan: Plan,
    stack_: Stack,
    exchange: WeightExchange,
    slices: tuple[Composition, ...],
    schedule: Schedule,
    shape: Shape,
    net: Network,
    optimizer: NDArray[np.float64],
    blocks: list[LabelledBlock],
) -> list[int]:
    """Append what ends the step on every device; return the templates.

    Gradients that did not overlap are reduced, the norm of the gradient joins all stages, the
    optimizer steps, and weights that do not overlap are gathered.
    """
    world, pp = shape.groups.world, shape.groups.pp
    model = plan.model
    tied = model.tied_embeddings and pp.size > 1
    table_bytes = model.vocab * model.hidden / shape.tp * stack_.gradient_bytes
    norm_s, tied_s = price_collectives(
        net,
        [ALL_REDUCE, ALL_REDUCE],
        [8.0, table_bytes],
        [world.size, 2 if tied else 1],
        [1, pp.stride * (pp.size - 1) if tied else 1],
    ).tolist()
    once = not exchange.per_layer
    reduce_after = once and not stack_.gradient_overlap
    gather_after = once and plan.parallel.zero_stage >= 1 and not stack_.parameter_overlap
    held: list[list[int]] = [[] for _ in range(schedule.devices)]
    for vstage, device in enumerate(schedule.vstage_device.tolist()):
        composition = slices[schedule.vstage_part[vstage]]
        held[device] += [part for unit in composition.units for part in unit]
    known: dict[tuple[float, ...], int] = {}
    tails: list[int] = []
    for device, mine in enumerate(held):
        reduce_s = sum(exchange.reduce[part] for part in mine) if reduce_after else 0.0
        gather_s = sum(exchange.gather[part] for part in mine) if gather_after else 0.0
        shares = tied_s if device in (0, schedule.devices - 1) else 0.0
        key = (reduce_s, gather_s, shares, float(optimizer[device]))
        if key not in known:
            b = BlockBuilder()
            last = -1
            if reduce_s:
                last = b.add("reduce gradients", reduce_s, GRADIENT, last)
            if shares:
                last = b.add("reduce tied embedding", shares, NETWORK, last)
            if world.size > 1:
                last = b.add("gradient norm", norm_s, NETWORK, last, barrier=True)
            where = COPY if "optimizer" in plan.training.offload else COMPUTE
            last = b.add("optimizer", float(optimizer[device]), where, last)
            if gather_s:
                b.add("gather weights", gather_s, GRADIENT, last)
            known[key] = len(blocks)
            blocks.append(b.build())
        tails.append(known[key])
    return tails


def _transfers(shape: Shape, net: Network, schedule: Schedule) -> NDArray[np.float64]:
    """Return seconds of sending activations on and gradients back, float64[V, 2].

    Tensor ranks send a slice each; without sequence parallelism the receivers gather the slices
    (Narayanan et al. 2021, section 4.1).
    """
    pp, tp = shape.groups.pp, shape.groups.tp
    out = np.zeros((schedule.vstages, 2))
    if pp.size == 1:
        return out
    whole = shape.tokens * shape.model.hidden * shape.element
    send, gather = price_collectives(
        net,
        [SEND_RECV, ALL_GATHER],
        [whole / shape.tp, whole],
        [pp.size, tp.size],
        [pp.stride, tp.stride],
    )
    out[:] = send + (0.0 if shape.sp else gather)
    return out


@dataclass(frozen=True, slots=True, kw_only=True)
class StepTime:
    """Average seconds of a stage by what it spends them on; they add up to the step."""

    groups: dict[str, float]
    exposed_s: float
    bubble_s: float


def account(step: Step) -> StepTime:
    """Say where the time of a step goes, averaged over the pipeline stages.

    A stage's step is its passes (with the communication inside them that nothing hides), the
    optimizer, waits for gradients, weights and transfers (``engine.busy_and_gaps``), host work,
    and what is left: the bubble.
    """
    schedule, costs = step.schedule, step.costs
    devices = schedule.devices
    sums = np.zeros(len(LABELS))
    codes = (schedule.pass_kind.astype(np.int64) * schedule.vstages + schedule.vstage) * 16
    counts = np.bincount(codes + schedule.variant, minlength=3 * schedule.vstages * 16)
    counts = counts.reshape(3, schedule.vstages, 16)
    totals: dict[tuple[Composition, tuple[int, ...], bool], int] = {}
    for kind, vstage, variant in np.argwhere(counts).tolist():
        phases = pass_phases(kind, variant, split=schedule.split_backward)
        key = (step.slices[schedule.vstage_part[vstage]], phases, bool(variant & PAIRED))
        totals[key] = totals.get(key, 0) + int(counts[kind, vstage, variant])
    ep = LABELS.index("exposed ep")
    for (composition, phases, paired), times in totals.items():
        seconds = slice_seconds(costs, composition, phases)
        if paired:
            rest = float(seconds.sum() - seconds[ep])
            seconds[ep] = max(0.0, float(seconds[ep]) - rest)
        sums += times * seconds
    groups = {label: float(s) / devices for label, s in zip(LABELS, sums, strict=True) if s > 0.0}
    offloaded = "optimizer" in step.plan.training.offload
    groups["optimizer"] = 0.0 if offloaded else float(step.optimizer_s.mean())
    inside = sum(seconds for name, seconds in groups.items() if name.startswith("exposed"))
    apart = inside if step.granularity == "operator" else 0.0
    usage = busy_and_gaps(step.graph, step.timeline, devices)
    waits = usage.exposed.mean(axis=0)
    # an operator timeline waits for collectives that a pass already counts; what is left of the
    # network ends the step: gradient norm, tied embedding
    ending = max(0.0, float(waits[NETWORK]) - apart)
    contention = float(usage.busy.mean()) - (sum(groups.values()) - apart)
    groups["exposed dp"] = float(waits[GRADIENT]) + ending + max(0.0, contention)
    groups["exposed pp"] = float(waits[TRANSFER])
    groups["exposed host copies"] = float(waits[COPY])
    groups["host"] = groups.get("host", 0.0) + step.seconds - step.timeline.makespan
    groups["bubble"] = max(0.0, step.seconds - sum(groups.values()))
    groups = {name: seconds for name, seconds in groups.items() if seconds > 0.0}
    exposed = sum(seconds for name, seconds in groups.items() if name.startswith("exposed"))
    return StepTime(groups=groups, exposed_s=exposed, bubble_s=groups.get("bubble", 0.0))
