"""Our figure for a published one: one function per kind of question, none per paper."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ridgeline.errors import InputError, nearest
from ridgeline.validation.published.answers import (
    counts,
    inputs,
    layers,
    memory,
    parallel,
    serving,
    sweeps,
    tasks,
    test_time,
    training,
)
from ridgeline.validation.published.records import PublishedResult

KINDS: dict[str, Callable[[Mapping[str, Any]], float]] = {
    **training.KINDS,
    **counts.KINDS,
    **tasks.KINDS,
    **memory.KINDS,
    **parallel.KINDS,
    **inputs.KINDS,
    **layers.KINDS,
    **test_time.KINDS,
    **serving.KINDS,
    **sweeps.KINDS,
}
"""Kind of question -> what answers it."""


def answer(result: PublishedResult) -> float:
    """Return our figure, in the unit of the published one.

    Raises
    ------
    InputError
        The kind of question is unknown, or its setup cannot run.
    """
    if result.kind not in KINDS:
        raise InputError(f"{result.id}: kind {result.kind!r}: {nearest(result.kind, KINDS)}")
    try:
        return KINDS[result.kind](result.ask)
    except InputError as error:
        raise InputError([f"{result.id}: {line}" for line in error.problems]) from None
