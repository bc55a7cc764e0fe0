"""Owning accelerators as a monthly cash flow, and when it beats renting them."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from functools import cache
from importlib.resources import files
from math import fsum, inf
from typing import Any

from ridgeline.errors import InputError, nearest
from ridgeline.hardware.accelerator import Accelerator
from ridgeline.hardware.amortized import HOURS_PER_YEAR, value_after
from ridgeline.hardware.costmethod import method_value
from ridgeline.hardware.energy import pue_of, server_power_w
from ridgeline.hardware.prices import server_price

HOURS_PER_MONTH = HOURS_PER_YEAR / 12.0
LONGEST_MONTHS = 600


@dataclass(frozen=True, slots=True, kw_only=True)
class Assumption:
    """One default behind a cash flow."""

    name: str
    value: float
    unit: str
    assumed: bool
    """No published figure stands behind it."""
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Ownership:
    """What is bought and what it takes to run it. Money in USD, per accelerator where not said."""

    count: int
    """Accelerators."""
    accelerator_usd: float
    server_factor: float
    """Price with its share of the server over that of the accelerator, >= 1."""
    interconnect_share: float
    """Share of the network between servers in the price of all hardware, < 1."""
    residual: float
    """What the hardware fetches at the end, as a share of its price."""
    lifetime_months: int
    """In service, after the delivery."""
    delivery_months: int
    """From the payment to the first use."""
    ramp_months: int
    """From the delivery to full use, linearly."""
    utilisation: float
    """Share of hours in use after the ramp, 0 to 1."""
    discount_rate: float
    """A year."""
    rack_kw: float
    """Power that is reserved for an accelerator and its share of the server."""
    idle_kw: float
    """Average draw when not in use, hosts included."""
    busy_kw: float
    """Average draw in use, hosts included."""
    pue: float
    colocation_usd_per_kw_month: float
    usd_per_kwh: float
    staff_usd_per_month: float
    """Of all accelerators together."""
    support_per_year: float
    """Share of the price of all hardware."""

    def __post_init__(self) -> None:
        """Refuse what no fleet can be."""
        rules = (
            (self.count >= 1, "count", "at least 1"),
            (self.accelerator_usd > 0, "accelerator_usd", "more than 0"),
            (self.server_factor >= 1, "server_factor", "at least 1"),
            (0 <= self.interconnect_share < 1, "interconnect_share", "from 0 to below 1"),
            (0 <= self.residual <= 1, "residual", "from 0 to 1"),
            (1 <= self.lifetime_months <= LONGEST_MONTHS, "lifetime_months", "from 1 to 600"),
            (0 <= self.delivery_months <= LONGEST_MONTHS, "delivery_months", "from 0 to 600"),
            (0 <= self.ramp_months <= LONGEST_MONTHS, "ramp_months", "from 0 to 600"),
            (0 < self.utilisation <= 1, "utilisation", "more than 0, at most 1"),
            (0 <= self.discount_rate <= 10, "discount_rate", "from 0 to 10 (1000% a year)"),
            (self.pue >= 1, "pue", "at least 1"),
            *(
                (0 <= getattr(self, name) < inf, name, "0 or more")
                for name in (
                    *("rack_kw", "idle_kw", "busy_kw", "colocation_usd_per_kw_month"),
                    *("usd_per_kwh", "staff_usd_per_month", "support_per_year"),
                )
            ),
        )
        wrong = [
            f"owning: {name} = {getattr(self, name):g}: must be {rule}"
            for holds, name, rule in rules
            if not holds
        ]
        if wrong:
            raise InputError(wrong)

    @property
    def hardware_usd(self) -> float:
        """Price of all hardware: accelerators, servers, network."""
        servers = self.count * self.accelerator_usd * self.server_factor
        return servers / (1.0 - self.interconnect_share)


@dataclass(frozen=True, slots=True, kw_only=True)
class Month:
    """One line of the cash flow: whole cents, money out below 0. Month 0 is the payment."""

    month: int
    utilisation: float
    useful_hours: float
    """Accelerator-hours in use."""
    accelerators_usd: float = 0.0
    servers_usd: float = 0.0
    network_usd: float = 0.0
    colocation_usd: float = 0.0
    energy_usd: float = 0.0
    staff_usd: float = 0.0
    support_usd: float = 0.0
    residual_usd: float = 0.0
    net_usd: float
    """Sum of the columns before it."""
    discount_factor: float
    """(1 + r)^(-month / 12)."""
    present_value_usd: float
    """Their product, to a millionth of a dollar."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CashFlow:
    """A cash flow and what it comes to."""

    months: tuple[Month, ...]
    npv_usd: float
    """Sum of the present values, to the cent; below 0, as owning brings in nothing by itself."""
    useful_hours: float
    """Accelerator-hours in use over the life."""
    usd_per_useful_hour: float
    """Levelised: -NPV over the discounted accelerator-hours in use."""


