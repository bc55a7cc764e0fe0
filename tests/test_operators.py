"""Operators of a step: their FLOPs and messages against closed forms of the literature."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from itertools import combinations_with_replacement, pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plans import flat_cluster, make_plan
from ridgeline.simulator.blocks import compositions
from ridgeline.simulator.collectives import layout as wire
from ridgeline.simulator.collectives import network
from ridgeline.simulator.costs import price_table
from ridgeline.simulator.groups import make_groups
from ridgeline.simulator.operators.build import build_table
from ridgeline.simulator.operators.moe import rank_load
from ridgeline.simulator.operators.shape import make_shape
from ridgeline.simulator.operators.table import (
    BACKWARD,
    COLLECTIVE,
    FORWARD,
    GROUPS,
    PHASES,
    RECOMPUTE,
    WEIGHT,
)
from ridgeline.simulator.plan import PLACEMENT, Parallelism, Plan
from ridgeline.simulator.planfile import read_plan
from ridgeline.simulator.recompute import MODULES, POLICIES, known_recompute, parse_recompute
from ridgeline.simulator.roofline.layout import (
    ATTENTION_BACKWARD,
    ATTENTION_FORWARD,
    BF16,
    FP4,
    FP8,
    GEMM,
    GROUPED_GEMM,
    MEMORY,
)
from ridgeline.simulator.stacks import Stack, load_stack
from ridgeline.simulator.stages import balanced_layers, stage_layers
from ridgeline.simulator.step import simulate_step
from ridgeline.simulator.weights import WeightExchange, part_parameters, price_weights
from ridgeline.workloads import load_model
from ridgeline.workloads.flops import ForwardFlops, forward_flops, mean_keys
from ridgeline.workloads.model import MoE
from ridgeline.workloads.parameters import parameters


class Table:
    """The operator table of a plan, with how often the whole model runs each part."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.stack = load_stack(plan.stack)
        self.shape = make_shape(plan, self.stack)
        self.rows, self.parts = build_table(self.shape, plan.training.recompute)
        self.times = Counter(
            part
            for slice_ in compositions(plan, self.parts)
            for unit in slice_.units
            for part in unit
        )

    def flops_per_token(self, *phases: int) -> float:
        """Matrix FLOPs of all ranks for one micro-batch, over its tokens, scores as computed."""
        total = 0.0
        for row in range(len(self.rows)):
            if self.rows.phase[row] in phases and self.rows.kind[row] != COLLECTIVE:
                flops = matrix_flops(int(self.rows.kind[row]), self.rows.dims[row].tolist())
                total += flops * self.times[int(self.rows.part[row])]
        p, t = self.plan.parallel, self.plan.training
        return total * p.tp * p.cp / (t.micro_batch_seqs * t.seq_len)

    def messages(self, group: str, *, part: int = 0) -> list[tuple[int, int, float, int]]:
        """Return (phase, operation, bytes, ranks) of the collectives of one part."""
        rows = self.rows
        return [
            (int(rows.phase[r]), int(rows.operation[r]), float(rows.message[r]), int(rows.size[r]))
            for r in range(len(rows))
            if rows.kind[r] == COLLECTIVE
            and rows.part[r] == part
            and GROUPS[rows.group[r]] == group
        ]

    def priced(self):
        plan = self.plan
        net = network(plan.cluster)
        return price_table(
            self.rows,
            plan.cluster.accelerator,
            net,
            self.stack,
            [plan.model.is_moe_layer(index) for index, _ in self.parts.kinds],
        )


def model_flops(table: Table) -> ForwardFlops:
    """Return the model's own count; an unfused kernel computes the masked scores too."""
    plan = table.plan
    convention = "full" if table.stack.attention == "unfused" else "causal"
    return forward_flops(plan.model, plan.training.seq_len, convention)


def matrix_flops(kind: int, dims: list[int]) -> float:
    if kind == GEMM:
        return 2.0 * dims[0] * dims[1] * dims[2] * dims[3]
    if kind == GROUPED_GEMM:  # m counts the tokens of all groups
        return 2.0 * dims[0] * dims[1] * dims[2]
    if kind in (ATTENTION_FORWARD, ATTENTION_BACKWARD):
        batch, heads, _, queries, keys, head_dim, v_head_dim, window, causal = dims
        met = mean_keys(keys, window, "causal") if causal else keys
        forward = 2.0 * batch * heads * queries * met * (head_dim + v_head_dim)
        # four products of gradients behind two; the scores that a fused kernel computes again are
        # no model FLOPs
        return forward if kind == ATTENTION_FORWARD else 2.0 * forward
    return 0.0


# FLOPs -----------------------------------------------------------------------------------------

WHOLE = [
    {"model": "llama2-7b"},
    {"model": "llama2-7b", "tp": 4, "sp": True},
    {"model": "llama2-7b", "cp": 4},
    {"model": "llama2-7b", "pp": 2, "vpp": 4, "tp": 2},
    {"model": "llama3-8b", "tp": 2, "cp": 2},
    {"model": "llama3-8b", "cp": 4, "cp_kind": "ulysses", "tp": 2},
    {"model": "mixtral-8x7b", "ep": 4},
    {"model": "mixtral-8x7b", "ep": 4, "tp": 2, "sp": True},
    {"model": "mixtral-8x7b", "ep": 2, "tp": 4, "etp": 1, "sp": True},
    {"model": "deepseek-v2", "ep": 8},
    {"model": "deepseek-v3", "ep": 8, "precision": "fp8", "stack": "hai-llm"},
    {"model": "gemma2-9b", "tp": 2, "seq_len": 8192},
    {"model": "gemma2-9b", "cp": 4, "seq_len": 8192},
    {"model": "gpt3-175b", "tp": 8, "sp": True, "stack": "megatron-2021"},
]


