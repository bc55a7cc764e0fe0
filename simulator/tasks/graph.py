"""Tasks with durations, streams and dependencies: what the event engine plays."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Int8 = NDArray[np.int8]
Int32 = NDArray[np.int32]
Int64 = NDArray[np.int64]
Float64 = NDArray[np.float64]

COMPUTE, NETWORK, GRADIENT, TRANSFER, COPY, FETCH, HOST, DISK = range(8)
STREAMS = ("compute", "network", "gradient", "transfer", "copy", "fetch", "host", "disk")
"""Copies to the host (and back, where nothing is known of it), fetches from it, its own work, its
drives."""
STREAMS_PER_DEVICE = 8

HEAD, TAIL = 3, 4
"""``block_kind`` beyond the pass kinds FORWARD, BACKWARD and WEIGHT."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Blocks:
    """Which tasks belong to which pass: K blocks with consecutive tasks each."""

    first: Int64
    """int64[K + 1]: block k owns the tasks first[k] to first[k + 1]; joins follow the last."""
    device: Int32
    kind: Int8
    """int8[K]: FORWARD, BACKWARD, WEIGHT, HEAD or TAIL."""
    vstage: Int32
    """int32[K], -1 for head and tail."""
    micro_batch: Int32
    """int32[K], -1 for head and tail."""
    template: Int32
    """int32[K], -1 for an empty head or tail."""
    op_ptr: Int64
    """int64[T + 1], of the templates: operator o of template t is row op_ptr[t] + o of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskGraph:
    """N tasks on S streams.

    The streams of device d are ``STREAMS_PER_DEVICE * d`` plus COMPUTE, NETWORK, GRADIENT,
    TRANSFER, COPY, FETCH, HOST or DISK; the one stream behind all devices carries joins of zero
    length.
    """

    seconds: Float64
    """float64[N], finite and not negative."""
    stream: Int32
    """int32[N], in 0..S-1."""
    indptr: Int64
    """int64[N + 1]: task i waits for ``indices[indptr[i]:indptr[i + 1]]``."""
    indices: Int32
    num_streams: int
    priority: Int64 = field(default_factory=lambda: np.empty(0, np.int64))
    """int64[N], lower goes first, ties by id; empty means that ids are the order."""
    blocks: Blocks | None = None

    @property
    def tasks(self) -> int:
        """N."""
        return len(self.seconds)
