"""Seconds of attention on one rank: decodes over their cache, chunks of prompts, linear states."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ridgeline.hardware.kernels import KernelSet
from ridgeline.simulator.roofline import layout
from ridgeline.simulator.roofline.attention import axis_names, corrected
from ridgeline.simulator.roofline.decode import _kernels as decode_kernels
from ridgeline.simulator.roofline.decode.pricing import (
    decode_coordinates,
    decode_shapes,
    set_parameters,
)
from ridgeline.simulator.roofline.device import device_parameters, price_operators
from ridgeline.simulator.roofline.prefill import predict_prefill
from ridgeline.simulator.serving.constants import constants
from ridgeline.simulator.serving.kernel_choice import attention_set, clock_share
from ridgeline.simulator.serving.shape import Shape
from ridgeline.workloads.mixers import BlockSparse
from ridgeline.workloads.parameters import LayerKind

Floats = NDArray[np.float64]

_L2_COLUMN, _KV_BYTES_COLUMN = 3, 4
"""Of ``set_parameters``: bytes of the L2 and of a cached value."""
_STATE_BYTES = 4.0
"""Of an element of a linear layer's state, kept in fp32."""
_SCAN_CHUNK = 64
"""Tokens of a chunk of the parallel scan (Yang et al. 2024, arXiv 2412.06464, section 3.3)."""
_SSD_CHUNK = 128
"""The same of Mamba-2 (``chunk_size`` of Nemotron-H)."""
_SCAN_PASSES = {"gated-delta": 6.0, "mamba2": 6.0, "kimi-delta": 9.0}
"""Times that the scan moves query, key, value and output through memory; decay by channel is moved
with them."""


@dataclass(frozen=True, slots=True)
class Cached:
    """Geometry of the cache as attention of a decode reads it."""

    heads: int
    kv_heads: int
    qk_dim: int
    v_dim: int
    width: int
    """Values kept per token and KV head."""


