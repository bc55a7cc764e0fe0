"""FLOPs beside a stack's own layers and vocabulary: cross-attention, conditions, patches, towers.

All by token of the sequence, forward, a multiply and an add being two. Shapes as in ``flops``.
"""

from __future__ import annotations

from ridgeline.workloads.model import Model
from ridgeline.workloads.towers import cross_weights, cross_width


def layer_extra(model: Model, seq_len: int) -> tuple[float, float]:
    """Return what cross-attention and condition add to one layer: projections, and scores.

    Keys and values of the second input are projected once by sequence; so is a condition.
    """
    projections = scores = 0.0
    if model.cross is not None:
        own, other = cross_weights(model)
        projections += 2.0 * (own + other * model.cross.tokens / seq_len)
        scores += 4.0 * model.cross.tokens * cross_width(model)
    if model.conditioning is not None:
        wide = model.conditioning.vectors * model.hidden
        projections += 2.0 * model.conditioning.width * wide / seq_len
    return projections, scores


def input_flops(model: Model, seq_len: int) -> float:
    """Return the FLOPs of the patch embedding and of embedding the condition."""
    flops = 0.0
    if model.patches is not None:
        tokens = max(0, seq_len - model.patches.class_tokens)
        flops += 2.0 * model.patches.values * model.hidden * tokens / seq_len
    condition = model.conditioning
    if condition is not None and condition.frequencies:
        width = condition.width
        flops += 2.0 * (condition.frequencies * width + width * width) / seq_len
    return flops


def head_flops(model: Model, seq_len: int) -> float:
    """Return the FLOPs of the head beside logits: transform, classes, patches, pooler."""
    hidden = model.hidden
    flops = 2.0 * hidden * hidden / seq_len if model.pooler else 0.0
    if model.head == "masked":
        flops += 2.0 * hidden * hidden * model.predicted
    elif model.head == "classes":
        flops += 2.0 * hidden * model.outputs / seq_len
    elif model.head == "patches":
        flops += 2.0 * hidden * model.outputs
        if model.conditioning is not None:
            flops += 4.0 * hidden * model.conditioning.width / seq_len
    return flops
