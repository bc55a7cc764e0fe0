"""Weights, gradients and optimizer state per accelerator."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from math import ceil

from ridgeline.simulator.memory.activations import element_bytes
from ridgeline.simulator.memory.facts import MemoryFacts
from ridgeline.simulator.optimizers import (
    INT8_WEIGHT_BYTES,
    RULES,
    layer_matrices,
    state_elements,
)
from ridgeline.simulator.plan import FP4_BYTES, Parallelism, Training
from ridgeline.workloads.forms import Form
from ridgeline.workloads.mixers import input_width
from ridgeline.workloads.model import Model
from ridgeline.workloads.parameters import layer_parameters
from ridgeline.workloads.towers import head_parameters, input_parameters


@dataclass(frozen=True, slots=True, kw_only=True)
class StateBytes:
    """What lives through the whole step, bytes per accelerator."""

    weights: float
    gradients: float
    optimizer: float

    @property
    def total(self) -> float:
        """Sum over causes."""
        return self.weights + self.gradients + self.optimizer


@dataclass(frozen=True, slots=True, kw_only=True)
class ParameterBytes:
    """Bytes per parameter of each cause before any sharding."""

    weights: float
    gradients: float
    optimizer: float


def moment_element_bytes(optimizer: str, facts: MemoryFacts, *, weights: float = 4.0) -> float:
    """Return the bytes of one element of optimizer state.

    ``weights`` are those of a weight where there is no fp32 copy: the state then has their format.
    """
    rule = RULES[optimizer]
    if rule.element_bytes:
        return rule.element_bytes
    if weights < 4:
        return weights
    return facts.moment_bytes / 2 if optimizer in ("adam", "adamw") else 4.0


def parameter_bytes(
    precision: str, optimizer: str, facts: MemoryFacts, *, master_weights: bool = True
) -> ParameterBytes:
    """Return bytes per parameter without sharding.

    What an optimizer keeps by matrix (``optimizers.BY_MATRIX``) is not among them
    (``matrix_state``). Without ``master_weights`` 16-bit weights are changed themselves, and
    gradients and state have their format.

    Mixed-precision Adam is 2 + 2 + 12 = 16 (Rajbhandari et al. 2020, section 3.1); Megatron's
    optimizers are 20 with fp16 gradients and their fp32 copy and 18 with fp32 gradients.
    """
    weights = element_bytes(precision)
    mixed = weights < 4
    rule = RULES[optimizer]
    by_matrix = rule.needs_matrix or rule.shape != ""
    if mixed and not master_weights:
        element = moment_element_bytes(optimizer, facts, weights=weights)
        state = 0.0 if by_matrix else rule.elements * element
        return ParameterBytes(weights=weights, gradients=weights, optimizer=state)
    gradients = facts.gradient_bytes if mixed else 4.0
    state = facts.master_bytes if mixed else 0.0
    if not by_matrix:
        state += rule.elements * moment_element_bytes(optimizer, facts)
    if precision == "bf16" and facts.bf16_gradient_bytes:
        gradients += facts.bf16_gradient_bytes  # an accumulator that is not sharded
    elif mixed and facts.main_gradients_sharded and gradients < 4:
        state += 4.0
    if precision == "fp8":
        weights += facts.fp8_weight_bytes
    elif precision == "fp4":
        weights += 2.0 * FP4_BYTES  # copies by rows and by columns, beside the 16-bit weight
    return ParameterBytes(weights=weights, gradients=gradients, optimizer=state)


def shard_ranks(parallel: Parallelism) -> tuple[int, int]:
    """Return over how many ranks ZeRO shards dense weights and experts.

    Dense weights are replicated on dp x cp ranks, an expert on ``expert_dp``; ``shard_size``
    (hybrid sharding) limits both.
    """
    copies = parallel.dp * parallel.cp
    limit = parallel.shard_size or copies
    return min(copies, limit), max(min(parallel.expert_dp, limit), 1)


def state_bytes(
    dense: float,
    experts: float = 0.0,
    *,
    parallel: Parallelism,
    precision: str,
    optimizer: str,
    facts: MemoryFacts,
    offload: tuple[str, ...] = (),
    adapters: float | None = None,
    frozen: SliceParameters | None = None,
    resting: float = 0.0,
    quantised: float = 0.0,
    quantised_bits: float = 0.0,
    training: Training | None = None,
    elements: tuple[float, float] = (0.0, 0.0),
    narrow: float = 0.0,
    updated_at_once: float = 0.0,
) -> StateBytes:
    """Return weights, gradients and optimizer state of one accelerator.

    ZeRO stage 1 shards the optimizer, 2 also gradients, 3 also weights over N ranks: with 16
    bytes a parameter 4 + 12/N, 2 + 14/N and 16/N (Rajbhandari et al. 2020, figure 1). Weights and
    gradients of stage 3 may be shared by fewer ranks, and a second copy of the weights comes on top
    (Wang et al. 2023, arXiv 2306.10209, section 3.2.2).

    Parameters
    ----------
    dense, experts
        Parameters that the accelerator's slice of the model holds (after tensor, pipeline and
        expert parallelism), before ZeRO.
    offload
        ``optimizer``, ``gradients`` and ``parameters`` named here live on the host.
    adapters
        Parameters that alone are trained (the others are frozen), None where all are. They come
        on top of the weights.
    frozen
        Of ``dense`` and ``experts``, what is not trained, where ``adapters`` is None.
    resting
        Parameters beside these that have weights alone.
    quantised, quantised_bits
        Of ``dense``, what is stored in so many bits a weight.
    training
        Says whether there are fp32 weights; None where there are.
    elements
        Elements of optimizer state that go by matrix, of dense weights and of experts.
    narrow
        Parameters that rest in int8.
    updated_at_once
        Where each layer is updated as soon as its gradients are there: parameters of the largest,
        whose gradients alone exist. 0 where they wait for the end of the step.
    """
    master = training is None or training.master_weights
    per = parameter_bytes(precision, optimizer, facts, master_weights=master)
    if "parameters" in offload:
        per = replace(per, weights=0.0)
    ranks, expert_ranks = shard_ranks(parallel)
    stage = parallel.zero_stage
    whole = dense + experts
    sharded = dense / ranks + experts / expert_ranks
    trained, trained_sharded = whole, sharded
    if frozen is not None:
        trained = whole - frozen.total
        left = experts - frozen.experts
        trained_sharded = (dense - frozen.dense) / ranks + left / expert_ranks
    if adapters is not None:
        trained, trained_sharded = adapters, adapters / ranks
        whole, sharded = whole + trained, sharded + trained_sharded
    held_weights = sharded if stage >= 3 else whole
    reduced = updated_at_once or (trained_sharded if stage >= 2 else trained)
    if parallel.weight_shard_size:
        held_weights = whole / parallel.weight_shard_size
    if parallel.secondary_shard_size:
        held_weights += whole / parallel.secondary_shard_size
    if parallel.gradient_shard_size:
        reduced = trained / parallel.gradient_shard_size
    weights = per.weights * held_weights - (per.weights - INT8_WEIGHT_BYTES) * narrow
    if quantised:
        saved = quantised * (per.weights - quantised_bits / 8.0)
        weights -= saved / ranks if stage >= 3 else saved
    state = per.optimizer * (trained_sharded if stage >= 1 else trained)
    if any(elements):
        element = element_bytes(precision) if not master else 4.0
        by_matrix = elements[0] + elements[1]
        if stage >= 1:
            by_matrix = elements[0] / ranks + elements[1] / expert_ranks
        state += by_matrix * moment_element_bytes(optimizer, facts, weights=element)
    return StateBytes(
        weights=weights + per.weights * (resting / ranks if stage >= 3 else resting),
        gradients=0.0 if "gradients" in offload else per.gradients * reduced,
        optimizer=0.0 if "optimizer" in offload else state,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class SliceParameters:
    """Parameters on one accelerator."""

    dense: float
    experts: float

    @property
    def total(self) -> float:
        """Both together."""
        return self.dense + self.experts


@lru_cache(maxsize=4096)
def layer_slice(model: Model, form: Form, tp: int, ep: int, expert_tp: int) -> SliceParameters:
    """Return one rank's slice of a layer.

    Norms and the router are whole on every tensor rank, as are MLA's down-projections; key-value
    heads are copied where there are fewer than ranks. A memory's values are split by their width.
    """
    index = next(i for i in range(model.num_layers) if model.form(i) == form)
    layer = layer_parameters(model, index)
    attention = model.attention
    copied = 0.0
    if form.mixer != "attention" or form.repeats:
        pass
    elif attention.kind == "mla":
        down = attention.q_lora_rank + attention.kv_lora_rank + attention.rope_head_dim
        copied = model.hidden * down * (1 - 1 / tp)
    elif attention.kv_heads < tp:
        head = model.hidden * (attention.head_dim + attention.v_head_dim)
        copied = head * (1 - attention.kv_heads / tp)
    return SliceParameters(
        dense=(layer.attention + layer.mlp + layer.shared_experts + layer.table) / tp
        + copied
        + layer.norms
        + layer.router,
        experts=layer.routed_experts / (ep * expert_tp),
    )


@lru_cache(maxsize=4096)
def layer_elements(
    model: Model, form: Form, tp: int, ep: int, expert_tp: int, training: Training
) -> tuple[float, float]:
    """Return the elements of optimizer state of one layer's dense weights and of its experts."""
    held = layer_slice(model, form, tp, ep, expert_tp)
    found = layer_matrices(model, form.is_moe, tp, ep, expert_tp)
    return (
        state_elements(training, found.dense, held.dense),
        state_elements(training, found.experts, held.experts),
    )


