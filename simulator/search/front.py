"""The Pareto front: plans that no other beats in both time and money."""

from __future__ import annotations

from collections.abc import Iterable

from ridgeline.simulator.search.results import Found, FrontPoint


def pareto_front(found: Iterable[Found], *, priced: bool) -> tuple[FrontPoint, ...]:
    """Return the front of time against money, fastest first.

    Parameters
    ----------
    found
        Simulated plans that keep to the constraints.
    priced
        Whether money is dollars; accelerator-hours otherwise.

    Notes
    -----
    Of plans that are equal in both the first in the order of the space stands for all.
    """
    front: list[FrontPoint] = []
    cheapest = float("inf")
    for one in sorted(found, key=lambda one: (*_axes(one, priced), one.order)):
        money = _axes(one, priced)[1]
        if money < cheapest:
            cheapest = money
            front.append(
                FrontPoint(
                    plan=one.plan,
                    time_s=one.result.wall_clock_s,
                    usd=one.result.cost_usd if priced else 0.0,
                    result=one.result,
                    order=one.order,
                )
            )
    return tuple(front)


def _axes(one: Found, priced: bool) -> tuple[float, float]:
    result = one.result
    return result.wall_clock_s, result.cost_usd if priced else result.accelerator_hours
