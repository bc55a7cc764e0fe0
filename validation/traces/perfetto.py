"""A traced and a simulated step as one timeline: two processes that begin at the same moment.

Format: Trace Event Format (Google), which Perfetto and chrome://tracing open.
"""

from __future__ import annotations

from typing import Any

from ridgeline.simulator.timeline import trace as simulated_timeline
from ridgeline.validation.traces.compare import Comparison
from ridgeline.validation.traces.records import CATEGORIES, Trace
from ridgeline.validation.traces.simulated import SimulatedStep
from ridgeline.validation.traces.steps import StepWork, find_steps

MEASURED, SIMULATED = 1, 2
"""Processes; further pipeline stages of the simulation come behind."""
MAX_EVENTS = 400_000
"""Measured ones beyond these, shortest first, are left out."""
LONGEST_NAME = 200


def timelines(trace: Trace, comparison: Comparison) -> dict[str, Any]:
    """Return the first step of a trace and its simulation as a JSON-ready object.

    Times in microseconds from the first device work of either.
    """
    step = find_steps(trace)[0]
    events = [_process(MEASURED, f"measured: {step.name}"), *_measured(trace, step)]
    if comparison.training:
        for event in simulated_timeline(comparison.plan)["traceEvents"]:
            moved = event | {"pid": event["pid"] + SIMULATED}
            if event["name"] == "process_name":
                moved["args"] = {"name": f"simulated: {event['args']['name']}"}
            events.append(moved)
    else:
        events += [_process(SIMULATED, "simulated"), *_forward(comparison.simulated)]
    return {
        "traceEvents": events,
        "displayTimeUnit": "ms",
        "otherData": {
            "model": comparison.plan.model.name,
            "accelerator": comparison.plan.cluster.accelerator.name,
            "measured_s": comparison.measured.window_s,
            "predicted_s": comparison.simulated.total_s,
        },
    }


def _process(place: int, name: str) -> dict[str, Any]:
    return {"ph": "M", "name": "process_name", "pid": place, "tid": 0, "args": {"name": name}}


def _measured(trace: Trace, step: StepWork) -> list[dict[str, Any]]:
    work = step.events
    if len(work) > MAX_EVENTS:
        longest = (-work.duration_s).argsort(kind="stable")[:MAX_EVENTS]
        longest.sort()
        work = work.take(longest)
    origin = float(work.start_s.min())
    made = []
    for row in range(len(work)):
        operator = int(work.operator[row])
        shown: dict[str, Any] = {"category": CATEGORIES[work.category[row]]}
        if operator >= 0:
            shown["operator"] = trace.operators[operator].name
            shown["shapes"] = str([list(s) for s in trace.operators[operator].shapes if s])
        made.append(
            {
                "ph": "X",
                "pid": MEASURED,
                "tid": int(work.stream[row]),
                "ts": round((float(work.start_s[row]) - origin) * 1e6, 3),
                "dur": round(float(work.duration_s[row]) * 1e6, 3),
                "name": trace.names[work.name[row]][:LONGEST_NAME],
                "args": shown,
            }
        )
    return made


def _forward(step: SimulatedStep) -> list[dict[str, Any]]:
    made: list[dict[str, Any]] = []
    at = 0.0
    for place in step.order:
        row = step.operators[place]
        made.append(
            {
                "ph": "X",
                "pid": SIMULATED,
                "tid": 0,
                "ts": round(at * 1e6, 3),
                "dur": round(row.exposed_s * 1e6, 3),
                "name": row.name,
                "args": {"category": row.category, "shape": "x".join(map(str, row.dims))},
            }
        )
        at += row.exposed_s
    return made
