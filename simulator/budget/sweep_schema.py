"""What the file of a tuning sweep may say: its keys, types and what goes together."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, PlainValidator, ValidationError

from ridgeline.simulator.plan_mistakes import table_problems
from ridgeline.simulator.plan_values import parse_count

_CUT = ("hyperband", "successive-halving")


class SweepTable(BaseModel):
    """``[sweep]``."""

    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)

    method: Literal["hyperband", "successive-halving", "random", "carbs"]
    plan: Annotated[str, Field(min_length=1, max_length=4000)]
    most_tokens: Annotated[float, PlainValidator(parse_count)]
    least_tokens: Annotated[float, PlainValidator(parse_count)] | None = None
    eta: Annotated[int, Field(ge=2, le=1000)] = 3
    trials: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    budget_usd: Annotated[float, Field(gt=0, le=1e12)] | None = None
    repeats: Annotated[int, Field(ge=1, le=1000)] = 1
    accelerators: Annotated[int, Field(ge=1, le=10_000_000)] | None = None
    resume: bool = True
    together: bool = True
    start_up_s: Annotated[float, Field(ge=0, le=1e6)] = 60.0


def read_sweep_table(table: object, where: str) -> tuple[SweepTable | None, list[str]]:
    """Return the table, or None, with what is wrong, a line each."""
    if not isinstance(table, dict):
        return None, [f"{where}sweep: missing; give [sweep] with method, plan and most_tokens"]
    try:
        found = SweepTable.model_validate(table)
    except ValidationError as error:
        return None, table_problems(error, f"{where}sweep", SweepTable.model_fields)
    return found, [f"{where}sweep.{line}" for line in _rules(found)]


def _rules(table: SweepTable) -> list[str]:
    """Return what does not go together."""
    wrong = []
    least, most = table.least_tokens, table.most_tokens
    if most <= 0.0:
        wrong.append(f"most_tokens = {most:g}: must be above 0")
    if least is not None and not 0.0 < least <= most:
        wrong.append(f"least_tokens = {least:g}: must be above 0 and at most most_tokens")
    if table.method == "random" and least is not None:
        wrong.append("least_tokens: every trial of random search goes to most_tokens; leave it out")
    if table.method != "random" and least is None:
        wrong.append(f"least_tokens: missing; {table.method} begins with trials of this length")
    given = [name for name in ("trials", "budget_usd") if getattr(table, name) is not None]
    if table.method == "hyperband" and given:
        wrong.append(f"{given[0]}: Hyperband's R and eta say how many there are; leave it out")
    if table.method == "successive-halving" and table.trials is None:
        wrong.append("trials: missing; say how many begin")
    if table.method == "successive-halving" and table.budget_usd is not None:
        wrong.append("budget_usd: is for random and carbs; say how many trials begin")
    if table.method in ("random", "carbs") and len(given) != 1:
        wrong.append("trials: give it or budget_usd, one of them")
    if table.method not in _CUT and "eta" in table.model_fields_set:
        wrong.append(f"eta: no trial of {table.method} is cut short; leave it out")
    return wrong
