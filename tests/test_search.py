"""A search returns what trying every plan returns, and says what became of the rest."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ridgeline.errors import InfeasibleError
from ridgeline.hardware import make_cluster
from ridgeline.simulator.search.enumerate import enumerate_plans
from ridgeline.simulator.search.objective import Constraints, Objective
from ridgeline.simulator.search.results import SearchResult
from ridgeline.simulator.search.search import search
from ridgeline.simulator.search.space import plan_at
from ridgeline.simulator.training import simulate_training
from spaces import every_legal_plan, random_space

OBJECTIVES = (
    Objective(),
    Objective(cost=1.0),
    Objective(energy=1.0),
    Objective(carbon=1.0),
    Objective(time=0.01, cost=1.0, carbon=0.1),
)


@pytest.mark.parametrize("seed", range(40))
def test_enumeration_is_all_legal_plans_and_no_other(seed: int) -> None:
    space = random_space(seed)
    candidates = enumerate_plans(space)
    found = [plan_at(space, candidates, row) for row in range(len(candidates))]
    assert found == list(every_legal_plan(space))


@pytest.mark.parametrize("seed", range(4))
def test_every_width_is_tried_where_none_is_asked_for(seed: int) -> None:
    space = replace(
        random_space(seed), tp=(), cp=(), ep=(), etp=(), micro_batch_seqs=(), recompute=("full",)
    )
    space = replace(space, zero_stage=(1,), schedules=("1f1b",), pp=(1, 2))
    space = replace(space, clusters=(make_cluster("4xh100-sxm"),), offload=((),))
    candidates = enumerate_plans(space)
    found = [plan_at(space, candidates, row) for row in range(len(candidates))]
    assert [p for p in found if p.parallel.etp <= 16] == list(every_legal_plan(space))


@pytest.mark.parametrize(
    "seed", [pytest.param(i, marks=pytest.mark.slow if i >= 10 else ()) for i in range(50)]
)
def test_the_answer_is_that_of_brute_force(seed: int) -> None:
    space = random_space(100 + seed)
    objective = OBJECTIVES[seed % len(OBJECTIVES)]
    limits = Constraints(memory_headroom=0.3 if seed % 3 == 0 else 0.0)
    if seed % 4 == 1 and space.training.tokens:
        limits = Constraints(deadline_s=60 * 3600.0)
    runs = [(i, p, simulate_training(p)) for i, p in enumerate(every_legal_plan(space))]
    feasible = sorted(
        ((objective.of_result(r), i, p, r) for i, p, r in runs if limits.met_by(r)),
        key=lambda one: one[:2],
    )
    if not feasible:
        with pytest.raises(InfeasibleError):
            search(space, objective=objective, constraints=limits)
        return
    found = search(space, objective=objective, constraints=limits)
    value, order, plan, result = feasible[0]
    assert (found.best.value, found.best.order) == (value, order)
    assert found.best.plan == plan
    assert found.best.result == result
    assert [(r.found.value, r.found.order) for r in found.runners_up] == [
        one[:2] for one in feasible[1:11]
    ]
    front = []
    for _, i, _, r in sorted(
        feasible, key=lambda one: (one[3].wall_clock_s, one[3].cost_usd, one[1])
    ):
        if not front or r.cost_usd < front[-1][2]:
            front.append((i, r.wall_clock_s, r.cost_usd))
    assert [(f.order, f.time_s, f.usd) for f in found.front] == front
    assert found.counts.seen == len(runs)


def ends(found: SearchResult) -> int:
    counts = found.counts
    return (
        counts.constraint
        + counts.memory_bound
        + counts.memory
        + counts.roofline_bound
        + counts.time_bound
        + counts.priced
    )


def test_every_plan_seen_has_one_end() -> None:
    for seed in range(3):
        found = search(random_space(seed))
        assert ends(found) == found.counts.seen
