"""Micro-batches that skip stages and visit the others in an order without collisions.

The first and the last stage, which hold the embedding and the head, are on every path. Of the
others each micro-batch leaves out ``skip``, in turn, so that all stages skip alike. Those that are
left it visits in model order, or, where that is done sooner, after every forward the one that has
least to do.

References
----------
Blagoev et al. 2025, SkipPipe, arXiv:2502.19913.
"""

from __future__ import annotations

import heapq
from math import ceil

from ridgeline.simulator.schedule.described import Description, Pass

FORWARD_TIME, BACKWARD_TIME = 1, 2
"""By which the order is made: a backward computes twice what a forward does."""


def skip_schedule(
    pp: int, micro_batches: int, skip: int, work: tuple[int, ...] = ()
) -> Description:
    """Return the paths and the orders of a step whose micro-batches leave out ``skip`` stages.

    As many micro-batches are on their way at once as make the activations of pp stages under 1F1B,
    pp^2 / (pp - skip). Of its passes that are ready a device takes a backward before a forward, of
    the older micro-batch first. ``work`` is what a pass through each stage takes, for example its
    layers; by default all take alike.
    """
    weights = [max(weight, 1) for weight in work] or [1] * pp
    straight, reordered = (
        _laid_out(weights, micro_batches, skip, reorder=reorder) for reorder in (False, True)
    )
    return min(straight, reordered, key=lambda found: found[0])[1]


def _laid_out(
    work: list[int], micro_batches: int, skip: int, *, reorder: bool
) -> tuple[int, Description]:
    """Return when the last pass ends, and the order."""
    pp = len(work)
    at_once = ceil(pp * pp / (pp - skip))
    last, middle = pp - 1, pp - 2
    left = [
        {stage + 1 for stage in range(middle)}
        - {1 + (batch * skip + place) % middle for place in range(skip)}
        for batch in range(micro_batches)
    ]
    paths: list[list[int]] = [[] for _ in range(micro_batches)]
    orders: list[list[Pass]] = [[] for _ in range(pp)]
    ready: list[list[tuple[int, int]]] = [[] for _ in range(pp)]
    """By device: (0 backward or 1 forward, micro-batch), a heap."""
    free_at, idle = [0] * pp, [True] * pp
    ending: list[tuple[int, int, int, int]] = []
    """(time, device, kind, micro-batch), a heap."""
    entered = done = now = 0
    while done < micro_batches:
        while entered < micro_batches and entered - done < at_once:
            heapq.heappush(ready[0], (1, entered))
            entered += 1
        for device in range(pp):
            if idle[device] and ready[device]:
                later, batch = heapq.heappop(ready[device])
                kind = 0 if later else 1
                if kind == 0:
                    paths[batch].append(device)
                orders[device].append((kind, device, batch))
                idle[device] = False
                free_at[device] = now + work[device] * (BACKWARD_TIME if kind else FORWARD_TIME)
                heapq.heappush(ending, (free_at[device], device, kind, batch))
        now = ending[0][0]
        while ending and ending[0][0] == now:
            _, device, kind, batch = heapq.heappop(ending)
            idle[device] = True
            if kind == 0 and device != last:
                going = min(left[batch] or {last})
                if reorder and left[batch]:
                    loads = {
                        s: work[s] * _waiting(ready[s]) + max(free_at[s], now) for s in left[batch]
                    }
                    going = min(loads, key=lambda stage: (loads[stage], stage))
                left[batch].discard(going)
                heapq.heappush(ready[going], (1, batch))
            elif kind == 0:
                heapq.heappush(ready[device], (0, batch))
            elif device:
                back = paths[batch][paths[batch].index(device) - 1]
                heapq.heappush(ready[back], (0, batch))
            else:
                done += 1
    described = Description(
        name=f"skip-{skip}",
        home=tuple(range(pp)),
        orders=tuple(map(tuple, orders)),
        paths=tuple(map(tuple, paths)),
    )
    return now, described


def _waiting(ready: list[tuple[int, int]]) -> int:
    """Return how long the passes take that wait at a device, per unit of its work."""
    return sum(FORWARD_TIME if later else BACKWARD_TIME for later, _ in ready)
