"""One block of candidates through the bounds: what may still be an answer, priced exactly."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import inf

import numpy as np
from numpy.typing import NDArray

from ridgeline.simulator.memory import memory_facts, stage_memory
from ridgeline.simulator.schedule import make_schedule
from ridgeline.simulator.search.enumerate import concatenate
from ridgeline.simulator.search.memory import memory_lower_bound, worst_memory_bytes
from ridgeline.simulator.search.objective import Constraints, Figures, Ledger, Objective
from ridgeline.simulator.search.pricing import Pricer
from ridgeline.simulator.search.results import Counts
from ridgeline.simulator.search.space import Candidates, Space, plan_at
from ridgeline.simulator.stacks import load_stack
from ridgeline.simulator.step import schedule_kind, simulate_step

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]
Places = NDArray[np.int64]

SAME = 1e-9
"""Closed form and engine agree within this share; nothing is dropped that is so close."""
RANKED = 64
"""Plans that a search ranks; beyond those it names they are there to answer a change."""
CHUNK = 1024
"""Candidates that are priced before the next look at what is known by then."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """Everything that the answer of a search depends on."""

    space: Space
    objective: Objective
    constraints: Constraints
    runners_up: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """Priced candidates that may still be among the answers."""

    candidates: Candidates
    order: Places
    """int64[n], their places in the space."""
    step_s: Floats
    """float64[n]."""

    def __len__(self) -> int:
        return len(self.order)

    def take(self, rows: NDArray[np.intp] | Mask) -> Kept:
        """Return some of them."""
        return Kept(
            candidates=self.candidates.take(rows), order=self.order[rows], step_s=self.step_s[rows]
        )


def join(parts: list[Kept]) -> Kept:
    """Put kept candidates together, in the order of the space."""
    order = np.concatenate([np.zeros(0, np.int64), *(part.order for part in parts)])
    joined = Kept(
        candidates=concatenate([part.candidates for part in parts]),
        order=order,
        step_s=np.concatenate([np.zeros(0), *(part.step_s for part in parts)]),
    )
    return joined.take(np.argsort(order, kind="stable"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Incumbent:
    """What is known to be reachable: a candidate that is worse in every way is dropped."""

    places: int
    """Of the ranking: the best and its runners-up."""
    order: Places = field(default_factory=lambda: np.zeros(0, np.int64))
    """int64[<= places], the best known plans."""
    value: Floats = field(default_factory=lambda: np.zeros(0))
    """Theirs, ascending."""
    wall_s: Floats = field(default_factory=lambda: np.zeros(0))
    """Times of the known front, ascending."""
    money: Floats = field(default_factory=lambda: np.zeros(0))
    """Theirs, descending."""

    @property
    def last_value(self) -> float:
        """Of the last place of the ranking, infinite while one is free."""
        return float(self.value[-1]) if len(self.value) == self.places else inf

    def beats(self, figures: Figures, money: Floats) -> Mask:
        """Whether a plan with figures no better than these is out, bool[n]."""
        worse: Mask = figures.value > self.last_value * (1.0 + SAME)
        faster = np.searchsorted(self.wall_s, figures.wall_s * (1.0 - SAME), side="left")
        cheapest = np.concatenate([[inf], self.money])[faster]
        return worse & (cheapest < money * (1.0 - SAME))

    def with_plans(self, order: Places, figures: Figures, money: Floats) -> Incumbent:
        """Return what is known when these plans are reachable, too."""
        all_order = np.concatenate([self.order, order])
        all_value = np.concatenate([self.value, figures.value])
        # one plan may come twice and must not take two places
        _, first = np.unique(all_order, return_index=True)
        best = first[np.lexsort((all_order[first], all_value[first]))][: self.places]
        wall = np.concatenate([self.wall_s, figures.wall_s])
        cost = np.concatenate([self.money, money])
        by_time = np.lexsort((cost, wall))
        wall, cost = wall[by_time], cost[by_time]
        lowest = np.minimum.accumulate(cost)
        step = np.ones(len(cost), np.bool_)
        step[1:] = cost[1:] < lowest[:-1]
        return Incumbent(
            places=self.places,
            order=all_order[best],
            value=all_value[best],
            wall_s=wall[step],
            money=cost[step],
        )


class Evaluator:
    """Takes the blocks of one question; keeps what it learns of the space for the next block."""

    def __init__(self, question: Question) -> None:
        space = question.space
        self.question = question
        self.ledger = Ledger(space, question.objective, question.constraints)
        self._allowed = self.ledger.allowed()
        self._pricer = Pricer(space)
        self._stack = load_stack(space.stack)
        self._memory_facts = memory_facts(self._stack)

    def nothing(self, places: int = 0) -> Incumbent:
        """Return what is known before anything is priced, of a ranking of so many places."""
        return Incumbent(places=places or max(RANKED, 1 + self.question.runners_up))

    def fits(self, candidates: Candidates) -> Mask:
        """Whether candidates keep to the memory that they may take, bool[n]."""
        fit: Mask = self.memory(candidates) <= self.ledger.memory_bytes[candidates.cluster]
        return fit

    def price(self, candidates: Candidates, order: Places) -> Kept:
        """Return candidates with their step times."""
        return Kept(candidates=candidates, order=order, step_s=self.step_seconds(candidates))

    def evaluate(
        self, candidates: Candidates, order: Places, known: Incumbent
    ) -> tuple[Kept, Counts]:
        """Return what of a block may still be an answer, and what became of the rest.

        Parameters
        ----------
        candidates, order
            The block, and the places of its candidates in the space.
        known
            What is known by now; it saves work and changes no answer.
        """
        seen = len(candidates)
        ended = {"priced": 0, "played": 0}

        def keep(mask: Mask, end: str) -> None:
            nonlocal candidates, order
            ended[end] = int((~mask).sum())
            candidates, order = candidates.take(mask), order[mask]

        space, limits = self.question.space, self.ledger.memory_bytes
        keep(self._allowed[candidates.cluster], "constraint")
        keep(memory_lower_bound(space, candidates) <= limits[candidates.cluster], "memory_bound")
        keep(self.fits(candidates), "memory")
        bounds, money = self._bounds(candidates, self._pricer.roofline_bound(candidates))
        keep(self.ledger.within(bounds, SAME) & ~known.beats(bounds, money), "roofline_bound")
        bounds, money = self._bounds(candidates, self._pricer.lower_bound(candidates))
        hopeful = self.ledger.within(bounds, SAME)
        kept: list[Kept] = []
        for rows in _chunks(np.argsort(bounds.value, kind="stable")):
            rest = rows[hopeful[rows] & ~known.beats(bounds.take(rows), money[rows])]
            if not len(rest):
                continue
            step_s = self._pricer.step_seconds(candidates.take(rest))
            irregular = np.isnan(step_s)
            # playing is dear: one at a time, after another look at what is known by then
            for at in (np.flatnonzero(~irregular), *np.flatnonzero(irregular)[:, None]):
                group, seconds = rest[at], step_s[at]
                if np.isnan(seconds).any():
                    if known.beats(bounds.take(group), money[group]).all():
                        continue
                    seconds = np.array([self._played(candidates, int(group[0]))])
                    ended["played"] += 1
                priced = Kept(candidates=candidates.take(group), order=order[group], step_s=seconds)
                ended["priced"] += len(priced)
                known = self.learn(known, priced)
                kept.append(self.shortlist(priced, known))
        ended["time_bound"] = len(candidates) - ended["priced"]
        return self.shortlist(join(kept), known), Counts(seen=seen, **ended)

    def _bounds(self, candidates: Candidates, step_s: Floats) -> tuple[Figures, Floats]:
        """Return figures and money that no candidate is under, given such step times."""
        figures = self.ledger.figures(candidates, step_s, bound=True)
        return figures, self.ledger.money(candidates, figures)

    def memory(self, candidates: Candidates) -> Floats:
        """Return the bytes of the fullest stage of each candidate, float64[n]."""
        memory = worst_memory_bytes(self.question.space, candidates)
        for row in np.flatnonzero(np.isnan(memory)).tolist():
            plan = plan_at(self.question.space, candidates, row)
            p = plan.parallel
            schedule = make_schedule(schedule_kind(plan), p.pp, p.vpp, plan.micro_batches)
            shares = stage_memory(plan, schedule, self._memory_facts)
            memory[row] = max(share.total for share in shares)
        return memory

    def step_seconds(self, candidates: Candidates) -> Floats:
        """Return the step time of each candidate, float64[n], played where there is no formula."""
        seconds = self._pricer.step_seconds(candidates)
        for row in np.flatnonzero(np.isnan(seconds)).tolist():
            seconds[row] = self._played(candidates, row)
        return seconds

    def _played(self, candidates: Candidates, row: int) -> float:
        return simulate_step(plan_at(self.question.space, candidates, row), self._stack).seconds

    def learn(self, known: Incumbent, priced: Kept) -> Incumbent:
        """Return what is known with these candidates priced."""
        figures = self.ledger.figures(priced.candidates, priced.step_s)
        sure = self.ledger.within(figures, -SAME)
        if not sure.any():
            return known
        priced = priced.take(sure)
        figures = self.ledger.figures(priced.candidates, priced.step_s)
        return known.with_plans(
            priced.order, figures, self.ledger.money(priced.candidates, figures)
        )

    def shortlist(self, priced: Kept, known: Incumbent) -> Kept:
        """Return the priced candidates that what is known leaves among the answers."""
        figures = self.ledger.figures(priced.candidates, priced.step_s)
        money = self.ledger.money(priced.candidates, figures)
        return priced.take(self.ledger.within(figures, SAME) & ~known.beats(figures, money))


def _chunks(rows: NDArray[np.intp]) -> list[NDArray[np.intp]]:
    return [rows[start : start + CHUNK] for start in range(0, len(rows), CHUNK)]
