"""Which services there are to choose from: splits of a replica, limits, replicas, clusters."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from ridgeline.errors import InfeasibleError, InputError
from ridgeline.hardware import load_accelerator
from ridgeline.hardware.accelerator import Accelerator
from ridgeline.hardware.cluster import Cluster
from ridgeline.simulator.compare.question import cluster_of
from ridgeline.simulator.cost import hourly_rate
from ridgeline.simulator.plan import Money
from ridgeline.simulator.serving.iteration import iteration_tables
from ridgeline.simulator.serving.policy import Policy, policy_of
from ridgeline.simulator.serving.service import Limits, Service, Speculation
from ridgeline.simulator.serving.shape import make_shape
from ridgeline.simulator.serving.tables import IterationTables
from ridgeline.workloads.model import Model

MODES = ("aggregated", "disaggregated")
FINE = 16
"""Replicas are counted one by one up to this; above, in this many steps to a doubling."""
_ENGINES = {"amd": "vllm-rocm", "google": "vllm-tpu"}
_ANY_ENGINE = "vllm"


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceSpace:
    """Services to choose from; every combination that the model and the accelerator allow."""

    model: Model
    accelerators: tuple[str, ...]
    """Kinds; a deployment has one."""
    engine: str = ""
    """Empty takes vLLM of the newest era for the vendor."""
    precisions: tuple[str, ...] = ("bf16",)
    kv_precisions: tuple[str, ...] = ("",)
    """Empty takes the engine's default."""
    tp: tuple[int, ...] = ()
    """Empty: powers of two that divide the heads, up to a node."""
    pp: tuple[int, ...] = (1, 2)
    dp: tuple[int, ...] = ()
    """Empty: 1, and with experts powers of two as long as tp x dp fits a node."""
    ep: tuple[int, ...] = ()
    """Empty: 1, and with experts all ranks of a stage."""
    max_sequences: tuple[int, ...] = (0, 64)
    """Running at once on a rank; 0 takes the engine's limit."""
    max_tokens: tuple[int, ...] = (0, 2048, 512)
    """Budget of an iteration; 0 takes the engine's. Of prefill pools the engine's alone."""
    modes: tuple[str, ...] = MODES
    most: int = 64
    """Accelerators at most."""
    limits: Limits = field(default_factory=Limits)
    """What is not varied."""
    speculation: Speculation = field(default_factory=Speculation)
    money: Money = field(default_factory=Money)

    def __post_init__(self) -> None:
        """Refuse values that name nothing."""
        problems = [
            f"mode {mode!r}: must be one of {', '.join(MODES)}"
            for mode in self.modes
            if mode not in MODES
        ]
        if self.most < 1:
            problems.append(f"--max-accelerators {self.most}: must be at least 1")
        if not self.accelerators:
            problems.append("--on: name at least one accelerator")
        if problems:
            raise InputError(problems)


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """An accelerator with its price."""

    accelerator: Accelerator
    usd_per_hour: float
    """Of one; 0 where none is known."""
    place: int
    """In the order of the space."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Replica:
    """One replica of a kind: its split, formats and limits, with what prices it."""

    service: Service
    """On the smallest cluster that holds it."""
    tables: IterationTables
    policy: Policy
    place: int
    """In the order of the space."""

    @property
    def accelerators(self) -> int:
        """Of this replica."""
        return self.service.replica_accelerators


@dataclass(frozen=True, slots=True, kw_only=True)
class Replicas:
    """All replicas of a kind, and what became of the others."""

    kind: Kind
    whole: tuple[Replica, ...]
    illegal: int
    """The model, the engine or the accelerator does not allow them."""
    too_large: int
    """Their weights leave no room for a cache."""
    reason: str
    """Of the one of them that needs the least memory, for who asks why nothing fits."""


def usual_engine(accelerator: Accelerator, asked: str = "") -> str:
    """Return the engine that was asked for, or the usual one of an accelerator."""
    return asked or _ENGINES.get(accelerator.vendor.lower(), _ANY_ENGINE)


def kinds_of(space: ServiceSpace) -> tuple[Kind, ...]:
    """Return the accelerators of a space with their prices.

    Raises
    ------
    InputError
        An unknown accelerator, or one without a price among several.
    """
    kinds = []
    for place, name in enumerate(space.accelerators):
        accelerator = load_accelerator(name)
        rate, _ = hourly_rate(space.money, accelerator)
        kinds.append(Kind(accelerator=accelerator, usd_per_hour=rate.usd_per_hour, place=place))
    unpriced = [kind.accelerator.name for kind in kinds if not kind.usd_per_hour]
    if unpriced and len(kinds) > 1:
        raise InputError(f"money: no price is known of {unpriced[0]}; give one (--price)")
    return tuple(kinds)


def rented(accelerator: Accelerator, needed: int, most: int) -> int:
    """Return how many accelerators must be rented for so many: whole nodes, or part of one.

    A part of a node is a power of two that divides it. 0 where none in reach is a cluster.
    """
    for count in range(needed, most + 1):
        inside = count < accelerator.per_node
        if inside and (accelerator.per_node % count or count & (count - 1)):
            continue
        if not inside and not accelerator.torus_dims and count % accelerator.per_node:
            continue
        if rented_cluster(accelerator, count) is not None:
            return count
    return 0


def rented_cluster(accelerator: Accelerator, count: int) -> Cluster | None:
    """Return a cluster of exactly so many, None where it does not come in that number."""
    try:
        return cluster_of(accelerator, count)
    except InputError:
        return None


def counts_of_replicas(most: int) -> list[int]:
    """Return the numbers of replicas that are tried: all up to 16, then 16 to a doubling."""
    counts = list(range(1, min(FINE, most) + 1))
    step, at = 1, FINE
    while at < most:
        at += step
        if at <= most:
            counts.append(at)
        if at >= 2 * FINE * step:
            step *= 2
    return counts


def replicas_of(space: ServiceSpace, kind: Kind, context: int) -> Replicas:
    """Return all replicas of a kind, priced.

    Parameters
    ----------
    space
        Where from.
    kind
        The accelerator.
    context
        Tokens of a typical sequence, for caches with windows.

    Raises
    ------
    InputError
        None is legal.
    """
    whole: list[Replica] = []
    illegal = too_large = 0
    reason = problem = ""
    least_excess = math.inf
    for place, service in enumerate(_services(space, kind)):
        try:
            make_shape(service)
            policy = policy_of(service)
            tables = iteration_tables(service, context)
        except InfeasibleError as error:
            too_large += 1
            ranks = -service.replica_accelerators
            if ranks < least_excess:
                least_excess, reason = ranks, str(error)
        except InputError as error:
            illegal += 1
            problem = problem or str(error)
        else:
            whole.append(Replica(service=service, tables=tables, policy=policy, place=place))
    if not whole and not too_large:
        raise InputError(f"{kind.accelerator.name}: no legal service in the space: {problem}")
    return Replicas(
        kind=kind, whole=tuple(whole), illegal=illegal, too_large=too_large, reason=reason
    )


def _services(space: ServiceSpace, kind: Kind) -> Iterator[Service]:
    """Yield the services of one replica, whether the model allows them or not."""
    accelerator, model = kind.accelerator, space.model
    engine = usual_engine(accelerator, space.engine)
    for tp, pp, dp, ep in _splits(space, accelerator):
        count = rented(accelerator, tp * pp * dp, space.most)
        cluster = rented_cluster(accelerator, count) if count else None
        if cluster is None:
            continue
        for precision in space.precisions:
            for kv_precision in space.kv_precisions:
                for sequences in space.max_sequences:
                    for tokens in space.max_tokens:
                        yield Service(
                            model=model,
                            cluster=cluster,
                            engine=engine,
                            precision=precision,
                            kv_precision=kv_precision,
                            tp=tp,
                            pp=pp,
                            dp=dp,
                            ep=ep,
                            limits=replace(
                                space.limits, max_sequences=sequences, max_tokens=tokens
                            ),
                            speculation=space.speculation,
                            money=space.money,
                        )


def _splits(space: ServiceSpace, accelerator: Accelerator) -> Iterator[tuple[int, int, int, int]]:
    """Yield (tp, pp, dp, ep) in order."""
    moe, heads = space.model.moe, space.model.attention.heads
    node = min(accelerator.per_node, space.most)
    powers = [1 << i for i in range(node.bit_length()) if 1 << i <= node]
    ways = space.tp or tuple(tp for tp in powers if heads % tp == 0)
    for tp in ways:
        ranks = space.dp or tuple(
            dp for dp in (powers if moe is not None else (1,)) if tp * dp <= max(node, tp)
        )
        for dp in ranks:
            spread = space.ep or ((1, tp * dp) if moe is not None else (1,))
            for ep in sorted(set(spread)):
                for pp in space.pp:
                    if tp * pp * dp <= space.most:
                        yield tp, pp, dp, ep
