"""Which ways of training a model's layers are not modelled, and what has to divide."""

from __future__ import annotations

from collections.abc import Iterator

from ridgeline.simulator.plan import Plan
from ridgeline.workloads.forms import Form
from ridgeline.workloads.model import Model


def layer_problems(plan: Plan) -> Iterator[str]:
    """Yield why a plan cannot train the layers of its model, one line each."""
    model = plan.model
    forms = {model.form(index) for index in range(model.num_layers)}
    attention = model.attention
    attends = any(form.mixer == "attention" for form in forms)
    sparse = attends and (attention.index_heads > 0 or attention.blocks is not None)
    other = sorted({form.mixer for form in forms} - {"attention", "none"})
    special = [_WORDS[mixer] for mixer in other]
    special += ["sparse attention"] if sparse else []
    special += ["memory layers"] if any(form.is_memory for form in forms) else []
    special += ["layers that take a share of the tokens"] if _shares(forms) else []
    special += ["layers that repeat"] if model.recursion is not None else []
    if not special:
        return
    what = special[0]
    if plan.parallel.cp > 1:
        yield (
            f"parallel.cp = {plan.parallel.cp}: model {model.name!r} has {what}, whose split over "
            "the sequence is not modelled; cp = 1, and tp or pp instead"
        )
    if plan.training.lora_rank:
        yield (
            f"training.lora_rank = {plan.training.lora_rank}: model {model.name!r} has {what}, "
            "whose adapters are not modelled; leave it out"
        )
    yield from _heads(plan, forms)
    yield from _shared_weights(plan, forms)


_WORDS = {"linear": "linear attention", "convolution": "long convolutions"}


def _shares(forms: set[Form]) -> bool:
    return any(form.capacity < 1.0 for form in forms)


def _heads(plan: Plan, forms: set[Form]) -> Iterator[str]:
    linear, tp = plan.model.linear, plan.parallel.tp
    if linear is None or not any(form.is_linear for form in forms) or tp == 1:
        return
    for name, heads in (("value heads", linear.value_heads), ("key heads", linear.key_heads)):
        if heads % tp:
            yield (
                f"parallel.tp = {tp}: does not divide the {heads} {name} of linear attention; "
                f"tp = {_below(heads, tp)} does"
            )


def _below(size: int, most: int) -> int:
    return max(d for d in range(1, most + 1) if size % d == 0)


def _shared_weights(plan: Plan, forms: set[Form]) -> Iterator[str]:
    model, parallel = plan.model, plan.parallel
    shared = "layers that repeat" if model.recursion is not None else ""
    if any(form.is_memory for form in forms) and _same_table(model):
        shared = shared or "memory layers with one table"
    if not shared:
        return
    if parallel.pp > 1:
        yield (
            f"parallel.pp = {parallel.pp}: model {model.name!r} has {shared}, whose weights would "
            "lie on several stages; pp = 1, and tp or zero_stage instead"
        )
    if parallel.zero_stage == 3:
        yield (
            f"parallel.zero_stage = 3: model {model.name!r} has {shared}, whose weights are "
            "gathered more than once; that is not modelled: zero_stage = 2 or less"
        )


def _same_table(model: Model) -> bool:
    return model.memory is not None and model.memory.shared
