"""Slow twin of the expert layer's price: one obvious step after another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import log2
from statistics import NormalDist


def law_moment(exponent: float, low: float, high: float, order: int, steps: int = 20000) -> float:
    """Mean of x^order under p(x) ~ x^-exponent on [low, high], summed in log x."""
    ratio = (high / low) ** (1.0 / steps)
    total = weight = 0.0
    x = low * ratio**0.5
    for _ in range(steps):
        density = x ** (1.0 - exponent)
        total += density * x**order
        weight += density
        x *= ratio
    return total / weight


def law_quantile(exponent: float, low: float, high: float, share: float) -> float:
    a = 1.0 - exponent
    return float((low**a + (high**a - low**a) * share) ** (1.0 / a))


def loads(
    tokens: float, top_k: float, experts: float, ep: float, exponent: float
) -> list[tuple[float, float]]:
    """(experts, rows of each) on the busiest rank."""
    here = max(1.0, experts / ep)
    total = tokens * top_k
    pairs = min(max(total / ep, 1.0), max(tokens * here, 1.0))
    if exponent == 0.0:
        active = min(here, pairs)
        return [(active, pairs / active)]
    low, high = (1.0, max(1.001, 0.8 * tokens)) if total > experts else (0.01, 2.0)
    mean = law_moment(exponent, low, high, 1)
    if ep > 1.0:
        spread = law_moment(exponent, low, high, 2) / mean**2 - 1.0
        shape = here / (max(spread, 1e-9) * (1.0 - 1.0 / ep))
        z = NormalDist().inv_cdf((ep - 0.375) / (ep + 0.25))
        root = max(0.0, 1.0 - 1.0 / (9.0 * shape) + z / (3.0 * shape**0.5))
        pairs = min(pairs * min(max(1.0, root**3), high / mean), total, max(tokens * here, 1.0))
    bins = int(min(16, -(-here // 1)))
    drawn = [law_quantile(exponent, low, high, (i + 0.5) / bins) for i in range(bins)]
    rows = [0.0] * bins
    left = pairs
    for i in reversed(range(bins)):
        others = sum(drawn[: i + 1]) * here / bins
        rows[i] = min(drawn[i] * left / others, max(tokens, 1.0))
        left -= rows[i] * here / bins
    return [(here / bins * min(1.0, r), max(1.0, r)) for r in rows]


def grouped_seconds(
    n: float,
    k: float,
    groups: Sequence[tuple[float, float]],
    device: Mapping[str, float],
    fit: Mapping[str, float],
) -> float:
    times = []
    for height in (16.0, 32.0, 64.0, 128.0, 256.0):
        tiles = max(1.0, sum(count * -(-rows // height) for count, rows in groups)) * -(-n // 128.0)
        tallest = max(min(rows, height) for _, rows in groups)
        flops = device["peak"] * fit["compute"] / device["cores"]
        one = fit["tile"] + max(
            2.0 * max(height, fit["floor_rows"]) * 128.0 * k / flops,
            k * (tallest * device["input"] + min(n, 128.0) * device["weight"]) / fit["core_rate"],
            k / 64.0 * fit["step"],
        )
        waves = tiles / device["cores"]
        times.append((waves + -(-waves // 1)) / 2.0 * one)
    return min(times)


def layer_seconds(
    shape: Sequence[float], device: Mapping[str, float], fit: Mapping[str, float]
) -> float:
    tokens, hidden, ffn, top_k, experts, tp, ep, exponent = shape
    inner = max(1.0, ffn / tp)
    groups = loads(tokens, top_k, experts, ep, exponent)
    active = sum(count for count, _ in groups)
    pairs = sum(count * rows for count, rows in groups)
    wide = inner * (device["projections"] - 1.0)
    compute = grouped_seconds(wide, hidden, groups, device, fit)
    compute += grouped_seconds(hidden, inner, groups, device, fit)
    weights = active * hidden * inner * device["projections"] * device["weight"]
    memory = weights / (device["hbm"] * fit["memory"])
    walked = pairs + fit["remote"] * (tokens * top_k - pairs)
    moved = 4.0 * tokens * hidden + walked * (
        hidden * (2.0 + 2.0 * device["input"]) + 4.0 * wide + 2.0 * device["input"] * inner
    )
    joined = (compute ** fit["sharpness"] + memory ** fit["sharpness"]) ** (1 / fit["sharpness"])
    fixed = fit["launch"] + fit["expert"] * max(1.0, experts / ep)
    fixed += fit["route"] * log2(1.0 + tokens * top_k)
    return fixed + joined + moved / (device["hbm"] * fit["elementwise"])
