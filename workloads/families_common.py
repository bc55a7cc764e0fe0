"""What the families of Hugging Face configurations have in common: heads, experts, windows."""

from __future__ import annotations

from collections.abc import Callable

from ridgeline.workloads.fields import MAX_LAYERS, Fields
from ridgeline.workloads.model import Attention

_HIDDEN = ("hidden_size", "n_embd", "n_embed", "d_model")
_HEADS = ("num_attention_heads", "n_head", "n_heads")


def read_layers(fields: Fields, *names: str) -> int:
    """Read the number of layers."""
    return fields.integer(*(names or ("num_hidden_layers",)), maximum=MAX_LAYERS)


def _head_dim(fields: Fields, hidden: int, heads: int, default: int | None = None) -> int:
    if default is not None or fields.has("head_dim"):
        return fields.integer("head_dim", default=default)
    if hidden % heads:
        fields.problem(
            f"{heads} attention heads do not divide the hidden size {hidden}: "
            "give 'head_dim' or a number of heads that does",
            *_HIDDEN,
            *_HEADS,
        )
    return max(hidden // heads, 1)


def read_attention(
    fields: Fields,
    hidden: int,
    *,
    heads_names: tuple[str, ...] = ("num_attention_heads",),
    heads_default: int | None = None,
    kv_heads: int | None = None,
    kv_names: tuple[str, ...] = ("num_key_value_heads",),
    kv_default: int | None = None,
    head_dim: int | None = None,
    qkv_bias: bool = False,
    out_bias: bool = False,
    qk_norm: bool = False,
    qk_norm_full: bool = False,
    sinks: bool = False,
) -> Attention:
    """Read heads, key-value heads and head size; biases and norms are the family's own."""
    heads = fields.integer(*heads_names, default=heads_default)
    if kv_heads is None:
        kv_heads = fields.integer(*kv_names, default=kv_default or heads)
    if heads % kv_heads:
        fields.problem(
            f"{kv_names[0]!r} is {kv_heads}: must divide the {heads} attention heads",
            *heads_names,
            *kv_names,
        )
    dim = _head_dim(fields, hidden, heads, head_dim)
    return Attention(
        kind="gqa",
        heads=heads,
        kv_heads=kv_heads,
        head_dim=dim,
        v_head_dim=dim,
        qkv_bias=qkv_bias,
        out_bias=out_bias,
        qk_norm=qk_norm,
        qk_norm_full=qk_norm_full,
        sinks=sinks,
    )


def read_latent_attention(fields: Fields, *, bias: bool = False) -> Attention:
    """Read heads whose keys and values come out of one latent vector (DeepSeek-V2, 2.1)."""
    heads = fields.integer("num_attention_heads")
    rope = fields.integer("qk_rope_head_dim")
    return Attention(
        kind="mla",
        heads=heads,
        kv_heads=heads,
        head_dim=fields.integer("qk_nope_head_dim") + rope,
        v_head_dim=fields.integer("v_head_dim"),
        q_lora_rank=fields.integer("q_lora_rank", default=0, minimum=0),
        kv_lora_rank=fields.integer("kv_lora_rank"),
        rope_head_dim=rope,
        qkv_bias=bias,
        out_bias=bias,
    )


def read_top_k(fields: Fields, num_experts: int, *names: str) -> int:
    """Read how many experts a token uses."""
    top_k = fields.integer(*(names or ("num_experts_per_tok",)))
    if top_k > num_experts:
        fields.problem(
            f"{top_k} experts per token: there are only {num_experts} experts",
            *("num_experts", "num_local_experts", "n_routed_experts"),
        )
    return top_k


def read_windows(
    fields: Fields, layers: int, window: int, slides: Callable[[int], bool]
) -> tuple[int, ...]:
    """Return the window of each layer: by ``layer_types`` where given, else by the family's rule.

    A window that no layer has gives the empty tuple.
    """
    kinds = fields.entries("layer_types")
    if kinds and len(kinds) != layers:
        fields.problem(
            f"'layer_types' has {len(kinds)} entries: must have {layers}, one a layer",
            "num_hidden_layers",
        )
    elif kinds:
        known = ("sliding_attention", "full_attention")
        wrong = sorted({repr(kind) for kind in kinds if kind not in known})
        if wrong:
            fields.problem(f"'layer_types' has {', '.join(wrong)}: must be {' or '.join(known)}")
        windows = tuple(window if kind == "sliding_attention" else 0 for kind in kinds)
        return windows if any(windows) else ()
    windows = tuple(window if slides(index) else 0 for index in range(layers))
    return windows if any(windows) else ()


def every_layer(index: int) -> bool:
    """Let each layer have the window."""
    del index
    return True
