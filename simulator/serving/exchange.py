"""Seconds of what ranks of one replica send each other in a pass."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ridgeline.simulator.collectives import network, price_collectives
from ridgeline.simulator.collectives.layout import (
    ALL_GATHER,
    ALL_REDUCE,
    ALL_TO_ALL,
    NAMES,
    REDUCE_SCATTER,
    SEND_RECV,
)
from ridgeline.simulator.collectives.measured import predict_collective, predict_custom_all_reduce
from ridgeline.simulator.serving.constants import constants
from ridgeline.simulator.serving.kernel_choice import collective_set, custom_all_reduce_set
from ridgeline.simulator.serving.shape import Shape

Floats = NDArray[np.float64]

ELEMENT = 2.0
"""Bytes of an activation between kernels."""


def collective(s: Shape, operation: int, moved: Floats, ranks: int, stride: int = 1) -> Floats:
    """Return the seconds of a collective of ``moved`` bytes among ranks of the replica.

    Inside a scale-up domain the measured sets of the device or its twin price it, else the
    cluster's links (``docs/collectives.md``).
    """
    moved = np.maximum(1.0, moved)
    cluster, accelerator = s.service.cluster, s.accelerator
    inside = cluster.torus is None and ranks * stride <= cluster.tiers[0].size
    chosen = collective_set(accelerator, NAMES[operation]) if inside else None
    if chosen is not None:
        return predict_collective(moved, ranks, kernel_set=chosen, accelerator=accelerator)
    count = len(moved)
    return price_collectives(
        network(cluster),
        np.full(count, operation, np.int8),
        moved,
        np.full(count, ranks, np.int32),
        np.full(count, stride, np.int64),
    )


def all_reduce(s: Shape, tokens: Floats) -> Floats:
    """Return the seconds of one all-reduce of the hidden state over the tensor ranks.

    Up to ``custom_all_reduce_bytes`` the library's own kernel takes it inside a scale-up domain;
    where that is the reference device's, links between peers stand for its switches.
    """
    ranks = s.service.tp
    if ranks == 1:
        return np.zeros(len(tokens))
    moved = np.maximum(1.0, tokens * s.model.hidden * ELEMENT)
    cluster = s.service.cluster
    inside = cluster.torus is None and ranks <= cluster.tiers[0].size
    own = custom_all_reduce_set(s.accelerator, s.engine.library) if inside else None
    if own is None:
        return collective(s, ALL_REDUCE, moved, ranks)
    seconds = np.empty(len(moved))
    small = moved <= s.engine.custom_all_reduce_bytes
    if small.any():
        found = predict_custom_all_reduce(
            np.append(moved[small], 1.0), ranks, kernel_set=own, accelerator=s.accelerator
        )
        least = found[-1]
        share = 1.0 if s.device else constants().direct_links
        seconds[small] = least + (found[:-1] - least) / share
    if not small.all():
        seconds[~small] = collective(s, ALL_REDUCE, moved[~small], ranks)
    return seconds


def expert_exchange(s: Shape, tokens: Floats) -> Floats:
    """Return the seconds of sending tokens to their experts and back, one layer.

    Without attention data parallelism every rank of the tensor group has all tokens and the
    all-reduce behind the experts is all there is. With it, ``gather`` collects the tokens of all
    ranks before the experts and reduces and scatters their outputs; ``all-to-all`` sends a token
    once to each rank that holds one of its k experts: of n ranks n (1 - (1 - 1/n)^k) are reached,
    in the experts' format on the way there and in 16 bits on the way back.
    ``fastest`` takes the shorter of the two at every size.

    Parameters
    ----------
    s
        Local sizes.
    tokens
        float64[T], of all data ranks together.
    """
    ranks, moe = s.service.tp * s.service.dp, s.model.moe
    if moe is None or s.service.dp == 1:
        return np.zeros(len(tokens))
    width = s.model.hidden * ELEMENT
    kind = s.engine.expert_dispatch if s.ep > 1 else "gather"
    moved = tokens * width
    gathered = np.full(len(tokens), np.inf)
    if kind != "all-to-all":
        gathered = collective(s, ALL_GATHER, tokens * _gathered_bytes(s), ranks)
        gathered = gathered + collective(s, REDUCE_SCATTER, moved, ranks)
    if kind == "gather":
        return gathered
    reached = s.ep * (1.0 - (1.0 - 1.0 / s.ep) ** moe.top_k)
    there = tokens * s.model.hidden * s.scheme.experts.activation_bytes
    sent = collective(s, ALL_TO_ALL, there / ranks * reached, ranks)
    sent = sent + collective(s, ALL_TO_ALL, moved / ranks * reached, ranks)
    least: Floats = np.minimum(gathered, sent)
    return least


def _gathered_bytes(s: Shape) -> float:
    """Return the bytes of one token that ranks gather before the experts."""
    form = s.scheme.experts
    quantised = s.engine.gather_quantised and form.kernel != "fp8_block"
    return s.model.hidden * (form.activation_bytes if quantised else ELEMENT)


def logits_gather(s: Shape, rows: Floats) -> Floats:
    """Return the seconds of gathering the logits of ``rows`` tokens from the tensor ranks."""
    if s.service.tp == 1:
        return np.zeros(len(rows))
    return collective(s, ALL_GATHER, rows * s.model.vocab * ELEMENT, s.service.tp)


def stage_transfers(s: Shape, tokens: Floats) -> Floats:
    """Return the seconds of all sends between pipeline stages that one micro-batch makes."""
    stages, stride = s.service.pp, s.service.tp * s.service.dp
    if stages == 1:
        return np.zeros(len(tokens))
    moved = tokens * s.model.hidden * ELEMENT / s.service.tp
    return (stages - 1.0) * collective(s, SEND_RECV, moved, stages, stride)
