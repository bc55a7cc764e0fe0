"""Where the time of a traced step went: busy, idle, by category, communication exposed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from statistics import median
from typing import Any

import numpy as np

from ridgeline.validation.traces.intervals import covered_s, exposed_s
from ridgeline.validation.traces.records import CATEGORIES, COMMUNICATION, COPY, Trace
from ridgeline.validation.traces.steps import StepWork, find_steps


@dataclass(frozen=True, slots=True, kw_only=True)
class StepSummary:
    """One step, or the median over steps. Times in seconds."""

    steps: int
    window_s: float
    busy_s: float
    """Union of all device work."""
    idle_s: float
    compute_s: float
    """Union of all but communication and copies."""
    communication_s: float
    """Union."""
    exposed_communication_s: float
    """Union of communication outside that of compute."""
    union_s: dict[str, float]
    """By category."""
    sum_s: dict[str, float]
    """By category, kernels added up."""
    kernels: int

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return asdict(self)


def summarise(trace: Trace) -> StepSummary:
    """Return the median over the steps of a trace; its window is that of whole periods."""
    steps = find_steps(trace)
    found = middle([_of(step) for step in steps])
    windows = [s.window_s for s in steps if s.is_period] or [steps[0].window_s]
    window = float(median(windows))
    return replace(found, steps=len(steps), window_s=window, idle_s=max(0.0, window - found.busy_s))


def middle(found: Sequence[StepSummary]) -> StepSummary:
    """Return the median of every figure over some summaries."""

    def of(name: str) -> float:
        return float(median(getattr(one, name) for one in found))

    return StepSummary(
        steps=round(of("steps")),
        window_s=of("window_s"),
        busy_s=of("busy_s"),
        idle_s=of("idle_s"),
        compute_s=of("compute_s"),
        communication_s=of("communication_s"),
        exposed_communication_s=of("exposed_communication_s"),
        union_s={c: float(median(one.union_s[c] for one in found)) for c in CATEGORIES},
        sum_s={c: float(median(one.sum_s[c] for one in found)) for c in CATEGORIES},
        kernels=round(of("kernels")),
    )


def _of(step: StepWork) -> StepSummary:
    events = step.events
    start, end, category = events.start_s, events.end_s, events.category
    wire = category == COMMUNICATION
    work = ~wire & (category != COPY)
    busy = covered_s(start, end)
    by_category = [category == place for place in range(len(CATEGORIES))]
    return StepSummary(
        steps=1,
        window_s=step.window_s,
        busy_s=busy,
        idle_s=max(0.0, step.window_s - busy),
        compute_s=covered_s(start[work], end[work]),
        communication_s=covered_s(start[wire], end[wire]),
        exposed_communication_s=exposed_s(start[wire], end[wire], start[work], end[work]),
        union_s={
            name: covered_s(start[mask], end[mask])
            for name, mask in zip(CATEGORIES, by_category, strict=True)
        },
        sum_s={
            name: float(np.sum(events.duration_s[mask]))
            for name, mask in zip(CATEGORIES, by_category, strict=True)
        },
        kernels=len(events),
    )
