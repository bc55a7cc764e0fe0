"""The slow obvious twin of ``simulator/mixed/split.py``: try everything."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product
from math import inf


def best_shares(
    units: int, ranks: Sequence[int], seconds: Callable[[int, int], float]
) -> tuple[float, tuple[int, ...]]:
    """Return the least time of the slowest kind, and the first split that has it."""
    best: tuple[float, tuple[int, ...]] = (inf, ())
    for shares in product(range(1, units + 1), repeat=len(ranks)):
        if sum(share * count for share, count in zip(shares, ranks, strict=True)) == units:
            slowest = max(seconds(kind, share) for kind, share in enumerate(shares))
            if slowest < best[0]:
                best = (slowest, shares)
    return best


def layer_splits(layers: int, stages: int) -> list[tuple[int, ...]]:
    """Return every way to cut ``layers`` into ``stages`` that all hold one at least."""
    cuts = product(range(1, layers + 1), repeat=stages)
    return [cut for cut in cuts if sum(cut) == layers]
