"""Slow, obvious twin of ``simulator/fleet/calendar/_kernels.py``: one checkpoint after the other.

A checkpoint is a record with the work that it holds and when it can be restored; a failure looks
through all of them for the best one.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf


@dataclass
class Saved:
    work: float
    index: int
    near_at: float
    """Restorable from memory from then on."""
    store_at: float
    """Restorable from the store from then on; infinite when it never went there."""


def nodes_ready(at: float, nodes: int, out_s: float, slots: list[float]) -> float:
    ready = at
    for _ in range(nodes):
        back = at + out_s
        free = min(slots, default=inf)
        if max(at, free) < back:
            ready = max(ready, at, free)
            slots[slots.index(free)] = back
        else:
            ready = max(ready, back)
    return ready


def replay(
    events: list[tuple[float, int, float, float]],
    speeds: list[tuple[float, float]],
    work: float,
    interval: float,
    pause: float,
    lag: float,
    load: float,
    store_every: int,
    store_lag: float,
    store_load: float,
    survival: list[float],
    restart: float,
    rewind: float,
    spares: int,
) -> dict[str, float]:
    """Return seconds by cause of one run; ``events`` are (at, nodes, out_s, luck)."""
    out = dict.fromkeys(
        ("wall", "checkpoint", "lost", "slow", "restart", "wait", "failures", "rewinds"), 0.0
    )
    slots = [0.0] * spares
    start = Saved(0.0, 0, -inf, -inf)
    kept = [start]
    now = done = 0.0
    down_until = ready = 0.0
    gone = 0
    queue = list(events)

    def speed(at: float) -> tuple[float, float]:
        """Return the speed at a time and when it changes."""
        current, change = 1.0, inf
        for since, value in speeds:
            if since <= at:
                current = value
            else:
                change = since
                break
        return current, change

    while True:
        at, nodes, out_s, luck = queue[0]
        if now < down_until:
            stop = min(at, down_until)
            out["wait"] += max(0.0, min(stop, ready) - now)
            out["restart"] += stop - max(now, min(stop, ready))
            now = stop
            if now == down_until:
                gone = 0
        while now < at and now >= down_until:
            # one piece: work to the next checkpoint, change of speed, event or end
            rate, change = speed(now)
            goal = min((kept[-1].index + 1) * interval, work)
            last = kept[-1]
            paused = last.near_at - lag - now if last.index and last.near_at > -inf else 0.0
            if paused > 1e-9:
                step = min(paused, at - now)
                out["checkpoint"] += step
                now += step
                continue
            edge = min(at, change)
            if now + (goal - done) / rate > edge:
                out["slow"] += (edge - now) * (1.0 - rate)
                done += (edge - now) * rate
                now = edge
                continue
            needed = (goal - done) / rate
            out["slow"] += needed * (1.0 - rate)
            now += needed
            done = goal
            if done == work:
                out["wall"] = now
                return out
            index = kept[-1].index + 1
            end = now + pause
            goes = index % store_every == 0
            kept.append(Saved(done, index, end + lag, end + store_lag if goes else inf))
        queue.pop(0)
        if not queue:
            out["wall"] = inf
            return out
        down = now < down_until
        if nodes < 0 and down:
            continue
        far = [one for one in kept if one.store_at <= now]
        near = [one for one in kept if one.near_at <= now]
        if nodes < 0:
            out["rewinds"] += 1
            back = max(
                (one for one in far if one.work <= max(0.0, done - rewind)),
                key=lambda one: one.index,
            )
            seconds = store_load
        else:
            out["failures"] += 1
            before, gone = gone, gone + nodes
            held = survival[min(before, len(survival) - 1)] if survival else 0.0
            holds = survival[min(gone, len(survival) - 1)] if survival else 0.0
            if survival and (nodes == 0 or luck * held < holds):
                back, seconds = max(near, key=lambda one: one.index), load
            else:
                back, seconds = max(far, key=lambda one: one.index), store_load
            if nodes > 0:
                ready = max(ready, nodes_ready(now, nodes, out_s, slots))
        ready = max(ready, now)
        out["lost"] += done - back.work
        done = back.work
        # what memory holds drains to the store through a restart, the rest is gone
        kept = [one for one in kept if one.index <= back.index]
        if seconds == store_load:
            kept = [one for one in kept if one.store_at <= now]
        back.near_at = -inf
        down_until = ready + restart + seconds
