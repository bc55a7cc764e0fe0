from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ridgeline.simulator.memory import (
    MemoryFacts,
    activation_bytes,
    end_activations,
    parameter_bytes,
    state_bytes,
)
from ridgeline.simulator.plan import Parallelism
from ridgeline.workloads.model import Attention, Model, MoE

# GPT-3 175B of Korthikanti et al. 2022 (arXiv 2205.05198), table 3
S, B, H, A, V, L = 2048, 1, 12288, 96, 51200, 96

OLD = MemoryFacts(attention_saves_scores=True, dropout=True, gradient_bytes=4)
MODERN = MemoryFacts(attention_saves_scores=False, dropout=False, gradient_bytes=2)


def gpt(**changes: object) -> Model:
    model = Model(
        name="gpt",
        family="gpt2",
        num_layers=L,
        hidden=H,
        ffn_hidden=4 * H,
        vocab=V,
        attention=Attention(
            kind="gqa", heads=A, kv_heads=A, head_dim=H // A, v_head_dim=H // A, qkv_bias=True
        ),
        gated_mlp=False,
        mlp_bias=True,
        position="learned",
        learned_positions=S,
        norm="layernorm",
    )
    return replace(model, **changes)


def stored(model: Model, recompute: str = "none", facts: MemoryFacts = OLD, **options: object):
    given_ = {"seq_len": S, "micro_batch_seqs": B, "precision": "fp16", "layer_index": 0}
    parallel = options.pop("parallel", Parallelism())
    return activation_bytes(
        model, recompute=recompute, facts=facts, parallel=parallel, **(given_ | options)
    )


class TestKorthikanti:
    """Equations of Korthikanti et al. 2022, arXiv 2205.05198, section 4."""

    def test_one_layer_unsplit_equation_1(self):
        assert stored(gpt()).stored == S * B * H * (34 + 5 * A * S / H)

    @pytest.mark.parametrize("t", [2, 4, 8])
    def test_tensor_parallel_equation_2(self, t):
        layer = stored(gpt(), parallel=Parallelism(tp=t))
        assert layer.stored == S * B * H * (10 + 24 / t + 5 * A * S / (H * t))

    @pytest.mark.parametrize("t", [2, 4, 8])
    def test_sequence_parallel_equation_4(self, t):
        layer = stored(gpt(), parallel=Parallelism(tp=t, sp=True))
        assert layer.stored == S * B * H / t * (34 + 5 * A * S / H)

    @pytest.mark.parametrize("t", [2, 4, 8])
    def test_selective_recomputation_equation_6(self, t):
        layer = stored(gpt(), "selective", parallel=Parallelism(tp=t, sp=True))
        assert layer.stored == 34 * S * B * H / t
        assert layer.peak_recompute == 5 * A * S * S * B / t

    def test_full_recomputation_keeps_the_input(self):
        # table 2: 2sbh, or 2sbh/t when the input stays split along the sequence
        assert stored(gpt(), "full", parallel=Parallelism(tp=8)).stored == 2 * S * B * H
        split = stored(gpt(), "full", parallel=Parallelism(tp=8, sp=True))
        assert split.stored == 2 * S * B * H / 8

    def test_ends_section_4_3(self):
        # sbh/t for the embedding's mask, 4 sbh/t (1 + v/h) behind the layers
        t = 8
        ends = end_activations(gpt(), S, B, Parallelism(tp=t, sp=True), "fp16", OLD)
        assert ends.embedding == S * B * H / t
        assert ends.head + ends.logits == pytest.approx(4 * S * B * H / t * (1 + V / H))

    @pytest.mark.parametrize(
        ("heads", "hidden", "share", "saving"), [(96, 12288, 80, 0.70), (128, 20480, 64, 0.65)]
    )
    def test_selective_recomputation_saves_what_section_5_says(self, heads, hidden, share, saving):
        # GPT-3: 5as/h = 80 and 70% of activations saved; MT-NLG: 64 and 65%
        attention = Attention(
            kind="gqa",
            heads=heads,
            kv_heads=heads,
            head_dim=hidden // heads,
            v_head_dim=hidden // heads,
        )
        model = gpt(hidden=hidden, ffn_hidden=4 * hidden, attention=attention)
        saved = 1 - stored(model, "selective").stored / stored(model).stored
        assert 5 * heads * S / hidden == share
        assert saved == pytest.approx(saving, abs=0.01)


