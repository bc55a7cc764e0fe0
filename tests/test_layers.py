"""Layers of other kinds than attention and MLP: counts, operators, memory, serving, refusals."""

from __future__ import annotations

from dataclasses import replace
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ridgeline.cli import run
from ridgeline.errors import InputError
from ridgeline.hardware import make_cluster
from ridgeline.simulator import read_plan, simulate_training
from ridgeline.simulator.memory import activation_bytes, memory_facts
from ridgeline.simulator.operators.build import build_table
from ridgeline.simulator.operators.convolution import convolution_kernels, factors
from ridgeline.simulator.operators.scan import scan_bytes, scan_products
from ridgeline.simulator.operators.shape import make_shape
from ridgeline.simulator.operators.table import BACKWARD, FORWARD, WEIGHT
from ridgeline.simulator.plan import Parallelism, Plan, Training
from ridgeline.simulator.roofline.layout import FUSED, GEMM
from ridgeline.simulator.serving.capacity import sequence_bytes, weight_bytes
from ridgeline.simulator.serving.service import Service
from ridgeline.simulator.serving.shape import make_shape as serving_shape
from ridgeline.simulator.serving.static import decode_step_seconds, roofline_bound
from ridgeline.simulator.stacks import load_stack
from ridgeline.validation.published.answers import KINDS
from ridgeline.workloads import load_model, model_from_config
from ridgeline.workloads.catalogue import model_entry
from ridgeline.workloads.flops import forward_flops, kv_bytes_per_token
from ridgeline.workloads.mixers import linear_weights
from ridgeline.workloads.model import Model
from ridgeline.workloads.parameters import layer_parameters, parameters

SMALL: dict[str, Any] = {
    "model_type": "llama",
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 8,
    "num_attention_heads": 16,
    "num_key_value_heads": 4,
    "vocab_size": 32000,
}


def varied(**changes: Any) -> Model:
    return model_from_config({**SMALL, "ridgeline": changes}, "mine")


DENSE = model_from_config(SMALL, "dense")
DEPTH = varied(depth={"every": 2, "share": 0.125})
RECURSION = varied(recursion={"first": 1, "layers": 6, "times": 3, "shares": [1, 0.5, 0.25]})
MEMORY = varied(memory={"layers": [2, 5], "keys": 65536, "heads": 4, "key_dim": 512, "top_k": 32})
BLOCKS = varied(blocks={})
CONVOLUTION = varied(convolution={})
VARIANTS = {
    "depth": DEPTH,
    "recursion": RECURSION,
    "memory": MEMORY,
    "blocks": BLOCKS,
    "convolution": CONVOLUTION,
}
HYBRIDS = ("nemotron-h-8b", "kimi-linear-48b-a3b", "qwen3-next-80b-a3b", "deepseek-v3.2")


def plan_of(model: Model, **changes: Any) -> Plan:
    ways = {"tp": 1, "pp": 1, "cp": 1, "zero_stage": 1, **changes}
    cluster = make_cluster("1x8xh100-sxm")
    dp = cluster.count // (ways["tp"] * ways["pp"] * ways["cp"])
    return Plan(
        model=model,
        cluster=cluster,
        parallel=Parallelism(dp=dp, **ways),
        training=Training(seq_len=4096, global_batch_seqs=8, micro_batch_seqs=1),
        stack="megatron-core",
    )


def rows_of(model: Model, part: int, phase: int, kind: int) -> dict[str, float]:
    """Return FLOPs by operator of one part and phase."""
    plan = plan_of(model)
    table, _ = build_table(make_shape(plan, load_stack("megatron-core")), "none")
    chosen = (table.part == part) & (table.phase == phase) & (table.kind == kind)
    places = np.flatnonzero(chosen).tolist()
    return {table.names[at]: 2.0 * prod(table.dims[at, :4].tolist()) for at in places}


# Counts ----------------------------------------------------------------------------------------


def test_kimi_delta_layer_by_hand() -> None:
    # h 2304, 32 heads of 128: q, k, v, output; decay and gate 128 wide before they fan out; step
    wide, hidden = 32 * 128, 2304
    products = 4 * hidden * wide + 2 * (hidden * 128 + 128 * wide) + hidden * 32
    rest = 3 * 4 * wide + 32 + wide + wide + 128
    layer = layer_parameters(load_model("kimi-linear-48b-a3b"), 0)
    assert layer.attention == products + rest


