"""What a calendar assumes beside the plan, and how a user writes it: ``spares=2%,copies=3``."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from math import inf
from typing import Any

from ridgeline.errors import InputError, nearest
from ridgeline.hardware.reliability import DEFAULT_FLEET
from ridgeline.simulator.fleet.checkpoints import INTERVALS, CheckpointPolicy, Tiers
from ridgeline.simulator.fleet.failures import (
    REPAIR_S,
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
SLOW_LINK_FRACTION = 0.5
"""Bandwidth that a slow link has left: one of two lanes or ports down."""
SLOW_LINK_S = 86400.0
"""Until a slow link is found. No figure is published."""

_UNITS = {"s": 1.0, "min": 60.0, "h": 3600.0, "d": 86400.0}
_TIME = re.compile(r"(\d+(?:\.\d*)?(?:e[+-]?\d+)?)\s*(s|min|h|d)", re.IGNORECASE)


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


def parse_changes(text: str, option: str) -> dict[str, dict[str, Any]]:
    """Return what each ``KEY=VALUE`` of a comma-separated list changes of :class:`Assumptions`.

    Parameters
    ----------
    text
        For example ``spares=2%,checkpoint=in-memory``.
    option
        What to call it in a complaint.

    Returns
    -------
    dict
        By the text of each change, fields of :class:`Assumptions` and their values.

    Raises
    ------
    InputError
        All mistakes together.
    """
    changes: dict[str, dict[str, Any]] = {}
    wrong: list[str] = []
    seen: set[str] = set()
    for part in text.split(","):
        one = part.strip()
        key, equals, value = (piece.strip() for piece in one.partition("="))
        if not equals or not value:
            wrong.append(f"{option} {one!r}: must be KEY=VALUE, such as spares=2%")
        elif key not in KEYS:
            wrong.append(f"{option} {key}: unknown; {nearest(key, KEYS)}")
        elif key in seen:
            wrong.append(f"{option} {key}: given twice")
        else:
            seen.add(key)
            try:
                changes[f"{key}={value}"] = KEYS[key](value)
            except ValueError as error:
                wrong.append(f"{option} {key}={value}: {error}")
    if wrong:
        raise InputError(wrong)
    return changes


def _number(text: str, most: float = inf) -> float:
    try:
        value = float(text)
    except ValueError:
        raise ValueError("must be a number") from None
    if not 0.0 <= value <= most or value == inf:
        bound = "" if most == inf else f" and at most {most:g}"
        raise ValueError(f"must be 0 or more{bound}, and finite")
    return value


def _share(text: str) -> float:
    return _number(text.removesuffix("%"), 100.0) / 100.0 if "%" in text else _number(text, 1.0)


def _whole(text: str) -> int:
    if not re.fullmatch(r"\d{1,9}", text):
        raise ValueError("must be a whole number")
    return int(text)


def parse_time(text: str) -> float:
    """Return a time with its unit, such as 15min, 2.2h or 3d [s]; ``ValueError`` otherwise."""
    match = _TIME.fullmatch(text)
    if match is None:
        raise ValueError("must be a time with its unit, such as 15min, 2.2h or 3d")
    return float(match[1]) * _UNITS[match[2].lower()]


def _spares(text: str) -> dict[str, Any]:
    if text == "at-hand":
        return {"spares": None}
    if "%" in text:
        share = _share(text)
        if share >= 1.0:
            raise ValueError("must be below 100%, a count of nodes, or at-hand")
        return {"spares": share}
    return {"spares": float(_whole(text))}


def _interval(text: str) -> dict[str, Any]:
    return {"interval": text if text in INTERVALS else _positive_time(text)}


def _positive_time(text: str) -> float:
    value = parse_time(text)
    if not value:
        raise ValueError("must be above 0")
    return value


def _code(text: str) -> dict[str, Any]:
    match = re.fullmatch(r"(\d{1,4})\+(\d{1,4})", text)
    if match is None or not int(match[1]) or not int(match[2]):
        raise ValueError("must be DATA+PARITY, such as 8+2")
    return {"data": int(match[1]), "parity": int(match[2])}


def _field(name: str, read: Callable[[str], Any]) -> Callable[[str], dict[str, Any]]:
    return lambda text: {name: read(text)}


KEYS: Mapping[str, Callable[[str], dict[str, Any]]] = {
    "spares": _spares,
    "checkpoint": _field("checkpoint", str),
    "interval": _interval,
    "copies": _field("copies", _whole),
    "code": _code,
    "store-interval": _field("store_interval_s", _positive_time),
    "fleet": _field("fleet", str),
    "failures": _field("failures_per_1000_node_days", _number),
    "shape": _field("shape", _number),
    "switch-share": _field("switch_share", _share),
    "repair": _field("repair_s", parse_time),
    "restart": _field("restart_s", parse_time),
    "stragglers": _field("stragglers", _share),
    "slow-links": _field("slow_links_per_1000_node_days", _number),
    "reclaims": _field("reclaims_per_1000_node_days", _number),
    "reclaim-wait": _field("reclaim_wait_s", parse_time),
    "spikes": _field("spikes", _number),
    "rewind": _field("rewind_steps", _whole),
}
"""What may be assumed or asked about, by the user's word."""


def changed(base: Assumptions, changes: Mapping[str, Mapping[str, Any]]) -> Assumptions:
    """Return assumptions with changes of :func:`parse_changes` made."""
    fields = {name: value for fields in changes.values() for name, value in fields.items()}
    return replace(base, **fields)
