"""Compiled price of a fused mixture-of-experts layer on one rank.

The constants repeat ``layout`` (a test says so): Numba's cache hashes only this file, so that it
stands alone. Formulas and sources: ``docs/kernels-moe.md``.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from ridgeline.simulator.jit import kernel

(TOKENS, HIDDEN, FFN, TOP_K, EXPERTS, TP, EP, EXPONENT) = range(8)
(PEAK, HBM, CORES, WEIGHT_BYTES, INPUT_BYTES, PROJECTIONS) = range(6)
(
    LAUNCH,
    COMPUTE,
    MEMORY,
    CORE_RATE,
    TILE,
    STEP,
    SHARPNESS,
    ELEMENTWISE,
    EXPERT,
    REMOTE,
    ROUTE,
    FLOOR_ROWS,
) = range(12)

Floats = NDArray[np.float64]

TILE_ROWS = (16.0, 32.0, 64.0, 128.0, 256.0)
TILE_COLUMNS = 128.0
K_STEP = 64.0
BINS = 16
# half the sampled experts of the truncated law draw between these when pairs are scarce
SCARCE_LOW, SCARCE_HIGH = 0.01, 2.0
HIGHEST_SHARE = 0.8


@kernel
def _normal_quantile(p: float) -> float:
    """Abramowitz and Stegun 26.2.23, absolute error under 4.5e-4."""
    tail = min(p, 1.0 - p)
    t = math.sqrt(-2.0 * math.log(tail))
    top = 2.515517 + t * (0.802853 + t * 0.010328)
    bottom = 1.0 + t * (1.432788 + t * (0.189269 + t * 0.001308))
    z = t - top / bottom
    return z if p > 0.5 else -z


@kernel
def _off_poles(exponent: float) -> float:
    """Keep the closed forms away from exponents 1, 2 and 3, where their limits are logarithms."""
    for pole in (1.0, 2.0, 3.0):
        if abs(exponent - pole) < 1e-6:
            return pole + 1e-6
    return exponent


@kernel
def _moment(exponent: float, low: float, high: float, order: float) -> float:
    """Mean of x^order under p(x) ~ x^-exponent on [low, high]."""
    a = 1.0 - exponent
    b = a + order
    moment: float = a / b * (high**b - low**b) / (high**a - low**a)
    return moment


@kernel
def loads(
    tokens: float,
    top_k: float,
    experts: float,
    ep: float,
    exponent: float,
    counts: Floats,
    rows: Floats,
) -> int:
    """Fill experts with work on the busiest rank and their rows, by bins; return the bins used."""
    here = max(1.0, experts / ep)
    total = tokens * top_k
    pairs = min(max(total / ep, 1.0), max(tokens * here, 1.0))
    if exponent <= 0.0:
        active = min(here, pairs)
        counts[0] = active
        rows[0] = pairs / active
        return 1
    alpha = _off_poles(exponent)
    low, high = SCARCE_LOW, SCARCE_HIGH
    if total > experts:
        low, high = 1.0, max(1.0 + 1e-3, HIGHEST_SHARE * tokens)
    mean = _moment(alpha, low, high, 1.0)
    if ep > 1.0:
        spread = _moment(alpha, low, high, 2.0) / (mean * mean) - 1.0
        shape = here / (max(spread, 1e-9) * (1.0 - 1.0 / ep))
        z = _normal_quantile((ep - 0.375) / (ep + 0.25))
        root = max(0.0, 1.0 - 1.0 / (9.0 * shape) + z / (3.0 * math.sqrt(shape)))
        busiest = min(max(1.0, root * root * root), high / mean)
        pairs = min(pairs * busiest, total, max(tokens * here, 1.0))
    bins = int(min(float(BINS), math.ceil(here)))
    each = here / bins
    a = 1.0 - alpha
    bottom = low**a
    width = high**a - bottom
    drawn = 0.0
    for i in range(bins):
        counts[i] = each
        rows[i] = (bottom + width * (i + 0.5) / bins) ** (1.0 / a)
        drawn += each * rows[i]
    # no expert sees a token twice: what is over the cap goes to the others
    left = pairs
    for i in range(bins - 1, -1, -1):
        share = left / drawn
        drawn -= each * rows[i]
        rows[i] = min(rows[i] * share, max(tokens, 1.0))
        left -= each * rows[i]
        drawn = max(drawn, 1e-30)
    for i in range(bins):
        if rows[i] < 1.0:
            counts[i] = each * rows[i]
            rows[i] = 1.0
    return bins


@kernel
def _grouped(
    n: float,
    k: float,
    bins: int,
    counts: Floats,
    rows: Floats,
    device: Floats,
    fit: Floats,
) -> float:
    """Least time over tile heights of one grouped GEMM, without HBM traffic."""
    cores = device[CORES]
    flops = device[PEAK] * fit[COMPUTE] / cores
    rate = fit[CORE_RATE]
    columns = math.ceil(n / TILE_COLUMNS)
    best = np.inf
    for height in TILE_ROWS:
        tiles = 0.0
        tallest = 0.0
        for i in range(bins):
            tiles += counts[i] * math.ceil(rows[i] / height)
            tallest = max(tallest, min(rows[i], height))
        tiles = max(1.0, tiles) * columns
        multiply = 2.0 * max(height, fit[FLOOR_ROWS]) * TILE_COLUMNS * k / flops
        load = (
            k * (tallest * device[INPUT_BYTES] + min(n, TILE_COLUMNS) * device[WEIGHT_BYTES]) / rate
        )
        steps = k / K_STEP * fit[STEP]
        one = max(multiply, load, steps) + fit[TILE]
        share = tiles / cores
        best = min(best, max(share, 0.5 * (share + math.ceil(share))) * one)
    return best


@kernel
def _layer(row: Floats, device: Floats, fit: Floats, counts: Floats, rows: Floats) -> float:
    tokens = row[TOKENS]
    hidden = row[HIDDEN]
    inner = max(1.0, row[FFN] / row[TP])
    here = max(1.0, row[EXPERTS] / row[EP])
    bins = loads(tokens, row[TOP_K], row[EXPERTS], row[EP], row[EXPONENT], counts, rows)
    active = 0.0
    pairs = 0.0
    for i in range(bins):
        active += counts[i]
        pairs += counts[i] * rows[i]
    wide = (device[PROJECTIONS] - 1.0) * inner
    compute = _grouped(wide, hidden, bins, counts, rows, device, fit)
    compute += _grouped(hidden, inner, bins, counts, rows, device, fit)
    weights = active * device[PROJECTIONS] * hidden * inner * device[WEIGHT_BYTES]
    memory = weights / (fit[MEMORY] * device[HBM])
    routed = tokens * row[TOP_K]
    passing_pairs = pairs + fit[REMOTE] * (routed - pairs)
    moved = tokens * hidden * 4.0 + passing_pairs * (
        hidden * (2.0 + 2.0 * device[INPUT_BYTES]) + wide * 4.0 + inner * 2.0 * device[INPUT_BYTES]
    )
    passing = moved / (fit[ELEMENTWISE] * device[HBM])
    high = max(compute, memory)
    low = min(compute, memory)
    p = fit[SHARPNESS]
    joined: float = high * (1.0 + (low / high) ** p) ** (1.0 / p)
    fixed = fit[LAUNCH] + fit[EXPERT] * here + fit[ROUTE] * math.log2(1.0 + routed)
    seconds: float = fixed + joined + passing
    return seconds


@kernel
def price(table: Floats, device: Floats, fit: Floats, seconds: Floats) -> None:
    """Fill ``seconds`` float64[N] from ``table`` float64[N, 8]; see ``layer.predict_moe``."""
    counts = np.empty(BINS)
    rows = np.empty(BINS)
    for i in range(table.shape[0]):
        seconds[i] = _layer(table[i], device, fit, counts, rows)
