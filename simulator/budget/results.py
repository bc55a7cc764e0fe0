"""What a proposal says: flat frozen records. Rendering reads them and computes nothing."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from math import isfinite
from typing import Any

from ridgeline.simulator.budget.serving import ServingCost
from ridgeline.simulator.results import TrainingResult
from ridgeline.workloads.model import Model
from ridgeline.workloads.parameters import parameters

SCHEMA_VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """A model as numbers that its ``config.json`` would hold."""

    name: str
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    ffn_hidden: int
    vocab: int
    tied_embeddings: bool
    gated_mlp: bool
    params: int
    nonembedding_params: int


def shape_of(model: Model) -> Shape:
    """Return the numbers of a model."""
    count = parameters(model)
    return Shape(
        name=model.name,
        layers=model.num_layers,
        hidden=model.hidden,
        heads=model.attention.heads,
        kv_heads=model.attention.kv_heads,
        head_dim=model.attention.head_dim,
        ffn_hidden=model.ffn_hidden,
        vocab=model.vocab,
        tied_embeddings=model.tied_embeddings,
        gated_mlp=model.gated_mlp,
        params=count.total,
        nonembedding_params=count.non_embedding,
    )


def config_of(shape: Shape, positions: int) -> dict[str, Any]:
    """Return a shape as a Hugging Face configuration, which ``--model FILE.json`` reads.

    Parameters
    ----------
    shape
        Gated ones become ``llama``, others ``gpt2``.
    positions
        Longest sequence.
    """
    if shape.gated_mlp:
        return {
            "model_type": "llama",
            "_name_or_path": shape.name,
            "num_hidden_layers": shape.layers,
            "hidden_size": shape.hidden,
            "num_attention_heads": shape.heads,
            "num_key_value_heads": shape.kv_heads,
            "head_dim": shape.head_dim,
            "intermediate_size": shape.ffn_hidden,
            "vocab_size": shape.vocab,
            "max_position_embeddings": positions,
            "tie_word_embeddings": shape.tied_embeddings,
        }
    return {
        "model_type": "gpt2",
        "_name_or_path": shape.name,
        "n_layer": shape.layers,
        "n_embd": shape.hidden,
        "n_head": shape.heads,
        "n_inner": shape.ffn_hidden,
        "vocab_size": shape.vocab,
        "n_positions": positions,
        "tie_word_embeddings": shape.tied_embeddings,
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchAdvice:
    """The batch and how far data parallelism may go; batches in tokens."""

    sequences: int
    tokens: int
    best_tokens: float
    critical_tokens: float
    useful_dp: int
    """Most data-parallel ways with a sequence each before the critical batch."""
    regime: str
    steps_over_least: float
    tokens_over_least: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Opinion:
    """What one law proposes for the same money, time and hardware."""

    law: str
    title: str
    shape: Shape
    params: float
    """Of the shape proposed."""
    tokens: float
    tokens_per_param: float
    mfu: float
    exact_params: float
    """The law's own size for the compute that the shape gets, before the ladder of shapes."""
    loss: float | None
    """On the law's own scale: losses of different laws do not compare."""
    loss_of_proposal: float | None
    """Under this law, of the size and tokens that the chosen law proposes."""
    beyond: tuple[str, ...]
    """How far outside the runs it was fitted to."""
    marks: tuple[str, ...]
    """Constants behind it that are from memory only."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Weighing:
    """A shape that was simulated on the way."""

    shape: str
    params: int
    cluster: str
    mfu: float
    step_time_s: float
    tokens: float
    loss: float | None
    serving_usd: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Assumed:
    """What the law would propose if utilisation were assumed instead of simulated."""

    mfu: float
    params: float
    tokens: float
    seconds: float
    """What training it takes at the proposal's simulated utilisation."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Proposal:
    """A model, its tokens and its plan for a budget."""

    law: str
    law_title: str
    why_law: str
    cluster: str
    accelerators: int
    stack: str
    budget_usd: float
    deadline_s: float
    shape: Shape
    tokens: float
    tokens_low: float
    """What the same time buys at the slow end of the range of the step, and below at the fast."""
    tokens_high: float
    tokens_per_param: float
    epochs: float
    """0 where data are not limited."""
    loss: float | None
    loss_low: float | None
    """With ``tokens_high``; the range is of the hardware, not of the law."""
    loss_high: float | None
    batch: BatchAdvice
    result: TrainingResult
    serving: ServingCost | None
    served_tokens: float
    total_usd: float
    """Training and serving; 0 without a price."""
    training_seconds_allowed: float
    assumed: tuple[Assumed, ...]
    opinions: tuple[Opinion, ...]
    weighed: tuple[Weighing, ...]
    ruled_out: int
    searches: int
    notes: tuple[str, ...]
    warnings: tuple[str, ...]

    def _repr_html_(self) -> str:
        """Return what a notebook shows."""
        from ridgeline.simulator.notebook import proposal_html

        return proposal_html(self)

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON contract (``docs/scaling-laws.md``)."""
        plain = {
            name: getattr(self, name)
            for name in (
                "law", "law_title", "why_law", "cluster", "accelerators", "stack", "tokens",
                "tokens_low", "tokens_high", "tokens_per_param", "epochs", "loss", "loss_low",
                "loss_high", "served_tokens", "total_usd",
                "training_seconds_allowed", "ruled_out", "searches",
            )
        }  # fmt: skip
        return {
            "schema": "ridgeline.plan.model",
            "schema_version": SCHEMA_VERSION,
            "budget_usd": self.budget_usd if isfinite(self.budget_usd) else None,
            "deadline_s": self.deadline_s if isfinite(self.deadline_s) else None,
            **plain,
            "model": asdict(self.shape),
            "config": config_of(self.shape, self.result.plan["training"]["seq_len"]),
            "batch": asdict(self.batch),
            "training": self.result.to_dict(),
            "serving": None if self.serving is None else asdict(self.serving),
            "assumed": [asdict(one) for one in self.assumed],
            "opinions": [asdict(one) for one in self.opinions],
            "weighed": [asdict(one) for one in self.weighed],
            "notes": list(self.notes),
            "warnings": list(self.warnings),
        }
