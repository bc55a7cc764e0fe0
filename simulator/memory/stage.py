"""Memory of every pipeline stage: state, activations in flight, buffers, runtime."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from ridgeline.simulator.adapters import layer_adapters
from ridgeline.simulator.memory.activations import (
    element_bytes,
    end_activations,
    kind_activations,
    recomputes_layer,
)
from ridgeline.simulator.memory.facts import MemoryFacts
from ridgeline.simulator.memory.state import (
    EndParameters,
    distinct_weights,
    end_slices,
    largest_matrix,
    layer_slice,
    state_bytes,
)
from ridgeline.simulator.memory.towers import TowerMemory, tower_memory
from ridgeline.simulator.plan import Plan
from ridgeline.simulator.results import MemoryShare
from ridgeline.simulator.schedule import Schedule, peak_in_flight
from ridgeline.simulator.stages import stage_layers
from ridgeline.workloads.forms import Form
from ridgeline.workloads.model import Model

Float64 = NDArray[np.float64]
Int64 = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class _Kind:
    """Layers that keep the same bytes: same shape, same recomputation."""

    form: Form
    policy: str
    count: Int64
    """Layers of this kind in each part."""


@lru_cache(maxsize=1024)
def _kinds(model: Model, recompute: str, spans: tuple[tuple[int, int], ...]) -> tuple[_Kind, ...]:
    """Count the layers of each kind in each part; ``spans`` are (first layer, count)."""
    counts: dict[tuple[Form, str], Int64] = {}
    for part, (first, count) in enumerate(spans):
        for index in range(first, first + count):
            key = (model.form(index), recomputes_layer(recompute, index, index - first))
            if key not in counts:
                counts[key] = np.zeros(len(spans), np.int64)
            counts[key][part] += 1
    return tuple(_Kind(form, policy, count) for (form, policy), count in counts.items())


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
    """Parameters of low-rank adapters; 0 where every weight is trained."""


def _parts(plan: Plan, facts: MemoryFacts, spans: tuple[tuple[int, int], ...]) -> _Parts:
    training, parallel, model = plan.training, plan.parallel, plan.model
    zero = np.zeros(len(spans))
    stored, recompute, workspace, unit = zero.copy(), zero.copy(), zero.copy(), zero.copy()
    dense, experts, half, adapters = zero.copy(), zero.copy(), zero.copy(), zero.copy()
    rank, targets = training.lora_rank, training.lora_targets
    for kind in _kinds(model, training.recompute, spans):
        layer = kind_activations(
            model,
            kind.form,
            training.seq_len,
            training.micro_batch_seqs,
            parallel,
            kind.policy,
            training.precision,
            facts,
            frozen_mlp=rank > 0 and targets == "attention",
        )
        weights = layer_slice(model, kind.form, parallel.tp, parallel.ep, parallel.expert_tp)
        present = kind.count > 0
        stored += kind.count * layer.stored
        half += kind.count * layer.weight_half
        recompute = np.maximum(recompute, present * layer.peak_recompute)
        workspace = np.maximum(workspace, present * layer.workspace)
        gathered = weights.total
        if not facts.gathers_layers:
            gathered = largest_matrix(
                model, kind.form, parallel.tp, parallel.ep, parallel.expert_tp
            )
        unit = np.maximum(unit, present * gathered)
        adapters += kind.count * layer_adapters(model, kind.form, rank, targets, parallel.tp)
        dense += kind.count * weights.dense
        experts += kind.count * weights.experts
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
    extra = end_activations(
        model,
        training.seq_len,
        training.micro_batch_seqs,
        parallel,
        training.precision,
        facts,
    )
    stored[0] += extra.embedding
    stored[-1] += extra.head
    if model.num_mtp_layers:
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
    return _Parts(stored, half, recompute, workspace, dense, experts, unit, adapters)


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
    gradients unit by unit.
    """
    parallel = plan.parallel
    if parallel.dp * parallel.cp == 1:
        return 0.0
    element = element_bytes(plan.training.precision)
    frozen = plan.training.lora_rank > 0
    if parallel.zero_stage < 2:
        return 0.0 if frozen else min(facts.bucket_bytes, facts.gradient_bytes * whole)
    gradients = 0.0 if frozen else element * max(unit, ends)
    if parallel.zero_stage == 2:
        return gradients
    return gradients + element * (facts.unsharded_units * unit + ends)


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
    training, parallel = plan.training, plan.parallel
    spans = stage_layers(plan)
    parts = _parts(plan, facts, spans)
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
    else:
        leaving = np.zeros(len(spans))
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
    adapters_of = parts.adapters.tolist()
    live_of, heads_of = in_flight.tolist(), heads.tolist()
    shares: list[MemoryShare] = []
    for stage, mine in enumerate(_hosted(schedule)):
        dense = sum(dense_of[p] for p in mine)
        experts = sum(experts_of[p] for p in mine)
        trained = sum(adapters_of[p] for p in mine)
        state = state_bytes(
            dense,
            experts,
            parallel=parallel,
            precision=training.precision,
            optimizer=training.optimizer,
            facts=facts,
            offload=training.offload,
            adapters=trained if training.lora_rank else None,
            frozen=towers.frozen if 0 in mine else 0.0,
        )
        again = max(again_of[p] for p in mine)
        activations = live_of[stage] + again
        edge = ends.first + towers.ends if 0 in mine else 0.0
        edge += ends.last if last in mine else 0.0
        # the loss runs before the layers are recomputed: the larger of the two moments counts
        held = max(heads_of[stage] - extra.logits, 0.0)
        buffers = max(held + max(work_of[p] for p in mine), heads_of[stage] - again)
        buffers += stubs
        buffers += _gathered(plan, facts, max(unit_of[p] for p in mine), edge, dense + experts)
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
            )
        )
    return tuple(shares)
