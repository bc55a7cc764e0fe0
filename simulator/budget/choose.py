"""The shape to train: the least loss a law promises, or the size that a law's split asks for."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf, log
from typing import TypeGuard

from ridgeline.errors import InfeasibleError
from ridgeline.hardware.cluster import Cluster
from ridgeline.simulator.budget.candidate import GUESSED_MFU, Candidate, Workshop
from ridgeline.workloads.model import Model
from ridgeline.workloads.parameters import parameters
from ridgeline.workloads.scaling.allocation import (
    FLOPS_PER_PARAM_TOKEN,
    AllocationLaw,
    LossLaw,
    Optimum,
)
from ridgeline.workloads.scaling.laws import load_law
from ridgeline.workloads.scaling.repetition import DataConstrained

_TOKEN_STEPS = 100
"""Halvings of a bisection over the logarithm of tokens."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Weighed:
    """A candidate and the loss that the chosen law gives it."""

    candidate: Candidate
    loss: float | None
    """None when the law only splits compute."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """What was chosen, and what else was simulated on the way."""

    best: Weighed
    weighed: tuple[Weighed, ...]
    """All shapes that were simulated, in order of size."""
    ruled_out: int
    """Shapes proven to be no better without a simulation."""


def choose(workshop: Workshop, law_name: str, cluster: Cluster | None = None) -> Choice:
    """Choose among all shapes on all clusters of a question, or on one of them.

    Under a law with a loss the answer is the shape of least loss, exactly: a shape is passed over
    only when the tokens that it would need for the best loss so far are out of its reach, at the
    accelerators' full peak or, by the bounds of the plan search, in any plan. Under a law that only
    splits compute it is the largest shape that is not above the law's size for the compute it gets.

    Raises
    ------
    InfeasibleError
        When no shape fits on any cluster within the money and the time.
    """
    law = load_law(law_name)
    clusters = workshop.question.clusters if cluster is None else (cluster,)
    if has_loss(law):
        return _least_loss(workshop, law, clusters)
    return _on_the_line(workshop, law, clusters)


def has_loss(law: AllocationLaw) -> TypeGuard[LossLaw]:
    """Whether a law says what loss a model reaches."""
    return hasattr(law, "loss")


def counted(law: AllocationLaw, model: Model) -> int:
    """Return the parameters of a model as a law counts them."""
    count = parameters(model)
    return count.total if law.bundle.embeddings else count.non_embedding


def loss_of(law: LossLaw, params: float, tokens: float, unique: float) -> float:
    """Return a law's loss, with repetition where data are limited and the law knows of it."""
    if isinstance(law, DataConstrained) and unique < inf:
        return law.loss(params, tokens, unique)
    return law.loss(params, tokens)


def optimal_of(law: AllocationLaw, flops: float, unique: float) -> Optimum:
    """Return a law's split of a budget, of limited data where the law knows of it."""
    if isinstance(law, DataConstrained) and unique < inf:
        return law.optimal(flops, unique)
    return law.optimal(flops)


def _least_loss(workshop: Workshop, law: LossLaw, clusters: tuple[Cluster, ...]) -> Choice:
    question = workshop.question
    unique = question.unique_tokens
    best: Weighed | None = None
    weighed: list[Weighed] = []
    ruled_out = 0
    for model, cluster in _by_promise(workshop, law, clusters):
        params = counted(law, model)
        wanted = 0.0
        if best is not None:
            assert best.loss is not None
            wanted = _tokens_for(law, params, best.loss, unique)
            if wanted >= workshop.ceiling_tokens(model, cluster):
                ruled_out += 1
                continue
        found = workshop.candidate(model, cluster, wanted)
        if found is None:
            ruled_out += 1
            continue
        one = Weighed(candidate=found, loss=loss_of(law, params, found.tokens, unique))
        weighed.append(one)
        if best is None or _rank(one) < _rank(best):
            best = one
    return _answer(workshop, best, weighed, ruled_out)


def _rank(one: Weighed) -> tuple[float, int]:
    assert one.loss is not None
    return one.loss, one.candidate.params