@pytest.mark.parametrize("split", WHOLE, ids=str)
def test_matrix_flops_of_all_ranks_are_those_of_the_model(split):
    plan = make_plan(**split)
    table = Table(plan)
    model = model_flops(table)
    # a vocabulary that does not divide over the tensor ranks is cut down to one that does
    cut = 2.0 * plan.model.hidden * (plan.model.vocab % plan.parallel.tp)
    assert table.flops_per_token(FORWARD) == pytest.approx(model.total - cut, rel=1e-12)
    # the weight gradient of an expert is a product over its own, whole number of tokens
    moe = plan.model.moe
    tokens = table.shape.tokens * moe.top_k // moe.num_experts if moe else 0
    backward = table.flops_per_token(BACKWARD, WEIGHT)
    rounding = 1e-12 if moe is None else 1.0 / tokens
    assert backward == pytest.approx(2.0 * (model.total - cut), rel=rounding)
    assert table.flops_per_token(RECOMPUTE) == 0.0


@pytest.mark.parametrize("sp", [False, True])
def test_tensor_ranks_repeat_the_down_projections_of_latent_attention(sp):
    # the latents (and the projection of the prediction module) are not split over heads: every
    # tensor rank computes them whole, unless the sequence is split between the ranks
    plan = make_plan("deepseek-v3", tp=2, ep=4, sp=sp)
    a, h = plan.model.attention, plan.model.hidden
    modules = plan.model.num_layers + plan.model.num_mtp_layers
    repeated = modules * 2.0 * h * (a.q_lora_rank + a.kv_lora_rank + a.rope_head_dim)
    repeated += plan.model.num_mtp_layers * 2.0 * 2 * h * h
    table = Table(plan)
    model = model_flops(table).total + (0.0 if sp else repeated)
    assert table.flops_per_token(FORWARD) == pytest.approx(model, rel=1e-12)


@pytest.mark.parametrize("model", ["llama2-7b", "mixtral-8x7b", "gemma2-9b"])
def test_full_recomputation_runs_every_layer_once_more(model):
    table = Table(make_plan(model, recompute="full", tp=2))
    layers = model_flops(table).layers
    assert table.flops_per_token(RECOMPUTE) == pytest.approx(layers, rel=1e-12)


def test_selective_recomputation_runs_the_scores_once_more():
    # Korthikanti et al. 2022, arXiv 2205.05198, section 5
    table = Table(make_plan("gpt3-175b", tp=8, recompute="selective", stack="megatron-2021"))
    scores = model_flops(table).attention_scores
    assert table.flops_per_token(RECOMPUTE) == pytest.approx(scores, rel=1e-12)


def test_every_second_layer_recomputes_half():
    full = Table(make_plan(recompute="full")).flops_per_token(RECOMPUTE)
    half = Table(make_plan(recompute="every-2")).flops_per_token(RECOMPUTE)
    first = Table(make_plan(recompute="full-3", pp=4)).flops_per_token(RECOMPUTE)
    assert half == pytest.approx(full / 2)
    assert first == pytest.approx(full * 3 * 4 / 32)  # 3 layers of each of 4 stages, of 32


def test_unfused_attention_computes_masked_scores_and_fused_attention_does_not():
    fused = Table(make_plan("gpt3-175b", tp=8, stack="megatron-core"))
    unfused = Table(make_plan("gpt3-175b", tp=8, stack="megatron-2021"))
    kinds = set(fused.rows.kind.tolist())
    assert ATTENTION_FORWARD in kinds
    assert ATTENTION_FORWARD not in set(unfused.rows.kind.tolist())
    flags = fused.rows.dims[fused.rows.kind == ATTENTION_FORWARD][:, 8]
    assert (flags == 1).all()


@pytest.mark.parametrize(("precision", "dtype"), [("fp8", FP8), ("fp4", FP4)])
def test_quantised_training_casts_and_its_attention_and_head_stay_in_bf16(precision, dtype):
    plain, quantised = (Table(make_plan(precision=name)).rows for name in ("bf16", precision))
    assert "cast" not in {GROUPS[g] for g in plain.group}
    assert "cast" in {GROUPS[g] for g in quantised.group}
    for row, name in enumerate(quantised.names):
        if quantised.kind[row] in (GEMM, GROUPED_GEMM):
            expected = BF16 if name.startswith("head") else dtype
            assert quantised.dtype[row] == expected, name
        elif quantised.kind[row] != COLLECTIVE:
            assert quantised.dtype[row] == BF16, name


def test_quantising_to_four_bits_reads_the_operand_once_more_and_writes_less():
    eight, four = (Table(make_plan(precision=name)).rows for name in ("fp8", "fp4"))
    cast = eight.names.index("qkv cast")
    elements = eight.extra[cast, 0] / (0.5 * load_stack("megatron-core").fp8_cast_bytes)
    more = four.extra[four.names.index("qkv cast"), 0] - eight.extra[cast, 0]
    # read in bf16 for the largest value; rows and columns written at 0.5625 bytes instead of 1
    assert more == pytest.approx(elements * (2 - 2 * (1 - 0.5625)))


