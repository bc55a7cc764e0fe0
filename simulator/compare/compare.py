"""The same job on each accelerator with its own best plan, ranked as surely as errors allow."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import combinations
from math import inf

from ridgeline.errors import InfeasibleError, InputError
from ridgeline.hardware import load_accelerator
from ridgeline.hardware.accelerator import Accelerator
from ridgeline.hardware.ownership import (
    break_even_month,
    break_even_utilisation,
    cash_flow,
    default_ownership,
    with_given,
)
from ridgeline.hardware.prices import NoQuoteError, Price
from ridgeline.simulator.compare.errors import Shares, Spread, shipped_shares, spread_of
from ridgeline.simulator.compare.odds import odds, tie_price
from ridgeline.simulator.compare.question import (
    CompareQuestion,
    Contender,
    clusters_of,
    stack_of,
)
from ridgeline.simulator.compare.records import Comparison, Owning, Pairing, Row
from ridgeline.simulator.cost import price_of
from ridgeline.simulator.plan import Money
from ridgeline.simulator.results import TrainingResult
from ridgeline.simulator.search.objective import Constraints, Objective
from ridgeline.simulator.search.search import search
from ridgeline.simulator.search.space import Space, usual_space

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Priced:
    """A row with what its ranking needs."""

    row: Row
    spread: Spread
    seconds: float
    usd: float
    """0 where no price is known."""


def compare(
    question: CompareQuestion,
    *,
    jobs: int = 1,
    say: Say | None = None,
    shares: Shares | None = None,
) -> Comparison:
    """Find the best plan of each contender and rank them.

    Parameters
    ----------
    question
        The job and the contenders.
    jobs
        Workers of each search; the answer is the same on any number.
    say
        Told the name of each contender before its search.
    shares
        What errors have in common; by default as validation found.

    Returns
    -------
    Comparison
        A contender that cannot run the job is a row with the reason.

    Raises
    ------
    InputError
        For a default of owning that is replaced by what cannot be.
    """
    _check_owning(question)
    common = shares or shipped_shares()
    done: list[_Priced] = []
    failed: list[Row] = []
    for contender in question.contenders:
        if say is not None:
            say(contender.label)
        try:
            done.append(_best(question, contender, jobs))
        except (InputError, InfeasibleError) as error:
            failed.append(
                Row(
                    name=contender.label,
                    accelerator=contender.accelerator,
                    stack=_stack(question, contender),
                    reason=str(error).replace("\n", "; "),
                )
            )
    by = question.by
    warnings = list(_kind_warnings(done))
    unpriced = ", ".join(one.row.name for one in done if not one.usd)
    if by == "cost" and unpriced:
        warnings.append(f"no price is known of {unpriced}, which stands last; give one (--prices)")
    if by == "cost":
        done.sort(key=lambda one: (one.usd == 0.0, one.usd, one.seconds))
    else:
        done.sort(key=lambda one: one.seconds)
    ties = _ties([one for one in done if one.usd])
    rows = [replace(one.row, tie_usd_per_hour=ties.get(one.row.name)) for one in done]
    return Comparison(
        model=question.model.name,
        by=by,
        rows=(*rows, *failed),
        pairings=(*_pairings(done, "cost", common), *_pairings(done, "time", common)),
        shares=common,
        warnings=tuple(warnings),
    )


def _check_owning(question: CompareQuestion) -> None:
    """Refuse what is wrong with every row before the first is searched."""
    for contender in question.contenders:
        try:
            fleet = default_ownership(load_accelerator(contender.accelerator), 1)
        except NoQuoteError:
            continue
        with_given(*fleet, dict(question.owning))


def _stack(question: CompareQuestion, contender: Contender) -> str:
    return stack_of(load_accelerator(contender.accelerator), question.stack)


def _space(question: CompareQuestion, contender: Contender) -> Space:
    profile = load_accelerator(contender.accelerator)
    stack = _stack(question, contender)
    space = Space(
        model=question.model,
        clusters=clusters_of(profile, question.count, question.max_count),
        training=question.training,
        stack=stack,
        run=question.run,
        money=replace(question.money, provider=contender.provider),
    )
    return usual_space(space)


def _best(question: CompareQuestion, contender: Contender, jobs: int) -> _Priced:
    space = _space(question, contender)
    profile = space.clusters[0].accelerator
    price = _price(space.money, profile)
    by_cost = question.by == "cost" and price is not None
    found = search(
        space,
        objective=Objective(cost=1.0) if by_cost else Objective(time=1.0),
        constraints=Constraints(
            budget_usd=question.budget_usd,
            deadline_s=question.deadline_s,
            memory_headroom=question.memory_headroom,
        ),
        jobs=jobs,
        runners_up=0,
    )
    result = found.best.result
    owning, owning_reason = _owning(question, profile, result)
    tokens = question.training.tokens or float(
        question.training.global_batch_seqs * question.training.seq_len
    )
    row = Row(
        name=contender.label,
        accelerator=profile.name,
        stack=space.stack,
        result=result,
        plans=found.counts.seen,
        price_kind=price.kind if price else "",
        price_date=price.date if price else "",
        price_provider=price.provider if price else "",
        price_source=price.source if price else "",
        tokens_per_usd=tokens / result.cost_usd if result.cost_usd else None,
        owning=owning,
        owning_reason=owning_reason,
    )
    return _Priced(
        row=row,
        spread=spread_of(
            result.step_time_low_s / result.step_time_s,
            result.step_time_high_s / result.step_time_s,
            stack=result.stack,
            accelerator=profile.name,
            cluster=contender.provider,
            plan=f"{result.cluster} {sorted(result.plan.items())}",
        ),
        seconds=result.wall_clock_s,
        usd=result.cost_usd,
    )


def _price(money: Money, profile: Accelerator) -> Price | None:
    """Return the price, None where nobody quotes the default kind: the rest of the row stands."""
    try:
        return price_of(money, profile)
    except NoQuoteError:
        if money.kind != Money().kind or money.provider:
            raise
        return None


def _owning(
    question: CompareQuestion, profile: Accelerator, result: TrainingResult
) -> tuple[Owning | None, str]:
    money = question.money
    try:
        owning, assumptions = default_ownership(
            profile, result.accelerators, usd_per_kwh=money.usd_per_kwh, pue=money.pue
        )
    except NoQuoteError as error:
        return None, str(error)
    owning, assumptions = with_given(owning, assumptions, dict(question.owning))
    flow = cash_flow(owning)
    rent = result.usd_per_accelerator_hour
    utilisation = break_even_utilisation(owning, rent)
    return Owning(
        usd_per_useful_hour=flow.usd_per_useful_hour,
        job_usd=flow.usd_per_useful_hour * result.accelerator_hours,
        npv_usd=flow.npv_usd,
        break_even_utilisation=utilisation if utilisation < inf else None,
        break_even_month=break_even_month(owning, rent),
        assumptions=assumptions,
        flow=flow,
    ), ""


def _kind_warnings(done: list[_Priced]) -> tuple[str, ...]:
    kinds = sorted({one.row.price_kind for one in done if one.row.price_kind})
    mixed = (f"prices of different kinds are compared: {', '.join(kinds)}",)
    return mixed if len(kinds) > 1 else ()


def _ties(done: list[_Priced]) -> dict[str, float]:
    """Return the price at which each costs as much as the cheapest, the cheapest as the next."""
    ranked = sorted(done, key=lambda one: one.usd)
    if len(ranked) < 2:
        return {}
    found: dict[str, float] = {}
    for place, one in enumerate(ranked):
        assert one.row.result is not None
        other = ranked[1] if place == 0 else ranked[0]
        price = one.row.result.usd_per_accelerator_hour
        found[one.row.name] = tie_price(price, one.usd, other.usd)
    return found


def _pairings(done: list[_Priced], by: str, shares: Shares) -> tuple[Pairing, ...]:
    if by == "cost":
        done = sorted((one for one in done if one.usd), key=lambda one: one.usd)
    else:
        done = sorted(done, key=lambda one: one.seconds)
    pairings: list[Pairing] = []
    for first, second in combinations(done, 2):
        amounts = (first.usd, second.usd) if by == "cost" else (first.seconds, second.seconds)
        found = odds(amounts[0], first.spread, amounts[1], second.spread, shares)
        pairings.append(
            Pairing(
                by=by,
                first=first.row.name,
                second=second.row.name,
                probability=found.smaller,
                ranked=found.ranked,
                correlation=found.correlation,
                regret=found.regret,
                regret_if_wrong=found.regret_if_wrong,
            )
        )
    return tuple(pairings)
