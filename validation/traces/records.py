"""What a profiler trace says, whatever wrote it: device work, its launches, annotations."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

CATEGORIES = (
    "gemm",
    "attention",
    "convolution",
    "norm",
    "elementwise",
    "optimizer",
    "communication",
    "copy",
    "other",
)
"""Of device work; ``categories`` says by which words a kernel's name tells."""
GEMM, ATTENTION, CONVOLUTION, NORM, ELEMENTWISE, OPTIMIZER, COMMUNICATION, COPY, OTHER = range(
    len(CATEGORIES)
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Operator:
    """A framework's operator that launched device work."""

    name: str
    shapes: tuple[tuple[int, ...], ...]
    """Of its tensor inputs, () for a scalar; empty when the trace holds no shapes."""
    dtypes: tuple[str, ...]
    """As the trace spells them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Collective:
    """One collective as its kernel was annotated."""

    kind: str
    """all_reduce, all_gather, reduce_scatter, all_to_all, broadcast, send_recv or other."""
    bytes: float
    """Of the larger of input and output on one rank; 0 when the trace does not say."""
    ranks: int
    """0 when the trace does not say."""
    dtype: str
    members: tuple[int, ...] = ()
    """Ranks of the group; empty when the trace elides them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Annotation:
    """A span that the program named: a profiler step, a batch, a phase."""

    name: str
    start_s: float
    duration_s: float
    on_device: bool
    stream: int = -1
    """Of a span on the device; -1 when the trace does not say."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Events:
    """Device work as columns of equal length, by start."""

    start_s: NDArray[np.float64]
    """From the first event of the trace, s."""
    duration_s: NDArray[np.float64]
    name: NDArray[np.int32]
    """Place in ``Trace.names``."""
    category: NDArray[np.int8]
    """Place in ``CATEGORIES``."""
    device: NDArray[np.int32]
    stream: NDArray[np.int32]
    launch_s: NDArray[np.float64]
    """Start of the runtime call that launched it; NaN when the trace holds none."""
    operator: NDArray[np.int32]
    """Place in ``Trace.operators``, -1 when unknown."""
    call: NDArray[np.int64]
    """Which call of an operator launched it, equal for kernels of one call; -1 when unknown."""
    collective: NDArray[np.int32]
    """Place in ``Trace.collectives``, -1 for none."""
    bytes: NDArray[np.float64]
    """Of a copy; 0 otherwise."""

    def __len__(self) -> int:
        return len(self.start_s)

    @property
    def end_s(self) -> NDArray[np.float64]:
        """End of each event, s."""
        return self.start_s + self.duration_s

    def take(self, rows: NDArray[np.intp] | NDArray[np.bool_]) -> Events:
        """Return some of the events."""
        return Events(**{f.name: getattr(self, f.name)[rows] for f in fields(self)})


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """One rank's trace. It holds no host or user names and no paths."""

    format: str
    """kineto, nsys, xplane or cupti."""
    rank: int
    """-1 when the trace does not say."""
    world_size: int
    """Ranks of the job, 0 when the trace does not say."""
    device_name: str
    """As the driver reports it; empty when absent."""
    device_memory_bytes: float
    names: tuple[str, ...]
    """Distinct names of device work."""
    operators: tuple[Operator, ...]
    collectives: tuple[Collective, ...]
    annotations: tuple[Annotation, ...]
    """By start."""
    events: Events
    losses: tuple[str, ...] = ()
    """What the file no longer held, or what had to be repaired or left out to read it."""
