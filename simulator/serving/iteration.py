"""Iterations of an engine priced: linear part by tokens, attention by sequences and context."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from ridgeline.simulator.serving.adapted import adapters_seconds
from ridgeline.simulator.serving.attention import (
    decode_seconds,
    prefill_seconds,
    prompt_launch_seconds,
)
from ridgeline.simulator.serving.capacity import TYPICAL_CONTEXT, shape_capacity
from ridgeline.simulator.serving.constants import constants
from ridgeline.simulator.serving.coserve import fill_tables
from ridgeline.simulator.serving.exchange import (
    all_reduce,
    expert_exchange,
    logits_gather,
    stage_transfers,
)
from ridgeline.simulator.serving.experts import experts_seconds
from ridgeline.simulator.serving.inputs import encoder_of, image_towers
from ridgeline.simulator.serving.kept import kept_decode_seconds
from ridgeline.simulator.serving.kernel_choice import clock_share
from ridgeline.simulator.serving.layers import feed_forward_elements, halves
from ridgeline.simulator.serving.predicted import auxiliary, predictor_seconds
from ridgeline.simulator.serving.products import (
    LINEAR,
    Product,
    device_table,
    head_products,
    key_value_products,
    layer_products,
    products_seconds,
)
from ridgeline.simulator.serving.service import Service
from ridgeline.simulator.serving.shape import Shape, make_shape
from ridgeline.simulator.serving.tables import IterationTables
from ridgeline.simulator.serving.towers import memory_products, projector_products, tower_service
from ridgeline.workloads.parameters import LayerKind, distinct_layers
from ridgeline.workloads.towers import Tower

Floats = NDArray[np.float64]

_LAYER_KERNELS, _EXPERT_KERNELS, _LINEAR_KERNELS = 3, 1, 3
_WHOLE_NORM_KERNELS, _HEAD_NORM_KERNELS, _SPARSE_KERNELS = 5, 1, 2
_DEPTH_KERNELS, _BLOCK_KERNELS, _LATENT_KERNELS = 2, 4, 3
"""Small kernels of a layer: two norms with rotation and activation; routing of experts; the
convolution, gates and norm of a delta net; norms of both latents and joining the rotated parts; a
query-key norm over all heads, or of each head (which attention kernels do not fuse, as they do the
rotation alone); the choice of keys; gather and scatter of the tokens that a layer takes;
compression, choice and sum of block-sparse attention."""
_ATTENTION_LAUNCHES, _EXPERT_LAUNCHES = 2, 7
"""Kernels launched for attention (cache write, core) and for experts (choice, sort and alignment,
two grouped products, activation, weighted sum), beside those that are products of their own."""
_WHOLE_NORM_BYTES = 4096.0
"""Of the all-reduce that a norm over heads of all tensor ranks needs."""
_SAMPLING_KERNELS = 10
"""Small kernels of penalties, softmax, sort and draw."""
_SAMPLING_BYTES = 14.0
"""Moved per logit: read 2, write 4 as fp32, read twice more."""
_MIXED_SAMPLED = 64.0
"""Tokens of a rank whose logits are taken in an iteration that holds prompts: those of its decodes
and of prompts that end in it. Reading the projection's weights costs most of it up to some 100."""
_GRAPH_SIZES = (1.0, 2.0, 4.0, 8.0)
"""Smallest batches that graphs are captured for: one is padded to the quickest that holds it."""

_STEPS = (1.0, 1.125, 1.25, 1.375, 1.5, 1.625, 1.75, 1.875)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pricer:
    """What does not change between iterations of a service."""

    shape: Shape
    table: Floats
    """Device table with the engine's kernels."""
    kinds: tuple[LayerKind, ...]
    decode: Counter[Product]
    """Products of a pass over decodes, all layers."""
    prefill: Counter[Product]
    """Products of a pass that holds prompts."""
    head: Counter[Product]
    passed_kernels: float
    """Small kernels of a pass, all layers."""
    passed_elements: float
    """Elements that they move for each token."""
    reduces: int
    """All-reduces of the hidden state in a pass."""
    eager_s: float
    """Launches of an iteration of decodes that no graph replays."""
    eager_floor_s: float
    """Least device time of an iteration that holds prompts."""
    prompt_launch_s: float
    """Launching attention over prompts, all layers of an iteration that holds any."""
    encoder: Pricer | None = None
    """Of the stack that reads prompts, where it is another one."""
    towers: tuple[tuple[Tower, Pricer], ...] = ()
    """Those that read the images of a prompt."""


