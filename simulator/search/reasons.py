"""Why a plan lost: what it spends more on than the best one."""

from __future__ import annotations

from ridgeline.simulator.results import TrainingResult
from ridgeline.simulator.search.objective import Objective
from ridgeline.simulator.search.results import Found, Reason

MOST = 3
"""Reasons worth reading."""
WORTH = 0.1
"""Of the largest reason: smaller ones are left out."""
EQUAL = 1e-9
_WORDS = {
    "bubble": "pipeline bubble",
    "exposed tp": "exposed tensor-parallel communication",
    "exposed dp": "exposed data-parallel communication",
    "exposed pp": "exposed pipeline transfers",
    "exposed cp": "exposed context-parallel communication",
    "exposed ep": "exposed expert communication",
    "exposed host copies": "exposed copies to the host",
    "optimizer": "optimizer",
    "host": "host work",
    "recompute": "recomputation",
    "kernels": "time in kernels",
}


def why_lost(other: Found, best: Found, objective: Objective) -> tuple[Reason, ...]:
    """Return what ``other`` spends more on than ``best``, most first.

    Parts of a step are compared in seconds or, when accelerators differ and more than time counts,
    in accelerator-seconds: then a step on more accelerators takes more of everything. What differs
    besides the step is the price of an accelerator and the time that failures take.
    """
    if other.value <= best.value * (1.0 + EQUAL):
        text = "equal; the other comes first in the order of the space"
        return (Reason(cause="tie", amount=0.0, unit="s", text=text),)
    a, b = best.result, other.result
    only_time = objective.weights[0] and not any(objective.weights[1:])
    counts = (1, 1) if only_time else (a.accelerators, b.accelerators)
    unit = "s" if counts[0] == counts[1] else "accelerator-s"
    scale = (1.0, 1.0) if unit == "s" else (float(counts[0]), float(counts[1]))
    found = [*_parts(a, b, scale, unit), *_price(a, b, objective), *_overheads(a, b, scale, unit)]
    largest = max((weight for weight, _ in found), default=0.0)
    found = [one for one in found if one[0] >= WORTH * largest]
    found.sort(key=lambda one: (-one[0], one[1].cause))
    return tuple(reason for _, reason in found[:MOST])


def too_large(other: Found, limit: float) -> Reason:
    """Say by how much a plan misses its memory.

    Parameters
    ----------
    limit
        Bytes that it has.
    """
    gib = 2.0**30
    need = other.result.worst_memory.total
    return Reason(
        cause="memory",
        amount=(need - limit) / gib,
        unit="GiB",
        text=f"needs {need / gib:,.1f} GiB an accelerator and has {limit / gib:,.1f}",
    )


def _parts(
    a: TrainingResult, b: TrainingResult, scale: tuple[float, float], unit: str
) -> list[tuple[float, Reason]]:
    """Return longer parts of the step, each with its share of the step of ``a``."""
    alike = a.hardware_flops_per_step == b.hardware_flops_per_step
    before, after = _seconds(a, alike), _seconds(b, alike)
    whole = a.step_time_s * scale[0]
    reasons = []
    for part in sorted({*before, *after}):
        old, new = before.get(part, 0.0) * scale[0], after.get(part, 0.0) * scale[1]
        if new > old:
            text = f"{_WORDS.get(part, part)} +{_figure(new - old, whole, unit)}"
            reason = Reason(cause=part, amount=new - old, unit=unit, text=text)
            reasons.append(((new - old) / whole, reason))
    return reasons


def _seconds(result: TrainingResult, alike: bool) -> dict[str, float]:
    """Return seconds of a step by part: kernels together, apart from them what they recompute.

    Recomputation is the share of hardware FLOPs that is no model FLOPs, of the time in kernels. It
    is no reason where both plans recompute ``alike``.
    """
    parts: dict[str, float] = {}
    kernels = 0.0
    for share in result.breakdown:
        if share.group in _WORDS:
            parts[share.group] = share.seconds
        else:
            kernels += share.seconds
    again = 1.0 - result.model_flops_per_step / result.hardware_flops_per_step
    again = 0.0 if alike else again
    parts["recompute"] = kernels * again
    parts["kernels"] = kernels - parts["recompute"]
    return parts


def _price(
    a: TrainingResult, b: TrainingResult, objective: Objective
) -> list[tuple[float, Reason]]:
    old, new = a.usd_per_accelerator_hour, b.usd_per_accelerator_hour
    if not objective.weights[1] or new <= old or not old:
        return []
    text = f"an accelerator-hour costs ${new:,.2f} against ${old:,.2f}"
    return [(new / old - 1.0, Reason(cause="price", amount=new / old, unit="x", text=text))]


def _overheads(
    a: TrainingResult, b: TrainingResult, scale: tuple[float, float], unit: str
) -> list[tuple[float, Reason]]:
    """Return what failures, checkpoints and warm-up add, as seconds on each step."""
    old, new = (
        (result.wall_clock_s / result.steps - result.step_time_s) * count
        for result, count in zip((a, b), scale, strict=True)
    )
    if new <= old:
        return []
    whole = a.step_time_s * scale[0]
    text = f"failures, checkpoints and warm-up +{_figure(new - old, whole, unit)}"
    reason = Reason(cause="interruptions", amount=new - old, unit=unit, text=text)
    return [((new - old) / whole, reason)]


def _figure(more: float, whole: float, unit: str) -> str:
    """Return seconds a step, or the share of what the best step takes of its accelerators."""
    if unit != "s":
        return f"{100.0 * more / whole:.2g}% of a step"
    if more < 0.1:
        return f"{more * 1e3:.3g} ms a step"
    return f"{more:,.0f} s a step" if more >= 100 else f"{more:.3g} s a step"
