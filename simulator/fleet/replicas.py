"""What a replica of a service sustains: what the serving simulator says within its promises."""

from __future__ import annotations

from dataclasses import dataclass

from ridgeline.simulator.serving.choice.goals import Demand, parse_goals
from ridgeline.simulator.serving.choice.rate import highest_rate
from ridgeline.simulator.serving.choice.space import ServiceSpace
from ridgeline.workloads import load_model
from ridgeline.workloads.traffic.build import gamma_arrivals, open_loop
from ridgeline.workloads.traffic.lengths import Lengths

REQUESTS = 1000
"""Played at every rate that is tried: a percentile of 99 rests on ten of them."""
SEED = 0
"""Of these requests: a replica sustains the same whatever strikes the fleet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaAsk:
    """A replica whose rate is asked for; equal ones are simulated once."""

    model: str
    accelerator: str
    accelerators: int
    """Of the replica, which the engine splits as it does best."""
    input_len: int
    output_len: int
    """Mean tokens of a request; both are log-normal with a deviation as large as the mean."""
    slo: str
    """What is promised, as ``ttft=500ms@p99,tpot=50ms``."""
    precision: str = "bf16"
    engine: str = ""
    """Empty takes the usual one of the accelerator."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaRate:
    """What a replica sustains, and how."""

    requests_per_s: float
    plan: str


_KNOWN: dict[ReplicaAsk, ReplicaRate] = {}


def replica_rate(ask: ReplicaAsk) -> ReplicaRate:
    """Return the highest rate of Poisson requests at which a replica keeps its promises.

    Found by doubling and bisection over plays of the serving engine, to within 1%
    (:func:`ridgeline.simulator.serving.choice.rate.highest_rate`), over splits that fit.

    Raises
    ------
    InputError
        Promises or names that mean nothing.
    InfeasibleError
        The model does not fit, or an idle replica already breaks a promise.
    """
    if ask not in _KNOWN:
        _KNOWN[ask] = _simulated(ask)
    return _KNOWN[ask]


def _simulated(ask: ReplicaAsk) -> ReplicaRate:
    traffic = open_loop(
        gamma_arrivals(1.0, REQUESTS, seed=SEED),
        Lengths(mean=ask.input_len, kind="log-normal"),
        Lengths(mean=ask.output_len, kind="log-normal"),
        seed=SEED,
    )
    space = ServiceSpace(
        model=load_model(ask.model),
        accelerators=(ask.accelerator,),
        engine=ask.engine,
        precisions=(ask.precision,),
        max_sequences=(0,),
        max_tokens=(0,),
        modes=("aggregated",),
        most=ask.accelerators,
    )
    words = f"{ask.input_len:,} + {ask.output_len:,} tokens"
    found = highest_rate(space, Demand(traffic=traffic, goals=parse_goals(ask.slo), asked=words))
    pools = "; ".join(
        f"{pool.replicas} x tp {pool.tp}, pp {pool.pp}, dp {pool.dp}, ep {pool.ep}"
        for pool in found.plan.pools
    )
    return ReplicaRate(requests_per_s=found.requests_per_s, plan=f"{found.plan.engine}: {pools}")
