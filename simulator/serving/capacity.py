"""Memory of a service: weights, cache and how many tokens and sequences fit."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ridgeline.errors import InfeasibleError
from ridgeline.simulator.serving import layers as layer_kinds
from ridgeline.simulator.serving.adapted import adapter_bytes
from ridgeline.simulator.serving.attention import linear_state_bytes
from ridgeline.simulator.serving.coserve import finetune_bytes
from ridgeline.simulator.serving.kept import kept_tokens
from ridgeline.simulator.serving.predicted import auxiliary, predictor_parameters
from ridgeline.simulator.serving.service import Service
from ridgeline.simulator.serving.shape import Shape, make_shape
from ridgeline.simulator.serving.towers import tower_shape
from ridgeline.workloads.parameters import distinct_layers, layer_parameters, parameters

_GIB = 2.0**30
_MOST_WORKSPACE = 0.5
"""Share of what weights leave that buffers of experts take at most."""
_CHUNKS = ((60.0, 4096), (35.0, 2048))
"""Memory in GiB below which SGLang cuts prompts into chunks of so many tokens at most."""
TYPICAL_CONTEXT = 4096
"""Tokens of a sequence at which windows and states are spread over its tokens, by default."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Capacity:
    """Memory of one accelerator of the fullest rank of a replica, bytes unless said otherwise."""

    memory_bytes: float
    """What the driver reports."""
    weight_bytes: float
    reserve_bytes: float
    cache_bytes: float
    """Left for the cache by the engine's rule."""
    kv_bytes_per_token: float
    """A sequence's cache over its tokens: windows and states of linear layers spread over them."""
    kv_tokens: int
    """Tokens that the caches of one replica hold (all data ranks together)."""
    block_tokens: int


def _layer_kv_bytes(s: Shape) -> float:
    """Return the bytes that a token takes in the cache of one layer and rank.

    2 g d bytes-per-value, with g the KV heads of the rank: heads are copied where there are more
    ranks than heads. MLA keeps one latent row that every tensor rank copies (DeepSeek-V2, arXiv
    2405.04434: kv_lora_rank + rope_head_dim); sparse attention adds the indexer's key in fp8.
    """
    a = s.model.attention
    if a.kind == "mla":
        width = a.kv_lora_rank + a.rope_head_dim
        return width * s.scheme.kv_bytes + a.index_head_dim
    values = s.kv_heads * (a.head_dim + a.v_head_dim) * s.scheme.kv_bytes
    return values * (1.0 + 1.0 / a.blocks.stride) if a.blocks is not None else values


def sequence_bytes(s: Shape, context: float) -> float:
    """Return the bytes of one sequence's cache on one rank at a context.

    A layer with a sliding window keeps no more than the window where the engine gives back what
    lies behind it; linear layers keep their state.
    """
    total = 0.0
    for kind in distinct_layers(s.model):
        if kind.is_linear:
            total += kind.count * linear_state_bytes(s)
        elif kind.form.mixer == "attention":
            kept = context * kind.form.capacity
            if s.engine.frees_windows:
                kept = layer_kinds.kept_tokens(kind, context)
            kept = min(kept, kept_tokens(s, context))
            total += kind.count * kept * _layer_kv_bytes(s)
    return total / s.service.pp