MONEY = (
    *("accelerators_usd", "servers_usd", "network_usd", "colocation_usd"),
    *("energy_usd", "staff_usd", "support_usd", "residual_usd"),
)
"""Columns of :class:`Month` that add up to ``net_usd``."""


def cash_flow(owning: Ownership) -> CashFlow:
    """Return the monthly cash flow of buying, running and selling a fleet.

    Month 0 pays for the hardware; colocation, energy, staff and support run from the delivery to
    the end of the life, when the residual value comes back. NPV = sum of c_m (1 + r)^(-m/12).
    """
    last = owning.delivery_months + owning.lifetime_months
    months = tuple(_month(owning, number, last) for number in range(last + 1))
    npv = round(fsum(month.present_value_usd for month in months), 2)
    discounted = fsum(month.useful_hours * month.discount_factor for month in months)
    return CashFlow(
        months=months,
        npv_usd=npv,
        useful_hours=fsum(month.useful_hours for month in months),
        usd_per_useful_hour=-npv / discounted,
    )


def _month(owning: Ownership, number: int, last: int) -> Month:
    served = number - owning.delivery_months
    use = _ramp(owning, served) * owning.utilisation
    columns = dict.fromkeys(MONEY, 0.0)
    if number == 0:
        bare = owning.count * owning.accelerator_usd
        servers = bare * owning.server_factor
        columns["accelerators_usd"] = -bare
        columns["servers_usd"] = bare - servers
        columns["network_usd"] = servers - owning.hardware_usd
    if served > 0:
        kw = owning.idle_kw + use * (owning.busy_kw - owning.idle_kw)
        power_usd = kw * owning.pue * HOURS_PER_MONTH * owning.usd_per_kwh
        columns["colocation_usd"] = (
            -owning.count * owning.rack_kw * owning.colocation_usd_per_kw_month
        )
        columns["energy_usd"] = -owning.count * power_usd
        columns["staff_usd"] = -owning.staff_usd_per_month
        columns["support_usd"] = -owning.hardware_usd * owning.support_per_year / 12.0
    if number == last:
        columns["residual_usd"] = owning.hardware_usd * owning.residual
    # adding 0.0 turns the -0.0 of a cost that is nothing into 0.0
    cents = {name: round(value, 2) + 0.0 for name, value in columns.items()}
    net = round(fsum(cents.values()), 2) + 0.0
    factor = (1.0 + owning.discount_rate) ** (-number / 12.0)
    return Month(
        month=number,
        utilisation=use,
        useful_hours=owning.count * use * HOURS_PER_MONTH,
        **cents,
        net_usd=net,
        discount_factor=factor,
        present_value_usd=round(net * factor, 6) + 0.0,
    )


def _ramp(owning: Ownership, served: int) -> float:
    """Return the share of full use in a month of service, the first one being 1."""
    if served <= 0:
        return 0.0
    return min(1.0, served / owning.ramp_months) if owning.ramp_months else 1.0


def break_even_utilisation(owning: Ownership, usd_per_hour: float) -> float:
    """Return the utilisation from which owning costs less than renting the hours in use.

    The discounted cost of owning is F + u V and renting u H p, with u the utilisation after the
    ramp, H the discounted accelerator-hours at u = 1 and p the rent of an hour: u = F / (p H - V).
    Infinite when an hour costs no more to rent than the electricity of using it; more than 1 when
    even a fleet that never rests loses.
    """
    fixed = variable = hours = 0.0
    hour_usd = owning.count * HOURS_PER_MONTH * owning.pue * owning.usd_per_kwh
    for month in cash_flow(owning).months:
        ramp = _ramp(owning, month.month - owning.delivery_months)
        used = hour_usd * ramp * (owning.busy_kw - owning.idle_kw)
        variable += used * month.discount_factor
        fixed += -month.present_value_usd - used * owning.utilisation * month.discount_factor
        hours += owning.count * HOURS_PER_MONTH * ramp * month.discount_factor
    saved = usd_per_hour * hours - variable
    return fixed / saved if saved > 0 else inf


