"""Routing of a mixture of experts that differs from the model's own: capacity and uneven load."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from dataclasses import replace
from io import StringIO
from math import fsum, isfinite
from pathlib import Path

from ridgeline.errors import InputError
from ridgeline.workloads.model import Model

MOST_LOAD = 1e18
"""Token counts of the longest runs stay far below it, and sums of them stay finite."""
MOST_BYTES = 1 << 20


def with_routing(
    model: Model, capacity_factor: float | None = None, load: Sequence[float] | None = None
) -> Model:
    """Return ``model`` with another routing.

    Parameters
    ----------
    model
        A mixture of experts.
    capacity_factor
        Places of an expert over the tokens it gets when routing is balanced; experts are padded or
        tokens dropped to that (Lepikhin et al. 2020, GShard, section 2.2). 0 is dropless.
    load
        Relative load of each expert; only ratios count.

    Raises
    ------
    InputError
        With one line for each mistake: a model without experts, a load that is not one number per
        expert, not finite, negative or zero everywhere.
    """
    problems = []
    if capacity_factor is not None and not 0 <= capacity_factor < float("inf"):
        problems.append("capacity_factor: must be 0 (dropless) or a positive number")
    if load is not None:
        problems += load_problems(load)
    moe = model.moe
    if moe is None:
        problems = [f"{model.name} has no experts; leave it out"]
    elif load is not None and len(load) != moe.num_experts:
        problems.append(f"lists {len(load)} loads, {model.name} has {moe.num_experts} experts")
    if problems:
        raise InputError(problems)
    assert moe is not None
    if capacity_factor is not None:
        moe = replace(moe, capacity_factor=float(capacity_factor))
    if load is not None:
        mean = fsum(load) / len(load)
        moe = replace(moe, load=tuple(value / mean for value in load))
    return replace(model, moe=moe)


def load_problems(load: Sequence[object]) -> list[str]:
    """Return what is wrong with the numbers of a load, at most one line."""
    for place, value in enumerate(load, start=1):
        if isinstance(value, bool) or not isinstance(value, int | float):
            return [f"entry {place} is {str(value)[:40]!r}; must be a number"]
        if not 0 <= value <= MOST_LOAD or not isfinite(value):
            return [f"entry {place} is {value:g}; must be from 0 to {MOST_LOAD:g}"]
    if not any(load):
        return ["no expert has any load; at least one must be above 0"]
    return []


def read_expert_load(path: Path) -> tuple[float, ...]:
    """Read the relative load of each expert from a file.

    Parameters
    ----------
    path
        ``.json``: a list of numbers. Anything else: CSV, the last column of each row being the load
        of one expert, in order; a first row without a number is a header.

    Raises
    ------
    InputError
        The file cannot be read or holds something else.
    """
    try:
        with path.open("rb") as file:
            content = file.read(MOST_BYTES + 1)
    except OSError as error:
        raise InputError(f"cannot be read: {(error.strerror or str(error)).lower()}") from None
    if len(content) > MOST_BYTES:
        raise InputError(f"larger than {MOST_BYTES // 1024} KiB; give one number per expert")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise InputError("not text in UTF-8") from None
    values = _from_json(text) if path.suffix.lower() == ".json" else _from_csv(text)
    if problems := load_problems(values):
        raise InputError(problems)
    return tuple(float(value) for value in values)


def _from_json(text: str) -> list[float]:
    try:
        values = json.loads(text)
    except (ValueError, RecursionError):
        raise InputError("not valid JSON; give a list of numbers, one per expert") from None
    if not isinstance(values, list):
        raise InputError("must hold a list of numbers, one per expert")
    return values


def _from_csv(text: str) -> list[float]:
    try:
        cells = [row[-1].strip() for row in csv.reader(StringIO(text)) if any(row)]
    except csv.Error as error:
        raise InputError(f"not CSV: {error}") from None
    values = []
    for line, cell in enumerate(cells, start=1):
        try:
            values.append(float(cell))
        except ValueError:
            if line > 1:
                raise InputError(f"row {line}: {cell[:40]!r} is no number") from None
    return values
