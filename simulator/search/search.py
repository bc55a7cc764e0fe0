"""The best plan of a space: every legal plan is counted, bounded, and priced where it must be.

Exact: a candidate is dropped only when a lower bound on its figures, or the figures themselves,
prove that it is neither in the ranking nor on the front (``evaluate``). Finalists are replayed by
the event engine, whose figures are the answer.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

import numpy as np

from ridgeline.errors import InfeasibleError
from ridgeline.simulator.search.enumerate import enumerate_plans
from ridgeline.simulator.search.evaluate import SAME, Evaluator, Incumbent, Kept, Question, join
from ridgeline.simulator.search.objective import Constraints, Objective
from ridgeline.simulator.search.results import Counts, Found, FrontPoint, RunnerUp, SearchResult
from ridgeline.simulator.search.space import Space, plan_at
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
    total = len(candidates)
    known, pool, counts = evaluator.nothing(), [], Counts(seen=0)
    for first in range(0, total, BLOCK):
        order = np.arange(first, min(first + BLOCK, total), dtype=np.int64)
        kept, ended = evaluator.evaluate(candidates.take(order), order, known)
        pool.append(kept)
        counts = counts.plus(ended)
        known = evaluator.learn(known, kept)
        if progress is not None:
            best = float(known.value[0]) if len(known.value) else np.inf
            progress(
                Progress(
                    seen=counts.seen,
                    total=total,
                    elapsed_s=perf_counter() - started,
                    best_value=best,
                )
            )
    return _answer(evaluator, join(pool), known, counts, started)


def _answer(
    evaluator: Evaluator, pool: Kept, known: Incumbent, counts: Counts, started: float
) -> SearchResult:
    question = evaluator.question
    pool = evaluator.shortlist(pool, known)
    played = [_play(question, pool, row) for row in range(len(pool))]
    feasible = [one for one in played if question.constraints.met_by(one.result)]
    if not feasible:
        raise InfeasibleError("no plan of the space is feasible")
    ranked = sorted(feasible, key=lambda one: (one.value, one.order))
    best = ranked[0]
    front: list[FrontPoint] = []
    priced = evaluator.ledger.priced
    for one in sorted(feasible, key=lambda one: (*_axes(one, priced), one.order)):
        if not front or _axes(one, priced)[1] < front_money:
            front_money = _axes(one, priced)[1]
            front.append(
                FrontPoint(
                    plan=one.plan,
                    time_s=one.result.wall_clock_s,
                    usd=one.result.cost_usd,
                    result=one.result,
                    order=one.order,
                )
            )
    return SearchResult(
        best=best,
        front=tuple(front),
        runners_up=tuple(
            RunnerUp(found=one, behind=one.value / best.value - 1.0, reasons=())
            for one in ranked[1 : 1 + question.runners_up]
        ),
        heuristic=None,
        sensitivity=(),
        counts=counts.plus(Counts(seen=0, played=len(played))),
        elapsed_s=perf_counter() - started,
    )


def _axes(one: Found, priced: bool) -> tuple[float, float]:
    result = one.result
    return result.wall_clock_s, result.cost_usd if priced else result.accelerator_hours


def _play(question: Question, pool: Kept, row: int) -> Found:
    plan = plan_at(question.space, pool.candidates, row)
    result = simulate_training(plan)
    return Found(
        plan=plan,
        result=result,
        value=question.objective.of_result(result),
        order=int(pool.order[row]),
    )
