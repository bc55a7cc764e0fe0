"""Build and play one step of MT-NLG 530B, operator by operator; and of a plan stage by stage.

MT-NLG 530B is planned as (tensor 8, data 12, pipeline 35), 1F1B, 160 micro-batches, 3 layers a
stage, 71 operators a layer and micro-batch: 1.2 million tasks. The operators have made-up
seconds; only their number and their dependencies matter here.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable

import numpy as np

from ridgeline.simulator.engine import play
from ridgeline.simulator.schedule import BACKWARD, FORWARD, VARIANTS, make_schedule
from ridgeline.simulator.tasks import (
    COMPUTE,
    GRADIENT,
    NETWORK,
    Block,
    Templates,
    expand,
    stack,
    stage_templates,
)

PP, MICRO_BATCHES, LAYERS = 35, 160, 3
FORWARD_OPS, BACKWARD_OPS = 24, 47
REPEATS = 5


def _chain(layers: int, ops: int, reduces: bool) -> Block:
    """Return operators in a chain, two tensor-parallel all-reduces a layer among them."""
    stream = [NETWORK if op in (ops // 2 - 1, ops - 1) else COMPUTE for op in range(ops)] * layers
    seconds = [5e-4 if s == NETWORK else 2e-4 + 1e-6 * (i % 7) for i, s in enumerate(stream)]
    waits = list(range(-1, len(stream) - 1))
    if reduces:
        stream.append(GRADIENT)
        seconds.append(2e-2)
        waits.append(len(waits) - 1)
    return Block(
        seconds=seconds,
        stream=stream,
        dep_a=waits,
        dep_b=[-1] * len(waits),
        exit=layers * ops - 1,
    )


def mtnlg_templates() -> Templates:
    """Return the templates of a forward, a backward and a last backward."""
    block_of = np.full((3, PP, VARIANTS), -1, np.int32)
    block_of[FORWARD] = 0
    block_of[BACKWARD] = 1
    block_of[BACKWARD, :, 2:4] = 2
    blocks = [
        _chain(LAYERS, FORWARD_OPS, reduces=False),
        _chain(LAYERS, BACKWARD_OPS, reduces=False),
        _chain(LAYERS, BACKWARD_OPS, reduces=True),
    ]
    none = np.full(PP, -1, np.int32)
    return stack(blocks, block_of, none, none)


def mtnlg_step(templates: Templates) -> int:
    """Build and play one step; return its number of tasks."""
    schedule = make_schedule("1f1b", PP, 1, MICRO_BATCHES)
    graph = expand(schedule, templates, np.full((PP, 2), 1e-3))
    play(graph)
    return graph.tasks


def stage_step() -> int:
    """Build and play one step of 16 stages with 4 chunks at stage granularity."""
    schedule = make_schedule("interleaved", 16, 4, 64)
    stages = schedule.vstages
    templates = stage_templates(schedule, np.full(stages, 1.0), np.full(stages, 2.0))
    graph = expand(schedule, templates, np.full((stages, 2), 1e-2))
    play(graph)
    return graph.tasks


def _median_cpu_s(work: Callable[[], object], repeats: int) -> float:
    spent = []
    for _ in range(repeats):
        before = time.process_time()
        work()
        spent.append(time.process_time() - before)
    return statistics.median(spent)


def run() -> dict[str, float]:
    """Measure in CPU seconds after compilation, median of repeats."""
    templates = mtnlg_templates()
    tasks = mtnlg_step(templates)
    seconds = _median_cpu_s(lambda: mtnlg_step(templates), REPEATS)
    stage_tasks = stage_step()
    stage_s = _median_cpu_s(stage_step, 20 * REPEATS)
    return {
        "mtnlg_build_and_play_cpu_s": seconds,
        "mtnlg_tasks": tasks,
        "tasks_per_s": tasks / seconds,
        "stage_plan_ms": 1e3 * stage_s,
        "stage_plan_tasks": stage_tasks,
    }


if __name__ == "__main__":
    print(json.dumps(run(), indent=2))
