"""Seconds of routed experts on one rank, by the distinct experts that tokens reach."""

from __future__ import annotations

import math
from functools import lru_cache
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from ridgeline.simulator.roofline import layout
from ridgeline.simulator.roofline.device import price_operators
from ridgeline.simulator.roofline.moe import predict_moe
from ridgeline.simulator.serving.constants import constants
from ridgeline.simulator.serving.kernel_choice import expert_set
from ridgeline.simulator.serving.products import EXPERTS
from ridgeline.simulator.serving.shape import Shape
from ridgeline.workloads.model import MoE

Floats = NDArray[np.float64]

_QUANTILES = 32
_ROUNDS = 20


def distinct_experts(moe: MoE, tokens: Floats) -> Floats:
    """Return the expected number of experts that ``tokens`` reach: sum of 1 - (1 - p_i)^t.

    Each token picks k different experts; expert i is among them with probability p_i, k/E on
    average. One token reaches exactly k. How p_i spreads is the model's histogram of loads where it
    has one, else a log-normal (``Constants.popularity_spread``).
    """
    picked = _picked(moe.num_experts, moe.top_k, moe.load)
    found: Floats = moe.num_experts * np.mean(1.0 - (1.0 - picked)[:, None] ** tokens, axis=0)
    return found


@lru_cache(maxsize=256)
def _picked(experts: int, top_k: int, load: tuple[float, ...]) -> Floats:
    """Return the probability that a token picks an expert, by quantiles or for each expert."""
    if load:
        weight = np.array(load)
    else:
        places = (np.arange(_QUANTILES) + 0.5) / _QUANTILES
        scores = np.array([NormalDist().inv_cdf(place) for place in places])
        weight = np.exp(constants().popularity_spread * scores)
    mean = top_k / experts
    picked: Floats = np.minimum(1.0, mean * weight / weight.mean())
    # what is over certainty goes to the others, until nothing is
    for _ in range(_ROUNDS):
        open_ = picked < 1.0
        if not open_.any() or picked.mean() >= mean * (1.0 - 1e-12):
            break
        picked[open_] *= (mean * len(picked) - (~open_).sum()) / picked[open_].sum()
        picked = np.minimum(1.0, picked)
    return picked


def busiest_rank(moe: MoE, ep: int, tokens: Floats, slots: int = 0) -> Floats:
    """Return the pairs of the busiest expert rank over the mean, float64[T].

    The load of a rank is a gamma variable of mean n = t k/ep pairs: which tokens an iteration holds
    varies it by (1 - 1/ep)/n (squared, multinomial), and how popular its E/ep experts are by
    (exp(spread^2) - 1) ep/E (log-normal). The largest of ep is its value at the quantile (ep -
    3/8)/(ep + 1/4) (Blom 1958) by Wilson and Hilferty's cube, as in ``docs/kernels-moe.md``.
    Experts lie on ranks in order where the model has a histogram of loads, and as a load balancer
    places them with ``slots`` (``_placed``): that ratio then multiplies what the choice of tokens
    alone makes.
    """
    if ep == 1:
        return np.ones(len(tokens))
    here = moe.num_experts // ep
    variation, placed = math.expm1(constants().popularity_spread ** 2) / here, 1.0
    if slots:
        variation, placed = 0.0, _placed(moe.num_experts, moe.top_k, moe.load, ep, slots)
    elif moe.load:
        picked = _picked(moe.num_experts, moe.top_k, moe.load)
        ranks = picked[: here * ep].reshape(ep, here).sum(axis=1)
        variation, placed = 0.0, float(ranks.max() / ranks.mean())
    squared = variation + (1.0 - 1.0 / ep) * ep / (tokens * moe.top_k)
    z = NormalDist().inv_cdf((ep - 0.375) / (ep + 0.25))
    root = 1.0 - squared / 9.0 + z * np.sqrt(squared) / 3.0
    # no more than all pairs lie on one rank
    found: Floats = np.minimum(placed * np.maximum(1.0, root**3), float(ep))
    return found