@lru_cache(maxsize=256)
def pricer(service: Service) -> Pricer:
    """Return what prices the iterations of a service.

    Raises
    ------
    InputError
        Whatever ``make_shape`` refuses.
    """
    s = make_shape(service)
    kinds = distinct_layers(s.model)
    passes: list[Counter[Product]] = []
    for prefill in (False, True):
        products: Counter[Product] = Counter()
        for kind in kinds:
            for product in layer_products(s, kind, prefill=prefill):
                products[product] += kind.count
        passes.append(products)
    encoder = _encoder(service)
    kernels, elements = _passed(s, kinds)
    return Pricer(
        shape=s,
        table=device_table(s),
        kinds=kinds,
        decode=passes[0],
        prefill=passes[1],
        head=Counter(head_products(s)),
        passed_kernels=kernels,
        passed_elements=elements,
        reduces=sum(kind.count * _reduces(s, kind) for kind in kinds) + 1,
        eager_s=_eager_seconds(s, kinds, 0.0),
        eager_floor_s=_eager_floor(s, kinds) + (encoder.eager_floor_s if encoder else 0.0),
        prompt_launch_s=sum(
            count * prompt_launch_seconds(s, kind) for kind, count in _attention_kinds(kinds)
        ),
        encoder=encoder,
        towers=tuple(
            (tower, pricer(tower_service(service, tower))) for tower in image_towers(s.model)
        ),
    )


def _encoder(service: Service) -> Pricer | None:
    tower = encoder_of(service.model)
    return None if tower is None else pricer(tower_service(service, tower))


def linear_seconds(
    p: Pricer,
    tokens: Floats,
    everyone: Floats,
    sampled: Floats,
    *,
    prefill: bool,
    waves: Floats | float = 1.0,
    experts: bool = True,
) -> Floats:
    """Return the seconds of all but attention in one pass over all layers, float64[T].

    Of a pipeline whose stages work on micro-batches at once, a round of all of them: the last stage
    has the head and sampling beside its layers, and the others wait for it, so that a round of w
    takes max(L + H, w (L/pp + H)), L over all layers and H after them.

    Parameters
    ----------
    p
        From ``pricer``.
    tokens
        float64[T], tokens of the fullest rank.
    everyone
        float64[T], tokens of all data ranks together, which experts share.
    sampled
        float64[T], tokens of the rank whose logits are taken.
    prefill
        Whether the pass holds prompts.
    waves
        Micro-batches of a round, at most pp.
    experts
        Whether routed experts and their exchange count, which all data ranks share.
    """
    s = p.shape
    head = products_seconds(p.head, sampled, s, p.table)
    if s.model.head == "logits":
        head = head + _sampling_seconds(s, sampled) + logits_gather(s, sampled)
    seconds = products_seconds(p.prefill if prefill else p.decode, tokens, s, p.table)
    seconds = seconds + _passing_seconds(p, tokens)
    seconds += p.reduces * all_reduce(s, tokens)
    if s.model.attention.qk_norm_full:
        width = _WHOLE_NORM_BYTES / (s.model.hidden * 2.0)
        seconds += s.model.num_layers * all_reduce(s, np.full(1, width))
    moe = s.model.moe
    routed = sum(kind.count for kind in p.kinds if kind.is_moe)
    if moe is not None and routed and experts:
        seconds += routed * experts_seconds(s, moe, everyone, p.table)
        seconds += routed * expert_exchange(s, everyone)
    seconds = seconds + stage_transfers(s, tokens)
    paced: Floats = np.maximum(seconds + head, waves * (seconds / s.service.pp + head))
    return paced


def _reduces(s: Shape, kind: LayerKind) -> int:
    """Return how often a layer adds up over the tensor ranks."""
    if s.model.parallel_block or halves(kind) < 2:
        return 1
    if s.model.cross is not None:
        return 3
    return 1 if kind.is_moe and s.service.dp > 1 else 2


