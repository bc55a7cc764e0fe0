"""The Pareto front of tokens a second an accelerator against tokens a second a user."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from ridgeline.errors import InfeasibleError
from ridgeline.simulator.serving.choice.bounds import minorants, step_seconds, work_of
from ridgeline.simulator.serving.choice.candidates import Site, candidates_of, make_site
from ridgeline.simulator.serving.choice.goals import Demand
from ridgeline.simulator.serving.choice.records import (
    SCHEMA_VERSION,
    Pooled,
    per_million,
    pooled,
)
from ridgeline.simulator.serving.choice.space import ServiceSpace, kinds_of
from ridgeline.simulator.serving.choice.trial import (
    Candidate,
    pools_of,
    site_of,
)
from ridgeline.simulator.serving.deployment import default_router
from ridgeline.simulator.serving.play import play_pools
from ridgeline.workloads.traffic.build import closed_loop
from ridgeline.workloads.traffic.lengths import Lengths
from ridgeline.workloads.traffic.traffic import Traffic

CONCURRENCIES = tuple(1 << i for i in range(10))
"""1 to 512 in flight."""
_PROMPTS = 8
"""Requests of a closed loop for each in flight."""
_FEWEST = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Loop:
    """A closed loop whose number in flight is varied."""

    inputs: Lengths
    outputs: Lengths
    concurrencies: tuple[int, ...] = CONCURRENCIES
    seed: int = 0

    def traffic(self, concurrency: int) -> Traffic:
        """Return the traffic with so many in flight."""
        count = max(_FEWEST, _PROMPTS * concurrency)
        return closed_loop(concurrency, count, self.inputs, self.outputs, seed=self.seed)


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """A deployment at a concurrency."""

    accelerator: str
    cluster: str
    accelerators: int
    mode: str
    engine: str
    pools: tuple[Pooled, ...]
    concurrency: int
    output_tokens_per_s_per_accelerator: float
    output_tokens_per_s_per_user: float
    """1 / median TPOT."""
    ttft_p50_s: float
    usd_per_million_output_tokens: float
    """nan where no price is known."""

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Front:
    """Points that no other beats in both figures, fastest for the user first."""

    points: tuple[Point, ...]
    asked: str
    seen: int
    """Deployments times concurrencies."""
    bounded: int
    """Dropped because even their bounds are beaten."""
    played: int

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON contract (``docs/json.md``)."""
        return {
            "schema": "ridgeline.plan.serve.front",
            "schema_version": SCHEMA_VERSION,
            "asked": self.asked,
            "points": [point.to_dict() for point in self.points],
            "counts": {"seen": self.seen, "bounded": self.bounded, "played": self.played},
        }

    def rows(self) -> list[dict[str, Any]]:
        """Return the points as flat lines, the last pool in columns of its own."""
        rows = []
        for point in self.points:
            flat = point.to_dict()
            pools = flat.pop("pools")
            apart = {f"prefill_{name}": pools[0][name] if len(pools) > 1 else None
                     for name in ("replicas", "tp", "pp", "dp", "ep")}  # fmt: skip
            last = {name: value for name, value in pools[-1].items() if name != "accelerators"}
            rows.append(flat | last | apart)
        return rows


def serving_front(space: ServiceSpace, loop: Loop, asked: str = "") -> Front:
    """Return the front over deployments and concurrencies of closed loops.

    One replica stands for all of its kind, as rates divide by its accelerators; separate pools are
    those of at most ``space.most`` accelerators that no smaller pair of the same ratio gives.

    Parameters
    ----------
    space
        Deployments; numbers of whole replicas beyond one add nothing here.
    loop
        What they are asked.
    asked
        The same in words.

    Raises
    ------
    InfeasibleError
        No replica fits.
    """
    demand = Demand(traffic=loop.traffic(max(loop.concurrencies)), goals=(), asked=asked)
    sites = [make_site(space, kind, demand) for kind in kinds_of(space)]
    if all(site.too_large for site in sites):
        lines = [f"{site.kind.accelerator.name}: {site.too_large}" for site in sites]
        raise InfeasibleError("memory: no replica fits; " + "; ".join(lines))
    traffics = {concurrency: loop.traffic(concurrency) for concurrency in loop.concurrencies}
    known: list[tuple[float, float]] = []
    points: list[tuple[tuple[int, ...], Point]] = []
    seen = bounded = played = 0
    for site in sites:
        for candidate in _units(site):
            for concurrency, traffic in traffics.items():
                seen += 1
                user, each = _upper(candidate, traffic)
                if any(user <= u and each <= e for u, e in known):
                    bounded += 1
                    continue
                played += 1
                point = _play(candidate, space, concurrency, traffic)
                known.append(
                    (point.output_tokens_per_s_per_user, point.output_tokens_per_s_per_accelerator)
                )
                points.append((candidate.order, point))
    return Front(points=_pareto(points), asked=asked, seen=seen, bounded=bounded, played=played)


