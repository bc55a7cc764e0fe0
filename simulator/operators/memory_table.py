"""Product-key memory in place of the MLP: scores of half keys, look-up, weighted sum.

Berges et al. 2024 (arXiv:2412.09764, section 3). Every tensor rank has a share of each value's
width, and all half keys: places are found on every rank.
"""

from __future__ import annotations

from ridgeline.simulator.operators.gradients import accumulate
from ridgeline.simulator.operators.products import elementwise, linear
from ridgeline.simulator.operators.shape import Shape
from ridgeline.simulator.operators.table import BACKWARD, FORWARD, RECOMPUTE, Builder
from ridgeline.simulator.recompute import Recompute
from ridgeline.simulator.roofline.layout import GEMM, MEMORY


def memory_table(b: Builder, s: Shape, again: Recompute) -> None:
    """Add a memory layer in the builder's phase.

    The look-up reads k values a head and writes their sum. Its gradient adds each row to the
    table's (read and write, scattered), and reads the values again for the gradients of weights.
    """
    memory, h = s.model.memory, s.model.hidden
    assert memory is not None
    width = max(1, memory.value_dim // s.tp)
    queries, half = memory.heads * memory.key_dim, max(1, memory.key_dim // 2)
    rows = s.tokens * memory.heads
    read = s.tokens * memory.heads * memory.top_k * width * s.element
    written = s.tokens * width * s.element
    scores = (rows, memory.half_keys, half, 2)
    moved = 2.0 * s.element * rows * memory.half_keys * 2
    gate = memory.gated

    def products() -> None:
        linear(b, s, "memory output", "mlp", s.tokens, h, width)
        if gate:
            linear(b, s, "memory gate", "mlp", s.tokens, width, h)
        linear(b, s, "memory query", "mlp", s.tokens, queries, h)

    if b.phase in (FORWARD, RECOMPUTE):
        if b.phase == RECOMPUTE and not again.mlp:
            return
        linear(b, s, "memory query", "mlp", s.tokens, queries, h)
        b.compute("memory scores", "mlp", GEMM, s.dtype, scores)
        b.compute("memory top-k", "mlp", MEMORY, s.dtype, moved=moved)
        b.compute("memory look-up", "mlp", MEMORY, s.dtype, moved=read + written)
        if gate:
            linear(b, s, "memory gate", "mlp", s.tokens, width, h)
            elementwise(b, s, "memory gating", "mlp", width, 3.0, region=False)
        linear(b, s, "memory output", "mlp", s.tokens, h, width)
    elif b.phase == BACKWARD:
        linear(b, s, "memory output", "mlp", s.tokens, h, width)
        if gate:
            elementwise(b, s, "memory gating gradient", "mlp", width, 5.0, region=False)
            linear(b, s, "memory gate", "mlp", s.tokens, width, h)
        scattered = read * (1.0 + 2.0 * s.stack.accumulation_bytes / s.element)
        b.compute("memory look-up gradient", "mlp", MEMORY, s.dtype, moved=scattered + written)
        m, n, k, batch = scores
        b.compute("memory scores dgrad", "mlp", GEMM, s.dtype, (m, k, n, batch))
        linear(b, s, "memory query", "mlp", s.tokens, queries, h)
    else:
        products()
        m, n, k, batch = scores
        b.compute("memory scores wgrad", "mlp", GEMM, s.dtype, (n, k, m, batch))
        accumulate(b, s, "memory keys", float(memory.half_key_weights))
