"""From a run to money, energy and carbon."""

from __future__ import annotations

from dataclasses import dataclass

from ridgeline.hardware.energy import carbon_kg_per_kwh, energy_kwh, pue_of
from ridgeline.hardware.prices import NoQuoteError, Price, price
from ridgeline.simulator.plan import Money, Plan
from ridgeline.simulator.run import Run


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What a run takes. All accelerators of the cluster are paid for, used or not."""

    accelerator_hours: float
    usd_per_accelerator_hour: float
    """0 when no price is known; ``warnings`` then says so."""
    usd: float
    energy_kwh: float
    """From the grid: accelerators and hosts, times PUE."""
    co2_kg: float
    sources: tuple[str, ...]
    warnings: tuple[str, ...]


def cost(run: Run, plan: Plan) -> Cost:
    """Price a run: accelerator-hours times price, server power times PUE times grid intensity.

    The accelerators draw their training power for ``run.goodput`` of the time and idle for the rest
    (:func:`ridgeline.hardware.energy.average_power_w`). When the price list has no quote of the
    default kind there is a warning and no dollars, because the rest of the answer stands.

    Raises
    ------
    InputError
        For an unknown price kind or region, or when a kind that was asked for has no quote.
    """
    money, cluster = plan.money, plan.cluster
    hours = cluster.count * run.wall_clock_s / 3600.0
    pue = money.pue or pue_of()
    warnings: tuple[str, ...] = ()
    try:
        rate = _price(plan, pue)
    except NoQuoteError as error:
        if money.kind != Money().kind:
            raise
        warnings = (f"no dollars: {error}",)
        rate = Price(usd_per_hour=0.0, kind=money.kind, date="", source="none", provider="")
    energy = energy_kwh(cluster.accelerator, hours, run.goodput, pue)
    intensity = carbon_kg_per_kwh(money.region)
    return Cost(
        accelerator_hours=hours,
        usd_per_accelerator_hour=rate.usd_per_hour,
        usd=hours * rate.usd_per_hour,
        energy_kwh=energy,
        co2_kg=energy * intensity,
        sources=(
            _stated(rate),
            f"energy: PUE {pue:.2f}, host after Cottier et al. 2024 (arXiv 2405.21015)",
            f"carbon: {intensity:.3f} kg/kWh, {money.region or 'world average, IEA 2019'}",
        ),
        warnings=warnings,
    )


def _stated(rate: Price) -> str:
    if not rate.usd_per_hour:
        return "price: none known"
    dated = f" {rate.date}" if rate.date else ""
    return f"price: {rate.usd_per_hour:.3f} USD/h {rate.kind}{dated} ({rate.source})"


def _price(plan: Plan, pue: float) -> Price:
    money = plan.money
    if money.usd_per_accelerator_hour > 0:
        return Price(
            usd_per_hour=money.usd_per_accelerator_hour,
            kind=money.kind,
            date="",
            source="given by the user",
            provider="user",
        )
    return price(plan.cluster.accelerator, money.kind, usd_per_kwh=money.usd_per_kwh, pue=pue)
