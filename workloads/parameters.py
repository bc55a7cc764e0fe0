"""Exact parameter counts of a model, whole and by layer.

Shapes: h hidden, f ffn_hidden, a heads, g kv_heads, d head_dim, v vocab, E experts.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from ridgeline.workloads.model import Attention, LinearAttention, Model, MoE


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerParameters:
    """Parameters of one transformer layer, by part."""

    attention: int
    """Projections of attention with their biases and sinks."""
    mlp: int
    """Dense MLP, 0 on an MoE layer."""
    router: int
    shared_experts: int
    """All shared experts together, with their gate."""
    routed_experts: int
    """All routed experts together, used or not."""
    norms: int
    """Norms around the blocks and inside attention (query, key, MLA's latents)."""

    @property
    def dense(self) -> int:
        """All but the routed experts: what every token uses."""
        return self.attention + self.mlp + self.router + self.shared_experts + self.norms

    @property
    def total(self) -> int:
        """All parameters of the layer."""
        return self.dense + self.routed_experts


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerKind:
    """The layers of a model that are alike in shape."""

    index_of_first: int
    count: int
    is_moe: bool
    window: int
    """Sliding window, 0 for full attention."""
    is_linear: bool = False
    """Linear attention in place of attention."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameters:
    """Parameters of a model, by part. The parts other than ``mtp`` add up to ``total``."""

    total: int
    """Without multi-token-prediction modules, as papers print it."""
    active: int
    """Used by one token: ``total`` less the routed experts not chosen (embeddings included)."""
    embedding: int
    """Token embedding (with its projections where it is narrower than h)."""
    head: int
    """Output projection, 0 when tied to the embedding."""
    positions: int
    """Learned position table."""
    norms: int
    attention: int
    mlp: int
    """Dense MLPs, routers and shared experts."""
    experts: int
    """Routed experts."""
    mtp: int
    """Multi-token-prediction modules, which share embedding and head with the model."""

    @property
    def total_with_mtp(self) -> int:
        """Everything that is trained."""
        return self.total + self.mtp

    @property
    def non_embedding(self) -> int:
        """``total`` without token embedding, head and positions."""
        return self.total - self.embedding - self.head - self.positions


def _projection(inputs: int, outputs: int, bias: bool) -> int:
    return inputs * outputs + (outputs if bias else 0)


def _norm(model: Model, width: int) -> int:
    has_bias = model.norm == "layernorm" and model.norm_bias
    return width * (2 if has_bias else 1)


def _attention(hidden: int, attention: Attention) -> int:
    heads, kv_heads = attention.heads, attention.kv_heads
    head_dim, v_head_dim = attention.head_dim, attention.v_head_dim
    bias = attention.qkv_bias
    out = _projection(heads * v_head_dim, hidden, attention.out_bias)
    if attention.kind == "mla":
        rank, kv_rank, rope = attention.q_lora_rank, attention.kv_lora_rank, attention.rope_head_dim
        if rank:
            query = _projection(hidden, rank, bias) + rank * heads * head_dim
        else:
            query = hidden * heads * head_dim
        down = _projection(hidden, kv_rank + rope, bias)
        up = kv_rank * heads * (head_dim - rope + v_head_dim)
        return query + down + up + out + _indexer(hidden, attention)
    queries = heads * (head_dim + v_head_dim if attention.output_gate else head_dim)
    qkv = _projection(hidden, queries + kv_heads * (head_dim + v_head_dim), bias)
    return qkv + out + (heads if attention.sinks else 0)


def _indexer(hidden: int, attention: Attention) -> int:
    # Queries from the query's latent, one shared key with its LayerNorm, a weight per head
    # (DeepSeek-V3.2-Exp, equation 1).
    if not attention.index_heads:
        return 0
    dim = attention.index_head_dim
    queries = attention.q_lora_rank * attention.index_heads * dim
    return queries + hidden * dim + 2 * dim + hidden * attention.index_heads


def linear_attention_parameters(hidden: int, linear: LinearAttention) -> int:
    """Return the parameters of a gated delta net.

    Projections to query, key, value and output gate, to the decay and the step of every value
    head, a depthwise convolution over query, key and value, a decay rate and a bias per value
    head, the norm of a value head and the output projection.
    """
    keys = linear.key_heads * linear.key_head_dim
    values = linear.value_heads * linear.value_head_dim
    projections = hidden * (2 * keys + 2 * values + 2 * linear.value_heads) + values * hidden
    convolution = linear.conv_kernel * (2 * keys + values)
    return projections + convolution + 2 * linear.value_heads + linear.value_head_dim


def _attention_norms(model: Model) -> int:
    attention = model.attention
    inner = 0
    if attention.kind == "mla":
        inner += attention.q_lora_rank + attention.kv_lora_rank
    if attention.qk_norm:
        width = attention.head_dim * (
            attention.heads + attention.kv_heads if attention.qk_norm_full else 2
        )
        inner += _norm(model, width)
    return inner


def _mlp(hidden: int, ffn_hidden: int, gated: bool, bias: bool) -> int:
    up = ffn_hidden * (2 if gated else 1)
    return _projection(hidden, up, bias) + _projection(ffn_hidden, hidden, bias)


def expert_parameters(model: Model) -> int:
    """Return the parameters of one routed expert, 0 for a dense model."""
    moe = model.moe
    if moe is None:
        return 0
    return _mlp(model.hidden, moe.ffn_hidden, model.gated_mlp, moe.expert_bias)


def _shared_experts(model: Model, moe: MoE) -> int:
    if not moe.num_shared_experts:
        return 0
    shared = _mlp(model.hidden, moe.shared_ffn_hidden, model.gated_mlp, moe.expert_bias)
    return shared + (model.hidden if moe.shared_gate else 0)


@lru_cache(maxsize=1024)
def _layer_parameters(model: Model, is_moe: bool, is_linear: bool) -> LayerParameters:
    hidden = model.hidden
    norms = model.norms_per_layer * _norm(model, hidden)
    if is_linear and model.linear is not None:
        attention = linear_attention_parameters(hidden, model.linear)
    else:
        norms += _attention_norms(model)
        attention = _attention(hidden, model.attention)
    if model.position == "relative":
        # Transformer-XL projects the encoding of distances to keys, one matrix a layer.
        attention += hidden * model.attention.heads * model.attention.head_dim
    if is_moe:
        moe = model.moe
        assert moe is not None
        router = hidden * moe.num_experts + (moe.num_experts if moe.router_bias else 0)
        return LayerParameters(
            attention=attention,
            mlp=0,
            router=router,
            shared_experts=_shared_experts(model, moe),
            routed_experts=moe.num_experts * expert_parameters(model),
            norms=norms,
        )
    return LayerParameters(
        attention=attention,
        mlp=_mlp(hidden, model.ffn_hidden, model.gated_mlp, model.mlp_bias),
        router=0,
        shared_experts=0,
        routed_experts=0,
        norms=norms,
    )


def layer_parameters(model: Model, index: int) -> LayerParameters:
    """Return the parameters of layer ``index`` (from 0)."""
    return _layer_parameters(model, model.is_moe_layer(index), model.is_linear_layer(index))


@lru_cache(maxsize=1024)
def distinct_layers(model: Model) -> tuple[LayerKind, ...]:
    """Return the kinds of layers of a model.

    Layers are grouped, adjacent or not, by whether they route to experts, by their window and by
    whether their attention is linear; groups are ordered by their first layer, and their counts
    add up to ``num_layers``.
    """
    first: dict[tuple[bool, int, bool], int] = {}
    count: dict[tuple[bool, int, bool], int] = {}
    for index in range(model.num_layers):
        key = (model.is_moe_layer(index), model.window(index), model.is_linear_layer(index))
        first.setdefault(key, index)
        count[key] = count.get(key, 0) + 1
    return tuple(
        LayerKind(
            index_of_first=first[key],
            count=count[key],
            is_moe=key[0],
            window=key[1],
            is_linear=key[2],
        )
        for key in first
    )


def _mtp(model: Model) -> int:
    # One layer, the projection of [hidden, embedding] to h, and a norm for each of hidden,
    # embedding and output; embedding and head are the model's own (DeepSeek-V3, section 2.2).
    if not model.num_mtp_layers:
        return 0
    layer = layer_parameters(model, model.num_layers - 1)
    module = layer.total + 2 * model.hidden * model.hidden + 3 * _norm(model, model.hidden)
    return model.num_mtp_layers * module


@lru_cache(maxsize=1024)
def parameters(model: Model) -> Parameters:
    """Count the parameters of a model exactly.

    Every weight, bias and norm that a checkpoint of the model stores is counted once; tied
    embeddings are counted once; vocabulary padding counts only where ``model.vocab`` has it.
    """
    width = model.embedding_dim or model.hidden
    embedding = model.vocab * width
    if width != model.hidden:
        embedding += 2 * width * model.hidden
    head = 0 if model.tied_embeddings else model.vocab * width
    head += model.vocab if model.head_bias else 0
    positions = model.learned_positions * model.hidden
    norms = _norm(model, model.hidden) * (int(model.final_norm) + int(model.embedding_norm))
    attention = mlp = experts = unused = 0
    moe = model.moe
    for kind in distinct_layers(model):
        layer = layer_parameters(model, kind.index_of_first)
        norms += kind.count * layer.norms
        attention += kind.count * layer.attention
        mlp += kind.count * (layer.mlp + layer.router + layer.shared_experts)
        experts += kind.count * layer.routed_experts
        if kind.is_moe and moe is not None:
            idle = moe.num_experts - moe.top_k
            unused += kind.count * idle * expert_parameters(model)
    total = embedding + head + positions + norms + attention + mlp + experts
    return Parameters(
        total=total,
        active=total - unused,
        embedding=embedding,
        head=head,
        positions=positions,
        norms=norms,
        attention=attention,
        mlp=mlp,
        experts=experts,
        mtp=_mtp(model),
    )