def cached(s: Shape) -> Cached:
    """Return the cache's geometry: latent rows under MLA, keys and values by head otherwise."""
    a = s.model.attention
    if a.kind == "mla":
        row = a.kv_lora_rank + a.rope_head_dim
        return Cached(s.heads, 1, row, a.kv_lora_rank, row)
    heads = -(-s.heads // s.kv_heads) * s.kv_heads
    return Cached(heads, s.kv_heads, a.head_dim, a.v_head_dim, a.head_dim + a.v_head_dim)


def decode_seconds(s: Shape, kind: LayerKind, batch: Floats, context: Floats) -> Floats:
    """Return the seconds of one layer's attention for one new token of each sequence.

    Parameters
    ----------
    s, kind
        Local sizes, and which layer.
    batch
        float64[N], sequences of the rank, at least 1.
    context
        float64[N], tokens in the cache of each, the new one included.
    """
    if kind.is_linear:
        return _state_seconds(s, batch)
    c, a = cached(s), s.model.attention
    share = kind.form.capacity
    if share < 1.0:
        batch = np.maximum(1.0, batch * share)
    seen = np.maximum(1.0, context * share)
    if a.blocks is not None:
        return _decode_blocks(s, c, a.blocks, batch, seen)
    if not a.index_heads:
        return _decode(s, c, batch, seen, kind.window)
    # the indexer scores every key with one narrow shared key per token, attention reads the best
    index = Cached(a.index_heads, 1, a.index_head_dim, 1, a.index_head_dim)
    picked = np.minimum(seen, a.index_top_k)
    return _decode(s, index, batch, seen, 0) + _decode(s, c, batch, picked, 0)


def _decode_blocks(s: Shape, c: Cached, blocks: BlockSparse, batch: Floats, seen: Floats) -> Floats:
    """Price the branches of native sparse attention: compressed, chosen and near keys."""
    total = _decode(s, c, batch, np.maximum(1.0, seen / blocks.stride), 0)
    for most in (blocks.chosen * blocks.chosen_block, blocks.window):
        total = total + _decode(s, c, batch, np.minimum(seen, float(most)), 0)
    return total


def _decode(s: Shape, c: Cached, batch: Floats, context: Floats, window: int) -> Floats:
    shapes = decode_shapes(
        batch, context, c.heads, c.kv_heads, window, c.qk_dim, c.v_dim, float(c.width)
    )
    chosen = decode_set(s)
    latent = c.width != c.qk_dim + c.v_dim
    if chosen is None or latent:
        streamed = (
            constants().latent_streamed if latent else s.accelerator.efficiency.elementwise_memory
        )
        return _plain_decode(s, c, shapes, streamed)
    values = set_parameters(chosen, s.accelerator).copy()
    values[_KV_BYTES_COLUMN] = s.scheme.kv_bytes
    seconds = np.empty(len(shapes))
    decode_kernels.price(shapes, values, seconds)
    coords = decode_coordinates(shapes, axis_names(chosen.correction))
    seconds = corrected(seconds, coords, chosen.correction)
    # other layers passed through the L2 since this cache was last read, so that none of it is warm
    values[_L2_COLUMN] = 0.0
    least = np.empty(len(shapes))
    decode_kernels.bound(shapes, values, least)
    found: Floats = np.maximum(seconds, least)
    return found


def decode_set(s: Shape) -> KernelSet | None:
    """Return the kernel set of decode attention: the cache's width decides, 16-bit products."""
    dtypes = ("bfloat16/bfloat16", "bfloat16/fp8")
    if s.scheme.kv_bytes < 2.0:
        dtypes = dtypes[::-1]
    return attention_set(s.device, "decode", s.engine.library, dtypes)


def _plain_decode(s: Shape, c: Cached, shapes: Floats, streamed: float) -> Floats:
    """Price decodes without a measured kernel: bytes at a share of HBM bandwidth, or FLOPs."""
    batch, heads, kv_heads, context, window = shapes[:, :5].T
    seen = np.where(window > 0.0, np.minimum(context, window), context)
    accelerator = s.accelerator
    moved = batch * kv_heads * c.width * seen * s.scheme.kv_bytes
    moved += 2.0 * batch * heads * (c.qk_dim + c.v_dim)
    compute_format = s.scheme.plain.compute
    if c.width != c.qk_dim + c.v_dim and s.scheme.kv_bytes < 2.0:
        told = s.engine.latent_precision
        compute_format = told.get(accelerator.family, told.get("default", compute_format))
    row = device_parameters(accelerator, sustained=False)[layout.DTYPES.index(compute_format)]
    flops = 2.0 * batch * heads * seen * (c.qk_dim + c.v_dim)
    compute = flops / (
        row[layout.PEAK] * min(constants().latent_compute, row[layout.ATTENTION_COMPUTE])
    )
    reading = moved / (streamed * accelerator.memory_bytes_per_s)
    least: Floats = row[layout.ATTENTION_LAUNCH] + np.maximum(compute, reading)
    return least


def _state_seconds(s: Shape, batch: Floats) -> Floats:
    """Price a step of gated delta nets: the state is read and written once (arXiv 2412.06464)."""
    bandwidth = s.accelerator.efficiency.elementwise_memory * s.accelerator.memory_bytes_per_s
    moved: Floats = 2.0 * batch * linear_state_bytes(s)
    return s.accelerator.efficiency.elementwise_launch_s + moved / bandwidth


def linear_state_bytes(s: Shape) -> float:
    """Return the bytes of one sequence's state in one linear layer, on one rank."""
    linear = s.model.linear
    if linear is None:
        return 0.0
    heads = max(1, -(-linear.value_heads // s.service.tp))
    return heads * linear.key_head_dim * linear.value_head_dim * _STATE_BYTES


def prefill_seconds(s: Shape, kind: LayerKind, new: Floats, prior: Floats) -> Floats:
    """Return the seconds that a chunk of one prompt adds to one layer's attention.

    One kernel takes all chunks of an iteration (``prompt_launch_seconds`` once), so that prompts
    shorter than the token budget fill the device together: b = max(1, budget/s) prompts of s tokens
    take t0 + b M(s), t0 the launch. A chunk of n tokens behind p others adds its share of the
    scores of a whole prompt of s = n + p, M(s) scores(n, p)/(scores(s, 0) c), with c the clock over
    that of the device measured; behind others at least what one decode over s keys takes.

    Parameters
    ----------
    s, kind
        Local sizes, and which layer.
    new, prior
        float64[N], tokens of the chunk (at least 1), and of the same prompt before them.
    """
    if kind.is_linear:
        return _scan_seconds(s, new)
    a, taken = s.model.attention, kind.form.capacity
    if taken < 1.0:
        new, prior = np.maximum(1.0, new * taken), prior * taken
    if a.blocks is not None:
        return _prefill_blocks(s, a.blocks, new, prior)
    window = a.index_top_k if a.index_heads else kind.window
    length = new + prior
    together = _together(s, length)
    if not s.device:
        chunks = _plain_prefill(s, new, length, window, together, causal=s.model.causal)
        return np.maximum(0.0, chunks - prompt_launch_seconds(s, kind)) / together
    whole, launch = _whole_prompts(s, length, window, together)
    scores = _scores(length, window) - _scores(prior, window)
    if not s.model.causal:
        scores = new * length  # every token of the chunk meets all keys
    share = scores / _scores(length, window)
    clock = clock_share(s.accelerator, s.device, s.scheme.plain.compute)
    chunk = np.maximum(0.0, whole - launch) / together * share / clock
    if not prior.any():
        return chunk
    one = np.ones(len(length))
    least: Floats = np.maximum(chunk, decode_seconds(s, kind, one, length / taken))
    found: Floats = np.where(prior > 0.0, least, chunk)
    return found


def _prefill_blocks(s: Shape, blocks: BlockSparse, new: Floats, prior: Floats) -> Floats:
    """Price the branches of native sparse attention for a chunk of a prompt.

    Each query meets the compressed keys before it, (p + n / 2) / stride on the mean, and two
    windows: chosen blocks and the near one.
    """
    keys, one = np.maximum(1.0, (prior + new / 2.0) / blocks.stride), np.ones(len(new))
    total = _plain_prefill(s, new, keys, 0, one, causal=False)
    for window in (blocks.chosen * blocks.chosen_block, blocks.window):
        total = total + _plain_prefill(s, new, new + prior, window, one)
    return np.maximum(0.0, total - _plain_launch(s))


def prompt_launch_seconds(s: Shape, kind: LayerKind) -> float:
    """Return the launch of one layer's attention in an iteration that holds prompts."""
    a, one = s.model.attention, np.ones(1)
    if kind.is_linear or a.blocks is not None or not s.device:
        return _plain_launch(s)
    return _whole_prompts(s, one, a.index_top_k if a.index_heads else kind.window, one)[1]


def _plain_launch(s: Shape) -> float:
    table = device_parameters(s.accelerator, sustained=False)
    return float(table[layout.DTYPES.index(s.scheme.plain.compute), layout.ATTENTION_LAUNCH])


def _together(s: Shape, length: Floats) -> Floats:
    """Return how many prompts of a length fill the token budget of a rank.

    Where a kernel reads the bias of scores as a tensor, that of one prompt at a time.
    """
    if s.model.position == "alibi" and s.engine.biased_attention_rate < 1.0:
        return np.ones(len(length))
    budget = float(s.service.limits.max_tokens or s.engine.token_budget)
    found: Floats = np.maximum(1.0, np.floor(budget / length))
    return found


def _whole_prompts(s: Shape, length: Floats, window: int, together: Floats) -> tuple[Floats, float]:
    a = s.model.attention
    # two caches of one library at one price where the cache's width has no set of its own
    dtypes = ("bfloat16/bfloat16", "bfloat16/fp8", "fp8/fp8")
    if s.scheme.kv_bytes < 2.0:
        dtypes = ("bfloat16/fp8", "fp8/fp8", "bfloat16/bfloat16")
    chosen = attention_set(s.device, "prefill", s.engine.library, dtypes)
    assert chosen is not None, s.device
    latent = a.kind == "mla"
    kv_heads = s.heads if latent else s.kv_heads
    heads = -(-s.heads // kv_heads) * kv_heads
    head_dim = (a.head_dim + a.v_head_dim) / 2
    seconds = predict_prefill(
        together,
        length,
        heads,
        kv_heads,
        head_dim,
        window,
        kernel_set=chosen,
        accelerator=s.accelerator,
    )
    return seconds, min(chosen.parameters["launch_us"] * 1e-6, float(seconds.min()))


def _scores(tokens: Floats, window: int) -> Floats:
    """Return the scores of whole prompts under the causal mask and window."""
    if window <= 0:
        return 0.5 * tokens * (tokens + 1.0)
    full = np.minimum(tokens, window)
    found: Floats = 0.5 * full * (full + 1.0) + np.maximum(0.0, tokens - window) * window
    return found


def _plain_prefill(
    s: Shape, new: Floats, length: Floats, window: int, together: Floats, *, causal: bool = True
) -> Floats:
    """Price a device without measured attention by the tile or array model of its profile."""
    a = s.model.attention
    kv_heads = s.heads if a.kind == "mla" else s.kv_heads
    heads = -(-s.heads // kv_heads) * kv_heads
    count = len(new)
    dims = np.zeros((count, layout.DIMS), np.int64)
    dims[:, 0], dims[:, 1], dims[:, 2] = together, heads, kv_heads
    dims[:, 3], dims[:, 4] = np.ceil(new), np.ceil(length)
    dims[:, 5], dims[:, 6], dims[:, 7] = a.head_dim, a.v_head_dim, window
    dims[:, 8] = int(s.model.causal and causal)
    extra = np.tile([0.0, 1.0, 1.0], (count, 1))
    dtype = layout.DTYPES.index(s.scheme.plain.compute)
    table = device_parameters(s.accelerator, sustained=False)
    kinds = np.full(count, layout.ATTENTION_FORWARD, np.int8)
    return price_operators(kinds, np.full(count, dtype, np.int8), dims, extra, table)


def _scan_seconds(s: Shape, new: Floats) -> Floats:
    """Price the chunked scan of gated delta nets over a prompt: FLOPs and traffic of its chunks."""
    linear = s.model.linear
    assert linear is not None
    heads = max(1, -(-linear.value_heads // s.service.tp))
    dk, dv = linear.key_head_dim, linear.value_head_dim
    accelerator = s.accelerator
    row = device_parameters(accelerator, sustained=False)[
        layout.DTYPES.index(s.scheme.plain.compute)
    ]
    per_token = 2.0 * heads * (3.0 * dk * dv + _SCAN_CHUNK * (2.0 * dk + 2.0 * dv))
    if linear.kind == "mamba2":
        shared = linear.key_heads / linear.value_heads
        per_token = 2.0 * heads * (2.0 * dk * dv + _SSD_CHUNK * (shared * dk + dv))
    compute = per_token * new / (row[layout.PEAK] * row[layout.ATTENTION_COMPUTE])
    moved = _SCAN_PASSES[linear.kind] * 2.0 * heads * (dk + dv) * new
    streamed = moved / (accelerator.efficiency.elementwise_memory * accelerator.memory_bytes_per_s)
    seconds: Floats = np.maximum(compute, streamed)
    return seconds
