"""Changes to the layers of a model that no released configuration says, from its own section.

The section ``ridgeline`` of a ``config.json`` has a section for each change; the layers that a
change leaves alone stay as the family has them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from math import isqrt

from ridgeline.workloads.fields import Fields
from ridgeline.workloads.forms import MemoryTable, Recursion
from ridgeline.workloads.mixers import IMPLEMENTATIONS, BlockSparse, LongConvolution
from ridgeline.workloads.model import Model

SECTION = "ridgeline"


def with_variants(model: Model, fields: Fields) -> Model:
    """Change a model's layers as the section ``ridgeline`` of its configuration says."""
    own = fields.section(SECTION)
    if unknown := own.others(tuple(CHANGES)):
        own.problem(f"{unknown[0]!r}: unknown; must be one of {', '.join(CHANGES)}")
    for name, change in CHANGES.items():
        if own.has(name):
            model = change(model, own.section(name))
    return model


def _depth(model: Model, fields: Fields) -> Model:
    """Mixture of depths (arXiv:2404.02258): each ``every``-th layer takes ``share`` of tokens."""
    every = fields.integer("every", default=2)
    share = _share(fields, "share")
    capacities = tuple(
        share if (index + 1) % every == 0 else 1.0 for index in range(model.num_layers)
    )
    return replace(model, capacities=capacities)


def _share(fields: Fields, name: str) -> float:
    return max(fields.number(name, minimum=0.001, maximum=1.0), 0.001)


def _recursion(model: Model, fields: Fields) -> Model:
    """Mixture of recursions (arXiv:2507.10524): ``layers`` layers run ``times`` times.

    ``num_hidden_layers`` counts them once; recursion r takes ``shares[r]`` of the tokens, all of
    them where ``shares`` is left out.
    """
    first = fields.integer("first", default=0, minimum=0)
    layers = fields.integer("layers", default=max(1, model.num_layers - first))
    times = fields.integer("times", default=2, minimum=2, maximum=1000)
    if first + layers > model.num_layers:
        fields.problem(
            f"layers {first} to {first + layers - 1} repeat: the model has {model.num_layers}",
            "first",
            "layers",
        )
        return model
    if model.windows or model.mixers or model.feed_forwards or model.capacities:
        fields.problem("layers of several kinds: only layers that are all alike may repeat")
        return model
    shares = [float(share) for share in fields.entries("shares") if isinstance(share, int | float)]
    shares = shares or [1.0] * times
    if len(shares) != times or not all(0.0 < share <= 1.0 for share in shares):
        fields.problem(f"'shares' must have {times} numbers above 0, at most 1", "times")
        return model
    behind = model.num_layers - first - layers
    run = [share for share in shares for _ in range(layers)]
    capacities = (*(1.0,) * first, *run, *(1.0,) * behind)
    return replace(
        model,
        num_layers=first + layers * times + behind,
        recursion=Recursion(first=first, layers=layers, times=times),
        capacities=capacities if min(capacities) < 1.0 else (),
    )


def _memory(model: Model, fields: Fields) -> Model:
    """Memory layers (arXiv:2412.09764) in place of the MLPs of ``layers``, counted from 0."""
    places = {place for place in fields.entries("layers") if isinstance(place, int)}
    keys = fields.integer("keys")
    if not places or not all(0 <= place < model.num_layers for place in places):
        fields.problem(f"'layers' must name layers from 0 to {model.num_layers - 1}")
    if isqrt(keys) ** 2 != keys:
        fields.problem(f"'keys' is {keys}: must be a square ({isqrt(keys) ** 2} is)")
    feed_forwards = tuple(
        "memory" if index in places else ("moe" if model.is_moe_layer(index) else "mlp")
        for index in range(model.num_layers)
    )
    table = MemoryTable(
        keys=isqrt(keys) ** 2,
        heads=fields.integer("heads", default=4),
        key_dim=fields.integer("key_dim", default=max(2, model.hidden // 2)),
        value_dim=fields.integer("value_dim", default=model.hidden),
        top_k=fields.integer("top_k", default=32),
        shared=fields.flag("shared", True),
        gated=fields.flag("gated", True),
    )
    return replace(model, feed_forwards=feed_forwards, memory=table)


def _blocks(model: Model, fields: Fields) -> Model:
    """Native sparse attention (arXiv:2502.11089) in every layer with attention."""
    if model.attention.kind != "gqa" or model.windows:
        fields.problem("needs attention by heads without windows")
        return model
    blocks = BlockSparse(
        block=fields.integer("block", default=32),
        stride=fields.integer("stride", default=16),
        chosen_block=fields.integer("chosen_block", default=64),
        chosen=fields.integer("chosen", default=16),
        window=fields.integer("window", default=512),
    )
    return replace(model, attention=replace(model.attention, blocks=blocks))


def _convolution(model: Model, fields: Fields) -> Model:
    """Hyena operators (arXiv:2302.10866) in all layers but each ``every``-th (0: in all)."""
    every = fields.integer("every", default=0, minimum=0)
    implementation = fields.text("implementation", IMPLEMENTATIONS[0])
    if implementation not in IMPLEMENTATIONS:
        fields.problem(
            f"'implementation' is {implementation!r}: must be {' or '.join(IMPLEMENTATIONS)}"
        )
    mixers = tuple(
        "attention" if every and (index + 1) % every == 0 else "convolution"
        for index in range(model.num_layers)
    )
    convolution = LongConvolution(
        order=fields.integer("order", default=2, minimum=2, maximum=16),
        filter_dim=fields.integer("filter_dim", default=64),
        implementation=implementation,
    )
    return replace(model, mixers=mixers, convolution=convolution)


def _windows(model: Model, fields: Fields) -> Model:
    """Sliding windows in all layers but each ``every``-th, or but those of ``full``, from 0."""
    every, window = fields.integer("every", default=3), fields.integer("window")
    full = fields.entries("full") or range(every - 1, model.num_layers, every)
    windows = tuple(0 if index in full else window for index in range(model.num_layers))
    return replace(model, windows=windows)


CHANGES: Mapping[str, Callable[[Model, Fields], Model]] = {
    "windows": _windows,
    "blocks": _blocks,
    "convolution": _convolution,
    "memory": _memory,
    "recursion": _recursion,
    "depth": _depth,
}
"""Name of a section -> what it changes."""