def _passed(s: Shape, kinds: Iterable[LayerKind]) -> tuple[float, float]:
    """Count norms, rotations and activations of all layers, and what they move for each token.

    A norm reads the hidden state and the residual and writes both; an activation reads two
    (gated) and writes one of the width.
    """
    model = s.model
    a, fan = model.attention, 3 if model.gated_mlp else 2
    count = 0.0
    elements = 0.0
    for kind in kinds:
        kernels = _LAYER_KERNELS + max(0, model.norms_per_layer - 2)
        kernels -= 1 if halves(kind) < 2 else 0
        kernels += _EXPERT_KERNELS if kind.is_moe else 0
        kernels += _DEPTH_KERNELS if kind.form.capacity < 1.0 else 0
        kernels += _SPARSE_KERNELS if kind.form.is_memory else 0
        kernels += _LINEAR_KERNELS if kind.is_linear else 0
        kernels += _SPARSE_KERNELS if a.index_heads else 0
        kernels += _BLOCK_KERNELS if a.blocks is not None else 0
        kernels += _WHOLE_NORM_KERNELS if a.qk_norm_full and not kind.is_linear else 0
        heads_alone = a.qk_norm and not a.qk_norm_full and not kind.is_linear
        kernels += _HEAD_NORM_KERNELS if heads_alone else 0
        kernels += _LATENT_KERNELS if a.kind == "mla" and not kind.is_linear else 0
        norms = model.norms_per_layer + int(model.cross is not None)
        kernels += int(model.cross is not None)
        rotated = 2.0 * (s.heads + s.kv_heads) * a.head_dim if kind.form.has_mixer else 0.0
        moved = 4.0 * norms * model.hidden * (halves(kind) / 2) + rotated
        inner = feed_forward_elements(model, kind, s.service.tp, fan)
        count += kind.count * kernels
        elements += kind.count * kind.form.capacity * (moved + inner)
    return count, elements


def _passing_seconds(p: Pricer, tokens: Floats) -> Floats:
    """Price norms, rotation and activation: fixed time of each kernel, and their traffic."""
    s = p.shape
    bandwidth = s.accelerator.efficiency.elementwise_memory * s.accelerator.memory_bytes_per_s
    seconds: Floats = (
        p.passed_kernels * s.engine.small_kernel_s + 2.0 * p.passed_elements * tokens / bandwidth
    )
    return seconds


def _sampling_seconds(s: Shape, sampled: Floats) -> Floats:
    bandwidth = s.accelerator.efficiency.elementwise_memory * s.accelerator.memory_bytes_per_s
    moved = _SAMPLING_BYTES * sampled * s.model.vocab
    seconds: Floats = _SAMPLING_KERNELS * s.engine.small_kernel_s + moved / bandwidth
    return seconds


def decode_linear(p: Pricer, sequences: Floats) -> Floats:
    """Return the linear seconds of an iteration of decodes alone, by running sequences.

    Speculation verifies 1 + k tokens of each sequence at once and pays for k drafts of
    ``draft_layers`` layers.
    """
    s = p.shape
    verified = 1.0 + s.draft_tokens
    padded = np.maximum(np.array(_GRAPH_SIZES)[:, None], _padded(s, sequences)).ravel()
    share = np.maximum(1.0, padded / s.passes)
    everyone = np.maximum(1.0, padded / s.service.pp) * verified
    waves = np.clip(padded / s.service.dp, 1.0, s.service.pp)
    if s.service.exits.layers:
        seconds = _exited_linear(p, share, everyone)
    else:
        seconds = linear_seconds(
            p, share * verified, everyone, share * verified, prefill=False, waves=waves
        )
    quickest: Floats = seconds.reshape(len(_GRAPH_SIZES), -1).min(axis=0)
    drafted = quickest * (1.0 + draft_share(s))
    if not s.service.adapters.count:
        return drafted
    own = np.maximum(1.0, sequences / s.passes)
    return drafted + adapters_seconds(s, own * verified, own)


