"""The slow obvious twin of the choice of what to repeat: every choice of every layer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product
from math import inf

from ridgeline.simulator.knapsack import Group


def least_seconds(groups: Sequence[Group], room: Callable[[float], float]) -> float:
    """Return the least seconds of all choices that have room, infinite where none has."""
    layers = [group.options for group in groups for _ in range(group.count)]
    best = inf
    for choice in product(*layers):
        if sum(option.stored for option in choice) <= room(max(o.recreated for o in choice)):
            best = min(best, sum(option.seconds for option in choice))
    return best
