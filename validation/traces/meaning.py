"""What a disagreement between a trace and its simulation would mean."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ridgeline.validation.traces.compared import CategoryRow, CollectiveRow, GemmRow

WORTH_S = 0.005
"""Share of the measured step under which a disagreement is not told."""
UNFUSED = 1.5
"""So many times the kernels of the simulated step are a sign of operators run one by one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Disagreement:
    """One thing that took longer or shorter than predicted."""

    what: str
    measured_s: float
    predicted_s: float
    meaning: str

    @property
    def gap_s(self) -> float:
        """Seconds a step, absolute."""
        return abs(self.predicted_s - self.measured_s)


def explain_all(
    categories: Iterable[CategoryRow],
    gemms: Iterable[GemmRow],
    collectives: Iterable[CollectiveRow],
    *,
    peaks: Mapping[str, float],
    kernels: tuple[float, float],
    rung: str,
) -> tuple[Disagreement, ...]:
    """Return the disagreements of a comparison, largest first.

    Parameters
    ----------
    categories, gemms, collectives
        Rows of a ``Comparison``. Products stand for their category where shapes are known, and
        collectives for theirs.
    peaks
        Datasheet FLOP/s of the device by number format.
    kernels
        Kernels in a step, measured and simulated.
    rung
        What priced the products: fitted on the device, or universal for its class.
    """
    gemms, collectives, categories = list(gemms), list(collectives), list(categories)
    found = [_gemm(one, peaks, rung) for one in gemms if one.predicted_s is not None]
    wires = [_collective(one) for one in collectives if one.predicted_s is not None]
    found += wires
    step_s = sum(one.measured_s for one in categories)
    for one in categories:
        if (one.category == "gemm" and gemms) or (one.category == "communication" and wires):
            continue
        found.append(
            Disagreement(
                what=one.category,
                measured_s=one.measured_s,
                predicted_s=one.predicted_s,
                meaning=_of_category(one, kernels),
            )
        )
    large = [one for one in found if one.gap_s > WORTH_S * step_s]
    return tuple(sorted(large, key=lambda one: (-one.gap_s, one.what)))


def _gemm(one: GemmRow, peaks: Mapping[str, float], rung: str) -> Disagreement:
    assert one.predicted_s is not None
    expected = one.tflops_per_s * one.measured_s / one.predicted_s
    peak = peaks.get(one.dtype, 0.0) / 1e12
    share = f" ({100 * one.tflops_per_s / peak:.0f}% of peak)" if peak else ""
    reached = f"reaches {one.tflops_per_s:.0f} TFLOP/s{share} where {expected:.0f} are expected"
    if one.predicted_s < one.measured_s:
        cause = "a kernel not tuned for the shape, or a lower clock under load"
        if rung == "universal":
            cause += "; the device is priced by its class: ridgeline fit --trace makes it its own"
    else:
        cause = "a better kernel than the device's fit, or a colder chip"
    name = f" {one.operator}" if one.operator else ""
    return Disagreement(
        what=f"gemm{name} {one.m}x{one.n}x{one.k} {one.dtype}",
        measured_s=one.measured_s,
        predicted_s=one.predicted_s,
        meaning=f"{reached}: {cause}",
    )


def _collective(one: CollectiveRow) -> Disagreement:
    assert one.predicted_s is not None
    bus = f"{one.bus_gb_per_s:.1f} GB/s on the bus"
    if one.predicted_s < one.measured_s:
        meaning = f"{bus}: ranks wait for each other, or the links are slower than the cluster's"
    else:
        meaning = f"{bus}: faster links, or less in the way, than the plan's cluster says"
    return Disagreement(
        what=f"{one.kind} of {one.bytes / 1e6:.3g} MB over {one.ranks}",
        measured_s=one.measured_s,
        predicted_s=one.predicted_s,
        meaning=meaning,
    )


def _of_category(one: CategoryRow, kernels: tuple[float, float]) -> str:
    slower = one.measured_s > one.predicted_s
    measured, simulated = kernels
    if one.category == "memory-bound" and slower:
        if simulated and measured > UNFUSED * simulated:
            return (
                f"{measured:,.0f} kernels where fused ones would be about {simulated:,.0f}: "
                "operators run one by one, or slower strided ones"
            )
        return "kernels move more bytes than one pass each, or below the device's bandwidth"
    if one.category == "idle":
        if slower:
            return "the device waits: launches come late (host-bound), for data, or for other ranks"
        return "the host is faster than the stack says, or pipeline stages wait less"
    if one.category == "attention":
        if slower:
            return "another attention kernel than the stack's, or a batch of unlike lengths"
        return "a newer attention kernel, or fewer scores than a full causal batch"
    if one.category == "communication":
        if slower:
            return "ranks wait for each other, or the links are slower than the cluster's"
        return "less is sent than the plan says, or its transfers are not in this trace"
    if one.category == "other":
        return "kernels of no known kind: the plan has none like them"
    if one.category == "optimizer":
        return "another optimizer, unfused, or sharded another way than the plan's"
    return "the trace says no shapes (record_shapes=True does), so not which products"