@pytest.mark.parametrize("precision", ["fp8", "fp4"])
def test_frozen_weights_ask_for_no_copy_by_columns(precision):
    plan = make_plan(precision=precision, lora_rank=16)
    whole = Table(make_plan(precision=precision)).rows
    frozen = Table(plan).rows
    cast, alone = (rows.extra[rows.names.index("qkv cast"), 0] for rows in (whole, frozen))
    elements = plan.training.micro_batch_seqs * plan.training.seq_len * plan.model.hidden
    once = 0.5 * load_stack("megatron-core").fp8_cast_bytes * elements
    # of two read and two written bytes in fp8 one is not written; in fp4 neither is its saving
    saved = {"fp8": 0.25 * once, "fp4": 0.25 * once - (1.0 - 0.5625) * elements}
    assert cast - alone == pytest.approx(saved[precision])


@pytest.mark.parametrize(("precision", "moved"), [("fp16", 2 + 2 + 2), ("bf16", 2 + 4 + 4 + 4 + 4)])
def test_gradients_that_no_product_sums_are_summed_by_kernels_behind_them(precision, moved):
    # fp16: reads gradient and sum, writes the sum; bf16: a cast to fp32, then the same in fp32
    plan = make_plan(
        "gpt3-175b", "8x8xa100-sxm-80gb", "megatron-deepspeed", tp=8, pp=8, precision=precision
    )
    table = Table(plan)
    sums = [i for i, name in enumerate(table.rows.names) if name.endswith("gradient sum")]
    h, vocab = plan.model.hidden, plan.model.vocab
    layer = sum(table.rows.extra[i, 0] for i in sums if table.rows.part[i] == 0)
    assert layer == pytest.approx(moved * 12 * h * h / 8, rel=1e-6)
    ends = sum(table.rows.extra[i, 0] for i in sums if table.rows.part[i] > 0)
    assert ends == pytest.approx(moved * 2 * vocab * h / 8, rel=1e-3)
    assert all(table.rows.phase[i] == WEIGHT and table.rows.kind[i] == MEMORY for i in sums)
    fused = Table(replace(plan, stack="megatron-2021"))
    assert not any(name.endswith("gradient sum") for name in fused.rows.names)


def test_experts_get_the_tokens_of_their_busiest_rank():
    even = MoE(num_experts=8, top_k=2, ffn_hidden=64)
    assert rank_load(even, 4) == (1.0, 1.0)
    skewed = replace(even, load=(4.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 2.0))
    # ranks hold two experts: loads 5, 2, 2, 3 of 12, mean 3; the busiest expert has 4 of 5 / 2
    assert rank_load(skewed, 4) == (pytest.approx(5 / 3), pytest.approx(1.6))
    capped = replace(skewed, capacity_factor=1.25)
    assert rank_load(capped, 4) == (1.0, 1.0)  # tokens beyond the capacity are dropped


def test_a_skewed_histogram_makes_experts_slower():
    model = load_model("mixtral-8x7b")
    load = (3.0, *[1.0] * 7)
    skewed = replace(model, moe=replace(model.moe, load=load))
    seconds = [
        Table(make_plan(m, ep=8)).priced().seconds[0, FORWARD, GROUPS.index("moe")]
        for m in (model, skewed)
    ]
    # 3 of 10 instead of 1 of 8 assignments: 2.4 times the products, permutation as before
    assert 1.5 * seconds[0] < seconds[1] < 2.4 * seconds[0]


def test_a_routed_layer_lasts_as_long_as_its_host_issues_it():
    plan = make_plan(
        "qwen3-30b-a3b", "1x8xb200-sxm", "megatron-core", ep=8, seq_len=256, precision="fp8"
    )
    costs = Table(plan).priced()
    stack = load_stack(plan.stack)
    # 16 experts: 2 products of each forward and 2 input gradients, behind 3 kernels that quantise
    # what they read; weight gradients read the same again. 536 operators in all
    casts = 1.0 + stack.cast_operators
    forward = stack.routed_operators + 16 * 2 * casts
    backward = stack.routed_operators + 16 * (2 * casts + 2)
    assert forward + backward == 536.0
    for phases, wanted in (((FORWARD,), forward), ((RECOMPUTE, BACKWARD, WEIGHT), backward)):
        lasts = sum(costs.total_s[0][phase] for phase in phases)
        serial = stack.host_layer_s + stack.moe_host_s
        assert lasts - serial == pytest.approx(wanted * stack.operator_s, rel=1e-9)


def test_only_short_passes_over_experts_of_unknown_shape_wait_for_the_host():
    def host(model="qwen3-30b-a3b", cluster="1x8xb200-sxm", **settings):
        plan = make_plan(model, cluster, "megatron-bridge", ep=8, **settings)
        return Table(plan).priced().host[0].sum()

    stack = load_stack("megatron-bridge")
    serial = 2.0 * (stack.host_layer_s + stack.moe_host_s)
    assert host(micro_batch_seqs=16) == pytest.approx(serial)
    waits = host(seq_len=256) - serial
    assert waits > 0.0
    # Grace issues slower, but graphs replay what does not depend on the routing
    graphed = host(cluster="2x4xgb200", seq_len=256) - serial
    slowness = make_plan(cluster="1x4xgb200").cluster.accelerator.host_time
    assert 0.0 < graphed < slowness * waits
    model = load_model("qwen3-30b-a3b")
    padded = replace(model, moe=replace(model.moe, capacity_factor=1.0))
    dropped, kept = (
        simulate_step(make_plan(m, "1x8xb200-sxm", ep=8, seq_len=256), stack).seconds
        for m in (padded, model)
    )
    assert dropped < 0.5 * kept


