"""The slow obvious twin of ``simulator/peers/averaging.py``."""

from __future__ import annotations

from collections.abc import Sequence


def best_time(rates: Sequence[float]) -> float:
    """Return the least T / V by bisection: the parts that a time allows must add up to one.

    A peer may add up w_i with (1 + (n - 2) w_i) <= T b_i, and every one moves the whole vector.
    """
    n = len(rates)
    low, high = 1.0 / min(rates), 2.0 / min(rates)
    for _ in range(200):
        middle = (low + high) / 2
        parts = sum(max(0.0, middle * rate - 1.0) / (n - 2) for rate in rates)
        low, high = (low, middle) if parts >= 1.0 else (middle, high)
    return high
