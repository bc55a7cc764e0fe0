"""What a layer is made of: a mixer of tokens, a feed-forward, and the tokens that it takes."""

from __future__ import annotations

from dataclasses import dataclass
from math import isqrt

MIXERS = ("attention", "linear", "convolution", "none")
FEED_FORWARDS = ("mlp", "moe", "memory", "none")
SAME_MEMORY = "same memory"
"""Feed-forward of a memory layer that looks up in the table of an earlier one."""


@dataclass(frozen=True, slots=True, order=True)
class Form:
    """The form of a layer; layers of one form and window are alike in every count."""

    mixer: str = "attention"
    """One of ``MIXERS``."""
    feed_forward: str = "mlp"
    """One of ``FEED_FORWARDS``, or ``SAME_MEMORY``."""
    capacity: float = 1.0
    """Share of the tokens that the layer takes (mixture of depths, arXiv:2404.02258)."""
    repeats: bool = False
    """Runs with the weights of an earlier layer (``Recursion``)."""

    @property
    def is_moe(self) -> bool:
        """Whether it routes to experts."""
        return self.feed_forward == "moe"

    @property
    def is_linear(self) -> bool:
        """Whether its mixer is linear attention."""
        return self.mixer == "linear"

    @property
    def is_memory(self) -> bool:
        """Whether its feed-forward is a memory."""
        return self.feed_forward in ("memory", SAME_MEMORY)

    @property
    def has_mixer(self) -> bool:
        """Whether it mixes tokens at all."""
        return self.mixer != "none"

    @property
    def has_feed_forward(self) -> bool:
        """Whether it has a feed-forward."""
        return self.feed_forward != "none"


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryTable:
    """Product-key memory in place of the MLP (arXiv:1907.05242, arXiv:2412.09764).

    A query is split in two halves, each scored by sqrt(N) half keys; of the pairs of the best of
    both the k best of N keys are taken, and the sum of their values is weighted by the softmax of
    their scores.
    """

    keys: int
    """N, a square: rows of the table of values."""
    heads: int
    """Independent look-ups of a token, each with keys of its own."""
    key_dim: int
    """Width of a query; a half key has half of it."""
    value_dim: int
    top_k: int
    shared: bool = True
    """All memory layers share one table of values."""
    gated: bool = True
    """The sum is gated by the input and projected back (two matrices, "Memory+")."""

    @property
    def half_keys(self) -> int:
        """sqrt(N): half keys that a half of a query is scored by."""
        return isqrt(self.keys)

    @property
    def table(self) -> int:
        """Parameters of the values."""
        return self.keys * self.value_dim

    def weights(self, hidden: int) -> int:
        """Return the weights of the projections: queries, and gate and output (or output)."""
        queries = hidden * self.heads * self.key_dim
        return queries + hidden * self.value_dim * (2 if self.gated else 1)

    @property
    def half_key_weights(self) -> int:
        """Parameters of the half keys of all heads."""
        return self.heads * self.half_keys * self.key_dim

    def looked_up(self) -> int:
        """Return the values that one token reads."""
        return self.heads * self.top_k * self.value_dim


@dataclass(frozen=True, slots=True, kw_only=True)
class Recursion:
    """``layers`` layers from ``first`` on that run ``times`` times with the same weights.

    The model's layers are counted unrolled: layer ``first + r layers + j`` is layer ``first + j``
    in its recursion r (mixture of recursions, arXiv:2507.10524).
    """

    first: int
    layers: int
    times: int

    def repeats(self, index: int) -> bool:
        """Whether layer ``index`` (unrolled) has the weights of an earlier one."""
        start = self.first + self.layers
        return start <= index < self.first + self.layers * self.times
