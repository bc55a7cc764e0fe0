"""The operators that the simulator expects in a traced step, with their seconds."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace

import numpy as np

from ridgeline.simulator.accounting import account
from ridgeline.simulator.collectives.layout import NAMES
from ridgeline.simulator.operators.table import COLLECTIVE, FORWARD, PHASES
from ridgeline.simulator.passes import pass_phases
from ridgeline.simulator.plan import Plan
from ridgeline.simulator.roofline import layout
from ridgeline.simulator.roofline.rungs import Kernels
from ridgeline.simulator.schedule import VARIANTS
from ridgeline.simulator.stacks import load_stack
from ridgeline.simulator.step import Step, simulate_step
from ridgeline.validation.traces.operator_rows import (
    ATTENTION,
    CATEGORIES,
    COMMUNICATION,
    GEMM,
    MEMORY,
    OPTIMIZER,
    SimulatedOperator,
)
from ridgeline.validation.traces.unfused import kernels_beside, unfused

_CATEGORY = {
    layout.GEMM: GEMM,
    layout.GROUPED_GEMM: GEMM,
    layout.ATTENTION_FORWARD: ATTENTION,
    layout.ATTENTION_BACKWARD: ATTENTION,
    layout.MEMORY: MEMORY,
    layout.FUSED: ATTENTION,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulatedStep:
    """A step, or a forward pass, as simulated."""

    total_s: float
    category_s: dict[str, float]
    """Kernels added up by ``CATEGORIES``."""
    exposed_communication_s: float
    idle_s: float
    """The device waits: host, pipeline bubble, communication that nothing hides."""
    operators: tuple[SimulatedOperator, ...]
    order: tuple[int, ...]
    """Of a forward pass: places in ``operators`` as they run; empty for a training step."""


def simulate_forward(plan: Plan, head_rows: int, kernels: Kernels | None = None) -> SimulatedStep:
    """Simulate one forward pass without loss; of all rows only ``head_rows`` reach the head.

    Parameters
    ----------
    plan
        Without pipeline stages; its micro-batch is what passes.
    head_rows
        Rows of the output projection: the last token of each sequence in a prefill. 0 leaves
        the head out.
    kernels
        Where the prices of kernels come from.
    """
    step = simulate_step(plan, load_stack(plan.stack), kernels=kernels)
    few = replace(plan.training, seq_len=1, micro_batch_seqs=max(1, head_rows), global_batch_seqs=0)
    few = replace(few, global_batch_seqs=few.micro_batch_seqs * plan.parallel.dp)
    parallel = replace(plan.parallel, cp=1, dp=plan.parallel.dp * plan.parallel.cp)
    short = replace(plan, training=few, parallel=replace(parallel, sp=False))
    ends = simulate_step(short, load_stack(plan.stack), kernels=kernels)
    listed = kernels_beside(plan.stack)
    sequence = [part for unit in step.slices[0].units for part in unit]
    rows: list[SimulatedOperator] = []
    order: list[int] = []
    host = 0.0
    places: dict[int, list[int]] = {}
    for part, times in Counter(sequence).items():
        made = ends if part == step.parts.head else step
        if part == step.parts.head and not head_rows:
            places[part] = []
            continue
        kept = [
            row
            for row in _operators(made, part, FORWARD, float(times))
            if not _is_loss(row, part == step.parts.head)
        ]
        late = float(made.costs.host[part, FORWARD])
        if listed is not None:
            kept = [one for row in kept for one in unfused(row, made.plan, listed)]
            busy = sum(row.seconds for row in kept if not row.collective)
            launched = sum(not row.collective for row in kept)
            late = max(late, launched * made.stack.launch_s - busy)
        places[part] = list(range(len(rows), len(rows) + len(kept)))
        rows += kept
        host += times * late
    for part in sequence:
        order += places[part]
    spent = sum(row.count * row.exposed_s for row in rows)
    exposed = sum(row.count * row.exposed_s for row in rows if row.collective)
    return SimulatedStep(
        total_s=spent + host,
        category_s=_by_category(rows),
        exposed_communication_s=exposed,
        idle_s=exposed + host,
        operators=tuple(rows),
        order=tuple(order),
    )


def _is_loss(row: SimulatedOperator, in_head: bool) -> bool:
    """Whether a row of the head belongs to the loss, which inference does not compute."""
    return in_head and (row.name == "cross-entropy" or row.name.startswith("loss "))


def simulate_training_step(plan: Plan, kernels: Kernels | None = None) -> SimulatedStep:
    """Simulate a training step, averaged over the pipeline stages."""
    step = simulate_step(plan, load_stack(plan.stack), kernels=kernels)
    spent = account(step)
    schedule, devices = step.schedule, step.schedule.devices
    codes = (schedule.pass_kind.astype(np.int64) * schedule.vstages + schedule.vstage) * VARIANTS
    passes = Counter((codes + schedule.variant).tolist())
    times: dict[tuple[int, int], float] = {}
    for code, count in sorted(passes.items()):
        rest, variant = divmod(code, VARIANTS)
        kind, vstage = divmod(rest, schedule.vstages)
        units = step.slices[schedule.vstage_part[vstage]].units
        for phase in pass_phases(kind, variant, split=schedule.split_backward):
            for part in (part for unit in units for part in unit):
                key = (part, phase)
                times[key] = times.get(key, 0.0) + count / devices
    rows = [
        row
        for (part, phase), count in times.items()
        for row in _operators(step, part, phase, count)
    ]
    category = _by_category(rows)
    category[OPTIMIZER] = spent.groups.get("optimizer", 0.0)
    weights = _weight_exchange(step, times)
    category[COMMUNICATION] += weights
    waits = ("bubble", "host")
    idle = sum(s for name, s in spent.groups.items() if name in waits or name.startswith("exposed"))
    return SimulatedStep(
        total_s=step.seconds,
        category_s=category,
        exposed_communication_s=spent.exposed_s,
        idle_s=idle,
        operators=tuple(rows),
        order=(),
    )


def _weight_exchange(step: Step, times: dict[tuple[int, int], float]) -> float:
    """Return seconds a step in which weights are gathered and gradients reduced."""
    exchange = step.exchange
    parts: dict[int, float] = {}
    for (part, phase), count in times.items():
        if phase == FORWARD:
            parts[part] = parts.get(part, 0.0) + count
    rounds = 1.0 if exchange.per_layer else 1.0 / step.plan.micro_batches
    return sum(
        count * rounds * (exchange.gather[part] + exchange.regather[part] + exchange.reduce[part])
        for part, count in parts.items()
    )


def _operators(step: Step, part: int, phase: int, count: float) -> list[SimulatedOperator]:
    table, costs = step.costs.table, step.costs
    rows = []
    for row in np.flatnonzero((table.part == part) & (table.phase == phase)).tolist():
        kind = int(table.kind[row])
        wire = kind == COLLECTIVE
        product = kind in (layout.GEMM, layout.GROUPED_GEMM)
        rows.append(
            SimulatedOperator(
                name=table.names[row],
                part=part,
                phase=PHASES[phase],
                category=COMMUNICATION if wire else _CATEGORY[kind],
                dims=tuple(table.dims[row, :4].tolist()) if product else (),
                dtype="" if wire else layout.DTYPES[table.dtype[row]],
                count=count,
                seconds=float(costs.alone[row]),
                exposed_s=float(costs.chained[row]),
                collective=NAMES[table.operation[row]] if wire else "",
                bytes=float(table.message[row]) if wire else float(table.extra[row, 0]),
                ranks=int(table.size[row]) if wire else 0,
            )
        )
    return rows


def _by_category(rows: list[SimulatedOperator]) -> dict[str, float]:
    sums = dict.fromkeys(CATEGORIES, 0.0)
    for row in rows:
        sums[row.category] += row.count * row.seconds
    return sums
