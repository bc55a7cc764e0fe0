"""When what fails in a fleet: rates and causes in, events in order of time out.

A cause strikes at a rate per node and day. What it strikes stops (until it is repaired or, for
software, only until the job runs again) or gets slow until somebody finds it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import ceil, exp, gamma, inf

import numpy as np
from numpy.typing import NDArray

from ridgeline.errors import InputError
from ridgeline.hardware.reliability import DAY_S, DEFAULT_FLEET, failures_per_node_day
from ridgeline.hardware.reliability_causes import cause_shares, rate_log_sd

Float64 = NDArray[np.float64]
Int32 = NDArray[np.int32]

REPAIR_S = 2.2 * 3600.0
"""A node that failed is back after so long on average: recovery time with which the NCSA Delta
study sizes spares (Cui et al. 2025, arXiv 2503.11901; secondary)."""
NETWORK_INIT_S_PER_ACCELERATOR = 5.0 / 2048.0
"""Setting up communicator groups, at most: below 5 s on 2,048 and below 30 s on 12,288 GPUs, so
linear (MegaScale, arXiv 2402.15627). Naive set-up took 1,047 s on 2,048."""
PROVIDER = "provider"
"""The component that takes capacity back without anything being broken."""
SLOW_NODE_SHARE = 0.005
"""Of the hosts of a cluster at any time (MegaScale, arXiv 2402.15627)."""
SLOW_NODE_SLOWDOWN = 0.007 / 0.552
"""Of a job's speed: taking them out brought 0.7 points of 55.2% MFU (MegaScale)."""
SLOW_NODE_S = DAY_S
"""Until a slow node is found. No figure is published; only the share matters to means."""

