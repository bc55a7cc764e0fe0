"""Operators of one transformer layer on one rank, forward and backward.

Shapes as in ``shape``; weights are split over tensor ranks by columns, then by rows (Shoeybi et
al. 2019, arXiv 1909.08053), sequence regions as Korthikanti et al. 2022 (arXiv 2205.05198).
"""

from __future__ import annotations

from ridgeline.simulator.operators.attention import attention_core
from ridgeline.simulator.operators.cross import cross_attention, modulation
from ridgeline.simulator.operators.moe import experts
from ridgeline.simulator.operators.products import elementwise, linear
from ridgeline.simulator.operators.regions import (
    enter,
    leave,
    regather,
    residual,
    residual_backward,
)
from ridgeline.simulator.operators.shape import Shape
from ridgeline.simulator.operators.table import BACKWARD, FORWARD, RECOMPUTE, WEIGHT, Builder
from ridgeline.simulator.recompute import Recompute


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
            enter(b, s, "qkv")
            _qkv(b, s)
        elif again.latent:
            _latent_up(b, s)
        if whole or again.qkv or again.latent:
            _qkv_elementwise(b, s, 2.0)
        if whole or again.core:
            attention_core(b, s, index)
        if whole or again.output:
            linear(b, s, "attention output", "attention", s.tokens, h, value)
            leave(b, s, "attention")
            residual(b, s, "attention")
        return
    if b.phase == BACKWARD:
        residual_backward(b, s, "attention")
        leave(b, s, "attention")
        linear(b, s, "attention output", "attention", s.tokens, h, value)
        attention_core(b, s, index)
        _qkv_elementwise(b, s, 2.0)
        _qkv(b, s)
        enter(b, s, "qkv")
        elementwise(b, s, "attention norm gradient", "norm", h, 3.0, region=True)
        return
    linear(b, s, "attention output", "attention", s.tokens, h, value)
    regather(b, s, "qkv")
    _qkv(b, s)


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
            enter(b, s, "mlp")
        body()
        if (whole or again.mlp) and gathers:
            leave(b, s, "mlp")
        if whole or again.mlp:
            residual(b, s, "mlp")
        return
    if b.phase == BACKWARD:
        residual_backward(b, s, "mlp")
        if gathers:
            leave(b, s, "mlp")
        body()
        if gathers:
            enter(b, s, "mlp")
        if not model.parallel_block:
            elementwise(b, s, "mlp norm gradient", "norm", h, 3.0, region=True)
        return
    if gathers:
        regather(b, s, "mlp")
    body()


def layer(b: Builder, s: Shape, index: int, again: Recompute, *, trained: bool = True) -> None:
    """Add all phases of layer ``index`` to the builder's part; one not trained runs forward."""
    for phase in (FORWARD, RECOMPUTE) if again.anything and trained else (FORWARD,):
        b.phase = phase
        modulation(b, s, again)
        _attention_half(b, s, index, again)
        cross_attention(b, s, again)
        _mlp_half(b, s, index, again)
    for phase in (BACKWARD, WEIGHT) if trained else ():
        b.phase = phase
        _mlp_half(b, s, index, again)
        cross_attention(b, s, again)
        _attention_half(b, s, index, again)
        modulation(b, s, again)
