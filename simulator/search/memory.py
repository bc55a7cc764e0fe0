"""Bytes per accelerator of candidates: exact for regular plans, and a cheap lower bound.

The same counts as ``memory.stage_memory``: what a layer or an end of the model keeps is counted
once for each distinct combination of the columns that decide it, and put together by a kernel.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from ridgeline.simulator.memory import MemoryFacts, end_activations, memory_facts, state_bytes
from ridgeline.simulator.memory.activations import (
    element_bytes,
    kind_activations,
    recomputes_layer,
)
from ridgeline.simulator.memory.state import (
    distinct_weights,
    end_slices,
    largest_matrix,
    layer_slice,
)
from ridgeline.simulator.plan import Parallelism
from ridgeline.simulator.recompute import known_recompute
from ridgeline.simulator.search import _kernels
from ridgeline.simulator.search.parts import (
    Shelf,
    micro_batches,
    regular_plans,
    schedule_codes,
)
from ridgeline.simulator.search.space import Candidates, Space, plan_at
from ridgeline.simulator.stacks import load_stack
from ridgeline.simulator.stages import stage_layers
from ridgeline.workloads.forms import Form
from ridgeline.workloads.model import Model

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Kind = tuple[Form, str]
"""Layers that keep the same bytes: of one form, and how they are recomputed."""
_COUNTED = (Form(), Form(feed_forward="moe"))
"""Forms that the kernel counts, by their place in its tables."""


def worst_memory_bytes(space: Space, candidates: Candidates) -> Floats:
    """Return what the stage that needs most takes, float64[n] in bytes; NaN: ask ``stage_memory``.

    Regular plans (GPipe, 1F1B, interleaved) are counted, with or without offload, of models with
    attention and MLPs or experts in every layer.
    """
    out = np.full(len(candidates), np.nan)
    if not set(_forms(space)) <= set(_COUNTED):
        return out
    rows = np.flatnonzero(regular_plans(space, candidates))
    if not len(rows):
        return out
    c = candidates.take(rows)
    facts, training = memory_facts(load_stack(space.stack)), space.training
    kept, kept_of = _kept(space, facts, c)
    held, held_of = _held(space, c)
    share, share_of = _share(space, facts, c)
    counts = Shelf[Ints]()
    layout = counts.places([c.recompute, c.pp * c.vpp], lambda row: _counts(space, c, row))
    layout_ptr = np.zeros(len(counts.made) + 1, np.int64)
    np.cumsum([table.shape[1] for table in counts.made], out=layout_ptr[1:])
    flat = np.zeros((max(table.shape[0] for table in counts.made), layout_ptr[-1]), np.int64)
    for at, table in zip(layout_ptr, counts.made, strict=False):
        flat[: table.shape[0], at : at + table.shape[1]] = table
    element = element_bytes(training.precision)
    split = c.cp * np.where(c.sp > 0, c.tp, 1)
    worst = np.empty(len(rows))
    _kernels.worst_bytes(
        schedule_codes(space)[c.schedule],
        c.pp,
        c.vpp,
        micro_batches(space, c),
        c.zero_stage,
        c.cp * c.dp,
        np.array(["activations" in names for names in space.offload])[c.offload],
        kept_of,
        held_of,
        share_of,
        layout,
        layout_ptr,
        flat,
        kept,
        held,
        share,
        element * c.micro_batch_seqs * training.seq_len * space.model.hidden / split,
        element,
        facts.bucket_bytes,
        facts.gradient_bytes,
        float(facts.unsharded_units),
        facts.framework_bytes,
        facts.fragmentation,
        space.model.num_mtp_layers,
        worst,
    )
    out[rows] = worst
    return out


def memory_lower_bound(space: Space, candidates: Candidates) -> Floats:
    """Return bytes that the worst stage of a candidate is not under, float64[n].

    The stages of one copy of the model hold all its parameters, in DualPipe twice. So the stage
    that needs most holds at least a pp-th of their weights, gradients and optimizer state, as ZeRO
    shares them out; and the runtime. The result is lowered by a share of 1e-10 for rounding.
    """
    c = candidates
    if not len(c):
        return np.zeros(0)
    facts = memory_facts(load_stack(space.stack))
    held, held_of = _held(space, c)
    share, share_of = _share(space, facts, c)
    layers = _forms(space)
    kinds = [layers.count(form) for form in _tabled(space)]
    n = len(kinds)
    dense = held[:, :n, 0] @ kinds + held[:, n, 0] + held[:, n + 1, 0]
    experts = held[:, :n, 1] @ kinds + held[:, n + 1, 1]
    coefficients = share[:, :, :].sum(axis=2)[share_of]
    state = dense[held_of] * coefficients[:, 0] + experts[held_of] * coefficients[:, 1]
    least: Floats = (state / c.pp + facts.framework_bytes) * (1.0 - _kernels.ROUNDING)
    return least


def _split(c: Candidates, row: int) -> Parallelism:
    """Return the ways that decide the bytes of a layer, less those that do not."""
    return Parallelism(
        tp=int(c.tp[row]),
        cp=int(c.cp[row]),
        ep=int(c.ep[row]),
        etp=int(c.etp[row]),
        sp=bool(c.sp[row]),
    )


def _forms(space: Space) -> tuple[Form, ...]:
    """Return the form of every layer."""
    return _forms_of(space.model)


@lru_cache(maxsize=64)
def _forms_of(model: Model) -> tuple[Form, ...]:
    return tuple(model.form(index) for index in range(model.num_layers))


def _tabled(space: Space) -> tuple[Form, ...]:
    """Return the forms in the order of ``_held``'s rows: those of the kernel, then others."""
    others = set(_forms(space)) - set(_COUNTED)
    return (*_COUNTED, *sorted(others))


