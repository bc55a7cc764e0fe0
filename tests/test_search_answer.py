"""What a search says besides the best plan: why others lost, what would flip, what binds."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import pytest

from ridgeline.errors import InfeasibleError, InputError
from ridgeline.hardware import make_cluster
from ridgeline.simulator.plan import Training
from ridgeline.simulator.search.objective import Constraints, Objective
from ridgeline.simulator.search.results import SearchResult
from ridgeline.simulator.search.search import search
from ridgeline.simulator.search.space import Space
from ridgeline.simulator.training import simulate_training
from ridgeline.workloads import load_model


@cache
def space() -> Space:
    return Space(
        model=load_model("llama3-8b"),
        clusters=tuple(map(make_cluster, ("8xh100-sxm", "16xh100-sxm", "32xh100-sxm", "8xl40s"))),
        training=Training(seq_len=4096, global_batch_seqs=64, micro_batch_seqs=1, tokens=1e10),
        stack="megatron-core",
        cp=(1,),
    )


@cache
def cheapest() -> SearchResult:
    return search(space(), objective=Objective(cost=1.0))


def test_no_plan_of_the_front_beats_another_in_both() -> None:
    front = cheapest().front
    assert len(front) > 1
    assert [p.time_s for p in front] == sorted(p.time_s for p in front)
    assert [p.usd for p in front] == sorted((p.usd for p in front), reverse=True)
    assert front[-1].order == cheapest().best.order


def test_the_front_is_the_same_for_every_objective() -> None:
    fastest = search(space())
    assert [p.order for p in fastest.front] == [p.order for p in cheapest().front]
    assert fastest.front[0].order == fastest.best.order


def test_every_runner_up_has_a_reason_that_its_step_shows() -> None:
    best = cheapest().best
    groups = {share.group: share.seconds for share in best.result.breakdown}
    checked = 0
    for one in cheapest().runners_up:
        assert one.reasons
        other = {share.group: share.seconds for share in one.found.result.breakdown}
        for reason in one.reasons:
            if reason.unit == "s" and reason.cause in other:
                more = other[reason.cause] - groups.get(reason.cause, 0.0)
                assert reason.amount == pytest.approx(more)
                checked += 1
    assert checked


def test_a_plan_on_dearer_accelerators_lost_for_their_price() -> None:
    kinds = replace(
        space(),
        clusters=(make_cluster("8xh100-sxm"), make_cluster("8xh200-sxm")),
        zero_stage=(1,),
        recompute=("none",),
        schedules=("1f1b",),
    )
    found = search(kinds, objective=Objective(cost=1.0), runners_up=100)
    assert found.best.plan.cluster == kinds.clusters[0]
    other = [one for one in found.runners_up if one.found.plan.cluster == kinds.clusters[1]]
    assert other
    assert all("price" in {reason.cause for reason in one.reasons} for one in other)


def test_plans_that_memory_rules_out_would_win() -> None:
    for one in cheapest().too_large:
        assert one.behind < 0.0
        assert not one.found.result.fits
        assert one.reasons[0].cause == "memory"
        assert simulate_training(one.found.plan) == one.found.result
    assert cheapest().too_large


def test_the_rule_of_thumb_is_legal_and_never_better() -> None:
    thumb = cheapest().heuristic
    assert thumb is not None
    assert thumb.found.result.fits
    assert thumb.found.plan.parallel.tp == 8
    assert thumb.waste >= 0.0
    assert thumb.wasted_usd == pytest.approx(
        thumb.found.result.cost_usd - cheapest().best.result.cost_usd
    )


def test_headroom_keeps_memory_free() -> None:
    free = search(space(), constraints=Constraints(memory_headroom=0.5)).best.result
    assert free.worst_memory.total <= 0.5 * free.memory_limit


def test_a_price_that_rises_enough_flips_between_kinds() -> None:
    """Between two kinds a tenth decides exactly when their best plans cost nearly the same."""
    kinds = {cluster.accelerator.name for cluster in space().clusters}
    by_kind = [
        search(
            replace(
                space(), clusters=tuple(c for c in space().clusters if c.accelerator.name == kind)
            ),
            objective=Objective(cost=1.0),
        ).best.value
        for kind in sorted(kinds)
    ]
    gap = max(by_kind) / min(by_kind) - 1.0
    flips = {one.change for one in cheapest().sensitivity if one.flips and "price" in one.change}
    assert bool(flips) == (gap < 0.1)


def test_a_slower_network_costs_what_it_costs_the_plans_again() -> None:
    """The value after a change is that of the plan on the changed cluster."""
    by_name = {one.change: one for one in search(space()).sensitivity}
    slower = by_name["network bandwidth -10%"]
    cluster = slower.best.cluster
    tiers = tuple(
        replace(tier, bytes_per_s=tier.bytes_per_s * (0.9 if level else 1.0))
        for level, tier in enumerate(cluster.tiers)
    )
    result = simulate_training(replace(slower.best, cluster=replace(cluster, tiers=tiers)))
    assert slower.value == pytest.approx(result.wall_clock_s, rel=1e-9)


def message(**limits: float) -> str:
    with pytest.raises(InfeasibleError) as caught:
        search(space(), constraints=Constraints(**limits))
    return str(caught.value)


def test_too_small_a_budget_names_the_smallest_that_would_do() -> None:
    text = message(budget_usd=1.0)
    assert f"a budget of ${cheapest().best.result.cost_usd:,.0f}" in text


def test_too_short_a_deadline_names_the_shortest_that_would_do() -> None:
    days = search(space()).best.result.wall_clock_s / 86400.0
    assert f"a deadline of {days:,.2f} days" in message(deadline_s=60.0)


def test_constraints_of_a_cluster_name_the_smallest_one() -> None:
    assert "max accelerators 4: the space begins at 8" in message(max_accelerators=4)
    assert "power 1.0 kW: the space begins at" in message(power_w=1000.0)


def test_too_little_memory_names_the_leanest_plan() -> None:
    text = message(memory_headroom=0.99)
    assert "memory: no plan fits" in text
    assert "headroom of" in text
    large = replace(space(), model=load_model("llama3.1-405b"))
    with pytest.raises(InfeasibleError, match="times the memory, or more accelerators"):
        search(large)


def test_a_space_without_a_legal_plan_says_why() -> None:
    with pytest.raises(InfeasibleError, match="no legal plan in the space"):
        search(replace(space(), tp=(3,)))


def test_money_without_a_price_is_refused() -> None:
    unpriced = replace(space(), clusters=(make_cluster("8xh20"),))
    with pytest.raises(InputError, match="no price is known of h20"):
        search(unpriced, objective=Objective(cost=1.0))
    assert search(unpriced).best.result.cost_usd == 0.0


def test_weights_and_limits_are_checked() -> None:
    with pytest.raises(InputError, match="weight"):
        Objective(cost=-1.0)
    with pytest.raises(InputError, match="budget_usd: must be more than 0"):
        Constraints(budget_usd=0.0)
    with pytest.raises(InputError, match="memory_headroom"):
        Constraints(memory_headroom=1.0)


def test_unknown_names_of_a_space_are_refused_together() -> None:
    with pytest.raises(InputError) as caught:
        search(replace(space(), schedules=("2f2b",), recompute=("some",), zero_stage=(4,)))
    assert len(caught.value.problems) == 3