def _exited_linear(p: Pricer, tokens: Floats, everyone: Floats) -> Floats:
    """Return the linear seconds of decodes of which some leave before the last layer.

    Layers that a share a of n tokens still runs take P T(n a/P) with P = 1 - (1 - a)^n, the
    probability that any does, and T(m) the seconds of m tokens; every token has its head. Where the
    keys and values that tokens skip are computed, their products have all tokens.
    """
    s = p.shape
    head = products_seconds(p.head, tokens, s, p.table)
    head = head + _sampling_seconds(s, tokens) + logits_gather(s, tokens)
    total = head
    cached = Counter(key_value_products(s))
    for share, alive in s.service.exits.segments(s.model.num_layers):
        some = 1.0 - (1.0 - alive) ** tokens
        thinner = alive / np.maximum(some, 1e-12)
        if alive > 0.0:
            run = linear_seconds(
                p,
                np.maximum(1.0, tokens * thinner),
                np.maximum(1.0, everyone * thinner),
                tokens,
                prefill=False,
            )
            total = total + share * some * (run - head)
        if alive < 1.0 and s.service.exits.kv == "computed":
            # in one product with those that are still there, by itself where none is
            everybody = products_seconds(cached, tokens, s, p.table)
            stayed = products_seconds(cached, np.maximum(1.0, tokens * thinner), s, p.table)
            more = everybody - some * np.minimum(stayed, everybody)
            total = total + share * s.model.num_layers * more
    return total


def _padded(s: Shape, sequences: Floats) -> Floats:
    """Return running sequences with those that pad each part of a replica to its graph."""
    first = s.engine.graph_doubling
    most = float(s.service.limits.max_sequences or s.engine.max_sequences)
    share = sequences / s.passes
    doubled = first * 2.0 ** np.ceil(np.log2(np.maximum(1.0, share / first)))
    graph = np.minimum(doubled, np.maximum(most, share))
    padded: Floats = np.where(share > first, graph, share) * s.passes
    return padded


def draft_share(s: Shape) -> float:
    """Return the time of drafting over that of the pass which verifies."""
    layers = s.service.speculation.draft_layers
    return s.draft_tokens * constants().draft_overhead * layers / s.model.num_layers


def mixed_linear(p: Pricer, tokens: Floats, *, experts: bool = True) -> Floats:
    """Return the linear seconds of an iteration that holds prompts, by tokens of the replica.

    Without ``experts``: the part that a data rank computes for its own tokens alone.
    """
    s = p.shape
    share = np.maximum(1.0, tokens / s.passes)
    sampled = np.minimum(share, _MIXED_SAMPLED)
    waves = np.clip(tokens / s.service.dp, 1.0, s.service.pp)
    everyone = np.maximum(1.0, tokens / s.service.pp)
    running = float(s.service.limits.max_sequences or s.engine.max_sequences)
    prompts = np.minimum(share, max(1.0, running))
    seconds = prompt_linear(p, share, everyone, sampled, prompts, waves=waves, experts=experts)
    return seconds + prompt_token_seconds(s) * tokens / s.service.dp


def reader(p: Pricer) -> Pricer:
    """Return what prices the prompts: the model's own pricer, or that of who predicts its KV."""
    service = p.shape.service
    return pricer(auxiliary(service)) if service.kv_predictor else p


def prompt_linear(
    p: Pricer,
    tokens: Floats,
    everyone: Floats,
    sampled: Floats,
    sequences: Floats,
    *,
    waves: Floats | float = 1.0,
    experts: bool = True,
) -> Floats:
    """Return ``linear_seconds`` of a pass that holds prompts, with what reading them has beside.

    Of a predicted cache the predictors and one token of the model that answers; of adapters those
    of ``sequences``, each of another tenant at most. Where an encoder reads, the decoder passes the
    tokens that are sampled alone, and makes its keys and values of all of the encoder's output.
    """
    s, read = p.shape, reader(p)
    if p.encoder is not None:
        seconds = linear_seconds(p.encoder, tokens, everyone, sampled, prefill=True)
        seconds = seconds + products_seconds(memory_products(s), tokens, s, p.table)
        seconds = seconds + linear_seconds(p, sampled, sampled, sampled, prefill=False)
        seconds = seconds + p.encoder.prompt_launch_s
    else:
        seconds = linear_seconds(
            read, tokens, everyone, sampled, prefill=True, waves=waves, experts=experts
        )
    seconds = seconds + read.prompt_launch_s
    if read is not p:
        seconds = seconds + predictor_seconds(s, tokens) + decode_linear(p, np.ones(1))[0]
    if s.service.adapters.count:
        seconds = seconds + adapters_seconds(s, tokens, sequences)
    return seconds


