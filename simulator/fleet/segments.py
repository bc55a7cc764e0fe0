"""What a simulation writes down as it goes: allocations, and the fleet from time to time."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """A job on one allocation."""

    job: int
    pool: int
    accelerators: int
    start_s: float
    end_s: float
    ended: str
    """done, failed, reclaimed, preempted, resized, out of budget, stopped or horizon."""
    nodes: tuple[tuple[int, int], ...] = ()
    """Nodes and accelerators of each; only when they are kept."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """The fleet at one time."""

    at_s: float
    running: int
    waiting: int
    held: int
    """Accelerators in jobs."""
    broken: int
    """Accelerators on nodes that are out."""
    fragmented: int
    """Free accelerators on nodes that are partly used."""
