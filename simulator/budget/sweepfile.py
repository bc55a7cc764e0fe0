"""The TOML file of a tuning sweep -> one frozen ``Sweep``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PlainValidator, ValidationError

from ridgeline.errors import InputError, nearest
from ridgeline.simulator.plan import Plan
from ridgeline.simulator.plan_schema import parse_count
from ridgeline.simulator.planfile import read_plan, read_tables

_CUT = ("hyperband", "successive-halving")


class _SweepTable(BaseModel):
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Sweep:
    """A sweep: its method, the plan of a trial and the accelerators of all."""

    method: str
    """hyperband, successive-halving, random or carbs."""
    plan: Plan
    """Of one trial; how long it trains is for the sweep to say."""
    most_tokens: float
    """Of the longest trial."""
    least_tokens: float
    """Of the shortest."""
    eta: int = 3
    trials: int = 0
    """0 takes as many as ``budget_usd`` pays for; of hyperband the method says."""
    budget_usd: float = 0.0
    repeats: int = 1
    """Runs of the whole schedule, each with new configurations."""
    accelerators: int
    """Of the sweep: so many trials run at once as they hold."""
    resume: bool = True
    """A trial that goes on keeps what it has."""
    together: bool = True
    """Brackets share the accelerators; else one waits for the one before."""
    start_up_s: float = 60.0
    """Of each part of a trial: processes, compilation, checkpoint."""


def read_sweep(path: Path) -> Sweep:
    """Read a file with a ``[sweep]`` table, whose ``plan`` is a plan file relative to it.

    Raises
    ------
    InputError
        With all mistakes, one line each.
    """
    tables, where = read_tables(path), f"{path}: "
    wrong = [f"{where}{key}: unknown table; the file has [sweep]" for key in tables
             if key != "sweep"]  # fmt: skip
    table: _SweepTable | None = None
    if not isinstance(tables.get("sweep"), dict):
        wrong.append(f"{where}sweep: missing; give [sweep] with method, plan and most_tokens")
    else:
        try:
            table = _SweepTable.model_validate(tables["sweep"])
        except ValidationError as error:
            wrong += [_say(detail, where) for detail in error.errors()]
    if table is not None:
        wrong += [f"{where}sweep.{line}" for line in _rules(table)]
    if wrong or table is None:
        raise InputError(wrong)
    plan = read_plan(path.parent / table.plan)
    count = plan.cluster.count
    accelerators = table.accelerators or count
    if accelerators < count:
        raise InputError(
            f"{where}sweep.accelerators = {accelerators}: a trial takes {count} "
            f"({plan.cluster.name}); give at least as many"
        )
    return Sweep(
        method=table.method,
        plan=plan,
        most_tokens=table.most_tokens,
        least_tokens=table.least_tokens or table.most_tokens,
        eta=table.eta,
        trials=table.trials or 0,
        budget_usd=table.budget_usd or 0.0,
        repeats=table.repeats,
        accelerators=accelerators,
        resume=table.resume,
        together=table.together,
        start_up_s=table.start_up_s,
    )


def _rules(table: _SweepTable) -> list[str]:
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


def _say(detail: Any, where: str) -> str:
    key = ".".join(str(part) for part in detail["loc"])
    if detail["type"] == "extra_forbidden":
        return f"{where}sweep.{key}: unknown; {nearest(key, _SweepTable.model_fields)}"
    if detail["type"] == "missing":
        return f"{where}sweep.{key}: missing"
    rule = detail["msg"].removeprefix("Value error, ").replace("Input should be", "must be")
    value = detail["input"]
    shown = "" if isinstance(value, dict | list) else f" = {value!r:.60}"
    return f"{where}sweep.{key}{shown}: {rule[0].lower() + rule[1:]}"