def _kinds(space: Space, recompute: str) -> list[Kind]:
    """Return the kinds of layers under a policy, those that are recomputed first."""
    present = set(_forms(space))
    _, scope = known_recompute(recompute)
    policies = ("full", "none") if scope.mode in ("every", "first") else (recompute,)
    return [(form, policy) for form in _tabled(space) if form in present for policy in policies]


def _counts(space: Space, c: Candidates, row: int) -> Ints:
    """Count the layers of every kind in every part, int64[kinds, parts]."""
    plan = plan_at(space, c, row)
    forms, recompute = _forms(space), plan.training.recompute
    place = {kind: i for i, kind in enumerate(_kinds(space, recompute))}
    spans = stage_layers(plan)
    counts = np.zeros((len(place), len(spans)), np.int64)
    for part, (first, count) in enumerate(spans):
        for index in range(first, first + count):
            policy = recomputes_layer(recompute, index, index - first)
            counts[place[forms[index], policy], part] += 1
    return counts


def _kept(space: Space, facts: MemoryFacts, c: Candidates) -> tuple[Floats, Ints]:
    """Return what layers and ends keep of a micro-batch, and each candidate's place in it.

    float64[m, KINDS + 1, 5]: by kind bytes stored, recreated, of workspace, parameters of the unit
    that is gathered at once, and 1 where it routes; last the embedding, the head, the logits, what
    a multi-token-prediction layer stores beside its head, and the gradient stubs.
    """
    model, training = space.model, space.training
    shelf = Shelf[Floats]()

    def make(row: int) -> Floats:
        split, mbs = _split(c, row), int(c.micro_batch_seqs[row])
        recompute = space.recompute[int(c.recompute[row])]
        common = (training.precision, facts)
        kinds = _kinds(space, recompute)
        table = np.zeros((_kernels.KINDS + 1, 5))
        for i, (form, policy) in enumerate(kinds):
            layer = kind_activations(model, form, training.seq_len, mbs, split, policy, *common)
            if facts.gathers_layers:
                unit = layer_slice(model, form, split.tp, split.ep, split.expert_tp).total
            else:
                unit = largest_matrix(model, form, split.tp, split.ep, split.expert_tp)
            table[i] = layer.stored, layer.peak_recompute, layer.workspace, unit, form.is_moe
        ends = end_activations(model, training.seq_len, mbs, split, *common)
        extra = 0.0
        if model.num_mtp_layers:
            form = model.form(model.num_layers - 1)
            policy = recomputes_layer(recompute, model.num_layers - 1, 0)
            layer = kind_activations(model, form, training.seq_len, mbs, split, policy, *common)
            extra = layer.stored
        stubs = 0.0
        if facts.gradient_stubs:
            stubs = element_bytes(training.precision) * distinct_weights(
                model, split.tp, split.ep, split.expert_tp
            )
        table[-1] = ends.embedding, ends.head, ends.logits, extra, stubs
        return table

    columns = [c.tp, c.sp, c.cp, c.ep, c.etp, c.micro_batch_seqs, c.recompute]
    places = shelf.places(columns, make)
    return np.array(shelf.made), places


def _held(space: Space, c: Candidates) -> tuple[Floats, Ints]:
    """Return the parameters of layers and ends on one rank, and each candidate's place in it.

    float64[m, n + 2, 2]: dense and of experts; of a layer of each of the n forms of ``_tabled``
    (without experts, with experts, others), of the first end and of the last.
    """
    model, forms = space.model, _tabled(space)
    shelf = Shelf[Floats]()

    def make(row: int) -> Floats:
        split = _split(c, row)
        ways = (split.tp, split.ep, split.expert_tp)
        table = np.zeros((len(forms) + 2, 2))
        for form, _ in _kinds(space, "none"):
            layer = layer_slice(model, form, *ways)
            table[forms.index(form)] = layer.dense, layer.experts
        ends = end_slices(model, *ways, bool(c.pp[row] * c.vpp[row] == 1))
        table[-2, 0] = ends.first
        table[-1] = ends.last, ends.last_experts
        return table

    places = shelf.places([c.tp, c.ep, c.etp, c.pp * c.vpp == 1], make)
    return np.array(shelf.made), places


def _share(space: Space, facts: MemoryFacts, c: Candidates) -> tuple[Floats, Ints]:
    """Return the state of a parameter, and each candidate's place in it.

    float64[m, 2, 3]: bytes of weights, gradients and optimizer, of a dense one and of an expert's.
    """
    training = space.training
    shelf = Shelf[Floats]()

    def make(row: int) -> Floats:
        plan = plan_at(space, c, row)
        table = np.zeros((2, 3))
        for i, (dense, experts) in enumerate(((1.0, 0.0), (0.0, 1.0))):
            state = state_bytes(
                dense,
                experts,
                parallel=plan.parallel,
                precision=training.precision,
                optimizer=training.optimizer,
                facts=facts,
                offload=plan.training.offload,
            )
            table[i] = state.weights, state.gradients, state.optimizer
        return table

    copies = c.cp * c.dp
    expert_dp = c.tp * copies // (np.where(c.etp > 0, c.etp, c.tp) * c.ep)
    places = shelf.places([copies, expert_dp, c.zero_stage, c.offload], make)
    return np.array(shelf.made), places
