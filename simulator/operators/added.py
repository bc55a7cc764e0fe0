"""Operators of what is added to a frozen model: 4-bit weights made wide, bottlenecks, ladders."""

from __future__ import annotations

from ridgeline.simulator.operators.shape import Shape
from ridgeline.simulator.operators.table import BACKWARD, FORWARD, RECOMPUTE, WEIGHT, Builder
from ridgeline.simulator.roofline.layout import GEMM, MEMORY


def dequantise(b: Builder, s: Shape, name: str, n: int, k: int) -> None:
    """Make a product's 4-bit weights wide before it: reads their bits, writes an element each.

    Weight gradients need none: quantised weights are frozen (Dettmers et al. 2023,
    arXiv:2305.14314, equation 5).
    """
    bits = s.tuning.quantised_bits
    if bits and b.phase != WEIGHT:
        moved = float(n) * k * (bits / 8.0 + s.element)
        b.compute(f"{name} dequantise", "cast", MEMORY, s.dtype, moved=moved)


def bottleneck(b: Builder, s: Shape, name: str, group: str) -> None:
    """Add an adapter behind a block: h to m, activation, m to h, and the sum with its input.

    Every tensor rank keeps it whole and runs it on its own tokens (Houlsby et al. 2019,
    arXiv:1902.00751, figure 2).
    """
    width, h, tokens = s.tuning.adapter_width, s.model.hidden, s.region_tokens
    if not width:
        return
    down, up = (tokens, width, h, 1), (tokens, h, width, 1)
    each = s.element * s.stack.elementwise_factor * tokens
    if b.phase in (FORWARD, RECOMPUTE):
        b.compute(f"{name} adapter down", group, GEMM, s.dtype, down)
        b.compute(f"{name} adapter activation", group, MEMORY, s.dtype, moved=2.0 * width * each)
        b.compute(f"{name} adapter up", group, GEMM, s.dtype, up)
        b.compute(f"{name} adapter sum", group, MEMORY, s.dtype, moved=3.0 * h * each)
    elif b.phase == BACKWARD:
        b.compute(f"{name} adapter up dgrad", group, GEMM, s.dtype, down)
        moved = 3.0 * width * each
        b.compute(f"{name} adapter activation gradient", group, MEMORY, s.dtype, moved=moved)
        b.compute(f"{name} adapter down dgrad", group, GEMM, s.dtype, up)
        b.compute(f"{name} adapter sum gradient", group, MEMORY, s.dtype, moved=3.0 * h * each)
    else:
        b.compute(f"{name} adapter up wgrad", group, GEMM, s.dtype, (h, width, tokens, 1))
        b.compute(f"{name} adapter down wgrad", group, GEMM, s.dtype, (width, h, tokens, 1))


def rung(b: Builder, s: Shape) -> None:
    """Add the shortcut of a ladder: a layer's output made narrow, gated into the side network.

    No gradient goes back to the frozen model, so it has a forward product and a weight gradient
    alone (Sung et al. 2022, arXiv:2206.06522, section 3.1).
    """
    h = s.model.hidden
    narrow = h // s.tuning.side_reduction
    each = s.element * s.stack.elementwise_factor * s.tokens
    b.phase = FORWARD
    b.compute("ladder", "mlp", GEMM, s.dtype, (s.tokens, narrow, h, 1))
    b.compute("ladder gate", "norm", MEMORY, s.dtype, moved=3.0 * narrow * each)
    b.phase = BACKWARD
    b.compute("ladder gate gradient", "norm", MEMORY, s.dtype, moved=3.0 * narrow * each)
    b.phase = WEIGHT
    b.compute("ladder wgrad", "mlp", GEMM, s.dtype, (narrow, h, s.tokens, 1))


def widen(b: Builder, s: Shape) -> None:
    """Add the way from the side network's width back to the model's, before the head."""
    reduction = s.tuning.side_reduction
    if not reduction:
        return
    h, narrow = s.model.hidden, s.model.hidden // reduction
    shapes = {
        FORWARD: ("ladder top", (s.tokens, h, narrow, 1)),
        BACKWARD: ("ladder top dgrad", (s.tokens, narrow, h, 1)),
        WEIGHT: ("ladder top wgrad", (h, narrow, s.tokens, 1)),
    }
    name, shape = shapes[b.phase]
    b.compute(name, "head", GEMM, s.dtype, shape)
