"""One training step: table, prices, schedule and templates to a timeline."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ridgeline.simulator.blocks import Composition, LabelledBlock, compositions
from ridgeline.simulator.collectives import Network, network, scaled
from ridgeline.simulator.costs import Costs, price_table
from ridgeline.simulator.endings import (
    by_device,
    optimizer_seconds,
    step_heads,
    step_tails,
    transfer_seconds,
)
from ridgeline.simulator.engine import Timeline, play
from ridgeline.simulator.host import HostCosts, price_host
from ridgeline.simulator.matrix_updates import momentum_gather
from ridgeline.simulator.operators.build import (
    Parts,
    build_table,
    pads_experts,
    routed_parts,
)
from ridgeline.simulator.operators.shape import Shape, make_shape
from ridgeline.simulator.passes import pass_blocks
from ridgeline.simulator.plan import Plan
from ridgeline.simulator.recompute_choice import with_chosen_recompute
from ridgeline.simulator.roofline.rungs import MODEL_ALONE, Kernels
from ridgeline.simulator.schedule import Schedule, make_schedule
from ridgeline.simulator.stacks import Stack
from ridgeline.simulator.stages import stage_layers
from ridgeline.simulator.tasks import TaskGraph, expand, stack
from ridgeline.simulator.weights import WeightExchange, price_weights, stack_of_weights


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
    host: HostCosts | None
    """What a host by its profile holds and does."""
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


def plan_schedule(plan: Plan) -> Schedule:
    """Return the order of passes of a plan's step."""
    p, layers = plan.parallel, tuple(count for _, count in stage_layers(plan))
    return make_schedule(schedule_kind(plan), p.pp, p.vpp, plan.micro_batches, layers)


def simulate_step(
    plan: Plan, stack_: Stack, granularity: str = "stage", kernels: Kernels | None = None
) -> Step:
    """Price and play one step of ``plan``."""
    return assemble(price_step(plan, stack_, kernels), granularity)


@dataclass(frozen=True, slots=True, kw_only=True)
class Priced:
    """What a step is made of, before it is laid out and played."""

    plan: Plan
    stack: Stack
    shape: Shape
    parts: Parts
    net: Network
    costs: Costs
    exchange: WeightExchange
    host: HostCosts | None


def price_step(plan: Plan, stack_: Stack, kernels: Kernels | None = None) -> Priced:
    """Price the operators of ``plan`` and its exchange of weights."""
    stack_ = stack_of_weights(plan, stack_)
    plan = with_chosen_recompute(plan, stack_, kernels)
    shape = make_shape(plan, stack_)
    table, parts = build_table(shape, plan.training.recompute)
    net = scaled(network(plan.cluster), stack_.node_bandwidth, stack_.network_bandwidth)
    routed = routed_parts(plan.model, parts)
    accelerator = plan.cluster.accelerator
    return Priced(
        plan=plan,
        stack=stack_,
        shape=shape,
        parts=parts,
        net=net,
        costs=price_table(
            table,
            accelerator,
            net,
            stack_,
            routed,
            kernels or MODEL_ALONE,
            padded=pads_experts(plan.model),
        ),
        exchange=price_weights(plan, parts, shape.groups, net, stack_),
        host=price_host(plan, stack_, parts, shape.groups),
    )


def assemble(
    priced: Priced,
    granularity: str = "stage",
    others: Sequence[Priced] = (),
    kind_of_device: NDArray[np.int32] | None = None,
) -> Step:
    """Lay a priced step out and play it.

    Parameters
    ----------
    others
        The same step priced on other kinds of accelerators, where a pipeline runs across them; of
        the step that is returned, what is not the graph or its timeline is that of ``priced``.
    kind_of_device
        int32[pp], which of ``priced`` (0) and ``others`` (from 1) a stage runs on.
    """
    plan, stack_ = priced.plan, priced.stack
    slices = compositions(plan, priced.parts)
    p = plan.parallel
    schedule = plan_schedule(plan)
    blocks: list[LabelledBlock] = []
    kinds = [_lay_out(one, granularity, slices, schedule, blocks) for one in (priced, *others)]
    optimizer, block_of, head, tail, transfers = kinds[0]
    if kind_of_device is not None:
        for kind, laid in enumerate(kinds):
            mine = kind_of_device == kind
            optimizer = np.where(mine, laid.optimizer, optimizer)
            block_of = np.where(mine[schedule.vstage_device][:, None], laid.passes, block_of)
            head = np.where(mine, laid.heads, head)
            tail = np.where(mine, laid.tails, tail)
            # the slower side of a link sets its pace
            transfers = np.maximum(transfers, laid.transfers)
    templates = stack([b.block for b in blocks], block_of, head, tail)
    blocking = not stack_.transfer_overlap or (p.vpp == 1 and plan.training.schedule in _SERIAL)
    graph = expand(schedule, templates, transfers, blocking)
    return Step(
        plan=plan,
        stack=stack_,
        shape=priced.shape,
        parts=priced.parts,
        slices=slices,
        costs=priced.costs,
        exchange=priced.exchange,
        host=priced.host,
        schedule=schedule,
        graph=graph,
        timeline=play(graph),
        granularity=granularity,
        labels=tuple(label for b in blocks for label in b.labels),
        optimizer_s=optimizer,
    )


class _Layout(NamedTuple):
    """Templates of one kind of accelerator, and seconds that its step tells."""

    optimizer: NDArray[np.float64]
    passes: NDArray[np.int32]
    heads: NDArray[np.int32]
    tails: NDArray[np.int32]
    transfers: NDArray[np.float64]


def _lay_out(
    priced: Priced,
    granularity: str,
    slices: tuple[Composition, ...],
    schedule: Schedule,
    blocks: list[LabelledBlock],
) -> _Layout:
    """Append the templates of one kind."""
    plan, stack_, shape, host = priced.plan, priced.stack, priced.shape, priced.host
    parts, net = priced.parts, priced.net
    optimizer = optimizer_seconds(plan, stack_, parts, slices, schedule, shape.groups)
    passes = pass_blocks(
        plan,
        stack_,
        granularity,
        priced.costs,
        priced.exchange,
        parts,
        slices,
        schedule,
        host,
        blocks,
    )
    heads = step_heads(host, slices, schedule, blocks)
    momentum = by_device(momentum_gather(plan, parts, shape.groups, net, stack_), slices, schedule)
    tails = step_tails(
        plan,
        stack_,
        priced.exchange,
        slices,
        schedule,
        shape,
        net,
        optimizer,
        momentum,
        host,
        blocks,
    )
    return _Layout(
        optimizer=optimizer,
        passes=passes,
        heads=np.array(heads, np.int32),
        tails=np.array(tails, np.int32),
        transfers=transfer_seconds(plan, shape, net, schedule),
    )


_SERIAL = ("gpipe", "1f1b", "interleaved")
"""Schedules whose sends block unless several chunks interleave (Megatron-LM)."""
