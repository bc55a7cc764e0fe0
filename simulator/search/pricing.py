"""Prices of candidates: the exact step time of regular plans in closed form, and lower bounds."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ridgeline.simulator.search.space import Candidates, Space, plan_at
from ridgeline.simulator.stacks import load_stack
from ridgeline.simulator.step import simulate_step

Floats = NDArray[np.float64]


class Pricer:
    """Prices the candidates of one space; keeps what it has priced for the next block."""

    def __init__(self, space: Space) -> None:
        self.space = space
        self._stack = load_stack(space.stack)

    def step_seconds(self, candidates: Candidates) -> Floats:
        """Return the step time of every candidate, float64[n] in seconds; NaN: play it instead."""
        return np.array(
            [
                simulate_step(plan_at(self.space, candidates, row), self._stack).seconds
                for row in range(len(candidates))
            ],
            dtype=np.float64,
        )

    def lower_bound(self, candidates: Candidates) -> Floats:
        """Return seconds that no step of a candidate is under, float64[n]; parts are priced."""
        return np.zeros(len(candidates))

    def roofline_bound(self, candidates: Candidates) -> Floats:
        """Return a weaker bound from FLOPs and bytes alone, float64[n] in seconds."""
        return np.zeros(len(candidates))
