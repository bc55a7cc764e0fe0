"""Deadlines by elastic jobs: the smallest shares that suffice, the rest where it helps most.

After ElasticFlow (Gu et al., ASPLOS 2023): progressive filling finds for each job, in order of
deadlines, the smallest share that meets its deadline beside the jobs before it; a job for which
there is none is refused. What is left goes, step by step, to whom it speeds up most per
accelerator.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field
from heapq import heappop, heappush
from math import inf
from operator import attrgetter
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from ridgeline.simulator.fleet.policies import Policy
from ridgeline.simulator.fleet.state import RUNNING

if TYPE_CHECKING:
    from ridgeline.simulator.fleet.play import Playing
    from ridgeline.simulator.fleet.spec import Rates
    from ridgeline.simulator.fleet.state import PoolState, Run

_ORDER = attrgetter("key")
Float64 = NDArray[np.float64]
Int64 = NDArray[np.int64]


@dataclass(slots=True)
class Elastic(Policy):
    """Deadline-aware elastic shares. Each job stays in the first of its pools."""

    settles: ClassVar[bool] = True

    admit: float = 1.0
    """0 refuses nobody; a deadline that cannot be met is then missed."""
    slots: float = 64.0
    """Times between now and the last deadline at which shares are planned to change."""
    margin: float = 0.05
    """More work than there is, for restarts at changes of size."""
    _admitted: set[int] = field(default_factory=set)

    def bucket(self, run: Run) -> Hashable:
        """Return the pool."""
        return next(iter(run.job.rates))

    def schedule(self, playing: Playing) -> None:
        """Share each pool anew."""
        by_pool: dict[str, list[Run]] = {name: [] for name in playing.pools}
        for run in playing.queue:
            by_pool[next(iter(run.job.rates))].append(run)
        for run in playing.running.values():
            by_pool[run.pool].append(run)
        for name, runs in by_pool.items():
            if runs:
                self._share(playing.pools[name], runs, playing)

    def key(self, run: Run, playing: Playing) -> Any:  # noqa: ARG002
        """Return deadline, then submission."""
        return (run.job.deadline_s, run.job.submitted_s, run.index)

    def _share(self, state: PoolState, runs: list[Run], playing: Playing) -> None:
        runs.sort(key=_ORDER)
        capacity = state.held + state.nodes.total_free
        now = playing.now
        bound = [run for run in runs if now < run.key[0] < inf]
        shares = self._bound(runs, bound, state, capacity, playing) if bound else {}
        self._grow(runs, shares, capacity, state.pool.name)
        self._apply(runs, shares, state, playing)

    def _bound(
        self, runs: list[Run], bound: list[Run], state: PoolState, capacity: int, playing: Playing
    ) -> dict[int, int]:
        """Return the smallest shares that meet the deadlines; refuse who cannot be served."""
        new = [run for run in bound if run.index not in self._admitted]
        kept = [run for run in bound if run.index in self._admitted]
        shares, missed = self._least(kept, state, capacity, playing)
        for run in sorted(new, key=lambda run: (run.job.submitted_s, run.index)):
            trial = sorted([*kept, run], key=_ORDER)
            found, late = self._least(trial, state, capacity, playing)
            # those that failures have made hopeless do not keep others out
            if self.admit and late - missed:
                playing.drop(run)
                runs.remove(run)
                continue
            kept, shares, missed = trial, found, late
            self._admitted.add(run.index)
        return shares

    def _least(
        self, runs: list[Run], state: PoolState, capacity: int, playing: Playing
    ) -> tuple[dict[int, int], set[int]]:
        """Return each job's smallest share now that meets its deadline, and who cannot."""
        shares: dict[int, int] = {}
        missed: set[int] = set()
        if not runs:
            return shares, missed
        last = runs[-1].job.deadline_s
        ends = {run.job.deadline_s for run in runs}
        edges = np.unique([*np.linspace(playing.now, last, int(self.slots) + 1), *ends])
        widths = np.diff(edges)
        free = np.full(len(widths), capacity, np.int64)
        for run in runs:
            until = int(np.searchsorted(edges, run.job.deadline_s, side="left"))
            rates = run.job.rates[state.pool.name]
            found = _fill(rates, self._work(run, rates, playing), widths[:until], free[:until])
            if found is None:
                missed.add(run.index)
            else:
                shares[run.index] = int(found[0]) if len(found) else 0
                free[: len(found)] -= found
        return shares, missed

    def _work(self, run: Run, rates: Rates, playing: Playing) -> float:
        """Return the work to plan for: what is left, a margin, and the next start."""
        if run.state == RUNNING:
            run.advance(playing.now)
            left, start = run.left(), run.startup_s
        else:
            left, start = run.job.work - run.base, run.job.start_s + run.load_s
        return left * (1.0 + self.margin) + start * rates.per_s[0]

    def _grow(self, runs: list[Run], shares: dict[int, int], capacity: int, pool: str) -> None:
        """Hand out what the least shares leave."""
        free = capacity - sum(shares.values())
        for run in runs:
            if free <= 0:
                break
            if not shares.get(run.index):
                least = run.job.rates[pool].counts[0]
                if least <= free:
                    shares[run.index] = least
                    free -= least
        offers: list[tuple[float, int, int, int]] = []

        def offer(order: int, rates: Rates, has: int) -> None:
            run = runs[order]
            place = rates.index(has)
            if place + 1 < len(rates.counts):
                more = rates.counts[place + 1] - has
                gain = (rates.per_s[place + 1] / rates.per_s[place] - 1.0) / more
                heappush(offers, (-gain, order, run.index, more))

        if free > 0:
            for order, run in enumerate(runs):
                rates = run.job.rates[pool]
                if len(rates.counts) > 1 and shares.get(run.index):
                    offer(order, rates, shares[run.index])
        while offers and free > 0:
            _, order, index, more = heappop(offers)
            if more > free:
                continue
            shares[index] += more
            free -= more
            offer(order, runs[order].job.rates[pool], shares[index])

    def _apply(
        self, runs: list[Run], shares: dict[int, int], state: PoolState, playing: Playing
    ) -> None:
        """Take from those who get less, then give."""
        pool = state.pool.name
        more: list[tuple[Run, int]] = []
        for run in runs:
            share = shares.get(run.index, 0)
            has = run.accelerators if run.state == RUNNING else 0
            if share > has:
                more.append((run, share))
            elif not share and has:
                playing.stop(run)
            elif share < has:
                playing.resize(run, share)
        for run, share in more:
            if run.state == RUNNING:
                self._widen(run, share, state, playing)
                continue
            for count in _sizes(run, pool, share):
                if playing.start(run, pool, count):
                    break

    def _widen(self, run: Run, share: int, state: PoolState, playing: Playing) -> None:
        for count in _sizes(run, state.pool.name, share):
            if count <= run.accelerators:
                return
            if count <= state.nodes.total_free + run.accelerators and playing.resize(run, count):
                return


def _sizes(run: Run, pool: str, share: int) -> list[int]:
    """Return the allocations up to a share, the largest first."""
    return [count for count in reversed(run.job.rates[pool].counts) if count <= share]


def _fill(rates: Rates, work: float, widths: Float64, free: Int64) -> Int64 | None:
    """Return the accelerators in each slot, for the smallest share that does the work in time.

    Parameters
    ----------
    work
        To be done.
    widths, free
        Length [s] and free accelerators of each slot until the deadline.

    Returns
    -------
    ndarray or None
        One entry for each slot until the work is done.
    """
    counts = np.array((0, *rates.counts))
    speeds = np.array((0.0, *rates.per_s))
    for share in rates.counts:
        place = np.searchsorted(counts, np.minimum(share, free), side="right") - 1
        done = np.cumsum(speeds[place] * widths)
        if len(done) and done[-1] >= work:
            slots = int(np.searchsorted(done, work)) + 1
            return counts[place[:slots]]
    return None
