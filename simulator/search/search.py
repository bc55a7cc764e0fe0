"""The best plan of a space: every legal plan is counted, bounded, and priced where it must be.

Exact: a candidate is dropped only when a lower bound on its figures, or the figures themselves,
prove that it is neither in the ranking nor on the front (``evaluate``). Finalists are replayed by
the event engine, whose figures are the answer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from math import inf
from pathlib import Path
from time import perf_counter

import numpy as np

from ridgeline.simulator.search.answer import answer, find_best
from ridgeline.simulator.search.backends import Block, evaluate_blocks
from ridgeline.simulator.search.enumerate import enumerate_plans
from ridgeline.simulator.search.evaluate import Evaluator, Kept, Question, join
from ridgeline.simulator.search.heuristic import heuristic_rows
from ridgeline.simulator.search.infeasible import infeasible
from ridgeline.simulator.search.objective import Constraints, Objective
from ridgeline.simulator.search.results import Counts, Found, SearchResult
from ridgeline.simulator.search.space import Candidates, Space
from ridgeline.simulator.search.store import Store, search_key

BLOCK = 4096
"""Plans that a worker takes at a time."""
WORTH_SPREADING = 50_000
"""Fewer plans are done here before workers on this machine have started."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far a search is."""

    seen: int
    total: int
    elapsed_s: float
    best_value: float
    """Infinite while nothing feasible is known."""


def search(
    space: Space,
    *,
    objective: Objective | None = None,
    constraints: Constraints | None = None,
    jobs: int = 1,
    backend: str = "local",
    address: str = "",
    store: Path | None = None,
    resume: bool = False,
    progress: Callable[[Progress], None] | None = None,
    runners_up: int = 10,
) -> SearchResult:
    """Find the plan of least value, the front of time against money, and what came next.

    Parameters
    ----------
    space
        The plans to choose from.
    objective, constraints
        What is minimised (by default time) and what must be kept.
    jobs, backend, address
        Where the work is done (``backends.evaluate_blocks``), unless it is too little to spread
        over processes; the answer does not depend on it.
    store
        SQLite file that takes results as they come (``store``); made if it is not there.
    resume
        Go on from what the store knows of this very search, rather than from the start.
    progress
        Told after each block of plans.
    runners_up
        How many plans behind the best to name.

    Returns
    -------
    SearchResult
        After an interrupt (Ctrl-C) the best so far, with ``complete`` false.

    Raises
    ------
    InputError
        The space, an option or the store cannot be used.
    InfeasibleError
        No plan keeps to memory and constraints; says what binds and what would be enough.
    """
    started = perf_counter()
    question = Question(
        space=space,
        objective=objective or Objective(),
        constraints=constraints or Constraints(),
        runners_up=runners_up,
    )
    candidates = enumerate_plans(space)
    evaluator = Evaluator(question)
    done = _Done(evaluator, len(candidates), started, progress)
    rule = done.start(candidates)
    with _store_of(question, store, resume) as file:
        if file is not None:
            for outcome in file.read(candidates):
                done.add(*outcome)
        resumed = done.counts.seen
        if backend == "local" and len(candidates) - resumed < WORTH_SPREADING:
            jobs = 1
        blocks = _blocks(candidates, skip=frozenset(done.firsts))
        outcomes = evaluate_blocks(
            question, blocks, lambda: done.known, jobs=jobs, backend=backend, address=address
        )
        complete = True
        try:
            for first, kept, counts in outcomes:
                if file is not None:
                    names = [space.clusters[i].name for i in kept.candidates.cluster.tolist()]
                    file.write(first, kept, counts, names)
                done.add(first, kept, counts)
        except KeyboardInterrupt:
            complete = False
    pool = evaluator.shortlist(join(done.pool), done.known)
    if not complete:  # what a rule of thumb picked may lie in a block that was never reached
        unseen = rule.take(~np.isin(rule.order, pool.order))
        pool = join([pool, evaluator.shortlist(unseen, done.known)])
    found = answer(evaluator, candidates, pool, rule)
    if found is None:
        if not complete:
            raise KeyboardInterrupt
        raise infeasible(evaluator, candidates, _best_of)
    return SearchResult(
        best=found.best,
        front=found.front,
        runners_up=found.runners_up,
        too_large=found.too_large,
        heuristic=found.heuristic,
        sensitivity=found.sensitivity,
        counts=done.counts.plus(Counts(seen=0, played=found.played)),
        complete=complete,
        elapsed_s=perf_counter() - started,
        resumed=resumed,
    )


def _best_of(question: Question) -> Found | None:
    """Return the best plan alone, None when nothing is feasible."""
    evaluator = Evaluator(question)
    candidates = enumerate_plans(question.space)
    done = _Done(evaluator, len(candidates), 0.0, None)
    done.start(candidates)
    for first, part, order in _blocks(candidates):
        done.add(first, *evaluator.evaluate(part, order, done.known))
    return find_best(evaluator, evaluator.shortlist(join(done.pool), done.known))


class _Done:
    """What the blocks so far have left."""

    def __init__(
        self,
        evaluator: Evaluator,
        total: int,
        started: float,
        progress: Callable[[Progress], None] | None,
    ) -> None:
        self._evaluator = evaluator
        self._total = total
        self._started = started
        self._progress = progress
        self.known = evaluator.nothing()
        self.pool: list[Kept] = []
        self.counts = Counts(seen=0)
        self.firsts: set[int] = set()

    def start(self, candidates: Candidates) -> Kept:
        """Price what a rule of thumb picks, so that the bounds have something to beat."""
        evaluator = self._evaluator
        rows = heuristic_rows(evaluator.question.space, candidates, evaluator.fits)
        rule = evaluator.price(candidates.take(rows), rows.astype(np.int64))
        self.known = evaluator.learn(self.known, rule)
        return rule

    def add(self, first: int, kept: Kept, counts: Counts) -> None:
        """Take in a block."""
        self.firsts.add(first)
        self.counts = self.counts.plus(counts)
        self.known = self._evaluator.learn(self.known, kept)
        self.pool.append(self._evaluator.shortlist(kept, self.known))
        if self._progress is not None:
            best = float(self.known.value[0]) if len(self.known.value) else inf
            self._progress(
                Progress(
                    seen=self.counts.seen,
                    total=self._total,
                    elapsed_s=perf_counter() - self._started,
                    best_value=best,
                )
            )


@contextmanager
def _store_of(question: Question, path: Path | None, resume: bool) -> Iterator[Store | None]:
    if path is None:
        yield None
        return
    with closing(Store(path, search_key(question, BLOCK))) as store:
        if not resume:
            store.forget()
        yield store


def _blocks(candidates: Candidates, skip: frozenset[int] = frozenset()) -> Iterator[Block]:
    total = len(candidates)
    for first in range(0, total, BLOCK):
        if first not in skip:
            order = np.arange(first, min(first + BLOCK, total), dtype=np.int64)
            yield first, candidates.take(order), order
