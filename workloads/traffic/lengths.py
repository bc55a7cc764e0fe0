"""Lengths of prompts and outputs: fixed, uniform around a value, or log-normal."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ridgeline.errors import InputError, nearest

KINDS = ("fixed", "uniform", "log-normal")
MAX_TOKENS = 100_000_000
"""Of one prompt; beyond it a number is taken for a slip."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lengths:
    """Distribution of a number of tokens."""

    mean: float
    """Of fixed and log-normal lengths; of uniform ones the longest, as benchmark clients say it."""
    kind: str = "fixed"
    """fixed; uniform over whole numbers from ``low`` to 1 times ``mean``; log-normal."""
    low: float = 1.0
    """Shortest over longest, of uniform lengths."""
    cv: float = 1.0
    """Standard deviation over mean, of log-normal lengths."""
    most: int = 0
    """Longer draws are cut to this; 0 is without limit."""

    def problems(self, name: str) -> list[str]:
        """Return one line for each value that cannot be, each starting with ``name``."""
        out = []
        if self.kind not in KINDS:
            out.append(f"{name}.kind = {self.kind!r}: is not known; {nearest(self.kind, KINDS)}")
        if not (math.isfinite(self.mean) and 0.0 <= self.mean <= MAX_TOKENS):
            out.append(f"{name}.mean = {self.mean}: must be from 0 to {MAX_TOKENS:,} tokens")
        if not (math.isfinite(self.low) and 0.0 < self.low <= 1.0):
            out.append(f"{name}.low = {self.low}: must be above 0 and at most 1")
        if not (math.isfinite(self.cv) and 0.0 <= self.cv <= 100.0):
            out.append(f"{name}.cv = {self.cv}: must be from 0 to 100")
        if self.most < 0:
            out.append(f"{name}.most = {self.most}: must be at least 0")
        return out

    def draw(self, count: int, rng: np.random.Generator, least: int = 1) -> NDArray[np.int64]:
        """Draw ``count`` lengths of at least ``least`` tokens.

        Raises
        ------
        InputError
            The distribution cannot be.
        """
        problems = self.problems("lengths")
        if problems:
            raise InputError(problems)
        if self.kind == "uniform":
            longest = max(least, round(self.mean))
            shortest = min(longest, max(least, round(self.mean * self.low)))
            drawn = rng.integers(shortest, longest + 1, size=count)
        elif self.kind == "log-normal" and self.mean > 0.0:
            sigma = math.sqrt(math.log1p(self.cv**2))
            drawn = np.rint(rng.lognormal(math.log(self.mean) - sigma**2 / 2.0, sigma, count))
        else:
            drawn = np.full(count, round(self.mean))
        top = self.most or MAX_TOKENS
        clipped: NDArray[np.int64] = np.clip(drawn, least, max(least, top)).astype(np.int64)
        return clipped
