"""Slow, obvious twin of the corrections' interpolation: one axis after the other, recursively."""

from __future__ import annotations

from math import ceil, log2, prod


def correction(point, axes, values):
    """``values`` at ``point`` (log2), multilinear inside, fading over one octave outside."""
    inside = prod(
        max(0.0, 1.0 - max(nodes[0] - x, x - nodes[-1], 0.0))
        for x, (_, nodes) in zip(point, axes, strict=True)
    )
    return inside * _blend(point, axes, list(values))


def _blend(point, axes, values):
    if not axes:
        return values[0]
    nodes = axes[0][1]
    size = len(values) // len(nodes)
    x = min(max(point[0], nodes[0]), nodes[-1])
    for i, node in enumerate(nodes):
        if x <= node:
            high = _blend(point[1:], axes[1:], values[i * size : (i + 1) * size])
            if i == 0:
                return high
            low = _blend(point[1:], axes[1:], values[(i - 1) * size : i * size])
            share = (x - nodes[i - 1]) / (node - nodes[i - 1])
            return low + share * (high - low)
    raise AssertionError(point)


def gemm_correction(m, n, k, cores, grid):
    """The grids of a GEMM correction added up, at one shape."""
    filled = ceil(m / 128) * ceil(n / 256) / cores
    at = {
        "m": m,
        "n": n,
        "k": k,
        "tiles": ceil(m / 64) * ceil(n / 64) / cores,
        "last_rows": m % 128 or 128,
        "fill": filled / ceil(filled),
    }
    return sum(
        correction([log2(at[name]) for name, _ in one.axes], one.axes, one.values)
        for one in (grid, *grid.more)
    )
