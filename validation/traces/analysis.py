"""Everything that a trace, or a folder of ranks, says about where its steps' time went."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ridgeline.errors import InputError
from ridgeline.validation.traces.collective_speed import CollectiveSpeed, find_collectives
from ridgeline.validation.traces.gemms import Gemms, find_gemms
from ridgeline.validation.traces.phases import Phase, find_layers, find_phases
from ridgeline.validation.traces.records import Trace
from ridgeline.validation.traces.steps import find_steps
from ridgeline.validation.traces.summary import StepSummary, middle, summarise


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceAnalysis:
    """What was found in the traces of one run."""

    format: str
    device_name: str
    ranks: tuple[int, ...]
    """-1 for one that its trace does not say."""
    world_size: int
    summary: StepSummary
    """Median over the ranks."""
    by_rank: tuple[StepSummary, ...]
    outside_s: float
    """Device time of the first rank that belongs to no step, kernels added up."""
    gemms: Gemms
    collectives: tuple[CollectiveSpeed, ...]
    phases: tuple[Phase, ...]
    """Of the first rank: annotated ones."""
    layers: tuple[Phase, ...]
    """Of the first rank's first step: forward, backward."""
    losses: tuple[str, ...]

    def mfu(self, model_flops: float, peak_flops: float) -> float:
        """Return model FLOPs utilisation: model FLOPs of a step per device over time and peak.

        Parameters
        ----------
        model_flops
            That the model needs for one step, divided by the number of devices.
        peak_flops
            Of one device, dense, FLOP/s.
        """
        if model_flops <= 0.0 or peak_flops <= 0.0 or self.summary.window_s <= 0.0:
            raise InputError("MFU needs FLOPs of a step, a peak and a step time above 0")
        return model_flops / (self.summary.window_s * peak_flops)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {
            "format": self.format,
            "device_name": self.device_name,
            "ranks": list(self.ranks),
            "world_size": self.world_size,
            "step": self.summary.to_dict(),
            "steps_by_rank": [one.to_dict() for one in self.by_rank],
            "outside_s": self.outside_s,
            "gemms": [shape.to_dict() for shape in self.gemms.shapes],
            "gemm_kernel_s": self.gemms.kernel_s,
            "gemm_matched_s": self.gemms.matched_s,
            "gemm_flops_per_step": self.gemms.flops_per_step,
            "collectives": [one.to_dict() for one in self.collectives],
            "phases": [phase.to_dict() for phase in self.phases],
            "layers": [layer.to_dict() for layer in self.layers],
            "losses": list(self.losses),
        }


def analyse(traces: tuple[Trace, ...]) -> TraceAnalysis:
    """Analyse the traces of one run, one a rank (``reading.read_ranks``)."""
    first = traces[0]
    by_rank = tuple(summarise(trace) for trace in traces)
    several = len(traces) > 1
    steps = find_steps(first)
    inside = sum(float(step.events.duration_s.sum()) for step in steps)
    return TraceAnalysis(
        format=first.format,
        device_name=first.device_name,
        ranks=tuple(trace.rank for trace in traces),
        world_size=max(trace.world_size for trace in traces),
        summary=middle(by_rank),
        by_rank=by_rank,
        outside_s=max(0.0, float(first.events.duration_s.sum()) - inside),
        gemms=find_gemms(*traces),
        collectives=find_collectives(*traces),
        phases=find_phases(first),
        layers=find_layers(first, steps[0]),
        losses=tuple(
            f"rank {trace.rank}: {line}" if several else line
            for trace in traces
            for line in trace.losses
        ),
    )
