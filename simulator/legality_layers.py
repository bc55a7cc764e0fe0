"""Which ways of training a model's layers are not modelled, and what has to divide."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

from ridgeline.simulator.plan import Plan
from ridgeline.workloads.model import Model

_WORDS = {"linear": "linear attention", "convolution": "long convolutions"}


@lru_cache(maxsize=256)
def special_layers(model: Model) -> str:
    """Return in words what some layers of a model have that is not attention and MLP, or ""."""
    forms = {model.form(index) for index in range(model.num_layers)}
    mixers = {form.mixer for form in forms}
    for mixer, words in _WORDS.items():
        if mixer in mixers:
            return words
    attention = model.attention
    if "attention" in mixers and (attention.index_heads or attention.blocks is not None):
        return "sparse attention"
    if any(form.is_memory for form in forms):
        return "memory layers"
    if any(form.capacity < 1.0 for form in forms):
        return "layers that take a share of the tokens"
    if model.recursion is not None:
        return "layers that repeat"
    return "blocks of one half each" if any(not form.has_mixer for form in forms) else ""


@lru_cache(maxsize=256)
def shared_weights(model: Model) -> str:
    """Return in words which layers of a model have one set of weights, or ""."""
    if model.recursion is not None:
        return "layers that repeat"
    if model.memory is not None and model.memory.shared and "memory" in model.feed_forwards:
        return "memory layers with one table"
    return ""


def split_heads(model: Model) -> tuple[tuple[str, int], ...]:
    """Return what tensor ranks have to split evenly beside attention and MLP, by name."""
    linear = model.linear
    if special_layers(model) != _WORDS["linear"] or linear is None:
        return ()
    return (("value heads", linear.value_heads), ("key heads", linear.key_heads))


def layer_problems(plan: Plan) -> Iterator[str]:
    """Yield why a plan cannot train the layers of its model, one line each."""
    model, parallel = plan.model, plan.parallel
    what = special_layers(model)
    if not what:
        return
    if parallel.cp > 1:
        yield (
            f"parallel.cp = {parallel.cp}: model {model.name!r} has {what}, whose split over "
            "the sequence is not modelled; cp = 1, and tp or pp instead"
        )
    if plan.training.lora_rank:
        yield (
            f"training.lora_rank = {plan.training.lora_rank}: model {model.name!r} has {what}, "
            "whose adapters are not modelled; leave it out"
        )
    for name, heads in split_heads(model):
        if heads % parallel.tp:
            legal = max(d for d in range(1, parallel.tp) if heads % d == 0)
            yield (
                f"parallel.tp = {parallel.tp}: does not divide the {heads} {name} of linear "
                f"attention; tp = {legal} does"
            )
    shared = shared_weights(model)
    if shared and parallel.pp > 1:
        yield (
            f"parallel.pp = {parallel.pp}: model {model.name!r} has {shared}, whose weights would "
            "lie on several stages; pp = 1, and tp or zero_stage instead"
        )
    if shared and parallel.zero_stage == 3:
        yield (
            f"parallel.zero_stage = 3: model {model.name!r} has {shared}, whose weights are "
            "gathered more than once; that is not modelled: zero_stage = 2 or less"
        )
