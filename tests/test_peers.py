"""Jobs among peers that slow links join."""

from __future__ import annotations

import json
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import naive_averaging
from ridgeline.cli import run
from ridgeline.errors import InfeasibleError, InputError
from ridgeline.simulator import simulate_training
from ridgeline.simulator.peers.averaging import (
    averaging_seconds,
    grid_groups,
    group_seconds,
    rounds,
)
from ridgeline.simulator.peers.plan import read_peers
from ridgeline.simulator.peers.results import OUTER_STATE_BYTES, simulate_peers
from ridgeline.simulator.planfile import read_plan

EXAMPLES = Path(__file__).resolve().parents[1] / "examples" / "parallel"
SITES = EXAMPLES / "opendiloco_1b_four_sites.toml"
VOLUNTEERS = EXAMPLES / "volunteers_350m.toml"
BASE = """
[model]
name = "gpt3-350m"
[cluster]
spec = "1xa100-sxm-80gb"
[training]
seq_len = 1024
global_batch_seqs = 64
micro_batch_seqs = 4
[averaging]
{averaging}
[[peer]]
count = 2
up_mbit_per_s = 100
down_mbit_per_s = 100
{first}
[[peer]]
count = 2
up_mbit_per_s = 100
down_mbit_per_s = 100
{second}
"""


def job(folder: Path, averaging: str = "", first: str = "", second: str = "") -> Path:
    path = folder / "job.toml"
    path.write_text(BASE.format(averaging=averaging, first=first, second=second))
    return path


# Averaging --------------------------------------------------------------------------------------


def test_equal_links_average_as_a_ring_does():
    # 2 (n - 1) / n V / b
    for adapted in (False, True):
        found = group_seconds(1e9, [5e6] * 8, adapted=adapted)
        assert found == pytest.approx(2 * 7 / 8 * 1e9 / 5e6)


def test_parts_that_suit_the_links_go_by_their_mean_and_equal_parts_by_the_least():
    rates = [4e6, 6e6, 8e6, 6e6]
    assert group_seconds(1e9, rates, adapted=False) == pytest.approx(1.5e9 / 4e6)
    assert group_seconds(1e9, rates, adapted=True) == pytest.approx(1.5e9 / 6e6)


def test_nobody_is_done_before_the_whole_vector_went_over_the_slowest_link():
    assert group_seconds(1e9, [1e6] + [1e9] * 7, adapted=True) == pytest.approx(1e3)
    assert group_seconds(1e9, [1e6, 1e9], adapted=True) == pytest.approx(1e3)
    assert group_seconds(1e9, [1e6], adapted=True) == 0.0


@settings(max_examples=80, deadline=None)
@given(rates=st.lists(st.floats(0.1, 1e3), min_size=3, max_size=12))
def test_best_parts_are_those_of_bisection(rates):
    found = group_seconds(1.0, rates, adapted=True)
    assert found == pytest.approx(naive_averaging.best_time(rates), rel=1e-9)
    assert found <= group_seconds(1.0, rates, adapted=False) * (1 + 1e-12)


@pytest.mark.parametrize(
    ("peers", "group", "count"), [(64, 8, 2), (64, 4, 3), (40, 0, 1), (9, 4, 2)]
)
def test_groups_of_a_round_hold_every_peer_once(peers, group, count):
    found = list(grid_groups(peers, group))
    assert len(found) == rounds(peers, group) == count
    for lines in found:
        assert sorted(chain.from_iterable(lines)) == list(range(peers))
        assert max(len(line) for line in lines) <= (group or peers)


def test_full_grids_average_exactly():
    values = np.random.default_rng(1).normal(size=27)
    mean = values.mean()
    for lines in grid_groups(27, 3):
        for line in lines:
            values[line] = values[line].mean()
    assert values == pytest.approx(np.full(27, mean))


def test_small_groups_take_rounds_and_save_waiting_for_no_one_but_their_own():
    # d rounds of 2 (g - 1) / g V / b, and their latency
    found = averaging_seconds(1e9, [1e7] * 64, [0.1] * 64, group=8)
    assert found == pytest.approx(2 * (2 * 7 / 8 * 100 + 0.2))


# The job ----------------------------------------------------------------------------------------


def test_a_round_is_local_steps_and_one_averaging(tmp_path):
    path = job(tmp_path, "local_steps = 50\nbits = 32")
    found = simulate_peers(read_peers(path))
    alone = simulate_training(read_plan(path, {"training.global_batch_seqs": 16}, peer=1))
    size = found.averaged_bytes
    assert size == pytest.approx(4 * 0.356e9, rel=0.05)
    assert [kind.share_seqs for kind in found.kinds] == [16, 16]
    assert found.compute_s == pytest.approx(50 * alone.step_time_s)
    assert found.averaging_s == pytest.approx(1.5 * size / 12.5e6 + 0.1)
    assert found.round_time_s == found.compute_s + found.averaging_s + found.outer_step_s
    assert found.outer_step_s > 0.0
    extra = (found.kinds[0].memory_gib - alone.worst_memory.total / 2**30) * 2**30
    assert extra == pytest.approx(OUTER_STATE_BYTES * size / 4, rel=0.02)


def test_averaging_every_500th_step_sends_a_500th(tmp_path):
    # Douillard et al. 2023, arXiv:2311.08105, abstract
    each, rarely = (
        simulate_peers(read_peers(job(tmp_path, f"local_steps = {h}"))) for h in (1, 500)
    )
    assert rarely.averaged_bytes / 500 * 500 == each.averaged_bytes
    assert rarely.averaging_s == each.averaging_s
    exposed = [found.step_time_s - found.compute_s / found.local_steps for found in (each, rarely)]
    assert exposed[0] / exposed[1] == pytest.approx(500, rel=0.01)


