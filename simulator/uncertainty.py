"""The range of a prediction and what stands behind it.

Ranges come from measured steps that were left out of the fit (``data/uncertainty.toml``, generated
by ``python -m ridgeline.validation.accuracy --ranges``).
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from functools import lru_cache
from importlib.resources import files
from typing import Any

from ridgeline.hardware.accelerator import Accelerator
from ridgeline.simulator.legality_layers import special_layers
from ridgeline.simulator.optimizers import BY_MATRIX
from ridgeline.simulator.plan import Plan
from ridgeline.simulator.results import Provenance
from ridgeline.simulator.stacks import Calibration, Stack

GRADES = ("measured", "related", "kernels", "datasheet")
"""From most to least: measured steps of this stack, accelerator and kind of plan; of this stack on
other accelerators or with other kinds of plan; kernels alone; the data sheet alone."""

Counts = Mapping[tuple[str, str, str], int]
"""Measured steps by (stack, accelerator, kind of plan)."""


@lru_cache(maxsize=1)
def _data() -> dict[str, Any]:
    resource = files("ridgeline.simulator").joinpath("data", "uncertainty.toml")
    return tomllib.loads(resource.read_text(encoding="utf-8"))


@lru_cache(maxsize=1)
def measured_steps() -> Counts:
    """Return how many measured steps the calibration saw of each stack, accelerator and kind."""
    return {
        (stack, accelerator, kind): count
        for stack, accelerators in _data()["steps"].items()
        for accelerator, kinds in accelerators.items()
        for kind, count in kinds.items()
    }


def plan_kind(plan: Plan) -> str:
    """Return how a plan splits the work, in one word: what its errors depend on first."""
    parallel = plan.parallel
    if parallel.pp > 1:
        kind = "pipeline"
    elif parallel.zero_stage == 3:
        kind = "sharded"
    elif parallel.tp * parallel.cp > 1:
        kind = "tensor"
    else:
        kind = "replicated"
    if plan.model.towers or not plan.model.causal:
        kind += "-encoders"
    elif special_layers(plan.model):
        kind += "-layers"
    elif plan.model.moe is not None:
        kind += "-experts"
    # few or no measured steps are in four bits, update on a host or by matrix: kinds of their own
    if plan.training.precision == "fp4":
        kind += "-fp4"
    if plan.cluster.host is not None and plan.training.offload:
        kind += "-offload"
    return f"{kind}-by-matrix" if plan.training.optimizer in BY_MATRIX else kind


def evidence_grade(
    accelerator: Accelerator, stack: str, kind: str = "", steps: Counts | None = None
) -> str:
    """Return one of ``GRADES``: what was measured of this stack, accelerator and kind of plan.

    Parameters
    ----------
    accelerator
        What it runs on.
    stack
        Name of the stack.
    kind
        Of ``plan_kind``; empty for any.
    steps
        Measured steps that count; those of the calibration by default.
    """
    counts = measured_steps() if steps is None else steps
    seen = [key for key, count in counts.items() if count]
    if any(
        (one, device) == (stack, accelerator.name) and kind in ("", how)
        for one, device, how in seen
    ):
        return "measured"
    of_device = any(device == accelerator.name for _, device, _ in seen)
    if accelerator.efficiency.rung != "fitted" and not of_device:
        return "datasheet"
    return "related" if any(one == stack for one, _, _ in seen) else "kernels"


def calibration_of(stack: Stack, accelerator: Accelerator, kind: str) -> Calibration | None:
    """Return the calibration that speaks for a prediction: of its accelerator and kind of plan."""
    found = stack.calibration
    if found is None or found.accelerator != accelerator.name or kind not in found.kinds:
        return None
    return found


def stack_grade(stack: Stack, accelerator: Accelerator, kind: str) -> str:
    """Return the grade of a stack, calibrated or shipped.

    A calibrated one counts as measured where its steps were run, elsewhere as the stack that it
    started from.
    """
    if calibration_of(stack, accelerator, kind) is not None:
        return "measured"
    name = stack.name if stack.calibration is None else stack.calibration.stack
    return evidence_grade(accelerator, name, kind)


def stack_range(stack: Stack, accelerator: Accelerator, kind: str) -> tuple[float, float]:
    """Return the factors on a step time that bound its range, the calibration's where it has one.

    Its rule is told in ``docs/calibration.md``.
    """
    found = calibration_of(stack, accelerator, kind)
    if found is not None:
        return 1.0 - found.below, 1.0 + found.above
    return step_range(stack_grade(stack, accelerator, kind))


def stack_evidence(stack: Stack, accelerator: Accelerator, kind: str) -> tuple[Provenance, ...]:
    """Say what stands behind a prediction of a stack, calibrated or shipped."""
    name = stack.name if stack.calibration is None else stack.calibration.stack
    found = calibration_of(stack, accelerator, kind)
    shared = evidence(accelerator, stack_grade(stack, accelerator, kind), name, kind)
    if found is None:
        return shared
    runs = f"calibrated on {found.rows} run{'' if found.rows == 1 else 's'} of this cluster"
    spread = "held-out errors of those runs, pooled with the published range of measured stacks"
    return (
        Provenance(kind="evidence", text=f"measured: {runs}"),
        Provenance(kind="range", text=spread),
        *(one for one in shared if one.kind not in ("evidence", "range")),
    )


def step_range(grade: str) -> tuple[float, float]:
    """Return the factors on a step time that bound its range."""
    below, above = _data()[grade]["range"]
    return 1.0 - below, 1.0 + above


def evidence(
    accelerator: Accelerator, grade: str, stack: str = "", kind: str = ""
) -> tuple[Provenance, ...]:
    """Say what stands behind the prediction."""
    entry = _data()[grade]
    efficiency = accelerator.efficiency
    text = f"{grade}: {entry['text']}"
    count = measured_steps().get((stack, accelerator.name, kind), 0)
    if count:
        text += f" ({count} of {stack} on {accelerator.name}, {kind})"
    return (
        Provenance(kind="evidence", text=text),
        Provenance(kind="range", text=entry["source"]),
        Provenance(
            kind="kernels",
            text=f"{efficiency.rung} parameters; their sources: "
            f"ridgeline hardware show {accelerator.name}",
        ),
    )