@lru_cache(maxsize=256)
def _placed(experts: int, top_k: int, load: tuple[float, ...], ep: int, slots: int) -> float:
    """Return the busiest rank over the mean where a load balancer places experts.

    DeepSeek's (deepseek-ai/EPLB, global policy): each slot beyond the experts' number copies the
    expert with the most load a copy, copies share its load, and the heaviest copy left goes to the
    least loaded rank that has a slot.
    """
    picked = _picked(experts, top_k, load)
    loads = np.interp(
        (np.arange(experts) + 0.5) / experts, (np.arange(len(picked)) + 0.5) / len(picked), picked
    )
    copies = np.ones(experts)
    for _ in range(slots - experts):
        copies[np.argmax(loads / copies)] += 1.0
    shares = np.sort(np.repeat(loads / copies, copies.astype(int)))[::-1]
    free = np.full(ep, -(-slots // ep))
    ranks = np.zeros(ep)
    for share in shares:
        place = np.argmin(np.where(free > 0, ranks, np.inf))
        ranks[place] += share
        free[place] -= 1
    return float(ranks.max() / ranks.mean())


def experts_seconds(s: Shape, moe: MoE, tokens: Floats, table: Floats) -> Floats:
    """Return the seconds of one layer's routed experts, float64[T].

    A set prices balanced routing, which reaches min(E, k t) experts. Real routing reaches fewer,
    so that fewer weights are read: the balanced curve is walked back by the difference between
    its times where pairs are as many as balanced experts and where they are as many as distinct
    ones, T(t) - (T(min(t, E/k)) - T(distinct/k)). All of it at the tokens of the busiest rank,
    which reaches more of its experts than the others do.

    Parameters
    ----------
    s, moe
        Local sizes, and the experts.
    tokens
        float64[T], tokens that all ranks of the expert group route together.
    table
        From ``products.device_table``.
    """
    projections = 3.0 if s.model.gated_mlp else 2.0
    form = s.scheme.experts
    chosen = expert_set(
        s.device,
        s.engine.library,
        form.expert_kernels,
        projections,
        s.engine.expert_kernels,
        s.service.expert_kernels,
    )
    tokens = np.maximum(1.0, tokens)
    if chosen is None:
        return _plain(s, moe, tokens, distinct_experts(moe, tokens), table)
    ep = s.ep
    busy = tokens * busiest_rank(moe, ep, tokens, s.service.expert_slots)
    distinct = distinct_experts(moe, busy)
    full = np.minimum(busy, moe.num_experts / moe.top_k)
    reached = np.maximum(1.0, np.minimum(full, distinct / moe.top_k))
    count = len(tokens)
    seconds = predict_moe(
        np.concatenate([busy, full, reached]),
        s.model.hidden,
        max(moe.ffn_hidden, s.expert_tp),
        moe.top_k,
        moe.num_experts,
        s.expert_tp,
        ep,
        0.0,
        kernel_set=chosen,
        accelerator=s.accelerator,
    )
    whole, balanced, random = seconds[:count], seconds[count : 2 * count], seconds[2 * count :]
    walked: Floats = np.maximum(whole - np.maximum(0.0, balanced - random), random)
    read = distinct / ep * expert_bytes(s, moe) / s.accelerator.memory_bytes_per_s
    least: Floats = np.maximum(walked, read)
    return least


def expert_bytes(s: Shape, moe: MoE) -> float:
    """Return the bytes of one expert's weights on one rank."""
    projections = 3 if s.model.gated_mlp else 2
    inner = moe.ffn_hidden / s.expert_tp
    return projections * s.model.hidden * inner * s.scheme.experts.weight_bytes


def _plain(s: Shape, moe: MoE, tokens: Floats, distinct: Floats, table: Floats) -> Floats:
    """Price a device without measured expert kernels: grouped products and element-wise traffic."""
    model, ep = s.model, s.ep
    h, inner = model.hidden, max(1, -(-moe.ffn_hidden // s.expert_tp))
    fan = 2 if model.gated_mlp else 1
    here = max(1, moe.num_experts // ep)
    groups = np.clip(np.round(distinct / ep), 1, here)
    pairs = np.maximum(groups, tokens * moe.top_k / ep)
    count = len(tokens)
    dims = np.zeros((2, count, layout.DIMS), np.int64)
    dims[:, :, 0], dims[:, :, 3] = np.ceil(pairs), groups
    dims[0, :, 1], dims[0, :, 2] = fan * inner, h
    dims[1, :, 1], dims[1, :, 2] = h, inner
    dims[:, :, 4] = int(s.scheme.experts.activation_bytes < 2.0)
    extra = np.tile([0.0, 1.0, 1.0], (2 * count, 1))
    kinds = np.full(2 * count, layout.GROUPED_GEMM, np.int8)
    forms = np.full(2 * count, EXPERTS, np.int8)
    seconds = price_operators(kinds, forms, dims.reshape(-1, layout.DIMS), extra, table)
    efficiency = s.accelerator.efficiency
    # gathered and activated values are kept in the experts' format, results in 16 bits
    narrow = s.scheme.experts.activation_bytes
    moved = 4.0 * tokens * h
    moved += pairs * ((narrow + 2.0) * h + (2.0 * fan + narrow) * inner)
    passing = moved / (efficiency.elementwise_memory * s.accelerator.memory_bytes_per_s)
    total: Floats = seconds.reshape(2, count).sum(axis=0) + passing
    total += 3.0 * efficiency.elementwise_launch_s
    read = distinct / ep * expert_bytes(s, moe) / s.accelerator.memory_bytes_per_s
    return np.maximum(total, read)