def test_mamba2_layer_by_hand() -> None:
    # arXiv:2405.21060: z, x, B, C and the step in; a convolution with bias over x, B and C
    inner, state, groups, heads, hidden = 8192, 128, 8, 128, 4096
    inputs = 2 * inner + 2 * groups * state + heads
    assert inputs == 18560  # in_proj of the checkpoint
    convolution = (inner + 2 * groups * state) * 5
    expected = hidden * (inputs + inner) + convolution + 3 * heads + inner
    model = load_model("nemotron-h-8b")
    assert layer_parameters(model, 0).attention == expected
    assert layer_parameters(model, 1).attention == 0
    assert layer_parameters(model, 0).mlp == 0
    assert layer_parameters(model, 0).norms == layer_parameters(model, 1).norms == hidden


def test_depth_leaves_the_share_of_flops() -> None:
    # Raposo et al. 2024: half the blocks at an eighth of the tokens
    dense, depth = forward_flops(DENSE, 2048), forward_flops(DEPTH, 2048)
    assert depth.mlp == pytest.approx((1 + 1 / 8) / 2 * dense.mlp)
    assert depth.attention_projections == pytest.approx(0.5625 * dense.attention_projections)
    assert depth.attention_scores == pytest.approx((1 + 1 / 64) / 2 * dense.attention_scores)
    assert kv_bytes_per_token(DEPTH, 2.0) == 0.5625 * kv_bytes_per_token(DENSE, 2.0)
    routers = parameters(DEPTH).total - parameters(DENSE).total
    assert routers == 4 * 1024


def test_recursion_counts_weights_once_and_work_each_time() -> None:
    assert RECURSION.num_layers == 1 + 6 * 3 + 1
    routers = 12 * 1024  # of the layers that take a share
    own = {RECURSION.form(index).repeats for index in range(1, 7)}
    again = {RECURSION.form(index).repeats for index in range(7, 19)}
    assert (own, again) == ({False}, {True})
    assert parameters(RECURSION).total <= parameters(DENSE).total + routers
    dense, deep = forward_flops(DENSE, 4096), forward_flops(RECURSION, 4096)
    assert deep.mlp == pytest.approx(dense.mlp / 8 * (2 + 6 * (1 + 0.5 + 0.25)))


def test_memory_has_one_table_of_which_a_token_reads_a_few_rows() -> None:
    counts, dense = parameters(MEMORY), parameters(DENSE)
    assert counts.table == 65536 * 1024
    per_layer = 1024 * 4 * 512 + 2 * 1024 * 1024 + 4 * 256 * 512
    mlp = 3 * 1024 * 4096
    assert counts.total == dense.total + counts.table + 2 * (per_layer - mlp)
    assert counts.total - counts.active == counts.table - 2 * 4 * 32 * 1024


def test_blocks_read_what_the_paper_counts() -> None:
    # arXiv:2502.11089, table 4: tokens that a decode reads
    blocks = BLOCKS.attention.blocks
    assert blocks is not None
    reads = {8192: 2048, 16384: 2560, 32768: 3584, 65536: 5632}
    assert {context: blocks.keys_read(context) for context in reads} == reads


# Operators -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["nemotron-h-8b", "kimi-linear-48b-a3b", "qwen3-next-80b-a3b"])
def test_projections_of_linear_attention_are_its_weights(name: str) -> None:
    model = load_model(name)
    assert model.linear is not None
    wanted = 2.0 * 4096 * linear_weights(model.hidden, model.linear)
    names = {"linear in", "gate up", "attention output"}
    for phase, suffix, times in ((FORWARD, "", 1), (BACKWARD, " dgrad", 1), (WEIGHT, " wgrad", 1)):
        found = rows_of(model, 0, phase, GEMM)
        made = sum(value for row, value in found.items() if row.removesuffix(suffix) in names)
        # a name that comes twice (decay and gate are alike) is one row of the dictionary
        if model.linear.kind == "kimi-delta":
            made += found[f"gate up{suffix}"]
        assert made == pytest.approx(times * wanted, rel=1e-3)


