"""The timeline of a step as a Chrome trace: stages are processes, streams are threads.

Format: Trace Event Format (Google), which Perfetto and chrome://tracing open.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ridgeline.errors import InputError
from ridgeline.simulator import legality
from ridgeline.simulator.plan import Plan
from ridgeline.simulator.roofline.rungs import Kernels
from ridgeline.simulator.stacks import load_stack
from ridgeline.simulator.step import simulate_step
from ridgeline.simulator.tasks import HEAD, STREAMS, STREAMS_PER_DEVICE, TAIL

MAX_EVENTS = 400_000
"""A larger trace is not opened with pleasure by any viewer."""
_KINDS = ("forward", "backward", "weight gradient")


def trace(plan: Plan, granularity: str = "layer", kernels: Kernels | None = None) -> dict[str, Any]:
    """Return the timeline of one step as a JSON-ready object; times in microseconds.

    A step of more than ``MAX_EVENTS`` tasks is written stage by stage instead, and says so in
    ``otherData``.
    """
    if plan.training.tuning.objective != "next-token":
        raise InputError(
            f"training.objective = {plan.training.tuning.objective!r}: a timeline shows the passes "
            f"of what is trained alone, without what runs beside; leave out --trace"
        )
    if legality.too_fine(plan, granularity):
        return trace(plan, "stage", kernels)
    step = simulate_step(plan, load_stack(plan.stack), granularity, kernels)
    if step.graph.tasks > MAX_EVENTS and granularity != "stage":
        return trace(plan, "stage", kernels)
    blocks = step.graph.blocks
    assert blocks is not None
    stages = plan.parallel.pp
    events: list[dict[str, Any]] = []
    for stage in range(stages):
        events.append(_meta("process_name", stage, 0, f"stage {stage}"))
        events.append(
            {"ph": "M", "name": "process_sort_index", "pid": stage, "args": {"sort_index": stage}}
        )
        events += [_meta("thread_name", stage, i, name) for i, name in enumerate(STREAMS)]
    owner = np.searchsorted(blocks.first, np.arange(step.graph.tasks), side="right") - 1
    start, seconds = step.timeline.start * 1e6, step.graph.seconds * 1e6
    for task in np.flatnonzero(seconds > 0.0).tolist():
        stream = int(step.graph.stream[task])
        stage, thread = divmod(stream, STREAMS_PER_DEVICE)
        if stage >= stages:
            continue
        block = min(int(owner[task]), len(blocks.kind) - 1)
        events.append(
            {
                "ph": "X",
                "pid": stage,
                "tid": thread,
                "ts": round(float(start[task]), 3),
                "dur": round(float(seconds[task]), 3),
                "name": _label(step.labels, blocks, block, task),
                "args": {
                    "micro_batch": int(blocks.micro_batch[block]),
                    "virtual_stage": int(blocks.vstage[block]),
                },
            }
        )
    return {
        "traceEvents": events,
        "displayTimeUnit": "ms",
        "otherData": {
            "model": plan.model.name,
            "cluster": plan.cluster.name,
            "granularity": granularity,
        },
    }


def _meta(name: str, stage: int, thread: int, value: str) -> dict[str, Any]:
    return {"ph": "M", "name": name, "pid": stage, "tid": thread, "args": {"name": value}}


def _label(labels: tuple[str, ...], blocks: Any, block: int, task: int) -> str:
    template = int(blocks.template[block])
    place = task - int(blocks.first[block])
    rows = int(blocks.op_ptr[template + 1] - blocks.op_ptr[template]) if template >= 0 else 0
    kind = int(blocks.kind[block])
    if place >= rows:
        return "send" if kind not in (HEAD, TAIL) else "join"
    label = labels[int(blocks.op_ptr[template]) + place]
    if kind in (HEAD, TAIL):
        return label
    return f"{label} {blocks.micro_batch[block]}" if label in _KINDS else label
