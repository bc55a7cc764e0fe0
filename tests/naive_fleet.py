"""Slow and obvious: fleets without SimPy, heaps or closed forms, to compare with."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from typing import Any

import numpy as np

from ridgeline.simulator.fleet.checkpoints import CheckpointCosts
from ridgeline.simulator.fleet.failures import FailureEvents, FailureModel
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


@dataclass(slots=True)
class Slow(Policy):
    """Says that it plays and takes its time, so that there is something to interrupt."""

    seconds: float = 0.05
    _said: bool = False

    def schedule(self, playing: Any) -> None:
        if not self._said:
            sys.stderr.write("playing\n")
            sys.stderr.flush()
            self._said = True
        time.sleep(self.seconds)
        Policy.schedule(self, playing)


@dataclass(frozen=True, slots=True, kw_only=True)
class Scripted(FailureModel):
    """Failures at known times: (second, node, seconds out), all of the first cause."""

    script: tuple[tuple[float, int, float], ...]

    def sample(
        self, rng: np.random.Generator, nodes: int, horizon_s: float, *, factor: float = 1.0
    ) -> FailureEvents:
        del rng, nodes, factor
        rows = [row for row in self.script if row[0] < horizon_s]
        count = len(rows)
        return FailureEvents(
            at_s=np.array([at for at, _, _ in rows]),
            cause=np.zeros(count, np.int32),
            first_node=np.array([node for _, node, _ in rows], np.int32),
            nodes=np.ones(count, np.int32),
            out_s=np.array([out for _, _, out in rows]),
            slowdown=np.full(count, self.causes[0].slowdown),
        )
