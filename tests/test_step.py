"""A training step: granularities, bounds, properties, and closed forms of the pipeline."""

from __future__ import annotations

import hashlib
import math
import os
import subprocess
import sys
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plans import flat_cluster, make_plan
from ridgeline.hardware import Cluster, make_cluster
from ridgeline.simulator.accounting import account
from ridgeline.simulator.plan import Plan
from ridgeline.simulator.stacks import Stack, load_stack
from ridgeline.simulator.step import Step, simulate_step
from ridgeline.simulator.tasks import COMPUTE, STREAMS_PER_DEVICE
from ridgeline.workloads import load_model
from ridgeline.workloads.flops import forward_flops

ROOT = Path(__file__).resolve().parent.parent

SPLITS = {
    "data": {},
    "tensor": {"tp": 8},
    "tensor, sequence, pipeline": {"tp": 2, "sp": True, "pp": 2, "micro_batches": 4},
    "fp8": {"tp": 4, "sp": True, "precision": "fp8"},
    "context": {"cp": 4, "zero_stage": 1},
    "ulysses": {"cp": 4, "cp_kind": "ulysses", "zero_stage": 1},
    "gpipe": {"pp": 4, "schedule": "gpipe", "micro_batches": 8},
    "1f1b": {"pp": 4, "micro_batches": 8},
    "interleaved": {"pp": 4, "vpp": 2, "schedule": "interleaved", "micro_batches": 8},
    "zb-h1": {"pp": 4, "schedule": "zb-h1", "micro_batches": 8},
    "dualpipe": {"pp": 4, "schedule": "dualpipe", "micro_batches": 8},
    "zero-1 overlapped": {"tp": 2, "zero_stage": 1},
    "zero-1 interleaved": {
        "pp": 4,
        "vpp": 4,
        "zero_stage": 1,
        "schedule": "interleaved",
        "micro_batches": 8,
    },
    "zero-2 pipeline": {"pp": 2, "zero_stage": 2, "micro_batches": 4},
    "fsdp": {"zero_stage": 3, "stack": "fsdp-composer"},
    "shard-grad-op": {"zero_stage": 2, "stack": "fsdp-composer"},
    "experts": {"model": "mixtral-8x7b", "cluster": "2x8xh100-sxm", "ep": 8, "pp": 2},
    "unfused": {
        "cluster": "2x8xa100-sxm-80gb",
        "tp": 8,
        "pp": 2,
        "precision": "fp16",
        "micro_batches": 4,
        "stack": "megatron-2021",
    },
    "full recomputation": {"recompute": "full", "pp": 2, "micro_batches": 4},
    "every second layer": {"recompute": "every-2", "pp": 2, "micro_batches": 4},
    "offloaded activations": {"offload": ("activations",), "pp": 2, "micro_batches": 4},
    "offloaded optimizer": {"offload": ("optimizer",), "zero_stage": 1},
}


def played(plan: Plan, granularity: str = "stage", stack: Stack | None = None) -> Step:
    return simulate_step(plan, stack or load_stack(plan.stack), granularity)


@lru_cache(maxsize=128)
def step_of(name: str, granularity: str = "stage") -> Step:
    return played(make_plan(**SPLITS[name]), granularity)


# Granularities ---------------------------------------------------------------------------------


@pytest.mark.parametrize("granularity", ["layer", "operator"])
@pytest.mark.parametrize("name", SPLITS)
def test_granularities_agree(name, granularity):
    coarse, fine = step_of(name), step_of(name, granularity)
    assert fine.graph.tasks > coarse.graph.tasks or fine.granularity == "layer"
    assert fine.seconds == pytest.approx(coarse.seconds, rel=1e-9)
    spent, again = account(coarse).groups, account(fine).groups
    for group in {*spent, *again}:
        difference = abs(spent.get(group, 0.0) - again.get(group, 0.0))
        assert difference < 0.01 * coarse.seconds, group


def test_paired_passes_hide_a_little_less_operator_by_operator():
    # stage by stage the expert exchange of one pass of a pair hides behind all of the other; one
    # operator at a time it waits for its turn
    plan = make_plan(
        "mixtral-8x7b",
        "8x8xh100-sxm",
        ep=8,
        pp=4,
        schedule="dualpipe",
        micro_batches=8,
    )
    coarse, fine = played(plan), played(plan, "operator")
    assert coarse.seconds * (1 - 1e-9) <= fine.seconds <= 1.05 * coarse.seconds
    assert played(plan, "layer").seconds == pytest.approx(coarse.seconds, rel=1e-9)


