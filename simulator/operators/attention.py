"""The attention core: scores, softmax and weighted sum, fused or not, with context parallelism."""

from __future__ import annotations

from ridgeline.simulator.collectives.layout import ALL_TO_ALL, SEND_RECV
from ridgeline.simulator.operators.products import elementwise
from ridgeline.simulator.operators.shape import Shape
from ridgeline.simulator.operators.sparse import block_core, indexed_core
from ridgeline.simulator.operators.table import BACKWARD, FORWARD, RECOMPUTE, Builder
from ridgeline.simulator.roofline.layout import (
    ATTENTION_BACKWARD,
    ATTENTION_FORWARD,
    GEMM,
    MEMORY,
)
from ridgeline.workloads.flops import mean_keys


def attention_core(b: Builder, s: Shape, index: int) -> None:
    """Add the core of layer ``index`` in the builder's phase; it has no weights."""
    if b.phase not in (FORWARD, RECOMPUTE, BACKWARD):
        return
    a = s.model.attention
    if a.output_gate:
        width, passes = a.heads * a.v_head_dim / s.tp, 5.0 if b.phase == BACKWARD else 3.0
        elementwise(b, s, "output gate", "attention", width, passes, region=False)
    if a.index_heads:
        indexed_core(b, s)
        return
    if a.blocks is not None:
        block_core(b, s)
        return
    if s.stack.attention == "unfused":
        _unfused(b, s, s.model.attention.heads // s.tp, s.seq_len)
        return
    heads, kv_heads = a.heads // s.tp, max(1, a.kv_heads // s.tp)
    backward = b.phase == BACKWARD
    kind = ATTENTION_BACKWARD if backward else ATTENTION_FORWARD
    rate = s.attention_backward if backward else s.attention_forward
    name = "attention gradient" if backward else "attention"
    if s.cp > 1 and s.cp_kind == "ulysses":
        _ulysses(b, s, heads, kv_heads)
        heads, kv_heads = max(1, heads // s.cp), max(1, kv_heads // s.cp)
    window = s.model.window(index)
    # samples that are packed into a sequence are so many shorter ones
    sequences = max(1, round(s.sequences * s.seq_len / s.attended))
    queries, keys, mask = s.attended, s.attended, (window, int(s.model.causal))
    if s.cp > 1 and s.cp_kind == "ring":
        # each rank holds one piece from either end of the sequence, so that all meet as many keys
        queries, mask = max(1, s.attended // s.cp), (0, 0)
        convention = "causal" if s.model.causal else "full"
        keys = max(1, round(mean_keys(s.attended, window, convention)))
    shape = (sequences, heads, kv_heads, queries, keys, a.head_dim, a.v_head_dim)
    b.compute(name, "attention", kind, s.dtype, (*shape, *mask), rate=rate)
    if s.cp > 1 and s.cp_kind == "ring":
        _ring(b, s, kv_heads)


def cross_core(b: Builder, s: Shape) -> None:
    """Add the core of cross-attention: every query meets all keys of the second input."""
    cross, a = s.model.cross, s.model.attention
    assert cross is not None
    heads = (cross.heads or a.heads) // s.tp
    if s.stack.attention == "unfused":
        _unfused(b, s, heads, cross.tokens)
        return
    backward = b.phase == BACKWARD
    kind = ATTENTION_BACKWARD if backward else ATTENTION_FORWARD
    rate = s.attention_backward if backward else s.attention_forward
    name = "cross-attention gradient" if backward else "cross-attention"
    shape = (s.sequences, heads, heads, s.local_seq, cross.tokens, a.head_dim, a.v_head_dim, 0, 0)
    b.compute(name, "attention", kind, s.dtype, shape, rate=rate)


def _ring(b: Builder, s: Shape, kv_heads: int) -> None:
    """Pass keys and values around the context ring (Liu et al. 2023, arXiv 2310.01889).

    Each rank sends its block cp - 1 times; backward also carries the gradients of both.
    """
    a, g = s.model.attention, s.groups.cp
    width = kv_heads * (a.head_dim + a.v_head_dim)
    moved = (s.cp - 1) * s.tokens * width * s.element * (2.0 if b.phase == BACKWARD else 1.0)
    overlap = s.stack.cp_overlap
    b.collective("context ring", "cp", SEND_RECV, moved, g.size, g.stride, overlap=overlap)


def _ulysses(b: Builder, s: Shape, heads: int, kv_heads: int) -> None:
    """Exchange sequence for heads before and behind attention (arXiv 2309.14509)."""
    a, g = s.model.attention, s.groups.cp
    qkv = s.tokens * s.element * (heads * a.head_dim + kv_heads * (a.head_dim + a.v_head_dim))
    out = s.tokens * s.element * heads * a.v_head_dim
    b.collective("ulysses qkv", "cp", ALL_TO_ALL, qkv, g.size, g.stride)
    b.collective("ulysses output", "cp", ALL_TO_ALL, out, g.size, g.stride)


def _unfused(b: Builder, s: Shape, heads: int, keys: int) -> None:
    """Batched matrix products around a fused scale-mask-softmax kernel, scores in memory.

    The whole score matrix is computed: the causal mask saves nothing (Narayanan et al. 2021).
    """
    a = s.model.attention
    d, dv = a.head_dim, a.v_head_dim
    batch, queries = s.sequences * heads, s.local_seq
    scores = batch * queries * keys * s.element
    tokens = s.tokens * heads * d * s.element
    mask = batch * queries * keys * 1.0 if s.stack.dropout else 0.0
    group, rate = "attention", s.stack.aligned_compute(d)
    if b.phase == BACKWARD:
        b.compute("context gradient", group, GEMM, s.dtype, (queries, keys, dv, batch), rate=rate)
        b.compute("value gradient", group, GEMM, s.dtype, (keys, dv, queries, batch), rate=rate)
        if s.stack.dropout:
            b.compute("dropout gradient", group, MEMORY, s.dtype, moved=2.0 * scores + mask)
        b.compute("softmax gradient", group, MEMORY, s.dtype, moved=3.0 * scores)
        b.compute("query gradient", group, GEMM, s.dtype, (queries, d, keys, batch), rate=rate)
        b.compute("key gradient", group, GEMM, s.dtype, (keys, d, queries, batch), rate=rate)
        b.compute("transposes", group, MEMORY, s.dtype, moved=8.0 * tokens)
        return
    b.compute("transposes", group, MEMORY, s.dtype, moved=8.0 * tokens)
    b.compute("scores", group, GEMM, s.dtype, (queries, keys, d, batch), rate=rate)
    b.compute("softmax", group, MEMORY, s.dtype, moved=2.0 * scores)
    if s.stack.dropout:
        b.compute("dropout", group, MEMORY, s.dtype, moved=2.0 * scores + mask)
    b.compute("context", group, GEMM, s.dtype, (queries, dv, keys, batch), rate=rate)
