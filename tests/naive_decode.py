"""Slow, obvious twins of the attention of kernel sets: decode, and prompts with rectangular blocks.

One shape at a time, in whole numbers; ``p`` is a dict of a set's parameters in SI units (names
without their unit's prefix), ``device`` has peak, hbm, cores, l2, element and kv.
"""

from __future__ import annotations

from math import ceil


def split_time(p, device, blocks, steps, step, sums, kind, fixed):
    """Every split that is allowed, tried; ``kind`` is grouped or single."""

    def time(splits):
        depth = ceil(steps / splits)
        busy = max(blocks * splits / device["cores"], 1) * (depth * step + p[f"{kind}_block"])
        if splits == 1 and not fixed:
            return busy
        bandwidth = p[f"{kind}_combine_memory"] * device["hbm"]
        return busy + p[f"{kind}_combine"] + splits * sums / bandwidth

    if fixed:
        return time(fixed)
    tried = [2**i for i in range(9) if 2**i < 2 * steps or i == 0]
    return min(time(splits) for splits in tried)


def decode(p, device, batch, kv_len, heads, kv_heads, window, qk, v, cached):
    seen = min(kv_len, window) if window else kv_len
    steps = ceil(seen / 64)
    group = heads // kv_heads
    sums = 8 * batch * heads * v
    step_bytes = 64 * cached * device["kv"]
    fixed = p["splits"] if batch <= p["split_batch_max"] else 0
    if p["group_min"] <= group <= p["group_max"]:
        rows = p["group_rows"]
        flops = 2 * 64 * rows * (qk + v)
        rate = p["grouped_compute"] * device["peak"] / device["cores"]
        step = max(p["grouped_step"], step_bytes / p["grouped_block_rate"], flops / rate)
        blocks = batch * kv_heads * ceil(group / rows)
        x = split_time(p, device, blocks, steps, step, sums, "grouped", fixed)
    else:
        step = max(p["single_step"], step_bytes / p["single_block_rate"])
        x = split_time(p, device, batch * heads, steps, step, sums, "single", fixed)
    moved = batch * kv_heads * cached * (seen * device["kv"] + 2 + device["kv"])
    moved += 2 * batch * heads * (qk + v)
    cold = moved**2 / (moved**2 + (p["l2_share"] * device["l2"]) ** 2)
    slow = p["memory"] * device["hbm"]
    m = moved * cold / slow + moved * (1 - cold) / (slow * p["l2_speedup"])
    exponent = p["sharpness"]
    return p["launch"] + (x**exponent + m**exponent) ** (1 / exponent)


def spans(seq, window, query_block, key_block):
    """Key blocks that each row of query blocks touches under the causal (window) mask."""
    found = []
    for first in range(0, seq, query_block):
        last = min(first + query_block, seq) - 1
        lowest = max(0, first - window + 1) if window else 0
        found.append(last // key_block - lowest // key_block + 1)
    return found


def prefill(p, device, batch, seq, heads, kv_heads, dim, window):
    query, key = int(p["query_block"]), int(p["key_block"])
    rows = spans(seq, window, query, key)
    pair = (
        query * key * (4 * dim * device["cores"] / (p["compute"] * device["peak"]) + p["softmax"])
    )
    if p["packed"]:
        blocks = batch * kv_heads * ceil(seq * heads / kv_heads / query)
    else:
        blocks = batch * heads * len(rows)
    pairs = blocks * sum(rows) / len(rows)
    one = p["lone"] * max(rows) * pair + p["block"]
    x = max((pairs * pair + blocks * p["block"]) / device["cores"], one)
    x += p["tail"] * one * min(1, blocks / device["cores"])
    tokens = batch * seq * dim
    a = device["element"]
    m = tokens * (heads * (a + 2) + 2 * kv_heads * a) / (p["memory"] * device["hbm"])
    exponent = p["sharpness"]
    write = tokens * kv_heads * (4 + 2 * device["kv"]) / (p["write_memory"] * device["hbm"])
    return p["launch"] + (x**exponent + m**exponent) ** (1 / exponent) + write
