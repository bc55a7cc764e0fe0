"""Device time by phase and by layer: what annotations enclose, and what repeats.

A host's annotation owns the device work that was launched within it, whatever the thread (a
backward pass is launched from a thread of its own); an annotation of the device owns what began
within it on its stream. Annotations that enclose others contain their work too.
"""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ridgeline.validation.traces.enclosing import innermost
from ridgeline.validation.traces.intervals import covered_s
from ridgeline.validation.traces.records import ATTENTION, CATEGORIES, Annotation, Events, Trace
from ridgeline.validation.traces.steps import StepWork, is_step

MAX_PHASES = 256
"""Names beyond these, by their spans' total length, are left out."""
LEAST_LAYERS = 4
"""Fewer repetitions of an attention kernel are no row of layers."""
_DIGITS = re.compile(r"\d+")
_BACKWARD = re.compile(r"bwd|backward", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Phase:
    """Annotations of one name, numbers in it aside, or the layers of one pass."""

    name: str
    sums_s: tuple[float, ...]
    """Device time of each occurrence, kernels added up, in order of time."""
    walls_s: tuple[float, ...]
    """Union of each occurrence's device work."""
    category_s: dict[str, float]
    """By category, over all occurrences, kernels added up."""

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return asdict(self)


def find_phases(trace: Trace) -> tuple[Phase, ...]:
    """Return the annotated phases of a trace, by falling device time; steps are none."""
    by_name: dict[tuple[bool, str], list[Annotation]] = defaultdict(list)
    for span in trace.annotations:
        if not is_step(span.name):
            by_name[span.on_device, _DIGITS.sub("#", span.name)].append(span)
    longest = sorted(
        by_name.items(), key=lambda item: (-sum(s.duration_s for s in item[1]), item[0])
    )
    launched = bool(np.isfinite(trace.events.launch_s).any())
    phases: dict[str, Phase] = {}
    # the host's spans first: what they own is certain
    for (on_device, name), spans in sorted(longest[:MAX_PHASES], key=lambda item: item[0][0]):
        if name in phases or not (on_device or launched):
            continue
        owner = _owner(trace.events, spans, on_device=on_device)
        if (owner >= 0).any():
            phases[name] = _phase(name, trace.events, owner)
    return tuple(sorted(phases.values(), key=lambda phase: (-sum(phase.sums_s), phase.name)))


def _owner(events: Events, spans: list[Annotation], *, on_device: bool) -> NDArray[np.int64]:
    """Return which span owns each event, -1 for none."""
    start = np.array([span.start_s for span in spans])
    end = start + np.array([span.duration_s for span in spans])
    moment = events.start_s if on_device else events.launch_s
    anywhere = np.zeros(len(events), np.int32)
    stream = np.array([span.stream for span in spans], np.int32)
    by_stream = on_device and bool((stream >= 0).all())
    owner = np.full(len(events), -1, np.int64)
    known = np.isfinite(moment)
    owner[known] = innermost(
        start,
        end,
        stream if by_stream else np.zeros(len(spans), np.int32),
        moment[known],
        (events.stream if by_stream else anywhere)[known],
    )
    return owner


def find_layers(trace: Trace, step: StepWork) -> tuple[Phase, ...]:
    """Return the layers of the forward and of the backward pass of a step, none when unclear.

    A layer lasts from one attention kernel to the next of the same name; the last one is open and
    left out. Of several kernels of a pass the one that takes longest marks the layers.
    """
    events = step.events
    passes: dict[bool, dict[int, float]] = {False: {}, True: {}}
    attention = events.take(events.category == ATTENTION)
    seconds = np.bincount(attention.name, weights=attention.duration_s)
    for name in np.unique(attention.name).tolist():
        passes[bool(_BACKWARD.search(trace.names[name]))][name] = float(seconds[name])
    found = []
    for backward, kernels in passes.items():
        if not kernels:
            continue
        marker = max(kernels, key=lambda name: (kernels[name], -name))
        starts = np.sort(events.start_s[events.name == marker])
        if len(starts) < LEAST_LAYERS:
            continue
        owner = np.searchsorted(starts, events.start_s, side="right") - 1
        owner[owner == len(starts) - 1] = -1
        found.append(_phase("backward layer" if backward else "forward layer", events, owner))
    return tuple(found)


def _phase(name: str, events: Events, owner: NDArray[np.int64]) -> Phase:
    owned = events.take(owner >= 0)
    owner = owner[owner >= 0]
    order = np.argsort(owner, kind="stable")
    owned, owner = owned.take(order), owner[order]
    edges = np.flatnonzero(np.diff(owner)) + 1
    starts, ends = np.split(owned.start_s, edges), np.split(owned.end_s, edges)
    sums = np.add.reduceat(owned.duration_s, np.concatenate(([0], edges)))
    category = np.bincount(owned.category, weights=owned.duration_s, minlength=len(CATEGORIES))
    return Phase(
        name=name,
        sums_s=tuple(sums.tolist()),
        walls_s=tuple(covered_s(a, b) for a, b in zip(starts, ends, strict=True)),
        category_s={
            label: seconds
            for label, seconds in zip(CATEGORIES, category.tolist(), strict=True)
            if seconds > 0.0
        },
    )
