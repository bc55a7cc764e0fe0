"""Compiled prices of collectives: rings, trees, switches that add, hierarchies, tori.

The constants repeat ``layout`` and ``network`` (a test says so): Numba's cache hashes only this
file, so that it stands alone. Formulas and sources: ``docs/collectives.md``.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from ridgeline.simulator.jit import kernel

ALL_REDUCE, ALL_GATHER, REDUCE_SCATTER, ALL_TO_ALL, SEND_RECV, BROADCAST = range(6)
AUTO, RING, TREE, IN_SWITCH, HIERARCHICAL = range(5)
BLOCK, BANDWIDTH, LATENCY, SWITCH = range(4)
BASE, PER_RANK, EFFICIENCY, RAMP, GAMMA, DELTA, FITTED = range(7)
LENGTH, WRAPS, LINK, HOP = range(4)
(
    HOST,
    START,
    START_PER_RANK,
    ONE_SHOT,
    SECOND,
    TWO_SHOT,
    LARGE_BASE,
    LARGE_RAMP,
    LARGE_EFFICIENCY,
    LARGE_DELTA,
    LIMIT,
    LIMIT_POWER,
) = range(12)

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

# NCCL_MAX_DEV_WORK_P2P_PER_BATCH: sends and receives that NCCL keeps going at once
MESSAGES_IN_FLIGHT = 8.0
# the size for which the fits state their ramp
RAMP_BYTES = 1e6


@kernel
def _greatest_common_divisor(a: int, b: int) -> int:
    while b:
        a, b = b, a % b
    return a


@kernel
def _factor(size: int, joined: int, block: int, stride: int) -> int:
    """Ranks of the group inside every block of this size, given those in the blocks within it."""
    if block % stride:
        return joined
    inside = _greatest_common_divisor(size, block // stride)
    return inside if inside % joined == 0 else joined


@kernel
def _spread(levels: Floats, size: int, stride: int, ranks: Ints, inside: Ints) -> None:
    """Fill the ranks joined at each level and the ranks inside one block of the level below."""
    joined = 1
    last = levels.shape[0] - 1
    for k in range(last + 1):
        inside[k] = joined
        within = size if k == last else _factor(size, joined, int(levels[k, BLOCK]), stride)
        ranks[k] = within // joined
        joined = within


@kernel
def _outermost(ranks: Ints) -> int:
    """Return the outermost level that joins ranks of the group, the innermost when none does."""
    level = 0
    for k in range(ranks.shape[0]):
        if ranks[k] > 1:
            level = k
    return level


@kernel
def _bandwidth(
    levels: Floats, fits: Floats, k: int, operation: int, ranks: int, sharing: float
) -> float:
    rate: float = levels[k, BANDWIDTH] / sharing
    if k == 0 and fits[operation, FITTED] > 0.0:
        rate *= fits[operation, EFFICIENCY] * ranks / (ranks + fits[operation, DELTA])
    return rate


@kernel
def _ramp(fits: Floats, operation: int, size_bytes: float) -> float:
    if size_bytes <= 0.0:
        return 0.0
    return float(fits[operation, RAMP] * (size_bytes / RAMP_BYTES) ** fits[operation, GAMMA])


@kernel
def _volume(operation: int, size: float) -> float:
    """Bytes through every rank's link in one direction over the collective's bytes, on a ring."""
    if operation == BROADCAST:
        return 1.0
    share = (size - 1.0) / size
    return 2.0 * share if operation == ALL_REDUCE else share


@kernel
def _ring(
    operation: int,
    size_bytes: float,
    size: int,
    sharing: float,
    levels: Floats,
    fits: Floats,
    ranks: Ints,
    inside: Ints,
    logarithmic: bool,
) -> float:
    """One ring through all tiers; ``logarithmic`` sends the same bytes in log2 steps."""
    fitted = fits[operation, FITTED] > 0.0
    passes = 2.0 if operation == ALL_REDUCE else 1.0
    seconds = fits[operation, BASE] if fitted else 0.0
    slowest = np.inf
    for k in range(levels.shape[0]):
        if ranks[k] == 1:
            continue
        rate = inside[k] * _bandwidth(levels, fits, k, operation, ranks[k], sharing)
        slowest = min(slowest, rate)
        if logarithmic:
            steps = float(math.ceil(math.log2(ranks[k])))
        else:
            steps = size / inside[k] - size / (inside[k] * ranks[k])
        if k == 0 and fitted:
            seconds += fits[operation, PER_RANK] * (steps - 1.0)
            seconds += _ramp(fits, operation, size_bytes)
        else:
            seconds += passes * steps * levels[k, LATENCY]
    return seconds + _volume(operation, float(size)) * size_bytes / slowest


@kernel
def _tree(
    size_bytes: float,
    sharing: float,
    levels: Floats,
    fits: Floats,
    ranks: Ints,
    inside: Ints,
    switches: bool,
) -> float:
    """All-reduce up and down two trees, or through the switches of the tiers that can add."""
    fitted = fits[ALL_REDUCE, FITTED] > 0.0
    fixed = fits[ALL_REDUCE, BASE] if fitted else 0.0
    ramp = 0.0
    depth = 0.0
    longest = 0.0
    for k in range(levels.shape[0]):
        if ranks[k] == 1:
            continue
        steps = 2.0 * math.ceil(math.log2(ranks[k]))
        adds = switches and levels[k, SWITCH] > 0.0
        if adds:
            rate = inside[k] * levels[k, BANDWIDTH] / sharing
            longest = max(longest, size_bytes / (rate * levels[k, SWITCH]))
        else:
            rate = inside[k] * _bandwidth(levels, fits, k, ALL_REDUCE, ranks[k], sharing)
            longest = max(longest, (1.0 if ranks[k] == 2 else 2.0) * size_bytes / rate)
        if k == 0 and fitted:
            fixed += fits[ALL_REDUCE, PER_RANK] * min(ranks[k] - 2.0, steps)
            ramp = _ramp(fits, ALL_REDUCE, size_bytes)
        elif adds:
            fixed += 2.0 * levels[k, LATENCY]
        else:
            depth += steps * levels[k, LATENCY]
    return fixed + ramp + depth + longest + 2.0 * math.sqrt(depth * longest)


@kernel
def _level(
    operation: int,
    size_bytes: float,
    k: int,
    sharing: float,
    levels: Floats,
    fits: Floats,
    ranks: Ints,
) -> float:
    """Price a ring among the ranks that tier ``k`` joins."""
    fitted = k == 0 and fits[operation, FITTED] > 0.0
    steps = ranks[k] - 1.0
    seconds: float = 0.0
    if fitted:
        seconds = fits[operation, BASE] + fits[operation, PER_RANK] * (steps - 1.0)
        seconds += _ramp(fits, operation, size_bytes)
    else:
        passes = 2.0 if operation == ALL_REDUCE else 1.0
        seconds = passes * steps * levels[k, LATENCY]
    rate = _bandwidth(levels, fits, k, operation, ranks[k], sharing)
    return seconds + _volume(operation, float(ranks[k])) * size_bytes / rate


@kernel
def _hierarchical(
    operation: int,
    size_bytes: float,
    sharing: float,
    levels: Floats,
    fits: Floats,
    ranks: Ints,
    inside: Ints,
    first: int,
) -> float:
    """Tier after tier from ``first``: scatter inside, reduce across, gather inside."""
    outermost = _outermost(ranks)
    seconds = 0.0
    for k in range(first, outermost + 1):
        if ranks[k] == 1:
            continue
        part = size_bytes if operation == BROADCAST else size_bytes / inside[k]
        if operation == ALL_REDUCE and k < outermost:
            seconds += _level(REDUCE_SCATTER, part, k, sharing, levels, fits, ranks)
            seconds += _level(ALL_GATHER, part, k, sharing, levels, fits, ranks)
        else:
            seconds += _level(operation, part, k, sharing, levels, fits, ranks)
    return seconds


@kernel
def _all_to_all(
    size_bytes: float,
    size: int,
    sharing: float,
    levels: Floats,
    fits: Floats,
    ranks: Ints,
    inside: Ints,
    first: int,
    in_flight: float,
) -> float:
    """Pairwise exchange: the slowest tier bounds, every ``in_flight`` messages cost a latency."""
    fitted = fits[ALL_TO_ALL, FITTED] > 0.0
    seconds = fits[ALL_TO_ALL, BASE] if fitted else 0.0
    longest = 0.0
    for k in range(first, levels.shape[0]):
        if ranks[k] == 1:
            continue
        peers = float(inside[k] * (ranks[k] - 1))
        leaving = peers if k == 0 else float(size - inside[k])
        rate = _bandwidth(levels, fits, k, ALL_TO_ALL, ranks[k], sharing)
        longest = max(longest, size_bytes * leaving / size / rate)
        if k == 0 and fitted:
            seconds += fits[ALL_TO_ALL, PER_RANK] * (peers - 1.0)
            seconds += _ramp(fits, ALL_TO_ALL, size_bytes)
        else:
            seconds += levels[k, LATENCY] * max(1.0, peers / in_flight)
    return seconds + longest


@kernel
def _send_recv(
    size_bytes: float, sharing: float, levels: Floats, fits: Floats, ranks: Ints
) -> float:
    """One message to the neighbouring rank, over the outermost tier that the group needs."""
    outermost = _outermost(ranks)
    fitted = fits[SEND_RECV, FITTED] > 0.0
    seconds = fits[SEND_RECV, BASE] if fitted else 0.0
    if outermost == 0 and fitted:
        seconds += _ramp(fits, SEND_RECV, 2.0 * size_bytes)
    else:
        seconds += levels[outermost, LATENCY]
    return seconds + size_bytes / _bandwidth(levels, fits, outermost, SEND_RECV, 2, sharing)


@kernel
def _torus(
    operation: int, size_bytes: float, size: int, stride: int, sharing: float, torus: Floats
) -> float:
    """Price a group of one slice: rings or lines along its axes, all axes at once."""
    axes = torus.shape[0]
    joined = 1
    chips = 1
    hops = 0.0
    bandwidth = 0.0
    exchange = 0.0
    message = 0.0
    for axis in range(axes):
        below = chips
        chips *= int(torus[axis, LENGTH])
        within = size if axis == axes - 1 else _factor(size, joined, chips, stride)
        ranks = within // joined
        joined = within
        if ranks == 1:
            continue
        apart = max(1, stride // below)
        link = torus[axis, LINK] / sharing / apart
        if torus[axis, WRAPS] > 0.0 and ranks * apart == int(torus[axis, LENGTH]):
            rate = 2.0 * link
            hops += (ranks // 2) * apart * torus[axis, HOP]
        else:
            rate = link
            hops += (ranks - 1.0) * apart * torus[axis, HOP]
        bandwidth += rate
        chunks = float(ranks // 2) * float(ranks - ranks // 2) / ranks
        exchange = max(exchange, size_bytes * chunks / rate)
        message = max(message, apart * torus[axis, HOP] + size_bytes / link)
    if operation == SEND_RECV:
        return message
    if operation == ALL_TO_ALL:
        return hops + exchange
    passes = 2.0 if operation == ALL_REDUCE else 1.0
    return passes * hops + _volume(operation, float(size)) * size_bytes / bandwidth


@kernel
def _one(
    operation: int,
    size_bytes: float,
    size: int,
    stride: int,
    algorithm: int,
    sharing: float,
    levels: Floats,
    fits: Floats,
    torus: Floats,
    ranks: Ints,
    inside: Ints,
) -> float:
    assert ALL_REDUCE <= operation <= BROADCAST
    assert AUTO <= algorithm <= HIERARCHICAL
    assert stride >= 1
    if size <= 1:
        return 0.0
    _spread(levels, size, stride, ranks, inside)
    if torus.shape[0] > 0:
        if operation == SEND_RECV:
            if ranks[0] == size:
                return _torus(operation, size_bytes, size, stride, sharing, torus)
            return _send_recv(size_bytes, sharing, levels, fits, ranks)
        seconds = 0.0
        if operation == ALL_TO_ALL:
            seconds = _all_to_all(
                size_bytes, size, sharing, levels, fits, ranks, inside, 1, MESSAGES_IN_FLIGHT
            )
            if ranks[0] > 1:
                part = size_bytes * ranks[0] / size
                seconds += _torus(operation, part, ranks[0], stride, sharing, torus)
            return seconds
        if ranks[0] > 1:
            seconds += _torus(operation, size_bytes, ranks[0], stride, sharing, torus)
        return seconds + _hierarchical(
            operation, size_bytes, sharing, levels, fits, ranks, inside, 1
        )
    if operation == SEND_RECV:
        return _send_recv(size_bytes, sharing, levels, fits, ranks)
    if operation == ALL_TO_ALL:
        in_flight = MESSAGES_IN_FLIGHT if algorithm == AUTO else 1.0
        return _all_to_all(size_bytes, size, sharing, levels, fits, ranks, inside, 0, in_flight)
    if algorithm == HIERARCHICAL:
        return _hierarchical(operation, size_bytes, sharing, levels, fits, ranks, inside, 0)
    if operation != ALL_REDUCE:
        one_per_node = ranks[0] == 1 and operation != BROADCAST
        logarithmic = algorithm == TREE or (algorithm == AUTO and one_per_node)
        return _ring(operation, size_bytes, size, sharing, levels, fits, ranks, inside, logarithmic)
    best = np.inf
    if algorithm in (AUTO, RING):
        best = _ring(operation, size_bytes, size, sharing, levels, fits, ranks, inside, False)
    if algorithm in (AUTO, TREE):
        best = min(best, _tree(size_bytes, sharing, levels, fits, ranks, inside, False))
    if algorithm in (AUTO, IN_SWITCH):
        best = min(best, _tree(size_bytes, sharing, levels, fits, ranks, inside, True))
    return best


@kernel
def price(
    operation: NDArray[np.int8],
    size_bytes: Floats,
    size: NDArray[np.int32],
    stride: Ints,
    algorithm: int,
    sharing: Floats,
    levels: Floats,
    fits: Floats,
    torus: Floats,
    seconds: Floats,
) -> None:
    """Fill ``seconds`` float64[N]; see ``network.price_collectives``."""
    ranks = np.empty(levels.shape[0], np.int64)
    inside = np.empty(levels.shape[0], np.int64)
    for i in range(operation.shape[0]):
        seconds[i] = _one(
            int(operation[i]),
            size_bytes[i],
            int(size[i]),
            int(stride[i]),
            algorithm,
            sharing[i],
            levels,
            fits,
            torus,
            ranks,
            inside,
        )


@kernel
def custom_all_reduce(
    size_bytes: Floats, ranks: Floats, bandwidth: float, fit: Floats, seconds: Floats
) -> None:
    """Fill ``seconds`` float64[N]; see ``measured.predict_custom_all_reduce``."""
    for i in range(size_bytes.shape[0]):
        n = ranks[i]
        limit = fit[LIMIT] * (2.0 / n) ** fit[LIMIT_POWER]
        own = _one_or_two_shots(min(size_bytes[i], limit), n, bandwidth, fit)
        if size_bytes[i] > limit:
            share = 2.0 * (n - 1.0) / n
            rate = bandwidth * fit[LARGE_EFFICIENCY] * n / (n + fit[LARGE_DELTA])
            ramp = fit[LARGE_RAMP] * math.sqrt(size_bytes[i] / RAMP_BYTES)
            own = max(own, fit[LARGE_BASE] + ramp + share * size_bytes[i] / rate)
        seconds[i] = max(own, fit[HOST])


@kernel
def _one_or_two_shots(size_bytes: float, n: float, bandwidth: float, fit: Floats) -> float:
    """Read every other rank's buffer whole, or a part of it and then the others' sums."""
    start: float = fit[START] + fit[START_PER_RANK] * (n - 2.0)
    once: float = start + (n - 1.0) * size_bytes / (bandwidth * fit[ONE_SHOT])
    twice: float = (
        start + fit[SECOND] + 2.0 * (n - 1.0) / n * size_bytes / (bandwidth * fit[TWO_SHOT])
    )
    return min(once, twice)
