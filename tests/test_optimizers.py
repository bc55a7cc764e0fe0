"""Optimizers: state and step against the tables and bounds of their papers."""

from __future__ import annotations

import json

import numpy as np
import pytest

from ridgeline.cli import BAD_INPUT, run
from ridgeline.errors import InputError
from ridgeline.hardware import make_cluster
from ridgeline.simulator.memory import memory_facts, stage_memory
from ridgeline.simulator.optimizers import (
    BY_MATRIX,
    RULES,
    layer_matrices,
    matrix,
    matrix_elements,
    newton_schulz_flops,
    products,
)
from ridgeline.simulator.plan import OPTIMIZERS, Training
from ridgeline.simulator.planfile import read_plan
from ridgeline.simulator.results import TrainingResult
from ridgeline.simulator.search.enumerate import enumerate_plans
from ridgeline.simulator.search.memory import worst_memory_bytes
from ridgeline.simulator.search.pricing import Pricer
from ridgeline.simulator.search.space import Space, plan_at
from ridgeline.simulator.stacks import load_stack
from ridgeline.simulator.step import simulate_step
from ridgeline.simulator.training import simulate_training
from ridgeline.workloads import load_model
from ridgeline.workloads.parameters import parameters

RANK = {"galore": 1024, "apollo": 256}
PLAIN: dict[str, object] = {
    "model.name": "llama-7b",
    "cluster.spec": "1x8xa100-sxm-80gb",
    "training.seq_len": 2048,
    "training.global_batch_seqs": 64,
    "training.micro_batch_seqs": 1,
    "training.recompute": "full",
    "stack.name": "torchtitan",
}


def train(**changes: object) -> TrainingResult:
    plan = PLAIN | {key.replace("__", "."): value for key, value in changes.items()}
    name = str(plan.get("training.optimizer", "adamw"))
    plan.setdefault("training.optimizer_rank", RANK.get(name, 0))
    return simulate_training(read_plan(None, plan))


def optimizer_seconds(result: TrainingResult) -> float:
    return sum(share.seconds for share in result.breakdown if share.group == "optimizer")


def test_every_optimizer_has_a_rule() -> None:
    assert tuple(RULES) == OPTIMIZERS


def test_state_of_one_matrix_is_that_of_the_papers_tables() -> None:
    m, n, r = 4096, 11008, 1024
    item = matrix(m, n)
    # GaLore, arXiv:2403.03507, table 1: mr + 2nr; APOLLO, arXiv:2412.05270, table 1: 2nr
    assert matrix_elements(RULES["galore"], item, r) == m * r + 2 * n * r
    assert matrix_elements(RULES["apollo"], item, r) == 2 * n * r
    assert matrix_elements(RULES["apollo"], item, 1) == 2 * n
    # Adafactor, arXiv:1804.04235, section 3: O(n + m)
    assert matrix_elements(RULES["adafactor"], item, 0) == m + n
    assert matrix_elements(RULES["muon"], item, 0) == m * n
    assert matrix_elements(RULES["adamw"], item, 0) == 2 * m * n


@pytest.mark.parametrize(
    ("width", "tokens", "published"), [(768, 524288, 0.007), (16384, 16_000_000, 0.005)]
)
def test_muon_costs_the_published_share_of_a_step(
    width: int, tokens: int, published: float
) -> None:
    # Jordan et al. 2024, "Muon: an optimizer for hidden layers", runtime: overhead T m / B, 0.7%
    # for NanoGPT's speed run and 0.5% for Llama 405B, over 6 m n B FLOPs of a step
    share = newton_schulz_flops(matrix(width, width)) / (6.0 * width * width * tokens)
    assert share == pytest.approx(5 * width / tokens)
    assert round(share, 3) == published


def test_products_have_the_flops_of_the_closed_form() -> None:
    item = matrix(512, 2048, 3.0)
    flops = sum(2.0 * m * n * k * times for m, n, k, times in products("muon", item, 0))
    assert flops == newton_schulz_flops(item)


