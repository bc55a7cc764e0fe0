"""The cheapest service by trying everything through ``serve``: the slow obvious twin."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import numpy as np

from ridgeline.errors import InfeasibleError, InputError
from ridgeline.hardware import load_accelerator, make_cluster
from ridgeline.simulator.cost import hourly_rate
from ridgeline.simulator.serving.choice.goals import Demand
from ridgeline.simulator.serving.choice.space import ServiceSpace
from ridgeline.simulator.serving.deployment import Deployment
from ridgeline.simulator.serving.serve import serve
from ridgeline.simulator.serving.service import Limits, Service


@dataclass(frozen=True)
class Naive:
    price: tuple[float, int]
    headroom: float
    tp: int
    replicas: int
    ratio: str


def cheapest(space: ServiceSpace, demand: Demand) -> Naive | None:
    """Return the cheapest of all deployments of a dense model on parts of one node."""
    found = []
    for name in space.accelerators:
        accelerator = load_accelerator(name)
        usd = hourly_rate(space.money, accelerator)[0].usd_per_hour
        splits = list(product(space.precisions, space.tp, space.max_tokens))
        for precision, tp, tokens in splits:
            for count in range(1, space.most + 1) if "aggregated" in space.modes else ():
                size = _size(count * tp, accelerator.per_node)
                if size > space.most:
                    continue
                one = _service(space, f"{size}x{name}", precision, tp, tokens, count)
                room = _headroom([Deployment(service=one)], demand)
                if room >= 1.0:
                    found.append(Naive((usd * size, size), room, tp, count, ""))
        if "disaggregated" not in space.modes:
            continue
        for precision, first, last in product(space.precisions, space.tp, space.tp):
            for ahead, count in product(range(1, space.most + 1), repeat=2):
                size = _size(ahead * first + count * last, accelerator.per_node)
                if size > space.most:
                    continue
                tokens = space.max_tokens[0]
                pools = [
                    Deployment(
                        service=_service(space, f"{size}x{name}", precision, tp, tokens, replicas),
                        role=role,
                    )
                    for role, tp, replicas in (("prefill", first, ahead), ("decode", last, count))
                ]
                room = _headroom(pools, demand)
                if room >= 1.0:
                    ratio = f"{ahead}:{count}"
                    found.append(Naive((usd * size, size), room, last, count, ratio))
    return min(found, key=lambda one: (one.price, -one.headroom), default=None)


def _size(needed: int, per_node: int) -> int:
    return next((size for size in (1, 2, 4, 8) if needed <= size <= per_node), 10**9)


def _service(
    space: ServiceSpace, spec: str, precision: str, tp: int, tokens: int, replicas: int
) -> Service:
    return Service(
        model=space.model,
        cluster=make_cluster(spec),
        engine="vllm",
        precision=precision,
        tp=tp,
        replicas=replicas,
        limits=Limits(max_tokens=tokens),
    )


def _headroom(pools: list[Deployment], demand: Demand) -> float:
    try:
        played = serve(pools, demand.traffic).played
    except (InputError, InfeasibleError):
        return 0.0
    least = np.inf
    for goal in demand.goals:
        values = {"ttft": played.ttft_s, "tpot": played.tpot_s, "latency": played.latency_s}
        each = np.nan_to_num(values[goal.figure], nan=0.0)
        each[~played.finished] = np.inf
        # the smallest limit that enough requests keep
        kept = [limit for limit in each if np.mean(each <= limit) >= goal.share - 1e-12]
        least = min(least, goal.limit_s / min(kept, default=np.inf))
    return float(least)
