"""What pools cost while they are on: money, energy, carbon."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from ridgeline.hardware.energy import carbon_kg_per_kwh, energy_kwh, pue_of
from ridgeline.simulator.cost import hourly_rate, sources
from ridgeline.simulator.serving.deployment import Deployment
from ridgeline.simulator.serving.play import Played
from ridgeline.simulator.serving.results import Bill, PoolUse


def bill_of(
    deployed: Sequence[Deployment], played: Played
) -> tuple[Bill, tuple[PoolUse, ...], tuple[str, ...], tuple[str, ...]]:
    """Pay for every replica while it is on; the accelerators draw idle power between iterations.

    Returns
    -------
    The sum over pools, each pool's part, where the figures come from, and warnings.
    """
    uses: list[PoolUse] = []
    input_usd = 0.0
    lines: list[str] = []
    warnings: list[str] = []
    ended_in = np.where(played.finished, played.pool[played.replica], -1)
    for g, one in enumerate(deployed):
        mine = played.pool == g
        service = one.service
        money, accelerator = service.money, service.cluster.accelerator
        pue = money.pue or pue_of()
        rate, complaints = hourly_rate(money, accelerator)
        intensity = carbon_kg_per_kwh(money.region)
        on_s, busy_s = float(played.on_s[mine].sum()), float(played.busy_s[mine].sum())
        hours = on_s * service.replica_accelerators / 3600.0
        used = min(1.0, busy_s / on_s) if on_s > 0 else 0.0
        prompts = float(played.prefill_s[mine].sum()) / busy_s if busy_s > 0 else 0.0
        spent = hours * rate.usd_per_hour
        energy = energy_kwh(accelerator, hours, used, pue)
        input_usd += spent * prompts
        uses.append(
            PoolUse(
                role=one.role,
                cluster=service.cluster.name,
                engine=service.engine,
                replicas=service.replicas,
                accelerators=service.replicas * service.replica_accelerators,
                finished=int(np.sum(ended_in == g)),
                utilisation=used,
                accelerator_hours=hours,
                usd_per_accelerator_hour=rate.usd_per_hour,
                usd=spent,
                idle_usd=spent * (1.0 - used),
                energy_kwh=energy,
                co2_kg=energy * intensity,
            )
        )
        lines += [x for x in sources(rate, pue, intensity, money.region) if x not in lines]
        warnings += [x for x in complaints if x not in warnings]
    return _sum(uses, played, input_usd), tuple(uses), tuple(lines), tuple(warnings)


def _sum(uses: Sequence[PoolUse], played: Played, input_usd: float) -> Bill:
    done = played.finished
    inputs = float(played.input_tokens[done].sum()) / 1e6
    outputs = float(played.output_tokens[done].sum()) / 1e6
    hours, usd = sum(use.accelerator_hours for use in uses), sum(use.usd for use in uses)
    energy, co2 = sum(use.energy_kwh for use in uses), sum(use.co2_kg for use in uses)
    return Bill(
        accelerator_hours=hours,
        usd_per_accelerator_hour=usd / hours if hours > 0 else 0.0,
        usd=usd,
        idle_usd=sum(use.idle_usd for use in uses),
        usd_per_million_input_tokens=_per(input_usd, inputs),
        usd_per_million_output_tokens=_per(usd - input_usd, outputs),
        usd_per_million_tokens=_per(usd, inputs + outputs),
        energy_kwh=energy,
        kwh_per_million_tokens=_per(energy, inputs + outputs),
        co2_kg=co2,
        co2_kg_per_million_tokens=_per(co2, inputs + outputs),
    )


def _per(amount: float, millions: float) -> float:
    return amount / millions if millions > 0 else math.nan
