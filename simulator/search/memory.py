"""Bytes per accelerator of candidates: exact for regular plans, and a cheap lower bound."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ridgeline.simulator.memory import memory_facts, stage_memory
from ridgeline.simulator.schedule import make_schedule
from ridgeline.simulator.search.space import Candidates, Space, plan_at
from ridgeline.simulator.stacks import load_stack
from ridgeline.simulator.step import schedule_kind

Floats = NDArray[np.float64]


def worst_memory_bytes(space: Space, candidates: Candidates) -> Floats:
    """Return what the stage that needs most takes, float64[n]; NaN: ask ``stage_memory``."""
    facts = memory_facts(load_stack(space.stack))
    out = np.empty(len(candidates))
    for row in range(len(candidates)):
        plan = plan_at(space, candidates, row)
        p = plan.parallel
        schedule = make_schedule(schedule_kind(plan), p.pp, p.vpp, plan.micro_batches)
        out[row] = max(share.total for share in stage_memory(plan, schedule, facts))
    return out


def memory_lower_bound(space: Space, candidates: Candidates) -> Floats:
    """Return bytes that no stage peak of a candidate is under, float64[n]."""
    return np.zeros(len(candidates))
