"""Values of a plan file that stand for more than a number or a word: counts, names, limits."""

from __future__ import annotations

import math
import re

from ridgeline.errors import InputError, nearest
from ridgeline.hardware.energy import carbon_kg_per_kwh
from ridgeline.hardware.quotes import parse_day
from ridgeline.simulator import legality
from ridgeline.simulator.plan import OBJECTIVES, SCHEDULE_SUFFIX, SCHEDULES, TASKS
from ridgeline.simulator.plan_mistakes import without_subject
from ridgeline.simulator.recompute import MODULES, POLICIES
from ridgeline.simulator.serving.engines import load_engine
from ridgeline.simulator.stacks import load_stack
from ridgeline.simulator.stage_skips import skipped_stages
from ridgeline.workloads.expert_load import load_problems

MAX_TOKENS = 1e17
SLO_FIGURES = ("ttft", "tpot", "latency")
BALANCED = "balanced"
"""Layers by work: the fullest stage has as little as possible."""
_SUFFIXES = {"": 1.0, "K": 1e3, "M": 1e6, "B": 1e9, "G": 1e9, "T": 1e12}
_COUNT_PATTERN = re.compile(
    r"([0-9][0-9_]*(?:\.[0-9]+)?(?:e[+-]?[0-9]+)?)\s*([KMBGT]?)", re.IGNORECASE
)


def parse_count(value: object) -> float:
    """Return a count given as a number or as text with K, M, B or T behind it.

    Parameters
    ----------
    value
        ``15e12``, ``15_000_000``, ``"15T"``, ``"2.4B"``.

    Raises
    ------
    ValueError
        Neither, or not finite.
    """
    if isinstance(value, str):
        match = _COUNT_PATTERN.fullmatch(value.strip())
        if match is None:
            raise ValueError("must be a count such as 15e12, '15T' or '2.4B'")
        value = float(match[1].replace("_", "")) * _SUFFIXES[match[2].upper()]
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError("must be a count such as 15e12, '15T' or '2.4B'")
    if not math.isfinite(value):
        raise ValueError("must be finite")
    return float(value)


def tokens(value: object) -> float:
    """Return a count of tokens, at most ``MAX_TOKENS``."""
    count = parse_count(value)
    if count < 0:
        raise ValueError("must be at least 0")
    if count > MAX_TOKENS:
        raise ValueError(f"must be at most {MAX_TOKENS:g}")
    return count


def known_task(value: str) -> str:
    """Return a task that there is, or say which there are."""
    if value in OBJECTIVES:
        raise ValueError(
            f"is an objective; write objective = {value!r} beside a task "
            f"(what is trained: {', '.join(TASKS)})"
        )
    if value not in TASKS:
        raise ValueError(f"is not known; {nearest(value, TASKS)}")
    return value


def known_schedule(value: str) -> str:
    """Return the name of a schedule, of a file of one, or ``skip-N``."""
    own = value.endswith(SCHEDULE_SUFFIX) or skipped_stages(value)
    if value not in SCHEDULES and not own:
        raise ValueError(
            f"is not known; {nearest(value, SCHEDULES)} "
            f"(or skip-N, or a file NAME{SCHEDULE_SUFFIX})"
        )
    return value


def known_recompute(value: str) -> str:
    """Return what is recomputed, or say which policies there are."""
    if not legality.is_recompute(value):
        raise ValueError(
            f"is not known; {nearest(value, (*POLICIES, *MODULES, 'every-2', 'full-1'))}"
        )
    return value


def _as_value_error(error: InputError) -> ValueError:
    return ValueError("; ".join(without_subject(line) for line in error.problems))


def known_region(value: str) -> str:
    """Return a region whose electricity has a known carbon intensity."""
    try:
        carbon_kg_per_kwh(value)
    except InputError as error:
        raise _as_value_error(error) from None
    return value


def known_day(value: str) -> str:
    """Return a day as ISO 8601 writes it."""
    try:
        return parse_day(value, "as_of").isoformat()
    except InputError as error:
        raise _as_value_error(error) from None


def known_stack(value: str) -> str:
    """Return the name of a stack, or the path of its file."""
    try:
        name = load_stack(value).name
        return value if value.endswith(".toml") else name
    except InputError as error:
        raise _as_value_error(error) from None


def known_engine(value: str) -> str:
    """Return the name of a serving engine, or the path of its file."""
    try:
        load_engine(value)
    except InputError as error:
        raise _as_value_error(error) from None
    return value


def known_slo(value: str) -> str:
    """Return limits as ``parse_slo`` reads them."""
    parse_slo(value)
    return value


def parse_slo(text: str) -> dict[str, float]:
    """Return the limits of ``ttft=500ms,tpot=50ms,latency=30s`` in seconds.

    Raises
    ------
    ValueError
        Another figure, no number, no unit.
    """
    limits: dict[str, float] = {}
    for part in filter(None, (piece.strip() for piece in text.split(","))):
        name, _, limit = part.partition("=")
        match = re.fullmatch(r"\s*([0-9]*\.?[0-9]+)\s*(us|ms|s)\s*", limit)
        if name.strip() not in SLO_FIGURES or match is None or float(match[1]) <= 0.0:
            raise ValueError("must be such as 'ttft=500ms,tpot=50ms' (ttft, tpot, latency)")
        limits[name.strip()] = float(match[1]) * {"us": 1e-6, "ms": 1e-3, "s": 1.0}[match[2]]
    return limits


def uneven(value: object) -> bool | str | list[int]:
    """Return how layers are dealt to virtual stages: evenly or not, by work, or listed."""
    if isinstance(value, bool) or value == BALANCED:
        return value
    if isinstance(value, list) and all(type(item) is int and item >= 0 for item in value):
        return value
    raise ValueError("must be true, false, 'balanced' or a list of layers for each virtual stage")


def expert_load(value: object) -> str | list[float]:
    """Return the experts' shares of the tokens, or the path of a file of them."""
    if isinstance(value, str) and value:
        return value
    if not isinstance(value, list) or not value:
        raise ValueError("must be a list of numbers, one per expert, or the path of a file")
    if problems := load_problems(value):
        raise ValueError(problems[0])
    return value


def auto_or_number(value: object) -> float | str:
    """Return ``auto`` or a number."""
    if value == "auto":
        return "auto"
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1e9:
        raise ValueError("must be 'auto' or a number from 0 to 1e9")
    return float(value)
