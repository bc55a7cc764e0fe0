"""Which stacks of a served model read its inputs, and what such a service cannot do."""

from __future__ import annotations

from ridgeline.simulator.serving.service import Service
from ridgeline.workloads.model import Model
from ridgeline.workloads.towers import Tower, sequence_tokens


def encoder_of(model: Model) -> Tower | None:
    """Return the tower that reads prompts, None where the model's own layers do."""
    return next((tower for tower in model.towers if tower.joins == "cross"), None)


def image_towers(model: Model) -> tuple[Tower, ...]:
    """Return the towers whose outputs are tokens of a prompt."""
    return tuple(tower for tower in model.towers if tower.joins == "tokens")


def cuts_prompts(model: Model) -> bool:
    """Whether a prompt can be computed chunk by chunk: not where tokens meet those behind them."""
    return model.causal and encoder_of(model) is None


def input_problems(service: Service) -> list[str]:
    """Return what a service of a model with other ends or towers cannot do, one line each."""
    model, out = service.model, []
    if model.head == "patches":
        out.append(
            f"model {model.name}: makes an image in many passes, which are not priced as a "
            "service; train prices its training"
        )
    if service.pp > 1 and encoder_of(model) is not None:
        out.append(f"pp = {service.pp}: {model.name} has an encoder; pp = 1 serves it")
    if not cuts_prompts(model):
        if service.limits.chunked_prefill:
            out.append(f"chunked_prefill: {model.name} reads its prompts whole; leave it out")
        if service.limits.prefix_caching:
            out.append(
                f"prefix_caching: {model.name} reads prompts in both directions, so that "
                "prefixes are not alike; leave it out"
            )
    if model.head != "logits" and service.speculation.tokens:
        out.append(f"speculation: {model.name} writes no tokens; leave it out")
    for tower in model.towers:
        if service.tp > tower.model.attention.heads:
            heads = tower.model.attention.heads
            out.append(f"tp = {service.tp}: at most the {heads} heads of the {tower.name}")
    return out


def answer_problem(model: Model, most_output: int) -> list[str]:
    """Return why a model cannot write answers of so many tokens, empty when it can."""
    if model.head == "logits" or most_output <= 1:
        return []
    asked = f"output_len = {most_output}: {model.name} answers each input with one vector"
    return [f"{asked}; output_len = 1 asks for that"]


def prompt_problem(model: Model, most_input: int) -> list[str]:
    """Return why no prompt of so many tokens holds the images of a model, empty when one does."""
    images = sequence_tokens(model)
    if most_input >= images:
        return []
    asked = f"input_len = {most_input}: shorter than the {images} image tokens of a prompt"
    return [f"{asked}; raise it, or lower model.images or model.image_tokens"]