def break_even_month(owning: Ownership, usd_per_hour: float) -> int | None:
    """Return the month by which owning has cost no more than renting the same hours would have.

    Counted from the payment, discounted, without selling anything before the end of the life, when
    the residual value counts. None when renting stays cheaper.
    """
    ahead = 0.0
    for month in cash_flow(owning).months:
        ahead += month.present_value_usd
        ahead += usd_per_hour * month.useful_hours * month.discount_factor
        if ahead >= 0.0 and month.useful_hours:
            return month.month
    return None


@cache
def _table() -> dict[str, Assumption]:
    text = (files("ridgeline.hardware") / "data/ownership.csv").read_text("utf-8")
    return {
        row["key"]: Assumption(
            name=row["key"],
            value=float(row["value"]),
            unit=row["unit"],
            assumed=row["status"] == "assumed",
            source=row["source"],
        )
        for row in csv.DictReader(text.splitlines())
    }


def default_ownership(
    profile: Accelerator, count: int, *, usd_per_kwh: float = 0.0, pue: float = 0.0
) -> tuple[Ownership, tuple[Assumption, ...]]:
    """Return a fleet with the default of everything, and where each comes from.

    Parameters
    ----------
    profile, count
        What is bought, and how many.
    usd_per_kwh, pue
        0 takes the defaults.

    Raises
    ------
    NoQuoteError
        When the price list has no purchase price.
    """
    bought = server_price(profile)
    table = _table()
    value = {name: one.value for name, one in table.items()}
    factor = method_value("server_cost_factor", profile.name)
    rate = usd_per_kwh or method_value("usd_per_kwh")
    building = pue or pue_of()
    residual = value_after(1.0, value["lifetime_years"])
    rack_w = profile.tdp_w * method_value("server_power_factor", profile.name)
    owning = Ownership(
        count=count,
        accelerator_usd=bought.usd / factor,
        server_factor=factor,
        interconnect_share=method_value("interconnect_share"),
        residual=residual,
        lifetime_months=round(12 * value["lifetime_years"]),
        delivery_months=round(value["delivery_months"]),
        ramp_months=round(value["ramp_months"]),
        utilisation=value["utilisation"],
        discount_rate=value["discount_rate"],
        rack_kw=rack_w / 1000.0,
        idle_kw=server_power_w(profile, 0.0) / 1000.0,
        busy_kw=server_power_w(profile, 1.0) / 1000.0,
        pue=building,
        colocation_usd_per_kw_month=value["colocation_usd_per_kw_month"],
        usd_per_kwh=rate,
        staff_usd_per_month=value["staff_per_thousand"]
        * count
        / 1000.0
        * value["staff_usd_per_year"]
        / 12.0,
        support_per_year=value["support_per_year"],
    )
    method = "Cottier et al. 2024 (arXiv 2405.21015)"
    given = "given by the user"
    derived = tuple(
        Assumption(name=name, value=number, unit=unit, assumed=False, source=source)
        for name, number, unit, source in (
            ("server_usd", bought.usd, "USD, server share included", bought.source),
            ("server_factor", factor, "server over accelerator", method),
            ("interconnect_share", owning.interconnect_share, "of all hardware", method),
            (
                "residual",
                residual,
                "of the price at the end",
                f"{method}: hardware loses 0.14 orders of magnitude a year to newer hardware",
            ),
            ("rack_kw", owning.rack_kw, "kW per accelerator", f"{method}: server power factor"),
            ("pue", building, "", given if pue else "Uptime Institute, newest survey"),
            ("usd_per_kwh", rate, "USD/kWh", given if usd_per_kwh else "US industry, 2025 (EIA)"),
        )
    )
    return owning, (*derived, *table.values())


def with_given(
    owning: Ownership, assumptions: tuple[Assumption, ...], given: Mapping[str, float]
) -> tuple[Ownership, tuple[Assumption, ...]]:
    """Return a fleet with some fields as the user says, and what then stands behind it.

    Raises
    ------
    InputError
        For an unknown field, or a value that no fleet can have.
    """
    known = [f.name for f in fields(Ownership) if f.name != "count"]
    unknown = [
        f"owning: {name!r}: unknown; {nearest(name, known)}" for name in given if name not in known
    ]
    whole = [
        f"owning: {name} = {value:g}: must be a whole number"
        for name, value in given.items()
        if name.endswith("_months") and value % 1 != 0
    ]
    if unknown or whole:
        raise InputError(unknown + whole)
    values: dict[str, Any] = {
        name: int(value) if name.endswith("_months") else value for name, value in given.items()
    }
    kept = tuple(one for one in assumptions if one.name not in given)
    return replace(owning, **values), (
        *kept,
        *(
            Assumption(name=name, value=value, unit="", assumed=False, source="given by the user")
            for name, value in given.items()
        ),
    )
