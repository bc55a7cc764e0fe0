"""Search over models with layers of several kinds: the same plans and prices as one by one."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import spaces
from ridgeline.hardware import make_cluster
from ridgeline.simulator.memory import memory_facts, stage_memory
from ridgeline.simulator.plan import Plan, Training
from ridgeline.simulator.schedule import make_schedule
from ridgeline.simulator.search.enumerate import enumerate_plans
from ridgeline.simulator.search.memory import memory_lower_bound, worst_memory_bytes
from ridgeline.simulator.search.pricing import Pricer
from ridgeline.simulator.search.space import Space, plan_at
from ridgeline.simulator.stacks import load_stack
from ridgeline.simulator.step import schedule_kind, simulate_step
from ridgeline.workloads import load_model, model_from_config
from ridgeline.workloads.catalogue import model_entry
from ridgeline.workloads.model import Model


def varied(name: str, layers: int, **changes: object) -> Model:
    config = {**model_entry(name)["config"], "num_hidden_layers": layers, "ridgeline": changes}
    return model_from_config(config, "varied")


def small(name: str, layers: int) -> Model:
    model = load_model(name)
    mixers, feed_forwards = model.mixers[:layers], model.feed_forwards[:layers]
    cut = replace(model, num_layers=layers, mixers=mixers, feed_forwards=feed_forwards)
    return replace(cut, name="small")


MODELS = {
    "state space": small("nemotron-h-8b", 12),
    "kimi delta": small("kimi-linear-48b-a3b", 4),
    "gated delta": small("qwen3-next-80b-a3b", 4),
    "indexer": small("deepseek-v3.2", 4),
    "depth": varied("llama3.2-1b", 4, depth={"every": 2, "share": 0.125}),
    "recursion": varied("llama3.2-1b", 4, recursion={"times": 2, "shares": [1.0, 0.5]}),
    "memory": varied("llama3.2-1b", 4, memory={"layers": [1, 3], "keys": 4096}),
    "blocks": varied("llama3.2-1b", 4, blocks={}),
    "convolution": varied("llama3.2-1b", 4, convolution={"every": 2}),
}


def space_of(name: str) -> Space:
    model = MODELS[name]
    return Space(
        model=model,
        clusters=(make_cluster("1x8xh100-sxm"),),
        training=Training(seq_len=4096, global_batch_seqs=16, micro_batch_seqs=1),
        stack="megatron-core",
        zero_stage=(0, 1, 3),
        schedules=("1f1b", "zb-h1"),
        recompute=("none", "full"),
        cp=(1, 2),
        ep=(1, 2) if model.moe else (),
        etp=(1,) if model.moe else (),
        micro_batch_seqs=(1, 2),
        sp=(1,),
        uneven_stages=False,
    )


@pytest.mark.parametrize("name", MODELS)
def test_enumeration_is_that_of_the_rules(name: str) -> None:
    space = space_of(name)
    candidates = enumerate_plans(space)
    found = {repr(plan_at(space, candidates, row)) for row in range(len(candidates))}
    # names of the twin's plans are those of their columns
    wanted = [repr(plan) for plan in spaces.every_legal_plan(space)]
    assert len(wanted) == len(found)


def worst_bytes(plan: Plan) -> float:
    ways = plan.parallel
    schedule = make_schedule(schedule_kind(plan), ways.pp, ways.vpp, plan.micro_batches)
    facts = memory_facts(load_stack("megatron-core"))
    return max(share.total for share in stage_memory(plan, schedule, facts))


@pytest.mark.parametrize("name", MODELS)
def test_prices_and_bounds_hold(name: str) -> None:
    space, stack = space_of(name), load_stack("megatron-core")
    candidates = enumerate_plans(space)
    rows = np.random.default_rng(0).permutation(len(candidates))[:12]
    candidates = candidates.take(np.sort(rows))
    plans = [plan_at(space, candidates, row) for row in range(len(candidates))]
    steps = np.array([simulate_step(plan, stack).seconds for plan in plans])
    pricer = Pricer(space)
    exact = pricer.step_seconds(candidates)
    known = ~np.isnan(exact)
    assert known.any()
    np.testing.assert_allclose(exact[known], steps[known], rtol=1e-9)
    assert (pricer.lower_bound(candidates) <= steps).all()
    assert (pricer.roofline_bound(candidates) <= steps).all()
    worst = np.array([worst_bytes(plan) for plan in plans])
    assert (memory_lower_bound(space, candidates) <= worst).all()
    counted = worst_memory_bytes(space, candidates)
    ours = ~np.isnan(counted)
    np.testing.assert_allclose(counted[ours], worst[ours], rtol=1e-9)
    assert ours.any() == (name in ("blocks", "indexer"))
