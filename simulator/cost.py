"""From a run to money, energy and carbon."""

from __future__ import annotations

from dataclasses import dataclass

from ridgeline.hardware.accelerator import Accelerator
from ridgeline.hardware.energy import carbon_kg_per_kwh, energy_kwh, pue_of
from ridgeline.hardware.prices import NoQuoteError, Price
from ridgeline.hardware.quotes import credits_used, current_price
from ridgeline.simulator.plan import Money, Plan
from ridgeline.simulator.run import Run


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What a run takes. All accelerators of the cluster are paid for, used or not."""

    accelerator_hours: float
    usd_per_accelerator_hour: float
    """0 when no price is known; ``warnings`` then says so."""
    usd: float
    """Before credits."""
    credits_usd: float
    """What credits pay of it."""
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
    rate, warnings = hourly_rate(money, cluster.accelerator)
    usd = hours * rate.usd_per_hour
    credits_usd = credits_used(rate, usd, run.wall_clock_s, money.as_of)
    energy = energy_kwh(cluster.accelerator, hours, run.goodput, pue)
    intensity = carbon_kg_per_kwh(money.region)
    return Cost(
        accelerator_hours=hours,
        usd_per_accelerator_hour=rate.usd_per_hour,
        usd=usd,
        credits_usd=credits_usd,
        energy_kwh=energy,
        co2_kg=energy * intensity,
        sources=sources(rate, pue, intensity, money.region, credits_usd),
        warnings=warnings,
    )


def sources(
    rate: Price, pue: float, intensity: float, region: str, credits_usd: float = 0.0
) -> tuple[str, ...]:
    """Return where price, credits, energy and carbon come from, a line each."""
    dated = f" {rate.date}" if rate.date else ""
    price_line = f"price: {rate.usd_per_hour:.3f} USD/h {rate.kind}{dated} ({rate.source})"
    return (
        price_line if rate.usd_per_hour else "price: none known",
        *((f"credits: {credits_usd:,.0f} USD of {rate.provider}",) if credits_usd else ()),
        f"energy: PUE {pue:.2f}, host after Cottier et al. 2024 (arXiv 2405.21015)",
        f"carbon: {intensity:.3f} kg/kWh, {region or 'world average, IEA 2019'}",
    )


def hourly_rate(money: Money, accelerator: Accelerator) -> tuple[Price, tuple[str, ...]]:
    """Return the price of an accelerator-hour, and warnings; none where nobody quotes one.

    Raises
    ------
    InputError
        For an unknown kind, or when a kind that was asked for has no quote.
    """
    try:
        rate = price_of(money, accelerator)
    except NoQuoteError as error:
        if money.kind != Money().kind:
            raise
        none = Price(usd_per_hour=0.0, kind=money.kind, date="", source="none", provider="")
        return none, (f"no dollars: {error}",)
    return rate, rate.warnings


def plan_price(plan: Plan) -> Price:
    """Return what a plan pays for an accelerator-hour (:func:`price_of`)."""
    return price_of(plan.money, plan.cluster.accelerator)


def price_of(money: Money, accelerator: Accelerator) -> Price:
    """Return the price of an accelerator-hour: the one given, of own quotes, or of the list.

    Raises
    ------
    InputError
        For an unknown kind.
    NoQuoteError
        When nobody quotes this kind.
    """
    if money.usd_per_accelerator_hour > 0:
        return Price(
            usd_per_hour=money.usd_per_accelerator_hour,
            kind=money.kind,
            date="",
            source="given by the user",
            provider="user",
        )
    return current_price(
        accelerator,
        money.kind,
        quotes=money.quotes,
        as_of=money.as_of,
        provider=money.provider,
        usd_per_kwh=money.usd_per_kwh,
        pue=money.pue,
    )
