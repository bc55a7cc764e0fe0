"""What the collectives of a trace moved, and how fast.

A collective's kernel waits for its peers: its duration is transfer and skew. The last rank to
arrive waits least, so of one collective the shortest duration over the ranks is the transfer. With
a single rank's trace the skew cannot be told apart.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

from ridgeline.validation.traces.records import Collective, Trace
from ridgeline.validation.traces.steps import find_steps


@dataclass(frozen=True, slots=True, kw_only=True)
class CollectiveSpeed:
    """Collectives of one kind, size and group, over the steps read."""

    collective: Collective
    calls: int
    """On one rank."""
    traced_ranks: int
    """Ranks whose traces were compared."""
    transfer_s: float
    """Median over the calls of the shortest duration over the ranks."""
    fastest_s: float
    mean_s: float
    """Over calls and ranks, skew included."""
    bus_bytes_per_s: float
    """By ``transfer_s``; 0 when bytes, group or time are unknown."""

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON, the bandwidth in GB/s."""
        found = asdict(self)
        what: dict[str, Any] = found.pop("collective")
        return what | found | {"bus_gb_per_s": self.bus_bytes_per_s / 1e9}


def bus_factor(kind: str, ranks: int) -> float:
    """Return bus over algorithm bandwidth (NVIDIA nccl-tests, doc/PERFORMANCE.md).

    The share of the larger buffer that each rank's slowest link carries: 2 (n-1)/n of an
    all-reduce, (n-1)/n of gathering, scattering and exchanging, 1 of what goes one way.
    """
    if kind == "all_reduce":
        return 2.0 * (ranks - 1) / ranks
    if kind in ("all_gather", "reduce_scatter", "all_to_all"):
        return (ranks - 1) / ranks
    return 1.0


def find_collectives(*traces: Trace) -> tuple[CollectiveSpeed, ...]:
    """Return the collectives of the steps of one or more ranks, by falling time.

    Ranks are compared call by call within a step. A rank that has another number of calls in a
    step than most took part in something else there, and is left out of that step.
    """
    # of each collective and step, by rank: durations in order
    found: dict[Collective, dict[int, list[list[float]]]] = defaultdict(lambda: defaultdict(list))
    for trace in traces:
        for number, step in enumerate(find_steps(trace)):
            events = step.events.take(step.events.collective >= 0)
            took: dict[Collective, list[float]] = defaultdict(list)
            for place, seconds in zip(
                events.collective.tolist(), events.duration_s.tolist(), strict=True
            ):
                took[trace.collectives[place]].append(seconds)
            for one, durations in took.items():
                found[one][number].append(durations)
    speeds = [_speed(one, list(steps.values())) for one, steps in found.items()]
    speeds.sort(key=lambda speed: (-speed.calls * speed.mean_s, repr(speed.collective)))
    return tuple(speeds)


def _speed(collective: Collective, steps: list[list[list[float]]]) -> CollectiveSpeed:
    shortest: list[float] = []
    every: list[float] = []
    ranks = 0
    for by_rank in steps:
        usual = Counter(len(durations) for durations in by_rank).most_common(1)[0][0]
        alike = [durations for durations in by_rank if len(durations) == usual]
        ranks = max(ranks, len(alike))
        shortest += [min(call) for call in zip(*alike, strict=True)]
        every += [seconds for durations in alike for seconds in durations]
    transfer = median(shortest)
    moved = collective.bytes * (
        bus_factor(collective.kind, collective.ranks) if collective.ranks > 1 else 0.0
    )
    return CollectiveSpeed(
        collective=collective,
        calls=len(shortest),
        traced_ranks=ranks,
        transfer_s=transfer,
        fastest_s=min(shortest),
        mean_s=sum(every) / len(every),
        bus_bytes_per_s=moved / transfer if transfer > 0.0 else 0.0,
    )
