"""Exact parameter counts of a model, whole and by layer.

Shapes: h hidden, f ffn_hidden, a heads, g kv_heads, d head_dim, v vocab, E experts.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from ridgeline.workloads.forms import Form
from ridgeline.workloads.mixers import convolution_parameters, linear_parameters
from ridgeline.workloads.model import Attention, Model, MoE
from ridgeline.workloads.towers import (
    condition_parameters,
    cross_parameters,
    head_parameters,
    input_parameters,
)


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
    table: int = 0
    """Values of a memory, of which a token reads a few."""

    @property
    def dense(self) -> int:
        """All but routed experts and a memory's values: what every token uses."""
        return self.attention + self.mlp + self.router + self.shared_experts + self.norms

    @property
    def total(self) -> int:
        """All parameters of the layer."""
        return self.dense + self.routed_experts + self.table


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerKind:
    """The layers of a model that are alike in shape."""

    index_of_first: int
    count: int
    window: int
    """Sliding window, 0 for full attention."""
    form: Form

    @property
    def is_moe(self) -> bool:
        """Whether they route to experts."""
        return self.form.is_moe

    @property
    def is_linear(self) -> bool:
        """Whether they have linear attention."""
        return self.form.is_linear


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameters:
    """Parameters of a model, by part. The parts other than ``mtp`` add up to ``total``."""

    total: int
    """Without multi-token-prediction modules, as papers print it."""
    active: int
    """Used by one token: ``total`` less experts not chosen and values not looked up (embeddings
    included)."""
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
    table: int = 0
    """Values of memory layers."""
    towers: int = 0
    """Towers with their projectors."""

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
    if model.norm == "plain":
        return 0
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
    return qkv + out + (heads if attention.sinks else 0) + _block_sparse(hidden, attention)


def _block_sparse(hidden: int, attention: Attention) -> int:
    # A perceptron of one hidden layer over a block's keys, and one over its values, with a place
    # for each of the block's keys; a gate a head and branch (arXiv:2502.11089, section 3.3.1).
    blocks = attention.blocks
    if blocks is None:
        return 0
    widths = (attention.head_dim, attention.v_head_dim)
    networks = sum(blocks.block * d * d + d * d + blocks.block * d for d in widths)
    return networks + hidden * 3 * attention.heads


def _indexer(hidden: int, attention: Attention) -> int:
    # Queries from the query's latent, one shared key with its LayerNorm, a weight per head
    # (DeepSeek-V3.2-Exp, equation 1).
    if not attention.index_heads:
        return 0
    dim = attention.index_head_dim
    queries = attention.q_lora_rank * attention.index_heads * dim
    return queries + hidden * dim + 2 * dim + hidden * attention.index_heads


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
def _layer_parameters(model: Model, form: Form) -> LayerParameters:
    hidden, memory, moe = model.hidden, model.memory, model.moe
    if form.repeats:
        return LayerParameters(
            attention=0, mlp=0, router=0, shared_experts=0, routed_experts=0, norms=0
        )
    norms = model.norms_per_layer * _norm(model, hidden)
    if not form.has_mixer or not form.has_feed_forward:
        norms //= 2
    norms += _norm(model, hidden) if model.cross is not None else 0
    mlp = router = shared = routed = table = 0
    if form.is_moe:
        assert moe is not None
        router = hidden * moe.num_experts + (moe.num_experts if moe.router_bias else 0)
        shared = _shared_experts(model, moe)
        routed = moe.num_experts * expert_parameters(model)
    elif form.is_memory:
        assert memory is not None
        mlp = memory.weights(hidden) + memory.half_key_weights
        table = memory.table if form.feed_forward == "memory" else 0
    elif form.has_feed_forward:
        mlp = _mlp(hidden, model.ffn_hidden, model.gated_mlp, model.mlp_bias)
    if form.capacity < 1.0:
        router += hidden
    return LayerParameters(
        attention=_mixer(model, form) + cross_parameters(model) + condition_parameters(model),
        mlp=mlp,
        router=router,
        shared_experts=shared,
        routed_experts=routed,
        norms=norms + (_attention_norms(model) if form.mixer == "attention" else 0),
        table=table,
    )


def _mixer(model: Model, form: Form) -> int:
    hidden = model.hidden
    if form.is_linear and model.linear is not None:
        count = linear_parameters(hidden, model.linear)
    elif form.mixer == "convolution" and model.convolution is not None:
        count = convolution_parameters(hidden, model.convolution)
    elif form.mixer == "attention":
        count = _attention(hidden, model.attention)
    else:
        return 0
    if model.position == "relative":
        # Transformer-XL projects the encoding of distances to keys, one matrix a layer.
        count += hidden * model.attention.heads * model.attention.head_dim
    return count


def layer_parameters(model: Model, index: int) -> LayerParameters:
    """Return the parameters of layer ``index`` (from 0)."""
    return _layer_parameters(model, model.form(index))


@lru_cache(maxsize=1024)
def distinct_layers(model: Model) -> tuple[LayerKind, ...]:
    """Return the kinds of layers of a model.

    Layers are grouped, adjacent or not, by their form and window; groups are ordered by their
    first layer, and their counts add up to ``num_layers``.
    """
    first: dict[tuple[Form, int], int] = {}
    count: dict[tuple[Form, int], int] = {}
    for index in range(model.num_layers):
        key = (model.form(index), model.window(index))
        first.setdefault(key, index)
        count[key] = count.get(key, 0) + 1
    return tuple(
        LayerKind(index_of_first=first[key], count=count[key], form=key[0], window=key[1])
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
    embedding += input_parameters(model)
    head += head_parameters(model)
    positions = model.learned_positions * model.hidden
    positions += model.position_buckets * model.attention.heads
    norms = _norm(model, model.hidden) * (int(model.final_norm) + int(model.embedding_norm))
    attention = mlp = experts = table = unused = 0
    moe, memory = model.moe, model.memory
    for kind in distinct_layers(model):
        layer = layer_parameters(model, kind.index_of_first)
        norms += kind.count * layer.norms
        attention += kind.count * layer.attention
        mlp += kind.count * (layer.mlp + layer.router + layer.shared_experts)
        experts += kind.count * layer.routed_experts
        if kind.is_moe and moe is not None:
            idle = moe.num_experts - moe.top_k
            unused += kind.count * idle * expert_parameters(model)
        table += kind.count * layer.table
        if kind.form.is_memory and memory is not None:
            unused += kind.count * (layer.table - memory.looked_up())
    inside = [parameters(tower.model) for tower in model.towers]
    projectors = sum(tower.projector_parameters for tower in model.towers)
    towers = sum(count.total for count in inside) + projectors
    unused += sum(count.total - count.active for count in inside)
    total = embedding + head + positions + norms + attention + mlp + experts + table + towers
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
        table=table,
        towers=towers,
    )
