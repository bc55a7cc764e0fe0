"""Which option each of many layers takes, exactly: least seconds within a room of bytes.

Layers of a group are alike, so that only how many take each option matters. Depth-first search over
these numbers, cut off by the bound of the linear relaxation (Sinha and Zoltners 1979, "The
multiple-choice knapsack problem"): there layers may be split between neighbouring options of the
lower convex hull, and bytes are spent where they save most seconds each.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import inf

Take = tuple[tuple[str, int], ...]
"""(name of an option, layers that take it) of one group."""


@dataclass(frozen=True, slots=True)
class Option:
    """What one layer may do."""

    name: str
    seconds: float
    stored: float
    """Bytes kept."""
    recreated: float
    """Bytes beyond ``stored`` while the layer runs backward: the largest counts, once."""


@dataclass(frozen=True, slots=True)
class Group:
    """Layers with the same options."""

    count: int
    options: tuple[Option, ...]


def choose(groups: Sequence[Group], room: Callable[[float], float]) -> list[Take]:
    """Return what the layers of each group take.

    Parameters
    ----------
    groups
        All layers that share the room.
    room
        Bytes that they may keep together if the largest ``recreated`` among them is so many; it
        never grows with that number.

    Returns
    -------
    list
        By group. Where nothing has room, what comes nearest.
    """
    best, chosen = inf, None
    least, nearest = inf, None
    for level in sorted({option.recreated for group in groups for option in group.options}):
        allowed = [_allowed(group, level) for group in groups]
        if not all(allowed):
            continue
        search = _Search([group.count for group in groups], allowed, best)
        space = room(level)
        over = search.least_bytes - space
        if over > 0:
            if over < least:
                least, nearest = over, search.smallest()
            continue
        found = search.run(space)
        if found is not None:
            best, chosen = search.best, found
    answer = chosen or nearest
    assert answer is not None, "every layer has an option"
    return answer


def _allowed(group: Group, level: float) -> list[Option]:
    """Return the options within a level that no other beats in both, fastest first."""
    kept: list[Option] = []
    for option in sorted(group.options, key=lambda o: (o.seconds, o.stored, o.recreated, o.name)):
        if option.recreated <= level and (not kept or option.stored < kept[-1].stored):
            kept.append(option)
    return kept


@dataclass(slots=True)
class _Tail:
    """What free layers can do: those of one group beyond an option, all of the later groups."""

    steps: list[tuple[float, float, float, int]]
    """(-seconds saved per byte, bytes, seconds saved, layers or 0 for those of the first group)."""
    smallest: Option
    """Of the first group."""
    later_bytes: float
    later_seconds: float


class _Search:
    """Numbers of layers by option, group after group."""

    def __init__(self, counts: Sequence[int], options: list[list[Option]], best: float) -> None:
        self.counts, self.options, self.best = counts, options, best
        self.least_bytes = sum(n * o[-1].stored for n, o in zip(counts, options, strict=True))
        self.answer: list[list[int]] | None = None
        self.numbers = [[0] * len(some) for some in options]
        self.tails = [
            [self._tail(group, start) for start in range(len(some))]
            for group, some in enumerate(options)
        ]

    def smallest(self) -> list[Take]:
        """Return the choice of fewest bytes."""
        return [((o[-1].name, n),) for n, o in zip(self.counts, self.options, strict=True)]

    def run(self, room: float) -> list[Take] | None:
        """Return the fastest choice that has room and is faster than the best so far, or None."""
        self._extend(0, 0, self.counts[0], room, 0.0)
        if self.answer is None:
            return None
        return [
            tuple((o.name, n) for o, n in zip(some, numbers, strict=True) if n)
            for some, numbers in zip(self.options, self.answer, strict=True)
        ]

    def _tail(self, group: int, start: int) -> _Tail:
        steps = [(*step, 0) for step in _hull_steps(self.options[group][start:])]
        later = range(group + 1, len(self.counts))
        for other in later:
            steps += [(*step, self.counts[other]) for step in _hull_steps(self.options[other])]
        return _Tail(
            sorted(steps),
            self.options[group][-1],
            sum(self.counts[g] * self.options[g][-1].stored for g in later),
            sum(self.counts[g] * self.options[g][-1].seconds for g in later),
        )

    def _bound(self, group: int, start: int, free: int, room: float) -> float:
        """Return seconds that the free layers are not under, infinite when they have no room."""
        tail = self.tails[group][start]
        spare = room - free * tail.smallest.stored - tail.later_bytes
        if spare < 0.0:
            return inf
        seconds = free * tail.smallest.seconds + tail.later_seconds
        for _, size, saved, layers in tail.steps:
            taken = min(float(layers or free), spare / size)
            seconds -= taken * saved
            spare -= taken * size
            if spare <= 0.0:
                break
        return seconds

    def _extend(self, group: int, start: int, free: int, room: float, spent: float) -> None:
        """Try all numbers of layers for option ``start`` of ``group`` and what comes behind it."""
        options = self.options[group]
        option = options[start]
        last = start == len(options) - 1
        for number in (free,) if last else range(free, -1, -1):
            space = room - number * option.stored
            seconds = spent + number * option.seconds
            if space < 0.0:
                continue
            self.numbers[group][start] = number
            if not last and number < free:
                if seconds + self._bound(group, start + 1, free - number, space) < self.best:
                    self._extend(group, start + 1, free - number, space, seconds)
                continue
            self.numbers[group][start + 1 :] = [0] * (len(options) - start - 1)
            if group + 1 == len(self.counts):
                if seconds < self.best:
                    self.best = seconds
                    self.answer = [list(some) for some in self.numbers]
            elif seconds + self._bound(group + 1, 0, self.counts[group + 1], space) < self.best:
                self._extend(group + 1, 0, self.counts[group + 1], space, seconds)
        self.numbers[group][start] = 0


def _hull_steps(options: list[Option]) -> list[tuple[float, float, float]]:
    """Return (-seconds saved per byte, bytes, seconds) along the lower convex hull.

    ``options`` come fastest first, so that bytes fall.
    """
    hull: list[Option] = []
    for option in reversed(options):  # from fewest bytes up
        while len(hull) > 1 and _saves(hull[-2], option) >= _saves(hull[-2], hull[-1]):
            hull.pop()
        hull.append(option)
    return [
        (-_saves(low, high), high.stored - low.stored, low.seconds - high.seconds)
        for low, high in pairwise(hull)
    ]


def _saves(low: Option, high: Option) -> float:
    """Return the seconds that each byte of a larger option saves."""
    return (low.seconds - high.seconds) / (high.stored - low.stored)