@pytest.mark.parametrize("granularity", ["stage", "operator"])
@pytest.mark.parametrize("name", SPLITS)
def test_where_the_time_goes_adds_up_to_the_step(name, granularity):
    step = step_of(name, granularity)
    spent = account(step)
    assert math.fsum(spent.groups.values()) == pytest.approx(step.seconds, rel=1e-9)
    assert all(seconds > 0 for seconds in spent.groups.values())
    exposed = sum(s for group, s in spent.groups.items() if group.startswith("exposed"))
    assert spent.exposed_s == pytest.approx(exposed)


# Bounds ----------------------------------------------------------------------------------------


def critical_path_s(step: Step) -> float:
    """Longest chain of dependencies, in one slow sweep; ids are a topological order of streams."""
    graph = step.graph
    end = np.zeros(graph.tasks)
    done = np.zeros(graph.tasks, bool)
    pending = list(range(graph.tasks - 1, -1, -1))
    while pending:
        task = pending[-1]
        before = graph.indices[graph.indptr[task] : graph.indptr[task + 1]]
        missing = [int(t) for t in before if not done[t]]
        if missing:
            pending += missing
            continue
        pending.pop()
        done[task] = True
        end[task] = graph.seconds[task] + (end[before].max() if len(before) else 0.0)
    return float(end.max())


@pytest.mark.parametrize("name", SPLITS)
def test_a_step_is_never_under_its_bounds(name):
    step = step_of(name)
    slack = 1 + 1e-12
    assert step.timeline.makespan * slack >= critical_path_s(step)
    load = np.bincount(step.graph.stream, step.graph.seconds)
    assert step.timeline.makespan * slack >= load.max()
    plan = step.plan
    tokens = plan.training.global_batch_seqs * plan.training.seq_len
    flops = 3 * forward_flops(plan.model, plan.training.seq_len, "causal").total * tokens
    accelerator = plan.cluster.accelerator
    peak = accelerator.peak(plan.training.precision) * plan.cluster.count
    assert step.seconds > flops / peak


def test_a_pipeline_is_never_faster_than_its_stages_without_it():
    # splitting layers over stages leaves the same work, with a bubble
    one = step_of("data")
    pipeline = played(make_plan(pp=8, micro_batches=16))
    busy = np.bincount(pipeline.graph.stream, pipeline.graph.seconds)
    assert pipeline.seconds >= busy[COMPUTE::STREAMS_PER_DEVICE].max()
    assert pipeline.seconds > one.seconds


# More of something is never slower -------------------------------------------------------------

FIXED = {
    "tensor": {"tp": 4, "sp": True},
    "pipeline": {"pp": 4, "tp": 2, "micro_batches": 6, "zero_stage": 1},
    "interleaved": {
        "pp": 4,
        "vpp": 2,
        "tp": 2,
        "schedule": "interleaved",
        "micro_batches": 8,
        "stack": "megatron-2021",
    },
    "fsdp": {"zero_stage": 3, "stack": "fsdp-composer"},
    "zb-h1": {"pp": 4, "schedule": "zb-h1", "micro_batches": 6},
    "context": {"cp": 8, "seq_len": 32768},
    "experts by node": {
        "model": "mixtral-8x7b",
        "ep": 8,
        "placement": ("dp", "tp", "cp", "pp"),
        "stack": "hai-llm",
        "precision": "fp8",
    },
    "experts": {"model": "mixtral-8x7b", "ep": 4, "pp": 2, "micro_batches": 4},
}


def faster(cluster: Cluster, what: str, factor: float) -> Cluster:
    """Return the cluster with more of one thing (latency: with less)."""
    accelerator = cluster.accelerator
    if what == "memory":
        rate = accelerator.memory_bytes_per_s * factor
        return replace(cluster, accelerator=replace(accelerator, memory_bytes_per_s=rate))
    if what == "flops":
        peaks = {dtype: peak * factor for dtype, peak in accelerator.peak_flops.items()}
        return replace(cluster, accelerator=replace(accelerator, peak_flops=peaks))
    field, tier = what.split(" of tier ")
    tiers = list(cluster.tiers)
    old = tiers[int(tier)]
    if field == "latency":
        tiers[int(tier)] = replace(old, latency_s=old.latency_s / factor)
    else:
        tiers[int(tier)] = replace(old, bytes_per_s=old.bytes_per_s * factor)
    return replace(cluster, tiers=tuple(tiers))