def test_biases_and_clamps_of_experts_move_their_bytes():
    plan = make_plan("gpt-oss-20b", "1x8xh100-sxm", "megatron-core", ep=8)
    table = Table(plan)
    model, stack = plan.model, table.stack

    def moved(name, phase):
        rows = [i for i, n in enumerate(table.rows.names) if n == name]
        rows = [i for i in rows if table.rows.phase[i] == phase and table.rows.part[i] == 0]
        assert len(rows) == 1
        return table.rows.extra[rows[0], 0]

    pairs = 4096 * model.moe.top_k
    wanted = pairs * model.hidden * stack.expert_bias_bytes
    assert moved("experts bias", FORWARD) == pytest.approx(wanted)
    wanted = 2 * pairs * model.moe.ffn_hidden * stack.clamp_passes
    assert moved("experts clamp", FORWARD) == pytest.approx(wanted)
    plain = replace(model, moe=replace(model.moe, expert_bias=False, clamped=False))
    names = Table(replace(plan, model=plain)).rows.names
    assert not any(name.startswith(("experts bias", "experts clamp")) for name in names)


def test_fused_experts_neither_pass_their_activations_twice_nor_quantise_them_apart():
    settings = {"model": "qwen3-30b-a3b", "ep": 8, "precision": "fp8"}
    apart, fused = (
        set(Table(make_plan(stack=name, **settings)).rows.names)
        for name in ("megatron-bridge", "megatron-bridge-2026")
    )
    assert apart - fused == {
        "experts activation",
        "experts activation gradient",
        "experts down cast",
        "experts up dgrad cast",
    }


# Messages --------------------------------------------------------------------------------------


def test_tensor_parallel_layers_reduce_four_times():
    # Shoeybi et al. 2019, arXiv 1909.08053, section 3: two all-reduces forward, two backward
    plan = make_plan(tp=8)
    b, s, h = 1, plan.training.seq_len, plan.model.hidden
    found = Table(plan).messages("tp")
    assert [(phase, op) for phase, op, *_ in found] == (
        [(FORWARD, wire.ALL_REDUCE)] * 2 + [(BACKWARD, wire.ALL_REDUCE)] * 2
    )
    assert {moved for _, _, moved, _ in found} == {2.0 * b * s * h}
    assert {size for *_, size in found} == {8}


def test_sequence_parallel_layers_gather_and_scatter_as_many_bytes():
    # Korthikanti et al. 2022, arXiv 2205.05198, section 4.2.2: four all-gathers and four
    # reduce-scatters in place of four all-reduces, each of which is one of both on the wire, and
    # the saved slices of the two inputs are gathered again in the backward pass
    plan = make_plan(tp=8, sp=True)
    found = Table(plan).messages("tp")
    counts = Counter((phase, op) for phase, op, *_ in found)
    assert counts == {
        (FORWARD, wire.ALL_GATHER): 2,
        (FORWARD, wire.REDUCE_SCATTER): 2,
        (BACKWARD, wire.ALL_GATHER): 2,
        (BACKWARD, wire.REDUCE_SCATTER): 2,
        (WEIGHT, wire.ALL_GATHER): 2,
    }
    whole = 2.0 * plan.training.seq_len * plan.model.hidden
    assert {moved for _, _, moved, _ in found} == {whole}


def test_parallel_blocks_share_their_collectives():
    # attention and MLP read one input and add up before one reduction (Wang and Komatsuzaki 2021)
    found = Table(make_plan("falcon-7b", "1x8xh100-sxm", tp=1, dp=8)).messages("tp")
    assert found == []
    model = replace(load_model("llama2-7b"), parallel_block=True)
    counts = Counter(phase for phase, *_ in Table(make_plan(model, tp=8)).messages("tp"))
    assert counts == {FORWARD: 1, BACKWARD: 1}


def test_full_recomputation_repeats_the_forward_collectives():
    found = Table(make_plan(tp=8, recompute="full")).messages("tp")
    forward = [(op, moved) for phase, op, moved, _ in found if phase == FORWARD]
    again = [(op, moved) for phase, op, moved, _ in found if phase == RECOMPUTE]
    assert forward == again


@pytest.mark.parametrize(("tp", "sp"), [(1, False), (2, True)])
def test_routed_layers_exchange_tokens_four_times(tp, sp):
    # every token once to each of its k experts and back, forward and backward (Lepikhin et al.
    # 2020, GShard, arXiv 2006.16668)
    plan = make_plan("mixtral-8x7b", ep=4, tp=tp, etp=1, sp=sp)
    moe = plan.model.moe
    tokens = plan.training.seq_len / tp
    found = Table(plan).messages("ep")
    assert [op for _, op, *_ in found] == [wire.ALL_TO_ALL] * 4
    assert [phase for phase, *_ in found] == [FORWARD, FORWARD, BACKWARD, BACKWARD]
    assert {moved for _, _, moved, _ in found} == {2.0 * tokens * plan.model.hidden * moe.top_k}
    assert {size for *_, size in found} == {4}


