"""Compiled prices of operators: GEMM tiles and waves, attention blocks, array fill, bytes.

The constants repeat ``layout`` (a test says so): Numba's cache hashes only this file, so that it
stands alone. Quantities are kept in float64: whole numbers up to 2^53 are exact there, and larger
ones round instead of wrapping. Formulas and sources: ``docs/roofline.md``.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ridgeline.simulator.jit import kernel

GEMM, GROUPED_GEMM, ATTENTION_FORWARD, ATTENTION_BACKWARD, MEMORY, FUSED = range(6)
BYTES_MOVED, RATE, SKEW = range(3)
(
    PEAK,
    HBM,
    CORES,
    SYSTOLIC,
    ELEMENT_BYTES,
    GEMM_LAUNCH,
    GEMM_COMPUTE,
    GEMM_MEMORY,
    GEMM_L2,
    GEMM_TILE,
    GEMM_SPLIT,
    GEMM_SHARPNESS,
    GEMM_STEP,
    QUANTISE,
    QUANTISE_MEMORY,
    ATTENTION_LAUNCH,
    ATTENTION_COMPUTE,
    ATTENTION_SOFTMAX,
    ATTENTION_BLOCK,
    ATTENTION_TAIL,
    ATTENTION_MEMORY,
    ATTENTION_SHARPNESS,
    ELEMENTWISE_LAUNCH,
    ELEMENTWISE_MEMORY,
    SUSTAINED,
    SUSTAINED_AFTER,
    WEIGHT_BYTES,
    WARM_BYTES,
    WARM_SHARE,
    WAVE_BLEND,
    QUANTISE_ROW,
    TILE_TO_64,
    TILE_TO_128,
    TILE_TO_512,
    TILE_BEYOND,
) = range(35)
PARAMETERS = 35
GRID_AXES, GRID_NODES = 3, 12
GRID = 439
PAIRS, PAIR_NODES, PAIR = 2, 24, 252
PAIR_TILE = 64.0
FILL_ROWS, FILL_COLUMNS = 128.0, 256.0

# 128x128 first: it is most often the best or near it, and a good first price prunes the others.
TILE_M = (128.0, 128.0, 256.0, 64.0, 128.0, 64.0, 256.0, 64.0, 256.0, 128.0, 192.0)
TILE_N = (128.0, 256.0, 128.0, 128.0, 64.0, 256.0, 64.0, 64.0, 256.0, 192.0, 128.0)
SEARCHED = 8  # tiles that a free choice tries
SPLITS = (1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0, 32.0)
STEP = 64.0
BLOCK = 128.0
SUBLANES = 8.0


@kernel
def _up(value: float, unit: float) -> float:
    padded: float = np.ceil(value / unit) * unit
    return padded


@kernel
def _join(compute: float, memory: float, sharpness: float) -> float:
    """(compute^p + memory^p)^(1/p), scaled so that it is never under the larger of the two."""
    high = max(compute, memory)
    low = min(compute, memory)
    joined: float = high * (1.0 + (low / high) ** sharpness) ** (1.0 / sharpness)
    return joined


@kernel
def _throttled(compute: float, sustained: float, after: float) -> float:
    """Return X / (1 - (1 - s) X / (X + after)) of compute time X: longer X is never faster."""
    return compute * (compute + after) / (sustained * compute + after)


@kernel
def _groups(m: float, groups: float, skew: float) -> tuple[float, float, float]:
    """Rows of the busiest group, rows of each other one, number of others that have rows."""
    busiest = min(m, np.ceil(skew * m / groups))
    left = m - busiest
    others = min(groups - 1.0, left)
    rows = np.ceil(left / others) if others > 0.0 else 0.0
    return busiest, rows, others


@kernel
def _tiled(
    rows: float,
    groups: float,
    other_rows: float,
    others: float,
    n: float,
    k: float,
    outputs: float,
    flops: float,
    l2: float,
    row: NDArray[np.float64],
) -> float:
    """Least time of the matrix products over tiles and split-K, without HBM traffic."""
    cores = row[CORES]
    tile_s = row[GEMM_TILE]
    split_s = row[GEMM_SPLIT]
    step_s = row[GEMM_STEP]
    per_cell = 2.0 * STEP * cores / flops
    row_edge = row[ELEMENT_BYTES] * cores / l2
    column_edge = row[WEIGHT_BYTES] * cores / l2
    blend = row[WAVE_BLEND]
    reduction_s = 8.0 * outputs / l2
    steps = np.ceil(k / STEP)
    best = np.inf
    column = TILE_BEYOND
    if rows <= 64.0:
        column = TILE_TO_64
    elif rows <= 128.0:
        column = TILE_TO_128
    elif rows <= 512.0:
        column = TILE_TO_512
    chosen = int(row[column])
    first = 0
    last = SEARCHED
    if chosen > 0:
        first = chosen - 1
        last = chosen
    for t in range(first, last):
        bm = TILE_M[t]
        bn = TILE_N[t]
        tiles = groups * np.ceil(rows / bm)
        if others > 0.0:
            tiles += others * np.ceil(other_rows / bm)
        tiles *= np.ceil(n / bn)
        share = tiles / cores
        multiply = per_cell * bm * bn
        load = row_edge * min(bm, rows) + column_edge * min(bn, n)
        # No split of this tile is faster: every wave is full and nothing is added up.
        least = share * (max(multiply * steps, load * k) + tile_s)
        if least >= best:
            continue
        for split in SPLITS:
            depth = steps
            added = 0.0
            if split > 1.0:
                added = split_s + split * reduction_s
                if least + added >= best:
                    break
                depth = np.ceil(steps / split)
                if depth < 2.0:
                    break
            filled = tiles * split / cores
            waves = np.ceil(filled)
            if blend > 0.0:
                waves += blend * (max(1.0, filled) - waves)
            wave_s = max(multiply * depth, load * min(STEP * depth, k)) + tile_s
            best = min(best, max(waves * wave_s, depth * step_s + tile_s) + added)
    return best


@kernel
def _gemm(
    m: float,
    n: float,
    k: float,
    batch: float,
    groups: float,
    skew: float,
    quantised: bool,
    extra_bytes: float,
    rate: float,
    row: NDArray[np.float64],
) -> float:
    """One GEMM, ``batch`` equal ones, or ``groups`` of them that share the rows ``m``."""
    element = row[ELEMENT_BYTES]
    flops = row[PEAK] * min(1.0, row[GEMM_COMPUTE] * rate)
    rows = m
    copies = batch
    other_rows = 0.0
    others = 0.0
    weights = batch
    if groups > 0.0:
        rows, other_rows, others = _groups(m, groups, skew)
        copies = 1.0
        weights = 1.0 + others
    inputs = batch * m * k
    outputs = batch * m * n
    if row[SYSTOLIC] > 0.0:
        side = row[SYSTOLIC]
        padded = copies * _up(rows, SUBLANES) + others * _up(other_rows, SUBLANES)
        compute = 2.0 * padded * _up(n, side) * _up(k, side) / flops
    else:
        l2 = row[GEMM_L2] * row[PEAK]
        compute = _tiled(rows, copies, other_rows, others, n, k, outputs, flops, l2, row)
    compute = _throttled(compute, row[SUSTAINED], row[SUSTAINED_AFTER])
    weight_bytes = row[WEIGHT_BYTES] * weights * n * k
    if row[WARM_SHARE] > 0.0:
        # half of the share at WARM_BYTES: a benchmark's weight copies fill the L2 by then
        weight_bytes *= 1.0 - row[WARM_SHARE] / (1.0 + (weight_bytes / row[WARM_BYTES]) ** 4.0)
    moved = element * inputs + weight_bytes + max(element, 2.0) * outputs + extra_bytes
    memory = moved / (row[GEMM_MEMORY] * row[HBM])
    time: float = row[GEMM_LAUNCH] + _join(compute, memory, row[GEMM_SHARPNESS])
    if quantised:
        time += row[QUANTISE] + row[QUANTISE_ROW] * batch * m
        time += (2.0 + element) * inputs / (row[QUANTISE_MEMORY] * row[HBM])
    return time


@kernel
def _matrix_bound(
    d: NDArray[np.int64], grouped: bool, skew: float, moved: float, row: NDArray[np.float64]
) -> tuple[float, float]:
    """FLOPs of a GEMM over the datasheet peak and bytes over the datasheet bandwidth, s."""
    m = float(d[0])
    n = float(d[1])
    k = float(d[2])
    copies = float(d[3])
    rows = copies * m
    weights = copies
    if grouped:
        rows = m
        weights = 1.0 + _groups(m, copies, skew)[2]
    element = row[ELEMENT_BYTES]
    once = element * rows * k + row[WEIGHT_BYTES] * weights * n * k + max(element, 2.0) * rows * n
    return 2.0 * rows * n * k / row[PEAK], (moved + once) / row[HBM]


@kernel
def _grid(row: NDArray[np.float64], first: int, m: float, n: float, k: float) -> float:
    """Return the correction of a GEMM: trilinear in log2 of its shape, fading over one octave.

    ``row[first:]`` holds how many nodes each axis has, the nodes, and the values, k fastest.
    """
    place = 0
    shares = np.empty(3)
    strides = np.empty(3, np.int64)
    stride = 1
    inside = 1.0
    for axis in range(2, -1, -1):
        count = int(row[first + axis])
        start = first + GRID_AXES + axis * GRID_NODES
        x = np.log2(m if axis == 0 else (n if axis == 1 else k))
        beyond = max(row[start] - x, x - row[start + count - 1])
        if beyond >= 1.0:
            return 0.0
        if beyond > 0.0:
            inside *= 1.0 - beyond
        low = 0
        shares[axis] = 0.0
        strides[axis] = 0
        if count > 1:
            while low < count - 2 and x >= row[start + low + 1]:
                low += 1
            gap = row[start + low + 1] - row[start + low]
            shares[axis] = min(1.0, max(0.0, (x - row[start + low]) / gap))
            strides[axis] = stride
        place += low * stride
        stride *= count
    place += first + GRID_AXES + GRID_AXES * GRID_NODES
    total = 0.0
    for corner in range(8):
        share = inside
        here = place
        for axis in range(3):
            if (corner >> axis) & 1:
                share *= shares[axis]
                here += strides[axis]
            else:
                share *= 1.0 - shares[axis]
        total += share * row[here]
    return total


@kernel
def _pairs(row: NDArray[np.float64], first: int, m: float, n: float, k: float) -> float:
    """Return the sum of the grids over two coordinates each, bilinear, fading over one octave.

    A grid is its two coordinates (0 none, else 1 to 6: m, n, k, tiles of 64x64 an SM, rows of
    the last 128, how full waves of 128x256 are), its numbers of nodes, the nodes, and the values,
    second coordinate fastest.
    """
    total = 0.0
    shares = np.empty(2)
    lows = np.empty(2, np.int64)
    for grid in range(PAIRS):
        start = first + grid * PAIR
        if row[start] <= 0.0:
            continue
        inside = 1.0
        for axis in range(2):
            which = int(row[start + axis])
            value = m
            if which == 2:
                value = n
            elif which == 3:
                value = k
            elif which == 4:
                value = np.ceil(m / PAIR_TILE) * np.ceil(n / PAIR_TILE) / row[CORES]
            elif which == 5:
                value = m - BLOCK * (np.ceil(m / BLOCK) - 1.0)
            elif which == 6:
                filled = np.ceil(m / FILL_ROWS) * np.ceil(n / FILL_COLUMNS) / row[CORES]
                value = filled / np.ceil(filled)
            x = np.log2(value)
            count = int(row[start + 2 + axis])
            nodes = start + 4 + axis * PAIR_NODES
            beyond = max(row[nodes] - x, x - row[nodes + count - 1])
            inside *= min(1.0, max(0.0, 1.0 - beyond))
            low = 0
            while low < count - 2 and x >= row[nodes + low + 1]:
                low += 1
            gap = row[nodes + low + 1] - row[nodes + low]
            shares[axis] = min(1.0, max(0.0, (x - row[nodes + low]) / gap))
            lows[axis] = low
        wide = int(row[start + 3])
        place = start + 4 + 2 * PAIR_NODES + lows[0] * wide + lows[1]
        near = row[place] + shares[1] * (row[place + 1] - row[place])
        far = row[place + wide] + shares[1] * (row[place + wide + 1] - row[place + wide])
        total += inside * (near + shares[0] * (far - near))
    return total


@kernel
def _span(row: float, slope: float, low: float, high: float, top: float) -> float:
    """Key blocks that row ``row`` of query blocks spans."""
    shift = slope * row
    return min(top, max(0.0, shift + high)) - min(top, max(0.0, shift + low))


@kernel
def _mask(
    seq_q: float, seq_kv: float, window: float, causal: bool, block: float, slope: float = 1.0
) -> tuple[float, float]:
    """Block pairs of one head under the mask, and those of its longest row of blocks.

    Query i sees key j when j <= i + o (causal) and |i + o - j| < window (window > 0), where
    o = seq_kv - seq_q aligns the last query with the last key. Blocks have ``block`` keys and
    ``slope`` times as many queries (a whole number). Row r of blocks spans key blocks
    [max(0, slope r + low), min(nk, slope r + high)): a trapezium, summed by its three straight
    pieces (and not as a difference of two sums, which would cancel for long sequences).
    """
    nq = np.ceil(seq_q / (block * slope))
    nk = np.ceil(seq_kv / block)
    offset = seq_kv - seq_q
    high = nk
    if causal:
        high = slope + np.ceil(offset / block)
    elif window > 0.0:
        high = slope + np.ceil((offset + window - 1.0) / block)
    low = -nq * slope
    if window > 0.0:
        low = np.floor((offset - window + 1.0) / block)
    top = np.ceil((nk - high) / slope)
    bottom = np.ceil(-low / slope)
    begin = min(nq, max(0.0, np.ceil(-high / slope)))
    rise = min(nq, max(begin, min(top, bottom)))
    fall = min(nq, max(rise, max(top, bottom)))
    end = min(nq, max(fall, np.ceil((nk - low) / slope)))
    pairs = 0.0
    if rise > begin:
        ends = _span(begin, slope, low, high, nk) + _span(rise - 1.0, slope, low, high, nk)
        pairs += 0.5 * (rise - begin) * ends
    if fall > rise:
        pairs += (fall - rise) * _span(rise, slope, low, high, nk)
    if end > fall:
        ends = _span(fall, slope, low, high, nk) + _span(end - 1.0, slope, low, high, nk)
        pairs += 0.5 * (end - fall) * ends
    longest = _span(min(nq - 1.0, rise), slope, low, high, nk)
    if rise > 0.0:
        longest = max(longest, _span(rise - 1.0, slope, low, high, nk))
    return pairs, longest


@kernel
def _attention(
    batch: float,
    heads: float,
    kv_heads: float,
    seq_q: float,
    seq_kv: float,
    head_dim: float,
    v_head_dim: float,
    window: float,
    causal: bool,
    backward: bool,
    extra_bytes: float,
    rate: float,
    row: NDArray[np.float64],
) -> float:
    """Fused attention on 128x128 blocks, forward or backward."""
    cores = row[CORES]
    element = row[ELEMENT_BYTES]
    inner = head_dim
    outer = v_head_dim
    if row[SYSTOLIC] > 0.0:
        inner = _up(inner, row[SYSTOLIC])
        outer = _up(outer, row[SYSTOLIC])
    # Forward: Q K^T and P V. Backward: Q K^T again, dO V^T, P^T dO, dS K, dS^T Q.
    depth = 3.0 * inner + 2.0 * outer if backward else inner + outer
    products = 2.5 if backward else 1.0
    passes = 2.0 if backward else 1.0
    flops = row[PEAK] * min(1.0, row[ATTENTION_COMPUTE] * rate)
    pairs, longest = _mask(seq_q, seq_kv, window, causal, BLOCK)
    if seq_q < BLOCK:
        packed = kv_heads * np.ceil(seq_q * heads / (BLOCK * kv_heads))
        blocks = batch * min(heads, packed)
        pairs *= blocks
    else:
        blocks = batch * heads * np.ceil(seq_q / BLOCK)
        pairs *= batch * heads
    softmax_s = products * row[ATTENTION_SOFTMAX] / rate
    pair_s = BLOCK * BLOCK * (2.0 * depth * cores / flops + softmax_s)
    block_s = row[ATTENTION_BLOCK]
    one = longest * pair_s + block_s
    compute = max((pairs * pair_s + blocks * block_s) / cores, one)
    compute += row[ATTENTION_TAIL] * one * min(1.0, blocks / cores)
    compute = _throttled(compute, row[SUSTAINED], row[SUSTAINED_AFTER])
    wide = head_dim + v_head_dim
    moved = element * kv_heads * seq_kv * wide
    moved += heads * seq_q * (element * head_dim + max(element, 2.0) * v_head_dim)
    moved = passes * batch * moved + extra_bytes
    memory = moved / (row[ATTENTION_MEMORY] * row[HBM])
    time: float = row[ATTENTION_LAUNCH] + _join(compute, memory, row[ATTENTION_SHARPNESS])
    return time


@kernel
def _fused(
    m: float,
    n: float,
    k: float,
    batch: float,
    staged: float,
    moved: float,
    rate: float,
    row: NDArray[np.float64],
) -> float:
    """Products of operands on the chip, at the rate of fused attention, beside HBM traffic.

    Every number of the output passes ``staged`` times between the chip's memory and registers, at
    the rate at which operands of matrix products arrive.
    """
    on_chip = row[ELEMENT_BYTES] * m * n * batch * staged / (row[GEMM_L2] * row[PEAK])
    if row[SYSTOLIC] > 0.0:
        n = _up(n, row[SYSTOLIC])
        k = _up(k, row[SYSTOLIC])
    flops = row[PEAK] * min(1.0, row[ATTENTION_COMPUTE] * rate)
    compute = _throttled(2.0 * m * n * k * batch / flops, row[SUSTAINED], row[SUSTAINED_AFTER])
    compute += on_chip
    memory = moved / (row[ELEMENTWISE_MEMORY] * row[HBM])
    time: float = row[ATTENTION_LAUNCH] + _join(compute, memory, row[ATTENTION_SHARPNESS])
    return time


@kernel
def prefill(
    shapes: NDArray[np.float64],
    parameters: NDArray[np.float64],
    out: NDArray[np.float64],
) -> None:
    """Write the seconds of causal attention over prompts, the write to the KV cache included.

    ``shapes`` are valid (``prefill_problem``) rows of batch, seq_len, heads, kv_heads, head_dim,
    window; ``parameters`` those that ``simulator/roofline/prefill.py`` names, in its order.
    """
    peak, hbm, cores, element, kv_bytes = parameters[:5]
    launch_s, compute, softmax_s, block_s, lone, tail, memory = parameters[5:12]
    sharpness, write_memory, query_block, key_block, packed = parameters[12:17]
    for i in range(shapes.shape[0]):
        batch, seq, heads, kv_heads, head_dim, window = shapes[i]
        pairs, longest = _mask(seq, seq, window, True, key_block, query_block / key_block)
        if packed > 0.0:
            blocks = batch * kv_heads * np.ceil(seq * heads / (kv_heads * query_block))
            pairs *= blocks / np.ceil(seq / query_block)
        else:
            blocks = batch * heads * np.ceil(seq / query_block)
            pairs *= batch * heads
        pair_s = query_block * key_block * (4.0 * head_dim * cores / (compute * peak) + softmax_s)
        one = lone * longest * pair_s + block_s
        busy = max((pairs * pair_s + blocks * block_s) / cores, one)
        busy += tail * one * min(1.0, blocks / cores)
        tokens = batch * seq * head_dim
        read_s = tokens * (heads * (element + 2.0) + 2.0 * kv_heads * element) / (memory * hbm)
        write_s = tokens * kv_heads * (4.0 + 2.0 * kv_bytes) / (write_memory * hbm)
        out[i] = launch_s + _join(busy, read_s, sharpness) + write_s


@kernel
def prefill_bound(
    shapes: NDArray[np.float64],
    parameters: NDArray[np.float64],
    l2_bytes: float,
    out: NDArray[np.float64],
) -> None:
    """Write FLOPs over peak or bytes beyond the L2 over HBM bandwidth, whichever takes longer."""
    peak, hbm, _, element, kv_bytes = parameters[:5]
    for i in range(shapes.shape[0]):
        batch, seq, heads, kv_heads, head_dim, window = shapes[i]
        scores = _mask(seq, seq, window, True, 1.0)[0]
        tokens = batch * seq * head_dim
        moved = tokens * (heads * (element + 2.0) + 2.0 * kv_heads * kv_bytes)
        flop_s = 4.0 * batch * heads * scores * head_dim / peak
        out[i] = max(flop_s, max(0.0, moved - l2_bytes) / hbm)


@kernel
def prefill_problem(shapes: NDArray[np.float64]) -> int:
    """Return the first prompt that cannot be priced, or -1."""
    for i in range(shapes.shape[0]):
        shape = shapes[i]
        for j in range(6):
            least = 0.0 if j == 5 else 1.0
            if not least <= shape[j] < np.inf:
                return i
        if shape[2] % shape[3] != 0.0:
            return i
    return -1


@kernel
def price(
    kind: NDArray[np.int8],
    dtype: NDArray[np.int8],
    dims: NDArray[np.int64],
    extra: NDArray[np.float64],
    device: NDArray[np.float64],
    out: NDArray[np.float64],
) -> None:
    """Write the seconds of every operator to ``out``; inputs are valid (see ``problem``)."""
    for i in range(kind.shape[0]):
        row = device[dtype[i]]
        d = dims[i]
        moved = extra[i, BYTES_MOVED]
        rate = extra[i, RATE]
        if kind[i] == MEMORY:
            out[i] = row[ELEMENTWISE_LAUNCH] + moved / (row[ELEMENTWISE_MEMORY] * row[HBM])
        elif kind[i] in (GEMM, GROUPED_GEMM):
            grouped = kind[i] == GROUPED_GEMM
            out[i] = _gemm(
                float(d[0]),
                float(d[1]),
                float(d[2]),
                1.0 if grouped else float(d[3]),
                float(d[3]) if grouped else 0.0,
                extra[i, SKEW],
                d[4] == 1,
                moved,
                rate,
                row,
            )
            if device.shape[1] > PARAMETERS:
                if not grouped and d[3] == 1 and row[PARAMETERS] > 0.0:
                    shift = _grid(row, PARAMETERS, float(d[0]), float(d[1]), float(d[2]))
                    shift += _pairs(row, PARAMETERS + GRID, float(d[0]), float(d[1]), float(d[2]))
                    out[i] *= np.exp(shift)
                flop_s, byte_s = _matrix_bound(d, grouped, extra[i, SKEW], moved, row)
                out[i] = max(out[i], flop_s, byte_s)
        elif kind[i] == FUSED:
            out[i] = _fused(
                float(d[0]),
                float(d[1]),
                float(d[2]),
                float(d[3]),
                float(d[4]),
                moved,
                rate,
                row,
            )
        else:
            out[i] = _attention(
                float(d[0]),
                float(d[1]),
                float(d[2]),
                float(d[3]),
                float(d[4]),
                float(d[5]),
                float(d[6]),
                float(d[7]),
                d[8] == 1,
                kind[i] == ATTENTION_BACKWARD,
                moved,
                rate,
                row,
            )


@kernel
def bound(
    kind: NDArray[np.int8],
    dtype: NDArray[np.int8],
    dims: NDArray[np.int64],
    extra: NDArray[np.float64],
    device: NDArray[np.float64],
    flop_s: NDArray[np.float64],
    byte_s: NDArray[np.float64],
) -> None:
    """Write FLOPs over the datasheet peak and bytes over the datasheet bandwidth."""
    for i in range(kind.shape[0]):
        row = device[dtype[i]]
        d = dims[i]
        flop_s[i] = 0.0
        byte_s[i] = extra[i, BYTES_MOVED] / row[HBM]
        if kind[i] in (GEMM, GROUPED_GEMM):
            grouped = kind[i] == GROUPED_GEMM
            flop_s[i], byte_s[i] = _matrix_bound(
                d, grouped, extra[i, SKEW], extra[i, BYTES_MOVED], row
            )
        elif kind[i] == FUSED:
            flop_s[i] = 2.0 * float(d[0]) * float(d[1]) * float(d[2]) * float(d[3]) / row[PEAK]
        elif kind[i] != MEMORY:
            element = row[ELEMENT_BYTES]
            written = max(element, 2.0)
            a = float(d[0])
            b = float(d[1])
            c = float(d[2])
            seq_q = float(d[3])
            seq_kv = float(d[4])
            qk = float(d[5])
            v = float(d[6])
            scores = _mask(seq_q, seq_kv, float(d[7]), d[8] == 1, 1.0)[0]
            passes = 2.0 if kind[i] == ATTENTION_BACKWARD else 1.0
            depth = 3.0 * qk + 2.0 * v if kind[i] == ATTENTION_BACKWARD else qk + v
            flop_s[i] = 2.0 * a * b * scores * depth / row[PEAK]
            once = element * c * seq_kv * (qk + v) + b * seq_q * (element * qk + written * v)
            byte_s[i] = (extra[i, BYTES_MOVED] + passes * a * once) / row[HBM]


@kernel
def problem(
    kind: NDArray[np.int8],
    dtype: NDArray[np.int8],
    dims: NDArray[np.int64],
    extra: NDArray[np.float64],
    device: NDArray[np.float64],
) -> int:
    """Return the first row that cannot be priced, or -1."""
    for i in range(kind.shape[0]):
        op = kind[i]
        if op < GEMM or op > FUSED or dtype[i] < 0 or dtype[i] >= device.shape[0]:
            return i
        if not 0.0 <= extra[i, BYTES_MOVED] < np.inf:
            return i
        if op == MEMORY:
            continue
        if not device[dtype[i], PEAK] > 0.0 or not 0.0 < extra[i, RATE] < np.inf:
            return i
        d = dims[i]
        needed = 4 if op in (GEMM, GROUPED_GEMM, FUSED) else 7
        for j in range(needed):
            if d[j] < 1:
                return i
        if needed == 4:
            if d[4] < 0 or (op != FUSED and d[4] > 1):
                return i
            if op == GROUPED_GEMM and not 1.0 <= extra[i, SKEW] < np.inf:
                return i
        elif d[7] < 0 or d[8] < 0 or d[8] > 1 or d[1] % d[2] != 0:
            return i
    return -1