MORE = ["memory", "flops"] + [f"{f} of tier {t}" for f in ("bandwidth", "latency") for t in (0, 1)]


@settings(max_examples=60, deadline=None)
@given(
    name=st.sampled_from(sorted(FIXED)),
    what=st.sampled_from(MORE),
    factor=st.floats(1.0, 20.0),
    start=st.floats(0.05, 1.0),
    granularity=st.sampled_from(["stage", "operator"]),
)
def test_more_of_anything_is_never_slower(name, what, factor, start, granularity):
    cluster = faster(make_cluster("4x4xh100-sxm"), what, start)
    slow = played(make_plan(cluster=cluster, **FIXED[name]), granularity)
    fast = played(make_plan(cluster=faster(cluster, what, factor), **FIXED[name]), granularity)
    assert fast.seconds <= slow.seconds * (1 + 1e-9)


def test_tensor_parallelism_across_nodes_is_slower_the_slower_the_network():
    seconds = [
        played(make_plan(cluster=flat_cluster("16xh100-sxm", rate), tp=16, dp=1)).seconds
        for rate in (400e9, 100e9, 25e9, 6e9)
    ]
    assert seconds == sorted(seconds)
    assert seconds[-1] > 5 * seconds[0]


def test_tensor_ranks_on_nvlink_beat_tensor_ranks_across_nodes():
    inside = make_plan(cluster="8x8xh100-sxm", tp=8, dp=8)
    across = replace(inside, parallel=replace(inside.parallel, placement=("dp", "tp", "cp", "pp")))
    assert played(inside).seconds < played(across).seconds


# Names of ranks --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["tensor", "pipeline", "fsdp", "context"])
def test_relabelling_ranks_of_one_tier_changes_nothing(name):
    cluster = flat_cluster("16xh100-sxm", 50e9)
    first = None
    for order in (("tp", "cp", "dp", "pp"), ("pp", "dp", "cp", "tp"), ("dp", "tp", "pp", "cp")):
        seconds = played(make_plan(cluster=cluster, placement=order, **FIXED[name])).seconds
        first = first or seconds
        assert seconds == first


def test_more_of_the_same_replicas_changes_only_their_exchange():
    # the exchange of gradients aside, data-parallel replicas do not know of each other
    cluster = flat_cluster("64xh100-sxm", 1e15, 0.0)
    few = make_plan(cluster=replace(cluster, count=8), tp=4)
    many = make_plan(cluster=cluster, tp=4)
    assert played(many).seconds == pytest.approx(played(few).seconds, rel=1e-3)


# Determinism -----------------------------------------------------------------------------------

_PRINT = """
from plans import make_plan
from ridgeline.simulator.stacks import load_stack
from ridgeline.simulator.step import simulate_step
import hashlib
step = simulate_step(make_plan(pp=4, tp=2, zero_stage=1, micro_batches=6),
                     load_stack("megatron-core"), "operator")
print(hashlib.sha256(step.timeline.start.tobytes() + step.timeline.end.tobytes()).hexdigest())
"""


def test_the_same_plan_gives_the_same_bytes_in_another_process():
    step = played(make_plan(pp=4, tp=2, zero_stage=1, micro_batches=6), "operator")
    times = step.timeline.start.tobytes() + step.timeline.end.tobytes()
    done = subprocess.run(
        [sys.executable, "-c", _PRINT],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT / "tests"), "PYTHONHASHSEED": "7"},
    )
    assert done.stdout.strip() == hashlib.sha256(times).hexdigest()


# Closed forms of the bubble --------------------------------------------------------------------


@lru_cache(maxsize=32)
def pipeline(schedule: str, pp: int, micro_batches: int, vpp: int = 1) -> Step:
    """Equal stages: a tiny vocabulary, links of no length, an optimizer that is not counted."""
    model = replace(load_model("llama2-70b"), vocab=8, num_layers=64)
    plan = make_plan(
        model,
        flat_cluster(f"{pp}xh100-sxm", 1e15, 0.0),
        pp=pp,
        vpp=vpp,
        schedule=schedule,
        micro_batches=micro_batches,
    )
    return played(plan, stack=replace(load_stack("megatron-core"), optimizer_bytes=0.0))


