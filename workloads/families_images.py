"""What configurations of models over images mean: language with vision, and diffusion."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from ridgeline.workloads import families_dense
from ridgeline.workloads.families_common import read_layers
from ridgeline.workloads.families_encoders import clip_vision, qwen2_vision
from ridgeline.workloads.fields import Fields
from ridgeline.workloads.model import Attention, Model, MoE
from ridgeline.workloads.towers import Conditioning, CrossAttention, Patches, Tower

_TEXT: dict[str, Callable[[Fields], Model]] = {
    "llama": families_dense.llama,
    "mistral": families_dense.llama,
    "qwen2": families_dense.qwen2,
}


def llava(fields: Fields) -> Model:
    """LLaVA-1.5: CLIP's image tower, frozen, and a perceptron of two layers into the text model.

    Each image becomes its patches' tokens, without the class token (arXiv:2310.03744, section 3).
    """
    text = fields.section("text_config")
    kind = text.text("model_type", "llama")
    if kind not in _TEXT:
        fields.problem(f"text_config: 'model_type' is {kind!r}: must be {' or '.join(_TEXT)}")
    model = _TEXT.get(kind, families_dense.llama)(text)
    section = fields.section("vision_config")
    seen = section.text("model_type", "clip_vision_model")
    if seen != "clip_vision_model":
        fields.problem(f"vision_config: 'model_type' is {seen!r}: must be clip_vision_model")
    whole = fields.text("vision_feature_select_strategy", "default") == "full"
    vision = clip_vision(section)
    assert vision.patches is not None
    tower = Tower(
        name="vision",
        model=vision,
        joins="tokens",
        tokens=vision.patches.tokens,
        outputs=vision.patches.tokens - (0 if whole else vision.patches.class_tokens),
        projector=((vision.hidden, model.hidden), (model.hidden, model.hidden)),
        trained=False,
    )
    return replace(model, towers=(tower,))


def qwen2_vl(fields: Fields) -> Model:
    """Qwen2-VL: an image tower whose patches are merged four to a token (arXiv:2409.12191)."""
    model = families_dense.qwen2(fields)
    section = fields.section("vision_config")
    vision = qwen2_vision(section)
    merged = section.integer("spatial_merge_size", default=2) ** 2
    assert vision.patches is not None
    wide = vision.hidden * merged
    tower = Tower(
        name="vision",
        model=vision,
        joins="tokens",
        tokens=vision.patches.tokens,
        outputs=vision.patches.tokens // merged,
        projector=((wide, wide), (wide, model.hidden)),
        projector_norm=2 * vision.hidden,
    )
    return replace(model, towers=(tower,))


def dit(fields: Fields) -> Model:
    """Diffusion transformer over latents, conditioned by adaptive norms (arXiv:2212.09748)."""
    heads, dim = fields.integer("num_attention_heads"), fields.integer("attention_head_dim")
    hidden = heads * dim
    channels = fields.integer("in_channels", default=4)
    size = fields.integer("patch_size", default=2)
    patches = Patches(size=size, channels=channels, image=fields.integer("sample_size", default=32))
    values = size * size * fields.integer("out_channels", default=2 * channels)
    return Model(
        name="",
        family="",
        num_layers=read_layers(fields, "num_layers"),
        hidden=hidden,
        ffn_hidden=fields.integer("intermediate_size", default=4 * hidden),
        vocab=0,
        attention=Attention(
            kind="gqa",
            heads=heads,
            kv_heads=heads,
            head_dim=dim,
            v_head_dim=dim,
            qkv_bias=True,
            out_bias=True,
        ),
        gated_mlp=False,
        mlp_bias=True,
        position="none",
        norm="plain",
        max_positions=patches.tokens,
        causal=False,
        patches=patches,
        head="patches",
        outputs=values,
        conditioning=Conditioning(
            width=hidden,
            # one more class stands for no class
            classes=fields.integer("num_embeds_ada_norm", default=1000) + 1,
        ),
    )


_CAPTION_TOKENS = 77
"""Of the CLIP text towers whose output conditions the image."""


def micro_dit(fields: Fields) -> Model:
    """Build a diffusion transformer that masks patches behind a mixer (arXiv:2407.15811).

    Widths of attention and MLP grow linearly over the layers; each layer here has their mean, which
    leaves parameters and FLOPs of the stack as they are. Dense MLPs are gated and experts are
    plain: a gated one of width f is counted as a plain one of 3/2 f. Experts choose their tokens,
    ``expert_capacity`` of them on average for each token, so that they are balanced.
    """
    hidden, dim = fields.integer("dim"), fields.integer("head_dim")
    layers = read_layers(fields, "depth")
    multiple = fields.integer("multiple_of", default=256)
    experts, every = fields.integer("num_experts"), fields.integer("experts_every_n", default=2)
    chosen = fields.integer("expert_capacity", default=2)
    if chosen > experts:
        fields.problem(f"'expert_capacity' is {chosen}: must be at most the {experts} experts")
    captions = fields.integer("caption_channels", default=1024)
    tokens = fields.integer("caption_tokens", default=_CAPTION_TOKENS)
    channels, size = (
        fields.integer("in_channels", default=4),
        fields.integer("patch_size", default=2),
    )
    patches = Patches(size=size, channels=channels, image=fields.integer("input_size", default=32))
    condition = Conditioning(width=hidden, frequencies=512)

    def stack(name: str, width: int, depth: int, attention: list[float], ffn: list[float]) -> Model:
        routed = [i for i in range(depth) if (i + 1) % every == 0]
        if name == "":
            routed = [i for i in routed if i < depth - 1]
        dense = dict.fromkeys(range(depth))
        for i in routed:
            del dense[i]
        wide = [_multiple(round(width * ffn[i]), multiple) for i in routed]
        plain = [1.5 * _multiple(int(2 * int(width * ffn[i]) / 3), multiple) for i in dense]
        inner = [_multiple(int(width * ratio), 2 * dim) for ratio in attention]
        heads = max(1, round(sum(inner) / depth / dim))
        return Model(
            name=name,
            family="",
            num_layers=depth,
            hidden=width,
            ffn_hidden=_mean(plain),
            vocab=0,
            attention=Attention(
                kind="gqa", heads=heads, kv_heads=heads, head_dim=dim, v_head_dim=dim
            ),
            gated_mlp=False,
            moe=None
            if not routed
            else MoE(
                num_experts=experts,
                top_k=chosen,
                ffn_hidden=_mean(wide),
            ),
            feed_forwards=tuple("mlp" if i in dense else "moe" for i in range(depth)),
            position="none",
            norm="layernorm",
            norm_bias=False,
            causal=False,
            head="none",
            cross=CrossAttention(tokens=tokens, hidden=width, heads=width // dim),
            conditioning=replace(condition, frequencies=0),
        )

    ratios = [
        [low + (high - low) * i / max(1, layers - 1) for i in range(layers)]
        for low, high in (_pair(fields, "qkv_ratio"), _pair(fields, "mlp_ratio"))
    ]
    depth = read_layers(fields, "patch_mixer_depth")
    inner = fields.integer("patch_mixer_dim")
    mixing = fields.number("patch_mixer_mlp_ratio", default=4.0)
    mixer = replace(
        stack("patch mixer", inner, depth, [1.0] * depth, [mixing] * depth), final_norm=False
    )
    trunk = replace(
        stack("", hidden, layers, *ratios),
        head="patches",
        outputs=size * size * channels,
        conditioning=condition,
        patches=patches,
        max_positions=patches.tokens,
    )
    captioner = replace(
        trunk,
        name="captions",
        num_layers=1,
        ffn_hidden=round(1.5 * _multiple(int(2 * 4 * hidden / 3), multiple)),
        attention=replace(trunk.attention, heads=hidden // dim, kv_heads=hidden // dim),
        moe=None,
        feed_forwards=(),
        patches=None,
        cross=None,
        conditioning=None,
        head="none",
        final_norm=False,
    )
    return replace(
        trunk,
        towers=(
            Tower(
                name="captions",
                model=captioner,
                joins="cross",
                tokens=tokens,
                projector=((captions, hidden), (hidden, hidden)),
            ),
            Tower(
                name="patch mixer",
                model=mixer,
                joins="trunk",
                tokens=patches.tokens,
                projector=((hidden, inner), (inner, hidden)),
                projector_bias=False,
                projector_norm=hidden + inner,
            ),
        ),
    )


def _mean(widths: Sequence[float]) -> int:
    """Return the mean width of some layers, 0 for none."""
    return round(sum(widths) / max(1, len(widths)))


def _multiple(width: int, unit: int) -> int:
    return -(-width // unit) * unit


def _pair(fields: Fields, name: str) -> tuple[float, float]:
    """Read the ratio of the first layer and of the last one."""
    values = fields.entries(name)
    if len(values) != 2 or not all(isinstance(v, int | float) and 0 < v <= 64 for v in values):
        fields.problem(f"{name!r} is {values!r}: must be two numbers, of the first and last layer")
        return 1.0, 1.0
    return float(values[0]), float(values[1])
