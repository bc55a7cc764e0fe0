"""The measured step time and peak memory of a row, from whatever the row gives."""

from __future__ import annotations

import re
from dataclasses import dataclass

from ridgeline.simulator.plan import Plan
from ridgeline.validation.measured import MeasuredRow
from ridgeline.validation.spelling import FlopConvention, Skip, find_flops
from ridgeline.workloads.model import Model
from ridgeline.workloads.parameters import distinct_layers, layer_parameters, parameters

GIB = 2.0**30
_PEAK = re.compile(r"peak (?:mem|alloc|memory)\w*\s*(\d+(?:\.\d+)?)\s*(GiB|GB)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class StepTime:
    """Seconds of a measured step."""

    seconds: float
    derived: bool
    """From throughput, not timed."""


def step_flops(model: Model, tokens: float, seq_len: int, convention: FlopConvention) -> float:
    """Return FLOPs of a step as the convention of a row counts them.

    6 per matrix parameter and token (embedding look-up left out, head counted) and 12 L s a d of
    attention (half of it causal); with full recomputation counted, 4/3 of all but the head, which
    is equation 3 of Narayanan et al. 2021.
    """
    counted = parameters(model)
    head = counted.head or model.vocab * (model.embedding_dim or model.hidden)
    layers = attention = 0.0
    for kind in distinct_layers(model):
        layer = layer_parameters(model, kind.index_of_first)
        routed = 0.0
        if kind.is_moe and model.moe is not None:
            routed = layer.routed_experts * model.moe.top_k / model.moe.num_experts
        matrices = layer.attention + layer.mlp + layer.router + layer.shared_experts + routed
        layers += kind.count * matrices
        width = model.attention.heads * (model.attention.head_dim + model.attention.v_head_dim) / 2
        attention += kind.count * 2 * seq_len * width
    share = 1.0 if convention.attention == "full" else 0.5
    again = 4 / 3 if convention.hardware else 1.0
    return 6 * tokens * (again * (layers + share * attention) + head)


def measured_step_time(row: MeasuredRow, plan: Plan) -> StepTime | Skip:
    """Return the measured step time: timed, else from tokens/s, else from TFLOP/s or MFU.

    TFLOP/s and MFU count FLOPs as the row's notes say (``data/spellings.toml``); MFU is of the
    accelerator's dense peak in the row's precision.
    """
    if row.iter_time_s is not None:
        return StepTime(row.iter_time_s, derived=False)
    count = plan.cluster.count
    tokens = float(plan.training.global_batch_seqs * plan.training.seq_len)
    if row.tokens_per_s_per_accel is not None:
        return StepTime(tokens / (row.tokens_per_s_per_accel * count), derived=True)
    percent = row.mfu_pct
    convention = find_flops(row.notes)
    if row.tflops_per_accel is None and not percent:
        return Skip("no step time, tokens/s, TFLOP/s or MFU")
    if convention is None:
        return Skip("only TFLOP/s or MFU, and the notes do not say how FLOPs are counted")
    if row.tflops_per_accel is not None:
        rate = row.tflops_per_accel * 1e12
    else:
        assert percent is not None
        rate = percent / 100 * plan.cluster.accelerator.peak(plan.training.precision)
    flops = step_flops(plan.model, tokens, plan.training.seq_len, convention)
    return StepTime(flops / (rate * count), derived=True)


def measured_peak_memory(row: MeasuredRow) -> float | None:
    """Return the peak memory that the notes state [GiB], None when they state none."""
    found = _PEAK.search(row.notes)
    if found is None:
        return None
    value = float(found[1])
    return value if found[2].lower() == "gib" else value * 1e9 / GIB


def counts_allocations_only(row: MeasuredRow) -> bool:
    """Whether the stated peak is what the allocator handed out, without runtime and fragments."""
    found = _PEAK.search(row.notes)
    return found is not None and "alloc" in found[0].lower()
