"""What a change outside the plan would do to the choice: prices, bandwidth, speed of kernels.

The plans compared are those that the search ranked highest, with the front and the rule of thumb;
each is priced anew under every change.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from ridgeline.hardware.cluster import Cluster
from ridgeline.simulator.search.evaluate import SAME, Evaluator, Kept
from ridgeline.simulator.search.objective import Figures
from ridgeline.simulator.search.results import Sensitivity
from ridgeline.simulator.search.space import plan_at

CHANGE = 0.1


def sensitivity(evaluator: Evaluator, pool: Kept, best: int) -> tuple[Sensitivity, ...]:
    """Return what each change of a tenth, up and down, would flip.

    Parameters
    ----------
    evaluator
        Of the question as it was asked.
    pool
        Plans to choose from.
    best
        Place in the space of the plan that was chosen.
    """
    return tuple(
        _after(evaluator, pool, best, change, figures)
        for change, figures in _changes(evaluator, pool)
    )


def _after(
    evaluator: Evaluator, pool: Kept, best: int, change: str, figures: Figures
) -> Sensitivity:
    within = evaluator.ledger.within(figures, SAME)
    value = np.where(within, figures.value, np.inf)
    old = int(np.flatnonzero(pool.order == best)[0])
    new = int(np.argmin(value))
    if not value[new] < value[old] * (1.0 - SAME):
        new = old
    return Sensitivity(
        change=change,
        flips=new != old,
        best=plan_at(evaluator.question.space, pool.candidates, new),
        value=float(figures.value[new]),
        loss=float(figures.value[old] / figures.value[new] - 1.0),
        keeps=bool(within[old]),
    )


def _changes(evaluator: Evaluator, pool: Kept) -> Iterator[tuple[str, Figures]]:
    """Yield what each change is called and the figures of the pool under it."""
    question, ledger = evaluator.question, evaluator.ledger
    figures = ledger.figures(pool.candidates, pool.step_s)
    per_usd = ledger.objective.weights[1]
    for name in sorted({cluster.accelerator.name for cluster in question.space.clusters}):
        of_kind = np.array([c.accelerator.name == name for c in question.space.clusters])
        for sign in (1, -1):
            factor = np.where(of_kind[pool.candidates.cluster], 1.0 + sign * CHANGE, 1.0)
            usd = figures.usd * factor
            value = figures.value + per_usd * (usd - figures.usd)
            yield f"price of {name} {_signed(sign)}", replace(figures, usd=usd, value=value)
    for what, scale in (
        ("network bandwidth", scaled_network),
        ("scale-up bandwidth", scaled_scale_up),
        ("MFU (speed of kernels)", scaled_kernels),
    ):
        for sign in (1, -1):
            clusters = tuple(scale(c, 1.0 + sign * CHANGE) for c in question.space.clusters)
            changed = replace(question, space=replace(question.space, clusters=clusters))
            step_s = Evaluator(changed).step_seconds(pool.candidates)
            yield f"{what} {_signed(sign)}", ledger.figures(pool.candidates, step_s)


def _signed(sign: int) -> str:
    return f"{'+' if sign > 0 else '-'}{100 * CHANGE:.0f}%"


def scaled_network(cluster: Cluster, factor: float) -> Cluster:
    """Scale the links between nodes, of a torus those between slices."""
    inner = 0 if cluster.torus is not None else 1
    tiers = [
        replace(tier, bytes_per_s=tier.bytes_per_s * factor) if level >= inner else tier
        for level, tier in enumerate(cluster.tiers)
    ]
    return replace(cluster, tiers=tuple(tiers))


def scaled_scale_up(cluster: Cluster, factor: float) -> Cluster:
    """Scale the links inside nodes, of a torus those of the torus."""
    if cluster.torus is not None:
        link = cluster.torus.link_bytes_per_s * factor
        return replace(cluster, torus=replace(cluster.torus, link_bytes_per_s=link))
    first, *rest = cluster.tiers
    return replace(cluster, tiers=(replace(first, bytes_per_s=first.bytes_per_s * factor), *rest))


def scaled_kernels(cluster: Cluster, factor: float) -> Cluster:
    """Scale compute and memory, which every kernel is priced from."""
    accelerator = cluster.accelerator
    peaks = {dtype: peak * factor for dtype, peak in accelerator.peak_flops.items()}
    faster = replace(
        accelerator,
        peak_flops=peaks,
        memory_bytes_per_s=accelerator.memory_bytes_per_s * factor,
    )
    return replace(cluster, accelerator=faster)