@settings(max_examples=40, deadline=None)
@given(
    nodes=st.sampled_from([2, 4, 8, 16]),
    top_k=st.integers(1, 8),
    groups=st.sampled_from([0, 1, 2, 4]),
)
def test_dispatch_by_node_never_sends_more_between_nodes(nodes, top_k, groups):
    # DeepSeek-V3, arXiv 2412.19437, section 3.2.2: a token crosses to a node once
    model = load_model("deepseek-v3")
    moe = replace(
        model.moe,
        top_k=top_k,
        groups=8,
        top_groups=groups,
        num_shared_experts=0,
        shared_ffn_hidden=0,
    )
    plan = make_plan(replace(model, moe=moe), f"{nodes}x8xh800-sxm", ep=8 * nodes, stack="hai-llm")
    by_node = Table(plan)
    # the last part is a routed layer; the first ones of this model are dense
    part = len(by_node.parts.kinds) - 1
    plain = Table(replace(plan, stack="megatron-core"))

    def between_nodes(table: Table) -> float:
        """Bytes that leave the node of a rank: all that is not for its own node."""
        crossing = 0.0
        for _, _, moved, size in table.messages("ep", part=part):
            if size == 8 * nodes or size == nodes != 8:
                crossing += moved * (nodes - 1) / nodes
        return crossing

    if nodes != 8:  # where a node has as many ranks as there are nodes, sizes do not tell
        assert between_nodes(by_node) <= between_nodes(plain) * (1 + 1e-12)
    total = [sum(t.priced().alone[t.rows.group == GROUPS.index("ep")]) for t in (by_node, plain)]
    assert total[0] <= total[1] * (1 + 1e-9)


def test_by_node_sends_a_token_once_to_each_node_it_reaches():
    # top 8 experts at random over 4 nodes: 4 (1 - (3/4)^8) nodes
    plan = make_plan("deepseek-v3", "32x8xh800-sxm", ep=256, stack="hai-llm")
    table = Table(plan)
    part = len(table.parts.kinds) - 1
    reached = 4 * (1 - 0.75**8)  # the model limits a token to 4 nodes (section 2.1.2)
    expected = plan.training.seq_len * plan.model.hidden * 2.0 * reached
    assert {round(moved) for _, _, moved, _ in table.messages("ep", part=part)} == {round(expected)}


def test_ring_attention_passes_keys_and_values_around():
    # Liu et al. 2023, arXiv 2310.01889: cp - 1 blocks of keys and values, and their gradients
    plan = make_plan("llama3-8b", cp=4, dp=2)
    a = plan.model.attention
    block = plan.training.seq_len / 4 * a.kv_heads * 2 * a.head_dim * 2.0
    found = Table(plan).messages("cp")
    assert found == [
        (FORWARD, wire.SEND_RECV, 3 * block, 4),
        (BACKWARD, wire.SEND_RECV, 6 * block, 4),
    ]


def test_ulysses_exchanges_heads_for_sequence():
    # Jacobs et al. 2023, arXiv 2309.14509, section 3.2: query, key and value, then the output, of
    # N/P tokens; with multi-head attention 4 N h / P elements
    plan = make_plan("llama2-7b", cp=4, cp_kind="ulysses", dp=2)
    elements = plan.training.seq_len / 4 * plan.model.hidden
    found = Table(plan).messages("cp")
    for phase in (FORWARD, BACKWARD):
        moved = [m for p, op, m, _ in found if p == phase and op == wire.ALL_TO_ALL]
        assert sum(moved) == 4 * elements * 2.0


def test_context_ranks_share_the_causal_scores_evenly():
    # a piece from either end of the sequence for each rank (zigzag; Megatron-Core, Llama 3,
    # arXiv 2407.21783, section 3.3.2), so that none waits for the one with the latest tokens
    one, many = (
        Table(make_plan("llama3-8b", cp=cp, seq_len=65536)).priced().seconds[0, FORWARD]
        for cp in (1, 8)
    )
    core = GROUPS.index("attention")
    assert many[core] == pytest.approx(one[core] / 8, rel=0.1)


def test_groups_of_one_send_nothing():
    table = Table(make_plan("mixtral-8x7b", "1x1xh100-sxm"))
    assert not (table.rows.kind == COLLECTIVE).any()


# Recomputation ---------------------------------------------------------------------------------

NESTED = ["none", "norms", "norms+activation", "minimal", "save-qkv-proj", "full"]


@pytest.mark.parametrize("model", ["llama2-7b", "mixtral-8x7b", "deepseek-v2"])
def test_a_policy_that_keeps_less_recomputes_longer(model):
    ways = {"ep": 8} if model != "llama2-7b" else {"tp": 2}
    seconds = []
    for policy in NESTED:
        priced = Table(make_plan(model, recompute=policy, **ways)).priced()
        seconds.append(sum(row[RECOMPUTE] for row in priced.total_s))
    assert seconds[0] == 0.0
    assert seconds == sorted(seconds)
    assert len(set(seconds)) == len(seconds)


