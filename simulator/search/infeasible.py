"""Why nothing of a space is feasible, and the smallest change that opens it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from math import inf

import numpy as np

from ridgeline.errors import InfeasibleError
from ridgeline.simulator import legality
from ridgeline.simulator.plan import Plan
from ridgeline.simulator.search.evaluate import Evaluator, Question
from ridgeline.simulator.search.objective import Constraints, Objective
from ridgeline.simulator.search.results import Found
from ridgeline.simulator.search.space import Candidates, Space, plan_at

GIB = 2.0**30

BestOf = Callable[[Question], Found | None]


def infeasible(evaluator: Evaluator, candidates: Candidates, best_of: BestOf) -> InfeasibleError:
    """Return the error that says what binds and what would be enough.

    Parameters
    ----------
    evaluator
        Of the question that has no answer.
    candidates
        All legal plans of its space.
    best_of
        Answers other questions, None where nothing is feasible either.
    """
    space, ledger = evaluator.question.space, evaluator.ledger
    if not len(candidates):
        return InfeasibleError(f"no legal plan in the space: {_first_problem(space)}")
    allowed = candidates.take(ledger.allowed()[candidates.cluster])
    if not len(allowed):
        return InfeasibleError(_no_cluster(evaluator, candidates))
    memory = evaluator.memory(allowed)
    over = memory / ledger.memory_bytes[allowed.cluster]
    if not (over <= 1.0).any():
        return InfeasibleError(_no_memory(evaluator, allowed, memory, int(np.argmin(over))))
    ways = sorted(_relaxations(evaluator.question, best_of))
    if not ways:
        return InfeasibleError("no plan keeps to all constraints, even with any one of them lifted")
    return InfeasibleError(
        "no plan keeps to all constraints; smallest change that would do: "
        + ", or ".join(text for _, text in ways)
    )


def _first_problem(space: Space) -> str:
    """Say what is wrong with the plainest plan, or with the least of the ways asked for."""
    cluster = space.clusters[0]
    plan = Plan(
        model=space.model,
        cluster=cluster,
        parallel=replace(space.parallel, dp=cluster.count),
        training=replace(space.training, micro_batch_seqs=1),
        stack=space.stack,
        run=space.run,
        money=space.money,
    )
    tp, pp, cp = (min(ways, default=1) for ways in (space.tp, space.pp, space.cp))
    stage = min(space.zero_stage, default=0)
    ways = replace(
        plan.parallel,
        tp=tp,
        pp=pp,
        cp=cp,
        dp=max(1, cluster.count // (tp * pp * cp)),
        zero_stage=stage,
    )
    wrong = legality.problems(plan) or legality.problems(replace(plan, parallel=ways))
    return wrong[0] if wrong else "the values asked for do not go together"


def _no_cluster(evaluator: Evaluator, candidates: Candidates) -> str:
    limits, ledger = evaluator.question.constraints, evaluator.ledger
    used = np.unique(candidates.cluster)
    least, power = ledger.count[used].min(), ledger.power_w[used].min()
    lines = []
    if least > limits.max_accelerators:
        lines.append(f"max accelerators {limits.max_accelerators:,.0f}: the space begins at ")
        lines[-1] += f"{least:,.0f}"
    if power > limits.power_w:
        lines.append(f"power {limits.power_w / 1e3:,.1f} kW: the space begins at ")
        lines[-1] += f"{power / 1e3:,.1f} kW"
    return "no plan is feasible: " + (
        "; ".join(lines) or "no cluster keeps to both max accelerators and power"
    )


def _no_memory(
    evaluator: Evaluator,
    allowed: Candidates,
    memory: np.ndarray[tuple[int], np.dtype[np.float64]],
    leanest: int,
) -> str:
    plan = plan_at(evaluator.question.space, allowed, leanest)
    need, has = memory[leanest] / GIB, plan.cluster.accelerator.memory_bytes / GIB
    limit = evaluator.ledger.memory_bytes[allowed.cluster[leanest]] / GIB
    p = plan.parallel
    split = f"tp {p.tp}, pp {p.pp}, dp {p.dp}, zero {p.zero_stage}, {plan.training.recompute}"
    text = (
        f"memory: no plan fits; the leanest ({split} recompute on {plan.cluster.name}) needs "
        f"{need:,.1f} GiB an accelerator and may take {limit:,.1f}"
    )
    if need <= has:
        return f"{text}; a memory headroom of {100 * (1 - need / has):.1f}% or less opens the space"
    return f"{text}; {need / has:.2f} times the memory, or more accelerators, would open the space"


def _relaxations(question: Question, best_of: BestOf) -> Iterator[tuple[float, str]]:
    """Yield how far each constraint must move by itself, as a share of it, and what to say."""
    limits = question.constraints
    if limits.budget_usd < inf:
        found = _ask(question, best_of, Objective(cost=1.0), replace(limits, budget_usd=inf))
        if found is not None:
            usd = found.result.cost_usd
            yield usd / limits.budget_usd, f"a budget of ${usd:,.0f} (not {limits.budget_usd:,.0f})"
    if limits.deadline_s < inf:
        found = _ask(question, best_of, Objective(time=1.0), replace(limits, deadline_s=inf))
        if found is not None:
            days, asked = found.result.wall_clock_s / 86400.0, limits.deadline_s / 86400.0
            yield days / asked, f"a deadline of {days:,.2f} days (not {asked:,.2f})"
    counts = sorted({c.count for c in question.space.clusters if c.count > limits.max_accelerators})
    for count in counts:
        found = _ask(question, best_of, question.objective, replace(limits, max_accelerators=count))
        if found is not None:
            text = f"{count:,} accelerators (not {limits.max_accelerators:,.0f})"
            yield count / limits.max_accelerators, text
            break
    if limits.budget_usd < inf and limits.deadline_s < inf:
        free = replace(limits, budget_usd=inf, deadline_s=inf)
        cheap = _ask(question, best_of, Objective(cost=1.0), free)
        if cheap is not None and cheap.result.cost_usd > limits.budget_usd:
            usd, days = cheap.result.cost_usd, cheap.result.wall_clock_s / 86400.0
            if cheap.result.wall_clock_s > limits.deadline_s:
                far = max(usd / limits.budget_usd, days * 86400.0 / limits.deadline_s)
                yield far, f"both ${usd:,.0f} and {days:,.2f} days"


def _ask(
    question: Question, best_of: BestOf, objective: Objective, constraints: Constraints
) -> Found | None:
    return best_of(replace(question, objective=objective, constraints=constraints, runners_up=0))
