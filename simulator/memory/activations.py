"""Bytes that a layer keeps between its forward and its backward pass, per accelerator.

Shapes: T tokens of a micro-batch on one rank (micro-batch x s / cp), h hidden, f ffn_hidden,
a heads, g kv_heads, d head_dim, t tensor parallelism. The count generalises Korthikanti et al.
2022 ("Reducing Activation Recomputation in Large Transformer Models", arXiv 2205.05198),
equations 1, 2, 4 and 6, which it reproduces exactly under their assumptions.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

from ridgeline.simulator.memory.cross import beside_saved
from ridgeline.simulator.memory.facts import MemoryFacts
from ridgeline.simulator.memory.mixers import memory_saved, mixer_saved, sparse_saved
from ridgeline.simulator.plan import FP4_BYTES, Parallelism
from ridgeline.simulator.recompute import known_recompute
from ridgeline.workloads.forms import Form
from ridgeline.workloads.model import Model, MoE


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerActivations:
    """Activation memory of one layer and one micro-batch, bytes per accelerator."""

    stored: float
    """Kept from forward to backward."""
    peak_recompute: float
    """Recreated, beyond ``stored``, while the layer's backward pass runs."""
    weight_half: float
    """What the weight gradients still need once input gradients are done: inputs of GEMMs and
    gradients of their outputs (32 sbh for a GPT layer: Qi et al. 2023, arXiv 2401.10241)."""
    workspace: float
    """Gradients of the widest operator and gathered inputs: alive within a pass only."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SavedTensors:
    """What a layer saves without recomputation, by tensor, bytes per accelerator."""

    layer_input: float
    """Input of the layer: what full recomputation keeps."""
    norm_inputs: float
    """Inputs of the norms other than the first."""
    attention_input: float
    """Input of the query, key and value projections."""
    latents: float
    """Compressed query and key-value of MLA, before and behind their norms."""
    qkv: float
    """Query, key and value behind their projections."""
    qk_norm_inputs: float
    core: float
    """What core attention keeps: scores, softmax and masks, or the log-sum-exp."""
    context: float
    """Output of attention: input of the output projection."""
    dropout_masks: float
    mlp_input: float
    mlp_hidden: float
    """Input of the activation function (gate and up under a gated MLP)."""
    mlp_product: float
    """Input of the down projection."""
    router_input: float
    """Norm output that the router reads."""
    router: float
    """Scores of the router."""
    combine: float
    """Outputs of experts before they are weighted and added up."""
    beside: float = 0.0
    """Cross-attention and adaptive norms."""

    @property
    def total(self) -> float:
        """Sum over tensors."""
        return (
            self.layer_input
            + self.norm_inputs
            + self.attention_input
            + self.latents
            + self.qkv
            + self.qk_norm_inputs
            + self.core
            + self.context
            + self.dropout_masks
            + self.mlp_input
            + self.mlp_hidden
            + self.mlp_product
            + self.router_input
            + self.router
            + self.combine
            + self.beside
        )


def element_bytes(precision: str) -> float:
    """Return the bytes of a stored activation or working weight."""
    return 4.0 if precision in ("fp32", "tf32") else 2.0


def gemm_input_bytes(precision: str) -> float:
    """Return the bytes of a GEMM input saved for the weight gradient.

    Transformer Engine keeps the quantised copy only: 1 byte under fp8, half a byte and the share
    of a scale under fp4.
    """
    quantised = {"fp8": 1.0, "fp4": FP4_BYTES}
    return quantised.get(precision) or element_bytes(precision)


def expert_load_factor(moe: MoE, ep: int) -> float:
    """Return the tokens of the busiest expert rank over the mean (capacity pads all to the same).

    Experts lie on ranks in blocks of num_experts / ep.
    """
    if moe.capacity_factor > 0:
        return moe.capacity_factor
    if not moe.load or ep <= 1:
        return 1.0
    total = sum(moe.load)
    if total <= 0:
        return 1.0
    block = max(len(moe.load) // ep, 1)
    shares = [sum(moe.load[i : i + block]) for i in range(0, len(moe.load), block)]
    return max(shares) * len(shares) / total


def saved_tensors(
    model: Model,
    form: Form,
    *,
    seq_len: int,
    micro_batch_seqs: int,
    parallel: Parallelism,
    precision: str,
    facts: MemoryFacts,
) -> SavedTensors:
    """Count what one layer saves without recomputation.

    Parameters
    ----------
    model, form
        The model and what the layer is made of.
    seq_len, micro_batch_seqs
        Whole sequence length and sequences in a micro-batch.
    parallel
        Splits: tensors between GEMMs over t; those of width h over t with sequence parallelism
        only; tokens over cp; expert tokens over ep.
    precision, facts
        Element sizes; masks and scores.

    Returns
    -------
    SavedTensors
        Bytes per accelerator. Sliding windows change nothing: neither fused attention nor an
        unfused score matrix stores less for them.
    """
    attention = model.attention
    element, gemm_input = element_bytes(precision), gemm_input_bytes(precision)
    t = parallel.tp
    whole = t if parallel.sp else 1
    passing = element * micro_batch_seqs * seq_len / parallel.cp * model.hidden / whole
    if form.capacity < 1.0:
        seq_len = max(1, round(form.capacity * seq_len))
    tokens = micro_batch_seqs * seq_len / parallel.cp
    width = tokens * model.hidden / whole

    heads = attention.heads / t
    # fewer key-value heads than ranks: each rank keeps a copy
    kv_heads = heads if attention.kind == "mla" else max(attention.kv_heads / t, 1.0)
    query = tokens * heads * attention.head_dim
    key = tokens * kv_heads * attention.head_dim
    value = tokens * kv_heads * attention.v_head_dim
    context = tokens * heads * attention.v_head_dim
    if facts.attention_saves_scores:
        # softmax output, and with dropout its mask and its output
        per_score = element + (1 + element if facts.dropout else 0)
        core = tokens * seq_len * heads * per_score
    else:
        core = 4 * tokens * heads  # fp32 log-sum-exp
        if gemm_input != element:
            core += element * context  # attention reads its own output at full width
    latents = 0.0
    if attention.kind == "mla":
        ranks = 2 * attention.q_lora_rank + 2 * attention.kv_lora_rank + attention.rope_head_dim
        latents = element * tokens * ranks / whole

    one_norm = model.parallel_block and model.norms_per_layer == 1
    extra_norms = 0 if model.parallel_block else model.norms_per_layer - 1
    if not form.has_mixer or not form.has_feed_forward:
        extra_norms = model.norms_per_layer // 2 - 1
    router_input = router = combine = mlp_input = mlp_hidden = mlp_product = 0.0
    fan = 2 if model.gated_mlp else 1
    kept = facts.activation_input_bytes or element
    if form.is_moe:
        moe = model.moe
        assert moe is not None
        etp = parallel.expert_tp
        routed = tokens * moe.top_k * etp / t * expert_load_factor(moe, parallel.ep)
        router_input = element * width
        router = 4 * tokens * moe.num_experts / whole
        mlp_input = gemm_input * routed * model.hidden
        mlp_hidden = kept * routed * fan * moe.ffn_hidden / etp
        mlp_product = gemm_input * routed * moe.ffn_hidden / etp
        combine = element * routed * model.hidden if facts.expert_outputs_saved else 0.0
        if moe.num_shared_experts:
            shared = tokens * moe.shared_ffn_hidden / t
            mlp_hidden += kept * fan * shared
            mlp_product += gemm_input * shared
    elif form.is_memory:
        assert model.memory is not None
        mlp_input = gemm_input * width
        mlp_hidden, mlp_product = memory_saved(model.memory, tokens / t, element, gemm_input)
    elif form.has_feed_forward:
        hidden = tokens * model.ffn_hidden / t
        mlp_input = 0.0 if one_norm else gemm_input * width
        mlp_hidden = kept * fan * hidden
        mlp_product = gemm_input * hidden
    if form.capacity < 1.0:
        router_input += passing  # the layer's router reads the tokens that pass by too
    qkv = element * (query + key + value)
    qk_norm_inputs = element * (query + key) if attention.qk_norm else 0.0
    attention_input, saved_context = gemm_input * width, gemm_input * context
    if form.mixer == "attention":
        if attention.output_gate:
            qkv += element * context
            core += element * context
        core += sparse_saved(attention, tokens, t, element)
    else:
        latents = qk_norm_inputs = 0.0
        qkv, core, outputs = mixer_saved(model, form, tokens / t, element)
        saved_context = gemm_input * outputs
        attention_input = attention_input if form.has_mixer else 0.0
    return SavedTensors(
        layer_input=element * width,
        norm_inputs=element * width * extra_norms,
        attention_input=attention_input,
        latents=latents,
        qkv=qkv,
        qk_norm_inputs=qk_norm_inputs,
        core=core,
        context=saved_context,
        dropout_masks=2 * width if facts.dropout else 0.0,
        mlp_input=mlp_input,
        mlp_hidden=mlp_hidden,
        mlp_product=mlp_product,
        router_input=router_input,
        router=router,
        combine=combine,
        beside=beside_saved(
            model,
            tokens=tokens,
            sequences=micro_batch_seqs,
            whole=whole,
            tp=t,
            element=element,
            gemm_input=gemm_input,
            facts=facts,
        ),
    )


def _stored(saved: SavedTensors, policy: str, element_over_gemm: float) -> float:
    again, _ = known_recompute(policy)
    if policy not in ("full", "save-qkv-proj", "minimal", "minimal-with-context"):
        # modules: each gives up what it can make again from what stays
        dropped = saved.core if again.core else 0.0
        if again.norms:
            # an expert's input is a permuted copy that stays; the latents are kept unnormed
            dropped += saved.attention_input + saved.router_input
            dropped += 0.0 if again.qkv else saved.latents / 2
            dropped += 0.0 if saved.router else saved.mlp_input
        dropped += saved.mlp_product if again.activation else 0.0
        if again.qkv:
            dropped += saved.qkv + saved.qk_norm_inputs + saved.latents
        elif again.latent and saved.latents:
            dropped += saved.qkv
        if again.mlp:
            # experts are routed again from the input of the router
            dropped += saved.mlp_hidden + saved.router + saved.combine
            dropped += saved.mlp_input if saved.router else 0.0
        return saved.total - dropped
    if again.everything:
        return saved.layer_input
    if policy == "save-qkv-proj":
        return saved.layer_input + saved.qkv
    # MaxText's minimal policies save every projection: query, key, value, out, wi and wo
    minimal = saved.layer_input + saved.qkv + 2 * saved.layer_input + saved.mlp_hidden
    if policy == "minimal":
        return minimal
    assert policy == "minimal-with-context", policy
    return minimal + element_over_gemm * saved.context


def recomputes_layer(recompute: str, index: int, position: int) -> str:
    """Return the policy of one layer: ``every-N`` and ``full-K`` resolve to full or none.

    ``index`` counts in the model, ``position`` in the pipeline stage, both from 0: ``every-N``
    recomputes each N-th layer (the first of each group of N), ``full-K`` the first K of a stage.
    """
    _, scope = known_recompute(recompute)
    if scope.mode == "mix":
        return scope.policy_at(index)
    if scope.mode in ("every", "first"):
        return "full" if scope.covers(index, position) else "none"
    return recompute


@lru_cache(maxsize=4096)
def kind_activations(
    model: Model,
    form: Form,
    seq_len: int,
    micro_batch_seqs: int,
    parallel: Parallelism,
    policy: str,
    precision: str,
    facts: MemoryFacts,
    *,
    frozen_mlp: bool = False,
    frozen_attention: bool = False,
) -> LayerActivations:
    """Count a layer of a kind under a policy that names no layer (cached, see activation_bytes).

    ``frozen_mlp`` says that no weight of the MLP or experts is trained, not even an adapter: the
    inputs of their products are then kept for nothing and freed. ``frozen_attention`` says so of
    its projections; the output of attention stays, since the core reads it again.
    """
    saved = saved_tensors(
        model,
        form,
        seq_len=seq_len,
        micro_batch_seqs=micro_batch_seqs,
        parallel=parallel,
        precision=precision,
        facts=facts,
    )
    if frozen_mlp:
        saved = replace(saved, mlp_input=0.0, mlp_product=0.0)
    if frozen_attention:
        saved = replace(saved, attention_input=0.0)
    element, gemm_input = element_bytes(precision), gemm_input_bytes(precision)
    stored = min(_stored(saved, policy, element / gemm_input), saved.total)
    tokens = micro_batch_seqs * seq_len / parallel.cp
    # backward of the MLP: gradients of product and hidden, the gathered input and its gradient
    routed = saved.mlp_input / (gemm_input * model.hidden) if form.is_moe else 0.0
    mlp = element * saved.mlp_product / gemm_input + saved.mlp_hidden
    mlp += element * 2 * (routed or tokens) * model.hidden
    attention = saved.qkv + 2 * element * tokens * model.hidden
    if facts.attention_saves_scores:
        scores = tokens * seq_len * model.attention.heads / parallel.tp
        attention += 2 * element * scores
    inputs = saved.attention_input + saved.context + saved.mlp_input + saved.mlp_product
    outputs = saved.qkv + saved.layer_input + saved.mlp_hidden
    outputs += element * routed * model.hidden if form.is_moe else saved.layer_input
    return LayerActivations(
        stored=stored,
        peak_recompute=saved.total - stored,
        weight_half=inputs + saved.latents + outputs,
        workspace=max(mlp, attention),
    )


def activation_bytes(
    model: Model,
    layer_index: int,
    *,
    seq_len: int,
    micro_batch_seqs: int,
    parallel: Parallelism,
    recompute: str,
    precision: str,
    facts: MemoryFacts,
    position: int = 0,
) -> LayerActivations:
    """Return the activation memory of one layer and one micro-batch on one accelerator.

    With MHA, a 4h MLP, dropout, 2-byte elements and unfused attention ``stored`` is

    - sbh (34 + 5 a s / h) unsplit (Korthikanti et al. 2022, eq. 1),
    - sbh (10 + 24/t + 5 a s / (h t)) under tensor parallelism (eq. 2),
    - sbh/t (34 + 5 a s / h) with sequence parallelism (eq. 4),
    - 34 sbh/t with selective recomputation too (eq. 6), and 2 sbh with full.

    Parameters
    ----------
    layer_index, position
        Index of the layer in the model and in its pipeline stage, from 0.
    recompute
        One of plan.RECOMPUTES, ``every-N`` or ``full-K``.
    """
    return kind_activations(
        model,
        model.form(layer_index),
        seq_len,
        micro_batch_seqs,
        parallel,
        recomputes_layer(recompute, layer_index, position),
        precision,
        facts,
    )


def _compared(model: Model, seq_len: int, tp: int) -> tuple[float, int]:
    """Return the values by token that the loss compares, and over how many ranks they are split."""
    if model.head == "classes":
        return model.outputs / seq_len, 1
    if model.predicted < 1.0:
        return model.vocab * model.predicted, tp
    return (model.outputs, 1) if model.head == "patches" else (model.vocab, tp)


@dataclass(frozen=True, slots=True, kw_only=True)
class EndActivations:
    """What embedding and head add on the first and last part, bytes per micro-batch."""

    embedding: float
    """Dropout mask (and norm input) behind the embedding."""
    head: float
    """Inputs of the final norm and of the output projection."""
    logits: float
    """Logits in fp32 and what the loss keeps of them."""


@lru_cache(maxsize=4096)
def end_activations(
    model: Model,
    seq_len: int,
    micro_batch_seqs: int,
    parallel: Parallelism,
    precision: str,
    facts: MemoryFacts,
) -> EndActivations:
    """Return the extras of the first and last part (Korthikanti et al. 2022, section 4.3).

    They give the embedding's mask sbh/t per micro-batch in flight and, on the last part,
    4 sbh/t (1 + v/h): inputs of final norm and projection, and fp32 logits 4 sbv/t.
    """
    element = element_bytes(precision)
    tokens = micro_batch_seqs * seq_len / parallel.cp
    width = tokens * model.hidden / (parallel.tp if parallel.sp else 1)
    embedding = width if facts.dropout else 0.0
    if model.embedding_norm:
        embedding += element * width
    values, ways = _compared(model, seq_len, parallel.tp)
    return EndActivations(
        embedding=embedding,
        head=element * width * (2 if model.final_norm else 1),
        logits=facts.logits_bytes_per_element * tokens * values / ways,
    )
