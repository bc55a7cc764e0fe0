from __future__ import annotations

from dataclasses import fields, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ridgeline.hardware.accelerator import Accelerator
from ridgeline.hardware.cluster import Cluster
from ridgeline.simulator.memory import (
    MemoryFacts,
    activation_bytes,
    cheapest_changes,
    end_activations,
    parameter_bytes,
    stage_memory,
    state_bytes,
)
from ridgeline.simulator.plan import Parallelism, Plan, Training
from ridgeline.simulator.results import MemoryShare
from ridgeline.simulator.schedule import make_schedule
from ridgeline.workloads.model import Attention, Model, MoE
from ridgeline.workloads.parameters import layer_parameters, parameters

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

    def test_fp4_keeps_gemm_inputs_at_half_a_byte_and_the_share_of_a_scale(self):
        h, f = H, 4 * H
        wide = stored(gpt(), facts=MODERN, precision="bf16").stored
        narrow = stored(gpt(), facts=MODERN, precision="fp4").stored
        per = 0.5 + 1 / 16  # attention keeps its own output in 16 bits beside the input of proj
        assert wide - narrow == S * B * ((2 - per) * (h + h + f) - per * h)

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
        assert every == [whole, none, whole, none]
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


def cluster(memory_bytes: float = 80e9, count: int = 8) -> Cluster:
    accelerator = Accelerator(
        name="card",
        aliases=(),
        vendor="",
        family="ampere",
        release_year=2020,
        peak_flops={"bf16": 3e14, "fp16": 3e14},
        cores=108,
        systolic=0,
        l2_bytes=4e7,
        memory_bytes=memory_bytes,
        memory_bytes_per_s=2e12,
        scaleup_bytes_per_s=3e11,
        scaleup_domain=8,
        scaleout_bytes_per_s=2.5e10,
        host_bytes_per_s=2.5e10,
        per_node=8,
        torus_dims=0,
        tdp_w=400,
        idle_w=50,
        load_fraction=0.8,
        efficiency=None,  # type: ignore[arg-type]
        sources={},
        unconfirmed=(),
    )
    return Cluster(name="", accelerator=accelerator, count=count, per_node=8, tiers=())


def make_plan(model: Model | None = None, **options: object) -> Plan:
    parallel = {f.name for f in fields(Parallelism)}
    mine = {key: value for key, value in options.items() if key in parallel}
    rest = {key: value for key, value in options.items() if key not in parallel}
    training = {"seq_len": S, "micro_batch_seqs": 1, "global_batch_seqs": 64} | rest
    return Plan(
        model=model or gpt(),
        cluster=cluster(count=Parallelism(**mine).world),
        parallel=Parallelism(**mine),
        training=Training(**training),
        stack="megatron-2021",
    )


def memory(plan: Plan, facts: MemoryFacts = OLD) -> tuple[MemoryShare, ...]:
    p = plan.parallel
    schedule = make_schedule(plan.training.schedule, p.pp, p.vpp, plan.micro_batches)
    return stage_memory(plan, schedule, facts)