@pytest.mark.parametrize("name", ["llama-7b", "mixtral-8x7b", "deepseek-v3", "gpt3-175b"])
def test_matrices_are_nearly_all_weights_of_the_layers(name: str) -> None:
    model = load_model(name)
    count = parameters(model)
    found = 0.0
    for index in range(model.num_layers):
        layer = layer_matrices(model, model.is_moe_layer(index), 1, 1, 1)
        found += sum(item.parameters for item in (*layer.dense, *layer.experts))
    assert found == pytest.approx(count.attention + count.mlp + count.experts, rel=2e-3)


def test_bytes_of_a_parameter() -> None:
    total = parameters(load_model("llama-7b")).total

    def state(name: str, **changes: object) -> float:
        return train(training__optimizer=name, **changes).worst_memory.optimizer / total

    assert state("sgd") == pytest.approx(4)
    assert state("sgd-momentum") == state("lion") == pytest.approx(8)
    assert state("adam-8bit") == pytest.approx(6, rel=1e-3)
    assert state("adamw") == pytest.approx(12)
    assert 4 < state("adafactor") < 4.2
    # without fp32 weights the state has the weights' two bytes
    own = {"training__master_weights": False}
    assert state("adamw", **own) == pytest.approx(4)
    assert state("sgd", **own) == 0
    assert state("lion", **own) == pytest.approx(2)
    # APOLLO-Mini: hardly more than embedding and head under AdamW
    ends = 2 * 2 * 2 * 32000 * 4096 / total
    assert state("apollo", training__optimizer_rank=1, **own) == pytest.approx(ends, rel=0.02)


def test_zero_shares_the_state_out() -> None:
    for name in OPTIMIZERS:
        whole, split = (
            train(training__optimizer=name),
            train(training__optimizer=name, parallel__zero_stage=1),
        )
        assert split.worst_memory.optimizer == pytest.approx(whole.worst_memory.optimizer / 8)
        assert optimizer_seconds(split) < optimizer_seconds(whole)


def test_less_state_takes_less_time_where_there_are_no_products() -> None:
    order = ("sgd", "sgd-momentum", "adamw")
    seconds = [optimizer_seconds(train(training__optimizer=name)) for name in order]
    assert seconds == sorted(seconds)
    assert len(set(seconds)) == 3
    # in the proportion of the bytes moved: 30 with Adam's moments, 14 without
    assert seconds[0] / seconds[2] == pytest.approx(14 / 30, rel=0.01)


def test_muon_gathers_what_zero_has_split() -> None:
    plan = read_plan(None, PLAIN | {"training.optimizer": "muon", "parallel.zero_stage": 1})
    step = simulate_step(plan, load_stack(plan.stack))
    assert "gather momentum" in step.labels
    whole = read_plan(None, PLAIN | {"training.optimizer": "muon"})
    assert "gather momentum" not in simulate_step(whole, load_stack(plan.stack)).labels


