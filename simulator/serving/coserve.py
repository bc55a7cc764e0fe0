"""Fine-tuning that fills what requests leave of every iteration (FlexLLM, arXiv 2402.18789).

Tokens of a low-rank fine-tuning ride in the iterations of inference: each takes a forward pass and
one for the gradients of its inputs, as frozen weights need none of their own. An iteration takes as
many as end within a limit and as the token budget holds; idle replicas run nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ridgeline.simulator.adapters import layer_adapters
from ridgeline.simulator.serving.policy import policy_of
from ridgeline.simulator.serving.service import Service
from ridgeline.simulator.serving.shape import Shape
from ridgeline.simulator.serving.tables import IterationTables
from ridgeline.workloads.parameters import distinct_layers

if TYPE_CHECKING:
    from ridgeline.simulator.serving.play import Played

Floats = NDArray[np.float64]

_PASSES = 2.0
"""Passes of a token through the products: forward, and gradients of their inputs."""
_ATTENTION_PASSES = 3.5
"""Of attention: forward, and two and a half for its gradients (FlashAttention-2, arXiv 2307.08691,
which recomputes the scores: five products for two)."""
_STATE_BYTES = 16.0
"""Of an adapter's parameter in mixed-precision Adam (ZeRO, arXiv 1910.02054, section 3.1)."""
_STEPS = 60
"""Of a bisection."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FineTuning:
    """What fine-tuning gets beside the requests."""

    tokens_per_s: float
    """Of all replicas."""
    alone_tokens_per_s: float
    """Of the same replicas without requests."""
    share: float
    """The first over the second."""
    iteration_s: float
    """Length that every iteration is filled to."""
    memory_bytes: float
    """Adapter with optimizer, and activations of a sequence, on each accelerator."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Asked:
    """What requests ask of iterations. [n] each."""

    decoding: Floats
    """Sequences."""
    context: Floats
    """Tokens of these together."""
    new: Floats
    """Tokens of prompts."""
    prompts: Floats


_NOTHING = _Asked(decoding=np.zeros(1), context=np.zeros(1), new=np.zeros(1), prompts=np.zeros(1))


def finetune_bytes(s: Shape) -> float:
    """Return the bytes that fine-tuning takes on a rank: adapter, optimizer, kept activations.

    Of each token and layer 16 bits of the inputs of norms and products that its gradients need: two
    hidden states (before both norms), queries, keys, values, the output of attention, and the
    halves of the MLP (FlexLLM keeps only what the graph of the adapters reaches).
    """
    f, model = s.service.finetune, s.model
    a, tp = model.attention, s.service.tp
    states = values = 0.0
    for kind in distinct_layers(model):
        states += kind.count * layer_adapters(model, kind.form, f.rank, f.targets, tp)
        heads = s.heads * (a.head_dim + a.v_head_dim) + s.kv_heads * (a.head_dim + a.v_head_dim)
        fan = 2.0 if model.gated_mlp else 1.0
        width = model.ffn_hidden
        if kind.is_moe and model.moe is not None:
            width = model.moe.top_k * model.moe.ffn_hidden + model.moe.shared_ffn_hidden
        values += kind.count * (2.0 * model.hidden + heads + fan * width / tp)
    return _STATE_BYTES * states + 2.0 * f.seq_len * values


def fill_tables(tables: IterationTables, service: Service) -> IterationTables:
    """Return the tables of a service whose iterations are filled with fine-tuning."""
    limit = service.finetune.iteration_s
    tokens = _room(tables, service, _NOTHING, limit)
    full = float(_seconds(tables, service, _NOTHING, tokens)[0])
    return replace(tables, least_s=min(limit, full))


