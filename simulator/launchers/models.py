"""Which model a program's settings mean: by its name, or by its dimensions."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from ridgeline.errors import InputError
from ridgeline.simulator.legality_layers import special_layers
from ridgeline.workloads.catalogue import load_model, model_names
from ridgeline.workloads.model import Model

_TUNED = re.compile(r"-(instruct|chat|it|hf|base|fp8|awq|gptq|int4|w4a16|\d{4})$")


def named_model(name: str) -> str | None:
    """Return the catalogue's name of a model, endings of tuned or quantised copies ignored."""
    tried = name.strip().rsplit("/", 1)[-1].lower()
    while True:
        try:
            return load_model(tried.replace("meta-llama", "llama")).name
        except InputError:
            shorter = _TUNED.sub("", tried)
            if shorter == tried:
                return None
            tried = shorter


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """The dimensions that a launcher spells out."""

    layers: int
    hidden: int
    heads: int
    kv_heads: int
    ffn_hidden: int
    gated: bool
    vocab: int = 0
    """0 when the tokenizer says it."""
    experts: int = 0
    top_k: int = 0
    expert_ffn: int = 0
    tied: bool = True

    def is_of(self, model: Model) -> bool:
        """Whether a model has these dimensions (the vocabulary only when it is stated)."""
        moe = model.moe
        return (
            model.is_decoder
            and (model.num_layers, model.hidden) == (self.layers, self.hidden)
            and (model.attention.heads, model.attention.kv_heads) == (self.heads, self.kv_heads)
            and model.gated_mlp == self.gated
            and (0 if moe is None else moe.num_experts) == self.experts
            and (moe is not None or model.ffn_hidden == self.ffn_hidden)
            and (not self.vocab or abs(self.vocab - model.vocab) < 0.02 * model.vocab)
        )

    def config(self) -> dict[str, Any]:
        """Return a Hugging Face configuration with these dimensions."""
        config: dict[str, Any] = {
            "hidden_size": self.hidden,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "intermediate_size": self.ffn_hidden,
            "vocab_size": self.vocab or 50_304,
            "tie_word_embeddings": self.tied,
        }
        if self.experts:
            config |= {
                "model_type": "mixtral",
                "intermediate_size": self.expert_ffn or self.ffn_hidden,
                "num_local_experts": self.experts,
                "num_experts_per_tok": self.top_k or 1,
            }
        elif self.gated:
            config["model_type"] = "llama"
        else:
            config = {
                "model_type": "gpt2",
                "n_layer": self.layers,
                "n_embd": self.hidden,
                "n_head": self.heads,
                "n_inner": self.ffn_hidden,
                "n_positions": 0,
                "vocab_size": self.vocab or 50_304,
            }
        return config


def model_of_shape(shape: Shape) -> str | None:
    """Return the name of the first model of the catalogue with these dimensions."""
    return next((name for name in model_names() if shape.is_of(load_model(name))), None)


def unmapped_layers(model: Model) -> list[str]:
    """Return what dimensions alone do not say of a model: layers that are of another kind."""
    what = special_layers(model)
    found = [f"model = {model.name!r}: {what} in place of attention and MLP"] if what else []
    names = " and ".join(f"its {tower.name} tower" for tower in model.towers)
    if names:
        found.append(f"model = {model.name!r}: {names}")
    if not model.causal:
        found.append(f"model = {model.name!r}: attention in both directions, and its head")
    return found
