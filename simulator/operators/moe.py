"""Routed experts: router, permutation, all-to-all, grouped matrix products."""

from __future__ import annotations

import math

from ridgeline.simulator.collectives.layout import ALL_GATHER, ALL_TO_ALL, REDUCE_SCATTER
from ridgeline.simulator.operators.gradients import accumulate
from ridgeline.simulator.operators.shape import Shape
from ridgeline.simulator.operators.table import BACKWARD, FORWARD, RECOMPUTE, Builder
from ridgeline.simulator.recompute import Recompute
from ridgeline.simulator.roofline.layout import DTYPES, FP4, FP8, GEMM, GROUPED_GEMM, MEMORY
from ridgeline.workloads.model import MoE


def rank_load(moe: MoE, ep: int) -> tuple[float, float]:
    """Return (load of the busiest expert rank over the mean, skew inside it).

    Experts lie on ranks in order; without a histogram routing is balanced.
    """
    if not moe.load or moe.capacity_factor:
        return 1.0, 1.0
    total, per_rank = math.fsum(moe.load), moe.num_experts // ep
    ranks = [moe.load[r * per_rank : (r + 1) * per_rank] for r in range(ep)]
    busiest = max(ranks, key=math.fsum)
    load = math.fsum(busiest)
    return load * ep / total, max(busiest) * per_rank / load


