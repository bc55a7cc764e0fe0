"""What a played fleet says: flat frozen records."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import fsum, inf
from typing import Any

from ridgeline.simulator.fleet.play import Playing
from ridgeline.simulator.fleet.segments import Sample, Segment
from ridgeline.simulator.fleet.services import Desk
from ridgeline.simulator.fleet.spec import Fleet
from ridgeline.simulator.fleet.state import DONE, USES

SCHEMA_VERSION = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class JobResult:
    """What became of a job."""

    name: str
    kind: str
    user: str
    state: str
    accelerators: int
    """Of its last allocation; 0 when it never ran."""
    submitted_s: float
    started_s: float | None
    done_s: float | None
    waited_s: float
    """In the queue, all waits together."""
    accelerator_hours: float
    ettr: float
    """Share of the time from submission to the end (or the horizon) that was work that lasts."""
    deadline_met: bool | None
    """None where there is none."""
    moves: int
    """Preemptions and changes of size."""
    interruptions: int
    usd: float
    """At the price of its accelerators while it held them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceResult:
    """What became of a service."""

    name: str
    asked: float
    """Requests."""
    served: float
    """Of these, that its replicas had room for."""
    mean_replicas: float
    """That served, over time."""
    replica_requests_per_s: dict[str, float]
    """What one replica sustains on each pool."""
    replica_plans: dict[str, str]
    """The deployment behind it, where it was simulated."""

    @property
    def served_share(self) -> float:
        """Of what was asked."""
        return self.served / self.asked if self.asked else 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetResult:
    """A fleet over its time. Means over jobs are over those that are done."""

    name: str
    policy: str
    seed: int
    complete: bool
    """False after an interrupt: what was played until then."""
    span_s: float
    """From the start to the end of the last job, or the horizon."""
    accelerators: int
    states: dict[str, int]
    """How jobs ended -> how many."""
    uses: dict[str, float]
    """Share of all accelerator-seconds by use; they add up to 1."""
    goodput: float
    """Work that lasts over all accelerator-seconds of the fleet."""
    ettr: float
    """Effective training time ratio: work that lasts over what jobs held."""
    utilisation: float
    """Held by jobs over all."""
    mfu: float
    """Model FLOPs over peak FLOP/s of the whole fleet times the calendar; 0 where no job's FLOPs
    are known."""
    mean_wait_s: float
    mean_jct_s: float
    """From submission to done."""
    p95_jct_s: float
    makespan_s: float
    """From the first submission to the last end."""
    deadlines: int
    deadlines_met: int
    preemptions: int
    """Planned stops, changes of size included."""
    interruptions: int
    fragmentation: float
    """Share of free accelerators that lie on nodes partly used, over time."""
    mean_queue: float
    """Jobs waiting, over time."""
    cost_usd: float
    usd_per_useful_hour: float
    """Dollars over accelerator-hours of work that lasts; infinite without any."""
    energy_kwh: float
    services: tuple[ServiceResult, ...]
    events: int

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> FleetResult:
        """Return what :meth:`to_dict` was made of."""
        services = tuple(ServiceResult(**one) for one in values["services"])
        return cls(**{**values, "services": services})


