"""What a calendar assumes beside the plan, and how a user writes it: ``spares=2%,copies=3``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from math import inf
from typing import Any

from ridgeline.hardware.reliability import DEFAULT_FLEET
from ridgeline.simulator.fleet.changes import (
    Reader,
    code,
    field,
    interval,
    number,
    parse_time,
    positive_time,
    share,
    whole,
)
from ridgeline.simulator.fleet.checkpoints import CheckpointPolicy, Tiers
from ridgeline.simulator.fleet.failures import (
    REPAIR_S,
    SLOW_LINK_FRACTION,
    SLOW_LINK_S,
    SLOW_NODE_SHARE,
    FailureModel,
    slow_links,
    slow_nodes,
    spot_reclaims,
)
from ridgeline.simulator.plan import Plan

SPOT_RECLAIMS_PER_1000_NODE_DAYS = 5.4
"""-ln(1 - 0.15) / 30 days: 10-20% of H100 spot instances were reclaimed within a month (AWS Spot
Instance Advisor of May 2025, quoted by thundercompute.com)."""
SPOT_BACK_S = 3600.0
"""Until reclaimed capacity is to be had again. No figure is published."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Assumptions:
    """What happens to a run, as far as the plan does not say it.

    None takes the plan's value, or what its price implies.
    """

    spares: float | None = None
    """Spare nodes that are kept and paid for: a count, or below 1 a share of the nodes. None means
    that a good node is at hand within the restart time and costs nothing."""
    checkpoint: str = "synchronous"
    interval: str | float | None = None
    copies: int = 2
    data: int = 0
    parity: int = 0
    store_interval_s: float = 3 * 3600.0
    fleet: str = DEFAULT_FLEET
    failures_per_1000_node_days: float | None = None
    shape: float = 1.0
    switch_share: float = 0.0
    repair_s: float = REPAIR_S
    restart_s: float | None = None
    stragglers: float = SLOW_NODE_SHARE
    slow_links_per_1000_node_days: float = 0.0
    reclaims_per_1000_node_days: float | None = None
    reclaim_wait_s: float = SPOT_BACK_S
    spikes: float = 0.0
    """Loss spikes that are rewound, expected in the whole run; PaLM 540B had about 20 (Chowdhery et
    al. 2022, section 5.1)."""
    rewind_steps: int = 100
    """Steps that a rewind goes back at least (the same place)."""

    def policy(self, plan: Plan) -> CheckpointPolicy:
        """Return how the run saves itself."""
        interval: str | float = "young-daly"
        if self.interval is not None:
            interval = self.interval
        elif plan.run.checkpoint_interval_s >= 0:
            interval = plan.run.checkpoint_interval_s or inf
        cluster = plan.cluster
        accelerator = cluster.accelerator
        return CheckpointPolicy(
            kind=self.checkpoint,
            interval=interval,
            copies=self.copies,
            data=self.data,
            parity=self.parity,
            store_interval_s=self.store_interval_s,
            tiers=Tiers(
                gpu_to_host_bytes_per_s=accelerator.host_bytes_per_s,
                peer_bytes_per_s=accelerator.scaleout_bytes_per_s * cluster.per_node,
                store_bytes_per_s=plan.run.checkpoint_bytes_per_s,
            ),
        )

    def failure_model(
        self, plan: Plan, exposed_fraction: float, store_load_s: float
    ) -> FailureModel:
        """Return what goes wrong in the run.

        Parameters
        ----------
        plan
            The run.
        exposed_fraction
            Share of a step that waits for communication, for slow links.
        store_load_s
            To load a checkpoint from the store [s].

        Notes
        -----
        A restart time covers everything from the failure to the first new step with a load from the
        store; what is left of it without that load and the network's set-up is detection and
        requeue, which no policy changes.
        """
        given = self.failures_per_1000_node_days
        if given is None and plan.run.failures_per_1000_node_days >= 0:
            given = plan.run.failures_per_1000_node_days
        cluster = plan.cluster
        model = FailureModel.published(
            self.fleet,
            per_node=cluster.per_node,
            per_node_day=None if given is None else given / 1000.0,
            repair_s=self.repair_s,
            shape=self.shape,
            switch_share=self.switch_share,
            stragglers=False,
        )
        causes = list(model.causes) if plan.run.failures else []
        if plan.run.failures and self.stragglers > 0:
            causes.append(slow_nodes(self.stragglers))
        if self.slow_links_per_1000_node_days > 0:
            rate = self.slow_links_per_1000_node_days / 1000.0
            causes.append(slow_links(rate, SLOW_LINK_FRACTION, exposed_fraction, SLOW_LINK_S))
        reclaims = self.reclaims_per_1000_node_days
        if reclaims is None:
            reclaims = SPOT_RECLAIMS_PER_1000_NODE_DAYS if plan.money.kind == "spot" else 0.0
        if reclaims > 0:
            causes.append(spot_reclaims(reclaims / 1000.0, self.reclaim_wait_s))
        spares = self.spares or 0.0
        restart_s = plan.run.restart_s if self.restart_s is None else self.restart_s
        network_s = model.network_init_s_per_accelerator * cluster.count
        return replace(
            model,
            causes=tuple(causes),
            requeue_s=max(0.0, restart_s - store_load_s - network_s),
            spare_fraction=spares if spares < 1 else spares / cluster.nodes,
        )

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self)


def _spares(text: str) -> dict[str, Any]:
    if text == "at-hand":
        return {"spares": None}
    if "%" in text:
        part = share(text)
        if part >= 1.0:
            raise ValueError("must be below 100%, a count of nodes, or at-hand")
        return {"spares": part}
    return {"spares": float(whole(text))}


KEYS: Mapping[str, Reader] = {
    "spares": _spares,
    "checkpoint": field("checkpoint", str),
    "interval": field("interval", interval),
    "copies": field("copies", whole),
    "code": code,
    "store-interval": field("store_interval_s", positive_time),
    "fleet": field("fleet", str),
    "failures": field("failures_per_1000_node_days", number),
    "shape": field("shape", number),
    "switch-share": field("switch_share", share),
    "repair": field("repair_s", parse_time),
    "restart": field("restart_s", parse_time),
    "stragglers": field("stragglers", share),
    "slow-links": field("slow_links_per_1000_node_days", number),
    "reclaims": field("reclaims_per_1000_node_days", number),
    "reclaim-wait": field("reclaim_wait_s", parse_time),
    "spikes": field("spikes", number),
    "rewind": field("rewind_steps", whole),
}
"""What may be assumed or asked about, by the user's word."""


def changed(base: Assumptions, changes: Mapping[str, Mapping[str, Any]]) -> Assumptions:
    """Return assumptions with changes of :func:`parse_changes` made."""
    fields = {name: value for fields in changes.values() for name, value in fields.items()}
    return replace(base, **fields)
