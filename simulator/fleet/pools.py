"""From tables of a fleet file to pools, checkpoints and traffic."""

from __future__ import annotations

from dataclasses import replace
from math import cos, pi, sin

from ridgeline.errors import InputError
from ridgeline.hardware.energy import average_power_w, host_power_w, pue_of
from ridgeline.hardware.prices import NoQuoteError, price
from ridgeline.hardware.profiles import load_accelerator
from ridgeline.hardware.reliability import failures_per_node_day
from ridgeline.simulator.fleet.checkpoints import CheckpointPolicy, Tiers
from ridgeline.simulator.fleet.failures import (
    REPAIR_S,
    SLOW_LINK_FRACTION,
    SLOW_LINK_S,
    FailureModel,
    slow_links,
    slow_nodes,
    spot_reclaims,
)
from ridgeline.simulator.fleet.schema import CheckpointTable, PoolTable, ServiceTable
from ridgeline.simulator.fleet.spec import Pool

HOUR_S = 3600.0
DAY_H = 24.0
TIERS = ("gpu_to_host", "host_to_nvme", "peer", "store")


def traffic_of(table: ServiceTable) -> tuple[float, ...]:
    """Return the requests per second of a service in each slot of its period.

    As listed; or over a day a cosine of mean m and swing s that is highest at hour p,
    m (1 + s cos(2 pi (t - p) / 24)), as its mean over each slot.

    Raises
    ------
    InputError
        Neither or both, or slots that do not divide a day.
    """
    mean = table.mean_requests_per_s
    if (table.traffic is None) == (mean is None):
        raise InputError("give traffic, a list by slots, or mean_requests_per_s with its swing")
    if table.traffic is not None:
        return tuple(table.traffic)
    assert mean is not None
    slots = round(DAY_H / table.slot_h)
    if slots < 1 or abs(slots * table.slot_h - DAY_H) > 1e-9 * DAY_H:
        raise InputError(
            f"slot_h = {table.slot_h}: must divide the 24 hours of mean_requests_per_s"
        )
    half = pi / slots
    middles = (2.0 * pi * ((slot + 0.5) / slots - table.peak_h / DAY_H) for slot in range(slots))
    return tuple(mean * (1.0 + table.swing * cos(at) * sin(half) / half) for at in middles)


def make_checkpoints(table: CheckpointTable) -> CheckpointPolicy:
    """Return how jobs save themselves."""
    values = table.model_dump()
    speeds = {tier: values.pop(f"{tier}_gb_per_s") for tier in TIERS}
    given = {f"{tier}_bytes_per_s": speed * 1e9 for tier, speed in speeds.items() if speed}
    return CheckpointPolicy(**values, tiers=Tiers(**given))


def make_pool(table: PoolTable) -> Pool:
    """Return a pool with its prices, power and failures."""
    profile = load_accelerator(table.accelerator)
    per_node = table.per_node or profile.per_node
    kind = table.price_kind or ("spot" if table.spot else "on-demand")
    usd = table.usd_per_accelerator_hour
    if usd is None:
        try:
            usd = price(profile.name, kind).usd_per_hour
        except NoQuoteError:
            if table.price_kind is not None:
                raise
            usd = 0.0
    pue = pue_of()
    host = host_power_w(profile)
    return Pool(
        name=table.name,
        accelerator=profile.name,
        nodes=table.nodes,
        per_node=per_node,
        nodes_per_rack=table.nodes_per_rack,
        racks_per_pod=table.racks_per_pod,
        rack_oversubscription=table.rack_oversubscription,
        pod_oversubscription=table.pod_oversubscription,
        spot=table.spot,
        usd_per_accelerator_hour=usd,
        pay=table.pay or ("used" if table.spot else "all"),
        busy_w=(average_power_w(profile, 1.0) + host) * pue,
        idle_w=(average_power_w(profile, 0.0) + host) * pue,
        peak_flops=profile.peak(table.precision),
        failures=_failures(table, per_node),
    )


def _failures(table: PoolTable, per_node: int) -> FailureModel | None:
    given = table.failures_per_1000_node_days
    others = table.reclaims_per_1000_node_days or table.slow_links_per_1000_node_days
    if table.failures == "none" and given is None and not others:
        return None
    if table.failures == "none" and given is None:
        model = FailureModel(causes=())
    else:
        if table.failures != "none":
            failures_per_node_day(table.failures, per_node)
        model = FailureModel.published(
            **({} if table.failures == "none" else {"fleet": table.failures}),
            per_node=per_node,
            per_node_day=None if given is None else given / 1000.0,
            repair_s=REPAIR_S if table.repair_h is None else table.repair_h * HOUR_S,
            shape=table.weibull_shape,
            switch_share=table.switch_share,
            stragglers=False,
        )
        if table.stragglers:
            model = replace(model, causes=(*model.causes, slow_nodes(table.stragglers)))
    if table.slow_links_per_1000_node_days:
        links = slow_links(
            table.slow_links_per_1000_node_days / 1000.0, SLOW_LINK_FRACTION, 1.0, SLOW_LINK_S
        )
        model = replace(model, causes=(*model.causes, links))
    if table.reclaims_per_1000_node_days:
        reclaims = spot_reclaims(
            table.reclaims_per_1000_node_days / 1000.0, table.reclaimed_h * HOUR_S
        )
        model = replace(model, causes=(*model.causes, reclaims))
    return replace(
        model,
        new=table.new,
        nodes_per_rack=table.nodes_per_rack,
        spare_fraction=table.spares,
        detect_s=table.detect_s,
        requeue_s=table.requeue_s,
    )