@pytest.mark.parametrize("tokens", [64, 4096, 5000])
def test_scan_of_the_delta_rule_in_closed_form(tokens: int) -> None:
    linear = load_model("qwen3-next-80b-a3b").linear
    assert linear is not None
    chunk, k, v = 64, 128, 128
    chunks = -(-tokens // chunk)
    flops = sum(2 * m * n * d * batch for _, m, n, d, batch in scan_products(linear, tokens, 1))
    # three products with the state, keys by keys and queries, and the WY form
    per_chunk = 2 * chunk * (3 * k * v + chunk * (3 * k + 2 * v))
    assert flops == 32 * chunks * per_chunk
    moved = scan_bytes(linear, tokens, 1, 2.0)
    # bf16 vectors of keys and values, the triangular matrix twice in fp32, states in bf16
    scores = chunk * (2 * 4 + 2 * 2)
    assert moved["chunks"] == tokens * 32 * (2.0 * (3 * k + 2 * v) + scores)
    assert moved["states"] == moved["output"]
    assert moved["output"] == 2.0 * 32 * (tokens * 2 * (k + v) + chunks * k * v)


# Milliseconds of flash-linear-attention's kernels, heads of 128, bf16: what ``scan_memory`` and
# ``scan_backward`` were set to. github.com/PaddlePaddle/flash-attention, pull request 133 (H800,
# forward); github.com/fla-org/flash-linear-attention, issue 645 (H200, taken as both passes).
SCANS = [
    ("gated-delta", "h100-sxm", 1 * 8192, 96, ("forward",), 2.033),
    ("kimi-delta", "h100-sxm", 1 * 8192, 96, ("forward",), 3.268),
    ("gated-delta", "h100-sxm", 2 * 16384, 16, ("forward",), 1.342),
    ("kimi-delta", "h100-sxm", 2 * 16384, 16, ("forward",), 2.299),
    ("gated-delta", "h200-sxm", 4 * 2048, 32, ("forward", "backward"), 4.006),
    ("gated-delta", "h200-sxm", 4 * 8192, 32, ("forward", "backward"), 15.761),
    ("gated-delta", "h200-sxm", 4 * 32768, 32, ("forward", "backward"), 64.416),
]


@pytest.mark.parametrize(("kind", "accelerator", "tokens", "heads", "phases", "ms"), SCANS)
def test_scans_take_what_was_measured(
    kind: str, accelerator: str, tokens: int, heads: int, phases: tuple[str, ...], ms: float
) -> None:
    ask = {
        "kind": kind,
        "accelerator": accelerator,
        "tokens": tokens,
        "heads": heads,
        "head_dim": 128,
        "stack": "megatron-core",
        "phases": phases,
    }
    assert KINDS["scan-ms"](ask) == pytest.approx(ms, rel=0.15)


@given(st.sampled_from([1, 2, 4, 8]), st.integers(1, 20_000))
def test_scan_is_shared_by_tensor_ranks(tp: int, tokens: int) -> None:
    for name in ("nemotron-h-8b", "kimi-linear-48b-a3b"):
        linear = load_model(name).linear
        assert linear is not None
        whole = sum(m * n * k * b for _, m, n, k, b in scan_products(linear, tokens, 1))
        part = sum(m * n * k * b for _, m, n, k, b in scan_products(linear, tokens, tp))
        assert part * tp == whole


def test_the_backward_scan_is_twice_the_forward_and_states_again() -> None:
    model = load_model("nemotron-h-8b")
    forward = sum(rows_of(model, 0, FORWARD, FUSED).values())
    states = rows_of(model, 0, FORWARD, FUSED)["scan states"]
    backward = sum(rows_of(model, 0, BACKWARD, FUSED).values())
    assert backward == pytest.approx(2 * forward + states, rel=1e-6)


@given(st.integers(4, 22))
def test_factors_make_up_the_points(bits: int) -> None:
    found = factors(2**bits)
    assert prod(found) == 2**bits
    assert max(found) <= 32
    assert max(found) <= 2 * min(found)


def test_bytes_of_both_convolutions() -> None:
    real = 64 * 768 * 4096
    fused = convolution_kernels(64 * 768, 4096, 2.0, "monarch", gated=True)
    # input, two gates and the output, each once
    assert sum(kernel.moved for kernel in fused) == 2.0 * 4 * real
    apart = convolution_kernels(64 * 768, 4096, 2.0, "cufft", gated=True)
    bare = convolution_kernels(64 * 768, 4096, 2.0, "cufft", gated=False)
    gates = sum(k.moved for k in apart) - sum(k.moved for k in bare)
    assert gates == 2 * 3 * 2.0 * real
    # cast 6, pad 12, transforms 16 and 16, product 16, copy 16, scale 16, cut 6 bytes a number
    assert sum(kernel.moved for kernel in bare) == 104.0 * real


def test_attention_behind_an_indexer_takes_the_cheaper_form() -> None:
    sparse, dense = load_model("deepseek-v3.2"), load_model("deepseek-v3")
    seconds = {}
    for seq_len in (4096, 65536):
        names = []
        for model in (sparse, dense):
            plan = plan_of(model)
            plan = replace(plan, training=replace(plan.training, seq_len=seq_len))
            table, _ = build_table(make_shape(plan, load_stack("megatron-core")), "none")
            names.append(set(table.names))
            seconds[model.name, seq_len] = simulate_training(plan).step_time_s
        assert ("masked attention" in names[0]) == (seq_len == 4096)
        # the projections to heads are folded into queries and outputs
        assert ("key-value up" in names[0]) == (seq_len == 4096)
    assert seconds["deepseek-v3.2", 4096] > seconds["deepseek-v3", 4096]
    assert seconds["deepseek-v3.2", 65536] < seconds["deepseek-v3", 65536]


@pytest.mark.parametrize("name", VARIANTS)
def test_variants_train_and_say_where_time_goes(name: str) -> None:
    plan = plan_of(VARIANTS[name])
    step = simulate_training(plan).step_time_s
    dense = simulate_training(plan_of(DENSE)).step_time_s
    assert step > 0
    if name == "depth":
        assert 0.5 * dense < step < dense


@pytest.mark.parametrize("name", HYBRIDS)
def test_hybrids_split_over_tensor_ranks(name: str) -> None:
    model = load_model(name)
    whole = simulate_training(plan_of(model))
    split = simulate_training(plan_of(model, tp=8, sp=True))
    for cause in ("weights", "activations"):
        assert getattr(split.memory[0], cause) < getattr(whole.memory[0], cause)


# Memory ----------------------------------------------------------------------------------------


def stored(model: Model, index: int, seq_len: int = 4096) -> float:
    return activation_bytes(
        model,
        index,
        seq_len=seq_len,
        micro_batch_seqs=1,
        parallel=Parallelism(),
        recompute="none",
        precision="bf16",
        facts=memory_facts(load_stack("megatron-core")),
    ).stored


def test_activations_of_a_mamba_layer() -> None:
    model = load_model("nemotron-h-8b")
    inner, channels = 8192, 8192 + 2 * 8 * 128
    # input and its norm; projections; convolution and scan behind them; the gated norm
    elements = 2 * 4096 + 18560 + channels + inner + inner
    assert stored(model, 0) == 2.0 * 4096 * elements
    # the MLP alone: input, norm, hidden values before and behind the activation
    assert stored(model, 1) == 2.0 * 4096 * (2 * 4096 + 2 * 21504)


def test_a_share_of_the_tokens_is_a_shorter_sequence() -> None:
    passing = 2.0 * 4096 * 1024
    assert stored(DEPTH, 1) == pytest.approx(stored(DENSE, 1, 512) + passing)
    assert stored(DEPTH, 0) == stored(DENSE, 0)


def test_weights_of_repeated_layers_lie_there_once() -> None:
    once = simulate_training(plan_of(RECURSION, zero_stage=0)).memory[0].weights
    assert once == pytest.approx(2.0 * parameters(RECURSION).total, rel=1e-6)
    table = simulate_training(plan_of(MEMORY, zero_stage=0)).memory[0].weights
    assert table == pytest.approx(2.0 * parameters(MEMORY).total, rel=1e-6)


# Serving ---------------------------------------------------------------------------------------


def service_of(model: Model, **how: Any) -> Service:
    return Service(model=model, cluster=make_cluster("1x8xh200-sxm"), engine="vllm", **how)


def test_a_state_does_not_grow() -> None:
    shape = serving_shape(service_of(load_model("mamba2-2.7b")))
    state = 64 * 80 * 64 * 128 * 4.0
    assert sequence_bytes(shape, 1.0) == sequence_bytes(shape, 1e6) == state
    hybrid = serving_shape(service_of(load_model("nemotron-h-8b")))
    grown = sequence_bytes(hybrid, 2e5) - sequence_bytes(hybrid, 1e5)
    assert grown == pytest.approx(1e5 * 4 * 2 * 8 * 128 * 2.0)


def test_caches_of_variants() -> None:
    dense = sequence_bytes(serving_shape(service_of(DENSE)), 65536.0)
    found = {
        name: sequence_bytes(serving_shape(service_of(VARIANTS[name])), 65536.0) / dense
        for name in ("depth", "recursion", "memory", "blocks")
    }
    assert found["depth"] == 0.5625
    assert found["recursion"] == pytest.approx((2 + 6 * 1.75) / 8)
    assert found["memory"] == 1.0
    assert found["blocks"] == 1.0 + 1 / 16


@pytest.mark.parametrize("name", ["depth", "recursion", "memory", "blocks"])
def test_weights_of_a_service_are_those_counted(name: str) -> None:
    model = VARIANTS[name]
    # all but the final norm
    assert weight_bytes(serving_shape(service_of(model))) == 2.0 * (parameters(model).total - 1024)


def test_sparse_decodes_gain_with_the_context() -> None:
    gains = []
    for context in (4096, 32768, 131072):
        dense = decode_step_seconds(service_of(DENSE), 64, context)
        gains.append(dense / decode_step_seconds(service_of(BLOCKS), 64, context))
    assert gains == sorted(gains)
    assert gains[-1] > 3.0


@pytest.mark.parametrize("name", ["depth", "recursion", "memory", "blocks", *HYBRIDS])
def test_no_decode_is_faster_than_its_bound(name: str) -> None:
    model = VARIANTS.get(name) or load_model(name)
    service = service_of(model, tp=8, precision="fp8")
    for batch in (1, 64):
        for context in (256, 16384):
            least = roofline_bound(service, batch, context)
            assert least <= decode_step_seconds(service, batch, context)


# What is refused -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "changes", "words"),
    [
        ("nemotron-h-8b", {"cp": 2}, "linear attention"),
        ("nemotron-h-8b", {"tp": 16}, "heads"),
        ("deepseek-v3.2", {"cp": 2}, "sparse attention"),
        (RECURSION, {"pp": 2}, "several stages"),
        (RECURSION, {"zero_stage": 3}, "gathered more than once"),
        (MEMORY, {"pp": 2}, "one table"),
        (CONVOLUTION, {"cp": 2}, "long convolutions"),
    ],
)
def test_what_is_not_modelled_is_refused_in_one_line(
    model: Model | str, changes: dict[str, int], words: str
) -> None:
    from ridgeline.simulator import legality

    chosen = load_model(model) if isinstance(model, str) else model
    plan = plan_of(chosen)
    plan = replace(plan, parallel=replace(plan.parallel, **changes))
    lines = [line for line in legality.problems(plan) if words in line]
    assert lines
    assert all("\n" not in line for line in lines)


