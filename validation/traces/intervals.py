"""Unions of intervals: how long anything of a set of events was running."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def merged(start: Floats, end: Floats) -> tuple[Floats, Floats]:
    """Return the union of intervals as disjoint ones, ascending."""
    if not len(start):
        return np.empty(0), np.empty(0)
    order = np.argsort(start, kind="stable")
    start, reach = start[order], np.maximum.accumulate(end[order])
    opens = np.concatenate(([True], start[1:] > reach[:-1]))
    closes = np.concatenate((opens[1:], [True]))
    return start[opens], reach[closes]


def covered_s(start: Floats, end: Floats) -> float:
    """Return the length of the union, s."""
    first, last = merged(start, end)
    return float((last - first).sum())


def exposed_s(start: Floats, end: Floats, over_start: Floats, over_end: Floats) -> float:
    """Return how much of one union lies outside another: |A or B| - |B|, s."""
    both = covered_s(np.concatenate((start, over_start)), np.concatenate((end, over_end)))
    return both - covered_s(over_start, over_end)
