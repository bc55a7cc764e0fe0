"""One job of a trace."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceJob:
    """A job as a cluster's log has it."""

    name: str
    user: str
    group: str
    """Virtual cluster or kind of accelerator, whichever the log tells; may be empty."""
    submitted_s: float
    """After the first job of the trace."""
    accelerators: int
    """Whole ones: a share of an accelerator counts as one."""
    duration_s: float
    """That it ran, all attempts together, on those accelerators."""
    status: str
    """In the words of the log."""
