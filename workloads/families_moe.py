"""What the families with experts mean: a function each, on top of the dense ones."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from ridgeline.workloads.families_common import (
    read_attention,
    read_latent_attention,
    read_layers,
    read_top_k,
    read_windows,
)
from ridgeline.workloads.families_dense import llama
from ridgeline.workloads.fields import Fields
from ridgeline.workloads.model import Model, MoE


def mixtral(fields: Fields) -> Model:
    """Mixtral: Mistral with experts in every layer."""
    base = llama(fields, sliding=True)
    experts = fields.integer("num_local_experts")
    moe = MoE(num_experts=experts, top_k=read_top_k(fields, experts), ffn_hidden=base.ffn_hidden)
    return replace(base, ffn_hidden=0, moe=moe)


def qwen_moe(fields: Fields, *, dense: Callable[[Fields], Model], shared: bool) -> Model:
    """Qwen with experts on top of its ``dense`` reader, Qwen2 also with a gated shared one."""
    base = dense(fields)
    experts = fields.integer("num_experts", "num_local_experts")
    dense_layers = fields.entries("mlp_only_layers")
    if dense_layers != list(range(len(dense_layers))):
        fields.problem("'mlp_only_layers' must be the first layers of the model: 0, 1, 2, ...")
    shared_hidden = fields.integer("shared_expert_intermediate_size") if shared else 0
    moe = MoE(
        num_experts=experts,
        top_k=read_top_k(fields, experts),
        ffn_hidden=fields.integer("moe_intermediate_size"),
        num_shared_experts=int(shared),
        shared_ffn_hidden=shared_hidden,
        shared_gate=shared,
        first_dense_layers=len(dense_layers),
        every=fields.integer("decoder_sparse_step", default=1),
    )
    all_moe = not dense_layers and moe.every == 1
    return replace(base, ffn_hidden=0 if all_moe else base.ffn_hidden, moe=moe)


def deepseek(fields: Fields) -> Model:
    """DeepSeek V2 and V3 and Kimi K2: latent attention, shared experts, leading dense layers."""
    hidden = fields.integer("hidden_size")
    experts = fields.integer("n_routed_experts")
    shared = fields.integer("n_shared_experts", default=0, minimum=0)
    expert_hidden = fields.integer("moe_intermediate_size")
    if fields.integer("moe_layer_freq", default=1) != 1:
        fields.problem("'moe_layer_freq' must be 1: other spacings of experts are not known")
    correction = fields.text("topk_method", "") == "noaux_tc"
    return Model(
        name="",
        family="",
        num_layers=read_layers(fields),
        hidden=hidden,
        ffn_hidden=fields.integer("intermediate_size"),
        vocab=fields.integer("vocab_size"),
        attention=read_latent_attention(fields, bias=fields.flag("attention_bias", False)),
        gated_mlp=True,
        moe=MoE(
            num_experts=experts,
            top_k=read_top_k(fields, experts),
            ffn_hidden=expert_hidden,
            num_shared_experts=shared,
            shared_ffn_hidden=shared * expert_hidden,
            router_bias=correction,
            first_dense_layers=fields.integer("first_k_dense_replace", default=0, minimum=0),
            groups=fields.integer("n_group", default=1),
            top_groups=fields.integer("topk_group", default=0, minimum=0),
        ),
        tied_embeddings=fields.flag("tie_word_embeddings", False),
        num_mtp_layers=fields.integer("num_nextn_predict_layers", default=0, minimum=0),
        max_positions=fields.integer("max_position_embeddings", default=0, minimum=0),
    )


def gpt_oss(fields: Fields) -> Model:
    """gpt-oss: experts with biases, attention sinks, every other layer slides."""
    hidden = fields.integer("hidden_size")
    layers = read_layers(fields)
    bias = fields.flag("attention_bias", True)
    experts = fields.integer("num_local_experts")
    window = fields.integer("sliding_window", default=128)
    return Model(
        name="",
        family="",
        num_layers=layers,
        hidden=hidden,
        ffn_hidden=0,
        vocab=fields.integer("vocab_size"),
        attention=read_attention(
            fields, hidden, head_dim=64, qkv_bias=bias, out_bias=bias, sinks=True
        ),
        gated_mlp=True,
        moe=MoE(
            num_experts=experts,
            top_k=read_top_k(fields, experts, "num_experts_per_tok", "experts_per_token"),
            ffn_hidden=fields.integer("intermediate_size"),
            router_bias=True,
            expert_bias=True,
            clamped=True,
        ),
        tied_embeddings=fields.flag("tie_word_embeddings", False),
        windows=read_windows(fields, layers, window, lambda index: index % 2 == 0),
        max_positions=fields.integer("max_position_embeddings", default=0, minimum=0),
    )


def glm4_moe(fields: Fields) -> Model:
    """GLM-4.5: shared experts, leading dense layers, a layer that predicts further tokens."""
    base = llama(fields)
    experts = fields.integer("n_routed_experts")
    shared = fields.integer("n_shared_experts", default=1, minimum=0)
    expert_hidden = fields.integer("moe_intermediate_size")
    return replace(
        base,
        attention=replace(
            base.attention, out_bias=False, qk_norm=fields.flag("use_qk_norm", False)
        ),
        moe=MoE(
            num_experts=experts,
            top_k=read_top_k(fields, experts),
            ffn_hidden=expert_hidden,
            num_shared_experts=shared,
            shared_ffn_hidden=shared * expert_hidden,
            router_bias=True,
            first_dense_layers=fields.integer("first_k_dense_replace", default=1, minimum=0),
        ),
        num_mtp_layers=fields.integer("num_nextn_predict_layers", default=0, minimum=0),
    )


def llama4(fields: Fields) -> Model:
    """Llama 4, text part: one routed and one shared expert, attention within chunks."""
    base = llama(fields)
    experts = fields.integer("num_local_experts")
    step = fields.integer("interleave_moe_layer_step", default=1)
    chunk = fields.integer("attention_chunk_size", default=8192)
    return replace(
        base,
        ffn_hidden=0 if step == 1 else fields.integer("intermediate_size_mlp"),
        moe=MoE(
            num_experts=experts,
            top_k=read_top_k(fields, experts),
            ffn_hidden=base.ffn_hidden,
            num_shared_experts=1,
            shared_ffn_hidden=base.ffn_hidden,
            every=step,
        ),
        # Three layers of four attend within chunks. A window as long as the chunk is the same up
        # to one chunk and an upper bound of the work beyond it.
        windows=tuple(chunk if (index + 1) % 4 else 0 for index in range(base.num_layers)),
    )


def grok(fields: Fields) -> Model:
    """Grok-1: experts in every layer, norms before and behind each block."""
    base = llama(fields)
    experts = fields.integer("num_experts")
    moe = MoE(num_experts=experts, top_k=read_top_k(fields, experts), ffn_hidden=base.ffn_hidden)
    return replace(
        base,
        ffn_hidden=0,
        moe=moe,
        norms_per_layer=4,
        tied_embeddings=fields.flag("tie_word_embeddings", True),
    )
