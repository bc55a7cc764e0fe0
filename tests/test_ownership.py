"""Owning as a cash flow against spreadsheets recomputed by hand and closed forms."""

from __future__ import annotations

from dataclasses import asdict, replace
from decimal import Decimal, getcontext

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ridgeline.errors import InputError
from ridgeline.hardware.amortized import value_after
from ridgeline.hardware.ownership import (
    HOURS_PER_MONTH,
    MONEY,
    Ownership,
    break_even_month,
    break_even_utilisation,
    cash_flow,
    default_ownership,
)
from ridgeline.hardware.prices import NoQuoteError, price
from ridgeline.hardware.profiles import load_accelerator

PLAIN = Ownership(
    count=8,
    accelerator_usd=20_000.0,
    server_factor=1.6,
    interconnect_share=0.2,
    residual=0.0,
    lifetime_months=48,
    delivery_months=0,
    ramp_months=0,
    utilisation=1.0,
    discount_rate=0.0,
    rack_kw=1.3,
    idle_kw=0.4,
    busy_kw=1.0,
    pue=1.25,
    colocation_usd_per_kw_month=150.0,
    usd_per_kwh=0.08,
    staff_usd_per_month=500.0,
    support_per_year=0.0,
)
H100 = default_ownership(load_accelerator("h100-sxm"), 1024)[0]


def test_the_default_fleet_is_what_a_spreadsheet_gives_to_the_cent() -> None:
    getcontext().prec = 50
    flow = cash_flow(H100)
    root = (Decimal(1) + Decimal(str(H100.discount_rate))) ** (Decimal(1) / Decimal(12))
    npv = Decimal(0)
    for month in flow.months:
        cells = [Decimal(repr(getattr(month, name))) for name in MONEY]
        assert all(cell == cell.quantize(Decimal("0.01")) for cell in cells)
        assert sum(cells) == Decimal(repr(month.net_usd))
        npv += sum(cells) / root**month.month
    assert float(npv.quantize(Decimal("0.01"))) == flow.npv_usd


def test_the_cells_are_what_they_say() -> None:
    flow = cash_flow(replace(PLAIN, residual=0.25, support_per_year=0.06, utilisation=0.5))
    first, month, last = flow.months[0], flow.months[1], flow.months[-1]
    assert (first.accelerators_usd, first.servers_usd) == (-160_000.0, -96_000.0)
    assert first.network_usd == -64_000.0  # 0.2 of 320,000
    assert first.colocation_usd == first.energy_usd == first.useful_hours == 0.0
    assert month.colocation_usd == -8 * 1.3 * 150
    kwh = 8 * (0.4 + 0.5 * 0.6) * 1.25 * 730.5
    assert month.energy_usd == pytest.approx(-kwh * 0.08, abs=0.005)
    assert month.support_usd == -320_000 * 0.06 / 12
    assert month.useful_hours == 8 * 730.5 * 0.5
    assert last.residual_usd == 80_000.0
    assert len(flow.months) == 49


def test_without_discount_the_net_present_value_is_the_sum() -> None:
    flow = cash_flow(PLAIN)
    assert flow.npv_usd == pytest.approx(sum(month.net_usd for month in flow.months), abs=0.005)
    assert flow.usd_per_useful_hour == pytest.approx(-flow.npv_usd / flow.useful_hours)


def test_level_costs_are_an_annuity() -> None:
    # present value of c a month for n months: c (1 - q^-n) / (q - 1), q = (1 + r)^(1/12)
    owning = replace(PLAIN, discount_rate=0.12, support_per_year=0.03)
    flow = cash_flow(owning)
    q = 1.12 ** (1 / 12)
    monthly = flow.months[1].net_usd
    expected = -owning.hardware_usd + monthly * (1 - q**-48) / (q - 1)
    assert flow.npv_usd == pytest.approx(expected, abs=0.01)


def test_the_residual_value_comes_back_discounted() -> None:
    owning = replace(PLAIN, discount_rate=0.1)
    gained = cash_flow(replace(owning, residual=0.3)).npv_usd - cash_flow(owning).npv_usd
    assert gained == pytest.approx(0.3 * owning.hardware_usd / 1.1**4, abs=0.01)
    assert H100.residual == pytest.approx(value_after(1.0, 5.0))


