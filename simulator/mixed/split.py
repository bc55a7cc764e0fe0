"""The best split of a batch, or of layers, over kinds of accelerators: exact, by trying them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import combinations, pairwise
from math import comb, inf

from ridgeline.errors import InfeasibleError, InputError
from ridgeline.simulator.mixed.plan import MixedPlan
from ridgeline.simulator.mixed.step import KindStep, MixedPrices

MOST_STEPS = 2048
"""Steps that are priced to find a split: some ten seconds."""

Seconds = Callable[[int, int], float]
"""(kind, share in units) -> seconds of its step; infinite where it does not fit."""


def best_shares(
    units: int, ranks: Sequence[int], seconds: Seconds
) -> tuple[float, tuple[int, ...]]:
    """Share ``units`` out so that the slowest kind is done first.

    min over n with sum_k ranks_k n_k = units, n_k >= 1, of max_k seconds(k, n_k), by dynamic
    programming over the kinds: nothing is assumed of ``seconds``. Of equally fast splits the one
    that gives the first kinds least.

    Returns
    -------
    tuple
        Seconds of the slowest and the units of a rank of each kind; infinite, and no units, where
        nothing fits.
    """
    known: dict[tuple[int, int], tuple[float, tuple[int, ...]]] = {}

    def from_kind(kind: int, left: int) -> tuple[float, tuple[int, ...]]:
        if kind == len(ranks):
            return (0.0, ()) if left == 0 else (inf, ())
        if (kind, left) not in known:
            best: tuple[float, tuple[int, ...]] = (inf, ())
            behind = sum(ranks[kind + 1 :])
            most = (left - behind) // ranks[kind]
            for share in range(1 if behind else max(1, most), most + 1):
                rest, others = from_kind(kind + 1, left - share * ranks[kind])
                if rest < best[0]:
                    slowest = max(seconds(kind, share), rest)
                    if slowest < best[0]:
                        best = (slowest, (share, *others))
            known[kind, left] = best
        return known[kind, left]

    return from_kind(0, units)


def choose_shares(mixed: MixedPlan, prices: MixedPrices) -> tuple[int, ...]:
    """Return the sequences of a rank of each kind that make the step shortest.

    Raises
    ------
    InputError
        There are too many to try, or none adds up to the batch.
    InfeasibleError
        None fits.
    """
    plan = mixed.plans[0]
    unit = prices.micro_batches if mixed.in_step else plan.training.micro_batch_seqs
    batch = plan.training.global_batch_seqs
    if batch % unit:
        raise InputError(
            f"training.global_batch_seqs = {batch}: not a multiple of micro_batch_seqs = {unit}"
        )
    units = batch // unit
    if sum(units // count for count in mixed.ranks) > MOST_STEPS:
        raise InputError(
            f"training.batch_shares: {units:,} micro-batches can be shared out in too many ways to "
            f"try; give the shares, or a larger micro_batch_seqs"
        )

    def seconds(kind: int, share: int) -> float:
        try:
            step = prices.kind_step(kind, share * unit)
        except InputError:  # no schedule of so many micro-batches
            return inf
        return step.seconds if step.fits else inf

    slowest, shares = best_shares(units, mixed.ranks, seconds)
    if not shares and slowest == inf:
        if not any(True for _ in _sums(units, mixed.ranks)):
            raise InputError(
                f"training.global_batch_seqs = {batch}: in parts of {unit} it does not add up over "
                f"{list(mixed.ranks)} ranks with one for each at least; "
                f"{sum(mixed.ranks) * unit} sequences do"
            )
        raise InfeasibleError(
            "training.batch_shares: no share of the batch fits into the memory of every kind; "
            "shard more (parallel.zero_stage), recompute, or take more accelerators"
        )
    return tuple(share * unit for share in shares)


def _sums(units: int, ranks: Sequence[int]) -> Iterator[None]:
    """Yield once for each way to share out ``units``."""
    if not ranks:
        if units == 0:
            yield None
        return
    for share in range(1, units // ranks[0] + 1):
        yield from _sums(units - share * ranks[0], ranks[1:])


def layer_splits(layers: int, stages: Sequence[int], chunks: int = 1) -> Iterator[tuple[int, ...]]:
    """Yield layers by virtual stage: every split where there are few, else even within a kind.

    Parameters
    ----------
    layers
        Of the model.
    stages
        Pipeline stages of each kind, in order.
    chunks
        Model chunks of a stage (vpp); virtual stage v lies on stage v mod the number of stages.
    """
    total = sum(stages)
    if chunks == 1 and comb(layers - 1, total - 1) <= MOST_STEPS:
        for cuts in combinations(range(1, layers), total - 1):
            edges = (0, *cuts, layers)
            yield tuple(high - low for low, high in pairwise(edges))
        return
    yield from _even_splits(layers, stages, chunks)


def _even_splits(layers: int, stages: Sequence[int], chunks: int) -> Iterator[tuple[int, ...]]:
    last = len(stages) - 1
    for cuts in combinations(range(1, layers), last):
        edges = (0, *cuts, layers)
        by_kind = [high - low for low, high in pairwise(edges)]
        if any(n < count * chunks for n, count in zip(by_kind, stages, strict=True)):
            continue
        rows: list[list[int]] = []
        for kind, (held, count) in enumerate(zip(by_kind, stages, strict=True)):
            small, extra = divmod(held, count * chunks)
            whole = [small] * (count * chunks - extra) + [small + 1] * extra
            # embedding and head make the ends of the pipeline heavier
            whole = whole[::-1] if kind == last else whole
            rows.append(whole)
        yield tuple(
            rows[kind][chunk * stages[kind] + stage]
            for chunk in range(chunks)
            for kind in range(len(stages))
            for stage in range(stages[kind])
        )


def choose_layers(mixed: MixedPlan, prices: MixedPrices) -> tuple[int, ...]:
    """Return the layers of each virtual stage that make the step shortest.

    Raises
    ------
    InputError
        There are too many splits to try.
    InfeasibleError
        None fits.
    """
    plan = mixed.plans[0]
    layers, chunks = plan.model.num_layers, plan.parallel.vpp
    if comb(layers - 1, len(mixed.ranks) - 1) > MOST_STEPS:
        raise InputError(
            f"training.uneven_stages: {layers} layers can be cut over {len(mixed.ranks)} kinds in "
            f"too many ways to try; give the layers of each stage"
        )
    best: tuple[float, tuple[int, ...]] = (inf, ())
    for split in layer_splits(layers, mixed.ranks, chunks):
        steps: tuple[KindStep, ...] = prices.pipeline_steps(split)
        if all(step.fits for step in steps) and steps[0].seconds < best[0]:
            best = (steps[0].seconds, split)
    if not best[1]:
        raise InfeasibleError(
            "training.uneven_stages: no cut of the layers fits into the memory of every kind; "
            "shard more (parallel.zero_stage), recompute, or take more accelerators"
        )
    return best[1]
