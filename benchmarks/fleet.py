"""100,000 jobs on 100,000 accelerators over a year with failures, and cost against events."""

from __future__ import annotations

import json
import resource
import time

import numpy as np

from ridgeline.simulator.fleet.failures import FailureModel
from ridgeline.simulator.fleet.play import Playing
from ridgeline.simulator.fleet.spec import Fleet, Job, Pool, Rates

ACCELERATORS = 100_000
YEAR_S = 365 * 86400.0
LOAD = 0.9
"""Of the accelerators, on average."""
SIZES = 2 ** np.arange(3, 11)
"""Gangs of 8 to 1,024, equally often."""


def fleet_of(
    jobs: int,
    policy: str = "easy",
    span_s: float = YEAR_S,
    *,
    failing: bool = True,
    priorities: int = 1,
) -> Fleet:
    """Return a fleet whose jobs come evenly over ``span_s`` and keep it at ``LOAD``."""
    rng = np.random.default_rng(1)
    at = np.sort(rng.random(jobs)) * span_s
    size = rng.choice(SIZES, jobs)
    mean_s = LOAD * ACCELERATORS * span_s / (SIZES.mean() * jobs)
    work = rng.exponential(mean_s, jobs)
    rates = {
        int(n): {"all": Rates(counts=(int(n),), per_s=(1.0,), checkpoint_bytes=1e11)} for n in SIZES
    }
    rows = zip(at.tolist(), size.tolist(), work.tolist(), strict=True)
    return Fleet(
        name="benchmark",
        pools=(
            Pool(
                name="all",
                accelerator="h100-sxm",
                nodes=ACCELERATORS // 8,
                failures=FailureModel.published() if failing else None,
            ),
        ),
        jobs=tuple(
            Job(
                name=str(k),
                work=seconds,
                rates=rates[n],
                submitted_s=t,
                accelerators=n,
                user=f"u{k % 50}",
                priority=k % priorities,
            )
            for k, (t, n, seconds) in enumerate(rows)
        ),
        policy=policy,
    )


def run() -> dict[str, float]:
    """Play fleets.

    Returns
    -------
    dict
        ``jobs_100k_cpu_s``: CPU seconds of one process for 100,000 jobs on 100,000 accelerators
        over a year with published failures and stragglers, EASY backfill, the making of the jobs
        included. ``events_per_s``: of that run. ``peak_mib``: memory of the process at its most.
        ``cpu_s_1e4_events``, ``_1e5_``, ``_1e6_``: fleets without failures of as many events, three
        to a job. ``us_per_event_1e4`` and on: of each event, which near-linear cost keeps level.
    """
    figures: dict[str, float] = {}
    start = time.process_time()
    playing = Playing(fleet_of(100_000))
    playing.play()
    figures["jobs_100k_cpu_s"] = time.process_time() - start
    figures["events_per_s"] = playing.events / figures["jobs_100k_cpu_s"]
    figures["events"] = playing.events
    figures["peak_mib"] = peak_mib()
    for power in (4, 5, 6):
        jobs = 10**power // 3
        fleet = fleet_of(jobs, span_s=YEAR_S * jobs / 1e5, failing=False)
        start = time.process_time()
        playing = Playing(fleet)
        playing.play()
        figures[f"cpu_s_1e{power}_events"] = time.process_time() - start
        figures[f"us_per_event_1e{power}"] = (
            figures[f"cpu_s_1e{power}_events"] / playing.events * 1e6
        )
    return figures


def peak_mib() -> float:
    """Return the most memory that the process has had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024.0


if __name__ == "__main__":
    print(json.dumps(run(), indent=2))
