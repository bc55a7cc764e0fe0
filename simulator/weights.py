"""Communication of weights and gradients between the copies of a model.

Two manners. ``fsdp`` (also ZeRO-3): each layer's weights are gathered before they are used and its
gradients reduced behind its backward pass, in every micro-batch (Zhao et al. 2023, arXiv
2304.11277; Rajbhandari et al. 2020, arXiv 1910.02054). ``megatron``: gradients are reduced once a
step, and under a sharded optimizer the new weights are gathered once.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from ridgeline.simulator.collectives import Network, price_collectives
from ridgeline.simulator.collectives.layout import ALL_GATHER, ALL_REDUCE, REDUCE_SCATTER
from ridgeline.simulator.groups import Group, Groups
from ridgeline.simulator.identity import ByIdentity
from ridgeline.simulator.operators.build import Parts
from ridgeline.simulator.partitions import price_partitions
from ridgeline.simulator.plan import Plan
from ridgeline.simulator.stacks import Stack
from ridgeline.simulator.tuning import (
    added_parameters,
    freezes_layers,
    side_head_parameters,
    trains_embedding,
    trains_head,
)
from ridgeline.workloads.parameters import layer_parameters
from ridgeline.workloads.towers import (
    head_parameters,
    input_parameters,
    outer_parameters,
    owner,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightExchange:
    """Seconds by part of the operator table; zero where there is nothing to exchange."""

    per_layer: bool
    """True for fsdp: ``gather`` and ``reduce`` recur in every micro-batch."""
    gather: list[float]
    """[parts] to gather the weights once."""
    regather: list[float]
    """[parts] to gather them again for the backward pass (full shard only)."""
    reduce: list[float]
    """[parts] to reduce the gradients once."""
    last_reduce: list[float]
    """[parts] to reduce them on at the end of a step, where the optimizer is sharded further."""
    first_gather: list[float]
    """[parts] to spread new weights from there to those who share a copy."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalParameters:
    """Parameters of a part on one accelerator before ZeRO splits them."""

    dense: float
    experts: float
    matrices: int = 1
    """Weight matrices that the dense ones are in."""
    adapters: float | None = None
    """Parameters that alone are trained, mostly adapters; None where every weight is."""
    quantised_bits: float = 0.0
    """Bits of a weight as it is stored and gathered; 0 for those of training."""

    @property
    def trained_dense(self) -> float:
        """Parameters outside experts that have gradients."""
        return self.dense if self.adapters is None else self.adapters

    @property
    def trained_experts(self) -> float:
        """Parameters of experts that have gradients."""
        return self.experts if self.adapters is None else 0.0


_LOCAL = ByIdentity[tuple[LocalParameters, ...]](64)


def part_parameters(plan: Plan, parts: Parts) -> tuple[LocalParameters, ...]:
    """Return the local parameters of every part, split over tensor and expert ranks."""
    return _LOCAL.of((plan, parts), lambda: _part_parameters(plan, parts))


def _part_parameters(plan: Plan, parts: Parts) -> tuple[LocalParameters, ...]:
    model, p = plan.model, plan.parallel
    shard = p.ep * p.expert_tp
    rows: list[LocalParameters] = []
    for (whole_index, _), only_forward in zip(parts.kinds, parts.only_forward, strict=True):
        stack, index, tower = owner(model, whole_index)
        count = layer_parameters(stack, index)
        split = count.attention + count.mlp + count.shared_experts + count.table
        dense = split / p.tp + count.router + count.norms
        experts = count.routed_experts / shard
        # qkv, output, up, down; the gate is a matrix of its own
        matrices = 5 if stack.gated_mlp else 4
        matrices += 3 if stack.cross is not None else 0
        rows.append(
            LocalParameters(
                dense=dense,
                experts=experts,
                matrices=matrices,
                adapters=_adapters(plan, index, only_forward=only_forward),
                quantised_bits=0.0 if tower else plan.training.tuning.quantised_bits,
            )
        )
    table = model.vocab * model.hidden / p.tp
    positions = model.learned_positions * model.hidden + input_parameters(model)
    first = None if trains_embedding(plan.training) else 0.0
    last = None if trains_head(model, plan.training) else side_head_parameters(model, plan.training)
    rows.append(LocalParameters(dense=table + positions, experts=0.0, adapters=first))
    shared = model.tied_embeddings and p.pp == 1
    head = (0.0 if shared else table) + head_parameters(model)
    rows.append(LocalParameters(dense=head, experts=0.0, adapters=last))
    if parts.prediction >= 0:
        projection = 2.0 * model.hidden**2
        rows.append(LocalParameters(dense=projection, experts=0.0, adapters=last))
    for tower in model.towers:
        inside, projector = float(outer_parameters(tower.model)), tower.projector_parameters
        trained_ends = None if tower.trained else float(projector)
        rows.append(LocalParameters(dense=inside + projector, experts=0.0, adapters=trained_ends))
    return tuple(rows)