SLOW_LINK_FRACTION = 0.5
"""Bandwidth that a slow link has left: one of two lanes or ports down."""
SLOW_LINK_S = DAY_S
"""Until a slow link is found. No figure is published."""
LINK = "link"
"""The component whose slowness costs a job as much as it communicates."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cause:
    """Something that goes wrong at a rate."""

    name: str
    component: str
    """accelerator, host, network, link, software, provider or unknown."""
    per_node_day: float
    """Events per node and day."""
    whole_rack: bool = False
    """Takes all nodes of the rack with it: a switch, a power feed."""
    shape: float = 1.0
    """Of the Weibull law of the time between events of a node: 1 is exponential, below 1 means that
    what is new or just repaired fails soonest, above 1 wear."""
    out_s: float = 0.0
    """Mean time that what was struck is out, or slow [s]; 0 when only the job has to start again.
    Drawn from an exponential law."""
    slowdown: float = 0.0
    """Share of a job's speed that is lost while it lasts; 0 means that the job stops."""

    def __post_init__(self) -> None:
        rules = (
            ("per_node_day", 0.0 <= self.per_node_day < inf, "must be finite and not negative"),
            ("shape", 0.1 <= self.shape <= 10.0, "must be 0.1 to 10"),
            ("out_s", 0.0 <= self.out_s < inf, "must be finite and not negative"),
            ("slowdown", 0.0 <= self.slowdown < 1.0, "must be 0 or more and below 1"),
        )
        wrong = [
            f"failure cause {self.name!r}: {key} = {getattr(self, key)}: {rule}"
            for key, right, rule in rules
            if not right
        ]
        if wrong:
            raise InputError(wrong)

    @property
    def stops(self) -> bool:
        """Whether a job stops, and not only gets slow."""
        return self.slowdown == 0.0


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FailureEvents:
    """Events of a fleet in order of time, one entry of each array for each."""

    at_s: Float64
    cause: Int32
    """Index into ``FailureModel.causes``."""
    first_node: Int32
    nodes: Int32
    """So many nodes from ``first_node`` on are struck."""
    out_s: Float64
    """How long they are out or slow; 0 when only the job has to start again."""
    slowdown: Float64
    """0 when a job on them stops."""

    def __len__(self) -> int:
        return len(self.at_s)

    def take(self, keep: NDArray[np.bool_]) -> FailureEvents:
        """Return the events that a mask keeps."""
        return FailureEvents(
            at_s=self.at_s[keep],
            cause=self.cause[keep],
            first_node=self.first_node[keep],
            nodes=self.nodes[keep],
            out_s=self.out_s[keep],
            slowdown=self.slowdown[keep],
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class FailureModel:
    """What goes wrong in a fleet and what it takes to go on."""

    causes: tuple[Cause, ...]
    nodes_per_rack: int = 4
    """DGX SuperPOD, H100: four nodes a rack."""
    new: bool = False
    """Whether the hardware is new at the start; else it has run for long. Only matters to causes
    whose ``shape`` is not 1."""
    detect_s: float = 0.0
    """From the failure until it is noticed [s]."""
    requeue_s: float = 0.0
    """From then until the processes are started again, loading a checkpoint aside [s]."""
    network_init_s_per_accelerator: float = NETWORK_INIT_S_PER_ACCELERATOR
    spare_fraction: float = 0.0
    """Nodes kept idle for the next failure, as a share of those in use."""
    rate_log_sd: float = 0.0
    """How uncertain the rate of this fleet is: standard deviation of its logarithm."""

    @classmethod
    def published(
        cls,
        fleet: str = DEFAULT_FLEET,
        *,
        per_node: int = 8,
        per_node_day: float | None = None,
        repair_s: float = REPAIR_S,
        shape: float = 1.0,
        switch_share: float = 0.0,
        stragglers: bool = True,
    ) -> FailureModel:
        """Return the model of a published fleet.

        Parameters
        ----------
        fleet
            A row of ``reliability.csv``. Causes are those of Llama 3, the only published ones.
        per_node
            Accelerators in a node, with which rates go.
        per_node_day
            The rate of one's own fleet; then it is taken as known.
        repair_s
            Mean time that a node is out [s].
        shape
            Weibull shape of hardware causes.
        switch_share
            Of the network failures, those of a switch, which take the whole rack; the published
            table does not tell them from cables.
        stragglers
            Whether nodes get slow without failing.
        """
        known = per_node_day is not None
        rate = failures_per_node_day(fleet, per_node) if per_node_day is None else per_node_day
        causes = []
        for one in cause_shares():
            cause = Cause(
                name=one.name,
                component=one.component,
                per_node_day=rate * one.share,
                out_s=repair_s if one.repair else 0.0,
                shape=shape if one.repair else 1.0,
            )
            if one.component == "network" and switch_share > 0:
                whole = replace(
                    cause,
                    name=f"{one.name} (rack)",
                    per_node_day=cause.per_node_day * switch_share,
                    whole_rack=True,
                )
                causes.append(whole)
                cause = replace(cause, per_node_day=cause.per_node_day * (1.0 - switch_share))
            causes.append(cause)
        if stragglers:
            causes.append(slow_nodes())
        return cls(causes=tuple(causes), rate_log_sd=0.0 if known else rate_log_sd())

    @property
    def stops_per_node_day(self) -> float:
        """Events that stop a job, per node and day."""
        return sum(cause.per_node_day for cause in self.causes if cause.stops)

    def mttf_s(self, nodes: float) -> float:
        """Return the mean time to failure of a job on so many nodes [s]."""
        rate = self.stops_per_node_day * nodes
        return DAY_S / rate if rate > 0 else inf

    def spare_nodes(self, nodes: int) -> int:
        """Return how many nodes are kept as spares beside so many in use."""
        return ceil(self.spare_fraction * nodes - 1e-9)

    def restart_s(self, accelerators: int) -> float:
        """Return the time from a failure to the load of a checkpoint, nodes being at hand [s]."""
        network = self.network_init_s_per_accelerator * accelerators
        return self.detect_s + self.requeue_s + network

    def scatter(self, rng: np.random.Generator) -> float:
        """Draw by what factor this fleet's rate differs from the published one."""
        return exp(self.rate_log_sd * rng.standard_normal())

    def sample(
        self,
        rng: np.random.Generator,
        nodes: int,
        horizon_s: float,
        *,
        factor: float = 1.0,
    ) -> FailureEvents:
        """Draw all events on a number of nodes until a horizon.

        Parameters
        ----------
        rng
            The same state gives the same events.
        nodes
            Nodes of the fleet; a rack is ``nodes_per_rack`` of them in a row.
        horizon_s
            Until when [s].
        factor
            On the rates of what stops a job, as drawn by :meth:`scatter`.

        Notes
        -----
        Exponential causes together are one Poisson process. A Weibull cause is a renewal process on
        every node: from a new start, or from the stationary one (an interval drawn in proportion to
        its length, met at a uniform place of it; Cox 1962, Renewal Theory, chapter 5).
        """
        assert nodes > 0, nodes
        assert 0 <= horizon_s < inf, horizon_s
        rates = np.array([one.per_node_day * (factor if one.stops else 1.0) for one in self.causes])
        plain = np.array([one.shape == 1.0 for one in self.causes], dtype=bool)
        smooth = np.where(plain, rates, 0.0) if len(rates) else rates
        total = float(smooth.sum())
        count = int(rng.poisson(total * nodes * horizon_s / DAY_S)) if total > 0 else 0
        at = [rng.random(count) * horizon_s]
        cause = [np.searchsorted(np.cumsum(smooth), rng.random(count) * total, side="right")]
        node = [rng.integers(0, nodes, count)]
        for index in np.flatnonzero(~plain & (rates > 0)):
            times, where = self._renewals(rng, self.causes[index], rates[index], nodes, horizon_s)
            at.append(times)
            node.append(where)
            cause.append(np.full(len(times), index))
        return self._events(
            rng, np.concatenate(at), np.concatenate(cause), np.concatenate(node), nodes
        )

    def _renewals(
        self, rng: np.random.Generator, cause: Cause, rate: float, nodes: int, horizon_s: float
    ) -> tuple[Float64, NDArray[np.int64]]:
        """Draw the times of a Weibull cause and the node of each."""
        shape = cause.shape
        scale = DAY_S / rate / gamma(1.0 + 1.0 / shape)
        where = np.arange(nodes)
        if self.new:
            now = scale * rng.weibull(shape, nodes)
        else:
            # length-biased Weibull: (X / scale)^k has a gamma law with parameter 1 + 1/k
            whole = scale * rng.standard_gamma(1.0 + 1.0 / shape, nodes) ** (1.0 / shape)
            now = whole * rng.random(nodes)
        times, places = [], []
        while True:
            keep = now < horizon_s
            now, where = now[keep], where[keep]
            if not len(now):
                break
            times.append(now)
            places.append(where)
            now = now + scale * rng.weibull(shape, len(now))
        if not times:
            return np.empty(0), np.empty(0, np.int64)
        return np.concatenate(times), np.concatenate(places)

    def _events(
        self,
        rng: np.random.Generator,
        at: Float64,
        cause: NDArray[np.int64],
        node: NDArray[np.int64],
        nodes: int,
    ) -> FailureEvents:
        order = np.argsort(at, kind="stable")
        at, cause, node = at[order], cause[order], node[order]
        rack = np.array([one.whole_rack for one in self.causes], dtype=bool)[cause]
        mean = np.array([one.out_s for one in self.causes])[cause]
        first = np.where(rack, node // self.nodes_per_rack * self.nodes_per_rack, node)
        return FailureEvents(
            at_s=at,
            cause=cause.astype(np.int32),
            first_node=first.astype(np.int32),
            nodes=np.where(rack, np.minimum(self.nodes_per_rack, nodes - first), 1).astype(
                np.int32
            ),
            out_s=rng.standard_exponential(len(at)) * mean,
            slowdown=np.array([one.slowdown for one in self.causes])[cause],
        )


def slow_nodes(
    share: float = SLOW_NODE_SHARE,
    slowdown: float = SLOW_NODE_SLOWDOWN,
    found_s: float = SLOW_NODE_S,
) -> Cause:
    """Return stragglers as a cause: so many nodes slow at any time, each until it is found.

    Parameters
    ----------
    share
        Of the nodes, slow at any time.
    slowdown
        Share of speed that a synchronous job loses when any of its nodes is slow.
    found_s
        Mean time until one is found [s].
    """
    return Cause(
        name="slow node",
        component="host",
        per_node_day=share * DAY_S / found_s,
        out_s=found_s,
        slowdown=slowdown,
    )


def slow_links(
    per_node_day: float, bandwidth_fraction: float, exposed_fraction: float, found_s: float
) -> Cause:
    """Return links that lose bandwidth without failing.

    A job whose exposed communication is a share e of a step runs at 1 / (1 + e (1 / f - 1)) of its
    speed when a link of every ring is down to a fraction f of its bandwidth.

    Parameters
    ----------
    per_node_day
        How often a link of a node degrades.
    bandwidth_fraction
        f: what is left.
    exposed_fraction
        e: share of a step that waits for communication.
    found_s
        Mean time until it is found [s].

    Raises
    ------
    InputError
        When ``bandwidth_fraction`` is not above 0 and at most 1.
    """
    if not 0.0 < bandwidth_fraction <= 1.0:
        raise InputError(
            f"slow link: bandwidth_fraction = {bandwidth_fraction}: must be above 0 and at most 1"
        )
    speed = 1.0 / (1.0 + exposed_fraction * (1.0 / bandwidth_fraction - 1.0))
    return Cause(
        name="slow link",
        component=LINK,
        per_node_day=per_node_day,
        out_s=found_s,
        slowdown=1.0 - speed,
    )


def spot_reclaims(per_node_day: float, back_s: float, *, whole_rack: bool = False) -> Cause:
    """Return a provider that takes spot capacity back.

    Parameters
    ----------
    per_node_day
        Reclaims per node and day.
    back_s
        Mean time until capacity is to be had again [s].
    whole_rack
        Whether capacity is reclaimed by the rack.
    """
    return Cause(
        name="spot reclaim",
        component=PROVIDER,
        per_node_day=per_node_day,
        out_s=back_s,
        whole_rack=whole_rack,
    )
