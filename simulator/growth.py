"""A run in stages: the model, the plan, the batch or the sequence changes on the way.

A plan file with ``[[stage]]`` tables; what a stage leaves out, the sections above say. Each is a
training run of its own, priced as any other; between stages whose model or split differ the job is
written out, changed and loaded again, which takes ``run.restart_s``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from ridgeline.errors import InputError, nearest
from ridgeline.simulator.plan import Plan
from ridgeline.simulator.plan_parse import STAGE
from ridgeline.simulator.plan_schema import SECTIONS
from ridgeline.simulator.planfile import read_plan, read_tables
from ridgeline.simulator.results import TrainingResult
from ridgeline.simulator.roofline.rungs import Kernels
from ridgeline.simulator.training import simulate_training

SCHEMA_VERSION = 1
MOST_STAGES = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class StagedResult:
    """A run in stages; sums are over the stages and what lies between them."""

    name: str
    stages: tuple[TrainingResult, ...]
    tokens: float
    model_flops: float
    steps: int
    changes: int
    """Between stages, that need the job to be loaded again."""
    change_s: float
    """All of them together."""
    wall_clock_s: float
    accelerator_hours: float
    cost_usd: float
    """Before credits; of the stages whose price is known."""
    credits_usd: float
    energy_kwh: float
    co2_kg: float
    fits: bool
    warnings: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON contract (``docs/json.md``)."""
        plain = asdict(self)
        plain["stages"] = [stage.to_dict() for stage in self.stages]
        return {"schema": "ridgeline.train.stages", "schema_version": SCHEMA_VERSION, **plain}


def read_stages(
    path: Path,
    overrides: Mapping[str, object] | None = None,
    labels: Mapping[str, str] | None = None,
) -> tuple[str, tuple[Plan, ...]]:
    """Return what a file calls its run, and the plan of every stage in order.

    Parameters
    ----------
    path
        A plan file with ``[[stage]]`` tables.
    overrides, labels
        As :func:`ridgeline.simulator.planfile.read_plan` takes them; they hold for every stage.

    Raises
    ------
    InputError
        With all mistakes of all stages, one line each.
    """
    tables = read_tables(path)
    found = tables.get(STAGE)
    if not isinstance(found, list) or not 1 <= len(found) <= MOST_STAGES:
        raise InputError(f"{path}: {STAGE}: must be 1 to {MOST_STAGES:,} tables, each [[{STAGE}]]")
    run = tables.get("run")
    warmup = run.get("batch_warmup_tokens") if isinstance(run, dict) else None
    plans: list[Plan] = []
    problems: list[str] = []
    for number in range(1, len(found) + 1):
        try:
            plan = read_plan(path, overrides, labels, stage=number)
        except InputError as error:
            problems += error.problems
            continue
        where = f"{path}: {STAGE} {number}: "
        problems += [
            f"{where}{key}: unknown key; {nearest(key, SECTIONS)}"
            for key, value in found[number - 1].items()
            if key != "name" and not isinstance(value, dict)
        ]
        if not plan.training.tokens:
            problems.append(f"{where}training.tokens: missing; a stage ends when they are trained")
        if number > 1 and warmup and plan.run.batch_warmup_tokens:
            problems.append(
                f"{where}run.batch_warmup_tokens: every stage would begin with the small batch; "
                f"say it in the [[{STAGE}]] that does"
            )
        plans.append(plan)
    if problems:
        raise InputError(list(dict.fromkeys(problems)))
    return str(tables.get("name") or path.stem), tuple(plans)


def simulate_stages(
    plans: Sequence[Plan],
    name: str = "",
    kernels: Kernels | None = None,
) -> StagedResult:
    """Predict a run in stages.

    Parameters
    ----------
    plans
        One for each stage, in order, with the tokens that it trains.
    name
        Of the run.
    kernels
        As :func:`ridgeline.simulator.training.simulate_training` takes them.

    Raises
    ------
    InputError
        A plan is illegal.
    """
    assert plans, "a run has at least one stage"
    stages = tuple(simulate_training(plan, kernels=kernels) for plan in plans)
    # while the job is loaded again all accelerators of the stage to come are paid for and idle
    waits = [0.0] * len(plans)
    for index, (before, after) in enumerate(pairwise(plans), start=1):
        if (before.model, before.parallel) != (after.model, after.parallel):
            waits[index] = after.run.restart_s
    shares = [1.0 + wait / stage.wall_clock_s for wait, stage in zip(waits, stages, strict=True)]
    hours = [stage.accelerator_hours * share for stage, share in zip(stages, shares, strict=True)]
    prices = [stage.usd_per_accelerator_hour for stage in stages]
    return StagedResult(
        name=name,
        stages=stages,
        tokens=sum(plan.training.tokens for plan in plans),
        model_flops=sum(stage.model_flops_per_step * stage.steps for stage in stages),
        steps=sum(stage.steps for stage in stages),
        changes=sum(wait > 0.0 for wait in waits),
        change_s=sum(waits),
        wall_clock_s=sum(stage.wall_clock_s for stage in stages) + sum(waits),
        accelerator_hours=sum(hours),
        cost_usd=sum(h * price for h, price in zip(hours, prices, strict=True)),
        credits_usd=sum(stage.credits_usd for stage in stages),
        energy_kwh=sum(stage.energy_kwh for stage in stages),
        co2_kg=sum(stage.co2_kg for stage in stages),
        fits=all(stage.fits for stage in stages),
        warnings=tuple(dict.fromkeys(line for stage in stages for line in stage.warnings)),
    )
