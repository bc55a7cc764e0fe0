"""Which rung priced which share of a step's compute time."""

from __future__ import annotations

from collections import Counter

import numpy as np
from numpy.typing import NDArray

from ridgeline.simulator.results import Provenance
from ridgeline.simulator.roofline.rungs import LADDER
from ridgeline.simulator.step import Step


def rung_shares(step: Step) -> dict[str, float]:
    """Return rung -> share of the kernel time of one micro-batch through all layers, best first.

    Collectives, the optimizer and the host are not kernels of the table and do not count.
    """
    table, costs = step.costs.table, step.costs
    runs: NDArray[np.float64] = np.zeros(len(costs.seconds))
    units = (unit for one in step.slices for unit in one.units)
    for part, times in Counter(part for unit in units for part in unit).items():
        runs[part] = times
    work = costs.rungs >= 0
    seconds = costs.alone[work] * runs[table.part[work]]
    spent = np.bincount(costs.rungs[work], seconds, len(LADDER)) / seconds.sum()
    return {name: share for name, share in zip(LADDER, spent.tolist(), strict=True) if share}


def rung_evidence(step: Step) -> Provenance:
    """Say which rung priced what, for example ``62% table, 38% fitted`` of the compute time."""
    shares = rung_shares(step)
    text = ", ".join(f"{100.0 * share:.0f}% {name}" for name, share in shares.items())
    return Provenance(kind="kernels", text=f"{text} (share of the compute time by rung)")