def prompt_token_seconds(s: Shape) -> float:
    """Return what a prompt token takes beside its kernels; it slows with the device's clock."""
    return s.engine.prefill_token_s / clock_share(s.accelerator, s.device, s.scheme.plain.compute)


def _attention_kinds(kinds: Iterable[LayerKind]) -> list[tuple[LayerKind, int]]:
    """Return a layer of each kind of attention, and how many there are."""
    first: dict[tuple[int, str, float], LayerKind] = {}
    count: Counter[tuple[int, str, float]] = Counter()
    for kind in kinds:
        if not kind.form.has_mixer:
            continue
        key = (kind.window, kind.form.mixer, kind.form.capacity)
        first.setdefault(key, kind)
        count[key] += kind.count
    return [(kind, count[key]) for key, kind in first.items()]


def decode_attention(p: Pricer, batch: Floats, context: Floats) -> Floats:
    """Return the seconds of attention of all layers for one token of each sequence of a rank."""
    queries = 1.0 + constants().verify_attention * p.shape.draft_tokens
    slot = p.shape.service.limits.slot_tokens or p.shape.engine.slot_tokens
    context = np.maximum(context, slot)
    seconds = np.zeros(len(batch))
    for kind, count in _attention_kinds(p.kinds):
        if p.shape.service.exits.layers:
            seconds += count * _exited_attention(p.shape, kind, batch, context)
        else:
            seconds += count * queries * kept_decode_seconds(p.shape, kind, batch, context)
        if p.encoder is not None:  # self-attention and cross-attention are kernels of their own
            seconds += count * queries * decode_seconds(p.shape, kind, batch, np.ones(len(batch)))
    return seconds


def _exited_attention(s: Shape, kind: LayerKind, batch: Floats, context: Floats) -> Floats:
    """Return the mean seconds of a layer's attention where some sequences have left."""
    seconds = np.zeros(len(batch))
    for share, alive in s.service.exits.segments(s.model.num_layers):
        if alive > 0.0:
            some = 1.0 - (1.0 - alive) ** batch
            left = np.maximum(1.0, batch * alive / some)
            seconds += share * some * kept_decode_seconds(s, kind, left, context)
    return seconds


def prefill_attention(p: Pricer, new: Floats, prior: Floats) -> Floats:
    """Return what one chunk of one prompt adds to attention of all layers on its rank, seconds."""
    if p.encoder is not None:
        one = np.ones(len(new))
        return prefill_attention(p.encoder, new, prior) + decode_attention(p, one, new + prior)
    seconds = np.zeros(len(new))
    for kind, count in _attention_kinds(p.kinds):
        seconds += count * prefill_seconds(p.shape, kind, new, prior)
    rates = p.shape.engine.prompt_attention_rate
    rate = rates.get(p.shape.accelerator.family, rates.get("default", 1.0))
    if p.shape.model.position == "alibi":
        rate *= p.shape.engine.biased_attention_rate
    return seconds / rate


def image_seconds(p: Pricer) -> float:
    """Return the seconds in which the images of one prompt become tokens, 0 without images."""
    return sum(_tower_seconds(tower, own) for tower, own in p.towers)


def _tower_seconds(tower: Tower, own: Pricer) -> float:
    """Return the seconds of one tower for one prompt.

    The images of a prompt are one batch; each attends to itself. Tensor ranks share the tower; its
    projector is whole on each.
    """
    rows = np.array([float(tower.pieces * tower.tokens)])
    seconds = linear_seconds(own, rows, rows, np.ones(1), prefill=True)
    each = prefill_attention(own, np.array([float(tower.tokens)]), np.zeros(1))
    projected = np.array([float(tower.pieces * tower.projected)])
    seconds += products_seconds(projector_products(tower), projected, own.shape, own.table)
    device = float((seconds + own.prompt_launch_s + tower.pieces * each)[0])
    return max(device, own.eager_floor_s) if tower.pieces else 0.0


