"""Low-rank adapters on frozen weights: counts, memory, what a step leaves out."""

from __future__ import annotations

import pytest

from ridgeline.errors import InputError
from ridgeline.simulator import Plan, explain, read_plan, simulate_training
from ridgeline.simulator.adapters import adapter_parameters, layer_adapters
from ridgeline.simulator.search.enumerate import enumerate_plans
from ridgeline.simulator.search.space import Space
from ridgeline.workloads import load_model
from ridgeline.workloads.forms import Form

LLAMA = {
    "model.name": "llama2-70b",
    "cluster.spec": "8xh200-sxm",
    "parallel.tp": 4,
    "training.seq_len": 8192,
    "training.global_batch_seqs": 8,
}


def plan(task: str, **more: object) -> Plan:
    changes = {key.replace("__", "."): value for key, value in more.items()}
    return read_plan(None, LLAMA | {"training.task": task} | changes)


def test_adapters_of_llama2_70b() -> None:
    """Rank 16 on query, key, value and output: MLPerf's reference trains 44.6M parameters.

    64 heads and 8 key-value heads of 128, h = 8192: 16 x ((8192 + 10240) + (8192 + 8192)) x 80.
    """
    model = load_model("llama2-70b")
    assert layer_adapters(model, Form(), 16, "attention", 1) == 16 * (8192 + 10240 + 2 * 8192)
    assert adapter_parameters(plan("lora")) == pytest.approx(44.6e6, rel=1e-3)


def test_targets_add_the_mlp() -> None:
    """Gate and up of 28672 each, down: 16 x ((8192 + 57344) + (28672 + 8192)) more a layer."""
    more = adapter_parameters(plan("lora", training__lora_targets="all"))
    mlp = 16 * (8192 + 2 * 28672 + 28672 + 8192) * 80
    assert more == adapter_parameters(plan("lora")) + mlp


def test_a_step_has_no_weight_gradients_of_frozen_weights() -> None:
    names = {str(row["operator"]) for row in explain(plan("lora"))}
    assert not any("wgrad" in name for name in names)
    assert {"qkv adapter A", "attention output adapter B"} <= names
    assert any("wgrad" in str(row["operator"]) for row in explain(plan("sft")))


def test_the_step_is_shorter_and_counts_two_thirds_of_the_flops() -> None:
    full, lora = simulate_training(plan("sft")), simulate_training(plan("lora"))
    assert 0.6 < lora.step_time_s / full.step_time_s < 0.9
    assert lora.model_flops_per_step == pytest.approx(full.model_flops_per_step * 2 / 3)


def test_memory_holds_weights_once_and_state_of_adapters_alone() -> None:
    share = simulate_training(plan("lora", parallel__zero_stage=0)).worst_memory
    whole = 68.98e9 / 4 * 2.0
    assert share.weights == pytest.approx(whole, rel=0.01)
    assert share.gradients + share.optimizer < 0.02 * share.weights


def test_fine_tuning_all_weights_is_a_training_step() -> None:
    assert (
        simulate_training(plan("sft")).step_time_s
        == simulate_training(plan("pretrain")).step_time_s
    )


def test_a_frozen_model_is_gathered_but_only_adapters_are_reduced() -> None:
    """Under full sharding weights still have to come; what goes back is small."""
    sharded = {"parallel__zero_stage": 3, "parallel__tp": 1}
    full = simulate_training(plan("sft", **sharded))
    lora = simulate_training(plan("lora", **sharded))
    assert lora.step_time_s < full.step_time_s


def test_the_search_says_that_it_does_not_know_adapters() -> None:
    asked = plan("lora")
    space = Space(
        model=asked.model,
        clusters=(asked.cluster,),
        training=asked.training,
        stack=asked.stack,
    )
    with pytest.raises(InputError, match="does not know adapters"):
        enumerate_plans(space)


def test_a_rank_is_a_whole_number_above_zero() -> None:
    with pytest.raises(InputError, match="lora_rank"):
        plan("lora", training__lora_rank=0)


def test_packed_samples_attend_to_themselves_alone() -> None:
    """32 samples of 256 tokens in 8,192 cost their own scores: 1/32, and no other operator less."""
    whole = {str(row["operator"]): row for row in explain(plan("sft"))}
    packed = {str(row["operator"]): row for row in explain(plan("sft", training__sample_len=256))}
    assert whole.keys() == packed.keys()
    for name, row in whole.items():
        if name in ("attention", "attention gradient"):
            assert packed[name]["seconds"] < 0.2 * row["seconds"]
        else:
            assert packed[name]["seconds"] == row["seconds"]


def test_packing_counts_fewer_flops_and_one_whole_sample_changes_nothing() -> None:
    full = simulate_training(plan("sft"))
    packed = simulate_training(plan("sft", training__sample_len=256))
    whole = simulate_training(plan("sft", training__sample_len=8192))
    assert packed.step_time_s < full.step_time_s
    # 80 layers x 4 x 8192 hidden x mean keys (half of a sample) x 3 passes x 65,536 tokens
    spared = 3 * 80 * 4 * 8192 * (8192 - 256) / 2 * 8 * 8192
    assert full.model_flops_per_step - packed.model_flops_per_step == pytest.approx(
        spared, rel=0.01
    )
    assert whole.step_time_s == full.step_time_s


def test_a_sample_fits_into_its_sequence() -> None:
    with pytest.raises(InputError, match=r"sample_len.*8193: samples are packed"):
        plan("sft", training__sample_len=8193)
