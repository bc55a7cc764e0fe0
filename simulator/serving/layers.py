"""What a layer that is not attention and MLP serves: products, kernels, cache, refusals."""

from __future__ import annotations

import math
from collections.abc import Iterator

from ridgeline.simulator.serving.service import Service
from ridgeline.workloads.forms import MemoryTable
from ridgeline.workloads.mixers import fan_out, input_width
from ridgeline.workloads.model import LinearAttention, Model
from ridgeline.workloads.parameters import LayerKind

ProductSizes = list[tuple[int, int, int]]
"""(n, k, batch) of each product."""


def split(width: int, ranks: int) -> int:
    """Return a rank's share of a width, rounded up."""
    return max(1, math.ceil(width / ranks))


def linear_sizes(linear: LinearAttention, hidden: int, tp: int) -> ProductSizes:
    """Return the products of a layer with linear attention on one rank."""
    values = linear.value_heads * linear.value_head_dim
    inner = [(split(n, tp), k, 1) for n, k in fan_out(linear)]
    return [(split(input_width(linear), tp), hidden, 1), *inner, (hidden, split(values, tp), 1)]


def memory_sizes(memory: MemoryTable, hidden: int, tp: int) -> ProductSizes:
    """Return the products of a memory layer: queries, half keys, gate and output."""
    width = split(memory.value_dim, tp)
    found = [
        (memory.heads * memory.key_dim, hidden, 1),
        (memory.half_keys, max(1, memory.key_dim // 2), 2 * memory.heads),
        (hidden, width, 1),
    ]
    return [*found, (width, hidden, 1)] if memory.gated else found


def halves(kind: LayerKind) -> int:
    """Return how many of mixer and feed-forward a layer has."""
    return int(kind.form.has_mixer) + int(kind.form.has_feed_forward)


def feed_forward_elements(model: Model, kind: LayerKind, tp: int, fan: int) -> float:
    """Return the elements that activation, or the look-up of a memory, moves by token."""
    form = kind.form
    if form.is_moe and model.moe is not None:
        return fan * model.moe.shared_ffn_hidden / tp
    if form.is_memory and model.memory is not None:
        return (model.memory.looked_up() + 3.0 * model.memory.value_dim) / tp
    return fan * model.ffn_hidden / tp if form.has_feed_forward else 0.0


def kept_tokens(kind: LayerKind, context: float) -> float:
    """Return the tokens of a sequence that a layer with attention keeps: its share, its window."""
    taken = context * kind.form.capacity
    return min(taken, kind.window) if kind.window else taken


def layer_problems(service: Service) -> Iterator[str]:
    """Yield why a service of the model's layers is not modelled, one line each."""
    model = service.model
    if "convolution" in model.mixers:
        yield (
            f"model = {model.name!r}: has long convolutions, which need all earlier inputs at "
            "every token; serving them is not modelled, training is"
        )
    if model.recursion is not None and service.pp > 1:
        yield (
            f"pp = {service.pp}: model {model.name!r} has layers that repeat, whose weights would "
            "lie on several stages; pp = 1, and tp instead"
        )