def launches(s: Shape, kind: LayerKind) -> int:
    """Return the kernels that a layer launches one after another without graphs.

    Products, the quantisation of their inputs, norms (with the residual where it is fused: not
    under LayerNorm), rotation, cache write and attention, activation, routing and grouped products
    of experts, all-reduces, and biases of row-parallel products that are added apart. 12 for a
    Llama layer under tensor parallelism.
    """
    model, tp = s.model, s.service.tp
    products = layer_products(s, kind, prefill=False)
    count = len(products) + _ATTENTION_LAUNCHES + model.norms_per_layer
    count += 2 if model.cross is not None else 0  # its norm and its core
    if s.scheme.linear.activation_bytes < s.scheme.plain.activation_bytes:
        count += sum(product.form == LINEAR for product in products)
    if model.norm == "layernorm":
        count += model.norms_per_layer
    count += int(model.position == "rotary")
    count += _EXPERT_LAUNCHES if kind.is_moe else 1
    count += _reduces(s, kind) if tp > 1 else 0
    if tp > 1:
        count += int(model.attention.out_bias) + int(model.mlp_bias)
    return count


def _eager_seconds(s: Shape, kinds: Iterable[LayerKind], more: float) -> float:
    """Return what launching all layers takes, with so many more launches in each."""
    known = s.engine.eager_kernel_s
    seconds = known.get(s.accelerator.family, known.get("default", 0.0))
    return seconds * sum(kind.count * (launches(s, kind) + more) for kind in kinds)


def _eager_floor(s: Shape, kinds: Iterable[LayerKind]) -> float:
    known = s.engine.eager_layer_s
    kind = "linear" if s.model.linear is not None and "linear" in known else s.model.attention.kind
    layer_s = known.get(kind, 0.0)
    return layer_s * s.model.num_layers + _eager_seconds(s, kinds, s.engine.prompt_launches)


def launched(p: Pricer, device: Floats, contexts: Floats) -> Floats:
    """Return the device time of decodes with what launches take where no graph replays them.

    (device^s + launches^s)^(1/s): the host runs ahead of long kernels and falls behind short ones,
    so that neither hides the other wholly (``Constants.eager_sharpness``).
    """
    floor = p.eager_s
    eager = contexts > p.shape.engine.graph_context
    if floor == 0.0 or not eager.any():
        return device
    sharpness = constants().eager_sharpness
    joined: Floats = (device**sharpness + floor**sharpness) ** (1.0 / sharpness)
    return np.where(eager, joined, device)


def tokens_per_step(s: Shape) -> float:
    """Return the expected tokens of a verification: (1 - a^(k+1))/(1 - a).

    Leviathan et al. 2023 (arXiv 2211.17192), equation 1, with a the probability that a draft
    token is accepted.
    """
    a, k = s.service.speculation.acceptance, s.draft_tokens
    return float(sum(a**i for i in range(k + 1)))


def _rising(values: Floats, axis: int = 0) -> Floats:
    """Let no smaller iteration be slower than a larger one, to whose graph it can be padded."""
    out: Floats = np.flip(np.minimum.accumulate(np.flip(values, axis), axis=axis), axis)
    return out