def test_recomputation_never_changes_the_other_phases():
    priced = {
        name: Table(make_plan("mixtral-8x7b", ep=8, recompute=name)).priced() for name in POLICIES
    }
    for costs in priced.values():
        for phase in (FORWARD, BACKWARD, WEIGHT):
            assert costs.total_s[0][phase] == pytest.approx(priced["none"].total_s[0][phase])


def test_policies_and_scopes_are_read():
    assert parse_recompute("nonsense") is None
    assert parse_recompute("every-0") is None
    assert parse_recompute("norms+norms") is None
    for name, policy in POLICIES.items():
        assert known_recompute(name)[0] == policy
        assert known_recompute(name)[1].covers(0, 0) == policy.anything
    assert POLICIES["full"].everything
    union, scope = known_recompute("+".join(MODULES))
    assert (union.core, union.norms, union.activation, union.latent) == (True,) * 4
    assert (union.qkv, union.mlp, union.output) == (True, True, False)
    assert scope.mode == "all"
    _, every = known_recompute("every-3")
    assert [every.covers(i, 0) for i in range(6)] == [True, False, False] * 2
    _, first = known_recompute("full-2")
    assert [first.covers(9, i) for i in range(4)] == [True, True, False, False]


# Pricing ---------------------------------------------------------------------------------------


def test_parts_add_up_to_their_rows_and_overlap_only_takes_off():
    table = Table(make_plan("mixtral-8x7b", tp=2, ep=4, sp=True))
    costs = table.priced()
    assert (costs.chained <= costs.alone * (1 + 1e-12)).all()
    work = table.rows.kind != COLLECTIVE
    assert np.array_equal(costs.chained[work], costs.alone[work])
    assert (costs.alone > 0).all()
    for part in range(len(costs.total_s)):
        for phase in range(len(PHASES)):
            rows = (table.rows.part == part) & (table.rows.phase == phase)
            expected = costs.chained[rows].sum() + costs.host[part, phase]
            assert costs.total_s[part][phase] == pytest.approx(expected, rel=1e-12)


def test_a_collective_hides_no_more_than_the_stack_says_and_than_computation_covers():
    plan = make_plan(tp=4, sp=True)
    table = Table(plan)
    costs = table.priced()
    rows = (table.rows.kind == COLLECTIVE) & (table.rows.phase == FORWARD) & (table.rows.part == 0)
    share = costs.chained[rows].sum() / costs.alone[rows].sum()
    slowdown = table.stack.overlap_slowdown
    assert share == pytest.approx(1.0 - table.stack.tp_overlap * (1.0 - slowdown))
    # weak links: the part that may overlap outlasts the computation and shows
    slow = Table(make_plan(tp=8, sp=True, cluster=flat_cluster("8xh100-sxm", 1e9)))
    costs = slow.priced()
    work = (slow.rows.kind != COLLECTIVE) & (slow.rows.phase == FORWARD) & (slow.rows.part == 0)
    rows = (slow.rows.kind == COLLECTIVE) & (slow.rows.phase == FORWARD) & (slow.rows.part == 0)
    wanted = costs.alone[rows].sum()
    hidden = costs.alone[work].sum()
    assert hidden < wanted * slow.stack.tp_overlap
    assert costs.chained[rows].sum() == pytest.approx(wanted - hidden * (1.0 - slowdown))


@pytest.mark.parametrize("sp", [False, True])
def test_reductions_of_input_gradients_hide_behind_weight_gradients(sp):
    plan = make_plan("gpt3-175b", tp=8, sp=sp, stack="megatron-2022")
    table = Table(plan)
    costs = table.priced()
    wire_rows = table.rows.kind == COLLECTIVE
    layer = table.rows.part == 0
    backward = wire_rows & layer & (table.rows.phase == BACKWARD)
    entering = backward & (table.rows.overlap > 0.0)
    # one in front of attention, one in front of the MLP; the gathers of sequence parallelism stay
    assert entering.sum() == 2
    assert backward.sum() == (4 if sp else 2)
    for row in np.flatnonzero(entering):
        product = table.rows.names[row].replace("gradient reduce", "wgrad")
        product = product.replace("mlp", "mlp up")
        beside = table.rows.names.index(product)
        expected = max(0.0, costs.alone[row] - costs.alone[beside])
        assert costs.chained[row] == pytest.approx(expected, abs=1e-12)
    forward = wire_rows & layer & (table.rows.phase == FORWARD)
    assert np.array_equal(costs.chained[forward], costs.alone[forward])


@pytest.mark.parametrize("link", [1e9, 1e10, 1e11])
def test_a_reduction_outlasts_its_own_weight_gradient(link):
    """Korthikanti et al. 2022, section 6.2: launched, then the product, then waited for."""
    fast = make_plan("gpt3-175b", tp=8, sp=True, stack="megatron-2022")
    cluster = flat_cluster("8xa100-sxm-80gb", link)
    slow = make_plan("gpt3-175b", tp=8, sp=True, stack="megatron-2022", cluster=cluster)
    for plan in (fast, slow):
        table = Table(plan)
        costs, names = table.priced(), table.rows.names
        for row, products in table.rows.beside:
            assert products
            window = costs.alone[list(products)].sum()
            assert costs.chained[row] == pytest.approx(
                max(0.0, costs.alone[row] - window), abs=1e-12
            )
        # second gathers of saved inputs hide behind input gradients
        beside = {names[row]: [names[p] for p in products] for row, products in table.rows.beside}
        assert beside["qkv input gather"] == ["qkv dgrad"]
        assert beside["mlp input gather"] == ["mlp up dgrad"]


