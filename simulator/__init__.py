"""From a plan to a prediction: operators, seconds, tasks, timeline, metrics, dollars."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ridgeline.simulator.explanation import explain
    from ridgeline.simulator.plan import Parallelism, Plan, Training
    from ridgeline.simulator.planfile import read_plan
    from ridgeline.simulator.results import TrainingResult
    from ridgeline.simulator.roofline.rungs import Kernels
    from ridgeline.simulator.stacks import Stack, load_stack, stack_names
    from ridgeline.simulator.timeline import trace
    from ridgeline.simulator.training import simulate_training

_HOME = {
    "Kernels": "roofline.rungs",
    "Parallelism": "plan",
    "Plan": "plan",
    "Stack": "stacks",
    "Training": "plan",
    "TrainingResult": "results",
    "explain": "explanation",
    "load_stack": "stacks",
    "read_plan": "planfile",
    "simulate_training": "training",
    "stack_names": "stacks",
    "trace": "timeline",
}

__all__ = [
    "Kernels",
    "Parallelism",
    "Plan",
    "Stack",
    "Training",
    "TrainingResult",
    "explain",
    "load_stack",
    "read_plan",
    "simulate_training",
    "stack_names",
    "trace",
]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(f"ridgeline.simulator.{_HOME[name]}"), name)
    raise AttributeError(f"module 'ridgeline.simulator' has no attribute {name!r}")
