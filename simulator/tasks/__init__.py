"""Task graphs: a schedule filled with operators."""

from __future__ import annotations

from ridgeline.simulator.tasks.graph import TaskGraph

__all__ = ["TaskGraph"]
