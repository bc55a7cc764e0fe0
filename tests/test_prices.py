"""Prices, energy, carbon and reliability against published figures and closed forms."""

from __future__ import annotations

from math import inf, log

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ridgeline.errors import InputError
from ridgeline.hardware.costmethod import method_value
from ridgeline.hardware.energy import (
    average_power_w,
    carbon_kg_per_kwh,
    energy_kwh,
    pue_of,
    server_power_w,
)
from ridgeline.hardware.prices import KINDS, NoQuoteError, kinds_of, price, quotes
from ridgeline.hardware.profiles import accelerator_names, load_accelerator
from ridgeline.hardware.reliability import (
    failures_per_node_day,
    goodput,
    mttf_s,
    optimal_interval_s,
    unsaved_time_s,
)


def test_every_quote_is_dated_sourced_and_of_a_known_accelerator() -> None:
    known = set(accelerator_names())
    for quote in quotes():
        assert quote.accelerator in known
        assert quote.date[:4].isdigit()
        assert quote.date[5:7] in {"", *(f"{month:02}" for month in range(1, 13))}
        assert quote.source
        assert quote.usd > 0


def test_the_default_is_the_median_over_providers_of_the_newest_year() -> None:
    # 2026 quotes of H100 SXM: AWS 6.88, Lambda 2.99, RunPod 3.49, Azure 12.29
    found = price("h100-sxm")
    assert found.usd_per_hour == pytest.approx((3.49 + 6.88) / 2)
    assert (found.kind, found.provider, found.date[:4]) == ("on-demand", "median of 4", "2026")


def test_an_alias_has_the_same_price() -> None:
    assert price("H100") == price("h100-sxm")


def test_kinds_are_not_mixed() -> None:
    assert kinds_of(load_accelerator("tpu-v4")) == ("on-demand", "reserved", "owned")
    with pytest.raises(NoQuoteError, match="no spot quote; there are: on-demand, reserved, owned"):
        price("tpu-v4", "spot")
    with pytest.raises(InputError, match="did you mean 'on-demand'"):
        price("h100", "on demand")
    found = {kind: price("mi300x", kind) for kind in KINDS}
    assert all(found[kind].kind == kind for kind in KINDS)
    assert found["spot"].usd_per_hour < found["on-demand"].usd_per_hour


def test_owning_an_h100_costs_what_others_found() -> None:
    # Epoch AI (code of Cottier et al. 2024): Llama 3.1 405B, 51.04 million USD of capital and
    # energy for 16,384 H100 x 2,142 h = 1.454 USD/h. SemiAnalysis, April 2026: ownership costs
    # 1.30 (hyperscaler) to 1.69 (neocloud) USD/h. Purchase prices spread by a factor of 0.5 to 2.
    found = price("h100-sxm", "owned").usd_per_hour
    assert 1.30 / 1.5 < found < 1.454 * 1.5


def test_amortization_is_the_published_formula() -> None:
    # 0.14 ln 10 = 32.2% of the value a year (Cottier et al. 2024)
    assert method_value("depreciation_per_year") * log(10) == pytest.approx(0.322, abs=5e-4)
    cheap = price("tpu-v5e", "owned", usd_per_kwh=1e-12, pue=1.0)
    # 1,781 USD (Epoch's equivalent price), bare chip
    capital = 1781 * 1.64 / (1 - 0.19) * 0.14 * log(10) / 8766
    assert cheap.usd_per_hour == pytest.approx(capital, rel=1e-6)
    dear = price("tpu-v5e", "owned", usd_per_kwh=1.0, pue=2.0)
    power = server_power_w(load_accelerator("tpu-v5e")) / 1000
    assert dear.usd_per_hour == pytest.approx(capital + 2 * power, rel=1e-6)


def test_power_lies_between_idle_and_the_training_load() -> None:
    for name in accelerator_names():
        device = load_accelerator(name)
        idle, half, busy = (average_power_w(device, u) for u in (0.0, 0.5, 1.0))
        assert idle == device.idle_w
        assert busy == pytest.approx(device.load_fraction * device.tdp_w)
        assert idle <= half <= busy <= device.tdp_w
        assert server_power_w(device) > busy


def test_a_dgx_h100_draws_less_than_its_label() -> None:
    # NVIDIA DGX H100 data sheet: 10.2 kW at most; 0.75 of it on average (Cottier et al. 2024)
    eight = 8 * server_power_w(load_accelerator("h100-sxm"))
    assert 0.6 * 10200 < eight < 10200