def test_a_late_delivery_delays_use_and_costs_but_not_the_payment() -> None:
    flow = cash_flow(replace(PLAIN, delivery_months=6, ramp_months=4))
    assert [month.useful_hours for month in flow.months[:7]] == [0.0] * 7
    assert all(month.net_usd == 0.0 for month in flow.months[1:7])
    full = 8 * HOURS_PER_MONTH
    ramp = [month.useful_hours / full for month in flow.months[7:12]]
    assert ramp == pytest.approx([0.25, 0.5, 0.75, 1.0, 1.0])
    assert len(flow.months) == 1 + 6 + 48


@given(
    utilisation=st.floats(0.05, 1.0),
    rate=st.floats(0.0, 0.5),
    delay=st.integers(0, 12),
    ramp=st.integers(0, 12),
    residual=st.floats(0.0, 0.6),
)
@settings(deadline=None, max_examples=40)
def test_at_the_levelised_price_owning_and_renting_break_even(
    utilisation: float, rate: float, delay: int, ramp: int, residual: float
) -> None:
    owning = replace(
        H100,
        utilisation=utilisation,
        discount_rate=rate,
        delivery_months=delay,
        ramp_months=ramp,
        residual=residual,
    )
    hour = cash_flow(owning).usd_per_useful_hour
    assert break_even_utilisation(owning, hour) == pytest.approx(utilisation, rel=1e-6)
    # a dearer rent is beaten by a fleet that is used less
    assert break_even_utilisation(owning, 1.1 * hour) < utilisation
    assert break_even_month(owning, 1.001 * hour) is not None
    assert break_even_month(owning, 0.999 * hour) is None


def test_rent_below_the_price_of_electricity_is_never_beaten() -> None:
    assert break_even_utilisation(PLAIN, 0.01) == float("inf")
    assert break_even_month(PLAIN, 0.01) is None


def test_the_month_of_the_break_even_is_that_of_the_sums() -> None:
    # 40,000 USD an accelerator against (rent - running) a month, undiscounted
    running = -cash_flow(PLAIN).months[1].net_usd / 8
    months = 40_000 / (3.0 * HOURS_PER_MONTH - running)
    assert break_even_month(PLAIN, 3.0) == int(months) + 1


def test_a_fleet_costs_what_the_amortized_price_says_plus_what_that_leaves_out() -> None:
    # Without building, staff, support, financing and idle time the two methods differ only in how
    # value is lost: 32.2% a year of the value against the whole price less the residual value.
    bare = replace(
        H100,
        colocation_usd_per_kw_month=0.0,
        staff_usd_per_month=0.0,
        support_per_year=0.0,
        discount_rate=0.0,
        utilisation=1.0,
        ramp_months=0,
    )
    found = cash_flow(bare).usd_per_useful_hour
    amortized = price("h100-sxm", "owned").usd_per_hour
    assert 0.4 * amortized < found < amortized
    assert cash_flow(H100).usd_per_useful_hour > found


def test_every_default_is_sourced_or_marked_as_assumed() -> None:
    _, assumptions = default_ownership(load_accelerator("h100-sxm"), 8)
    names = {one.name for one in assumptions}
    assert {"discount_rate", "residual", "server_usd", "utilisation"} <= names
    assert all(one.source for one in assumptions)
    assert {one.name for one in assumptions if one.assumed} == {
        *("discount_rate", "ramp_months", "delivery_months"),
        *("staff_per_thousand", "support_per_year"),
    }


def test_impossible_fleets_are_refused_all_mistakes_together() -> None:
    with pytest.raises(InputError) as caught:
        replace(PLAIN, utilisation=1.5, residual=float("nan"), lifetime_months=0)
    assert len(caught.value.problems) == 3
    assert "owning: utilisation = 1.5: must be more than 0, at most 1" in caught.value.problems


def test_what_is_not_sold_cannot_be_owned() -> None:
    with pytest.raises(NoQuoteError, match="no purchase price"):
        default_ownership(load_accelerator("tpu-v7x"), 8)


def test_more_accelerators_cost_in_proportion() -> None:
    one = default_ownership(load_accelerator("h100-sxm"), 1000)[0]
    two = default_ownership(load_accelerator("h100-sxm"), 2000)[0]
    assert cash_flow(two).npv_usd == pytest.approx(2 * cash_flow(one).npv_usd, rel=1e-7)
    assert asdict(replace(two, count=1, staff_usd_per_month=0.0)) == asdict(
        replace(one, count=1, staff_usd_per_month=0.0)
    )
