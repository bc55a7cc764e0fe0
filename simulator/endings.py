"""What surrounds the passes of a step: pipeline transfers, optimizer, the end on every device."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from ridgeline.simulator.blocks import BlockBuilder, Composition, HostUpdates, LabelledBlock
from ridgeline.simulator.collectives import Network, price_collectives
from ridgeline.simulator.collectives.layout import ALL_GATHER, ALL_REDUCE, SEND_RECV
from ridgeline.simulator.groups import Groups
from ridgeline.simulator.host import HostCosts
from ridgeline.simulator.matrix_updates import (
    goes_by_matrix,
    host_traffic,
    matrix_work,
    traffic,
)
from ridgeline.simulator.operators.build import Parts
from ridgeline.simulator.operators.shape import Shape
from ridgeline.simulator.plan import Plan
from ridgeline.simulator.roofline.device import price_streams
from ridgeline.simulator.schedule import Schedule
from ridgeline.simulator.stacks import Stack
from ridgeline.simulator.stages import stage_layers
from ridgeline.simulator.tasks import COMPUTE, COPY, FETCH, GRADIENT, NETWORK
from ridgeline.simulator.tuning import trains_embedding
from ridgeline.simulator.weights import WeightExchange, part_parameters

HOST_MEMORY_BYTES_PER_S = 50e9
"""Host DRAM bandwidth for each accelerator: two sockets of eight DDR4-3200 channels (204.8 GB/s
each by their clock) behind eight accelerators."""


def owned_parameters(plan: Plan, parts: Parts, groups: Groups) -> list[float]:
    """Return by part the parameters that one accelerator updates: ZeRO shares them out."""
    sharded = plan.parallel.zero_stage >= 1
    dense_share = groups.shard.size if sharded else 1
    expert_share = groups.edp.size if sharded else 1
    return [
        part.trained_dense / dense_share + part.trained_experts / expert_share
        for part in part_parameters(plan, parts)
    ]


def optimizer_seconds(
    plan: Plan,
    stack_: Stack,
    parts: Parts,
    slices: tuple[Composition, ...],
    schedule: Schedule,
    groups: Groups,
) -> NDArray[np.float64]:
    """Return the time of the optimizer step by device: it moves bytes for every parameter."""
    if plan.training.tuning.forward_only:
        return np.zeros(schedule.devices)
    held = held_parameters(plan, parts, slices, schedule, groups)
    if plan.cluster.host is not None and "optimizer" in plan.training.offload:
        return np.zeros(schedule.devices)  # the host's own work
    if not goes_by_matrix(plan):
        return update_seconds(plan, stack_, held)
    work = matrix_work(plan, stack_, parts, groups)
    moved = by_device(work.moved, slices, schedule)
    return update_seconds(plan, stack_, held, moved) + by_device(work.seconds, slices, schedule)


def held_parameters(
    plan: Plan,
    parts: Parts,
    slices: tuple[Composition, ...],
    schedule: Schedule,
    groups: Groups,
) -> NDArray[np.float64]:
    """Return the parameters whose optimizer state one accelerator of each device keeps."""
    return by_device(owned_parameters(plan, parts, groups), slices, schedule)


def by_device(
    of_part: list[float], slices: tuple[Composition, ...], schedule: Schedule
) -> NDArray[np.float64]:
    """Add up a value of every part of the operator table by device, float64[devices]."""
    by_kind = {
        composition: sum(of_part[part] for unit in composition.units for part in unit)
        for composition in set(slices)
    }
    by_slice = [by_kind[composition] for composition in slices]
    held = np.zeros(schedule.devices)
    np.add.at(held, schedule.vstage_device, np.array(by_slice)[schedule.vstage_part])
    return held


def update_seconds(
    plan: Plan,
    stack_: Stack,
    held: NDArray[np.float64],
    moved: NDArray[np.float64] | None = None,
) -> NDArray[np.float64]:
    """Return the time to update ``held`` float64[n] parameters each, wherever their state lies.

    ``moved`` float64[n] are the bytes of an optimizer that goes by matrix.
    """
    if "optimizer" in plan.training.offload:
        # the state stays in host memory; gradients go down the host link, weights come back up
        weight = 4.0 if plan.training.precision in ("fp32", "tf32") else 2.0
        link = (stack_.gradient_bytes + weight) / plan.cluster.accelerator.host_bytes_per_s
        return held * (link + host_traffic(plan, stack_) / HOST_MEMORY_BYTES_PER_S)
    moved_bytes = held * traffic(plan, stack_) if moved is None else moved
    return price_streams(moved_bytes, plan.training.precision, plan.cluster.accelerator)


def step_tails(
    plan: Plan,
    stack_: Stack,
    exchange: WeightExchange,
    slices: tuple[Composition, ...],
    schedule: Schedule,
    shape: Shape,
    net: Network,
    optimizer: NDArray[np.float64],
    momentum: NDArray[np.float64],
    host: HostCosts | None,
    blocks: list[LabelledBlock],
) -> list[int]:
    """Append what ends the step on every device; return the templates.

    Gradients that did not overlap are reduced, the norm of the gradient joins all stages, the
    optimizer steps (behind the ``momentum`` float64[devices] that it has to gather), and weights
    that do not overlap are gathered.
    """
    world, pp = shape.groups.world, shape.groups.pp
    model = plan.model
    tied = model.tied_embeddings and pp.size > 1 and trains_embedding(plan.training)
    trains = not plan.training.tuning.forward_only
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
    held = parts_by_device(slices, schedule)
    # the devices that hold the embedding and the head; ZB-V has both on one
    ends = [int(schedule.vstage_device[part_of]) for part_of in (0, schedule.parts - 1)]
    known: dict[tuple[object, ...], int] = {}
    tails: list[int] = []
    for device, mine in enumerate(held):
        reduce_s = sum(exchange.reduce[part] for part in mine) if reduce_after else 0.0
        gather_s = sum(exchange.gather[part] for part in mine) if gather_after else 0.0
        reduce_s += sum(exchange.last_reduce[part] for part in mine)
        gather_s += sum(exchange.first_gather[part] for part in mine)
        shares = tied_s if device in ends and len(set(ends)) > 1 else 0.0
        gathered_s, optimizer_s = float(momentum[device]), float(optimizer[device])
        key: tuple[object, ...] = (reduce_s, gather_s, shares, gathered_s, optimizer_s)
        key += (tuple(mine),) if host is not None else ()
        if key not in known:
            b = BlockBuilder()
            last = -1
            if reduce_s:
                last = b.add("reduce gradients", reduce_s, GRADIENT, last)
            if shares:
                last = b.add("reduce tied embedding", shares, NETWORK, last)
            if world.size > 1 and trains:
                last = b.add("gradient norm", norm_s, NETWORK, last, barrier=True)
            if gathered_s:
                last = b.add("gather momentum", gathered_s, GRADIENT, last)
            if host is None or not any(host.update):
                where = COPY if "optimizer" in plan.training.offload else COMPUTE
                last = b.add("optimizer", optimizer_s, where, last)
            else:
                last = _update_on_host(b, host, mine, last)
            if gather_s:
                b.add("gather weights", gather_s, GRADIENT, last)
            known[key] = len(blocks)
            blocks.append(b.build())
        tails.append(known[key])
    return tails


def _update_on_host(b: BlockBuilder, host: HostCosts, mine: list[int], last: int) -> int:
    """Append what is left of the host's work at the end of a step; return where the step ends.

    Behind a backward pass in which every layer was updated that is nothing; where the update is
    delayed the weights that the host has finished beside the step are fetched.
    """
    if host.manner == "after":
        updates = HostUpdates(b, host, [(part,) for part in mine])
        for _ in mine:
            updates.add(last)
        return b.add("end", 0.0, COMPUTE, updates.done[-1], updates.back)
    if host.manner == "delayed" and (back := sum(host.back[part] for part in mine)):
        return b.add("fetch updated weights", back, FETCH, last)
    return b.add("end", 0.0, COMPUTE, last)


def step_heads(
    host: HostCosts | None,
    slices: tuple[Composition, ...],
    schedule: Schedule,
    blocks: list[LabelledBlock],
) -> list[int]:
    """Append what begins the step on every device; return the templates, -1 for none.

    Where the update is delayed, that of the last step's gradients runs on the host beside the
    passes of this one (Ren et al. 2021, section 5.2).
    """
    if host is None or host.manner != "delayed" or not any(host.update):
        return [-1] * schedule.devices
    heads: list[int] = []
    for mine in parts_by_device(slices, schedule):
        b = BlockBuilder()
        enter = b.add("enter", 0.0, COMPUTE)
        beside = replace(host, back=[0.0] * len(host.back))
        updates = HostUpdates(b, beside, [(part,) for part in mine])
        for _ in mine:
            updates.add()
        heads.append(len(blocks))
        blocks.append(b.build(enter))
    return heads


def parts_by_device(slices: tuple[Composition, ...], schedule: Schedule) -> list[list[int]]:
    """Return the parts of the operator table that every device holds."""
    held: list[list[int]] = [[] for _ in range(schedule.devices)]
    for vstage, device in enumerate(schedule.vstage_device.tolist()):
        composition = slices[schedule.vstage_part[vstage]]
        held[device] += [part for unit in composition.units for part in unit]
    return held


def transfer_seconds(
    plan: Plan, shape: Shape, net: Network, schedule: Schedule
) -> NDArray[np.float64]:
    """Return seconds of sending activations on and gradients back, float64[V, 2].

    Tensor ranks send a slice each; without sequence parallelism the receivers gather the slices
    (Narayanan et al. 2021, section 4.1). No gradient goes back to where none is wanted.
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
    home = schedule.vstage_device
    for way, neighbour in enumerate((schedule.vstage_next, schedule.vstage_prev)):
        # where the next chunk is on the same device nothing is sent
        out[(neighbour >= 0) & (home[neighbour] == home), way] = 0.0
    tuning = plan.training.tuning
    if tuning.forward_only or tuning.frozen_layers:
        first = np.array([first for first, _ in stage_layers(plan)])[schedule.vstage_part]
        out[(first <= tuning.frozen_layers) | tuning.forward_only, 1] = 0.0
    return out