def test_energy_is_power_times_hours_times_pue() -> None:
    device = load_accelerator("h100-sxm")
    assert energy_kwh(device, 1000.0, 1.0, 1.1) == pytest.approx(1.1 * server_power_w(device))


def test_pue_is_the_newest_and_unknown_sites_are_refused() -> None:
    # Uptime Institute 2025: 1.54; Google 2025: 1.09
    assert pue_of() == 1.54
    assert pue_of("Google") == 1.09
    with pytest.raises(InputError, match="did you mean 'google'"):
        pue_of("gogle")


def test_carbon_of_grids() -> None:
    assert carbon_kg_per_kwh() == 0.475  # IEA 2019, world average
    assert carbon_kg_per_kwh("gcp:europe-north1") == 0.046
    assert carbon_kg_per_kwh("europe-north1") == carbon_kg_per_kwh("GCP:europe-north1")
    assert carbon_kg_per_kwh("country:FRA") < carbon_kg_per_kwh("country:POL")
    with pytest.raises(InputError, match="did you mean 'europe-north1'"):
        carbon_kg_per_kwh("europe-nort1")


def test_ambiguous_regions_are_refused() -> None:
    with pytest.raises(InputError, match="ambiguous; write country:usa or us-state:usa"):
        carbon_kg_per_kwh("usa")


def test_llama_3_was_interrupted_every_three_hours() -> None:
    # The Llama 3 Herd of Models, table 5: 419 unexpected interruptions in 54 days on 16,384 GPUs
    mttf = mttf_s(2048, failures_per_node_day("meta-llama3"))
    assert mttf / 3600 == pytest.approx(54 * 24 / 419, rel=1e-3)
    assert mttf / 3600 == pytest.approx(3.09, abs=0.01)


def test_rsc_1_projects_to_1_8_hours() -> None:
    # Kokolis et al. 2024 (arXiv 2410.21680): 1.8 h at 16,384 and 0.23 h at 131,072 GPUs
    rate = failures_per_node_day("rsc-1")
    assert mttf_s(2048, rate) / 3600 == pytest.approx(1.8, abs=0.05)
    assert mttf_s(16384, rate) / 3600 == pytest.approx(0.23, abs=0.01)


def test_rates_go_with_accelerators_and_unknown_fleets_are_refused() -> None:
    assert failures_per_node_day(per_node=4) == failures_per_node_day() / 2
    assert mttf_s(100, 0.0) == inf
    with pytest.raises(InputError, match="did you mean 'rsc-1'"):
        failures_per_node_day("rsc1")


def test_llama_3_trained_more_than_nine_tenths_of_the_time() -> None:
    # same paper: effective training time above 90%; checkpoints at 2 TB/s sustained, up to 4 GB
    # per GPU; restarts within some ten minutes
    mttf = mttf_s(2048, failures_per_node_day("meta-llama3"))
    write = 14 * 405e9 / 2e12
    share = goodput(
        checkpoint_s=write,
        interval_s=optimal_interval_s(write, mttf),
        restart_s=600.0,
        mttf=mttf,
    )
    assert 0.9 < share < 0.97


@settings(max_examples=50, deadline=None)
@given(st.floats(0.1, 100.0), st.floats(1e4, 1e6), st.floats(0.3, 3.0))
def test_young_and_daly_is_the_best_interval_to_first_order(
    write: float, mttf: float, other: float
) -> None:
    best = optimal_interval_s(write, mttf)

    def share(interval: float) -> float:
        return goodput(checkpoint_s=write, interval_s=interval, restart_s=0.0, mttf=mttf)

    # the closed form that it is derived from drops terms of order delta / M
    assert share(best) >= share(best * other) - 3 * write / mttf


def test_goodput_limits() -> None:
    assert goodput(checkpoint_s=0.0, interval_s=0.0, restart_s=100.0, mttf=inf) == 1.0
    share = goodput(checkpoint_s=60.0, interval_s=540.0, restart_s=1e9, mttf=inf)
    assert share == pytest.approx(0.9)
    assert goodput(checkpoint_s=1.0, interval_s=100.0, restart_s=200.0, mttf=100.0) == 0.0


def test_a_run_that_never_saves_starts_over() -> None:
    assert unsaved_time_s(3600.0, 0.0, inf) == 3600.0
    # (M)(e - 1) for W = M
    assert unsaved_time_s(3600.0, 0.0, 3600.0) == pytest.approx(3600.0 * 1.718281828)
    assert unsaved_time_s(1e9, 0.0, 1.0) == inf
