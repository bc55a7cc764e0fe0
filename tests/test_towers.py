"""Encoders, encoder-decoders, towers and patches: one count in every step of the way."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from plans import QUIET, make_plan
from ridgeline.errors import InputError
from ridgeline.hardware import make_cluster
from ridgeline.simulator import legality
from ridgeline.simulator.blocks import compositions
from ridgeline.simulator.explanation import explain
from ridgeline.simulator.launchers.models import Shape, model_of_shape, unmapped_layers
from ridgeline.simulator.memory import memory_facts, stage_memory
from ridgeline.simulator.operators.build import build_table
from ridgeline.simulator.operators.shape import make_shape
from ridgeline.simulator.operators.table import BACKWARD, FORWARD, RECOMPUTE, WEIGHT
from ridgeline.simulator.plan import Plan, Training
from ridgeline.simulator.planfile import read_plan
from ridgeline.simulator.roofline.layout import (
    ATTENTION_BACKWARD,
    ATTENTION_FORWARD,
    GEMM,
    GROUPED_GEMM,
)
from ridgeline.simulator.search.enumerate import enumerate_plans
from ridgeline.simulator.search.space import Space, plan_at
from ridgeline.simulator.stacks import load_stack
from ridgeline.simulator.step import simulate_step
from ridgeline.simulator.training import hardware_flops_factor, simulate_training
from ridgeline.simulator.weights import part_parameters
from ridgeline.workloads import load_model, model_from_config
from ridgeline.workloads.catalogue import model_entry
from ridgeline.workloads.flops import forward_flops, mean_keys, training_flops_per_token
from ridgeline.workloads.inputs import masked, with_inputs
from ridgeline.workloads.parameters import parameters
from spaces import every_legal_plan

LENGTHS = {
    "bert-base": 512,
    "t5-small": 128,
    "vit-b-16": 197,
    "dit-b-2": 256,
    "llava-1.5-7b": 1024,
    "qwen2-vl-2b": 512,
    "microdit-xl-2": 64,
}
"""One model of each kind, and tokens of its sequences."""


# Counts -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "gmacs"), [("vit-b-16", 17.56), ("vit-l-16", 61.55)], ids=["base", "large"]
)
def test_multiply_adds_of_vision_transformers(name: str, gmacs: float) -> None:
    # docs.pytorch.org/vision, vit_b_16 and vit_l_16: GFLOPS, a multiply-add counted once
    model = load_model(name)
    assert model.patches is not None
    tokens = model.patches.tokens
    assert tokens == 197
    assert forward_flops(model, tokens).total * tokens / 2e9 == pytest.approx(gmacs, abs=0.006)


def test_a_vision_transformer_over_larger_images() -> None:
    # docs.pytorch.org/vision, vit_h_14 at 518 pixels: 633,470,440 parameters, 1016.72 GFLOPS
    config = {**model_entry("vit-h-14")["config"], "image_size": 518}
    model = model_from_config(config, "vit-h-14-518")
    assert parameters(model).total == 633_470_440
    tokens = 37 * 37 + 1
    assert forward_flops(model, tokens).total * tokens / 2e9 == pytest.approx(1016.72, rel=1e-4)


@pytest.mark.parametrize(
    ("name", "gmacs"),
    [("dit-s-2", 6.06), ("dit-b-2", 23.01), ("dit-l-2", 80.71), ("dit-xl-2", 118.64)],
)
def test_multiply_adds_of_diffusion_transformers(name: str, gmacs: float) -> None:
    # Peebles and Xie 2022 (arXiv:2212.09748), Table 4, by recollection
    assert forward_flops(load_model(name), 256).total * 256 / 2e9 == pytest.approx(gmacs, rel=1e-3)


def test_a_gated_t5_with_a_head_of_its_own() -> None:
    # count of the checkpoint's tensors, google/t5-v1_1-xl
    config = {
        "model_type": "t5",
        "d_model": 2048,
        "d_ff": 5120,
        "d_kv": 64,
        "num_heads": 32,
        "num_layers": 24,
        "feed_forward_proj": "gated-gelu",
        "tie_word_embeddings": False,
        "vocab_size": 32128,
    }
    assert parameters(model_from_config(config, "t5-v1.1-xl")).total == 2_849_757_184


def test_every_token_of_an_encoder_meets_all_others() -> None:
    model, s = load_model("bert-base"), 384
    a = model.attention
    scores = 12 * 4.0 * s * a.heads * a.head_dim
    assert forward_flops(model, s, "causal").attention_scores == scores
    assert forward_flops(replace(model, causal=True), s, "causal").attention_scores == scores / 2


def test_flops_of_an_encoder_decoder_in_closed_form() -> None:
    # by layer 4 h w of self-attention, as much of cross-attention, 2 h f of the MLP; w = a d
    model = with_inputs(load_model("t5-3b"), encoder_len=384)
    h, f, w, s, n = 1024, 16384, 32 * 128, 96, 384
    assert model.cross is not None
    assert (model.cross.tokens, model.towers[0].tokens) == (n, n)
    decoder = 24 * (2 * 4 * h * w + 4 * s / 2 * w + 2 * 2 * h * f) * s
    crossed = 24 * (2 * 2 * h * w * s + 2 * 2 * h * w * n + 4 * n * w * s)
    encoder = 24 * (2 * 4 * h * w + 4 * n * w + 2 * 2 * h * f) * n
    head = 2 * h * 32128 * s
    total = forward_flops(model, s).total * s
    assert total == pytest.approx(decoder + crossed + encoder + head, rel=1e-12)


def test_a_frozen_tower_has_no_backward_pass() -> None:
    frozen = load_model("llava-1.5-7b")
    trained = with_inputs(frozen, train_vision=True)
    less, more = (forward_flops(model, 1024) for model in (frozen, trained))
    assert less.total == more.total
    vision = forward_flops(frozen.towers[0].model, 577).total * 577 / 1024
    assert less.frozen == pytest.approx(vision)
    assert more.frozen == 0.0
    flops = [training_flops_per_token(model, 1024).model for model in (frozen, trained)]
    assert flops[1] - flops[0] == pytest.approx(2.0 * vision)


def test_images_are_as_many_as_asked() -> None:
    model = load_model("qwen2-vl-7b")
    assert with_inputs(model, images=0).towers == ()
    two = with_inputs(model, images=2, image_tokens=300)
    tower = two.towers[0]
    assert (tower.pieces, tower.outputs, tower.tokens) == (2, 300, 1200)
    one = with_inputs(model, images=1, image_tokens=300)
    ratio = forward_flops(two, 4096).towers / forward_flops(one, 4096).towers
    assert ratio == pytest.approx(2.0)


@pytest.mark.parametrize(
    ("name", "change", "says"),
    [
        ("llama3-8b", {"images": 1}, "images = 1: llama3-8b reads no images"),
        ("llama3-8b", {"encoder_len": 9}, "encoder_len = 9: llama3-8b has no encoder"),
        ("t5-small", {"image_tokens": 9}, "image_tokens = 9: t5-small reads no images"),
        ("llava-1.5-7b", {"image_tokens": 9}, "every image of llava-1.5-7b becomes 576 tokens"),
    ],
)
def test_inputs_that_a_model_does_not_have(name: str, change: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says):
        with_inputs(load_model(name), **change)


def test_masked_patches_are_seen_by_the_mixer_alone() -> None:
    model, seen = masked(load_model("microdit-xl-2"), 256, 0.75)
    mixer = model.towers[1]
    assert (mixer.name, mixer.tokens, seen) == ("patch mixer", 256, 64)
    with pytest.raises(InputError, match="250: the patches of a square image"):
        masked(model, 250, 0.75)
    with pytest.raises(InputError, match=r"masked = 0\.5: dit-b-2 has no patch mixer"):
        masked(load_model("dit-b-2"), 256, 0.5)


def test_a_plan_counts_whole_images_until_they_are_masked() -> None:
    tables: dict[str, object] = {
        "model.name": "microdit-xl-2",
        "cluster.spec": "8xh100-sxm",
        "training.seq_len": 256,
        "training.global_batch_seqs": 64,
        "training.micro_batch_seqs": 8,
        "training.tokens": 256.0 * 64 * 1000,
    }
    whole = read_plan(None, tables)
    less = read_plan(None, {**tables, "model.masked": 0.75})
    assert (whole.training.seq_len, less.training.seq_len) == (256, 64)
    results = [simulate_training(plan) for plan in (whole, less)]
    assert results[0].steps == results[1].steps == 1000
    assert results[1].step_time_s < results[0].step_time_s
    assert any("see 64 of the 256 patches" in line for line in results[1].warnings)
    mixer = results[1].plan["model"]["towers"][1]
    assert (mixer["name"], mixer["tokens"]) == ("patch mixer", 256)


# One count in every step of the way ---------------------------------------------------------------


def products(plan: Plan, *phases: int) -> float:
    """Return matrix FLOPs of the operator table for one micro-batch of all tensor ranks."""
    shape = make_shape(plan, load_stack(plan.stack))
    table, parts = build_table(shape, plan.training.recompute)
    times = np.zeros(int(table.part.max()) + 1)
    for composition in compositions(plan, parts):
        for unit in composition.units:
            for part in unit:
                times[part] += 1
    total = 0.0
    for row, kind in enumerate(table.kind.tolist()):
        if table.phase[row] not in phases:
            continue
        d = table.dims[row].tolist()
        flops = 0.0
        if kind == GEMM:
            flops = 2.0 * d[0] * d[1] * d[2] * d[3]
        elif kind == GROUPED_GEMM:
            flops = 2.0 * d[0] * d[1] * d[2]
        elif kind in (ATTENTION_FORWARD, ATTENTION_BACKWARD):
            met = mean_keys(d[4], d[7], "causal") if d[8] else d[4]
            flops = 2.0 * d[0] * d[1] * d[3] * met * (d[5] + d[6])
            flops *= 2.0 if kind == ATTENTION_BACKWARD else 1.0
        total += flops * times[table.part[row]]
    return total * plan.parallel.tp


@pytest.mark.parametrize("name", LENGTHS)
def test_operators_do_the_flops_that_are_counted(name: str) -> None:
    s = LENGTHS[name]
    plan = make_plan(name, seq_len=s, micro_batch_seqs=4)
    counted = forward_flops(plan.model, s)
    # patches: the class token passes their product too; the head of masked tokens takes whole ones
    assert products(plan, FORWARD) == pytest.approx(counted.total * s * 4, rel=1e-3)
    # what comes first has no input gradient
    backward = products(plan, BACKWARD, WEIGHT)
    assert backward == pytest.approx(2.0 * counted.trained * s * 4, rel=0.02)
    assert products(plan, RECOMPUTE) == 0.0


@pytest.mark.parametrize("name", LENGTHS)
def test_full_recompute_runs_every_trained_layer_again(name: str) -> None:
    s = LENGTHS[name]
    plan = make_plan(name, seq_len=s, micro_batch_seqs=4, recompute="full")
    again = products(plan, RECOMPUTE)
    forward = forward_flops(plan.model, s).total * s * 4
    assert again == pytest.approx(hardware_flops_factor(plan) * forward, rel=0.01)


@pytest.mark.parametrize("tp", [1, 2])
@pytest.mark.parametrize("name", LENGTHS)
def test_parameters_are_those_that_are_stored_and_exchanged(name: str, tp: int) -> None:
    plan = make_plan(name, seq_len=LENGTHS[name], tp=tp, dp=8 // tp, micro_batch_seqs=2)
    if legality.problems(plan):
        assert name == "microdit-xl-2"  # an odd number of heads
        return
    total = parameters(plan.model).total
    stack = load_stack(plan.stack)
    step = simulate_step(plan, stack)
    held = part_parameters(plan, step.parts)
    units = [part for c in compositions(plan, step.parts) for unit in c.units for part in unit]
    exchanged = sum(held[part].dense + held[part].experts for part in units)
    memory = stage_memory(plan, step.schedule, memory_facts(stack))[0]
    if tp == 1:
        # norms and biases at the ends of stacks
        assert exchanged == pytest.approx(total, rel=5e-4)
        assert memory.weights == pytest.approx(2.0 * total, rel=5e-4)
    else:
        assert total / 2 <= exchanged < total
        assert total <= memory.weights < 2.0 * total


def test_a_frozen_tower_keeps_weights_alone() -> None:
    frozen = make_plan("llava-1.5-7b", seq_len=1024)
    trained = replace(frozen, model=with_inputs(frozen.model, train_vision=True))
    stack = load_stack(frozen.stack)
    kept, more = (
        stage_memory(plan, simulate_step(plan, stack).schedule, memory_facts(stack))[0]
        for plan in (frozen, trained)
    )
    assert kept.weights == pytest.approx(more.weights)
    vision = parameters(frozen.model.towers[0].model).total
    assert more.optimizer - kept.optimizer == pytest.approx(12.0 * vision, rel=1e-3)
    assert more.activations > kept.activations
    results = [simulate_training(plan) for plan in (frozen, trained)]
    assert results[0].step_time_s < results[1].step_time_s
    assert results[0].model_flops_per_step < results[1].model_flops_per_step


def test_both_directions_cost_more_than_one() -> None:
    encoder = make_plan("bert-large", seq_len=4096, micro_batch_seqs=4)
    decoder = replace(encoder, model=replace(encoder.model, causal=True))
    times = [simulate_training(plan).step_time_s for plan in (encoder, decoder)]
    assert times[0] > times[1]


def test_longer_inputs_of_the_encoder_take_longer() -> None:
    times = []
    for length in (128, 512, 2048):
        model = with_inputs(load_model("t5-base"), encoder_len=length)
        times.append(simulate_training(make_plan(model, seq_len=128)).step_time_s)
    assert times == sorted(times)
    assert times[0] < times[-1]


def test_granularities_agree_on_towers() -> None:
    plan = make_plan("llava-1.5-7b", seq_len=1024, pp=2, micro_batches=4, recompute="selective")
    times = [simulate_training(plan, fine).step_time_s for fine in ("stage", "layer", "operator")]
    assert times == pytest.approx([times[0]] * 3, rel=1e-9)


def test_operators_of_towers_are_explained_by_name() -> None:
    records = explain(make_plan("llava-1.5-7b", seq_len=1024))
    parts = {record["part"] for record in records}
    assert {"vision: layer 0 (frozen)", "vision: ends", "layer 0", "embedding", "head"} == parts
    phases = {record["phase"] for record in records if record["part"] == "vision: layer 0 (frozen)"}
    assert phases == {"forward"}


# What cannot be ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "settings", "says"),
    [
        ("t5-small", {"pp": 2}, "parallel.pp = 2: every layer of t5-small attends to its encoder"),
        ("t5-small", {"cp": 2, "seq_len": 512}, "parallel.cp = 2: the encoder tower"),
        ("t5-small", {"lora_rank": 8}, "t5-small has towers, for which adapters are not priced"),
        ("llava-1.5-7b", {"offload": ("activations",)}, "activations of the vision tower"),
        ("llava-1.5-7b", {"seq_len": 512}, "training.seq_len = 512: shorter than the 576 image"),
    ],
)
def test_plans_that_towers_refuse(name: str, settings: dict[str, Any], says: str) -> None:
    plan = make_plan(name, **{"seq_len": LENGTHS[name], **settings})
    lines = legality.problems(plan)
    assert any(says in line for line in lines), lines


@pytest.mark.parametrize("name", ["t5-small", "llava-1.5-7b", "vit-b-16"])
def test_a_search_knows_the_same_plans(name: str) -> None:
    space = Space(
        model=load_model(name),
        clusters=(make_cluster("4xh100-sxm"),),
        training=Training(seq_len=1024, global_batch_seqs=8, micro_batch_seqs=1),
        stack="megatron-core",
        run=QUIET,
        recompute=("none", "full"),
        schedules=("1f1b",),
        vpp=(1,),
        offload=((), ("activations",)),
    )
    found = enumerate_plans(space)
    searched = [plan_at(space, found, row) for row in range(len(found))]
    legal = list(every_legal_plan(space))
    assert searched
    assert {repr((p.parallel, p.training)) for p in searched} == {
        repr((p.parallel, p.training)) for p in legal
    }


def test_a_shape_that_an_encoder_shares_is_a_decoder() -> None:
    # BERT-large, GPT-2 medium: 24 layers of 1,024 with 16 heads; LLaVA 7B has all of Llama 2 7B
    for name in ("bert-large", "llava-1.5-7b", "t5-small", "vit-b-16", "dit-b-2"):
        assert not load_model(name).is_decoder
    assert load_model("gpt2-medium").is_decoder
    shape = Shape(layers=24, hidden=1024, heads=16, kv_heads=16, ffn_hidden=4096, gated=False)
    assert shape.is_of(load_model("gpt2-medium"))
    assert not shape.is_of(load_model("bert-large"))
    assert model_of_shape(replace(shape, vocab=50257)) == "gpt2-medium"
    assert unmapped_layers(load_model("bert-large"))
    assert unmapped_layers(load_model("t5-small")) == ["model = 't5-small': its encoder tower"]


def test_a_frozen_tower_is_gathered_once_and_has_no_host_time_behind() -> None:
    plan = make_plan("llava-1.5-7b", seq_len=1024, zero_stage=3, stack="fsdp-composer")
    step = simulate_step(plan, load_stack(plan.stack))
    layers = {"decoder": 0, "vision": 1}
    exchange, host = step.exchange, step.costs.host
    assert [exchange.gather[part] > 0.0 for part in layers.values()] == [True, True]
    assert exchange.regather[layers["decoder"]] == exchange.gather[layers["decoder"]]
    for cost in (exchange.regather[1], exchange.reduce[1], host[1, 2]):
        assert cost == 0.0
    assert host[1, 0] > 0.0
    assert host[0, 2] > 0.0


@pytest.mark.parametrize(
    ("name", "change", "says"),
    [
        ("vit-b-16", {"patch_size": 15}, "'patch_size' is 15: must divide the image of 224"),
        ("microdit-xl-2", {"mlp_ratio": [1]}, "'mlp_ratio' is [1]: must be two numbers"),
        ("microdit-xl-2", {"expert_capacity": 9}, "'expert_capacity' is 9: must be at most the 8"),
        ("llava-1.5-7b", {"vision_config": {"model_type": "siglip"}}, "must be clip_vision_model"),
        ("llava-1.5-7b", {"text_config": {"model_type": "opt"}}, "must be llama or mistral"),
        ("bert-base", {"hidden_size": None}, "missing field 'hidden_size'"),
        ("t5-base", {"num_decoder_layers": 10**6}, "'num_decoder_layers' is 1000000: must be"),
    ],
)
def test_configurations_that_cannot_be(name: str, change: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError) as caught:
        model_from_config({**model_entry(name)["config"], **change}, name)
    assert any(says in line for line in caught.value.problems), caught.value.problems
