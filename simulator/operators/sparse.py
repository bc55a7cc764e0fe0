"""Attention that meets chosen keys alone, in training: by token (DSA) or by block (NSA).

Shapes: s sequence, H heads and g key-value heads of a rank, d and dv their dimensions. Each query
reads keys of its own, but neighbours choose nearly the same ones and find them in the L2: reads
are counted as those of a window as long.
"""

from __future__ import annotations

from ridgeline.simulator.operators.products import elementwise, linear
from ridgeline.simulator.operators.shape import Shape
from ridgeline.simulator.operators.table import BACKWARD, FORWARD, RECOMPUTE, Builder
from ridgeline.simulator.roofline.layout import (
    ATTENTION_BACKWARD,
    ATTENTION_FORWARD,
    FUSED,
    GEMM,
    MEMORY,
)
from ridgeline.workloads.flops import mean_keys


def index_projections(b: Builder, s: Shape) -> None:
    """Add the indexer's queries from the query's latent, its key and its weights by head.

    Every tensor rank keeps all of it and runs it for its own tokens.
    """
    a = s.model.attention
    if not a.index_heads:
        return
    queries = a.index_heads * a.index_head_dim
    linear(b, s, "index query", "attention", s.region_tokens, queries, a.q_lora_rank)
    width = a.index_head_dim + a.index_heads
    linear(b, s, "index key", "attention", s.region_tokens, width, s.model.hidden)


def folds(s: Shape) -> bool:
    """Whether attention behind an indexer runs over latents rather than masked over all heads.

    Keys that are picked one by one are met in the multi-query form, whose key has rank + rope
    numbers and whose value rank; short sequences are computed whole under the indexer's mask
    (DeepSeek-V3.2, section 2): whichever multiplies less.
    """
    a = s.model.attention
    if not a.index_heads or a.kind != "mla":
        return False
    picked = min(a.index_top_k, s.seq_len) * (2 * a.kv_lora_rank + a.rope_head_dim)
    return picked < mean_keys(s.seq_len, 0, "causal") * (a.head_dim + a.v_head_dim)


def branch_gates(b: Builder, s: Shape) -> None:
    """Add the gates of block-sparse attention's branches, three a head."""
    a = s.model.attention
    if a.blocks is not None:
        width = 3 * a.heads // s.tp
        linear(b, s, "branch gates", "attention", s.tokens, width, s.model.hidden)


