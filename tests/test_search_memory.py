"""Memory of candidates: equal to that of the stages, and a bound that is never above it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import naive_search
from ridgeline.simulator.memory import memory_facts, stage_memory
from ridgeline.simulator.schedule import make_schedule
from ridgeline.simulator.search import _kernels
from ridgeline.simulator.search.memory import memory_lower_bound, worst_memory_bytes
from ridgeline.simulator.search.space import plan_at
from ridgeline.simulator.stacks import load_stack
from ridgeline.simulator.step import schedule_kind
from test_search_pricing import REGULAR, SPACES, sample, space_of


@pytest.mark.parametrize("name", SPACES)
def test_bytes_are_those_of_the_worst_stage(name):
    space = space_of(name)
    candidates = sample(space, 150, seed=1)
    facts = memory_facts(load_stack(space.stack))
    want = []
    for row in range(len(candidates)):
        plan = plan_at(space, candidates, row)
        p = plan.parallel
        schedule = make_schedule(schedule_kind(plan), p.pp, p.vpp, plan.micro_batches)
        want.append(max(share.total for share in stage_memory(plan, schedule, facts)))
    got = worst_memory_bytes(space, candidates)
    regular = np.isin(np.array(space.schedules)[candidates.schedule], list(REGULAR))
    np.testing.assert_array_equal(np.isnan(got), ~regular)
    np.testing.assert_allclose(got[regular], np.array(want)[regular], rtol=1e-9)
    low = memory_lower_bound(space, candidates)
    assert (low <= want).all()
    assert (low > facts.framework_bytes * 0.999).all()


def test_blocks_may_be_empty():
    space = space_of("experts")
    none = sample(space, 5).take(np.zeros(0, np.intp))
    assert worst_memory_bytes(space, none).shape == (0,)
    assert memory_lower_bound(space, none).shape == (0,)


@given(
    pp=st.integers(2, 6), vpp=st.integers(1, 4), rounds=st.integers(1, 4), seed=st.integers(0, 99)
)
@settings(max_examples=100, deadline=None)
def test_bytes_in_flight_are_those_of_a_walk(pp, vpp, rounds, seed):
    stored = np.random.default_rng(seed).integers(1, 9, pp * vpp).astype(float)
    m = pp * rounds
    kinds = {"interleaved": _kernels.INTERLEAVED}
    if vpp == 1:
        kinds = {"gpipe": _kernels.GPIPE, "1f1b": _kernels.ONE_F_ONE_B}
    for kind, code in kinds.items():
        got = [_kernels._most_kept(code, pp, vpp, m, d, stored) for d in range(pp)]
        assert got == pytest.approx(naive_search.most_kept(kind, pp, vpp, m, stored))