def fine_tuning(
    service: Service, tables: IterationTables, played: Played, memory_bytes: float
) -> FineTuning:
    """Return what fine-tuning got in a play.

    Parameters
    ----------
    service, tables
        As played, ``tables`` from ``fill_tables``.
    played
        Its log stands for all iterations.
    memory_bytes
        From ``finetune_bytes``.
    """
    log = played.log
    asked = _Asked(
        decoding=log.decoding.astype(float),
        context=log.context_tokens.astype(float),
        new=log.prompt_tokens.astype(float),
        prompts=log.prompts.astype(float),
    )
    filled = _room(tables, service, asked, tables.least_s)
    lines = max(1, len(filled))
    beside = float(filled.sum()) * float(played.iterations.sum()) / lines
    each = float(_room(tables, service, _NOTHING, tables.least_s)[0]) / tables.least_s
    on = float(played.on_s.sum())
    idle = max(0.0, on - float(played.busy_s.sum()))
    span = max(played.end_time_s, 1e-12)
    alone = each * on / span
    found = (beside + idle * each) / span
    return FineTuning(
        tokens_per_s=found,
        alone_tokens_per_s=alone,
        share=found / alone if alone > 0.0 else 0.0,
        iteration_s=tables.least_s,
        memory_bytes=memory_bytes,
    )


def _room(tables: IterationTables, service: Service, asked: _Asked, limit_s: float) -> Floats:
    """Return the tokens of fine-tuning that fit beside the rest of iterations, by bisection."""
    budget = float(policy_of(service).max_tokens)
    high: Floats = np.maximum(0.0, (budget - asked.decoding - asked.new) / _PASSES)
    low: Floats = np.where(_seconds(tables, service, asked, high) <= limit_s, high, 0.0)
    for _ in range(_STEPS):
        middle: Floats = (low + high) / 2.0
        inside = _seconds(tables, service, asked, middle) <= limit_s
        low, high = np.where(inside, middle, low), np.where(inside, high, middle)
    return low


def _seconds(tables: IterationTables, service: Service, asked: _Asked, tokens: Floats) -> Floats:
    """Return the seconds of iterations with so many tokens of fine-tuning, float64[n].

    A prompt counts as a chunk with nothing before it.
    """
    f = service.finetune
    decoding, new, prompts = asked.decoding, asked.new, asked.prompts
    linear = np.interp(decoding + new + _PASSES * tokens, tables.tokens, tables.mixed_linear_s)
    mean = asked.context / np.maximum(decoding, 1.0)
    reading = _plane(
        tables.sequences, tables.contexts, tables.decode_attention_s, decoding, mean
    ) * (decoding > 0.0)
    first = tables.prefill_attention_s[:, 0]
    chunk = np.interp(new / np.maximum(prompts, 1.0), tables.new_tokens, first) * prompts
    sequence = float(np.interp(float(f.seq_len), tables.new_tokens, first))
    tuned = _ATTENTION_PASSES * sequence * tokens / f.seq_len
    host = tables.host_per_sequence_s * (decoding + prompts)
    host = host + tables.host_s + tables.host_per_prefill_s
    device = np.maximum(linear + reading + chunk + tuned, tables.eager_floor_s)
    found: Floats = device + host
    return found


def _plane(rows: Floats, columns: Floats, values: Floats, y: Floats, x: Floats) -> Floats:
    """Return values between the points of a grid, held to its edges."""
    i, down = _place(rows, y)
    j, right = _place(columns, x)
    above = values[i, j] * (1.0 - right) + values[i, _next(columns, j)] * right
    k = _next(rows, i)
    below = values[k, j] * (1.0 - right) + values[k, _next(columns, j)] * right
    found: Floats = above * (1.0 - down) + below * down
    return found


def _place(grid: Floats, x: Floats) -> tuple[NDArray[np.int64], Floats]:
    at = np.clip(np.searchsorted(grid, x, side="right") - 1, 0, max(0, len(grid) - 2))
    width = grid[_next(grid, at)] - grid[at]
    share = np.where(width > 0.0, (x - grid[at]) / np.maximum(width, 1e-300), 0.0)
    return at.astype(np.int64), np.clip(share, 0.0, 1.0)


def _next(grid: Sequence[float] | Floats, at: NDArray[np.int64]) -> NDArray[np.int64]:
    found: NDArray[np.int64] = np.minimum(at + 1, len(grid) - 1)
    return found
