"""What the dense families of Hugging Face configurations mean: a function each."""

from __future__ import annotations

from dataclasses import replace

from ridgeline.errors import nearest
from ridgeline.workloads.families_common import (
    every_layer,
    read_attention,
    read_layers,
    read_windows,
)
from ridgeline.workloads.fields import Fields
from ridgeline.workloads.model import Model


def llama(
    fields: Fields, *, sliding: bool = False, head_dim: int | None = None, tied: bool = False
) -> Model:
    """Llama: gated, RMSNorm, grouped heads; with ``sliding``, Mistral and Phi-3.

    ``head_dim`` and ``tied`` (embeddings) hold where the file does not say.
    """
    hidden = fields.integer("hidden_size")
    layers = read_layers(fields)
    bias = fields.flag("attention_bias", False)
    window = fields.integer("sliding_window", default=0, minimum=0) if sliding else 0
    return Model(
        name="",
        family="",
        num_layers=layers,
        hidden=hidden,
        ffn_hidden=fields.integer("intermediate_size"),
        vocab=fields.integer("vocab_size"),
        attention=read_attention(fields, hidden, head_dim=head_dim, qkv_bias=bias, out_bias=bias),
        gated_mlp=True,
        mlp_bias=fields.flag("mlp_bias", False),
        tied_embeddings=fields.flag("tie_word_embeddings", tied),
        windows=read_windows(fields, layers, window, every_layer) if window else (),
        max_positions=fields.integer("max_position_embeddings", default=0, minimum=0),
    )


def qwen_windows(fields: Fields, layers: int) -> tuple[int, ...]:
    """Read the window of Qwen's later layers, off unless the file switches it on."""
    if not fields.flag("use_sliding_window", False):
        return ()
    window = fields.integer("sliding_window", default=4096)
    first = fields.integer("max_window_layers", default=28, minimum=0)
    return read_windows(fields, layers, window, lambda index: index >= first)


def qwen2(fields: Fields) -> Model:
    """Qwen2: Llama with biases on query, key and value."""
    base = llama(fields)
    return replace(
        base,
        attention=replace(base.attention, qkv_bias=True, out_bias=False),
        windows=qwen_windows(fields, base.num_layers),
    )


def qwen3(fields: Fields) -> Model:
    """Qwen3: Llama with a norm on query and key heads."""
    base = llama(fields)
    dim = fields.integer("head_dim", default=128)
    return replace(
        base,
        attention=replace(base.attention, head_dim=dim, v_head_dim=dim, qk_norm=True),
        windows=qwen_windows(fields, base.num_layers),
    )


def gpt2(fields: Fields) -> Model:
    """GPT-2: learned positions, LayerNorm, biases, tied embeddings."""
    hidden = fields.integer("n_embd", "hidden_size")
    positions = fields.integer("n_positions", "n_ctx", "max_position_embeddings")
    return Model(
        name="",
        family="",
        num_layers=read_layers(fields, "n_layer", "num_hidden_layers"),
        hidden=hidden,
        ffn_hidden=fields.integer("n_inner", default=4 * hidden),
        vocab=fields.integer("vocab_size"),
        attention=read_attention(
            fields,
            hidden,
            heads_names=("n_head", "num_attention_heads"),
            qkv_bias=True,
            out_bias=True,
        ),
        gated_mlp=False,
        mlp_bias=True,
        tied_embeddings=fields.flag("tie_word_embeddings", True),
        position="learned",
        learned_positions=positions,
        norm="layernorm",
        max_positions=positions,
    )


def gpt_neox(fields: Fields) -> Model:
    """GPT-NeoX and Pythia: attention and MLP side by side, rotary positions."""
    hidden = fields.integer("hidden_size")
    bias = fields.flag("attention_bias", True)
    return Model(
        name="",
        family="",
        num_layers=read_layers(fields),
        hidden=hidden,
        ffn_hidden=fields.integer("intermediate_size", default=4 * hidden),
        vocab=fields.integer("vocab_size"),
        attention=read_attention(fields, hidden, qkv_bias=bias, out_bias=bias),
        gated_mlp=False,
        mlp_bias=True,
        tied_embeddings=fields.flag("tie_word_embeddings", False),
        norm="layernorm",
        parallel_block=fields.flag("use_parallel_residual", True),
        max_positions=fields.integer("max_position_embeddings", default=0, minimum=0),
    )


