"""A user's own quotes: strict reading, dates, kinds that never mix, credits that expire."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from ridgeline.cli import run
from ridgeline.errors import InputError
from ridgeline.hardware.prices import NoQuoteError, Price, price
from ridgeline.hardware.quotes import credits_used, current_price, parse_day, read_quotes
from ridgeline.simulator.cost import plan_price
from ridgeline.simulator.planfile import read_plan
from ridgeline.simulator.training import simulate_training

HEADER = (
    "accelerator,usd_per_hour,kind,provider,date,region,commitment,credits_usd,credits_expire\n"
)
TABLE = (
    HEADER
    + """h100-sxm,2.10,negotiated,Acme,2026-11-01,us-east,12 months,50000,2026-12-31
H100,2.90,list,Acme,2026-10-20,us-east,,,
h100-sxm,2.60,list,Other,2026-11-02,,,,
h100-sxm,1.40,spot,Acme,2026-11-20,us-east,,,
h100-sxm,1.20,list,Other,2026-06-01,,,,

mi300x,1.90,list,Acme,2026-03-01,,,,
"""
)
TODAY = "2026-11-21"
JOB = [
    *("train", "--model", "llama3-8b", "--cluster", "8xh100-sxm", "--zero-stage", "3"),
    *("--seq-len", "8192", "--global-batch", "8", "--tokens", "1B", "--json"),
]


def write(folder: Path, text: str) -> Path:
    path = folder / "quotes.csv"
    path.write_text(text, "utf-8")
    return path


def test_rows_are_read_with_their_names_resolved(tmp_path: Path) -> None:
    found = read_quotes(write(tmp_path, TABLE), TODAY)
    assert len(found) == 6
    assert found[1].accelerator == "h100-sxm"
    assert (found[1].kind, found[0].credits_usd, found[0].source) == (
        "on-demand",
        50000.0,
        "quotes.csv row 2",
    )


@pytest.mark.parametrize(
    ("row", "complaint"),
    [
        ("h100-sxm,nan,list,A,2026-01-01,,,,", "row 2: usd_per_hour nan: must be a number from 0"),
        ("h100-sxm,-1,list,A,2026-01-01,,,,", "row 2: usd_per_hour -1: must be a number from 0"),
        ("h100-sxm,inf,list,A,2026-01-01,,,,", "row 2: usd_per_hour inf: must be a number from 0"),
        ("h100-sxm,0,list,A,2026-01-01,,,,", "row 2: usd_per_hour 0: must be more than 0"),
        ("h100-sxm,two,list,A,2026-01-01,,,,", "row 2: usd_per_hour 'two': must be a number"),
        ("h100-smx,2,list,A,2026-01-01,,,,", "did you mean 'h100-sxm'"),
        ("h100-sxm,2,lisst,A,2026-01-01,,,,", "row 2: kind 'lisst': unknown; did you mean 'list'"),
        ("h100-sxm,2,list,,2026-01-01,,,,", "row 2: provider: missing"),
        ("h100-sxm,2,list,A,2026-02-30,,,,", "row 2: date '2026-02-30': must be a day written"),
        ("h100-sxm,2,list,A,20260201,,,,", "row 2: date '20260201': must be a day written"),
        ("h100-sxm,2,list,A,2026-12-01,,,,", "row 2: date 2026-12-01: after 2026-11-21"),
        ("h100-sxm,2,list,A,2026-01-01,,,-5,", "row 2: credits_usd -5: must be a number from 0"),
        ("h100-sxm,2,list,A,2026-01-01,,,5,soon", "row 2: credits_expire 'soon': must be a day"),
        ("h100-sxm,2,list,A,2026-01-01,,,,2027-01-01", "no credits_usd that could expire"),
        ("h100-sxm,2,list,A", "row 2: has 4 columns, the header has 9"),
    ],
)
def test_a_bad_row_is_one_line_with_its_number(tmp_path: Path, row: str, complaint: str) -> None:
    with pytest.raises(InputError) as caught:
        read_quotes(write(tmp_path, HEADER + row + "\n"), TODAY)
    assert len(caught.value.problems) == 1
    assert complaint in caught.value.problems[0]


def test_all_bad_rows_come_together_and_headers_are_checked(tmp_path: Path) -> None:
    bad = "h100-sxm,nan,list,A,2026-01-01,,,,\n" * 30
    with pytest.raises(InputError) as caught:
        read_quotes(write(tmp_path, HEADER + bad), TODAY)
    assert len(caught.value.problems) == 21
    assert "and 10 more mistakes" in caught.value.problems[-1]
    with pytest.raises(InputError, match="column 'usd_per_hour': missing"):
        read_quotes(write(tmp_path, "accelerator,kind,provider,date,usd\n"), TODAY)
    with pytest.raises(InputError, match="no quote"):
        read_quotes(write(tmp_path, HEADER), TODAY)
    with pytest.raises(InputError, match="cannot be read"):
        read_quotes(tmp_path / "none.csv", TODAY)
    with pytest.raises(InputError, match="must be a day"):
        parse_day("2026-1-1", "as_of")


def test_the_newest_of_each_provider_and_then_the_cheapest(tmp_path: Path) -> None:
    quotes = read_quotes(write(tmp_path, TABLE), TODAY)
    found = current_price("h100", "on-demand", quotes=quotes, as_of=TODAY)
    # Other quoted 1.20 in June and 2.60 in November: the newer one counts, and beats Acme's 2.90
    assert (found.usd_per_hour, found.provider, found.date) == (2.60, "Other", "2026-11-02")
    assert "cheapest of 2" in found.source
    assert found.warnings == ()
    acme = current_price("h100", "on-demand", quotes=quotes, as_of=TODAY, provider="acme")
    assert acme.usd_per_hour == 2.90


def test_kinds_are_never_mixed_silently(tmp_path: Path) -> None:
    quotes = read_quotes(write(tmp_path, TABLE), TODAY)
    assert current_price("h100", "negotiated", quotes=quotes, as_of=TODAY).usd_per_hour == 2.10
    assert current_price("h100", "spot", quotes=quotes, as_of=TODAY).usd_per_hour == 1.40
    reserved = current_price("h100", "reserved", quotes=quotes)
    assert reserved.usd_per_hour == price("h100", "reserved").usd_per_hour
    assert len(reserved.warnings) == 1
    assert "your negotiated and on-demand and spot quotes" in reserved.warnings[0]
    with pytest.raises(NoQuoteError, match="no negotiated quote; the quotes are on-demand"):
        current_price("mi300x", "negotiated", quotes=quotes)
    with pytest.raises(InputError, match="price kind"):
        current_price("h100", "free")


def test_prices_older_than_ninety_days_warn_by_a_given_day(tmp_path: Path) -> None:
    quotes = read_quotes(write(tmp_path, TABLE), TODAY)
    stale = current_price("mi300x", "on-demand", quotes=quotes, as_of=TODAY)
    assert "is of 2026-03-01, 265 days old" in stale.warnings[0]
    # 1 March and 90 days: 30 May
    assert not current_price("mi300x", "on-demand", quotes=quotes, as_of="2026-05-30").warnings
    assert current_price("mi300x", "on-demand", quotes=quotes, as_of="2026-05-31").warnings
    assert not current_price("mi300x", "on-demand", quotes=quotes).warnings
    listed = price("h100", "reserved")
    year = int(listed.date[:4])
    assert not current_price("h100", "reserved", as_of=listed.date[:4] + "-12-31").warnings or (
        len(listed.date) > 4
    )
    assert current_price("h100", "reserved", as_of=f"{year + 1}-12-31").warnings


def test_credits_pay_until_they_expire() -> None:
    offer = Price(
        usd_per_hour=2.0,
        kind="negotiated",
        date=TODAY,
        source="",
        provider="Acme",
        credits_usd=1000.0,
        credits_expire="2026-11-25",
    )
    day = 86400.0
    # 21 to 25 November are five of ten days: half of the bill at most
    assert credits_used(offer, 10_000.0, 10 * day, TODAY) == 1000.0
    assert credits_used(offer, 1_200.0, 10 * day, TODAY) == 600.0
    assert credits_used(offer, 700.0, 2 * day, TODAY) == 700.0
    assert credits_used(offer, 700.0, 2 * day, "2026-11-26") == 0.0
    assert credits_used(replace(offer, credits_expire=""), 1_200.0, 10 * day, TODAY) == 1000.0


def test_credits_that_have_expired_are_said_to(tmp_path: Path) -> None:
    quotes = read_quotes(write(tmp_path, TABLE), TODAY)
    found = current_price("h100", "negotiated", quotes=quotes, as_of="2027-01-01")
    assert found.credits_usd == 0.0
    assert "50,000 USD expired 2026-12-31" in found.warnings[0]


def test_a_provider_of_the_price_list_can_be_asked_for() -> None:
    found = price("h100-sxm", provider="lambda")
    assert (found.provider, found.usd_per_hour) == ("Lambda", 2.99)
    with pytest.raises(NoQuoteError, match="no on-demand quote of 'Lambada'; did you mean"):
        price("h100-sxm", provider="Lambada")


def test_a_plan_file_names_quotes_beside_it(tmp_path: Path) -> None:
    write(tmp_path, TABLE)
    plan_file = tmp_path / "plan.toml"
    plan_file.write_text(
        "[model]\nname = 'llama3-8b'\n[cluster]\nspec = '8xh100-sxm'\n"
        "[parallel]\nzero_stage = 3\n"
        "[training]\nseq_len = 8192\nglobal_batch_seqs = 8\ntokens = '1B'\n"
        f"[money]\nkind = 'negotiated'\nprices = 'quotes.csv'\nas_of = '{TODAY}'\n",
        "utf-8",
    )
    plan = read_plan(plan_file)
    assert plan_price(plan).usd_per_hour == 2.10
    result = simulate_training(plan)
    assert result.cost_usd == pytest.approx(2.10 * result.accelerator_hours)
    assert result.credits_usd == result.cost_usd < 50_000
    with pytest.raises(InputError, match="override money"):
        read_plan(plan_file, {"money.as_of": "yesterday"})


def test_the_command_takes_quotes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path, TABLE)
    assert run([*JOB, "--prices", str(path), "--as-of", TODAY, "--price-kind", "spot"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["usd_per_accelerator_hour"] == 1.40
    write(tmp_path, HEADER + "h100-sxm,nan,list,A,2026-01-01,,,,\n")
    assert run([*JOB, "--prices", str(path), "--as-of", TODAY]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.count("\n") == 1
    assert "row 2: usd_per_hour nan" in shown.err
