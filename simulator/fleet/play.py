"""A fleet over time: SimPy processes for arrivals, services and failures.

One scheduling pass follows all that happens at one time.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from math import ceil, inf
from typing import TYPE_CHECKING, Any, cast

import simpy

from ridgeline.simulator.fleet.arrivals import drawn
from ridgeline.simulator.fleet.checkpoints import CheckpointCosts
from ridgeline.simulator.fleet.interrupts import stoppable
from ridgeline.simulator.fleet.policies import Policy, make_policy
from ridgeline.simulator.fleet.segments import Sample, Segment
from ridgeline.simulator.fleet.services import Services
from ridgeline.simulator.fleet.spec import Fleet, Job
from ridgeline.simulator.fleet.state import (
    BROKE,
    DONE,
    DROPPED,
    RUNNING,
    STOPPED,
    WAITING,
    PoolState,
    Queue,
    Run,
)
from ridgeline.simulator.fleet.strikes import Strikes

if TYPE_CHECKING:
    from simpy.events import EventPriority

AFTER_ALL = 2
"""Priority of the scheduling pass among the events of one time: after those of SimPy (0 and 1)."""
MOST_SAMPLES = 2048
"""Of the time series; when there are more, every other one goes."""

Process = Generator[simpy.Event, Any, None]


class Playing:
    """A simulation under way; policies read it and act through it.

    Policies may read ``now``, ``queue``, ``pools`` and ``running`` and call ``start``, ``stop``,
    ``resize``, ``drop`` and ``seconds_on``.
    """

    def __init__(self, fleet: Fleet, *, seed: int | None = None, keep_nodes: bool = False) -> None:
        fleet = drawn(fleet, seed)
        self.fleet = fleet
        self.seed = fleet.seed
        self.env = simpy.Environment()
        self.policy: Policy = make_policy(fleet.policy, fleet.options)
        packed = fleet.placement == "packed"
        self.pools = {
            pool.name: PoolState(index, pool, packed=packed)
            for index, pool in enumerate(fleet.pools)
        }
        self.runs = [Run(index, job) for index, job in enumerate(fleet.jobs)]
        self.queue = Queue()
        self.running: dict[int, Run] = {}
        self.segments: list[Segment] = []
        self.samples: list[Sample] = []
        self.events = 0
        """Arrivals, starts, ends, failures, repairs and changes of traffic."""
        self.complete = False
        self.queue_integral_s = 0.0
        """Waiting jobs times seconds."""
        self._queue_since = 0.0
        self._keep_nodes = keep_nodes
        self._children: list[list[Run]] = [[] for _ in self.runs]
        for run in self.runs:
            for parent in run.job.after:
                self._children[parent].append(run)
        self._unfinished = len(self.runs)
        self._to_come = len(self.runs)
        self._pass_planned = False
        self._finished = self.env.event()
        self._costs: dict[tuple[int, str, int], CheckpointCosts | None] = {}
        self._sample_gap = 0.0
        self.services = Services(self)

    @property
    def now(self) -> float:
        """Seconds since the start."""
        return float(self.env.now)

    def play(self) -> None:
        """Play to the end; an interrupt ends it after an event and leaves ``complete`` false."""
        env, fleet = self.env, self.fleet
        env.process(self._arrivals())
        strikes = Strikes(self)
        for number, state in enumerate(self.pools.values()):
            model = state.pool.failures
            if model is not None:
                state.set_spares(model)
                env.process(strikes.strike_pool(state, model, number))
        for service in fleet.services:
            env.process(self.services.follow(service))
        if fleet.horizon_s < inf:
            env.process(self._stop_at(fleet.horizon_s))
        with stoppable() as wish:
            try:
                if self.runs or fleet.services:
                    while not (self._finished.processed or wish.stop):
                        env.step()
                self.complete = not wish.stop
            except simpy.core.EmptySchedule:
                self.complete = True
            except KeyboardInterrupt:
                pass
        self._close()

    # what policies do

    def start(self, run: Run, pool: str, accelerators: int) -> bool:
        """Start a waiting job on a gang of a pool; say whether there was room."""
        state = self.pools[pool]
        if not state.nodes.fits(accelerators):
            return False
        self._count_queue(-1)
        self.queue.remove(run)
        run.waited_s += self.now - run.queued_at
        for name in run.job.rates:
            self.pools[name].tick(self.now)
            self.pools[name].waiting -= 1
        self.seat(run, state, accelerators)
        return True

    def stop(self, run: Run) -> None:
        """Preempt a running job; what it has done is kept and it waits again."""
        self.leave(run, "preempted", planned=True)
        self.enqueue(run)

    def resize(self, run: Run, accelerators: int) -> bool:
        """Give a running job another number of accelerators of its pool, if there is room."""
        state = self.pools[run.pool]
        if accelerators == run.accelerators:
            return True
        before = run.accelerators
        self.leave(run, "resized", planned=True)
        room = state.nodes.fits(accelerators)
        self.seat(run, state, accelerators if room else before)
        return room

    def drop(self, run: Run) -> None:
        """Refuse a waiting job for good."""
        self._count_queue(-1)
        self.queue.remove(run)
        for name in run.job.rates:
            self.pools[name].tick(self.now)
            self.pools[name].waiting -= 1
        run.waited_s += self.now - run.queued_at
        run.state = DROPPED
        self._one_less(run)

    def seconds_on(self, run: Run, pool: str, accelerators: int) -> float:
        """Return how long the rest of a job takes on an allocation, should nothing happen."""
        rate = run.job.rates[pool].rate(accelerators)
        if rate == 0.0:
            return inf
        if run.state == RUNNING:
            run.advance(self.now)
        left = run.left() if run.state == RUNNING else run.job.work - run.base
        costs = self._checkpoints(run.job, pool, accelerators)
        share = costs.pause_s / costs.interval_s if costs is not None else 0.0
        return run.job.start_s + run.load_s + left / rate * (1.0 + share)

    # jobs

    def _arrivals(self) -> Process:
        for run in self.runs[: len(self.fleet.jobs)]:
            wait = run.job.submitted_s - self.env.now
            if wait > 0:
                yield self.env.timeout(wait)
            self._to_come -= 1
            self.events += 1
            if run.unmet == 0:
                self.enqueue(run)

    def enqueue(self, run: Run) -> None:
        """Let a job wait."""
        run.state = WAITING
        run.queued_at = self.now
        run.key = self.policy.key(run, self)
        self._count_queue(1)
        self.queue.push(run, self.policy.bucket(run))
        for name in run.job.rates:
            self.pools[name].tick(self.now)
            self.pools[name].waiting += 1
        self.wake()

    def seat(self, run: Run, state: PoolState, accelerators: int) -> None:
        """Put a job on accelerators that are free."""
        now, job = self.now, run.job
        state.tick(now)
        run.allocation = state.nodes.take(accelerators)
        state.held += accelerators
        for node, _ in run.allocation:
            state.tenants[node].append(run)
        rates = job.rates[state.pool.name]
        run.pool, run.accelerators, run.state = state.pool.name, accelerators, RUNNING
        run.costs = self._checkpoints(job, run.pool, accelerators)
        run.rate = rates.rate(accelerators) * state.link_speed(run, rates.exposed_fraction)
        run.startup_s = job.start_s + run.load_s
        run.load_s = 0.0
        run.speed = state.node_speed(run)
        run.since = run.started = now
        run.ready_at = now + run.startup_s
        if run.first_start < 0.0:
            run.first_start = now
        self.running[run.index] = run
        self.policy.held(run, accelerators, self)
        self.events += 1
        self.plan_end(run, state)
        self.services.placed(run)

    def plan_end(self, run: Run, state: PoolState) -> None:
        """Say when a running job will end, and come back then."""
        run.version += 1
        left = run.seconds_left()
        price = run.accelerators * state.pool.usd_per_accelerator_hour / 3600.0
        broke = inf
        if run.job.budget_usd < inf and price > 0.0:
            broke = (run.job.budget_usd - run.spent_usd) / price - (self.now - run.started)
        run.end_at = self.now + left
        state.schedule_end(run)
        if min(left, broke) < inf:
            version, reason = run.version, DONE if left <= broke else BROKE
            event = self.env.timeout(max(0.0, min(left, broke)))
            event.callbacks.append(lambda _: self._end(run, version, reason))

    def _end(self, run: Run, version: int, reason: str) -> None:
        if run.version != version:
            return
        self.leave(run, reason, planned=True)
        run.state = reason
        run.done_at = self.now
        if reason == DONE:
            run.base = run.job.work
            for child in self._children[run.index]:
                child.unmet -= 1
                if child.unmet == 0 and child.job.submitted_s <= self.now:
                    self.enqueue(child)
        self._one_less(run)
        self.wake()

    def _one_less(self, run: Run) -> None:
        if run.index < len(self.fleet.jobs):
            self._unfinished -= 1
            if not self._unfinished and self.fleet.horizon_s == inf:
                self._finish()

    def leave(self, run: Run, reason: str, *, planned: bool) -> None:
        """Take a running job off its accelerators."""
        now, state = self.now, self.pools[run.pool]
        state.tick(now)
        run.advance(now)
        run.version += 1
        state.forget_end(run)
        state.held -= run.accelerators
        state.nodes.give(run.allocation)
        for node, _ in run.allocation:
            state.tenants[node].remove(run)
        hours = (now - run.started) * run.accelerators / 3600.0
        run.spent_usd += hours * state.pool.usd_per_accelerator_hour
        self.segments.append(
            Segment(
                job=run.index,
                pool=state.index,
                accelerators=run.accelerators,
                start_s=run.started,
                end_s=now,
                ended=reason,
                nodes=tuple(run.allocation) if self._keep_nodes else (),
            )
        )
        self.policy.held(run, -run.accelerators, self)
        self.events += 1
        del self.running[run.index]
        self.services.gone(run)
        if planned:
            run.keep()
            run.moves += reason in ("preempted", "resized")
            if run.costs is not None:
                run.load_s = run.costs.pause_s + run.costs.load_s
        self.wake()

    def _checkpoints(self, job: Job, pool: str, accelerators: int) -> CheckpointCosts | None:
        """Return what saving a job costs on an allocation; None for a replica of a service."""
        if job.work == inf:
            return None
        rates = job.rates[pool]
        key = (id(rates), pool, accelerators)
        if key not in self._costs:
            spec = self.pools[pool].pool
            nodes = ceil(accelerators / spec.per_node)
            mttf = spec.failures.mttf_s(nodes) if spec.failures is not None else inf
            costs = self.fleet.checkpoints.costs(rates.checkpoint_bytes, nodes, accelerators, mttf)
            self._costs[key] = costs
        return self._costs[key]

    def later(self, seconds: float, act: Callable[[], None]) -> None:
        """Do something in so many seconds."""
        self.env.timeout(seconds).callbacks.append(lambda _: act())

    # services

    def submit(self, job: Job) -> Run:
        """Add a job that no file knows of."""
        run = Run(len(self.runs), job)
        self.runs.append(run)
        self._children.append([])
        return run

    def retire(self, run: Run) -> None:
        """Let a replica that is not needed any more go."""
        if run.state == RUNNING:
            self.leave(run, STOPPED, planned=True)
        else:
            self.drop(run)
        run.state = STOPPED
        run.done_at = self.now

    # the pass

    def wake(self) -> None:
        """Have one scheduling pass after all that happens now."""
        if self._pass_planned:
            return
        self._pass_planned = True
        event = self.env.event()
        event._ok = True  # noqa: SLF001  (as simpy.Timeout does, for a priority of our own)
        event._value = None  # noqa: SLF001
        event.callbacks.append(lambda _: self._pass())
        self.env.schedule(event, priority=cast("EventPriority", AFTER_ALL))

    def _pass(self) -> None:
        # what a policy that shares everything anew does itself is no reason for another pass
        self._pass_planned = self.policy.settles
        self.policy.schedule(self)
        if self.policy.settles:
            self._pass_planned = False
        self._sample()
        stuck = self.queue.length and not (self.running or self._to_come or self._pass_planned)
        stuck = stuck and not self.fleet.services
        if stuck and not any(state.broken for state in self.pools.values()):
            self._finish()

    def _finish(self) -> None:
        if not self._finished.triggered:
            self._finished.succeed()

    def _stop_at(self, horizon_s: float) -> Process:
        yield self.env.timeout(horizon_s)
        self._finish()

    def _count_queue(self, change: int) -> None:
        now = self.now
        self.queue_integral_s += self.queue.length * (now - self._queue_since)
        self._queue_since = now
        assert self.queue.length + change >= 0

    def _sample(self) -> None:
        samples = self.samples
        if samples and self.now - samples[-1].at_s < self._sample_gap:
            return
        states = self.pools.values()
        samples.append(
            Sample(
                at_s=self.now,
                running=len(self.running),
                waiting=self.queue.length,
                held=sum(state.held for state in states),
                broken=sum(state.broken for state in states),
                fragmented=sum(state.nodes.fragmented for state in states),
            )
        )
        if len(samples) > MOST_SAMPLES:
            del samples[1::2]
            self._sample_gap = (samples[-1].at_s - samples[0].at_s) / MOST_SAMPLES

    def _close(self) -> None:
        """Settle what is still running."""
        self._count_queue(0)
        self.services.close()
        for run in list(self.running.values()):
            self.leave(run, "horizon", planned=True)
            run.state = RUNNING
        for run in self.runs:
            if run.state == WAITING:
                run.waited_s += self.now - run.queued_at
        for state in self.pools.values():
            state.tick(self.now)
