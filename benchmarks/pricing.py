"""CPU time of predicting one plan at stage granularity: the step alone, and the whole answer."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

from ridgeline.simulator.plan import Plan
from ridgeline.simulator.planfile import read_plan
from ridgeline.simulator.stacks import load_stack
from ridgeline.simulator.step import simulate_step
from ridgeline.simulator.training import simulate_training

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
REPEATS = 15
WARM_UPS = 3
"""Runs before the measurement: kernels compile, and caches of files fill."""


def run() -> dict[str, float]:
    """Price every training plan of ``examples/`` at stage granularity, warm, in one process.

    Returns
    -------
    dict
        ``plan_ms`` is the CPU time of ``simulate_step``, the median of the repeats of a plan and
        then over the plans; ``training_ms`` the same of ``simulate_training`` (step, memory, run,
        money); ``plan_ms_PLAN`` that of every plan; ``tasks_PLAN`` how many tasks it plays.
    """
    plans = {
        path.stem: read_plan(path)
        for path in sorted(EXAMPLES.glob("*.toml"))
        if "\n[training]\n" in path.read_text(encoding="utf-8")  # services and fleets have none
    }
    step_ms = {name: _median_ms(_step, plan) for name, plan in plans.items()}
    training_ms = [_median_ms(simulate_training, plan) for plan in plans.values()]
    return {
        "plan_ms": statistics.median(step_ms.values()),
        "training_ms": statistics.median(training_ms),
        **{f"plan_ms_{name}": ms for name, ms in step_ms.items()},
        **{f"tasks_{name}": _step(plan) for name, plan in plans.items()},
    }


def _step(plan: Plan) -> int:
    return simulate_step(plan, load_stack(plan.stack)).graph.tasks


def _median_ms(work: Callable[[Plan], object], plan: Plan) -> float:
    for _ in range(WARM_UPS):
        work(plan)
    seconds = []
    for _ in range(REPEATS):
        start = time.process_time()
        work(plan)
        seconds.append(time.process_time() - start)
    return statistics.median(seconds) * 1e3


if __name__ == "__main__":
    print(json.dumps(run(), indent=2))