def _units(site: Site) -> Iterator[Candidate]:
    """Yield one replica of every kind, and every ratio of separate pools once."""
    ratios: set[tuple[object, ...]] = set()
    for size in site.sizes:
        for candidate, _ in candidates_of(site, size):
            if candidate.prefill is None:
                if candidate.replicas == 1:
                    yield candidate
                continue
            common = int(np.gcd(candidate.prefill_replicas, candidate.replicas))
            ratio = (candidate.prefill_replicas // common, candidate.replicas // common)
            key = (*candidate.order[:3], *ratio)
            if key not in ratios:
                ratios.add(key)
                yield candidate


def _upper(candidate: Candidate, traffic: Traffic) -> tuple[float, float]:
    """Return what no play beats: tokens a second of the median user, and of an accelerator.

    A user's iterations take at least one of a single sequence. A closed loop of c takes at least
    the longest of its work on all replicas and of its requests in c lines.
    """
    replica = candidate.replica
    work = work_of(traffic, replica.tables, caching=False)
    later = np.maximum(work.outputs - 1.0, 1.0)
    each = step_seconds(replica, work)
    slowest = np.where(work.outputs > 1, later / np.maximum(each, 1e-12), np.inf)
    role = "decode" if candidate.prefill else "whole"
    lower = minorants(replica, work, role=role)
    steps, contexts = float(work.steps.sum()), float(work.contexts.sum())
    prompts = 0.0 if candidate.prefill else float(work.computed.sum())
    width = float(min(replica.policy.max_sequences, traffic.concurrency))
    fixed = lower.fixed_s + replica.tables.host_s
    token = lower.token_s + replica.tables.host_per_sequence_s
    iterations = max(steps / width, contexts / replica.tables.kv_tokens)
    busy = iterations * fixed + token * steps + lower.token_s * prompts
    busy = busy + lower.context_s * contexts
    seconds = max(float(busy.max()) / candidate.replicas, float(each.sum()) / traffic.concurrency)
    rate = float(work.outputs.sum()) / max(seconds, 1e-12) / candidate.accelerators
    return float(np.median(slowest)) * (1 + 1e-6), rate * (1 + 1e-6)


def _play(candidate: Candidate, space: ServiceSpace, concurrency: int, traffic: Traffic) -> Point:
    cluster = site_of(candidate, space.most)
    pools = pools_of(candidate, cluster)
    played = play_pools(pools, traffic, router=default_router(pools), log_lines=0)
    done = played.finished
    span = float(np.nanmax(played.end_s[done])) if done.any() else np.inf
    tokens = float(played.output_tokens[done].sum()) / span
    tpot, ttft = played.tpot_s[done], played.ttft_s[done]
    usd = candidate.kind.usd_per_hour * candidate.accelerators
    return Point(
        accelerator=candidate.kind.accelerator.name,
        cluster=cluster.name,
        accelerators=candidate.accelerators,
        mode=candidate.mode,
        engine=candidate.replica.service.engine,
        pools=pooled(candidate),
        concurrency=concurrency,
        output_tokens_per_s_per_accelerator=tokens / candidate.accelerators,
        output_tokens_per_s_per_user=_speed(tpot),
        ttft_p50_s=float(np.nanmedian(ttft)) if np.isfinite(ttft).any() else np.nan,
        usd_per_million_output_tokens=per_million(usd, tokens),
    )


def _speed(tpot: np.ndarray[Any, np.dtype[np.float64]]) -> float:
    """Return 1 / median TPOT, 0 where no request has one."""
    real = tpot[np.isfinite(tpot)]
    return 1.0 / float(np.median(real)) if real.size else 0.0


def _pareto(points: list[tuple[tuple[int, ...], Point]]) -> tuple[Point, ...]:
    """Return the points that no other beats, the fastest for the user first."""
    ordered = sorted(
        points,
        key=lambda one: (
            -one[1].output_tokens_per_s_per_user,
            -one[1].output_tokens_per_s_per_accelerator,
            one[0],
            one[1].concurrency,
        ),
    )
    front: list[Point] = []
    most = 0.0
    for _, point in ordered:
        if point.output_tokens_per_s_per_accelerator > most:
            most = point.output_tokens_per_s_per_accelerator
            front.append(point)
    return tuple(front)
