"""What a step is made of, for pictures: its timeline, and its operators on the roofline."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ridgeline.report.lanes import MOST_BLOCKS, Block
from ridgeline.simulator.explanation import part_name
from ridgeline.simulator.operators.table import COLLECTIVE, GROUPS, PHASES
from ridgeline.simulator.plan import Plan
from ridgeline.simulator.roofline.device import bounds
from ridgeline.simulator.roofline.layout import DTYPES
from ridgeline.simulator.roofline.rungs import Kernels
from ridgeline.simulator.stacks import load_stack
from ridgeline.simulator.step import Step, simulate_step
from ridgeline.simulator.tasks import COMPUTE, HEAD, STREAMS, STREAMS_PER_DEVICE, TAIL

MOST_STAGES, FEWEST_STAGES = 16, 6
"""Drawn; of more stages so many are taken evenly, first and last among them."""
_PASSES = ("forward", "backward", "weight gradient")
COMMUNICATION = "communication"


@dataclass(frozen=True, slots=True, kw_only=True)
class OperatorPoint:
    """An operator of a layer on one accelerator, against the datasheet."""

    name: str
    part: str
    phase: str
    group: str
    dtype: str
    flops: float
    """Useful ones: under the mask, nothing padded."""
    bytes: float
    """That must move to or from memory."""
    seconds: float
    peak: float
    """Dense peak of its number format, FLOP/s."""

    @property
    def intensity(self) -> float:
        """FLOPs a byte."""
        return self.flops / self.bytes

    @property
    def flops_per_s(self) -> float:
        """Useful FLOPs over predicted seconds."""
        return self.flops / self.seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class StepFacts:
    """A played step as pictures need it."""

    span_s: float
    """End of the timeline."""
    stages: tuple[int, ...]
    """Drawn, in their order."""
    all_stages: int
    blocks: tuple[Block, ...]
    operators: tuple[OperatorPoint, ...]
    memory_bytes_per_s: float


def step_facts(plan: Plan, kernels: Kernels | None = None) -> StepFacts:
    """Play one step of ``plan`` and return its timeline and operators.

    Raises
    ------
    InputError
        The plan is illegal.
    """
    step = simulate_step(plan, load_stack(plan.stack), "stage", kernels)
    count = plan.parallel.pp
    computing = np.count_nonzero(step.graph.stream % STREAMS_PER_DEVICE == COMPUTE)
    fair = int(MOST_BLOCKS / max(1.0, computing / count))
    drawn = min(count, max(FEWEST_STAGES, min(MOST_STAGES, fair)))
    chosen = tuple(round(i * (count - 1) / max(1, drawn - 1)) for i in range(drawn))
    return StepFacts(
        span_s=step.timeline.makespan,
        stages=chosen,
        all_stages=count,
        blocks=tuple(_blocks(step, chosen)),
        operators=tuple(_points(step)),
        memory_bytes_per_s=plan.cluster.accelerator.memory_bytes_per_s,
    )


def _blocks(step: Step, stages: Sequence[int]) -> list[Block]:
    """Return tasks as blocks: compute in the upper part of a stage's lane, links below it."""
    graph, owned = step.graph, step.graph.blocks
    assert owned is not None
    owner = np.searchsorted(owned.first, np.arange(graph.tasks), side="right") - 1
    lane_of = {stage: lane for lane, stage in enumerate(stages)}
    found = []
    for task in np.flatnonzero(graph.seconds > 0.0).tolist():
        stage, stream = divmod(int(graph.stream[task]), STREAMS_PER_DEVICE)
        lane = lane_of.get(stage)
        if lane is None:
            continue
        block = min(int(owner[task]), len(owned.kind) - 1)
        kind, text = _named(step, block, task, stream)
        start = float(step.timeline.start[task])
        computes = stream == COMPUTE
        found.append(
            Block(
                lane=lane if computes else lane + 0.58,
                start_s=start,
                end_s=start + float(graph.seconds[task]),
                kind=kind,
                text=text,
                height=0.56 if computes else 0.22,
            )
        )
    return found


def _named(step: Step, block: int, task: int, stream: int) -> tuple[str, str]:
    """Return the kind of a task and what to call it."""
    owned = step.graph.blocks
    assert owned is not None
    template, kind = int(owned.template[block]), int(owned.kind[block])
    place = task - int(owned.first[block])
    rows = int(owned.op_ptr[template + 1] - owned.op_ptr[template]) if template >= 0 else 0
    label = step.labels[int(owned.op_ptr[template]) + place] if place < rows else "send"
    micro_batch = int(owned.micro_batch[block])
    if stream != COMPUTE:
        text = label if label != "send" or kind in (HEAD, TAIL) else f"send {micro_batch}"
        return COMMUNICATION, f"{text} ({STREAMS[stream]})"
    if kind in (HEAD, TAIL):
        return "optimizer", label
    return _PASSES[kind], f"{_PASSES[kind]} {micro_batch}"


def _points(step: Step) -> list[OperatorPoint]:
    """Return the operators that compute, with useful FLOPs and bytes of the datasheet's bounds."""
    table, accelerator = step.costs.table, step.plan.cluster.accelerator
    work = np.flatnonzero(table.kind != COLLECTIVE)
    flop_s, byte_s = bounds(
        table.kind[work], table.dtype[work], table.dims[work], table.extra[work], accelerator
    )
    points = []
    for place, row in enumerate(work.tolist()):
        seconds = float(step.costs.alone[row])
        if not (flop_s[place] > 0.0 and byte_s[place] > 0.0 and seconds > 0.0):
            continue
        dtype = DTYPES[table.dtype[row]]
        peak = accelerator.peak(dtype)
        points.append(
            OperatorPoint(
                name=table.names[row],
                part=part_name(step.plan.model, step.parts, int(table.part[row])),
                phase=PHASES[table.phase[row]],
                group=GROUPS[table.group[row]],
                dtype=dtype,
                flops=float(flop_s[place]) * peak,
                bytes=float(byte_s[place]) * accelerator.memory_bytes_per_s,
                seconds=seconds,
                peak=peak,
            )
        )
    return points
