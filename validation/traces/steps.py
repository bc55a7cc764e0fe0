"""Steps of a trace: which device work belongs to each, and how long each took.

A profiler step is a span of the host and may be shorter than its device work. With several, a step
lasts from the first device work of one to the first of the next, and the last, which nothing
follows, has a work span but no period. With one, only work launched within it counts: what has no
launch in the trace was left over from the step before. XLA marks its steps on the device: there a
step's work is what begins within it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ridgeline.validation.traces.records import Annotation, Events, Trace

_PROFILER_STEP = re.compile(r"^ProfilerStep\s*#\s*\d+")
_NAMED_STEP = re.compile(
    r"^(?:train(?:ing)?[ _-]?)?(?:step|iteration|iter)[ _:#-]*\d+$", re.IGNORECASE
)
_BATCH = re.compile(r"^(?:execute_\d+_context|step\[|decode\[|extend\[)", re.IGNORECASE)
_DEVICE_STEP = re.compile(r"^\d+$")
_STEPS_PERIOD = 2
"""So many steps give a period."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepWork:
    """Device work of one step."""

    name: str
    window_s: float
    """How long the step took on the device's clock."""
    is_period: bool
    """The window reaches to the next step; else it ends with the step's own work."""
    events: Events


def find_steps(trace: Trace) -> tuple[StepWork, ...]:
    """Return the steps of a trace; without any annotated ones, all device work as one."""
    rules = (_PROFILER_STEP, _NAMED_STEP, _BATCH)
    spans = next((some for rule in rules if (some := _spans(trace, rule))), [])
    events, moment = trace.events, trace.events.launch_s
    if not spans and (spans := _spans(trace, _DEVICE_STEP, on_device=True)):
        moment = events.start_s
    if len(spans) >= _STEPS_PERIOD and (found := _several(events, moment, spans)):
        return found
    for span in spans[:1]:
        inside = (moment >= span.start_s) & (moment <= span.start_s + span.duration_s)
        events = events.take(inside) if inside.any() else events
    name = spans[0].name if spans else "whole trace"
    window = float(events.end_s.max() - events.start_s.min())
    return (StepWork(name=name, window_s=window, is_period=False, events=events),)


def is_step(name: str) -> bool:
    """Say whether an annotation of this name marks a step or a batch."""
    return any(rule.match(name) for rule in (_PROFILER_STEP, _NAMED_STEP, _BATCH, _DEVICE_STEP))


def _spans(trace: Trace, rule: re.Pattern[str], *, on_device: bool = False) -> list[Annotation]:
    """Return the spans of one kind; of those that nest, the inner ones."""
    found = [a for a in trace.annotations if a.on_device == on_device and rule.match(a.name)]
    out: list[Annotation] = []
    for span in found:
        # by start, so a span that begins inside the last one lies within it
        if out and span.start_s < out[-1].start_s + out[-1].duration_s:
            out.pop()
        out.append(span)
    return out


def _several(
    events: Events, moment: NDArray[np.float64], spans: list[Annotation]
) -> tuple[StepWork, ...]:
    """Return the steps of two or more spans, by the moment that says where an event belongs."""
    edges = np.array([span.start_s for span in spans] + [np.inf])
    last_end = spans[-1].start_s + spans[-1].duration_s
    where = np.searchsorted(edges, moment, side="right") - 1
    where[~np.isfinite(moment) | (moment > last_end)] = -1
    groups = [np.flatnonzero(where == i) for i in range(len(spans))]
    kept = [(span, rows) for span, rows in zip(spans, groups, strict=True) if len(rows)]
    if len(kept) < _STEPS_PERIOD:
        return ()
    work = [events.take(rows) for _, rows in kept]
    first = [float(one.start_s.min()) for one in work]
    ends = [*first[1:], float(work[-1].end_s.max())]
    return tuple(
        StepWork(name=span.name, window_s=end - begin, is_period=i + 1 < len(kept), events=one)
        for i, ((span, _), one, begin, end) in enumerate(zip(kept, work, first, ends, strict=True))
    )
