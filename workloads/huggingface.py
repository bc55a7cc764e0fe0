"""Read a Hugging Face ``config.json`` into a model.

One small function per family says what its configuration means; ``FAMILIES`` is their table.
What each field does is a fact of the family's published modelling code; a field that a family's
configuration class may omit takes that class's default.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from ridgeline.errors import InputError, nearest
from ridgeline.workloads.fields import MAX_LAYERS, Fields
from ridgeline.workloads.model import Attention, Model, MoE

_HIDDEN = ("hidden_size", "n_embd", "n_embed", "d_model")
_HEADS = ("num_attention_heads", "n_head", "n_heads")


def _layers(fields: Fields, *names: str) -> int:
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


def _attention(
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


def _top_k(fields: Fields, num_experts: int, *names: str) -> int:
    top_k = fields.integer(*(names or ("num_experts_per_tok",)))
    if top_k > num_experts:
        fields.problem(
            f"{top_k} experts per token: there are only {num_experts} experts",
            *("num_experts", "num_local_experts", "n_routed_experts"),
        )
    return top_k


def _windows(
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


def _every_layer(index: int) -> bool:
    del index
    return True


def _llama(fields: Fields, *, sliding: bool = False) -> Model:
    hidden = fields.integer("hidden_size")
    layers = _layers(fields)
    bias = fields.flag("attention_bias", False)
    window = fields.integer("sliding_window", default=0, minimum=0) if sliding else 0
    return Model(
        name="",
        family="",
        num_layers=layers,
        hidden=hidden,
        ffn_hidden=fields.integer("intermediate_size"),
        vocab=fields.integer("vocab_size"),
        attention=_attention(fields, hidden, qkv_bias=bias, out_bias=bias),
        gated_mlp=True,
        mlp_bias=fields.flag("mlp_bias", False),
        tied_embeddings=fields.flag("tie_word_embeddings", False),
        windows=_windows(fields, layers, window, _every_layer) if window else (),
        max_positions=fields.integer("max_position_embeddings", default=0, minimum=0),
    )


def _mixtral(fields: Fields) -> Model:
    base = _llama(fields, sliding=True)
    experts = fields.integer("num_local_experts")
    moe = MoE(num_experts=experts, top_k=_top_k(fields, experts), ffn_hidden=base.ffn_hidden)
    return replace(base, ffn_hidden=0, moe=moe)


def _qwen_windows(fields: Fields, layers: int) -> tuple[int, ...]:
    if not fields.flag("use_sliding_window", False):
        return ()
    window = fields.integer("sliding_window", default=4096)
    first = fields.integer("max_window_layers", default=28, minimum=0)
    return _windows(fields, layers, window, lambda index: index >= first)


def _qwen2(fields: Fields) -> Model:
    base = _llama(fields)
    return replace(
        base,
        attention=replace(base.attention, qkv_bias=True, out_bias=False),
        windows=_qwen_windows(fields, base.num_layers),
    )


def _qwen3(fields: Fields) -> Model:
    base = _llama(fields)
    dim = fields.integer("head_dim", default=128)
    return replace(
        base,
        attention=replace(base.attention, head_dim=dim, v_head_dim=dim, qk_norm=True),
        windows=_qwen_windows(fields, base.num_layers),
    )


def _qwen_moe(fields: Fields, *, dense: Callable[[Fields], Model], shared: bool) -> Model:
    base = dense(fields)
    experts = fields.integer("num_experts", "num_local_experts")
    dense_layers = fields.entries("mlp_only_layers")
    if dense_layers != list(range(len(dense_layers))):
        fields.problem("'mlp_only_layers' must be the first layers of the model: 0, 1, 2, ...")
    shared_hidden = fields.integer("shared_expert_intermediate_size") if shared else 0
    moe = MoE(
        num_experts=experts,
        top_k=_top_k(fields, experts),
        ffn_hidden=fields.integer("moe_intermediate_size"),
        num_shared_experts=int(shared),
        shared_ffn_hidden=shared_hidden,
        shared_gate=shared,
        first_dense_layers=len(dense_layers),
        every=fields.integer("decoder_sparse_step", default=1),
    )
    all_moe = not dense_layers and moe.every == 1
    return replace(base, ffn_hidden=0 if all_moe else base.ffn_hidden, moe=moe)


def _gpt2(fields: Fields) -> Model:
    hidden = fields.integer("n_embd", "hidden_size")
    positions = fields.integer("n_positions", "n_ctx", "max_position_embeddings")
    return Model(
        name="",
        family="",
        num_layers=_layers(fields, "n_layer", "num_hidden_layers"),
        hidden=hidden,
        ffn_hidden=fields.integer("n_inner", default=4 * hidden),
        vocab=fields.integer("vocab_size"),
        attention=_attention(
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


def _gpt_neox(fields: Fields) -> Model:
    hidden = fields.integer("hidden_size")
    bias = fields.flag("attention_bias", True)
    return Model(
        name="",
        family="",
        num_layers=_layers(fields),
        hidden=hidden,
        ffn_hidden=fields.integer("intermediate_size", default=4 * hidden),
        vocab=fields.integer("vocab_size"),
        attention=_attention(fields, hidden, qkv_bias=bias, out_bias=bias),
        gated_mlp=False,
        mlp_bias=True,
        tied_embeddings=fields.flag("tie_word_embeddings", False),
        norm="layernorm",
        parallel_block=fields.flag("use_parallel_residual", True),
        max_positions=fields.integer("max_position_embeddings", default=0, minimum=0),
    )


def _opt(fields: Fields) -> Model:
    hidden = fields.integer("hidden_size")
    bias = fields.flag("enable_bias", True)
    positions = fields.integer("max_position_embeddings")
    width = fields.integer("word_embed_proj_dim", default=hidden)
    pre_norm = fields.flag("do_layer_norm_before", True)
    return Model(
        name="",
        family="",
        num_layers=_layers(fields),
        hidden=hidden,
        ffn_hidden=fields.integer("ffn_dim"),
        vocab=fields.integer("vocab_size"),
        attention=_attention(fields, hidden, qkv_bias=bias, out_bias=bias),
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


def _bloom(fields: Fields) -> Model:
    hidden = fields.integer("hidden_size", "n_embed")
    return Model(
        name="",
        family="",
        num_layers=_layers(fields, "n_layer", "num_hidden_layers"),
        hidden=hidden,
        ffn_hidden=4 * hidden,
        vocab=fields.integer("vocab_size"),
        attention=_attention(
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


def _falcon(fields: Fields) -> Model:
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
        num_layers=_layers(fields, "num_hidden_layers", "n_layer"),
        hidden=hidden,
        ffn_hidden=fields.integer("ffn_hidden_size", default=4 * hidden),
        vocab=fields.integer("vocab_size"),
        attention=_attention(
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


def _mpt(fields: Fields) -> Model:
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
        num_layers=_layers(fields, "n_layers"),
        hidden=hidden,
        ffn_hidden=int(expansion * hidden),
        vocab=fields.integer("vocab_size"),
        attention=_attention(
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


def _gemma(fields: Fields) -> Model:
    hidden = fields.integer("hidden_size")
    bias = fields.flag("attention_bias", False)
    return Model(
        name="",
        family="",
        num_layers=_layers(fields),
        hidden=hidden,
        ffn_hidden=fields.integer("intermediate_size"),
        vocab=fields.integer("vocab_size"),
        attention=_attention(fields, hidden, head_dim=256, qkv_bias=bias, out_bias=bias),
        gated_mlp=True,
        tied_embeddings=fields.flag("tie_word_embeddings", True),
        max_positions=fields.integer("max_position_embeddings", default=0, minimum=0),
    )


def _gemma2(fields: Fields) -> Model:
    base = _gemma(fields)
    window = fields.integer("sliding_window", default=4096)
    return replace(
        base,
        norms_per_layer=4,
        windows=_windows(fields, base.num_layers, window, lambda index: index % 2 == 0),
    )


def _gemma3(fields: Fields) -> Model:
    hidden = fields.integer("hidden_size")
    layers = _layers(fields)
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
        attention=_attention(
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
        windows=_windows(fields, layers, window, lambda index: bool((index + 1) % pattern)),
        max_positions=fields.integer("max_position_embeddings", default=131_072, minimum=0),
    )


def _deepseek(fields: Fields) -> Model:
    hidden = fields.integer("hidden_size")
    heads = fields.integer("num_attention_heads")
    rope = fields.integer("qk_rope_head_dim")
    bias = fields.flag("attention_bias", False)
    experts = fields.integer("n_routed_experts")
    shared = fields.integer("n_shared_experts", default=0, minimum=0)
    expert_hidden = fields.integer("moe_intermediate_size")
    if fields.integer("moe_layer_freq", default=1) != 1:
        fields.problem("'moe_layer_freq' must be 1: other spacings of experts are not known")
    correction = fields.text("topk_method", "") == "noaux_tc"
    return Model(
        name="",
        family="",
        num_layers=_layers(fields),
        hidden=hidden,
        ffn_hidden=fields.integer("intermediate_size"),
        vocab=fields.integer("vocab_size"),
        attention=Attention(
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
        ),
        gated_mlp=True,
        moe=MoE(
            num_experts=experts,
            top_k=_top_k(fields, experts),
            ffn_hidden=expert_hidden,
            num_shared_experts=shared,
            shared_ffn_hidden=shared * expert_hidden,
            router_bias=correction,
            first_dense_layers=fields.integer("first_k_dense_replace", default=0, minimum=0),
        ),
        tied_embeddings=fields.flag("tie_word_embeddings", False),
        num_mtp_layers=fields.integer("num_nextn_predict_layers", default=0, minimum=0),
        max_positions=fields.integer("max_position_embeddings", default=0, minimum=0),
    )


def _gpt_oss(fields: Fields) -> Model:
    hidden = fields.integer("hidden_size")
    layers = _layers(fields)
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
        attention=_attention(fields, hidden, head_dim=64, qkv_bias=bias, out_bias=bias, sinks=True),
        gated_mlp=True,
        moe=MoE(
            num_experts=experts,
            top_k=_top_k(fields, experts, "num_experts_per_tok", "experts_per_token"),
            ffn_hidden=fields.integer("intermediate_size"),
            router_bias=True,
            expert_bias=True,
        ),
        tied_embeddings=fields.flag("tie_word_embeddings", False),
        windows=_windows(fields, layers, window, lambda index: index % 2 == 0),
        max_positions=fields.integer("max_position_embeddings", default=0, minimum=0),
    )


def _glm4_moe(fields: Fields) -> Model:
    base = _llama(fields)
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
            top_k=_top_k(fields, experts),
            ffn_hidden=expert_hidden,
            num_shared_experts=shared,
            shared_ffn_hidden=shared * expert_hidden,
            router_bias=True,
            first_dense_layers=fields.integer("first_k_dense_replace", default=1, minimum=0),
        ),
        num_mtp_layers=fields.integer("num_nextn_predict_layers", default=0, minimum=0),
    )


def _llama4(fields: Fields) -> Model:
    base = _llama(fields)
    experts = fields.integer("num_local_experts")
    step = fields.integer("interleave_moe_layer_step", default=1)
    chunk = fields.integer("attention_chunk_size", default=8192)
    return replace(
        base,
        ffn_hidden=0 if step == 1 else fields.integer("intermediate_size_mlp"),
        moe=MoE(
            num_experts=experts,
            top_k=_top_k(fields, experts),
            ffn_hidden=base.ffn_hidden,
            num_shared_experts=1,
            shared_ffn_hidden=base.ffn_hidden,
            every=step,
        ),
        # Three layers of four attend within chunks. A window as long as the chunk is the same up
        # to one chunk and an upper bound of the work beyond it.
        windows=tuple(chunk if (index + 1) % 4 else 0 for index in range(base.num_layers)),
    )


def _nemotron(fields: Fields) -> Model:
    return replace(_llama(fields), gated_mlp=False, norm="layernorm")


def _grok(fields: Fields) -> Model:
    base = _llama(fields)
    experts = fields.integer("num_experts")
    moe = MoE(num_experts=experts, top_k=_top_k(fields, experts), ffn_hidden=base.ffn_hidden)
    return replace(
        base,
        ffn_hidden=0,
        moe=moe,
        norms_per_layer=4,
        tied_embeddings=fields.flag("tie_word_embeddings", True),
    )


FAMILIES: Mapping[str, Callable[[Fields], Model]] = {
    "bloom": _bloom,
    "deepseek_v2": _deepseek,
    "deepseek_v3": _deepseek,
    "falcon": _falcon,
    "gemma": _gemma,
    "gemma2": _gemma2,
    "gemma3": _gemma3,
    "gemma3_text": _gemma3,
    "glm4_moe": _glm4_moe,
    "gpt2": _gpt2,
    "gpt_neox": _gpt_neox,
    "gpt_oss": _gpt_oss,
    "grok-1": _grok,
    "kimi_k2": _deepseek,
    "llama": _llama,
    "llama4": _llama4,
    "llama4_text": _llama4,
    "mistral": partial(_llama, sliding=True),
    "mixtral": _mixtral,
    "mpt": _mpt,
    "nemotron": _nemotron,
    "opt": _opt,
    "phi3": partial(_llama, sliding=True),
    "qwen2": _qwen2,
    "qwen2_moe": partial(_qwen_moe, dense=_qwen2, shared=True),
    "qwen3": _qwen3,
    "qwen3_moe": partial(_qwen_moe, dense=_qwen3, shared=False),
}
"""Family (``model_type``) to the function that reads its configuration."""

# Older files of Falcon name the family by its first two sizes.
_OTHER_NAMES = {"RefinedWebModel": "falcon", "RefinedWeb": "falcon"}


def read_json_object(path: Path) -> dict[str, Any]:
    """Read a file that must hold one JSON object.

    Raises
    ------
    InputError
        When the file cannot be read, is not JSON or is not an object.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except UnicodeDecodeError:
        raise InputError(f"{path}: not a text file in UTF-8") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from None
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise InputError(
            f"{path}: not valid JSON at line {error.lineno}, column {error.colno} ({error.msg}); "
            "is the file complete?"
        ) from None
    except (ValueError, RecursionError):
        raise InputError(f"{path}: not valid JSON (a number too long or nested too deep)") from None
    if not isinstance(value, dict):
        raise InputError(f"{path}: holds {_kind(value)}, must hold a JSON object")
    return value


