"""Slow and obvious: fleets without SimPy, heaps or closed forms, to compare with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ridgeline.simulator.fleet.checkpoints import CheckpointCosts
from ridgeline.simulator.fleet.policies import Policy


def fifo_ends(jobs: list[tuple[float, int, float]], accelerators: int) -> list[float]:
    """Return when each (submitted, gang, seconds) ends, first come first served."""
    ends: list[float] = []
    before = 0.0
    for submitted, gang, seconds in jobs:
        start = max(submitted, before)
        while True:
            held = sum(other[1] for other, end in zip(jobs, ends, strict=False) if end > start)
            if held + gang <= accelerators:
                break
            start = min(end for end in ends if end > start)
        ends.append(start + seconds)
        before = start
    return ends


def restored(costs: CheckpointCosts, speed: float, wall_s: float) -> tuple[float, float, float]:
    """Walk through cycles; return work done, pauses and the work that a failure then leaves."""
    done = pauses = clock = 0.0
    finished: list[tuple[float, float]] = []
    while True:
        work = min(wall_s - clock, costs.interval_s / speed)
        done += work * speed
        clock += work
        if clock >= wall_s:
            break
        pause = min(wall_s - clock, costs.pause_s)
        pauses += pause
        clock += pause
        if clock >= wall_s:
            break
        finished.append((clock, done))
    kept = max((work for at, work in finished if at + costs.lag_s <= wall_s), default=0.0)
    return done, pauses, kept


@dataclass(slots=True)
class LastFirst(Policy):
    """A policy of a user's own: last come, first served."""

    def key(self, run: Any, playing: Any) -> Any:
        return -run.job.submitted_s


@dataclass(slots=True)
class Impatient(Policy):
    """Interrupts the simulation as Ctrl-C does."""

    after_h: float = 1.0

    def schedule(self, playing: Any) -> None:
        if playing.now > self.after_h * 3600.0:
            raise KeyboardInterrupt
        Policy.schedule(self, playing)