def bubble_over_work(step: Step) -> float:
    spent = account(step)
    return spent.bubble_s / (step.seconds - spent.bubble_s)


def passes(step: Step) -> tuple[float, float, float]:
    """Seconds of forward, input-gradient and weight-gradient passes over one stage's layers."""
    layers = step.plan.model.num_layers / step.plan.parallel.pp
    forward, _, backward, weight = step.costs.total_s[0]
    return forward * layers, backward * layers, weight * layers


@pytest.mark.parametrize(("pp", "micro_batches"), [(2, 8), (4, 8), (8, 32)])
@pytest.mark.parametrize("schedule", ["gpipe", "1f1b"])
def test_the_bubble_of_gpipe_and_1f1b(schedule, pp, micro_batches):
    # (p - 1) / m of the work: Narayanan et al. 2021, arXiv 2104.04473, section 2.2.1
    found = bubble_over_work(pipeline(schedule, pp, micro_batches))
    assert found == pytest.approx((pp - 1) / micro_batches, rel=0.02)


@pytest.mark.parametrize("vpp", [2, 4])
def test_the_bubble_of_interleaving(vpp):
    # (p - 1) / (v m): Narayanan et al. 2021, section 2.2.2
    found = bubble_over_work(pipeline("interleaved", 8, 32, vpp))
    assert found == pytest.approx(7 / 32 / vpp, rel=0.02)


def test_the_bubble_of_zero_bubble_h1():
    # (p - 1) (F + B - 2 W): Qi et al. 2023, arXiv 2401.10241, table 2, with B and W the halves
    # of the backward pass ((p - 1)(T_F + T_B - T_W) where W fills what it can)
    step = pipeline("zb-h1", 8, 32)
    f, b, w = passes(step)
    found = account(step).bubble_s
    assert found == pytest.approx(7 * (f + b - w), rel=0.03)
    assert found < account(pipeline("1f1b", 8, 32)).bubble_s


def test_dualpipe_idles_least():
    # DeepSeek-AI 2024, arXiv 2412.19437, table 2
    kinds = ("1f1b", "zb-h1", "dualpipe")
    bubbles = [account(pipeline(kind, 8, 32)).bubble_s for kind in kinds]
    assert bubbles == sorted(bubbles, reverse=True)


def test_more_micro_batches_shrink_the_bubble_and_double_the_work():
    few, many = pipeline("1f1b", 8, 16), pipeline("1f1b", 8, 64)
    assert account(few).bubble_s == pytest.approx(account(many).bubble_s, rel=0.02)
    busy = [step.seconds - account(step).bubble_s for step in (few, many)]
    assert busy[1] == pytest.approx(4 * busy[0], rel=0.01)


# Exchange of weights and gradients -------------------------------------------------------------


def data_parallel(**changes: object) -> Plan:
    return make_plan("llama2-7b", flat_cluster("16xh100-sxm", 25e9), **changes)


def test_gradients_hide_behind_the_last_backward_pass():
    # the optimizer is sharded in one plan and whole in the other
    stack = replace(load_stack("megatron-core"), optimizer_bytes=0.0)
    plan = data_parallel(zero_stage=1)
    hidden = played(plan, stack=stack).seconds
    bare = played(
        plan, stack=replace(stack, gradient_overlap=False, parameter_overlap=False)
    ).seconds
    exchange = played(plan).exchange
    wire = sum(
        (exchange.gather[part] + exchange.reduce[part]) * times
        for part, times in ((0, plan.model.num_layers), (1, 1), (2, 1))  # layers, embedding, head
    )
    assert hidden < bare
    # without overlap all of it shows
    free = played(data_parallel(), stack=replace(stack, gradient_bytes=0.0)).seconds
    assert bare == pytest.approx(free + wire, rel=0.05)


@pytest.mark.parametrize("stack", ["megatron-core", "hai-llm"])
@pytest.mark.parametrize("rate", [5e9, 50e9, 400e9])
def test_overlap_is_never_slower_than_none(stack, rate):
    facts = load_stack(stack)
    plan = make_plan(cluster=flat_cluster("16xh100-sxm", rate), zero_stage=1)
    overlapped = played(plan, stack=facts).seconds
    bare = played(plan, stack=replace(facts, gradient_overlap=False, parameter_overlap=False))
    assert overlapped <= bare.seconds * (1 + 1e-9)


