"""Models that take turns on the same accelerators: when each request is answered.

One model is there at a time, its weights in memory; the others' weights wait in the host's. When
the model that is there has nothing left to answer, the one whose oldest request has waited longest
is loaded (weights over the load rate, and a fixed wake-up) and answers until it has nothing left.
Between two loads the engine plays as for any service, so that a turn is a play of
:func:`play_pools` whose waiting requests arrive when the load ends.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ridgeline.simulator.serving.choice.goals import Goal
from ridgeline.simulator.serving.play import Played, Pool, play_pools
from ridgeline.workloads.traffic.traffic import Traffic

Floats = NDArray[np.float64]
_FIRST_LOOK = 2
"""Requests of a turn that are played first; of a longer turn twice as many, and so on."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Guest:
    """A model that takes turns."""

    pool: Pool
    """One replica that takes all the accelerators."""
    traffic: Traffic
    """An open loop without later turns of conversations."""
    load_s: float
    """From somebody else's turn to its own."""
    goals: tuple[Goal, ...] = ()
    """Play ends where one of them is broken for certain."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Stay:
    """What became of a model's requests. [n] arrays in seconds; infinite where rejected."""

    ttft_s: Floats
    tpot_s: Floats
    """nan below two tokens."""
    latency_s: Floats
    loads: int
    cold: int
    """Requests that waited for a load."""
    busy_s: float
    """In turns, loads left out."""

    def reached(self, goals: Sequence[Goal]) -> dict[str, float]:
        """Return by figure what each goal's share of the requests keeps, s."""
        return {goal.figure: goal.reached_s(getattr(self, f"{goal.figure}_s")) for goal in goals}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Turns:
    """A play of models that take turns."""

    stays: tuple[Stay, ...]
    end_s: float
    on_s: float
    """Time that the accelerators are held, loads in it; all of it where nothing is released."""


def take_turns(
    guests: Sequence[Guest], *, release_after_s: float = math.inf, start_up_s: float = 0.0
) -> Turns | None:
    """Play models that take turns on the same accelerators.

    Parameters
    ----------
    guests
        All begin without weights in memory.
    release_after_s
        Idle time after which the accelerators are given back.
    start_up_s
        What having them again takes, before a load.

    Returns
    -------
    Turns | None
        None where a goal is broken for certain before the end.
    """
    books = [_Book(guest) for guest in guests]
    now, there, held = 0.0, -1, False
    on_s = 0.0
    while True:
        open_ = [(book.next_s, place) for place, book in enumerate(books) if book.left]
        if not open_:
            break
        waiting = [one for one in open_ if one[0] <= now]
        oldest, place = min(waiting or open_, key=lambda one: (one[0], one[1] != there, one[1]))
        begin = max(now, oldest)
        idle = begin - now
        if held and idle > release_after_s:
            on_s += release_after_s
            held, there = False, -1
        elif held:
            on_s += idle
        ready = begin
        if not held:
            ready += start_up_s
        if place != there:
            ready += guests[place].load_s
        # a machine that starts up is paid for like one that works
        now = books[place].turn(begin, ready)
        on_s += now - begin
        held, there = True, place
        if books[place].broken():
            return None
    if held and math.isfinite(release_after_s):
        on_s += release_after_s
    return Turns(stays=tuple(book.stay() for book in books), end_s=now, on_s=on_s)


class _Book:
    """What is known of a model's requests so far."""

    def __init__(self, guest: Guest) -> None:
        self.guest = guest
        n = len(guest.traffic)
        self.at = 0
        self.ttft, self.tpot, self.latency = (np.full(n, np.nan) for _ in range(3))
        self.loads = self.cold = 0
        self.busy_s = 0.0
        self._late = [0] * len(guest.goals)

    @property
    def left(self) -> bool:
        return self.at < len(self.guest.traffic)

    @property
    def next_s(self) -> float:
        return float(self.guest.traffic.arrival_s[self.at])

    def turn(self, begin: float, ready: float) -> float:
        """Answer from ``ready`` on until nothing is left; return when."""
        arrival = self.guest.traffic.arrival_s
        waiting = int(np.searchsorted(arrival, ready, side="right")) - self.at
        look = max(waiting, 1) + _FIRST_LOOK
        while True:
            stop = min(len(arrival), self.at + look)
            part = slice(self.at, stop)
            shifted = np.maximum(arrival[part], ready) - ready
            played = play_pools((self.guest.pool,), _part(self.guest.traffic, part, shifted),
                                log_lines=0)  # fmt: skip
            ends = np.maximum.accumulate(np.nan_to_num(played.end_s, nan=math.inf))
            # the turn is over after the first request that ends before the next one comes
            over = np.flatnonzero(ends[:-1] <= shifted[1:])
            if len(over) or stop == len(arrival):
                break
            look *= 2
        count = int(over[0]) + 1 if len(over) else stop - self.at
        end = ready + float(ends[count - 1])
        self._note(played, count, shifted, ready)
        if ready > begin:
            self.loads += 1
            self.cold += min(waiting, count)
        self.busy_s += end - ready
        return end

    def _note(self, played: Played, count: int, shifted: Floats, ready: float) -> None:
        part = slice(self.at, self.at + count)
        waited = shifted[:count] + ready - self.guest.traffic.arrival_s[part]
        done = played.finished[:count]
        self.ttft[part] = np.where(done, played.ttft_s[:count] + waited, np.inf)
        self.tpot[part] = np.where(done, played.tpot_s[:count], np.inf)
        self.latency[part] = np.where(done, played.latency_s[:count] + waited, np.inf)
        for number, goal in enumerate(self.guest.goals):
            values = getattr(self, goal.figure)[part]
            self._late[number] += int(np.sum(values > goal.limit_s))
        self.at += count

    def broken(self) -> bool:
        """Whether more requests break a goal than it lets off."""
        n = len(self.guest.traffic)
        return any(
            n - late < goal.needed(n)
            for goal, late in zip(self.guest.goals, self._late, strict=True)
        )

    def stay(self) -> Stay:
        return Stay(
            ttft_s=self.ttft,
            tpot_s=self.tpot,
            latency_s=self.latency,
            loads=self.loads,
            cold=self.cold,
            busy_s=self.busy_s,
        )


def _part(traffic: Traffic, part: slice, arrival_s: Floats) -> Traffic:
    count = len(arrival_s)
    return replace(
        traffic,
        arrival_s=arrival_s,
        input_tokens=traffic.input_tokens[part],
        output_tokens=traffic.output_tokens[part],
        after=traffic.after[part],
        pause_s=traffic.pause_s[part],
        priority=traffic.priority[part],
        block_start=np.zeros(count + 1, np.int64),
        block_ids=np.empty(0, np.int64),
    )