def weight_bytes(s: Shape) -> float:
    """Return the bytes of the weights of the fullest rank.

    Projections and dense MLPs take the linear format over tp, routed experts theirs over tp dp,
    embedding, head, router and norms 16 bits (vocabulary over tp, norms and router whole); latent
    projections of MLA that are shared by heads are whole on every rank. With pipeline stages the
    first or last also holds the embedding or the head.
    """
    model, service = s.model, s.service
    scheme = s.scheme
    forms = (scheme.plain, scheme.attention, scheme.linear, scheme.experts)
    plain, attention, linear, expert = (form.weight_bytes for form in forms)
    tp, ranks = service.tp, service.tp * service.dp
    copies = 1.0
    if model.moe is not None:
        copies = max(1.0, service.expert_slots / model.moe.num_experts)
    layers = 0.0
    for kind in distinct_layers(model):
        part = layer_parameters(model, kind.index_of_first)
        alone = kind.form.mixer == "attention" and not kind.form.repeats
        whole = _replicated(s) if alone else 0
        layers += kind.count * (
            attention * ((part.attention - whole) / tp + whole)
            + linear * (part.mlp + part.shared_experts) / tp
            + plain * part.table / tp
            + plain * (part.norms + part.router)
            + expert * copies * part.routed_experts / ranks
        )
    count = parameters(model)
    embedding = plain * (count.embedding / tp + count.positions)
    head = plain * (count.head or (count.embedding if service.pp > 1 else 0)) / tp
    drafts = 0.0
    if s.draft_tokens and model.num_mtp_layers:
        drafts = layers / model.num_layers
    stage = math.ceil(model.num_layers / service.pp) / model.num_layers
    towers = sum(weight_bytes(tower_shape(s, tower)) for tower in model.towers)
    towers += plain * sum(tower.projector_parameters for tower in model.towers)
    if service.pp > 1:
        return layers * stage + max(embedding + towers, head + drafts)
    return layers + embedding + head + drafts + towers + _beside(s)


def _beside(s: Shape) -> float:
    """Return the bytes of weights beside the model's: adapters, who predicts its KV."""
    service = s.service
    found = service.adapters.held * adapter_bytes(s) if service.adapters.count else 0.0
    found += finetune_bytes(s) if service.finetune.rank else 0.0
    if service.kv_predictor:
        reader = make_shape(auxiliary(service))
        predictors = predictor_parameters(s.model, reader.model) / service.tp
        found += weight_bytes(reader) + reader.scheme.plain.weight_bytes * predictors
    return found


def _replicated(s: Shape) -> int:
    """Return the attention weights of a layer that tensor ranks copy instead of splitting."""
    a, h, tp = s.model.attention, s.model.hidden, s.service.tp
    if a.kind == "mla":
        index = a.index_heads * (a.q_lora_rank * a.index_head_dim + h) + h * a.index_head_dim
        down = h * (a.q_lora_rank + a.kv_lora_rank + a.rope_head_dim)
        return down + (index if a.index_heads else 0)
    if tp > a.kv_heads:
        # keys and values: a head on each rank, less what an even split already counts
        extra = h * (a.head_dim + a.v_head_dim) * (tp - a.kv_heads)
        return extra // tp
    return 0


def capacity(service: Service, context: int = TYPICAL_CONTEXT) -> Capacity:
    """Return the memory of a service and how many tokens its cache holds.

    vLLM and SGLang: fraction x memory - weights - reserve (SGLang's fraction: ``headroom_bytes``);
    TensorRT-LLM: fraction x (memory - weights - reserve).

    Parameters
    ----------
    service
        What serves.
    context
        Tokens of a typical sequence, prompt and output: only models with sliding windows or
        linear layers depend on it.

    Raises
    ------
    InfeasibleError
        The weights leave no room for a single block of cache.
    """
    return shape_capacity(make_shape(service), context)


