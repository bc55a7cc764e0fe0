"""A ladder of real shapes: models that could be trained as they stand, by size.

Loss depends on the parameter count and hardly on the shape (Kaplan et al. 2020, section 3.1), so a
rung is chosen for how well it tiles: layers that stages divide, heads that tensor parallelism
divides, head dimensions and widths that matrix units like.
"""

from __future__ import annotations

from functools import cache
from math import ceil, floor, gcd, log

from ridgeline.errors import InputError, nearest
from ridgeline.workloads.custom import custom_model
from ridgeline.workloads.model import Model
from ridgeline.workloads.parameters import parameters
from ridgeline.workloads.scaling.bundle import load_bundle
from ridgeline.workloads.scaling.vocabulary import VocabularyLaw

FAMILIES = ("llama", "gpt")
HIDDEN = (
    512, 640, 768, 896, 1024, 1280, 1536, 1792, 2048, 2560, 3072, 3584, 4096, 5120, 6144, 7168,
    8192, 9216, 10240, 12288, 14336, 16384, 18432, 20480, 24576, 28672, 32768,
)  # fmt: skip
"""Widths: few odd factors, so that every degree of tensor parallelism divides them."""
ASPECT = 128.0
"""h / L of a wide model: that of GPT-3 175B, of Llama 7B and about that of Llama 3 405B."""
FULL_WIDTH = 4096
"""Narrower models are relatively deeper: h / L falls with the root of h (GPT-3's own table)."""
DEEPER, SHALLOWER = 0.75, 1.4
"""A rung's h / L lies within these of its width's."""
LAYER_UNIT = 4
"""Layers are a multiple, for pipeline stages."""
KV_HEADS = 8
"""Of grouped-query attention, as in Llama 2 70B and all of Llama 3."""
VOCAB_UNIT = 1024
"""Rows of the embedding: 8 tensor-parallel ranks of 128."""
GPT_VOCAB = 51_200
RUNG = 1.10
"""Ratio of parameter counts between neighbouring rungs."""


@cache
def shape_ladder(family: str = "llama", seq_len: int = 4096) -> tuple[Model, ...]:
    """Return the shapes of a family in order of size, at most one per ``RUNG``.

    Of the shapes within a rung the one stays whose layers and heads have most factors of two, of
    equals the one whose h / L is most usual.

    Parameters
    ----------
    family
        ``llama``: gated MLP of 8/3 h rounded up to a multiple of 256, rotary positions, 8 key-value
        heads, untied embeddings, a vocabulary of the size of Tao et al. 2024, approach 2.
        ``gpt``: MLP of 4 h, learned positions, tied embeddings, 51,200 tokens.
    seq_len
        Rows of a learned position table.

    Raises
    ------
    InputError
        For an unknown family.
    """
    rungs: dict[int, tuple[tuple[float, ...], Model]] = {}
    for model in every_shape(family, seq_len):
        rung = floor(log(parameters(model).total) / log(RUNG))
        merit = _merit(model)
        if rung not in rungs or merit > rungs[rung][0]:
            rungs[rung] = (merit, model)
    return tuple(sorted((model for _, model in rungs.values()), key=_size))


@cache
def every_shape(family: str, seq_len: int) -> tuple[Model, ...]:
    """Return all shapes of a family, in order of size; see :func:`shape_ladder`."""
    if family not in FAMILIES:
        raise InputError(f"family {family!r}: is not known; {nearest(family, FAMILIES)}")
    models = [
        _model(family, layers, hidden, seq_len)
        for hidden in HIDDEN
        for layers in _depths(hidden)
    ]  # fmt: skip
    return tuple(sorted(models, key=_size))


def _size(model: Model) -> int:
    return parameters(model).total


def _usual_aspect(hidden: int) -> float:
    return float(ASPECT * min(1.0, (hidden / FULL_WIDTH) ** 0.5))


def _depths(hidden: int) -> range:
    usual = hidden / _usual_aspect(hidden)
    least = ceil(usual / SHALLOWER / LAYER_UNIT) * LAYER_UNIT
    return range(least, floor(usual / DEEPER) + 1, LAYER_UNIT)


def _merit(model: Model) -> tuple[float, ...]:
    heads = gcd(model.attention.heads, 8)
    depth = gcd(model.num_layers, 16)
    off = abs(log(model.hidden / model.num_layers / _usual_aspect(model.hidden)))
    return (heads * depth, -off)


def _model(family: str, layers: int, hidden: int, seq_len: int) -> Model:
    head_dim = 128 if hidden >= 1024 else 64
    heads = hidden // head_dim
    if family == "gpt":
        return custom_model(
            name=f"gpt-{layers}x{hidden}",
            layers=layers,
            hidden=hidden,
            heads=heads,
            vocab=GPT_VOCAB,
            gated=False,
            seq_len=seq_len,
            source="vocabulary of GPT-2, padded",
        )

    law = load_bundle("tao-2024")

    def build(vocab: int) -> Model:
        return custom_model(
            name=f"llama-{layers}x{hidden}",
            layers=layers,
            hidden=hidden,
            heads=heads,
            kv_heads=gcd(heads, KV_HEADS),
            vocab=vocab,
            gated=True,
            seq_len=seq_len,
            source=f"vocabulary by Tao et al. 2024, approach 2 ({law.citation})",
        )

    return build(_vocab(parameters(build(VOCAB_UNIT)).non_embedding, hidden))


def _vocab(nonvocab_params: int, hidden: int) -> int:
    law = VocabularyLaw(bundle=load_bundle("tao-2024"))
    rows = law.params_of_size(nonvocab_params) / hidden
    return max(1, round(rows / VOCAB_UNIT)) * VOCAB_UNIT