def _adapters(plan: Plan, index: int, *, only_forward: bool) -> float | None:
    """Return what alone is trained of a layer on one rank, None where every weight is."""
    t, model = plan.training, plan.model
    if only_forward and not t.tuning.side_reduction:
        return 0.0
    if not freezes_layers(t):
        return None
    # a kind of layer is named by its first, which itself may have no backward pass
    trained = replace(t, tuning=replace(t.tuning, frozen_layers=0))
    return added_parameters(model, index, trained, plan.parallel.tp)


def stack_of_weights(plan: Plan, stack: Stack) -> Stack:
    """Return the stack as it is where there are no fp32 weights: gradients have 16 bits too."""
    if plan.training.master_weights:
        return stack
    return replace(
        stack,
        gradient_bytes=min(stack.gradient_bytes, 2.0),
        accumulation_bytes=min(stack.accumulation_bytes, 2.0),
        bf16_gradient_bytes=0.0,
    )


def is_per_layer(plan: Plan, stack: Stack) -> bool:
    """Whether weights are gathered layer by layer."""
    stage = plan.parallel.zero_stage
    return stage == 3 or (stage == 2 and stack.sharding == "fsdp")


def price_weights(
    plan: Plan, parts: Parts, groups: Groups, network: Network, stack: Stack
) -> WeightExchange:
    """Price the exchange of every part."""
    local = part_parameters(plan, parts)
    if plan.parallel.low_bandwidth:
        dense = np.array([part.dense for part in local])
        pieces = np.array([part.matrices for part in local])
        if stack.sharding_unit != "matrix":
            pieces = np.ones_like(pieces)
        partitioned = price_partitions(plan, dense, pieces, groups, network, stack)
        return WeightExchange(per_layer=True, **partitioned)
    stage, per_layer = plan.parallel.zero_stage, is_per_layer(plan, stack)
    weight = 4.0 if plan.training.precision in ("fp32", "tf32") else 2.0
    sharded = stage >= 1 or per_layer
    rows: list[tuple[int, float, int, int]] = []

    def add(operation: int, moved: float, group: Group) -> None:
        rows.append((operation, moved if group.size > 1 else 0.0, group.size, group.stride))

    gradient, reduce = stack.gradient_bytes, REDUCE_SCATTER if sharded else ALL_REDUCE
    if stack.promotes(plan.training.precision) and stage <= 1:
        # the accumulators are whole on every copy, and so is their sum
        gradient, reduce = stack.bf16_gradient_bytes, ALL_REDUCE
    # DualPipe holds every slice twice, on the mirrored stages of the pipeline
    twice = plan.training.schedule == "dualpipe" and groups.pp.size > 1
    mirror = Group(2 if twice else 1, groups.pp.stride * max(1, groups.pp.size - 1))
    for part in local:
        # where layers are gathered for use all of them is, else what the optimizer has changed
        each = part.quantised_bits / 8.0 if per_layer and part.quantised_bits else weight
        add(ALL_GATHER, (part.dense if per_layer else part.trained_dense) * each, groups.shard)
        add(ALL_GATHER, (part.experts if per_layer else part.trained_experts) * weight, groups.edp)
        add(reduce, part.trained_dense * gradient, groups.shard)
        add(ALL_REDUCE, part.trained_dense * gradient / groups.shard.size, groups.replicate)
        add(reduce, part.trained_experts * gradient, groups.edp)
        owned = part.trained_dense / groups.shard.size + part.trained_experts / groups.edp.size
        add(ALL_REDUCE, owned * gradient, mirror)
    operation, moved, size, stride = (np.array(column) for column in zip(*rows, strict=True))
    # a layer at once, or matrix after matrix, each with the latency of a collective
    apart = per_layer and stack.sharding_unit == "matrix"
    pieces = np.repeat([part.matrices if apart else 1 for part in local], len(rows) // len(local))
    seconds = pieces * price_collectives(
        network,
        operation.astype(np.int8),
        moved / pieces,
        size.astype(np.int32),
        stride.astype(np.int64),
        sharing=np.full(len(rows), 1.0 / stack.nccl_bandwidth),
    )
    # a group of one, or a part without parameters, sends nothing
    seconds = np.where((moved > 0.0) & (size > 1), seconds, 0.0).reshape(len(local), 6)
    if not sharded:  # plain data parallelism: the whole gradient over all copies
        seconds[:, 3] = 0.0
    nothing = [0.0] * len(local)
    ends = (False,) * (len(local) - len(parts.kinds))
    kept = [not forward for forward in (*parts.only_forward, *ends)]
    gather = (seconds[:, 0] + seconds[:, 1]).tolist() if sharded else nothing
    return WeightExchange(
        per_layer=per_layer,
        gather=gather,
        regather=[g * back for g, back in zip(gather, kept, strict=True)]
        if per_layer and stage == 3
        else nothing,
        reduce=seconds[:, 2:].sum(axis=1).tolist(),
        last_reduce=nothing,
        first_gather=nothing,
    )
