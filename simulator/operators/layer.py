"""Operators of one transformer layer on one rank, forward and backward.

Shapes as in ``shape``; weights are split over tensor ranks by columns, then by rows (Shoeybi et
al. 2019, arXiv 1909.08053), sequence regions as Korthikanti et al. 2022 (arXiv 2205.05198).
"""

from __future__ import annotations

from ridgeline.simulator.operators import convolution, scan
from ridgeline.simulator.operators.added import bottleneck
from ridgeline.simulator.operators.attention import attention_core
from ridgeline.simulator.operators.cross import cross_attention, modulation
from ridgeline.simulator.operators.depth import route, taken
from ridgeline.simulator.operators.memory_table import memory_table
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
from ridgeline.simulator.operators.sparse import branch_gates, folds, index_projections
from ridgeline.simulator.operators.table import BACKWARD, FORWARD, RECOMPUTE, WEIGHT, Builder
from ridgeline.simulator.optimizers import INT8_WEIGHT_BYTES, layer_matrices
from ridgeline.simulator.recompute import Recompute
from ridgeline.simulator.roofline.layout import MEMORY
from ridgeline.workloads.forms import Form


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
        index_projections(b, s)
    else:
        heads = a.heads // t * (2 if a.output_gate else 1) + 2 * max(1, a.kv_heads // t)
        linear(b, s, "qkv", "attention", s.tokens, heads * a.head_dim, h)
        branch_gates(b, s)


def _inputs(b: Builder, s: Shape, form: Form) -> None:
    """Add the products that read the hidden state."""
    if form.is_linear:
        scan.project(b, s)
    elif form.mixer == "convolution":
        convolution.project(b, s)
    else:
        _qkv(b, s)


def mix(b: Builder, s: Shape, index: int, form: Form) -> None:
    """Add what mixes the tokens of layer ``index`` in the builder's phase."""
    if form.is_linear:
        scan.scan(b, s)
    elif form.mixer == "convolution":
        convolution.convolve(b, s)
    else:
        attention_core(b, s, index)


def _outputs(b: Builder, s: Shape, form: Form) -> None:
    """Add the product that leaves the mixer."""
    if form.is_linear:
        scan.project_out(b, s)
    elif form.mixer == "convolution":
        convolution.project_out(b, s)
    else:
        a = s.model.attention
        value = a.heads * a.v_head_dim // s.tp
        linear(b, s, "attention output", "attention", s.tokens, s.model.hidden, value)


def _latent_up(b: Builder, s: Shape) -> None:
    """Project the latents of MLA up to heads (DeepSeek-V2, arXiv 2405.04434, section 2.1)."""
    a, t = s.model.attention, s.tp
    if a.kind != "mla":
        return
    nope_and_v = a.head_dim - a.rope_head_dim + a.v_head_dim
    if a.q_lora_rank:
        linear(b, s, "query up", "attention", s.tokens, a.heads * a.head_dim // t, a.q_lora_rank)
    if folds(s):
        return  # into queries and outputs
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


def _attention_half(b: Builder, s: Shape, index: int, again: Recompute, form: Form) -> None:
    """Norm, mixer and residual of layer ``index`` in the builder's phase."""
    if not form.has_mixer:
        return
    h, attends = s.model.hidden, form.mixer == "attention"
    name = "qkv" if attends else "mixer"
    if b.phase in (FORWARD, RECOMPUTE):
        whole = b.phase == FORWARD
        if whole or again.norms:
            elementwise(b, s, "attention norm", "norm", h, 2.0, region=True)
        if whole or again.qkv:
            enter(b, s, name)
            _inputs(b, s, form)
        elif again.latent and attends:
            _latent_up(b, s)
        if attends and (whole or again.qkv or again.latent):
            _qkv_elementwise(b, s, 2.0)
        if whole or again.core:
            mix(b, s, index, form)
        if whole or again.output:
            _outputs(b, s, form)
            leave(b, s, "attention")
            bottleneck(b, s, "attention", "attention")
            residual(b, s, "attention")
        return
    if b.phase == BACKWARD:
        residual_backward(b, s, "attention")
        bottleneck(b, s, "attention", "attention")
        leave(b, s, "attention")
        _outputs(b, s, form)
        mix(b, s, index, form)
        if attends:
            _qkv_elementwise(b, s, 2.0)
        _inputs(b, s, form)
        enter(b, s, name)
        elementwise(b, s, "attention norm gradient", "norm", h, 3.0, region=True)
        return
    bottleneck(b, s, "attention", "attention")
    _outputs(b, s, form)
    regather(b, s, name)
    _inputs(b, s, form)


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


def _mlp_half(b: Builder, s: Shape, again: Recompute, form: Form) -> None:
    """Norm, MLP, experts or memory, and residual of a layer in the builder's phase."""
    if not form.has_feed_forward:
        return
    model = s.model
    moe = model.moe if form.is_moe else None
    h = model.hidden
    # routed tokens stay split over the tensor ranks: only an MLP that all of them share gathers
    gathers = not model.parallel_block and (moe is None or moe.shared_ffn_hidden > 0)

    def body() -> None:
        if form.is_memory:
            memory_table(b, s, again)
            return
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
            bottleneck(b, s, "mlp", "mlp")
            residual(b, s, "mlp")
        return
    if b.phase == BACKWARD:
        residual_backward(b, s, "mlp")
        bottleneck(b, s, "mlp", "mlp")
        if gathers:
            leave(b, s, "mlp")
        body()
        if gathers:
            enter(b, s, "mlp")
        if not model.parallel_block:
            elementwise(b, s, "mlp norm gradient", "norm", h, 3.0, region=True)
        return
    bottleneck(b, s, "mlp", "mlp")
    if gathers:
        regather(b, s, "mlp")
    body()


def _widen(b: Builder, s: Shape, index: int) -> None:
    """Make 16-bit copies of int8 weights, each for its product and freed behind it."""
    if not s.int8_weights:
        return
    found = layer_matrices(s.model, s.model.is_moe_layer(index), s.tp, s.ep, s.etp)
    weights = sum(item.parameters for item in (*found.dense, *found.experts))
    b.compute("widen weights", "cast", MEMORY, s.dtype, moved=weights * (INT8_WEIGHT_BYTES + 2.0))


def layer(
    b: Builder, s: Shape, index: int, again: Recompute, *, only_forward: bool = False
) -> None:
    """Add all phases of layer ``index`` to the builder's part, or its forward pass alone."""
    form = s.model.form(index)
    inner = taken(s, form.capacity)
    for phase in (FORWARD, RECOMPUTE) if again.anything and not only_forward else (FORWARD,):
        b.phase = phase
        if phase == FORWARD:
            _widen(b, s, index)
        route(b, s, inner)
        modulation(b, inner, again)
        _attention_half(b, inner, index, again, form)
        cross_attention(b, inner, again)
        _mlp_half(b, inner, again, form)
    for phase in () if only_forward else (BACKWARD, WEIGHT):
        b.phase = phase
        if phase == BACKWARD:
            _widen(b, s, index)
        _mlp_half(b, inner, again, form)
        cross_attention(b, inner, again)
        _attention_half(b, inner, index, again, form)
        modulation(b, inner, again)
        route(b, s, inner)
