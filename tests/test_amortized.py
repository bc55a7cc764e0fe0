"""The amortized cost of hardware against its authors' figures and closed forms."""

from __future__ import annotations

import csv
from datetime import date
from math import exp, log
from pathlib import Path

import pytest

from ridgeline.hardware.amortized import (
    HOURS_PER_YEAR,
    amortized_cost,
    capital_per_hour,
    cluster_price,
    value_after,
)
from ridgeline.hardware.costmethod import method_value
from ridgeline.hardware.energy import server_power_w
from ridgeline.hardware.prices import price, server_price
from ridgeline.hardware.profiles import load_accelerator

DATA = Path(__file__).parent / "data" / "cottier2024.csv"
INDEX_DECEMBER_2024 = 119.349
"""PCU518210518210; the authors' answers are in dollars of that month."""
RUNS = list(csv.DictReader(DATA.read_text("utf-8").splitlines()))


@pytest.mark.parametrize("run", RUNS, ids=[run["model"] for run in RUNS])
def test_the_authors_costs_are_met_within_one_per_cent(run: dict[str, str]) -> None:
    server = float(run["purchase_usd"])
    if run["includes_server"] == "no":
        server *= method_value("server_cost_factor", run["accelerator"])
    inflation = INDEX_DECEMBER_2024 / float(run["price_index"])
    bought = int(run["quantity"]) * cluster_price(server) * inflation
    assert bought == pytest.approx(float(run["acquisition_usd"]), rel=1e-3)
    days = (date.fromisoformat(run["started"]) - date.fromisoformat(run["acquired"])).days
    share = method_value("average_power_share", run["accelerator"])
    found = amortized_cost(
        server,
        float(run["accelerator_hours"]),
        age_years=days / 365.25,
        server_w=float(run["tdp_w"]) * float(run["server_power_factor"]) * share,
        pue=float(run["pue"]),
        usd_per_kwh=float(run["usd_per_kwh"]),
    )
    assert found.usd * inflation == pytest.approx(float(run["capex_energy_usd"]), rel=0.01)


def test_the_price_of_owning_is_the_same_method() -> None:
    h100 = load_accelerator("h100-sxm")
    found = amortized_cost(
        server_price(h100).usd, 1.0, server_w=server_power_w(h100), pue=1.25, usd_per_kwh=0.1
    )
    assert price("h100-sxm", "owned", pue=1.25, usd_per_kwh=0.1).usd_per_hour == found.usd


def test_an_hour_of_capital_is_what_the_value_loses_in_it() -> None:
    # d/dt of V 10^(-k t) at 0 is V k ln 10; over a year the value falls by 1 - e^(-0.322)
    loss = 1e5 - value_after(1e5, 1.0 / HOURS_PER_YEAR)
    assert capital_per_hour(1e5) == pytest.approx(loss, rel=1e-4)
    assert value_after(1.0, 1.0) == pytest.approx(exp(-0.14 * log(10.0)))
    assert value_after(1.0, -1.0) * value_after(1.0, 1.0) == pytest.approx(1.0)


def test_the_network_is_its_share_of_the_cluster() -> None:
    found = amortized_cost(1e4, 1e3, server_w=0.0, pue=1.0, usd_per_kwh=0.1)
    assert found.interconnect_usd / found.usd == pytest.approx(method_value("interconnect_share"))