def opt(fields: Fields) -> Model:
    """OPT: like GPT-2; its 350M has a narrower embedding and norms behind the blocks."""
    hidden = fields.integer("hidden_size")
    bias = fields.flag("enable_bias", True)
    positions = fields.integer("max_position_embeddings")
    width = fields.integer("word_embed_proj_dim", default=hidden)
    pre_norm = fields.flag("do_layer_norm_before", True)
    return Model(
        name="",
        family="",
        num_layers=read_layers(fields),
        hidden=hidden,
        ffn_hidden=fields.integer("ffn_dim"),
        vocab=fields.integer("vocab_size"),
        attention=read_attention(fields, hidden, qkv_bias=bias, out_bias=bias),
        gated_mlp=False,
        mlp_bias=bias,
        tied_embeddings=fields.flag("tie_word_embeddings", True),
        embedding_dim=width if width != hidden else 0,
        position="learned",
        # The table starts with two rows that no position uses.
        learned_positions=positions + 2,
        norm="layernorm",
        final_norm=pre_norm and not fields.flag("_remove_final_layer_norm", False),
        max_positions=positions,
    )


def bloom(fields: Fields) -> Model:
    """BLOOM: ALiBi and a norm behind the embedding."""
    hidden = fields.integer("hidden_size", "n_embed")
    return Model(
        name="",
        family="",
        num_layers=read_layers(fields, "n_layer", "num_hidden_layers"),
        hidden=hidden,
        ffn_hidden=4 * hidden,
        vocab=fields.integer("vocab_size"),
        attention=read_attention(
            fields,
            hidden,
            heads_names=("n_head", "num_attention_heads"),
            qkv_bias=True,
            out_bias=True,
        ),
        gated_mlp=False,
        mlp_bias=True,
        tied_embeddings=fields.flag("tie_word_embeddings", True),
        position="alibi",
        norm="layernorm",
        embedding_norm=True,
        max_positions=fields.integer("seq_length", default=0, minimum=0),
    )


def falcon(fields: Fields) -> Model:
    """Falcon: one or a few key-value heads, attention and MLP side by side."""
    hidden = fields.integer("hidden_size")
    new = fields.flag("new_decoder_architecture", False)
    bias = fields.flag("bias", False)
    parallel = new or fields.flag("parallel_attn", True)
    if new:
        norms = fields.integer("num_ln_in_parallel_attn", default=2, maximum=2)
    else:
        norms = 1 if parallel else 2
    heads_names = ("num_attention_heads", "n_head")
    multi_query = not new and fields.flag("multi_query", True)
    return Model(
        name="",
        family="",
        num_layers=read_layers(fields, "num_hidden_layers", "n_layer"),
        hidden=hidden,
        ffn_hidden=fields.integer("ffn_hidden_size", default=4 * hidden),
        vocab=fields.integer("vocab_size"),
        attention=read_attention(
            fields,
            hidden,
            heads_names=heads_names,
            # Outside the new architecture the field is ignored: heads are one or all.
            kv_heads=1 if multi_query else None,
            kv_names=("num_kv_heads", "n_head_kv") if new else ("num_attention_heads", "n_head"),
            qkv_bias=bias,
            out_bias=bias,
        ),
        gated_mlp=False,
        mlp_bias=bias,
        tied_embeddings=fields.flag("tie_word_embeddings", True),
        position="alibi" if fields.flag("alibi", False) else "rotary",
        norm="layernorm",
        norms_per_layer=norms,
        parallel_block=parallel,
        max_positions=fields.integer("max_position_embeddings", default=0, minimum=0),
    )


