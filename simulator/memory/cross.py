"""What cross-attention and adaptive norms keep from forward to backward, per accelerator."""

from __future__ import annotations

from ridgeline.simulator.memory.facts import MemoryFacts
from ridgeline.workloads.model import Model
from ridgeline.workloads.towers import cross_width


def beside_saved(
    model: Model,
    *,
    tokens: float,
    sequences: int,
    whole: int,
    tp: int,
    element: float,
    gemm_input: float,
    facts: MemoryFacts,
) -> float:
    """Return bytes that a layer keeps beside its attention and MLP, 0 for most models.

    Cross-attention keeps the input of its norm and its queries' product, queries, keys and values
    of the second input, the log-sum-exp (or scores), its output and a dropout mask. An adaptive
    norm keeps its output before the scale, and each gate the output of its block.

    Parameters
    ----------
    tokens, sequences
        Of a micro-batch on one rank.
    whole
        Ranks over which tensors of width h are split.
    """
    width = tokens * model.hidden / whole
    saved = 4.0 * element * width if model.conditioning is not None else 0.0
    cross = model.cross
    if cross is None:
        return saved
    inner, heads = cross_width(model) / tp, (cross.heads or model.attention.heads) / tp
    others = sequences * cross.tokens
    saved += (element + gemm_input) * width + element * (tokens + 2.0 * others) * inner
    saved += gemm_input * tokens * inner + (width if facts.dropout else 0.0)
    if facts.attention_saves_scores:
        per_score = element + (1.0 + element if facts.dropout else 0.0)
        return saved + tokens * cross.tokens * heads * per_score
    return saved + 4.0 * tokens * heads
