"""What a simulation knows of each job and each pool while it plays."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Hashable, Iterator
from heapq import heapify, heappop, heappush
from math import ceil, floor, inf
from typing import Any

from ridgeline.simulator.fleet.checkpoints import CheckpointCosts
from ridgeline.simulator.fleet.failures import FailureModel
from ridgeline.simulator.fleet.placement import Allocation, Nodes
from ridgeline.simulator.fleet.spec import Job, Pool

WAITING, RUNNING, DONE, DROPPED, BROKE, HELD, STOPPED = (
    "waiting",
    "running",
    "done",
    "dropped",
    "out of budget",
    "not submitted",
    "stopped",
)
"""States of a job; ``HELD`` waits for its time or for other jobs, ``STOPPED`` is a replica that is
no longer needed."""
USES = ("busy", "slow", "lost", "checkpoint", "restart", "repair", "spare", "waiting", "idle")
"""What every second of every accelerator counts as. busy: work that lasts. slow: what stragglers
cost. lost: work done again after a failure. restart: from allocation to the first step. repair: the
node is out. waiting: free while a job waits for this pool. idle: free, and nobody waits."""


MOST_STALE = 1000
"""Entries of a line whose jobs have gone, beside twice those who wait, before it is cleared."""


class Run:
    """A job and how far it is.

    On an allocation it goes through cycles of ``interval_s`` of work and a pause for the
    checkpoint. Work is counted in seconds at full speed of the allocation (``nominal``).
    """

    __slots__ = (
        "accelerators", "allocation", "base", "costs", "cycles", "done_at", "end_at",
        "first_start", "index", "job", "key", "load_s", "lost_events", "moves", "planned", "pool",
        "queued_at", "rate", "ready_at", "since", "speed", "spent_usd", "started", "startup_s",
        "state", "ticket", "unmet", "uses", "version", "waited_s", "within",
    )  # fmt: skip

    def __init__(self, index: int, job: Job) -> None:
        self.index = index
        self.job = job
        self.state = HELD
        self.unmet = len(job.after)
        self.key: Any = ()
        self.ticket = 0
        self.version = 0
        self.base = 0.0
        """Work that is safe: where the job would go on after a planned stop."""
        self.pool = ""
        self.accelerators = 0
        self.allocation: Allocation = []
        self.rate = 0.0
        """Work per nominal second."""
        self.speed = 1.0
        self.costs: CheckpointCosts | None = None
        self.startup_s = 0.0
        self.load_s = 0.0
        """Added to the next start, to load what was saved."""
        self.cycles = 0
        self.within = 0.0
        """Seconds into the cycle."""
        self.since = 0.0
        self.started = 0.0
        self.ready_at = 0.0
        """When it makes, or made, its first step on this allocation."""
        self.end_at = inf
        """When it will be done, should nothing happen."""
        self.planned = (inf, index)
        self.uses = [0.0, 0.0, 0.0, 0.0, 0.0]
        """Accelerator-seconds by the first of ``USES``."""
        self.first_start = -1.0
        self.done_at = -1.0
        self.queued_at = 0.0
        self.waited_s = 0.0
        self.moves = 0
        """Planned stops: preemptions and changes of size."""
        self.lost_events = 0
        """Failures and reclaims that struck it."""
        self.spent_usd = 0.0

    @property
    def interval_s(self) -> float:
        """Nominal seconds between checkpoints on this allocation."""
        return self.costs.interval_s if self.costs is not None else inf

    @property
    def pause_s(self) -> float:
        """Seconds that each takes."""
        return self.costs.pause_s if self.costs is not None else 0.0

    def nominal_s(self) -> float:
        """Return the work done on this allocation, in nominal seconds."""
        interval = self.interval_s
        if interval == inf:
            return self.within * self.speed
        return self.cycles * interval + min(self.within * self.speed, interval)

    def left(self) -> float:
        """Return the work that is left."""
        return self.job.work - self.base - self.rate * self.nominal_s()

    def advance(self, now: float) -> None:
        """Play the time since the last call; closed form, however many checkpoints fall into it."""
        seconds = now - self.since
        self.since = now
        if seconds <= 0.0:
            return
        n, uses = self.accelerators, self.uses
        if self.startup_s > 0.0:
            start = min(seconds, self.startup_s)
            self.startup_s -= start
            uses[4] += start * n
            seconds -= start
            if seconds <= 0.0:
                return
        speed, interval = self.speed, self.interval_s
        if interval == inf:
            self.within += seconds
            work, pauses = seconds * speed, 0.0
        else:
            length = interval / speed + self.pause_s
            total = self.within + seconds
            whole = floor(total / length)
            after = total - whole * length
            work = (
                whole * interval + min(after * speed, interval) - min(self.within * speed, interval)
            )
            pauses = seconds - work / speed
            self.cycles += whole
            self.within = after
        uses[0] += work * n
        uses[1] += (seconds - pauses - work) * n
        uses[3] += pauses * n

    def set_speed(self, speed: float) -> None:
        """Go on faster or slower from now, at the same place of the cycle."""
        work = self.interval_s / self.speed
        if self.within < work:
            self.within *= self.speed / speed
        else:
            self.within += self.interval_s / speed - work
        self.speed = speed

    def seconds_left(self) -> float:
        """Return how long until the work is done, should nothing happen."""
        if self.job.work == inf:
            return inf
        nominal = (self.job.work - self.base) / self.rate
        interval = self.interval_s
        if interval == inf:
            return self.startup_s + max(0.0, nominal / self.speed - self.within)
        pauses = max(0, ceil(nominal / interval * (1.0 - 1e-12)) - 1)
        whole = nominal / self.speed + pauses * self.pause_s
        spent = self.cycles * (interval / self.speed + self.pause_s) + self.within
        return self.startup_s + max(0.0, whole - spent)

    def keep(self) -> None:
        """Save all that was done."""
        self.base += self.rate * self.nominal_s()
        self.cycles, self.within = 0, 0.0

    def lose(self, *, from_store: bool) -> float:
        """Go back to the last checkpoint that can be restored; return what was lost.

        Parameters
        ----------
        from_store
            Memory did not survive.

        Returns
        -------
        float
            Nominal seconds of work.
        """
        if self.job.work == inf:
            # a replica serves and keeps nothing
            self.keep()
            return 0.0
        done = self.nominal_s()
        saved = 0
        if self.costs is not None and self.interval_s < inf:
            length = self.interval_s / self.speed + self.pause_s
            far = from_store and self.costs.in_memory
            every = self.costs.store_every if far else 1
            lag = self.costs.store_lag_s if far else self.costs.lag_s
            saved = self.cycles // every * every
            if (self.cycles - saved) * length + self.within < lag:
                saved = max(0, saved - every)
        kept = saved * self.interval_s if saved else 0.0
        lost = done - kept
        self.base += self.rate * kept
        self.cycles, self.within = 0, 0.0
        self.uses[0] -= lost * self.accelerators
        self.uses[2] += lost * self.accelerators
        return lost


class PoolState:
    """A pool and what its accelerators are doing."""

    def __init__(self, index: int, pool: Pool, *, packed: bool) -> None:
        self.index = index
        self.pool = pool
        self.nodes = Nodes(
            pool.nodes,
            pool.per_node,
            pool.nodes_per_rack,
            pool.nodes_per_rack * pool.racks_per_pod,
            packed=packed,
        )
        self.held = 0
        """Accelerators that jobs hold."""
        self.broken = 0
        """Accelerators on nodes that are out."""
        self.spares: list[int] = []
        self.spares_wanted = 0
        self.tenants: list[list[Run]] = [[] for _ in range(pool.nodes)]
        """Jobs on each node."""
        self.slow: dict[int, list[float]] = {}
        """Nodes that are slow -> shares of speed lost."""
        self.thin: dict[int, list[float]] = {}
        """Nodes with slow links -> shares of bandwidth lost."""
        self.ends: list[tuple[float, int]] = []
        """When each running job will be done, and which; ascending."""
        self.waiting = 0
        """Jobs that wait and may use this pool."""
        self.since = 0.0
        self.repair_s = self.spare_s = self.waiting_s = self.idle_s = self.held_s = 0.0
        self.fragmented_s = self.free_s = 0.0

    def tick(self, now: float) -> None:
        """Add up the time since the last change."""
        seconds = now - self.since
        if seconds <= 0.0:
            return
        self.since = now
        free = self.nodes.total_free
        self.repair_s += self.broken * seconds
        self.spare_s += len(self.spares) * self.pool.per_node * seconds
        self.held_s += self.held * seconds
        if self.waiting:
            self.waiting_s += free * seconds
        else:
            self.idle_s += free * seconds
        self.free_s += free * seconds
        self.fragmented_s += self.nodes.fragmented * seconds

    def set_spares(self, model: FailureModel) -> None:
        """Put spare nodes aside."""
        nodes = self.pool.nodes
        self.spares_wanted = model.spare_nodes(int(nodes / (1.0 + model.spare_fraction)))
        for node in range(nodes - self.spares_wanted, nodes):
            self.nodes.remove(node)
            self.spares.append(node)

    def link_speed(self, run: Run, exposed: float) -> float:
        """Return the share of speed that thinner links between racks and pods leave.

        1 / (1 + e (o - 1)) for exposed communication e and oversubscription o of the widest tier
        that the gang spans.
        """
        spec = self.pool
        if exposed == 0.0 or max(spec.rack_oversubscription, spec.pod_oversubscription) == 1.0:
            return 1.0
        racks, pods = self.nodes.span(run.allocation)
        thinner = 1.0
        if racks > 1:
            thinner = spec.rack_oversubscription
        if pods > 1:
            thinner = max(thinner, spec.pod_oversubscription)
        return 1.0 / (1.0 + exposed * (thinner - 1.0))

    def node_speed(self, run: Run) -> float:
        """Return the share of speed that the slowest node of a gang and its slowest link leave.

        A link down to a fraction f of its bandwidth leaves 1 / (1 + e (1 / f - 1)) of the speed of
        a job with exposed communication e.
        """
        if not self.slow and not self.thin:
            return 1.0
        lost = _worst(self.slow, run.allocation)
        thinner = _worst(self.thin, run.allocation)
        exposed = run.job.rates[run.pool].exposed_fraction
        return (1.0 - lost) / (1.0 + exposed * (1.0 / (1.0 - thinner) - 1.0))

    def schedule_end(self, run: Run) -> None:
        """Keep in order when a job will be done."""
        run.planned = (run.end_at, run.index)
        insort(self.ends, run.planned)

    def forget_end(self, run: Run) -> None:
        """Drop it."""
        place = bisect_left(self.ends, run.planned)
        assert self.ends[place] == run.planned
        del self.ends[place]


def _worst(shares: dict[int, list[float]], allocation: Allocation) -> float:
    return max((max(shares[node]) for node, _ in allocation if node in shares), default=0.0)


class Queue:
    """Jobs that wait, in buckets; in each the job of the least key comes first."""

    def __init__(self) -> None:
        self._heaps: dict[Hashable, list[tuple[Any, int, int, Run]]] = {}
        self._waiting: dict[int, Run] = {}
        self._tickets = 0

    def push(self, run: Run, bucket: Hashable) -> None:
        """Add a job; ``run.key`` orders it, then its place."""
        self._tickets += 1
        run.ticket = self._tickets
        entry = (run.key, run.index, self._tickets, run)
        heap = self._heaps.setdefault(bucket, [])
        if len(heap) > MOST_STALE + 2 * len(self._waiting):
            heap[:] = [entry for entry in heap if entry[3].ticket == entry[2]]
            heapify(heap)
        heappush(heap, entry)
        self._waiting[run.index] = run

    def remove(self, run: Run) -> None:
        """Take a job out, wherever it stands."""
        run.ticket = 0
        del self._waiting[run.index]

    def head(self, bucket: Hashable) -> Run | None:
        """Return the first of a bucket."""
        heap = self._heaps.get(bucket)
        while heap:
            _, _, ticket, run = heap[0]
            if run.ticket == ticket:
                return run
            heappop(heap)
        if heap is not None:
            del self._heaps[bucket]
        return None

    def heads(self) -> list[tuple[Any, int, Hashable, Run]]:
        """Return the first of each bucket as (key, place, bucket, job)."""
        found = []
        for bucket in list(self._heaps):
            run = self.head(bucket)
            if run is not None:
                found.append((run.key, run.index, bucket, run))
        return found

    def first(self, bucket: Hashable, most: int) -> list[Run]:
        """Return at most so many of a bucket, in order."""
        heap = self._heaps.get(bucket, [])
        entries: list[tuple[Any, int, int, Run]] = []
        while heap and len(entries) < most:
            entry = heappop(heap)
            if entry[3].ticket == entry[2]:
                entries.append(entry)
        for entry in entries:
            heappush(heap, entry)
        return [entry[3] for entry in entries]

    @property
    def length(self) -> int:
        """How many wait."""
        return len(self._waiting)

    def __iter__(self) -> Iterator[Run]:
        return iter(self._waiting.values())