def _by_promise(
    workshop: Workshop, law: AllocationLaw, clusters: tuple[Cluster, ...]
) -> list[tuple[Model, Cluster]]:
    """Return all pairs, those nearest to the law's size at a usual utilisation first."""
    question = workshop.question

    def distance(pair: tuple[Model, Cluster]) -> float:
        model, cluster = pair
        params = counted(law, model)
        tokens = GUESSED_MFU * workshop.ceiling_tokens(model, cluster)
        if not tokens:
            return inf
        wanted = optimal_of(
            law, FLOPS_PER_PARAM_TOKEN * params * tokens, question.unique_tokens
        ).params
        return abs(log(params / wanted))

    pairs = [(model, cluster) for cluster in clusters for model in question.shapes]
    return sorted(pairs, key=distance)


def _tokens_for(law: LossLaw, params: float, loss: float, unique: float) -> float:
    """Return the fewest tokens that bring a size to a loss, infinite when none do."""
    low, high = 1.0, 1e20
    if loss_of(law, params, high, unique) > loss:
        return inf
    for _ in range(_TOKEN_STEPS):
        middle = (low * high) ** 0.5
        if loss_of(law, params, middle, unique) > loss:
            low = middle
        else:
            high = middle
    return low


def _on_the_line(workshop: Workshop, law: AllocationLaw, clusters: tuple[Cluster, ...]) -> Choice:
    """Take the largest shape that is not above the law's size, of each cluster, then of all."""
    question = workshop.question
    seen: list[Candidate] = []
    chosen: list[Candidate] = []
    for cluster in clusters:
        found, walked = _walk(workshop, law, cluster)
        seen += walked
        chosen += [found] if found is not None else []
    best = max(chosen, key=lambda one: one.flops, default=None)
    pairs = len(question.shapes) * len(clusters)
    return _answer(
        workshop,
        None if best is None else Weighed(candidate=best, loss=None),
        [Weighed(candidate=one, loss=None) for one in seen],
        pairs - len(seen),
    )


def _walk(
    workshop: Workshop, law: AllocationLaw, cluster: Cluster
) -> tuple[Candidate | None, list[Candidate]]:
    """Walk the ladder to the largest shape that is not above the law's size for its compute.

    Returns
    -------
    tuple
        That shape, None when even the smallest is above; and all that were simulated.
    """
    question = workshop.question
    nearest, _ = _by_promise(workshop, law, (cluster,))[0]
    place = question.shapes.index(nearest)
    seen: list[Candidate] = []
    last_good: Candidate | None = None
    upward: bool | None = None
    while 0 <= place < len(question.shapes):
        found = workshop.candidate(question.shapes[place], cluster)
        good = False
        if found is not None:
            seen.append(found)
            size = counted(law, found.model)
            flops = FLOPS_PER_PARAM_TOKEN * size * found.tokens
            good = size <= optimal_of(law, flops, question.unique_tokens).params
        if good:
            last_good = found
        if upward is None:
            upward = good
        elif good != upward:
            break
        place += 1 if upward else -1
    return last_good, seen


def _answer(
    workshop: Workshop, best: Weighed | None, weighed: list[Weighed], ruled_out: int
) -> Choice:
    if best is None:
        raise InfeasibleError(_why_nothing(workshop))
    return Choice(
        best=best,
        weighed=tuple(sorted(weighed, key=lambda one: one.candidate.params)),
        ruled_out=ruled_out,
    )


def _why_nothing(workshop: Workshop) -> str:
    """Name what binds when no shape can be trained: money for serving, time, or memory."""
    question = workshop.question
    smallest = question.shapes[0]
    if all(not workshop.seconds(smallest, cluster) for cluster in question.clusters):
        served = workshop.serving(smallest)
        assert served is not None
        return (
            f"serving alone costs ${served.usd:,.0f} with the smallest shape ({smallest.name}), "
            f"the budget is ${question.budget_usd:,.0f}: raise --budget or lower --serve-tokens"
        )
    return (
        f"no shape of the ladder ({smallest.name} to {question.shapes[-1].name}) fits and ends a "
        f"step in time: give more time, more money or other accelerators"
    )