@dataclass(frozen=True, slots=True, kw_only=True)
class Played:
    """A result with what is behind it."""

    fleet: Fleet
    result: FleetResult
    jobs: tuple[JobResult, ...]
    segments: tuple[Segment, ...]
    samples: tuple[Sample, ...]

    def _repr_html_(self) -> str:
        """Return what a notebook shows."""
        from ridgeline.simulator.notebook import fleet_html

        return fleet_html(self)

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON contract (``docs/json.md``)."""
        return {
            "schema": "ridgeline.cluster",
            "schema_version": SCHEMA_VERSION,
            **self.result.to_dict(),
            "jobs": [asdict(job) for job in self.jobs],
            "series": [asdict(sample) for sample in self.samples],
        }


def play_fleet(fleet: Fleet, *, seed: int | None = None, keep_nodes: bool = False) -> Played:
    """Play a fleet and return what came of it.

    Parameters
    ----------
    seed
        Instead of the fleet's own: other failures and other arrivals; listed and traced jobs stay.
    keep_nodes
        Remember which nodes each job had, for a timeline.
    """
    playing = Playing(fleet, seed=seed, keep_nodes=keep_nodes)
    playing.play()
    return summarise(playing)


def summarise(playing: Playing) -> Played:
    """Add up a simulation that has ended."""
    fleet, span = playing.fleet, playing.now
    own = playing.runs[: len(fleet.jobs)]
    jobs = tuple(_job(run, span) for run in own)
    done = [job for job in jobs if job.state == DONE]
    completion = sorted(_end(job) - job.submitted_s for job in done)
    uses = _uses(playing)
    held = fsum(uses[name] for name in USES[:5])
    total = fsum(uses.values())
    free = fsum(state.free_s for state in playing.pools.values())
    fragmented = fsum(state.fragmented_s for state in playing.pools.values())
    with_deadline = [job for job in jobs if job.deadline_met is not None]
    usd = _dollars(playing, span)
    states: dict[str, int] = {}
    for job in jobs:
        states[job.state] = states.get(job.state, 0) + 1
    result = FleetResult(
        name=fleet.name,
        policy=fleet.policy,
        seed=playing.seed,
        complete=playing.complete,
        span_s=span,
        accelerators=fleet.accelerators,
        states=states,
        uses={name: value / total if total else 0.0 for name, value in uses.items()},
        goodput=uses["busy"] / total if total else 0.0,
        ettr=uses["busy"] / held if held else 0.0,
        utilisation=held / total if total else 0.0,
        mfu=_mfu(playing, span),
        mean_wait_s=_mean([job.waited_s for job in done]),
        mean_jct_s=_mean(completion),
        p95_jct_s=completion[max(0, -(-95 * len(completion) // 100) - 1)] if done else 0.0,
        makespan_s=max(map(_end, done)) - min(job.submitted_s for job in jobs) if done else 0.0,
        deadlines=len(with_deadline),
        deadlines_met=sum(bool(job.deadline_met) for job in with_deadline),
        preemptions=sum(job.moves for job in jobs),
        interruptions=sum(run.lost_events for run in playing.runs),
        fragmentation=fragmented / free if free else 0.0,
        mean_queue=playing.queue_integral_s / span if span else 0.0,
        cost_usd=usd,
        usd_per_useful_hour=usd / (uses["busy"] / 3600.0) if uses["busy"] else inf,
        energy_kwh=_energy(playing),
        services=tuple(_service(desk, span) for desk in playing.services.desks.values()),
        events=playing.events,
    )
    return Played(
        fleet=fleet,
        result=result,
        jobs=jobs,
        segments=tuple(playing.segments),
        samples=tuple(playing.samples),
    )


def _job(run: Any, span: float) -> JobResult:
    job = run.job
    ended = run.done_at if run.done_at >= 0.0 else span
    met = None
    if job.deadline_s < inf:
        met = run.state == DONE and run.done_at <= job.deadline_s
    present = ended - job.submitted_s
    held = fsum(run.uses)
    # the share of its held time that lasts, over all the time that it was there
    busy_s = (present - run.waited_s) * run.uses[0] / held if held else 0.0
    return JobResult(
        name=job.name,
        kind=job.kind,
        user=job.user,
        state=run.state,
        accelerators=run.accelerators,
        submitted_s=job.submitted_s,
        started_s=run.first_start if run.first_start >= 0.0 else None,
        done_s=run.done_at if run.state == DONE else None,
        waited_s=run.waited_s,
        accelerator_hours=held / 3600.0,
        ettr=min(1.0, max(0.0, busy_s / present)) if present > 0 else 0.0,
        deadline_met=met,
        moves=run.moves,
        interruptions=run.lost_events,
        usd=run.spent_usd,
    )


def _service(desk: Desk, span: float) -> ServiceResult:
    rates = desk.service.replica.rates
    return ServiceResult(
        name=desk.service.name,
        asked=desk.asked,
        served=desk.served,
        mean_replicas=desk.up_s / span if span else 0.0,
        replica_requests_per_s={pool: one.per_s[0] for pool, one in rates.items()},
        replica_plans={pool: one.plans[0] for pool, one in rates.items() if one.plans},
    )


def _end(job: JobResult) -> float:
    assert job.done_s is not None
    return job.done_s


def _mean(values: Sequence[float]) -> float:
    return fsum(values) / len(values) if values else 0.0


def _uses(playing: Playing) -> dict[str, float]:
    """Return accelerator-seconds by use."""
    states = playing.pools.values()
    held = [fsum(run.uses[place] for run in playing.runs) for place in range(5)]
    return dict(
        zip(
            USES,
            (
                *held,
                fsum(state.repair_s for state in states),
                fsum(state.spare_s for state in states),
                fsum(state.waiting_s for state in states),
                fsum(state.idle_s for state in states),
            ),
            strict=True,
        )
    )


def _mfu(playing: Playing, span: float) -> float:
    flops = 0.0
    for run in playing.runs:
        if run.pool and run.job.work < inf:
            flops += run.base * run.job.rates[run.pool].flops_per_work
    peak = fsum(s.pool.peak_flops * s.pool.accelerators for s in playing.pools.values())
    return flops / (peak * span) if peak * span else 0.0


def _dollars(playing: Playing, span: float) -> float:
    return fsum(
        state.pool.usd_per_accelerator_hour
        / 3600.0
        * (state.pool.accelerators * span if state.pool.pay == "all" else state.held_s)
        for state in playing.pools.values()
    )


def _energy(playing: Playing) -> float:
    joule = fsum(
        state.held_s * state.pool.busy_w
        + (state.pool.accelerators * playing.now - state.held_s) * state.pool.idle_w
        for state in playing.pools.values()
    )
    return joule / 3.6e6
