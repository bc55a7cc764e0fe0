"""Task graphs: a schedule filled with operators."""

from __future__ import annotations

from ridgeline.simulator.tasks.expand import expand, sum_by_operator
from ridgeline.simulator.tasks.graph import (
    COMPUTE,
    COPY,
    DISK,
    FETCH,
    GRADIENT,
    HEAD,
    HOST,
    NETWORK,
    STREAMS,
    STREAMS_PER_DEVICE,
    TAIL,
    TRANSFER,
    Blocks,
    TaskGraph,
)
from ridgeline.simulator.tasks.templates import Block, Templates, stack, stage_templates

__all__ = [
    "COMPUTE",
    "COPY",
    "DISK",
    "FETCH",
    "GRADIENT",
    "HEAD",
    "HOST",
    "NETWORK",
    "STREAMS",
    "STREAMS_PER_DEVICE",
    "TAIL",
    "TRANSFER",
    "Block",
    "Blocks",
    "TaskGraph",
    "Templates",
    "expand",
    "stack",
    "stage_templates",
    "sum_by_operator",
]