@lru_cache(maxsize=4096)
def largest_matrix(model: Model, form: Form, tp: int, ep: int, expert_tp: int) -> float:
    """Return the parameters of the largest matrix of a layer on one rank (experts stacked)."""
    attention = model.attention
    query = attention.heads * attention.head_dim
    widest = max(query, attention.heads * attention.v_head_dim) / tp
    if form.is_linear and model.linear is not None:
        widest = input_width(model.linear) / tp
    elif form.mixer != "attention":
        widest = model.hidden / tp if form.has_mixer else 0.0
    if form.is_memory and model.memory is not None:
        return max(model.hidden * widest, model.memory.table / tp)
    if not form.is_moe:
        return model.hidden * max(widest, model.ffn_hidden / tp if form.has_feed_forward else 0.0)
    moe = model.moe
    assert moe is not None
    stacked = moe.num_experts * moe.ffn_hidden / (ep * expert_tp)
    return model.hidden * max(widest, moe.shared_ffn_hidden / tp, stacked)


@lru_cache(maxsize=4096)
def distinct_weights(model: Model, tp: int, ep: int, expert_tp: int) -> float:
    """Return the parameters of one weight of each shape: a layer's own and those of one expert."""
    most = 0.0
    for form in {model.form(index) for index in range(model.num_layers)}:
        layer = layer_slice(model, form, tp, ep, expert_tp)
        local = model.moe.num_experts / ep if form.is_moe and model.moe else 1.0
        most = max(most, layer.dense + layer.experts / local)
    return most


