"""What the families with layers of several kinds mean: Mamba-2, Kimi delta, sparse attention."""

from __future__ import annotations

from ridgeline.workloads.families_common import (
    read_attention,
    read_latent_attention,
    read_layers,
    read_top_k,
)
from ridgeline.workloads.families_hybrid import glm_moe_dsa, qwen3_5_moe
from ridgeline.workloads.fields import Fields
from ridgeline.workloads.model import Attention, LinearAttention, Model, MoE

_BLOCKS = {"M": ("linear", "none"), "*": ("attention", "none"), "-": ("none", "mlp")}
_ROUTED = ("none", "moe")


def qwen3_next(fields: Fields) -> Model:
    """Qwen3-Next: Qwen3.5's layers, whose file says which layers are dense."""
    if fields.integer("decoder_sparse_step", default=1) != 1 or fields.entries("mlp_only_layers"):
        fields.problem("'decoder_sparse_step' and 'mlp_only_layers': dense layers are not known")
    return qwen3_5_moe(fields)


def deepseek_v32(fields: Fields) -> Model:
    """DeepSeek-V3.2: DeepSeek-V3's layers with an indexer that picks the keys of a query."""
    return glm_moe_dsa(fields)


def mamba2(fields: Fields) -> Model:
    """Mamba-2 alone: no attention, no MLP, one norm a layer."""
    hidden = fields.integer("hidden_size")
    dim = fields.integer("head_dim", default=64)
    inner = hidden * fields.integer("expand", default=2)
    heads = fields.integer("num_heads", default=max(1, inner // dim))
    if heads * dim != inner:
        fields.problem(
            f"{heads} heads of {dim}: must make up 'expand' times the hidden size, {inner}",
            *("num_heads", "head_dim", "hidden_size", "expand"),
        )
    layers = read_layers(fields)
    return Model(
        name="",
        family="",
        num_layers=layers,
        hidden=hidden,
        ffn_hidden=0,
        vocab=fields.integer("vocab_size"),
        attention=Attention(kind="gqa", heads=heads, kv_heads=heads, head_dim=dim, v_head_dim=dim),
        gated_mlp=False,
        linear=LinearAttention(
            kind="mamba2",
            key_heads=fields.integer("n_groups", default=8),
            value_heads=heads,
            key_head_dim=fields.integer("state_size", default=128),
            value_head_dim=dim,
            conv_kernel=fields.integer("conv_kernel", default=4),
        ),
        mixers=("linear",) * layers,
        feed_forwards=("none",) * layers,
        tied_embeddings=fields.flag("tie_word_embeddings", False),
        position="none",
    )


def nemotron_h(fields: Fields) -> Model:
    """Nemotron-H: layers of one block each, Mamba-2 (M), attention (*), MLP (-) or experts (E)."""
    hidden = fields.integer("hidden_size")
    layers = read_layers(fields)
    pattern = fields.text("hybrid_override_pattern")
    blocks = {**_BLOCKS, "E": _ROUTED}
    if wrong := sorted(set(pattern) - set(blocks)):
        fields.problem(f"'hybrid_override_pattern' has {', '.join(wrong)}: must be M, *, - or E")
        pattern = ""
    elif pattern and len(pattern) != layers:
        fields.problem(
            f"'hybrid_override_pattern' has {len(pattern)} layers: must have {layers}",
            "num_hidden_layers",
        )
    kinds = [blocks[letter] for letter in pattern] or [("attention", "mlp")] * layers
    moe = None
    if "E" in pattern:
        experts = fields.integer("n_routed_experts")
        shared = fields.integer("n_shared_experts", default=0, minimum=0)
        width = fields.integer("moe_shared_expert_intermediate_size", default=1)
        moe = MoE(
            num_experts=experts,
            top_k=read_top_k(fields, experts),
            ffn_hidden=fields.integer("moe_intermediate_size"),
            num_shared_experts=shared,
            shared_ffn_hidden=shared * width,
            router_bias=True,
        )
    return Model(
        name="",
        family="",
        num_layers=layers,
        hidden=hidden,
        ffn_hidden=fields.integer("intermediate_size", default=4 * hidden),
        vocab=fields.integer("vocab_size"),
        attention=read_attention(
            fields, hidden, head_dim=fields.integer("attention_head_dim", "head_dim", default=128)
        ),
        gated_mlp=False,
        moe=moe,
        linear=LinearAttention(
            kind="mamba2",
            key_heads=fields.integer("n_groups", default=8),
            value_heads=fields.integer("mamba_num_heads"),
            key_head_dim=fields.integer("ssm_state_size", default=128),
            value_head_dim=fields.integer("mamba_head_dim", default=64),
            conv_kernel=fields.integer("conv_kernel", default=4),
        ),
        mixers=tuple(mixer for mixer, _ in kinds),
        feed_forwards=tuple(feed_forward for _, feed_forward in kinds),
        tied_embeddings=fields.flag("tie_word_embeddings", False),
        position="none",
        max_positions=fields.integer("max_position_embeddings", default=0, minimum=0),
    )


def kimi_linear(fields: Fields) -> Model:
    """Kimi Linear: Kimi delta attention but for some layers with latent attention, experts."""
    experts = fields.integer("num_experts")
    shared = fields.integer("num_shared_experts", default=0, minimum=0)
    width = fields.integer("moe_intermediate_size")
    layers = read_layers(fields)
    own = fields.section("linear_attn_config")
    full = {int(place) for place in own.entries("full_attn_layers") if isinstance(place, int)}
    if not full or not full <= set(range(1, layers + 1)):
        own.problem(f"'full_attn_layers' must name layers from 1 to {layers}")
    linear_heads, dim = own.integer("num_heads"), own.integer("head_dim")
    dense = fields.integer("first_k_dense_replace", default=0, minimum=0)
    return Model(
        name="",
        family="",
        num_layers=layers,
        hidden=fields.integer("hidden_size"),
        ffn_hidden=fields.integer("intermediate_size"),
        vocab=fields.integer("vocab_size"),
        attention=read_latent_attention(fields),
        gated_mlp=True,
        moe=MoE(
            num_experts=experts,
            top_k=read_top_k(fields, experts, "num_experts_per_token"),
            ffn_hidden=width,
            num_shared_experts=shared,
            shared_ffn_hidden=shared * width,
            router_bias=True,
            first_dense_layers=dense,
        ),
        linear=LinearAttention(
            kind="kimi-delta",
            key_heads=linear_heads,
            value_heads=linear_heads,
            key_head_dim=dim,
            value_head_dim=dim,
            conv_kernel=own.integer("short_conv_kernel_size", default=4),
        ),
        mixers=tuple("attention" if index + 1 in full else "linear" for index in range(layers)),
        tied_embeddings=fields.flag("tie_word_embeddings", False),
        position="none",
        max_positions=fields.integer("model_max_length", default=0, minimum=0),
    )
