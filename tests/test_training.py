"""Whole predictions: the record, the refusals, the examples, and published runs."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest

from plans import QUIET, make_plan
from ridgeline.errors import InputError
from ridgeline.hardware import load_accelerator
from ridgeline.simulator import legality
from ridgeline.simulator.planfile import read_plan
from ridgeline.simulator.results import TrainingResult
from ridgeline.simulator.training import hardware_flops_factor, simulate_training
from ridgeline.simulator.uncertainty import evidence_grade, step_range
from ridgeline.workloads import load_model
from ridgeline.workloads.expert_load import with_routing
from ridgeline.workloads.flops import training_flops_per_token

ROOT = Path(__file__).resolve().parent.parent
EXAMPLES = {
    path.stem: path
    for path in sorted((ROOT / "examples").glob("*.toml"))
    if "\n[training]\n" in path.read_text(encoding="utf-8")
}
"""Training plans; services and fleets have tests of their own."""

CONTRACT = [
    "step_time_s",
    "step_time_low_s",
    "step_time_high_s",
    "mfu",
    "hfu",
    "model_tflops_per_accelerator",
    "tokens_per_s",
    "tokens_per_s_per_accelerator",
    "bubble_fraction",
    "exposed_communication_fraction",
    "memory_gib",
    "fits",
    "steps",
    "wall_clock_s",
    "accelerator_hours",
    "cost_usd",
    "energy_kwh",
    "co2_kg",
    "breakdown",
    "provenance",
    "schema",
    "schema_version",
]


@lru_cache(maxsize=16)
def example(name: str) -> TrainingResult:
    return simulate_training(read_plan(EXAMPLES[name]))


def numbers(value: Any) -> list[float]:
    """Return every number in a JSON value."""
    if isinstance(value, dict):
        return [n for item in value.values() for n in numbers(item)]
    if isinstance(value, list | tuple):
        return [n for item in value for n in numbers(item)]
    return [value] if isinstance(value, int | float) else []


# The record ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", EXAMPLES)
def test_every_example_fits_and_answers_with_finite_numbers(name):
    result = example(name)
    assert result.fits
    record = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert set(CONTRACT) <= set(record)
    found = numbers(record)
    assert len(found) > 50
    assert all(math.isfinite(n) for n in found)
    assert all(n >= 0 for n in numbers({k: record[k] for k in CONTRACT if k in record}))


@pytest.mark.parametrize("name", EXAMPLES)
def test_figures_of_a_result_agree_with_each_other(name):
    r = example(name)
    plan = read_plan(EXAMPLES[name])
    tokens = plan.training.global_batch_seqs * plan.training.seq_len
    training = r.accelerators
    if r.rollout is not None:
        # a step is one of samples, and only some of the accelerators train on them
        tokens, training = r.rollout.tokens, r.accelerators - r.rollout.accelerators
    assert r.step_time_low_s < r.step_time_s < r.step_time_high_s
    assert r.tokens_per_s * r.step_time_s == pytest.approx(tokens)
    assert r.tokens_per_s_per_accelerator * r.accelerators == pytest.approx(r.tokens_per_s)
    rate = r.model_flops_per_step / r.step_time_s / training
    assert r.model_tflops_per_accelerator == pytest.approx(rate / 1e12)
    peak = plan.cluster.accelerator.peak(plan.training.precision)
    assert r.mfu == pytest.approx(rate / peak)
    assert 0 < r.mfu <= r.hfu < 1
    assert math.fsum(share.seconds for share in r.breakdown) == pytest.approx(r.step_time_s)
    assert math.fsum(share.fraction for share in r.breakdown) == pytest.approx(1.0)
    assert [s.seconds for s in r.breakdown] == sorted(
        (s.seconds for s in r.breakdown), reverse=True
    )
    assert 0 <= r.bubble_fraction + r.exposed_communication_fraction < 1
    assert r.steps == math.ceil(plan.training.tokens / tokens) or plan.run.batch_warmup_tokens
    assert r.wall_clock_s >= plan.training.tokens / r.tokens_per_s
    assert r.accelerator_hours == pytest.approx(r.wall_clock_s * r.accelerators / 3600)
    assert r.cost_usd == pytest.approx(r.accelerator_hours * r.usd_per_accelerator_hour)
    assert len(r.memory) == plan.parallel.pp
    assert {p.kind for p in r.provenance} >= {"evidence", "range", "kernels"}


def test_the_record_says_how_tokens_reach_experts():
    moe = with_routing(
        load_model("mixtral-8x7b"), capacity_factor=1.25, load=[8, 0, 0, 0, 0, 0, 0, 8]
    )
    routed = simulate_training(make_plan(model=moe, ep=8, zero_stage=1)).to_dict()["plan"]["model"]
    assert routed == {"capacity_factor": 1.25, "expert_load": [4, 0, 0, 0, 0, 0, 0, 4]}
    balanced = make_plan(model="mixtral-8x7b", ep=8, zero_stage=1)
    plain = simulate_training(balanced).to_dict()["plan"]["model"]
    assert plain == {"capacity_factor": 0, "expert_load": []}
    dense = simulate_training(make_plan()).to_dict()["plan"]["model"]
    assert dense == {"capacity_factor": 0, "expert_load": []}


@pytest.mark.parametrize(
    ("grade", "cluster", "stack"),
    [
        ("measured", "1x8xh100-sxm", "megatron-core"),
        ("related", "1x8xh100-sxm", "megatron-2021"),
        ("kernels", "1x8xh100-sxm", "hai-llm"),
        ("datasheet", "1x8xgaudi2", "megatron-core"),
    ],
)
def test_evidence_says_its_grade_once(grade, cluster, stack):
    result = simulate_training(make_plan(cluster=cluster, stack=stack))
    (text,) = (p.text for p in result.provenance if p.kind == "evidence")
    assert text.startswith(f"{grade}: ")
    assert text.count(grade) == 1


def test_the_same_plan_gives_the_same_record():
    plan = make_plan(pp=2, zero_stage=1)
    assert simulate_training(plan).to_dict() == simulate_training(plan).to_dict()


@pytest.mark.parametrize("granularity", ["layer", "operator"])
def test_granularities_give_the_same_record_within_a_percent(granularity):
    plan = make_plan(pp=2, tp=2, zero_stage=1, micro_batches=4)
    coarse, fine = simulate_training(plan), simulate_training(plan, granularity)
    assert fine.step_time_s == pytest.approx(coarse.step_time_s, rel=0.01)
    assert fine.bubble_fraction == pytest.approx(coarse.bubble_fraction, abs=0.01)
    assert fine.mfu == pytest.approx(coarse.mfu, rel=0.01)


# Whole runs ------------------------------------------------------------------------------------


def test_half_the_tokens_take_half_the_run():
    tokens = 4096 * 16 * 1000
    whole = make_plan(tokens=2.0 * tokens, run=QUIET)
    half = replace(whole, training=replace(whole.training, tokens=float(tokens)))
    long, short = simulate_training(whole), simulate_training(half)
    assert long.steps == 2 * short.steps == 2000
    for name in ("wall_clock_s", "accelerator_hours", "cost_usd", "energy_kwh", "co2_kg"):
        assert getattr(long, name) == pytest.approx(2 * getattr(short, name))
    assert long.goodput == 1.0
    assert long.wall_clock_s == pytest.approx(2000 * long.step_time_s)


def test_without_tokens_the_run_is_one_step():
    result = simulate_training(make_plan())
    assert (result.steps, result.wall_clock_s) == (1, result.step_time_s)
    assert all(math.isfinite(n) for n in numbers(result.to_dict()))


def test_failures_and_checkpoints_cost_goodput():
    quiet = make_plan(cluster="64x8xh100-sxm", tokens=1e12)
    noisy = replace(quiet, run=replace(quiet.run, failures=True, checkpoint_interval_s=-1.0))
    calm, rough = simulate_training(quiet), simulate_training(noisy)
    assert rough.goodput < calm.goodput == 1.0
    assert rough.wall_clock_s > calm.wall_clock_s
    assert rough.step_time_s == calm.step_time_s


# Refusals --------------------------------------------------------------------------------------


def test_a_plan_that_does_not_fit_is_still_answered():
    result = simulate_training(make_plan("llama2-70b", tp=1, tokens=1e9))
    assert not result.fits
    assert result.worst_memory.total > result.memory_limit
    assert result.step_time_s > 0
    record = result.to_dict()
    assert record["memory_gib"]["total"] > record["memory_gib"]["limit"]


def test_all_reasons_against_a_plan_come_together():
    # 32 heads do not split 3 ways, 32 layers not over 5 stages, 7 sequences not over the replicas
    plan = make_plan(cluster="30x1xh100-sxm", tp=3, pp=5, dp=2, global_batch_seqs=7)
    with pytest.raises(InputError) as caught:
        simulate_training(plan)
    assert caught.value.problems == tuple(legality.problems(plan))
    assert len(caught.value.problems) >= 3
    for word in ("tp", "pp", "global_batch_seqs"):
        assert any(word in line for line in caught.value.problems)
    assert all("\n" not in line for line in caught.value.problems)


@pytest.mark.parametrize("granularity", ["", "stages", "kernel"])
def test_an_unknown_granularity_is_refused(granularity):
    with pytest.raises(InputError, match="stage, layer, operator"):
        simulate_training(make_plan(), granularity)


def test_an_unknown_stack_is_refused_with_the_nearest():
    with pytest.raises(InputError, match="megatron-core"):
        simulate_training(make_plan(stack="megatron-cor"))


# FLOPs and evidence ----------------------------------------------------------------------------


def test_hardware_flops_count_what_is_recomputed():
    for recompute in ("none", "selective", "full"):
        plan = make_plan("llama2-7b", recompute=recompute)
        flops = training_flops_per_token(plan.model, plan.training.seq_len, "causal", recompute)
        expected = flops.recomputed / flops.forward
        assert hardware_flops_factor(plan) == pytest.approx(expected, rel=1e-9), recompute


def test_the_convention_of_flops_is_said_and_changes_utilisation_alone():
    plans = [make_plan(seq_len=8192, flop_convention=c) for c in ("causal", "full")]
    causal, full = (simulate_training(plan) for plan in plans)
    assert (causal.flop_convention, full.flop_convention) == ("causal", "full")
    assert causal.step_time_s == full.step_time_s
    assert causal.mfu < full.mfu


def test_ranges_widen_with_less_evidence():
    widths = []
    for accelerator, stack in (
        ("h100-sxm", "megatron-core"),  # measured steps of this stack
        ("h100-sxm", "megatron-2021"),  # measured kernels
        ("rtx-4090", "fsdp-composer"),  # a datasheet
    ):
        low, high = step_range(evidence_grade(load_accelerator(accelerator), stack))
        assert low < 1 < high
        widths.append(high - low)
    assert widths == sorted(widths)
    assert len(set(widths)) == 3


# Published runs --------------------------------------------------------------------------------
# Sanity, not accuracy (that is the validation suite's): wide, stated tolerances.


def test_llama_3_405b_is_near_its_published_rate():
    # Grattafiori et al. 2024, arXiv 2407.21783, table 4: 400 TFLOP/s an accelerator on 16,384 H100
    # at 8,192 tokens (430 on 8,192 accelerators, 380 with 131,072 tokens); within 20%. The paper
    # does not say how it counts attention; ours is causal, 1.2% below full at this length.
    assert example("llama3_405b_16k_h100").model_tflops_per_accelerator == pytest.approx(
        400, rel=0.20
    )


def test_deepseek_v3_takes_about_its_published_hours():
    # DeepSeek-AI 2024, arXiv 2412.19437, table 1: 2.664M H800 hours for 14.8T tokens; within 25%
    assert example("deepseek_v3_2048_h800").accelerator_hours == pytest.approx(2.664e6, rel=0.25)


def test_gpt_3_on_1024_a100_is_near_the_published_estimate():
    # Narayanan et al. 2021, arXiv 2104.04473, section 5.1: 140 TFLOP/s with recomputation counted,
    # 34 days for 300B tokens; within 15%
    result = example("gpt3_175b_1024_a100")
    hardware = result.hardware_flops_per_step / result.step_time_s / result.accelerators
    assert hardware == pytest.approx(140e12, rel=0.15)
    assert result.wall_clock_s == pytest.approx(34 * 86400, rel=0.15)


def test_mt_nlg_is_within_a_third_of_its_published_step():
    # Smith et al. 2022, arXiv 2201.11990, section 2.4: 44.4 s on 420 nodes; micro-batch and
    # recomputation are not published; within 30%
    assert example("mtnlg_530b_3360_a100").step_time_s == pytest.approx(44.4, rel=0.30)


def test_full_sharding_of_llama_2_on_v5p_is_in_the_published_range():
    # MaxText, docs/reference/models/tiering.md: 65.4% MFU on 512 v5p; its batch and recomputation
    # are not published, so only the order of magnitude is held
    assert 0.4 < example("llama2_70b_v5p").mfu < 0.75
