"""Ridgeline: predict what it takes to train and to serve transformers.

The public names are loaded on first use, so that importing the package costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ridgeline.hardware import Accelerator, Cluster
    from ridgeline.simulator import Plan, TrainingResult, simulate_training
    from ridgeline.workloads import Model

__version__ = "0.1.0"

_HOME = {
    "Accelerator": "ridgeline.hardware",
    "Cluster": "ridgeline.hardware",
    "Model": "ridgeline.workloads",
    "Plan": "ridgeline.simulator",
    "TrainingResult": "ridgeline.simulator",
    "simulate_training": "ridgeline.simulator",
}

__all__ = [
    "Accelerator",
    "Cluster",
    "Model",
    "Plan",
    "TrainingResult",
    "__version__",
    "simulate_training",
]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module 'ridgeline' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
