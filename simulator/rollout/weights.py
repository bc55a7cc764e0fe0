"""New weights on their way from the optimizer to the engines that sample with them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ridgeline.simulator.collectives import network, price_collectives
from ridgeline.simulator.collectives.layout import ALL_GATHER, BROADCAST
from ridgeline.simulator.plan import Plan
from ridgeline.simulator.results import MemoryShare
from ridgeline.simulator.rollout.generation import rollout_service
from ridgeline.simulator.serving.deployment import way_out
from ridgeline.simulator.serving.engines import load_engine
from ridgeline.simulator.tuning import trained_parameters

WEIGHT_BYTES = {"fp16": 2.0, "bf16": 2.0, "fp8": 1.0}
"""Bytes of a weight as an engine takes it; fp8 is quantised before it is sent."""


def sync_seconds(plan: Plan) -> float:
    """Return seconds until every replica has the weights that an update has changed.

    Between two pools three things go on at once, and the slowest counts: every training accelerator
    sends an equal part out of its cluster, the accelerators of a first replica receive theirs, and
    they broadcast them to the other replicas. On one cluster each accelerator gathers what its
    replica needs of it from those that hold the parts. Frozen weights stay where they are.
    """
    asked, parallel = plan.rollout, plan.parallel
    assert asked is not None
    moved = trained_parameters(plan) * WEIGHT_BYTES[asked.precision]
    ways = asked.tp * asked.pp
    if asked.cluster is None:
        split = max(parallel.tp, parallel.ep * parallel.expert_tp if parallel.ep > 1 else 1)
        holders = split * parallel.pp
        if parallel.zero_stage == 3:
            holders = plan.cluster.count
        size = max(1, min(holders // ways, plan.cluster.count))
        if size == 1:
            return 0.0
        stride = plan.cluster.count // holders if parallel.zero_stage < 3 else 1
        return _collective(plan, ALL_GATHER, moved / ways, size, max(1, stride))
    out, into = way_out(plan.cluster), way_out(asked.cluster)
    sent = moved / plan.cluster.count / out.effective_bytes_per_s + out.latency_s
    received = moved / ways / into.effective_bytes_per_s + into.latency_s
    replicas = rollout_service(plan).replicas
    spread = _collective(plan, BROADCAST, moved / ways, replicas, ways) if replicas > 1 else 0.0
    return max(sent, received, spread)


def _collective(plan: Plan, operation: int, moved: float, size: int, stride: int) -> float:
    assert plan.rollout is not None
    net = network(plan.rollout.cluster or plan.cluster)
    codes = np.array([operation], np.int8)
    return float(price_collectives(net, codes, [moved], [size], [stride])[0])


def swap_seconds(plan: Plan, memory: Sequence[MemoryShare]) -> float:
    """Return seconds in which a shared accelerator moves training's state to the host and back.

    Weights, gradients and optimizer make room for the engine's weights and cache while it samples,
    as far as both do not fit; the engine's own are dropped and sent anew.
    """
    if plan.rollout is None or plan.rollout.cluster is not None:
        return 0.0
    accelerator, asked = plan.cluster.accelerator, plan.rollout
    share = asked.memory_fraction or load_engine(asked.engine).memory_fraction
    engine = share * accelerator.memory_bytes
    moved = [
        min(state, max(0.0, state + stage.framework + engine - accelerator.memory_bytes))
        for stage in memory
        for state in (stage.weights + stage.gradients + stage.optimizer,)
    ]
    return 2.0 * max(moved) / accelerator.host_bytes_per_s