@dataclass(frozen=True, slots=True, kw_only=True)
class EndParameters:
    """Parameters beside the layers on one accelerator of the first and last part."""

    first: float
    last: float
    last_experts: float
    """Routed experts of multi-token-prediction layers."""


@lru_cache(maxsize=4096)
def end_slices(model: Model, tp: int, ep: int, expert_tp: int, one_part: bool) -> EndParameters:
    """Return one rank's slice of embedding, positions, head, final norm and MTP modules.

    A tied embedding lies on the first and, when that is another part, on the last; so does the
    embedding that MTP modules share.
    """
    norm = model.hidden * (2 if model.norm == "layernorm" and model.norm_bias else 1)
    width = model.embedding_dim or model.hidden
    table = ceil(model.vocab / tp) * width
    bridge = 0 if width == model.hidden else width * model.hidden
    first = table + bridge + model.learned_positions * model.hidden
    first += norm if model.embedding_norm else 0
    first += input_parameters(model) + model.position_buckets * model.attention.heads
    last = float(bridge + (norm if model.final_norm else 0))
    if not model.tied_embeddings or not one_part:
        last += table
    if model.head_bias:
        last += ceil(model.vocab / tp)
    last += head_parameters(model)
    experts = 0.0
    if model.num_mtp_layers:
        layer = layer_slice(model, model.form(model.num_layers - 1), tp, ep, expert_tp)
        module = layer.dense + 2 * model.hidden * model.hidden / tp + 3 * norm
        last += model.num_mtp_layers * module
        experts = model.num_mtp_layers * layer.experts
        if not one_part and not model.tied_embeddings:
            last += table
    return EndParameters(first=float(first), last=last, last_experts=experts)
