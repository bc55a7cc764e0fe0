"""Slow, obvious twins of ``simulator/roofline/_kernels.py``: the formulas of docs/roofline.md.

One operator at a time, Python's exact integers, every tile and split tried, masks counted block
by block. ``p`` is a device's row of parameters as a dict keyed by the column names of ``layout``.
"""

from __future__ import annotations

from math import ceil, inf

TILES = [(128, 128), (128, 256), (256, 128), (64, 128), (128, 64), (64, 256), (256, 64), (64, 64)]
FIXED_TILES = [*TILES, (256, 256), (128, 192), (192, 128)]
SPLITS = [1, 2, 3, 4, 6, 8, 12, 16, 32]


def up(a: int, b: int) -> int:
    return -(-a // b)


def sustained(p, x):
    return x / (1 - (1 - p["SUSTAINED"]) * x / (x + p["SUSTAINED_AFTER"]))


def join(x, memory, exponent):
    return (x**exponent + memory**exponent) ** (1 / exponent)


def group_rows(m, groups, skew):
    """Rows of every group that has any: the busiest first, the others as even as whole rows go."""
    busiest = min(m, ceil(skew * m / groups))
    left = m - busiest
    others = min(groups - 1, left)
    return [busiest] + ([up(left, others)] * others if others else [])


def choices(p, rows):
    """The library's tile for so many rows, or all that a free choice tries."""
    limits = [(64, "TILE_TO_64"), (128, "TILE_TO_128"), (512, "TILE_TO_512"), (inf, "TILE_BEYOND")]
    code = next(int(p[name]) for most, name in limits if rows <= most)
    return [FIXED_TILES[code - 1]] if code else TILES


def tiled(p, rows, n, k, outputs, peak):
    """``rows``: how many each of the GEMMs that share the waves has."""
    sms = int(p["CORES"])
    f = peak / sms
    bl = p["GEMM_L2"] * p["PEAK"] / sms
    te, ts, tl, a = p["GEMM_TILE"], p["GEMM_SPLIT"], p["GEMM_STEP"], p["ELEMENT_BYTES"]
    best = inf
    for bm, bn in choices(p, rows[0]):
        tiles = sum(up(r, bm) for r in rows) * up(n, bn)
        for s in SPLITS:
            st = up(up(k, 64), s)
            if s > 1 and st < 2:
                continue
            partly = max(1, tiles * s / sms)
            q = (1 - p["WAVE_BLEND"]) * up(tiles * s, sms) + p["WAVE_BLEND"] * partly
            edges = a * min(bm, rows[0]) + p["WEIGHT_BYTES"] * min(bn, n)
            loaded = edges * min(64 * st, k) / bl
            x = max(q * (max(2 * bm * bn * 64 * st / f, loaded) + te), st * tl + te)
            if s > 1:
                x += ts + 8 * s * outputs / (bl * sms)
            best = min(best, x)
    return best


def matrix(p, rows, m, n, k, quantised, extra_bytes, rate):
    """GEMMs of ``rows`` rows each, ``m`` of them together without rounding."""
    peak = p["PEAK"] * min(1, p["GEMM_COMPUTE"] * rate)
    a = p["ELEMENT_BYTES"]
    if p["SYSTOLIC"]:
        side = int(p["SYSTOLIC"])
        fill = (n / (up(n, side) * side)) * (k / (up(k, side) * side))
        x = sum(2 * up(r, 8) * 8 * n * k for r in rows) / peak / fill
    else:
        x = tiled(p, rows, n, k, m * n, peak)
    weights = p["WEIGHT_BYTES"] * len(rows) * n * k
    weights *= 1 - p["WARM_SHARE"] / (1 + (weights / p["WARM_BYTES"]) ** 4)
    bytes_moved = a * m * k + weights + max(a, 2) * m * n + extra_bytes
    memory = bytes_moved / (p["GEMM_MEMORY"] * p["HBM"])
    t = p["GEMM_LAUNCH"] + join(sustained(p, x), memory, p["GEMM_SHARPNESS"])
    if quantised:
        t += p["QUANTISE"] + p["QUANTISE_ROW"] * m
        t += (2 + a) * m * k / (p["QUANTISE_MEMORY"] * p["HBM"])
    return t


def gemm(p, m, n, k, batch, quantised, extra_bytes, rate):
    return matrix(p, [m] * batch, m * batch, n, k, quantised, extra_bytes, rate)


def grouped_gemm(p, m, n, k, groups, quantised, extra_bytes, rate, skew):
    return matrix(p, group_rows(m, groups, skew), m, n, k, quantised, extra_bytes, rate)


def visible(i, j, offset, window, causal):
    return (j <= i + offset or not causal) and (window == 0 or abs(i + offset - j) < window)


def mask(seq_q, seq_kv, window, causal, block):
    """Key blocks that each row of query blocks touches, counted score by score."""
    spans = []
    for r in range(up(seq_q, block)):
        touched = [
            j // block
            for i in range(r * block, (r + 1) * block)
            for j in range(seq_kv)
            if visible(min(i, seq_q - 1), j, seq_kv - seq_q, window, causal)
        ]
        spans.append(max(touched) - min(touched) + 1 if touched else 0)
    return spans


def attention(
    p, batch, heads, kv_heads, seq_q, seq_kv, d, dv, window, causal, backward, extra_bytes, rate
):
    sms, a = p["CORES"], p["ELEMENT_BYTES"]
    f = p["PEAK"] * min(1, p["ATTENTION_COMPUTE"] * rate) / sms
    spans = spans_by_rows(seq_q, seq_kv, window, causal)
    side = int(p["SYSTOLIC"])
    wide, wide_v = (up(d, side) * side, up(dv, side) * side) if side else (d, dv)
    cx = p["ATTENTION_SOFTMAX"] / rate
    if backward:
        tb = 128**2 * (2 * (3 * wide + 2 * wide_v) / f + 2.5 * cx)
    else:
        tb = 128**2 * (2 * (wide + wide_v) / f + cx)
    if seq_q < 128:
        c = batch * min(heads, kv_heads * up(seq_q * heads, 128 * kv_heads))
        pairs = c * spans[0]
    else:
        c = batch * heads * up(seq_q, 128)
        pairs = batch * heads * sum(spans)
    one = max(spans) * tb + p["ATTENTION_BLOCK"]
    x = max((pairs * tb + c * p["ATTENTION_BLOCK"]) / sms, one)
    x += p["ATTENTION_TAIL"] * one * min(1, c / sms)
    moved = a * kv_heads * seq_kv * (d + dv) + heads * seq_q * (a * d + max(a, 2) * dv)
    moved = batch * moved * (2 if backward else 1) + extra_bytes
    memory = moved / (p["ATTENTION_MEMORY"] * p["HBM"])
    return p["ATTENTION_LAUNCH"] + join(sustained(p, x), memory, p["ATTENTION_SHARPNESS"])


def spans_by_rows(seq_q, seq_kv, window, causal, block=128):
    """As ``mask`` counts, from the first and last query of each row of blocks."""
    offset = seq_kv - seq_q
    spans = []
    for r in range(up(seq_q, block)):
        first, last = r * block, min((r + 1) * block, seq_q) - 1
        top = last + offset if causal else (last + offset + window - 1 if window else seq_kv)
        bottom = first + offset - window + 1 if window else 0
        top, bottom = min(top, seq_kv - 1), max(bottom, 0)
        spans.append(max(0, top // block - bottom // block + 1) if top >= 0 else 0)
    return spans


def memory(p, moved):
    return p["ELEMENTWISE_LAUNCH"] + moved / (p["ELEMENTWISE_MEMORY"] * p["HBM"])


def scores(seq_q, seq_kv, window, causal):
    return sum(
        visible(i, j, seq_kv - seq_q, window, causal) for i in range(seq_q) for j in range(seq_kv)
    )


def fused(p, m, n, k, batch, staged, moved, rate):
    """Products on the chip: FLOPs at attention's rate beside bytes at the element-wise one."""
    array, outputs = int(p["SYSTOLIC"]), n
    if array:
        n, k = up(n, array) * array, up(k, array) * array
    peak = p["PEAK"] * min(1, p["ATTENTION_COMPUTE"] * rate)
    x = sustained(p, 2 * m * n * k * batch / peak)
    x += p["ELEMENT_BYTES"] * m * outputs * batch * staged / (p["GEMM_L2"] * p["PEAK"])
    memory = moved / (p["ELEMENTWISE_MEMORY"] * p["HBM"])
    return p["ATTENTION_LAUNCH"] + join(x, memory, p["ATTENTION_SHARPNESS"])
