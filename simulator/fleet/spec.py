"""A fleet: pools of accelerators, jobs and services, and how they are scheduled."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import inf

from ridgeline.simulator.fleet.checkpoints import CheckpointPolicy
from ridgeline.simulator.fleet.failures import FailureModel

KINDS = ("training", "fine-tuning", "service")
PLACEMENTS = ("packed", "spread")


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """Accelerators of one kind: nodes in racks, racks in pods."""

    name: str
    accelerator: str
    nodes: int
    per_node: int = 8
    nodes_per_rack: int = 4
    """DGX SuperPOD, H100: four nodes a rack."""
    racks_per_pod: int = 8
    """DGX SuperPOD, H100: a scalable unit is 32 nodes."""
    rack_oversubscription: float = 1.0
    """Bandwidth into the racks over bandwidth between them, >= 1."""
    pod_oversubscription: float = 1.0
    """The same of pods."""
    spot: bool = False
    """Capacity that its owner may take back."""
    usd_per_accelerator_hour: float = 0.0
    pay: str = "all"
    """all: every accelerator, used or not; used: those that jobs hold."""
    busy_w: float = 0.0
    """Drawn from the grid for each accelerator in a job, host and PUE included."""
    idle_w: float = 0.0
    peak_flops: float = 0.0
    """Of one accelerator, in the precision that MFU refers to."""
    failures: FailureModel | None = None

    @property
    def accelerators(self) -> int:
        """How many there are."""
        return self.nodes * self.per_node


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """How fast a job goes on so many accelerators of a pool."""

    counts: tuple[int, ...]
    """Allocations that the job can use, ascending; one for a gang of fixed size."""
    per_s: tuple[float, ...]
    """Work done in a second on each."""
    flops_per_work: float = 0.0
    """Model FLOPs of one unit of work."""
    exposed_fraction: float = 0.0
    """Share of a step that waits for communication; slower links cost that much of the speed."""
    checkpoint_bytes: float = 0.0
    plans: tuple[str, ...] = ()
    """The plan behind each rate, where a plan was simulated."""

    def index(self, accelerators: int) -> int:
        """Return the place of the largest allocation that fits into so many; -1 for none."""
        return bisect_right(self.counts, accelerators) - 1

    def rate(self, accelerators: int) -> float:
        """Return the work done in a second on so many accelerators."""
        place = self.index(accelerators)
        return self.per_s[place] if place >= 0 else 0.0


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Job:
    """Something to be computed by a gang of accelerators, all or none of them."""

    name: str
    work: float
    """Tokens, or seconds at the rate 1; infinite for a replica of a service."""
    rates: Mapping[str, Rates]
    """By pool, the preferred one first."""
    submitted_s: float = 0.0
    kind: str = "training"
    user: str = ""
    priority: int = 0
    """Higher goes first."""
    deadline_s: float = inf
    """On the fleet's clock."""
    budget_usd: float = inf
    """The job is stopped when its accelerators have cost that much."""
    after: tuple[int, ...] = ()
    """Places of the jobs that must be done first."""
    accelerators: int = 0
    """That it asks for when it need not share; 0 takes the fewest that it can use."""
    start_s: float = 0.0
    """From allocation to the first step [s]."""

    def asks(self, pool: str) -> int:
        """Return the accelerators that a gang of fixed size takes of a pool."""
        rates = self.rates[pool]
        return rates.counts[max(0, rates.index(self.accelerators))]

    @property
    def least_s(self) -> float:
        """The shortest time that it can take on any allocation."""
        return self.work / max(max(rates.per_s) for rates in self.rates.values())


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Arrivals:
    """A Poisson stream of jobs; every seed has its own."""

    name: str
    rate_per_s: float
    jobs: int
    """So many, then no more."""
    sizes: tuple[int, ...]
    """Accelerators to choose from."""
    shares: tuple[float, ...] = ()
    """How often each; empty for all alike."""
    rates: Mapping[int, Mapping[str, Rates]]
    """By size, by pool."""
    mean_s: float
    """Of their lengths, which follow ``law``: exponential, lognormal or fixed."""
    law: str = "exponential"
    log_sd: float = 1.0
    users: int = 1
    deadline_slack: float | None = None
    """Deadline over length; None for none."""
    like: Job
    """Kind, user, priority, budget and start of all of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """Replicas of a model that come and go with traffic."""

    name: str
    replica: Job
    """What one replica takes; its work is infinite and its rates are the requests per second that
    it sustains."""
    traffic: tuple[float, ...]
    """Requests per second, one for each slot; repeats."""
    slot_s: float = 3600.0
    headroom: float = 0.0
    """Share of capacity to keep free."""
    least: int = 1
    """Replicas that stay when there is no traffic."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fleet:
    """All that a simulation needs."""

    name: str
    pools: tuple[Pool, ...]
    jobs: tuple[Job, ...]
    """In order of submission."""
    arrivals: tuple[Arrivals, ...] = ()
    """Drawn when the fleet is played (``arrivals.drawn``)."""
    services: tuple[Service, ...] = ()
    policy: str = "fifo"
    """A name of ``policies.POLICIES``, or ``module:Class``."""
    options: Mapping[str, float] = field(default_factory=dict)
    """Of the policy."""
    placement: str = "packed"
    checkpoints: CheckpointPolicy = field(default_factory=CheckpointPolicy)
    horizon_s: float = inf
    """Nothing is played after; infinite plays until the last job is done."""
    seed: int = 0

    @property
    def accelerators(self) -> int:
        """Of all pools."""
        return sum(pool.accelerators for pool in self.pools)
