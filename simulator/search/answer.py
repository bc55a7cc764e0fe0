"""From the priced plans that are left to the answer: replay by the engine, ranking, reasons."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ridgeline.simulator.search.evaluate import SAME, Evaluator, Kept, Question
from ridgeline.simulator.search.front import pareto_front
from ridgeline.simulator.search.heuristic import RULE
from ridgeline.simulator.search.reasons import too_large, why_lost
from ridgeline.simulator.search.results import (
    Found,
    FrontPoint,
    Heuristic,
    RunnerUp,
    Sensitivity,
)
from ridgeline.simulator.search.sensitivity import sensitivity
from ridgeline.simulator.search.space import Candidates, plan_at
from ridgeline.simulator.training import simulate_training

UNFIT = 3
"""Plans that memory rules out, to name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a search found."""

    best: Found
    front: tuple[FrontPoint, ...]
    runners_up: tuple[RunnerUp, ...]
    too_large: tuple[RunnerUp, ...]
    heuristic: Heuristic | None
    sensitivity: tuple[Sensitivity, ...]
    played: int


def answer(evaluator: Evaluator, candidates: Candidates, pool: Kept, rule: Kept) -> Answer | None:
    """Return the answer, None when no plan is feasible.

    Parameters
    ----------
    evaluator
        Of the question.
    candidates
        All plans of the space.
    pool
        The priced plans that may be in the ranking or on the front.
    rule
        What the rule of thumb picks on each cluster.
    """
    question, objective = evaluator.question, evaluator.question.objective
    finalists = _finalists(evaluator, pool)
    played = [play(question, finalists, row) for row in range(len(finalists))]
    feasible = [one for one in played if question.constraints.met_by(one.result)]
    if not feasible:
        return None
    ranked = sorted(feasible, key=lambda one: (one.value, one.order))
    best = ranked[0]
    thumb = _heuristic(question, rule, best)
    unfit = _unfit(evaluator, candidates, best)
    return Answer(
        best=best,
        front=pareto_front(feasible, priced=evaluator.ledger.priced),
        runners_up=tuple(
            RunnerUp(
                found=one,
                behind=one.value / best.value - 1.0,
                reasons=why_lost(one, best, objective),
            )
            for one in ranked[1 : 1 + question.runners_up]
        ),
        too_large=unfit,
        heuristic=thumb,
        sensitivity=sensitivity(evaluator, pool, best.order),
        played=len(played) + len(unfit) + (thumb is not None),
    )


def find_best(evaluator: Evaluator, pool: Kept) -> Found | None:
    """Return the best plan alone."""
    question = evaluator.question
    finalists = _finalists(evaluator, pool)
    played = [play(question, finalists, row) for row in range(len(finalists))]
    feasible = [one for one in played if question.constraints.met_by(one.result)]
    return min(feasible, key=lambda one: (one.value, one.order), default=None)


def play(question: Question, plans: Kept, row: int) -> Found:
    """Return one of some plans as the engine sees it."""
    plan = plan_at(question.space, plans.candidates, row)
    result = simulate_training(plan)
    return Found(
        plan=plan,
        result=result,
        value=question.objective.of_result(result),
        order=int(plans.order[row]),
    )


def _finalists(evaluator: Evaluator, pool: Kept) -> Kept:
    """Return those of the pool that may be named: in the ranking or on the front."""
    known = evaluator.learn(evaluator.nothing(1 + evaluator.question.runners_up), pool)
    return evaluator.shortlist(pool, known)


def _heuristic(question: Question, rule: Kept, best: Found) -> Heuristic | None:
    """Return what the rule of thumb picks on the cluster of the best plan."""
    clusters = question.space.clusters
    for row in range(len(rule)):
        if clusters[int(rule.candidates.cluster[row])] == best.plan.cluster:
            found = play(question, rule, row)
            return Heuristic(
                rule=RULE,
                found=found,
                waste=found.value / best.value - 1.0,
                wasted_s=found.result.wall_clock_s - best.result.wall_clock_s,
                wasted_usd=found.result.cost_usd - best.result.cost_usd,
            )
    return None


def _unfit(evaluator: Evaluator, candidates: Candidates, best: Found) -> tuple[RunnerUp, ...]:
    """Return plans one change away from the best that would beat it, had they the memory."""
    question, ledger = evaluator.question, evaluator.ledger
    rows = np.flatnonzero(_changes(candidates, best.order) == 1)
    near = candidates.take(rows)
    large = ~evaluator.fits(near)
    rows, near = rows[large], near.take(large)
    priced = evaluator.price(near, rows.astype(np.int64))
    value = ledger.figures(near, priced.step_s).value
    better = np.flatnonzero(value < best.value * (1.0 - SAME))
    better = better[np.argsort(value[better], kind="stable")][:UNFIT]
    unfit = []
    for row in better.tolist():
        one = play(question, priced, row)
        limit = float(ledger.memory_bytes[near.cluster[row]])
        behind = one.value / best.value - 1.0
        unfit.append(RunnerUp(found=one, behind=behind, reasons=(too_large(one, limit),)))
    return tuple(unfit)


def _changes(candidates: Candidates, row: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """Count in how many ways each plan differs from one: the split of the cluster is one way."""
    ways = (
        ("tp", "pp", "cp", "dp", "sp"),
        ("schedule", "vpp"),
        ("ep", "etp"),
        ("micro_batch_seqs",),
        ("zero_stage",),
        ("recompute",),
        ("offload",),
    )
    differ = np.zeros(len(candidates), np.int64)
    for names in ways:
        other = np.zeros(len(candidates), np.bool_)
        for name in names:
            column = getattr(candidates, name)
            other |= column != column[row]
        differ += other
    differ[candidates.cluster != candidates.cluster[row]] = len(ways)
    return differ