def indexed_core(b: Builder, s: Shape) -> None:
    """Add the lightning indexer and attention over the keys that it picks (DeepSeek-V3.2).

    All heads of the indexer score every key before a query in fp8 where the plan has it, the best
    ``index_top_k`` are picked, and attention meets these alone, over latents; or all under their
    mask (``folds``).
    """
    a, backward = s.model.attention, b.phase == BACKWARD
    mean = max(1, round(mean_keys(s.seq_len, 0, "causal")))
    picked = min(a.index_top_k, s.seq_len)
    rows = max(1, s.region_tokens)
    if b.phase in (FORWARD, RECOMPUTE):
        # scores are added up over heads as they come, kept in fp32 and read to pick the best
        dims = (rows, mean, a.index_head_dim, a.index_heads)
        written = 4.0 * rows * mean
        b.compute("index scores", "attention", FUSED, s.linear_dtype, dims, moved=written)
        b.compute("index top-k", "attention", MEMORY, s.dtype, moved=written)
    else:
        # the indexer is trained towards attention's own weights over the picked keys
        dims = (rows, picked, a.index_head_dim, 2 * a.index_heads)
        read = 4.0 * rows * picked
        b.compute("index scores gradient", "attention", FUSED, s.dtype, dims, moved=read)
    heads = max(1, a.heads // s.tp)
    if not folds(s):
        kind = ATTENTION_BACKWARD if backward else ATTENTION_FORWARD
        rate = s.attention_backward if backward else s.attention_forward
        kv_heads = heads if a.kind == "mla" else max(1, a.kv_heads // s.tp)
        shape = (s.sequences, heads, kv_heads, s.seq_len, s.seq_len, a.head_dim, a.v_head_dim, 0, 1)
        name = "masked attention gradient" if backward else "masked attention"
        b.compute(name, "attention", kind, s.dtype, shape, rate=rate)
        return
    width, value = a.kv_lora_rank + a.rope_head_dim, a.kv_lora_rank
    kind = ATTENTION_BACKWARD if backward else ATTENTION_FORWARD
    rate = s.attention_backward if backward else s.attention_forward
    window = picked if picked < s.seq_len else 0
    dims_of = (s.sequences, heads, 1, s.seq_len, s.seq_len, width, value, window, 1)
    name = "sparse attention gradient" if backward else "sparse attention"
    b.compute(name, "attention", kind, s.dtype, dims_of, rate=rate)
    folded = [
        (s.tokens, value, a.head_dim - a.rope_head_dim, heads),
        (s.tokens, a.v_head_dim, value, heads),
    ]
    for place, (m, n, k, batch) in enumerate(folded):
        side = ("queries", "outputs")[place]
        if not backward:
            b.compute(f"latent {side}", "attention", GEMM, s.dtype, (m, n, k, batch))
        else:
            b.compute(f"latent {side} dgrad", "attention", GEMM, s.dtype, (m, k, n, batch))
            b.compute(f"latent {side} wgrad", "attention", GEMM, s.dtype, (n, k, m, batch))


def block_core(b: Builder, s: Shape) -> None:
    """Add the three branches of native sparse attention (Yuan et al. 2025, arXiv:2502.11089).

    Keys and values are compressed by blocks; queries meet the compressed ones before them, whose
    scores choose blocks; they meet the chosen blocks, and the window before them.
    """
    a, backward = s.model.attention, b.phase == BACKWARD
    blocks = a.blocks
    assert blocks is not None
    heads, kv_heads = a.heads // s.tp, max(1, a.kv_heads // s.tp)
    kind = ATTENTION_BACKWARD if backward else ATTENTION_FORWARD
    rate = s.attention_backward if backward else s.attention_forward
    suffix = " gradient" if backward else ""
    compressed = max(1, s.seq_len // blocks.stride)
    for what, dim in (("keys", a.head_dim), ("values", a.v_head_dim)):
        rows = max(1, s.sequences * compressed * kv_heads)
        inner = blocks.block * dim
        shapes = [(rows, dim, inner, 1)]
        if backward:
            shapes = [(rows, inner, dim, 1), (dim, inner, rows, 1)]
        for shape in shapes:
            b.compute(f"compressed {what}{suffix}", "attention", GEMM, s.dtype, shape)
    mean = max(1, round(mean_keys(compressed, 0, "causal")))
    chosen = min(s.seq_len, blocks.chosen * blocks.chosen_block)
    branches = [("compressed", mean, 0, 0), ("chosen", s.seq_len, chosen, 1)]
    branches += [("window", s.seq_len, min(s.seq_len, blocks.window), 1)]
    for name, keys, window, causal in branches:
        dims = (s.sequences, heads, kv_heads, s.seq_len, keys, a.head_dim, a.v_head_dim)
        mask = (0 if window == s.seq_len else window, causal)
        b.compute(
            f"{name} attention{suffix}", "attention", kind, s.dtype, (*dims, *mask), rate=rate
        )
    if not backward:
        # scores of compressed keys are added up over a group of heads, and the best blocks chosen
        scored = 4.0 * s.tokens * kv_heads * mean
        b.compute("block choice", "attention", MEMORY, s.dtype, moved=2.0 * scored)
    width = heads * a.v_head_dim
    passes = 7.0 if backward else 4.0
    elementwise(b, s, f"branch sum{suffix}", "attention", width, passes, region=False)