def shape_capacity(s: Shape, context: int = TYPICAL_CONTEXT) -> Capacity:
    """Return the capacity of local sizes; see ``capacity``."""
    engine, service = s.engine, s.service
    memory = s.accelerator.memory_bytes
    fraction = service.limits.memory_fraction or engine.memory_fraction
    if engine.memory_rule == "headroom" and not service.limits.memory_fraction:
        fraction = max(0.0, 1.0 - headroom_bytes(s) / memory)
    weights = weight_bytes(s)
    left = max(0.0, memory - weights - engine.reserve_bytes)
    # larger workspaces are avoided: experts then take their tokens in chunks
    workspace = min(engine.expert_workspace * pair_bytes(s), _MOST_WORKSPACE * left)
    reserve = engine.reserve_bytes + workspace
    if engine.memory_rule == "free":
        free = fraction * (memory - weights - reserve)
    else:
        free = fraction * memory - weights - reserve
    length = max(1, service.kv_budget.context or context)
    per_token = sequence_bytes(s, float(length)) / length
    block = service.limits.block_tokens or engine.block_tokens
    blocks = int(max(0.0, free) / per_token // block)
    if blocks < 1:
        raise InfeasibleError(_too_large(s, weights, fraction))
    return Capacity(
        memory_bytes=memory,
        weight_bytes=weights,
        reserve_bytes=reserve,
        cache_bytes=free,
        kv_bytes_per_token=per_token,
        kv_tokens=blocks * block * service.dp,
        block_tokens=block,
    )


def headroom_bytes(s: Shape) -> float:
    """Return the memory that SGLang leaves beside weights and cache when no fraction is stated.

    512 + 1.5 tokens of a chunk + 2 sequences of the largest graph (256) + 128 tp pp MiB, with the
    chunk of its defaults by memory (SGLang, ``python/sglang/srt/server_args.py``).
    """
    service = s.service
    chunk = s.engine.token_budget
    for most_gib, tokens in _CHUNKS:
        if s.accelerator.memory_bytes < most_gib * _GIB:
            chunk = min(chunk, tokens)
    return (512.0 + 1.5 * chunk + 2.0 * 256.0 + 128.0 * service.tp * service.pp) * 2.0**20


def pair_bytes(s: Shape) -> float:
    """Return the bytes of the buffers between the products of experts in a full iteration.

    Each pair of a token and one of its k experts: hidden values gathered in the experts' format,
    the product before the activation and the result in 16 bits, the activation in the experts'
    format. Under attention data parallelism a rank gathers the tokens of all ranks; as any expert
    may be chosen by all of them, buffers are not cut by expert parallelism.
    """
    moe, service = s.model.moe, s.service
    if moe is None:
        return 0.0
    tokens = (service.limits.max_tokens or s.engine.token_budget) * service.dp
    inner, fan = moe.ffn_hidden / s.expert_tp, 2.0 if s.model.gated_mlp else 1.0
    narrow = s.scheme.experts.activation_bytes
    width = (narrow + 2.0) * s.model.hidden + (2.0 * fan + narrow) * inner
    return tokens * moe.top_k * width


def _too_large(s: Shape, weights: float, fraction: float) -> str:
    service = s.service
    have = s.accelerator.memory_bytes / _GIB
    needed = weights + s.engine.reserve_bytes
    split = math.ceil(needed / max(fraction * s.accelerator.memory_bytes, s.engine.reserve_bytes))
    return (
        f"model {s.model.name} in {service.precision} takes {weights / _GIB:.1f} GiB of weights "
        f"on each accelerator at tp {service.tp}, pp {service.pp}, ep {service.ep}; "
        f"{s.accelerator.name} has {have:.1f} GiB, of which {service.engine} uses {fraction:.0%} "
        f"with {s.engine.reserve_bytes / _GIB:.1f} GiB set aside: split it {max(2, split)} times "
        "as far (tp, pp, ep), quantise the weights or take a larger accelerator"
    )


def max_batch(service: Service, context: int) -> int:
    """Return how many sequences of ``context`` tokens the caches of one replica hold at once.

    Sliding windows and linear layers count with what they keep; the engine's limit on running
    sequences applies.

    Raises
    ------
    InfeasibleError
        Not one fits.
    """
    s = make_shape(service)
    room = shape_capacity(s)
    one = sequence_bytes(s, float(max(1, context)))
    fits = int(room.cache_bytes // one) * service.dp
    if fits < 1:
        raise InfeasibleError(
            f"a sequence of {context} tokens takes {one / _GIB:.2f} GiB of cache on each "
            f"accelerator, and {room.cache_bytes / _GIB:.2f} GiB are left: shorten it, quantise "
            "the cache or split the model further"
        )
    return min(fits, service.limits.max_sequences or s.engine.max_sequences)
