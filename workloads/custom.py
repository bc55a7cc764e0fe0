"""A model from plain numbers, for shapes that have no name."""

from __future__ import annotations

from itertools import product

from ridgeline.errors import InputError
from ridgeline.workloads.fields import MAX_LAYERS, Fields
from ridgeline.workloads.model import Attention, Model, MoE
from ridgeline.workloads.parameters import parameters

DEFAULT_VOCAB = 51_200
"""GPT-2's 50,257 tokens as Megatron-LM pads them for up to 8-way tensor parallelism."""


def custom_model(
    *,
    name: str = "custom",
    layers: int,
    hidden: int,
    heads: int,
    ffn_hidden: int | None = None,
    kv_heads: int | None = None,
    head_dim: int | None = None,
    vocab: int | None = None,
    gated: bool | None = None,
    num_experts: int = 0,
    top_k: int = 0,
    moe_ffn_hidden: int | None = None,
    shared_ffn_hidden: int = 0,
    first_dense_layers: int = 0,
    tied: bool | None = None,
    positions: str | None = None,
    seq_len: int = 2048,
    bias: bool | None = None,
    window: int = 0,
    params_b: float | None = None,
    source: str = "",
) -> Model:
    """Make a model of plain numbers.

    What is not given is taken from the two usual designs. A *gated* model is Llama-like: rotary
    positions, RMSNorm, no biases, untied embeddings. A model that is not is GPT-like: learned
    positions, LayerNorm, biases, tied embeddings. Which of them is decided by, in this order:
    ``gated``; ``params_b``, by the design whose parameter count is nearer; an MLP that is not
    4 h wide, fewer key-value heads than heads, or experts, which mean gated.

    Parameters
    ----------
    name
        For messages and results.
    layers, hidden, heads
        L, h and a.
    ffn_hidden
        Width of the MLP; of each routed expert too, unless ``moe_ffn_hidden`` is given. Default
        4 h, and for a gated model 8/3 h rounded up to a multiple of 256 (Touvron et al. 2023).
    kv_heads, head_dim
        Default: as many as heads; h / a.
    vocab
        Default 51,200.
    gated
        Whether the MLP has a gate.
    num_experts, top_k
        Routed experts in every layer after the dense ones, and how many a token uses; 0 for a
        dense model. ``top_k`` defaults to 2 or fewer.
    moe_ffn_hidden, shared_ffn_hidden
        Width of a routed expert; of all shared experts together.
    first_dense_layers
        Layers before the first with experts.
    tied
        Whether the output projection is the embedding.
    positions
        rotary, learned, alibi, relative or none.
    seq_len
        Rows of the learned position table.
    bias
        Whether projections have biases.
    window
        Sliding window of every layer, 0 for none.
    params_b
        Published parameter count in billions, to tell the design.
    source
        Where the numbers come from.

    Raises
    ------
    InputError
        With one line for each number that cannot be.
    """
    problems: list[str] = []
    given = {key: value for key, value in locals().items() if key not in ("problems", "name")}
    fields = Fields(given, f"model {name!r}", problems)
    fields.integer("layers", maximum=MAX_LAYERS)
    for key in ("hidden", "heads", "seq_len"):
        fields.integer(key)
    for key in ("ffn_hidden", "kv_heads", "head_dim", "vocab", "moe_ffn_hidden"):
        fields.integer(key, default=1)
    for key in ("num_experts", "top_k", "shared_ffn_hidden", "first_dense_layers", "window"):
        fields.integer(key, minimum=0)
    fields.number("params_b", default=1.0, minimum=1e-6, maximum=1e9)
    known_positions = ("rotary", "learned", "alibi", "relative", "none")
    if positions is not None and positions not in known_positions:
        fields.problem(f"positions {positions!r}: must be one of {', '.join(known_positions)}")
    if not problems:
        if head_dim is None and hidden % heads:
            fields.problem(f"{heads} heads do not divide hidden {hidden}: give head_dim")
        if heads % (kv_heads or heads):
            fields.problem(f"kv_heads {kv_heads}: must divide the {heads} heads")
        if top_k > num_experts:
            fields.problem(f"top_k {top_k}: there are {num_experts} experts")
    if problems:
        raise InputError(problems)

    def build(is_gated: bool, is_tied: bool) -> Model:
        width = ffn_hidden or (-(-8 * hidden // 768) * 256 if is_gated else 4 * hidden)
        dim = head_dim or hidden // heads
        has_bias = not is_gated if bias is None else bias
        position = positions or ("rotary" if is_gated else "learned")
        all_experts = bool(num_experts) and not first_dense_layers
        moe = MoE(
            num_experts=num_experts,
            top_k=top_k or min(2, num_experts),
            ffn_hidden=moe_ffn_hidden or width,
            num_shared_experts=int(bool(shared_ffn_hidden)),
            shared_ffn_hidden=shared_ffn_hidden,
            first_dense_layers=first_dense_layers,
        )
        return Model(
            name=name,
            family="custom",
            num_layers=layers,
            hidden=hidden,
            ffn_hidden=0 if all_experts else width,
            vocab=vocab or DEFAULT_VOCAB,
            attention=Attention(
                kind="gqa",
                heads=heads,
                kv_heads=kv_heads or heads,
                head_dim=dim,
                v_head_dim=dim,
                qkv_bias=has_bias,
                out_bias=has_bias,
            ),
            gated_mlp=is_gated,
            mlp_bias=has_bias,
            moe=moe if num_experts else None,
            tied_embeddings=is_tied,
            position=position,
            learned_positions=seq_len if position == "learned" else 0,
            norm="rmsnorm" if is_gated else "layernorm",
            windows=(window,) * layers if window else (),
            max_positions=seq_len,
            source=source,
        )

    if params_b is None:
        if gated is None:
            gated = bool(
                num_experts
                or (kv_heads or heads) != heads
                or (ffn_hidden is not None and ffn_hidden != 4 * hidden)
            )
        return build(gated, not gated if tied is None else tied)
    # The usual tie of each design comes first, so that it wins where the counts are equal.
    designs = [
        build(is_gated, is_tied)
        for is_gated, is_tied in product((False, True), (True, False))
        if gated in (None, is_gated) and tied in (None, is_tied)
    ]
    return min(designs, key=lambda model: abs(parameters(model).total - params_b * 1e9))
