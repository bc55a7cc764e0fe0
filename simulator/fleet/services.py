"""Services while a fleet plays: replicas that follow traffic, and what they serve."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import simpy

from ridgeline.simulator.fleet.spec import Service
from ridgeline.simulator.fleet.state import RUNNING, WAITING, Run

if TYPE_CHECKING:
    from ridgeline.simulator.fleet.play import Playing

_ROUNDING = 1e-9


class Desk:
    """One service: its replicas, what is asked of it now and what it has served."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self.replicas: list[Run] = []
        self.up: dict[int, float] = {}
        """Replicas that serve now -> requests per second."""
        self.traffic = 0.0
        """Requests per second."""
        self.since = 0.0
        self.served = self.asked = 0.0
        """Requests so far."""
        self.up_s = 0.0
        """Replicas that served, times seconds."""

    def tick(self, now: float) -> None:
        """Add up the time since the last change."""
        seconds = now - self.since
        self.since = now
        self.asked += self.traffic * seconds
        self.served += min(self.traffic, sum(self.up.values())) * seconds
        self.up_s += len(self.up) * seconds

    def sustains(self, run: Run) -> float:
        """Return the requests per second of a replica where it is, or would rather be."""
        rates = run.job.rates
        return rates[run.pool or next(iter(rates))].per_s[0]


class Services:
    """The services of a fleet."""

    def __init__(self, playing: Playing) -> None:
        self._playing = playing
        self.desks = {service.name: Desk(service) for service in playing.fleet.services}
        self._of: dict[int, Desk] = {}

    def follow(self, service: Service) -> Generator[simpy.Event, Any, None]:
        """Start and stop replicas at the beginning of every slot of traffic; a SimPy process."""
        playing, desk = self._playing, self.desks[service.name]
        slot = 0
        while True:
            desk.tick(playing.now)
            desk.traffic = service.traffic[slot % len(service.traffic)]
            playing.events += 1
            self._scale(desk)
            slot += 1
            yield playing.env.timeout(service.slot_s)

    def _scale(self, desk: Desk) -> None:
        service = desk.service
        needed = desk.traffic / (1.0 - service.headroom) * (1.0 - _ROUNDING)
        replicas = desk.replicas = [run for run in desk.replicas if run.state in (RUNNING, WAITING)]
        sustained = sum(desk.sustains(run) for run in replicas)
        while len(replicas) < service.least or sustained < needed:
            run = self._add(desk)
            sustained += desk.sustains(run)
        while len(replicas) > service.least:
            # who still waits goes first, then the last to have come
            waiting = [run for run in replicas if run.state == WAITING]
            last = waiting[-1] if waiting else replicas[-1]
            sustained -= desk.sustains(last)
            if sustained < needed:
                return
            replicas.remove(last)
            self._playing.retire(last)

    def _add(self, desk: Desk) -> Run:
        playing = self._playing
        name = f"{desk.service.name}/{len(playing.runs)}"
        replica = replace(desk.service.replica, name=name, submitted_s=playing.now)
        run = playing.submit(replica)
        desk.replicas.append(run)
        self._of[run.index] = desk
        playing.enqueue(run)
        return run

    def placed(self, run: Run) -> None:
        """Let a replica that got its accelerators serve once it has started."""
        if run.index in self._of:
            started = run.started
            self._playing.later(run.startup_s, lambda: self._ready(run, started))

    def _ready(self, run: Run, started: float) -> None:
        if run.state == RUNNING and run.started == started:
            self._set(run, up=True)

    def respeeded(self, run: Run) -> None:
        """Count a replica that has become slower or faster."""
        desk = self._of.get(run.index)
        if desk is not None and run.index in desk.up:
            self._set(run, up=True)

    def gone(self, run: Run) -> None:
        """Count a replica that has lost its accelerators."""
        if run.index in self._of:
            self._set(run, up=False)

    def _set(self, run: Run, *, up: bool) -> None:
        desk = self._of[run.index]
        desk.tick(self._playing.now)
        if up:
            desk.up[run.index] = desk.sustains(run) * run.speed
        else:
            desk.up.pop(run.index, None)

    def close(self) -> None:
        """Count until now."""
        for desk in self.desks.values():
            desk.tick(self._playing.now)
