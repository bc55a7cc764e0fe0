"""What configurations of encoders and encoder-decoders mean: a function each."""

from __future__ import annotations

from dataclasses import replace

from ridgeline.workloads.families_common import read_attention, read_layers
from ridgeline.workloads.fields import MAX_LAYERS, Fields
from ridgeline.workloads.model import Attention, Model
from ridgeline.workloads.towers import CrossAttention, Patches, Tower


def bert(fields: Fields) -> Model:
    """BERT: bidirectional, learned positions, token types, a head for masked tokens.

    The head reads the tokens that are masked, 15% of all (Devlin et al. 2019, section 3.1);
    ``masked_share`` is 1 where an implementation computes it for all.
    """
    hidden = fields.integer("hidden_size")
    positions = fields.integer("max_position_embeddings", default=512)
    return Model(
        name="",
        family="",
        num_layers=read_layers(fields),
        hidden=hidden,
        ffn_hidden=fields.integer("intermediate_size"),
        vocab=fields.integer("vocab_size"),
        attention=read_attention(fields, hidden, qkv_bias=True, out_bias=True),
        gated_mlp=False,
        mlp_bias=True,
        tied_embeddings=True,
        head_bias=True,
        position="learned",
        learned_positions=positions,
        norm="layernorm",
        final_norm=False,
        embedding_norm=True,
        max_positions=positions,
        causal=False,
        head="masked",
        predicted=fields.number("masked_share", default=0.15, minimum=0.01, maximum=1.0),
        pooler=True,
        segments=fields.integer("type_vocab_size", default=2, minimum=0),
    )


def roberta(fields: Fields) -> Model:
    """RoBERTa: BERT without next-sentence prediction, hence without its pooler."""
    return replace(bert(fields), pooler=False)


def t5(fields: Fields) -> Model:
    """T5: an encoder, and a decoder whose layers also attend to the encoder's output.

    Version 1.0 has a plain MLP and one table for encoder, decoder and head; 1.1 has a gated MLP and
    a head of its own. The input is as long as the relative positions' default, 512, unless the
    question says otherwise.
    """
    hidden = fields.integer("d_model")
    layers = read_layers(fields, "num_layers")
    heads, dim = fields.integer("num_heads"), fields.integer("d_kv")
    tokens = fields.integer("n_positions", default=512)
    decoder = Model(
        name="",
        family="",
        num_layers=fields.integer("num_decoder_layers", default=layers, maximum=MAX_LAYERS),
        hidden=hidden,
        ffn_hidden=fields.integer("d_ff"),
        vocab=fields.integer("vocab_size"),
        attention=Attention(kind="gqa", heads=heads, kv_heads=heads, head_dim=dim, v_head_dim=dim),
        gated_mlp=fields.text("feed_forward_proj", "relu").startswith("gated"),
        tied_embeddings=fields.flag("tie_word_embeddings", True),
        position="buckets",
        position_buckets=fields.integer("relative_attention_num_buckets", default=32),
        cross=CrossAttention(tokens=tokens, hidden=hidden),
        max_positions=tokens,
    )
    encoder = replace(
        decoder,
        name="encoder",
        num_layers=layers,
        vocab=0,
        cross=None,
        causal=False,
        head="none",
    )
    tower = Tower(name="encoder", model=encoder, joins="cross", tokens=tokens)
    return replace(decoder, towers=(tower,))


def vit(fields: Fields) -> Model:
    """Vision transformer: patches, a class token, learned positions, a head over classes."""
    labels = fields.entries("labels")
    base = _vision(fields, hidden_name="hidden_size", image=224, bias=True)
    return replace(
        base,
        attention=replace(base.attention, qkv_bias=fields.flag("qkv_bias", True)),
        head="classes",
        outputs=fields.integer("num_labels", default=len(labels) or 1000),
    )


def _vision(fields: Fields, *, hidden_name: str, image: int, bias: bool) -> Model:
    hidden = fields.integer(hidden_name)
    patches = Patches(
        size=fields.integer("patch_size", default=16),
        channels=fields.integer("num_channels", default=3),
        image=fields.integer("image_size", default=image),
        bias=bias,
        class_tokens=1,
    )
    if patches.image % patches.size:
        fields.problem(
            f"'patch_size' is {patches.size}: must divide the image of {patches.image}",
            "image_size",
        )
    return Model(
        name="",
        family="",
        num_layers=read_layers(fields),
        hidden=hidden,
        ffn_hidden=fields.integer("intermediate_size"),
        vocab=0,
        attention=read_attention(fields, hidden, qkv_bias=True, out_bias=True),
        gated_mlp=False,
        mlp_bias=True,
        position="learned",
        learned_positions=patches.tokens,
        norm="layernorm",
        max_positions=patches.tokens,
        causal=False,
        patches=patches,
    )


def clip_vision(fields: Fields) -> Model:
    """CLIP's image tower: a vision transformer with a norm before the layers, patches unbiased."""
    base = _vision(fields, hidden_name="hidden_size", image=224, bias=False)
    return replace(base, name="vision", embedding_norm=True, head="none")


def qwen2_vision(fields: Fields) -> Model:
    """Qwen2-VL's image tower: rotary positions, patches of two frames, no class token."""
    hidden = fields.integer("embed_dim")
    size = fields.integer("patch_size", "spatial_patch_size", default=14)
    merge = fields.integer("spatial_merge_size", default=2)
    return Model(
        name="vision",
        family="",
        num_layers=read_layers(fields, "depth"),
        hidden=hidden,
        ffn_hidden=round(hidden * fields.number("mlp_ratio", default=4.0)),
        vocab=0,
        attention=read_attention(
            fields,
            hidden,
            heads_names=("num_heads",),
            kv_names=("num_heads",),
            qkv_bias=True,
            out_bias=True,
        ),
        gated_mlp=False,
        mlp_bias=True,
        norm="layernorm",
        final_norm=False,
        causal=False,
        patches=Patches(
            size=size,
            channels=fields.integer("in_chans", "in_channels", default=3),
            image=16 * merge * size,
            frames=fields.integer("temporal_patch_size", default=2),
            bias=False,
        ),
        head="none",
    )