class TestStages:
    def test_first_stage_of_1f1b_holds_all_layers_equation_5(self):
        # Korthikanti et al. 2022, eq. 5 and section 4.3: sbhL/t (34 + 5as/h) + sbhp/t on the
        # first of p stages, for any p
        t, p = 8, 16
        share = memory(make_plan(tp=t, pp=p, sp=True, precision="fp16"))[0]
        expected = S * B * H * L / t * (34 + 5 * A * S / H) + S * B * H * p / t
        assert share.activations == pytest.approx(expected, rel=1e-12)

    def test_stubs_of_gradients_are_one_layer_of_weights_in_16_bits(self):
        plan = make_plan(tp=8, pp=16, sp=True, precision="bf16")
        without = memory(plan, MODERN)
        stubbed = memory(plan, replace(MODERN, gradient_stubs=True))
        matrices = 12 * H * H / 8
        for bare, more in zip(without, stubbed, strict=True):
            # norms and biases are in the count: less than 1%
            assert more.buffers - bare.buffers == pytest.approx(2 * matrices, rel=0.01)
            assert more.total - bare.total == more.buffers - bare.buffers

    def test_interleaving_holds_more(self):
        # section 4.2.3: a factor 1 + (p - 1)/(p m) with m interleaved chunks
        t, p = 8, 16
        one = memory(make_plan(tp=t, pp=p, sp=True, precision="fp16"))[0]
        many = memory(
            make_plan(tp=t, pp=p, vpp=2, sp=True, precision="fp16", schedule="interleaved")
        )[0]
        masks = S * B * H / t
        m = 2
        chunks = 2 * (p - 1) + (m - 1) * p + 1
        factor = 1 + (p - 1) / (p * m)
        assert chunks / m == pytest.approx(p * factor)
        assert (many.activations - masks * p * 2) < factor * one.activations
        assert many.activations == pytest.approx(factor * one.activations, rel=2e-3)

    def test_gpipe_holds_every_micro_batch_and_1f1b_at_most_the_depth(self):
        layers = 34 * S * H * L / 4 + 5 * A * S * S * L / 4
        gpipe = memory(make_plan(pp=4, schedule="gpipe", precision="fp16"))
        ours = memory(make_plan(pp=4, precision="fp16"))
        assert gpipe[1].activations == pytest.approx(64 * layers)
        assert [share.activations for share in ours[1:3]] == pytest.approx([3 * layers, 2 * layers])

    def test_weight_half_of_zero_bubble_is_32_sbh(self):
        # Qi et al. 2023 (arXiv 2401.10241), appendix: M_B = sbh (34 + 5as/h), M_W = 32 sbh
        assert stored(gpt()).weight_half == 32 * S * B * H

    def test_dualpipe_holds_two_copies_of_the_weights(self):
        # DeepSeek-V3 (arXiv 2412.19437), table 2: parameters 2x, activations p + 1 against p
        even = gpt(vocab=8, learned_positions=0)
        one = memory(make_plan(even, pp=8, precision="fp16"))
        two = memory(make_plan(even, pp=8, precision="fp16", schedule="dualpipe"))
        assert two[3].weights == pytest.approx(2 * one[3].weights)
        most = max(share.activations for share in one)
        both = max(share.activations for share in two)
        assert both == pytest.approx(9 / 8 * most, rel=1e-3)  # both ends' extras meet on a device

    def test_state_of_all_ranks_adds_up_to_the_model(self):
        model = gpt()
        shares = memory(make_plan(model, tp=1, pp=8, precision="fp16"))
        total = sum(share.weights for share in shares) / 2
        assert total == parameters(model).total

    def test_tied_embedding_lies_on_both_ends(self):
        tied = gpt(tied_embeddings=True)
        whole = sum(s.weights for s in memory(make_plan(tied, precision="fp16"))) / 2
        split = sum(s.weights for s in memory(make_plan(tied, pp=8, precision="fp16"))) / 2
        assert whole == parameters(tied).total
        assert split - whole == V * H

    def test_experts_split_over_expert_ranks(self):
        moe = gpt(moe=MoE(num_experts=64, top_k=2, ffn_hidden=H), ffn_hidden=0)
        counted = parameters(moe)
        share = memory(make_plan(moe, dp=16, ep=16, precision="fp16"))[0]
        assert share.weights / 2 == counted.total - counted.experts * 15 / 16

    def test_multi_token_prediction_is_counted(self):
        plain, extra = gpt(), gpt(num_mtp_layers=1)
        difference = (
            memory(make_plan(extra, precision="fp16"))[0].weights
            - memory(make_plan(plain, precision="fp16"))[0].weights
        )
        assert difference == 2 * parameters(extra).mtp

    def test_full_sharding_gathers_two_layers(self):
        model = gpt()
        counted = parameters(model)
        small = memory(make_plan(model, dp=64, zero_stage=3, precision="bf16"), MODERN)[0]
        layer = layer_parameters(model, 0).total
        gathered = 2 * 2 * layer + 2 * (counted.embedding + counted.head + counted.positions)
        assert small.buffers > gathered
        assert small.weights == pytest.approx(2 * counted.total / 64)

    def test_units_that_are_matrices_gather_less(self):
        model = gpt(vocab=8, learned_positions=0)
        plan = make_plan(model, dp=64, zero_stage=3, precision="bf16")
        layers = memory(plan, MODERN)[0].buffers
        matrices = memory(plan, replace(MODERN, gathers_layers=False))[0].buffers
        # three units of a layer (two of weights, one of gradients) against three of 4 h^2
        layer = layer_parameters(model, 0).total
        assert layers - matrices == pytest.approx(3 * 2 * (layer - 4 * H * H))

    def test_uneven_stages_hold_what_they_are_given(self):
        counts = (10, 30, 30, 26)
        shares = memory(make_plan(pp=4, stage_layers=counts, precision="fp16"))
        layer = layer_parameters(gpt(), 0).total
        assert shares[1].weights - shares[0].weights == pytest.approx(
            2 * (20 * layer - V * H - S * H)
        )

    def test_offloaded_activations_leave_two_layers(self):
        on = memory(make_plan(pp=4, precision="fp16"))[0]
        off = memory(make_plan(pp=4, precision="fp16", offload=("activations",)))[0]
        assert off.activations < on.activations / 20

    def test_causes_add_up_and_framework_holds_fragmentation(self):
        facts = replace(OLD, framework_bytes=1e9, fragmentation=0.1)
        share = memory(make_plan(precision="fp16"), facts)[0]
        assert share.framework == pytest.approx(1e9 + 0.1 * (share.activations + share.buffers))

    @settings(max_examples=25, deadline=None)
    @given(
        pp=st.sampled_from([1, 2, 4]),
        dp=st.sampled_from([1, 4]),
        zero=st.sampled_from([0, 1, 3]),
        micro=st.sampled_from([1, 2]),
        schedule=st.sampled_from(["gpipe", "1f1b", "zb-h1"]),
    )
    def test_more_micro_batch_or_less_sharding_never_takes_less(
        self, pp, dp, zero, micro, schedule
    ):
        def worst(**options: object) -> float:
            plan = make_plan(pp=pp, dp=dp, schedule=schedule, **options)
            return max(share.total for share in memory(plan, MODERN))

        base = worst(zero_stage=zero, micro_batch_seqs=micro)
        assert worst(zero_stage=zero, micro_batch_seqs=2 * micro) >= base
        assert worst(zero_stage=zero, micro_batch_seqs=micro, recompute="full") <= base * (
            1 + 1e-12
        )


class TestChanges:
    def test_every_change_fits_and_says_what_it_saves(self):
        model = gpt(num_layers=24, hidden=4096, ffn_hidden=16384)
        plan = make_plan(model, dp=64, global_batch_seqs=1024, micro_batch_seqs=4, zero_stage=1)
        now = max(share.total for share in memory(plan))
        assert now > 80e9
        changes = cheapest_changes(plan, OLD)
        assert changes
        for change in changes:
            assert change.total <= 80e9
            assert change.total == pytest.approx(now - change.saved)
            assert change.plan.parallel.world == plan.parallel.world

    def test_nothing_is_offered_that_does_not_fit(self):
        plan = make_plan(dp=64)
        assert cheapest_changes(plan, OLD, limit=1e9) == ()