def test_gradients_averaged_in_every_step_need_no_outer_optimizer(tmp_path):
    found = simulate_peers(read_peers(job(tmp_path)))
    assert found.outer_step_s == 0.0
    alone = simulate_training(read_plan(job(tmp_path), {"training.global_batch_seqs": 16}, peer=1))
    assert found.kinds[0].memory_gib == pytest.approx(alone.worst_memory.total / 2**30)


def test_averaging_beside_the_next_steps_costs_what_is_longer(tmp_path):
    found = simulate_peers(read_peers(job(tmp_path, "local_steps = 20\noverlap = true")))
    longer = max(found.compute_s, found.averaging_s)
    assert found.round_time_s == pytest.approx(longer + found.outer_step_s)


def test_the_slower_of_two_links_counts(tmp_path):
    even = simulate_peers(read_peers(job(tmp_path)))
    path = job(tmp_path)
    path.write_text(path.read_text().replace("down_mbit_per_s = 100", "down_mbit_per_s = 900"))
    assert simulate_peers(read_peers(path)).averaging_s == even.averaging_s


def test_faster_peers_take_more_of_the_batch(tmp_path):
    found = simulate_peers(read_peers(job(tmp_path, second='cluster.spec = "1xl4"')))
    fast, slow = found.kinds
    assert fast.share_seqs > slow.share_seqs
    assert 2 * (fast.share_seqs + slow.share_seqs) == 64
    given = job(
        tmp_path, first="batch_share = 16", second='cluster.spec = "1xl4"\nbatch_share = 16'
    )
    assert simulate_peers(read_peers(given)).compute_s > found.compute_s


def test_volunteers_cost_nothing(tmp_path):
    found = simulate_peers(read_peers(job(tmp_path, second="volunteer = true")))
    paid, free = found.kinds
    assert free.cost_usd == 0.0 < paid.cost_usd
    assert found.cost_usd == paid.cost_usd


@pytest.mark.parametrize(
    ("texts", "line"),
    [
        ({"averaging": "local_step = 5"}, "averaging.local_step: unknown key"),
        ({"averaging": "bits = 3"}, "must be one of 4, 8, 16, 32"),
        ({"averaging": "group = 1"}, "group = 1"),
        ({"averaging": "local_steps = 0"}, "local_steps = 0"),
        ({"first": "speed = 3"}, "peer 1: speed: unknown key"),
        ({"first": "volunteer = 1"}, "must be true or false"),
        ({"first": "latency_ms = -1"}, "latency_ms = -1"),
        ({"first": "batch_share = 4"}, "give that of every peer"),
        ({"first": "batch_share = 4", "second": "batch_share = 4"}, "that is 16 sequences"),
        ({"first": "batch_share = 3", "second": "batch_share = 29"}, "not a multiple"),
        ({"second": 'model.name = "gpt2"'}, "peer 2: trains another model"),
        ({"second": "training.seq_len = 512"}, "peer 2: trains another"),
        ({"second": "parallel.tpp = 2"}, "peer 2: parallel.tpp"),
    ],
)
def test_mistakes_are_one_line_each(tmp_path, texts, line):
    with pytest.raises(InputError) as caught:
        read_peers(job(tmp_path, **texts))
    assert any(line in problem for problem in caught.value.problems), caught.value.problems


def test_what_cannot_be_shared_out_is_said(tmp_path):
    path = job(tmp_path)
    with pytest.raises(InputError, match="fewer than one micro-batch for every peer"):
        simulate_peers(read_peers(path, {"training.global_batch_seqs": 12}))
    with pytest.raises(InfeasibleError, match="whole micro-batches"):
        simulate_peers(read_peers(path, {"training.global_batch_seqs": 66}))
    with pytest.raises(InputError, match="tp = 3"):
        simulate_peers(read_peers(path, {"parallel.tp": 3}))
    alone = path.read_text().split("[[peer]]")
    path.write_text(alone[0] + "[[peer]]" + alone[1].replace("count = 2", "count = 1"))
    with pytest.raises(InputError, match="averages with nobody"):
        read_peers(path)


@pytest.mark.parametrize("path", [SITES, VOLUNTEERS], ids=lambda path: path.stem)
def test_examples_are_answered_in_every_form(path, capsys):
    assert run(["train", str(path), "--json", "--explain"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["schema"] == "ridgeline.train.peers"
    assert all(kind["operators"] for kind in record["kinds"])
    text = (EXAMPLES.parents[1] / "docs" / "json.md").read_text(encoding="utf-8")
    for key in (*record, *record["kinds"][0]):
        assert f"`{key}`" in text, key
    assert run(["train", str(path)]) == 0
    assert "peers" in capsys.readouterr().out
    assert run(["train", str(path), "--csv"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 1 + len(record["kinds"])


def test_sites_that_average_rarely_stay_busy():
    # OpenDiLoCo (arXiv:2407.07852), abstract: 90 to 95 % over two continents
    assert 0.90 < simulate_peers(read_peers(SITES)).utilization < 0.95


@pytest.mark.parametrize(
    "command", [("train", "--html", "page.html"), ("train", "--trace", "t.json"), ("plan",)]
)
def test_what_knows_no_peers_says_so(command, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    name, *flags = command
    assert run([name, str(SITES), *flags]) == 2
    assert "peers" in capsys.readouterr().err