def test_convolutions_are_not_served() -> None:
    with pytest.raises(InputError, match="serving them is not modelled"):
        serving_shape(service_of(CONVOLUTION))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"depths": {}}, "unknown"),
        ({"depth": {"every": 2}}, "missing field 'share'"),
        ({"memory": {"layers": [1], "keys": 1000}}, "must be a square"),
        ({"memory": {"layers": [99], "keys": 1024}}, "must name layers"),
        ({"recursion": {"first": 4, "layers": 9}}, "repeat"),
        ({"recursion": {"times": 3, "shares": [1.0]}}, "'shares' must have 3"),
        ({"convolution": {"implementation": "fast"}}, "cufft or monarch"),
        ({"windows": {}}, "missing field 'window'"),
    ],
)
def test_mistakes_in_variants(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError) as caught:
        varied(**changes)
    assert any(words in line for line in caught.value.problems)


def test_mistakes_in_patterns() -> None:
    config = model_entry("nemotron-h-8b")["config"]
    with pytest.raises(InputError, match=r"must be M, \*, - or E"):
        model_from_config({**config, "hybrid_override_pattern": "MX"}, "mine")
    with pytest.raises(InputError, match="must have 52"):
        model_from_config({**config, "hybrid_override_pattern": "M-"}, "mine")


@pytest.mark.parametrize("name", ["serve_kimi_linear", "serve_sparse_attention"])
def test_examples_are_served(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    path = Path(__file__).resolve().parents[1] / "examples" / f"{name}.toml"
    assert run(["infer", str(path)]) == 0, capsys.readouterr().err


def test_plans_of_hybrids_are_not_measured_ones() -> None:
    plan = read_plan(
        None,
        {
            "model.name": "nemotron-h-8b",
            "cluster.spec": "1x8xh100-sxm",
            "training.seq_len": 4096,
            "training.global_batch_seqs": 8,
        },
    )
    result = simulate_training(plan)
    said = " ".join(one.text for one in result.provenance if one.kind == "evidence")
    assert not said.startswith("measured")
