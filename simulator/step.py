"""One training step: table, prices, schedule and templates to a timeline."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ridgeline.simulator.blocks import Composition, LabelledBlock, compositions
from ridgeline.simulator.collectives import network, scaled
from ridgeline.simulator.costs import Costs, price_table
from ridgeline.simulator.endings import optimizer_seconds, step_tails, transfer_seconds
from ridgeline.simulator.engine import Timeline, play
from ridgeline.simulator.operators.build import Parts, build_table, routed_parts
from ridgeline.simulator.operators.shape import Shape, make_shape
from ridgeline.simulator.passes import pass_blocks
from ridgeline.simulator.plan import Plan
from ridgeline.simulator.roofline.rungs import MODEL_ALONE, Kernels
from ridgeline.simulator.schedule import Schedule, make_schedule
from ridgeline.simulator.stacks import Stack
from ridgeline.simulator.tasks import TaskGraph, expand, stack
from ridgeline.simulator.weights import WeightExchange, price_weights


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


def simulate_step(
    plan: Plan, stack_: Stack, granularity: str = "stage", kernels: Kernels | None = None
) -> Step:
    """Price and play one step of ``plan``."""
    shape = make_shape(plan, stack_)
    table, parts = build_table(shape, plan.training.recompute)
    net = scaled(network(plan.cluster), stack_.node_bandwidth, stack_.network_bandwidth)
    routed = routed_parts(plan.model, parts)
    accelerator = plan.cluster.accelerator
    costs = price_table(table, accelerator, net, stack_, routed, kernels or MODEL_ALONE)
    exchange = price_weights(plan, parts, shape.groups, net, stack_)
    slices = compositions(plan, parts)
    p = plan.parallel
    schedule = make_schedule(schedule_kind(plan), p.pp, p.vpp, plan.micro_batches)
    optimizer = optimizer_seconds(plan, stack_, parts, slices, schedule, shape.groups)
    blocks: list[LabelledBlock] = []
    block_of = pass_blocks(
        plan, stack_, granularity, costs, exchange, parts, slices, schedule, blocks
    )
    tail = step_tails(plan, stack_, exchange, slices, schedule, shape, net, optimizer, blocks)
    templates = stack(
        [b.block for b in blocks], block_of, np.full(p.pp, -1, np.int32), np.array(tail, np.int32)
    )
    blocking = not stack_.transfer_overlap or (p.vpp == 1 and plan.training.schedule in _SERIAL)
    graph = expand(schedule, templates, transfer_seconds(shape, net, schedule), blocking)
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


_SERIAL = ("gpipe", "1f1b", "interleaved")
"""Schedules whose sends block unless several chunks interleave (Megatron-LM)."""
