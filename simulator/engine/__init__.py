"""The event engine: tasks on streams -> timeline."""

from __future__ import annotations

from ridgeline.simulator.engine.gaps import Usage, busy_and_gaps
from ridgeline.simulator.engine.play import DeadlockError, Timeline, play

__all__ = ["DeadlockError", "Timeline", "Usage", "busy_and_gaps", "play"]
