"""What a file of models that share a fleet may say of the fleet; models take keys of [serving]."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ridgeline.simulator.plan_mistakes import table_problems

MOST_MODELS = 24
"""Placed jointly: the ways to group them grow faster than any power."""

Name = Annotated[str, Field(min_length=1, max_length=200)]


class FleetTable(BaseModel):
    """``[fleet]``: what can be rented, and what a model that is away takes to come back."""

    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)

    on: Annotated[list[Name], Field(min_length=1, max_length=64)]
    available: dict[Name, Annotated[int, Field(ge=0, le=1_000_000)]] = {}
    usd_per_hour: dict[Name, Annotated[float, Field(gt=0, le=1e6)]] = {}
    max_accelerators: Annotated[int, Field(ge=1, le=4096)] = 64
    duration_s: Annotated[float, Field(gt=0, le=1e9)] = 600.0
    load_gb_per_s: Annotated[float, Field(ge=0, le=1e6)] = 0.0
    wake_s: Annotated[float, Field(ge=0, le=1e6)] = 0.0
    most_together: Annotated[int, Field(ge=1, le=MOST_MODELS)] = 4
    release_after_s: Annotated[float, Field(ge=0, le=1e9)] = 0.0
    start_up_s: Annotated[float, Field(ge=0, le=1e9)] = 60.0


def read_fleet_table(table: object, where: str) -> tuple[FleetTable | None, list[str]]:
    """Return the table, or None with what is wrong, a line each."""
    if not isinstance(table, dict):
        return None, [f"{where}fleet: missing; give [fleet] with on = [accelerators]"]
    try:
        return FleetTable.model_validate(table), []
    except ValidationError as error:
        example = "name the accelerators, for example ['h100-sxm']"
        return None, table_problems(error, f"{where}fleet", FleetTable.model_fields, example)
