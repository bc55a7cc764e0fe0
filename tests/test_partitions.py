"""ZeRO-3 over slow links: partitions by state, second copies, quantized exchange."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from plans import make_plan
from ridgeline.cli import run
from ridgeline.errors import InputError
from ridgeline.hardware import Cluster, make_cluster
from ridgeline.hardware.cluster import Tier
from ridgeline.simulator import simulate_training
from ridgeline.simulator.collectives import network
from ridgeline.simulator.groups import Group
from ridgeline.simulator.legality import problems
from ridgeline.simulator.memory import memory_facts
from ridgeline.simulator.memory.state import state_bytes
from ridgeline.simulator.operators.build import build_table
from ridgeline.simulator.operators.shape import make_shape
from ridgeline.simulator.partitions import INT4_BYTES, INT8_BYTES, ranks_in_node
from ridgeline.simulator.plan import Plan
from ridgeline.simulator.planfile import read_plan
from ridgeline.simulator.search.space import Space
from ridgeline.simulator.stacks import load_stack
from ridgeline.simulator.weights import WeightExchange, part_parameters, price_weights

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
PLUS_PLUS = {
    "quantized_weights": True,
    "quantized_gradients": True,
    "secondary_shard_size": 8,
}
STACK = replace(load_stack("fsdp-composer"), nccl_bandwidth=1.0, gradient_bytes=2.0)


def slow_nodes(nodes: int, bytes_per_s: float = 1e6) -> Cluster:
    """Join nodes of eight, free to talk inside, by links that dwarf all else."""
    made = make_cluster(f"{nodes}x8xh100-sxm")
    inside = Tier(name="scale-up", size=8, bytes_per_s=1e18, latency_s=0.0, efficiency=1.0)
    between = Tier(
        name="scale-out",
        size=made.count,
        bytes_per_s=bytes_per_s,
        latency_s=0.0,
        efficiency=1.0,
    )
    efficiency = replace(made.accelerator.efficiency, collectives={})
    accelerator = replace(made.accelerator, efficiency=efficiency)
    return replace(made, accelerator=accelerator, tiers=(inside, between))


def exchanged(plan: Plan) -> tuple[WeightExchange, float]:
    """Return the exchange of a plan, and the parameters of its first layer."""
    shape = make_shape(plan, STACK)
    _, parts = build_table(shape, plan.training.recompute)
    exchange = price_weights(plan, parts, shape.groups, network(plan.cluster), STACK)
    return exchange, part_parameters(plan, parts)[0].dense


def in_every_micro_batch(exchange: WeightExchange) -> float:
    return exchange.gather[0] + exchange.regather[0] + exchange.reduce[0]


def test_zero_plus_plus_sends_a_quarter_of_zero_3_between_nodes():
    # Wang et al. 2023, arXiv:2306.10209, table 1: 3 M against 0.75 M
    cluster = slow_nodes(64)
    whole, dense = exchanged(make_plan("llama2-7b", cluster, zero_stage=3))
    less, _ = exchanged(make_plan("llama2-7b", cluster, zero_stage=3, **PLUS_PLUS))
    assert in_every_micro_batch(whole) == pytest.approx(3 * 2 * dense / (8 * 1e6), rel=0.01)
    assert in_every_micro_batch(less) / in_every_micro_batch(whole) == pytest.approx(0.25, rel=0.01)


def test_each_part_of_zero_plus_plus_saves_what_its_closed_form_says():
    cluster, nodes, rate = slow_nodes(16), 16, 8 * 1e6
    ranks = 8 * nodes

    def only(**settings: object) -> tuple[WeightExchange, float]:
        return exchanged(make_plan("llama2-7b", cluster, zero_stage=3, **settings))

    narrow, dense = only(quantized_weights=True)
    ring = (ranks - 1) / ranks / rate
    assert narrow.gather[0] == pytest.approx(dense * INT8_BYTES * ring, rel=1e-4)
    assert narrow.regather[0] == narrow.gather[0]
    near, _ = only(secondary_shard_size=8)
    assert near.gather[0] == pytest.approx(2 * dense * ring, rel=1e-6)
    assert near.regather[0] < 1e-6 * near.gather[0]
    hops, _ = only(quantized_gradients=True)
    across = (nodes - 1) / nodes / rate
    assert hops.reduce[0] == pytest.approx(dense * INT4_BYTES * across, rel=1e-4)


def test_partitions_in_a_node_leave_one_exchange_a_step_between_nodes():
    nodes = 16
    plan = make_plan(
        "llama2-7b", slow_nodes(nodes), zero_stage=3, weight_shard_size=2, gradient_shard_size=8
    )
    found, dense = exchanged(plan)
    assert in_every_micro_batch(found) < 1e-6 * found.last_reduce[0]
    across = (nodes - 1) / nodes
    assert found.last_reduce[0] == pytest.approx(dense / 8 * 2 * across / 1e6, rel=1e-6)
    # four ranks of a node take part in the gather of each half
    copies = 4 * nodes
    assert found.first_gather[0] == pytest.approx(
        dense / 2 * 2 * (copies - 1) / copies / (4 * 1e6), rel=1e-6
    )


def test_quantizing_costs_its_kernels():
    # links that cost nothing leave the bytes that kernels move: 2 + 1 for the own shard, 1 + 2 back
    cluster = slow_nodes(2, bytes_per_s=1e18)
    found, dense = exchanged(make_plan("llama2-7b", cluster, zero_stage=3, quantized_weights=True))
    moved = dense * (2 + INT8_BYTES) * (1 + 1 / 16)
    fastest = moved / cluster.accelerator.memory_bytes_per_s
    assert fastest < found.gather[0] < 2 * fastest


def test_ranks_of_a_node_are_counted_at_their_stride():
    cluster = make_cluster("4x8xh100-sxm")
    assert ranks_in_node(cluster, Group(32, 1)) == 8
    assert ranks_in_node(cluster, Group(16, 2)) == 4
    assert ranks_in_node(cluster, Group(4, 8)) == 1


def test_partitions_and_the_second_copy_take_the_memory_of_their_ranks():
    facts = memory_facts(load_stack("deepspeed-zero3"))

    def held(**settings: int) -> tuple[float, float, float]:
        parallel = make_plan("llama2-7b", "8x8xh100-sxm", zero_stage=3, **settings).parallel
        state = state_bytes(
            64e9, parallel=parallel, precision="fp16", optimizer="adam", facts=facts
        )
        return state.weights, state.gradients, state.optimizer

    plain = held()
    assert plain[0] == 2e9
    second = held(secondary_shard_size=8)
    assert second == (2e9 + 16e9, plain[1], plain[2])
    levels = held(weight_shard_size=2, gradient_shard_size=8)
    assert levels == (64e9, 8 * plain[1], plain[2])


def test_predicted_memory_counts_the_second_copy():
    plan = make_plan("llama2-7b", "4x8xh100-sxm", zero_stage=3, stack="fsdp-composer")
    near = replace(plan, parallel=replace(plan.parallel, secondary_shard_size=8))
    weights = [simulate_training(p).worst_memory.weights for p in (plan, near)]
    assert weights[1] == pytest.approx(5 * weights[0])


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"quantized_weights": True}, "needs zero_stage = 3"),
        ({"zero_stage": 3, "secondary_shard_size": 3}, "does not divide the 32 ranks"),
        ({"zero_stage": 3, "secondary_shard_size": 32}, "saves nothing"),
        ({"zero_stage": 3, "weight_shard_size": -1}, "must be at least 0"),
        ({"zero_stage": 3, "quantized_gradients": True, "precision": "fp32"}, "16-bit"),
        ({"zero_stage": 3, "quantized_gradients": True, "lora_rank": 8}, "adapters"),
        ({"zero_stage": 3, "gradient_shard_size": 8, "model": "mixtral-8x7b"}, "experts"),
        (
            {"zero_stage": 3, "gradient_shard_size": 8, "schedule": "dualpipe", "pp": 2},
            "holds the weights twice",
        ),
    ],
)
def test_what_is_not_modelled_is_refused(settings, line):
    plan = make_plan(cluster="4x8xh100-sxm", micro_batches=4, **settings)
    assert any(line in problem for problem in problems(plan)), problems(plan)


def test_search_refuses_what_it_does_not_keep():
    plan = make_plan(zero_stage=3, quantized_weights=True)
    with pytest.raises(InputError, match="quantized_weights: a search"):
        Space(
            model=plan.model,
            clusters=(plan.cluster,),
            training=plan.training,
            stack=plan.stack,
            parallel=plan.parallel,
        )


def test_levels_beat_one_second_copy_once_a_step_is_long_enough_to_pay_its_end(capsys):
    path = str(EXAMPLES / "parallel" / "gpt_neox_20b_frontier.toml")
    second_copy = {
        "parallel.weight_shard_size": 0,
        "parallel.gradient_shard_size": 0,
        "parallel.secondary_shard_size": 8,
    }

    def gain(batch: int) -> float:
        over = {"training.global_batch_seqs": batch}
        levels, near = (
            simulate_training(read_plan(path, {**over, **changes})).tokens_per_s
            for changes in ({}, second_copy)
        )
        return levels / near

    assert gain(384) < 1.0 < gain(6144)
    assert run(["train", path, "--explain"]) == 0
    assert "gpt-neox-20b" in capsys.readouterr().out
