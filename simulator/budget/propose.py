"""The answer to a budget: a model with its tokens, shape and plan, and what other laws say."""

from __future__ import annotations

from collections.abc import Iterator
from math import inf

from ridgeline.errors import InfeasibleError
from ridgeline.simulator.budget.candidate import GUESSED_MFU, Candidate, Workshop
from ridgeline.simulator.budget.choose import (
    Choice,
    Weighed,
    choose,
    counted,
    has_loss,
    loss_of,
    optimal_of,
)
from ridgeline.simulator.budget.question import DATA_LAW, BudgetQuestion
from ridgeline.simulator.budget.results import (
    Assumed,
    BatchAdvice,
    Opinion,
    Proposal,
    Weighing,
    shape_of,
)
from ridgeline.simulator.results import TrainingResult
from ridgeline.workloads.scaling.allocation import FLOPS_PER_PARAM_TOKEN, AllocationLaw
from ridgeline.workloads.scaling.batch import REGIMES
from ridgeline.workloads.scaling.bundle import load_bundle
from ridgeline.workloads.scaling.laws import DEFAULT_LAW, WHY_DEFAULT, load_law

ASSUMED_MFUS = (1.0, GUESSED_MFU)
"""Utilisations that people assume: the data sheet's, and a usual one."""


def propose(question: BudgetQuestion) -> Proposal:
    """Propose what to train.

    Raises
    ------
    InfeasibleError
        When nothing can be trained within the money and the time.
    InputError
        When a price is needed and none is known.
    """
    workshop = Workshop(question)
    choice = choose(workshop, question.law)
    best = choice.best.candidate
    result = best.result()
    law = load_law(question.law)
    few = best.tokens * result.step_time_s / result.step_time_high_s
    many = best.tokens * result.step_time_s / result.step_time_low_s
    return Proposal(
        law=question.law,
        law_title=law.bundle.title,
        why_law=_why(question),
        cluster=best.cluster.name,
        accelerators=best.cluster.count,
        stack=question.stack,
        budget_usd=question.budget_usd,
        deadline_s=question.deadline_s,
        shape=shape_of(best.model),
        tokens=best.tokens,
        tokens_low=few,
        tokens_high=many,
        tokens_per_param=best.tokens / best.params,
        epochs=best.tokens / question.unique_tokens if question.unique_tokens < inf else 0.0,
        loss=choice.best.loss,
        loss_low=_loss(law, best, many, question.unique_tokens),
        loss_high=_loss(law, best, few, question.unique_tokens),
        batch=_advice(best, question.seq_len),
        result=result,
        serving=best.serving,
        served_tokens=0.0 if question.serving is None else question.serving.tokens,
        total_usd=result.cost_usd + (0.0 if best.serving is None else best.serving.usd),
        training_seconds_allowed=workshop.seconds(best.model, best.cluster),
        assumed=tuple(_assumed(workshop, best, law)),
        opinions=tuple(_opinions(workshop, choice)),
        weighed=tuple(_weighing(one) for one in choice.weighed),
        ruled_out=choice.ruled_out,
        searches=workshop.searches,
        notes=_notes(question, best, law),
        warnings=_warnings(question, best, law, result),
    )


def _loss(law: AllocationLaw, best: Candidate, tokens: float, unique: float) -> float | None:
    return loss_of(law, counted(law, best.model), tokens, unique) if has_loss(law) else None


def _why(question: BudgetQuestion) -> str:
    if question.law == DEFAULT_LAW:
        return WHY_DEFAULT
    if question.law == DATA_LAW and question.unique_tokens < inf:
        return "of the laws here only it knows what a repeated token is worth"
    return "asked for"


