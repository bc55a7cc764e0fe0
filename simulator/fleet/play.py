"""A fleet over time: SimPy processes for arrivals, services and failures.

One scheduling pass follows all that happens at one time.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass, replace
from math import ceil, inf
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import simpy

from ridgeline.simulator.fleet.checkpoints import CheckpointCosts
from ridgeline.simulator.fleet.failures import FailureEvents, FailureModel
from ridgeline.simulator.fleet.policies import Policy, make_policy
from ridgeline.simulator.fleet.spec import Fleet, Job, Service
from ridgeline.simulator.fleet.state import (
    BROKE,
    DONE,
    DROPPED,
    HELD,
    RUNNING,
    STOPPED,
    WAITING,
    PoolState,
    Queue,
    Run,
)

if TYPE_CHECKING:
    from simpy.events import EventPriority

WINDOW_S = 90.0 * 86400.0
"""Failures are drawn for so long at a time when a fleet has no horizon."""
AFTER_ALL = 2
"""Priority of the scheduling pass among the events of one time: after those of SimPy (0 and 1)."""
MOST_SAMPLES = 2048
"""Of the time series; when there are more, every other one goes."""

Process = Generator[simpy.Event, Any, None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """A job on one allocation."""

    job: int
    pool: int
    accelerators: int
    start_s: float
    end_s: float
    ended: str
    """done, failed, reclaimed, preempted, resized, out of budget, stopped or horizon."""
    nodes: tuple[tuple[int, int], ...] = ()
    """Nodes and accelerators of each; only when they are kept."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """The fleet at one time."""

    at_s: float
    running: int
    waiting: int
    held: int
    """Accelerators in jobs."""
    broken: int
    """Accelerators on nodes that are out."""
    fragmented: int
    """Free accelerators on nodes that are partly used."""


class Playing:
    """A simulation under way; policies read it and act through it.

    Policies may read ``now``, ``queue``, ``pools`` and ``running`` and call ``start``, ``stop``,
    ``resize``, ``drop`` and ``seconds_on``.
    """

    def __init__(self, fleet: Fleet, *, seed: int | None = None, keep_nodes: bool = False) -> None:
        self.fleet = fleet
        self.seed = fleet.seed if seed is None else seed
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
        self.served: dict[str, list[float]] = {one.name: [0.0, 0.0] for one in fleet.services}
        """Requests of each service: served, asked for."""
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
        self._replicas: dict[str, list[Run]] = {one.name: [] for one in fleet.services}
        self._traffic: dict[str, tuple[float, float]] = {}
        self._sample_gap = 0.0
        self._rng = np.random.default_rng([self.seed, 1])

    @property
    def now(self) -> float:
        """Seconds since the start."""
        return float(self.env.now)

    def play(self) -> None:
        """Play to the end; an interrupt ends it early and leaves ``complete`` false."""
        env, fleet = self.env, self.fleet
        env.process(self._arrivals())
        for number, state in enumerate(self.pools.values()):
            model = state.pool.failures
            if model is not None:
                self._set_spares(state, model)
                env.process(self._failures(state, model, number))
        for service in fleet.services:
            env.process(self._service(service))
        if fleet.horizon_s < inf:
            env.process(self._stop_at(fleet.horizon_s))
        try:
            if self.runs or fleet.services:
                env.run(until=self._finished)
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
        self._seat(run, state, accelerators)
        return True

    def stop(self, run: Run) -> None:
        """Preempt a running job; what it has done is kept and it waits again."""
        self._leave(run, "preempted", planned=True)
        self._enqueue(run)

    def resize(self, run: Run, accelerators: int) -> bool:
        """Give a running job another number of accelerators of its pool, if there is room."""
        state = self.pools[run.pool]
        if accelerators == run.accelerators:
            return True
        before = run.accelerators
        self._leave(run, "resized", planned=True)
        room = state.nodes.fits(accelerators)
        self._seat(run, state, accelerators if room else before)
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
                self._enqueue(run)

    def _enqueue(self, run: Run) -> None:
        run.state = WAITING
        run.queued_at = self.now
        run.key = self.policy.key(run, self)
        self._count_queue(1)
        self.queue.push(run, self.policy.bucket(run))
        for name in run.job.rates:
            self.pools[name].tick(self.now)
            self.pools[name].waiting += 1
        self._wake()

    def _seat(self, run: Run, state: PoolState, accelerators: int) -> None:
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
        run.rate = rates.rate(accelerators) * self._link_speed(state, run, rates.exposed_fraction)
        run.startup_s = job.start_s + run.load_s
        run.load_s = 0.0
        run.speed = self._node_speed(state, run)
        run.since = run.started = now
        run.ready_at = now + run.startup_s
        if run.first_start < 0.0:
            run.first_start = now
        self.running[run.index] = run
        self.policy.held(run, accelerators, self)
        self.events += 1
        self._plan_end(run, state)

    def _plan_end(self, run: Run, state: PoolState) -> None:
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
        self._leave(run, reason, planned=True)
        run.state = reason
        run.done_at = self.now
        if reason == DONE:
            run.base = run.job.work
            for child in self._children[run.index]:
                child.unmet -= 1
                if child.unmet == 0 and child.job.submitted_s <= self.now:
                    self._enqueue(child)
        self._one_less(run)
        self._wake()

    def _one_less(self, run: Run) -> None:
        if run.index < len(self.fleet.jobs):
            self._unfinished -= 1
            if not self._unfinished and self.fleet.horizon_s == inf:
                self._finish()

    def _leave(self, run: Run, reason: str, *, planned: bool) -> None:
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
        if planned:
            run.keep()
            run.moves += reason in ("preempted", "resized")
            if run.costs is not None:
                run.load_s = run.costs.pause_s + run.costs.load_s
        self._wake()

    def _checkpoints(self, job: Job, pool: str, accelerators: int) -> CheckpointCosts | None:
        """Return what saving a job costs on an allocation; None when nothing fails there."""
        rates = job.rates[pool]
        key = (id(rates), pool, accelerators)
        if key not in self._costs:
            spec = self.pools[pool].pool
            nodes = ceil(accelerators / spec.per_node)
            mttf = spec.failures.mttf_s(nodes) if spec.failures is not None else inf
            costs = self.fleet.checkpoints.costs(rates.checkpoint_bytes, nodes, accelerators, mttf)
            self._costs[key] = costs
        return self._costs[key]

    def _link_speed(self, state: PoolState, run: Run, exposed: float) -> float:
        """Return the share of speed that thinner links between racks and pods leave.

        1 / (1 + e (o - 1)) for exposed communication e and oversubscription o of the widest tier
        that the gang spans.
        """
        spec = state.pool
        if exposed == 0.0 or max(spec.rack_oversubscription, spec.pod_oversubscription) == 1.0:
            return 1.0
        racks, pods = state.nodes.span(run.allocation)
        thinner = 1.0
        if racks > 1:
            thinner = spec.rack_oversubscription
        if pods > 1:
            thinner = max(thinner, spec.pod_oversubscription)
        return 1.0 / (1.0 + exposed * (thinner - 1.0))

    def _node_speed(self, state: PoolState, run: Run) -> float:
        """Return the share of speed that the slowest node of a gang leaves."""
        if not state.slow:
            return 1.0
        return 1.0 - max(
            (max(state.slow[node]) for node, _ in run.allocation if node in state.slow),
            default=0.0,
        )

    # failures

    def _set_spares(self, state: PoolState, model: FailureModel) -> None:
        nodes = state.pool.nodes
        spares = model.spare_nodes(int(nodes / (1.0 + model.spare_fraction)))
        state.spares_wanted = spares
        for node in range(nodes - spares, nodes):
            state.nodes.remove(node)
            state.spares.append(node)

    def _failures(self, state: PoolState, model: FailureModel, number: int) -> Process:
        rng = np.random.default_rng([self.seed, 2, number])
        factor = model.scatter(rng)
        begin = 0.0
        while True:
            window = min(WINDOW_S, self.fleet.horizon_s - begin)
            drawn = model.sample(rng, state.pool.nodes, window, factor=factor)
            for place, at in enumerate(drawn.at_s.tolist()):
                wait = begin + at - self.env.now
                if wait > 0:
                    yield self.env.timeout(wait)
                self._strike(state, model, drawn, place)
            begin += window
            if begin >= self.fleet.horizon_s:
                return
            yield self.env.timeout(begin - self.env.now)

    def _strike(
        self, state: PoolState, model: FailureModel, drawn: FailureEvents, place: int
    ) -> None:
        """Let one event happen: nodes get slow, or jobs stop and nodes go out."""
        self.events += 1
        first = int(drawn.first_node[place])
        nodes = range(first, first + int(drawn.nodes[place]))
        slowdown, out_s = float(drawn.slowdown[place]), float(drawn.out_s[place])
        if slowdown > 0.0:
            for node in nodes:
                state.slow.setdefault(node, []).append(slowdown)
                self._respeed(state, node)
            self._later(out_s, lambda: self._recover(state, nodes, slowdown))
            return
        struck = [node for node in nodes if node not in state.nodes.out]
        victims = sorted({run.index: run for node in struck for run in state.tenants[node]}.items())
        component = model.causes[int(drawn.cause[place])].component
        lost_here = [(run, sum(node in struck for node, _ in run.allocation)) for _, run in victims]
        for run, lost in lost_here:
            self._interrupt(run, lost if out_s else 0, component, model)
        if out_s:
            state.tick(self.now)
            for node in struck:
                state.nodes.remove(node)
                state.broken += state.pool.per_node
                if state.spares:
                    state.nodes.restore(state.spares.pop())
            if struck:
                self._later(out_s, lambda: self._repair(state, struck))
        for run, _ in lost_here:
            # who was struck goes on at once where there is room, before those that wait
            if state.nodes.fits(run.accelerators):
                self._seat(run, state, run.accelerators)
            else:
                self._enqueue(run)
        self._wake()

    def _interrupt(self, run: Run, lost_nodes: int, component: str, model: FailureModel) -> None:
        state = self.pools[run.pool]
        run.advance(self.now)
        costs = run.costs
        nodes = len(run.allocation)
        from_store = False
        if costs is not None and costs.in_memory and lost_nodes:
            survives = self.fleet.checkpoints.survival(nodes, lost_nodes)
            from_store = bool(self._rng.random() >= survives)
        run.lose(from_store=from_store)
        run.lost_events += 1
        reason = "reclaimed" if component == "provider" else "failed"
        self._leave(run, reason, planned=False)
        load = 0.0
        if costs is not None:
            load = costs.store_load_s if from_store else costs.load_s
        run.load_s = model.restart_s(run.accelerators) + load
        assert state.held >= 0

    def _repair(self, state: PoolState, nodes: list[int]) -> None:
        self.events += 1
        state.tick(self.now)
        for node in nodes:
            state.broken -= state.pool.per_node
            if len(state.spares) < state.spares_wanted:
                state.spares.append(node)
            else:
                state.nodes.restore(node)
        self._wake()

    def _recover(self, state: PoolState, nodes: range, slowdown: float) -> None:
        for node in nodes:
            state.slow[node].remove(slowdown)
            if not state.slow[node]:
                del state.slow[node]
            self._respeed(state, node)

    def _respeed(self, state: PoolState, node: int) -> None:
        """Let the jobs of a node go on at the speed that they now have."""
        for run in state.tenants[node]:
            speed = self._node_speed(state, run)
            if speed != run.speed:
                run.advance(self.now)
                run.set_speed(speed)
                state.forget_end(run)
                self._plan_end(run, state)

    def _later(self, seconds: float, act: Callable[[], None]) -> None:
        self.env.timeout(seconds).callbacks.append(lambda _: act())

    # services

    def _service(self, service: Service) -> Process:
        slot = 0
        while True:
            self._count_service(service)
            traffic = service.traffic[slot % len(service.traffic)]
            self._traffic[service.name] = (self.now, traffic)
            self.events += 1
            useful = service.requests_per_s * (1.0 - service.headroom)
            wanted = max(service.least, ceil(traffic / useful - 1e-9))
            replicas = self._replicas[service.name]
            while len(replicas) < wanted:
                name = f"{service.name}/{len(self.runs)}"
                replica = replace(service.replica, name=name, submitted_s=self.now)
                run = Run(len(self.runs), replica)
                self.runs.append(run)
                self._children.append([])
                replicas.append(run)
                self._enqueue(run)
            while len(replicas) > wanted:
                self._retire(replicas.pop())
            slot += 1
            yield self.env.timeout(service.slot_s)

    def _retire(self, run: Run) -> None:
        if run.state == RUNNING:
            self._leave(run, STOPPED, planned=True)
        else:
            self.drop(run)
        run.state = STOPPED
        run.done_at = self.now

    def _count_service(self, service: Service) -> None:
        """Add up what a service was asked for since the last slot, and what it served."""
        if service.name not in self._traffic:
            return
        since, traffic = self._traffic[service.name]
        seconds = self.now - since
        up = sum(self._up_s(run, since) for run in self._replicas[service.name])
        served = self.served[service.name]
        served[0] += min(traffic * seconds, up * service.requests_per_s)
        served[1] += traffic * seconds

    def _up_s(self, run: Run, since: float) -> float:
        """Return how long a replica that runs now has been up in a slot."""
        if run.state != RUNNING:
            return 0.0
        return max(0.0, self.now - max(since, run.ready_at))

    # the pass

    def _wake(self) -> None:
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
        for service in self.fleet.services:
            self._count_service(service)
        for run in list(self.running.values()):
            self._leave(run, "horizon", planned=True)
            run.state = RUNNING
        for run in self.runs:
            if run.state == WAITING:
                run.waited_s += self.now - run.queued_at
        for state in self.pools.values():
            state.tick(self.now)


def states_of(playing: Playing) -> dict[str, int]:
    """Count jobs by how they ended."""
    counts = dict.fromkeys((DONE, RUNNING, WAITING, DROPPED, BROKE, HELD), 0)
    for run in playing.runs[: len(playing.fleet.jobs)]:
        counts[run.state] += 1
    return counts