def test_every_collective_inside_a_layer_waits_as_the_stack_says():
    plan = make_plan(tp=8, sp=True)
    table = Table(plan)
    wait = table.stack.collective_wait_s
    assert wait > 0.0
    wires = table.rows.kind == COLLECTIVE
    waiting = table.priced().alone[wires]
    table.stack = replace(table.stack, collective_wait_s=0.0)
    assert waiting == pytest.approx(table.priced().alone[wires] + wait)


def test_element_wise_work_counts_bytes_and_no_matrix():
    rows = Table(make_plan()).rows
    memory = rows.kind == MEMORY
    assert (rows.extra[memory, 0] > 0).all()
    assert (rows.dims[memory] == 0).all()


# Groups and weights ----------------------------------------------------------------------------


WAYS = {"tp": st.sampled_from([1, 2, 4]), "cp": st.sampled_from([1, 2])} | {
    name: st.sampled_from([1, 2, 3]) for name in ("dp", "pp")
}


@settings(max_examples=150, deadline=None)
@given(**WAYS, order=st.permutations(PLACEMENT), ep=st.sampled_from([1, 2, 4]))
def test_groups_are_those_of_the_ranks_laid_out(tp, cp, dp, pp, order, ep):
    ways = {"tp": tp, "cp": cp, "dp": dp, "pp": pp}
    ep = ep if (cp * dp) % ep == 0 else 1
    parallel = Parallelism(**ways, ep=ep, placement=tuple(order))
    groups = make_groups(parallel)
    # the slow twin: coordinates of every rank, innermost dimension first
    ranks = np.arange(parallel.world).reshape([ways[name] for name in reversed(order)])

    def members(*names: str) -> np.ndarray:
        """Return the ranks of the group of rank 0, ascending."""
        return np.sort(
            ranks[tuple(slice(None) if n in names else 0 for n in reversed(order))], None
        )

    stage = members("tp", "cp", "dp")
    experts = stage.reshape(parallel.expert_dp, ep, tp)
    expected = {
        "tp": members("tp"),
        "cp": members("cp"),
        "dp": members("cp", "dp"),
        "pp": members("pp"),
        "shard": members("cp", "dp"),
        "etp": experts[0, 0],
        "ep": experts[0, :, 0],
        "edp": experts[:, 0, 0],
    }
    for name, ranks_of in expected.items():
        group = getattr(groups, name)
        assert group.size == len(ranks_of), name
        assert group.size * group.stride <= parallel.world or group.size == 1
        gaps = set(np.diff(ranks_of).tolist())
        if len(gaps) == 1 and (name not in ("ep", "edp") or order.index("pp") in (0, 3)):
            assert gaps == {group.stride}, name
        elif len(gaps) > 1:  # no one stride: never closer together than its nearest two
            assert group.stride >= min(gaps), name
    assert groups.shard.size * groups.replicate.size == groups.dp.size


@pytest.mark.parametrize(
    "model", ["llama2-7b", "llama3-8b", "mixtral-8x7b", "deepseek-v3", "gpt3-175b"]
)
def test_parts_hold_the_parameters_of_the_model(model):
    plan = make_plan(model, "1x1xh100-sxm", dp=1)
    table = Table(plan)
    local = part_parameters(plan, table.parts)
    held = sum(
        (local[part].dense + local[part].experts) * times for part, times in table.times.items()
    )
    # multi-token prediction shares embedding and head with the model, as counted once
    whole = parameters(plan.model)
    shared = plan.model.num_mtp_layers * plan.model.vocab * plan.model.hidden
    assert held - shared == pytest.approx(whole.total_with_mtp, rel=1e-4)


def test_tensor_and_expert_ranks_share_the_parameters():
    one = part_parameters(make_plan("mixtral-8x7b", ep=1), Table(make_plan("mixtral-8x7b")).parts)
    split = make_plan("mixtral-8x7b", tp=2, etp=2, ep=4)
    many = part_parameters(split, Table(split).parts)
    assert many[0].experts == pytest.approx(one[0].experts / 8)
    assert one[0].dense / 2 <= many[0].dense < 0.51 * one[0].dense  # router and norms stay whole


def test_full_sharding_moves_half_as_much_again_as_plain_data_parallelism():
    # Rajbhandari et al. 2020, arXiv 1910.02054, section 7: 3 Psi against 2 Psi, where every
    # collective is a ring over the same links
    cluster = flat_cluster("2x8xa100-sxm-80gb", 25e9)

    def seconds(stage: int) -> float:
        plan = make_plan("llama2-70b", cluster, zero_stage=stage)
        table = Table(plan)
        e = price_weights(plan, table.parts, table.shape.groups, network(plan.cluster), table.stack)
        return e.gather[0] + e.regather[0] + e.reduce[0]

    assert seconds(3) == pytest.approx(1.5 * seconds(0), rel=0.02)
    assert seconds(1) == pytest.approx(seconds(0), rel=0.02)


def exchanged(plan: Plan, stack: Stack) -> WeightExchange:
    table = Table(plan)
    return price_weights(plan, table.parts, table.shape.groups, network(plan.cluster), stack)


