"""Memory of a service: closed forms of weights and cache, and what does not fit."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ridgeline.errors import InfeasibleError, InputError
from ridgeline.hardware.topology import make_cluster
from ridgeline.simulator.serving.capacity import (
    capacity,
    max_batch,
    pair_bytes,
    sequence_bytes,
    weight_bytes,
)
from ridgeline.simulator.serving.service import Limits, Service
from ridgeline.simulator.serving.shape import make_shape
from ridgeline.workloads import load_model
from ridgeline.workloads.parameters import parameters

GIB = 2.0**30


def service(model="llama3-8b", cluster="1x8xh100-sxm", engine="vllm", **how):
    return Service(model=load_model(model), cluster=make_cluster(cluster), engine=engine, **how)


@pytest.mark.parametrize(
    ("model", "how", "kib"),
    [
        # 2 x 8 KV heads x 128 x 2 bytes x 32 layers (Llama 3 report, table 3)
        ("llama3-8b", {}, 128.0),
        ("llama3-8b", {"kv_precision": "fp8"}, 64.0),
        ("llama3-8b", {"kv_precision": "int8"}, 64.0),
        ("llama3-8b", {"kv_precision": "int4"}, 32.0),
        ("llama3-8b", {"tp": 8}, 16.0),
        ("llama3-8b", {"pp": 4}, 32.0),
        # 2 x 8 x 128 x 2 x 80
        ("llama3.1-70b", {"tp": 4, "precision": "fp8"}, 80.0),
        # MHA: 2 x 32 x 128 x 2 x 32
        ("llama2-7b", {}, 512.0),
        # MLA: (512 + 64) x 2 x 61, the same on each tensor rank (DeepSeek-V3 report, 4.2)
        ("deepseek-v3", {"tp": 8, "cluster": "1x8xh200-sxm", "precision": "fp8_block"}, 68.625),
        ("deepseek-v3", {"tp": 8, "cluster": "1x8xb200-sxm", "precision": "nvfp4"}, 34.3125),
    ],
)
def test_cache_of_a_token(model, how, kib):
    assert capacity(service(model, **how)).kv_bytes_per_token / 1024 == pytest.approx(kib)


def test_more_ranks_than_kv_heads_copy_a_head():
    wide = service("llama3-8b", cluster="2x8xh100-sxm", tp=16)
    assert capacity(wide).kv_bytes_per_token == 2 * 128 * 2 * 32
    narrow = make_shape(service("llama3-8b", cluster="2x8xh100-sxm", tp=8))
    assert (make_shape(wide).kv_heads, narrow.kv_heads) == (1, 1)
    assert weight_bytes(make_shape(wide)) > 0.5 * weight_bytes(narrow)


def test_weights_are_the_parameters_at_16_bits():
    for model in ("llama3-8b", "qwen3-30b-a3b", "deepseek-v2-lite"):
        s = make_shape(service(model))
        exact = 2.0 * parameters(s.model).total
        # but for the final norm
        assert weight_bytes(s) == pytest.approx(exact, rel=1e-6), model


def test_splits_and_precisions_of_weights():
    whole = weight_bytes(make_shape(service("llama3.1-70b", cluster="8x8xh100-sxm")))
    for split in ({"tp": 8}, {"pp": 8}):
        part = weight_bytes(make_shape(service("llama3.1-70b", **split)))
        assert whole / 8 <= part < 1.1 * whole / 8, split
    eight = weight_bytes(make_shape(service("llama3.1-70b", precision="fp8")))
    four = weight_bytes(make_shape(service("llama3.1-70b", precision="w4a16")))
    ends = 2.0 * 2.0 * 128256 * 8192
    assert eight - ends == pytest.approx(0.5 * (whole - ends), rel=1e-3)
    assert four - ends == pytest.approx(0.5 * (0.5 + 1 / 64) * (eight - ends) * 2.0, rel=1e-3)


def test_four_bit_experts_keep_attention_in_16_bits():
    model = load_model("gpt-oss-120b")
    s = make_shape(service("gpt-oss-120b", precision="mxfp4"))
    count = parameters(model)
    expected = 2.0 * (count.total - count.experts) + (0.5 + 1 / 32) * count.experts
    assert weight_bytes(s) == pytest.approx(expected, rel=1e-6)
    # the published checkpoint: 60.8 GiB (gpt-oss model card, table 1)
    assert weight_bytes(s) / GIB == pytest.approx(60.8, rel=0.02)


def test_expert_ranks_share_the_experts():
    one = weight_bytes(make_shape(service("mixtral-8x7b", tp=2)))
    two = weight_bytes(make_shape(service("mixtral-8x7b", tp=2, ep=2)))
    assert one == pytest.approx(two)
    data = weight_bytes(make_shape(service("mixtral-8x7b", tp=1, dp=2, ep=2)))
    assert one < data < one + 2.0 * 2e9  # attention and ends are whole on each data rank


def test_a_window_keeps_no_more_than_itself():
    s = make_shape(service("gemma2-9b"))
    a = s.model.attention
    layer = 2 * a.kv_heads * a.head_dim * 2.0
    short, long = sequence_bytes(s, 1000.0), sequence_bytes(s, 8192.0)
    assert short == pytest.approx(42 * 1000 * layer)
    assert long == pytest.approx(21 * (8192 + 4096) * layer)


def test_memory_rules():
    total = capacity(service("llama3-8b", engine="vllm"))
    memory, weights = total.memory_bytes, total.weight_bytes
    assert total.cache_bytes == pytest.approx(0.9 * memory - weights - 3e9)
    free = capacity(service("llama3-8b", engine="trtllm"))
    assert free.cache_bytes == pytest.approx(0.9 * (memory - weights - 3e9))
    assert free.kv_tokens == int(free.cache_bytes / free.kv_bytes_per_token / 32) * 32
    limited = service("llama3-8b", limits=Limits(memory_fraction=0.5, block_tokens=64))
    half = capacity(limited)
    assert half.cache_bytes == pytest.approx(0.5 * memory - weights - 3e9)
    assert half.kv_tokens % 64 == 0


def test_sglang_leaves_what_a_chunk_and_graphs_need():
    room = capacity(service("llama3-8b", engine="sglang", tp=2))
    # 512 + 1.5 x 8192 + 2 x 256 + 2 x 128 MiB (server_args.py), and 3 GB of the runtime
    headroom = (512 + 1.5 * 8192 + 2 * 256 + 2 * 128) * 2.0**20
    left = room.memory_bytes - headroom - room.weight_bytes - 3e9
    assert room.cache_bytes == pytest.approx(left)
    stated = capacity(service("llama3-8b", engine="sglang", limits=Limits(memory_fraction=0.8)))
    assert stated.cache_bytes == pytest.approx(
        0.8 * stated.memory_bytes - stated.weight_bytes - 3e9
    )


def test_an_engine_that_frees_no_windows_keeps_all():
    freed, kept = (
        sequence_bytes(make_shape(service("gpt-oss-20b", engine=engine, precision="mxfp4")), 8192.0)
        for engine in ("vllm", "trtllm")
    )
    layers = load_model("gpt-oss-20b").num_layers
    token = 2 * 8 * 64  # values of a layer: keys and values of 8 heads
    assert kept == pytest.approx(layers * 8192 * token)  # 8-bit cache
    assert freed == pytest.approx(2 * layers / 2 * (8192 + 128) * token)


def test_copies_of_experts_take_memory():
    one = service("deepseek-v3", "1x8xb200-sxm", "sglang", dp=8, ep=8, precision="fp8_block")
    s = make_shape(one)
    copied = make_shape(replace(one, expert_slots=288))
    routed = weight_bytes(copied) - weight_bytes(s)
    assert routed == pytest.approx(32 / 8 * 58 * 3 * 7168 * 2048 * (1 + 4 / 128**2))


def test_data_ranks_have_caches_of_their_own():
    one, two = (capacity(service("llama3-8b", dp=dp)).kv_tokens for dp in (1, 2))
    assert two == 2 * one


def test_a_narrower_cache_holds_more():
    tokens = [
        capacity(service("llama3-8b", kv_precision=kv)).kv_tokens
        for kv in ("bf16", "fp8", "int8", "int4")
    ]
    assert tokens[0] < tokens[1] == tokens[2] < tokens[3]


def test_largest_batch_falls_with_context():
    sizes = [max_batch(service("llama3-8b"), context) for context in (1024, 8192, 65536)]
    assert sizes == sorted(sizes, reverse=True)
    room = capacity(service("llama3-8b"))
    assert sizes[1] == int(room.cache_bytes // (8192 * room.kv_bytes_per_token))
    assert max_batch(service("llama3-8b", limits=Limits(max_sequences=4)), 1024) == 4


def test_weights_that_do_not_fit():
    with pytest.raises(
        InfeasibleError, match=r"llama3\.1-405b in bf16 takes .* split it 1\d times"
    ):
        capacity(service("llama3.1-405b"))
    assert capacity(service("llama3.1-405b", cluster="1x8xb200-sxm", tp=8)).kv_tokens > 0
    with pytest.raises(InfeasibleError, match="a sequence of 10000000 tokens"):
        max_batch(service("llama3-8b"), 10_000_000)


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({"tp": 16}, "tp x pp x dp x replicas = 16: the cluster has 8"),
        ({"tp": 2, "ep": 3}, "has no experts"),
        ({"model": "mixtral-8x7b", "tp": 4, "ep": 3}, "must divide tp x dp = 4"),
        ({"tp": 0}, "tp = 0: must be at least 1"),
        ({"precision": "int3"}, "precision 'int3': unknown"),
        ({"kv_precision": "fp5"}, "kv_precision 'fp5': unknown"),
        ({"engine": "vlm"}, "did you mean 'vllm'"),
        ({"cluster": "8x8xh100-sxm", "tp": 64}, "at most the 32 attention heads"),
        ({"cluster": "8x8xh100-sxm", "pp": 64}, "at most the 32 layers"),
    ],
)
def test_what_cannot_be_is_refused(how, said):
    with pytest.raises(InputError, match=said) as caught:
        capacity(service(**how))
    assert len(caught.value.problems) == 1


def test_speculation_out_of_range_is_refused():
    wrong = service()
    bad = replace(wrong, speculation=replace(wrong.speculation, tokens=-1, acceptance=1.5))
    with pytest.raises(InputError) as caught:
        capacity(bad)
    assert len(caught.value.problems) == 2


def test_buffers_of_experts_are_set_aside_before_the_cache():
    wide = service(
        "qwen3-235b-a22b",
        cluster="1x8xh100-sxm",
        engine="trtllm-1.0",
        dp=8,
        ep=8,
        precision="fp8",
        limits=Limits(max_tokens=4096),
    )
    s = make_shape(wide)
    # 8 ranks x 4096 tokens x 8 experts: fp8 in, 16 bits before and after, fp8 activated
    pairs = 8 * 4096 * 8
    each = 4096 * (1 + 2) + 1536 * (2 * 2 + 1)
    assert pair_bytes(s) == pytest.approx(pairs * each)
    found = capacity(wide)
    assert found.reserve_bytes == pytest.approx(s.engine.reserve_bytes + pairs * each)
    # never more than half of what weights leave, however many tokens
    most = capacity(replace(wide, limits=Limits(max_tokens=262144)))
    left = most.memory_bytes - most.weight_bytes - s.engine.reserve_bytes
    assert most.reserve_bytes - s.engine.reserve_bytes == pytest.approx(0.5 * left)
    assert pair_bytes(make_shape(service("llama3-8b"))) == 0.0


def test_four_bits_take_whole_layers_but_latent_attention():
    dense = make_shape(service("qwen3-235b-a22b", cluster="1x8xb200-sxm", precision="nvfp4"))
    assert dense.scheme.attention == dense.scheme.linear == dense.scheme.experts
    latent = make_shape(service("deepseek-v3", cluster="1x8xb200-sxm", tp=8, precision="nvfp4"))
    assert latent.scheme.attention == latent.scheme.plain
    assert latent.scheme.linear == latent.scheme.experts
    alone = make_shape(service("gpt-oss-120b", cluster="1x8xb200-sxm", precision="mxfp4"))
    assert alone.scheme.attention == alone.scheme.linear == alone.scheme.plain
