"""Questions about what is trained and on what: differences between two plans of training."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import reduce
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from ridgeline.simulator.planfile import read_plan
from ridgeline.simulator.results import TrainingResult
from ridgeline.simulator.training import simulate_training
from ridgeline.validation.published.answers.training import flat


def _pair(ask: Mapping[str, Any]) -> tuple[TrainingResult, TrainingResult]:
    """Return the predictions of ``plan`` and of the plan with ``over`` in its place.

    ``model`` is a configuration where the plan names none of the catalogue.
    """
    first = flat(ask["plan"])
    second = first | flat(ask["over"])
    with TemporaryDirectory() as folder:
        if "model" in ask:
            path = Path(folder) / "config.json"
            path.write_text(json.dumps(ask["model"]), encoding="utf-8")
            first["model.config"] = second["model.config"] = str(path)
        plans = [read_plan(None, keys) for keys in (first, second)]
    one, other = (simulate_training(plan) for plan in plans)
    return one, other


def _training_difference(ask: Mapping[str, Any]) -> float:
    """Return the ``field`` of ``plan`` less that of the plan with ``over``, times ``scale``."""
    one, other = (reduce(getattr, ask["field"].split("."), found) for found in _pair(ask))
    return (float(one) - float(other)) * float(ask["scale"])  # type: ignore[arg-type]


def _memory_saved(ask: Mapping[str, Any]) -> float:
    """Return the share of the allocated memory of ``over`` that ``plan`` saves.

    The runtime's own is left out, as in what a framework's allocator reports.
    """
    one, other = (found.worst_memory.total - found.worst_memory.framework for found in _pair(ask))
    return 1.0 - one / other


KINDS: dict[str, Callable[[Mapping[str, Any]], float]] = {
    "training-difference": _training_difference,
    "memory-saved": _memory_saved,
}
"""Kind of question -> what answers it."""
