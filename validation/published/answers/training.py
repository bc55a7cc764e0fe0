"""Questions about a training plan: a field of its prediction, or the ratio of two plans."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import reduce
from typing import Any

from ridgeline.simulator.planfile import read_plan
from ridgeline.simulator.training import simulate_training


def flat(tables: Mapping[str, Any]) -> dict[str, object]:
    """Return tables of a plan file as dotted keys."""
    return {
        f"{section}.{key}": value
        for section, table in tables.items()
        for key, value in table.items()
    }


def training_field(ask: Mapping[str, Any]) -> float:
    """Return a field of the prediction of ``plan``, times ``scale`` (1)."""
    prediction = simulate_training(read_plan(None, flat(ask["plan"])))
    value: Any = reduce(getattr, ask["field"].split("."), prediction)
    return float(value) * float(ask.get("scale", 1.0))


def _training_ratio(ask: Mapping[str, Any]) -> float:
    """Return the ``field`` of ``plan`` over that of the plan with ``over`` in its place."""
    first = {key: dict(table) for key, table in ask["plan"].items()}
    second = {
        key: {**first.get(key, {}), **ask["over"].get(key, {})} for key in (*first, *ask["over"])
    }
    field = {"field": ask["field"]}
    return training_field({**field, "plan": first}) / training_field({**field, "plan": second})


KINDS: dict[str, Callable[[Mapping[str, Any]], float]] = {
    "training": training_field,
    "training-ratio": _training_ratio,
}
"""Kind of question -> what answers it."""
