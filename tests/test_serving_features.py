"""Features of a service as a user reaches them, by flag or plan file, each with its effect."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest

from ridgeline.cli import run

HEAD = """
[model]
name = "llama3-8b"
[cluster]
spec = "{cluster}"
[serving]
"""


def answer(tmp_path, capsys, body, *flags, cluster="1xh100-sxm"):
    """Return the JSON of a plan file with ``body`` in its [serving]."""
    path = tmp_path / "plan.toml"
    path.write_text(HEAD.format(cluster=cluster) + body, encoding="utf-8")
    code = run(["infer", str(path), "--json", *flags])
    out, err = capsys.readouterr()
    assert code == 0, err
    return json.loads(out)


CROWDED = """
request_rate = 40
requests = 200
input_len = 1500
output_len = 200
memory_fraction = 0.27
"""
TALK = """
request_rate = 2
requests = 40
turns = 5
system_tokens = 512
input_len = 200
output_len = 100
prefix_caching = true
"""


def test_urgent_requests_go_before_the_others(tmp_path, capsys):
    file = tmp_path / "requests.csv"
    crowd = answer(tmp_path, capsys, CROWDED, "--urgent-share", "0.2", "--requests-out", str(file))
    rows = list(csv.DictReader(file.read_text().splitlines()))
    waited = {
        kind: np.mean([float(row["queue_s"]) for row in rows if row["priority"] == kind])
        for kind in ("0", "1")
    }
    assert sum(row["priority"] == "0" for row in rows) == pytest.approx(40, abs=20)
    assert waited["0"] < 0.5 * waited["1"]
    # work is done in another order, not less of it
    plain = answer(tmp_path, capsys, CROWDED)
    assert crowd["duration_s"] == pytest.approx(plain["duration_s"], rel=0.1)


def test_swap_costs_time_on_the_link_instead_of_prompts_again(tmp_path, capsys):
    again = answer(tmp_path, capsys, CROWDED)
    swapped = answer(tmp_path, capsys, CROWDED, "--preemption", "swap")
    assert again["preemptions"] > 0
    assert swapped["preemptions"] > 0
    assert swapped["prefill_share"] < again["prefill_share"]


def test_drafts_that_are_taken_save_iterations(tmp_path, capsys):
    body = "concurrency = 4\nrequests = 20\noutput_len = 200\n"
    plain = answer(tmp_path, capsys, body)
    drafted = answer(tmp_path, capsys, body, "--draft-tokens", "3", "--acceptance", "0.8")
    gained = sum(0.8**k for k in range(4))
    assert drafted["iterations"] == pytest.approx(plain["iterations"] / gained, rel=0.1)
    assert drafted["tpot_s"]["p50"] < plain["tpot_s"]["p50"]
    drawn = answer(
        tmp_path, capsys, body + "draft_tokens = 3\nacceptance = 0.8\nsampled_acceptance = true\n"
    )
    assert drawn["iterations"] == pytest.approx(drafted["iterations"], rel=0.15)


def test_host_memory_keeps_what_the_cache_evicts(tmp_path, capsys):
    small = TALK + "memory_fraction = 0.26\n"
    without = answer(tmp_path, capsys, small)
    tiered = answer(tmp_path, capsys, small + "host_cache_tokens = 500000\n")
    assert tiered["cached_fraction"] > without["cached_fraction"]


def test_conversations_find_their_replica(tmp_path, capsys):
    by_turns = answer(tmp_path, capsys, TALK, "--router", "round-robin", cluster="4xh100-sxm")
    aware = answer(tmp_path, capsys, TALK, cluster="4xh100-sxm")
    assert aware["plan"]["router"] == "prefix-aware"
    assert aware["cached_fraction"] > by_turns["cached_fraction"]


def test_tools_take_their_time_between_turns(tmp_path, capsys):
    quick = answer(tmp_path, capsys, TALK + "pause_s = 1\n")
    slow = answer(tmp_path, capsys, TALK + "pause_s = 30\n")
    assert quick["requests"] == slow["requests"] == 200
    assert slow["duration_s"] > quick["duration_s"] + 60


def test_an_autoscaler_follows_the_curve_of_the_day(tmp_path, capsys):
    body = """
rates = [1.0, 60.0]
period_s = 400.0
duration_s = 400.0
input_len = 1000
output_len = 200
start_up_s = 10.0
"""
    fixed = answer(tmp_path, capsys, body, cluster="4xh100-sxm")
    scaled = answer(
        tmp_path, capsys, body + "least_replicas = 1\nload_per_replica = 30\n", cluster="4xh100-sxm"
    )
    assert scaled["finished"] == fixed["finished"]
    assert scaled["bill"]["accelerator_hours"] < 0.8 * fixed["bill"]["accelerator_hours"]
    assert scaled["ttft_s"]["p99"] >= fixed["ttft_s"]["p99"]


def test_the_idealized_runtime_is_that_of_a_request_alone(tmp_path, capsys):
    alone = answer(tmp_path, capsys, "batch = 1\ninput_len = 2000\noutput_len = 200\n")
    front_s = alone["queue_s"]["mean"]
    assert alone["idealized_runtime_s"] == pytest.approx(
        alone["latency_s"]["mean"] - front_s, rel=0.02
    )
