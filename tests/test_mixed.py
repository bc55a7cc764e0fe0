"""One job on several kinds of accelerators."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import product
from math import inf
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import naive_mixed
from plans import make_plan
from ridgeline.cli import run
from ridgeline.errors import InfeasibleError, InputError
from ridgeline.hardware import make_cluster
from ridgeline.simulator import simulate_training
from ridgeline.simulator.mixed.plan import MixedPlan, read_mixed
from ridgeline.simulator.mixed.results import simulate_mixed
from ridgeline.simulator.mixed.split import best_shares, choose_layers, choose_shares, layer_splits
from ridgeline.simulator.mixed.step import MixedPrices
from ridgeline.simulator.planfile import read_plan

EXAMPLES = Path(__file__).resolve().parents[1] / "examples" / "parallel"
BATCH = EXAMPLES / "llama2_7b_a100_h100.toml"
STAGES = EXAMPLES / "llama2_13b_pipeline_a100_h100.toml"
SMALL = {
    "model.name": "gpt3-1.3b",
    "cluster.spec": "1x4xa100-sxm-80gb + 1x4xh100-sxm",
    "training.seq_len": 2048,
    "training.global_batch_seqs": 32,
}


def small(**settings: object) -> MixedPlan:
    """Return a small job on four A100 and four H100; ``settings`` have __ for dots."""
    over = {key.replace("__", "."): value for key, value in settings.items()}
    return read_mixed(None, {**SMALL, **over})


def twice(across: str, **settings: object) -> MixedPlan:
    """Return a job whose two kinds are one and the same."""
    plan = make_plan("llama2-7b", "2x8xh100-sxm", **settings)
    own = make_cluster("1x8xh100-sxm")
    return MixedPlan(name="twice", across=across, plans=(plan, plan), own=(own, own))


# The split --------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(
    units=st.integers(1, 14),
    ranks=st.lists(st.integers(1, 3), min_size=1, max_size=3),
    speeds=st.lists(st.integers(1, 7), min_size=3, max_size=3),
    most=st.integers(1, 14),
    bumps=st.lists(st.integers(0, 3), min_size=15, max_size=15),
)
def test_shares_are_those_of_trying_everything(units, ranks, speeds, most, bumps):
    def seconds(kind: int, share: int) -> float:
        return inf if share > most else share * speeds[kind] + bumps[share]

    found, expected = (
        best(units, ranks, seconds) for best in (best_shares, naive_mixed.best_shares)
    )
    assert found[0] == expected[0]
    if found[0] < inf:
        assert sum(n * r for n, r in zip(found[1], ranks, strict=True)) == units
        assert max(seconds(k, n) for k, n in enumerate(found[1])) == found[0]


def test_layer_splits_are_all_there_are_where_they_are_few():
    assert sorted(layer_splits(7, (2, 1))) == sorted(naive_mixed.layer_splits(7, 3))


def test_many_layer_splits_are_even_within_a_kind():
    found = list(layer_splits(96, (8, 8)))
    assert all(sum(split) == 96 and len(split) == 16 for split in found)
    assert all(max(s[:8]) - min(s[:8]) <= 1 and max(s[8:]) - min(s[8:]) <= 1 for s in found)
    assert len(found) == 96 - 16 + 1
    chunked = list(layer_splits(24, (2, 2), chunks=2))
    assert all(sum(split) == 24 and len(split) == 8 for split in chunked)


def test_chosen_shares_beat_every_other_share():
    mixed = small()
    prices = MixedPrices(mixed)
    chosen = choose_shares(mixed, prices)
    assert sum(4 * share for share in chosen) == 32

    def slowest(shares: tuple[int, ...]) -> float:
        return max(prices.kind_step(kind, share).seconds for kind, share in enumerate(shares))

    others = [s for s in product(range(1, 8), repeat=2) if sum(s) == 8]
    assert slowest(chosen) == min(slowest(shares) for shares in others)
    assert chosen[1] > chosen[0]


def test_chosen_layers_beat_every_other_cut():
    mixed = small(parallel__pp=4, parallel__tp=2, parallel__across="pp")
    mixed = replace(
        mixed,
        plans=tuple(replace(p, model=replace(p.model, num_layers=10)) for p in mixed.plans),
    )
    prices = MixedPrices(mixed)
    chosen = choose_layers(mixed, prices)
    best = min(prices.pipeline_steps(cut)[0].seconds for cut in naive_mixed.layer_splits(10, 4))
    assert prices.pipeline_steps(chosen)[0].seconds == best
    assert sum(chosen[2:]) > sum(chosen[:2])


# The step ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("zero_stage", [0, 1, 3])
def test_two_kinds_that_are_alike_share_evenly_and_run_as_one(zero_stage):
    mixed = twice("dp", tp=2, zero_stage=zero_stage, micro_batches=4, stack="fsdp-composer")
    found = simulate_mixed(mixed)
    alone = simulate_training(mixed.plans[0])
    assert [kind.share_seqs for kind in found.kinds] == [4, 4]
    assert found.step_time_s == pytest.approx(alone.step_time_s, rel=1e-12)
    assert found.even_step_time_s == found.step_time_s
    assert found.mfu == pytest.approx(alone.mfu)
    assert found.cost_usd == pytest.approx(alone.cost_usd)
    assert found.accelerator_hours == pytest.approx(alone.accelerator_hours)


def test_a_pipeline_across_two_kinds_that_are_alike_is_one_pipeline():
    mixed = twice("pp", tp=2, pp=8, micro_batches=16)
    alone = simulate_training(mixed.plans[0])
    steps = MixedPrices(mixed).pipeline_steps((4,) * 8)
    assert steps[0].seconds == alone.step_time_s
    assert [share.stage for step in steps for share in step.memory] == list(range(8))
    assert (*steps[0].memory, *steps[1].memory) == alone.memory


def test_together_they_are_as_fast_as_both_alone_but_for_whole_micro_batches():
    # throughputs add up where shares are as fine as they can be
    over = {"training.global_batch_seqs": 1024, "parallel.zero_stage": 1}
    found = simulate_mixed(read_mixed(None, {**SMALL, **over}))
    alone = [
        simulate_training(
            read_plan(
                None, {**SMALL, **over, "cluster.spec": spec, "training.global_batch_seqs": n}
            )
        ).tokens_per_s
        for spec, n in (("1x4xa100-sxm-80gb", 512), ("1x4xh100-sxm", 512))
    ]
    assert sum(alone) * 0.9 < found.tokens_per_s < sum(alone)
    assert found.kinds[0].step_time_s == pytest.approx(found.kinds[1].step_time_s, rel=0.02)


def test_where_ranks_meet_in_every_micro_batch_they_run_equally_many():
    found = simulate_mixed(small(parallel__zero_stage=3, training__micro_batch_seqs=2))
    assert {kind.micro_batches for kind in found.kinds} == {2}
    assert [kind.micro_batch_seqs for kind in found.kinds] == [1, 3]


def test_memory_is_judged_by_kind():
    spec = "1x4xl4 + 1x4xh100-sxm"
    given = small(cluster__spec=spec, training__batch_shares=[4, 4])
    found = simulate_mixed(given)
    # 16 bytes and more a parameter of 1.3 billion are too much for 24 GB alone
    assert [kind.fits for kind in found.kinds] == [False, True]
    assert not found.fits
    with pytest.raises(InfeasibleError, match="memory of every kind"):
        simulate_mixed(small(cluster__spec=spec))
    sharded = simulate_mixed(small(cluster__spec=spec, parallel__zero_stage=1))
    assert sharded.fits


def test_dollars_are_those_of_each_kind():
    found = simulate_mixed(read_mixed(BATCH))
    hours = found.accelerator_hours / 2
    assert [k.cost_usd for k in found.kinds] == pytest.approx(
        [hours * k.usd_per_accelerator_hour for k in found.kinds]
    )
    assert found.cost_usd == pytest.approx(sum(k.cost_usd for k in found.kinds))


# Mistakes ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"cluster__spec": "1x4xa100-sxm-80gb + 1x4xa100-sxm-80gb"}, "more than once"),
        ({"cluster__spec": "1x4xh100-sxm +"}, "cluster"),
        ({"cluster__spec": "1x8xh100-sxm + tpu-v5p:2x2x2"}, "torus"),
        ({"cluster__spec": "1x8xh100-sxm + 1x16xtrainium2"}, "a job is of one"),
        ({"parallel__tp": 3}, "tp*pp*cp = 3 does not divide the 4"),
        ({"parallel__dp": 3}, "leave dp out"),
        (
            {"parallel__tp": 2, "parallel__pp": 4, "parallel__dp": 2, "parallel__across": "pp"},
            "have 8",
        ),
        ({"training__batch_shares": [4]}, "must be 2 numbers"),
        ({"training__batch_shares": [4, 5]}, "36 sequences"),
        ({"training__batch_shares": [3, 5], "training__micro_batch_seqs": 2}, "not a multiple"),
        (
            {"parallel__across": "pp", "parallel__pp": 2, "training__batch_shares": [4, 4]},
            "across = 'dp'",
        ),
        ({"parallel__across": "tp"}, "must be 'dp' or 'pp'"),
        ({"training__batch_shares": 4}, "must be 2 numbers"),
        ({"parallel__dp": "all"}, "parallel.dp"),
        ({"training__seq_length": 3}, "training.seq_length"),
        ({"model__name": "mixtral-8x7b", "parallel__ep": 8}, "ep = 8"),
    ],
)
def test_mistakes_are_one_line_each(settings, line):
    with pytest.raises(InputError) as caught:
        small(**settings)
    assert any(line in problem for problem in caught.value.problems), caught.value.problems


def test_keys_of_several_kinds_need_them():
    with pytest.raises(InputError, match=r"parallel\.across 'dp': is for a cluster of several"):
        read_plan(None, {**SMALL, "cluster.spec": "8xh100-sxm", "parallel.across": "dp"})
    with pytest.raises(InputError, match="batch_shares"):
        read_plan(None, {**SMALL, "cluster.spec": "8xh100-sxm", "training.batch_shares": [4]})


# The command ------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", [BATCH, STAGES], ids=lambda path: path.stem)
def test_examples_are_answered_in_every_form(path, capsys):
    assert run(["train", str(path), "--json", "--explain"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["schema"] == "ridgeline.train.mixed"
    assert record["step_time_s"] < 0.7 * record["even_step_time_s"]
    assert all(kind["operators"] for kind in record["kinds"])
    text = (EXAMPLES.parents[1] / "docs" / "json.md").read_text(encoding="utf-8")
    for key in (*record, *record["kinds"][0]):
        assert f"`{key}`" in text, key
    assert run(["train", str(path)]) == 0
    assert "split found" in capsys.readouterr().out
    assert run(["train", str(path), "--csv"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 3


@pytest.mark.parametrize(
    "command",
    [
        ("train", "--html", "page.html"),
        ("train", "--trace", "t.json"),
        ("plan",),
        ("infer",),
    ],
)
def test_what_knows_one_kind_says_so(command, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    name, *flags = command
    assert run([name, str(BATCH), *flags]) == 2
    said = capsys.readouterr().err
    assert "several kinds" in said