class TestModernLayers:
    def test_fused_attention_keeps_log_sum_exp_in_place_of_scores(self):
        flash = replace(OLD, attention_saves_scores=False)
        layer = stored(gpt(), facts=flash).stored
        assert layer == 34 * S * B * H + 4 * A * S * B

    def test_llama_layer_by_hand(self):
        # RMSNorm inputs 2, normed inputs 2, q and o 2, k and v 2 g/a, gate up product 3f, no masks
        h, f, a, g, d, s = 8192, 28672, 64, 8, 128, 4096
        llama = gpt(
            hidden=h,
            ffn_hidden=f,
            gated_mlp=True,
            norm="rmsnorm",
            attention=Attention(kind="gqa", heads=a, kv_heads=g, head_dim=d, v_head_dim=d),
        )
        layer = stored(llama, facts=MODERN, seq_len=s)
        assert layer.stored == 2 * s * (4 * h + 2 * a * d + 2 * g * d + 3 * f) + 4 * a * s

    def test_fp8_keeps_gemm_inputs_at_one_byte(self):
        h, f = H, 4 * H
        wide = stored(gpt(), facts=MODERN, precision="bf16").stored
        narrow = stored(gpt(), facts=MODERN, precision="fp8").stored
        # inputs of qkv, fc1 and fc2 shrink; attention keeps its own output beside proj's input
        assert wide - narrow == S * B * (h + h + f) - S * B * h

    def test_more_key_value_heads_than_ranks_split_and_fewer_are_copied(self):
        def keys(tp: int, kv_heads: int) -> float:
            attention = Attention(
                kind="gqa", heads=A, kv_heads=kv_heads, head_dim=128, v_head_dim=128
            )
            none = replace(attention, kv_heads=A)
            parallel = Parallelism(tp=tp, sp=True)
            return (
                stored(gpt(attention=none), facts=MODERN, parallel=parallel).stored
                - stored(gpt(attention=attention), facts=MODERN, parallel=parallel).stored
            )

        per_head = 2 * 2 * S * 128
        assert keys(8, 8) == pytest.approx((A / 8 - 1) * per_head)
        assert keys(8, 2) == pytest.approx((A / 8 - 1) * per_head)

    def test_windows_change_nothing(self):
        windowed = gpt(windows=(512,) * L)
        assert stored(windowed, facts=MODERN) == stored(gpt(), facts=MODERN)

    def test_experts_take_top_k_tokens(self):
        moe = MoE(num_experts=8, top_k=2, ffn_hidden=4 * H)
        dense = stored(gpt(), facts=MODERN).stored
        sparse = stored(gpt(moe=moe), facts=MODERN).stored
        t = S * B
        mlp = 2 * t * H + 16 * t * H
        routed = 2 * (2 * t * H + 16 * t * H + 2 * t * H) + 2 * t * H + 4 * t * 8
        assert sparse - dense == routed - mlp

    def test_busiest_expert_rank_counts(self):
        even = MoE(num_experts=4, top_k=1, ffn_hidden=H)
        skewed = replace(even, load=(3.0, 3.0, 1.0, 1.0))
        padded = replace(even, capacity_factor=1.5)
        parallel = Parallelism(dp=2, ep=2)

        def bytes_(moe: MoE) -> float:
            return stored(gpt(moe=moe), facts=MODERN, parallel=parallel).stored

        routed = 2 * S * (H + H + H + H)  # input, hidden, product and output of the experts
        assert bytes_(skewed) - bytes_(even) == pytest.approx(0.5 * routed)
        assert bytes_(padded) == bytes_(skewed)

    def test_context_parallelism_splits_tokens(self):
        one = stored(gpt(), facts=MODERN)
        four = stored(gpt(), facts=MODERN, parallel=Parallelism(cp=4))
        assert four.stored == one.stored / 4

    def test_recompute_policies_are_ordered(self):
        amounts = [
            stored(gpt(), policy, facts=MODERN).stored
            for policy in ("full", "save-qkv-proj", "minimal", "minimal-with-context", "none")
        ]
        assert amounts == sorted(amounts)

    def test_policy_by_layer(self):
        whole, none = stored(gpt(), "full").stored, stored(gpt(), "none").stored
        every = [stored(gpt(), "every-2", layer_index=i).stored for i in range(4)]
        assert every == [none, whole, none, whole]
        first = [stored(gpt(), "full-1", layer_index=5, position=i).stored for i in range(2)]
        assert first == [whole, none]

    @settings(max_examples=40, deadline=None)
    @given(
        tp=st.sampled_from([1, 2, 4, 8]),
        cp=st.sampled_from([1, 2]),
        sp=st.booleans(),
        policy=st.sampled_from(["none", "selective", "full", "minimal", "save-qkv-proj"]),
        precision=st.sampled_from(["fp32", "bf16", "fp8"]),
        facts=st.sampled_from([OLD, MODERN]),
    )
    def test_splitting_never_adds_and_recomputation_only_moves(
        self, tp, cp, sp, policy, precision, facts
    ):
        parallel = Parallelism(tp=tp, cp=cp, sp=sp)
        options = {"facts": facts, "precision": precision}
        layer = stored(gpt(), policy, parallel=parallel, **options)
        whole = stored(gpt(), "none", parallel=parallel, **options)
        assert 0 < layer.stored <= whole.stored
        assert layer.stored + layer.peak_recompute == pytest.approx(whole.stored)
        wider = replace(parallel, tp=2 * tp)
        assert stored(gpt(), policy, parallel=wider, **options).stored <= layer.stored


