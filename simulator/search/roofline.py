"""A lower bound of step times that prices no kernel: FLOPs over peak, and exposed collectives."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ridgeline.simulator.collectives.layout import (
    ALL_GATHER,
    ALL_REDUCE,
    ALL_TO_ALL,
    REDUCE_SCATTER,
)
from ridgeline.simulator.operators.shape import DTYPES
from ridgeline.simulator.plan import QUANTISED
from ridgeline.simulator.recompute import known_recompute
from ridgeline.simulator.roofline.device import device_parameters
from ridgeline.simulator.roofline.layout import PEAK, SUSTAINED
from ridgeline.simulator.search import _kernels
from ridgeline.simulator.search.parts import micro_batches, price_columns, schedule_codes
from ridgeline.simulator.search.space import Candidates, Space
from ridgeline.simulator.stacks import Stack
from ridgeline.workloads.flops import mean_keys
from ridgeline.workloads.forms import Form
from ridgeline.workloads.mixers import convolution_weights, linear_weights
from ridgeline.workloads.model import Attention, Model
from ridgeline.workloads.parameters import distinct_layers

Floats = NDArray[np.float64]

_COUNTED = (Form(), Form(feed_forward="moe"))
"""Forms whose attention, products and collectives are counted one by one."""


def roofline_seconds(
    space: Space, stack: Stack, c: Candidates, fabric: NDArray[np.int64]
) -> Floats:
    """Return seconds that the passes of a candidate take at least on some device, float64[n].

    Notes
    -----
    A rank of tp multiplies at least its share of a layer's weights by its tokens: what does not
    divide is rounded up or refused, but for the tokens of experts and the vocabulary, which are
    counted as the operator table rounds them. A matrix product takes at least its FLOPs over the
    datasheet's peak, sustained clocks above it counted in. Attention is counted under the causal
    mask, less half a key for the rounding of context rings. A collective of tensor or expert ranks
    adds at least the share that the stack does not overlap. So a layer takes at least f forward
    and b backward (recomputation and weight gradients included).

    The passes of one device take at least the mean over devices. And the last device runs m
    micro-batches through at least n layers of each of its v slices, where n is the least that a
    slice has: before the first of them pp - 1 slices have passed, and behind the last one (GPipe,
    1F1B, interleaved) their gradients pass pp - 1 slices of the first chunk:

        T >= max(m (sum of f + b) / pp, (m v + pp - 1) n (f + b))

    with the smallest f and b of all layers in the second; the second needs a pipeline that is
    entered at one end (not DualPipe), and counts f alone in pp - 1 under ZB-H1.
    """
    model, training = space.model, space.training
    code = schedule_codes(space)[c.schedule]
    wires = _Wires.price(space, stack, c, fabric, code)
    linear, other = _rates(space, stack)
    m, n = micro_batches(space, c).astype(np.float64), len(c)
    tokens = c.micro_batch_seqs * (training.seq_len // c.cp)
    predicted = np.maximum(1.0, np.floor(tokens * model.predicted))
    head = 2.0 * predicted * model.hidden * np.maximum(1, model.vocab // c.tp) / other[c.cluster]
    whole = 3.0 * head
    least_forward, least_backward = np.full(n, np.inf), np.full(n, np.inf)
    for kind in distinct_layers(model):
        attention = _attention_flops(space, c, tokens, kind.window) / other[c.cluster]
        if kind.form not in _COUNTED or _sparse(model.attention):
            # only what such a layer multiplies by its weights is counted, and no collective
            products = _least_products(model, kind.form, c, tokens) / linear[c.cluster]
            whole += 3.0 * kind.count * products
            least_forward = np.minimum(least_forward, products)
            least_backward = np.minimum(least_backward, 2.0 * products)
            continue
        inward, outward = _projections(model, model.attention)
        projections = 2.0 * tokens / c.tp * inward / linear[c.cluster]
        output = 2.0 * tokens / c.tp * outward / linear[c.cluster]
        mlp = _mlp_flops(model, c, tokens, routed=kind.is_moe) / linear[c.cluster]
        # weight gradients of experts are counted by whole tokens of one expert
        weight = _mlp_flops(model, c, tokens, routed=kind.is_moe, weight=True) / linear[c.cluster]
        exchange = wires.experts if kind.is_moe else 0.0
        # only an MLP that all tensor ranks share gathers, and a parallel block gathers once
        splits = kind.is_moe and not (model.moe is not None and model.moe.shared_ffn_hidden)
        half = 0.0 if model.parallel_block or splits else wires.enter + wires.leave
        enters = 0.0 if model.attention.kind == "mla" else wires.enter
        forward = projections + output + mlp + attention + enters + wires.leave + half + exchange
        backward = 2.0 * (projections + output) + mlp + weight + 2.0 * attention
        backward += enters + wires.leave + half + exchange
        for place, name in enumerate(space.recompute):
            again, scope = known_recompute(name)
            if scope.mode == "all":
                more = again.qkv * (projections + enters) + again.output * (output + wires.leave)
                more += again.mlp * (mlp + half + exchange)
                backward += np.where(c.recompute == place, more + again.core * attention, 0.0)
        whole += kind.count * (forward + backward)
        least_forward = np.minimum(least_forward, forward)
        least_backward = np.minimum(least_backward, backward)
    slices = c.pp * c.vpp
    layers = (
        np.full(n, min(training.stage_layers))
        if training.stage_layers
        else (model.num_layers // slices)
    )
    returns = np.where(code <= _kernels.INTERLEAVED, least_backward, 0.0)
    passes = m * c.vpp * (least_forward + least_backward)
    filled = layers * (passes + (c.pp - 1) * (least_forward + returns))
    least: Floats = np.maximum(m * whole / c.pp, np.where(code == _kernels.DUALPIPE, 0.0, filled))
    return least


@dataclass(frozen=True, slots=True)
class _Wires:
    """Seconds of the collectives of a layer in one direction that nothing can hide, float64[n]."""

    enter: Floats
    """Before a column-parallel product, or behind its gradient: under sequence parallelism."""
    leave: Floats
    """Behind a row-parallel product, or before its gradient."""
    experts: Floats
    """To the experts and back."""

    @classmethod
    def price(
        cls,
        space: Space,
        stack: Stack,
        c: Candidates,
        fabric: NDArray[np.int64],
        code: NDArray[Any],
    ) -> _Wires:
        """Price them; a pair of DualPipe, and a dispatch by nodes, may hide their experts'."""
        model, training = space.model, space.training
        element = 4.0 if training.precision in ("fp32", "tf32") else 2.0
        tokens = c.micro_batch_seqs * (training.seq_len // c.cp)
        moved = tokens * model.hidden * element
        sent, stride = np.zeros(len(c)), np.where(c.etp > 0, c.etp, c.tp)
        if model.moe is not None:
            own = np.maximum(1, tokens // c.tp) * (model.moe.capacity_factor or 1.0)
            sent = own * model.hidden * element * model.moe.top_k
        gather, scatter, whole, exchange = price_columns(
            space,
            stack,
            fabric,
            (ALL_GATHER, REDUCE_SCATTER, ALL_REDUCE, ALL_TO_ALL),
            (*((moved, c.tp, np.array(1)),) * 3, (sent, c.ep, stride)),
            sharing=1.0 / stack.nccl_bandwidth,
        )
        exposed = 1.0 - stack.tp_overlap
        hides = (code == _kernels.DUALPIPE) | (stack.expert_dispatch != "all-to-all")
        split = (c.sp > 0) & (c.tp > 1)
        return cls(
            enter=np.where(split, np.minimum(gather, scatter), 0.0) * exposed,
            leave=np.where(split, np.minimum(gather, scatter), whole) * exposed,
            experts=np.where(hides, 0.0, 2.0 * exchange) * (1.0 - stack.ep_overlap),
        )


def _rates(space: Space, stack: Stack) -> tuple[Floats, Floats]:
    """Return FLOP/s of layers' matrix products, and of attention and head, by cluster."""
    linear = DTYPES[space.training.precision]
    names = (linear, DTYPES["bf16"] if space.training.precision in QUANTISED else linear)
    rates = np.empty((2, len(space.clusters)))
    for i, cluster in enumerate(space.clusters):
        table = device_parameters(cluster.accelerator)
        for which, dtype in enumerate(names):
            clock = max(1.0, float(table[dtype, SUSTAINED]) * stack.compute_rate)
            rates[which, i] = table[dtype, PEAK] * clock
    return rates[0], rates[1]


def _projections(model: Model, a: Attention) -> tuple[float, float]:
    """Return the weights of the projections into attention, and of the one out of it."""
    out = float(a.heads * a.v_head_dim * model.hidden)
    if a.kind != "mla":
        return float(model.hidden * (a.heads + 2 * a.kv_heads) * a.head_dim), out
    query = a.q_lora_rank or model.hidden
    inward = query * a.heads * a.head_dim + model.hidden * a.q_lora_rank
    inward += model.hidden * (a.kv_lora_rank + a.rope_head_dim)
    inward += a.kv_lora_rank * a.heads * (a.head_dim - a.rope_head_dim + a.v_head_dim)
    return float(inward), out


def _sparse(a: Attention) -> bool:
    return a.index_heads > 0 or a.blocks is not None


def _least_products(model: Model, form: Form, c: Candidates, tokens: NDArray[np.int32]) -> Floats:
    """Return FLOPs that one direction of a layer of another form takes at least on one rank.

    The weights of its mixer, or of its dense MLP or shared experts, by its share of the tokens;
    projections of attention by a latent, which every tensor rank has whole, are left out.
    """
    hidden, weights = model.hidden, 0.0
    if form.is_linear and model.linear is not None:
        weights += linear_weights(hidden, model.linear)
    elif form.mixer == "convolution" and model.convolution is not None:
        weights += convolution_weights(hidden, model.convolution)
    elif form.mixer == "attention":
        weights += model.attention.heads * model.attention.v_head_dim * hidden
    matrices = 3.0 if model.gated_mlp else 2.0
    if form.is_moe and model.moe is not None:
        weights += matrices * hidden * model.moe.shared_ffn_hidden
    elif form.feed_forward == "mlp":
        weights += matrices * hidden * model.ffn_hidden
    # widths and shares of the tokens round down by less than this
    least: Floats = 0.9 * 2.0 * form.capacity * tokens / c.tp * weights
    return least


def _attention_flops(space: Space, c: Candidates, tokens: NDArray[np.int32], window: int) -> Floats:
    a = space.model.attention
    keys = mean_keys(space.training.attended_len, window, "causal") - 0.5
    flops: Floats = 2.0 * tokens * (a.heads / c.tp) * keys * (a.head_dim + a.v_head_dim)
    return flops


def _mlp_flops(
    model: Model, c: Candidates, tokens: NDArray[np.int32], *, routed: bool, weight: bool = False
) -> Floats:
    """Return the FLOPs of one direction of an MLP, or of its experts, on one rank."""
    matrices = 3.0 if model.gated_mlp else 2.0
    moe = model.moe if routed else None
    width = model.ffn_hidden if moe is None else moe.shared_ffn_hidden
    shared: Floats = 2.0 * tokens / c.tp * matrices * model.hidden * width
    if moe is None:
        return shared
    own = np.maximum(1, tokens // c.tp)
    etp = np.where(c.etp > 0, c.etp, c.tp)
    pairs = np.maximum(1.0, np.floor(own * moe.top_k * etp * (moe.capacity_factor or 1.0)))
    if weight:
        local = np.maximum(1, moe.num_experts // c.ep)
        pairs = np.maximum(1.0, pairs // local) * local
    routed_width = moe.ffn_hidden / etp
    experts: Floats = 2.0 * pairs * matrices * model.hidden * routed_width
    return shared + experts
