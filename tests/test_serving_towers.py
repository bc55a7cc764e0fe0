"""Serving encoders, encoder-decoders and models that read images."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from ridgeline.errors import InputError
from ridgeline.hardware import make_cluster
from ridgeline.simulator.serving.capacity import capacity
from ridgeline.simulator.serving.iteration import iteration_tables
from ridgeline.simulator.serving.policy import policy_of
from ridgeline.simulator.serving.serve import serve
from ridgeline.simulator.serving.service import Limits, Service, Speculation
from ridgeline.simulator.serving.static import (
    decode_step_seconds,
    generation_seconds,
    prefill_seconds,
    roofline_bound,
)
from ridgeline.workloads import load_model, model_from_config
from ridgeline.workloads.inputs import with_inputs
from ridgeline.workloads.model import Model
from ridgeline.workloads.parameters import parameters
from ridgeline.workloads.traffic.build import closed_loop
from ridgeline.workloads.traffic.lengths import Lengths

ENCODER_DECODER = model_from_config(
    {
        "model_type": "t5",
        "d_model": 1024,
        "d_ff": 4096,
        "num_layers": 16,
        "num_decoder_layers": 6,
        "num_heads": 16,
        "d_kv": 64,
        "vocab_size": 32128,
    },
    "encoder-decoder",
)
DECODER = model_from_config(
    {
        "model_type": "llama",
        "hidden_size": 1024,
        "intermediate_size": 2730,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "vocab_size": 32128,
        "tie_word_embeddings": True,
    },
    "decoder",
)


def service(model: str | Model, cluster: str = "1xh100-sxm", **settings: object) -> Service:
    shape = load_model(model) if isinstance(model, str) else model
    return Service(model=shape, cluster=make_cluster(cluster), engine="vllm", **settings)


def test_both_have_a_third_of_a_billion_parameters() -> None:
    counts = [parameters(model).total for model in (ENCODER_DECODER, DECODER)]
    assert counts == pytest.approx([335e6, 335e6], rel=0.001)


@pytest.mark.parametrize("device", ["1xl4", "1xrtx-4090"])
@pytest.mark.parametrize(("prompt", "answer"), [(512, 128), (2048, 256)])
def test_an_encoder_decoder_is_quicker_than_a_decoder(
    device: str, prompt: int, answer: int
) -> None:
    # Elfeki et al. 2025 (arXiv:2501.16273): 47% lower first-token latency, 4.7x throughput, with
    # two thirds of the layers in the encoder. By bytes and FLOPs at least these: a prompt passes
    # 16 of 22 layers and the decoder's keys and values, a token 6 of 24.
    both, one = (service(model, device) for model in (ENCODER_DECODER, DECODER))
    first = prefill_seconds(both, 1, prompt) / prefill_seconds(one, 1, prompt)
    assert 0.6 < first < 0.95
    whole = generation_seconds(one, 1, prompt, answer) / generation_seconds(both, 1, prompt, answer)
    assert 2.0 < whole < 4.7


def test_the_cache_of_a_decoder_holds_the_input_once() -> None:
    # keys and values of the encoder's output in 6 layers, 2 x 16 heads x 64 x 2 bytes each
    room = capacity(service(ENCODER_DECODER))
    assert room.kv_bytes_per_token == 6 * 2 * 16 * 64 * 2
    total = parameters(ENCODER_DECODER).total
    assert room.weight_bytes == pytest.approx(2.0 * total, rel=1e-3)


@pytest.mark.parametrize("name", ["bert-large", "vit-l-16", "llava-1.5-7b", "t5-large"])
def test_weights_are_the_parameters_of_all_stacks(name: str) -> None:
    found = capacity(service(name)).weight_bytes
    assert found == pytest.approx(2.0 * parameters(load_model(name)).total, rel=1e-3)


def test_reading_in_both_directions_takes_longer() -> None:
    encoder = service("bert-large")
    decoder = service(replace(load_model("bert-large"), causal=True))
    short, long = (
        prefill_seconds(encoder, 1, n) / prefill_seconds(decoder, 1, n) for n in (64, 16384)
    )
    assert 1.0 <= short < 1.05 < long < 2.0


def test_images_are_read_once_by_prompt() -> None:
    with_images = load_model("llava-1.5-7b")
    text = with_inputs(with_images, images=0)
    more, less = (iteration_tables(service(model)) for model in (with_images, text))
    ours = more.prefill_attention_s
    assert more.prior_tokens[:2].tolist() == [0.0, 1.0]
    rows = np.isin(more.new_tokens, less.new_tokens)
    first = ours[rows, 0] - less.prefill_attention_s[:, 0]
    assert first == pytest.approx(np.full(len(first), first[0]), rel=1e-6)
    assert first[0] > 0.0
    columns = np.isin(more.prior_tokens, less.prior_tokens[1:])
    assert ours[np.ix_(rows, columns)] == pytest.approx(less.prefill_attention_s[:, 1:])
    # as long as the floor of its launches, or as its FLOPs: 0.35 TFLOP
    assert 0.35e12 / 989e12 < first[0] < 0.02
    two = with_inputs(load_model("qwen2-vl-7b"), images=2, image_tokens=1024)
    one = with_inputs(two, images=1)
    times = [prefill_seconds(service(model), 1, 4096) for model in (one, two)]
    assert times[0] < times[1]


def test_a_step_is_never_under_its_roofline() -> None:
    for batch, context in ((1, 128), (16, 1024), (64, 4096)):
        asked = service(ENCODER_DECODER)
        step = decode_step_seconds(asked, batch, context)
        assert step > roofline_bound(asked, batch, context) > 0.0


@pytest.mark.parametrize("name", ["bert-base", "t5-small"])
def test_prompts_are_read_whole(name: str) -> None:
    assert not policy_of(service(name)).chunked
    assert policy_of(service("llava-1.5-7b")).chunked
    with pytest.raises(InputError, match="reads its prompts whole"):
        prefill_seconds(service(name, limits=Limits(chunked_prefill=True)), 1, 64)
    with pytest.raises(InputError, match="prefix_caching"):
        prefill_seconds(service(name, limits=Limits(prefix_caching=True)), 1, 64)


def test_what_cannot_be_served() -> None:
    with pytest.raises(InputError, match="makes an image in many passes"):
        prefill_seconds(service("dit-xl-2"), 1, 256)
    with pytest.raises(InputError, match="t5-large has an encoder; pp = 1 serves it"):
        prefill_seconds(service("t5-large", "2xh100-sxm", pp=2), 1, 64)
    with pytest.raises(InputError, match="writes no tokens"):
        prefill_seconds(service("bert-base", speculation=Speculation(tokens=2)), 1, 64)
    with pytest.raises(InputError, match="answers each input with one vector"):
        generation_seconds(service("bert-base"), 1, 64, 2)


@pytest.mark.parametrize(
    ("name", "prompt", "answer", "says"),
    [
        ("bert-base", 128, 9, "output_len = 9: bert-base answers each input with one vector"),
        ("llava-1.5-7b", 500, 9, "input_len = 500: shorter than the 576 image tokens"),
    ],
)
def test_traffic_that_a_model_cannot_answer(name: str, prompt: int, answer: int, says: str) -> None:
    traffic = closed_loop(4, 1, Lengths(mean=prompt), Lengths(mean=answer), seed=0)
    with pytest.raises(InputError, match=says):
        serve(service(name), traffic)