class TestState:
    @pytest.mark.parametrize(("stage", "gigabytes"), [(0, 120.0), (1, 31.4), (2, 16.6), (3, 1.9)])
    def test_zero_figure_1(self, stage, gigabytes):
        # Rajbhandari et al. 2020 (arXiv 1910.02054), figure 1: 7.5B parameters, N = 64
        facts = replace(MODERN, gradient_bytes=2)
        state = state_bytes(
            7.5e9,
            parallel=Parallelism(dp=64, zero_stage=stage),
            precision="fp16",
            optimizer="adam",
            facts=facts,
        )
        assert state.total / 1e9 == pytest.approx(gigabytes, abs=0.05)

    @pytest.mark.parametrize("ranks", [1, 8, 64])
    @pytest.mark.parametrize(
        ("precision", "gradient_bytes", "whole", "kept", "split"),
        [("fp16", 2, 20, 4, 16), ("bf16", 4, 18, 6, 12), ("fp32", 4, 16, 8, 8)],
    )
    def test_megatron_distributed_optimizer(
        self, precision, gradient_bytes, whole, kept, split, ranks
    ):
        # Megatron Core developer guide, distributed optimizer: bytes per parameter
        facts = replace(MODERN, gradient_bytes=gradient_bytes, main_gradients_sharded=True)

        def total(zero_stage: int) -> float:
            return state_bytes(
                1.0,
                parallel=Parallelism(dp=ranks, zero_stage=zero_stage),
                precision=precision,
                optimizer="adam",
                facts=facts,
            ).total

        assert total(0) == whole
        assert total(1) == pytest.approx(kept + split / ranks)

    def test_optimizers(self):
        def optimizer(name: str) -> float:
            return parameter_bytes("bf16", name, MODERN).optimizer

        assert (optimizer("adamw"), optimizer("sgd-momentum"), optimizer("sgd")) == (12, 8, 4)

    def test_experts_shard_over_their_own_replicas(self):
        parallel = Parallelism(dp=64, ep=16, zero_stage=3)
        state = state_bytes(
            0.0, 1e9, parallel=parallel, precision="bf16", optimizer="adam", facts=MODERN
        )
        assert state.total == pytest.approx(16e9 / 4)

    def test_hybrid_sharding_limits_the_shards(self):
        def total(**options: int) -> float:
            parallel = Parallelism(dp=64, zero_stage=3, **options)
            return state_bytes(
                1e9, parallel=parallel, precision="bf16", optimizer="adam", facts=MODERN
            ).total

        assert total(shard_size=8) == pytest.approx(8 * total())

    def test_offload_leaves_the_device(self):
        state = state_bytes(
            1e9,
            parallel=Parallelism(),
            precision="fp16",
            optimizer="adam",
            facts=MODERN,
            offload=("optimizer", "gradients"),
        )
        assert (state.weights, state.gradients, state.optimizer) == (2e9, 0, 0)
