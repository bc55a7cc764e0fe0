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
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from numpy.typing import NDArray

from ridgeline.simulator.fleet.policies import Policy
from ridgeline.simulator.fleet.state import RUNNING

if TYPE_CHECKING:
    from ridgeline.simulator.fleet.play import Playing
    from ridgeline.simulator.fleet.spec import Rates
    from ridgeline.simulator.fleet.state import PoolState, Run

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

    def _share(self, state: PoolState, runs: list[Run], playing: Playing) -> None:
        runs.sort(key=lambda run: (run.job.deadline_s, run.job.submitted_s, run.index))
        capacity = state.held + state.nodes.total_free
        bound = [run for run in runs if run.job.deadline_s > playing.now]
        bound = [run for run in bound if run.job.deadline_s < inf]
        new = [run for run in bound if run.index not in self._admitted]
        kept = [run for run in bound if run.index in self._admitted]
        shares, _ = self._least(kept, state, capacity, playing)
        for run in sorted(new, key=lambda run: (run.job.submitted_s, run.index)):
            trial = sorted(
                [*kept, run], key=lambda one: (one.job.deadline_s, one.job.submitted_s, one.index)
            )
            found, missed = self._least(trial, state, capacity, playing)
            if missed and self.admit:
                # those that failures have made hopeless do not keep others out
                before = self._least(kept, state, capacity, playing)[1]
                if missed - before:
                    playing.drop(run)
                    runs.remove(run)
                    continue
            kept, shares = trial, found
            self._admitted.add(run.index)
        self._grow(runs, shares, capacity, state.pool.name)
        self._apply(runs, shares, state, playing)

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
        offers: list[tuple[float, int, int, int]] = []

        def offer(order: int) -> None:
            run = runs[order]
            rates, has = run.job.rates[pool], shares.get(run.index, 0)
            place = rates.index(has)
            if place + 1 < len(rates.counts):
                more = rates.counts[place + 1] - has
                before = rates.per_s[place] if place >= 0 else 0.0
                gain = (rates.per_s[place + 1] / before - 1.0) / more if before else inf
                heappush(offers, (-gain, order, run.index, more))

        for order in range(len(runs)):
            offer(order)
        while offers and free > 0:
            _, order, index, more = heappop(offers)
            if more > free:
                continue
            shares[index] = shares.get(index, 0) + more
            free -= more
            offer(order)

    def _apply(
        self, runs: list[Run], shares: dict[int, int], state: PoolState, playing: Playing
    ) -> None:
        """Take from those who get less, then give."""
        pool = state.pool.name
        running = [run for run in runs if run.state == RUNNING]
        for run in running:
            share = shares.get(run.index, 0)
            if not share:
                playing.stop(run)
            elif share < run.accelerators:
                playing.resize(run, share)
        for run in runs:
            rates = run.job.rates[pool]
            share = shares.get(run.index, 0)
            sizes = [count for count in reversed(rates.counts) if count <= share]
            if run in running and run.state == RUNNING:
                for count in sizes:
                    if count <= run.accelerators:
                        break
                    room = state.nodes.total_free + run.accelerators
                    if count <= room and playing.resize(run, count):
                        break
            elif share:
                for count in sizes:
                    if playing.start(run, pool, count):
                        break


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