def _advice(best: Candidate, seq_len: int) -> BatchAdvice:
    batch, trade = best.batch, best.batch.trade
    return BatchAdvice(
        sequences=batch.sequences,
        tokens=batch.tokens,
        best_tokens=batch.best_tokens,
        critical_tokens=batch.critical_tokens,
        useful_dp=int(batch.critical_tokens // seq_len),
        regime=trade.regime,
        steps_over_least=trade.steps_over_least,
        tokens_over_least=trade.tokens_over_least,
    )


def _opinions(workshop: Workshop, choice: Choice) -> Iterator[Opinion]:
    """Ask every compared law for its own choice, on the cluster that was chosen."""
    question = workshop.question
    best = choice.best.candidate
    unique = question.unique_tokens
    for name in dict.fromkeys((question.law, *question.compared_laws)):
        law = load_law(name)
        try:
            found = best if name == question.law else _own(workshop, name, best)
        except InfeasibleError:
            continue  # even the smallest shape is larger than this law would have it
        size = counted(law, found.model)
        flops = FLOPS_PER_PARAM_TOKEN * size * found.tokens
        loss = loss_of_proposal = None
        if has_loss(law):
            loss = loss_of(law, size, found.tokens, unique)
            loss_of_proposal = loss_of(law, counted(law, best.model), best.tokens, unique)
        yield Opinion(
            law=name,
            title=law.bundle.title,
            shape=shape_of(found.model),
            params=found.params,
            tokens=found.tokens,
            tokens_per_param=found.tokens / found.params,
            mfu=found.mfu,
            exact_params=optimal_of(law, flops, unique).params,
            loss=loss,
            loss_of_proposal=loss_of_proposal,
            beyond=law.bundle.beyond(params=size, tokens=found.tokens, flops=found.flops),
            marks=law.bundle.marks(*law.used()),
        )


def _own(workshop: Workshop, law: str, best: Candidate) -> Candidate:
    return choose(workshop, law, best.cluster).best.candidate


def _weighing(one: Weighed) -> Weighing:
    found = one.candidate
    return Weighing(
        shape=found.model.name,
        params=found.params,
        cluster=found.cluster.name,
        mfu=found.mfu,
        step_time_s=found.step_s,
        tokens=found.tokens,
        loss=one.loss,
        serving_usd=0.0 if found.serving is None else found.serving.usd,
    )


def _assumed(workshop: Workshop, best: Candidate, law: AllocationLaw) -> Iterator[Assumed]:
    """Return the size that an assumed utilisation would suggest, and how long it would take."""
    question = workshop.question
    seconds = workshop.seconds(best.model, best.cluster)
    peak = best.cluster.count * best.cluster.accelerator.peak(question.precision)
    reached = best.flops / seconds
    for mfu in ASSUMED_MFUS:
        wanted = optimal_of(law, mfu * peak * seconds, question.unique_tokens)
        yield Assumed(
            mfu=mfu,
            params=wanted.params,
            tokens=wanted.tokens,
            seconds=FLOPS_PER_PARAM_TOKEN * wanted.params * wanted.tokens / reached,
        )


def _notes(question: BudgetQuestion, best: Candidate, law: AllocationLaw) -> tuple[str, ...]:
    step, critical = load_bundle("step-law-2025"), load_bundle("kaplan-2020-batch")
    rule = "given; best by" if question.global_batch_seqs else "by"
    batch = f"batch {rule} Step Law ({step.citation}), critical by Kaplan ({critical.citation})"
    notes = [
        f"law: {law.bundle.title} ({law.bundle.citation})",
        batch,
        f"shape: {best.model.source}",
    ]
    if question.serving is not None:
        notes.append(
            f"serving: full replicas of {question.serving.accelerator.name} at the rates of its "
            "matrix products and no latency promised: a floor"
        )
        notes.extend(question.serving.notes)
    notes.extend(law.bundle.marks(*law.used()))
    return tuple(notes)


def _warnings(
    question: BudgetQuestion, best: Candidate, law: AllocationLaw, result: TrainingResult
) -> tuple[str, ...]:
    beyond = law.bundle.beyond(
        params=counted(law, best.model), tokens=best.tokens, flops=best.flops
    )
    lines = [f"{law.bundle.name} is extrapolated: {', '.join(beyond)}"] if beyond else []
    batch = best.batch
    if batch.trade.regime == REGIMES[2] or batch.tokens > batch.critical_tokens:
        lines.append(
            f"the batch of {batch.tokens:,} tokens is beyond the critical one of "
            f"{batch.critical_tokens:,.0f}: more data parallelism saves no steps"
        )
    if question.unique_tokens < inf and best.tokens > 16 * question.unique_tokens:
        lines.append("beyond 16 epochs the law of repetition was hardly tested")
    return (*lines, *result.warnings)
