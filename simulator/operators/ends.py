"""What the first and the last stage do beside layers: embedding, head, loss."""

from __future__ import annotations

from ridgeline.simulator.collectives.layout import ALL_GATHER, ALL_REDUCE, REDUCE_SCATTER
from ridgeline.simulator.operators.added import widen
from ridgeline.simulator.operators.gradients import accumulate
from ridgeline.simulator.operators.other_ends import (
    class_head,
    masked_transform,
    patch_embedding,
)
from ridgeline.simulator.operators.products import elementwise, linear
from ridgeline.simulator.operators.regions import entered
from ridgeline.simulator.operators.shape import Shape, predicted_shape
from ridgeline.simulator.operators.table import BACKWARD, FORWARD, WEIGHT, Builder
from ridgeline.simulator.roofline.layout import MEMORY


def embedding(b: Builder, s: Shape) -> None:
    """Add the token look-up, reduced over the tensor ranks that split the vocabulary."""
    if s.model.patches is not None:
        patch_embedding(b, s)
        return
    h, g = s.model.hidden, s.groups.tp
    moved = s.tokens * h * s.element
    b.phase = FORWARD
    elementwise(b, s, "embedding", "embedding", h, 2.0, region=False)
    operation = REDUCE_SCATTER if s.sp else ALL_REDUCE
    b.collective("embedding reduce", "tp", operation, moved, g.size, g.stride)
    if s.stack.dropout or s.model.position == "learned":
        elementwise(b, s, "embedding sum", "embedding", h, 3.0, region=True)
    b.phase = WEIGHT
    if not s.trains_embedding:
        return  # the table is frozen
    if s.sp:
        b.collective("embedding gradient gather", "tp", ALL_GATHER, moved, g.size, g.stride)
    elementwise(b, s, "embedding gradient", "embedding", h, 3.0, region=False)
    accumulate(b, s, "embedding", s.model.vocab * h / s.tp)


def head(b: Builder, s: Shape) -> None:
    """Add final norm, logits over the vocabulary slice, vocabulary-parallel cross-entropy."""
    if s.model.head in ("classes", "patches"):
        class_head(b, s)
        return
    s = predicted_shape(s)
    h, g = s.model.hidden, s.groups.tp
    vocab = max(1, s.model.vocab // s.tp)
    logits = float(s.tokens * vocab)
    moved = s.tokens * h * s.element
    statistics = 4.0 * s.tokens
    b.phase = FORWARD
    widen(b, s)
    elementwise(b, s, "final norm", "norm", h, 2.0, region=True)
    masked_transform(b, s)
    if s.sp:
        b.collective("head gather", "tp", ALL_GATHER, moved, g.size, g.stride)
    linear(b, s, "head", "head", s.tokens, vocab, h, dtype=s.dtype)
    # fp32 copy of the logits, maximum, exponent and sum: read e, write 4, read 4, read 4
    b.compute("cross-entropy", "head", MEMORY, s.dtype, moved=logits * (s.element + 12.0))
    for what in ("maximum", "target", "sum"):
        b.collective(f"loss {what}", "tp", ALL_REDUCE, statistics, g.size, g.stride)
    if s.tuning.forward_only:
        return
    b.phase = BACKWARD
    b.compute("cross-entropy gradient", "head", MEMORY, s.dtype, moved=logits * (s.element + 8.0))
    linear(b, s, "head", "head", s.tokens, vocab, h, dtype=s.dtype)
    operation = REDUCE_SCATTER if s.sp else ALL_REDUCE
    overlap, beside = s.stack.tp_gradient_overlap, entered(s, "head", "wgrad")
    row = "head gradient reduce"
    b.collective(row, "tp", operation, moved, g.size, g.stride, overlap=overlap, beside=beside)
    masked_transform(b, s)
    elementwise(b, s, "final norm gradient", "norm", h, 3.0, region=True)
    widen(b, s)
    b.phase = WEIGHT
    widen(b, s)
    masked_transform(b, s)
    linear(b, s, "head", "head", s.tokens, vocab, h, dtype=s.dtype)


def prediction_projection(b: Builder, s: Shape) -> None:
    """Add the 2h to h projection and norms of a multi-token-prediction head (DeepSeek-V3, 2.2)."""
    h = s.model.hidden
    for phase in (FORWARD,) if s.tuning.forward_only else (FORWARD, BACKWARD, WEIGHT):
        b.phase = phase
        if phase != WEIGHT:
            elementwise(b, s, "prediction norms", "norm", 2 * h, 2.0, region=True)
        linear(b, s, "prediction projection", "head", s.region_tokens, h, 2 * h)