def _grid(low: int, high: float, parts: int) -> Floats:
    """Return whole numbers from 1 to at least ``high``, ``parts`` to a doubling from ``low``."""
    points = {1}
    base = low
    while base < 2.0 * high:
        points.update(round(base * _STEPS[i]) for i in range(0, 8, 8 // parts))
        base *= 2
    inside = sorted(point for point in points if point <= high)
    return np.array([*inside, *sorted(point for point in points if point > high)[:1]], float)


def swap_rate(s: Shape, kv_bytes_per_token: float, block_tokens: int) -> float:
    """Return the bytes a second of a cache that is moved to the host or back.

    Keys and values of a layer lie apart, so that a sequence takes two copies a layer for every
    ``swap_blocks`` blocks that lie together: T bytes take T/rate + copies x ``swap_call_s``
    (FastSwitch, arXiv 2411.18424, finds issuing them to take longer than the link).
    """
    rate, limits = s.accelerator.host_bytes_per_s, s.service.limits
    if not limits.swap_blocks or rate <= 0.0:
        return rate
    layers = s.model.num_layers / s.service.pp
    copies = layers if s.model.attention.kind == "mla" else 2.0 * layers
    calls = copies * limits.swap_call_s / (block_tokens * limits.swap_blocks)
    return 1.0 / (1.0 / rate + calls / kv_bytes_per_token)


@lru_cache(maxsize=64)
def iteration_tables(service: Service, context: int = TYPICAL_CONTEXT) -> IterationTables:
    """Tabulate the iterations of one replica of a service.

    The token axis of ``decode_linear_s`` counts one token for each running sequence, of
    ``mixed_linear_s`` all tokens of the iteration, both over the whole replica: data ranks share
    them evenly (experts take all of them together), and pipeline stages each work on their part
    while the others work on theirs, so that a round of all parts takes one pass over all layers
    with 1/pp of the tokens. What verification and drafts of speculation add is inside.

    Where decodes are launched eagerly, ``decode_attention_s`` holds what that takes more.

    Parameters
    ----------
    service
        What serves.
    context
        Tokens of a typical sequence, for the capacity of models with windows or linear layers.

    Raises
    ------
    InputError, InfeasibleError
        The service cannot be; its weights do not fit.
    """
    p = pricer(service)
    s = p.shape
    room = shape_capacity(s, context)
    limits, engine = service.limits, s.engine
    running = float(limits.max_sequences or engine.max_sequences)
    budget = float(limits.max_tokens or engine.token_budget)
    longest = float(max(s.model.max_positions, 4096))
    tokens = _grid(2, 2.0 * max(budget * s.passes, running), 4)
    sequences = _grid(2, running, 4)
    contexts = _grid(64, longest, 2)
    if 0.0 < engine.graph_context < longest:
        edge = (engine.graph_context, engine.graph_context + 1.0)
        contexts = np.union1d(contexts, edge)
    new = _grid(16, max(2.0 * budget, longest), 2)
    prior = np.concatenate([[0.0], _grid(256, longest, 1)])
    if p.towers:
        prior = np.union1d(prior, [1.0])  # images are read with the first chunk alone

    decodes = _rising(decode_linear(p, tokens))
    batch, lengths = (x.ravel() for x in np.meshgrid(sequences, contexts, indexing="ij"))
    share = np.maximum(1.0, batch / s.passes)
    attention = decode_attention(p, share, lengths).reshape(len(sequences), len(contexts))
    attention = _rising(_rising(attention, 0), 1)
    before = np.interp(sequences, tokens, decodes)[:, None]
    attention = launched(p, before + attention, contexts) - before
    chunk, already = (x.ravel() for x in np.meshgrid(new, prior, indexing="ij"))
    read = reader(p)
    prompts = prefill_attention(read, chunk, already).reshape(len(new), len(prior)) / s.passes
    prompts = _rising(_rising(prompts, 0), 1)
    prompts[:, 0] += image_seconds(p) / s.passes
    tables = IterationTables(
        tokens=tokens,
        decode_linear_s=decodes,
        mixed_linear_s=_rising(mixed_linear(p, tokens)),
        data_ranks=service.dp,
        rank_linear_s=_rising(mixed_linear(p, tokens, experts=False)),
        sequences=sequences,
        contexts=contexts,
        decode_attention_s=attention,
        new_tokens=new,
        prior_tokens=prior,
        prefill_attention_s=prompts,
        # a pipeline's host drives each micro-batch of a round by itself
        host_s=engine.host_s * service.pp,
        # each data rank has a scheduler of its own
        host_per_sequence_s=engine.host_per_sequence_s / service.dp,
        host_per_prefill_s=engine.host_per_prefill_s,
        eager_floor_s=read.eager_floor_s,
        front_s=engine.front_s,
        front_serial_s=engine.front_serial_s,
        tokens_per_step=tokens_per_step(s),
        kv_tokens=room.kv_tokens,
        block_tokens=room.block_tokens,
        kv_bytes_per_token=room.kv_bytes_per_token,
        swap_bytes_per_s=swap_rate(s, room.kv_bytes_per_token, room.block_tokens),
    )
    return fill_tables(tables, service) if service.finetune.rank else tables
