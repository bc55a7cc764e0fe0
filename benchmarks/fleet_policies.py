"""The fleet of ``fleet``, 100,000 jobs on 100,000 accelerators for a year, under every policy."""

from __future__ import annotations

import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
from fleet import fleet_of, peak_mib

from ridgeline.simulator.fleet.play import Playing

POLICIES = ("fifo", "priority", "srpt", "easy", "fair", "spot", "elastic")
PRIORITIES = 3


def run() -> dict[str, float]:
    """Play one year under each policy.

    Returns
    -------
    dict
        By policy, ``jobs_100k_cpu_s_``: CPU seconds of one process, the making of the jobs
        included, with published failures and three priorities; ``planned_stops_``: preemptions and
        changes of size; ``peak_mib_``: memory of the process at its most until then.
    """
    figures: dict[str, float] = {}
    for policy in POLICIES:
        start = time.process_time()
        playing = Playing(fleet_of(100_000, policy, priorities=PRIORITIES))
        playing.play()
        figures[f"jobs_100k_cpu_s_{policy}"] = time.process_time() - start
        figures[f"planned_stops_{policy}"] = sum(run.moves for run in playing.runs)
        figures[f"peak_mib_{policy}"] = peak_mib()
    return figures
