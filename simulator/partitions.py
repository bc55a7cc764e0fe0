"""ZeRO-3 over slow links: fewer ranks to a copy, second copies nearby, quantized exchange.

Weights, gradients and optimizer may each be shared by their own number of ranks, so that what is
exchanged for every layer stays on fast links; what then lies apart meets once a step. ZeRO++
gathers weights in 8 bits, keeps a second copy in the node for the backward pass and reduces
gradients in 4 bits by an all-to-all inside the node and one between nodes: 0.75 M bytes cross nodes
in place of 3 M, M being the bytes of the weights.

References
----------
Wang et al. 2023, ZeRO++, arXiv:2306.10209, section 3. Xu et al. 2025, Scaling LLM Training on
Frontier with Low-Bandwidth Partitioning, arXiv:2501.04266. Zhang et al. 2022, MiCS,
arXiv:2205.00119.
"""

from __future__ import annotations

from math import prod

import numpy as np
from numpy.typing import NDArray

from ridgeline.hardware.cluster import Cluster, ranks_per_tier
from ridgeline.simulator.collectives import Network, price_collectives
from ridgeline.simulator.collectives.layout import (
    ALL_GATHER,
    ALL_REDUCE,
    ALL_TO_ALL,
    REDUCE_SCATTER,
)
from ridgeline.simulator.groups import Group, Groups
from ridgeline.simulator.plan import Plan
from ridgeline.simulator.roofline.device import price_streams
from ridgeline.simulator.stacks import Stack

Float64 = NDArray[np.float64]

WEIGHT_BYTES = 2.0
"""Of 16-bit training, for which alone this is modelled."""
SCALE_BYTES = 4.0 / 8000.0
"""Per parameter: a float32 scale for up to 8,000 of them (DeepSpeed, partition_parameters.py,
CUDAQuantizer)."""
INT8_BYTES = 1.0 + SCALE_BYTES
INT4_BYTES = 0.5 + SCALE_BYTES


def ranks_in_node(cluster: Cluster, group: Group) -> int:
    """Return how many neighbouring ranks of a group share a node."""
    factors = ranks_per_tier(cluster, group.size, group.stride)
    sizes = [tier.size for tier in cluster.tiers]
    if cluster.torus is not None:
        sizes.insert(0, cluster.torus.size)
    return prod(
        factor for factor, size in zip(factors, sizes, strict=True) if size <= cluster.per_node
    )


def price_partitions(
    plan: Plan,
    dense: Float64,
    pieces: NDArray[np.int64],
    groups: Groups,
    network: Network,
    stack: Stack,
) -> dict[str, list[float]]:
    """Price the exchange of every part of the model.

    Parameters
    ----------
    plan
        With ``parallel.low_bandwidth``, legal.
    dense
        float64[parts], parameters of each part on one accelerator before ZeRO splits them.
    pieces
        int64[parts], into how many collectives an exchange of the part falls.

    Returns
    -------
    dict
        Seconds by part: ``gather``, ``regather`` and ``reduce`` in every micro-batch,
        ``last_reduce`` and ``first_gather`` once a step (``weights.WeightExchange``).
    """
    p, shard = plan.parallel, groups.shard
    device, precision = plan.cluster.accelerator, plan.training.precision

    def wire(operation: int, moved: Float64, group: Group) -> Float64:
        """Return seconds of one collective of ``moved`` bytes for each part, in its pieces."""
        n = len(moved)
        if group.size == 1:
            return np.zeros(n)
        seconds = pieces * price_collectives(
            network,
            np.full(n, operation, np.int8),
            moved / pieces,
            np.full(n, group.size, np.int32),
            np.full(n, group.stride, np.int64),
            sharing=np.full(n, 1.0 / stack.nccl_bandwidth),
        )
        return np.where(moved > 0.0, seconds, 0.0)

    def kernel(moved: Float64) -> Float64:
        return np.where(moved > 0.0, price_streams(moved, precision, device), 0.0)

    def gathered(size: int, *, quantized: bool) -> Float64:
        group = Group(size, shard.stride)
        if not quantized:
            return wire(ALL_GATHER, dense * WEIGHT_BYTES, group)
        made = kernel(dense / size * (WEIGHT_BYTES + INT8_BYTES))
        used = kernel(dense * (INT8_BYTES + WEIGHT_BYTES))
        return made + wire(ALL_GATHER, dense * INT8_BYTES, group) + used

    def scattered(size: int) -> Float64:
        group = Group(size, shard.stride)
        if not p.quantized_gradients:
            return wire(REDUCE_SCATTER, dense * stack.gradient_bytes, group)
        inner = ranks_in_node(plan.cluster, group)
        hops = [hop for hop in (inner, size // inner) if hop > 1]
        held, stride = dense, shard.stride
        seconds = (
            kernel(held * (stack.gradient_bytes + INT4_BYTES)) if hops else np.zeros_like(held)
        )
        for number, hop in enumerate(hops, start=1):
            seconds = seconds + wire(ALL_TO_ALL, held * INT4_BYTES, Group(hop, stride))
            # added up in full width, and quantized again only where it goes on
            width = INT4_BYTES if number < len(hops) else stack.gradient_bytes
            seconds = seconds + kernel(held * INT4_BYTES + held / hop * width)
            held, stride = held / hop, stride * hop
        return seconds

    weight, gradient = p.weight_shard_size or shard.size, p.gradient_shard_size or shard.size
    gather = gathered(weight, quantized=p.quantized_weights)
    regather = gather
    if p.secondary_shard_size:
        # the second copy is of 16 bits, and near
        regather = gathered(p.secondary_shard_size, quantized=False)
    far = Group(shard.size // gradient, shard.stride * gradient)
    last = wire(REDUCE_SCATTER, dense / gradient * stack.gradient_bytes, far)
    copies = dense / shard.size * stack.gradient_bytes
    apart = Group(shard.size // weight, shard.stride * weight)
    return {
        "gather": gather.tolist(),
        "regather": regather.tolist(),
        "reduce": scattered(gradient).tolist(),
        "last_reduce": (last + wire(ALL_REDUCE, copies, groups.replicate)).tolist(),
        "first_gather": wire(ALL_GATHER, dense / weight * WEIGHT_BYTES, apart).tolist(),
    }
