"""What is trained of a model, and what a step runs beside: counts, memory, passes left out."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ridgeline.cli import BAD_INPUT, run
from ridgeline.errors import InputError
from ridgeline.simulator import Plan, explain, read_plan, simulate_training
from ridgeline.simulator.collectives import network
from ridgeline.simulator.endings import transfer_seconds
from ridgeline.simulator.launchers.convert import write_launcher
from ridgeline.simulator.search.enumerate import enumerate_plans
from ridgeline.simulator.search.space import Space
from ridgeline.simulator.stacks import load_stack
from ridgeline.simulator.step import simulate_step
from ridgeline.simulator.timeline import trace
from ridgeline.simulator.tuning import (
    added_parameters,
    nf4_bits,
    side_model,
    trained_parameters,
)
from ridgeline.workloads import load_model
from ridgeline.workloads.flops import forward_flops, layer_flops
from ridgeline.workloads.parameters import layer_parameters, parameters

ONE = {
    "model.name": "llama3-8b",
    "cluster.spec": "1x1xh100-sxm",
    "training.seq_len": 2048,
    "training.global_batch_seqs": 4,
    "stack.name": "fsdp-composer",
}
NODE = ONE | {
    "cluster.spec": "1x8xh100-sxm",
    "parallel.zero_stage": 3,
    "training.global_batch_seqs": 32,
    "training.micro_batch_seqs": 2,
}
LLAMA = load_model("llama3-8b")
FORWARD = forward_flops(LLAMA, 2048).total


def plan(base: dict[str, object] = ONE, **more: object) -> Plan:
    changes = {f"training.{key}": value for key, value in more.items() if "__" not in key}
    changes |= {key.replace("__", "."): value for key, value in more.items() if "__" in key}
    return read_plan(None, base | changes)


def flops(**more: object) -> float:
    """Return model FLOPs of a token over the forward pass."""
    result = simulate_training(plan(**more))
    return result.model_flops_per_step / (4 * 2048) / FORWARD


class TestQuantised:
    def test_bits_of_nf4(self) -> None:
        """Dettmers et al. 2023, section 3: 0.5 bits of scales a weight become 0.127."""
        assert nf4_bits(double_quantised=False) == 4.5
        assert nf4_bits(double_quantised=True) == pytest.approx(4.127, abs=5e-4)

    def test_weights_take_their_bits_and_ends_stay_wide(self) -> None:
        share = simulate_training(plan(task="qlora", recompute="full")).worst_memory
        layers = sum(layer_parameters(LLAMA, i).total for i in range(32))
        ends = parameters(LLAMA).total - layers
        adapters = trained_parameters(plan(task="qlora"))
        wide = 2.0 * (ends + adapters)
        assert share.weights == pytest.approx(layers * nf4_bits(double_quantised=True) / 8 + wide)

    def test_dequantisation_is_an_operator_of_every_product_of_a_layer(self) -> None:
        rows = [r for r in explain(plan(task="qlora")) if "dequantise" in str(r["operator"])]
        assert {str(r["operator"]).removesuffix(" dequantise") for r in rows} == {
            "qkv",
            "attention output",
            "mlp up",
            "mlp down",
        }
        assert {r["phase"] for r in rows} == {"forward", "backward"}
        up = next(r for r in rows if r["operator"] == "mlp up dequantise")
        bytes_moved = 2 * 14336 * 4096 * (nf4_bits(double_quantised=True) / 8 + 2)
        assert up["seconds"] > bytes_moved / 3.35e12

    def test_slower_and_smaller_than_lora(self) -> None:
        lora, qlora = (simulate_training(plan(task=t)) for t in ("lora", "qlora"))
        assert qlora.step_time_s > lora.step_time_s
        assert qlora.worst_memory.total < lora.worst_memory.total
        assert qlora.model_flops_per_step == lora.model_flops_per_step

    def test_fully_sharded_weights_are_gathered_in_their_bits(self) -> None:
        base = NODE | {"cluster.spec": "4x8xh100-sxm", "training.global_batch_seqs": 64}
        slow = base | {"cluster.scaleout_gb_per_s": 1.0}

        def exposed(task: str) -> float:
            result = simulate_training(plan(slow, task=task))
            return result.exposed_communication_fraction * result.step_time_s

        assert exposed("qlora") < 0.4 * exposed("lora")

    def test_pages_move_only_what_finds_no_room(self) -> None:
        keys = {
            "model__name": "llama-65b",
            "cluster__spec": "1x1xrtx-a6000",
            "task": "qlora",
            "lora_rank": 128,
            "lora_targets": "all",
            "seq_len": 512,
            "recompute": "full",
        }
        without = simulate_training(plan(**keys))
        paged = simulate_training(plan(**keys, paged_optimizer=True))
        over = without.worst_memory.total - without.memory_limit
        assert over > 0
        assert paged.fits
        assert paged.worst_memory.total == pytest.approx(paged.memory_limit)
        host = plan(**keys).cluster.accelerator.host_bytes_per_s
        assert paged.step_time_s - without.step_time_s == pytest.approx(2 * over / host)

    def test_with_room_nothing_is_paged(self) -> None:
        plain, paged = (
            simulate_training(plan(task="lora", paged_optimizer=p)) for p in (False, True)
        )
        assert plain.step_time_s == paged.step_time_s
        assert plain.memory == paged.memory


class TestFrozen:
    def test_flops_stop_at_the_last_trained_layer(self) -> None:
        below = sum(layer_flops(LLAMA, i, 2048) for i in range(24)) / FORWARD
        assert flops(frozen_layers=24) == pytest.approx(1 + 2 * (1 - below))
        assert flops() == pytest.approx(3.0)
        assert flops(task="lora", frozen_layers=24) == pytest.approx(1 + 1 - below)

    def test_layers_below_run_forward_alone(self) -> None:
        rows = explain(plan(frozen_layers=24))
        frozen = {str(r["phase"]) for r in rows if "frozen" in str(r["part"])}
        other = {str(r["phase"]) for r in rows if str(r["part"]) == "layer 0"}
        assert frozen == {"forward"}
        assert other == {"forward", "backward", "weight"}
        assert not any(r["phase"] == "weight" for r in rows if r["part"] == "embedding")

    def test_more_frozen_layers_are_never_slower_nor_larger(self) -> None:
        found = [simulate_training(plan(frozen_layers=n)) for n in (0, 8, 16, 31)]
        times = [one.step_time_s for one in found]
        memory = [one.worst_memory.total for one in found]
        assert times == sorted(times, reverse=True)
        assert memory == sorted(memory, reverse=True)

    def test_state_is_that_of_what_is_trained(self) -> None:
        share = simulate_training(plan(frozen_layers=31)).worst_memory
        count = parameters(LLAMA)
        trained = layer_parameters(LLAMA, 31).total + count.head + 4096
        assert share.weights == pytest.approx(2.0 * count.total)
        assert share.gradients + share.optimizer == pytest.approx(14.0 * trained)
        assert trained_parameters(plan(frozen_layers=31)) == pytest.approx(trained)

    def test_a_pipeline_sends_no_gradient_to_where_none_is_wanted(self) -> None:
        base = NODE | {"parallel.pp": 8, "parallel.zero_stage": 0}

        def sent_back(frozen: int) -> list[bool]:
            p = plan(base, frozen_layers=frozen)
            step = simulate_step(p, load_stack(p.stack))
            net = network(p.cluster)
            back = transfer_seconds(p, step.shape, net, step.schedule)[:, 1]
            return [bool(s > 0.0) for s in back]

        # stages of four layers; the first has nobody before it
        assert sent_back(0) == [True] * 8
        assert sent_back(12) == [False] * 4 + [True] * 4
        assert sent_back(28) == [False] * 8

    def test_embeddings_alone_need_the_whole_backward_pass(self) -> None:
        head = forward_flops(LLAMA, 2048).head / FORWARD
        assert flops(trained="embeddings") == pytest.approx(2.0 + head)
        names = {str(r["operator"]) for r in explain(plan(trained="embeddings"))}
        assert "head wgrad" in names
        assert not {"qkv wgrad", "mlp up wgrad"} & names
        share = simulate_training(plan(trained="embeddings")).worst_memory
        assert share.gradients == pytest.approx(2.0 * (2 * 128256 * 4096 + 4096))


class TestAdded:
    def test_bottlenecks_of_houlsby(self) -> None:
        """Two of 2 h m + m + h parameters in every layer (arXiv:1902.00751, section 2.1)."""
        training = plan(task="adapters", adapter_width=64).training
        assert added_parameters(LLAMA, 0, training, 1) == 2 * (2 * 4096 * 64 + 64 + 4096)

    def test_adapters_pass_gradients_and_train_nothing_else(self) -> None:
        names = [str(r["operator"]) for r in explain(plan(task="adapters"))]
        weights = {name for name in names if "wgrad" in name}
        assert weights == {
            f"{block} adapter {way} wgrad"
            for block in ("attention", "mlp")
            for way in ("up", "down")
        }
        assert "qkv dgrad" in names

    def test_a_ladder_is_as_deep_and_narrower(self) -> None:
        side = side_model(LLAMA, 8)
        assert (side.num_layers, side.hidden, side.ffn_hidden) == (32, 512, 1792)
        assert (side.attention.heads, side.attention.head_dim) == (32, 16)

    def test_no_gradient_goes_through_the_model_beside_a_ladder(self) -> None:
        rows = [r for r in explain(plan(task="ladder")) if r["phase"] != "forward"]
        products = [r for r in rows if r["kind"] == "gemm" and r["part"] != "head"]
        assert products
        wide = [r for r in products if "4096" in str(r["shape"]).split("x")[:3]]
        assert {str(r["operator"]) for r in wide} == {"ladder wgrad"}

    def test_a_ladder_saves_what_others_keep(self) -> None:
        """Order of Sung et al. 2022, table 1: full, adapters, ladder."""
        full, adapters, ladder = (
            simulate_training(plan(task=t)).worst_memory.total
            for t in ("sft", "adapters", "ladder")
        )
        assert ladder < adapters < full

    def test_checkpoints_hold_what_is_trained(self) -> None:
        p = plan(task="ladder")
        layers = sum(layer_parameters(side_model(LLAMA, 8), i).total for i in range(32))
        assert trained_parameters(p) == layers + 32 * (4096 * 512 + 1) + 4096 * 512


class TestObjectives:
    def test_preferences_take_two_forward_passes_and_one_backward(self) -> None:
        plain = simulate_training(plan(NODE))
        dpo = simulate_training(plan(NODE, objective="dpo"))
        assert dpo.model_flops_per_step == pytest.approx(4 / 3 * plain.model_flops_per_step)
        spent = {share.group: share.seconds for share in dpo.breakdown}
        assert dpo.step_time_s == pytest.approx(plain.step_time_s + spent["reference"])
        assert 0.2 < spent["reference"] / plain.step_time_s < 0.45

    def test_a_reference_is_a_copy_of_the_weights_unless_adapters_are_left_out(self) -> None:
        def weights(**more: object) -> float:
            return simulate_training(plan(NODE, **more)).worst_memory.weights

        assert weights(objective="dpo") == pytest.approx(2.0 * weights())
        assert weights(objective="dpo", reference="precomputed") == weights()
        assert weights(objective="dpo", task="lora") == weights(task="lora")

    def test_precomputed_references_cost_nothing_in_the_step(self) -> None:
        once = simulate_training(plan(NODE, objective="dpo", reference="precomputed"))
        assert once.step_time_s == simulate_training(plan(NODE)).step_time_s

    def test_a_teacher_is_a_forward_pass_of_its_own(self) -> None:
        taught = simulate_training(plan(NODE, objective="distill", teacher="llama3-70b"))
        teacher = forward_flops(load_model("llama3-70b"), 2048).total
        assert taught.model_flops_per_step == pytest.approx(32 * 2048 * (3 * FORWARD + teacher))
        spent = {share.group: share.seconds for share in taught.breakdown}
        assert spent["teacher"] > 0.5 * taught.step_time_s
        alone = simulate_training(plan(NODE))
        more = taught.worst_memory.weights - alone.worst_memory.weights
        assert more == pytest.approx(2.0 * 70.55e9 / 8, rel=0.01)

    def test_stored_logits_are_read_behind_the_step(self) -> None:
        plain = simulate_training(plan(NODE))
        quick = simulate_training(plan(NODE, objective="distill", stored_logits=64))
        assert quick.step_time_s == plain.step_time_s
        slow = simulate_training(
            plan(NODE, objective="distill", stored_logits=64, run__checkpoint_bytes_per_s=1e6)
        )
        assert slow.step_time_s == pytest.approx(32 * 2048 * 64 * 6 / 1e6)

    def test_explain_lists_the_frozen_model_too(self) -> None:
        parts = {str(r["part"]) for r in explain(plan(NODE, objective="dpo"))}
        assert {"layer 0", "scoring: layer 0", "scoring: head"} <= parts
        phases = {
            r["phase"]
            for r in explain(plan(NODE, objective="dpo"))
            if str(r["part"]).startswith("scoring")
        }
        assert phases == {"forward"}

    def test_nothing_of_these_was_measured(self) -> None:
        assert simulate_training(plan(NODE)).evidence == "measured"
        assert simulate_training(plan(NODE, objective="dpo")).evidence == "related"


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"task": "dpo"}, "objective = 'dpo'"),
        ({"task": "sft", "adapter_width": 8}, "task = 'adapters'"),
        ({"task": "lora", "double_quantised": False}, "task = 'qlora'"),
        ({"reference": "none"}, "objective = 'dpo' or objective = 'grpo'"),
        ({"frozen_layers": 32}, "at most 31"),
        ({"task": "qlora", "precision": "fp8"}, "bf16"),
        ({"task": "qlora", "model__name": "mixtral-8x7b"}, "routes to experts"),
        ({"task": "ladder", "side_reduction": 3}, "does not divide"),
        ({"task": "ladder", "recompute": "full"}, "recompute = 'none'"),
        ({"task": "ladder", "parallel__tp": 2, "cluster__spec": "1x8xh100-sxm"}, "tp = 1"),
        ({"trained": "embeddings", "task": "lora"}, "task = 'sft'"),
        ({"task": "adapters", "offload": ["activations"]}, "offload"),
        ({"paged_optimizer": True, "offload": ["optimizer"]}, "leave out one"),
        ({"objective": "dpo"}, "is even"),
        ({"objective": "dpo", "micro_batch_seqs": 2, "reference": "none"}, "precomputed"),
        ({"objective": "distill"}, "stored_logits"),
        ({"objective": "distill", "teacher": "llama2-70b"}, "vocabulary"),
        ({"objective": "distill", "teacher": "llama9"}, "training.teacher"),
        ({"objective": "grpo"}, "[rollout]"),
        ({"rollout__prompts": 1, "rollout__samples": 1, "rollout__output_len": 1}, "grpo"),
    ],
)
def test_what_cannot_be_priced_is_refused_in_a_line(keys: dict[str, object], words: str) -> None:
    with pytest.raises(InputError) as caught:
        plan(**keys)
    assert any(words in line for line in caught.value.problems), caught.value.problems


def test_a_teacher_that_cannot_be_split_alike_is_refused() -> None:
    base = NODE | {"parallel.pp": 8, "parallel.zero_stage": 0}
    asked = plan(base, objective="distill", teacher="llama3.1-405b")
    with pytest.raises(InputError, match=r"training.teacher = 'llama3.1-405b', split alike"):
        simulate_training(asked)


@pytest.mark.parametrize(
    "keys", [{"frozen_layers": 4}, {"objective": "distill", "stored_logits": 9}]
)
def test_the_search_refuses_what_it_does_not_know(keys: dict[str, object]) -> None:
    asked = plan(NODE, **keys)
    space = Space(
        model=asked.model, clusters=(asked.cluster,), training=asked.training, stack=asked.stack
    )
    with pytest.raises(InputError, match="price a plan with train"):
        enumerate_plans(space)


def test_a_timeline_and_a_page_of_half_a_step_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(InputError, match="leave out --trace"):
        trace(plan(NODE, objective="dpo"))
    flags = ["--model", "llama3-8b", "--cluster", "1x8xh100-sxm", "--zero-stage", "3"]
    flags += ["--seq-len", "2048", "--global-batch", "32", "--micro-batch", "2"]
    page = str(tmp_path / "page.html")
    assert run(["train", *flags, "--objective", "dpo", "--html", page]) == BAD_INPUT
    assert "no page is drawn" in capsys.readouterr().err


def test_the_command_says_what_is_trained(capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--model", "llama3-8b", "--cluster", "1x1xh100-sxm"]
    flags += ["--seq-len", "2048", "--global-batch", "4", "--task", "qlora"]
    assert run(["train", *flags]) == 0
    assert "LoRA of rank 16, 4.13-bit frozen weights" in capsys.readouterr().out
    assert run(["train", *flags, "--json"]) == 0
    tuning = json.loads(capsys.readouterr().out)["plan"]["training"]["tuning"]
    assert tuning["quantised_bits"] == pytest.approx(4.127, abs=5e-4)
    assert tuning["teacher"] == ""


def test_a_launcher_is_told_what_it_cannot_say() -> None:
    asked = plan(NODE, task="qlora", objective="dpo", frozen_layers=4)
    unmapped = write_launcher("torchtitan", asked).unmapped
    for line in (
        "training.lora_rank = 16",
        "training.frozen_layers = 4",
        "training.objective = dpo",
    ):
        assert line in unmapped
    assert write_launcher("torchtitan", plan(NODE)).unmapped == ()
