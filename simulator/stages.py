"""Which layers each pipeline part holds, in model order."""

from __future__ import annotations

from ridgeline.simulator.plan import Plan
from ridgeline.workloads.flops import forward_flops
from ridgeline.workloads.model import Model


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


def balanced_layers(model: Model, seq_len: int, parts: int) -> tuple[int, ...]:
    """Return layers of each part such that the fullest has the least work, then the most even.

    The last part also predicts: head and multi-token modules are worth some layers, by FLOPs.
    Of the other parts those with a layer less sit at the front, where the embedding is.
    NVIDIA's recipe lays DeepSeek-V3 out so (4 layers in each of 15 parts, one beside its module
    and loss: Megatron-Bridge, scripts/performance/configs/deepseek, pp_layout).
    """
    if parts == 1:
        return (model.num_layers,)
    work = forward_flops(model, seq_len)
    ending = (work.head + work.mtp) * model.num_layers / work.layers

    def fullest(last: int) -> float:
        return max(-(-(model.num_layers - last) // (parts - 1)), last + ending)

    last = min(range(model.num_layers // parts, -1, -1), key=fullest)
    small, extra = divmod(model.num_layers - last, parts - 1)
    return (*(small,) * (parts - 1 - extra), *(small + 1,) * extra, last)
