"""Legal plans pass, illegal ones are refused with the rule and a fix that is itself legal."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ridgeline.hardware import make_cluster
from ridgeline.simulator import legality, legality_split
from ridgeline.simulator.plan import Parallelism, Plan, RunOptions, Training
from ridgeline.workloads import load_model


def make_plan(model: str = "llama3-8b", cluster: str = "8x8xh100-sxm", **changes: Any) -> Plan:
    base = {
        "parallel": {"tp": 8, "pp": 2, "dp": 4},
        "training": {"seq_len": 8192, "global_batch_seqs": 128, "micro_batch_seqs": 1},
    }
    return Plan(
        model=load_model(model),
        cluster=make_cluster(cluster),
        parallel=Parallelism(**(base["parallel"] | changes.get("parallel", {}))),
        training=Training(**(base["training"] | changes.get("training", {}))),
        run=RunOptions(**changes.get("run", {})),
        stack="megatron-core",
    )


def only_problem(plan: Plan) -> str:
    found = legality.problems(plan)
    assert len(found) == 1, found
    return found[0]


def test_a_usual_plan_is_legal() -> None:
    assert legality.problems(make_plan()) == []
    assert legality.warnings(make_plan()) == []


@pytest.mark.parametrize(
    ("changes", "culprit", "advice"),
    [
        ({"parallel": {"dp": 3}}, "parallel.dp = 3", "dp = 4"),
        (
            {"parallel": {"pp": 3, "dp": 1}, "training": {"uneven_stages": True}},
            "parallel: tp*pp*cp = 24",
            "pp = 4 ",
        ),
        ({"parallel": {"zero_stage": 4}}, "parallel.zero_stage = 4", "0, 1, 2 or 3"),
        ({"parallel": {"ep": 2}}, "parallel.ep = 2", "no experts"),
        ({"parallel": {"vpp": 2}}, "training.schedule = '1f1b'", "interleaved"),
        ({"parallel": {"cp_kind": "rign"}}, "parallel.cp_kind", "'ring'"),
        ({"parallel": {"placement": ("tp", "dp")}}, "parallel.placement", "innermost first"),
        ({"parallel": {"shard_size": 4}}, "parallel.shard_size = 4", "zero_stage 1, 2 or 3"),
        ({"parallel": {"shard_size": 3, "zero_stage": 3}}, "shard_size = 3", "4 does"),
        ({"training": {"schedule": "interleaved"}}, "parallel.vpp = 1", "2 or more"),
        ({"training": {"schedule": "1fb1"}}, "training.schedule = '1fb1'", "'1f1b'"),
        ({"training": {"precision": "bf61"}}, "training.precision = 'bf61'", "'bf16'"),
        ({"training": {"recompute": "every-0"}}, "training.recompute", "'every-2'"),
        ({"training": {"recompute": "full-17"}}, "training.recompute", "full-16"),
        ({"training": {"optimizer": "adamv"}}, "training.optimizer", "'adam'"),
        ({"training": {"offload": ("optimiser",)}}, "training.offload", "'optimizer'"),
        ({"training": {"global_batch_seqs": 126}}, "global_batch_seqs = 126", "128 is"),
        ({"training": {"global_batch_seqs": 2}}, "global_batch_seqs = 2", "at least 4"),
        ({"training": {"stage_layers": (16, 15)}}, "training.uneven_stages", "31 layers"),
        ({"training": {"stage_layers": (32,)}}, "training.uneven_stages", "give 2 numbers"),
        ({"training": {"tokens": 1e3}}, "training.tokens = 1000", "leave it out"),
        (
            {"run": {"batch_warmup_tokens": 1e9, "batch_warmup_start_seqs": 5}},
            "run.batch_warmup_start_seqs = 5",
            "4 is",
        ),
        ({"run": {"eval_steps": 5}}, "run.eval_steps", "both or neither"),
        (
            {"training": {"schedule": "dualpipe", "global_batch_seqs": 12}},
            "training.global_batch_seqs = 12",
            "16 sequences give 4",
        ),
        ({"training": {"seq_len": 8191}, "parallel": {"sp": True}}, "seq_len = 8191", "8192 is"),
        ({"parallel": {"tp": 4, "cp": 2}, "training": {"seq_len": 8190}}, "2*cp = 4", "8192 is"),
        (
            {"training": {"global_batch_seqs": 100_000_000}},
            "training.micro_batch_seqs = 1",
            "larger micro-batches",
        ),
    ],
)
def test_refused_with_culprit_and_fix(changes: dict[str, Any], culprit: str, advice: str) -> None:
    line = only_problem(make_plan(**changes))
    assert culprit in line
    assert advice in line


def test_every_problem_of_a_plan_is_reported() -> None:
    plan = make_plan(
        parallel={"tp": 3, "pp": 5, "dp": 4}, training={"seq_len": 8191, "precision": "fp4"}
    )
    keys = {line.split(" = ")[0].split(":")[0] for line in legality.problems(plan)}
    assert {"parallel", "parallel.tp", "parallel.pp", "training.precision"} <= keys


def test_nonsense_is_refused_before_anything_divides() -> None:
    line = only_problem(make_plan(parallel={"tp": 0}))
    assert line == "parallel.tp = 0: must be at least 1"


def test_heads_get_a_divisor() -> None:
    # GPT-3 175B has 96 heads, hidden 12,288 (Brown et al. 2020, Table 2.1).
    plan = make_plan("gpt3-175b", "5x8xa100-sxm-80gb", parallel={"tp": 5, "pp": 8, "dp": 1})
    found = [line for line in legality.problems(plan) if "heads" in line]
    assert found[0] == "parallel.tp = 5: does not divide the 96 attention heads; tp = 6 does"


def test_kv_heads_may_be_copied_but_not_split() -> None:
    # Llama 3 8B: 32 heads, 8 KV heads (Grattafiori et al. 2024, Table 3).
    assert legality.problems(make_plan(parallel={"tp": 16, "dp": 2})) == []
    assert legality.problems(make_plan(parallel={"tp": 32, "dp": 1})) == []


def test_experts() -> None:
    # DeepSeek-V3: 256 routed experts (arXiv 2412.19437, section 4.2).
    def moe(cluster: str = "256x8xh800-sxm", **parallel: int) -> Plan:
        split = {"tp": 1, "pp": 16, "dp": 128, **parallel}
        training = {
            "seq_len": 4096,
            "global_batch_seqs": 15360,
            "schedule": "dualpipe",
            "uneven_stages": True,
        }
        return make_plan("deepseek-v3", cluster, parallel=split, training=training)

    assert legality.problems(moe(ep=64)) == []
    assert "ep = 256 fits" in legality.problems(moe(ep=512))[0]
    assert "ep = 64 does" in legality.problems(moe(ep=60))[0]
    assert "ep = 128 does" in only_problem(moe(ep=256))
    odd = legality.problems(moe(cluster="1080x1xh800-sxm", pp=15, dp=72, ep=8))
    assert any("pp must be even, for example 16" in line for line in odd)


def test_layers_that_do_not_divide_need_uneven_stages() -> None:
    plan = make_plan(parallel={"tp": 4, "pp": 3, "dp": 8}, cluster="12x8xh100-sxm")
    assert "pp = 4 does" in only_problem(plan) or "pp = 2 does" in only_problem(plan)
    uneven = replace(plan, training=replace(plan.training, uneven_stages=True))
    assert legality.problems(uneven) == []
    deep = replace(uneven, parallel=replace(plan.parallel, pp=48, tp=2, dp=1))
    assert any("more than the 32 layers" in line for line in legality.problems(deep))


def test_interleaving_needs_whole_rounds_of_micro_batches() -> None:
    # Narayanan et al. 2021, section 2.2.2: micro-batches must be a multiple of the stages.
    training = {"schedule": "interleaved", "global_batch_seqs": 36}
    line = only_problem(make_plan(parallel={"vpp": 2}, training=training))
    assert "multiple of pp = 2" in line
    assert "40 sequences give 10" in line


def test_units_that_a_device_lacks() -> None:
    v100 = make_plan(cluster="8x8xv100-sxm-32gb", training={"precision": "bf16"})
    assert "fp16" in only_problem(v100)
    a100 = make_plan(cluster="8x8xa100-sxm-80gb", training={"precision": "fp8"})
    assert "no fp8 units; it has" in only_problem(a100)


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"parallel": {"tp": 16, "dp": 2}}, "tp = 8 stays inside"),
        ({"training": {"seq_len": 16384}}, "8192 positions"),
        ({"parallel": {"zero_stage": 3}}, "zero_stage = 1 is the usual"),
        ({"parallel": {"pp": 8, "dp": 1}, "training": {"global_batch_seqs": 4}}, "bubble"),
    ],
)
def test_warned(changes: dict[str, Any], word: str) -> None:
    plan = make_plan(**changes)
    assert legality.problems(plan) == []
    assert any(word in line for line in legality.warnings(plan)), legality.warnings(plan)


def test_placement_decides_whether_tensor_parallel_leaves_the_node() -> None:
    inside = make_plan()
    outside = make_plan(parallel={"placement": ("dp", "tp", "cp", "pp")})
    assert not legality.warnings(inside)
    assert any("span nodes" in line for line in legality.warnings(outside))


@settings(max_examples=60, deadline=None)
@given(
    tp=st.sampled_from([1, 2, 3, 4, 5, 6, 8, 12, 16, 32, 64]),
    pp=st.integers(1, 40),
    batch=st.integers(1, 600),
    micro=st.integers(1, 8),
)
def test_following_the_advice_helps(tp: int, pp: int, batch: int, micro: int) -> None:
    """Each suggested value, put in place, silences the line that suggested it."""
    plan = make_plan(
        cluster=f"{tp * pp}x1xh100-sxm",
        parallel={"tp": tp, "pp": pp, "dp": 1},
        training={"global_batch_seqs": batch, "micro_batch_seqs": micro},
    )
    for line in legality.problems(plan):
        if match := re.search(r"parallel\.(tp|pp)\b.*; \1 = (\d+) (?:does|works)", line):
            split = replace(plan.parallel, **{match[1]: int(match[2])})
            cluster = make_cluster(f"{split.world}x1xh100-sxm")
            fixed = replace(plan, parallel=split, cluster=cluster)
            subject = re.search(r"heads|hidden size|MLP width|layers", line)
            assert subject is not None
        elif match := re.search(r"^training\.global_batch_seqs.* (\d+) (?:works|is)$", line):
            fixed = replace(plan, training=replace(plan.training, global_batch_seqs=int(match[1])))
            subject = re.search(r"dp\*micro_batch_seqs", line)
            assert subject is not None
        else:
            continue
        assert not [other for other in legality.problems(fixed) if subject[0] in other]


def test_divisors_and_closest() -> None:
    assert legality_split.divisors(36) == [1, 2, 3, 4, 6, 9, 12, 18, 36]
    assert legality_split.closest(5, [1, 4, 8]) == 4
    assert legality_split.closest(16, legality_split.divisors(40)) == 20


@pytest.mark.parametrize(
    ("name", "what"), [("qwen3.5-397b-a17b", "linear attention"), ("glm-5", "sparse attention")]
)
def test_split_sequences_of_hybrids_are_refused(name: str, what: str) -> None:
    plan = replace(make_plan(), model=load_model(name))
    assert not [line for line in legality.problems(plan) if what in line]
    split = replace(plan, parallel=replace(plan.parallel, cp=2))
    assert [line for line in legality.problems(split) if what in line and "cp = 1" in line]
