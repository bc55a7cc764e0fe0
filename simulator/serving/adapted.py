"""Adapters of many tenants in one iteration: bytes, seconds of their gathered products, loads.

A product W x of the base gets B_i A_i x for the adapter i of each row. Punica and S-LoRA gather
rows of the same adapter, so that an iteration reads each distinct adapter once and launches two
kernels a product, whatever the number of adapters.
"""

from __future__ import annotations

from collections import OrderedDict

import numpy as np
from numpy.typing import NDArray

from ridgeline.errors import InputError
from ridgeline.simulator.adapters import TARGETS, layer_adapters
from ridgeline.simulator.serving.shape import Shape
from ridgeline.workloads.parameters import distinct_layers

Floats = NDArray[np.float64]

_BYTES = 2.0
"""Of an adapter's weight: 16 bits."""
_KERNELS = 2
"""Of each product: shrink to the rank, expand from it."""


def adapter_bytes(s: Shape) -> float:
    """Return the bytes of one adapter on one accelerator."""
    return _BYTES * _parameters(s)


def _parameters(s: Shape) -> float:
    a, model = s.service.adapters, s.model
    return sum(
        kind.count * layer_adapters(model, kind.form, a.rank, a.targets, s.service.tp)
        for kind in distinct_layers(model)
        if not kind.is_linear
    )


def distinct_adapters(s: Shape, sequences: Floats) -> Floats:
    """Return the expected number of distinct adapters of so many sequences, float64[T].

    Sum over adapters of 1 - (1 - p)^n.
    """
    shares = np.array(s.service.adapters.popularity())
    found: Floats = (1.0 - (1.0 - shares[:, None]) ** sequences[None, :]).sum(axis=0)
    return found


def adapters_seconds(s: Shape, tokens: Floats, sequences: Floats) -> Floats:
    """Return the seconds that adapters add to a pass, float64[T].

    Per product two kernels; reading every distinct adapter, or 2 x parameters x tokens FLOPs at the
    rate of the base's products, whichever takes longer.

    Parameters
    ----------
    s
        Local sizes.
    tokens, sequences
        float64[T], of the rank.
    """
    a, accelerator = s.service.adapters, s.accelerator
    kernels = 0
    for kind in distinct_layers(s.model):
        if not kind.is_linear:
            skipped = ("mlp up", "mlp down") if kind.is_moe else ()
            products = [name for name in TARGETS[a.targets] if name not in skipped]
            kernels += kind.count * _KERNELS * len(products)
    dtype = s.scheme.plain.compute
    rates = accelerator.efficiency.gemm
    gemm = rates.get(dtype, rates["bf16"])
    held = _parameters(s)
    read = distinct_adapters(s, sequences) * held * _BYTES
    streamed = read / (gemm.memory * accelerator.memory_bytes_per_s)
    computed = 2.0 * held * tokens / (gemm.compute * accelerator.peak(dtype))
    found: Floats = kernels * s.engine.small_kernel_s + np.maximum(streamed, computed)
    return found


def adapter_loads(
    s: Shape, requests: int, replicas: int, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return which adapter each request asks for, and the seconds it waits for it, both [n].

    A replica sees every R-th request and keeps the adapters asked for last (least recently used
    go); one that is not there comes over the host's link, each accelerator its own part, while
    others are served. Adapters that are asked for most are there at first.

    Parameters
    ----------
    s
        Local sizes.
    requests, replicas
        How many.
    seed
        The same seed draws the same adapters.
    """
    a = s.service.adapters
    rng = np.random.default_rng([seed, 6])
    asked = rng.choice(a.count, requests, p=np.array(a.popularity())).astype(np.int64)
    waits = np.zeros(requests)
    if a.held >= a.count:
        return asked, waits
    rate = s.accelerator.host_bytes_per_s
    if rate <= 0.0:
        raise InputError(
            f"adapter_slots = {a.slots}: {s.accelerator.name} has no known link to its host, over "
            "which adapters come; leave it out to hold all"
        )
    load_s = adapter_bytes(s) / rate
    for replica in range(replicas):
        there = OrderedDict.fromkeys(range(a.held - 1, -1, -1))
        for i in range(replica, requests, replicas):
            one = int(asked[i])
            if one in there:
                there.move_to_end(one)
                continue
            waits[i] = load_s
            there.popitem(last=False)
            there[one] = None
    return asked, waits
