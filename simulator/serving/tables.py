"""What one iteration of one replica costs, tabulated so that the event loop looks it up in O(1)."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class IterationTables:
    """Seconds of an iteration: max(device, eager floor) + host.

    device = linear(tokens) + decode_attention(sequences, mean context)
    + sum over prefill chunks of prefill_attention(new tokens, tokens before them).
    A prompt runs on one data rank and the others wait for it: of n chunks with N tokens the fullest
    of d ranks has at least the longest, and ceil(n/d) N/n up to its budget, u times its even share
    N/d. With prompts rank(decodes + u N) - rank(all tokens) is added, and attention of prompts
    counts u times.
    Grids ascend; between their points everything is linear, beyond the last one extrapolated along
    the last segment.
    """

    tokens: Floats
    """[T] tokens in an iteration, from 1."""
    decode_linear_s: Floats
    """[T] all that goes by tokens, in an iteration of decodes alone."""
    mixed_linear_s: Floats
    """[T] the same when the iteration holds prefill tokens."""
    sequences: Floats
    """[B] sequences that decode."""
    contexts: Floats
    """[C] mean context of a decoding sequence, tokens."""
    decode_attention_s: Floats
    """[B, C]."""
    new_tokens: Floats
    """[N] tokens of one prefill chunk."""
    prior_tokens: Floats
    """[P] tokens of the same prompt before them, from 0."""
    prefill_attention_s: Floats
    """[N, P] one chunk of one prompt."""
    host_s: float
    """Host time of every iteration."""
    host_per_sequence_s: float
    """Host time for each running sequence of an iteration."""
    host_per_prefill_s: float
    """Host time more when an iteration holds prefill."""
    eager_floor_s: float
    """Least device time of an iteration that holds prefill (launches of eager kernels)."""
    front_s: float
    """Front end (tokenise, route, detokenise) per request, beside the engine."""
    front_serial_s: float
    """Front end per request that requests wait for in a queue."""
    tokens_per_step: float
    """Expected tokens that a decoding sequence gains in an iteration (1 without speculation)."""
    kv_tokens: int
    """Capacity of the KV cache of one replica, tokens."""
    block_tokens: int
    """Tokens of one block."""
    kv_bytes_per_token: float
    """All layers, one accelerator."""
    least_s: float = 0.0
    """Of an iteration: what requests leave of it is filled with other work."""
    data_ranks: int = 1
    """d, ranks with sequences of their own."""
    rank_linear_s: Floats = field(default_factory=lambda: np.zeros(1))
    """[T] the part of ``mixed_linear_s`` that a data rank computes for its own tokens alone; not
    read where there is one rank."""
    swap_bytes_per_s: float
    """Device to host and back, one direction, one accelerator."""
