"""Which layers each pipeline part holds, in model order."""

from __future__ import annotations

from ridgeline.simulator.plan import Plan


def num_parts(plan: Plan) -> int:
    """Return how many slices the model is cut into (virtual stages of one direction)."""
    return plan.parallel.pp * plan.parallel.vpp


def stage_layers(plan: Plan) -> tuple[tuple[int, int], ...]:
    """Return (first layer, count) of each part in model order.

    Equal when layers divide; else as even as they go with the shorter parts at both ends, where
    the embedding and the head already are; or exactly ``training.stage_layers`` when given.
    """
    layers, parts = plan.model.num_layers, num_parts(plan)
    counts = plan.training.stage_layers
    if not counts:
        small, extra = divmod(layers, parts)
        # parts with one layer more sit in the middle: the ends carry embedding and head
        start = (parts - extra + 1) // 2
        counts = tuple(small + (start <= p < start + extra) for p in range(parts))
    first = 0
    spans: list[tuple[int, int]] = []
    for count in counts:
        spans.append((first, count))
        first += count
    return tuple(spans)
