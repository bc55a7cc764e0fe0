"""Where the time of a played step goes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ridgeline.simulator.blocks import Composition, slice_seconds
from ridgeline.simulator.costs import LABELS
from ridgeline.simulator.engine import busy_and_gaps
from ridgeline.simulator.passes import pass_phases
from ridgeline.simulator.schedule import PAIRED, VARIANTS
from ridgeline.simulator.step import Step
from ridgeline.simulator.tasks import COPY, DISK, FETCH, GRADIENT, HOST, NETWORK, TRANSFER


@dataclass(frozen=True, slots=True, kw_only=True)
class StepTime:
    """Average seconds of a stage by what it spends them on; they add up to the step."""

    groups: dict[str, float]
    exposed_s: float
    bubble_s: float


def account(step: Step) -> StepTime:
    """Say where the time of a step goes, averaged over the pipeline stages.

    A stage's step is its passes (with the communication inside them that nothing hides), the
    optimizer, waits for gradients, weights and transfers (``engine.busy_and_gaps``), host work,
    and what is left: the bubble.
    """
    schedule, costs = step.schedule, step.costs
    devices = schedule.devices
    sums = np.zeros(len(LABELS))
    codes = (schedule.pass_kind.astype(np.int64) * schedule.vstages + schedule.vstage) * VARIANTS
    counts = np.bincount(codes + schedule.variant, minlength=3 * schedule.vstages * VARIANTS)
    counts = counts.reshape(3, schedule.vstages, VARIANTS)
    totals: dict[tuple[Composition, tuple[int, ...], bool], int] = {}
    there = np.nonzero(counts)
    rows = zip(*(column.tolist() for column in (*there, counts[there])), strict=True)
    part_of = schedule.vstage_part.tolist()
    for kind, vstage, variant, times in rows:
        phases = pass_phases(kind, variant, split=schedule.split_backward)
        key = (step.slices[part_of[vstage]], phases, bool(variant & PAIRED))
        totals[key] = totals.get(key, 0) + times
    ep = LABELS.index("exposed ep")
    for (composition, phases, paired), times in totals.items():
        seconds = slice_seconds(costs, composition, phases)
        if paired:
            rest = float(seconds.sum() - seconds[ep])
            seconds[ep] = max(0.0, float(seconds[ep]) - rest)
        sums += times * seconds
    groups = {label: float(s) / devices for label, s in zip(LABELS, sums, strict=True) if s > 0.0}
    offloaded = "optimizer" in step.plan.training.offload
    groups["optimizer"] = 0.0 if offloaded else float(step.optimizer_s.mean())
    inside = sum(seconds for name, seconds in groups.items() if name.startswith("exposed"))
    apart = inside if step.granularity == "operator" else 0.0
    usage = busy_and_gaps(step.graph, step.timeline, devices)
    waits = usage.exposed.mean(axis=0)
    # an operator timeline waits for collectives that a pass already counts, or in their place for
    # weights that come later still; what is left of the network ends the step: gradient norm,
    # tied embedding
    contention = float(usage.busy.mean()) - (sum(groups.values()) - apart)
    unhidden = float(waits[GRADIENT]) + float(waits[NETWORK]) - apart + contention
    groups["exposed dp"] = max(0.0, unhidden)
    groups["exposed pp"] = float(waits[TRANSFER])
    groups["exposed host copies"] = float(waits[COPY] + waits[FETCH])
    groups["exposed host optimizer"] = float(waits[HOST])
    groups["exposed drives"] = float(waits[DISK])
    groups["host"] = groups.get("host", 0.0) + step.seconds - step.timeline.makespan
    groups["bubble"] = max(0.0, step.seconds - sum(groups.values()))
    groups = {name: seconds for name, seconds in groups.items() if seconds > 0.0}
    exposed = sum(seconds for name, seconds in groups.items() if name.startswith("exposed"))
    return StepTime(groups=groups, exposed_s=exposed, bubble_s=groups.get("bubble", 0.0))
