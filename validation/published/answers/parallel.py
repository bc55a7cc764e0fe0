"""Questions about runs that are more than one plan in step."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from ridgeline.simulator.growth import simulate_stages
from ridgeline.simulator.mixed.plan import read_mixed
from ridgeline.simulator.mixed.results import simulate_mixed
from ridgeline.simulator.plan import Plan
from ridgeline.simulator.planfile import read_plan
from ridgeline.validation.published.answers.training import flat
from ridgeline.workloads import model_from_config


def _staged(ask: Mapping[str, Any]) -> float:
    """Return a field of a run in ``stages``, each said over ``plan``, times ``scale`` (1).

    A stage may bring its model as the ``config`` of one, where no catalogue has it.
    """
    plans: list[Plan] = []
    for stage in ask["stages"]:
        tables = {key: value for key, value in stage.items() if key != "config"}
        plan = read_plan(None, {**flat(ask["plan"]), **flat(tables)})
        if "config" in stage:
            plan = replace(plan, model=model_from_config(stage["config"], "stage"))
        plans.append(plan)
    value = getattr(simulate_stages(plans), ask["field"])
    return float(value) * float(ask.get("scale", 1.0))


def _mixed(ask: Mapping[str, Any]) -> float:
    """Return a field of a job on several kinds of accelerators, over that of ``over`` (1)."""
    found = simulate_mixed(read_mixed(None, flat(ask["plan"])))
    below = float(getattr(found, ask["over"])) if "over" in ask else 1.0
    return float(getattr(found, ask["field"])) / below


KINDS: dict[str, Callable[[Mapping[str, Any]], float]] = {
    "staged-training": _staged,
    "mixed-training": _mixed,
}
"""Kind of question -> what answers it."""
