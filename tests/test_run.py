"""The whole run and its cost."""

from __future__ import annotations

from dataclasses import replace
from math import inf, log

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ridgeline.errors import InfeasibleError, InputError
from ridgeline.hardware.topology import make_cluster
from ridgeline.simulator.cost import cost
from ridgeline.simulator.plan import Money, Parallelism, Plan, RunOptions, Training
from ridgeline.simulator.run import proportional_step_time, whole_run

SEQ, BATCH = 2048, 512
QUIET = RunOptions(checkpoint_interval_s=0.0, failures=False)


def make_plan(
    tokens: float,
    run: RunOptions = QUIET,
    money: Money | None = None,
    parallel: Parallelism | None = None,
    cluster: str = "128x8xh100-sxm",
) -> Plan:
    return Plan(
        model=None,  # type: ignore[arg-type] # a run needs no model
        cluster=make_cluster(cluster),
        parallel=parallel or Parallelism(tp=8, dp=128),
        training=Training(seq_len=SEQ, global_batch_seqs=BATCH, micro_batch_seqs=1, tokens=tokens),
        stack="megatron-core",
        run=run,
        money=money or Money(),
    )


def test_without_tokens_the_run_is_one_step() -> None:
    run = whole_run(3.0, SEQ * BATCH, make_plan(0.0, RunOptions()), 1e12)
    assert (run.steps, run.wall_clock_s, run.goodput) == (1, 3.0, 1.0)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 10**6), st.floats(1e-3, 100.0))
def test_halving_the_tokens_halves_the_run(steps: int, step_time: float) -> None:
    per_step = SEQ * BATCH
    whole = whole_run(step_time, per_step, make_plan(2.0 * steps * per_step), 1e12)
    half = whole_run(step_time, per_step, make_plan(1.0 * steps * per_step), 1e12)
    assert whole.steps == 2 * half.steps
    assert whole.wall_clock_s == 2 * half.wall_clock_s


def test_a_part_of_a_step_is_a_step() -> None:
    assert whole_run(1.0, 1000.0, make_plan(2500.0), 0.0).steps == 3


@settings(max_examples=40, deadline=None)
@given(
    st.floats(1e9, 1e12),
    st.floats(0.0, 2.0),
    st.integers(0, 4),
    st.integers(1, 500),
    st.sampled_from([-1.0, 0.0, 600.0]),
    st.booleans(),
)
def test_causes_add_up_and_only_lengthen(
    tokens: float, warm: float, start: int, interval: int, checkpoints: float, failures: bool
) -> None:
    options = RunOptions(
        batch_warmup_tokens=warm * tokens,
        batch_warmup_start_seqs=128 * max(1, start),
        eval_interval_steps=interval,
        eval_steps=10,
        checkpoint_interval_s=checkpoints,
        failures=failures,
    )
    run = whole_run(1.0, SEQ * BATCH, make_plan(tokens, options), 1e13)
    assert run.wall_clock_s == pytest.approx(sum(run.breakdown.values()))
    assert all(seconds >= -1e-6 for seconds in run.breakdown.values())
    assert 0 < run.goodput <= 1
    plain = whole_run(1.0, SEQ * BATCH, make_plan(tokens), 1e13)
    assert run.wall_clock_s >= plain.wall_clock_s - 2.0


def test_a_warm_up_without_a_pipeline_costs_steps_but_no_time() -> None:
    tokens = 1e10
    options = replace(QUIET, batch_warmup_tokens=5e9, batch_warmup_start_seqs=128)
    plan = make_plan(tokens, options)
    run = whole_run(1.0, SEQ * BATCH, plan, 0.0)
    assert run.batch_warmup_s == pytest.approx(0.0, abs=1e-6)
    assert run.steps > tokens / (SEQ * BATCH)


