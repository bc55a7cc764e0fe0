"""Operators of one transformer layer on one rank, forward and backward.

Shapes as in ``shape``; weights are split over tensor ranks by columns, then by rows (Shoeybi et
al. 2019, arXiv 1909.08053), sequence regions as Korthikanti et al. 2022 (arXiv 2205.05198).
"""

from __future__ import annotations

from ridgeline.simulator.collectives.layout import ALL_GATHER, ALL_REDUCE, REDUCE_SCATTER
from ridgeline.simulator.operators.attention import attention_core
from ridgeline.simulator.operators.gradients import accumulate
from ridgeline.simulator.operators.moe import experts
from ridgeline.simulator.operators.shape import Shape
from ridgeline.simulator.operators.table import BACKWARD, FORWARD, RECOMPUTE, WEIGHT, Builder
from ridgeline.simulator.recompute import Recompute
from ridgeline.simulator.roofline.layout import DTYPES, FP8, GEMM, MEMORY


def elementwise(
    b: Builder, s: Shape, name: str, group: str, width: float, passes: float, *, region: bool
) -> None:
    """Add a memory-bound kernel over tokens x ``width`` elements that moves ``passes`` of them."""
    tokens = s.region_tokens if region else s.tokens
    moved = tokens * width * passes * s.element * s.stack.elementwise_factor
    b.compute(name, group, MEMORY, s.dtype, moved=moved)


def linear(
    b: Builder, s: Shape, name: str, group: str, m: int, n: int, k: int, *, dtype: int | None = None
) -> None:
    """Add out[m,n] = x[m,k] W[n,k]^T in the builder's phase, with the fp8 casts it needs."""
    kind = s.linear_dtype if dtype is None else dtype
    m, n, k = max(1, m), max(1, n), max(1, k)
    cast = 0.5 * s.stack.fp8_cast_bytes if kind == FP8 else 0.0
    if name in s.lora_targets:
        _adapter(b, s, name, group, m, n, k)
    if b.phase in (FORWARD, RECOMPUTE):
        if cast:
            b.compute(f"{name} cast", "cast", MEMORY, s.dtype, moved=cast * m * k)
        b.compute(name, group, GEMM, kind, (m, n, k, 1))
    elif b.phase == WEIGHT and s.lora_rank:
        return  # the weights are frozen
    elif b.phase == BACKWARD:
        if cast:
            b.compute(f"{name} gradient cast", "cast", MEMORY, s.dtype, moved=cast * m * n)
        b.compute(f"{name} dgrad", group, GEMM, kind, (m, k, n, 1))
    else:
        moved = s.fused_accumulation_bytes * n * k
        rate = s.stack.weight_gradient_compute(DTYPES[kind])
        b.compute(f"{name} wgrad", group, GEMM, kind, (n, k, m, 1), moved=moved, rate=rate)
        accumulate(b, s, name, float(n) * k)


def entered(s: Shape, name: str, what: str) -> tuple[str, ...]:
    """Return the products that enter the tensor ranks behind ``name``; empty for no certain ones.

    Megatron launches the reduction of an input gradient, then the weight gradient of the same
    layer, and then waits (Korthikanti et al. 2022, section 6.2); likewise the second gather of a
    saved input and the input gradient. XLA's schedule ties them to no product.
    """
    if s.stack.tp_gradient_overlap <= s.stack.tp_overlap:
        return ()
    products = {
        "qkv": ("qkv", "query", "query up", "key-value up"),
        "mlp": ("mlp up", "shared expert up"),
    }.get(name, (name,))
    if name == "qkv" and s.model.parallel_block:
        products += ("mlp up",)
    return tuple(f"{product} {what}" for product in products)


def gradient_overlap(s: Shape) -> float:
    """Return the share of an input gradient's reduction that may hide."""
    return max(s.stack.tp_overlap, s.stack.tp_gradient_overlap)


def _adapter(b: Builder, s: Shape, name: str, group: str, m: int, n: int, k: int) -> None:
    """Add the two thin products of an adapter, and the sum with the frozen product's output.

    Forward x A^T and its product with B^T; backward the gradients through both, behind which the
    gradients of A and B follow.
    """
    r = s.lora_rank
    if b.phase in (FORWARD, RECOMPUTE):
        thin, moved = [(m, r, k, 1), (m, n, r, 1)], 3.0 * m * n
    elif b.phase == BACKWARD:
        thin, moved = [(m, r, n, 1), (m, k, r, 1)], 3.0 * m * k
    else:
        thin, moved = [(n, r, m, 1), (r, k, m, 1)], 0.0
    for letter, shape in zip("AB" if b.phase in (FORWARD, RECOMPUTE) else "BA", thin, strict=True):
        b.compute(f"{name} adapter {letter}", group, GEMM, s.dtype, shape)
    if moved:
        moved *= s.element * s.stack.elementwise_factor
        b.compute(f"{name} adapter sum", group, MEMORY, s.dtype, moved=moved)


