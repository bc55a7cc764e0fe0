"""Questions about optimizers, offload and models of plain numbers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import reduce
from typing import Any

from ridgeline.simulator.host import update_seconds_each
from ridgeline.simulator.optimizers import matrix, newton_schulz_flops
from ridgeline.simulator.plan import Plan
from ridgeline.simulator.planfile import read_plan
from ridgeline.simulator.stacks import load_stack
from ridgeline.simulator.training import simulate_training
from ridgeline.validation.published.answers.training import flat
from ridgeline.workloads.custom import custom_model


def _plan(ask: Mapping[str, Any]) -> Plan:
    """Return the plan, with a ``shape`` (``workloads.custom``) in its model's place if given."""
    plan = read_plan(None, flat(ask["plan"]))
    return replace(plan, model=custom_model(**ask["shape"])) if "shape" in ask else plan


def _shaped_training(ask: Mapping[str, Any]) -> float:
    """Return the sum of ``fields`` of the prediction, times ``scale`` (1)."""
    prediction: Any = simulate_training(_plan(ask))
    found = [float(reduce(getattr, name.split("."), prediction)) for name in ask["fields"]]
    return sum(found) * float(ask.get("scale", 1.0))


def _host_update(ask: Mapping[str, Any]) -> float:
    """Return the seconds in which the host of ``plan`` updates ``parameters``."""
    plan = _plan(ask)
    assert plan.cluster.host is not None, "the plan names its host"
    each = update_seconds_each(plan, load_stack(plan.stack), plan.cluster.host)
    return each * float(ask["parameters"])


def _orthogonalisation_share(ask: Mapping[str, Any]) -> float:
    """Return Newton-Schulz FLOPs of a square matrix over those of a step on it, 6 a weight."""
    width, tokens = int(ask["width"]), float(ask["tokens"])
    return newton_schulz_flops(matrix(width, width)) / (6.0 * width * width * tokens)


KINDS: dict[str, Callable[[Mapping[str, Any]], float]] = {
    "shaped-training": _shaped_training,
    "host-update": _host_update,
    "orthogonalisation-share": _orthogonalisation_share,
}
"""Kind of question -> what answers it."""
