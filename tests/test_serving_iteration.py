"""Iterations of an engine: bounds, properties, closed forms, and static batches as measured."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ridgeline.errors import InputError
from ridgeline.hardware.profiles import accelerator_names
from ridgeline.hardware.topology import make_cluster
from ridgeline.simulator.collectives.layout import ALL_GATHER
from ridgeline.simulator.collectives.measured import predict_custom_all_reduce
from ridgeline.simulator.roofline import layout
from ridgeline.simulator.roofline.device import device_parameters
from ridgeline.simulator.serving.constants import constants
from ridgeline.simulator.serving.exchange import all_reduce, collective, expert_exchange
from ridgeline.simulator.serving.experts import (
    busiest_rank,
    distinct_experts,
    expert_bytes,
    experts_seconds,
)
from ridgeline.simulator.serving.iteration import (
    decode_attention,
    decode_linear,
    iteration_tables,
    launches,
    mixed_linear,
    prefill_attention,
    pricer,
    prompt_token_seconds,
)
from ridgeline.simulator.serving.kernel_choice import (
    custom_all_reduce_set,
    expert_set,
    measured_devices,
    twin,
)
from ridgeline.simulator.serving.products import (
    LINEAR,
    device_table,
    products_seconds,
    weights_alone,
)
from ridgeline.simulator.serving.quantisation import FORMATS
from ridgeline.simulator.serving.service import Limits, Service, Speculation
from ridgeline.simulator.serving.shape import make_shape
from ridgeline.simulator.serving.static import (
    decode_step_seconds,
    generation_seconds,
    prefill_seconds,
    roofline_bound,
)
from ridgeline.workloads import load_model

CASES = (
    ("llama3-8b", "1x8xh100-sxm", "vllm", {}),
    ("llama3.1-70b", "1x8xh100-sxm", "trtllm", {"tp": 4, "precision": "fp8"}),
    ("llama3.1-70b", "1x8xb200-sxm", "vllm-0.12", {"tp": 2, "precision": "nvfp4"}),
    ("llama3-8b", "1x8xa100-sxm-80gb", "vllm-0.7", {"precision": "w4a16"}),
    ("llama3-8b", "1x4xrtx-a6000", "vllm-0.7", {"precision": "int8", "tp": 2}),
    ("llama2-70b", "1x8xa100-sxm-80gb", "vllm-2023", {"precision": "fp16", "tp": 4}),
    ("mixtral-8x7b", "1x8xa100-sxm-80gb", "trtllm-0.17", {"tp": 2, "pp": 2}),
    ("deepseek-v3", "1x8xh200-sxm", "sglang", {"tp": 8, "precision": "fp8_block"}),
    ("deepseek-v3", "1x8xb200-sxm", "trtllm", {"dp": 8, "ep": 8, "precision": "nvfp4"}),
    ("gpt-oss-120b", "1x8xb300-sxm", "vllm", {"precision": "mxfp4"}),
    ("glm-5", "1x8xb200-sxm", "sglang", {"tp": 8, "precision": "nvfp4"}),
    ("qwen3.5-397b-a17b", "1x8xb200-sxm", "sglang", {"tp": 8, "precision": "fp8"}),
    ("llama3.1-70b", "1x8xmi300x", "vllm-rocm", {"tp": 8, "precision": "fp8"}),
    ("llama3-8b", "tpu-v5e:2x4", "jetstream", {"tp": 8, "precision": "int8"}),
)
NAMES = [f"{model}-{cluster}-{engine}" for model, cluster, engine, _ in CASES]


def service(model="llama3-8b", cluster="1x8xh100-sxm", engine="vllm", **how):
    return Service(model=load_model(model), cluster=make_cluster(cluster), engine=engine, **how)


def case(index):
    model, cluster, engine, how = CASES[index]
    return service(model, cluster, engine, **how)


def arrays(tables):
    return [
        tables.decode_linear_s,
        tables.mixed_linear_s,
        tables.decode_attention_s,
        tables.prefill_attention_s,
    ]


@pytest.mark.parametrize("index", range(len(CASES)), ids=NAMES)
def test_tables_rise_with_everything_that_an_iteration_holds(index):
    tables = iteration_tables(case(index))
    for axis in (tables.tokens, tables.sequences, tables.contexts, tables.new_tokens):
        assert axis[0] == 1.0
        assert (np.diff(axis) > 0).all()
    assert tables.prior_tokens[0] == 0.0
    for table in arrays(tables):
        assert np.isfinite(table).all()
        assert (table >= 0.0).all()
    assert (np.diff(tables.decode_linear_s) >= 0.0).all()
    assert (np.diff(tables.mixed_linear_s) >= 0.0).all()
    for axis in (0, 1):
        assert (np.diff(tables.prefill_attention_s, axis=axis) >= 0.0).all()
    assert tables.decode_linear_s.shape == tables.mixed_linear_s.shape == tables.tokens.shape
    assert tables.decode_attention_s.shape == (len(tables.sequences), len(tables.contexts))
    assert tables.prefill_attention_s.shape == (len(tables.new_tokens), len(tables.prior_tokens))
    assert tables.kv_tokens % tables.block_tokens == 0


@settings(max_examples=40, deadline=None)
@given(
    index=st.integers(0, len(CASES) - 1),
    batch=st.integers(1, 300),
    context=st.integers(1, 30_000),
)
def test_no_decode_step_beats_the_roofline(index, batch, context):
    one = case(index)
    assert decode_step_seconds(one, batch, context) >= roofline_bound(one, batch, context) > 0.0


def test_the_roofline_of_a_small_batch_is_its_bytes():
    one = service("llama3-8b", tp=1)
    # all layers and the head in bf16, and the cache of one sequence, over 3.35 TB/s
    layers = 2.0 * (4096 * 6144 + 4096 * 4096 + 3 * 4096 * 14336) * 32
    moved = layers + 2.0 * 4096 * 128256 + 1000 * 2 * 8 * 128 * 2 * 32
    assert roofline_bound(one, 1, 1000) == pytest.approx(moved / 3.35e12, rel=1e-6)


@pytest.mark.parametrize("index", range(len(CASES)), ids=NAMES)
def test_more_bandwidth_is_never_slower(index):
    one = case(index)
    accelerator = one.cluster.accelerator
    faster = replace(accelerator, memory_bytes_per_s=1.5 * accelerator.memory_bytes_per_s)
    other = replace(one, cluster=replace(one.cluster, accelerator=faster))
    slow, fast = pricer(one), pricer(other)
    batch, context = np.array([1.0, 8.0, 64.0]), np.array([100.0, 2000.0, 9000.0])
    tokens = np.array([1.0, 64.0, 1000.0, 8192.0])
    assert (decode_linear(fast, tokens) <= decode_linear(slow, tokens) * (1 + 1e-12)).all()
    assert (mixed_linear(fast, tokens) <= mixed_linear(slow, tokens) * (1 + 1e-12)).all()
    quick, slower = (decode_attention(p, batch, context) for p in (fast, slow))
    assert (quick <= slower * (1 + 1e-12)).all()


@pytest.mark.parametrize("name", accelerator_names())
def test_every_accelerator_serves(name):
    spec = f"{name}:2x2x1" if name in ("tpu-v4", "tpu-v5p", "tpu-v7x") else f"4x{name}"
    spec = f"{name}:2x2" if name in ("tpu-v3", "tpu-v5e", "tpu-v6e") else spec
    for model, precision in (("llama3.2-1b", "int8"), ("qwen1.5-moe-a2.7b", "w4a16")):
        one = service(model, spec, tp=2, precision=precision, limits=Limits(max_sequences=32))
        tables = iteration_tables(one)
        assert all(np.isfinite(table).all() for table in arrays(tables))
        assert decode_step_seconds(one, 8, 500) >= roofline_bound(one, 8, 500)


def test_measured_kernels_stand_for_their_twins():
    assert set(measured_devices()) == {"a100-sxm-80gb", "b200-sxm", "h100-sxm", "h200-sxm"}
    found = {
        name: twin(make_cluster(f"8x{name}").accelerator)
        for name in ("h100-sxm", "h200-sxm", "gh200", "b300-sxm", "a100-sxm-40gb", "mi300x", "l40s")
    }
    assert found == {
        "h100-sxm": "h100-sxm",
        "h200-sxm": "h200-sxm",
        "gh200": "h100-sxm",
        "b300-sxm": "b200-sxm",
        "a100-sxm-40gb": "a100-sxm-80gb",
        "mi300x": "",
        "l40s": "",
    }


def test_a_narrower_cache_is_read_faster():
    seconds = {}
    for kv in ("bf16", "fp8", "int8", "int4"):
        p = pricer(service("llama3-8b", kv_precision=kv))
        seconds[kv] = float(decode_attention(p, np.array([64.0]), np.array([16000.0]))[0])
    assert seconds["bf16"] > seconds["fp8"] == seconds["int8"] > seconds["int4"]
    bytes_s = 64 * 16000 * 128 * 1024 / 3.35e12
    assert bytes_s < seconds["bf16"] < 1.5 * bytes_s


def test_data_ranks_share_the_tokens_of_a_dense_model():
    one, two = service(dp=1), service(dp=2)
    tokens = np.array([8.0, 64.0, 1024.0])
    for price in (decode_linear, mixed_linear):
        np.testing.assert_allclose(price(pricer(two), 2 * tokens), price(pricer(one), tokens))


def test_a_round_of_pipeline_stages_is_one_pass_its_transfers_and_a_head_for_each_stage():
    whole, halves = service(tp=1, pp=1), service(tp=1, pp=2)
    tokens = np.array([16.0, 512.0])
    one, both = decode_linear(pricer(whole), tokens), decode_linear(pricer(halves), 2 * tokens)
    p = pricer(halves)
    head = products_seconds(p.head, tokens, p.shape, p.table)
    assert (both > one + head).all()
    assert (both < one + head + 1e-3).all()


def test_one_sequence_passes_the_head_of_a_pipeline_once():
    whole, halves = service(tp=1, pp=1), service(tp=1, pp=2)
    alone = np.array([1.0])
    one, both = decode_linear(pricer(whole), alone), decode_linear(pricer(halves), alone)
    assert one < both < one + 5e-5


def test_tensor_ranks_make_a_large_model_faster():
    steps = [decode_step_seconds(service("llama3.1-70b", tp=tp), 8, 2000) for tp in (2, 4, 8)]
    assert steps == sorted(steps, reverse=True)


def test_chunks_of_a_prompt_add_up_to_no_less_than_the_prompt():
    p = pricer(service("llama3-8b"))
    whole = float(prefill_attention(p, np.array([8192.0]), np.array([0.0]))[0])
    starts = np.arange(0.0, 8192.0, 1024.0)
    chunks = float(prefill_attention(p, np.full(8, 1024.0), starts).sum())
    assert whole <= chunks < 1.6 * whole


def test_windows_bound_the_attention_of_long_prompts():
    full, windowed = (pricer(service(name)) for name in ("mistral-7b", "llama3-8b"))
    assert max(full.shape.model.windows, default=0) == 4096
    long, before = np.array([4096.0]), np.array([20000.0])
    limited = prefill_attention(full, long, before)
    assert float(limited[0]) < 0.5 * float(prefill_attention(windowed, long, before)[0])


def test_distinct_experts():
    moe = load_model("deepseek-v3").moe
    tokens = np.array([1.0, 2.0, 32.0, 1e6])
    found = distinct_experts(moe, tokens)
    assert found[0] == pytest.approx(moe.top_k)
    assert (np.diff(found) > 0).all()
    assert found[-1] == pytest.approx(moe.num_experts)
    # uniform picks: E (1 - (1 - k/E)^t)
    even = replace(moe, load=(1.0,) * moe.num_experts)
    uniform = 256 * (1 - (1 - 8 / 256) ** tokens)
    np.testing.assert_allclose(distinct_experts(even, tokens), uniform)
    assert (found[1:3] < uniform[1:3]).all()


def test_distinct_experts_as_drawn():
    moe = replace(load_model("mixtral-8x7b").moe, load=(4.0, 3.0, 2.0, 2.0, 1.0, 1.0, 1.0, 0.5))
    random = np.random.default_rng(0)
    chance = 2.0 * np.array(moe.load) / sum(moe.load)
    drawn = random.random((20_000, 5, 8)) < chance
    mean = drawn.any(axis=1).sum(axis=1).mean()
    assert float(distinct_experts(moe, np.array([5.0]))[0]) == pytest.approx(mean, rel=0.01)


def test_the_busiest_rank_sets_the_pace_of_the_experts():
    moe = load_model("mixtral-8x7b").moe
    even = replace(moe, load=(1.0,) * 8)
    uneven = replace(moe, load=(3.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0))
    many = np.array([1e9])
    assert float(busiest_rank(moe, 1, many)[0]) == 1.0
    assert float(busiest_rank(even, 4, many)[0]) == pytest.approx(1.0, rel=1e-3)
    # two of eight experts on each of four ranks: (3 + 1) of 10 over a quarter
    assert float(busiest_rank(uneven, 4, many)[0]) == pytest.approx(4 / 10 * 4, rel=1e-3)
    # without a histogram: largest of so many drawn ranks, as drawn
    wide = load_model("deepseek-v3").moe
    random = np.random.default_rng(0)
    drawn = np.exp(constants().popularity_spread * random.standard_normal((4_000, 16, 16)))
    ranks = drawn.sum(axis=2)
    expected = (ranks.max(axis=1) / ranks.mean(axis=1)).mean()
    assert float(busiest_rank(wide, 16, many)[0]) == pytest.approx(expected, rel=0.05)
    assert busiest_rank(wide, 8, many) < busiest_rank(wide, 32, many)


def test_few_tokens_meet_on_a_rank_as_drawn():
    # 8 of 256 even experts for each token, on 8 ranks
    moe = replace(load_model("deepseek-v3").moe, load=(1.0,) * 256)
    random = np.random.default_rng(0)
    for tokens in (4, 32, 256):
        drawn = random.random((800, tokens, 256)).argpartition(8, axis=2)[:, :, :8] // 32
        ranks = np.stack([(drawn == rank).sum(axis=(1, 2)) for rank in range(8)], axis=1)
        expected = float((ranks.max(axis=1) / ranks.mean(axis=1)).mean())
        found = float(busiest_rank(moe, 8, np.array([float(tokens)]))[0])
        assert found == pytest.approx(expected, rel=0.05), tokens


def test_a_load_balancer_evens_the_ranks_out():
    # copies of the busy expert until all have a load of 1, two on each of three ranks
    moe = replace(load_model("mixtral-8x7b").moe, num_experts=4, top_k=1, load=(3.0, 1.0, 1.0, 1.0))
    many = np.array([1e9])
    assert float(busiest_rank(moe, 3, many, 6)[0]) == pytest.approx(1.0, rel=1e-3)
    # four slots on two ranks: the busy expert beside the lightest, 4 of 6 over a half
    assert float(busiest_rank(moe, 2, many, 4)[0]) == pytest.approx(4 / 3, rel=1e-3)
    wide = load_model("deepseek-v3").moe
    placed = [float(busiest_rank(wide, 32, many, slots)[0]) for slots in (0, 256, 288)]
    assert placed == sorted(placed, reverse=True)
    assert placed[2] < 1.02
    with pytest.raises(InputError, match=r"expert_slots = 8: .* 256 experts of model deepseek-v3"):
        pricer(service("deepseek-v3", "1x8xh200-sxm", ep=8, tp=8, precision="fp8", expert_slots=8))


def test_tokens_are_gathered_in_the_format_that_the_engine_gathers():
    how = {"dp": 8, "ep": 8, "precision": "nvfp4"}
    s = make_shape(service("deepseek-v3", "1x8xb200-sxm", "trtllm-1.2", **how))
    tokens = np.array([8192.0])
    plain = replace(s, engine=replace(s.engine, gather_quantised=False))
    there = collective(s, ALL_GATHER, tokens * 7168 * 2.0, 8)
    narrow = collective(s, ALL_GATHER, tokens * 7168 * 0.5625, 8)
    saved = expert_exchange(plain, tokens) - expert_exchange(s, tokens)
    assert float(saved[0]) == pytest.approx(float((there - narrow)[0]))
    blocks = make_shape(service("deepseek-v3", "1x8xh200-sxm", "trtllm-1.2", dp=8, ep=8,
                                precision="fp8_block"))  # fmt: skip
    other = replace(blocks, engine=replace(blocks.engine, gather_quantised=False))
    assert float(expert_exchange(blocks, tokens)[0]) == float(expert_exchange(other, tokens)[0])


def test_latent_attention_over_narrow_caches_multiplies_as_the_engine_says():
    batch, context = np.array([256.0]), np.array([8192.0])
    for cluster, quicker in (("1x8xb200-sxm", True), ("1x8xh200-sxm", False)):
        how = {"dp": 8, "ep": 8, "precision": "fp8_block", "kv_precision": "fp8"}
        p = pricer(service("deepseek-v3", cluster, "trtllm-1.2", **how))
        engine = replace(p.shape.engine, latent_precision={})
        plain = replace(p, shape=replace(p.shape, engine=engine))
        one, other = (float(decode_attention(x, batch, context)[0]) for x in (p, plain))
        assert (one < 0.8 * other) == quicker
        assert one <= other


def test_static_shapes_read_the_whole_slot():
    limits = Limits(slot_tokens=1024)
    one = service("llama3-8b", "tpu-v5e:2x4", "jetstream", tp=8)
    batch = np.array([32.0])
    slots = pricer(replace(one, limits=limits))
    half, whole = (
        float(decode_attention(slots, batch, np.array([context]))[0]) for context in (64.0, 1024.0)
    )
    assert half == whole
    by_default = float(decode_attention(pricer(one), batch, np.array([64.0]))[0])
    assert by_default == float(decode_attention(pricer(one), batch, np.array([2048.0]))[0])


def test_one_kernel_takes_all_prompts_of_an_iteration():
    p = pricer(service("llama3.1-70b", tp=8))
    short, long = np.array([128.0]), np.array([8192.0])
    nothing = np.zeros(1)
    each = float(prefill_attention(p, short, nothing)[0])
    whole = float(prefill_attention(p, long, nothing)[0])
    # 64 prompts of 128 tokens have 1/64 of the scores of one of 8,192
    assert 64 * each < 0.2 * whole
    assert p.prompt_launch_s > 0.0


def test_a_rank_computes_its_own_tokens_and_experts_are_shared():
    tables = iteration_tables(service("deepseek-v3", "1x8xh200-sxm", dp=8, ep=8, precision="fp8"))
    assert tables.data_ranks == 8
    assert (tables.rank_linear_s < tables.mixed_linear_s).all()
    dense = iteration_tables(service("llama3-8b", "1x8xh100-sxm"))
    assert dense.data_ranks == 1


def test_prompts_launch_more_kernels_in_2023():
    one = service("llama2-70b", "1x8xa100-sxm-80gb", "vllm-2023", precision="fp16", tp=4)
    p = pricer(one)
    # 12 kernels a layer, and two copies of keys and values and one of the output
    assert p.eager_floor_s == pytest.approx(80 * (12 + 3) * 4.1e-5)


def test_biases_that_are_read_slow_prompts_and_part_them():
    bloom = service("bloom-176b", "1x8xa100-sxm-80gb", "vllm-2023", precision="fp16", tp=8)
    rotary = replace(bloom, model=replace(bloom.model, position="rotary"))
    tokens, none = np.array([128.0, 8192.0]), np.zeros(2)

    def slower(biased, plain):
        return prefill_attention(pricer(biased), tokens, none) / prefill_attention(
            pricer(plain), tokens, none
        )

    short, long = slower(bloom, rotary)
    assert long == pytest.approx(1.0 / pricer(bloom).shape.engine.biased_attention_rate)
    # 32 prompts of 128 tokens fill the device together, but not one by one
    assert short > 1.2 * long
    today = [replace(one, engine="vllm") for one in (bloom, rotary)]
    assert slower(*today) == pytest.approx(1.0)


def test_experts_never_beat_the_weights_that_they_read():
    one = service("deepseek-v3", "1x8xh200-sxm", "sglang", tp=8, precision="fp8_block")
    p = pricer(one)
    moe, tokens = p.shape.model.moe, np.array([1.0, 4.0, 64.0, 512.0])
    seconds = experts_seconds(p.shape, moe, tokens, p.table)
    read = distinct_experts(moe, tokens) * expert_bytes(p.shape, moe) / 4.8e12
    assert (seconds >= read / p.shape.ep).all()
    assert (np.diff(seconds) > 0).all()


def test_block_scales_keep_experts_whole():
    # 1536 / 8 = 192 columns of an expert cut a block of 128: all ranks hold whole experts
    cut = service("minimax-m2.5", "1x8xh200-sxm", "vllm", tp=8, precision="fp8_block")
    fits = replace(cut, tp=4)
    assert (make_shape(cut).ep, make_shape(cut).expert_tp) == (8, 1)
    assert (make_shape(fits).ep, make_shape(fits).expert_tp) == (1, 4)


def test_an_era_prefers_its_expert_kernels():
    gated = 3.0
    both = ("w4a16_mxfp4", "w4a8_mxfp4_mxfp8")
    plain = expert_set("b200-sxm", "trtllm", both, gated, ())
    liked = expert_set("b200-sxm", "trtllm", both, gated, ("min_latency", "mxfp8"))
    assert (plain.dtype, liked.dtype) == ("w4a16_mxfp4", "w4a8_mxfp4_mxfp8")
    fast = expert_set("b200-sxm", "trtllm", ("nvfp4",), gated, ("min_latency", "mxfp8"))
    assert "min_latency" in fast.kernel


def test_speculation():
    base = service("llama3-8b")
    spec = replace(base, speculation=Speculation(tokens=3, acceptance=0.7))
    tables = iteration_tables(spec)
    # (1 - a^(k+1)) / (1 - a): Leviathan et al. 2023, equation 1
    assert tables.tokens_per_step == pytest.approx((1 - 0.7**4) / 0.3)
    assert iteration_tables(base).tokens_per_step == 1.0
    sure = replace(base, speculation=Speculation(tokens=3, acceptance=1.0))
    assert iteration_tables(sure).tokens_per_step == 4.0
    plain = decode_step_seconds(base, 4, 1000)
    assert plain < decode_step_seconds(spec, 4, 1000) < 2.0 * plain


def test_eager_decodes_wait_for_their_launches():
    llama, bloom = (
        service(name, "1x8xa100-sxm-80gb", "vllm-2023", precision="fp16", tp=8)
        for name in ("llama2-70b", "bloom-176b")
    )
    kinds = [pricer(one).kinds[0] for one in (llama, bloom)]
    counts = [
        launches(make_shape(one), kind) for one, kind in zip((llama, bloom), kinds, strict=True)
    ]
    assert counts == [12, 15]
    p, one, context = pricer(llama), np.array([1.0]), np.array([500.0])
    device = float((decode_linear(p, one) + decode_attention(p, one, context))[0])
    floor = 80 * 12 * 41e-6
    step = decode_step_seconds(llama, 1, 500) - 300e-6
    # joined with exponent 3: longer than either, shorter than both in turn
    assert step == pytest.approx((device**3 + floor**3) ** (1 / 3))
    assert max(device, floor) < step < device + floor


def test_graphs_end_at_the_context_that_they_cover():
    one = service("llama3.1-8b", "1x1xh100-sxm", "vllm-0.7")
    inside, beyond = (decode_step_seconds(one, 1, context) for context in (8192, 8193))
    # 7.6 and 10.6 ms a token at 512 and at 10,240 tokens of context, bf16 on H100 under vLLM 0.7.2
    assert beyond / inside == pytest.approx(10.6 / 7.6, rel=0.1)
    tables = iteration_tables(one)
    edge = list(tables.contexts).index(8192.0)
    assert tables.contexts[edge + 1] == 8193.0
    step = tables.decode_linear_s[0] + tables.decode_attention_s[0]
    host = tables.host_s + tables.host_per_sequence_s
    assert step[edge] == pytest.approx(inside - host)
    assert step[edge + 1] == pytest.approx(beyond - host)


@pytest.mark.parametrize("index", [0, 1, 7, 8])
def test_static_steps_are_the_tables_at_their_points(index):
    one = case(index)
    tables = iteration_tables(one)
    batch, place = 64, 6
    column = list(tables.sequences).index(float(batch))
    step = np.interp(batch, tables.tokens, tables.decode_linear_s)
    step += tables.decode_attention_s[column, place]
    step += tables.host_s + tables.host_per_sequence_s * batch
    context = int(tables.contexts[place])
    assert decode_step_seconds(one, batch, context) == pytest.approx(step, rel=0.02)


def test_a_generation_is_its_prefill_and_its_steps():
    one = service("llama3-8b")
    first = prefill_seconds(one, 4, 512)
    assert generation_seconds(one, 4, 512, 1) == first
    whole = generation_seconds(one, 4, 512, 101)
    steps = sum(decode_step_seconds(one, 4, 512 + i) for i in range(1, 101))
    assert whole == pytest.approx(first + steps, rel=0.01)


def test_a_prompt_beyond_the_budget_takes_further_iterations():
    one = service("llama3-8b", limits=Limits(max_tokens=1024))
    once = service("llama3-8b", limits=Limits(max_tokens=8192))
    assert prefill_seconds(one, 1, 8192) > prefill_seconds(once, 1, 8192)
    whole = service("llama3-8b", engine="trtllm", limits=Limits(max_tokens=1024))
    assert prefill_seconds(whole, 1, 8192) == pytest.approx(
        prefill_seconds(replace(whole, limits=Limits()), 1, 8192)
    )


@pytest.mark.parametrize(
    ("accelerator", "tp", "prompt", "prefill_ms", "decode_ms"),
    [
        # Llama-2 70B fp16, batch 1, 8 accelerators of a node: Mutinifni/splitwise-sim 8f99e7d,
        # data/perf_model.csv (profiles of Patel et al., ISCA 2024)
        ("h100-sxm", 8, 512, 54.8, 31.9),
        ("h100-sxm", 4, 2048, 200.7, 29.8),
        ("h100-sxm", 2, 8192, 1339.8, 37.8),
        ("a100-sxm-80gb", 8, 512, 92.8, 45.0),
        ("a100-sxm-80gb", 4, 2048, 403.3, 45.0),
        ("a100-sxm-80gb", 2, 1024, 377.1, 54.8),
    ],
)
def test_static_batches_of_the_splitwise_profiles(accelerator, tp, prompt, prefill_ms, decode_ms):
    how = {"engine": "vllm-2023", "precision": "fp16", "tp": tp}
    one = service("llama2-70b", f"1x8x{accelerator}", **how)
    assert 1e3 * prefill_seconds(one, 1, prompt) == pytest.approx(prefill_ms, rel=0.2)
    assert 1e3 * decode_step_seconds(one, 1, prompt + 64) == pytest.approx(decode_ms, rel=0.2)


@pytest.mark.parametrize(
    ("model", "cluster", "precision", "latency_s"),
    [
        # batch 1, 512 prompt and 256 output tokens under vLLM 0.7.2: Red Hat AI model cards of
        # the quantised DeepSeek-R1 distillations
        ("qwen2.5-14b", "1x1xa100-sxm-80gb", "bf16", 5.2),
        ("llama3-8b", "1x1xh100-sxm", "bf16", 1.9),
        ("llama3-8b", "1x1xh100-sxm", "fp8", 1.4),
        ("llama3-8b", "1x1xh100-sxm", "w4a16", 1.4),
        ("llama3.1-70b", "1x1xa100-sxm-80gb", "w4a16", 9.2),
        ("qwen2.5-14b", "1x1xrtx-a6000", "w4a16", 4.0),
    ],
)
def test_batch_one_latency_of_quantised_models(model, cluster, precision, latency_s):
    one = service(model, cluster, "vllm-0.7", precision=precision)
    assert generation_seconds(one, 1, 512, 256) == pytest.approx(latency_s, rel=0.12)


@pytest.mark.parametrize(("accelerator", "share"), [("a100-sxm-80gb", 0.82), ("h100-sxm", 1.0)])
def test_many_rows_wait_for_weights_that_are_expanded_again(accelerator, share):
    p = pricer(service("llama3.1-70b", f"1x4x{accelerator}", "vllm-0.7", tp=4, precision="w4a16"))
    products = {product: 1 for product in p.decode if product.form == LINEAR}
    few, many = products_seconds(products, np.array([64.0, 65536.0]), p.shape, p.table)
    # bound by multiplying: 2 m n k at a share of what 16-bit products reach
    flops = 2.0 * 65536.0 * sum(product.n * product.k for product in products)
    row = device_parameters(p.shape.accelerator, sustained=False)[layout.DTYPES.index("bf16")]
    assert many == pytest.approx(
        flops / (row[layout.GEMM_COMPUTE] * row[layout.PEAK] * share), rel=0.02
    )
    assert few < many / 300.0


def test_experts_of_ranks_rise_with_their_tokens():
    wide = service("deepseek-v3", "1x8xh200-sxm", "trtllm-1.1", tp=8, ep=8, precision="fp8_block")
    p = pricer(wide)
    tokens = np.array([2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0])
    seconds = experts_seconds(p.shape, p.shape.model.moe, tokens, p.table)
    assert (np.diff(seconds) > 0.0).all()
    # never beyond what reading all of a rank's experts takes, and a launch
    weights = 32 * expert_bytes(p.shape, p.shape.model.moe)
    assert seconds[-1] < 2.0 * weights / p.shape.accelerator.memory_bytes_per_s


def test_scales_of_blocks_are_found_apart_where_the_engine_does_so():
    one = make_shape(service("deepseek-v3", "1x8xb200-sxm", "trtllm-1.1", tp=8, precision="fp8"))
    block = make_shape(
        service("deepseek-v3", "1x8xb200-sxm", "trtllm-1.1", tp=8, precision="fp8_block")
    )
    fused = replace(block, engine=replace(block.engine, fuses_blocks=True))
    whole, removed = (
        device_table(s)[LINEAR, [layout.GEMM_LAUNCH, layout.QUANTISE]].sum() for s in (block, fused)
    )
    assert removed < whole
    plain = replace(one, engine=replace(one.engine, fuses_blocks=True))
    np.testing.assert_array_equal(device_table(one), device_table(plain))


def test_eight_bit_products_with_block_scales_are_measured_ones():
    forms = {name: make_shape(service(precision=name)).scheme.linear for name in FORMATS}
    alone = {name for name, form in forms.items() if weights_alone(form)}
    # no H100 multiplies 4-bit floats
    assert alone == {"w4a16", "w8a16", "mxfp4", "nvfp4"}


def test_formats_that_a_device_cannot_multiply_are_expanded():
    eight = make_shape(service(cluster="1x8xa100-sxm-80gb", precision="fp8"))
    assert eight.scheme.linear.compute == "bf16"
    assert eight.scheme.linear.weight_bytes == 1.0
    four = pricer(service(precision="nvfp4"))
    assert four.shape.scheme.linear.compute == "bf16"
    assert any(product.form == LINEAR for product in four.decode)
    bf16 = decode_step_seconds(service(cluster="1x8xa100-sxm-80gb"), 1, 100)
    assert decode_step_seconds(service(cluster="1x8xa100-sxm-80gb", precision="fp8"), 1, 100) < bf16


@pytest.mark.parametrize("wrong", [{"batch": 0}, {"context": 0}, {"batch": 1.5}])
def test_bad_counts_are_refused(wrong):
    with pytest.raises(InputError, match="whole number of at least 1"):
        decode_step_seconds(service(), **({"batch": 1, "context": 1} | wrong))


def test_decodes_are_padded_to_graphs_that_were_captured():
    def linear(engine, *batches):
        served = Service(
            model=load_model("llama3-8b"), cluster=make_cluster("1x8xh100-sxm"), engine=engine
        )
        return decode_linear(pricer(served), np.array(batches, float))

    # by eights up to 128, then doublings: 129 runs as 256 does
    below, edge, above, full = linear("trtllm-1.1", 120.0, 128.0, 129.0, 256.0)
    assert below <= edge < above == full
    near, next_, far = linear("vllm-0.15", 128.0, 129.0, 256.0)
    assert near <= next_ < far


def test_the_host_drives_each_micro_batch_of_a_pipeline():
    one, four = (
        Service(
            model=load_model("llama3-8b"),
            cluster=make_cluster("1x8xh100-sxm"),
            engine="vllm-0.12",
            pp=pp,
        )
        for pp in (1, 4)
    )
    assert iteration_tables(four).host_s == 4 * iteration_tables(one).host_s


def test_links_between_peers_carry_less_than_switches():
    served = Service(
        model=load_model("llama3.1-70b"),
        cluster=make_cluster("1x8xmi300x"),
        engine="vllm-rocm",
        tp=8,
        precision="fp8",
    )
    s = make_shape(served)
    own = custom_all_reduce_set(s.accelerator, "vllm")
    tokens = np.array([1.0, 256.0])
    moved = tokens * s.model.hidden * 2.0
    plain = predict_custom_all_reduce(
        np.append(moved, 1.0), 8, kernel_set=own, accelerator=s.accelerator
    )
    share = constants().direct_links
    assert all_reduce(s, tokens) == pytest.approx(plain[2] + (plain[:2] - plain[2]) / share)


def test_a_capped_clock_slows_all_of_a_prompt_token():
    full, capped = (
        make_shape(
            Service(
                model=load_model("llama2-70b"),
                cluster=make_cluster(f"1x8x{name}"),
                engine="vllm-2023",
                precision="fp16",
                tp=8,
            )
        )
        for name in ("h100-sxm", "h100-sxm-350w")
    )
    sustained = [s.accelerator.efficiency.sustained["bf16"] for s in (full, capped)]
    ratio = prompt_token_seconds(capped) / prompt_token_seconds(full)
    assert ratio == pytest.approx(sustained[0] / sustained[1])
