"""Compiled interpolation in a coarse grid of any number of axes."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ridgeline.simulator.jit import kernel


@kernel
def corners(
    point: NDArray[np.float64],
    nodes: NDArray[np.float64],
    counts: NDArray[np.int64],
    places: NDArray[np.int64],
    shares: NDArray[np.float64],
) -> float:
    """Write the 2^D corners around ``point`` and their shares; return how much of it counts.

    ``nodes`` holds the axes one after the other. Shares add up to 1; the returned factor falls
    from 1 to 0 over one unit outside the nodes of each axis.
    """
    inside = 1.0
    places[0] = 0
    shares[0] = 1.0
    filled = 1
    start = 0
    for d in range(counts.shape[0]):
        count = counts[d]
        x = point[d]
        first = nodes[start]
        last = nodes[start + count - 1]
        beyond = max(first - x, x - last)
        if beyond > 0.0:
            inside *= max(0.0, 1.0 - beyond)
        low = 0
        upper = 0.0
        if count > 1:
            while low < count - 2 and x >= nodes[start + low + 1]:
                low += 1
            gap = nodes[start + low + 1] - nodes[start + low]
            upper = min(1.0, max(0.0, (x - nodes[start + low]) / gap))
        for c in range(filled):
            base = places[c] * count + low
            share = shares[c]
            places[c] = base
            shares[c] = share * (1.0 - upper)
            places[c + filled] = base + (1 if count > 1 else 0)
            shares[c + filled] = share * upper
        filled *= 2
        start += count
    return inside


@kernel
def interpolate(
    coords: NDArray[np.float64],
    nodes: NDArray[np.float64],
    counts: NDArray[np.int64],
    values: NDArray[np.float64],
    out: NDArray[np.float64],
) -> None:
    """Write the interpolated value of every point of ``coords[N, D]``."""
    size = 2 ** counts.shape[0]
    places = np.empty(size, np.int64)
    shares = np.empty(size)
    for i in range(coords.shape[0]):
        inside = corners(coords[i], nodes, counts, places, shares)
        total = 0.0
        for c in range(size):
            total += shares[c] * values[places[c]]
        out[i] = inside * total


@kernel
def design(
    coords: NDArray[np.float64],
    nodes: NDArray[np.float64],
    counts: NDArray[np.int64],
    out: NDArray[np.float64],
) -> None:
    """Add to ``out[N, values]`` how much of each node every point reads."""
    size = 2 ** counts.shape[0]
    places = np.empty(size, np.int64)
    shares = np.empty(size)
    for i in range(coords.shape[0]):
        inside = corners(coords[i], nodes, counts, places, shares)
        for c in range(size):
            out[i, places[c]] += inside * shares[c]