def test_gradients_summed_in_fp32_are_reduced_whole_and_in_fp32():
    cluster, stack = flat_cluster("16xa100-sxm-80gb", 25e9, 0.0), load_stack("megatron-deepspeed")
    half, full = (
        exchanged(make_plan("llama2-7b", cluster, zero_stage=1, precision=precision), stack)
        for precision in ("fp16", "bf16")
    )
    # a scatter of 2 bytes a parameter against an all-reduce (twice the traffic) of 4
    assert full.reduce[0] == pytest.approx(4 * half.reduce[0], rel=1e-6)
    assert full.gather == half.gather


def test_matrices_gathered_one_by_one_pay_the_latency_of_each():
    stack = load_stack("deepspeed-zero3")

    def gathered(unit: str, latency_s: float) -> float:
        cluster = flat_cluster("64xa100-sxm-80gb", 25e9, latency_s)
        plan = make_plan("gpt3-175b", cluster, zero_stage=3, precision="fp16")
        return exchanged(plan, replace(stack, sharding_unit=unit)).gather[0]

    free = gathered("layer", 0.0)
    assert gathered("matrix", 0.0) == pytest.approx(free)
    waits = [gathered(unit, 1e-3) - free for unit in ("layer", "matrix")]
    assert waits[1] == pytest.approx(4 * waits[0], rel=1e-6)


def test_hybrid_sharding_gathers_inside_and_reduces_across():
    plan = make_plan("llama2-7b", "4x8xh100-sxm", zero_stage=3, stack="fsdp-composer")
    whole, hybrid = Table(plan), Table(replace(plan, parallel=replace(plan.parallel, shard_size=8)))
    exchange = [
        price_weights(t.plan, t.parts, t.shape.groups, network(t.plan.cluster), t.stack)
        for t in (whole, hybrid)
    ]
    assert exchange[1].gather[0] < exchange[0].gather[0]
    assert hybrid.shape.groups.replicate.size == 4


# Stages ----------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(layers=st.integers(1, 130), pp=st.integers(1, 16), vpp=st.integers(1, 4))
def test_uneven_split_is_even_within_one_layer(layers, pp, vpp):
    model = replace(load_model("llama2-7b"), num_layers=layers)
    plan = make_plan(model, f"{pp}x1xh100-sxm", pp=pp, vpp=vpp, uneven_stages=True)
    spans = stage_layers(plan)
    covered = [first + i for first, count in spans for i in range(count)]
    assert covered == list(range(layers))
    counts = [count for _, count in spans]
    assert len(counts) == pp * vpp
    assert max(counts) - min(counts) <= 1
    # the ends, which carry embedding and head, never hold more than the middle
    assert counts[0] == min(counts) or counts[-1] == min(counts)


@settings(max_examples=60, deadline=None)
@given(
    name=st.sampled_from(["llama2-7b", "deepseek-v3", "qwen3-235b-a22b", "gemma2-2b"]),
    layers=st.integers(1, 24),
    parts=st.integers(1, 4),
)
def test_balanced_split_leaves_the_fullest_part_the_least_work(name, layers, parts):
    model = replace(load_model(name), num_layers=layers)
    work = forward_flops(model, 4096)
    ending = (work.head + work.mtp) * layers / work.layers

    def fullest(counts):
        return max(*counts[:-1], counts[-1] + ending) if len(counts) > 1 else counts[0] + ending

    found = balanced_layers(model, 4096, parts)
    assert (sum(found), len(found)) == (layers, parts)
    assert fullest(found) == min(
        fullest(tuple(after - before for before, after in pairwise((0, *cuts, layers))))
        for cuts in combinations_with_replacement(range(layers + 1), parts - 1)
    )


def test_deepseek_v3_is_balanced_as_the_published_recipe_lays_it_out():
    assert balanced_layers(load_model("deepseek-v3"), 4096, 16) == (4,) * 15 + (1,)
    plan = read_plan(
        None,
        {
            "model.name": "deepseek-v3",
            "cluster.spec": "32x8xh800-sxm",
            "parallel.pp": 16,
            "parallel.ep": 8,
            "training.seq_len": 4096,
            "training.global_batch_seqs": 256,
            "training.uneven_stages": "balanced",
        },
    )
    assert plan.training.stage_layers == (4,) * 15 + (1,)


def test_explicit_stages_are_kept():
    model = load_model("llama2-7b")
    plan = make_plan(model, "4x1xh100-sxm", pp=4, stage_layers=(5, 9, 10, 8))
    assert stage_layers(plan) == ((0, 5), (5, 9), (14, 10), (24, 8))
    assert [len(c.units) for c in compositions(plan, Table(plan).parts)] == [6, 9, 10, 9]


def test_the_first_stage_embeds_and_the_last_predicts():
    plan = make_plan("deepseek-v3", "16x8xh800-sxm", pp=16, ep=8, uneven_stages=True)
    table = Table(plan)
    made = compositions(plan, table.parts)
    assert made[0].units[0] == (table.parts.embedding,)
    # one module of multi-token prediction: projection, a layer, and the head once more
    assert (table.parts.head,) in made[-1].units
    assert made[-1].units[-1][0] == table.parts.prediction
    assert made[-1].units[-1][-1] == table.parts.head
    assert sum((table.parts.head,) in c.units for c in made) == 1
