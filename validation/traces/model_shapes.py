"""Which model of the catalogue multiplies matrices of the shapes that a trace holds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from ridgeline.validation.traces.gemms import GemmShape
from ridgeline.workloads import load_model
from ridgeline.workloads.catalogue import model_names
from ridgeline.workloads.model import Model

TENSOR_WAYS = (1, 2, 4, 8, 16)
EXPLAINED = 0.9
"""A model must explain this share of the time of the products that have a shape."""

_EXPERTS = ("experts up", "experts down")
"""Operators whose rows are the tokens that the router sends to one expert."""

Weight = tuple[int, int]
"""Output and input features of a weight on one rank, as W[n, k]."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelMatch:
    """A model that explains the products of a trace."""

    model: Model
    tp: int
    tokens: int
    """Rows of the products: tokens of a micro-batch on a rank."""
    explained: float
    """Share of the products' time."""
    rounds: float
    """Micro-batches of a step, by the calls of a layer's products (``_rounds``)."""
    recomputed: bool
    """They run forward twice for each weight gradient."""


def weights_of(model: Model, tp: int) -> dict[str, tuple[Weight, ...]]:
    """Return the weights of a layer and of the head on one of ``tp`` ranks, by operator.

    Of each operator first as one fused product, then the parts that take its place where they are
    not fused. Names are those of the simulator's operators.
    """
    a, h = model.attention, model.hidden
    heads, kv = a.heads // tp, max(1, a.kv_heads // tp)
    weights: dict[str, tuple[Weight, ...]] = {}
    if a.kind == "mla":
        rank = a.kv_lora_rank + a.rope_head_dim
        nope_and_v = a.head_dim - a.rope_head_dim + a.v_head_dim
        if a.q_lora_rank:
            weights["query down"] = ((a.q_lora_rank, h),)
            weights["query up"] = ((heads * a.head_dim, a.q_lora_rank),)
        else:
            weights["query"] = ((heads * a.head_dim, h),)
        weights["key-value down"] = ((rank, h),)
        weights["key-value up"] = ((heads * nope_and_v, a.kv_lora_rank),)
    else:
        fused, d = (heads + 2 * kv) * a.head_dim, a.head_dim
        weights["qkv"] = ((fused, h), (heads * d, h), (kv * d, h), (2 * kv * d, h))
    weights["attention output"] = ((h, heads * a.v_head_dim),)
    if model.ffn_hidden:
        f = model.ffn_hidden // tp
        up = ((2 * f, h), (f, h)) if model.gated_mlp else ((f, h),)
        weights["mlp up"] = up
        weights["mlp down"] = ((h, f),)
    if model.moe is not None and model.moe.shared_ffn_hidden:
        f = model.moe.shared_ffn_hidden // tp
        weights["shared expert up"] = ((2 * f, h), (f, h))
        weights["shared expert down"] = ((h, f),)
    if model.moe is not None:
        f = model.moe.ffn_hidden // tp
        weights["router"] = ((model.moe.num_experts, h),)
        weights["experts up"] = ((2 * f, h), (f, h)) if model.gated_mlp else ((f, h),)
        weights["experts down"] = ((h, f),)
    weights["head"] = ((max(1, model.vocab // tp), h),)
    return weights


def rows_of(shapes: Iterable[GemmShape]) -> int:
    """Return the rows that most of the products' FLOPs have, 0 without products."""
    flops: dict[int, float] = {}
    for shape in shapes:
        if shape.batch == 1:
            flops[shape.m] = flops.get(shape.m, 0.0) + shape.calls * shape.flops
    return max(flops, key=lambda m: (flops[m], m)) if flops else 0


def pass_of(shape: GemmShape, weight: Weight, tokens: int | None) -> str:
    """Return forward, dgrad or wgrad, as which a product uses W[n, k]; empty when it does not.

    ``tokens`` are the rows of activations, None for an expert's, which gets any number of them.
    """
    n, k = weight
    if shape.batch != 1:
        return ""
    if (shape.n, shape.k) == (n, k):
        return "forward"
    if (shape.n, shape.k) == (k, n) and tokens in (None, shape.m):
        return "dgrad"
    if tokens in (None, shape.k) and {shape.m, shape.n} == {n, k}:
        return "wgrad"
    return ""


def operators_of(
    shapes: Sequence[GemmShape], model: Model, tp: int, *, training: bool
) -> tuple[str, ...]:
    """Return the simulator's name of the operator that each product is, empty for none.

    Gradients have their pass behind the name. Operators of one shape are joined by `` or ``.
    """
    tokens = rows_of(shapes)
    forward = {(s.n, s.k) for s in shapes if s.m == tokens and s.batch == 1}
    kept = {
        # parts of a fused product are not looked for where the product itself is seen
        name: weights[:1] if weights[0] in forward else weights
        for name, weights in weights_of(model, tp).items()
    }
    return tuple(_names(shape, kept, tokens, training=training) for shape in shapes)


def _names(
    shape: GemmShape, kept: Mapping[str, Sequence[Weight]], tokens: int, *, training: bool
) -> str:
    found: list[str] = []
    for name, weights in kept.items():
        free = name in _EXPERTS
        for weight in weights:
            which = pass_of(shape, weight, None if free else tokens)
            alike = which == "wgrad" or name == "head" or free or shape.m == tokens
            if which and alike and (training or which == "forward"):
                found.append(name if which == "forward" else f"{name} {which}")
    return " or ".join(dict.fromkeys(found))


def find_models(
    shapes: tuple[GemmShape, ...],
    steps: int,
    *,
    training: bool,
    models: Iterable[Model] | None = None,
) -> tuple[ModelMatch, ...]:
    """Return the models whose weights have the traced shapes, best first.

    A model counts when every weight of its layers is seen (fused or in parts) and these explain
    ``EXPLAINED`` of the products' time. Routed experts need not be seen, for kernels that run many
    of them at once show no shapes: the router, as wide as there are experts, must. Of several,
    those whose number of layers divides the calls of a step come first, then by what they explain,
    then by name. ``models`` are those looked at, by default the decoders of the catalogue.
    """
    # products with a batch are those of attention, which have no weights
    tokens, total = rows_of(shapes), sum(s.total_s for s in shapes if s.batch == 1)
    if not tokens or total <= 0.0:
        return ()
    found = []
    if models is None:
        # an encoder as wide has the products of a decoder
        models = (model for model in map(load_model, model_names()) if model.is_decoder)
    for model in models:
        for tp in TENSOR_WAYS:
            if model.attention.heads % tp == 0 and model.attention.kv_heads % tp == 0:
                match = _match(model, tp, tokens, shapes, total, steps, training)
                if match is not None:
                    found.append(match)
    found.sort(key=lambda m: (m.rounds % 1.0 > 0.0, -round(m.explained, 3), m.tp, m.model.name))
    return tuple(found)


def _match(
    model: Model,
    tp: int,
    tokens: int,
    shapes: tuple[GemmShape, ...],
    total: float,
    steps: int,
    training: bool,
) -> ModelMatch | None:
    weights = weights_of(model, tp)
    if model.linear is not None or not {"mlp down", "router"} & set(weights):
        return None
    names = operators_of(shapes, model, tp, training=training)
    explained = sum(s.total_s for s, found in zip(shapes, names, strict=True) if found) / total
    if explained < EXPLAINED:
        return None
    exact = {(s.n, s.k) for s in shapes if s.m == tokens and s.batch == 1}
    apart = ("head", *_EXPERTS)
    layers = {label: kept for label, kept in weights.items() if label not in apart}
    if not all(any(weight in exact for weight in kept) for kept in layers.values()):
        return None
    rounds, recomputed = _rounds(weights, shapes, tokens, steps * model.num_layers, training)
    return ModelMatch(
        model=model,
        tp=tp,
        tokens=tokens,
        explained=explained,
        rounds=rounds,
        recomputed=recomputed,
    )


def _rounds(
    weights: Mapping[str, Sequence[Weight]],
    shapes: Sequence[GemmShape],
    tokens: int,
    layers: int,
    training: bool,
) -> tuple[float, bool]:
    """Return micro-batches, and whether the MLP is recomputed, by the calls of its products.

    Where tokens are routed to experts, the attention output stands for the MLP, which not every
    layer has: one projection. Otherwise, with u first projections of f outputs (one, or two when a
    gate is apart), a micro-batch and layer calls [T, f, h] u times forward, again when recomputed,
    and once for the input gradient of the last projection; [T, h, f] once forward and u times for
    input gradients; and one of both orders of [f, h, T] 1 + u times for weight gradients. A fused
    first projection of 2f outputs mixes with none of them. What is recomputed may leave out the
    last projection.
    """

    def calls(m: int, n: int, k: int) -> int:
        return sum(s.calls for s in shapes if (s.m, s.n, s.k, s.batch) == (m, n, k, 1))

    if "router" in weights:
        ((n, k),) = weights["attention output"]
        if not training:
            return calls(tokens, n, k) / layers, False
        gradients = calls(n, k, tokens) + (calls(k, n, tokens) if n != k else 0)
        rounds = gradients / layers or 1.0
        backward = 1 if n == k else 0  # a square weight's input gradient has its shape
        return rounds, calls(tokens, n, k) / layers / rounds - backward > 1.9
    (down,) = weights["mlp down"]
    h, f = down
    fused = len(weights["mlp up"]) > 1 and calls(tokens, 2 * f, h) > 0
    first = 1 if fused or len(weights["mlp up"]) == 1 else 2
    alike = 0 if fused else first
    if not training:
        return calls(tokens, h, f) / layers, False
    gradients = calls(h, f, tokens) + calls(f, h, tokens)
    if not gradients:  # fused with their accumulation, whose operators have no shapes
        return calls(tokens, h, f) / layers / (1 + alike), False
    rounds = gradients / layers / (1 + alike)
    forward = calls(tokens, 2 * f if fused else f, h) / layers / rounds
    expected = first if fused else first + 1
    return rounds, forward - expected > 0.9 * first
