"""What a calendar says: flat frozen records."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Percentiles:
    """Of a figure over all runs of the Monte Carlo; infinite where a run never ends."""

    p10: float
    p50: float
    p90: float


@dataclass(frozen=True, slots=True, kw_only=True)
class CalendarResult:
    """How long a run takes and what it costs when everything happens at once."""

    runs: int
    seed: int
    wall_clock_s: Percentiles
    cost_usd: Percentiles | None
    """None without a price."""
    finish: tuple[str, str, str] | None
    """Dates of P10, P50 and P90, when a start was given; empty where there is none."""
    goodput: Percentiles
    """Share of the time spent in training steps that count."""
    mean_goodput: float
    effective_training_time: Percentiles
    """Share of the time not lost to interruptions: steps, evaluation and stragglers over all."""
    failures: Percentiles
    """Interruptions of a run."""
    breakdown_s: dict[str, float]
    """Mean seconds by cause over the runs that end; they add up to their mean time."""
    within_deadline: float | None
    """Probability, None when none was asked."""
    within_deadline_error: float | None
    """Its standard error from the number of runs."""
    within_budget: float | None
    within_budget_error: float | None
    spare_nodes: int | None
    """None when a good node is always at hand."""
    checkpoint_interval_s: float
    """Infinite without checkpoints."""
    checkpoint_pause_s: float
    checkpoint_host_bytes: float
    """Memory of a node that checkpoints take."""
    mttf_s: float
    """Mean time between interruptions at the expected rate."""
    assumptions: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON contract (``docs/json.md``)."""
        return asdict(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """What a change brings against the base, run by run with the same luck."""

    change: str
    goodput: float
    """Mean over all runs."""
    goodput_difference: float
    wall_clock_s: float
    """Median."""
    wall_clock_difference_s: float
    """Median over the runs, each against itself."""
    cost_usd: float | None
    cost_difference_usd: float | None

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON contract (``docs/json.md``)."""
        return asdict(self)