def _enter(b: Builder, s: Shape, name: str) -> None:
    """Communicate before a column-parallel matrix product (backward: behind its gradient).

    MLA gathers its latents in place of the hidden state where all queries come from them.
    """
    a = s.model.attention
    latent = name == "qkv" and s.sp and a.kind == "mla" and a.q_lora_rank > 0
    width = a.q_lora_rank + a.kv_lora_rank + a.rope_head_dim if latent else s.model.hidden
    moved = s.tokens * width * s.element
    g, overlap = s.groups.tp, s.stack.tp_overlap
    if b.phase in (FORWARD, RECOMPUTE):
        if s.sp:
            b.collective(
                f"{name} gather", "tp", ALL_GATHER, moved, g.size, g.stride, overlap=overlap
            )
    else:
        operation = REDUCE_SCATTER if s.sp else ALL_REDUCE
        overlap, beside = gradient_overlap(s), entered(s, name, "wgrad")
        row = f"{name} gradient reduce"
        b.collective(row, "tp", operation, moved, g.size, g.stride, overlap=overlap, beside=beside)


def _leave(b: Builder, s: Shape, name: str) -> None:
    """Communicate behind a row-parallel matrix product (backward: before its gradient)."""
    moved = s.tokens * s.model.hidden * s.element
    g, overlap = s.groups.tp, s.stack.tp_overlap
    if b.phase in (FORWARD, RECOMPUTE):
        operation = REDUCE_SCATTER if s.sp else ALL_REDUCE
        b.collective(f"{name} reduce", "tp", operation, moved, g.size, g.stride, overlap=overlap)
    elif s.sp:
        b.collective(
            f"{name} gradient gather", "tp", ALL_GATHER, moved, g.size, g.stride, overlap=overlap
        )


def _regather(b: Builder, s: Shape, name: str) -> None:
    """Gather the saved input again for its weight gradient; hidden behind the input gradient."""
    trained = not s.lora_rank or any(target.startswith(name) for target in s.lora_targets)
    if s.sp and s.tp > 1 and trained:
        moved = s.tokens * s.model.hidden * s.element
        g, beside = s.groups.tp, entered(s, name, "dgrad")
        row = f"{name} input gather"
        b.collective(row, "tp", ALL_GATHER, moved, g.size, g.stride, overlap=1.0, beside=beside)