def test_a_sharded_optimizer_steps_on_its_share():
    whole, sharded = (played(data_parallel(zero_stage=stage)) for stage in (0, 1))
    assert sharded.optimizer_s[0] == pytest.approx(whole.optimizer_s[0] / 16, rel=0.05)


def test_full_sharding_gathers_in_every_micro_batch_and_plain_does_not():
    plans = [data_parallel(zero_stage=3, micro_batches=m) for m in (1, 4)]
    plain = [data_parallel(micro_batches=m) for m in (1, 4)]

    def exposed(plan: Plan) -> float:
        return account(played(plan)).groups.get("exposed dp", 0.0)

    assert exposed(plans[1]) > 3 * exposed(plans[0])
    assert exposed(plain[1]) <= exposed(plain[0]) * 1.01


@pytest.mark.parametrize("rate", [5e9, 50e9, 400e9])
def test_gathering_ahead_of_reductions_is_never_slower(rate):
    facts = replace(load_stack("fsdp-composer"), overlap_slowdown=0.0)
    plan = make_plan("llama2-7b", flat_cluster("16xh100-sxm", rate), zero_stage=3)
    ahead, behind = (
        played(plan, stack=replace(facts, backward_prefetch=first)).seconds
        for first in (True, False)
    )
    assert ahead <= behind * (1 + 1e-9)


def test_a_backward_pass_that_gathers_behind_reductions_hides_nothing():
    # layer after layer: gather, compute, reduce, none beside another
    facts = replace(load_stack("fsdp-composer"), overlap_slowdown=0.0)
    plan = make_plan("llama2-7b", flat_cluster("16xh100-sxm", 5e9), zero_stage=3, micro_batches=1)
    behind = played(plan, stack=replace(facts, backward_prefetch=False))
    ahead = played(plan, stack=replace(facts, backward_prefetch=True))
    layers, exchange = plan.model.num_layers, ahead.exchange
    computed = behind.costs.total_s[0]
    hidden = (layers - 1) * min(sum(computed[1:]), exchange.gather[0] + exchange.reduce[0])
    assert behind.seconds - ahead.seconds == pytest.approx(hidden, rel=0.1)


def test_tied_embeddings_are_reduced_between_the_end_stages():
    model = load_model("llama2-7b")
    seconds = [
        played(make_plan(replace(model, tied_embeddings=tied), "8x1xh100-sxm", pp=8)).seconds
        for tied in (False, True)
    ]
    assert seconds[1] > seconds[0]


# What surrounds the timeline -------------------------------------------------------------------


def test_host_time_and_stragglers_come_on_top():
    plan = make_plan(cluster="8x8xh100-sxm")
    stack = replace(
        load_stack("megatron-core"), scale_jitter=0.0, host_step_s=0.0, host_layer_s=0.0
    )
    plain = played(plan, stack=stack)
    slow = played(plan, stack=replace(stack, scale_jitter=0.01, host_step_s=0.1))
    # 64 accelerators in nodes of 8: three doublings
    assert slow.seconds == pytest.approx(plain.seconds * 1.03 + 0.1)
    assert account(slow).groups["host"] == pytest.approx(plain.seconds * 0.03 + 0.1)


def test_a_step_is_never_faster_than_its_kernel_launches():
    plan = make_plan(seq_len=16)
    stack = load_stack("megatron-core")
    slow = played(plan, stack=replace(stack, launch_s=1e-3))
    table = slow.costs.table
    kernels = sum(table.kind[table.part == 0] < 100) * 32
    assert slow.seconds >= plan.micro_batches * kernels * 1e-3
    assert played(plan, stack=stack).seconds < slow.seconds


def test_pipeline_sends_of_old_stacks_block():
    plan = make_plan(
        cluster=flat_cluster("8xh100-sxm", 5e9),
        pp=8,
        vpp=2,
        schedule="interleaved",
        micro_batches=8,
    )
    stack = load_stack("megatron-core")
    overlapped = played(plan, stack=replace(stack, transfer_overlap=True))
    blocking = played(plan, stack=replace(stack, transfer_overlap=False))
    assert overlapped.seconds < blocking.seconds
