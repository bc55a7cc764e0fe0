"""Linear attention in training: projections, short convolution, chunked scan, gated norm.

Shapes: T tokens of a rank, H value heads and G key heads of a rank, K and V their dimensions, C
tokens of a chunk, N = T / C chunks.
"""

from __future__ import annotations

from math import ceil

from ridgeline.simulator.operators.products import elementwise, linear
from ridgeline.simulator.operators.shape import Shape
from ridgeline.simulator.operators.table import BACKWARD, FORWARD, RECOMPUTE, Builder
from ridgeline.simulator.roofline.layout import FUSED
from ridgeline.workloads.mixers import convolved, fan_out, input_width
from ridgeline.workloads.model import LinearAttention

CHUNKS = {"gated-delta": 64, "kimi-delta": 64, "mamba2": 128}
"""C of the published kernels: 64 (flash-linear-attention), 128 (``chunk_size`` of Nemotron-H)."""
_STATE_BYTES = 4.0
_INTRA = {"gated-delta": 1, "kimi-delta": 2}
"""Products K K^T by chunk: two where decay by channel weighs both sides of each (arXiv:2510.26692,
section 3)."""


def scan_products(
    linear_attention: LinearAttention, tokens: int, tp: int
) -> list[tuple[str, int, int, int, int]]:
    """Return the batched products of a forward scan as (kernel, m, n, k, batch).

    In a chunk queries meet keys (C x C x K a key head, or a value head under the delta rule, whose
    decay differs by head) and the scores the values (C x V x C); the state is read (C x V x K) and
    fed (K x V x C) once a chunk. The delta rule also multiplies keys with keys, turns the
    triangular matrix that comes of it to keys and values (C x K x C and C x V x C: the WY form)
    and reads the state by the new keys (C x V x K) (Dao and Gu 2024, arXiv:2405.21060, section 6;
    Yang et al. 2024, arXiv:2412.06464, section 3.3).
    """
    a = linear_attention
    chunk, chunks = _chunks(a, tokens)
    heads = max(1, a.value_heads // tp)
    groups = max(1, a.key_heads // tp) if a.kind == "mamba2" else heads
    keys, values, per_head = a.key_head_dim, a.value_head_dim, heads * chunks
    found = [
        ("output", chunk, chunk, keys, groups * chunks),
        ("output", chunk, values, chunk, per_head),
        ("output", chunk, values, keys, per_head),
        ("states", keys, values, chunk, per_head),
    ]
    if a.kind != "mamba2":
        found += [
            ("chunks", chunk, chunk, keys, _INTRA[a.kind] * per_head),
            ("chunks", chunk, keys, chunk, per_head),
            ("chunks", chunk, values, chunk, per_head),
            ("states", chunk, values, keys, per_head),
        ]
    return found


def scan_bytes(
    linear_attention: LinearAttention, tokens: int, tp: int, element: float
) -> dict[str, float]:
    """Return the bytes that each kernel of a forward scan reads and writes.

    Under the delta rule ``chunks`` multiplies keys with keys, turns the triangular matrix A of it
    (fp32) and writes what it makes of keys and values; ``states`` reads these and the keys and
    writes the state before every chunk with the new values; ``output`` reads queries, keys, new
    values and states. Decay by channel (Kimi) is added up over a chunk in fp32 and read with keys
    and queries, and weighed ones are written. Mamba-2 makes states of keys and values, passes them
    along in fp32 by a kernel of its own, and reads all again for the output.
    """
    a = linear_attention
    chunk, chunks = _chunks(a, tokens)
    heads = max(1, a.value_heads // tp)
    groups = max(1, a.key_heads // tp) if a.kind == "mamba2" else heads
    key, value = groups * a.key_head_dim, heads * a.value_head_dim
    states = float(chunks * heads * a.key_head_dim * a.value_head_dim)
    if a.kind == "mamba2":
        moved = element * tokens * (key + value)
        return {
            "states": moved + 3.0 * _STATE_BYTES * states,
            "output": 2.0 * moved + _STATE_BYTES * states,
        }
    scores = heads * chunk * (2.0 * _STATE_BYTES + 2.0 * element)
    found = {
        "chunks": tokens * (element * (3 * key + 2 * value) + scores),
        "states": element * (tokens * (2 * key + 2 * value) + states),
        "output": element * (tokens * (2 * key + 2 * value) + states),
    }
    if a.kind == "kimi-delta":
        found["chunks"] += tokens * key * (2.0 * _STATE_BYTES + 4.0 * element)
        found["output"] += tokens * key * _STATE_BYTES
    return found


def _chunks(a: LinearAttention, tokens: int) -> tuple[int, int]:
    """Return C and N."""
    chunk = min(CHUNKS[a.kind], max(1, tokens))
    return chunk, ceil(tokens / chunk)


def project(b: Builder, s: Shape) -> None:
    """Add the projections into the layer, with the second ones of those of low rank."""
    a = _of(s)
    linear(b, s, "linear in", "attention", s.tokens, input_width(a) // s.tp, s.model.hidden)
    for n, k in fan_out(a):
        linear(b, s, "gate up", "attention", s.tokens, n // s.tp, k)


def project_out(b: Builder, s: Shape) -> None:
    """Add the projection out of the layer."""
    a = _of(s)
    values = a.value_heads * a.value_head_dim
    linear(b, s, "attention output", "attention", s.tokens, s.model.hidden, values // s.tp)


def scan(b: Builder, s: Shape) -> None:
    """Add convolution, scan and gated norm in the builder's phase; their weights are vectors.

    The backward pass makes chunks and states again, and then has two products for each of the
    forward pass, over the operands and their gradients.
    """
    if b.phase not in (FORWARD, RECOMPUTE, BACKWARD):
        return
    a = _of(s)
    channels = convolved(a) / s.tp
    values = a.value_heads * a.value_head_dim / s.tp
    moved = scan_bytes(a, s.tokens, s.tp, s.element)
    if b.phase != BACKWARD:
        elementwise(b, s, "short convolution", "attention", channels, 2.0, region=False)
        for kernel in moved:
            _kernel(b, s, f"scan {kernel}", kernel, 1, moved[kernel])
        elementwise(b, s, "gated norm", "attention", values, 3.0, region=False)
        return
    elementwise(b, s, "gated norm gradient", "attention", values, 5.0, region=False)
    for kernel in moved:
        if kernel != "output":
            _kernel(b, s, f"scan {kernel} again", kernel, 1, moved[kernel])
    for kernel in moved:
        _kernel(b, s, f"scan {kernel} gradient", kernel, 2, 2.0 * moved[kernel])
    elementwise(b, s, "short convolution gradient", "attention", channels, 4.0, region=False)


def _kernel(b: Builder, s: Shape, name: str, kernel: str, times: int, moved: float) -> None:
    """Add the products of one kernel as one of as many FLOPs, C x C wide."""
    a = _of(s)
    rate = s.stack.scan_backward if b.phase == BACKWARD else 1.0
    moved /= s.stack.scan_memory * rate
    chunk, chunks = _chunks(a, s.tokens)
    rows = [row for row in scan_products(a, s.tokens, s.tp) if row[0] == kernel]
    multiplies = times * sum(m * n * k * batch for _, m, n, k, batch in rows)
    inner = ceil(multiplies / (chunk * chunk * chunks))
    dims = (chunk, chunk, inner, chunks)
    b.compute(name, "attention", FUSED, s.dtype, dims, moved=moved, rate=rate)


def _of(s: Shape) -> LinearAttention:
    found = s.model.linear
    assert found is not None
    return found