def _kind(value: object) -> str:
    names = {list: "a list", str: "a string", bool: "a boolean", type(None): "null"}
    return names.get(type(value), "a number")


def model_from_config(
    config: Mapping[str, Any] | str | Path, name: str | None = None, *, source: str = ""
) -> Model:
    """Make a model of a Hugging Face configuration.

    Parameters
    ----------
    config
        The configuration as an object, the path of a ``config.json``, or the folder it lies in.
    name
        Name of the model; by default that in the configuration, else the folder's or file's.
    source
        Where the configuration comes from; by default its path.

    Returns
    -------
    Model
        Of an image-and-text model the text part.

    Raises
    ------
    InputError
        With one line for each mistake: an unknown family, a missing field, a bad value.
    """
    if isinstance(config, str | Path):
        path = Path(config)
        if path.is_dir():
            path = path / "config.json"
        fallback = path.parent.name if path.stem == "config" else path.stem
        where, source = str(path), source or str(path)
        config = read_json_object(path)
    else:
        where, fallback = name or "config", "model"
        if not isinstance(config, Mapping):
            raise InputError(f"{where}: is {_kind(config)}, must be a JSON object")
    problems: list[str] = []
    family, fields = _select(config, where, problems)
    model = FAMILIES[family](fields)
    if problems:
        raise InputError(problems)
    stated = config.get("_name_or_path")
    stated_name = stated.rstrip("/").rsplit("/", 1)[-1] if isinstance(stated, str) else ""
    return replace(
        model, name=name or stated_name or fallback or "model", family=family, source=source
    )


def _select(config: Mapping[str, Any], where: str, problems: list[str]) -> tuple[str, Fields]:
    """Return the family and the fields that describe the text model."""
    text = config.get("text_config")
    outer = config.get("model_type")
    if isinstance(text, Mapping):
        # Only the tie is stated outside, and only by some.
        inner = {"tie_word_embeddings": config.get("tie_word_embeddings"), **text}
        family = inner.get("model_type") or outer
        where = f"{where}: text_config"
    else:
        inner, family = dict(config), outer
    if family is None:
        raise InputError(f"{where}: missing field 'model_type' (the family of the model)")
    if not isinstance(family, str):
        raise InputError(f"{where}: 'model_type' is {family!r}: must be a string")
    family = _OTHER_NAMES.get(family, family)
    if family not in FAMILIES:
        raise InputError(f"{where}: unknown family {family!r}: {nearest(family, FAMILIES)}")
    return family, Fields(inner, where, problems)
