"""Who runs when: scheduling policies, each a small class; a user's own is one more."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass, fields
from heapq import heapify, heappop, heappush
from importlib import import_module
from itertools import takewhile
from math import exp, inf, log
from typing import TYPE_CHECKING, Any, ClassVar

from ridgeline.errors import InputError, nearest
from ridgeline.simulator.fleet.placement import Room

if TYPE_CHECKING:
    from ridgeline.simulator.fleet.play import Playing
    from ridgeline.simulator.fleet.state import PoolState, Run


@dataclass(slots=True)
class Policy:
    """First come, first served; what other policies build on.

    Jobs wait in buckets, by ``key`` in each. ``schedule`` is called after everything that happens
    at one time. Fields of a policy are its options, numbers all of them.
    """

    settles: ClassVar[bool] = False
    """Whether one pass is enough for what the policy itself sets free."""

    def key(self, run: Run, playing: Playing) -> Any:  # noqa: ARG002  (others need it)
        """Return where a job stands in its bucket; the least goes first."""
        return run.job.submitted_s

    def bucket(self, run: Run) -> Hashable:
        """Return what jobs must share to stand in one line; by default the pools they may use."""
        return tuple(run.job.rates)

    def held(self, run: Run, change: int, playing: Playing) -> None:
        """Learn that a job got accelerators, or gave them back."""

    def schedule(self, playing: Playing) -> None:
        """Start what may start: in order, and nobody overtakes who waits for the same pool."""
        blocked: set[str] = set()
        heads = playing.queue.heads()
        heapify(heads)
        while heads and len(blocked) < len(playing.pools):
            *_, bucket, run = heappop(heads)
            pools = [name for name in run.job.rates if name not in blocked]
            if any(playing.start(run, name, run.job.asks(name)) for name in pools):
                _push_head(heads, bucket, playing)
            else:
                blocked.update(run.job.rates)


def _push_head(heads: list[Any], bucket: Hashable, playing: Playing) -> None:
    run = playing.queue.head(bucket)
    if run is not None:
        heappush(heads, (run.key, run.index, bucket, run))


@dataclass(slots=True)
class Priority(Policy):
    """Priorities, higher first; a job may push out running ones of lower priority."""

    preempt: float = 1.0
    """0 lets everybody finish."""

    def key(self, run: Run, playing: Playing) -> Any:  # noqa: ARG002
        """Return priority, then submission."""
        return (-run.job.priority, run.job.submitted_s)

    def schedule(self, playing: Playing) -> None:
        """Start in order; make room where lower priorities run, the latest started first."""
        heads = playing.queue.heads()
        heapify(heads)
        blocked: set[str] = set()
        while heads and len(blocked) < len(playing.pools):
            *_, bucket, run = heappop(heads)
            pools = [name for name in run.job.rates if name not in blocked]
            started = any(playing.start(run, name, run.job.asks(name)) for name in pools)
            if not started and self.preempt:
                started = any(self._push_out(run, name, playing) for name in pools)
            if started:
                _push_head(heads, bucket, playing)
            else:
                blocked.update(run.job.rates)

    def _push_out(self, run: Run, pool: str, playing: Playing) -> bool:
        running = (playing.running[index] for _, index in playing.pools[pool].ends)
        lower = [other for other in running if other.job.priority < run.job.priority]
        lower.sort(key=lambda other: (other.job.priority, -other.started, other.index))
        return make_room(run, pool, lower, playing)


@dataclass(slots=True)
class ShortestRemaining(Policy):
    """Whoever is done soonest goes first, and pushes out who would take longer."""

    preempt: float = 1.0
    """0 lets everybody finish: shortest job first."""

    def key(self, run: Run, playing: Playing) -> Any:
        """Return the time that is left on what the job asks for."""
        return min(playing.seconds_on(run, name, run.job.asks(name)) for name in run.job.rates)

    def bucket(self, run: Run) -> Hashable:
        """Return pools and size: within one, nobody can start whom the first cannot."""
        return (tuple(run.job.rates), run.job.accelerators)

    def schedule(self, playing: Playing) -> None:
        """Start the shortest that fits, in order."""
        heads = playing.queue.heads()
        heapify(heads)
        while heads:
            *_, bucket, run = heappop(heads)
            names = list(run.job.rates)
            started = any(playing.start(run, name, run.job.asks(name)) for name in names)
            if not started and self.preempt:
                started = any(self._push_out(run, name, playing) for name in names)
            if started:
                _push_head(heads, bucket, playing)

    def _push_out(self, run: Run, pool: str, playing: Playing) -> bool:
        ends = playing.pools[pool].ends
        asked = run.job.asks(pool)
        needs = playing.seconds_on(run, pool, asked)
        longer = takewhile(lambda end: end[0] > playing.now + needs, reversed(ends))
        running = (playing.running[index] for _, index in longer)
        # both as they go on sound nodes: else two jobs could push each other out for ever
        victims = (
            other
            for other in running
            if playing.seconds_on(other, pool, other.accelerators) > needs * (1.0 + 1e-9)
        )
        return make_room(run, pool, victims, playing)


def make_room(run: Run, pool: str, victims: Iterable[Run], playing: Playing) -> bool:
    """Preempt as many of ``victims``, in order, as let a job start; none when all do not help."""
    asked = run.job.asks(pool)
    room = Room(playing.pools[pool].nodes)
    chosen: list[Run] = []
    for other in victims:
        if other.started == playing.now:
            continue
        chosen.append(other)
        room.add(other.allocation)
        if room.fits(asked):
            for one in chosen:
                playing.stop(one)
            return playing.start(run, pool, asked)
    return False


@dataclass(slots=True)
class Backfill(Policy):
    """EASY: by priority and submission, with a reservation for the first in line.

    Whoever does not delay it may overtake.

    Lifka 1995, The ANL/IBM SP scheduling system; Mu'alem and Feitelson 2001. Times are those that
    jobs take should nothing happen.
    """

    depth: float = 100.0
    """Jobs of one size that a pass looks at."""

    def key(self, run: Run, playing: Playing) -> Any:  # noqa: ARG002
        """Return priority, then submission."""
        return (-run.job.priority, run.job.submitted_s)

    def bucket(self, run: Run) -> Hashable:
        """Return pools and size: a pass looks into those lines alone that fit."""
        return (tuple(run.job.rates), run.job.accelerators)

    def schedule(self, playing: Playing) -> None:
        """Start in order, reserve for the first that cannot, and fill the rest."""
        heads = playing.queue.heads()
        heapify(heads)
        reserved: dict[str, tuple[float, int]] = {}
        passed: list[Any] = []
        while heads and len(reserved) < len(playing.pools):
            *_, bucket, run = heappop(heads)
            pools = [name for name in run.job.rates if name not in reserved]
            if any(playing.start(run, name, run.job.asks(name)) for name in pools):
                _push_head(heads, bucket, playing)
                continue
            for name in pools:
                reserved[name] = self._reserve(run, playing.pools[name], playing)
            passed.append((run.key, run.index, bucket, run))
        if reserved:
            self._fill([*passed, *heads], reserved, playing)

    def _reserve(self, run: Run, state: PoolState, playing: Playing) -> tuple[float, int]:
        """Return when a job can start in a pool and what it then leaves free."""
        free, asked = state.nodes.total_free, run.job.asks(state.pool.name)
        for end, index in state.ends:
            if free >= asked:
                return end, free - asked
            free += playing.running[index].accelerators
            if free >= asked:
                return end, free - asked
        return (inf, 0) if free < asked else (playing.now, free - asked)

    def _fill(
        self, heads: list[Any], reserved: dict[str, tuple[float, int]], playing: Playing
    ) -> None:
        for *_, bucket, first in sorted(heads, key=lambda head: head[:2]):
            names = list(first.job.rates)
            if not any(playing.pools[name].nodes.fits(first.job.asks(name)) for name in names):
                continue
            for run in playing.queue.first(bucket, int(self.depth)):
                for name in names:
                    asked = run.job.asks(name)
                    if not playing.pools[name].nodes.fits(asked):
                        continue
                    until, extra = reserved.get(name, (inf, 0))
                    ends = playing.now + playing.seconds_on(run, name, asked)
                    if ends > until and asked > extra:
                        continue
                    playing.start(run, name, asked)
                    if ends > until:
                        reserved[name] = (until, extra - asked)
                    break


@dataclass(slots=True)
class FairShare(Policy):
    """The user who has had least goes first; what was had is forgotten by half-lives."""

    half_life_days: float = 7.0
    """PriorityDecayHalfLife of Slurm, whose default it is."""
    _had: dict[str, list[float]] = None  # type: ignore[assignment]  # set below
    """User -> accelerator-seconds had, accelerators held, since when."""

    def __post_init__(self) -> None:
        if not self.half_life_days > 0:
            raise InputError(f"half_life_days = {self.half_life_days:g}: must be above 0")
        self._had = defaultdict(lambda: [0.0, 0.0, 0.0])

    def bucket(self, run: Run) -> Hashable:
        """Return user and pools."""
        return (run.job.user, tuple(run.job.rates))

    def held(self, run: Run, change: int, playing: Playing) -> None:
        """Count what a user holds."""
        self._had[run.job.user][0] = self.usage(run.job.user, playing.now)
        self._had[run.job.user][1] += change
        self._had[run.job.user][2] = playing.now

    def usage(self, user: str, now: float) -> float:
        """Return what a user has had: integral of held accelerators times 2^(-age / half-life)."""
        had, held, since = self._had[user]
        rate = log(2.0) / (self.half_life_days * 86400.0)
        faded = exp(-rate * (now - since))
        return had * faded + held * (1.0 - faded) / rate

    def schedule(self, playing: Playing) -> None:
        """Start one of the user who has had least, again and again."""
        blocked: set[str] = set()
        heads = [
            (self._rank(run, playing), key, index, bucket, run)
            for key, index, bucket, run in playing.queue.heads()
        ]
        heapify(heads)
        while heads and len(blocked) < len(playing.pools):
            *_, bucket, run = heappop(heads)
            pools = [name for name in run.job.rates if name not in blocked]
            if not any(playing.start(run, name, run.job.asks(name)) for name in pools):
                blocked.update(run.job.rates)
                continue
            head = playing.queue.head(bucket)
            if head is not None:
                rank = self._rank(head, playing)
                heappush(heads, (rank, head.key, head.index, bucket, head))

    def _rank(self, run: Run, playing: Playing) -> tuple[float, float]:
        user = run.job.user
        return (self.usage(user, playing.now), self._had[user][1])


@dataclass(slots=True)
class CostAware(Policy):
    """Spot first: the cheapest pool that still meets the deadline.

    A job without a deadline goes wherever its work is cheapest. With one it leaves spot capacity,
    when it waits, once the slack is less than ``margin`` of the time that it still needs.
    """

    margin: float = 0.25

    def bucket(self, run: Run) -> Hashable:
        """Return pools and size: nobody waits for whom another pool is too dear."""
        return (tuple(run.job.rates), run.job.accelerators)

    def schedule(self, playing: Playing) -> None:
        """Start in order, each in the cheapest pool that will do."""
        heads = playing.queue.heads()
        heapify(heads)
        while heads:
            *_, bucket, run = heappop(heads)
            names = self._pools(run, playing)
            if any(playing.start(run, name, run.job.asks(name)) for name in names):
                _push_head(heads, bucket, playing)

    def _pools(self, run: Run, playing: Playing) -> list[str]:
        """Return the pools that a job may go to now, the cheapest first."""
        slack = run.job.deadline_s - playing.now
        priced = []
        for name in run.job.rates:
            pool = playing.pools[name].pool
            asked = run.job.asks(name)
            needs = playing.seconds_on(run, name, asked)
            if pool.spot and needs * (1.0 + self.margin) > slack:
                continue
            usd = needs * asked * pool.usd_per_accelerator_hour
            priced.append((usd if needs < inf else inf, name))
        if not priced:
            return list(run.job.rates)
        cheapest = [name for _, name in sorted(priced)]
        if run.job.deadline_s == inf:
            # waiting costs nothing: only spot where there is any
            spot = [name for name in cheapest if playing.pools[name].pool.spot]
            return spot or cheapest
        return cheapest


def make_policy(name: str, options: Mapping[str, float]) -> Policy:
    """Return a policy by its name, or a user's own by ``module:Class``.

    Raises
    ------
    InputError
        No such policy, or options that it does not have.
    """
    kind = _find(name)
    known = [field.name for field in fields(kind) if not field.name.startswith("_")]
    for option in options:
        if option not in known:
            hint = nearest(option, known) if known else "it has none"
            raise InputError(f"policy {name!r}: unknown option {option!r}; {hint}")
        if not 0.0 <= options[option] < inf:
            raise InputError(
                f"policy {name!r}: {option} = {options[option]:g}: must be 0 or more, and finite"
            )
    return kind(**options)


def _find(name: str) -> type[Policy]:
    module, colon, attribute = name.partition(":")
    if not colon:
        if name in POLICIES:
            return POLICIES[name]
        if name == "elastic":
            from ridgeline.simulator.fleet.elastic import Elastic

            return Elastic
        known = (*POLICIES, "elastic")
        raise InputError(
            f"policy {name!r}: unknown; {nearest(name, known)}; or your own as module:Class"
        )
    try:
        found = getattr(import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise InputError(f"policy {name!r}: cannot be imported: {error}") from None
    if not (isinstance(found, type) and issubclass(found, Policy)):
        raise InputError(
            f"policy {name!r}: must be a subclass of ridgeline.simulator.fleet.policies.Policy"
        )
    return found


POLICIES: dict[str, type[Policy]] = {
    "fifo": Policy,
    "priority": Priority,
    "srpt": ShortestRemaining,
    "easy": Backfill,
    "fair": FairShare,
    "spot": CostAware,
}
"""Policies that do not change the size of a job; ``elastic`` does."""
