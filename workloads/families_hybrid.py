"""What the families with gated delta nets, sparse attention or whole-width norms mean."""

from __future__ import annotations

from dataclasses import replace

from ridgeline.workloads.families_common import read_attention, read_layers, read_top_k
from ridgeline.workloads.families_dense import llama
from ridgeline.workloads.families_moe import deepseek
from ridgeline.workloads.fields import Fields
from ridgeline.workloads.model import LinearAttention, Model, MoE


def gptj(fields: Fields) -> Model:
    """GPT-J: attention without biases beside an MLP with them, one norm before both."""
    hidden = fields.integer("n_embd", "hidden_size")
    return Model(
        name="",
        family="",
        num_layers=read_layers(fields, "n_layer", "num_hidden_layers"),
        hidden=hidden,
        ffn_hidden=fields.integer("n_inner", default=4 * hidden),
        vocab=fields.integer("vocab_size"),
        attention=read_attention(fields, hidden, heads_names=("n_head", "num_attention_heads")),
        gated_mlp=False,
        mlp_bias=True,
        tied_embeddings=fields.flag("tie_word_embeddings", False),
        head_bias=True,
        norm="layernorm",
        norms_per_layer=1,
        parallel_block=True,
        max_positions=fields.integer("n_positions", default=0, minimum=0),
    )


def minimax_m2(fields: Fields) -> Model:
    """MiniMax-M2: experts in every layer, query and key normed over all heads together."""
    base = llama(fields)
    experts = fields.integer("num_local_experts")
    return replace(
        base,
        ffn_hidden=0,
        attention=replace(
            base.attention, qk_norm=fields.flag("use_qk_norm", True), qk_norm_full=True
        ),
        moe=MoE(
            num_experts=experts,
            top_k=read_top_k(fields, experts),
            ffn_hidden=base.ffn_hidden,
            router_bias=fields.flag("use_routing_bias", True),
        ),
    )


def glm_moe_dsa(fields: Fields) -> Model:
    """GLM-5: DeepSeek-V3's layers with an indexer that picks the keys of a query."""
    base = deepseek(fields)
    return replace(
        base,
        attention=replace(
            base.attention,
            index_heads=fields.integer("index_n_heads"),
            index_head_dim=fields.integer("index_head_dim"),
            index_top_k=fields.integer("index_topk"),
        ),
    )


def qwen3_5_moe(fields: Fields) -> Model:
    """Qwen3-Next and Qwen3.5: gated delta nets but for each fourth layer, many small experts."""
    hidden = fields.integer("hidden_size")
    experts = fields.integer("num_experts")
    dim = fields.integer("head_dim", default=256)
    attention = read_attention(fields, hidden, head_dim=dim, qk_norm=True)
    return Model(
        name="",
        family="",
        num_layers=read_layers(fields),
        hidden=hidden,
        ffn_hidden=0,
        vocab=fields.integer("vocab_size"),
        attention=replace(attention, output_gate=fields.flag("attn_output_gate", True)),
        gated_mlp=True,
        moe=MoE(
            num_experts=experts,
            top_k=read_top_k(fields, experts),
            ffn_hidden=fields.integer("moe_intermediate_size"),
            num_shared_experts=1,
            shared_ffn_hidden=fields.integer("shared_expert_intermediate_size"),
            shared_gate=True,
        ),
        linear=LinearAttention(
            key_heads=fields.integer("linear_num_key_heads"),
            value_heads=fields.integer("linear_num_value_heads"),
            key_head_dim=fields.integer("linear_key_head_dim"),
            value_head_dim=fields.integer("linear_value_head_dim"),
            conv_kernel=fields.integer("linear_conv_kernel_dim", default=4),
            every=fields.integer("full_attention_interval", default=4, minimum=2),
        ),
        tied_embeddings=fields.flag("tie_word_embeddings", False),
        num_mtp_layers=fields.integer("mtp_num_hidden_layers", default=0, minimum=0),
        max_positions=fields.integer("max_position_embeddings", default=0, minimum=0),
    )