def test_a_long_warm_up_has_the_steps_of_the_integral() -> None:
    # dx / (s b(x)) over a batch growing linearly from b0 to B: W ln(B / b0) / (s (B - b0))
    options = replace(QUIET, batch_warmup_tokens=1e12, batch_warmup_start_seqs=8)
    plan = make_plan(1e12, options, parallel=Parallelism(tp=8, pp=128))
    plan = replace(plan, training=replace(plan.training, global_batch_seqs=4096))
    run = whole_run(1.0, SEQ * 4096, plan, 0.0)
    assert run.steps == pytest.approx(1e12 * log(4096 / 8) / (SEQ * 4088), rel=1e-4)
    assert run.batch_warmup_s > 0


def test_small_batches_keep_the_bubble() -> None:
    # (m + p - 1) / (m_B + p - 1) with p = 4, m = 4 of 16
    plan = make_plan(0.0, parallel=Parallelism(tp=8, pp=4, dp=32))
    assert proportional_step_time(1.9, plan)(128) == pytest.approx(1.9 * 7 / 19)


def test_a_given_step_time_is_used() -> None:
    options = replace(QUIET, batch_warmup_tokens=1e9, batch_warmup_start_seqs=128)
    plan = make_plan(1e9, options)
    run = whole_run(1.0, SEQ * BATCH, plan, 0.0, lambda batch: 1.0)
    assert run.wall_clock_s == pytest.approx(run.steps, abs=1.0)


def test_a_warm_up_from_an_impossible_batch_is_refused() -> None:
    for start in (0, 100, 640):
        options = replace(QUIET, batch_warmup_tokens=1e9, batch_warmup_start_seqs=start)
        with pytest.raises(InputError, match="multiple of dp"):
            whole_run(1.0, SEQ * BATCH, make_plan(1e10, options), 0.0)


def test_evaluation_runs_forward_passes_only() -> None:
    options = replace(QUIET, eval_interval_steps=100, eval_steps=30)
    run = whole_run(3.0, 1000.0, make_plan(1000.0 * 1000, options), 0.0)
    assert run.evaluation_s == pytest.approx(10 * 30 * 1.0)


def test_checkpoints_take_their_share() -> None:
    options = RunOptions(checkpoint_interval_s=600.0, failures=False, checkpoint_bytes_per_s=1e9)
    run = whole_run(1.0, 1000.0, make_plan(1000.0 * 36000, options), 6e9)
    assert run.checkpoint_s == pytest.approx(36000 / 600 * 6.0)
    assert run.failure_s == pytest.approx(0.0, abs=1e-6)


def test_bloom_wrote_checkpoints_for_0_37_percent_of_its_time() -> None:
    # BigScience: 2.3 TB in 40 s every 3 h (ml-engineering, fault-tolerance chapter)
    options = RunOptions(
        checkpoint_interval_s=3 * 3600.0, failures=False, checkpoint_bytes_per_s=2.3e12 / 40
    )
    run = whole_run(1.0, 1000.0, make_plan(1e10, options), 2.3e12)
    assert run.checkpoint_s / run.wall_clock_s == pytest.approx(0.0037, abs=2e-4)


def test_llama_3_spends_more_than_nine_tenths_of_its_time_training() -> None:
    # The Llama 3 Herd of Models, section 3.3.4: above 90% with 419 interruptions in 54 days
    plan = make_plan(15.6e12, RunOptions(), cluster="2048x8xh100-sxm")
    step = 4.0
    run = whole_run(step, 16e6, plan, 14 * 405e9)
    assert 0.88 < run.goodput < 0.97
    assert run.mttf_s / 3600 == pytest.approx(3.09, abs=0.01)
    assert run.failures == pytest.approx(run.wall_clock_s / 86400 / 54 * 419, rel=1e-3)


def test_without_checkpoints_failures_start_the_run_over() -> None:
    options = RunOptions(checkpoint_interval_s=0.0)
    short = whole_run(1.0, 1000.0, make_plan(1000.0 * 3600, options), 0.0)
    assert short.failure_s > 0
    with pytest.raises(InfeasibleError, match="checkpoint_interval_s"):
        whole_run(1.0, 1000.0, make_plan(1000.0 * 1e9, options), 0.0)


