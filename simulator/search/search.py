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

from ridgeline.errors import InfeasibleError
from ridgeline.simulator.search.backends import Block, evaluate_blocks
from ridgeline.simulator.search.enumerate import enumerate_plans
from ridgeline.simulator.search.evaluate import Evaluator, Kept, Question, join
from ridgeline.simulator.search.front import pareto_front
from ridgeline.simulator.search.objective import Constraints, Objective
from ridgeline.simulator.search.results import Counts, Found, RunnerUp, SearchResult
from ridgeline.simulator.search.space import Candidates, Space, plan_at
from ridgeline.simulator.search.store import Store, search_key
from ridgeline.simulator.training import simulate_training

BLOCK = 4096
"""Plans that a worker takes at a time."""


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
    """Find the plan of least value, the front of time against money, and what came next."""
    started = perf_counter()
    question = Question(
        space=space,
        objective=objective or Objective(),
        constraints=constraints or Constraints(),
        runners_up=runners_up,
    )
    evaluator = Evaluator(question)
    candidates = enumerate_plans(space)
    done = _Done(evaluator, len(candidates), started, progress)
    with _store_of(question, store, resume) as file:
        if file is not None:
            for outcome in file.read(candidates):
                done.add(*outcome)
        resumed = done.counts.seen
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
    return _answer(evaluator, done, started, complete=complete, resumed=resumed)


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


def _blocks(candidates: Candidates, skip: frozenset[int]) -> Iterator[Block]:
    total = len(candidates)
    for first in range(0, total, BLOCK):
        if first not in skip:
            order = np.arange(first, min(first + BLOCK, total), dtype=np.int64)
            yield first, candidates.take(order), order


def _answer(
    evaluator: Evaluator, done: _Done, started: float, *, complete: bool, resumed: int
) -> SearchResult:
    question = evaluator.question
    pool = evaluator.shortlist(join(done.pool), done.known)
    played = [_play(question, pool, row) for row in range(len(pool))]
    feasible = [one for one in played if question.constraints.met_by(one.result)]
    if not feasible:
        raise InfeasibleError("no plan of the space is feasible")
    ranked = sorted(feasible, key=lambda one: (one.value, one.order))
    best = ranked[0]
    return SearchResult(
        best=best,
        front=pareto_front(feasible, priced=evaluator.ledger.priced),
        runners_up=tuple(
            RunnerUp(found=one, behind=one.value / best.value - 1.0, reasons=())
            for one in ranked[1 : 1 + question.runners_up]
        ),
        heuristic=None,
        sensitivity=(),
        counts=done.counts.plus(Counts(seen=0, played=len(played))),
        complete=complete,
        resumed=resumed,
        elapsed_s=perf_counter() - started,
    )


def _play(question: Question, pool: Kept, row: int) -> Found:
    plan = plan_at(question.space, pool.candidates, row)
    result = simulate_training(plan)
    return Found(
        plan=plan,
        result=result,
        value=question.objective.of_result(result),
        order=int(pool.order[row]),
    )
