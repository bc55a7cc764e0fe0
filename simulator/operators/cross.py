"""Blocks that some layers have beside attention and MLP: cross-attention, adaptive norms."""

from __future__ import annotations

from ridgeline.simulator.operators.attention import cross_core
from ridgeline.simulator.operators.products import elementwise, linear
from ridgeline.simulator.operators.regions import (
    enter,
    leave,
    regather,
    residual,
    residual_backward,
)
from ridgeline.simulator.operators.shape import Shape
from ridgeline.simulator.operators.table import BACKWARD, FORWARD, RECOMPUTE, Builder
from ridgeline.simulator.recompute import Recompute
from ridgeline.workloads.towers import cross_width


def cross_attention(b: Builder, s: Shape, again: Recompute) -> None:
    """Add norm, cross-attention and residual in the builder's phase.

    Queries come from the tokens of the sequence, keys and values from those of the second input
    (Vaswani et al. 2017, section 3.2.3), each split by heads over the tensor ranks.
    """
    cross = s.model.cross
    if cross is None:
        return
    h, width = s.model.hidden, cross_width(s.model) // s.tp

    def inward() -> None:
        linear(b, s, "cross query", "attention", s.tokens, width, h)
        others = s.sequences * cross.tokens
        linear(b, s, "cross key-value", "attention", others, 2 * width, cross.hidden)

    if b.phase in (FORWARD, RECOMPUTE):
        whole = b.phase == FORWARD
        if whole or again.norms:
            elementwise(b, s, "cross norm", "norm", h, 2.0, region=True)
        if whole or again.qkv:
            enter(b, s, "cross")
            inward()
        if whole or again.core:
            cross_core(b, s)
        if whole or again.output:
            linear(b, s, "cross output", "attention", s.tokens, h, width)
            leave(b, s, "cross")
            residual(b, s, "cross")
    elif b.phase == BACKWARD:
        residual_backward(b, s, "cross")
        leave(b, s, "cross")
        linear(b, s, "cross output", "attention", s.tokens, h, width)
        cross_core(b, s)
        inward()
        enter(b, s, "cross")
        elementwise(b, s, "cross norm gradient", "norm", h, 3.0, region=True)
    else:
        linear(b, s, "cross output", "attention", s.tokens, h, width)
        regather(b, s, "cross")
        inward()


def modulation(b: Builder, s: Shape, again: Recompute) -> None:
    """Add what makes a layer's shifts, scales and gates of its condition, and applies them.

    A product with one row by sequence, and one pass over the output of both norms; gates are fused
    with the residuals. Backward, the gradients of shifts, scales and gates are sums over tokens.
    """
    condition = s.model.conditioning
    if condition is None or (b.phase == RECOMPUTE and not again.norms):
        return
    h, wide = s.model.hidden, condition.vectors * s.model.hidden // s.tp
    if b.phase in (FORWARD, RECOMPUTE):
        linear(b, s, "condition", "norm", s.sequences, wide, condition.width)
        elementwise(b, s, "modulation", "norm", h, 4.0, region=True)
    elif b.phase == BACKWARD:
        elementwise(b, s, "modulation gradient", "norm", h, 8.0, region=True)
        linear(b, s, "condition", "norm", s.sequences, wide, condition.width)
    else:
        linear(b, s, "condition", "norm", s.sequences, wide, condition.width)
