"""Whether the towers of a model, and stacks that are no decoder, run under a plan."""

from __future__ import annotations

from collections.abc import Iterator

from ridgeline.simulator.plan import Plan
from ridgeline.workloads.towers import sequence_tokens


def tower_problems(plan: Plan) -> Iterator[str]:
    """Yield why the towers of a plan's model cannot run as it says, one line each."""
    model, parallel, training = plan.model, plan.parallel, plan.training
    if not model.towers:
        return
    if parallel.cp > 1:
        yield (
            f"parallel.cp = {parallel.cp}: the {model.towers[0].name} tower of {model.name} "
            f"attends to whole inputs; cp = 1 runs"
        )
    if parallel.pp > 1 and any(tower.joins == "cross" for tower in model.towers):
        yield (
            f"parallel.pp = {parallel.pp}: every layer of {model.name} attends to its "
            f"{model.towers[0].name}, whose output pipeline stages do not pass on; pp = 1 runs"
        )
    for tower in model.towers:
        for what, size in (
            ("attention heads", tower.model.attention.heads),
            ("MLP width", tower.model.ffn_hidden),
        ):
            if size % parallel.tp:
                yield (
                    f"parallel.tp = {parallel.tp}: does not divide the {what} {size} of the "
                    f"{tower.name} tower; tp = 1 does"
                )
    if training.lora_rank:
        yield f"training.task = 'lora': {model.name} has towers, for which adapters are not priced"
    if "activations" in training.offload:
        yield (
            f"training.offload: the activations of the {model.towers[0].name} tower of "
            f"{model.name} stay where they are; leave activations out"
        )
    for tower in model.towers:
        if tower.joins == "trunk" and tower.tokens < training.seq_len:
            yield (
                f"training.seq_len = {training.seq_len}: more than the {tower.tokens} patches that "
                f"the {tower.name} of {model.name} reads"
            )
    images = sequence_tokens(model)
    if images > training.seq_len:
        yield (
            f"training.seq_len = {training.seq_len}: shorter than the {images} image tokens of a "
            f"sequence; raise it, or lower model.images or model.image_tokens"
        )


def tower_remarks(plan: Plan) -> Iterator[str]:
    """Yield what is legal and yet easily overlooked about the towers of a model."""
    for tower in plan.model.towers:
        if not tower.trained:
            yield f"the {tower.name} tower of {plan.model.name} is frozen: it only runs forward"
        if tower.joins == "trunk" and tower.tokens > plan.training.seq_len:
            yield (
                f"model.masked: the layers see {plan.training.seq_len} of the {tower.tokens} "
                f"patches of an image, the {tower.name} all; tokens count those seen"
            )
        if tower.joins != "cross" and plan.parallel.pp > 1:
            yield (
                f"the {tower.name} tower of {plan.model.name} runs on the first pipeline stage "
                f"beside its layers; uneven_stages can give that stage fewer"
            )
