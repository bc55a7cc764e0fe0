"""Steps of reinforcement learning: lengths, parts and their sums, pools, what is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ridgeline.cli import BAD_INPUT, run
from ridgeline.errors import InfeasibleError, InputError
from ridgeline.simulator import Plan, read_plan, simulate_training
from ridgeline.simulator.results import RolloutShare, TrainingResult
from ridgeline.simulator.rollout.generation import generate, rollout_traffic, sample_lengths
from ridgeline.simulator.rollout.split import pool_splits
from ridgeline.simulator.rollout.weights import sync_seconds
from ridgeline.simulator.serving.deployment import way_out
from ridgeline.simulator.tuning import trained_parameters

ROOT = Path(__file__).resolve().parents[1]
EXAMPLE = ROOT / "examples" / "grpo_qwen3_32b_two_pools.toml"
TOGETHER = {
    "model.name": "llama3-8b",
    "cluster.spec": "1x8xh100-sxm",
    "parallel.zero_stage": 1,
    "training.task": "sft",
    "training.objective": "grpo",
    "training.seq_len": 2048,
    "training.global_batch_seqs": 64,
    "training.recompute": "full",
    "rollout.prompts": 16,
    "rollout.samples": 8,
    "rollout.prompt_len": 200,
    "rollout.output_len": 600,
    "rollout.memory_fraction": 0.6,
}
APART = TOGETHER | {"rollout.cluster": "1x8xh100-sxm"}


def plan(base: dict[str, object] = TOGETHER, **more: object) -> Plan:
    return read_plan(None, base | {key.replace("__", "."): value for key, value in more.items()})


def predicted(
    base: dict[str, object] = TOGETHER, **more: object
) -> tuple[TrainingResult, RolloutShare]:
    result = simulate_training(plan(base, **more))
    assert result.rollout is not None
    return result, result.rollout


class TestLengths:
    def test_the_mean_is_that_of_the_samples_as_they_were_cut(self) -> None:
        asked = plan(rollout__output_len=1500, training__global_batch_seqs=512).rollout
        assert asked is not None
        drawn = sample_lengths(asked, 2048)
        assert drawn.mean() == pytest.approx(1500, abs=1)
        assert drawn.max() == 2048 - 200
        assert drawn.min() >= 1

    def test_fixed_lengths_are_all_alike(self) -> None:
        asked = plan(rollout__lengths="fixed").rollout
        assert asked is not None
        assert set(sample_lengths(asked, 2048).tolist()) == {600}

    def test_samples_of_a_prompt_share_its_blocks(self) -> None:
        asked = plan().rollout
        assert asked is not None
        traffic = rollout_traffic(asked, 2048)
        blocks = traffic.block_ids.reshape(16, 8, 200 // 16)
        assert (blocks == blocks[:, :1]).all()
        assert len(np.unique(blocks[:, 0])) == 16 * (200 // 16)

    def test_a_step_waits_for_its_longest_sample(self) -> None:
        """The same tokens take longer, the more unequal they are."""
        even = generate(plan(rollout__lengths="fixed"))
        some, more = (generate(plan(rollout__length_cv=cv)) for cv in (0.3, 1.0))
        assert even.tokens == pytest.approx(some.tokens, rel=2e-3)
        assert even.tail_s < 0.05 * even.seconds
        assert even.seconds < some.seconds < more.seconds
        assert some.tail_s < more.tail_s


class TestParts:
    def test_in_turns_a_step_is_the_sum_of_its_parts(self) -> None:
        result, share = predicted(APART)
        parts = share.generation_s + share.scoring_s + share.update_s + share.sync_s
        assert result.step_time_s == pytest.approx(parts)
        assert sum(one.seconds for one in result.breakdown) == pytest.approx(parts)

    def test_one_step_behind_the_longer_side_counts(self) -> None:
        result, share = predicted(APART, rollout__overlap="one-step")
        trained = share.scoring_s + share.update_s
        assert result.step_time_s == pytest.approx(max(share.generation_s, trained) + share.sync_s)
        turns, _ = predicted(APART)
        assert result.step_time_s < turns.step_time_s

    def test_idle_shares_are_what_the_other_side_takes(self) -> None:
        result, share = predicted(APART)
        trained = share.scoring_s + share.update_s
        assert share.training_idle == pytest.approx(1 - trained / result.step_time_s)
        assert share.rollout_idle >= 1 - share.generation_s / result.step_time_s

    def test_updates_and_scoring_are_steps_and_passes_of_training(self) -> None:
        """Two scoring passes of a third of the FLOPs each; twice the updates are twice the time."""
        result, one = predicted()
        _, two = predicted(rollout__updates=2)
        step = simulate_training(_next_token()).step_time_s
        assert one.update_s == pytest.approx(step)
        assert two.update_s == pytest.approx(2 * step)
        assert two.scoring_s == pytest.approx(2 * one.scoring_s)
        assert 0.4 < one.scoring_s / one.update_s < 0.67
        tokens = one.tokens
        assert result.tokens_per_s == pytest.approx(tokens / result.step_time_s)

    def test_scoring_is_left_out_where_nobody_needs_it(self) -> None:
        _, both = predicted()
        _, one = predicted(training__reference="none")
        _, none = predicted(training__reference="none", rollout__old_log_probabilities=False)
        assert one.scoring_s == pytest.approx(both.scoring_s / 2)
        assert none.scoring_s == 0.0

    def test_a_reference_takes_memory_and_none_does_not(self) -> None:
        with_, _ = predicted()
        without, _ = predicted(training__reference="none")
        more = with_.worst_memory.weights - without.worst_memory.weights
        assert more == pytest.approx(2.0 * 8.03e9, rel=0.01)

    def test_padding_is_computed_and_no_model_flop(self) -> None:
        tight, some = predicted()
        loose, more = predicted(training__global_batch_seqs=128)
        assert more.padding > some.padding
        assert loose.model_flops_per_step == pytest.approx(tight.model_flops_per_step, rel=1e-6)
        assert loose.hardware_flops_per_step > tight.hardware_flops_per_step

    def test_two_pools_are_both_paid(self) -> None:
        result, share = predicted(APART)
        assert result.accelerators == 16
        assert share.training_usd == share.rollout_usd
        assert result.cost_usd == share.training_usd + share.rollout_usd
        assert result.accelerator_hours == pytest.approx(16 * result.step_time_s / 3600)
        alone, shared = predicted()
        assert alone.accelerators == 8
        assert shared.rollout_usd == 0.0


def _next_token() -> Plan:
    keys = {key: value for key, value in TOGETHER.items() if not key.startswith("rollout")}
    return read_plan(None, keys | {"training.objective": "next-token"})


class TestWeights:
    def test_weights_cross_once_to_a_first_replica(self) -> None:
        """One replica of eight accelerators: each takes an eighth through its own NIC."""
        p = plan(APART, rollout__tp=8)
        assert p.rollout is not None
        assert p.rollout.cluster is not None
        tier = way_out(p.rollout.cluster)
        each = 2.0 * trained_parameters(p) / 8
        assert sync_seconds(p) == pytest.approx(each / tier.effective_bytes_per_s + tier.latency_s)

    def test_eight_bits_take_half_and_adapters_next_to_nothing(self) -> None:
        whole = sync_seconds(plan(APART))
        assert sync_seconds(plan(APART, rollout__precision="fp8")) == pytest.approx(
            whole / 2, rel=0.02
        )
        assert sync_seconds(plan(APART, training__task="lora")) < 0.02 * whole

    def test_on_shared_accelerators_whole_copies_need_no_network(self) -> None:
        assert sync_seconds(plan()) == 0.0
        assert sync_seconds(plan(parallel__zero_stage=3)) > 0.0

    def test_state_makes_room_only_where_there_is_too_little(self) -> None:
        _, roomy = predicted(rollout__memory_fraction=0.3, training__task="lora")
        _, tight = predicted(rollout__memory_fraction=0.9)
        _, apart = predicted(APART, rollout__memory_fraction=0.9)
        assert roomy.swap_s == apart.swap_s == 0.0
        assert tight.swap_s > 0.0


class TestSplits:
    def test_the_best_split_is_the_shortest_that_fits(self) -> None:
        base = APART | {"cluster.spec": "2x8xh100-sxm", "rollout.cluster": "2x8xh100-sxm"}
        found = pool_splits(plan(base, rollout__overlap="one-step"))
        assert [one.rollout_accelerators for one in found] == [8, 16, 24]
        assert all(one.rollout_accelerators + one.training_accelerators == 32 for one in found)
        best = [one for one in found if one.best]
        assert len(best) == 1
        assert best[0].step_time_s == min(one.step_time_s for one in found if one.fits)
        asked, _ = predicted(base, rollout__overlap="one-step")
        assert found[1].step_time_s == asked.step_time_s

    def test_pools_that_take_turns_have_no_split(self) -> None:
        with pytest.raises(InputError, match=r"rollout\.cluster"):
            pool_splits(plan())

    def test_the_command_prints_every_split(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert run(["train", str(EXAMPLE), "--pool-splits", "--json"]) == 0
        record = json.loads(capsys.readouterr().out)
        assert [one["rollout_accelerators"] for one in record["pool_splits"]] == [
            16,
            32,
            48,
        ]
        assert record["rollout"]["overlap"] == "one-step"
        assert run(["train", str(EXAMPLE)]) == 0
        text = capsys.readouterr().out
        assert "Generation" in text
        assert "of the 32 accelerators that generate" in text

    def test_a_calendar_is_refused(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert run(["train", str(EXAMPLE), "--tokens", "1B", "--calendar"]) == BAD_INPUT
        assert "[rollout]" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"training__global_batch_seqs": 8}, "56 holds them"),
        ({"rollout__overlap": "one-step"}, "rollout.cluster"),
        ({"rollout__cluster": "8xnothing"}, "rollout.cluster"),
        ({"rollout__tp": 16}, "room for 0"),
        ({"rollout__longest": 4000}, "is the most"),
        ({"rollout__output_len": 1900}, "the mean is over the longest"),
        ({"training__task": "ladder"}, "no engine is priced"),
        ({"training__reference": "precomputed"}, "samples are new"),
        ({"rollout__engine": "nothing"}, "rollout.engine"),
        ({"rollout__colour": 1}, "unknown key"),
    ],
)
def test_what_cannot_be_priced_is_refused_in_a_line(keys: dict[str, object], words: str) -> None:
    with pytest.raises(InputError) as caught:
        plan(**keys)
    assert any(words in line for line in caught.value.problems), caught.value.problems


def test_a_model_that_fits_no_replica_is_no_answer() -> None:
    big = plan(model__name="llama3-70b", rollout__tp=1)
    with pytest.raises(InfeasibleError):
        simulate_training(big)


def test_the_same_seed_gives_the_same_step() -> None:
    first, again = (simulate_training(plan()) for _ in range(2))
    assert first == again
    asked = plan()
    assert asked.rollout is not None
    other = simulate_training(replace(asked, rollout=replace(asked.rollout, seed=1)))
    assert other.step_time_s != first.step_time_s