def test_int8_weights_take_a_byte_and_a_scale() -> None:
    alone: dict[str, object] = {
        "cluster__spec": "1xa100-sxm-80gb",
        "training__global_batch_seqs": 1,
        "training__master_weights": False,
        "training__optimizer": "apollo",
        "training__optimizer_rank": 1,
    }
    wide, narrow = train(**alone), train(training__int8_weights=True, **alone)
    count = parameters(load_model("llama-7b"))
    layers = count.total - count.embedding - count.head - 4096
    saved = wide.worst_memory.weights - narrow.worst_memory.weights
    assert saved == pytest.approx(layers * (1 - 4 / 256), rel=1e-6)
    assert narrow.step_time_s > wide.step_time_s
    at_once = train(training__int8_weights=True, training__layerwise_update=True, **alone)
    assert at_once.worst_memory.gradients < narrow.worst_memory.gradients / 20
    # Zhu et al. 2025: 7B under 12 GB with int8 weights, at its sequences of 256 tokens
    short = train(
        training__int8_weights=True, training__layerwise_update=True, training__seq_len=256, **alone
    )
    assert short.worst_memory.total < 12 * 2**30


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"training.optimizer": "galore"}, "optimizer_rank = 0: galore projects"),
        ({"training.optimizer_rank": 8}, "adamw has none; leave it out"),
        (
            {"training.optimizer": "apollo", "training.optimizer_rank": 9999},
            "above the hidden size; 4096",
        ),
        (
            {"training.optimizer": "muon", "training.offload": ["optimizer"]},
            "step of muon is not modelled on a CPU",
        ),
        (
            {"training.optimizer": "muon", "training.task": "lora"},
            "is not modelled for adapters",
        ),
        (
            {"training.master_weights": False, "training.precision": "tf32"},
            "precision is 'tf32'",
        ),
        ({"training.int8_weights": True}, "set training.master_weights = false"),
        (
            {
                "training.int8_weights": True,
                "training.master_weights": False,
                "parallel.zero_stage": 3,
            },
            "zero_stage = 0 is",
        ),
        ({"training.layerwise_update": True}, "global_batch_seqs = 8 is one"),
        (
            {"training.layerwise_update": True, "parallel.zero_stage": 2},
            "whole weights on one stage",
        ),
    ],
)
def test_what_is_not_modelled_is_refused_in_one_line(changes: dict[str, object], line: str) -> None:
    with pytest.raises(InputError) as refused:
        read_plan(None, PLAIN | changes)
    (problem,) = [text for text in refused.value.problems if line in text]
    assert "\n" not in problem


def test_the_search_refuses_what_it_does_not_know() -> None:
    for changes in (
        {"optimizer": "muon"},
        {"master_weights": False},
        {"layerwise_update": True},
    ):
        space = Space(
            model=load_model("llama-7b"),
            clusters=(make_cluster("1x8xa100-sxm-80gb"),),
            training=Training(
                seq_len=2048,
                global_batch_seqs=64,
                micro_batch_seqs=1,
                **changes,  # type: ignore[arg-type]
            ),
            stack="torchtitan",
        )
        with pytest.raises(InputError, match="price a plan with train"):
            enumerate_plans(space)
    assert "muon" in BY_MATRIX


@pytest.mark.parametrize("name", ["sgd", "sgd-momentum", "lion", "adam-8bit"])
def test_the_search_prices_the_others_as_they_are_played(name: str) -> None:
    space = Space(
        model=load_model("llama-7b"),
        clusters=(make_cluster("1x8xa100-sxm-80gb"),),
        training=Training(seq_len=2048, global_batch_seqs=64, micro_batch_seqs=1, optimizer=name),
        stack="megatron-core",
        micro_batch_seqs=(1, 2),
        recompute=("none", "qkv+mlp"),
        offload=((), ("optimizer",)),
    )
    found = enumerate_plans(space)
    rows = np.arange(0, len(found), max(1, len(found) // 12))
    few = found.take(rows)
    pricer, stack_ = Pricer(space), load_stack(space.stack)
    seconds, least = pricer.step_seconds(few), pricer.lower_bound(few)
    worst = worst_memory_bytes(space, few)
    for row in range(len(few)):
        plan = plan_at(space, few, row)
        step = simulate_step(plan, stack_)
        assert seconds[row] == pytest.approx(step.seconds)
        assert least[row] <= step.seconds
        shares = stage_memory(plan, step.schedule, memory_facts(stack_))
        assert worst[row] == pytest.approx(max(share.total for share in shares))


def test_from_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    words = "train --model llama-7b --cluster 1x8xa100-sxm-80gb --seq-len 2048 --global-batch 64"
    assert run([*words.split(), "--optimizer", "muon", "--zero-stage", "1", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["plan"]["training"]["optimizer"] == "muon"
    assert run([*words.split(), "--optimizer", "galore"]) == BAD_INPUT
    assert "optimizer_rank" in capsys.readouterr().err
