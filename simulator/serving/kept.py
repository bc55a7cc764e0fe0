"""Attention of a decode over a part of the cache, and what the cache keeps of a sequence."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ridgeline.simulator.serving.attention import decode_seconds
from ridgeline.simulator.serving.shape import Shape
from ridgeline.workloads.parameters import LayerKind

Floats = NDArray[np.float64]


def kept_tokens(s: Shape, context: float) -> float:
    """Return the tokens that a layer with full attention keeps of a sequence, on average."""
    budget = s.service.kv_budget
    if not budget.drops:
        return context
    return sum(share * min(context, tokens) for share, tokens in budget.parts())


def kept_decode_seconds(s: Shape, kind: LayerKind, batch: Floats, context: Floats) -> Floats:
    """Return the seconds of one layer's attention over what a budget lets it read.

    Of layers with different budgets the mean; with a full step among S, (F + (S - 1) B)/S of the
    seconds F over everything and B over the budget. Arguments as of ``decode_seconds``.
    """
    budget = s.service.kv_budget
    if not budget.tokens or kind.is_linear:
        return decode_seconds(s, kind, batch, context)
    part = np.zeros(len(batch))
    for share, tokens in budget.parts():
        part += share * decode_seconds(s, kind, batch, np.minimum(context, max(1.0, tokens)))
    if not budget.full_every:
        return part
    full = decode_seconds(s, kind, batch, context)
    return (full + (budget.full_every - 1) * part) / budget.full_every
