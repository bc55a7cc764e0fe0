"""The choice of what to repeat: exact on small graphs, never behind a built-in policy."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations
from math import isinf

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from naive_recompute import least_seconds
from ridgeline.cli import run
from ridgeline.errors import InputError
from ridgeline.hardware import make_cluster
from ridgeline.simulator.knapsack import Group, Option, choose
from ridgeline.simulator.memory import memory_facts, stage_memory
from ridgeline.simulator.memory.activations import kind_activations
from ridgeline.simulator.plan import Parallelism, Plan, Training
from ridgeline.simulator.planfile import read_plan
from ridgeline.simulator.recompute import MODULES, known_recompute, parse_recompute, policies_of
from ridgeline.simulator.recompute_choice import candidate_policies, with_chosen_recompute
from ridgeline.simulator.schedule import make_schedule
from ridgeline.simulator.search.enumerate import enumerate_plans
from ridgeline.simulator.search.space import Space
from ridgeline.simulator.stacks import load_stack
from ridgeline.simulator.step import simulate_step
from ridgeline.simulator.training import simulate_training
from ridgeline.workloads import load_model
from ridgeline.workloads.forms import Form

BUILT_IN = (
    *("none", "selective", "minimal", "minimal-with-context", "save-qkv-proj", "full"),
    *("norms", "activation", "norms+activation", "core-attn+norms+activation"),
    *("qkv", "mlp", "full-1", "full-4", "every-2", "every-3"),
)

numbers = st.integers(0, 20).map(float)
options = st.lists(st.tuples(numbers, numbers, numbers), min_size=1, max_size=4)
groups = st.lists(st.tuples(st.integers(1, 3), options), min_size=1, max_size=2)


def group_of(index: int, count: int, found: list[tuple[float, float, float]]) -> Group:
    return Group(count, tuple(Option(f"{index}-{i}", *row) for i, row in enumerate(found)))


@settings(max_examples=300, deadline=None)
@given(groups, st.integers(0, 120), st.floats(0, 2))
def test_the_choice_is_the_best_of_all(
    drawn: list[tuple[int, list[tuple[float, float, float]]]], budget: int, weight: float
) -> None:
    made = [group_of(i, count, found) for i, (count, found) in enumerate(drawn)]

    def room(recreated: float) -> float:
        return budget - weight * recreated

    takes = choose(made, room)
    by_name = {o.name: o for group in made for o in group.options}
    taken = [(by_name[name], n) for take in takes for name, n in take]
    for group, take in zip(made, takes, strict=True):
        assert sum(n for _, n in take) == group.count
    seconds = sum(o.seconds * n for o, n in taken)
    stored = sum(o.stored * n for o, n in taken)
    best = least_seconds(made, room)
    if isinf(best):
        assert stored > room(max(o.recreated for o, _ in taken))
    else:
        assert seconds == best
        assert stored <= room(max(o.recreated for o, _ in taken))


def test_a_hundred_layers_are_chosen_at_once() -> None:
    rows = [(0.0, 100.0), (1.1, 83.0), (1.9, 71.7), (3.2, 54.1), (4.9, 41.3), (7.7, 20.9)]
    group = Group(126, tuple(Option(str(i), *row, 0.0) for i, row in enumerate(rows)))
    (take,) = choose([group], lambda _: 126 * 60.0)
    by_name = {option.name: option for option in group.options}
    assert sum(by_name[name].stored * n for name, n in take) <= 126 * 60.0
    # no more than one layer's step over the relaxation, in which layers may be split
    share = (60.0 - 54.1) / (71.7 - 54.1)
    relaxed = 126 * (share * 1.9 + (1 - share) * 3.2)
    seconds = sum(by_name[name].seconds * n for name, n in take)
    assert relaxed - 1e-9 <= seconds <= relaxed + 1.3


def plan_of(**changes: object) -> Plan:
    base: dict[str, object] = {
        "model.name": "llama3-8b",
        "cluster.spec": "1x8xa100-sxm-80gb",
        "parallel.zero_stage": 3,
        "training.seq_len": 4096,
        "training.global_batch_seqs": 64,
        "training.micro_batch_seqs": 4,
        "training.recompute": "optimal",
    }
    return read_plan(None, base | {k.replace("__", "."): v for k, v in changes.items()})


PLANS: list[dict[str, object]] = [
    {},
    {"training__micro_batch_seqs": 8},
    {
        "model__name": "gpt3-175b",
        "cluster__spec": "8x8xa100-sxm-80gb",
        "parallel__tp": 8,
        "parallel__pp": 8,
        "parallel__sp": True,
        "parallel__zero_stage": 0,
        "training__micro_batch_seqs": 1,
        "stack__name": "megatron-2022",
    },
    {
        "model__name": "mixtral-8x7b",
        "cluster__spec": "2x8xh100-sxm",
        "parallel__ep": 8,
        "parallel__pp": 2,
        "parallel__zero_stage": 1,
        "training__micro_batch_seqs": 2,
    },
    {"model__name": "gpt-oss-20b", "training__micro_batch_seqs": 2},
]


@pytest.mark.parametrize("changes", PLANS)
def test_no_built_in_policy_that_fits_is_better(changes: dict[str, object]) -> None:
    chosen = simulate_training(plan_of(**changes))
    fitting = []
    for policy in BUILT_IN:
        other = simulate_training(plan_of(**changes, training__recompute=policy))
        if other.fits:
            fitting.append(policy)
            assert chosen.fits
            assert chosen.step_time_s <= other.step_time_s * (1 + 1e-9), policy
    assert fitting
    assert fitting != list(BUILT_IN)  # something is to be gained
    mix = chosen.plan["training"]["recompute"]
    # what was chosen is a plan like any other
    again = simulate_training(plan_of(**changes, training__recompute=mix))
    assert again.step_time_s == chosen.step_time_s
    assert again.worst_memory == chosen.worst_memory


@settings(max_examples=15, deadline=None)
@given(st.integers(20, 200), st.sampled_from(BUILT_IN))
def test_under_any_budget(gib: int, policy: str) -> None:
    plan = plan_of(training__recompute=policy)
    accelerator = replace(plan.cluster.accelerator, memory_bytes=gib * 2.0**30, name=f"m{gib}")
    plan = replace(plan, cluster=replace(plan.cluster, accelerator=accelerator))
    other = simulate_training(plan)
    chosen = simulate_training(replace(plan, training=replace(plan.training, recompute="optimal")))
    if other.fits:
        assert chosen.fits
        assert chosen.step_time_s <= other.step_time_s * (1 + 1e-9)
    if not chosen.fits:
        # the least there is
        full = simulate_training(replace(plan, training=replace(plan.training, recompute="full")))
        assert chosen.worst_memory.total <= full.worst_memory.total * (1 + 1e-9)


def test_with_room_for_everything_nothing_is_repeated() -> None:
    plan = plan_of(training__micro_batch_seqs=1)
    found = with_chosen_recompute(plan, load_stack(plan.stack))
    assert found.training.recompute == "32*none"


def test_a_mix_repeats_and_keeps_the_sum_of_its_layers() -> None:
    def bytes_and_repeats(recompute: str) -> tuple[float, float]:
        plan = plan_of(training__recompute=recompute)
        stack_ = load_stack(plan.stack)
        schedule = make_schedule("1f1b", 1, 1, plan.micro_batches)
        (share,) = stage_memory(plan, schedule, memory_facts(stack_))
        return share.activations, simulate_step(plan, stack_).seconds

    mixed = bytes_and_repeats("8*full,24*none")
    assert mixed == bytes_and_repeats("full-8")
    assert simulate_training(plan_of(training__recompute="8*full,24*none")).hfu == (
        simulate_training(plan_of(training__recompute="full-8")).hfu
    )


@pytest.mark.parametrize(
    "name", ["llama3-8b", "gpt3-175b", "mixtral-8x7b", "deepseek-v3", "gemma2-9b"]
)
def test_the_more_is_repeated_the_less_is_kept(name: str) -> None:
    model = load_model(name)
    facts = memory_facts(load_stack("megatron-core"))
    latent = model.attention.kind == "mla"
    for form in {model.form(index) for index in range(model.num_layers)}:

        def stored(policy: str, form: Form = form) -> float:
            layer = kind_activations(
                model, form, 4096, 1, Parallelism(tp=2, sp=True), policy, "bf16", facts
            )
            assert layer.peak_recompute >= 0
            return layer.stored

        modules = [item for item in MODULES if latent or item != "mla-up"]
        for size in range(1, len(modules) + 1):
            for some in combinations(modules, size):
                less = [stored("+".join(set(some) - {item}) or "none") for item in some]
                assert stored("full") < stored("+".join(some)) <= min(less) * (1 + 1e-12)


def test_names() -> None:
    assert policies_of("2*none,3*full,1*none") == ("none", "full")
    assert known_recompute("2*none,3*full")[1].policy_at(2) == "full"
    for wrong in ("2*every-2", "0*none", "2*", "*none", "2*none,", "1*optimal"):
        assert parse_recompute(wrong) is None
    assert len(candidate_policies(latent=False)) == len(set(candidate_policies(latent=False)))


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"training__recompute": "3*none"}, "is for 3 layers; the model has 32"),
        ({"training__offload": ["activations"]}, "take no memory"),
        ({"training__schedule": "zb-h1"}, "whole backward passes"),
        ({"training__task": "lora"}, "not modelled with adapters"),
    ],
)
def test_what_is_not_modelled_is_refused(changes: dict[str, object], line: str) -> None:
    with pytest.raises(InputError) as refused:
        plan_of(**changes)
    assert any(line in problem for problem in refused.value.problems)


def test_the_search_refuses_mixes() -> None:
    space = Space(
        model=load_model("llama3-8b"),
        clusters=(make_cluster("1x8xa100-sxm-80gb"),),
        training=Training(seq_len=2048, global_batch_seqs=64, micro_batch_seqs=1),
        stack="torchtitan",
        recompute=("none", "optimal"),
    )
    with pytest.raises(InputError, match="is not searched"):
        enumerate_plans(space)


def test_from_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    words = "train --model llama3-8b --cluster 1x8xa100-sxm-80gb --seq-len 4096 --global-batch 64"
    arguments = [*words.split(), "--micro-batch", "4", "--zero-stage", "3"]
    assert run([*arguments, "--recompute", "optimal", "--explain"]) == 0
    shown = capsys.readouterr().out
    assert "norms+activation" in shown
