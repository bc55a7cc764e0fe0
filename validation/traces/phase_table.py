"""Phases of a mixture-of-experts layer: a table of measured ones beside the simulated ones.

The table has columns ``phase``, ``mean_sum_us`` (kernels of a phase in a layer added up) and, if it
likes, ``mean_wall_us`` (from its first to its last); the smaller counts, so that kernels that run
beside each other count once and gaps do not. Phases are those of DeepSeek-V3's published training
trace: attention (with the norm before the experts and the router), MLP (routed and shared experts,
permutation), dispatch and combine; (F) forward, (B) input gradients with recomputation, (W) weight
gradients. The router's weight gradient is in attn(B) there. Dispatch in the backward pass is the
gradient of combine.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ridgeline.errors import InputError
from ridgeline.simulator.operators.table import (
    BACKWARD,
    COLLECTIVE,
    FORWARD,
    RECOMPUTE,
    WEIGHT,
)
from ridgeline.simulator.plan import Plan
from ridgeline.simulator.planfile import read_plan
from ridgeline.simulator.stacks import load_stack
from ridgeline.simulator.step import Step, simulate_step
from ridgeline.validation.traces.compared import relative_error
from ridgeline.validation.traces.cores import with_sms

SCHEMA_VERSION = 1
COMPUTE_PHASES = ("attn(F)", "mlp(F)", "attn(B)", "mlp(B)", "attn(W)", "mlp(W)")
WIRE_PHASES = ("dispatch(F)", "combine(F)", "dispatch(B)", "combine(B)")
PHASES = (*COMPUTE_PHASES, *WIRE_PHASES)
MOST_BYTES = 1 << 20
_LETTER = {FORWARD: "F", RECOMPUTE: "B", BACKWARD: "B", WEIGHT: "W"}
_MLP = ("experts", "shared expert", "permute", "unpermute", "mlp residual")


@dataclass(frozen=True, slots=True, kw_only=True)
class PhaseRow:
    """One phase of a layer."""

    phase: str
    measured_s: float
    predicted_s: float

    @property
    def error(self) -> float | None:
        """Predicted over measured, less one."""
        return relative_error(self.predicted_s, self.measured_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class PhaseComparison:
    """Measured and simulated phases of a layer, in the table's order."""

    plan: Plan
    rows: tuple[PhaseRow, ...]

    @property
    def compute(self) -> PhaseRow:
        """All phases that compute, together."""
        rows = [row for row in self.rows if row.phase in COMPUTE_PHASES]
        return PhaseRow(
            phase="compute together",
            measured_s=sum(row.measured_s for row in rows),
            predicted_s=sum(row.predicted_s for row in rows),
        )

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        rows = [*self.rows, self.compute]
        return {
            "schema": "ridgeline.validate.phases",
            "schema_version": SCHEMA_VERSION,
            "model": self.plan.model.name,
            "accelerator": self.plan.cluster.accelerator.name,
            "stack": self.plan.stack,
            "sms": self.plan.cluster.accelerator.cores,
            "phases": [asdict(row) | {"error": row.error} for row in rows],
        }


def is_phase_table(path: Path) -> bool:
    """Return whether a file begins with the header of a table of phases."""
    try:
        with path.open("rb") as file:
            head = file.read(4096)
    except OSError:
        return False
    line = head.removeprefix(b"\xef\xbb\xbf").split(b"\n", 1)[0]
    cells = [cell.strip() for cell in line.split(b",")]
    return b"phase" in cells and b"mean_sum_us" in cells


def compare_phases(
    path: Path, given: Mapping[str, object], sms: int | None = None
) -> PhaseComparison:
    """Simulate a layer of the plan that is given and compare its phases with a table.

    Parameters
    ----------
    path
        The table.
    given
        Fields of the plan (dotted keys).
    sms
        SMs that computation has, where communication reserves the others.

    Raises
    ------
    InputError
        Mistakes in the table, or a plan without routed experts, all at once.
    """
    measured = read_phases(path)
    plan = with_sms(read_plan(None, given), sms)
    if plan.model.moe is None:
        raise InputError(f"{path}: phases of experts, but {plan.model.name} has none")
    predicted = simulated_phases(plan)
    return PhaseComparison(
        plan=plan,
        rows=tuple(
            PhaseRow(phase=phase, measured_s=seconds, predicted_s=predicted[phase])
            for phase, seconds in measured.items()
        ),
    )


def read_phases(path: Path) -> dict[str, float]:
    """Return the mean seconds of each phase of a table."""
    try:
        with path.open("rb") as file:
            raw = file.read(MOST_BYTES + 1)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise InputError(f"{path}: cannot be read: {reason}") from None
    if len(raw) > MOST_BYTES:
        raise InputError(f"{path}: larger than {MOST_BYTES:,} bytes; this is no table of phases")
    found: dict[str, float] = {}
    problems: list[str] = []
    try:
        rows = list(csv.DictReader(io.StringIO(raw.decode("utf-8-sig"), newline="")))
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: not a table in UTF-8: {str(error).splitlines()[0]}") from None
    for number, row in enumerate(rows):
        phase, text = (row.get("phase") or "").strip(), row.get("mean_sum_us") or ""
        try:
            value = min(float(text), float(row.get("mean_wall_us") or "inf"))
        except ValueError:
            value = math.nan
        if phase not in PHASES:
            problems.append(f"{path}: row {number}: phase {phase[:40]!r}: {', '.join(PHASES)}")
        elif phase in found:
            problems.append(f"{path}: row {number}: phase {phase} again; keep one")
        elif not 0.0 < value < math.inf:
            rule = "must be a number of microseconds above 0"
            problems.append(f"{path}: row {number}: mean_sum_us = {text[:40]!r}: {rule}")
        else:
            found[phase] = value * 1e-6
    if not rows:
        problems.append(f"{path}: no rows below the header")
    if problems:
        raise InputError(problems)
    return {phase: found[phase] for phase in PHASES if phase in found}


def simulated_phases(plan: Plan) -> dict[str, float]:
    """Return the seconds of each phase of a routed layer on one accelerator, every row alone."""
    step = simulate_step(plan, load_stack(plan.stack))
    part = _routed_part(step)
    table = step.costs.table
    sums = dict.fromkeys(PHASES, 0.0)
    for row in np.flatnonzero(table.part == part).tolist():
        wire = table.kind[row] == COLLECTIVE
        phase = _phase_of(table.names[row], int(table.phase[row]), wire=bool(wire))
        if phase:
            sums[phase] += float(step.costs.alone[row])
    return sums


def _routed_part(step: Step) -> int:
    """Return the last kind of layer that routes; of its two, the recomputed one."""
    routed = [
        (again, part)
        for part, (index, again) in enumerate(step.parts.kinds)
        if step.plan.model.is_moe_layer(index)
    ]
    return max(routed)[1]


def _phase_of(name: str, phase: int, *, wire: bool) -> str:
    letter = _LETTER[phase]
    if wire:
        # the gradient of combine goes the way of dispatch, and the other way round
        there, back = ("dispatch", "combine") if letter == "F" else ("combine", "dispatch")
        if name.startswith(there):
            return f"dispatch({letter})"
        return f"combine({letter})" if name.startswith(back) else ""
    if name == "router wgrad":
        return "attn(B)"
    return f"mlp({letter})" if name.startswith(_MLP) else f"attn({letter})"
