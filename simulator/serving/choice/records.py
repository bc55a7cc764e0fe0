"""What the choice of a service says: flat frozen records. Rendering reads them."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields
from typing import Any

from ridgeline.hardware.cluster import Cluster
from ridgeline.simulator.serving.choice.goals import Demand, Goal
from ridgeline.simulator.serving.choice.space import Replica
from ridgeline.simulator.serving.choice.trial import Candidate, Trial, result_of
from ridgeline.simulator.serving.results import ServingResult

SCHEMA_VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """How many deployments met which end; all add up to ``seen``, those of replicas come before."""

    replicas_seen: int = 0
    """Replicas (splits, formats, limits) that the model, engine and accelerator allow."""
    replicas_too_large: int = 0
    """Of these, without room for a cache."""
    replicas_too_slow: int = 0
    """Of these, idle ones that already break a goal; part of deployments no more."""
    seen: int = 0
    """Deployments: replicas in every number and, apart, in every ratio."""
    throughput_bound: int = 0
    """Dropped because their work does not fit into the time."""
    cost_bound: int = 0
    """Dropped because they cost more than the best."""
    cut: int = 0
    """Played in part: they had broken a goal before the traffic was over."""
    played: int = 0
    """Played to the end."""

    def plus(self, other: Counts) -> Counts:
        """Return the sum of both."""
        return Counts(
            **{f.name: getattr(self, f.name) + getattr(other, f.name) for f in fields(self)}
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Pooled:
    """Replicas of one kind in a plan."""

    role: str
    replicas: int
    accelerators: int
    """Of one replica."""
    tp: int
    pp: int
    dp: int
    ep: int
    precision: str
    kv_precision: str
    """Empty: the engine's default."""
    max_sequences: int
    """Running at once on a replica."""
    max_tokens: int
    """Of an iteration of a replica."""
    kv_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ServicePlan:
    """A deployment, what it takes and what it keeps."""

    mode: str
    accelerator: str
    cluster: str
    accelerators: int
    """Rented."""
    used: int
    """Of these, in replicas."""
    engine: str
    pools: tuple[Pooled, ...]
    usd_per_hour: float
    """Of all that is rented; 0 where no price is known."""
    usd_per_million_tokens: float
    """Input and output at this traffic, for all that is rented; nan without a price."""
    usd_per_million_output_tokens: float
    """The whole bill over output tokens alone."""
    reached_s: dict[str, float]
    """By figure, what the promised share of requests keeps."""
    headroom: float
    """Least limit over what is reached."""
    result: ServingResult

    @property
    def ratio(self) -> str:
        """Prefill to decode replicas, empty where they are one."""
        if len(self.pools) < 2:
            return ""
        return f"{self.pools[0].replicas}:{self.pools[1].replicas}"

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, the main figures of the result among them."""
        figures = self.result
        return {
            **{f.name: getattr(self, f.name) for f in fields(self) if f.name != "result"},
            "pools": [asdict(pool) for pool in self.pools],
            "ratio": self.ratio,
            **{
                f"{name}_{share}_s": getattr(getattr(figures, f"{name}_s"), share)
                for name in ("ttft", "tpot", "latency")
                for share in ("p50", "p90", "p95", "p99")
            },
            "output_tokens_per_s": figures.output_tokens_per_s,
            "output_tokens_per_s_per_accelerator": figures.output_tokens_per_s / self.accelerators,
            "output_tokens_per_s_per_user": figures.output_tokens_per_s_per_user,
            "utilisation": figures.utilisation,
            "kwh_per_million_tokens": figures.bill.kwh_per_million_tokens,
            "co2_kg_per_million_tokens": figures.bill.co2_kg_per_million_tokens,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """The answer: the cheapest plan, and the cheapest of each other way."""

    best: ServicePlan
    others: tuple[ServicePlan, ...]
    """Runners-up: of those that keep all goals, the best for each other accelerator and mode that
    was played."""
    goals: tuple[Goal, ...]
    asked: str
    counts: Counts
    elapsed_s: float = 0.0

    def answer(self) -> dict[str, Any]:
        """Return what depends on the question alone."""
        return {
            "asked": self.asked,
            "goals": [asdict(goal) for goal in self.goals],
            "best": self.best.to_dict() | {"service": self.best.result.to_dict()},
            "others": [other.to_dict() for other in self.others],
            "counts": asdict(self.counts),
        }

    def _repr_html_(self) -> str:
        """Return what a notebook shows."""
        from ridgeline.simulator.notebook import choice_html

        return choice_html(self)

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON contract (``docs/json.md``)."""
        return {
            "schema": "ridgeline.plan.serve",
            "schema_version": SCHEMA_VERSION,
            **self.answer(),
            "elapsed_s": self.elapsed_s,
        }

    def rows(self) -> list[dict[str, Any]]:
        """Return the plans as rows of a table."""
        return [plan_row(plan) for plan in (self.best, *self.others)]


def plan_row(plan: ServicePlan) -> dict[str, Any]:
    """Return a plan as one flat line: pools as columns of their own."""
    flat = plan.to_dict()
    pools, got = flat.pop("pools"), flat.pop("reached_s")
    row = {**flat, **{f"reached_{name}_s": got.get(name) for name in ("ttft", "tpot", "latency")}}
    last = pools[-1]
    row |= {f"{name}": value for name, value in last.items() if name != "accelerators"}
    first = pools[0] if len(pools) > 1 else dict.fromkeys(last)
    return row | {f"prefill_{name}": first[name] for name in ("replicas", "tp", "pp", "dp", "ep")}


def make_plan(trial: Trial, cluster: Cluster, demand: Demand) -> ServicePlan:
    """Return the record of a trial."""
    candidate = trial.candidate
    result = result_of(candidate, cluster, demand)
    usd = candidate.kind.usd_per_hour * cluster.count
    tokens = result.input_tokens_per_s + result.output_tokens_per_s
    return ServicePlan(
        mode=candidate.mode,
        accelerator=candidate.kind.accelerator.name,
        cluster=cluster.name,
        accelerators=cluster.count,
        used=candidate.accelerators,
        engine=candidate.replica.service.engine,
        pools=pooled(candidate),
        usd_per_hour=usd,
        usd_per_million_tokens=per_million(usd, tokens),
        usd_per_million_output_tokens=per_million(usd, result.output_tokens_per_s),
        reached_s=trial.reached_s,
        headroom=trial.headroom,
        result=result,
    )


def pooled(candidate: Candidate) -> tuple[Pooled, ...]:
    """Return the pools of a candidate as records."""
    role = "decode" if candidate.prefill else "whole"
    last = _pool(candidate.replica, candidate.replicas, role)
    if candidate.prefill is None:
        return (last,)
    return (_pool(candidate.prefill, candidate.prefill_replicas, "prefill"), last)


def per_million(usd_per_hour: float, tokens_per_s: float) -> float:
    """Return USD per million tokens of what costs so much an hour; nan without price or tokens."""
    if not usd_per_hour or not tokens_per_s > 0:
        return math.nan
    return usd_per_hour / 3600.0 / tokens_per_s * 1e6


def _pool(replica: Replica, replicas: int, role: str) -> Pooled:
    service = replica.service
    return Pooled(
        role=role,
        replicas=replicas,
        accelerators=replica.accelerators,
        tp=service.tp,
        pp=service.pp,
        dp=service.dp,
        ep=service.ep,
        precision=service.precision,
        kv_precision=service.kv_precision,
        max_sequences=replica.policy.max_sequences,
        max_tokens=replica.policy.max_tokens,
        kv_tokens=replica.tables.kv_tokens,
    )