def test_a_run_shorter_than_the_interval_writes_no_checkpoint() -> None:
    plan = make_plan(1000.0 * 3600, RunOptions(checkpoint_interval_s=1e6))
    never = make_plan(1000.0 * 3600, RunOptions(checkpoint_interval_s=0.0))
    run = whole_run(1.0, 1000.0, plan, 1e13)
    assert run == whole_run(1.0, 1000.0, never, 1e13)
    assert run.checkpoint_s == 0.0


def test_a_job_that_cannot_recover_is_no_plan() -> None:
    options = RunOptions(restart_s=1e6, failures_per_1000_node_days=1000.0)
    with pytest.raises(InfeasibleError, match="restart_s"):
        whole_run(1.0, 1000.0, make_plan(1e9, options), 1e12)


def test_free_checkpoints_and_no_failures() -> None:
    free = whole_run(1.0, 1000.0, make_plan(1e9, RunOptions(restart_s=0.0)), 0.0)
    assert free.goodput == 1.0
    none = whole_run(1.0, 1000.0, make_plan(1e9, RunOptions(failures=False)), 1e15)
    assert none.goodput == 1.0
    assert none.mttf_s == inf


def test_a_run_is_priced_by_the_hour_of_every_accelerator() -> None:
    plan = make_plan(SEQ * BATCH * 3600.0, money=Money(usd_per_accelerator_hour=2.0))
    priced = cost(whole_run(1.0, SEQ * BATCH, plan, 0.0), plan)
    assert priced.accelerator_hours == pytest.approx(1024.0)
    assert priced.usd == pytest.approx(2048.0)
    assert any("given by the user" in source for source in priced.sources)
    assert 1024 * 0.7 < priced.energy_kwh < 1024 * 2.0
    assert priced.co2_kg == pytest.approx(priced.energy_kwh * 0.475)


def test_llama_3_energy_is_of_the_size_of_its_model_card() -> None:
    # Llama 3.1 model card: 30.84 million H100 hours at 700 W, 8,930 t CO2 for 405B, location-based;
    # that counts the accelerators' TDP alone
    plan = make_plan(
        SEQ * BATCH * 3600.0, money=Money(region="us-state:va", pue=1.08), cluster="128x8xh100"
    )
    priced = cost(whole_run(1.0, SEQ * BATCH, plan, 0.0), plan)
    per_hour = priced.energy_kwh / priced.accelerator_hours
    assert 0.7 < per_hour < 1.4


def test_money_off_the_list_is_said_and_asked_kinds_are_not_replaced() -> None:
    plan = make_plan(SEQ * BATCH * 10.0, cluster="128x8xh20")
    run = whole_run(1.0, SEQ * BATCH, plan, 0.0)
    priced = cost(run, plan)
    assert priced.usd == 0.0
    assert "no on-demand quote" in priced.warnings[0]
    with pytest.raises(InputError, match="no spot quote"):
        cost(run, replace(plan, money=Money(kind="spot")))
    owned = cost(run, replace(plan, money=Money(kind="owned")))
    assert owned.usd > 0
    assert owned.warnings == ()


def test_owned_power_price_and_region_matter() -> None:
    plan = make_plan(SEQ * BATCH * 10.0, money=Money(kind="owned", usd_per_kwh=0.05))
    run = whole_run(1.0, SEQ * BATCH, plan, 0.0)
    dear = replace(plan, money=Money(kind="owned", usd_per_kwh=0.5, region="country:fra"))
    assert cost(run, dear).usd > cost(run, plan).usd
    assert cost(run, dear).co2_kg < cost(run, plan).co2_kg
    with pytest.raises(InputError, match="region"):
        cost(run, replace(plan, money=Money(region="atlantis")))