def _qkv(b: Builder, s: Shape) -> None:
    a, h, t = s.model.attention, s.model.hidden, s.tp
    if a.kind == "mla":
        # every tensor rank keeps the whole down-projections and runs them on its own tokens
        if a.q_lora_rank:
            linear(b, s, "query down", "attention", s.region_tokens, a.q_lora_rank, h)
        else:
            linear(b, s, "query", "attention", s.tokens, a.heads * a.head_dim // t, h)
        latent = a.kv_lora_rank + a.rope_head_dim
        linear(b, s, "key-value down", "attention", s.region_tokens, latent, h)
        _latent_up(b, s)
    else:
        heads = a.heads // t + 2 * max(1, a.kv_heads // t)
        linear(b, s, "qkv", "attention", s.tokens, heads * a.head_dim, h)


def _latent_up(b: Builder, s: Shape) -> None:
    """Project the latents of MLA up to heads (DeepSeek-V2, arXiv 2405.04434, section 2.1)."""
    a, t = s.model.attention, s.tp
    if a.kind != "mla":
        return
    nope_and_v = a.head_dim - a.rope_head_dim + a.v_head_dim
    if a.q_lora_rank:
        linear(b, s, "query up", "attention", s.tokens, a.heads * a.head_dim // t, a.q_lora_rank)
    linear(b, s, "key-value up", "attention", s.tokens, a.heads * nope_and_v // t, a.kv_lora_rank)


def _qkv_elementwise(b: Builder, s: Shape, passes: float) -> None:
    """Add bias, rotary embedding and query-key norms as one fused pass over q and k."""
    a, t = s.model.attention, s.tp
    heads = a.heads // t + max(1, a.kv_heads // t)
    if s.model.position == "rotary" or a.qkv_bias or a.qk_norm:
        elementwise(b, s, "rotary", "attention", heads * a.head_dim, passes, region=False)
    if a.kind == "mla":
        width = a.q_lora_rank + a.kv_lora_rank
        elementwise(b, s, "latent norms", "norm", width, passes, region=False)


def _attention_half(b: Builder, s: Shape, index: int, again: Recompute) -> None:
    """Norm, attention and residual of layer ``index`` in the builder's phase."""
    model = s.model
    a, h, t = model.attention, model.hidden, s.tp
    value = a.heads * a.v_head_dim // t
    if b.phase in (FORWARD, RECOMPUTE):
        whole = b.phase == FORWARD
        if whole or again.norms:
            elementwise(b, s, "attention norm", "norm", h, 2.0, region=True)
        if whole or again.qkv:
            _enter(b, s, "qkv")
            _qkv(b, s)
        elif again.latent:
            _latent_up(b, s)
        if whole or again.qkv or again.latent:
            _qkv_elementwise(b, s, 2.0)
        if whole or again.core:
            attention_core(b, s, index)
        if whole or again.output:
            linear(b, s, "attention output", "attention", s.tokens, h, value)
            _leave(b, s, "attention")
            _residual(b, s, "attention")
        return
    if b.phase == BACKWARD:
        _residual_backward(b, s, "attention")
        _leave(b, s, "attention")
        linear(b, s, "attention output", "attention", s.tokens, h, value)
        attention_core(b, s, index)
        _qkv_elementwise(b, s, 2.0)
        _qkv(b, s)
        _enter(b, s, "qkv")
        elementwise(b, s, "attention norm gradient", "norm", h, 3.0, region=True)
        return
    linear(b, s, "attention output", "attention", s.tokens, h, value)
    _regather(b, s, "qkv")
    _qkv(b, s)


def _residual(b: Builder, s: Shape, name: str) -> None:
    """Bias, dropout and residual in one kernel: reads x and the residual, writes the sum."""
    mask = 1.0 / s.element if s.stack.dropout else 0.0
    elementwise(b, s, f"{name} residual", "norm", s.model.hidden, 3.0 + mask, region=True)
    if s.model.norms_per_layer > 2:
        elementwise(b, s, f"{name} post-norm", "norm", s.model.hidden, 2.0, region=True)


def _residual_backward(b: Builder, s: Shape, name: str) -> None:
    """Gradient through dropout, and the sum of the two branches of the residual."""
    mask = (2.0 + 1.0 / s.element) if s.stack.dropout else 0.0
    elementwise(b, s, f"{name} residual gradient", "norm", s.model.hidden, 3.0 + mask, region=True)
    if s.model.norms_per_layer > 2:
        elementwise(b, s, f"{name} post-norm gradient", "norm", s.model.hidden, 3.0, region=True)


def dense_mlp(b: Builder, s: Shape, ffn: int, group: str, *, again: Recompute, label: str) -> None:
    """Add an MLP of width ``ffn`` split over the tensor ranks, in the builder's phase."""
    h, width = s.model.hidden, ffn // s.tp
    up = 2 * width if s.model.gated_mlp else width
    if b.phase in (FORWARD, RECOMPUTE):
        whole = b.phase == FORWARD
        if whole or again.mlp:
            linear(b, s, f"{label} up", group, s.tokens, up, h)
        if whole or again.activation:
            elementwise(b, s, f"{label} activation", group, up + width, 1.0, region=False)
        if whole or again.mlp:
            linear(b, s, f"{label} down", group, s.tokens, h, width)
    elif b.phase == BACKWARD:
        linear(b, s, f"{label} down", group, s.tokens, h, width)
        elementwise(b, s, f"{label} activation gradient", group, 2 * up + width, 1.0, region=False)
        linear(b, s, f"{label} up", group, s.tokens, up, h)
    else:
        linear(b, s, f"{label} down", group, s.tokens, h, width)
        linear(b, s, f"{label} up", group, s.tokens, up, h)


def _mlp_half(b: Builder, s: Shape, index: int, again: Recompute) -> None:
    """Norm, MLP or experts, and residual of layer ``index`` in the builder's phase."""
    model = s.model
    moe = model.moe if model.is_moe_layer(index) else None
    h = model.hidden
    # routed tokens stay split over the tensor ranks: only an MLP that all of them share gathers
    gathers = not model.parallel_block and (moe is None or moe.shared_ffn_hidden > 0)

    def body() -> None:
        if moe is None:
            dense_mlp(b, s, model.ffn_hidden, "mlp", again=again, label="mlp")
            return
        experts(b, s, moe, again)
        if moe.shared_ffn_hidden:
            dense_mlp(b, s, moe.shared_ffn_hidden, "moe", again=again, label="shared expert")

    if b.phase in (FORWARD, RECOMPUTE):
        whole = b.phase == FORWARD
        if (whole or again.norms) and not model.parallel_block:
            elementwise(b, s, "mlp norm", "norm", h, 2.0, region=True)
        if (whole or again.mlp) and gathers:
            _enter(b, s, "mlp")
        body()
        if (whole or again.mlp) and gathers:
            _leave(b, s, "mlp")
        if whole or again.mlp:
            _residual(b, s, "mlp")
        return
    if b.phase == BACKWARD:
        _residual_backward(b, s, "mlp")
        if gathers:
            _leave(b, s, "mlp")
        body()
        if gathers:
            _enter(b, s, "mlp")
        if not model.parallel_block:
            elementwise(b, s, "mlp norm gradient", "norm", h, 3.0, region=True)
        return
    if gathers:
        _regather(b, s, "mlp")
    body()


def layer(b: Builder, s: Shape, index: int, again: Recompute) -> None:
    """Add all phases of layer ``index`` to the builder's part."""
    b.phase = FORWARD
    _attention_half(b, s, index, again)
    _mlp_half(b, s, index, again)
    if again.anything:
        b.phase = RECOMPUTE
        _attention_half(b, s, index, again)
        _mlp_half(b, s, index, again)
    for phase in (BACKWARD, WEIGHT):
        b.phase = phase
        _mlp_half(b, s, index, again)
        _attention_half(b, s, index, again)