def mpt(fields: Fields) -> Model:
    """MPT: ALiBi or learned positions, mostly without biases."""
    hidden = fields.integer("d_model")
    bias = not fields.flag("no_bias", True)
    options = fields.section("attn_config")
    kind = options.text("attn_type", "multihead_attention")
    heads = fields.integer("n_heads")
    if kind == "multiquery_attention":
        kv_heads = 1
    elif kind == "grouped_query_attention":
        kv_heads = options.integer("kv_n_heads")
    else:
        kv_heads = heads
        if kind != "multihead_attention":
            known = ("multihead_attention", "multiquery_attention", "grouped_query_attention")
            options.problem(f"'attn_type' is {kind!r}: {nearest(kind, known)}")
    positions = fields.integer("max_seq_len", default=0, minimum=0)
    if options.flag("alibi", False):
        position = "alibi"
    elif options.flag("rope", False):
        position = "rotary"
    else:
        position = "learned" if fields.flag("learned_pos_emb", True) else "none"
    full_norm = options.flag("qk_ln", False)
    expansion = fields.number("expansion_ratio", default=4.0, minimum=0.01, maximum=1000.0)
    norm_type = fields.text("norm_type", "low_precision_layernorm")
    return Model(
        name="",
        family="",
        num_layers=read_layers(fields, "n_layers"),
        hidden=hidden,
        ffn_hidden=int(expansion * hidden),
        vocab=fields.integer("vocab_size"),
        attention=read_attention(
            fields,
            hidden,
            heads_names=("n_heads",),
            kv_heads=kv_heads,
            kv_names=("kv_n_heads",),
            qkv_bias=bias,
            out_bias=bias,
            qk_norm=full_norm or options.flag("qk_gn", False),
            qk_norm_full=full_norm,
        ),
        gated_mlp=fields.section("ffn_config").text("ffn_type", "mptmlp") == "mptglu",
        mlp_bias=bias,
        tied_embeddings=fields.flag("tie_word_embeddings", True),
        position=position,
        learned_positions=positions if position == "learned" else 0,
        norm="rmsnorm" if "rmsnorm" in norm_type else "layernorm",
        norm_bias=bias,
        max_positions=positions,
    )


def gemma(fields: Fields) -> Model:
    """Gemma: Llama with heads of its own size and tied embeddings."""
    return llama(fields, head_dim=256, tied=True)


def gemma2(fields: Fields) -> Model:
    """Gemma 2: every other layer slides; norms before and behind each block."""
    base = gemma(fields)
    window = fields.integer("sliding_window", default=4096)
    return replace(
        base,
        norms_per_layer=4,
        windows=read_windows(fields, base.num_layers, window, lambda index: index % 2 == 0),
    )


def gemma3(fields: Fields) -> Model:
    """Gemma 3, text part: one full layer in six, norms on query and key heads."""
    hidden = fields.integer("hidden_size")
    layers = read_layers(fields)
    bias = fields.flag("attention_bias", False)
    window = fields.integer("sliding_window", default=4096)
    pattern = fields.integer("sliding_window_pattern", "_sliding_window_pattern", default=6)
    return Model(
        name="",
        family="",
        num_layers=layers,
        hidden=hidden,
        ffn_hidden=fields.integer("intermediate_size"),
        # The released 4B leaves out heads, head size and vocabulary: these are its class's own.
        vocab=fields.integer("vocab_size", default=262_208),
        attention=read_attention(
            fields,
            hidden,
            heads_default=8,
            kv_default=4,
            head_dim=256,
            qkv_bias=bias,
            out_bias=bias,
            qk_norm=True,
        ),
        gated_mlp=True,
        tied_embeddings=fields.flag("tie_word_embeddings", True),
        norms_per_layer=4,
        windows=read_windows(fields, layers, window, lambda index: bool((index + 1) % pattern)),
        max_positions=fields.integer("max_position_embeddings", default=131_072, minimum=0),
    )


def nemotron(fields: Fields) -> Model:
    """Nemotron: a plain MLP with squared ReLU, and LayerNorm."""
    return replace(llama(fields), gated_mlp=False, norm="layernorm")