def experts(b: Builder, s: Shape, moe: MoE, again: Recompute) -> None:
    """Add the routed experts in the builder's phase."""
    if b.phase == RECOMPUTE and not (again.mlp or again.activation):
        return
    h, etp = s.model.hidden, s.etp
    own = max(1, s.tokens // s.tp)
    busiest, skew = rank_load(moe, s.ep)
    capacity = moe.capacity_factor or 1.0
    pairs = max(1, round(own * moe.top_k * etp * capacity * busiest))
    sent = own * moe.top_k * capacity * h * s.element
    local = max(1, moe.num_experts // s.ep)
    width = max(1, moe.ffn_hidden // etp)
    up = 2 * width if s.model.gated_mlp else width

    def memory(name: str, elements: float) -> None:
        moved = elements * s.element * s.stack.moe_elementwise_factor
        b.compute(name, "moe", MEMORY, s.dtype, moved=moved)

    def passes(name: str, moved: float) -> None:
        if moved and not fused:
            b.compute(name, "moe", MEMORY, s.dtype, moved=moved)

    def exchange(name: str) -> None:
        t = s.groups.etp
        _exchange(b, s, moe, name, own * capacity)
        operation = (
            ALL_GATHER if name.startswith(("dispatch", "combine gradient")) else REDUCE_SCATTER
        )
        b.collective(f"{name} expert-tensor", "ep", operation, sent * etp, t.size, t.stride)

    fused = s.stack.fused_experts

    def grouped(name: str, n: int, k: int, moved: float = 0.0, *, cast: bool = True) -> None:
        kind = s.linear_dtype
        written = s.cast_bytes(kind) if cast else 0.0
        if written and b.phase in (FORWARD, RECOMPUTE, BACKWARD):
            b.compute(f"{name} cast", "cast", MEMORY, s.dtype, moved=written * pairs * k)
        shape = (pairs, n, k, local)
        rate = s.stack.moe_rate
        b.compute(name, "moe", GROUPED_GEMM, kind, shape, moved=moved, rate=rate, skew=skew)

    clamp = pairs * width * s.element if moe.clamped else 0.0
    bias = float(pairs * h) if moe.expert_bias else 0.0
    if b.phase == RECOMPUTE and not again.mlp:
        passes("experts clamp", clamp * s.stack.clamp_passes)
        memory("experts activation", pairs * (up + width))
    elif b.phase in (FORWARD, RECOMPUTE):
        b.compute("router", "moe", GEMM, s.dtype, (own, moe.num_experts, h, 1))
        memory("permute", own * h + own * moe.top_k * capacity * h)
        exchange("dispatch")
        grouped("experts up", up, h)
        passes("experts clamp", clamp * s.stack.clamp_passes)
        if not fused:
            memory("experts activation", pairs * (up + width))
        grouped("experts down", h, width, cast=not fused)
        passes("experts bias", bias * s.stack.expert_bias_bytes)
        exchange("combine")
        memory("unpermute", own * h + own * moe.top_k * capacity * h)
    elif b.phase == BACKWARD:
        memory("unpermute gradient", own * h + own * moe.top_k * capacity * h)
        exchange("combine gradient")
        passes("experts bias gradient", bias * s.stack.expert_bias_gradient_bytes)
        grouped("experts down dgrad", width, h)
        if not fused:
            memory("experts activation gradient", pairs * (2 * up + width))
        passes("experts clamp gradient", clamp * s.stack.clamp_gradient_passes)
        grouped("experts up dgrad", h, up, cast=not fused)
        exchange("dispatch gradient")
        memory("permute gradient", own * h + own * moe.top_k * capacity * h)
        b.compute("router dgrad", "moe", GEMM, s.dtype, (own, h, moe.num_experts, 1))
    elif not s.frozen:
        # each expert's weight gradient is its own (n, k) product over its tokens: the groups
        # multiply the tiles and the inner dimension is the tokens of one expert
        per_expert = max(1, pairs // local)
        slower = s.stack.weight_gradient_compute(DTYPES[s.linear_dtype])
        rate = s.stack.moe_rate * slower
        moved = s.fused_accumulation_bytes * local * width * h
        shape = (h, width, per_expert, local)
        b.compute(
            "experts down wgrad",
            "moe",
            GEMM,
            s.linear_dtype,
            shape,
            moved=moved,
            rate=rate,
        )
        moved = s.fused_accumulation_bytes * local * up * h
        shape = (up, h, per_expert, local)
        b.compute(
            "experts up wgrad",
            "moe",
            GEMM,
            s.linear_dtype,
            shape,
            moved=moved,
            rate=rate,
        )
        accumulate(b, s, "experts", float(local) * (up + width) * h)
        shape = (moe.num_experts, h, own, 1)
        b.compute("router wgrad", "moe", GEMM, s.dtype, shape)


def _exchange(b: Builder, s: Shape, moe: MoE, name: str, tokens: float) -> None:
    """Send tokens to their experts, or results back.

    ``by-node`` sends a token once to each node that holds one of its experts and spreads it there
    over the fast links, once to each rank; both run at the same time, so the slower one counts
    (DeepSeek-V3, section 3.2.2). Of n nodes or ranks, k experts at random reach
    n (1 - (1 - 1/n)^k).
    """
    g, overlap = s.groups.ep, s.stack.ep_overlap
    quantised = s.linear_dtype in (FP8, FP4) and s.stack.fp8_dispatch
    to_experts = name in ("dispatch", "combine gradient")
    moved = tokens * s.model.hidden * (1.0 if quantised and to_experts else s.element)
    if s.stack.expert_dispatch == "all-to-all":
        b.collective(name, "ep", ALL_TO_ALL, moved * moe.top_k, g.size, g.stride, overlap=overlap)
        return
    outer = s.ep // s.ep_inner
    nodes = min(outer, moe.top_groups or outer)
    inside = moved * _reached(nodes * s.ep_inner, moe.top_k)
    if outer == 1:
        b.collective(name, "ep", ALL_TO_ALL, inside, g.size, g.stride, overlap=overlap)
        return
    reached = _reached(nodes, moe.top_k)
    if moved * reached * s.ep_slow_links >= inside:
        stride = g.stride * s.ep_inner
        b.collective(name, "ep", ALL_TO_ALL, moved * reached, outer, stride, overlap=overlap)
    else:
        b.collective(name, "ep", ALL_TO_ALL, inside, s.ep_inner, g.stride, overlap=overlap)


def _reached(places: int, top_k: int) -> float:
    """Return how many of ``places`` hold one of a token's experts, on average."""
    return places * (1.0 - (1.0 - 1.0 / places) ** top_k)
