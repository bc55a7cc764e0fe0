"""Slow obvious twins: every partition of models into options, and turns request by request."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

from ridgeline.simulator.serving.placement.options import RELEASED, Option
from ridgeline.simulator.serving.placement.turns import Guest
from ridgeline.simulator.serving.play import play_pools
from ridgeline.workloads.traffic.build import make_traffic


def partitions(items: Sequence[int]) -> Iterator[list[frozenset[int]]]:
    """Yield every way to part items into groups."""
    if not items:
        yield []
        return
    first, rest = items[0], items[1:]
    for pick in range(1 << len(rest)):
        others = [item for place, item in enumerate(rest) if pick >> place & 1]
        left = [item for place, item in enumerate(rest) if not pick >> place & 1]
        for tail in partitions(left):
            yield [frozenset((first, *others)), *tail]


def choices(
    groups: Sequence[frozenset[int]], options: Sequence[Option]
) -> Iterator[tuple[Option, ...]]:
    if not groups:
        yield ()
        return
    for option in options:
        if option.members == groups[0]:
            for tail in choices(groups[1:], options):
                yield (option, *tail)


def cheapest_usd(
    models: int,
    options: Sequence[Option],
    prices: Sequence[float],
    limits: Sequence[int],
    most: int,
    rent: Callable[[int, int], int],
) -> float:
    """Return the least dollars an hour over everything; infinite where nothing fits."""
    best = math.inf
    for groups in partitions(range(models)):
        for taken in choices(groups, options):
            usd, count, fits = 0.0, 0, True
            for kind, price in enumerate(prices):
                held = sum(one.held for one in taken if one.kind == kind)
                got = rent(kind, held) if held else 0
                fits &= got >= held and got <= limits[kind]
                usd += price * got
                count += got
            for one in taken:
                if one.way == RELEASED:
                    usd += one.usd_per_hour
                    count += one.accelerators
            if fits and count <= most:
                best = min(best, usd)
    return best


def turns_one_by_one(guests: Sequence[Guest]) -> list[list[float]]:
    """Return when each request ends, where a model answers one request at a time."""
    work = []
    for guest in guests:
        traffic = guest.traffic
        work.append([])
        for arrival, prompt, answer in zip(
            traffic.arrival_s, traffic.input_tokens, traffic.output_tokens, strict=True
        ):
            alone = play_pools((guest.pool,), make_traffic([0.0], [prompt], [answer]))
            work[-1].append((float(arrival), float(alone.end_s[0])))
    ends: list[list[float]] = [[] for _ in guests]
    now, there = 0.0, -1
    while any(len(end) < len(jobs) for end, jobs in zip(ends, work, strict=True)):
        heads = {
            place: work[place][len(ends[place])][0]
            for place in range(len(guests))
            if len(ends[place]) < len(work[place])
        }
        # whoever is there goes on while it has something that has come before it got idle
        if there in heads and heads[there] < now:
            place = there
        else:
            come = {place: at for place, at in heads.items() if at <= now} or heads
            place = min(come, key=lambda p: (come[p], p != there, p))
        now = max(now, heads[place])
        if place != there:
            now += guests[place].load_s
            there = place
        now += work[place][len(ends[place])][1]
        ends[place].append(now)
    return ends
