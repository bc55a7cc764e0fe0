"""Memory of every pipeline stage: state, activations in flight, buffers, runtime."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from ridgeline.simulator.memory.activations import (
    LayerActivations,
    element_bytes,
    end_activations,
    kind_activations,
    recomputes_layer,
)
from ridgeline.simulator.memory.facts import MemoryFacts
from ridgeline.simulator.memory.state import (
    EndParameters,
    SliceParameters,
    distinct_weights,
    end_slices,
    largest_matrix,
    layer_elements,
    layer_slice,
    state_bytes,
)
from ridgeline.simulator.memory.towers import TowerMemory, tower_memory
from ridgeline.simulator.optimizers import BY_MATRIX, state_elements
from ridgeline.simulator.plan import Plan, Training
from ridgeline.simulator.results import MemoryShare
from ridgeline.simulator.schedule import Schedule, peak_in_flight
from ridgeline.simulator.stages import stage_layers
from ridgeline.simulator.tuning import (
    added_parameters,
    adds_parameters,
    freezes_layers,
    only_forward,
    side_head_parameters,
    side_model,
    trains_embedding,
    trains_head,
)
from ridgeline.workloads.forms import Form
from ridgeline.workloads.model import Model

Float64 = NDArray[np.float64]
Int64 = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class _Kind:
    """Layers that keep the same bytes: same shape, same recomputation."""

    form: Form
    policy: str
    only_forward: bool
    index: int
    """One of them."""
    count: Int64
    """Layers of this kind in each part."""


@lru_cache(maxsize=1024)
def _kinds(
    model: Model, training: Training, spans: tuple[tuple[int, int], ...]
) -> tuple[_Kind, ...]:
    """Count the layers of each kind in each part; ``spans`` are (first layer, count)."""
    counts: dict[tuple[Form, str, bool], Int64] = {}
    one: dict[tuple[Form, str, bool], int] = {}
    for part, (first, count) in enumerate(spans):
        for index in range(first, first + count):
            policy = recomputes_layer(training.recompute, index, index - first)
            key = (model.form(index), policy, only_forward(training, index))
            if key not in counts:
                counts[key] = np.zeros(len(spans), np.int64)
                one[key] = index
            counts[key][part] += 1
    return tuple(_Kind(*key, one[key], count) for key, count in counts.items())


def _layer(plan: Plan, facts: MemoryFacts, kind: _Kind) -> LayerActivations:
    """Return what a layer keeps, with what is added to it; without a backward pass nothing.

    A bottleneck keeps its input and both sides of its activation; a rung of a ladder the output of
    the frozen layer, beside what the layer of the side network keeps.
    """
    training, model = plan.training, plan.model
    tuning, rank = training.tuning, training.lora_rank
    shape = (training.seq_len, training.micro_batch_seqs, plan.parallel)
    no_inputs = tuning.adapter_width > 0 or tuning.trained == "embeddings"
    layer = kind_activations(
        model,
        kind.form,
        *shape,
        kind.policy,
        training.precision,
        facts,
        frozen_mlp=no_inputs or (rank > 0 and training.lora_targets == "attention"),
        frozen_attention=no_inputs,
    )
    tokens = training.micro_batch_seqs * training.seq_len / plan.parallel.cp
    tokens /= plan.parallel.tp if plan.parallel.sp else 1
    element = element_bytes(training.precision)
    if tuning.side_reduction:
        narrow = side_model(model, tuning.side_reduction)
        side = kind_activations(narrow, Form(), *shape, "none", training.precision, facts)
        stored = side.stored + element * tokens * model.hidden
        return LayerActivations(
            stored=stored, peak_recompute=0.0, weight_half=stored, workspace=layer.workspace
        )
    if kind.only_forward:
        return LayerActivations(
            stored=0.0, peak_recompute=0.0, weight_half=0.0, workspace=layer.workspace
        )
    if tuning.adapter_width:
        more = 2.0 * element * tokens * (model.hidden + 2 * tuning.adapter_width)
        again = kind.policy == "full"
        return replace(
            layer,
            stored=layer.stored + (0.0 if again else more),
            peak_recompute=layer.peak_recompute + (more if again else 0.0),
            weight_half=layer.weight_half + more,
        )
    return layer


@dataclass(frozen=True, slots=True)
class _Parts:
    """Bytes and parameters by part of the model."""

    stored: Float64
    """Activations of one micro-batch, without logits."""
    weight_half: Float64
    """What its weight-gradient pass needs where the backward is split."""
    recompute: Float64
    """Recreated while the heaviest layer of the part runs backward."""
    workspace: Float64
    dense: Float64
    experts: Float64
    unit: Float64
    """Parameters of the largest unit that full sharding gathers at once."""
    adapters: Float64
    """Trained parameters that are added to the model; 0 where every weight is trained."""
    frozen_dense: Float64
    frozen_experts: Float64
    """Of ``dense`` and ``experts``, what has no gradients."""
    layers_dense: Float64
    """Of ``dense``, what lies in layers."""
    elements: Float64
    """float64[parts, 2], optimizer state that goes by matrix, of dense weights and experts."""
    layers: Float64
    """Parameters of the layers alone, without the ends of the model."""
    layer: Float64
    """Parameters of the largest layer."""
    layers_stored: Float64
    """``stored`` of the layers alone."""
    widened: Float64
    """Parameters of the largest matrix."""


def _parts(plan: Plan, facts: MemoryFacts, spans: tuple[tuple[int, int], ...]) -> _Parts:
    training, parallel, model = plan.training, plan.parallel, plan.model
    zero = np.zeros(len(spans))
    stored, recompute, workspace, unit = zero.copy(), zero.copy(), zero.copy(), zero.copy()
    dense, experts, half, adapters = zero.copy(), zero.copy(), zero.copy(), zero.copy()
    frozen_dense, frozen_experts = zero.copy(), zero.copy()
    layers, layer_of, widened = zero.copy(), zero.copy(), zero.copy()
    elements = np.zeros((len(spans), 2))
    by_matrix = training.optimizer in BY_MATRIX
    for kind in _kinds(model, training, spans):
        layer = _layer(plan, facts, kind)
        ways = (parallel.tp, parallel.ep, parallel.expert_tp)
        weights = layer_slice(model, kind.form, *ways)
        if by_matrix:
            elements += kind.count[:, None] * layer_elements(model, kind.form, *ways, training)
        present = kind.count > 0
        stored += kind.count * layer.stored
        half += kind.count * layer.weight_half
        recompute = np.maximum(recompute, present * layer.peak_recompute)
        workspace = np.maximum(workspace, present * layer.workspace)
        largest = largest_matrix(model, kind.form, *ways)
        gathered = weights.total if facts.gathers_layers else largest
        layers += kind.count * weights.total
        layer_of = np.maximum(layer_of, present * weights.total)
        widened = np.maximum(widened, present * largest)
        unit = np.maximum(unit, present * gathered)
        adapters += kind.count * added_parameters(model, kind.index, training, parallel.tp)
        dense += kind.count * weights.dense
        experts += kind.count * weights.experts
        if freezes_layers(training) or kind.only_forward:
            frozen_dense += kind.count * weights.dense
            frozen_experts += kind.count * weights.experts
    layers_dense = dense.copy()
    layers_stored = stored.copy()
    towers = _towers(plan, facts)
    stored[0] += towers.stored
    half[0] += towers.weight_half
    recompute[0] = max(recompute[0], towers.recompute)
    workspace[0] = max(workspace[0], towers.workspace)
    unit[0] = max(unit[0], towers.unit)
    dense[0] += towers.trained
    experts[0] += towers.experts
    ends = _ends(plan, len(spans))
    dense[0] += ends.first
    dense[-1] += ends.last
    experts[-1] += ends.last_experts
    frozen_dense[0] += 0.0 if trains_embedding(training) else ends.first
    if not trains_head(model, training):
        frozen_dense[-1] += ends.last
        frozen_experts[-1] += ends.last_experts
        adapters[-1] += side_head_parameters(model, training)
    if by_matrix:
        elements[0, 0] += state_elements(training, (), ends.first)
        elements[-1, 0] += state_elements(training, (), ends.last)
        elements[-1, 1] += state_elements(training, (), ends.last_experts)
    extra = end_activations(
        model,
        training.seq_len,
        training.micro_batch_seqs,
        parallel,
        training.precision,
        facts,
    )
    if training.tuning.forward_only:
        extra = replace(extra, embedding=0.0, head=0.0)
    stored[0] += extra.embedding
    stored[-1] += extra.head
    if model.num_mtp_layers and not training.tuning.forward_only:
        layer = kind_activations(
            model,
            model.form(model.num_layers - 1),
            training.seq_len,
            training.micro_batch_seqs,
            parallel,
            recomputes_layer(training.recompute, model.num_layers - 1, 0),
            training.precision,
            facts,
        )
        stored[-1] += model.num_mtp_layers * (layer.stored + extra.head)
    return _Parts(
        stored=stored,
        weight_half=half,
        recompute=recompute,
        workspace=workspace,
        dense=dense,
        experts=experts,
        unit=unit,
        adapters=adapters,
        frozen_dense=frozen_dense,
        frozen_experts=frozen_experts,
        layers_dense=layers_dense,
        elements=elements,
        layers=layers,
        layer=layer_of,
        layers_stored=layers_stored,
        widened=widened,
    )


def _towers(plan: Plan, facts: MemoryFacts) -> TowerMemory:
    t = plan.training
    return tower_memory(
        plan.model, t.micro_batch_seqs, plan.parallel, t.recompute, t.precision, facts
    )


def _ends(plan: Plan, parts: int) -> EndParameters:
    parallel = plan.parallel
    return end_slices(plan.model, parallel.tp, parallel.ep, parallel.expert_tp, parts == 1)


def _gathered(plan: Plan, facts: MemoryFacts, unit: float, ends: float, whole: float) -> float:
    """Return the buffers of sharded gathering and reduction on one stage.

    Under full sharding the weights of the current and the next unit are whole, and so is the
    gradient of one, in the precision it is computed in. Where units are layers, the root unit
    (embedding, head) stays gathered through the step, as PyTorch FSDP keeps it. Stage 2 reduces
    gradients unit by unit. Weights that rest on the host come and go as gathered ones do.
    """
    parallel, offload = plan.parallel, plan.training.offload
    element = element_bytes(plan.training.precision)
    frozen = adds_parameters(plan.training) or plan.training.tuning.forward_only
    if "parameters" not in offload and parallel.dp * parallel.cp == 1:
        # gradients of one unit on their way to the host
        leaving = plan.cluster.host is not None and "gradients" in offload
        return facts.gradient_bytes * max(unit, ends) if leaving else 0.0
    if parallel.zero_stage < 2:
        return 0.0 if frozen else min(facts.bucket_bytes, facts.gradient_bytes * whole)
    gradients = 0.0 if frozen else element * max(unit, ends)
    if parallel.zero_stage == 2:
        return gradients
    # quantized, what comes in or goes out lies beside what it is made of
    gradients += 0.5 * max(unit, ends) if parallel.quantized_gradients else 0.0
    gradients += unit if parallel.quantized_weights else 0.0
    if not plan.training.tuning.quantised_bits:
        return gradients + element * (facts.unsharded_units * unit + ends)
    stored = plan.training.tuning.quantised_bits / 8.0
    return gradients + stored * facts.unsharded_units * unit + element * ends


def _largest_update(parts: _Parts, mine: list[int], ends: EndParameters, last: int) -> float:
    """Return the parameters of the largest layer or end of the model on one accelerator."""
    edges = [ends.first if 0 in mine else 0.0, ends.last if last in mine else 0.0]
    return max(*(float(parts.layer[p]) for p in mine), *edges)


def _hosted(schedule: Schedule) -> list[list[int]]:
    """Return the parts of the model on each device (two under DualPipe, vpp interleaved)."""
    hosted: list[list[int]] = [[] for _ in range(schedule.devices)]
    parts = schedule.vstage_part.tolist()
    for vstage, device in enumerate(schedule.vstage_device.tolist()):
        hosted[device].append(parts[vstage])
    return hosted


def stage_memory(plan: Plan, schedule: Schedule, facts: MemoryFacts) -> tuple[MemoryShare, ...]:
    """Return the peak memory of every pipeline stage by cause, bytes per accelerator.

    Activations are those of the micro-batches that the schedule really has in flight, plus what
    one layer recreates while it is recomputed. Buffers are the logits in flight or the gradients
    of the widest operator, whichever the moment of the peak needs, sharded gathering, gradient
    buckets and stubs, and pipeline messages. What the allocator loses counts as framework.

    Parameters
    ----------
    plan
        A valid plan.
    schedule
        Its pipeline schedule (``schedule.make_schedule``).
    facts
        What the software stack keeps.

    Returns
    -------
    tuple of MemoryShare
        One for each of the pp stages, in order.
    """
    return _shares(plan, schedule, facts, _parts(plan, facts, stage_layers(plan)))


def totals_with(
    plan: Plan, schedule: Schedule, facts: MemoryFacts, layers: Float64, recreated: float
) -> list[float]:
    """Return the bytes of every stage if its layers kept other activations than the plan's do.

    Parameters
    ----------
    plan, schedule, facts
        As in ``stage_memory``; the plan recomputes nothing.
    layers
        float64[parts], bytes that the layers of each part keep of a micro-batch.
    recreated
        Bytes that the layer which recreates most does.
    """
    spans = stage_layers(plan)
    parts = _parts(plan, facts, spans)
    ends = parts.stored - parts.layers_stored
    changed = replace(parts, stored=ends + layers, recompute=np.full(len(spans), recreated))
    return [share.total for share in _shares(plan, schedule, facts, changed)]


def _shares(
    plan: Plan, schedule: Schedule, facts: MemoryFacts, parts: _Parts
) -> tuple[MemoryShare, ...]:
    training, parallel = plan.training, plan.parallel
    tuning = training.tuning
    spans = stage_layers(plan)
    extra = end_activations(
        plan.model,
        training.seq_len,
        training.micro_batch_seqs,
        parallel,
        training.precision,
        facts,
    )
    last = len(spans) - 1
    logits = np.zeros(len(spans))
    logits[last] = extra.logits * (1 + plan.model.num_mtp_layers)
    offloaded = "activations" in training.offload
    part = schedule.vstage_part
    if offloaded:
        # one layer's activations leave while the next layer's are computed
        counts = np.array([max(count, 1) for _, count in spans])
        leaving = 2 * parts.stored / counts
        in_flight = np.zeros(schedule.devices)
        moved = peak_in_flight(schedule, parts.stored[part], parts.weight_half[part])
    else:
        leaving, moved = np.zeros(len(spans)), np.zeros(schedule.devices)
        in_flight = peak_in_flight(schedule, parts.stored[part], parts.weight_half[part])
    heads = peak_in_flight(schedule, logits[part])
    element = element_bytes(training.precision)
    message = element * training.micro_batch_seqs * training.seq_len * plan.model.hidden
    message /= parallel.cp * (parallel.tp if parallel.sp else 1)
    ends, towers = _ends(plan, len(spans)), _towers(plan, facts)
    stubs = 0.0
    if facts.gradient_stubs:
        ways = (parallel.tp, parallel.ep, parallel.expert_tp)
        stubs = element * distinct_weights(plan.model, *ways)
    # plain lists: the loop below is over a few numbers at a time
    dense_of, experts_of, unit_of = (
        parts.dense.tolist(),
        parts.experts.tolist(),
        parts.unit.tolist(),
    )
    again_of, work_of = (parts.recompute + leaving).tolist(), parts.workspace.tolist()
    if training.int8_weights:
        # the widened copy of one matrix
        work_of = (parts.workspace + element * parts.widened).tolist()
    adapters_of, layers_of = parts.adapters.tolist(), parts.layers_dense.tolist()
    frozen_of, frozen_experts_of = parts.frozen_dense.tolist(), parts.frozen_experts.tolist()
    live_of, heads_of = in_flight.tolist(), heads.tolist()
    at_once = training.layerwise_update
    shares: list[MemoryShare] = []
    for stage, mine in enumerate(_hosted(schedule)):
        dense = sum(dense_of[p] for p in mine)
        experts = sum(experts_of[p] for p in mine)
        added = sum(adapters_of[p] for p in mine)
        frozen = SliceParameters(
            dense=sum(frozen_of[p] for p in mine), experts=sum(frozen_experts_of[p] for p in mine)
        )
        state = state_bytes(
            dense,
            experts,
            parallel=parallel,
            precision=training.precision,
            optimizer=training.optimizer,
            facts=facts,
            offload=training.offload,
            adapters=added if adds_parameters(training) else None,
            frozen=frozen if frozen.total else None,
            resting=towers.frozen if 0 in mine else 0.0,
            quantised=sum(layers_of[p] for p in mine) if tuning.quantised_bits else 0.0,
            quantised_bits=tuning.quantised_bits,
            training=training,
            elements=(float(parts.elements[mine, 0].sum()), float(parts.elements[mine, 1].sum())),
            narrow=float(parts.layers[mine].sum()) if training.int8_weights else 0.0,
            updated_at_once=_largest_update(parts, mine, ends, last) if at_once else 0.0,
        )
        again = max(again_of[p] for p in mine)
        activations = live_of[stage] + again
        edge = ends.first + towers.ends if 0 in mine else 0.0
        edge += ends.last if last in mine else 0.0
        # the loss runs before the layers are recomputed: the larger of the two moments counts
        held = max(heads_of[stage] - extra.logits, 0.0)
        buffers = max(held + max(work_of[p] for p in mine), heads_of[stage] - again)
        buffers += stubs
        whole = dense + experts
        whole -= 0.0 if adds_parameters(training) else frozen.total
        buffers += _gathered(plan, facts, max(unit_of[p] for p in mine), edge, whole)
        if tuning.quantised_bits:
            # the matrix in use is wide for as long as its product takes
            ways = (parallel.tp, parallel.ep, parallel.expert_tp)
            buffers += element * largest_matrix(plan.model, Form(), *ways)
        if parallel.pp > 1:
            buffers += 4 * message  # an input and an output in each direction
        shares.append(
            MemoryShare(
                stage=stage,
                weights=state.weights,
                gradients=state.gradients,
                optimizer=state.optimizer,
                activations=activations,
                buffers=buffers,
                framework=facts.framework_bytes + facts.fragmentation * (activations + buffers),
                moved=float(moved[stage]),
            )
        )
    return tuple(shares)
