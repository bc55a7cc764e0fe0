"""FLOP counts against closed forms and published tables."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ridgeline.errors import InputError
from ridgeline.workloads import (
    chinchilla_flops,
    custom_model,
    forward_flops,
    kv_bytes_per_token,
    load_model,
    model_names,
    training_flops_per_token,
)
from ridgeline.workloads.flops import mean_keys
from ridgeline.workloads.model import Model
from ridgeline.workloads.parameters import parameters

# Hoffmann et al. 2022 (arXiv:2203.15556), Table A4: millions of parameters, layers, d_model,
# ffw_size, heads, key size, FLOPs by their count over 6ND.
TABLE_A4 = [
    (73, 10, 640, 2560, 10, 64, 1.03),
    (305, 20, 1024, 4096, 16, 64, 1.10),
    (552, 24, 1280, 5120, 10, 128, 1.08),
    (1100, 26, 1792, 7168, 14, 128, 1.04),
    (1600, 28, 2048, 8192, 16, 128, 1.03),
    (6800, 40, 3584, 14336, 28, 128, 0.99),
]


def chinchilla_model(layers: int, hidden: int, ffn_hidden: int, heads: int, dim: int) -> Model:
    """Relative positions, tied embeddings and 32,000 tokens (their section 4.1 and model card)."""
    return custom_model(
        layers=layers,
        hidden=hidden,
        ffn_hidden=ffn_hidden,
        heads=heads,
        head_dim=dim,
        vocab=32_000,
        gated=False,
        tied=True,
        bias=False,
        positions="relative",
    )


@pytest.mark.parametrize("row", TABLE_A4)
def test_chinchilla_table_a4(row: tuple[int, int, int, int, int, int, float]) -> None:
    millions, *shape, ratio = row
    model = chinchilla_model(*shape)
    size = parameters(model).total
    assert size / 1e6 == pytest.approx(millions, rel=0.04)
    assert chinchilla_flops(model, 2048, embeddings=False) / (6 * size) == pytest.approx(
        ratio, abs=0.0055
    )


def test_chinchilla_and_gopher_have_their_published_size() -> None:
    # Hoffmann et al. 2022, Table 4: the same layers counted with their relative positions.
    chinchilla = chinchilla_model(80, 8192, 32768, 64, 128)
    gopher = chinchilla_model(80, 16384, 65536, 128, 128)
    assert f"{parameters(chinchilla).total / 1e9:.0f}" == "70"
    assert f"{parameters(gopher).total / 1e9:.0f}" == "280"


def test_chinchilla_counts_the_embedding_twice() -> None:
    model = chinchilla_model(10, 640, 2560, 10, 64)
    extra = chinchilla_flops(model, 2048) - chinchilla_flops(model, 2048, embeddings=False)
    assert extra == 3 * 4 * model.vocab * model.hidden


def test_megatron_closed_form() -> None:
    # 96 B s L h^2 (1 + s/6h + V/16Lh) with full recompute, where the last term counts the head
    # four times as if it were recomputed too: Narayanan et al. 2021, equation 3.
    model = load_model("gpt3-175b")
    layers, hidden, vocab, seq = model.num_layers, model.hidden, model.vocab, 2048
    flops = training_flops_per_token(model, seq, "full", "full")
    expected = 96 * layers * hidden**2 * (1 + seq / (6 * hidden)) + 6 * hidden * vocab
    assert flops.hardware == pytest.approx(expected, rel=1e-12)


def test_korthikanti_closed_form() -> None:
    # Model FLOPs 72 B L s h^2 (1 + s/6h + v/12hL): Korthikanti et al. 2022, appendix A.
    # Repeating the scores of the forward pass adds a third of the middle term.
    model = load_model("gpt-22b")
    layers, hidden, vocab, seq = model.num_layers, model.hidden, model.vocab, 2048
    flops = training_flops_per_token(model, seq, "full", "selective")
    square = layers * hidden**2
    body = 72 * square * (1 + seq / (6 * hidden) + vocab / (12 * hidden * layers))
    again = 72 * square * (1 + seq / (6 * hidden) * 4 / 3 + vocab / (12 * hidden * layers))
    assert flops.model == pytest.approx(body, rel=1e-12)
    assert flops.hardware == pytest.approx(again, rel=1e-12)


def test_six_nd_within_its_known_error() -> None:
    # 6N leaves the scores out and counts the untied embedding, which multiplies nothing.
    model = load_model("llama3.1-405b")
    counts = parameters(model)
    flops = training_flops_per_token(model, 8192, "causal")
    assert flops.model / (6 * counts.total) == pytest.approx(1.0, abs=0.05)
    scores = 3 * forward_flops(model, 8192, "causal").attention_scores
    weights = counts.total - counts.embedding - counts.norms
    assert flops.model == 6 * weights + scores


def test_active_parameters_of_a_mixture() -> None:
    for name in ("mixtral-8x7b", "qwen3-30b-a3b"):
        model = load_model(name)
        counts = parameters(model)
        forward = forward_flops(model, 4096)
        weights = counts.active - counts.embedding - counts.norms
        assert forward.total - forward.attention_scores == 2 * weights


def test_mla_projections_are_its_weights() -> None:
    model = load_model("deepseek-v3")
    assert forward_flops(model, 4096).attention_projections == 2 * parameters(model).attention


def test_prediction_module_adds_a_layer_and_a_head() -> None:
    forward = forward_flops(load_model("deepseek-v3"), 4096)
    per_layer = forward.layers / 61
    assert forward.mtp - forward.head == pytest.approx(per_layer, rel=0.25)
    again = training_flops_per_token(load_model("deepseek-v3"), 4096, "causal", "full").recomputed
    assert again == pytest.approx(forward.total - 2 * forward.head)


@pytest.mark.parametrize("name", model_names())
def test_conventions(name: str) -> None:
    model = load_model(name)
    causal, full = (forward_flops(model, 2048, word) for word in ("causal", "full"))
    assert (causal.convention, full.convention) == ("causal", "full")
    if not model.windows and model.linear is None and model.cross is None:
        share = 2 if model.causal else 1
        assert causal.attention_scores == full.attention_scores / share
    assert causal.attention_scores <= full.attention_scores
    assert full.total - full.attention_scores - full.mtp == pytest.approx(
        causal.total - causal.attention_scores - causal.mtp
    )
    trained = training_flops_per_token(model, 2048)
    assert (trained.convention, trained.recompute) == ("causal", "none")
    assert trained.model == causal.total + 2 * causal.trained == trained.hardware


@settings(max_examples=40, deadline=None)
@given(seq=st.integers(1, 400), window=st.integers(0, 500))
def test_mean_keys_is_the_sum_over_queries(seq: int, window: int) -> None:
    # Query i meets min(i + 1, w) keys; the convention counts half a key fewer on the diagonal.
    reach = min(window, seq) if window else seq
    exact = sum(min(index + 1, reach) for index in range(seq)) / seq
    assert mean_keys(seq, window, "causal") == pytest.approx(exact - reach / (2 * seq), abs=1e-9)
    assert mean_keys(seq, window, "full") == reach


def test_kv_cache_of_a_token() -> None:
    # 2 L g d b = 2 x 32 x 8 x 128 x 2 = 128 KiB.
    assert kv_bytes_per_token(load_model("llama3-8b"), 2) == 128 * 1024
    # 61 layers of a latent of 512 and 64 rotary elements: 70 KB (DeepSeek-AI 2025,
    # arXiv:2505.09343, Table 1: 70.272 KB), against 516.096 KB of Llama-3.1 405B.
    assert kv_bytes_per_token(load_model("deepseek-v3"), 2) == 70_272
    assert kv_bytes_per_token(load_model("llama3.1-405b"), 2) == 516_096
    assert kv_bytes_per_token(load_model("qwen2.5-72b"), 2) == 327_680


def test_narrow_embedding_is_projected() -> None:
    forward = forward_flops(load_model("opt-350m"), 2048)
    assert forward.embedding == 2 * 512 * 1024
    assert forward.head == 2 * 512 * 50272 + 2 * 512 * 1024


def test_wrong_words_are_named() -> None:
    model = load_model("gpt2")
    with pytest.raises(InputError, match=r"'casual'.*did you mean 'causal'"):
        forward_flops(model, 1024, "casual")
    with pytest.raises(InputError, match=r"'ful'.*did you mean 'full'"):
        training_flops_per_token(model, 1024, recompute="ful")
    with pytest.raises(InputError, match="seq_len 0"):
        forward_flops(model, 0)


def test_a_delta_net_reads_its_weights_once_and_its_state_three_times() -> None:
    model = load_model("qwen3.5-397b-a17b")
    linear = model.linear
    assert linear is not None
    layers = [index for index in range(model.num_layers) if model.is_linear_layer(index)]
    assert len(layers) == 45
    state = linear.value_heads * linear.key_head_dim * linear.value_head_dim
    at_1k, at_2k = (forward_flops(model, length).attention_scores for length in (1024, 2048))
    # Full layers grow with the sequence, linear ones do not.
    assert 2 * at_1k - at_2k == pytest.approx(len(layers) * 6 * state)


def test_sparse_attention_stops_growing_but_its_indexer_does_not() -> None:
    model = load_model("glm-5")
    attention = model.attention
    keys = [mean_keys(length, 0, "causal") for length in (16384, 32768)]
    scores = [forward_flops(model, length).attention_scores for length in (16384, 32768)]
    index = 2 * attention.index_heads * attention.index_head_dim * model.num_layers
    assert scores[1] - scores[0] == pytest.approx(index * (keys[1] - keys[0]))
